import { quote } from '../errors.js';
import { splitPath } from '../norm/naming.js';
import type { LearnedComparisons } from './compare-learned.js';
import { type Finding, type FindingPolicy, makeFinding } from './findings.js';

/** The findings about learned tensors that `--frozen` says must not change, and that did. */
export function findChangedFrozenWeights(
  { compared }: LearnedComparisons,
  policy: FindingPolicy,
): readonly Finding[] {
  return compared
    .filter(({ name, equality }) => equality === 'changed' && policy.isFrozen(name))
    .map(({ name }) => {
      const [module, leaf] = splitPath(name);
      return makeFinding(
        'frozen-weights-changed',
        module,
        `its learned tensor ${quote(leaf)} changed, although --frozen says that it must not`,
      );
    });
}
