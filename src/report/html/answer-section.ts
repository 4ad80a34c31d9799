import { LAYER_STATUSES } from '../../compare/status.js';
import type { Answer, Outcome } from '../answer.js';
import { type AnyReport, isAudit, showSafely } from '../any-report.js';
import type { AuditReport, CheckpointSummary } from '../audit-report.js';
import { formatBatches, formatCount, formatMeasure, formatPlural } from '../format-numbers.js';
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
