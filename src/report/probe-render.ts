import { toJson } from './json.js';
import { renderProbeHtml } from './probe-html.js';
import { renderProbeMarkdown } from './probe-markdown.js';
import type { ProbeReport } from './probe-report.js';
import { renderProbeText } from './probe-text.js';
import type { TextOptions } from './text.js';

/** The forms that a probe can be printed in. */
export const PROBE_FORMATS = ['text', 'json', 'markdown', 'html'] as const;

/** A form that a probe can be printed in. */
export type ProbeFormat = (typeof PROBE_FORMATS)[number];

/** How to render a probe. */
export interface ProbeRenderOptions extends TextOptions {
  /** `text` unless given. */
  readonly format?: ProbeFormat | undefined;
}

/** Renders a probe to a string that ends with a line end. Pure: the same report and options give the same text. */
export function renderProbe(report: ProbeReport, options: ProbeRenderOptions = {}): string {
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
      return format satisfies never;
  }
}
