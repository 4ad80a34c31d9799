import { describe, expect, test } from 'vitest';
import { type Pairing, pairRepeated, repeatValues } from '../../src/compare/pair-layers.js';
import type { NormLayer } from '../../src/norm/norm-layer.js';
import { tensorOf } from '../build/checkpoints.js';
import { layerWith, vectorOf } from '../build/layers.js';

const initial = layerWith(
  'stem.norm',
  { mean: [0, 0, 0, 0], variance: [1, 1, 1, 1] },
  { gamma: null, beta: null, isFromGraph: true },
);

const short = layerWith('stem.norm', { mean: [1, 2], variance: [3, 4] });

/** The same layer with every vector given whole, as a graph has it. */
function longOf(mean: readonly number[], gamma: readonly number[] = [7, 8, 7, 8]): NormLayer {
  return layerWith(
    'stem.norm',
    { mean, variance: [3, 4, 3, 4] },
    { gamma: vectorOf(tensorOf('gamma', gamma)), beta: null, isFromGraph: true },
  );
}

function unpaired(onlyBefore: readonly NormLayer[], onlyAfter: readonly NormLayer[]): Pairing {
  return { pairs: [], onlyBefore, onlyAfter, edits: [{ from: '', to: '' }] };
}

describe('a layer that repeats its channels', () => {
  test('is paired with its namesake and compared by the first ones, from either side', async () => {
    const long = longOf([1, 2, 1, 2]);
    for (const pairing of [unpaired([short], [long]), unpaired([long], [short])]) {
      const { pairs, onlyBefore, onlyAfter } = await pairRepeated(pairing);
      expect([onlyBefore, onlyAfter]).toEqual([[], []]);
      expect(pairs.map(({ pairedBy }) => pairedBy)).toEqual(['name']);
      const repeated = pairs.flatMap(({ before, after }) => [before, after]).find((one) => one !== short);
      expect(repeated).toMatchObject({
        channels: 2,
        mean: { kind: 'stored', tensor: { shape: [2], range: { byteLength: 8 } }, whole: { shape: [4] } },
        gamma: { tensor: { elementCount: 2 } },
        beta: null,
      });
      expect(repeated?.notes).toEqual([
        'it repeats its 2 channels 2 times, as exporters write InstanceNorm for a batch of 2',
      ]);
    }
  });

  test('finds its namesake behind a wrapper prefix', async () => {
    const wrapped = { ...longOf([1, 2, 1, 2]), name: 'module.stem.norm' };
    const pairing = { ...unpaired([short], [wrapped]), edits: [{ from: '', to: 'module' }] };
    expect((await pairRepeated(pairing)).pairs).toHaveLength(1);
  });
});

describe('layers of other widths stay unpaired', () => {
  test.each([
    ['a file of names, which no exporter wrote', { ...longOf([1, 2, 1, 2]), isFromGraph: false }],
    ['one value throughout, which has any period', initial],
    ['a statistic that does not repeat', longOf([1, 2, 1, 3])],
    ['a weight that does not repeat', longOf([1, 2, 1, 2], [7, 8, 7, 9])],
    ['a width that is no multiple', layerWith('stem.norm', { mean: [1, 2, 1], variance: [3, 4, 3] })],
    [
      'statistics that cannot be read',
      { ...longOf([1, 2, 1, 2]), mean: { kind: 'unresolved', reason: 'computed' } as const },
    ],
    ['no name', { ...longOf([1, 2, 1, 2]), isNamed: false }],
    ['another name', { ...longOf([1, 2, 1, 2]), name: 'other.norm' }],
  ])('%s', async (_, other) => {
    const pairing = unpaired([short], [other]);
    expect(await pairRepeated(pairing)).toEqual(pairing);
  });
});

test('values are repeated as a whole tensor has them', () => {
  expect([...repeatValues(Float64Array.of(1, 2), tensorOf('whole', [0, 0, 0, 0]))]).toEqual([1, 2, 1, 2]);
});
