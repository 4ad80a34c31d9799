import { MAX_COUNTED_WEIGHTS } from '../checkpoint/projections.js';

// The loops over single weights are plain functions over plain arrays: they run a hundred million times.

/** Weights as numbers: those of float32 as they stand, those of other types converted. */
export type Values = Float32Array | Float64Array;

/** Elements of a block, from `from` up to `to`. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

/**
 * Stores Σxy and Σx² of a span, in float64. In four chains each, since an addition waits for the one before it.
 */
export function sumProducts(left: Values, right: Values, { from, to }: Span, sums: Float64Array): void {
  let [product0, product1, product2, product3] = [0, 0, 0, 0];
  let [square0, square1, square2, square3] = [0, 0, 0, 0];
  const whole = to - ((to - from) % 4);
  for (let i = from; i < whole; i += 4) {
    const x0 = left[i] as number;
    const x1 = left[i + 1] as number;
    const x2 = left[i + 2] as number;
    const x3 = left[i + 3] as number;
    product0 += x0 * (right[i] as number);
    product1 += x1 * (right[i + 1] as number);
    product2 += x2 * (right[i + 2] as number);
    product3 += x3 * (right[i + 3] as number);
    square0 += x0 * x0;
    square1 += x1 * x1;
    square2 += x2 * x2;
    square3 += x3 * x3;
  }
  for (let i = whole; i < to; i++) {
    const x = left[i] as number;
    product0 += x * (right[i] as number);
    square0 += x * x;
  }
  sums[0] = product0 + product2 + (product1 + product3);
  sums[1] = square0 + square2 + (square1 + square3);
}

/** Elements other than zero on either side, up to as many as matter. */
export function countWeights(left: Values, right: Values, { from, to }: Span): number {
  // Read once: in the built file an imported constant is a property of another file.
  const enough = MAX_COUNTED_WEIGHTS;
  let count = 0;
  for (let i = from; i < to && count < enough; i++) {
    if (left[i] !== 0 || right[i] !== 0) count++;
  }
  return count;
}

/** What a span of one side is held against the other's by. */
export interface Multiple extends Span {
  readonly scale: number;
  /** Allowed difference for each unit of x, and at least. */
  readonly relative: number;
  readonly absolute: number;
}

/** Whether every element of `right` is `scale` times that of `left`, within tolerance. A NaN is not. */
export function areMultiples(
  left: Values,
  right: Values,
  { from, to, scale, relative, absolute }: Multiple,
): boolean {
  const paired = to - ((to - from) % 2);
  for (let i = from; i < paired; i += 2) {
    const x = left[i] as number;
    const next = left[i + 1] as number;
    const excess = Math.abs((right[i] as number) - x * scale) - relative * Math.abs(x);
    const nextExcess = Math.abs((right[i + 1] as number) - next * scale) - relative * Math.abs(next);
    if (!(excess <= absolute && nextExcess <= absolute)) return false;
  }
  if (paired === to) return true;
  const x = left[paired] as number;
  return Math.abs((right[paired] as number) - x * scale) - relative * Math.abs(x) <= absolute;
}

/**
 * Replaces a span by its products with a factor, computed in float64 and rounded once.
 *
 * @returns false, and a span of no meaning, where a product is no finite number of float32.
 */
export function multiply(values: Float32Array, { from, to }: Span, factor: number): boolean {
  for (let i = from; i < to; i++) {
    const product = Math.fround(factor * (values[i] as number));
    if (!(Math.abs(product) < Number.POSITIVE_INFINITY)) return false;
    values[i] = product;
  }
  return true;
}
