import { readdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import { type DType, decodeFloats, encodeFloats } from '../../src/checkpoint/dtype.js';
import { openCheckpoint } from '../../src/formats/open.js';
import { readRange } from '../../src/io/byte-source.js';
import { restore } from '../../src/restore/restore.js';
import { failureOf } from '../build/failure.js';
import { makeSubdirectory, makeTempDirectory } from '../build/sources.js';
import { node } from '../formats/onnx/build-onnx.js';
import { INPUTS, scaleOf, WEIGHTS, writeBefore, writeFolded } from './folded-pair.js';

const directory = makeTempDirectory();

/** The values of a tensor of a file. */
async function readValues(path: string, name: string): Promise<Float64Array> {
  const checkpoint = await openCheckpoint(path);
  const found = checkpoint.tensors.get(name);
  if (found === undefined) throw new Error(`${path} has no ${name}`);
  const values = decodeFloats(await readRange(found.range), found.dtype);
  await checkpoint.close();
  return values;
}

const roundTo = (values: ArrayLike<number>, dtype: DType) => decodeFloats(encodeFloats(values, dtype), dtype);

describe('a convolution is folded again', () => {
  test.each(['F32', 'F16', 'F64'] as const)('into %s, every value rounded once', async (dtype) => {
    const place = makeSubdirectory(directory);
    const variances = [0.3, 7] as const;
    const before = writeBefore(place, [...variances]);
    const fixed = join(place, 'fixed.onnx');
    await restore(before, writeFolded(place, dtype), fixed);
    const scales = variances.map((variance) => scaleOf(Math.fround(variance)));
    const expected = WEIGHTS.map((value, i) => (scales[Math.floor(i / INPUTS)] ?? 0) * value);
    expect(await readValues(fixed, 'conv.weight')).toEqual(roundTo(expected, dtype));
    const [first = 0, second = 0] = scales;
    expect(await readValues(fixed, 'conv.bias')).toEqual(roundTo([-0.5 * first, -second], 'F32'));
    expect((await audit(before, fixed)).summary.byStatus).toMatchObject({ locked: 1 });
  });

  test('where its weight is computed: an initializer takes the place of the Cast', async () => {
    const place = makeSubdirectory(directory);
    const before = writeBefore(place, [0.3, 7]);
    const fixed = join(place, 'fixed.onnx');
    await restore(before, writeFolded(place, 'F64', { isCast: true }), fixed);
    const values = await readValues(fixed, 'conv.weight');
    const scale = scaleOf(Math.fround(0.3));
    expect(values.slice(0, INPUTS)).toEqual(
      roundTo(
        WEIGHTS.slice(0, INPUTS).map((value) => scale * value),
        'F32',
      ),
    );
    expect((await audit(before, fixed)).summary.byStatus).toMatchObject({ locked: 1 });
  });
});

describe('where an optimiser may have moved a constant into the weights from in front', () => {
  /** A GELU without its ½. */
  const front = [
    node('Erf', ['x'], ['erf']),
    node('Add', ['erf', 'one'], ['gate']),
    node('Mul', ['x', 'gate'], ['data']),
  ];

  test.each([{ variances: [1, 2] }, { variances: [0.3, 7] }])(
    'one that a GELU lacks stays: %j',
    async (options) => {
      const place = makeSubdirectory(directory);
      const before = writeBefore(place, [0.3, 7]);
      const fixed = join(place, 'fixed.onnx');
      await restore(before, writeFolded(place, 'F32', { ...options, front, factor: 0.5 }), fixed, {
        layers: ['bn'],
      });
      const scales = [0.3, 7].map((variance) => 0.5 * scaleOf(Math.fround(variance)));
      const expected = WEIGHTS.map((value, i) => (scales[Math.floor(i / INPUTS)] ?? 0) * value);
      expect(await readValues(fixed, 'conv.weight')).toEqual(roundTo(expected, 'F32'));
    },
  );

  test('one constant in all channels is refused: names do not tell whose it is', async () => {
    const place = makeSubdirectory(directory);
    const before = writeBefore(place, [0.3, 7]);
    const after = writeFolded(place, 'F32', { variances: [0.3, 7], factor: 0.37 });
    const failure = await failureOf(() => restore(before, after, join(place, 'fixed.onnx')));
    expect(failure).toMatchObject({ code: 'unsupported' });
    expect(failure.message).toContain('all channels of its convolution were multiplied by the same constant');
    expect(readdirSync(place).sort()).toEqual(['after.onnx', 'before.safetensors']);
  });

  test('and so is one that only one graph has in front', async () => {
    const place = makeSubdirectory(directory);
    const before = join(makeSubdirectory(directory), 'before.onnx');
    const one = [node('Mul', ['x', 'constant'], ['data'])];
    renameSync(writeFolded(place, 'F32', { variances: [0.3, 7], front: one }), before);
    const after = writeFolded(place, 'F32', { factor: 0.37 });
    const failure = await failureOf(() => restore(before, after, join(place, 'fixed.onnx')));
    expect(failure.message).toContain('by a constant in one file that the other does not have');
  });
});

describe('a layer without affine, behind a convolution with a bias', () => {
  test('is folded again', async () => {
    const place = makeSubdirectory(directory);
    const before = writeBefore(place, [0.3, 7], [2, -3]);
    const fixed = join(place, 'fixed.onnx');
    await restore(before, writeFolded(place, 'F32'), fixed);
    const [first = 0, second = 0] = [0.3, 7].map((variance) => scaleOf(Math.fround(variance)));
    expect(await readValues(fixed, 'conv.bias')).toEqual(
      roundTo([first * (2 - 0.5), second * (-3 - 1)], 'F32'),
    );
    const expected = WEIGHTS.map((value, i) => (i < INPUTS ? first : second) * value);
    expect(await readValues(fixed, 'conv.weight')).toEqual(roundTo(expected, 'F32'));
  });
});

test('statistics that are no numbers are not folded', async () => {
  const place = makeSubdirectory(directory);
  const before = writeBefore(place, [0.3, Number.NaN]);
  const failure = await failureOf(() =>
    restore(before, writeFolded(place, 'F32'), join(place, 'fixed.onnx')),
  );
  expect(failure).toMatchObject({ code: 'unsupported' });
  expect(failure.message).toContain('before itself is invalid');
  expect(readdirSync(place).sort()).toEqual(['after.onnx', 'before.safetensors']);
});

describe('a weight that does not fit', () => {
  // 1/√(1e-11 + ε) is far beyond what float16 holds, but only the second channel has it.
  const variances = [1, 1e-11] as const;

  test.each([{ dryRun: false }, { dryRun: true }])('is refused and nothing is left: %j', async (options) => {
    const place = makeSubdirectory(directory);
    const before = writeBefore(place, [...variances]);
    const after = writeFolded(place, 'F16');
    const failure = await failureOf(() =>
      restore(before, after, join(place, 'fixed.onnx'), { ...options, epsilon: 1e-10 }),
    );
    expect(failure).toMatchObject({ code: 'unsupported' });
    expect(failure.message).toContain('its folded weight does not fit into F16');
    expect(readdirSync(place).sort()).toEqual(['after.onnx', 'before.safetensors']);
    expect(readFileSync(after).byteLength).toBeGreaterThan(0);
  });
});
