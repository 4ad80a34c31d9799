import { describe, expect, test } from 'vitest';
import { decodeFloats } from '../../src/checkpoint/dtype.js';
import { drawInputs, drawNormals, type ModelInput } from '../../src/probe/inputs.js';
import { usageFailureOf } from '../build/failure.js';

const image: ModelInput = { name: 'x', dtype: 'F32', shape: ['N', 3, 2] };
const request = { samples: 10, seed: 7, shapes: [], batch: undefined };

describe('drawNormals', () => {
  test('gives the same numbers for the same seeds, and others for others', () => {
    expect(drawNormals(5, [1, 2, 3])).toEqual(drawNormals(5, [1, 2, 3]));
    const others = [
      [1, 2, 4],
      [1, 3, 3],
      [2, 2, 3],
      [1 + 2 ** 32, 2, 3],
    ].map((seeds) => drawNormals(5, seeds));
    for (const other of others) expect(other).not.toEqual(drawNormals(5, [1, 2, 3]));
  });

  test('gives these numbers for seed 0, on every machine', () => {
    expect([...drawNormals(4, [0, 0, 0])].map((value) => value.toFixed(12))).toMatchInlineSnapshot(`
      [
        "-0.662642510986",
        "-0.062380956462",
        "0.633198731946",
        "0.561612283829",
      ]
    `);
  });

  test('is standard normal', () => {
    const values = drawNormals(200_000, [0]);
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
    const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length;
    const fourth = values.reduce((sum, x) => sum + (x - mean) ** 4, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.01);
    expect(Math.abs(variance - 1)).toBeLessThan(0.02);
    expect(Math.abs(fourth - 3)).toBeLessThan(0.1);
  });
});

describe('drawInputs', () => {
  test('draws as many samples as asked for, a few at a time, where the first dimension is open', async () => {
    const runs = drawInputs([image], request);
    expect(runs).toMatchObject({ kind: 'random', samples: 10, runs: 3, seed: 7 });
    expect(runs.arrays).toEqual([{ name: 'x', dtype: 'F32', shape: [10, 3, 2], file: null }]);
    const shapes = await Promise.all([0, 1, 2].map(async (run) => (await runs.read(run)).get('x')?.shape));
    expect(shapes).toEqual([
      [4, 3, 2],
      [4, 3, 2],
      [2, 3, 2],
    ]);
    expect(await runs.read(1)).not.toEqual(await runs.read(0));
    expect(await runs.read(1)).toEqual(await drawInputs([image], request).read(1));
  });

  test('draws whole runs where the first dimension is fixed', async () => {
    const runs = drawInputs([{ ...image, shape: [4, 3, 2] }], request);
    expect(runs).toMatchObject({ samples: 12, runs: 3 });
  });

  test('rounds to the type of the input, and gives every input numbers of its own', async () => {
    const half: ModelInput = { name: 'h', dtype: 'F16', shape: [4, 6] };
    const arrays = await drawInputs([{ ...image, shape: [4, 6] }, half], request).read(0);
    const [x, h] = ['x', 'h'].map((name) => arrays.get(name));
    expect(h?.bytes.byteLength).toBe(2 * 24);
    expect(decodeFloats(h?.bytes ?? new Uint8Array(), 'F16')[0]).not.toBeCloseTo(
      decodeFloats(x?.bytes ?? new Uint8Array(), 'F32')[0] ?? 0,
      2,
    );
  });

  test('takes dimensions from --shape, by name or for the only input', () => {
    const open: ModelInput = { name: 'x', dtype: 'F32', shape: ['N', 3, 'H'] };
    for (const name of ['x', null]) {
      const runs = drawInputs([open], { ...request, shapes: [{ name, dims: [2, 3, 5] }] });
      expect(runs.arrays[0]?.shape).toEqual([10, 3, 5]);
    }
  });

  test('says which dimensions are open, by names that steer no terminal and no shell', async () => {
    const hostile: ModelInput = { name: 'x;reboot', dtype: 'F32', shape: ['\u001b[2J', 3, 'H'] };
    expect(await usageFailureOf(() => drawInputs([hostile], request))).toEqual({
      message: `the dimensions of the model's input "x;reboot" float32 ["\\x1b[2J", 3, H] are known at run time only`,
      hint: "Say which to use: --shape 'x;reboot'=1,3,N",
    });
  });

  test.each<[string, ModelInput, { name: string | null; dims: number[] }[], RegExp]>([
    ['integers', { ...image, dtype: 'I64' }, [], /random samples are floats/],
    ['open dimensions', { ...image, shape: ['N', 3, 'H'] }, [], /known at run time only/],
    ['a shape of another rank', image, [{ name: 'x', dims: [1, 3] }], /--shape 1,3 does not fit/],
    ['a shape with another fixed size', image, [{ name: 'x', dims: [1, 4, 2] }], /does not fit/],
    ['a shape for no input', image, [{ name: 'y', dims: [1] }], /names "y", which is no input/],
    ['a shape that takes all memory', image, [{ name: 'x', dims: [1e9, 3, 2] }], /would take/],
  ])('refuses %s', async (_, input, shapes, message) => {
    expect((await usageFailureOf(() => drawInputs([input], { ...request, shapes }))).message).toMatch(
      message,
    );
  });
});
