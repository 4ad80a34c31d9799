import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { countKernelCalls } from '../build/count-kernels.js';
import { makeTempDirectory } from '../build/sources.js';
import { writeBefore, writeFolded } from './folded-pair.js';

const place = makeTempDirectory();

afterEach(() => {
  vi.unstubAllGlobals();
  vi.resetModules();
});

test('WebAssembly fits, checks and multiplies weights', async () => {
  const paths = [writeBefore(place, [0.3, 7]), writeFolded(place, 'F32'), join(place, 'fixed.onnx')] as const;
  const calls = countKernelCalls();
  const { restore } = await import('../../src/restore.js');
  await restore(...paths);
  // Two channels of one pair of weights, which are audited before and after they are written.
  expect(calls).toEqual({ sumProducts: 4, areMultiples: 4, multiply: 2 });
});
