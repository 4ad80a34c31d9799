// Walks upstream in a graph: to the constant, the node or the input that a value comes from.

import { addTo, isGeneratedName } from '../../norm/naming.js';
import type { OnnxGraph, OnnxModel, OnnxNode, OnnxSparseTensor, OnnxTensor } from './schema.js';
import { type Definition, type Found, findName, type Scope, type Site, visitNodes } from './scope.js';

/** Names on one way upstream; a longer way ends at the name that was reached. */
const MAX_STEPS = 10_000;

/** A name in a scope. */
export interface ScopedName {
  readonly scope: Scope;
  readonly name: string;
}

/** Operators whose first input determines what the output is about, so that a constant is followed through them. */
const HANDING_OPERATORS = [
  ...(['Identity', 'Cast', 'CastLike', 'QuantizeLinear', 'DequantizeLinear'] as const),
  ...(['Reshape', 'Flatten'] as const),
  ...(['Squeeze', 'Unsqueeze', 'Transpose', 'Expand', 'Tile'] as const),
];

/** The name of such an operator. */
export type HandingOperator = (typeof HANDING_OPERATORS)[number];

/** The operator that a node is, if it determines its output by its first input alone; null for any other node. */
export function handingOperatorOf(node: OnnxNode): HandingOperator | null {
  return HANDING_OPERATORS.find((name) => isStandard(node, name)) ?? null;
}

/** The name that determines a definition: a call's argument, a body's output, an operator's data input; else null. */
export function nextName({ scope, definition }: Found): ScopedName | null {
  if (definition.kind === 'bound') return definition;
  if (definition.kind !== 'node-output') return null;
  const { node, index } = definition;
  const called = calledBody(scope, node);
  if (called !== null) return { scope: called, name: called.outputs[index] ?? '' };
  const [name = ''] = node.inputs;
  return handingOperatorOf(node) !== null && index === 0 && name !== '' ? { scope, name } : null;
}

/** The name that a definition hands on as it is: a call's argument, a body's output, the input of an Identity. */
function nextShared(found: Found): ScopedName | null {
  const { scope, definition } = found;
  const isOperator = definition.kind === 'node-output' && calledBody(scope, definition.node) === null;
  return isOperator && !isStandard(definition.node, 'Identity') ? null : nextName(found);
}

/** As {@link nextShared}, but for what an Identity of the main graph names: names there are the model's own. */
function nextAlias(found: Found): ScopedName | null {
  const { scope, definition } = found;
  const isOwn =
    scope.isMain && definition.kind === 'node-output' && calledBody(scope, definition.node) === null;
  return isOwn ? null : nextShared(found);
}

/** The scope of the local function that a node calls; null where it is an operator. */
function calledBody(scope: Scope, node: OnnxNode): Scope | null {
  const [body] = scope.bodies.get(node) ?? [];
  // A subgraph sees the names around it, a function sees none.
  return body !== undefined && body.parent === null ? body : null;
}

/**
 * The definitions on the way upstream from a name, its own first. E.g. of what a norm layer in a function reads: the
 * function's input, then the initializer that the call hands in.
 *
 * @param next the name to go on with; null where the way ends.
 */
export function* walkUpstream(
  start: ScopedName,
  next: (found: Found) => ScopedName | null,
): Generator<Found, void> {
  let at: ScopedName | null = start;
  for (let step = 0; at !== null && step < MAX_STEPS; step++) {
    const found = findName(at.scope, at.name);
    if (found === null) return;
    yield found;
    at = next(found);
  }
}

/**
 * The definition behind a name: function inputs are followed to the call, outputs of calls into the function, and
 * outside the main graph, where names are not the model's own, Identity to its input.
 *
 * @returns null where nothing defines the name.
 */
export function followAliases(scope: Scope, name: string): Found | null {
  return [...walkUpstream({ scope, name }, nextAlias)].at(-1) ?? null;
}

/** The node that computes a name, across calls and through every Identity; null for what no node computes. */
export function findProducer(scope: Scope, name: string): Site | null {
  const found = followToOrigin(scope, name)?.found;
  return found?.definition.kind === 'node-output'
    ? { node: found.definition.node, scope: found.scope }
    : null;
}

/** As {@link findProducer}, through nodes that only quantise what another has computed, and turn it back. */
export function findComputation(scope: Scope, name: string): Site | null {
  let producer = findProducer(scope, name);
  for (let step = 0; producer !== null && step < MAX_STEPS && isQuantiser(producer.node); step++)
    producer = findProducer(producer.scope, producer.node.inputs[0] ?? '');
  return producer;
}

/**
 * The Tile in a node's own scope that repeats one of its inputs: PyTorch exports InstanceNorm with running statistics as a
 * BatchNormalization over batch · channels, whose parameters are repeated so.
 */
export function findTile(scope: Scope, name: string): Site | null {
  const producer = findProducer(scope, name);
  const isTile = producer !== null && isStandard(producer.node, 'Tile') && producer.scope === scope;
  return isTile ? producer : null;
}

/**
 * The name that a tensor bears in the model: that of the initializer, or of the Identity that recreates a name which
 * the exporter shared; made-up names of intermediate results give way to the initializer's behind them.
 */
export function findTrueName(scope: Scope, name: string): string {
  if (name === '') return '';
  const found = followAliases(scope, name);
  if (found === null) return name;
  if (!isMadeUp(found) && found.scope.isMain) return nameOfStored(found);
  for (const at of walkUpstream(found, nextName)) {
    if (at.definition.kind === 'initializer' || at.definition.kind === 'sparse-initializer')
      return nameOfStored(at);
    if (at.definition !== found.definition && at.scope.isMain && !isMadeUp(at)) return at.name;
  }
  return found.name;
}

/** Whether a tool made a name up; those of what QuantizeLinear and DequantizeLinear give are the quantiser's. */
function isMadeUp({ name, definition }: Found): boolean {
  return (definition.kind === 'node-output' && isQuantiser(definition.node)) || isGeneratedName(name);
}

/** Whether a node turns values into codes, or codes into what they stand for. */
export function isQuantiser(node: OnnxNode): boolean {
  return isStandard(node, 'QuantizeLinear') || isStandard(node, 'DequantizeLinear');
}

/** A name that is no code's, or what a quantiser has made it of. */
function nameOfStored({ name, definition }: Found): string {
  const areCodes = definition.kind === 'initializer' && INTEGER_TYPES.has(definition.tensor.dataType);
  return areCodes ? nameOfCodes(name) : name;
}

/** UINT8, INT8, UINT16, INT16, INT32, UINT4 and INT4 of TensorProto.DataType: what weights and biases are quantised to. */
const INTEGER_TYPES: ReadonlySet<number> = new Set([2, 3, 4, 5, 6, 21, 22]);

/** What was quantised to codes of a name: ONNX Runtime calls those of `conv.weight` `conv.weight_quantized`. */
export function nameOfCodes(name: string): string {
  return name.replace(/_quantized$/, '');
}

/**
 * Whether a node is an operator of the standard domain. ONNX Runtime has the quantisers in its own too, for types that
 * the model's operator set knows none of.
 */
export function isStandard(node: OnnxNode, op: string): boolean {
  const isOfRuntime = node.domain === 'com.microsoft' && /^(?:Dequantize|Quantize)Linear$/.test(op);
  return node.op === op && (node.domain === '' || isOfRuntime);
}

/** Names looked at for all norm nodes together. Real models need some dozens for each. */
const MAX_SEARCH_STEPS = 2_000_000;

/** Operators whose constants are settings rather than parameters: scales of Resize, bounds of Clip. */
const OPERATORS_WITH_SETTINGS = new Set([
  ...['Clip', 'Dropout', 'Expand', 'Gather', 'Max', 'Min', 'OneHot', 'Pad', 'Pow', 'Reshape', 'Resize'],
  ...['ReduceMean', 'ReduceSum', 'Slice', 'Split', 'Tile', 'TopK', 'Upsample', 'Where'],
]);

/** Operators that may carry a parameter (a bias, a slope) and whose data input leads on to the layer before. */
const ELEMENTWISE_OPERATORS = new Set(['Add', 'Div', 'Mul', 'PRelu', 'Sub', 'Sum']);

/** Finds the learned tensors that feed a name. */
export class NeighbourSearch {
  readonly #learnedNameOf: (name: string) => string | null;
  readonly #computed = new Map<Definition, readonly string[] | null>();
  #stepsLeft = MAX_SEARCH_STEPS;

  /** @param learnedNameOf the learned tensor that a name of the main graph stands for; null where it is none. */
  constructor(learnedNameOf: (name: string) => string | null) {
    this.#learnedNameOf = learnedNameOf;
  }

  /**
   * The learned inputs of the node that computes `name`; where it has none, those of the nearest nodes upstream that
   * have some, on every branch. Through elementwise operators the search goes on, so that a bias added behind a
   * matrix product does not hide the matrix.
   */
  find(scope: Scope, name: string): readonly string[] {
    const names = new Set<string>();
    const seen = new Set<Definition>();
    const queue: ScopedName[] = [{ scope, name }];
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      const found = findName(next.scope, next.name);
      if (found === null || seen.has(found.definition)) continue;
      seen.add(found.definition);
      if (seen.size > MAX_STEPS || --this.#stepsLeft < 0) break;
      queue.push(...this.#upstream(found, names).reverse());
    }
    return [...names];
  }

  /** Adds the learned inputs of the node behind a name, and returns the names to go on with. */
  #upstream(found: Found, names: Set<string>): ScopedName[] {
    const { scope, definition } = found;
    if (definition.kind === 'bound') return [definition];
    if (definition.kind === 'graph-input') {
      // What the node around a subgraph passes: Loop and Scan list it in the body's order.
      const { caller } = scope;
      const outer = caller?.node.inputs[scope.inputs.indexOf(found.name)] ?? '';
      return caller === null || outer === '' ? [] : [{ scope: caller.scope, name: outer }];
    }
    if (definition.kind !== 'node-output') return [];
    const { node, index } = definition;
    // A function's outputs, those of both branches of an If; a Loop's body returns its condition first.
    const bodies = scope.bodies.get(node);
    const at = isStandard(node, 'Loop') && calledBody(scope, node) === null ? index + 1 : index;
    if (bodies !== undefined) return bodies.map((body) => ({ scope: body, name: body.outputs[at] ?? '' }));
    const learned = parameterInputs(node).flatMap((name) => this.#learnedNames({ scope, name }) ?? []);
    for (const name of learned) names.add(name);
    const goesOn = learned.length === 0 || (node.domain === '' && ELEMENTWISE_OPERATORS.has(node.op));
    return goesOn ? node.inputs.filter((name) => name !== '').map((name) => ({ scope, name })) : [];
  }

  /**
   * The learned tensors that a name stands for, or is computed of. E.g. of W · γ / √(v + ε), of g · v / ‖v‖.
   *
   * @returns null where it is computed of data.
   */
  #learnedNames(at: ScopedName, depth = 0): readonly string[] | null {
    const learned = this.#learnedName(at);
    if (learned !== null) return [learned];
    const found = findName(at.scope, at.name);
    if (found === null || depth > MAX_COMPUTING_NODES || --this.#stepsLeft < 0) return null;
    const { definition } = found;
    const known = this.#computed.get(definition);
    if (known !== undefined) return known;
    // Until it is known, so that a cycle ends.
    this.#computed.set(definition, null);
    const operands = operandsOf(found);
    if (operands === null) return null;
    const names: string[] = [];
    for (const operand of operands) {
      const some = this.#learnedNames(operand, depth + 1);
      if (some === null) return null;
      if (operand.isParameter) names.push(...some);
    }
    this.#computed.set(definition, names);
    return names;
  }

  #learnedName(start: ScopedName): string | null {
    for (const { scope, name } of walkUpstream(start, nextName)) {
      const learned = scope.isMain ? this.#learnedNameOf(name) : null;
      if (learned !== null) return learned;
      if (--this.#stepsLeft < 0) break;
    }
    return null;
  }
}

/** Nodes one behind the other that compute a weight of what was learned; exporters of reparametrised ones write ten. */
const MAX_COMPUTING_NODES = 32;

/** What a definition is computed of; null for graph inputs, and where subgraphs compute it. */
function operandsOf(found: Found): readonly (ScopedName & { readonly isParameter: boolean })[] | null {
  const { scope, definition } = found;
  const next = nextName(found);
  if (next !== null) return [{ ...next, isParameter: true }];
  if (definition.kind !== 'node-output') return definition.kind === 'graph-input' ? null : [];
  const { node } = definition;
  if (scope.bodies.has(node)) return null;
  const parameters = OPERATORS_WITH_SETTINGS.has(node.op) ? node.inputs.slice(0, 1) : parameterInputs(node);
  return node.inputs
    .filter((name) => name !== '')
    .map((name) => ({ scope, name, isParameter: parameters.includes(name) }));
}

/** The inputs that may be parameters. A norm node's statistics are none. */
function parameterInputs(node: OnnxNode): readonly string[] {
  if (node.domain === '' && OPERATORS_WITH_SETTINGS.has(node.op)) return [];
  return isStandard(node, 'BatchNormalization') ? node.inputs.slice(0, 3) : node.inputs;
}

/** What stands behind a name once calls and Identity are followed: a stored tensor, or a node that computes it. */
export type Origin = OnnxTensor | OnnxSparseTensor | OnnxNode;

/** A place where a constant is read: an input of a node, or an output of a graph (node null). */
export interface Reader {
  readonly node: OnnxNode | null;
  readonly index: number;
  readonly scope: Scope;
  readonly mainName: string | null;
}

/**
 * Follows a name through function calls and Identity, also to outer scopes.
 *
 * @returns what stands there, and the first name of the main graph on the way, null where the way never leaves a subgraph
 *   or function; null where nothing defines the name.
 */
export function followToOrigin(scope: Scope, name: string) {
  let mainName: string | null = null;
  for (const found of walkUpstream({ scope, name }, nextShared)) {
    if (found.scope.isMain) mainName ??= found.name;
    if (nextShared(found) !== null) continue;
    const { definition } = found;
    const origin: Origin | null =
      'tensor' in definition ? definition.tensor : 'node' in definition ? definition.node : null;
    return { found, origin, mainName };
  }
  return null;
}

/** Everything that reads one of the origins, calls and Identity seen through. */
export function findReaders(
  model: OnnxModel,
  graph: OnnxGraph,
  { file, origins }: { readonly file: string; readonly origins: ReadonlySet<Origin> },
): ReadonlyMap<Origin, readonly Reader[]> {
  const readers = new Map<Origin, Reader[]>();
  const note = (scope: Scope, name: string, node: OnnxNode | null, index: number) => {
    const followed = name === '' ? null : followToOrigin(scope, name);
    if (followed?.origin == null || !origins.has(followed.origin)) return;
    addTo(readers, followed.origin, { node, index, scope, mainName: followed.mainName });
  };
  const sites: Site[] = [];
  const main = visitNodes(model, graph, file, (site) => sites.push(site));
  const scopes = new Set([main, ...sites.map(({ scope }) => scope)]);
  for (const { node, scope } of sites) {
    if (isStandard(node, 'Identity')) continue;
    for (const [index, name] of node.inputs.entries()) note(scope, name, node, index);
  }
  // What a subgraph returns is read where its node stands; a function's outputs are followed from their readers.
  for (const scope of scopes) {
    if (!scope.isMain && scope.parent === null) continue;
    for (const [index, name] of scope.outputs.entries()) note(scope, name, null, index);
  }
  return readers;
}
