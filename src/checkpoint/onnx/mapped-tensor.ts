import { type ByteSource, checkBounds } from '../../io/byte-source.js';
import type { Tensor } from '../checkpoint.js';
import { bitsOf, type DType } from '../dtype.js';
import { decodeNumbers, encodeNumbers } from './numbers.js';

/** How many elements are converted at a time, so that memory stays flat for any tensor. */
const CHUNK_ELEMENTS = 16 * 1024;

/** How {@link mapTensor} computes one tensor's elements from another's. */
export interface ElementMap {
  readonly dtype: DType;
  /** Changes `values` in place; `first` is the index of the first of them in the tensor. */
  readonly convert: (values: Float64Array, first: number) => Promise<void>;
}

/** A tensor whose elements are computed from those of `input`, one by one, when they are read. */
export function mapTensor(input: Tensor, map: ElementMap): Tensor {
  const width = bitsOf(map.dtype) / 8;
  const source: ByteSource = {
    name: input.range.source.name,
    byteLength: input.elementCount * width,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      let filled = 0;
      while (filled < target.byteLength) {
        const first = Math.floor((position + filled) / width);
        const within = position + filled - first * width;
        const needed = Math.ceil((within + target.byteLength - filled) / width);
        const bytes = await convertChunk(input, map, first, Math.min(needed, CHUNK_ELEMENTS));
        const part = bytes.subarray(within, within + target.byteLength - filled);
        target.set(part, filled);
        filled += part.byteLength;
      }
    },
    async close() {},
    computedFrom: input.range,
  };
  return { ...input, dtype: map.dtype, range: { source, offset: 0, byteLength: source.byteLength } };
}

async function convertChunk(
  input: Tensor,
  map: ElementMap,
  first: number,
  count: number,
): Promise<Uint8Array> {
  const width = bitsOf(input.dtype) / 8;
  const bytes = new Uint8Array(count * width);
  await input.range.source.readInto(bytes, input.range.offset + first * width);
  const values = decodeNumbers(bytes, input.dtype);
  await map.convert(values, first);
  return encodeNumbers(values, map.dtype);
}
