import { describe, expect, test } from 'vitest';
import { NeighbourRelations } from '../../src/compare/compare-layers.js';
import type { NormLayer } from '../../src/norm/norm-layer.js';
import { layerOf, learnedComparisons, learnedOf } from '../build/layers.js';

const learned = learnedComparisons(
  learnedOf('frozen.weight', 'exact'),
  learnedOf('frozen.bias', 'exact'),
  learnedOf('trained.weight', 'changed'),
  learnedOf('trained.bias', 'exact'),
  learnedOf('tuned.weight', 'changed'),
);

function relationOf(before: Partial<NormLayer>, after: Partial<NormLayer> = {}) {
  const layers = { before: layerOf('bn', before), after: layerOf('bn', after) };
  const { relation, neighboursFrom } = new NeighbourRelations(learned).of(layers);
  return { neighbours: relation, neighboursFrom };
}

const named = (...neighbours: string[]): Partial<NormLayer> => ({ neighbours, areNeighboursCertain: true });
const open = (...neighbours: string[]): Partial<NormLayer> => ({ neighbours, areNeighboursCertain: false });
const graph = (...neighbours: string[]): Partial<NormLayer> => ({ neighbours, isFromGraph: true });

describe('what feeds a layer for certain', () => {
  test.each([
    ['changed', ['trained.weight', 'trained.bias']],
    ['equal', ['frozen.weight', 'frozen.bias']],
  ] as const)('is %s by all of its tensors', (neighbours, names) => {
    expect(relationOf(named(...names))).toEqual({ neighbours, neighboursFrom: 'names' });
  });

  test('is told by the side that has a graph', () => {
    expect(relationOf(named('trained.weight'), graph('frozen.weight'))).toEqual({
      neighbours: 'equal',
      neighboursFrom: 'graph',
    });
  });

  test('is told by names where the graph’s tensors could not be compared', () => {
    expect(relationOf(named('trained.weight'), graph('onnx::MatMul_9'))).toEqual({
      neighbours: 'changed',
      neighboursFrom: 'names',
    });
  });

  test('is nothing where a graph says so', () => {
    expect(relationOf(graph(), graph())).toEqual({ neighbours: 'none', neighboursFrom: 'graph' });
  });
});

describe('where names leave open what feeds a layer', () => {
  test('what is true of every module that may, is true of the one that does', () => {
    expect(relationOf(open('trained.weight', 'trained.bias', 'tuned.weight'))).toEqual({
      neighbours: 'changed',
      neighboursFrom: 'names',
    });
  });

  test('it is unknown where some were trained and others were not', () => {
    expect(relationOf(open('frozen.weight', 'trained.weight'))).toEqual({
      neighbours: 'none',
      neighboursFrom: 'unknown',
    });
  });

  test('the other side’s order of modules may tell', () => {
    expect(relationOf(open('frozen.weight', 'trained.weight'), named('frozen.weight'))).toEqual({
      neighbours: 'equal',
      neighboursFrom: 'names',
    });
  });
});

describe('whichever side is before', () => {
  test.each([
    [
      'orders that disagree leave it open',
      named('frozen.weight'),
      named('trained.weight'),
      'none',
      'unknown',
      true,
    ],
    ['so do guesses', open('frozen.weight'), open('trained.weight'), 'none', 'unknown', true],
    ['orders that agree tell it', named('frozen.weight'), named('frozen.bias'), 'equal', 'names', false],
    [
      'a certain order goes before a guess',
      open('frozen.weight'),
      named('trained.weight'),
      'changed',
      'names',
      false,
    ],
    [
      'a graph that was wired anew is a change',
      graph('frozen.weight'),
      graph('tuned.weight'),
      'changed',
      'graph',
      false,
    ],
  ] as const)('%s', (_, one, other, relation, neighboursFrom, isDisputed) => {
    const relations = new NeighbourRelations(learned);
    for (const [before, after] of [
      [one, other],
      [other, one],
    ]) {
      const layers = { before: layerOf('bn', before), after: layerOf('bn', after) };
      expect(relations.of(layers)).toMatchObject({ relation, neighboursFrom, isDisputed });
    }
  });
});

describe('how much of the checkpoint’s rounding a layer’s affine may show', () => {
  const roundingBeside = (elementCount: number) => {
    const all = learnedComparisons(learnedOf('conv.weight', 'exact', elementCount));
    return new NeighbourRelations(all).of({
      before: layerOf('bn', named('conv.weight')),
      after: layerOf('bn'),
    }).rounding;
  };

  test('is none beside a long tensor that stayed to the last bit', () => {
    expect(roundingBeside(64)).toBeNull();
  });

  test('is all of it beside a short one, which an average may leave as it was', () => {
    expect(roundingBeside(63)).toEqual({ averaged: 0, merged: false, narrowed: new Set() });
  });
});
