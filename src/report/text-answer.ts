import { FINDING_TITLES, isLeadingDrift } from '../compare/findings.js';
import type { AuditLayer, AuditReport } from './audit-report.js';
import { findModulesToFreeze } from './fix-advice.js';
import {
  formatBatches,
  formatCount,
  formatMagnitude,
  formatMeasure,
  formatPlural,
} from './format-numbers.js';
import { type Paint, showName, wrapText } from './text-layout.js';

/** The answer of an audit: a headline, and a few lines that a human can act on. */
export function renderAnswer(
  report: AuditReport,
  { paint, width }: { readonly paint: Paint; readonly width: number },
): readonly string[] {
  const indent = '  ';
  const errors = report.findings.filter(({ level }) => level === 'error');
  const drifted = errors.filter(isLeadingDrift);
  if (drifted.length > 0) {
    return [
      `${paint('error', '✖ DRIFTED')}  ${paint('strong', headlineOfDrift(report))}`,
      ...wrapText(explainDrift(report, new Set(drifted.map(({ layer }) => layer))), { width, indent }),
    ];
  }
  if (errors.length > 0) {
    const kinds = [...new Set(errors.map(({ kind }) => kind))];
    return [
      `${paint('error', '✖ FAILED')}  ${paint('strong', kinds.map((kind) => FINDING_TITLES[kind].toLowerCase()).join('; '))}`,
      ...wrapText(explainCounts(report), { width, indent }),
    ];
  }
  return [
    `${paint('good', '✔ CLEAN')}  ${paint('strong', headlineOfClean(report))}`,
    ...wrapText(explainCounts(report), { width, indent }),
  ];
}

function headlineOfDrift(report: AuditReport): string {
  const modules = findModulesToFreeze(report).map((path) =>
    path === '' ? 'the whole model' : showName(path, 40),
  );
  if (isBiasOnly(report)) return 'biases of frozen convolutions moved: means drifted, or biases were trained';
  if (modules.length === 0) return 'statistics moved in layers that --frozen says must not move';
  const [first = ''] = modules;
  if (modules.length === 1) return `${first} was frozen, its statistics were not`;
  if (modules.length <= 3) return `${modules.join(', ')} were frozen, their statistics were not`;
  return `${first} and ${modules.length - 1} more were frozen, their statistics were not`;
}

/** Whether all that stands is ambiguous: folded convolutions of which the bias alone moved. */
export function isBiasOnly({ findings }: AuditReport): boolean {
  return findings.filter(isLeadingDrift).every(({ kind }) => kind === 'folded-bias-drift');
}

function explainDrift(report: AuditReport, layerNames: ReadonlySet<string>): string {
  const regions = report.regions.filter(({ status, drifted }) => status === 'frozen' && drifted > 0);
  const tensors = sum(regions.map(({ learned }) => learned.tensors));
  const values = sum(regions.map(({ learned }) => learned.elements));
  const inRegions = sum(regions.map(({ layers }) => layers));
  const layers = report.layers.filter(({ name }) => layerNames.has(name));
  const identical =
    tensors === 0
      ? ''
      : `${formatCount(tensors)} of ${formatCount(tensors)} learned tensors (${formatMagnitude(values)} values) are identical, yet `;
  const moved = `${formatCount(layers.length)} of ${formatPlural(Math.max(inRegions, layers.length), 'norm layer')} moved`;
  const worst = layers.reduce<AuditLayer | null>(
    (most, layer) => ((layer.outputShift ?? 0) > (most?.outputShift ?? 0) ? layer : most),
    null,
  );
  const output =
    worst?.outputShift == null || worst.outputShift === 0
      ? ''
      : ` ${layers.length === 1 ? 'Its output moves' : 'Their outputs move'} by ${layers.length === 1 ? '' : 'up to '}${formatMeasure(worst.outputShift)} of ${layers.length === 1 ? 'its' : 'their'} own size${layers.length === 1 ? '' : ` (${showName(worst.name, 50)})`}.`;
  const caveat = layers.some(({ via }) => via === 'folded')
    ? ' Told from folded convolutions, where a trained weight or bias of the norm layer looks the same.'
    : '';
  return `${identical}${moved}${describeBatches(report)}.${output}${caveat}`;
}

function describeBatches({ summary: { batches } }: AuditReport): string {
  if (batches === null) return '';
  if (batches.min === batches.max) {
    if (batches.min === 0) return '';
    if (String(batches.min).startsWith('-'))
      return `; their batch counts went back by ${formatCount(String(batches.min).slice(1))}`;
    return `, after ${formatCount(batches.min)} training-mode batch${batches.min === 1 ? '' : 'es'}`;
  }
  return `, after ${formatBatches(batches.min)} to ${formatBatches(batches.max)} training-mode batches`;
}

function headlineOfClean({ summary, findings }: AuditReport): string {
  const { byStatus } = summary;
  const excused = findings.filter(
    ({ kind, level }) => kind === 'frozen-stats-drift' && level === 'note',
  ).length;
  if (excused > 0) return `no drift beyond what was accepted (${formatPlural(excused, 'layer')} excused)`;
  if (byStatus.locked === summary.layers) return 'every norm layer stood still';
  if (byStatus.trained === summary.layers) return 'nothing was frozen: statistics moved with the weights';
  return 'no frozen layer’s statistics moved';
}

function explainCounts({ summary: { byStatus, layers, learned } }: AuditReport): string {
  const counts = Object.entries(byStatus).filter(([, count]) => count > 0);
  const statuses = counts.map(([status, count]) => `${formatCount(count)} ${status}`).join(', ');
  return `${formatPlural(layers, 'norm layer')}: ${statuses}. ${formatCount(learned.equal)} of ${formatPlural(learned.compared, 'learned tensor')} identical.`;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
