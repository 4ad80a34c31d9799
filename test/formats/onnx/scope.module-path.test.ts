import { describe, expect, test } from 'vitest';
import {
  operationFromNameScopes,
  pathFromNameScopes,
  pathFromNodeName,
  pathFromWeightName,
} from '../../../src/formats/onnx/scope.js';
import { isGeneratedName } from '../../../src/norm/naming.js';

describe("dynamo's name scopes", () => {
  const scopes =
    "['', 'backbone', 'backbone.stem', 'backbone.stem.bn', '_native_batch_norm_legit_no_training']";

  test('end in the module and its operation', () => {
    expect(pathFromNameScopes(scopes)).toBe('backbone.stem.bn');
    expect(operationFromNameScopes(scopes)).toBe('_native_batch_norm_legit_no_training');
  });

  test('number a later call of a module, which is the same module', () => {
    expect(pathFromNameScopes("['', 'bn@1', 'batch_norm_1']")).toBe('bn');
  });

  test('may name no module', () => {
    expect(pathFromNameScopes('')).toBeNull();
    expect(pathFromNameScopes("['', 'relu']")).toBeNull();
    expect(pathFromNameScopes("['relu']")).toBeNull();
  });

  test('may use either quote', () => {
    expect(pathFromNameScopes(`['', "it's", 'relu']`)).toBe("it's");
  });
});

describe("TorchScript's node names", () => {
  test.each([
    ['/backbone/layer1/layer1.0/bn1/BatchNormalization', 'backbone.layer1.0.bn1'],
    ['/features/features.1/conv/conv.0/conv.0.1/BatchNormalization', 'features.1.conv.0.1'],
    ['/seq/seq.0/seq.0.2/BatchNormalization', 'seq.0.2'],
    ['/bn/BatchNormalization', 'bn'],
    ['/BatchNormalization', null],
    ['model/bn/FusedBatchNormV3', null],
    ['', null],
  ])('%s is the module %s', (nodeName, path) => {
    expect(pathFromNodeName(nodeName)).toBe(path);
  });
});

test('a weight belongs to the module in front of its last name', () => {
  expect(pathFromWeightName('backbone.stem.conv.weight')).toBe('backbone.stem.conv');
  expect(pathFromWeightName('onnx::Conv_100')).toBeNull();
  expect(pathFromWeightName('weight')).toBeNull();
});

test('names that a converter made up are told from those of the model', () => {
  for (const name of ['onnx::Conv_100', '/stem/Tile_output_0', 'val_9', '123'])
    expect(isGeneratedName(name)).toBe(true);
  for (const name of ['bn1.weight', 'gpu_0/res2_bn_rm_0', 'interval_9x'])
    expect(isGeneratedName(name)).toBe(false);
});
