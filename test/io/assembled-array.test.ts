import { describe, expect, test } from 'vitest';
import { type ArrayPiece, assembleArray } from '../../src/io/assembled-array.js';
import {
  type ByteRange,
  holdBytes,
  joinRanges,
  memorySource,
  readRange,
  refuseAmplified,
  sliceRange,
  wholeOf,
} from '../../src/io/byte-source.js';
import { failureOf } from '../build/failure.js';

const piece = (
  offsets: readonly number[],
  sizes: readonly number[],
  ...elements: readonly number[]
): ArrayPiece => ({ offsets, sizes, range: holdBytes(Uint8Array.from(elements)) });

/** One byte, read as often as is wanted. */
const repeated = (byteLength: number): ByteRange => {
  const one = memorySource('one', Uint8Array.of(7));
  return wholeOf({
    ...one,
    byteLength,
    readInto: async (target) => void target.fill(7),
    computedFrom: wholeOf(one),
  });
};

async function read(range: ByteRange | null): Promise<readonly number[] | null> {
  return range === null ? null : [...(await readRange(range))];
}

describe('an array in pieces', () => {
  const quarters = [
    piece([0, 0], [1, 2], 1, 2),
    piece([0, 2], [1, 1], 3),
    piece([1, 2], [2, 1], 6, 9),
    piece([1, 0], [2, 2], 4, 5, 7, 8),
  ];

  /** Each lies along the diagonal of an array that one more covers. */
  const shreds = [
    { offsets: [0, 0], sizes: [300, 300], range: repeated(90_000) },
    ...Array.from({ length: 99 }, (_, at) => piece([3 * at, 3 * at], [1, 1], 0)),
  ];

  test('is read row by row, from any place on', async () => {
    const array = assembleArray('a', [3, 3], 1, quarters);
    expect(await read(array)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(array && (await read(sliceRange(array, 4, 8)))).toEqual([5, 6, 7, 8]);
  });

  test.each<[name: string, pieces: readonly ArrayPiece[]]>([
    ['with a hole', quarters.slice(1)],
    ['beyond its end', [...quarters, piece([3, 0], [1, 1], 0)]],
    ['in shreds', shreds],
  ])('%s is none', (_, pieces) => {
    expect(assembleArray('a', pieces === shreds ? [300, 300] : [3, 3], 1, pieces)).toBeNull();
  });

  test('of no elements', async () => {
    expect(await read(assembleArray('a', [0, 3], 4, [piece([0, 0], [0, 3])]))).toEqual([]);
  });

  test('of millions of runs takes no memory', async () => {
    const rows = 2 ** 26;
    const columns = [0, 1].map((at) => ({ offsets: [0, at], sizes: [rows, 1], range: repeated(rows) }));
    const array = assembleArray('a', [rows, 2], 1, columns);
    expect(array && (await read(sliceRange(array, 2 ** 26, 2 ** 26 + 3)))).toEqual([7, 7, 7]);
  }, 1_000);

  test('claims no more than its pieces are made of', async () => {
    const halves = [0, 2 ** 30].map((at) => ({ offsets: [at], sizes: [2 ** 30], range: repeated(2 ** 30) }));
    const array = assembleArray('a', [2 ** 31], 1, halves);
    const failure = await failureOf(async () => refuseAmplified(array === null ? [] : [array], 'm'));
    expect(failure.message).toContain('the 2 bytes that are stored');
  });
});

test('one range that is computed stays so under another name', async () => {
  const { source } = joinRanges('inner', [repeated(2 ** 30)]);
  const failure = await failureOf(async () => refuseAmplified([wholeOf(source)], 'm'));
  expect(failure.code).toBe('limit-exceeded');
});
