import { type AnyReport, isAudit } from '../any-report.js';
import type { AuditLayer } from '../audit-report.js';
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

/** Statistics of one layer, before they are encoded. */
interface ChannelSource {
  readonly epsilon: number;
  readonly before: { readonly mean: readonly number[]; readonly variance: readonly number[] };
  readonly after: { readonly mean: readonly number[]; readonly variance: readonly number[] } | null;
}

/**
 * The statistics per channel of a report's layers, in `available` characters: where there is not room for all, the
 * channels of each layer that moved most.
 */
export function buildPageChannels(report: AnyReport, available: number): readonly (PageChannels | null)[] {
  const sources = isAudit(report)
    ? report.layers.map(findAuditChannels)
    : report.layers.map(findInspectChannels);
  const limit = chooseChannelLimit(sources, available - CHARACTERS_PER_LAYER * sources.length);
  return sources.map((source) => encodeChannels(source, limit));
}

function findAuditChannels({ perChannel, epsilon }: AuditLayer): ChannelSource | null {
  const { before, after } = perChannel ?? { before: null, after: null };
  return before === null ? null : { epsilon, before, after };
}

function findInspectChannels({ perChannel, epsilon }: InspectLayer): ChannelSource | null {
  return perChannel === undefined ? null : { epsilon, before: perChannel, after: null };
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
