import { type ChannelLayout, forEachRun, layOutChannels } from '../checkpoint/channel-grid.js';
import type { Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf, type DType, decodeFloats, encodeFloats, IS_LITTLE_ENDIAN } from '../checkpoint/dtype.js';
import { multiply } from '../compare/weight-loops.js';
import { type ByteRange, type ByteSource, checkBounds } from '../io/byte-source.js';

/** What becomes of a weight. */
export interface WeightScaling {
  /** How elements belong to output channels. */
  readonly layout: ChannelLayout;
  /** One per output channel. */
  readonly factors: Float64Array;
  /** The type that the products are rounded to, once. */
  readonly dtype: DType;
  /** The error for a product that is too large for that type. */
  readonly fail: () => Error;
}

/** Bytes multiplied at a time: those that were just read are still in the processor's cache. */
const PIECE_BYTES = 256 * 1024;

/** Elements converted at a time: memory stays flat for any weight, and they stay in the processor's cache. */
const CHUNK_ELEMENTS = 16 * 1024;

/**
 * A weight with each output channel times a factor, as little-endian bytes of another type. The products are computed in
 * float64, whenever they are read, and never held as a whole.
 */
export function scaleWeight(weight: Tensor, scaling: WeightScaling): ByteRange {
  const width = bitsOf(scaling.dtype) / 8;
  const isFloat32 = weight.dtype === 'F32' && scaling.dtype === 'F32' && IS_LITTLE_ENDIAN;
  const fill = isFloat32 ? multiplyInPlace : convert;
  const source: ByteSource = {
    name: weight.range.source.name,
    byteLength: weight.elementCount * width,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      const first = Math.floor(position / width);
      const skipped = position - first * width;
      if (skipped === 0 && target.byteLength % width === 0 && target.byteOffset % width === 0)
        return fill(weight, scaling, { target, first });
      const elements = new Uint8Array(Math.ceil((skipped + target.byteLength) / width) * width);
      await fill(weight, scaling, { target: elements, first });
      target.set(elements.subarray(skipped, skipped + target.byteLength));
    },
    async close() {},
  };
  return { source, offset: 0, byteLength: source.byteLength };
}

/** Whole elements to be filled with products, the first of them by its index in the weight. */
interface Part {
  /** Aligned to its elements. */
  readonly target: Uint8Array;
  readonly first: number;
}

/** Float32 as it stands in the file, to float32: read to where the products belong, and multiplied there. */
async function multiplyInPlace(
  { range, shape }: Tensor,
  { layout, factors, fail }: WeightScaling,
  { target, first }: Part,
): Promise<void> {
  const grid = layOutChannels(shape, layout);
  for (let done = 0; done < target.byteLength; done += PIECE_BYTES) {
    const piece = target.subarray(done, done + PIECE_BYTES);
    await range.source.readInto(piece, range.offset + 4 * first + done);
    const values = new Float32Array(piece.buffer, piece.byteOffset, piece.byteLength / 4);
    const elements = { start: first + done / 4, length: values.length };
    const fits = forEachRun(grid, elements, (channel, from, to) => {
      return multiply(values, { from, to }, factors[channel] ?? Number.NaN);
    });
    if (!fits) throw fail();
  }
}

/** From any type to any other. */
async function convert(
  { range, shape, dtype: from }: Tensor,
  { layout, factors, dtype, fail }: WeightScaling,
  { target, first }: Part,
): Promise<void> {
  const [width, widthBefore] = [bitsOf(dtype) / 8, bitsOf(from) / 8];
  const grid = layOutChannels(shape, layout);
  const count = target.byteLength / width;
  const held = new Uint8Array(Math.min(count, CHUNK_ELEMENTS) * widthBefore);
  for (let done = 0; done < count; done += CHUNK_ELEMENTS) {
    const length = Math.min(CHUNK_ELEMENTS, count - done);
    const bytes = held.subarray(0, length * widthBefore);
    await range.source.readInto(bytes, range.offset + (first + done) * widthBefore);
    const values = decodeFloats(bytes, from);
    forEachRun(grid, { start: first + done, length }, (channel, start, end) => {
      const factor = factors[channel] ?? Number.NaN;
      for (let i = start; i < end; i++) values[i] = factor * (values[i] ?? Number.NaN);
      return true;
    });
    const encoded = encodeFloats(values, dtype);
    if (!decodeFloats(encoded, dtype).every(Number.isFinite)) throw fail();
    target.set(encoded, done * width);
  }
}
