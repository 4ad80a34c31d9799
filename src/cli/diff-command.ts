// `bn-audit diff`.

import type { Command } from 'commander';
import { audit, auditEach } from '../audit.js';
import { escapeControls, quote, UsageError } from '../errors.js';
import { pickOptions } from '../options.js';
import type { PolicyRules } from '../policy.js';
import type { AuditReport } from '../report/audit-report.js';
import {
  type AuditFailure,
  buildReportSet,
  isFailure,
  PackedReports,
  type ReportSet,
} from '../report/audit-set.js';
import { formatPlural } from '../report/format-numbers.js';
import { defuseCommands } from '../report/text-layout.js';
import { noteInput, type ReportFile } from './guard-outputs.js';
import { type CommonOptions, createCommand, EXIT_CODE_HELP } from './options.js';
import {
  type DiffTargets,
  type LoadedPolicy,
  loadPolicy,
  type PlannedAudit,
  planAudits,
  resolveFromPolicy,
} from './plan-audits.js';
import type { Terminal } from './terminal.js';
import {
  announceReport,
  getExitCode,
  needsChannels,
  planReports,
  type ReportPlan,
  writeReports,
} from './write-reports.js';

/** What a run of `diff` came to. */
interface DiffResult {
  readonly report: AuditReport | ReportSet;
  readonly exitCode: number;
}

/** One audit gives its own report and fails with its own error; several give one report of them all. */
async function runAudits(
  audits: readonly PlannedAudit[],
  plan: ReportPlan,
  terminal: Terminal,
): Promise<DiffResult> {
  const { layer } = plan;
  const [only, ...others] = audits;
  if (only !== undefined && others.length === 0) {
    const report = await audit(only.before, only.after, only.options);
    terminal.finishProgress();
    if (layer !== undefined) requireLayer(layer, report);
    return { report, exitCode: getExitCode(report.findings, only.failOn) };
  }
  if (layer !== undefined) {
    throw new UsageError(`--layer shows one layer of one audit, found ${audits.length} audits`);
  }
  return runSeveral(audits, plan, terminal);
}

async function runSeveral(
  audits: readonly PlannedAudit[],
  plan: ReportPlan,
  terminal: Terminal,
): Promise<DiffResult> {
  const reports = new PackedReports();
  const failures: AuditFailure[] = [];
  let exitCode = 0;
  for await (const { request, outcome } of auditEach(audits)) {
    terminal.finishProgress();
    plan.guard.refuseHarm();
    if (isFailure(outcome)) failures.push(outcome);
    else reports.add(outcome);
    exitCode = Math.max(exitCode, isFailure(outcome) ? 2 : getExitCode(outcome.findings, request.failOn));
    if (isFailure(outcome) && !isTextPrinted(plan))
      terminal.writeError(defuseCommands(`bn-audit: ${escapeControls(outcome.message)}`));
  }
  return { report: buildReportSet({ reports, heads: reports.heads, failures }), exitCode };
}

/** Whether the user reads the report, and in it what failed. */
function isTextPrinted({ quiet, output, format }: ReportPlan): boolean {
  return quiet !== true && output === undefined && format === 'text';
}

function requireLayer(layer: string, { layers }: AuditReport): void {
  if (layers.some(({ name }) => name === layer)) return;
  throw new UsageError(
    `--layer ${quote(layer)}: no such norm layer in both checkpoints`,
    'Names are those of before; bn-audit diff … --all lists them.',
  );
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

/** The whole of a `diff`: policy, plan, audits, reports, exit code. */
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
  const audits = planned.map((one) => ({ ...one, options: addRunOptions(one, plan, options, terminal) }));
  const { report, exitCode } = await runAudits(audits, plan, terminal);
  await writeReports(report, plan, terminal);
  for (const [path, code] of [...skipped].slice(0, 1))
    terminal.writeError(
      `bn-audit: not audited: what is in ${formatPlural(skipped.size, 'place')} where a glob could not look, such as ${quote(path)} (${code})`,
    );
  await announceReport(report, options, terminal);
  return exitCode;
}

function addRunOptions(
  { options: rules }: PlannedAudit,
  plan: ReportPlan,
  options: DiffOptions,
  terminal: Terminal,
): PlannedAudit['options'] {
  const onProgress = options.quiet === true ? undefined : terminal.showProgress;
  const { onOpenFile } = plan.guard;
  return {
    ...rules,
    ...pickOptions('openCheckpoint', options),
    channels: needsChannels(plan),
    onProgress,
    onOpenFile,
  };
}

/** The policy's reports, then those of the command line. */
function listReportFiles({ report = [] }: DiffOptions, loaded: LoadedPolicy | null): readonly ReportFile[] {
  if (loaded === null) return report;
  const ofPolicy = loaded.policy.reports.map(({ format, file }) => ({
    format,
    file: resolveFromPolicy(loaded, file),
    within: loaded.directory,
  }));
  return [...ofPolicy, ...report];
}
