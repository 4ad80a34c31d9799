// Running means and variances as checked vectors, and the measures of their drift.

import type { Tensor } from '../checkpoint/checkpoint.js';
import { type DType, decodeFloats } from '../checkpoint/dtype.js';
import { readRange } from '../io/byte-source.js';
import { compareRounded, type RoundingEvidence, relativeDifferenceOf, SHORT_ALLOWANCE } from './rounding.js';
import { chooseValueTest } from './tensor-equality.js';

/** A vector of one value per channel, decoded to float64, with the type that it is stored in. */
export interface ChannelVector {
  readonly values: Float64Array;
  readonly dtype: DType;
}

/** One side's statistics of a norm layer; both vectors have one value per channel. */
export interface Statistics {
  readonly mean: ChannelVector;
  readonly variance: ChannelVector;
}

/** Root mean square and maximum over channels. */
export interface RmsAndMax {
  readonly rms: number;
  readonly max: number;
}

/** How far a layer's statistics moved; formulas and units in docs/measures.md. */
export interface Measures {
  /** abs(μB − μA) / σA, in standard deviations of before. */
  readonly meanShift: RmsAndMax;
  /** abs(ln(σB / σA)), in nats. */
  readonly logStdRatio: RmsAndMax;
  /** Mean over channels of the mean of the two Kullback–Leibler divergences between the Gaussians, in nats. */
  readonly divergence: number;
  /** How far the layer's output moves, relative to its own size, on data that follows the after statistics. */
  readonly outputShift: number;
}

/** Decodes a per-channel tensor whole. Its length was checked against a limit when the layer was found. */
export async function readChannelVector({ range, dtype }: Tensor): Promise<ChannelVector> {
  return { values: decodeFloats(await readRange(range), dtype), dtype };
}

/** A vector where there is one. */
export async function readOptional(tensor: Tensor | null): Promise<ChannelVector | null> {
  return tensor === null ? null : readChannelVector(tensor);
}

/** Whether two vectors hold the same values up to storage rounding; those of a frozen layer are alike to the last bit. */
export function haveEqualValues(left: ChannelVector, right: ChannelVector): boolean {
  const toBytes = ({ values: { buffer, byteOffset, byteLength } }: ChannelVector) =>
    new Uint8Array(buffer, byteOffset, byteLength);
  if (Buffer.compare(toBytes(left), toBytes(right)) === 0) return true;
  const isEqual = chooseValueTest(left.dtype, right.dtype);
  return left.values.every((value, channel) => isEqual(value, right.values[channel] ?? Number.NaN));
}

// A run sees each channel once, so much of these loops runs before the engine has compiled them. It compiles plain loops
// over few arrays sooner than callbacks and small objects for each value.

interface MovedChannels {
  readonly moved: readonly boolean[];
  /** Of the channels that count as unmoved; 0 where they are equal up to storage rounding. */
  readonly relativeDifference: number;
}

/**
 * Which channels moved: those whose mean or variance is not equal, up to storage rounding and up to the rounding that the
 * checkpoint's learned tensors show.
 *
 * @param rounding null where every difference counts.
 */
export function findMovedChannels(
  before: Statistics,
  after: Statistics,
  rounding: RoundingEvidence | null,
): MovedChannels {
  const moved = new Array<boolean>(before.mean.values.length).fill(false);
  const differences = [
    markMoved(moved, before.mean, after.mean, rounding),
    markMoved(moved, before.variance, after.variance, rounding),
  ];
  return { moved, relativeDifference: Math.max(...differences) };
}

/** Marks what moved; returns the largest relative difference of what differs and still did not. */
function markMoved(
  moved: boolean[],
  left: ChannelVector,
  right: ChannelVector,
  rounding: RoundingEvidence | null,
): number {
  if (haveEqualValues(left, right)) return 0;
  const rounded = rounding === null ? null : compareRounded(left, right, rounding);
  if (rounded !== null) return rounded;
  const isEqual = chooseValueTest(left.dtype, right.dtype);
  let largest = 0;
  for (let channel = 0; channel < moved.length; channel++) {
    const [x, y] = [left.values[channel] as number, right.values[channel] as number];
    if (isEqual(x, y)) continue;
    const difference = relativeDifferenceOf(x, y);
    if (difference <= SHORT_ALLOWANCE * (rounding?.averaged ?? 0)) largest = Math.max(largest, difference);
    else moved[channel] = true;
  }
  return largest;
}

/** How many of some flags are set. */
export function countTrue(flags: readonly boolean[]): number {
  let count = 0;
  for (let i = 0; i < flags.length; i++) if (flags[i] === true) count++;
  return count;
}

/** One side's statistics over channels. All of a vector is NaN where it holds a NaN. */
export interface StatisticsSummary {
  readonly mean: { readonly min: number; readonly max: number; readonly rms: number };
  /** No geometric mean where a value is negative. */
  readonly variance: { readonly min: number; readonly max: number; readonly geometricMean: number };
}

/** Summarises both vectors. */
export function summarizeStatistics({ mean, variance }: Statistics): StatisticsSummary {
  const meanOf = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return {
    mean: { ...findRange(mean.values), rms: Math.sqrt(meanOf(mean.values.map((value) => value * value))) },
    variance: {
      ...findRange(variance.values),
      geometricMean: Math.exp(meanOf(variance.values.map(Math.log))),
    },
  };
}

function findRange(values: Float64Array): { readonly min: number; readonly max: number } {
  let [min, max] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of values) {
    min = Math.min(min, value);
    max = Math.max(max, value);
  }
  return { min, max };
}

/** Why statistics are not valid: the first value that is NaN, infinite, or a negative variance; null when all are. */
export function findInvalidValue({ mean, variance }: Statistics): string | null {
  return (
    describeFirstOutside(mean.values, -Number.MAX_VALUE, 'the running mean') ??
    describeFirstOutside(variance.values, 0, 'the running variance')
  );
}

function describeFirstOutside(values: Float64Array, least: number, role: string): string | null {
  for (let channel = 0; channel < values.length; channel++) {
    const value = values[channel] ?? Number.NaN;
    if (value >= least && value <= Number.MAX_VALUE) continue;
    const what = Number.isNaN(value)
      ? 'NaN (not a number)'
      : `${value}: ${Number.isFinite(value) ? 'negative' : 'not finite'}`;
    return `${role} of channel ${channel} is ${what}`;
  }
  return null;
}

/**
 * Whether statistics are what a layer starts with: mean 0 and variance 1 in every channel. detectron2 starts its
 * variance at 1 − 1e-5, in float32.
 */
export function areInitial({ mean, variance }: Statistics): boolean {
  const detectron = Math.fround(1 - 1e-5);
  const first = variance.values[0];
  return (
    mean.values.length > 0 &&
    (first === 1 || first === detectron) &&
    mean.values.every((value) => value === 0) &&
    variance.values.every((value) => value === first)
  );
}

interface MeasureOptions {
  readonly moved: readonly boolean[];
  /** Channels that nothing is known of, which no measure counts. */
  readonly hidden?: readonly boolean[];
  /** Of after, one value per channel; null without affine, which counts as 1. */
  readonly gamma: Float64Array | null;
  readonly epsilon: number;
}

/**
 * The measures of design: σ = √(v + ε) in float64. Channels that did not move count as exactly unmoved, so that a
 * copy in a narrower type measures zero.
 */
export function measureDrift(
  before: Statistics,
  after: Statistics,
  { moved, hidden, gamma, epsilon }: MeasureOptions,
): Measures {
  const channels = moved.length - countTrue(hidden ?? []);
  const { values: meansBefore } = before.mean;
  const { values: meansAfter } = after.mean;
  const { values: variancesBefore } = before.variance;
  const { values: variancesAfter } = after.variance;
  let gammas = 0;
  let shifts = 0;
  let largestShift = 0;
  let logs = 0;
  let largestLog = 0;
  let divergences = 0;
  let outputs = 0;
  for (let channel = 0; channel < moved.length; channel++) {
    if (hidden?.[channel] === true) continue;
    const scale = gamma === null ? 1 : (gamma[channel] ?? 1);
    const weight = scale * scale;
    gammas += weight;
    if (moved[channel] !== true) continue;
    const varianceBefore = (variancesBefore[channel] as number) + epsilon;
    const varianceAfter = (variancesAfter[channel] as number) + epsilon;
    const deviationBefore = Math.sqrt(varianceBefore);
    const difference = (meansAfter[channel] as number) - (meansBefore[channel] as number);
    const shift = Math.abs(difference) / deviationBefore;
    const ratio = Math.sqrt(varianceAfter) / deviationBefore;
    const log = Math.abs(Math.log(ratio));
    const growth = ratio - 1;
    const square = difference * difference;
    shifts += shift * shift;
    logs += log * log;
    if (shift > largestShift) largestShift = shift;
    if (log > largestLog) largestLog = log;
    divergences += (varianceBefore + square) / varianceAfter + (varianceAfter + square) / varianceBefore - 2;
    outputs += weight * (shift * shift + growth * growth);
  }
  // No comparison is true of a NaN, but the sums keep it.
  return {
    meanShift: { rms: Math.sqrt(shifts / channels), max: Number.isNaN(shifts) ? shifts : largestShift },
    logStdRatio: { rms: Math.sqrt(logs / channels), max: Number.isNaN(logs) ? logs : largestLog },
    divergence: divergences / 4 / channels,
    outputShift: gammas === 0 ? 0 : Math.sqrt(outputs / gammas),
  };
}

/** σB / σA per channel. */
export function findStdRatios(before: Statistics, after: Statistics, epsilon: number): readonly number[] {
  const sigmas = ({ variance }: Statistics) =>
    [...variance.values].map((value) => Math.sqrt(value + epsilon));
  const others = sigmas(after);
  return sigmas(before).map((sigma, channel) => (others[channel] ?? Number.NaN) / sigma);
}

/** Root mean square and maximum of sizes, none of which is negative; 0 without any. */
export function measureSizes(sizes: Float64Array): RmsAndMax {
  let [squares, max] = [0, 0];
  for (let i = 0; i < sizes.length; i++) {
    const size = sizes[i] as number;
    squares += size * size;
    max = Math.max(max, size);
  }
  return { rms: Math.sqrt(squares / Math.max(1, sizes.length)), max };
}
