// The answer at the head of a report: the sentence, what it means, what to do.

import type { DriftCause } from '../compare/compare-layers.js';
import {
  type Finding,
  type FindingLevel,
  isExcusedDrift,
  isLeadingDrift,
  titleOf,
  verdictOf,
} from '../compare/findings.js';
import { encloseName, isAudit, type OneReport } from './any-report.js';
import type { AuditLayer, AuditReport } from './audit-report.js';
import { findModulesToFreeze } from './fix-advice.js';
import { formatCount, formatMagnitude, formatMeasure, formatPlural } from './format-numbers.js';
import type { InspectReport } from './inspect-report.js';
import { areUnmarked, formatLayers, isUnmarked, nameLayer } from './layer-nouns.js';

/**
 * A report without the drift that `eval()` would not have prevented: what is left is what code to freeze modules is
 * about. Where no count tells, training is the likely cause.
 */
export function keepCurableByEval(report: AuditReport): AuditReport {
  const isEma = holdsMovingAverage(report);
  const incurable = new Set(
    report.layers
      .filter(
        ({ cause }) =>
          cause !== null && !(cause.kind === 'averaged' ? cause.rose : followsTraining(cause.kind, isEma)),
      )
      .map(({ name }) => name),
  );
  return {
    ...report,
    findings: report.findings.filter((finding) => !(isLeadingDrift(finding) && incurable.has(finding.layer))),
  };
}

/** What to do about drift that `eval()` would not have prevented, a paragraph for each cause. */
export function listRemedies(report: AuditReport): readonly string[] {
  const { summary } = report;
  const isEma = holdsMovingAverage(report);
  return summary.causes
    .filter(({ kind }) => kind === 'averaged' || !followsTraining(kind, isEma))
    .map(({ layers, remedy }) =>
      summary.causes.length === 1 ? remedy : `${layers} norm layer${layers === 1 ? '' : 's'}: ${remedy}`,
    );
}

/** Ultralytics saves the moving average of its model, in 16 bits, whose rounding does not show that it is one. */
function holdsMovingAverage({ before, after }: AuditReport): boolean {
  return (after.framework ?? before.framework) === 'ultralytics';
}

/** Whether the statistics of the file, or those that it averages, were moved by a model in training mode. */
function followsTraining(kind: DriftCause['kind'], isEma: boolean): boolean {
  return kind === 'training-mode' || kind === 'ema' || (kind === 'uncounted' && isEma);
}

/**
 * What a report came to. Of audits it is the verdict of the JSON, where `failed` means that an audit could not be done;
 * of inspections its health.
 */
export type Outcome = 'failed' | 'drifted' | 'unhealthy' | 'warned' | 'clean';

/** What a report says first. */
export interface Answer {
  readonly outcome: Outcome;
  /** One word for the outcome; formats that shout write it in capitals. */
  readonly word: string;
  /** A clause without a full stop: a phrase, as {@link encloseName} makes it. */
  readonly headline: string;
  /** One to three sentences with the evidence: a phrase. */
  readonly explanation: string;
}

/** The answer of a report in words. */
export function describeAnswer(report: OneReport): Answer {
  return isAudit(report) ? answerAudit(report) : answerInspection(report);
}

/** The words for what audits come to. */
export const VERDICT_WORDS = { clean: 'Clean', drifted: 'Drifted', failed: 'Failed' } as const;

function answerAudit(report: AuditReport): Answer {
  const errors = report.findings.filter(({ level }) => level === 'error');
  const outcome = verdictOf(errors);
  const word = VERDICT_WORDS[outcome];
  if (errors.some(isLeadingDrift))
    return { outcome, word, headline: headlineOfDrift(report), explanation: explainDrift(report) };
  const headline = errors.length > 0 ? listTitles(errors) : headlineOfClean(report);
  return { outcome, word, headline, explanation: explainCounts(report) };
}

function headlineOfDrift(report: AuditReport): string {
  const excuses = describeExcuses(report);
  return `${nameDrift(report)}${excuses === '' ? '' : ` (${countMoved(report)} moved${excuses})`}`;
}

function nameDrift(report: AuditReport): string {
  const modules = findModulesToFreeze(report).map((path) =>
    path === '' ? 'the whole model' : encloseName(path),
  );
  const [first = ''] = modules;
  if (areUnmarked(listLayersOf(report, isLeadingDrift)) && !isBiasOnly(report))
    return 'frozen convolutions were rescaled channel by channel, as if statistics folded into them had moved';
  if (isBiasOnly(report)) return 'biases of frozen convolutions moved: means drifted, or biases were trained';
  if (modules.length === 0) {
    // Flat names tell of no module; without a drifted layer, all were trained against --frozen.
    const isDrift = report.layers.some(({ status }) => status === 'drifted');
    return isDrift
      ? 'statistics of frozen layers moved'
      : 'statistics moved in layers that --frozen says must not move';
  }
  if (modules.length === 1) return `${first} was frozen, its statistics were not`;
  if (modules.length <= 3)
    return `${modules.slice(0, -1).join(', ')} and ${modules.at(-1)} were frozen, their statistics were not`;
  return `${first} and ${modules.length - 1} more were frozen, their statistics were not`;
}

/** Whether all that stands is ambiguous: folded convolutions of which the bias alone moved. */
export function isBiasOnly({ findings }: AuditReport): boolean {
  return findings.filter(isLeadingDrift).every(({ kind }) => kind === 'folded-bias-drift');
}

function explainDrift(report: AuditReport): string {
  const regions = listDriftedRegions(report);
  const tensors = sum(regions.map(({ learned }) => learned.tensors));
  const values = sum(regions.map(({ learned }) => learned.elements));
  const drifted = listLayersOf(report, isLeadingDrift);
  const identical =
    tensors === 0
      ? ''
      : `${formatCount(tensors)} of ${formatPlural(tensors, 'learned tensor')} (${formatMagnitude(values)} values) ${tensors === 1 ? 'is' : 'are'} ${nameEquality(regions)}, yet `;
  const caveat = drifted.some(isUnmarked)
    ? ' No file says whether norm layers were folded into them; a trained weight or bias of one looks the same.'
    : drifted.some(({ via }) => via === 'folded')
      ? ' Told from folded convolutions, where a trained weight or bias of the norm layer looks the same.'
      : '';
  return `${identical}${countMoved(report, true)} moved${describeExcuses(report)}${describeBatches(report)}.${describeWorst(drifted)}${describeCauses(report)}${caveat}`;
}

function listDriftedRegions({ regions }: AuditReport): AuditReport['regions'] {
  return regions.filter(({ status, drifted }) => status === 'frozen' && drifted > 0);
}

/** The layers that some findings are about, those that only one checkpoint has left out. */
function listLayersOf(
  { layers, findings }: AuditReport,
  isWanted: (finding: Finding) => boolean,
): readonly AuditLayer[] {
  const names = new Set(findings.filter(isWanted).map(({ layer }) => layer));
  return layers.filter(({ name }) => names.has(name));
}

/** `8 of 8`: the layers whose drift stands or was accepted, of those in regions where any drifted. */
function countMoved(report: AuditReport, isNamed = false): string {
  const moved = listLayersOf(report, (finding) => isLeadingDrift(finding) || isExcusedDrift(finding)).length;
  const all = Math.max(sum(listDriftedRegions(report).map((region) => region.layers)), moved);
  return `${formatCount(moved)} of ${isNamed ? formatLayers(all, report.layers) : formatCount(all)}`;
}

/** `, 2 allowed, 1 below --min-shift`: layers whose drift the user accepts; empty where there are none. */
function describeExcuses(report: AuditReport): string {
  const excused = listLayersOf(report, isExcusedDrift);
  const allowed = excused.filter((layer) => layer.allowed).length;
  const small = excused.length - allowed;
  return [
    allowed > 0 ? `, ${formatCount(allowed)} allowed` : '',
    small > 0 ? `, ${formatCount(small)} below --min-shift` : '',
  ].join('');
}

function describeWorst(layers: readonly AuditLayer[]): string {
  const worst = layers.reduce<AuditLayer | null>(
    (most, layer) => ((layer.outputShift ?? 0) > (most?.outputShift ?? 0) ? layer : most),
    null,
  );
  if (worst === null) return '';
  const size = formatMeasure(worst.outputShift ?? 0);
  if (layers.length === 1) return ` Its output moves by ${size} of its own size.`;
  return ` Their outputs move by up to ${size} of their own size (${encloseName(worst.name)}).`;
}

/** Said where the count rose alone: an average of counts is no number of batches. */
function describeBatches({ summary: { batches, causes } }: AuditReport): string {
  if (batches === null || !causes.every(({ kind }) => kind === 'training-mode')) return '';
  if (String(batches.min).startsWith('-') || batches.max === 0) return '';
  if (batches.min !== batches.max)
    return `, after ${formatCount(batches.min)} to ${formatCount(batches.max)} training-mode batches`;
  return `, after ${formatCount(batches.min)} training-mode batch${batches.min === 1 ? '' : 'es'}`;
}

/** What moved the layers whose drift stands, in sentences with a space before each. */
export function describeCauses({ summary: { causes } }: AuditReport): string {
  return causes
    .map(({ layers, sentence }) => {
      const which = causes.length === 1 ? '' : `${formatPlural(layers, 'norm layer')}: `;
      return ` ${which}${sentence}`;
    })
    .join('');
}

function headlineOfClean(report: AuditReport): string {
  const { layers, notAudited } = report.summary;
  const claim = claimClean(report);
  return notAudited === 0
    ? claim
    : `${claim}; ${formatCount(notAudited)} of ${formatLayers(layers + notAudited, report.layers)} ${notAudited === 1 ? 'was' : 'were'} not audited`;
}

function claimClean(report: AuditReport): string {
  const { byStatus, layers, learned, notAudited } = report.summary;
  if (listLayersOf(report, isExcusedDrift).length > 0)
    return `no drift beyond what was accepted: ${countMoved(report, true)} moved${describeExcuses(report)}`;
  const noun = nameLayer(report.layers);
  if (layers === 0) return 'no norm layer could be compared';
  const warnings = report.findings.filter(
    ({ kind, level }) => level === 'warning' && kind !== 'unpaired-layer',
  );
  if (warnings.length > 0)
    return `no error, but ${formatPlural(warnings.length, 'warning')}: ${listTitles(warnings)}`;
  if (byStatus.locked === layers) {
    const isHidden = report.layers.some(({ channelsHidden }) => channelsHidden !== undefined);
    return `every ${notAudited > 0 ? 'audited ' : ''}${noun} stood still${isHidden ? ', as far as folding shows it' : ''}`;
  }
  if (byStatus.trained === layers) {
    const subject = learned.changed === learned.compared ? 'nothing was frozen' : `every ${noun} was trained`;
    return `${subject}: statistics moved with the weights`;
  }
  return areUnmarked(report.layers)
    ? 'no frozen convolution was rescaled'
    : 'no frozen layer’s statistics moved';
}

/** The word for what stayed: of averages, hardly a value is the same to the last bit. */
export function nameEquality(regions: AuditReport['regions']): string {
  return regions.some(({ equality }) => equality === 'rounded') ? 'identical up to rounding' : 'identical';
}

function explainCounts(report: AuditReport): string {
  const { byStatus, layers, learned } = report.summary;
  const statuses = Object.entries(byStatus)
    .filter(([, count]) => count > 0)
    .map(([status, count]) => `${formatCount(count)} ${status}`)
    .join(', ');
  const tensors =
    learned.compared === 0
      ? 'No learned tensor is in both checkpoints.'
      : `${formatCount(learned.equal)} of ${formatPlural(learned.compared, 'learned tensor')} ${learned.rounded > 0 ? 'identical up to rounding' : 'identical'}.`;
  return statuses === ''
    ? `No norm layer was compared. ${tensors}`
    : `${formatLayers(layers, report.layers)}: ${statuses}. ${tensors}`;
}

const HEALTH_WORDS = {
  unhealthy: ['unhealthy', 'Unhealthy', 'error'],
  warning: ['warned', 'Warning', 'warning'],
  healthy: ['clean', 'Healthy', null],
} as const satisfies Record<InspectReport['health'], readonly [Outcome, string, FindingLevel | null]>;

function answerInspection({ health, findings, layers }: InspectReport): Answer {
  const serious = findings.filter(({ level }) => level !== 'note');
  const concerned = new Set(serious.map(({ layer }) => layer)).size;
  const [outcome, word, worst] = HEALTH_WORDS[health];
  return {
    outcome,
    word,
    headline:
      worst === null
        ? layers.length === 0
          ? 'no running statistics are in the file: norm layers were folded away'
          : 'all running statistics are finite'
        : listTitles(serious.filter(({ level }) => level === worst)),
    explanation: `${formatPlural(layers.length, 'norm layer')}, ${concerned === 0 ? 'none' : formatCount(concerned)} with an error or a warning.`,
  };
}

/** The titles of findings, one of each kind, in a clause. */
export function listTitles(findings: readonly Finding[]): string {
  const titles = [...new Set(findings.map(({ kind }) => titleOf(kind)))];
  return titles.map((title) => title.charAt(0).toLowerCase() + title.slice(1)).join('; ');
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
