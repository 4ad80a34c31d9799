import fc from 'fast-check';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { allocateWithinReach, type Float32Kernels, kernelsOver } from '../../src/compare/float32-kernels.js';
import {
  areMultiples,
  type Multiple,
  multiply,
  type Span,
  sumProducts,
} from '../../src/compare/weight-loops.js';

/** u: half the distance between neighbouring float32 numbers, relative. */
const ROUNDOFF = 2 ** -24;
const QUANTUM = 2 ** -149;

/** A span of two sides within reach of kernels, and as the loops of plain arrays see it. */
interface Loaded {
  readonly kernels: Float32Kernels;
  readonly left: Float32Array;
  readonly right: Float32Array;
  readonly span: Span;
}

/** Elements of each side. */
const CAPACITY = 2048;

const bytes = allocateWithinReach(2 * 4 * CAPACITY);

function toFloats({ buffer, byteOffset, byteLength }: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  return new Float32Array(buffer, byteOffset, byteLength / 4);
}

/** Puts weights where kernels reach them, with `from` other elements before them. */
function load<T>(
  { x, y, from = 0 }: { x: readonly number[]; y: readonly number[]; from?: number },
  use: (loaded: Loaded) => T,
): T {
  const sides = [bytes.subarray(0, 4 * CAPACITY), bytes.subarray(4 * CAPACITY)] as const;
  const kernels = kernelsOver(...sides);
  if (kernels === null) throw new Error('expected kernels: this processor has vectors');
  const [left, right] = [toFloats(sides[0]), toFloats(sides[1])];
  left.fill(Number.NaN);
  right.fill(Number.NaN);
  left.set(x, from);
  right.set(y, from);
  return use({ kernels, left, right, span: { from, to: from + x.length } });
}

/** What a channel of float32 weights is held against: 6 u of the product, and a quantum of either side. */
function multipleBy(scale: number, { from, to }: Span): Multiple {
  const magnitude = Math.abs(scale);
  return { from, to, scale, relative: 6 * ROUNDOFF * magnitude, absolute: QUANTUM * (1 + magnitude) };
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}

const anyFloat = fc.float();
/** As weights are, and as small as they get. */
const weight = fc.oneof(
  fc.float({ min: -4, max: 4, noNaN: true }),
  fc.float({ min: Math.fround(-1e-38), max: Math.fround(1e-38), noNaN: true }),
  fc.integer({ min: -40, max: 40 }).map((quanta) => quanta * QUANTUM),
);
const scales = fc.oneof(
  fc.double({ min: 0.001, max: 1000, noNaN: true }),
  fc.double({ min: -2, max: -0.5, noNaN: true }),
  fc.double({ noNaN: true }),
);

describe('sums of products', () => {
  test('are those of the plain loop to the last bit, wherever the span lies', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(weight, weight), { minLength: 4, maxLength: 300 }),
        fc.nat({ max: 9 }),
        async (drawn, from) => {
          const pairs = drawn.slice(0, drawn.length - (drawn.length % 4));
          const weights = { x: pairs.map(([x]) => x), y: pairs.map(([, y]) => y), from };
          const hasZeros = pairs.some(([x, y]) => Math.fround(x) === 0 && Math.fround(y) === 0);
          load(weights, ({ kernels, left, right, span }) => {
            const plain = new Float64Array(2);
            sumProducts(left, right, span, plain);
            expect(kernels.sumProducts(span)).toBe(!hasZeros);
            if (!hasZeros) expect([...kernels.sums]).toEqual([...plain]);
          });
        },
      ),
    );
  });

  test.each([
    [0, 0],
    [-0, 0],
    [-0, -0],
  ])('are refused where a pair is %d and %d', (zero, other) => {
    for (const at of [0, 1, 2, 3, 7]) {
      const x = [1, 2, 3, 4, 5, 6, 7, 8].with(at, zero);
      const refused = load({ x, y: x.map((v) => 2 * v).with(at, other) }, ({ kernels, span }) =>
        kernels.sumProducts(span),
      );
      expect(refused).toBe(false);
    }
  });

  test('take a zero on one side and what is no number', () => {
    const taken = load({ x: [0, 1, Number.NaN, 2], y: [1, 0, 1, Infinity] }, ({ kernels, span }) =>
      kernels.sumProducts(span),
    );
    expect(taken).toBe(true);
  });

  test.each([0, 1, 3, 5, 254])('are left to the plain loop where the weights are %i', (count) => {
    const ones = Array.from({ length: count }, () => 1);
    expect(load({ x: ones, y: ones }, ({ kernels, span }) => kernels.sumProducts(span))).toBe(false);
  });
});

describe('multiples', () => {
  test('that are seen in float32 are multiples in float64', async () => {
    let seen = 0;
    await fc.assert(
      fc.asyncProperty(
        // Four to a span: each decides. Errors around what is allowed, in roundings.
        fc.array(fc.tuple(weight, fc.double({ min: -9, max: 9, noNaN: true })), {
          minLength: 4,
          maxLength: 6,
        }),
        scales,
        fc.constantFrom(0, 0.2, 0.5, 1),
        async (pairs, scale, share) => {
          const x = pairs.map(([value]) => Math.fround(value));
          const y = pairs.map(([, error], i) => (x[i] ?? 0) * scale * (1 + share * error * ROUNDOFF));
          load({ x, y }, ({ kernels, left, right, span }) => {
            const multiple = multipleBy(scale, span);
            if (!kernels.areMultiples(multiple)) return;
            seen++;
            expect(areMultiples(left, right, multiple)).toBe(true);
          });
        },
      ),
      { numRuns: 4000 },
    );
    expect(seen).toBeGreaterThan(500);
  });

  test('with every rounding against them are multiples in float64 too', () => {
    const random = makeRandom(24);
    const sign = () => (random() < 0.5 ? -1 : 1);
    let seen = 0;
    load({ x: [1, 1, 1, 1], y: [1, 1, 1, 1] }, ({ kernels, left, right, span }) => {
      for (let drawn = 0; drawn < 400_000; drawn++) {
        const scale = sign() * (random() < 0.5 ? 1 + random() : 2 ** (30 * random() - 15));
        // The product is just under a power of two, where the steps of float32 are finest; or it has few digits left.
        const product = random() < 0.7 ? 1 - 1e-6 * random() : 2 ** -(126 + 24 * random());
        const x = Math.fround((sign() * product) / scale);
        // Around what is allowed, in roundings, and by some quanta.
        const error = sign() * (random() < 0.5 ? 5.7 + 0.6 * random() : 3 + 4 * random());
        const quanta = random() < 0.3 ? Math.round(6 * random() - 3) : 0;
        left.fill(x, 0, 4);
        right.fill(x * scale * (1 + error * ROUNDOFF) + quanta * QUANTUM, 0, 4);
        const multiple = multipleBy(scale, span);
        if (!kernels.areMultiples(multiple)) continue;
        seen++;
        if (!areMultiples(left, right, multiple)) expect.fail(`${right[0]} is not ${x} times ${scale}`);
      }
    });
    expect(seen).toBeGreaterThan(20_000);
  });

  // Found by trying millions: with room for 1.6 roundings of its own, float32 would see multiples in these.
  test.each([
    [-0.00016697270621079952, 0.021414365619421005, -128.2506485242906],
    [-0.677520215511322, 1.2151913708554089e-15, -1.7935862405500572e-15],
    [-1.362546443939209, -0.0003343179705552757, 0.0002453625351015926],
    [0.04258907958865166, -0.000041662271542008966, -0.0009782380120931665],
    [-1.3794265986488892, -22.20389747619629, 16.096463229889842],
  ])('of %d and %d by %d are not seen: they are just none', (x, y, scale) => {
    load({ x: [x, x, x, x], y: [y, y, y, y] }, ({ kernels, left, right, span }) => {
      const multiple = multipleBy(scale, span);
      expect(areMultiples(left, right, multiple)).toBe(false);
      expect(kernels.areMultiples(multiple)).toBe(false);
      expect(
        kernels.areMultiples({ ...multiple, relative: multiple.relative + ROUNDOFF * Math.abs(scale) }),
      ).toBe(true);
    });
  });

  test('of any numbers that float32 has are never seen where float64 sees none', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(anyFloat, anyFloat), { minLength: 4, maxLength: 4 }),
        fc.oneof(scales, fc.constantFrom(1, 0, -1, Number.NaN, Infinity, 2 ** 99, 2 ** -99)),
        async (pairs, scale) => {
          const weights = { x: pairs.map(([x]) => x), y: pairs.map(([x, y]) => (y > 0 ? x : y)) };
          load(weights, ({ kernels, left, right, span }) => {
            const multiple = multipleBy(scale, span);
            if (kernels.areMultiples(multiple)) expect(areMultiples(left, right, multiple)).toBe(true);
          });
        },
      ),
      { numRuns: 2000 },
    );
  });

  test('of weights that were folded twice are seen, for nearly every scale', () => {
    const random = makeRandom(5);
    let seen = 0;
    for (let channel = 0; channel < 200; channel++) {
      const [one, other] = [0.2 + random(), 0.2 + random()];
      const weights = Array.from({ length: 1152 }, () => Math.fround(random() - 0.5));
      const sides = {
        x: weights.map((w) => w * Math.fround(one)),
        y: weights.map((w) => w * Math.fround(other)),
      };
      const isSeen = load(sides, ({ kernels, span }) =>
        kernels.areMultiples(multipleBy(Math.fround(other) / Math.fround(one), span)),
      );
      if (isSeen) seen++;
    }
    expect(seen).toBeGreaterThan(190);
  });

  test.each([4, 5, 6, 7, 8, 11])('of %i weights show each one that is none', async (count) => {
    const x = Array.from({ length: count }, (_, i) => 0.1 + i);
    const y = x.map((value) => 1.5 * value);
    const decide = (other: readonly number[]) =>
      load({ x, y: other, from: 3 }, ({ kernels, span }) => kernels.areMultiples(multipleBy(1.5, span)));
    expect(await decide(y)).toBe(true);
    for (const index of x.keys()) {
      expect(await decide(y.with(index, (y[index] ?? 0) * (1 + 10 * ROUNDOFF)))).toBe(false);
      for (const wrong of [Number.NaN, Infinity, 0]) expect(await decide(y.with(index, wrong))).toBe(false);
    }
  });

  test('of an infinity are not seen', async () => {
    const decide = (x: number, y: number) =>
      load({ x: [1, 1, 1, x], y: [1, 1, 1, y] }, ({ kernels, span }) =>
        kernels.areMultiples(multipleBy(1, span)),
      );
    expect(await decide(1, 1)).toBe(true);
    for (const y of [0, 1, Infinity, -Infinity]) expect(await decide(Infinity, y)).toBe(false);
  });

  test('are left to the plain loop without four weights, beyond ordinary scales, and where a quantum is too much', async () => {
    const ones = [1, 1, 1, 1];
    const decide = (x: readonly number[], change: Partial<Multiple>) =>
      load({ x, y: x }, ({ kernels, span }) => kernels.areMultiples({ ...multipleBy(1, span), ...change }));
    expect(await decide(ones, {})).toBe(true);
    expect(await decide([1, 1, 1], {})).toBe(false);
    expect(await decide([0, 0, 0, 0], { scale: 2 ** 101 })).toBe(false);
    expect(await decide([0, 0, 0, 0], { scale: 2 ** -101 })).toBe(false);
    expect(await decide(ones, { absolute: QUANTUM / 2 })).toBe(false);
    expect(await decide(ones, { relative: ROUNDOFF })).toBe(false);
    expect(await decide(ones, { relative: 1 / 64 })).toBe(true);
    expect(await decide(ones, { relative: 1 / 60 })).toBe(false);
  });
});

describe('products', () => {
  const factors = fc.oneof(fc.double({ min: -4, max: 4, noNaN: true }), fc.double());

  test('are those of the plain loop to the last bit, wherever the span lies and however long it is', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(weight, anyFloat), { maxLength: 70 }),
        fc.nat({ max: 9 }),
        factors,
        async (x, from, factor) => {
          load({ x, y: [], from }, ({ kernels, left, span }) => {
            const plain = left.slice();
            const fits = multiply(plain, span, factor);
            expect(kernels.multiply(span, factor)).toBe(fits);
            if (fits) expect(Buffer.compare(bytesOf(left), bytesOf(plain))).toBe(0);
          });
        },
      ),
    );
  });

  // The last double that rounds to the largest float32, and the first that does not.
  const overflow = 2 ** 128 - 2 ** 103;
  test.each([1, 2, 3, 4, 5, 8, 11])('of %i elements are finite up to the limit, at every place', (count) => {
    for (let at = 0; at < count; at++) {
      const x = new Array<number>(count).fill(0).with(at, -1);
      const fits = load({ x, y: [] }, ({ kernels, span }) =>
        kernels.multiply(span, overflow * (1 - 2 ** -53)),
      );
      const overflows = load({ x, y: [] }, ({ kernels, span }) => kernels.multiply(span, overflow));
      const isNumber = load({ x: x.with(at, Number.NaN), y: [] }, ({ kernels, span }) =>
        kernels.multiply(span, 2),
      );
      expect([fits, overflows, isNumber]).toEqual([true, false, false]);
    }
  });

  test('of a span leave what is around it alone', () => {
    load({ x: [1, 2, 3, 4, 5, 6, 7, 8, 9], y: [] }, ({ kernels, left }) => {
      expect(kernels.multiply({ from: 1, to: 8 }, 10)).toBe(true);
      expect([...left.slice(0, 9)]).toEqual([1, 20, 30, 40, 50, 60, 70, 80, 9]);
      expect(kernels.multiply({ from: 4, to: 4 }, Number.NaN)).toBe(true);
      expect(left[4]).toBe(50);
    });
  });
});

describe('kernels', () => {
  const ones = () => {
    const allocated = allocateWithinReach(4 * 4);
    toFloats(allocated).fill(1);
    return allocated;
  };

  test('reach what is allocated for them, and nothing else', () => {
    const [one, other] = [ones(), ones()];
    expect(one.byteLength).toBe(16);
    expect(kernelsOver(one)?.multiply({ from: 0, to: 4 }, 3)).toBe(true);
    expect([...toFloats(one)]).toEqual([3, 3, 3, 3]);
    expect([...toFloats(other)]).toEqual([1, 1, 1, 1]);
    expect(kernelsOver(one, other)).toBe(null);
    expect(kernelsOver(new Uint8Array(16))).toBe(null);
    expect(kernelsOver(one, new Uint8Array(16))).toBe(null);
  });

  test('are over the parts that they were asked for', () => {
    const allocated = allocateWithinReach(64);
    toFloats(allocated).set(Array.from({ length: 16 }, (_, i) => i));
    expect(kernelsOver(allocated.subarray(16, 32))?.multiply({ from: 1, to: 3 }, 10)).toBe(true);
    expect([...toFloats(allocated).subarray(3, 9)]).toEqual([3, 4, 50, 60, 7, 8]);
    const kernels = kernelsOver(allocated.subarray(32, 48), allocated.subarray(48));
    expect(kernels?.sumProducts({ from: 0, to: 4 })).toBe(true);
    expect([...(kernels?.sums ?? [])]).toEqual([
      8 * 12 + 9 * 13 + 10 * 14 + 11 * 15,
      8 ** 2 + 9 ** 2 + 10 ** 2 + 11 ** 2,
    ]);
  });

  test('reach the end of what is allocated, and have room for any length', () => {
    for (const count of [0, 1, 16 * 1024 - 512, 16 * 1024, 100_000]) {
      const values = toFloats(allocateWithinReach(4 * count)).fill(2);
      const kernels = kernelsOver(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      expect(kernels?.multiply({ from: 0, to: count }, 2)).toBe(true);
      expect(values.length).toBe(count);
      expect(values.every((value) => value === 4)).toBe(true);
    }
  });

  describe('are not there', () => {
    afterEach(() => {
      vi.unstubAllGlobals();
      vi.resetModules();
    });

    const refuse = (error: Error) => {
      throw error;
    };
    test.each([
      ['without WebAssembly', undefined],
      [
        'without vectors',
        {
          Module: class {
            constructor() {
              refuse(new Error('Wasm SIMD unsupported'));
            }
          },
        },
      ],
      [
        'without memory',
        {
          Module: class {},
          Memory: class {
            constructor() {
              refuse(new RangeError('could not allocate memory'));
            }
          },
        },
      ],
    ])('%s: bytes are allocated all the same', async (_, stub) => {
      vi.resetModules();
      vi.stubGlobal('WebAssembly', stub);
      const fresh = await import('../../src/compare/float32-kernels.js');
      const allocated = fresh.allocateWithinReach(12);
      expect([...allocated]).toEqual(new Array(12).fill(0));
      expect(fresh.kernelsOver(allocated)).toBe(null);
    });

    test('and is not asked for again', async () => {
      let asked = 0;
      vi.resetModules();
      vi.stubGlobal('WebAssembly', {
        Module: class {},
        Memory: class {
          constructor() {
            asked++;
            refuse(new RangeError('could not allocate memory'));
          }
        },
      });
      const fresh = await import('../../src/compare/float32-kernels.js');
      for (let turn = 0; turn < 3; turn++) expect(fresh.allocateWithinReach(8).byteLength).toBe(8);
      expect(asked).toBe(1);
    });

    test('and the scales of channels are the same to the last bit', async () => {
      const { tensorOf } = await import('../build/checkpoints.js');
      const random = makeRandom(11);
      const shape = [40, 64, 3, 3];
      const count = 40 * 576;
      const x = Array.from({ length: count }, () => Math.fround(random() - 0.5));
      const y = x.map((value, i) => value * (0.5 + Math.floor(i / 576)));
      // A channel that begins with zeros, one of zeros, and one that kernels cannot decide.
      for (let i = 0; i < 4; i++) [x[576 + i], y[576 + i]] = [0, 0];
      x.fill(0, 1152, 1728);
      y.fill(0, 1152, 1728);
      y[1728 + 300] = (y[1728 + 300] ?? 0) * (1 + 5 * ROUNDOFF);
      const compare = async () => {
        vi.resetModules();
        const { compareChannelScales } = await import('../../src/compare/channel-scales.js');
        const tensors = [tensorOf('before', x, { shape }), tensorOf('after', y, { shape })] as const;
        return compareChannelScales(...tensors, { outputAxis: 0, groups: 1 });
      };
      const vectorised = await compare();
      vi.stubGlobal('WebAssembly', undefined);
      expect(vectorised.kind).toBe('proportional');
      expect(await compare()).toEqual(vectorised);
    });
  });
});

/** Numbers from 0 to 1, the same for a seed. */
function makeRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
