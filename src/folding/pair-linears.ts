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

/** Two linear layers that are the same one before and after. Positions are indices into the two given lists. */
interface LinearPair {
  readonly before: number;
  readonly after: number;
  readonly pairedBy: PairedBy;
}

/**
 * Pairs linear layers of two checkpoints: by the module paths that metadata, node names and weights' names tell, then
 * by values (one's channels are multiples of the other's), then by position where the shapes agree one to one.
 *
 * @throws CheckpointError when a weight cannot be read.
 */
export async function pairLinears(
  before: readonly LinearCandidate[],
  after: readonly LinearCandidate[],
  edits: readonly PrefixEdit[],
): Promise<readonly LinearPair[]> {
  const left = new Set(before.keys());
  const right = new Set(after.keys());
  const pairs: LinearPair[] = [];
  const join = (one: number, other: number, pairedBy: PairedBy) => {
    pairs.push({ before: one, after: other, pairedBy });
    left.delete(one);
    right.delete(other);
  };
  for (const namesOf of [normNames, pathNames, weightNames]) {
    const byName = new Map<string, number>();
    for (const index of right) for (const name of namesOf(at(after, index))) byName.set(name, index);
    for (const one of [...left]) {
      const other = namesOf(at(before, one)).flatMap((name) => {
        const translated = translateName(name, edits, (candidate) => byName.has(candidate));
        return translated === null ? [] : (byName.get(translated) ?? []);
      })[0];
      if (other !== undefined && right.has(other) && haveSameLayout(at(before, one), at(after, other)))
        join(one, other, 'name');
    }
  }
  for (const one of [...left]) {
    const other = await findProportional(
      at(before, one),
      [...right].filter((index) => needsValues(at(before, one), at(after, index))),
      after,
    );
    if (other !== null) join(one, other, 'values');
  }
  for (const [one, other] of matchPositions([...left], [...right], before, after)) join(one, other, 'order');
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

/**
 * Whether values may tell what names do not: one side has lost its own, or folding exporters gave theirs another start
 * on either side.
 */
function needsValues({ linear: one }: LinearCandidate, { linear: other }: LinearCandidate): boolean {
  return one.path === null || other.path === null || one.looksFolded || other.looksFolded;
}

/** The one candidate whose channels are multiples of the layer's; the first where several are. */
async function findProportional(
  { linear }: LinearCandidate,
  candidates: readonly number[],
  after: readonly LinearCandidate[],
): Promise<number | null> {
  for (const index of candidates) {
    const other = at(after, index);
    if (!haveSameLayout({ linear, normName: null }, other)) continue;
    const compared = await compareChannelScales(linear.weight, other.linear.weight, linear);
    // One weight per channel is always proportional: no proof.
    if (compared.kind === 'proportional' && compared.weightsPerChannel > 1) return index;
  }
  return null;
}

function matchPositions(
  left: readonly number[],
  right: readonly number[],
  before: readonly LinearCandidate[],
  after: readonly LinearCandidate[],
): readonly (readonly [number, number])[] {
  const areNamesLost =
    left.every((index) => at(before, index).linear.path === null) ||
    right.every((index) => at(after, index).linear.path === null);
  if (!areNamesLost || left.length !== right.length) return [];
  const pairs = left.flatMap((one, position) => {
    const other = right[position];
    return other !== undefined && haveSameLayout(at(before, one), at(after, other))
      ? [[one, other] as const]
      : [];
  });
  return pairs.length === left.length ? pairs : [];
}

function haveSameLayout({ linear: one }: LinearCandidate, { linear: other }: LinearCandidate): boolean {
  return one.outputAxis === other.outputAxis && haveSameShape(one.weight, other.weight);
}

function at(candidates: readonly LinearCandidate[], index: number): LinearCandidate {
  const candidate = candidates[index];
  if (candidate === undefined) throw new RangeError(`there is no linear layer ${index}`);
  return candidate;
}
