// Finds the BatchNormalization nodes of a graph, how they run, and what stands beside them.

import type { ConstantInput, NormMode, NormNode } from '../../checkpoint/checkpoint.js';
import { readNumbers } from '../../checkpoint/computed-elements.js';
import { isDecodable, isFloatingPoint } from '../../checkpoint/dtype.js';
import { CheckpointError, quote } from '../../errors.js';
import { addTo } from '../../norm/naming.js';
import { type Constant, type Evaluator, repeatTensor } from './constants.js';
import {
  findComputation,
  findTile,
  findTrueName,
  followAliases,
  isStandard,
  type NeighbourSearch,
  type ScopedName,
} from './follow.js';
import { describeNode } from './schema.js';
import {
  type Definition,
  describeSite,
  findAttribute,
  opsetOf,
  pathFromNameScopes,
  pathFromNodeName,
  type Site,
} from './scope.js';

/** A norm node and what tells whether another node is the same layer, called again. */
export interface BuiltNorm {
  readonly norm: NormNode;
  readonly site: Site;
  readonly definitions: readonly (Definition | null)[];
}

/**
 * Joins nodes that are one layer called several times: the same parameters and settings, and no path of another layer
 * (optimizers share equal initializers between layers).
 */
export function mergeCalls(built: readonly BuiltNorm[]): readonly NormNode[] {
  return groupCalls(built).flatMap(([first, ...others]) => {
    if (first === undefined) return [];
    const { norm } = first;
    if (others.length === 0) return norm;
    const calls = others.length + 1;
    const neighbours = [...new Set([first, ...others].flatMap((call) => call.norm.neighbours))];
    const note = `runs at ${calls} places of the graph with the same parameters: one layer, listed once`;
    return { ...norm, neighbours, notes: [...norm.notes, note] };
  });
}

/** For each layer, in the order of {@link mergeCalls}, the nodes that are its calls; at least one. */
export function groupCalls(built: readonly BuiltNorm[]): readonly (readonly BuiltNorm[])[] {
  const ids = new Map<Definition, number>();
  const layers = new Map<string, BuiltNorm[]>();
  for (const [index, call] of built.entries()) {
    const { norm, definitions } = call;
    const parts = definitions.map((definition) => {
      if (definition === null) return `none ${index}`;
      const id = ids.get(definition) ?? ids.size;
      ids.set(definition, id);
      return `${id}`;
    });
    const key = JSON.stringify([...parts, norm.epsilon, norm.momentum, norm.mode, layerPath(norm)]);
    addTo(layers, key, call);
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

/** X, scale, B, mean, var; a draft had one more. */
const INPUT_COUNT = 5;

/** The inputs of BatchNormalization that are its running statistics. */
export const MEAN_INPUT = 3;
export const VARIANCE_INPUT = 4;

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

/** Values of one statistic; with spatial = 0 channels × height × width. The widest layers have some thousands. */
const MAX_STATISTIC_ELEMENTS = 1 << 22;

/** ONNX's defaults (docs/Operators.md, BatchNormalization). */
const DEFAULT_EPSILON = 1e-5;
const DEFAULT_MOMENTUM = 0.9;

/**
 * Reads a BatchNormalization node.
 *
 * @param indexOf the index of a linear node in the graph; null for other nodes.
 * @throws CheckpointError naming the node, where its inputs are missing, broken or do not fit each other.
 */
export async function buildNorm(
  evaluator: Evaluator,
  site: Site,
  { search, indexOf }: { search: NeighbourSearch; indexOf: (site: Site) => number | null },
): Promise<BuiltNorm> {
  const { node, scope } = site;
  checkInputs(evaluator, site);
  const opset = opsetOf(scope);
  const isSpatial = opset >= 9 || (findAttribute(site, 'spatial')?.int ?? 1n) !== 0n;
  const [data = '', ...stated] = node.inputs.slice(0, INPUT_COUNT);
  const names: string[] = [];
  for (const name of stated) names.push(await untile(evaluator, site, name));
  const inputs = await readInputs(evaluator, site, names, isSpatial);
  const producer = findComputation(scope, data);
  const [gamma = '', beta = '', mean = '', variance = ''] = names.map((name) => findTrueName(scope, name));
  const own = [gamma, beta, mean, variance];
  const isTiled = names.some((name, i) => name !== stated[i]);
  const norm: NormNode = {
    nodeName: node.name,
    path: pathFromNameScopes(node.notes.nameScopes) ?? pathFromNodeName(node.name),
    scope: scope.path,
    inputNames: [gamma, beta, mean, variance],
    ...inputs,
    epsilon: findAttribute(site, 'epsilon')?.float ?? DEFAULT_EPSILON,
    momentum: findAttribute(site, 'momentum')?.float ?? DEFAULT_MOMENTUM,
    mode: await findMode(evaluator, site),
    opset,
    // What is computed of its own statistics, in front of it, is none.
    neighbours: search.find(scope, data).filter((name) => !own.includes(name)),
    feedingLinear: producer === null ? null : indexOf(producer),
    notes: describeOddities(site, { isSpatial, isTiled, inputs }),
  };
  return { norm, site, definitions: names.map((name) => followAliases(scope, name)?.definition ?? null) };
}

function checkInputs(evaluator: Evaluator, site: Site): void {
  const { inputs } = site.node;
  const missing = ['mean', 'var'].filter((_, i) => (inputs[i + 3] ?? '') === '');
  if (missing.length === 0) return;
  const found =
    inputs.length < INPUT_COUNT ? `${inputs.length}` : `an empty name for ${missing.join(' and ')}`;
  throw evaluator.error(
    `${describeSite(site)}: expected the five inputs X, scale, B, mean and var, found ${found}`,
  );
}

type NormInputs = Pick<NormNode, 'gamma' | 'beta' | 'mean' | 'variance'>;

async function readInputs(
  evaluator: Evaluator,
  site: Site,
  names: readonly string[],
  isSpatial: boolean,
): Promise<NormInputs> {
  const labels = ['scale', 'bias', 'mean', 'variance'];
  const constants: (Constant | null)[] = [];
  for (const [i, name] of names.entries()) {
    const label = `the ${labels[i]} of ${describeSite(site)}`;
    const constant = name === '' ? null : await evaluateInput(evaluator, site, name, label);
    if (constant !== null) checkVector(evaluator, constant, isSpatial, label);
    constants.push(constant);
  }
  const [gamma = null, beta = null, mean = null, variance = null] = constants;
  const lengths = [mean, variance, gamma, beta].flatMap((item) =>
    item?.kind === 'constant' ? item.tensor.elementCount : [],
  );
  if (new Set(lengths).size > 1) {
    const expected = 'expected mean, variance, scale and bias of one length';
    throw evaluator.error(`${describeSite(site)}: ${expected}, found ${lengths.join(', ')} channels`);
  }
  const [channels = null] = lengths;
  return {
    gamma: toInput(gamma, channels),
    beta: toInput(beta, channels),
    mean: toInput(mean, channels),
    variance: toInput(variance, channels),
  };
}

/** The Div in front of a norm node, and the node whose output it divides. */
export interface Rescaling {
  readonly divided: Site;
  readonly divisorName: string;
  /** The norm layer's own weight. */
  readonly gammaName: string;
  /** What is added behind the Div; `''` where nothing is. */
  readonly biasName: string;
  /** One for each channel. */
  readonly scales: Float64Array;
}

/**
 * What divides each channel by a constant in front of a norm node: PyTorch's quantisation-aware training multiplies the
 * weight before by γ / √(v + ε), as folding will, takes it out again, and adds the bias (torch.ao.nn.intrinsic.qat).
 */
export async function findRescaling(evaluator: Evaluator, { node, scope }: Site): Promise<Rescaling | null> {
  const [data = '', gammaName = ''] = node.inputs;
  let behind = findComputation(scope, data);
  const add = behind !== null && isStandard(behind.node, 'Add') ? behind : null;
  if (add !== null) behind = findComputation(add.scope, add.node.inputs[0] ?? '');
  if (behind === null || !isStandard(behind.node, 'Div')) return null;
  const [dividedName = '', divisorName = ''] = behind.node.inputs;
  const divided = findComputation(behind.scope, dividedName);
  const scales = await readVector(evaluator, { scope: behind.scope, name: divisorName });
  const gamma = await readVector(evaluator, { scope, name: gammaName });
  if (divided === null || scales.length === 0 || scales.length !== gamma.length) return null;
  return {
    divided,
    divisorName: findTrueName(behind.scope, divisorName),
    gammaName: findTrueName(scope, gammaName),
    biasName: add === null ? '' : findTrueName(add.scope, add.node.inputs[1] ?? ''),
    scales,
  };
}

/** The values of a constant; none of what is too large for a vector of channels, or no constant of floats. */
async function readVector(evaluator: Evaluator, at: ScopedName): Promise<Float64Array> {
  const constant = await evaluator.evaluateQuietly(at);
  const isVector = constant.kind === 'constant' && isDecodable(constant.tensor.dtype);
  return isVector && constant.tensor.elementCount <= MAX_STATISTIC_ELEMENTS
    ? Float64Array.from(await readNumbers(constant.tensor))
    : new Float64Array(0);
}

/** Evaluates an input; errors say whose input it is. */
async function evaluateInput(
  evaluator: Evaluator,
  site: Site,
  name: string,
  label: string,
): Promise<Constant> {
  try {
    return await evaluator.evaluate(site.scope, name);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    throw new CheckpointError(`${label}: ${error.message}`, error);
  }
}

/** Scale, bias and statistics are one float for every channel; `[1, C, 1, 1]` says the same. */
function checkVector(evaluator: Evaluator, constant: Constant, isSpatial: boolean, label: string): void {
  if (constant.kind === 'unresolved') {
    // A stored tensor without a DType (strings, 4-bit integers) can be no statistic at all.
    if (constant.isUndecodable)
      throw evaluator.error(`${label}: expected a tensor of floats: ${constant.reason}`);
    return;
  }
  const { name, dtype, shape, elementCount } = constant.tensor;
  if (!isFloatingPoint(dtype) || !isDecodable(dtype))
    throw evaluator.error(`${label}: expected floats, found tensor ${quote(name)} of type ${dtype}`);
  if (constant.kind === 'uniform') return;
  // Where the vector has more dimensions, channels are the second, as in a batch.
  const isVector = shape.length === 1 || shape.every((dim, axis) => dim === 1 || axis === 1);
  if (elementCount === 0 || (isSpatial && !isVector)) {
    const found = `found tensor ${quote(name)} of shape [${shape.join(', ')}]`;
    throw evaluator.error(`${label}: expected one value per channel, ${found}`);
  }
  if (elementCount > MAX_STATISTIC_ELEMENTS) {
    const message = `${label}: expected at most ${MAX_STATISTIC_ELEMENTS} values, found ${elementCount}`;
    throw evaluator.error(message, 'limit-exceeded');
  }
}

/** An evaluated input as the graph shows it: a vector, and a value repeated at run time written out. */
export function toInput(constant: Constant | null, channels: number | null): ConstantInput {
  if (constant === null) return { kind: 'absent' };
  if (constant.kind === 'unresolved') return constant;
  const { tensor } = constant;
  if (constant.kind === 'constant')
    return { ...constant, tensor: { ...tensor, shape: [tensor.elementCount] } };
  if (channels === null) return { kind: 'unresolved', reason: 'its length is known at run time only' };
  return { ...constant, kind: 'constant', tensor: repeatTensor(tensor, [channels]) };
}

/** The layer's own parameter: in front of the Tile that repeats it, where there is one. */
async function untile(evaluator: Evaluator, { scope }: Site, name: string): Promise<string> {
  const input = findTile(scope, name)?.node.inputs[0] ?? '';
  const constant = input === '' ? null : await evaluator.evaluate(scope, input);
  return constant?.kind === 'constant' && constant.tensor.shape.length === 1 ? input : name;
}

function describeOddities(
  site: Site,
  facts: { readonly isSpatial: boolean; readonly isTiled: boolean; readonly inputs: NormInputs },
): readonly string[] {
  const overridable = Object.values(facts.inputs).some(
    (input) => input.kind === 'constant' && input.overridable,
  );
  const oddities: readonly (readonly [boolean, string])[] = [
    [overridable, 'its parameters are graph inputs as well: a caller may replace them at run time'],
    [!facts.isSpatial, 'spatial = 0: one mean and one variance for every position of every channel'],
    [facts.isTiled, 'its parameters are tiled over the batch, as InstanceNorm is exported'],
    [site.node.inputs.length > INPUT_COUNT, 'a draft of the operator with training_mode as sixth input'],
    [opsetOf(site.scope) === 0, 'the model imports no version of the standard operators'],
  ];
  return oddities.flatMap(([isSo, note]) => (isSo ? note : []));
}

/** What a warning calls a norm-like operator of another domain; empty for any other node. */
export function describeForeignNorm({ node }: Site): readonly string[] {
  const isForeign = node.domain !== '' && /batch_?norm/i.test(node.op);
  return isForeign ? [`${describeNode(node)} of the domain ${quote(node.domain)}`] : [];
}
