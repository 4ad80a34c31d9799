import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ChannelLayout } from '../../src/checkpoint/channel-grid.js';
import type { DType } from '../../src/checkpoint/dtype.js';
import type { ScaleComparison } from '../../src/compare/projected-scales.js';
import { compareChannelScales } from '../../src/folding/channel-scales.js';
import { tensorOf, tensorOfBytes } from '../build/checkpoints.js';
import { average, train } from '../build/weights.js';

const CONV: ChannelLayout = { outputAxis: 0, groups: 1 };

/** A generator of numbers from −1 to 1, the same for a seed. */
function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

/** Weights of `channels` × `width`, and each channel times a factor, with a relative error on every weight. */
function makePair(
  { channels, width, seed }: { channels: number; width: number; seed: number },
  { factorOf, error }: { factorOf: (channel: number) => number; error: number },
) {
  const random = randomNumbers(seed);
  const before = Array.from({ length: channels * width }, () => Math.fround(random()));
  const after = before.map((weight, i) => weight * factorOf(Math.floor(i / width)) * (1 + error * random()));
  return { before, after, shape: [channels, width] };
}

/** Compares without averaging: what only that would explain is a change. */
const compare = async (...args: Parameters<typeof compareAny>): Promise<ScaleComparison> => {
  const compared = await compareAny(...args);
  return compared.kind === 'short' || (compared.kind === 'proportional' && compared.rounding !== null)
    ? { kind: 'changed' }
    : compared;
};

const compareAny = (
  { before, after, shape }: { before: readonly number[]; after: readonly number[]; shape: readonly number[] },
  { layout = CONV, dtype = 'F32' }: { layout?: ChannelLayout; dtype?: DType } = {},
) =>
  compareChannelScales(
    tensorOf('before', before, { shape }),
    tensorOf('after', after, { shape, dtype }),
    layout,
  );

describe('channels that were each multiplied by a constant', () => {
  test('are proportional, with the constants as scales', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          channels: fc.integer({ min: 1, max: 5 }),
          // Beyond the weights that give the first estimate, and beyond what one read takes.
          width: fc.oneof(
            fc.integer({ min: 2, max: 40 }),
            fc.integer({ min: 250, max: 2000 }),
            fc.constant(70_000),
          ),
          seed: fc.nat(),
        }),
        fc.array(
          fc.oneof(
            fc.double({ min: 0.01, max: 100, noNaN: true }),
            fc.double({ min: -100, max: -0.01, noNaN: true }),
          ),
          {
            minLength: 5,
            maxLength: 5,
          },
        ),
        async (size, factors) => {
          const pair = makePair(size, { factorOf: (channel) => factors[channel] ?? 1, error: 0 });
          const compared = await compare(pair);
          expect(compared.kind).toBe('proportional');
          if (compared.kind !== 'proportional') return;
          for (const [channel, scale] of compared.scales.entries()) {
            const factor = factors[channel] ?? 1;
            expect(Math.abs(scale / factor - 1)).toBeLessThan(2e-7);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  test.each(['F16', 'BF16'] as const)('also when %s has rounded them', async (dtype) => {
    const pair = makePair({ channels: 3, width: 700, seed: 7 }, { factorOf: (c) => c + 0.3, error: 0 });
    expect((await compare(pair, { dtype })).kind).toBe('proportional');
  });

  test('a channel of zeros has no scale, and one that became zeros has scale 0', async () => {
    const compared = await compare({
      before: [0, 0, 1, 2, 3, 4],
      after: [0, 0, 0, 0, 6, 8],
      shape: [3, 2],
    });
    expect(compared).toMatchObject({ kind: 'proportional', weightsPerChannel: 2 });
    expect(compared.kind === 'proportional' && [...compared.scales]).toEqual([Number.NaN, 0, 2]);
  });

  test('a beginning of zeros gives no estimate, and the rest decides', async () => {
    const tail = Array.from({ length: 300 }, (_, i) => Math.fround(Math.sin(i + 1)));
    const before = [...Array<number>(256).fill(0), ...tail];
    const pair = { before, after: before.map((weight) => weight * 3), shape: [1, 556] };
    expect(await compare(pair)).toMatchObject({ kind: 'proportional' });
    const changed = { ...pair, after: pair.after.map((weight, i) => (i === 0 ? 1 : weight)) };
    expect(await compare(changed)).toEqual({ kind: 'changed' });
  });

  test('transposed convolutions count their channels second, within their groups', async () => {
    const random = randomNumbers(3);
    const [inputs, channels, kernel] = [4, 3, 9];
    const before = Array.from({ length: inputs * channels * kernel }, () => Math.fround(random()));
    const channelOf = (i: number) => Math.floor(i / kernel) % channels;
    const after = before.map((weight, i) => weight * (channelOf(i) + 0.5));
    const compared = await compare(
      { before, after, shape: [inputs, channels, 3, 3] },
      { layout: { outputAxis: 1, groups: 1 } },
    );
    expect(compared.kind === 'proportional' && [...compared.scales].map((s) => Math.fround(s))).toEqual([
      0.5, 1.5, 2.5,
    ]);
  });
});

describe('channels that were trained', () => {
  test.each([20, 300, 5000, 70_000])('one weight of %d that moved by 1e-5 is a change', async (width) => {
    for (const position of [0, Math.floor(width / 2), width - 1]) {
      const pair = makePair({ channels: 2, width, seed: 11 }, { factorOf: () => 1.7, error: 0 });
      const after = pair.after.map((weight, i) => (i === width + position ? weight * (1 + 1e-5) : weight));
      expect(await compare({ ...pair, after })).toEqual({ kind: 'changed' });
    }
  });

  test('a beginning of another factor than the rest is a change', async () => {
    const { before, shape } = makePair({ channels: 1, width: 600, seed: 5 }, { factorOf: () => 1, error: 0 });
    const after = before.map((weight, i) => weight * (i < 256 ? 1 : 1.001));
    expect(await compare({ before, after, shape })).toEqual({ kind: 'changed' });
  });

  test('NaN is found, wherever it stands', async () => {
    for (const position of [0, 299, 599]) {
      const { before, shape } = makePair(
        { channels: 1, width: 600, seed: 9 },
        { factorOf: () => 1, error: 0 },
      );
      const after = before.map((weight, i) => (i === position ? Number.NaN : weight));
      expect(await compare({ before, after, shape })).toMatchObject({ kind: 'not-finite', channel: 0 });
    }
  });
});

test('errors near the tolerance are judged against the final scale alone', async () => {
  // What checking every weight twice would say: the fit of the whole channel, and four roundings of either side.
  const judge = (before: readonly number[], after: readonly number[]) => {
    const scale =
      before.reduce((sum, x, i) => sum + x * (after[i] ?? 0), 0) / before.reduce((sum, x) => sum + x * x, 0);
    const tolerance = 4 * 2 * 2 ** -24;
    return before.every(
      (x, i) => Math.abs((after[i] ?? 0) - x * scale) <= tolerance * Math.abs(scale * x) + 2 ** -149,
    );
  };
  const seen = new Set<boolean>();
  await fc.assert(
    fc.asyncProperty(fc.nat(), fc.double({ min: 3e-7, max: 6e-7, noNaN: true }), async (seed, error) => {
      const pair = makePair({ channels: 1, width: 400, seed }, { factorOf: () => 0.8, error });
      const after = pair.after.map(Math.fround);
      const isProportional = judge(pair.before, after);
      seen.add(isProportional);
      expect((await compare({ ...pair, after })).kind).toBe(isProportional ? 'proportional' : 'changed');
    }),
    { numRuns: 300 },
  );
  expect(seen.size).toBe(2);
});

describe('weights that were averaged', () => {
  const averagePair = (width: number) => {
    const random = randomNumbers(17);
    const before = Array.from({ length: 4 * width }, () => Math.fround(random()));
    const averaged = average(Float32Array.from(before), {
      decay: 0.9999,
      steps: 3000,
      form: 'scale and add',
    });
    const factors = [1.5, 0.75, 1, 2.25];
    const after = Array.from(averaged, (weight, i) =>
      Math.fround(weight * (factors[Math.floor(i / width)] ?? 1)),
    );
    return { before, after, shape: [4, width], factors };
  };

  test('are multiples still, each channel of its own factor', async () => {
    const { factors, ...pair } = averagePair(72);
    const compared = await compareAny(pair);
    expect(compared).toMatchObject({
      kind: 'proportional',
      rounding: { kind: 'rounded', cause: 'averaged' },
    });
    const scales = compared.kind === 'proportional' ? compared.scales : [];
    for (const [channel, factor] of factors.entries()) expect(scales[channel]).toBeCloseTo(factor, 4);
  });

  test('do not tell where there are few of them', async () => {
    const { factors: _, ...pair } = averagePair(6);
    expect((await compareAny(pair)).kind).toBe('short');
  });

  test('are no multiples any more once they were trained', async () => {
    const { before, shape, factors } = averagePair(72);
    const trained = train(Float32Array.from(before), { optimizer: 'sgd', lr: 1e-4, steps: 10, seed: 3 });
    const after = Array.from(trained, (weight, i) =>
      Math.fround(weight * (factors[Math.floor(i / 72)] ?? 1)),
    );
    expect((await compareAny({ before, after, shape })).kind).toBe('changed');
  });
});

describe('sides of two types', () => {
  // As float32, the first half of the other side's bytes would be twice these weights.
  const weights = Array.from({ length: 8 }, (_, i) => i + 1);
  const doubled = Float32Array.from([...weights.map((weight) => 2 * weight), ...weights]);
  const narrow = tensorOf('narrow', weights, { shape: [1, 8] });
  const wide = tensorOfBytes('wide', new Uint8Array(doubled.buffer), { dtype: 'F64', shape: [1, 8] });

  test.each([
    ['before is wider', wide, narrow],
    ['after is wider', narrow, wide],
  ])('are compared by what their bytes stand for: %s', async (_, before, after) => {
    expect(await compareChannelScales(before, after, CONV)).toEqual({ kind: 'changed' });
  });
});

test('comparisons at the same time do not read over each other', async () => {
  const pairs = [2, 3, 5].map((factor) =>
    makePair({ channels: 4, width: 40_000, seed: factor }, { factorOf: (c) => factor + c, error: 0 }),
  );
  const compared = await Promise.all(pairs.map((pair) => compare(pair)));
  const scales = compared.map((one) =>
    one.kind === 'proportional' ? [...one.scales].map(Math.fround) : one,
  );
  expect(scales).toEqual([
    [2, 3, 4, 5],
    [3, 4, 5, 6],
    [5, 6, 7, 8],
  ]);
});

test('zeros are zeros by any scale', async () => {
  const zeros = tensorOf('zeros', [0, 0, 0, 0], { shape: [2, 2] });
  expect(await compareChannelScales(zeros, zeros, CONV)).toMatchObject({
    kind: 'proportional',
    scales: new Float64Array(2).fill(Number.NaN),
    weightsPerChannel: 0,
  });
});

describe('what cannot be compared', () => {
  test.each([
    ['other shapes', tensorOf('after', [1, 2], { shape: [1, 2] })],
    ['a type that is not decoded', tensorOf('after', [1, 2], { shape: [2, 1], dtype: 'I32' })],
  ])('%s', async (_, after) => {
    const before = tensorOf('before', [1, 2], { shape: [2, 1] });
    expect(await compareChannelScales(before, after, CONV)).toEqual({ kind: 'incomparable' });
  });
});

describe('weights against themselves are multiples by 1', () => {
  test.each([
    ['of squares beyond float64', 1e200],
    ['of squares that vanish', 1e-200],
    ['of the smallest float64', 5e-324],
  ])('%s', async (_, size) => {
    for (const outputAxis of [0, 1]) {
      const values = Array.from({ length: 12 }, (__, i) => (i + 1) * size);
      const weight = tensorOf('w', values, { dtype: 'F64', shape: [2, 2, 3] });
      const compared = await compareChannelScales(weight, weight, { outputAxis, groups: 1 });
      expect(compared).toMatchObject({ kind: 'proportional', scales: new Float64Array([1, 1]) });
    }
  });
});

test('a channel with a NaN is set aside in a layout whose channels lie apart as well', async () => {
  const values = [1, 2, 3, 4, Number.NaN, 6, 7, 8];
  const weight = tensorOf('w', values, { shape: [2, 2, 2] });
  const layout = { outputAxis: 1, groups: 1 };
  const found = { kind: 'not-finite', side: 'after', channel: 0, value: Number.NaN };
  expect(await compareChannelScales(weight, weight, layout)).toEqual({ ...found, isSame: true });
  const other = tensorOf('w', [9, ...values.slice(1)], { shape: [2, 2, 2] });
  expect(await compareChannelScales(other, weight, layout)).toEqual({ ...found, isSame: false });
  const trained = tensorOf('w', [1, 2, 3, 5, Number.NaN, 6, 7, 8], { shape: [2, 2, 2] });
  expect(await compareChannelScales(weight, trained, layout)).toEqual({ kind: 'changed' });
});
