// Whether each output channel of a weight is a constant multiple of another's: how folding shows.

import {
  type ChannelGrid,
  type ChannelLayout,
  forEachRun,
  layOutChannels,
  MAX_COUNTED_WEIGHTS,
} from '../checkpoint/channel-grid.js';
import { haveSameShape, readElements, type Tensor } from '../checkpoint/checkpoint.js';
import {
  bitsOf,
  decodeFloats,
  IS_LITTLE_ENDIAN,
  isDecodable,
  quantumOf,
  toValues,
  type Values,
} from '../checkpoint/dtype.js';
import { layOutScales } from '../checkpoint/scale-layout.js';
import type { MeasureBounds } from '../compare/compare-layers.js';
import {
  compareProjectedScales,
  type NotFinite,
  type ProportionalScales,
  type ScaleBlur,
  type ScaleComparison,
} from '../compare/projected-scales.js';
import { areBoundable, boundFactors, type FactorBounds } from '../compare/quantised-weights.js';
import { RoundingJudge, roundingUncertainty, roundoffOf, scaleToleranceOf } from '../compare/rounding.js';
import { measureSizes } from '../compare/statistics.js';
import {
  areMultiples,
  countWeights,
  type Multiple,
  type Span,
  sumProducts,
  type WeightBuffers,
  withBuffers,
} from '../compare/weight-loops.js';
import { readRange } from '../io/byte-source.js';

/** A comparison once all of a checkpoint's weights are known: no weight is too short any more. */
export type SettledComparison = Exclude<ScaleComparison, { readonly kind: 'short' }>;

/** The scales of two weights that an audit has found to be multiples; null where they are none. */
export function takeScales(compared: ScaleComparison): ProportionalScales | null {
  if (compared.kind === 'short') return compared.fitted;
  return compared.kind === 'proportional' ? compared : null;
}

/** Bytes of each buffer. No larger: what was just read is still in the processor's cache when it is looked at. */
const BUFFER_BYTES = 256 * 1024;

/** The first piece is small: a weight that was trained fails there, and the rest is never read. */
const FIRST_CHUNK_BYTES = 32 * 1024;

/** The part of the relative tolerance that the beginning's scale may use; what only just passes is judged by all weights. */
const STRICT_SHARE = 3 / 4;

/**
 * Fits one scale per output channel by least squares and checks every weight against it. What a scale is uncertain by
 * counts no more than {@link MAX_COUNTED_WEIGHTS} weights, so no more are fitted where these are there.
 *
 * Weights that are no multiples by that measure may have been averaged besides: what is left of them, channel by channel,
 * is then judged as {@link RoundingJudge} does. A side whose values a baseline has left out is compared by its projections.
 *
 * Reads both tensors once where a channel's weights stand together and fit the buffers (Conv, Linear), else twice;
 * stops at the first channel that does not fit. Memory: two buffers and one number per channel.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function compareChannelScales(
  before: Tensor,
  after: Tensor,
  layout: ChannelLayout,
): Promise<ScaleComparison> {
  if (!haveSameShape(before, after) || !isDecodable(before.dtype) || !isDecodable(after.dtype)) {
    return { kind: 'incomparable' };
  }
  if (before.quantised !== undefined || after.quantised !== undefined)
    return compareQuantisedScales(before, after, layout);
  const grid = layOutChannels(before.shape, layout);
  if (grid.channels === 0 || before.elementCount === 0) return { kind: 'incomparable' };
  if (before.fingerprint !== undefined || after.fingerprint !== undefined) {
    return compareProjectedScales(before, after, layout);
  }
  return withBuffers(BUFFER_BYTES, async (buffers) => {
    const compared = await fitScales([before, after], grid, buffers);
    return compared.kind === 'changed' ? fitRoundedScales([before, after], grid, buffers) : compared;
  });
}

async function fitScales(
  [before, after]: readonly [Tensor, Tensor],
  grid: ChannelGrid,
  buffers: WeightBuffers,
): Promise<ScaleComparison> {
  const areFloat32 = IS_LITTLE_ENDIAN && [before, after].every(({ dtype }) => dtype === 'F32');
  const fit = new ScaleFit(grid, [before, after], areFloat32 ? buffers : null);
  const reader = new BlockReader([before, after], grid, buffers);
  const isProportional = reader.holdsWholeChannels
    ? await reader.everyBlock((block) => fit.fitAndCheck(block))
    : (await reader.everyBlock((block) => fit.add(block))) &&
      (await reader.everyBlock((block) => fit.check(block)));
  return isProportional ? fit.conclude() : { kind: 'changed' };
}

/** As {@link fitScales}, for weights that were averaged. */
async function fitRoundedScales(
  [before, after]: readonly [Tensor, Tensor],
  grid: ChannelGrid,
  buffers: WeightBuffers,
): Promise<ScaleComparison> {
  const reader = new BlockReader([before, after], grid, buffers);
  const fit = new ScaleFit(grid, [before, after], null);
  const judge = new RoundingJudge(after.dtype, after.dtype, { floor: scaleToleranceOf(before, after) });
  if (!reader.holdsWholeChannels) await reader.everyBlock((block) => fit.add(block));
  const isPossible = await reader.everyBlock((block) => {
    if (reader.holdsWholeChannels) fit.addMedians(block);
    return judge.add(...fit.scale(block));
  });
  if (!isPossible) return { kind: 'changed' };
  const rounding = judge.conclude();
  const fitted = fit.conclude();
  if (rounding.kind !== 'changed' && fitted.kind === 'not-finite') return fitted;
  if (rounding.kind === 'changed' || fitted.kind !== 'proportional') return { kind: 'changed' };
  const uncertainty = Math.max(fitted.uncertainty, roundingUncertainty(rounding));
  const averaged = { ...fitted, uncertainty, rounding };
  return rounding.kind === 'short' ? { kind: 'short', fitted: averaged } : averaged;
}

/** The same elements of both tensors. `start` counts elements of the whole tensor. */
interface Block {
  readonly left: Values;
  readonly right: Values;
  readonly start: number;
}

/** Reads two tensors in step, whole channels at a time where they stand together and fit the buffers. */
class BlockReader {
  readonly holdsWholeChannels: boolean;
  readonly #before: Tensor;
  readonly #after: Tensor;
  readonly #step: number;
  readonly #firstStep: number;
  readonly #buffers: WeightBuffers;

  constructor(
    [before, after]: readonly [Tensor, Tensor],
    { inner, rowsPerGroup }: ChannelGrid,
    buffers: WeightBuffers,
  ) {
    const elementBytes = Math.max(bitsOf(before.dtype), bitsOf(after.dtype)) / 8;
    const capacity = Math.floor(buffers.left.byteLength / elementBytes);
    this.#before = before;
    this.#after = after;
    this.#buffers = buffers;
    this.holdsWholeChannels = rowsPerGroup === 0 && inner <= capacity;
    const unit = this.holdsWholeChannels ? inner : 1;
    this.#step = Math.floor(capacity / unit) * unit;
    this.#firstStep = Math.min(this.#step, Math.ceil(FIRST_CHUNK_BYTES / elementBytes / unit) * unit);
  }

  /** Whether a test passes for every block, up to the first for which it does not. Each block overwrites the last one. */
  async everyBlock(test: (block: Block) => boolean): Promise<boolean> {
    const total = this.#before.elementCount;
    for (let start = 0; start < total; ) {
      const count = Math.min(total - start, start === 0 ? this.#firstStep : this.#step);
      const left = await readElements(this.#before, this.#buffers.left, { start, count });
      const right = await readElements(this.#after, this.#buffers.right, { start, count });
      const values = { left: toValues(left, this.#before.dtype), right: toValues(right, this.#after.dtype) };
      if (!test({ ...values, start })) return false;
      start += count;
    }
    return true;
  }
}

/** Sums, scales and counts per channel. */
class ScaleFit {
  readonly #grid: ChannelGrid;
  readonly #before: Tensor;
  readonly #after: Tensor;
  /** How far apart two weights may be, of the scaled value. */
  readonly #relative: number;
  /** The distance between neighbouring subnormal values, on either side. */
  readonly #quanta: { readonly before: number; readonly after: number };
  readonly #products: Float64Array;
  readonly #squares: Float64Array;
  readonly #counts: Uint32Array;
  /** Scales that are not those of least squares. */
  readonly #medians = new Map<number, number>();
  /** Channels that hold NaN or infinity on either side, and whether both sides are the same there. */
  readonly #notFinite = new Map<number, NotFinite>();
  /** Σxy and Σx² of the last run: a pair of results without an object for each. */
  readonly #sums = new Float64Array(2);
  /** What blocks of float32 weights are read to; null for other types. */
  readonly #buffers: WeightBuffers | null;

  constructor(grid: ChannelGrid, [before, after]: readonly [Tensor, Tensor], buffers: WeightBuffers | null) {
    this.#grid = grid;
    this.#before = before;
    this.#after = after;
    this.#relative = scaleToleranceOf(before, after);
    this.#quanta = { before: quantumOf(before.dtype), after: quantumOf(after.dtype) };
    this.#buffers = buffers;
    this.#products = new Float64Array(grid.channels);
    this.#squares = new Float64Array(grid.channels);
    this.#counts = new Uint32Array(grid.channels);
  }

  /** Whether a test passes for the runs of single channels in a block, up to the first for which it does not. */
  #everyRun({ left, start }: Block, test: (run: Run) => boolean): boolean {
    return forEachRun(this.#grid, { start, length: left.length }, (channel, from, to) =>
      test({ channel, from, to }),
    );
  }

  add(block: Block): boolean {
    return this.#everyRun(block, (run) => this.#addRun(block, run));
  }

  /**
   * Adds a block that holds its channels whole, whose scales are to be the medians of their ratios: many weights of an
   * average may not have moved at all, and least squares would miss all of them.
   */
  addMedians(block: Block): void {
    this.add(block);
    const { left, right } = block;
    this.#everyRun(block, ({ channel, from, to }) => {
      const end = Math.min(to, from + MAX_COUNTED_WEIGHTS);
      const ratios = Float64Array.from(right.subarray(from, end), (y, i) => y / (left[from + i] as number));
      const known = ratios.filter(Number.isFinite).sort();
      this.#medians.set(channel, known[Math.floor(known.length / 2)] ?? 0);
      return true;
    });
  }

  /** Whether a block's weights are multiples by the scales of their channels, which all blocks have been added to. */
  check(block: Block): boolean {
    return this.#everyRun(block, (run) => this.#isMultiple(block, run));
  }

  /** Both at once, for a block that holds its channels whole. */
  fitAndCheck(block: Block): boolean {
    return this.#everyRun(block, (run) => this.#fitRun(block, run));
  }

  /**
   * A block's left weights times the scales of their channels, which all of each channel's weights were added to, and its
   * right weights; zeros in both where the channel holds what is not finite.
   */
  scale(block: Block): [scaled: Float64Array, kept: Float64Array] {
    const [scaled, kept] = [Float64Array.from(block.left), Float64Array.from(block.right)];
    this.#everyRun(block, ({ channel, from, to }) => {
      if (this.#notFinite.has(channel)) {
        scaled.fill(0, from, to);
        kept.fill(0, from, to);
      } else {
        const scale = this.#scaleOf(channel);
        for (let i = from; i < to; i++) scaled[i] = scale * (scaled[i] as number);
      }
      return true;
    });
    return [scaled, kept];
  }

  conclude(): ScaleComparison {
    const notFinite = [...this.#notFinite.values()];
    const first = notFinite.find(({ side }) => side === 'after') ?? notFinite[0];
    if (first !== undefined) return { ...first, isSame: notFinite.every(({ isSame }) => isSame) };
    const scales = new Float64Array(this.#grid.channels).fill(Number.NaN);
    let weightsPerChannel = Number.POSITIVE_INFINITY;
    for (let channel = 0; channel < scales.length; channel++) {
      const count = this.#counts[channel] ?? 0;
      if (count === 0) continue;
      scales[channel] = this.#scaleOf(channel);
      weightsPerChannel = Math.min(weightsPerChannel, count);
    }
    const roundoff = roundoffOf(this.#before) + roundoffOf(this.#after);
    const uncertainty = roundoff / Math.sqrt(weightsPerChannel);
    const isUsed = Number.isFinite(weightsPerChannel);
    return {
      kind: 'proportional',
      scales,
      weightsPerChannel: isUsed ? Math.min(weightsPerChannel, MAX_COUNTED_WEIGHTS) : 0,
      uncertainty,
      rounding: null,
    };
  }

  /**
   * Fits a whole channel by its beginning and checks all of it. Where the beginning holds zeros, or some weight is not
   * well within the tolerance, all weights are fitted and checked again.
   */
  #fitRun(block: Block, run: Run): boolean {
    const { left, right } = block;
    const { channel, from } = run;
    const beginning = { from, to: Math.min(run.to, from + MAX_COUNTED_WEIGHTS) };
    if (countWeights(left, right, beginning) === beginning.to - from) {
      sumProducts(left, right, beginning, this.#sums);
      const scale = (this.#sums[0] ?? 0) / (this.#sums[1] ?? 0);
      const multiple = this.#multipleOf(run, scale, STRICT_SHARE);
      if (this.#buffers?.seeMultiples(multiple) === true || areMultiples(left, right, multiple)) {
        this.#keepSums(channel, beginning.to - from);
        return true;
      }
    }
    this.#addRun(block, run);
    return this.#isMultiple(block, run);
  }

  #addRun({ left, right }: Block, run: Run): true {
    const { channel } = run;
    sumProducts(left, right, run, this.#sums);
    // Sums overflow where a weight is NaN or infinite.
    const areNumbers = Number.isFinite((this.#sums[0] as number) + (this.#sums[1] as number));
    if (!areNumbers && this.#notFinite.get(channel)?.side !== 'after') {
      const found = findNotFinite(right, run, 'after') ?? findNotFinite(left, run, 'before');
      if (found !== null) this.#notFinite.set(channel, found);
    }
    const isEnough = (this.#counts[channel] ?? 0) >= MAX_COUNTED_WEIGHTS;
    this.#keepSums(channel, isEnough ? 0 : countWeights(left, right, run));
    return true;
  }

  #keepSums(channel: number, count: number): void {
    this.#products[channel] = (this.#products[channel] ?? 0) + (this.#sums[0] ?? 0);
    this.#squares[channel] = (this.#squares[channel] ?? 0) + (this.#sums[1] ?? 0);
    this.#counts[channel] = (this.#counts[channel] ?? 0) + count;
  }

  /** Least squares: the scale that takes x to y is Σxy / Σx². A channel of zeros has scale 0. */
  #scaleOf(channel: number): number {
    const median = this.#medians.get(channel);
    if (median !== undefined) return median;
    const square = this.#squares[channel] ?? 0;
    return square === 0 ? 0 : (this.#products[channel] ?? 0) / square;
  }

  #isMultiple({ left, right }: Block, run: Run): boolean {
    const notFinite = this.#notFinite.get(run.channel);
    if (notFinite !== undefined) {
      const isSame = notFinite.isSame && areSame(left, right, run);
      this.#notFinite.set(run.channel, { ...notFinite, isSame });
      return true;
    }
    if (areMultiples(left, right, this.#multipleOf(run, this.#scaleOf(run.channel), 1))) return true;
    // Squares of the largest and the smallest float64 numbers are none any more, and yet what is the same is the same.
    if (!areSame(left, right, run)) return false;
    this.#medians.set(run.channel, 1);
    return true;
  }

  /** What a run is held against, with a share of the relative tolerance. */
  #multipleOf({ from, to }: Span, scale: number, share: number): Multiple {
    const magnitude = Math.abs(scale);
    const relative = share * this.#relative * magnitude;
    return { from, to, scale, relative, absolute: this.#quanta.after + magnitude * this.#quanta.before };
  }
}

interface Run extends Span {
  readonly channel: number;
}

function findNotFinite(
  values: Values,
  { channel, from, to }: Run,
  side: NotFinite['side'],
): NotFinite | null {
  for (let i = from; i < to; i++) {
    const value = values[i] as number;
    if (!Number.isFinite(value)) return { kind: 'not-finite', side, channel, value, isSame: true };
  }
  return null;
}

/** Whether both sides are the same in a span; any NaN is the same as any other. */
function areSame(left: Values, right: Values, { from, to }: Span): boolean {
  for (let i = from; i < to; i++) {
    const [x, y] = [left[i] as number, right[i] as number];
    if (x !== y && !(Number.isNaN(x) && Number.isNaN(y))) return false;
  }
  return true;
}

/**
 * As `compareChannelScales`, where a weight is quantised: its codes stand for intervals, and so do the scales. Weights that
 * no scale explains when each code is the nearest may be explained if it is the next but one: then either a tool chose the
 * codes otherwise, or training moved weights by a step.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function compareQuantisedScales(
  before: Tensor,
  after: Tensor,
  layout: ChannelLayout,
): Promise<ScaleComparison> {
  if (!areBoundable(before, after) || !haveSameShape(before, after)) return { kind: 'incomparable' };
  for (const margin of [0.5, 1] as const) {
    const bounds = await boundFactors(before, after, layout, margin);
    if (bounds?.kind === 'bounded') return toScales(bounds, margin > 0.5);
    if (bounds !== null) return bounds;
  }
  return { kind: 'changed' };
}

function toScales({ low, high, steps, witnesses }: FactorBounds, isLoose: boolean): ProportionalScales {
  const [scales, widths] = [new Float64Array(low.length), new Float64Array(low.length)];
  for (let channel = 0; channel < low.length; channel++) {
    const least = low[channel] as number;
    const width = ((high[channel] as number) - least) / 2;
    widths[channel] = width;
    // NaN where nothing bounds the scale: as of a channel of zeros, any would do.
    scales[channel] = Number.isFinite(width) ? least + width : Number.NaN;
  }
  return {
    kind: 'proportional',
    scales,
    weightsPerChannel: 1 + witnesses / low.length,
    uncertainty: 0,
    rounding: null,
    blur: { widths, steps, isLoose, witnesses },
  };
}

/** Intervals wider than this part of their scale to either side say too little: drift is seldom much larger. */
export const MAX_WIDTH = 1 / 16;

/** Fewer weights than this may follow one scale in each channel by chance, though they were trained. */
export const MIN_WITNESSES = 8;

/** Whether a channel's interval is too wide for "unmoved" to mean something. */
export function isTooWide({ scales, blur }: ProportionalScales, channel: number): boolean {
  const scale = scales[channel] ?? Number.NaN;
  return blur !== undefined && !((blur.widths[channel] ?? Number.NaN) <= MAX_WIDTH * Math.abs(scale));
}

/** How far a channel's scale may be off from quantisation alone: half its interval. */
export function halfWidthOf(blur: ScaleBlur | undefined, channel: number): number {
  return blur?.widths[channel] ?? 0;
}

/** A step of four bits is larger than this part of the largest weight. */
const COARSE_STEP = 1 / 32;

/**
 * By how much a channel's scale must be out of its interval to be drift, relative to its largest weight: half a step, as
 * tools round otherwise. A whole one where steps are so coarse that training seldom moves weights by more.
 */
export function leastDriftOf(blur: ScaleBlur | undefined, channel: number): number {
  const step = blur?.steps[channel] ?? 0;
  return step > COARSE_STEP ? step : step / 2;
}

/** Why drift of a layer that seems to have drifted may be training, in few weights or by little; null where it may not. */
export function doubtDrift({ blur }: ProportionalScales): string | null {
  if (blur === undefined) return null;
  if (blur.isLoose)
    return 'its quantised weights fit one scale in each channel only if codes are off by more than half a step: training them by a step looks the same as moved statistics';
  if (blur.witnesses >= MIN_WITNESSES) return null;
  return 'its quantised convolution has so few weights that training them may look the same as moved statistics';
}

/**
 * Why drift of a quantised layer may be none where no spread shows it; null where one does. Batches that move means move
 * variances about as far, which quantisers that correct biases do not.
 */
export function doubtMeans({ blur }: ProportionalScales, isSpreadMoved: boolean): string | null {
  return blur === undefined || isSpreadMoved
    ? null
    : 'only the bias of its quantised convolution moved: its means drifted, or the quantiser corrected biases for what rounding does (NNCF does unless fast_bias_correction and its like are off); compare the float model';
}

/** What a layer is judged by that does not seem to have drifted. */
interface StillEvidence {
  /** Whether some channel is outside of its interval, by less than half a step. */
  readonly isHinted: boolean;
  /** Channels of which too little is known. */
  readonly hidden: number;
  readonly channels: number;
}

/** Why a layer that does not seem to have drifted may have drifted all the same; null where it did not. */
export function doubtStillness(
  { blur }: ProportionalScales,
  { isHinted, hidden, channels }: StillEvidence,
): string | null {
  if (blur === undefined) return null;
  if (blur.isLoose)
    return 'its quantised weights fit what they were only if codes are off by more than half a step: a tool rounded them otherwise, or training moved them by about a step, which quantisation hides';
  if (isHinted)
    return 'its quantised weights moved, but by less than a quantisation step: quantisation hides whether its statistics did, or a tool rounded otherwise';
  if (2 * hidden > channels)
    return `quantisation hides its statistics: the weights of ${hidden} of ${channels} channels are a few steps large, so that a drift of ${Math.round(100 * MAX_WIDTH)} % would not show`;
  return null;
}

/** How far a quantised bias may be off by channel: half a step unless it says otherwise; 0 for floats. */
export async function readBiasSteps(bias: Tensor | null): Promise<(channel: number) => number> {
  const quantised = bias?.quantised;
  if (quantised === undefined) return () => 0;
  const { range, dtype } = quantised.scale;
  const scales = decodeFloats(await readRange(range), dtype);
  const { indexOf } = layOutScales(bias?.shape ?? [], quantised);
  return (channel) => (quantised.margin ?? 0.5) * (scales[indexOf(channel)] ?? Number.NaN);
}

/** How far off the scales are at most, relative to the largest: what equal weights may differ by. */
export function widestBlur(scales: ProportionalScales): number {
  const { blur } = scales;
  if (blur === undefined) return 0;
  return blur.widths.reduce(
    (widest, width, channel) => (isTooWide(scales, channel) ? widest : Math.max(widest, width)),
    0,
  );
}

/** Bounds of what is measured with scales that quantisation leaves open, from the ratios σB / σA in their middle. */
export function boundMeasures(
  stdRatios: Float64Array,
  { scales, blur }: ProportionalScales,
): MeasureBounds | undefined {
  if (blur === undefined) return undefined;
  const channels = stdRatios.length;
  const [low, high] = [new Float64Array(channels), new Float64Array(channels)];
  // abs(ln(σB / σA)) of channels that have a ratio, whose interval does not reach 0.
  const [least, most] = [new Float64Array(channels), new Float64Array(channels)];
  let known = 0;
  for (let channel = 0; channel < channels; channel++) {
    // A ratio is the inverse of a scale, or in proportion to it: the wider of both.
    const width = blur.widths[channel] ?? Number.NaN;
    const rest = Math.max(0, 1 - width / Math.abs(scales[channel] ?? Number.NaN));
    const ratio = stdRatios[channel] ?? Number.NaN;
    low[channel] = ratio * rest;
    high[channel] = ratio / rest;
    if (!(rest > 0)) continue;
    const from = Math.log(ratio * rest);
    const to = Math.log(ratio / rest);
    least[known] = Math.max(0, from, -to);
    most[known] = Math.max(-from, to);
    known++;
  }
  const smallest = measureSizes(least.subarray(0, known));
  const largest = measureSizes(most.subarray(0, known));
  return {
    stdRatio: { low, high },
    logStdRatio: {
      rms: { low: smallest.rms, high: largest.rms },
      max: { low: smallest.max, high: largest.max },
    },
  };
}
