// Finds convolutions that norm layers may have been folded into, and pairs those of before with those of after.

import { type Checkpoint, haveSameShape, type Tensor } from '../checkpoint/checkpoint.js';
import {
  findNamesake,
  type PairedBy,
  type Pairing,
  type PrefixEdit,
  pairInStep,
} from '../compare/pair-layers.js';
import { dottedTensorsOf, splitPath } from '../norm/naming.js';
import {
  findBiasedLinears,
  findFeedingLinear,
  findFreeLinears,
  type LayersAndLearned,
  type LinearLayer,
} from '../norm/norm-layer.js';
import { compareChannelScales } from './channel-scales.js';

/**
 * Whether folded norm layers are looked for among all convolutions: where a norm layer has no live partner, where a
 * convolution bears a sign of one, and where an exporter leaves none. Elsewhere only such convolutions are looked at whose
 * names pair and whose biases differ.
 */
export function mayBeFolded(before: FoldingSide, after: FoldingSide, pairing: Pairing): boolean {
  const { pairs, onlyBefore, onlyAfter } = pairing;
  if (pairs.length === 0 || onlyBefore.length + onlyAfter.length > 0) return true;
  const free = [before, after].flatMap(listFreeLinears);
  return free.length > 0 && mayHideNorm(free, before, after);
}

/**
 * Whether some convolution that no live norm layer follows may hide one. PyTorch's exporters leave signs where they
 * fold, and its state dicts have no exporter: without a sign, theirs is an ordinary one in all likelihood. Of other
 * exporters only the values tell.
 */
export function mayHideNorm(
  linears: readonly LinearLayer[],
  before: FoldingSide,
  after: FoldingSide,
): boolean {
  if (linears.some(({ looksFolded }) => looksFolded)) return true;
  const graphs = [before, after].flatMap(({ checkpoint }) => checkpoint.graph ?? []);
  return graphs.length > 0 && graphs.every(({ producer }) => !producer.startsWith('pytorch'));
}

/** A linear layer to find a partner for, with the names that its norm layer gives it. */
export interface LinearCandidate {
  readonly linear: LinearLayer;
  /** The module path of its norm layer, where one is live or named on this side. */
  readonly normName: string | null;
}

/** Two linear layers that are the same one before and after. */
export interface LinearPair<Candidate extends LinearCandidate> {
  readonly before: Candidate;
  readonly after: Candidate;
  readonly pairedBy: PairedBy;
}

/**
 * Pairs linear layers of two checkpoints: by the module paths that metadata, node names and weights' names tell, then
 * by values (one's channels are multiples of the other's), then by position where the shapes agree one to one.
 *
 * @param areGraphs whether both come from graphs and in their order, so that positions tell where no name pairs.
 * @throws CheckpointError when a weight cannot be read.
 */
export async function pairLinears<Candidate extends LinearCandidate>(
  before: readonly Candidate[],
  after: readonly Candidate[],
  edits: readonly PrefixEdit[],
  areGraphs: boolean,
): Promise<readonly LinearPair<Candidate>[]> {
  const [left, right] = [new Set(before), new Set(after)];
  const pairs: LinearPair<Candidate>[] = [];
  const join = (one: Candidate, other: Candidate, pairedBy: PairedBy) => {
    pairs.push({ before: one, after: other, pairedBy });
    left.delete(one);
    right.delete(other);
  };
  for (const namesOf of NAMES) {
    const byName = new Map(
      [...right].flatMap((other) => namesOf(other).map((name) => [name, other] as const)),
    );
    for (const one of [...left]) {
      const [other] = namesOf(one).flatMap((name) => findNamesake(name, edits, byName) ?? []);
      if (other !== undefined && right.has(other) && haveSameLayout(one, other)) join(one, other, 'name');
    }
  }
  for (const one of [...left]) {
    const other = await findProportional(one, [...right]);
    if (other !== null) join(one, other, 'values');
  }
  const isInOrder = areGraphs && pairs.length === 0;
  const areNamesLost = [left, right].some((side) => [...side].every(({ linear }) => linear.path === null));
  if (areNamesLost || isInOrder)
    for (const [one, other] of pairInStep([...left], [...right], haveSameLayout)) join(one, other, 'order');
  return pairs;
}

/** Exporters number what they fold (`493`, `onnx::Conv_493`): such a name means another tensor in every file. */
const GENERATED_NAME = /^(?:onnx::\w+_)?\d+$/;

/** What a linear layer is known by, the surest first. */
const NAMES: readonly ((candidate: LinearCandidate) => readonly string[])[] = [
  ({ linear, normName }) => [normName, linear.foldedNormPath].filter((name) => name !== null),
  ({ linear: { path } }) => (path === null ? [] : [path]),
  ({ linear: { weightName } }) => (GENERATED_NAME.test(weightName) ? [] : [weightName]),
];

/** The first candidate whose channels are multiples of the layer's; null where there is none. */
async function findProportional<Candidate extends LinearCandidate>(
  one: Candidate,
  candidates: readonly Candidate[],
): Promise<Candidate | null> {
  const { linear } = one;
  for (const candidate of candidates) {
    const other = candidate.linear;
    // Values tell what names do not where one side has lost its own, or where folding exporters gave theirs another start.
    const needsValues = [linear, other].some(({ path, looksFolded }) => path === null || looksFolded);
    if (!needsValues || !haveSameLayout(one, candidate)) continue;
    const compared = await compareChannelScales(linear.weight, other.weight, linear);
    // One weight per channel is always proportional: no proof.
    if (compared.kind === 'proportional' && compared.weightsPerChannel > 1) return candidate;
  }
  return null;
}

function haveSameLayout({ linear: one }: LinearCandidate, { linear: other }: LinearCandidate): boolean {
  const mayCountAlike =
    one.outputAxis === other.outputAxis || [one, other].some(({ otherLayout }) => otherLayout !== undefined);
  return mayCountAlike && one.channels === other.channels && haveSameShape(one.weight, other.weight);
}

/** One side of an audit, as folding looks at it. */
export interface FoldingSide extends LayersAndLearned {
  readonly checkpoint: Checkpoint;
}

/**
 * The linear layers of one side that no live norm layer of it follows. Of a file of names those with a bias: folding leaves
 * one, and a convolution in front of a live norm layer has none as a rule.
 */
export function listFreeLinears({ checkpoint, layers, learned }: FoldingSide): readonly LinearLayer[] {
  if (checkpoint.graph !== null) return findFreeLinears(checkpoint);
  const fed = new Set(
    layers.flatMap((layer) => findFeedingLinear(layer, checkpoint, learned)?.weightName ?? []),
  );
  return findBiasedLinears(learned).filter(({ weightName }) => !fed.has(weightName));
}

/** How modules are called that normalise without a bias (RMSNorm): `ln_1`, `input_layernorm`. */
const NORM_NAME = /norm|(?:^|[._])ln(?:[._\d]|$)/i;

/**
 * Whether a model without BatchNorm has another normalisation (LayerNorm, GroupNorm), whose scale is a vector: then
 * convolutions and linear layers with a bias are what they look like, and nothing was folded into them.
 */
export function hasOtherNorms(tensors: ReadonlyMap<string, Tensor>): boolean {
  for (const [name, { shape }] of tensors) {
    const [path, leaf] = splitPath(name);
    if (leaf !== 'weight' || shape.length !== 1 || shape[0] === 1) continue;
    if (NORM_NAME.test(path) || tensors.has(path === '' ? 'bias' : `${path}.bias`)) return true;
  }
  return false;
}

/** Whether a file of names may hold convolutions or linear layers into which norm layers were folded, by names alone. */
export function mayBeFused(checkpoint: Checkpoint): boolean {
  const tensors = dottedTensorsOf(checkpoint);
  return checkpoint.graph === null && !hasOtherNorms(tensors) && findBiasedLinears(tensors).length > 0;
}
