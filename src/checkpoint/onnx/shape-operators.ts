import { type ByteSource, readRange } from '../../io/byte-source.js';
import { stridedSource } from '../../io/strided-source.js';
import { bitsOf } from '../dtype.js';
import type { Constant, ConstantTensor, Evaluator } from './constant.js';
import { MAX_COMPUTED_ELEMENTS, readInts, readShape } from './constant-sources.js';
import { describeNode } from './model.js';
import { memoryTensor } from './numbers.js';
import { computedAtRunTime, type Resolved, replaceShape, replaceTensor } from './operator.js';
import { findAttribute, type Site } from './scope.js';
import { MAX_RANK } from './stored-tensor.js';

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
export async function applyReshape(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
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
export async function applyFlatten(_evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  if (input.kind === 'uniform') return input;
  const { shape } = input.tensor;
  const axis = Number(findAttribute(site, 'axis')?.int ?? 1n);
  const at = axis < 0 ? axis + shape.length : axis;
  const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
  return replaceShape(input, [product(shape.slice(0, at)), product(shape.slice(at))]);
}

/** Squeeze: without the dimensions of 1, or those that it names. */
export async function applySqueeze(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
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
export async function applyUnsqueeze(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
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
export async function applyTranspose(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
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
export async function applyExpand(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
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
export async function applyTile(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
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
