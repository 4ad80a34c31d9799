import { LOG_COMMAND } from '../errors.js';
import type { AnyReport } from './any-report.js';
import type { AuditSet } from './audit-set.js';

/** A report as JSON: the contract of docs/json.md. */
export function renderJson(report: AnyReport | AuditSet): string {
  return toJson(report);
}

/**
 * A value as JSON text, indented, with a line end. Numbers that JSON cannot hold become strings; what a terminal, a log
 * viewer or a CI runner that reads the log would act on is escaped, also what JSON would let through.
 */
export function toJson(value: unknown): string {
  const text = JSON.stringify(
    value,
    (_, part: unknown) => (typeof part === 'number' && !Number.isFinite(part) ? String(part) : part),
    2,
  );
  return `${escapeJson(text)}\n`;
}

/** JSON in which what a terminal, a log viewer or a CI runner would act on is escaped: the values stay the same. */
export function escapeJson(text: string): string {
  return text.replace(LOG_COMMAND, escapeUnits).replace(/[\u007f-\u009f\p{Cf}\u2028\u2029]/gu, escapeUnits);
}

/** UTF-16 code units as JSON's escapes, which stand for the same text. */
function escapeUnits(character: string): string {
  return Array.from(
    { length: character.length },
    (_, index) => `\\u${character.charCodeAt(index).toString(16).padStart(4, '0')}`,
  ).join('');
}
