import { FINDING_TITLES, type FindingLevel } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import { type AnyReport, getJudgedCheckpoint, showSafely } from './any-report.js';
import { findArtifactPath } from './artifact-path.js';
import { type AuditFailure, type AuditSet, FAILURE_TITLE } from './audit-set.js';
import { formatPlural } from './format-numbers.js';
import { rankFindings } from './ranked-findings.js';
import type { LocationOptions } from './sarif.js';

/** GitHub shows no more annotations of one type from a step. */
export const MAX_ANNOTATIONS = 10;

const MAX_NAME_LENGTH = 200;
const MAX_MESSAGE_LENGTH = 1000;

type AnnotatedLevel = Exclude<FindingLevel, 'note'>;

/** One line on a file of a run. */
interface Annotation {
  readonly title: string;
  readonly file: string;
  readonly message: string;
}

/**
 * Findings as GitHub workflow commands, for the log of a job: at most ten errors and ten warnings, worst first, the
 * last of which counts the rest. Empty when there are none; notes are not annotated.
 */
export function renderGithub(report: AnyReport, options: LocationOptions = {}): string {
  return writeCommands([report], [], options);
}

/** The same for all audits of a step, which share its ten: the worst finding of each comes before any second one. */
export function renderGithubSet({ reports, failures }: AuditSet, options: LocationOptions = {}): string {
  return writeCommands(reports, failures, options);
}

function writeCommands(
  reports: readonly AnyReport[],
  failures: readonly AuditFailure[],
  { root }: LocationOptions,
): string {
  const failed = failures.map(({ after, message }) => ({
    title: FAILURE_TITLE,
    file: findArtifactPath(after, root),
    message: message.slice(0, MAX_MESSAGE_LENGTH),
  }));
  const errors = [...failed, ...listAnnotations('error', reports, root)];
  return [...writeAll('error', errors), ...writeAll('warning', listAnnotations('warning', reports, root))]
    .map((line) => `${line}\n`)
    .join('');
}

function listAnnotations(
  level: AnnotatedLevel,
  reports: readonly AnyReport[],
  root: string | undefined,
): readonly Annotation[] {
  const ranked = reports.flatMap((report) => {
    const file = findArtifactPath(getJudgedCheckpoint(report).path, root);
    const findings = rankFindings(report).filter(({ finding }) => finding.level === level);
    return findings.map(({ finding }, rank) => ({ rank, file, finding }));
  });
  return ranked
    .sort((x, y) => x.rank - y.rank)
    .map(({ file, finding: { kind, layer, message, docs } }) => ({
      title: FINDING_TITLES[kind],
      file,
      message: `${showSafely(layer, MAX_NAME_LENGTH)}: ${message.slice(0, MAX_MESSAGE_LENGTH)} (${kind}, ${docs})`,
    }));
}

function writeAll(level: AnnotatedLevel, annotations: readonly Annotation[]): readonly string[] {
  const shown =
    annotations.length > MAX_ANNOTATIONS ? annotations.slice(0, MAX_ANNOTATIONS - 1) : annotations;
  const lines = shown.map((annotation) => writeCommand(level, annotation));
  const [first, rest] = [annotations[0], annotations.length - shown.length];
  if (rest === 0 || first === undefined) return lines;
  const title = `bn-audit: ${formatPlural(rest, `more ${level}`)}`;
  const message = `${formatPlural(rest, `more ${level}`)} of ${annotations.length}; the report has them all`;
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
