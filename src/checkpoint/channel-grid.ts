// How a weight's elements belong to its output channels, and sums over each channel that a baseline keeps.

import { countElements } from '../io/row-major.js';

/** How a weight's elements belong to output channels. */
export interface ChannelLayout {
  /** The axis that counts output channels: 0 for Conv and Linear, 1 for ConvTranspose and a Gemm without transB. */
  readonly outputAxis: number;
  /** Groups of a ConvTranspose, whose output channels count within each group of input channels; else 1. */
  readonly groups: number;
}

/** Where an element's output channel follows from its index. */
export interface ChannelGrid {
  readonly channels: number;
  /** Elements that stand together within one channel. */
  readonly inner: number;
  /** Channels along the output axis of the stored shape. */
  readonly along: number;
  /** Steps of the axis before it within one group; 0 where the output axis is the first. */
  readonly rowsPerGroup: number;
}

/** Whether a layout fits a shape: the axis exists, and the groups divide what comes before it. */
export function fitsShape(shape: readonly number[], { outputAxis, groups }: ChannelLayout): boolean {
  if (!(outputAxis >= 0 && outputAxis < shape.length && Number.isInteger(groups) && groups > 0)) return false;
  const before = countElements(shape.slice(0, outputAxis));
  return outputAxis === 0 ? groups === 1 : before % groups === 0;
}

/** The grid of a weight's shape. */
export function layOutChannels(shape: readonly number[], { outputAxis, groups }: ChannelLayout): ChannelGrid {
  const along = shape[outputAxis] ?? 0;
  const inner = countElements(shape.slice(outputAxis + 1));
  if (outputAxis === 0) return { channels: along, inner, along, rowsPerGroup: 0 };
  const rowsPerGroup = countElements(shape.slice(0, outputAxis)) / groups;
  return { channels: along * groups, inner, along, rowsPerGroup };
}

/**
 * Calls back for each run of elements of one channel in a piece of a weight, until one returns false.
 *
 * @param start index in the weight of the piece's first element.
 * @param visit told that elements `from` to `to` of the piece belong to `channel`, as its elements from `within` on.
 */
export function forEachRun(
  { inner, along, rowsPerGroup }: ChannelGrid,
  { start, length }: { readonly start: number; readonly length: number },
  visit: (channel: number, from: number, to: number, within: number) => boolean,
): boolean {
  let position = 0;
  while (position < length) {
    const run = Math.floor((start + position) / inner);
    const end = Math.min(length, (run + 1) * inner - start);
    const offset = start + position - run * inner;
    const row = Math.floor(run / along);
    const isFirstAxis = rowsPerGroup === 0;
    const channel = isFirstAxis ? run : Math.floor(row / rowsPerGroup) * along + (run % along);
    const within = isFirstAxis ? offset : (row % rowsPerGroup) * inner + offset;
    if (!visit(channel, position, end, within)) return false;
    position = end;
  }
  return true;
}

/** How many sign vectors each channel's weights are projected on; docs/baseline.md argues for the number. */
export const PROJECTION_COUNT = 3;

/** Weights other than zero beyond this number are not counted: any scale is certain enough by then. */
export const MAX_COUNTED_WEIGHTS = 256;

/**
 * Where the sequence of signs starts: with it the three vectors are linearly independent from two and three weights
 * on, and orthogonal, or next to it, over the 4, 9 and 25 weights of small kernels.
 */
const SIGN_SEED = 121;

/** Signs of so many first elements are kept; those of later ones are made again for each piece. */
const MAX_KEPT_SIGNS = 1 << 16;

/** What projecting a weight tells of each of its output channels. */
export interface ChannelProjections {
  /** Euclidean norm of each channel's weights. */
  readonly norms: Float64Array;
  /** Sums of the weights under each sign vector; those of channel c from index c · {@link PROJECTION_COUNT} on. */
  readonly sums: Float64Array;
  /** The fewest weights other than zero of any channel that has some, up to {@link MAX_COUNTED_WEIGHTS}. */
  readonly weightsPerChannel: number;
}

/** Projects a weight's channels, piece by piece, in float64. The sums depend on nothing but the weights. */
export class Projector {
  readonly #grid: ChannelGrid;
  readonly #squares: Float64Array;
  readonly #sums: Float64Array;
  readonly #counts: Uint16Array;

  constructor(grid: ChannelGrid) {
    this.#grid = grid;
    this.#squares = new Float64Array(grid.channels);
    this.#sums = new Float64Array(grid.channels * PROJECTION_COUNT);
    this.#counts = new Uint16Array(grid.channels);
  }

  /** Adds a piece of the weight whose first element has the index `start`. */
  add(values: Float32Array | Float64Array, start: number): void {
    forEachRun(this.#grid, { start, length: values.length }, (channel, from, to, within) => {
      this.#squares[channel] = addSquares(values, from, to, this.#squares[channel] ?? 0);
      const at = channel * PROJECTION_COUNT;
      addProjections(values, from, to, { ...signsFor(within, to - from), sums: this.#sums, at });
      const counted = this.#counts[channel] ?? 0;
      if (counted < MAX_COUNTED_WEIGHTS) this.#counts[channel] = countWeights(values, from, to, counted);
      return true;
    });
  }

  conclude(): ChannelProjections {
    const used = this.#counts.filter((count) => count > 0);
    const least = used.reduce((least, count) => Math.min(least, count), MAX_COUNTED_WEIGHTS);
    const weightsPerChannel = used.length === 0 ? 0 : least;
    return { norms: this.#squares.map(Math.sqrt), sums: this.#sums, weightsPerChannel };
  }
}

// The loops over single weights are plain functions over plain arrays: they run a hundred million times.

type Values = Float32Array | Float64Array;

function addSquares(values: Values, from: number, to: number, sum: number): number {
  let square = sum;
  for (let i = from; i < to; i++) {
    const value = values[i] as number;
    square += value * value;
  }
  return square;
}

/** Three chains of additions at once; each adds its terms in the order of the elements, whatever the pieces are. */
function addProjections(
  values: Values,
  from: number,
  to: number,
  { signs, first, sums, at }: ReturnType<typeof signsFor> & { sums: Float64Array; at: number },
): void {
  const [ones, twos, threes] = signs as readonly [Float64Array, Float64Array, Float64Array];
  let one = sums[at] as number;
  let two = sums[at + 1] as number;
  let three = sums[at + 2] as number;
  for (let i = from, k = first; i < to; i++, k++) {
    const value = values[i] as number;
    one += value * (ones[k] as number);
    two += value * (twos[k] as number);
    three += value * (threes[k] as number);
  }
  sums[at] = one;
  sums[at + 1] = two;
  sums[at + 2] = three;
}

/** Elements other than zero, up to as many as matter. */
function countWeights(values: Values, from: number, to: number, counted: number): number {
  let count = counted;
  for (let i = from; i < to && count < MAX_COUNTED_WEIGHTS; i++) if (values[i] !== 0) count++;
  return count;
}

const keptSigns: { signs: readonly Float64Array[]; length: number } = { signs: [], length: 0 };

/** The signs of `count` elements from element `within` of a channel on, and where they start in what is returned. */
function signsFor(within: number, count: number) {
  const end = within + count;
  if (end > MAX_KEPT_SIGNS) return { signs: makeSigns(within, count), first: 0 };
  if (end > keptSigns.length) {
    keptSigns.length = Math.min(MAX_KEPT_SIGNS, Math.max(2 * keptSigns.length, end));
    keptSigns.signs = makeSigns(0, keptSigns.length);
  }
  return { signs: keptSigns.signs, first: within };
}

/**
 * The sign vectors, each as ±1 for `count` elements from element `first` on. Element i has, in vector j, the sign
 * that bit j of `hash(i)` tells: 1 means −1.
 */
export function makeSigns(first: number, count: number): readonly Float64Array[] {
  const signs = Array.from({ length: PROJECTION_COUNT }, () => new Float64Array(count));
  for (let i = 0; i < count; i++) {
    const bits = hashIndex(first + i);
    for (let j = 0; j < PROJECTION_COUNT; j++) (signs[j] as Float64Array)[i] = (bits >>> j) & 1 ? -1 : 1;
  }
  return signs;
}

/** MurmurHash3's 32-bit finalizer (`fmix32`) of i · 0x9e3779b9 + seed, all modulo 2^32. */
function hashIndex(index: number): number {
  let hash = (Math.imul(index, 0x9e3779b9) + SIGN_SEED) | 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
