import { describe, expect, test } from 'vitest';
import { type DType, decodeFloats, encodeFloats } from '../../src/checkpoint/dtype.js';
import { type ByteRange, holdBytes, memorySource, readRange, sliceRange } from '../../src/io/byte-source.js';
import { scaleWeight } from '../../src/restore/plan-layers.js';

/** More elements than are converted at a time, of values that no two products of share their rounding. */
const SHAPE = [6, 7, 9, 110];
const COUNT = SHAPE.reduce((product, size) => product * size, 1);
const VALUES = Float64Array.from({ length: COUNT }, (_, i) => Math.sin(i + 1) / 3);
const FACTORS = Float64Array.of(0.1, -3, 1 / 3, 0, 7, Math.PI);

const ROWS = { outputAxis: 0, groups: 1 };
const COLUMNS = { outputAxis: 1, groups: 2 };

function weightOf(dtype: DType, values: ArrayLike<number> = VALUES) {
  // Behind one byte: in a file nothing is aligned.
  const bytes = encodeFloats(values, dtype);
  const source = memorySource('m', Buffer.concat([Uint8Array.of(1), bytes]));
  return {
    name: 'conv.weight',
    dtype,
    shape: SHAPE,
    elementCount: values.length,
    range: { source, offset: 1, byteLength: bytes.byteLength },
  };
}

/** What each element is multiplied by: the formula, without runs and pieces. */
function factorOf(index: number, layout: typeof ROWS): number {
  const [, second = 1, third = 1, fourth = 1] = SHAPE;
  const row = Math.floor(index / (second * third * fourth));
  const column = Math.floor(index / (third * fourth)) % second;
  return layout === ROWS ? (FACTORS[row] ?? Number.NaN) : (GROUPED[Math.floor(row / 3) * 7 + column] ?? 0);
}

const GROUPED = Float64Array.from({ length: 14 }, (_, channel) => 1 / (channel + 3));

function fail(): Error {
  return new RangeError('it does not fit');
}

describe.each([
  ['F32', 'F32'],
  ['F64', 'F32'],
  ['F32', 'F16'],
  ['BF16', 'F64'],
] as const)('a weight of %s as %s', (from, dtype) => {
  test.each([ROWS, COLUMNS])('is every product, rounded once: %j', async (layout) => {
    const weight = weightOf(from);
    const held = decodeFloats(encodeFloats(VALUES, from), from);
    const products = held.map((value, i) => factorOf(i, layout) * value);
    const factors = layout === ROWS ? FACTORS : GROUPED;
    const scaled = scaleWeight(weight, { layout, factors, dtype, fail });
    expect(Buffer.compare(await readRange(scaled), encodeFloats(products, dtype))).toBe(0);
  });

  test('reads the same in pieces that begin and end within elements', async () => {
    const scaled = scaleWeight(weightOf(from), { layout: ROWS, factors: FACTORS, dtype, fail });
    const whole = await readRange(scaled);
    for (const [start, end] of [
      [0, 3],
      [1, 9],
      [5, 66_000],
      [65_530, scaled.byteLength],
    ] as const) {
      const piece = new Uint8Array(end - start + 1).subarray(1);
      const { source, offset } = sliceRange(scaled, start, end);
      await source.readInto(piece, offset);
      expect(Buffer.compare(piece, whole.subarray(start, end))).toBe(0);
    }
  });
});

describe('a product that does not fit', () => {
  const last = FACTORS.length - 1;
  /** The largest factor makes these of 1: the last number that rounds to a finite one, and the first that does not. */
  const LIMITS = { F32: 2 ** 128 - 2 ** 103, F16: 65520 } as const;

  test.each(['F32', 'F16'] as const)('into %s fails when it is read, not before', async (dtype) => {
    const values = new Float64Array(COUNT).fill(1);
    const scale = (largest: number) =>
      scaleWeight(weightOf('F32', values), {
        layout: ROWS,
        factors: FACTORS.map((factor, channel) => (channel === last ? largest : factor)),
        dtype,
        fail,
      });
    const below = LIMITS[dtype] * (1 - 2 ** -53);
    expect(decodeFloats(await readRange(scale(below)), dtype).every(Number.isFinite)).toBe(true);
    const above = scale(LIMITS[dtype]);
    await readRange(sliceRange(above, 0, 100));
    await expect(readRange(above)).rejects.toThrow('it does not fit');
  });

  test('nor does one of a weight or a factor that is no number', async () => {
    const values = VALUES.slice();
    values[COUNT - 1] = Number.NaN;
    const scaling = { layout: ROWS, factors: FACTORS, dtype: 'F32', fail } as const;
    await expect(readRange(scaleWeight(weightOf('F32', values), scaling))).rejects.toThrow(RangeError);
    const factors = FACTORS.slice(0, last);
    await expect(readRange(scaleWeight(weightOf('F32'), { ...scaling, factors }))).rejects.toThrow(
      RangeError,
    );
  });
});

describe('read into a part of a larger buffer', () => {
  /** Reads from `at` on, as the writer of files does. */
  const readWithin = async ({ source, offset, byteLength }: ByteRange, at = 0) => {
    const memory = new Uint8Array(at + byteLength + 4).fill(0xaa);
    await source.readInto(memory.subarray(at, at + byteLength), offset);
    expect([...memory.subarray(0, at), ...memory.subarray(at + byteLength)]).toEqual(
      new Array(at + 4).fill(0xaa),
    );
    return memory.subarray(at, at + byteLength);
  };

  test.each([
    [ROWS, FACTORS],
    [COLUMNS, GROUPED],
  ])('the products are the same, in any piece: %j', async (layout, factors) => {
    const scaled = scaleWeight(weightOf('F32'), { layout, factors, dtype: 'F32', fail });
    const whole = await readRange(scaled);
    expect(Buffer.compare(await readWithin(scaled), whole)).toBe(0);
    for (const [start, end, at] of [
      [0, 4, 4],
      [8, 131_080, 8],
      [131_068, 131_084, 0],
      [4, 66_000, 3],
      [5, 66_001, 4],
      [65_532, scaled.byteLength, 12],
    ] as const) {
      const piece = await readWithin(sliceRange(scaled, start, end), at);
      expect(Buffer.compare(piece, whole.subarray(start, end))).toBe(0);
    }
  });

  test('one that does not fit fails as well', async () => {
    const factors = FACTORS.map((factor) => factor * 2 ** 127);
    const scaled = scaleWeight(weightOf('F32'), { layout: ROWS, factors, dtype: 'F32', fail });
    await expect(readWithin(scaled)).rejects.toThrow('it does not fit');
  });
});

test('nothing is read before the result is', async () => {
  const empty = holdBytes(new Uint8Array(0));
  const weight = { ...weightOf('F32'), range: { ...empty, byteLength: 4 * COUNT } };
  expect(scaleWeight(weight, { layout: ROWS, factors: FACTORS, dtype: 'F32', fail }).byteLength).toBe(
    4 * COUNT,
  );
});
