// The report of `restore`, and its text.

import type { Checkpoint, CheckpointFormat } from '../checkpoint/checkpoint.js';
import type { DType } from '../checkpoint/dtype.js';
import { type LayerComparison, measuresOf, viaOf } from '../compare/compare-layers.js';
import type { LayerStatus } from '../compare/status.js';
import { escapeControls, failUnreachable, TOOL_NAME, VERSION } from '../errors.js';
import { type Count, formatCount, formatMeasure, formatPlural } from '../report/format-numbers.js';
import {
  chooseLayout,
  joinBlocks,
  layOutTable,
  showName,
  type TableColumn,
  type TextLayout,
  type TextOptions,
  wrapText,
} from '../report/text-layout.js';
import type { LayerPlan, Part } from './plan-layers.js';

/** Which layers of an audit are restored, and which others have statistics that are not as they were. */
export interface LayerChoice {
  readonly chosen: readonly LayerComparison[];
  readonly left: readonly LayerComparison[];
}

/** A tensor of after that holds what before says. */
export interface RestoredPart {
  readonly part: Part;
  readonly tensor: string;
  readonly dtype: DType;
  readonly elements: number;
}

/** One layer of a restoration. */
export interface RestoredLayer {
  readonly name: string;
  /** The status that the audit of before and after gave it. */
  readonly status: LayerStatus;
  readonly via: 'live' | 'folded';
  readonly channels: number;
  readonly channelsMoved: number | null;
  readonly outputShift: number | null;
  /** Batch counts of after and before; null where the count stays. */
  readonly batches: { readonly from: Count; readonly to: Count } | null;
  /** Tensors that change; none where after holds the values of before already. */
  readonly parts: readonly RestoredPart[];
  readonly notes: readonly string[];
}

/** A layer whose statistics are not those of before, and that was not to be restored. */
export interface LeftLayer {
  readonly name: string;
  readonly status: LayerStatus;
}

/** The result of a restoration: exactly what `--format json` prints. */
export interface RestoreReport {
  readonly schemaVersion: 1;
  readonly tool: { readonly name: string; readonly version: string };
  /** `nothing` where no layer needed it: then no file was written. `planned` in a dry run. */
  readonly outcome: 'restored' | 'planned' | 'nothing';
  readonly before: { readonly path: string; readonly format: CheckpointFormat };
  readonly after: { readonly path: string; readonly format: CheckpointFormat };
  /** The files that were written, or would be, the main one last; empty where there are none. */
  readonly files: readonly string[];
  readonly layers: readonly RestoredLayer[];
  readonly left: readonly LeftLayer[];
  readonly warnings: readonly string[];
}

/** Everything that a restoration found out, before it is put in the report's form. */
interface RestoreResults {
  readonly outcome: RestoreReport['outcome'];
  readonly before: Checkpoint;
  readonly after: Checkpoint;
  readonly files: readonly string[];
  readonly plans: readonly LayerPlan[];
  readonly left: LayerChoice['left'];
  readonly warnings: readonly string[];
}

/** Puts a restoration in the report's form. */
export function buildRestoreReport(results: RestoreResults): RestoreReport {
  const { before, after } = results;
  return {
    schemaVersion: 1,
    tool: { name: TOOL_NAME, version: VERSION },
    outcome: results.outcome,
    before: { path: before.path, format: before.format },
    after: { path: after.path, format: after.format },
    files: results.files,
    layers: results.plans.map(toRestoredLayer),
    left: results.left.map(({ name, status }) => ({ name, status })),
    warnings: [...before.warnings, ...after.warnings, ...results.warnings],
  };
}

function toRestoredLayer({ comparison, edits, batches, notes }: LayerPlan): RestoredLayer {
  const { name, status, channels, drift } = comparison;
  return {
    name,
    status,
    via: viaOf(comparison),
    channels,
    channelsMoved: drift?.channelsMoved ?? null,
    outputShift: measuresOf(comparison)?.outputShift ?? null,
    batches: batches === null ? null : { from: toCount(batches.from), to: toCount(batches.to) },
    parts: edits.map(({ part, tensor: { name, dtype, elementCount } }) => ({
      part,
      tensor: name,
      dtype,
      elements: elementCount,
    })),
    notes,
  };
}

function toCount(count: bigint): Count {
  const number = Number(count);
  return Number.isSafeInteger(number) ? number : String(count);
}

/** So many layers are shown unless all are asked for. */
const SHOWN_LAYERS = 20;
const SHOWN_NAMES = 5;

/** A restoration as text for a terminal: what was written, each layer, and what was left as it is. */
export function renderRestoreText(report: RestoreReport, options: TextOptions = {}): string {
  const layout = chooseLayout(options);
  return joinBlocks([
    renderFiles(report, layout),
    renderOutcome(report, layout),
    renderLayers(report, layout),
    renderNotes(report, layout),
    renderLeft(report.left, layout),
    report.warnings.flatMap((warning) => wrapMarked('warning', `${escapeControls(warning)}`, layout)),
  ]);
}

function renderFiles(
  { before, after, files, outcome }: RestoreReport,
  { paint, width }: TextLayout,
): readonly string[] {
  const label = outcome === 'planned' ? 'to write' : 'fixed';
  const rows = [
    { role: 'before', path: before.path, format: before.format },
    { role: 'after', path: after.path, format: after.format },
    ...files.map((path) => ({ role: label, path, format: '' })),
  ];
  const roleWidth = Math.max(...rows.map(({ role }) => role.length));
  const formatWidth = Math.max(...rows.map(({ format }) => format.length));
  const names = rows.map(({ path }) => showName(path, width - roleWidth - formatWidth - 4));
  const nameWidth = Math.max(...names.map((name) => [...name].length));
  return rows.map(({ role, format }, index) => {
    const name = names[index] ?? '';
    const padding = format === '' ? '' : ' '.repeat(nameWidth - [...name].length + 2);
    return `${paint('faint', role.padEnd(roleWidth))}  ${name}${padding}${paint('faint', format)}`.trimEnd();
  });
}

function renderOutcome({ outcome, layers, files }: RestoreReport, layout: TextLayout): readonly string[] {
  const changed = layers.filter(({ parts }) => parts.length > 0).length;
  const { paint } = layout;
  switch (outcome) {
    case 'restored':
      return wrapText(
        `${paint('good', '✔ restored')}  ${formatPlural(changed, 'norm layer')} ${changed === 1 ? 'has' : 'have'} the statistics of before again, as an audit of what was written confirms. Everything else is as in after.`,
        { ...layout, indent: '' },
      );
    case 'planned':
      return wrapText(
        `dry run: ${formatPlural(changed, 'norm layer')} would get the statistics of before again${files.length === 0 ? '' : `, in ${formatPlural(files.length, 'file')}`}. Nothing was written.`,
        { ...layout, indent: '' },
      );
    case 'nothing':
      return wrapText(
        `${paint('good', '✔ nothing to restore')}  ${
          layers.length === 0
            ? 'no norm layer drifted'
            : `${formatPlural(layers.length, 'norm layer')} of after ${layers.length === 1 ? 'has' : 'have'} the statistics of before already`
        }. No file was written.`,
        { ...layout, indent: '' },
      );
    default:
      return failUnreachable(outcome);
  }
}

const COLUMNS: readonly TableColumn<RestoredLayer>[] = [
  { title: 'layer', align: 'left', cell: ({ name }) => showName(name) },
  {
    title: 'was',
    align: 'left',
    cell: ({ status, via }) => (via === 'folded' ? `${status}, folded` : status),
  },
  { title: 'channels', align: 'right', cell: ({ channels }) => formatCount(channels) },
  {
    title: 'moved',
    align: 'right',
    cell: ({ channelsMoved }) => (channelsMoved === null ? '–' : formatCount(channelsMoved)),
  },
  {
    title: 'output shift',
    align: 'right',
    cell: ({ outputShift }) => (outputShift === null ? '–' : formatMeasure(outputShift)),
  },
  {
    title: 'batches',
    align: 'right',
    cell: ({ batches }) =>
      batches === null ? '–' : `${formatCount(batches.from)} → ${formatCount(batches.to)}`,
  },
];

function renderLayers({ layers }: RestoreReport, { width, paint, all }: TextLayout): readonly string[] {
  const changed = layers.filter(({ parts }) => parts.length > 0);
  if (changed.length === 0) return [];
  const shown = all ? changed : changed.slice(0, SHOWN_LAYERS);
  const [header = '', ...lines] = layOutTable(shown, COLUMNS, width);
  const more = changed.length - shown.length;
  return [
    paint('faint', header),
    ...lines,
    ...(more > 0 ? [paint('faint', `… ${formatCount(more)} more (--all)`)] : []),
  ];
}

/** Notes that several layers share are said once. */
function renderNotes({ layers }: RestoreReport, layout: TextLayout): readonly string[] {
  const byNote = new Map<string, string[]>();
  for (const { name, notes } of layers)
    for (const note of notes) byNote.set(note, [...(byNote.get(note) ?? []), name]);
  return [...byNote].flatMap(([note, names]) => {
    const who =
      names.length > 1 && names.length === layers.length
        ? `all ${formatPlural(names.length, 'norm layer')}`
        : listNames(names);
    return wrapMarked('note', `${who}: ${escapeControls(note)}`, layout);
  });
}

function renderLeft(left: readonly LeftLayer[], layout: TextLayout): readonly string[] {
  const byStatus = new Map<string, string[]>();
  for (const { name, status } of left) byStatus.set(status, [...(byStatus.get(status) ?? []), name]);
  return [...byStatus].flatMap(([status, names]) =>
    wrapMarked(
      'left',
      `${formatPlural(names.length, 'norm layer')} ${names.length === 1 ? 'is' : 'are'} ${status} and not restored: ${listNames(names)}. To restore ${names.length === 1 ? 'it' : 'them'} too, name every layer that you want: --layer GLOB`,
      layout,
    ),
  );
}

function listNames(names: readonly string[]): string {
  const shown = names.slice(0, SHOWN_NAMES).map((name) => showName(name, 50));
  return names.length > SHOWN_NAMES
    ? `${shown.join(', ')} and ${formatCount(names.length - SHOWN_NAMES)} more`
    : shown.join(', ');
}

function wrapMarked(mark: string, text: string, { width, paint }: TextLayout): readonly string[] {
  const indent = ' '.repeat(mark.length + 2);
  const [first = '', ...rest] = wrapText(text, { width, indent });
  return [`${paint('warning', mark)}  ${first.trimStart()}`, ...rest];
}
