import { audit } from '../audit.js';
import { auditEach } from '../audit-each.js';
import { escapeControls, quote, UsageError } from '../errors.js';
import type { AuditReport } from '../report/audit-report.js';
import { type AuditFailure, buildReportSet, isFailure, type ReportSet } from '../report/audit-set.js';
import { PackedReports } from '../report/packed-reports.js';
import { defuseCommands } from '../report/text-layout.js';
import { getExitCode } from './exit-code.js';
import type { InputGuard } from './guard-outputs.js';
import type { CommonOptions } from './options.js';
import type { PlannedAudit } from './plan-audits.js';
import type { Terminal } from './terminal.js';

interface RunOptions extends Pick<CommonOptions, 'quiet' | 'output' | 'format'> {
  readonly layer?: string;
  /** Asked after each of several audits: what it refuses ends them all. */
  readonly guard: InputGuard;
}

/** What a run of `diff` came to. */
export interface DiffResult {
  readonly report: AuditReport | ReportSet;
  readonly exitCode: number;
}

/** One audit gives its own report and fails with its own error; several give one report of them all. */
export async function runAudits(
  audits: readonly PlannedAudit[],
  options: RunOptions,
  terminal: Terminal,
): Promise<DiffResult> {
  const { layer } = options;
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
  return runSeveral(audits, options, terminal);
}

async function runSeveral(
  audits: readonly PlannedAudit[],
  options: RunOptions,
  terminal: Terminal,
): Promise<DiffResult> {
  const reports = new PackedReports();
  const failures: AuditFailure[] = [];
  let exitCode = 0;
  for await (const { request, outcome } of auditEach(audits)) {
    terminal.finishProgress();
    options.guard.refuseHarm();
    if (isFailure(outcome)) failures.push(outcome);
    else reports.add(outcome);
    exitCode = Math.max(exitCode, isFailure(outcome) ? 2 : getExitCode(outcome.findings, request.failOn));
    if (isFailure(outcome) && !isTextPrinted(options))
      terminal.writeError(defuseCommands(`bn-audit: ${escapeControls(outcome.message)}`));
  }
  return { report: buildReportSet({ reports, heads: reports.heads, failures }), exitCode };
}

/** Whether the user reads the report, and in it what failed. */
function isTextPrinted({ quiet, output, format }: RunOptions): boolean {
  return quiet !== true && output === undefined && format === 'text';
}

function requireLayer(layer: string, { layers }: AuditReport): void {
  if (layers.some(({ name }) => name === layer)) return;
  throw new UsageError(
    `--layer ${quote(layer)}: no such norm layer in both checkpoints`,
    'Names are those of before; bn-audit diff … --all lists them.',
  );
}
