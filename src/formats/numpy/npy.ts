// Reads NumPy's .npy and .npz files.

import type { Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../../checkpoint/dtype.js';
import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import { type ByteRange, readRange, sliceRange, wholeOf } from '../../io/byte-source.js';
import { countElements } from '../../io/row-major.js';
import { byteSwapped, stridedSource } from '../../io/views.js';
import { locateRecord, readRecord, type ZipArchive } from '../../io/zip.js';
import { NPY_SIGNATURE, startsWith } from '../sniff.js';

/** NumPy's own reader refuses longer headers (numpy.lib.format, max_header_size). */
const MAX_HEADER_BYTES = 10_000;

/** NumPy has at most 64 axes. */
export const MAX_RANK = 64;

/** What one probe reads of one array; a run's share of it is in memory at a time. */
const MAX_ARRAY_BYTES = 2 ** 40;

/** dtypes by kind and size: https://numpy.org/doc/stable/reference/arrays.interface.html */
export const NUMPY_DTYPES: ReadonlyMap<string, DType> = new Map([
  ['b1', 'BOOL'],
  ['f2', 'F16'],
  ['f4', 'F32'],
  ['f8', 'F64'],
  ['i1', 'I8'],
  ['i2', 'I16'],
  ['i4', 'I32'],
  ['i8', 'I64'],
  ['u1', 'U8'],
  ['u2', 'U16'],
  ['u4', 'U32'],
  ['u8', 'U64'],
]);

/** Whether bytes begin like an .npy array. */
export function looksLikeNpy(head: Uint8Array): boolean {
  return startsWith(head, NPY_SIGNATURE);
}

/** Whether bytes begin like a zip file, which an .npz file is. */
export function looksLikeNpz(head: Uint8Array): boolean {
  // An archive without entries has the end record alone.
  return head[0] === 0x50 && head[1] === 0x4b && (head[2] === 3 || head[2] === 5);
}

/**
 * Reads an .npy array (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html): the header only; the
 * tensor's range reads the elements little-endian and row-major, whatever the file's order is.
 *
 *      0  6  \x93NUMPY         8  2  header length, version 1;  4 bytes in versions 2 and 3
 *      6  1  version          10     header: a Python dict literal of descr, fortran_order and shape
 *      7  1  minor version           elements
 *
 * @param range the whole array; nothing may follow its elements.
 * @param name what to call it, in messages too.
 * @throws CheckpointError `malformed`, `truncated`, `unsupported` or `limit-exceeded`.
 */
export async function readNpy(range: ByteRange, name: string): Promise<Tensor> {
  const fail = failIn(range, name);
  const { text, byteLength } = await readHeader(range, fail);
  const { descr, isFortran, shape } = parseHeader(text, fail);
  const { dtype, isBigEndian } = parseType(descr, fail);
  const width = bitsOf(dtype) / 8;
  const elementCount = countElements(shape);
  if (shape.some((size) => size > MAX_ARRAY_BYTES) || elementCount * width > MAX_ARRAY_BYTES) {
    const found = `found the shape (${shape.join(', ')})`;
    throw fail(`expected an array of at most ${MAX_ARRAY_BYTES} bytes, ${found}`, 'limit-exceeded');
  }
  const data = sliceRange(range, byteLength, range.byteLength);
  if (data.byteLength !== elementCount * width) {
    const expected = `expected ${elementCount * width} bytes for its shape and dtype`;
    const code = data.byteLength < elementCount * width ? 'truncated' : 'malformed';
    throw fail(`${expected}, found ${data.byteLength}`, code);
  }
  const native = isBigEndian ? byteSwapped(data, width) : data;
  const strides = stridesInFortran(shape);
  const view = { shape, strides, firstElement: 0, elementByteLength: width };
  const ordered = isFortran && shape.length > 1 ? wholeOf(stridedSource(native, view)) : native;
  return { name, dtype, shape, elementCount, range: ordered };
}

/** The strides of a shape in Fortran's order, in which the first index counts up first. */
export function stridesInFortran(shape: readonly number[]): readonly number[] {
  return shape.map((_, axis) => countElements(shape.slice(0, axis)));
}

/** Makes the error about an array; `malformed` unless said otherwise. */
type Fail = (message: string, code?: CheckpointErrorCode) => CheckpointError;

function failIn({ source, offset }: ByteRange, name: string): Fail {
  const prefix = offset === 0 && source.name === name ? '' : `array ${quote(name)}: `;
  return (message, code = 'malformed') =>
    new CheckpointError(`${prefix}${message}`, { code, file: source.name });
}

async function readHeader(range: ByteRange, fail: Fail) {
  const head = await readRange(sliceRange(range, 0, Math.min(12, range.byteLength)));
  if (!looksLikeNpy(head)) throw fail('expected an .npy array, found other bytes');
  const [major = 0] = head.subarray(6);
  if (major < 1 || major > 3) throw fail(`expected .npy version 1, 2 or 3, found ${major}`, 'unsupported');
  const start = major === 1 ? 10 : 12;
  if (head.length < start) throw fail('expected an .npy header, found the end of it', 'truncated');
  const view = new DataView(head.buffer, head.byteOffset);
  const length = major === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (length > MAX_HEADER_BYTES) {
    const message = `expected an .npy header of at most ${MAX_HEADER_BYTES} bytes, found ${length}`;
    throw fail(message, 'limit-exceeded');
  }
  const byteLength = start + length;
  if (byteLength > range.byteLength) {
    const found = `found the end after ${range.byteLength - start}`;
    throw fail(`expected an .npy header of ${length} bytes, ${found}`, 'truncated');
  }
  const text = new TextDecoder().decode(await readRange(sliceRange(range, start, byteLength)));
  return { text, byteLength };
}

/** Parses what NumPy writes: three keys, each once, in any order. Anything else is no array of numbers. */
function parseHeader(text: string, fail: Fail) {
  const trimmed = text.trim();
  const malformed = () => {
    const found = `found ${quote(trimmed.slice(0, 80))}`;
    return fail(`expected an .npy header with descr, fortran_order and shape, ${found}`);
  };
  if (!trimmed.startsWith('{') || !trimmed.endsWith('}')) throw malformed();
  const found = new Map<string, string>();
  for (let rest = trimmed.slice(1, -1); rest.trim() !== ''; ) {
    const [whole, , key = '', value = ''] =
      /^\s*(['"])(descr|fortran_order|shape)\1\s*:\s*('[^']*'|"[^"]*"|True|False|\([^()]*\)|\[.*\])\s*(?:,|$)/.exec(
        rest,
      ) ?? [];
    if (whole === undefined || found.has(key)) throw malformed();
    found.set(key, value);
    rest = rest.slice(whole.length);
  }
  const [descr = '', order = '', shape = ''] = ['descr', 'fortran_order', 'shape'].map((key) =>
    found.get(key),
  );
  if (descr.startsWith('[')) throw fail('expected an array of numbers, found one of records', 'unsupported');
  const inner = /^\(([^()]*)\)$/.exec(shape)?.[1];
  if (!/^['"]/.test(descr) || !/^(?:True|False)$/.test(order) || inner === undefined) throw malformed();
  // One size is a tuple with a comma; Python 2 wrote an L behind long integers.
  const parts = inner.trim() === '' ? [] : inner.replace(/,\s*$/, '').split(',');
  if (parts.length === 1 && !inner.includes(',')) throw malformed();
  if (parts.length > MAX_RANK)
    throw fail(`expected at most ${MAX_RANK} axes, found ${parts.length}`, 'limit-exceeded');
  const sizes = parts.map((part) => /^\s*(\d{1,16})L?\s*$/.exec(part)?.[1]);
  if (sizes.includes(undefined)) throw malformed();
  return { descr: descr.slice(1, -1), isFortran: order === 'True', shape: sizes.map(Number) };
}

function parseType(descr: string, fail: Fail) {
  if (/^[|<>=]?O/.test(descr))
    throw fail('expected an array of numbers, found pickled Python objects: refused', 'refused');
  const [, order = '', kind = ''] = /^([<>|=]?)([a-zA-Z]\d+)$/.exec(descr) ?? [];
  const dtype = NUMPY_DTYPES.get(kind);
  // Without an order there must be one byte; "=" means that of the machine, which no file can.
  if (dtype === undefined || order === '=' || (bitsOf(dtype) > 8 && order !== '<' && order !== '>')) {
    const found = `found the dtype ${quote(descr)}`;
    throw fail(`expected an array of floats, integers or booleans, ${found}`, 'unsupported');
  }
  return { dtype, isBigEndian: order === '>' && bitsOf(dtype) > 8 };
}

/** More arrays than any model has tensors. */
const MAX_NPZ_ENTRIES = 100_000;

/** Arrays up to this size, which statistics are, are checked against the sums of the archive. */
const MAX_VERIFIED_BYTES = 64 * 1024;

/**
 * The arrays of an .npz file: a zip file with an .npy array for each name. Nothing is inflated until it is asked for.
 *
 * @throws CheckpointError `malformed` for an entry that is no .npy array.
 */
export function readNpz(archive: ZipArchive): ReadonlyMap<string, () => Promise<Tensor>> {
  const { source } = archive;
  const fail = failIn(wholeOf(source), source.name);
  if (archive.entries.size > MAX_NPZ_ENTRIES) {
    const found = `found ${archive.entries.size}`;
    throw fail(`expected at most ${MAX_NPZ_ENTRIES} arrays in an .npz file, ${found}`, 'limit-exceeded');
  }
  const arrays = new Map<string, () => Promise<Tensor>>();
  for (const [entry, found] of archive.entries) {
    if (entry.endsWith('/')) continue;
    if (!entry.endsWith('.npy'))
      throw fail(`expected .npy arrays in an .npz file, found the entry ${quote(entry)}`);
    const name = entry.slice(0, -'.npy'.length);
    arrays.set(name, async () => {
      if (found.byteLength <= MAX_VERIFIED_BYTES) await readRecord(archive, found, MAX_VERIFIED_BYTES);
      return readNpy(await locateRecord(archive, found), name);
    });
  }
  return arrays;
}
