// What a report says, whichever command made it.

import { type AnyReport, isAudit, isTrace } from './any-report.js';
import { type Document, describeAudit, describeInspection } from './document.js';
import { describeTrace } from './trace-document.js';

/** What a report says; with `all`, of every layer. */
export function describeReport(report: AnyReport, { all }: { readonly all: boolean }): Document {
  if (isTrace(report)) return describeTrace(report, all);
  return isAudit(report) ? describeAudit(report, all) : describeInspection(report);
}
