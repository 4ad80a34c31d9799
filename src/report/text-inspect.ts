import { FINDING_TITLES, type FindingKind } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import { formatCount, formatMeasure, formatPlural } from './format-numbers.js';
import type { InspectLayer, InspectReport } from './inspect-report.js';
import { layOutCheckpoints, renderWarnings, type TextOptions } from './text.js';
import { layOutTable, plain, showName, type TableColumn, wrapText } from './text-layout.js';

/** So many layers are shown unless all are asked for. */
const SHOWN_LAYERS = 60;
const SHOWN_FINDINGS = 10;

/** An inspection as text for a terminal: every norm layer of the checkpoint, then what is wrong. */
export function renderInspectText(report: InspectReport, options: TextOptions = {}): string {
  const layout = { width: options.width ?? 80, paint: options.paint ?? plain, all: options.all === true };
  const shown = layout.all ? report.layers : report.layers.slice(0, SHOWN_LAYERS);
  const [header = '', ...lines] = layOutTable(shown, COLUMNS, layout.width);
  const more = report.layers.length - shown.length;
  const blocks = [
    layOutCheckpoints([['checkpoint', report.checkpoint]], layout),
    [
      layout.paint('faint', header),
      ...lines,
      ...(more > 0 ? [layout.paint('faint', `… ${formatCount(more)} more layers (--all)`)] : []),
    ],
    renderHealth(report, layout),
    renderWarnings([...report.warnings, ...listNotes(report)], layout),
  ];
  return `${blocks
    .filter((block) => block.length > 0)
    .map((block) => block.join('\n'))
    .join('\n\n')}\n`;
}

const measured = (value: number | undefined) => (value === undefined ? '–' : formatMeasure(value));

const COLUMNS: readonly TableColumn<InspectLayer>[] = [
  { title: 'layer', align: 'left', cell: ({ name }) => showName(name) },
  {
    title: 'kind',
    align: 'left',
    cell: ({ kind }) => kind.replace('BatchNormalization', 'BatchNorm').slice(0, 14),
  },
  { title: 'channels', align: 'right', cell: ({ channels }) => formatCount(channels) },
  { title: 'mean rms', align: 'right', cell: ({ mean }) => measured(mean?.rms) },
  { title: 'variance', align: 'right', cell: ({ variance }) => measured(variance?.geometricMean) },
  {
    title: 'batches',
    align: 'right',
    cell: ({ batches }) => (batches === null ? '–' : formatCount(batches)),
  },
  { title: 'mode', align: 'left', cell: ({ mode }) => (mode === 'unknown' ? '–' : mode) },
  { title: 'status', align: 'left', cell: ({ status }) => status },
];

function renderHealth(
  { findings, layers }: InspectReport,
  { width, paint, all }: { width: number; paint: NonNullable<TextOptions['paint']>; all: boolean },
): readonly string[] {
  const tones = { error: 'error', warning: 'warning', note: 'faint' } as const;
  if (findings.length === 0) {
    return [
      `${paint('good', '✔ healthy')}  ${formatPlural(layers.length, 'norm layer')}, all statistics finite`,
    ];
  }
  const shown = all ? findings : findings.slice(0, SHOWN_FINDINGS);
  const lines = shown.flatMap(({ kind, level, layer, message }) => {
    const text = `${showName(layer, 60)}: ${escapeControls(message)} (${FINDING_TITLES[kind as FindingKind]})`;
    const [first = '', ...rest] = wrapText(text, { width, indent: '         ' });
    return [`${paint(tones[level], level.padEnd(7))}  ${first.trimStart()}`, ...rest];
  });
  const more = findings.length - shown.length;
  return more > 0 ? [...lines, paint('faint', `… ${formatCount(more)} more findings (--all)`)] : lines;
}

function listNotes({ layers }: InspectReport): readonly string[] {
  return layers.flatMap(({ name, notes }) => notes.map((note) => `${name}: ${note}`));
}
