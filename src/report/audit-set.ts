// Several audits in one report, e.g. one checkpoint before and ten after.

import { deserialize, serialize } from 'node:v8';
import { deflateSync, inflateSync } from 'node:zlib';
import {
  CheckpointError,
  type CheckpointErrorCode,
  describeError,
  TOOL_NAME,
  type UsageError,
  VERSION,
} from '../errors.js';
import { nameOf } from '../io/places.js';
import type { AnyReport } from './any-report.js';
import type { AuditReport } from './audit-report.js';
import { groupFindingsBy } from './finding-groups.js';
import { formatCount, formatPlural } from './format-numbers.js';

/** The level of zlib that takes the least time. */
const FASTEST = 1;

/**
 * Reports of many audits, in some per cent of the memory that they take as objects: each is packed as it comes, and made
 * anew each time it is asked for.
 */
export class PackedReports implements Reports {
  readonly heads: ReportHead[] = [];
  readonly #packed: Uint8Array[] = [];

  get length(): number {
    return this.#packed.length;
  }

  add(report: AuditReport): void {
    const packed = deflateSync(serialize(report), { level: FASTEST });
    this.#packed.push(packed);
    // Unpacked, so that no head keeps a name that is a piece of a file's whole header.
    const { verdict, before, after, summary, findings } = unpack(packed);
    const firsts = groupFindingsBy(findings, ({ level, kind }) => `${level} ${kind}`).map(([first]) => first);
    this.heads.push({ verdict, before, after, summary, findings: firsts });
  }

  at(index: number): AuditReport | undefined {
    const packed = this.#packed.at(index);
    return packed === undefined ? undefined : unpack(packed);
  }

  *[Symbol.iterator](): Iterator<AuditReport> {
    for (const packed of this.#packed) yield unpack(packed);
  }
}

function unpack(packed: Uint8Array): AuditReport {
  return deserialize(inflateSync(packed)) as AuditReport;
}

/** An audit of several that could not be done. */
export interface AuditFailure {
  /** As the user named it. */
  readonly before: string;
  readonly after: string;
  readonly code: CheckpointErrorCode | 'usage';
  /** One sentence that names the file. May hold names from files: renderers escape it. */
  readonly message: string;
  /** The likely cause, or the way out. */
  readonly hint: string | null;
}

/** A headline over an audit that could not be done. */
export const FAILURE_TITLE = 'The checkpoint could not be audited';

/** What one of several audits came to. */
export type AuditOutcome = AuditReport | AuditFailure;

/** The result of several audits: what `--format json` prints for them. */
export interface AuditSet {
  readonly schemaVersion: 1;
  readonly tool: { readonly name: string; readonly version: string };
  /** "failed" when an audit could not be done, else "drifted" when one found an error. */
  readonly verdict: 'clean' | 'drifted' | 'failed';
  /** In the order in which they were asked for. */
  readonly reports: readonly AuditReport[];
  readonly failures: readonly AuditFailure[];
}

/** What is asked of all reports at once. */
export interface ReportHead extends Pick<AuditReport, 'verdict' | 'before' | 'after' | 'summary'> {
  /** At least one finding of each kind and level, in the order in which these first occur. */
  readonly findings: AuditReport['findings'];
}

/** Reports that are asked for one at a time: an array, or what makes each anew. */
interface Reports extends Iterable<AuditReport> {
  readonly length: number;
  at(index: number): AuditReport | undefined;
}

/** An {@link AuditSet} as renderers go through it: they keep none of its reports, so that there may be any number. */
export interface ReportSet extends Omit<AuditSet, 'reports'> {
  readonly reports: Reports;
  /** One for each report. */
  readonly heads: readonly ReportHead[];
}

/** Puts several audits in the form of one report. */
export function buildAuditSet(outcomes: readonly AuditOutcome[]): AuditSet {
  const reports = outcomes.filter((outcome): outcome is AuditReport => !isFailure(outcome));
  const { heads: _, ...set } = buildReportSet({
    reports,
    heads: reports,
    failures: outcomes.filter(isFailure),
  });
  return { ...set, reports };
}

/** The same of reports that need not be in memory. */
export function buildReportSet({
  reports,
  heads,
  failures,
}: Pick<ReportSet, 'reports' | 'heads' | 'failures'>): ReportSet {
  const isDrifted = heads.some(({ verdict }) => verdict === 'drifted');
  return {
    schemaVersion: 1,
    tool: { name: TOOL_NAME, version: VERSION },
    verdict: failures.length > 0 ? 'failed' : isDrifted ? 'drifted' : 'clean',
    reports,
    failures,
    heads,
  };
}

/** A set of either sort as renderers go through it. */
export function toReportSet(set: AuditSet | ReportSet): ReportSet {
  return 'heads' in set ? set : { ...set, heads: set.reports };
}

/** An error that ended one audit, as part of a report. */
export function describeFailure(
  { before, after }: { readonly before: string; readonly after: string },
  error: CheckpointError | UsageError,
): AuditFailure {
  return {
    before: nameOf(before),
    after: nameOf(after),
    code: error instanceof CheckpointError ? error.code : 'usage',
    message: describeError(error),
    hint: error.hint ?? null,
  };
}

/** Whether an audit could not be done. */
export function isFailure(outcome: AuditOutcome): outcome is AuditFailure {
  return 'code' in outcome;
}

/** Whether a report is that of several audits. */
export function isAuditSet(report: AnyReport | AuditSet | ReportSet): report is AuditSet | ReportSet {
  return 'reports' in report;
}

/** The audits or the inspection of a report, and the audits that could not be done: what lists of findings are made of. */
export function listReports(report: AnyReport | ReportSet): {
  readonly reports: Iterable<AnyReport>;
  readonly failures: readonly AuditFailure[];
} {
  return isAuditSet(report) ? report : { reports: [report], failures: [] };
}

/** The report that a reader should look at first: the one with the most drift; null where none has an error. */
export function findWorstReport({ reports, heads }: ReportSet): AuditReport | null {
  const drifted = heads.filter(({ verdict }) => verdict === 'drifted');
  const worst = drifted.reduce<ReportHead | null>(
    (most, head) => (most === null || getShift(head) > getShift(most) ? head : most),
    null,
  );
  return worst === null ? null : (reports.at(heads.indexOf(worst)) ?? null);
}

/** The reports that a reader wants in full, one at a time: the worst, or with `all` every one that drifted. */
export function* listDetailed(set: ReportSet, all: boolean): Iterable<AuditReport> {
  if (all) for (const report of set.reports) if (report.verdict === 'drifted') yield report;
  const worst = all ? null : findWorstReport(set);
  if (worst !== null) yield worst;
}

/** How far the worst layer of a report moved; 0 where none drifted. */
export function getShift({ summary }: ReportHead): number {
  return summary.worst?.outputShift ?? 0;
}

/** The checkpoint that every audit compared with; null where they are several. */
export function getCommonBefore({ heads, failures }: ReportSet): string | null {
  const befores = [...heads.map(({ before }) => before.path), ...failures.map(({ before }) => before)];
  const [first = null] = befores;
  return befores.every((before) => before === first) ? first : null;
}

/** What the audits came to, in a sentence: `1 of 3 checkpoints drifted, 1 failed: it could not be audited.` */
export function countOutcomes({ heads, failures }: ReportSet): string {
  const total = formatPlural(heads.length + failures.length, 'checkpoint');
  const drifted = heads.filter(({ verdict }) => verdict === 'drifted').length;
  const failed = failures.length;
  const parts = [
    drifted > 0 ? `${formatCount(drifted)} of ${total} drifted` : null,
    failed > 0
      ? `${formatCount(failed)}${drifted > 0 ? '' : ` of ${total}`} failed: ${failed === 1 ? 'it' : 'they'} could not be audited`
      : null,
  ].filter((part) => part !== null);
  return parts.length > 0 ? `${parts.join(', ')}.` : `${total}, all clean.`;
}
