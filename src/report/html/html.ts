// Reports as one HTML page that needs nothing else.

import { titleOf } from '../../compare/findings.js';
import { describeAnswer } from '../answer.js';
import { type AnyReport, groupFindings, isAudit, showMessage, showSafely } from '../any-report.js';
import type { AuditReport } from '../audit-report.js';
import {
  type AuditFailure,
  countOutcomes,
  findWorstReport,
  getCommonBefore,
  getShift,
  isAuditSet,
  type ReportHead,
  type ReportSet,
} from '../audit-set.js';
import { type Block, type Document, describeReport } from '../document.js';
import { formatCount, formatMeasure, formatPlural } from '../format-numbers.js';
import type { Pieces } from '../text-layout.js';
import {
  renderBar,
  renderLayerTable,
  renderModuleTree,
  renderName,
  renderWorstLayers,
} from './layer-rows.js';
import {
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
import setScript from './page/set-page.ts?bundle';
import style from './page/style.css?bundle';
import { buildPageChannels, buildPageData } from './page-data.js';
import {
  type Figure,
  renderAnswer,
  renderBlock,
  renderEvidence,
  renderFigures,
  renderFindings,
  renderGroupInBrief,
  renderHelp,
  renderNoteList,
  renderVerdict,
} from './sections.js';

/** Channels are left out of a page that would be longer, in characters: it is to open at once and to be mailed. */
const MAX_PAGE_LENGTH = 900_000;

/**
 * A report as one HTML page that needs no network and no server. The answer, the module tree, the table and the findings
 * stand in the markup and read without scripts; the script sorts, filters and draws. Of several audits: the answer over
 * all, then a row for each checkpoint, which opens to what was found in it and to the layers that moved most.
 *
 * Charts of channels need the report's `perChannel`; their data is cut so that the page stays small.
 */
export function renderHtml(report: AnyReport | ReportSet): Pieces {
  return [isAuditSet(report) ? renderSet(report) : renderOne(report)];
}

function renderOne(report: AnyReport): string {
  const document = describeReport(report, { all: true });
  const { answer } = document;
  const main = html`<main>
${renderAnswer(document, isAudit(report) ? renderEvidence(report) : null)}
${renderDepthChart(report)}
${isAudit(report) ? renderModuleTree(report) : null}
${renderLayerTable(report)}
${renderFindings(report)}
${document.blocks.filter(({ kind }) => kind !== 'table').map((block) => html`${renderBlock(block)}\n`)}
</main>`;
  const data = toScriptJson(buildPageData(report));
  const used = [script, style, main.markup, data.markup].reduce((sum, { length }) => sum + length, 0);
  const channels = toScriptJson(buildPageChannels(report, MAX_PAGE_LENGTH - used));
  return renderDocument({
    tool: report.tool,
    title: `${answer.word}: ${unmarkNames(answer.headline)}`,
    style,
    body: html`<a class="skip" href="#layers">Skip to the layers</a>
${renderTop(report.tool, answer.outcome, listSections(report))}
${main}`,
    data: { data, channels },
    script,
  });
}

function listSections(report: AnyReport): readonly (readonly [id: string, title: string])[] {
  return [
    ['depth', 'Depth'],
    ...(isAudit(report) ? ([['modules', 'Modules']] as const) : []),
    ['layers', 'Layers'],
    ...(report.findings.length > 0 ? ([['findings', 'Findings']] as const) : []),
  ];
}

function renderDepthChart(report: AnyReport): Markup {
  const { format } = isAudit(report) ? report.before : report.checkpoint;
  return html`<section id="depth" aria-labelledby="depth-title">
<h2 id="depth-title">${isAudit(report) ? 'Drift along the depth' : 'Statistics along the depth'}</h2>
<p class="lead">Every norm layer in the order of the checkpoint${format === 'safetensors' ? ', which is that of the names here' : ', first on the left'}. The <a href="#layers">table of layers</a> holds the same numbers.</p>
<div id="depth-chart" class="panel chart"><noscript><p>The charts, sorting and filtering need JavaScript. Everything else is below.</p></noscript></div>
</section>`;
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

function renderSet(set: ReportSet): string {
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
${renderCheckpoints(set)}
${hasAnyFinding ? renderKinds(set) : null}
${worst === null ? null : listWaysOut(worst).map(renderBlock)}
</main>`,
    script: setScript,
  });
}

/** What to do about a report's drift. */
function listWaysOut(report: AuditReport): readonly Block[] {
  const { blocks } = describeReport(report, { all: false });
  return blocks.filter(({ kind }) => kind === 'remedies' || kind === 'advice');
}

const WORDS: Readonly<Record<ReportSet['verdict'], string>> = {
  clean: 'Clean',
  drifted: 'Drifted',
  failed: 'Failed',
};

function renderSetAnswer(set: ReportSet, worst: AuditReport | null): Markup {
  const before = getCommonBefore(set);
  return html`<section class="answer ${set.verdict}" aria-labelledby="headline">
<p>${renderVerdict(set.verdict, WORDS[set.verdict])}</p>
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
    [WORDS.drifted, formatCount(drifted), `of ${formatPlural(count, 'checkpoint')}`],
    [WORDS.failed, formatCount(failures.length), `of ${formatPlural(count, 'checkpoint')}: not audited`],
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
  const scale = set.heads.reduce((most, head) => Math.max(most, finiteShift(head)), 0);
  const contents = renderContents(set);
  return html`<section id="checkpoints" aria-labelledby="checkpoints-title">
<h2 id="checkpoints-title">Checkpoints</h2>
<p class="lead">Each opens to what was found in it. Charts, and every layer and channel, are in the page of one: <code>bn-audit diff BEFORE AFTER -f html</code></p>
${set.failures.map((failure) => renderFailure(failure, isBeforeShown))}
${Array.from(set.reports, (report, index) => renderReport(report, { isBeforeShown, scale, contents: contents.get(index) ?? null }))}
</section>`;
}

function finiteShift(head: ReportHead): number {
  const shift = getShift(head);
  return Number.isFinite(shift) ? shift : 0;
}

function renderFailure({ before, after, message, hint }: AuditFailure, isBeforeShown: boolean): Markup {
  return html`<div class="panel audit failed">
<div class="row">${renderVerdict('failed', WORDS.failed)}<span class="which">${nameAudit(before, after, isBeforeShown)}</span></div>
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
  const row = html`${renderVerdict(outcome, word)}<span class="which">${nameAudit(report.before.path, report.after.path, isBeforeShown)} <span class="faint">${markNames(headline)}</span></span><span class="moved">${formatCount(byStatus.drifted)} of ${formatPlural(layers, 'norm layer')} drifted${worst === null ? null : html`, <span class="worst">worst ${renderName(worst.layer)}</span>`}</span><span class="measure is-drifted"><span class="unseen">output shift </span>${worst === null ? html`<b>–</b>` : html`${renderBar(worst.outputShift, scale)}<b>${formatMeasure(worst.outputShift)}</b>`}</span>`;
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
  return html`<section id="findings" aria-labelledby="findings-title">
<h2 id="findings-title">Findings</h2>
${[...kinds.values()].map(
  (finding) => html`<article class="panel finding">
<h3>${titleOf(finding.kind)}</h3>
${renderHelp(finding)}
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
