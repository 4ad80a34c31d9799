// What can be typed after each command: its options and arguments, as commander has them, and what their values are.

import type { Command, Option } from 'commander';
import { CHECKPOINT_ENDINGS } from '../formats/open.js';
import { REPORT_FORMATS } from '../report/formats.js';
import { GUARD_FRAMEWORKS } from './guard-file.js';
import { listTopics } from './topics.js';

/**
 * What a value may be: one of some words, or one of them with the name of a file behind it; the name of a directory or of
 * a file with one of some endings; or that of any file.
 */
export interface Values {
  readonly kind: 'words' | 'heads' | 'checkpoints' | 'files';
  /** The words or the endings. */
  readonly words: readonly string[];
}

/** An option or argument that takes a value; null where no shell can know what it is. */
interface Valued {
  readonly name: string;
  readonly values: Values | null;
}

/** An option as it is typed. */
export interface OptionWords {
  /** `-f`. */
  readonly short: string | undefined;
  /** `--format`. */
  readonly long: string;
  readonly help: string;
  /** Null where it takes none. */
  readonly value: Valued | null;
  readonly isRepeatable: boolean;
}

/** A command as it is typed. */
export interface CommandWords {
  readonly name: string;
  readonly help: string;
  readonly options: readonly OptionWords[];
  /** All of its arguments; null where it takes none. */
  readonly argument: Valued | null;
}

/** What can be typed after the program's name, and after that of each command. */
export interface ProgramWords {
  readonly program: CommandWords;
  readonly commands: readonly CommandWords[];
}

const FILES: Values = { kind: 'files', words: [] };
const CHECKPOINTS: Values = { kind: 'checkpoints', words: CHECKPOINT_ENDINGS };

function toList(words: readonly string[]): Values {
  return { kind: 'words', words };
}

/** Values by what the help calls them. */
const VALUES: ReadonlyMap<string, () => Values> = new Map([
  ...['before', 'after', 'checkpoint'].map((name) => [name, () => CHECKPOINTS] as const),
  ...['file', 'fixed'].map((name) => [name, () => FILES] as const),
  ['format=file', () => ({ kind: 'heads', words: REPORT_FORMATS.map((format) => `${format}=`) })],
  ['framework', () => toList(GUARD_FRAMEWORKS)],
  // A shell would take those of several words apart.
  [
    'topic',
    () => toList(listTopics().flatMap(({ names }) => names.filter((name) => /^[\w/-]+$/.test(name)))),
  ],
]);

/** Lists the words of a program that has all of its commands. */
export function listCommandWords(program: Command): ProgramWords {
  const names = toList(program.commands.map((command) => command.name()));
  const describe = (command: Command, argument: Valued | null): CommandWords => ({
    name: command.name(),
    help: command.description(),
    options: command.createHelp().visibleOptions(command).map(describeOption),
    argument,
  });
  return {
    program: describe(program, { name: 'command', values: names }),
    commands: program.commands.map((command) => {
      const [first] = command.registeredArguments;
      if (first === undefined) return describe(command, null);
      const values = command.name() === 'help' ? names : findValues(first.name(), first.argChoices);
      return describe(command, { name: first.name(), values });
    }),
  };
}

function describeOption({ flags, short, long, description, argChoices }: Option): OptionWords {
  const [, name] = /<(.*)>$/.exec(flags) ?? [];
  return {
    short,
    long: long ?? '',
    help: description,
    value: name === undefined ? null : { name, values: findValues(name, argChoices) },
    isRepeatable: description.endsWith('(repeatable)'),
  };
}

function findValues(name: string, choices: readonly string[] | undefined): Values | null {
  return choices === undefined ? (VALUES.get(name)?.() ?? null) : toList(choices);
}
