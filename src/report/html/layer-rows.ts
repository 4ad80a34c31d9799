import { LAYER_STATUSES } from '../../compare/status.js';
import { type AnyReport, isAudit, showSafely } from '../any-report.js';
import type { AuditLayer } from '../audit-report.js';
import { formatBatches, formatCount, formatMeasure, formatStdRatio } from '../format-numbers.js';
import type { InspectLayer } from '../inspect-report.js';
import { html, type Markup } from './markup.js';

const MAX_NAME_LENGTH = 160;

/** A column of the table. Numbers sort by `value`, text by what the cell shows. */
interface Column<Layer> {
  readonly title: string;
  readonly hint?: string;
  readonly isNumber: boolean;
  /** Whether the column has room for a bar. */
  readonly isWide?: boolean;
  readonly cell: (layer: Layer, scale: number) => Markup | string;
  readonly value?: (layer: Layer) => number | null;
}

/** The table of layers. The page's script makes it sortable and opens rows; the order here is what sorts first. */
export function renderLayerTable(report: AnyReport): Markup {
  return isAudit(report)
    ? renderTable(report.layers, AUDIT_COLUMNS, {
        sorted: 'Status',
        groupOf: rankStatus,
        sizeOf: ({ outputShift }) => outputShift,
      })
    : renderTable(report.layers, INSPECT_COLUMNS, { sorted: '#', groupOf: () => 0, sizeOf: () => null });
}

interface Order<Layer> {
  /** The column that says so. */
  readonly sorted: string;
  readonly groupOf: (layer: Layer) => number;
  /** Within a group, the largest first. */
  readonly sizeOf: (layer: Layer) => number | null;
}

function renderTable<Layer extends AuditLayer | InspectLayer>(
  layers: readonly Layer[],
  columns: readonly Column<Layer>[],
  { sorted, groupOf, sizeOf }: Order<Layer>,
): Markup {
  const ranked = layers.map((layer, index) => ({
    layer,
    index,
    group: groupOf(layer),
    size: rankSize(sizeOf(layer)),
  }));
  ranked.sort((x, y) => x.group - y.group || y.size - x.size || x.index - y.index);
  const scale = ranked.reduce((most, { size }) => (size < Number.MAX_VALUE ? Math.max(most, size) : most), 0);
  const sortOf = (title: string) => (title === sorted ? 'ascending' : 'none');
  return html`<section id="layers" aria-labelledby="layers-title">
<h2 id="layers-title">Layers</h2>
<div id="layer-filter"></div>
<div class="panel scroll"><table id="layer-table">
<caption class="unseen">Norm layers</caption>
<thead><tr>${[POSITION, ...columns].map(({ title, hint, isNumber, isWide }) => html`<th scope="col"${isNumber ? html` class="${isWide ? 'number wide' : 'number'}"` : null} aria-sort="${sortOf(title)}"${hint === undefined ? null : html` title="${hint}"`}>${title}</th>`)}</tr></thead>
<tbody>
${ranked.map(({ layer, index }) => renderRow(layer, index, { columns, scale }))}</tbody>
</table></div>
</section>`;
}

/** What needs attention comes first. */
function rankStatus({ status }: AuditLayer): number {
  return LAYER_STATUSES.indexOf(status);
}

/** Values that are not finite are the worst; layers without a value come last. */
function rankSize(value: number | null): number {
  if (value === null) return -1;
  return Number.isFinite(value) ? value : Number.MAX_VALUE;
}

const POSITION: Pick<Column<never>, 'title' | 'hint' | 'isNumber' | 'isWide'> = {
  title: '#',
  hint: 'position in the model',
  isNumber: true,
};

function renderRow<Layer extends AuditLayer | InspectLayer>(
  layer: Layer,
  index: number,
  { columns, scale }: { readonly columns: readonly Column<Layer>[]; readonly scale: number },
): Markup {
  const [name, ...others] = columns;
  return html`<tr id="layer-${index}" data-index="${index}" data-status="${layer.status}"><td class="number faint" data-v="${index}">${index + 1}</td><th scope="row"><button type="button" class="open" aria-expanded="false">${name?.cell(layer, scale) ?? ''}</button></th>${others.map(({ isNumber, cell, value }) => html`<td${isNumber ? html` class="number"` : null}${value ? html` data-v="${String(value(layer) ?? '')}"` : null}>${cell(layer, scale)}</td>`)}</tr>
`;
}

/** A module path with its last part set off, which may wrap after a dot. */
export function renderName(name: string): Markup {
  const parts = showSafely(name, MAX_NAME_LENGTH).split(/(?<=\.)/);
  const last = parts.pop() ?? '';
  return html`<bdi class="name"><span>${parts.map((part) => html`${part}<wbr>`)}</span>${last}</bdi>`;
}

/** A bar of a share of its width. */
export function renderBar(value: number | null, scale: number, status: string): Markup {
  const width = value === null || !(scale > 0) ? 0 : Number.isFinite(value) ? (value / scale) * 100 : 100;
  return html`<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">${width > 0 ? html`<rect class="fill-${status}" width="${Math.max(width, 1).toFixed()}" height="8"/>` : null}</svg>`;
}

const measured = (value: number | null | undefined, show: (value: number) => string = formatMeasure) =>
  value == null ? '–' : show(value);

const statusCell = (status: string, note = '') =>
  html`<span class="status"><i class="dot bg-${status}"></i>${status}${note}</span>`;

const AUDIT_COLUMNS: readonly Column<AuditLayer>[] = [
  { title: 'Layer', isNumber: false, cell: ({ name }) => renderName(name) },
  {
    title: 'Status',
    isNumber: false,
    cell: ({ status, allowed }) => statusCell(status, allowed ? ' (allowed)' : ''),
    value: rankStatus,
  },
  {
    title: 'Channels',
    hint: 'channels that moved, of all',
    isNumber: true,
    cell: ({ channels, channelsMoved }) =>
      channelsMoved === null || channelsMoved === channels || channelsMoved === 0
        ? formatCount(channels)
        : html`<small>${formatCount(channelsMoved)} of</small> ${formatCount(channels)}`,
    value: ({ channels }) => channels,
  },
  {
    title: 'Batches',
    hint: 'batch count of after less that of before',
    isNumber: true,
    cell: ({ batches }) => formatBatches(batches),
    value: ({ batches }) => (batches === null ? null : Number(batches)),
  },
  {
    title: 'Mean shift',
    hint: 'root mean square over channels, in standard deviations of before',
    isNumber: true,
    cell: ({ meanShift }) => measured(meanShift?.rms, (value) => `${formatMeasure(value)} σ`),
    value: ({ meanShift }) => meanShift?.rms ?? null,
  },
  {
    title: 'Std ratio',
    hint: 'typical ratio of the standard deviations, the larger over the smaller',
    isNumber: true,
    cell: ({ logStdRatio }) => measured(logStdRatio?.rms, formatStdRatio),
    value: ({ logStdRatio }) => logStdRatio?.rms ?? null,
  },
  {
    title: 'Output shift',
    hint: 'how far the layer’s output moves, relative to its own size',
    isNumber: true,
    isWide: true,
    cell: ({ outputShift, status }, scale) =>
      html`<span class="measure">${renderBar(outputShift, scale, status)}<b>${measured(outputShift)}</b></span>`,
    value: ({ outputShift }) => outputShift,
  },
];

const INSPECT_COLUMNS: readonly Column<InspectLayer>[] = [
  { title: 'Layer', isNumber: false, cell: ({ name }) => renderName(name) },
  { title: 'Status', isNumber: false, cell: ({ status }) => statusCell(status) },
  {
    title: 'Channels',
    isNumber: true,
    cell: ({ channels }) => formatCount(channels),
    value: ({ channels }) => channels,
  },
  {
    title: 'Batches',
    isNumber: true,
    cell: ({ batches }) => (batches === null ? '–' : formatCount(batches)),
    value: ({ batches }) => (batches === null ? null : Number(batches)),
  },
  {
    title: 'Mean',
    hint: 'root mean square of the running mean over channels',
    isNumber: true,
    cell: ({ mean }) => measured(mean?.rms),
    value: ({ mean }) => mean?.rms ?? null,
  },
  {
    title: 'Variance',
    hint: 'geometric mean of the running variance over channels',
    isNumber: true,
    cell: ({ variance }) => measured(variance?.geometricMean),
    value: ({ variance }) => variance?.geometricMean ?? null,
  },
  { title: 'Mode', isNumber: false, cell: ({ mode }) => (mode === 'unknown' ? '–' : mode) },
];
