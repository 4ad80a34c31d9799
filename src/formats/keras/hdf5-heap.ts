// Reads what HDF5 keeps densely: many members or attributes, in a fractal heap that a B-tree of version 2 lists.

import type { CheckpointErrorCode } from '../../errors.js';
import type { Cursor } from '../../io/cursor.js';
import { startsWith } from '../sniff.js';

// "HDF5 File Format Specification Version 3.0": III.A.2 for the tree, III.G for the heap. Checksums are not looked at.

/** The file that a heap is in, of which pieces are read by their addresses. */
interface HeapFile {
  read(address: number, byteLength: number, subject: string): Promise<Cursor>;
  readAddress(cursor: Cursor): number | null;
  fail(message: string, about: { readonly code?: CheckpointErrorCode; readonly address: number }): never;
}

/** Rows of blocks, each twice as long as the one before: 64 bits of addresses have no more. */
const MAX_ROWS = 64;

/** Nodes of a tree that is read; one holds ten entries and more. */
const MAX_NODES = 100_000;

/** What the records of a tree are, and where in each the heap's number of its object stands. */
const RECORDS = {
  link: { type: 5, idOffset: 4 },
  attribute: { type: 8, idOffset: 0 },
} as const;

/** Where a heap lists objects that are too long for its blocks: address, length and number, of 8 bytes each. */
const HUGE_TYPE = 1;

/** A list of weights' names may have some megabytes. */
const MAX_HUGE_BYTES = 64 * 1024 * 1024;

/**
 * The messages of all members or attributes that an object keeps densely, in no particular order.
 *
 * @param heap where the fractal heap is, and `tree` the B-tree that lists by name what is in it.
 * @throws CheckpointError `unsupported` for what h5py does not write: objects outside of the heap, filters; `malformed`,
 *   `truncated` or `limit-exceeded` for a broken or hostile file.
 */
export async function readDense(
  reader: HeapFile,
  kind: keyof typeof RECORDS,
  { heap, tree }: { readonly heap: number; readonly tree: number },
): Promise<readonly Cursor[]> {
  const { type, idOffset } = RECORDS[kind];
  const open = await openHeap(reader, heap);
  const messages: Cursor[] = [];
  for (const record of await listRecords(reader, tree, type)) {
    const id = record.subarray(idOffset, idOffset + open.idBytes);
    messages.push(await open.read(id));
  }
  return messages;
}

/**
 * A fractal heap's header: FRHP, 5 2 length of an object's number, 7 2 filters, 9 1 flags, 10 4 longest object in
 * a block, 22 8 tree of longer ones, 110 2 width
 * of the table, 112 8 first block's size, 120 8 largest direct block, 128 2 bits of an offset, 132 8 root block, 140 2 its
 * rows.
 */
async function openHeap(reader: HeapFile, address: number) {
  const head = await reader.read(address, 142, 'a fractal heap');
  if (!startsWith(head.bytes, 'FRHP')) reader.fail('expected a fractal heap, found other bytes', { address });
  head.skip(5);
  const [idBytes, filterBytes] = [head.readU16(), head.readU16()];
  head.skip(1);
  const longest = head.readU32();
  head.skip(8);
  const longer = reader.readAddress(head);
  head.skip(80);
  const width = head.readU16();
  const [first, largest] = [Number(head.readU64()), Number(head.readU64())];
  const offsetBytes = Math.ceil(head.readU16() / 8);
  head.skip(2);
  const root = reader.readAddress(head);
  const rows = head.readU16();
  const lengthBytes = Math.min(bytesFor(largest), bytesFor(longest));
  if (filterBytes > 0)
    reader.fail('expected a fractal heap without filters, found some', { code: 'unsupported', address });
  if (!isPowerOfTwo(first) || !isPowerOfTwo(largest) || width === 0 || offsetBytes > 8 || rows > MAX_ROWS)
    reader.fail('expected a fractal heap, found sizes that none has', { address });
  const directRows = Math.log2(largest) - Math.log2(first) + 2;
  const sizeOf = (row: number) => first * 2 ** Math.max(0, row - 1);

  /** Where the byte at an offset of the heap is. Children of an indirect block stand behind 13 bytes and its offset. */
  const locate = async (block: number, count: number, offset: number, depth = 0): Promise<number> => {
    if (count === 0) return block + offset;
    let start = 0;
    for (let row = 0; row < count; row++) {
      const size = sizeOf(row);
      const column = Math.floor((offset - start) / size);
      if (column >= width) {
        start += width * size;
        continue;
      }
      const place = block + 13 + offsetBytes + 8 * (row * width + column);
      const child = reader.readAddress(await reader.read(place, 8, 'a fractal heap'));
      if (child === null || depth > MAX_ROWS) break;
      const rest = offset - start - column * size;
      const inner = row < directRows ? 0 : Math.log2(size) - Math.log2(first * width) + 1;
      return locate(child, inner, rest, depth + 1);
    }
    return reader.fail('expected an object within its fractal heap, found none there', { address });
  };

  const readHuge = async (number: number): Promise<Cursor> => {
    const records = longer === null ? [] : await listRecords(reader, longer, HUGE_TYPE);
    const record = records.find((one) => readNumber(one.subarray(16, 24)) === number);
    const byteLength = record === undefined ? Number.NaN : readNumber(record.subarray(8, 16));
    if (record === undefined || !(byteLength <= MAX_HUGE_BYTES))
      return reader.fail('expected a long object of a fractal heap, found none, or one that is too long', {
        address,
      });
    return reader.read(readNumber(record.subarray(0, 8)), byteLength, 'a fractal heap');
  };

  const read = async (id: Uint8Array): Promise<Cursor> => {
    const kind = ((id[0] ?? 0) >> 4) & 3;
    if (kind === 1) return readHuge(readNumber(id.subarray(1)));
    if (kind !== 0 || root === null || id.byteLength < 1 + offsetBytes + lengthBytes)
      reader.fail('expected an object within its fractal heap, found one that is kept elsewhere', {
        code: 'unsupported',
        address,
      });
    const offset = readNumber(id.subarray(1, 1 + offsetBytes));
    const byteLength = readNumber(id.subarray(1 + offsetBytes, 1 + offsetBytes + lengthBytes));
    if (byteLength > longest)
      reader.fail(`expected an object of at most ${longest} bytes in a fractal heap, found more`, {
        address,
      });
    return reader.read(await locate(root, rows, offset), byteLength, 'a fractal heap');
  };
  return { idBytes, read };
}

/**
 * The records of a B-tree of version 2: BTHD, 5 1 type, 6 4 size of a node, 10 2 of a record, 12 2 depth, 16 8 root, 24 2
 * its records. A node: BTLF or BTIN, 6 its records, then, in inner ones, for each child its address and its counts.
 */
export async function listRecords(
  reader: HeapFile,
  address: number,
  type: number,
): Promise<readonly Uint8Array[]> {
  const head = await reader.read(address, 26, 'a B-tree');
  if (!startsWith(head.bytes, 'BTHD')) reader.fail('expected a B-tree, found other bytes', { address });
  head.skip(5);
  const found = head.readU8();
  const [nodeBytes, recordBytes, depth] = [head.readU32(), head.readU16(), head.readU16()];
  head.skip(2);
  const root = reader.readAddress(head);
  const count = head.readU16();
  if (found !== type || recordBytes === 0 || nodeBytes < 10 + recordBytes || depth > MAX_ROWS)
    reader.fail('expected a B-tree of the other kind, found one that does not fit', { address });
  // How many records a node of each level may hold, and all below it: their counts take as many bytes as these need.
  const most = [Math.floor((nodeBytes - 10) / recordBytes)];
  const below = [most[0] ?? 0];
  const countBytes = bytesFor(most[0] ?? 0);
  const pointerBytes = (level: number) => 8 + countBytes + (level > 1 ? bytesFor(below[level - 1] ?? 0) : 0);
  for (let level = 1; level <= depth; level++) {
    const own = Math.floor((nodeBytes - 10 - pointerBytes(level)) / (recordBytes + pointerBytes(level)));
    most.push(own);
    below.push((own + 1) * (below[level - 1] ?? 0) + own);
  }
  const records: Uint8Array[] = [];
  let nodes = 0;
  const visit = async (at: number, own: number, level: number): Promise<void> => {
    if (++nodes > MAX_NODES)
      reader.fail(`expected a B-tree of at most ${MAX_NODES} nodes, found more`, {
        code: 'limit-exceeded',
        address: at,
      });
    if (own > (most[level] ?? 0))
      reader.fail('expected a node of a B-tree, found more records than it has room for', { address: at });
    const node = await reader.read(at, nodeBytes, 'a B-tree');
    if (!startsWith(node.bytes, level > 0 ? 'BTIN' : 'BTLF'))
      reader.fail('expected a node of a B-tree, found other bytes', { address: at });
    node.skip(6);
    for (let index = 0; index < own; index++) records.push(node.readBytes(recordBytes));
    for (let index = 0; level > 0 && index <= own; index++) {
      const child = reader.readAddress(node);
      const held = readNumber(node.readBytes(countBytes));
      node.skip(pointerBytes(level) - 8 - countBytes);
      if (child === null)
        reader.fail('expected the address of a node of a B-tree, found none', { address: at });
      await visit(child, held, level - 1);
    }
  };
  if (root !== null) await visit(root, count, depth);
  return records;
}

/** How many bytes a number up to this one takes. */
function bytesFor(most: number): number {
  return Math.floor(Math.log2(Math.max(1, most)) / 8) + 1;
}

function isPowerOfTwo(value: number): boolean {
  return value >= 1 && value <= Number.MAX_SAFE_INTEGER && Number.isInteger(Math.log2(value));
}

/** An unsigned number of some bytes, the lowest first. */
export function readNumber(bytes: Uint8Array): number {
  return bytes.reduceRight((sum, byte) => sum * 256 + byte, 0);
}
