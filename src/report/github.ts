// Annotations of GitHub Actions.

import { type FindingLevel, titleOf } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import {
  type AnyReport,
  getJudgedCheckpoint,
  LIMITS,
  rankFindings,
  showSafely,
  type TrackedFinding,
} from './any-report.js';
import { FAILURE_TITLE, listReports, type ReportSet } from './audit-set.js';
import { formatPlural } from './format-numbers.js';
import { findArtifactPath } from './sarif.js';
import type { Pieces, RendererOptions } from './text-layout.js';

/** GitHub shows no more annotations of one type from a step. */
export const MAX_ANNOTATIONS = 10;

type AnnotatedLevel = Exclude<FindingLevel, 'note'>;

/** One line on a file of a run. */
interface Annotation {
  readonly title: string;
  readonly file: string;
  readonly message: string;
}

/**
 * Findings as GitHub workflow commands, for the log of a job: at most ten errors and ten warnings, worst first, the
 * last of which counts the rest. Empty when there are none; notes are not annotated. All audits of a step share its ten:
 * the worst finding of each comes before any second one.
 */
export function renderGithub(report: AnyReport | ReportSet, { root }: RendererOptions): Pieces {
  const { reports, failures } = listReports(report);
  const failed = failures.map(({ after, message }) => ({
    title: FAILURE_TITLE,
    file: findArtifactPath(after, root),
    message: message.slice(0, LIMITS.github.message),
  }));
  const ranked: Record<AnnotatedLevel, RankedAnnotation[]> = { error: [], warning: [] };
  const counts: Record<AnnotatedLevel, number> = { error: failed.length, warning: 0 };
  for (const one of reports) {
    const findings = rankFindings(one);
    for (const level of ANNOTATED_LEVELS) {
      const own = findings.filter(({ finding }) => finding.level === level);
      counts[level] += own.length;
      // No more can be shown, even if these come before all others.
      ranked[level].push(...annotate(own.slice(0, MAX_ANNOTATIONS), one, root));
    }
  }
  const sorted = (level: AnnotatedLevel) => ranked[level].sort((x, y) => x.rank - y.rank);
  return [
    ...writeAll('error', [...failed, ...sorted('error')], counts.error),
    ...writeAll('warning', sorted('warning'), counts.warning),
  ].map((line) => `${line}\n`);
}

const ANNOTATED_LEVELS = ['error', 'warning'] as const satisfies readonly AnnotatedLevel[];

/** An annotation with its place among those of its report. */
interface RankedAnnotation extends Annotation {
  readonly rank: number;
}

function annotate(
  findings: readonly TrackedFinding[],
  report: AnyReport,
  root: string | undefined,
): readonly RankedAnnotation[] {
  const file = findArtifactPath(getJudgedCheckpoint(report).path, root);
  return findings.map(({ finding: { kind, layer, message, docs } }, rank) => ({
    rank,
    title: titleOf(kind),
    file,
    message: `${showSafely(layer, LIMITS.github.name)}: ${message.slice(0, LIMITS.github.message)} (${kind}, ${docs})`,
  }));
}

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
