import { expect, test } from 'vitest';
import { auditCheckpoints } from '../../src/audit.js';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';

const body = (count: number, mean?: readonly number[]) =>
  normTensors('net.bn', { count, ...(mean === undefined ? {} : { mean }) });
const head = [tensorOf('head.fc.weight', [1]), ...normTensors('head.bn')];
const warningsOf = async (before: readonly Tensor[], after: readonly Tensor[]) =>
  (await auditCheckpoints(checkpointOf(before), checkpointOf(after))).warnings;

const SAME = [
  'before and after hold the same values in every norm layer and learned tensor: was after really trained?',
];

test('an after with the values of before is asked about', async () => {
  expect(await warningsOf([...body(10), ...head], [...body(10), ...head])).toEqual(SAME);
});

test.each([
  ['a learned tensor', [...body(10), tensorOf('head.fc.weight', [2]), ...normTensors('head.bn')]],
  ['statistics', [...body(10, [1, 1]), ...head]],
  ['a batch count', [...body(11), ...head]],
  ['a tensor more', [...body(10), ...head, tensorOf('new.weight', [1])]],
  ['a layer more', [...body(10), ...head, ...normTensors('new.bn')]],
])('not where it differs in %s', async (_, after) => {
  expect(await warningsOf([...body(10), ...head], after)).toEqual([]);
});

test('counts that went down raise the question whether the files are swapped', async () => {
  expect(await warningsOf(body(20), body(10, [1, 1]))).toEqual([
    'the batch counts went down: are the two files swapped? Before comes first.',
  ]);
});

test('so does an after that merely lacks a part of before', async () => {
  expect(await warningsOf([...body(10), ...head], body(10))).toEqual([
    'after lacks 1 of the norm layers of before and has none of its own: is it a part of the model, or are the two files swapped? Before comes first.',
  ]);
  // Besides, the counts of layers that stood still went back.
  expect((await warningsOf([...body(20), ...head], body(10))).slice(0, 1)).toEqual([
    'the batch counts went down, and after lacks 1 of the norm layers of before and has none of its own: are the two files swapped? Before comes first.',
  ]);
});

test('not where counts went up, or where after has parts of its own', async () => {
  expect(await warningsOf([...body(10), ...head], body(20, [1, 1]))).toEqual([]);
  expect(await warningsOf([...body(10), ...head], [...body(10), tensorOf('fc.weight', [1])])).toEqual([]);
});
