import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { DType } from '../../src/checkpoint/dtype.js';
import {
  areInitial,
  findInvalidValue,
  findMovedChannels,
  findStdRatios,
  measureDrift,
  readChannelVector,
  readOptional,
  type Statistics,
  summarizeStatistics,
} from '../../src/compare/statistics.js';
import { tensorOf } from '../build/checkpoints.js';

function statistics(mean: readonly number[], variance: readonly number[], dtype: DType = 'F32'): Statistics {
  return {
    mean: { values: Float64Array.from(mean), dtype },
    variance: { values: Float64Array.from(variance), dtype },
  };
}

const movedOf = (before: Statistics, after: Statistics) => findMovedChannels(before, after, null).moved;

const measure = (
  before: Statistics,
  after: Statistics,
  { gamma = null, epsilon = 0 }: { gamma?: readonly number[] | null; epsilon?: number } = {},
) =>
  measureDrift(before, after, {
    moved: movedOf(before, after),
    gamma: gamma === null ? null : Float64Array.from(gamma),
    epsilon,
  });

test('a channel vector keeps the type that it was stored in', async () => {
  expect(await readChannelVector(tensorOf('m', [1, -2], { dtype: 'F16' }))).toEqual({
    values: Float64Array.of(1, -2),
    dtype: 'F16',
  });
});

test('a channel vector that is none reads as none', async () => {
  expect(await readOptional(null)).toBeNull();
  expect((await readOptional(tensorOf('v', [3, 4, 5])))?.values).toEqual(Float64Array.of(3, 4, 5));
});

describe('which channels moved', () => {
  test('those whose mean or variance is not equal', () => {
    const before = statistics([0, 1, 2, 3], [1, 1, 1, 1]);
    expect(movedOf(before, statistics([0, 1.5, 2, 3.5], [1, 1, 2, 2]))).toEqual([false, true, true, true]);
  });

  test('none where the other side is a narrower copy', () => {
    const before = statistics([0.1, 0.2], [0.3, 0.4], 'F64');
    const after = statistics([0.1, 0.2].map(Math.fround), [0.3, 0.4].map(Math.fround), 'F32');
    expect(movedOf(before, after)).toEqual([false, false]);
    expect(movedOf(after, before)).toEqual([false, false]);
  });

  test('none where NaN stayed NaN, and one where it is new', () => {
    expect(
      movedOf(statistics([Number.NaN, 0], [1, 1]), statistics([Number.NaN, Number.NaN], [1, 1])),
    ).toEqual([false, true]);
  });
});

describe('measures', () => {
  // σA = 2 and 1, σB = 4 and 1; the mean moves by 3 and −1.
  const before = statistics([1, 5], [4, 1]);
  const after = statistics([4, 4], [16, 1]);

  test('against values worked out by hand', () => {
    const { meanShift, logStdRatio, divergence, outputShift } = measure(before, after);
    expect(meanShift?.rms).toBeCloseTo(Math.sqrt((1.5 ** 2 + 1 ** 2) / 2), 14);
    expect(meanShift?.max).toBe(1.5);
    expect(logStdRatio.rms).toBeCloseTo(Math.LN2 / Math.SQRT2, 14);
    expect(logStdRatio.max).toBeCloseTo(Math.LN2, 14);
    // ¼·[(4 + 9)/16 + (16 + 9)/4 − 2] = 1.265625 and ¼·[(1 + 1)/1 + (1 + 1)/1 − 2] = 0.5.
    expect(divergence).toBeCloseTo((1.265625 + 0.5) / 2, 14);
    expect(outputShift).toBeCloseTo(Math.sqrt((1.5 ** 2 + 1 ** 2 + (1 + 0)) / 2), 14);
  });

  test('γ weighs the channels of the output', () => {
    expect(measure(before, after, { gamma: [2, 0] }).outputShift).toBeCloseTo(Math.sqrt(1.5 ** 2 + 1), 14);
    expect(measure(before, after, { gamma: [0, -3] }).outputShift).toBeCloseTo(1, 14);
    expect(measure(before, after, { gamma: [1, 1] })).toEqual(measure(before, after));
  });

  test('where γ is zero throughout, the output does not move', () => {
    expect(measure(before, after, { gamma: [0, 0] }).outputShift).toBe(0);
  });

  test('ε is added to both variances', () => {
    expect(measure(statistics([0], [3]), statistics([2], [8]), { epsilon: 1 })).toEqual({
      meanShift: { rms: 1, max: 1 },
      logStdRatio: { rms: Math.log(1.5), max: Math.log(1.5) },
      divergence: ((4 + 4) / 9 + (9 + 4) / 4 - 2) / 4,
      outputShift: Math.sqrt(1 + 0.25),
    });
  });

  test('channels that did not move count, as unmoved', () => {
    expect(measure(statistics([0, 0], [1, 1]), statistics([2, 0], [1, 1])).meanShift).toEqual({
      rms: Math.SQRT2,
      max: 2,
    });
  });

  test('a narrower copy measures exactly zero', () => {
    const wide = statistics([0.1], [0.3], 'F64');
    const narrow = statistics([Math.fround(0.1)], [Math.fround(0.3)]);
    expect(measure(wide, narrow)).toEqual({
      meanShift: { rms: 0, max: 0 },
      logStdRatio: { rms: 0, max: 0 },
      divergence: 0,
      outputShift: 0,
    });
  });

  test('channels that nothing is known of count in no measure', () => {
    const [before, after] = [statistics([0, 0], [1, 1]), statistics([0.5, 9], [1, 9])];
    const measures = measureDrift(before, after, {
      moved: [true, false],
      hidden: [false, true],
      gamma: null,
      epsilon: 0,
    });
    expect(measures).toMatchObject({ meanShift: { rms: 0.5, max: 0.5 }, outputShift: 0.5 });
  });

  test('NaN stays visible in every measure, also in the largest', () => {
    const measures = measure(statistics([0, 0], [1, 1]), statistics([Number.NaN, 5], [Number.NaN, 1]));
    expect(
      Object.values(measures).flatMap((value) =>
        typeof value === 'number' ? [value] : Object.values(value),
      ),
    ).toEqual(Array(6).fill(Number.NaN));
  });

  test('a negative variance has no standard deviation, on either side or on both', () => {
    for (const [one, other] of [
      [-1, -2],
      [-1, 1],
      [1, -1],
    ] as const) {
      const { meanShift, logStdRatio, outputShift } = measure(
        statistics([0], [one]),
        statistics([1], [other]),
      );
      const isKnown = one > 0;
      expect(meanShift).toEqual(isKnown ? { rms: 1, max: 1 } : { rms: Number.NaN, max: Number.NaN });
      expect(logStdRatio).toEqual({ rms: Number.NaN, max: Number.NaN });
      expect(outputShift).toBeNaN();
    }
  });

  test('a variance of zero, without ε, is infinitely far from any other', () => {
    expect(measure(statistics([0], [0]), statistics([1], [1]))).toEqual({
      meanShift: { rms: Number.POSITIVE_INFINITY, max: Number.POSITIVE_INFINITY },
      logStdRatio: { rms: Number.POSITIVE_INFINITY, max: Number.POSITIVE_INFINITY },
      divergence: Number.POSITIVE_INFINITY,
      outputShift: Number.POSITIVE_INFINITY,
    });
  });

  test('means whose squares are no float64 are measured', () => {
    const { meanShift } = measure(statistics([1e200], [1e300], 'F64'), statistics([2e200], [1e300], 'F64'));
    expect(meanShift?.max).toBeCloseTo(1e50, -40);
    expect(meanShift?.rms).toBeCloseTo(1e50, -40);
  });

  test('divergence is symmetric, and no measure is negative', () => {
    const channel = fc.tuple(
      fc.double({ min: -10, max: 10, noNaN: true }),
      fc.double({ min: 0.01, max: 100, noNaN: true }),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(channel, channel), { minLength: 1, maxLength: 8 }), (channels) => {
        const side = (index: 0 | 1) =>
          statistics(
            channels.map((pair) => pair[index][0]),
            channels.map((pair) => pair[index][1]),
          );
        const [forward, backward] = [measure(side(0), side(1)), measure(side(1), side(0))];
        expect(forward.divergence).toBeCloseTo(backward.divergence ?? Number.NaN, 8);
        expect(forward.logStdRatio.rms).toBeCloseTo(backward.logStdRatio.rms, 10);
        expect(forward.divergence).toBeGreaterThanOrEqual(-1e-12);
        // Squares of shifts below 1e-150 are subnormal numbers: too coarse for a relative bound.
        expect(forward.meanShift?.max).toBeGreaterThanOrEqual(
          (forward.meanShift?.rms ?? Number.NaN) * (1 - 1e-12) - 1e-150,
        );
      }),
    );
  });

  test('the ratio of standard deviations, channel by channel', () => {
    expect(findStdRatios(statistics([0, 0], [3, 0]), statistics([0, 0], [15, 0]), 1)).toEqual([2, 1]);
  });
});

describe('invalid values', () => {
  test.each([
    ['the running mean of channel 1 is NaN (not a number)', [0, Number.NaN], [1, 1]],
    ['the running mean of channel 0 is Infinity: not finite', [Number.POSITIVE_INFINITY, 0], [1, 1]],
    ['the running mean of channel 0 is -Infinity: not finite', [Number.NEGATIVE_INFINITY, 0], [1, 1]],
    ['the running variance of channel 1 is -0.5: negative', [0, 0], [1, -0.5]],
    ['the running variance of channel 0 is NaN (not a number)', [0, 0], [Number.NaN, 1]],
    ['the running mean of channel 0 is NaN (not a number)', [Number.NaN, 0], [Number.NaN, 1]],
  ])('%s', (description, mean, variance) => {
    expect(findInvalidValue(statistics(mean, variance))).toBe(description);
  });

  test('a negative mean, and a variance of zero or minus zero, are valid', () => {
    expect(findInvalidValue(statistics([-5, 0], [0, -0]))).toBeNull();
  });
});

describe('initial values', () => {
  test.each([
    ['mean 0 and variance 1', [0, 0], [1, 1], true],
    ['a mean of minus zero', [-0, 0], [1, 1], true],
    ['detectron2’s variance of 1 − 1e-5', [0, 0], [Math.fround(1 - 1e-5), Math.fround(1 - 1e-5)], true],
    ['a mixture of both', [0, 0], [1, Math.fround(1 - 1e-5)], false],
    ['one mean that moved', [0, 1e-9], [1, 1], false],
    ['one variance that moved', [0, 0], [1, 1.0000001], false],
    ['no channels', [], [], false],
  ])('%s: %j %j: %j', (_, mean, variance, are) => {
    expect(areInitial(statistics(mean, variance))).toBe(are);
  });
});

describe('a summary', () => {
  test('of a vector with a NaN is NaN, wherever it stands', () => {
    const nothing = { min: Number.NaN, max: Number.NaN };
    const { mean, variance } = summarizeStatistics(statistics([1, Number.NaN, 3], [1, 3, Number.NaN]));
    expect([mean, variance]).toEqual([
      { ...nothing, rms: Number.NaN },
      { ...nothing, geometricMean: Number.NaN },
    ]);
  });
});
