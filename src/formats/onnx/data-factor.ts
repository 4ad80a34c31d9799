// Tells what constant the data in front of a linear node is multiplied by, which an optimiser may move into the weight.

import type { DataFactor } from '../../checkpoint/checkpoint.js';
import { isNumeric, readNumbers } from '../../checkpoint/computed-elements.js';
import type { Evaluator } from './constants.js';
import { findProducer, isStandard, nextName, type ScopedName, walkUpstream } from './follow.js';
import type { OnnxNode } from './schema.js';
import type { Site } from './scope.js';

/** Nodes between a linear node and the activation in front of it, and within that. */
const MAX_STEPS = 24;

/** Operators that a factor passes. */
const PASSING = [
  ...['AveragePool', 'Cast', 'Dropout', 'Flatten', 'GlobalAveragePool', 'GlobalMaxPool', 'MaxPool', 'Pad'],
  ...['ReduceMean', 'Reshape', 'Squeeze', 'Transpose', 'Unsqueeze'],
];

/** What a gate is computed by, besides its Erf, Tanh or Clip. */
const ELEMENTWISE = ['Add', 'Cast', 'Clip', 'Div', 'Erf', 'Mul', 'Pow', 'Tanh'];

const isOneOf = (node: OnnxNode, operators: readonly string[]) =>
  operators.some((op) => isStandard(node, op));

/** A node that multiplies, divides or adds, as what is computed and the constant; null where both are computed. */
interface WithConstant {
  readonly rest: ScopedName;
  readonly value: number;
}

/**
 * The constant that a linear node's data is multiplied by, through poolings and reshapes. A gated activation counts as a whole:
 * 1 for a GELU, x · ½ · (1 + erf(x / √2)), for one with tanh and for x · clip(x + 3, 0, 6) / 6; 2 or 6 where its ½ or its ⅙ is
 * missing.
 */
export async function findDataFactor(evaluator: Evaluator, start: ScopedName): Promise<DataFactor> {
  let [at, value] = [start, 1];
  for (let step = 0; step < MAX_STEPS; step++) {
    const producer = findProducer(at.scope, at.name);
    if (producer === null) break;
    const { node, scope } = producer;
    const scaled = await readScaling(evaluator, producer);
    if (scaled !== null) [at, value] = [scaled.rest, value * scaled.value];
    else if (isOneOf(node, PASSING)) at = { scope, name: node.inputs[0] ?? '' };
    else {
      const gate = isStandard(node, 'Mul') ? await readGated(evaluator, producer) : null;
      const whole = value * (gate ?? 1);
      const lacking = [1, 2, 6].find((each) => Math.abs(whole / each - 1) < 2 ** -20);
      return { value: lacking ?? whole, isGated: gate !== null && lacking !== undefined };
    }
  }
  return { value, isGated: false };
}

/** Of x · gate(x): what the gate reaches to, times what x is multiplied by. Null where it is no such product. */
async function readGated(evaluator: Evaluator, { node, scope }: Site): Promise<number | null> {
  const names = node.inputs.map((name) => ({ scope, name }));
  for (const [one, other] of [names, names.toReversed()]) {
    if (one === undefined || other === undefined) return null;
    const limit = await readLimit(evaluator, other);
    if (limit === null) continue;
    const producer = findProducer(scope, one.name);
    const scaled = producer === null ? null : await readScaling(evaluator, producer);
    const { rest, value } = scaled ?? { rest: one, value: 1 };
    if (isComputedOf(other, rest)) return limit * value;
  }
  return null;
}

/** What a gate reaches to: 1 + erf(·) and 1 + tanh(·) to 2, clip(· + 3, 0, 6) to 6, times its constants; null for others. */
async function readLimit(evaluator: Evaluator, start: ScopedName): Promise<number | null> {
  let [at, factor] = [start, 1];
  for (let step = 0; step < MAX_STEPS; step++) {
    const producer = findProducer(at.scope, at.name);
    if (producer === null) return null;
    const scaled = await readScaling(evaluator, producer);
    if (scaled !== null) {
      [at, factor] = [scaled.rest, factor * scaled.value];
      continue;
    }
    const { node, scope } = producer;
    if (isStandard(node, 'Add')) {
      const sum = await splitConstant(evaluator, producer);
      const bounded = sum === null ? null : findProducer(sum.rest.scope, sum.rest.name);
      return sum?.value === 1 && bounded !== null && isOneOf(bounded.node, ['Erf', 'Tanh'])
        ? 2 * factor
        : null;
    }
    if (!isStandard(node, 'Clip')) return null;
    const [data = '', low = '', high = ''] = node.inputs;
    const shifted = findProducer(scope, data);
    const sum = shifted && isStandard(shifted.node, 'Add') ? await splitConstant(evaluator, shifted) : null;
    const [least, most] = [
      await readScalar(evaluator, { scope, name: low }),
      await readScalar(evaluator, { scope, name: high }),
    ];
    return sum?.value === 3 && least === 0 && most === 6 ? 6 * factor : null;
  }
  return null;
}

/** Whether elementwise operators compute one name of another: a gate that reads something else is the model's own. */
function isComputedOf(start: ScopedName, of: ScopedName): boolean {
  const source = findProducer(of.scope, of.name);
  const queue = [start];
  for (let step = 0; step < MAX_STEPS; step++) {
    const at = queue.shift();
    if (at === undefined) return false;
    const producer = findProducer(at.scope, at.name);
    if (at.name === of.name || (producer !== null && producer.node === source?.node)) return true;
    if (producer === null || !isOneOf(producer.node, ELEMENTWISE)) continue;
    queue.push(...producer.node.inputs.map((name) => ({ scope: producer.scope, name })));
  }
  return false;
}

/** A product with a constant, or a quotient by one, as a factor. */
async function readScaling(evaluator: Evaluator, site: Site): Promise<WithConstant | null> {
  if (!isOneOf(site.node, ['Mul', 'Div'])) return null;
  const found = await splitConstant(evaluator, site);
  if (found === null || found.value === 0 || !Number.isFinite(found.value)) return null;
  if (isStandard(site.node, 'Mul')) return found;
  const isDivisor = found.rest.name === site.node.inputs[0];
  return isDivisor ? { ...found, value: 1 / found.value } : null;
}

async function splitConstant(evaluator: Evaluator, { node, scope }: Site): Promise<WithConstant | null> {
  const [left = '', right = ''] = node.inputs;
  for (const [rest, name] of [
    [left, right],
    [right, left],
  ] as const) {
    const value = await readScalar(evaluator, { scope, name });
    if (value !== null) return { rest: { scope, name: rest }, value };
  }
  return null;
}

/** The one number that the file stores under a name; null for others and for what is computed. */
async function readScalar(evaluator: Evaluator, at: ScopedName): Promise<number | null> {
  const definition = [...walkUpstream(at, nextName)].at(-1)?.definition;
  const isStored =
    definition?.kind === 'initializer' ||
    (definition?.kind === 'node-output' && isStandard(definition.node, 'Constant'));
  const constant = isStored ? await evaluator.evaluateQuietly(at) : null;
  if (constant?.kind !== 'constant') return null;
  const { tensor } = constant;
  if (tensor.elementCount !== 1 || !isNumeric(tensor.dtype)) return null;
  return (await readNumbers(tensor))[0] ?? null;
}
