import type { AuditLayer } from './audit-report.js';
import { formatBar, formatBatches, formatCount, formatMeasure, formatStdRatio } from './format-numbers.js';
import { layOutTable, NO_VALUE, type Paint, showName, type TableColumn } from './text-layout.js';

/** How a table of layers is laid out. */
interface Layout {
  readonly width: number;
  readonly paint: Paint;
}

/** Cells of the bar beside an output shift; fewer where the status takes their place. */
const BAR_CELLS = 7;
const SHORT_BAR_CELLS = 4;

/** Norm layers of an audit as a table: where, how large, how far they moved. */
export function renderLayerTable(
  rows: readonly AuditLayer[],
  { width, paint }: Layout,
  isStatusShown: boolean,
): readonly string[] {
  const [header = '', ...lines] = layOutTable(rows, driftColumns(rows, isStatusShown), width - 2);
  return [paint('faint', `  ${header}`), ...lines.map((line) => `  ${line}`)];
}

function driftColumns(
  rows: readonly AuditLayer[],
  isStatusShown: boolean,
): readonly TableColumn<AuditLayer>[] {
  const full = Math.max(
    ...rows.map(({ outputShift }) => (Number.isFinite(outputShift) ? (outputShift ?? 0) : 0)),
  );
  const measure = (value: number | null | undefined, format: (value: number) => string) =>
    value == null ? NO_VALUE : format(value);
  const cells = isStatusShown ? SHORT_BAR_CELLS : BAR_CELLS;
  const columns: readonly TableColumn<AuditLayer>[] = [
    { title: 'layer', align: 'left', cell: showLayer },
    { title: 'status', align: 'left', cell: ({ status, allowed }) => (allowed ? `${status}*` : status) },
    { title: 'ch', align: 'right', cell: ({ channels }) => formatCount(channels) },
    { title: 'batches', align: 'right', cell: ({ batches }) => formatBatches(batches) },
    {
      title: 'mean shift',
      align: 'right',
      cell: ({ meanShift }) => measure(meanShift?.rms, (value) => `${formatMeasure(value)} σ`),
    },
    {
      title: 'std ratio',
      align: 'right',
      cell: ({ logStdRatio }) => measure(logStdRatio?.rms, formatStdRatio),
    },
    {
      title: 'output shift',
      align: 'left',
      cell: ({ outputShift }) =>
        `${formatBar(outputShift ?? 0, { full, cells }).padEnd(cells)} ${measure(outputShift, formatMeasure)}`,
    },
  ];
  return columns.filter(({ title }) => title !== 'status' || isStatusShown);
}

/** A layer's name, with its node's where the one does not tell the other: a graph is searched by its nodes. */
function showLayer({ name, before, after }: AuditLayer): string {
  const node = after.node ?? before.node ?? '';
  const words = new Set(node.split(/[^\w]+/));
  const isTold =
    node === '' ||
    node.startsWith('node_') ||
    node === name ||
    name.split('.').every((part) => words.has(part));
  return isTold ? showName(name) : `${showName(name)} (${showName(node)})`;
}

/** Worst first; layers without a measure come last, in the order of the model. */
export function sortByShift(layers: readonly AuditLayer[]): readonly AuditLayer[] {
  const shiftOf = ({ outputShift }: AuditLayer) =>
    outputShift === null || Number.isNaN(outputShift) ? -1 : outputShift;
  return [...layers].sort((x, y) => shiftOf(y) - shiftOf(x));
}
