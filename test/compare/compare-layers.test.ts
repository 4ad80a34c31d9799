import { describe, expect, test } from 'vitest';
import {
  type LayerOptions,
  type LiveComparison,
  planLayerComparisons,
  readBatchCount,
  readStoredLayer,
} from '../../src/compare/compare-layers.js';
import type { LearnedComparisons } from '../../src/compare/compare-learned.js';
import type { NormLayer } from '../../src/norm/norm-layer.js';
import { tensorOf } from '../build/checkpoints.js';
import { layerOf, layerWith, learnedComparisons, learnedOf, vectorOf } from '../build/layers.js';
import { quantise } from '../build/quantised.js';

const STILL = { mean: [0.5, -1], variance: [2, 3] };
const MOVED = { mean: [0.5, -2], variance: [2, 3] };

async function compare(
  before: NormLayer,
  after: NormLayer,
  {
    learned = learnedComparisons(),
    ...options
  }: Partial<LayerOptions> & { learned?: LearnedComparisons } = {},
): Promise<LiveComparison> {
  const pair = { before, after, pairedBy: 'name' } as const;
  const { works, conclude } = planLayerComparisons([pair], { keepChannels: false, ...options });
  for (const { run } of works) await run();
  const [comparison] = conclude(learned);
  if (comparison === undefined) throw new Error('expected a comparison');
  return comparison;
}

const layer = (values: typeof STILL, overrides: Partial<NormLayer> = {}) =>
  layerWith('bn', values, overrides);
const count = (value: number) =>
  vectorOf(tensorOf('bn.num_batches_tracked', [value], { dtype: 'I64', shape: [] }));

describe('status', () => {
  test('equal statistics under an equal affine are locked', async () => {
    expect(await compare(layer(STILL), layer(STILL))).toMatchObject({
      status: 'locked',
      affine: 'equal',
      neighbours: 'none',
      channels: 2,
      drift: { channelsMoved: 0, measures: { outputShift: 0 } },
      problem: null,
    });
  });

  test('moved statistics under an equal affine drifted', async () => {
    expect(await compare(layer(STILL), layer(MOVED))).toMatchObject({
      status: 'drifted',
      drift: { channelsMoved: 1 },
    });
  });

  test('a NaN in after is invalid, and says where', async () => {
    expect(await compare(layer(STILL), layer({ ...STILL, mean: [0.5, Number.NaN] }))).toMatchObject({
      status: 'invalid',
      problem: 'the running mean of channel 1 is NaN (not a number)',
    });
  });

  test('a NaN in before alone is not', async () => {
    const { status } = await compare(layer({ ...STILL, mean: [0.5, Number.NaN] }), layer(STILL));
    expect(status).toBe('drifted');
  });

  test.each(['before', 'after'] as const)('statistics that %s cannot give are unresolved', async (side) => {
    const broken = layerOf('bn', { variance: { kind: 'unresolved', reason: 'it is computed' } });
    const [before, after] = side === 'before' ? [broken, layer(STILL)] : [layer(STILL), broken];
    expect(await compare(before, after)).toMatchObject({
      status: 'unresolved',
      problem: `in ${side}, it is computed`,
      drift: null,
    });
  });
});

describe('affine', () => {
  test('that is quantised stayed where the intervals meet, also behind weights that are the same to the last bit', async () => {
    // A bias counts in steps of the data's scale, which other calibration data changes.
    const betaIn = (scale: number) =>
      vectorOf(quantise([0.72057, -0.29724], { shape: [2], dtype: 'I32', scale }));
    const at = (scale: number) => layer(STILL, { neighbours: ['conv.weight'], beta: betaIn(scale) });
    const learned = learnedComparisons(learnedOf('conv.weight', 'exact', 256));
    expect(await compare(at(1.928e-5), at(1.986e-5), { learned })).toMatchObject({
      status: 'locked',
      affine: 'equal',
    });
    const exact = { ...learned, rounding: null };
    expect((await compare(at(1.928e-5), at(1.986e-5), { learned: exact })).affine).toBe('changed');
  });

  const affine = (gamma: readonly number[] | null, beta: readonly number[] | null) =>
    layer(MOVED, {
      gamma: gamma === null ? null : vectorOf(tensorOf('bn.weight', gamma)),
      beta: beta === null ? null : vectorOf(tensorOf('bn.bias', beta)),
    });

  test.each<readonly [string, NormLayer, NormLayer, string]>([
    ['both equal', affine([2, 2], [1, 1]), affine([2, 2], [1, 1]), 'equal'],
    ['γ changed', affine([2, 2], [1, 1]), affine([2, 3], [1, 1]), 'changed'],
    ['β changed', affine([2, 2], [1, 1]), affine([2, 2], [1, 0]), 'changed'],
    ['−0 for 0', affine([2, 2], [0, 0]), affine([2, 2], [-0, 0]), 'equal'],
    ['none on both sides', affine(null, null), affine(null, null), 'none'],
    ['none, written as ones and zeros by an exporter', affine(null, null), affine([1, 1], [0, 0]), 'none'],
    ['ones and zeros, then none', affine([1, 1], [0, 0]), affine(null, null), 'none'],
    ['none, then trained', affine(null, null), affine([2, 2], [0, 0]), 'changed'],
    ['trained, then none', affine([2, 2], [0, 0]), affine(null, null), 'changed'],
    ['γ alone on both sides', affine([2, 2], null), affine([2, 2], null), 'equal'],
    ['β absent, then zero', affine([2, 2], null), affine([2, 2], [0, 0]), 'equal'],
    ['β absent, then trained', affine([2, 2], null), affine([2, 2], [1, 0]), 'changed'],
  ])('%s', async (_, before, after, relation) => {
    expect((await compare(before, after)).affine).toBe(relation);
  });

  test('a narrower copy is equal', async () => {
    const narrow = layer(STILL, { gamma: vectorOf(tensorOf('g', [0.1, 0.2], { dtype: 'F16' })), beta: null });
    const wide = layer(STILL, { gamma: vectorOf(tensorOf('g', [0.1, 0.2])), beta: null });
    expect((await compare(wide, narrow)).affine).toBe('equal');
  });

  test('γ of after weighs the output shift', async () => {
    const still = { mean: [0, 0], variance: [1, 1] };
    const moved = { mean: [1, 0], variance: [1, 1] };
    const gamma = vectorOf(tensorOf('g', [0, 5]));
    const { drift } = await compare(layer(still, { gamma, epsilon: 0 }), layer(moved, { gamma }));
    expect(drift?.measures.outputShift).toBe(0);
    expect(drift?.measures.meanShift.max).toBe(1);
  });
});

describe('neighbours', () => {
  const learned = learnedComparisons(
    learnedOf('equal.weight'),
    learnedOf('changed.weight', 'changed'),
    learnedOf('odd.weight', 'incomparable'),
  );
  const relate = async (before: Partial<NormLayer>, after: Partial<NormLayer> = {}) =>
    (await compare(layer(STILL, before), layer(STILL, after), { learned })).neighbours;

  test.each([
    ['equal', ['equal.weight']],
    ['changed', ['equal.weight', 'changed.weight']],
    ['none', ['gone.weight']],
    ['none', ['odd.weight']],
    ['equal', ['odd.weight', 'equal.weight']],
    ['none', []],
  ])('%s: %j', async (relation, neighbours) => {
    expect(await relate({ neighbours })).toBe(relation);
  });

  test('a graph on one side knows better than names on the other', async () => {
    const byName = { neighbours: ['changed.weight'], isFromGraph: false };
    const byGraph = { neighbours: ['equal.weight'], isFromGraph: true };
    expect(await relate(byName, byGraph)).toBe('equal');
    expect(await relate(byGraph, byName)).toBe('equal');
  });

  test('a convolution with an adapter that is new in after was trained, whatever its own weight did', async () => {
    const adapted = learnedOf('conv.weight');
    const wrapped = { ...adapted, wrappedNames: ['conv.base_layer.weight'] };
    const layers = [layer(STILL, { neighbours: ['conv.weight'] }), layer(STILL)] as const;
    const relateTo = async (comparison: typeof wrapped | typeof adapted) => {
      const all = { ...learnedComparisons(comparison), extended: new Set(['conv']) };
      return (await compare(...layers, { learned: all })).neighbours;
    };
    expect([await relateTo(adapted), await relateTo(wrapped)]).toEqual(['equal', 'changed']);
  });
});

describe('epsilon', () => {
  test.each<readonly [Partial<NormLayer>, Partial<NormLayer>, number | undefined]>([
    [{ epsilon: 1e-5 }, { epsilon: 1e-3 }, 1e-3],
    [{ epsilon: 1e-5 }, { epsilon: Math.fround(1e-5) }, undefined],
    [{ epsilon: 1e-5 }, {}, undefined],
    [{}, { epsilon: 1e-3 }, undefined],
  ])('of %j and %j: after has another one, %j', async (before, after, epsilonAfter) => {
    const compared = await compare(layer(STILL, before), layer(STILL, after), { epsilon: undefined });
    expect(compared.epsilonAfter).toBe(epsilonAfter);
    expect(compared.epsilon).toBe(before.epsilon ?? after.epsilon);
  });

  test.each<readonly [Partial<NormLayer>, Partial<NormLayer>, number | undefined, number, string]>([
    [{}, {}, undefined, 1e-5, 'default'],
    [{ defaultEpsilon: 1e-3 }, {}, undefined, 1e-3, 'default'],
    [{ epsilon: 1e-4 }, { epsilon: 1e-2 }, undefined, 1e-4, 'graph'],
    [{}, { epsilon: 1e-2 }, undefined, 1e-2, 'graph'],
    [{ epsilon: 1e-4 }, {}, 0.5, 0.5, 'option'],
    [{ epsilon: 1e-4 }, {}, 0, 0, 'option'],
  ])(
    'before %j, after %j, option %j: %d from the %s',
    async (before, after, option, epsilon, epsilonFrom) => {
      expect(await compare(layer(STILL, before), layer(STILL, after), { epsilon: option })).toMatchObject({
        epsilon,
        epsilonFrom,
      });
    },
  );
});

describe('batches', () => {
  test('are the difference of both counts', async () => {
    const { batches } = await compare(
      layer(STILL, { batchCount: count(10) }),
      layer(STILL, { batchCount: count(22) }),
    );
    expect(batches).toBe(12n);
  });

  test('are unknown where either has none', async () => {
    expect((await compare(layer(STILL, { batchCount: count(10) }), layer(STILL))).batches).toBeNull();
  });

  test('are unknown where either is an average', async () => {
    const averaged = layer(MOVED, { batchCount: vectorOf(tensorOf('n', [12.5], { shape: [] })) });
    const { batches, cause } = await compare(layer(STILL, { batchCount: count(10) }), averaged);
    expect(batches).toBeNull();
    expect(cause).toEqual({ kind: 'averaged', side: 'after', count: 12.5, rose: true });
  });

  test.each([
    ['an I64 beyond 2^53', tensorOf('n', [2 ** 62], { dtype: 'I64', shape: [] }), 2n ** 62n],
    ['a negative I64', tensorOf('n', [-3], { dtype: 'I64', shape: [] }), -3n],
    ['an I32 of shape [1]', tensorOf('n', [-7], { dtype: 'I32' }), -7n],
    ['a whole F32', tensorOf('n', [12], { shape: [] }), 12n],
    ['an average in F32', tensorOf('n', [12.5], { shape: [] }), 12.5],
    ['an F16 that holds every whole number', tensorOf('n', [2048], { dtype: 'F16', shape: [] }), 2048n],
    ['an F16 that holds every second one', tensorOf('n', [2050], { dtype: 'F16', shape: [] }), null],
    ['NaN', tensorOf('n', [Number.NaN], { shape: [] }), null],
    ['a U8', tensorOf('n', [255], { dtype: 'U8', shape: [] }), 255n],
  ])('read %s', async (_, tensor, value) => {
    expect(await readBatchCount(layer(STILL, { batchCount: vectorOf(tensor) }))).toBe(value);
  });
});

describe('the cause', () => {
  const counted = (values: typeof STILL, batches: number, overrides: Partial<NormLayer> = {}) =>
    layer(values, { batchCount: count(batches), ...overrides });
  const causeOf = async (before: NormLayer, after: NormLayer) => (await compare(before, after)).cause;

  test('follows from statistics and counts', async () => {
    expect(await causeOf(counted(STILL, 10), counted(MOVED, 22))).toMatchObject({ kind: 'training-mode' });
    expect(await causeOf(counted(STILL, 10), counted(MOVED, 10))).toEqual({ kind: 'uncounted' });
    expect(await causeOf(counted(STILL, 10), counted(MOVED, 5))).toEqual({ kind: 're-estimated' });
    expect(await causeOf(counted(STILL, 10), counted(STILL, 9))).toEqual({ kind: 'recounted' });
    const initial = counted({ mean: [0, 0], variance: [1, 1] }, 0);
    expect(await causeOf(counted(STILL, 10), initial)).toEqual({ kind: 'reset' });
  });

  test('takes the momentum of the module that was trained last', async () => {
    const momentumOf = async (before: Partial<NormLayer>, after: Partial<NormLayer>) => {
      const cause = await causeOf(counted(STILL, 10, before), counted(MOVED, 22, after));
      return cause?.kind === 'training-mode' ? cause.old?.momentum : undefined;
    };
    expect(await momentumOf({ momentum: 0.2 }, { momentum: 0.3 })).toBe(0.3);
    expect(await momentumOf({ momentum: 0.2 }, {})).toBe(0.2);
    expect(await momentumOf({}, {})).toBe(0.1);
    // A graph's momentum is the share of the old value.
    expect(await momentumOf({ momentum: 0.9, isFromGraph: true }, {})).toBe(0.1);
  });

  test('is none of a layer whose statistics are invalid', async () => {
    const broken = counted({ mean: [Number.NaN, 0], variance: [1, 1] }, 22);
    expect(await causeOf(counted(STILL, 10), broken)).toBeNull();
  });
});

describe('reset', () => {
  const INITIAL = { mean: [0, 0], variance: [1, 1] };
  const initialAffine = { gamma: vectorOf(tensorOf('g', [1, 1])), beta: vectorOf(tensorOf('b', [0, 0])) };

  test('initial values in after alone, under a trained affine, are a reset', async () => {
    expect((await compare(layer(STILL), layer(INITIAL))).isReset).toBe(true);
  });

  test.each<readonly [string, NormLayer, NormLayer]>([
    ['initial on both sides', layer(INITIAL), layer(INITIAL)],
    ['an affine that is initial too', layer(STILL, initialAffine), layer(INITIAL, initialAffine)],
    ['no affine', layer(STILL, { gamma: null, beta: null }), layer(INITIAL, { gamma: null, beta: null })],
    ['other values', layer(STILL), layer(MOVED)],
  ])('%s is none', async (_, before, after) => {
    expect((await compare(before, after)).isReset).toBe(false);
  });
});

test('statistics per channel are kept when they are asked for', async () => {
  const { drift } = await compare(layer({ mean: [1], variance: [3] }), layer({ mean: [2], variance: [15] }), {
    keepChannels: true,
    epsilon: 1,
  });
  expect(drift?.perChannel).toEqual({
    before: { mean: [1], variance: [3] },
    after: { mean: [2], variance: [15] },
    stdRatio: [2],
  });
});

test('reading statistics that are not stored is a defect of the caller', async () => {
  const layer = layerOf('bn', { mean: { kind: 'unresolved', reason: 'x' } });
  await expect(readStoredLayer(layer)).rejects.toThrow('statistics that are not stored were read');
});

describe('a plan', () => {
  const pairOf = (before: NormLayer, after: NormLayer) => ({ before, after, pairedBy: 'name' }) as const;

  test('places each pair where the running mean of before lies; one without has no place', () => {
    const stored = layer(STILL);
    const broken = layerOf('bn', { mean: { kind: 'unresolved', reason: 'it is computed' } });
    const pairs = [pairOf(stored, layer(MOVED)), pairOf(broken, stored)];
    const { works } = planLayerComparisons(pairs, { keepChannels: false });
    const mean = stored.mean.kind === 'stored' ? stored.mean.tensor.range : undefined;
    expect(mean).toBeDefined();
    expect(works.map(({ range }) => range)).toEqual([mean, null]);
    expect(works[0]?.range).toBe(mean);
  });

  test('concludes in the order of the pairs, in whatever order they were compared', async () => {
    const pairs = ['a', 'b', 'c'].map((name) => pairOf(layerWith(name, STILL), layerWith(name, MOVED)));
    const { works, conclude } = planLayerComparisons(pairs, { keepChannels: false });
    for (const { run } of works.toReversed()) await run();
    expect(conclude(learnedComparisons()).map(({ before }) => before.name)).toEqual(['a', 'b', 'c']);
  });

  test('concludes nothing before all is done', () => {
    const { conclude } = planLayerComparisons([pairOf(layer(STILL), layer(STILL))], { keepChannels: false });
    expect(() => conclude(learnedComparisons())).toThrow('bn is still to be compared');
  });
});
