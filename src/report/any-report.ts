import type { AuditReport, CheckpointSummary } from './audit-report.js';
import type { InspectReport } from './inspect-report.js';
import { showName } from './text-layout.js';

/** What every renderer takes: the report of a `diff` or of an `inspect`. */
export type AnyReport = AuditReport | InspectReport;

/** Whether a report is that of a `diff`. */
export function isAudit(report: AnyReport): report is AuditReport {
  return 'verdict' in report;
}

/** The checkpoint that a report judges: after, or the one inspected. */
export function getJudgedCheckpoint(report: AnyReport): CheckpointSummary {
  return isAudit(report) ? report.after : report.checkpoint;
}

/**
 * A name from a file as a report may show it: no control characters, at most `width` characters, and nothing that a
 * CI runner which reads the report from its log would take for a command.
 */
export function showSafely(name: string, width = 160): string {
  return breakCommands(showName(name, width));
}

/** Takes the older form of GitHub's workflow commands out of text; the newer one must stand at a line's start. */
export function breakCommands(text: string): string {
  return text.replaceAll('##[', '##\\u{5b}');
}
