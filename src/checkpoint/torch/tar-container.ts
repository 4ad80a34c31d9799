import { CheckpointError, quote } from '../../errors.js';
import { type ByteSource, readRange } from '../../io/byte-source.js';
import { hasNoClassSource, type TorchContainer } from './container.js';
import { MAX_PICKLE_BYTES, readPickle } from './pickle.js';
import { PickleSequence } from './pickle-sequence.js';
import { asInteger, describeValue, isNode, makeGlobalNode, type PickleValue } from './pickle-values.js';
import { elementTypeOf, type StorageTable } from './storages.js';
import { MAX_DIMENSIONS } from './tensors.js';

/** Tar headers and data come in blocks. */
const BLOCK_BYTES = 512;

/** torch.save wrote four members. */
const MAX_MEMBERS = 64;

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
export async function openTarContainer(source: ByteSource, file: string): Promise<TorchContainer> {
  const members = await listMembers(source, file);
  const storages = await readStorages(sequenceOf(source, file, memberOf(members, 'storages', file)), file);
  const tensors = await readTensors(
    sequenceOf(source, file, memberOf(members, 'tensors', file)),
    file,
    storages,
  );
  const pickle = memberOf(members, 'pickle', file);
  if (pickle.byteLength > MAX_PICKLE_BYTES) {
    throw tarError(
      file,
      `expected a pickle of at most ${MAX_PICKLE_BYTES} bytes, found ${pickle.byteLength}`,
    );
  }
  const { value } = readPickle(
    await readRange({ source, offset: pickle.offset, byteLength: pickle.byteLength }),
    {
      file,
      baseOffset: pickle.offset,
      subject: 'the pickle of the tar archive',
      resolvePersistentId: (id, offset) => resolveTarId(id, tensors, { file, offset }),
    },
  );
  return {
    format: 'PyTorch',
    root: value,
    storages: tarStorages(source, file, storages),
    readClassSource: hasNoClassSource,
  };
}

interface Member {
  readonly offset: number;
  readonly byteLength: number;
}

/**
 * Lists the members of a tar archive (POSIX.1-1988 ustar):
 *
 *       0  100  name, ended by NUL       124   12  size, octal
 *     156    1  type, '0' or NUL: file   257    6  'ustar'
 */
async function listMembers(source: ByteSource, file: string): Promise<ReadonlyMap<string, Member>> {
  const members = new Map<string, Member>();
  let position = 0;
  while (position + BLOCK_BYTES <= source.byteLength && members.size < MAX_MEMBERS) {
    const header = await readRange({ source, offset: position, byteLength: BLOCK_BYTES });
    if (header.every((byte) => byte === 0)) break;
    const text = String.fromCharCode(...header);
    const name = (text.slice(0, 100).split('\0', 1)[0] ?? '').replace(/^\.\//, '');
    const size = /^\s*([0-7]+)[\s\0]*$/.exec(text.slice(124, 136))?.[1];
    const byteLength = size === undefined ? Number.NaN : Number.parseInt(size, 8);
    const offset = position + BLOCK_BYTES;
    if (!(offset + byteLength <= source.byteLength)) {
      throw tarError(
        file,
        `expected the tar member ${quote(name)} within the file, found another size`,
        position,
      );
    }
    if (/[0\0]/.test(text.charAt(156)) && !members.has(name)) members.set(name, { offset, byteLength });
    position = offset + Math.ceil(byteLength / BLOCK_BYTES) * BLOCK_BYTES;
  }
  return members;
}

function memberOf(members: ReadonlyMap<string, Member>, name: string, file: string): Member {
  const member = members.get(name);
  if (member !== undefined) return member;
  throw new CheckpointError(
    `expected a tar archive of torch 0.1 with ${quote(name)}, found a tar archive without it`,
    {
      code: 'unsupported',
      file,
      hint: 'Unpack it and name the checkpoint within.',
    },
  );
}

function sequenceOf(source: ByteSource, file: string, member: Member): PickleSequence {
  return new PickleSequence(source, {
    file,
    start: member.offset,
    end: member.offset + member.byteLength,
    resolvePersistentId(id, offset) {
      throw tarError(
        file,
        `expected no persistent id outside the pickle of the tar archive, found ${describeValue(id)}`,
        offset,
      );
    },
  });
}

async function readCount(sequence: PickleSequence, file: string, subject: string): Promise<number> {
  const { position } = sequence;
  const value = await sequence.readPickle(subject);
  const count = asInteger(value);
  if (count !== null && count >= 0 && count <= MAX_RECORDS) return count;
  throw tarError(
    file,
    `expected ${subject} between 0 and ${MAX_RECORDS} in the tar archive, found ${describeValue(value)}`,
    position,
  );
}

interface TarStorage {
  readonly offset: number;
  readonly elementCount: number;
  readonly typeName: string;
}

async function readStorages(
  sequence: PickleSequence,
  file: string,
): Promise<ReadonlyMap<string, TarStorage>> {
  const storages = new Map<string, TarStorage>();
  const count = await readCount(sequence, file, 'the count of storages');
  for (let i = 0; i < count; i++) {
    const at = sequence.position;
    const [key, , type] = itemsOf(await sequence.readPickle('the pickle of a storage'));
    const typeName = isNode(type, 'global') ? type.name : '';
    const elementByteLength = elementTypeOf(typeName)?.byteLength;
    const elementCount = Number((await sequence.readBytes(8, 'the size of a storage')).readI64());
    if (!isKey(key) || elementByteLength === undefined || elementCount < 0) {
      throw tarError(
        file,
        'expected a storage with its key, type and size in the tar archive, found something else',
        at,
      );
    }
    storages.set(String(key), { offset: sequence.position, elementCount, typeName });
    sequence.skip(elementCount * elementByteLength, 'a storage');
  }
  if (count > 0 || sequence.remaining > 0)
    addViews(storages, await sequence.readPickle('the pickle of the views'), file);
  return storages;
}

/** Views are storages that are parts of others: (view key, root key, offset, element count). */
function addViews(storages: Map<string, TarStorage>, views: PickleValue, file: string): void {
  for (const view of itemsOf(views)) {
    const [key, rootKey, offset, elementCount] = itemsOf(view);
    const root = isKey(rootKey) ? storages.get(String(rootKey)) : undefined;
    const first = asInteger(offset);
    const count = asInteger(elementCount);
    const isWithin = root !== undefined && first !== null && count !== null && first >= 0 && count >= 0;
    if (!isKey(key) || !isWithin || first + count > root.elementCount) {
      throw tarError(file, 'expected a view within its storage in the tar archive, found one beyond it');
    }
    const elementByteLength = elementTypeOf(root.typeName)?.byteLength ?? 1;
    storages.set(String(key), {
      ...root,
      offset: root.offset + first * elementByteLength,
      elementCount: count,
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
  const count = await readCount(sequence, file, 'the count of tensors');
  for (let i = 0; i < count; i++) {
    const at = sequence.position;
    const [key, storageKey] = itemsOf(await sequence.readPickle('the pickle of a tensor'));
    const dimensions = (await sequence.readBytes(8, 'the dimensions of a tensor')).readI32();
    const storage = isKey(storageKey) ? storages.get(String(storageKey)) : undefined;
    if (!isKey(key) || storage === undefined || dimensions < 0 || dimensions > MAX_DIMENSIONS) {
      throw tarError(
        file,
        'expected a tensor with its key, storage and dimensions in the tar archive, found something else',
        at,
      );
    }
    const numbers = await sequence.readBytes(8 * (2 * dimensions + 1), 'the sizes of a tensor');
    const readMany = (length: number) => Array.from({ length }, () => Number(numbers.readI64()));
    const shape = readMany(dimensions);
    const strides = readMany(dimensions);
    tensors.set(
      String(key),
      makeRebuildCall(String(storageKey), storage, { shape, strides, offset: Number(numbers.readI64()), at }),
    );
  }
  return tensors;
}

function makeRebuildCall(
  key: string,
  { typeName, elementCount }: TarStorage,
  {
    shape,
    strides,
    offset,
    at,
  }: { shape: readonly number[]; strides: readonly number[]; offset: number; at: number },
): PickleValue {
  const storage: PickleValue = { kind: 'storage', typeName, key, elementCount, view: null, offset: at };
  const callee = makeGlobalNode('torch._utils', '_rebuild_tensor');
  const args = [
    storage,
    offset,
    { kind: 'tuple' as const, items: shape },
    { kind: 'tuple' as const, items: strides },
  ];
  return {
    kind: 'object',
    callee,
    args,
    keywords: null,
    state: null,
    entries: null,
    items: null,
    offset: at,
  };
}

/** A tensor is named by its key; a class by (class, source file, source). */
function resolveTarId(
  id: PickleValue,
  tensors: ReadonlyMap<string, PickleValue>,
  { file, offset }: { readonly file: string; readonly offset: number | undefined },
): PickleValue {
  const [type, ...rest] = itemsOf(id);
  if (isNode(type, 'global') && rest.length === 2) return type;
  const tensor = isKey(id) ? tensors.get(String(id)) : undefined;
  if (tensor !== undefined) return tensor;
  const found = isKey(id) ? `the key ${quote(String(id))}, which is none` : describeValue(id);
  throw tarError(
    file,
    `expected the key of one of the ${tensors.size} tensors of the tar archive, found ${found}`,
    offset,
  );
}

function tarStorages(
  source: ByteSource,
  file: string,
  storages: ReadonlyMap<string, TarStorage>,
): StorageTable {
  return {
    async locate({ key }, tensorName) {
      const storage = storages.get(key);
      if (storage === undefined)
        throw tarError(file, `the tensor ${quote(tensorName)}: expected its storage, found none`);
      const byteLength = storage.elementCount * (elementTypeOf(storage.typeName)?.byteLength ?? 1);
      return { range: { source, offset: storage.offset, byteLength }, byteOrder: 'little' };
    },
    async verify() {},
  };
}

function itemsOf(value: PickleValue | undefined): readonly PickleValue[] {
  return isNode(value, 'tuple') || isNode(value, 'list') ? value.items : [];
}

function isKey(value: PickleValue | undefined): value is string | number | bigint {
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'bigint';
}

function tarError(file: string, message: string, offset?: number): CheckpointError {
  return new CheckpointError(message, { code: 'malformed', file, offset });
}
