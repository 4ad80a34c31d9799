// Annotations of GitHub Actions.

import { escapeControls } from '../errors.js';
import { type AnnotatedLevel, listAnnotations } from './annotations.js';
import type { AnyReport } from './any-report.js';
import type { ReportSet } from './audit-set.js';
import type { Pieces, PrintingOptions } from './text-layout.js';

/** GitHub shows no more annotations of one type from a step. */
export const MAX_ANNOTATIONS = 10;

/**
 * Findings as GitHub workflow commands, for the log of a job: at most ten errors and ten warnings, worst first, the
 * last of which counts the rest. Empty when there are none; notes are not annotated.
 */
export function renderGithub(report: AnyReport | ReportSet, options: PrintingOptions): Pieces {
  return listAnnotations(report, options, MAX_ANNOTATIONS).map(
    (annotation) => `${writeCommand(annotation.level, annotation)}\n`,
  );
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
