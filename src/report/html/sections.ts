// The page's answer and its findings.

import { type Finding, titleOf } from '../../compare/findings.js';
import { LAYER_STATUSES } from '../../compare/status.js';
import { type Answer, listRemedies, type Outcome } from '../answer.js';
import {
  type AnyReport,
  type FindingGroup,
  groupFindings,
  isAudit,
  rankFindings,
  showMessage,
  showSafely,
} from '../any-report.js';
import type { AuditReport, CheckpointSummary } from '../audit-report.js';
import { FINDING_HELP } from '../finding-help.js';
import { adviseFreeze, splitCodeWords, type Way } from '../fix-advice.js';
import { formatBatches, formatCount, formatMeasure, formatPlural } from '../format-numbers.js';
import { defuseCommands } from '../text-layout.js';
import { renderName } from './layer-rows.js';
import { html, type Markup, markNames } from './markup.js';

const ICONS: Readonly<Record<Outcome, string>> = {
  failed: 'M6 6l8 8M14 6l-8 8',
  drifted: 'M6 6l8 8M14 6l-8 8',
  unhealthy: 'M6 6l8 8M14 6l-8 8',
  warned: 'M10 5v6M10 14.5v.1',
  clean: 'M5.5 10.5l3 3 6-7',
};

/** What the page says first: the verdict, the evidence in numbers, and which checkpoints were compared. */
export function renderAnswer(report: AnyReport, { outcome, word, headline, explanation }: Answer): Markup {
  return html`<section class="answer ${outcome}" aria-labelledby="headline">
<p>${renderVerdict(outcome, word)}</p>
<h1 id="headline">${markNames(headline.charAt(0).toUpperCase() + headline.slice(1))}</h1>
<p class="explanation">${markNames(explanation)}</p>
${isAudit(report) ? renderEvidence(report) : null}
<div class="checkpoints">
${
  isAudit(report)
    ? html`${renderCheckpoint('Before', report.before)}<svg class="arrow" viewBox="0 0 24 12" aria-hidden="true"><path d="M1 6h21M17 1l5 5-5 5"/></svg>${renderCheckpoint('After', report.after)}`
    : renderCheckpoint('Checkpoint', report.checkpoint)
}
</div>
</section>`;
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

function renderCheckpoint(role: string, { path, format, layers, learned }: CheckpointSummary): Markup {
  return html`<div class="checkpoint"><p class="role">${role}</p><p class="path"><bdi>${showSafely(path)}</bdi></p><p class="contents">${format}, ${formatPlural(layers, 'norm layer')}, ${formatPlural(learned, 'learned tensor')}</p></div>`;
}

function renderEvidence(report: AuditReport): Markup {
  const { summary } = report;
  const { byStatus, batches, learned, worst } = summary;
  const figures: readonly Figure[] = [
    ['Norm layers drifted', formatCount(byStatus.drifted), `of ${formatCount(summary.layers)}`],
    [
      'Worst output shift',
      worst === null ? '–' : formatMeasure(worst.outputShift),
      worst === null ? 'nothing drifted' : 'of its own size',
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
const MAX_MESSAGE_LENGTH = 600;

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
${group.slice(0, SHOWN_FINDINGS).map(({ layer, message }) => html`<li>${linkLayer(layer, positions)} <span class="faint">${showMessage(message, MAX_MESSAGE_LENGTH)}</span></li>`)}
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
${group.slice(0, BRIEF_FINDINGS).map(({ layer, message }) => html`<li>${renderName(layer)} <span class="faint">${showMessage(message, MAX_MESSAGE_LENGTH)}</span></li>`)}
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

/** What to do where evaluation mode would not have kept the statistics still. Null where there is no such drift. */
export function renderRemedies(report: AuditReport): Markup | null {
  const remedies = listRemedies(report);
  if (remedies.length === 0) return null;
  return html`<section id="remedy" aria-labelledby="remedy-title">
<h2 id="remedy-title">What to do</h2>
${remedies.map((remedy) => html`<p class="lead">${remedy}</p>\n`)}</section>
`;
}

/** How to keep the frozen part frozen, as code that names its modules. Null where nothing drifted. */
export function renderAdvice(report: AuditReport): Markup | null {
  const advice = adviseFreeze(report);
  if (advice === null) return null;
  const say = (sentence: string) =>
    splitCodeWords(sentence).map((part, index) => (index % 2 === 0 ? part : html`<code>${part}</code>`));
  const show = ({ where, code }: Way) =>
    html`<figure class="panel"><figcaption>${say(where)}</figcaption><pre><code>${defuseCommands(code.join('\n'))}</code></pre></figure>`;
  return html`<section id="fix" aria-labelledby="fix-title">
<h2 id="fix-title">How to keep it frozen</h2>
<p class="lead">${say(advice.why)}</p>
<div class="columns">
${advice.ways.map(show)}
</div>
</section>`;
}

/** What a reader should know beyond the findings. */
export function renderNotes(report: AnyReport): Markup | null {
  if (report.warnings.length === 0) return null;
  return html`<section id="notes" aria-labelledby="notes-title">
<h2 id="notes-title">Notes</h2>
${renderNoteList(report)}
</section>`;
}

/** The same as a list without a heading. */
export function renderNoteList({ warnings }: AnyReport): Markup | null {
  if (warnings.length === 0) return null;
  const rest = warnings.length - SHOWN_NOTES;
  return html`<ul class="notes">
${warnings.slice(0, SHOWN_NOTES).map((warning) => html`<li>${showMessage(warning, MAX_MESSAGE_LENGTH)}</li>`)}
${rest > 0 ? html`<li>… and ${formatCount(rest)} more</li>` : null}
</ul>`;
}
