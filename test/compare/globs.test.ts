import { expect, test } from 'vitest';
import { matchNames, matchPaths } from '../../src/compare/globs.js';

test.each([
  ['backbone', 'backbone', true],
  ['backbone', 'backbone.layer1.0.bn1', true],
  ['backbone', 'backbone2.bn', false],
  ['backbone', 'model.backbone', false],
  ['backbone.layer1', 'backbone.layer10.bn', false],
  ['*', 'anything.at.all', true],
  ['backbone.*', 'backbone', false],
  ['backbone.*', 'backbone.layer1.bn', true],
  ['*.bn1', 'layer1.bn1', true],
  ['*.bn1', 'layer1.0.bn1', false],
  ['**.bn1', 'layer1.0.bn1', true],
  ['**.bn1', 'bn1', true],
  ['**.bn1', 'layer1.0.bn11', false],
  ['backbone.**', 'backbone.layer1.0.bn1', true],
  ['backbone.**.bn?', 'backbone.layer1.0.bn2', true],
  ['layer[12].**', 'layer2.0.bn1', true],
  ['layer[12].**', 'layer3.0.bn1', false],
  ['{stem,layer1}', 'layer1.bn', true],
  ['{stem,layer1}', 'layer2.bn', false],
  ['.hidden', 'hidden', false],
  ['_orig_mod.*', '_orig_mod.bn', true],
  ['!backbone', 'head', false],
  ['@(backbone)', 'backbone', false],
  ['then_branch', 'then_branch/BatchNormalization_7', false],
])('%s matches %s: %j', (glob, path, is) => {
  expect(matchPaths([glob])(path)).toBe(is);
});

test('any glob of a list will do', () => {
  const isMatch = matchPaths(['stem', 'head.**']);
  expect(['stem.bn', 'head.bn', 'body.bn'].map(isMatch)).toEqual([true, true, false]);
});

test('an empty list matches nothing', () => {
  expect(matchPaths([])('anything')).toBe(false);
});

test('what goes by several names is meant by any of them', () => {
  const isMatch = matchNames(['backbone'], []);
  expect(isMatch(['body.bn', 'backbone.bn'])).toBe(true);
  expect(isMatch(['body.bn'])).toBe(false);
});

test.each([
  ['module.backbone', 'backbone.bn'],
  ['module._orig_mod.backbone', 'backbone.bn'],
  ['backbone._fsdp_wrapped_module.*.bn1', 'backbone.layer1.bn1'],
  ['**._checkpoint_wrapped_module.bn1', 'backbone.layer1.bn1'],
  ['backbone._fsdp_wrapped_module', 'backbone.bn'],
])('%s means %s where the names have no such wrapper', (glob, name) => {
  expect(matchNames([glob], [[name]])([name])).toBe(true);
});

test('a glob that means something as it stands keeps its wrappers', () => {
  const names = [['module.bn'], ['bn']];
  expect(names.map(matchNames(['module.bn'], names))).toEqual([true, false]);
});

test.each(['module', '_orig_mod', 'module._orig_mod'])(
  '%s alone means nothing without its wrapper',
  (glob) => {
    expect(matchNames([glob], [['bn']])(['bn'])).toBe(false);
  },
);

test('an inner module may be a part of the model, and its glob does not come to mean the whole', () => {
  const names = [['encoder.bn']];
  expect(names.map(matchNames(['encoder.module'], names))).toEqual([false]);
});
