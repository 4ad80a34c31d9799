import assembled from './float32-kernels.wat';
import type { Multiple, Span } from './weight-loops.js';
import { FLOAT32_ROUNDOFF } from './weight-rounding.js';

/**
 * Where arrays begin: behind the sums, and not with a page of memory. Copying from page to page at almost the same place
 * is several times slower on some processors, and where a tensor begins in a file is often at such a place.
 */
const FIRST_ADDRESS = 2 * 1024;

/** The unit in which WebAssembly has its memory. */
const PAGE_BYTES = 64 * 1024;

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

/** What float32-kernels.wat exports. */
interface Exports {
  readonly sumProducts: (left: number, right: number, count: number) => number;
  readonly areMultiples: (
    left: number,
    right: number,
    count: number,
    scale: number,
    relative: number,
  ) => number;
  readonly multiply: (at: number, count: number, factor: number) => number;
}

/**
 * The loops of weight-loops.ts in WebAssembly over two arrays of float32 weights, four weights at a time: a fifth of the
 * time. Spans are of elements in the arrays. Made by {@link kernelsOver}.
 */
export class Float32Kernels {
  /** Σxy and Σx² of the last span. */
  readonly sums: Float64Array<ArrayBuffer>;
  readonly #exports: Exports;
  readonly #left: number;
  readonly #right: number;

  constructor({ sums, exports }: Reach, left: Uint8Array, right: Uint8Array) {
    this.sums = sums;
    this.#exports = exports;
    this.#left = left.byteOffset;
    this.#right = right.byteOffset;
  }

  /**
   * Sums a span into {@link sums}, to the last bit as `sumProducts` of weight-loops.ts does.
   *
   * @returns false, and sums of no meaning, where a pair is zero on both sides, or the span is empty or no whole number of fours.
   */
  sumProducts({ from, to }: Span): boolean {
    const count = to - from;
    if (count === 0 || count % LANES !== 0) return false;
    return this.#exports.sumProducts(this.#left + WIDTH * from, this.#right + WIDTH * from, count) === 1;
  }

  /**
   * Whether float32 arithmetic suffices to see that `areMultiples` of weight-loops.ts holds. Where it does not, only
   * that can tell.
   *
   * With u = 2⁻²⁴ and q = 2⁻¹⁴⁹, what is computed of a pair is d = y − t, t = x·s, and r = R·|x|, where s is the scale
   * rounded, and R the allowed difference less 2.1 u·|scale|. A pair passes if |d| ≤ r. The rounding of s moves the
   * product by u·|x·scale| at most, that of t by as much or by q/2, those of d, r and R by a relative u each or, of r, by
   * q/2. So |y − x·scale| is at most (R + 2 u·|scale|)·|x| + q, and a little for the roundings of R·|x|, which is small
   * itself: 0.1 u·|scale·x| has room for it and for the roundings of float64. What overflows is no number, or not within.
   *
   * @param multiple false if its `absolute` is under 2⁻¹⁴⁹, or its `relative` no small part of the scale.
   */
  areMultiples({ from, to, scale, relative, absolute }: Multiple): boolean {
    const count = to - from;
    const magnitude = Math.abs(scale);
    const isInRange = magnitude <= MAX_SCALE && magnitude >= 1 / MAX_SCALE;
    const isAllowed = absolute >= FLOAT32_QUANTUM && relative <= MAX_RELATIVE * magnitude;
    if (count < LANES || !isInRange || !isAllowed) return false;
    const allowed = relative - OWN_ROUNDINGS * FLOAT32_ROUNDOFF * magnitude;
    const whole = count - (count % LANES);
    return (
      this.#areWithin(from, whole, scale, allowed) &&
      (whole === count || this.#areWithin(to - LANES, LANES, scale, allowed))
    );
  }

  /** Multiplies a span of the left array as `multiply` of weight-loops.ts does, to the last bit. */
  multiply({ from, to }: Span, factor: number): boolean {
    return to === from || this.#exports.multiply(this.#left + WIDTH * from, to - from, factor) === 1;
  }

  #areWithin(from: number, count: number, scale: number, allowed: number): boolean {
    const [left, right] = [this.#left + WIDTH * from, this.#right + WIDTH * from];
    return this.#exports.areMultiples(left, right, count, scale, allowed) === 1;
  }
}

/** What reaches a piece of memory. */
interface Reach {
  readonly sums: Float64Array<ArrayBuffer>;
  readonly exports: Exports;
}

/** What the text assembles to, compiled; null once that, or getting memory for it, has failed. */
let compiled: WebAssembly.Module | null | undefined;

/** By the memory that is reached. */
const reaches = new WeakMap<ArrayBufferLike, Reach>();

/**
 * Allocates bytes within reach of kernels; where there can be none, bytes like any other. V8 has no WebAssembly without
 * its compiler (`--jitless`), no vectors on old processors, and no memory for it where little address space is allowed.
 * A failure is kept: V8 collects all garbage several times before it says that there is no memory.
 */
export function allocateWithinReach(byteLength: number): Uint8Array<ArrayBuffer> {
  const wanted = FIRST_ADDRESS + byteLength;
  const memory = (compiled === null ? null : makeMemory(wanted)) ?? new ArrayBuffer(wanted);
  return new Uint8Array(memory, FIRST_ADDRESS, byteLength);
}

/**
 * Kernels over two arrays that are parts of one allocation, or over one; null where they are out of reach, and
 * weight-loops.ts has to do. The caller sees to it that spans lie within the arrays.
 *
 * @param left begins at a multiple of four bytes, and so does `right`.
 */
export function kernelsOver(left: Uint8Array, right: Uint8Array = left): Float32Kernels | null {
  const reach = reaches.get(left.buffer);
  return reach === undefined || right.buffer !== left.buffer ? null : new Float32Kernels(reach, left, right);
}

function makeMemory(byteLength: number): ArrayBuffer | null {
  try {
    compiled ??= new WebAssembly.Module(assembled);
    const pages = Math.ceil(byteLength / PAGE_BYTES);
    // Memory that may grow reserves address space for that, and where that is scarce V8 collects garbage several times.
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const { exports } = new WebAssembly.Instance(compiled, { loops: { memory } });
    const { buffer } = memory;
    reaches.set(buffer, {
      sums: new Float64Array(buffer, 0, 2),
      exports: exports as unknown as Exports,
    });
    return buffer;
  } catch {
    compiled = null;
    return null;
  }
}
