import { describe, expect, test } from 'vitest';
import type { Checkpoint } from '../src/checkpoint/checkpoint.js';
import { compareWithCopies } from '../src/compare-checkpoints.js';
import { CheckpointError } from '../src/errors.js';
import { checkpointOf, normTensors } from './build/checkpoints.js';

const still = () => checkpointOf(normTensors('bn'));
const moved = () => checkpointOf(normTensors('bn', { mean: [7, 7] }));

/** A checkpoint that holds copies of what is audited. */
const withCopies = (checkpoint: Checkpoint, ...copies: (() => Checkpoint)[]): Checkpoint => ({
  ...checkpoint,
  copies: copies.map((open, at) => ({ path: `ema${at}`, of: 'model', open: async () => open() })),
});

const doubtsOf = async (after: Checkpoint, before = still()) =>
  (await compareWithCopies(before, after, {})).doubts.filter((doubt) => !doubt.endsWith('really trained?'));

const MOVED =
  'the copies of one network in after disagree: "model" has errors, "ema0" has none; "model" was audited, --select ema0 audits the other';

describe('copies that disagree are said', () => {
  test('where what was audited drifted', async () => {
    expect(await doubtsOf(withCopies(moved(), still))).toEqual([MOVED]);
  });

  test('where the copy drifted', async () => {
    const doubts = await doubtsOf(withCopies(still(), still, moved));
    expect(doubts).toHaveLength(1);
    expect(doubts[0]).toContain('"ema1" has errors, "model" has none');
  });
});

test('copies that agree are passed over', async () => {
  expect(await doubtsOf(withCopies(moved(), moved))).toEqual([]);
});

test('a copy is held against the same copy of before, where that has one', async () => {
  expect(await doubtsOf(withCopies(still(), moved), withCopies(still(), moved))).toEqual([]);
});

test('a copy that cannot be compared does not end the audit', async () => {
  const damaged = () => {
    throw new CheckpointError('expected more', { code: 'truncated', file: 'a.pt' });
  };
  expect(await doubtsOf(withCopies(still(), damaged))).toEqual([
    '"ema0", a copy of "model" in after, could not be compared (--select ema0 tries): expected more',
  ]);
});

test('copies without end are not all compared', async () => {
  const doubts = await doubtsOf(withCopies(still(), still, still, still, still, still));
  expect(doubts).toEqual(['after holds 5 copies of what was audited: 4 of them were compared']);
});
