import { describe, expect, test } from 'vitest';
import type { NormNode } from '../../src/checkpoint/checkpoint.js';
import { findGraphLayers } from '../../src/norm/find-layers.js';
import { checkpointOf, tensorOf } from '../build/checkpoints.js';
import { graphOf, normNodeOf } from '../build/layers.js';

const layersOf = (...nodes: readonly NormNode[]) => findGraphLayers(checkpointOf([]), graphOf(nodes)).layers;
const namesOf = (...nodes: readonly NormNode[]) => layersOf(...nodes).map(({ name }) => name);

test('a node is a layer with what its inputs and attributes say', () => {
  const [layer] = layersOf(
    normNodeOf('backbone.bn1', {
      epsilon: 1e-3,
      momentum: 0.8,
      mode: 'batch',
      neighbours: ['conv/kernel:0'],
      notes: ['note'],
    }),
  );
  expect(layer).toMatchObject({
    name: 'backbone.bn1',
    isNamed: true,
    kind: 'BatchNormalization',
    channels: 2,
    mean: { kind: 'stored', tensor: { name: 'backbone.bn1.running_mean' }, source: 'initializer' },
    variance: { kind: 'stored', tensor: { name: 'backbone.bn1.running_var' } },
    gamma: { name: 'backbone.bn1.weight' },
    beta: { name: 'backbone.bn1.bias' },
    batchCount: null,
    epsilon: 1e-3,
    defaultEpsilon: 1e-3,
    momentum: 0.8,
    mode: 'batch',
    isFromGraph: true,
    neighbours: ['conv.kernel'],
    notes: ['note'],
  });
});

test('layers stand in topological order', () => {
  expect(namesOf(normNodeOf('z'), normNodeOf('a'))).toEqual(['z', 'a']);
});

test('a batch count that the file keeps beside the graph belongs to its layer', () => {
  const count = tensorOf('bn.num_batches_tracked', [3], { dtype: 'I64', shape: [] });
  const [layer] = findGraphLayers(checkpointOf([count]), graphOf([normNodeOf('bn')])).layers;
  expect(layer?.batchCount).toBe(count);
});

test.each(['params/bn/num_batches_tracked', 'module.bn.num_batches_tracked'])('also as %s', (name) => {
  const count = tensorOf(name, [3], { dtype: 'I64', shape: [] });
  const [layer] = findGraphLayers(checkpointOf([count]), graphOf([normNodeOf('bn')])).layers;
  expect(layer?.batchCount).toBe(count);
});

test('wrappers are no part of a layer’s name, nor of what feeds it', () => {
  const count = tensorOf('module.bn.num_batches_tracked', [3], { dtype: 'I64', shape: [] });
  const node = normNodeOf('module.bn', { path: 'module.bn', neighbours: ['module.conv.weight'] });
  expect(findGraphLayers(checkpointOf([count]), graphOf([node])).layers).toMatchObject([
    { name: 'bn', wrappedName: 'module.bn', batchCount: count, neighbours: ['conv.weight'] },
  ]);
});

describe('statistics that cannot be read', () => {
  test('keep the reader’s reason', () => {
    const [layer] = layersOf(
      normNodeOf('bn', { mean: { kind: 'unresolved', reason: 'it is a graph input' } }),
    );
    expect(layer?.mean).toEqual({ kind: 'unresolved', reason: 'it is a graph input' });
    expect(layer?.channels).toBe(2);
  });

  test('are absent from a node with three inputs', () => {
    const [layer] = layersOf(normNodeOf('bn', { mean: { kind: 'absent' }, variance: { kind: 'absent' } }));
    expect([layer?.mean, layer?.variance]).toEqual([
      { kind: 'unresolved', reason: 'the node has no mean input' },
      { kind: 'unresolved', reason: 'the node has no variance input' },
    ]);
  });

  test('or are no floats', () => {
    const tensor = tensorOf('bn.running_var', [1, 2], { dtype: 'I32' });
    const [layer] = layersOf(
      normNodeOf('bn', { variance: { kind: 'constant', tensor, source: 'initializer', overridable: false } }),
    );
    expect(layer?.variance).toEqual({
      kind: 'unresolved',
      reason: 'the variance is stored as I32, which holds no readable floats',
    });
  });

  test('a node of which nothing is known has no channels', () => {
    const absent = { kind: 'absent' } as const;
    const [layer] = layersOf(
      normNodeOf('bn', { mean: absent, variance: absent, gamma: absent, beta: absent }),
    );
    expect(layer).toMatchObject({ channels: 0, gamma: null, beta: null });
  });
});

describe('naming', () => {
  const anonymous = { inputNames: ['onnx::1', 'onnx::2', 'onnx::3', 'onnx::4'] } as const;

  test('one input that bears another layer’s name does not rename the layer', () => {
    expect(
      namesOf(
        normNodeOf('bn2', { inputNames: ['bn1.weight', 'bn2.bias', 'bn2.running_mean', 'bn2.running_var'] }),
      ),
    ).toEqual(['bn2']);
  });

  test('mean and variance outvote a shared scale and bias', () => {
    expect(
      namesOf(
        normNodeOf('x', { inputNames: ['bn1.weight', 'bn1.bias', 'bn2.running_mean', 'bn2.running_var'] }),
      ),
    ).toEqual(['bn2']);
  });

  test('the node’s own path outweighs a single tensor', () => {
    expect(
      namesOf(normNodeOf('x', { inputNames: ['', '', 'bn1.running_mean', 'onnx::9'], path: 'bn2' })),
    ).toEqual(['bn2']);
  });

  test('but not two tensors', () => {
    expect(
      namesOf(normNodeOf('x', { inputNames: ['', '', 'bn1.running_mean', 'bn1.running_var'], path: 'node' })),
    ).toEqual(['bn1']);
  });

  test('a name that is taken cannot be another layer’s: the next best vote counts', () => {
    const inputNames = ['bn1.weight', 'bn1.bias', 'bn1.running_mean', 'bn1.running_var'] as const;
    expect(namesOf(normNodeOf('bn1'), normNodeOf('x', { inputNames, path: 'bn2' }))).toEqual(['bn1', 'bn2']);
  });

  test.each([
    ['a TensorFlow read', 'model/bn/FusedBatchNormV3/ReadVariableOp:0', 'model.bn'],
    ['the second TensorFlow read', 'model/bn/FusedBatchNormV3/ReadVariableOp_1:0', 'model.bn'],
    ['a plain read', 'model/bn/ReadVariableOp:0', 'model.bn'],
  ])('%s is told by its tail', (_, name, path) => {
    expect(namesOf(normNodeOf('x', { inputNames: [name, '', '', ''] }))).toEqual([path]);
  });

  test('Keras names are told in every role', () => {
    const inputNames = ['bn/gamma:0', 'bn/beta:0', 'bn/moving_mean:0', 'bn/moving_variance:0'] as const;
    expect(namesOf(normNodeOf('x', { inputNames }))).toEqual(['bn']);
  });

  test('a layer without names is called after its node, and said to be unnamed', () => {
    const [layer] = layersOf(
      normNodeOf('x', { ...anonymous, nodeName: 'BatchNormalization_7', scope: ['then_branch'] }),
    );
    expect(layer).toMatchObject({ name: 'then_branch/BatchNormalization_7', isNamed: false });
  });

  test('a node without a name is called by its number', () => {
    const node = normNodeOf('x', { ...anonymous, nodeName: '' });
    expect(namesOf(node, node)).toEqual(['BatchNormalization_0', 'BatchNormalization_1']);
  });

  test('nodes of one name are told apart', () => {
    const node = normNodeOf('x', { ...anonymous, nodeName: 'bn' });
    expect(namesOf(node, node, node)).toEqual(['bn', 'bn#2', 'bn#3']);
  });
});
