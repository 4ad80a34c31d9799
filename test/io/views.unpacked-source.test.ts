import { describe, expect, test } from 'vitest';
import { memorySource } from '../../src/io/byte-source.js';
import { unpackedSource } from '../../src/io/views.js';
import { failureOf } from '../build/failure.js';

const range = { source: memorySource('file', Uint8Array.of(99, 0x21, 0xf7, 0x08)), offset: 1, byteLength: 3 };

async function read(isSigned: boolean, from = 0, to = 5): Promise<readonly number[]> {
  const target = new Uint8Array(to - from);
  await unpackedSource(range, { count: 5, isSigned }).readInto(target, from);
  return [...(isSigned ? new Int8Array(target.buffer) : target)];
}

describe('integers of four bits', () => {
  test('are two to a byte, the first in its lower half', async () => {
    expect(await read(false)).toEqual([1, 2, 7, 15, 8]);
    expect(await read(true)).toEqual([1, 2, 7, -1, -8]);
  });

  test('are read from any one to any other', async () => {
    for (let from = 0; from <= 5; from++)
      for (let to = from; to <= 5; to++)
        expect(await read(true, from, to)).toEqual([1, 2, 7, -1, -8].slice(from, to));
  });

  test('end with the last one: the other half of its byte is none', async () => {
    expect((await failureOf(() => read(false, 4, 6))).code).toBe('truncated');
  });

  test('say that their bytes cannot be put back', () => {
    expect(unpackedSource(range, { count: 5, isSigned: true }).computedFrom).toBe(range);
  });
});
