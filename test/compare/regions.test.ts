import { expect, test } from 'vitest';
import { findRegions } from '../../src/compare/regions.js';
import { comparisonOf, learnedOf } from '../build/layers.js';

const summaryOf = (regions: ReturnType<typeof findRegions>) =>
  regions.map(({ path, status }) => `${path}: ${status}`);

test('a region is the largest subtree that is frozen or trained as a whole', () => {
  const learned = [
    learnedOf('backbone.stem.weight'),
    learnedOf('backbone.layer1.0.weight'),
    learnedOf('head.weight', 'changed'),
    learnedOf('head.bias', 'changed'),
  ];
  expect(summaryOf(findRegions(learned, []))).toEqual(['backbone: frozen', 'head: trained']);
});

test('a model that is one thing throughout is one region', () => {
  expect(summaryOf(findRegions([learnedOf('a.weight'), learnedOf('b.weight')], []))).toEqual([': frozen']);
  expect(summaryOf(findRegions([learnedOf('a.weight', 'changed')], []))).toEqual([': trained']);
});

test('a mixed module is divided further, down to single tensors', () => {
  const learned = [learnedOf('fc.weight'), learnedOf('fc.bias', 'changed')];
  expect(summaryOf(findRegions(learned, []))).toEqual(['fc.weight: frozen', 'fc.bias: trained']);
});

test('a region counts its tensors and their values', () => {
  const learned = [
    learnedOf('a.x', 'exact', 3),
    learnedOf('a.y', 'exact', 4),
    learnedOf('b.z', 'changed', 5),
  ];
  expect(findRegions(learned, []).map((region) => region.learned)).toEqual([
    { tensors: 2, equal: 2, elements: 7 },
    { tensors: 1, equal: 0, elements: 5 },
  ]);
});

test('a region counts the norm layers inside, and those that drifted', () => {
  const learned = [learnedOf('backbone.weight'), learnedOf('backbone2.weight', 'changed')];
  const layers = [
    comparisonOf('backbone.bn1'),
    comparisonOf('backbone.bn2', { status: 'locked' }),
    comparisonOf('backbone2.bn', { status: 'trained' }),
    comparisonOf('elsewhere.bn'),
  ];
  expect(findRegions(learned, layers).map((region) => [region.path, region.layers, region.drifted])).toEqual([
    ['backbone', 2, 1],
    ['backbone2', 1, 0],
  ]);
});

test('no region around what only after has is frozen', () => {
  const learned = [learnedOf('stem.weight'), learnedOf('layer1.weight'), learnedOf('layer1.bias')];
  const around = (...onlyAfter: readonly string[]) => summaryOf(findRegions(learned, [], onlyAfter));
  expect(around('head.weight')).toEqual(['stem: frozen', 'layer1: frozen']);
  expect(around('layer1.bn')).toEqual(['stem: frozen', 'layer1.weight: frozen', 'layer1.bias: frozen']);
});

test('statistics that only after has make no new module of a layer whose tensors both have', () => {
  const learned = [learnedOf('bn.weight'), learnedOf('bn.bias')];
  expect(summaryOf(findRegions(learned, [], ['bn']))).toEqual([': frozen']);
});

test('what is new inside a trained region leaves it one', () => {
  const learned = [learnedOf('head.0.weight', 'changed'), learnedOf('head.1.weight', 'changed')];
  expect(summaryOf(findRegions(learned, [], ['head.2.weight']))).toEqual([': trained']);
});

test('tensors that cannot be compared belong to no region', () => {
  expect(findRegions([learnedOf('q.weight', 'incomparable')], [])).toEqual([]);
  expect(summaryOf(findRegions([learnedOf('a.w'), learnedOf('a.q', 'incomparable')], []))).toEqual([
    ': frozen',
  ]);
});

test('regions stand in the order of before', () => {
  const learned = [learnedOf('z.w'), learnedOf('a.w', 'changed'), learnedOf('z.v')];
  expect(summaryOf(findRegions(learned, []))).toEqual(['z: frozen', 'a: trained']);
});

test('a name of 100,000 components does not exhaust the call stack', () => {
  const deep = Array<string>(100_000).fill('x').join('.');
  const learned = [learnedOf(`${deep}.a`), learnedOf(`${deep}.b`, 'changed')];
  expect(summaryOf(findRegions(learned, []))).toEqual([`${deep}.a: frozen`, `${deep}.b: trained`]);
});

test('a module with a tensor that is new in after is not frozen as a whole', () => {
  const learned = [
    learnedOf('body.a.weight'),
    learnedOf('body.b.weight'),
    learnedOf('neck.weight', 'changed'),
  ];
  expect(summaryOf(findRegions(learned, [], ['head.weight']))).toEqual(['body: frozen', 'neck: trained']);
  expect(summaryOf(findRegions(learned, [], ['body.b.lora.weight', 'neck.bias']))).toEqual([
    'body.a: frozen',
    'body.b.weight: frozen',
    'neck: trained',
  ]);
});
