import { describe, expect, test } from 'vitest';
import {
  boundMeasures,
  compareQuantisedScales,
  doubtDrift,
  isTooWide,
} from '../../src/folding/channel-scales.js';
import { tensorOf } from '../build/checkpoints.js';
import { type QuantiseOptions, quantise } from '../build/quantised.js';
import { makeNormal, makeRandom } from '../build/weights.js';

const CONV = { outputAxis: 0, groups: 1 };
const shape = [3, 27];
const normal = makeNormal(makeRandom(1));
const values = Array.from({ length: 81 }, () => Math.fround(0.05 * normal()));

describe('the scales of a quantised weight', () => {
  test('are the middles of their intervals, with what the measures may be', async () => {
    const factors = [1, 0.8, 1.5];
    const moved = values.map((value, i) => value * (factors[Math.floor(i / 27)] ?? 1));
    const found = await compareQuantisedScales(
      quantise(values, { shape }),
      quantise(moved, { shape, axis: 0 }),
      CONV,
    );
    if (found.kind !== 'proportional') throw new Error(`expected scales, found ${found.kind}`);
    factors.forEach((factor, channel) => {
      expect(found.scales[channel]).toBeCloseTo(factor, 1);
    });
    const bounds = boundMeasures(
      found.scales.map((scale) => 1 / scale),
      found,
    );
    factors.forEach((factor, channel) => {
      expect(bounds?.stdRatio.low[channel]).toBeLessThanOrEqual(1 / factor);
      expect(bounds?.stdRatio.high[channel]).toBeGreaterThanOrEqual(1 / factor);
    });
    const largest = Math.log(1.5);
    expect(bounds?.logStdRatio.max.low).toBeLessThanOrEqual(largest);
    expect(bounds?.logStdRatio.max.high).toBeGreaterThanOrEqual(largest);
  });

  test('are too wide to tell of four bits, unless codes and the scales of all channels are the same', async () => {
    const judge = async (axis: number | null, after: readonly number[]) => {
      const options = { shape, axis, packedBits: 4 } as const;
      const found = await compareQuantisedScales(quantise(values, options), quantise(after, options), CONV);
      if (found.kind !== 'proportional') throw new Error(`expected scales, found ${found.kind}`);
      return [0, 1, 2].map((channel) => isTooWide(found, channel));
    };
    expect(await judge(0, values)).toEqual([false, false, false]);
    // One scale for all says little of the channels that it was not chosen for.
    expect(await judge(null, values)).toEqual([true, true, true]);
    expect(
      await judge(
        0,
        values.map((value) => 1.001 * value),
      ),
    ).toEqual([true, true, true]);
  });

  test.each([
    ['each channel has its own scale', { shape, axis: 0 }, CONV],
    ['zero points differ, too', { shape, axis: 0, dtype: 'U8' }, CONV],
    ['channels are the last axis', { shape: [27, 3], axis: 1 }, { outputAxis: 1, groups: 1 }],
    ['each block has its own scale', { shape, axis: 1, blockSize: 9 }, CONV],
    ['codes have four bits', { shape, axis: 0, packedBits: 4 }, CONV],
  ] as const)('are those between scales where %s and all codes are the same', async (_, options, layout) => {
    const factors = [1, 1.01, 0.99];
    const channelOf = (i: number) => (layout.outputAxis === 0 ? Math.floor(i / 27) : i % 3);
    const moved = values.map((value, i) => value * (factors[channelOf(i)] ?? 1));
    const found = await compareQuantisedScales(quantise(values, options), quantise(moved, options), layout);
    if (found.kind !== 'proportional') throw new Error(`expected scales, found ${found.kind}`);
    factors.forEach((factor, channel) => {
      expect(found.scales[channel]).toBeCloseTo(factor, 4);
      expect(found.blur?.widths[channel]).toBeLessThan(1e-4);
    });
  });

  test('are told by no weight of two, of which the larger one is at the end of its type', async () => {
    const options = { shape: [12, 2], axis: 0 } as const;
    const two = (trained: number) =>
      Array.from({ length: 24 }, (_, i) => (i % 2 === 0 ? 1 : trained * (0.3 + i / 100)));
    const found = await compareQuantisedScales(quantise(two(1), options), quantise(two(1.1), options), CONV);
    expect(found).toMatchObject({ kind: 'proportional', weightsPerChannel: 1, blur: { witnesses: 0 } });
  });

  test('are doubted where they fit only by codes that are more than half a step off', async () => {
    const trained = values.map((value, i) => 1.2 * value + (i % 2 === 0 ? 0.013 : -0.013));
    const judge = async (options: Omit<QuantiseOptions, 'shape'>, after: readonly number[]) => {
      const [one, other] = [values, after].map((all) => quantise(all, { shape, ...options }));
      const found = one && other && (await compareQuantisedScales(one, other, CONV));
      if (found?.kind !== 'proportional') throw new Error(`expected scales, found ${found?.kind}`);
      return { isLoose: found.blur?.isLoose, isDoubted: doubtDrift(found) !== null };
    };
    expect(await judge({ packedBits: 4, axis: 0 }, trained)).toEqual({ isLoose: true, isDoubted: true });
    const drifted = values.map((value, i) => value * (1.2 + Math.floor(i / 27) / 10));
    expect(await judge({ packedBits: 4, axis: 0 }, drifted)).toEqual({ isLoose: false, isDoubted: false });
    let count = 0;
    const round = (value: number) => (count++ % 5 < 2 ? Math.ceil(value) : Math.floor(value));
    expect(await judge({ round }, drifted)).toEqual({ isLoose: true, isDoubted: true });
  });

  test('are none of a trained one, and not to be told beside a baseline', async () => {
    const other = values.map((_, i) => values[(i + 5) % 81] ?? 0);
    const quantised = quantise(values, { shape });
    expect(await compareQuantisedScales(quantised, quantise(other, { shape }), CONV)).toEqual({
      kind: 'changed',
    });
    const hashed = {
      ...tensorOf('float', values, { shape }),
      fingerprint: { sha256: '', projections: null, sample: null },
    };
    expect(await compareQuantisedScales(hashed, quantised, CONV)).toEqual({ kind: 'incomparable' });
  });
});
