// The page of a trace: every norm layer over the run.

import { findReportFramework, showSafely } from '../any-report.js';
import { describeReport } from '../describe-report.js';
import type { Block } from '../document.js';
import { groupFindings } from '../finding-groups.js';
import { formatCount, formatMeasure, formatPlural } from '../format-numbers.js';
import { makeMoments, type TraceReport } from '../trace-report.js';
import {
  type Figure,
  isWayOut,
  renderAnswer,
  renderBlock,
  renderFigures,
  renderHelp,
  renderInstances,
  renderSort,
} from './html.js';
import { html, type Markup, renderDocument, renderTop, toScriptJson, unmarkNames } from './markup.js';
import documentStyle from './page/document.css?bundle';
import style from './page/style.css?bundle';
import traceStyle from './page/trace.css?bundle';
import script from './page/trace.ts?bundle';
import { buildTraceData } from './trace-data.js';

/** A trace as one HTML page. */
export function renderTrace(report: TraceReport): string {
  const document = describeReport(report, { all: true });
  const { answer, blocks } = document;
  const wayOut = blocks.filter(isWayOut).map(renderBlock);
  const isOf = (kind: Block['kind']) => (block: Block) => block.kind === kind;
  return renderDocument({
    tool: report.tool,
    title: `${answer.word}: ${unmarkNames(answer.headline)}`,
    style: `${style}${documentStyle}${traceStyle}`,
    body: html`<a class="skip" href="#run">Skip to the run</a>
${renderTop(report.tool, answer.outcome, [
  ...(blocks.some(isOf('advice')) ? ([['fix', 'Fix']] as const) : []),
  ['run', 'Run'],
  ['layers', 'Layers'],
  ...(report.findings.length > 0 ? ([['findings', 'Findings']] as const) : []),
])}
<main>
${renderAnswer(document, renderFigures(listFigures(report)))}
${wayOut}
${renderChart(report)}
<section id="layers">${blocks.filter(isOf('table')).map(renderBlock)}
${blocks.filter(isOf('terms')).map(renderBlock)}</section>
${renderFindings(report)}
${blocks.filter(isOf('notes')).map(renderBlock)}
</main>`,
    data: { data: toScriptJson(buildTraceData(report)) },
    script,
  });
}

function listFigures(report: TraceReport): readonly Figure[] {
  const { summary, checkpoints, skipped } = report;
  const at = makeMoments(checkpoints, (name) => showSafely(name, 24));
  const { onset, worst } = summary;
  return [
    [
      'Drift begins',
      onset === null ? '–' : at(onset.drifted),
      onset === null ? 'nothing drifted' : `after ${at(onset.locked)}`,
    ],
    ['Norm layers drifted', formatCount(summary.drifted), `of ${formatCount(summary.layers)}`],
    [
      'Worst output shift',
      worst === null ? '–' : formatMeasure(worst.outputShift),
      worst === null ? 'nothing drifted' : `at ${at(worst.checkpoint)}`,
    ],
    [
      'Checkpoints',
      formatCount(checkpoints.length),
      skipped.length === 0 ? 'all audited' : `${formatCount(skipped.length)} left out`,
    ],
  ];
}

function renderChart(report: TraceReport): Markup {
  const { onset } = report.summary;
  return html`<section id="run" aria-labelledby="run-title">
<h2 id="run-title">Output shift over the run</h2>
<p class="lead">How far the output of every norm layer has moved, a line each, first checkpoint on the left${onset === null ? '' : '; the upright line is where drift that stands begins'}. The <a href="#layers">table of layers</a> holds the same in numbers.</p>
<div id="run-chart" class="panel chart"><noscript><p>The chart needs JavaScript. Everything else is below.</p></noscript></div>
</section>`;
}

function renderFindings(report: TraceReport): Markup | null {
  if (report.findings.length === 0) return null;
  const framework = findReportFramework(report);
  return html`<section id="findings" aria-labelledby="findings-title">
<h2 id="findings-title">Findings</h2>
${groupFindings(report.findings).map(
  (group) => html`<article class="panel finding">
<h3>${renderSort(group)}</h3>
${renderHelp(group[0], framework)}
${renderInstances(group, formatPlural(group.length, 'layer'))}
</article>
`,
)}</section>`;
}
