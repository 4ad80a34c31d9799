// Pairs a convolution of before with the one into which after folded its norm layer.

import { type Checkpoint, haveSameShape } from '../checkpoint/checkpoint.js';
import { type PairedBy, type Pairing, type PrefixEdit, translateName } from '../compare/pair-layers.js';
import { findFreeLinears, type LinearLayer } from '../norm/norm-layer.js';
import { compareChannelScales } from './channel-scales.js';

/** One side of an audit. */
interface Side {
  readonly checkpoint: Checkpoint;
}

/**
 * Whether folded norm layers have to be looked for at all: not among names alone, and not where every norm layer has a
 * live partner and no convolution bears a sign of another.
 */
export function mayBeFolded(before: Side, after: Side, pairing: Pairing): boolean {
  if (before.checkpoint.graph === null && after.checkpoint.graph === null) return false;
  const { pairs, onlyBefore, onlyAfter } = pairing;
  if (pairs.length === 0 || onlyBefore.length + onlyAfter.length > 0) return true;
  const free = [before, after].flatMap(({ checkpoint }) => findFreeLinears(checkpoint));
  return free.length > 0 && mayHideNorm(free, before, after);
}

/**
 * Whether some convolution that no live norm layer follows may hide one. PyTorch's exporters leave signs where they
 * fold, so without any a convolution of theirs is an ordinary one; of other exporters only the values tell.
 */
export function mayHideNorm(linears: readonly LinearLayer[], before: Side, after: Side): boolean {
  if (linears.some(({ looksFolded }) => looksFolded)) return true;
  return [before, after].every(({ checkpoint }) => checkpoint.graph?.producer.startsWith('pytorch') !== true);
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
 * @throws CheckpointError when a weight cannot be read.
 */
export async function pairLinears<Candidate extends LinearCandidate>(
  before: readonly Candidate[],
  after: readonly Candidate[],
  edits: readonly PrefixEdit[],
): Promise<readonly LinearPair<Candidate>[]> {
  const [left, right] = [new Set(before), new Set(after)];
  const pairs: LinearPair<Candidate>[] = [];
  const join = (one: Candidate, other: Candidate, pairedBy: PairedBy) => {
    pairs.push({ before: one, after: other, pairedBy });
    left.delete(one);
    right.delete(other);
  };
  for (const namesOf of [normNames, pathNames, weightNames]) {
    const byName = new Map(
      [...right].flatMap((other) => namesOf(other).map((name) => [name, other] as const)),
    );
    for (const one of [...left]) {
      const [other] = namesOf(one).flatMap((name) => {
        const translated = translateName(name, edits, (candidate) => byName.has(candidate));
        return translated === null ? [] : (byName.get(translated) ?? []);
      });
      if (other !== undefined && right.has(other) && haveSameLayout(one, other)) join(one, other, 'name');
    }
  }
  for (const one of [...left]) {
    const other = await findProportional(one, [...right]);
    if (other !== null) join(one, other, 'values');
  }
  for (const [one, other] of matchPositions([...left], [...right])) join(one, other, 'order');
  return pairs;
}

function normNames({ linear, normName }: LinearCandidate): readonly string[] {
  return [normName, linear.foldedNormPath].filter((name) => name !== null);
}

function pathNames({ linear }: LinearCandidate): readonly string[] {
  return linear.path === null ? [] : [linear.path];
}

/** Exporters number what they fold (`493`, `onnx::Conv_493`): such a name means another tensor in every file. */
const GENERATED_NAME = /^(?:onnx::\w+_)?\d+$/;

function weightNames({ linear }: LinearCandidate): readonly string[] {
  return GENERATED_NAME.test(linear.weightName) ? [] : [linear.weightName];
}

/** The first candidate whose channels are multiples of the layer's; null where there is none. */
async function findProportional<Candidate extends LinearCandidate>(
  { linear }: LinearCandidate,
  candidates: readonly Candidate[],
): Promise<Candidate | null> {
  for (const candidate of candidates) {
    const other = candidate.linear;
    // Values tell what names do not where one side has lost its own, or where folding exporters gave theirs another start.
    const needsValues = [linear, other].some(({ path, looksFolded }) => path === null || looksFolded);
    if (!needsValues || !haveSameLayout({ linear }, candidate)) continue;
    const compared = await compareChannelScales(linear.weight, other.weight, linear);
    // One weight per channel is always proportional: no proof.
    if (compared.kind === 'proportional' && compared.weightsPerChannel > 1) return candidate;
  }
  return null;
}

function matchPositions<Candidate extends LinearCandidate>(
  left: readonly Candidate[],
  right: readonly Candidate[],
): readonly (readonly [Candidate, Candidate])[] {
  const areNamesLost = [left, right].some((side) => side.every(({ linear }) => linear.path === null));
  if (!areNamesLost || left.length !== right.length) return [];
  const pairs = left.flatMap((one, position) => {
    const other = right[position];
    return other !== undefined && haveSameLayout(one, other) ? [[one, other] as const] : [];
  });
  return pairs.length === left.length ? pairs : [];
}

function haveSameLayout(
  { linear: one }: Pick<LinearCandidate, 'linear'>,
  { linear: other }: Pick<LinearCandidate, 'linear'>,
): boolean {
  return one.outputAxis === other.outputAxis && haveSameShape(one.weight, other.weight);
}
