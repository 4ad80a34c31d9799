// Finds the norm layers of a checkpoint, by the names of tensors or in the graph.

import type { Checkpoint, ConstantInput, Graph, NormNode, Tensor } from '../checkpoint/checkpoint.js';
import { isCountable, isDecodable, isFloatingPoint } from '../checkpoint/dtype.js';
import { CheckpointError, failUnreachable, quote } from '../errors.js';
import { expectRanges, refuseAmplified } from '../io/byte-source.js';
import {
  dottedNameOf,
  dottedTensorsOf,
  getOrMake,
  modulePathOf,
  NAMING_CONVENTIONS,
  type NamingConvention,
  splitPath,
  wrappedNameOf,
} from './naming.js';
import { findNamedNeighbours } from './neighbours.js';
import {
  constantOf,
  findFramework,
  type LayersAndLearned,
  type LayerVector,
  type NormLayer,
  refuseTooManyLayers,
  storedTensorOf,
} from './norm-layer.js';

/** Buffers that are floats and no parameters, by the last component of their name. */
const BUFFER_NAMES: ReadonlySet<string> = new Set([
  // Running statistics, also those of layers that are no norm layers (observation normalisers).
  ...['running_mean', 'running_var', 'moving_mean', 'moving_variance', 'moving_var', 'num_batches_tracked'],
  ...['_mean', '_variance'],
  // Keras's batch renormalisation.
  ...['moving_stddev', 'renorm_mean', 'renorm_stddev'],
  // Observers and fake quantization (torch.ao.quantization).
  ...['min_val', 'max_val', 'min_vals', 'max_vals', 'zero_point', 'fake_quant_enabled', 'observer_enabled'],
  // torch.optim.swa_utils.AveragedModel.
  'n_averaged',
  // Power-iteration vectors of torch.nn.utils.parametrizations.spectral_norm.
  ...['_u', '_v', 'vector_u'],
]);

/** A layer as it was found: its γ, β and count are tensors that {@link checkVectors} has yet to look at. */
interface FoundLayer extends Omit<NormLayer, 'gamma' | 'beta' | 'batchCount'> {
  readonly gamma: Tensor | null;
  readonly beta: Tensor | null;
  readonly batchCount: Tensor | null;
}

interface Found {
  readonly layers: readonly FoundLayer[];
  readonly learned: ReadonlyMap<string, Tensor>;
}

/**
 * The learned tensors of a checkpoint, by dotted name: every floating-point tensor that an optimizer could change,
 * which leaves out statistics, batch counts and known buffers.
 */
export function findLearnedTensors(
  checkpoint: Checkpoint,
  layers: readonly FoundLayer[],
): ReadonlyMap<string, Tensor> {
  const statistics = listStatistics(checkpoint, layers);
  const learned = new Map<string, Tensor>();
  checkpoint.tensors.forEach((tensor, name) => {
    if (!isFloatingPoint(tensor.dtype) || tensor.isBuffer === true || statistics.has(name)) return;
    const dotted = dottedNameOf(name, checkpoint);
    if (!isKnownBuffer(name, dotted, checkpoint)) learned.set(dotted, tensor);
  });
  return learned;
}

/**
 * The names of tensors that are statistics or batch counts. A tensor that is γ or β of some layer too (exporters store
 * equal ones once) is learned all the same.
 */
function listStatistics({ graph }: Checkpoint, layers: readonly FoundLayer[]): ReadonlySet<string> {
  const statistics = new Set<string>();
  for (const { isFromGraph, mean, variance, batchCount } of layers) {
    if (batchCount !== null) statistics.add(batchCount.name);
    if (isFromGraph) continue;
    if (mean.kind === 'stored') statistics.add(mean.tensor.name);
    if (variance.kind === 'stored') statistics.add(variance.tensor.name);
  }
  const inputNames = (graph?.norms ?? []).map((norm) => norm.inputNames);
  for (const [, , mean, variance] of inputNames) statistics.add(mean).add(variance);
  for (const [gamma, beta] of inputNames) for (const name of [gamma, beta]) statistics.delete(name);
  return statistics;
}

/** Buffers of torch.ao's observers that are called what parameters may be called, too. */
const OBSERVER_NAMES: ReadonlySet<string> = new Set(['scale', 'eps', 'histogram']);

/** @param name as the file spells it: its siblings are spelled alike. */
function isKnownBuffer(name: string, dotted: string, checkpoint: Checkpoint): boolean {
  const [, leaf] = splitPath(dotted);
  if (BUFFER_NAMES.has(leaf)) return true;
  const both = ['_scale_$1', '_zero_point_$1'].map((one) => name.replace(GRAPH_QUANTISER, one));
  if (GRAPH_QUANTISER.test(name) && both.every((one) => checkpoint.tensors.has(one))) return true;
  const isVector = leaf.length > 2 && (leaf.endsWith('_u') || leaf.endsWith('_v'));
  if (!isVector && !OBSERVER_NAMES.has(leaf)) return false;
  const start = name.lastIndexOf(leaf);
  const siblingOf = (sibling: string) =>
    checkpoint.tensors.has(name.slice(0, start) + sibling + name.slice(start + leaf.length));
  // torch.nn.utils.spectral_norm: `weight_u` and `weight_v` beside `weight_orig`. weight_norm's `weight_v` is learned.
  const weight = leaf.slice(0, -2);
  if (isVector) return siblingOf(`${weight}_orig`) || siblingOf(`${weight}_u`);
  // A quantized module's or an observer's scale stands beside its zero point; a learned scale does not.
  return siblingOf(leaf === 'scale' ? 'zero_point' : 'min_val');
}

/** What FX calls the quantisers of data: `conv_input_scale_0` and `conv_input_zero_point_0`. */
const GRAPH_QUANTISER = /_(?:scale|zero_point)_(\d+)$/;

/** What TensorFlow exporters put between a layer's path and the end of its tensors' names. */
const TENSORFLOW_TAIL =
  /\.FusedBatchNorm(?:V\d)?(?:_\d+)?(?:\.ReadVariableOp(?:_\d+)?)?$|\.ReadVariableOp(?:_\d+)?$/;

/** Suffixes by the role of a node's input: gamma, beta, mean, variance. */
const ROLE_SUFFIXES: readonly (readonly string[])[] = [
  NAMING_CONVENTIONS.flatMap(({ gamma }) => gamma),
  NAMING_CONVENTIONS.flatMap(({ beta }) => beta),
  NAMING_CONVENTIONS.map(({ mean }) => mean),
  NAMING_CONVENTIONS.map(({ variance }) => variance),
];

/**
 * The norm layers of a graph, in topological order: one for each BatchNormalization node.
 *
 * @throws CheckpointError `limit-exceeded` for too many layers.
 */
export function findGraphLayers(checkpoint: Checkpoint, graph: Graph): Found {
  refuseTooManyLayers(graph.norms.length, checkpoint.path);
  const taken = new Set<string>();
  const copies = new Map<string, number>();
  const layers = graph.norms.map((node, index) => {
    const naming = nameLayer(node, index, { taken, copies, checkpoint });
    taken.add(naming.name);
    return describeNode(node, naming, checkpoint);
  });
  return { layers, learned: findLearnedTensors(checkpoint, layers) };
}

type Naming = Pick<NormLayer, 'name' | 'wrappedName' | 'isNamed'>;

function describeNode(node: NormNode, naming: Naming, checkpoint: Checkpoint): FoundLayer {
  const [mean, variance] = [toStatistic(node.mean, 'mean'), toStatistic(node.variance, 'variance')];
  const stored = [node.mean, node.variance, node.gamma, node.beta].flatMap(
    (input) => constantOf(input) ?? [],
  );
  return {
    ...naming,
    kind: 'BatchNormalization',
    channels: stored[0]?.elementCount ?? 0,
    mean,
    variance,
    gamma: constantOf(node.gamma),
    beta: constantOf(node.beta),
    batchCount: dottedTensorsOf(checkpoint).get(`${naming.name}.num_batches_tracked`) ?? null,
    epsilon: node.epsilon,
    defaultEpsilon: node.epsilon,
    momentum: node.momentum,
    mode: node.mode,
    nodeName: node.nodeName,
    isFromGraph: true,
    neighbours: node.neighbours.map((neighbour) => dottedNameOf(neighbour, checkpoint)),
    feedingLinear: node.feedingLinear,
    notes: node.notes,
  };
}

/** What the layers of a graph are named by, beside their nodes. */
interface NamingContext {
  readonly taken: ReadonlySet<string>;
  /** For each name that several nodes bear, the number from which on none is taken. */
  readonly copies: Map<string, number>;
  readonly checkpoint: Checkpoint;
}

/**
 * A layer's name from its node. The names of the node's inputs vote, because exporters keep the state dict's keys
 * there; a single vote may come from a tensor that belongs to another layer (deduplicated initializers), so the
 * node's own path weighs more than one. What is taken already cannot be this layer.
 */
function nameLayer(node: NormNode, index: number, { taken, copies, checkpoint }: NamingContext): Naming {
  const votes = new Map<string, number>();
  const wrapped = new Map<string, string>();
  const vote = (path: string, inFile: string, weight: number) => {
    votes.set(path, (votes.get(path) ?? 0) + weight);
    if (inFile !== path) wrapped.set(path, inFile);
  };
  node.inputNames.forEach((inputName, role) => {
    const path = stripRole(dottedNameOf(inputName, checkpoint), role);
    // The mean and the variance belong to the layer more surely than a scale or a bias, which may be shared.
    if (path !== null)
      vote(path, stripRole(wrappedNameOf(inputName, checkpoint), role) ?? path, role >= 2 ? 1.1 : 1);
  });
  if (node.path !== null) vote(modulePathOf(node.path, checkpoint), node.path, 1.5);
  const ownVotes = votes.get(node.nodeName);
  if (ownVotes !== undefined) votes.set(node.nodeName, ownVotes + 0.5);
  const named = [...votes].sort(([, x], [, y]) => y - x).find(([path]) => !taken.has(path));
  if (named !== undefined) {
    const [name] = named;
    return { name, wrappedName: wrapped.get(name), isNamed: true };
  }
  const own = [...node.scope, node.nodeName === '' ? `BatchNormalization_${index}` : node.nodeName].join('/');
  let name = own;
  let copy = copies.get(own) ?? 2;
  for (; taken.has(name); copy++) name = `${own}#${copy}`;
  copies.set(own, copy);
  return { name, isNamed: false };
}

function stripRole(name: string, role: number): string | null {
  for (const suffix of ROLE_SUFFIXES[role] ?? [])
    if (name.endsWith(suffix) && name.length > suffix.length) return name.slice(0, -suffix.length);
  const stripped = name.replace(TENSORFLOW_TAIL, '');
  return stripped === name || stripped === '' ? null : stripped;
}

function toStatistic(input: ConstantInput, role: string): LayerVector {
  switch (input.kind) {
    case 'constant':
      return checkVector(input.tensor, `the ${role}`, { source: input.source });
    case 'unresolved':
      return { kind: 'unresolved', reason: input.reason };
    case 'absent':
      return { kind: 'unresolved', reason: `the node has no ${role} input` };
    default:
      return failUnreachable(input);
  }
}

/**
 * Finds norm layers by the names of their tensors: a running mean and a running variance under one module path, by
 * any convention of {@link NAMING_CONVENTIONS}. A layer that has lost one of the two is reported as unresolved. Their
 * neighbours are learned tensors, so that all of these are found as well.
 *
 * In the order of the file.
 *
 * @throws CheckpointError `limit-exceeded` for too many layers.
 */
export function findNamedLayers(checkpoint: Checkpoint): Found {
  const tensors = dottedTensorsOf(checkpoint);
  const layers = new Map<string, FoundLayer>();
  /** Statistics of these layers: the second one of each has nothing more to tell. */
  const known = new Set<Tensor>();
  tensors.forEach((tensor, name) => {
    if (!mayBeStatistic(name) || known.has(tensor)) return;
    const layer = findLayerAt(name, checkpoint);
    if (layer === null || layers.has(layer.name)) return;
    layers.set(layer.name, layer);
    if (layer.mean.kind === 'stored') known.add(layer.mean.tensor);
    if (layer.variance.kind === 'stored') known.add(layer.variance.tensor);
  });
  refuseTooManyLayers(layers.size, checkpoint.path);
  const found = [...layers.values()];
  const learned = findLearnedTensors(checkpoint, found);
  const neighbours = findNamedNeighbours(
    found,
    learned,
    checkpoint.inModuleOrder ? placeModules(tensors) : null,
    findFramework(checkpoint, found),
  );
  return { layers: found.map((layer) => ({ ...layer, ...neighbours.get(layer) })), learned };
}

/** Where each module's first tensor stands among those of other modules. */
function placeModules(tensors: ReadonlyMap<string, Tensor>): ReadonlyMap<string, number> {
  const modules = new Set([...tensors.keys()].map((name) => splitPath(name)[0]));
  return new Map([...modules].map((path, index) => [path, index]));
}

/** How the mean or the variance ends in every convention, without the longer ones that end like a shorter one. */
const STATISTIC_ENDINGS = [
  ...new Set(NAMING_CONVENTIONS.flatMap(({ mean, variance }) => [mean.slice(1), variance.slice(1)])),
].filter((ending, _, all) => !all.some((other) => other !== ending && ending.endsWith(other)));

/** Most names are told apart by their ends alone. */
function mayBeStatistic(name: string): boolean {
  return STATISTIC_ENDINGS.some((ending) => name.endsWith(ending));
}

function findLayerAt(name: string, checkpoint: Checkpoint): FoundLayer | null {
  // A state dict of a bare norm layer has names without a path.
  const rooted = name.includes('.') ? name : `.${name}`;
  const fitting = NAMING_CONVENTIONS.flatMap((convention) => {
    const suffix = [convention.mean, convention.variance].find((ending) => rooted.endsWith(ending));
    return suffix === undefined ? [] : [{ convention, path: withoutDot(rooted.slice(0, -suffix.length)) }];
  });
  // A convention that has both halves goes before one that would have to report a lost half.
  for (const needsBoth of [true, false]) {
    for (const { convention, path } of fitting) {
      const layer = describeLayer(path, convention, { checkpoint, needsBoth });
      if (layer !== null) return layer;
    }
  }
  return null;
}

function describeLayer(
  path: string,
  convention: NamingConvention,
  { checkpoint, needsBoth }: { checkpoint: Checkpoint; needsBoth: boolean },
): FoundLayer | null {
  const tensors = dottedTensorsOf(checkpoint);
  const at = (suffix: string) => tensors.get(path === '' ? withoutDot(suffix) : path + suffix);
  const mean = at(convention.mean);
  const variance = at(convention.variance);
  if ((needsBoth || !convention.isDistinctive) && (mean === undefined || variance === undefined)) return null;
  const [statistic, suffix] = mean === undefined ? [variance, convention.variance] : [mean, convention.mean];
  const wrapped = statistic === undefined ? null : findWrappedPath(statistic, suffix, checkpoint);
  const facts = checkpoint.modules.get(wrapped ?? path);
  if (isObservationNormaliser(at, convention)) return null;
  return {
    name: path,
    wrappedName: wrapped === null || wrapped === path ? undefined : wrapped,
    isNamed: true,
    kind: facts?.className ?? 'BatchNorm',
    channels: (mean ?? variance)?.elementCount ?? 0,
    mean: readStatisticTensor(mean, convention.mean),
    variance: readStatisticTensor(variance, convention.variance),
    gamma: firstOf(convention.gamma, at),
    beta: firstOf(convention.beta, at),
    batchCount: (convention.count === null ? undefined : at(convention.count)) ?? null,
    epsilon: facts?.epsilon ?? null,
    defaultEpsilon: convention.epsilon,
    momentum: facts?.momentum ?? null,
    mode: facts?.training == null ? 'unknown' : facts.training ? 'batch' : 'running',
    nodeName: null,
    isFromGraph: false,
    neighbours: [],
    areNeighboursCertain: true,
    feedingLinear: null,
    notes: [],
  };
}

/** The module path of a statistic as the file spells it; null where the name stayed another. */
function findWrappedPath({ name }: Tensor, suffix: string, checkpoint: Checkpoint): string | null {
  const wrapped = `.${wrappedNameOf(name, checkpoint)}`;
  return wrapped.endsWith(suffix) ? withoutDot(wrapped.slice(0, -suffix.length)) : null;
}

/** rl_games' `RunningMeanStd` and its like normalise observations: they count samples, not batches. */
function isObservationNormaliser(
  at: (suffix: string) => Tensor | undefined,
  convention: NamingConvention,
): boolean {
  return (
    at('.count') !== undefined &&
    (convention.count === null || at(convention.count) === undefined) &&
    convention.gamma.every((suffix) => at(suffix) === undefined)
  );
}

function withoutDot(rest: string): string {
  return rest.startsWith('.') ? rest.slice(1) : rest;
}

/** A tensor as a statistic: unresolved where it is missing, empty, or of a type that holds no readable floats. */
function readStatisticTensor(tensor: Tensor | undefined, suffix: string): LayerVector {
  if (tensor === undefined)
    return { kind: 'unresolved', reason: `${withoutDot(suffix)} is missing from the file` };
  return tensor.elementCount === 0
    ? { kind: 'unresolved', reason: `${quote(tensor.name)} has no channels` }
    : checkVector(tensor, quote(tensor.name));
}

/** A tensor as a vector: unresolved where its type holds nothing that can be read. */
function checkVector(
  tensor: Tensor,
  called: string,
  { source = 'tensor', isReadable = isDecodable, what = 'floats' } = {},
): LayerVector {
  return isReadable(tensor.dtype)
    ? { kind: 'stored', tensor, source }
    : {
        kind: 'unresolved',
        reason: `${called} is stored as ${tensor.dtype}, which holds no readable ${what}`,
      };
}

/** The first tensor of one value per channel: a matrix under the same path belongs to something else. */
function firstOf(suffixes: readonly string[], at: (suffix: string) => Tensor | undefined): Tensor | null {
  for (const suffix of suffixes) {
    const tensor = at(suffix);
    if (tensor !== undefined && tensor.shape.filter((size) => size !== 1).length <= 1) return tensor;
  }
  return null;
}

/** Wider than any layer in use by an order of magnitude; a layer's statistics stand in memory at once. */
const MAX_CHANNELS = 1 << 20;

/** What was found in checkpoints that are open: those of a run are put in order first, and before is compared with each. */
const found = new WeakMap<Checkpoint, LayersAndLearned>();

/**
 * Every norm layer of a checkpoint: from the graph where there is one, else from the names of its tensors. A layer
 * whose statistics or affine cannot be read is among them, with the reason: what the other layers hold is numbers.
 * Beside them, what an optimizer could change.
 *
 * @throws CheckpointError `malformed` when the parts of a layer disagree on its number of channels, `limit-exceeded` for
 *   too many layers or channels, and for vectors that claim far more bytes than the file stores for them.
 */
export function findLayersAndLearned(checkpoint: Checkpoint): LayersAndLearned {
  return getOrMake(found, checkpoint, () => find(checkpoint));
}

function find(checkpoint: Checkpoint): LayersAndLearned {
  const { graph } = checkpoint;
  const { layers, learned } =
    graph === null ? findNamedLayers(checkpoint) : findGraphLayers(checkpoint, graph);
  for (const layer of layers) checkChannels(layer, checkpoint.path);
  const vectors = layers.flatMap((layer) => listVectors(layer).flatMap(([, tensor]) => tensor?.range ?? []));
  refuseAmplified(vectors, checkpoint.path);
  expectRanges(vectors);
  return { layers: layers.map(checkVectors), learned };
}

/**
 * Whether a checkpoint may hold norm layers, live or folded. Where it does not, nothing else needs to be looked for, not
 * even in the largest.
 */
export function mayHoldLayers(checkpoint: Checkpoint): boolean {
  return checkpoint.graph !== null || [...dottedTensorsOf(checkpoint).keys()].some(mayBeStatistic);
}

function checkChannels(layer: FoundLayer, file: string): void {
  if (layer.channels > MAX_CHANNELS)
    throw new CheckpointError(
      `layer ${quote(layer.name)}: expected at most ${MAX_CHANNELS} channels, found ${layer.channels}`,
      { code: 'limit-exceeded', file },
    );
  for (const [part, tensor] of listVectors(layer)) {
    if (tensor !== null && tensor.elementCount !== layer.channels)
      throw new CheckpointError(
        `layer ${quote(layer.name)}: expected tensors of one length, found ${layer.channels} channels in one and ${tensor.elementCount} in its ${part}`,
        { code: 'malformed', file },
      );
  }
}

function listVectors(layer: FoundLayer): readonly (readonly [part: string, tensor: Tensor | null])[] {
  return [
    ['running mean', storedTensorOf(layer.mean)],
    ['running variance', storedTensorOf(layer.variance)],
    ['weight', layer.gamma],
    ['bias', layer.beta],
  ];
}

/** A layer with what it stores checked, so that nothing behind this asks again whether it can be read. */
function checkVectors(layer: FoundLayer): NormLayer {
  const [gamma = null, beta = null] = [layer.gamma, layer.beta].map((tensor) =>
    tensor === null ? null : checkVector(tensor, `its affine ${quote(tensor.name)}`),
  );
  const { batchCount: count } = layer;
  // Several numbers are no count.
  const batchCount =
    count?.elementCount === 1
      ? checkVector(count, `its batch count ${quote(count.name)}`, {
          isReadable: isCountable,
          what: 'number',
        })
      : null;
  const unreadable = [gamma, beta].find((vector) => vector?.kind === 'unresolved');
  return {
    ...layer,
    mean: unreadable ?? layer.mean,
    variance: unreadable ?? layer.variance,
    gamma: unreadable ?? gamma,
    beta: unreadable ?? beta,
    batchCount,
    notes: batchCount?.kind === 'unresolved' ? [...layer.notes, batchCount.reason] : layer.notes,
  };
}
