import { groupNotes } from './audit-report.js';
import { formatCount, formatOptional } from './format-numbers.js';
import type { InspectLayer, InspectReport } from './inspect-report.js';
import { layOutCheckpoints, renderWarnings } from './text.js';
import { renderAnswer } from './text-answer.js';
import { renderFindingGroups, renderPages } from './text-findings.js';
import {
  chooseLayout,
  joinBlocks,
  layOutTable,
  NO_VALUE,
  showName,
  type TableColumn,
  type TextOptions,
} from './text-layout.js';

/** So many layers are shown unless all are asked for. */
const SHOWN_LAYERS = 60;

/** An inspection as text for a terminal: every norm layer of the checkpoint, then what is wrong. */
export function renderInspectText(report: InspectReport, options: TextOptions = {}): string {
  const layout = chooseLayout(options);
  const shown = layout.all ? report.layers : report.layers.slice(0, SHOWN_LAYERS);
  const [header = '', ...lines] = layOutTable(shown, columnsFor(shown), layout.width);
  const more = report.layers.length - shown.length;
  return joinBlocks([
    layOutCheckpoints([['checkpoint', report.checkpoint]], layout),
    renderAnswer(report, layout),
    shown.length === 0
      ? []
      : [
          layout.paint('faint', header),
          ...lines,
          ...(more > 0 ? [layout.paint('faint', `… ${formatCount(more)} more layers (--all)`)] : []),
        ],
    ...renderFindingGroups(report.findings, layout),
    renderWarnings([...report.warnings, ...groupNotes(report.layers)], layout),
    renderPages(report.findings, layout),
  ]);
}

/** The kind is worth a column only where there are several. */
function columnsFor(layers: readonly InspectLayer[]): readonly TableColumn<InspectLayer>[] {
  const kinds = new Set(layers.map(({ kind }) => kind));
  return COLUMNS.filter(({ title }) => title !== 'kind' || kinds.size > 1);
}

const COLUMNS: readonly TableColumn<InspectLayer>[] = [
  { title: 'layer', align: 'left', cell: ({ name }) => showName(name) },
  {
    title: 'kind',
    align: 'left',
    cell: ({ kind }) => showName(kind.replace('BatchNormalization', 'BatchNorm'), 14),
  },
  { title: 'ch', align: 'right', cell: ({ channels }) => formatCount(channels) },
  { title: 'mean rms', align: 'right', cell: ({ mean }) => formatOptional(mean?.rms) },
  { title: 'variance', align: 'right', cell: ({ variance }) => formatOptional(variance?.geometricMean) },
  {
    title: 'batches',
    align: 'right',
    cell: ({ batches }) => (batches === null ? NO_VALUE : formatCount(batches)),
  },
  { title: 'mode', align: 'left', cell: ({ mode }) => (mode === 'unknown' ? NO_VALUE : mode) },
  { title: 'status', align: 'left', cell: ({ status }) => status },
];
