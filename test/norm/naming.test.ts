import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  compareNaturally,
  isUnder,
  LAST_NUMBER,
  splitPath,
  toDottedName,
  withoutWrappers,
} from '../../src/norm/naming.js';

describe('toDottedName', () => {
  test.each([
    ['layer1.0.bn1.running_mean', 'layer1.0.bn1.running_mean'],
    ['batch_normalization/moving_mean:0', 'batch_normalization.moving_mean'],
    ['batch_stats/BatchNorm_0/mean', 'BatchNorm_0.mean'],
    ['params/Conv_0/kernel', 'Conv_0.kernel'],
    ['aux:bn0_moving_mean', 'bn0_moving_mean'],
    ['arg:bn0_gamma', 'bn0_gamma'],
    ['attn_weight', 'attn_weight'],
    ['net.in_proj_weight', 'net.in_proj_weight'],
    ['weight', 'weight'],
    ['aux:params/x:12', 'x'],
    ['my_params/x', 'my_params.x'],
    ['', ''],
  ])('%j reads %j', (name, dotted) => {
    expect(toDottedName(name)).toBe(dotted);
  });
});

describe('toDottedName in a file of flat names', () => {
  test.each([
    ['arg:bn0_gamma', 'bn0.gamma'],
    ['resnetv10_conv0_weight', 'resnetv10_conv0.weight'],
    ['res2_0_branch2a_bn_s', 'res2_0_branch2a_bn.s'],
    ['bn0_running_mean', 'bn0_running_mean'],
    ['net.in_proj_weight', 'net.in_proj_weight'],
    ['weight', 'weight'],
  ])('%j reads %j', (name, dotted) => {
    expect(toDottedName(name, true)).toBe(dotted);
  });
});

describe('splitPath', () => {
  test.each([
    ['a.b.c', 'a.b', 'c'],
    ['a', '', 'a'],
    ['', '', ''],
    ['a.', 'a', ''],
  ])('%j has the parent %j and the leaf %j', (path, parent, leaf) => {
    expect(splitPath(path)).toEqual([parent, leaf]);
  });
});

describe('isUnder', () => {
  test.each([
    ['backbone.bn', 'backbone', true],
    ['backbone', 'backbone', true],
    ['backbone2.bn', 'backbone', false],
    ['back', 'backbone', false],
    ['anything', '', true],
  ])('%j under %j: %j', (path, ancestor, is) => {
    expect(isUnder(path, ancestor)).toBe(is);
  });
});

test.each([
  ['bn12', '12'],
  ['layer1.0', '0'],
  ['1x1', '1'],
  ['bn', undefined],
  [`${'1'.repeat(100_000)}x`, undefined],
])('the last number of %.9s is %s', (name, number) => {
  expect(LAST_NUMBER.exec(name)?.[0]).toBe(number);
});

test('no more than 64 wrappers are taken out of a name', () => {
  expect(withoutWrappers(`${'module.'.repeat(64)}bn.weight`)).toBe('bn.weight');
  expect(withoutWrappers(`${'module.'.repeat(66)}bn.weight`)).toBe('module.module.bn.weight');
});

describe('compareNaturally', () => {
  test('orders runs of digits by their value', () => {
    const ordered = ['', 'a', 'layer1.2', 'layer1.10', 'layer2', 'layer10', 'layer10.bn', 'stem'];
    expect(ordered.toReversed().sort(compareNaturally)).toEqual(ordered);
  });

  test('is an order: antisymmetric, transitive, and equal for equal names alone', () => {
    const name = fc.string({ unit: fc.constantFrom('0', '1', '2', 'a', 'b', '.'), maxLength: 6 });
    fc.assert(
      fc.property(name, name, name, (x, y, z) => {
        expect(Math.sign(compareNaturally(x, y)) + Math.sign(compareNaturally(y, x))).toBe(0);
        expect(compareNaturally(x, y) === 0).toBe(x === y);
        if (compareNaturally(x, y) < 0 && compareNaturally(y, z) < 0)
          expect(compareNaturally(x, z)).toBeLessThan(0);
      }),
      { numRuns: 2000 },
    );
  });
});
