import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../src/audit.js';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { hasOtherNorms, mayBeFused } from '../../src/folding/compare-folded.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';

const wave = (count: number, start = 0) => Array.from({ length: count }, (_, i) => Math.sin(start + i + 1));

interface Layer {
  readonly shape?: readonly number[];
  readonly factors?: readonly number[];
  readonly bias?: readonly number[];
  readonly seed?: number;
}

/** A convolution of three output channels, each multiplied by a factor. */
function convOf(
  path: string,
  { shape = [3, 2, 3, 3], factors = [1, 1, 1], bias = [0.5, 0.25, -1], seed = 0 }: Layer = {},
): readonly Tensor[] {
  const count = shape.reduce((product, size) => product * size, 1);
  const inner = count / 3;
  const weight = wave(count, seed).map((value, i) => value * (factors[Math.floor(i / inner)] ?? 1));
  return [tensorOf(`${path}.weight`, weight, { shape }), tensorOf(`${path}.bias`, bias)];
}

const fused = (...layers: readonly (readonly Tensor[])[]) => checkpointOf(layers.flat());
const own = [1.5, 0.5, 0.75];
const moved = [0.5, 0.5, -1];

const statusesOf = async (before: readonly (readonly Tensor[])[], after: readonly (readonly Tensor[])[]) => {
  const { layers } = await auditCheckpoints(fused(...before), fused(...after));
  return Object.fromEntries(layers.map(({ name, status }) => [name, status]));
};

describe('two models without any norm layer', () => {
  test('a factor of its own for each channel is drift, and the finding says what it was told from', async () => {
    const after = fused(convOf('a', { factors: own, bias: moved }), convOf('b', { seed: 7 }));
    const report = await auditCheckpoints(fused(convOf('a'), convOf('b')), after);
    expect(report.layers).toMatchObject([
      { name: 'a', kind: 'convolution with bias', status: 'drifted', pairedBy: 'name', via: 'folded' },
      { name: 'b', status: 'trained' },
    ]);
    expect(report.findings).toMatchObject([{ kind: 'folded-scale-drift', level: 'error', layer: 'a' }]);
    expect(report.findings[0]?.message).toContain('the file does not say that one was');
    expect(report.warnings.join()).toContain('2 convolutions or linear layers with a bias, paired by name');
  });

  test('an equal weight whose bias moved leaves both readings open', async () => {
    const { findings } = await auditCheckpoints(fused(convOf('a')), fused(convOf('a', { bias: moved })));
    expect(findings).toMatchObject([{ kind: 'folded-bias-drift', level: 'error' }]);
    expect(findings[0]?.message).toMatch(/either a norm layer was folded into it.*or the bias was trained/);
  });

  test('what stayed is no finding', async () => {
    expect(await statusesOf([convOf('a')], [convOf('a')])).toEqual({ a: 'locked' });
  });

  test('one factor for all channels is a warning at most: weight decay explains it', async () => {
    const after = fused(convOf('a', { factors: [0.5, 0.5, 0.5] }));
    const { findings, verdict } = await auditCheckpoints(fused(convOf('a')), after);
    expect(findings).toMatchObject([{ kind: 'folded-scale-drift', level: 'warning' }]);
    expect(verdict).toBe('clean');
  });

  test('that were trained from end to end show nothing to audit', async () => {
    const failure = await failureOf(() =>
      auditCheckpoints(fused(convOf('a')), fused(convOf('a', { seed: 7 }))),
    );
    expect(failure).toMatchObject({ code: 'no-norm-layers' });
    expect(failure.hint).toContain('running_mean');
  });

  test.each(['stage1.0.rbr_reparam', 'stages.0.reparam_conv'])(
    'the sum of several branches that changed may have drifted or been trained: %s',
    async (path) => {
      expect(await statusesOf([convOf(path)], [convOf(path, { seed: 7 })])).toEqual({ [path]: 'unresolved' });
      expect(await statusesOf([convOf(path)], [convOf(path)])).toEqual({ [path]: 'locked' });
    },
  );

  test('a transposed convolution of as many inputs as outputs is found by its values', async () => {
    const shape = [3, 3, 2, 2];
    const weight = wave(36);
    const scaled = weight.map((value, i) => value * (own[Math.floor(i / 4) % 3] ?? 1));
    const upOf = (values: readonly number[], bias: readonly number[]) => [
      tensorOf('up.weight', values, { shape }),
      tensorOf('up.bias', bias),
    ];
    expect(await statusesOf([upOf(weight, [1, 2, 3])], [upOf(scaled, [2, 2, 3])])).toEqual({ up: 'drifted' });
  });
});

test('a convolution that is what it was, but for float16, has no norm layer folded into it', async () => {
  const values = { weight: [2, 0.5, 1.5], bias: [0.3, -0.2, 0.1], mean: [0.1, 0.7, -0.4] };
  const bn = normTensors('bn', { ...values, variance: [0.4, 1.3, 2.2] });
  const after = [
    tensorOf('conv.weight', wave(54), { dtype: 'F16', shape: [3, 2, 3, 3] }),
    tensorOf('conv.bias', [0.5, 0.25, -1], { dtype: 'F16' }),
  ];
  const report = await auditCheckpoints(
    checkpointOf([...normTensors('stem.bn'), ...convOf('conv'), ...bn]),
    checkpointOf([...normTensors('stem.bn'), ...after]),
  );
  expect(report.layers.map(({ name }) => name)).toEqual(['stem.bn']);
  expect(report.summary.notAudited).toBe(1);
});

describe('models with other normalisation', () => {
  const norm = [tensorOf('norm.weight', [1, 1, 1]), tensorOf('norm.bias', [0, 0, 0])];

  test('are known by its scale', () => {
    expect(hasOtherNorms(new Map(norm.map((tensor) => [tensor.name, tensor])))).toBe(true);
    expect(hasOtherNorms(new Map([['ln_1.weight', tensorOf('ln_1.weight', [1, 1])]]))).toBe(true);
    // The slopes of a PReLU.
    expect(hasOtherNorms(new Map([['act.weight', tensorOf('act.weight', [1, 1])]]))).toBe(false);
  });

  test('have nothing folded into their linear layers', async () => {
    const model = fused(convOf('a'), norm);
    expect([mayBeFused(model), mayBeFused(fused(convOf('a')))]).toEqual([false, true]);
    expect(await failureOf(() => auditCheckpoints(model, model))).toMatchObject({ code: 'no-norm-layers' });
  });
});

describe('convolutions beside live norm layers', () => {
  const live = (feed: string) => [
    tensorOf(`${feed}.conv.weight`, wave(12), { shape: [2, 6] }),
    ...normTensors(`${feed}.bn`),
  ];

  test('are drifted where each channel was rescaled, as in models that were fused in part', async () => {
    const after = [live('x'), convOf('a', { factors: own, bias: moved })];
    expect(await statusesOf([live('x'), convOf('a')], after)).toEqual({ 'x.bn': 'locked', a: 'drifted' });
  });

  test.each<readonly [string, Layer]>([
    ['whose bias alone was trained', { bias: moved }],
    ['that were trained', { seed: 7, bias: moved }],
    ['that decayed as a whole', { factors: [0.5, 0.5, 0.5], bias: moved }],
    ['that stayed', {}],
  ])('%s are learned tensors like any others', async (_, after) => {
    const { layers, summary } = await auditCheckpoints(
      fused(live('x'), convOf('a')),
      fused(live('x'), convOf('a', after)),
    );
    expect(layers.map(({ name }) => name)).toEqual(['x.bn']);
    expect(summary.learned.compared).toBe(5);
  });
});
