// Reads ZIP archives: the directory, and each entry as a byte source.

import { CheckpointError, type CheckpointErrorCode, quote } from '../errors.js';
import { type ByteRange, type ByteSource, readRange, refuseAmplified, wholeOf } from './byte-source.js';
import { Cursor } from './cursor.js';
import { crc32, type Deflated, InflatedKeeper, inflatedSource } from './inflated-source.js';

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

/** What a number of a zip file is, for messages. */
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
  const field = findExtraField(extra, 1, origin);
  if (field === null) return sizes;
  const resolve = (size: number, kind: string) =>
    size === 0xffffffff
      ? toPosition(field.readU64(), Number.MAX_SAFE_INTEGER, {
          source,
          offset,
          what: `the ${kind} of ${what}`,
        })
      : size;
  return {
    byteLength: resolve(sizes.byteLength, 'size'),
    compressedByteLength: resolve(sizes.compressedByteLength, 'compressed size'),
    headerOffset: resolve(sizes.headerOffset, 'offset'),
  };
}

function findExtraField(extra: Uint8Array, id: number, origin: Cursor['origin']): Cursor | null {
  const cursor = new Cursor(extra, origin);
  while (cursor.remaining >= 4) {
    const fieldId = cursor.readU16();
    const field = cursor.readBytes(cursor.readU16());
    if (fieldId === id) return new Cursor(field, { ...origin, baseOffset: null });
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

/** Compares a record's CRC with the one that the directory states for it; 0 stands for none. */
function checkCrc(source: ByteSource, entry: ZipEntry, found: number): void {
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
    const hint = 'Zip the checkpoint again without compression: zip -0 -r';
    throw fail(`${expected}, found ${byteLength} in ${record}`, { code: 'limit-exceeded', hint });
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
