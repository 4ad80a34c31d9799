import { type Checkpoint, haveSameShape, type Tensor } from '../checkpoint/checkpoint.js';
import { isDecodable } from '../checkpoint/dtype.js';
import type { ConstantInput } from '../checkpoint/graph.js';
import { dottedNameOf, modulePathOf } from './dotted-names.js';
import { splitPath } from './naming.js';
import type { NormLayer } from './norm-layer.js';

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
}

/**
 * The linear layers of a graph that no live norm layer follows, in topological order: where norm layers may have been
 * folded. Empty without a graph.
 */
export function findFreeLinears(checkpoint: Checkpoint): readonly LinearLayer[] {
  return (checkpoint.graph?.linears ?? []).flatMap((node) => {
    const { weight, bias, feedsNorm } = node;
    // A bias that is computed at run time says nothing; the layer is no ground to stand on.
    if (feedsNorm || weight.kind !== 'constant' || bias.kind === 'unresolved') return [];
    return [toLinearLayer(node, { weight: weight.tensor, bias: toTensor(bias), checkpoint })];
  });
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
  if (graph === null) return findNamedLinear(layer, learned);
  const node = layer.feedingLinear === null ? undefined : graph.linears[layer.feedingLinear];
  return node?.weight.kind === 'constant' && node.bias.kind !== 'unresolved'
    ? toLinearLayer(node, { weight: node.weight.tensor, bias: toTensor(node.bias), checkpoint })
    : null;
}

/** What was found in the learned tensors of a checkpoint, by neighbours and channels. */
type FoundLinears = Map<readonly string[], Map<number, LinearLayer | null>>;

/** Layers whose feed may be anything share one list, which is as long as the file: it is looked through once. */
const foundLinears = new WeakMap<ReadonlyMap<string, Tensor>, FoundLinears>();

function findNamedLinear(
  { neighbours, channels }: NormLayer,
  learned: ReadonlyMap<string, Tensor>,
): LinearLayer | null {
  const byNeighbours: FoundLinears = foundLinears.get(learned) ?? new Map();
  foundLinears.set(learned, byNeighbours);
  const byChannels = byNeighbours.get(neighbours) ?? new Map<number, LinearLayer | null>();
  byNeighbours.set(neighbours, byChannels);
  const known = byChannels.get(channels);
  if (known !== undefined) return known;
  const found = searchNamedLinear(neighbours, channels, learned);
  byChannels.set(channels, found);
  return found;
}

function searchNamedLinear(
  neighbours: readonly string[],
  channels: number,
  learned: ReadonlyMap<string, Tensor>,
): LinearLayer | null {
  for (const name of neighbours) {
    const tensor = learned.get(name);
    const [path, leaf] = splitPath(name);
    if (tensor === undefined || !WEIGHT_LEAVES.has(leaf) || tensor.shape.length < 2) continue;
    const axes = findOutputAxis(tensor.shape, channels);
    if (axes !== null) return describeNamedLinear(path, leaf, learned, { ...axes, channels });
  }
  return null;
}

/** Names of weights that count their outputs as PyTorch does. */
const WEIGHT_LEAVES: ReadonlySet<string> = new Set(['weight', 'w']);

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
  const linear = describeNamedLinear(path, 'weight', learned, { outputAxis, groups, channels });
  return linear !== null && haveSameShape(linear.weight, weight) ? linear : null;
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
    if (!WEIGHT_LEAVES.has(leaf) || shape.length < 2 || !widths.has(channels)) return [];
    return describeNamedLinear(path, leaf, learned, { outputAxis: 0, groups: 1, channels }) ?? [];
  });
}

function describeNamedLinear(
  path: string,
  leaf: string,
  learned: ReadonlyMap<string, Tensor>,
  layout: Pick<LinearLayer, 'outputAxis' | 'groups' | 'channels'>,
): LinearLayer | null {
  const at = (name: string) => (path === '' ? name : `${path}.${name}`);
  const weight = learned.get(at(leaf));
  if (weight === undefined) return null;
  const biasName = at(leaf === 'w' ? 'b' : 'bias');
  const bias = learned.get(biasName) ?? null;
  // What such a bias adds cannot be told, and to leave it out would make it zeros.
  if (bias !== null && (!isDecodable(bias.dtype) || bias.elementCount !== layout.channels)) return null;
  return {
    path,
    foldedNormPath: null,
    nodeName: path,
    weightName: at(leaf),
    biasName: bias === null ? '' : biasName,
    weight,
    bias,
    ...layout,
    looksFolded: false,
  };
}

/** PyTorch: Conv and Linear weights count outputs first; ConvTranspose's second, within each group. */
function findOutputAxis(
  shape: readonly number[],
  channels: number,
): { outputAxis: number; groups: number } | null {
  const [first = 0, second = 0] = shape;
  if (first === channels) return { outputAxis: 0, groups: 1 };
  if (second > 0 && channels % second === 0 && first % (channels / second) === 0) {
    return { outputAxis: 1, groups: channels / second };
  }
  return null;
}

type LinearNode = NonNullable<Checkpoint['graph']>['linears'][number];

function toLinearLayer(
  node: LinearNode,
  { weight, bias, checkpoint }: { weight: Tensor; bias: Tensor | null; checkpoint: Checkpoint },
): LinearLayer {
  const { nodeName, outputAxis, outputChannels, looksFolded } = node;
  const read = (path: string | null) => (path === null ? null : modulePathOf(path, checkpoint));
  return {
    path: read(node.path),
    foldedNormPath: read(node.foldedNormPath),
    nodeName,
    weightName: dottedNameOf(node.weightName, checkpoint),
    biasName: dottedNameOf(node.biasName, checkpoint),
    weight,
    bias,
    outputAxis,
    // Only a ConvTranspose counts its output channels within groups.
    groups: outputAxis === 1 && node.op === 'ConvTranspose' ? node.groups : 1,
    channels: outputChannels,
    looksFolded,
  };
}

function toTensor(input: ConstantInput): Tensor | null {
  return input.kind === 'constant' ? input.tensor : null;
}
