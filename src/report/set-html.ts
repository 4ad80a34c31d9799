import { type Answer, describeAnswer } from './answer.js';
import { showSafely } from './any-report.js';
import type { AuditReport } from './audit-report.js';
import { type AuditFailure, type AuditSet, countOutcomes, getCommonBefore, getShift } from './audit-set.js';
import { encloseName, html, type Markup, markNames } from './html/markup.js';
import { renderHtml } from './html.js';

const MAX_NAME_LENGTH = 160;
const MAX_MESSAGE_LENGTH = 1000;

/** Each page weighs up to a megabyte and a half. */
const MAX_PAGES = 20;

const SIGNS: Readonly<Record<Answer['outcome'], string>> = {
  drifted: '✖',
  failed: '✖',
  warned: '!',
  clean: '✔',
};

/**
 * Several audits as one HTML page that needs no network: a list of the checkpoints, each of which opens to its own
 * report, a page within the page.
 */
export function renderSetHtml(set: AuditSet): string {
  const before = getCommonBefore(set);
  const withPage = choosePages(set);
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="${set.tool.name} ${set.tool.version}">
<title>${countOutcomes(set)} – bn-audit</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<h1>${countOutcomes(set)}</h1>
${before === null ? null : html`<p>Compared with ${showPath(before)}.</p>`}
${set.failures.map((failure) => renderFailure(failure, before === null))}
${set.reports.map((report) => renderReport(report, { isBeforeShown: before === null, hasPage: withPage.has(report) }))}
</main>
</body>
</html>
`.markup;
}

/** The reports that drifted most, then the others: a page for each, as many as one file should hold. */
function choosePages({ reports }: AuditSet): ReadonlySet<AuditReport> {
  const byShift = [...reports].sort((x, y) => getShift(y) - getShift(x));
  const failing = (report: AuditReport) => report.verdict === 'drifted';
  const ranked = [...byShift.filter(failing), ...byShift.filter((report) => !failing(report))];
  return new Set(ranked.slice(0, MAX_PAGES));
}

function renderFailure({ before, after, message, hint }: AuditFailure, isBeforeShown: boolean): Markup {
  return html`<section class="failed">
<h2>✖ not audited ${nameAudit(before, after, isBeforeShown)}</h2>
<p>${showSafely(message, MAX_MESSAGE_LENGTH)}</p>
${hint === null ? null : html`<p>${showSafely(hint, MAX_MESSAGE_LENGTH)}</p>`}
</section>
`;
}

function renderReport(
  report: AuditReport,
  { isBeforeShown, hasPage }: { readonly isBeforeShown: boolean; readonly hasPage: boolean },
): Markup {
  const { outcome, word, headline } = describeAnswer(report, (name) => encloseName(showSafely(name, 60)));
  const name = nameAudit(report.before.path, report.after.path, isBeforeShown);
  const answer = html`${SIGNS[outcome]} ${word.toLowerCase()} ${name} <span>${markNames(headline)}</span>`;
  if (!hasPage) {
    return html`<section class="${outcome}"><h2>${answer}</h2><p>Its page was left out: this file would be too large. Audit it alone.</p></section>
`;
  }
  return html`<details class="${outcome}">
<summary>${answer}</summary>
<iframe title="${word}: ${showSafely(report.after.path, MAX_NAME_LENGTH)}" loading="lazy" srcdoc="${renderHtml(report)}"></iframe>
</details>
`;
}

function nameAudit(before: string, after: string, isBeforeShown: boolean): Markup {
  return isBeforeShown ? html`${showPath(before)} → ${showPath(after)}` : showPath(after);
}

function showPath(path: string): Markup {
  return html`<code><bdi>${showSafely(path, MAX_NAME_LENGTH)}</bdi></code>`;
}

const STYLE = {
  markup: `
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { margin: 0; }
main { max-width: 80rem; margin: 0 auto; padding: 1.5rem 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 0; }
details, section { border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-left-width: 4px; border-radius: 6px; margin: .6rem 0; padding: .5rem .8rem; }
.drifted, .failed { border-left-color: light-dark(#c62828, #ff7b72); }
.warned { border-left-color: light-dark(#b26a00, #e3b341); }
.clean { border-left-color: light-dark(#2e7d32, #56d364); }
summary { cursor: pointer; } summary span { opacity: .75; }
code { overflow-wrap: anywhere; }
iframe { width: 100%; height: 85vh; border: 0; margin-top: .6rem; }
`,
} as const satisfies Markup;
