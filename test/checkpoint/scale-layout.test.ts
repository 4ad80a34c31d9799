import { describe, expect, test } from 'vitest';
import { layOutScales } from '../../src/checkpoint/scale-layout.js';

function list(shape: readonly number[], axis: number | null, blockSize?: number): readonly number[] {
  const { indexOf } = layOutScales(shape, { axis, blockSize });
  return Array.from({ length: shape.reduce((product, size) => product * size, 1) }, (_, i) => indexOf(i));
}

describe('the scales of a tensor', () => {
  test('are one for all, or one along an axis', () => {
    expect(list([2, 2], null)).toEqual([0, 0, 0, 0]);
    expect(list([2, 2], 0)).toEqual([0, 0, 1, 1]);
    expect(list([2, 2], 1)).toEqual([0, 1, 0, 1]);
  });

  test('are one for each block along an axis, the last of which may be short', () => {
    expect(list([2, 4], 1, 2)).toEqual([0, 0, 1, 1, 2, 2, 3, 3]);
    expect(list([2, 4], 0, 2)).toEqual([0, 1, 2, 3, 0, 1, 2, 3]);
    expect(list([2, 3], 1, 2)).toEqual([0, 0, 1, 2, 2, 3]);
    expect(list([3, 2], 0, 2)).toEqual([0, 1, 0, 1, 2, 3]);
  });

  test.each([
    [[2, 4], null, undefined, Number.POSITIVE_INFINITY],
    [[2, 4, 3], 1, undefined, 3],
    [[2, 4], 1, 2, 2],
    [[2, 3], 1, 2, 1],
    [[4, 2], 0, 2, 1],
  ] as const)('of %j along %s in blocks of %s stand together by %d', (shape, axis, blockSize, run) => {
    const layout = layOutScales(shape, { axis, blockSize });
    expect(layout.run).toBe(run);
    const scales = list(shape, axis, blockSize);
    for (const [element, scale] of scales.entries())
      if (element % run !== 0) expect(scale).toBe(scales[element - 1]);
  });
});
