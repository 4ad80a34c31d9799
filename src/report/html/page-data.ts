import { escapeControls } from '../../errors.js';
import { type AnyReport, isAudit, rankFindings, showSafely } from '../any-report.js';
import type { AuditLayer } from '../audit-report.js';
import { formatBatches, formatMeasure } from '../format-numbers.js';
import type { InspectLayer } from '../inspect-report.js';
import { encodeNumbers } from './channel-codec.js';

/** What the page's script reads: everything that is not in the page's markup already. */
export interface PageData {
  /** What the chart along the depth can show; the first is shown first. */
  readonly measures: readonly PageMeasure[];
  /** In the order of the model; index for index the rows of the page's table before it is sorted. */
  readonly layers: readonly PageLayer[];
  /** The layer that is open at first; null where none moved. */
  readonly opened: number | null;
}

/** A measure of layers. */
export interface PageMeasure {
  readonly label: string;
  /** What a screen reader and the axis add to a value. */
  readonly unit: string;
  /** The measure in a few words, with its formula's parts. */
  readonly meaning: string;
}

/** A layer, as the page's charts need it. */
export interface PageLayer {
  readonly name: string;
  readonly status: string;
  /** One a measure; null where there is none, a string where it is not finite. */
  readonly values: readonly (number | string | null)[];
  /** Labels and values for the layer's own panel. */
  readonly facts: readonly (readonly [label: string, value: string])[];
  readonly findings: readonly { readonly level: string; readonly text: string }[];
  readonly channels: PageChannels | null;
}

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

/** Characters of channel data in a page: with all else, a page of 300 layers stays under 1.5 MB. */
const MAX_CHANNEL_CHARACTERS = 900_000;

/** Characters that a channel takes at most: mean and variance of both sides, and its index. */
const CHARACTERS_PER_CHANNEL = 4 * 4 + 5;

const MAX_NAME_LENGTH = 160;
const MAX_MESSAGE_LENGTH = 600;
const MAX_FINDINGS_PER_LAYER = 5;

/** Statistics of one layer, before they are encoded. */
interface ChannelSource {
  readonly epsilon: number;
  readonly before: { readonly mean: readonly number[]; readonly variance: readonly number[] };
  readonly after: { readonly mean: readonly number[]; readonly variance: readonly number[] } | null;
}

/** The data of a report's page. */
export function buildPageData(report: AnyReport): PageData {
  const findings = groupFindings(report);
  const sources = isAudit(report)
    ? report.layers.map(findAuditChannels)
    : report.layers.map(findInspectChannels);
  const limit = chooseChannelLimit(sources);
  const toPage = (layer: AuditLayer | InspectLayer, index: number) => ({
    name: showSafely(layer.name, MAX_NAME_LENGTH),
    status: layer.status,
    findings: findings.get(layer.name) ?? [],
    channels: encodeChannels(sources[index] ?? null, limit),
  });
  if (!isAudit(report)) {
    return {
      measures: INSPECT_MEASURES,
      layers: report.layers.map((layer, index) => ({
        ...toPage(layer, index),
        values: [layer.variance?.geometricMean, layer.mean?.rms].map(toJsonNumber),
        facts: listInspectFacts(layer),
      })),
      opened: null,
    };
  }
  return {
    measures: AUDIT_MEASURES,
    layers: report.layers.map((layer, index) => ({
      ...toPage(layer, index),
      values: [layer.outputShift, layer.meanShift?.rms, stdFactor(layer), layer.divergence].map(toJsonNumber),
      facts: listAuditFacts(layer),
    })),
    opened: findOpened(report.layers),
  };
}

const AUDIT_MEASURES: readonly PageMeasure[] = [
  {
    label: 'Output shift',
    unit: '',
    meaning: 'how far the layer’s output moves because its statistics moved, relative to its size',
  },
  {
    label: 'Mean shift',
    unit: 'σ',
    meaning: 'root mean square over channels of |μ after − μ before| / σ before',
  },
  {
    label: 'Std ratio',
    unit: '× − 1',
    meaning: 'how far the typical ratio of σ after to σ before is from 1',
  },
  {
    label: 'Divergence',
    unit: 'nats',
    meaning: 'mean of the two Kullback–Leibler divergences between the channels’ Gaussians',
  },
];

const INSPECT_MEASURES: readonly PageMeasure[] = [
  { label: 'Variance', unit: '', meaning: 'geometric mean of the running variance over channels' },
  { label: 'Mean', unit: '', meaning: 'root mean square of the running mean over channels' },
];

/** The ratio's distance from 1, so that no change is 0 on the chart. */
function stdFactor({ logStdRatio }: AuditLayer): number | null {
  return logStdRatio === null ? null : Math.expm1(logStdRatio.rms);
}

function toJsonNumber(value: number | null | undefined): number | string | null {
  if (value == null) return null;
  return Number.isFinite(value) ? Number(value.toPrecision(6)) : String(value);
}

function groupFindings(report: AnyReport): ReadonlyMap<string, PageLayer['findings']> {
  const groups = new Map<string, { level: string; text: string }[]>();
  for (const { finding } of rankFindings(report)) {
    const group = groups.get(finding.layer) ?? [];
    if (group.length >= MAX_FINDINGS_PER_LAYER) continue;
    group.push({ level: finding.level, text: escapeControls(finding.message).slice(0, MAX_MESSAGE_LENGTH) });
    groups.set(finding.layer, group);
  }
  return groups;
}

const RELATIONS = { equal: 'identical', changed: 'changed', none: 'none' } as const;

function listAuditFacts(layer: AuditLayer): PageLayer['facts'] {
  const { before, after, channels, channelsMoved, epsilon, epsilonFrom } = layer;
  const tensor = (name: string | null) =>
    name === null ? 'cannot be read' : showSafely(name, MAX_NAME_LENGTH);
  const isRenamed = before.name !== after.name;
  return [
    ['Kind', showSafely(layer.kind, MAX_NAME_LENGTH)],
    ['Channels moved', channelsMoved === null ? 'unknown' : `${channelsMoved} of ${channels}`],
    ['Weight and bias', RELATIONS[layer.affine]],
    ['Weights that feed it', RELATIONS[layer.neighbours]],
    ['Batches', formatBatches(layer.batches)],
    ['Divergence', layer.divergence === null ? '–' : `${formatMeasure(layer.divergence)} nats`],
    ['Epsilon', `${epsilon} (${epsilonFrom})`],
    ['Paired by', layer.pairedBy],
    ...(isRenamed ? [['Name in after', showSafely(after.name, MAX_NAME_LENGTH)] as const] : []),
    ['Mean in before', tensor(before.mean)],
    ...(isRenamed ? [['Mean in after', tensor(after.mean)] as const] : []),
  ];
}

function listInspectFacts(layer: InspectLayer): PageLayer['facts'] {
  const range = (values: { min: number; max: number } | null) =>
    values === null ? '–' : `${formatMeasure(values.min)} to ${formatMeasure(values.max)}`;
  return [
    ['Kind', showSafely(layer.kind, MAX_NAME_LENGTH)],
    ['Mean', range(layer.mean)],
    ['Variance', range(layer.variance)],
    ['Affine', layer.affine ? 'yes' : 'no'],
    ['Momentum', layer.momentum === null ? 'unknown' : String(layer.momentum)],
    ['Epsilon', `${layer.epsilon} (${layer.epsilonFrom})`],
    ...layer.notes
      .slice(0, MAX_FINDINGS_PER_LAYER)
      .map((note) => ['Note', showSafely(note, MAX_MESSAGE_LENGTH)] as const),
  ];
}

/** The drifted layer whose output moves most. */
function findOpened(layers: readonly AuditLayer[]): number | null {
  let opened: number | null = null;
  layers.forEach(({ status, outputShift }, index) => {
    if (status !== 'drifted') return;
    if (opened === null || (outputShift ?? 0) > (layers[opened]?.outputShift ?? 0)) opened = index;
  });
  return opened;
}

function findAuditChannels({ perChannel, epsilon }: AuditLayer): ChannelSource | null {
  const { before, after } = perChannel ?? { before: null, after: null };
  return before === null ? null : { epsilon, before, after };
}

function findInspectChannels({ perChannel, epsilon }: InspectLayer): ChannelSource | null {
  return perChannel === undefined ? null : { epsilon, before: perChannel, after: null };
}

/** So many channels of each layer are kept: all, or a power of two that keeps the page within its limit. */
function chooseChannelLimit(sources: readonly (ChannelSource | null)[]): number {
  const counts = sources.map((source) => source?.before.mean.length ?? 0);
  let limit = Math.max(0, ...counts);
  const size = () => counts.reduce((sum, count) => sum + Math.min(count, limit), 0) * CHARACTERS_PER_CHANNEL;
  if (size() > MAX_CHANNEL_CHARACTERS) limit = 2 ** Math.floor(Math.log2(limit));
  while (limit >= 1 && size() > MAX_CHANNEL_CHARACTERS) limit /= 2;
  return Math.floor(limit);
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
