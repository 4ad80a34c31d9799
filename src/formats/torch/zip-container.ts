// The ZIP container of `torch.save` and TorchScript: reads its storages, and splices others in.

import { toSplices } from '../../checkpoint/edit-plan.js';
import { readJsonObject } from '../../checkpoint/json-reader.js';
import { quote } from '../../errors.js';
import {
  type ByteSource,
  holdBytes,
  joinRanges,
  type PlacedContent,
  partitionPoint,
  readRange,
  refuseAmplified,
  type Splice,
} from '../../io/byte-source.js';
import {
  checkCrc,
  crc32,
  isInflated,
  LOCAL_HEADER_BYTES,
  locateRecord,
  openZip,
  readRecord,
  sortByHeader,
  ZIP_AGAIN,
  type ZipArchive,
  type ZipEntry,
  zipError,
} from '../../io/zip.js';
import { addTo } from '../../norm/naming.js';
import { readExportedWeights } from './exported-program.js';
import { MAX_PICKLE_BYTES, readPickle } from './pickle.js';
import { asInteger, describeValue, type PickleValue, type StorageNode } from './pickle-values.js';
import { refuseForeignZip } from './sniff.js';
import { elementTypeOf, resolveTorchId, type StorageTable, type TorchContainer } from './tensors.js';

/** A record is read in pieces of this size for its checksum. */
const CHUNK_BYTES = 1024 * 1024;

/** Where the CRC stands in a local file header and in an entry of the central directory (APPNOTE.TXT 4.3.7, 4.3.12). */
const LOCAL_CRC_AT = 14;
const ENTRY_CRC_AT = 16;

const ENTRY_BYTES = 46;
const ZIP64_LOCATOR_BYTES = 20;
const ZIP64_EXTRA_ID = 1;
const FLAG_DATA_DESCRIPTOR = 1 << 3;
const MAX_U32 = 0xffffffff;

interface Renewal {
  readonly entry: ZipEntry;
  readonly dataOffset: number;
  readonly crc: number;
}

/**
 * Plans how a zip archive takes pieces of other bytes: stored records in place, with their checksums renewed in the
 * local header, the data descriptor and the directory; deflated ones as new stored records behind the last one, to which
 * the directory then points. A checksum of 0, which means "not computed", stays.
 *
 * @param pieces by the archive's own source, or by the inflating source of a record; disjoint, by offset.
 * @throws CheckpointError where a record or its header cannot be read.
 */
export async function planZipSplices(
  archive: ZipArchive,
  pieces: ReadonlyMap<ByteSource, readonly PlacedContent[]>,
): Promise<readonly Splice[]> {
  const stored = pieces.get(archive.source) ?? [];
  const renewals: Renewal[] = [];
  const records = sortByHeader(archive.entries.values());
  const groups = new Map<ZipEntry, PlacedContent[]>();
  for (const piece of stored) addTo(groups, entryAt(records, piece.offset), piece);
  for (const [entry, inRecord] of groups) {
    const { offset, byteLength } = await locateRecord(archive, entry);
    if (entry.crc32 === 0) continue;
    const crc = await checksum(archive.source, { offset, byteLength }, inRecord);
    renewals.push({ entry, dataOffset: offset, crc });
  }
  const splices = [...toSplices(stored)];
  for (const renewal of renewals) splices.push(...(await planHeaderChecksums(archive.source, renewal)));
  const inflated = new Map<ZipEntry, readonly PlacedContent[]>();
  for (const [source, inRecord] of pieces)
    if (isInflated(source)) inflated.set(entryAt(records, source.deflated.range.offset), inRecord);
  const directory =
    inflated.size === 0
      ? renewals.map(({ entry, crc }) => spliceU32(entry.entryOffset + ENTRY_CRC_AT, crc))
      : [await planAppendedRecords(archive, inflated, renewals)];
  return [...splices, ...directory].sort((x, y) => x.offset - y.offset);
}

/** The record that a byte of the archive belongs to: the last one whose header starts before it. */
function entryAt(records: readonly ZipEntry[], offset: number): ZipEntry {
  const found = records[partitionPoint(records, ({ headerOffset }) => headerOffset <= offset) - 1];
  if (found === undefined) throw new Error('a piece lies before the first record of its archive');
  return found;
}

/** The CRC-32 of a stored record once the pieces are in it. */
async function checksum(
  source: ByteSource,
  { offset, byteLength }: { readonly offset: number; readonly byteLength: number },
  pieces: readonly PlacedContent[],
): Promise<number> {
  const buffer = new Uint8Array(Math.min(CHUNK_BYTES, byteLength));
  let crc = 0;
  for (let at = 0; at < byteLength; at += buffer.byteLength) {
    const chunk = buffer.subarray(0, Math.min(buffer.byteLength, byteLength - at));
    await source.readInto(chunk, offset + at);
    for (const piece of pieces) await overlay(chunk, offset + at, piece);
    crc = crc32(chunk, crc);
  }
  return crc;
}

async function overlay(
  chunk: Uint8Array,
  chunkOffset: number,
  { offset, content }: PlacedContent,
): Promise<void> {
  const start = Math.max(offset, chunkOffset);
  const end = Math.min(offset + content.byteLength, chunkOffset + chunk.byteLength);
  if (start >= end) return;
  const target = chunk.subarray(start - chunkOffset, end - chunkOffset);
  await content.source.readInto(target, content.offset + start - offset);
}

/**
 * The copies of a record's checksum beside the directory's: in the local header, unless it is left to the descriptor, and
 * in the data descriptor, which has an optional signature PK\7\8 before it.
 */
async function planHeaderChecksums(
  source: ByteSource,
  { entry, dataOffset, crc }: Renewal,
): Promise<Splice[]> {
  const candidates = [entry.headerOffset + LOCAL_CRC_AT];
  if (entry.flags & FLAG_DATA_DESCRIPTOR) {
    const end = dataOffset + entry.compressedByteLength;
    candidates.push((await readU32(source, end)) === 0x08074b50 ? end + 4 : end);
  }
  const splices: Splice[] = [];
  for (const at of candidates)
    if ((await readU32(source, at)) === entry.crc32) splices.push(spliceU32(at, crc));
  return splices;
}

async function readU32(source: ByteSource, offset: number): Promise<number | null> {
  if (offset + 4 > source.byteLength) return null;
  return Buffer.from(await readRange({ source, offset, byteLength: 4 })).readUInt32LE();
}

function spliceU32(offset: number, value: number): Splice {
  const content = Buffer.alloc(4);
  content.writeUInt32LE(value);
  return { offset, deleted: 4, content: holdBytes(content) };
}

/** One splice from the old directory to the end of the file: the new records, the directory, the end records. */
async function planAppendedRecords(
  archive: ZipArchive,
  inflated: ReadonlyMap<ZipEntry, readonly PlacedContent[]>,
  renewals: readonly Renewal[],
): Promise<Splice> {
  const { source, extent } = archive;
  const parts: Uint8Array[] = [];
  const changes = new Map<ZipEntry, StoredRecord>();
  let position = extent.offset;
  for (const [entry, pieces] of inflated) {
    const record = await makeStoredRecord(entry, pieces, position);
    changes.set(entry, record);
    parts.push(record.header, record.data);
    position += record.header.byteLength + record.data.byteLength;
  }
  const end = extent.offset + extent.byteLength;
  if (position + extent.byteLength > MAX_U32)
    throw zipError(source, 'deflated records of an archive beyond 4 GiB cannot be replaced', {
      code: 'unsupported',
      hint: ZIP_AGAIN,
    });
  const old = await readRange({ source, offset: extent.offset, byteLength: extent.byteLength });
  const crcs = new Map(renewals.map(({ entry, crc }) => [entry, crc]));
  const entries = [...archive.entries.values()].sort((x, y) => x.entryOffset - y.entryOffset);
  const rewritten = entries.map((entry, index) => {
    const next = entries[index + 1]?.entryOffset ?? end;
    const bytes = old.slice(entry.entryOffset - extent.offset, next - extent.offset);
    const change = changes.get(entry);
    const crc = crcs.get(entry);
    if (crc !== undefined) new DataView(bytes.buffer).setUint32(ENTRY_CRC_AT, crc, true);
    return change === undefined ? bytes : toStoredEntry(bytes, change);
  });
  const directory = Buffer.concat(rewritten);
  const rest = await readRange({ source, offset: end, byteLength: source.byteLength - end });
  moveEndRecords(rest, archive.endRecordOffset - end, { offset: position, byteLength: directory.byteLength });
  const content = holdBytes(Buffer.concat([...parts, directory, rest]));
  return { offset: extent.offset, deleted: source.byteLength - extent.offset, content };
}

type StoredRecord = Awaited<ReturnType<typeof makeStoredRecord>>;

async function makeStoredRecord(entry: ZipEntry, pieces: readonly PlacedContent[], headerOffset: number) {
  const source = pieces[0]?.source;
  if (source === undefined) throw new Error(`no piece changes the record ${quote(entry.name)}`);
  const whole = { source, offset: 0, byteLength: entry.byteLength };
  refuseAmplified([whole], source.name);
  const data = await readRange(whole);
  for (const piece of pieces) await overlay(data, 0, piece);
  const crc = entry.crc32 === 0 ? 0 : crc32(data);
  const header = new Uint8Array(LOCAL_HEADER_BYTES + entry.nameBytes.byteLength);
  const view = new DataView(header.buffer);
  view.setUint32(0, 0x04034b50, true);
  view.setUint16(4, 20, true);
  view.setUint16(6, entry.flags & ~FLAG_DATA_DESCRIPTOR, true);
  view.setUint32(LOCAL_CRC_AT, crc, true);
  view.setUint32(18, data.byteLength, true);
  view.setUint32(22, data.byteLength, true);
  view.setUint16(26, entry.nameBytes.byteLength, true);
  header.set(entry.nameBytes, LOCAL_HEADER_BYTES);
  return { header, data, crc, headerOffset };
}

/** A directory entry for a record that is stored now; a zip64 extra field has nothing left to say. */
function toStoredEntry(bytes: Uint8Array, { crc, data, headerOffset }: StoredRecord): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const nameEnd = ENTRY_BYTES + view.getUint16(28, true);
  const extraEnd = nameEnd + view.getUint16(30, true);
  const extra = dropZip64(bytes.subarray(nameEnd, extraEnd));
  view.setUint16(8, view.getUint16(8, true) & ~FLAG_DATA_DESCRIPTOR, true);
  view.setUint16(10, 0, true);
  view.setUint32(ENTRY_CRC_AT, crc, true);
  view.setUint32(20, data.byteLength, true);
  view.setUint32(24, data.byteLength, true);
  view.setUint16(30, extra.byteLength, true);
  view.setUint32(42, headerOffset, true);
  return Buffer.concat([bytes.subarray(0, nameEnd), extra, bytes.subarray(extraEnd)]);
}

function dropZip64(extra: Uint8Array): Uint8Array {
  const view = new DataView(extra.buffer, extra.byteOffset, extra.byteLength);
  const kept: Uint8Array[] = [];
  for (let at = 0; at + 4 <= extra.byteLength; ) {
    const end = at + 4 + view.getUint16(at + 2, true);
    if (view.getUint16(at, true) !== ZIP64_EXTRA_ID) kept.push(extra.subarray(at, end));
    at = end;
  }
  return Buffer.concat(kept);
}

/** Points the end records, which start with the zip64 one where there is one, at the directory's new place. */
function moveEndRecords(
  rest: Uint8Array,
  endRecord: number,
  directory: { readonly offset: number; readonly byteLength: number },
): void {
  const view = new DataView(rest.buffer, rest.byteOffset, rest.byteLength);
  if (view.getUint32(0, true) === 0x06064b50) {
    view.setBigUint64(40, BigInt(directory.byteLength), true);
    view.setBigUint64(48, BigInt(directory.offset), true);
    const locator = endRecord - ZIP64_LOCATOR_BYTES;
    view.setBigUint64(locator + 8, BigInt(directory.offset + directory.byteLength), true);
  }
  if (view.getUint32(endRecord + 12, true) !== MAX_U32)
    view.setUint32(endRecord + 12, directory.byteLength, true);
  if (view.getUint32(endRecord + 16, true) !== MAX_U32)
    view.setUint32(endRecord + 16, directory.offset, true);
}

/** `little` or `big`, with room for whatever else may stand there. */
const MAX_BYTE_ORDER_BYTES = 64;

/** Python source of one module of a TorchScript archive. */
const MAX_CLASS_SOURCE_BYTES = 4 * 1024 * 1024;

/** Records up to this size are checked against their CRC when they hold statistics. */
const MAX_VERIFIED_BYTES = 4 * 1024 * 1024;

/**
 * Opens the zip container that torch.save (since 1.6) and torch.jit.save write (caffe2/serialize/inline_container.h):
 *
 *     ROOT/data.pkl        the object; storages by key
 *     ROOT/data/KEY        the bytes of a storage, stored and aligned to 64
 *     ROOT/byteorder       little or big; absent before PyTorch 2.1, which means little
 *     ROOT/constants.pkl   TorchScript only, as is ROOT/code/
 *
 * ROOT is the directory of the first entry. Reads the directory and data.pkl, but for the bytes of arrays; storages only
 * when asked for.
 *
 * An exported program (`.pt2`) has `ROOT/data/weights/…_weights_config.json` in place of a pickle.
 *
 * @param isPart where it is a part of another file, which holds no further one: an archive may hold itself, deflated.
 * @throws CheckpointError where it is something else, damaged or hostile.
 */
export async function openZipContainer(source: ByteSource, isPart = false): Promise<TorchContainer> {
  const archive = await openZip(source);
  const names = [...archive.entries.keys()];
  const [embedded, ...others] = isPart ? [] : names.filter((name) => EMBEDDED_STATE_DICT.test(name));
  if (embedded !== undefined && others.length === 0) return openEmbedded(archive, embedded);
  if (embedded !== undefined)
    throw zipError(source, `expected one state dict in the .pt2 archive, found ${others.length + 1}`, {
      code: 'unsupported',
    });
  const configs = names.filter((name) => WEIGHTS_CONFIG.test(name));
  const [config] = configs;
  const root = config === undefined ? findRoot(archive) : config.replace(WEIGHTS_CONFIG, '$1');
  return {
    format: archive.entries.has(`${root}constants.pkl`) ? 'TorchScript' : 'PyTorch',
    root: await (config === undefined ? readDataPickle(archive, root) : readPrograms(archive, configs, root)),
    storages: new ZipStorages(archive, root, await readByteOrder(archive, root)),
    readClassSource: (module) => readClassSource(archive, root, module),
    planSplices: (pieces) => planZipSplices(archive, pieces),
  };
}

async function readDataPickle(archive: ZipArchive, root: string): Promise<PickleValue> {
  const { source } = archive;
  const file = source.name;
  const pickle = archive.entries.get(`${root}data.pkl`);
  if (pickle === undefined) throw new Error('the pickle by which the root was found is gone');
  const range = await locateRecord(archive, pickle);
  refuseAmplified([range], file);
  // Inflated bytes are checked as they are read; those of arrays alone, of which a larger record consists, later or never.
  if (range.source === source && range.byteLength <= MAX_PICKLE_BYTES)
    checkCrc(source, pickle, await checksum(source, range, []));
  const { value } = await readPickle(range, {
    subject: 'the pickle data.pkl',
    resolvePersistentId: (id, offset) => resolveTorchId(id, { file, offset }),
  });
  return value;
}

/** What torch.export.save lists its weights in, in the root's directory `data/weights` beside them. */
const WEIGHTS_CONFIG = /^((?:[^/]+\/)?)data\/weights\/([^/]+)_weights_config\.json$/;

/** What PyTorch before 2.9 put a whole file of torch.save into: the state dict of the exported program. */
const EMBEDDED_STATE_DICT = /^(?:serialized_state_dict\.(?:pt|json)|(?:[^/]+\/)?data\/weights\/[^/]+\.pt)$/;

/** The list of weights takes some 400 bytes for each of up to 100,000. */
const MAX_WEIGHTS_CONFIG_BYTES = 40_000_000;

/** The weights of the program in an archive; of several, a dict of them by what they are called. */
async function readPrograms(
  archive: ZipArchive,
  configs: readonly string[],
  root: string,
): Promise<PickleValue> {
  const entries = new Map<PickleValue, PickleValue>();
  for (const name of configs)
    entries.set(name.replace(WEIGHTS_CONFIG, '$2'), await readWeights(archive, name, root));
  const [only] = entries.values();
  return entries.size === 1 && only !== undefined ? only : { kind: 'dict', entries, state: null };
}

async function readWeights(archive: ZipArchive, name: string, root: string): Promise<PickleValue> {
  const entry = archive.entries.get(name);
  if (entry === undefined) throw new Error('the list of weights by which the root was found is gone');
  const { bytes } = await readRecord(archive, entry, MAX_WEIGHTS_CONFIG_BYTES);
  const config = readJsonObject(bytes, `${archive.source.name}, ${name}`).get('config');
  return readExportedWeights(config, {
    file: archive.source.name,
    keyOf: (record) => `weights/${record}`,
    byteLengthOf: (key) => archive.entries.get(`${root}data/${key}`)?.byteLength,
  });
}

/** A file of torch.save within the archive. */
async function openEmbedded(archive: ZipArchive, name: string): Promise<TorchContainer> {
  const entry = archive.entries.get(name);
  if (entry === undefined) throw new Error('an entry of the archive is gone');
  const { source } = joinRanges(archive.source.name, [await locateRecord(archive, entry)]);
  const container = await openZipContainer(source, true);
  return { ...container, isWithin: true };
}

/** The directory, with its slash, that holds data.pkl; '' for an archive that was zipped again without one. */
function findRoot({ entries, source }: ZipArchive): string {
  const pickles = [...entries.keys()].filter((name) => /^([^/]*\/)?data\.pkl$/.test(name));
  const [pickle] = pickles;
  if (pickle === undefined) refuseForeignZip([...entries.keys()], source.name);
  if (pickles.length > 1) {
    const listed = pickles.slice(0, 4).map(quote).join(', ');
    throw zipError(source, `expected one data.pkl, found ${pickles.length}: ${listed}`);
  }
  return pickle.slice(0, -'data.pkl'.length);
}

async function readByteOrder(archive: ZipArchive, root: string): Promise<'little' | 'big'> {
  const entry = archive.entries.get(`${root}byteorder`);
  if (entry === undefined) return 'little';
  const { bytes } = await readRecord(archive, entry, MAX_BYTE_ORDER_BYTES);
  const text = new TextDecoder('latin1').decode(bytes).trim();
  if (text === 'little' || text === 'big') return text;
  const message = `expected the byteorder record to say "little" or "big", found ${quote(text)}`;
  throw zipError(archive.source, message, { offset: entry.headerOffset });
}

/** `__torch__.torch.nn.modules.conv` is at `ROOT/code/__torch__/torch/nn/modules/conv.py`. */
async function readClassSource(archive: ZipArchive, root: string, module: string): Promise<string | null> {
  const entry = archive.entries.get(`${root}code/${module.replaceAll('.', '/')}.py`);
  if (entry === undefined || entry.byteLength > MAX_CLASS_SOURCE_BYTES) return null;
  const { bytes } = await readRecord(archive, entry, MAX_CLASS_SOURCE_BYTES);
  return new TextDecoder('utf-8').decode(bytes);
}

class ZipStorages implements StorageTable {
  readonly #archive: ZipArchive;
  readonly #root: string;
  readonly #byteOrder: 'little' | 'big';
  readonly #verified = new Set<string>();

  constructor(archive: ZipArchive, root: string, byteOrder: 'little' | 'big') {
    this.#archive = archive;
    this.#root = root;
    this.#byteOrder = byteOrder;
  }

  async locate(storage: StorageNode, tensorName: string) {
    const elementByteLength = elementTypeOf(storage.typeName)?.byteLength ?? 1;
    const elementCount = asInteger(storage.elementCount);
    const entry = this.#entryOf(storage, tensorName);
    if (elementCount === null || elementCount * elementByteLength > entry.byteLength)
      throw zipError(
        this.#archive.source,
        `the tensor ${quote(tensorName)}: expected a storage of ${describeValue(storage.elementCount)} elements in the ` +
          `zip record ${quote(entry.name)}, found ${entry.byteLength} bytes, which is not the size of so many`,
        { offset: storage.offset },
      );
    return { range: await locateRecord(this.#archive, entry), byteOrder: this.#byteOrder };
  }

  async verify(storage: StorageNode, tensorName: string): Promise<void> {
    const entry = this.#entryOf(storage, tensorName);
    if (entry.byteLength > MAX_VERIFIED_BYTES || this.#verified.has(entry.name)) return;
    this.#verified.add(entry.name);
    // A deflated record is checked whenever it is read, and of a small one that is always all.
    const range = await locateRecord(this.#archive, entry);
    if (!isInflated(range.source)) await readRecord(this.#archive, entry, MAX_VERIFIED_BYTES);
    else await range.source.readInto(new Uint8Array(Math.min(1, range.byteLength)), 0);
  }

  /** Looked up by name in the directory only: a key with `../` or a leading `/` is a name like any other. */
  #entryOf(storage: StorageNode, tensorName: string): ZipEntry {
    const entry = this.#archive.entries.get(`${this.#root}data/${storage.key}`);
    if (entry !== undefined) return entry;
    throw zipError(
      this.#archive.source,
      `the tensor ${quote(tensorName)}: expected its storage in the zip record ${quote(`data/${storage.key}`)}, found no such record`,
      { offset: storage.offset },
    );
  }
}
