// A line for each audit, for logs.

import {
  type AnyReport,
  isAudit,
  LIMITS,
  listPaths,
  showMessage,
  showSafely,
  writePhrase,
} from './any-report.js';
import { listReports, type ReportSet } from './audit-set.js';
import { describeReport } from './describe-report.js';
import { groupFindingsBy } from './finding-groups.js';
import { formatCount, formatMeasure, formatPlural } from './format-numbers.js';
import { formatLayers } from './layer-nouns.js';
import type { Pieces } from './text-layout.js';

/**
 * A report in a line, or several audits in a line each, what could not be done first:
 *
 *     bn-audit: drifted: base.pt → tuned.pt: 8 of 8 norm layers drifted, worst stem.bn (output shift 0.549); 8 errors
 */
export function* renderSummary(report: AnyReport | ReportSet): Pieces {
  const { reports, failures } = listReports(report);
  const { name } = report.tool;
  for (const { before, after, message } of failures)
    yield `${name}: failed: ${show(before)} → ${show(after)}: ${showMessage(message, LIMITS.github.message)}\n`;
  for (const one of reports) {
    const paths = listPaths(one).map(show);
    yield `${name}: ${describeReport(one, { all: false }).answer.word.toLowerCase()}: ${paths.join(' → ')}: ${describe(one)}${countFindings(one)}\n`;
  }
}

function describe(report: AnyReport): string {
  if (!isAudit(report)) return writePhrase(describeReport(report, { all: false }).answer.headline, show);
  const { byStatus, layers, worst } = report.summary;
  const moved = `${formatCount(byStatus.drifted)} of ${formatLayers(layers, report.layers)} drifted`;
  return worst === null
    ? moved
    : `${moved}, worst ${show(worst.layer)} (output shift ${formatMeasure(worst.outputShift)})`;
}

/** `; 8 errors, 1 warning`: how many there are of each level; empty without any. */
function countFindings({ findings }: AnyReport): string {
  const groups = groupFindingsBy(findings, ({ level }) => level);
  const counts = (['error', 'warning', 'note'] as const).flatMap((level) =>
    groups.filter(([first]) => first.level === level).map(({ length }) => formatPlural(length, level)),
  );
  return counts.length === 0 ? '' : `; ${counts.join(', ')}`;
}

function show(name: string): string {
  return showSafely(name, LIMITS.github.name);
}
