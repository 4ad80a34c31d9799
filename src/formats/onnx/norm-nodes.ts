// Finds the BatchNormalization nodes of a graph, how they run, and what stands beside them.

import type { ConstantInput, NormMode, NormNode } from '../../checkpoint/checkpoint.js';
import { isDecodable, isFloatingPoint } from '../../checkpoint/dtype.js';
import { CheckpointError, quote } from '../../errors.js';
import { type Constant, type Evaluator, readNumbers, repeatTensor } from './constant-sources.js';
import {
  calledBody,
  findProducer,
  findTile,
  findTrueName,
  followAliases,
  isStandard,
  nextName,
  type ScopedName,
  walkUpstream,
} from './follow.js';
import { describeNode, type OnnxNode } from './schema.js';
import {
  type Definition,
  describeSite,
  type Found,
  findAttribute,
  findName,
  opsetOf,
  pathFromNameScopes,
  pathFromNodeName,
  type Scope,
  type Site,
} from './scope.js';

/** A norm node and what tells whether another node is the same layer, called again. */
export interface BuiltNorm {
  readonly norm: NormNode;
  readonly definitions: readonly (Definition | null)[];
}

/**
 * Joins nodes that are one layer called several times: the same parameters and settings, and no path of another layer
 * (optimizers share equal initializers between layers).
 */
export function mergeCalls(built: readonly BuiltNorm[]): readonly NormNode[] {
  return groupCalls(built).map((indices) => {
    const calls = indices.flatMap((index) => built[index]?.norm ?? []);
    const [first, ...others] = calls;
    if (first === undefined) throw new RangeError('a layer without a node');
    return others.length === 0 ? first : joinCalls(first, calls);
  });
}

/** For each layer, in the order of {@link mergeCalls}, the indices of the nodes that are its calls; at least one. */
export function groupCalls(built: readonly BuiltNorm[]): readonly (readonly number[])[] {
  const ids = new Map<Definition, number>();
  const layers = new Map<string, number[]>();
  for (const [index, { norm, definitions }] of built.entries()) {
    const parts = definitions.map((definition) => {
      if (definition === null) return `none ${index}`;
      const id = ids.get(definition) ?? ids.size;
      ids.set(definition, id);
      return `${id}`;
    });
    const key = JSON.stringify([...parts, norm.epsilon, norm.momentum, norm.mode, layerPath(norm)]);
    const indices = layers.get(key);
    if (indices === undefined) layers.set(key, [index]);
    else indices.push(index);
  }
  return [...layers.values()];
}

/**
 * What tells a layer from others with the same parameters: its path. TorchScript's exporter numbers the modules of a
 * later call, so that `bn_1` with the parameters of `bn` is `bn`.
 */
function layerPath({ path, inputNames }: NormNode): string | null {
  const owner = /^(.+)\.running_mean$/.exec(inputNames[2])?.[1];
  if (owner === undefined || path === null) return path;
  const modules = owner.split('.');
  const called = path.split('.');
  const isNumbered = (name: string, i: number) =>
    name.replace(/_\d+$/, '') === modules[i] || name === modules[i];
  return called.length === modules.length && called.every(isNumbered) ? owner : path;
}

function joinCalls(first: NormNode, calls: readonly NormNode[]): NormNode {
  const neighbours = [...new Set(calls.flatMap((call) => call.neighbours))];
  const note = `runs at ${calls.length} places of the graph with the same parameters: one layer, listed once`;
  return { ...first, neighbours, notes: [...first.notes, note] };
}

/** X, scale, B, mean, var; a draft had one more. */
const INPUT_COUNT = 5;

/**
 * Which statistics the node normalises by (docs/Changelog.md, BatchNormalization 1 to 15).
 *
 * Until opset 6 `is_test` decides, and files that leave it out are ambiguous; until 13 the training form has further
 * outputs; from 14 on `training_mode` decides. A draft of opset 12 had training mode as a sixth input.
 */
async function findMode(evaluator: Evaluator, site: Site): Promise<NormMode> {
  const opset = opsetOf(site.scope);
  const { inputs, outputs } = site.node;
  const draftInput = inputs[INPUT_COUNT] ?? '';
  if (draftInput !== '') {
    const value = await evaluator.evaluate(site.scope, draftInput);
    if (value.kind === 'unresolved' || value.tensor.elementCount !== 1) return 'unknown';
    const [isTraining] = await readNumbers(value.tensor);
    return isTraining === 0 ? 'running' : 'batch';
  }
  const trainingMode = findAttribute(site, 'training_mode')?.int ?? 0n;
  if (opset >= 14) return trainingMode === 0n ? 'running' : 'batch';
  if (opset >= 7) return outputs.filter((name) => name !== '').length > 1 ? 'batch' : 'running';
  const isTest = findAttribute(site, 'is_test')?.int;
  if (isTest === undefined || opset === 0) return 'unknown';
  return isTest === 0n ? 'batch' : 'running';
}

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

/** Values of one statistic; with spatial = 0 channels × height × width. The widest layers have some thousands. */
const MAX_STATISTIC_ELEMENTS = 1 << 22;

/** ONNX's defaults (docs/Operators.md, BatchNormalization). */
const DEFAULT_EPSILON = 1e-5;
const DEFAULT_MOMENTUM = 0.9;

/** What building norm nodes needs beside the node. */
interface NormContext {
  readonly evaluator: Evaluator;
  readonly neighbours: NeighbourSearch;
  /** The index of a linear node in the graph; null for other nodes. */
  readonly linearIndex: (site: Site) => number | null;
}

/**
 * Reads a BatchNormalization node.
 *
 * @throws CheckpointError naming the node, where its inputs are missing, broken or do not fit each other.
 */
export async function buildNorm(context: NormContext, site: Site): Promise<BuiltNorm> {
  const { node, scope } = site;
  checkInputs(context, site);
  const opset = opsetOf(scope);
  const isSpatial = opset >= 9 || (findAttribute(site, 'spatial')?.int ?? 1n) !== 0n;
  const names: Untiled[] = [];
  for (const index of [1, 2, 3, 4]) names.push(await untile(context, site, node.inputs[index] ?? ''));
  const isTiled = names.some(({ isTiled }) => isTiled);
  const inputs = await readInputs(
    context,
    site,
    names.map(({ name }) => name),
    isSpatial,
  );
  const producer = findProducer(scope, node.inputs[0] ?? '');
  const [gamma = '', beta = '', mean = '', variance = ''] = names.map(({ name }) =>
    findTrueName(scope, name),
  );
  const norm: NormNode = {
    nodeName: node.name,
    path: pathFromNameScopes(node.notes.nameScopes) ?? pathFromNodeName(node.name),
    scope: scope.path,
    inputNames: [gamma, beta, mean, variance],
    ...inputs,
    epsilon: findAttribute(site, 'epsilon')?.float ?? DEFAULT_EPSILON,
    momentum: findAttribute(site, 'momentum')?.float ?? DEFAULT_MOMENTUM,
    mode: await findMode(context.evaluator, site),
    opset,
    neighbours: context.neighbours.find(scope, node.inputs[0] ?? ''),
    feedingLinear: producer === null ? null : context.linearIndex(producer),
    notes: describeOddities(site, { isSpatial, isTiled, inputs }),
  };
  return { norm, definitions: names.map(({ name }) => followAliases(scope, name)?.definition ?? null) };
}

function checkInputs({ evaluator }: NormContext, site: Site): void {
  const { inputs } = site.node;
  const missing = ['mean', 'var'].filter((_, i) => (inputs[i + 3] ?? '') === '');
  if (missing.length === 0) return;
  const found =
    inputs.length < INPUT_COUNT ? `${inputs.length}` : `an empty name for ${missing.join(' and ')}`;
  throw evaluator.error(
    `${describeSite(site)}: expected the five inputs X, scale, B, mean and var, found ${found}`,
  );
}

interface NormInputs {
  readonly gamma: ConstantInput;
  readonly beta: ConstantInput;
  readonly mean: ConstantInput;
  readonly variance: ConstantInput;
}

async function readInputs(
  context: NormContext,
  site: Site,
  names: readonly string[],
  isSpatial: boolean,
): Promise<NormInputs> {
  const labels = ['scale', 'bias', 'mean', 'variance'];
  const constants: (Constant | null)[] = [];
  for (const [i, name] of names.entries()) {
    const label = `the ${labels[i]} of ${describeSite(site)}`;
    const constant = await evaluateInput(context, site, name, label);
    if (constant !== null) checkVector(context, constant, isSpatial, label);
    constants.push(constant);
  }
  const [gamma = null, beta = null, mean = null, variance = null] = constants;
  const channels = commonLength(context, site, [mean, variance, gamma, beta]);
  return {
    gamma: await toInput(gamma, channels),
    beta: await toInput(beta, channels),
    mean: await toInput(mean, channels),
    variance: await toInput(variance, channels),
  };
}

/** Evaluates an input; errors say whose input it is. */
async function evaluateInput(
  { evaluator }: NormContext,
  site: Site,
  name: string,
  label: string,
): Promise<Constant | null> {
  if (name === '') return null;
  try {
    return await evaluator.evaluate(site.scope, name);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    const { code, file, offset, hint, cause } = error;
    throw new CheckpointError(`${label}: ${error.message}`, { code, file, offset, hint, cause });
  }
}

/** Scale, bias and statistics are one float for every channel; `[1, C, 1, 1]` says the same. */
function checkVector(
  { evaluator }: NormContext,
  constant: Constant,
  isSpatial: boolean,
  label: string,
): void {
  if (constant.kind === 'unresolved') {
    // A stored tensor without a DType (strings, 4-bit integers) can be no statistic at all.
    if (constant.isUndecodable === true) {
      throw evaluator.error(`${label}: expected a tensor of floats: ${constant.reason}`);
    }
    return;
  }
  const { tensor } = constant;
  if (!isFloatingPoint(tensor.dtype) || !isDecodable(tensor.dtype)) {
    throw evaluator.error(
      `${label}: expected floats, found tensor ${quote(tensor.name)} of type ${tensor.dtype}`,
    );
  }
  if (constant.kind === 'uniform') return;
  // Where the vector has more dimensions, channels are the second, as in a batch.
  const isVector = tensor.shape.length === 1 || tensor.shape.every((dim, axis) => dim === 1 || axis === 1);
  if (tensor.elementCount === 0 || (isSpatial && !isVector)) {
    const found = `found tensor ${quote(tensor.name)} of shape [${tensor.shape.join(', ')}]`;
    throw evaluator.error(`${label}: expected one value per channel, ${found}`);
  }
  if (tensor.elementCount > MAX_STATISTIC_ELEMENTS) {
    const message = `${label}: expected at most ${MAX_STATISTIC_ELEMENTS} values, found ${tensor.elementCount}`;
    throw evaluator.error(message, 'limit-exceeded');
  }
}

/** The number of channels that all constant inputs agree on; null where none of them tells. */
function commonLength(
  { evaluator }: NormContext,
  site: Site,
  constants: readonly (Constant | null)[],
): number | null {
  const lengths = constants.flatMap((item) => (item?.kind === 'constant' ? [item.tensor.elementCount] : []));
  const [first] = lengths;
  if (new Set(lengths).size <= 1) return first ?? null;
  const found = `found ${lengths.join(', ')} channels`;
  throw evaluator.error(
    `${describeSite(site)}: expected mean, variance, scale and bias of one length, ${found}`,
  );
}

/** An evaluated input as the graph shows it: a vector, and a value repeated at run time written out. */
export async function toInput(constant: Constant | null, channels: number | null): Promise<ConstantInput> {
  if (constant === null) return { kind: 'absent' };
  switch (constant.kind) {
    case 'unresolved':
      return constant;
    case 'constant':
      return { ...constant, tensor: { ...constant.tensor, shape: [constant.tensor.elementCount] } };
    case 'uniform': {
      if (channels === null) return { kind: 'unresolved', reason: 'its length is known at run time only' };
      const tensor = await repeatTensor(constant.tensor, [channels]);
      return { kind: 'constant', tensor, source: constant.source, overridable: constant.overridable };
    }
    default: {
      const never: never = constant;
      return never;
    }
  }
}

/** A parameter's name in front of the Tile that repeats it, if there is one. */
interface Untiled {
  readonly name: string;
  readonly isTiled: boolean;
}

/** The layer's own parameters are those in front of the Tile that repeats them. */
async function untile({ evaluator }: NormContext, site: Site, name: string): Promise<Untiled> {
  const tile = findTile(site.scope, name);
  if (tile === null) return { name, isTiled: false };
  const input = tile.node.inputs[0] ?? '';
  const constant = input === '' ? null : await evaluator.evaluate(site.scope, input);
  const isVector = constant?.kind === 'constant' && constant.tensor.shape.length === 1;
  return isVector ? { name: input, isTiled: true } : { name, isTiled: false };
}

function describeOddities(
  site: Site,
  facts: { readonly isSpatial: boolean; readonly isTiled: boolean; readonly inputs: NormInputs },
): readonly string[] {
  const { inputs } = facts;
  const overridable = Object.values(inputs).some((input) => input.kind === 'constant' && input.overridable);
  const notes: string[] = [];
  if (overridable)
    notes.push('its parameters are graph inputs as well: a caller may replace them at run time');
  if (!facts.isSpatial)
    notes.push('spatial = 0: one mean and one variance for every position of every channel');
  if (facts.isTiled) notes.push('its parameters are tiled over the batch, as InstanceNorm is exported');
  if (site.node.inputs.length > INPUT_COUNT)
    notes.push('a draft of the operator with training_mode as sixth input');
  if (opsetOf(site.scope) === 0) notes.push('the model imports no version of the standard operators');
  return notes;
}

/** What a warning calls norm-like operators of other domains; null for any other node. */
export function describeForeignNorm(site: Site): string | null {
  const { node } = site;
  const isForeign = node.domain !== '' && /batch_?norm/i.test(node.op);
  return isForeign ? `${describeNode(node)} of the domain ${quote(node.domain)}` : null;
}
