import { type AnyReport, isAudit } from './any-report.js';
import type { AuditReport } from './audit-report.js';
import { renderGithub } from './github.js';
import { renderGitlab } from './gitlab.js';
import { renderHtml } from './html.js';
import { renderJson } from './json.js';
import { renderJunit } from './junit.js';
import { renderMarkdown } from './markdown.js';
import { type LocationOptions, renderSarif } from './sarif.js';
import { renderText, type TextOptions } from './text.js';
import { renderInspectText } from './text-inspect.js';
import { renderLayerText } from './text-layer.js';

/** The forms that a report can be printed in. */
export const REPORT_FORMATS = [
  'text',
  'json',
  'markdown',
  'html',
  'junit',
  'sarif',
  'github',
  'gitlab',
] as const;

/** A form that a report can be printed in. */
export type ReportFormat = (typeof REPORT_FORMATS)[number];

/** How to render a report. */
export interface RenderOptions extends TextOptions, LocationOptions {
  /** `text` unless given. */
  readonly format?: ReportFormat | undefined;
  /** In text, show this layer alone, channel by channel; the audit must have kept channels. */
  readonly layer?: string | undefined;
}

/**
 * Renders a report to a string that is empty or ends with a line end. Pure: the same report and options give the same
 * text.
 *
 * @throws RangeError when `layer` names none of the report's layers.
 */
export function render(report: AnyReport, options: RenderOptions = {}): string {
  const format = options.format ?? 'text';
  switch (format) {
    case 'json':
      return renderJson(report);
    case 'text':
      return isAudit(report) ? renderAuditText(report, options) : renderInspectText(report, options);
    case 'markdown':
      return renderMarkdown(report, options);
    case 'html':
      return renderHtml(report);
    case 'junit':
      return renderJunit(report);
    case 'sarif':
      return renderSarif(report, options);
    case 'github':
      return renderGithub(report, options);
    case 'gitlab':
      return renderGitlab(report, options);
    default:
      return format satisfies never;
  }
}

function renderAuditText(report: AuditReport, options: RenderOptions): string {
  if (options.layer === undefined) return renderText(report, options);
  const layer = report.layers.find(({ name }) => name === options.layer);
  if (layer === undefined) throw new RangeError(`the report has no layer ${options.layer}`);
  return renderLayerText(layer, options);
}
