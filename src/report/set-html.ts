import { titleOf } from '../compare/finding.js';
import { type Answer, describeAnswer } from './answer.js';
import { showMessage, showSafely } from './any-report.js';
import type { AuditReport } from './audit-report.js';
import {
  type AuditFailure,
  countOutcomes,
  findWorstReport,
  getCommonBefore,
  getShift,
  type ReportHead,
  type ReportSet,
} from './audit-set.js';
import { formatCount, formatMeasure, formatPlural } from './format-numbers.js';
import { groupFindings } from './group-findings.js';
import { type Figure, renderFigures, renderVerdict } from './html/answer-section.js';
import { renderDocument, renderTop } from './html/document.js';
import {
  renderAdvice,
  renderGroupInBrief,
  renderHelp,
  renderNoteList,
  renderRemedies,
} from './html/finding-sections.js';
import { renderBar, renderName, renderWorstLayers } from './html/layer-rows.js';
import { encloseName, html, type Markup, markNames } from './html/markup.js';
import setStyle from './html/page/set.css?bundle';
import script from './html/page/set-page.ts?bundle';
import style from './html/page/style.css?bundle';
import { keepCurableByEval } from './remedies.js';

const MAX_NAME_LENGTH = 160;
const MAX_MESSAGE_LENGTH = 1000;

/** Checkpoints keep their rows and lose their contents beyond this length, in characters: the page is to open at once. */
const MAX_CONTENTS_LENGTH = 700_000;

/** So many layers of a checkpoint are shown; a page of its own has them all. */
const SHOWN_LAYERS = 10;

/**
 * Several audits as one HTML page that needs no network: the answer over all, then a row for each checkpoint, which
 * opens to what was found in it and to the layers that moved most. Reads without scripts.
 */
export function renderSetHtml(set: ReportSet): string {
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
${worst === null ? null : html`${renderRemedies(worst)}${renderAdvice(keepCurableByEval(worst))}`}
</main>`,
    script,
  });
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
${before === null ? null : html`<div class="checkpoints"><div class="checkpoint"><p class="role">All compared with</p><p class="path"><bdi>${showSafely(before, MAX_NAME_LENGTH)}</bdi></p></div></div>`}
</section>`;
}

function renderWorst(report: AuditReport): Markup {
  const { headline, explanation } = describe(report);
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

function describe(report: AuditReport): Answer {
  return describeAnswer(report, (name) => encloseName(showSafely(name, 60)));
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
<p>${showMessage(message, MAX_MESSAGE_LENGTH)}</p>
${hint === null ? null : html`<p class="faint">${showMessage(hint, MAX_MESSAGE_LENGTH)}</p>`}
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
  const { outcome, word, headline } = describe(report);
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
  return html`<p class="explanation">${markNames(describe(report).explanation)}</p>
${groupFindings(report.findings).map(renderGroupInBrief)}
${renderWorstLayers(report, SHOWN_LAYERS)}
${rest > 0 ? html`<p class="faint">… and ${formatPlural(rest, 'more layer')}</p>` : null}
${renderNoteList(report)}`;
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
  return html`<bdi class="path">${showSafely(path, MAX_NAME_LENGTH)}</bdi>`;
}
