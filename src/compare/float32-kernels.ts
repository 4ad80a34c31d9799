import assembled from './float32-kernels.wat';
import type { Multiple, Span } from './weight-loops.js';
import { FLOAT32_ROUNDOFF } from './weight-rounding.js';

/**
 * Bytes of each buffer. No larger, and not at the start of a page of memory: copying from page to page at almost the
 * same place is several times slower on some processors, and where a tensor begins in a file is often at such a place.
 */
export const BUFFER_BYTES = 96 * 1024;
const LEFT_ADDRESS = 2 * 1024;

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
  readonly memory: WebAssembly.Memory;
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
 * Two buffers of float32 weights, and the loops of weight-loops.ts over them in WebAssembly, four weights at a time: a
 * fifth of the time. Spans are of elements in the buffers. An object serves one tensor, or pair of tensors, at a time.
 */
export class Float32Kernels {
  readonly left: Uint8Array<ArrayBuffer>;
  readonly right: Uint8Array<ArrayBuffer>;
  /** Σxy and Σx² of the last span. */
  readonly sums: Float64Array<ArrayBuffer>;
  readonly #exports: Exports;

  constructor(exports: Exports) {
    const { buffer } = exports.memory;
    this.#exports = exports;
    this.left = new Uint8Array(buffer, LEFT_ADDRESS, BUFFER_BYTES);
    this.right = new Uint8Array(buffer, LEFT_ADDRESS + BUFFER_BYTES, BUFFER_BYTES);
    this.sums = new Float64Array(buffer, 0, 2);
  }

  /**
   * Sums a span into {@link sums}, to the last bit as `sumProducts` of weight-loops.ts does.
   *
   * @returns false, and sums of no meaning, where a pair is zero on both sides, or the span is empty or no whole number of fours.
   */
  sumProducts({ from, to }: Span): boolean {
    const count = to - from;
    if (count === 0 || count % LANES !== 0) return false;
    const left = addressOf(from);
    return this.#exports.sumProducts(left, left + BUFFER_BYTES, count) === 1;
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

  /** Multiplies a span of the left buffer as `multiply` of weight-loops.ts does, to the last bit. */
  multiply({ from, to }: Span, factor: number): boolean {
    return to === from || this.#exports.multiply(addressOf(from), to - from, factor) === 1;
  }

  #areWithin(from: number, count: number, scale: number, allowed: number): boolean {
    const left = addressOf(from);
    return this.#exports.areMultiples(left, left + BUFFER_BYTES, count, scale, allowed) === 1;
  }
}

/** Of an element of the left buffer; that of the right one is as far on as the buffer is long. */
function addressOf(element: number): number {
  return LEFT_ADDRESS + Float32Array.BYTES_PER_ELEMENT * element;
}

/** What the text assembles to, compiled; null where that failed, or else an instance of it, and is not tried again. */
let compiled: WebAssembly.Module | null | undefined;
/** Those that are not lent at the moment. */
const idle: Float32Kernels[] = [];

/**
 * Lends kernels, or null where there can be none: V8 has no WebAssembly without its compiler (`--jitless`), no vectors
 * on old processors, and no memory for it where little address space is allowed. weight-loops.ts needs none of these.
 * A failure is kept: V8 collects all garbage several times before it says that there is no memory.
 */
export async function withKernels<T>(use: (kernels: Float32Kernels | null) => Promise<T>): Promise<T> {
  const kernels = idle.pop() ?? makeKernels();
  try {
    return await use(kernels);
  } finally {
    if (kernels !== null) idle.push(kernels);
  }
}

function makeKernels(): Float32Kernels | null {
  if (compiled === null) return null;
  try {
    compiled ??= new WebAssembly.Module(assembled);
    return new Float32Kernels(new WebAssembly.Instance(compiled).exports as unknown as Exports);
  } catch {
    compiled = null;
    return null;
  }
}
