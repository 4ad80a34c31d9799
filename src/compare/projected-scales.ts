// Compares a weight with one of which only a baseline's sums are known.

import {
  type ChannelLayout,
  type ChannelProjections,
  fitsShape,
  forEachRun,
  layOutChannels,
  MAX_COUNTED_WEIGHTS,
  PROJECTION_COUNT,
} from '../checkpoint/channel-grid.js';
import { readElements, type StoredProjections, type Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf, decodeFloats, quantumOf } from '../checkpoint/dtype.js';
import { sampledIndices, TensorSummarizer } from '../checkpoint/fingerprint.js';
import { type ByteRange, readRange } from '../io/byte-source.js';
import { addTo, getOrMake } from '../norm/naming.js';
import {
  FLOAT32_ROUNDOFF,
  MAX_RELATIVE_DIFFERENCE,
  type RoundedDifferences,
  RoundingJudge,
  type RoundingVerdict,
  roundingUncertainty,
  roundoffOf,
  type ShortDifferences,
  scaleToleranceOf,
} from './rounding.js';

/**
 * Whether each output channel of one weight is a constant times that of another.
 *
 * `proportional`: channel c of after is `scales[c]` times channel c of before, to the rounding of their types; NaN
 * where a channel is all zeros on both sides, which any scale explains. `short`: multiples if the checkpoint was averaged,
 * which so few weights do not tell. `not-finite`: some channel holds NaN or infinity, and no other proves a change.
 * `changed`: some channel is no multiple. `incomparable`: shapes or types leave nothing to compare.
 */
export type ScaleComparison =
  | {
      readonly kind: 'proportional';
      readonly scales: Float64Array;
      /**
       * The fewest weights other than zero in any channel that has some; where there is one, every change looks proportional.
       * 0 where all weights are zero on both sides.
       */
      readonly weightsPerChannel: number;
      /** Relative uncertainty of the scales, from the rounding of the weights. */
      readonly uncertainty: number;
      /** What the weights went through besides, where they are multiples up to averaging alone; else null. */
      readonly rounding: RoundedDifferences | ShortDifferences | null;
      /** What quantisation leaves open; absent where neither weight is quantised. */
      readonly blur?: ScaleBlur | undefined;
    }
  | { readonly kind: 'short'; readonly fitted: ProportionalScales }
  | NotFinite
  | { readonly kind: 'changed' }
  | { readonly kind: 'incomparable' };

/** How far the scales between weights are open of which one at least is quantised; each is the middle of its interval. */
export interface ScaleBlur {
  /** Per channel: half the interval that the scale lies in. */
  readonly widths: Float64Array;
  /** Per channel: a step of quantisation over the largest weight. */
  readonly steps: Float64Array;
  /** Whether scales explain the weights only if codes are off by more than half a step, as rounding to nearest is not. */
  readonly isLoose: boolean;
  /** Weights that could have contradicted the scales, all channels together. */
  readonly witnesses: number;
}

/** A weight that is no number of which a scale could be told. */
export interface NotFinite {
  readonly kind: 'not-finite';
  /** After's, where both sides have one. */
  readonly side: 'before' | 'after';
  readonly channel: number;
  /** NaN or an infinity. */
  readonly value: number;
  /** Whether the channels of such weights are the same on both sides. */
  readonly isSame: boolean;
}

/** What is known of two weights of which one is a multiple of the other, channel by channel. */
export type ProportionalScales = Extract<ScaleComparison, { readonly kind: 'proportional' }>;

/**
 * How many Euclidean norms of the rounding errors a projection may be off. A random sign vector exceeds t norms with
 * a probability of at most 2·exp(−t²/2) (Hoeffding), whatever the errors are: 3e-14 here.
 */
const PROJECTION_SPREAD = 8;

/** The distance between neighbouring subnormal float32 values, in which a baseline keeps its projections. */
const FLOAT32_QUANTUM = 2 ** -149;

/**
 * As `compareChannelScales`, where the values of one side or both are known by their projections alone.
 *
 * A channel's scale is the ratio of the norms, with the sign that the projections agree on; each projection must then
 * be that multiple of its counterpart, to the rounding of the weights.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function compareProjectedScales(
  before: Tensor,
  after: Tensor,
  layout: ChannelLayout,
): Promise<ScaleComparison> {
  const sides = await projectBoth(before, after, layout);
  if (sides === null) return { kind: 'incomparable' };
  const [one, other] = sides;
  const scales = one.norms.map((_, channel) => findScale(one, other, channel));
  const areNumbers = (channel: number) => sides.every(({ norms }) => Number.isFinite(norms[channel]));
  const areAllMultiples = (averaging: number) =>
    scales.every(
      (scale, channel) =>
        !areNumbers(channel) ||
        areMultiples(sides, channel, scale, boundErrors(sides, channel, { scale, before, after, averaging })),
    );
  const isExact = areAllMultiples(0);
  if (!isExact && !areAllMultiples(MAX_RELATIVE_DIFFERENCE)) return { kind: 'changed' };
  const notFinite = findNotFinite(other, 'after') ?? findNotFinite(one, 'before');
  if (notFinite !== null) return { ...notFinite, isSame: await haveSameHash(before, after) };
  const rounding = isExact ? null : await judgeSamples(before, after, { scales, layout });
  if (rounding?.kind === 'changed') return { kind: 'changed' };
  const weightsPerChannel = Math.min(one.weightsPerChannel, MAX_COUNTED_WEIGHTS);
  const fitted = {
    kind: 'proportional' as const,
    scales,
    weightsPerChannel,
    uncertainty: Math.max(
      (roundoffOf(before) + roundoffOf(after)) / Math.sqrt(Math.max(1, weightsPerChannel)) +
        2 * FLOAT32_ROUNDOFF,
      roundingUncertainty(rounding),
    ),
    rounding,
  };
  return rounding?.kind === 'short' ? { kind: 'short', fitted } : fitted;
}

function findNotFinite({ norms }: ChannelProjections, side: NotFinite['side']): NotFinite | null {
  const channel = norms.findIndex((norm) => !Number.isFinite(norm));
  return channel < 0
    ? null
    : { kind: 'not-finite', side, channel, value: norms[channel] ?? Number.NaN, isSame: false };
}

async function haveSameHash(before: Tensor, after: Tensor): Promise<boolean> {
  const summarizer = new TensorSummarizer();
  const one = before.fingerprint ?? (await summarizer.summarize(before, null));
  const other = after.fingerprint ?? (await summarizer.summarize(after, null));
  return before.dtype === after.dtype && one.sha256 === other.sha256;
}

/** From so many sampled weights of a channel on, their ratios tell its scale better than the norms do. */
const MIN_SAMPLED_WEIGHTS = 5;

/** What the samples of both sides say, once those of before are scaled channel by channel. */
async function judgeSamples(
  before: Tensor,
  after: Tensor,
  { scales, layout }: { scales: Float64Array; layout: ChannelLayout },
): Promise<RoundingVerdict> {
  const [stored, kept] = [await readSample(before), await readSample(after)];
  if (stored === null || kept === null) return { kind: 'changed' };
  const [one, other] = [decodeFloats(stored, before.dtype), decodeFloats(kept, after.dtype)];
  const grid = layOutChannels(before.shape, layout);
  const byChannel = new Map<number, number[]>();
  for (const [i, index] of sampledIndices(before.elementCount).entries())
    forEachRun(grid, { start: index, length: 1 }, (channel) => {
      addTo(byChannel, channel, i);
      return true;
    });
  for (const [channel, positions] of byChannel) {
    // A single weight that was changed moves the norm, and with it all others; it does not move their median ratio.
    const ratios = Float64Array.from(positions, (i) => (other[i] as number) / (one[i] as number));
    const median = ratios.filter(Number.isFinite).sort()[Math.floor(positions.length / 2)];
    const scale = positions.length < MIN_SAMPLED_WEIGHTS ? scales[channel] : median;
    // Zeros on both sides have no scale.
    for (const i of positions) one[i] = (one[i] as number) * (scale || 0);
  }
  const judge = new RoundingJudge(after.dtype, after.dtype, { floor: scaleToleranceOf(before, after) });
  // Projections found more than nothing: it is in weights that are not among the sample.
  return judge.add(one, other) && !judge.isUntouched ? judge.conclude() : { kind: 'changed' };
}

/** The sampled elements of a tensor, kept by a baseline or read one by one; null where a baseline has left them out. */
export async function readSample({ fingerprint, ...tensor }: Tensor): Promise<Uint8Array | null> {
  if (fingerprint !== undefined) return fingerprint.sample === null ? null : readRange(fingerprint.sample);
  const { elementCount, dtype } = tensor;
  const indices = sampledIndices(elementCount);
  const size = bitsOf(dtype) / 8;
  const bytes = new Uint8Array(indices.length * size);
  if (indices.length === elementCount) return readElements(tensor, bytes, { start: 0, count: elementCount });
  for (const [i, start] of indices.entries())
    await readElements(tensor, bytes.subarray(i * size), { start, count: 1 });
  return bytes;
}

/**
 * Whether projections prove that a weight changed by more than averaging and the rounding of its types may. No proof that
 * it did not: what they cannot tell from rounding may be a change.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function provesChange(before: Tensor, after: Tensor): Promise<boolean> {
  const layout = (before.fingerprint ?? after.fingerprint)?.projections?.layout;
  if (layout === undefined || before.shape.join() !== after.shape.join()) return false;
  const sides = await projectBoth(before, after, layout);
  if (sides === null) return false;
  const [one, other] = sides;
  return one.norms.some((norm, channel) => {
    const averaging = MAX_RELATIVE_DIFFERENCE;
    const errors = boundErrors(sides, channel, { scale: 1, before, after, averaging });
    // Overflow to infinity in a narrower type is rounding too.
    if (!Number.isFinite(norm) || !Number.isFinite(other.norms[channel])) return false;
    const isNormKept = Math.abs((other.norms[channel] ?? Number.NaN) - norm) <= errors.norm;
    return !isNormKept || !areMultiples(sides, channel, 1, errors);
  });
}

type Sides = readonly [before: ChannelProjections, after: ChannelProjections];

async function projectBoth(before: Tensor, after: Tensor, layout: ChannelLayout): Promise<Sides | null> {
  const [one, other] = [await projectionsOf(before, layout), await projectionsOf(after, layout)];
  return one === null || other === null || one.norms.length !== other.norms.length ? null : [one, other];
}

/** The ratio of the norms; 1 exactly where nothing differs, NaN where both are zero and any scale would do. */
function findScale(one: ChannelProjections, other: ChannelProjections, channel: number): number {
  const [norm, otherNorm] = [one.norms[channel] ?? Number.NaN, other.norms[channel] ?? Number.NaN];
  if (norm === 0) return otherNorm === 0 ? Number.NaN : 0;
  let product = 0;
  let isSame = Math.fround(norm) === Math.fround(otherNorm);
  for (let at = channel * PROJECTION_COUNT; at < (channel + 1) * PROJECTION_COUNT; at++) {
    const [sum, otherSum] = [one.sums[at] ?? Number.NaN, other.sums[at] ?? Number.NaN];
    product += sum * otherSum;
    isSame &&= Math.fround(sum) === Math.fround(otherSum);
  }
  if (isSame) return 1;
  return (product < 0 ? -otherNorm : otherNorm) / norm;
}

/** How far rounding alone may move a channel's norm and each of its projections. */
interface ErrorBounds {
  readonly norm: number;
  readonly projection: (sum: number) => number;
}

/**
 * Each weight of after is k times that of before, off by at most {@link scaleToleranceOf} both types and one
 * step between subnormal values. The errors' norm follows from the channel's; a sign vector sums them like a random
 * walk. The estimate of k, and what a baseline rounded, add their part in proportion to the projection.
 */
function boundErrors(
  [one]: Sides,
  channel: number,
  { scale, before, after, averaging }: { scale: number; before: Tensor; after: Tensor; averaging: number },
): ErrorBounds {
  const magnitude = Math.abs(scale);
  const size = one.norms[channel] ?? Number.NaN;
  const relative = averaging + scaleToleranceOf(before, after) + 2 * FLOAT32_ROUNDOFF;
  const weights = before.elementCount / one.norms.length;
  const quantum = Math.sqrt(weights) * (quantumOf(after.dtype) + magnitude * quantumOf(before.dtype));
  const norm = relative * magnitude * size + quantum + 2 * (1 + magnitude) * FLOAT32_QUANTUM;
  return { norm, projection: (sum) => norm * (PROJECTION_SPREAD + (size === 0 ? 0 : Math.abs(sum) / size)) };
}

/** Whether every projection of after is `scale` times that of before. A NaN is not. */
function areMultiples([one, other]: Sides, channel: number, scale: number, errors: ErrorBounds): boolean {
  // Zeros on both sides: there is nothing to compare.
  if (Number.isNaN(scale)) return one.norms[channel] === 0 && other.norms[channel] === 0;
  if (scale === 0 && one.norms[channel] === 0) return false;
  for (let at = channel * PROJECTION_COUNT; at < (channel + 1) * PROJECTION_COUNT; at++) {
    const [sum, otherSum] = [one.sums[at] ?? Number.NaN, other.sums[at] ?? Number.NaN];
    if (!(Math.abs(otherSum - scale * sum) <= errors.projection(sum))) return false;
  }
  return true;
}

/** Projections of tensors that can be read: pairing by values asks for the same ones again and again. */
const projected = new WeakMap<ByteRange, Map<string, Promise<ChannelProjections | null>>>();

async function projectionsOf(tensor: Tensor, layout: ChannelLayout): Promise<ChannelProjections | null> {
  if (!fitsShape(tensor.shape, layout)) return null;
  if (tensor.fingerprint !== undefined) {
    const stored = tensor.fingerprint.projections;
    const isSameLayout =
      stored?.layout.outputAxis === layout.outputAxis && stored.layout.groups === layout.groups;
    return stored === null || !isSameLayout ? null : readProjections(stored);
  }
  const { dtype, shape, range } = tensor;
  const key = [dtype, layout.outputAxis, layout.groups, ...shape].join();
  const known = getOrMake(projected, range, () => new Map<string, Promise<ChannelProjections | null>>());
  return getOrMake(known, key, () => new TensorSummarizer().project(tensor, layout));
}

async function readProjections({ table, weightsPerChannel }: StoredProjections): Promise<ChannelProjections> {
  const values = decodeFloats(await readRange(table), 'F32');
  const columns = 1 + PROJECTION_COUNT;
  return {
    norms: values.filter((_, index) => index % columns === 0),
    sums: values.filter((_, index) => index % columns !== 0),
    weightsPerChannel,
  };
}
