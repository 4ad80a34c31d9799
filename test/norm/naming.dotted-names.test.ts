import { expect, test } from 'vitest';
import { findLayersAndLearned } from '../../src/norm/find-layers.js';
import { dottedNameOf, dottedTensorsOf, modulePathOf, wrappedNameOf } from '../../src/norm/naming.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { graphOf, normNodeOf } from '../build/layers.js';

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

test.each([
  ['module.layer1.bn.weight', 'layer1.bn.weight'],
  ['module.module.bn.weight', 'bn.weight'],
  ['_orig_mod.module.bn.weight', 'bn.weight'],
  ['base_model.model.conv.base_layer.weight', 'base_model.model.conv.weight'],
  ['backbone.base_layer.1.running_mean', 'backbone.base_layer.1.running_mean'],
  ['layer1._fsdp_wrapped_module.0._checkpoint_wrapped_module.bn.weight', 'layer1.0.bn.weight'],
  ['bn.module', 'bn.module'],
  ['submodule.bn.weight', 'submodule.bn.weight'],
])('%s is %s: wrappers are no part of a model', (name, expected) => {
  const checkpoint = checkpointOf([tensorOf(name, [1])]);
  expect([dottedNameOf(name, checkpoint), wrappedNameOf(name, checkpoint)]).toEqual([expected, name]);
});

test('names of more wrappers than are taken out do not hide each other', () => {
  const names = [70, 71, 0].map((count) => `${'module.'.repeat(count)}bn.weight`);
  const checkpoint = checkpointOf(names.map((name) => tensorOf(name, [1])));
  expect(dottedTensorsOf(checkpoint).size).toBe(3);
});

test('a wrapper stays where two names would be the same without it, and only there', () => {
  const names = ['module.bn.weight', 'bn.weight', 'module.layer1._orig_mod.bn.weight'];
  const checkpoint = checkpointOf(names.map((name) => tensorOf(name, [1])));
  expect(names.map((name) => dottedNameOf(name, checkpoint))).toEqual([
    'module.bn.weight',
    'bn.weight',
    'module.layer1.bn.weight',
  ]);
});

test('module paths are read like the names of tensors', () => {
  const plain = checkpointOf([tensorOf('module.bn.weight', [1])]);
  expect(['', 'module', 'module.bn', 'encoder.module'].map((path) => modulePathOf(path, plain))).toEqual([
    '',
    '',
    'bn',
    'encoder',
  ]);
  const both = checkpointOf([tensorOf('module.bn.weight', [1]), tensorOf('bn.weight', [1])]);
  expect(modulePathOf('module', both)).toBe('module');
});

test('paths that a graph tells are not made the same either', () => {
  const norms = ['module.bn', 'bn'].map((path) =>
    normNodeOf(path, { path, inputNames: ['a', 'b', 'c', 'd'] }),
  );
  const { layers } = findLayersAndLearned(checkpointOf([], { graph: graphOf(norms) }));
  expect(layers.map(({ name }) => name)).toEqual(['module.bn', 'bn']);
});

test('tensors whose names are paths already are not kept a second time', () => {
  const plain = checkpointOf(normTensors('layer1.0.bn'));
  expect(dottedTensorsOf(plain)).toBe(plain.tensors);
  const wrapped = checkpointOf(normTensors('module.bn'));
  expect([...dottedTensorsOf(wrapped).keys()]).toContain('bn.running_mean');
});
