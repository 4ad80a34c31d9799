import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ChannelLayout } from '../../src/checkpoint/channel-grid.js';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import type { DType } from '../../src/checkpoint/dtype.js';
import { provesChange } from '../../src/compare/projected-scales.js';
import { compareChannelScales } from '../../src/folding/channel-scales.js';
import { tensorOf } from '../build/checkpoints.js';
import { toHashed } from '../build/hashed-tensor.js';

const LAYOUT: ChannelLayout = { outputAxis: 0, groups: 1 };

/** Pseudo-random weights around zero; the same for the same seed. */
function weightsOf(count: number, seed = 1): readonly number[] {
  return Array.from({ length: count }, (_, i) => Math.fround(Math.sin((i + 1) * 12.9898 * seed) * 0.1));
}

const conv = (values: readonly number[], channels: number, dtype: DType = 'F32') =>
  tensorOf('conv.weight', values, { dtype, shape: [channels, values.length / channels] });

const scale = (values: readonly number[], factors: readonly number[]) =>
  values.map((value, i) =>
    Math.fround(value * (factors[Math.floor((i * factors.length) / values.length)] ?? 1)),
  );

async function expectScales(
  before: Tensor,
  after: Tensor,
  expected: readonly number[],
  layout = LAYOUT,
): Promise<void> {
  const pairs = [
    [await toHashed(before, layout), after],
    [before, await toHashed(after, layout)],
    [await toHashed(before, layout), await toHashed(after, layout)],
  ] as const;
  for (const [one, other] of pairs) {
    const compared = await compareChannelScales(one, other, layout);
    if (compared.kind !== 'proportional') throw new Error(compared.kind);
    expect(compared.scales).toHaveLength(expected.length);
    for (const [channel, found] of compared.scales.entries()) {
      const wanted = expected[channel] ?? Number.NaN;
      if (Number.isNaN(wanted)) expect(found).toBeNaN();
      else expect(Math.abs(found - wanted)).toBeLessThanOrEqual(3e-7 * Math.abs(wanted));
    }
  }
}

async function kindOf(before: Tensor, after: Tensor, layout = LAYOUT): Promise<string> {
  return (await compareChannelScales(await toHashed(before, layout), after, layout)).kind;
}

describe('channels that were merely rescaled', () => {
  test('give their scales, whichever side is known by projections', async () => {
    const weights = weightsOf(3 * 27);
    const factors = [0.37, -1.9, 12.5];
    await expectScales(conv(weights, 3), conv(scale(weights, factors), 3), factors);
  });

  test('of which some are not, or to zero, or zero before and after', async () => {
    const weights = [...weightsOf(3 * 9), ...Array<number>(9).fill(0)];
    const factors = [1, 0, 0.5, 1];
    await expectScales(conv(weights, 4), conv(scale(weights, factors), 4), [1, 0, 0.5, Number.NaN]);
  });

  test('equal ones have exactly the scale 1', async () => {
    const before = conv(weightsOf(64), 8);
    const compared = await compareChannelScales(await toHashed(before, LAYOUT), before, LAYOUT);
    expect(compared).toMatchObject({ kind: 'proportional', scales: Float64Array.from(Array(8).fill(1)) });
  });

  test.each([1, 2, 3, 4, 9, 25, 27, 576])('with %i weights each', async (count) => {
    const weights = weightsOf(16 * count);
    const factors = Array.from({ length: 16 }, (_, i) => (i % 2 === 0 ? 1 : -1) * (0.2 + i));
    await expectScales(conv(weights, 16), conv(scale(weights, factors), 16), factors);
  });

  test('of a ConvTranspose in groups', async () => {
    const layout = { outputAxis: 1, groups: 2 };
    const shape = [4, 3, 5];
    const weights = weightsOf(60);
    const factors = [2, 3, 4, 5, 6, 7];
    const scaled = weights.map((weight, i) => {
      const [input, output] = [Math.floor(i / 15), Math.floor(i / 5) % 3];
      return Math.fround(weight * (factors[Math.floor(input / 2) * 3 + output] ?? 0));
    });
    await expectScales(tensorOf('w', weights, { shape }), tensorOf('w', scaled, { shape }), factors, layout);
  });

  test.each(['F16', 'BF16'] as const)('when the folded file stores %s', async (dtype) => {
    const weights = weightsOf(8 * 64);
    expect(await kindOf(conv(weights, 8), conv(scale(weights, [0.7, 1.3]), 8, dtype))).toBe('proportional');
  });

  test('down to subnormal numbers', async () => {
    const weights = weightsOf(4 * 64).map((weight) => weight * 1e-39);
    expect(await kindOf(conv(weights, 4), conv(scale(weights, [0.5, 0.25, 2, 1]), 4))).toBe('proportional');
  });

  test('any factors of any weights, and no other verdict', async () => {
    const weight = fc.float({ min: Math.fround(-2), max: 2, noNaN: true, noDefaultInfinity: true });
    const factor = fc.double({ min: 0.01, max: 100, noNaN: true });
    await fc.assert(
      fc.asyncProperty(
        fc.array(weight, { minLength: 32, maxLength: 32 }),
        fc.array(factor, { minLength: 4, maxLength: 4 }),
        async (weights, factors) => {
          const [before, after] = [conv(weights, 4), conv(scale(weights, factors), 4)];
          const live = await compareChannelScales(before, after, LAYOUT);
          const hashed = await compareChannelScales(await toHashed(before, LAYOUT), after, LAYOUT);
          expect(hashed.kind).toBe(live.kind);
          if (live.kind === 'proportional' && hashed.kind === 'proportional')
            expect(hashed.weightsPerChannel).toBe(live.weightsPerChannel);
        },
      ),
    );
  });
});

describe('channels that were trained', () => {
  test.each([1e-1, 1e-3, 1e-4])('by %f of their size are told from rescaled ones', async (step) => {
    const weights = weightsOf(4 * 27);
    const trained = weights.map((weight, i) => weight + step * 0.07 * Math.cos(i * 7.3));
    expect(await kindOf(conv(weights, 4), conv(trained, 4))).toBe('changed');
  });

  test('in a single weight alone', async () => {
    const weights = weightsOf(4 * 576);
    for (const index of [0, 17, 575]) {
      const trained = weights.map((weight, i) => (i === index ? weight + 1e-4 : weight));
      expect(await kindOf(conv(weights, 4), conv(trained, 4))).toBe('changed');
    }
  });

  test('by swapping two weights', async () => {
    const weights = weightsOf(9);
    const swapped = [weights[1] ?? 0, weights[0] ?? 0, ...weights.slice(2)];
    expect(await kindOf(conv(weights, 1), conv(swapped, 1))).toBe('changed');
  });

  test('from zeros, or to NaN', async () => {
    const [zeros, weights] = [Array<number>(18).fill(0), weightsOf(18)];
    expect(await kindOf(conv(zeros, 2), conv(weights, 2))).toBe('changed');
    expect(await kindOf(conv(weights, 2), conv([...weights.slice(1), Number.NaN], 2))).toBe('changed');
  });
});

test('nothing can be said without projections, or of another layout or shape', async () => {
  const before = conv(weightsOf(16), 4);
  const hashed = await toHashed(before, LAYOUT);
  const compare = async (one: Tensor, other: Tensor, layout = LAYOUT) =>
    (await compareChannelScales(one, other, layout)).kind;
  expect(await compare(await toHashed(before, null), before)).toBe('incomparable');
  expect(await compare(hashed, before, { outputAxis: 1, groups: 1 })).toBe('incomparable');
  expect(await compare(hashed, conv(weightsOf(16), 2))).toBe('incomparable');
});

test('zeros are zeros by any scale', async () => {
  const zeros = conv(Array<number>(16).fill(0), 4);
  expect(await compareChannelScales(await toHashed(zeros, LAYOUT), zeros, LAYOUT)).toMatchObject({
    kind: 'proportional',
    scales: new Float64Array(4).fill(Number.NaN),
    weightsPerChannel: 0,
  });
});

describe('whether projections prove a change between types', () => {
  const weights = weightsOf(8 * 64);
  const proves = async (after: Tensor) => provesChange(await toHashed(conv(weights, 8), LAYOUT), after);

  test.each(['F64', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2'] as const)(
    'none where %s merely rounds',
    async (dtype) => {
      expect(await proves(conv(weights, 8, dtype))).toBe(false);
    },
  );

  test('one where the weights were trained, rescaled or turned', async () => {
    expect(
      await proves(
        conv(
          weights.map((weight, i) => weight + 0.01 * Math.cos(i)),
          8,
          'F16',
        ),
      ),
    ).toBe(true);
    expect(await proves(conv(scale(weights, [1.02]), 8, 'F16'))).toBe(true);
    expect(await proves(conv(scale(weights, [-1]), 8, 'F16'))).toBe(true);
  });

  test('none where halves overflow, or there are no projections', async () => {
    const large = conv(
      weights.map((weight) => weight * 1e7),
      8,
    );
    expect(
      await provesChange(
        await toHashed(large, LAYOUT),
        conv(
          weights.map((weight) => weight * 1e7),
          8,
          'F16',
        ),
      ),
    ).toBe(false);
    expect(
      await provesChange(await toHashed(conv(weights, 8), null), conv(weightsOf(512, 2), 8, 'F16')),
    ).toBe(false);
  });
});
