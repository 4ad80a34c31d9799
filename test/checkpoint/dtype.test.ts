import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  bitsOf,
  DTYPE_NAMES,
  type DType,
  decodeFloats,
  encodeFloats,
  findPreimage,
  holdsAllOf,
  isDecodable,
  isDType,
  isFloatingPoint,
  roundToFloat,
  significandBitsOf,
} from '../../src/checkpoint/dtype.js';

/** A small float format as its specification states it. */
interface Specification {
  readonly dtype: DType;
  readonly bits: 8 | 16;
  readonly significandBits: number;
  /** The exponent of the subnormal numbers and of the smallest normal ones. */
  readonly minExponent: number;
  /** How many patterns from 0 on are finite and not negative. */
  readonly finiteCount: number;
  /** What comes right after the finite patterns. */
  readonly beyond: 'infinity' | 'nan' | 'nothing';
  readonly negativeZero: 'zero' | 'nan';
}

// IEEE 754-2019 table 3.5, bfloat16, OCP OFP8 tables 1 and 2, and the FNUZ formats of arXiv:2206.02915.
const SPECIFICATIONS: readonly Specification[] = [
  {
    dtype: 'F16',
    bits: 16,
    significandBits: 10,
    minExponent: -14,
    finiteCount: 0x7c00,
    beyond: 'infinity',
    negativeZero: 'zero',
  },
  {
    dtype: 'BF16',
    bits: 16,
    significandBits: 7,
    minExponent: -126,
    finiteCount: 0x7f80,
    beyond: 'infinity',
    negativeZero: 'zero',
  },
  {
    dtype: 'F8_E5M2',
    bits: 8,
    significandBits: 2,
    minExponent: -14,
    finiteCount: 0x7c,
    beyond: 'infinity',
    negativeZero: 'zero',
  },
  {
    dtype: 'F8_E4M3',
    bits: 8,
    significandBits: 3,
    minExponent: -6,
    finiteCount: 0x7f,
    beyond: 'nan',
    negativeZero: 'zero',
  },
  {
    dtype: 'F8_E5M2FNUZ',
    bits: 8,
    significandBits: 2,
    minExponent: -15,
    finiteCount: 0x80,
    beyond: 'nothing',
    negativeZero: 'nan',
  },
  {
    dtype: 'F8_E4M3FNUZ',
    bits: 8,
    significandBits: 3,
    minExponent: -7,
    finiteCount: 0x80,
    beyond: 'nothing',
    negativeZero: 'nan',
  },
];

/**
 * Every value of a format by its bit pattern, by counting: from one pattern to the next a value grows by one step,
 * which doubles at every power of two above the smallest normal number.
 */
function listValues({
  bits,
  significandBits,
  minExponent,
  finiteCount,
  beyond,
  negativeZero,
}: Specification): number[] {
  const half = 2 ** (bits - 1);
  const positive: number[] = [];
  let value = 0;
  let step = 2 ** (minExponent - significandBits);
  for (let pattern = 0; pattern < half; pattern++) {
    if (pattern >= finiteCount) {
      positive.push(pattern === finiteCount && beyond === 'infinity' ? Number.POSITIVE_INFINITY : Number.NaN);
      continue;
    }
    positive.push(value);
    const isBinadeFull = pattern + 1 > 2 ** significandBits && (pattern + 1) % 2 ** significandBits === 0;
    value += step;
    if (isBinadeFull) step *= 2;
  }
  const negative = positive.map((one) => -one);
  if (negativeZero === 'nan') negative[0] = Number.NaN;
  return [...positive, ...negative];
}

function allPatterns(bits: 8 | 16): Uint8Array {
  if (bits === 8) return Uint8Array.from({ length: 256 }, (_, pattern) => pattern);
  return new Uint8Array(Uint16Array.from({ length: 65536 }, (_, pattern) => pattern).buffer);
}

/** The nearest finite value of a format, the one with the even pattern in the middle between two. */
function nearestByTable(
  value: number,
  values: readonly number[],
  { finiteCount, beyond }: Specification,
): number {
  const table = values.slice(0, finiteCount);
  const magnitude = Math.abs(value);
  let low = 0;
  let high = table.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if ((table[middle] ?? Number.NaN) <= magnitude) low = middle;
    else high = middle - 1;
  }
  const below = table[low] ?? Number.NaN;
  // Beyond the largest value the next step of the same size would follow.
  const above = table[low + 1] ?? below + (below - (table[low - 1] ?? Number.NaN));
  const isAboveFinite = low + 1 < table.length;
  const up =
    magnitude - below > above - magnitude || (magnitude - below === above - magnitude && low % 2 === 1);
  const overflow = beyond === 'infinity' ? Number.POSITIVE_INFINITY : Number.NaN;
  return Math.sign(value) * (up ? (isAboveFinite ? above : overflow) : below);
}

describe.each(SPECIFICATIONS)('$dtype', (specification) => {
  const { dtype, bits } = specification;
  const values = listValues(specification);
  const hasNegativeZero = specification.negativeZero === 'zero';

  test(`decodes all ${2 ** bits} patterns to the values of its definition`, () => {
    const decoded = decodeFloats(allPatterns(bits), dtype);
    expect(decoded.length).toBe(2 ** bits);
    const wrong = values.flatMap((value, pattern) => (Object.is(decoded[pattern], value) ? [] : [pattern]));
    expect(wrong).toEqual([]);
  });

  test('encodes every value that it decodes to the pattern that it came from, and NaN to a NaN', () => {
    const patterns = allPatterns(bits);
    const decoded = decodeFloats(patterns, dtype);
    const encoded = encodeFloats(decoded, dtype);
    const width = bits / 8;
    const wrong: number[] = [];
    decoded.forEach((value, i) => {
      const pattern = encoded.subarray(width * i, width * (i + 1));
      const isSame = Number.isNaN(value)
        ? Number.isNaN(decodeFloats(pattern, dtype)[0])
        : Buffer.compare(pattern, patterns.subarray(width * i, width * (i + 1))) === 0;
      if (!isSame) wrong.push(i);
    });
    expect(wrong).toEqual([]);
  });

  test('rounds to the nearest value, ties to even, subnormal and overflowing ones included', () => {
    const largest = values[specification.finiteCount - 1] ?? Number.NaN;
    const anyMagnitude = fc.oneof(
      fc.double({ min: -largest * 1.2, max: largest * 1.2, noNaN: true }),
      fc.double({
        min: -(2 ** specification.minExponent) * 2,
        max: 2 ** specification.minExponent * 2,
        noNaN: true,
      }),
      // Ties: the middle between two neighbours.
      fc.nat(specification.finiteCount - 2).map((i) => ((values[i] ?? 0) + (values[i + 1] ?? 0)) / 2),
    );
    fc.assert(
      fc.property(anyMagnitude, (value) => {
        expect(roundToFloat(value, dtype)).toBe(nearestByTable(value, values, specification));
      }),
    );
  });

  test('encodes every number as the value that it rounds to, next to ties as well', () => {
    // The middles between neighbours, and the float64 on either side of each.
    const ties = Array.from({ length: specification.finiteCount - 1 }, (_, i) => {
      const tie = ((values[i] ?? 0) + (values[i + 1] ?? 0)) / 2;
      return [tie, tie * (1 + 2 ** -52), tie * (1 - 2 ** -53)];
    }).flat();
    const anything = fc.sample(fc.double({ noNaN: true }), { numRuns: 2000, seed: 1 });
    const given = [...ties, ...ties.map((tie) => -tie), ...anything, 5e-324, -0];
    const decoded = decodeFloats(encodeFloats(given, dtype), dtype);
    const wrong = given.filter((value, i) => {
      const rounded = roundToFloat(value, dtype);
      return !Object.is(decoded[i], Object.is(rounded, -0) && !hasNegativeZero ? 0 : rounded);
    });
    expect(wrong).toEqual([]);
  });

  test('leaves NaN what it is', () => {
    expect(roundToFloat(Number.NaN, dtype)).toBeNaN();
  });
});

describe('landmarks of the 8-bit formats', () => {
  test.each([
    ['F8_E4M3', 0x01, 2 ** -9],
    ['F8_E4M3', 0x08, 2 ** -6],
    ['F8_E4M3', 0x38, 1],
    ['F8_E4M3', 0x7e, 448],
    ['F8_E4M3', 0x7f, Number.NaN],
    ['F8_E4M3', 0x80, -0],
    ['F8_E5M2', 0x01, 2 ** -16],
    ['F8_E5M2', 0x3c, 1],
    ['F8_E5M2', 0x7b, 57344],
    ['F8_E5M2', 0x7c, Number.POSITIVE_INFINITY],
    ['F8_E5M2', 0xfc, Number.NEGATIVE_INFINITY],
    ['F8_E5M2', 0x7d, Number.NaN],
    ['F8_E4M3FNUZ', 0x01, 2 ** -10],
    ['F8_E4M3FNUZ', 0x40, 1],
    ['F8_E4M3FNUZ', 0x7f, 240],
    ['F8_E4M3FNUZ', 0x80, Number.NaN],
    ['F8_E5M2FNUZ', 0x01, 2 ** -17],
    ['F8_E5M2FNUZ', 0x40, 1],
    ['F8_E5M2FNUZ', 0x7f, 57344],
    ['F8_E5M2FNUZ', 0x80, Number.NaN],
    ['F8_E8M0', 0x00, 2 ** -127],
    ['F8_E8M0', 0x7f, 1],
    ['F8_E8M0', 0xfe, 2 ** 127],
    ['F8_E8M0', 0xff, Number.NaN],
  ] as const)('%s 0x%s is %d', (dtype, pattern, value) => {
    expect(decodeFloats(Uint8Array.of(pattern), dtype)[0]).toBe(value);
  });

  test.each([
    ['F8_E4M3', 464, 448],
    ['F8_E4M3', 464.1, Number.NaN],
    ['F8_E4M3', Number.POSITIVE_INFINITY, Number.NaN],
    ['F8_E5M2', 61439, 57344],
    ['F8_E5M2', 61440, Number.POSITIVE_INFINITY],
    ['F8_E5M2', Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY],
    ['F8_E4M3FNUZ', 247.9, 240],
    ['F8_E4M3FNUZ', 248, Number.NaN],
    ['F16', 65519, 65504],
    ['F16', 65520, Number.POSITIVE_INFINITY],
    ['F16', 2 ** -25, 0],
    ['F16', 2 ** -25 * 1.001, 2 ** -24],
    ['BF16', 1 + 2 ** -8, 1],
    ['BF16', 1 + 3 * 2 ** -8, 1 + 2 ** -6],
    ['F8_E5M2FNUZ', Number.POSITIVE_INFINITY, Number.NaN],
  ] as const)('%s rounds %d to %d', (dtype, value, rounded) => {
    expect(roundToFloat(value, dtype)).toBe(rounded);
  });
});

describe('F8_E8M0', () => {
  test('decodes all 256 patterns to powers of two, and the last to NaN', () => {
    const decoded = decodeFloats(allPatterns(8), 'F8_E8M0');
    for (let pattern = 0; pattern < 255; pattern++)
      expect(Math.log2(decoded[pattern] ?? 0)).toBe(pattern - 127);
    expect(decoded[255]).toBeNaN();
  });

  test('encodes what it decodes', () => {
    expect(encodeFloats(decodeFloats(allPatterns(8), 'F8_E8M0'), 'F8_E8M0')).toEqual(allPatterns(8));
  });

  test.each([
    [1.4999, 1],
    [1.5, 2],
    [3, 4],
    [0.75, 1],
    [1.5001, 2],
    [2 ** -140, 2 ** -127],
    [2 ** 130, 2 ** 127],
    [0, Number.NaN],
    [-1, Number.NaN],
    [Number.POSITIVE_INFINITY, Number.NaN],
  ])('rounds %d to %d', (value, rounded) => {
    expect(roundToFloat(value, 'F8_E8M0')).toBe(rounded);
  });
});

describe('F32 and F64', () => {
  test('rounding to F32 is Math.fround', () => {
    fc.assert(fc.property(fc.double(), (value) => Object.is(roundToFloat(value, 'F32'), Math.fround(value))));
  });

  test('rounding to F64 changes nothing', () => {
    fc.assert(fc.property(fc.double(), (value) => Object.is(roundToFloat(value, 'F64'), value)));
  });

  test.each([
    ['F32', Float32Array],
    ['F64', Float64Array],
  ] as const)('%s is encoded and decoded as a typed array holds it', (dtype, TypedArray) => {
    fc.assert(
      fc.property(fc.array(fc.double({ noNaN: true })), (values) => {
        const stored = TypedArray.from(values);
        expect(encodeFloats(values, dtype)).toEqual(new Uint8Array(stored.buffer));
        expect([...decodeFloats(encodeFloats(values, dtype), dtype)]).toEqual([...stored]);
      }),
    );
  });

  test('bytes at any alignment decode', () => {
    const bytes = new Uint8Array(9);
    bytes.set(encodeFloats([0.1], 'F64'), 1);
    expect([...decodeFloats(bytes.subarray(1), 'F64')]).toEqual([0.1]);
  });

  test('BF16 is the upper half of F32', () => {
    fc.assert(
      fc.property(fc.nat(0xffff), (pattern) => {
        const value = new Float32Array(Uint32Array.of(pattern * 2 ** 16).buffer)[0];
        expect(decodeFloats(new Uint8Array(Uint16Array.of(pattern).buffer), 'BF16')[0]).toBe(value);
      }),
    );
  });
});

describe('what a type is', () => {
  test('every type of the safetensors format is known under its name there', () => {
    expect([...DTYPE_NAMES].sort()).toEqual(
      [
        ...['BOOL', 'U8', 'I8', 'I16', 'U16', 'I32', 'U32', 'I64', 'U64', 'F16', 'BF16', 'F32', 'F64', 'C64'],
        ...['F4', 'F6_E2M3', 'F6_E3M2', 'F8_E5M2', 'F8_E4M3', 'F8_E8M0', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ'],
      ].sort(),
    );
  });

  test.each(['f32', 'F128', '', 'toString', '__proto__'])('%j is no type', (name) => {
    expect(isDType(name)).toBe(false);
  });

  test.each([
    ['F4', 4],
    ['F6_E2M3', 6],
    ['BOOL', 8],
    ['BF16', 16],
    ['F32', 32],
    ['C64', 64],
    ['I64', 64],
  ] as const)('%s has %d bits', (dtype, bits) => {
    expect(bitsOf(dtype)).toBe(bits);
  });

  test('floats and complex numbers can be trained, integers and booleans cannot', () => {
    expect(DTYPE_NAMES.filter((dtype) => !isFloatingPoint(dtype)).sort()).toEqual(
      ['BOOL', 'I16', 'I32', 'I64', 'I8', 'U16', 'U32', 'U64', 'U8'].sort(),
    );
  });

  test('floats of less than a byte and complex numbers cannot be decoded', () => {
    expect(DTYPE_NAMES.filter((dtype) => isFloatingPoint(dtype) && !isDecodable(dtype)).sort()).toEqual(
      ['C64', 'F4', 'F6_E2M3', 'F6_E3M2'].sort(),
    );
  });

  test('wider means more significand bits', () => {
    const order: readonly DType[] = ['F8_E8M0', 'F8_E5M2', 'F8_E4M3', 'BF16', 'F16', 'F32', 'F64'];
    const widths = order.map(significandBitsOf);
    expect(widths).toEqual([...widths].sort((x, y) => x - y));
    expect(new Set(widths).size).toBe(widths.length);
  });

  test('a type holds all of another where precision, range and smallest value allow', () => {
    expect(holdsAllOf('F32', 'F16') && holdsAllOf('F32', 'BF16') && holdsAllOf('F16', 'F8_E5M2')).toBe(true);
    expect(holdsAllOf('F16', 'BF16') || holdsAllOf('BF16', 'F16') || holdsAllOf('F16', 'F32')).toBe(false);
    expect([holdsAllOf('F32', 'F8_E8M0'), holdsAllOf('F8_E8M0', 'F32')]).toEqual([true, false]);
  });

  test.each(['F16', 'BF16', 'F8_E5M2', 'F8_E4M3', 'F8_E8M0'] as const)(
    'every number lies among those that may round to its %s value, and the ends do not reach the next but one',
    (dtype) => {
      fc.assert(
        fc.property(fc.double({ min: -1e5, max: 1e5, noNaN: true }), (number) => {
          const value = roundToFloat(number, dtype);
          if (Number.isNaN(value)) return;
          const { low, high } = findPreimage(value, dtype);
          expect(low).toBeLessThanOrEqual(number);
          expect(high).toBeGreaterThanOrEqual(number);
          const inside = low + (high - low) / 3;
          if (Number.isFinite(inside)) expect(roundToFloat(inside, dtype) === value).toBe(true);
        }),
      );
    },
  );

  test.each(['I32', 'F4', 'BOOL'] as const)('decoding, encoding or rounding %s is refused', (dtype) => {
    expect(() => roundToFloat(1, dtype)).toThrow(RangeError);
    expect(() => encodeFloats([1], dtype)).toThrow(RangeError);
    expect(() => decodeFloats(new Uint8Array(4), dtype)).toThrow(RangeError);
  });
});
