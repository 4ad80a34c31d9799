// Tells rounding, e.g. float32 saved as float16, from change.

import type { Tensor } from '../checkpoint/checkpoint.js';
import {
  type DType,
  findPreimage,
  holdsAllOf,
  quantumOf,
  roundToFloat,
  significandBitsOf,
  type Values,
} from '../checkpoint/dtype.js';
import { getOrMake } from '../norm/naming.js';

/**
 * What was done to a model that was meant to stay, where rounding tells: stored in a narrower type and widened again,
 * averaged (EMA, SWA, a mean of checkpoints), something was added to it and taken out again (LoRA), or it was stored as
 * integers (int8).
 */
export type RoundingCause = 'narrowed' | 'averaged' | 'merged' | 'quantised';

/** Which side was stored in a narrower type, and in which, e.g. `after:BF16`. */
type Narrowing = `${'before' | 'after'}:${DType}`;

/**
 * What the differences between two tensors come from.
 *
 * `rounded`: from rounding alone. `short`: they are small enough for it, but too few to tell; see {@link settleShort}.
 * `changed`: an optimizer, or anything else that does not know how large the values are.
 */
export type RoundingVerdict = RoundedDifferences | ShortDifferences | { readonly kind: 'changed' };

/** Differences that rounding explains. */
export interface RoundedDifferences {
  readonly kind: 'rounded';
  readonly cause: RoundingCause;
  /** The largest abs(after − before) / abs(before). */
  readonly relativeDifference: number;
  /** Null unless the cause is `narrowed`. */
  readonly narrowing: Narrowing | null;
}

/** Differences that do not tell by themselves. */
export interface ShortDifferences {
  readonly kind: 'short';
  /** Null where they are too large, or too irregular, for an average. */
  readonly sums: DifferenceSums | null;
  /** The largest relative difference that a narrower type explains. */
  readonly narrowed: number;
  /** Narrower types that explain all of them, though the values are too round to prove that it was so. */
  readonly narrowings: readonly Narrowing[];
}

/** Averages of more steps than any run has differ by less, relative to each value. */
export const MAX_RELATIVE_DIFFERENCE = 2 ** -9;

/**
 * Averages that were computed in a 16-bit type differ by more, in units of the last place: means of 3 to 30 by up to 5 in
 * bfloat16 and float16.
 */
const MAX_COARSE_UNITS = 8;

/** Values under four times the smallest normal number count as that large: shares of a mean underflow there. */
const LEAST_NORMALS = 4;

/** Types with so few significands that the weights of a tensor share them. */
const COARSE_TYPES: readonly DType[] = ['BF16', 'F16'];

/**
 * What is computed of each value alone takes equal values to equal ones, and values that are equal but for their exponent
 * to others that are. An optimizer moves each weight by its own gradient: of such pairs that changed, half part at the
 * least. So many that stayed together are no chance.
 */
const MIN_AGREED = 20;

/** Means of 3 to 30 in float16 change more of the values than this: 11 % at the least. */
const MIN_COARSE_SHARE = 1 / 16;

/** From so many times the smallest normal number on, a thirtieth of a value is a normal number, too: exponents do not matter. */
const SHARED_NORMALS = 32;

/**
 * A half, a quarter or an eighth of a value is exact unless it underflows: values under eight times the smallest normal
 * number lose up to four of the smallest steps. No optimizer's step is as small.
 */
const UNDERFLOW = { normals: 8, quanta: 4 };

/** Under so many values, a sample of optimizer steps may look like rounding by chance. */
export const MIN_VALUES = 64;

/** Under so many changed values, nothing can be said about how they changed. */
const MIN_CHANGED = 5;

/**
 * How far the largest relative difference may stand above the geometric mean of all, in powers of two. Rounding is in
 * proportion to the value, so all relative differences have one bound: in 3,000 averages of 64 to 4,608 values (EMA of
 * 0.9 to 0.99996 over up to 20,000 steps, means of 3 to 30) at most 2.3. A step of an optimizer is as large for small
 * values, so some relative differences are huge: in 380 trainings (SGD, Adam, AdamW; lr 1e-8 to 1e-5) at least 2.7 for
 * 64 values, 4.2 for 144, 9.7 for 4,608.
 */
const MAX_TAIL_BITS = 2.5;

/**
 * Where the slope of log abs(difference) over log abs(value) is known this well, it decides too: 1 for rounding, 0 for an
 * optimizer.
 */
const RELIABLE_SLOPE_ERROR = 0.15;
const MIN_SLOPE = 0.5;

/** Values that are nearly all as large say nothing about proportions; the spread of their logarithms, in powers of two. */
const MIN_SPREAD_BITS = 0.75;

/**
 * One factor for all values, as weight decay alone leaves it: all move the same way, and the spread of the relative
 * differences stays under this share of their mean. Up to 0.75 in 600 decays, from 0.96 up in the averages.
 */
const MAX_FACTOR_SPREAD = 0.85;

/**
 * The weights of a mean need not add up to 1 in their type: three times 1/3 is more in float32. That factor is so many
 * units in the last place at most, which no decay is worth.
 */
const MAX_WEIGHT_UNITS = 4;

/** A sum that was taken out again leaves at most so many units in the last place of the tensor's largest value. */
const MAX_MERGE_UNITS = 32;

/** In a 16-bit type that would be a quarter of it; so many are left by what was added eight times as large. */
const MAX_COARSE_MERGE_UNITS = 4;

/**
 * Random significands end in one zero bit on average, with a deviation of √2. What went through a coarser grid ends in
 * more; this many standard errors more are no chance.
 */
const MERGE_ERRORS = 3;

/** In 16-bit types, every tensor that was trained a little is another chance: this leaves one in three million. */
const COARSE_MERGE_ERRORS = 5;

/** A slope known as well as this, of differences as small as that, is no chance either. */
const MERGE_SLOPE_ERROR = 0.05;

/** Smaller values are left out: underflow rounds them to fewer bits, and no step of an optimizer matters to them. */
const NEGLIGIBLE = 2 ** -100;

/** Of larger pieces than this, one value in so many is looked at closely: some thousands tell as much as all. */
const CLOSE_PIECE = 4096;
const STRIDE = 512;

/** How much the largest value may still grow behind the first piece of a tensor. */
const LARGEST_GROWTH = 64;

/** Types that models are stored in and widened from, the narrowest first. */
const NARROW_TYPES: readonly DType[] = ['F8_E5M2', 'F8_E4M3', 'BF16', 'F16'];

/** What the changed values of one tensor or several add up to; all that the verdict follows from. */
class DifferenceSums {
  /** Values other than zero, changed or not. */
  values = 0;
  changed = 0;
  toward = 0;
  largest = 0;
  largestDifference = 0;
  largestRelative = 0;
  /** How large a relative difference averaging may leave. */
  bound = MAX_RELATIVE_DIFFERENCE;
  /** A unit in the last place of the coarsest type, relative to the value. */
  unit = 0;
  /** Values of a 16-bit type that changed as the first of their significand did, and those that did not. */
  agreed = 0;
  parted = 0;
  /** The same from after to before, where before is the average. */
  agreedBack = 0;
  partedBack = 0;
  /** Of the values that were looked at closely. */
  close = 0;
  logValues = 0;
  logValueSquares = 0;
  logDifferences = 0;
  logDifferenceSquares = 0;
  products = 0;
  relatives = 0;
  relativeSquares = 0;

  join(other: DifferenceSums): void {
    for (const key of SUM_KEYS) this[key] += other[key];
    for (const key of MAX_KEYS) this[key] = Math.max(this[key], other[key]);
  }

  addClosely(value: number, difference: number): void {
    const relative = difference / value;
    const [x, y] = [Math.log2(Math.abs(value)), Math.log2(Math.abs(difference))];
    this.close++;
    this.logValues += x;
    this.logValueSquares += x * x;
    this.logDifferences += y;
    this.logDifferenceSquares += y * y;
    this.products += x * y;
    this.relatives += relative;
    this.relativeSquares += relative * relative;
  }

  /** Whether the differences are in proportion to the values, so that averaging explains them; null: cannot be told. */
  areProportional(): boolean | null {
    const hasParted = this.parted > 0 && this.partedBack > 0;
    if (hasParted || this.largestRelative > this.bound) return false;
    if (this.isUnderflow()) return true;
    const agreed = this.parted === 0 ? this.agreed : 0;
    const agreedBack = this.partedBack === 0 ? this.agreedBack : 0;
    if (Math.max(agreed, agreedBack) >= MIN_AGREED) return !this.isOneFactor();
    if (this.changed < MIN_CHANGED || this.values < MIN_VALUES) return null;
    // In a 16-bit type, a gentle step shows in few values, and there it is a unit or two: as large as rounding.
    const areFew = this.changed < MIN_COARSE_SHARE * this.values;
    if (this.isCoarse && (areFew || this.largestRelative > MAX_RELATIVE_DIFFERENCE)) return null;
    const { close } = this;
    const tail = Math.log2(this.largestRelative) - (this.logDifferences - this.logValues) / close;
    if (tail > MAX_TAIL_BITS) return false;
    const { spread, slope, error } = this.fitLine();
    if (!(spread >= MIN_SPREAD_BITS ** 2)) return null;
    return (error > RELIABLE_SLOPE_ERROR || slope >= MIN_SLOPE) && !this.isOneFactor();
  }

  /** Whether the type is a 16-bit one. */
  get isCoarse(): boolean {
    return this.bound > MAX_RELATIVE_DIFFERENCE;
  }

  /** Whether all differences are those of {@link UNDERFLOW}, which count as none. */
  isUnderflow(): boolean {
    const hasChanged = this.changed + this.agreed + this.parted > 0;
    return this.isCoarse && !hasChanged && this.largestRelative > 0 && this.largestRelative <= this.unit;
  }

  /** The slope of log abs(difference) over log abs(value), its standard error, and the variance of the latter. */
  fitLine(): { readonly spread: number; readonly slope: number; readonly error: number } {
    const { close } = this;
    const spread = this.logValueSquares / close - (this.logValues / close) ** 2;
    const covariance = this.products / close - (this.logValues / close) * (this.logDifferences / close);
    const scatter = this.logDifferenceSquares / close - (this.logDifferences / close) ** 2;
    const slope = covariance / spread;
    return { spread, slope, error: Math.sqrt(Math.max(0, scatter / spread - slope * slope) / close) };
  }

  /** Whether one factor explains all of them, further from 1 than the sum of weights that should add up to it. */
  isOneFactor(): boolean {
    if (this.largestRelative <= MAX_WEIGHT_UNITS * this.unit) return false;
    if (this.toward > 0 && this.toward < this.changed) return false;
    // Values that stayed count with a difference of 0.
    const count = this.close * (this.values / this.changed);
    const mean = this.relatives / count;
    return this.relativeSquares / count - mean * mean < (MAX_FACTOR_SPREAD * mean) ** 2;
  }
}

const SUM_KEYS = [
  'values',
  'changed',
  'toward',
  'close',
  'logValues',
  'logValueSquares',
  'logDifferences',
  'logDifferenceSquares',
  'products',
  'relatives',
  'relativeSquares',
  'agreed',
  'parted',
  'agreedBack',
  'partedBack',
] as const;

const MAX_KEYS = ['largest', 'largestDifference', 'largestRelative', 'bound', 'unit'] as const;

/**
 * Tells rounding from training by the differences between two tensors, piece by piece, in a few sums. docs/rounding.md
 * has the figures.
 */
export class RoundingJudge {
  readonly sums = new DifferenceSums();
  readonly #stored: readonly [before: DType, after: DType];
  /** The types that the values have by themselves: `BF16` where float32 holds nothing but bfloat16's. */
  #types: readonly [before: DType, after: DType];
  #isFirst = true;
  /** The largest relative difference of a value that the narrower type explains; null where it explains none. */
  #narrowed: number | null = null;
  #isHopeless = false;
  /** Trailing zero bits and counts of changed values by their exponents. */
  readonly #zeroBits = new Map<number, { count: number; bits: number }>();
  #narrowings: readonly Narrowing[] = [];
  readonly #floor: number;
  /** What each significand of a 16-bit type became where it was first seen, and what it came from. */
  readonly #became = new Map<number, number>();
  readonly #cameFrom = new Map<number, number>();

  /**
   * @param unchanged how many values were equal before the first that the judge is shown.
   * @param floor relative differences up to this count as none: what arithmetic on the way to the values leaves.
   */
  constructor(before: DType, after: DType, { unchanged = 0, floor = 0 } = {}) {
    this.#stored = [before, after];
    this.#types = this.#stored;
    this.#floor = floor;
    this.sums.values = unchanged;
  }

  /**
   * Adds a piece of both tensors.
   *
   * @returns false where the rest need not be looked at: it was trained.
   */
  add(before: Values, after: Values): boolean {
    if (this.#isFirst) {
      this.#types = [narrowestOf(before, this.#stored[0]), narrowestOf(after, this.#stored[1])];
      this.#narrowings = listNarrowings(before, after, this.#types);
      this.#isFirst = false;
    } else this.#narrowings = [];
    this.#isHopeless ||= !this.#addPiece(before, after);
    return this.#narrowings.length > 0 || (!this.#isHopeless && this.#isStillPossible());
  }

  #addPiece(before: Values, after: Values): boolean {
    const [one, other] = this.#types;
    const [isBeforeGuessed, isAfterGuessed] = [one !== this.#stored[0], other !== this.#stored[1]];
    const fits =
      one !== other ||
      ((!isBeforeGuessed || isWithin(before, one)) && (!isAfterGuessed || isWithin(after, other)));
    if (fits && (one === other ? this.#addAlike(before, after) : this.#addAcross(before, after))) return true;
    // A type that the first piece fits need not fit the others. What it explained so far cannot be looked at again.
    if (!(isBeforeGuessed || isAfterGuessed) || this.#narrowed !== null) return false;
    this.#types = this.#stored;
    return this.#addPiece(before, after);
  }

  /** Whether no value differed, not even by the rounding of a narrower type. */
  get isUntouched(): boolean {
    return this.sums.changed === 0 && this.#narrowed === null && !this.#isHopeless;
  }

  conclude(): RoundingVerdict {
    const { sums } = this;
    const areProportional = this.#isHopeless ? false : sums.areProportional();
    const rounded = (cause: RoundingCause, narrowing: Narrowing | null = null): RoundingVerdict => ({
      kind: 'rounded',
      cause,
      relativeDifference: Math.max(sums.largestRelative, this.#narrowed ?? 0),
      narrowing,
    });
    // Of a large piece, the values that changed may all be among those that were not looked at closely.
    const isExplained = sums.changed === 0 && sums.largestRelative === 0;
    const [before, after] = this.#types;
    const narrowing = holdsAllOf(before, after) ? (`after:${after}` as const) : (`before:${before}` as const);
    if (isExplained && !this.#isHopeless) return rounded('narrowed', narrowing);
    if (areProportional === true) return rounded('averaged');
    if (!this.#isHopeless && this.#wasMerged()) return rounded('merged');
    return areProportional === null || this.#narrowings.length > 0
      ? {
          kind: 'short',
          sums: areProportional === null ? sums : null,
          narrowed: this.#narrowed ?? 0,
          narrowings: this.#narrowings,
        }
      : { kind: 'changed' };
  }

  /**
   * Both sides of one type. Every value is held against the bound, which trained ones are soon beyond; then values are
   * looked at closely, of a large piece only some.
   */
  #addAlike(before: Values, after: Values): boolean {
    const { sums } = this;
    const [type] = this.#types;
    const unit = 2 ** -significandBitsOf(type);
    sums.unit = unit;
    // Values that were scaled on the way are none of their type any more.
    const isCoarse = COARSE_TYPES.includes(type) && this.#floor === 0;
    const quantum = quantumOf(type);
    const normal = quantum * 2 ** significandBitsOf(type);
    const isUnderflow = (x: number, y: number) =>
      isCoarse && Math.abs(x) < UNDERFLOW.normals * normal && Math.abs(y - x) <= UNDERFLOW.quanta * quantum;
    const stride = strideOf(before);
    for (let i = 0; i < before.length; i += stride)
      sums.largest = Math.max(sums.largest, Math.abs(before[i] as number));
    const allowed = LARGEST_GROWTH * MAX_MERGE_UNITS * unit * sums.largest;
    const known = Math.max(sums.largestRelative, this.#floor);
    if (isCoarse) sums.bound = MAX_COARSE_UNITS * unit;
    const least = isCoarse ? LEAST_NORMALS * normal : 0;
    const largestRelative = findLargestRelative(before, after, { known, allowed, bound: sums.bound, least });
    if (largestRelative === null) return false;
    if (isCoarse) this.#compareEqualValues(before, after, { least: SHARED_NORMALS * normal, isUnderflow });
    if (largestRelative > this.#floor) sums.largestRelative = largestRelative;
    for (let i = 0; i < before.length; i += stride) {
      const x = before[i] as number;
      const y = after[i] as number;
      if (x !== 0) sums.values++;
      const difference = y - x;
      if (isSameOrNegligible(x, y) || Math.abs(difference) <= this.#floor * Math.abs(x)) continue;
      if (isUnderflow(x, y)) continue;
      sums.changed++;
      if (difference > 0 !== x > 0) sums.toward++;
      sums.largestDifference = Math.max(sums.largestDifference, Math.abs(difference));
      this.#look(x, y);
    }
    return true;
  }

  /** Whether equal values became equal ones, from before to after and back: an average does so one way at least. */
  #compareEqualValues(before: Values, after: Values, options: Omit<AlikeOptions, 'known'>): void {
    const { sums } = this;
    const forth = countAlike(before, after, { ...options, known: this.#became });
    const back = countAlike(after, before, { ...options, known: this.#cameFrom });
    sums.agreed += forth.agreed;
    sums.parted += forth.parted;
    sums.agreedBack += back.agreed;
    sums.partedBack += back.parted;
  }

  /** Sides of two types: a difference counts from where the rounding of the narrower type ends. */
  #addAcross(before: Values, after: Values): boolean {
    const { sums } = this;
    const { areRounded, gapBetween } = compareTypes(...this.#types);
    const stride = strideOf(before);
    let narrowed = this.#narrowed ?? 0;
    let isNarrowed = this.#narrowed !== null;
    for (let i = 0; i < before.length; i++) {
      const x = before[i] as number;
      const y = after[i] as number;
      if (x === y) {
        if (x !== 0 && i % stride === 0) sums.values++;
        continue;
      }
      const size = Math.abs(x);
      const distance = Math.abs(y - x);
      if (areRounded(x, y)) {
        isNarrowed = true;
        if (distance > narrowed * size && size > 0) narrowed = Math.min(1, distance / size);
        if (i % stride === 0) sums.values++;
        continue;
      }
      if (isSameOrNegligible(x, y)) continue;
      const gap = gapBetween(x, y);
      if (gap === 0) {
        isNarrowed = true;
        continue;
      }
      if (!(Math.abs(gap) <= MAX_RELATIVE_DIFFERENCE * size)) return false;
      sums.largestRelative = Math.max(sums.largestRelative, Math.abs(gap) / size);
      // Only where rounding ends near a value does a small change show: all of these count, and as many others.
      sums.values++;
      sums.changed++;
      if (gap > 0 !== x > 0) sums.toward++;
      sums.addClosely(x, gap);
    }
    this.#narrowed = isNarrowed ? narrowed : null;
    return true;
  }

  #look(before: number, after: number): void {
    if (before === 0 || after === 0) return;
    this.sums.addClosely(before, after - before);
    const exponent = Math.floor(Math.log2(Math.abs(after)));
    const entry = getOrMake(this.#zeroBits, exponent, () => ({ count: 0, bits: 0 }));
    entry.count++;
    entry.bits += Math.max(0, significandBitsOf(this.#types[1]) - significantBitsOf(after));
  }

  /** Whether what was seen so far leaves a chance; only large tensors are worth the question. */
  #isStillPossible(): boolean {
    const { sums } = this;
    if (sums.close < MIN_VALUES * 4) return true;
    if (sums.areProportional() !== false) return true;
    return this.#wasMerged(LARGEST_GROWTH);
  }

  /**
   * Whether something was added and taken out again. Where that was large, the smallest of the changed values lost their
   * last bits to its grid; where it was small, values changed by last bits of their own.
   */
  #wasMerged(growth = 1): boolean {
    const { sums } = this;
    const [before, after] = this.#types;
    const unit = 2 ** -significandBitsOf(after) * sums.largest;
    if (before !== after || sums.changed < MIN_CHANGED || sums.values < MIN_VALUES) return false;
    // So many units of a 16-bit type are a good part of the value: their size tells nothing, lost bits alone do.
    const isCoarse = MAX_MERGE_UNITS * unit > MAX_RELATIVE_DIFFERENCE * sums.largest;
    const units = isCoarse ? MAX_COARSE_MERGE_UNITS : MAX_MERGE_UNITS;
    if (sums.largestDifference > growth * units * unit) return false;
    const { slope, error } = sums.fitLine();
    if (!isCoarse && slope >= MIN_SLOPE && error <= MERGE_SLOPE_ERROR) return !sums.isOneFactor();
    let [count, bits] = [0, 0];
    for (const [, entry] of [...this.#zeroBits].sort(([x], [y]) => x - y)) {
      if (count >= MIN_CHANGED && count >= sums.close / 4) break;
      count += entry.count;
      bits += entry.bits;
    }
    const errors = isCoarse ? COARSE_MERGE_ERRORS : MERGE_ERRORS;
    return bits / count >= 1 + (errors * Math.SQRT2) / Math.sqrt(count);
  }
}

/** Loops that have seen one kind of array run several times as fast as those that have seen two. */
function toOwnType({ values, dtype }: Vector): Values {
  return dtype === 'F32' ? new Float32Array(values) : values;
}

/** The largest abs(after − before) / abs(before) of differences that rounding may explain. */
export function relativeDifferenceIn(differences: RoundedDifferences | ShortDifferences): number {
  return differences.kind === 'rounded'
    ? differences.relativeDifference
    : Math.max(differences.sums?.largestRelative ?? 0, differences.narrowed);
}

/** What differences of several tensors say together. Of short tensors alone, only all of them together tell. */
export function gatherEvidence(
  differences: readonly (Omit<RoundedDifferences, 'kind'> | ShortDifferences)[],
): RoundingEvidence {
  let averaged = 0;
  let merged = false;
  const narrowed = new Set<Narrowing>();
  const short: DifferenceSums[] = [];
  for (const difference of differences) {
    if ('cause' in difference) {
      if (difference.cause === 'averaged') averaged = Math.max(averaged, difference.relativeDifference);
      if (difference.cause === 'merged') merged = true;
      if (difference.narrowing !== null) narrowed.add(difference.narrowing);
    } else if (difference.sums !== null) short.push(difference.sums);
  }
  if (averaged === 0 && !merged && short.length > 1) {
    const all = new DifferenceSums();
    for (const sums of short) all.join(sums);
    if (all.areProportional() === true) averaged = all.largestRelative;
  }
  return { averaged, merged, narrowed };
}

/** What a checkpoint's other tensors say of the rounding that it went through. */
export interface RoundingEvidence {
  /** The largest relative difference of a tensor that was averaged; 0 where none was. */
  readonly averaged: number;
  /** Whether something was merged into it and taken out again. */
  readonly merged: boolean;
  /** How tensors whose values prove it were narrowed. */
  readonly narrowed: ReadonlySet<Narrowing>;
}

/** Averages treat all values alike, so a short tensor has about the largest relative difference of a long one. */
export const SHORT_ALLOWANCE = 2;

/** abs(after − before) / abs(before); infinite where a zero became something else. */
export function relativeDifferenceOf(before: number, after: number): number {
  return before === after ? 0 : Math.abs(after - before) / Math.abs(before);
}

interface Vector {
  readonly values: Float64Array;
  readonly dtype: DType;
}

/**
 * Compares two vectors that are too short to tell by themselves.
 *
 * @returns the largest relative difference where all of it is rounding: by a narrower type, which shows in any vector, or
 *   by what the checkpoint's other tensors went through; null where it is not.
 */
export function compareRounded(before: Vector, after: Vector, evidence: RoundingEvidence): number | null {
  const judge = new RoundingJudge(before.dtype, after.dtype);
  if (!judge.add(toOwnType(before), toOwnType(after))) return null;
  const verdict = judge.conclude();
  if (verdict.kind === 'rounded' && verdict.cause === 'narrowed') return verdict.relativeDifference;
  if (verdict.kind === 'changed') return null;
  const short = verdict.kind === 'short' ? verdict : { sums: judge.sums, narrowings: [] };
  return settleShort(short, evidence) === null ? null : judge.sums.largestRelative;
}

/** Whether a tensor too short to tell by itself went through the same rounding as the others. */
export function settleShort(
  { sums, narrowings }: Pick<ShortDifferences, 'sums' | 'narrowings'>,
  evidence: RoundingEvidence,
): RoundingCause | null {
  if (narrowings.some((narrowing) => evidence.narrowed.has(narrowing))) return 'narrowed';
  if (sums === null) return null;
  if (sums.largestRelative <= SHORT_ALLOWANCE * evidence.averaged) return 'averaged';
  const unit = 2 ** -23 * sums.largest;
  return evidence.merged && sums.largestDifference <= MAX_MERGE_UNITS * unit ? 'merged' : null;
}

/** A value of more significand bits than this, or so many different ones, are no round numbers that fit any type. */
const MAX_ROUND_BITS = 4;
const MIN_DISTINCT = 16;

/**
 * The narrowest type that holds all values, where it is narrower than the one that they are stored in. Ones, zeros and
 * other round numbers fit any type and tell nothing.
 */
export function narrowestOf(values: Values, stored: DType): DType {
  const narrow = NARROW_TYPES.find(
    (type) => type !== stored && holdsAllOf(stored, type) && isWithin(values, type),
  );
  const seen = new Set<number>();
  const isTelling = (value: number) =>
    significantBitsOf(value) > MAX_ROUND_BITS || seen.add(Math.abs(value)).size >= MIN_DISTINCT;
  return narrow !== undefined && values.some(isTelling) ? narrow : stored;
}

/** Narrower types of round values that explain every difference, on one side. */
function listNarrowings(
  before: Values,
  after: Values,
  [one, other]: readonly [before: DType, after: DType],
): readonly Narrowing[] {
  const explains = (wide: Values, narrow: Values, type: DType) =>
    wide.every((value, i) => Object.is(roundToFloat(value, type) + 0, (narrow[i] as number) + 0));
  const isNarrower = (type: DType, stored: DType) => type !== stored && holdsAllOf(stored, type);
  return NARROW_TYPES.flatMap((type): readonly Narrowing[] => [
    ...(isNarrower(type, other) && explains(before, after, type) ? [`after:${type}` as const] : []),
    ...(isNarrower(type, one) && explains(after, before, type) ? [`before:${type}` as const] : []),
  ]);
}

function isWithin(values: Values, type: DType): boolean {
  const round = chooseRounding(type);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (round(value) !== value && !Number.isNaN(value)) return false;
  }
  return true;
}

/** Rounds like `roundToFloat`; numbers in the middle of the type's range by Veltkamp's splitting, ties either way. */
function chooseRounding(type: DType): (value: number) => number {
  const significandBits = significandBitsOf(type);
  const factor = 2 ** (52 - significandBits) + 1;
  const least = quantumOf(type) * 2 ** significandBits;
  const most = 1 / least;
  return (value) => {
    const size = Math.abs(value);
    if (!(size >= least && size < most)) return roundToFloat(value, type);
    const scaled = value * factor;
    return scaled - (scaled - value);
  };
}

interface TypeRelation {
  /** Whether the value of the narrower type is the other, rounded; ties either way may be missed. */
  readonly areRounded: (x: number, y: number) => boolean;
  /** How far apart two values are at least, before either was rounded into its type; signed, 0 if not. */
  readonly gapBetween: (x: number, y: number) => number;
}

function compareTypes(before: DType, after: DType): TypeRelation {
  const isAfterNarrower = holdsAllOf(before, after);
  const isBeforeNarrower = holdsAllOf(after, before);
  const round = chooseRounding(isAfterNarrower ? after : before);
  const spanOf = (value: number, type: DType, isPoint: boolean) =>
    isPoint || !Number.isFinite(value) ? { low: value, high: value } : findPreimage(value, type);
  const isMember = (value: number) => round(value) === value || Number.isNaN(value);
  return {
    areRounded: isAfterNarrower
      ? (x, y) => round(x) === y
      : isBeforeNarrower
        ? (x, y) => round(y) === x
        : () => false,
    gapBetween: (x, y) => {
      // A value that is none of its type: the type was guessed from the first piece.
      if ((isAfterNarrower && !isMember(y)) || (isBeforeNarrower && !isMember(x))) return Number.NaN;
      const one = spanOf(x, before, isAfterNarrower);
      const other = spanOf(y, after, isBeforeNarrower);
      if (other.low > one.high) return other.low - one.high;
      if (other.high < one.low) return other.high - one.low;
      return Number.isNaN(x) || Number.isNaN(y) ? Number.NaN : 0;
    },
  };
}

interface AlikeOptions {
  /** Smaller values are held against equal ones alone. */
  readonly least: number;
  /** Pairs that count as equal. */
  readonly isUnderflow: (one: number, other: number) => boolean;
  /** What each significand became, as far as was seen; gains what is new. */
  readonly known: Map<number, number>;
}

/** Counts the values that became what others of their significand did, and those that did not. */
function countAlike(
  from: Values,
  to: Values,
  { least, isUnderflow, known }: AlikeOptions,
): { readonly agreed: number; readonly parted: number } {
  let [agreed, parted] = [0, 0];
  for (let i = 0; i < from.length; i++) {
    const value = from[i] as number;
    const size = Math.abs(value);
    if (!(size > 0 && size < Number.POSITIVE_INFINITY) || isUnderflow(value, to[i] as number)) continue;
    const unit = Math.sign(value) * (size < least ? 1 : 2 ** Math.floor(Math.log2(size)));
    const significand = value / unit;
    const became = (to[i] as number) / unit;
    const other = known.get(significand);
    if (other === undefined) known.set(significand, became);
    else if (other !== became) parted++;
    else if (became !== significand) agreed++;
  }
  return { agreed, parted };
}

function strideOf({ length }: Values): number {
  return length <= CLOSE_PIECE ? 1 : STRIDE;
}

function isSameOrNegligible(x: number, y: number): boolean {
  if (x === y || (Number.isNaN(x) && Number.isNaN(y))) return true;
  return Math.abs(x) < NEGLIGIBLE && Math.abs(y) < NEGLIGIBLE;
}

/**
 * The largest abs(y − x) / abs(x); null where one is beyond what rounding leaves. Every value of a model may go through
 * this loop: no more in it than needs to be.
 *
 * @param limits.allowed an absolute difference that may be left whatever the value is.
 * @param limits.bound a relative difference that may be left.
 * @param limits.least smaller values count as of this size.
 */
function findLargestRelative(
  before: Values,
  after: Values,
  { known, allowed, bound, least }: Readonly<Record<'known' | 'allowed' | 'bound' | 'least', number>>,
): number | null {
  let largest = known;
  for (let i = 0; i < before.length; i++) {
    const size = Math.max(least, Math.abs(before[i] as number));
    const distance = Math.abs((after[i] as number) - (before[i] as number));
    if (distance <= largest * size) continue;
    if (isSameOrNegligible(before[i] as number, after[i] as number)) continue;
    if (!(distance <= bound * size || distance <= allowed)) return null;
    if (!Number.isFinite(distance)) return null;
    largest = distance / size;
  }
  return largest;
}

/** Bits of a number's significand behind the first, without the zeros at its end: 0 of 4, 1 of 1.5, 3 of 0.5625. */
export function significantBitsOf(value: number): number {
  const size = Math.abs(value);
  if (size === 0 || !Number.isFinite(size)) return 0;
  let rest = size / 2 ** Math.floor(Math.log2(size));
  let bits = 0;
  for (; !Number.isInteger(rest) && bits < 52; bits++) rest *= 2;
  return bits;
}

/** Half the distance between neighbouring float32 values, relative: folding computes in float32 or better. */
export const FLOAT32_ROUNDOFF = 2 ** -24;

/**
 * How many roundings apart two proportional weights may be. Folding rounds the product once, on either side, and the
 * estimate of the scale carries a part of them all.
 */
const ROUNDINGS = 4;

/** Half the relative distance between neighbouring values of a tensor's type, float32's at the least. */
export function roundoffOf({ dtype }: Pick<Tensor, 'dtype'>): number {
  return Math.max(FLOAT32_ROUNDOFF, 2 ** -(significandBitsOf(dtype) + 1));
}

/** How far apart, relative to the value, two proportional weights of these types may be. */
export function scaleToleranceOf(before: Tensor, after: Tensor): number {
  return ROUNDINGS * (roundoffOf(before) + roundoffOf(after));
}

/**
 * What averages of weights and statistics add to the uncertainty of a scale. Their relative differences are bounds, while
 * an uncertainty is multiplied by the safety of whoever judges by it (16): twice the bound in all.
 */
export function roundingUncertainty(rounding: RoundedDifferences | ShortDifferences | null): number {
  return rounding === null ? 0 : relativeDifferenceIn(rounding) / 8;
}
