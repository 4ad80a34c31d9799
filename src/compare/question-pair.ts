import type { LayerComparison } from './compare-layers.js';
import type { LearnedComparisons } from './compare-learned.js';
import type { UnpairedLayers } from './unpaired-layers.js';

/** What an audit found of both checkpoints. */
interface Pair {
  readonly layers: readonly LayerComparison[];
  readonly learned: LearnedComparisons;
  readonly unpaired: UnpairedLayers;
}

/**
 * Doubts whether the two checkpoints are the right ones, as sentences: an after that holds before's values throughout
 * was perhaps never trained, and one that is behind before in all that only grows is perhaps before itself.
 */
export function questionPair(pair: Pair): readonly string[] {
  if (holdSameValues(pair)) {
    return [
      'before and after hold the same values in every norm layer and learned tensor: was after really trained?',
    ];
  }
  const signs = findSignsOfSwapping(pair);
  return signs.length === 0
    ? []
    : [`${signs.join(', and ')}: are the two files swapped? Before comes first.`];
}

function holdSameValues({ layers, learned, unpaired }: Pair): boolean {
  const { withoutStatistics, otherWidth, onlyBefore, onlyAfter } = unpaired;
  const alone = [...withoutStatistics, ...otherWidth, ...onlyBefore, ...onlyAfter];
  return (
    layers.length > 0 &&
    alone.length + learned.onlyBefore.length + learned.onlyAfter.length === 0 &&
    layers.every(isSame) &&
    learned.compared.every(({ equality }) => equality === 'exact')
  );
}

/** To the last bit: rounding is a trace of something, and folding proves equality up to rounding only. */
function isSame({ status, via, equality, batches, epsilonAfter }: LayerComparison): boolean {
  return (
    status === 'locked' &&
    via === 'live' &&
    equality === 'exact' &&
    (batches ?? 0n) === 0n &&
    epsilonAfter === undefined
  );
}

/**
 * What training never does: it counts batches up, and a fine-tune that drops a part of the model adds another. A layer
 * that was reset counts from 0 again.
 */
function findSignsOfSwapping({ layers, learned, unpaired }: Pair): readonly string[] {
  const moves = layers.flatMap(({ batches, isReset }) =>
    batches === null || batches === 0n || isReset ? [] : [batches],
  );
  if (moves.some((batches) => batches > 0n)) return [];
  const gone = unpaired.onlyBefore.length;
  const lacksParts =
    gone > 0 && learned.onlyBefore.length > 0 && unpaired.onlyAfter.length + learned.onlyAfter.length === 0;
  return [
    ...(moves.length > 0 ? ['the batch counts went down'] : []),
    ...(lacksParts ? [`after lacks ${gone} of the norm layers of before and has none of its own`] : []),
  ];
}
