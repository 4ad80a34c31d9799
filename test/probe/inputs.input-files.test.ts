import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { InputFiles, type ModelInput } from '../../src/probe/inputs.js';
import { bytesOf, f32, f64 } from '../build/bytes.js';
import { failureOf, usageFailureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';
import { npy } from '../formats/numpy/build-npy.js';

const folder = makeTempDirectory();

const files = new InputFiles();
afterEach(() => files.close());

function save(name: string, bytes: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

const image: ModelInput = { name: 'x', dtype: 'F32', shape: ['N', 2] };
const mask: ModelInput = { name: 'm', dtype: 'F32', shape: ['N'] };
const six = save('six.npy', npy('<f4', '(6, 2)', f32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)));
const ones = save('ones.npy', npy('<f4', '(6,)', f32(1, 1, 1, 1, 1, 1)));
const whole = { batch: undefined, isBatched: false };

describe('InputFiles', () => {
  test('reads one array for the one input', async () => {
    const runs = await files.open([six], [image], whole);
    expect(runs).toMatchObject({ kind: 'files', samples: 6, runs: 1, seed: null });
    expect(runs.arrays).toEqual([{ name: 'x', dtype: 'F32', shape: [6, 2], file: six }]);
    expect((await runs.read(0)).get('x')?.shape).toEqual([6, 2]);
  });

  test('gives arrays by name, and the others in order', async () => {
    const runs = await files.open([ones, `x=${six}`], [image, mask], whole);
    expect(runs.arrays.map(({ name, file }) => [name, file])).toEqual([
      ['x', six],
      ['m', ones],
    ]);
  });

  test('takes a path with an equals sign for a path', async () => {
    const odd = save('a=b.npy', npy('<f4', '(6, 2)', new Uint8Array(48)));
    expect((await files.open([odd], [image], whole)).arrays[0]?.file).toBe(odd);
  });

  test('runs a few samples at a time where the model counts samples first, or the user says how many', async () => {
    for (const split of [
      { batch: undefined, isBatched: true },
      { batch: 4, isBatched: false },
    ]) {
      const runs = await files.open([six, ones], [image, mask], split);
      expect(runs.runs).toBe(2);
      const last = await runs.read(1);
      expect(last.get('x')).toEqual({ dtype: 'F32', shape: [2, 2], bytes: f32(8, 9, 10, 11) });
      expect(last.get('m')?.shape).toEqual([2]);
      await files.close();
    }
  });

  test('runs an input of a fixed size as often as it is given, and shares what fits as it is', async () => {
    const fixed: ModelInput = { ...image, shape: [2, 2] };
    const constant: ModelInput = { name: 'c', dtype: 'F32', shape: [6] };
    const runs = await files.open([six, ones, ones], [fixed, mask, constant], whole);
    expect(runs.runs).toBe(3);
    const second = await runs.read(1);
    expect(second.get('x')?.bytes).toEqual(f32(4, 5, 6, 7));
    expect(second.get('m')?.shape).toEqual([2]);
    expect(second.get('c')?.shape).toEqual([6]);
  });

  test.each<[string, () => string[], readonly ModelInput[], RegExp]>([
    ['a missing array', () => [six], [image, mask], /input "m" float32 \[N\] is given no array/],
    ['one array more', () => [six, ones], [image], /ones\.npy is one array more/],
    ['an input twice', () => [`x=${six}`, `x=${six}`], [image], /"x" is given twice/],
    ['an unknown name', () => [`y=${six}`], [image], /names "y", which is no input of the model/],
    [
      'another type',
      () => [save('d.npy', npy('<f8', '(1, 2)', f64(1, 2)))],
      [image],
      /expected "x" float32 \[N, 2\], found float64 \[1, 2\]/,
    ],
    [
      'another size',
      () => [save('w.npy', npy('<f4', '(1, 3)', f32(1, 2, 3)))],
      [image],
      /found float32 \[1, 3\]/,
    ],
    ['another rank', () => [ones], [image], /found float32 \[6\]/],
    [
      'no multiple of a fixed size',
      () => [six],
      [{ ...image, shape: [4, 2] }],
      /expected "x" float32 \[4, 2\], found float32 \[6, 2\]/,
    ],
    ['an empty array', () => [save('e.npy', npy('<f4', '(0, 2)', f32()))], [image], /found an empty array/],
    [
      'different numbers of samples',
      () => [six, save('3.npy', npy('<f4', '(3,)', f32(1, 2, 3)))],
      [image, mask],
      /as many samples for every input, found 6 for "x", 3 for "m"/,
    ],
  ])('refuses %s', async (_, paths, inputs, message) => {
    const open = () => files.open(paths(), inputs, { batch: undefined, isBatched: true });
    expect((await usageFailureOf(open)).message).toMatch(message);
  });

  test('refuses files that are no arrays, and files that are not there', async () => {
    const text = save('text.npy', bytesOf('hello'));
    expect((await failureOf(() => files.open([text], [image], whole))).message).toMatch(
      /\.npy or \.npz file, found neither/,
    );
    const missing = join(folder, 'missing.npy');
    expect(await failureOf(() => files.open([missing], [image], whole))).toMatchObject({
      code: 'not-found',
      file: missing,
    });
  });
});
