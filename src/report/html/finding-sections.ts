import { type Finding, titleOf } from '../../compare/finding.js';
import { type AnyReport, showMessage } from '../any-report.js';
import type { AuditReport } from '../audit-report.js';
import { FINDING_HELP } from '../finding-help.js';
import { adviseFreeze, splitCodeWords, type Way } from '../fix-advice.js';
import { formatCount } from '../format-numbers.js';
import { type FindingGroup, groupFindings } from '../group-findings.js';
import { rankFindings } from '../ranked-findings.js';
import { listRemedies } from '../remedies.js';
import { defuseCommands } from '../text-layout.js';
import { renderName } from './layer-rows.js';
import { html, type Markup } from './markup.js';

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
export function renderSort({ 0: { level, kind }, length }: FindingGroup): Markup {
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
