// Constants that stand in the file: initializers, Constant nodes and sparse tensors.

import type { Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType, decodeFloats, encodeFloats, isDecodable } from '../../checkpoint/dtype.js';
import { type CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import { type ByteSource, checkBounds, memorySource, readRange } from '../../io/byte-source.js';
import { describeNode, FIELDS, type OnnxAttribute, type OnnxSparseTensor, type Segment } from './schema.js';
import { findAttribute, type Scope, type Site } from './scope.js';
import {
  checkShape,
  countVarints,
  locateData,
  locateTensor,
  MAX_RANK,
  nameDataType,
  type TensorStore,
} from './stored-tensor.js';

/** What a name comes to when everything that leads to it is constant, or why it comes to nothing. */
export type Constant =
  | ConstantTensor
  /** One value, repeated to a shape that is known at run time only. */
  | {
      readonly kind: 'uniform';
      readonly tensor: Tensor;
      readonly source: string;
      readonly overridable: boolean;
    }
  | {
      readonly kind: 'unresolved';
      readonly reason: string;
      /** Whether the file stores it, in a type that is not decoded: strings, 4-bit integers. */
      readonly isUndecodable?: boolean | undefined;
    };

/** A constant tensor and how the file supplies it. */
export interface ConstantTensor {
  readonly kind: 'constant';
  readonly tensor: Tensor;
  readonly source: string;
  /** Whether it comes from an initializer that a caller may replace at run time. */
  readonly overridable: boolean;
}

/** What the sources and operators of constants need of the evaluator that calls them. */
export interface Evaluator {
  readonly store: TensorStore;
  /** Evaluates a name in a scope: see `ConstantEvaluator`. */
  evaluate(scope: Scope, name: string): Promise<Constant>;
  /** Notes bytes that are to be computed in memory; false where those of the whole model would become too many. */
  reserve(byteLength: number): boolean;
  /** An error about the model's file; `malformed` unless said otherwise. */
  error(message: string, code?: CheckpointErrorCode): CheckpointError;
}

/** A result that says why there is no constant. */
export function unresolved(reason: string): Extract<Constant, { readonly kind: 'unresolved' }> {
  return { kind: 'unresolved', reason };
}

/** A result for what is stored in a type that is not decoded. */
export function undecodable(reason: string): Constant {
  return { kind: 'unresolved', reason, isUndecodable: true };
}

/** Whether the elements can be decoded to numbers: floats, integers and booleans, but no complex or 4-bit ones. */
export function isNumeric(dtype: DType): boolean {
  return isDecodable(dtype) || /^([IU](8|16|32|64)|BOOL)$/.test(dtype);
}

/** Decodes little-endian elements of a {@link isNumeric} type; integers beyond 2^53 are rounded. */
export function decodeNumbers(bytes: Uint8Array, dtype: DType): Float64Array {
  if (isDecodable(dtype)) return decodeFloats(bytes, dtype);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const width = bitsOf(dtype) / 8;
  return Float64Array.from({ length: bytes.byteLength / width }, (_, i) =>
    readInteger(view, width * i, dtype),
  );
}

function readInteger(view: DataView, at: number, dtype: DType): number {
  switch (dtype) {
    case 'I8':
      return view.getInt8(at);
    case 'I16':
      return view.getInt16(at, true);
    case 'I32':
      return view.getInt32(at, true);
    case 'I64':
      return Number(view.getBigInt64(at, true));
    case 'U16':
      return view.getUint16(at, true);
    case 'U32':
      return view.getUint32(at, true);
    case 'U64':
      return Number(view.getBigUint64(at, true));
    case 'BOOL':
      return view.getUint8(at) === 0 ? 0 : 1;
    default:
      return view.getUint8(at);
  }
}

/** Encodes numbers as elements of a {@link isNumeric} type: floats rounded to nearest even, integers cut off. */
export function encodeNumbers(values: ArrayLike<number>, dtype: DType): Uint8Array {
  if (isDecodable(dtype)) return encodeFloats(values, dtype);
  const width = bitsOf(dtype) / 8;
  const bytes = new Uint8Array(values.length * width);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] ?? 0;
    if (width === 8) view.setBigInt64(8 * i, Number.isFinite(value) ? BigInt(Math.trunc(value)) : 0n, true);
    else if (width === 4) view.setInt32(4 * i, value, true);
    else if (width === 2) view.setInt16(2 * i, value, true);
    else view.setInt8(i, dtype === 'BOOL' ? Number(value !== 0) : value);
  }
  return bytes;
}

/** Reads a small tensor of a numeric type; the caller has checked its size. */
export async function readNumbers(tensor: Tensor): Promise<Float64Array> {
  return decodeNumbers(await readRange(tensor.range), tensor.dtype);
}

/** What {@link memoryTensor} makes a tensor of. */
interface TensorContent {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** A tensor whose bytes are in memory: computed from constants. */
export function memoryTensor(content: TensorContent): Tensor {
  const { name, dtype, shape, bytes } = content;
  const elementCount = shape.reduce((product, dim) => product * dim, 1);
  const range = { source: memorySource(name, bytes), offset: 0, byteLength: bytes.byteLength };
  return { name, dtype, shape, elementCount, range };
}

/** The most elements of a tensor that is computed in memory; the widest norm layers have some thousand channels. */
export const MAX_COMPUTED_ELEMENTS = 1 << 20;

/** The value of a Constant node, in any of its forms. */
export async function makeConstant(evaluator: Evaluator, site: Site, name: string): Promise<Constant> {
  const source = 'Constant';
  const value = findAttribute(site, 'value');
  if (value?.tensor) {
    const tensor = locateTensor(value.tensor, name, evaluator.store);
    if (tensor === null)
      return undecodable(`constant ${quote(name)} has the type ${nameDataType(value.tensor.dataType)}`);
    return { kind: 'constant', tensor, source, overridable: false };
  }
  const sparse = findAttribute(site, 'sparse_value');
  if (sparse?.sparseTensor) {
    const tensor = await makeDense(evaluator, sparse.sparseTensor, name);
    return { kind: 'constant', tensor, source: 'sparse Constant', overridable: false };
  }
  const tensor = await makeSimpleConstant(evaluator, site, name);
  if (tensor === null) return unresolved(`${describeNode(site.node)} holds no value that can be read`);
  return { kind: 'constant', tensor, source, overridable: false };
}

/** The forms of Constant without a TensorProto (opset 12 on). */
async function makeSimpleConstant(evaluator: Evaluator, site: Site, name: string): Promise<Tensor | null> {
  const float = findAttribute(site, 'value_float');
  if (float !== null) return scalar(name, 'F32', float32Bytes(float.float));
  const int = findAttribute(site, 'value_int');
  if (int !== null) return scalar(name, 'I64', int64Bytes(int.int));
  const floats = findAttribute(site, 'value_floats');
  if (floats !== null) return await attributeTensor(evaluator, floats, name, 'F32');
  const ints = findAttribute(site, 'value_ints');
  if (ints !== null) return await attributeTensor(evaluator, ints, name, 'I64');
  return null;
}

function scalar(name: string, dtype: DType, bytes: Uint8Array): Tensor {
  return memoryTensor({ name, dtype, shape: [], bytes });
}

function float32Bytes(value: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value, true);
  return new Uint8Array(view.buffer);
}

function int64Bytes(value: bigint): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigInt64(0, value, true);
  return new Uint8Array(view.buffer);
}

/** A vector from an attribute's floats or ints, which stay in the file. */
async function attributeTensor(
  evaluator: Evaluator,
  attribute: OnnxAttribute,
  name: string,
  dtype: 'F32' | 'I64',
): Promise<Tensor> {
  // An attribute's values and a tensor's stand in the file alike.
  const [from, field] =
    dtype === 'F32'
      ? [FIELDS.attribute.floats, FIELDS.tensor.floatData]
      : [FIELDS.attribute.ints, FIELDS.tensor.int64Data];
  const segments = attribute.segments
    .filter((segment) => segment.field === from)
    .map((item) => ({ ...item, field }));
  const elementCount = dtype === 'F32' ? countFloats(segments) : await countInts(evaluator, segments, name);
  const byteLength = (elementCount * bitsOf(dtype)) / 8;
  const what = `attribute ${quote(attribute.name)} of ${quote(name)}`;
  const range = locateData(segments, { field, dtype, byteLength, what }, evaluator.store);
  return { name, dtype, shape: [elementCount], elementCount, range };
}

function countFloats(segments: readonly Segment[]): number {
  return segments.reduce(
    (count, segment) =>
      count + Math.floor(segment.byteLength / (segment.form === 'tagged' ? segment.stride : 4)),
    0,
  );
}

/** Packed varints tell their number only when they are read. */
async function countInts(evaluator: Evaluator, segments: readonly Segment[], name: string): Promise<number> {
  const byteLength = segments.reduce((sum, segment) => sum + segment.byteLength, 0);
  checkComputedSize(evaluator, byteLength / 2, `the integers of ${quote(name)}`);
  return await countVarints(evaluator.store.file, segments);
}

/**
 * Reads an attribute's integers, such as axes; null where the attribute is absent.
 *
 * @throws CheckpointError `limit-exceeded` for more integers than any operator takes.
 */
export async function readInts(evaluator: Evaluator, site: Site, name: string): Promise<number[] | null> {
  const attribute = findAttribute(site, name);
  if (attribute === null) return null;
  const tensor = await attributeTensor(evaluator, attribute, describeNode(site.node), 'I64');
  checkRank(evaluator, tensor, describeNode(site.node));
  return [...(await readNumbers(tensor))];
}

/** ConstantOfShape: one value, repeated to a shape that is itself a constant. */
export async function makeConstantOfShape(evaluator: Evaluator, site: Site, name: string): Promise<Constant> {
  const what = `${describeNode(site.node)}, which makes ${quote(name)}`;
  const value = findAttribute(site, 'value');
  const element =
    value?.tensor === null || value === null
      ? scalar(name, 'F32', new Uint8Array(4))
      : locateTensor(value.tensor, name, evaluator.store);
  if (element === null || element.elementCount !== 1) {
    throw evaluator.error(`${what}: expected one number as its value, found something else`);
  }
  const shapeInput = await evaluator.evaluate(site.scope, site.node.inputs[0] ?? '');
  if (shapeInput.kind !== 'constant') {
    return { kind: 'uniform', tensor: element, source: 'ConstantOfShape', overridable: false };
  }
  const dims = await readShape(evaluator, shapeInput.tensor, what);
  const shape = checkShape(dims.map(BigInt), bitsOf(element.dtype), what, evaluator.store);
  const tensor = await repeatTensor(element, shape);
  return { kind: 'constant', tensor, source: 'ConstantOfShape', overridable: false };
}

/**
 * Reads a tensor of dimensions or axes.
 *
 * @throws CheckpointError `malformed` for another type, `limit-exceeded` for more values than a shape can have.
 */
export async function readShape(evaluator: Evaluator, tensor: Tensor, what: string): Promise<number[]> {
  if (tensor.dtype !== 'I64' && tensor.dtype !== 'I32') {
    throw evaluator.error(`${what}: expected integers as a shape, found ${tensor.dtype}`);
  }
  checkRank(evaluator, tensor, what);
  return [...(await readNumbers(tensor))];
}

function checkRank(evaluator: Evaluator, tensor: Tensor, what: string): void {
  if (tensor.elementCount <= MAX_RANK) return;
  const message = `${what}: expected at most ${MAX_RANK} dims or axes, found ${tensor.elementCount}`;
  throw evaluator.error(message, 'limit-exceeded');
}

/** A tensor of one element, repeated to a shape of any size: nothing is allocated. */
export async function repeatTensor(element: Tensor, shape: readonly number[]): Promise<Tensor> {
  const pattern = await readRange(element.range);
  const elementCount = shape.reduce((product, dim) => product * dim, 1);
  const source: ByteSource = {
    name: element.range.source.name,
    byteLength: elementCount * pattern.byteLength,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      for (let i = 0; i < target.byteLength; i++)
        target[i] = pattern[(position + i) % pattern.byteLength] ?? 0;
    },
    async close() {},
    computedFrom: element.range,
  };
  const range = { source, offset: 0, byteLength: source.byteLength };
  return { name: element.name, dtype: element.dtype, shape, elementCount, range };
}

/**
 * Checks the size of a tensor before it is made in memory.
 *
 * @throws CheckpointError `limit-exceeded`
 */
export function checkComputedSize(evaluator: Evaluator, elementCount: number, what: string): void {
  if (elementCount <= MAX_COMPUTED_ELEMENTS) return;
  const message = `${what}: expected at most ${MAX_COMPUTED_ELEMENTS} elements, found ${elementCount}: too large`;
  throw evaluator.error(message, 'limit-exceeded');
}

/** The error for constants that are computed in memory and need too much of it together. */
export function computesTooMuch(evaluator: Evaluator, what: string): CheckpointError {
  return evaluator.error(
    `${what}: expected constants that fit into memory, found too many`,
    'limit-exceeded',
  );
}

/**
 * A sparse tensor written out. Indices are linear (`[NNZ]`) or one per dimension (`[NNZ, rank]`).
 *
 * @throws CheckpointError `malformed` for indices outside the shape or an index that appears twice, `limit-exceeded` for a large tensor.
 */
export async function makeDense(
  evaluator: Evaluator,
  sparse: OnnxSparseTensor,
  name: string,
): Promise<Tensor> {
  const what = `sparse tensor ${quote(name)}`;
  const values = locateTensor(sparse.values, name, evaluator.store);
  const indices = locateTensor(sparse.indices, `${name} (indices)`, evaluator.store);
  if (values === null || !isNumeric(values.dtype) || indices === null || indices.dtype !== 'I64') {
    throw evaluator.error(`${what}: expected numbers and INT64 indices, found other types`);
  }
  const shape = checkShape(sparse.dims, bitsOf(values.dtype), what, evaluator.store);
  const elementCount = shape.reduce((product, dim) => product * dim, 1);
  checkComputedSize(evaluator, elementCount, what);
  checkComputedSize(evaluator, indices.elementCount, what);
  const width = bitsOf(values.dtype) / 8;
  if (!evaluator.reserve(elementCount * width)) throw computesTooMuch(evaluator, what);
  const positions = linearIndices([...(await readNumbers(indices))], indices.shape, shape);
  if (positions.length !== values.elementCount) {
    throw evaluator.error(
      `${what}: expected an index for each of ${values.elementCount} values, found other dims`,
    );
  }
  const stored = await readRange(values.range);
  const bytes = new Uint8Array(elementCount * width);
  if (new Set(positions).size < positions.length)
    throw evaluator.error(`${what}: expected each index once, found one twice (duplicate)`);
  for (const [i, position] of positions.entries()) {
    if (!(position >= 0 && position < elementCount)) {
      throw evaluator.error(
        `${what}: expected indices within its ${elementCount} elements, found one outside`,
      );
    }
    bytes.set(stored.subarray(i * width, (i + 1) * width), position * width);
  }
  return memoryTensor({ name, dtype: values.dtype, shape, bytes });
}

/** Positions in the flat tensor; NaN for an index outside its dimension. */
function linearIndices(
  indices: readonly number[],
  indexShape: readonly number[],
  shape: readonly number[],
): number[] {
  if (indexShape.length !== 2) return [...indices];
  const rank = indexShape[1] ?? 0;
  if (rank !== shape.length || rank === 0) return [];
  return Array.from({ length: indices.length / rank }, (_, i) =>
    shape.reduce((position, dim, axis) => {
      const index = indices[i * rank + axis] ?? Number.NaN;
      return index >= 0 && index < dim ? position * dim + index : Number.NaN;
    }, 0),
  );
}
