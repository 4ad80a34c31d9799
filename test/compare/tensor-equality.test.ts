import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { type DType, decodeFloats, encodeFloats, roundToFloat } from '../../src/checkpoint/dtype.js';
import { PieceDigests } from '../../src/checkpoint/fingerprint.js';
import { chooseValueTest, TensorComparer } from '../../src/compare/tensor-equality.js';
import { stridedSource } from '../../src/io/views.js';
import { tensorOf, tensorOfBytes } from '../build/checkpoints.js';
import { countingSource } from '../build/sources.js';

const comparer = new TensorComparer({ isExact: true });
const compare = async (before: Tensor, after: Tensor) => (await comparer.compare(before, after)).kind;
const floats = (values: readonly number[], dtype: DType = 'F32') => tensorOf('t', values, { dtype });

describe('one type: bits are equal', () => {
  test('the same values are equal, others are changed', async () => {
    expect(await compare(floats([1, 2, 3]), floats([1, 2, 3]))).toBe('exact');
    expect(await compare(floats([1, 2, 3]), floats([1, 2, 3.0000002]))).toBe('changed');
  });

  test.each(['F64', 'F32', 'F16', 'BF16', 'F8_E5M2', 'F8_E4M3'] as const)(
    '%s: −0 equals 0, on either side',
    async (dtype) => {
      expect(await compare(floats([1, -0, 0], dtype), floats([1, 0, -0], dtype))).toBe('exact');
      expect(await compare(floats([1, -0], dtype), floats([-1, 0], dtype))).toBe('changed');
    },
  );

  test.each(['F64', 'F32', 'F16', 'BF16', 'F8_E5M2', 'F8_E4M3'] as const)(
    '%s: a changed sign is a change',
    async (dtype) => {
      expect(await compare(floats([1, 0.5], dtype), floats([1, -0.5], dtype))).toBe('changed');
    },
  );

  test.each(['F8_E5M2FNUZ', 'F8_E4M3FNUZ'] as const)('%s has no −0: that pattern is NaN', async (dtype) => {
    const at = (...bytes: readonly number[]) =>
      tensorOfBytes('t', Uint8Array.from(bytes), { dtype, shape: [bytes.length] });
    expect(await compare(at(0x00), at(0x80))).toBe('changed');
    expect(await compare(at(0x80), at(0x80))).toBe('exact');
  });

  test('F8_E8M0 has no sign: 2^-127 and 2 are different', async () => {
    const at = (byte: number) => tensorOfBytes('t', Uint8Array.of(byte), { dtype: 'F8_E8M0', shape: [1] });
    expect(await compare(at(0x00), at(0x80))).toBe('changed');
  });

  test('the same NaN is equal', async () => {
    expect(await compare(floats([Number.NaN]), floats([Number.NaN]))).toBe('exact');
    expect(await compare(floats([Number.NaN]), floats([0]))).toBe('changed');
  });

  test('the smallest number is no zero', async () => {
    expect(await compare(floats([5e-324], 'F64'), floats([0], 'F64'))).toBe('changed');
    expect(await compare(floats([-5e-324], 'F64'), floats([5e-324], 'F64'))).toBe('changed');
  });

  test('complex numbers are compared part by part', async () => {
    const complex = (...parts: readonly number[]) =>
      tensorOfBytes('t', encodeFloats(parts, 'F32'), { dtype: 'C64', shape: [parts.length / 2] });
    expect(await compare(complex(0, 1), complex(-0, 1))).toBe('exact');
    expect(await compare(complex(0, 1), complex(0, -1))).toBe('changed');
  });

  test('types of less than a byte are compared by their bytes', async () => {
    const packed = (...bytes: readonly number[]) =>
      tensorOfBytes('t', Uint8Array.from(bytes), { dtype: 'F4', shape: [4] });
    expect(await compare(packed(0x12, 0x34), packed(0x12, 0x34))).toBe('exact');
    expect(await compare(packed(0x12, 0x34), packed(0x12, 0x35))).toBe('changed');
  });

  test('integers are compared too', async () => {
    expect(await compare(floats([1, 2], 'I64'), floats([1, 2], 'I64'))).toBe('exact');
    expect(await compare(floats([1, 2], 'I64'), floats([1, 3], 'I64'))).toBe('changed');
  });
});

describe('two types: the wider one rounds to the narrower one', () => {
  const WIDER_TO_NARROWER: readonly (readonly [DType, DType])[] = [
    ['F64', 'F32'],
    ['F64', 'F16'],
    ['F32', 'F16'],
    ['F32', 'BF16'],
    ['F16', 'F8_E5M2'],
    ['BF16', 'F8_E4M3'],
    ['F32', 'F8_E4M3FNUZ'],
  ];

  test.each(WIDER_TO_NARROWER)('%s stored as %s is equal, from either side', async (wide, narrow) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.double({ noNaN: true, noDefaultInfinity: true }), { minLength: 1 }),
        async (values) => {
          const before = floats(values, wide);
          const held = decodeFloats(encodeFloats(values, wide), wide);
          const after = floats([...held], narrow);
          expect(await compare(before, after)).toBe('exact');
          expect(await compare(after, before)).toBe('exact');
        },
      ),
    );
  });

  test('the neighbour of the rounded value is a change', async () => {
    expect(await compare(floats([1 + 2 ** -12]), floats([1], 'F16'))).toBe('exact');
    expect(await compare(floats([1 + 2 ** -12]), floats([1 + 2 ** -10], 'F16'))).toBe('changed');
  });

  test('a tie goes to the even value alone', async () => {
    expect(await compare(floats([1 + 2 ** -11]), floats([1], 'F16'))).toBe('exact');
    expect(await compare(floats([1 + 2 ** -11]), floats([1 + 2 ** -10], 'F16'))).toBe('changed');
  });

  test('what overflows the narrower type is its infinity', async () => {
    expect(await compare(floats([70000]), floats([Number.POSITIVE_INFINITY], 'F16'))).toBe('exact');
    expect(await compare(floats([-70000]), floats([Number.POSITIVE_INFINITY], 'F16'))).toBe('changed');
  });

  test('NaN stays NaN', async () => {
    expect(await compare(floats([Number.NaN]), floats([Number.NaN], 'F16'))).toBe('exact');
    expect(await compare(floats([1]), floats([Number.NaN], 'F16'))).toBe('changed');
  });

  describe('neither of which holds all values of the other', () => {
    test.each([
      ['F16', 'BF16'],
      ['F8_E4M3', 'F8_E5M2'],
      ['F8_E4M3FNUZ', 'F8_E4M3'],
    ] as const)('%s and %s copies of the same numbers are equal', async (one, other) => {
      const value = fc.oneof(
        fc.double({ noNaN: true }),
        fc.double({ min: -500, max: 500, noNaN: true }),
        fc.double({ min: -1e-6, max: 1e-6, noNaN: true }),
      );
      await fc.assert(
        fc.asyncProperty(fc.array(value, { minLength: 1 }), async (values) => {
          expect(await compare(floats(values, one), floats(values, other))).toBe('exact');
          expect(await compare(floats(values, other), floats(values, one))).toBe('exact');
        }),
      );
    });

    test('though rounding twice gives another value', async () => {
      // Up to 1 + 2^-8 in float16, and from there to even in bfloat16; down to 1 at once.
      const value = 1 + 2 ** -8 - 2 ** -13;
      expect(await compare(floats([value], 'F16'), floats([value], 'BF16'))).toBe('exact');
    });

    test('one type has NaN for what is beyond it, where another still has a number', async () => {
      const beyond = -464.00000000000006;
      expect(await compare(floats([beyond], 'F8_E4M3'), floats([beyond], 'F8_E5M2'))).toBe('exact');
      expect(await compare(floats([Number.NaN], 'F8_E4M3'), floats([384], 'F8_E5M2'))).toBe('changed');
    });

    test('a tie belongs to the even one of two neighbours alone', async () => {
      // Float16's subnormals from 2^-17 on stand as close as half a step of bfloat16.
      let equal = 0;
      for (let step = 128; step < 256; step++) {
        const [one, other] = [step * 2 ** -24, (step + 1) * 2 ** -24];
        if ((await compare(floats([one], 'F16'), floats([other], 'BF16'))) === 'exact') equal++;
      }
      expect(equal).toBe(0);
    });

    test('values that no number rounds to are a change', async () => {
      expect(await compare(floats([1 + 2 ** -7], 'F16'), floats([1], 'BF16'))).toBe('changed');
      expect(await compare(floats([1], 'F16'), floats([1 - 2 ** -8], 'BF16'))).toBe('changed');
      expect(await compare(floats([Number.POSITIVE_INFINITY], 'F16'), floats([65024], 'BF16'))).toBe(
        'changed',
      );
      expect(await compare(floats([Number.NaN], 'F16'), floats([1], 'BF16'))).toBe('changed');
      expect(await compare(floats([0], 'F16'), floats([2 ** -20], 'BF16'))).toBe('changed');
    });
  });

  test.each([
    ['F32', 'I32'],
    ['F4', 'F32'],
    ['C64', 'F32'],
    ['I64', 'I32'],
  ] as const)('%s and %s cannot be compared', async (left, right) => {
    const of = (dtype: DType) => tensorOfBytes('t', new Uint8Array(16), { dtype, shape: [2] });
    expect(await compare(of(left), of(right))).toBe('incomparable');
  });
});

describe('shapes', () => {
  const shaped = (shape: readonly number[]) =>
    tensorOf('t', Array<number>(shape.reduce((product, size) => product * size, 1)).fill(1), { shape });

  test.each([
    [
      [2, 3],
      [2, 3, 1],
    ],
    [
      [1, 2, 1, 3],
      [2, 3],
    ],
    [[], [1]],
    [[0], [0, 1]],
  ])('%j and %j differ by dimensions of 1 only: equal', async (left, right) => {
    expect(await compare(shaped(left), shaped(right))).toBe('exact');
  });

  test.each([
    [
      [2, 3],
      [3, 2],
    ],
    [[6], [2, 3]],
    [[2], [3]],
    [[0], [2]],
  ])('%j and %j are a change', async (left, right) => {
    expect(await compare(shaped(left), shaped(right))).toBe('changed');
  });
});

/** Places around the borders of the pieces that tensors are read in: 16 KiB first, then 512 KiB each. */
const BORDERS = [16 * 1024, (16 + 512) * 1024, (16 + 2 * 512) * 1024];

describe('pieces', () => {
  test.each(BORDERS.flatMap((border) => [border - 1, border, border + 1]))(
    'a difference in byte %d is found',
    async (at) => {
      const bytes = new Uint8Array(BORDERS[2] ?? 0).fill(7);
      const longer = new Uint8Array(bytes.length + 8).fill(7);
      const changed = longer.slice();
      changed[at] = 8;
      const of = (data: Uint8Array) => tensorOfBytes('t', data, { dtype: 'U8', shape: [data.length] });
      expect(await compare(of(longer), of(longer.slice()))).toBe('exact');
      expect(await compare(of(longer), of(changed))).toBe('changed');
    },
  );

  test.each([
    ['F32', 'F16'],
    ['F16', 'F64'],
  ] as const)('pieces of %s and %s hold the same elements', async (left, right) => {
    const values = Array.from({ length: 300_000 }, (_, i) => i % 2048);
    expect(await compare(floats(values, left), floats(values, right))).toBe('exact');
    const changed = values.with(-1, 5000);
    expect(await compare(floats(values, left), floats(changed, right))).toBe('changed');
  });

  test.each([1, 1000, 8192, 8193, 150_000])(
    'a transposed view of %d columns equals its row-major copy',
    async (columns) => {
      const values = Array.from({ length: 3 * columns }, (_, i) => i);
      // Stored column by column: element (row, column) of the view is number column · 3 + row.
      const stored = floats(values);
      const view = { shape: [3, columns], strides: [1, 3], firstElement: 0, elementByteLength: 4 };
      const source = stridedSource(stored.range, view);
      const range = { source, offset: 0, byteLength: stored.range.byteLength };
      const transposed = { ...stored, shape: [3, columns], range };
      const copy = (change: number) =>
        tensorOf(
          't',
          [0, 1, 2]
            .flatMap((row) => Array.from({ length: columns }, (_, column) => 3 * column + row))
            .with(-1, 3 * columns - 1 + change),
          { shape: [3, columns] },
        );
      expect(await compare(transposed, copy(0))).toBe('exact');
      expect(await compare(copy(1), transposed)).toBe('changed');
    },
  );

  test('one comparer, used again and again, answers alike', async () => {
    const large = tensorOfBytes('t', new Uint8Array(2_000_000).fill(3), { dtype: 'U8', shape: [2_000_000] });
    const copy = tensorOfBytes('t', new Uint8Array(2_000_000).fill(3), { dtype: 'U8', shape: [2_000_000] });
    for (let i = 0; i < 3; i++) {
      expect(await compare(large, copy)).toBe('exact');
      expect(await compare(floats([1]), floats([2]))).toBe('changed');
    }
  });

  test('a tensor without elements is equal', async () => {
    expect(await compare(floats([]), floats([]))).toBe('exact');
  });
});

describe('early stop', () => {
  const counted = (fill: (bytes: Uint8Array) => void) => {
    const bytes = new Uint8Array(10_000_000);
    fill(bytes);
    const source = countingSource('large', bytes);
    const tensor: Tensor = {
      name: 't',
      dtype: 'U8',
      shape: [bytes.length],
      elementCount: bytes.length,
      range: { source, offset: 0, byteLength: bytes.length },
    };
    return { source, tensor };
  };

  test('a tensor that differs at its start is read for 16 KiB', async () => {
    const [before, after] = [
      counted(() => {}),
      counted((bytes) => {
        bytes[0] = 1;
      }),
    ];
    expect(await compare(before.tensor, after.tensor)).toBe('changed');
    expect([before.source.bytesRead, after.source.bytesRead]).toEqual([16 * 1024, 16 * 1024]);
  });

  test('one that differs later is read for one piece beyond the difference at most', async () => {
    const after = counted((bytes) => {
      bytes[100_000] = 1;
    });
    expect(await compare(counted(() => {}).tensor, after.tensor)).toBe('changed');
    expect(after.source.bytesRead).toBeLessThanOrEqual((16 + 2 * 512) * 1024);
  });

  test('shapes that differ are not read at all', async () => {
    const { source, tensor } = counted(() => {});
    expect(await compare(tensor, { ...tensor, shape: [1000, 10_001] })).toBe('changed');
    expect(source.bytesRead).toBe(0);
  });

  test('the same range of the same source is not read at all', async () => {
    const { source, tensor } = counted(() => {});
    expect(await compare(tensor, { ...tensor, name: 'alias' })).toBe('exact');
    expect(source.bytesRead).toBe(0);
  });
});

describe('chooseValueTest', () => {
  test('of one type: the same value, NaN and −0 included', () => {
    expect(chooseValueTest('F32', 'F32')(1, 1)).toBe(true);
    expect(chooseValueTest('F32', 'F32')(-0, 0)).toBe(true);
    expect(chooseValueTest('F32', 'F32')(Number.NaN, Number.NaN)).toBe(true);
    expect(chooseValueTest('F32', 'F32')(1, 1.0000001)).toBe(false);
  });

  test('rounds the wider side, whichever it is', () => {
    const tenth = decodeFloats(encodeFloats([0.1], 'F16'), 'F16')[0] ?? 0;
    expect(chooseValueTest('F64', 'F16')(0.1, tenth)).toBe(true);
    expect(chooseValueTest('F16', 'F64')(tenth, 0.1)).toBe(true);
    expect(chooseValueTest('F64', 'F16')(tenth, 0.1)).toBe(false);
  });
});

describe('pieces that were read for another comparison', () => {
  const COUNT = 150_000;
  /** A tensor with a zero in its middle, which is read in a small piece and two large ones. */
  const large = (change: (value: number, index: number) => number = (value) => value) => {
    const values = Float32Array.from({ length: COUNT }, (_, index) =>
      change(index === COUNT / 2 ? 0 : Math.fround(Math.sin(index)), index),
    );
    const source = countingSource('file', new Uint8Array(values.buffer));
    const range = { source, offset: 0, byteLength: source.byteLength };
    return { source, tensor: { ...floats([]), shape: [COUNT], elementCount: COUNT, range } };
  };

  test('are not read again where both are equal', async () => {
    const digests = new PieceDigests();
    const before = large();
    for (const after of [large(), large(), large()]) {
      const found = await new TensorComparer({ digests }).compare(before.tensor, after.tensor);
      expect(found).toEqual({ kind: 'exact' });
      expect(after.source.bytesRead).toBe(4 * COUNT);
    }
    // The values of the first piece are compared, which sources keep.
    expect(before.source.bytesRead).toBe(4 * COUNT + 2 * 16 * 1024);
  });

  test.each<readonly [string, (value: number, index: number) => number]>([
    ['its first value', (value, at) => (at === 0 ? 2 : value)],
    ['its last value', (value, at) => (at === COUNT - 1 ? 2 : value)],
    ['a bit of one value', (value, at) => (at === COUNT - 2 ? value * (1 + 2 ** -23) : value)],
    ['the sign of a zero', (value, at) => (at === COUNT / 2 ? -0 : value)],
    ['how its end was rounded', (value, at) => (at > 100_000 ? roundToFloat(value, 'BF16') : value)],
    ['how all was rounded', (value) => roundToFloat(value, 'F16')],
    ['what an average leaves', (value, at) => value * (1 + 1e-6 * Math.cos(7 * at))],
    ['a step of an optimizer', (value, at) => value + 1e-4 * Math.sign(Math.cos(at))],
    ['such a step at its end', (value, at) => value + (at > 100_000 ? 1e-4 * Math.sign(Math.cos(at)) : 0)],
  ])('are read where they tell more than that they differ: %s', async (_, change) => {
    for (const isExact of [false, true]) {
      const [before, after] = [large().tensor, large(change).tensor];
      const expected = await new TensorComparer({ isExact }).compare(before, after);
      const known = new TensorComparer({ isExact, digests: new PieceDigests() });
      expect(await known.compare(before, after)).toEqual(expected);
      expect(await known.compare(before, large().tensor)).toEqual({ kind: 'exact' });
      expect(await known.compare(before, after)).toEqual(expected);
    }
  });
});
