import { describe, expect, test } from 'vitest';
import { examineLayer, findFaults } from '../../src/compare/unpaired-layers.js';
import type { NormLayer } from '../../src/norm/norm-layer.js';
import { tensorOf } from '../build/checkpoints.js';
import { layerOf, layerWith, vectorOf } from '../build/layers.js';

const examine = (layer: NormLayer, options: { epsilon?: number; keepChannels?: boolean } = {}) =>
  examineLayer(layer, { keepChannels: false, ...options });

const HEALTHY = layerWith('bn', { mean: [0.5, -1], variance: [2, 3] });

test('a healthy layer is ok, without findings', async () => {
  const examined = await examine(HEALTHY);
  expect(examined).toMatchObject({ status: 'ok', findings: [], batches: null, perChannel: null });
  expect(examined.summary?.mean).toEqual({ min: -1, max: 0.5, rms: Math.sqrt(1.25 / 2) });
  expect(examined.summary?.variance).toMatchObject({ min: 2, max: 3 });
  expect(examined.summary?.variance.geometricMean).toBeCloseTo(Math.sqrt(6), 14);
});

test('a batch count that is an average is no count, and is said', async () => {
  const batchCount = vectorOf(tensorOf('bn.num_batches_tracked', [20.5], { shape: [] }));
  const examined = await examine({ ...HEALTHY, batchCount });
  expect(examined.batches).toBeNull();
  expect(examined.layer.notes).toEqual([
    'its batch count is an average, 20.5: the file holds a mean of checkpoints, or of a model over time',
  ]);
});

test('a NaN is an error', async () => {
  expect(await examine(layerWith('bn', { mean: [0, Number.NaN], variance: [2, 3] }))).toMatchObject({
    status: 'invalid',
    findings: [
      {
        kind: 'invalid-stats',
        level: 'error',
        message: 'the running mean of channel 1 is NaN (not a number)',
      },
    ],
  });
});

test('statistics that cannot be read are an error', async () => {
  const broken = layerOf('bn', {
    variance: { kind: 'unresolved', reason: 'running_var is missing from the file' },
  });
  expect(await examine(broken)).toMatchObject({
    status: 'unresolved',
    summary: null,
    findings: [
      {
        kind: 'unresolved-stats',
        level: 'error',
        message: 'its statistics cannot be read: running_var is missing from the file',
      },
    ],
  });
});

test('initial values are a note', async () => {
  expect((await examine(layerWith('bn', { mean: [0, 0], variance: [1, 1] }))).findings).toMatchObject([
    {
      kind: 'initial-stats',
      level: 'note',
      message: 'every channel still has mean 0 and variance 1: the statistics were never updated',
    },
  ]);
});

test('a node in training mode is a warning here', async () => {
  expect((await examine({ ...HEALTHY, isFromGraph: true, mode: 'batch' })).findings).toMatchObject([
    { kind: 'training-mode-graph', level: 'warning' },
  ]);
});

describe('epsilon', () => {
  test.each<readonly [Partial<NormLayer>, number | undefined, number, string]>([
    [{}, undefined, 1e-5, 'default'],
    [{ epsilon: 1e-3 }, undefined, 1e-3, 'graph'],
    [{ epsilon: 1e-3 }, 0, 0, 'option'],
  ])('%j with option %j: %d from the %s', async (overrides, option, epsilon, epsilonFrom) => {
    const examined = await examine(
      { ...HEALTHY, ...overrides },
      option === undefined ? {} : { epsilon: option },
    );
    expect(examined).toMatchObject({ epsilon, epsilonFrom });
  });
});

test('values per channel are kept when they are asked for, with the affine', async () => {
  const layer = { ...HEALTHY, gamma: vectorOf(tensorOf('g', [2, 3])), beta: null };
  expect((await examine(layer, { keepChannels: true })).perChannel).toEqual({
    mean: [0.5, -1],
    variance: [2, 3],
    gamma: [2, 3],
    beta: null,
  });
});

describe('the faults of a layer that was not compared', () => {
  const NEW = 'the layer is new in after';

  test('are NaN and training mode, as errors', async () => {
    const broken = layerWith(
      'bn',
      { mean: [Number.NaN], variance: [1] },
      { isFromGraph: true, mode: 'batch' },
    );
    expect((await findFaults(broken, NEW)).map(({ kind, level, message }) => [kind, level, message])).toEqual(
      [
        [
          'invalid-stats',
          'error',
          'the layer is new in after: the running mean of channel 0 is NaN (not a number)',
        ],
        [
          'training-mode-graph',
          'error',
          'the layer is new in after: the node runs in training mode: it normalises by batch statistics wherever it is deployed',
        ],
      ],
    );
  });

  test('are neither initial values nor what cannot be read', async () => {
    expect(await findFaults(layerWith('bn', { mean: [0], variance: [1] }), NEW)).toEqual([]);
    const unread = layerOf('bn', { mean: { kind: 'unresolved', reason: 'computed' } });
    expect(await findFaults(unread, NEW)).toEqual([]);
  });
});
