import type { Tensor } from '../checkpoint/checkpoint.js';
import {
  bitsOf,
  type DType,
  decodeFloats,
  isDecodable,
  isFloatingPoint,
  roundToFloat,
  significandBitsOf,
} from '../checkpoint/dtype.js';

/** Whether two tensors hold the same values, up to storage rounding; `incomparable` where a type cannot be decoded. */
export type Equality = 'equal' | 'changed' | 'incomparable';

/**
 * The first piece of a tensor is small and read on the spot: a tensor that was trained differs at its start, and the
 * rest of it is never read.
 */
const FIRST_CHUNK_BYTES = 16 * 1024;

/** Later pieces are as large as keeps both buffers in a second-level cache. */
const CHUNK_BYTES = 512 * 1024;

/** Formats without a negative zero: their one pattern that looks like it is NaN or a number. */
const WITHOUT_SIGNED_ZERO: ReadonlySet<DType> = new Set(['F8_E5M2FNUZ', 'F8_E4M3FNUZ', 'F8_E8M0']);

/** Reads two tensors side by side through buffers that are made once and reused. */
export class TensorComparer {
  readonly #buffers = [makeBufferPair(), makeBufferPair()] as const;

  /**
   * Compares two tensors. Types equal: bits equal, with −0 = 0. Types different: the wider one, rounded to nearest
   * even into the narrower one, has the same value. Shapes that differ by more than dimensions of 1 are a change.
   *
   * Reads both ranges in step and stops at the first difference.
   *
   * @throws CheckpointError when a range cannot be read.
   */
  async compare(before: Tensor, after: Tensor): Promise<Equality> {
    if (!haveSameShape(before.shape, after.shape)) return 'changed';
    if (isSameRange(before, after)) return 'equal';
    if (before.dtype !== after.dtype && !(isDecodable(before.dtype) && isDecodable(after.dtype)))
      return 'incomparable';
    return (await this.#haveEqualElements(before, after)) ? 'equal' : 'changed';
  }

  async #haveEqualElements(before: Tensor, after: Tensor): Promise<boolean> {
    const elementBytes = Math.max(bitsOf(before.dtype), bitsOf(after.dtype), 8) / 8;
    const total = bitsOf(before.dtype) < 8 ? before.range.byteLength : before.elementCount;
    const isEqual = chooseElementTest(before.dtype, after.dtype);
    const readChunk = (turn: number, start: number) =>
      this.#readChunk(before, after, { turn, start, count: chunkLength(start, total, elementBytes) });
    let pending = total === 0 ? null : readChunk(0, 0);
    for (let start = 0, turn = 0; pending !== null; turn ^= 1) {
      const [left, right] = await pending;
      const end = start + chunkLength(start, total, elementBytes);
      // The next piece is on its way while this one is compared.
      pending = end < total && start > 0 ? readChunk(turn ^ 1, end) : null;
      if (!isEqual(left, right)) {
        await pending;
        return false;
      }
      if (pending === null && end < total) pending = readChunk(turn ^ 1, end);
      start = end;
    }
    return true;
  }

  async #readChunk(
    before: Tensor,
    after: Tensor,
    { turn, start, count }: { turn: number; start: number; count: number },
  ): Promise<readonly [Uint8Array, Uint8Array]> {
    const buffers = this.#buffers[turn === 0 ? 0 : 1];
    const fill = async ({ dtype, range }: Tensor, buffer: Uint8Array) => {
      const elementBytes = Math.max(bitsOf(dtype), 8) / 8;
      const target = buffer.subarray(0, count * elementBytes);
      await range.source.readInto(target, range.offset + start * elementBytes);
      return target;
    };
    return Promise.all([fill(before, buffers[0]), fill(after, buffers[1])]);
  }
}

function makeBufferPair(): readonly [Uint8Array, Uint8Array] {
  return [new Uint8Array(CHUNK_BYTES), new Uint8Array(CHUNK_BYTES)];
}

function chunkLength(start: number, total: number, elementBytes: number): number {
  return Math.min((start === 0 ? FIRST_CHUNK_BYTES : CHUNK_BYTES) / elementBytes, total - start);
}

/** Whether shapes agree when dimensions of size 1 are left out. */
function haveSameShape(left: readonly number[], right: readonly number[]): boolean {
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

type ElementTest = (left: Uint8Array, right: Uint8Array) => boolean;

function chooseElementTest(before: DType, after: DType): ElementTest {
  if (before === after) {
    if (!isFloatingPoint(before) || bitsOf(before) < 8 || WITHOUT_SIGNED_ZERO.has(before))
      return haveEqualBytes;
    const elementBytes = before === 'C64' ? 4 : bitsOf(before) / 8;
    return (left, right) => haveEqualBytes(left, right) || differInZeroSignOnly(left, right, elementBytes);
  }
  return (left, right) => {
    const leftValues = decodeFloats(left, before);
    const rightValues = decodeFloats(right, after);
    return leftValues.every((value, i) =>
      isEqualUpToRounding(value, before, rightValues[i] ?? Number.NaN, after),
    );
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

/**
 * Whether two decoded values are equal up to storage rounding: same type, same value (−0 = 0, NaN = NaN); else the
 * one of the type with more significand bits, rounded into the other type, is the other value.
 */
export function isEqualUpToRounding(left: number, leftType: DType, right: number, rightType: DType): boolean {
  if (left === right || (Number.isNaN(left) && Number.isNaN(right))) return true;
  if (leftType === rightType) return false;
  const isLeftWider = significandBitsOf(leftType) >= significandBitsOf(rightType);
  const [wide, narrow, narrowType] = isLeftWider ? [left, right, rightType] : [right, left, leftType];
  const rounded = roundToFloat(wide, narrowType);
  return rounded === narrow || (Number.isNaN(rounded) && Number.isNaN(narrow));
}
