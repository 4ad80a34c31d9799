import { expect, test } from 'vitest';
import type { ConstantInput } from '../../src/checkpoint/checkpoint.js';
import type { DType } from '../../src/checkpoint/dtype.js';
import { findFeedingLinear } from '../../src/norm/norm-layer.js';
import { checkpointOf, tensorOf, tensorOfBytes } from '../build/checkpoints.js';
import { graphOf, layerOf, linearNodeOf } from '../build/layers.js';

const weight = tensorOf('conv.weight', [1, 2], { shape: [2, 1, 1, 1] });
const layer = layerOf('bn', { neighbours: ['conv.weight'], feedingLinear: 0 });

const findByName = (bias: ReturnType<typeof tensorOf>) =>
  findFeedingLinear(layer, checkpointOf([]), new Map([weight, bias].map((tensor) => [tensor.name, tensor])));

test('the neighbour with the layer’s channels feeds it, with its bias', () => {
  expect(findByName(tensorOf('conv.bias', [3, 4]))).toMatchObject({ path: 'conv', biasName: 'conv.bias' });
});

test.each<[string, DType, number]>([
  ['a type without floats', 'C64', 2],
  ['another length', 'F32', 3],
])('a neighbour whose bias is of %s is none: what it adds cannot be told', (_what, dtype, length) => {
  const bytes = new Uint8Array(8 * length);
  expect(findByName(tensorOfBytes('conv.bias', bytes, { dtype, shape: [length] }))).toBeNull();
});

test('a graph’s linear node feeds a layer only where its bias can be told', () => {
  const find = (bias: ConstantInput) => {
    const node = linearNodeOf('conv', { weight: [1, 2], shape: [2, 1, 1, 1] }, { bias });
    return findFeedingLinear(layer, checkpointOf([], { graph: graphOf([], [node]) }), new Map());
  };
  expect(find({ kind: 'absent' })).toMatchObject({ path: 'conv', bias: null });
  expect(find({ kind: 'unresolved', reason: 'computed' })).toBeNull();
});
