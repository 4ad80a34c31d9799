import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type ByteRange, memorySource, readRange } from '../../src/io/byte-source.js';
import { inStoredOrder, Keeper, type StridedView, stridedSource } from '../../src/io/views.js';
import { failureOf } from '../build/failure.js';
import { countingSource } from '../build/sources.js';

const whole = (bytes: Uint8Array) => ({
  source: memorySource('m', bytes),
  offset: 0,
  byteLength: bytes.length,
});

/** The view's bytes, gathered the plain way. */
function gatherPlainly(
  bytes: Uint8Array,
  { shape, strides, firstElement, elementByteLength }: StridedView,
): number[] {
  let offsets = [firstElement];
  shape.forEach((size, axis) => {
    offsets = offsets.flatMap((at) => Array.from({ length: size }, (_, i) => at + i * (strides[axis] ?? 0)));
  });
  return offsets.flatMap((at) => [...bytes.subarray(at * elementByteLength, (at + 1) * elementByteLength)]);
}

describe('a strided source', () => {
  test('gathers any view, read in any pieces', async () => {
    const axis = fc.record({ size: fc.integer({ min: 1, max: 5 }), stride: fc.integer({ min: 0, max: 7 }) });
    await fc.assert(
      fc.asyncProperty(
        fc.array(axis, { maxLength: 4 }),
        fc.constantFrom(1, 2, 4, 8),
        fc.nat(5),
        fc.nat(1000),
        fc.nat(1000),
        async (axes, elementByteLength, firstElement, from, length) => {
          const bytes = Uint8Array.from({ length: 1200 }, (_, i) => i % 253);
          const view = {
            shape: axes.map((a) => a.size),
            strides: axes.map((a) => a.stride),
            firstElement,
            elementByteLength,
          };
          const source = stridedSource(whole(bytes), view);
          const expected = gatherPlainly(bytes, view);
          expect(source.byteLength).toBe(expected.length);
          const start = from % expected.length;
          const target = new Uint8Array(length % (expected.length - start + 1));
          await source.readInto(target, start);
          expect([...target]).toEqual(expected.slice(start, start + target.length));
        },
      ),
    );
  });

  /** Reads a view from front to back, as comparisons and hashes do. */
  async function readOn(view: StridedView, bytes: Uint8Array) {
    const below = countingSource('m', bytes);
    const source = stridedSource({ source: below, offset: 0, byteLength: bytes.byteLength }, view);
    const read = new Uint8Array(source.byteLength);
    for (let at = 0; at < read.byteLength; at += 64 * 1024)
      await source.readInto(read.subarray(at, at + 64 * 1024), at);
    return { read, bytesRead: below.bytesRead };
  }

  /** A view of all elements of a shape, whose axes lie in another order, the outermost first. */
  function permuted(shape: readonly number[], order: readonly number[], elementByteLength = 4): StridedView {
    const strides = shape.map(() => 0);
    let stride = 1;
    for (const axis of order.toReversed()) {
      strides[axis] = stride;
      stride *= shape[axis] ?? 1;
    }
    return { shape, strides, firstElement: 0, elementByteLength };
  }

  test.each<[string, readonly number[], readonly number[]]>([
    ['a wide transposed matrix', [300, 400], [1, 0]],
    ['one with a few long columns', [3, 40_000], [1, 0]],
    ['one with many short ones', [40_000, 3], [1, 0]],
    ['channels_last', [40, 70, 3, 5], [0, 2, 3, 1]],
    ['channels_last in 3-D', [8, 30, 3, 5, 7], [0, 2, 3, 4, 1]],
    ['axes in any order', [9, 8, 7, 6, 5, 4], [4, 1, 5, 0, 3, 2]],
    ['many axes of two', Array(16).fill(2), [3, 10, 1, 15, 8, 0, 12, 5, 7, 2, 14, 9, 4, 11, 6, 13]],
  ])('read on and on, %s costs little more than what is stored', async (_, shape, order) => {
    for (const width of [1, 2, 4, 16]) {
      const count = shape.reduce((product, size) => product * size, 1);
      const bytes = Uint8Array.from({ length: count * width }, (_, i) => (i * 31 + (i >>> 8)) % 251);
      const view = permuted(shape, order, width);
      const { read, bytesRead } = await readOn(view, bytes);
      expect(Buffer.compare(read, Uint8Array.from(gatherPlainly(bytes, view)))).toBe(0);
      // Each piece reads the whole of a matrix with short columns; there are five pieces at most.
      expect(bytesRead).toBeLessThanOrEqual(5 * bytes.byteLength);
    }
  });

  test('what is spread is read run by run, not with all that lies between', async () => {
    const bytes = new Uint8Array(20_000_000).map((_, i) => i % 253);
    const view = { shape: [20, 100], strides: [1_000_000, 1], firstElement: 7, elementByteLength: 1 };
    const { read, bytesRead } = await readOn(view, bytes);
    expect([...read]).toEqual(gatherPlainly(bytes, view));
    expect(bytesRead).toBe(2000);
  });

  test('one number repeated is read once for a piece', async () => {
    const view = { shape: [1000, 300], strides: [0, 0], firstElement: 3, elementByteLength: 4 };
    const { read, bytesRead } = await readOn(
      view,
      Uint8Array.from({ length: 16 }, (_, i) => i),
    );
    expect(new Set(new Uint32Array(read.buffer))).toEqual(new Set([0x0f0e0d0c]));
    expect(bytesRead).toBeLessThan(4 * 20);
  });

  test('windows that overlap are read as a whole, up to a limit', async () => {
    const bytes = Uint8Array.from({ length: 4000 }, (_, i) => i % 253);
    const view = { shape: [1000, 1000], strides: [2, 1], firstElement: 0, elementByteLength: 1 };
    const { read, bytesRead } = await readOn(view, bytes);
    expect(Buffer.compare(read, Uint8Array.from(gatherPlainly(bytes, view)))).toBe(0);
    expect(bytesRead).toBeLessThan(20 * bytes.byteLength);
    const wide = { shape: [9000, 9000], strides: [4097, 4096], firstElement: 0, elementByteLength: 1 };
    const range = { ...whole(bytes), byteLength: 2 ** 40 };
    const failure = await failureOf(() => stridedSource(range, wide).readInto(new Uint8Array(100_000), 0));
    expect(failure).toMatchObject({
      code: 'limit-exceeded',
      message: expect.stringMatching(/^expected windows that overlap within at most 16777216 bytes/),
    });
  });

  test('of the views of one keeper, the one that was read last holds a piece', async () => {
    const below = countingSource('m', new Uint8Array(40_000));
    const range = { source: below, offset: 0, byteLength: below.byteLength };
    const view = { shape: [100, 100], strides: [1, 100], firstElement: 0, elementByteLength: 4 };
    const keeper = new Keeper();
    const [one, other] = [stridedSource(range, view, keeper), stridedSource(range, view, keeper)];
    const readTwice = async (source: typeof one) => {
      for (const byteLength of [40_000, 400]) await readRange({ source, offset: 0, byteLength });
      return below.bytesRead;
    };
    expect(await readTwice(one)).toBe(40_000);
    expect(await readTwice(other)).toBe(80_000);
    expect(await readTwice(one)).toBe(120_000);
  });

  test('refuses to read beyond its end', async () => {
    const view = { shape: [2], strides: [3], firstElement: 0, elementByteLength: 1 };
    const source = stridedSource(whole(new Uint8Array(4)), view);
    expect((await failureOf(() => source.readInto(new Uint8Array(3), 0))).code).toBe('truncated');
  });
});

describe('two views of one layout, in the order in which they are stored', () => {
  const bytes = Uint8Array.from({ length: 400 }, (_, i) => i % 253);
  const rangeOf = (
    shape: number[],
    strides: number[],
    firstElement = 0,
    elementByteLength = 1,
  ): ByteRange => {
    const source = stridedSource(whole(bytes), { shape, strides, firstElement, elementByteLength });
    return { source, offset: 0, byteLength: source.byteLength };
  };
  const read = async (...ranges: [ByteRange, ByteRange]) => {
    const stored = inStoredOrder(...ranges);
    return stored === null
      ? null
      : await Promise.all(stored.map(async (range) => [...(await readRange(range))]));
  };

  test.each<[string, number[], number[], number[]]>([
    ['transposed', [3, 4], [1, 3], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]],
    ['channels_last', [2, 2, 1, 2], [4, 1, 4, 2], [5, 6, 7, 8, 9, 10, 11, 12]],
    ['expanded', [50, 3, 9], [0, 1, 0], [5, 6, 7]],
    ['sliced and transposed', [2, 3], [1, 10], [5, 6, 15, 16, 25, 26]],
  ])('%s', async (_, shape, strides, expected) => {
    const stored = await read(rangeOf(shape, strides, 5), rangeOf(shape, strides, 5));
    expect(stored).toEqual([expected, expected]);
  });

  test('elements of two sizes', async () => {
    const stored = await read(rangeOf([2, 3], [1, 2], 0, 1), rangeOf([2, 3], [1, 2], 1, 2));
    expect(stored).toEqual([
      [0, 1, 2, 3, 4, 5],
      [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
    ]);
  });

  test('there is none for two layouts, for a part, or for what is contiguous', async () => {
    expect(await read(rangeOf([3, 4], [1, 3]), rangeOf([3, 4], [0, 3]))).toBeNull();
    expect(await read(rangeOf([3, 4], [1, 3]), rangeOf([4, 3], [1, 4]))).toBeNull();
    expect(await read(rangeOf([3, 4], [1, 3]), { ...rangeOf([3, 4], [1, 3]), byteLength: 6 })).toBeNull();
    expect(await read(rangeOf([3, 4], [1, 3]), whole(bytes.subarray(0, 12)))).toBeNull();
  });
});
