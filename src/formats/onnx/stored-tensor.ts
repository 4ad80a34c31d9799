// Tensors of an ONNX file: in raw_data, in typed fields, or in a file beside it.

import type { Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../../checkpoint/dtype.js';
import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import { type ByteRange, type ByteSource, checkBounds, readRange } from '../../io/byte-source.js';
import { BufferedReader } from '../../io/cursor.js';
import type { ExternalData } from './external-data.js';
import { FIELDS, isExternal, type OnnxTensor, type Segment } from './schema.js';
import { MAX_VARINT_BYTES, readVarint, type Varint } from './wire.js';

/** How many bytes of tagged values are read at a time. */
const CHUNK_BYTES = 64 * 1024;

/** Values in a typed field of TensorProto (float_data, int32_data, …) or AttributeProto (floats, ints). */
interface TypedData {
  /** What messages call the values: the tensor or attribute. */
  readonly what: string;
  readonly file: ByteSource;
  readonly segments: readonly Segment[];
  /** Bytes of one value in the view: 4 for float_data, the element's own width for varints. */
  readonly unitBytes: number;
  readonly unitCount: number;
}

/** How many fixed-width values the segments hold; a fraction where a packed run is ragged. */
function countFixedUnits(segments: readonly Segment[], unitBytes: number): number {
  return segments.reduce(
    (count, segment) => count + segment.byteLength / (segment.form === 'tagged' ? segment.stride : unitBytes),
    0,
  );
}

/** A view that reads fixed-width values as if they stood one behind the other. */
function fixedUnitsSource(data: TypedData): ByteSource {
  const source: ByteSource = {
    name: data.file.name,
    byteLength: data.unitBytes * data.unitCount,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      await readFixedUnits(data, target, position);
    },
    async close() {},
  };
  return source;
}

async function readFixedUnits(data: TypedData, target: Uint8Array, position: number): Promise<void> {
  let segmentStart = 0;
  let filled = 0;
  for (const segment of data.segments) {
    const isTagged = segment.form === 'tagged';
    const byteLength = isTagged ? (segment.byteLength / segment.stride) * data.unitBytes : segment.byteLength;
    const skipped = position + filled - segmentStart;
    if (filled < target.byteLength && skipped < byteLength) {
      const part = target.subarray(filled, Math.min(target.byteLength, filled + byteLength - skipped));
      if (isTagged) await readTaggedUnits(data, segment, part, skipped);
      else await data.file.readInto(part, segment.offset + skipped);
      filled += part.byteLength;
    }
    segmentStart += byteLength;
  }
}

/** Each value stands at the end of its stride, behind its tag. */
async function readTaggedUnits(
  data: TypedData,
  segment: Segment,
  target: Uint8Array,
  skipped: number,
): Promise<void> {
  const { unitBytes } = data;
  const { stride } = segment;
  const chunk = new Uint8Array(
    Math.min(segment.byteLength, Math.max(stride, CHUNK_BYTES - (CHUNK_BYTES % stride))),
  );
  let filled = 0;
  while (filled < target.byteLength) {
    const unit = Math.floor((skipped + filled) / unitBytes);
    const bytes = chunk.subarray(0, Math.min(chunk.byteLength, segment.byteLength - unit * stride));
    await data.file.readInto(bytes, segment.offset + unit * stride);
    for (let at = 0; at < bytes.byteLength && filled < target.byteLength; at += stride) {
      const within = (skipped + filled) % unitBytes;
      const value = bytes.subarray(at + stride - unitBytes + within, at + stride);
      const part = value.subarray(0, target.byteLength - filled);
      target.set(part, filled);
      filled += part.byteLength;
    }
  }
}

/** Counts the varints of segments by their last bytes; the caller has checked the size. A tag is a varint too. */
export async function countVarints(file: ByteSource, segments: readonly Segment[]): Promise<number> {
  let count = 0;
  for (const segment of segments) {
    const bytes = await readRange({ source: file, offset: segment.offset, byteLength: segment.byteLength });
    const ends = bytes.reduce((sum, byte) => (byte < 0x80 ? sum + 1 : sum), 0);
    count += segment.form === 'tagged' ? ends / 2 : ends;
  }
  return count;
}

/**
 * A view that decodes varints to little-endian values of `unitBytes`; higher bits are dropped, so that a negative
 * half or byte may stand sign-extended in ten bytes (onnx.proto: int32_data).
 */
function varintUnitsSource(data: TypedData): ByteSource {
  return new VarintUnits(data);
}

/**
 * Decodes forwards only, because a varint's length is known when it is read; reading backwards starts again.
 * Reads are queued, so that two may be asked for at once.
 */
class VarintUnits implements ByteSource {
  readonly name: string;
  readonly byteLength: number;
  readonly #data: TypedData;
  readonly #varint: Varint = { low: 0, high: 0 };
  #queue: Promise<void> = Promise.resolve();
  #reader: BufferedReader;
  #segmentIndex = 0;
  #nextUnit = 0;

  constructor(data: TypedData) {
    this.name = data.file.name;
    this.byteLength = data.unitBytes * data.unitCount;
    this.#data = data;
    this.#reader = this.#readerOf(0);
  }

  async readInto(target: Uint8Array, position: number): Promise<void> {
    checkBounds(this, position, target.byteLength);
    const work = this.#queue.then(() => this.#decodeInto(target, position));
    this.#queue = work.catch(() => {});
    await work;
  }

  async close(): Promise<void> {}

  async #decodeInto(target: Uint8Array, position: number): Promise<void> {
    const { unitBytes, unitCount } = this.#data;
    const firstUnit = Math.floor(position / unitBytes);
    if (firstUnit < this.#nextUnit) this.#restart();
    const endUnit = Math.ceil((position + target.byteLength) / unitBytes);
    const unit = new Uint8Array(8);
    const view = new DataView(unit.buffer);
    while (this.#nextUnit < endUnit) {
      await this.#readUnit();
      view.setUint32(0, this.#varint.low, true);
      view.setUint32(4, this.#varint.high, true);
      const at = this.#nextUnit * unitBytes - position;
      this.#nextUnit++;
      if (at + unitBytes <= 0) continue;
      const from = Math.max(0, -at);
      const to = Math.min(unitBytes, target.byteLength - at);
      target.set(unit.subarray(from, to), at + from);
    }
    if (endUnit === unitCount) {
      this.#checkEnd();
      // Gives the window back: a model may have hundreds of such tensors.
      this.#restart();
    }
  }

  async #readUnit(): Promise<void> {
    let segment = this.#data.segments[this.#segmentIndex];
    while (segment !== undefined && this.#reader.position >= segment.offset + segment.byteLength) {
      this.#segmentIndex++;
      segment = this.#data.segments[this.#segmentIndex];
      if (segment !== undefined) this.#reader = this.#readerOf(this.#segmentIndex);
    }
    if (segment === undefined) throw this.#countError(`${this.#nextUnit}`);
    if (!this.#reader.has(2 * MAX_VARINT_BYTES)) await this.#reader.fill(2 * MAX_VARINT_BYTES);
    if (segment.form === 'tagged') readVarint(this.#reader, this.#varint);
    readVarint(this.#reader, this.#varint);
    if (this.#reader.position > segment.offset + segment.byteLength)
      throw this.#countError('one that is cut off');
  }

  #checkEnd(): void {
    const left = this.#data.segments.slice(this.#segmentIndex);
    const hasMore = left.some((segment, i) => {
      const at = i === 0 ? this.#reader.position : segment.offset;
      return at < segment.offset + segment.byteLength;
    });
    if (hasMore) throw this.#countError('more');
  }

  #restart(): void {
    this.#segmentIndex = 0;
    this.#nextUnit = 0;
    this.#reader = this.#readerOf(0);
  }

  #readerOf(segmentIndex: number): BufferedReader {
    const { offset, byteLength } = this.#data.segments[segmentIndex] ?? { offset: 0, byteLength: 0 };
    return new BufferedReader(this.#data.file, offset, offset + byteLength);
  }

  #countError(found: string): CheckpointError {
    const { what, unitCount, segments, file } = this.#data;
    const message = `${what}: expected ${unitCount} values for its shape, found ${found}`;
    return new CheckpointError(message, { code: 'malformed', file: file.name, offset: segments[0]?.offset });
  }
}

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
interface DataRequest {
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
