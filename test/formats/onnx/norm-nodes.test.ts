import { describe, expect, test } from 'vitest';
import { bytesOf } from '../../build/bytes.js';
import {
  attribute,
  FLOAT,
  field,
  floats,
  graph,
  integers,
  model,
  node,
  norm,
  normModel,
  normNames,
  normTensors,
  tensor,
  vector,
} from './build-onnx.js';
import { open, openNorm, refusal, statisticsOf, valuesOf } from './open.js';

describe('a live norm node', () => {
  test('tells its parameters, settings and names', async () => {
    const read = await openNorm(
      normModel({
        nodes: [
          norm('bn', {
            name: '/stem/bn/BatchNormalization',
            attributes: [attribute.float('epsilon', 0.5), attribute.float('momentum', 0.25)],
          }),
        ],
      }),
    );
    expect(read).toMatchObject({
      nodeName: '/stem/bn/BatchNormalization',
      path: 'stem.bn',
      scope: [],
      inputNames: ['bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var'],
      epsilon: 0.5,
      momentum: 0.25,
      mode: 'running',
      opset: 17,
      notes: [],
    });
    expect(await statisticsOf(read)).toEqual({ mean: [3, -4], variance: [5, 6] });
    expect(await valuesOf(read.gamma)).toEqual([1, 2]);
    expect(await valuesOf(read.beta)).toEqual([0.5, -0.5]);
    expect(read.mean).toMatchObject({ source: 'initializer', overridable: false });
  });

  test('has the defaults of the operator', async () => {
    expect(await openNorm(normModel())).toMatchObject({ epsilon: 1e-5, momentum: 0.9, path: null });
  });

  test('bears the names that Identity nodes give back to shared initializers', async () => {
    const read = await openNorm(
      normModel({
        nodes: [
          node('Identity', ['bn.bias'], ['other.bias']),
          node(
            'BatchNormalization',
            ['x', 'bn.weight', 'other.bias', 'bn.running_mean', 'bn.running_var'],
            ['y'],
          ),
        ],
      }),
    );
    expect(read.inputNames[1]).toBe('other.bias');
    expect(read.beta).toMatchObject({ source: 'Identity of initializer' });
  });

  test('of the domain ai.onnx is the same operator, of any other another', async () => {
    const { graph: read, warnings } = await open(
      normModel({
        nodes: [
          norm('bn', { domain: 'ai.onnx' }),
          node('BatchNormalization', ['x', ...normNames()], ['z'], { name: 'own', domain: 'my.domain' }),
        ],
      }),
    );
    expect(read.norms.map((item) => item.nodeName)).toEqual(['bn']);
    expect(warnings).toEqual([
      'BatchNormalization "own" of the domain "my.domain": not the standard operator, so left out of the audit',
    ]);
  });

  test('may have parameters of a batch’s shape', async () => {
    const mean = tensor('bn.running_mean', [1, 2, 1, 1], FLOAT, field(9, floats(3, -4)));
    const read = await openNorm(
      normModel({ initializers: [...normTensors().filter((_, i) => i !== 2), mean] }),
    );
    expect(read.mean).toMatchObject({ tensor: { shape: [2] } });
  });

  test('of operator set 7 with spatial = 0 has a statistic for every position', async () => {
    const initializers = normNames().map((name) =>
      tensor(name, [2, 1, 2], FLOAT, field(9, floats(1, 2, 3, 4))),
    );
    const nodes = [norm('bn', { attributes: [attribute.int('spatial', 0)] })];
    const read = await openNorm(normModel({ initializers, nodes }, { opset: 7 }));
    expect(read.mean).toMatchObject({ tensor: { shape: [4] } });
    expect(read.notes).toEqual([
      'spatial = 0: one mean and one variance for every position of every channel',
    ]);
  });
});

describe('training mode', () => {
  const outputs = (count: number) => Array.from({ length: count }, (_, i) => `y${i}`);
  test.each<
    [string, { opset: number; outputs?: readonly string[]; attributes?: readonly Uint8Array[] }, string]
  >([
    ['operator set 1 without is_test is ambiguous', { opset: 1 }, 'unknown'],
    [
      'operator set 1 with is_test = 1 does not train',
      { opset: 1, attributes: [attribute.int('is_test', 1)] },
      'running',
    ],
    ['operator set 6 without is_test is ambiguous', { opset: 6, outputs: outputs(5) }, 'unknown'],
    [
      'operator set 6 with is_test = 0 trains',
      { opset: 6, attributes: [attribute.int('is_test', 0)] },
      'batch',
    ],
    ['operator set 7 with one output does not train', { opset: 7 }, 'running'],
    ['operator set 7 with further outputs trains', { opset: 7, outputs: outputs(5) }, 'batch'],
    [
      'operator set 9 with empty further outputs does not train',
      { opset: 9, outputs: ['y', '', '', '', ''] },
      'running',
    ],
    ['operator set 13 with further outputs trains', { opset: 13, outputs: outputs(5) }, 'batch'],
    ['operator set 14 without training_mode does not train', { opset: 14, outputs: outputs(3) }, 'running'],
    [
      'operator set 14 with training_mode = 1 trains',
      { opset: 14, attributes: [attribute.int('training_mode', 1)] },
      'batch',
    ],
    [
      'operator set 15 with training_mode = 0 does not train',
      { opset: 15, attributes: [attribute.int('training_mode', 0)] },
      'running',
    ],
    [
      'operator set 28 with training_mode = 1 trains',
      { opset: 28, attributes: [attribute.int('training_mode', 1)] },
      'batch',
    ],
  ])('%s', async (_case, { opset, ...parts }, mode) => {
    const read = await openNorm(normModel({ nodes: [norm('bn', parts)] }, { opset }));
    expect(read).toMatchObject({ mode, opset });
  });

  test('of a model without operator sets is that of version 1 before IR version 3, and an error later', async () => {
    expect(await openNorm(normModel({}, { irVersion: 2, opset: 0 }))).toMatchObject({
      opset: 1,
      mode: 'unknown',
    });
    expect(await refusal(normModel({}, { irVersion: 3, opset: 0 }))).toContain(
      'expected a model that imports an operator set',
    );
  });

  test('of the draft with six inputs is its sixth input', async () => {
    const draft = (name: string) => node('BatchNormalization', ['x', ...normNames(), name], ['y']);
    const isTraining = tensor('training', [1], 9, field(9, 1));
    const stored = await openNorm(
      normModel({ nodes: [draft('training')], initializers: [...normTensors(), isTraining] }, { opset: 12 }),
    );
    expect(stored.mode).toBe('batch');
    expect(stored.notes).toEqual(['a draft of the operator with training_mode as sixth input']);
    const given = await openNorm(
      normModel({ nodes: [draft('training')], inputs: ['x', 'training'] }, { opset: 12 }),
    );
    expect(given.mode).toBe('unknown');
  });
});

test('a node that standardises a weight, as NFNets and BiT do, is no norm layer', async () => {
  const nodes = [
    node('Reshape', ['conv.weight', 'shape'], ['rows']),
    node('BatchNormalization', ['rows', ...normNames()], ['standard', 'm', 'v'], {
      attributes: [attribute.int('training_mode', 1)],
    }),
    norm('bn1'),
  ];
  const stored = [vector('conv.weight', 1, 2, 3, 4), integers('shape', 1, 2, -1)];
  const initializers = [...stored, ...normTensors(), ...normTensors('bn1')];
  const { graph: read } = await open(model(graph({ nodes, initializers, inputs: ['x'] })));
  expect(read.norms.map(({ path, nodeName }) => path ?? nodeName)).toEqual(['bn1']);
});

describe('an initializer that is a graph input too', () => {
  const inputs = ['x', ...normNames()];

  test('is a default that callers may replace, from IR version 4 on', async () => {
    const read = await openNorm(normModel({ inputs }, { irVersion: 8 }));
    expect(read.mean).toMatchObject({ kind: 'constant', overridable: true });
    expect(read.notes).toEqual([
      'its parameters are graph inputs as well: a caller may replace them at run time',
    ]);
  });

  test('is how every initializer is listed before', async () => {
    expect(await openNorm(normModel({ inputs }, { irVersion: 3 }))).toMatchObject({
      mean: { overridable: false },
      notes: [],
    });
  });
});

describe('statistics that are not in the file are unresolved', () => {
  const without = (...names: string[]) =>
    normTensors().filter((_, i) => !names.includes(normNames()[i] ?? ''));

  test('graph inputs', async () => {
    const read = await openNorm(
      normModel({ inputs: ['x', 'bn.running_mean'], initializers: without('bn.running_mean') }),
    );
    expect(await valuesOf(read.mean)).toBe('the graph input "bn.running_mean" supplies it at run time');
    expect(await valuesOf(read.variance)).toEqual([5, 6]);
  });

  test('what a node computes from the input', async () => {
    const computed = node('ReduceMean', ['x'], ['bn.running_mean'], { name: 'mean of the batch' });
    const read = await openNorm(
      normModel({ nodes: [computed, norm()], initializers: without('bn.running_mean') }),
    );
    expect(await valuesOf(read.mean)).toBe('ReduceMean "mean of the batch" computes it at run time');
  });

  test("the node's own output", async () => {
    const own = node('BatchNormalization', ['x', 'bn.weight', 'bn.bias', 'y', 'bn.running_var'], ['y'], {
      name: 'bn',
    });
    expect(await valuesOf((await openNorm(normModel({ nodes: [own] }))).mean)).toBe(
      'BatchNormalization "bn" computes it at run time',
    );
  });
});

describe('a norm node that cannot be right is refused by name', () => {
  const replace = (name: string, ...values: number[]) =>
    normModel({
      initializers: normTensors().map((bytes, i) =>
        normNames()[i] === name ? vector(name, ...values) : bytes,
      ),
    });
  const inputs = (...names: string[]) =>
    normModel({ nodes: [node('BatchNormalization', names, ['y'], { name: 'bn' })] });

  test.each<[string, Uint8Array, string]>([
    [
      'three inputs',
      inputs('x', 'bn.weight', 'bn.bias'),
      'BatchNormalization "bn": expected the five inputs X, scale, B, mean and var, found 3',
    ],
    ['no mean', inputs('x', 'bn.weight', 'bn.bias', '', 'bn.running_var'), 'found an empty name for mean'],
    [
      'a mean that nothing supplies',
      inputs('x', 'bn.weight', 'bn.bias', 'nowhere', 'bn.running_var'),
      'the mean of BatchNormalization "bn": expected a tensor "nowhere", found nothing that supplies it',
    ],
    [
      'a mean of another length',
      replace('bn.running_mean', 1, 2, 3),
      'BatchNormalization "bn": expected mean, variance, scale and bias of one length, found 3, 2, 2, 2 channels',
    ],
    ['a scale of another length', replace('bn.weight', 1), 'found 2, 2, 1, 2 channels'],
    [
      'a mean of no channels',
      replace('bn.running_mean'),
      'the mean of BatchNormalization "bn": expected one value per channel, found tensor "bn.running_mean" of shape [0]',
    ],
    [
      'a mean of integers',
      normModel({
        initializers: [...normTensors().filter((_, i) => i !== 2), integers('bn.running_mean', 1, 2)],
      }),
      'expected floats, found tensor "bn.running_mean" of type I64',
    ],
    [
      'a mean of strings',
      normModel({
        initializers: [
          ...normTensors().filter((_, i) => i !== 2),
          tensor('bn.running_mean', [2], 8, field(6, 'a')),
        ],
      }),
      'expected a tensor of floats: tensor "bn.running_mean" has the type STRING',
    ],
    [
      'a mean of strings whose name has a line end',
      normModel({
        nodes: [node('BatchNormalization', ['x', 'bn.weight', 'bn.bias', 'a\nb', 'bn.running_var'], ['y'])],
        initializers: [...normTensors(), tensor('a\nb', [2], 8, field(6, 'a'))],
      }),
      'expected a tensor of floats: tensor "a\\nb" has the type STRING',
    ],
    [
      'a mean of rank 2',
      normModel({
        initializers: [
          ...normTensors().filter((_, i) => i !== 2),
          tensor('bn.running_mean', [2, 1], FLOAT, field(9, floats(1, 2))),
        ],
      }),
      'expected one value per channel, found tensor "bn.running_mean" of shape [2, 1]',
    ],
  ])('%s', async (_case, bytes, message) => {
    expect(await refusal(bytes)).toContain(message);
  });
});

describe('a layer that is called several times', () => {
  const second = (name: string, attributes: readonly Uint8Array[] = []) =>
    node('BatchNormalization', ['z', ...normNames()], ['w'], { name, attributes });
  const twice = (first: string, other: Uint8Array) =>
    open(normModel({ nodes: [norm('bn', { name: first }), node('Relu', ['bn.y'], ['z']), other] }));

  test('is one layer with a note', async () => {
    const { graph: read } = await twice('/bn/BatchNormalization', second('/bn_1/BatchNormalization'));
    expect(read.norms).toHaveLength(1);
    expect(read.norms[0]).toMatchObject({
      path: 'bn',
      notes: ['runs at 2 places of the graph with the same parameters: one layer, listed once'],
    });
  });

  test('is one layer where the nodes have no names', async () => {
    expect((await twice('', second(''))).graph.norms).toHaveLength(1);
  });

  test('is told from another layer that shares equal parameters', async () => {
    const { graph: read } = await twice(
      '/layer1/bn/BatchNormalization',
      second('/layer2/bn/BatchNormalization'),
    );
    expect(read.norms.map((item) => item.path)).toEqual(['layer1.bn', 'layer2.bn']);
  });

  test('is told from one with another epsilon', async () => {
    expect((await twice('', second('', [attribute.float('epsilon', 0.1)]))).graph.norms).toHaveLength(2);
  });
});

test('an InstanceNorm with statistics shows its own parameters, not those tiled over the batch', async () => {
  const tiles = normNames().map((name) => node('Tile', [name, 'batch'], [`/in/${name}_output_0`]));
  const tiled = node(
    'BatchNormalization',
    ['x', ...normNames().map((name) => `/in/${name}_output_0`)],
    ['y'],
  );
  const stored = await openNorm(
    normModel({ nodes: [...tiles, tiled], initializers: [...normTensors(), integers('batch', 8)] }),
  );
  expect(await statisticsOf(stored)).toEqual({ mean: [3, -4], variance: [5, 6] });
  expect(stored.inputNames).toEqual(normNames());
  expect(stored.notes).toEqual(['its parameters are tiled over the batch, as InstanceNorm is exported']);
  const dynamic = await openNorm(normModel({ nodes: [node('Shape', ['x'], ['batch']), ...tiles, tiled] }));
  expect(await statisticsOf(dynamic)).toEqual({ mean: [3, -4], variance: [5, 6] });
});

test('hundreds of layers keep their order', async () => {
  const paths = Array.from({ length: 300 }, (_, i) => `b${i}`);
  const bytes = model(
    graph({
      nodes: paths.map((path) => norm(path)),
      initializers: paths.flatMap((path) => normTensors(path)),
      inputs: ['x'],
    }),
  );
  const { graph: read } = await open(bytesOf(bytes));
  expect(read.norms.map((item) => item.nodeName)).toEqual(paths);
});
