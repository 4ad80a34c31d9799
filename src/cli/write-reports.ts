// Writes a run's reports: to standard output, to files, and to the CI that runs it; and its exit code.

import { isAbsolute, join, relative } from 'node:path';
import type { FindingLevel } from '../compare/findings.js';
import type { FailOn } from '../options.js';
import { type AnyReport, isAudit } from '../report/any-report.js';
import type { AuditReport, CheckpointSummary } from '../report/audit-report.js';
import { isAuditSet, type ReportSet, type Reports } from '../report/audit-set.js';
import { findFormat, type ReportFormat } from '../report/formats.js';
import type { Pieces, RendererOptions } from '../report/text-layout.js';
import {
  appendJobSummary,
  checkReport,
  guardInputs,
  type InputGuard,
  type ReportFile,
  writeReport,
} from './guard-outputs.js';
import type { CommonOptions } from './options.js';
import type { Terminal } from './terminal.js';

/** 1 when a finding is at or above the level, else 0. */
export function getExitCode(findings: readonly { readonly level: FindingLevel }[], failOn: FailOn): 0 | 1 {
  return findings.some(({ level }) => level === 'error' || (level === 'warning' && failOn === 'warning'))
    ? 1
    : 0;
}

type AnnounceOptions = Pick<CommonOptions, 'ci' | 'all' | 'format' | 'output' | 'quiet'>;

/**
 * Where a GitHub Actions runner looks on: annotations of the findings, unless the run is quiet, and the report in the
 * job's summary.
 *
 * Annotations go to standard error, which the runner reads as well: standard output may be JSON, or a file.
 */
export async function announceReport(
  report: PrintedReport,
  { ci, all, format, output, quiet }: AnnounceOptions,
  terminal: Terminal,
): Promise<void> {
  if (!ci || !isGithubActions()) return;
  const arePrinted = format === 'github' && output === undefined;
  if (quiet !== true && !arePrinted) {
    const annotations = [...(await renderInRepository(report, 'github'))].join('');
    if (annotations !== '') terminal.writeError(annotations.trimEnd());
  }
  appendJobSummary(
    [
      [...(await renderInRepository(report, 'markdown', { all }))].join(''),
      [...(await renderInRepository(report, 'markdown'))].join(''),
    ],
    terminal,
  );
}

/** The same where there is no report, because the work could not be done. */
export async function announceFailure(
  message: string,
  { isQuiet }: { readonly isQuiet: boolean },
  terminal: Terminal,
): Promise<void> {
  if (!isGithubActions()) return;
  const [{ writeCommand }, { showCode }] = await Promise.all([
    import('../report/github.js'),
    import('../report/markdown.js'),
  ]);
  if (!isQuiet)
    terminal.writeError(writeCommand('error', { title: 'bn-audit could not do its work', message }));
  appendJobSummary([`### ❌ Failed\n\n${showCode(message, MAX_SHOWN_MESSAGE)}\n`], terminal);
}

const MAX_SHOWN_MESSAGE = 1000;

/** GitHub documents that its runners set the variable to `true`, and to nothing else. */
function isGithubActions(): boolean {
  return process.env['GITHUB_ACTIONS'] === 'true';
}

/** Any report that the command line prints. */
type PrintedReport = AnyReport | ReportSet;

/** What of a command's options says how its report is printed. */
type PrintOptions = Pick<CommonOptions, 'format' | 'output' | 'all' | 'channels' | 'quiet'> & {
  readonly layer?: string;
};

/** What to print, which files to write besides, and what keeps the run from writing to what it reads. */
export interface ReportPlan extends PrintOptions {
  readonly files: readonly ReportFile[];
  readonly guard: InputGuard;
}

/**
 * Makes sure, before any work goes into them, that the reports may be written: none replaces what the run reads, no two
 * are one file, and those of a policy stay within their bounds.
 *
 * @param inputs what the run is known to read; the plan's guard is to be told of the other files that it opens.
 * @throws UsageError and CheckpointError as guardInputs and checkReport.
 */
export function planReports(
  options: PrintOptions,
  files: readonly ReportFile[],
  inputs: readonly string[],
): ReportPlan {
  const reports = listReports({ ...options, files });
  const guard = guardInputs(
    reports.map(({ file }) => file),
    inputs,
  );
  for (const report of reports) checkReport(report);
  return { ...options, files, guard };
}

/** The reports that go to files, the main one among them where an output is named. */
function listReports({ files, output, format }: Omit<ReportPlan, 'guard'>): readonly ReportFile[] {
  return output === undefined ? files : [...files, { file: output, format }];
}

/** Whether an audit must keep the values of every channel for the reports that are asked for. */
export function needsChannels({ channels, layer, format, files }: ReportPlan): boolean {
  const formats = [format, ...files.map((file) => file.format)];
  return channels === true || layer !== undefined || formats.some((one) => findFormat(one).hasChannels);
}

/**
 * Renders a report in every form that was asked for: colour and width only for the terminal.
 *
 * @throws CheckpointError `refused` where the guard was told of a file that a report would replace; nothing is written
 *   then.
 */
export async function writeReports(
  report: PrintedReport,
  plan: ReportPlan,
  terminal: Terminal,
): Promise<void> {
  plan.guard.refuseHarm();
  const { output, all, layer, quiet, channels } = plan;
  const keepsChannels = channels === true || layer !== undefined;
  const renderAs = async (format: ReportFormat, looks: Pick<RendererOptions, 'width' | 'paint'> = {}) => {
    const fitting = format === 'json' && !keepsChannels ? mapReports(report, omitChannels) : report;
    return gather(await renderInRepository(fitting, format, { all, layer, ...looks }));
  };
  const { format } = plan;
  for (const one of listReports(plan)) await writeReport(one, await renderAs(one.format));
  if (output === undefined && quiet !== true)
    for (const piece of await renderAs(format, terminal.readLooks())) await terminal.write(piece);
}

/** Characters that are written at a time: fewer would spend more on each write than on what is written. */
const WRITTEN_LENGTH = 64 * 1024;

function* gather(pieces: Pieces): Pieces {
  let text = '';
  for (const piece of pieces) {
    text += piece;
    if (text.length < WRITTEN_LENGTH) continue;
    yield text;
    text = '';
  }
  if (text !== '') yield text;
}

/** Renders a report; where its format names files, as paths from the root of the CI system's checkout. */
async function renderInRepository(
  report: PrintedReport,
  format: ReportFormat,
  options: RendererOptions = {},
): Promise<Pieces> {
  const { isLocated, load } = findFormat(format);
  const render = await load();
  if (!isLocated) return render(report, options);
  const root = process.env['GITHUB_WORKSPACE'] || process.env['CI_PROJECT_DIR'] || process.cwd();
  const prefix = relative(root, process.cwd());
  const isInside = prefix !== '' && !prefix.startsWith('..');
  return render(isInside ? locate(report, prefix) : report, { ...options, root });
}

/** Channels that were kept for an HTML report do not belong in a JSON report that was not asked to have them. */
function omitChannels<Report extends AnyReport>(report: Report): Report {
  return { ...report, layers: report.layers.map(({ perChannel: _, ...layer }) => layer) };
}

/** The judged checkpoints' paths as seen from a directory above. */
function locate(report: PrintedReport, prefix: string): PrintedReport {
  const toPath = (path: string) => (isAbsolute(path) ? path : join(prefix, path));
  const move = (checkpoint: CheckpointSummary) => ({ ...checkpoint, path: toPath(checkpoint.path) });
  const located = mapReports(report, (one) =>
    isAudit(one) ? { ...one, after: move(one.after) } : { ...one, checkpoint: move(one.checkpoint) },
  );
  if (!isAuditSet(located)) return located;
  const failures = located.failures.map((failure) => ({ ...failure, after: toPath(failure.after) }));
  const heads = located.heads.map((head) => ({ ...head, after: move(head.after) }));
  return { ...located, failures, heads };
}

function mapReports(
  report: PrintedReport,
  change: <Report extends AnyReport>(report: Report) => Report,
): PrintedReport {
  return isAuditSet(report) ? { ...report, reports: mapEach(report.reports, change) } : change(report);
}

function mapEach(reports: Reports, change: (report: AuditReport) => AuditReport): Reports {
  return {
    length: reports.length,
    at: (index) => {
      const report = reports.at(index);
      return report === undefined ? undefined : change(report);
    },
    *[Symbol.iterator]() {
      for (const report of reports) yield change(report);
    },
  };
}
