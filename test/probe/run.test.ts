import { describe, expect, test } from 'vitest';
import { DifferenceSum, numbersOf, TopOneCount } from '../../src/probe/run.js';

function differ(reference: readonly number[], value: readonly number[]) {
  const sum = new DifferenceSum();
  sum.add(reference, value);
  return sum.conclude();
}

describe('DifferenceSum', () => {
  test('measures against the reference', () => {
    const { relativeL2, cosine, maxDifference } = differ([3, 4], [3, 1]);
    expect(relativeL2).toBeCloseTo(3 / 5, 15);
    expect(cosine).toBeCloseTo(13 / (5 * Math.sqrt(10)), 15);
    expect(maxDifference).toBe(3);
  });

  test('adds up over runs as if they were one', () => {
    const sum = new DifferenceSum();
    sum.add([3], [3]);
    sum.add([4], [1]);
    expect(sum.conclude()).toEqual(differ([3, 4], [3, 1]));
  });

  test('is exactly zero for equal tensors, NaN and infinities included', () => {
    const values = [0.1, Number.NaN, Number.POSITIVE_INFINITY, -3];
    expect(differ(values, values)).toEqual({
      relativeL2: 0,
      cosine: 1,
      maxDifference: 0,
      nonFinite: { after: 2, restored: 2 },
    });
    expect(differ([0, 0], [0, 0]).relativeL2).toBe(0);
  });

  test('does not take a NaN on one side for zero', () => {
    const { relativeL2, maxDifference } = differ([1, 2], [1, Number.NaN]);
    expect(relativeL2).toBeNaN();
    expect(maxDifference).toBeNaN();
  });

  test('says infinity where the reference is zero', () => {
    expect(differ([0, 0], [0, 1])).toMatchObject({ relativeL2: Number.POSITIVE_INFINITY, cosine: 0 });
  });
});

describe('TopOneCount', () => {
  test('counts samples whose largest class is another one', () => {
    const count = new TopOneCount();
    count.add([0, 1, 5, 2, 3, 3], [1, 0, 2, 5, 3, 3], 2);
    expect(count.conclude()).toEqual({ samples: 3, changed: 2, share: 2 / 3 });
  });

  test('takes a NaN for the largest, as NumPy does', () => {
    const count = new TopOneCount();
    count.add([1, 2, 3], [1, Number.NaN, 3], 3);
    expect(count.conclude().changed).toBe(1);
  });
});

describe('numbersOf', () => {
  test('reads halves, 64-bit integers and booleans', () => {
    const of = (type: string, data: unknown) => [...(numbersOf({ type, dims: [], data }) as Float64Array)];
    expect(of('float16', Uint16Array.of(0x3c00, 0xc000))).toEqual([1, -2]);
    expect(of('int64', BigInt64Array.of(-5n))).toEqual([-5]);
    expect(of('bool', Uint8Array.of(1, 0))).toEqual([1, 0]);
  });

  test('has none for strings', () => {
    expect(numbersOf({ type: 'string', dims: [1], data: ['a'] })).toBeNull();
  });
});
