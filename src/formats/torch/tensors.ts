// Tensors in a pickle, and the storages that they are views of.

import type { Tensor } from '../../checkpoint/checkpoint.js';
import { dequantised, isInteger } from '../../checkpoint/computed-elements.js';
import { bitsOf, type DType, isDecodable } from '../../checkpoint/dtype.js';
import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import {
  type ByteRange,
  type ByteSource,
  memorySource,
  type PlacedContent,
  type Splice,
  sliceRange,
  wholeOf,
} from '../../io/byte-source.js';
import { countElements, stridesOf } from '../../io/row-major.js';
import { byteSwapped, type Keeper, stridedSource } from '../../io/views.js';
import { isNumpyArray, readNumpyArray } from './numpy-arrays.js';
import {
  asInteger,
  asIntegers,
  describeValue,
  entriesOf,
  isNode,
  itemsOf,
  makeGlobalNode,
  makeObjectNode,
  type ObjectNode,
  type PickleValue,
  qualifiedName,
  type StorageNode,
} from './pickle-values.js';

/** What every PyTorch container comes down to: the object that was saved, and where its storages are. */
export interface TorchContainer {
  readonly format: 'PyTorch' | 'TorchScript' | 'NumPy pickle';
  readonly root: PickleValue;
  readonly storages: StorageTable;
  /** The source of a TorchScript class by its mangled module name, null where it is missing; absent without code. */
  readonly readClassSource?: (module: string) => Promise<string | null>;
  /** Whether it is a file within another one, whose checksums stand in both: nothing is written into it. */
  readonly isWithin?: boolean;
  /** The splices that write pieces and renew what the container derives from them; absent where it derives nothing. */
  readonly planSplices?: (
    pieces: ReadonlyMap<ByteSource, readonly PlacedContent[]>,
  ) => Promise<readonly Splice[]>;
}

/** Where a container keeps the bytes of its storages. */
export interface StorageTable {
  /**
   * Finds the bytes of a storage, and checks that its container holds as many as it claims.
   *
   * @throws CheckpointError naming `tensorName` when the storage is missing, too short, or damaged.
   */
  locate(storage: StorageNode, tensorName: string): Promise<StoredBytes>;
  /** Checks a small storage against its checksum; absent where the container has none. */
  verify?(storage: StorageNode, tensorName: string): Promise<void>;
}

/** The bytes of one storage, or of one array. */
interface StoredBytes {
  readonly range: ByteRange;
  readonly byteOrder: 'little' | 'big';
}

/** What the elements of a storage are; null for what this program has no type for: codes of less than a byte and double complex ones. */
interface ElementType {
  readonly byteLength: number;
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
  ['QInt8Storage', 'qint8', 'I8'],
  ['QUInt8Storage', 'quint8', 'U8'],
  ['QUInt4x2Storage', '', null, 1],
  ['QUInt2x4Storage', '', null, 1],
  ['QInt32Storage', 'qint32', 'I32'],
];

function findElementType(column: 0 | 1, name: string): ElementType | null {
  const [, , dtype, byteLength] = ELEMENT_TYPES.find((row) => name !== '' && row[column] === name) ?? [];
  return dtype === undefined ? null : { dtype, byteLength: byteLength ?? bitsOf(dtype ?? 'U8') / 8 };
}

/** The element type of a storage class such as `FloatStorage`; null where PyTorch has none of that name. */
export function elementTypeOf(typeName: string): ElementType | null {
  return findElementType(0, typeName);
}

/** The element type of a dtype global (`torch.float8_e4m3fn`); null for every other value. */
export function elementTypeOfDType(value: PickleValue | undefined): ElementType | null {
  return isNode(value, 'global') && value.module === 'torch' ? findElementType(1, value.name) : null;
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
  const { offset } = where;
  if (isStorage && isNode(type, 'global') && isStorageKey(key)) {
    const elements = { elementCount: items[4] ?? null, view: readView(items[5]) };
    return { kind: 'storage', typeName: type.name, key: String(key), ...elements, offset };
  }
  const expected = 'expected a persistent id of torch.save, ("storage", type, key, location, element count)';
  const message = `${expected}, found ${describeId(id)}`;
  throw new CheckpointError(message, { code: 'malformed', file: where.file, offset });
}

/** Whether a value may be the key of a storage, which pickles write as text or a number. */
export function isStorageKey(key: PickleValue | undefined): key is string | number | bigint {
  return typeof key === 'string' || typeof key === 'number' || typeof key === 'bigint';
}

function readView(value: PickleValue | undefined): StorageNode['view'] {
  const [key, offset = null, elementCount = null] = isNode(value, 'tuple') ? value.items : [];
  return isStorageKey(key) ? { key: String(key), offset, elementCount } : null;
}

function describeId(id: PickleValue): string {
  if (typeof id === 'string') return `the text ${quote(id)}`;
  if (!isNode(id, 'tuple')) return describeValue(id);
  return `a tuple of ${id.items.map(describeValue).slice(0, 6).join(', ') || 'nothing'}`;
}

/** PyTorch's operators take at most 64 dimensions (aten/src/ATen/TensorIterator.cpp, "up to 64 dims"). */
export const MAX_DIMENSIONS = 64;

/** A tensor of a kind that has no plain elements: it can be named, not read; such as one that is `sparse`. */
interface UnreadableTensor {
  readonly kind: 'unreadable';
  readonly why: string;
}

/** What errors call a tensor, and the file that it is in. */
interface TensorNames {
  readonly name: string;
  readonly file: string;
}

/** How a tensor lies in its storage. Counts of elements; nothing is checked against the storage yet. */
export interface TensorLayout {
  readonly kind: 'layout';
  /** As the container knows it, or where the bytes are. */
  readonly storage: StorageNode | StoredBytes;
  readonly dtype: DType;
  readonly elementByteLength: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  readonly firstElement: number;
  /** The flag of the tensor itself; state dicts detach their tensors, so that false says nothing there. */
  readonly requiresGrad: boolean;
  /** The flag of the Parameter around it; null for a plain tensor. */
  readonly parameterRequiresGrad: boolean | null;
  /** What its codes stand for; absent where the elements are the values. */
  readonly quantiser?: Quantiser | undefined;
}

/** The scale and the zero point of a quantised tensor: one of each, or one for each index along an axis. */
type Quantiser =
  | { readonly axis: null; readonly scale: number; readonly zeroPoint: number }
  | { readonly axis: number; readonly scale: TensorLayout; readonly zeroPoint: TensorLayout };

/** What a function that rebuilds tensors takes, or what is special about its tensors. */
type Rebuilder =
  | 'storage'
  | 'storage and dtype'
  | 'storage of codes'
  | 'tensor'
  | 'function'
  | 'state'
  | { readonly why: string };

/** The functions of torch/_utils.py and torch/_tensor.py, and the word for tensors without plain elements. */
const REBUILDERS: ReadonlyMap<string, Rebuilder> = new Map(
  Object.entries<Rebuilder>({
    _rebuild_tensor: 'storage',
    _rebuild_tensor_v2: 'storage',
    _rebuild_tensor_v3: 'storage and dtype',
    _rebuild_parameter: 'tensor',
    _rebuild_parameter_with_state: 'tensor',
    _rebuild_from_type: 'function',
    _rebuild_from_type_v2: 'function',
    _rebuild_qtensor: 'storage of codes',
    _rebuild_sparse_tensor: { why: 'sparse' },
    _rebuild_sparse_csr_tensor: { why: 'sparse' },
    _rebuild_meta_tensor_no_storage: { why: 'a meta tensor, which has no values' },
    _rebuild_nested_tensor: { why: 'nested' },
    _rebuild_wrapper_subclass: { why: 'of a tensor subclass that wraps others' },
    _rebuild_device_tensor_from_numpy: { why: 'a NumPy array from another device' },
    _rebuild_device_tensor_from_cpu_tensor: { why: 'from another device' },
    _rebuild_xla_tensor: { why: 'an XLA tensor' },
    _rebuild_mkldnn_tensor: { why: 'in the MKL-DNN layout' },
    _rebuild_dtensor: { why: 'a distributed tensor' },
  })
    .flatMap(([name, rebuilder]): [string, Rebuilder][] => [
      [`torch._utils.${name}`, rebuilder],
      [`torch._tensor.${name}`, rebuilder],
    ])
    // Arrays of JAX are pickled as those of NumPy (jax/_src/array.py, `__reduce__`).
    .concat([['jax._src.array._reconstruct_array', 'state']]),
);

/** Wrappers nest twice in practice: a Parameter of a tensor subclass of a tensor. */
const MAX_WRAPPERS = 8;

/** A tensor of a container that has no pickle of it: row-major unless `strides` say otherwise. */
interface PlainTensor {
  /** What the container calls its bytes. */
  readonly key: string;
  readonly byteLength: number;
  readonly shape: readonly number[];
  readonly strides?: readonly number[];
  readonly firstElement?: number;
  /** A global such as `torch.float32`. */
  readonly dtype: PickleValue;
}

/** The call that torch.save would write for a tensor. */
export function makeTensorCall(tensor: PlainTensor): ObjectNode {
  const { key, byteLength, shape, dtype, firstElement = 0 } = tensor;
  const strides = tensor.strides ?? stridesOf(shape);
  const storage: StorageNode = {
    kind: 'storage',
    typeName: 'UntypedStorage',
    key,
    elementCount: byteLength,
    view: null,
    offset: undefined,
  };
  const [size, stride] = [shape, strides].map((items) => ({ kind: 'tuple' as const, items }));
  return makeObjectNode({
    callee: makeGlobalNode('torch._utils', '_rebuild_tensor_v3'),
    args: [storage, firstElement, size ?? null, stride ?? null, false, null, dtype],
    offset: undefined,
  });
}

/**
 * The value as a call of a function that rebuilds tensors, of PyTorch or arrays of NumPy; null for every other value.
 * PaddlePaddle keeps the name of a tensor beside its array: (name, array).
 */
export function asTensorCall(value: PickleValue | undefined): ObjectNode | null {
  if (isNode(value, 'object')) return rebuilderOf(value) !== undefined || isNumpyArray(value) ? value : null;
  const [name, array] = isNode(value, 'tuple') && value.items.length === 2 ? value.items : [];
  return typeof name === 'string' && isNode(array, 'object') && isNumpyArray(array) ? array : null;
}

/** A count of batches that is no tensor but a number of NumPy; null for all others, which are metrics and settings. */
export function asCountCall(name: string, value: PickleValue): ObjectNode | null {
  const isCount = /(?:^|\.)num_batches_tracked$/.test(name);
  return isCount && isNode(value, 'object') && isNumpyArray(value, true) ? value : null;
}

function rebuilderOf({ callee }: ObjectNode): Rebuilder | undefined {
  return isNode(callee, 'global') ? REBUILDERS.get(callee.qualifiedName) : undefined;
}

/**
 * Reads how a tensor was laid out from the arguments of its rebuild function (torch/_utils.py):
 *
 *     _rebuild_tensor(storage, offset, size, stride)
 *     _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])
 *     _rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])
 *     _rebuild_qtensor(storage, offset, size, stride, quantiser, requires_grad, hooks)
 *     _rebuild_parameter(tensor, requires_grad, hooks), …_with_state(…, state)
 *     _rebuild_from_type_v2(function, type, arguments, state)
 *     jax's _reconstruct_array(function, arguments, state, facts)
 *
 * @throws CheckpointError `malformed` naming the tensor when an argument is none that the function takes.
 */
export function readLayout(call: ObjectNode, name: string, file: string): TensorLayout | UnreadableTensor {
  let current: ObjectNode = call;
  let parameterRequiresGrad: boolean | null = null;
  for (let depth = 0; depth < MAX_WRAPPERS; depth++) {
    if (isNumpyArray(current) || isNumpyArray(current, true)) return readArrayLayout(current, { name, file });
    const rebuilder = rebuilderOf(current);
    if (rebuilder === undefined)
      return {
        kind: 'unreadable',
        why: `rebuilt by ${quote(qualifiedName(current.callee) ?? 'an unknown function')}`,
      };
    if (typeof rebuilder === 'object') return { kind: 'unreadable', why: rebuilder.why };
    if (rebuilder === 'storage' || rebuilder === 'storage and dtype') {
      const isTyped = rebuilder !== 'storage';
      return readPlainLayout(current, { name, file, parameterRequiresGrad, isTyped });
    }
    if (rebuilder === 'storage of codes') return readCodesLayout(current, { name, file });
    const wrapped = unwrap(current, rebuilder);
    if (wrapped === null) break;
    if (wrapped === 'shard')
      return { kind: 'unreadable', why: 'one rank’s shard of a distributed tensor (DTensor)' };
    parameterRequiresGrad ??= wrapped.requiresGrad;
    current = wrapped.call;
  }
  throw failTensor(call, { name, file }, 'expected a tensor inside its wrapper, found none');
}

/**
 * The call in the one that makes a Parameter of its tensor, or calls what it is given; `requiresGrad` of a Parameter. A
 * DTensor wraps what one rank holds, which is read where it is all of it (torch/distributed/tensor/_api.py):
 * `_rebuild_wrapper_subclass(class, dtype, size, …)` with the state `_local_tensor`.
 */
function unwrap(call: ObjectNode, takes: 'tensor' | 'function' | 'state') {
  const [first, second, args, state] = call.args;
  if (takes === 'state') {
    if (!isNode(first, 'global') || !isNode(second, 'tuple')) return null;
    return { call: { ...call, callee: first, args: second.items, state: args ?? null }, requiresGrad: null };
  }
  if (takes === 'tensor')
    return isNode(first, 'object') ? { call: first, requiresGrad: second === true } : null;
  if (!isNode(first, 'global') || !isNode(args, 'tuple')) return null;
  // An instance with slots has them in a second dict.
  const local = [state, ...itemsOf(state)].map((part) => entriesOf(part)?.get('_local_tensor')).find(isCall);
  if (local !== undefined && first.name === '_rebuild_wrapper_subclass') {
    const [whole, held] = [asIntegers(args.items[2]), asIntegers(local.args[2])];
    return whole !== null && String(whole) === String(held) ? { call: local, requiresGrad: null } : 'shard';
  }
  const isParameter = qualifiedName(second) === 'torch.nn.parameter.Parameter';
  const requiresGrad = isParameter ? args.items[4] === true : null;
  return { call: { ...call, callee: first, args: args.items }, requiresGrad };
}

/** The classes of torchao whose instances are codes with a scale for each row or for all. */
const CODED = /^torchao\.(?:\w+\.)*(?:Int8|Float8)Tensor$/;

/** What they keep these as, and how optimum-quanto ends the names of the same. */
const CODED_PARTS = [
  ['qdata', '._data'],
  ['scale', '._scale'],
  ['zero_point', '._zero_point'],
] as const;

/**
 * The tensors that one of torchao's consists of, by what their names end with; every other call is one of its own.
 * `_rebuild_from_type_v2(_rebuild_wrapper_subclass, class, …, {qdata, scale, zero_point, …})`
 */
export function splitCodes(call: ObjectNode): readonly (readonly [ending: string, call: ObjectNode])[] {
  const [, type, , state] = call.args;
  const attributes = CODED.test(qualifiedName(type) ?? '') ? entriesOf(state) : null;
  const parts = CODED_PARTS.flatMap(([key, ending]) => {
    const part = attributes?.get(key);
    return isCall(part) ? [[ending, part] as const] : [];
  });
  return parts.length > 1 ? parts : [['', call]];
}

const isCall = (value: PickleValue | undefined): value is ObjectNode => isNode(value, 'object');

/** @param context `isTyped` where the call states the dtype instead of the storage. */
function readPlainLayout(
  call: ObjectNode,
  context: TensorNames & { readonly parameterRequiresGrad: boolean | null; readonly isTyped: boolean },
): TensorLayout | UnreadableTensor {
  const { isTyped } = context;
  const [storage, , , , requiresGrad] = call.args;
  const fail = (message: string) => failTensor(call, context, message);
  if (!isNode(storage, 'storage')) throw fail(`expected its storage, found ${describeValue(storage)}`);
  const metadata = entriesOf(call.args[isTyped ? 7 : 6]);
  if (metadata?.get('neg') === true || metadata?.get('conj') === true)
    return { kind: 'unreadable', why: 'a lazily negated or conjugated view' };
  const elementType = isTyped ? elementTypeOfDType(call.args[6]) : elementTypeOf(storage.typeName);
  const typeName = isTyped ? (qualifiedName(call.args[6]) ?? 'an unknown dtype') : storage.typeName;
  if (elementType?.dtype === undefined || elementType.dtype === null)
    return { kind: 'unreadable', why: `of the type ${quote(typeName)}` };
  return {
    kind: 'layout',
    storage,
    dtype: elementType.dtype,
    elementByteLength: elementType.byteLength,
    ...readGeometry(call.args.slice(1, 4), fail),
    requiresGrad: requiresGrad === true,
    parameterRequiresGrad: context.parameterRequiresGrad,
  };
}

/**
 * Codes, and what they stand for: `(torch.per_tensor_affine, scale, zero point)`, or `(torch.per_channel_affine, scales,
 * zero points, axis)` with two tensors. Other ways of scaling are those of embeddings.
 */
function readCodesLayout(call: ObjectNode, names: TensorNames): TensorLayout | UnreadableTensor {
  const items = itemsOf(call.args[4]);
  const read = QUANTISERS.get(qualifiedName(items[0]) ?? '');
  if (read === undefined) return { kind: 'unreadable', why: 'quantized in a way that is not read' };
  const layout = readPlainLayout(call, { ...names, parameterRequiresGrad: null, isTyped: false });
  if (layout.kind === 'unreadable') return layout;
  const quantiser = read(items.slice(1), layout.shape, names);
  if (quantiser === null)
    throw failTensor(
      call,
      names,
      'expected a scale and a zero point, for all of it or for each index of an axis',
    );
  return { ...layout, quantiser };
}

type ReadQuantiser = (
  items: readonly PickleValue[],
  shape: readonly number[],
  names: TensorNames,
) => Quantiser | null;

const QUANTISERS: ReadonlyMap<string, ReadQuantiser> = new Map<string, ReadQuantiser>([
  [
    'torch.per_tensor_affine',
    ([scale, zero]: readonly PickleValue[]) => {
      const zeroPoint = asInteger(zero);
      return typeof scale === 'number' && zeroPoint !== null ? { axis: null, scale, zeroPoint } : null;
    },
  ],
  [
    'torch.per_channel_affine',
    ([scales, zeros, along]: readonly PickleValue[], shape: readonly number[], names: TensorNames) => {
      const axis = asInteger(along);
      const [scale, zeroPoint] = [scales, zeros].map((value) => {
        if (!isCall(value) || rebuilderOf(value) !== 'storage') return null;
        const layout = readPlainLayout(value, { ...names, parameterRequiresGrad: null, isTyped: false });
        const isForEach = axis !== null && axis >= 0 && axis < shape.length;
        return layout.kind === 'layout' && isForEach && String(layout.shape) === String(shape[axis])
          ? layout
          : null;
      });
      if (axis === null || !scale || !zeroPoint) return null;
      return isDecodable(scale.dtype) && isInteger(zeroPoint.dtype) ? { axis, scale, zeroPoint } : null;
    },
  ],
]);

/** A NumPy array lies in a storage of its own. */
function readArrayLayout(call: ObjectNode, names: TensorNames): TensorLayout | UnreadableTensor {
  const array = readNumpyArray(call, (message) => failTensor(call, names, message));
  if (array.kind === 'unreadable') return array;
  const { dtype, byteOrder, shape, strides, data: range } = array;
  return {
    kind: 'layout',
    storage: { range, byteOrder },
    dtype,
    elementByteLength: bitsOf(dtype) / 8,
    shape,
    strides,
    firstElement: 0,
    requiresGrad: false,
    parameterRequiresGrad: null,
  };
}

function readGeometry(
  [offset, size, stride]: readonly PickleValue[],
  fail: (message: string) => CheckpointError,
): Pick<TensorLayout, 'shape' | 'strides' | 'firstElement'> {
  const shape = asIntegers(size);
  const strides = asIntegers(stride);
  const firstElement = asInteger(offset);
  if (firstElement === null || firstElement < 0)
    throw fail(`expected an offset of 0 or more elements, found ${describeValue(offset)}`);
  if (shape === null || strides === null)
    throw fail(`expected a size and a stride, found ${describeValue(size)} and ${describeValue(stride)}`);
  if (shape.length !== strides.length) {
    const found = `${strides.length} strides and ${shape.length} sizes`;
    throw fail(`expected as many strides as sizes, found ${found}`);
  }
  if (shape.length > MAX_DIMENSIONS)
    throw fail(`expected at most ${MAX_DIMENSIONS} dimensions, found ${shape.length}`);
  if (shape.some((length) => length < 0))
    throw fail(`expected sizes of 0 or more, found a negative size in [${shape}]`);
  if (strides.some((step) => step < 0))
    throw fail(`expected strides of 0 or more, found a negative stride in [${strides}]`);
  return { shape, strides, firstElement };
}

function failTensor(
  call: ObjectNode,
  { name, file }: TensorNames,
  message: string,
  code: CheckpointErrorCode = 'malformed',
): CheckpointError {
  return new CheckpointError(`the tensor ${quote(name)}: ${message}`, { code, file, offset: call.offset });
}

/**
 * Finds a tensor's bytes. The range is one of the file itself where the elements lie there contiguous and
 * little-endian; elsewhere its source converts while it is read.
 *
 * @param call that rebuilds the tensor, for messages.
 * @param keeper of the strided tensors of the file.
 * @throws CheckpointError naming the tensor when any element would lie outside its storage.
 */
export async function buildTensor(
  name: string,
  layout: TensorLayout,
  context: BuildContext,
): Promise<Tensor> {
  const codes = await buildStored(name, layout, context);
  const { quantiser } = layout;
  if (quantiser === undefined) return codes;
  const [scale, zeroPoint] =
    quantiser.axis === null
      ? [holdFloat(name, quantiser.scale), holdFloat(name, quantiser.zeroPoint)]
      : [
          await buildStored(name, quantiser.scale, context),
          await buildStored(name, quantiser.zeroPoint, context),
        ];
  return dequantised({ codes, scale, zeroPoint, axis: quantiser.axis }, 'F32');
}

interface BuildContext {
  readonly file: string;
  readonly storages: StorageTable;
  readonly call: ObjectNode;
  readonly keeper: Keeper;
}

/** A number that stands in the pickle itself, as a tensor. */
function holdFloat(name: string, value: number): Tensor {
  const bytes = new Uint8Array(Float64Array.of(value).buffer);
  return { name, dtype: 'F64', shape: [], elementCount: 1, range: wholeOf(memorySource(name, bytes)) };
}

async function buildStored(
  name: string,
  layout: TensorLayout,
  { file, storages, call, keeper }: BuildContext,
): Promise<Tensor> {
  const fail = (message: string, code?: CheckpointErrorCode) =>
    failTensor(call, { name, file }, message, code);
  // A zero among sizes whose product overflows makes NaN or 0; torch computes the product in 64 bits and refuses.
  const elementCount = countElements(layout.shape);
  if (!Number.isSafeInteger(elementCount * layout.elementByteLength))
    throw fail(`expected a shape that fits into memory, found [${layout.shape}]`, 'limit-exceeded');
  const storageElements = countStorageElements(layout, fail);
  const { shape, strides, firstElement } = layout;
  const reach = shape.reduce((sum, size, axis) => sum + (size - 1) * (strides[axis] ?? 0), 0);
  const lastElement = firstElement + (elementCount === 0 ? -1 : reach);
  if (!(lastElement < storageElements))
    throw fail(
      `expected every element within its storage of ${storageElements} elements, found offset ${firstElement}, ` +
        `size [${shape}] and stride [${strides}], which reach element ${lastElement}`,
    );
  const { storage } = layout;
  const stored = 'range' in storage ? storage : await storages.locate(storage, name);
  if ((lastElement + 1) * layout.elementByteLength > stored.range.byteLength)
    throw fail(
      `expected its storage to hold ${lastElement + 1} elements, found ${stored.range.byteLength} bytes`,
    );
  const { dtype } = layout;
  const laidOut = layOut(stored.range, layout, elementCount, keeper);
  const unit = dtype === 'C64' ? 4 : layout.elementByteLength;
  const range = stored.byteOrder === 'big' ? byteSwapped(laidOut, unit) : laidOut;
  return { name, dtype, shape, elementCount, range };
}

type Fail = (message: string, code?: CheckpointErrorCode) => CheckpointError;

/** Elements of the tensor's own type that its storage, or the storage's view, holds. */
function countStorageElements({ storage, elementByteLength }: TensorLayout, fail: Fail): number {
  if ('range' in storage) return Math.floor(storage.range.byteLength / elementByteLength);
  const claimed = storage.view === null ? storage.elementCount : storage.view.elementCount;
  const count = asInteger(claimed);
  const storageType = elementTypeOf(storage.typeName);
  if (count === null || count < 0 || storageType === null)
    throw fail(`expected a storage with a count of elements, found ${describeValue(claimed)}`);
  return Math.floor((count * storageType.byteLength) / elementByteLength);
}

function layOut(range: ByteRange, layout: TensorLayout, elementCount: number, keeper: Keeper): ByteRange {
  const { elementByteLength, shape, strides, firstElement } = layout;
  if (elementCount === 0) return sliceRange(range, 0, 0);
  if (isContiguous(shape, strides)) {
    const start = firstElement * elementByteLength;
    return sliceRange(range, start, start + elementCount * elementByteLength);
  }
  return wholeOf(stridedSource(range, { shape, strides, firstElement, elementByteLength }, keeper));
}

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  const rowMajor = stridesOf(shape);
  return shape.every((size, axis) => size === 1 || strides[axis] === rowMajor[axis]);
}
