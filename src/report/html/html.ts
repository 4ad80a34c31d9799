// The page of an audit or an inspection, and that of several audits.

import type { Framework } from '../../checkpoint/checkpoint.js';
import { type Finding, titleOf } from '../../compare/findings.js';
import { LAYER_STATUSES } from '../../compare/status.js';
import { failUnreachable } from '../../errors.js';
import { describeAnswer, type Outcome, VERDICT_WORDS } from '../answer.js';
import {
  findReportFramework,
  isAudit,
  type OneReport,
  showMessage,
  showSafely,
  splitPhrase,
} from '../any-report.js';
import type { AuditReport, CheckpointSummary } from '../audit-report.js';
import {
  type AuditFailure,
  countOutcomes,
  findWorstReport,
  getCommonBefore,
  getShift,
  type ReportHead,
  type ReportSet,
} from '../audit-set.js';
import { describeReport } from '../describe-report.js';
import type { Block, Cell, Document, Fact, Moves, Table, Trend } from '../document.js';
import { type FindingGroup, groupFindings, rankFindings } from '../finding-groups.js';
import { countsBatches, findPage, helpWith } from '../finding-help.js';
import { type Advice, splitCodeWords } from '../fix-advice.js';
import {
  formatBatches,
  formatCount,
  formatMeasure,
  formatOptional,
  formatPlural,
} from '../format-numbers.js';
import { areUnmarked, formatLayers, nameLayer } from '../layer-nouns.js';
import { defuseCommands } from '../text-layout.js';
import {
  renderBar,
  renderLayerTable,
  renderModuleTree,
  renderName,
  renderWorstLayers,
} from './layer-rows.js';
import {
  capitalize,
  html,
  type Markup,
  markNames,
  renderDocument,
  renderTop,
  toScriptJson,
  unmarkNames,
} from './markup.js';
import documentStyle from './page/document.css?bundle';
import script from './page/page.ts?bundle';
import setStyle from './page/set.css?bundle';
import style from './page/style.css?bundle';
import setScript from './page/theme.ts?bundle';
import { buildPageChannels, buildPageData } from './page-data.js';

/** Channels are left out of a page that would be longer, in characters: it is to open at once and to be mailed. */
const MAX_PAGE_LENGTH = 900_000;

/**
 * The page of an audit or an inspection: the answer, the module tree, the table and the findings.
 *
 * Charts of channels need the report's `perChannel`; their data is cut so that the page stays small.
 */
export function renderOne(given: OneReport): string {
  const isOrdered = listedCheckpointOf(given).inModuleOrder;
  const report = isOrdered ? given : sortLayers(given);
  const document = describeReport(report, { all: true });
  const { answer } = document;
  const pageData = buildPageData(report);
  const hasChart = pageData.layers.some(({ values }) => values.some((value) => Number(value)));
  const main = html`<main>
${renderAnswer(document, html`${renderKindList(report)}${isAudit(report) ? renderEvidence(report) : null}`)}
${document.blocks.filter(isWayOut).map(renderBlock)}
${renderFindings(report)}
${hasChart ? renderChart(report, isOrdered) : null}
${isAudit(report) ? renderModuleTree(report) : null}
${renderLayerTable(report, isOrdered)}
${document.blocks.filter(({ kind }) => kind === 'notes').map(renderBlock)}
</main>`;
  const data = toScriptJson(pageData);
  const used = [script, style, main.markup, data.markup].reduce((sum, { length }) => sum + length, 0);
  const channels = toScriptJson(buildPageChannels(report, MAX_PAGE_LENGTH - used));
  return renderDocument({
    tool: report.tool,
    title: `${answer.word}: ${unmarkNames(answer.headline)}`,
    style,
    body: html`<a class="skip" href="#layers">Skip to the layers</a>
${renderTop(report.tool, answer.outcome, listSections(main))}
${main}`,
    data: { data, channels },
    script,
  });
}

/** The checkpoint whose order the layers of a report stand in. */
function listedCheckpointOf(report: OneReport): CheckpointSummary {
  return isAudit(report) ? report.before : report.checkpoint;
}

/** Where a file keeps no order of layers, that of their names, with numbers by their value. */
function sortLayers(report: OneReport): OneReport {
  const byName = (one: { readonly name: string }, other: { readonly name: string }) =>
    NATURAL_ORDER.compare(one.name, other.name);
  return isAudit(report)
    ? { ...report, layers: [...report.layers].sort(byName) }
    : { ...report, layers: [...report.layers].sort(byName) };
}

/** layer2 before layer10. */
const NATURAL_ORDER = new Intl.Collator('en', { numeric: true });

/** What to do, which stands right below the answer. */
export function isWayOut({ kind }: Block): boolean {
  return kind === 'remedies' || kind === 'advice';
}

const SECTIONS = [
  ['fix', 'Fix'],
  ['findings', 'Findings'],
  ['chart', 'Chart'],
  ['modules', 'Modules'],
  ['layers', 'Layers'],
  ['notes', 'Notes'],
] as const;

/** Those sections that the page has. */
function listSections({ markup }: Markup): readonly (readonly [id: string, title: string])[] {
  return SECTIONS.filter(([id]) => markup.includes(`<section id="${id}"`));
}

function renderChart(report: OneReport, isOrdered: boolean): Markup {
  const order = isOrdered
    ? 'in the order of the network, first on the left'
    : 'by name, with numbers by value: the file does not keep the order of the network';
  return html`<section id="chart" aria-labelledby="chart-title">
<h2 id="chart-title">${isAudit(report) ? 'Movement' : 'Statistics'} ${isOrdered ? 'along the depth' : 'by layer'}</h2>
<p class="lead">Every ${nameLayer(report.layers)} ${order}. The <a href="#layers">table of layers</a> holds the same numbers.</p>
<div id="layer-chart" class="panel chart"><noscript><p>The charts, sorting and filtering need JavaScript. Everything else is below.</p></noscript></div>
</section>`;
}

/** What was found, by kind, each with a link to what it means. */
function renderKindList({ findings }: OneReport): Markup | null {
  if (findings.length === 0) return null;
  return html`<ul class="found" aria-label="Findings by kind">
${groupFindings(findings).map((group) => html`<li><a href="#${idOf(group)}">${renderSort(group)}</a></li>\n`)}</ul>
`;
}

function idOf([{ level, kind }]: FindingGroup): string {
  return `${level}-${kind}`;
}

/** What a report says as one HTML page without a script: it needs no network and no server. */
export function writeHtml(
  document: Document,
  { tool, madeWith, about }: Pick<ReportSet, 'tool'> & { readonly madeWith: string; readonly about: string },
): string {
  return renderDocument({
    tool,
    title: `${about}: ${unmarkNames(document.answer.headline)}`,
    style: `${style}${documentStyle}`,
    madeWith,
    body: html`<main>
${renderAnswer(document, null)}
${document.blocks.map(renderBlock)}</main>`,
  });
}

/** Checkpoints keep their rows and lose their contents beyond this length, in characters: the page is to open at once. */
const MAX_CONTENTS_LENGTH = 700_000;

/** So many layers of a checkpoint are shown; a page of its own has them all. */
const SHOWN_LAYERS = 10;

/** The page of several audits: the answer over all, then a row for each checkpoint, which opens to what was found in it. */
export function renderSet(set: ReportSet): string {
  const outcome = set.verdict;
  const hasAnyFinding = set.heads.some(({ findings }) => findings.length > 0);
  const worst = findWorstReport(set);
  return renderDocument({
    tool: set.tool,
    title: countOutcomes(set),
    style: `${style}${setStyle}`,
    body: html`<a class="skip" href="#checkpoints">Skip to the checkpoints</a>
${renderTop(set.tool, outcome, [
  ['checkpoints', 'Checkpoints'],
  ...(hasAnyFinding ? ([['findings', 'Findings']] as const) : []),
])}
<main>
${renderSetAnswer(set, worst)}
${worst === null ? null : describeReport(worst, { all: false }).blocks.filter(isWayOut).map(renderBlock)}
${renderCheckpoints(set)}
${hasAnyFinding ? renderKinds(set) : null}
</main>`,
    script: setScript,
  });
}

function renderSetAnswer(set: ReportSet, worst: AuditReport | null): Markup {
  const before = getCommonBefore(set);
  return html`<section class="answer ${set.verdict}" aria-labelledby="headline">
<p>${renderVerdict(set.verdict, VERDICT_WORDS[set.verdict])}</p>
<h1 id="headline">${countOutcomes(set).replace(/\.$/, '')}</h1>
${worst === null ? null : renderWorst(worst)}
${renderFigures(listFigures(set, worst))}
${before === null ? null : html`<div class="checkpoints"><div class="checkpoint"><p class="role">All compared with</p><p class="path"><bdi>${showSafely(before)}</bdi></p></div></div>`}
</section>`;
}

function renderWorst(report: AuditReport): Markup {
  const { headline, explanation } = describeAnswer(report);
  return html`<p class="explanation">The worst is ${showPath(report.after.path)}: ${markNames(headline)}. ${markNames(explanation)}</p>`;
}

function listFigures({ heads, failures }: ReportSet, worst: AuditReport | null): readonly Figure[] {
  const count = heads.length + failures.length;
  const drifted = heads.filter(({ verdict }) => verdict === 'drifted').length;
  return [
    [VERDICT_WORDS.drifted, formatCount(drifted), `of ${formatPlural(count, 'checkpoint')}`],
    [
      VERDICT_WORDS.failed,
      formatCount(failures.length),
      `of ${formatPlural(count, 'checkpoint')}: not audited`,
    ],
    [
      'Worst output shift',
      worst?.summary.worst == null ? '–' : formatMeasure(worst.summary.worst.outputShift),
      worst?.summary.worst == null ? 'nothing drifted' : 'of the layer’s own size',
    ],
  ];
}

/** What could not be audited comes first: it is easily overlooked. */
function renderCheckpoints(set: ReportSet): Markup {
  const isBeforeShown = getCommonBefore(set) === null;
  const scale = set.heads
    .map(getShift)
    .filter(Number.isFinite)
    .reduce((most, shift) => Math.max(most, shift), 0);
  const contents = renderContents(set);
  return html`<section id="checkpoints" aria-labelledby="checkpoints-title">
<h2 id="checkpoints-title">Checkpoints</h2>
<p class="lead">Each opens to what was found in it. Charts, and every layer and channel, are in the page of one: <code>bn-audit diff BEFORE AFTER -f html</code></p>
${set.failures.map((failure) => renderFailure(failure, isBeforeShown))}
${Array.from(set.reports, (report, index) => renderReport(report, { isBeforeShown, scale, contents: contents.get(index) ?? null }))}
</section>`;
}

function renderFailure({ before, after, message, hint }: AuditFailure, isBeforeShown: boolean): Markup {
  return html`<div class="panel audit failed">
<div class="row">${renderVerdict('failed', VERDICT_WORDS.failed)}<span class="which">${nameAudit(before, after, isBeforeShown)}</span></div>
<p>${showMessage(message)}</p>
${hint === null ? null : html`<p class="faint">${showMessage(hint)}</p>`}
</div>
`;
}

interface RowOptions {
  readonly isBeforeShown: boolean;
  /** The output shift of a full bar. */
  readonly scale: number;
  /** Null where the page has no room for them. */
  readonly contents: Markup | null;
}

function renderReport(report: AuditReport, { isBeforeShown, scale, contents }: RowOptions): Markup {
  const { outcome, word, headline } = describeAnswer(report);
  const { worst, byStatus, layers } = report.summary;
  const row = html`${renderVerdict(outcome, word)}<span class="which">${nameAudit(report.before.path, report.after.path, isBeforeShown)} <span class="faint">${markNames(headline)}</span></span><span class="moved">${formatCount(byStatus.drifted)} of ${formatLayers(layers, report.layers)} drifted${worst === null ? null : html`, <span class="worst">worst ${renderName(worst.layer)}</span>`}</span><span class="measure is-drifted"><span class="unseen">output shift </span>${worst === null ? html`<b>–</b>` : html`${renderBar(worst.outputShift, scale)}<b>${formatMeasure(worst.outputShift)}</b>`}</span>`;
  return contents === null
    ? html`<div class="panel audit ${outcome}">
<div class="row">${row}</div>
<p class="faint">What was found in it is left out here: the page would be too large. Audit it alone.</p>
</div>
`
    : html`<details class="panel audit ${outcome}">
<summary class="row">${row}</summary>
${contents}
</details>
`;
}

/**
 * What the reports open to, by their place: those that drifted most first, then the others, as many as one page should
 * hold.
 */
function renderContents({ reports, heads }: ReportSet): ReadonlyMap<number, Markup> {
  const rank = ({ verdict }: ReportHead) => (verdict === 'drifted' ? 0 : 1);
  const ranked = heads
    .map((head, index) => ({ head, index }))
    .sort(({ head: x }, { head: y }) => rank(x) - rank(y) || getShift(y) - getShift(x));
  const contents = new Map<number, Markup>();
  let length = 0;
  for (const { index } of ranked) {
    const report = reports.at(index);
    if (report === undefined) continue;
    const markup = renderOpened(report);
    length += markup.markup.length;
    if (length > MAX_CONTENTS_LENGTH) break;
    contents.set(index, markup);
  }
  return contents;
}

function renderOpened(report: AuditReport): Markup {
  const rest = report.layers.length - SHOWN_LAYERS;
  return html`<p class="explanation">${markNames(describeAnswer(report).explanation)}</p>
${groupFindings(report.findings).map(renderGroupInBrief)}
${renderWorstLayers(report, SHOWN_LAYERS)}
${rest > 0 ? html`<p class="faint">… and ${formatPlural(rest, 'more layer')}</p>` : null}
${renderNoteList(report.warnings)}`;
}

/** What each kind of finding means, once for all checkpoints. */
function renderKinds({ heads }: ReportSet): Markup {
  const kinds = new Map(
    groupFindings(heads.flatMap(({ findings }) => findings)).map(([first]) => [first.kind, first]),
  );
  // One of several: that of the checkpoint which the page names first.
  const [framework = null] = heads.map(({ before, after }) => after.framework ?? before.framework);
  return html`<section id="findings" aria-labelledby="findings-title">
<h2 id="findings-title">Findings</h2>
${[...kinds.values()].map(
  (finding) => html`<article class="panel finding">
<h3>${titleOf(finding.kind)}</h3>
${renderHelp(finding, framework)}
</article>
`,
)}</section>`;
}

function nameAudit(before: string, after: string, isBeforeShown: boolean): Markup {
  return isBeforeShown ? html`${showPath(before)} → ${showPath(after)}` : showPath(after);
}

function showPath(path: string): Markup {
  return html`<bdi class="path">${showSafely(path)}</bdi>`;
}

const ICONS: Readonly<Record<Outcome, string>> = {
  failed: 'M6 6l8 8M14 6l-8 8',
  drifted: 'M6 6l8 8M14 6l-8 8',
  unhealthy: 'M6 6l8 8M14 6l-8 8',
  warned: 'M10 5v6M10 14.5v.1',
  clean: 'M5.5 10.5l3 3 6-7',
};

/** What a page says first: the verdict, the evidence in numbers, and what was looked at. */
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
function renderVerdict(outcome: Outcome, word: string): Markup {
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
function renderEvidence(report: AuditReport): Markup {
  const { summary } = report;
  const { byStatus, batches, learned, worst } = summary;
  const figures: readonly Figure[] = [
    [
      areUnmarked(report.layers) ? 'Convolutions drifted' : 'Norm layers drifted',
      formatCount(byStatus.drifted),
      `of ${formatCount(summary.layers)}`,
    ],
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
      batches === null
        ? countsBatches(findReportFramework(report)) && report.layers.some(({ via }) => via === 'folded')
          ? 'folded weights do not tell'
          : 'its checkpoints count none'
        : byStatus.drifted > 0
          ? 'of what drifted'
          : 'of any layer',
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
function renderFindings(report: OneReport): Markup | null {
  if (report.findings.length === 0) return null;
  const positions = new Map(report.layers.map(({ name }, index) => [name, index]));
  const groups = groupFindings(rankFindings(report));
  return html`<section id="findings" aria-labelledby="findings-title">
<h2 id="findings-title">Findings</h2>
${groups.map((group) => renderGroup(group, positions, findReportFramework(report)))}
</section>`;
}

function renderGroup(
  group: FindingGroup,
  positions: ReadonlyMap<string, number>,
  framework: Framework | null,
): Markup {
  const title = group.length === 1 ? 'The layer' : `The ${formatCount(group.length)} layers`;
  return html`<article class="panel finding" id="${idOf(group)}">
<h3>${renderSort(group)}</h3>
${renderHelp(group[0], framework)}
${renderInstances(group, title, (name) => linkLayer(name, positions))}
</article>`;
}

/** The layers of findings of one sort, each with what is said of it; many of them unfold. */
export function renderInstances(
  group: FindingGroup,
  title: string,
  renderLayer: (name: string) => Markup = renderName,
): Markup {
  const rest = group.length - SHOWN_FINDINGS;
  return html`<details${group.length <= 5 ? html` open` : null}><summary>${title}</summary><ul>
${group.slice(0, SHOWN_FINDINGS).map(({ layer, message }) => html`<li>${renderLayer(layer)} <span class="faint">${showMessage(message)}</span></li>`)}
${rest > 0 ? html`<li>… and ${formatCount(rest)} more</li>` : null}
</ul></details>`;
}

/** What sort of findings these are, and how many. */
export function renderSort({ 0: { level, kind }, length }: FindingGroup): Markup {
  return html`<span class="level ${level}">${level}</span> ${titleOf(kind)} <small>${formatCount(length)}</small>`;
}

/** What a finding of its kind means, what to do about it, and where to read on. */
export function renderHelp({ kind }: Finding, framework: Framework | null): Markup {
  const { meaning, remedy } = helpWith(kind, framework);
  return html`<p>${meaning}</p>
<p><b>What to do.</b> ${remedy} <span class="faint">More: <code>${findPage(kind)}</code></span></p>`;
}

/** What was found, with a few of its layers: what a page that explains the kinds elsewhere says of one checkpoint. */
function renderGroupInBrief(group: FindingGroup): Markup {
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
      return html`${block.title === undefined ? null : html`<h2>${block.title}</h2>\n`}<dl class="terms">${block.terms.map(([term, meaning]) => html`<dt>${term}</dt><dd>${markNames(meaning)}</dd>`)}</dl>\n`;
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

/** So many rows of a table of documents are shown; the others unfold. */
const SHOWN_ROWS = 25;

function renderTable(table: Table): Markup {
  const { section, length, noun } = table;
  const rows = table.take(length, false);
  const rest = length - SHOWN_ROWS;
  return html`<section>${section === undefined ? null : html`<h2>${section.title}</h2>\n`}${section?.lead === undefined ? null : html`<p class="lead">${section.lead}</p>\n`}${renderRows(table, rows.slice(0, SHOWN_ROWS))}
${
  rest > 0
    ? html`<details class="rest"><summary>${formatPlural(rest, `more ${noun}`)}</summary>
${renderRows(table, rows.slice(SHOWN_ROWS))}
</details>
`
    : null
}</section>
`;
}

function renderRows({ columns }: Table, rows: readonly (readonly Cell[])[]): Markup {
  const kindOf = (index: number) => (columns[index]?.isNumber ? '' : 'text');
  const titles = columns.map(({ title }) => capitalize(title));
  const describe = ({ phrase, size, trend }: Cell, index: number) =>
    html`${trend === null ? markNames(phrase) : drawTrend(trend)}${size === null ? null : drawShare(size / (columns[index]?.full ?? 1))}`;
  return html`<div class="panel scroll"><table class="plain">
<thead><tr>${titles.map((title, index) => html`<th scope="col" class="${kindOf(index)}">${title}</th>`)}</tr></thead>
<tbody>
${rows.map(([first, ...cells]) => html`<tr>${first && html`<th scope="row" class="text">${describe(first, 0)}</th>`}${cells.map((cell, index) => html`<td class="${kindOf(index + 1)}" data-label="${titles[index + 1] ?? ''}">${describe(cell, index + 1)}</td>`)}</tr>\n`)}</tbody>
</table></div>`;
}

/** Points of a line in a table: a cell is hardly wider in pixels. */
const TREND_POINTS = 80;

/** Values in a row as a line, the largest on top; where there are more than points, each shows the largest of its own. */
function drawTrend({ values, status }: Trend): Markup {
  const count = Math.min(values.length, TREND_POINTS);
  const most = Array.from({ length: count }, (_, index) => {
    const from = Math.floor((index * values.length) / count);
    const own = values.slice(from, Math.floor(((index + 1) * values.length) / count));
    return own.reduce<number | null>(
      (max, value) => (value === null ? max : Math.max(max ?? 0, value)),
      null,
    );
  });
  const full = most.reduce<number>(
    (max, value) => (Number.isFinite(value) ? Math.max(max, value ?? 0) : max),
    0,
  );
  const step = 120 / Math.max(1, count - 1);
  let path = '';
  let isOpen = false;
  most.forEach((value, index) => {
    if (value === null) isOpen = false;
    else {
      const height = full === 0 ? 0 : Math.min(1, value / full || 0) * 18;
      path += `${isOpen ? 'L' : 'M'}${(index * step).toFixed(1)} ${(19 - height).toFixed(1)}`;
      isOpen = true;
    }
  });
  return html`<svg class="trend is-${status}" viewBox="0 0 120 20" preserveAspectRatio="none" aria-hidden="true"><path d="${path}"/></svg>`;
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
  const full = layers.reduce((most, { alone, network }) => Math.max(most, finite(alone), finite(network)), 0);
  if (full === 0) return null;
  const step = CHART.width / layers.length;
  const bar = (kind: 'alone' | 'network', value: number | null, index: number) => {
    const height = (finite(value) / full) * CHART.height;
    const width = step * (kind === 'alone' ? 0.4 : 0.8);
    const x = index * step + (step - width) / 2;
    return html`<rect class="${kind}" x="${x.toFixed(1)}" y="${(CHART.height - height).toFixed(1)}" width="${width.toFixed(1)}" height="${height.toFixed(1)}"/>`;
  };
  const say = ({ name, alone, network }: Moves['layers'][number]) =>
    `${showSafely(name)}: alone ${formatOptional(alone)}, in network ${formatOptional(network)}`;
  const [first, last] = [layers[0], layers.length > 1 ? layers.at(-1) : undefined];
  return html`<section><h2>Movement along the depth</h2>
<p class="lead">How far each layer’s output moves, relative to its own size, in the order of the network.</p>
<div class="panel depth"><p class="legend"><span><i class="alone"></i>alone</span><span><i class="network"></i>in network</span></p>
<div class="axes"><p class="ticks" aria-hidden="true">${[1, 0.5, 0].map((share) => html`<span>${formatMeasure(share * full)}</span>`)}</p>
<svg viewBox="0 0 ${CHART.width} ${CHART.height}" preserveAspectRatio="none" role="img" aria-label="Movement of each layer's output along the depth, up to ${formatMeasure(full)}; the table holds the same numbers">
${[0, 0.5, 1].map((share) => html`<path class="grid" d="M0 ${share * CHART.height}H${CHART.width}"/>`)}
${layers.map((layer, index) => html`<g><title>${say(layer)}</title>${bar('network', layer.network, index)}${bar('alone', layer.alone, index)}</g>\n`)}</svg>
<p class="ends">${[first, last].map((end) => end && html`<span>${renderName(end.name)}</span>`)}</p></div>
</div></section>
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
${ways.map(({ where, code }) => html`<figure class="panel"><figcaption><span>${say(where)}</span></figcaption><pre tabindex="0"><code>${defuseCommands(code.join('\n'))}</code></pre></figure>`)}
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
function renderNoteList(notes: readonly string[]): Markup | null {
  if (notes.length === 0) return null;
  const rest = notes.length - SHOWN_NOTES;
  return html`<ul class="notes">
${notes.slice(0, SHOWN_NOTES).map((note) => html`<li>${showMessage(note)}</li>`)}
${rest > 0 ? html`<li>… and ${formatCount(rest)} more</li>` : null}
</ul>`;
}
