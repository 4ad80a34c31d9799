// Tells what can be told of weights that one file computes of other tensors, as weight_norm does, and the other holds.

import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { quote } from '../errors.js';
import { dottedTensorsOf, joinPath, listFirst, splitPath } from '../norm/naming.js';
import type { JudgedTensors, LearnedComparison, TensorPair } from './compare-learned.js';
import { translateName } from './pair-layers.js';

/** One side's learned tensors, by dotted name. */
interface WeightsSide {
  readonly checkpoint: Checkpoint;
  readonly learned: ReadonlyMap<string, Tensor>;
}

/** A weight that PyTorch computes before every forward pass: `conv.weight` of `conv.weight_g` and `conv.weight_v`. */
interface ComputedWeight {
  /** The module path. */
  readonly path: string;
  readonly way: 'weight_norm' | 'spectral_norm' | 'a parametrization';
  /** Dotted names of the learned tensors that it is computed of, in the order in which every spelling has them. */
  readonly parts: readonly string[];
  /** The call that puts the product in their place. */
  readonly removal: string;
}

/** How PyTorch names the parts of a computed weight. */
interface Spelling extends Pick<ComputedWeight, 'way' | 'removal'> {
  /** Learned tensors, the first of which no other spelling begins with; all must be there. */
  readonly parts: readonly [string, ...string[]];
  /** A buffer that must be there, too. */
  readonly buffer?: string;
}

const REMOVE_PARAMETRIZATION = "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')";

/** The names in state dicts (torch/nn/utils/weight_norm.py, spectral_norm.py, parametrizations.py); the first that fits. */
const SPELLINGS: readonly Spelling[] = [
  {
    way: 'weight_norm',
    parts: ['weight_g', 'weight_v'],
    removal: 'torch.nn.utils.remove_weight_norm(module)',
  },
  {
    way: 'spectral_norm',
    parts: ['weight_orig'],
    buffer: 'weight_u',
    removal: 'torch.nn.utils.remove_spectral_norm(module)',
  },
  {
    way: 'weight_norm',
    parts: ['parametrizations.weight.original0', 'parametrizations.weight.original1'],
    removal: REMOVE_PARAMETRIZATION,
  },
  {
    way: 'spectral_norm',
    parts: ['parametrizations.weight.original'],
    buffer: 'parametrizations.weight.0._u',
    removal: REMOVE_PARAMETRIZATION,
  },
  {
    way: 'a parametrization',
    parts: ['parametrizations.weight.original'],
    removal: REMOVE_PARAMETRIZATION,
  },
];

/** The computed weights of a side, by module path, in the order of the file. */
function findComputedWeights({ checkpoint, learned }: WeightsSide): ReadonlyMap<string, ComputedWeight> {
  const found = new Map<string, ComputedWeight>();
  const tensors = dottedTensorsOf(checkpoint);
  for (const name of learned.keys()) {
    for (const { parts, buffer, ...spelling } of SPELLINGS) {
      if (!`.${name}`.endsWith(`.${parts[0]}`)) continue;
      const path = name.slice(0, -parts[0].length - 1);
      const names = parts.map((part) => joinPath(path, part));
      const isWhole =
        names.every((part) => learned.has(part)) &&
        (buffer === undefined || tensors.has(joinPath(path, buffer)));
      if (!isWhole || found.has(path)) continue;
      found.set(path, { ...spelling, path, parts: names });
    }
  }
  return found;
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
  const [left, right] = [findComputedWeights(before), findComputedWeights(after)];
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
  const [left, right] = [findComputedWeights(before), findComputedWeights(after)];
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
