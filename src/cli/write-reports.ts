import { isAbsolute, join, relative } from 'node:path';
import { type AnyReport, isAudit } from '../report/any-report.js';
import type { CheckpointSummary } from '../report/audit-report.js';
import { type AuditSet, isAuditSet } from '../report/audit-set.js';
import type { RenderOptions, ReportFormat } from '../report/formats.js';
import { isPlain, renderPlain } from '../report/render-plain.js';
import type { CommonOptions } from './options.js';
import { type ReportFile, writeReportFile } from './output-file.js';
import type { Terminal } from './terminal.js';

/** Any report that the command line prints. */
export type PrintedReport = AnyReport | AuditSet;

/** What to print, and which files to write besides. */
export interface ReportPlan extends Pick<CommonOptions, 'format' | 'output' | 'all' | 'channels' | 'quiet'> {
  readonly layer?: string | undefined;
  readonly files: readonly ReportFile[];
}

/** Whether an audit must keep the values of every channel for the reports that are asked for. */
export function needsChannels({ channels, layer, format, files }: ReportPlan): boolean {
  const formats = [format, ...files.map((file) => file.format)];
  return channels === true || layer !== undefined || formats.includes('html');
}

/** Renders a report in every form that was asked for: colour and width only for the terminal. */
export async function writeReports(
  report: PrintedReport,
  plan: ReportPlan,
  terminal: Terminal,
): Promise<void> {
  const { output, all, layer, quiet, channels } = plan;
  const keepsChannels = channels === true || layer !== undefined;
  const renderAs = (format: ReportFormat, looks: Pick<RenderOptions, 'width' | 'paint'> = {}) => {
    const fitting = format === 'json' && !keepsChannels ? mapReports(report, omitChannels) : report;
    return renderInRepository(fitting, { format, all, layer, ...looks });
  };
  for (const { format, file, within } of plan.files) writeReportFile(file, await renderAs(format), within);
  if (output !== undefined) writeReportFile(output, await renderAs(plan.format));
  else if (quiet !== true) terminal.write(await renderAs(plan.format, await terminal.readLooks()));
}

/** Formats whose readers look files up in a repository. */
const LOCATED_FORMATS: ReadonlySet<ReportFormat> = new Set(['sarif', 'github', 'gitlab']);

/** Renders a report; where its format names files, as paths from the root of the CI system's checkout. */
export async function renderInRepository(
  report: PrintedReport,
  options: RenderOptions & { readonly format: ReportFormat },
): Promise<string> {
  if (isPlain(options.format)) return renderPlain(report, options.format, options);
  // Loaded when needed: most runs print text, and start the quicker for it.
  const { render } = await import('../report/render.js');
  if (!LOCATED_FORMATS.has(options.format)) return render(report, options);
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
  return { ...located, failures };
}

function mapReports(
  report: PrintedReport,
  change: <Report extends AnyReport>(report: Report) => Report,
): PrintedReport {
  return isAuditSet(report)
    ? { ...report, reports: report.reports.map((one) => change(one)) }
    : change(report);
}
