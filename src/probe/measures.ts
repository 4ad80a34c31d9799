import { decodeFloats } from '../checkpoint/dtype.js';
import type { RuntimeTensor } from './runtime.js';

/** Numbers of a tensor; halves and 64-bit integers are converted, the rest is not copied. */
export type Numbers = ArrayLike<number>;

/** The numbers of a fetched tensor; null where it holds strings. */
export function numbersOf({ type, data }: RuntimeTensor): Numbers | null {
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) return Float64Array.from(data, Number);
  if (type === 'float16' && data instanceof Uint16Array)
    return decodeFloats(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 'F16');
  return ArrayBuffer.isView(data) && 'length' in data ? (data as unknown as Numbers) : null;
}

/** How two tensors differ, over all that were added. The reference is what the difference is measured against. */
export interface Difference {
  /** ‖value − reference‖ / ‖reference‖. */
  readonly relativeL2: number;
  /** Of the angle between both, all elements as one vector. */
  readonly cosine: number;
  /** The largest absolute difference of two elements. */
  readonly maxDifference: number;
  /** Elements that are NaN or infinite. */
  readonly nonFinite: { readonly reference: number; readonly value: number };
}

/** Adds up how tensors differ, run by run, in float64. Elements that are the same, NaN included, do not differ. */
export class DifferenceSum {
  #differences = 0;
  #references = 0;
  #values = 0;
  #products = 0;
  #largest = 0;
  #nonFiniteReferences = 0;
  #nonFiniteValues = 0;

  /** @param value of as many elements as `reference`. */
  add(reference: Numbers, value: Numbers): void {
    if (reference.length !== value.length) throw new RangeError('tensors of different sizes were compared');
    for (let i = 0; i < reference.length; i++) {
      const x = reference[i] as number;
      const y = value[i] as number;
      const difference = Object.is(x, y) ? 0 : Math.abs(y - x);
      this.#differences += difference * difference;
      this.#references += x * x;
      this.#values += y * y;
      this.#products += x * y;
      // Written so that a NaN stays.
      if (!(difference <= this.#largest)) this.#largest = difference;
      if (!Number.isFinite(x)) this.#nonFiniteReferences++;
      if (!Number.isFinite(y)) this.#nonFiniteValues++;
    }
  }

  get relativeL2(): number {
    // Exactly zero where nothing differs, whatever the size of the reference.
    if (this.#differences === 0) return 0;
    return Math.sqrt(this.#differences) / Math.sqrt(this.#references);
  }

  conclude(): Difference {
    const sizes = Math.sqrt(this.#references) * Math.sqrt(this.#values);
    const cosine = this.#differences === 0 ? 1 : sizes === 0 ? 0 : this.#products / sizes;
    return {
      relativeL2: this.relativeL2,
      cosine: cosine > 1 ? 1 : cosine < -1 ? -1 : cosine,
      maxDifference: this.#largest,
      nonFinite: { reference: this.#nonFiniteReferences, value: this.#nonFiniteValues },
    };
  }
}

/** Counts samples whose largest logit is another one: outputs of shape `[samples, classes]`. */
export class TopOneCount {
  #samples = 0;
  #changed = 0;

  add(reference: Numbers, value: Numbers, classes: number): void {
    for (let start = 0; start < reference.length; start += classes) {
      this.#samples++;
      if (indexOfLargest(reference, start, classes) !== indexOfLargest(value, start, classes))
        this.#changed++;
    }
  }

  conclude(): { readonly samples: number; readonly changed: number; readonly share: number } {
    const [samples, changed] = [this.#samples, this.#changed];
    return { samples, changed, share: samples === 0 ? 0 : changed / samples };
  }
}

/** The first of the largest; a NaN counts as largest, as for NumPy's argmax. */
function indexOfLargest(values: Numbers, start: number, count: number): number {
  let index = 0;
  let largest = values[start] as number;
  for (let i = 1; i < count && !Number.isNaN(largest); i++) {
    const value = values[start + i] as number;
    if (value > largest || Number.isNaN(value)) {
      largest = value;
      index = i;
    }
  }
  return index;
}
