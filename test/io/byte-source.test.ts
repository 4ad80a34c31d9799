import { describe, expect, test } from 'vitest';
import { checkBounds, memorySource, readRange } from '../../src/io/byte-source.js';
import { failureOf } from '../build/failure.js';

const TEN_BYTES = Uint8Array.from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);

describe('memorySource', () => {
  test('fills the target from the position on', async () => {
    const target = new Uint8Array(3);
    await memorySource('ten', TEN_BYTES).readInto(target, 4);
    expect([...target]).toEqual([4, 5, 6]);
  });

  test('reads up to the very end, and nothing at the end', async () => {
    const source = memorySource('ten', TEN_BYTES);
    const target = new Uint8Array(2);
    await source.readInto(target, 8);
    expect([...target]).toEqual([8, 9]);
    await source.readInto(new Uint8Array(0), 10);
  });

  test('refuses a read over the end, and fills nothing', async () => {
    const target = Uint8Array.from([42, 42, 42]);
    const failure = await failureOf(() => memorySource('ten', TEN_BYTES).readInto(target, 8));
    expect(failure).toEqual({
      message: 'expected 3 bytes, found the end of the file at byte 10',
      code: 'truncated',
      file: 'ten',
      offset: 8,
    });
    expect([...target]).toEqual([42, 42, 42]);
  });

  test('sees a view of larger memory as a source of its own', async () => {
    const source = memorySource('view', TEN_BYTES.subarray(5, 8));
    const target = new Uint8Array(3);
    await source.readInto(target, 0);
    expect(source.byteLength).toBe(3);
    expect([...target]).toEqual([5, 6, 7]);
  });
});

describe('readRange', () => {
  test('copies a range into memory of its own', async () => {
    const bytes = TEN_BYTES.slice();
    const copy = await readRange({ source: memorySource('ten', bytes), offset: 2, byteLength: 2 });
    bytes.fill(0);
    expect([...copy]).toEqual([2, 3]);
  });
});

describe('checkBounds', () => {
  test.each([
    ['a negative position', -1],
    ['a position that is no whole number', 0.5],
    ['a position beyond 2^53', 2 ** 53],
    ['NaN', Number.NaN],
  ])('refuses %s', async (_, position) => {
    const failure = await failureOf(() => checkBounds({ name: 'f', byteLength: 2 ** 60 }, position, 1));
    expect(failure.code).toBe('truncated');
  });

  test('accepts a read that ends exactly at the end', () => {
    expect(() => checkBounds({ name: 'f', byteLength: 10 }, 7, 3)).not.toThrow();
  });
});
