import type { AuditReport } from './audit-report.js';
import type { InspectReport } from './inspect-report.js';

/**
 * A report as JSON, indented by two spaces, with a line end. Numbers that JSON cannot hold become the strings "NaN",
 * "Infinity" and "-Infinity"; control characters are escaped, also those that JSON would let through.
 */
export function renderJson(report: AuditReport | InspectReport): string {
  const text = JSON.stringify(
    report,
    (_, value: unknown) => (typeof value === 'number' && !Number.isFinite(value) ? String(value) : value),
    2,
  );
  // C1 controls and line separators are legal in JSON, but a terminal or a log viewer acts on them.
  return `${text.replace(/[\u007f-\u009f\u2028\u2029]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)}\n`;
}
