// Renders a probe report as text, JSON, Markdown or HTML.

import { checkOptions } from '../options.js';
import { showSafely } from '../report/any-report.js';
import {
  formatBar,
  formatCount,
  formatMeasure,
  formatOptional,
  formatPlural,
} from '../report/format-numbers.js';
import { findFormat, type ReportFormat } from '../report/formats.js';
import {
  encloseName,
  html,
  type Markup,
  markNames,
  renderDocument,
  unmarkNames,
} from '../report/html/markup.js';
import pageStyle from '../report/html/page/style.css?bundle';
import { renderVerdict } from '../report/html/sections.js';
import { toJson } from '../report/json.js';
import { type Column, listWarnings, renderTable, showCode, showText } from '../report/markdown.js';
import { layOutCheckpoints, renderWarnings } from '../report/text.js';
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
} from '../report/text-layout.js';
import {
  describeInputs,
  describeProbe,
  explainColumns,
  formatCosine,
  formatShare,
  type ProbeLayer,
  type ProbeOutput,
  type ProbeReport,
} from './probe-report.js';

/** A form that a probe can be printed in. */
export type ProbeFormat = ReportFormat<'probe'>;

/** How to render a probe. */
export interface ProbeRenderOptions extends TextOptions {
  /** `text` unless given. */
  readonly format?: ProbeFormat | undefined;
}

/** So many layers are shown unless all are asked for; those that were put back come first. */
const SHOWN_TEXT_LAYERS = 60;
const BAR_CELLS = 6;

/** A probe as text for a terminal: the answer, the outputs, the layers along the depth. */
function renderProbeText(report: ProbeReport, options: TextOptions): string {
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

const OUTPUT_TEXT_COLUMNS: readonly TableColumn<ProbeOutput>[] = [
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
  const [header = '', ...lines] = layOutTable(outputs, OUTPUT_TEXT_COLUMNS, width - 2);
  return [paint('faint', `  ${header}`), ...lines.map((line) => `  ${line}`)];
}

const LAYER_TEXT_COLUMNS: readonly TableColumn<ProbeLayer>[] = [
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
  const shown = all ? layers : layers.slice(0, SHOWN_TEXT_LAYERS);
  const isMixed = layers.some(({ putBack }) => !putBack);
  const columns = LAYER_TEXT_COLUMNS.filter(({ title }) => title !== 'status' || isMixed).map((column) =>
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

/** A table of so many rows fits a pull-request comment. */
const SHOWN_MARKDOWN_LAYERS = 200;
const SHOWN_WARNINGS = 20;

/** A probe as GitHub-flavoured Markdown. Names are shown as code, where nothing in them is markup. */
function renderProbeMarkdown(report: ProbeReport): string {
  const answer = describeProbe(report, showCode);
  const rest = report.layers.length - SHOWN_MARKDOWN_LAYERS;
  const blocks = [
    `### ${answer.outcome === 'moved' ? '❌' : '✅'} Probe: ${answer.headline}`,
    answer.explanation,
    renderTable(
      [
        ['before', showCode(report.before.path)],
        ['after', showCode(report.after.path)],
        ['inputs', describeInputs(report, showCode)],
      ] as const,
      [
        ['', ([role]) => role],
        ['', ([, text]) => text],
      ],
    ),
    ...(report.outputs.length > 0 ? [renderTable(report.outputs, OUTPUT_MARKDOWN_COLUMNS)] : []),
    renderTable(report.layers.slice(0, SHOWN_MARKDOWN_LAYERS), LAYER_MARKDOWN_COLUMNS),
    ...(rest > 0 ? [`… and ${formatPlural(rest, 'more layer')}.`] : []),
    explainColumns(report)
      .map(([term, meaning]) => `- **${term}**: ${meaning}`)
      .join('\n'),
    ...listWarnings(report.warnings, SHOWN_WARNINGS),
    `<sub>${report.tool.name} ${report.tool.version}, ${report.runtime.name} ${showText(report.runtime.version)}</sub>`,
  ];
  return `${blocks.join('\n\n')}\n`;
}

const OUTPUT_MARKDOWN_COLUMNS: readonly Column<ProbeOutput>[] = [
  ['output', ({ name }) => showCode(name)],
  ['shape', ({ shape }) => `${shape.join(' × ')}`],
  ['relative L2:', ({ relativeL2 }) => formatOptional(relativeL2)],
  ['cosine:', ({ cosine }) => formatOptional(cosine, formatCosine)],
  ['largest difference:', ({ maxDifference }) => formatOptional(maxDifference)],
  [
    'top-1 changed:',
    ({ top1 }) =>
      top1 === null
        ? '–'
        : `${formatCount(top1.changed)} of ${formatCount(top1.samples)} (${formatShare(top1.share)})`,
  ],
];

const LAYER_MARKDOWN_COLUMNS: readonly Column<ProbeLayer>[] = [
  ['layer, along the depth', ({ name }) => showCode(name)],
  ['status', ({ status, putBack }) => (putBack ? `${status}, put back` : status)],
  ['predicted:', ({ outputShift }) => formatOptional(outputShift)],
  ['alone:', ({ movement }) => formatOptional(movement?.sameInput)],
  ['in network:', ({ movement }) => formatOptional(movement?.inNetwork)],
  ['explains:', ({ contribution }) => formatOptional(contribution?.explained, formatShare)],
];

/** What a probe's page adds to the style of the audit's. */
const STYLE = `${pageStyle}
.scroll{overflow-x:auto}
.probe{border-collapse:collapse;width:100%;font-size:.93rem}
.probe th,.probe td{padding:.5rem .9rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
.probe tr:last-child td{border-bottom:0}
.probe th{color:var(--muted);font-weight:550}
.probe th.text,.probe td.text{text-align:left;white-space:normal;overflow-wrap:anywhere}
.probe svg{width:120px;height:10px;vertical-align:middle}
.probe .track{fill:var(--raised)}
.probe .share{fill:var(--drifted)}
.depth{padding:1rem}
.depth svg{display:block;width:100%;height:180px}
.depth .alone{fill:var(--drifted)}
.depth .network{fill:var(--before);opacity:.45}
.panel+.panel,.terms{margin-top:1.2rem}
.answer .lead{margin-top:1rem}
.terms{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1.2rem;color:var(--muted)}
.terms dt{font-weight:600}
.notes li{margin-block:.4rem}
`;

/** A probe as one HTML page without a script: it needs no network and no server. */
function renderProbeHtml(report: ProbeReport): string {
  const answer = describeProbe(report, (name) => encloseName(showSafely(name, 60)));
  const outcome = answer.outcome === 'moved' ? 'drifted' : 'clean';
  return renderDocument({
    tool: report.tool,
    title: `Probe: ${unmarkNames(answer.headline)}`,
    style: STYLE,
    madeWith: ` with ${report.runtime.name} ${showSafely(report.runtime.version)}`,
    body: html`<main>
<section class="answer ${outcome}">
<p>${renderVerdict(outcome, answer.outcome === 'moved' ? 'Moved' : 'Still')}</p>
<h1>${markNames(capitalize(answer.headline))}</h1>
<p class="explanation">${answer.explanation}</p>
<p class="lead">Before: <code><bdi>${showSafely(report.before.path)}</bdi></code> (${report.before.format}). After: <code><bdi>${showSafely(report.after.path)}</bdi></code>. Inputs: ${markNames(describeInputs(report, (file) => encloseName(showSafely(file))))}.</p>
</section>
<section><h2>Outputs</h2>
<p class="lead">After as it stands, measured against after with before’s statistics.</p>
${renderHtmlTable(report.outputs, OUTPUT_HTML_COLUMNS)}
</section>
<section><h2>Layers along the depth</h2>
${renderDepth(report.layers)}
${renderHtmlTable(report.layers, LAYER_HTML_COLUMNS)}
<dl class="terms">${explainColumns(report).map(([term, meaning]) => html`<dt>${term}</dt><dd>${meaning}</dd>`)}</dl>
</section>
${
  report.warnings.length === 0
    ? null
    : html`<section><h2>Notes</h2><ul class="notes">${report.warnings.map((warning) => html`<li>${showSafely(warning, 600)}</li>`)}</ul></section>`
}
</main>`,
  });
}

function capitalize(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

type HtmlColumn<Row> = readonly [title: string, cell: (row: Row) => Markup | string, isText?: 'text'];

const OUTPUT_HTML_COLUMNS: readonly HtmlColumn<ProbeOutput>[] = [
  ['Output', ({ name }) => html`<code><bdi>${showSafely(name)}</bdi></code>`, 'text'],
  ['Shape', ({ shape }) => shape.join(' × '), 'text'],
  ['Relative L2', ({ relativeL2 }) => formatOptional(relativeL2)],
  ['Cosine', ({ cosine }) => formatOptional(cosine, formatCosine)],
  ['Largest difference', ({ maxDifference }) => formatOptional(maxDifference)],
  [
    'Top-1 changed',
    ({ top1 }) =>
      top1 === null
        ? '–'
        : `${formatCount(top1.changed)} of ${formatPlural(top1.samples, 'sample')} (${formatShare(top1.share)})`,
  ],
];

const LAYER_HTML_COLUMNS: readonly HtmlColumn<ProbeLayer>[] = [
  ['Layer', ({ name }) => html`<code><bdi>${showSafely(name)}</bdi></code>`, 'text'],
  ['Status', ({ status, putBack }) => (putBack ? `${status}, put back` : status), 'text'],
  ['Predicted', ({ outputShift }) => formatOptional(outputShift)],
  ['Alone', ({ movement }) => formatOptional(movement?.sameInput)],
  ['In network', ({ movement }) => formatOptional(movement?.inNetwork)],
  ['Explains', ({ contribution }) => formatOptional(contribution?.explained, formatShare)],
  ['', ({ contribution }) => (contribution === null ? '' : drawShare(contribution.explained))],
];

function renderHtmlTable<Row>(rows: readonly Row[], columns: readonly HtmlColumn<Row>[]): Markup {
  return html`<div class="panel scroll"><table class="probe">
<thead><tr>${columns.map(([title, , kind = '']) => html`<th scope="col" class="${kind}">${title}</th>`)}</tr></thead>
<tbody>
${rows.map((row) => html`<tr>${columns.map(([, cell, kind = '']) => html`<td class="${kind}">${cell(row)}</td>`)}</tr>\n`)}</tbody>
</table></div>`;
}

function drawShare(share: number): Markup {
  const length = Number.isFinite(share) ? Math.max(0, Math.min(1, share)) * 120 : 0;
  return html`<svg viewBox="0 0 120 10" aria-hidden="true"><rect class="track" width="120" height="10" rx="2"/><rect class="share" width="${length.toFixed(1)}" height="10" rx="2"/></svg>`;
}

/** Units of the chart's own; the page stretches it. */
const CHART = { width: 1000, height: 180 } as const;

/** How far each layer's output moves: alone in front, in the network behind. */
function renderDepth(layers: readonly ProbeLayer[]): Markup | null {
  const finite = (value: number | null | undefined) =>
    value != null && Number.isFinite(value) ? Math.max(0, value) : 0;
  const moves = layers.map(({ movement }) => ({
    alone: finite(movement?.sameInput),
    network: finite(movement?.inNetwork),
  }));
  const full = moves.reduce((most, { alone, network }) => Math.max(most, alone, network), 0);
  if (full === 0) return null;
  const step = CHART.width / layers.length;
  const bar = (kind: 'alone' | 'network', value: number, index: number) => {
    const height = (value / full) * CHART.height;
    const width = step * (kind === 'alone' ? 0.4 : 0.8);
    const x = index * step + (step - width) / 2;
    return html`<rect class="${kind}" x="${x.toFixed(1)}" y="${(CHART.height - height).toFixed(1)}" width="${width.toFixed(1)}" height="${height.toFixed(1)}"/>`;
  };
  return html`<p class="lead">How far each layer’s output moves, first layer on the left: alone in front, in the network behind; the highest bar is ${formatMeasure(full)}.</p>
<div class="panel depth"><svg viewBox="0 0 ${CHART.width} ${CHART.height}" preserveAspectRatio="none" role="img" aria-label="Movement of each layer's output along the depth; the table holds the same numbers">
${moves.map(({ alone, network }, index) => [bar('network', network, index), bar('alone', alone, index)])}
</svg></div>`;
}

const RENDERERS: Readonly<Record<ProbeFormat, (report: ProbeReport, options: TextOptions) => string>> = {
  text: renderProbeText,
  json: toJson,
  markdown: renderProbeMarkdown,
  html: renderProbeHtml,
};

/**
 * Renders a probe to a string that ends with a line end. Pure: the same report and options give the same text.
 *
 * @throws UsageError when an option is not what it must be, as when `format` is none of a probe's.
 */
export function renderProbe(report: ProbeReport, options: ProbeRenderOptions = {}): string {
  checkOptions('renderProbe', options);
  const { format = 'text' } = options;
  findFormat(format, 'probe');
  return RENDERERS[format](report, options);
}
