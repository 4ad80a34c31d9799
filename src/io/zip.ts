// Reads ZIP archives: the directory, and each entry as a byte source, inflated as it is read where it is deflated.

import { pipeline } from 'node:stream';
import * as zlib from 'node:zlib';
import { CheckpointError, type CheckpointErrorCode, quote } from '../errors.js';
import {
  type ByteRange,
  type ByteSource,
  checkBounds,
  readRange,
  refuseAmplified,
  wholeOf,
} from './byte-source.js';
import { Cursor } from './cursor.js';
import { Keeper } from './views.js';

/** CRC-32 of ISO 3309 with the reflected polynomial 0xEDB88320, as zip and gzip use it (APPNOTE.TXT 4.4.7). */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** Several times as quick as the table; absent before Node 20.15. */
const native = 'crc32' in zlib ? zlib.crc32 : null;

/**
 * The CRC-32 of `bytes` as an unsigned 32-bit number.
 *
 * @param previous the CRC of the bytes before these, where they come in pieces.
 */
export function crc32(bytes: Uint8Array, previous = 0): number {
  return native === null ? crcByTable(bytes, previous) : native(bytes, previous);
}

/** {@link crc32} where node:zlib has none. */
export function crcByTable(bytes: Uint8Array, previous = 0): number {
  let crc = ~previous;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ (TABLE[(crc ^ (bytes[i] ?? 0)) & 0xff] ?? 0);
  return (crc ^ 0xffffffff) >>> 0;
}

/** What is known of deflated bytes before they are inflated. */
export interface Deflated {
  /** The raw deflate stream (RFC 1951). */
  readonly range: ByteRange;
  /** How long the inflated bytes claim to be; checked against a limit by the caller. */
  readonly byteLength: number;
  /** What messages call them, such as `the zip record "data/0"`. */
  readonly subject: string;
  /** Looks at the CRC-32 of the inflated bytes once they were read to their end, and throws where it is wrong. */
  readonly check: (crc: number) => void;
}

const CHUNK_BYTES = 64 * 1024;

const INFLATED_CHUNK_BYTES = 256 * 1024;

/** So much of what was inflated last is held: a little way back costs nothing. What is smaller is inflated as a whole. */
const HELD_BYTES = 4 * 1024 * 1024;

/**
 * Inflated bytes that nobody asked for: those before and between the tensors of a record. To read one of 256 MB at
 * random costs all of it each time; a file whose tensors are that badly placed is refused after a second.
 */
const MAX_UNASKED_BYTES = 512 * 1024 * 1024;

/** The way out where records are deflated. */
export const ZIP_AGAIN = 'Zip the checkpoint again without compression: zip -0 -r';

/** One per file: of its deflated ranges, the one that was read last holds a window of what it inflated. */
export class InflatedKeeper extends Keeper {
  #unaskedBytes = 0;

  /** Counts inflated bytes that nobody asked for, and refuses too many. */
  count(unaskedBytes: number, { range, subject }: Deflated): void {
    this.#unaskedBytes += unaskedBytes;
    if (this.#unaskedBytes <= MAX_UNASKED_BYTES) return;
    const expected = `expected to inflate at most ${MAX_UNASKED_BYTES} bytes on the way to what is read`;
    const message = `${expected}, found more with ${subject}`;
    throw zipError(range.source, message, { code: 'limit-exceeded', hint: ZIP_AGAIN });
  }
}

/** Inflated bytes as a source, which tells where the deflated ones are. */
interface InflatedSource extends ByteSource {
  readonly deflated: Deflated;
}

/** Whether a source inflates what it reads. */
export function isInflated(source: ByteSource): source is InflatedSource {
  return 'deflated' in source;
}

/**
 * Deflated bytes as a source of inflated ones. They are inflated as they are read, from front to back; further back than
 * a window reaches, from the start again. Reading fails with `malformed` where the stream is broken, its length another
 * than it claims, or its check throws: it stops there, so that a bomb costs no more than it admits.
 */
export function inflatedSource(deflated: Deflated, keeper: InflatedKeeper): InflatedSource {
  return new Inflater(deflated, keeper);
}

class Inflater implements InflatedSource {
  readonly name: string;
  readonly byteLength: number;
  readonly deflated: Deflated;
  readonly computedFrom: ByteRange;
  readonly #keeper: InflatedKeeper;
  /** Reads are queued: there is one stream. */
  #queue: Promise<void> = Promise.resolve();
  #stream: AsyncIterator<Uint8Array> | null = null;
  /** The last inflated pieces; they begin at `#start` and end at `#end`, where the stream goes on. */
  #pieces: Uint8Array[] = [];
  #start = 0;
  #end = 0;
  #crc = 0;

  constructor(deflated: Deflated, keeper: InflatedKeeper) {
    this.name = deflated.range.source.name;
    this.byteLength = deflated.byteLength;
    this.deflated = deflated;
    this.computedFrom = deflated.range;
    this.#keeper = keeper;
  }

  async readInto(target: Uint8Array, position: number): Promise<void> {
    checkBounds(this, position, target.byteLength);
    const work = this.#queue.then(() => this.#fill(target, position));
    this.#queue = work.catch(this.#release);
    await work;
  }

  close(): Promise<void> {
    this.#release();
    return this.deflated.range.source.close();
  }

  readonly #release = (): void => {
    void this.#stream?.return?.();
    this.#stream = null;
    this.#pieces = [];
    this.#start = 0;
    this.#end = 0;
    this.#crc = 0;
  };

  async #fill(target: Uint8Array, position: number): Promise<void> {
    this.#keeper.take(this.#release);
    if (position < this.#start) this.#release();
    let at = this.#start;
    for (const piece of this.#pieces) {
      copyOverlap(piece, at, target, position);
      at += piece.byteLength;
    }
    const until = this.byteLength <= HELD_BYTES ? this.byteLength : position + target.byteLength;
    while (this.#end < until) {
      const start = this.#end;
      const piece = await this.#inflate();
      const asked = copyOverlap(piece, start, target, position);
      this.#keeper.count(piece.byteLength - asked, this.deflated);
    }
  }

  /** The next piece. The last one comes once nothing is found behind it, and the check of all has passed. */
  async #inflate(): Promise<Uint8Array> {
    const { byteLength, check, subject } = this.deflated;
    const piece = await this.#next();
    if (piece === null)
      throw this.#broken(`expected ${byteLength} bytes after inflating ${subject}, found ${this.#end}`);
    this.#crc = crc32(piece, this.#crc);
    this.#pieces.push(piece);
    this.#end += piece.byteLength;
    for (let held = this.#end - this.#start; held > HELD_BYTES; held = this.#end - this.#start)
      this.#start += this.#pieces.shift()?.byteLength ?? held;
    if (this.#end > byteLength || (this.#end === byteLength && (await this.#next()) !== null))
      throw this.#broken(`expected ${byteLength} bytes after inflating ${subject}, found more`);
    if (this.#end === byteLength) check(this.#crc);
    return piece;
  }

  async #next(): Promise<Uint8Array | null> {
    this.#stream ??= openStream(this.deflated.range);
    try {
      const { done, value } = await this.#stream.next();
      return done === true ? null : value;
    } catch (error) {
      if (error instanceof CheckpointError) throw error;
      const { subject } = this.deflated;
      throw this.#broken(`expected a deflate stream in ${subject}, found bytes that do not inflate`, error);
    }
  }

  #broken(message: string, cause?: unknown): CheckpointError {
    const { source, offset } = this.deflated.range;
    return new CheckpointError(message, { code: 'malformed', file: source.name, offset, cause });
  }
}

/** @returns how many bytes of a piece that starts at `start` belong into the target, which is read from `position` on. */
function copyOverlap(piece: Uint8Array, start: number, target: Uint8Array, position: number): number {
  const from = Math.max(0, position - start);
  const to = Math.min(piece.byteLength, position + target.byteLength - start);
  if (from >= to) return 0;
  target.set(piece.subarray(from, to), start + from - position);
  return to - from;
}

function openStream(range: ByteRange): AsyncIterator<Uint8Array> {
  const inflater = zlib.createInflateRaw({ chunkSize: INFLATED_CHUNK_BYTES });
  // Whoever reads the inflater is told of errors by it.
  pipeline(readChunks(range), inflater, () => {});
  return inflater[Symbol.asyncIterator]();
}

async function* readChunks(range: ByteRange): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < range.byteLength; at += CHUNK_BYTES) {
    const chunk = new Uint8Array(Math.min(CHUNK_BYTES, range.byteLength - at));
    await range.source.readInto(chunk, range.offset + at);
    yield chunk;
  }
}

/** A directory of a million entries; torch.save writes one per storage. */
const MAX_DIRECTORY_BYTES = 128 * 1024 * 1024;

/** A local file header without its name and extra field. */
export const LOCAL_HEADER_BYTES = 30;

const END_RECORD_BYTES = 22;
const ZIP64_LOCATOR_BYTES = 20;
const ZIP64_END_RECORD_BYTES = 56;
const MAX_COMMENT_BYTES = 0xffff;

/** One entry of the central directory, which is what counts; the local header is only checked against it. */
export interface ZipEntry {
  readonly name: string;
  /** As stored: the local header must repeat them, whatever their encoding. */
  readonly nameBytes: Uint8Array;
  readonly flags: number;
  readonly method: number;
  /** 0 may mean "not computed": `torch.serialization.set_crc32_options(False)`. */
  readonly crc32: number;
  readonly compressedByteLength: number;
  readonly byteLength: number;
  readonly headerOffset: number;
  /** Where the entry itself stands in the file. */
  readonly entryOffset: number;
}

interface EndRecord {
  readonly entryCount: number;
  readonly directoryByteLength: number;
  readonly directoryOffset: number;
  /** Where the end records start, which is where the directory must end. */
  readonly offset: number;
  /** Where the plain one of them is, the last. */
  readonly plainOffset: number;
}

/**
 * Finds the end of central directory record, and the zip64 one before it.
 *
 *      0  4  signature PK\5\6         12  4  directory size       0xffff(ffff): see zip64
 *      4  2  this disk                16  4  directory offset
 *      6  2  disk of the directory    20  2  comment length
 *      8  2  entries on this disk     22     comment
 *     10  2  entries
 */
async function readEndRecord(source: ByteSource): Promise<EndRecord> {
  const offset = await findEndRecord(source);
  const record = await readRecordAt(source, offset, END_RECORD_BYTES);
  record.skip(4);
  const disks = [record.readU16(), record.readU16()];
  const entriesHere = record.readU16();
  const entryCount = record.readU16();
  const directoryByteLength = record.readU32();
  const directoryOffset = record.readU32();
  const zip64 = await readZip64EndRecord(source, offset);
  if (zip64 === null) {
    if (disks.some((disk) => disk !== 0) || entriesHere !== entryCount) throw multiDisk(source, offset);
    return { entryCount, directoryByteLength, directoryOffset, offset, plainOffset: offset };
  }
  const agrees =
    (entryCount === 0xffff || entryCount === zip64.entryCount) &&
    (directoryByteLength === 0xffffffff || directoryByteLength === zip64.directoryByteLength) &&
    (directoryOffset === 0xffffffff || directoryOffset === zip64.directoryOffset);
  if (!agrees)
    throw zipError(source, 'the end record of the zip archive contradicts its zip64 end record', { offset });
  return zip64;
}

/** The last record whose comment ends exactly with the file; without a comment that is the last 22 bytes. */
async function findEndRecord(source: ByteSource): Promise<number> {
  for (const reach of [END_RECORD_BYTES, END_RECORD_BYTES + MAX_COMMENT_BYTES]) {
    const byteLength = Math.min(reach, source.byteLength);
    const start = source.byteLength - byteLength;
    const bytes = await readRange({ source, offset: start, byteLength });
    const view = new DataView(bytes.buffer);
    for (let at = byteLength - END_RECORD_BYTES; at >= 0; at--) {
      const isEnd = view.getUint32(at, true) === 0x06054b50;
      if (isEnd && view.getUint16(at + 20, true) === byteLength - at - END_RECORD_BYTES) return start + at;
    }
  }
  throw zipError(
    source,
    'expected the end record of a zip archive, found none: the file is truncated or has bytes added',
    { code: 'truncated', offset: source.byteLength, hint: 'Was the download or the save interrupted?' },
  );
}

/**
 * Reads the zip64 end record through its locator, which stands right before the plain end record.
 *
 *     locator:  0  4  signature PK\6\7      record:  0  4  signature PK\6\6    32  8  entries
 *               4  4  disk of the record             4  8  size of the rest    40  8  directory size
 *               8  8  offset of the record          12  4  versions            48  8  directory offset
 *              16  4  number of disks               16  8  disk numbers        24  8  entries on this disk
 *
 * @returns null where there is no locator. torch.save writes one even where no field needs it.
 */
async function readZip64EndRecord(source: ByteSource, endOffset: number): Promise<EndRecord | null> {
  const locatorOffset = endOffset - ZIP64_LOCATOR_BYTES;
  if (locatorOffset < 0) return null;
  const locator = await readRecordAt(source, locatorOffset, ZIP64_LOCATOR_BYTES);
  if (locator.readU32() !== 0x07064b50) return null;
  const locatorDisk = locator.readU32();
  const offset = toPosition(locator.readU64(), locatorOffset - ZIP64_END_RECORD_BYTES, {
    source,
    offset: locatorOffset,
    what: 'the zip64 end record',
  });
  if (locatorDisk !== 0 || locator.readU32() > 1) throw multiDisk(source, locatorOffset);
  const record = await readRecordAt(source, offset, ZIP64_END_RECORD_BYTES);
  if (record.readU32() !== 0x06064b50)
    throw zipError(source, 'expected the zip64 end record, found other bytes', { offset });
  record.skip(12);
  if (record.readU64() !== 0n) throw multiDisk(source, offset);
  const entriesHere = record.readU64();
  const entryCount = record.readU64();
  if (entriesHere !== entryCount) throw multiDisk(source, offset);
  const read = (what: string, value: bigint, maximum: number) =>
    toPosition(value, maximum, { source, offset, what });
  return {
    // An entry takes 46 bytes at least, so that a count beyond the file's size is a lie.
    entryCount: read('the count of zip entries', entryCount, source.byteLength),
    directoryByteLength: read('the size of the zip directory', record.readU64(), offset),
    directoryOffset: read('the offset of the zip directory', record.readU64(), offset),
    offset,
    plainOffset: endOffset,
  };
}

async function readRecordAt(source: ByteSource, offset: number, byteLength: number): Promise<Cursor> {
  const bytes = await readRange({ source, offset, byteLength });
  return new Cursor(bytes, { file: source.name, baseOffset: offset, subject: 'the file' });
}

interface Subject {
  readonly source: ByteSource;
  readonly offset: number;
  readonly what: string;
}

function toPosition(value: bigint, maximum: number, { source, offset, what }: Subject): number {
  const limit = Math.max(0, maximum);
  if (value <= BigInt(limit)) return Number(value);
  const message = `expected ${what} to be at most ${limit}, found ${value}: it lies beyond the file`;
  throw zipError(source, message, { offset });
}

async function readEntries(source: ByteSource, end: EndRecord): Promise<readonly ZipEntry[]> {
  const { directoryOffset: offset, directoryByteLength: byteLength, entryCount } = end;
  const fail = (message: string, details: ErrorDetails = { offset }) => zipError(source, message, details);
  if (offset + byteLength !== end.offset) {
    const expected = `expected the zip directory to end where the end record starts, at byte ${end.offset}`;
    throw fail(`${expected}, found offset ${offset} and size ${byteLength}`, { offset: end.offset });
  }
  if (byteLength > MAX_DIRECTORY_BYTES) {
    const expected = `expected a zip directory of at most ${MAX_DIRECTORY_BYTES} bytes`;
    throw fail(`${expected}, found ${byteLength}`, { code: 'limit-exceeded', offset });
  }
  const bytes = await readRange({ source, offset, byteLength });
  const cursor = new Cursor(bytes, { file: source.name, baseOffset: offset, subject: 'the zip directory' });
  const entries: ZipEntry[] = [];
  while (cursor.remaining > 0) {
    if (entries.length === entryCount) {
      const found = `expected ${entryCount} entries in the zip directory, found more`;
      throw fail(found, { offset: cursor.fileOffset() });
    }
    entries.push(readEntry(cursor, source));
  }
  if (entries.length !== entryCount)
    throw fail(`expected ${entryCount} entries in the zip directory, found ${entries.length}`);
  return entries;
}

const nameDecoder = new TextDecoder('utf-8');

/**
 * Reads one entry of the central directory.
 *
 *      0  4  signature PK\1\2       20  4  compressed size      34  2  disk
 *      4  4  versions               24  4  uncompressed size    36  6  attributes
 *      8  2  flags                  28  2  length of the name   42  4  offset of the local header
 *     10  2  method                 30  2  … of the extra field
 *     12  4  time and date          32  2  … of the comment     46     name, extra field, comment
 *     16  4  CRC-32
 */
function readEntry(cursor: Cursor, source: ByteSource): ZipEntry {
  const at = cursor.fileOffset() ?? 0;
  if (cursor.readU32() !== 0x02014b50)
    throw zipError(source, 'expected an entry of the zip directory, found other bytes', { offset: at });
  cursor.skip(4);
  const flags = cursor.readU16();
  const method = cursor.readU16();
  cursor.skip(4);
  const crc = cursor.readU32();
  const compressedByteLength = cursor.readU32();
  const byteLength = cursor.readU32();
  const nameLength = cursor.readU16();
  const extraLength = cursor.readU16();
  const commentLength = cursor.readU16();
  const disk = cursor.readU16();
  cursor.skip(6);
  const headerOffset = cursor.readU32();
  const nameBytes = cursor.readBytes(nameLength);
  const name = nameDecoder.decode(nameBytes);
  const extra = cursor.readBytes(extraLength);
  cursor.skip(commentLength);
  if (disk !== 0 && disk !== 0xffff) throw multiDisk(source, at);
  const sizes = { byteLength, compressedByteLength, headerOffset };
  const located = { name, nameBytes, entryOffset: at };
  const subject = { source, offset: at, what: quote(name) };
  return { ...located, flags, method, crc32: crc, ...resolveZip64(sizes, extra, subject) };
}

type EntrySizes = Pick<ZipEntry, 'byteLength' | 'compressedByteLength' | 'headerOffset'>;

/**
 * Replaces sizes of 0xffffffff by those of the zip64 extra field (id 1), which holds, in this order, only the ones that
 * are needed: uncompressed size, compressed size, header offset.
 */
function resolveZip64(sizes: EntrySizes, extra: Uint8Array, { source, offset, what }: Subject): EntrySizes {
  if (!Object.values(sizes).includes(0xffffffff)) return sizes;
  const origin = { file: source.name, baseOffset: offset, subject: `the extra field of ${what}` };
  const field = findZip64Field(extra, origin);
  if (field === null) return sizes;
  const resolve = (size: number, kind: string) => {
    const subject = { source, offset, what: `the ${kind} of ${what}` };
    return size === 0xffffffff ? toPosition(field.readU64(), Number.MAX_SAFE_INTEGER, subject) : size;
  };
  return {
    byteLength: resolve(sizes.byteLength, 'size'),
    compressedByteLength: resolve(sizes.compressedByteLength, 'compressed size'),
    headerOffset: resolve(sizes.headerOffset, 'offset'),
  };
}

function findZip64Field(extra: Uint8Array, origin: Cursor['origin']): Cursor | null {
  const cursor = new Cursor(extra, origin);
  while (cursor.remaining >= 4) {
    const id = cursor.readU16();
    const field = cursor.readBytes(cursor.readU16());
    if (id === 1) return new Cursor(field, { ...origin, baseOffset: null });
  }
  return null;
}

/** Checks that the entries' smallest extents neither overlap nor leave the space before the directory. */
function checkExtents(
  entries: readonly ZipEntry[],
  source: ByteSource,
  directoryOffset: number,
): ReadonlyMap<number, number> {
  const sorted = sortByHeader(entries);
  const limits = new Map<number, number>();
  sorted.forEach(({ name, headerOffset, compressedByteLength }, index) => {
    const limit = sorted[index + 1]?.headerOffset ?? directoryOffset;
    if (headerOffset + LOCAL_HEADER_BYTES + compressedByteLength > limit || limit > directoryOffset) {
      const end = Math.min(limit, directoryOffset);
      const found = `found offset ${headerOffset} and size ${compressedByteLength}: it overlaps what follows`;
      throw zipError(source, `expected the zip record ${quote(name)} to end before byte ${end}, ${found}`);
    }
    limits.set(headerOffset, limit);
  });
  return limits;
}

/** Entries in the order of their records in the file. */
export function sortByHeader(entries: Iterable<ZipEntry>): readonly ZipEntry[] {
  return [...entries].sort((x, y) => x.headerOffset - y.headerOffset);
}

function multiDisk(source: ByteSource, offset: number): CheckpointError {
  const message = 'expected a zip archive in one file, found one that is split over several disks';
  return zipError(source, message, { code: 'unsupported', offset });
}

interface ErrorDetails {
  readonly code?: CheckpointErrorCode;
  readonly offset?: number | undefined;
  readonly hint?: string;
}

/** An error about a zip archive; `malformed` where nothing else is said. */
export function zipError(source: ByteSource, message: string, details: ErrorDetails = {}): CheckpointError {
  return new CheckpointError(message, { code: 'malformed', file: source.name, ...details });
}

/** To read a byte of a deflated record, all before it are inflated. torch.save never deflates. */
const MAX_INFLATED_BYTES = 256 * 1024 * 1024;

/** Deflate expands at most 1032 to 1 (zlib's technical notes); whatever claims more lies. */
const MAX_DEFLATE_RATIO = 1032;

const FLAG_ENCRYPTED = 1 << 0;
const FLAG_STRONG_ENCRYPTION = 1 << 6;
const FLAG_MASKED_HEADERS = 1 << 13;
const METHOD_STORED = 0;
const METHOD_DEFLATED = 8;

/** An opened zip file: its directory, checked as a whole. */
export interface ZipArchive {
  readonly source: ByteSource;
  /** By name, in directory order. */
  readonly entries: ReadonlyMap<string, ZipEntry>;
  /** For each entry's header, where the next one's starts: its data must end before. */
  readonly limits: ReadonlyMap<number, number>;
  /** Where the directory itself is; the end records follow. */
  readonly extent: { readonly offset: number; readonly byteLength: number };
  /** Where the last of the end records is. */
  readonly endRecordOffset: number;
  readonly located: Map<string, ByteRange>;
  readonly keeper: InflatedKeeper;
}

/**
 * Reads the directory of a zip file (PKWARE APPNOTE.TXT 6.3.10), zip64 included. Every entry's extent is checked: none
 * may be named twice, overlap another, or reach into the directory.
 *
 * @throws CheckpointError with the byte where the archive is damaged, split over disks, or lies about itself.
 */
export async function openZip(source: ByteSource): Promise<ZipArchive> {
  const end = await readEndRecord(source);
  const entries = await readEntries(source, end);
  const limits = checkExtents(entries, source, end.directoryOffset);
  const byName = new Map<string, ZipEntry>();
  for (const entry of entries) {
    if (byName.has(entry.name)) {
      const found = `found ${quote(entry.name)} twice (duplicate entry)`;
      throw zipError(source, `expected unique names in the zip directory, ${found}`);
    }
    byName.set(entry.name, entry);
  }
  return {
    source,
    entries: byName,
    limits,
    extent: { offset: end.directoryOffset, byteLength: end.directoryByteLength },
    endRecordOffset: end.plainOffset,
    located: new Map(),
    keeper: new InflatedKeeper(),
  };
}

/**
 * Where a record's bytes are: a range of the file itself when it is stored, an inflating source when it is deflated.
 *
 * @throws CheckpointError when the local header contradicts the directory, or the record is encrypted or compressed in
 * another way.
 */
export async function locateRecord(archive: ZipArchive, entry: ZipEntry): Promise<ByteRange> {
  const known = archive.located.get(entry.name);
  if (known !== undefined) return known;
  const { source, keeper } = archive;
  checkReadable(source, entry);
  const offset = await readDataOffset(archive, entry);
  const packed: ByteRange = { source, offset, byteLength: entry.compressedByteLength };
  const deflated: Deflated = {
    range: packed,
    byteLength: entry.byteLength,
    subject: `the zip record ${quote(entry.name)}`,
    check: (crc) => checkCrc(source, entry, crc),
  };
  const range = entry.method === METHOD_STORED ? packed : wholeOf(inflatedSource(deflated, keeper));
  archive.located.set(entry.name, range);
  return range;
}

/** A small record's bytes, checked against their CRC, and where they stand in the file (null when deflated). */
export async function readRecord(
  archive: ZipArchive,
  entry: ZipEntry,
  maxByteLength: number,
): Promise<{ readonly bytes: Uint8Array; readonly fileOffset: number | null }> {
  const { source } = archive;
  if (entry.byteLength > maxByteLength) {
    const expected = `expected the zip record ${quote(entry.name)} to hold at most ${maxByteLength} bytes`;
    const details = { code: 'limit-exceeded', offset: entry.headerOffset } as const;
    throw zipError(source, `${expected}, found a size of ${entry.byteLength}`, details);
  }
  const range = await locateRecord(archive, entry);
  refuseAmplified([range], source.name);
  const bytes = await readRange(range);
  if (range.source !== source) return { bytes, fileOffset: null };
  checkCrc(source, entry, crc32(bytes));
  return { bytes, fileOffset: range.offset };
}

/**
 * Compares a record's CRC with the one that the directory states for it; 0 stands for none.
 *
 * @throws CheckpointError `malformed` where it is another.
 */
export function checkCrc(source: ByteSource, entry: ZipEntry, found: number): void {
  if (entry.crc32 === 0 || found === entry.crc32) return;
  const expected = `expected the zip record ${quote(entry.name)} to have the CRC ${hex(entry.crc32)}`;
  throw zipError(source, `${expected}, found ${hex(found)}: it is corrupt`, { offset: entry.headerOffset });
}

function checkReadable(source: ByteSource, entry: ZipEntry): void {
  const { flags, method, headerOffset: offset, byteLength, compressedByteLength } = entry;
  const record = quote(entry.name);
  const fail = (message: string, details: ErrorDetails = {}) =>
    zipError(source, message, { offset, ...details });
  if (flags & (FLAG_ENCRYPTED | FLAG_STRONG_ENCRYPTION | FLAG_MASKED_HEADERS))
    throw fail(`the zip record ${record} is encrypted`, { code: 'unsupported' });
  if (method === METHOD_STORED && byteLength !== compressedByteLength) {
    const found = `found ${compressedByteLength} and ${byteLength}`;
    throw fail(`expected the stored zip record ${record} to have one size, ${found}`);
  }
  if (method === METHOD_STORED) return;
  if (method !== METHOD_DEFLATED) {
    const expected = `expected the zip record ${record} stored or deflated`;
    throw fail(`${expected}, found compression method ${method}`, { code: 'unsupported' });
  }
  if (byteLength > compressedByteLength * MAX_DEFLATE_RATIO) {
    const expected = `expected a size that ${compressedByteLength} deflated bytes can inflate to`;
    throw fail(`${expected}, found ${byteLength} claimed by ${record}`);
  }
  if (byteLength > MAX_INFLATED_BYTES) {
    const expected = `expected deflated zip records of at most ${MAX_INFLATED_BYTES} bytes`;
    throw fail(`${expected}, found ${byteLength} in ${record}`, { code: 'limit-exceeded', hint: ZIP_AGAIN });
  }
}

/**
 * Reads a local file header, and where the data behind it starts.
 *
 *      0  4  signature PK\3\4        14  4  CRC-32, or 0 with a data descriptor
 *      4  2  version needed          18  4  compressed size, likewise or 0xffffffff
 *      6  2  flags                   22  4  uncompressed size, likewise
 *      8  2  method                  26  2  length of the name
 *     10  4  time and date           28  2  length of the extra field
 *     30     name, extra field (torch.save pads the data to 64 bytes with it), data
 */
async function readDataOffset({ source, limits }: ZipArchive, entry: ZipEntry): Promise<number> {
  const { nameBytes, headerOffset: offset } = entry;
  const record = `the zip record ${quote(entry.name)}`;
  const byteLength = Math.min(LOCAL_HEADER_BYTES + nameBytes.length, source.byteLength - offset);
  const header = await readRecordAt(source, offset, byteLength);
  if (header.readU32() !== 0x04034b50)
    throw zipError(source, `expected the local header of ${record}, found other bytes`, { offset });
  header.skip(4);
  const method = header.readU16();
  header.skip(16);
  const nameLength = header.readU16();
  const extraLength = header.readU16();
  const isSameName =
    nameLength === nameBytes.length && Buffer.compare(header.readBytes(nameLength), nameBytes) === 0;
  if (method !== entry.method || !isSameName)
    throw zipError(source, `the local header of ${record} contradicts the directory`, { offset });
  const dataOffset = offset + LOCAL_HEADER_BYTES + nameLength + extraLength;
  if (dataOffset + entry.compressedByteLength > (limits.get(offset) ?? 0)) {
    const found = `found a size of ${entry.compressedByteLength} bytes beyond it`;
    throw zipError(source, `expected ${record} to end before the next one starts, ${found}`, { offset });
  }
  return dataOffset;
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, '0')}`;
}
