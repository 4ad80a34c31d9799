import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { restore } from '../../src/restore/restore.js';
import { f32 } from '../build/bytes.js';
import { failureOf } from '../build/failure.js';
import { safetensorsBytes } from '../build/safetensors.js';
import { makeTempDirectory } from '../build/sources.js';
import { FLOAT, field, graph, model, node, tensor } from '../formats/onnx/build-onnx.js';
import { INPUTS, WEIGHTS, writeFolded } from './folded-pair.js';

/** Before is folded, with γ of 1 and variances of 1 and 2; after has it live, with another γ. */
async function messageFor(gamma: readonly [number, number], isSecondZero = false): Promise<string> {
  const place = makeTempDirectory();
  const [after, fixed] = [join(place, 'live.safetensors'), join(place, 'fixed.safetensors')];
  const pair = (x: number, y: number) => ({ dtype: 'F32', shape: [2], data: f32(x, y) });
  writeFileSync(
    after,
    safetensorsBytes({
      'conv.weight': { dtype: 'F32', shape: [2, INPUTS, 1, 1], data: f32(...WEIGHTS) },
      'bn.weight': pair(...gamma),
      'bn.bias': pair(0, 0),
      'bn.running_mean': pair(0.5, 0),
      'bn.running_var': pair(1, 2),
    }),
  );
  const failure = await failureOf(() => restore(writeFolded(place, 'F32', { isSecondZero }), after, fixed));
  expect(existsSync(fixed)).toBe(false);
  return failure.message;
}

test('a folded scale that only a negative variance would explain is refused: γ was trained', async () => {
  expect(await messageFor([1, 0.001])).toBe(
    'layer "bn" cannot be restored: only a variance of -0.00000800 would explain the scale of channel 1 in before: its weight was trained, or epsilon is not 0.00001',
  );
});

test('folded weights of zero tell no statistics where γ is not zero', async () => {
  expect(await messageFor([1, 1], true)).toBe(
    'layer "bn" cannot be restored: the folded weights of channel 1 are zero in before, and its γ is not',
  );
});

test('a live layer without its running variance is refused where before is folded, too', async () => {
  const place = makeTempDirectory();
  const after = join(place, 'live.safetensors');
  const pair = { dtype: 'F32', shape: [2], data: f32(1, 1) };
  writeFileSync(
    after,
    safetensorsBytes({
      'conv.weight': { dtype: 'F32', shape: [2, INPUTS, 1, 1], data: f32(...WEIGHTS) },
      'bn.weight': pair,
      'bn.bias': pair,
      'bn.running_mean': pair,
    }),
  );
  const before = writeFolded(place, 'F32');
  const failure = await failureOf(() => restore(before, after, join(place, 'x'), { layers: ['bn'] }));
  expect(failure.message).toBe('layer "bn" cannot be restored: running_var is missing from the file');
});

test('weights too few to tell, trained as all others were, are refused and not half restored', async () => {
  const place = makeTempDirectory();
  const [before, after, fixed] = ['folded.onnx', 'live.safetensors', 'fixed.safetensors'].map((name) =>
    join(place, name),
  );
  const weights = Array.from({ length: 8 }, (_, i) => Math.sin(i + 1));
  const nearlyScaled = weights.map((weight, i) => weight * 0.5 * (1 + 1e-5 * Math.cos(3 * i)));
  const vector = (...values: readonly number[]) => ({
    dtype: 'F32',
    shape: [values.length],
    data: f32(...values),
  });
  writeFileSync(
    after ?? '',
    safetensorsBytes({
      'conv.weight': { dtype: 'F32', shape: [2, 4, 1, 1], data: f32(...weights) },
      'bn.weight': vector(1, 1),
      'bn.bias': vector(0, 0),
      'bn.running_mean': vector(0, 0),
      'bn.running_var': vector(1, 2),
      'head.weight': { dtype: 'F32', shape: [2, 2], data: f32(1, 2, 3, 4) },
    }),
  );
  const folded = graph({
    inputs: ['x'],
    outputs: ['y'],
    nodes: [
      node('Conv', ['x', 'conv.weight', 'conv.bias'], ['c'], { name: 'conv' }),
      node('MatMul', ['c', 'head.weight'], ['y']),
    ],
    initializers: [
      tensor('conv.weight', [2, 4, 1, 1], FLOAT, field(9, f32(...nearlyScaled))),
      tensor('conv.bias', [2], FLOAT, field(9, f32(0, 0))),
      tensor('head.weight', [2, 2], FLOAT, field(9, f32(5, 2, 7, 4))),
    ],
  });
  writeFileSync(before ?? '', model(folded));
  const restoring = restore(before ?? '', after ?? '', fixed ?? '', { layers: ['bn'] });
  expect((await failureOf(() => restoring)).message).toBe(
    'layer "bn" cannot be restored: before has folded it into a convolution, which was trained since',
  );
});
