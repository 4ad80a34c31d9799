// Puts the product in the place of a pruned weight and its mask, which are two tensors of one in a state dict.

import { type ByteSource, readRange, sliceRange, wholeOf } from '../io/byte-source.js';
import { computedSource } from '../io/views.js';
import { type Checkpoint, changeTensors, haveSameShape, type Tensor } from './checkpoint.js';
import { bitsOf, decodeFloats, encodeFloats, isDecodable } from './dtype.js';

/** torch.nn.utils.prune keeps `conv.weight` as these two until `prune.remove` makes their product permanent. */
const ORIGINAL = '_orig';
const MASK = '_mask';

/**
 * A checkpoint in which the product stands for every original and its mask: `conv.weight` for `conv.weight_orig` and
 * `conv.weight_mask`. It is what the model computes with, and what a later file has that was made permanent.
 */
export function multiplyMasks<Opened extends Checkpoint>(checkpoint: Opened): Opened {
  return changeTensors(checkpoint, findProducts);
}

/** The same map where no weight is pruned; products stand where the originals did. */
function findProducts(tensors: Checkpoint['tensors']): Checkpoint['tensors'] {
  const products = new Map<string, Tensor>();
  const masks = new Set<string>();
  tensors.forEach((original, name) => {
    if (!name.endsWith(ORIGINAL)) return;
    const bare = name.slice(0, -ORIGINAL.length);
    const mask = tensors.get(bare + MASK);
    if (mask === undefined || tensors.has(bare) || !canMultiply(original, mask)) return;
    products.set(name, multiply(bare, original, mask));
    masks.add(bare + MASK);
  });
  if (products.size === 0) return tensors;
  const kept = [...tensors].filter(([name]) => !masks.has(name));
  return new Map(
    kept.map(([name, tensor]) => {
      const product = products.get(name);
      return product === undefined ? [name, tensor] : [product.name, product];
    }),
  );
}

/** Of what a baseline keeps hashes of, no product can be told. */
function canMultiply(original: Tensor, mask: Tensor): boolean {
  return (
    haveSameShape(original, mask) &&
    [original, mask].every(({ dtype, fingerprint }) => isDecodable(dtype) && fingerprint === undefined)
  );
}

function multiply(name: string, original: Tensor, mask: Tensor): Tensor {
  return { ...original, name, range: wholeOf(productSource(original, mask)) };
}

/** So many elements are multiplied at a time, which take some 4 MB on the way. */
const PIECE_ELEMENTS = 128 * 1024;

/**
 * The products of two tensors as a source, computed as they are read. Of floats of one type they are those that PyTorch
 * computes: a float64 holds the exact product of all shorter ones, which is rounded once.
 */
function productSource(original: Tensor, mask: Tensor): ByteSource {
  const { dtype, range, elementCount: count } = original;
  const layout = { count, width: bitsOf(dtype) / 8, atOnce: PIECE_ELEMENTS };
  return computedSource(range, layout, async (first, end) => {
    const products = await readFloats(original, first, end);
    const factors = await readFloats(mask, first, end);
    for (let i = 0; i < products.length; i++)
      products[i] = (products[i] ?? Number.NaN) * (factors[i] ?? Number.NaN);
    return encodeFloats(products, dtype);
  });
}

/** Elements `first` up to `end` of a tensor. */
async function readFloats({ range, dtype }: Tensor, first: number, end: number): Promise<Float64Array> {
  const width = bitsOf(dtype) / 8;
  return decodeFloats(await readRange(sliceRange(range, first * width, end * width)), dtype);
}
