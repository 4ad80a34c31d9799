import { type ChannelGrid, type ChannelLayout, forEachRun, layOutChannels } from '../checkpoint/channel-grid.js';
import type { Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf, decodeFloats, isDecodable, quantumOf, significandBitsOf } from '../checkpoint/dtype.js';

/**
 * Whether each output channel of one weight is a constant times that of another.
 *
 * `proportional`: channel c of after is `scales[c]` times channel c of before, to the rounding of their types; NaN
 * where a channel is all zeros on both sides, which any scale explains. `changed`: some channel is no multiple.
 * `incomparable`: shapes or types leave nothing to compare.
 */
export type ScaleComparison =
  | {
      readonly kind: 'proportional';
      readonly scales: Float64Array;
      /** The fewest weights other than zero in any channel; where there is one, every change looks proportional. */
      readonly weightsPerChannel: number;
      /** Relative uncertainty of the scales, from the rounding of the weights. */
      readonly uncertainty: number;
    }
  | { readonly kind: 'changed' }
  | { readonly kind: 'incomparable' };

/** Half the distance between neighbouring float32 values, relative: folding computes in float32 or better. */
const FLOAT32_ROUNDOFF = 2 ** -24;

/**
 * How many roundings apart two proportional weights may be. Folding rounds the product once, on either side, and the
 * estimate of the scale carries a part of them all.
 */
const ROUNDINGS = 4;

/** The first piece is small: a weight that was trained fails there, and the rest is never read. */
const FIRST_CHUNK_BYTES = 32 * 1024;

const CHUNK_BYTES = 512 * 1024;

/**
 * Fits one scale per output channel by least squares and checks every weight against it.
 *
 * Reads both tensors once where a channel's weights stand together and fit the buffers (Conv, Linear), else twice;
 * stops at the first channel that does not fit. Memory: two buffers and one number per channel.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function compareChannelScales(
  before: Tensor,
  after: Tensor,
  layout: ChannelLayout,
): Promise<ScaleComparison> {
  if (!haveSameShape(before, after) || !isDecodable(before.dtype) || !isDecodable(after.dtype)) {
    return { kind: 'incomparable' };
  }
  const grid = layOutChannels(before.shape, layout);
  if (grid.channels === 0 || before.elementCount === 0) return { kind: 'incomparable' };
  const fit = new ScaleFit(grid, toleranceFor(before, after));
  const elementBytes = Math.max(bitsOf(before.dtype), bitsOf(after.dtype)) / 8;
  const chunk = CHUNK_BYTES / elementBytes;
  const isTogether = grid.rowsPerGroup === 0 && grid.inner <= chunk;
  const step = isTogether ? Math.floor(chunk / grid.inner) * grid.inner : chunk;
  const firstStep = Math.min(step, Math.ceil(FIRST_CHUNK_BYTES / elementBytes / grid.inner) * grid.inner);
  const buffers = [new Uint8Array(CHUNK_BYTES), new Uint8Array(CHUNK_BYTES)] as const;
  const readBlock = async (start: number) => {
    const count = Math.min(start === 0 && isTogether ? firstStep : step, before.elementCount - start);
    return Promise.all([
      readElements(before, buffers[0], start, count),
      readElements(after, buffers[1], start, count),
    ]);
  };
  if (isTogether) {
    for (let start = 0; start < before.elementCount; ) {
      const [left, right] = await readBlock(start);
      fit.add(left, right, start);
      fit.solve(start / grid.inner, (start + left.length) / grid.inner);
      if (!fit.holds(left, right, start)) return { kind: 'changed' };
      start += left.length;
    }
    return fit.conclude(before, after);
  }
  for (let start = 0; start < before.elementCount; start += step) {
    const [left, right] = await readBlock(start);
    fit.add(left, right, start);
  }
  fit.solve(0, grid.channels);
  for (let start = 0; start < before.elementCount; start += step) {
    const [left, right] = await readBlock(start);
    if (!fit.holds(left, right, start)) return { kind: 'changed' };
  }
  return fit.conclude(before, after);
}

type Values = Float32Array | Float64Array;

interface Tolerance {
  /** Of the scaled value. */
  readonly relative: number;
  /** Of subnormal values: the distance between neighbouring ones, on either side. */
  readonly before: number;
  readonly after: number;
}

function toleranceFor(before: Tensor, after: Tensor): Tolerance {
  return {
    relative: ROUNDINGS * (roundoffOf(before) + roundoffOf(after)),
    before: quantumOf(before.dtype),
    after: quantumOf(after.dtype),
  };
}

/** Half the relative distance between neighbouring values of a tensor's type, float32's at the least. */
export function roundoffOf({ dtype }: Tensor): number {
  return Math.max(FLOAT32_ROUNDOFF, 2 ** -(significandBitsOf(dtype) + 1));
}

/** Sums, scales and counts per channel. */
class ScaleFit {
  readonly #grid: ChannelGrid;
  readonly #tolerance: Tolerance;
  readonly #products: Float64Array;
  readonly #squares: Float64Array;
  readonly #counts: Uint32Array;
  readonly #scales: Float64Array;

  constructor(grid: ChannelGrid, tolerance: Tolerance) {
    this.#grid = grid;
    this.#tolerance = tolerance;
    this.#products = new Float64Array(grid.channels);
    this.#squares = new Float64Array(grid.channels);
    this.#counts = new Uint32Array(grid.channels);
    this.#scales = new Float64Array(grid.channels);
  }

  add(left: Values, right: Values, start: number): void {
    forEachRun(this.#grid, { start, length: left.length }, (channel, from, to) => {
      let [product, square, count] = [0, 0, 0];
      for (let i = from; i < to; i++) {
        const x = left[i] as number;
        const y = right[i] as number;
        product += x * y;
        square += x * x;
        if (x !== 0 || y !== 0) count++;
      }
      this.#products[channel] = (this.#products[channel] ?? 0) + product;
      this.#squares[channel] = (this.#squares[channel] ?? 0) + square;
      this.#counts[channel] = (this.#counts[channel] ?? 0) + count;
      return true;
    });
  }

  /** Least squares: the scale that takes channel x to y is Σxy / Σx². A channel of zeros may have any. */
  solve(fromChannel: number, toChannel: number): void {
    for (let channel = fromChannel; channel < toChannel; channel++) {
      const square = this.#squares[channel] ?? 0;
      this.#scales[channel] = square === 0 ? 0 : (this.#products[channel] ?? 0) / square;
    }
  }

  holds(left: Values, right: Values, start: number): boolean {
    const { relative, before, after } = this.#tolerance;
    return forEachRun(this.#grid, { start, length: left.length }, (channel, from, to) => {
      const scale = this.#scales[channel] ?? Number.NaN;
      const absolute = after + Math.abs(scale) * before;
      for (let i = from; i < to; i++) {
        const scaled = (left[i] as number) * scale;
        // Written so that a NaN fails.
        if (!(Math.abs((right[i] as number) - scaled) <= relative * Math.abs(scaled) + absolute))
          return false;
      }
      return true;
    });
  }

  conclude(before: Tensor, after: Tensor): ScaleComparison {
    const used = this.#counts.filter((count) => count > 0);
    if (used.length === 0) return { kind: 'incomparable' };
    const weightsPerChannel = used.reduce((least, count) => Math.min(least, count), Number.POSITIVE_INFINITY);
    return {
      kind: 'proportional',
      scales: this.#scales.map((scale, channel) => ((this.#counts[channel] ?? 0) === 0 ? Number.NaN : scale)),
      weightsPerChannel,
      uncertainty: (roundoffOf(before) + roundoffOf(after)) / Math.sqrt(weightsPerChannel),
    };
  }
}

async function readElements(
  { dtype, range }: Tensor,
  buffer: Uint8Array,
  start: number,
  count: number,
): Promise<Values> {
  const elementBytes = bitsOf(dtype) / 8;
  const bytes = buffer.subarray(0, count * elementBytes);
  await range.source.readInto(bytes, range.offset + start * elementBytes);
  return dtype === 'F32' && IS_LITTLE_ENDIAN
    ? new Float32Array(buffer.buffer, 0, count)
    : decodeFloats(bytes, dtype);
}

const IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

function haveSameShape(before: Tensor, after: Tensor): boolean {
  return (
    before.shape.length === after.shape.length &&
    before.shape.every((size, axis) => size === after.shape[axis])
  );
}
