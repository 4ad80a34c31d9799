// Runs two models over the inputs and measures how far their outputs are apart.

import { decodeFloats } from '../checkpoint/dtype.js';
import type { OnProgress } from '../io/byte-source.js';
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

/** An output of the model: after, measured against after with before's statistics. */
export interface ProbeOutput {
  readonly name: string;
  readonly type: string;
  /** All runs together. */
  readonly shape: readonly number[];
  /** ‖after − restored‖ / ‖restored‖; null, like all measures, where the output holds no numbers. */
  readonly relativeL2: number | null;
  /** Of the angle between both, all elements as one vector. */
  readonly cosine: number | null;
  readonly maxDifference: number | null;
  /** Values that are NaN or infinite. */
  readonly nonFinite: { readonly after: number; readonly restored: number } | null;
  /** Samples whose largest logit is another one; null where the output is no `[samples, classes]`. */
  readonly top1: { readonly samples: number; readonly changed: number; readonly share: number } | null;
}

/** How much of the outputs' difference goes when the statistics of one layer alone are put back. */
export interface ProbeContribution {
  /** 1 − remaining / whole difference, the mean over the outputs that differ; negative where it grows. */
  readonly explained: number;
  readonly outputs: readonly {
    readonly name: string;
    /** Relative L2 that remains. */
    readonly relativeL2: number;
    readonly explained: number;
  }[];
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

  conclude() {
    const sizes = Math.sqrt(this.#references) * Math.sqrt(this.#values);
    const cosine = this.#differences === 0 ? 1 : sizes === 0 ? 0 : this.#products / sizes;
    return {
      relativeL2: this.relativeL2,
      cosine: cosine > 1 ? 1 : cosine < -1 ? -1 : cosine,
      maxDifference: this.#largest,
      nonFinite: { after: this.#nonFiniteValues, restored: this.#nonFiniteReferences },
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

  conclude(): NonNullable<ProbeOutput['top1']> {
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
  readonly onProgress?: OnProgress | undefined;
}

/** How a layer's own output moves, and what putting back the layer alone leaves of the outputs' differences. */
export interface LayerResult {
  readonly plan: LayerPlan;
  /** How far the layer's output really moves, relative L2; null where it cannot be tapped. */
  readonly movement: {
    /** With the layer's own statistics alone put back: comparable with outputShift. Null without ablation. */
    readonly sameInput: number | null;
    /** With all statistics put back, so that what the layers before it changed counts as well. */
    readonly inNetwork: number;
  } | null;
  /** Null for layers that were not put back, and without ablation. */
  readonly contribution: ProbeContribution | null;
}

/** What all runs together found. */
export interface RunResults {
  readonly outputs: readonly ProbeOutput[];
  readonly layers: readonly LayerResult[];
  /** Relative L2 between the outputs of after itself and of the copy that the probe runs: rounding. */
  readonly copyError: number;
  /** The same between two runs of that copy on the same inputs: zero unless the model draws random numbers. */
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
    if (run === 0) tally.checkCopy(request.plain, after, await runWith(() => false, request.outputs));
    tally.addPair(after, restored);
    for (const layer of ablated) {
      const alone = await runWith((one) => one === layer, [...new Set([...request.outputs, ...layer.taps])]);
      tally.addAlone(layer, { after, restored, alone });
    }
  }
  return tally.conclude(inputs);
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

interface LayerSums {
  readonly inNetwork: DifferenceSum;
  readonly sameInput: DifferenceSum;
  /** By output; null where the layer is not put back alone. */
  readonly remaining: ReadonlyMap<string, DifferenceSum> | null;
}

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

  conclude(inputs: InputRuns): RunResults {
    const outputs = this.#outputs.map((sum) => sum.conclude(inputs));
    return {
      outputs,
      layers: [...this.#layers].map(([plan, { inNetwork, sameInput, remaining }]) => ({
        plan,
        movement:
          plan.taps.length === 0
            ? null
            : {
                sameInput: remaining === null ? null : sameInput.relativeL2,
                inNetwork: inNetwork.relativeL2,
              },
        contribution: remaining && toContribution(remaining, outputs),
      })),
      copyError: this.#copyError,
      repeatError: this.#repeatError,
    };
  }
}

function toContribution(
  remaining: ReadonlyMap<string, DifferenceSum>,
  outputs: readonly ProbeOutput[],
): ProbeContribution {
  const shares = outputs.flatMap(({ name, relativeL2: whole }) => {
    const relativeL2 = remaining.get(name)?.relativeL2;
    if (whole === null || relativeL2 === undefined) return [];
    // Where nothing differs there is nothing to explain.
    return [{ whole, share: { name, relativeL2, explained: whole === 0 ? 0 : 1 - relativeL2 / whole } }];
  });
  const moved = shares.filter(({ whole }) => whole !== 0);
  const sum = moved.reduce((total, { share }) => total + share.explained, 0);
  return {
    explained: moved.length === 0 ? 0 : sum / moved.length,
    outputs: shares.map(({ share }) => share),
  };
}

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

  conclude({ runs, samples }: InputRuns): ProbeOutput {
    const nothing = { relativeL2: null, cosine: null, maxDifference: null, nonFinite: null };
    return {
      name: this.name,
      type: this.#type,
      shape: runs > 1 && this.#shape.length > 0 ? [samples, ...this.#shape.slice(1)] : this.#shape,
      ...(this.#isNumeric ? this.#difference.conclude() : nothing),
      top1: this.#isNumeric && this.#isClassifier ? this.#topOne.conclude() : null,
    };
  }
}

/** Adds two tensors' difference; false where they cannot be compared. */
function addNumbers(
  sum: DifferenceSum,
  reference: RuntimeTensor | undefined,
  value: RuntimeTensor | undefined,
): boolean {
  const pair = pairNumbers(reference, value);
  if (pair !== null) sum.add(...pair);
  return pair !== null;
}

/** The numbers of two tensors; null where one is missing or holds none, or they are of different sizes. */
function pairNumbers(
  reference: RuntimeTensor | undefined,
  value: RuntimeTensor | undefined,
): readonly [reference: Numbers, value: Numbers] | null {
  const [x, y] = [reference && numbersOf(reference), value && numbersOf(value)];
  return x == null || y == null || x.length !== y.length ? null : [x, y];
}
