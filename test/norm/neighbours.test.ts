import { describe, expect, test } from 'vitest';
import { findNamedNeighbours, groupModules } from '../../src/norm/neighbours.js';
import { tensorOf } from '../build/checkpoints.js';
import { layerOf } from '../build/layers.js';

type Shapes = Readonly<Record<string, readonly number[]>>;

/** The neighbours of a layer among learned tensors of these shapes; `order` is the module order, where it is known. */
function neighboursOf(
  name: string,
  shapes: Shapes,
  {
    order,
    channels = 8,
    otherLayers = [],
  }: { order?: readonly string[]; channels?: number; otherLayers?: readonly string[] } = {},
): readonly string[] {
  const layer = layerOf(name, { channels });
  const learned = new Map(
    Object.entries(shapes).map(([tensor, shape]) => [
      tensor,
      tensorOf(tensor, Array<number>(shape.reduce((product, size) => product * size, 1)).fill(0), { shape }),
    ]),
  );
  const layers = new Map(
    [layer, ...otherLayers.map((other) => layerOf(other, { channels }))].map((one) => [one.name, one]),
  );
  const positions = order === undefined ? null : new Map(order.map((module, index) => [module, index]));
  return findNamedNeighbours(layer, {
    modules: groupModules(learned, (path) => layers.has(path)),
    positions,
  });
}

describe('rule 1: the nearest before it whose weight’s first dimension is the channel count', () => {
  test('in the module order that the file keeps', () => {
    const shapes: Shapes = {
      'net.a.weight': [8, 3],
      'net.b.weight': [8, 8],
      'net.b.bias': [8],
      'net.c.weight': [8, 8],
    };
    expect(neighboursOf('net.norm', shapes, { order: ['net.a', 'net.b', 'net.norm', 'net.c'] })).toEqual([
      'net.b.weight',
      'net.b.bias',
    ]);
  });

  test('in module order it may stand deeper under the same parent', () => {
    const shapes: Shapes = { 'net.a.weight': [8, 3], 'net.block.conv.weight': [8, 8] };
    expect(neighboursOf('net.norm', shapes, { order: ['net.a', 'net.block.conv', 'net.norm'] })).toEqual([
      'net.block.conv.weight',
    ]);
  });

  test('the nearest of another width is skipped', () => {
    const shapes: Shapes = { 'a.weight': [8, 3], 'b.weight': [4, 8] };
    expect(neighboursOf('norm', shapes, { order: ['a', 'b', 'norm'] })).toEqual(['a.weight']);
  });

  test('numbered siblings stand in the order of their numbers, not of their digits', () => {
    const shapes: Shapes = {
      'net.10.weight': [8, 8],
      'net.2.weight': [8, 8],
      'net.9.weight': [8, 8],
      'net.12.weight': [8, 8],
    };
    expect(neighboursOf('net.11', shapes)).toEqual(['net.10.weight']);
    expect(neighboursOf('net.3', shapes)).toEqual(['net.2.weight']);
  });

  test('bn2 goes with conv2, and no other number', () => {
    const shapes: Shapes = { 'b.conv1.weight': [8, 8], 'b.conv2.weight': [8, 8], 'b.conv12.weight': [8, 8] };
    expect(neighboursOf('b.bn2', shapes)).toEqual(['b.conv2.weight']);
  });

  test('other norm layers are no neighbours, though they are as wide', () => {
    const shapes: Shapes = { 'net.0.weight': [8, 3], 'net.1.weight': [8], 'net.1.bias': [8] };
    expect(neighboursOf('net.2', shapes, { otherLayers: ['net.1'] })).toEqual(['net.0.weight']);
  });

  test('the weight decides, not the bias that stands first', () => {
    const shapes: Shapes = { 'net.conv1.bias': [8], 'net.conv1.weight': [3, 8], 'net.fc1.weight': [8, 4] };
    expect(neighboursOf('net.bn1', shapes)).toEqual(['net.fc1.weight']);
  });
});

describe('rule 1: a transposed convolution before it, where no weight’s first dimension fits', () => {
  test('in module order, though a later sibling’s first dimension is the channel count', () => {
    const shapes: Shapes = { 'up.0.weight': [16, 8, 2, 2], 'up.3.weight': [8, 4, 2, 2] };
    expect(neighboursOf('up.1', shapes, { order: ['up.0', 'up.1', 'up.3'] })).toEqual(['up.0.weight']);
  });

  test('a linear layer is none: its second dimension counts inputs', () => {
    const shapes: Shapes = { 'a.weight': [4, 8], 'c.weight': [8, 2] };
    expect(neighboursOf('norm', shapes, { order: ['a', 'norm', 'c'] })).toEqual(['c.weight']);
  });
});

describe('rule 1: names that go together, where the file has lost the order', () => {
  test('conv1_bn goes with conv1', () => {
    const shapes: Shapes = { 'conv1.w': [8, 3, 3, 3], 'conv2.w': [8, 8, 3, 3], 'conv1.b': [8] };
    expect(neighboursOf('conv1_bn', shapes)).toEqual(['conv1.w', 'conv1.b']);
  });

  test('stage2_unit1_bn1 goes with the conv1 of its own unit', () => {
    const shapes: Shapes = { 'stage1_unit1_conv1.weight': [8, 8], 'stage2_unit1_conv1.weight': [8, 8] };
    expect(neighboursOf('stage2_unit1_bn1', shapes)).toEqual(['stage2_unit1_conv1.weight']);
  });
});

describe('rule 1: frameworks that number each class by itself', () => {
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
    expect(neighboursOf('batch_normalization', shapes)).toEqual(['conv2d.kernel']);
    expect(neighboursOf('batch_normalization_1', shapes)).toEqual(['conv2d_1.kernel']);
  });
});

describe('kernels of Keras and Flax count their outputs last', () => {
  test('so that a trained head of as many inputs is no neighbour', () => {
    const shapes: Shapes = { 'conv_1.kernel': [3, 3, 3, 8], 'dense.kernel': [8, 10] };
    expect(neighboursOf('bn_1', shapes)).toEqual(['conv_1.kernel']);
    expect(neighboursOf('norm', shapes)).toEqual(['conv_1.kernel']);
  });

  test('depthwise ones per input channel, and the pointwise one decides where both stand', () => {
    const shapes: Shapes = {
      'dw.depthwise_kernel': [3, 3, 4, 2],
      'separable.depthwise_kernel': [3, 3, 4, 1],
      'separable.pointwise_kernel': [1, 1, 4, 16],
    };
    expect(neighboursOf('dw_bn', shapes)).toEqual(['dw.depthwise_kernel']);
    expect(neighboursOf('separable_bn', shapes, { channels: 16 })).toEqual([
      'separable.depthwise_kernel',
      'separable.pointwise_kernel',
    ]);
  });
});

describe('rule 2: every sibling whose first dimension is the channel count', () => {
  test('where nothing tells which one comes before', () => {
    const shapes: Shapes = {
      'b.conv.weight': [8, 3],
      'b.conv.bias': [8],
      'b.proj.weight': [8, 8],
      'b.fc.weight': [4, 8],
    };
    expect(neighboursOf('b.norm', shapes)).toEqual(['b.conv.weight', 'b.conv.bias', 'b.proj.weight']);
  });

  test('where the norm layer comes first in module order', () => {
    const shapes: Shapes = { 'b.conv.weight': [8, 3] };
    expect(neighboursOf('b.norm', shapes, { order: ['b.norm', 'b.conv'] })).toEqual(['b.conv.weight']);
  });

  test('not what lies deeper than a sibling', () => {
    const shapes: Shapes = { 'b.conv.weight': [8, 3], 'b.block.conv.weight': [8, 8] };
    expect(neighboursOf('b.norm', shapes)).toEqual(['b.conv.weight']);
  });
});

describe('rule 3: every sibling with any such dimension', () => {
  test('as of a transposed convolution', () => {
    const shapes: Shapes = { 'b.up.weight': [4, 8, 2, 2], 'b.fc.weight': [3, 4] };
    expect(neighboursOf('b.norm', shapes)).toEqual(['b.up.weight']);
  });
});

describe('rule 4: every learned tensor under the parent', () => {
  test('whatever its shape and depth', () => {
    const shapes: Shapes = {
      'b.fc.weight': [3, 4],
      'b.block.conv.weight': [8, 8],
      'b.scale': [1],
      'c.conv.weight': [8, 8],
    };
    expect(neighboursOf('b.norm', shapes)).toEqual(['b.fc.weight', 'b.block.conv.weight', 'b.scale']);
  });

  test('the parent of a top-level layer is the model', () => {
    expect(neighboursOf('norm', { 'x.y.weight': [3] })).toEqual(['x.y.weight']);
  });
});

test('a layer alone under its parent has no neighbours', () => {
  expect(neighboursOf('b.norm', { 'c.conv.weight': [8, 8], 'b2.conv.weight': [8, 8] })).toEqual([]);
});

test('what feeds the layer lies under the same parent: names of another module say nothing', () => {
  expect(neighboursOf('b.bn1', { 'a.conv1.weight': [8, 8], 'b.fc.weight': [8, 2] })).toEqual(['b.fc.weight']);
});
