import { escapeControls } from '../errors.js';
import type { AuditReport, CheckpointSummary } from './audit-report.js';
import type { InspectReport } from './inspect-report.js';
import { defuseCommands, showName } from './text-layout.js';

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
  return defuseCommands(showName(name, width));
}

/** The beginning of a sentence that may hold names from files, made safe in the same way. */
export function showMessage(message: string, length: number): string {
  return defuseCommands(escapeControls(message)).slice(0, length).toWellFormed();
}
