// Renders a report as text or JSON, which most runs need.

import { type AnyReport, isAudit } from './any-report.js';
import type { AuditReport } from './audit-report.js';
import { type AuditSet, isAuditSet, type ReportSet, toReportSet } from './audit-set.js';
import type { Pieces, PlainFormat, RenderOptions } from './formats.js';
import { renderJson } from './json.js';
import { renderInspectText, renderLayerText, renderSetText, renderText } from './text.js';

/**
 * Renders a report as text or JSON.
 *
 * @throws RangeError when `layer` names none of the report's layers.
 */
export function renderPlain(
  report: AnyReport | AuditSet | ReportSet,
  format: PlainFormat,
  options: RenderOptions,
): Pieces {
  if (format === 'json') return renderJson(report);
  if (isAuditSet(report)) return renderSetText(toReportSet(report), options);
  return [isAudit(report) ? renderAuditText(report, options) : renderInspectText(report, options)];
}

function renderAuditText(report: AuditReport, options: RenderOptions): string {
  if (options.layer === undefined) return renderText(report, options);
  const layer = report.layers.find(({ name }) => name === options.layer);
  if (layer === undefined) throw new RangeError(`the report has no layer ${options.layer}`);
  return renderLayerText(layer, options);
}
