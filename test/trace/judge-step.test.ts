import { describe, expect, test } from 'vitest';
import type { LearnedComparison } from '../../src/compare/compare-learned.js';
import type { LayerStatus, Relation } from '../../src/compare/status.js';
import { areCopies, deduceStep, judgeStep } from '../../src/trace/judge-step.js';
import { learnedComparisons, learnedOf } from '../build/layers.js';
import { makeLayer, makeReport } from '../report/sample-reports.js';

const layer = (status: LayerStatus, affine: Relation = status === 'trained' ? 'changed' : 'equal') => ({
  status,
  affine,
  neighbours: affine,
});

describe('the status of a layer at a checkpoint', () => {
  test('is that against before, until the layer was trained', () => {
    expect(judgeStep(layer('drifted'), { status: 'locked', isChanged: false }, layer('drifted'))).toBe(
      'drifted',
    );
    expect(judgeStep(layer('locked'), null, undefined)).toBe('locked');
  });

  test('is trained in the step that trains it, though it had drifted before', () => {
    expect(judgeStep(layer('trained'), { status: 'drifted', isChanged: false }, layer('trained'))).toBe(
      'trained',
    );
  });

  test.each<[step: LayerStatus, last: LayerStatus, status: LayerStatus]>([
    ['trained', 'trained', 'trained'],
    ['locked', 'trained', 'locked'],
    ['drifted', 'trained', 'drifted'],
    ['drifted', 'locked', 'drifted'],
    ['held', 'trained', 'held'],
  ])('is %s in a step after it was %s: %s', (step, last, status) => {
    expect(judgeStep(layer('trained'), { status: last, isChanged: true }, layer(step))).toBe(status);
  });

  test('stays drifted while nothing moves any more, until it is trained again', () => {
    const last = { status: 'drifted', isChanged: true } as const;
    expect(judgeStep(layer('trained'), last, layer('locked'))).toBe('drifted');
    expect(judgeStep(layer('trained'), last, layer('trained'))).toBe('trained');
  });

  test('is that against before once more where training was taken back', () => {
    expect(judgeStep(layer('locked'), { status: 'trained', isChanged: true }, layer('trained'))).toBe(
      'locked',
    );
  });
});

describe('what is known between two checkpoints without reading', () => {
  const rounded = (name: string): LearnedComparison => ({
    ...learnedOf(name, 'rounded'),
    rounding: { cause: 'averaged', relativeDifference: 1e-7, slope: null } as never,
  });
  const deduce = (earlier: LearnedComparison, later: LearnedComparison) =>
    deduceStep(learnedComparisons(earlier), learnedComparisons(later)).byAfter.get(later.afterName)?.equality;

  test.each([
    ['exact', 'exact', 'exact'],
    ['exact', 'changed', 'changed'],
    ['changed', 'exact', 'changed'],
    ['changed', 'changed', undefined],
    ['incomparable', 'exact', undefined],
  ] as const)('%s, then %s: %s', (earlier, later, found) => {
    expect(deduce(learnedOf('w', earlier), learnedOf('w', later))).toBe(found);
  });

  test('what was rounded in one of them is rounded between them', () => {
    expect(deduce(learnedOf('w'), rounded('w'))).toBe('rounded');
    expect(deduce(rounded('w'), learnedOf('w'))).toBe('rounded');
    expect(deduce(rounded('w'), learnedOf('w', 'changed'))).toBeUndefined();
  });

  test('bears the names of the two, not that of before', () => {
    const earlier = { ...learnedOf('w'), afterName: 'one.w' };
    const later = { ...learnedOf('w'), afterName: 'two.w' };
    const { byAfter } = deduceStep(learnedComparisons(earlier), learnedComparisons(later));
    expect(byAfter.get('two.w')).toMatchObject({ beforeName: 'one.w', afterName: 'two.w' });
  });
});

test('copies hold the same to the last bit, counts included', () => {
  const copy = makeReport({ layers: [makeLayer('bn', { status: 'locked', batches: 0 })] });
  const learned = {
    ...copy.summary.learned,
    compared: 2,
    equal: 2,
    rounded: 0,
    changed: 0,
    onlyBefore: 0,
    onlyAfter: 0,
  };
  const of = (changes: object, batches = 0) =>
    areCopies({
      ...copy,
      layers: [makeLayer('bn', { status: 'locked', batches })],
      summary: { ...copy.summary, learned: { ...learned, ...changes } },
    });
  expect(of({})).toBe(true);
  expect(of({ equal: 1, changed: 1 })).toBe(false);
  expect(of({ rounded: 1 })).toBe(false);
  expect(of({ onlyAfter: 1 })).toBe(false);
  expect(of({}, 3)).toBe(false);
});
