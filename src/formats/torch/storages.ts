// The storages of a checkpoint: flat runs of elements that tensors are views of.

import type { Splice } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../../checkpoint/dtype.js';
import { CheckpointError, quote } from '../../errors.js';
import type { ByteRange, ByteSource, PlacedContent } from '../../io/byte-source.js';
import { describeValue, isNode, type PickleValue, type StorageNode } from './pickle-values.js';

/** What every PyTorch container comes down to: the object that was saved, and where its storages are. */
export interface TorchContainer {
  readonly format: 'PyTorch' | 'TorchScript';
  readonly root: PickleValue;
  readonly storages: StorageTable;
  /** The source of a TorchScript class by its mangled module name; null where the container has none. */
  readonly readClassSource: (module: string) => Promise<string | null>;
  /** The splices that write pieces and renew what the container derives from them; absent where it derives nothing. */
  readonly planSplices?: (
    pieces: ReadonlyMap<ByteSource, readonly PlacedContent[]>,
  ) => Promise<readonly Splice[]>;
}

/** The `readClassSource` of containers without code. */
export async function hasNoClassSource(): Promise<null> {
  return null;
}

/** Where a container keeps the bytes of its storages. */
export interface StorageTable {
  /**
   * Finds a storage, and checks that its container holds as many bytes as it claims.
   *
   * @throws CheckpointError naming `tensorName` when the storage is missing, too short, or damaged.
   */
  locate(storage: StorageNode, tensorName: string): Promise<StoredBytes>;
  /** Checks a small storage against its checksum, where the container has one. */
  verify(storage: StorageNode, tensorName: string): Promise<void>;
}

/** The bytes of one storage. */
interface StoredBytes {
  readonly range: ByteRange;
  readonly byteOrder: 'little' | 'big';
}

/** What the elements of a storage are. */
interface ElementType {
  readonly byteLength: number;
  /** Null for what this program has no type for: quantized and double complex elements. */
  readonly dtype: DType | null;
}

/**
 * Storage classes and torch dtypes with the type of their elements (torch/storage.py, `_new_dtypes` and
 * `_dtype_to_storage_type_map`); a dtype may have no storage class of its own. UntypedStorage counts bytes.
 */
const ELEMENT_TYPES: readonly (readonly [
  storage: string,
  dtype: string,
  DType | null,
  byteLength?: number,
])[] = [
  ['DoubleStorage', 'float64', 'F64'],
  ['FloatStorage', 'float32', 'F32'],
  ['HalfStorage', 'float16', 'F16'],
  ['BFloat16Storage', 'bfloat16', 'BF16'],
  ['LongStorage', 'int64', 'I64'],
  ['IntStorage', 'int32', 'I32'],
  ['ShortStorage', 'int16', 'I16'],
  ['CharStorage', 'int8', 'I8'],
  ['ByteStorage', 'uint8', 'U8'],
  ['BoolStorage', 'bool', 'BOOL'],
  ['UntypedStorage', '', 'U8'],
  ['ComplexFloatStorage', 'complex64', 'C64'],
  ['ComplexDoubleStorage', '', null, 16],
  ['Float8_e4m3fnStorage', 'float8_e4m3fn', 'F8_E4M3'],
  ['Float8_e5m2Storage', 'float8_e5m2', 'F8_E5M2'],
  ['Float8_e4m3fnuzStorage', 'float8_e4m3fnuz', 'F8_E4M3FNUZ'],
  ['Float8_e5m2fnuzStorage', 'float8_e5m2fnuz', 'F8_E5M2FNUZ'],
  ['', 'float8_e8m0fnu', 'F8_E8M0'],
  ['', 'uint64', 'U64'],
  ['', 'uint32', 'U32'],
  ['', 'uint16', 'U16'],
  ['QInt8Storage', '', null, 1],
  ['QUInt8Storage', '', null, 1],
  ['QUInt4x2Storage', '', null, 1],
  ['QUInt2x4Storage', '', null, 1],
  ['QInt32Storage', '', null, 4],
];

const [STORAGE_TYPES, TORCH_DTYPES] = [indexBy(0), indexBy(1)];

function indexBy(column: 0 | 1): ReadonlyMap<string, ElementType> {
  const types = new Map<string, ElementType>();
  for (const row of ELEMENT_TYPES) {
    const [, , dtype, byteLength = dtype === null ? 0 : bitsOf(dtype) / 8] = row;
    if (row[column] !== '') types.set(row[column], { dtype, byteLength });
  }
  return types;
}

/** The element type of a storage class such as `FloatStorage`; null where PyTorch has none of that name. */
export function elementTypeOf(typeName: string): ElementType | null {
  return STORAGE_TYPES.get(typeName) ?? null;
}

/** The element type of a dtype global (`torch.float8_e4m3fn`); null for every other value. */
export function elementTypeOfDType(value: PickleValue | undefined): ElementType | null {
  if (!isNode(value, 'global') || value.module !== 'torch') return null;
  return TORCH_DTYPES.get(value.name) ?? null;
}

/**
 * What torch.save's persistent ids stand for (torch/serialization.py, `persistent_id`):
 *
 *     ('storage', storage type, key, location, element count)                  zip
 *     ('storage', storage type, key, location, element count, view metadata)   legacy; None or (key, offset, count)
 *     ('module', class, source file, source)                                   legacy: the class itself
 *
 * @throws CheckpointError `malformed` for anything else.
 */
export function resolveTorchId(
  id: PickleValue,
  where: { readonly file: string; readonly offset: number | undefined },
): PickleValue {
  const items = isNode(id, 'tuple') ? id.items : [];
  const [tag, type, key] = items;
  if (tag === 'module' && items.length === 4 && isNode(type, 'global')) return type;
  const isStorage = tag === 'storage' && (items.length === 5 || items.length === 6);
  if (isStorage && isNode(type, 'global') && isStorageKey(key)) {
    return {
      kind: 'storage',
      typeName: type.name,
      key: String(key),
      elementCount: items[4] ?? null,
      view: readView(items[5]),
      offset: where.offset,
    };
  }
  throw new CheckpointError(
    `expected a persistent id of torch.save, ("storage", type, key, location, element count), found ${describeId(id)}`,
    { code: 'malformed', file: where.file, offset: where.offset },
  );
}

/** Whether a value may be the key of a storage, which pickles write as text or a number. */
export function isStorageKey(key: PickleValue | undefined): key is string | number | bigint {
  return typeof key === 'string' || typeof key === 'number' || typeof key === 'bigint';
}

function readView(value: PickleValue | undefined): StorageNode['view'] {
  const [key, offset, elementCount] = isNode(value, 'tuple') ? value.items : [];
  if (!isStorageKey(key)) return null;
  return { key: String(key), offset: offset ?? null, elementCount: elementCount ?? null };
}

function describeId(id: PickleValue): string {
  if (typeof id === 'string') return `the text ${quote(id)}`;
  if (!isNode(id, 'tuple')) return describeValue(id);
  return `a tuple of ${id.items.map(describeValue).slice(0, 6).join(', ') || 'nothing'}`;
}
