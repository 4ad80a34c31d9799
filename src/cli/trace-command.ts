// `bn-audit trace`: which runs a command line asks for, and what becomes of them.

import type { Command } from 'commander';
import { UsageError } from '../errors.js';
import { POLICY_FILE_NAME, pickOptions } from '../options.js';
import type { NamedRun, PolicyRules } from '../policy.js';
import { type TraceOptions, trace } from '../trace/trace.js';
import { describeUnseen, expandAfter, findRun, type Search, startSearch } from './find-checkpoints.js';
import {
  findNamed,
  type LoadedPolicy,
  listReportFiles,
  loadPolicy,
  type PolicyOptions,
  resolveFromPolicy,
} from './load-policy.js';
import { type CommonOptions, createCommand, EXIT_CODE_HELP } from './options.js';
import type { Terminal } from './terminal.js';
import { announceReport, getExitCode, noteInput, planReports, writeReports } from './write-reports.js';

/** What a run of `trace` is asked to follow. */
interface TraceTargets {
  readonly before: string | undefined;
  readonly checkpoints: readonly string[];
  /** The name of a run in the policy. */
  readonly run?: string | undefined;
}

interface CliTraceOptions
  extends CommonOptions,
    PolicyOptions,
    PolicyRules,
    Pick<TraceTargets, 'run'>,
    Pick<TraceOptions, 'strict'> {}

/** `bn-audit trace BEFORE CHECKPOINT...`, or runs of the policy. */
export function createTrace(terminal: Terminal): Command {
  const command = createCommand('trace')
    .description('Follow a training run: when did the statistics of frozen norm layers begin to move?')
    .argument('[before]', 'checkpoint from before the training')
    .argument('[run...]', 'checkpoints of the run: files, quoted globs, or its directory')
    .addHelpText('after', EXAMPLES);
  return command.action(
    async (before: string | undefined, checkpoints: readonly string[], options: CliTraceOptions) => {
      const targets = { before, checkpoints, run: options.run };
      requireTargets(targets, options, command);
      process.exitCode = await runTrace(targets, options, terminal);
    },
  );
}

const EXAMPLES = `
Examples:
  bn-audit trace base.pt runs/a
  bn-audit trace base.pt 'runs/a/epoch_*.pt' --frozen backbone
  bn-audit trace base.pt runs/a --report html=trace.html --strict
  bn-audit trace --run resnet --config ci/bn-audit.config.json

Checkpoints are put in the order of their epochs, steps or batch counts, else of
the numbers in their names; the report says which.
${EXIT_CODE_HELP}`;

/** Commander cannot say that BEFORE and CHECKPOINT are needed unless the policy names them. */
function requireTargets(
  { before, checkpoints, run }: TraceTargets,
  { config }: CliTraceOptions,
  command: Command,
): void {
  if (run !== undefined) {
    if (before !== undefined) command.error("error: checkpoints cannot be given together with '--run'");
    if (config === false)
      command.error("error: option '--no-config' cannot be used with option '--run <name>'");
    return;
  }
  if (before === undefined || before === '') command.error("error: missing required argument 'before'");
  if (checkpoints.length === 0) command.error("error: missing required argument 'run'");
}

async function runTrace(
  targets: TraceTargets,
  options: CliTraceOptions,
  terminal: Terminal,
): Promise<number> {
  for (const path of [targets.before, ...targets.checkpoints]) if (path !== undefined) noteInput(path);
  const loaded = await loadPolicy(options, terminal);
  const { search, unseen } = startSearch();
  const { before, checkpoints, rules } = planRun(targets, pickOptions('policy', options), loaded, search);
  const plan = planReports(options, listReportFiles(options, loaded), [
    ...(loaded === null ? [] : [loaded.file]),
    before,
    ...checkpoints,
  ]);
  const { failOn = 'error', ...judging } = rules;
  const report = await trace(before, checkpoints, {
    ...judging,
    ...pickOptions('openCheckpoint', options),
    strict: options.strict,
    onProgress: options.quiet === true ? undefined : terminal.showProgress,
    onOpenFile: plan.guard.onOpenFile,
  });
  terminal.finishProgress();
  await writeReports(report, plan, terminal);
  for (const sentence of describeUnseen(unseen, 'traced')) terminal.writeError(sentence);
  await announceReport(report, options, terminal);
  return getExitCode(report.findings, failOn);
}

/** A run of some thousand checkpoints takes seconds however small they are; more of them were not meant. */
const MAX_CHECKPOINTS = 5_000;

/** One run to follow. */
interface PlannedRun {
  readonly before: string;
  readonly checkpoints: readonly string[];
  readonly rules: PolicyRules;
}

/**
 * The run that a command line asks for. For each setting it wins over the named run, and that over the rest of the policy.
 *
 * @throws UsageError when the run is unknown, holds more than {@link MAX_CHECKPOINTS}, or as findCheckpoints.
 */
function planRun(
  targets: TraceTargets,
  rules: PolicyRules,
  loaded: LoadedPolicy | null,
  search: Search,
): PlannedRun {
  const shared: PolicyRules = pickOptions('policy', loaded?.policy ?? {});
  const { before, checkpoints, ...own } = findTarget(targets, loaded);
  const directory = targets.before === undefined ? (loaded?.directory ?? '.') : '.';
  const found = expandAfter(before, checkpoints, (argument) => findRun(argument, directory, search));
  if (found.length > MAX_CHECKPOINTS)
    throw new UsageError(`more than ${MAX_CHECKPOINTS} checkpoints in one run`);
  return { before, checkpoints: found, rules: { ...shared, ...own, ...rules } };
}

/** What to trace: as the command line says, or as the policy does under a name. */
function findTarget(
  { before, checkpoints, run: name = '' }: TraceTargets,
  loaded: LoadedPolicy | null,
): NamedRun {
  if (before !== undefined) return { before, checkpoints };
  if (loaded === null)
    throw new UsageError(
      `--run needs a policy file, found no ${POLICY_FILE_NAME} here or above`,
      'Name one with --config FILE.',
    );
  const run = findNamed(loaded.policy.runs, name, { what: 'run', file: loaded.file });
  return { ...run, before: resolveFromPolicy(loaded, run.before) };
}
