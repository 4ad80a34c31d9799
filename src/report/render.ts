// Renders a report in any format: what the library offers.

import { checkOptions } from '../options.js';
import type { AnyReport } from './any-report.js';
import { type AuditSet, isAuditSet, toReportSet } from './audit-set.js';
import { renderAzure } from './azure.js';
import { findFormat, type Renderer, type ReportFormat } from './formats.js';
import { renderGithub } from './github.js';
import { renderGitlab } from './gitlab.js';
import { renderHtml } from './html/render-html.js';
import { renderJson } from './json.js';
import { renderJunit } from './junit.js';
import { renderMarkdown } from './markdown.js';
import { renderSarif } from './sarif.js';
import { renderSummary } from './summary.js';
import { renderText } from './text.js';
import type { RendererOptions } from './text-layout.js';

export type { ReportFormat } from './formats.js';

/** How to render a report. */
export interface RenderOptions extends RendererOptions {
  /** `text` unless given. */
  readonly format?: ReportFormat | undefined;
}

/** The renderers of the registry's rows, loaded at once: {@link render} cannot wait. */
const RENDERERS: Readonly<Record<ReportFormat, Renderer>> = {
  text: renderText,
  json: renderJson,
  markdown: renderMarkdown,
  html: renderHtml,
  junit: renderJunit,
  sarif: renderSarif,
  github: renderGithub,
  gitlab: renderGitlab,
  azure: renderAzure,
  summary: renderSummary,
};

/**
 * Renders a report, of one audit or inspection or of several audits, to a string that is empty or ends with a line
 * end. Pure: the same report and options give the same text.
 *
 * @throws UsageError when an option is not what it must be, as when `format` is none of the formats.
 * @throws RangeError when `layer` names none of the report's layers.
 */
export function render(report: AnyReport | AuditSet, options: RenderOptions = {}): string {
  checkOptions('render', options);
  const { format = 'text' } = options;
  findFormat(format);
  return [...RENDERERS[format](isAuditSet(report) ? toReportSet(report) : report, options)].join('');
}
