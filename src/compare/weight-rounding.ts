import type { Tensor } from '../checkpoint/checkpoint.js';
import { significandBitsOf } from '../checkpoint/dtype.js';

/** Half the distance between neighbouring float32 values, relative: folding computes in float32 or better. */
export const FLOAT32_ROUNDOFF = 2 ** -24;

/**
 * How many roundings apart two proportional weights may be. Folding rounds the product once, on either side, and the
 * estimate of the scale carries a part of them all.
 */
export const ROUNDINGS = 4;

/** Half the relative distance between neighbouring values of a tensor's type, float32's at the least. */
export function roundoffOf({ dtype }: Tensor): number {
  return Math.max(FLOAT32_ROUNDOFF, 2 ** -(significandBitsOf(dtype) + 1));
}
