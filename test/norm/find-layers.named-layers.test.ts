import { describe, expect, test } from 'vitest';
import type { ModuleFacts, Tensor } from '../../src/checkpoint/checkpoint.js';
import { findNamedLayers } from '../../src/norm/find-layers.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';

const vector = (name: string, value = 1) => tensorOf(name, [value, value]);

/** The layers that a checkpoint with tensors of these names has: path, mean, variance, gamma, beta, count. */
function layersOf(...names: readonly string[]) {
  return findNamedLayers(checkpointOf(names.map((name) => vector(name)))).layers.map((layer) => [
    layer.name,
    ...[layer.mean, layer.variance].map((statistic) =>
      statistic.kind === 'stored' ? statistic.tensor.name : null,
    ),
    ...[layer.gamma, layer.beta, layer.batchCount].map((tensor) => tensor?.name ?? null),
  ]);
}

describe('the names of every framework', () => {
  test('PyTorch', () => {
    expect(
      layersOf(
        'a.bn.weight',
        'a.bn.bias',
        'a.bn.running_mean',
        'a.bn.running_var',
        'a.bn.num_batches_tracked',
      ),
    ).toEqual([
      [
        'a.bn',
        'a.bn.running_mean',
        'a.bn.running_var',
        'a.bn.weight',
        'a.bn.bias',
        'a.bn.num_batches_tracked',
      ],
    ]);
  });

  test('PyTorch without affine and without a count', () => {
    expect(layersOf('bn.running_mean', 'bn.running_var')).toEqual([
      ['bn', 'bn.running_mean', 'bn.running_var', null, null, null],
    ]);
  });

  test('a bare norm layer, whose names have no path', () => {
    expect(layersOf('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')).toEqual([
      ['', 'running_mean', 'running_var', 'weight', 'bias', 'num_batches_tracked'],
    ]);
  });

  test('Keras', () => {
    expect(layersOf('m/bn/gamma:0', 'm/bn/beta:0', 'm/bn/moving_mean:0', 'm/bn/moving_variance:0')).toEqual([
      ['m.bn', 'm/bn/moving_mean:0', 'm/bn/moving_variance:0', 'm/bn/gamma:0', 'm/bn/beta:0', null],
    ]);
  });

  test('TensorFlow layers', () => {
    expect(layersOf('bn.moving_mean', 'bn.moving_var', 'bn.weight', 'bn.bias')).toEqual([
      ['bn', 'bn.moving_mean', 'bn.moving_var', 'bn.weight', 'bn.bias', null],
    ]);
  });

  test('Flax, with statistics and parameters in collections of their own', () => {
    expect(
      layersOf(
        'params/BatchNorm_0/scale',
        'params/BatchNorm_0/bias',
        'batch_stats/BatchNorm_0/mean',
        'batch_stats/BatchNorm_0/var',
      ),
    ).toEqual([
      [
        'BatchNorm_0',
        'batch_stats/BatchNorm_0/mean',
        'batch_stats/BatchNorm_0/var',
        'params/BatchNorm_0/scale',
        'params/BatchNorm_0/bias',
        null,
      ],
    ]);
  });

  test('Paddle', () => {
    expect(layersOf('bn._mean', 'bn._variance', 'bn.weight', 'bn.bias')).toEqual([
      ['bn', 'bn._mean', 'bn._variance', 'bn.weight', 'bn.bias', null],
    ]);
  });

  test('MXNet symbols', () => {
    expect(layersOf('arg:bn0_gamma', 'arg:bn0_beta', 'aux:bn0_moving_mean', 'aux:bn0_moving_var')).toEqual([
      ['bn0', 'aux:bn0_moving_mean', 'aux:bn0_moving_var', 'arg:bn0_gamma', 'arg:bn0_beta', null],
    ]);
  });

  test('MXNet Gluon', () => {
    expect(layersOf('net_bn0_gamma', 'net_bn0_beta', 'net_bn0_running_mean', 'net_bn0_running_var')).toEqual([
      ['net_bn0', 'net_bn0_running_mean', 'net_bn0_running_var', 'net_bn0_gamma', 'net_bn0_beta', null],
    ]);
  });

  test('Caffe2', () => {
    expect(layersOf('res2_bn_s', 'res2_bn_b', 'res2_bn_rm', 'res2_bn_riv')).toEqual([
      ['res2_bn', 'res2_bn_rm', 'res2_bn_riv', 'res2_bn_s', 'res2_bn_b', null],
    ]);
  });

  test.each([
    ['bn.running_mean', 'bn.running_var', 1e-5],
    ['bn.moving_mean', 'bn.moving_variance', 1e-3],
    ['bn.moving_mean', 'bn.moving_var', 1e-3],
    ['bn.mean', 'bn.var', 1e-5],
    ['bn_moving_mean', 'bn_moving_var', 1e-3],
    ['bn_running_mean', 'bn_running_var', 1e-5],
    ['bn_rm', 'bn_riv', 1e-5],
  ])('%s and %s mean an epsilon of %d', (mean, variance, epsilon) => {
    const [layer] = findNamedLayers(checkpointOf([vector(mean), vector(variance)])).layers;
    expect(layer).toMatchObject({
      epsilon: null,
      defaultEpsilon: epsilon,
      kind: 'BatchNorm',
      channels: 2,
      isNamed: true,
    });
  });
});

describe('lookalikes stay out', () => {
  test.each<readonly [string, readonly string[]]>([
    ['a lone .mean, as of an image normaliser', ['normalize.mean', 'normalize.std']],
    ['a lone .var', ['head.var']],
    ['a lone _moving_mean', ['bn_moving_mean']],
    ['names that only contain the suffix', ['bn.running_mean_old', 'bn.running_var_old']],
    ['names that merely end alike', ['my_running_meanx.weight', 'running_variance']],
    [
      'a normaliser of observations, which counts samples',
      ['obs.running_mean', 'obs.running_var', 'obs.count'],
    ],
    ['LayerNorm and GroupNorm', ['ln.weight', 'ln.bias']],
    ['a count alone', ['bn.num_batches_tracked']],
    ['a _rm of another kind', ['form_rm', 'form_b']],
  ])('%s', (_, names) => {
    expect(layersOf(...names)).toEqual([]);
  });

  test('a count beside an affine or a batch count makes no lookalike of a norm layer', () => {
    expect(layersOf('bn.running_mean', 'bn.running_var', 'bn.count', 'bn.weight')).toHaveLength(1);
    expect(layersOf('bn.running_mean', 'bn.running_var', 'bn.count', 'bn.num_batches_tracked')).toHaveLength(
      1,
    );
  });
});

describe('a layer that has lost a statistic is found, and unresolved', () => {
  const statisticsOf = (...tensors: readonly Tensor[]) => {
    const [layer] = findNamedLayers(checkpointOf(tensors)).layers;
    return [layer?.mean, layer?.variance].map((statistic) =>
      statistic?.kind === 'unresolved' ? statistic.reason : statistic?.kind,
    );
  };

  test('the variance', () => {
    expect(statisticsOf(vector('bn.running_mean'))).toEqual([
      'stored',
      'running_var is missing from the file',
    ]);
  });

  test('the mean', () => {
    expect(statisticsOf(vector('bn.running_var'))).toEqual([
      'running_mean is missing from the file',
      'stored',
    ]);
  });

  test('the Keras variance', () => {
    expect(statisticsOf(vector('bn.moving_mean'))).toEqual([
      'stored',
      'moving_variance is missing from the file',
    ]);
  });

  test('all channels', () => {
    expect(statisticsOf(tensorOf('bn.running_mean', []), tensorOf('bn.running_var', []))).toEqual([
      '"bn.running_mean" has no channels',
      '"bn.running_var" has no channels',
    ]);
  });

  test('values that can be read', () => {
    expect(
      statisticsOf(tensorOf('bn.running_mean', [1, 2], { dtype: 'I32' }), vector('bn.running_var')),
    ).toEqual(['"bn.running_mean" is stored as I32, which holds no readable floats', 'stored']);
  });
});

describe('what the file tells of the module', () => {
  const facts: ModuleFacts = {
    className: 'BatchNorm2d',
    epsilon: 1e-3,
    momentum: 0.01,
    trackRunningStats: true,
    training: null,
    version: 2,
  };
  const layerWithFacts = (overrides: Partial<ModuleFacts> = {}) =>
    findNamedLayers(
      checkpointOf(normTensors('bn'), { modules: new Map([['bn', { ...facts, ...overrides }]]) }),
    ).layers[0];

  test('class, epsilon and momentum', () => {
    expect(layerWithFacts()).toMatchObject({
      kind: 'BatchNorm2d',
      epsilon: 1e-3,
      momentum: 0.01,
      mode: 'unknown',
    });
    expect(layerWithFacts({ className: null, momentum: 'cumulative' })).toMatchObject({
      kind: 'BatchNorm',
      momentum: 'cumulative',
    });
  });

  test('is found by the path with its wrappers', () => {
    const checkpoint = checkpointOf(normTensors('module.bn'), { modules: new Map([['module.bn', facts]]) });
    expect(findNamedLayers(checkpoint).layers).toMatchObject([
      { name: 'bn', wrappedName: 'module.bn', kind: 'BatchNorm2d' },
    ]);
  });

  test.each([
    [true, 'batch'],
    [false, 'running'],
    [null, 'unknown'],
  ])('a module saved with training %j has the mode %s', (training, mode) => {
    expect(layerWithFacts({ training })?.mode).toBe(mode);
  });
});

test('layers stand in the order of the file', () => {
  const checkpoint = checkpointOf([
    ...normTensors('z'),
    ...normTensors('a'),
    ...normTensors('layer10'),
    ...normTensors('layer2'),
  ]);
  expect(findNamedLayers(checkpoint).layers.map(({ name }) => name)).toEqual(['z', 'a', 'layer10', 'layer2']);
});

test('neighbours are looked for with the module order of the file', () => {
  const weight = (name: string) => tensorOf(name, [1, 2, 3, 4, 5, 6], { shape: [2, 3] });
  const tensors = [weight('b.weight'), weight('a.weight'), ...normTensors('norm'), weight('c.weight')];
  const neighboursOf = (inModuleOrder: boolean) =>
    findNamedLayers(checkpointOf(tensors, { inModuleOrder })).layers.map(({ neighbours }) => neighbours);
  expect(neighboursOf(true)).toEqual([['a.weight']]);
  expect(neighboursOf(false)).toEqual([['b.weight', 'a.weight', 'c.weight']]);
});
