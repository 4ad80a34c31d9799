// Operators on constants, computed as their bytes are read: Transpose, Cast, Mul and the like.

import type { Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType, isDecodable } from '../../checkpoint/dtype.js';
import { type ByteSource, checkBounds, readRange } from '../../io/byte-source.js';
import { stridedSource } from '../../io/views.js';
import {
  type Constant,
  type ConstantTensor,
  checkComputedSize,
  computesTooMuch,
  decodeNumbers,
  type Evaluator,
  encodeNumbers,
  isNumeric,
  MAX_COMPUTED_ELEMENTS,
  memoryTensor,
  readInts,
  readNumbers,
  readShape,
  unresolved,
} from './constant-sources.js';
import { describeNode, type OnnxNode } from './schema.js';
import { describeSite, findAttribute, opsetOf, type Site } from './scope.js';
import { dtypeOf, MAX_RANK } from './stored-tensor.js';

/** How many elements are converted at a time, so that memory stays flat for any tensor. */
const CHUNK_ELEMENTS = 16 * 1024;

/** How {@link mapTensor} computes one tensor's elements from another's. */
interface ElementMap {
  readonly dtype: DType;
  /** Changes `values` in place; `first` is the index of the first of them in the tensor. */
  readonly convert: (values: Float64Array, first: number) => Promise<void>;
}

/** A tensor whose elements are computed from those of `input`, one by one, when they are read. */
function mapTensor(input: Tensor, map: ElementMap): Tensor {
  const width = bitsOf(map.dtype) / 8;
  const source: ByteSource = {
    name: input.range.source.name,
    byteLength: input.elementCount * width,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      let filled = 0;
      while (filled < target.byteLength) {
        const first = Math.floor((position + filled) / width);
        const within = position + filled - first * width;
        const needed = Math.ceil((within + target.byteLength - filled) / width);
        const bytes = await convertChunk(input, map, first, Math.min(needed, CHUNK_ELEMENTS));
        const part = bytes.subarray(within, within + target.byteLength - filled);
        target.set(part, filled);
        filled += part.byteLength;
      }
    },
    async close() {},
    computedFrom: input.range,
  };
  return { ...input, dtype: map.dtype, range: { source, offset: 0, byteLength: source.byteLength } };
}

async function convertChunk(
  input: Tensor,
  map: ElementMap,
  first: number,
  count: number,
): Promise<Uint8Array> {
  const width = bitsOf(input.dtype) / 8;
  const bytes = new Uint8Array(count * width);
  await input.range.source.readInto(bytes, input.range.offset + first * width);
  const values = decodeNumbers(bytes, input.dtype);
  await map.convert(values, first);
  return encodeNumbers(values, map.dtype);
}

/** A constant that has values. */
type Resolved = Exclude<Constant, { kind: 'unresolved' }>;

/** Computes a node's output from its first input; other inputs are evaluated on the way. */
type Operator = (evaluator: Evaluator, site: Site, input: Resolved) => Promise<Constant>;

/** The result of a node whose output is not followed here. */
function computedAtRunTime(site: Site, because = ''): Constant {
  return unresolved(`${describeSite(site)} computes it at run time${because}`);
}

/** The constant with another tensor in its place. */
function replaceTensor(input: Resolved, tensor: Tensor): Constant {
  return { ...input, tensor };
}

/** The constant with another shape of as many elements. */
function replaceShape(input: ConstantTensor, shape: readonly number[]): Constant {
  return replaceTensor(input, { ...input.tensor, shape });
}

// Operators that change a constant's shape or order (onnx/docs/Operators.md).

/** The integers of an input, or before the opset that made them an input, of an attribute; null where absent. */
async function readIntegers(
  evaluator: Evaluator,
  site: Site,
  where: { readonly input: number; readonly attribute: string },
): Promise<number[] | null | Constant> {
  const name = site.node.inputs[where.input] ?? '';
  if (name === '') return await readInts(evaluator, site, where.attribute);
  const value = await evaluator.evaluate(site.scope, name);
  if (value.kind !== 'constant') return value;
  return await readShape(evaluator, value.tensor, describeNode(site.node));
}

/** −1 stands for what is left, 0 for the input's dimension unless `allowzero` says otherwise. */
async function applyReshape(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const dims = await readIntegers(evaluator, site, { input: 1, attribute: 'shape' });
  if (input.kind === 'uniform') return input;
  if (dims === null) return computedAtRunTime(site);
  if (!Array.isArray(dims)) return computedAtRunTime(site, ' (its shape is no constant)');
  const { tensor } = input;
  const allowsZero = (findAttribute(site, 'allowzero')?.int ?? 0n) !== 0n;
  const shape = dims.map((dim, i) => (dim === 0 && !allowsZero ? (tensor.shape[i] ?? 0) : dim));
  const known = shape.filter((dim) => dim !== -1).reduce((product, dim) => product * dim, 1);
  const full = shape.map((dim) => (dim === -1 ? tensor.elementCount / known : dim));
  const count = full.reduce((product, dim) => product * dim, 1);
  if (count !== tensor.elementCount || full.some((dim) => !Number.isInteger(dim) || dim < 0)) {
    const found = `found [${dims.join(', ')}]`;
    throw evaluator.error(
      `${describeNode(site.node)}: expected a shape of ${tensor.elementCount} elements, ${found}`,
    );
  }
  return replaceShape(input, full);
}

/** Flatten: a matrix, split at an axis. */
async function applyFlatten(_evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  if (input.kind === 'uniform') return input;
  const { shape } = input.tensor;
  const axis = Number(findAttribute(site, 'axis')?.int ?? 1n);
  const at = axis < 0 ? axis + shape.length : axis;
  const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
  return replaceShape(input, [product(shape.slice(0, at)), product(shape.slice(at))]);
}

/** Squeeze: without the dimensions of 1, or those that it names. */
async function applySqueeze(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const axes = await readIntegers(evaluator, site, { input: 1, attribute: 'axes' });
  if (input.kind === 'uniform') return input;
  if (axes !== null && !Array.isArray(axes)) return computedAtRunTime(site, ' (its axes are no constant)');
  const { shape } = input.tensor;
  const dropped = new Set((axes ?? []).map((axis) => (axis < 0 ? axis + shape.length : axis)));
  const isDropped = (dim: number, axis: number) => (axes === null ? dim === 1 : dropped.has(axis));
  if (shape.some((dim, axis) => isDropped(dim, axis) && dim !== 1)) {
    throw evaluator.error(
      `${describeNode(site.node)}: expected dims of 1 to drop, found [${shape.join(', ')}]`,
    );
  }
  const kept = shape.filter((dim, axis) => !isDropped(dim, axis));
  return replaceShape(input, kept);
}

/** Unsqueeze: with dimensions of 1 where it names them. */
async function applyUnsqueeze(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const axes = await readIntegers(evaluator, site, { input: 1, attribute: 'axes' });
  if (input.kind === 'uniform') return input;
  if (!Array.isArray(axes)) return computedAtRunTime(site, ' (its axes are no constant)');
  const rank = input.tensor.shape.length + axes.length;
  const added = new Set(axes.map((axis) => (axis < 0 ? axis + rank : axis)));
  const rest = [...input.tensor.shape];
  const shape = Array.from({ length: rank }, (_, axis) => (added.has(axis) ? 1 : (rest.shift() ?? 1)));
  return replaceShape(input, shape);
}

/** Transpose: axes in another order, reversed unless it says otherwise. */
async function applyTranspose(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const stated = await readInts(evaluator, site, 'perm');
  if (input.kind === 'uniform') return input;
  const { tensor } = input;
  const rank = tensor.shape.length;
  const perm = stated ?? Array.from({ length: rank }, (_, axis) => rank - 1 - axis);
  if (
    perm.length !== rank ||
    new Set(perm).size !== rank ||
    perm.some((axis) => tensor.shape[axis] === undefined)
  ) {
    throw evaluator.error(
      `${describeNode(site.node)}: expected a permutation of ${rank} axes, found [${perm.join(', ')}]`,
    );
  }
  const shape = perm.map((axis) => tensor.shape[axis] ?? 0);
  const moved = perm.filter((axis) => tensor.shape[axis] !== 1);
  // Moving dimensions of 1 about leaves the elements where they are.
  if (moved.every((axis, i) => i === 0 || axis > (moved[i - 1] ?? 0))) return replaceShape(input, shape);
  const strides = stridesOf(tensor.shape);
  return await gather(evaluator, site, input, { shape, strides: perm.map((axis) => strides[axis] ?? 0) });
}

/** Repeats dimensions of 1 (numpy's broadcasting). A shape known at run time only still leaves one value uniform. */
async function applyExpand(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  if (input.kind === 'uniform') return input;
  const wanted = await readIntegers(evaluator, site, { input: 1, attribute: '' });
  if (!Array.isArray(wanted)) return repeatUnknown(site, input);
  const { tensor } = input;
  const rank = Math.max(wanted.length, tensor.shape.length);
  const from = [...Array<number>(rank - tensor.shape.length).fill(1), ...tensor.shape];
  const to = [...Array<number>(rank - wanted.length).fill(1), ...wanted];
  if (
    from.some((dim, axis) => dim !== 1 && to[axis] !== 1 && dim !== to[axis]) ||
    to.some((dim) => dim < 0)
  ) {
    const found = `found [${tensor.shape.join(', ')}] and [${wanted.join(', ')}]`;
    throw evaluator.error(`${describeNode(site.node)}: expected shapes that broadcast, ${found}`);
  }
  const shape = from.map((dim, axis) => (dim === 1 ? (to[axis] ?? 1) : dim));
  const strides = stridesOf(from).map((stride, axis) => (from[axis] === 1 ? 0 : stride));
  return await gather(evaluator, site, input, { shape, strides });
}

/** Tile: repeated along every axis. */
async function applyTile(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  if (input.kind === 'uniform') return input;
  const repeats = await readIntegers(evaluator, site, { input: 1, attribute: '' });
  if (!Array.isArray(repeats)) return repeatUnknown(site, input);
  const { shape } = input.tensor;
  if (repeats.length !== shape.length || repeats.some((count) => count < 0)) {
    throw evaluator.error(
      `${describeNode(site.node)}: expected ${shape.length} repeats, found [${repeats.join(', ')}]`,
    );
  }
  if (repeats.every((count) => count === 1)) return input;
  // A repeat is a dimension of its own in front of the one that it repeats.
  const strides = stridesOf(shape);
  const doubled = {
    shape: shape.flatMap((dim, i) => [repeats[i] ?? 1, dim]),
    strides: strides.flatMap((s) => [0, s]),
  };
  const tiled = await gather(evaluator, site, input, doubled);
  if (tiled.kind !== 'constant') return tiled;
  return replaceShape(
    tiled,
    shape.map((dim, i) => dim * (repeats[i] ?? 1)),
  );
}

function repeatUnknown(site: Site, input: ConstantTensor): Constant {
  if (input.tensor.elementCount !== 1) return computedAtRunTime(site, ' (its shape is no constant)');
  return { ...input, kind: 'uniform' };
}

function stridesOf(shape: readonly number[]): number[] {
  const strides = Array<number>(shape.length).fill(1);
  for (let axis = shape.length - 2; axis >= 0; axis--) {
    strides[axis] = (strides[axis + 1] ?? 1) * (shape[axis + 1] ?? 1);
  }
  return strides;
}

/**
 * A tensor whose element at an index is the input's at the sum of index · stride: a view of what is stored, which is
 * gathered as it is read; in memory where the input is computed itself, so that chains are gathered once.
 */
async function gather(
  evaluator: Evaluator,
  site: Site,
  input: ConstantTensor,
  view: { readonly shape: readonly number[]; readonly strides: readonly number[] },
): Promise<Constant> {
  const { tensor } = input;
  const { name, dtype, range } = tensor;
  const { shape } = view;
  const elementCount = shape.reduce((product, dim) => product * dim, 1);
  if (Math.max(elementCount, tensor.elementCount) > MAX_COMPUTED_ELEMENTS) {
    return computedAtRunTime(site, ` (${elementCount} elements are too many to compute here)`);
  }
  if (bitsOf(dtype) < 8 || shape.length > 2 * MAX_RANK) return computedAtRunTime(site);
  const elementByteLength = bitsOf(dtype) / 8;
  const { readInto, byteLength, close } = stridedSource(range, {
    ...view,
    firstElement: 0,
    elementByteLength,
  });
  const source: ByteSource = { name, byteLength, readInto, close, computedFrom: range };
  const whole = { source, offset: 0, byteLength };
  if (range.source.computedFrom === undefined)
    return replaceTensor(input, { name, dtype, shape, elementCount, range: whole });
  if (!evaluator.reserve(byteLength)) return computedAtRunTime(site, ' (too much to compute here)');
  return replaceTensor(input, memoryTensor({ name, dtype, shape, bytes: await readRange(whole) }));
}

// Operators that change a constant's values or type (onnx/docs/Operators.md).

/** Cast: the same values in another type. */
async function applyCast(_evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const dtype = dtypeOf(Number(findAttribute(site, 'to')?.int ?? 0n));
  return dtype ? castTo(input, dtype, site) : computedAtRunTime(site);
}

function castTo(input: Resolved, dtype: DType, site: Site): Constant {
  const { tensor } = input;
  if (tensor.dtype === dtype) return input;
  // What a float becomes that is too large for an 8-bit type depends on the operator set.
  if (!isNumeric(tensor.dtype) || !isNumeric(dtype) || dtype.startsWith('F8')) return computedAtRunTime(site);
  return replaceTensor(input, mapTensor(tensor, { dtype, convert: async () => {} }));
}

/** The type comes from another tensor; where that is known at run time only, 0 and 1 are the same in every type. */
async function applyCastLike(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const like = await evaluator.evaluate(site.scope, site.node.inputs[1] ?? '');
  if (like.kind !== 'unresolved') return castTo(input, like.tensor.dtype, site);
  const { tensor } = input;
  if (tensor.elementCount > MAX_COMPUTED_ELEMENTS || !isDecodable(tensor.dtype))
    return computedAtRunTime(site);
  if (!evaluator.reserve(tensor.range.byteLength)) return computedAtRunTime(site);
  const values = await readNumbers(tensor);
  return values.every((value) => value === 0 || value === 1) ? input : computedAtRunTime(site);
}

/** y = (x − zero point) · scale, for the whole tensor or along an axis. Blocks (opset 21) are not followed. */
async function applyDequantize(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const { tensor } = input;
  const [, scaleName = '', zeroName = ''] = site.node.inputs;
  const scale = await evaluator.evaluate(site.scope, scaleName);
  if (scale.kind !== 'constant') return scale.kind === 'unresolved' ? scale : computedAtRunTime(site);
  const zero = zeroName === '' ? null : await evaluator.evaluate(site.scope, zeroName);
  if (zero !== null && zero.kind !== 'constant')
    return zero.kind === 'unresolved' ? zero : computedAtRunTime(site);
  const rank = tensor.shape.length;
  const axisAttribute = Number(findAttribute(site, 'axis')?.int ?? 1n);
  const axis = rank === 1 ? 0 : axisAttribute < 0 ? axisAttribute + rank : axisAttribute;
  const count = scale.tensor.elementCount;
  const isPerTensor = count === 1;
  const isPerAxis = scale.tensor.shape.length === 1 && count === tensor.shape[axis];
  const zeroFits = zero === null || zero.tensor.elementCount === count;
  const areNumbers = isNumeric(tensor.dtype) && isDecodable(scale.tensor.dtype);
  if (
    !areNumbers ||
    !zeroFits ||
    !(isPerTensor || isPerAxis) ||
    (zero !== null && !isNumeric(zero.tensor.dtype))
  ) {
    return computedAtRunTime(site, ' (scale and zero point are neither per tensor nor per axis)');
  }
  checkComputedSize(evaluator, count, describeNode(site.node));
  const inner = isPerTensor ? tensor.elementCount : tensor.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const convert = dequantizer(scale.tensor, zero?.tensor ?? null, inner);
  return replaceTensor(input, mapTensor(tensor, { dtype: scale.tensor.dtype, convert }));
}

/** Reads scale and zero point with the first values, not while the file is opened. */
function dequantizer(scale: Tensor, zero: Tensor | null, inner: number) {
  let parameters: Promise<readonly [Float64Array, Float64Array | null]> | null = null;
  return async (values: Float64Array, first: number): Promise<void> => {
    parameters ??= Promise.all([readNumbers(scale), zero === null ? null : readNumbers(zero)]);
    const [scales, zeros] = await parameters;
    for (let i = 0; i < values.length; i++) {
      const at = Math.floor((first + i) / Math.max(inner, 1)) % scales.length;
      // The reference computes in float32.
      const difference = Math.fround((values[i] ?? 0) - (zeros?.[at] ?? 0));
      const product = difference * (scales[at] ?? Number.NaN);
      values[i] = scale.dtype === 'F64' ? product : Math.fround(product);
    }
  };
}

// Operators as onnx/docs/Operators.md defines them, as far as their result is exact and simple to say.

/** Operators whose first input determines what the output is about. */
const UNARY_OPERATORS: ReadonlyMap<string, Operator> = new Map<string, Operator>([
  ['Identity', async (_evaluator, _site, input) => input],
  ['Cast', applyCast],
  ['CastLike', applyCastLike],
  ['DequantizeLinear', applyDequantize],
  ['Reshape', applyReshape],
  ['Flatten', applyFlatten],
  ['Squeeze', applySqueeze],
  ['Unsqueeze', applyUnsqueeze],
  ['Transpose', applyTranspose],
  ['Expand', applyExpand],
  ['Tile', applyTile],
]);

/** Whether a constant is followed through this operator to its first input. */
export function isUnaryOperator(node: OnnxNode): boolean {
  return node.domain === '' && UNARY_OPERATORS.has(node.op);
}

/** Computes an {@link isUnaryOperator} node from its first input. */
export async function applyUnary(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const operator = UNARY_OPERATORS.get(site.node.op);
  if (operator === undefined) return computedAtRunTime(site);
  const output = await operator(evaluator, site, input);
  if (output.kind === 'unresolved') return output;
  const source = input.source.startsWith(site.node.op) ? input.source : `${site.node.op} of ${input.source}`;
  return { ...output, source };
}

/** Concat: constants one behind the other; along the first axis, or of vectors, which is all that statistics need. */
export async function applyConcat(evaluator: Evaluator, site: Site, name: string): Promise<Constant> {
  const parts: ConstantTensor[] = [];
  for (const input of site.node.inputs) {
    const part = await evaluator.evaluate(site.scope, input);
    if (part.kind === 'unresolved') return part;
    if (part.kind === 'uniform') return computedAtRunTime(site);
    parts.push(part);
    const elementCount = parts.reduce((sum, { tensor }) => sum + tensor.elementCount, 0);
    checkComputedSize(evaluator, elementCount, describeNode(site.node));
  }
  const [first] = parts;
  const axis = Number(findAttribute(site, 'axis')?.int ?? 1n);
  const isFirstAxis =
    first !== undefined && (axis === 0 || axis === -first.tensor.shape.length || opsetOf(site.scope) < 4);
  if (first === undefined || !isFirstAxis || bitsOf(first.tensor.dtype) < 8) return computedAtRunTime(site);
  const [, ...inner] = first.tensor.shape;
  const fits = parts.every(({ tensor }) => {
    const [, ...others] = tensor.shape;
    return tensor.dtype === first.tensor.dtype && others.join() === inner.join() && tensor.shape.length > 0;
  });
  if (!fits)
    throw evaluator.error(`${describeNode(site.node)}: expected tensors of one type and shape, found others`);
  if (!evaluator.reserve(parts.reduce((sum, { tensor }) => sum + tensor.range.byteLength, 0)))
    throw computesTooMuch(evaluator, describeNode(site.node));
  const bytes = Buffer.concat(await Promise.all(parts.map(({ tensor }) => readRange(tensor.range))));
  const shape = [parts.reduce((sum, { tensor }) => sum + (tensor.shape[0] ?? 0), 0), ...inner];
  const tensor = memoryTensor({ name, dtype: first.tensor.dtype, shape, bytes });
  const overridable = parts.some((part) => part.overridable);
  return { kind: 'constant', tensor, source: `Concat of ${first.source}`, overridable };
}

/** Shape: the dimensions of a constant, or with `start` and `end` (opset 15) some of them. */
export async function applyShape(evaluator: Evaluator, site: Site, name: string): Promise<Constant> {
  const input = await evaluator.evaluate(site.scope, site.node.inputs[0] ?? '');
  if (input.kind !== 'constant') return computedAtRunTime(site);
  const { shape } = input.tensor;
  const end = findAttribute(site, 'end');
  const dims = shape.slice(
    Number(findAttribute(site, 'start')?.int ?? 0n),
    end === null ? undefined : Number(end.int),
  );
  const bytes = new Uint8Array(BigInt64Array.from(dims, BigInt).buffer);
  const tensor = memoryTensor({ name, dtype: 'I64', shape: [dims.length], bytes });
  return { kind: 'constant', tensor, source: 'Shape', overridable: false };
}
