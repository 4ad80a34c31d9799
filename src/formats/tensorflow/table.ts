// Reads the index of a TensorFlow checkpoint: a sorted table of keys and values, as LevelDB writes them.

import { fail } from '../../errors.js';
import { type ByteSource, readRange, wholeOf } from '../../io/byte-source.js';
import { Cursor } from '../../io/cursor.js';

/** The last bytes of a table (tensorflow/core/lib/io/format.h, which is LevelDB's table_format.md). */
const MAGIC = 0xdb47_7524_8b80_fb57n;
const FOOTER_BYTES = 48;

/** Behind each block: how it is compressed, and a checksum. */
const TRAILER_BYTES = 5;

/** An entry takes some 60 bytes; a model with its optimizer has some thousand. */
const MAX_INDEX_BYTES = 64 * 1024 * 1024;

/** As many tensors as are read of other formats. */
const MAX_ENTRIES = 200_000;

/** Paths of variables; keys are put together of parts of others, so that a short table may hold long ones. */
const MAX_KEY_BYTES = 4_096;

/**
 * Reads all of a table.
 *
 * @returns the values by key, in the order of the keys.
 * @throws CheckpointError where it is something else, broken, compressed or too large.
 */
export async function readTable(source: ByteSource): Promise<ReadonlyMap<string, Cursor>> {
  const { name: file, byteLength } = source;
  if (byteLength < FOOTER_BYTES || byteLength > MAX_INDEX_BYTES)
    fail(
      file,
      `expected a TensorFlow index of ${FOOTER_BYTES} to ${MAX_INDEX_BYTES} bytes, found ${byteLength}`,
      byteLength < FOOTER_BYTES ? 'truncated' : 'limit-exceeded',
    );
  const bytes = await readRange(wholeOf(source));
  const footer = new Cursor(bytes, { file, baseOffset: 0, subject: 'the index' }, byteLength - FOOTER_BYTES);
  if (new DataView(bytes.buffer).getBigUint64(byteLength - 8, true) !== MAGIC)
    fail(
      file,
      'expected a TensorFlow index (LevelDB table), found another end: is it cut short?',
      'malformed',
      { offset: byteLength - 8 },
    );
  const readBlock = (offset: number, length: number): Cursor => {
    if (offset + length + TRAILER_BYTES > byteLength)
      fail(file, `expected a block of ${length} bytes, found the end of the file`, 'truncated', { offset });
    const compression = bytes[offset + length];
    if (compression !== 0)
      fail(
        file,
        `expected uncompressed blocks, as TensorFlow writes them, found compression ${compression}`,
        'unsupported',
        { offset: offset + length },
      );
    return new Cursor(bytes.subarray(offset, offset + length), {
      file,
      baseOffset: offset,
      subject: 'a block',
    });
  };
  // The first pair of numbers leads to an index of indexes, which is empty.
  const [, , indexOffset, indexLength] = [0, 0, 0, 0].map(() => readVarint(footer));
  const table = new Map<string, Cursor>();
  let blocks = 0;
  let keyBytes = 0;
  for (const [, handle] of listEntries(readBlock(indexOffset ?? 0, indexLength ?? 0))) {
    if (++blocks > MAX_ENTRIES)
      fail(file, `expected at most ${MAX_ENTRIES} blocks, found more`, 'limit-exceeded');
    const [offset, length] = [readVarint(handle), readVarint(handle)];
    for (const [key, value] of listEntries(readBlock(offset, length))) {
      if (table.has(key)) fail(file, 'expected unique keys, found one twice', 'malformed', { offset });
      keyBytes += key.length;
      if (table.set(key, value).size > MAX_ENTRIES || keyBytes > MAX_INDEX_BYTES)
        fail(file, `expected at most ${MAX_ENTRIES} tensors, found more`, 'limit-exceeded');
    }
  }
  return table;
}

/**
 * The entries of a block: how much of the key is that of the one before, length of the rest, length of the value, rest,
 * value. At its end stand offsets of four bytes, and how many.
 */
function* listEntries(block: Cursor): Generator<readonly [key: string, value: Cursor]> {
  const { bytes } = block;
  const size = bytes.byteLength;
  const restarts = size < 4 ? 0 : new DataView(bytes.buffer, bytes.byteOffset).getUint32(size - 4, true);
  const end = size - 4 - 4 * restarts;
  if (end < 0) failAt(block, 'expected the end of a block, found more offsets than it has bytes');
  let key = new Uint8Array(0);
  while (block.position < end) {
    const [shared, unshared, length] = [readVarint(block), readVarint(block), readVarint(block)];
    if (shared > key.byteLength || shared + unshared > MAX_KEY_BYTES)
      failAt(block, `expected a key of at most ${MAX_KEY_BYTES} bytes, found ${shared + unshared}`);
    const rest = block.readBytes(unshared);
    const whole = new Uint8Array(shared + unshared);
    whole.set(key.subarray(0, shared));
    whole.set(rest, shared);
    key = whole;
    yield [new TextDecoder().decode(key), block.readPart(length, 'an entry')];
  }
}

/** A varint as a number; whoever asks checks it against a limit far below where that is exact. */
export function readVarint(cursor: Cursor): number {
  let value = 0;
  for (let place = 0; place < 10; place++) {
    const byte = cursor.readU8();
    value += (byte & 0x7f) * 2 ** (7 * place);
    if (byte < 0x80) return value;
  }
  failAt(cursor, 'expected a varint of at most 10 bytes, found a longer one');
}

/** Refuses what is read at the byte that comes next. */
function failAt(cursor: Cursor, message: string): never {
  fail(cursor.origin.file, message, 'malformed', { offset: cursor.fileOffset() });
}

/** A field of a protobuf message: a number, or the bytes of what has a length. */
interface Field {
  readonly field: number;
  readonly value: number;
  readonly content: Cursor | null;
}

/** The fields of a small protobuf message in memory, one after the other; groups are not read. */
export function* listFields(message: Cursor): Generator<Field> {
  while (message.remaining > 0) {
    const tag = readVarint(message);
    const [field, wire] = [Math.floor(tag / 8), tag % 8];
    if (wire === 0) yield { field, value: readVarint(message), content: null };
    else if (wire === 2) yield { field, value: 0, content: message.readPart(readVarint(message)) };
    else if (wire === 1 || wire === 5) message.skip(wire === 1 ? 8 : 4);
    else failAt(message, `expected a protobuf field, found wire type ${wire}`);
  }
}
