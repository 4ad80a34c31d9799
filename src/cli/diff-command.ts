// `bn-audit diff`: which audits a command line asks for, and what becomes of them.

import type { Command } from 'commander';
import { type AuditOptions, type AuditRequest, audit, auditEach } from '../audit.js';
import { escapeControls, quote, UsageError } from '../errors.js';
import { type FailOn, POLICY_FILE_NAME, pickOptions } from '../options.js';
import type { NamedPair, PolicyRules } from '../policy.js';
import { type AuditFailure, buildReportSet, isFailure, PackedReports } from '../report/audit-set.js';
import { defuseCommands } from '../report/text-layout.js';
import {
  describeUnseen,
  expandAfter,
  findCheckpoints,
  type Search,
  startSearch,
} from './find-checkpoints.js';
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
import {
  announceReport,
  getExitCode,
  needsChannels,
  noteInput,
  planReports,
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

interface DiffOptions
  extends CommonOptions,
    PolicyOptions,
    PolicyRules,
    Pick<DiffTargets, 'pair' | 'allPairs'> {
  readonly layer?: string;
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
  const loaded = await loadPolicy(options, terminal);
  const { search, unseen } = startSearch();
  const planned = planAudits(targets, pickOptions('policy', options), loaded, search);
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
  const matching = audits.flatMap((one) => (audits.length === 1 ? listMatching(one.options) : []));
  await writeReports(report, { ...plan, matching }, terminal);
  for (const sentence of describeUnseen(unseen, 'audited')) terminal.writeError(sentence);
  await announceReport(report, options, terminal);
  return exitCode;
}

/** The options that made a pair comparable, as a command that goes on from it must be given them. */
export function listMatching({
  select,
  epsilon,
  map = [],
  allowExternalSymlinks,
  remote,
}: AuditOptions): readonly string[] {
  return [
    ...(select === undefined ? [] : ['--select', select]),
    ...(epsilon === undefined ? [] : ['--epsilon', String(epsilon)]),
    ...map.flatMap(({ from, to }) => ['--map', `${from}=${to}`]),
    ...(allowExternalSymlinks ? ['--allow-external-symlinks'] : []),
    ...(remote ? ['--remote'] : []),
  ];
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
 * @throws UsageError when a pair is unknown, more than {@link MAX_AUDITS} audits are asked for, or as {@link findCheckpoints}.
 */
export function planAudits(
  targets: DiffTargets,
  rules: PolicyRules,
  loaded: LoadedPolicy | null,
  search: Search,
): readonly PlannedAudit[] {
  const audits: PlannedAudit[] = [];
  const shared: PolicyRules = pickOptions('policy', loaded?.policy ?? {});
  const plan = (before: string, after: readonly string[], pair: PolicyRules) => {
    const { failOn = 'error', ...options } = { ...shared, ...pair, ...rules };
    for (const path of after) audits.push({ before, after: path, options, failOn });
    if (audits.length > MAX_AUDITS) throw new UsageError(`more than ${MAX_AUDITS} audits in one run`);
  };
  if (targets.before !== undefined) {
    plan(
      targets.before,
      expandAfter(targets.before, targets.after, (argument) => findCheckpoints(argument, '.', search)),
      {},
    );
    return audits;
  }
  if (loaded === null)
    throw new UsageError(
      `--${targets.allPairs ? 'all-pairs' : 'pair'} needs a policy file, found no ${POLICY_FILE_NAME} here or above`,
      'Write one with bn-audit init CHECKPOINT, or name one with --config FILE.',
    );
  for (const { before: name, after, ...overrides } of listPairs(targets, loaded)) {
    const before = resolveFromPolicy(loaded, name);
    plan(
      before,
      expandAfter(before, after, (argument) => findCheckpoints(argument, loaded.directory, search)),
      overrides,
    );
  }
  return audits;
}

function listPairs(
  { pair: names = [], allPairs }: DiffTargets,
  { policy: { pairs }, file }: LoadedPolicy,
): readonly NamedPair[] {
  const wanted = allPairs === true && pairs.size > 0 ? [...pairs.keys()] : names;
  return wanted.map((name) => findNamed(pairs, name, { what: 'pair', file }));
}
