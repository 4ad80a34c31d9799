// What quantised weights leave open: which factors may lie between the channels of two weights.

import {
  type ChannelGrid,
  type ChannelLayout,
  layOutChannels,
  MAX_COUNTED_WEIGHTS,
} from '../checkpoint/channel-grid.js';
import { type ElementSpan, readElements, type Tensor } from '../checkpoint/checkpoint.js';
import { readNumbers } from '../checkpoint/computed-elements.js';
import { bitsOf, type DType, isDecodable, toValues } from '../checkpoint/dtype.js';
import { layOutScales, type ScaleLayout } from '../checkpoint/scale-layout.js';
import type { NotFinite } from './projected-scales.js';
import { roundoffOf } from './rounding.js';
import { type WeightBuffers, withBuffers } from './weight-loops.js';

/**
 * How far a code may be from what it was rounded from, in steps: half of one by rounding to nearest. Tools that choose
 * the direction weight by weight (AdaRound, GPTQ) go up to a whole one.
 */
type Margin = 0.5 | 1;

/** The factors that two weights leave open, of which one at least is quantised. */
export interface FactorBounds {
  readonly kind: 'bounded';
  /** Per channel: after is between `low` and `high` times before; 0 and infinity where nothing bounds it. */
  readonly low: Float64Array;
  readonly high: Float64Array;
  /** Per channel: a step of the coarser side over the channel's largest weight there; infinite where all codes are 0. */
  readonly steps: Float64Array;
  /** Weights that are zero or cut off on neither side, less one for each channel: those that could have contradicted a factor. */
  readonly witnesses: number;
}

/** Elements that are looked at together: what both sides take of them fits the processor's cache. */
const CHUNK_ELEMENTS = 32 * 1024;

const CHUNK_BYTES = CHUNK_ELEMENTS * Float32Array.BYTES_PER_ELEMENT;

/** Bytes that are read together: a read costs as much as looking at thousands of them. */
const READ_BYTES = 256 * 1024;

/** The first piece is small: a weight that was trained fails there, and the rest is never read. */
const FIRST_ELEMENTS = 8 * 1024;

/** Weights of a run that are looked at before vectors are. */
const FIRST_WEIGHTS = 32;

/** Weights that are looked at one by one where vectors see that one of them may matter; more where there is no end of such. */
const LEAST_STEP = 8;
const LARGEST_STEP = 2048;

/** So many weights of each run tell how large its largest is, which need not be known to the last step. */
const MEASURED_WEIGHTS = 64;

/** How far float32 roundings may move a factor: exporters fold in another order. */
const FACTOR_SLACK = 2 ** -17;

/** What the division that made a code may add to its margin; in proportion to the code, the type of the scale adds more. */
const CODE_SLACK = 2 ** -12;

/** How far a trip through bfloat16 moves the largest weight of a channel, and with it the scale: no sign of a factor. */
const SCALE_SLACK = 2 ** -9;

/** Roundings on the way to a code, and to a float. */
const ROUNDINGS = 4;

/** A bound that no weight has set; infinity times the zero that a weight may be is no number. */
const UNBOUNDED = 2 ** 512;

/** Whether factors between two weights are bounded by intervals: one of them is quantised, and both can be read. */
export function areBoundable(before: Tensor, after: Tensor): boolean {
  const isReadable = ({ quantised, dtype, fingerprint }: Tensor) =>
    fingerprint === undefined &&
    (quantised === undefined ? isDecodable(dtype) : CODES.has(quantised.codes.dtype));
  return (
    [before, after].some(({ quantised }) => quantised !== undefined) &&
    isReadable(before) &&
    isReadable(after)
  );
}

/**
 * Bounds the factor between each channel of two weights of one shape that are {@link areBoundable}. A weight of before,
 * known to lie in [a, b], and its counterpart in [c, d] allow the factors from c/b to d/a; a channel's are those that all
 * of its weights allow. E.g. codes 100 and 50 before, 90 and 45 after, with one scale: 89.5/100.5 to 90.5/99.5 and
 * 44.5/50.5 to 45.5/49.5 leave 0.891 to 0.910.
 *
 * A code at the end of its type stands for whatever lies beyond as well: quantisers that ignore outliers cut them off.
 * Reads both once, and stops at the first channel that no factor explains. Memory: a few buffers, and numbers per channel.
 *
 * @returns null where some channel has no common factor: it was trained.
 * @throws CheckpointError when a range cannot be read.
 */
export async function boundFactors(
  before: Tensor,
  after: Tensor,
  layout: ChannelLayout,
  margin: Margin = 0.5,
): Promise<FactorBounds | NotFinite | null> {
  return withBuffers(CHUNK_BYTES + READ_BYTES, async (buffers) => {
    const left = await Side.open(before, margin, buffers.left);
    const right = await Side.open(after, margin, buffers.right);
    const hasOwnScales = [before, after].every(({ quantised }) => areOwnScales(quantised, layout));
    const fit = new FactorFit(layOutChannels(before.shape, layout), [left, right], buffers, hasOwnScales);
    for (let start = 0; start < before.elementCount; ) {
      const most = start === 0 ? FIRST_ELEMENTS : Math.floor(READ_BYTES / Math.max(left.width, right.width));
      const end = Math.min(before.elementCount, start + most);
      const span = { start, count: end - start };
      await left.read(span);
      await right.read(span);
      for (let at = start; at < end; at += CHUNK_ELEMENTS) {
        const chunk = { start: at, count: Math.min(CHUNK_ELEMENTS, end - at) };
        left.decode(chunk);
        right.decode(chunk);
        const problem = fit.add(chunk);
        if (problem !== null) return problem === 'empty' ? null : problem;
      }
      start = end;
    }
    return fit.conclude();
  });
}

/**
 * Whether every value may be what it was: each interval of before has a point in common with after's.
 *
 * @returns a step, relative to the largest value of the row where that is most; null where some value changed.
 */
export async function findCommonStep(before: Tensor, after: Tensor): Promise<number | null> {
  const bounds = await boundFactors(before, after, { outputAxis: 0, groups: 1 });
  if (bounds?.kind !== 'bounded') return null;
  const mayBeOne = bounds.low.every((low, row) => low <= 1 && 1 <= (bounds.high[row] as number));
  return mayBeOne ? bounds.steps.reduce((most, step) => (step < 1 ? Math.max(most, step) : most), 0) : null;
}

/** Whether a tensor's codes are floats themselves, whose steps grow with the value: no intervals are made of those. */
export function holdsFloatCodes({ quantised }: Tensor): boolean {
  return quantised?.codes.dtype.startsWith('F8') === true;
}

/** Whether each output channel has scales of its own: had a channel been rescaled, they would show it. */
function areOwnScales(quantised: Tensor['quantised'], { outputAxis, groups }: ChannelLayout): boolean {
  if (quantised === undefined || quantised.axis === null) return false;
  return quantised.blockSize === undefined
    ? quantised.axis === outputAxis && groups === 1
    : quantised.axis !== outputAxis;
}

/** The two weights that are held against each other. */
interface Sides {
  readonly left: Side;
  readonly right: Side;
}

class FactorFit {
  readonly #grid: ChannelGrid;
  readonly #buffers: WeightBuffers;
  readonly #left: Side;
  readonly #right: Side;
  /** Both, as one object for all of it. */
  readonly #sides: Sides;
  readonly #low: Float64Array;
  readonly #high: Float64Array;
  readonly #counts: Uint32Array;
  /** The sign of each channel's factor; 0 as long as no weight tells. */
  readonly #signs: Int8Array;
  /** Per channel, how many times before's scales are after's while all codes are the same; NaN from the first that is not. */
  readonly #ratios: Float64Array;
  readonly #inner: number;
  /** The bounds of the run that is looked at, one object for all of them. */
  readonly #run: RunBounds = { low: 0, high: 0, sign: 0 };
  /** What vectors are asked for, one object for all of it: new ones would be most of the garbage. */
  readonly #piece = { from: 0, to: 0, scale: 0.5, relative: 0.5, absolute: 0.5 };

  constructor(
    grid: ChannelGrid,
    [left, right]: readonly [Side, Side],
    buffers: WeightBuffers,
    hasOwnScales: boolean,
  ) {
    this.#grid = grid;
    this.#buffers = buffers;
    this.#left = left;
    this.#right = right;
    this.#sides = { left, right };
    this.#low = new Float64Array(grid.channels);
    this.#high = new Float64Array(grid.channels).fill(UNBOUNDED);
    this.#counts = new Uint32Array(grid.channels);
    this.#ratios = new Float64Array(grid.channels).fill(hasOwnScales ? 0 : Number.NaN);
    this.#signs = new Int8Array(grid.channels);
    // Neither the channel nor a scale changes within so many elements: all are products of the last dimensions.
    this.#inner = Math.min(grid.inner, left.inner, right.inner);
    for (const side of [left, right]) side.largest = new Float64Array(grid.channels);
  }

  /** Takes what both sides have read; says what ends the comparison. */
  add({ start, count }: ElementSpan): 'empty' | NotFinite | null {
    for (let from = 0; from < count; ) {
      const element = start + from;
      const to = Math.min(count, (Math.floor(element / this.#inner) + 1) * this.#inner - start);
      const problem = this.#addRun(element, from, to);
      if (problem !== null) return problem;
      from = to;
    }
    return null;
  }

  #addRun(element: number, from: number, to: number): 'empty' | NotFinite | null {
    const { inner, along, rowsPerGroup } = this.#grid;
    const run = Math.floor(element / inner);
    const channel = rowsPerGroup === 0 ? run : Math.floor(run / along / rowsPerGroup) * along + (run % along);
    const left = this.#left;
    const right = this.#right;
    const one = left.enter(element);
    const other = right.enter(element);
    if (!isScale(other)) return notFinite('after', channel, other);
    if (!isScale(one)) return notFinite('before', channel, one);
    const ratio = other / one;
    const bounds = this.#run;
    bounds.low = (this.#low[channel] as number) / ratio;
    bounds.high = (this.#high[channel] as number) / ratio;
    bounds.sign = this.#signs[channel] || findSign(left, right, from, to);
    this.#signs[channel] = bounds.sign;
    const problem = this.#narrowBy(from, to);
    if (problem === 'no-number') {
      const [value, previous] = [right, left].map(({ values }) =>
        values.subarray(from, to).find((each) => !Number.isFinite(each)),
      );
      return value === undefined
        ? notFinite('before', channel, previous ?? Number.NaN)
        : notFinite('after', channel, value);
    }
    if (problem !== null || bounds.low * (1 - FACTOR_SLACK) > bounds.high * (1 + FACTOR_SLACK))
      return 'empty';
    this.#low[channel] = bounds.low * ratio;
    this.#high[channel] = bounds.high * ratio;
    const known = this.#ratios[channel] as number;
    if (!Number.isNaN(known)) {
      const isSame = known === 0 || Math.abs(ratio / known - 1) <= this.#slack;
      this.#ratios[channel] = isSame && areSame(left.values, right.values, from, to) ? ratio : Number.NaN;
    }
    this.#measure(channel, from, Math.min(to, from + MEASURED_WEIGHTS));
    return null;
  }

  /** Narrows the run's bounds by its weights: its first weights nearly always do, so they are looked at one by one. */
  #narrowBy(from: number, to: number): ReturnType<typeof narrow> {
    let at = Math.min(to, from + FIRST_WEIGHTS);
    let problem = this.#narrow(from, at);
    for (let step = LEAST_STEP; problem === null && at < to; ) {
      const outside = this.#findMoving(at, to);
      if (outside === to) return null;
      // Where vectors see nothing, single weights are looked at on and on.
      step = outside === at ? Math.min(2 * step, LARGEST_STEP) : LEAST_STEP;
      at = Math.min(to, outside + step);
      problem = this.#narrow(outside, at);
    }
    return problem;
  }

  #narrow(from: number, to: number): ReturnType<typeof narrow> {
    return narrow(this.#run, this.#sides, from, to);
  }

  /** From where on weights may move a bound. A little wider than the test of single weights: by a hundredth of what lies between the bounds. */
  #findMoving(from: number, to: number): number {
    const piece = this.#piece;
    const { low, high, sign } = this.#run;
    piece.from = from;
    piece.to = to;
    piece.scale = ((sign || 1) * (low + high)) / 2;
    piece.relative = (low - high) / 2;
    piece.absolute = high * this.#left.half + this.#right.half;
    return this.#buffers.findOutside(piece);
  }

  /** Notes how large a run's weights are, and how many are zero and may have been cut off on neither side. */
  #measure(channel: number, from: number, to: number): void {
    const left = this.#left.largest;
    const right = this.#right.largest;
    left[channel] = largestOf(this.#left.values, from, to, left[channel] as number);
    right[channel] = largestOf(this.#right.values, from, to, right[channel] as number);
    const counted = this.#counts[channel] as number;
    if (counted === MAX_COUNTED_WEIGHTS) return;
    this.#counts[channel] = Math.min(MAX_COUNTED_WEIGHTS, counted + countInside(this.#sides, from, to));
  }

  get #slack(): number {
    return FACTOR_SLACK + this.#left.roundoff + this.#right.roundoff;
  }

  /** The same codes with another scale: the factor is that of the scales, where it is more than rounding. */
  #takeRatios(): void {
    this.#ratios.forEach((ratio, channel) => {
      const distance = Math.abs(ratio - 1);
      const isTold = distance <= this.#slack || distance > SCALE_SLACK;
      if (!isTold || (this.#high[channel] as number) > UNBOUNDED / 2) return;
      this.#low[channel] = ratio;
      this.#high[channel] = ratio;
    });
  }

  conclude(): FactorBounds {
    this.#takeRatios();
    const slack = this.#slack;
    const channels = this.#low.length;
    const [low, high, steps] = [
      new Float64Array(channels),
      new Float64Array(channels),
      new Float64Array(channels),
    ];
    let witnesses = 0;
    for (let channel = 0; channel < channels; channel++) {
      const least = (this.#low[channel] as number) * (1 - slack);
      const size = this.#high[channel] as number;
      const most = size > UNBOUNDED / 2 ? Number.POSITIVE_INFINITY : size * (1 + slack);
      const isNegative = (this.#signs[channel] as number) < 0;
      low[channel] = isNegative ? -most : least;
      high[channel] = isNegative ? -least : most;
      steps[channel] = Math.max(this.#left.stepIn(channel), this.#right.stepIn(channel));
      witnesses += Math.max(0, (this.#counts[channel] as number) - 1);
    }
    return { kind: 'bounded', low, high, steps, witnesses };
  }
}

function isScale(scale: number): boolean {
  return scale > 0 && scale < Number.POSITIVE_INFINITY;
}

function notFinite(side: NotFinite['side'], channel: number, value: number): NotFinite {
  return { kind: 'not-finite', side, channel, value, isSame: false };
}

/** The ends of a type of codes: a weight there may have been cut off. */
interface Ends {
  readonly lowest: number;
  readonly highest: number;
}

/** How codes stand in bytes, and their ends. */
interface CodeType extends Ends {
  readonly array: {
    readonly BYTES_PER_ELEMENT: number;
    new (buffer: ArrayBufferLike, byteOffset: number, length: number): ArrayLike<number>;
  };
}

/** Symmetric quantisation leaves out the lowest code of a signed type, so the one above it may be the end. */
const CODES: ReadonlyMap<DType, CodeType> = new Map<DType, CodeType>([
  ['I8', { lowest: -127, highest: 127, array: Int8Array }],
  ['U8', { lowest: 0, highest: 255, array: Uint8Array }],
  ['I16', { lowest: -32767, highest: 32767, array: Int16Array }],
  ['U16', { lowest: 0, highest: 65535, array: Uint16Array }],
  ['I32', { lowest: -(2 ** 31) + 1, highest: 2 ** 31 - 1, array: Int32Array }],
]);

/** As those of {@link CODES}, of four bits in the file. */
const SHORT_ENDS: ReadonlyMap<DType, Ends> = new Map([
  ['I8', { lowest: -7, highest: 7 }],
  ['U8', { lowest: 0, highest: 15 }],
]);

/** How codes of a tensor stand in bytes; null where they are none. */
function codeTypeOf({ dtype, packedBits }: Tensor): CodeType | null {
  const type = CODES.get(dtype);
  return type === undefined ? null : { ...type, ...(packedBits === undefined ? {} : SHORT_ENDS.get(dtype)) };
}

function viewCodes({ array }: CodeType, { buffer, byteOffset, byteLength }: Uint8Array): ArrayLike<number> {
  return new array(buffer, byteOffset, byteLength / array.BYTES_PER_ELEMENT);
}

/** One of the two weights: pieces of it, in units of its scale where it is quantised. */
class Side {
  /** What was decoded last: codes less their zero points, or the values of floats. */
  readonly values: Float32Array;
  /** Per channel, the largest of the values that were looked at. */
  largest = new Float64Array(0);
  /** How far the true value may be from one of {@link values}; 0 for floats. */
  readonly half: number;
  /** What lies at or beyond these may have been cut off; so far as codes have ends. */
  lowest = Number.NEGATIVE_INFINITY;
  highest = Number.POSITIVE_INFINITY;
  /** Elements that share a scale. */
  readonly inner: number;
  /** Bytes of an element in the file. */
  readonly width: number;
  /** Relative error of {@link values} beside {@link half}. */
  readonly roundoff: number;
  readonly #stored: Tensor;
  readonly #codes: CodeType | null;
  readonly #layout: ScaleLayout;
  readonly #buffer: Uint8Array;
  #bytes: Uint8Array = new Uint8Array(0);
  #start = 0;
  #scales: Float64Array = Float64Array.of(1);
  #zeros: Float64Array = Float64Array.of(0);

  /** @param memory for the values, and behind them what they are decoded from. */
  static async open(tensor: Tensor, margin: Margin, memory: Uint8Array): Promise<Side> {
    const side = new Side(tensor, margin, memory);
    const { scale, zeroPoint = null } = tensor.quantised ?? {};
    if (scale !== undefined) side.#scales = await readNumbers(scale);
    if (zeroPoint !== null) side.#zeros = await readNumbers(zeroPoint);
    return side;
  }

  constructor(tensor: Tensor, margin: Margin, memory: Uint8Array) {
    const { codes = tensor, scale } = tensor.quantised ?? {};
    this.#stored = codes;
    this.#codes = scale === undefined ? null : codeTypeOf(codes);
    this.#layout = layOutScales(tensor.shape, tensor.quantised ?? { axis: null });
    this.inner = this.#layout.run;
    this.half = scale === undefined ? 0 : margin + CODE_SLACK;
    this.roundoff = ROUNDINGS * roundoffOf(scale ?? tensor);
    this.width = bitsOf(codes.dtype) / 8;
    this.values = new Float32Array(memory.buffer, memory.byteOffset, CHUNK_ELEMENTS);
    this.#buffer = memory.subarray(CHUNK_BYTES);
  }

  /** The scale of the run that begins with an element; its zero point moves the type's ends. */
  enter(element: number): number {
    if (this.#scales.length === 1 && this.#zeros.length === 1) return this.#scales[0] as number;
    const at = this.#layout.indexOf(element);
    if (this.#codes !== null && this.#zeros.length > 1) this.#setEnds(this.#codes, this.#zeros[at] as number);
    return this.#scales[this.#scales.length === 1 ? 0 : at] as number;
  }

  #setEnds({ lowest, highest }: CodeType, zero: number): void {
    this.lowest = lowest - zero;
    this.highest = highest - zero;
  }

  /** A step over a channel's largest weight; 0 for floats. */
  stepIn(channel: number): number {
    return this.#codes === null ? 0 : 1 / (this.largest[channel] as number);
  }

  async read(span: ElementSpan): Promise<void> {
    this.#bytes = await readElements(this.#stored, this.#buffer, span);
    this.#start = span.start;
  }

  /** Takes a part of what was read last. */
  decode(span: ElementSpan): void {
    const from = (span.start - this.#start) * this.width;
    const bytes = this.#bytes.subarray(from, from + span.count * this.width);
    if (this.#codes === null) {
      this.values.set(toValues(bytes, this.#stored.dtype));
      return;
    }
    this.values.set(viewCodes(this.#codes, bytes));
    this.#setEnds(this.#codes, this.#zeros[0] as number);
    this.#centre(span);
  }

  /** Takes zero points off the codes. */
  #centre({ start, count }: ElementSpan): void {
    const zeros = this.#zeros;
    if (zeros.every((zero) => zero === 0)) return;
    for (let i = 0; i < count; i++) {
      const zero = zeros.length === 1 ? zeros[0] : zeros[this.#layout.indexOf(start + i)];
      this.values[i] = (this.values[i] as number) - (zero as number);
    }
  }
}

/** Bounds of one channel's factor, in units of both sides' scales; {@link narrow} narrows them. */
interface RunBounds {
  low: number;
  high: number;
  /** The factor's sign; 0 as long as no weight tells. */
  sign: number;
}

// The loops over single weights are plain functions over plain arrays: they run a hundred million times.

function largestOf(values: Float32Array, from: number, to: number, least: number): number {
  let largest = least;
  for (let i = from; i < to; i++) {
    const size = Math.abs(values[i] as number);
    if (size > largest) largest = size;
  }
  return largest;
}

function areSame(xs: Float32Array, ys: Float32Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (xs[i] !== ys[i]) return false;
  return true;
}

/** Counts the pairs that are zero and may have been cut off on neither side. */
function countInside({ left, right }: Sides, from: number, to: number): number {
  const { values: xs, lowest: lowestX, highest: highestX } = left;
  const { values: ys, lowest: lowestY, highest: highestY } = right;
  let count = 0;
  for (let i = from; i < to; i++) {
    const x = xs[i] as number;
    const y = ys[i] as number;
    if (x !== 0 && y !== 0 && x > lowestX && x < highestX && y > lowestY && y < highestY) count++;
  }
  return count;
}

/** The sign of the factor that the first pair of weights tells of which neither interval reaches zero; 0 without one. */
function findSign(left: Side, right: Side, from: number, to: number): number {
  for (let i = from; i < to; i++) {
    const x = left.values[i] as number;
    const y = right.values[i] as number;
    if (Math.abs(x) > left.half && Math.abs(y) > right.half) return Math.sign(x * y);
  }
  return 0;
}

/**
 * Narrows bounds by each weight of a run. The loop runs a hundred million times, and nearly all weights
 * leave the bounds as they are: |y − m·x| + w·|x| ≤ half a step of both, with m the middle of the bounds and w half
 * their distance, proves that of a weight, signs included.
 *
 * @returns `contradicted` where signs differ, `no-number` for NaN and infinities.
 */
function narrow(
  bounds: RunBounds,
  { left, right }: Sides,
  from: number,
  to: number,
): 'contradicted' | 'no-number' | null {
  const { values: xs, half: halfX, lowest: lowestX, highest: highestX } = left;
  const { values: ys, half: halfY, lowest: lowestY, highest: highestY } = right;
  let { low, high } = bounds;
  const sign = bounds.sign || 1;
  let middle = (sign * (low + high)) / 2;
  let width = (high - low) / 2;
  let allowed = low * halfX + halfY;
  for (let i = from; i < to; i++) {
    const x = xs[i] as number;
    const y = ys[i] as number;
    const sizeX = Math.abs(x);
    if (Math.abs(y - middle * x) + width * sizeX <= allowed) continue;
    const sizeY = Math.abs(y);
    if (!(sizeX < Number.POSITIVE_INFINITY && sizeY < Number.POSITIVE_INFINITY)) return 'no-number';
    // Another sign than the factor's, and neither interval reaches zero.
    if (sign * x * y < 0 && sizeX > halfX && sizeY > halfY) return 'contradicted';
    const isAbove = sizeY - halfY > low * (sizeX + halfX) && x > lowestX && x < highestX;
    const isUnder = sizeY + halfY < high * (sizeX - halfX) && y > lowestY && y < highestY;
    if (!isAbove && !isUnder) continue;
    if (isAbove) low = (sizeY - halfY) / (sizeX + halfX);
    if (isUnder) high = (sizeY + halfY) / (sizeX - halfX);
    middle = (sign * (low + high)) / 2;
    width = (high - low) / 2;
    allowed = low * halfX + halfY;
  }
  bounds.low = low;
  bounds.high = high;
  return null;
}
