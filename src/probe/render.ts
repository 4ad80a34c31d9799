// Renders a probe report as text, JSON, Markdown or HTML.

import { checkOptions } from '../options.js';
import { showSafely } from '../report/any-report.js';
import {
  type Column,
  type Document,
  describeCheckpoint,
  makeTable,
  names,
  numbers,
} from '../report/document.js';
import { formatCount } from '../report/format-numbers.js';
import { findFormat, type ReportFormat } from '../report/formats.js';
import { writeHtml } from '../report/html/html.js';
import { toJson } from '../report/json.js';
import { showText, writeMarkdown } from '../report/markdown.js';
import { writeText } from '../report/text.js';
import { NO_VALUE, type TextOptions } from '../report/text-layout.js';
import {
  answerProbe,
  describeInputs,
  explainColumns,
  formatCosine,
  formatShare,
  type ProbeLayer,
  type ProbeOutput,
  type ProbeReport,
} from './probe-report.js';

/** A form that a probe can be printed in. */
export type ProbeFormat = ReportFormat<'probe'>;

/** How to render a probe. */
export interface ProbeRenderOptions extends TextOptions {
  /** `text` unless given. */
  readonly format?: ProbeFormat | undefined;
}

const RENDERERS: Readonly<Record<ProbeFormat, (report: ProbeReport, options: TextOptions) => string>> = {
  text: (report, options) => writeText(describeProbe(report), options),
  json: toJson,
  markdown: (report, { all = false }) => {
    const { tool, runtime } = report;
    const foot = `${tool.name} ${tool.version}, ${runtime.name} ${showText(runtime.version)}`;
    return writeMarkdown(describeProbe(report), { all, foot });
  },
  html: (report) => {
    const { tool, runtime } = report;
    const madeWith = ` with ${runtime.name} ${showSafely(runtime.version)}`;
    return writeHtml(describeProbe(report), { tool, madeWith, about: 'Probe' });
  },
};

/**
 * Renders a probe to a string that ends with a line end. Pure: the same report and options give the same text.
 *
 * @throws UsageError when an option is not what it must be, as when `format` is none of a probe's.
 */
export function renderProbe(report: ProbeReport, options: ProbeRenderOptions = {}): string {
  checkOptions('renderProbe', options);
  const { format = 'text' } = options;
  findFormat(format, 'probe');
  return RENDERERS[format](report, options);
}

/** What a probe found: the answer, the outputs, the layers along the depth. */
function describeProbe(report: ProbeReport): Document {
  const { before, after, outputs, layers, warnings } = report;
  const isMixed = layers.some(({ putBack }) => !putBack);
  return {
    answer: answerProbe(report),
    facts: [
      describeCheckpoint('before', before),
      describeCheckpoint('after', after),
      { role: 'inputs', what: describeInputs(report), contents: [] },
    ],
    blocks: [
      makeTable(outputs, OUTPUT_COLUMNS, {
        shown: { text: outputs.length, markdown: outputs.length },
        noun: 'output',
        section: {
          title: 'Outputs',
          lead: 'After as it stands, measured against after with before’s statistics.',
        },
      }),
      {
        kind: 'moves',
        layers: layers.map(({ movement }) => ({
          alone: movement?.sameInput ?? null,
          network: movement?.inNetwork ?? null,
        })),
      },
      makeTable(layers, isMixed ? MIXED_COLUMNS : LAYER_COLUMNS, {
        shown: { text: 60, markdown: 200 },
        noun: 'layer',
        section: { title: 'Layers' },
      }),
      { kind: 'terms', terms: explainColumns(report) },
      { kind: 'notes', notes: warnings },
    ],
  };
}

const OUTPUT_COLUMNS: readonly Column<ProbeOutput>[] = [
  names('output'),
  { title: 'shape', cell: ({ shape }) => `[${shape.join(', ')}]` },
  numbers('relative L2', ({ relativeL2 }) => relativeL2),
  numbers('cosine', ({ cosine }) => cosine, { format: formatCosine }),
  numbers('largest difference', ({ maxDifference }) => maxDifference, { text: { title: 'largest diff' } }),
  numbers('top-1 changed', ({ top1 }) => top1?.changed, {
    cell: ({ top1 }) =>
      top1 === null
        ? NO_VALUE
        : `${formatCount(top1.changed)} of ${formatCount(top1.samples)} (${formatShare(top1.share)})`,
  }),
];

const MIXED_COLUMNS: readonly Column<ProbeLayer>[] = [
  names('layer, along the depth'),
  {
    title: 'status',
    cell: ({ status, putBack }) => (putBack ? `${status}, put back` : status),
    text: { cell: ({ status, putBack }) => (putBack ? 'put back' : status) },
  },
  numbers('predicted', ({ outputShift }) => outputShift),
  numbers('alone', ({ movement }) => movement?.sameInput),
  numbers('in network', ({ movement }) => movement?.inNetwork),
  numbers('explains', ({ contribution }) => contribution?.explained, {
    format: formatShare,
    bar: ({ contribution }) => contribution?.explained ?? null,
    full: 1,
  }),
];

/** Where every layer was put back, that says no more in text. */
const LAYER_COLUMNS = MIXED_COLUMNS.map((column) =>
  column.title === 'status' ? { ...column, text: false as const } : column,
);
