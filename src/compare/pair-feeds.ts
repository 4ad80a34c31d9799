import { haveSameShape, type Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf } from '../checkpoint/dtype.js';
import { stridedSource } from '../io/strided-source.js';
import { findFeedingLinear, type LinearLayer } from '../norm/linear-layers.js';
import type { NormLayer } from '../norm/norm-layer.js';
import type { TensorPair } from './compare-learned.js';
import type { LayerPair } from './pair-layers.js';

/** A checkpoint as far as pairing feeds needs it. */
type FedSide = Parameters<typeof findFeedingLinear>[1];

/**
 * Pairs the weights and biases that feed norm layers of both checkpoints, where a graph has lost their names: exporters
 * transpose the weight of `nn.Linear(bias=False)` into a constant of a MatMul that they number.
 */
export function pairFeeds(
  pairs: readonly LayerPair[],
  before: { readonly checkpoint: FedSide; readonly learned: ReadonlyMap<string, Tensor> },
  after: typeof before,
): readonly TensorPair[] {
  const find = (layer: NormLayer, { checkpoint, learned }: typeof before) =>
    layer.areNeighboursCertain === false ? null : findFeedingLinear(layer, checkpoint, learned);
  return pairs.flatMap((pair) => {
    if (!pair.before.isFromGraph && !pair.after.isFromGraph) return [];
    const [left, right] = [find(pair.before, before), find(pair.after, after)];
    return left === null || right === null ? [] : pairParts(left, right);
  });
}

/** The weights of two linear layers that are the same one, and their biases. */
function pairParts(left: LinearLayer, right: LinearLayer): readonly TensorPair[] {
  const partner = layOutLike(left, right);
  const tensor = partner === null ? layOutLike(right, left) : left.weight;
  if (tensor === null) return [];
  return [
    {
      name: left.weightName,
      afterName: right.weightName,
      tensor,
      partner: partner ?? right.weight,
    },
    ...(left.bias === null || right.bias === null
      ? []
      : [{ name: left.biasName, afterName: right.biasName, tensor: left.bias, partner: right.bias }]),
  ];
}

/** A weight with its axes in another's order; null where it cannot be the same one. */
function layOutLike(other: LinearLayer, { weight, outputAxis }: LinearLayer): Tensor | null {
  const [rows = 0, columns = 0] = weight.shape;
  if (outputAxis === other.outputAxis) return haveSameShape(weight, other.weight) ? weight : null;
  const shape = [columns, rows];
  const isMatrix = weight.shape.length === 2 && other.weight.shape.length === 2;
  if (!isMatrix || !shape.every((size, axis) => size === other.weight.shape[axis])) return null;
  // A baseline's hash is that of one order.
  if (weight.fingerprint !== undefined || bitsOf(weight.dtype) < 8) return null;
  const view = { shape, strides: [1, columns], firstElement: 0, elementByteLength: bitsOf(weight.dtype) / 8 };
  return {
    ...weight,
    shape,
    range: { source: stridedSource(weight.range, view), offset: 0, byteLength: weight.range.byteLength },
  };
}
