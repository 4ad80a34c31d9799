// Solves a convolution that a block's parallel branches were merged into (RepVGG, MobileOne) for each branch's scale.

import { readElements, type Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf, type DType, decodeFloats, quantumOf } from '../checkpoint/dtype.js';
import {
  chooseEpsilon,
  type MergedComparison,
  readStoredLayer,
  type StoredLayer,
} from '../compare/compare-layers.js';
import type { LearnedComparison } from '../compare/compare-learned.js';
import { narrowestOf, RoundingJudge, roundoffOf } from '../compare/rounding.js';
import {
  type ChannelVector,
  countTrue,
  findInvalidValue,
  measureSizes,
  type RmsAndMax,
  readOptional,
} from '../compare/statistics.js';
import { failUnreachable } from '../errors.js';
import { refuseAmplified } from '../io/byte-source.js';
import { countElements } from '../io/row-major.js';
import { addNote, whyUnresolved } from '../norm/norm-layer.js';
import { MAX_WIDTH, MIN_WITNESSES } from './channel-scales.js';
import { type Branch, type FoundBlock, fits, type MergedBlock } from './find-blocks.js';
import {
  type FoldedContext,
  findInvalidBias,
  isUniform,
  takeForUnmoved,
  toFoldedLayer,
  unresolved,
  type Verdict,
} from './judge-pairs.js';
import {
  type EpsilonEvidence,
  FOLDING_ROUNDINGS,
  findOwnEpsilon,
  MAX_MEAN_UNCERTAINTY,
  SAFETY,
} from './recover-statistics.js';

/** A branch's weights of one output channel, in a row as long as the merged ones; those are zeros but for some places. */
interface Column {
  readonly values: Float64Array;
  readonly places: Int32Array;
}

/** The weights of one output channel: the merged ones, and each branch's where they stand in the merged kernel. */
interface Row {
  readonly channel: number;
  readonly target: Float64Array;
  readonly columns: readonly Column[];
  /** Where a channel's own input is in the middle of the kernel. */
  readonly middle: number;
  /** As long as a row, for whatever is worked out meanwhile. */
  readonly scratch: Float64Array;
  /** What each equation is multiplied by. */
  readonly weights: Float64Array;
}

/** Bytes of a weight that are read at once. */
const PIECE_BYTES = 256 * 1024;

/** Reads a block channel by channel; what it gives is good until the next. */
async function* readBlock({ branches, merged }: MergedBlock): AsyncGenerator<Row> {
  const { weight, channels } = merged;
  const inner = weight.elementCount / channels;
  const [, inputs = 1, ...kernel] = weight.shape;
  const area = inner / inputs;
  const step = Math.max(1, Math.floor((PIECE_BYTES * 8) / (inner * bitsOf(weight.dtype))));
  const columns = branches.map(({ linear }) => ({
    values: new Float64Array(inner),
    places: linear === null ? new Int32Array(1) : placeKernel(linear.weight, weight),
  }));
  const [scratch, weights] = [new Float64Array(inner), new Float64Array(inner)];
  for (let first = 0; first < channels; first += step) {
    const rows = Math.min(step, channels - first);
    const target = await readChannels(weight, first, rows);
    const pieces: (Float64Array | null)[] = [];
    for (const { linear } of branches)
      pieces.push(linear === null ? null : await readChannels(linear.weight, first, rows));
    for (let row = 0; row < rows; row++) {
      const channel = first + row;
      const middle = (channel % inputs) * area + Math.floor(countElements(kernel) / 2);
      for (const [branch, { values, places }] of columns.entries()) {
        const piece = pieces[branch];
        if (piece == null) {
          values[places[0] as number] = 0;
          places[0] = middle;
          values[middle] = 1;
        } else
          for (let i = 0; i < places.length; i++)
            values[places[i] as number] = piece[row * places.length + i] as number;
      }
      yield {
        channel,
        target: target.subarray(row * inner, (row + 1) * inner),
        columns,
        middle,
        scratch,
        weights,
      };
    }
  }
}

async function readChannels(tensor: Tensor, first: number, rows: number): Promise<Float64Array> {
  const inner = tensor.elementCount / (tensor.shape[0] ?? 1);
  const buffer = new Uint8Array((rows * inner * bitsOf(tensor.dtype)) / 8);
  return decodeFloats(
    await readElements(tensor, buffer, { start: first * inner, count: rows * inner }),
    tensor.dtype,
  );
}

/** Where the elements of a channel's kernel stand in a larger one around it. */
function placeKernel({ shape: own }: Tensor, { shape }: Tensor): Int32Array {
  let places = [0];
  for (let axis = 1; axis < shape.length; axis++) {
    const [size = 1, whole = 1] = [own[axis], shape[axis]];
    const margin = (whole - size) / 2;
    places = places.flatMap((place) => Array.from({ length: size }, (_, i) => place * whole + margin + i));
  }
  return Int32Array.from(places);
}

/** What least squares tells of a merged convolution. */
interface Fit {
  readonly kind: 'fitted';
  /** By branch, then by channel: the scale of the branch in the sum. */
  readonly scales: readonly Float64Array[];
  /** The largest error of each that rounding explains; infinite where other branches have its weights in proportion. */
  readonly errors: readonly Float64Array[];
  /** Weights that could have contradicted the scales, all channels together. */
  readonly witnesses: number;
  /** By channel: the length of the rounding errors of all its weights, at most. */
  readonly noise: Float64Array;
  /** By channel: the products of each two branches' weights. */
  readonly products: readonly Float64Array[];
  /** How far averaging left values from what they were, relative to them; 0 where they were not averaged. */
  readonly relativeDifference: number;
}

/** What a block's weights tell: no sum of the branches' where these were trained, or no numbers in some channel. */
type FitResult =
  | Fit
  | { readonly kind: 'changed' }
  | { readonly kind: 'not-finite'; readonly channel: number; readonly isMerged: boolean };

/** The part of a branch's weights that no other branch has, squared: under this one rounding hides the branch's scale. */
const MIN_SHARE = 1e-6;

/** Keeps the equations of branches in proportion solvable, far below {@link MIN_SHARE}. */
const RIDGE = 1e-12;

/** How many times the bound of one rounding weights may be off. */
const SLACK = 2;

/** Roundings of many weights fall either way: more than so many of one by chance in the direction that a scale goes is 3e-14. */
const ERROR_SPREAD = 8;

/** What is left over of many equations tells how coarse they were; no less than this part of what they may be. */
const LEAST_NOISE = 1 / 16;

/**
 * Fits the merged weights of each channel as a sum of the branches', each in the middle of the merged kernel; a branch
 * without a convolution is 1 in the middle of the channel's own input:
 *
 *     W′ = Σ s · W
 *
 * Least squares of as many equations as the channel has weights, each in units of its rounding error. Errors of length |e|
 * make a scale off by |e| / |w| at most, where w is the part of the branch's weights that no other branch has; and since they
 * fall either way, by {@link ERROR_SPREAD} / |w|.
 *
 * @param expected by branch, the scales of the side that has them; `grain`: the type that the merged weights went through.
 * @param judge tells whether averaging explains what rounding does not; null where rounding alone may.
 * @throws CheckpointError when a weight cannot be read.
 */
async function fitBranches(
  block: MergedBlock,
  { expected, grain }: { readonly expected: readonly Float64Array[]; readonly grain: DType },
  judge: RoundingJudge | null = null,
): Promise<FitResult> {
  const { branches, merged } = block;
  const count = branches.length;
  const roundoff = roundoffOf({ dtype: grain });
  const own = Math.max(...branches.map(({ linear }) => (linear === null ? 0 : roundoffOf(linear.weight))));
  const rounding = {
    sum: roundoff,
    terms: own + (1 + count) * roundoff,
    least: quantumOf(grain),
  };
  const skip = await findSkip(block, expected);
  const scales = branches.map(() => new Float64Array(merged.channels));
  const errors = branches.map(() => new Float64Array(merged.channels));
  const noise = new Float64Array(merged.channels);
  const products: Float64Array[] = [];
  let witnesses = 0;
  for await (const { channel, target, columns, middle, scratch, weights } of readBlock(block)) {
    const isMerged = !Number.isFinite(dot(target, target));
    target[middle] = (target[middle] as number) - skip;
    const wanted = expected.map((values) => values[channel] as number);
    const rows = weighRows(
      { target, columns, scratch, weights, skipAt: skip === 0 ? null : middle },
      wanted,
      rounding,
    );
    const gram = new Float64Array(count * count);
    for (let i = 0; i < count; i++)
      for (let j = 0; j <= i; j++)
        gram[i * count + j] = gram[j * count + i] = multiply(columns[i] as Column, columns[j] as Column);
    const { found, shares } = solve(
      gram,
      columns.map((column) => dotAt(column, target)),
    );
    const rest = measureRest({ target, columns, scratch }, found);
    if (!Number.isFinite(rest)) return { kind: 'not-finite', channel, isMerged };
    const lengths = columns.map((_, i) => Math.sqrt(gram[i * count + i] as number));
    const measure = (values: ArrayLike<number>) =>
      lengths.reduce((sum, length, i) => sum + length * Math.abs(values[i] as number), 0);
    const growth = measure(wanted) === 0 ? 1 : Math.max(1, measure(found) / measure(wanted));
    const error = SLACK * growth * Math.sqrt(target.length);
    const isSum =
      judge === null ? rest <= error : judge.add(...compareTerms({ columns, scratch, weights }, found));
    if (!isSum) return { kind: 'changed' };
    const free = rows - count;
    const seen = free < MIN_WITNESSES ? 1 : Math.min(1, Math.max(LEAST_NOISE, (2 * rest) / Math.sqrt(free)));
    const spread = Math.min(error, ERROR_SPREAD * growth * seen);
    noise[channel] = error;
    products.push(gram);
    for (let i = 0; i < count; i++) {
      const share = shares[i] as number;
      (scales[i] as Float64Array)[channel] = found[i] as number;
      (errors[i] as Float64Array)[channel] =
        share > MIN_SHARE ? spread / (Math.sqrt(share) * (lengths[i] as number)) : Number.POSITIVE_INFINITY;
    }
    witnesses += Math.max(0, rows - lengths.filter((length) => length > 0).length);
  }
  const fit = { kind: 'fitted', scales, errors, witnesses, noise, products, relativeDifference: 0 } as const;
  if (judge === null) return fit;
  const verdict = judge.conclude();
  if (verdict.kind !== 'rounded') return { kind: 'changed' };
  const { relativeDifference } = verdict;
  const growth = Math.max(1, relativeDifference / rounding.terms);
  const widen = (values: Float64Array) => values.map((value) => value * growth);
  return { ...fit, errors: errors.map(widen), noise: widen(noise), relativeDifference };
}

/** How large the terms of each equation are together, and the same with what is left over of it: both are rounded alike. */
function compareTerms(
  { columns, scratch: rest, weights }: Pick<Row, 'columns' | 'scratch' | 'weights'>,
  scales: Float64Array,
): [sizes: Float64Array, others: Float64Array] {
  const sizes = new Float64Array(rest.length);
  columns.forEach(({ values, places }, i) => {
    for (let k = 0; k < places.length; k++) {
      const at = places[k] as number;
      sizes[at] = (sizes[at] as number) + Math.abs((scales[i] as number) * (values[at] as number));
    }
  });
  const others = sizes.map((size, at) => (size + (rest[at] as number)) / (weights[at] as number));
  return [sizes.map((size, at) => size / (weights[at] as number)), others];
}

/**
 * Divides each equation of a channel by the rounding error to expect of it, so that small weights count as much as large
 * ones: the 1 of a skip is stored with an error that other weights do not have.
 *
 * @param wanted the scales that are expected.
 * @returns how many equations have a term.
 */
function weighRows(
  {
    target,
    columns,
    scratch: terms,
    weights,
    skipAt,
  }: Pick<Row, 'target' | 'columns' | 'scratch' | 'weights'> & { readonly skipAt: number | null },
  wanted: readonly number[],
  rounding: Readonly<Record<'sum' | 'terms' | 'least', number>>,
): number {
  terms.fill(0);
  if (skipAt !== null) terms[skipAt] = 1;
  columns.forEach(({ values, places }, i) => {
    const scale = Math.abs(wanted[i] as number);
    for (let k = 0; k < places.length; k++) {
      const at = places[k] as number;
      terms[at] = (terms[at] as number) + scale * Math.abs(values[at] as number);
    }
  });
  let rows = 0;
  for (let at = 0; at < target.length; at++) {
    const size = terms[at] as number;
    const error = rounding.sum * Math.abs(target[at] as number) + rounding.terms * size + rounding.least;
    target[at] = (target[at] as number) / error;
    weights[at] = 1 / error;
    if (size > 0) rows++;
  }
  for (const { values, places } of columns)
    for (let k = 0; k < places.length; k++) {
      const at = places[k] as number;
      values[at] = (values[at] as number) * (weights[at] as number);
    }
  return rows;
}

/** Channels that tell whether a block has a skip. */
const SKIP_CHANNELS = 64;

/**
 * Some blocks add their input as it is (RepViT): 1 in the middle of the kernel, which no norm layer scales. 1 where the
 * merged weights are nearer to the expected ones with it, else 0.
 */
async function findSkip(block: MergedBlock, expected: readonly Float64Array[]): Promise<0 | 1> {
  if (block.branches.some(({ gain }) => gain !== null)) return 1;
  if (block.branches.some(({ linear }) => linear === null) || !fits(null, block.merged)) return 0;
  let [without, within] = [0, 0];
  for await (const { channel, target, columns, middle } of readBlock(block)) {
    if (channel >= SKIP_CHANNELS) break;
    const scales = expected.map((values) => values[channel] as number);
    const rest = columns.reduce(
      (sum, { values }, i) => sum - (scales[i] as number) * (values[middle] as number),
      target[middle] as number,
    );
    without += Math.abs(rest);
    within += Math.abs(rest - 1);
  }
  return within < without ? 1 : 0;
}

function dot(one: Float64Array, other: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < one.length; i++) sum += (one[i] as number) * (other[i] as number);
  return sum;
}

/** The products of a column's weights with what stands in their places. */
function dotAt({ values, places }: Column, others: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < places.length; i++) {
    const at = places[i] as number;
    sum += (values[at] as number) * (others[at] as number);
  }
  return sum;
}

function multiply(one: Column, other: Column): number {
  return one.places.length < other.places.length ? dotAt(one, other.values) : dotAt(other, one.values);
}

/** How far merged weights are from the sum of the branches'. */
function measureRest(
  { target, columns, scratch: rest }: Pick<Row, 'target' | 'columns' | 'scratch'>,
  scales: Float64Array,
): number {
  rest.set(target);
  columns.forEach(({ values, places }, i) => {
    const scale = scales[i] as number;
    for (let at = 0; at < places.length; at++) {
      const place = places[at] as number;
      rest[place] = (rest[place] as number) - scale * (values[place] as number);
    }
  });
  return Math.sqrt(dot(rest, rest));
}

/**
 * Solves the normal equations G · s = h of columns scaled to length 1, by the inverse of G, refined once. The inverse's
 * diagonal tells each column's share: the square of what no other column has of it. A column of zeros has none.
 */
function solve(gram: Float64Array, projections: readonly number[]) {
  const count = projections.length;
  const lengths = projections.map((_, i) => Math.sqrt(gram[i * count + i] as number) || 1);
  const scaled = gram.map(
    (value, at) => value / (lengths[Math.floor(at / count)] as number) / (lengths[at % count] as number),
  );
  const inverse = invert(scaled, count);
  const times = (matrix: Float64Array, vector: Float64Array) =>
    vector.map((_, i) => dot(matrix.subarray(i * count, (i + 1) * count), vector));
  const wanted = Float64Array.from(projections, (value, i) => value / (lengths[i] as number));
  const first = times(inverse, wanted);
  const left = times(scaled, first).map((value, i) => (wanted[i] as number) - value);
  const found = times(inverse, left).map(
    (value, i) => (value + (first[i] as number)) / (lengths[i] as number),
  );
  return { found, shares: lengths.map((_, i) => 1 / (inverse[i * count + i] as number)) };
}

/** The inverse of a symmetric matrix and {@link RIDGE} on its diagonal, by Gauss and Jordan. */
function invert(matrix: Float64Array, count: number): Float64Array {
  const rows = Array.from({ length: count }, (_, i) => {
    const row = new Float64Array(2 * count);
    row.set(matrix.subarray(i * count, (i + 1) * count));
    row[i] = (row[i] as number) + RIDGE;
    row[count + i] = 1;
    return row;
  });
  for (const [at, pivot] of rows.entries()) {
    const by = pivot[at] as number;
    for (let i = 0; i < pivot.length; i++) pivot[i] = (pivot[i] as number) / by;
    for (const row of rows) {
      const factor = row[at] as number;
      if (row === pivot || factor === 0) continue;
      for (let i = 0; i < row.length; i++) row[i] = (row[i] as number) - factor * (pivot[i] as number);
    }
  }
  const inverse = new Float64Array(count * count);
  for (const [i, row] of rows.entries()) inverse.set(row.subarray(count), i * count);
  return inverse;
}

/** A branch with what its side holds of it. */
interface HeldBranch extends Branch {
  readonly held: StoredLayer;
  readonly bias: ChannelVector | null;
  /** What the block multiplies the branch by, per channel. */
  readonly gains: Float64Array;
  readonly epsilon: number;
  /** How far off a scale may be beside what fitting leaves open, relative to it. */
  readonly tolerance: number;
}

/** One branch's channels in a fit. */
interface SolvedBranch {
  /** Merged scale over the expected one; NaN where it is hidden. */
  readonly factors: Float64Array;
  readonly moved: readonly boolean[];
  /** Channels whose scale is the expected one, to rounding. */
  readonly same: readonly boolean[];
  /** Channels of which nothing is known: the branch's scale is next to zero, or others have its weights in proportion. */
  readonly hidden: readonly boolean[];
  /** Of these, channels that are in proportion to others, and moved together with them. */
  readonly entangled: number;
  /** Channels whose scale has another sign than γ: that was trained. */
  readonly contradicted: number;
  /** Channels that are gone from the sum, though γ is not zero: an infinite variance, or a γ trained to zero. */
  readonly vanished: number;
  readonly evidence: Pick<EpsilonEvidence, 'offsets' | 'tolerances'>;
}

/** What arithmetic on the way to a sum leaves of its terms is no sign of averaging. */
const FLOOR = { floor: 2 ** -22 };

function expectScale({ held, gains, epsilon }: HeldBranch, channel: number): number {
  const spread = (held.variance.values[channel] as number) + epsilon;
  return ((gains[channel] as number) * (held.gamma?.values[channel] ?? 1)) / Math.sqrt(spread);
}

/** The scales of one branch, against those that its own side holds. */
function solveBranch(branches: readonly HeldBranch[], at: number, fit: Fit): SolvedBranch {
  const branch = branches[at] as HeldBranch;
  const { scales, errors } = fit;
  const factors = new Float64Array(branch.held.mean.values.length).fill(1);
  const [moved, hidden, same]: [boolean[], boolean[], boolean[]] = [[], [], []];
  const [offsets, tolerances]: [number[], number[]] = [[], []];
  let [entangled, contradicted, vanished] = [0, 0, 0];
  for (const channel of factors.keys()) {
    const expected = expectScale(branch, channel);
    const [found, error] = [scales[at]?.[channel] as number, errors[at]?.[channel] as number];
    const tolerance = error + (branch.tolerance + fit.relativeDifference) * Math.abs(expected);
    const isAlone = Number.isFinite(error);
    const isSame = isAlone ? Math.abs(found - expected) <= tolerance : isExplained(branches, channel, fit);
    const isLost = isAlone && !isSame && Math.abs(found) <= error;
    const isWide = isAlone ? tolerance > MAX_WIDTH * Math.abs(expected) : expected === 0 || !isSame;
    same.push(isSame);
    moved.push(isAlone && !isSame && !isLost);
    hidden.push(isLost || (isWide && moved[channel] === false));
    if (!isAlone && !isSame) entangled++;
    if (isLost) vanished++;
    if (moved[channel] === true && Math.sign(found) !== Math.sign(expected)) contradicted++;
    if (hidden[channel] === true) factors[channel] = Number.NaN;
    else if (moved[channel] === true) factors[channel] = found / expected;
    if (!isAlone || hidden[channel] === true) continue;
    const spread = (branch.held.variance.values[channel] as number) + branch.epsilon;
    offsets.push(((expected / found) ** 2 - 1) * spread);
    tolerances.push(((2 * tolerance) / Math.abs(expected)) * spread);
  }
  const counts = { entangled, contradicted, vanished };
  return { factors, moved, same, hidden, ...counts, evidence: { offsets, tolerances } };
}

/** Whether the scales that the branches' side holds explain a channel's merged weights. */
function isExplained(
  branches: readonly HeldBranch[],
  channel: number,
  { scales, noise, products, relativeDifference }: Fit,
): boolean {
  const gram = products[channel] as Float64Array;
  const count = branches.length;
  const expected = branches.map((branch) => expectScale(branch, channel));
  const differences = expected.map((scale, i) => (scales[i]?.[channel] as number) - scale);
  let [square, allowed] = [0, noise[channel] as number];
  for (let i = 0; i < count; i++) {
    const length = Math.sqrt(gram[i * count + i] as number);
    const { tolerance } = branches[i] as HeldBranch;
    allowed += (tolerance + relativeDifference) * Math.abs(expected[i] as number) * length;
    for (let j = 0; j < count; j++)
      square += (differences[i] as number) * (gram[i * count + j] as number) * (differences[j] as number);
  }
  return Math.sqrt(Math.max(0, square)) <= allowed;
}

/** By channel how far the block's output moved because means did, in its standard deviations; NaN where nothing tells. */
function findMeanShifts(
  branches: readonly HeldBranch[],
  solved: readonly SolvedBranch[],
  { fit, merged, bias, grain }: Pick<FitContext, 'fit' | 'bias' | 'grain'> & Pick<MergedBlock, 'merged'>,
): Float64Array {
  const roundoff =
    FOLDING_ROUNDINGS + Math.max(roundoffOf({ dtype: grain }), roundoffOf(bias ?? { dtype: grain }));
  return Float64Array.from({ length: merged.channels }, (_, channel) => {
    const found = bias?.values[channel] ?? 0;
    let [sum, terms, blur, squares] = [0, Math.abs(found), 0, 0];
    for (const [i, branch] of branches.entries()) {
      const error = fit.errors[i]?.[channel] as number;
      const isSame = solved[i]?.same[channel] === true;
      if (!isSame && !Number.isFinite(error)) return Number.NaN;
      const expected = expectScale(branch, channel);
      const scale = isSame ? expected : (fit.scales[i]?.[channel] as number);
      const centre = (branch.bias?.values[channel] ?? 0) - (branch.held.mean.values[channel] as number);
      const gain = branch.gains[channel] as number;
      const beta = gain * (branch.held.beta?.values[channel] ?? 0);
      sum += beta + scale * centre;
      terms += Math.abs(beta) + Math.abs(scale * centre);
      blur +=
        Math.abs(centre) * ((Number.isFinite(error) ? error : 0) + branch.tolerance * Math.abs(expected));
      squares += (gain * (branch.held.gamma?.values[channel] ?? 1)) ** 2;
    }
    const tolerance = (SAFETY * roundoff + 2 * fit.relativeDifference) * terms + blur;
    const deviation = Math.sqrt(squares);
    if (!(tolerance <= MAX_MEAN_UNCERTAINTY * deviation)) return Number.NaN;
    const difference = Math.abs(found - sum);
    return difference <= tolerance ? 0 : difference / deviation;
  });
}

/** What a block's layers came to. */
export interface JudgedBlock {
  readonly layers: readonly MergedComparison[];
  /** Of each branch's convolution, in their order. */
  readonly equalities: readonly LearnedComparison['equality'][];
  /** What an unknown epsilon must explain; null where it is known. */
  readonly epsilonEvidence: EpsilonEvidence | null;
}

/**
 * Judges a block's norm layers by the convolution that its branches were merged into. Folding writes
 *
 *     W′ = Σ s · W,   b′ = Σ β + s · (b − μ),   s = γ / √(v + ε),
 *
 * so frozen convolutions tell each branch's s, and with it its v; of the means only their sum is known.
 *
 * @throws CheckpointError when a tensor cannot be read.
 */
export async function judgeMergedBlock(block: FoundBlock, context: FoldedContext): Promise<JudgedBlock> {
  const { branches, merged, foldedSide } = block;
  const linears = branches.flatMap(({ linear }) => linear ?? []);
  refuseAmplified([merged.weight.range], block.other.path);
  refuseAmplified(
    linears.map(({ weight }) => weight.range),
    block.live.path,
  );
  const conclude = (verdictOf: (index: number) => Verdict, equality: LearnedComparison['equality']) => ({
    layers: branches.map((branch, index) =>
      describe(block, branch, { foldedSide, context, ...verdictOf(index) }),
    ),
    equalities: branches.map(() => equality),
    epsilonEvidence: null,
  });
  const unread = branches.flatMap(({ layer }) => whyUnresolved(layer) ?? [])[0];
  if (unread !== undefined) return conclude(() => unresolved(unread), 'incomparable');
  const held: HeldBranch[] = [];
  // What was stored in float16 meanwhile is as coarse where it is float32 again.
  const grain = narrowestOf(await readChannels(merged.weight, 0, 1), merged.weight.dtype);
  for (const branch of branches) held.push(await holdBranch(branch, grain, context));
  const invalid = held.map((branch) => findInvalidValue(branch.held));
  const [problem] = invalid.filter((one) => one !== null);
  if (problem !== undefined)
    return conclude((index) => {
      const own = foldedSide === 'before' ? invalid[index] : null;
      return own == null
        ? unresolved(`a norm layer of its block is invalid: ${problem}`)
        : { status: 'invalid', problem: own };
    }, 'incomparable');
  const bias = await readOptional(merged.bias);
  const invalidBias = findInvalidBias(bias);
  const judgeNotFinite = (found: string) =>
    conclude(
      () =>
        foldedSide === 'after' ? { status: 'invalid', problem: found } : unresolved(`in before, ${found}`),
      'incomparable',
    );
  if (invalidBias !== null) return judgeNotFinite(invalidBias);
  const expected = expectScales(held);
  const fitting = { expected, grain };
  const plain = await fitBranches(block, fitting);
  const isAveraged = plain.kind === 'changed' && context.exact !== true;
  const fit = isAveraged ? await fitBranches(block, fitting, new RoundingJudge('F64', 'F64', FLOOR)) : plain;
  switch (fit.kind) {
    case 'not-finite':
      return fit.isMerged
        ? judgeNotFinite(`the folded weight of channel ${fit.channel} is not finite`)
        : conclude(
            () => unresolved(`weights of channel ${fit.channel} of its block are not finite`),
            'changed',
          );
    case 'changed':
      return conclude(() => ({ status: 'trained', problem: null }), 'changed');
    case 'fitted':
      return concludeFit(block, held, { fit, bias, grain, foldedSide, context });
    default:
      return failUnreachable(fit);
  }
}

async function holdBranch(branch: Branch, grain: DType, { epsilon }: FoldedContext): Promise<HeldBranch> {
  const { layer, linear, gain } = branch;
  const held = await readStoredLayer(layer);
  const factors = await readOptional(gain?.scale ?? null);
  const stored = [held.variance, held.gamma, linear?.weight, { dtype: grain }].flatMap((one) => one ?? []);
  return {
    ...branch,
    held,
    bias: await readOptional(linear?.bias ?? null),
    gains: held.mean.values.map((_, channel) => (gain?.sign ?? 1) * (factors?.values[channel] ?? 1)),
    epsilon: chooseEpsilon(layer, layer, epsilon).epsilon,
    // Of float32 the roundings of folding are the larger ones.
    tolerance: SAFETY * FOLDING_ROUNDINGS + 2 * Math.max(...stored.map(roundoffOf)),
  };
}

function expectScales(held: readonly HeldBranch[]): readonly Float64Array[] {
  return held.map((branch) => branch.held.mean.values.map((_, channel) => expectScale(branch, channel)));
}

interface FitContext {
  readonly fit: Fit;
  readonly bias: ChannelVector | null;
  readonly grain: DType;
  readonly foldedSide: 'before' | 'after';
  readonly context: FoldedContext;
}

/** Judges by the assumed epsilon, and by another usual one where the file does not tell it and that one explains all. */
function concludeFit(block: MergedBlock, held: readonly HeldBranch[], fitted: FitContext): JudgedBlock {
  const { layers, solved, equalities } = judgeFit(block, held, fitted);
  const [first] = held;
  const isOpen = fitted.context.epsilon === undefined && held.every(({ layer }) => layer.epsilon === null);
  if (first === undefined || !isOpen) return { layers, equalities, epsilonEvidence: null };
  const evidence = {
    assumed: first.epsilon,
    offsets: solved.flatMap(({ evidence }) => evidence.offsets),
    tolerances: solved.flatMap(({ evidence }) => evidence.tolerances),
  };
  const areLocked = (all: readonly MergedComparison[]) => all.every(({ status }) => status === 'locked');
  if (areLocked(layers)) return { layers, equalities, epsilonEvidence: { ...evidence, isExplained: true } };
  const own = findOwnEpsilon(evidence);
  const others = own === null ? null : held.map((branch) => ({ ...branch, epsilon: own.epsilon }));
  const explained = others === null ? null : judgeFit(block, others, fitted);
  if (own === null || explained === null || !areLocked(explained.layers))
    return { layers, equalities, epsilonEvidence: { ...evidence, isExplained: false } };
  return {
    layers: layers.map((moved, index) =>
      takeForUnmoved(explained.layers[index] ?? moved, moved, own.isCertain),
    ),
    equalities: explained.equalities,
    epsilonEvidence: { ...evidence, isExplained: true },
  };
}

/** Judges every branch by a fit. */
function judgeFit(block: MergedBlock, held: readonly HeldBranch[], fitted: FitContext) {
  const { fit, bias, grain, foldedSide, context } = fitted;
  const solved = held.map((_, index) => solveBranch(held, index, fit));
  const shifts = findMeanShifts(held, solved, { fit, merged: block.merged, bias, grain });
  const known = shifts.filter((shift) => !Number.isNaN(shift));
  const meanShift = known.length === 0 ? null : measureSizes(known);
  const isMeanMoved = known.some((shift) => shift > 0);
  const layers = held.map((branch, index) => {
    const one = solved[index] as SolvedBranch;
    const { factors, moved, hidden } = one;
    const verdict = decide(one, { isMeanMoved, witnesses: fit.witnesses });
    const ratios = foldedSide === 'after' ? factors.map((factor) => 1 / factor) : factors;
    const channelsMoved = countTrue(
      moved.map((isMoved, channel) => isMoved || (shifts[channel] as number) > 0),
    );
    const logs = ratios.filter((ratio) => !Number.isNaN(ratio)).map((ratio) => Math.abs(Math.log(ratio)));
    const isTold = verdict.status !== 'trained' && verdict.status !== 'unresolved';
    return describe(block, branch, {
      foldedSide,
      context,
      ...verdict,
      epsilon: branch.epsilon,
      channelsHidden: isTold ? countTrue(hidden) : 0,
      isUniformScale: moved.includes(true) && isUniform(factors, branch.tolerance),
      relativeDifference: fit.relativeDifference,
      meanShift,
      drift:
        verdict.status === 'trained'
          ? null
          : {
              channelsMoved,
              logStdRatio: measureSizes(logs),
              stdRatio: context.keepChannels ? [...ratios] : null,
            },
    });
  });
  return {
    layers,
    solved,
    equalities: layers.map(({ status }) =>
      status === 'trained' ? ('changed' as const) : ('exact' as const),
    ),
  };
}

function decide(
  { moved, hidden, entangled, contradicted, vanished }: SolvedBranch,
  { isMeanMoved, witnesses }: { isMeanMoved: boolean; witnesses: number },
): Verdict {
  if (contradicted > 0) return { status: 'trained', problem: null };
  if (moved.includes(true))
    return witnesses < MIN_WITNESSES
      ? unresolved('its block has so few weights that training them looks the same as moved statistics')
      : { status: 'drifted', problem: null };
  if (vanished > 0)
    return unresolved(
      `it is gone from the merged convolution in ${vanished} channels, and its γ is not zero: its variance became infinite, or its γ was trained to zero`,
    );
  if (entangled > 0)
    return unresolved(
      `in ${entangled} of ${moved.length} channels its weights are in proportion to those of another branch of its block, and the two moved: which of them did, their sum does not tell`,
    );
  if (!hidden.includes(false))
    return unresolved(
      'in every channel its scale is zero, too near it or too coarsely rounded: the merged weights hide the statistics',
    );
  return { status: isMeanMoved ? 'ambiguous' : 'locked', problem: null };
}

function describe(
  { branches, merged }: MergedBlock,
  { layer, linear }: Branch,
  told: Verdict & {
    readonly foldedSide: 'before' | 'after';
    readonly context: FoldedContext;
    readonly epsilon?: number;
    readonly drift?: MergedComparison['drift'];
    readonly meanShift?: RmsAndMax | null;
    readonly channelsHidden?: number;
    readonly isUniformScale?: boolean;
    readonly relativeDifference?: number;
  },
): MergedComparison {
  const { foldedSide, status, problem, channelsHidden = 0, isUniformScale = false, drift = null } = told;
  const other = toFoldedLayer(merged, layer.name);
  const note = `merging its block hides its statistics in channels where its scale is next to zero or another branch has its weights in proportion: ${channelsHidden} of ${layer.channels} were not audited`;
  const own = channelsHidden === 0 ? layer : addNote(layer, note);
  const [before, after] = foldedSide === 'after' ? [own, other] : [{ ...other, name: layer.name }, own];
  const chosen = chooseEpsilon(layer, layer, told.context.epsilon);
  const isTrained = status === 'trained';
  const relativeDifference = isTrained ? 0 : (told.relativeDifference ?? 0);
  return {
    kind: 'merged',
    name: layer.name,
    before,
    after,
    pairedBy: 'name',
    status,
    problem,
    drift,
    block: { name: merged.path ?? '', branches: branches.length, meanShift: told.meanShift ?? null },
    affine: 'none',
    neighbours: linear === null ? 'none' : isTrained ? 'changed' : drift === null ? 'none' : 'equal',
    equality: isTrained ? null : relativeDifference > 0 ? 'rounded' : 'exact',
    relativeDifference,
    channels: layer.channels,
    channelsHidden,
    isUniformScale,
    ...(told.epsilon === undefined || told.epsilon === chosen.epsilon
      ? chosen
      : { epsilon: told.epsilon, epsilonFrom: 'weights' }),
  };
}
