import { type CheckpointError, quote } from '../../errors.js';
import { type ByteSource, checkBounds, readRange } from '../../io/byte-source.js';
import type { Tensor } from '../checkpoint.js';
import { bitsOf, type DType } from '../dtype.js';
import { type Constant, type Evaluator, undecodable, unresolved } from './constant.js';
import { describeNode, type OnnxAttribute, type OnnxSparseTensor, type Segment } from './model.js';
import { isNumeric, memoryTensor, readNumbers } from './numbers.js';
import { FIELDS } from './schema.js';
import { findAttribute, type Site } from './scope.js';
import { checkShape, locateData, locateTensor, MAX_RANK, nameDataType } from './stored-tensor.js';
import { countVarints } from './typed-data.js';

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
