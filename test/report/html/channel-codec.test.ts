import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeNumbers, encodeNumbers } from '../../../src/report/html/channel-codec.js';

describe('numbers of channels', () => {
  test('take four characters each', () => {
    expect(encodeNumbers([1, -2.5, 1e-7])).toHaveLength(12);
    expect(encodeNumbers([])).toBe('');
  });

  test('come back to four significant digits', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-1e38), max: Math.fround(1e38) }),
        ),
        (values) => {
          decodeNumbers(encodeNumbers(values)).forEach((decoded, index) => {
            const value = values[index] ?? Number.NaN;
            if (Math.abs(value) > 1e-35) expect(Math.abs(decoded / value - 1)).toBeLessThan(2 ** -15);
          });
        },
      ),
    );
  });

  test('stay NaN and infinite', () => {
    const values = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, -0];
    expect([...decodeNumbers(encodeNumbers(values))]).toEqual(values);
  });
});
