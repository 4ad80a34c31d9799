// Tensors whose elements are computed of stored ones as they are read: cast, multiplied, dequantised.

import { type ByteSource, readRange, sliceRange, wholeOf } from '../io/byte-source.js';
import { countElements } from '../io/row-major.js';
import { computedSource } from '../io/views.js';
import type { Quantisation, Tensor } from './checkpoint.js';
import { bitsOf, type DType, decodeFloats, encodeFloats, isDecodable } from './dtype.js';
import { layOutScales } from './scale-layout.js';

/** Integers by how a DataView reads them. */
const INTEGERS = {
  I8: 'getInt8',
  I16: 'getInt16',
  I32: 'getInt32',
  I64: 'getBigInt64',
  U8: 'getUint8',
  U16: 'getUint16',
  U32: 'getUint32',
  U64: 'getBigUint64',
  BOOL: 'getUint8',
} as const;

/** Whether a type holds integers or booleans. */
export function isInteger(dtype: DType): dtype is keyof typeof INTEGERS {
  return Object.hasOwn(INTEGERS, dtype);
}

/** Whether the elements can be decoded to numbers: floats, integers and booleans, but no complex or 4-bit ones. */
export function isNumeric(dtype: DType): boolean {
  return isDecodable(dtype) || isInteger(dtype);
}

/** Decodes little-endian elements of a {@link isNumeric} type; integers beyond 2^53 are rounded. */
function decodeNumbers(bytes: Uint8Array, dtype: DType): Float64Array {
  if (!isInteger(dtype)) return decodeFloats(bytes, dtype);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const width = bitsOf(dtype) / 8;
  const values = Float64Array.from({ length: bytes.byteLength / width }, (_, i) =>
    Number(view[INTEGERS[dtype]](width * i, true)),
  );
  return dtype === 'BOOL' ? values.map((value) => Number(value !== 0)) : values;
}

/** Encodes numbers as elements of a {@link isNumeric} type: floats rounded to nearest even, integers cut off. */
function encodeNumbers(values: ArrayLike<number>, dtype: DType): Uint8Array {
  if (isDecodable(dtype)) return encodeFloats(values, dtype);
  const width = bitsOf(dtype) / 8;
  const bytes = new Uint8Array(values.length * width);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] ?? 0;
    if (width === 8) view.setBigInt64(8 * i, Number.isFinite(value) ? BigInt(Math.trunc(value)) : 0n, true);
    else if (width === 4) view.setInt32(4 * i, value, true);
    else if (width === 2) view.setInt16(2 * i, value, true);
    else view.setInt8(i, dtype === 'BOOL' ? Number(value !== 0) : value);
  }
  return bytes;
}

/** Reads a small tensor of a numeric type; the caller has checked its size. */
export async function readNumbers(tensor: Tensor): Promise<Float64Array> {
  return decodeNumbers(await readRange(tensor.range), tensor.dtype);
}

/** A tensor whose elements a source computes of another one's. */
export function computedTensor(
  input: Tensor,
  made: Pick<Tensor, 'dtype' | 'shape'>,
  source: ByteSource,
): Tensor {
  const range = wholeOf({ ...source, computedFrom: input.range });
  return { name: input.name, ...made, elementCount: countElements(made.shape), range };
}

/** How many elements are converted at a time, so that memory stays flat for any tensor. */
const CHUNK_ELEMENTS = 16 * 1024;

/**
 * A tensor with elements that are computed from another one's, one by one, when they are read.
 *
 * @param change changes `values` in place; `first` is the index of the first of them in the tensor.
 */
export function mapElements(
  tensor: Tensor,
  dtype: DType,
  change: (values: Float64Array, first: number) => Promise<void> = async () => {},
): Tensor {
  const { range } = tensor;
  const widthBefore = bitsOf(tensor.dtype) / 8;
  const layout = { count: tensor.elementCount, width: bitsOf(dtype) / 8, atOnce: CHUNK_ELEMENTS };
  const source = computedSource(range, layout, async (first, end) => {
    const bytes = await readRange(sliceRange(range, first * widthBefore, end * widthBefore));
    const values = decodeNumbers(bytes, tensor.dtype);
    await change(values, first);
    return encodeNumbers(values, dtype);
  });
  return computedTensor(tensor, { dtype, shape: tensor.shape }, source);
}

/** The floats that codes stand for, of a type, with how they are quantised. */
export function dequantised(quantised: Quantisation, dtype: DType): Tensor {
  return { ...mapElements(quantised.codes, dtype, dequantizer(quantised)), quantised };
}

/** Reads scale and zero point with the first values, not while the file is opened. */
function dequantizer({ codes, scale, zeroPoint: zero, ...layout }: Quantisation) {
  const { indexOf } = layOutScales(codes.shape, layout);
  let parameters: Promise<readonly [Float64Array, Float64Array | null]> | null = null;
  return async (values: Float64Array, first: number): Promise<void> => {
    parameters ??= Promise.all([readNumbers(scale), zero === null ? null : readNumbers(zero)]);
    const [scales, zeros] = await parameters;
    for (let i = 0; i < values.length; i++) {
      const at = indexOf(first + i);
      const zero = zeros === null ? 0 : zeros.length === 1 ? zeros[0] : zeros[at];
      // The reference computes in float32.
      const difference = Math.fround((values[i] ?? 0) - (zero ?? 0));
      const product = difference * (scales[at] ?? Number.NaN);
      values[i] = scale.dtype === 'F64' ? product : Math.fround(product);
    }
  };
}
