import { quote } from '../errors.js';
import { splitPath } from '../norm/naming.js';
import { type LearnedComparisons, listTensorNames } from './compare-learned.js';
import { type Finding, type FindingPolicy, makeFinding } from './finding.js';

/** The findings about learned tensors that `--frozen` says must not change, and that did. */
export function findChangedFrozenWeights(
  { compared }: LearnedComparisons,
  policy: FindingPolicy,
): readonly Finding[] {
  return compared
    .filter((tensor) => tensor.equality === 'changed' && policy.isFrozen(listTensorNames(tensor)))
    .map(({ name, reshaped }) => {
      const [module, leaf] = splitPath(name);
      const sizes =
        reshaped === undefined
          ? ''
          : ` from the shape [${reshaped.before.join(', ')}] to [${reshaped.after.join(', ')}]`;
      return makeFinding(
        'frozen-weights-changed',
        module,
        `its learned tensor ${quote(leaf)} changed${sizes}, although --frozen says that it must not`,
      );
    });
}
