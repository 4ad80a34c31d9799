// Findings as lines on files of a run, which CI systems show beside its log.

import { type FindingKind, type FindingLevel, titleOf } from '../compare/findings.js';
import { type AnyReport, findArtifactPath, LIMITS } from './any-report.js';
import { FAILURE_TITLE, listReports, type ReportSet } from './audit-set.js';
import { groupByRegion, sayFindings } from './finding-groups.js';
import { findPage } from './finding-help.js';
import { formatPlural } from './format-numbers.js';
import type { PrintingOptions } from './text-layout.js';

/** The levels that are annotated; notes are not worth one. */
export type AnnotatedLevel = Exclude<FindingLevel, 'note'>;

/** One line on a file of a run. */
interface Annotation {
  readonly level: AnnotatedLevel;
  readonly title: string;
  readonly file: string;
  readonly message: string;
  /** Null for what is no finding. */
  readonly kind: FindingKind | null;
}

/**
 * The errors of a report, then its warnings: one for each kind and region, worst first, at most `limit` of a level, the
 * last of which counts the rest. All audits of a run share these: the worst of each comes before any second one.
 */
export function listAnnotations(
  report: AnyReport | ReportSet,
  options: PrintingOptions,
  limit: number,
): readonly Annotation[] {
  const { reports, failures } = listReports(report);
  // By their rank in their own report; what failed stands before all.
  const ranked: Annotation[][] = [
    failures.map(({ after, message }) => ({
      level: 'error',
      title: FAILURE_TITLE,
      file: findArtifactPath(after, options),
      message: message.slice(0, LIMITS.github.message),
      kind: null,
    })),
  ];
  const counts: Record<AnnotatedLevel, number> = { error: failures.length, warning: 0 };
  for (const one of reports) {
    const ranks: Record<AnnotatedLevel, number> = { error: 0, warning: 0 };
    for (const group of groupByRegion(one)) {
      const { kind, level } = group.findings[0];
      if (level === 'note') continue;
      counts[level]++;
      const rank = ++ranks[level];
      // No more can be shown, even if these come before all others.
      if (rank > limit) continue;
      const message = `${sayFindings(group, LIMITS.github)} (${kind}, ${findPage(kind)})`;
      ranked[rank] ??= [];
      const file = findArtifactPath(group.path, options);
      ranked[rank]?.push({ level, title: titleOf(kind), file, message, kind });
    }
  }
  const all = ranked.flat();
  return (['error', 'warning'] as const).flatMap((level) =>
    shorten(
      all.filter((annotation) => annotation.level === level),
      counts[level],
      limit,
    ),
  );
}

/** @param total how many there are, of which the annotations are the first. */
function shorten(annotations: readonly Annotation[], total: number, limit: number): readonly Annotation[] {
  const [first] = annotations;
  if (total <= limit || first === undefined) return annotations;
  const shown = annotations.slice(0, limit - 1);
  const rest = formatPlural(total - shown.length, `more ${first.level}`);
  const message = `${rest} of ${total}; the report has them all`;
  return [...shown, { ...first, title: `bn-audit: ${rest}`, message, kind: null }];
}
