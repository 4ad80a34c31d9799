import type { Tensor } from '../checkpoint/checkpoint.js';
import { type DType, decodeFloats } from '../checkpoint/dtype.js';
import { readRange } from '../io/byte-source.js';
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

/**
 * How far a layer's statistics moved; formulas and units in docs/measures.md. Null where folding on both sides hides
 * what a measure needs.
 */
export interface Measures {
  /** abs(μB − μA) / σA, in standard deviations of before. */
  readonly meanShift: RmsAndMax | null;
  /** abs(ln(σB / σA)), in nats. */
  readonly logStdRatio: RmsAndMax;
  /** Mean over channels of the mean of the two Kullback–Leibler divergences between the Gaussians, in nats. */
  readonly divergence: number | null;
  /** How far the layer's output moves, relative to its own size, on data that follows the after statistics. */
  readonly outputShift: number | null;
}

/** Decodes a per-channel tensor whole. Its length was checked against a limit when the layer was found. */
export async function readChannelVector(tensor: Tensor): Promise<ChannelVector> {
  return { values: decodeFloats(await readRange(tensor.range), tensor.dtype), dtype: tensor.dtype };
}

/** Whether two vectors are alike to the last bit: quickly told, and true of every frozen one. */
export function haveSameBits({ values: one }: ChannelVector, { values: other }: ChannelVector): boolean {
  const toBytes = ({ buffer, byteOffset, byteLength }: Float64Array) =>
    new Uint8Array(buffer, byteOffset, byteLength);
  return Buffer.compare(toBytes(one), toBytes(other)) === 0;
}

/** Which channels moved: those whose mean or variance is not equal up to storage rounding. */
export function findMovedChannels(before: Statistics, after: Statistics): readonly boolean[] {
  const { length } = before.mean.values;
  if (haveSameBits(before.mean, after.mean) && haveSameBits(before.variance, after.variance))
    return new Array<boolean>(length).fill(false);
  const areMeansEqual = chooseValueTest(before.mean.dtype, after.mean.dtype);
  const areVariancesEqual = chooseValueTest(before.variance.dtype, after.variance.dtype);
  return Array.from(
    { length },
    (_, channel) =>
      !areMeansEqual(at(before.mean, channel), at(after.mean, channel)) ||
      !areVariancesEqual(at(before.variance, channel), at(after.variance, channel)),
  );
}

/** Why statistics are not valid: the first value that is NaN, infinite, or a negative variance; null when all are. */
export function findInvalidValue({ mean, variance }: Statistics): string | null {
  const describe = (role: string, value: number, channel: number) =>
    `${role} of channel ${channel} is ${describeValue(value)}`;
  for (const [role, vector] of [
    ['the running mean', mean],
    ['the running variance', variance],
  ] as const) {
    const channel = vector.values.findIndex(
      (value) => !Number.isFinite(value) || (vector === variance && value < 0),
    );
    if (channel >= 0) return describe(role, at(vector, channel), channel);
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

/**
 * The measures of design: σ = √(v + ε) in float64. Channels that did not move count as exactly unmoved, so that a
 * copy in a narrower type measures zero.
 *
 * @param gamma of after, one value per channel; null without affine, which counts as 1.
 */
export function measureDrift(
  before: Statistics,
  after: Statistics,
  {
    moved,
    hidden,
    gamma,
    epsilon,
  }: {
    moved: readonly boolean[];
    /** Channels that nothing is known of, which no measure counts. */
    hidden?: readonly boolean[];
    gamma: Float64Array | null;
    epsilon: number;
  },
): Measures {
  const channels = moved.length - (hidden?.filter(Boolean).length ?? 0);
  let [shifts, ratios, divergences, outputs, gammas] = [0, 0, 0, 0, 0];
  let [largestShift, largestRatio] = [0, 0];
  for (let channel = 0; channel < moved.length; channel++) {
    if (hidden?.[channel] === true) continue;
    const weight = (gamma?.[channel] ?? 1) ** 2;
    gammas += weight;
    if (moved[channel] !== true) continue;
    const varianceBefore = at(before.variance, channel) + epsilon;
    const varianceAfter = at(after.variance, channel) + epsilon;
    const difference = at(after.mean, channel) - at(before.mean, channel);
    const shift = Math.abs(difference) / Math.sqrt(varianceBefore);
    const stdRatio = Math.sqrt(varianceAfter) / Math.sqrt(varianceBefore);
    const ratio = Math.abs(Math.log(stdRatio));
    shifts += shift ** 2;
    ratios += ratio ** 2;
    // Math.max keeps a NaN.
    largestShift = Math.max(largestShift, shift);
    largestRatio = Math.max(largestRatio, ratio);
    divergences +=
      ((varianceBefore + difference ** 2) / varianceAfter +
        (varianceAfter + difference ** 2) / varianceBefore -
        2) /
      4;
    outputs += weight * (shift ** 2 + (stdRatio - 1) ** 2);
  }
  return {
    meanShift: { rms: Math.sqrt(shifts / channels), max: largestShift },
    logStdRatio: { rms: Math.sqrt(ratios / channels), max: largestRatio },
    divergence: divergences / channels,
    outputShift: gammas === 0 ? 0 : Math.sqrt(outputs / gammas),
  };
}

/** σB / σA per channel. */
export function findStdRatios(before: Statistics, after: Statistics, epsilon: number): readonly number[] {
  const sigma = (variance: ChannelVector, channel: number) => Math.sqrt(at(variance, channel) + epsilon);
  return Array.from(
    { length: before.variance.values.length },
    (_, channel) => sigma(after.variance, channel) / sigma(before.variance, channel),
  );
}

function at(vector: ChannelVector, channel: number): number {
  return vector.values[channel] ?? Number.NaN;
}

function describeValue(value: number): string {
  if (Number.isNaN(value)) return 'NaN (not a number)';
  return Number.isFinite(value) ? `${value}: negative` : `${value}: not finite`;
}
