import { FINDING_TITLES, isExcusedDrift, isLeadingDrift } from '../compare/findings.js';
import { type AnyReport, isAudit } from './any-report.js';
import type { AuditLayer, AuditReport } from './audit-report.js';
import { findModulesToFreeze } from './fix-advice.js';
import {
  formatBatches,
  formatCount,
  formatMagnitude,
  formatMeasure,
  formatPlural,
} from './format-numbers.js';
import type { InspectReport } from './inspect-report.js';

/** What a report says first. */
export interface Answer {
  readonly outcome: 'drifted' | 'failed' | 'warned' | 'clean';
  /** One word for the outcome; formats that shout write it in capitals. */
  readonly word: string;
  /** A clause without a full stop. */
  readonly headline: string;
  /** One to three sentences with the evidence. */
  readonly explanation: string;
}

/** Shows the name of a module or layer in a format's own way. */
export type ShowName = (name: string) => string;

/** The answer of a report in words. Everything but the names is our own text. */
export function describeAnswer(report: AnyReport, showName: ShowName): Answer {
  return isAudit(report) ? answerAudit(report, showName) : answerInspection(report);
}

function answerAudit(report: AuditReport, showName: ShowName): Answer {
  const errors = report.findings.filter(({ level }) => level === 'error');
  const drifted = new Set(errors.filter(isLeadingDrift).map(({ layer }) => layer));
  if (drifted.size > 0) {
    return {
      outcome: 'drifted',
      word: 'Drifted',
      headline: headlineOfDrift(report, showName),
      explanation: explainDrift(report, drifted, showName),
    };
  }
  if (errors.length > 0) {
    return {
      outcome: 'failed',
      word: 'Failed',
      headline: listKinds(errors),
      explanation: explainCounts(report),
    };
  }
  return {
    outcome: 'clean',
    word: 'Clean',
    headline: headlineOfClean(report),
    explanation: explainCounts(report),
  };
}

function headlineOfDrift(report: AuditReport, showName: ShowName): string {
  const modules = findModulesToFreeze(report).map((path) =>
    path === '' ? 'the whole model' : showName(path),
  );
  const [first = ''] = modules;
  if (isBiasOnly(report)) return 'biases of frozen convolutions moved: means drifted, or biases were trained';
  if (modules.length === 0) {
    // Flat names tell of no module; without a drifted layer, all were trained against --frozen.
    const isDrift = report.layers.some(({ status }) => status === 'drifted');
    return isDrift
      ? 'statistics of frozen layers moved'
      : 'statistics moved in layers that --frozen says must not move';
  }
  if (modules.length === 1) return `${first} was frozen, its statistics were not`;
  if (modules.length <= 3) return `${listNames(modules)} were frozen, their statistics were not`;
  return `${first} and ${modules.length - 1} more were frozen, their statistics were not`;
}

/** Whether all that stands is ambiguous: folded convolutions of which the bias alone moved. */
export function isBiasOnly({ findings }: AuditReport): boolean {
  return findings.filter(isLeadingDrift).every(({ kind }) => kind === 'folded-bias-drift');
}

function explainDrift(report: AuditReport, drifted: ReadonlySet<string>, showName: ShowName): string {
  const regions = report.regions.filter((region) => region.status === 'frozen' && region.drifted > 0);
  const tensors = sum(regions.map(({ learned }) => learned.tensors));
  const values = sum(regions.map(({ learned }) => learned.elements));
  const layers = report.layers.filter(({ name }) => drifted.has(name));
  const all = Math.max(sum(regions.map((region) => region.layers)), layers.length);
  const identical =
    tensors === 0
      ? ''
      : `${formatCount(tensors)} of ${formatPlural(tensors, 'learned tensor')} (${formatMagnitude(values)} values) ${tensors === 1 ? 'is' : 'are'} identical, yet `;
  const caveat = layers.some(({ via }) => via === 'folded')
    ? ' Told from folded convolutions, where a trained weight or bias of the norm layer looks the same.'
    : '';
  return `${identical}${formatCount(layers.length)} of ${formatPlural(all, 'norm layer')} moved${describeBatches(report)}.${describeWorst(layers, showName)}${caveat}`;
}

function describeWorst(layers: readonly AuditLayer[], showName: ShowName): string {
  const worst = layers.reduce<AuditLayer | null>(
    (most, layer) => ((layer.outputShift ?? 0) > (most?.outputShift ?? 0) ? layer : most),
    null,
  );
  if (worst === null) return '';
  const size = formatMeasure(worst.outputShift ?? 0);
  if (layers.length === 1) return ` Its output moves by ${size} of its own size.`;
  return ` Their outputs move by up to ${size} of their own size (${showName(worst.name)}).`;
}

function describeBatches({ summary: { batches } }: AuditReport): string {
  if (batches === null || (batches.min === batches.max && batches.min === 0)) return '';
  if (batches.min !== batches.max) {
    return `, after ${formatBatches(batches.min)} to ${formatBatches(batches.max)} training-mode batches`;
  }
  const isBack = String(batches.min).startsWith('-');
  if (isBack) return `; their batch counts went back by ${formatCount(String(batches.min).slice(1))}`;
  return `, after ${formatCount(batches.min)} training-mode batch${batches.min === 1 ? '' : 'es'}`;
}

function headlineOfClean({ summary, findings, layers }: AuditReport): string {
  const { byStatus } = summary;
  const excused = new Set(findings.filter(isExcusedDrift).map(({ layer }) => layer)).size;
  if (excused > 0) return `no drift beyond what was accepted (${formatPlural(excused, 'layer')} excused)`;
  const warnings = findings.filter(({ level }) => level === 'warning');
  const unpaired = warnings.filter(({ kind }) => kind === 'unpaired-layer').length;
  if (unpaired > 0)
    return `no error in ${formatCount(summary.layers)} of ${formatPlural(summary.layers + unpaired, 'norm layer')}; the ${unpaired === 1 ? 'other was' : 'others were'} not audited`;
  if (warnings.length > 0)
    return `no error, but ${formatPlural(warnings.length, 'warning')}: ${listKinds(warnings)}`;
  if (byStatus.locked === summary.layers) {
    const isHidden = layers.some(({ channelsHidden }) => channelsHidden !== undefined);
    return `every norm layer stood still${isHidden ? ', as far as folding shows it' : ''}`;
  }
  if (byStatus.trained === summary.layers) return 'nothing was frozen: statistics moved with the weights';
  return 'no frozen layer’s statistics moved';
}

function explainCounts({ summary: { byStatus, layers, learned } }: AuditReport): string {
  const statuses = Object.entries(byStatus)
    .filter(([, count]) => count > 0)
    .map(([status, count]) => `${formatCount(count)} ${status}`)
    .join(', ');
  const tensors =
    learned.compared === 0
      ? 'No learned tensor is in both checkpoints.'
      : `${formatCount(learned.equal)} of ${formatPlural(learned.compared, 'learned tensor')} identical.`;
  return `${formatPlural(layers, 'norm layer')}: ${statuses}. ${tensors}`;
}

function answerInspection({ findings, layers }: InspectReport): Answer {
  const serious = findings.filter(({ level }) => level !== 'note');
  const explanation = `${formatPlural(layers.length, 'norm layer')}, ${formatCount(new Set(serious.map(({ layer }) => layer)).size)} with an error or a warning.`;
  if (serious.some(({ level }) => level === 'error')) {
    return {
      outcome: 'failed',
      word: 'Failed',
      headline: listKinds(serious.filter(({ level }) => level === 'error')),
      explanation,
    };
  }
  if (serious.length > 0)
    return { outcome: 'warned', word: 'Warning', headline: listKinds(serious), explanation };
  return { outcome: 'clean', word: 'Healthy', headline: 'all running statistics are finite', explanation };
}

function listNames(names: readonly string[]): string {
  return `${names.slice(0, -1).join(', ')} and ${names[names.length - 1]}`;
}

function listKinds(findings: AnyReport['findings']): string {
  const titles = [...new Set(findings.map(({ kind }) => FINDING_TITLES[kind]))];
  return titles.map((title) => title.charAt(0).toLowerCase() + title.slice(1)).join('; ');
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
