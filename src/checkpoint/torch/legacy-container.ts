import { CheckpointError, quote } from '../../errors.js';
import type { ByteSource } from '../../io/byte-source.js';
import { hasNoClassSource, type TorchContainer } from './container.js';
import { PickleSequence } from './pickle-sequence.js';
import {
  asInteger,
  describeValue,
  entriesOf,
  isNode,
  type PickleValue,
  type StorageNode,
} from './pickle-values.js';
import { elementTypeOf, resolveTorchId, type StorageTable } from './storages.js';

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
 * A file that starts with a pickle of anything else is a bare pickle, which has no place for tensors.
 *
 * @throws CheckpointError where it is something else, damaged or hostile.
 */
export async function openLegacyContainer(source: ByteSource, file: string): Promise<TorchContainer> {
  const claims = new Map<string, StorageNode>();
  const sequence = new PickleSequence(source, {
    file,
    start: 0,
    end: source.byteLength,
    resolvePersistentId(id, offset) {
      const value = resolveTorchId(id, { file, offset });
      if (isNode(value, 'storage')) claims.set(value.key, value);
      return value;
    },
  });
  const magic = await sequence.readPickle('the first pickle');
  if (magic !== MAGIC_NUMBER) refuseBarePickle(magic, claims.size > 0, file);
  const version = await sequence.readPickle('the pickle of the protocol version');
  if (version !== PROTOCOL_VERSION) {
    throw malformed(
      file,
      `expected the legacy protocol version ${PROTOCOL_VERSION}, found ${describeValue(version)}`,
    );
  }
  const system = await sequence.readPickle('the pickle of the system facts');
  const root = await sequence.readPickle('the pickle of the object');
  const keys = readKeys(await sequence.readPickle('the pickle of the storage keys'), file);
  const saysBigEndian = entriesOf(system)?.get('little_endian') === false;
  const extents = await findExtents(sequence, { file, keys, claims, saysBigEndian });
  return {
    format: 'PyTorch',
    root,
    storages: legacyStorages(source, file, extents),
    readClassSource: hasNoClassSource,
  };
}

function refuseBarePickle(value: PickleValue, namesStorages: boolean, file: string): never {
  const found = namesStorages
    ? 'the data.pkl of an unpacked checkpoint, whose tensors are in other files'
    : `a bare pickle of ${describeValue(value)}, without tensors`;
  throw new CheckpointError(`expected a checkpoint of torch.save, found ${found}`, {
    code: 'unsupported',
    file,
    hint: 'Save the state dict with torch.save, and audit that.',
  });
}

function readKeys(value: PickleValue, file: string): readonly string[] {
  const items = isNode(value, 'list') || isNode(value, 'tuple') ? value.items : null;
  if (items === null || items.some((key) => typeof key !== 'string' && typeof key !== 'number')) {
    throw malformed(file, `expected the list of storage keys, found ${describeValue(value)}`);
  }
  return items.map(String);
}

/** Where one storage's elements are. */
interface Extent {
  readonly offset: number;
  readonly elementCount: number;
  readonly elementByteLength: number;
  readonly byteOrder: 'little' | 'big';
}

interface StorageSection {
  readonly file: string;
  readonly keys: readonly string[];
  /** What the object says of the storages. */
  readonly claims: ReadonlyMap<string, StorageNode>;
  readonly saysBigEndian: boolean;
}

/** Walks over the storages by their counts; the elements themselves are not read. */
async function findExtents(
  sequence: PickleSequence,
  section: StorageSection,
): Promise<ReadonlyMap<string, Extent>> {
  const extents = new Map<string, Extent>();
  for (const key of section.keys) {
    const claim = section.claims.get(key);
    const elementByteLength = elementTypeOf(claim?.typeName ?? '')?.byteLength;
    if (claim === undefined || elementByteLength === undefined) {
      throw malformed(
        section.file,
        `expected the listed storage key ${quote(key)} in the object, found no tensor that uses it`,
        sequence.position,
      );
    }
    const { elementCount, byteOrder } = await readCount(sequence, claim, section);
    extents.set(key, { offset: sequence.position, elementCount, elementByteLength, byteOrder });
    sequence.skip(elementCount * elementByteLength, `the storage ${quote(key)}`);
  }
  return extents;
}

/**
 * Reads the count before a storage and compares it with the object's claim. PyTorch writes counts and elements
 * little-endian on every machine, also where sys_info says big; other writers of such files did as they said. The count
 * tells the two apart.
 */
async function readCount(
  sequence: PickleSequence,
  claim: StorageNode,
  section: StorageSection,
): Promise<Pick<Extent, 'elementCount' | 'byteOrder'>> {
  const { position } = sequence;
  const count = await sequence.readBytes(COUNT_BYTES, 'the count of elements');
  const little = count.readI64();
  const expected = asInteger(claim.elementCount);
  for (const byteOrder of section.saysBigEndian ? (['little', 'big'] as const) : (['little'] as const)) {
    const found = byteOrder === 'little' ? little : swap64(little);
    if (expected !== null && expected >= 0 && found === BigInt(expected))
      return { elementCount: expected, byteOrder };
  }
  throw malformed(
    section.file,
    `expected ${describeValue(claim.elementCount)} elements in the storage ${quote(claim.key)}, found a count of ${little}`,
    position,
  );
}

function swap64(value: bigint): bigint {
  const view = new DataView(new ArrayBuffer(COUNT_BYTES));
  view.setBigInt64(0, value, true);
  return view.getBigInt64(0, false);
}

function legacyStorages(
  source: ByteSource,
  file: string,
  extents: ReadonlyMap<string, Extent>,
): StorageTable {
  return {
    async locate(storage, tensorName) {
      const extent = extents.get(storage.key);
      const fail = (message: string) =>
        malformed(file, `the tensor ${quote(tensorName)}: ${message}`, storage.offset);
      if (extent === undefined)
        throw fail(`expected the storage key ${quote(storage.key)} in the list of keys, found it missing`);
      const { byteOrder, elementByteLength } = extent;
      const first = storage.view === null ? 0 : asInteger(storage.view.offset);
      const count = asInteger(storage.view === null ? storage.elementCount : storage.view.elementCount);
      if (first === null || count === null || first < 0 || count < 0 || first + count > extent.elementCount) {
        throw fail(
          `expected a view within the storage's ${extent.elementCount} elements, found one beyond it`,
        );
      }
      const offset = extent.offset + first * elementByteLength;
      return { range: { source, offset, byteLength: count * elementByteLength }, byteOrder };
    },
    async verify() {},
  };
}

function malformed(file: string, message: string, offset?: number): CheckpointError {
  return new CheckpointError(message, { code: 'malformed', file, offset });
}
