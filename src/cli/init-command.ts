// `bn-audit init`.

import { dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import type { Command } from 'commander';
import { audit } from '../audit.js';
import type { OpenOptions } from '../checkpoint/checkpoint.js';
import { matchPaths } from '../compare/globs.js';
import type { Region } from '../compare/regions.js';
import { quote, UsageError } from '../errors.js';
import { withCheckpoint } from '../formats/with-checkpoint.js';
import { isPlace, nameOf, toLastingName } from '../io/places.js';
import { writeFile } from '../io/write-files.js';
import { checkTarget } from '../io/write-target.js';
import { refuseWithoutLayers } from '../norm/missing-layers.js';
import { type GuardMode, MAX_GLOB_LENGTH, POLICY_FILE_NAME, pickOptions } from '../options.js';
import {
  type FrozenSuggestion,
  findPolicyFile,
  type ModuleCandidate,
  suggestFrozen,
  toGlob,
} from '../policy.js';
import { formatPlural } from '../report/format-numbers.js';
import { toJson } from '../report/json.js';
import { defuseCommands } from '../report/text-layout.js';
import { composeGuard, GUARD_FRAMEWORKS } from './guard-file.js';
import { createCommand } from './options.js';
import type { Terminal } from './terminal.js';
import { guardInputs } from './write-reports.js';

interface InitOptions extends OpenOptions {
  readonly guard?: string;
  readonly mode?: GuardMode;
  readonly output?: string;
  readonly force?: boolean;
}

/** Where an installed package keeps the schema, for editors, from where the command runs. */
const SCHEMA_PATH = 'node_modules/bn-audit/docs/bn-audit.config.schema.json';

/** `bn-audit init CHECKPOINT [AFTER]` writes a policy file to start from; `--guard FRAMEWORK` a guard for training. */
export function createInit(terminal: Terminal): Command {
  return createCommand('init')
    .description(
      'Write a policy file, with the parts of the model that it would keep frozen; or a guard, which checks them while the model trains.',
    )
    .argument('[checkpoint]', 'checkpoint from before the freeze')
    .argument('[after]', 'checkpoint from after it: what did not change is frozen, and the two become a pair')
    .addHelpText(
      'after',
      `
Examples:
  bn-audit init base.pt
  bn-audit init base.safetensors tuned.safetensors -o ci/bn-audit.config.json
  bn-audit init --guard lightning

There are guards for ${GUARD_FRAMEWORKS.join(', ')}.`,
    )
    .action(async (before: string | undefined, after: string | undefined, options: InitOptions) => {
      if (options.guard !== undefined) {
        if (before !== undefined || Object.keys(pickOptions('openCheckpoint', options)).length > 0)
          throw new UsageError('--guard reads no checkpoint: it writes the same file for any model');
        return writeGuard(options.guard, options, terminal);
      }
      if (options.mode !== undefined) throw new UsageError('--mode is for guards: give --guard as well');
      if (before === undefined)
        throw new UsageError(
          'expected a checkpoint, or --guard FRAMEWORK, found neither',
          'Run bn-audit init --help for its options.',
        );
      return writePolicy(
        { before, after },
        { ...options, output: options.output ?? POLICY_FILE_NAME },
        terminal,
      );
    });
}

async function writeGuard(framework: string, options: InitOptions, terminal: Terminal): Promise<void> {
  const { name, text } = composeGuard(framework, options.mode ?? 'raise');
  const output = options.output ?? name;
  const rules = { what: 'the guard', mayReplace: options.force === true };
  checkTarget(output, rules);
  await writeFile(output, [text], rules);
  terminal.writeError(
    defuseCommands(`bn-audit: wrote ${quote(output)}\n  How to use it stands in its first lines.`),
  );
}

type PolicyOptions = InitOptions & Required<Pick<InitOptions, 'output'>>;

async function writePolicy(targets: InitTargets, options: PolicyOptions, terminal: Terminal): Promise<void> {
  const { before, after } = targets;
  // Before anything is fetched.
  const pair = after === undefined ? null : { before: toLastingName(before), after: toLastingName(after) };
  const guard = guardInputs([options.output], after === undefined ? [before] : [before, after]);
  const rules = { what: 'the policy', mayReplace: options.force === true };
  checkTarget(options.output, rules);
  const opening = { ...pickOptions('openCheckpoint', options), onOpenFile: guard.onOpenFile };
  const found = await findParts(targets, opening);
  guard.refuseHarm();
  await writeFile(options.output, [toJson(makePolicy(pair, found, options))], rules);
  terminal.writeError(defuseCommands(describeInit(targets, found, options).join('\n')));
}

interface InitTargets {
  readonly before: string;
  readonly after: string | undefined;
}

/** From one checkpoint the names tell what is likely to be frozen; from two, the values do. */
async function findParts({ before, after }: InitTargets, options: OpenOptions): Promise<FrozenSuggestion> {
  if (after === undefined)
    return withCheckpoint(before, options, async (checkpoint) => {
      const suggestion = suggestFrozen(checkpoint);
      if (![...suggestion.frozen, ...suggestion.others].some(({ layers }) => layers > 0))
        refuseWithoutLayers(checkpoint, 'none: nothing to audit');
      return suggestion;
    });
  const { regions } = await audit(before, after, options);
  const list = (wanted: Region['status']) =>
    regions
      .filter(({ status }) => status === wanted)
      .map(({ path, layers, learned }) => ({ path, layers, learned: learned.tensors }));
  return { frozen: list('frozen'), others: list('trained') };
}

function makePolicy(
  pair: { readonly before: string; readonly after: string } | null,
  { frozen }: FrozenSuggestion,
  { output, remote }: PolicyOptions,
): object {
  const directory = dirname(resolve(output));
  const toPath = (path: string) =>
    isPlace(path) || isAbsolute(path) ? path : relative(directory, resolve(path)).replaceAll(sep, '/');
  const schema = toPath(SCHEMA_PATH);
  return {
    $schema: schema.startsWith('.') ? schema : `./${schema}`,
    frozen: frozen.map(({ path }) => path).flatMap(listGlob),
    allow: [],
    failOn: 'error',
    minShift: 0,
    ...(remote === true ? { remote } : {}),
    ...(pair === null ? {} : { pairs: { main: { before: toPath(pair.before), after: toPath(pair.after) } } }),
  };
}

/** A name that no glob can say is left out, rather than written so that it means something else. */
function listGlob(path: string): readonly string[] {
  const glob = toGlob(path);
  return glob.length <= MAX_GLOB_LENGTH && matchPaths([glob])(path) ? [glob] : [];
}

/** So many parts are listed; a model of numbered blocks may have hundreds. */
const MAX_LISTED = 12;

function describeInit(
  { before, after }: InitTargets,
  { frozen, others }: FrozenSuggestion,
  { output }: PolicyOptions,
): readonly string[] {
  const list = (word: string, parts: readonly ModuleCandidate[]) => [
    ...parts.slice(0, MAX_LISTED).map((part) => `  ${word}  ${describePart(part)}`),
    ...(parts.length > MAX_LISTED ? [`  ${word}  … and ${parts.length - MAX_LISTED} more`] : []),
  ];
  return [
    `bn-audit: wrote ${quote(output)}`,
    ...list('frozen', frozen),
    ...list('not   ', others),
    ...(after === undefined
      ? ['  "frozen" was guessed from the names: keep what you freeze, and take out the rest.']
      : []),
    `  Then: bn-audit diff ${after === undefined ? `${quote(nameOf(before))} AFTER` : '--pair main'}${nameConfig(output)}`,
  ];
}

/** What `diff` has to be told of a policy that it does not find by itself. */
function nameConfig(output: string): string {
  return findPolicyFile(process.cwd()) === resolve(output) ? '' : ` --config ${quote(output)}`;
}

function describePart({ path, layers, learned }: ModuleCandidate): string {
  const name = path === '' ? 'the whole model' : quote(path);
  return `${name} (${formatPlural(layers, 'norm layer')}, ${formatPlural(learned, 'learned tensor')})`;
}
