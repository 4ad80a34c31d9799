// Tells what can be told of weights that one file computes of other tensors, as weight_norm does, and the other holds.

import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { quote } from '../errors.js';
import { type ComputedWeight, findComputedWeights } from '../norm/computed-weights.js';
import { joinPath, listFirst, splitPath } from '../norm/naming.js';
import type { JudgedTensors, LearnedComparison, TensorPair } from './compare-learned.js';
import { translateName } from './pair-layers.js';

/** One side's learned tensors, by dotted name. */
interface WeightsSide {
  readonly checkpoint: Checkpoint;
  readonly learned: ReadonlyMap<string, Tensor>;
}

/** What computed weights leave for the comparison of learned tensors. */
interface RelatedWeights {
  /** Parts that two versions of PyTorch name otherwise, such as `weight_g` and `parametrizations.weight.original0`. */
  readonly byPart: readonly TensorPair[];
  /** Whether the parts of some weight stand beside the product of it. */
  readonly isOpen: boolean;
  /** What was judged, with the parts of one side beside the product of the other: these are not to be compared. */
  readonly judged: JudgedTensors;
}

/**
 * Relates weights that are computed on one side at least. Equal parts give equal products; whether a product comes of
 * certain parts is left open, since it was rounded on the way.
 */
export function relateComputedWeights(
  before: WeightsSide,
  after: WeightsSide,
  judged: JudgedTensors,
): RelatedWeights {
  const [left, right] = [findAll(before), findAll(after)];
  if (left.size + right.size === 0) return { byPart: [], isOpen: false, judged };
  const byPart: TensorPair[] = [];
  const incomparable: LearnedComparison[] = [];
  const exists = (path: string) => right.has(path) || after.learned.has(joinPath(path, 'weight'));
  for (const path of new Set([...left.keys(), ...listPlain(before)])) {
    const afterPath = translateName(path, judged.edits, exists);
    if (afterPath === null) continue;
    const [one, other] = [left.get(path), right.get(afterPath)];
    if (one === undefined && other === undefined) continue;
    if (one !== undefined && one.way === other?.way) byPart.push(...zipParts(one, other, before, after));
    else
      for (const beforeName of one?.parts ?? [joinPath(path, 'weight')])
        for (const afterName of other?.parts ?? [joinPath(afterPath, 'weight')])
          incomparable.push(describeIncomparable(beforeName, afterName, before));
  }
  return {
    byPart,
    isOpen: incomparable.length > 0,
    judged: {
      ...judged,
      learned: [...judged.learned, ...incomparable],
      judgedBefore: new Set([...judged.judgedBefore, ...incomparable.map(({ beforeName }) => beforeName)]),
      judgedAfter: new Set([...judged.judgedAfter, ...incomparable.map(({ afterName }) => afterName)]),
    },
  };
}

function findAll({ checkpoint, learned }: WeightsSide): ReadonlyMap<string, ComputedWeight> {
  return findComputedWeights(checkpoint, learned);
}

/** The paths of modules with a weight of their own. */
function listPlain({ learned }: WeightsSide): readonly string[] {
  return [...learned.keys()].flatMap((name) => {
    const [path, leaf] = splitPath(name);
    return leaf === 'weight' ? [path] : [];
  });
}

/** Both spellings have the parts in one order. */
function zipParts(
  one: ComputedWeight,
  other: ComputedWeight,
  before: WeightsSide,
  after: WeightsSide,
): readonly TensorPair[] {
  return one.parts.flatMap((name, index) => {
    const afterName = other.parts[index] ?? '';
    const [tensor, partner] = [before.learned.get(name), after.learned.get(afterName)];
    return tensor === undefined || partner === undefined ? [] : [{ name, afterName, tensor, partner }];
  });
}

function describeIncomparable(
  beforeName: string,
  afterName: string,
  { learned }: WeightsSide,
): LearnedComparison {
  const elementCount = learned.get(beforeName)?.elementCount ?? 0;
  return { name: afterName, beforeName, afterName, elementCount, equality: 'incomparable' };
}

/** So many modules are named; the rest is counted. */
const MAX_NAMED = 3;

/**
 * Where one side alone computes weights, what follows from it and what to do, as a sentence; null where neither does, or
 * both do.
 */
export function describeComputedWeights(before: WeightsSide, after: WeightsSide): string | null {
  const [left, right] = [findAll(before), findAll(after)];
  const [side, other, computed] =
    left.size > 0 ? (['before', 'after', left] as const) : (['after', 'before', right] as const);
  const [first] = computed.values();
  if (first === undefined || (left.size > 0 && right.size > 0)) return null;
  const named = listFirst(
    [...computed.keys()].map((path) => quote(path)),
    MAX_NAMED,
  );
  const parts = first.parts.map((name) => name.slice(first.path === '' ? 0 : first.path.length + 1));
  return (
    `in ${side} the weights of ${named} are computed of ${parts.join(' and ')} (${first.way}), in ${other} they are not: ` +
    `whether they stayed cannot be told. Take it out of the model that ${side} is of, and save that: ${first.removal}`
  );
}
