import { expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { TensorComparer } from '../../src/compare/tensor-equality.js';
import { tensorOf } from '../build/checkpoints.js';
import { toHashed } from '../build/hashed-tensor.js';

const comparer = new TensorComparer({ isExact: true });

/** What comparing says when either side, or both, is known by its hash alone: it must be the same. */
async function compareHashed(before: Tensor, after: Tensor): Promise<string> {
  const [hashedBefore, hashedAfter] = [await toHashed(before, null), await toHashed(after, null)];
  const verdicts = [
    await comparer.compare(hashedBefore, after),
    await comparer.compare(before, hashedAfter),
    await comparer.compare(hashedBefore, hashedAfter),
  ].map(({ kind }) => kind);
  expect(new Set(verdicts).size).toBe(1);
  return verdicts[0] ?? '';
}

test('hashes tell equal values from others as the values themselves do', async () => {
  expect(await compareHashed(tensorOf('t', [1, 2]), tensorOf('t', [1, 2]))).toBe('exact');
  expect(await compareHashed(tensorOf('t', [1, 2]), tensorOf('t', [1, 2.0000002]))).toBe('changed');
  expect(await compareHashed(tensorOf('t', [0, 2]), tensorOf('t', [-0, 2]))).toBe('exact');
  expect(await compareHashed(tensorOf('t', [], { shape: [0] }), tensorOf('t', [], { shape: [0] }))).toBe(
    'exact',
  );
});

test('shapes that differ by dimensions of 1 alone are the same, others are a change', async () => {
  const at = (shape: readonly number[]) => tensorOf('t', [1, 2, 3, 4], { shape });
  expect(await compareHashed(at([4]), at([1, 4, 1]))).toBe('exact');
  expect(await compareHashed(at([4]), at([2, 2]))).toBe('changed');
});

test('a type that changed is told by the samples', async () => {
  const wide = tensorOf('t', [1, 0.1]);
  expect(await compareHashed(wide, tensorOf('t', [1, 0.1], { dtype: 'F16' }))).toBe('rounded');
  expect(await compareHashed(wide, tensorOf('t', [1, 0.2], { dtype: 'F16' }))).toBe('changed');
});
