import { expect, test } from 'vitest';
import { decideStatus, LAYER_STATUSES, type LayerStatus, type Relation } from '../../src/compare/status.js';

type Row = readonly [
  affine: Relation,
  isInitial: boolean,
  neighbours: Relation,
  haveStatisticsMoved: boolean,
  LayerStatus,
];

// Every combination of the evidence. An affine of relation "none" is initial by definition, so that it cannot be more.
const TABLE: readonly Row[] = [
  ['equal', false, 'equal', false, 'locked'],
  ['equal', false, 'none', false, 'locked'],
  ['equal', false, 'changed', false, 'held'],
  ['equal', true, 'equal', false, 'locked'],
  ['equal', true, 'none', false, 'locked'],
  ['equal', true, 'changed', false, 'held'],
  ['none', true, 'equal', false, 'locked'],
  ['none', true, 'none', false, 'locked'],
  ['none', true, 'changed', false, 'held'],
  ['changed', false, 'equal', false, 'held'],
  ['changed', false, 'none', false, 'held'],
  ['changed', false, 'changed', false, 'held'],
  ['changed', true, 'equal', false, 'held'],
  ['changed', true, 'none', false, 'held'],
  ['changed', true, 'changed', false, 'held'],
  ['equal', false, 'equal', true, 'drifted'],
  ['equal', false, 'none', true, 'drifted'],
  ['equal', false, 'changed', true, 'affine-frozen'],
  ['equal', true, 'equal', true, 'drifted'],
  ['equal', true, 'none', true, 'drifted'],
  ['equal', true, 'changed', true, 'trained'],
  ['none', true, 'equal', true, 'drifted'],
  ['none', true, 'none', true, 'drifted'],
  ['none', true, 'changed', true, 'trained'],
  ['changed', false, 'equal', true, 'trained'],
  ['changed', false, 'none', true, 'trained'],
  ['changed', false, 'changed', true, 'trained'],
  ['changed', true, 'equal', true, 'trained'],
  ['changed', true, 'none', true, 'trained'],
  ['changed', true, 'changed', true, 'trained'],
];

test.each(TABLE)('affine %s (initial: %j), neighbours %s, statistics moved: %j → %s', (...row) => {
  const [relation, isInitial, neighbours, haveStatisticsMoved, status] = row;
  expect(decideStatus({ relation, isInitial, neighbours, haveStatisticsMoved })).toBe(status);
});

test('every status is listed once, those that need attention first', () => {
  expect(LAYER_STATUSES).toEqual([
    'drifted',
    'invalid',
    'unresolved',
    'ambiguous',
    'affine-frozen',
    'trained',
    'held',
    'locked',
  ]);
});
