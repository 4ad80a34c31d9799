import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { areMultiples, countWeights, sumProducts } from '../../src/compare/weight-loops.js';

const values = fc.array(fc.tuple(fc.integer({ min: -9, max: 9 }), fc.integer({ min: -9, max: 9 })), {
  maxLength: 40,
});

describe('sumProducts', () => {
  test('sums whole numbers exactly, from any element to any other', () => {
    fc.assert(
      fc.property(values, fc.nat(), fc.nat(), (pairs, one, other) => {
        const ends = [one % (pairs.length + 1), other % (pairs.length + 1)];
        const [from, to] = [Math.min(...ends), Math.max(...ends)];
        const sums = new Float64Array(2);
        const [left, right] = [0, 1].map((side) => Float32Array.from(pairs, (pair) => pair[side] ?? 0));
        sumProducts(left ?? new Float32Array(), right ?? new Float32Array(), { from, to }, sums);
        const span = pairs.slice(from, to);
        const sum = (term: (pair: readonly [number, number]) => number) =>
          span.reduce((total, pair) => total + term(pair), 0);
        expect(sums[0]).toBeCloseTo(
          sum(([x, y]) => x * y),
          9,
        );
        expect(sums[1]).toBeCloseTo(
          sum(([x]) => x * x),
          9,
        );
      }),
    );
  });
});

describe('countWeights', () => {
  test('counts the pairs that are not zero on both sides', () => {
    const [left, right] = [Float64Array.of(0, 1, 0, -0, Number.NaN), Float64Array.of(0, 0, 2, 0, 0)];
    expect(countWeights(left, right, { from: 0, to: 5 })).toBe(3);
    expect(countWeights(left, right, { from: 2, to: 4 })).toBe(1);
  });

  test('stops at as many as matter', () => {
    const ones = new Float32Array(1000).fill(1);
    expect(countWeights(ones, ones, { from: 0, to: 1000 })).toBe(256);
  });
});

describe('areMultiples', () => {
  const decide = (
    x: readonly number[],
    y: readonly number[],
    tolerance = { relative: 0.5, absolute: 0.25 },
  ) =>
    areMultiples(Float64Array.from(x), Float64Array.from(y), {
      from: 0,
      to: x.length,
      scale: 2,
      ...tolerance,
    });

  test.each([1, 2, 3])('allows a share of each of %i weights, and as much again of none', (count) => {
    const x = Array.from({ length: count }, (_, index) => index + 1);
    const edge = x.map((value) => 2 * value + 0.5 * value + 0.25);
    expect(decide(x, edge)).toBe(true);
    for (const index of x.keys()) expect(decide(x, edge.with(index, (edge[index] ?? 0) + 0.001))).toBe(false);
  });

  test('is false of what is no number', () => {
    for (const wrong of [Number.NaN, Infinity]) {
      for (const count of [1, 2]) {
        const ones = Array<number>(count).fill(1);
        expect(decide(ones, ones.with(-1, wrong))).toBe(false);
        expect(decide(ones.with(0, wrong), ones)).toBe(false);
      }
    }
  });

  test('looks at its span alone', () => {
    const [left, right] = [Float32Array.of(9, 1, 1, 9), Float32Array.of(0, 2, 2, 0)];
    const tolerance = { scale: 2, relative: 0, absolute: 0 };
    expect(areMultiples(left, right, { from: 1, to: 3, ...tolerance })).toBe(true);
    expect(areMultiples(left, right, { from: 0, to: 3, ...tolerance })).toBe(false);
    expect(areMultiples(left, right, { from: 1, to: 4, ...tolerance })).toBe(false);
  });
});
