import { describe, expect, test } from 'vitest';
import { findCommonOffset } from '../../src/folding/recover-statistics.js';

describe('an epsilon that many layers have in common', () => {
  const layerOf = (tolerance: number) => ({
    assumed: 1e-5,
    offsets: [9.9e-4, 9.9e-4, 9.9e-4, 9.9e-4],
    tolerances: [tolerance, tolerance, tolerance, tolerance],
    isExplained: false,
  });

  test('is the one that takes all of them to where they were', () => {
    expect(findCommonOffset([layerOf(1e-8), layerOf(1e-8)])).toMatchObject({ actual: 1e-3, layers: 2 });
  });

  test('is none where what quantisation leaves open is as wide as the shift', () => {
    expect(findCommonOffset([layerOf(4e-4), layerOf(4e-4)])).toBeNull();
  });
});
