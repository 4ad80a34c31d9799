import { quote } from '../../errors.js';
import { refuseAmplified } from '../../io/amplification.js';
import { type ByteRange, type ByteSource, readRange } from '../../io/byte-source.js';
import { crc32 } from '../../io/crc32.js';
import { Cursor } from '../../io/cursor.js';
import { type Deflated, InflatedKeeper, inflatedSource } from '../../io/inflated-source.js';
import { windowedSource } from '../../io/windowed-source.js';
import { LOCAL_HEADER_BYTES, readZipDirectory, type ZipEntry, zipError } from './zip-directory.js';

/** To read a byte of a deflated record, all before it are inflated. torch.save never deflates. */
const MAX_INFLATED_BYTES = 256 * 1024 * 1024;

/** Deflate expands at most 1032 to 1 (zlib's technical notes); whatever claims more lies. */
const MAX_DEFLATE_RATIO = 1032;

/** The records of a norm layer and the next local header lie within it, unless the layer is very wide. */
const WINDOW_BYTES = 32 * 1024;

const FLAG_ENCRYPTED = 1 << 0;
const FLAG_STRONG_ENCRYPTION = 1 << 6;
const FLAG_MASKED_HEADERS = 1 << 13;
const METHOD_STORED = 0;
const METHOD_DEFLATED = 8;

/** An opened zip file: its directory, checked as a whole. */
export interface ZipArchive {
  readonly source: ByteSource;
  /** The same bytes for local headers and small records, which lie close together. */
  readonly headers: ByteSource;
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
    headers: windowedSource(source, WINDOW_BYTES),
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
  const bytes = await readRange(isStored ? { ...range, source: archive.headers } : range);
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
  const { file, headers: source } = archive;
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
