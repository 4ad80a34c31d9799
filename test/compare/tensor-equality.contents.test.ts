import { describe, expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import type { DType } from '../../src/checkpoint/dtype.js';
import { type Content, isTelling, recogniseTensors } from '../../src/compare/tensor-equality.js';
import { tensorOf } from '../build/checkpoints.js';
import { toHashed } from '../build/hashed-tensor.js';

/** Values of all sizes; another seed, others. */
function spread(count: number, seed = 1): readonly number[] {
  return Array.from({ length: count }, (_, i) => Math.sin(seed * 977 + i * 12.9898) * 0.3);
}

function weightOf(values: readonly number[], dtype: DType = 'F32'): Tensor {
  return tensorOf('w', values, { shape: [values.length / 9, 1, 3, 3], dtype });
}

/** What each step of an average leaves of weights that stay: e ← 0.999 e + 0.001 x, in float32. */
function average(values: readonly number[], steps = 60): readonly number[] {
  return values.map((value) => {
    const x = Math.fround(value);
    let e = x;
    for (let i = 0; i < steps; i++) e = Math.fround(Math.fround(e * 0.999) + Math.fround(x * 0.001));
    return e;
  });
}

async function areAlike(before: Tensor, after: Tensor): Promise<boolean> {
  const contents = await recogniseTensors([before], [after]);
  const [one, other] = [contents.get(before), contents.get(after)];
  return one !== undefined && one.id === other?.id && isTelling(one);
}

describe('tensors are known again', () => {
  test('by their values, whatever they are called', async () => {
    expect(await areAlike(weightOf(spread(90)), { ...weightOf(spread(90)), name: 'other' })).toBe(true);
    expect(await areAlike(weightOf(spread(90)), weightOf(spread(90, 2)))).toBe(false);
  });

  test('with dimensions of 1 that a format adds', async () => {
    const other = tensorOf('w', spread(90), { shape: [10, 3, 3] });
    expect(await areAlike(weightOf(spread(90)), other)).toBe(true);
  });

  test('but not in another shape', async () => {
    const other = tensorOf('w', spread(90), { shape: [9, 10] });
    expect(await areAlike(weightOf(spread(90)), other)).toBe(false);
  });

  test('after averaging, and after a trip through a narrower type', async () => {
    expect(await areAlike(weightOf(spread(900)), weightOf(average(spread(900))))).toBe(true);
    expect(await areAlike(weightOf(spread(900)), weightOf(spread(900), 'F16'))).toBe(true);
    expect(await areAlike(weightOf(spread(900)), weightOf(spread(900), 'BF16'))).toBe(true);
  });

  test('not after training, however small its steps', async () => {
    const trained = spread(900).map((value, i) => value + (i % 2 === 0 ? 1e-4 : -1e-4));
    expect(await areAlike(weightOf(spread(900)), weightOf(trained))).toBe(false);
  });

  test('where a baseline holds a sample of one', async () => {
    const hashed = await toHashed(weightOf(spread(2700)), null);
    expect(await areAlike(hashed, weightOf(spread(2700)))).toBe(true);
    expect(await areAlike(hashed, weightOf(spread(2700, 2)))).toBe(false);
  });

  test('with −0 for 0', async () => {
    const values = spread(90).map((value, i) => (i % 3 === 0 ? 0 : value));
    const other = values.map((value) => (value === 0 ? -0 : value));
    expect(await areAlike(weightOf(values), weightOf(other))).toBe(true);
  });
});

describe('values that many tensors start with tell nothing', () => {
  test.each([
    ['ones', Array<number>(64).fill(1)],
    ['zeros and ones', Array.from({ length: 64 }, (_, i) => i % 2)],
    ['seven values', Array.from({ length: 64 }, (_, i) => i % 7)],
    ['one value throughout', Array<number>(64).fill(0.02)],
  ])('%s', async (_, values) => {
    const tensor = tensorOf('w', values, { shape: [8, 8] });
    const contents = await recogniseTensors([tensor], []);
    expect(isTelling(contents.get(tensor) as Content)).toBe(false);
  });

  test('three float32 values that were trained tell enough', async () => {
    const tensor = tensorOf('w', spread(3));
    const contents = await recogniseTensors([tensor], []);
    expect(isTelling(contents.get(tensor) as Content)).toBe(true);
  });
});

test('of two that rounding explains equally well, neither is taken', async () => {
  const after = weightOf(spread(900), 'BF16');
  const nearby = spread(900).map((value) => value * (1 + 1e-7));
  const before = [weightOf(spread(900)), weightOf(nearby)];
  const contents = await recogniseTensors(before, [after]);
  expect(before.map((tensor) => contents.get(tensor)?.id)).not.toContain(contents.get(after)?.id);
});

test('vectors are not held to be rounded: those near 1 all look like one another', async () => {
  const nearOne = (seed: number) => spread(128, seed).map((value) => 1 + value * 1e-3);
  expect(await areAlike(tensorOf('g', nearOne(1)), tensorOf('g', nearOne(2)))).toBe(false);
});

test('10,000 tensors of one shape and nearly one size end in seconds', async () => {
  const make = (scale: number) =>
    Array.from({ length: 10_000 }, (_, i) => weightOf(spread(18).map((value) => value * (scale + i * 1e-7))));
  const [before, after] = [make(1), make(1.000_3)];
  expect((await recogniseTensors(before, after)).size).toBe(20_000);
}, 60_000);
