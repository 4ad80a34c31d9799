import { expect, test } from 'vitest';
import { windowedSource } from '../../src/io/byte-source.js';
import { failureOf } from '../build/failure.js';
import { countingSource } from '../build/sources.js';

const BYTES = Uint8Array.from({ length: 1000 }, (_, i) => i % 251);

async function read(
  source: ReturnType<typeof windowedSource>,
  position: number,
  length: number,
): Promise<number[]> {
  const target = new Uint8Array(length);
  await source.readInto(target, position);
  return [...target];
}

test('reads that lie close together cost one read below', async () => {
  const below = countingSource('b', BYTES);
  const source = windowedSource(below, 100);
  for (const position of [200, 250, 290, 205]) {
    expect(await read(source, position, 10)).toEqual([...BYTES.subarray(position, position + 10)]);
  }
  expect(below.bytesRead).toBe(100);
});

test('reads at the end and longer than the window are exact', async () => {
  const source = windowedSource(countingSource('b', BYTES), 100);
  expect(await read(source, 995, 5)).toEqual([...BYTES.subarray(995)]);
  expect(await read(source, 100, 500)).toEqual([...BYTES.subarray(100, 600)]);
});

test('reading beyond the end is refused', async () => {
  const source = windowedSource(countingSource('b', BYTES), 100);
  expect((await failureOf(() => read(source, 995, 6))).code).toBe('truncated');
});
