import { type Difference, DifferenceSum, numbersOf, TopOneCount } from './measures.js';
import type { InputRuns } from './model-inputs.js';
import type { LayerPlan } from './put-back.js';
import {
  type Fetched,
  type OnnxRuntime,
  type RuntimeSession,
  runSession,
  toRuntimeTensor,
} from './runtime.js';

/** A probe that is ready to run. */
export interface RunRequest {
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
  const step = () => request.onProgress?.({ done: ++done, total });
  const taps = [...new Set(layers.flatMap((layer) => layer.taps))];
  const all = [...new Set([...request.outputs, ...taps])];
  for (let run = 0; run < inputs.runs; run++) {
    const arrays = await inputs.read(run);
    const runWith = async (putBack: (layer: LayerPlan) => boolean, fetches: readonly string[]) => {
      const feeds = [
        ...[...arrays].map(([name, array]) => [name, toRuntimeTensor(request.runtime, array)] as const),
        ...feedStatistics(request, putBack),
      ];
      const fetched = await runSession(request.session, {
        file: request.file,
        feeds: Object.fromEntries(feeds),
        fetches,
      });
      step();
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

function feedStatistics({ runtime, layers }: RunRequest, putBack: (layer: LayerPlan) => boolean) {
  return layers.flatMap((layer) =>
    (layer.fed ?? []).map(({ name, dtype, shape, after, before }) => {
      const bytes = putBack(layer) ? before : after;
      return [name, toRuntimeTensor(runtime, { dtype, shape, bytes })] as const;
    }),
  );
}

/** Sums over all runs. */
class Tally {
  readonly #request: RunRequest;
  readonly #outputs = new Map<string, OutputSum>();
  readonly #inNetwork = new Map<LayerPlan, DifferenceSum>();
  readonly #sameInput = new Map<LayerPlan, DifferenceSum>();
  readonly #remaining = new Map<LayerPlan, Map<string, DifferenceSum>>();
  #copyError = 0;
  #repeatError = 0;

  constructor(request: RunRequest) {
    this.#request = request;
  }

  checkCopy(plain: Fetched, after: Fetched, again: Fetched): void {
    this.#copyError = this.#findLargest(plain, after);
    this.#repeatError = this.#findLargest(after, again);
  }

  #findLargest(reference: Fetched, value: Fetched): number {
    let largest = 0;
    for (const name of this.#request.outputs) {
      const sum = new DifferenceSum();
      // Written so that a NaN stays.
      if (addNumbers(sum, reference[name], value[name]) && !(sum.relativeL2 <= largest))
        largest = sum.relativeL2;
    }
    return largest;
  }

  addPair(after: Fetched, restored: Fetched): void {
    for (const name of this.#request.outputs) {
      const sum = this.#outputs.get(name) ?? new OutputSum(name);
      this.#outputs.set(name, sum);
      sum.add(restored[name], after[name]);
    }
    for (const layer of this.#request.layers) {
      const sum = findOrMake(this.#inNetwork, layer, () => new DifferenceSum());
      for (const tap of layer.taps) addNumbers(sum, restored[tap], after[tap]);
    }
  }

  /** Everything before the layer is after's in the run with the layer alone put back, so its input is after's too. */
  addAlone(
    layer: LayerPlan,
    { after, restored, alone }: { after: Fetched; restored: Fetched; alone: Fetched },
  ): void {
    const own = findOrMake(this.#sameInput, layer, () => new DifferenceSum());
    for (const tap of layer.taps) addNumbers(own, alone[tap], after[tap]);
    const remaining = findOrMake(this.#remaining, layer, () => new Map<string, DifferenceSum>());
    for (const name of this.#request.outputs) {
      addNumbers(
        findOrMake(remaining, name, () => new DifferenceSum()),
        restored[name],
        alone[name],
      );
    }
  }

  conclude(): RunResults {
    return {
      outputs: [...this.#outputs.values()].map((sum) => sum.conclude()),
      layers: this.#request.layers.map((plan) => {
        const isTapped = plan.taps.length > 0;
        const remaining = this.#remaining.get(plan);
        return {
          plan,
          inNetwork: isTapped ? (this.#inNetwork.get(plan)?.relativeL2 ?? null) : null,
          sameInput: isTapped ? (this.#sameInput.get(plan)?.relativeL2 ?? null) : null,
          remaining:
            remaining === undefined
              ? null
              : [...remaining].map(([output, { relativeL2 }]) => ({ output, relativeL2 })),
        };
      }),
      copyError: this.#copyError,
      repeatError: this.#repeatError,
    };
  }
}

/** One output of the model, over all runs. */
class OutputSum {
  readonly #name: string;
  readonly #difference = new DifferenceSum();
  readonly #topOne = new TopOneCount();
  #type = '';
  #shape: readonly number[] = [];
  #isNumeric = true;

  constructor(name: string) {
    this.#name = name;
  }

  add(restored: Fetched[string] | undefined, after: Fetched[string] | undefined): void {
    if (after === undefined || restored === undefined) return;
    if (this.#type === '') this.#shape = after.dims;
    this.#type = after.type;
    const [reference, value] = [numbersOf(restored), numbersOf(after)];
    this.#isNumeric &&= reference !== null && value !== null && reference.length === value.length;
    if (!this.#isNumeric || reference === null || value === null) return;
    this.#difference.add(reference, value);
    if (this.#isClassifier) this.#topOne.add(reference, value, this.#shape[1] ?? 1);
  }

  /** Logits or probabilities: a float for each sample and class. */
  get #isClassifier(): boolean {
    return this.#shape.length === 2 && (this.#shape[1] ?? 0) >= 2 && this.#type.startsWith('float');
  }

  conclude(): OutputResult {
    return {
      name: this.#name,
      type: this.#type,
      shape: this.#shape,
      difference: this.#isNumeric ? this.#difference.conclude() : null,
      topOne: this.#isNumeric && this.#isClassifier ? this.#topOne.conclude() : null,
    };
  }
}

/** Adds two tensors' difference; false where they hold no numbers, or are of different sizes. */
function addNumbers(
  sum: DifferenceSum,
  reference: Fetched[string] | undefined,
  value: Fetched[string] | undefined,
): boolean {
  if (reference === undefined || value === undefined) return false;
  const [x, y] = [numbersOf(reference), numbersOf(value)];
  if (x === null || y === null || x.length !== y.length) return false;
  sum.add(x, y);
  return true;
}

function findOrMake<Key, Value>(map: Map<Key, Value>, key: Key, make: () => Value): Value {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  return made;
}
