import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type DType, encodeFloats, roundToFloat } from '../../src/checkpoint/dtype.js';
import { planLearnedComparisons } from '../../src/compare/compare-learned.js';
import { compareRounded, type RoundingEvidence } from '../../src/compare/rounding.js';
import { findMovedChannels } from '../../src/compare/statistics.js';
import { TensorComparer } from '../../src/compare/tensor-equality.js';
import { runInFileOrder } from '../../src/io/byte-source.js';
import { tensorOf } from '../build/checkpoints.js';
import { toHashed } from '../build/hashed-tensor.js';
import { countingSource } from '../build/sources.js';
import {
  average,
  decay,
  drawWeights,
  mean,
  mergeAndUnmerge,
  type Optimizer,
  train,
  type WeightKind,
} from '../build/weights.js';

const compare = (before: ArrayLike<number>, after: ArrayLike<number>, dtype: DType = 'F32') =>
  new TensorComparer().compare(
    tensorOf('t', Array.from(before), { dtype }),
    tensorOf('t', Array.from(after), { dtype }),
  );
const verdictOf = async (before: ArrayLike<number>, after: ArrayLike<number>) => {
  const verdict = await compare(before, after);
  return verdict.kind === 'rounded' ? verdict.cause : verdict.kind;
};
const narrow = (values: ArrayLike<number>, dtype: DType) =>
  Array.from(values, (value) => roundToFloat(value, dtype));
/** Weights of a few small layers, by seed. */
const weightsOf = (size: number, seed: number, kind: WeightKind = 'normal') =>
  drawWeights({ size, seed, kind });

describe('in bfloat16, whose units are large', () => {
  const stored = (values: ArrayLike<number>) => Float32Array.from(narrow(values, 'BF16'));
  const kindsOf = async (change: (weights: Float32Array, seed: number) => Float32Array) => {
    const kinds = new Set<string>();
    for (let seed = 1; seed <= 100; seed++) {
      const weights = stored(weightsOf(576, seed));
      const verdict = await compare(weights, stored(change(weights, seed)), 'BF16');
      kinds.add(verdict.kind === 'rounded' ? verdict.cause : verdict.kind);
    }
    return [...kinds];
  };

  test('training is never taken for a merge', async () => {
    // Noise that grows with the values is the likest to rounding.
    const noisy = (weights: Float32Array, seed: number) => {
      const noise = weightsOf(576, -seed);
      return weights.map((weight, i) => weight + 2 * (Math.abs(weight) + 0.02) * (noise[i] ?? 0));
    };
    expect(await kindsOf(noisy)).toEqual(['changed']);
    const small = (weights: Float32Array, seed: number) =>
      train(weights, { optimizer: 'adam', lr: 1e-5, steps: 10, seed });
    expect(await kindsOf(small)).toEqual(['changed']);
  });

  test('a merge is told by the bits that it lost', async () => {
    const merge = (weights: Float32Array, seed: number) => {
      const added = stored(weightsOf(576, -seed));
      return stored(weights.map((weight, i) => weight + (added[i] ?? 0))).map(
        (sum, i) => sum - (added[i] ?? 0),
      );
    };
    expect(await kindsOf(merge)).toEqual(['merged']);
  });
});

describe('averages of equal values are rounded', () => {
  test.each([
    [0.9, 12],
    [0.999, 400],
    [0.9999, 5000],
    [0.99996, 3000],
  ])('an EMA of decay %d after %d steps, in its two usual forms', async (decay, steps) => {
    const weights = weightsOf(576, 1);
    expect(await verdictOf(weights, average(weights, { decay, steps, form: 'scale and add' }))).toBe(
      'averaged',
    );
    expect(await verdictOf(weights, average(weights, { decay, steps, form: 'ramp' }))).toMatch(
      /averaged|exact/,
    );
  });

  test.each([3, 7, 10, 30])('a mean of %d checkpoints', async (count) => {
    const weights = weightsOf(576, 2);
    expect(await verdictOf(weights, mean(weights, { count, form: 'sum' }))).toBe('averaged');
    expect(await verdictOf(weights, mean(weights, { count, form: 'weighted' }))).toBe('averaged');
  });

  test.each([
    [[1 / 3, 1 / 3, 1 / 3]],
    [[0.4492141604423523, 0.5507857799530029]],
    [[0.2236528843641281, 0.2816685140132904, 0.4946784973144531]],
    [[0.1255853772163391, 0.16865020990371704, 0.3611867427825928, 0.34457772970199585]],
  ])('a soup whose shares %j add up to 1 but for rounding', async (shares) => {
    const weights = weightsOf(576, 2);
    const soup = weights.map((weight) =>
      shares.reduce((sum, share) => Math.fround(sum + Math.fround(weight * Math.fround(share))), 0),
    );
    expect(await verdictOf(weights, soup)).toBe('averaged');
  });

  test('the largest relative difference is told', async () => {
    const weights = weightsOf(576, 3);
    const averaged = mean(weights, { count: 7, form: 'sum' });
    const largest = Array.from(averaged, (value, i) => Math.abs(value / (weights[i] ?? 0) - 1));
    expect(await compare(weights, averaged)).toMatchObject({
      kind: 'rounded',
      relativeDifference: expect.closeTo(Math.max(...largest), 14),
    });
  });

  test('denormals, which underflow rounds by more, do not matter', async () => {
    const weights = weightsOf(576, 4);
    for (let i = 0; i < 50; i++) weights[i] = Math.fround(1e-40 * (i + 1));
    expect(
      await verdictOf(weights, average(weights, { decay: 0.9999, steps: 5000, form: 'scale and add' })),
    ).toBe('averaged');
  });
});

describe.each(['BF16', 'F16'] as const)('an average that was computed in %s', (dtype) => {
  const round = (value: number) => roundToFloat(value, dtype);
  const sumOf = (values: ArrayLike<number>, count: number) =>
    Array.from(values, (value) => {
      let sum = value;
      for (let i = 1; i < count; i++) sum = round(sum + value);
      return round(sum / count);
    });
  const sharesOf = (values: ArrayLike<number>, count: number) =>
    Array.from(values, (value) => {
      let sum = 0;
      for (let i = 0; i < count; i++) sum = round(sum + round(value * round(1 / count)));
      return sum;
    });
  const kindOf = async (before: ArrayLike<number>, after: ArrayLike<number>) => {
    const verdict = await compare(before, after, dtype);
    return verdict.kind === 'rounded' ? verdict.cause : verdict.kind;
  };

  test.each([2, 3, 4, 5, 7, 8, 9, 12, 20, 30])('is told in large tensors, of %d models', async (count) => {
    const isExact = Number.isInteger(Math.log2(count));
    for (const size of [2304, 36_864]) {
      const weights = narrow(weightsOf(size, count), dtype);
      expect(await kindOf(weights, sumOf(weights, count))).toMatch(isExact ? /averaged|exact/ : /averaged/);
      expect(await kindOf(weights, sharesOf(weights, count))).toMatch(
        isExact ? /averaged|exact/ : /averaged/,
      );
      expect(await kindOf(sumOf(weights, count), weights)).toMatch(isExact ? /averaged|exact/ : /averaged/);
    }
  });

  test('is no change in small ones, which follow the others', async () => {
    for (const size of [64, 189, 576]) {
      const weights = narrow(weightsOf(size, size), dtype);
      expect(await kindOf(weights, sumOf(weights, 9))).toMatch(/averaged|short/);
      expect(await kindOf(weights, sharesOf(weights, 9))).toMatch(/averaged|short/);
    }
  });

  test.each<[Optimizer, number]>([
    ['sgd', 1e-4],
    ['sgd', 1e-6],
    ['adam', 1e-5],
    ['adam', 1e-6],
    ['adamw', 1e-6],
  ])('is none that was trained by %s with lr %d, however few values changed', async (optimizer, lr) => {
    for (const size of [576, 2304, 36_864]) {
      const weights = narrow(weightsOf(size, size), dtype);
      const trained = narrow(train(Float32Array.from(weights), { optimizer, lr, steps: 20, seed: 3 }), dtype);
      // Of few values that changed, other tensors tell.
      expect(await kindOf(weights, trained)).toMatch(size < 2304 ? /changed|short/ : /changed/);
    }
  });

  test('is none where one channel of many was trained besides, by two units at most', async () => {
    const weights = narrow(weightsOf(36_864, 8), dtype);
    const averaged = sumOf(weights, 9);
    const unit = dtype === 'BF16' ? 2 ** -8 : 2 ** -11;
    const trained = averaged.map((value, i) =>
      i < 20_000 || i >= 20_576 ? value : round(value * (1 + (i % 3) * unit)),
    );
    expect(await kindOf(weights, trained)).toBe('changed');
  });

  test('is no change beside weights that were pruned, or are no numbers', async () => {
    const weights = narrow(weightsOf(2304, 11), dtype).map((value, i) =>
      i % 3 === 0 ? 0 : i === 7 ? Number.NaN : i === 8 ? Number.POSITIVE_INFINITY : value,
    );
    expect(await kindOf(weights, sumOf(weights, 9))).toBe('averaged');
  });

  test('leaves statistics unmoved that moved by no more', async () => {
    const weights = narrow(weightsOf(36_864, 9), dtype);
    const verdict = await compare(weights, sumOf(weights, 9), dtype);
    const averaged = verdict.kind === 'rounded' ? verdict.relativeDifference : 0;
    const evidence: RoundingEvidence = { averaged, merged: false, narrowed: new Set() };
    const mean = narrow(weightsOf(32, 10), dtype);
    const compareWith = (other: readonly number[]) =>
      compareRounded(
        { values: Float64Array.from(mean), dtype },
        { values: Float64Array.from(other), dtype },
        evidence,
      );
    expect(compareWith(sumOf(mean, 9))).toBeGreaterThan(0);
    expect(compareWith(mean.map((value) => round(1.1 * value)))).toBeNull();
  });
});

describe('training is a change, however gentle', () => {
  test.each<[Optimizer, number, number]>([
    ['sgd', 1e-7, 10],
    ['sgd', 1e-6, 10],
    ['sgd', 1e-5, 100],
    ['adam', 1e-7, 10],
    ['adamw', 1e-6, 10],
  ])('%s with lr %d for %d steps', async (optimizer, lr, steps) => {
    for (const size of [144, 576, 4608]) {
      const weights = weightsOf(size, size);
      expect(await verdictOf(weights, train(weights, { optimizer, lr, steps, seed: 7 }))).toBe('changed');
    }
  });

  test.each([
    [1e-5, 20],
    [1e-6, 10],
    [1e-7, 20],
  ])('weight decay alone, by %d a step for %d steps: one factor for all', async (share, steps) => {
    const weights = weightsOf(576, 5);
    expect(await verdictOf(weights, decay(weights, { share, steps }))).toBe('changed');
  });

  test('one value that moved far', async () => {
    const weights = weightsOf(576, 6);
    const averaged = mean(weights, { count: 7, form: 'sum' });
    averaged[100] = Math.fround((averaged[100] ?? 0) * 1.01);
    expect(await verdictOf(weights, averaged)).toBe('changed');
  });

  test('one value among many that moved by little, wherever it stands', async () => {
    const weights = weightsOf(20_000, 7);
    for (const index of [5000, 5001, 12_345]) {
      const touched = weights.slice();
      touched[index] = Math.fround((touched[index] ?? 0) * 1.001);
      expect(await verdictOf(weights, touched)).toBe('short');
    }
  });

  test.each([
    ['a zero that is none any more', 0, 1e-6],
    ['a sign that turned', 1e-3, -1e-3],
    ['a NaN', 1e-3, Number.NaN],
    ['an infinity', 1e-3, Number.POSITIVE_INFINITY],
  ])('%s', async (_, before, after) => {
    const weights = weightsOf(576, 8);
    const averaged = mean(weights, { count: 7, form: 'sum' });
    weights[9] = before;
    averaged[9] = after;
    expect(await verdictOf(weights, averaged)).toBe('changed');
  });
});

describe('types', () => {
  test.each<DType>(['BF16', 'F16', 'F8_E4M3'])(
    'values stored in %s on the way, either side',
    async (dtype) => {
      const weights = weightsOf(576, 9);
      expect(await verdictOf(weights, narrow(weights, dtype))).toBe('narrowed');
      expect(await verdictOf(narrow(weights, dtype), weights)).toBe('narrowed');
    },
  );

  test('weights that were trained before they were narrowed changed', async () => {
    const weights = weightsOf(4608, 10);
    for (const lr of [1e-4, 1e-5]) {
      const trained = train(weights, { optimizer: 'sgd', lr, steps: 50, seed: 3 });
      expect(await verdictOf(weights, narrow(trained, 'BF16'))).toBe('changed');
      expect(await verdictOf(weights, narrow(trained, 'F16'))).toBe('changed');
    }
  });

  test('weights that were averaged before they were narrowed are rounded', async () => {
    const weights = weightsOf(4608, 11);
    const averaged = average(weights, { decay: 0.9999, steps: 20_000, form: 'scale and add' });
    const stored = narrow(averaged, 'F16');
    expect(stored).not.toEqual(narrow(weights, 'F16'));
    expect((await compare(weights, stored)).kind).toBe('rounded');
    const wide = tensorOf('t', Array.from(weights));
    expect((await new TensorComparer().compare(wide, tensorOf('t', stored, { dtype: 'F16' }))).kind).toBe(
      'rounded',
    );
  });

  test('a type that the first values fit by chance does not excuse the others', async () => {
    const weights = weightsOf(9000, 12);
    const rounded = narrow(weights, 'BF16');
    const half = rounded.map((value, i) => (i < 8000 ? value : Math.fround((weights[i] ?? 0) * 1.001)));
    expect(await verdictOf(weights, half)).toBe('changed');
  });

  test('ones that a trained weight started from are no narrow copy of it', async () => {
    const ones = new Array<number>(64).fill(1);
    const trained = train(Float32Array.from(ones), { optimizer: 'adam', lr: 1e-6, steps: 10, seed: 1 });
    expect(await verdictOf(ones, trained)).not.toBe('narrowed');
  });
});

test('what was added and taken out again is rounded', async () => {
  for (const scale of [0.1, 1, 3]) {
    const weights = weightsOf(576, 13);
    expect(await verdictOf(weights, mergeAndUnmerge(weights, { scale, seed: 5 }))).toMatch(/merged|averaged/);
  }
  expect(
    await verdictOf(weightsOf(576, 13), mergeAndUnmerge(weightsOf(576, 13), { scale: 1, seed: 5 })),
  ).toBe('merged');
});

test('every difference is a change where exactness is asked for', async () => {
  const weights = weightsOf(576, 14);
  const [before, after] = [weights, mean(weights, { count: 7, form: 'sum' })].map((values) =>
    tensorOf('t', Array.from(values)),
  );
  expect((await new TensorComparer({ isExact: true }).compare(before as never, after as never)).kind).toBe(
    'changed',
  );
});

describe('a model', () => {
  /** What comparing says of tensors by name. */
  const compareModels = async (
    before: Record<string, ArrayLike<number>>,
    after: Record<string, ArrayLike<number>>,
  ) => {
    const toTensors = (model: Record<string, ArrayLike<number>>) =>
      new Map(Object.entries(model).map(([name, values]) => [name, tensorOf(name, Array.from(values))]));
    const folded = {
      learned: [],
      judgedBefore: new Set<string>(),
      judgedAfter: new Set<string>(),
      edits: [{ from: '', to: '' }],
    };
    const plan = planLearnedComparisons(toTensors(before), toTensors(after), { folded });
    await runInFileOrder(plan.works);
    const { compared, rounding } = plan.conclude();
    return {
      rounding,
      equalities: Object.fromEntries(compared.map(({ name, equality }) => [name, equality])),
    };
  };
  const ema = { decay: 0.9999, steps: 3000, form: 'scale and add' } as const;

  test('a short tensor follows the long ones: rounded by as little, or trained', async () => {
    const [conv, gamma, other] = [weightsOf(576, 20), weightsOf(16, 21), weightsOf(16, 22)];
    const { equalities } = await compareModels(
      { conv, gamma, other },
      {
        conv: average(conv, ema),
        gamma: average(gamma, ema),
        other: train(other, { optimizer: 'sgd', lr: 1e-3, steps: 3, seed: 2 }),
      },
    );
    expect(equalities).toEqual({ conv: 'rounded', gamma: 'rounded', other: 'changed' });
  });

  test('a short tensor beside long ones that stayed to the last bit was trained', async () => {
    const [conv, gamma] = [weightsOf(576, 23), weightsOf(16, 24)];
    const { equalities } = await compareModels({ conv, gamma }, { conv, gamma: average(gamma, ema) });
    expect(equalities).toEqual({ conv: 'exact', gamma: 'changed' });
  });

  test('short tensors alone tell together', async () => {
    const layers = Array.from({ length: 12 }, (_, i) => [`l${i}`, weightsOf(24, 30 + i)] as const);
    const apply = (change: (weights: Float32Array) => ArrayLike<number>) =>
      Object.fromEntries(layers.map(([name, weights]) => [name, change(weights)]));
    const before = apply((weights) => weights);
    const averaged = await compareModels(
      before,
      apply((weights) => average(weights, ema)),
    );
    expect(new Set(Object.values(averaged.equalities))).toEqual(new Set(['rounded']));
    const trained = await compareModels(
      before,
      apply((weights) => train(weights, { optimizer: 'sgd', lr: 1e-6, steps: 10, seed: 4 })),
    );
    expect(new Set(Object.values(trained.equalities))).toEqual(new Set(['changed']));
  });

  test('ones that a narrower type made of others count where longer tensors show the type', async () => {
    const conv = weightsOf(576, 25);
    const gamma = Float32Array.of(0.99995, 1.00003, 1.00001, 0.99999);
    const narrowed = await compareModels(
      { conv, gamma },
      { conv: narrow(conv, 'BF16'), gamma: [1, 1, 1, 1] },
    );
    expect(narrowed.equalities).toEqual({ conv: 'rounded', gamma: 'rounded' });
    const trained = await compareModels({ conv, gamma }, { conv, gamma: [1, 1, 1, 1] });
    expect(trained.equalities).toEqual({ conv: 'exact', gamma: 'changed' });
  });
});

describe('statistics', () => {
  const evidence: RoundingEvidence = { averaged: 1e-5, merged: false, narrowed: new Set() };
  const vector = (values: readonly number[]) => ({
    values: Float64Array.from(values, Math.fround),
    dtype: 'F32' as const,
  });
  const before = { mean: vector([0.3, -0.7, 1.1]), variance: vector([1.3, 0.4, 2.2]) };
  const scaled = (factor: number) => ({
    mean: vector([...before.mean.values].map((value) => value * factor)),
    variance: before.variance,
  });

  test('that moved by no more than the learned tensors stood still', () => {
    const { moved, relativeDifference } = findMovedChannels(before, scaled(1 + 1e-5), evidence);
    expect(moved).toEqual([false, false, false]);
    expect(relativeDifference).toBeCloseTo(1e-5, 6);
  });

  test('that moved by more moved', () => {
    expect(findMovedChannels(before, scaled(1 + 1e-4), evidence).moved).toEqual([true, true, true]);
    expect(findMovedChannels(before, scaled(1 + 1e-5), { ...evidence, averaged: 0 }).moved).toEqual([
      true,
      true,
      true,
    ]);
    expect(findMovedChannels(before, scaled(1 + 1e-5), null).moved).toEqual([true, true, true]);
  });

  test('a narrower type shows in any vector', () => {
    const half = vector(narrow(before.mean.values, 'BF16'));
    expect(
      compareRounded(before.mean, half, { averaged: 0, merged: false, narrowed: new Set() }),
    ).toBeGreaterThan(0);
  });
});

describe('a baseline', () => {
  test('tells rounding from training by the sample that it keeps', async () => {
    const weights = weightsOf(5000, 40);
    const before = await toHashed(tensorOf('t', Array.from(weights)), null);
    const against = async (after: ArrayLike<number>) =>
      (await new TensorComparer().compare(before, tensorOf('t', Array.from(after)))).kind;
    expect(await against(weights)).toBe('exact');
    expect(await against(mean(weights, { count: 7, form: 'sum' }))).toBe('rounded');
    expect(await against(train(weights, { optimizer: 'sgd', lr: 1e-6, steps: 10, seed: 1 }))).toBe('changed');
    const touched = weights.slice();
    touched[1] = 1;
    expect(await against(touched)).toBe('changed');
  });

  test('without a sample cannot tell', async () => {
    const weights = weightsOf(5000, 41);
    const before = await toHashed(tensorOf('t', Array.from(weights)), null, { isSampled: false });
    const after = tensorOf('t', Array.from(mean(weights, { count: 7, form: 'sum' })));
    expect((await new TensorComparer().compare(before, after)).kind).toBe('incomparable');
  });
});

test('a trained tensor is left soon, however gently it was trained', async () => {
  const weights = weightsOf(500_000, 50);
  const trained = train(weights, { optimizer: 'adam', lr: 1e-7, steps: 3, seed: 1 });
  const source = countingSource('large', encodeFloats(trained, 'F32'));
  const before = tensorOf('t', Array.from(weights));
  const after = { ...before, range: { source, offset: 0, byteLength: before.range.byteLength } };
  expect((await new TensorComparer().compare(before, after)).kind).toBe('changed');
  expect(source.bytesRead).toBeLessThanOrEqual(16 * 1024);
});

test('trainings in 16 bits are no averages, whatever the net, optimizer and learning rate', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        dtype: fc.constantFrom<DType>('BF16', 'F16'),
        size: fc.integer({ min: 576, max: 5000 }),
        kind: fc.constantFrom<WeightKind>('normal', 'uniform', 'heavy', 'channels'),
        seed: fc.nat(1e6),
        optimizer: fc.constantFrom<Optimizer>('sgd', 'adam', 'adamw'),
        exponent: fc.double({ min: -6, max: -3, noNaN: true }),
        steps: fc.integer({ min: 1, max: 20 }),
        isStoredOnTheWay: fc.boolean(),
      }),
      async ({ dtype, size, kind, seed, exponent, steps, isStoredOnTheWay, optimizer }) => {
        const store = (values: ArrayLike<number>) => Float32Array.from(narrow(values, dtype));
        const weights = store(drawWeights({ size, seed, kind }));
        const lr = 10 ** exponent;
        let trained = weights;
        if (isStoredOnTheWay)
          for (let step = 0; step < steps; step++)
            trained = store(train(trained, { optimizer, lr, steps: 1, seed: seed + step }));
        else trained = store(train(weights, { optimizer, lr, steps, seed }));
        expect(await compare(weights, trained, dtype)).not.toHaveProperty('cause', 'averaged');
      },
    ),
    { numRuns: 300, seed: 2026 },
  );
}, 60_000);

test('averages and trainings are held apart, whatever the net, decay, count and learning rate', async () => {
  const sizes = fc.integer({ min: 144, max: 5000 });
  const kinds = fc.constantFrom<WeightKind>('normal', 'uniform', 'heavy', 'channels');
  const averages = fc.oneof(
    fc.record({
      kind: fc.constant('ema' as const),
      decay: fc.double({ min: 0.9, max: 0.99995, noNaN: true }),
      steps: fc.integer({ min: 1, max: 3000 }),
      form: fc.constantFrom('scale and add' as const, 'ramp' as const),
    }),
    fc.record({
      kind: fc.constant('mean' as const),
      count: fc.integer({ min: 3, max: 30 }),
      form: fc.constantFrom('sum' as const, 'weighted' as const),
    }),
  );
  const trainings = fc.record({
    optimizer: fc.constantFrom<Optimizer>('sgd', 'adam', 'adamw'),
    exponent: fc.double({ min: -7, max: -3, noNaN: true }),
    steps: fc.integer({ min: 5, max: 40 }),
  });
  await fc.assert(
    fc.asyncProperty(
      sizes,
      kinds,
      fc.nat(1e6),
      averages,
      trainings,
      async (size, kind, seed, way, { exponent, ...rest }) => {
        const weights = drawWeights({ size, seed, kind });
        const averaged = way.kind === 'ema' ? average(weights, way) : mean(weights, way);
        expect((await compare(weights, averaged)).kind).toMatch(/exact|rounded|short/);
        const trained = train(weights, { ...rest, lr: 10 ** exponent, seed });
        expect((await compare(weights, trained)).kind).toBe('changed');
      },
    ),
    { numRuns: 150, seed: 2026 },
  );
}, 60_000);
