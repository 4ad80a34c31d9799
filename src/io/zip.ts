// Reads ZIP archives: the directory, and each entry as a byte source.

import { CheckpointError, type CheckpointErrorCode, quote } from '../errors.js';
import { type ByteRange, type ByteSource, readRange, refuseAmplified } from './byte-source.js';
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

/** The entries of an archive in directory order, each with an extent of its own. */
interface ZipDirectory {
  readonly entries: readonly ZipEntry[];
  /** For each entry's header, where the next one's starts: its data must end before. */
  readonly limits: ReadonlyMap<number, number>;
  /** Where the directory itself is; the end records follow. */
  readonly extent: { readonly offset: number; readonly byteLength: number };
}

interface EndRecord {
  readonly entryCount: number;
  readonly directoryByteLength: number;
  readonly directoryOffset: number;
  /** Where the end records start, which is where the directory must end. */
  readonly offset: number;
}

/**
 * Reads the central directory of a zip file (PKWARE APPNOTE.TXT 6.3.10), zip64 included, and checks that no entry
 * overlaps another or reaches into the directory.
 *
 * @throws CheckpointError with the byte where the archive is damaged, split over disks, or lies about itself.
 */
export async function readZipDirectory(source: ByteSource, file: string): Promise<ZipDirectory> {
  const end = await readEndRecord(source, file);
  const entries = await readEntries(source, file, end);
  return {
    entries,
    limits: checkExtents(entries, file, end.directoryOffset),
    extent: { offset: end.directoryOffset, byteLength: end.directoryByteLength },
  };
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
async function readEndRecord(source: ByteSource, file: string): Promise<EndRecord> {
  const offset = await findEndRecord(source, file);
  const bytes = await readRange({ source, offset, byteLength: END_RECORD_BYTES });
  const record = new Cursor(bytes, { file, baseOffset: offset, subject: 'the file' }, 4);
  const disks = [record.readU16(), record.readU16()];
  const entriesHere = record.readU16();
  const entryCount = record.readU16();
  const directoryByteLength = record.readU32();
  const directoryOffset = record.readU32();
  const zip64 = await readZip64EndRecord(source, file, offset);
  if (zip64 === null) {
    if (disks.some((disk) => disk !== 0) || entriesHere !== entryCount) throw multiDisk(file, offset);
    return { entryCount, directoryByteLength, directoryOffset, offset };
  }
  const agrees =
    (entryCount === 0xffff || entryCount === zip64.entryCount) &&
    (directoryByteLength === 0xffffffff || directoryByteLength === zip64.directoryByteLength) &&
    (directoryOffset === 0xffffffff || directoryOffset === zip64.directoryOffset);
  if (!agrees)
    throw zipError(file, 'the end record of the zip archive contradicts its zip64 end record', { offset });
  return zip64;
}

/** The last record whose comment ends exactly with the file; without a comment that is the last 22 bytes. */
async function findEndRecord(source: ByteSource, file: string): Promise<number> {
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
    file,
    'expected the end record of a zip archive, found none: the file is truncated or has bytes added',
    {
      code: 'truncated',
      offset: source.byteLength,
      hint: 'Was the download or the save interrupted?',
    },
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
async function readZip64EndRecord(
  source: ByteSource,
  file: string,
  endOffset: number,
): Promise<EndRecord | null> {
  const locatorOffset = endOffset - ZIP64_LOCATOR_BYTES;
  if (locatorOffset < 0) return null;
  const locatorBytes = await readRange({ source, offset: locatorOffset, byteLength: ZIP64_LOCATOR_BYTES });
  const locator = new Cursor(locatorBytes, { file, baseOffset: locatorOffset, subject: 'the file' });
  if (locator.readU32() !== 0x07064b50) return null;
  const locatorDisk = locator.readU32();
  const offset = toPosition(locator.readU64(), locatorOffset - ZIP64_END_RECORD_BYTES, {
    file,
    offset: locatorOffset,
    what: 'the zip64 end record',
  });
  if (locatorDisk !== 0 || locator.readU32() > 1) throw multiDisk(file, locatorOffset);
  const bytes = await readRange({ source, offset, byteLength: ZIP64_END_RECORD_BYTES });
  const record = new Cursor(bytes, { file, baseOffset: offset, subject: 'the file' });
  if (record.readU32() !== 0x06064b50) {
    throw zipError(file, 'expected the zip64 end record, found other bytes', { offset });
  }
  record.skip(12);
  if (record.readU64() !== 0n) throw multiDisk(file, offset);
  const entriesHere = record.readU64();
  const entryCount = record.readU64();
  if (entriesHere !== entryCount) throw multiDisk(file, offset);
  const directoryByteLength = record.readU64();
  const directoryOffset = record.readU64();
  const context = { file, offset };
  return {
    // An entry takes 46 bytes at least, so that a count beyond the file's size is a lie.
    entryCount: toPosition(entryCount, source.byteLength, { ...context, what: 'the count of zip entries' }),
    directoryByteLength: toPosition(directoryByteLength, offset, {
      ...context,
      what: 'the size of the zip directory',
    }),
    directoryOffset: toPosition(directoryOffset, offset, {
      ...context,
      what: 'the offset of the zip directory',
    }),
    offset,
  };
}

function toPosition(
  value: bigint,
  maximum: number,
  { file, offset, what }: { readonly file: string; readonly offset: number; readonly what: string },
): number {
  if (value > BigInt(Math.max(0, maximum))) {
    throw zipError(
      file,
      `expected ${what} to be at most ${Math.max(0, maximum)}, found ${value}: it lies beyond the file`,
      {
        offset,
      },
    );
  }
  return Number(value);
}

async function readEntries(source: ByteSource, file: string, end: EndRecord): Promise<readonly ZipEntry[]> {
  const { directoryOffset: offset, directoryByteLength: byteLength } = end;
  if (offset + byteLength !== end.offset) {
    throw zipError(
      file,
      `expected the zip directory to end where the end record starts, at byte ${end.offset}, found offset ${offset} and size ${byteLength}`,
      { offset: end.offset },
    );
  }
  if (byteLength > MAX_DIRECTORY_BYTES) {
    throw zipError(
      file,
      `expected a zip directory of at most ${MAX_DIRECTORY_BYTES} bytes, found ${byteLength}`,
      {
        code: 'limit-exceeded',
        offset,
      },
    );
  }
  const bytes = await readRange({ source, offset, byteLength });
  const cursor = new Cursor(bytes, { file, baseOffset: offset, subject: 'the zip directory' });
  const entries: ZipEntry[] = [];
  while (cursor.remaining > 0) {
    if (entries.length === end.entryCount) {
      throw zipError(file, `expected ${end.entryCount} entries in the zip directory, found more`, {
        offset: cursor.fileOffset(),
      });
    }
    entries.push(readEntry(cursor, file));
  }
  if (entries.length !== end.entryCount) {
    throw zipError(file, `expected ${end.entryCount} entries in the zip directory, found ${entries.length}`, {
      offset,
    });
  }
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
function readEntry(cursor: Cursor, file: string): ZipEntry {
  const at = cursor.fileOffset() ?? 0;
  if (cursor.readU32() !== 0x02014b50) {
    throw zipError(file, 'expected an entry of the zip directory, found other bytes', { offset: at });
  }
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
  if (disk !== 0 && disk !== 0xffff) throw multiDisk(file, at);
  const sizes = { byteLength, compressedByteLength, headerOffset };
  const context = { file, offset: at, name };
  const located = { name, nameBytes, entryOffset: at };
  return { ...located, flags, method, crc32: crc, ...resolveZip64(sizes, extra, context) };
}

type EntrySizes = Pick<ZipEntry, 'byteLength' | 'compressedByteLength' | 'headerOffset'>;

/**
 * Replaces sizes of 0xffffffff by those of the zip64 extra field (id 1), which holds, in this order, only the ones that
 * are needed: uncompressed size, compressed size, header offset.
 */
function resolveZip64(
  sizes: EntrySizes,
  extra: Uint8Array,
  { file, offset, name }: { readonly file: string; readonly offset: number; readonly name: string },
): EntrySizes {
  const isNeeded = Object.values(sizes).some((size) => size === 0xffffffff);
  if (!isNeeded) return sizes;
  const field = findExtraField(extra, 1, {
    file,
    baseOffset: offset,
    subject: `the extra field of ${quote(name)}`,
  });
  if (field === null) return sizes;
  const resolve = (size: number, what: string) =>
    size === 0xffffffff
      ? toPosition(field.readU64(), Number.MAX_SAFE_INTEGER, {
          file,
          offset,
          what: `the ${what} of ${quote(name)}`,
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
  file: string,
  directoryOffset: number,
): ReadonlyMap<number, number> {
  const sorted = [...entries].sort((x, y) => x.headerOffset - y.headerOffset);
  const limits = new Map<number, number>();
  sorted.forEach((entry, index) => {
    const limit = sorted[index + 1]?.headerOffset ?? directoryOffset;
    const end = entry.headerOffset + LOCAL_HEADER_BYTES + entry.compressedByteLength;
    if (end > limit || limit > directoryOffset) {
      throw zipError(
        file,
        `expected the zip record ${quote(entry.name)} to end before byte ${Math.min(limit, directoryOffset)}, found offset ` +
          `${entry.headerOffset} and size ${entry.compressedByteLength}: it overlaps what follows`,
      );
    }
    limits.set(entry.headerOffset, limit);
  });
  return limits;
}

function multiDisk(file: string, offset: number): CheckpointError {
  return zipError(file, 'expected a zip archive in one file, found one that is split over several disks', {
    code: 'unsupported',
    offset,
  });
}

/** An error about a zip archive; `malformed` where nothing else is said. */
export function zipError(
  file: string,
  message: string,
  details: {
    readonly code?: CheckpointErrorCode;
    readonly offset?: number | undefined;
    readonly hint?: string;
  } = {},
): CheckpointError {
  return new CheckpointError(message, { code: 'malformed', file, ...details });
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
  readonly file: string;
  /** By name, in directory order. */
  readonly entries: ReadonlyMap<string, ZipEntry>;
  /** For each entry's header, where the next one's starts: its data must end before. */
  readonly limits: ReadonlyMap<number, number>;
  /** Where the directory itself is; the end records follow. */
  readonly extent: { readonly offset: number; readonly byteLength: number };
  readonly located: Map<string, ByteRange>;
  readonly keeper: InflatedKeeper;
}

/**
 * Reads the directory of a zip file (PKWARE APPNOTE.TXT 6.3.10), zip64 included. Every entry's extent is checked: none
 * may be named twice, overlap another, or reach into the directory.
 *
 * @throws CheckpointError with the byte where the archive is damaged, split over disks, or lies about itself.
 */
export async function openZip(source: ByteSource, file: string): Promise<ZipArchive> {
  const { entries, limits, extent } = await readZipDirectory(source, file);
  const byName = new Map<string, ZipEntry>();
  for (const entry of entries) {
    if (byName.has(entry.name)) {
      throw zipError(
        file,
        `expected unique names in the zip directory, found ${quote(entry.name)} twice (duplicate entry)`,
      );
    }
    byName.set(entry.name, entry);
  }
  return {
    source,
    file,
    entries: byName,
    limits,
    extent,
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
  checkReadable(archive, entry);
  const offset = await readDataOffset(archive, entry);
  const packed: ByteRange = { source: archive.source, offset, byteLength: entry.compressedByteLength };
  const range = entry.method === METHOD_STORED ? packed : inflateLazily(archive, entry, packed);
  archive.located.set(entry.name, range);
  return range;
}

/** A small record's bytes, checked against their CRC, and where they stand in the file (null when deflated). */
export async function readRecord(
  archive: ZipArchive,
  entry: ZipEntry,
  maxByteLength: number,
): Promise<{ readonly bytes: Uint8Array; readonly fileOffset: number | null }> {
  if (entry.byteLength > maxByteLength) {
    throw zipError(
      archive.file,
      `expected the zip record ${quote(entry.name)} to hold at most ${maxByteLength} bytes, found a size of ${entry.byteLength}`,
      { code: 'limit-exceeded', offset: entry.headerOffset },
    );
  }
  const range = await locateRecord(archive, entry);
  refuseAmplified([range], archive.file);
  const isStored = range.source === archive.source;
  const bytes = await readRange(range);
  if (isStored) checkCrc(archive.file, entry, crc32(bytes));
  return { bytes, fileOffset: isStored ? range.offset : null };
}

/** Compares a record's CRC with the one that the directory states for it; 0 stands for none. */
function checkCrc(file: string, entry: ZipEntry, found: number): void {
  if (entry.crc32 === 0 || found === entry.crc32) return;
  throw zipError(
    file,
    `expected the zip record ${quote(entry.name)} to have the CRC ${hex(entry.crc32)}, found ${hex(found)}: it is corrupt`,
    { offset: entry.headerOffset },
  );
}

function checkReadable(archive: ZipArchive, entry: ZipEntry): void {
  const { flags, method, headerOffset: offset } = entry;
  if (flags & (FLAG_ENCRYPTED | FLAG_STRONG_ENCRYPTION | FLAG_MASKED_HEADERS)) {
    throw zipError(archive.file, `the zip record ${quote(entry.name)} is encrypted`, {
      code: 'unsupported',
      offset,
    });
  }
  if (method !== METHOD_STORED && method !== METHOD_DEFLATED) {
    throw zipError(
      archive.file,
      `expected the zip record ${quote(entry.name)} stored or deflated, found compression method ${method}`,
      { code: 'unsupported', offset },
    );
  }
  if (method === METHOD_STORED && entry.byteLength !== entry.compressedByteLength) {
    throw zipError(
      archive.file,
      `expected the stored zip record ${quote(entry.name)} to have one size, found ${entry.compressedByteLength} and ${entry.byteLength}`,
      { offset },
    );
  }
  if (method === METHOD_DEFLATED) checkInflatedSize(archive, entry);
}

function checkInflatedSize(archive: ZipArchive, entry: ZipEntry): void {
  const offset = entry.headerOffset;
  if (entry.byteLength > entry.compressedByteLength * MAX_DEFLATE_RATIO) {
    throw zipError(
      archive.file,
      `expected a size that ${entry.compressedByteLength} deflated bytes can inflate to, found ${entry.byteLength} claimed by ${quote(entry.name)}`,
      { offset },
    );
  }
  if (entry.byteLength > MAX_INFLATED_BYTES) {
    throw zipError(
      archive.file,
      `expected deflated zip records of at most ${MAX_INFLATED_BYTES} bytes, found ${entry.byteLength} in ${quote(entry.name)}`,
      { code: 'limit-exceeded', offset, hint: 'Zip the checkpoint again without compression: zip -0 -r' },
    );
  }
}

function inflateLazily(archive: ZipArchive, entry: ZipEntry, packed: ByteRange): ByteRange {
  const deflated: Deflated = {
    range: packed,
    byteLength: entry.byteLength,
    subject: `the zip record ${quote(entry.name)}`,
    check: (crc) => checkCrc(archive.file, entry, crc),
  };
  return { source: inflatedSource(deflated, archive.keeper), offset: 0, byteLength: entry.byteLength };
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
async function readDataOffset(archive: ZipArchive, entry: ZipEntry): Promise<number> {
  const { file, source } = archive;
  const offset = entry.headerOffset;
  const { nameBytes } = entry;
  const byteLength = Math.min(LOCAL_HEADER_BYTES + nameBytes.length, source.byteLength - offset);
  const bytes = await readRange({ source, offset, byteLength });
  const header = new Cursor(bytes, { file, baseOffset: offset, subject: 'the file' });
  if (header.readU32() !== 0x04034b50) {
    throw zipError(
      file,
      `expected the local header of the zip record ${quote(entry.name)}, found other bytes`,
      { offset },
    );
  }
  header.skip(4);
  const method = header.readU16();
  header.skip(16);
  const nameLength = header.readU16();
  const extraLength = header.readU16();
  const isSameName = nameLength === nameBytes.length && equalBytes(header.readBytes(nameLength), nameBytes);
  if (method !== entry.method || !isSameName) {
    throw zipError(
      file,
      `the local header of the zip record ${quote(entry.name)} contradicts the directory`,
      { offset },
    );
  }
  const dataOffset = offset + LOCAL_HEADER_BYTES + nameLength + extraLength;
  if (dataOffset + entry.compressedByteLength > (archive.limits.get(offset) ?? 0)) {
    throw zipError(
      file,
      `expected the zip record ${quote(entry.name)} to end before the next one starts, found a size of ${entry.compressedByteLength} bytes beyond it`,
      { offset },
    );
  }
  return dataOffset;
}

function equalBytes(x: Uint8Array, y: Uint8Array): boolean {
  return x.length === y.length && x.every((byte, index) => byte === y[index]);
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, '0')}`;
}
