// `bn-audit diff`: which audits a command line asks for, and what becomes of them.

import { type Dirent, lstatSync, readdirSync, statSync } from 'node:fs';
import { dirname, isAbsolute, join, relative, resolve } from 'node:path';
import type { Command } from 'commander';
import { type AuditOptions, type AuditRequest, audit, auditEach } from '../audit.js';
import { Glob, type Reached } from '../compare/globs.js';
import { CheckpointError, escapeControls, quote, UsageError } from '../errors.js';
import { findInDirectory } from '../formats/open.js';
import { findOnMachine, isPlace } from '../io/places.js';
import { isSameFile } from '../io/write-target.js';
import { compareNaturally } from '../norm/naming.js';
import { type FailOn, POLICY_FILE_NAME, pickOptions, suggestName } from '../options.js';
import { findPolicyFile, type NamedPair, type Policy, type PolicyRules, readPolicyFile } from '../policy.js';
import { type AuditFailure, buildReportSet, isFailure, PackedReports } from '../report/audit-set.js';
import { formatPlural } from '../report/format-numbers.js';
import { defuseCommands } from '../report/text-layout.js';
import { type CommonOptions, createCommand, EXIT_CODE_HELP } from './options.js';
import type { Terminal } from './terminal.js';
import {
  announceReport,
  getExitCode,
  needsChannels,
  noteInput,
  planReports,
  type ReportFile,
  type ReportPlan,
  writeReports,
} from './write-reports.js';

/** One audit gives its own report and fails with its own error; several give one report of them all. */
async function runAudits(audits: readonly PlannedAudit[], plan: ReportPlan, terminal: Terminal) {
  const { layer, quiet, output, format } = plan;
  const [only, ...others] = audits;
  if (only !== undefined && others.length === 0) {
    const report = await audit(only.before, only.after, only.options);
    terminal.finishProgress();
    if (layer !== undefined && !report.layers.some(({ name }) => name === layer))
      throw new UsageError(
        `--layer ${quote(layer)}: no such norm layer in both checkpoints`,
        'Names are those of before; bn-audit diff … --all lists them.',
      );
    return { report, exitCode: getExitCode(report.findings, only.failOn) };
  }
  if (layer !== undefined)
    throw new UsageError(`--layer shows one layer of one audit, found ${audits.length} audits`);
  const reports = new PackedReports();
  const failures: AuditFailure[] = [];
  let exitCode = 0;
  // Whoever reads the text reads in it what failed.
  const isTold = quiet !== true && output === undefined && format === 'text';
  for await (const { request, outcome } of auditEach(audits)) {
    terminal.finishProgress();
    plan.guard.refuseHarm();
    if (isFailure(outcome)) failures.push(outcome);
    else reports.add(outcome);
    exitCode = Math.max(exitCode, isFailure(outcome) ? 2 : getExitCode(outcome.findings, request.failOn));
    if (isFailure(outcome) && !isTold)
      terminal.writeError(defuseCommands(`bn-audit: ${escapeControls(outcome.message)}`));
  }
  return { report: buildReportSet({ reports, heads: reports.heads, failures }), exitCode };
}

interface DiffOptions extends CommonOptions, PolicyRules, Pick<DiffTargets, 'pair' | 'allPairs'> {
  readonly layer?: string;
  /** False with `--no-config`. */
  readonly config?: string | false;
}

/** `bn-audit diff BEFORE AFTER...`, or pairs of the policy. */
export function createDiff(terminal: Terminal): Command {
  const command = createCommand('diff')
    .description('Audit: did the statistics of frozen norm layers move between two checkpoints?')
    .argument('[before]', 'checkpoint from before the freeze')
    .argument(
      '[after...]',
      'checkpoint from after the fine-tune; several, or a quoted glob, are audited each',
    )
    .addHelpText('after', EXAMPLES);
  return command.action(
    async (before: string | undefined, after: readonly string[], options: DiffOptions) => {
      const targets = { before, after, pair: options.pair, allPairs: options.allPairs };
      requireTargets(targets, options, command);
      process.exitCode = await runDiff(targets, options, terminal);
    },
  );
}

const EXAMPLES = `
Examples:
  bn-audit diff before.safetensors after.safetensors
  bn-audit diff base.onnx tuned.onnx --frozen backbone --allow 'backbone.*.bn2'
  bn-audit diff base.pt tuned.pt --layer backbone.layer4.2.bn3
  bn-audit diff base.pt tuned.pt --format json --output audit.json
  bn-audit diff base.pt tuned.pt --report html=out.html --report junit=out.xml
  bn-audit diff base.pt 'runs/*/epoch*.pt' --frozen backbone
  bn-audit diff --pair detector --config ci/bn-audit.config.json
${EXIT_CODE_HELP}`;

/** Commander cannot say that BEFORE and AFTER are needed unless the policy names them. */
function requireTargets(
  { before, after, pair, allPairs }: DiffTargets,
  { config }: DiffOptions,
  command: Command,
): void {
  const isNamed = pair !== undefined || allPairs === true;
  if (isNamed && before !== undefined)
    command.error("error: checkpoints cannot be given together with '--pair' or '--all-pairs'");
  if (isNamed && config === false) {
    const named = allPairs === true ? '--all-pairs' : '--pair <name>';
    command.error(`error: option '--no-config' cannot be used with option '${named}'`);
  }
  if (isNamed) return;
  if (before === undefined || before === '') command.error("error: missing required argument 'before'");
  if (after.length === 0) command.error("error: missing required argument 'after'");
}

async function runDiff(targets: DiffTargets, options: DiffOptions, terminal: Terminal): Promise<number> {
  for (const path of [targets.before, ...targets.after]) if (path !== undefined) noteInput(path);
  const loaded = await loadPolicy(options.config);
  if (loaded !== null && options.config === undefined && options.quiet !== true)
    terminal.writeError(`bn-audit: using the policy ${quote(loaded.file)}`);
  const skipped = new Map<string, string>();
  const onSkip = (path: string, code: string) => skipped.set(path, code);
  const planned = planAudits(targets, pickOptions('policy', options), loaded, onSkip);
  const inputs = [
    ...(loaded === null ? [] : [loaded.file]),
    ...planned.flatMap(({ before, after }) => [before, after]),
  ];
  const plan = planReports(options, listReportFiles(options, loaded), inputs);
  const running = {
    ...pickOptions('openCheckpoint', options),
    channels: needsChannels(plan),
    onProgress: options.quiet === true ? undefined : terminal.showProgress,
    onOpenFile: plan.guard.onOpenFile,
  };
  const audits = planned.map((one) => ({ ...one, options: { ...one.options, ...running } }));
  const { report, exitCode } = await runAudits(audits, plan, terminal);
  await writeReports(report, plan, terminal);
  for (const [path, code] of [...skipped].slice(0, 1))
    terminal.writeError(
      `bn-audit: not audited: what is in ${formatPlural(skipped.size, 'place')} where a glob could not look, such as ${quote(path)} (${code})`,
    );
  await announceReport(report, options, terminal);
  return exitCode;
}

function listReportFiles({ report = [] }: DiffOptions, loaded: LoadedPolicy | null): readonly ReportFile[] {
  if (loaded === null) return report;
  const ofPolicy = loaded.policy.reports.map(({ format, file }) => ({
    format,
    file: resolveFromPolicy(loaded, file),
    within: loaded.directory,
  }));
  return [...ofPolicy, ...report];
}

/** Globs that have to look at more files and directories, all of a run together, were not meant: `/**`. */
const MAX_ENTRIES = 200_000;

/** Told of a place that a glob leads to and that could not be looked into, and of the code of the error. */
type OnSkip = (path: string, code: string) => void;

interface Search {
  readonly onSkip: OnSkip;
  entries: number;
}

/**
 * The checkpoints that an argument means: the place or path itself, or, where it is a glob and no such file exists, every file
 * that it matches and every directory of shards, `epoch9` before `epoch10`. Links to directories are not followed.
 *
 * @param directory what relative paths and globs start from; the results do not.
 * @throws UsageError when it is empty, or globs that would look at too many files.
 */
export function findCheckpoints(
  argument: string,
  directory = '.',
  search: Search = { onSkip: () => {}, entries: 0 },
): readonly string[] {
  if (argument === '')
    throw new UsageError('expected a checkpoint, or a glob over files, found an empty text');
  if (isPlace(argument)) return [argument];
  const locate = (path: string) => (isAbsolute(argument) || directory === '.' ? path : join(directory, path));
  const path = locate(argument);
  if (exists(path)) return [path];
  const { base, rest } = splitGlob(argument);
  if (rest === '') return [path];
  const start = locate(base);
  const found: string[] = [];
  for (const { name, isMatch } of walk(start, rest, search.onSkip)) {
    if (++search.entries > MAX_ENTRIES)
      throw new UsageError(
        `${quote(argument)}: more than ${MAX_ENTRIES} files to look at`,
        'Start the glob with a directory: runs/**/*.pt',
      );
    if (isMatch) found.push(name);
  }
  // Opening the glob itself will say that there is no such file: one audit that fails among others that do not.
  if (found.length === 0) return [path];
  return found.sort(compareNaturally).map((name) => join(start, name));
}

/** A glob as the directory that it begins with and what follows, from the first component with a wildcard on. */
function splitGlob(glob: string): { readonly base: string; readonly rest: string } {
  let index = 0;
  while (index < glob.length && !'*?[{'.includes(glob.charAt(index))) index += glob[index] === '\\' ? 2 : 1;
  if (index >= glob.length) return { base: glob, rest: '' };
  const begin = glob.lastIndexOf('/', index) + 1;
  const base = glob.slice(0, begin).replace(/\\(.)/gs, '$1');
  return { base: base === '' ? '.' : base, rest: glob.slice(begin) };
}

/** False also where the file system does not let look: whoever opens the path says why. */
function exists(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return false;
  }
}

interface Place {
  readonly directory: string;
  /** What its entries are called from where the walk started, with forward slashes. */
  readonly prefix: string;
  readonly reached: Reached;
}

/** Goes through the directories in which a glob may match, and no others. */
function* walk(
  start: string,
  text: string,
  onSkip: OnSkip,
): Generator<{ readonly name: string; readonly isMatch: boolean }> {
  const glob = new Glob(text, { separators: '/', seesHidden: false });
  // What is not there is no match, and a glob without any is an error in the end; of all else that fails is told.
  const tryAt = <Value>(path: string, look: () => Value, otherwise: Value): Value => {
    try {
      return look();
    } catch (error) {
      const cause = error instanceof CheckpointError ? error.cause : error;
      const code = cause instanceof Error && 'code' in cause ? String(cause.code) : null;
      if (code === null && !(error instanceof CheckpointError)) throw error;
      if (code !== null && code !== 'ENOENT' && code !== 'ENOTDIR') onSkip(path, code);
      return otherwise;
    }
  };
  const isCheckpoint = (entry: Dirent, path: string): boolean => {
    if (entry.isSymbolicLink()) return tryAt(path, () => statSync(path).isFile(), false);
    return (
      entry.isFile() || (entry.isDirectory() && tryAt(path, () => findInDirectory(path) !== null, false))
    );
  };
  const places: Place[] = [{ directory: start, prefix: '', reached: glob.start }];
  for (let place = places.pop(); place !== undefined; place = places.pop()) {
    const { directory } = place;
    const entries = tryAt(directory, () => readdirSync(directory, { withFileTypes: true }), []);
    for (const entry of entries) {
      const [name, path] = [place.prefix + entry.name, join(directory, entry.name)];
      const reached = glob.readComponent(place.reached, entry.name);
      yield { name, isMatch: glob.isMatch(reached) && isCheckpoint(entry, path) };
      const below = entry.isDirectory() ? glob.readSeparator(reached) : [];
      if (below.length > 0) places.push({ directory: path, prefix: `${name}/`, reached: below });
    }
  }
}

/** A policy and where it was found. */
interface LoadedPolicy {
  readonly policy: Policy;
  /** As messages name it. */
  readonly file: string;
  /** What the paths in the policy start from, as the working directory sees it; `.` where it is that. */
  readonly directory: string;
}

/**
 * Reads the policy that holds for a run.
 *
 * @param config the file that `--config` names; false for `--no-config`; undefined to look for one.
 * @throws as readPolicyFile.
 */
async function loadPolicy(config: string | false | undefined): Promise<LoadedPolicy | null> {
  if (config === false) return null;
  const path = config ?? findPolicyFile(process.cwd());
  if (path === null) return null;
  noteInput(path);
  const file = config ?? relative(process.cwd(), path);
  const directory = relative(process.cwd(), dirname(resolve(path)));
  return { policy: await readPolicyFile(path, file), file, directory: directory === '' ? '.' : directory };
}

/** A path of a policy as the working directory sees it. */
function resolveFromPolicy({ directory }: LoadedPolicy, path: string): string {
  return isPlace(path) || isAbsolute(path) || directory === '.' ? path : join(directory, path);
}

/** A run of some thousand audits takes seconds however small the files are; more of them were not meant. */
const MAX_AUDITS = 5_000;

/** What a run of `diff` is asked to compare. */
interface DiffTargets {
  readonly before: string | undefined;
  readonly after: readonly string[];
  /** Names of pairs in the policy. */
  readonly pair?: readonly string[] | undefined;
  readonly allPairs?: boolean | undefined;
}

/** One audit of a run, with what decides its exit code. */
interface PlannedAudit extends AuditRequest {
  readonly options: AuditOptions;
  readonly failOn: FailOn;
}

/**
 * The audits that a run asks for. For each setting the command line wins over the named pair, and the pair over the
 * rest of the policy.
 *
 * @param onSkip is told of what a glob could not look into.
 * @throws UsageError when a pair is unknown, more than {@link MAX_AUDITS} audits are asked for, or as {@link findCheckpoints}.
 */
export function planAudits(
  targets: DiffTargets,
  rules: PolicyRules,
  loaded: LoadedPolicy | null,
  onSkip: OnSkip,
): readonly PlannedAudit[] {
  const search: Search = { onSkip, entries: 0 };
  const audits: PlannedAudit[] = [];
  const { pairs: _, reports: __, ...shared }: Partial<Policy> = loaded?.policy ?? {};
  const plan = (before: string, after: readonly string[], pair: PolicyRules) => {
    const { failOn = 'error', ...options } = { ...shared, ...pair, ...rules };
    for (const path of after) audits.push({ before, after: path, options, failOn });
    if (audits.length > MAX_AUDITS) throw new UsageError(`more than ${MAX_AUDITS} audits in one run`);
  };
  if (targets.before !== undefined) {
    plan(targets.before, expandAfter(targets.before, targets.after, '.', search), {});
    return audits;
  }
  if (loaded === null) {
    throw new UsageError(
      `--${targets.allPairs ? 'all-pairs' : 'pair'} needs a policy file, found no ${POLICY_FILE_NAME} here or above`,
      'Write one with bn-audit init CHECKPOINT, or name one with --config FILE.',
    );
  }
  for (const { before: name, after, ...overrides } of listPairs(targets, loaded)) {
    const before = resolveFromPolicy(loaded, name);
    plan(before, expandAfter(before, after, loaded.directory, search), overrides);
  }
  return audits;
}

/** Every after, globs expanded. A glob that catches before as well does not mean it. */
function expandAfter(
  before: string,
  after: readonly string[],
  directory: string,
  search: Search,
): readonly string[] {
  const expanded: string[] = [];
  for (const argument of after) {
    const found = findCheckpoints(argument, directory, search);
    const others =
      found.length === 1 ? found : found.filter((path) => !isSameFile(path, findOnMachine(before)));
    expanded.push(...(others.length === 0 ? found : others));
  }
  return expanded;
}

function listPairs(
  { pair: names = [], allPairs }: DiffTargets,
  { policy: { pairs }, file }: LoadedPolicy,
): readonly NamedPair[] {
  if (pairs.size === 0) throw new UsageError(`${file}: pairs: expected at least one pair, found none`);
  const wanted = allPairs === true ? [...pairs.keys()] : names;
  return wanted.map((name) => {
    const pair = pairs.get(name);
    if (pair !== undefined) return pair;
    throw new UsageError(
      `--pair ${quote(name)}: ${file} has no such pair${suggestName(name, [...pairs.keys()])}`,
      `Pairs there: ${[...pairs.keys()].slice(0, 20).map(quote).join(', ')}`,
    );
  });
}
