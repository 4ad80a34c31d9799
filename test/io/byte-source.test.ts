import { describe, expect, test } from 'vitest';
import {
  type ByteSource,
  checkBounds,
  haveSameBytes,
  holdBytes,
  memorySource,
  readRange,
  readRanges,
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

describe('readRanges', () => {
  const bytes = Uint8Array.from({ length: 1000 }, (_, index) => index % 251);
  const rangesAt = (source: ByteSource, places: readonly (readonly [number, number] | null)[]) =>
    places.map((place) => (place === null ? null : { source, offset: place[0], byteLength: place[1] }));

  test.each<readonly [string, readonly (readonly [number, number] | null)[], number]>([
    [
      'what stands together, in any order',
      [
        [20, 10],
        [0, 10],
        [12, 8],
      ],
      30,
    ],
    [
      'with more between than is wanted, each by itself',
      [
        [0, 10],
        [31, 10],
      ],
      20,
    ],
    [
      'with as much between as is wanted',
      [
        [0, 10],
        [20, 10],
        [40, 10],
      ],
      50,
    ],
    [
      'what overlaps',
      [
        [0, 10],
        [5, 10],
        [0, 3],
      ],
      15,
    ],
    [
      'what is far apart, each by itself',
      [
        [0, 10],
        [900, 10],
      ],
      20,
    ],
    ['one range', [[5, 7]], 7],
    ['nothing where there is none', [null, [3, 4], null], 4],
    ['nothing at all', [null, null], 0],
    ['an empty range', [[4, 0]], 0],
  ])('reads %s', async (_, places, bytesRead) => {
    const source = countingSource('file', bytes);
    const read = await readRanges(rangesAt(source, places));
    expect(read).toEqual(
      places.map((place) => (place === null ? null : bytes.subarray(place[0], place[0] + place[1]))),
    );
    expect(source.bytesRead).toBe(bytesRead);
  });

  test('reads ranges of several sources', async () => {
    const other = memorySource('other', bytes.toReversed());
    const ranges = [...rangesAt(memorySource('one', bytes), [[0, 2]]), ...rangesAt(other, [[1, 2]])];
    expect(await readRanges(ranges)).toEqual([bytes.subarray(0, 2), bytes.toReversed().subarray(1, 3)]);
  });

  test('reads what is long in pieces of its own', async () => {
    const long = new Uint8Array(400_000).fill(7);
    const source = countingSource('file', long);
    const read = await readRanges(
      rangesAt(source, [
        [0, 150_000],
        [150_000, 150_000],
      ]),
    );
    expect(read).toEqual([long.subarray(0, 150_000), long.subarray(0, 150_000)]);
    expect(read[0]?.buffer).not.toBe(read[1]?.buffer);
  });

  test('fails where a range lies beyond the end', async () => {
    const ranges = rangesAt(memorySource('file', bytes), [
      [990, 5],
      [995, 10],
    ]);
    expect((await failureOf(() => readRanges(ranges))).code).toBe('truncated');
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
