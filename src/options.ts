// The table of options: what each must be, what help says of it, and who takes it.

import { quote, UsageError } from './errors.js';

/** The name under which a policy file is found. */
export const POLICY_FILE_NAME = 'bn-audit.config.json';

/** When output is coloured: on a terminal that shows colours, or as the word says. */
export const COLOR_CHOICES = ['auto', 'always', 'never'] as const;

/** When output is coloured. */
export type ColorChoice = (typeof COLOR_CHOICES)[number];

/** The lowest level of finding that fails a run. */
export const FAIL_ON_LEVELS = ['error', 'warning'] as const;

/** The lowest level of finding that fails a run. */
export type FailOn = (typeof FAIL_ON_LEVELS)[number];

/** What a guard does about drift: it ends the training, or prints a warning. */
export const GUARD_MODES = ['raise', 'warn'] as const;

/** What a guard does about drift. */
export type GuardMode = (typeof GUARD_MODES)[number];

/** Several times the longest module path of real models; a glob over files may begin with a longer directory. */
export const MAX_GLOB_LENGTH = 1_024;

/** So many samples run for days on any machine; a mistyped number must not. */
const MAX_SAMPLES = 1_000_000;

/** In seconds: looking at a directory more often would do nothing else, and less often than once a day was not meant. */
export const MIN_INTERVAL = 0.01;
export const MAX_INTERVAL = 86_400;

/** What a value must be, in words, and whether it is. */
interface Kind {
  readonly expected: string;
  readonly isMet: (value: unknown) => boolean;
}

/** The kinds of values; the command line has a parser for each, and the policy file a reader for those that it may hold. */
const KINDS = {
  flag: { expected: 'true or false', isMet: (value) => typeof value === 'boolean' },
  text: { expected: 'a string', isMet: isText },
  texts: { expected: 'a list of strings', isMet: (value) => isListOf(value, isText) },
  file: { expected: 'the name of a file', isMet: isText },
  files: { expected: 'a list of {format, file}', isMet: Array.isArray },
  format: { expected: 'a string', isMet: isText },
  level: {
    expected: '"error" or "warning"',
    isMet: (value) => FAIL_ON_LEVELS.some((level) => level === value),
  },
  mode: { expected: '"raise" or "warn"', isMet: (value) => GUARD_MODES.some((mode) => mode === value) },
  when: {
    expected: '"auto", "always" or "never"',
    isMet: (value) => COLOR_CHOICES.some((choice) => choice === value),
  },
  globs: {
    expected: `a list of globs, each of 1 to ${MAX_GLOB_LENGTH} characters`,
    isMet: (value) =>
      isListOf(value, (item) => isText(item) && item !== '' && item.length <= MAX_GLOB_LENGTH),
  },
  map: {
    expected: 'a list of {from, to}',
    isMet: (value) => isListOf(value, (item) => isObject(item) && isText(item['from']) && isText(item['to'])),
  },
  shapes: {
    expected: 'a list of {name, dims}, with dims of 1 or more',
    isMet: (value) => isListOf(value, isInputShape),
  },
  number: {
    expected: 'a number, zero or larger',
    isMet: (value) => typeof value === 'number' && Number.isFinite(value) && value >= 0,
  },
  samples: {
    expected: `a whole number from 1 to ${MAX_SAMPLES}`,
    isMet: (value) => isWholeFrom(1, value) && value <= MAX_SAMPLES,
  },
  interval: {
    expected: `a number of seconds from ${MIN_INTERVAL} to ${MAX_INTERVAL}`,
    isMet: (value) => typeof value === 'number' && value >= MIN_INTERVAL && value <= MAX_INTERVAL,
  },
  whole: { expected: 'a whole number, 0 or larger', isMet: (value) => isWholeFrom(0, value) },
  columns: { expected: 'a whole number, 1 or larger', isMet: (value) => isWholeFrom(1, value) },
  function: { expected: 'a function', isMet: (value) => typeof value === 'function' },
} satisfies Record<string, Kind>;

function isText(value: unknown): value is string {
  return typeof value === 'string';
}

function isWholeFrom(least: number, value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= least;
}

function isListOf(value: unknown, isItem: (item: unknown) => boolean): boolean {
  return Array.isArray(value) && value.every(isItem);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

function isInputShape(value: unknown): boolean {
  return (
    isObject(value) &&
    (value['name'] === null || isText(value['name'])) &&
    isListOf(value['dims'], (size) => isWholeFrom(1, size))
  );
}

/** What an option must be. */
export type OptionKind = keyof typeof KINDS;

/** A command of the command line. */
export type CommandName =
  | 'diff'
  | 'trace'
  | 'watch'
  | 'inspect'
  | 'init'
  | 'baseline'
  | 'restore'
  | 'probe'
  | 'explain'
  | 'completion';

/** An option of the library, of commands, of the policy file, or of several of them. */
interface OptionRow {
  readonly is: OptionKind;
  /** As commands take it: `-o, --output <file>`. */
  readonly flags?: string;
  /** Its sentence in `--help`. */
  readonly help?: string;
  readonly initial?: string;
  readonly isRequired?: boolean;
  /** Which group it stands under in help, where several have it. */
  readonly group?: string;
  /** What is different in some commands. */
  readonly in?: Partial<Record<CommandName, Partial<OptionRow>>>;
  /** Its sentence in the schema of the policy file. */
  readonly policy?: string;
  readonly examples?: readonly unknown[];
}

/** The group of what makes the file that a command is for. */
const WRITTEN = 'What is written';

/** Every option, under its name in the library and among what commander has parsed. */
const OPTIONS = {
  select: {
    is: 'text',
    flags: '--select <path>',
    help: 'the part of a checkpoint of several to read, such as state_dict',
    in: { restore: { help: 'the part of a checkpoint of several, such as state_dict' } },
  },
  allowExternalSymlinks: {
    is: 'flag',
    flags: '--allow-external-symlinks',
    help: "follow symbolic links out of a checkpoint's directory",
  },
  remote: {
    is: 'flag',
    flags: '--remote',
    help: 'fetch what is in no cache of hf:OWNER/NAME and https:// from the network',
    policy:
      'Whether checkpoints that are in no cache may be fetched from the network: hf:OWNER/NAME and https://.',
  },
  onOpenFile: { is: 'function' },
  frozen: {
    is: 'globs',
    flags: '--frozen <glob>',
    help: 'modules that must be frozen, statistics and weights; auto: what the file declares (repeatable)',
    policy:
      'What must be frozen, statistics and weights: globs over module paths with "." as the separator. A module means everything below it. "auto" is what the file from after declares frozen itself.',
    examples: [['backbone', 'neck.**.bn'], ['auto']],
  },
  allow: {
    is: 'globs',
    flags: '--allow <glob>',
    help: 'accept drift in these layers; it is shown as allowed (repeatable)',
    policy: 'Layers whose drift is accepted, and shown as allowed: globs over module paths.',
    examples: [['backbone.layer4.**']],
  },
  failOn: {
    is: 'level',
    flags: '--fail-on <level>',
    help: 'the lowest level of finding that exits with 1; error unless given',
    policy: 'The lowest level of finding that exits with 1. "error" unless given.',
  },
  minShift: {
    is: 'number',
    flags: '--min-shift <x>',
    help: 'ignore drift whose output shift is under x',
    policy: 'Ignore drift whose output shift is under this.',
  },
  exact: {
    is: 'flag',
    flags: '--exact',
    help: 'count every difference as a change, also what averaging and rounding leave',
    policy: 'Count every difference as a change, also what averaging and rounding leave.',
  },
  epsilon: {
    is: 'number',
    flags: '--epsilon <e>',
    help: "epsilon of every norm layer, instead of the file's, else the framework's default",
    in: { probe: { help: 'epsilon of every norm layer, where neither file tells' } },
    policy: "Epsilon of every norm layer, instead of the graph's or the framework's default.",
  },
  map: {
    is: 'map',
    flags: '--map <from=to>',
    help: "names of before that start with FROM start with TO in after, or globs: '**.bn*=**.norm*' (repeatable)",
    policy:
      'Names of before that start with the key start with the value in after. Both may be globs of the same wildcards.',
    examples: [{ encoder: 'model.backbone' }, { '**.bn*': '**.norm*' }],
  },
  strict: {
    is: 'flag',
    flags: '--strict',
    help: 'fail where a checkpoint is given twice or cannot be audited, instead of leaving it out',
  },
  channels: { is: 'flag', flags: '--channels', help: 'add the statistics of every channel to the JSON' },
  layers: {
    is: 'globs',
    flags: '--layer <glob>',
    help: 'restore these layers instead of those that drifted (repeatable)',
    group: WRITTEN,
    in: {
      probe: {
        help: 'put these layers back, instead of those that drifted or hold NaN (repeatable)',
        group: 'What runs',
      },
    },
  },
  keepBatches: {
    is: 'flag',
    flags: '--keep-batches',
    help: 'leave the batch counts (num_batches_tracked) of after',
  },
  dataName: {
    is: 'text',
    flags: '--data-name <name>',
    help: 'file name of the external data of the restored ONNX model',
  },
  force: {
    is: 'flag',
    flags: '--force',
    help: 'replace the file if there is one',
    in: { restore: { help: 'replace files that exist' } },
  },
  guard: {
    is: 'text',
    flags: '--guard <framework>',
    help: 'write a Python file that checks, while the model trains, that its frozen norm layers stand still',
  },
  mode: {
    is: 'mode',
    flags: '--mode <mode>',
    help: 'what the guard does where they move: raise an error, which it does unless told otherwise, or warn',
  },
  dryRun: {
    is: 'flag',
    flags: '--dry-run',
    help: 'say what would change, layer by layer, and write nothing',
  },
  inputs: {
    is: 'texts',
    flags: '-i, --input <file>',
    help: 'input arrays: .npz by their names, .npy by NAME=FILE or in order (repeatable)',
  },
  samples: {
    is: 'samples',
    flags: '--samples <n>',
    help: 'without --input, how many random samples to draw (8)',
  },
  seed: { is: 'whole', flags: '--seed <n>', help: 'the seed that random samples follow from (0)' },
  shapes: {
    is: 'shapes',
    flags: '--shape <name=dims>',
    help: 'shape of a random input, such as NAME=1,3,224,224, for dimensions that the model leaves open (repeatable)',
  },
  batch: {
    is: 'samples',
    flags: '--batch <n>',
    help: 'samples that run at once, where the model leaves it open (4)',
  },
  ablations: {
    is: 'whole',
    flags: '--layers <n>',
    help: 'put only so many layers back alone, those with the largest shift',
  },
  noAblation: { is: 'flag', flags: '--no-ablation', help: 'put no layer back alone: much quicker' },
  importRuntime: { is: 'function' },
  onProgress: { is: 'function' },
  format: {
    is: 'format',
    flags: '-f, --format <format>',
    help: 'how to print the report',
    initial: 'text',
    in: {
      restore: { help: 'how to print what was done' },
      watch: { help: 'how to print what landed: a line of text, or an object of JSON' },
    },
  },
  width: { is: 'columns' },
  wholeNames: { is: 'flag' },
  paint: { is: 'function' },
  all: {
    is: 'flag',
    flags: '--all',
    help: 'show every layer, not the worst alone',
    in: { restore: { help: 'show every layer' }, probe: { help: 'show every layer and note' } },
  },
  layer: { is: 'text', flags: '--layer <name>', help: 'show one layer, channel by channel' },
  root: { is: 'text' },
  output: {
    is: 'file',
    flags: '-o, --output <file>',
    help: 'write the report to a file instead of standard output',
    group: 'What is printed',
    in: {
      restore: { flags: '-o, --output <fixed>', help: 'the checkpoint to write', group: WRITTEN },
      init: { help: `where to write it (${POLICY_FILE_NAME}, bn_guard.py)`, group: WRITTEN },
      baseline: { help: 'where to write the baseline', isRequired: true, group: WRITTEN },
    },
  },
  report: {
    is: 'files',
    flags: '--report <format=file>',
    help: 'write another report to a file, any number at once (repeatable)',
  },
  config: {
    is: 'text',
    flags: '--config <file>',
    help: 'the policy file, instead of bn-audit.config.json here or above',
  },
  noConfig: { is: 'flag', flags: '--no-config', help: 'use no policy file' },
  pair: {
    is: 'texts',
    flags: '--pair <name>',
    help: 'audit a pair of checkpoints that the policy file names (repeatable)',
  },
  run: { is: 'text', flags: '--run <name>', help: 'trace a run that the policy file names' },
  allPairs: { is: 'flag', flags: '--all-pairs', help: 'audit every pair that the policy file names' },
  match: {
    is: 'globs',
    flags: '--match <glob>',
    help: 'the files or directories that are checkpoints, below the directory (repeatable)',
  },
  interval: {
    is: 'interval',
    flags: '--interval <seconds>',
    help: 'how long to wait before looking again, and how long a file must stand still (5)',
  },
  timeout: { is: 'number', flags: '--timeout <seconds>', help: 'end after so long' },
  idle: {
    is: 'number',
    flags: '--idle <seconds>',
    help: 'end when nothing has landed or changed for so long',
  },
  exec: {
    is: 'text',
    flags: '--exec <command>',
    help: 'run this at drift, before the end: a line of sh, in which {} is the checkpoint',
  },
  keepGoing: {
    is: 'flag',
    flags: '--keep-going',
    help: 'go on after drift; the exit code tells of it in the end',
  },
  noCi: {
    is: 'flag',
    flags: '--no-ci',
    help: 'no annotations and no job summary when GITHUB_ACTIONS is "true"',
  },
  quiet: {
    is: 'flag',
    flags: '-q, --quiet',
    help: 'print no report and no annotations; the exit code tells',
    in: {
      restore: { help: 'print nothing; the exit code tells' },
      baseline: { help: 'print nothing; the exit code tells' },
    },
  },
  color: {
    is: 'when',
    flags: '--color <when>',
    help: 'colours in the text; auto unless given, which is on a terminal',
  },
  debug: { is: 'flag', flags: '--debug', help: 'print stack traces of errors' },
} satisfies Record<string, OptionRow>;

type OptionName = keyof typeof OPTIONS;

const READING = ['select', 'allowExternalSymlinks', 'remote'] as const;
const OPENING = [...READING, 'onOpenFile'] as const;
const JUDGING = ['frozen', 'allow', 'minShift', 'exact'] as const;
const WRITING = ['keepBatches', 'dataName', 'force', 'dryRun'] as const;
const SAMPLING = ['inputs', 'samples', 'seed', 'shapes', 'batch'] as const;
const RENDERING = ['format', 'width', 'wholeNames', 'paint', 'all'] as const;

/** What the functions of the library take, and a policy file holds, in the order in which messages list it. */
const TAKEN = {
  openCheckpoint: OPENING,
  audit: [...OPENING, ...JUDGING, 'epsilon', 'map', 'channels', 'onProgress'],
  trace: [...OPENING, ...JUDGING, 'epsilon', 'map', 'strict', 'onProgress'],
  inspect: [...OPENING, 'epsilon', 'channels'],
  createBaseline: ['onProgress'],
  restore: [...OPENING, 'epsilon', 'map', 'layers', ...WRITING, 'onProgress'],
  probe: [...OPENING, 'epsilon', 'map', 'layers', ...SAMPLING, 'ablations', 'importRuntime', 'onProgress'],
  render: [...RENDERING, 'layer', 'root'],
  renderProbe: RENDERING,
  policy: ['frozen', 'allow', 'failOn', 'minShift', 'epsilon', 'exact', 'map', 'remote'],
} as const satisfies Record<string, readonly OptionName[]>;

/** What takes options under their names: a function of the library, or a policy file. */
export type OptionTaker = keyof typeof TAKEN;

const MATCHING = ['map', 'epsilon', ...READING] as const;
const POLICY = ['config', 'noConfig'] as const;
const WATCHING = ['interval', 'idle', 'timeout', 'exec', 'keepGoing'] as const;
const RUNNING = [...SAMPLING, 'layers', 'ablations', 'noAblation'] as const;
const TELLING = ['format', 'noCi', 'quiet', 'color', 'debug'] as const;
const REPORTING = [...TELLING, 'output', 'report', 'all', 'failOn', 'epsilon', ...READING] as const;

/** What the commands take; {@link GROUPS} has the order in which help shows it. */
const COMMANDS: Readonly<Record<CommandName, readonly OptionName[]>> = {
  diff: [...REPORTING, ...JUDGING, ...POLICY, 'map', 'channels', 'layer', 'pair', 'allPairs'],
  trace: [...REPORTING, ...JUDGING, ...POLICY, 'map', 'strict', 'run'],
  watch: [...TELLING, ...JUDGING, ...POLICY, ...WATCHING, ...MATCHING, 'match', 'failOn'],
  inspect: [...REPORTING, 'channels'],
  init: ['guard', 'mode', 'output', 'force', ...READING, 'debug'],
  baseline: ['output', 'force', ...READING, 'quiet', 'debug'],
  restore: ['output', 'layers', ...WRITING, ...MATCHING, 'format', 'all', 'quiet', 'color', 'debug'],
  probe: [...RUNNING, ...MATCHING, 'format', 'output', 'all', 'color', 'debug'],
  explain: ['color', 'debug'],
  completion: ['debug'],
};

/** The group of options that are about nothing in particular. */
export const OTHER_OPTIONS = 'Besides';

/** What options are about, as the help groups them; the others come last. */
const GROUPS: ReadonlyMap<string, readonly string[]> = new Map<string, readonly OptionName[]>([
  ['What is compared', [...MATCHING, 'match', ...POLICY, 'pair', 'allPairs', 'run']],
  ['What counts', [...JUDGING, 'failOn', 'strict']],
  ['How it watches', WATCHING],
  ['What runs', RUNNING],
  [WRITTEN, ['output', 'layers', ...WRITING, 'guard', 'mode']],
  ['What is printed', ['format', 'output', 'report', 'all', 'layer', 'channels', 'quiet', 'color', 'noCi']],
]);

/** A command's option: its row, its name, and the group that it stands under in help. */
type CommandOption = OptionRow & { readonly name: string; readonly group: string };

/** The options of a command, each with its name, in the order of the help. */
export function listCommandOptions(command: CommandName): readonly CommandOption[] {
  const order = [...GROUPS].flatMap(([group, names]) => names.map((name) => ({ group, name })));
  const ranks = new Map(order.map(({ group, name }, index) => [`${group} ${name}`, index]));
  const rank = ({ group, name }: CommandOption) => ranks.get(`${group} ${name}`) ?? order.length;
  return COMMANDS[command]
    .map((name) => {
      const row: OptionRow = OPTIONS[name];
      const group = order.find((one) => one.name === name)?.group ?? OTHER_OPTIONS;
      return { name, group, ...row, ...row.in?.[command] };
    })
    .sort((x, y) => rank(x) - rank(y));
}

/** What a policy file may say about an audit. */
export const POLICY_RULES = TAKEN.policy.map((name) => {
  const row: OptionRow = OPTIONS[name];
  return { name, ...row, ...KINDS[row.is] };
});

/** Those of some options that are given and that the taker takes. */
export function pickOptions<Options extends object>(taker: OptionTaker, options: Options): Partial<Options> {
  const names: readonly string[] = TAKEN[taker];
  const picked = Object.entries(options).filter(
    ([name, value]) => names.includes(name) && value !== undefined,
  );
  // Each is one of those given.
  return Object.fromEntries(picked) as Partial<Options>;
}

/**
 * Checks options that come from callers whom no compiler has checked: a wrong one would turn up as numbers that are none,
 * and one whose name is misspelt would be ignored, as if nothing had been asked for. What is undefined is not given.
 *
 * @throws UsageError that names the option, what was expected and what was found.
 */
export function checkOptions(taker: OptionTaker, options: object): void {
  if (!isObject(options)) fail('options', 'an object', options);
  const taken: readonly OptionName[] = TAKEN[taker];
  for (const [given, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const name = taken.find((one) => one === given);
    if (name === undefined)
      throw new UsageError(
        `${quote(given)}: no such option${suggestName(given, taken)}`,
        `Options of ${taker}: ${taken.join(', ')}`,
      );
    const { expected, isMet } = KINDS[OPTIONS[name].is];
    if (!isMet(value)) fail(name, expected, value);
  }
}

/** Longer values are shortened in messages: a line stays a line. */
const MAX_SHOWN_LENGTH = 80;

function fail(name: string, expected: string, value: unknown): never {
  const found = show(value);
  const shown = found.length > MAX_SHOWN_LENGTH ? `${found.slice(0, MAX_SHOWN_LENGTH)}…` : found;
  throw new UsageError(`${name}: expected ${expected}, found ${shown}`);
}

/** JSON where it says what the value is: it has no word for NaN. */
function show(value: unknown): string {
  if (typeof value !== 'object' && typeof value !== 'string') return String(value);
  try {
    return JSON.stringify(value);
  } catch {
    return 'an object';
  }
}

/** More changes than this make another word. */
const MAX_CHANGES = 3;

/** `; did you mean "…"?` with the known name that is nearest to the one given; empty where none is near. */
export function suggestName(name: string, known: readonly string[]): string {
  if (name.length > 80) return '';
  const nearest = findNearest(name, known);
  return nearest === null ? '' : `; did you mean "${nearest}"?`;
}

/** The known name that is nearest to one that is not known, by spelling, else by the words in it; null where none is near. */
export function findNearest(name: string, known: readonly string[]): string | null {
  const given = fold(name);
  const words = name.toLowerCase().match(/[a-z\d]{3,}/g) ?? [];
  let best: { readonly candidate: string; readonly changes: number } | null = null;
  for (const candidate of known) {
    const hasWords = words.length > 1 && words.every((word) => candidate.toLowerCase().includes(word));
    const most = hasWords ? candidate.length : Math.min(MAX_CHANGES, candidate.length / 2);
    if (Math.abs(fold(candidate).length - given.length) > most) continue;
    const changes = countChanges(given, fold(candidate));
    if (changes <= most && (best === null || changes < best.changes)) best = { candidate, changes };
  }
  return best?.candidate ?? null;
}

/** `fail-on`, `fail_on` and `failOn` are the same word. */
function fold(name: string): string {
  return name.toLowerCase().replace(/[-_]/g, '');
}

/** Levenshtein distance: how many characters must be added, taken away or replaced. */
function countChanges(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}
