// The innermost loops over weights, one of them as WebAssembly.

import { MAX_COUNTED_WEIGHTS } from '../checkpoint/channel-grid.js';
import type { Values } from '../checkpoint/dtype.js';
import { FLOAT32_ROUNDOFF } from './rounding.js';

// The loops over single weights are plain functions over plain arrays: they run a hundred million times.

/** Elements of a block, from `from` up to `to`. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

/**
 * Stores Σxy and Σx² of a span, in float64. In four chains each, since an addition waits for the one before it.
 */
export function sumProducts(left: Values, right: Values, { from, to }: Span, sums: Float64Array): void {
  let [product0, product1, product2, product3] = [0, 0, 0, 0];
  let [square0, square1, square2, square3] = [0, 0, 0, 0];
  const whole = to - ((to - from) % 4);
  for (let i = from; i < whole; i += 4) {
    const x0 = left[i] as number;
    const x1 = left[i + 1] as number;
    const x2 = left[i + 2] as number;
    const x3 = left[i + 3] as number;
    product0 += x0 * (right[i] as number);
    product1 += x1 * (right[i + 1] as number);
    product2 += x2 * (right[i + 2] as number);
    product3 += x3 * (right[i + 3] as number);
    square0 += x0 * x0;
    square1 += x1 * x1;
    square2 += x2 * x2;
    square3 += x3 * x3;
  }
  for (let i = whole; i < to; i++) {
    const x = left[i] as number;
    product0 += x * (right[i] as number);
    square0 += x * x;
  }
  sums[0] = product0 + product2 + (product1 + product3);
  sums[1] = square0 + square2 + (square1 + square3);
}

/** Elements other than zero on either side, up to as many as matter. */
export function countWeights(left: Values, right: Values, { from, to }: Span): number {
  // Read once: in the built file an imported constant is a property of another file.
  const enough = MAX_COUNTED_WEIGHTS;
  let count = 0;
  for (let i = from; i < to && count < enough; i++) if (left[i] !== 0 || right[i] !== 0) count++;
  return count;
}

/** What a span of one side is held against the other's by. */
export interface Multiple extends Span {
  readonly scale: number;
  /** Allowed difference for each unit of x, and at least. */
  readonly relative: number;
  readonly absolute: number;
}

/** Whether every element of `right` is `scale` times that of `left`, within tolerance. A NaN is not. */
export function areMultiples(
  left: Values,
  right: Values,
  { from, to, scale, relative, absolute }: Multiple,
): boolean {
  const paired = to - ((to - from) % 2);
  for (let i = from; i < paired; i += 2) {
    const x = left[i] as number;
    const next = left[i + 1] as number;
    const excess = Math.abs((right[i] as number) - x * scale) - relative * Math.abs(x);
    const nextExcess = Math.abs((right[i + 1] as number) - next * scale) - relative * Math.abs(next);
    if (!(excess <= absolute && nextExcess <= absolute)) return false;
  }
  if (paired === to) return true;
  const x = left[paired] as number;
  return Math.abs((right[paired] as number) - x * scale) - relative * Math.abs(x) <= absolute;
}

/**
 * Replaces a span by its products with a factor, computed in float64 and rounded once.
 *
 * @returns false, and a span of no meaning, where a product is no finite number of float32.
 */
export function multiply(values: Float32Array, { from, to }: Span, factor: number): boolean {
  for (let i = from; i < to; i++) {
    const product = Math.fround(factor * (values[i] as number));
    if (!(Math.abs(product) < Number.POSITIVE_INFINITY)) return false;
    values[i] = product;
  }
  return true;
}

/** Of WebAssembly what is used here: TypeScript has its types with those of browsers only. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array<ArrayBuffer>) => object;
  readonly Memory: new (pages: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer };
  readonly Instance: new (
    module: object,
    imports: object,
  ) => { readonly exports: { readonly f: FindOutside } };
};

/**
 * Finds a pair of float32 numbers of which |y − scale·x| − relative·|x| ≤ absolute does not hold, all computed in float32:
 * the address of its x or of one up to seven before; `end` where it holds for all.
 *
 * @param left address in bytes of the first x, `right` that of the first y, `end` where the x end, a multiple of 16 on, and
 *   `middle` the last address up to there that is a multiple of 32 on.
 */
type FindOutside = (
  left: number,
  right: number,
  middle: number,
  end: number,
  scale: number,
  relative: number,
  absolute: number,
) => number;

// The names of types and instructions below, https://webassembly.github.io/spec/core/binary/instructions.html.
const [I32, F32, V128, GET, SET, SIMD] = [0x7f, 0x7d, 0x7b, 0x20, 0x21, 0xfd];
const [LEFT, RIGHT, MIDDLE, END, SCALE, RELATIVE, ABSOLUTE, X] = [0, 1, 2, 3, 4, 5, 6, 7];

/** Instructions that leave of four pairs which of them hold, so many bytes behind where the loop is. */
// biome-ignore format: one instruction a line
const holdsAt = (offset: number): readonly number[] => [
  GET, LEFT, SIMD, 0x00, 0x04, offset, SET, X, // x = four of left
  GET, RIGHT, SIMD, 0x00, 0x04, offset, // four of right
  GET, X, GET, SCALE, SIMD, 0x13, SIMD, 0xe6, 0x01, // scale · x
  SIMD, 0xe5, 0x01, SIMD, 0xe0, 0x01, // |right − scale · x|
  GET, RELATIVE, SIMD, 0x13, GET, X, SIMD, 0xe0, 0x01, SIMD, 0xe6, 0x01, // relative · |x|
  SIMD, 0xe5, 0x01, GET, ABSOLUTE, SIMD, 0x13, SIMD, 0x45, // their difference ≤ absolute
];

/** Instructions that end with the left address unless four pairs, as {@link holdsAt} leaves them, all hold. */
const RETURN_UNLESS_ALL: readonly number[] = [SIMD, 0xa3, 0x01, 0x45, 0x04, 0x40, GET, LEFT, 0x0f, 0x0b];

// biome-ignore format: one instruction a line
const CODE: readonly number[] = [
  0x01, 0x01, V128, // a local vector
  0x02, 0x40, GET, LEFT, GET, MIDDLE, 0x4f, 0x0d, 0x00, // unless left ≥ middle:
  0x03, 0x40, //   loop
  ...holdsAt(0), ...holdsAt(16), SIMD, 0x4e, ...RETURN_UNLESS_ALL, //     eight pairs
  GET, LEFT, 0x41, 0x20, 0x6a, SET, LEFT, //     left += 32
  GET, RIGHT, 0x41, 0x20, 0x6a, SET, RIGHT, //     right += 32
  GET, LEFT, GET, MIDDLE, 0x49, 0x0d, 0x00, 0x0b, 0x0b, //     again while left < middle
  GET, LEFT, GET, END, 0x49, 0x04, 0x40, // if left < end:
  ...holdsAt(0), ...RETURN_UNLESS_ALL, 0x0b, //   four more pairs
  GET, END, 0x0b, // end
];

/** A length in two bytes. */
const lengthOf = (length: number): readonly number[] => [(length & 0x7f) | 0x80, length >> 7];

/** {@link FindOutside} as a WebAssembly module: the loop takes eight pairs at a time. */
// biome-ignore format: one section a line
const MODULE = Uint8Array.of(
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, // "\0asm", version 1
  0x01, 0x0c, 0x01, 0x60, 0x07, I32, I32, I32, I32, F32, F32, F32, 0x01, I32, // one type: FindOutside
  0x02, 0x08, 0x01, 0x01, 0x6d, 0x01, 0x6d, 0x02, 0x00, 0x01, // imports the memory "m"."m", of a page or more
  0x03, 0x02, 0x01, 0x00, // one function of that type
  0x07, 0x05, 0x01, 0x01, 0x66, 0x00, 0x00, // exported as "f"
  0x0a, ...lengthOf(CODE.length + 3), 0x01, ...lengthOf(CODE.length), ...CODE, // its code
);

/** The unit in which WebAssembly has its memory. */
const PAGE_BYTES = 64 * 1024;

/**
 * Where the left buffer begins: not with a page of memory. Copying from page to page at almost the same place is several
 * times slower on some processors, and where a tensor begins in a file is often at such a place.
 */
const FIRST_ADDRESS = 2 * 1024;

/** Bytes of an element. */
const WIDTH = Float32Array.BYTES_PER_ELEMENT;

/** Elements that are looked at together. */
const LANES = 4;

/** What float32 arithmetic may add to a difference, relative to the scaled weight, in roundings; argued for below. */
const OWN_ROUNDINGS = 2.1;

/** The least distance between float32 numbers. */
const FLOAT32_QUANTUM = 2 ** -149;

/** Scales beyond this, or under one by it, are left to float64. */
const MAX_SCALE = 2 ** 100;

/** What is allowed of a scaled weight may be this part of it at most: {@link OWN_ROUNDINGS} count on its smallness. */
const MAX_RELATIVE = 1 / 64;

/** The module, compiled; null once that, or getting memory for it, has failed. */
let compiled: object | null | undefined;

/**
 * Two buffers that weights of both sides are read to. Float32 weights in them are held against each other by vectors where
 * the machine has them: folded weights are told to be multiples in a fifth of the time of the plain loop.
 */
export class WeightBuffers {
  readonly left: Uint8Array;
  readonly right: Uint8Array;
  readonly #findOutside: FindOutside | null;

  /** @param byteLength of each, a multiple of 4. */
  constructor(byteLength: number) {
    const wanted = FIRST_ADDRESS + 2 * byteLength;
    const { memory, findOutside } = makeVectorMemory(wanted) ?? {
      memory: new ArrayBuffer(wanted),
      findOutside: null,
    };
    this.left = new Uint8Array(memory, FIRST_ADDRESS, byteLength);
    this.right = new Uint8Array(memory, FIRST_ADDRESS + byteLength, byteLength);
    this.#findOutside = findOutside;
  }

  /**
   * Whether float32 arithmetic suffices to see that `areMultiples` of weight-loops.ts holds for the float32 weights in the
   * buffers. Where it does not, or there are no vectors, only that can tell.
   *
   * With u = 2⁻²⁴ and q = 2⁻¹⁴⁹, what is computed of a pair is d = y − t, t = x·s, and r = R·|x|, where s is the scale
   * rounded, and R the allowed difference less 2.1 u·|scale|. A pair passes if |d| ≤ r. The rounding of s moves the
   * product by u·|x·scale| at most, that of t by as much or by q/2, those of d, r and R by a relative u each or, of r, by
   * q/2. So |y − x·scale| is at most (R + 2 u·|scale|)·|x| + q, and a little for the roundings of R·|x|, which is small
   * itself: 0.1 u·|scale·x| has room for it and for the roundings of float64. What overflows is no number, or not within.
   *
   * @param multiple false if its `absolute` is under 2⁻¹⁴⁹, or its `relative` no small part of the scale.
   */
  seeMultiples({ from, to, scale, relative, absolute }: Multiple): boolean {
    const magnitude = Math.abs(scale);
    const isInRange = magnitude <= MAX_SCALE && magnitude >= 1 / MAX_SCALE;
    const isAllowed = absolute >= FLOAT32_QUANTUM && relative <= MAX_RELATIVE * magnitude;
    if (!isInRange || !isAllowed) return false;
    const allowed = relative - OWN_ROUNDINGS * FLOAT32_ROUNDOFF * magnitude;
    return this.seeWithin({ from, to, scale, relative: allowed, absolute: 0 });
  }

  /**
   * Whether |y − scale·x| − relative·|x| ≤ absolute, computed in float32, for all float32 numbers of a span in the buffers.
   * False where one may be no number, and where there are no vectors.
   */
  seeWithin(multiple: Multiple): boolean {
    return this.findOutside(multiple) === multiple.to;
  }

  /**
   * From which element on {@link seeWithin} is not known to hold, up to seven before the first for which it does not; the
   * end of the span where it holds for all.
   */
  findOutside({ from, to, scale, relative, absolute }: Multiple): number {
    const find = this.#findOutside;
    if (find === null || to - from < LANES) return from;
    const left = this.left.byteOffset;
    const right = this.right.byteOffset;
    const whole = to - ((to - from) % LANES);
    const start = WIDTH * from;
    const end = left + WIDTH * whole;
    const middle = end - ((WIDTH * (whole - from)) % (2 * LANES * WIDTH));
    const outside = find(left + start, right + start, middle, end, scale, relative, absolute);
    if (outside < end || whole === to) return (outside - left) / WIDTH;
    // The last four once more where the count is no multiple of four.
    const tail = WIDTH * (to - LANES);
    const last = left + WIDTH * to;
    return find(left + tail, right + tail, left + tail, last, scale, relative, absolute) === last
      ? to
      : whole;
  }
}

/** Buffers that are not lent at the moment: making them takes as long as looking through a small weight. */
const idle: WeightBuffers[] = [];

/** Lends buffers of so many bytes each to one comparison at a time. */
export async function withBuffers<T>(
  byteLength: number,
  use: (buffers: WeightBuffers) => Promise<T>,
): Promise<T> {
  const index = idle.findIndex(({ left }) => left.byteLength === byteLength);
  const [buffers = new WeightBuffers(byteLength)] = index < 0 ? [] : idle.splice(index, 1);
  try {
    return await use(buffers);
  } finally {
    idle.push(buffers);
  }
}

/**
 * Memory that {@link FindOutside} reaches; null where there can be none. V8 has no WebAssembly without its compiler
 * (`--jitless`), no vectors on old processors, and no memory for it where little address space is allowed. A failure is
 * kept: V8 collects all garbage several times before it says that there is no memory.
 */
function makeVectorMemory(byteLength: number): { memory: ArrayBuffer; findOutside: FindOutside } | null {
  if (compiled === null) return null;
  try {
    compiled ??= new WebAssembly.Module(MODULE);
    const pages = Math.ceil(byteLength / PAGE_BYTES);
    // Memory that may grow reserves address space for that, and where that is scarce V8 collects garbage several times.
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const { exports } = new WebAssembly.Instance(compiled, { m: { m: memory } });
    return { memory: memory.buffer, findOutside: exports.f };
  } catch {
    compiled = null;
    return null;
  }
}
