import { describe, expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { decodeFloats } from '../../src/checkpoint/dtype.js';
import { joinCodes } from '../../src/checkpoint/stored-codes.js';
import { readRange } from '../../src/io/byte-source.js';
import { checkpointOf, tensorOf, tensorOfBytes } from '../build/checkpoints.js';
import { graphOf } from '../build/layers.js';

const valuesOf = async (tensor: Tensor | undefined) =>
  tensor && [...decodeFloats(await readRange(tensor.range), tensor.dtype)];
const joined = (...tensors: readonly Tensor[]) => joinCodes(checkpointOf(tensors)).tensors;
const codes = (name: string, dtype: 'I8' | 'U8' = 'I8') =>
  tensorOfBytes(name, Uint8Array.of(4, 252, 2, 8), { dtype, shape: [2, 2] });

describe('codes beside their scales', () => {
  test.each([
    ['one for all', 'fc.weight', tensorOf('fc.weight_scale', [0.5]), [2, -2, 1, 4]],
    ['one a row', 'fc.weight', tensorOf('fc.weight_scale', [0.5, 2], { shape: [2, 1] }), [2, -2, 4, 16]],
    [
      'one a block',
      'fc.weight',
      tensorOf('fc.weight_scale', [1, 2, 3, 4], { shape: [2, 2] }),
      [4, -8, 6, 32],
    ],
    [
      "quanto's names",
      'fc.weight._data',
      tensorOf('fc.weight._scale', [0.5, 2], { shape: [2, 1] }),
      [2, -2, 4, 16],
    ],
  ])('are a weight: %s', async (_, name, scale, values) => {
    const tensors = joined(tensorOf('fc.bias', [1, 2]), codes(name), scale, tensorOf('fc.input_scale', [1]));
    expect([...tensors.keys()]).toEqual(['fc.bias', 'fc.weight', scale.name, 'fc.input_scale']);
    expect(await valuesOf(tensors.get('fc.weight'))).toEqual(values);
    expect(tensors.get('fc.weight')).toMatchObject({ name: 'fc.weight', dtype: 'F32', quantised: { scale } });
    expect([scale.name, 'fc.input_scale', 'fc.bias'].map((each) => tensors.get(each)?.isBuffer)).toEqual([
      true,
      true,
      undefined,
    ]);
  });

  test('have zero points, too', async () => {
    const zero = tensorOfBytes('fc.weight_zero_point', Uint8Array.of(2), { dtype: 'U8', shape: [1] });
    const tensors = joined(codes('fc.weight', 'U8'), tensorOf('fc.weight_scale', [0.5]), zero);
    expect(await valuesOf(tensors.get('fc.weight'))).toEqual([1, 125, 0, 3]);
  });

  test.each<readonly [string, readonly Tensor[]]>([
    ['are others', [codes('fc.table'), tensorOf('fc.table_scale', [1])]],
    ['have none', [codes('fc.weight')]],
    [
      'are floats',
      [tensorOf('fc.weight', [1, 2, 3, 4], { shape: [2, 2] }), tensorOf('fc.weight_scale', [1])],
    ],
    ['fit no row', [codes('fc.weight'), tensorOf('fc.weight_scale', [1, 2, 3])]],
  ])('stay as they are where they %s', (_, tensors) => {
    expect([...joined(...tensors).values()]).toEqual(tensors);
  });

  test('of a graph are what the graph says', () => {
    const graph = checkpointOf([codes('fc.weight'), tensorOf('fc.weight_scale', [1])], {
      graph: graphOf([]),
    });
    expect(joinCodes(graph)).toBe(graph);
  });
});
