import { FINDING_TITLES, type FindingLevel } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import {
  type AnyReport,
  getJudgedCheckpoint,
  rankFindings,
  showSafely,
  type TrackedFinding,
} from './any-report.js';
import { findArtifactPath } from './artifact-path.js';
import { formatPlural } from './format-numbers.js';
import type { LocationOptions } from './sarif.js';

/** GitHub shows no more annotations of one type from a step. */
export const MAX_ANNOTATIONS = 10;

const MAX_NAME_LENGTH = 200;
const MAX_MESSAGE_LENGTH = 1000;

type AnnotatedLevel = Exclude<FindingLevel, 'note'>;

/**
 * Findings as GitHub workflow commands, for the log of a job: at most ten errors and ten warnings, worst first, the
 * last of which counts the rest. Empty when there are none; notes are not annotated.
 */
export function renderGithub(report: AnyReport, { root }: LocationOptions = {}): string {
  const file = findArtifactPath(getJudgedCheckpoint(report).path, root);
  const ranked = rankFindings(report);
  return [...annotate('error', ranked, file), ...annotate('warning', ranked, file)]
    .map((line) => `${line}\n`)
    .join('');
}

function annotate(level: AnnotatedLevel, ranked: readonly TrackedFinding[], file: string): readonly string[] {
  const findings = ranked.map(({ finding }) => finding).filter((finding) => finding.level === level);
  const shown = findings.length > MAX_ANNOTATIONS ? findings.slice(0, MAX_ANNOTATIONS - 1) : findings;
  const rest = findings.length - shown.length;
  const lines = shown.map(({ kind, layer, message, docs }) =>
    writeCommand(level, {
      title: FINDING_TITLES[kind],
      file,
      message: `${showSafely(layer, MAX_NAME_LENGTH)}: ${escapeControls(message).slice(0, MAX_MESSAGE_LENGTH)} (${kind}, ${docs})`,
    }),
  );
  if (rest === 0) return lines;
  const message = `${formatPlural(rest, `more ${level}`)} of ${findings.length}; the report has them all`;
  return [
    ...lines,
    writeCommand(level, { title: `bn-audit: ${formatPlural(rest, `more ${level}`)}`, file, message }),
  ];
}

function writeCommand(
  level: AnnotatedLevel,
  { title, file, message }: { title: string; file: string; message: string },
): string {
  return `::${level} title=${escapeProperty(title)},file=${escapeProperty(escapeControls(file))}::${escapeData(message)}`;
}

/** As actions/toolkit escapes a command's message. */
function escapeData(text: string): string {
  return text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
}

/** As actions/toolkit escapes a command's properties. */
function escapeProperty(text: string): string {
  return escapeData(text).replaceAll(':', '%3A').replaceAll(',', '%2C');
}
