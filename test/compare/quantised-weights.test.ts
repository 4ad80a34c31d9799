import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import {
  areBoundable,
  boundFactors,
  type FactorBounds,
  findCommonStep,
} from '../../src/compare/quantised-weights.js';
import { tensorOf } from '../build/checkpoints.js';
import { quantise } from '../build/quantised.js';
import { makeNormal, makeRandom } from '../build/weights.js';

const CONV = { outputAxis: 0, groups: 1 };

async function bound(before: Tensor, after: Tensor, layout = CONV): Promise<FactorBounds> {
  const bounds = await boundFactors(before, after, layout);
  if (bounds?.kind !== 'bounded') throw new Error(`expected bounds, found ${bounds?.kind ?? 'no factor'}`);
  return bounds;
}

const draw = (size: number, seed: number) => {
  const normal = makeNormal(makeRandom(seed));
  return Array.from({ length: size }, () => Math.fround(0.05 * normal()));
};

describe('the factor between channels', () => {
  test('lies between its bounds, however either side is quantised', async () => {
    const way = fc.constantFrom(
      { dtype: 'I8', axis: 0 } as const,
      { dtype: 'I8', axis: null } as const,
      { dtype: 'U8', axis: null } as const,
      { dtype: 'U8', axis: 0 } as const,
      { dtype: 'I8', axis: 1 } as const,
      { dtype: 'I8', packedBits: 4, axis: 0 } as const,
      { dtype: 'U8', packedBits: 4, axis: null } as const,
      // Blocks of whole runs, ones that end short, and ones across rows.
      { dtype: 'I8', axis: 2, blockSize: 3 } as const,
      { dtype: 'U8', axis: 2, blockSize: 4, packedBits: 4 } as const,
      { dtype: 'I8', axis: 1, blockSize: 2 } as const,
    );
    await fc.assert(
      fc.asyncProperty(
        way,
        way,
        fc.boolean(),
        fc.integer({ min: 1, max: 999 }),
        fc.array(fc.double({ min: 0.3, max: 3, noNaN: true }), { minLength: 4, maxLength: 4 }),
        async (one, other, isFloat, seed, factors) => {
          const shape = [4, 3, 9];
          const values = draw(108, seed);
          const moved = values.map((value, i) => value * (factors[Math.floor(i / 27)] ?? 1));
          const before = isFloat
            ? tensorOf('before', values, { shape })
            : quantise(values, { shape, ...one });
          const bounds = await bound(before, quantise(moved, { shape, ...other }));
          for (const [channel, factor] of factors.entries()) {
            expect(bounds.low[channel]).toBeLessThanOrEqual(factor);
            expect(bounds.high[channel]).toBeGreaterThanOrEqual(factor);
          }
        },
      ),
      { numRuns: 120 },
    );
  });

  test('is bounded as the weights of a channel allow it together', async () => {
    const shape = [1, 2];
    const before = quantise([100, 50], { shape, scale: 1 });
    const { low, high } = await bound(before, quantise([90, 45], { shape, scale: 1 }));
    // 89.5/100.5 and 45.5/49.5 are wider than 44.5/50.5 to 90.5/99.5 leave them.
    expect(low[0]).toBeCloseTo(89.5 / 100.5, 3);
    expect(high[0]).toBeCloseTo(90.5 / 99.5, 3);
  });

  test('is negative where a negative γ was folded in', async () => {
    const values = draw(54, 3);
    const shape = [2, 27];
    const folded = values.map((value, i) => value * (i < 27 ? -2 : 2));
    const { low, high } = await bound(
      tensorOf('live', values, { shape }),
      quantise(folded, { shape, axis: 0 }),
    );
    expect(low[0]).toBeLessThanOrEqual(-2);
    expect(high[0]).toBeGreaterThanOrEqual(-2);
    expect(low[1]).toBeGreaterThan(1.9);
  });

  test('is not told by codes at the ends of their type, which may have been cut off', async () => {
    const shape = [1, 3];
    const values = [0.5, -0.25, 2];
    // 2 is cut off to 127 steps of 0.005: a factor of 0.32 by that weight alone.
    const { low, high } = await bound(
      tensorOf('float', values, { shape }),
      quantise(values, { shape, scale: 0.005 }),
    );
    expect(low[0]).toBeLessThanOrEqual(1);
    expect(high[0]).toBeGreaterThanOrEqual(1);
  });

  test('is told by codes that a zero point of their own keeps from the ends', async () => {
    // Each channel has its own zero point: 255 less that of one is no end for the other.
    const shape = [2, 4];
    const values = [1, 0.5, 0.25, 0, -1, -0.5, -0.25, 0];
    const options = { shape, dtype: 'U8', axis: 0 } as const;
    const widened = (factor: number) => [...values.slice(0, 2), 0.25 * factor, 0, ...values.slice(4)];
    const { low, high } = await bound(quantise(values, options), quantise(values, options));
    expect([...low, ...high].every((factor) => Math.abs(factor - 1) < 0.05)).toBe(true);
    expect(await boundFactors(quantise(values, options), quantise(widened(1.2), options), CONV)).toBeNull();
  });

  test('is not told by the ends of four bits either', async () => {
    const shape = [1, 3];
    const before = tensorOf('float', [0.5, -0.25, 2], { shape });
    const after = quantise([0.5, -0.25, 2], { shape, scale: 0.125, packedBits: 4 });
    const { low, high } = await bound(before, after);
    expect(low[0]).toBeLessThanOrEqual(1);
    expect(high[0]).toBeGreaterThanOrEqual(1);
    const { quantised } = after;
    if (quantised === undefined) throw new Error('it is not quantised');
    // As codes of eight bits, 7 were no end of them: 2 would be 0.875.
    const codes = { ...quantised.codes, packedBits: undefined };
    expect(await boundFactors(before, { ...after, quantised: { ...quantised, codes } }, CONV)).toBeNull();
  });

  test('is open where all codes of a channel are zero', async () => {
    const shape = [2, 2];
    const { low, high, steps } = await bound(
      quantise([1, -1, 0.001, 0], { shape }),
      quantise([1, -1, 0.002, 0], { shape }),
    );
    expect([low[1], high[1], steps[1]]).toEqual([0, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY]);
  });

  test('is that of each output channel of a grouped ConvTranspose', async () => {
    const shape = [4, 2, 3];
    const values = draw(24, 8);
    const moved = values.map(
      (value, i) => value * (1 + ((Math.floor(i / 3) % 2) + 2 * Math.floor(i / 12)) / 4),
    );
    const layout = { outputAxis: 1, groups: 2 };
    const { low, high } = await bound(
      quantise(values, { shape }),
      quantise(moved, { shape, axis: 1 }),
      layout,
    );
    for (const channel of [0, 1, 2, 3]) {
      expect(low[channel]).toBeLessThanOrEqual(1 + channel / 4);
      expect(high[channel]).toBeGreaterThanOrEqual(1 + channel / 4);
    }
  });
});

describe('a trained weight', () => {
  test('has no factor', async () => {
    const shape = [4, 27];
    const options = { shape, axis: 0 };
    expect(
      await boundFactors(quantise(draw(108, 1), options), quantise(draw(108, 2), options), CONV),
    ).toBeNull();
  });

  test('has none by any weight alone, in whatever piece of it that is read', async () => {
    const shape = [3, 50_000];
    const values = draw(150_000, 6).map((value) => Math.min(0.2, Math.max(-0.2, value)));
    const after = quantise(values, { shape, dtype: 'U8', axis: 0 });
    const boundAgainst = (before: readonly number[]) =>
      boundFactors(tensorOf('float', before, { shape }), after, CONV);
    expect(await boundAgainst(values)).toMatchObject({ kind: 'bounded' });
    // Floats are read 64 Ki at a time after the first 8 Ki, and looked at 32 Ki at a time.
    const ends = [0, 8, 40, 72, 104, 136].flatMap((kilo) => [kilo * 1024 - 1, kilo * 1024]);
    for (const at of [...ends.slice(1), 149_999]) {
      expect(await boundAgainst(values.with(at, (values[at] as number) > 0 ? -0.1 : 0.1))).toBeNull();
    }
  });

  test('has one where a tool rounded codes up and down, if they may be off by a whole step', async () => {
    const shape = [4, 27];
    const values = draw(108, 5);
    const random = makeRandom(9);
    const round = (value: number) => (random() < 0.5 ? Math.floor(value) : Math.ceil(value));
    const [before, after] = [
      tensorOf('float', values, { shape }),
      quantise(values, { shape, axis: 0, round }),
    ];
    expect(await boundFactors(before, after, CONV)).toBeNull();
    expect((await boundFactors(before, after, CONV, 1))?.kind).toBe('bounded');
  });
});

describe('what is no number', () => {
  test('is a weight of NaN', async () => {
    const shape = [2, 2];
    const found = await boundFactors(
      tensorOf('float', [1, 2, 3, Number.NaN], { shape }),
      quantise([1, 2, 3, 4], { shape }),
      CONV,
    );
    expect(found).toMatchObject({ kind: 'not-finite', side: 'before', channel: 1 });
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY, 0, -0.5])('is a scale of %s', async (scale) => {
    const shape = [1, 4];
    const after = quantise([1, 2, 3, 4], { shape });
    if (after.quantised === undefined) throw new Error('it is not quantised');
    const hostile = {
      ...after,
      quantised: { ...after.quantised, scale: tensorOf('scale', [scale], { shape: [] }) },
    };
    const found = await boundFactors(tensorOf('float', [1, 2, 3, 4], { shape }), hostile, CONV);
    expect(found).toMatchObject({ kind: 'not-finite', side: 'after', channel: 0 });
  });
});

describe('values that may be what they were', () => {
  test('are biases in steps of another size, after other calibration', async () => {
    const values = draw(16, 4);
    const options = { shape: [16], dtype: 'I32' } as const;
    const [before, after] = [
      quantise(values, { ...options, scale: 2e-5 }),
      quantise(values, { ...options, scale: 3e-5 }),
    ];
    expect(await findCommonStep(before, after)).toBeGreaterThan(0);
    const moved = values.map((value) => value + 1e-4);
    expect(await findCommonStep(before, quantise(moved, { ...options, scale: 3e-5 }))).toBeNull();
  });
});

test('a weight that a baseline knows by its hash has no bounds, nor has a pair of floats', () => {
  const [float, code] = [tensorOf('float', [1, 2]), quantise([1, 2], { shape: [2] })];
  expect(areBoundable(float, code)).toBe(true);
  expect(areBoundable(float, float)).toBe(false);
  const hashed = { ...float, fingerprint: { sha256: '', projections: null, sample: null } };
  expect(areBoundable(hashed, code)).toBe(false);
});
