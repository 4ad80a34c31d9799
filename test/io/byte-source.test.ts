import { describe, expect, test } from 'vitest';
import {
  checkBounds,
  haveSameBytes,
  holdBytes,
  memorySource,
  readRange,
  sliceRange,
} from '../../src/io/byte-source.js';
import { failureOf } from '../build/failure.js';
import { countingSource } from '../build/sources.js';

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

describe('haveSameBytes', () => {
  const LONG = 300_000;
  const bytesWith = (at: number) => {
    const bytes = new Uint8Array(LONG);
    bytes[at] = 1;
    return bytes;
  };

  test.each([0, 4095, 4096, 70_000, LONG - 1])('sees one byte that differs, at %i', async (at) => {
    const [one, other] = [holdBytes(new Uint8Array(LONG)), holdBytes(bytesWith(at))];
    expect(await haveSameBytes(one, other)).toBe(false);
    expect(await haveSameBytes(other, holdBytes(bytesWith(at)))).toBe(true);
  });

  test('takes ranges of different lengths for different', async () => {
    const ten = holdBytes(TEN_BYTES);
    expect(await haveSameBytes(ten, sliceRange(ten, 0, 9))).toBe(false);
    expect(await haveSameBytes(sliceRange(ten, 2, 2), sliceRange(ten, 9, 9))).toBe(true);
  });

  test('reads no further than the piece that differs, and nothing of one range twice', async () => {
    const source = countingSource('long', bytesWith(0));
    const range = { source, offset: 0, byteLength: LONG };
    expect(await haveSameBytes(range, holdBytes(new Uint8Array(LONG)))).toBe(false);
    expect(source.bytesRead).toBeLessThan(LONG / 10);
    const read = source.bytesRead;
    expect(await haveSameBytes(range, { ...range })).toBe(true);
    expect(source.bytesRead).toBe(read);
  });
});
