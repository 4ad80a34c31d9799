import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import type { ByteRange, ByteSource } from '../../io/byte-source.js';
import type { Tensor } from '../checkpoint.js';
import { bitsOf, type DType } from '../dtype.js';
import type { ExternalData } from './external-data.js';
import { isExternal, type OnnxTensor, type Segment } from './model.js';
import { FIELDS } from './schema.js';
import { countFixedUnits, fixedUnitsSource, varintUnitsSource } from './typed-data.js';
import { MAX_VARINT_BYTES } from './wire.js';

/** No operator works on more dimensions than these. */
export const MAX_RANK = 64;

const {
  floatData: FLOAT_DATA,
  int32Data: INT32_DATA,
  int64Data: INT64_DATA,
  rawData: RAW_DATA,
  doubleData: DOUBLE_DATA,
  uint64Data: UINT64_DATA,
} = FIELDS.tensor;

const FIELD_NAMES: ReadonlyMap<number, string> = new Map([
  [FLOAT_DATA, 'float_data'],
  [INT32_DATA, 'int32_data'],
  [INT64_DATA, 'int64_data'],
  [DOUBLE_DATA, 'double_data'],
  [UINT64_DATA, 'uint64_data'],
]);

/** An element type of ONNX, the DType of the same bits, and the typed field for it (onnx.proto, TensorProto). */
interface DataType {
  readonly name: string;
  readonly dtype: DType | null;
  readonly field: number;
}

const DATA_TYPES: ReadonlyMap<number, DataType> = new Map([
  [1, { name: 'FLOAT', dtype: 'F32', field: FLOAT_DATA }],
  [2, { name: 'UINT8', dtype: 'U8', field: INT32_DATA }],
  [3, { name: 'INT8', dtype: 'I8', field: INT32_DATA }],
  [4, { name: 'UINT16', dtype: 'U16', field: INT32_DATA }],
  [5, { name: 'INT16', dtype: 'I16', field: INT32_DATA }],
  [6, { name: 'INT32', dtype: 'I32', field: INT32_DATA }],
  [7, { name: 'INT64', dtype: 'I64', field: INT64_DATA }],
  [8, { name: 'STRING', dtype: null, field: 0 }],
  [9, { name: 'BOOL', dtype: 'BOOL', field: INT32_DATA }],
  [10, { name: 'FLOAT16', dtype: 'F16', field: INT32_DATA }],
  [11, { name: 'DOUBLE', dtype: 'F64', field: DOUBLE_DATA }],
  [12, { name: 'UINT32', dtype: 'U32', field: UINT64_DATA }],
  [13, { name: 'UINT64', dtype: 'U64', field: UINT64_DATA }],
  [14, { name: 'COMPLEX64', dtype: 'C64', field: FLOAT_DATA }],
  [15, { name: 'COMPLEX128', dtype: null, field: 0 }],
  [16, { name: 'BFLOAT16', dtype: 'BF16', field: INT32_DATA }],
  [17, { name: 'FLOAT8E4M3FN', dtype: 'F8_E4M3', field: INT32_DATA }],
  [18, { name: 'FLOAT8E4M3FNUZ', dtype: 'F8_E4M3FNUZ', field: INT32_DATA }],
  [19, { name: 'FLOAT8E5M2', dtype: 'F8_E5M2', field: INT32_DATA }],
  [20, { name: 'FLOAT8E5M2FNUZ', dtype: 'F8_E5M2FNUZ', field: INT32_DATA }],
  [21, { name: 'UINT4', dtype: null, field: 0 }],
  [22, { name: 'INT4', dtype: null, field: 0 }],
  [23, { name: 'FLOAT4E2M1', dtype: 'F4', field: INT32_DATA }],
  [24, { name: 'FLOAT8E8M0', dtype: 'F8_E8M0', field: INT32_DATA }],
  [25, { name: 'UINT2', dtype: null, field: 0 }],
  [26, { name: 'INT2', dtype: null, field: 0 }],
]);

/** The DType of an ONNX element type, undefined where there is no such type and null where it has no DType. */
export function dtypeOf(dataType: number): DType | null | undefined {
  return DATA_TYPES.get(dataType)?.dtype;
}

/** The ONNX element type of a DType; undefined where ONNX has none. */
export function dataTypeOf(dtype: DType): number | undefined {
  return [...DATA_TYPES].find(([, type]) => type.dtype === dtype)?.[0];
}

/** What messages call an ONNX element type. */
export function nameDataType(dataType: number): string {
  return DATA_TYPES.get(dataType)?.name ?? `the unknown type ${dataType}`;
}

/** Where tensors are stored: in the model file or in others beside it. */
export interface TensorStore {
  readonly file: ByteSource;
  readonly external: ExternalData;
}

/**
 * Checks a stored tensor against its data and says where that is.
 *
 * @param name what to call it; messages use it too.
 * @returns null for a type that has no DType (strings, 4-bit integers, complex128).
 * @throws CheckpointError `malformed` or `truncated` where shape, type and data disagree, naming the tensor.
 */
export function locateTensor(tensor: OnnxTensor, name: string, store: TensorStore): Tensor | null {
  const what = `tensor ${quote(name)}`;
  const type = DATA_TYPES.get(tensor.dataType);
  if (type === undefined) {
    throw tensorError(store, `${what}: expected a known element type, found type ${tensor.dataType}`);
  }
  if (type.dtype === null) return null;
  const { dtype } = type;
  const shape = checkShape(tensor.dims, bitsOf(dtype), what, store);
  const elementCount = shape.reduce((product, dim) => product * dim, 1);
  const byteLength = Math.ceil((elementCount * bitsOf(dtype)) / 8);
  const range = isExternal(tensor)
    ? store.external.locate(name, tensor.externalData ?? new Map(), byteLength)
    : locateData(tensor.segments, { field: type.field, dtype, byteLength, what }, store);
  return { name, dtype, shape, elementCount, range };
}

/**
 * Checks a shape from a file.
 *
 * @param bits of one element; the whole tensor must have a byte length that a number holds.
 * @throws CheckpointError `malformed` for a negative dimension, `limit-exceeded` for too many or too large ones.
 */
export function checkShape(
  dims: readonly bigint[],
  bits: number,
  what: string,
  store: TensorStore,
): number[] {
  if (dims.length > MAX_RANK) {
    const message = `${what}: expected at most ${MAX_RANK} dims, found ${dims.length}`;
    throw tensorError(store, message, 'limit-exceeded');
  }
  let product = BigInt(bits);
  for (const dim of dims) {
    if (dim < 0n)
      throw tensorError(store, `${what}: expected dims of 0 or more, found the negative dim ${dim}`);
    product *= dim;
    // Each dimension must be safe by itself, because a zero elsewhere would hide it in the product.
    if (product > BigInt(Number.MAX_SAFE_INTEGER) || dim > BigInt(Number.MAX_SAFE_INTEGER)) {
      const message = `${what}: expected a shape that fits into a file, found the too large dims [${dims.join(', ')}]`;
      throw tensorError(store, message, 'limit-exceeded');
    }
  }
  return dims.map(Number);
}

/** What typed data must amount to. */
export interface DataRequest {
  /** The typed field for the element type. */
  readonly field: number;
  readonly dtype: DType;
  readonly byteLength: number;
  readonly what: string;
}

/** Finds the bytes: raw_data, which wins even when it is empty, else the typed field. */
export function locateData(
  segments: readonly Segment[],
  request: DataRequest,
  store: TensorStore,
): ByteRange {
  const { what, byteLength } = request;
  const raw = segments.findLast((segment) => segment.field === RAW_DATA);
  if (raw !== undefined) {
    if (raw.byteLength !== byteLength) {
      const message = `${what}: expected ${byteLength} bytes for its shape and type, found ${raw.byteLength} in raw_data`;
      throw tensorError(store, message, 'malformed', raw.offset);
    }
    return { source: store.file, offset: raw.offset, byteLength };
  }
  const typed = segments.filter((segment) => segment.field === request.field && segment.byteLength > 0);
  const isFixed = request.field === FLOAT_DATA || request.field === DOUBLE_DATA;
  return isFixed
    ? locateFixed(typed, request, store, segments)
    : locateVarints(typed, request, store, segments);
}

function locateFixed(
  typed: readonly Segment[],
  request: DataRequest,
  store: TensorStore,
  all: readonly Segment[],
): ByteRange {
  const { what, byteLength } = request;
  const unitBytes = request.field === DOUBLE_DATA ? 8 : 4;
  const unitCount = byteLength / unitBytes;
  const ragged = typed.find((segment) => segment.form === 'packed' && segment.byteLength % unitBytes !== 0);
  if (ragged !== undefined) {
    const found = `${ragged.byteLength} bytes, which is no multiple of ${unitBytes}`;
    throw tensorError(
      store,
      `${what}: expected packed float values, found ${found}`,
      'malformed',
      ragged.offset,
    );
  }
  const found = countFixedUnits(typed, unitBytes);
  if (found !== unitCount) throw countError(request, unitCount, found, store, all);
  const [first, ...others] = typed;
  if (first !== undefined && others.length === 0 && first.form === 'packed') {
    return { source: store.file, offset: first.offset, byteLength };
  }
  const source = fixedUnitsSource({ what, file: store.file, segments: typed, unitBytes, unitCount });
  return { source, offset: 0, byteLength };
}

function locateVarints(
  typed: readonly Segment[],
  request: DataRequest,
  store: TensorStore,
  all: readonly Segment[],
): ByteRange {
  const { what, byteLength } = request;
  const unitBytes = Math.max(1, bitsOf(request.dtype) / 8);
  const unitCount = byteLength / (bitsOf(request.dtype) < 8 ? 1 : unitBytes);
  const encodedBytes = typed.reduce((sum, segment) => sum + segment.byteLength, 0);
  // The exact number shows when the values are decoded, which for a large tensor must not happen while opening.
  const mostBytes = unitCount * 2 * MAX_VARINT_BYTES;
  if (encodedBytes < unitCount || encodedBytes > mostBytes) {
    throw countError(
      request,
      unitCount,
      encodedBytes < unitCount ? `at most ${encodedBytes}` : 'more',
      store,
      all,
    );
  }
  const source = varintUnitsSource({
    what,
    file: store.file,
    segments: typed,
    unitBytes: Math.ceil(unitBytes),
    unitCount,
  });
  return { source, offset: 0, byteLength };
}

function countError(
  request: DataRequest,
  expected: number,
  found: number | string,
  store: TensorStore,
  all: readonly Segment[],
): CheckpointError {
  const fieldName = FIELD_NAMES.get(request.field) ?? 'data';
  const other = all.find((segment) => segment.field !== request.field && segment.byteLength > 0);
  const beside = other === undefined ? '' : ` beside ${FIELD_NAMES.get(other.field) ?? 'another field'}`;
  const message = `${request.what}: expected ${expected} values for its shape, found ${found} in ${fieldName}${beside}`;
  return tensorError(store, message, 'malformed', all[0]?.offset);
}

function tensorError(
  store: TensorStore,
  message: string,
  code: CheckpointErrorCode = 'malformed',
  offset?: number,
): CheckpointError {
  return new CheckpointError(message, { code, file: store.file.name, offset });
}
