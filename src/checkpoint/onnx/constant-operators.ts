import { readRange } from '../../io/byte-source.js';
import { bitsOf } from '../dtype.js';
import type { Constant, ConstantTensor, Evaluator } from './constant.js';
import { checkComputedSize, computesTooMuch } from './constant-sources.js';
import { describeNode, type OnnxNode } from './model.js';
import { memoryTensor } from './numbers.js';
import { computedAtRunTime, type Operator, type Resolved } from './operator.js';
import { findAttribute, opsetOf, type Site } from './scope.js';
import {
  applyExpand,
  applyFlatten,
  applyReshape,
  applySqueeze,
  applyTile,
  applyTranspose,
  applyUnsqueeze,
} from './shape-operators.js';
import { applyCast, applyCastLike, applyDequantize } from './value-operators.js';

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
