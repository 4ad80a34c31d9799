import { formatBar, formatCount, formatOptional } from './format-numbers.js';
import { describeInputs, describeProbe, explainColumns, formatCosine, formatShare } from './probe-answer.js';
import type { ProbeLayer, ProbeOutput, ProbeReport } from './probe-report.js';
import { layOutCheckpoints, renderWarnings } from './text.js';
import {
  chooseLayout,
  joinBlocks,
  layOutTable,
  NO_VALUE,
  showName,
  type TableColumn,
  type TextLayout,
  type TextOptions,
  wrapText,
} from './text-layout.js';

/** So many layers are shown unless all are asked for; those that were put back come first. */
const SHOWN_LAYERS = 60;
const BAR_CELLS = 6;

/** A probe as text for a terminal: the answer, the outputs, the layers along the depth. */
export function renderProbeText(report: ProbeReport, options: TextOptions = {}): string {
  const layout = chooseLayout(options);
  const { width, paint } = layout;
  const answer = describeProbe(report, (name) => showName(name, 40));
  const sign = answer.outcome === 'moved' ? paint('error', '✖ MOVED') : paint('good', '✔ STILL');
  return joinBlocks([
    [
      ...layOutCheckpoints(
        [
          ['before', report.before],
          ['after', report.after],
        ],
        layout,
      ),
      `${paint('faint', 'inputs')}  ${describeInputs(report, (file) => showName(file, width - 30))}`,
    ],
    [
      ...wrapText(answer.headline, { width: width - 2, indent: '         ' }).map((line, index) =>
        index === 0 ? `${sign}  ${paint('strong', line.trimStart())}` : paint('strong', line),
      ),
      ...wrapText(answer.explanation, { width, indent: '  ' }),
    ],
    renderOutputs(report.outputs, layout),
    renderLayers(report, layout),
    renderWarnings(report.warnings, layout),
  ]);
}

const OUTPUT_COLUMNS: readonly TableColumn<ProbeOutput>[] = [
  { title: 'output', align: 'left', cell: ({ name }) => showName(name) },
  { title: 'shape', align: 'left', cell: ({ shape }) => `[${shape.join(', ')}]` },
  { title: 'relative L2', align: 'right', cell: ({ relativeL2 }) => formatOptional(relativeL2) },
  { title: 'cosine', align: 'right', cell: ({ cosine }) => formatOptional(cosine, formatCosine) },
  { title: 'largest diff', align: 'right', cell: ({ maxDifference }) => formatOptional(maxDifference) },
  {
    title: 'top-1 changed',
    align: 'right',
    cell: ({ top1 }) =>
      top1 === null
        ? NO_VALUE
        : `${formatCount(top1.changed)} of ${formatCount(top1.samples)} (${formatShare(top1.share)})`,
  },
];

function renderOutputs(outputs: readonly ProbeOutput[], { width, paint }: TextLayout): readonly string[] {
  if (outputs.length === 0) return [];
  const [header = '', ...lines] = layOutTable(outputs, OUTPUT_COLUMNS, width - 2);
  return [paint('faint', `  ${header}`), ...lines.map((line) => `  ${line}`)];
}

const LAYER_COLUMNS: readonly TableColumn<ProbeLayer>[] = [
  { title: 'layer, along the depth', align: 'left', cell: ({ name }) => showName(name) },
  { title: 'status', align: 'left', cell: ({ status, putBack }) => (putBack ? 'put back' : status) },
  { title: 'predicted', align: 'right', cell: ({ outputShift }) => formatOptional(outputShift) },
  { title: 'alone', align: 'right', cell: ({ movement }) => formatOptional(movement?.sameInput) },
  { title: 'in network', align: 'right', cell: ({ movement }) => formatOptional(movement?.inNetwork) },
  {
    title: 'explains',
    align: 'right',
    cell: ({ contribution }) => formatOptional(contribution?.explained, formatShare),
  },
  {
    title: '',
    align: 'left',
    cell: ({ contribution }) => {
      const share = contribution?.explained ?? 0;
      return share > 0 ? formatBar(share, { full: 1, cells: BAR_CELLS }) : NO_VALUE;
    },
  },
];

function renderLayers(report: ProbeReport, { width, paint, all }: TextLayout): readonly string[] {
  const { layers } = report;
  const notes = explainColumns(report);
  const shown = all ? layers : layers.slice(0, SHOWN_LAYERS);
  const isMixed = layers.some(({ putBack }) => !putBack);
  const columns = LAYER_COLUMNS.filter(({ title }) => title !== 'status' || isMixed).map((column) =>
    column.title === ''
      ? { ...column, cell: (row: ProbeLayer) => column.cell(row).replace(NO_VALUE, ' ') }
      : column,
  );
  const [header = '', ...lines] = layOutTable(shown, columns, width - 2);
  const more = layers.length - shown.length;
  const termWidth = Math.max(...notes.map(([term]) => term.length));
  return [
    paint('faint', `  ${header}`),
    ...lines.map((line) => `  ${line}`),
    ...(more > 0 ? [paint('faint', `  … ${formatCount(more)} more (--all)`)] : []),
    '',
    ...notes.flatMap(([term, meaning]) =>
      wrapText(meaning, { width, indent: ' '.repeat(termWidth + 4) }).map((line, index) =>
        paint('faint', index === 0 ? `  ${term.padEnd(termWidth)}  ${line.trimStart()}` : line),
      ),
    ),
  ];
}
