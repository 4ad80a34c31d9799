// A norm layer, and a convolution or linear layer, as every later room knows them.

import type { ChannelLayout } from '../checkpoint/channel-grid.js';
import {
  type Checkpoint,
  type ConstantInput,
  type DataFactor,
  type Framework,
  haveSameShape,
  type NormMode,
  type Tensor,
} from '../checkpoint/checkpoint.js';
import { isDecodable } from '../checkpoint/dtype.js';
import { fail } from '../errors.js';
import {
  dottedNameOf,
  getOrMake,
  isOutputsFirst,
  joinPath,
  modulePathOf,
  NAMING_CONVENTIONS,
  splitPath,
} from './naming.js';

/**
 * What a norm layer stores, checked once: a tensor of one value per channel (one in all for the count) whose type can be
 * read, or why there is none.
 */
export type LayerVector =
  | {
      readonly kind: 'stored';
      readonly tensor: Tensor;
      readonly source: string;
      /** The tensor in full, where it repeats the values of `tensor`, its beginning. */
      readonly whole?: Tensor | undefined;
    }
  | { readonly kind: 'unresolved'; readonly reason: string };

/** A layer that carries running statistics, as one checkpoint shows it. */
export interface NormLayer {
  /**
   * The module path without wrappers, such as `backbone.layer1.0.bn1`; a node's name where {@link isNamed} is false.
   */
  readonly name: string;
  /** The module path with the wrappers that the file has in it, `module.backbone.layer1.0.bn1`; absent without any. */
  readonly wrappedName?: string | undefined;
  /** Whether {@link name} is a module path; graphs may have lost it. */
  readonly isNamed: boolean;
  /** The class or operator: `BatchNorm2d`, `BatchNormalization`, `BatchNorm` where only names tell. */
  readonly kind: string;
  readonly channels: number;
  /** Unresolved as well where γ or β cannot be read: what the layer computes is not known then. */
  readonly mean: LayerVector;
  readonly variance: LayerVector;
  /** Learned scale γ; null without affine. */
  readonly gamma: LayerVector | null;
  /** Learned shift β; null without affine. */
  readonly beta: LayerVector | null;
  /** `num_batches_tracked`; null where the format or the layer has none. */
  readonly batchCount: LayerVector | null;
  /** From the graph or the module; null where the file does not tell. */
  readonly epsilon: number | null;
  /** Epsilon to assume where the file does not tell: 1e-5, or 1e-3 for layers with Keras names. */
  readonly defaultEpsilon: number;
  readonly momentum: number | 'cumulative' | null;
  readonly mode: NormMode;
  /** The name of the graph's node; null where names alone told of the layer. */
  readonly nodeName: string | null;
  /** Whether a computation graph told of the layer; else the names of its tensors did. */
  readonly isFromGraph: boolean;
  /** Names of the learned tensors that feed the layer. */
  readonly neighbours: readonly string[];
  /**
   * Whether the {@link neighbours} feed the layer. False where names leave it open: some of them do, and only what is
   * true of all their modules is known of the feed. Absent where a graph tells.
   */
  readonly areNeighboursCertain?: boolean;
  /** The convolution that the layer was folded into; absent where it stands in the file itself. */
  readonly foldedInto?: LinearLayer | undefined;
  /** The linear node that feeds the layer directly, as an index into the graph's; null without a graph. */
  readonly feedingLinear: number | null;
  readonly notes: readonly string[];
}

/** A layer's module path as its file spells it, wrappers included. */
export function nameInFile({ name, wrappedName }: Pick<NormLayer, 'name' | 'wrappedName'>): string {
  return wrappedName ?? name;
}

/** A layer with one more note. */
export function addNote(layer: NormLayer, note: string): NormLayer {
  return { ...layer, notes: [...layer.notes, note] };
}

/** Why a layer's statistics cannot be read; null where they can. */
export function whyUnresolved({ mean, variance }: NormLayer): string | null {
  for (const statistic of [mean, variance]) if (statistic.kind === 'unresolved') return statistic.reason;
  return null;
}

/** The tensor of a vector; null where there is none that can be read. */
export function storedTensorOf(vector: LayerVector | null): Tensor | null {
  return vector?.kind === 'stored' ? vector.tensor : null;
}

/** The norm layers of a checkpoint, and its learned tensors by dotted name. */
export interface LayersAndLearned {
  readonly layers: readonly NormLayer[];
  readonly learned: ReadonlyMap<string, Tensor>;
}

/** Ten times as many as the deepest networks in use have; each is compared, reported and kept in memory. */
const MAX_LAYERS = 10_000;

/**
 * Refuses more norm layers than can be dealt with, to be asked once they are counted, before any work goes into them.
 *
 * @throws CheckpointError `limit-exceeded`
 */
export function refuseTooManyLayers(count: number, file: string): void {
  if (count <= MAX_LAYERS) return;
  fail(file, `expected at most ${MAX_LAYERS} norm layers, found ${count}`, 'limit-exceeded');
}

/** Whether a layer's graph node normalises by batch statistics. A pickled module in training mode is no such graph. */
export function isBatchGraph({ isFromGraph, mode }: NormLayer): boolean {
  return isFromGraph && mode === 'batch';
}

/** A convolution or linear layer with a readable weight: what a norm layer can be folded into. */
export interface LinearLayer {
  /** The module path of the convolution itself, such as `layer1.0.conv1`; null where the file has lost it. */
  readonly path: string | null;
  /** The module path of the norm layer that the file says was folded in; null where it does not say. */
  readonly foldedNormPath: string | null;
  /** What to call it where no path is known. */
  readonly nodeName: string;
  /** Dotted name of the weight. */
  readonly weightName: string;
  /** Dotted name of the bias; `''` without. */
  readonly biasName: string;
  readonly weight: Tensor;
  /** Null without a bias. */
  readonly bias: Tensor | null;
  readonly outputAxis: number;
  readonly groups: number;
  readonly channels: number;
  /** Whether the file bears signs that a norm layer was folded in. */
  readonly looksFolded: boolean;
  /** What the graph multiplies its data by; absent where there are names alone. */
  readonly dataFactor?: DataFactor | undefined;
  /** The other layout that its shape allows, where names alone told this one; absent where there is none. */
  readonly otherLayout?: ChannelLayout | undefined;
}

/**
 * The linear layers of a graph that no live norm layer follows, in topological order: where norm layers may have been
 * folded. Empty without a graph.
 */
export function findFreeLinears(checkpoint: Checkpoint): readonly LinearLayer[] {
  return (checkpoint.graph?.linears ?? []).flatMap((node) =>
    node.feedsNorm ? [] : (toLinearLayer(node, checkpoint) ?? []),
  );
}

/**
 * The linear layer that feeds a norm layer: the graph's own, or the neighbour whose weight has the layer's channels.
 *
 * @param learned the checkpoint's learned tensors by dotted name.
 * @returns null where none is known or its weight cannot be read.
 */
export function findFeedingLinear(
  layer: NormLayer,
  checkpoint: Checkpoint,
  learned: ReadonlyMap<string, Tensor>,
): LinearLayer | null {
  const { graph } = checkpoint;
  if (graph === null) {
    const { neighbours, channels } = layer;
    const byNeighbours = getOrMake(foundLinears, learned, () => new Map());
    const byChannels = getOrMake(byNeighbours, neighbours, () => new Map<number, LinearLayer | null>());
    return getOrMake(byChannels, channels, () => searchNamedLinear(neighbours, channels, learned));
  }
  const node = layer.feedingLinear === null ? undefined : graph.linears[layer.feedingLinear];
  return node === undefined ? null : toLinearLayer(node, checkpoint);
}

/**
 * What was found in the learned tensors of a checkpoint, by neighbours and channels. Layers whose feed may be anything
 * share one list, which is as long as the file: it is looked through once.
 */
const foundLinears = new WeakMap<
  ReadonlyMap<string, Tensor>,
  Map<readonly string[], Map<number, LinearLayer | null>>
>();

function searchNamedLinear(
  neighbours: readonly string[],
  channels: number,
  learned: ReadonlyMap<string, Tensor>,
): LinearLayer | null {
  for (const name of neighbours) {
    const tensor = learned.get(name);
    const [path, leaf] = splitPath(name);
    if (tensor === undefined || !isOutputsFirst(leaf) || tensor.shape.length < 2) continue;
    const axes = findOutputAxis(tensor.shape, channels, leaf);
    if (axes !== null) return describeNamedLinear(path, leaf, learned, { ...axes, channels });
  }
  return null;
}

/**
 * The linear layer at a module path of a file of names, with the layout that another file's graph tells.
 *
 * @param learned the checkpoint's learned tensors by dotted name.
 * @returns null where no weight stands there, or one of another shape.
 */
export function findNamedLinearAt(
  path: string,
  learned: ReadonlyMap<string, Tensor>,
  { weight, outputAxis, groups, channels }: LinearLayer,
): LinearLayer | null {
  // A matrix counts outputs first, whatever an exporter makes of it.
  const isTurned = weight.shape.length === 2 && outputAxis === 1;
  const axes = { outputAxis: isTurned ? 0 : outputAxis, groups, channels };
  const linear = describeNamedLinear(path, 'weight', learned, axes);
  const shape = isTurned ? weight.shape.toReversed() : weight.shape;
  return linear !== null && haveSameShape(linear.weight, { ...weight, shape }) ? linear : null;
}

/**
 * The linear layers of a file of names that may feed a norm layer of which names leave open what does: all that have as
 * many outputs. Which one it is, another file's graph may tell.
 *
 * @param learned the checkpoint's learned tensors by dotted name.
 */
export function listPossibleLinears(
  layers: readonly NormLayer[],
  learned: ReadonlyMap<string, Tensor>,
): readonly LinearLayer[] {
  const widths = new Set(
    layers.flatMap(({ areNeighboursCertain, channels }) =>
      areNeighboursCertain === false ? [channels] : [],
    ),
  );
  if (widths.size === 0) return [];
  return [...learned].flatMap(([name, { shape }]) => {
    const [path, leaf] = splitPath(name);
    const [channels = 0] = shape;
    if (!isOutputsFirst(leaf) || shape.length < 2 || !widths.has(channels)) return [];
    return describeNamedLinear(path, leaf, learned, { outputAxis: 0, groups: 1, channels }) ?? [];
  });
}

/** Convolutions have up to three dimensions beside their channels. */
const MAX_WEIGHT_RANK = 5;

/**
 * The linear layers of a file of names that have a bias, whose length tells how their weight counts outputs. Folding a
 * norm layer leaves one, and a layer that had one before looks the same.
 *
 * @param learned the checkpoint's learned tensors by dotted name.
 */
export function findBiasedLinears(learned: ReadonlyMap<string, Tensor>): readonly LinearLayer[] {
  return [...learned].flatMap(([name, { shape }]) => {
    const [path, leaf] = splitPath(name);
    if (!isOutputsFirst(leaf) || shape.length < 2 || shape.length > MAX_WEIGHT_RANK) return [];
    const bias = learned.get(nameBias(path, leaf));
    const axes = bias?.shape.length === 1 ? findOutputAxis(shape, bias.elementCount, leaf) : null;
    // Of a bias that no norm layer stood behind a baseline keeps the hash alone.
    if (bias === undefined || bias.fingerprint !== undefined || axes === null) return [];
    return describeNamedLinear(path, leaf, learned, { ...axes, channels: bias.elementCount }) ?? [];
  });
}

function nameBias(path: string, leaf: string): string {
  return joinPath(path, leaf === 'w' ? 'b' : 'bias');
}

function describeNamedLinear(
  path: string,
  leaf: string,
  learned: ReadonlyMap<string, Tensor>,
  layout: Pick<LinearLayer, 'outputAxis' | 'groups' | 'channels'>,
): LinearLayer | null {
  const weightName = joinPath(path, leaf);
  const weight = learned.get(weightName);
  if (weight === undefined) return null;
  const biasName = nameBias(path, leaf);
  const bias = learned.get(biasName) ?? null;
  // What such a bias adds cannot be told, and to leave it out would make it zeros.
  if (bias !== null && (!isDecodable(bias.dtype) || bias.elementCount !== layout.channels)) return null;
  return {
    path,
    foldedNormPath: null,
    nodeName: path,
    weightName,
    biasName: bias === null ? '' : biasName,
    weight,
    bias,
    ...layout,
    looksFolded: false,
    otherLayout: findOtherLayout(weight.shape, layout),
  };
}

/** A convolution of as many inputs as outputs may be a transposed one: `[8, 8, 2, 2]` says neither. */
function findOtherLayout(
  shape: readonly number[],
  { outputAxis, channels }: Pick<LinearLayer, 'outputAxis' | 'channels'>,
): ChannelLayout | undefined {
  const [first = 0, second = 0] = shape;
  const isOpen = outputAxis === 0 && shape.length > 2 && second > 1 && channels % second === 0;
  return isOpen && first % (channels / second) === 0
    ? { outputAxis: 1, groups: channels / second }
    : undefined;
}

/** PyTorch: Conv and Linear weights count outputs first; ConvTranspose's second, within each group, as Haiku's `w` do. */
function findOutputAxis(
  shape: readonly number[],
  channels: number,
  leaf: string,
): { outputAxis: number; groups: number } | null {
  const [first = 0, second = 0] = shape;
  if (first === channels) return { outputAxis: 0, groups: 1 };
  const mayBeSecond = shape.length > 2 || leaf !== 'weight';
  if (mayBeSecond && second > 0 && channels % second === 0 && first % (channels / second) === 0)
    return { outputAxis: 1, groups: channels / second };
  return null;
}

type LinearNode = NonNullable<Checkpoint['graph']>['linears'][number];

/** Null where its weight cannot be read. A bias that is computed at run time says nothing: no ground to stand on. */
function toLinearLayer(node: LinearNode, checkpoint: Checkpoint): LinearLayer | null {
  const { nodeName, weight, bias, outputAxis, outputChannels, looksFolded } = node;
  if (weight.kind !== 'constant' || bias.kind === 'unresolved') return null;
  const read = (path: string | null) => (path === null ? null : modulePathOf(path, checkpoint));
  return {
    path: read(node.path),
    foldedNormPath: read(node.foldedNormPath),
    nodeName,
    weightName: dottedNameOf(node.weightName, checkpoint),
    biasName: dottedNameOf(node.biasName, checkpoint),
    weight: weight.tensor,
    bias: constantOf(bias),
    outputAxis,
    // Only a ConvTranspose counts its output channels within groups.
    groups: outputAxis === 1 && node.op === 'ConvTranspose' ? node.groups : 1,
    channels: outputChannels,
    looksFolded,
    dataFactor: node.dataFactor ?? { value: 1, isGated: false },
  };
}

/** The tensor of a node's input; null where that is no constant. */
export function constantOf(input: ConstantInput): Tensor | null {
  return input.kind === 'constant' ? input.tensor : null;
}

type Sides<Side> = Readonly<Record<'before' | 'after', Side>>;

/**
 * The side whose name is shown: after's, since that is the model that the user has. Where after has folded the layer
 * away or its file has lost the names, before's stands in.
 */
export function chooseNamed<Side extends { readonly isNamed: boolean; readonly isFolded: boolean }>({
  before,
  after,
}: Sides<Side>): Side {
  const [first, second] = after.isFolded ? [before, after] : [after, before];
  return first.isNamed || !second.isNamed ? first : second;
}

/** The name that reports give to a layer of both checkpoints. */
export function chooseLayerName({ before, after }: Sides<NormLayer>): string {
  const toSide = (layer: NormLayer) => ({ ...layer, isFolded: layer.foldedInto !== undefined });
  return chooseNamed({ before: toSide(before), after: toSide(after) }).name;
}

/** Every name of a compared layer, the shown one first: globs may use any. */
export function listLayerNames(layer: Sides<NormLayer> & { readonly name: string }): readonly string[] {
  return [layer.name, ...listOwnNames(layer.before), ...listOwnNames(layer.after)];
}

/** Every name of a layer in its own file. */
export function listOwnNames(layer: NormLayer): readonly string[] {
  return [layer.name, nameInFile(layer)];
}

/** How exporters call themselves in an ONNX model (`producer_name`), by the framework of what they export. */
const PRODUCERS: readonly (readonly [start: string, Framework])[] = [
  ['pytorch', 'pytorch'],
  ['tf2onnx', 'keras'],
  ['keras', 'keras'],
  ['PaddlePaddle', 'paddle'],
  ['paddle2onnx', 'paddle'],
  ['jax2onnx', 'flax'],
  ['caffe2', 'caffe2'],
];

/**
 * What a checkpoint was trained with: by the marks of a framework in the file, by an ONNX model's producer, by how its
 * running means are named. Null where none of these tells.
 */
export function findFramework(
  checkpoint: Checkpoint,
  layers: readonly Pick<NormLayer, 'mean'>[],
): Framework | null {
  if (checkpoint.framework !== undefined) return checkpoint.framework;
  const producer = checkpoint.graph?.producer.toLowerCase() ?? '';
  const exporter = PRODUCERS.find(([start]) => producer.startsWith(start.toLowerCase()));
  return exporter?.[1] ?? findByNames(checkpoint, layers);
}

function findByNames(checkpoint: Checkpoint, layers: readonly Pick<NormLayer, 'mean'>[]): Framework | null {
  for (const { mean } of layers) {
    const tensor = storedTensorOf(mean);
    if (tensor === null) continue;
    // A state dict of a bare norm layer has names without a path.
    const name = `.${dottedNameOf(tensor.name, checkpoint)}`;
    const convention = NAMING_CONVENTIONS.find(({ mean: ending }) => name.endsWith(ending));
    if (convention !== undefined) return convention.framework;
  }
  return null;
}

/** A checkpoint with what was found in it. */
export interface ExaminedCheckpoint extends LayersAndLearned {
  readonly checkpoint: Checkpoint;
}

/**
 * The linear layers of one side that no live norm layer of it follows for certain. Of a file of names those with a bias:
 * folding leaves one, and a convolution in front of a live norm layer has none as a rule.
 */
export function listFreeLinears({ checkpoint, layers, learned }: ExaminedCheckpoint): readonly LinearLayer[] {
  if (checkpoint.graph !== null) return findFreeLinears(checkpoint);
  const biased = findBiasedLinears(learned);
  if (biased.length === 0) return biased;
  const fed = new Set(
    layers.flatMap((layer) =>
      layer.areNeighboursCertain === false
        ? []
        : (findFeedingLinear(layer, checkpoint, learned)?.weightName ?? []),
    ),
  );
  return biased.filter(({ weightName }) => !fed.has(weightName));
}
