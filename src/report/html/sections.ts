// The page's answer and its findings.

import { type Finding, titleOf } from '../../compare/findings.js';
import { LAYER_STATUSES } from '../../compare/status.js';
import { failUnreachable } from '../../errors.js';
import type { Outcome } from '../answer.js';
import {
  type AnyReport,
  type FindingGroup,
  groupFindings,
  rankFindings,
  showMessage,
  showSafely,
  splitPhrase,
} from '../any-report.js';
import type { AuditReport } from '../audit-report.js';
import type { Block, Document, Fact, Moves, Table } from '../document.js';
import { FINDING_HELP } from '../finding-help.js';
import { type Advice, splitCodeWords } from '../fix-advice.js';
import { formatBatches, formatCount, formatMeasure } from '../format-numbers.js';
import { defuseCommands } from '../text-layout.js';
import { renderName } from './layer-rows.js';
import { capitalize, html, type Markup, markNames } from './markup.js';

const ICONS: Readonly<Record<Outcome, string>> = {
  failed: 'M6 6l8 8M14 6l-8 8',
  drifted: 'M6 6l8 8M14 6l-8 8',
  unhealthy: 'M6 6l8 8M14 6l-8 8',
  warned: 'M10 5v6M10 14.5v.1',
  clean: 'M5.5 10.5l3 3 6-7',
};

/** What the page says first: the verdict, the evidence in numbers, and what was looked at. */
export function renderAnswer({ answer, facts }: Document, evidence: Markup | null): Markup {
  const { outcome, word, headline, explanation } = answer;
  return html`<section class="answer ${outcome}" aria-labelledby="headline">
<p>${renderVerdict(outcome, word)}</p>
<h1 id="headline">${markNames(capitalize(headline))}</h1>
<p class="explanation">${markNames(explanation)}</p>
${evidence}
<div class="checkpoints">
${facts.map((fact) => html`${fact.role === 'after' ? ARROW : null}${renderFact(fact)}`)}
</div>
</section>`;
}

const ARROW = html`<svg class="arrow" viewBox="0 0 24 12" aria-hidden="true"><path d="M1 6h21M17 1l5 5-5 5"/></svg>`;

function renderFact({ role, what, contents }: Fact): Markup {
  const path = splitPhrase(what).map((part, index) =>
    index % 2 === 1 ? html`<bdi>${showSafely(part)}</bdi>` : part,
  );
  return html`<div class="checkpoint"><p class="role">${capitalize(role)}</p><p class="path">${path}</p><p class="contents">${contents.join(', ')}</p></div>`;
}

/** A word for the outcome, with a sign that says the same. */
export function renderVerdict(outcome: Outcome, word: string): Markup {
  return html`<span class="verdict"><svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="9"/><path d="${ICONS[outcome]}"/></svg>${word}</span>`;
}

/** A number that a page shows large. */
export type Figure = readonly [label: string, value: string, note: string];

/** Numbers in a row, each with its label and a note. */
export function renderFigures(figures: readonly Figure[]): Markup {
  return html`<dl class="figures">
${figures.map(([label, value, note]) => html`<div><dt>${label}</dt><dd>${value} <small>${note}</small></dd></div>`)}
</dl>`;
}

/** Counts and measures of an audit, and its layers by status. */
export function renderEvidence(report: AuditReport): Markup {
  const { summary } = report;
  const { byStatus, batches, learned, worst } = summary;
  const figures: readonly Figure[] = [
    ['Norm layers drifted', formatCount(byStatus.drifted), `of ${formatCount(summary.layers)}`],
    [
      'Worst output shift',
      worst === null ? '–' : formatMeasure(worst.outputShift),
      worst !== null
        ? 'of its own size'
        : byStatus.drifted === 0
          ? 'nothing drifted'
          : 'folded weights do not tell',
    ],
    [
      'Batch counts moved',
      describeBatches(batches),
      byStatus.drifted > 0 ? 'of what drifted' : 'of any layer',
    ],
    ['Learned tensors unchanged', formatCount(learned.equal), `of ${formatCount(learned.compared)}`],
  ];
  return html`${renderFigures(figures)}
${renderComposition(summary)}`;
}

function describeBatches(batches: AuditReport['summary']['batches']): string {
  if (batches === null) return '–';
  if (batches.min === batches.max) return formatBatches(batches.max);
  return `${formatBatches(batches.min)} to ${formatBatches(batches.max)}`;
}

/** Layers by status, as a bar with a key that says the same in words. */
function renderComposition({ byStatus, layers }: AuditReport['summary']): Markup {
  const present = LAYER_STATUSES.filter((status) => byStatus[status] > 0);
  let start = 0;
  const parts = present.map((status) => {
    const share = (byStatus[status] / layers) * 1000;
    const part = html`<rect class="is-${status}" x="${start.toFixed(1)}" width="${Math.max(share - 2, 1).toFixed(1)}" height="10"/>`;
    start += share;
    return part;
  });
  return html`<div class="composition"><svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">${parts}</svg>
<ul class="key" aria-label="Norm layers by status">${present.map((status) => html`<li class="is-${status}"><i class="dot"></i>${formatCount(byStatus[status])} ${status}</li>`)}</ul></div>`;
}

/** So many findings of a kind are spelled out; the table marks the others. */
const SHOWN_FINDINGS = 50;
const BRIEF_FINDINGS = 3;
const SHOWN_NOTES = 100;

/** What was found, by kind: what it means, what to do, and where. */
export function renderFindings(report: AnyReport): Markup | null {
  if (report.findings.length === 0) return null;
  const positions = new Map(report.layers.map(({ name }, index) => [name, index]));
  const groups = groupFindings(rankFindings(report).map(({ finding }) => finding));
  return html`<section id="findings" aria-labelledby="findings-title">
<h2 id="findings-title">Findings</h2>
${groups.map((group) => renderGroup(group, positions))}
</section>`;
}

function renderGroup(group: FindingGroup, positions: ReadonlyMap<string, number>): Markup {
  const [first] = group;
  const rest = group.length - SHOWN_FINDINGS;
  return html`<article class="panel finding">
<h3>${renderSort(group)}</h3>
${renderHelp(first)}
<details${group.length <= 5 ? html` open` : null}><summary>${group.length === 1 ? 'The layer' : `The ${formatCount(group.length)} layers`}</summary><ul>
${group.slice(0, SHOWN_FINDINGS).map(({ layer, message }) => html`<li>${linkLayer(layer, positions)} <span class="faint">${showMessage(message)}</span></li>`)}
${rest > 0 ? html`<li>… and ${formatCount(rest)} more</li>` : null}
</ul></details>
</article>`;
}

/** What sort of findings these are, and how many. */
function renderSort({ 0: { level, kind }, length }: FindingGroup): Markup {
  return html`<span class="level ${level}">${level}</span> ${titleOf(kind)} <small>${formatCount(length)}</small>`;
}

/** What a finding of its kind means, what to do about it, and where to read on. */
export function renderHelp({ kind, docs }: Finding): Markup {
  const { meaning, remedy } = FINDING_HELP[kind];
  return html`<p>${meaning}</p>
<p><b>What to do.</b> ${remedy} <span class="faint">More in <code>${docs}</code>, or from <code>bn-audit explain ${kind}</code>.</span></p>`;
}

/** What was found, with a few of its layers: what a page that explains the kinds elsewhere says of one checkpoint. */
export function renderGroupInBrief(group: FindingGroup): Markup {
  const rest = group.length - BRIEF_FINDINGS;
  return html`<div class="said"><p>${renderSort(group)}</p><ul>
${group.slice(0, BRIEF_FINDINGS).map(({ layer, message }) => html`<li>${renderName(layer)} <span class="faint">${showMessage(message)}</span></li>`)}
${rest > 0 ? html`<li class="faint">… and ${formatCount(rest)} more</li>` : null}
</ul></div>
`;
}

function linkLayer(name: string, positions: ReadonlyMap<string, number>): Markup {
  const position = positions.get(name);
  return position === undefined
    ? renderName(name)
    : html`<a href="#layer-${position}">${renderName(name)}</a>`;
}

/**
 * A part of a report as a section of its page. Null for what a page shows in its own way, with links from one to the other:
 * findings and regions.
 */
export function renderBlock(block: Block): Markup | null {
  switch (block.kind) {
    case 'table':
      return renderTable(block);
    case 'moves':
      return renderMoves(block.layers);
    case 'notes':
      return renderNotes(block.notes);
    case 'terms':
      return html`<dl class="terms">${block.terms.map(([term, meaning]) => html`<dt>${term}</dt><dd>${meaning}</dd>`)}</dl>\n`;
    case 'remedies':
      return renderRemedies(block.remedies);
    case 'advice':
      return renderAdvice(block.advice);
    case 'findings':
    case 'regions':
      return null;
    default:
      return failUnreachable(block);
  }
}

function renderTable(table: Table): Markup {
  const { columns, section } = table;
  const kindOf = (index: number) => (columns[index]?.isNumber ? '' : 'text');
  const scales = columns.map(({ full }) => full ?? 1);
  return html`<section>${section === undefined ? null : html`<h2>${section.title}</h2>\n`}${section?.lead === undefined ? null : html`<p class="lead">${section.lead}</p>\n`}<div class="panel scroll"><table class="plain">
<thead><tr>${columns.map(({ title }, index) => html`<th scope="col" class="${kindOf(index)}">${capitalize(title)}</th>`)}</tr></thead>
<tbody>
${table.take(table.length, false).map((row) => html`<tr>${row.map(({ phrase, size }, index) => html`<td class="${kindOf(index)}">${markNames(phrase)}${size === null ? null : drawShare(size / (scales[index] ?? 1))}</td>`)}</tr>\n`)}</tbody>
</table></div></section>
`;
}

function drawShare(share: number): Markup {
  const length = Number.isFinite(share) ? Math.max(0, Math.min(1, share)) * 120 : 0;
  return html` <svg viewBox="0 0 120 10" aria-hidden="true"><rect class="track" width="120" height="10" rx="2"/><rect class="share" width="${length.toFixed(1)}" height="10" rx="2"/></svg>`;
}

/** Units of the chart's own; the page stretches it. */
const CHART = { width: 1000, height: 180 } as const;

/** How far each layer's output moves: alone in front, in the network behind. */
function renderMoves(layers: Moves['layers']): Markup | null {
  const finite = (value: number | null) =>
    value !== null && Number.isFinite(value) ? Math.max(0, value) : 0;
  const moves = layers.map(({ alone, network }) => ({ alone: finite(alone), network: finite(network) }));
  const full = moves.reduce((most, { alone, network }) => Math.max(most, alone, network), 0);
  if (full === 0) return null;
  const step = CHART.width / layers.length;
  const bar = (kind: 'alone' | 'network', value: number, index: number) => {
    const height = (value / full) * CHART.height;
    const width = step * (kind === 'alone' ? 0.4 : 0.8);
    const x = index * step + (step - width) / 2;
    return html`<rect class="${kind}" x="${x.toFixed(1)}" y="${(CHART.height - height).toFixed(1)}" width="${width.toFixed(1)}" height="${height.toFixed(1)}"/>`;
  };
  return html`<section><h2>Movement along the depth</h2>
<p class="lead">How far each layer’s output moves, first layer on the left: alone in front, in the network behind; the highest bar is ${formatMeasure(full)}.</p>
<div class="panel depth"><svg viewBox="0 0 ${CHART.width} ${CHART.height}" preserveAspectRatio="none" role="img" aria-label="Movement of each layer's output along the depth; the table holds the same numbers">
${moves.map(({ alone, network }, index) => [bar('network', network, index), bar('alone', alone, index)])}
</svg></div></section>
`;
}

function renderRemedies(remedies: readonly string[]): Markup | null {
  if (remedies.length === 0) return null;
  return html`<section id="remedy" aria-labelledby="remedy-title">
<h2 id="remedy-title">What to do</h2>
${remedies.map((remedy) => html`<p class="lead">${remedy}</p>\n`)}</section>
`;
}

/** How to keep the frozen part frozen, as code that names its modules. */
function renderAdvice({ why, ways }: Advice): Markup {
  const say = (sentence: string) =>
    splitCodeWords(sentence).map((part, index) => (index % 2 === 0 ? part : html`<code>${part}</code>`));
  return html`<section id="fix" aria-labelledby="fix-title">
<h2 id="fix-title">How to keep it frozen</h2>
<p class="lead">${say(why)}</p>
<div class="columns">
${ways.map(({ where, code }) => html`<figure class="panel"><figcaption>${say(where)}</figcaption><pre><code>${defuseCommands(code.join('\n'))}</code></pre></figure>`)}
</div>
</section>`;
}

function renderNotes(notes: readonly string[]): Markup | null {
  if (notes.length === 0) return null;
  return html`<section id="notes" aria-labelledby="notes-title">
<h2 id="notes-title">Notes</h2>
${renderNoteList(notes)}
</section>`;
}

/** What a reader should know beyond the findings, as a list without a heading. */
export function renderNoteList(notes: readonly string[]): Markup | null {
  if (notes.length === 0) return null;
  const rest = notes.length - SHOWN_NOTES;
  return html`<ul class="notes">
${notes.slice(0, SHOWN_NOTES).map((note) => html`<li>${showMessage(note)}</li>`)}
${rest > 0 ? html`<li>… and ${formatCount(rest)} more</li>` : null}
</ul>`;
}
