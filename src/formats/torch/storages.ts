// The storages of a checkpoint: flat runs of elements that tensors are views of.

import type { Splice } from '../../checkpoint/checkpoint.js';
import type { DType } from '../../checkpoint/dtype.js';
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

/** torch/storage.py, `_new_dtypes` and `_dtype_to_storage_type_map`; UntypedStorage counts bytes. */
const STORAGE_TYPES: ReadonlyMap<string, ElementType> = new Map(
  Object.entries({
    DoubleStorage: { byteLength: 8, dtype: 'F64' },
    FloatStorage: { byteLength: 4, dtype: 'F32' },
    HalfStorage: { byteLength: 2, dtype: 'F16' },
    BFloat16Storage: { byteLength: 2, dtype: 'BF16' },
    LongStorage: { byteLength: 8, dtype: 'I64' },
    IntStorage: { byteLength: 4, dtype: 'I32' },
    ShortStorage: { byteLength: 2, dtype: 'I16' },
    CharStorage: { byteLength: 1, dtype: 'I8' },
    ByteStorage: { byteLength: 1, dtype: 'U8' },
    BoolStorage: { byteLength: 1, dtype: 'BOOL' },
    UntypedStorage: { byteLength: 1, dtype: 'U8' },
    ComplexFloatStorage: { byteLength: 8, dtype: 'C64' },
    ComplexDoubleStorage: { byteLength: 16, dtype: null },
    Float8_e4m3fnStorage: { byteLength: 1, dtype: 'F8_E4M3' },
    Float8_e5m2Storage: { byteLength: 1, dtype: 'F8_E5M2' },
    Float8_e4m3fnuzStorage: { byteLength: 1, dtype: 'F8_E4M3FNUZ' },
    Float8_e5m2fnuzStorage: { byteLength: 1, dtype: 'F8_E5M2FNUZ' },
    QInt8Storage: { byteLength: 1, dtype: null },
    QUInt8Storage: { byteLength: 1, dtype: null },
    QUInt4x2Storage: { byteLength: 1, dtype: null },
    QUInt2x4Storage: { byteLength: 1, dtype: null },
    QInt32Storage: { byteLength: 4, dtype: null },
  } satisfies Record<string, ElementType>),
);

/** The element type of a storage class such as `FloatStorage`; null where PyTorch has none of that name. */
export function elementTypeOf(typeName: string): ElementType | null {
  return STORAGE_TYPES.get(typeName) ?? null;
}

/** torch dtypes by their names as globals (`torch.float8_e4m3fn`), for storages without a type of their own. */
const TORCH_DTYPES: ReadonlyMap<string, ElementType> = new Map(
  Object.entries({
    float64: { byteLength: 8, dtype: 'F64' },
    float32: { byteLength: 4, dtype: 'F32' },
    float16: { byteLength: 2, dtype: 'F16' },
    bfloat16: { byteLength: 2, dtype: 'BF16' },
    float8_e4m3fn: { byteLength: 1, dtype: 'F8_E4M3' },
    float8_e5m2: { byteLength: 1, dtype: 'F8_E5M2' },
    float8_e4m3fnuz: { byteLength: 1, dtype: 'F8_E4M3FNUZ' },
    float8_e5m2fnuz: { byteLength: 1, dtype: 'F8_E5M2FNUZ' },
    float8_e8m0fnu: { byteLength: 1, dtype: 'F8_E8M0' },
    complex64: { byteLength: 8, dtype: 'C64' },
    int64: { byteLength: 8, dtype: 'I64' },
    int32: { byteLength: 4, dtype: 'I32' },
    int16: { byteLength: 2, dtype: 'I16' },
    int8: { byteLength: 1, dtype: 'I8' },
    uint64: { byteLength: 8, dtype: 'U64' },
    uint32: { byteLength: 4, dtype: 'U32' },
    uint16: { byteLength: 2, dtype: 'U16' },
    uint8: { byteLength: 1, dtype: 'U8' },
    bool: { byteLength: 1, dtype: 'BOOL' },
  } satisfies Record<string, ElementType>),
);

/** The element type of a dtype global; null for every other value. */
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

function isStorageKey(key: PickleValue | undefined): key is string | number | bigint {
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
