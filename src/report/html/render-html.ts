// Reports as one HTML page that needs nothing else, whichever command made them.

import { type AnyReport, isTrace } from '../any-report.js';
import { isAuditSet, type ReportSet } from '../audit-set.js';
import type { Pieces } from '../text-layout.js';
import { renderOne, renderSet } from './html.js';
import { renderTrace } from './trace-page.js';

/**
 * A report as one HTML page that needs no network and no server. Everything stands in the markup and reads without scripts;
 * the script sorts, filters and draws.
 */
export function renderHtml(report: AnyReport | ReportSet): Pieces {
  if (isAuditSet(report)) return [renderSet(report)];
  return [isTrace(report) ? renderTrace(report) : renderOne(report)];
}
