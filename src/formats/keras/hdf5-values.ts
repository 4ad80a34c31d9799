// Where the values of an HDF5 dataset lie: in one piece, or in chunks that are put together as they are read.

import { inflateSync } from 'node:zlib';
import type { Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../../checkpoint/dtype.js';
import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import {
  type ByteRange,
  type ByteSource,
  checkBounds,
  holdBytes,
  readRange,
  sliceRange,
  wholeOf,
} from '../../io/byte-source.js';
import type { Cursor } from '../../io/cursor.js';
import { countElements, indexAt, stridesOf } from '../../io/row-major.js';
import { byteSwapped, type Keeper } from '../../io/views.js';
import type { Datatype, Hdf5Dataset } from './hdf5.js';
import { readNumber } from './hdf5-btree.js';
import { type Chunk, MAX_CHUNKS, readChunkIndex, readChunkTree } from './hdf5-chunks.js';

/**
 * What is put together of chunks at a time, which is also the most that one chunk may hold: those that lie beside each
 * other make up consecutive rows.
 */
const MAX_BAND_BYTES = 64 * 1024 * 1024;

/** As many filters as HDF5 itself puts one behind the other (H5Z_MAX_NFILTERS), a bit each. */
const MAX_FILTERS = 32;

/** The filters that are undone (IV.A.2.l), and the names of others that h5py and hdf5plugin write. */
const FILTER = { deflate: 1, shuffle: 2, fletcher32: 3 } as const;
const OTHER_FILTERS: ReadonlyMap<number, string> = new Map([
  [4, 'szip'],
  [5, 'nbit'],
  [6, 'scaleoffset'],
  [32000, 'lzf'],
  [32001, 'blosc'],
  [32004, 'lz4'],
  [32008, 'bitshuffle'],
  [32015, 'zstd'],
]);

const REPACK = 'Load the model and save it again: Keras itself writes neither chunks nor filters.';

/** Refuses a dataset by its name. */
type Fail = (message: string, code?: CheckpointErrorCode, hint?: string) => never;

/** One step of a filter pipeline. */
interface Filter {
  readonly id: number;
  readonly elementBytes: number;
}

/** What is known of the dataset whose chunks are put together. */
interface Chunked {
  readonly name: string;
  readonly shape: readonly number[];
  readonly chunkShape: readonly number[];
  readonly elementBytes: number;
  readonly filters: readonly Filter[];
  /** By their place in the grid, row-major. */
  readonly chunks: ReadonlyMap<number, Chunk>;
}

/**
 * A dataset as a tensor.
 *
 * @param keeper of all datasets of one model, of which one at a time holds what it has put together.
 * @returns null where its values are no numbers that tensors have.
 * @throws CheckpointError naming the dataset, for storage and filters that are not read.
 */
export async function toTensor(dataset: Hdf5Dataset, name: string, keeper: Keeper): Promise<Tensor | null> {
  const { shape, datatype } = dataset;
  const type = readElementType(datatype, dataset.attributes.get('dtype')?.[0]);
  if (type === null) return null;
  const elementCount = countElements(shape);
  const stored = await locateValues(dataset, keeper);
  const { dtype, isBigEndian } = type;
  const range = isBigEndian ? byteSwapped(stored, datatype.byteLength) : stored;
  return { name, dtype, shape, elementCount, range };
}

/**
 * The type of a tensor (IV.A.2.d). Integers: bit 0 is the byte order, bit 3 the sign; 0 2 bit offset, 2 2 precision.
 * Floats: bits 0 and 6 are the byte order; 4 1 place of the exponent, 5 1 its size, 7 1 size of the mantissa. Keras
 * writes bfloat16 as two opaque bytes, h5py booleans as an enumeration.
 */
function readElementType(
  { class: kind, bits, byteLength, properties }: Datatype,
  named: string | undefined,
): { readonly dtype: DType; readonly isBigEndian: boolean } | null {
  const width = 8 * byteLength;
  const precision = (properties[2] ?? 0) | ((properties[3] ?? 0) << 8);
  const isNumber = (kind === 0 || (kind === 1 && (bits & 0x40) === 0)) && precision === width;
  const isShortExponent = properties[5] === 8 && properties[7] === 7;
  const float = isShortExponent ? 'BF16' : `F${width}`;
  const called =
    kind === 8
      ? 'BOOL'
      : kind === 5
        ? named?.replace('bfloat16', 'BF16')
        : kind === 1
          ? float
          : `${bits & 8 ? 'I' : 'U'}${width}`;
  const dtype = ELEMENT_TYPES.find((known) => known === called && bitsOf(known) === width);
  const isKnown = isNumber || kind === 5 || kind === 8;
  return dtype === undefined || !isKnown ? null : { dtype, isBigEndian: isNumber && (bits & 1) !== 0 };
}

const ELEMENT_TYPES: readonly DType[] = [
  ...(['I8', 'U8', 'I16', 'U16', 'I32', 'U32', 'I64', 'U64'] as const),
  ...(['F16', 'BF16', 'F32', 'F64', 'BOOL'] as const),
];

/**
 * Where a dataset's bytes are (IV.A.2.i). 0 version (3, 4 or 5), 1 class: 0 in the header (2 2 size, bytes), 1 in one
 * piece (2 8 address, 10 8 size), 2 in chunks, 3 in other datasets.
 */
async function locateValues(dataset: Hdf5Dataset, keeper: Keeper): Promise<ByteRange> {
  const { reader, layout, shape, datatype, path } = dataset;
  const fail = (message: string, code: CheckpointErrorCode = 'malformed', hint?: string): never =>
    reader.fail(`dataset ${quote(path)}: ${message}`, { code, ...(hint === undefined ? {} : { hint }) });
  const byteLength = countElements(shape) * datatype.byteLength;
  if (byteLength === 0) return holdBytes(new Uint8Array(0));
  const version = layout.readU8();
  const kind = layout.readU8();
  if (version < 3 || version > 5)
    return fail(`expected a data layout of version 3 to 5, found ${version}`, 'unsupported');
  if (kind === 3) return fail('is virtual: its values lie in other files, which are not opened', 'refused');
  if (kind === 0) {
    const size = layout.readU16();
    if (size < byteLength) return fail(`expected ${byteLength} bytes in its header, found ${size}`);
    // A copy: checksums of the header depend on these bytes, so that they cannot be replaced where they stand.
    return holdBytes(layout.readBytes(byteLength).slice());
  }
  if (kind === 1) {
    const address = reader.readAddress(layout);
    const size = layout.readU64();
    if (address === null)
      return fail('expected values, found none stored: they are its fill value', 'unsupported');
    if (size < byteLength || address + byteLength > reader.file.byteLength)
      return fail(
        `expected ${byteLength} bytes at ${address}, found ${size} in a file of ${reader.file.byteLength}`,
        'truncated',
      );
    return sliceRange(reader.file, address, address + byteLength);
  }
  if (kind !== 2) return fail(`expected a known data layout, found class ${kind}`);
  return locateChunks(dataset, version, { keeper, fail });
}

/**
 * Chunks. Version 3: 2 1 rank + 1, 3 8 address of a B-tree, then four bytes a dimension, the element's size last.
 * Version 4: 2 1 flags, 3 1 rank + 1, 4 1 size of a dimension, the dimensions, kind of index, what that needs, address.
 */
async function locateChunks(
  { reader, layout, shape, fullShape, datatype, path, filters: pipeline }: Hdf5Dataset,
  version: number,
  { keeper, fail }: { keeper: Keeper; fail: Fail },
): Promise<ByteRange> {
  const flags = version === 3 ? 0 : layout.readU8();
  const rank = layout.readU8() - 1;
  if (rank !== shape.length || rank < 1)
    return fail(`expected chunks of ${shape.length} dimensions, found ${rank}`);
  const tree = version === 3 ? reader.readAddress(layout) : null;
  const sizeBytes = version === 3 ? 4 : layout.readU8();
  const sizes = Array.from({ length: rank + 1 }, () => readNumber(layout.readBytes(sizeBytes)));
  const elementBytes = datatype.byteLength;
  if (sizes.some((size) => !(size >= 1 && Number.isSafeInteger(size))) || sizes[rank] !== elementBytes)
    return fail(`expected chunks of elements of ${elementBytes} bytes, found [${sizes.join(', ')}]`);
  const chunkShape = sizes.slice(0, rank);
  const [grid = [], fullGrid = []] = [shape, fullShape].map((sizes) =>
    sizes.map((size, axis) => Math.ceil(size / (chunkShape[axis] ?? 1))),
  );
  const bandBytes =
    countElements(chunkShape.map((size, axis) => (axis === 0 ? size : size * (grid[axis] ?? 1)))) *
    elementBytes;
  const filters = pipeline === null ? [] : readFilters(pipeline, fail);
  if (countElements(grid) > MAX_CHUNKS)
    return fail(
      `expected at most ${MAX_CHUNKS} chunks, found ${countElements(grid)}`,
      'limit-exceeded',
      REPACK,
    );
  if (bandBytes > MAX_BAND_BYTES)
    return fail(
      `expected chunks of which ${MAX_BAND_BYTES} bytes make up whole rows, found ${bandBytes}`,
      'limit-exceeded',
      REPACK,
    );
  const chunkBytes = countElements(chunkShape) * elementBytes;
  const chunks = new Map<number, Chunk>();
  const add = (place: number, chunk: Chunk) => {
    if (chunk.byteLength > 2 * MAX_BAND_BYTES || chunk.address + chunk.byteLength > reader.file.byteLength)
      fail(
        `expected a chunk of ${chunk.byteLength} bytes at ${chunk.address}, found the end of the file`,
        'truncated',
      );
    chunks.set(place, chunk);
  };
  const list = { chunkShape, grid, fullGrid, chunkBytes, isFiltered: filters.length > 0, add, fail };
  if (version !== 3) await readChunkIndex(reader, layout, { ...list, flags });
  else if (tree !== null) await readChunkTree(reader, tree, list);
  if (chunks.size < countElements(grid))
    return fail(
      `expected ${countElements(grid)} chunks, found ${chunks.size}: the others are its fill value`,
      'unsupported',
    );
  const chunked = { name: path, shape, chunkShape, elementBytes, filters, chunks };
  return wholeOf(chunkedSource(reader.file, chunked, keeper));
}

/**
 * A filter pipeline (IV.A.2.l): 0 version, 1 number; of a filter 2 id, 2 size of its name (version 2: only above 255), 2
 * flags, 2 number of values; the name, the values of four bytes, in version 1 an even number of them.
 */
function readFilters(cursor: Cursor, fail: Fail): readonly Filter[] {
  const version = cursor.readU8();
  const count = cursor.readU8();
  if (count > MAX_FILTERS) fail(`expected at most ${MAX_FILTERS} filters, found ${count}`, 'limit-exceeded');
  if (version === 1) cursor.skip(6);
  return Array.from({ length: count }, () => {
    const id = cursor.readU16();
    const nameBytes = version === 1 || id > 255 ? cursor.readU16() : 0;
    cursor.skip(2);
    const values = cursor.readU16();
    cursor.skip(nameBytes);
    const [first = 0] = Array.from({ length: values }, () => cursor.readU32());
    if (version === 1 && values % 2 === 1) cursor.skip(4);
    if (!Object.values(FILTER).some((known) => known === id))
      fail(
        `is filtered by ${OTHER_FILTERS.get(id) ?? 'an unknown filter'} (${id}), which is not undone here`,
        'unsupported',
        REPACK,
      );
    return { id, elementBytes: first };
  });
}

/** Rows of a dataset that were put together. */
interface Band {
  readonly start: number;
  readonly bytes: Uint8Array;
}

/**
 * Chunks as a source of row-major bytes. Those of one row of the grid make up consecutive rows of the dataset, which are
 * put together at a time and held until others are asked for.
 */
function chunkedSource(file: ByteRange, chunked: Chunked, keeper: Keeper): ByteSource {
  const { shape, chunkShape, elementBytes, chunks } = chunked;
  const [rows = 1, ...others] = shape;
  const [chunkRows = 1] = chunkShape;
  const rowBytes = countElements(others) * elementBytes;
  let held: Band = { start: 0, bytes: new Uint8Array(0) };
  const release = () => {
    held = { start: 0, bytes: new Uint8Array(0) };
  };
  const starts = [...chunks.values()].map(({ address }) => address);
  const ends = [...chunks.values()].map(({ address, byteLength }) => address + byteLength);
  const source: ByteSource = {
    name: file.source.name,
    byteLength: rows * rowBytes,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      for (let done = 0; done < target.byteLength; ) {
        const at = position + done;
        if (at < held.start || at >= held.start + held.bytes.byteLength) {
          keeper.take(release);
          release();
          held = await readBand(file, chunked, Math.floor(at / (chunkRows * rowBytes)));
        }
        const from = at - held.start;
        const part = held.bytes.subarray(from, from + target.byteLength - done);
        target.set(part, done);
        done += part.byteLength;
      }
    },
    close: () => file.source.close(),
    // The chunks' own bytes lie within these.
    computedFrom: sliceRange(
      file,
      starts.reduce((x, y) => Math.min(x, y)),
      ends.reduce((x, y) => Math.max(x, y)),
    ),
  };
  return source;
}

async function readBand(file: ByteRange, chunked: Chunked, index: number): Promise<Band> {
  const { shape, chunkShape, elementBytes, chunks } = chunked;
  const [rows = 1, ...others] = shape;
  const [chunkRows = 1, ...chunkOthers] = chunkShape;
  const rowBytes = countElements(others) * elementBytes;
  const firstRow = index * chunkRows;
  const bytes = new Uint8Array(Math.min(chunkRows, rows - firstRow) * rowBytes);
  const bandShape = [bytes.byteLength / rowBytes, ...others];
  const grid = others.map((size, axis) => Math.ceil(size / (chunkOthers[axis] ?? 1)));
  const perBand = countElements(grid);
  for (let place = 0; place < perBand; place++) {
    const chunk = chunks.get(index * perBand + place);
    if (chunk === undefined) continue;
    const stored = await readRange(sliceRange(file, chunk.address, chunk.address + chunk.byteLength));
    const starts = [0, ...indexAt(place, grid).map((at, axis) => at * (chunkOthers[axis] ?? 1))];
    const content = undoFilters(stored, chunk, chunked, file);
    copyChunk({ content, chunkShape, elementBytes }, { bytes, shape: bandShape, starts });
  }
  return { start: firstRow * rowBytes, bytes };
}

/** Copies what of a chunk lies in the dataset: at its end, chunks reach beyond it. */
function copyChunk(
  {
    content,
    chunkShape,
    elementBytes,
  }: { content: Uint8Array; chunkShape: readonly number[]; elementBytes: number },
  { bytes, shape, starts }: { bytes: Uint8Array; shape: readonly number[]; starts: readonly number[] },
): void {
  const [sources, targets] = [stridesOf(chunkShape), stridesOf(shape)];
  const last = shape.length - 1;
  const copy = (axis: number, from: number, to: number): void => {
    const size = Math.min(chunkShape[axis] ?? 1, (shape[axis] ?? 1) - (starts[axis] ?? 0));
    const target = to + (starts[axis] ?? 0) * (targets[axis] ?? 1);
    if (axis === last) {
      const start = from * elementBytes;
      bytes.set(content.subarray(start, start + size * elementBytes), target * elementBytes);
      return;
    }
    for (let at = 0; at < size; at++)
      copy(axis + 1, from + at * (sources[axis] ?? 1), target + at * (targets[axis] ?? 1));
  };
  copy(0, 0, 0);
}

/** A chunk's bytes as they were before the filters, which are undone from the last to the first. */
function undoFilters(
  stored: Uint8Array,
  { address, skipped }: Chunk,
  { name, chunkShape, elementBytes, filters }: Chunked,
  { source, offset }: ByteRange,
): Uint8Array {
  const byteLength = countElements(chunkShape) * elementBytes;
  let bytes = stored;
  const fail = (found: string, cause?: unknown) =>
    new CheckpointError(`dataset ${quote(name)}: expected a chunk of ${byteLength} bytes, found ${found}`, {
      code: 'malformed',
      file: source.name,
      offset: offset + address,
      cause,
    });
  for (const [index, { id, elementBytes: unit }] of [...filters.entries()].reverse()) {
    if ((skipped >>> index) & 1) continue;
    if (id === FILTER.fletcher32) bytes = bytes.subarray(0, Math.max(0, bytes.byteLength - 4));
    else if (id === FILTER.shuffle) bytes = unshuffle(bytes, unit);
    else {
      try {
        // What was filtered before may have added a checksum of 4 bytes for each filter.
        bytes = inflateSync(bytes, { maxOutputLength: byteLength + 4 * filters.length });
      } catch (error) {
        throw fail('bytes that do not inflate to that', error);
      }
    }
  }
  if (bytes.byteLength !== byteLength) throw fail(`${bytes.byteLength}`);
  return bytes;
}

/** Shuffled are first the first bytes of all elements, then their second ones, and so on; a rest stays at the end. */
function unshuffle(bytes: Uint8Array, unit: number): Uint8Array {
  const count = Math.floor(bytes.byteLength / Math.max(1, unit));
  if (unit < 2 || count < 2) return bytes;
  // A copy of its own: a slice of what node:zlib returns would be none.
  const result = new Uint8Array(bytes);
  for (let place = 0; place < unit; place++)
    for (let index = 0; index < count; index++)
      result[index * unit + place] = bytes[place * count + index] ?? 0;
  return result;
}
