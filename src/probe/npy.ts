// Reads NumPy's .npy and .npz files.

import type { Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../checkpoint/dtype.js';
import { CheckpointError, type CheckpointErrorCode, quote } from '../errors.js';
import { type ByteRange, readRange } from '../io/byte-source.js';
import { byteSwappedSource, stridedSource } from '../io/views.js';
import { locateRecord, openZip, type ZipArchive } from '../io/zip.js';

/** NumPy's own reader refuses longer headers (numpy.lib.format, max_header_size). */
const MAX_HEADER_BYTES = 10_000;

/** NumPy has at most 64 axes. */
const MAX_RANK = 64;

/** What one probe reads of one array; a run's share of it is in memory at a time. */
const MAX_ARRAY_BYTES = 2 ** 40;

const MAGIC = '\u0093NUMPY';

/** dtypes by kind and size: https://numpy.org/doc/stable/reference/arrays.interface.html */
const DTYPES: Readonly<Record<string, DType>> = {
  b1: 'BOOL',
  f2: 'F16',
  f4: 'F32',
  f8: 'F64',
  i1: 'I8',
  i2: 'I16',
  i4: 'I32',
  i8: 'I64',
  u1: 'U8',
  u2: 'U16',
  u4: 'U32',
  u8: 'U64',
};

/** Whether bytes begin like an .npy array. */
export function looksLikeNpy(head: Uint8Array): boolean {
  return [...MAGIC].every((character, index) => head[index] === character.charCodeAt(0));
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
  const reader = new NpyReader(range, name);
  const { text, byteLength } = await reader.readHeader();
  const { descr, isFortran, shape } = reader.parseHeader(text);
  const { dtype, isBigEndian } = reader.parseType(descr);
  const elementCount = reader.countElements(shape, dtype);
  const width = bitsOf(dtype) / 8;
  const data = reader.locateElements(byteLength, elementCount * width);
  const swapped = isBigEndian && (width === 2 || width === 4 || width === 8);
  const native = swapped ? wholeOf(byteSwappedSource(data, width)) : data;
  const ordered =
    isFortran && shape.length > 1
      ? wholeOf(
          stridedSource(native, {
            shape,
            strides: fortranStrides(shape),
            firstElement: 0,
            elementByteLength: width,
          }),
        )
      : native;
  return { name, dtype, shape, elementCount, range: ordered };
}

function wholeOf(source: ByteRange['source']): ByteRange {
  return { source, offset: 0, byteLength: source.byteLength };
}

/** In Fortran's order the first index counts up first. */
function fortranStrides(shape: readonly number[]): readonly number[] {
  let stride = 1;
  return shape.map((size) => {
    const own = stride;
    stride *= size;
    return own;
  });
}

interface NpyHeader {
  readonly descr: string;
  readonly isFortran: boolean;
  readonly shape: readonly number[];
}

class NpyReader {
  readonly #range: ByteRange;
  readonly #name: string;

  constructor(range: ByteRange, name: string) {
    this.#range = range;
    this.#name = name;
  }

  async readHeader(): Promise<{ readonly text: string; readonly byteLength: number }> {
    const head = await this.#read(0, Math.min(12, this.#range.byteLength));
    if (!looksLikeNpy(head)) throw this.#error('expected an .npy array, found other bytes');
    const [major = 0] = head.subarray(6);
    if (major < 1 || major > 3)
      throw this.#error(`expected .npy version 1, 2 or 3, found ${major}`, 'unsupported');
    const start = major === 1 ? 10 : 12;
    if (head.length < start) throw this.#error('expected an .npy header, found the end of it', 'truncated');
    const view = new DataView(head.buffer, head.byteOffset);
    const length = major === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
    if (length > MAX_HEADER_BYTES) {
      throw this.#error(
        `expected an .npy header of at most ${MAX_HEADER_BYTES} bytes, found ${length}`,
        'limit-exceeded',
      );
    }
    if (start + length > this.#range.byteLength) {
      throw this.#error(
        `expected an .npy header of ${length} bytes, found the end after ${this.#range.byteLength - start}`,
        'truncated',
      );
    }
    const text = new TextDecoder().decode(await this.#read(start, length));
    return { text, byteLength: start + length };
  }

  /** Parses what NumPy writes: three keys, each once, in any order. Anything else is no array of numbers. */
  parseHeader(text: string): NpyHeader {
    const found = new Map<string, string>();
    let rest = text.trim();
    if (!rest.startsWith('{') || !rest.endsWith('}')) throw this.#headerError(text);
    rest = rest.slice(1, -1);
    while (rest.trim() !== '') {
      const entry =
        /^\s*(['"])(descr|fortran_order|shape)\1\s*:\s*('[^']*'|"[^"]*"|True|False|\([^()]*\)|\[.*\])\s*(?:,|$)/.exec(
          rest,
        );
      const [whole = '', , key = '', value = ''] = entry ?? [];
      if (entry === null || found.has(key)) throw this.#headerError(text);
      found.set(key, value);
      rest = rest.slice(whole.length);
    }
    const [descr, order, shape] = ['descr', 'fortran_order', 'shape'].map((key) => found.get(key) ?? '');
    if (descr?.startsWith('[') === true)
      throw this.#error('expected an array of numbers, found one of records', 'unsupported');
    if (!/^['"]/.test(descr ?? '') || !/^(?:True|False)$/.test(order ?? '')) throw this.#headerError(text);
    return {
      descr: (descr ?? '').slice(1, -1),
      isFortran: order === 'True',
      shape: this.#parseShape(shape ?? '', text),
    };
  }

  #parseShape(shape: string, text: string): readonly number[] {
    const inner = /^\(([^()]*)\)$/.exec(shape)?.[1];
    if (inner === undefined) throw this.#headerError(text);
    if (inner.trim() === '') return [];
    // One size is a tuple with a comma; Python 2 wrote an L behind long integers.
    const parts = inner.replace(/,\s*$/, '').split(',');
    if (parts.length === 1 && !inner.includes(',')) throw this.#headerError(text);
    if (parts.length > MAX_RANK)
      throw this.#error(`expected at most ${MAX_RANK} axes, found ${parts.length}`, 'limit-exceeded');
    return parts.map((part) => {
      const digits = /^\s*(\d{1,16})L?\s*$/.exec(part)?.[1];
      if (digits === undefined) throw this.#headerError(text);
      return Number(digits);
    });
  }

  parseType(descr: string): { readonly dtype: DType; readonly isBigEndian: boolean } {
    if (/^[|<>=]?O/.test(descr)) {
      throw this.#error('expected an array of numbers, found pickled Python objects: refused', 'refused');
    }
    const [, order = '', kind = ''] = /^([<>|=]?)([a-zA-Z]\d+)$/.exec(descr) ?? [];
    const dtype = DTYPES[kind];
    // Without an order there must be one byte; "=" means that of the machine, which no file can.
    if (dtype === undefined || order === '=' || (bitsOf(dtype) > 8 && order !== '<' && order !== '>')) {
      throw this.#error(
        `expected an array of floats, integers or booleans, found the dtype ${quote(descr)}`,
        'unsupported',
      );
    }
    return { dtype, isBigEndian: order === '>' && bitsOf(dtype) > 8 };
  }

  countElements(shape: readonly number[], dtype: DType): number {
    const elementCount = shape.reduce((product, size) => product * size, 1);
    const isTooLarge = shape.some((size) => size > MAX_ARRAY_BYTES);
    if (isTooLarge || elementCount * (bitsOf(dtype) / 8) > MAX_ARRAY_BYTES) {
      throw this.#error(
        `expected an array of at most ${MAX_ARRAY_BYTES} bytes, found the shape (${shape.join(', ')})`,
        'limit-exceeded',
      );
    }
    return elementCount;
  }

  locateElements(start: number, byteLength: number): ByteRange {
    const { source, offset } = this.#range;
    const found = this.#range.byteLength - start;
    if (found !== byteLength) {
      throw this.#error(
        `expected ${byteLength} bytes for its shape and dtype, found ${found}`,
        found < byteLength ? 'truncated' : 'malformed',
      );
    }
    return { source, offset: offset + start, byteLength };
  }

  async #read(start: number, byteLength: number): Promise<Uint8Array> {
    const { source, offset } = this.#range;
    return await readRange({ source, offset: offset + start, byteLength });
  }

  #headerError(text: string): CheckpointError {
    return this.#error(
      `expected an .npy header with descr, fortran_order and shape, found ${quote(text.trim().slice(0, 80))}`,
    );
  }

  #error(message: string, code: CheckpointErrorCode = 'malformed'): CheckpointError {
    const { source, offset } = this.#range;
    const isWhole = offset === 0 && source.name === this.#name;
    return new CheckpointError(isWhole ? message : `array ${quote(this.#name)}: ${message}`, {
      code,
      file: source.name,
    });
  }
}

/** More arrays than any model has inputs. */
const MAX_NPZ_ENTRIES = 10_000;

/**
 * The arrays of an .npz file: a zip file with an .npy array for each name. Nothing is inflated until it is asked for.
 *
 * @throws CheckpointError as the zip directory's reader; `malformed` for an entry that is no .npy array.
 */
export async function readNpz(range: ByteRange): Promise<ReadonlyMap<string, () => Promise<Tensor>>> {
  const { source } = range;
  const archive = await openZip(source);
  if (archive.entries.size > MAX_NPZ_ENTRIES) {
    throw new CheckpointError(
      `expected at most ${MAX_NPZ_ENTRIES} arrays in an .npz file, found ${archive.entries.size}`,
      { code: 'limit-exceeded', file: source.name },
    );
  }
  const arrays = new Map<string, () => Promise<Tensor>>();
  for (const entry of archive.entries.keys()) {
    if (!entry.endsWith('.npy')) {
      throw new CheckpointError(`expected .npy arrays in an .npz file, found the entry ${quote(entry)}`, {
        code: 'malformed',
        file: source.name,
      });
    }
    const name = entry.slice(0, -'.npy'.length);
    arrays.set(name, () => readEntry(archive, entry, name));
  }
  return arrays;
}

async function readEntry(archive: ZipArchive, entry: string, name: string): Promise<Tensor> {
  const found = archive.entries.get(entry);
  if (found === undefined) throw new RangeError(`there is no entry ${entry}`);
  return await readNpy(await locateRecord(archive, found), name);
}
