import { escapeControls, failUnreachable } from '../errors.js';
import { formatCount, formatMeasure, formatPlural } from './format-numbers.js';
import type { LeftLayer, RestoredLayer, RestoreReport } from './restore-report.js';
import {
  chooseLayout,
  joinBlocks,
  layOutTable,
  showName,
  type TableColumn,
  type TextLayout,
  type TextOptions,
  wrapText,
} from './text-layout.js';

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
