import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../../src/audit.js';
import type { LinearNode } from '../../../src/checkpoint/checkpoint.js';
import { checkpointOf, normTensors as storedNorm, tensorOf } from '../../build/checkpoints.js';
import {
  attribute,
  COMPLEX64,
  FLOAT,
  field,
  floats,
  graph,
  INT64,
  integers,
  model,
  node,
  normNames,
  normTensors,
  tensor,
  vector,
} from './build-onnx.js';
import { open, valuesOf } from './open.js';

const weight = (name: string, ...dims: readonly number[]) =>
  tensor(name, dims, FLOAT, field(9, new Uint8Array(4 * dims.reduce((a, b) => a * b, 1))));

async function readLinears(
  nodes: readonly Uint8Array[],
  initializers: readonly Uint8Array[],
): Promise<readonly LinearNode[]> {
  return (await open(model(graph({ nodes, initializers, inputs: ['x'] })))).graph.linears;
}

describe('a linear node', () => {
  test.each<[string, Uint8Array, readonly number[], Partial<LinearNode>]>([
    [
      'Conv',
      node('Conv', ['x', 'conv.weight', 'conv.bias'], ['y']),
      [6, 2, 3, 3],
      { op: 'Conv', outputAxis: 0, outputChannels: 6, groups: 1 },
    ],
    [
      'a grouped Conv',
      node('Conv', ['x', 'conv.weight'], ['y'], { attributes: [attribute.int('group', 2)] }),
      [6, 2, 3, 3],
      { groups: 2, outputChannels: 6 },
    ],
    [
      'a grouped ConvTranspose',
      node('ConvTranspose', ['x', 'conv.weight'], ['y'], { attributes: [attribute.int('group', 2)] }),
      [4, 3, 3, 3],
      { op: 'ConvTranspose', outputAxis: 1, outputChannels: 6, groups: 2 },
    ],
    [
      'Gemm',
      node('Gemm', ['x', 'conv.weight'], ['y']),
      [4, 6],
      { op: 'Gemm', outputAxis: 1, outputChannels: 6 },
    ],
    [
      'Gemm with transB',
      node('Gemm', ['x', 'conv.weight'], ['y'], { attributes: [attribute.int('transB', 1)] }),
      [6, 4],
      { outputAxis: 0, outputChannels: 6 },
    ],
    [
      'MatMul',
      node('MatMul', ['x', 'conv.weight'], ['y']),
      [4, 6],
      { op: 'MatMul', outputAxis: 1, outputChannels: 6 },
    ],
    [
      'MatMul with the weight on the left',
      node('MatMul', ['conv.weight', 'x'], ['y']),
      [6, 4],
      { outputAxis: 0, outputChannels: 6 },
    ],
    [
      "ONNX Runtime's FusedConv",
      node('FusedConv', ['x', 'conv.weight'], ['y'], { domain: 'com.microsoft' }),
      [6, 2, 3, 3],
      { op: 'Conv' },
    ],
  ])('%s', async (_op, bytes, dims, expected) => {
    const [linear, ...others] = await readLinears(
      [bytes],
      [weight('conv.weight', ...dims), weight('conv.bias', 6)],
    );
    expect(others).toEqual([]);
    expect(linear).toMatchObject({
      weightName: 'conv.weight',
      path: 'conv',
      looksFolded: false,
      feedsNorm: false,
      ...expected,
    });
    expect(linear?.weight).toMatchObject({ kind: 'constant', tensor: { shape: dims } });
  });

  test('reads a matrix in front of its Transpose, never copied', async () => {
    const nodes = [
      node('Transpose', ['fc.weight'], ['t'], { attributes: [attribute.ints('perm', 1, 0)] }),
      node('MatMul', ['x', 't'], ['y']),
    ];
    const [linear] = await readLinears(nodes, [weight('fc.weight', 2000, 1000)]);
    expect(linear).toMatchObject({
      weightName: 'fc.weight',
      outputAxis: 0,
      outputChannels: 2000,
      weight: { tensor: { shape: [2000, 1000] } },
    });
  });

  test('of two computed matrices is no layer', async () => {
    expect(await readLinears([node('Relu', ['x'], ['a']), node('MatMul', ['x', 'a'], ['y'])], [])).toEqual(
      [],
    );
  });

  test('whose weight is broken or computed is unresolved, and no error', async () => {
    const nodes = [
      node('Conv', ['x', 'nowhere'], ['y']),
      node('Relu', ['x'], ['w']),
      node('Conv', ['x', 'w'], ['z']),
    ];
    const linears = await readLinears(nodes, []);
    expect(await Promise.all(linears.map((linear) => valuesOf(linear.weight)))).toEqual([
      'expected a tensor "nowhere", found nothing that supplies it',
      'Relu "w" computes it at run time',
    ]);
  });

  test('has a bias of zeros where the exporter computes one from the shape', async () => {
    const nodes = [
      node('Constant', [], ['zero'], { attributes: [attribute.floats('value_floats', 0)] }),
      node('Shape', ['x'], ['shape']),
      node('Expand', ['zero', 'shape'], ['zeros']),
      node('Conv', ['x', 'conv.weight', 'zeros'], ['y']),
    ];
    const [linear] = await readLinears(nodes, [weight('conv.weight', 3, 1, 1, 1)]);
    expect(linear === undefined ? [] : await valuesOf(linear.bias)).toEqual([0, 0, 0]);
  });

  test('has no bias where the exporter expands zeros to a wrong shape, as of a Conv3d without one', async () => {
    const nodes = (value: number) => [
      node('Shape', ['conv.weight'], ['rows'], {
        attributes: [attribute.int('start', 0), attribute.int('end', 1)],
      }),
      node('Constant', [], ['two'], { attributes: [attribute.ints('value_ints', 2)] }),
      node('Concat', ['rows', 'two'], ['shape'], { attributes: [attribute.int('axis', 0)] }),
      node('Constant', [], ['value'], { attributes: [attribute.floats('value_floats', value)] }),
      node('CastLike', ['value', 'x'], ['cast']),
      node('Expand', ['cast', 'shape'], ['bias']),
      node('Conv', ['x', 'conv.weight', 'bias'], ['y']),
    ];
    const read = async (value: number) =>
      (await readLinears(nodes(value), [weight('conv.weight', 3, 1, 1, 1, 1)]))[0]?.bias.kind;
    expect(await read(0)).toBe('absent');
    expect(await read(1)).toBe('unresolved');
  });

  test.each([
    ['C64', COMPLEX64, [3], 'tensor "b" is stored as C64, which holds no readable floats'],
    ['I64', INT64, [3], 'tensor "b" is stored as I64, which holds no readable floats'],
    ['another length', FLOAT, [2], 'tensor "b" has 2 values for 3 channels'],
  ])('with a bias of %s has one that cannot be told', async (_what, type, dims, reason) => {
    const bias = tensor('b', dims, type, field(9, new Uint8Array((type === FLOAT ? 4 : 8) * (dims[0] ?? 0))));
    const nodes = [node('Conv', ['x', 'conv.weight', 'b'], ['y'])];
    const [linear] = await readLinears(nodes, [weight('conv.weight', 3, 1, 1, 1), bias]);
    expect(linear?.bias).toEqual({ kind: 'unresolved', reason });
  });

  test.each([0, -1, 2 ** 40])(
    'of %d groups has no weight, and no negative number of channels',
    async (group) => {
      const attributes = [attribute.int('group', group)];
      const nodes = [node('ConvTranspose', ['x', 'conv.weight'], ['y'], { attributes })];
      const [linear] = await readLinears(nodes, [weight('conv.weight', 3, 1, 1, 1)]);
      const reason = `its group is ${group}, expected 1 to 16777216`;
      expect(linear).toMatchObject({ weight: { kind: 'unresolved', reason }, outputChannels: 0 });
    },
  );

  describe('followed by an Add', () => {
    const added = async (
      nodes: readonly Uint8Array[],
      bias: Uint8Array,
      dims: readonly number[] = [2, 1, 1, 1],
    ) => {
      const [linear] = await readLinears(nodes, [weight('conv.weight', ...dims), bias]);
      return linear === undefined
        ? []
        : [linear.biasName, linear.bias.kind === 'absent' ? 'absent' : await valuesOf(linear.bias)];
    };
    const conv = node('Conv', ['x', 'conv.weight'], ['c']);
    const perChannel = tensor('b', [1, 2, 1, 1], FLOAT, field(9, floats(3, 4)));

    test.each([
      ['of one value per channel', [conv, node('Add', ['c', 'b'], ['y'])], perChannel],
      ['with the bias on the left', [conv, node('Add', ['b', 'c'], ['y'])], perChannel],
      [
        'of a leading axis less',
        [conv, node('Add', ['c', 'b'], ['y'])],
        tensor('b', [2, 1, 1], FLOAT, field(9, floats(3, 4))),
      ],
    ])('%s has that as its bias', async (_, nodes, bias) => {
      expect(await added(nodes, bias)).toEqual(['b', [3, 4]]);
    });

    test('a matrix product counts its channels last', async () => {
      const nodes = [node('MatMul', ['x', 'conv.weight'], ['c']), node('Add', ['c', 'b'], ['y'])];
      expect(await added(nodes, vector('b', 3, 4), [5, 2])).toEqual(['b', [3, 4]]);
    });

    test('a product whose first factor is the weight counts them last but one', async () => {
      const nodes = [node('MatMul', ['conv.weight', 'x'], ['c']), node('Add', ['c', 'b'], ['y'])];
      const column = tensor('b', [2, 1], FLOAT, field(9, floats(3, 4)));
      expect(await added(nodes, column, [2, 5])).toEqual(['b', [3, 4]]);
      expect(await added(nodes, vector('b', 3, 4), [2, 5])).toEqual(['', 'absent']);
    });

    test('is no bias behind an operator that may hold an activation', async () => {
      const fused = node('FusedConv', ['x', 'conv.weight'], ['c'], { domain: 'com.microsoft' });
      expect(await added([fused, node('Add', ['c', 'b'], ['y'])], perChannel)).toEqual(['', 'absent']);
    });

    test.each([
      ['of other values than one per channel', [conv, node('Add', ['c', 'b'], ['y'])], vector('b', 3, 4)],
      [
        'of values that are no floats',
        [conv, node('Add', ['c', 'b'], ['y'])],
        tensor('b', [1, 2, 1, 1], COMPLEX64, field(9, new Uint8Array(16))),
      ],
      ['of a computed value', [conv, node('Relu', ['x'], ['r']), node('Add', ['c', 'r'], ['y'])], perChannel],
      [
        'when something else reads the output as well',
        [conv, node('Add', ['c', 'b'], ['y']), node('Relu', ['c'], ['z'])],
        perChannel,
      ],
      ['of a broken constant', [conv, node('Add', ['c', 'gone'], ['y'])], perChannel],
    ])('%s has none', async (_, nodes, bias) => {
      expect(await added(nodes, bias)).toEqual(['', 'absent']);
    });

    test.each(['FusedConv', 'FusedGemm'])('%s feeds no norm layer: an activation is between', async (op) => {
      const nodes = [
        node(op, ['x', 'conv.weight'], ['c'], { domain: 'com.microsoft' }),
        node('BatchNormalization', ['c', ...normNames('bn')], ['y']),
      ];
      const initializers = [weight('conv.weight', 2, 1), ...normTensors('bn')];
      const { graph: read } = await open(model(graph({ nodes, initializers, inputs: ['x'] })));
      expect(read.norms.map(({ feedingLinear }) => feedingLinear)).toEqual([null]);
      expect(read.linears.map(({ feedsNorm }) => feedsNorm)).toEqual([false]);
    });

    test('feeds the norm layer behind that', async () => {
      const nodes = [
        conv,
        node('Add', ['c', 'b'], ['d']),
        node('BatchNormalization', ['d', ...normNames('bn')], ['y']),
      ];
      const initializers = [weight('conv.weight', 2, 1, 1, 1), perChannel, ...normTensors('bn')];
      const { graph: read } = await open(model(graph({ nodes, initializers, inputs: ['x'] })));
      expect(read.norms.map(({ feedingLinear }) => feedingLinear)).toEqual([0]);
      expect(read.linears.map(({ feedsNorm }) => feedsNorm)).toEqual([true]);
    });
  });

  test('that scales its product is unresolved', async () => {
    const nodes = [
      node('Gemm', ['x', 'conv.weight'], ['y'], { attributes: [attribute.float('alpha', 0.5)] }),
    ];
    const [linear] = await readLinears(nodes, [weight('conv.weight', 4, 6)]);
    expect(linear?.weight).toEqual({ kind: 'unresolved', reason: 'its Gemm scales it by alpha or beta' });
  });

  test('whose weights are Constant nodes makes these tensors of the checkpoint', async () => {
    const nodes = [
      node('Constant', [], ['w_0'], { attributes: [attribute.tensor('value', weight('', 2, 1, 1, 1))] }),
      node('Conv', ['x', 'w_0'], ['y']),
    ];
    const { tensors } = await open(model(graph({ nodes, inputs: ['x'] })));
    expect([...tensors.keys()]).toEqual(['w_0']);
  });
});

describe('signs of folding', () => {
  test('onnxoptimizer leaves the arithmetic to the graph: it is computed, and what it is of is no learned tensor', async () => {
    const nodes = [
      node('Cast', ['zeros'], ['none'], { attributes: [attribute.int('to', FLOAT)] }),
      node('Add', ['v', 'epsilon'], ['_v_1']),
      node('Sqrt', ['_v_1'], ['_v_2']),
      node('Div', ['gamma', '_v_2'], ['_v_3']),
      node('Unsqueeze', ['_v_3', 'axes'], ['_v_4']),
      node('Mul', ['W', '_v_4'], ['_v_5']),
      node('Sub', ['none', 'mean'], ['_v_6']),
      node('Mul', ['_v_6', '_v_3'], ['_v_7']),
      node('Add', ['_v_7', 'beta'], ['_v_8']),
      node('Conv', ['x', '_v_5', '_v_8'], ['y'], { name: '/stem/conv/Conv' }),
    ];
    const initializers = [
      tensor('W', [2, 2, 1, 1], FLOAT, field(9, floats(1, 2, 3, 4))),
      ...[vector('gamma', 2, 6), vector('beta', 1, 1), vector('mean', 1, 2), vector('v', 3, 8)],
      ...[vector('zeros', 0, 0), tensor('epsilon', [], FLOAT, field(9, floats(1)))],
      integers('axes', 1, 2, 3),
    ];
    const { graph: read, tensors } = await open(model(graph({ nodes, initializers, inputs: ['x'] })));
    const [linear] = read.linears;
    expect(linear).toMatchObject({ weightName: 'W', biasName: 'beta', path: 'stem.conv', looksFolded: true });
    expect(linear && (await valuesOf(linear.weight))).toEqual([1, 2, 6, 8]);
    expect(linear && (await valuesOf(linear.bias))).toEqual([0, -3]);
    const learned = [...tensors.values()].filter(({ isBuffer }) => isBuffer !== true);
    expect(learned.map(({ name }) => name).toSorted()).toEqual(['W', 'axes', 'beta']);
  });

  test('of a weight from which several are computed each bears the name of its result', async () => {
    const nodes = ['a', 'b'].flatMap((one) => [
      node('Mul', ['W', one], [`W_${one}`]),
      node('Conv', ['x', `W_${one}`], [`y_${one}`]),
    ]);
    const initializers = [weight('W', 2, 1, 1, 1), vector('a', 2), vector('b', 5)];
    const { graph: read, tensors } = await open(model(graph({ nodes, initializers, inputs: ['x'] })));
    expect(read.linears.map(({ weightName }) => weightName)).toEqual(['W_a', 'W_b']);
    const learned = [...tensors.values()].filter(({ isBuffer }) => isBuffer !== true);
    expect(learned.map(({ name }) => name)).toEqual(['W_a', 'W_b']);
  });

  test('arithmetic that doubles at every step is computed once', async () => {
    const steps = Array.from({ length: 60 }, (_, i) => node('Add', [`w${i}`, `w${i}`], [`w${i + 1}`]));
    const conv = node('Conv', ['x', 'w60'], ['y']);
    const [linear] = await readLinears(
      [...steps, conv],
      [tensor('w0', [1, 1, 1, 1], FLOAT, field(9, floats(1)))],
    );
    expect(linear && (await valuesOf(linear.weight))).toEqual([2 ** 60]);
  });

  test('arithmetic on arithmetic is followed over a few levels where weights are large', async () => {
    const large = tensor('w0', [65_537, 1, 1, 1], FLOAT, field(9, floats(...new Array(65_537).fill(1))));
    for (const [levels, kind] of [
      [4, 'constant'],
      [5, 'unresolved'],
    ] as const) {
      const steps = Array.from({ length: levels }, (_, i) => node('Mul', [`w${i}`, 'two'], [`w${i + 1}`]));
      const conv = node('Conv', ['x', `w${levels}`], ['y']);
      const [linear] = await readLinears([...steps, conv], [large, vector('two', 2)]);
      expect(linear?.weight.kind).toBe(kind);
    }
  });

  test('arithmetic goes along any axis', async () => {
    const stored = [
      tensor('W', [2, 3, 1, 2], FLOAT, field(9, floats(...Array.from({ length: 12 }, (_, i) => i)))),
      tensor('s', [3, 1, 1], FLOAT, field(9, floats(1, 10, 100))),
    ];
    const nodes = [node('Mul', ['W', 's'], ['p']), node('Conv', ['x', 'p'], ['y'])];
    const [linear] = await readLinears(nodes, stored);
    expect(linear && (await valuesOf(linear.weight))).toEqual([
      0, 1, 20, 30, 400, 500, 6, 7, 80, 90, 1000, 1100,
    ]);
  });

  test.each([
    ['of a graph input', ['x', 'w']],
    ['whose result is larger than either operand', ['row', 'column']],
    ['of integers', ['codes', 'codes']],
  ])('arithmetic %s is left to the run', async (_what, inputs) => {
    const stored = [
      weight('w', 2, 2, 1, 1),
      weight('row', 1, 2, 1, 1),
      weight('column', 2, 1, 1, 1),
      integers('codes', 1),
    ];
    const [linear] = await readLinears([node('Mul', inputs, ['p']), node('Conv', ['x', 'p'], ['y'])], stored);
    expect(linear?.weight.kind).toBe('unresolved');
  });

  test("dynamo's optimizer keeps the norm layer's scopes and names its rule", async () => {
    const metadata = {
      'pkg.onnxscript.rewriter.rule_name': 'FuseBatchNormIntoConv, RemoveOptionalBiasFromConv',
      'pkg.torch.onnx.name_scopes': "['', 'stem', 'stem.bn', '_native_batch_norm_legit_no_training']",
    };
    const conv = node('Conv', ['x', 'stem.conv.weight', 'stem.conv.weight_bias'], ['getitem'], {
      name: 'node_Conv_68',
      metadata,
    });
    const [linear] = await readLinears(
      [conv],
      [weight('stem.conv.weight', 2, 1, 1, 1), vector('stem.conv.weight_bias', 0, 0)],
    );
    expect(linear).toMatchObject({ path: 'stem.conv', foldedNormPath: 'stem.bn', looksFolded: true });
  });

  test("TorchScript's exporter numbers the new weight and bias", async () => {
    const conv = node('Conv', ['x', 'onnx::Conv_100', 'onnx::Conv_101'], ['y'], {
      name: '/layer1/layer1.0/conv1/Conv',
    });
    const [linear] = await readLinears(
      [conv],
      [weight('onnx::Conv_100', 2, 1, 1, 1), vector('onnx::Conv_101', 0, 0)],
    );
    expect(linear).toMatchObject({ path: 'layer1.0.conv1', foldedNormPath: null, looksFolded: true });
  });

  test.each([
    ['ConvBnFusion_W_stem.conv.weight', 'ConvBnFusion_BN_B_stem.bn.bias', 'stem.bn'],
    ['ConvBnFusion_W_stem.conv.weight_token_3', 'ConvBnFusion_BN_B_stem.bn.bias_token_4', 'stem.bn'],
    ['ConvMulFusion_W_ConvBnFusion_W_stem.conv.weight', 'ConvMulFusion_Mul_B_scale', null],
  ])("ONNX Runtime's optimizer says what it fused: %s, %s", async (weightName, biasName, norm) => {
    const conv = node('FusedConv', ['x', weightName, biasName], ['y'], { domain: 'com.microsoft' });
    const [linear] = await readLinears([conv], [weight(weightName, 2, 1, 1, 1), vector(biasName, 0, 0)]);
    expect(linear).toMatchObject({ path: 'stem.conv', foldedNormPath: norm, looksFolded: true });
  });

  test('but not of whose norm layer, where layers shared the bias that both are called after', async () => {
    // TorchScript's exporter stores equal tensors once: β of the last norm layer and of the shortcut always are.
    const fused = (conv: string, bias: string, output: string) =>
      node('Conv', ['x', `ConvBnFusion_W_${conv}.weight`, `ConvBnFusion_BN_B_${bias}`], [output]);
    const linears = await readLinears(
      [
        fused('down.0', 'bn2.bias_token_0', 'a'),
        fused('conv2', 'bn2.bias', 'b'),
        fused('conv3', 'bn3.bias', 'c'),
        fused('conv4', 'bn4.bias', 'd'),
        node('BatchNormalization', ['d', 'bn3.weight', 'bn3.bias', 'bn3.mean', 'bn3.var'], ['y'], {
          name: '/bn3/BatchNormalization',
        }),
      ],
      [
        ...['down.0', 'conv2', 'conv3', 'conv4'].map((conv) =>
          weight(`ConvBnFusion_W_${conv}.weight`, 2, 1, 1, 1),
        ),
        ...['bn2.bias_token_0', 'bn2.bias', 'bn3.bias', 'bn4.bias'].map((bias) =>
          vector(`ConvBnFusion_BN_B_${bias}`, 0, 0),
        ),
        ...['bn3.weight', 'bn3.bias', 'bn3.mean', 'bn3.var'].map((name) => vector(name, 1, 1)),
      ],
    );
    expect(linears.map(({ foldedNormPath }) => foldedNormPath)).toEqual([null, null, null, 'bn4']);
  });

  test('which is a matrix behind a Transpose, too', async () => {
    const weightName = 'MatMulBnFusion_GemmB_/head/head.0/Transpose_output_0';
    const gemm = node('Gemm', ['x', weightName, 'MatMulBnFusion_GemmBias'], ['y']);
    const stored = [weight(weightName, 2, 3), vector('MatMulBnFusion_GemmBias', 0, 0, 0)];
    const [linear] = await readLinears([gemm], stored);
    expect(linear).toMatchObject({ path: 'head.0', outputAxis: 1, looksFolded: true });
  });

  test('a convolution with metadata of its own is not folded', async () => {
    const metadata = { 'pkg.torch.onnx.name_scopes': "['', 'stem', 'stem.conv', 'conv2d']" };
    const [linear] = await readLinears(
      [node('Conv', ['x', 'w'], ['y'], { metadata })],
      [weight('w', 2, 1, 1, 1)],
    );
    expect(linear).toMatchObject({ path: 'stem.conv', foldedNormPath: null, looksFolded: false });
  });
});

describe('what feeds a norm layer', () => {
  const conv = (name: string, from: string, to: string) =>
    node('Conv', [from, `${name}.weight`], [to], { name });
  const bn = (from: string) => node('BatchNormalization', [from, ...normNames()], ['y'], { name: 'bn' });

  async function readFeeds(
    nodes: readonly Uint8Array[],
    names: readonly string[],
    extra: readonly Uint8Array[] = [],
  ) {
    const initializers = [
      ...names.map((name) => weight(`${name}.weight`, 2, 1, 1, 1)),
      ...normTensors(),
      ...extra,
    ];
    const { graph: read } = await open(model(graph({ nodes, initializers, inputs: ['x'] })));
    const found = read.norms.find((item) => item.nodeName === 'bn');
    return {
      neighbours: found?.neighbours,
      feedingLinear: found?.feedingLinear,
      feedsNorm: read.linears.map((l) => l.feedsNorm),
    };
  }

  test('is the convolution in front of it', async () => {
    expect(await readFeeds([conv('a', 'x', 'c'), conv('b', 'c', 'd'), bn('d')], ['a', 'b'])).toEqual({
      neighbours: ['b.weight'],
      feedingLinear: 1,
      feedsNorm: [false, true],
    });
  });

  test('is looked for behind activations, on every branch', async () => {
    const nodes = [
      conv('a', 'x', 'c'),
      conv('b', 'x', 'd'),
      node('Concat', ['c', 'd'], ['e']),
      node('Relu', ['e'], ['f']),
      bn('f'),
    ];
    expect(await readFeeds(nodes, ['a', 'b'])).toEqual({
      neighbours: ['a.weight', 'b.weight'],
      feedingLinear: null,
      feedsNorm: [false, false],
    });
  });

  test('is the matrix as well as the bias added behind it', async () => {
    const nodes = [node('MatMul', ['x', 'fc'], ['c']), node('Add', ['c', 'fc_bias'], ['d']), bn('d')];
    const found = await readFeeds(nodes, [], [weight('fc', 3, 2), vector('fc_bias', 1, 2)]);
    expect(found.neighbours).toEqual(['fc_bias', 'fc']);
  });

  test('is no setting of an operator, and no statistic of the norm layer before', async () => {
    const first = node('BatchNormalization', ['x', ...normNames('other')], ['c']);
    const nodes = [first, node('Resize', ['c', '', 'scales'], ['d']), bn('d')];
    const found = await readFeeds(
      nodes,
      [],
      [...normTensors('other'), tensor('scales', [4], FLOAT, field(9, floats(1, 1, 2, 2)))],
    );
    expect(found.neighbours).toEqual(['other.weight', 'other.bias']);
  });

  test('is found from inside a loop, whose body the data enters as an input', async () => {
    const body = graph({
      nodes: [node('BatchNormalization', ['v', ...normNames()], ['w'], { name: 'bn' })],
      inputs: ['i', 'c', 'v'],
      outputs: ['c', 'w'],
    });
    const loop = node('Loop', ['', '', 'd'], ['y'], { attributes: [attribute.graph('body', body)] });
    expect((await readFeeds([conv('a', 'x', 'd'), loop], ['a'])).neighbours).toEqual(['a.weight']);
  });

  test('is found behind an If, on either branch', async () => {
    const branch = (name: string) => graph({ nodes: [conv(name, 'x', 'o')], outputs: ['o'] });
    const choice = node('If', ['x'], ['d'], {
      attributes: [attribute.graph('then_branch', branch('a')), attribute.graph('else_branch', branch('b'))],
    });
    expect((await readFeeds([choice, bn('d')], ['a', 'b'])).neighbours).toEqual(['a.weight', 'b.weight']);
  });

  test('computed of stored tensors is those, whatever operators compute it, and nothing in front', async () => {
    const nodes = [
      conv('a', 'x', 'c'),
      node('ReduceL2', ['v'], ['norm']),
      node('Div', ['g', 'norm'], ['scale']),
      node('Mul', ['v', 'scale'], ['w']),
      node('Conv', ['c', 'w'], ['d']),
      bn('d'),
    ];
    const extra = [weight('v', 2, 2, 1, 1), vector('g', 1, 2)];
    expect(await readFeeds(nodes, ['a'], extra)).toMatchObject({ neighbours: ['v', 'g'], feedingLinear: 1 });
  });
});

describe("a convolution as PyTorch's quantisation-aware training exports it, whose weight is W · γ / √(v + ε)", () => {
  const INPUTS = 40;
  const gamma = [1, 2];
  const frozen = Array.from({ length: 2 * INPUTS }, (_, i) => Math.fround(Math.sin(i + 1)));
  const trained = frozen.map((value, i) => Math.fround(value + 0.01 * Math.cos(7 * i)));
  const constant = (name: string, shape: readonly number[], values: readonly number[]) =>
    tensor(name, shape, FLOAT, field(9, floats(...values)));
  const computing = [
    node('Add', ['v', 'epsilon'], ['u']),
    node('Sqrt', ['u'], ['sigma']),
    node('Div', ['bn.weight', 'sigma'], ['s']),
    node('Reshape', ['s', 'rows'], ['by_row']),
    node('Mul', ['conv.weight', 'by_row'], ['onnx::QuantizeLinear_7']),
    node('Reshape', ['s', 'columns'], ['onnx::Div_8']),
    node('Reshape', ['conv.bias', 'columns'], ['onnx::Add_9']),
  ];

  /** What an exporter writes that leaves arithmetic on constants to the graph, or that computes it. */
  function exportModel(
    form: 'computed' | 'folded',
    {
      weights = frozen,
      variance = [3, 8],
      isQuantised = true,
      divisor = variance,
    }: {
      readonly weights?: readonly number[];
      readonly variance?: readonly number[];
      readonly isQuantised?: boolean;
      /** The variances by which the weight was multiplied, where those are others. */
      readonly divisor?: readonly number[];
    } = {},
  ) {
    const scalesOf = (of: readonly number[]) => gamma.map((value, i) => value / Math.sqrt((of[i] ?? 0) + 1));
    const products = weights.map((value, i) => value * (scalesOf(divisor)[Math.floor(i / INPUTS)] ?? 0));
    const floatsName = isQuantised ? 'floats' : 'onnx::QuantizeLinear_7';
    const nodes = [
      ...(form === 'computed' ? computing : []),
      node('QuantizeLinear', ['onnx::QuantizeLinear_7', 'step', 'zero'], ['codes']),
      node('DequantizeLinear', ['codes', 'step', 'zero'], ['floats']),
      node('Conv', ['x', floatsName], ['c'], { name: '/conv/Conv' }),
      node('Div', ['c', 'onnx::Div_8'], ['d']),
      node('Add', ['d', 'onnx::Add_9'], ['e']),
      node('BatchNormalization', ['e', 'bn.weight', 'bn.bias', 'mean', 'v'], ['y'], {
        name: '/conv/bn/BatchNormalization',
        attributes: [attribute.float('epsilon', 1)],
      }),
    ];
    const initializers = [
      ...[vector('bn.weight', ...gamma), vector('bn.bias', 1, 1), vector('mean', 1, 2)],
      ...[vector('v', ...variance), constant('step', [], [0.01]), integers('zero', 0)],
      ...(form === 'computed'
        ? [
            constant('conv.weight', [2, INPUTS, 1, 1], weights),
            ...[vector('conv.bias', 5, 6), constant('epsilon', [], [1])],
            ...[integers('rows', -1, 1, 1, 1), integers('columns', 1, -1, 1, 1)],
          ]
        : [
            constant('onnx::QuantizeLinear_7', [2, INPUTS, 1, 1], products),
            constant('onnx::Div_8', [1, 2, 1, 1], scalesOf(divisor)),
            constant('onnx::Add_9', [1, 2, 1, 1], [5, 6]),
          ]),
    ];
    return open(model(graph({ nodes, initializers, inputs: ['x'] })));
  }

  const EXPORTS = (['computed', 'folded'] as const).flatMap((form) =>
    [true, false].map((isQuantised) => [form, { isQuantised }] as const),
  );

  test.each(EXPORTS)('%s, %j: is W, and feeds the live layer', async (form, options) => {
    const { graph: read, tensors } = await exportModel(form, options);
    expect(read.norms).toMatchObject([{ neighbours: ['conv.bias', 'conv.weight'], feedingLinear: 0 }]);
    expect(read.linears).toMatchObject([{ feedsNorm: true, looksFolded: false, weightName: 'conv.weight' }]);
    const stored = tensors.get('conv.weight');
    const values =
      stored && (await valuesOf({ kind: 'constant', tensor: stored, source: '', overridable: false }));
    expect(values).toHaveLength(frozen.length);
    for (const [i, value] of frozen.entries()) expect(Number(values?.[i])).toBeCloseTo(value, 6);
    const learned = [...tensors.values()].filter(({ isBuffer }) => isBuffer !== true);
    expect(learned.map(({ name }) => name)).not.toContain('onnx::Div_8');
  });

  test.each(EXPORTS)('%s, %j: statistics that moved over frozen weights are drift', async (form, options) => {
    const before = await exportModel(form, options);
    const statusOf = async (after: Partial<Parameters<typeof exportModel>[1]>) =>
      (await auditCheckpoints(before, await exportModel(form, { ...options, ...after }))).layers.map(
        ({ status }) => status,
      );
    expect(await statusOf({})).toEqual(['locked']);
    expect(await statusOf({ variance: [4, 7] })).toEqual(['drifted']);
    expect(await statusOf({ weights: trained })).toEqual(['held']);
    expect(await statusOf({ weights: trained, variance: [4, 7] })).toEqual(['affine-frozen']);
    // As restore leaves it: the layer's statistics alone are back.
    if (form === 'folded') expect(await statusOf({ divisor: [4, 7] })).toEqual(['locked']);
  });

  test('across exports and state dicts, layers are paired by the weight that feeds them', async () => {
    const shape = [2, INPUTS, 1, 1];
    const state = checkpointOf([
      tensorOf('conv.weight', frozen, { shape }),
      tensorOf('conv.bias', [5, 6]),
      ...storedNorm('norm', { weight: gamma, bias: [1, 1], mean: [1, 2], variance: [3, 8] }),
    ]);
    for (const form of ['computed', 'folded'] as const) {
      const after = await exportModel(form, { weights: trained, variance: [4, 7] });
      const { layers } = await auditCheckpoints(state, after);
      expect(layers).toMatchObject([{ name: 'bn', status: 'affine-frozen', pairedBy: 'name' }]);
    }
  });
});
