import { describe, expect, test } from 'vitest';
import { checkRename, isRenameGlob, pairLayers, renameByGlob } from '../../src/compare/pair-layers.js';
import { layerOf } from '../build/layers.js';

function rename(name: string, rule: string): readonly string[] {
  const [from = '', to = ''] = rule.split('=');
  checkRename({ from, to });
  return renameByGlob(name, { from, to });
}

describe('what the wildcards matched is put in order on the right', () => {
  test.each([
    ['**.bn*=**.norm*', 'layer1.0.bn2', 'layer1.0.norm2'],
    ['**.bn*=**.norm*', 'bn1', 'norm1'],
    ['**.bn*=**.norm*', 'a.bn', 'a.norm'],
    ['**.bn*=**.norm*', 'a.bn1.running_mean', 'a.norm1.running_mean'],
    ['body.layer*=encoder.stage*', 'body.layer1.0.bn2', 'encoder.stage1.0.bn2'],
    ['**.layer*.*.bn*=**.res*.block_*.bn_*', 'body.layer1.0.bn2', 'body.res1.block_0.bn_2'],
    ['*.b*n=x.*.c*d', 'a.bXn', 'x.a.cXd'],
    ['*_bn_*=*.norm.*', 'block_bn_1', 'block.norm.1'],
    ['a.**.bn=b.**.norm', 'a.x.y.bn', 'b.x.y.norm'],
    ['a.**.bn=b.**.norm', 'a.bn', 'b.norm'],
    ['**.x.**.y=**.u.**.v', 'x.x.y', 'x.u.v'],
    ['**=new.**', 'a.bn', 'new.a.bn'],
  ])('%s: %s reads as %s', (rule, name, renamed) => {
    expect(rename(name, rule)).toContain(renamed);
  });

  test.each([
    ['**.bn*=**.norm*', 'layer1.0.conv2'],
    ['body.layer*=encoder.stage*', 'layer1.0.bn2'],
    ['a*a=b*b', 'a'],
    ['*.*.bn=*.*.norm', 'a.bn'],
  ])('%s does not fit %s', (rule, name) => {
    expect(rename(name, rule)).toEqual([]);
  });

  test('of several parts that it fits, the last comes first', () => {
    expect(rename('bn_block.bn1', '**.bn*=**.norm*')).toEqual(['bn_block.norm1', 'norm_block.bn1']);
  });
});

test('a path without wildcards is no glob', () => {
  expect(isRenameGlob('backbone.layer1')).toBe(false);
  expect(() => checkRename({ from: 'a', to: '' })).not.toThrow();
});

describe('refused is', () => {
  test.each([
    [
      '**.bn*=**.norm',
      '--map "**.bn*=**.norm": expected the same wildcards in the same order on both sides, found "**" "*" before "=" and "**" behind it',
    ],
    [
      'bn=*.bn',
      '--map "bn=*.bn": expected the same wildcards in the same order on both sides, found none before "=" and "*" behind it',
    ],
    [
      '*.**=**.*',
      '--map "*.**=**.*": expected the same wildcards in the same order on both sides, found "*" "**" before "=" and "**" "*" behind it',
    ],
    ['a**.bn=a**.norm', '--map "a**.bn=a**.norm": expected "**" in place of whole components, found "a**"'],
  ])('%s', (rule, message) => {
    expect(() => rename('a.bn', rule)).toThrow(message);
  });
});

test('layers that a glob pairs are paired by hand', () => {
  const toSide = (path: string, names: readonly string[]) => ({
    path,
    layers: names.map((name) => layerOf(name)),
    isOrdered: false,
  });
  const { pairs } = pairLayers(
    toSide('a', ['bn1', 'l.bn1', 'head.1']),
    toSide('b', ['norm1', 'l.norm1', 'head.1']),
    [{ from: '**.bn*', to: '**.norm*' }],
  );
  expect(pairs.map(({ before, after, pairedBy }) => [before.name, after.name, pairedBy])).toEqual([
    ['bn1', 'norm1', 'map'],
    ['l.bn1', 'l.norm1', 'map'],
    ['head.1', 'head.1', 'name'],
  ]);
});

test('names of a thousand components, or of many that repeat, end at once', () => {
  const many = Array<string>(1000).fill('a').join('.');
  expect(rename(many, '**.a.**.a.**.b=**.x.**.x.**.y')).toEqual([]);
  const some = Array<string>(60).fill('a').join('.');
  for (let i = 0; i < 200; i++) expect(rename(some, '**.a.**.a.**.b=**.x.**.x.**.y')).toEqual([]);
});
