import { describe, expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { decodeFloats } from '../../src/checkpoint/dtype.js';
import { multiplyMasks } from '../../src/checkpoint/pruned-weights.js';
import { readRange, wholeOf } from '../../src/io/byte-source.js';
import { checkpointOf, tensorOf } from '../build/checkpoints.js';
import { countingSource } from '../build/sources.js';

const valuesOf = async ({ range, dtype }: Tensor) => [...decodeFloats(await readRange(range), dtype)];

/** What stands in a checkpoint once masks were multiplied, in order. */
function multiplied(...tensors: readonly Tensor[]): ReadonlyMap<string, Tensor> {
  return multiplyMasks(checkpointOf(tensors)).tensors;
}

function namesIn(...tensors: readonly Tensor[]): readonly string[] {
  return [...multiplied(...tensors).keys()];
}

const original = tensorOf('conv.weight_orig', [0.5, -3, 7, 0.1]);
const mask = tensorOf('conv.weight_mask', [1, 0, 0, 1]);

describe('a pruned weight', () => {
  test('is the product of its original and its mask, where the original stood', async () => {
    const bias = tensorOf('conv.bias', [1]);
    const tensors = multiplied(tensorOf('fc.bias', [1]), original, mask, bias);
    expect([...tensors.keys()]).toEqual(['fc.bias', 'conv.weight', 'conv.bias']);
    const weight = tensors.get('conv.weight');
    expect(weight).toMatchObject({ name: 'conv.weight', dtype: 'F32', shape: [4] });
    expect(weight && (await valuesOf(weight))).toEqual([0.5, -0, 0, Math.fround(0.1)]);
  });

  test.each(['F16', 'BF16', 'F64'] as const)('is one in %s, too', async (dtype) => {
    const [one, other] = [original, mask].map(({ name }, i) =>
      tensorOf(name, i === 0 ? [0.5, -3] : [1, 0], { dtype }),
    );
    const [weight] = one && other ? multiplied(one, other).values() : [];
    expect(weight && (await valuesOf(weight))).toEqual([0.5, -0]);
  });

  test('is read in pieces that begin and end anywhere', async () => {
    const count = 300_000;
    const values = Array.from({ length: count }, (_, i) => i);
    const [weight] = multiplied(
      tensorOf('conv.weight_orig', values),
      tensorOf(
        'conv.weight_mask',
        values.map((value) => value % 2),
      ),
    ).values();
    if (weight === undefined) throw new Error('no product');
    const whole = await readRange(weight.range);
    expect([...decodeFloats(whole, 'F32').subarray(-3)]).toEqual([299_997, 0, 299_999]);
    for (const [start, length] of [
      [0, 1],
      [3, 6],
      [524_286, 600_001],
    ] as const) {
      const piece = new Uint8Array(length);
      await weight.range.source.readInto(piece, start);
      expect(Buffer.compare(piece, whole.subarray(start, start + length))).toBe(0);
    }
  });

  test('costs nothing until it is read', () => {
    const source = countingSource('file', new Uint8Array(16));
    multiplied({ ...original, range: wholeOf(source) }, mask);
    expect(source.bytesRead).toBe(0);
  });

  test('is a norm layer’s as well', () => {
    expect(namesIn(tensorOf('bn.weight_orig', [1]), tensorOf('bn.weight_mask', [1]))).toEqual(['bn.weight']);
  });
});

describe('tensors stay as they are', () => {
  const other = tensorOf('conv.weight_u', [1]);
  test.each([
    ['without a mask: spectral_norm keeps an original, too', [original, other]],
    ['beside a mask of another shape', [original, tensorOf('conv.weight_mask', [1, 0])]],
    ['beside a mask that is no float', [original, tensorOf(mask.name, [1, 0, 0, 1], { dtype: 'U8' })]],
    ['where the product has a tensor of its own', [original, mask, tensorOf('conv.weight', [1])]],
    ['where a baseline kept their hashes', [{ ...original, fingerprint: { sha256: '' } }, mask]],
  ])('%s', (_, tensors) => {
    expect(namesIn(...(tensors as Tensor[]))).toEqual(tensors.map(({ name }) => name));
  });

  test('in a graph, which says itself what is multiplied', () => {
    const checkpoint = checkpointOf([original, mask], { graph: { producer: '', norms: [], linears: [] } });
    expect(multiplyMasks(checkpoint)).toBe(checkpoint);
  });
});

test('a copy that the file holds is multiplied when it is opened', async () => {
  const copy = { path: 'ema', of: 'model', open: async () => checkpointOf([original, mask]) };
  const [opened] = multiplyMasks(checkpointOf([], { copies: [copy] })).copies ?? [];
  expect([...((await opened?.open())?.tensors.keys() ?? [])]).toEqual(['conv.weight']);
});
