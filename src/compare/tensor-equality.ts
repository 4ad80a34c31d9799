// Whether two tensors are equal, by bytes, by hash or as numbers; and which of many are, whatever they are called.

import { createHash } from 'node:crypto';
import {
  type ElementSpan,
  haveSameShape,
  type Quantisation,
  readElements,
  type Tensor,
} from '../checkpoint/checkpoint.js';
import {
  bitsOf,
  type DType,
  decodeFloats,
  findPreimage,
  hasSignedZero,
  holdsAllOf,
  isDecodable,
  isFloatingPoint,
  type Preimage,
  roundToFloat,
  toValues,
  type Values,
} from '../checkpoint/dtype.js';
import { type PieceDigests, TensorSummarizer } from '../checkpoint/fingerprint.js';
import { partitionPoint, runInFileOrder } from '../io/byte-source.js';
import { addTo } from '../norm/naming.js';
import { provesChange, readSample } from './projected-scales.js';
import { areBoundable, findCommonStep } from './quantised-weights.js';
import { RoundingJudge, type RoundingVerdict, significantBitsOf } from './rounding.js';

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
  readonly #digests: PieceDigests | null;
  #left = new Uint8Array(0);
  #right = new Uint8Array(0);
  /** Made when a baseline turns up. */
  #summarizer: TensorSummarizer | null = null;

  /**
   * @param isExact whether every difference is a change, however small and regular.
   * @param digests of pieces that were read for other comparisons, which are not read again; absent where there are none.
   */
  constructor({
    isExact = false,
    digests = null,
  }: { readonly isExact?: boolean; readonly digests?: PieceDigests | null | undefined } = {}) {
    this.#isExact = isExact;
    this.#digests = digests;
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
    const [one, other] = [before.range, after.range];
    if (one.source === other.source && one.offset === other.offset && before.dtype === after.dtype)
      return { kind: 'exact' };
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
    const { sha256 } = tensor.fingerprint ?? {};
    if (sha256 !== undefined) return { sha256, sample: await readSample(tensor) };
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
    for (const part of ['scale', 'zeroPoint', 'codes'] as const) {
      const [before, after] = [one[part], other[part]];
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
      const most = (start === 0 ? FIRST_CHUNK_BYTES : CHUNK_BYTES) / elementBytes;
      const span = { start, count: Math.min(most, total - start) };
      const [readBefore, readAfter] = [readOnce(before, left, span), readOnce(after, right, span)];
      start += span.count;
      const mayBeEqual = judge === null && span.start > 0 && before.dtype === after.dtype;
      if (this.#digests !== null && mayBeEqual) {
        const digest = await this.#digests.find(before, span, readBefore);
        if (digest === (await this.#digests.find(after, span, readAfter))) continue;
      }
      const [one, other] = [await readBefore(), await readAfter()];
      if (judge === null && !isEqual(one, other)) {
        if (!canBeRounded) return { kind: 'changed' };
        judge = new RoundingJudge(before.dtype, after.dtype, { unchanged: span.start });
      }
      if (judge?.add(toValues(one, before.dtype), toValues(other, after.dtype)) === false)
        return { kind: 'changed' };
    }
    return judge?.conclude() ?? { kind: 'exact' };
  }
}

/** Reads some of a tensor's elements when they are asked for, once. */
function readOnce(tensor: Tensor, buffer: Uint8Array, span: ElementSpan): () => Promise<Uint8Array> {
  let elements: Promise<Uint8Array> | null = null;
  return () => (elements ??= readElements(tensor, buffer, span));
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

/** Whether shapes agree when dimensions of size 1 are left out. */
export function haveLikeShapes(left: readonly number[], right: readonly number[]): boolean {
  const squeeze = (shape: readonly number[]) => shape.filter((size) => size !== 1);
  const [x, y] = [squeeze(left), squeeze(right)];
  return x.length === y.length && x.every((size, axis) => size === y[axis]);
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

/**
 * What storage rounding means between two types. Same type: same value (−0 = 0, NaN = NaN). One type holds all values
 * of the other: a value of the wider, rounded into the narrower, is the other value. Neither does (float16 and bfloat16,
 * both rounded from float32, say): some number rounds to both values.
 */
export function chooseValueTest(leftType: DType, rightType: DType): (left: number, right: number) => boolean {
  const isSame = (left: number, right: number) =>
    left === right || (Number.isNaN(left) && Number.isNaN(right));
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

/** What a tensor holds, as far as a sample of its values tells. */
export interface Content {
  /** The same for tensors that hold the same values, exactly or up to rounding. */
  readonly id: string;
  /**
   * How many bits its different values are made of, each without the zeros at its end, up to some more than
   * {@link TELLING_BITS}: 0 of ones and zeros, 1 of 1.5, 23 of a float32 that was trained.
   */
  readonly bits: number;
}

/** Bits that agree by accident once in 2⁶⁴; two tensors of ones agree in none. */
const TELLING_BITS = 64;

/** Whether tensors of one content are the same one, renamed. */
export function isTelling({ bits }: Pick<Content, 'bits'>): boolean {
  return bits >= TELLING_BITS;
}

/** Values in the middle of a tensor that are read: one small read, and twice what rounding is told by. */
const RUN_LENGTH = 128;

/** Tensors that are looked into: five times as many as the largest of real models have, in some 60 MB. */
const MAX_TENSORS = 50_000;

/** Tensors of nearly the same size of values that one is held against: those of real layers are hardly ever so near. */
const MAX_NEAR = 16;

/** Pairs of tensors whose rounding is judged: ten times the tensors of a large model, in about a second. */
const MAX_JUDGED = 20_000;

/** How far rounding moves the sum of all values, relative to it: that to 8 bits moves each by at most 2⁻⁴. */
const NEAR = 2 ** -4;

interface Sample {
  readonly tensor: Tensor;
  readonly values: Values;
  /** The sum of the absolute values. */
  readonly size: number;
  /** The same for equal values in equal shapes, whatever type they are stored in. */
  readonly key: string;
  readonly bits: number;
}

/**
 * Tells which tensors of two checkpoints hold the same values. Each is read once, a few of its values only; those of one
 * key are equal, and a matrix that has no equal is held against the few whose values are about as large: it may have
 * been averaged, or stored in a narrower type.
 *
 * @returns what each holds; without those whose values cannot be read, and empty where there are too many.
 * @throws CheckpointError when a range cannot be read.
 */
export async function recogniseTensors(
  before: Iterable<Tensor>,
  after: Iterable<Tensor>,
): Promise<ReadonlyMap<Tensor, Content>> {
  const sides = [[...new Set(before)], [...new Set(after)]] as const;
  if (sides.some(({ length }) => length > MAX_TENSORS)) return new Map();
  // What a baseline keeps of a tensor are values spread over it: then the same are read of the other side.
  const isSpread = sides.some((side) => side.some(({ fingerprint }) => fingerprint !== undefined));
  const [left, right] = [await takeSamples(sides[0], isSpread), await takeSamples(sides[1], isSpread)];
  const contents = new Map<Tensor, Content>();
  for (const { tensor, key, bits } of [...left, ...right]) contents.set(tensor, { id: key, bits });
  const known = new Set(left.map(({ key }) => key));
  const search = new NearSearch(left);
  const found = new Map<string, string>();
  for (const sample of right) {
    const { tensor, key, bits } = sample;
    if (known.has(key) || !isMatrix(tensor) || !isTelling(sample)) continue;
    const id = found.get(key) ?? search.find(sample)?.key ?? key;
    found.set(key, id);
    contents.set(tensor, { id, bits });
  }
  return contents;
}

/** A matrix has values of all sizes, and rounding moves each in proportion; vectors near 1 all look like one another. */
function isMatrix({ shape }: Tensor): boolean {
  return shape.filter((size) => size !== 1).length > 1;
}

async function takeSamples(tensors: readonly Tensor[], isSpread: boolean): Promise<readonly Sample[]> {
  const samples: Sample[] = [];
  const take = async (tensor: Tensor) => {
    const count = Math.min(tensor.elementCount, RUN_LENGTH);
    const middle = new Uint8Array((count * bitsOf(tensor.dtype)) / 8);
    const start = Math.floor((tensor.elementCount - count) / 2);
    const bytes = await (isSpread ? readSample(tensor) : readElements(tensor, middle, { start, count }));
    if (bytes !== null) samples.push(describeSample(tensor, bytes));
  };
  const readable = tensors.filter(({ dtype, elementCount }) => isDecodable(dtype) && elementCount > 0);
  const works = readable.map((tensor) => ({
    range: tensor.fingerprint === undefined ? tensor.range : tensor.fingerprint.sample,
    run: () => take(tensor),
  }));
  await runInFileOrder(works);
  return samples;
}

function describeSample(tensor: Tensor, bytes: Uint8Array): Sample {
  // Adding 0 turns −0 into 0, which counts as equal.
  const exact = decodeFloats(bytes, tensor.dtype).map((value) => value + 0);
  const hash = createHash('sha256').update(`${shapeOf(tensor)}:`);
  const key = hash.update(new Uint8Array(exact.buffer, exact.byteOffset, exact.byteLength)).digest('base64');
  return {
    tensor,
    // Half the memory, and all that a type of 32 bits or less holds.
    values: bitsOf(tensor.dtype) > 32 ? exact : Float32Array.from(exact),
    size: exact.reduce((sum, value) => sum + Math.abs(value), 0),
    key,
    bits: countBits(exact),
  };
}

function countBits(values: Float64Array): number {
  const seen = new Set<number>();
  let bits = 0;
  for (const value of values) {
    const size = Math.abs(value);
    if (seen.has(size)) continue;
    seen.add(size);
    bits += significantBitsOf(size);
    if (bits >= TELLING_BITS) break;
  }
  return bits;
}

/** Sizes without those of 1, which formats add and leave out. */
function shapeOf({ shape }: Tensor): string {
  return shape.filter((size) => size !== 1).join();
}

/** Finds what a tensor was rounded from. */
class NearSearch {
  /** Matrices of one shape, by the size of their values. */
  readonly #byShape = new Map<string, Sample[]>();
  #judged = 0;

  constructor(samples: readonly Sample[]) {
    const seen = new Set<string>();
    for (const sample of samples) {
      if (seen.has(sample.key) || !isMatrix(sample.tensor) || !isTelling(sample)) continue;
      seen.add(sample.key);
      addTo(this.#byShape, shapeOf(sample.tensor), sample);
    }
    for (const alike of this.#byShape.values()) alike.sort((x, y) => x.size - y.size);
  }

  /** The only one of before that rounding explains; null where none does, or several do. */
  find(sample: Sample): Sample | null {
    const alike = this.#byShape.get(shapeOf(sample.tensor)) ?? [];
    const middle = partitionPoint(alike, ({ size }) => size < sample.size);
    const near = alike
      .slice(Math.max(0, middle - MAX_NEAR), middle + MAX_NEAR)
      .filter(({ size }) => Math.abs(size - sample.size) <= NEAR * sample.size);
    const [found, ...others] = near.filter((one) => this.#mayBeRounded(one, sample));
    return found === undefined || others.length > 0 ? null : found;
  }

  #mayBeRounded(one: Sample, other: Sample): boolean {
    // Most differ in their first values.
    if (Math.abs((one.values[0] ?? 0) - (other.values[0] ?? 0)) > NEAR * other.size) return false;
    if (++this.#judged > MAX_JUDGED) return false;
    const judge = new RoundingJudge(one.tensor.dtype, other.tensor.dtype);
    return (
      one.values.length === other.values.length &&
      judge.add(one.values, other.values) &&
      judge.conclude().kind !== 'changed'
    );
  }
}
