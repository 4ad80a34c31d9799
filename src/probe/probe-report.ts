// The report of `probe`, the answer at its head, and its forms: text, JSON, Markdown and HTML.

import { measuresOf, viaOf } from '../compare/compare-layers.js';
import { describeUnpaired } from '../compare/findings.js';
import type { LayerStatus } from '../compare/status.js';
import { findDocs, TOOL_NAME, VERSION } from '../errors.js';
import { checkOptions } from '../options.js';
import type { Answer } from '../report/answer.js';
import { encloseName, showSafely } from '../report/any-report.js';
import { type AuditReport, type CheckpointSummary, groupNotes } from '../report/audit-report.js';
import {
  type Column,
  type Document,
  describeCheckpoint,
  makeTable,
  names,
  numbers,
} from '../report/document.js';
import { formatCount, formatMeasure, formatPlural } from '../report/format-numbers.js';
import { findFormat } from '../report/formats.js';
import { writeHtml } from '../report/html/html.js';
import { toJson } from '../report/json.js';
import { showText, writeMarkdown } from '../report/markdown.js';
import { writeText } from '../report/text.js';
import { NO_VALUE, type TextOptions } from '../report/text-layout.js';
import type { InputRuns } from './inputs.js';
import type { LayerResult, ProbeOutput, RunResults } from './run.js';

/** A norm layer of a probe, along the depth of after's graph. */
export interface ProbeLayer extends Omit<LayerResult, 'plan'> {
  readonly name: string;
  readonly node: string | null;
  readonly status: LayerStatus;
  readonly via: 'live' | 'folded';
  readonly channels: number;
  readonly putBack: boolean;
  /** What the statistics alone predict; null where folding hides them. */
  readonly outputShift: number | null;
  readonly notes: readonly string[];
}

/** The result of a probe: exactly what `--format json` prints. */
export interface ProbeReport extends Omit<RunResults, 'layers'> {
  readonly schemaVersion: 1;
  readonly tool: { readonly name: string; readonly version: string };
  readonly before: CheckpointSummary;
  readonly after: CheckpointSummary;
  readonly runtime: { readonly name: 'onnxruntime-node'; readonly version: string };
  readonly inputs: Omit<InputRuns, 'read'>;
  /** How many layers were put back, and how many of those alone as well. */
  readonly putBack: { readonly layers: number; readonly alone: number };
  readonly layers: readonly ProbeLayer[];
  readonly warnings: readonly string[];
}

interface ProbeResults extends RunResults {
  readonly audit: AuditReport;
  readonly runtimeVersion: string;
  readonly inputs: InputRuns;
  /** Outputs of the model that are no tensors, and so were not fetched. */
  readonly unfetched: readonly string[];
}

/** The copy differs from after by rounding; float16 rounds to 5e-4. */
const MAX_COPY_ERROR = 5e-3;

/** Puts a probe's results in the report's form. */
export function buildProbeReport(results: ProbeResults): ProbeReport {
  const { audit, outputs, copyError, repeatError } = results;
  const { read: _, ...inputs } = results.inputs;
  const layers = results.layers.map(toProbeLayer);
  return {
    schemaVersion: 1,
    tool: { name: TOOL_NAME, version: VERSION },
    before: audit.before,
    after: audit.after,
    runtime: { name: 'onnxruntime-node', version: results.runtimeVersion },
    inputs,
    putBack: {
      layers: layers.filter(({ putBack }) => putBack).length,
      alone: layers.filter(({ contribution }) => contribution !== null).length,
    },
    outputs,
    layers,
    copyError,
    repeatError,
    warnings: listWarnings(results, layers),
  };
}

function toProbeLayer({ plan, movement, contribution }: LayerResult): ProbeLayer {
  const { comparison, fed, notes } = plan;
  const { name, after, status, channels } = comparison;
  return {
    name,
    node: after.nodeName,
    status,
    via: viaOf(comparison),
    channels,
    putBack: fed !== null,
    outputShift: measuresOf(comparison)?.outputShift ?? null,
    movement,
    contribution,
    notes,
  };
}

function listWarnings(
  { audit, inputs, outputs, repeatError, copyError, unfetched }: ProbeResults,
  layers: readonly ProbeLayer[],
): readonly string[] {
  const left = layers.filter(
    ({ putBack, status }) => !putBack && status !== 'locked' && status !== 'held' && status !== 'drifted',
  );
  const statuses = [...new Set(left.map(({ status }) => status))].join(', ');
  return [
    ...(inputs.kind === 'random'
      ? [
          'the inputs are random numbers: norm layers see statistics that no real data has, which as a rule exaggerates the differences; give real samples with --input',
        ]
      : []),
    ...(repeatError === 0
      ? []
      : [
          `the model gives other outputs each time it runs on the same inputs (relative L2 ${repeatError.toPrecision(2)}): it draws random numbers, and the differences hold those as well`,
        ]),
    ...(copyError <= MAX_COPY_ERROR
      ? []
      : [
          `the copy of after that was run differs from after itself by ${copyError.toPrecision(2)} (relative L2), more than rounding explains`,
        ]),
    ...outputs
      .filter(({ nonFinite }) => nonFinite !== null && nonFinite.after + nonFinite.restored > 0)
      .map(
        ({ name, nonFinite }) =>
          `the output ${name} holds ${nonFinite?.after} values that are NaN or infinite in after, ${nonFinite?.restored} with the statistics put back`,
      ),
    ...(left.length > 0
      ? [
          `${left.length} of ${layers.length} norm layers did more than drift (${statuses}) and keep after's statistics; --layer GLOB puts those of other layers back`,
        ]
      : []),
    ...unfetched.map((name) => `the output ${name} is no tensor and is not compared`),
    ...groupNotes(layers),
    ...describeUnpaired(audit.findings, 'not put back'),
    ...audit.warnings,
  ];
}

/** What a probe found. */
function answerProbe(report: ProbeReport): Answer {
  const worst = findWorstOutput(report.outputs);
  const { layers } = report.putBack;
  const isStill = worst === null || worst.relativeL2 === 0;
  return {
    outcome: isStill ? 'clean' : 'drifted',
    word: isStill ? 'Still' : 'Moved',
    headline: writeHeadline(report, isStill ? null : worst),
    explanation:
      layers === 0
        ? 'Both runs have the statistics of after.'
        : `One run is after as it stands, the other after with before’s statistics in ${formatCount(layers)} of ${formatPlural(report.layers.length, 'norm layer')}; weights and inputs are the same, so the difference is that of the statistics alone.${describeAlone(report)}`,
  };
}

function describeAlone({ putBack: { layers, alone } }: ProbeReport): string {
  if (alone === layers) return '';
  return alone === 0
    ? ' No layer was put back alone.'
    : ` ${formatCount(alone)} of them were put back alone as well.`;
}

function writeHeadline({ putBack, outputs, layers }: ProbeReport, moved: ProbeOutput | null): string {
  if (moved === null) {
    if (putBack.layers > 0) return 'putting the statistics back changes no output';
    return layers.some(({ status }) => status === 'drifted' || status === 'invalid')
      ? 'nothing could be put back: the notes below say why'
      : 'no norm layer drifted: nothing is put back, and the outputs agree exactly';
  }
  const output = outputs.length === 1 ? 'the output' : `the output ${encloseName(moved.name)}`;
  const size = `${formatMeasure(moved.relativeL2 ?? Number.NaN)} of its own size`;
  return putBack.layers === 0
    ? `nothing is put back, yet two runs of the model differ in ${output} by ${size}`
    : `the statistics move ${output} by ${size}${describeTopOne(moved)}`;
}

/** The output that differs most; a NaN counts as most. */
function findWorstOutput(outputs: readonly ProbeOutput[]): ProbeOutput | null {
  const rank = ({ relativeL2 }: ProbeOutput) =>
    relativeL2 === null ? -1 : Number.isNaN(relativeL2) ? Number.POSITIVE_INFINITY : relativeL2;
  return outputs.reduce<ProbeOutput | null>(
    (worst, output) => (rank(output) > (worst === null ? -1 : rank(worst)) ? output : worst),
    null,
  );
}

function describeTopOne({ top1 }: ProbeOutput): string {
  if (top1 === null) return '';
  const samples = formatPlural(top1.samples, 'sample');
  return top1.changed === 0
    ? `; the top class of all ${samples} stays`
    : `; the top class of ${formatCount(top1.changed)} of ${samples} changes`;
}

/** Where the inputs come from, in a phrase. */
function describeInputs({ inputs }: ProbeReport): string {
  const samples = formatPlural(inputs.samples, 'sample');
  if (inputs.kind === 'random') return `${samples} of random numbers (standard normal, seed ${inputs.seed})`;
  const files = [...new Set(inputs.arrays.flatMap(({ file }) => file ?? []))];
  return `${samples} from ${files.map(encloseName).join(', ')}`;
}

/** A share with its sign, in per cent: `36 %`, `−4.1 %`. */
function formatShare(share: number): string {
  if (!Number.isFinite(share)) return formatMeasure(share);
  const percent = share * 100;
  const text = Math.abs(percent) >= 9.95 || percent === 0 ? percent.toFixed(0) : percent.toFixed(1);
  return `${text.replace(/^-(?=[\d.]*[1-9])/, '−').replace(/^-/, '')} %`;
}

/** A cosine: as many digits as it takes to tell it from 1. */
function formatCosine(cosine: number): string {
  if (cosine === 1 || !Number.isFinite(cosine)) return formatMeasure(cosine).replace(/\.0+$/, '');
  const text = cosine.toFixed(4);
  return (text === '1.0000' ? `1 − ${formatMeasure(1 - cosine)}` : text).replace(/^-/, '−');
}

/** What the columns of the layers' table mean; those of runs that were not made are left out. */
function explainColumns({ putBack }: ProbeReport): readonly (readonly [term: string, meaning: string])[] {
  return COLUMN_NOTES.filter(([term]) => putBack.alone > 0 || term === 'predicted' || term === 'in network');
}

const COLUMN_NOTES = [
  ['predicted', `the output shift that the statistics alone tell (${findDocs('docs/measures.md')})`],
  ['alone', 'how far the layer’s output moves on these inputs when its own statistics are put back'],
  ['in network', 'how far the layer’s output moves when all statistics are put back'],
  [
    'explains',
    'how much of the outputs’ difference goes when this layer alone is put back; layers act on each other, so that shares may be negative and need not add up to 100 %',
  ],
] as const;

/** How to render a probe. */
export interface ProbeRenderOptions extends TextOptions {
  /** `text` unless given. */
  readonly format?: ProbeFormat | undefined;
}

/** The forms that a probe can be printed in. */
export const PROBE_FORMATS = ['text', 'json', 'markdown', 'html'] as const;

/** A form that a probe can be printed in. */
export type ProbeFormat = (typeof PROBE_FORMATS)[number];

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
  findFormat(format, PROBE_FORMATS);
  return RENDERERS[format](report, options);
}

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
        layers: layers.map(({ name, movement }) => ({
          name,
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
