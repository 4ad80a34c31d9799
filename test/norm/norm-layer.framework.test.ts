import { describe, expect, test } from 'vitest';
import type { Graph } from '../../src/checkpoint/checkpoint.js';
import { findLayersAndLearned } from '../../src/norm/find-layers.js';
import { findFramework } from '../../src/norm/norm-layer.js';
import { checkpointOf, tensorOf } from '../build/checkpoints.js';
import { layerOf } from '../build/layers.js';

/** The framework of a checkpoint whose only layer has statistics of these names. */
function frameworkOf(mean: string, variance: string) {
  const checkpoint = checkpointOf([mean, variance].map((name) => tensorOf(name, [1, 1])));
  return findFramework(checkpoint, findLayersAndLearned(checkpoint).layers);
}

const graphOf = (producer: string): Graph => ({ producer, norms: [], linears: [] });

describe('names tell the framework', () => {
  test.each([
    ['pytorch', 'backbone.bn.running_mean', 'backbone.bn.running_var'],
    ['pytorch', 'running_mean', 'running_var'],
    ['keras', 'bn_a/moving_mean', 'bn_a/moving_variance'],
    ['keras', 'bn_a/moving_mean:0', 'bn_a/moving_variance:0'],
    ['flax', 'batch_stats.backbone.BatchNorm_0.mean', 'batch_stats.backbone.BatchNorm_0.var'],
    ['paddle', 'backbone.bn1._mean', 'backbone.bn1._variance'],
    ['mxnet', 'aux:stage1_bn_moving_mean', 'aux:stage1_bn_moving_var'],
    ['mxnet', 'net0_batchnorm0_running_mean', 'net0_batchnorm0_running_var'],
    ['caffe2', 'res1_bn_rm', 'res1_bn_riv'],
  ])('%s: %s', (framework, mean, variance) => {
    expect(frameworkOf(mean, variance)).toBe(framework);
  });
});

test('a mark in the file tells it before names do', () => {
  const checkpoint = { ...checkpointOf([]), framework: 'lightning' as const };
  expect(findFramework(checkpoint, [layerOf('bn')])).toBe('lightning');
});

test.each([
  ['pytorch 2.13.0', 'pytorch'],
  ['tf2onnx 1.16.1', 'keras'],
  ['PaddlePaddle', 'paddle'],
  ['jax2onnx', 'flax'],
])('an ONNX model of the producer %s tells it', (producer, framework) => {
  expect(findFramework({ ...checkpointOf([]), graph: graphOf(producer) }, [])).toBe(framework);
});

test('the names of an ONNX model tell it where the producer does not', () => {
  const checkpoint = { ...checkpointOf([]), graph: graphOf('onnx.quantize 0.1.0') };
  expect(findFramework(checkpoint, [layerOf('bn')])).toBe('pytorch');
  expect(findFramework(checkpoint, [])).toBeNull();
});
