// Renders a report in any format but text and JSON.

import { checkOptions } from '../options.js';
import type { AnyReport } from './any-report.js';
import { type AuditSet, isAuditSet, type ReportSet, toReportSet } from './audit-set.js';
import {
  type Pieces,
  REPORT_FORMATS,
  type RenderOptions,
  type ReportFormat,
  refuseFormat,
} from './formats.js';
import { renderGithub, renderGithubSet } from './github.js';
import { renderGitlab, renderGitlabSet } from './gitlab.js';
import { renderHtml, renderSetHtml } from './html/html.js';
import { renderJunit, renderJunitSet } from './junit.js';
import { renderMarkdown, renderSetMarkdown } from './markdown.js';
import { renderPlain } from './render-plain.js';
import { renderSarif, renderSarifSet } from './sarif.js';

export type { RenderOptions, ReportFormat } from './formats.js';

/**
 * Renders a report, of one audit or inspection or of several audits, to a string that is empty or ends with a line
 * end. Pure: the same report and options give the same text.
 *
 * @throws UsageError when an option is not what it must be, as when `format` is none of {@link REPORT_FORMATS}.
 * @throws RangeError when `layer` names none of the report's layers.
 */
export function render(report: AnyReport | AuditSet, options: RenderOptions = {}): string {
  return [...renderPieces(report, options)].join('');
}

/**
 * The same in pieces, so that the text of a large report is never in memory as a whole.
 *
 * @throws as {@link render}, also while the pieces are asked for.
 */
export function renderPieces(report: AnyReport | AuditSet | ReportSet, options: RenderOptions = {}): Pieces {
  checkOptions('render', options);
  const format = options.format ?? 'text';
  return isAuditSet(report)
    ? renderSet(toReportSet(report), format, options)
    : renderOne(report, format, options);
}

function renderOne(report: AnyReport, format: ReportFormat, options: RenderOptions): Pieces {
  switch (format) {
    case 'json':
    case 'text':
      return renderPlain(report, format, options);
    case 'markdown':
      return [renderMarkdown(report, options)];
    case 'html':
      return [renderHtml(report)];
    case 'junit':
      return renderJunit(report);
    case 'sarif':
      return renderSarif(report, options);
    case 'github':
      return [renderGithub(report, options)];
    case 'gitlab':
      return renderGitlab(report, options);
    default:
      return refuseFormat(format, REPORT_FORMATS);
  }
}

function renderSet(set: ReportSet, format: ReportFormat, options: RenderOptions): Pieces {
  switch (format) {
    case 'json':
    case 'text':
      return renderPlain(set, format, options);
    case 'markdown':
      return [renderSetMarkdown(set, options)];
    case 'html':
      return [renderSetHtml(set)];
    case 'junit':
      return renderJunitSet(set);
    case 'sarif':
      return renderSarifSet(set, options);
    case 'github':
      return [renderGithubSet(set, options)];
    case 'gitlab':
      return renderGitlabSet(set, options);
    default:
      return refuseFormat(format, REPORT_FORMATS);
  }
}
