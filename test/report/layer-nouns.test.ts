import { expect, test } from 'vitest';
import { areUnmarked, formatLayers, nameLayer, nameLayers } from '../../src/report/layer-nouns.js';

const norm = { kind: 'BatchNormalization' };
const unmarked = { kind: 'convolution with bias' };

test('layers are norm layers', () => {
  expect(nameLayer([norm])).toBe('norm layer');
  expect(nameLayers([norm])).toBe('norm layers');
  expect([formatLayers(1, [norm]), formatLayers(1250, [norm])]).toEqual([
    '1 norm layer',
    '1,250 norm layers',
  ]);
  expect([nameLayer([]), areUnmarked([])]).toEqual(['norm layer', false]);
});

test('convolutions that no file calls folded are no norm layers', () => {
  expect(nameLayer([unmarked])).toBe('convolution with a bias');
  expect(formatLayers(1, [unmarked])).toBe('1 convolution with a bias');
  expect(formatLayers(7, [unmarked, unmarked])).toBe('7 convolutions with a bias');
});

test('some of each are layers', () => {
  expect(nameLayer([norm, unmarked])).toBe('layer');
  expect(nameLayers([norm, unmarked])).toBe('layers');
  expect(formatLayers(2, [norm, unmarked])).toBe('2 layers');
});
