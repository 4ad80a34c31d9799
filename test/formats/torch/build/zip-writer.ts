import { deflateRawSync } from 'node:zlib';
import { crc32 } from '../../../../src/io/zip.js';
import { bytesOf, utf8 } from '../../../build/bytes.js';

/** An entry to write; whatever is stated here may lie. */
export interface ZipRecord {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly deflate?: boolean;
  /** Sizes only in a descriptor behind the data, as torch.save writes. */
  readonly descriptor?: boolean;
  /** Sizes and offset in zip64 extra fields. */
  readonly zip64?: boolean;
  readonly localName?: string;
  readonly method?: number;
  readonly flags?: number;
  readonly crc32?: number;
  readonly byteLength?: number;
  readonly compressedByteLength?: number;
  readonly headerOffset?: number;
}

/** What the end records state; whatever is stated here may lie. */
export interface ZipEnd {
  readonly entryCount?: number;
  readonly directoryOffset?: number;
  readonly directoryByteLength?: number;
  readonly comment?: Uint8Array;
  readonly zip64?: boolean;
  readonly prefix?: Uint8Array;
  /** The directory names the last record first. */
  readonly isReversed?: boolean;
}

const MAX32 = 0xffffffff;

/** Little-endian fields: [bytes, value]. */
function fields(...values: (readonly [size: 2 | 4 | 8, value: number])[]): Uint8Array {
  const bytes = new Uint8Array(values.reduce((sum, [size]) => sum + size, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [size, value] of values) {
    if (size === 2) view.setUint16(at, value, true);
    else if (size === 4) view.setUint32(at, value, true);
    else view.setBigUint64(at, BigInt(value), true);
    at += size;
  }
  return bytes;
}

/** A zip archive, laid out as torch.save does: data aligned to 64 by the local extra field. */
export function zip(records: readonly ZipRecord[], end: ZipEnd = {}): Uint8Array {
  const parts: Uint8Array[] = [end.prefix ?? new Uint8Array(0)];
  const directory: Uint8Array[] = [];
  let offset = parts[0]?.length ?? 0;
  for (const record of records) {
    const { local, central } = writeRecord(record, offset);
    parts.push(local);
    directory.push(central);
    offset += local.length;
  }
  const directoryBytes = bytesOf(...(end.isReversed === true ? directory.reverse() : directory));
  return bytesOf(...parts, directoryBytes, writeEnd(records.length, offset, directoryBytes.length, end));
}

function writeRecord(record: ZipRecord, offset: number): { local: Uint8Array; central: Uint8Array } {
  const data = record.deflate === true ? Uint8Array.from(deflateRawSync(record.bytes)) : record.bytes;
  const method = record.method ?? (record.deflate === true ? 8 : 0);
  const flags = record.flags ?? (record.descriptor === true ? 0x808 : 0);
  const crc = record.crc32 ?? crc32(record.bytes);
  const size = record.byteLength ?? record.bytes.length;
  const packed = record.compressedByteLength ?? data.length;
  const at = record.headerOffset ?? offset;
  const name = utf8(record.name);
  const localName = utf8(record.localName ?? record.name);
  const is64 = record.zip64 === true;
  const localExtra64 = is64 ? fields([2, 1], [2, 16], [8, size], [8, packed]) : new Uint8Array(0);
  const padding = (64 - ((offset + 30 + localName.length + localExtra64.length + 4) % 64)) % 64;
  const localExtra = bytesOf(localExtra64, fields([2, 0x4246], [2, padding]), new Uint8Array(padding));
  const isLate = record.descriptor === true;
  const shown = (value: number) => (is64 ? MAX32 : isLate ? 0 : value);
  const local = bytesOf(
    fields([4, 0x04034b50], [2, 20], [2, flags], [2, method], [4, 0], [4, isLate ? 0 : crc]),
    fields([4, shown(packed)], [4, shown(size)], [2, localName.length], [2, localExtra.length]),
    localName,
    localExtra,
    data,
    isLate ? fields([4, 0x08074b50], [4, crc], [4, packed], [4, size]) : new Uint8Array(0),
  );
  const extra = is64 ? fields([2, 1], [2, 24], [8, size], [8, packed], [8, at]) : new Uint8Array(0);
  const central = bytesOf(
    fields([4, 0x02014b50], [2, 20], [2, 20], [2, flags], [2, method], [4, 0], [4, crc]),
    fields(
      [4, is64 ? MAX32 : packed],
      [4, is64 ? MAX32 : size],
      [2, name.length],
      [2, extra.length],
      [2, 0],
      [2, 0],
    ),
    fields([2, 0], [4, 0], [4, is64 ? MAX32 : at]),
    name,
    extra,
  );
  return { local, central };
}

function writeEnd(
  count: number,
  directoryOffset: number,
  directoryByteLength: number,
  end: ZipEnd,
): Uint8Array {
  const entries = end.entryCount ?? count;
  const offset = end.directoryOffset ?? directoryOffset;
  const size = end.directoryByteLength ?? directoryByteLength;
  const comment = end.comment ?? new Uint8Array(0);
  const recordOffset = directoryOffset + directoryByteLength;
  const zip64 =
    end.zip64 === true
      ? bytesOf(
          fields(
            [4, 0x06064b50],
            [8, 44],
            [2, 45],
            [2, 45],
            [4, 0],
            [4, 0],
            [8, entries],
            [8, entries],
            [8, size],
            [8, offset],
          ),
          fields([4, 0x07064b50], [4, 0], [8, recordOffset], [4, 1]),
        )
      : new Uint8Array(0);
  const small = (value: number, maximum: number) => (end.zip64 === true ? maximum : value);
  return bytesOf(
    zip64,
    fields([4, 0x06054b50], [2, 0], [2, 0], [2, small(entries, 0xffff)], [2, small(entries, 0xffff)]),
    fields([4, small(size, MAX32)], [4, small(offset, MAX32)], [2, comment.length]),
    comment,
  );
}
