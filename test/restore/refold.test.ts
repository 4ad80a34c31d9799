import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import { type DType, decodeFloats, encodeFloats } from '../../src/checkpoint/dtype.js';
import { openCheckpoint } from '../../src/checkpoint/open.js';
import { readRange } from '../../src/io/byte-source.js';
import { restore } from '../../src/restore.js';
import { f32 } from '../build/bytes.js';
import { failureOf } from '../build/failure.js';
import { safetensorsBytes } from '../build/safetensors.js';
import { makeTempDirectory } from '../build/sources.js';
import {
  attribute,
  DOUBLE,
  FLOAT,
  FLOAT16,
  field,
  graph,
  model,
  node,
  tensor,
} from '../checkpoint/onnx/build-onnx.js';

const directory = makeTempDirectory();
let runs = 0;

/** So many weights that the last ones are not among those that planning looks at. */
const INPUTS = 5000;
const WEIGHTS = Float64Array.from({ length: 2 * INPUTS }, (_, i) => Math.fround(Math.sin(i + 1)));
const EPSILON = 1e-5;

/** The scale of a channel whose γ is 1. */
const scaleOf = (variance: number) => 1 / Math.sqrt(variance + EPSILON);

/** A convolution of two channels and its norm layer, with variances of its own. */
function writeBefore(place: string, variances: readonly [number, number]): string {
  const path = join(place, 'before.safetensors');
  const pair = (x: number, y: number) => ({ dtype: 'F32', shape: [2], data: f32(x, y) });
  const bytes = safetensorsBytes({
    'conv.weight': { dtype: 'F32', shape: [2, INPUTS, 1, 1], data: f32(...WEIGHTS) },
    'bn.weight': pair(1, 1),
    'bn.bias': pair(0, 0),
    'bn.running_mean': pair(0.5, 1),
    'bn.running_var': pair(...variances),
  });
  writeFileSync(path, bytes);
  return path;
}

const DATA_TYPES = { F16: FLOAT16, F32: FLOAT, F64: DOUBLE } as const;

/** The same layers after training, folded: means of 0, variances of 1 and 2. */
function writeFolded(place: string, dtype: keyof typeof DATA_TYPES, isCast = false): string {
  const path = join(place, 'after.onnx');
  const scales = [scaleOf(1), scaleOf(2)];
  const weights = WEIGHTS.map((value, i) => value * (scales[Math.floor(i / INPUTS)] ?? 0));
  const name = isCast ? 'stored' : 'conv.weight';
  const bytes = model(
    graph({
      inputs: ['x'],
      outputs: ['y'],
      nodes: [
        ...(isCast
          ? [node('Cast', [name], ['conv.weight'], { attributes: [attribute.int('to', FLOAT)] })]
          : []),
        node('Conv', ['x', 'conv.weight', 'conv.bias'], ['y'], { name: 'conv' }),
      ],
      initializers: [
        tensor(name, [2, INPUTS, 1, 1], DATA_TYPES[dtype], field(9, encodeFloats(weights, dtype))),
        tensor('conv.bias', [2], FLOAT, field(9, f32(0, 0))),
      ],
    }),
  );
  writeFileSync(path, bytes);
  return path;
}

function freshDirectory(): string {
  const place = join(directory, String(runs++));
  mkdirSync(place);
  return place;
}

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
    const place = freshDirectory();
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
    const place = freshDirectory();
    const before = writeBefore(place, [0.3, 7]);
    const fixed = join(place, 'fixed.onnx');
    await restore(before, writeFolded(place, 'F64', true), fixed);
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

describe('a weight that does not fit', () => {
  // 1/√(1e-11 + ε) is far beyond what float16 holds, but only the second channel has it.
  const variances = [1, 1e-11] as const;

  test.each([{ dryRun: false }, { dryRun: true }])('is refused and nothing is left: %j', async (options) => {
    const place = freshDirectory();
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
