import { checkOptions } from '../check-options.js';
import { refuseFormat } from './formats.js';
import { toJson } from './json.js';
import { PROBE_FORMATS, type ProbeRenderOptions } from './probe-formats.js';
import { renderProbeHtml } from './probe-html.js';
import { renderProbeMarkdown } from './probe-markdown.js';
import type { ProbeReport } from './probe-report.js';
import { renderProbeText } from './probe-text.js';

export type { ProbeFormat, ProbeRenderOptions } from './probe-formats.js';

/**
 * Renders a probe to a string that ends with a line end. Pure: the same report and options give the same text.
 *
 * @throws UsageError when an option is not what it must be, as when `format` is none of {@link PROBE_FORMATS}.
 */
export function renderProbe(report: ProbeReport, options: ProbeRenderOptions = {}): string {
  checkOptions('renderProbe', options);
  const format = options.format ?? 'text';
  switch (format) {
    case 'text':
      return renderProbeText(report, options);
    case 'json':
      return toJson(report);
    case 'markdown':
      return renderProbeMarkdown(report);
    case 'html':
      return renderProbeHtml(report);
    default:
      return refuseFormat(format, PROBE_FORMATS);
  }
}
