import { expect, test } from 'vitest';
import { dottedNameOf } from '../../src/norm/dotted-names.js';
import { findLayersAndLearned } from '../../src/norm/find-layers.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';

test('names that come to one path stay as they are', () => {
  const checkpoint = checkpointOf([tensorOf('x:0', [1]), tensorOf('x:1', [2]), tensorOf('params/y:0', [3])]);
  expect(['x:0', 'x:1', 'params/y:0'].map((name) => dottedNameOf(name, checkpoint))).toEqual([
    'x:0',
    'x:1',
    'y',
  ]);
});

test('no norm layer and no learned tensor hides another', () => {
  const checkpoint = checkpointOf([
    ...normTensors('bn'),
    ...normTensors('params.bn', { mean: [7, 8] }),
    tensorOf('w:0', [1]),
    tensorOf('w:1', [2]),
  ]);
  const { layers, learned } = findLayersAndLearned(checkpoint);
  expect(layers.map(({ name }) => name)).toEqual(['bn', 'params.bn']);
  expect([...learned.keys()].sort()).toEqual([
    'bn.bias',
    'bn.weight',
    'params.bn.bias',
    'params.bn.weight',
    'w:0',
    'w:1',
  ]);
});

test('a flat name is taken apart only where running statistics have flat names as well', () => {
  const torch = checkpointOf([tensorOf('attn_weight', [1]), ...normTensors('bn')]);
  expect(dottedNameOf('attn_weight', torch)).toBe('attn_weight');
  const mxnet = checkpointOf([tensorOf('arg:conv0_weight', [1]), tensorOf('aux:bn0_moving_mean', [1])]);
  expect(dottedNameOf('arg:conv0_weight', mxnet)).toBe('conv0.weight');
});
