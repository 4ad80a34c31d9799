// Constants of a graph: those that the file stores, and what operators such as Transpose and Cast make of them.

import type { ConstantInput, Quantisation, Tensor } from '../../checkpoint/checkpoint.js';
import {
  computedTensor,
  dequantised,
  isInteger,
  isNumeric,
  mapElements,
  readNumbers,
} from '../../checkpoint/computed-elements.js';
import { bitsOf, type DType, encodeFloats, isDecodable, isFloatingPoint } from '../../checkpoint/dtype.js';
import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import { type ByteRange, memorySource, readRange, wholeOf } from '../../io/byte-source.js';
import { countElements, stridesOf } from '../../io/row-major.js';
import { stridedSource } from '../../io/views.js';
import { type HandingOperator, handingOperatorOf, nextName, type ScopedName } from './follow.js';
import {
  describeNode,
  FIELDS,
  type OnnxAttribute,
  type OnnxNode,
  type OnnxSparseTensor,
  type OnnxTensor,
} from './schema.js';
import {
  type Definition,
  describeScope,
  describeSite,
  type Found,
  findAttribute,
  findName,
  opsetOf,
  type Scope,
  type Site,
} from './scope.js';
import {
  checkShape,
  countFixedUnits,
  countVarints,
  dtypeOf,
  locateData,
  locateTensor,
  MAX_RANK,
  nameDataType,
  sumBytes,
  type TensorStore,
} from './stored-tensor.js';

/** A constant tensor and how the file supplies it. */
type ConstantTensor = Extract<ConstantInput, { readonly kind: 'constant' }>;

/** What a name comes to when everything that leads to it is constant, or why it comes to nothing. */
export type Constant =
  | ConstantTensor
  /** One value, repeated to a shape that is known at run time only. */
  | (Omit<ConstantTensor, 'kind'> & { readonly kind: 'uniform' })
  | {
      readonly kind: 'unresolved';
      readonly reason: string;
      /** Whether the file stores it, in a type that is not decoded: strings, 4-bit integers. */
      readonly isUndecodable?: boolean;
    };

type Resolved = Exclude<Constant, { kind: 'unresolved' }>;

/** A result that says why there is no constant. */
export function unresolved(reason: string): Extract<Constant, { readonly kind: 'unresolved' }> {
  return { kind: 'unresolved', reason };
}

/** The result of a node whose output is not followed here. */
function computedAtRunTime(site: Site, because = ''): Constant {
  return unresolved(`${describeSite(site)} computes it at run time${because}`);
}

function constant(tensor: Tensor, source: string, overridable = false): ConstantTensor {
  return { kind: 'constant', tensor, source, overridable };
}

/** Operators with several constant inputs, one inside the other; more than any exporter nests to build one vector. */
const MAX_NESTED_OPERATORS = 64;

/** Constants that are computed in memory, all of a model together; those that feed norm layers are vectors of a few kB. */
const MAX_COMPUTED_BYTES = 64 * 1024 * 1024;

/** The most elements of a tensor that is computed in memory; the widest norm layers have some thousand channels. */
const MAX_COMPUTED_ELEMENTS = 1 << 20;

/**
 * Finds out what names stand for: initializers, Constant nodes, and operators over them. Stored data stays where it
 * is; what has to be computed is either a view, or small and in memory. Results are kept, so a chain is walked once.
 */
export class Evaluator {
  readonly store: TensorStore;
  readonly #results = new Map<Definition, Constant>();
  readonly #active = new Set<Definition>();
  #nesting = 0;
  #computedBytes = 0;

  constructor(store: TensorStore) {
    this.store = store;
  }

  /**
   * Evaluates a name in a scope. One evaluation at a time.
   *
   * @throws CheckpointError `malformed` where nothing supplies the name, nodes form a cycle, or data is broken;
   *   `limit-exceeded` where a constant is too large to compute.
   */
  async evaluate(scope: Scope, name: string): Promise<Constant> {
    if (this.#nesting > MAX_NESTED_OPERATORS)
      return unresolved('it is computed by more operators than are followed');
    const chain: Found[] = [];
    this.#nesting++;
    try {
      let value = await this.#walkDown({ scope, name }, chain);
      // Applies the operators of the chain, from its base to the name that was asked for.
      for (const { scope, definition } of chain.toReversed()) {
        if (definition.kind === 'node-output' && value.kind !== 'unresolved')
          value = await applyHandingOn(this, { node: definition.node, scope }, value);
        this.#results.set(definition, value);
      }
      return value;
    } finally {
      this.#nesting--;
      for (const found of chain) this.#active.delete(found.definition);
    }
  }

  /** As {@link evaluate}; an error about the model becomes a reason, which is the business of whoever needs the value. */
  async evaluateQuietly({ scope, name }: ScopedName): Promise<Constant> {
    try {
      return await this.evaluate(scope, name);
    } catch (error) {
      if (error instanceof CheckpointError) return unresolved(error.message);
      throw error;
    }
  }

  /** Follows names that one other name determines; kept results end it, so chains may be of any length. */
  async #walkDown(start: ScopedName, chain: Found[]): Promise<Constant> {
    for (let at = start; ; ) {
      const found = findName(at.scope, at.name);
      if (found === null)
        throw this.error(`expected a tensor ${quote(at.name)}, found nothing that supplies it`);
      const { definition, name } = found;
      const known = this.#results.get(definition);
      if (known !== undefined) return known;
      if (this.#active.has(definition)) {
        const node = definition.kind === 'node-output' ? ` (${describeNode(definition.node)})` : '';
        throw this.error(`expected a constant, found ${quote(name)} computed from itself: a cycle${node}`);
      }
      this.#active.add(definition);
      chain.push(found);
      const next = nextName(found);
      if (next === null) return await this.#evaluateBase(found);
      if (next.name === '') return unresolved('the function call leaves this input out');
      at = next;
    }
  }

  async #evaluateBase({ scope, name, definition }: Found): Promise<Constant> {
    switch (definition.kind) {
      case 'initializer': {
        const { tensor, overridable } = definition;
        return locateConstant(this, tensor, { name, what: 'tensor', source: 'initializer', overridable });
      }
      case 'sparse-initializer': {
        const tensor = await makeDense(this, definition.tensor, name);
        return constant(tensor, 'sparse initializer', definition.overridable);
      }
      case 'graph-input': {
        const input = scope.isMain ? 'graph input' : 'input';
        const where = scope.isMain ? '' : ` of the subgraph ${describeScope(scope)}`;
        return unresolved(`the ${input} ${quote(name)}${where} supplies it at run time`);
      }
      case 'node-output': {
        const site = { node: definition.node, scope };
        const make = definition.node.domain === '' ? SOURCES.get(definition.node.op) : undefined;
        return make === undefined ? computedAtRunTime(site) : await make(this, site, name);
      }
      case 'bound':
        throw new Error('a bound name was not followed');
      default: {
        const never: never = definition;
        return never;
      }
    }
  }

  /** Notes bytes that are to be computed in memory; false where those of the whole model would become too many. */
  reserve(byteLength: number): boolean {
    this.#computedBytes += byteLength;
    return this.#computedBytes <= MAX_COMPUTED_BYTES;
  }

  /** As {@link reserve}; refuses what would become too many. */
  demand(byteLength: number, what: string): void {
    if (this.reserve(byteLength)) return;
    throw this.error(`${what}: expected constants that fit into memory, found too many`, 'limit-exceeded');
  }

  /** Refuses a tensor that is too large to be made in memory. */
  checkSize(elementCount: number, what: string): void {
    if (elementCount <= MAX_COMPUTED_ELEMENTS) return;
    const expected = `expected at most ${MAX_COMPUTED_ELEMENTS} elements`;
    throw this.error(`${what}: ${expected}, found ${elementCount}: too large`, 'limit-exceeded');
  }

  error(message: string, code?: CheckpointErrorCode): CheckpointError {
    return this.store.error(message, code);
  }
}

function memoryTensor(name: string, dtype: DType, shape: readonly number[], bytes: Uint8Array): Tensor {
  const range = wholeOf(memorySource(name, bytes));
  return { name, dtype, shape, elementCount: countElements(shape), range };
}

/** A tensor whose element at an index is the input's at the sum of index · stride, gathered as it is read. */
function viewTensor(input: Tensor, shape: readonly number[], strides: readonly number[]): Tensor {
  const { dtype, range } = input;
  const view = { shape, strides, firstElement: 0, elementByteLength: Math.ceil(bitsOf(dtype) / 8) };
  const { name, byteLength, readInto, close } = stridedSource(range, view);
  const packing = input.packedBits === undefined ? {} : { packedBits: input.packedBits };
  return { ...computedTensor(input, { dtype, shape }, { name, byteLength, readInto, close }), ...packing };
}

/** A tensor of one element, repeated to a shape of any size: nothing is allocated. */
export function repeatTensor(element: Tensor, shape: readonly number[]): Tensor {
  const strides = shape.map(() => 0);
  return viewTensor(element, shape, strides);
}

/** Makes the constant that a node without data inputs stands for, or one whose inputs are all alike. */
type Source = (evaluator: Evaluator, site: Site, name: string) => Promise<Constant>;

function locateConstant(
  { store }: Evaluator,
  stored: OnnxTensor,
  as: { name: string; what: string; source: string; overridable?: boolean },
): Constant {
  const tensor = locateTensor(stored, as.name, store);
  if (tensor !== null) return constant(tensor, as.source, as.overridable);
  const reason = `${as.what} ${quote(as.name)} has the type ${nameDataType(stored.dataType)}`;
  return { kind: 'unresolved', reason, isUndecodable: true };
}

/** The value of a Constant node, in any of its forms; those without a TensorProto came with opset 12. */
async function makeConstant(evaluator: Evaluator, site: Site, name: string): Promise<Constant> {
  const source = 'Constant';
  const stored = findAttribute(site, 'value')?.tensor;
  if (stored) return locateConstant(evaluator, stored, { name, what: 'constant', source });
  const sparse = findAttribute(site, 'sparse_value')?.sparseTensor;
  if (sparse) return constant(await makeDense(evaluator, sparse, name), 'sparse Constant');
  const float = findAttribute(site, 'value_float');
  if (float !== null)
    return constant(memoryTensor(name, 'F32', [], encodeFloats([float.float], 'F32')), source);
  const int = findAttribute(site, 'value_int');
  if (int !== null) return constant(integerTensor(name, [], [int.int]), source);
  const floats = findAttribute(site, 'value_floats');
  if (floats !== null) return constant(await attributeTensor(evaluator, floats, name, 'F32'), source);
  const ints = findAttribute(site, 'value_ints');
  if (ints !== null) return constant(await attributeTensor(evaluator, ints, name, 'I64'), source);
  return unresolved(`${describeNode(site.node)} holds no value that can be read`);
}

function integerTensor(name: string, shape: readonly number[], values: readonly bigint[]): Tensor {
  const view = new DataView(new ArrayBuffer(8 * values.length));
  for (const [i, value] of values.entries()) view.setBigInt64(8 * i, value, true);
  return memoryTensor(name, 'I64', shape, new Uint8Array(view.buffer));
}

/** A vector from an attribute's floats or ints, which stay in the file. */
async function attributeTensor(
  evaluator: Evaluator,
  attribute: OnnxAttribute,
  name: string,
  dtype: 'F32' | 'I64',
): Promise<Tensor> {
  const { store } = evaluator;
  // An attribute's values and a tensor's stand in the file alike.
  const [from, field] =
    dtype === 'F32'
      ? [FIELDS.attribute.floats, FIELDS.tensor.floatData]
      : [FIELDS.attribute.ints, FIELDS.tensor.int64Data];
  const segments = attribute.segments
    .filter((segment) => segment.field === from)
    .map((item) => ({ ...item, field }));
  // Packed varints tell their number only when they are read.
  if (dtype === 'I64') evaluator.checkSize(sumBytes(segments) / 2, `the integers of ${quote(name)}`);
  const elementCount =
    dtype === 'F32' ? countFixedUnits(segments, 4) : await countVarints(store.file, segments);
  const byteLength = (elementCount * bitsOf(dtype)) / 8;
  const what = `attribute ${quote(attribute.name)} of ${quote(name)}`;
  const range = locateData(segments, { field, dtype, byteLength, what }, store);
  return { name, dtype, shape: [elementCount], elementCount, range };
}

/**
 * Reads an attribute's integers, such as axes; null where the attribute is absent.
 *
 * @throws CheckpointError `limit-exceeded` for more integers than any operator takes.
 */
export async function readInts(evaluator: Evaluator, site: Site, name: string): Promise<number[] | null> {
  const attribute = findAttribute(site, name);
  if (attribute === null) return null;
  const what = describeNode(site.node);
  return await readShape(evaluator, await attributeTensor(evaluator, attribute, what, 'I64'), what);
}

/** Reads a tensor of dimensions or axes, no more of them than a shape can have. */
async function readShape(evaluator: Evaluator, tensor: Tensor, what: string): Promise<number[]> {
  const { dtype, elementCount } = tensor;
  if (dtype !== 'I64' && dtype !== 'I32')
    throw evaluator.error(`${what}: expected integers as a shape, found ${dtype}`);
  if (elementCount > MAX_RANK) {
    const message = `${what}: expected at most ${MAX_RANK} dims or axes, found ${elementCount}`;
    throw evaluator.error(message, 'limit-exceeded');
  }
  return [...(await readNumbers(tensor))];
}

/** ConstantOfShape: one value, repeated to a shape that is itself a constant. */
async function makeConstantOfShape(evaluator: Evaluator, site: Site, name: string): Promise<Constant> {
  const what = `${describeNode(site.node)}, which makes ${quote(name)}`;
  const value = findAttribute(site, 'value')?.tensor;
  const element = value
    ? locateTensor(value, name, evaluator.store)
    : memoryTensor(name, 'F32', [], new Uint8Array(4));
  if (element === null || element.elementCount !== 1)
    throw evaluator.error(`${what}: expected one number as its value, found something else`);
  const source = 'ConstantOfShape';
  const wanted = await evaluator.evaluate(site.scope, site.node.inputs[0] ?? '');
  if (wanted.kind !== 'constant') return { kind: 'uniform', tensor: element, source, overridable: false };
  const dims = await readShape(evaluator, wanted.tensor, what);
  const shape = checkShape(dims.map(BigInt), bitsOf(element.dtype), what, evaluator.store);
  return constant(repeatTensor(element, shape), source);
}

/** A sparse tensor written out. Indices are linear (`[NNZ]`) or one per dimension (`[NNZ, rank]`). */
async function makeDense(evaluator: Evaluator, sparse: OnnxSparseTensor, name: string): Promise<Tensor> {
  const what = `sparse tensor ${quote(name)}`;
  const values = locateTensor(sparse.values, name, evaluator.store);
  const indices = locateTensor(sparse.indices, `${name} (indices)`, evaluator.store);
  if (values === null || !isNumeric(values.dtype) || indices === null || indices.dtype !== 'I64')
    throw evaluator.error(`${what}: expected numbers and INT64 indices, found other types`);
  const shape = checkShape(sparse.dims, bitsOf(values.dtype), what, evaluator.store);
  const elementCount = countElements(shape);
  evaluator.checkSize(elementCount, what);
  evaluator.checkSize(indices.elementCount, what);
  const width = bitsOf(values.dtype) / 8;
  evaluator.demand(elementCount * width, what);
  const positions = linearIndices([...(await readNumbers(indices))], indices.shape, shape);
  if (positions.length !== values.elementCount) {
    const expected = `expected an index for each of ${values.elementCount} values`;
    throw evaluator.error(`${what}: ${expected}, found other dims`);
  }
  const stored = await readRange(values.range);
  const bytes = new Uint8Array(elementCount * width);
  if (new Set(positions).size < positions.length)
    throw evaluator.error(`${what}: expected each index once, found one twice (duplicate)`);
  for (const [i, position] of positions.entries()) {
    if (!(position >= 0 && position < elementCount)) {
      const expected = `expected indices within its ${elementCount} elements`;
      throw evaluator.error(`${what}: ${expected}, found one outside`);
    }
    bytes.set(stored.subarray(i * width, (i + 1) * width), position * width);
  }
  return memoryTensor(name, values.dtype, shape, bytes);
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

/** Concat: constants one behind the other; along the first axis, or of vectors, which is all that statistics need. */
async function applyConcat(evaluator: Evaluator, site: Site, name: string): Promise<Constant> {
  const what = describeNode(site.node);
  const parts: ConstantTensor[] = [];
  let count = 0;
  for (const input of site.node.inputs) {
    const part = await evaluator.evaluate(site.scope, input);
    if (part.kind === 'unresolved') return part;
    if (part.kind === 'uniform') return computedAtRunTime(site);
    parts.push(part);
    count += part.tensor.elementCount;
    evaluator.checkSize(count, what);
  }
  const tensors = parts.map(({ tensor }) => tensor);
  const [first] = tensors;
  const axis = readInt(site, 'axis', 1);
  const isFirstAxis =
    first !== undefined && (axis === 0 || axis === -first.shape.length || opsetOf(site.scope) < 4);
  if (first === undefined || !isFirstAxis || bitsOf(first.dtype) < 8) return computedAtRunTime(site);
  const inner = first.shape.slice(1);
  const fits = ({ dtype, shape }: Tensor) =>
    dtype === first.dtype && shape.slice(1).join() === inner.join() && shape.length > 0;
  if (!tensors.every(fits))
    throw evaluator.error(`${what}: expected tensors of one type and shape, found others`);
  evaluator.demand((count * bitsOf(first.dtype)) / 8, what);
  const bytes = Buffer.concat(await Promise.all(tensors.map(({ range }) => readRange(range))));
  const length = tensors.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0);
  const joined = memoryTensor(name, first.dtype, [length, ...inner], bytes);
  const overridable = parts.some((part) => part.overridable);
  return constant(joined, `Concat of ${parts[0]?.source}`, overridable);
}

/** Shape: the dimensions of a constant, or with `start` and `end` (opset 15) some of them. */
async function applyShape(evaluator: Evaluator, site: Site, name: string): Promise<Constant> {
  const input = await evaluator.evaluate(site.scope, site.node.inputs[0] ?? '');
  if (input.kind !== 'constant') return computedAtRunTime(site);
  const { shape } = input.tensor;
  const dims = shape.slice(readInt(site, 'start', 0), readInt(site, 'end', shape.length));
  return constant(integerTensor(name, [dims.length], dims.map(BigInt)), 'Shape');
}

/** Arithmetic, element by element; operators of one input leave the second out. */
const ARITHMETIC = new Map<string, (x: number, y: number) => number>([
  ['Add', (x, y) => x + y],
  ['Sub', (x, y) => x - y],
  ['Mul', (x, y) => x * y],
  ['Div', (x, y) => x / y],
  ['Sqrt', (x) => Math.sqrt(x)],
  ['Reciprocal', (x) => 1 / x],
]);

/** Whether a node computes its output of its inputs element by element, in a way that is followed. */
export function isArithmetic({ domain, op }: OnnxNode): boolean {
  return domain === '' && ARITHMETIC.has(op);
}

/** Results of so many elements are computed at once; larger ones of a large and a small operand, as they are read. */
const MAX_KEPT_RESULT = 1 << 16;

/** Results of results that are computed as they are read: each level costs every read as much again. */
const MAX_LEVELS = 4;

/**
 * What arithmetic makes of constants; of two, one must have the shape of the result. E.g. the W · (γ / √(v + ε)) that
 * onnxoptimizer writes in the place of a norm layer.
 */
async function applyArithmetic(evaluator: Evaluator, site: Site, name: string): Promise<Constant> {
  const operands: ConstantTensor[] = [];
  for (const input of site.node.inputs) {
    const operand = await evaluator.evaluate(site.scope, input);
    if (operand.kind === 'unresolved') return operand;
    const { dtype, quantised } = operand.tensor;
    if (operand.kind === 'uniform' || quantised !== undefined || !isDecodable(dtype))
      return computedAtRunTime(site);
    operands.push(operand);
  }
  const compute = ARITHMETIC.get(site.node.op);
  // One operand is as large as the result; what goes with it is small, and in memory.
  const [large, small = null, ...others] = operands.toSorted(
    (one, other) => other.tensor.elementCount - one.tensor.elementCount,
  );
  if (compute === undefined || large === undefined || others.length > 0) return computedAtRunTime(site);
  const { dtype, shape, elementCount } = large.tensor;
  const indices = small === null ? null : broadcast(small.tensor.shape, shape);
  const isMixed = small !== null && (indices === null || small.tensor.dtype !== dtype);
  if (countLevels(large.tensor.range) >= MAX_LEVELS) return computedAtRunTime(site);
  const kept = [small?.tensor.elementCount ?? 0, elementCount].filter((count) => count <= MAX_KEPT_RESULT);
  const isSmall = (small?.tensor.elementCount ?? 0) <= MAX_KEPT_RESULT;
  if (isMixed || !isSmall || !kept.every((count) => evaluator.reserve(8 * count)))
    return computedAtRunTime(site);
  const operand = small === null ? null : await readNumbers(small.tensor);
  const isLargeFirst = large === operands[0];
  const { run = Number.POSITIVE_INFINITY, indexOf = () => 0 } = indices ?? {};
  const mapped = mapConstant(large, dtype, async (values, first) => {
    for (let i = 0; i < values.length; ) {
      const end = Math.min(values.length, i + run - ((first + i) % run));
      const other = operand?.[indexOf(first + i)] ?? Number.NaN;
      for (; i < end; i++) {
        const value = values[i] as number;
        values[i] = isLargeFirst ? compute(value, other) : compute(other, value);
      }
    }
  });
  const source = `${site.node.op} of ${operands[0]?.source}`;
  const result = { ...mapped, source, overridable: operands.some(({ overridable }) => overridable) };
  if (result.kind !== 'constant' || elementCount > MAX_KEPT_RESULT) return result;
  return { ...result, tensor: memoryTensor(name, dtype, shape, await readRange(result.tensor.range)) };
}

/** How many times over what a range holds is computed when it is read. */
function countLevels({ source }: ByteRange): number {
  return source.computedFrom === undefined ? 0 : 1 + countLevels(source.computedFrom);
}

/** Where a broadcast tensor has the value for an index, and for how many indices in a row it is the same one. */
interface Broadcast {
  readonly run: number;
  readonly indexOf: (index: number) => number;
}

/** How a tensor is broadcast to a shape; null where it becomes larger than that. */
function broadcast(from: readonly number[], to: readonly number[]): Broadcast | null {
  const own = [...Array<number>(Math.max(0, to.length - from.length)).fill(1), ...from];
  if (own.length > to.length || own.some((size, axis) => size !== 1 && size !== to[axis])) return null;
  const [strides, inner] = [stridesOf(own), stridesOf(to)];
  const axes = own.flatMap((size, axis) =>
    size === 1 ? [] : [{ size, stride: strides[axis] ?? 0, inner: inner[axis] ?? 1 }],
  );
  return {
    run: axes.at(-1)?.inner ?? Number.POSITIVE_INFINITY,
    indexOf: (index) =>
      axes.reduce((at, { size, stride, inner: step }) => at + (Math.floor(index / step) % size) * stride, 0),
  };
}

const SOURCES: ReadonlyMap<string, Source> = new Map<string, Source>([
  ['Constant', makeConstant],
  ['ConstantOfShape', makeConstantOfShape],
  ['Concat', applyConcat],
  ['Shape', applyShape],
  ...[...ARITHMETIC.keys()].map((op) => [op, applyArithmetic] as const),
]);

function readInt(site: Site, name: string, otherwise: number): number {
  return Number(findAttribute(site, name)?.int ?? otherwise);
}

/** Computes a node's output from its first input; other inputs are evaluated on the way. */
type Operator = (evaluator: Evaluator, site: Site, input: Resolved) => Promise<Constant>;

function replaceShape(input: ConstantTensor, shape: readonly number[]): Constant {
  const { tensor } = input;
  if (tensor.quantised === undefined) return { ...input, tensor: { ...tensor, shape } };
  const quantised = reshapeQuantised(tensor.quantised, shape);
  return quantised === undefined
    ? unresolved(`the scales of ${quote(tensor.name)} belong to an axis that another shape takes apart`)
    : { ...input, tensor: { ...tensor, shape, quantised } };
}

// Operators that change a constant's shape or order (onnx/docs/Operators.md).

/** The integers of the second input, or before the opset that made them one, of an attribute; null where absent. */
async function readOperand(
  evaluator: Evaluator,
  site: Site,
  attribute: string,
): Promise<number[] | null | Constant> {
  const name = site.node.inputs[1] ?? '';
  if (name === '') return await readInts(evaluator, site, attribute);
  const value = await evaluator.evaluate(site.scope, name);
  if (value.kind !== 'constant') return value;
  return await readShape(evaluator, value.tensor, describeNode(site.node));
}

/** −1 stands for what is left, 0 for the input's dimension unless `allowzero` says otherwise. */
async function applyReshape(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const dims = await readOperand(evaluator, site, 'shape');
  if (input.kind === 'uniform') return input;
  if (dims === null) return computedAtRunTime(site);
  if (!Array.isArray(dims)) return computedAtRunTime(site, ' (its shape is no constant)');
  const { tensor } = input;
  const allowsZero = readInt(site, 'allowzero', 0) !== 0;
  const shape = dims.map((dim, i) => (dim === 0 && !allowsZero ? (tensor.shape[i] ?? 0) : dim));
  const known = countElements(shape.filter((dim) => dim !== -1));
  const full = shape.map((dim) => (dim === -1 ? tensor.elementCount / known : dim));
  if (countElements(full) !== tensor.elementCount || full.some((dim) => !Number.isInteger(dim) || dim < 0)) {
    const expected = `expected a shape of ${tensor.elementCount} elements`;
    throw evaluator.error(`${describeNode(site.node)}: ${expected}, found [${dims.join(', ')}]`);
  }
  return replaceShape(input, full);
}

/** Flatten: a matrix, split at an axis. */
async function applyFlatten(_evaluator: unknown, site: Site, input: Resolved): Promise<Constant> {
  if (input.kind === 'uniform') return input;
  const { shape } = input.tensor;
  const axis = readInt(site, 'axis', 1);
  const at = axis < 0 ? axis + shape.length : axis;
  return replaceShape(input, [countElements(shape.slice(0, at)), countElements(shape.slice(at))]);
}

/** Squeeze: without the dimensions of 1, or those that it names. */
async function applySqueeze(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const axes = await readOperand(evaluator, site, 'axes');
  if (input.kind === 'uniform') return input;
  if (axes !== null && !Array.isArray(axes)) return computedAtRunTime(site, ' (its axes are no constant)');
  const { shape } = input.tensor;
  const dropped = new Set((axes ?? []).map((axis) => (axis < 0 ? axis + shape.length : axis)));
  const isDropped = (dim: number, axis: number) => (axes === null ? dim === 1 : dropped.has(axis));
  if (shape.some((dim, axis) => isDropped(dim, axis) && dim !== 1)) {
    const found = `found [${shape.join(', ')}]`;
    throw evaluator.error(`${describeNode(site.node)}: expected dims of 1 to drop, ${found}`);
  }
  const kept = shape.filter((dim, axis) => !isDropped(dim, axis));
  return replaceShape(input, kept);
}

/** Unsqueeze: with dimensions of 1 where it names them. */
async function applyUnsqueeze(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const axes = await readOperand(evaluator, site, 'axes');
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
  const dims = input.tensor.shape;
  const perm = stated ?? [...dims.keys()].reverse();
  const isPermutation = perm.length === dims.length && new Set(perm).size === dims.length;
  if (!isPermutation || perm.some((axis) => dims[axis] === undefined)) {
    const expected = `expected a permutation of ${dims.length} axes`;
    throw evaluator.error(`${describeNode(site.node)}: ${expected}, found [${perm.join(', ')}]`);
  }
  const shape = perm.map((axis) => dims[axis] ?? 0);
  const moved = perm.filter((axis) => dims[axis] !== 1);
  // Moving dimensions of 1 about leaves the elements where they are.
  if (moved.every((axis, i) => i === 0 || axis > (moved[i - 1] ?? 0))) return replaceShape(input, shape);
  const strides = stridesOf(dims);
  const view = { shape, strides: perm.map((axis) => strides[axis] ?? 0) };
  const moveAxis = (axis: number) => perm.indexOf(axis);
  return await gather(evaluator, site, input, view, moveAxis);
}

/** Repeats dimensions of 1 (numpy's broadcasting). A shape known at run time only still leaves one value uniform. */
async function applyExpand(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  if (input.kind === 'uniform') return input;
  const wanted = await readOperand(evaluator, site, '');
  if (!Array.isArray(wanted)) return repeatUnknown(site, input);
  const { tensor } = input;
  const rank = Math.max(wanted.length, tensor.shape.length);
  const from = [...Array<number>(rank - tensor.shape.length).fill(1), ...tensor.shape];
  const to = [...Array<number>(rank - wanted.length).fill(1), ...wanted];
  const differs = from.some((dim, axis) => dim !== 1 && to[axis] !== 1 && dim !== to[axis]);
  if (differs || to.some((dim) => dim < 0)) {
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
  const repeats = await readOperand(evaluator, site, '');
  if (!Array.isArray(repeats)) return repeatUnknown(site, input);
  const { shape } = input.tensor;
  if (repeats.length !== shape.length || repeats.some((count) => count < 0)) {
    const expected = `expected ${shape.length} repeats`;
    throw evaluator.error(`${describeNode(site.node)}: ${expected}, found [${repeats.join(', ')}]`);
  }
  if (repeats.every((count) => count === 1)) return input;
  // A repeat is a dimension of its own in front of the one that it repeats.
  const tiled = await gather(evaluator, site, input, {
    shape: shape.flatMap((dim, i) => [repeats[i] ?? 1, dim]),
    strides: stridesOf(shape).flatMap((stride) => [0, stride]),
  });
  const repeated = shape.map((dim, i) => dim * (repeats[i] ?? 1));
  return tiled.kind === 'constant' ? replaceShape(tiled, repeated) : tiled;
}

function repeatUnknown(site: Site, input: ConstantTensor): Constant {
  if (input.tensor.elementCount !== 1) return computedAtRunTime(site, ' (its shape is no constant)');
  return { ...input, kind: 'uniform' };
}

/** A view of what is stored; in memory where the input is computed itself, so that chains are gathered once. */
async function gather(
  evaluator: Evaluator,
  site: Site,
  input: ConstantTensor,
  { shape, strides }: { readonly shape: readonly number[]; readonly strides: readonly number[] },
  moveAxis: (axis: number) => number = () => -1,
): Promise<Constant> {
  const { quantised, ...tensor } = input.tensor;
  const elementCount = countElements(shape);
  if (Math.max(elementCount, tensor.elementCount) > MAX_COMPUTED_ELEMENTS)
    return computedAtRunTime(site, ` (${elementCount} elements are too many to compute here)`);
  if (bitsOf(tensor.dtype) < 8 || shape.length > 2 * MAX_RANK) return computedAtRunTime(site);
  const view = viewTensor(tensor, shape, strides);
  if (tensor.range.source.computedFrom === undefined) return { ...input, tensor: view };
  if (!evaluator.reserve(view.range.byteLength))
    return computedAtRunTime(site, ' (too much to compute here)');
  const bytes = await readRange(view.range);
  const made = { ...view, ...memoryTensor(view.name, view.dtype, shape, bytes) };
  if (quantised === undefined) return { ...input, tensor: made };
  const axis = quantised.axis === null ? null : moveAxis(quantised.axis);
  if (axis !== null && (axis < 0 || quantised.blockSize !== undefined))
    return computedAtRunTime(site, ' (its scales belong to blocks, or an axis that is repeated)');
  const codes = viewTensor(quantised.codes, shape, strides);
  return { ...input, tensor: { ...made, quantised: { ...quantised, codes, axis } } };
}

// Operators that change a constant's values or type (onnx/docs/Operators.md).

/** The constant with elements that are computed from its own, as {@link mapElements} does. */
function mapConstant(
  input: Resolved,
  dtype: DType,
  change?: (values: Float64Array, first: number) => Promise<void>,
): Resolved {
  return { ...input, tensor: mapElements(input.tensor, dtype, change) };
}

/** Cast: the same values in another type. */
async function applyCast(_evaluator: unknown, site: Site, input: Resolved): Promise<Constant> {
  const dtype = dtypeOf(readInt(site, 'to', 0));
  return dtype ? castTo(input, dtype, site) : computedAtRunTime(site);
}

function castTo(input: Resolved, dtype: DType, site: Site): Constant {
  const from = input.tensor.dtype;
  if (from === dtype) return input;
  // What a float becomes that is too large for an 8-bit type depends on the operator set.
  if (!isNumeric(from) || !isNumeric(dtype) || dtype.startsWith('F8')) return computedAtRunTime(site);
  return mapConstant(input, dtype);
}

/** The type comes from another tensor; where that is known at run time only, 0 and 1 are the same in every type. */
async function applyCastLike(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const like = await evaluator.evaluate(site.scope, site.node.inputs[1] ?? '');
  if (like.kind !== 'unresolved') return castTo(input, like.tensor.dtype, site);
  const { tensor } = input;
  const isSmall = tensor.elementCount <= MAX_COMPUTED_ELEMENTS && isDecodable(tensor.dtype);
  if (!isSmall || !evaluator.reserve(tensor.range.byteLength)) return computedAtRunTime(site);
  const values = await readNumbers(tensor);
  return values.every((value) => value === 0 || value === 1) ? input : computedAtRunTime(site);
}

/** y = (x − zero point) · scale, for the whole tensor, along an axis, or by blocks along it (opset 21). */
async function applyDequantize(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  // Codes that QuantizeLinear would make of a constant were never stored: the constant itself was.
  if (isFloatingPoint(input.tensor.dtype) && !input.tensor.dtype.startsWith('F8')) return input;
  const [, scaleName = '', zeroName = ''] = site.node.inputs;
  const scale = await evaluator.evaluate(site.scope, scaleName);
  const zero = zeroName === '' ? null : await evaluator.evaluate(site.scope, zeroName);
  const [axis, blockSize] = [readInt(site, 'axis', 1), readInt(site, 'block_size', 0)];
  return dequantise(evaluator, site, input, { scale, zero, axis, blockSize });
}

/**
 * The floats that codes stand for, computed as they are read, with what {@link Quantisation} tells of them.
 *
 * @param steps constants of one value, of one for each index along an axis, or for each block of such indices; no zero
 *   point is zero.
 */
export async function dequantise(
  evaluator: Evaluator,
  site: Site,
  codes: Resolved,
  steps: {
    readonly scale: Constant;
    readonly zero: Constant | null;
    readonly axis: number;
    readonly blockSize?: number;
  },
): Promise<Constant> {
  const { scale, zero, axis: stated, blockSize = 0 } = steps;
  if (scale.kind !== 'constant') return scale.kind === 'unresolved' ? scale : computedAtRunTime(site);
  if (zero !== null && zero.kind !== 'constant')
    return zero.kind === 'unresolved' ? zero : computedAtRunTime(site);
  const { tensor } = codes;
  const rank = tensor.shape.length;
  const axis = rank === 1 ? 0 : stated < 0 ? stated + rank : stated;
  const count = scale.tensor.elementCount;
  const isPerTensor = count === 1;
  const isPerAxis = scale.tensor.shape.length === 1 && count === tensor.shape[axis];
  const blocks = tensor.shape.map((size, at) => (at === axis ? Math.ceil(size / blockSize) : size));
  const isPerBlock = blockSize > 0 && blocks.join() === scale.tensor.shape.join();
  const isZeroNumeric = zero === null || isNumeric(zero.tensor.dtype);
  const zeroFits = zero === null || zero.tensor.elementCount === count || zero.tensor.elementCount === 1;
  const areCodes = isInteger(tensor.dtype) || tensor.dtype.startsWith('F8');
  const areNumbers = areCodes && isDecodable(scale.tensor.dtype) && isZeroNumeric;
  if (!areNumbers || !zeroFits || !(isPerTensor || isPerBlock || (isPerAxis && blockSize === 0)))
    return computedAtRunTime(
      site,
      ' (scale and zero point are neither per tensor nor per axis nor per block)',
    );
  evaluator.checkSize(count, describeNode(site.node));
  const zeroPoint = zero?.tensor ?? null;
  const quantised = {
    codes: tensor,
    scale: scale.tensor,
    zeroPoint,
    axis: isPerTensor ? null : axis,
    ...(isPerBlock && !isPerTensor ? { blockSize } : {}),
  };
  return { ...codes, tensor: dequantised(quantised, scale.tensor.dtype) };
}

/** A constant of floats, each multiplied by that of another, which has one value, in float64. */
export function multiplyConstants(evaluator: Evaluator, input: Constant, factor: Constant): Constant {
  if (input.kind === 'unresolved' || factor.kind === 'unresolved')
    return input.kind === 'unresolved' ? input : factor;
  const areFloats = isDecodable(input.tensor.dtype) && isDecodable(factor.tensor.dtype);
  if (!areFloats || factor.tensor.elementCount !== 1) return unresolved('its scale is no number');
  evaluator.checkSize(input.tensor.elementCount, 'a scale');
  return mapConstant(input, 'F64', async (values) => {
    const [by = Number.NaN] = await readNumbers(factor.tensor);
    for (let i = 0; i < values.length; i++) values[i] = (values[i] ?? Number.NaN) * by;
  });
}

/**
 * How a tensor is quantised once it has another shape of as many elements; undefined where the axis of its scales is gone.
 * E.g. scales of the 8 of [8, 3] go with the 8 of [1, 8, 3, 1].
 */
function reshapeQuantised(
  { codes, axis, ...rest }: Quantisation,
  shape: readonly number[],
): Quantisation | undefined {
  if (rest.blockSize !== undefined && codes.shape.join() !== shape.join()) return undefined;
  const reshaped = { ...rest, codes: { ...codes, shape } };
  if (axis === null) return { ...reshaped, axis };
  const outer = countElements(codes.shape.slice(0, axis));
  const moved = shape.findIndex(
    (size, at) => size === codes.shape[axis] && countElements(shape.slice(0, at)) === outer,
  );
  return moved < 0 ? undefined : { ...reshaped, axis: moved };
}

/** How the operators that {@link nextName} goes through compute their output (onnx/docs/Operators.md). */
const OPERATORS: Readonly<Record<HandingOperator, Operator>> = {
  Identity: async (_evaluator, _site, input) => input,
  Cast: applyCast,
  CastLike: applyCastLike,
  // The codes that it would make are seen through: see applyDequantize.
  QuantizeLinear: async (_evaluator, _site, input) => input,
  DequantizeLinear: applyDequantize,
  Reshape: applyReshape,
  Flatten: applyFlatten,
  Squeeze: applySqueeze,
  Unsqueeze: applyUnsqueeze,
  Transpose: applyTranspose,
  Expand: applyExpand,
  Tile: applyTile,
};

/** Computes a node's output from the constant of its first input; other nodes leave it as it is. */
async function applyHandingOn(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const op = handingOperatorOf(site.node);
  if (op === null) return input;
  const output = await OPERATORS[op](evaluator, site, input);
  if (output.kind === 'unresolved' || input.source.startsWith(op)) return output;
  return { ...output, source: `${op} of ${output.source}` };
}
