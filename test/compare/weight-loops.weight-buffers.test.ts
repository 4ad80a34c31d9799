import fc from 'fast-check';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { areMultiples, type Multiple, type Span, WeightBuffers } from '../../src/compare/weight-loops.js';
import { tensorOf } from '../build/checkpoints.js';

/** u: half the distance between neighbouring float32 numbers, relative. */
const ROUNDOFF = 2 ** -24;
const QUANTUM = 2 ** -149;

/** Elements of each side. */
const CAPACITY = 2048;

const buffers = new WeightBuffers(4 * CAPACITY);

function toFloats({ buffer, byteOffset, byteLength }: Uint8Array): Float32Array {
  return new Float32Array(buffer, byteOffset, byteLength / 4);
}

/** A span of two sides in buffers, and as the plain loop sees it. */
interface Loaded {
  readonly buffers: WeightBuffers;
  readonly left: Float32Array;
  readonly right: Float32Array;
  readonly span: Span;
}

/** Puts weights into the buffers, with `from` other elements before them. */
function load<T>(
  { x, y, from = 0 }: { x: readonly number[]; y: readonly number[]; from?: number },
  use: (loaded: Loaded) => T,
): T {
  const [left, right] = [toFloats(buffers.left), toFloats(buffers.right)];
  left.fill(Number.NaN);
  right.fill(Number.NaN);
  left.set(x, from);
  right.set(y, from);
  return use({ buffers, left, right, span: { from, to: from + x.length } });
}

/** What a channel of float32 weights is held against: 6 u of the product, and a quantum of either side. */
function multipleBy(scale: number, { from, to }: Span): Multiple {
  const magnitude = Math.abs(scale);
  return { from, to, scale, relative: 6 * ROUNDOFF * magnitude, absolute: QUANTUM * (1 + magnitude) };
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

describe('multiples', () => {
  test('are followed up to the first few that hold one that is none', () => {
    const x = Array.from({ length: 37 }, (_, i) => i + 1);
    for (const odd of x.keys()) {
      const y = x.map((value, index) => value * (index === odd ? 3 : 2));
      load({ x, y, from: 0 }, ({ buffers, span }) => {
        const outside = buffers.findOutside({ ...span, scale: 2, relative: 0, absolute: 0 });
        expect(outside).toBeLessThanOrEqual(odd);
        expect(outside).toBeGreaterThan(odd - 8);
        const end = { ...span, from: odd + 1, scale: 2, relative: 0, absolute: 0 };
        expect(buffers.findOutside(end)).toBe(span.to - odd - 1 < 4 ? odd + 1 : span.to);
      });
    }
  });

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
          load({ x, y }, ({ buffers, left, right, span }) => {
            const multiple = multipleBy(scale, span);
            if (!buffers.seeMultiples(multiple)) return;
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
    load({ x: [1, 1, 1, 1], y: [1, 1, 1, 1] }, ({ buffers, left, right, span }) => {
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
        if (!buffers.seeMultiples(multiple)) continue;
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
    load({ x: [x, x, x, x], y: [y, y, y, y] }, ({ buffers, left, right, span }) => {
      const multiple = multipleBy(scale, span);
      expect(areMultiples(left, right, multiple)).toBe(false);
      expect(buffers.seeMultiples(multiple)).toBe(false);
      expect(
        buffers.seeMultiples({ ...multiple, relative: multiple.relative + ROUNDOFF * Math.abs(scale) }),
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
          load(weights, ({ buffers, left, right, span }) => {
            const multiple = multipleBy(scale, span);
            if (buffers.seeMultiples(multiple)) expect(areMultiples(left, right, multiple)).toBe(true);
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
      const isSeen = load(sides, ({ buffers, span }) =>
        buffers.seeMultiples(multipleBy(Math.fround(other) / Math.fround(one), span)),
      );
      if (isSeen) seen++;
    }
    expect(seen).toBeGreaterThan(190);
  });

  test.each([4, 5, 6, 7, 8, 11])('of %i weights show each one that is none', async (count) => {
    const x = Array.from({ length: count }, (_, i) => 0.1 + i);
    const y = x.map((value) => 1.5 * value);
    const decide = (other: readonly number[]) =>
      load({ x, y: other, from: 3 }, ({ buffers, span }) => buffers.seeMultiples(multipleBy(1.5, span)));
    expect(await decide(y)).toBe(true);
    for (const index of x.keys()) {
      expect(await decide(y.with(index, (y[index] ?? 0) * (1 + 10 * ROUNDOFF)))).toBe(false);
      for (const wrong of [Number.NaN, Infinity, 0]) expect(await decide(y.with(index, wrong))).toBe(false);
    }
  });

  test('of an infinity are not seen', async () => {
    const decide = (x: number, y: number) =>
      load({ x: [1, 1, 1, x], y: [1, 1, 1, y] }, ({ buffers, span }) =>
        buffers.seeMultiples(multipleBy(1, span)),
      );
    expect(await decide(1, 1)).toBe(true);
    for (const y of [0, 1, Infinity, -Infinity]) expect(await decide(Infinity, y)).toBe(false);
  });

  test('are left to the plain loop without four weights, beyond ordinary scales, and where a quantum is too much', async () => {
    const ones = [1, 1, 1, 1];
    const decide = (x: readonly number[], change: Partial<Multiple>) =>
      load({ x, y: x }, ({ buffers, span }) => buffers.seeMultiples({ ...multipleBy(1, span), ...change }));
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

describe('buffers', () => {
  const SIZES = [4, 64 * 1024 - 4, 64 * 1024, 400_000];

  test.each(SIZES)('of %i bytes hold as many, of zeros, one beside the other', (byteLength) => {
    const { left, right } = new WeightBuffers(byteLength);
    expect([left.byteLength, right.byteLength]).toEqual([byteLength, byteLength]);
    left.fill(1);
    expect(right.every((byte) => byte === 0)).toBe(true);
  });

  test.each(SIZES.slice(1))('of %i bytes are looked at up to their ends', (byteLength) => {
    const [count, pair] = [byteLength / 4, new WeightBuffers(byteLength)];
    const [left, right] = [toFloats(pair.left).fill(2), toFloats(pair.right).fill(3)];
    const decide = () => pair.seeMultiples(multipleBy(1.5, { from: 1, to: count }));
    expect(decide()).toBe(true);
    right[count - 1] = 4;
    expect(decide()).toBe(false);
    [left[0], right[count - 1]] = [9, 3];
    expect(decide()).toBe(true);
  });

  describe('without vectors', () => {
    afterEach(() => {
      vi.unstubAllGlobals();
      vi.resetModules();
    });

    const refuse = (error: Error) => {
      throw error;
    };
    const withoutMemory = (onAsk: () => void) => ({
      Module: class {},
      Memory: class {
        constructor() {
          onAsk();
          refuse(new RangeError('could not allocate memory'));
        }
      },
    });
    test.each([
      ['without WebAssembly', undefined],
      [
        'on an old processor',
        {
          Module: class {
            constructor() {
              refuse(new Error('Wasm SIMD unsupported'));
            }
          },
        },
      ],
      ['without memory', withoutMemory(() => {})],
    ])('%s: are there all the same, and see nothing', async (_, stub) => {
      vi.resetModules();
      vi.stubGlobal('WebAssembly', stub);
      const fresh = await import('../../src/compare/weight-loops.js');
      const fallback = new fresh.WeightBuffers(16);
      expect([...fallback.left, ...fallback.right]).toEqual(new Array(32).fill(0));
      expect(fallback.seeMultiples(multipleBy(1, { from: 0, to: 4 }))).toBe(false);
    });

    test('ask for memory once', async () => {
      let asked = 0;
      vi.resetModules();
      vi.stubGlobal(
        'WebAssembly',
        withoutMemory(() => asked++),
      );
      const fresh = await import('../../src/compare/weight-loops.js');
      for (let turn = 0; turn < 3; turn++) expect(new fresh.WeightBuffers(8).left.byteLength).toBe(8);
      expect(asked).toBe(1);
    });

    test('leave the scales of channels the same to the last bit', async () => {
      const random = makeRandom(11);
      const shape = [40, 64, 3, 3];
      const count = 40 * 576;
      const x = Array.from({ length: count }, () => Math.fround(random() - 0.5));
      const y = x.map((value, i) => value * (0.5 + Math.floor(i / 576)));
      // A channel that begins with zeros, one of zeros, and one that float32 cannot decide.
      for (let i = 0; i < 4; i++) [x[576 + i], y[576 + i]] = [0, 0];
      x.fill(0, 1152, 1728);
      y.fill(0, 1152, 1728);
      y[1728 + 300] = (y[1728 + 300] ?? 0) * (1 + 5 * ROUNDOFF);
      const compare = async () => {
        vi.resetModules();
        const { compareChannelScales } = await import('../../src/folding/channel-scales.js');
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
