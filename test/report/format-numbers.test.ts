import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  formatBar,
  formatBatches,
  formatCount,
  formatMagnitude,
  formatMeasure,
  formatPlural,
  formatSparkline,
  formatStdRatio,
} from '../../src/report/format-numbers.js';

test.each([
  [0, '0'],
  [999, '999'],
  [1000, '1,000'],
  [1234567, '1,234,567'],
  ['9223372036854775807', '9,223,372,036,854,775,807'],
])('the count %j reads %s', (count, text) => {
  expect(formatCount(count)).toBe(text);
});

test.each([
  [null, '–'],
  [0, '0'],
  [12, '+12'],
  [1250, '+1,250'],
  [-15, '−15'],
  [-1500, '−1,500'],
  ['9223372036854775807', '+9,223,372,036,854,775,807'],
  ['-9223372036854775807', '−9,223,372,036,854,775,807'],
])('the batches %j read %s', (count, text) => {
  expect(formatBatches(count)).toBe(text);
});

describe('a measure', () => {
  test.each([
    [0, '0'],
    [-0, '0'],
    [0.8374, '0.837'],
    [1, '1.00'],
    [9.999, '10.0'],
    [24.06, '24.1'],
    [123.4, '123'],
    [1234, '1234'],
    [1234.5, '1235'],
    [99999, '99999'],
    [100000, '1.0e5'],
    [1.5e300, '1.5e300'],
    [0.001, '0.00100'],
    [0.000999, '1.0e-3'],
    [1.2345e-7, '1.2e-7'],
    [5e-324, '4.9e-324'],
    [-0.5, '−0.500'],
    [-1.2e-7, '−1.2e-7'],
    [-250000, '−2.5e5'],
    [Number.NaN, 'NaN'],
    [Number.POSITIVE_INFINITY, '∞'],
    [Number.NEGATIVE_INFINITY, '−∞'],
  ])('%d reads %s', (value, text) => {
    expect(formatMeasure(value)).toBe(text);
  });

  test('never reads as zero unless it is, and is never longer than a column takes', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
        const text = formatMeasure(value);
        expect(Number(text.replace('−', '-')) === 0).toBe(value === 0);
        expect(text.length).toBeLessThanOrEqual(9);
      }),
    );
  });
});

test.each([
  [0, '× 1.00'],
  [Math.LN2, '× 2.00'],
  [Math.log(1.38), '× 1.38'],
  [Number.NaN, 'NaN'],
  [Number.POSITIVE_INFINITY, '∞'],
])('the logarithm %d of a ratio reads %s', (logarithm, text) => {
  expect(formatStdRatio(logarithm)).toBe(text);
});

test.each([
  [0, '0'],
  [940, '940'],
  [1000, '1,000'],
  [235_000, '235 k'],
  [23_500_000, '23.5 M'],
  [7_240_000_000, '7.24 G'],
  [123_000_000_000_000, '123000 G'],
])('%d values are %s', (count, text) => {
  expect(formatMagnitude(count)).toBe(text);
});

test.each([
  [0, '0 norm layers'],
  [1, '1 norm layer'],
  [1053, '1,053 norm layers'],
])('%d of a noun are %s', (count, text) => {
  expect(formatPlural(count, 'norm layer')).toBe(text);
});

describe('a bar', () => {
  test.each([
    [1, '████'],
    [0.5, '██'],
    [0.53125, '██▏'],
    [0.21875, '▉'],
    [1e-9, '▏'],
    [2, '████'],
    [0, ''],
    [-1, ''],
    [Number.NaN, ''],
    [Number.POSITIVE_INFINITY, '████'],
  ])('of %d in 4 cells is %j', (value, bar) => {
    expect(formatBar(value, { full: 1, cells: 4 })).toBe(bar);
  });

  test('is empty where nothing is full', () => {
    expect(formatBar(1, { full: 0, cells: 4 })).toBe('');
  });
});

describe('a line of values', () => {
  test('shows 0 as a dot, the largest as a full block, and what is not known as a space', () => {
    expect(formatSparkline([0, 1, 4, 8, null, Number.NaN], 16)).toBe('·▁▄█  ');
  });

  test('shows what is above 0, however small', () => {
    expect(formatSparkline([1e-9, 1], 16)).toBe('▁█');
  });

  test('shows the largest of several values where there is less room', () => {
    expect(formatSparkline([0, 0, 0, 8, 1, 1, 0, 0], 4)).toBe('·█▁·');
  });
});
