// Which scale each element of a quantised tensor has: one for all, one along an axis, or one for each block along it.

import { countElements } from '../io/row-major.js';
import type { Quantisation } from './checkpoint.js';

/** Which of its scales each element of a quantised tensor has. */
export interface ScaleLayout {
  /** So many elements have one scale, from each multiple of that number on. */
  readonly run: number;
  /** The index of an element's scale, and of its zero point where these are as many. */
  readonly indexOf: (element: number) => number;
}

/**
 * Lays out the scales of a tensor. E.g. [2, 4] with blocks of 2 along axis 1 has scales [2, 2]: those of its elements are
 * 0 0 1 1 and 2 2 3 3; along axis 0 they are [1, 4], and 0 1 2 3 twice.
 *
 * @param shape of the tensor.
 */
export function layOutScales(
  shape: readonly number[],
  { axis, blockSize }: Pick<Quantisation, 'axis' | 'blockSize'>,
): ScaleLayout {
  if (axis === null) return { run: Number.POSITIVE_INFINITY, indexOf: () => 0 };
  const inner = countElements(shape.slice(axis + 1));
  const size = shape[axis] ?? 1;
  if (blockSize === undefined)
    return { run: inner, indexOf: (element) => Math.floor(element / inner) % size };
  const blocks = Math.ceil(size / blockSize);
  return {
    run: inner === 1 && size % blockSize === 0 ? blockSize : 1,
    indexOf: (element) => {
      const row = Math.floor(element / inner);
      const block = Math.floor(row / size) * blocks + Math.floor((row % size) / blockSize);
      return block * inner + (element % inner);
    },
  };
}
