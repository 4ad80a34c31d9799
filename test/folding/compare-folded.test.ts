import { describe, expect, test } from 'vitest';
import { type AuditOptions, auditCheckpoints } from '../../src/audit.js';
import type { Checkpoint, DataFactor, LinearNode, Tensor } from '../../src/checkpoint/checkpoint.js';
import { type DType, roundToFloat } from '../../src/checkpoint/dtype.js';
import { compareCheckpoints } from '../../src/compare-checkpoints.js';
import { createBaseline } from '../../src/formats/baseline/make-baseline.js';
import { openSource } from '../../src/formats/open.js';
import { memorySource } from '../../src/io/byte-source.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';
import { graphOf, linearNodeOf } from '../build/layers.js';
import { quantise } from '../build/quantised.js';

const EPSILON = 1e-5;

interface Norm {
  readonly gamma: readonly number[];
  readonly beta: readonly number[];
  readonly mean: readonly number[];
  readonly variance: readonly number[];
}

/** A weight and bias with a norm layer folded in; `channelOf` tells the output channel of a weight's element. */
function fold(
  weight: readonly number[],
  channelOf: (index: number) => number,
  { gamma, beta, mean, variance }: Norm,
  epsilon = EPSILON,
): { readonly weight: readonly number[]; readonly bias: readonly number[] } {
  const at = (values: readonly number[], channel: number) => values[channel] ?? Number.NaN;
  const scale = gamma.map((factor, channel) => factor / Math.sqrt(at(variance, channel) + epsilon));
  return {
    weight: weight.map((value, index) => value * at(scale, channelOf(index))),
    bias: beta.map((shift, channel) => shift - at(mean, channel) * at(scale, channel)),
  };
}

const weights = (count: number) => Array.from({ length: count }, (_, i) => Math.sin(i + 1));

function exported(...linears: readonly LinearNode[]): Checkpoint {
  return checkpointOf([], { path: 'after.onnx', format: 'ONNX', graph: graphOf([], linears) });
}

const norm: Norm = {
  gamma: [1.5, 0.5, 2],
  beta: [0.25, -0.5, 1],
  mean: [0.1, 0.2, -0.3],
  variance: [2, 3, 0.5],
};
const drifted: Norm = { ...norm, mean: [0.2, 0.2, -0.3], variance: [2, 4, 0.5] };

const namedNorm = (path: string, { gamma, beta, mean, variance }: Norm = norm) =>
  normTensors(path, { mean, variance, weight: gamma, bias: beta });

describe('a transposed convolution that only the graph knows', () => {
  // By names and shapes, `up2` feeds `bn1`: its first dimension counts three channels too.
  const [weight, shape] = [weights(2 * 3 * 4), [2, 3, 2, 2]];
  const channelOf = (index: number) => Math.floor(index / 4) % 3;
  const exportOf = (state: Norm) => {
    const folded = fold(weight, channelOf, state);
    const overrides = {
      op: 'ConvTranspose' as const,
      foldedNormPath: 'net.bn1',
      looksFolded: true,
      outputAxis: 1,
      outputChannels: 3,
    };
    return exported(linearNodeOf('net.up1', { ...folded, shape }, overrides));
  };
  const named = (prefix: string) =>
    checkpointOf(
      [
        tensorOf(`${prefix}net.up2.weight`, weights(3 * 5 * 4), { shape: [3, 5, 2, 2] }),
        ...namedNorm(`${prefix}net.bn1`),
        tensorOf(`${prefix}net.up1.weight`, weight, { shape }),
      ],
      { path: 'before.safetensors' },
    );

  test.each(['', 'module.'])('is found by its own name under the prefix %j', async (prefix) => {
    const { layers, regions } = await auditCheckpoints(named(prefix), exportOf(norm));
    expect(layers).toMatchObject([
      {
        name: 'net.bn1',
        status: 'locked',
        via: 'folded',
        before: { name: `${prefix}net.bn1` },
      },
    ]);
    expect(regions).toMatchObject([{ status: 'frozen' }]);
  });

  test('and its drift is recovered, also where the export stands before', async () => {
    expect((await auditCheckpoints(named(''), exportOf(drifted))).layers).toMatchObject([
      { status: 'drifted', channelsMoved: 2 },
    ]);
    expect((await auditCheckpoints(exportOf(drifted), named('module.'))).layers).toMatchObject([
      { status: 'drifted', channelsMoved: 2 },
    ]);
  });
});

/** A convolution of 3 × 2 weights that is called several times, each time with what was folded in for that call. */
const callsOf = (...states: readonly Norm[]) =>
  exported(
    ...states.map((state, call) => {
      const folded = fold(weights(6), (index) => Math.floor(index / 2), state);
      const path = call === 0 ? 'conv' : `conv_${call}`;
      const shape = [3, 2, 1, 1];
      return linearNodeOf(path, { ...folded, shape }, { looksFolded: true, outputChannels: 3 });
    }),
  );

describe('a layer that is called several times, which exporters fold once for each call', () => {
  const shape = [3, 2, 1, 1];
  const named = checkpointOf(
    [tensorOf('conv.weight', weights(6), { shape }), tensorOf('conv.bias', [0, 0, 0]), ...namedNorm('bn')],
    { path: 'before.pt' },
  );
  const audit = async (...states: readonly Norm[]) => {
    const { layers, findings } = await auditCheckpoints(named, callsOf(...states));
    return [layers.map(({ name, status }) => `${name} ${status}`), findings.map(({ kind }) => kind)];
  };

  test('is audited at each call', async () => {
    expect(await audit(norm, norm, norm)).toEqual([['bn locked', 'bn locked', 'bn locked'], []]);
    expect((await audit(drifted, drifted))[0]).toEqual(['bn drifted', 'bn drifted']);
  });

  test('and what holds something else is another layer', async () => {
    expect(await audit(norm, drifted)).toEqual([['bn locked'], ['unpaired-layer']]);
  });
});

describe('a layer scale behind a convolution, which an optimiser has folded in', () => {
  const [shape, scale] = [
    [3, 2, 1, 1],
    [0.5, -0.01, 3],
  ];
  const layerScale = tensorOf('block.layer_scale', scale, { shape: [3, 1, 1] });
  const times = (folded: ReturnType<typeof fold>, factors: readonly number[]) => ({
    weight: folded.weight.map((value, index) => value * (factors[Math.floor(index / 2)] ?? Number.NaN)),
    bias: folded.bias.map((value, channel) => value * (factors[channel] ?? Number.NaN)),
  });
  const channelOf = (index: number) => Math.floor(index / 2);
  const graphOfScaled = (state: Norm, factors = scale, from = weights(6)) =>
    exported(
      linearNodeOf(
        'block.conv',
        { ...times(fold(from, channelOf, state), factors), shape },
        { looksFolded: true, outputChannels: 3 },
      ),
    );
  const named = checkpointOf(
    [tensorOf('block.conv.weight', weights(6), { shape }), ...namedNorm('block.bn'), layerScale],
    { path: 'before.pt' },
  );

  test('is divided out where before has the norm layer', async () => {
    expect((await auditCheckpoints(named, graphOfScaled(norm))).layers).toMatchObject([
      { name: 'block.bn', status: 'locked' },
    ]);
    const { layers } = await auditCheckpoints(named, graphOfScaled(drifted));
    expect(layers).toMatchObject([{ name: 'block.bn', status: 'drifted', channelsMoved: 2 }]);
    expect(layers[0]?.logStdRatio?.max).toBeCloseTo(Math.log(4 / 3) / 2, 4);
    const trained = weights(6).map((value, i) => value + 0.1 * Math.cos(7 * i));
    expect((await auditCheckpoints(named, graphOfScaled(drifted, scale, trained))).layers).toMatchObject([
      { status: 'trained' },
    ]);
  });

  test('and where both have folded the norm layer in', async () => {
    const before = checkpointOf([layerScale], {
      path: 'before.onnx',
      format: 'ONNX',
      graph: graphOf(
        [],
        [
          linearNodeOf(
            'block.conv',
            { ...fold(weights(6), channelOf, norm), shape },
            { looksFolded: true, outputChannels: 3 },
          ),
        ],
      ),
    });
    expect((await auditCheckpoints(before, graphOfScaled(norm))).layers).toMatchObject([
      { status: 'locked' },
    ]);
    const { layers } = await auditCheckpoints(before, graphOfScaled(drifted));
    expect(layers).toMatchObject([{ status: 'drifted', channelsMoved: 2 }]);
    expect(layers[0]?.logStdRatio?.max).toBeCloseTo(Math.log(4 / 3) / 2, 4);
  });

  test('is no drift of a convolution that never had a norm layer', async () => {
    const [weight, bias] = [weights(6), [0.1, 0.2, 0.3]];
    const linear = (path: string) => [
      tensorOf(`${path}.weight`, weight, { shape }),
      tensorOf(`${path}.bias`, bias),
    ];
    const before = checkpointOf([...linear('block.fc'), ...namedNorm('bn'), layerScale], {
      path: 'before.pt',
    });
    const fused = times({ weight, bias }, scale);
    const after = checkpointOf(
      [
        tensorOf('block.fc.weight', fused.weight, { shape }),
        tensorOf('block.fc.bias', fused.bias),
        ...namedNorm('bn'),
      ],
      { path: 'after.pt' },
    );
    const { layers, verdict } = await auditCheckpoints(before, after);
    expect([verdict, layers.map(({ name }) => name)]).toEqual(['clean', ['bn']]);
  });

  test('a half that was moved into the weights from in front, as of a GELU, is no drift either', async () => {
    const { weight, bias } = fold(weights(6), channelOf, norm);
    const halved = exported(
      linearNodeOf(
        'block.conv',
        { weight: weight.map((value) => value / 2), bias, shape },
        { looksFolded: true, outputChannels: 3 },
      ),
    );
    expect((await auditCheckpoints(named, halved)).layers).toMatchObject([{ status: 'locked' }]);
    expect((await auditCheckpoints(graphOfScaled(norm, [1, 1, 1]), halved)).layers).toMatchObject([
      { status: 'locked' },
    ]);
  });
});

test('a convolution that several norm layers share goes with each, called once for each', async () => {
  const shape = [3, 2, 1, 1];
  const other: Norm = { gamma: [0.7, 2, 1], beta: [1, 0, -1], mean: [0.3, -0.1, 0.2], variance: [1, 0.4, 3] };
  const named = checkpointOf(
    [tensorOf('conv.weight', weights(6), { shape }), ...namedNorm('bns.0'), ...namedNorm('bns.1', other)],
    { path: 'before.pt' },
  );
  const audit = async (...states: readonly Norm[]) =>
    (await auditCheckpoints(named, callsOf(...states))).layers
      .map(({ name, status, channelsMoved }) => `${name} ${status} ${channelsMoved}`)
      .toSorted();
  // The second level is called first.
  expect(await audit(other, norm)).toEqual(['bns.0 locked 0', 'bns.1 locked 0']);
  expect(await audit(other, drifted)).toEqual(['bns.0 drifted 2', 'bns.1 locked 0']);
});

test('two norm layers in a row that were folded into one convolution are judged together', async () => {
  const shape = [3, 2, 1, 1];
  const second: Norm = {
    gamma: [0.7, 2, 1],
    beta: [1, 0, -1],
    mean: [0.3, -0.1, 0.2],
    variance: [1, 0.4, 3],
  };
  const foldBoth = (one: Norm, other: Norm) => {
    const first = fold(weights(6), (index) => Math.floor(index / 2), one);
    const both = fold(first.weight, (index) => Math.floor(index / 2), other);
    const scales = other.gamma.map((gamma, i) => gamma / Math.sqrt((other.variance[i] ?? 0) + EPSILON));
    const bias = both.bias.map((shift, i) => shift + (scales[i] ?? 0) * (first.bias[i] ?? 0));
    return exported(
      linearNodeOf('net.0', { weight: both.weight, bias, shape }, { looksFolded: true, outputChannels: 3 }),
    );
  };
  const named = checkpointOf(
    [tensorOf('net.0.weight', weights(6), { shape }), ...namedNorm('net.1'), ...namedNorm('net.2', second)],
    { path: 'before.pt' },
  );
  const clean = await auditCheckpoints(named, foldBoth(norm, second));
  expect([clean.verdict, clean.layers.map(({ name, status }) => `${name} ${status}`)]).toEqual([
    'clean',
    ['net.1 locked'],
  ]);
  expect(
    (await auditCheckpoints(named, foldBoth(norm, { ...second, variance: [1, 0.5, 3] }))).layers,
  ).toMatchObject([{ status: 'drifted' }]);
});

describe('a constant that an optimiser has moved into the weights from the data in front', () => {
  const shape = [3, 2, 1, 1];
  const channelOf = (index: number) => Math.floor(index / 2);
  const exportOf = (state: Norm, factor: number, dataFactor?: DataFactor) => {
    const { weight, bias } = fold(weights(6), channelOf, state);
    const scaled = { weight: weight.map((value) => value * factor), bias, shape };
    return exported(linearNodeOf('block.conv', scaled, { looksFolded: true, outputChannels: 3, dataFactor }));
  };
  const named = checkpointOf(
    [tensorOf('block.conv.weight', weights(6), { shape }), ...namedNorm('block.bn')],
    {
      path: 'before.pt',
    },
  );
  const lacking = { value: 2, isGated: true };
  const ratio = Math.log(4 / 3) / 2;

  test.each<[string, Checkpoint, Checkpoint]>([
    ['of named layers', named, exportOf(drifted, 0.5, lacking)],
    ['of folded ones', exportOf(norm, 1), exportOf(drifted, 0.5, lacking)],
    ['that before has moved', exportOf(norm, 0.5, lacking), exportOf(drifted, 1)],
    ['that both have moved', exportOf(norm, 0.5, lacking), exportOf(drifted, 0.5, lacking)],
    ['that a graph still has', exportOf(norm, 1, { value: 0.1, isGated: false }), exportOf(drifted, 0.1)],
  ])('is no part of the drift %s', async (_name, before, after) => {
    const { layers } = await auditCheckpoints(before, after);
    expect(layers).toMatchObject([{ status: 'drifted', channelsMoved: 2 }]);
    expect(layers[0]?.logStdRatio?.max).toBeCloseTo(ratio, 4);
  });

  test('and is none where the weights are equal, or names alone stand beside it', async () => {
    const own = { value: 0.1, isGated: false };
    for (const before of [named, exportOf(norm, 1)])
      expect((await auditCheckpoints(before, exportOf(norm, 1, own))).layers).toMatchObject([
        { status: 'locked' },
      ]);
    const { layers } = await auditCheckpoints(named, exportOf(drifted, 1, own));
    expect(layers[0]?.logStdRatio?.max).toBeCloseTo(ratio, 4);
  });
});

describe.each([2, 3])(
  'a linear layer of %d inputs that an exporter has transposed as it folded',
  (inputs) => {
    const shape = [3, inputs];
    const weight = weights(3 * inputs);
    const transpose = (values: readonly number[]) =>
      values.map((_, i) => values[(i % 3) * inputs + Math.floor(i / 3)] ?? Number.NaN);
    const named = () =>
      checkpointOf([tensorOf('fc.weight', weight, { shape }), ...namedNorm('bn')], { path: 'a.pt' });
    const foldedOf = (state: Norm, from = weight, path: string | null = 'fc') => {
      const folded = fold(transpose(from), (index) => index % 3, state);
      const axes = { op: 'Gemm', outputAxis: 1, outputChannels: 3, looksFolded: true } as const;
      return exported(linearNodeOf('fc', { ...folded, shape: [inputs, 3] }, { ...axes, path }));
    };

    test.each(['fc', null])('goes with the one in rows, where its path is %j', async (path) => {
      const audit = async (state: Norm) => {
        const [one, other] = [named(), foldedOf(state, weight, path)];
        return [await auditCheckpoints(one, other), await auditCheckpoints(other, one)].flatMap(
          ({ layers }) => layers,
        );
      };
      expect((await audit(norm)).map(({ name, status }) => [name, status])).toEqual([
        ['bn', 'locked'],
        ['bn', 'locked'],
      ]);
      expect(await audit(drifted)).toMatchObject([
        { status: 'drifted', channelsMoved: 2 },
        { status: 'drifted', channelsMoved: 2 },
      ]);
    });

    test('which may be trained', async () => {
      const trained = weight.map((value, i) => value + 0.1 * Math.cos(7 * i));
      expect((await auditCheckpoints(named(), foldedOf(drifted, trained))).layers).toMatchObject([
        { name: 'bn', status: 'trained' },
      ]);
    });
  },
);

describe('norm layers of which names leave open what feeds them', () => {
  // As PointNet defines them: what feeds which of two layers of one width, neither order nor numbers tell.
  const other: Norm = { gamma: [0.5, 1, 3], beta: [1, 0, 0.5], mean: [0, 1, 2], variance: [0.5, 9, 1] };
  const shape = [3, 3];
  const [first, second] = [weights(9), weights(18).slice(9)];
  const channelOf = (index: number) => Math.floor(index / 3);
  const named = (prefix = '') =>
    checkpointOf(
      [
        tensorOf(`${prefix}fc1.weight`, first, { shape }),
        tensorOf(`${prefix}fc2.weight`, second, { shape }),
        ...namedNorm(`${prefix}bn4`),
        ...namedNorm(`${prefix}bn5`, other),
      ],
      { path: 'before.pth', inModuleOrder: true },
    );
  const fused = (one: Norm, two: Norm, weight = first) => {
    const [left, right] = [fold(weight, channelOf, one), fold(second, channelOf, two)];
    return checkpointOf(
      [
        tensorOf('fc1.weight', left.weight, { shape }),
        tensorOf('fc1.bias', left.bias),
        tensorOf('fc2.weight', right.weight, { shape }),
        tensorOf('fc2.bias', right.bias),
      ],
      { path: 'after.pth', inModuleOrder: true },
    );
  };
  const statusesOf = (layers: readonly { name: string; status: string }[]) =>
    Object.fromEntries(layers.map(({ name, status }) => [name, status]));

  test('go with the convolution that they fit', async () => {
    const { layers } = await auditCheckpoints(named(), fused(norm, other));
    expect(statusesOf(layers)).toEqual({ bn4: 'locked', bn5: 'locked' });
  });

  test('go with it whichever name comes first, and under a prefix', async () => {
    const { layers } = await auditCheckpoints(named('net.'), fused(other, norm));
    expect(layers.map(({ status }) => status)).toEqual(['locked', 'locked']);
  });

  test('go with it where one of them moved, also where the fused file stands before', async () => {
    const { layers } = await auditCheckpoints(named(), fused(drifted, other));
    expect(statusesOf(layers)).toEqual({ bn4: 'drifted', bn5: 'locked' });
    const swapped = await auditCheckpoints(fused(drifted, other), named());
    expect(statusesOf(swapped.layers)).toEqual({ bn4: 'drifted', bn5: 'locked' });
  });

  test('go with what is left where their convolution was trained', async () => {
    const { layers } = await auditCheckpoints(named(), fused(norm, other, weights(40).slice(31)));
    expect(statusesOf(layers)).toEqual({ bn4: 'trained', bn5: 'locked' });
  });

  test('do not keep a convolution that was fused from its own, where they are live on both sides', async () => {
    // DenseNet: conv0 has norm0 behind it, and what feeds block.norm1, which comes next, names do not tell.
    const inner = [
      ...namedNorm('block.norm1', other),
      tensorOf('block.conv1.weight', weights(6), { shape: [2, 3] }),
    ];
    const options = { inModuleOrder: true };
    const before = [tensorOf('conv0.weight', first, { shape }), ...namedNorm('norm0'), ...inner];
    const { weight, bias } = fold(first, channelOf, drifted);
    const after = [tensorOf('conv0.weight', weight, { shape }), tensorOf('conv0.bias', bias), ...inner];
    const { layers } = await auditCheckpoints(
      checkpointOf(before, { path: 'before.pth', ...options }),
      checkpointOf(after, { path: 'after.pth', ...options }),
    );
    expect(statusesOf(layers)).toEqual({ norm0: 'drifted', 'block.norm1': 'locked' });
  });
});

describe('channels whose scale γ is zero', () => {
  const weight = weights(3 * 2 * 9);
  const state = (mean: readonly number[]): Norm => ({ ...norm, gamma: [1.5, 0, 0], mean });
  const exportOf = (mean: readonly number[]) => {
    const folded = fold(weight, (index) => Math.floor(index / 18), state(mean));
    const overrides = { foldedNormPath: 'bn', looksFolded: true };
    return exported(linearNodeOf('conv', { ...folded, shape: [3, 2, 3, 3] }, overrides));
  };
  const named = checkpointOf(
    [
      tensorOf('conv.weight', weight, { shape: [3, 2, 3, 3] }),
      ...normTensors('bn', {
        mean: norm.mean,
        variance: norm.variance,
        weight: [1.5, 0, 0],
        bias: norm.beta,
      }),
    ],
    { inModuleOrder: true },
  );
  const note = [
    'bn: folding hides the statistics of channels whose scale is zero or too near it: 2 of 3 were not audited',
  ];

  test('are said not to be audited, whatever the others did', async () => {
    const still = await auditCheckpoints(named, exportOf([0.1, 9, 9]));
    expect([still.layers[0]?.status, still.layers[0]?.channelsHidden, still.warnings]).toEqual([
      'locked',
      2,
      note,
    ]);
    const moved = await auditCheckpoints(named, exportOf([0.2, 9, 9]));
    expect([moved.layers[0]?.status, moved.layers[0]?.channelsMoved, moved.warnings]).toEqual([
      'drifted',
      1,
      note,
    ]);
  });

  test('count in no measure between two folded files', async () => {
    const spread = (variance: number) => {
      const folded = fold(weight, (index) => Math.floor(index / 18), {
        ...state(norm.mean),
        variance: [variance, 3, 0.5],
      });
      return exported(
        linearNodeOf('conv', { ...folded, shape: [3, 2, 3, 3] }, { foldedNormPath: 'bn', looksFolded: true }),
      );
    };
    const { layers } = await compareCheckpoints(spread(2), spread(8));
    const log = Math.log(Math.sqrt((8 + EPSILON) / (2 + EPSILON)));
    const moved = layers[0]?.kind === 'folded' ? layers[0].drift?.logStdRatio : undefined;
    expect(moved?.rms).toBeCloseTo(log, 6);
    expect(moved?.max).toBeCloseTo(log, 6);
  });

  test('are named where a layer has no others, and only its bias can be compared', async () => {
    const exportZeros = (bias: readonly number[]) => {
      const overrides = { foldedNormPath: 'bn', looksFolded: true };
      const zeros = { weight: weight.map(() => 0), bias, shape: [3, 2, 3, 3] };
      return exported(linearNodeOf('conv', zeros, overrides));
    };
    const statusOf = async (bias: readonly number[]) => {
      const { layers, warnings } = await auditCheckpoints(exportZeros([1, 2, 3]), exportZeros(bias));
      return [layers.map(({ name, status }) => [name, status]), warnings];
    };
    const all = [note[0]?.replace('2 of 3', '3 of 3')];
    expect(await statusOf([1, 2, 3])).toEqual([[['bn', 'locked']], all]);
    expect(await statusOf([1, 2, 4])).toEqual([[['bn', 'ambiguous']], all]);
  });

  test('also between two folded files', async () => {
    const { layers, warnings } = await auditCheckpoints(exportOf([0.1, 0, 0]), exportOf([0.1, 9, 9]));
    expect([layers[0]?.status, warnings]).toEqual(['locked', note]);
  });
});

describe('folded layers whose paths two exporters begin differently', () => {
  const shape = [3, 2, 3, 3];
  const weight = weights(54);
  const exportOf = (path: string, state: Norm, from: readonly number[] = weight) => {
    const folded = fold(from, (index) => Math.floor(index / 18), state);
    return exported(linearNodeOf(path, { ...folded, shape }, { looksFolded: true }));
  };

  test('are paired by their values', async () => {
    const { layers } = await auditCheckpoints(exportOf('conv0', norm), exportOf('net.conv0', drifted));
    expect(layers).toMatchObject([{ status: 'drifted', via: 'folded' }]);
  });

  test('are paired by the names of their own kind, in lists beside each other', async () => {
    const named = checkpointOf(
      [tensorOf('model.convs.0.weight', weight, { shape }), ...namedNorm('model.bns.0')],
      { inModuleOrder: true },
    );
    const { layers } = await auditCheckpoints(named, exportOf('convs.0', drifted));
    expect(layers).toMatchObject([{ name: 'model.bns.0', status: 'drifted', via: 'folded' }]);
  });

  test('are said to be unpaired where no value proves it', async () => {
    const other = weight.map((value, index) => value + Math.cos(index));
    const stem = linearNodeOf('stem', { ...fold(weights(54), () => 0, norm), shape }, { looksFolded: true });
    const before = exported(stem, ...(exportOf('conv0', norm, other).graph?.linears ?? []));
    const { findings } = await auditCheckpoints(before, exported(stem));
    expect(findings).toMatchObject([{ kind: 'unpaired-layer', level: 'warning', layer: 'conv0' }]);
  });
});

test('the epsilon that was asked for is every layer’s, also where both sides are folded', async () => {
  const folded = fold(weights(54), (index) => Math.floor(index / 18), norm);
  const side = exported(linearNodeOf('conv', { ...folded, shape: [3, 2, 3, 3] }, { looksFolded: true }));
  const ask = async (epsilon?: number) => (await auditCheckpoints(side, side, { epsilon })).layers;
  expect(await ask(0.5)).toMatchObject([{ via: 'folded', epsilon: 0.5, epsilonFrom: 'option' }]);
  expect(await ask()).toMatchObject([{ epsilon: 1e-5, epsilonFrom: 'default' }]);
});

test('a bias that two exporters rounded in another order did not move', async () => {
  const folded = fold(weights(54), (index) => Math.floor(index / 18), norm);
  const exportOf = (bias: readonly number[]) =>
    exported(
      linearNodeOf('conv', { weight: folded.weight, bias, shape: [3, 2, 3, 3] }, { looksFolded: true }),
    );
  const nudge = (by: number) => folded.bias.map((value, channel) => (channel === 0 ? value + by : value));
  const statusOf = async (by: number) =>
    (await auditCheckpoints(exportOf(folded.bias), exportOf(nudge(by)))).layers[0]?.status;
  expect(await statusOf(1e-7)).toBe('locked');
  expect(await statusOf(1e-5)).toBe('ambiguous');
});

describe('one factor for every channel', () => {
  const weight = weights(54);
  const shape = [3, 2, 3, 3];
  const isUniform = async (state: Norm, held = norm) => {
    const named = checkpointOf([tensorOf('conv.weight', weight, { shape }), ...namedNorm('bn', held)], {
      inModuleOrder: true,
    });
    const folded = fold(weight, (index) => Math.floor(index / 18), state);
    const overrides = { foldedNormPath: 'bn', looksFolded: true };
    const after = exported(linearNodeOf('conv', { ...folded, shape }, overrides));
    return (await compareCheckpoints(named, after)).layers.map((layer) => [
      layer.status,
      layer.kind === 'recovered' && layer.isUniformScale,
    ]);
  };

  test('is told where all spreads grew alike', async () => {
    const grown = norm.variance.map((value) => 4 * (value + EPSILON) - EPSILON);
    expect(await isUniform({ ...norm, variance: grown })).toEqual([['drifted', true]]);
    expect(await isUniform({ ...norm, variance: grown.with(1, 3) })).toEqual([['drifted', false]]);
  });

  test('is not 1, where means moved alone', async () => {
    expect(await isUniform({ ...norm, mean: [1, 2, 3] })).toEqual([['drifted', false]]);
  });

  test('is told as exactly as folding tells a spread', async () => {
    // Twice 8.5e-6 of the factor, which is what rounding to float32 explains.
    const wide = { ...norm, variance: [1e-5, 3, 1e6] };
    const grow = (factors: readonly number[]) => ({
      ...wide,
      variance: wide.variance.map((value, i) => (factors[i] ?? 1) * (value + EPSILON) - EPSILON),
    });
    expect(await isUniform(grow([4, 4, 4]), wide)).toEqual([['drifted', true]]);
    expect(await isUniform(grow([4, 4, 4 * (1 + 1.2e-5)]), wide)).toEqual([['drifted', true]]);
    expect(await isUniform(grow([4, 4, 4 * (1 + 5e-5)]), wide)).toEqual([['drifted', false]]);
    const little = 1 + 1.2e-5;
    expect(await isUniform(grow([little, little, little]), wide)).toEqual([['drifted', true]]);
  });

  test('is never infinite', async () => {
    const held = { ...norm, variance: [0, 3, 0.5] };
    const named = checkpointOf([tensorOf('conv.weight', weight, { shape }), ...namedNorm('bn', held)], {
      inModuleOrder: true,
    });
    // Folded with an epsilon of 1e-5, and asked for without one.
    const folded = fold(weight, (index) => Math.floor(index / 18), { ...norm, variance: [1, 4, 9] });
    const after = exported(
      linearNodeOf('conv', { ...folded, shape }, { foldedNormPath: 'bn', looksFolded: true }),
    );
    const { layers, findings } = await auditCheckpoints(named, after, { epsilon: 0 });
    expect(layers).toMatchObject([{ status: 'drifted' }]);
    expect(findings.map(({ kind }) => kind)).toContain('frozen-stats-drift');
  });

  test('takes two channels that folding does not hide', async () => {
    const grow = (state: Norm) => ({
      ...state,
      variance: norm.variance.map((value) => 4 * (value + EPSILON) - EPSILON),
    });
    const two = { ...norm, gamma: [0, 0.5, 2] };
    expect(await isUniform(grow(two), two)).toEqual([['drifted', true]]);
    const one = { ...norm, gamma: [0, 0.5, 0] };
    expect(await isUniform(grow(one), one)).toEqual([['drifted', false]]);
  });
});

describe('a folded weight that is not finite', () => {
  const weight = weights(3 * 2 * 9);
  const folded = fold(weight, (index) => Math.floor(index / 18), norm);
  const exportOf = (value: number | null, { looksFolded = true, at = 20, dtype = 'F32' as DType } = {}) => {
    const spoilt = folded.weight.map((one, index) => (index === at && value !== null ? value : one));
    const node = linearNodeOf(
      'conv',
      { weight: spoilt, bias: folded.bias, shape: [3, 2, 3, 3] },
      { foldedNormPath: 'bn', looksFolded },
    );
    if (node.weight.kind !== 'constant') throw new Error('a constant weight was asked for');
    const tensor = tensorOf('conv.weight', spoilt, { dtype, shape: [3, 2, 3, 3] });
    const checkpoint = exported({ ...node, weight: { ...node.weight, tensor } });
    return { ...checkpoint, tensors: new Map([[tensor.name, tensor]]) };
  };
  const named = checkpointOf([tensorOf('conv.weight', weight, { shape: [3, 2, 3, 3] }), ...namedNorm('bn')], {
    inModuleOrder: true,
  });
  const trained = exportOf(7, { at: 0 });

  describe.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])('%d', (value) => {
    test.each(['F32', 'F16', 'F64'] as const)(
      'in after is invalid, whatever before holds (%s)',
      async (dtype) => {
        const after = exportOf(value, { dtype });
        for (const before of [after, exportOf(null, { dtype }), named]) {
          const report = await auditCheckpoints(before, after);
          expect(report.layers).toMatchObject([{ status: 'invalid', via: 'folded' }]);
          expect(report.findings).toMatchObject([{ kind: 'invalid-stats', level: 'error' }]);
          expect(report.findings[0]?.message).toContain(
            `the folded weight of channel 1 is ${value}: not finite`,
          );
        }
      },
    );

    test('in before alone leaves open what it was', async () => {
      for (const after of [exportOf(null), named]) {
        const { layers, findings } = await auditCheckpoints(exportOf(value), after);
        expect(layers).toMatchObject([{ status: 'unresolved' }]);
        expect(findings[0]?.message).toContain('in before, the folded weight of channel 1');
      }
    });

    test('says the same against a baseline', async () => {
      const spoilt = exportOf(value);
      const { bytes } = await createBaseline(spoilt);
      const baseline = await openSource(memorySource('b.safetensors', bytes), 'b.safetensors');
      const itself = await auditCheckpoints(spoilt, spoilt);
      const report = await auditCheckpoints(baseline, spoilt);
      expect(report.layers).toMatchObject([{ status: 'invalid' }]);
      expect(report.summary.learned).toEqual(itself.summary.learned);
    });

    test('is the same weight also where nothing says that a norm layer was folded', async () => {
      const plain = exportOf(value, { looksFolded: false });
      const [conv, proj] = [plain, exportOf(null)].map(({ graph }) => graph?.linears[0]);
      if (conv === undefined || proj === undefined) throw new Error('two convolutions were asked for');
      const checkpoint = {
        ...plain,
        graph: graphOf(
          [],
          [
            { ...conv, foldedNormPath: null },
            { ...proj, path: 'proj', weightName: 'proj' },
          ],
        ),
      };
      const { layers, learned } = await compareCheckpoints(checkpoint, checkpoint);
      expect(layers).toMatchObject([{ name: 'bn', status: 'locked' }]);
      expect(learned.compared.map(({ equality }) => equality)).toEqual(['exact', 'exact']);
    });
  });

  test('does not hide that another channel was trained', async () => {
    const after = exportOf(Number.NaN);
    expect((await auditCheckpoints(trained, after)).layers).toMatchObject([{ status: 'trained' }]);
  });

  test('beside statistics of after that are not: these are named', async () => {
    const after = checkpointOf(
      [
        tensorOf('conv.weight', weights(54).toReversed(), { shape: [3, 2, 3, 3] }),
        ...namedNorm('bn', { ...norm, variance: [2, Number.NaN, 1] }),
      ],
      { inModuleOrder: true },
    );
    const { layers, findings } = await auditCheckpoints(exportOf(null), after);
    expect(layers).toMatchObject([{ status: 'invalid' }]);
    expect(findings[0]?.message).toContain('the running variance of channel 1 is NaN');
  });
});

describe('an epsilon that a file of names does not tell', () => {
  interface Layer {
    readonly state: Norm;
    readonly epsilon?: number;
    readonly after?: Norm;
  }
  const weight = weights(3 * 2 * 9);
  const auditOf = (layers: readonly Layer[], options: AuditOptions = {}) => {
    const named = layers.flatMap(({ state }, i) => [
      tensorOf(`net.${2 * i}.weight`, weight.slice(0, state.mean.length * 18), {
        shape: [state.mean.length, 2, 3, 3],
      }),
      ...namedNorm(`net.${2 * i + 1}`, state),
    ]);
    const linears = layers.map(({ state, after = state, epsilon }, i) => {
      const kept = weight.slice(0, state.mean.length * 18);
      const folded = fold(kept, (index) => Math.floor(index / 18), after, epsilon);
      const shape = [state.mean.length, 2, 3, 3];
      return linearNodeOf(
        `net.${2 * i}`,
        { ...folded, shape },
        { foldedNormPath: `net.${2 * i + 1}`, looksFolded: true },
      );
    });
    return auditCheckpoints(
      checkpointOf(named, { path: 'before.safetensors' }),
      exported(...linears),
      options,
    );
  };
  const narrow: Norm = { gamma: [1.5], beta: [0.5], mean: [0.25], variance: [0.75] };

  test.each([1e-3, 1e-6, 1e-4, 1e-2])('is found where one layer has %d', async (epsilon) => {
    const sharp: Norm = { ...norm, variance: [0.02, 0.3, 0.005] };
    const report = await auditOf([{ state: norm }, { state: sharp, epsilon }, { state: norm }]);
    expect(report.verdict).toBe('clean');
    expect(report.layers.map(({ status, epsilonFrom }) => [status, epsilonFrom])).toEqual([
      ['locked', 'default'],
      ['locked', 'weights'],
      ['locked', 'default'],
    ]);
    expect(report.layers[1]).toMatchObject({ epsilon, channelsMoved: 0, outputShift: 0 });
    expect(report.warnings.join()).toContain(`an epsilon of ${epsilon} in place of 0.00001`);
  });

  test('is found where all layers have another, also whatever epsilon was asked for', async () => {
    const layers = [norm, norm, norm].map((state) => ({ state, epsilon: 1e-3 }));
    for (const options of [{}, { epsilon: 0.5 }, { epsilon: 1e-3 }])
      expect((await auditOf(layers, options)).summary.byStatus.locked).toBe(3);
  });

  test('is found where quantisation leaves no layer certain of it', async () => {
    const small: Norm = { ...norm, variance: [0.02, 0.05, 0.03] };
    const shape = [3, 2, 3, 3];
    const folded = fold(weight, (index) => Math.floor(index / 18), small, 1e-3);
    const stored = quantise(folded.weight, { shape, axis: 0 });
    const paths = ['net.0', 'net.2', 'net.4'];
    const linears = paths.map((path, i) =>
      linearNodeOf(
        path,
        { ...folded, shape },
        {
          foldedNormPath: `net.${2 * i + 1}`,
          looksFolded: true,
          weight: {
            kind: 'constant',
            tensor: { ...stored, name: `${path}.weight` },
            source: 'initializer',
            overridable: false,
          },
        },
      ),
    );
    const named = paths.flatMap((path, i) => [
      tensorOf(`${path}.weight`, weight, { shape }),
      ...namedNorm(`net.${2 * i + 1}`, small),
    ]);
    const report = await auditCheckpoints(
      checkpointOf(named, { path: 'before.safetensors' }),
      exported(...linears),
    );
    expect(report.layers.map(({ status, epsilon, epsilonFrom }) => [status, epsilon, epsilonFrom])).toEqual(
      paths.map(() => ['locked', 1e-3, 'weights']),
    );
    expect(report.warnings.join()).toContain('an epsilon of 0.001 in place of 0.00001');
  });

  test('does not explain statistics that moved', async () => {
    const moved = { ...norm, variance: norm.variance.map((variance, i) => variance * (1.2 + 0.2 * i)) };
    const { layers } = await auditOf([{ state: norm }, { state: norm, after: moved }, { state: norm }]);
    expect(layers.map(({ status }) => status)).toEqual(['locked', 'drifted', 'locked']);
  });

  test('does not explain a mean that moved beside it', async () => {
    const moved = { ...norm, mean: [0.1, 0.3, -0.3] };
    const { layers } = await auditOf([{ state: norm }, { state: norm, after: moved, epsilon: 1e-3 }]);
    expect(layers[1]?.status).toBe('drifted');
  });

  test('does not explain variances that all grew alike, unless by a usual epsilon', async () => {
    const even = { ...norm, variance: [0.05, 0.05, 0.05] };
    const grown = { ...norm, variance: [0.06, 0.06, 0.06] };
    const { layers } = await auditOf([{ state: norm }, { state: even, after: grown }, { state: norm }]);
    expect(layers[1]).toMatchObject({ status: 'drifted', epsilonFrom: 'default' });
  });

  test('is none that one channel shows, beside variances too large to show any', async () => {
    const moved = { ...narrow, variance: [0.816] };
    // Rounding puts these off by some thousand, up or down.
    for (const scale of [1, 1.1, 1.2, 1.3, 1.4, 1.5]) {
      const huge: Norm = { ...norm, variance: [3e9 * scale, 1e9 * scale, 2e9 * scale] };
      const { layers } = await auditOf([{ state: narrow, after: moved }, { state: huge }]);
      expect(layers.map(({ status }) => status)).toEqual(['drifted', 'locked']);
    }
  });

  test('leaves open what a single channel cannot tell', async () => {
    const { layers, findings } = await auditOf([{ state: norm }, { state: narrow, epsilon: 1e-3 }]);
    expect(layers[1]?.status).toBe('unresolved');
    expect(findings[0]?.message).toContain('and so does drift');
  });

  test('stops the audit where layers share one that is not usual, or drifted besides', async () => {
    const odd = [norm, norm, norm].map((state) => ({ state, epsilon: 3e-4 }));
    const shared = [
      { state: norm, after: drifted, epsilon: 1e-3 },
      ...odd.map((one) => ({ ...one, epsilon: 1e-3 })),
    ];
    for (const [layers, epsilon] of [
      [odd, 3e-4],
      [shared, 1e-3],
    ] as const) {
      const failure = await failureOf(() => auditOf(layers));
      expect(failure).toMatchObject({ code: 'ambiguous', hint: `Run again with --epsilon ${epsilon}` });
      expect((await auditOf(layers, { epsilon })).layers.at(-1)?.status).toBe('locked');
    }
  });
});

describe('folded weights of zero where γ is not', () => {
  const weight = weights(3 * 2 * 9);
  const auditOf = async (variance: readonly number[], reference = norm) => {
    const folded = fold(weight, (index) => Math.floor(index / 18), { ...reference, variance });
    const overrides = { foldedNormPath: 'bn', looksFolded: true };
    const after = exported(linearNodeOf('conv', { ...folded, shape: [3, 2, 3, 3] }, overrides));
    const named = checkpointOf(
      [tensorOf('conv.weight', weight, { shape: [3, 2, 3, 3] }), ...namedNorm('bn', reference)],
      { inModuleOrder: true },
    );
    return auditCheckpoints(named, after);
  };

  test('are what an infinite variance leaves, and no silent pass', async () => {
    for (const variance of [
      [2, Number.POSITIVE_INFINITY, 0.5],
      [1, 1, 1].map(() => Number.POSITIVE_INFINITY),
    ]) {
      const { layers, findings } = await auditOf(variance);
      expect(layers).toMatchObject([{ status: 'unresolved' }]);
      expect(findings[0]?.message).toContain('its variance became infinite');
    }
  });

  test('beside a variance that moved: the drift is told', async () => {
    expect((await auditOf([3, Number.POSITIVE_INFINITY, 0.5])).layers).toMatchObject([{ status: 'drifted' }]);
  });
});

test.each([8, 66, 141])(
  'short weights beside live norm layers, through float16 and back, were not rescaled (%d)',
  async (seed) => {
    // A few weights of a channel, rounded to 11 bits, fit a factor of their own by chance.
    const draw = (size: number, by: number) =>
      Array.from({ length: size }, (_, i) => Math.fround(0.3 * Math.sin(12.9898 * (i + 1) * by)));
    const at = (dtype: DType, path: string) => {
      const through = (values: readonly number[]) => values.map((value) => roundToFloat(value, dtype));
      const tensors = [
        tensorOf('conv.weight', through(draw(270, 7)), { shape: [3, 90] }),
        ...normTensors('bn', {
          mean: through(norm.mean),
          variance: through(norm.variance),
          weight: through(norm.gamma),
          bias: through(norm.beta),
        }),
        tensorOf('squeeze.weight', through(draw(32, seed)), { shape: [2, 16, 1, 1] }),
        tensorOf('squeeze.bias', through([0.1234, -0.205])),
        tensorOf('excite.weight', through(draw(32, seed + 1000)), { shape: [16, 2, 1, 1] }),
        tensorOf('excite.bias', through(draw(16, seed + 77))),
      ];
      return checkpointOf(tensors, { path, inModuleOrder: true });
    };
    const { verdict, layers } = await auditCheckpoints(at('F32', 'before.pth'), at('F16', 'after.pth'));
    expect(layers).toMatchObject([{ name: 'bn', status: 'locked' }]);
    expect(verdict).toBe('clean');
  },
);

test('a convolution with a bias that may feed a norm layer goes with the folded one by way of that layer, on either side', async () => {
  // One weight a channel: only by the norm layer's statistics can it be told that nothing moved.
  const [weight, bias] = [
    [0.5, -0.25, 2],
    [0.125, 0.5, -1],
  ];
  const folded = fold(weight, (index) => index, norm);
  const shifted = folded.bias.map(
    (value, channel) =>
      value + ((folded.weight[channel] ?? 0) / (weight[channel] ?? 1)) * (bias[channel] ?? 0),
  );
  const graph = exported(
    linearNodeOf(
      'block.conv1',
      { weight: folded.weight, shape: [3, 1, 1, 1], bias: shifted },
      { looksFolded: true, outputChannels: 3 },
    ),
  );
  const live = checkpointOf([
    ...namedNorm('block.bn1'),
    tensorOf('block.conv1.bias', bias),
    tensorOf('block.conv1.weight', weight, { shape: [3, 1, 1, 1] }),
  ]);
  for (const [before, after] of [
    [graph, live],
    [live, graph],
  ] as const) {
    const { layers } = await auditCheckpoints(before, after);
    expect(layers.map(({ name, status }) => [name, status])).toEqual([['block.bn1', 'locked']]);
  }
});

describe('a quantised head beside folded convolutions', () => {
  const shape = [3, 2, 3, 3];
  const folded = fold(weights(54), (index) => Math.floor(index / 18), norm);
  // The quantiser is no exporter of which it is known whether it leaves signs.
  const quantisedModel = (head: (value: number, index: number) => number, bias: readonly number[]) => {
    const rows = weights(128).map(head);
    const linears = [
      { path: 'conv', values: folded.weight, shape, bias: folded.bias, looksFolded: true },
      { path: 'head', values: rows, shape: [4, 32], bias, looksFolded: false },
    ].map(({ path, values, shape, bias, looksFolded }) => {
      const tensor = { ...quantise(values, { shape, axis: 0 }), name: `${path}.weight` };
      const weight = { kind: 'constant', tensor, source: 'initializer', overridable: false } as const;
      return linearNodeOf(path, { weight: values, shape, bias }, { weight, looksFolded });
    });
    const graph = { ...graphOf([], linears), producer: 'onnx.quantize' };
    return checkpointOf([], { path: 'model.onnx', format: 'ONNX', graph });
  };
  const before = quantisedModel((value) => value, [1, 2, 3, 4]);

  test.each<readonly [how: string, head: (value: number, index: number) => number]>([
    ['by less than codes show', (value, i) => value + 0.01 * Math.cos(i)],
    ['by a step or two', (value, i) => value * (1.008 + 0.002 * Math.floor(i / 32))],
  ])('is no norm layer where it was trained %s', async (_, head) => {
    const { layers } = await auditCheckpoints(before, quantisedModel(head, [1.1, 2, 3, 4]));
    expect(layers.map(({ name, status }) => [name, status])).toEqual([['conv', 'locked']]);
  });

  test('is one where each channel got a factor of its own', async () => {
    const head = (value: number, i: number) => value * (1.1 + 0.1 * Math.floor(i / 32));
    const { layers } = await auditCheckpoints(before, quantisedModel(head, [1.1, 2, 3, 4]));
    expect(layers.map(({ name, status }) => [name, status])).toEqual([
      ['conv', 'locked'],
      ['head', 'drifted'],
    ]);
  });
});

describe('what quantisers of PyTorch write', () => {
  const shape = [3, 2, 3, 3];
  const own = weights(54);
  const folded = fold(own, (index) => Math.floor(index / 18), norm);
  const named = checkpointOf([tensorOf('net.conv.weight', own, { shape }), ...namedNorm('net.bn')]);
  const convolution = (path: string) => [
    { ...quantise(folded.weight, { shape, axis: 0 }), name: `${path}.weight` },
    tensorOf(`${path}.bias`, folded.bias),
  ];

  test('as a state dict is held against the model from before', async () => {
    const { layers } = await auditCheckpoints(named, checkpointOf(convolution('net.conv')));
    expect(layers).toMatchObject([{ name: 'net.bn', status: 'locked', via: 'folded' }]);
  });

  test('is called otherwise where an activation was put into the module of the convolution', async () => {
    const fused = checkpointOf(convolution('net.conv.0'));
    const { layers } = await auditCheckpoints(named, fused);
    expect(layers).toMatchObject([{ name: 'net.bn', status: 'locked', pairedBy: 'name' }]);
    expect((await auditCheckpoints(fused, checkpointOf(convolution('net.conv')))).layers).toHaveLength(1);
  });

  test('is open where codes are floats themselves, on whichever side', async () => {
    const stored = { ...quantise(folded.weight, { shape, axis: 0 }), name: 'w' };
    const codes = { ...tensorOf('codes', folded.weight, { shape }), dtype: 'F8_E4M3' } as const;
    const tensor = stored.quantised && { ...stored, quantised: { ...stored.quantised, codes } };
    if (tensor === undefined) throw new Error('it is quantised');
    const weight = { kind: 'constant', tensor, source: 'initializer', overridable: false } as const;
    const model = exported(linearNodeOf('net.conv', { ...folded, shape }, { weight, looksFolded: true }));
    for (const before of [named, model]) {
      const { layers, findings } = await auditCheckpoints(before, model);
      expect(layers).toMatchObject([{ status: 'unresolved' }]);
      expect(findings[0]?.message).toContain('are float8 with scales');
    }
  });

  test('may have its biases corrected, which moves no variance', async () => {
    const weight = { ...quantise(folded.weight, { shape, axis: 0 }), name: 'w' };
    const constant = { kind: 'constant', tensor: weight, source: 'initializer', overridable: false } as const;
    const bias = folded.bias.map((value) => value + 0.05);
    const overrides = { weight: constant, looksFolded: true };
    const model = exported(linearNodeOf('net.conv', { ...folded, bias, shape }, overrides));
    const { layers, findings } = await auditCheckpoints(named, model);
    expect(layers).toMatchObject([{ name: 'net.bn', status: 'unresolved' }]);
    expect(findings[0]?.message).toContain('the quantiser corrected biases');
  });

  test('holds biases that were cut off in place of rounded, as its exporter does', async () => {
    const cut = quantise(folded.bias, { shape: [3], dtype: 'I32', scale: 2 ** -10, round: Math.trunc });
    const bias = { ...cut, quantised: cut.quantised && { ...cut.quantised, margin: 1 } };
    const weight = { ...quantise(folded.weight, { shape, axis: 0 }), name: 'w' };
    const constant = (tensor: Tensor) =>
      ({ kind: 'constant', tensor, source: 'initializer', overridable: false }) as const;
    const overrides = { weight: constant(weight), bias: constant(bias), looksFolded: true };
    const { layers } = await auditCheckpoints(
      named,
      exported(linearNodeOf('net.conv', { ...folded, shape }, overrides)),
    );
    expect(layers).toMatchObject([{ name: 'net.bn', status: 'locked' }]);
  });
});
