import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { isDecodable } from '../checkpoint/dtype.js';
import type { ConstantInput, Graph, NormNode } from '../checkpoint/graph.js';
import { failUnreachable } from '../errors.js';
import { dottedNameOf, dottedTensorsOf, modulePathOf, wrappedNameOf } from './dotted-names.js';
import { NAMING_CONVENTIONS } from './naming.js';
import type { NormLayer, Statistic } from './norm-layer.js';

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

/** The norm layers of a graph, in topological order: one for each BatchNormalization node. */
export function findGraphLayers(checkpoint: Checkpoint, graph: Graph): readonly NormLayer[] {
  const taken = new Set<string>();
  const copies = new Map<string, number>();
  return graph.norms.map((node, index) => {
    const naming = nameLayer(node, index, { taken, copies, checkpoint });
    taken.add(naming.name);
    return describeNode(node, naming, checkpoint);
  });
}

/** What a graph tells of a layer's name. */
type Naming = Pick<NormLayer, 'name' | 'wrappedName' | 'isNamed'>;

function describeNode(node: NormNode, naming: Naming, checkpoint: Checkpoint): NormLayer {
  const [mean, variance] = [toStatistic(node.mean, 'mean'), toStatistic(node.variance, 'variance')];
  const stored = [node.mean, node.variance, node.gamma, node.beta].flatMap((input) => toTensor(input) ?? []);
  return {
    name: naming.name,
    wrappedName: naming.wrappedName,
    isNamed: naming.isNamed,
    kind: 'BatchNormalization',
    channels: stored[0]?.elementCount ?? 0,
    mean,
    variance,
    gamma: toTensor(node.gamma),
    beta: toTensor(node.beta),
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
  for (const suffix of ROLE_SUFFIXES[role] ?? []) {
    if (name.endsWith(suffix) && name.length > suffix.length) return name.slice(0, -suffix.length);
  }
  const stripped = name.replace(TENSORFLOW_TAIL, '');
  return stripped === name || stripped === '' ? null : stripped;
}

function toTensor(input: ConstantInput): Tensor | null {
  return input.kind === 'constant' ? input.tensor : null;
}

function toStatistic(input: ConstantInput, role: string): Statistic {
  switch (input.kind) {
    case 'constant':
      return isDecodable(input.tensor.dtype)
        ? { kind: 'stored', tensor: input.tensor, source: input.source }
        : {
            kind: 'unresolved',
            reason: `the ${role} is stored as ${input.tensor.dtype}, which holds no readable floats`,
          };
    case 'unresolved':
      return { kind: 'unresolved', reason: input.reason };
    case 'absent':
      return { kind: 'unresolved', reason: `the node has no ${role} input` };
    default:
      return failUnreachable(input);
  }
}
