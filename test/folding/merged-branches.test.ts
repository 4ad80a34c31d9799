import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../src/audit.js';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import type { DType } from '../../src/checkpoint/dtype.js';
import { readChannelVector } from '../../src/compare/statistics.js';
import { compareCheckpoints } from '../../src/compare-checkpoints.js';
import { listNextCommands } from '../../src/report/next-commands.js';
import { planLayer } from '../../src/restore/plan-layers.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';

const CHANNELS = 12;
const EPSILON = 1e-5;

interface Branch {
  /** Of its norm layer. */
  readonly norm: string;
  /** Of its convolution; absent where the norm layer takes the block's input. */
  readonly conv?: string;
  readonly kernel?: number;
}

interface Statistics {
  readonly mean: readonly number[];
  readonly variance: readonly number[];
  readonly gamma: readonly number[];
  readonly beta: readonly number[];
}

interface Block {
  readonly path: string;
  readonly merged: string;
  readonly branches: readonly Branch[];
  /** Inputs of a group. */
  readonly inputs?: number;
  /** Whether it adds its input as it is, as RepViT does. */
  readonly hasSkip?: boolean;
}

const wave = (count: number, seed: number) =>
  Array.from({ length: count }, (_, i) => Math.fround(Math.sin(1.7 * (i + 1) + 31 * seed + (i * i) / 7)));

/** Of a branch's norm layer, by its number; values are float32's, as a file has them. */
function statisticsOf(seed: number): Statistics {
  return {
    mean: wave(CHANNELS, seed + 1),
    variance: wave(CHANNELS, seed + 2).map((value) => Math.fround(1.2 + value)),
    gamma: wave(CHANNELS, seed + 3).map((value) => Math.fround(1.3 + value)),
    beta: wave(CHANNELS, seed + 4),
  };
}

/** What training-mode batches make of it. */
function drift(statistics: Statistics): Statistics {
  return {
    ...statistics,
    mean: statistics.mean.map((value, i) => Math.fround(value + 0.3 * Math.cos(i))),
    variance: statistics.variance.map((value, i) => Math.fround(value * (1.5 + 0.4 * Math.sin(i + 1)))),
  };
}

type Change = (statistics: Statistics, branch: number) => Statistics;

const kept: Change = (statistics) => statistics;
const drifted: Change = (statistics) => drift(statistics);

interface Made {
  readonly training: readonly Tensor[];
  readonly deploy: readonly Tensor[];
}

interface MakeOptions {
  readonly change?: Change;
  /** Of the merged convolution. */
  readonly dtype?: DType;
  readonly epsilon?: number;
  /** Added to the first weight of the first convolution: training. */
  readonly step?: number;
  /** Replaces the weights of the second branch's convolution. */
  readonly second?: (weights: number[], inputs: number) => void;
}

/** A block in both forms, merged in float64. */
function makeBlock(
  { path, merged, branches, inputs = CHANNELS, hasSkip = false }: Block,
  { change = kept, dtype = 'F32', epsilon = EPSILON, step = 0, second }: MakeOptions = {},
): Made {
  const size = Math.max(...branches.map(({ kernel = 3 }) => kernel));
  const area = size * size;
  const middle = (area - 1) / 2;
  const weight = new Array<number>(CHANNELS * inputs * area).fill(0);
  const bias = new Array<number>(CHANNELS).fill(0);
  const training: Tensor[] = [];
  const add = (channel: number, input: number, at: number, value: number) => {
    const index = (channel * inputs + input) * area + at;
    weight[index] = (weight[index] ?? 0) + value;
  };
  branches.forEach(({ norm, conv, kernel = 3 }, number) => {
    const { mean, variance, gamma, beta } = change(statisticsOf(10 * number), number);
    training.push(
      ...normTensors(`${path}.${norm}`, { mean, variance, weight: gamma, bias: beta, count: null }),
    );
    const own = kernel * kernel;
    const values = wave(CHANNELS * inputs * own, 100 + number);
    if (number === 0) values[0] = Math.fround((values[0] ?? 0) + step);
    if (number === 1) second?.(values, inputs);
    if (conv !== undefined)
      training.push(
        tensorOf(`${path}.${conv}.weight`, values, { shape: [CHANNELS, inputs, kernel, kernel] }),
      );
    const margin = (size - kernel) / 2;
    for (let channel = 0; channel < CHANNELS; channel++) {
      const scale = (gamma[channel] ?? 0) / Math.sqrt((variance[channel] ?? 0) + epsilon);
      bias[channel] = (bias[channel] ?? 0) + (beta[channel] ?? 0) - scale * (mean[channel] ?? 0);
      if (conv === undefined) add(channel, channel % inputs, middle, scale);
      else
        for (let i = 0; i < inputs * own; i++) {
          const [input, at] = [Math.floor(i / own), i % own];
          const place = (Math.floor(at / kernel) + margin) * size + (at % kernel) + margin;
          add(channel, input, place, scale * (values[channel * inputs * own + i] ?? 0));
        }
    }
  });
  if (hasSkip) for (let channel = 0; channel < CHANNELS; channel++) add(channel, channel % inputs, middle, 1);
  return {
    training,
    deploy: [
      tensorOf(`${merged}.weight`, weight, { dtype, shape: [CHANNELS, inputs, size, size] }),
      tensorOf(`${merged}.bias`, bias, { dtype }),
    ],
  };
}

const dense = { conv: 'rbr_dense.conv', norm: 'rbr_dense.bn' };
const pointwise = { conv: 'rbr_1x1.conv', norm: 'rbr_1x1.bn', kernel: 1 };
const identity = { norm: 'rbr_identity' };
const REPVGG: Block = {
  path: 'stage1.0',
  merged: 'stage1.0.rbr_reparam',
  branches: [dense, pointwise, identity],
};

const head = tensorOf('linear.weight', [1, 2, 3], { shape: [1, 3] });

/** The audit of a block's training form against the deploy form of what became of it. */
async function auditBlock(block: Block, options: MakeOptions = {}, made: MakeOptions = {}) {
  const before = checkpointOf([head, ...makeBlock(block, made).training]);
  return auditCheckpoints(before, checkpointOf([head, ...makeBlock(block, { ...made, ...options }).deploy]), {
    channels: true,
  });
}

const statusesIn = ({ layers }: Awaited<ReturnType<typeof auditCheckpoints>>) =>
  Object.fromEntries(layers.map(({ name, status }) => [name.split('.').slice(2).join('.'), status]));

const all = (block: Block, status: string) =>
  Object.fromEntries(block.branches.map(({ norm }) => [norm, status]));

describe('a block of branches before, their sum after', () => {
  test('that stood still is locked', async () => {
    const report = await auditBlock(REPVGG);
    expect(statusesIn(report)).toEqual(all(REPVGG, 'locked'));
    expect(report.verdict).toBe('clean');
    expect(report.summary).toMatchObject({ notAudited: 0, learned: { equal: 3, changed: 0 } });
  });

  test('tells how far each spread moved, and of the means what they did together', async () => {
    const report = await auditBlock(REPVGG, { change: drifted });
    expect(statusesIn(report)).toEqual(all(REPVGG, 'drifted'));
    const shifts = Array.from({ length: CHANNELS }, (_, channel) => {
      let [moved, squares] = [0, 0];
      for (let branch = 0; branch < 3; branch++) {
        const [one, other] = [statisticsOf(10 * branch), drift(statisticsOf(10 * branch))];
        const gamma = one.gamma[channel] ?? 0;
        const scale = gamma / Math.sqrt((other.variance[channel] ?? 0) + EPSILON);
        moved += scale * ((other.mean[channel] ?? 0) - (one.mean[channel] ?? 0));
        squares += gamma ** 2;
      }
      return Math.abs(moved) / Math.sqrt(squares);
    });
    for (const [branch, layer] of report.layers.entries()) {
      const [one, other] = [statisticsOf(10 * branch), drift(statisticsOf(10 * branch))];
      one.variance.forEach((variance, channel) => {
        const ratio = Math.sqrt(((other.variance[channel] ?? 0) + EPSILON) / (variance + EPSILON));
        expect(layer.perChannel?.stdRatio[channel]).toBeCloseTo(ratio, 5);
      });
      expect(layer).toMatchObject({ meanShift: null, divergence: null, outputShift: null, via: 'folded' });
      expect(layer.block).toMatchObject({ name: 'stage1.0.rbr_reparam', branches: 3 });
      expect(layer.block?.meanShift?.max).toBeCloseTo(Math.max(...shifts), 5);
    }
    expect(report.findings).toHaveLength(3);
    for (const { kind, level, message } of report.findings) {
      expect([kind, level]).toEqual(['frozen-stats-drift', 'error']);
      expect(message).toContain('solved from "stage1.0.rbr_reparam", which the 3 branches of its block');
    }
    expect(listNextCommands(report, [])).toEqual([]);
  });

  test('of which one branch alone moved leaves open whether means of the others did', async () => {
    const report = await auditBlock(REPVGG, { change: (one, branch) => (branch === 1 ? drift(one) : one) });
    expect(statusesIn(report)).toEqual({
      'rbr_dense.bn': 'ambiguous',
      'rbr_1x1.bn': 'drifted',
      rbr_identity: 'ambiguous',
    });
    expect(report.findings.map(({ message }) => message).join()).toContain('their sum does not tell which');
  });

  test('whose means alone moved is ambiguous', async () => {
    const change: Change = (one) => ({ ...one, mean: drift(one).mean });
    expect(statusesIn(await auditBlock(REPVGG, { change }))).toEqual(all(REPVGG, 'ambiguous'));
  });

  test.each([1e-4, 0.5])('with a single trained weight is trained: by %d', async (step) => {
    const report = await auditBlock(REPVGG, { change: drifted, step });
    expect(statusesIn(report)).toEqual(all(REPVGG, 'trained'));
    expect(report.summary.learned).toMatchObject({ changed: 2 });
  });

  test('that was averaged with itself is told up to that, and trained for --exact', async () => {
    // Relative changes of one size, up or down, as a moving average leaves them.
    const average = (tensors: readonly Tensor[]) =>
      Promise.all(
        tensors.map(async (tensor) => {
          const { values } = await readChannelVector(tensor);
          const moved = Array.from(values, (value, i) => value * (1 + 4e-6 * Math.sin(5 * i + i * i)));
          return tensorOf(tensor.name, moved, { shape: tensor.shape });
        }),
      );
    const before = checkpointOf([head, ...makeBlock(REPVGG).training]);
    for (const [change, status] of [
      [kept, 'locked'],
      [drifted, 'drifted'],
    ] as const) {
      const after = checkpointOf([head, ...(await average(makeBlock(REPVGG, { change }).deploy))]);
      const report = await auditCheckpoints(before, after);
      expect(statusesIn(report)).toEqual(all(REPVGG, status));
      expect(report.layers[0]).toMatchObject({ equality: 'rounded' });
      const exact = await auditCheckpoints(before, after, { exact: true });
      expect(statusesIn(exact)).toEqual(all(REPVGG, 'trained'));
    }
  });

  test('in float16 is known to its rounding', async () => {
    expect(statusesIn(await auditBlock(REPVGG, { dtype: 'F16' }))).toEqual(all(REPVGG, 'locked'));
    const report = await auditBlock(REPVGG, { dtype: 'F16', change: drifted });
    expect(statusesIn(report)).toEqual(all(REPVGG, 'drifted'));
    const float32 = await auditBlock(REPVGG, { change: drifted });
    for (const [index, { logStdRatio }] of report.layers.entries())
      expect(logStdRatio?.rms).toBeCloseTo(float32.layers[index]?.logStdRatio?.rms ?? Number.NaN, 1);
  });

  test('in float16 that is stored as float32 is known as well', async () => {
    for (const [change, status] of [
      [kept, 'locked'],
      [drifted, 'drifted'],
    ] as const) {
      const narrow = makeBlock(REPVGG, { change, dtype: 'F16' }).deploy;
      const wide = await Promise.all(
        narrow.map(async (tensor) =>
          tensorOf(tensor.name, [...(await readChannelVector(tensor)).values], { shape: tensor.shape }),
        ),
      );
      const before = checkpointOf([head, ...makeBlock(REPVGG).training]);
      expect(statusesIn(await auditCheckpoints(before, checkpointOf([head, ...wide])))).toEqual(
        all(REPVGG, status),
      );
    }
  });

  test('is told by another usual epsilon', async () => {
    const report = await auditBlock(REPVGG, {}, { epsilon: 1e-3 });
    expect(statusesIn(report)).toEqual(all(REPVGG, 'locked'));
    expect(report.layers[0]).toMatchObject({ epsilon: 1e-3, epsilonFrom: 'weights' });
  });

  test('the other way round: merged before, branches after', async () => {
    const [one, other] = [makeBlock(REPVGG), makeBlock(REPVGG, { change: drifted })];
    const report = await auditCheckpoints(
      checkpointOf([head, ...one.deploy]),
      checkpointOf([head, ...other.training]),
      { channels: true },
    );
    expect(statusesIn(report)).toEqual(all(REPVGG, 'drifted'));
    const forth = await auditBlock(REPVGG, { change: drifted });
    for (const [index, { perChannel }] of report.layers.entries())
      for (const [channel, ratio] of (perChannel?.stdRatio ?? []).entries())
        expect(ratio).toBeCloseTo(forth.layers[index]?.perChannel?.stdRatio[channel] ?? Number.NaN, 5);
  });
});

describe('branches whose weights are in proportion', () => {
  const DEPTHWISE: Block = { ...REPVGG, inputs: 1 };

  test('are locked where their sum stood still', async () => {
    expect(statusesIn(await auditBlock(DEPTHWISE))).toEqual(all(DEPTHWISE, 'locked'));
  });

  test('are unresolved where it moved: their sum does not tell which did', async () => {
    const report = await auditBlock(DEPTHWISE, { change: drifted });
    expect(statusesIn(report)).toEqual({
      'rbr_dense.bn': 'drifted',
      'rbr_1x1.bn': 'unresolved',
      rbr_identity: 'unresolved',
    });
    expect(report.findings.map(({ message }) => message).join()).toContain(
      'in proportion to those of another',
    );
  });

  test('in one channel hide that one alone', async () => {
    // The 1x1 kernel of channel 0 takes its own input alone.
    const second = (weights: number[], inputs: number) => weights.fill(0, 1, inputs);
    const report = await auditBlock(REPVGG, { change: drifted }, { second });
    expect(statusesIn(report)).toEqual(all(REPVGG, 'drifted'));
    expect(report.layers.map(({ channelsHidden = 0 }) => channelsHidden)).toEqual([0, 1, 1]);
    expect(report.layers[1]?.perChannel?.stdRatio[0]).toBeNaN();
  });
});

describe('blocks by other names', () => {
  const pair = (conv: string, norm: string, kernel = 3) => ({ conv, norm, kernel });
  const blocks: readonly (readonly [string, Block])[] = [
    [
      'timm',
      {
        path: 'stages.0',
        merged: 'stages.0.reparam_conv',
        branches: [
          pair('conv_kxk.0.conv', 'conv_kxk.0.bn'),
          pair('conv_kxk.1.conv', 'conv_kxk.1.bn'),
          pair('conv_scale.conv', 'conv_scale.bn', 1),
          { norm: 'identity' },
        ],
      },
    ],
    [
      'Ultralytics',
      {
        path: 'model.4',
        merged: 'model.4.conv',
        branches: [pair('conv1.conv', 'conv1.bn'), pair('conv2.conv', 'conv2.bn', 1), { norm: 'bn' }],
      },
    ],
    [
      'YOLOv10, whose sum has the name of a branch',
      {
        path: 'model.4',
        merged: 'model.4.conv',
        branches: [pair('conv.conv', 'conv.bn', 7), pair('conv1.conv', 'conv1.bn')],
      },
    ],
    [
      'YOLOv7',
      {
        path: 'model.4',
        merged: 'model.4.rbr_reparam',
        branches: [pair('rbr_dense.0', 'rbr_dense.1'), pair('rbr_1x1.0', 'rbr_1x1.1', 1)],
      },
    ],
    [
      'ACNet, side by side',
      {
        path: 'block.0',
        merged: 'block.0.fused_conv',
        branches: [pair('square_conv', 'square_bn'), pair('small_conv', 'small_bn', 1)],
      },
    ],
    [
      'RepViT, in the block’s own place and with a skip',
      {
        path: 'blocks.0',
        merged: 'blocks.0',
        branches: [pair('conv.c', 'conv.bn'), pair('conv1.c', 'conv1.bn', 1)],
        inputs: 2,
        hasSkip: true,
      },
    ],
  ];

  test.each(blocks)('%s', async (_, block) => {
    expect(statusesIn(await auditBlock(block))).toEqual(all(block, 'locked'));
    expect(statusesIn(await auditBlock(block, { change: drifted }))).toEqual(all(block, 'drifted'));
    expect(statusesIn(await auditBlock(block, { step: 0.1 }))).toEqual(all(block, 'trained'));
  });

  test('under a prefix of one side', async () => {
    const before = checkpointOf(makeBlock({ ...REPVGG, path: `backbone.${REPVGG.path}` }).training);
    const after = checkpointOf(makeBlock(REPVGG, { change: drifted }).deploy);
    const { layers } = await auditCheckpoints(before, after);
    expect(layers.map(({ status }) => status)).toEqual(['drifted', 'drifted', 'drifted']);
  });

  test('a block of one branch is an ordinary folded convolution', async () => {
    const block = { ...REPVGG, branches: [dense] };
    const { layers } = await auditBlock(block, { change: drifted });
    expect(layers).toMatchObject([{ status: 'drifted', via: 'folded' }]);
    expect(layers[0]?.meanShift?.max).toBeGreaterThan(0);
  });
});

describe('what is no sum of branches is left alone', () => {
  const change = drifted;
  const [before, after] = [makeBlock(REPVGG).training, makeBlock(REPVGG, { change }).deploy];

  test.each<readonly [string, readonly Tensor[], readonly Tensor[]]>([
    [
      'a convolution without a norm layer in the block',
      [...before, tensorOf('stage1.0.rbr_1x1_raw.weight', wave(144, 5), { shape: [12, 12, 1, 1] })],
      after,
    ],
    [
      'two norm layers in a branch',
      [...before, ...normTensors('stage1.0.rbr_dense.bn2', { mean: wave(CHANNELS, 1) })],
      after,
    ],
    [
      'two convolutions after',
      before,
      [...after, ...after.map((one) => ({ ...one, name: one.name.replace('reparam', 'other') }))],
    ],
    ['a norm layer alone', before.filter(({ name }) => name.includes('identity')), after],
  ])('%s', async (_, one, other) => {
    const bn = normTensors('stem.bn');
    const report = await auditCheckpoints(checkpointOf([...bn, ...one]), checkpointOf([...bn, ...other]));
    expect(report.layers.map(({ name, status }) => [name, status])).toEqual([['stem.bn', 'locked']]);
    expect(report.warnings.join()).toContain('deploy form');
  });
});

describe('values that are no numbers', () => {
  test('in the sum of after are invalid', async () => {
    const change: Change = (one, branch) =>
      branch === 0 ? { ...one, variance: one.variance.map(() => Number.NaN) } : one;
    expect(statusesIn(await auditBlock(REPVGG, { change }))).toEqual(all(REPVGG, 'invalid'));
  });

  test('in a norm layer of before leave its block unresolved', async () => {
    const change: Change = (one) => ({ ...one, variance: one.variance.map(() => Number.NaN) });
    const report = await auditCheckpoints(
      checkpointOf(makeBlock(REPVGG, { change }).training),
      checkpointOf(makeBlock(REPVGG).deploy),
    );
    expect(statusesIn(report)).toEqual(all(REPVGG, 'unresolved'));
  });
});

describe('restore refuses', () => {
  const [one, other] = [makeBlock(REPVGG), makeBlock(REPVGG, { change: drifted })];

  test.each([
    ['after', one.training, other.deploy, 'put the statistics back into its training form'],
    ['before', one.deploy, other.training, 'name the checkpoint of its training form'],
  ] as const)('where %s is merged, and says what to do', async (_, left, right, words) => {
    const [before, after] = [checkpointOf(left), checkpointOf(right)];
    const { layers } = await compareCheckpoints(before, after);
    const [layer] = layers;
    if (layer === undefined) throw new Error('nothing was compared');
    const failure = await failureOf(() => planLayer(layer, { before, after, keepBatches: false }));
    expect(failure).toMatchObject({ code: 'unsupported' });
    expect(failure.message).toContain(words);
    expect(failure.message).toContain('"stage1.0.rbr_dense.bn"');
  });
});
