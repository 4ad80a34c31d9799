import { appendJobSummary } from './job-summary.js';
import type { CommonOptions } from './options.js';
import type { Terminal } from './terminal.js';
import { type PrintedReport, renderInRepository } from './write-reports.js';

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
    const annotations = [...(await renderInRepository(report, { format: 'github' }))].join('');
    if (annotations !== '') terminal.writeError(annotations.trimEnd());
  }
  appendJobSummary(
    [
      [...(await renderInRepository(report, { format: 'markdown', all }))].join(''),
      [...(await renderInRepository(report, { format: 'markdown' }))].join(''),
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
