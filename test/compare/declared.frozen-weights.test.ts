import { expect, test } from 'vitest';
import type { LearnedComparison } from '../../src/compare/compare-learned.js';
import { findChangedFrozenWeights } from '../../src/compare/declared.js';
import { matchNames } from '../../src/compare/globs.js';
import { learnedComparisons, learnedOf } from '../build/layers.js';

const findingsOf = (frozen: readonly string[], ...learned: readonly LearnedComparison[]) =>
  findChangedFrozenWeights(learnedComparisons(...learned), {
    isAllowed: () => false,
    isFrozen: matchNames(frozen, []),
    minShift: 0,
  });

test('a learned tensor that changed under a frozen module is an error about that module', () => {
  expect(
    findingsOf(
      ['backbone'],
      learnedOf('backbone.conv.weight', 'changed'),
      learnedOf('head.weight', 'changed'),
    ),
  ).toEqual([
    {
      kind: 'frozen-weights-changed',
      level: 'error',
      layer: 'backbone.conv',
      message: 'its learned tensor "weight" changed, although --frozen says that it must not',
      docs: 'docs/findings/frozen-weights-changed.md',
    },
  ]);
});

test('equal and incomparable tensors are none', () => {
  expect(findingsOf(['**'], learnedOf('a.weight'), learnedOf('b.weight', 'incomparable'))).toEqual([]);
});

test('without --frozen nothing must be frozen', () => {
  expect(findingsOf([], learnedOf('a.weight', 'changed'))).toEqual([]);
});

test('a glob may name the tensor itself', () => {
  expect(
    findingsOf(['**.bias'], learnedOf('fc.bias', 'changed'), learnedOf('fc.weight', 'changed')),
  ).toHaveLength(1);
});
