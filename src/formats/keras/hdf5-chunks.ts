// Finds the chunks of an HDF5 dataset by the index that lists them, of which there are six kinds.

import type { CheckpointErrorCode } from '../../errors.js';
import { Cursor } from '../../io/cursor.js';
import { countElements, indexAt, placeOf } from '../../io/row-major.js';
import { startsWith } from '../sniff.js';
import type { Hdf5Reader } from './hdf5.js';
import { listRecords, readNumber } from './hdf5-btree.js';
import { isPowerOfTwo } from './hdf5-heap.js';

/** Chunks of one dataset; h5py makes them of 8 KiB to 1 MiB where it is left to choose. */
export const MAX_CHUNKS = 100_000;

/** A chunk as it is stored. */
export interface Chunk {
  readonly address: number;
  readonly byteLength: number;
  /** A bit for each filter that was left out. */
  readonly skipped: number;
}

/** A dataset whose chunks are looked for. */
interface ChunkGrid {
  readonly chunkShape: readonly number[];
  /** How many chunks the dataset has along each of its dimensions. */
  readonly grid: readonly number[];
  /** How many it could have when it has grown; Infinity where nothing bounds it. */
  readonly fullGrid: readonly number[];
  /** Bytes of a chunk without filters. */
  readonly chunkBytes: number;
  readonly isFiltered: boolean;
  /** Takes a chunk, by its place in the grid, row-major. */
  readonly add: (place: number, chunk: Chunk) => void;
  /** Refuses the dataset by its name. */
  readonly fail: (message: string, code?: CheckpointErrorCode) => never;
}

/** Keys of a chunk B-tree (III.A.1): 0 4 stored size, 4 4 filters left out, then where it begins, eight bytes a dimension. */
export async function readChunkTree(
  reader: Hdf5Reader,
  tree: number,
  { chunkShape, grid, add }: ChunkGrid,
): Promise<void> {
  const keyBytes = 16 + 8 * grid.length;
  for (const { key, address } of await reader.readTree(tree, 1, keyBytes, MAX_CHUNKS)) {
    const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
    const starts = chunkShape.map((size, axis) => Number(view.getBigUint64(8 + 8 * axis, true)) / size);
    const place = findPlace(starts, grid);
    if (place === null)
      reader.fail('expected a chunk that begins in its dataset, found another', { address });
    else add(place, { address, byteLength: view.getUint32(0, true), skipped: view.getUint32(4, true) });
  }
}

/** The place of a chunk in a grid, row-major; null for one that lies beyond it. */
function findPlace(starts: readonly number[], grid: readonly number[]): number | null {
  const isWithin = starts.every((start, axis) => Number.isInteger(start) && start < (grid[axis] ?? 0));
  return isWithin ? placeOf(starts, grid) : null;
}

/**
 * The indexes of version 4 (VII), of which the layout says the kind, what that needs, and the address. 1 single chunk: 8
 * size and 4 filters left out, where it is filtered (flag 2). 2 implicit: one chunk after the other. 3 fixed array: 1 bits
 * of a page. 4 extensible array: five sizes of a byte each, which its header has too. 5 B-tree of version 2: 4 size of a
 * node, 2 when nodes split and merge.
 */
export async function readChunkIndex(
  reader: Hdf5Reader,
  layout: Cursor,
  { flags, ...chunks }: ChunkGrid & { readonly flags: number },
): Promise<void> {
  const { chunkBytes, add, fail } = chunks;
  const kind = layout.readU8();
  if (kind < 1 || kind > 5) fail(`expected a known index of chunks, found number ${kind}`, 'unsupported');
  const hasSize = kind === 1 && (flags & 2) !== 0;
  const byteLength = hasSize ? Number(layout.readU64()) : chunkBytes;
  const skipped = hasSize ? layout.readU32() : 0;
  layout.skip([0, 0, 0, 1, 5, 6][kind] ?? 0);
  const address = reader.readAddress(layout);
  if (address === null) return;
  if (kind === 1) return add(0, { address, byteLength, skipped });
  if (kind === 5) return readNewTree(reader, address, chunks);
  const places = numberPlaces(chunks, kind === 4);
  const put = (number: number, chunk: Chunk) => {
    const place = places.get(number);
    if (place !== undefined) add(place, chunk);
  };
  if (kind === 3) return readFixedArray(reader, address, { ...chunks, put });
  if (kind === 4) return readExtensibleArray(reader, address, { ...chunks, put });
  for (const [number, place] of places)
    add(place, { address: address + number * chunkBytes, byteLength, skipped });
}

/**
 * The chunks of a dataset by the numbers that arrays have for them: row-major in all that the dataset could grow to, the
 * dimension that has no bound first where there is one, e.g. columns first for shape (2, 3) that may become (2, ∞).
 */
function numberPlaces({ grid, fullGrid, fail }: ChunkGrid, canGrow: boolean): ReadonlyMap<number, number> {
  const endless = canGrow ? fullGrid.indexOf(Number.POSITIVE_INFINITY) : -1;
  const axes = [...grid.keys()].sort((x, y) => Number(y === endless) - Number(x === endless));
  const places = new Map<number, number>();
  const count = countElements(grid);
  for (let place = 0; place < count; place++) {
    const starts = indexAt(place, grid);
    const number = axes.reduce(
      (sum, axis, index) => (index === 0 ? 0 : sum * (fullGrid[axis] ?? 1)) + (starts[axis] ?? 0),
      0,
    );
    if (!Number.isSafeInteger(number)) fail('expected chunks that can be numbered, found too many');
    places.set(number, place);
  }
  return places;
}

/** What an array lists its chunks to, by their numbers. */
type Numbered = ChunkGrid & { readonly put: (number: number, chunk: Chunk) => void };

/** An entry of an array: 8 address; where filtered, its size in what the entry has left for it, and 4 filters left out. */
function readEntry(reader: Hdf5Reader, cursor: Cursor, entryBytes: number, array: ChunkGrid): Chunk | null {
  const address = reader.readAddress(cursor);
  const byteLength = array.isFiltered ? readNumber(cursor.readBytes(entryBytes - 12)) : array.chunkBytes;
  const skipped = array.isFiltered ? cursor.readU32() : 0;
  return address === null ? null : { address, byteLength, skipped };
}

function checkEntryBytes(entryBytes: number, { isFiltered, fail }: ChunkGrid): void {
  if (isFiltered ? entryBytes < 13 || entryBytes > 20 : entryBytes !== 8)
    fail(`expected an array of chunks, found entries of ${entryBytes} bytes`);
}

/**
 * A fixed array (VII.C): FAHD, 5 1 filtered, 6 1 size of an entry, 7 1 bits of a page, 8 8 entries, 16 8 its block. The
 * block: FADB, 14 bytes of header; where there are more entries than a page holds, a bit for each page (the highest first)
 * and a checksum, and a checksum behind each page. A page without its bit was never written.
 */
async function readFixedArray(reader: Hdf5Reader, address: number, array: Numbered): Promise<void> {
  const { fullGrid, put, fail } = array;
  const count = countElements(fullGrid);
  const head = await reader.read(address, 24, 'a fixed array');
  if (!startsWith(head.bytes, 'FAHD')) fail('expected a fixed array of chunks, found other bytes');
  head.skip(6);
  const [entryBytes, pageBits, entries] = [head.readU8(), head.readU8(), Number(head.readU64())];
  const block = reader.readAddress(head);
  checkEntryBytes(entryBytes, array);
  if (entries !== count || pageBits > 32) fail(`expected a fixed array of ${count} chunks, found ${entries}`);
  if (block === null) return;
  const perPage = 2 ** pageBits;
  const pages = count > perPage ? Math.ceil(count / perPage) : 0;
  const prefix = 14 + (pages > 0 ? Math.ceil(pages / 8) + 4 : 0);
  const byteLength = prefix + count * entryBytes + Math.max(0, pages - 1) * 4;
  const body = await reader.read(block, byteLength, 'a fixed array');
  if (!startsWith(body.bytes, 'FADB')) fail('expected a block of a fixed array, found other bytes');
  body.skip(prefix);
  for (let number = 0; number < count; number++) {
    const page = Math.floor(number / perPage);
    if (page > 0 && number % perPage === 0) body.skip(4);
    const entry = readEntry(reader, body, entryBytes, array);
    const isWritten = pages === 0 || (body.bytes[14 + (page >> 3)] ?? 0) & (0x80 >> (page & 7));
    if (entry !== null && isWritten) put(number, entry);
  }
}

/**
 * An extensible array (VII.D): EAHD, 6 1 size of an entry, 7 1 bits of their number, 8 1 entries in the index block, 9 1
 * entries of the smallest data block, 10 1 addresses of the smallest super block, 11 1 bits of a page, 60 8 the index
 * block. That is EAIB, 14 bytes of header, entries, addresses of data blocks, then of super blocks. A super block, EASB, 14
 * bytes of header and the number that it begins at, has addresses of data blocks; EADB, with the same header, has entries.
 *
 * Level u is 2^⌊u/2⌋ blocks of 2^⌈u/2⌉ times the smallest. The first levels are listed in the index block, as many as have
 * fewer blocks each than the smallest super block; each of the others has a super block.
 */
async function readExtensibleArray(reader: Hdf5Reader, address: number, array: Numbered): Promise<void> {
  const { put, fail } = array;
  const head = await reader.read(address, 68, 'an extensible array');
  if (!startsWith(head.bytes, 'EAHD')) fail('expected an extensible array of chunks, found other bytes');
  head.skip(6);
  const [entryBytes, bits, direct] = [head.readU8(), head.readU8(), head.readU8()];
  const [smallest, fewest, pageBits] = [head.readU8(), head.readU8(), head.readU8()];
  head.skip(48);
  const indexBlock = reader.readAddress(head);
  checkEntryBytes(entryBytes, array);
  if (![smallest, fewest].every(isPowerOfTwo) || bits > 64 || pageBits > 32)
    fail('expected an extensible array of chunks, found sizes that none has');
  if (indexBlock === null) return;
  const readBlock = async (at: number, tag: string, prefix: number, bytes: number): Promise<Cursor> => {
    const block = await reader.read(at, prefix + bytes, 'an extensible array');
    if (!startsWith(block.bytes, tag))
      fail(`expected a block ${tag} of an extensible array, found other bytes`);
    block.skip(prefix);
    return block;
  };
  const prefix = 14 + Math.ceil(bits / 8);
  let number = 0;
  const readEntries = (block: Cursor, count: number): void => {
    for (const end = number + count; number < end; number++) {
      const entry = readEntry(reader, block, entryBytes, array);
      if (entry !== null) put(number, entry);
    }
  };
  const readDataBlocks = async (addresses: Cursor, blocks: number, count: number): Promise<void> => {
    for (let index = 0; index < blocks; index++) {
      const at = reader.readAddress(addresses);
      if (at === null) number += count;
      else if (count > 2 ** pageBits)
        fail('expected an extensible array of fewer chunks, found one in pages', 'unsupported');
      else readEntries(await readBlock(at, 'EADB', prefix, count * entryBytes), count);
    }
  };
  const levels = 1 + bits - Math.log2(smallest);
  const listed = 2 * Math.log2(fewest);
  const addresses = 2 * (fewest - 1) + Math.max(0, levels - listed);
  const index = await readBlock(indexBlock, 'EAIB', 14, direct * entryBytes + addresses * 8);
  readEntries(index, direct);
  for (let level = 0; level < levels; level++) {
    const [blocks, count] = [2 ** (level >> 1), smallest * 2 ** ((level + 1) >> 1)];
    if (level < listed) await readDataBlocks(index, blocks, count);
    else {
      const at = reader.readAddress(index);
      if (at === null) number += blocks * count;
      // In pages, a super block has bits between its number and its addresses; the data blocks are refused.
      else await readDataBlocks(await readBlock(at, 'EASB', prefix, blocks * 8), blocks, count);
    }
  }
}

/** The records of a B-tree of version 2 (III.A.2, types 10 and 11): an entry, and the place in chunks, 8 a dimension. */
async function readNewTree(reader: Hdf5Reader, address: number, chunks: ChunkGrid): Promise<void> {
  const { grid, isFiltered, add, fail } = chunks;
  const origin = { file: reader.file.source.name, baseOffset: null, subject: 'a B-tree' };
  for (const record of await listRecords(reader, address, isFiltered ? 11 : 10)) {
    const cursor = new Cursor(record, origin);
    const entryBytes = record.byteLength - 8 * grid.length;
    checkEntryBytes(entryBytes, chunks);
    const chunk = readEntry(reader, cursor, entryBytes, chunks);
    const place = findPlace(
      grid.map(() => Number(cursor.readU64())),
      grid,
    );
    if (place === null) fail('expected a chunk that begins in its dataset, found another');
    else if (chunk !== null) add(place, chunk);
  }
}
