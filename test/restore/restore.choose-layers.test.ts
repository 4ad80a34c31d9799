import { expect, test } from 'vitest';
import { chooseLayers } from '../../src/restore/restore.js';
import { comparisonOf, layerOf } from '../build/layers.js';

const layers = [
  comparisonOf('net.bn', {
    before: layerOf('bn'),
    after: layerOf('net.bn', { wrappedName: 'module.net.bn' }),
  }),
  comparisonOf('net.other', { status: 'locked' }),
];

test.each(['net.bn', 'bn', 'module.net.bn', '_orig_mod.net.bn'])(
  'a layer is chosen by any name of either side, as %s is',
  (glob) => {
    expect(chooseLayers(layers, [glob]).chosen).toEqual(layers.slice(0, 1));
  },
);

test('without globs those are chosen that drifted', () => {
  expect(chooseLayers(layers, []).chosen).toEqual(layers.slice(0, 1));
});

test('a glob that chooses nothing is refused', () => {
  expect(() => chooseLayers(layers, ['encoder'])).toThrow('--layer "encoder" matches no norm layer');
});
