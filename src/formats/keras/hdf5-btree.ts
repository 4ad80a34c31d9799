// Reads B-trees of version 2, by which HDF5 lists what is in a heap, and the chunks of some datasets.

import type { CheckpointErrorCode } from '../../errors.js';
import type { Cursor } from '../../io/cursor.js';
import { startsWith } from '../sniff.js';

// "HDF5 File Format Specification Version 3.0", III.A.2. Checksums are not looked at.

/** A file, of which pieces are read by their addresses. */
export interface AddressedFile {
  read(address: number, byteLength: number, subject: string): Promise<Cursor>;
  readAddress(cursor: Cursor): number | null;
  fail(message: string, about: { readonly code?: CheckpointErrorCode; readonly address: number }): never;
}

/** Levels of a tree: 64 bits of addresses have no more. */
const MAX_DEPTH = 64;

/** Nodes of a tree that is read; one holds ten entries and more. */
const MAX_NODES = 100_000;

/**
 * The records of a B-tree of version 2: BTHD, 5 1 type, 6 4 size of a node, 10 2 of a record, 12 2 depth, 16 8 root, 24 2
 * its records. A node: BTLF or BTIN, 6 its records, then, in inner ones, for each child its address and its counts.
 */
export async function listRecords(
  reader: AddressedFile,
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
  if (found !== type || recordBytes === 0 || nodeBytes < 10 + recordBytes || depth > MAX_DEPTH)
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
export function bytesFor(most: number): number {
  return Math.floor(Math.log2(Math.max(1, most)) / 8) + 1;
}

/** An unsigned number of some bytes, the lowest first. */
export function readNumber(bytes: Uint8Array): number {
  return bytes.reduceRight((sum, byte) => sum * 256 + byte, 0);
}
