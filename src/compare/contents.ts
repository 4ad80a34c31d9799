// Knows tensors again by what they hold, whatever they are called.

import { createHash } from 'node:crypto';
import { readElements, type Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf, decodeFloats, isDecodable } from '../checkpoint/dtype.js';
import { partitionPoint } from '../checkpoint/edit-plan.js';
import { sampledIndices } from '../checkpoint/fingerprint.js';
import { readRange, runInFileOrder } from '../io/byte-source.js';
import { RoundingJudge } from './rounding.js';

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
export const TELLING_BITS = 64;

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

/** A tensor with its sampled values. */
interface Sample {
  readonly tensor: Tensor;
  readonly values: Float32Array | Float64Array;
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
    const bytes = await readSample(tensor, isSpread);
    if (bytes !== null) samples.push(describeSample(tensor, bytes));
  };
  const readable = tensors.filter(({ dtype, elementCount }) => isDecodable(dtype) && elementCount > 0);
  await runInFileOrder(
    readable.map((tensor) => ({
      range: tensor.fingerprint === undefined ? tensor.range : tensor.fingerprint.sample,
      run: () => take(tensor),
    })),
  );
  return samples;
}

async function readSample(tensor: Tensor, isSpread: boolean): Promise<Uint8Array | null> {
  const { fingerprint, elementCount, dtype } = tensor;
  if (fingerprint !== undefined) return fingerprint.sample === null ? null : readRange(fingerprint.sample);
  const width = bitsOf(dtype) / 8;
  if (!isSpread) {
    const count = Math.min(elementCount, RUN_LENGTH);
    const start = Math.floor((elementCount - count) / 2);
    return readElements(tensor, new Uint8Array(count * width), { start, count });
  }
  const indices = sampledIndices(elementCount);
  const bytes = new Uint8Array(indices.length * width);
  if (indices.length === elementCount) return readElements(tensor, bytes, { start: 0, count: elementCount });
  for (const [i, start] of indices.entries())
    await readElements(tensor, bytes.subarray(i * width), { start, count: 1 });
  return bytes;
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

/** Bits of a number's significand behind the first, without the zeros at its end: 0 of 4, 1 of 1.5, 3 of 0.5625. */
function significantBitsOf(size: number): number {
  if (size === 0 || !Number.isFinite(size)) return 0;
  let rest = size / 2 ** Math.floor(Math.log2(size));
  let bits = 0;
  while (!Number.isInteger(rest) && bits < 52) {
    rest *= 2;
    bits++;
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
      const shape = shapeOf(sample.tensor);
      const alike = this.#byShape.get(shape);
      if (alike === undefined) this.#byShape.set(shape, [sample]);
      else alike.push(sample);
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
