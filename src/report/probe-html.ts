import { showSafely } from './any-report.js';
import { formatCount, formatMeasure, formatOptional, formatPlural } from './format-numbers.js';
import { renderVerdict } from './html/answer-section.js';
import { renderDocument } from './html/document.js';
import { encloseName, html, type Markup, markNames, unmarkNames } from './html/markup.js';
import pageStyle from './html/page/style.css?bundle';
import { describeInputs, describeProbe, explainColumns, formatCosine, formatShare } from './probe-answer.js';
import type { ProbeLayer, ProbeOutput, ProbeReport } from './probe-report.js';

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
export function renderProbeHtml(report: ProbeReport): string {
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
${renderTable(report.outputs, OUTPUT_COLUMNS)}
</section>
<section><h2>Layers along the depth</h2>
${renderDepth(report.layers)}
${renderTable(report.layers, LAYER_COLUMNS)}
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

type Column<Row> = readonly [title: string, cell: (row: Row) => Markup | string, isText?: 'text'];

const OUTPUT_COLUMNS: readonly Column<ProbeOutput>[] = [
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

const LAYER_COLUMNS: readonly Column<ProbeLayer>[] = [
  ['Layer', ({ name }) => html`<code><bdi>${showSafely(name)}</bdi></code>`, 'text'],
  ['Status', ({ status, putBack }) => (putBack ? `${status}, put back` : status), 'text'],
  ['Predicted', ({ outputShift }) => formatOptional(outputShift)],
  ['Alone', ({ movement }) => formatOptional(movement?.sameInput)],
  ['In network', ({ movement }) => formatOptional(movement?.inNetwork)],
  ['Explains', ({ contribution }) => formatOptional(contribution?.explained, formatShare)],
  ['', ({ contribution }) => (contribution === null ? '' : drawShare(contribution.explained))],
];

function renderTable<Row>(rows: readonly Row[], columns: readonly Column<Row>[]): Markup {
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
