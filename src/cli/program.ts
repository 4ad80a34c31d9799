// The command line: its commands, its help, and how it complains.

import { Command } from 'commander';
import { escapeControls, VERSION } from '../errors.js';
import { findNearest, OTHER_OPTIONS } from '../options.js';
import { defuseCommands } from '../report/text-layout.js';
import { createDiff } from './diff-command.js';
import { DOCS_HELP, EXIT_CODE_HELP } from './options.js';
import type { Terminal } from './terminal.js';

/** The commands in the order of the help. All but the main job are loaded when they are needed: a run needs one. */
const COMMANDS: ReadonlyMap<string, () => Promise<(terminal: Terminal) => Command>> = new Map([
  ['diff', async () => createDiff],
  ['trace', async () => (await import('./trace-command.js')).createTrace],
  ['watch', async () => (await import('./watch-command.js')).createWatch],
  ['inspect', async () => (await import('./inspect-command.js')).createInspect],
  ['init', async () => (await import('./init-command.js')).createInit],
  ['baseline', async () => (await import('./baseline-command.js')).createBaselineCommand],
  ['restore', async () => (await import('./restore-command.js')).createRestore],
  ['probe', async () => (await import('./probe-command.js')).createProbe],
  ['explain', async () => (await import('./explain-command.js')).createExplain],
  ['completion', async () => (await import('./completion-command.js')).createCompletion],
]);

/** Columns of what options mean, under which lines are not broken. */
const MIN_HELP_WIDTH = 20;

/**
 * The command line, with the command that comes first; with all of them where that is none, or is about all.
 *
 * @throws CommanderError for help, version and usage errors, after commander has printed them.
 */
export async function createProgram(args: readonly string[], terminal: Terminal): Promise<Command> {
  const program = new Command('bn-audit')
    .description('Finds frozen backbones whose BatchNorm running statistics drifted.')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .option('--debug', 'print stack traces of errors')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void terminal.write(text),
      writeErr: (text) => terminal.writeError(text.trimEnd()),
      outputError: (message, write) => write(defuseCommands(toOneLine(message))),
      getOutHelpWidth: () => terminal.readLooks().width,
    })
    .configureHelp({ minWidthToWrap: MIN_HELP_WIDTH })
    .helpCommand(false)
    .showHelpAfterError('  Run bn-audit --help for the commands and their options.')
    .addHelpText(
      'after',
      `
Examples:
  bn-audit diff before.safetensors after.safetensors
  bn-audit diff before.pt exported.onnx --frozen backbone
  bn-audit watch before.pt runs/
  bn-audit inspect model.onnx
  bn-audit init model.pt
  bn-audit explain frozen-stats-drift
${EXIT_CODE_HELP}
${DOCS_HELP}`,
    );
  program.hook('preAction', (_, command) => terminal.chooseColor(command.opts()['color'] ?? 'auto'));
  const [first = ''] = args;
  const named = first === 'completion' ? undefined : COMMANDS.get(first);
  const commands = named === undefined ? [...COMMANDS.values()] : [named];
  for (const load of commands) program.addCommand((await load())(terminal));
  if (named === undefined) program.addCommand(createHelp(program));
  for (const command of program.commands)
    command
      .addHelpText('after', DOCS_HELP)
      .copyInheritedSettings(program)
      .addHelpOption(program.createOption('-h, --help', 'print this help').helpGroup(`${OTHER_OPTIONS}:`))
      .showHelpAfterError(`  Run bn-audit ${command.name()} --help for its options.`)
      .exitOverride();
  return program;
}

/** `bn-audit help COMMAND`; commander's own shows the help of all, and no word of a command that there is not. */
function createHelp(program: Command): Command {
  return new Command('help')
    .description('Print the help of a command.')
    .argument('[command]')
    .action((name: string | undefined) => {
      if (name === undefined) program.help();
      program.commands.find((command) => command.name() === name)?.help();
      program.parse([name], { from: 'user' });
    });
}

/**
 * A complaint of commander's holds arguments as they were given, and its suggestion in a line of its own. Where something
 * else than one of several words was given, it has none.
 */
function toOneLine(message: string): string {
  const [, complaint = message, suggestion] =
    /^error: (.*?)(?:\n(\(Did you mean [^\n]*\)))?\n$/s.exec(message) ?? [];
  const [, given = '', choices = ''] =
    / '([^']*)' is invalid.* Allowed choices are ([^']*)\.$/s.exec(complaint) ?? [];
  const nearest =
    given === '' || given.length > MAX_WORD_LENGTH ? null : findNearest(given, choices.split(', '));
  const meant = suggestion ?? (nearest === null ? null : `(Did you mean ${nearest}?)`);
  return `bn-audit: ${escapeControls(complaint)}${meant === null ? '' : ` ${meant}`}`;
}

/** No choice is nearly as long. */
const MAX_WORD_LENGTH = 80;
