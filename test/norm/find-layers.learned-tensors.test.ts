import { expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { findLearnedTensors, findNamedLayers } from '../../src/norm/find-layers.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { graphOf, normNodeOf } from '../build/layers.js';

function learnedOf(...tensors: readonly Tensor[]): readonly string[] {
  const checkpoint = checkpointOf(tensors);
  return [...findLearnedTensors(checkpoint, findNamedLayers(checkpoint).layers).keys()];
}

const floats = (...names: readonly string[]) => names.map((name) => tensorOf(name, [1]));

test('weights and biases are learned, also those of norm layers', () => {
  expect(learnedOf(...floats('conv.weight', 'conv.bias'), ...normTensors('bn'))).toEqual([
    'conv.weight',
    'conv.bias',
    'bn.weight',
    'bn.bias',
  ]);
});

test('names are dotted', () => {
  expect(learnedOf(...floats('params/Conv_0/kernel', 'dense/kernel:0'))).toEqual([
    'Conv_0.kernel',
    'dense.kernel',
  ]);
});

test('integers and booleans are not learned', () => {
  expect(
    learnedOf(tensorOf('position_ids', [1], { dtype: 'I64' }), tensorOf('mask', [1], { dtype: 'BOOL' })),
  ).toEqual([]);
});

test('floats of every width are', () => {
  expect(
    learnedOf(
      ...(['F64', 'F16', 'BF16', 'F8_E4M3'] as const).map((dtype) => tensorOf(dtype, [1], { dtype })),
    ),
  ).toEqual(['F64', 'F16', 'BF16', 'F8_E4M3']);
});

test('a batch count stored as a float is not learned', () => {
  expect(learnedOf(tensorOf('bn.num_batches_tracked', [3]))).toEqual([]);
});

test('the statistics of a normaliser that is no norm layer are not learned', () => {
  expect(learnedOf(...floats('obs.running_mean', 'obs.running_var', 'obs.count'))).toEqual(['obs.count']);
});

test.each([
  ['an observer’s ranges', ['obs.min_val', 'obs.max_val', 'obs.min_vals', 'obs.max_vals']],
  ['switches of fake quantization', ['q.fake_quant_enabled', 'q.observer_enabled']],
  ['a quantizer’s scale beside its zero point', ['q.scale', 'q.zero_point']],
  ['the scale of data that a graph quantises', ['conv_input_scale_0', 'conv_input_zero_point_0']],
  ['the same where names have slashes', ['params/q/scale', 'params/q/zero_point']],
  ['the counter of averaged weights', ['n_averaged']],
  [
    'power-iteration vectors of the parametrization',
    ['conv.parametrizations.weight.0._u', 'conv.parametrizations.weight.0._v'],
  ],
])('%s are buffers', (_, names) => {
  expect(learnedOf(...floats(...names))).toEqual([]);
});

test('power-iteration vectors of the old spectral_norm are buffers, what they normalise is learned', () => {
  expect(learnedOf(...floats('conv.weight_orig', 'conv.weight_u', 'conv.weight_v'))).toEqual([
    'conv.weight_orig',
  ]);
});

test.each(['module.conv.', 'params/conv/'])('and so they are under %s', (path) => {
  const names = ['weight_orig', 'weight_u', 'weight_v'].map((leaf) => path + leaf);
  expect(learnedOf(...floats(...names))).toEqual(['conv.weight_orig']);
});

test('the weight_v of weight_norm is learned: it has no weight_u beside it', () => {
  expect(learnedOf(...floats('conv.weight_g', 'conv.weight_v'))).toEqual(['conv.weight_g', 'conv.weight_v']);
});

test('a scale without a zero point is learned', () => {
  expect(learnedOf(...floats('layer_scale.scale', 'scale'))).toEqual(['layer_scale.scale', 'scale']);
});

test('statistics of a graph are not learned, whatever their names, unless they are some affine as well', () => {
  const checkpoint = checkpointOf(floats('1', '2', '3', '4', '5'), {
    graph: graphOf([
      normNodeOf('bn1', { inputNames: ['1', '2', '3', '4'] }),
      normNodeOf('bn2', { inputNames: ['1', '2', '2', '5'] }),
    ]),
  });
  expect([...findLearnedTensors(checkpoint, []).keys()]).toEqual(['1', '2']);
});

test('what the file itself calls a buffer is none', () => {
  expect(
    learnedOf(
      { ...tensorOf('rope.inv_freq', [1]), isBuffer: true },
      { ...tensorOf('w', [1]), isBuffer: false },
    ),
  ).toEqual(['w']);
});

test('a parameter that was frozen by requires_grad is learned all the same', () => {
  expect(learnedOf({ ...tensorOf('w', [1]), requiresGrad: false })).toEqual(['w']);
});

test('names with line ends are told apart as others are', () => {
  expect(learnedOf(...floats('a\nb_orig', 'a\nb_u', 'a\nb_v', 'a\nc_v'))).toEqual(['a\nb_orig', 'a\nc_v']);
});
