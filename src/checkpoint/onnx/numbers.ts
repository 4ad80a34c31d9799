import { memorySource, readRange } from '../../io/byte-source.js';
import type { Tensor } from '../checkpoint.js';
import { bitsOf, type DType, decodeFloats, encodeFloats, isDecodable } from '../dtype.js';

/** Whether the elements can be decoded to numbers: floats, integers and booleans, but no complex or 4-bit ones. */
export function isNumeric(dtype: DType): boolean {
  return isDecodable(dtype) || /^([IU](8|16|32|64)|BOOL)$/.test(dtype);
}

/** Decodes little-endian elements of a {@link isNumeric} type; integers beyond 2^53 are rounded. */
export function decodeNumbers(bytes: Uint8Array, dtype: DType): Float64Array {
  if (isDecodable(dtype)) return decodeFloats(bytes, dtype);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const width = bitsOf(dtype) / 8;
  return Float64Array.from({ length: bytes.byteLength / width }, (_, i) =>
    readInteger(view, width * i, dtype),
  );
}

function readInteger(view: DataView, at: number, dtype: DType): number {
  switch (dtype) {
    case 'I8':
      return view.getInt8(at);
    case 'I16':
      return view.getInt16(at, true);
    case 'I32':
      return view.getInt32(at, true);
    case 'I64':
      return Number(view.getBigInt64(at, true));
    case 'U16':
      return view.getUint16(at, true);
    case 'U32':
      return view.getUint32(at, true);
    case 'U64':
      return Number(view.getBigUint64(at, true));
    case 'BOOL':
      return view.getUint8(at) === 0 ? 0 : 1;
    default:
      return view.getUint8(at);
  }
}

/** Encodes numbers as elements of a {@link isNumeric} type: floats rounded to nearest even, integers cut off. */
export function encodeNumbers(values: ArrayLike<number>, dtype: DType): Uint8Array {
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

/** What {@link memoryTensor} makes a tensor of. */
export interface TensorContent {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** A tensor whose bytes are in memory: computed from constants. */
export function memoryTensor(content: TensorContent): Tensor {
  const { name, dtype, shape, bytes } = content;
  const elementCount = shape.reduce((product, dim) => product * dim, 1);
  const range = { source: memorySource(name, bytes), offset: 0, byteLength: bytes.byteLength };
  return { name, dtype, shape, elementCount, range };
}
