// Whether two tensors are equal: by bytes, by hash, or as numbers of different types.

import { haveSameShape, type Quantisation, readElements, type Tensor } from '../checkpoint/checkpoint.js';
import {
  bitsOf,
  type DType,
  decodeFloats,
  findPreimage,
  hasSignedZero,
  holdsAllOf,
  IS_LITTLE_ENDIAN,
  isDecodable,
  isFloatingPoint,
  type Preimage,
  roundToFloat,
} from '../checkpoint/dtype.js';
import { TensorSummarizer } from '../checkpoint/fingerprint.js';
import { readRange } from '../io/byte-source.js';
import { provesChange } from './projected-scales.js';
import { areBoundable, findCommonStep } from './quantised-weights.js';
import { RoundingJudge, type RoundingVerdict, type Values } from './rounding.js';

/**
 * How two tensors compare. `exact`: they hold the same values, up to storage rounding. `incomparable`: a type cannot be
 * decoded, or a baseline keeps too little. The others are about how values differ.
 */
export type TensorComparison =
  | { readonly kind: 'exact' }
  | { readonly kind: 'incomparable' }
  | RoundingVerdict;

/**
 * The first piece of a tensor is small and read on the spot: a tensor that was trained differs at its start, and the
 * rest of it is never read.
 */
const FIRST_CHUNK_BYTES = 16 * 1024;

/** Later pieces: few enough that reading them costs no more than their bytes, and both fit the processor's cache. */
const CHUNK_BYTES = 512 * 1024;

/** What holds any tensor of a small model: hundreds of those may be audited in one run. */
const SMALL_BYTES = 64 * 1024;

/** Of memory; buffers of this size start with a page, or a few bytes behind. */
const PAGE_BYTES = 4096;

/** Reads two tensors side by side through buffers that are reused; those of small tensors are small. */
export class TensorComparer {
  readonly #isExact: boolean;
  #left = new Uint8Array(0);
  #right = new Uint8Array(0);
  /** Made when a baseline turns up. */
  #summarizer: TensorSummarizer | null = null;

  /** @param isExact whether every difference is a change, however small and regular. */
  constructor({ isExact = false }: { readonly isExact?: boolean } = {}) {
    this.#isExact = isExact;
  }

  /**
   * Compares two tensors. Exact, types equal: bits equal, with −0 = 0. Exact, types different: the wider one, rounded to
   * nearest even into the narrower one, has the same value. Shapes that differ by more than dimensions of 1 are a change.
   *
   * Reads both ranges in step, from the first difference on with a judge that tells rounding from training, and stops
   * where that knows. A side whose values a baseline has left out is compared by its hash and its sample.
   *
   * @throws CheckpointError when a range cannot be read.
   */
  async compare(before: Tensor, after: Tensor): Promise<TensorComparison> {
    if (!haveSameShape(before, after) && !haveLikeShapes(before.shape, after.shape))
      return { kind: 'changed' };
    if (isSameRange(before, after)) return { kind: 'exact' };
    if (before.fingerprint !== undefined || after.fingerprint !== undefined) {
      const compared = await this.#compareHashes(before, after);
      // Of integers' rounding neither hashes nor samples know.
      const isQuantised = before.quantised !== undefined || after.quantised !== undefined;
      return compared.kind !== 'exact' && isQuantised ? { kind: 'incomparable' } : compared;
    }
    if (before.quantised !== undefined || after.quantised !== undefined)
      return this.#compareQuantised(before, after);
    if (before.dtype !== after.dtype && !(isDecodable(before.dtype) && isDecodable(after.dtype)))
      return { kind: 'incomparable' };
    return this.#compareElements(before, after);
  }

  /**
   * Hashes tell whether two tensors are equal; samples of their values, whether what differs is rounding. Without samples,
   * projections may prove a change, but never that there was none.
   */
  async #compareHashes(before: Tensor, after: Tensor): Promise<TensorComparison> {
    const isRetyped = before.dtype !== after.dtype;
    const [one, other] = [await this.#identify(before), await this.#identify(after)];
    if (!isRetyped && one.sha256 === other.sha256) return { kind: 'exact' };
    if (this.#isExact && !isRetyped) return { kind: 'changed' };
    if (one.sample === null || other.sample === null)
      return { kind: (await provesChange(before, after)) ? 'changed' : 'incomparable' };
    const judge = new RoundingJudge(before.dtype, after.dtype);
    if (!judge.add(decodeFloats(one.sample, before.dtype), decodeFloats(other.sample, after.dtype)))
      return { kind: 'changed' };
    // Something differs, but nothing in the sample does: some few values were changed.
    return judge.isUntouched ? { kind: isRetyped ? 'exact' : 'changed' } : judge.conclude();
  }

  async #identify(tensor: Tensor): Promise<{ sha256: string; sample: Uint8Array | null }> {
    const { fingerprint } = tensor;
    if (fingerprint !== undefined) {
      const { sha256, sample } = fingerprint;
      return { sha256, sample: sample && (await readRange(sample)) };
    }
    this.#summarizer ??= new TensorSummarizer();
    return this.#summarizer.summarize(tensor, null);
  }

  /** Codes of the same scales are the same weights; others may stand for the same ones, within a step. */
  async #compareQuantised(before: Tensor, after: Tensor): Promise<TensorComparison> {
    const [one, other] = [before.quantised, after.quantised];
    if (one !== undefined && other !== undefined && (await this.#haveSameCodes(one, other)))
      return { kind: 'exact' };
    if (this.#isExact) return { kind: 'changed' };
    if (!areBoundable(before, after)) return { kind: 'incomparable' };
    const step = await findCommonStep(before, after);
    return step === null
      ? { kind: 'changed' }
      : { kind: 'rounded', cause: 'quantised', relativeDifference: step, narrowing: null };
  }

  async #haveSameCodes(one: Quantisation, other: Quantisation): Promise<boolean> {
    const parts = [
      [one.scale, other.scale],
      [one.zeroPoint, other.zeroPoint],
      [one.codes, other.codes],
    ] as const;
    for (const [before, after] of parts) {
      if (before === null && after === null) continue;
      if (before === null || after === null || before.dtype !== after.dtype) return false;
      if (before.elementCount !== after.elementCount) return false;
      if ((await this.#compareElements(before, after)).kind !== 'exact') return false;
    }
    return one.axis === other.axis;
  }

  async #compareElements(before: Tensor, after: Tensor): Promise<TensorComparison> {
    const elementBytes = Math.max(bitsOf(before.dtype), bitsOf(after.dtype), 8) / 8;
    const total = bitsOf(before.dtype) < 8 ? before.range.byteLength : before.elementCount;
    this.#left = enlarge(this.#left, before);
    this.#right = enlarge(this.#right, after);
    const [left, right] = [placeApart(this.#left, before), placeApart(this.#right, after)];
    const isEqual = chooseElementTest(before.dtype, after.dtype);
    const canBeRounded = !this.#isExact && isDecodable(before.dtype) && isDecodable(after.dtype);
    let judge: RoundingJudge | null = null;
    for (let start = 0; start < total; ) {
      const span = { start, count: chunkLength(start, total, elementBytes) };
      const one = await readElements(before, left, span);
      const other = await readElements(after, right, span);
      if (judge === null && !isEqual(one, other)) {
        if (!canBeRounded) return { kind: 'changed' };
        judge = new RoundingJudge(before.dtype, after.dtype, { unchanged: start });
      }
      if (judge?.add(toValues(one, before.dtype), toValues(other, after.dtype)) === false)
        return { kind: 'changed' };
      start += span.count;
    }
    return judge?.conclude() ?? { kind: 'exact' };
  }
}

/** Elements as numbers: those of float32 as they stand where they are aligned, others converted. */
export function toValues(bytes: Uint8Array, dtype: DType): Values {
  return dtype === 'F32' && IS_LITTLE_ENDIAN && bytes.byteOffset % 4 === 0
    ? new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
    : decodeFloats(bytes, dtype);
}

/** The buffer, or one that is large enough for a tensor's pieces wherever in a page they are put. */
function enlarge(buffer: Uint8Array<ArrayBuffer>, { range }: Tensor): Uint8Array<ArrayBuffer> {
  if (buffer.byteLength >= Math.min(range.byteLength, CHUNK_BYTES) + PAGE_BYTES) return buffer;
  const capacity = range.byteLength > SMALL_BYTES ? CHUNK_BYTES : SMALL_BYTES;
  return new Uint8Array(capacity + PAGE_BYTES);
}

/**
 * The part of a buffer that a tensor's pieces are read to: half a page off from where they stand in a page of the file.
 * Copying from one page to another at almost the same place is several times slower on some processors.
 */
function placeApart(buffer: Uint8Array, { range }: Tensor): Uint8Array {
  const start = (range.offset + PAGE_BYTES / 2) % PAGE_BYTES;
  return buffer.subarray(start);
}

function chunkLength(start: number, total: number, elementBytes: number): number {
  return Math.min((start === 0 ? FIRST_CHUNK_BYTES : CHUNK_BYTES) / elementBytes, total - start);
}

/** Whether shapes agree when dimensions of size 1 are left out. */
export function haveLikeShapes(left: readonly number[], right: readonly number[]): boolean {
  const squeeze = (shape: readonly number[]) => shape.filter((size) => size !== 1);
  const [x, y] = [squeeze(left), squeeze(right)];
  return x.length === y.length && x.every((size, axis) => size === y[axis]);
}

function isSameRange(before: Tensor, after: Tensor): boolean {
  return (
    before.range.source === after.range.source &&
    before.range.offset === after.range.offset &&
    before.dtype === after.dtype
  );
}

function chooseElementTest(before: DType, after: DType): (left: Uint8Array, right: Uint8Array) => boolean {
  if (before === after) {
    if (!isFloatingPoint(before) || bitsOf(before) < 8 || !hasSignedZero(before)) return haveEqualBytes;
    const elementBytes = before === 'C64' ? 4 : bitsOf(before) / 8;
    return (left, right) => haveEqualBytes(left, right) || differInZeroSignOnly(left, right, elementBytes);
  }
  const isEqual = chooseValueTest(before, after);
  return (left, right) => {
    const leftValues = decodeFloats(left, before);
    const rightValues = decodeFloats(right, after);
    return leftValues.every((value, i) => isEqual(value, rightValues[i] ?? Number.NaN));
  };
}

function haveEqualBytes(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}

/** Little-endian elements: all bytes but the last must agree or be zero, and the last may differ in its sign bit. */
function differInZeroSignOnly(left: Uint8Array, right: Uint8Array, elementBytes: number): boolean {
  for (let start = 0; start < left.length; start += elementBytes) {
    let differs = false;
    let magnitude = 0;
    for (let i = start; i < start + elementBytes; i++) {
      const [x, y] = [left[i] ?? 0, right[i] ?? 0];
      if (x !== y) differs = true;
      magnitude |= i === start + elementBytes - 1 ? (x | y) & 0x7f : x | y;
    }
    if (differs && magnitude !== 0) return false;
  }
  return true;
}

/** Whether two decoded values are equal up to storage rounding. */
type ValueTest = (left: number, right: number) => boolean;

/**
 * What storage rounding means between two types. Same type: same value (−0 = 0, NaN = NaN). One type holds all values
 * of the other: a value of the wider, rounded into the narrower, is the other value. Neither does (float16 and bfloat16,
 * both rounded from float32, say): some number rounds to both values.
 */
export function chooseValueTest(leftType: DType, rightType: DType): ValueTest {
  const isSame: ValueTest = (left, right) => left === right || (Number.isNaN(left) && Number.isNaN(right));
  if (leftType === rightType) return isSame;
  if (holdsAllOf(leftType, rightType))
    return (left, right) => isSame(left, right) || isSame(roundToFloat(left, rightType), right);
  if (holdsAllOf(rightType, leftType))
    return (left, right) => isSame(left, right) || isSame(roundToFloat(right, leftType), left);
  return (left, right) => {
    if (isSame(left, right)) return true;
    if (Number.isNaN(left)) return mayOverflow(right, rightType, leftType);
    if (Number.isNaN(right)) return mayOverflow(left, leftType, rightType);
    return haveCommonNumber(findPreimage(left, leftType), findPreimage(right, rightType));
  };
}

/** Whether a number that one type rounds to a value may be beyond another: an 8-bit type without infinity has NaN there. */
function mayOverflow(value: number, type: DType, other: DType): boolean {
  const { low, high } = findPreimage(value, type);
  return Number.isNaN(roundToFloat(low, other)) || Number.isNaN(roundToFloat(high, other));
}

function haveCommonNumber(one: Preimage, other: Preimage): boolean {
  const [low, high] = [Math.max(one.low, other.low), Math.min(one.high, other.high)];
  if (low !== high) return low < high;
  const holds = ({ low: from, high: to, hasEnds }: Preimage) => hasEnds || (from < low && low < to);
  return holds(one) && holds(other);
}
