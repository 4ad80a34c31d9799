// Compares a pair of layers: running statistics, learned tensors, and why they drifted.

import { bitsOf, decodeFloats, isFloatingPoint, significandBitsOf } from '../checkpoint/dtype.js';
import { type FileWork, readRange } from '../io/byte-source.js';
import { addTo, getOrMake, splitPath } from '../norm/naming.js';
import {
  addNote,
  chooseLayerName,
  type LayerVector,
  type LinearLayer,
  type NormLayer,
  storedTensorOf,
  whyUnresolved,
} from '../norm/norm-layer.js';
import {
  isAdapted,
  isUnchanged,
  type LearnedComparison,
  type LearnedComparisons,
} from './compare-learned.js';
import type { LayerPair } from './pair-layers.js';
import { areBoundable, findCommonStep } from './quantised-weights.js';
import { compareRounded, MIN_VALUES, type RoundingEvidence } from './rounding.js';
import {
  areInitial,
  type ChannelVector,
  countTrue,
  findInvalidValue,
  findMovedChannels,
  findStdRatios,
  haveEqualValues,
  type Measures,
  measureDrift,
  type RmsAndMax,
  readOptional,
  type Statistics,
} from './statistics.js';
import { decideStatus, type LayerStatus, type Relation } from './status.js';

/**
 * A layer's `num_batches_tracked`: forward passes in training mode so far. Whole counts are exact; a number with a
 * fraction is an average of counts, as a mean of checkpoints holds it.
 */
type BatchCount = bigint | number;

/** How much of before's statistics is left in after's, which every training-mode forward pass replaces in part. */
export interface OldShare {
  /** (1 − momentum)ⁿ after n passes; the share of before's passes in all where momentum is cumulative. 0 to 1. */
  readonly share: number;
  readonly momentum: number | 'cumulative';
  readonly momentumFrom: 'module' | 'default';
}

/** What statistics and batch counts together tell of how a layer came to its statistics. */
export type DriftCause =
  /** The count rose with the statistics: forward passes in training mode. */
  | { readonly kind: 'training-mode'; readonly old: OldShare | null }
  /** The statistics moved, and no pass was counted: they were copied, averaged or computed without the count. */
  | { readonly kind: 'uncounted' }
  /** The same in a file whose learned tensors are averages: of a model over time, without its count. */
  | { readonly kind: 'ema' }
  /** The statistics moved and the count went back: reset, and estimated again. */
  | { readonly kind: 're-estimated' }
  /** The statistics are mean 0 and variance 1 again: reset, and never estimated again. */
  | { readonly kind: 'reset' }
  /** The statistics moved, and the count on a side is an average; `rose` where after's is above before's. */
  | {
      readonly kind: 'averaged';
      readonly side: 'before' | 'after';
      readonly count: number;
      readonly rose: boolean;
    }
  /** The count rose while the statistics stood still: the layer normalised by batch statistics. */
  | { readonly kind: 'batch-statistics' }
  /** The statistics stood still under a count that went back or was averaged: nothing ran in training mode. */
  | { readonly kind: 'recounted' };

/** What a layer's cause follows from. */
export interface CauseEvidence {
  readonly haveStatisticsMoved: boolean;
  /** Whether the learned tensors that stayed show the rounding of an average: then statistics are averages too. */
  readonly isAveraged: boolean;
  /** Whether after holds mean 0 and variance 1 in every channel. */
  readonly isInitial: boolean;
  /** Null where the layer has no count, or none that can be relied on. */
  readonly before: BatchCount | null;
  readonly after: BatchCount | null;
  /** PyTorch's momentum; null where the file does not tell. */
  readonly momentum: number | 'cumulative' | null;
}

/** What statistics and counts tell; null where they tell nothing. */
export function decideCause(evidence: CauseEvidence): DriftCause | null {
  const { haveStatisticsMoved, isInitial, isAveraged, before, after, momentum } = evidence;
  if (haveStatisticsMoved && isInitial) return { kind: 'reset' };
  if (before === null || after === null) return null;
  const rose = after > before;
  if (!haveStatisticsMoved) {
    if (before === after) return null;
    return { kind: rose && !isAverage(before) && !isAverage(after) ? 'batch-statistics' : 'recounted' };
  }
  if (isAverage(after)) return { kind: 'averaged', side: 'after', count: after, rose };
  if (isAverage(before)) return { kind: 'averaged', side: 'before', count: before, rose };
  if (rose) return { kind: 'training-mode', old: isAveraged ? null : findOldShare(before, after, momentum) };
  // A layer that was made anew around copied statistics starts to count at 0.
  if (after !== before && after !== 0n) return { kind: 're-estimated' };
  return { kind: isAveraged ? 'ema' : 'uncounted' };
}

function isAverage(count: BatchCount): count is number {
  return typeof count === 'number';
}

/** torch.nn.modules.batchnorm._NormBase: a state dict does not hold the momentum, and few models change it. */
const DEFAULT_MOMENTUM = 0.1;

function findOldShare(before: bigint, after: bigint, known: CauseEvidence['momentum']): OldShare | null {
  const momentum = known ?? DEFAULT_MOMENTUM;
  const momentumFrom = known === null ? 'default' : 'module';
  if (momentum === 'cumulative') return { share: Number(before) / Number(after), momentum, momentumFrom };
  // With momentum 0 nothing would have moved: it is not the one of the training.
  if (!(momentum > 0 && momentum <= 1)) return null;
  return { share: (1 - momentum) ** Number(after - before), momentum, momentumFrom };
}

/** What told what feeds a layer; `unknown` where names leave it open, or what feeds it could not be compared. */
export type NeighboursFrom = 'graph' | 'names' | 'unknown';

/** How two sides of something learned relate, and the largest difference that counted as rounding; 0 where none did. */
interface GradedRelation {
  readonly relation: Relation;
  readonly relativeDifference: number;
}

/** What is known to feed a layer, and how much of the checkpoint's rounding the layer's own affine may show. */
interface KnownFeeds extends GradedRelation {
  /** Null where nothing was rounded, or what feeds the layer stayed to the last bit: what differs then was trained. */
  readonly rounding: RoundingEvidence | null;
  /** Whether all that is known to feed the layer cannot be compared. */
  readonly isIncomparable: boolean;
}

interface Feeds extends KnownFeeds {
  readonly neighboursFrom: NeighboursFrom;
  /** Whether each side tells another feed, of which one was trained and the other was not. */
  readonly isDisputed: boolean;
}

/** What feeds the norm layers of two checkpoints, before against after. */
export class NeighbourRelations {
  readonly #learned: LearnedComparisons;
  /** Layers whose feed may be anything share one list, which is as long as the file. */
  readonly #known = new Map<readonly string[], KnownFeeds>();

  constructor(learned: LearnedComparisons) {
    this.#learned = learned;
  }

  /**
   * A graph knows what feeds a layer, on either side; names tell it, or leave it open. Which side is before makes no
   * difference: where both know equally well and disagree, the order of one file's modules is not that of the model.
   */
  of({ before, after }: { readonly before: NormLayer; readonly after: NormLayer }): Feeds {
    const { byBefore, byAfter } = this.#learned;
    const sides = [
      { layer: before, rank: rankEvidence(before), feeds: this.#relate(before, byBefore) },
      { layer: after, rank: rankEvidence(after), feeds: this.#relate(after, byAfter) },
    ] as const;
    const told = sides.filter(({ feeds }) => feeds.relation !== 'none');
    const rank = Math.min(...told.map((side) => side.rank));
    const [one, other = one] = told.filter((side) => side.rank === rank);
    if (one !== undefined && other !== undefined) {
      const isFromGraph = rank === 0;
      const isDisputed = one.feeds.relation !== other.feeds.relation && !isFromGraph;
      const neighboursFrom = isDisputed ? 'unknown' : isFromGraph ? 'graph' : 'names';
      return { ...join(one.feeds, other.feeds, isDisputed), neighboursFrom, isDisputed };
    }
    const { feeds } = sides.find(({ feeds: { isIncomparable } }) => isIncomparable) ?? sides[0];
    const isUnfed = sides.some(({ layer }) => layer.isFromGraph && layer.neighbours.length === 0);
    return { ...feeds, neighboursFrom: isUnfed ? 'graph' : 'unknown', isDisputed: false };
  }

  #relate(layer: NormLayer, compared: LearnedComparisons['byBefore']): KnownFeeds {
    return getOrMake(this.#known, layer.neighbours, () => this.#compare(layer, compared));
  }

  #compare(
    { neighbours, areNeighboursCertain }: NormLayer,
    compared: LearnedComparisons['byBefore'],
  ): KnownFeeds {
    const found = neighbours
      .flatMap((name) => compared.get(name) ?? [])
      .map((feed) => (isAdapted(feed, this.#learned) ? { ...feed, equality: 'changed' as const } : feed));
    const rounded = found.filter(({ equality }) => equality === 'rounded');
    const exact = found.filter(({ equality }) => equality === 'exact');
    const exactCount = exact.reduce((sum, { elementCount }) => sum + elementCount, 0);
    const relativeDifference = rounded.reduce(
      (most, { rounding }) => Math.max(most, rounding?.relativeDifference ?? 0),
      0,
    );
    // An average leaves most values as they were: of a few, all may have stayed.
    const haveStayedExactly = rounded.length === 0 && exactCount >= MIN_VALUES;
    return {
      relation: areNeighboursCertain === false ? findCommonRelation(found) : relate(found),
      relativeDifference,
      rounding: haveStayedExactly ? null : this.#learned.rounding,
      isIncomparable: found.length > 0 && found.every(({ equality }) => equality === 'incomparable'),
    };
  }
}

/** What two sides tell together; graphs that differ feed the layer by something else, which is a change. */
function join(one: KnownFeeds, other: KnownFeeds, isDisputed: boolean): KnownFeeds {
  const isChanged = one.relation === 'changed' || other.relation === 'changed';
  return {
    relation: isDisputed ? 'none' : isChanged ? 'changed' : 'equal',
    relativeDifference: Math.max(one.relativeDifference, other.relativeDifference),
    rounding: one.rounding === null ? null : other.rounding,
    isIncomparable: false,
  };
}

/** The lower, the better. */
function rankEvidence({ isFromGraph, areNeighboursCertain }: NormLayer): number {
  if (isFromGraph) return 0;
  return areNeighboursCertain === false ? 2 : 1;
}

function relate(found: readonly LearnedComparison[]): Relation {
  if (found.some(({ equality }) => equality === 'changed')) return 'changed';
  return found.some(isUnchanged) ? 'equal' : 'none';
}

/** What is true of every module that may feed a layer; `none` where some were trained and others were not. */
function findCommonRelation(found: readonly LearnedComparison[]): Relation {
  const byModule = new Map<string, LearnedComparison[]>();
  for (const comparison of found) addTo(byModule, splitPath(comparison.name)[0], comparison);
  const relations = new Set([...byModule.values()].map(relate));
  const [only] = relations;
  return only !== undefined && relations.size === 1 ? only : 'none';
}

/** Where an epsilon comes from; `weights`: it alone explains those that the layer was folded into. */
export type EpsilonFrom = 'graph' | 'default' | 'option' | 'weights';

/** One side's statistics per channel. */
export interface ChannelStatistics {
  readonly mean: readonly number[];
  readonly variance: readonly number[];
}

interface ChannelDrift {
  readonly before: ChannelStatistics;
  readonly after: ChannelStatistics;
  /** σB / σA. */
  readonly stdRatio: readonly number[];
}

/** A norm layer of both checkpoints, compared; `kind` says how the statistics are known. */
export type LayerComparison = LiveComparison | RecoveredComparison | FoldedComparison | MergedComparison;

interface ComparedPair extends LayerPair {
  /** The name that reports show, by {@link chooseLayerName}. */
  readonly name: string;
  readonly status: LayerStatus;
  /** What is invalid or cannot be read; null for all other statuses. */
  readonly problem: string | null;
  readonly affine: Relation;
  readonly neighbours: Relation;
  /** How near what stayed is: to the last bit, or up to rounding; null where a learned tensor of the layer changed. */
  readonly equality: 'exact' | 'rounded' | null;
  /** The largest abs(after − before) / abs(before) that counted as rounding; 0 where nothing was rounded. */
  readonly relativeDifference: number;
  readonly channels: number;
  readonly epsilon: number;
  readonly epsilonFrom: EpsilonFrom;
}

/** How far statistics moved that are known on both sides. */
export interface Drift {
  readonly channelsMoved: number;
  readonly measures: Measures;
  /** Null where it was not asked for. */
  readonly perChannel: ChannelDrift | null;
}

/** Both files hold the layer's statistics. */
export interface LiveComparison extends ComparedPair {
  readonly kind: 'live';
  /** Null where a side's statistics cannot be read: the layer is unresolved. */
  readonly drift: Drift | null;
  readonly neighboursFrom: NeighboursFrom;
  /** After's own epsilon, where both files tell theirs and the two differ; the measures use before's. */
  readonly epsilonAfter?: number | undefined;
  /** Batch count of after less that of before; null where either has none, or an average. */
  readonly batches: bigint | null;
  /** What statistics and counts together tell of the layer's past; null where they tell nothing. */
  readonly cause: DriftCause | null;
  /** Whether after holds initial values and before does not, under an affine that was trained. */
  readonly isReset: boolean;
}

/** The least and the most that something may be. */
export interface Bounds<Value> {
  readonly low: Value;
  readonly high: Value;
}

/** What measures may be where weights are quantised: each code stands for an interval. */
export interface MeasureBounds {
  /** σB / σA per channel; infinite where nothing bounds it. */
  readonly stdRatio: Bounds<Float64Array>;
  readonly logStdRatio: { readonly [Name in keyof RmsAndMax]: Bounds<number> };
}

interface FoldedAway {
  /** Absent where no weight is quantised, and where there is nothing to measure. */
  readonly bounds?: MeasureBounds | undefined;
  /** Channels whose statistics folding hides, so that they were not audited. */
  readonly channelsHidden: number;
  /** Whether one factor explains every channel, as weight decay or rescaling would. */
  readonly isUniformScale: boolean;
}

/** One file holds the layer's statistics; those of the other are solved for, from what it was folded into. */
export interface RecoveredComparison extends ComparedPair, FoldedAway {
  readonly kind: 'recovered';
  /** Null where nothing can be solved for: the convolution was trained, or a side is no number. */
  readonly drift: Drift | null;
  /** The convolution of the side that has the layer unfolded, and that of the other. */
  readonly liveLinear: LinearLayer;
  readonly foldedLinear: LinearLayer;
  /** As {@link FoldedComparison.weightFactor}, of the folded side's weights over the other's. */
  readonly weightFactor: number | null;
}

/** The kind of a layer of which no file tells whether it hides a norm layer. */
export const UNMARKED_KIND = 'convolution with bias';

/** How far spreads moved whose means cannot be told. */
interface SpreadDrift {
  readonly channelsMoved: number;
  /** abs(ln(σB / σA)), in nats. */
  readonly logStdRatio: RmsAndMax;
  /** σB / σA per channel; null where it was not asked for. */
  readonly stdRatio: readonly number[] | null;
}

/** One file holds the layer's statistics; the other has merged the layer with the parallel branches of its block. */
export interface MergedComparison extends ComparedPair, FoldedAway {
  readonly kind: 'merged';
  /** Null where a convolution of the block was trained, or a side is no number. */
  readonly drift: SpreadDrift | null;
  readonly block: MergedInto;
}

/** What the branches of a block were merged into, and what is known of them together. */
export interface MergedInto {
  /** The module path of the merged convolution. */
  readonly name: string;
  /** How many norm layers were merged into it. */
  readonly branches: number;
  /** How far the block's output moved because means did, in its standard deviations; null where that cannot be told. */
  readonly meanShift: RmsAndMax | null;
}

/** Both files have folded the layer away: only factors between the channels of two convolutions are known. */
export interface FoldedComparison extends ComparedPair, FoldedAway {
  readonly kind: 'folded';
  /** Null where the convolution was trained, or a side is no number. */
  readonly drift: SpreadDrift | null;
  readonly beforeLinear: LinearLayer;
  readonly afterLinear: LinearLayer;
  /**
   * What after's weights are of before's by a constant that was moved into them from the data in front; null where none tells
   * whether one was.
   */
  readonly weightFactor: number | null;
  /** What a layer scale that one side has folded in makes of before's channels in after; null without one. */
  readonly gain: Float64Array | null;
  /** Whether neither file says that there was a norm layer: it may be an ordinary convolution with a bias. */
  readonly isUnmarked: boolean;
}

/** Whether no file tells that there was a norm layer: as {@link FoldedComparison.isUnmarked}. */
export function isUnmarked(layer: LayerComparison): layer is FoldedComparison {
  return layer.kind === 'folded' && layer.isUnmarked;
}

/** The measures of a layer whose statistics are known on both sides; null for all others. */
export function measuresOf(layer: LayerComparison): Measures | null {
  return layer.drift !== null && 'measures' in layer.drift ? layer.drift.measures : null;
}

/** The spread that moved, where that is known: of folded layers it is the only measure. */
export function logStdRatioOf(layer: LayerComparison): RmsAndMax | null {
  const { drift } = layer;
  return drift === null ? null : 'measures' in drift ? drift.measures.logStdRatio : drift.logStdRatio;
}

/** How reports tell the kinds apart: whether folding came between the files and the statistics. */
export function viaOf({ kind }: Pick<LayerComparison, 'kind'>): 'live' | 'folded' {
  return kind === 'live' ? 'live' : 'folded';
}

/** How layers are compared. */
export interface LayerOptions {
  /** Overrides every layer's own epsilon. */
  readonly epsilon?: number | undefined;
  readonly keepChannels: boolean;
}

/**
 * Plans to compare pairs of norm layers, their statistics, affine and counts: a work for each, by the place of its
 * statistics in before's file. Once all are done, `conclude` says what they found, in the order of the pairs, beside what
 * the learned tensors say.
 */
export function planLayerComparisons(
  pairs: readonly LayerPair[],
  options: LayerOptions,
): {
  readonly works: readonly FileWork[];
  readonly conclude: (learned: LearnedComparisons) => readonly LiveComparison[];
} {
  const readings = new Map<LayerPair, LayerReading>();
  return {
    works: pairs.map((pair) => ({
      range: storedTensorOf(pair.before.mean)?.range ?? null,
      run: async () => {
        readings.set(pair, await readLayers(pair));
      },
    })),
    conclude: (learned) => {
      const relations = new NeighbourRelations(learned);
      return pairs.map((pair) => {
        const reading = readings.get(pair);
        if (reading === undefined) throw new Error(`${pair.before.name} is still to be compared`);
        // What is concluded takes its place in memory.
        readings.delete(pair);
        const { rounding } = learned;
        return concludeLayers(pair, reading, { feeds: relations.of(pair), rounding, options });
      });
    },
  };
}

interface LayerReading {
  readonly counts: BatchCounts;
  /** Steps of quantisation within which γ and β may be what they were; null where none is quantised, or they may not. */
  readonly steps: Readonly<Record<'gamma' | 'beta', number | null>>;
  readonly before: LayerVectors;
  readonly after: LayerVectors;
}

async function readLayers({ before, after }: LayerPair): Promise<LayerReading> {
  return {
    counts: { before: await readBatchCount(before), after: await readBatchCount(after) },
    steps: {
      gamma: await findAffineStep(before.gamma, after.gamma),
      beta: await findAffineStep(before.beta, after.beta),
    },
    before: await readVectors(before),
    after: await readVectors(after),
  };
}

async function findAffineStep(before: LayerVector | null, after: LayerVector | null): Promise<number | null> {
  const [one, other] = [storedTensorOf(before), storedTensorOf(after)];
  return one !== null && other !== null && one.elementCount === other.elementCount && areBoundable(one, other)
    ? findCommonStep(one, other)
    : null;
}

const UNQUANTISED: LayerReading['steps'] = { gamma: null, beta: null };

interface LayerContext {
  readonly feeds: Feeds;
  readonly rounding: RoundingEvidence | null;
  readonly options: LayerOptions;
}

function concludeLayers(
  pair: LayerPair,
  { counts, steps, before, after }: LayerReading,
  { feeds, rounding, options }: LayerContext,
): LiveComparison {
  // Without evidence of rounding all differences count.
  const affine = compareAffine(before, after, { feeds, steps: rounding === null ? UNQUANTISED : steps });
  const [unread] = (['before', 'after'] as const).flatMap((side) => {
    const reason = whyUnresolved(pair[side]);
    return reason === null ? [] : [`in ${side}, ${reason}`];
  });
  const { epsilon, epsilonFrom } = chooseEpsilon(pair.before, pair.after, options.epsilon);
  const judged: StatisticsVerdict =
    hasStatistics(before) && hasStatistics(after)
      ? judgeStatistics(pair, { before, after }, { counts, affine, feeds, rounding, epsilon, options })
      : { status: 'unresolved', problem: unread ?? null, ...UNTOLD };
  const relativeDifference = Math.max(...[affine, feeds, judged].map((graded) => graded.relativeDifference));
  const isChanged = affine.relation === 'changed' || feeds.relation === 'changed';
  const [one, other] = [pair.before.epsilon, pair.after.epsilon];
  // Every property by its name: each object that is spread into another makes the engine keep a layout of its own.
  return {
    kind: 'live',
    name: chooseLayerName(pair),
    before: pair.before,
    after: feeds.isDisputed ? addNote(pair.after, DISPUTE_NOTE) : pair.after,
    pairedBy: pair.pairedBy,
    status: judged.status,
    problem: judged.problem,
    drift: judged.drift,
    affine: affine.relation,
    neighbours: feeds.relation,
    neighboursFrom: feeds.neighboursFrom,
    equality: isChanged ? null : relativeDifference > 0 ? 'rounded' : 'exact',
    relativeDifference: isChanged ? 0 : relativeDifference,
    channels: pair.before.channels || pair.after.channels,
    epsilon,
    epsilonFrom,
    // Graphs store an epsilon as float32, modules as float64: what is the same in float32 is the same.
    epsilonAfter:
      one === null || other === null || Math.fround(one) === Math.fround(other) ? undefined : other,
    batches:
      typeof counts.before === 'bigint' && typeof counts.after === 'bigint'
        ? counts.after - counts.before
        : null,
    cause: judged.cause,
    isReset: judged.isReset,
  };
}

interface StatisticsVerdict
  extends Pick<LiveComparison, 'status' | 'problem' | 'drift' | 'cause' | 'isReset'> {
  /** The largest relative difference of statistics that counted as rounding. */
  readonly relativeDifference: number;
}

const UNTOLD = { drift: null, isReset: false, cause: null, relativeDifference: 0 } as const;

function judgeStatistics(
  pair: LayerPair,
  { before, after }: Readonly<Record<'before' | 'after', StoredLayer>>,
  context: LayerContext & {
    readonly counts: BatchCounts;
    readonly affine: AffineComparison;
    readonly epsilon: number;
  },
): StatisticsVerdict {
  const { counts, affine, feeds, rounding, epsilon, options } = context;
  const { moved, relativeDifference } = findMovedChannels(before, after, rounding);
  const invalid = findInvalidValue(after);
  const haveStatisticsMoved = moved.includes(true);
  const isUntold = feeds.isIncomparable && affine.relation !== 'changed' && haveStatisticsMoved;
  const isInitial = areInitial(after);
  const drift: Drift = {
    channelsMoved: countTrue(moved),
    measures: measureDrift(before, after, { moved, gamma: after.gamma?.values ?? null, epsilon }),
    perChannel: options.keepChannels ? listChannels(before, after, epsilon) : null,
  };
  const isReset = isInitial && !areInitial(before) && affine.relation !== 'none' && !affine.isInitial;
  const told = { drift, isReset, relativeDifference };
  if (invalid !== null) return { ...told, status: 'invalid', problem: invalid, cause: null };
  if (isUntold) return { ...told, status: 'unresolved', problem: INCOMPARABLE_FEEDS, cause: null };
  const cause = decideCause({
    haveStatisticsMoved,
    isAveraged: (rounding?.averaged ?? 0) > 0,
    isInitial,
    before: counts.before,
    after: counts.after,
    momentum: findMomentum(pair),
  });
  const status = decideStatus({ ...affine, neighbours: feeds.relation, haveStatisticsMoved });
  return { ...told, status, problem: null, cause };
}

/** Statistics moved, and nothing says whether the weights that feed the layer did. */
const INCOMPARABLE_FEEDS =
  'its statistics moved, and what feeds it cannot be compared: computed of other tensors on one side alone (weight_norm), of a type that is not decoded, or known from a baseline without a sample of it (make the baseline again)';

/** The orders of two files cannot both be the model's. */
const DISPUTE_NOTE =
  'the order of modules in before and that in after each tell another tensor as what feeds it, of which one was trained and the other was not: what feeds it is left open';

/** What a layer with statistics stores per channel; γ and β are null without affine. */
export interface StoredLayer extends LayerVectors, Statistics {
  readonly mean: ChannelVector;
  readonly variance: ChannelVector;
}

/** What a norm layer stores per channel; null where it has none, or where it cannot be read. */
interface LayerVectors {
  readonly mean: ChannelVector | null;
  readonly variance: ChannelVector | null;
  readonly gamma: ChannelVector | null;
  readonly beta: ChannelVector | null;
}

async function readVectors(layer: NormLayer): Promise<LayerVectors> {
  const read = (vector: LayerVector | null) => readOptional(storedTensorOf(vector));
  // One after the other: they stand together in most files.
  return {
    mean: await read(layer.mean),
    variance: await read(layer.variance),
    gamma: await read(layer.gamma),
    beta: await read(layer.beta),
  };
}

/**
 * Reads what a layer stores per channel. Only for layers whose statistics are stored.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function readStoredLayer(layer: NormLayer): Promise<StoredLayer> {
  const vectors = await readVectors(layer);
  if (!hasStatistics(vectors)) throw new Error('statistics that are not stored were read');
  return vectors;
}

function hasStatistics(vectors: LayerVectors): vectors is StoredLayer {
  return vectors.mean !== null && vectors.variance !== null;
}

/** Both sides' statistics per channel, in the form of reports. */
export function listChannels(before: Statistics, after: Statistics, epsilon: number): ChannelDrift {
  const list = ({ mean, variance }: Statistics) => ({
    mean: [...mean.values],
    variance: [...variance.values],
  });
  return { before: list(before), after: list(after), stdRatio: findStdRatios(before, after, epsilon) };
}

/** With whether γ = 1 and β = 0 in every channel of after: what a layer starts with. */
type AffineComparison = GradedRelation & { readonly isInitial: boolean };

function compareAffine(
  before: LayerVectors,
  after: LayerVectors,
  { feeds, steps }: Pick<LayerContext, 'feeds'> & Pick<LayerReading, 'steps'>,
): AffineComparison {
  const isInitial = isConstant(after.gamma, 1) && isConstant(after.beta, 0);
  const wasInitial = isConstant(before.gamma, 1) && isConstant(before.beta, 0);
  // Exporters write ones and zeros for a layer without affine, so an absent affine equals an initial one.
  if ([before, after].some(({ gamma, beta }) => gamma === null && beta === null))
    return { isInitial, relation: wasInitial && isInitial ? 'none' : 'changed', relativeDifference: 0 };
  const gamma = measureRounding(before.gamma, after.gamma, { absent: 1, feeds, step: steps.gamma });
  const beta = measureRounding(before.beta, after.beta, { absent: 0, feeds, step: steps.beta });
  return gamma === null || beta === null
    ? { isInitial, relation: 'changed', relativeDifference: 0 }
    : { isInitial, relation: 'equal', relativeDifference: Math.max(gamma, beta) };
}

function isConstant(vector: ChannelVector | null, constant: number): boolean {
  return vector === null || vector.values.every((value) => value === constant);
}

/** The largest relative difference of two vectors that are equal up to rounding, 0 where exactly; null if they are not. */
function measureRounding(
  left: ChannelVector | null,
  right: ChannelVector | null,
  { absent, feeds, step }: { absent: number; feeds: Feeds; step: number | null },
): number | null {
  if (left === null || right === null)
    return isConstant(left, absent) && isConstant(right, absent) ? 0 : null;
  if (haveEqualValues(left, right)) return 0;
  if (step !== null) return step;
  return feeds.rounding === null ? null : compareRounded(left, right, feeds.rounding);
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

type BatchCounts = Pick<CauseEvidence, 'before' | 'after'>;

/** PyTorch's momentum, of the layer that was trained last. A graph's is the share of the old value, and has no count. */
function findMomentum({ before, after }: Pick<LayerPair, 'before' | 'after'>): CauseEvidence['momentum'] {
  const [known = null] = [after, before].flatMap(({ isFromGraph, momentum }) =>
    isFromGraph ? [] : (momentum ?? []),
  );
  return known;
}

/**
 * A layer's `num_batches_tracked`: exactly where it is whole, with its fraction where counts were averaged; null where it
 * has none, or one that its type has rounded.
 */
export async function readBatchCount({ batchCount }: NormLayer): Promise<BatchCount | null> {
  if (batchCount?.kind !== 'stored') return null;
  const { dtype, range } = batchCount.tensor;
  const bytes = await readRange(range);
  if (isFloatingPoint(dtype)) {
    const [value = Number.NaN] = decodeFloats(bytes, dtype);
    // Beyond 2048 float16 holds every second number only: a count would be off by a few.
    if (!(Math.abs(value) <= 2 ** (significandBitsOf(dtype) + 1))) return null;
    return Number.isInteger(value) ? BigInt(value) : value;
  }
  let bits = 0n;
  for (const byte of bytes.toReversed()) bits = (bits << 8n) | BigInt(byte);
  return dtype.startsWith('I') ? BigInt.asIntN(bitsOf(dtype), bits) : bits;
}
