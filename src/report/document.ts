// What a report says, as blocks that text, Markdown and HTML each write in their own way.

import { UNMARKED_KIND } from '../compare/compare-layers.js';
import { type Finding, isLeadingDrift } from '../compare/findings.js';
import { LAYER_STATUSES, type LayerStatus } from '../compare/status.js';
import { type Answer, describeAnswer, isBiasOnly, keepCurableByEval, listRemedies } from './answer.js';
import { encloseName } from './any-report.js';
import {
  type AuditLayer,
  type AuditReport,
  type CheckpointSummary,
  groupNotes,
  sortByShift,
} from './audit-report.js';
import { type Advice, adviseFreeze, isFrozenDrift } from './fix-advice.js';
import {
  formatBatches,
  formatCount,
  formatMeasure,
  formatOptional,
  formatPlural,
  formatStdRatio,
} from './format-numbers.js';
import type { InspectLayer, InspectReport } from './inspect-report.js';
import { formatLayers } from './layer-nouns.js';
import { NO_VALUE, showName } from './text-layout.js';

/** What a report says. Sentences and cells are phrases: names from files in them are enclosed by {@link encloseName}. */
export interface Document {
  readonly answer: Answer;
  readonly facts: readonly Fact[];
  readonly blocks: readonly Block[];
}

/** How far the outputs of layers move along the depth, alone and in the network: what a page draws. */
export interface Moves {
  readonly kind: 'moves';
  readonly layers: readonly {
    readonly name: string;
    readonly alone: number | null;
    readonly network: number | null;
  }[];
}

/** What was looked at, e.g. a checkpoint's role, its path and what it holds. */
export interface Fact {
  readonly role: string;
  /** A phrase. */
  readonly what: string;
  /** What it holds, in order: its format, then counts. */
  readonly contents: readonly string[];
}

/** A part of a report. */
export type Block =
  | Table
  | Moves
  | { readonly kind: 'findings'; readonly findings: readonly Finding[] }
  | { readonly kind: 'regions'; readonly report: AuditReport }
  /** What a reader should know beyond the findings: sentences that hold names from files as they are. */
  | { readonly kind: 'notes'; readonly notes: readonly string[] }
  /** What words of the report mean, or what there is so much of; meanings are phrases. */
  | {
      readonly kind: 'terms';
      readonly title?: string;
      readonly terms: readonly (readonly [term: string, meaning: string])[];
    }
  /** What to do, a paragraph for each cause. */
  | { readonly kind: 'remedies'; readonly remedies: readonly string[] }
  | { readonly kind: 'advice'; readonly advice: Advice };

/** Rows of phrases, of which each format shows as many as it has room for. */
export interface Table extends TableOptions {
  readonly kind: 'table';
  readonly columns: readonly Column<never>[];
  readonly length: number;
  /** The first rows, a cell for each column. */
  readonly take: (count: number, isText: boolean) => readonly (readonly Cell[])[];
}

/** A cell's phrase; how long a bar beside it is, and the values that a line is drawn of, where it has them. */
export interface Cell {
  readonly phrase: string;
  readonly size: number | null;
  readonly trend: Trend | null;
}

interface TableOptions {
  /** So many rows are shown unless all are asked for. */
  readonly shown: { readonly text: number; readonly markdown: number };
  /** What a row is, and why those that are left out are. */
  readonly noun: string;
  readonly rest?: string;
  /** Over the table in text. */
  readonly title?: string;
  /** What the table is about, where the findings below it do not say. */
  readonly sort?: Finding;
  /** What marks in cells mean, in text. */
  readonly footnote?: string;
  /** Whether it stands at the margin in text. */
  readonly isFlush?: true;
  /** On a page, the section's title and what stands above the table. */
  readonly section?: { readonly title: string; readonly lead?: string };
}

/** A column of a {@link Table}. */
export interface Column<Row> {
  readonly title: string;
  readonly isNumber?: true;
  /** Whether it is what matters. */
  readonly isStrong?: true;
  /** Whether narrow text goes without it. */
  readonly isSpare?: true;
  /** What the title means, where a page has room to say it. */
  readonly hint?: string;
  readonly cell: (row: Row) => string;
  /** What a page sorts by; without it, by the cell's text. */
  readonly value?: (row: Row) => number | null;
  /** The size that a bar shows; the longest is that of `full`, or of the largest. */
  readonly bar?: (row: Row) => number | null;
  readonly full?: number;
  /** Values in a row that a page draws as a line instead of the cell. */
  readonly trend?: (row: Row) => Trend;
  /** What text, where columns are dear, shows instead; false where it goes without. */
  readonly text?:
    | { readonly title?: string; readonly cell?: (row: Row) => string; readonly hasNoBar?: true }
    | false;
}

/** Values in a row, null where one is not known, and the status of the layer that they are of. */
export interface Trend {
  readonly values: readonly (number | null)[];
  readonly status: LayerStatus;
}

/** A column of names from files. */
export function names<Row extends { readonly name: string }>(title: string): Column<Row> {
  return { title, cell: ({ name }) => encloseName(name) };
}

/** A column of numbers; where a row has none, a dash stands for it. */
export function numbers<Row>(
  title: string,
  value: (row: Row) => number | null | undefined,
  {
    format = formatMeasure,
    ...rest
  }: Partial<Column<Row>> & { readonly format?: (value: number) => string } = {},
): Column<Row> {
  return {
    title,
    isNumber: true,
    cell: (row) => formatOptional(value(row), format),
    value: (row) => value(row) ?? null,
    ...rest,
  };
}

/** Rows as a table. */
export function makeTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  options: TableOptions,
): Table {
  const take = (count: number, isText: boolean) =>
    rows.slice(0, count).map((row) =>
      columns.map(({ cell, bar, trend, text = false }) => ({
        phrase: isText && text !== false && text.cell !== undefined ? text.cell(row) : cell(row),
        size: bar?.(row) ?? null,
        trend: trend?.(row) ?? null,
      })),
    );
  return { kind: 'table', columns, length: rows.length, take, ...options };
}

/** What the report of an audit says. */
export function describeAudit(report: AuditReport, all: boolean): Document {
  const advice = adviseFreeze(keepCurableByEval(report));
  return {
    answer: describeAnswer(report),
    facts: [describeCheckpoint('before', report.before), describeCheckpoint('after', report.after)],
    blocks: [
      ...listDrift(report, all),
      { kind: 'findings', findings: report.findings.filter((finding) => !isFrozenDrift(finding)) },
      { kind: 'regions', report },
      { kind: 'notes', notes: report.warnings },
      { kind: 'remedies', remedies: listRemedies(report) },
      ...(advice === null ? [] : [{ kind: 'advice', advice } as const]),
    ],
  };
}

/** A checkpoint that was looked at. */
export function describeCheckpoint(
  role: string,
  { path, format, layers, folded, unmarked = 0, learned }: CheckpointSummary,
): Fact {
  const norms = [
    ...(layers > 0 || folded === 0 ? [formatPlural(layers, 'norm layer')] : []),
    ...(folded > unmarked ? [formatPlural(folded - unmarked, 'folded norm layer')] : []),
    ...(unmarked > 0 ? [formatLayers(unmarked, [{ kind: UNMARKED_KIND }])] : []),
  ];
  return {
    role,
    what: encloseName(path),
    contents: [format, ...norms, formatPlural(learned, 'learned tensor')],
  };
}

/** The layers that drifted, those that moved most first, or all. */
function listDrift(report: AuditReport, all: boolean): readonly Table[] {
  const drifted = new Set(
    // Of an ambiguous layer no measure is known.
    isBiasOnly(report) ? [] : report.findings.filter(isLeadingDrift).map(({ layer }) => layer),
  );
  const rows = sortByShift(all ? report.layers : report.layers.filter(({ name }) => drifted.has(name)));
  if (rows.length === 0) return [];
  const [sort] = report.findings.filter(isFrozenDrift);
  const options = {
    shown: { text: 10, markdown: 20 },
    noun: 'layer',
    rest: ' that moved less',
    ...(sort !== undefined && { sort }),
  };
  if (!all) return [makeTable(rows, DRIFT_COLUMNS, options)];
  const title = `All ${formatLayers(rows.length, rows)}, those that moved most first`;
  const isAnyAllowed = rows.some(({ allowed }) => allowed);
  return [
    makeTable(rows, LAYER_COLUMNS, {
      ...options,
      title,
      ...(isAnyAllowed && { footnote: '* drift accepted by --allow' }),
    }),
  ];
}

const LAYER: Column<AuditLayer> = { ...names('layer'), text: { cell: nameLayer } };

const MEASURES: readonly Column<AuditLayer>[] = [
  numbers('channels', ({ channels }) => channels, {
    isSpare: true,
    hint: 'channels that moved, of all',
    cell: ({ channels, channelsMoved }) =>
      channelsMoved === null || channelsMoved === channels || channelsMoved === 0
        ? formatCount(channels)
        : `${formatCount(channelsMoved)} of ${formatCount(channels)}`,
    text: { title: 'ch', cell: ({ channels }) => formatCount(channels) },
  }),
  numbers('batches', ({ batches }) => (batches === null ? null : Number(batches)), {
    isSpare: true,
    hint: 'batch count of after less that of before',
    cell: ({ batches }) => formatBatches(batches),
  }),
  numbers('mean shift', ({ meanShift }) => meanShift?.rms, {
    isSpare: true,
    hint: 'root mean square over channels, in standard deviations of before',
    format: formatSigma,
  }),
  numbers('std ratio', ({ logStdRatio }) => logStdRatio?.rms, {
    isSpare: true,
    hint: 'typical ratio of the standard deviations, the larger over the smaller',
    format: formatStdRatio,
  }),
];

function formatSigma(value: number): string {
  return `${formatMeasure(value)} σ`;
}

const OUTPUT: Column<AuditLayer> = numbers('output shift', ({ outputShift }) => outputShift, {
  isStrong: true,
  hint: 'how far the layer’s output moves, relative to its own size',
  bar: ({ outputShift }) => outputShift,
});

const DRIFT_COLUMNS: readonly Column<AuditLayer>[] = [LAYER, ...MEASURES, OUTPUT];

/** What a table of all layers of an audit tells. */
export const LAYER_COLUMNS: readonly Column<AuditLayer>[] = [
  LAYER,
  {
    title: 'status',
    cell: ({ status, allowed }) => (allowed ? `${status} (allowed)` : status),
    value: ({ status }) => LAYER_STATUSES.indexOf(status),
    text: { cell: ({ status, allowed }) => (allowed ? `${status}*` : status) },
  },
  ...MEASURES,
  { ...OUTPUT, text: { title: 'output', hasNoBar: true } },
];

/** A layer's name, with its node's where the one does not tell the other: a graph is searched by its nodes. */
function nameLayer({ name, before, after, via }: AuditLayer): string {
  // The node of a folded layer is its convolution's: it would only hide the name.
  if (via === 'folded') return encloseName(name);
  const node = after.node ?? before.node ?? '';
  const words = new Set(node.split(/[^\w]+/));
  const isTold =
    node === '' ||
    node.startsWith('node_') ||
    node === name ||
    name.split('.').every((part) => words.has(part));
  return isTold ? encloseName(name) : `${encloseName(name)} (${encloseName(node)})`;
}

/** What the report of an inspection says. */
export function describeInspection(report: InspectReport): Document {
  return {
    answer: describeAnswer(report),
    facts: [describeCheckpoint('checkpoint', report.checkpoint)],
    blocks: [
      makeTable(report.layers, listInspectColumns(report.layers), {
        shown: { text: 60, markdown: 20 },
        noun: 'layer',
        isFlush: true,
      }),
      { kind: 'findings', findings: report.findings },
      { kind: 'notes', notes: [...report.warnings, ...groupNotes(report.layers)] },
    ],
  };
}

/** What a table of the layers of an inspection tells: the kind is worth a column only where there are several. */
export function listInspectColumns(layers: readonly InspectLayer[]): readonly Column<InspectLayer>[] {
  const kinds = new Set(layers.map(({ kind }) => kind));
  return INSPECT_COLUMNS.filter(({ title }) => title !== 'kind' || kinds.size > 1);
}

/** Longer kinds of layer are shortened. */
const MAX_KIND_LENGTH = 14;

const INSPECT_COLUMNS: readonly Column<InspectLayer>[] = [
  names('layer'),
  {
    title: 'kind',
    isSpare: true,
    cell: ({ kind }) =>
      encloseName(showName(kind.replace('BatchNormalization', 'BatchNorm'), MAX_KIND_LENGTH)),
  },
  numbers('channels', ({ channels }) => channels, {
    isSpare: true,
    format: formatCount,
    text: { title: 'ch' },
  }),
  numbers('mean rms', ({ mean }) => mean?.rms, {
    isSpare: true,
    hint: 'root mean square of the running mean over channels',
  }),
  numbers('variance', ({ variance }) => variance?.geometricMean, {
    isSpare: true,
    hint: 'geometric mean of the running variance over channels',
  }),
  numbers('batches', ({ batches }) => (batches === null ? null : Number(batches)), {
    isSpare: true,
    cell: ({ batches }) => (batches === null ? NO_VALUE : formatCount(batches)),
  }),
  { title: 'mode', cell: ({ mode }) => (mode === 'unknown' ? NO_VALUE : mode) },
  { title: 'status', cell: ({ status }) => status },
];

/** A layer's channels, those that moved most first, or all in their order. Null where the layer's `perChannel` lacks a side. */
export function listChannels(
  { perChannel, epsilon }: AuditLayer,
  { all }: { readonly all: boolean },
): Table | null {
  const { before, after, stdRatio } = perChannel ?? { before: null, after: null, stdRatio: [] };
  if (before === null || after === null || before.mean.length === 0) return null;
  const rows = before.mean.map((mean, channel) => ({
    channel,
    // In standard deviations of before.
    shift:
      ((after.mean[channel] ?? Number.NaN) - mean) /
      Math.sqrt((before.variance[channel] ?? Number.NaN) + epsilon),
    ratio: stdRatio[channel] ?? Number.NaN,
  }));
  type Row = (typeof rows)[number];
  const severity = ({ shift, ratio }: Row) => {
    const value = Math.hypot(shift, Math.log(ratio));
    return Number.isNaN(value) ? Number.POSITIVE_INFINITY : value;
  };
  const columns: readonly Column<Row>[] = [
    numbers('channel', ({ channel }) => channel, { format: String }),
    numbers('mean before', ({ channel }) => before.mean[channel] ?? Number.NaN),
    numbers('after', ({ channel }) => after.mean[channel] ?? Number.NaN),
    numbers('var before', ({ channel }) => before.variance[channel] ?? Number.NaN),
    numbers('after', ({ channel }) => after.variance[channel] ?? Number.NaN),
    numbers('std ratio', ({ ratio }) => ratio, { format: (value) => `× ${formatMeasure(value)}` }),
    numbers('mean shift', ({ shift }) => shift, { format: formatSigma, bar: ({ shift }) => Math.abs(shift) }),
  ];
  const sorted = all ? rows : [...rows].sort((x, y) => severity(y) - severity(x));
  const options = { shown: { text: 32, markdown: 32 }, noun: 'channel', rest: ' that moved less' };
  return makeTable(sorted, columns, options);
}
