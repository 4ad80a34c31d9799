// Annotations of GitHub Actions.

import { type FindingLevel, titleOf } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import { type AnyReport, LIMITS, locateFinding, rankFindings, showSafely } from './any-report.js';
import { FAILURE_TITLE, listReports, type ReportSet } from './audit-set.js';
import { formatPlural } from './format-numbers.js';
import { findArtifactPath } from './sarif.js';
import type { Pieces, PrintingOptions } from './text-layout.js';

/** GitHub shows no more annotations of one type from a step. */
export const MAX_ANNOTATIONS = 10;

type AnnotatedLevel = Exclude<FindingLevel, 'note'>;

/** One line on a file of a run. */
interface Annotation {
  /** Its place among those of its report. */
  readonly rank: number;
  readonly title: string;
  readonly file: string;
  readonly message: string;
}

/**
 * Findings as GitHub workflow commands, for the log of a job: at most ten errors and ten warnings, worst first, the
 * last of which counts the rest. Empty when there are none; notes are not annotated. All audits of a step share its ten:
 * the worst finding of each comes before any second one.
 */
export function renderGithub(report: AnyReport | ReportSet, options: PrintingOptions): Pieces {
  const { reports, failures } = listReports(report);
  const found: Record<AnnotatedLevel, Annotation[]> = {
    // Before all others.
    error: failures.map(({ after, message }) => ({
      rank: -1,
      title: FAILURE_TITLE,
      file: findArtifactPath(after, options),
      message: message.slice(0, LIMITS.github.message),
    })),
    warning: [],
  };
  const counts: Record<AnnotatedLevel, number> = { error: failures.length, warning: 0 };
  for (const one of reports) {
    const findings = rankFindings(one);
    for (const level of ANNOTATED_LEVELS) {
      const own = findings.filter(({ finding }) => finding.level === level);
      counts[level] += own.length;
      // No more can be shown, even if these come before all others.
      for (const [rank, { finding }] of own.slice(0, MAX_ANNOTATIONS).entries()) {
        const { kind, layer, message, docs } = finding;
        const file = findArtifactPath(locateFinding(one, finding), options);
        const text = `${showSafely(layer, LIMITS.github.name)}: ${message.slice(0, LIMITS.github.message)} (${kind}, ${docs})`;
        found[level].push({ rank, title: titleOf(kind), file, message: text });
      }
    }
  }
  return ANNOTATED_LEVELS.flatMap((level) =>
    writeAll(
      level,
      found[level].sort((x, y) => x.rank - y.rank),
      counts[level],
    ),
  ).map((line) => `${line}\n`);
}

const ANNOTATED_LEVELS = ['error', 'warning'] as const satisfies readonly AnnotatedLevel[];

/** @param total how many there are, of which the annotations are the first. */
function writeAll(
  level: AnnotatedLevel,
  annotations: readonly Annotation[],
  total: number,
): readonly string[] {
  const shown = total > MAX_ANNOTATIONS ? annotations.slice(0, MAX_ANNOTATIONS - 1) : annotations;
  const lines = shown.map((annotation) => writeCommand(level, annotation));
  const [first, rest] = [annotations[0], total - shown.length];
  if (rest === 0 || first === undefined) return lines;
  const title = `bn-audit: ${formatPlural(rest, `more ${level}`)}`;
  const message = `${formatPlural(rest, `more ${level}`)} of ${total}; the report has them all`;
  return [...lines, writeCommand(level, { title, file: first.file, message })];
}

/** One annotation as a workflow command, without a line end: nothing in its texts ends the line or its part of it. */
export function writeCommand(
  level: AnnotatedLevel,
  { title, file, message }: { readonly title: string; readonly file?: string; readonly message: string },
): string {
  const place = file === undefined ? '' : `,file=${escapeProperty(escapeControls(file))}`;
  return `::${level} title=${escapeProperty(escapeControls(title))}${place}::${escapeData(escapeControls(message))}`;
}

/** As actions/toolkit escapes a command's message; markup is shown, whatever a page makes of the message. */
function escapeData(text: string): string {
  return text.replaceAll('<', '\\x3c').replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
}

/** As actions/toolkit escapes a command's properties. */
function escapeProperty(text: string): string {
  return escapeData(text).replaceAll(':', '%3A').replaceAll(',', '%2C');
}
