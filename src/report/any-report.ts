import { createHash } from 'node:crypto';
import type { Finding, FindingLevel } from '../compare/findings.js';
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

/** Rank of a level: what weighs more comes first. */
export const LEVEL_RANKS: Readonly<Record<FindingLevel, number>> = { error: 0, warning: 1, note: 2 };

/** A finding as CI systems track it from run to run. */
export interface TrackedFinding {
  readonly finding: Finding;
  /** Names the finding by kind and layer, whatever its numbers are: `<hex>:<occurrence>`, unique in the report. */
  readonly fingerprint: string;
}

/** Hexadecimal digits of a fingerprint: 128 bits. */
const FINGERPRINT_LENGTH = 32;

/** Every finding, errors first, within a level the layers first whose output moved most. */
export function rankFindings(report: AnyReport): readonly TrackedFinding[] {
  const shifts = new Map(
    isAudit(report) ? report.layers.map(({ name, outputShift }) => [name, outputShift ?? 0] as const) : [],
  );
  const shiftOf = ({ layer }: Finding) => shifts.get(layer) || 0;
  const occurrences = new Map<string, number>();
  return [...report.findings]
    .sort((x, y) => LEVEL_RANKS[x.level] - LEVEL_RANKS[y.level] || shiftOf(y) - shiftOf(x))
    .map((finding) => {
      const hash = createHash('sha256').update(`${finding.kind}\n${finding.layer}`).digest('hex');
      const occurrence = (occurrences.get(hash) ?? 0) + 1;
      occurrences.set(hash, occurrence);
      return { finding, fingerprint: `${hash.slice(0, FINGERPRINT_LENGTH)}:${occurrence}` };
    });
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
