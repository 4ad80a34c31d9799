import type { AuditLayer } from './audit-report.js';
import { formatBar, formatCount, formatMeasure, formatPlural } from './format-numbers.js';
import {
  chooseLayout,
  joinBlocks,
  layOutTable,
  showName,
  type TableColumn,
  type TextOptions,
} from './text-layout.js';

/** So many channels are shown unless all are asked for: those that moved most. */
const SHOWN_CHANNELS = 32;
const BAR_CELLS = 8;

interface ChannelRow {
  readonly channel: number;
  readonly meanBefore: number;
  readonly meanAfter: number;
  readonly varianceBefore: number;
  readonly varianceAfter: number;
  /** (μB − μA) / σA. */
  readonly shift: number;
  readonly stdRatio: number;
}

/**
 * One layer channel by channel, as text. Needs the layer's `perChannel`.
 *
 * @returns a sentence instead of the table where folding or an unreadable statistic hides the channels.
 */
export function renderLayerText(layer: AuditLayer, options: TextOptions = {}): string {
  const { width, paint, all } = chooseLayout(options);
  const head = `${paint('strong', showName(layer.name))}  ${showName(layer.kind, 40)}, ${layer.status}, ${formatPlural(layer.channels, 'channel')}, ε ${layer.epsilon}${layer.epsilonAfter === undefined ? '' : `, in after ${layer.epsilonAfter}`}`;
  const rows = listRows(layer);
  if (rows.length === 0) return joinBlocks([[head, '  Its statistics cannot be read on both sides.']]);
  const sorted = [...rows].sort((x, y) => severity(y) - severity(x));
  const shown = all ? rows : sorted.slice(0, SHOWN_CHANNELS);
  const [header = '', ...table] = layOutTable(shown, columnsFor(shown), width - 2);
  const more = rows.length - shown.length;
  return joinBlocks([
    [
      head,
      `  ${formatCount(layer.channelsMoved ?? 0)} of ${formatPlural(layer.channels, 'channel')} moved; output shift ${layer.outputShift === null ? '–' : formatMeasure(layer.outputShift)}`,
    ],
    [
      paint('faint', `  ${header}`),
      ...table.map((line) => `  ${line}`),
      ...(more > 0 ? [paint('faint', `  … ${formatCount(more)} more channels that moved less (--all)`)] : []),
    ],
  ]);
}

function listRows({ perChannel, epsilon }: AuditLayer): readonly ChannelRow[] {
  const { before, after, stdRatio } = perChannel ?? { before: null, after: null, stdRatio: [] };
  if (before === null || after === null) return [];
  return before.mean.map((meanBefore, channel) => {
    const meanAfter = after.mean[channel] ?? Number.NaN;
    const varianceBefore = before.variance[channel] ?? Number.NaN;
    return {
      channel,
      meanBefore,
      meanAfter,
      varianceBefore,
      varianceAfter: after.variance[channel] ?? Number.NaN,
      shift: (meanAfter - meanBefore) / Math.sqrt(varianceBefore + epsilon),
      stdRatio: stdRatio[channel] ?? Number.NaN,
    };
  });
}

function severity({ shift, stdRatio }: ChannelRow): number {
  const value = Math.hypot(shift, Math.log(stdRatio));
  return Number.isNaN(value) ? Number.POSITIVE_INFINITY : value;
}

function columnsFor(rows: readonly ChannelRow[]): readonly TableColumn<ChannelRow>[] {
  const full = Math.max(...rows.map(({ shift }) => (Number.isFinite(shift) ? Math.abs(shift) : 0)));
  return [
    { title: 'channel', align: 'right', cell: ({ channel }) => String(channel) },
    { title: 'mean before', align: 'right', cell: ({ meanBefore }) => formatMeasure(meanBefore) },
    { title: 'after', align: 'right', cell: ({ meanAfter }) => formatMeasure(meanAfter) },
    { title: 'var before', align: 'right', cell: ({ varianceBefore }) => formatMeasure(varianceBefore) },
    { title: 'after', align: 'right', cell: ({ varianceAfter }) => formatMeasure(varianceAfter) },
    { title: 'std ratio', align: 'right', cell: ({ stdRatio }) => `× ${formatMeasure(stdRatio)}` },
    {
      title: 'mean shift',
      align: 'left',
      cell: ({ shift }) =>
        `${formatBar(Math.abs(shift), { full, cells: BAR_CELLS }).padEnd(BAR_CELLS)} ${formatMeasure(shift)} σ`,
    },
  ];
}
