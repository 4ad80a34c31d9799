import { bitsOf, decodeFloats, isFloatingPoint } from '../checkpoint/dtype.js';
import { readRange } from '../io/byte-source.js';
import type { FileWork } from '../io/file-order.js';
import type { LinearLayer } from '../norm/linear-layers.js';
import { type NormLayer, storedTensorOf } from '../norm/norm-layer.js';
import type { LearnedComparisons } from './compare-learned.js';
import type { LayerPair, PairedBy } from './pair-layers.js';
import {
  areInitial,
  type ChannelVector,
  countTrue,
  findInvalidValue,
  findMovedChannels,
  findStdRatios,
  haveSameBits,
  type Measures,
  measureDrift,
  readChannelVectors,
  type Statistics,
} from './statistics.js';
import { decideStatus, type LayerStatus, type Relation } from './status.js';
import { chooseValueTest } from './tensor-equality.js';

/** Where an epsilon comes from. */
export type EpsilonFrom = 'graph' | 'default' | 'option';

/** Statistics per channel of both sides; null where folding hides them. */
export interface PerChannel {
  readonly before: { readonly mean: readonly number[]; readonly variance: readonly number[] } | null;
  readonly after: { readonly mean: readonly number[]; readonly variance: readonly number[] } | null;
  /** σB / σA. */
  readonly stdRatio: readonly number[];
}

/** A norm layer of both checkpoints, compared. */
export interface LayerComparison {
  readonly before: NormLayer;
  readonly after: NormLayer;
  readonly pairedBy: PairedBy;
  /** Whether both sides' statistics were read, or folding hides those of one or both. */
  readonly via: 'live' | 'folded';
  readonly status: LayerStatus;
  readonly affine: Relation;
  readonly neighbours: Relation;
  readonly channels: number;
  readonly channelsMoved: number | null;
  /** Channels whose statistics folding hides, so that they were not audited; absent where all were. */
  readonly channelsHidden?: number | undefined;
  readonly epsilon: number;
  readonly epsilonFrom: EpsilonFrom;
  /** Batch count of after less that of before; null where either has none. */
  readonly batches: bigint | null;
  /** Null where there are no statistics to measure. */
  readonly measures: Measures | null;
  /** Whether after holds initial values and before does not, under an affine that was trained. */
  readonly isReset: boolean;
  /** The convolution that the unfolded side has of a layer that the other has folded; absent for other layers. */
  readonly liveLinear?: LinearLayer | undefined;
  /** Whether one factor explains every channel of a folded layer, as weight decay or rescaling would. */
  readonly isUniformScale: boolean;
  /** What is invalid or cannot be read; null for all other statuses. */
  readonly problem: string | null;
  readonly perChannel: PerChannel | null;
}

/** How layers are compared. */
export interface LayerOptions {
  /** Overrides every layer's own epsilon. */
  readonly epsilon?: number | undefined;
  readonly keepChannels: boolean;
}

/** A comparison of norm layers that is still to be done. */
export interface PlannedLayers {
  /** One for each pair, by the place of its statistics in before's file. */
  readonly works: readonly FileWork[];
  /** What they found, in the order of the pairs, beside what the learned tensors say. Call it once all are done. */
  readonly conclude: (learned: LearnedComparisons) => readonly LayerComparison[];
}

/** Plans to compare pairs of norm layers: their statistics, affine and counts, measures and statuses. */
export function planLayerComparisons(pairs: readonly LayerPair[], options: LayerOptions): PlannedLayers {
  const readings = new Map<LayerPair, LayerReading>();
  return {
    works: pairs.map((pair) => ({
      range: storedTensorOf(pair.before.mean)?.range ?? null,
      run: async () => {
        readings.set(pair, await readLayers(pair, options));
      },
    })),
    conclude: (learned) =>
      pairs.map((pair) => {
        const reading = readings.get(pair);
        if (reading === undefined) throw new Error(`${pair.before.name} is still to be compared`);
        return concludeLayers(reading, learned);
      }),
  };
}

/** What a pair of norm layers says by itself. */
interface LayerReading {
  readonly known: Omit<LayerComparison, 'status' | 'neighbours'>;
  /** The status, where it needs no more to be known. */
  readonly fault: 'invalid' | 'unresolved' | null;
  readonly isAffineInitial: boolean;
}

async function readLayers(pair: LayerPair, options: LayerOptions): Promise<LayerReading> {
  const [before, after] = [await readVectors(pair.before), await readVectors(pair.after)];
  const { relation: affine, isInitial: isAffineInitial } = compareAffine(before, after);
  const common = {
    ...pair,
    via: 'live' as const,
    isUniformScale: false,
    affine,
    channels: pair.before.channels || pair.after.channels,
    ...chooseEpsilon(pair.before, pair.after, options.epsilon),
    batches: await countBatches(pair),
  };
  if (!hasStatistics(before) || !hasStatistics(after)) {
    const nothing = { channelsMoved: null, measures: null, isReset: false, perChannel: null };
    const problem = explainUnresolved(pair);
    return { known: { ...common, ...nothing, problem }, fault: 'unresolved', isAffineInitial };
  }
  const moved = findMovedChannels(before, after);
  const { epsilon } = common;
  const problem = findInvalidValue(after);
  return {
    known: {
      ...common,
      channelsMoved: countTrue(moved),
      measures: measureDrift(before, after, { moved, gamma: after.gamma?.values ?? null, epsilon }),
      isReset: areInitial(after) && !areInitial(before) && affine !== 'none' && !isAffineInitial,
      problem,
      perChannel: options.keepChannels ? listChannels(before, after, epsilon) : null,
    },
    fault: problem === null ? null : 'invalid',
    isAffineInitial,
  };
}

/** What a norm layer stores per channel; null where it has none, or where it cannot be read. */
export interface LayerVectors {
  readonly mean: ChannelVector | null;
  readonly variance: ChannelVector | null;
  readonly gamma: ChannelVector | null;
  readonly beta: ChannelVector | null;
}

async function readVectors({ mean, variance, gamma, beta }: NormLayer): Promise<LayerVectors> {
  const vectors = await readChannelVectors([storedTensorOf(mean), storedTensorOf(variance), gamma, beta]);
  return {
    mean: vectors[0] ?? null,
    variance: vectors[1] ?? null,
    gamma: vectors[2] ?? null,
    beta: vectors[3] ?? null,
  };
}

/**
 * Reads what a layer stores per channel, where its statistics are stored.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function readStoredLayer(layer: NormLayer): Promise<LayerVectors & Statistics> {
  const vectors = await readVectors(layer);
  if (!hasStatistics(vectors)) throw new Error('statistics that are not stored were read');
  return vectors;
}

function hasStatistics(vectors: LayerVectors): vectors is LayerVectors & Statistics {
  return vectors.mean !== null && vectors.variance !== null;
}

function concludeLayers(
  { known, fault, isAffineInitial }: LayerReading,
  learned: LearnedComparisons,
): LayerComparison {
  const neighbours = relateNeighbours(known, learned);
  const evidence = {
    relation: known.affine,
    isInitial: isAffineInitial,
    neighbours,
    haveStatisticsMoved: known.channelsMoved !== null && known.channelsMoved > 0,
  };
  return { ...known, neighbours, status: fault ?? decideStatus(evidence) };
}

/** Both sides' statistics per channel, in the form of reports. */
export function listChannels(before: Statistics, after: Statistics, epsilon: number): PerChannel {
  const list = ({ mean, variance }: Statistics) => ({
    mean: [...mean.values],
    variance: [...variance.values],
  });
  return { before: list(before), after: list(after), stdRatio: findStdRatios(before, after, epsilon) };
}

/**
 * Reads both statistics of a layer that has them.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function readStatistics({ mean, variance }: NormLayer): Promise<Statistics> {
  if (mean.kind !== 'stored' || variance.kind !== 'stored')
    throw new Error('statistics that are not stored were read');
  const [means, variances] = await readChannelVectors([mean.tensor, variance.tensor]);
  if (means == null || variances == null) throw new Error('a tensor that is stored was not read');
  return { mean: means, variance: variances };
}

function explainUnresolved({ before, after }: LayerPair): string | null {
  for (const [side, layer] of [
    ['before', before],
    ['after', after],
  ] as const) {
    for (const statistic of [layer.mean, layer.variance]) {
      if (statistic.kind === 'unresolved') return `in ${side}, ${statistic.reason}`;
    }
  }
  return null;
}

interface AffineComparison {
  readonly relation: Relation;
  /** Whether γ = 1 and β = 0 in every channel of after: what a layer starts with. */
  readonly isInitial: boolean;
}

function compareAffine(before: LayerVectors, after: LayerVectors): AffineComparison {
  const isInitial = isConstant(after.gamma, 1) && isConstant(after.beta, 0);
  const wasInitial = isConstant(before.gamma, 1) && isConstant(before.beta, 0);
  const hasBefore = before.gamma !== null || before.beta !== null;
  const hasAfter = after.gamma !== null || after.beta !== null;
  // Exporters write ones and zeros for a layer without affine, so an absent affine equals an initial one.
  if (!hasBefore || !hasAfter) return { isInitial, relation: wasInitial && isInitial ? 'none' : 'changed' };
  const isEqual =
    haveEqualValues(before.gamma, after.gamma, 1) && haveEqualValues(before.beta, after.beta, 0);
  return { isInitial, relation: isEqual ? 'equal' : 'changed' };
}

function isConstant(vector: ChannelVector | null, constant: number): boolean {
  return vector === null || vector.values.every((value) => value === constant);
}

function haveEqualValues(left: ChannelVector | null, right: ChannelVector | null, absent: number): boolean {
  if (left === null || right === null) return isConstant(left, absent) && isConstant(right, absent);
  if (haveSameBits(left, right)) return true;
  const isEqual = chooseValueTest(left.dtype, right.dtype);
  return left.values.every((value, channel) => isEqual(value, right.values[channel] ?? Number.NaN));
}

/** A graph knows what feeds a layer; names only suggest it. Either side's graph will do. */
function relateNeighbours(
  { before, after }: Pick<LayerPair, 'before' | 'after'>,
  learned: LearnedComparisons,
): Relation {
  const isAfterBetter = !before.isFromGraph && after.isFromGraph;
  const comparisons = isAfterBetter
    ? after.neighbours.map((name) => learned.byAfter.get(name))
    : before.neighbours.map((name) => learned.byBefore.get(name));
  const found = comparisons.flatMap((comparison) => comparison ?? []);
  if (found.some(({ equality }) => equality === 'changed')) return 'changed';
  return found.some(({ equality }) => equality === 'equal') ? 'equal' : 'none';
}

/** The epsilon of a layer: the option's, else what either side's graph or module tells, else the default. */
export function chooseEpsilon(
  before: NormLayer,
  after: NormLayer,
  override: number | undefined,
): { readonly epsilon: number; readonly epsilonFrom: EpsilonFrom } {
  if (override !== undefined) return { epsilon: override, epsilonFrom: 'option' };
  const known = before.epsilon ?? after.epsilon;
  return known === null
    ? { epsilon: before.defaultEpsilon, epsilonFrom: 'default' }
    : { epsilon: known, epsilonFrom: 'graph' };
}

async function countBatches({ before, after }: LayerPair): Promise<bigint | null> {
  const [counted, recounted] = [await readBatchCount(before), await readBatchCount(after)];
  return counted === null || recounted === null ? null : recounted - counted;
}

/** A layer's `num_batches_tracked`, exactly; null where it has none or holds no whole number. */
export async function readBatchCount({ batchCount }: NormLayer): Promise<bigint | null> {
  if (batchCount === null || batchCount.elementCount !== 1) return null;
  const bytes = await readRange(batchCount.range);
  if (isFloatingPoint(batchCount.dtype)) {
    const [value = Number.NaN] = decodeFloats(bytes, batchCount.dtype);
    return Number.isInteger(value) ? BigInt(value) : null;
  }
  if (batchCount.dtype === 'I64') return new DataView(bytes.buffer).getBigInt64(bytes.byteOffset, true);
  let bits = 0n;
  for (const byte of bytes.toReversed()) bits = (bits << 8n) | BigInt(byte);
  return batchCount.dtype.startsWith('I') ? BigInt.asIntN(bitsOf(batchCount.dtype), bits) : bits;
}
