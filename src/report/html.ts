import { describeAnswer } from './answer.js';
import { type AnyReport, isAudit, showSafely } from './any-report.js';
import { renderAnswer } from './html/answer-section.js';
import { renderDocument, renderTop } from './html/document.js';
import { renderAdvice, renderFindings, renderNotes, renderRemedies } from './html/finding-sections.js';
import { renderLayerTable } from './html/layer-rows.js';
import { encloseName, html, type Markup, toScriptJson, unmarkNames } from './html/markup.js';
import { renderModuleTree } from './html/module-tree.js';
import script from './html/page/page.ts?bundle';
import style from './html/page/style.css?bundle';
import { buildPageChannels } from './html/page-channels.js';
import { buildPageData } from './html/page-data.js';
import { keepCurableByEval } from './remedies.js';

/** Channels are left out of a page that would be longer, in characters: it is to open at once and to be mailed. */
const MAX_PAGE_LENGTH = 900_000;

/**
 * A report as one HTML page that needs no network and no server. The answer, the module tree, the table and the findings
 * stand in the markup and read without scripts; the script sorts, filters and draws.
 *
 * Charts of channels need the report's `perChannel`; their data is cut so that the page stays small.
 */
export function renderHtml(report: AnyReport): string {
  const answer = describeAnswer(report, (name) => encloseName(showSafely(name, 60)));
  const main = html`<main>
${renderAnswer(report, answer)}
${renderDepthChart(report)}
${isAudit(report) ? renderModuleTree(report) : null}
${renderLayerTable(report)}
${renderFindings(report)}
${isAudit(report) ? html`${renderRemedies(report)}${renderAdvice(keepCurableByEval(report))}` : null}
${renderNotes(report)}
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
