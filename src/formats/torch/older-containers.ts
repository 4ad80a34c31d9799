// The containers before ZIP: `torch.save` up to 1.5 (pickles, then storages) and up to 0.1 (tar).

import { CheckpointError, fail, quote } from '../../errors.js';
import { type ByteRange, type ByteSource, readRange, wholeOf } from '../../io/byte-source.js';
import { Cursor } from '../../io/cursor.js';
import { listTar } from '../../io/tar.js';
import { describeNumberLists, SAVE_LISTS, Surveyor } from './objects.js';
import { type PickleOptions, readPickle } from './pickle.js';
import {
  asInteger,
  describeValue,
  entriesOf,
  isNode,
  itemsOf,
  makeGlobalNode,
  makeObjectNode,
  type PickleValue,
  type StorageNode,
} from './pickle-values.js';
import {
  asTensorCall,
  elementTypeOf,
  isStorageKey,
  MAX_DIMENSIONS,
  resolveTorchId,
  type StorageTable,
  type TorchContainer,
} from './tensors.js';

/** Reads pickles, counts and payloads that follow each other in a file, and of the payloads only where they end. */
class PickleSequence {
  readonly #source: ByteSource;
  readonly #end: number;
  readonly #resolvePersistentId: PickleOptions['resolvePersistentId'];
  #position: number;

  /** @param resolvePersistentId what the pickles' persistent ids stand for. */
  constructor(
    { source, offset, byteLength }: ByteRange,
    resolvePersistentId: PickleOptions['resolvePersistentId'],
  ) {
    this.#source = source;
    this.#end = offset + byteLength;
    this.#resolvePersistentId = resolvePersistentId;
    this.#position = offset;
  }

  /** Where in the file the next pickle, count or payload starts. */
  get position(): number {
    return this.#position;
  }

  get remaining(): number {
    return this.#end - this.#position;
  }

  /** Reads the next pickle; one is cut off only where the sequence itself ends too early. */
  async readPickle(subject: string): Promise<PickleValue> {
    const range = { source: this.#source, offset: this.#position, byteLength: this.remaining };
    const { value, end } = await readPickle(range, {
      subject,
      resolvePersistentId: this.#resolvePersistentId,
    });
    this.#position += end;
    return value;
  }

  async readBytes(byteLength: number, subject: string): Promise<Cursor> {
    const offset = this.#position;
    this.skip(byteLength, subject);
    const bytes = await readRange({ source: this.#source, offset, byteLength });
    return new Cursor(bytes, { file: this.#source.name, baseOffset: offset, subject });
  }

  /** Moves behind a payload, which must not be longer than the rest. */
  skip(byteLength: number, subject: string): void {
    if (!(byteLength >= 0 && byteLength <= this.remaining)) {
      const found = `found the end after ${this.remaining}: it is truncated`;
      const message = `expected ${subject} of ${byteLength} bytes, ${found}`;
      fail(this.#source.name, message, 'truncated', { offset: this.#position });
    }
    this.#position += byteLength;
  }
}

/** torch/serialization.py, `MAGIC_NUMBER` and `PROTOCOL_VERSION`. */
const MAGIC_NUMBER = 0x1950a86a20f9469cfc6cn;
const PROTOCOL_VERSION = 1001;

/** Each storage is an int64 count of elements and then the elements. */
const COUNT_BYTES = 8;

/**
 * Opens what torch.save wrote before 1.6, and still does on request (torch/serialization.py, `_legacy_save`):
 *
 *     pickle      0x1950a86a20f9469cfc6c
 *     pickle      1001
 *     pickle      {protocol_version, little_endian, type_sizes}
 *     pickle      the object; storages by key
 *     pickle      the list of keys
 *     per key     int64 element count, elements
 *
 * A file that starts with a pickle of anything else is a bare pickle: it has no place for tensors, but for NumPy arrays.
 *
 * @throws CheckpointError where it is something else, damaged or hostile.
 */
export async function openLegacyContainer(source: ByteSource): Promise<TorchContainer> {
  const file = source.name;
  const claims = new Map<string, StorageNode>();
  const sequence = new PickleSequence(wholeOf(source), (id, offset) => {
    const value = resolveTorchId(id, { file, offset });
    if (isNode(value, 'storage')) claims.set(value.key, value);
    return value;
  });
  const magic = await sequence.readPickle('the first pickle');
  if (magic !== MAGIC_NUMBER) return openBarePickle(magic, claims.size > 0, file);
  const version = await sequence.readPickle('the pickle of the protocol version');
  if (version !== PROTOCOL_VERSION) {
    const found = describeValue(version);
    throw malformed(file, `expected the legacy protocol version ${PROTOCOL_VERSION}, found ${found}`);
  }
  const system = await sequence.readPickle('the pickle of the system facts');
  const root = await sequence.readPickle('the pickle of the object');
  const keys = readKeys(await sequence.readPickle('the pickle of the storage keys'), file);
  const saysBigEndian = entriesOf(system)?.get('little_endian') === false;
  const extents = await findExtents(sequence, file, { keys, claims, saysBigEndian });
  return { format: 'PyTorch', root, storages: storagesAt(source, extents) };
}

const NO_STORAGES: StorageTable = {
  locate({ key }, tensorName) {
    throw new Error(`the tensor ${tensorName} has the storage ${key} in a file without storages`);
  },
};

function openBarePickle(value: PickleValue, namesStorages: boolean, file: string): TorchContainer {
  const hasArrays = asTensorCall(value) !== null || new Surveyor().survey(value).tensors > 0;
  if (hasArrays && !namesStorages) return { format: 'NumPy pickle', root: value, storages: NO_STORAGES };
  const lists = describeNumberLists(value);
  const found = namesStorages
    ? 'the data.pkl of an unpacked checkpoint, whose tensors are in other files'
    : `a bare pickle of ${describeValue(value)}, without tensors${lists === null ? '' : `: ${lists}`}`;
  const hint = lists === null ? 'Save the state dict with torch.save, and audit that.' : `${SAVE_LISTS}.`;
  return fail(file, `expected a checkpoint of torch.save, found ${found}`, 'unsupported', { hint });
}

function readKeys(value: PickleValue, file: string): readonly string[] {
  const items = isNode(value, 'list') || isNode(value, 'tuple') ? value.items : null;
  if (items === null || items.some((key) => typeof key !== 'string' && typeof key !== 'number'))
    throw malformed(file, `expected the list of storage keys, found ${describeValue(value)}`);
  return items.map(String);
}

interface Extent {
  readonly offset: number;
  readonly elementCount: number;
  readonly elementByteLength: number;
  readonly byteOrder: 'little' | 'big';
}

/** Walks over the storages by their counts, and holds those against `claims`, what the object says of them. */
async function findExtents(
  sequence: PickleSequence,
  file: string,
  listed: { keys: readonly string[]; claims: ReadonlyMap<string, StorageNode>; saysBigEndian: boolean },
): Promise<ReadonlyMap<string, Extent>> {
  const { keys, claims, saysBigEndian } = listed;
  const extents = new Map<string, Extent>();
  for (const key of keys) {
    const { position } = sequence;
    const refuse = (message: string) => malformed(file, message, position);
    const claim = claims.get(key);
    const elementByteLength = elementTypeOf(claim?.typeName ?? '')?.byteLength;
    if (claim === undefined || elementByteLength === undefined)
      throw refuse(
        `expected the listed storage key ${quote(key)} in the object, found no tensor that uses it`,
      );
    const count = (await sequence.readBytes(COUNT_BYTES, 'the count of elements')).readI64();
    const elementCount = asInteger(claim.elementCount);
    const byteOrder = findByteOrder(count, elementCount, saysBigEndian);
    if (elementCount === null || byteOrder === null)
      throw refuse(
        `expected ${describeValue(claim.elementCount)} elements in the storage ${quote(key)}, found a count of ${count}`,
      );
    extents.set(key, { offset: sequence.position, elementCount, elementByteLength, byteOrder });
    sequence.skip(elementCount * elementByteLength, `the storage ${quote(key)}`);
  }
  return extents;
}

/**
 * Compares the count before a storage, read as little-endian, with the object's claim. PyTorch writes counts and
 * elements little-endian on every machine, also where sys_info says big; other writers of such files did as they said.
 * The count tells the two apart.
 *
 * @returns null where it is another count.
 */
function findByteOrder(
  count: bigint,
  claimed: number | null,
  saysBigEndian: boolean,
): Extent['byteOrder'] | null {
  if (claimed === null || claimed < 0) return null;
  if (count === BigInt(claimed)) return 'little';
  const bytes = Buffer.alloc(COUNT_BYTES);
  bytes.writeBigInt64LE(count);
  return saysBigEndian && bytes.readBigInt64BE() === BigInt(claimed) ? 'big' : null;
}

function storagesAt(source: ByteSource, extents: ReadonlyMap<string, Extent>): StorageTable {
  return {
    async locate(storage, tensorName) {
      const extent = extents.get(storage.key);
      const refuse = (message: string) =>
        malformed(source.name, `the tensor ${quote(tensorName)}: ${message}`, storage.offset);
      if (extent === undefined)
        throw refuse(`expected the storage key ${quote(storage.key)} in the list of keys, found it missing`);
      const { byteOrder, elementByteLength } = extent;
      const first = storage.view === null ? 0 : asInteger(storage.view.offset);
      const count = asInteger(storage.view === null ? storage.elementCount : storage.view.elementCount);
      if (first === null || count === null || first < 0 || count < 0 || first + count > extent.elementCount)
        throw refuse(
          `expected a view within the storage's ${extent.elementCount} elements, found one beyond it`,
        );
      const offset = extent.offset + first * elementByteLength;
      return { range: { source, offset, byteLength: count * elementByteLength }, byteOrder };
    },
  };
}

function malformed(file: string, message: string, offset?: number): CheckpointError {
  return new CheckpointError(message, { code: 'malformed', file, offset });
}

/** Tensors and storages of one file, far more than torch 0.1 could train. */
const MAX_RECORDS = 1024 * 1024;

/**
 * Opens the tar archive that torch 0.1 wrote (torch/serialization.py, `_legacy_load`, `legacy_load`):
 *
 *     sys_info   pickle {protocol_version, little_endian, type_sizes}
 *     pickle     the object; a tensor is the persistent id of its key
 *     tensors    pickle count, then per tensor: pickle (key, storage key, type),
 *                int32 dimensions, int32 padding, int64 sizes[], int64 strides[], int64 offset
 *     storages   pickle count, then per storage: pickle (key, location, type), int64 element count, elements;
 *                then pickle [(view key, root key, offset, element count), …]
 *
 * @throws CheckpointError where it is another tar archive, damaged or hostile.
 */
export async function openTarContainer(source: ByteSource): Promise<TorchContainer> {
  const file = source.name;
  const members = await listTar(source);
  const storages = await readStorages(sequenceOf(memberOf(members, 'storages', file)), file);
  const tensors = await readTensors(sequenceOf(memberOf(members, 'tensors', file)), file, storages);
  const { value } = await readPickle(memberOf(members, 'pickle', file), {
    subject: 'the pickle of the tar archive',
    resolvePersistentId: (id, offset) => resolveTarId(id, tensors, { file, offset }),
  });
  return { format: 'PyTorch', root: value, storages: storagesAt(source, storages) };
}

function memberOf(members: ReadonlyMap<string, ByteRange>, name: string, file: string): ByteRange {
  const member = members.get(name);
  if (member !== undefined) return member;
  const message = `expected a tar archive of torch 0.1 with ${quote(name)}, found a tar archive without it`;
  const hint = 'Unpack it and name the checkpoint within.';
  throw new CheckpointError(message, { code: 'unsupported', file, hint });
}

function sequenceOf(member: ByteRange): PickleSequence {
  return new PickleSequence(member, (id, offset) => {
    const expected = 'expected no persistent id outside the pickle of the tar archive';
    throw malformed(member.source.name, `${expected}, found ${describeValue(id)}`, offset);
  });
}

async function readTarCount(sequence: PickleSequence, file: string, subject: string): Promise<number> {
  const { position } = sequence;
  const value = await sequence.readPickle(subject);
  const count = asInteger(value);
  if (count !== null && count >= 0 && count <= MAX_RECORDS) return count;
  const expected = `expected ${subject} between 0 and ${MAX_RECORDS} in the tar archive`;
  throw malformed(file, `${expected}, found ${describeValue(value)}`, position);
}

interface TarStorage extends Extent {
  readonly typeName: string;
}

async function readStorages(
  sequence: PickleSequence,
  file: string,
): Promise<ReadonlyMap<string, TarStorage>> {
  const storages = new Map<string, TarStorage>();
  const count = await readTarCount(sequence, file, 'the count of storages');
  for (let i = 0; i < count; i++) {
    const at = sequence.position;
    const [key, , type] = itemsOf(await sequence.readPickle('the pickle of a storage'));
    const typeName = isNode(type, 'global') ? type.name : '';
    const elementByteLength = elementTypeOf(typeName)?.byteLength;
    const elementCount = Number((await sequence.readBytes(8, 'the size of a storage')).readI64());
    if (!isStorageKey(key) || elementByteLength === undefined || elementCount < 0) {
      const expected = 'expected a storage with its key, type and size in the tar archive';
      throw malformed(file, `${expected}, found something else`, at);
    }
    const extent = { offset: sequence.position, elementCount, elementByteLength };
    storages.set(String(key), { ...extent, byteOrder: 'little', typeName });
    sequence.skip(elementCount * elementByteLength, 'a storage');
  }
  if (count > 0 || sequence.remaining > 0)
    addViews(storages, await sequence.readPickle('the pickle of the views'), file);
  return storages;
}

/** Views are storages that are parts of others: (view key, root key, offset, element count). */
function addViews(storages: Map<string, TarStorage>, views: PickleValue, file: string): void {
  for (const view of itemsOf(views)) {
    const [key, rootKey, offset, count] = itemsOf(view);
    const root = isStorageKey(rootKey) ? storages.get(String(rootKey)) : undefined;
    const first = asInteger(offset);
    const elementCount = asInteger(count);
    const isWithin =
      root !== undefined && first !== null && elementCount !== null && first >= 0 && elementCount >= 0;
    if (!isStorageKey(key) || !isWithin || first + elementCount > root.elementCount)
      throw malformed(file, 'expected a view within its storage in the tar archive, found one beyond it');
    storages.set(String(key), {
      ...root,
      offset: root.offset + first * root.elementByteLength,
      elementCount,
    });
  }
}

/** Each tensor as the call that later versions of torch would have pickled. */
async function readTensors(
  sequence: PickleSequence,
  file: string,
  storages: ReadonlyMap<string, TarStorage>,
): Promise<ReadonlyMap<string, PickleValue>> {
  const tensors = new Map<string, PickleValue>();
  const count = await readTarCount(sequence, file, 'the count of tensors');
  for (let i = 0; i < count; i++) {
    const at = sequence.position;
    const [key, storageKey] = itemsOf(await sequence.readPickle('the pickle of a tensor'));
    const dimensions = (await sequence.readBytes(8, 'the dimensions of a tensor')).readI32();
    const storage = isStorageKey(storageKey) ? storages.get(String(storageKey)) : undefined;
    if (!isStorageKey(key) || storage === undefined || dimensions < 0 || dimensions > MAX_DIMENSIONS) {
      const expected = 'expected a tensor with its key, storage and dimensions in the tar archive';
      throw malformed(file, `${expected}, found something else`, at);
    }
    const numbers = await sequence.readBytes(8 * (2 * dimensions + 1), 'the sizes of a tensor');
    const readMany = (length: number) => Array.from({ length }, () => Number(numbers.readI64()));
    const [shape, strides, [offset = 0]] = [readMany(dimensions), readMany(dimensions), readMany(1)];
    const { typeName, elementCount } = storage;
    const node: PickleValue = {
      kind: 'storage',
      typeName,
      key: String(storageKey),
      elementCount,
      view: null,
      offset: at,
    };
    const args: readonly PickleValue[] = [
      node,
      offset,
      { kind: 'tuple', items: shape },
      { kind: 'tuple', items: strides },
    ];
    const callee = makeGlobalNode('torch._utils', '_rebuild_tensor');
    tensors.set(String(key), makeObjectNode({ callee, args, offset: at }));
  }
  return tensors;
}

/** A tensor is named by its key; a class by (class, source file, source). */
function resolveTarId(
  id: PickleValue,
  tensors: ReadonlyMap<string, PickleValue>,
  { file, offset }: { readonly file: string; readonly offset: number | undefined },
): PickleValue {
  const [type, ...rest] = itemsOf(id);
  if (isNode(type, 'global') && rest.length === 2) return type;
  const tensor = isStorageKey(id) ? tensors.get(String(id)) : undefined;
  if (tensor !== undefined) return tensor;
  const found = isStorageKey(id) ? `the key ${quote(String(id))}, which is none` : describeValue(id);
  const expected = `expected the key of one of the ${tensors.size} tensors of the tar archive`;
  throw malformed(file, `${expected}, found ${found}`, offset);
}
