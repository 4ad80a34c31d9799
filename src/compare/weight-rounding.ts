import type { Tensor } from '../checkpoint/checkpoint.js';
import { significandBitsOf } from '../checkpoint/dtype.js';
import { type RoundedDifferences, relativeDifferenceIn, type ShortDifferences } from './rounding.js';

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

/**
 * What averages of weights and statistics add to the uncertainty of a scale. Their relative differences are bounds, while
 * an uncertainty is multiplied by the safety of whoever judges by it (16): twice the bound in all.
 */
export function roundingUncertainty(rounding: RoundedDifferences | ShortDifferences | null): number {
  return rounding === null ? 0 : relativeDifferenceIn(rounding) / 8;
}
