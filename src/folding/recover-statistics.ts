// Solves a folded convolution for the running statistics, and says which ε was used.

import { readStoredLayer, type StoredLayer } from '../compare/compare-layers.js';
import type { ProportionalScales } from '../compare/projected-scales.js';
import { roundingUncertainty, roundoffOf } from '../compare/rounding.js';
import { type ChannelVector, readOptional, type Statistics } from '../compare/statistics.js';
import type { LinearLayer, NormLayer } from '../norm/norm-layer.js';
import { halfWidthOf, isTooWide, leastDriftOf, readBiasSteps } from './channel-scales.js';

/** How one layer's recovered variances differ from those of its named side, whose epsilon was assumed. */
export interface EpsilonEvidence {
  readonly assumed: number;
  /** Per visible channel: v + ε recovered less v + ε of the named side. */
  readonly offsets: readonly number[];
  /** Per visible channel: the largest offset that rounding explains. */
  readonly tolerances: readonly number[];
  /** Whether some epsilon leaves the layer unmoved. */
  readonly isExplained: boolean;
  /** Whether drift may look so as well; absent: no. */
  readonly isUncertain?: boolean;
}

/**
 * Epsilons that models are built with, the commonest first: PyTorch's default; TensorFlow's, Keras' and YOLO's; MXNet's and
 * Chainer's ResNets'; those of older ports; Darknet's; and the largest in use. No other is looked for in one layer alone:
 * any uniform change of a variance could be explained by an epsilon that nobody chooses.
 */
const USUAL_EPSILONS = [1e-5, 1e-3, 2e-5, 1e-4, 1e-6, 1e-2];

/** A layer is taken for unmoved where drift would look so by chance less often than this. */
const MAX_CHANCE = 1e-3;

/** An epsilon that explains what looks like drift of one layer. */
interface OwnEpsilon {
  readonly epsilon: number;
  /** Whether drift would hardly look so: the layer's channels are many or sharp enough. */
  readonly isCertain: boolean;
}

/**
 * The usual epsilon that explains a layer whose variances seem to have moved: all are off by what it differs from the
 * assumed one, to rounding. Models may mix epsilons, such as a backbone of TensorFlow's with a head of PyTorch's.
 *
 * @returns null where none does.
 */
export function findOwnEpsilon({
  assumed,
  offsets,
  tolerances,
}: Pick<EpsilonEvidence, 'assumed' | 'offsets' | 'tolerances'>): OwnEpsilon | null {
  const toleranceOf = (channel: number) => tolerances[channel] ?? 0;
  for (const epsilon of USUAL_EPSILONS) {
    const shift = epsilon - assumed;
    if (epsilon === assumed || !offsets.every((offset, i) => Math.abs(offset - shift) <= toleranceOf(i)))
      continue;
    return { epsilon, isCertain: chanceOf({ offsets, tolerances }, shift) <= MAX_CHANCE };
  }
  return null;
}

/** Drift of the size of a shift lies anywhere within it; how much of that the tolerance covers, channel by channel. */
function chanceOf(
  { offsets, tolerances }: Pick<EpsilonEvidence, 'offsets' | 'tolerances'>,
  shift: number,
): number {
  return offsets.reduce(
    (product, _, i) => product * Math.min(1, (2 * (tolerances[i] ?? 0)) / Math.abs(shift)),
    1,
  );
}

/** An epsilon that explains what looks like drift of many layers. */
interface CommonEpsilon {
  readonly assumed: number;
  readonly actual: number;
  readonly layers: number;
  /** Whether it is a usual one, and explains all layers, which drift would not. */
  readonly isCertain: boolean;
}

/** Fewer channels may be explained by chance. */
const MIN_CHANNELS = 3;

/**
 * The epsilon that explains the recovered variances of at least half the layers, when the assumed one does not.
 *
 * With a wrong epsilon every channel's variance comes out off by the same amount, ε − ε assumed; drift moves every
 * channel by an amount of its own.
 *
 * @returns null when the assumed epsilon is right, when each layer has one that explains it for certain, or when no single offset
 *   explains the layers.
 */
export function findCommonOffset(evidence: readonly EpsilonEvidence[]): CommonEpsilon | null {
  const [first] = evidence;
  if (first === undefined) return null;
  const areExplained = evidence.every(({ isExplained }) => isExplained);
  if (areExplained && !evidence.some(({ isUncertain }) => isUncertain)) return null;
  const offset = findSharpestOffset(evidence);
  const listExplained = (shift: number) =>
    evidence.filter(({ offsets, tolerances }) =>
      offsets.every((found, channel) => Math.abs(found - shift) <= 2 * (tolerances[channel] ?? 0)),
    );
  const explains = (shift: number) => listExplained(shift).length;
  const found = Number((first.assumed + offset).toPrecision(2));
  // Where rounding leaves it open, a usual one.
  const usual = USUAL_EPSILONS.find(
    (epsilon) => explains(epsilon - first.assumed) >= explains(found - first.assumed),
  );
  const actual = usual ?? found;
  const shift = actual - first.assumed;
  const explained = listExplained(shift);
  const layers = explained.length;
  if (actual <= 0 || shift === 0 || layers * 2 < evidence.length || layers <= explains(0)) return null;
  // Channels of variances so large that rounding hides the shift fit any.
  const telling = explained.flatMap(({ tolerances }) =>
    tolerances.filter((tolerance) => 2 * tolerance < Math.abs(shift)),
  );
  if (telling.length < MIN_CHANNELS) return null;
  // What quantisation leaves open explains a small shift in any layer.
  const chance = explained.reduce((product, each) => product * chanceOf(each, shift), 1);
  const isCertain = actual === usual && layers === evidence.length;
  if (chance > MAX_CHANCE || (areExplained && !isCertain)) return null;
  return { assumed: first.assumed, actual, layers, isCertain };
}

/** The median offset of the channels whose rounding blurs it least: small variances show epsilon most sharply. */
function findSharpestOffset(evidence: readonly EpsilonEvidence[]): number {
  const channels = evidence.flatMap(({ offsets, tolerances }) =>
    offsets.map((offset, channel) => ({
      offset,
      tolerance: tolerances[channel] ?? Number.POSITIVE_INFINITY,
    })),
  );
  const sharpest = channels
    .sort((x, y) => x.tolerance - y.tolerance)
    .slice(0, Math.max(MIN_CHANNELS, channels.length / 2));
  const offsets = sharpest.map(({ offset }) => offset).sort((x, y) => x - y);
  return offsets[Math.floor(offsets.length / 2)] ?? 0;
}

/**
 * How many times the propagated rounding a channel must differ to count as moved. A real float32 model recovers its
 * variance to 3e-7 relative and its mean to 3e-7 σ; with this factor the bound lies near 1e-5 for both.
 */
export const SAFETY = 16;

/** float32 roundings that an exporter makes on the way to a folded scale and bias. */
export const FOLDING_ROUNDINGS = 4 * 2 ** -24;

/** A mean that rounding blurs by more than this many σ says nothing about drift. */
export const MAX_MEAN_UNCERTAINTY = 0.05;

/** One channel of the folded side, and how far it is from the live one. */
export interface SolvedChannel {
  readonly mean: number;
  readonly variance: number;
  /** v + ε recovered less v + ε of the live side: what a wrong epsilon would shift alike in every channel. */
  readonly varianceOffset: number;
  /** The largest offset that rounding explains. */
  readonly varianceTolerance: number;
  /** Whether it differs from the live statistics by more than rounding allows. */
  readonly isMoved: boolean;
  /** Whether its variance does. */
  readonly isSpreadMoved: boolean;
  /** Whether it differs, if only by less than half a step of quantisation beyond that. */
  readonly isHinted: boolean;
  /** Whether it cannot be solved for: γ is zero, or so near that rounding hides the statistics. */
  readonly isHidden: boolean;
  /** Whether its scale has the other sign than γ: no variance explains that, a trained γ does. */
  readonly isContradicted: boolean;
  /** Whether its scale is zero though γ is not: an infinite variance, or a γ trained to zero. Hidden, too. */
  readonly hasVanished: boolean;
}

interface FoldingFacts {
  readonly compared: ProportionalScales;
  readonly epsilon: number;
  /** What the side holds that has the statistics. */
  readonly held: StoredLayer;
  /** The convolution's own bias, and the one that folding wrote; null without. */
  readonly bias: ChannelVector | null;
  readonly foldedBias: ChannelVector | null;
  /** Half the relative distance between neighbouring values of the folded bias. */
  readonly biasRoundoff: number;
  /** What quantisation leaves open of either bias, by channel. */
  readonly biasSteps: Readonly<Record<'live' | 'folded', (channel: number) => number>>;
}

/**
 * Solves folding for the folded side's statistics. Folding a norm layer into the convolution before it writes
 *
 *     s = γ / √(v + ε),   W′ = s · W,   b′ = β + s · (b − μ),
 *
 * so with W, b, γ, β known from the live side and s measured as W′ / W:
 *
 *     v = (γ / s)² − ε,   μ = b − (b′ − β) / s.
 *
 * A γ or β that was trained on its own leaves the same traces as moved statistics; nothing in the files tells them
 * apart.
 */
function solveChannel(facts: FoldingFacts, channel: number): SolvedChannel {
  const { compared, epsilon, held, biasSteps } = facts;
  const at = (vector: ChannelVector | null, absent: number) => vector?.values[channel] ?? absent;
  const [meanBefore, varianceBefore] = [at(held.mean, Number.NaN), at(held.variance, Number.NaN)];
  const [gamma, beta, bias] = [at(held.gamma, 1), at(held.beta, 0), at(facts.bias, 0)];
  const foldedBias = at(facts.foldedBias, 0);
  const scale = compared.scales[channel] ?? Number.NaN;
  const step = leastDriftOf(compared.blur, channel);
  // In parts of the scale.
  const width = compared.blur === undefined ? 0 : halfWidthOf(compared.blur, channel) / Math.abs(scale);
  const liveStep = biasSteps.live(channel);
  const biasBlur = biasSteps.folded(channel) + Math.abs(liveStep === 0 ? 0 : scale * liveStep);
  const spreadBefore = varianceBefore + epsilon;
  const spread = (gamma / scale) ** 2;
  const mean = bias - (foldedBias - beta) / scale;
  const scaleTolerance = SAFETY * (FOLDING_ROUNDINGS + compared.uncertainty) + width;
  // b′ and β + s·(b − μ) are sums of these terms, each rounded.
  const terms =
    Math.abs(beta) + Math.abs(foldedBias) + Math.abs(scale) * (Math.abs(bias) + Math.abs(meanBefore));
  const biasTolerance =
    SAFETY * (FOLDING_ROUNDINGS + facts.biasRoundoff) * terms +
    (scaleTolerance / Math.max(1 - width, 0)) * Math.abs(foldedBias - beta) +
    biasBlur;
  // In σ: μ's error is b′'s over s, and σ is γ over s.
  const meanTolerance = biasTolerance / Math.abs(gamma);
  const isBlurred = !(meanTolerance <= MAX_MEAN_UNCERTAINTY);
  // A scale off by t makes a spread off by 2t, and by t² where t is not small.
  const varianceTolerance = (2 * scaleTolerance + width * width) * spreadBefore;
  const varianceOffset = spread - spreadBefore;
  const spreadExcess = Math.abs(varianceOffset) - varianceTolerance;
  const meanExcess = Math.abs(mean - meanBefore) - meanTolerance * Math.sqrt(spreadBefore);
  const isSpreadMoved = !(spreadExcess <= 2 * step * spreadBefore);
  const isMeanMoved = !(meanExcess <= step * Math.sqrt(spreadBefore));
  const isHidden =
    isBlurred || (isTooWide(compared, channel) && !isSpreadMoved) || scale === 0 || Number.isNaN(scale);
  return {
    mean,
    variance: spread - epsilon,
    varianceOffset,
    varianceTolerance,
    isMoved: !isHidden && (isSpreadMoved || isMeanMoved),
    isSpreadMoved: !isHidden && isSpreadMoved,
    isHinted: !isHidden && (spreadExcess > 0 || meanExcess > 0),
    isHidden,
    hasVanished: !isBlurred && scale === 0,
    isContradicted: !isHidden && Math.sign(scale) !== Math.sign(gamma),
  };
}

/** A norm layer that is live or named on one side and was folded away on the other. */
export interface FoldedAway {
  readonly layer: NormLayer;
  /** The convolution that feeds it, unfolded. */
  readonly live: LinearLayer;
  /** The convolution that it was folded into. */
  readonly folded: LinearLayer;
}

/** What folding shows of the folded side, beside what the other side holds. */
interface SolvedLayer {
  readonly held: Statistics;
  /** Of the side that holds the statistics; null without affine. */
  readonly gamma: ChannelVector | null;
  readonly solved: readonly SolvedChannel[];
  /** The folded side's, as solved. */
  readonly statistics: Statistics;
}

/**
 * Reads what folding is solved with and solves it for the folded side's statistics.
 *
 * @param scales of the folded weight over the live one.
 * @throws CheckpointError when a tensor cannot be read.
 */
export async function solveLayer(
  { layer, live, folded }: FoldedAway,
  compared: ProportionalScales,
  epsilon: number,
): Promise<SolvedLayer> {
  const biasSteps = { folded: await readBiasSteps(folded.bias), live: await readBiasSteps(live.bias) };
  const held = await readStoredLayer(layer);
  const facts: FoldingFacts = {
    compared,
    epsilon,
    held,
    bias: await readOptional(live.bias),
    foldedBias: await readOptional(folded.bias),
    biasRoundoff:
      folded.bias === null ? 0 : Math.max(roundoffOf(folded.bias), roundingUncertainty(compared.rounding)),
    biasSteps,
  };
  const solved = Array.from(compared.scales, (_, channel) => solveChannel(facts, channel));
  const toVector = (values: readonly number[]) =>
    ({ values: Float64Array.from(values), dtype: 'F64' }) as const;
  const statistics = {
    mean: toVector(solved.map(({ mean }) => mean)),
    variance: toVector(solved.map(({ variance }) => variance)),
  };
  return { held, gamma: held.gamma, solved, statistics };
}
