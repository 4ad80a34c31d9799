// The data that the page's script draws from.

import type { EpsilonFrom } from '../../compare/compare-layers.js';
import { isAudit, type OneReport, showMessage, showSafely } from '../any-report.js';
import type { AuditLayer, LayerSide } from '../audit-report.js';
import { rankFindings } from '../finding-groups.js';
import { formatBatches, formatMeasure } from '../format-numbers.js';
import type { InspectLayer } from '../inspect-report.js';
import { encodeNumbers } from './channel-codec.js';

/** Statistics per channel, encoded by {@link encodeNumbers}. */
export interface PageChannels {
  /** Channels of the layer, of which the page may hold fewer. */
  readonly total: number;
  /** Which channels these are; null when they are all. */
  readonly indices: readonly number[] | null;
  readonly epsilon: number;
  readonly before: PageStatistics;
  /** Null where there is nothing to compare with; `"same"` where no channel moved. */
  readonly after: PageStatistics | 'same' | null;
}

/** Mean and variance of channels. */
export interface PageStatistics {
  readonly mean: string;
  readonly variance: string;
}

/** Characters that a channel takes at most: mean and variance of both sides, and its index. */
const CHARACTERS_PER_CHANNEL = 4 * 4 + 6;

/** Characters that a layer's channels take beside their numbers. */
const CHARACTERS_PER_LAYER = 160;

interface ChannelSource {
  readonly epsilon: number;
  readonly before: { readonly mean: readonly number[]; readonly variance: readonly number[] };
  readonly after: { readonly mean: readonly number[]; readonly variance: readonly number[] } | null;
}

/**
 * The statistics per channel of a report's layers, in `available` characters: where there is not room for all, the
 * channels of each layer that moved most.
 */
export function buildPageChannels(report: OneReport, available: number): readonly (PageChannels | null)[] {
  const sources: readonly (ChannelSource | null)[] = isAudit(report)
    ? report.layers.map(({ perChannel, epsilon }) =>
        perChannel?.before ? { epsilon, before: perChannel.before, after: perChannel.after } : null,
      )
    : report.layers.map(({ perChannel, epsilon }) =>
        perChannel === undefined ? null : { epsilon, before: perChannel, after: null },
      );
  const limit = chooseChannelLimit(sources, available - CHARACTERS_PER_LAYER * sources.length);
  return sources.map((source) => encodeChannels(source, limit));
}

/** The largest number of channels of each layer that all layers together have room for. */
function chooseChannelLimit(sources: readonly (ChannelSource | null)[], available: number): number {
  const counts = sources.map((source) => source?.before.mean.length ?? 0);
  const isFitting = (limit: number) =>
    counts.reduce((sum, count) => sum + Math.min(count, limit), 0) * CHARACTERS_PER_CHANNEL <= available;
  let [fitting, excess] = [0, counts.reduce((most, count) => Math.max(most, count), 0) + 1];
  while (excess - fitting > 1) {
    const middle = Math.floor((fitting + excess) / 2);
    if (isFitting(middle)) fitting = middle;
    else excess = middle;
  }
  return fitting;
}

function encodeChannels(source: ChannelSource | null, limit: number): PageChannels | null {
  if (source === null || limit === 0) return null;
  const { before, after, epsilon } = source;
  const indices = before.mean.length > limit ? selectChannels(source, limit) : null;
  const encode = (values: readonly number[]) =>
    encodeNumbers(indices === null ? values : indices.map((index) => values[index] ?? Number.NaN));
  const statistics = { mean: encode(before.mean), variance: encode(before.variance) };
  const other = after === null ? null : { mean: encode(after.mean), variance: encode(after.variance) };
  const isSame = other !== null && other.mean === statistics.mean && other.variance === statistics.variance;
  return { total: before.mean.length, indices, epsilon, before: statistics, after: isSame ? 'same' : other };
}

/** The channels that moved most, in the order of the layer; without a comparison, evenly spread ones. */
function selectChannels({ before, after, epsilon }: ChannelSource, limit: number): readonly number[] {
  const count = before.mean.length;
  if (after === null) return Array.from({ length: limit }, (_, index) => Math.floor((index * count) / limit));
  const moves = before.mean.map((mean, index) => {
    const variance = (before.variance[index] ?? 0) + epsilon;
    const shift = ((after.mean[index] ?? 0) - mean) / Math.sqrt(variance);
    const move = Math.hypot(shift, Math.log(((after.variance[index] ?? 0) + epsilon) / variance) / 2);
    return { index, move: Number.isNaN(move) ? Number.POSITIVE_INFINITY : move };
  });
  return moves
    .sort((x, y) => (y.move === x.move ? x.index - y.index : y.move - x.move))
    .slice(0, limit)
    .map(({ index }) => index)
    .sort((x, y) => x - y);
}

/** What the page's script reads at once: what is neither in the page's markup nor about single channels. */
export interface PageData {
  /** What the chart of layers can show, which some layer has; the first is shown first. */
  readonly measures: readonly PageMeasure[];
  /** What a layer's own panel tells, in its order. */
  readonly facts: readonly string[];
  /** In the order of the chart; index for index the rows of the page's table before it is sorted. */
  readonly layers: readonly PageLayer[];
  /** The layer that is open at first; null where none moved. */
  readonly opened: number | null;
}

/** A measure of layers. */
export interface PageMeasure {
  readonly label: string;
  /** What a screen reader and the axis add to a value. */
  readonly unit: string;
  readonly meaning: string;
}

/** A layer, as the page's charts need it. */
export interface PageLayer {
  readonly name: string;
  readonly status: string;
  /** One a measure; null where there is none, a string where it is not finite. */
  readonly values: readonly (number | string | null)[];
  /** One a label of the page's facts; null where the label does not apply. */
  readonly facts: readonly (string | null)[];
  readonly findings: readonly { readonly level: string; readonly text: string }[];
}

const MAX_FINDINGS_PER_LAYER = 5;

/** A measure, and what a layer has of it. */
interface Measure<Layer> extends PageMeasure {
  readonly of: (layer: Layer) => number | null | undefined;
}

/** The data of a report's page, but for its channels. */
export function buildPageData(report: OneReport): PageData {
  const findings = groupFindings(report);
  const describe = <Layer extends AuditLayer | InspectLayer>(
    layers: readonly Layer[],
    all: readonly Measure<Layer>[],
    facts: readonly Fact<Layer>[],
  ) => {
    // Of a folded pair, only standard deviations are known.
    const measures = all.filter(({ of }) => layers.some((layer) => of(layer) != null));
    return {
      measures,
      facts: facts.map(([label]) => label),
      layers: layers.map((layer) => ({
        name: showSafely(layer.name),
        status: layer.status,
        findings: findings.get(layer.name) ?? [],
        values: measures.map((measure) => toJsonNumber(measure.of(layer))),
        facts: facts.map(([, tell]) => tell(layer)),
      })),
    };
  };
  return isAudit(report)
    ? { ...describe(report.layers, AUDIT_MEASURES, AUDIT_FACTS), opened: findOpened(report.layers) }
    : { ...describe(report.layers, INSPECT_MEASURES, INSPECT_FACTS), opened: null };
}

const AUDIT_MEASURES: readonly Measure<AuditLayer>[] = [
  {
    label: 'Output shift',
    unit: '',
    meaning: 'how far the layer’s output moves because its statistics moved, relative to its size',
    of: ({ outputShift }) => outputShift,
  },
  {
    label: 'Mean shift',
    unit: 'σ',
    meaning: 'root mean square over channels of |μ after − μ before| / σ before',
    of: ({ meanShift }) => meanShift?.rms,
  },
  {
    label: 'Std ratio',
    unit: '× − 1',
    meaning: 'how far the typical ratio of σ after to σ before is from 1',
    // The ratio's distance from 1, so that no change is 0 on the chart.
    of: ({ logStdRatio }) => logStdRatio && Math.expm1(logStdRatio.rms),
  },
  {
    label: 'Divergence',
    unit: 'nats',
    meaning: 'mean of the two Kullback–Leibler divergences between the channels’ Gaussians',
    of: ({ divergence }) => divergence,
  },
];

const INSPECT_MEASURES: readonly Measure<InspectLayer>[] = [
  {
    label: 'Variance',
    unit: '',
    meaning: 'geometric mean of the running variance over channels',
    of: ({ variance }) => variance?.geometricMean,
  },
  {
    label: 'Mean',
    unit: '',
    meaning: 'root mean square of the running mean over channels',
    of: ({ mean }) => mean?.rms,
  },
];

function toJsonNumber(value: number | null | undefined): number | string | null {
  if (value == null) return null;
  return Number.isFinite(value) ? Number(value.toPrecision(6)) : String(value);
}

function groupFindings(report: OneReport): ReadonlyMap<string, PageLayer['findings']> {
  const groups = new Map<string, { level: string; text: string }[]>();
  for (const finding of rankFindings(report)) {
    const group = groups.get(finding.layer) ?? [];
    if (group.length >= MAX_FINDINGS_PER_LAYER) continue;
    group.push({ level: finding.level, text: showMessage(finding.message) });
    groups.set(finding.layer, group);
  }
  return groups;
}

const RELATIONS = { equal: 'unchanged', changed: 'changed', none: 'none' } as const;

type Fact<Layer> = readonly [label: string, tell: (layer: Layer) => string | null];

const shown = (name: string | null) => (name === null ? 'cannot be read' : showSafely(name));

/** What a side calls the layer, where that is not the name shown. */
const otherName = ({ name }: AuditLayer, side: LayerSide) => (side.name === name ? null : shown(side.name));

/** Where an epsilon comes from. */
const EPSILON_SOURCES: Readonly<Record<EpsilonFrom, string>> = {
  graph: 'from the file',
  default: 'the framework’s default',
  option: '--epsilon',
  weights: 'solved from the weights',
};

const AUDIT_FACTS: readonly Fact<AuditLayer>[] = [
  ['Kind', ({ kind }) => shown(kind)],
  [
    'Channels moved',
    ({ channels, channelsMoved }) => (channelsMoved === null ? 'unknown' : `${channelsMoved} of ${channels}`),
  ],
  ['Weight and bias', ({ affine }) => RELATIONS[affine]],
  ['Weights that feed it', ({ neighbours }) => RELATIONS[neighbours]],
  ['Batches', ({ batches }) => formatBatches(batches)],
  ['Divergence', ({ divergence }) => (divergence === null ? '–' : `${formatMeasure(divergence)} nats`)],
  ['Epsilon', ({ epsilon, epsilonFrom }) => `${epsilon} (${EPSILON_SOURCES[epsilonFrom]})`],
  ['Epsilon in after', ({ epsilonAfter }) => (epsilonAfter === undefined ? null : String(epsilonAfter))],
  ['Paired by', ({ pairedBy }) => pairedBy],
  ['Name in before', (layer) => otherName(layer, layer.before)],
  ['Name in after', (layer) => otherName(layer, layer.after)],
  ['Mean in before', ({ before }) => shown(before.mean)],
  ['Mean in after', ({ before, after }) => (before.mean === after.mean ? null : shown(after.mean))],
];

const describeRange = (values: { readonly min: number; readonly max: number } | null) =>
  values === null ? '–' : `${formatMeasure(values.min)} to ${formatMeasure(values.max)}`;

const INSPECT_FACTS: readonly Fact<InspectLayer>[] = [
  ['Kind', ({ kind }) => shown(kind)],
  ['Mean', ({ mean }) => describeRange(mean)],
  ['Variance', ({ variance }) => describeRange(variance)],
  ['Affine', ({ affine }) => (affine ? 'yes' : 'no')],
  ['Momentum', ({ momentum }) => (momentum === null ? 'unknown' : String(momentum))],
  ['Epsilon', ({ epsilon, epsilonFrom }) => `${epsilon} (${EPSILON_SOURCES[epsilonFrom]})`],
  ['Notes', ({ notes }) => (notes.length === 0 ? null : showMessage(notes.join('; ')))],
];

/** The drifted layer whose output moves most. */
function findOpened(layers: readonly AuditLayer[]): number | null {
  let opened: number | null = null;
  layers.forEach(({ status, outputShift }, index) => {
    if (status !== 'drifted') return;
    if (opened === null || (outputShift ?? 0) > (layers[opened]?.outputShift ?? 0)) opened = index;
  });
  return opened;
}
