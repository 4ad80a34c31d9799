import { describe, expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../../src/checkpoint/dtype.js';
import { stridedSource } from '../../src/io/views.js';
import { findLayersAndLearned, mayHoldLayers } from '../../src/norm/find-layers.js';
import { checkpointOf, normTensors, tensorOf, tensorOfBytes } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';
import { constantOf, graphOf, normNodeOf } from '../build/layers.js';

test('a graph tells of the layers where there is one, and names otherwise', () => {
  const tensors = normTensors('by-name');
  expect(findLayersAndLearned(checkpointOf(tensors)).layers.map(({ name }) => name)).toEqual(['by-name']);
  const graph = graphOf([normNodeOf('by-graph')]);
  expect(findLayersAndLearned(checkpointOf(tensors, { graph })).layers.map(({ name }) => name)).toEqual([
    'by-graph',
  ]);
});

test('what a graph has for statistics is not learned, whatever it is called', () => {
  const norm = normNodeOf('bn', {
    mean: constantOf('onnx::1', [0, 0]),
    variance: constantOf('onnx::2', [1, 1]),
  });
  const names = ['onnx::1', 'onnx::2', 'onnx::3'];
  const checkpoint = checkpointOf(
    names.map((name) => tensorOf(name, [0, 0])),
    { graph: graphOf([{ ...norm, inputNames: ['g', 'b', 'onnx::1', 'onnx::2'] }]) },
  );
  expect([...findLayersAndLearned(checkpoint).learned.keys()]).toEqual(['onnx::3']);
});

test('a checkpoint without norm layers has none', () => {
  expect(findLayersAndLearned(checkpointOf([tensorOf('fc.weight', [1])])).layers).toEqual([]);
});

test.each([
  ['weight', { weight: [1, 2, 3] }],
  ['bias', { bias: [1] }],
  ['running variance', { variance: [1, 2, 3, 4] }],
])('a %s of another length is refused', async (part, values) => {
  const checkpoint = checkpointOf(normTensors('bn\n', values), { path: 'm.safetensors' });
  const found = Object.values(values)[0]?.length;
  expect(await failureOf(() => findLayersAndLearned(checkpoint).layers)).toEqual({
    message: `layer "bn\\n": expected tensors of one length, found 2 channels in one and ${found} in its ${part}`,
    code: 'malformed',
    file: 'm.safetensors',
  });
});

test('a node’s inputs of different lengths are refused', async () => {
  const graph = graphOf([normNodeOf('bn', { gamma: constantOf('bn.weight', [1, 2, 3]) })]);
  expect((await failureOf(() => findLayersAndLearned(checkpointOf([], { graph })).layers)).message).toBe(
    'layer "bn": expected tensors of one length, found 2 channels in one and 3 in its weight',
  );
});

const withDType = (name: string, dtype: DType) =>
  tensorOfBytes(name, new Uint8Array(bitsOf(dtype) / 4), { dtype, shape: [2] });

const layersWith = (tensor: Tensor) => {
  const tensors = normTensors('bn').map((other) => (other.name === tensor.name ? tensor : other));
  return findLayersAndLearned(checkpointOf(tensors)).layers;
};

describe.each(['bn.weight', 'bn.bias'])('%s', (name) => {
  test.each<DType>(['C64', 'I64', 'BOOL', 'F4', 'F6_E2M3'])(
    'of type %s leaves the layer unresolved',
    (dtype) => {
      const reason = `its affine "${name}" is stored as ${dtype}, which holds no readable floats`;
      const unresolved = { kind: 'unresolved', reason };
      expect(layersWith(withDType(name, dtype))).toMatchObject([
        {
          mean: unresolved,
          variance: unresolved,
          gamma: unresolved,
          beta: unresolved,
          batchCount: { kind: 'stored', tensor: { elementCount: 1 } },
        },
      ]);
    },
  );
});

test.each<DType>(['C64', 'BOOL', 'F4', 'F6_E2M3'])(
  'a batch count of type %s is left out, and a note says so',
  (dtype) => {
    const name = 'bn.num_batches_tracked';
    const note = `its batch count "${name}" is stored as ${dtype}, which holds no readable number`;
    expect(layersWith({ ...withDType(name, dtype), shape: [], elementCount: 1 })).toMatchObject([
      { mean: { kind: 'stored' }, batchCount: { kind: 'unresolved', reason: note }, notes: [note] },
    ]);
  },
);

test('more than 2^20 channels are refused before they are read', async () => {
  const huge = tensorOfBytes('bn.running_mean', new Uint8Array(0), { dtype: 'F32', shape: [2 ** 20 + 1] });
  const checkpoint = checkpointOf([huge, { ...huge, name: 'bn.running_var' }]);
  expect(await failureOf(() => findLayersAndLearned(checkpoint).layers)).toEqual({
    message: 'layer "bn": expected at most 1048576 channels, found 1048577',
    code: 'limit-exceeded',
    file: 'memory.safetensors',
  });
});

/** The tensors of a checkpoint whose names alone may be asked for. */
class NamesAlone extends Map<string, Tensor> {
  readonly #refuse = (): never => {
    throw new Error('the tensors were gone through');
  };
  override forEach = this.#refuse;
  override entries = this.#refuse;
  override values = this.#refuse;
  override [Symbol.iterator] = this.#refuse;
}

test('that there is no norm layer is told from names alone', () => {
  const tensors = new NamesAlone();
  for (const name of ['fc.weight', 'bn.weight', 'bn.bias']) tensors.set(name, tensorOf(name, [1]));
  expect(mayHoldLayers(checkpointOf([], { tensors }))).toBe(false);
  tensors.set('bn/moving_variance:0', tensorOf('bn/moving_variance:0', [1]));
  expect(mayHoldLayers(checkpointOf([...tensors.keys()].map((name) => tensorOf(name, [1]))))).toBe(true);
  expect(mayHoldLayers(checkpointOf([], { graph: graphOf([]) }))).toBe(true);
});

test('vectors of many layers that all repeat a few bytes are refused before they are read', async () => {
  const repeated = (name: string) => {
    const view = { shape: [2 ** 20], strides: [0], firstElement: 0, elementByteLength: 4 };
    const source = stridedSource(tensorOf(name, [1]).range, view);
    const range = { source, offset: 0, byteLength: source.byteLength };
    return { ...tensorOf(name, [1]), shape: [2 ** 20], elementCount: 2 ** 20, range };
  };
  const layersOf = (count: number) =>
    Array.from({ length: count }, (_, i) => [
      repeated(`bn${i}.running_mean`),
      repeated(`bn${i}.running_var`),
    ]).flat();
  expect(findLayersAndLearned(checkpointOf(layersOf(2))).layers).toHaveLength(2);
  expect(await failureOf(() => findLayersAndLearned(checkpointOf(layersOf(3))))).toMatchObject({
    code: 'limit-exceeded',
    message: expect.stringContaining('found 25165824 bytes'),
  });
});

test('more than 10000 norm layers are refused', async () => {
  const layers = Array.from({ length: 10_001 }, (_, i) =>
    normTensors(`bn${i}`, { weight: null, bias: null }),
  );
  expect(
    await failureOf(
      () => findLayersAndLearned(checkpointOf(layers.flat(), { path: 'm.safetensors' })).layers,
    ),
  ).toEqual({
    message: 'expected at most 10000 norm layers, found 10001',
    code: 'limit-exceeded',
    file: 'm.safetensors',
  });
});

test('so are more than 10000 in a graph', async () => {
  const graph = graphOf(Array.from({ length: 10_001 }, () => normNodeOf('bn')));
  expect(await failureOf(() => findLayersAndLearned(checkpointOf([], { graph })))).toMatchObject({
    message: 'expected at most 10000 norm layers, found 10001',
    code: 'limit-exceeded',
  });
});
