import { calledBody, nextName } from './constants.js';
import { isStandard, type ScopedName, walkUpstream } from './follow.js';
import type { OnnxNode } from './model.js';
import { type Found, findName, type Scope } from './scope.js';

/** Names looked at for all norm nodes together. Real models need some dozens for each. */
const MAX_STEPS = 2_000_000;

/** Names looked at for one norm node; enough for the densest concatenations. */
const MAX_STEPS_EACH = 5_000;

/** Operators from a weight to the input that uses it (Cast, Transpose, …). */
const MAX_WEIGHT_STEPS = 100;

/** Operators whose constants are settings rather than parameters: scales of Resize, bounds of Clip. */
const OPERATORS_WITH_SETTINGS = new Set([
  ...['Clip', 'Dropout', 'Expand', 'Gather', 'Max', 'Min', 'OneHot', 'Pad', 'Pow', 'Reshape', 'Resize'],
  ...['ReduceMean', 'ReduceSum', 'Slice', 'Split', 'Tile', 'TopK', 'Upsample', 'Where'],
]);

/** Operators that may carry a parameter (a bias, a slope) and whose data input leads on to the layer before. */
const ELEMENTWISE_OPERATORS = new Set(['Add', 'Div', 'Mul', 'PRelu', 'Sub', 'Sum']);

/** Finds the learned tensors that feed a name. */
export class NeighbourSearch {
  readonly #isLearned: (name: string) => boolean;
  #stepsLeft = MAX_STEPS;

  /** @param isLearned whether a name of the main graph is a learned tensor's. */
  constructor(isLearned: (name: string) => boolean) {
    this.#isLearned = isLearned;
  }

  /**
   * The learned inputs of the node that computes `name`; where it has none, those of the nearest nodes upstream that
   * have some, on every branch. Through elementwise operators the search goes on, so that a bias added behind a
   * matrix product does not hide the matrix.
   */
  find(scope: Scope, name: string): readonly string[] {
    const names = new Set<string>();
    const seen = new Set<Found['definition']>();
    const queue: ScopedName[] = [{ scope, name }];
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      const found = findName(next.scope, next.name);
      if (found === null || seen.has(found.definition)) continue;
      seen.add(found.definition);
      if (seen.size > MAX_STEPS_EACH || --this.#stepsLeft < 0) break;
      queue.push(...this.#upstream(found, names).reverse());
    }
    return [...names];
  }

  /** Adds the learned inputs of the node behind a name, and returns the names to go on with. */
  #upstream(found: Found, names: Set<string>): ScopedName[] {
    const { scope, definition } = found;
    if (definition.kind === 'bound') return [{ scope: definition.scope, name: definition.name }];
    if (definition.kind === 'graph-input') return outerInput(found);
    if (definition.kind !== 'node-output') return [];
    const { node, index } = definition;
    if (calledBody(scope, node) !== null) return [nextName(found)].filter((next) => next !== null);
    const bodies = scope.bodies.get(node);
    if (bodies !== undefined)
      return bodies.map((body) => ({ scope: body, name: bodyOutput(node, body, index) }));
    const learned = parameterInputs(node)
      .map((input) => this.#learnedName(scope, input))
      .filter((name) => name !== null);
    for (const name of learned) names.add(name);
    const goesOn = learned.length === 0 || (node.domain === '' && ELEMENTWISE_OPERATORS.has(node.op));
    return goesOn ? node.inputs.filter((input) => input !== '').map((name) => ({ scope, name })) : [];
  }

  /** The learned tensor that an input comes from, if any. */
  #learnedName(scope: Scope, name: string): string | null {
    let steps = 0;
    for (const found of walkUpstream({ scope, name }, nextName)) {
      if (found.scope.isMain && this.#isLearned(found.name)) return found.name;
      if (++steps >= MAX_WEIGHT_STEPS) break;
    }
    return null;
  }
}

/** The inputs that may be parameters. A norm node's statistics are none. */
function parameterInputs(node: OnnxNode): readonly string[] {
  if (node.domain === '' && OPERATORS_WITH_SETTINGS.has(node.op)) return [];
  return isStandard(node, 'BatchNormalization') ? node.inputs.slice(0, 3) : node.inputs;
}

/** What the node around a subgraph passes as this input: Loop and Scan list them in the body's order. */
function outerInput({ scope, name }: Found): ScopedName[] {
  const { caller } = scope;
  if (caller === null) return [];
  const outer = caller.node.inputs[scope.inputs.indexOf(name)] ?? '';
  return outer === '' ? [] : [{ scope: caller.scope, name: outer }];
}

/** The name of a node's output inside its body; a Loop's body returns its condition first. */
function bodyOutput(node: OnnxNode, body: Scope, index: number): string {
  return body.outputs[isStandard(node, 'Loop') ? index + 1 : index] ?? '';
}
