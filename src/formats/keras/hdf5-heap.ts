// Reads what HDF5 keeps densely: many members or attributes, in a fractal heap that a B-tree of version 2 lists.

import type { Cursor } from '../../io/cursor.js';
import { startsWith } from '../sniff.js';
import { type AddressedFile, bytesFor, listRecords, readNumber } from './hdf5-btree.js';

// "HDF5 File Format Specification Version 3.0": III.G. Checksums are not looked at.

/** Rows of blocks, each twice as long as the one before: 64 bits of addresses have no more. */
const MAX_ROWS = 64;

/** What the records of a tree are, and where in each the heap's number of its object stands. */
const RECORDS = { link: { type: 5, idOffset: 4 }, attribute: { type: 8, idOffset: 0 } } as const;

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
  reader: AddressedFile,
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
 * A fractal heap's header: FRHP, 5 2 length of an object's number, 7 2 filters, 9 1 flags, 10 4 longest object in a
 * block, 22 8 tree of longer ones, 110 2 width of the table, 112 8 first block's size, 120 8 largest direct block, 128
 * 2 bits of an offset, 132 8 root block, 140 2 its rows.
 */
async function openHeap(reader: AddressedFile, address: number) {
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

/** Whether a size is one that HDF5 gives blocks. */
export function isPowerOfTwo(value: number): boolean {
  return value >= 1 && value <= Number.MAX_SAFE_INTEGER && Number.isInteger(Math.log2(value));
}
