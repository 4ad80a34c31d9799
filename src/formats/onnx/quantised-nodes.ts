// Linear operators on quantised weights: which of their inputs are what, and what their codes stand for.

import {
  type Constant,
  type ConstantEvaluator,
  dequantise,
  multiplyConstants,
  unresolved,
} from './constants.js';
import { findProducer, isStandard } from './follow.js';
import type { OnnxNode } from './schema.js';
import type { Site } from './scope.js';

/** Inputs of an operator that multiplies codes by a quantised weight, by their places. */
interface QuantisedOperator {
  readonly op: 'Conv' | 'Gemm' | 'MatMul';
  readonly weight: number;
  readonly zeroPoint: number;
  /** The weight's scale; null where a Mul behind the node multiplies by it. */
  readonly scale: number | null;
  /** Null where an Add behind the node adds it. */
  readonly bias: number | null;
  /** The data's scale, where the bias is stored in steps of it times the weight's; null where it is stored as floats. */
  readonly dataScale: number | null;
}

const QLINEAR = { weight: 3, scale: 4, zeroPoint: 5, dataScale: 1 } as const;
const INTEGER = { weight: 1, scale: null, zeroPoint: 3, bias: null, dataScale: null } as const;

/** By domain and name: ONNX's own, and ONNX Runtime's (docs/ContribOperators.md). */
const OPERATORS: ReadonlyMap<string, QuantisedOperator> = new Map<string, QuantisedOperator>([
  ['QLinearConv', { op: 'Conv', ...QLINEAR, bias: 8 }],
  ['QLinearMatMul', { op: 'MatMul', ...QLINEAR, bias: null }],
  ['ConvInteger', { op: 'Conv', ...INTEGER }],
  ['MatMulInteger', { op: 'MatMul', ...INTEGER }],
  ['com.microsoft QGemm', { op: 'Gemm', ...QLINEAR, bias: 6 }],
  [
    'com.microsoft DynamicQuantizeMatMul',
    { op: 'MatMul', weight: 1, scale: 2, zeroPoint: 3, bias: 4, dataScale: null },
  ],
  [
    'com.microsoft MatMulIntegerToFloat',
    { op: 'MatMul', weight: 1, scale: 3, zeroPoint: 5, bias: 6, dataScale: null },
  ],
]);

/** What a node is of {@link OPERATORS}; null for any other. */
export function quantisedOperatorOf({ domain, op }: OnnxNode): QuantisedOperator | null {
  return OPERATORS.get(domain === '' ? op : `${domain} ${op}`) ?? null;
}

/** The floats that the codes of a weight stand for. */
export async function readQuantisedWeight(
  evaluator: ConstantEvaluator,
  { node, scope }: Site,
  {
    operator,
    outputAxis,
    scaling,
  }: { operator: QuantisedOperator; outputAxis: number; scaling: Site | null },
): Promise<Constant> {
  const at = async (index: number) => evaluator.evaluateQuietly({ scope, name: node.inputs[index] ?? '' });
  const codes = await at(operator.weight);
  if (codes.kind === 'unresolved') return codes;
  const zero = (node.inputs[operator.zeroPoint] ?? '') === '' ? null : await at(operator.zeroPoint);
  const scale = operator.scale === null ? await readScaling(evaluator, scaling) : await at(operator.scale);
  return dequantise(evaluator, { node, scope }, codes, { scale, zero, axis: outputAxis });
}

/** The floats of a bias: its own, or those that its codes stand for, in steps of the data's scale times the weight's. */
export async function readQuantisedBias(
  evaluator: ConstantEvaluator,
  { node, scope }: Site,
  { bias, scale, dataScale }: QuantisedOperator,
): Promise<Constant | null> {
  const at = async (index: number) => evaluator.evaluateQuietly({ scope, name: node.inputs[index] ?? '' });
  if (bias === null || (node.inputs[bias] ?? '') === '') return null;
  const stored = await at(bias);
  if (scale === null || dataScale === null || stored.kind === 'unresolved') return stored;
  const step = multiplyConstants(evaluator, await at(scale), await at(dataScale));
  return dequantise(evaluator, { node, scope }, stored, { scale: step, zero: null, axis: 0 });
}

/**
 * The weight's scale, of those that the Mul behind a product of integers multiplies by. Dynamic quantisation writes
 * Mul(product, Mul(scale of the data, scale of the weight)), and only the last is constant.
 */
async function readScaling(evaluator: ConstantEvaluator, scaling: Site | null): Promise<Constant> {
  for (let at = scaling, depth = 0; at !== null && depth < 2; depth++) {
    const { scope, node } = at;
    for (const name of node.inputs) {
      const constant = await evaluator.evaluateQuietly({ scope, name });
      if (constant.kind !== 'unresolved') return constant;
    }
    const producers = node.inputs.map((name) => findProducer(scope, name));
    at = producers.find((one) => one !== null && isStandard(one.node, 'Mul')) ?? null;
  }
  return unresolved('the scale of its weight is known at run time only');
}

/** Names of the scales and zero points that a node reads: settings of a quantiser, which nobody trains. */
export function listQuantiserInputs(node: OnnxNode): readonly string[] {
  if (['QuantizeLinear', 'DequantizeLinear'].some((op) => isStandard(node, op))) return node.inputs.slice(1);
  const operator = quantisedOperatorOf(node);
  if (operator !== null)
    return node.inputs.filter((_, index) => index !== operator.weight && index !== operator.bias);
  // QLinearAdd, QLinearGlobalAveragePool and their like.
  return /^QLinear|^QMoE/.test(node.op) ? node.inputs : [];
}
