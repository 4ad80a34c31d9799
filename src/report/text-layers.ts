import type { AuditLayer } from './audit-report.js';
import {
  formatBar,
  formatBatches,
  formatCount,
  formatMeasure,
  formatOptional,
  formatStdRatio,
} from './format-numbers.js';
import { layOutTable, showName, type TableColumn, type TextLayout } from './text-layout.js';

/** Cells of the bar beside an output shift; none where the status takes their place. */
const BAR_CELLS = 7;

/** Below these widths a table has no room for the batch counts and the bars, with statuses and without. */
const ROOMY_WIDTH = { withStatus: 80, without: 72 } as const;

/** Norm layers of an audit as a table: where, how large, how far they moved. */
export function renderLayerTable(
  rows: readonly AuditLayer[],
  { width, paint }: TextLayout,
  isStatusShown: boolean,
): readonly string[] {
  const [header = '', ...lines] = layOutTable(rows, driftColumns(rows, isStatusShown, width), width - 2);
  return [paint('faint', `  ${header}`), ...lines.map((line) => `  ${line}`)];
}

function driftColumns(
  rows: readonly AuditLayer[],
  isStatusShown: boolean,
  width: number,
): readonly TableColumn<AuditLayer>[] {
  const full = Math.max(
    ...rows.map(({ outputShift }) => (Number.isFinite(outputShift) ? (outputShift ?? 0) : 0)),
  );
  const isTight = width < (isStatusShown ? ROOMY_WIDTH.withStatus : ROOMY_WIDTH.without);
  const bar = (value: number | null) =>
    isStatusShown || isTight ? '' : `${formatBar(value ?? 0, { full, cells: BAR_CELLS }).padEnd(BAR_CELLS)} `;
  const columns: readonly TableColumn<AuditLayer>[] = [
    { title: 'layer', align: 'left', cell: showLayer },
    { title: 'status', align: 'left', cell: ({ status, allowed }) => (allowed ? `${status}*` : status) },
    { title: 'ch', align: 'right', cell: ({ channels }) => formatCount(channels) },
    { title: 'batches', align: 'right', cell: ({ batches }) => formatBatches(batches) },
    {
      title: 'mean shift',
      align: 'right',
      cell: ({ meanShift }) => formatOptional(meanShift?.rms, (value) => `${formatMeasure(value)} σ`),
    },
    {
      title: 'std ratio',
      align: 'right',
      cell: ({ logStdRatio }) => formatOptional(logStdRatio?.rms, formatStdRatio),
    },
    {
      title: isStatusShown || isTight ? 'output' : 'output shift',
      align: isStatusShown || isTight ? 'right' : 'left',
      cell: ({ outputShift }) => bar(outputShift) + formatOptional(outputShift),
    },
  ];
  return columns.filter(
    ({ title }) => (title !== 'status' || isStatusShown) && !(title === 'batches' && isTight),
  );
}

/** A layer's name, with its node's where the one does not tell the other: a graph is searched by its nodes. */
function showLayer({ name, before, after, via }: AuditLayer): string {
  // The node of a folded layer is its convolution's: it would only hide the name.
  if (via === 'folded') return showName(name);
  const node = after.node ?? before.node ?? '';
  const words = new Set(node.split(/[^\w]+/));
  const isTold =
    node === '' ||
    node.startsWith('node_') ||
    node === name ||
    name.split('.').every((part) => words.has(part));
  return isTold ? showName(name) : `${showName(name)} (${showName(node)})`;
}
