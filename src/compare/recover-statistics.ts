import type { ChannelVector, Statistics } from './statistics.js';

/** What is known of the side whose norm layer is live or named, one value per channel. */
export interface LiveSide {
  readonly statistics: Statistics;
  /** Null without affine: γ = 1. */
  readonly gamma: ChannelVector | null;
  /** Null without affine: β = 0. */
  readonly beta: ChannelVector | null;
  /** The convolution's own bias; null without. */
  readonly bias: ChannelVector | null;
  readonly epsilon: number;
}

/** What is known of the side whose norm layer was folded into the convolution before it. */
export interface FoldedSide {
  /** The folded weight over the live one, per channel: s. NaN where the channel's weights are all zero. */
  readonly scales: Float64Array;
  /** Relative uncertainty of the scales. */
  readonly uncertainty: number;
  /** The folded bias b′; null stands for zeros. */
  readonly bias: ChannelVector | null;
  /** Half the relative distance between neighbouring values of the folded bias's type. */
  readonly biasRoundoff: number;
}

/** Statistics solved for, and how far each channel is from the live ones. */
export interface RecoveredStatistics {
  readonly statistics: Statistics;
  /** Whether each channel differs from the live statistics by more than rounding allows. */
  readonly moved: readonly boolean[];
  /** Channels that cannot be solved for: γ is zero, or so near that rounding hides the statistics. */
  readonly hidden: readonly boolean[];
  /** Channels whose scale is zero though γ is not: an infinite variance, or a γ trained to zero. Hidden, too. */
  readonly vanished: readonly boolean[];
  /** Channels whose scale has the other sign than γ: no variance explains that, a trained γ does. */
  readonly contradicted: readonly boolean[];
  /** v + ε recovered less v + ε of the live side, per channel: what a wrong epsilon would shift alike everywhere. */
  readonly varianceOffsets: Float64Array;
  /** The largest offset of each channel that rounding explains. */
  readonly varianceTolerances: Float64Array;
}

/**
 * How many times the propagated rounding a channel must differ to count as moved. A real float32 model recovers its
 * variance to 3e-7 relative and its mean to 3e-7 σ; with this factor the bound lies near 1e-5 for both.
 */
const SAFETY = 16;

/** float32 roundings that an exporter makes on the way to a folded scale and bias. */
const FOLDING_ROUNDINGS = 4 * 2 ** -24;

/** A mean that rounding blurs by more than this many σ says nothing about drift. */
const MAX_MEAN_UNCERTAINTY = 0.05;

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
export function recoverStatistics(live: LiveSide, folded: FoldedSide): RecoveredStatistics {
  const channels = folded.scales.length;
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  const varianceOffsets = new Float64Array(channels);
  const varianceTolerances = new Float64Array(channels);
  const [moved, hidden, contradicted]: [boolean[], boolean[], boolean[]] = [[], [], []];
  const vanished: boolean[] = [];
  for (let channel = 0; channel < channels; channel++) {
    const solved = solveChannel(channel, live, folded);
    mean[channel] = solved.mean;
    variance[channel] = solved.variance;
    varianceOffsets[channel] = solved.varianceOffset;
    varianceTolerances[channel] = solved.varianceTolerance;
    moved.push(solved.isMoved);
    hidden.push(solved.isHidden);
    contradicted.push(solved.isContradicted);
    vanished.push(solved.hasVanished);
  }
  const statistics: Statistics = {
    mean: { values: mean, dtype: 'F64' },
    variance: { values: variance, dtype: 'F64' },
  };
  return { statistics, moved, hidden, contradicted, vanished, varianceOffsets, varianceTolerances };
}

interface SolvedChannel {
  readonly mean: number;
  readonly variance: number;
  readonly varianceOffset: number;
  readonly varianceTolerance: number;
  readonly isMoved: boolean;
  readonly isHidden: boolean;
  readonly isContradicted: boolean;
  readonly hasVanished: boolean;
}

function solveChannel(channel: number, live: LiveSide, folded: FoldedSide): SolvedChannel {
  const at = (vector: ChannelVector | null, absent: number) => vector?.values[channel] ?? absent;
  const gamma = at(live.gamma, 1);
  const beta = at(live.beta, 0);
  const bias = at(live.bias, 0);
  const foldedBias = at(folded.bias, 0);
  const scale = folded.scales[channel] ?? Number.NaN;
  const meanBefore = at(live.statistics.mean, Number.NaN);
  const spreadBefore = at(live.statistics.variance, Number.NaN) + live.epsilon;
  const spread = (gamma / scale) ** 2;
  const mean = bias - (foldedBias - beta) / scale;
  const scaleTolerance = SAFETY * (FOLDING_ROUNDINGS + folded.uncertainty);
  // b′ and β + s·(b − μ) are sums of these terms, each rounded.
  const terms =
    Math.abs(beta) + Math.abs(foldedBias) + Math.abs(scale) * (Math.abs(bias) + Math.abs(meanBefore));
  const biasTolerance =
    SAFETY * (FOLDING_ROUNDINGS + folded.biasRoundoff) * terms + scaleTolerance * Math.abs(foldedBias - beta);
  // In σ: μ's error is b′'s over s, and σ is γ over s.
  const meanTolerance = biasTolerance / Math.abs(gamma);
  const isBlurred = !(meanTolerance <= MAX_MEAN_UNCERTAINTY);
  const isHidden = isBlurred || scale === 0 || Number.isNaN(scale);
  const varianceTolerance = 2 * scaleTolerance * spreadBefore;
  const varianceOffset = spread - spreadBefore;
  const isSpreadMoved = !(Math.abs(varianceOffset) <= varianceTolerance);
  const isMeanMoved = !(Math.abs(mean - meanBefore) <= meanTolerance * Math.sqrt(spreadBefore));
  return {
    mean,
    variance: spread - live.epsilon,
    varianceOffset,
    varianceTolerance,
    isMoved: !isHidden && (isSpreadMoved || isMeanMoved),
    isHidden,
    hasVanished: !isBlurred && scale === 0,
    isContradicted: !isHidden && Math.sign(scale) !== Math.sign(gamma),
  };
}
