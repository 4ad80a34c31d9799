// Reads how NumPy arrays lie in a pickle, by the calls that rebuild them.

import { bitsOf, type DType } from '../../checkpoint/dtype.js';
import { type CheckpointError, quote } from '../../errors.js';
import { type ByteRange, holdBytes, wholeOf } from '../../io/byte-source.js';
import { latin1Source } from '../../io/latin1-source.js';
import { countElements, stridesOf } from '../../io/row-major.js';
import { MAX_RANK, NUMPY_DTYPES, stridesInFortran } from '../numpy/npy.js';
import {
  asIntegers,
  describeValue,
  isNode,
  itemsOf,
  type ObjectNode,
  type PickleValue,
  qualifiedName,
} from './pickle-values.js';

/** An array whose elements are numbers, and where they are. */
interface NumpyArray {
  readonly kind: 'array';
  readonly dtype: DType;
  readonly byteOrder: 'little' | 'big';
  readonly shape: readonly number[];
  /** In elements. */
  readonly strides: readonly number[];
  /** As many bytes as the shape takes. */
  readonly data: ByteRange;
}

/** An array that can be named, not read; `why` is what it is. */
interface UnreadableArray {
  readonly kind: 'unreadable';
  readonly why: string;
}

type Fail = (message: string) => CheckpointError;

/** What an array is made of, not yet checked. */
interface Ingredients {
  readonly type: PickleValue | undefined;
  /** As the data lies, before its axes are put in another order. */
  readonly shape: PickleValue | undefined;
  readonly data: PickleValue | undefined;
  readonly order: 'C' | 'F';
  readonly axes?: PickleValue | undefined;
}

/**
 * How the functions that rebuild arrays are called (numpy/_core/src/multiarray/methods.c, `array_reduce_ex`), in the
 * modules of NumPy 1 (`numpy.core`) and 2 (`numpy._core`):
 *
 *     multiarray._reconstruct(class, (0,), b'b')      BUILD: ([version,] shape, dtype, is_fortran, data)
 *     numeric._frombuffer(data, dtype, shape, order[, axes])
 *     multiarray.scalar(dtype, data)
 */
const READERS: ReadonlyMap<string, (call: ObjectNode, fail: Fail) => Ingredients> = new Map(
  ['numpy.core', 'numpy._core'].flatMap((core) => [
    [`${core}.multiarray._reconstruct`, readState],
    [`${core}.numeric._frombuffer`, readBuffer],
    [`${core}.multiarray.scalar`, readScalar],
  ]),
);

/** Whether an object is an array of NumPy, or, with `isScalar`, one of its numbers: `numpy.int64(40)`. */
export function isNumpyArray({ callee }: ObjectNode, isScalar = false): boolean {
  if (!isNode(callee, 'global')) return false;
  const { name, qualifiedName: called } = callee;
  return (READERS.has(called) || called === MASKED) && (name === 'scalar') === isScalar;
}

/** What rebuilds an array with a mask, some of whose elements count for nothing. */
const MASKED = 'numpy.ma.core._mareconstruct';

/**
 * Reads an array or number that {@link isNumpyArray}.
 *
 * @param fail makes the error, about what is malformed.
 */
export function readNumpyArray(call: ObjectNode, fail: Fail): NumpyArray | UnreadableArray {
  const called = qualifiedName(call.callee) ?? '';
  if (called === MASKED) return { kind: 'unreadable', why: 'an array with a mask' };
  const reader = READERS.get(called);
  if (reader === undefined) throw fail('expected an array of NumPy, found something else');
  const { type, shape: sizes, data, order, axes } = reader(call, fail);
  const kind = kindOf(type);
  const state = itemsOf(isNode(type, 'object') ? type.state : null);
  const [, byteOrder = '<', ...parts] = state;
  if (kind === null) throw fail(`expected a dtype, found ${describeValue(type)}`);
  const isPlain = parts.slice(0, 3).every((part) => part === null);
  const dtype = isPlain ? (NUMPY_DTYPES.get(kind) ?? ML_DTYPES.get(kind)) : undefined;
  if (dtype === undefined) return { kind: 'unreadable', why: describeKind(isPlain ? kind : 'V') };
  if (typeof byteOrder !== 'string' || !/^[<>=|]$/.test(byteOrder))
    throw fail(`expected a byte order in its dtype, found ${describeValue(byteOrder)}`);
  const shape = asIntegers(sizes);
  if (shape === null || shape.length > MAX_RANK || shape.some((size) => size < 0))
    throw fail(`expected a shape of up to ${MAX_RANK} sizes of 0 or more, found ${describeValue(sizes)}`);
  const byteLength = countElements(shape) * (bitsOf(dtype) / 8);
  if (!Number.isSafeInteger(byteLength))
    throw fail(`expected a shape that fits into memory, found [${shape}]`);
  const strides = order === 'F' ? stridesInFortran(shape) : stridesOf(shape);
  const places = axes === undefined ? shape.map((_, axis) => axis) : asIntegers(axes);
  const isWhole = places?.length === shape.length && shape.every((_, axis) => places.includes(axis));
  if (places === null || !isWhole) throw fail(`expected the order of its axes, found ${describeValue(axes)}`);
  return {
    kind: 'array',
    dtype,
    byteOrder: byteOrder === '>' ? 'big' : 'little',
    shape: places.map((axis) => shape[axis] ?? 0),
    strides: places.map((axis) => strides[axis] ?? 0),
    data: locateData(data, byteLength, fail),
  };
}

function readState({ state }: ObjectNode, fail: Fail): Ingredients {
  const items = itemsOf(state);
  if (items.length !== 4 && items.length !== 5)
    throw fail(
      `expected a state of shape, dtype, order and data, found ${describeValue(state)} of ${items.length}`,
    );
  const [shape, type, isFortran, data] = items.slice(-4);
  return { shape, type, order: isFortran === true || isFortran === 1 ? 'F' : 'C', data };
}

/** Order K is that of C, of axes that are then put in another order. */
function readBuffer({ args: [data, type, shape, order, axes] }: ObjectNode, fail: Fail): Ingredients {
  if (order === 'C' || order === 'F') return { data, type, shape, order };
  if (order !== 'K') throw fail(`expected the order C, F or K, found ${describeValue(order)}`);
  return { data, type, shape, order: 'C', axes };
}

function readScalar({ args: [type, data] }: ObjectNode): Ingredients {
  return { type, data, shape: { kind: 'tuple', items: [] }, order: 'C' };
}

/** `f4` of `numpy.dtype('f4', False, True)`, or `bfloat16` where another package's class stands there; null of what is no dtype. */
function kindOf(type: PickleValue | undefined): string | null {
  if (!isNode(type, 'object') || qualifiedName(type.callee) !== 'numpy.dtype') return null;
  const [kind] = type.args;
  if (typeof kind === 'string') return kind;
  return isNode(kind, 'global') ? kind.qualifiedName : null;
}

/** Types that NumPy itself does not have: https://github.com/jax-ml/ml_dtypes */
const ML_DTYPES: ReadonlyMap<string, DType> = new Map([
  ['ml_dtypes.bfloat16', 'BF16'],
  ['ml_dtypes.float8_e4m3fn', 'F8_E4M3'],
  ['ml_dtypes.float8_e5m2', 'F8_E5M2'],
  ['ml_dtypes.float8_e4m3fnuz', 'F8_E4M3FNUZ'],
  ['ml_dtypes.float8_e5m2fnuz', 'F8_E5M2FNUZ'],
]);

/** What an array holds instead of numbers, by the letter of its dtype's kind. */
const OTHER_KINDS: ReadonlyMap<string, string> = new Map([
  ['O', 'Python objects'],
  ['V', 'records'],
  ['U', 'texts'],
  ['S', 'texts'],
  ['T', 'texts'],
  ['M', 'dates'],
  ['m', 'time spans'],
  ['c', 'complex numbers'],
]);

function describeKind(kind: string): string {
  const held = /^[a-zA-Z]\d*$/.test(kind) ? OTHER_KINDS.get(kind.charAt(0)) : undefined;
  return held === undefined ? `an array of the type ${quote(kind)}` : `an array of ${held}`;
}

/** How `codecs` calls Latin-1. */
const LATIN1 = /^(?:latin[-_]?1|iso-?8859-1)$/i;

/** Finds the bytes of an array: bytes, a string of Python 2, or the text that protocol 2 of Python 3 makes of bytes. */
function locateData(data: PickleValue | undefined, byteLength: number, fail: Fail): ByteRange {
  const [text, codec] = isNode(data, 'object') ? data.args : [];
  const isEncoded = isNode(data, 'object') && qualifiedName(data.callee) === '_codecs.encode';
  const failLength = (found: string | number) =>
    fail(`expected ${byteLength} bytes for its shape and dtype, found ${found}`);
  if (isNode(data, 'payload') && !data.isText) {
    if (data.range.byteLength !== byteLength) throw failLength(data.range.byteLength);
    return data.range;
  }
  if (isEncoded && isNode(text, 'payload') && text.isText && isLatin1(codec)) {
    // A character of Latin-1 takes one byte or two.
    const coded = text.range.byteLength;
    if (coded < byteLength || coded > 2 * byteLength) throw failLength(`${coded} bytes of text`);
    return wholeOf(latin1Source(text.range, byteLength));
  }
  const given = isEncoded && isLatin1(codec) ? text : data;
  if (typeof given === 'string') {
    const isInLatin1 = !/[^\0-\xff]/.test(given);
    if (isEncoded && !isInLatin1) throw fail('expected its bytes as Latin-1 text, found other characters');
    const isOneByteEach = isEncoded || (isInLatin1 && given.length === byteLength);
    const bytes = Buffer.from(given, isOneByteEach ? 'latin1' : 'utf8');
    if (bytes.byteLength !== byteLength) throw failLength(bytes.byteLength);
    return holdBytes(bytes);
  }
  // Protocol 2 writes no bytes at all as the call of their class.
  const isEmpty =
    isNode(data, 'object') && /^(?:builtins|__builtin__)\.bytes$/.test(qualifiedName(data.callee) ?? '');
  if (isEmpty && data.args.length === 0 && byteLength === 0) return holdBytes(new Uint8Array(0));
  throw fail(`expected the bytes of its elements, found ${describeValue(data)}`);
}

function isLatin1(codec: PickleValue | undefined): boolean {
  return typeof codec === 'string' && LATIN1.test(codec);
}
