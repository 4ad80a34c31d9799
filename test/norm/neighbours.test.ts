import { describe, expect, test } from 'vitest';
import type { Framework } from '../../src/checkpoint/checkpoint.js';
import { findNamedNeighbours } from '../../src/norm/neighbours.js';
import { tensorOf } from '../build/checkpoints.js';
import { layerOf } from '../build/layers.js';

type Shapes = Readonly<Record<string, readonly number[]>>;

interface Surroundings {
  /** The module order, where it is known. */
  readonly order?: readonly string[];
  readonly channels?: number;
  /** Other norm layers by name, with their channels. */
  readonly others?: Readonly<Record<string, number>>;
  readonly framework?: Framework;
}

/** What feeds a layer among learned tensors of these shapes: a list where that is certain, else what may. */
function neighboursOf(
  name: string,
  shapes: Shapes,
  { order, channels = 8, others = {}, framework }: Surroundings = {},
): readonly string[] | { readonly oneOf: readonly string[] } {
  const layer = layerOf(name, { channels });
  const learned = new Map(
    Object.entries(shapes).map(([tensor, shape]) => [
      tensor,
      tensorOf(tensor, Array<number>(shape.reduce((product, size) => product * size, 1)).fill(0), { shape }),
    ]),
  );
  const layers = [
    layer,
    ...Object.entries(others).map(([other, width]) => layerOf(other, { channels: width })),
  ];
  const positions = order === undefined ? null : new Map(order.map((module, index) => [module, index]));
  const found = findNamedNeighbours(layers, learned, positions, framework).get(layer);
  if (found === undefined) return [];
  return found.areNeighboursCertain ? found.neighbours : { oneOf: [...found.neighbours].sort() };
}

describe('names that go together, where widths show that the layer comes after', () => {
  test('bn2 goes with conv2, and no other number', () => {
    const shapes: Shapes = { 'b.conv1.weight': [8, 3], 'b.conv2.weight': [8, 4], 'b.conv12.weight': [8, 5] };
    expect(neighboursOf('b.bn2', shapes)).toEqual(['b.conv2.weight']);
  });

  test('conv1_bn goes with conv1, with all that it has learned', () => {
    const shapes: Shapes = { 'conv1.w': [8, 3, 3, 3], 'conv2.w': [8, 8, 3, 3], 'conv1.b': [8] };
    expect(neighboursOf('conv1_bn', shapes)).toEqual(['conv1.w', 'conv1.b']);
  });

  test('stage2_unit1_bn1 goes with the conv1 of its own unit', () => {
    const shapes: Shapes = { 'stage1_unit1_conv1.weight': [8, 4], 'stage2_unit1_conv1.weight': [8, 4] };
    expect(neighboursOf('stage2_unit1_bn1', shapes)).toEqual(['stage2_unit1_conv1.weight']);
  });

  test.each([
    ['bns', 'convs'],
    ['norms', 'lins'],
    ['batch_norms', 'layers'],
  ])('in lists beside each other %s.1 goes with %s.1', (norms, linears) => {
    const shapes: Shapes = {
      [`${linears}.0.weight`]: [8, 5],
      [`${linears}.1.weight`]: [8, 8],
      [`${linears}.2.weight`]: [3, 8],
    };
    const others = { [`${norms}.0`]: 8 };
    expect(neighboursOf(`${norms}.1`, shapes, { others })).toEqual([`${linears}.1.weight`]);
  });

  test('in lists of one width, the last linear module without a norm layer shows that norm layers come after', () => {
    const shapes: Shapes = { 'convs.0.weight': [8, 8], 'convs.1.weight': [8, 8], 'convs.2.weight': [8, 8] };
    expect(neighboursOf('bns.1', shapes, { others: { 'bns.0': 8 } })).toEqual(['convs.1.weight']);
  });

  test('bns.1 goes with what lies under convs.1', () => {
    const shapes: Shapes = {
      'convs.0.lin.weight': [8, 5],
      'convs.0.bias': [8],
      'convs.1.lin.weight': [8, 8],
      'convs.1.bias': [8],
    };
    expect(neighboursOf('bns.1', shapes, { others: { 'bns.0': 8 } })).toEqual(['convs.1.lin.weight']);
  });

  test('what other names of the block tell decides where its lists are all of one width: Res2Net', () => {
    const shapes: Shapes = {
      'l.0.conv1.weight': [16, 4, 1, 1],
      'l.0.convs.0.weight': [8, 8, 3, 3],
      'l.0.convs.1.weight': [8, 8, 3, 3],
    };
    const others = { 'l.0.bn1': 16, 'l.0.bns.0': 8 };
    expect(neighboursOf('l.0.bns.1', shapes, { others })).toEqual(['l.0.convs.1.weight']);
  });

  test('linear modules that were defined after their norm layers', () => {
    const shapes: Shapes = { 'linear1.weight': [8, 4], 'linear2.weight': [6, 8] };
    const order = ['norm1', 'norm2', 'linear1', 'linear2'];
    expect(neighboursOf('norm1', shapes, { order, others: { norm2: 6 } })).toEqual(['linear1.weight']);
  });

  test('where other linear modules bear the number, widths choose', () => {
    const shapes: Shapes = { 'net.conv1.bias': [8], 'net.conv1.weight': [3, 8], 'net.fc1.weight': [8, 4] };
    expect(neighboursOf('net.bn1', shapes)).toEqual(['net.fc1.weight']);
  });

  test('what feeds the layer lies under the same parent: numbers of another module say nothing', () => {
    const shapes: Shapes = { 'a.conv1.weight': [8, 4], 'b.fc.weight': [2, 8] };
    expect(neighboursOf('b.bn1', shapes)).toEqual({ oneOf: ['a.conv1.weight', 'b.fc.weight'] });
  });
});

describe('frameworks that number each class by itself', () => {
  test('batchnorm0 goes with conv0, and not with the dense0 of as many outputs', () => {
    const shapes: Shapes = { 'conv0.weight': [8, 3, 3, 3], 'dense0.weight': [8, 20] };
    expect(neighboursOf('batchnorm0', shapes)).toEqual(['conv0.weight']);
  });

  test('Keras’s first layer of a class has no number', () => {
    const shapes: Shapes = {
      'conv2d.kernel': [3, 3, 3, 8],
      'conv2d_1.kernel': [3, 3, 8, 8],
      'dense.kernel': [20, 8],
    };
    const others = { batch_normalization_1: 8 };
    expect(neighboursOf('batch_normalization', shapes, { others })).toEqual(['conv2d.kernel']);
    expect(neighboursOf('batch_normalization_1', shapes, { others: { batch_normalization: 8 } })).toEqual([
      'conv2d_1.kernel',
    ]);
  });
});

describe('kernels of Keras and Flax count their outputs last', () => {
  test('so that a trained head of as many inputs is no feed', () => {
    const shapes: Shapes = { 'conv_1.kernel': [3, 3, 3, 8], 'dense_1.kernel': [8, 10] };
    expect(neighboursOf('bn_1', shapes)).toEqual(['conv_1.kernel']);
  });

  test('depthwise ones per input channel, whatever they are called', () => {
    const shapes: Shapes = { 'dw.depthwise_kernel': [3, 3, 4, 2], 'dw2.kernel': [3, 3, 8, 1] };
    expect(neighboursOf('dw_bn', shapes)).toEqual(['dw.depthwise_kernel']);
    expect(neighboursOf('dw2_bn', shapes)).toEqual({ oneOf: ['dw.depthwise_kernel', 'dw2.kernel'] });
  });

  test('the pointwise one of a separable convolution decides', () => {
    const shapes: Shapes = {
      'separable.depthwise_kernel': [3, 3, 4, 1],
      'separable.pointwise_kernel': [1, 1, 4, 16],
      'dense.kernel': [16, 16],
    };
    expect(neighboursOf('separable_bn', shapes, { channels: 16 })).toEqual([
      'separable.depthwise_kernel',
      'separable.pointwise_kernel',
    ]);
  });
});

describe('the module right before a layer that has as many outputs', () => {
  test('in the module order that the file keeps, also deeper under the same parent', () => {
    const shapes: Shapes = {
      'net.a.weight': [8, 3],
      'net.block.conv.weight': [8, 4],
      'net.block.conv.bias': [8],
      'net.c.weight': [8, 4],
    };
    expect(
      neighboursOf('net.norm', shapes, { order: ['net.a', 'net.block.conv', 'net.norm', 'net.c'] }),
    ).toEqual(['net.block.conv.weight', 'net.block.conv.bias']);
  });

  test('in a list by number and not by digits, where the file has lost the order', () => {
    const shapes: Shapes = { 'net.10.weight': [8, 8], 'net.2.weight': [8, 8], 'net.9.weight': [8, 8] };
    expect(neighboursOf('net.11', shapes)).toEqual(['net.10.weight']);
    expect(neighboursOf('net.3', shapes)).toEqual(['net.2.weight']);
  });

  test('a transposed convolution counts outputs second', () => {
    const shapes: Shapes = { 'up.0.weight': [16, 8, 2, 2], 'up.3.weight': [8, 4, 2, 2] };
    expect(neighboursOf('up.1', shapes, { order: ['up.0', 'up.1', 'up.3'] })).toEqual(['up.0.weight']);
    expect(neighboursOf('up.1', shapes)).toEqual(['up.0.weight']);
  });

  test('other norm layers feed none, though they are as wide', () => {
    const shapes: Shapes = { 'net.0.weight': [8, 3], 'net.1.weight': [8], 'net.1.bias': [8] };
    expect(neighboursOf('net.2', shapes, { others: { 'net.1': 8 } })).toEqual({ oneOf: ['net.0.weight'] });
  });

  test('not where modules were defined class by class', () => {
    const shapes: Shapes = { 'a.weight': [8, 3], 'b.weight': [8, 8] };
    const order = ['a', 'b', 'n', 'm'];
    expect(neighboursOf('n', shapes, { order, others: { m: 8 } })).toEqual({
      oneOf: ['a.weight', 'b.weight'],
    });
  });
});

describe('where names and widths leave open what feeds a layer, all that may is named', () => {
  test('a pre-activation block: the norm layer of a number comes before the convolution of that number', () => {
    const shapes: Shapes = {
      'layer1.0.conv1.weight': [8, 8, 3, 3],
      'layer1.1.conv1.weight': [16, 8, 3, 3],
      'fc.weight': [8, 16],
    };
    const order = ['layer1.0.bn1', 'layer1.0.conv1', 'layer1.1.bn1', 'layer1.1.conv1', 'fc'];
    const others = { 'layer1.0.bn1': 8 };
    const oneOf = ['layer1.0.conv1.weight', 'layer1.1.conv1.weight'];
    expect(neighboursOf('layer1.1.bn1', shapes, { order, others })).toEqual({ oneOf });
    expect(neighboursOf('layer1.1.bn1', shapes, { others })).toEqual({ oneOf });
  });

  test('a block of one width, where conv1 may come before bn1 or after it', () => {
    const shapes: Shapes = { 'b.conv1.weight': [8, 8, 3, 3], 'b.conv2.weight': [8, 8, 3, 3] };
    expect(neighboursOf('b.bn2', shapes)).toEqual({ oneOf: ['b.conv1.weight', 'b.conv2.weight'] });
  });

  test('a norm layer in front of a head: what comes before the head; without the order, the head may as well', () => {
    const shapes: Shapes = { 'backbone.conv.weight': [8, 3], 'head.1.weight': [2, 8] };
    const oneOf = ['backbone.conv.weight', 'head.1.weight'];
    expect(neighboursOf('head.0', shapes, { order: ['backbone.conv', 'head.0', 'head.1'] })).toEqual({
      oneOf: ['backbone.conv.weight'],
    });
    expect(neighboursOf('head.0', shapes)).toEqual({ oneOf });
  });

  test('convolutions of which none has as many outputs: those of a concatenation', () => {
    const shapes: Shapes = { 'b.a.weight': [4, 3, 1, 1], 'b.c.weight': [4, 3, 3, 3], 'x.fc.weight': [2, 8] };
    expect(neighboursOf('b.norm', shapes, { order: ['b.a', 'b.c', 'b.norm', 'x.fc'] })).toEqual({
      oneOf: ['b.a.weight', 'b.c.weight'],
    });
  });
});

test('a file without a weight of two dimensions has nothing that feeds', () => {
  expect(neighboursOf('b.norm', { 'b.scale': [8] })).toEqual([]);
});

test('slopes and scales feed nothing: they stand between a weight and the layer', () => {
  const shapes: Shapes = { 'b.conv.weight': [8, 3], 'b.prelu.weight': [8] };
  expect(neighboursOf('b.norm', shapes, { order: ['b.conv', 'b.prelu', 'b.norm'] })).toEqual([
    'b.conv.weight',
  ]);
});

test('names of a hundred thousand components cost no more than their length', () => {
  const deep = 'a.'.repeat(100_000);
  expect(neighboursOf(`${deep}bn`, { [`${deep}conv.weight`]: [8, 3] })).toHaveLength(1);
});

test('what goes with a layer by name is the likeliest of all that may feed it', () => {
  // As many inputs as outputs everywhere, and nothing stands before: any of the two may feed either layer.
  const weight = (name: string) => tensorOf(name, Array<number>(64).fill(0), { shape: [8, 8] });
  const learned = new Map(['conv1.weight', 'conv2.weight'].map((name) => [name, weight(name)]));
  const layers = ['bn1', 'bn2'].map((name) => layerOf(name, { channels: 8 }));
  const found = findNamedNeighbours(layers, learned, null);
  expect(layers.map((layer) => found.get(layer))).toEqual([
    { neighbours: ['conv1.weight', 'conv2.weight'], areNeighboursCertain: false },
    { neighbours: ['conv2.weight', 'conv1.weight'], areNeighboursCertain: false },
  ]);
});

describe('the Linear of PaddlePaddle, which counts its inputs first', () => {
  const shapes: Shapes = { 'net.layers.0.weight': [8, 5], 'net.layers.1.weight': [5, 8] };
  const order = ['net.input_bn', 'net.layers.0', 'net.layers.1', 'net.norms.0', 'net.norms.1'];
  const others = { 'net.norms.0': 5, 'net.norms.1': 8 };

  test('feeds what has as many channels as its second dimension', () => {
    const surroundings: Surroundings = { order, framework: 'paddle' };
    expect(
      neighboursOf('net.norms.1', shapes, {
        ...surroundings,
        others: { 'net.input_bn': 8, 'net.norms.0': 5 },
      }),
    ).toEqual(['net.layers.1.weight']);
    // As in the same model of PyTorch, whose Linear has its outputs first.
    const turned: Shapes = { 'net.layers.0.weight': [5, 8], 'net.layers.1.weight': [8, 5] };
    expect(neighboursOf('net.input_bn', shapes, { ...surroundings, others })).toEqual(
      neighboursOf('net.input_bn', turned, { order, others }),
    );
  });

  test('and its convolutions count their outputs first', () => {
    const convolutions: Shapes = { 'net.conv1.weight': [8, 3, 3, 3], 'net.conv2.weight': [16, 8, 3, 3] };
    expect(neighboursOf('net.bn1', convolutions, { framework: 'paddle' })).toEqual(['net.conv1.weight']);
  });
});
