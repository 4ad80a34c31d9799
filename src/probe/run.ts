// Runs two models over the inputs and measures how far their outputs are apart.

import { decodeFloats } from '../checkpoint/dtype.js';
import type { InputRuns } from './inputs.js';
import type { LayerPlan } from './put-back.js';
import {
  type Fetched,
  type InputArray,
  type OnnxRuntime,
  type RuntimeSession,
  type RuntimeTensor,
  runSession,
  toFeeds,
} from './runtime.js';

/** Numbers of a tensor; halves and 64-bit integers are converted, the rest is not copied. */
type Numbers = ArrayLike<number>;

/** The numbers of a fetched tensor; null where it holds strings. */
export function numbersOf({ type, data }: RuntimeTensor): Numbers | null {
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) return Float64Array.from(data, Number);
  if (type === 'float16' && data instanceof Uint16Array)
    return decodeFloats(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 'F16');
  return ArrayBuffer.isView(data) && 'length' in data ? (data as unknown as Numbers) : null;
}

/** How two tensors differ, over all that were added. The reference is what the difference is measured against. */
interface Difference {
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

/** A probe that is ready to run. */
interface RunRequest {
  readonly runtime: OnnxRuntime;
  /** The copy of after whose statistics are inputs. */
  readonly session: RuntimeSession;
  /** After's file as the user named it, for messages. */
  readonly file: string;
  readonly inputs: InputRuns;
  readonly layers: readonly LayerPlan[];
  /** The model's own outputs that are compared. */
  readonly outputs: readonly string[];
  /** Layers whose share of the final difference is found, one more run each. */
  readonly ablated: ReadonlySet<LayerPlan>;
  /** What after itself gives for the first run. */
  readonly plain: Fetched;
  readonly onProgress?: ((progress: { readonly done: number; readonly total: number }) => void) | undefined;
}

/** How an output of the model differs. */
export interface OutputResult {
  readonly name: string;
  readonly type: string;
  /** Of one run. */
  readonly shape: readonly number[];
  /** Of after, measured against after with before's statistics; null where an output holds no numbers. */
  readonly difference: Difference | null;
  /** Null where the output is no `[samples, classes]`. */
  readonly topOne: { readonly samples: number; readonly changed: number; readonly share: number } | null;
}

/** How a layer's own output moves, and what putting back the layer alone leaves of the outputs' differences. */
export interface LayerResult {
  readonly plan: LayerPlan;
  /** ‖after − restored‖ / ‖restored‖ with all layers put back; null where the layer cannot be tapped. */
  readonly inNetwork: number | null;
  /** The same with this layer alone put back, so that it gets the input that it has in after. */
  readonly sameInput: number | null;
  /** By output; null where the layer was not put back alone. */
  readonly remaining: readonly { readonly output: string; readonly relativeL2: number }[] | null;
}

/** What all runs together found. */
export interface RunResults {
  readonly outputs: readonly OutputResult[];
  readonly layers: readonly LayerResult[];
  /** The largest relative L2 between the outputs of after itself and of the copy that stands in for it. */
  readonly copyError: number;
  /** The same between two runs of the copy on the same inputs: zero unless the model draws random numbers. */
  readonly repeatError: number;
}

/**
 * Runs the copy with after's statistics, with before's, and with before's in one layer at a time, on the same inputs, and
 * adds up how the results differ. One run's outputs are in memory at a time.
 *
 * @throws CheckpointError when ONNX Runtime refuses.
 */
export async function runProbe(request: RunRequest): Promise<RunResults> {
  const { inputs, layers, ablated } = request;
  const tally = new Tally(request);
  const total = inputs.runs * (2 + ablated.size) + 1;
  let done = 0;
  const taps = [...new Set(layers.flatMap((layer) => layer.taps))];
  const all = [...new Set([...request.outputs, ...taps])];
  for (let run = 0; run < inputs.runs; run++) {
    const arrays = await inputs.read(run);
    const runWith = async (putBack: (layer: LayerPlan) => boolean, fetches: readonly string[]) => {
      const feeds = toFeeds(request.runtime, [...arrays, ...feedStatistics(layers, putBack)]);
      const fetched = await runSession(request.session, request.file, feeds, fetches);
      request.onProgress?.({ done: ++done, total });
      return fetched;
    };
    const after = await runWith(() => false, all);
    const restored = await runWith(() => true, all);
    if (run === 0) {
      tally.checkCopy(request.plain, after, await runWith(() => false, request.outputs));
    }
    tally.addPair(after, restored);
    for (const layer of ablated) {
      const alone = await runWith((one) => one === layer, [...new Set([...request.outputs, ...layer.taps])]);
      tally.addAlone(layer, { after, restored, alone });
    }
  }
  return tally.conclude();
}

function feedStatistics(
  layers: readonly LayerPlan[],
  putBack: (layer: LayerPlan) => boolean,
): readonly (readonly [string, InputArray])[] {
  return layers.flatMap((layer) =>
    (layer.fed ?? []).map(({ name, dtype, shape, after, before }) => {
      return [name, { dtype, shape, bytes: putBack(layer) ? before : after }] as const;
    }),
  );
}

/** What is summed up of a layer. */
interface LayerSums {
  readonly inNetwork: DifferenceSum;
  readonly sameInput: DifferenceSum;
  /** By output; null where the layer is not put back alone. */
  readonly remaining: ReadonlyMap<string, DifferenceSum> | null;
}

/** Sums over all runs. */
class Tally {
  readonly #outputs: readonly OutputSum[];
  readonly #names: readonly string[];
  readonly #layers: ReadonlyMap<LayerPlan, LayerSums>;
  #copyError = 0;
  #repeatError = 0;

  constructor({ outputs, layers, ablated }: RunRequest) {
    this.#names = outputs;
    this.#outputs = outputs.map((name) => new OutputSum(name));
    this.#layers = new Map(
      layers.map((layer) => {
        const byOutput = () => new Map(outputs.map((name) => [name, new DifferenceSum()]));
        const remaining = ablated.has(layer) ? byOutput() : null;
        return [layer, { inNetwork: new DifferenceSum(), sameInput: new DifferenceSum(), remaining }];
      }),
    );
  }

  checkCopy(plain: Fetched, after: Fetched, again: Fetched): void {
    this.#copyError = this.#findLargest(plain, after);
    this.#repeatError = this.#findLargest(after, again);
  }

  #findLargest(reference: Fetched, value: Fetched): number {
    let largest = 0;
    for (const name of this.#names) {
      const sum = new DifferenceSum();
      // Written so that a NaN stays.
      if (addNumbers(sum, reference[name], value[name]) && !(sum.relativeL2 <= largest))
        largest = sum.relativeL2;
    }
    return largest;
  }

  addPair(after: Fetched, restored: Fetched): void {
    for (const sum of this.#outputs) sum.add(restored[sum.name], after[sum.name]);
    for (const [{ taps }, { inNetwork }] of this.#layers)
      for (const tap of taps) addNumbers(inNetwork, restored[tap], after[tap]);
  }

  /** Everything before the layer is after's in the run with the layer alone put back, so its input is after's too. */
  addAlone(
    layer: LayerPlan,
    { after, restored, alone }: { after: Fetched; restored: Fetched; alone: Fetched },
  ): void {
    const sums = this.#layers.get(layer);
    if (sums === undefined) return;
    for (const tap of layer.taps) addNumbers(sums.sameInput, alone[tap], after[tap]);
    for (const [name, sum] of sums.remaining ?? []) addNumbers(sum, restored[name], alone[name]);
  }

  conclude(): RunResults {
    return {
      outputs: this.#outputs.map((sum) => sum.conclude()),
      layers: [...this.#layers].map(([plan, { inNetwork, sameInput, remaining }]) => {
        const isTapped = plan.taps.length > 0;
        return {
          plan,
          inNetwork: isTapped ? inNetwork.relativeL2 : null,
          sameInput: isTapped && remaining !== null ? sameInput.relativeL2 : null,
          remaining: remaining && [...remaining].map(([output, { relativeL2 }]) => ({ output, relativeL2 })),
        };
      }),
      copyError: this.#copyError,
      repeatError: this.#repeatError,
    };
  }
}

/** One output of the model, over all runs. */
class OutputSum {
  readonly name: string;
  readonly #difference = new DifferenceSum();
  readonly #topOne = new TopOneCount();
  #type = '';
  #shape: readonly number[] = [];
  #isNumeric = true;

  constructor(name: string) {
    this.name = name;
  }

  add(restored: Fetched[string] | undefined, after: Fetched[string] | undefined): void {
    if (after === undefined || restored === undefined) return;
    if (this.#type === '') this.#shape = after.dims;
    this.#type = after.type;
    const pair = pairNumbers(restored, after);
    this.#isNumeric &&= pair !== null;
    if (!this.#isNumeric || pair === null) return;
    this.#difference.add(...pair);
    if (this.#isClassifier) this.#topOne.add(...pair, this.#shape[1] ?? 1);
  }

  /** Logits or probabilities: a float for each sample and class. */
  get #isClassifier(): boolean {
    return this.#shape.length === 2 && (this.#shape[1] ?? 0) >= 2 && this.#type.startsWith('float');
  }

  conclude(): OutputResult {
    return {
      name: this.name,
      type: this.#type,
      shape: this.#shape,
      difference: this.#isNumeric ? this.#difference.conclude() : null,
      topOne: this.#isNumeric && this.#isClassifier ? this.#topOne.conclude() : null,
    };
  }
}

/** Adds two tensors' difference; false where they cannot be compared. */
function addNumbers(
  sum: DifferenceSum,
  reference: Fetched[string] | undefined,
  value: Fetched[string] | undefined,
): boolean {
  const pair = reference === undefined || value === undefined ? null : pairNumbers(reference, value);
  if (pair !== null) sum.add(...pair);
  return pair !== null;
}

/** The numbers of two tensors; null where they hold none, or are of different sizes. */
function pairNumbers(
  reference: RuntimeTensor,
  value: RuntimeTensor,
): readonly [reference: Numbers, value: Numbers] | null {
  const [x, y] = [numbersOf(reference), numbersOf(value)];
  return x === null || y === null || x.length !== y.length ? null : [x, y];
}
