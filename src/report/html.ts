import { createHash } from 'node:crypto';
import { type Answer, describeAnswer } from './answer.js';
import { type AnyReport, isAudit, showSafely } from './any-report.js';
import { renderAnswer } from './html/answer-section.js';
import { renderAdvice, renderFindings, renderNotes } from './html/finding-sections.js';
import { renderLayerTable } from './html/layer-rows.js';
import { encloseName, html, type Markup, toScriptJson, trustMarkup, unmarkNames } from './html/markup.js';
import { renderModuleTree } from './html/module-tree.js';
import script from './html/page/page.ts?bundle';
import style from './html/page/style.css?bundle';
import { buildPageChannels } from './html/page-channels.js';
import { buildPageData } from './html/page-data.js';

/** Channels are left out of a page that would be longer, in characters: it is to open at once and to be mailed. */
const MAX_PAGE_LENGTH = 1_400_000;

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
${isAudit(report) ? renderAdvice(report) : null}
${renderNotes(report)}
</main>`;
  const data = toScriptJson(buildPageData(report));
  const used = [script, style, main.markup, data.markup].reduce((sum, { length }) => sum + length, 0);
  const channels = toScriptJson(buildPageChannels(report, MAX_PAGE_LENGTH - used));
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${writeSecurityPolicy()}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="${report.tool.name} ${report.tool.version}">
<title>${answer.word}: ${unmarkNames(answer.headline)} – bn-audit</title>
<style>${trustMarkup(style)}</style>
</head>
<body>
<a class="skip" href="#layers">Skip to the layers</a>
${renderTop(report, answer)}
${main}
<footer>Made by ${report.tool.name} ${report.tool.version}. Everything in this page is in this file; it loads nothing.</footer>
<script type="application/json" id="data">${data}</script>
<script type="application/json" id="channels">${channels}</script>
<script>${trustMarkup(script)}</script>
</body>
</html>
`;
  return page.markup;
}

/** A Content Security Policy: the page's own style and script, by hash; nothing else may load, run or be sent. */
function writeSecurityPolicy(): string {
  return [
    "default-src 'none'",
    `script-src '${hashSource(script)}'`,
    `style-src '${hashSource(style)}'`,
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
}

function hashSource(text: string): string {
  return `sha256-${createHash('sha256').update(text).digest('base64')}`;
}

function renderTop(report: AnyReport, { outcome }: Answer): Markup {
  return html`<header class="top">
<p class="brand"><svg class="mark ${outcome}" viewBox="0 0 20 20" aria-hidden="true"><path d="M2 10h3l2-6 4 12 3-9 1.5 3H18"/></svg>${report.tool.name}</p>
<nav aria-label="Sections">
<a href="#depth">Depth</a>
${isAudit(report) ? html`<a href="#modules">Modules</a>` : null}
<a href="#layers">Layers</a>
${report.findings.length > 0 ? html`<a href="#findings">Findings</a>` : null}
</nav>
<div id="theme"></div>
</header>`;
}

function renderDepthChart(report: AnyReport): Markup {
  const { format } = isAudit(report) ? report.before : report.checkpoint;
  return html`<section id="depth" aria-labelledby="depth-title">
<h2 id="depth-title">${isAudit(report) ? 'Drift along the depth' : 'Statistics along the depth'}</h2>
<p class="lead">Every norm layer in the order of the checkpoint${format === 'safetensors' ? ', which is that of the names here' : ', first on the left'}. The <a href="#layers">table of layers</a> holds the same numbers.</p>
<div id="depth-chart" class="panel chart"><noscript><p>The charts, sorting and filtering need JavaScript. Everything else is below.</p></noscript></div>
</section>`;
}
