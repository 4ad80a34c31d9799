import type { Tensor } from '../checkpoint/checkpoint.js';
import type { DType } from '../checkpoint/dtype.js';
import type { FileWork } from '../io/file-order.js';
import { type PrefixEdit, translateName } from './pair-layers.js';
import { type Equality, TensorComparer } from './tensor-equality.js';

/** A learned tensor that both checkpoints have, under before's dotted name. */
export interface LearnedComparison {
  readonly name: string;
  readonly afterName: string;
  readonly elementCount: number;
  readonly equality: Equality;
  /**
   * The types on both sides, where they differ and a baseline's hash is all that could be compared; absent where
   * anything else was found out.
   */
  readonly retyped?: { readonly before: DType; readonly after: DType } | undefined;
}

/** Every learned tensor, compared or said to be on one side only. */
export interface LearnedComparisons {
  readonly compared: readonly LearnedComparison[];
  readonly byBefore: ReadonlyMap<string, LearnedComparison>;
  readonly byAfter: ReadonlyMap<string, LearnedComparison>;
  readonly onlyBefore: readonly string[];
  readonly onlyAfter: readonly string[];
}

/** Told after each tensor: how many bytes of how many in all were dealt with. */
export type OnProgress = (progress: { readonly done: number; readonly total: number }) => void;

/** What was judged already, per channel, when folded norm layers were looked for. */
export interface JudgedTensors {
  readonly learned: readonly LearnedComparison[];
  readonly judgedBefore: ReadonlySet<string>;
  readonly judgedAfter: ReadonlySet<string>;
  /** How before's names read in after. */
  readonly edits: readonly PrefixEdit[];
}

/** What a comparison of learned tensors is told beside them. */
export interface LearnedOptions {
  readonly folded: JudgedTensors;
  readonly onProgress?: OnProgress | undefined;
  readonly known?: LearnedComparisons | undefined;
}

/** A comparison of learned tensors that is still to be done. */
export interface PlannedLearned {
  /** One for each tensor that both sides have, by its place in before's file; in after's where before is a baseline. */
  readonly works: readonly FileWork[];
  /** What they found. Call it once all are done. */
  readonly conclude: () => LearnedComparisons;
}

/**
 * Plans to compare every learned tensor that both sides have and that was not judged already.
 *
 * @param allBefore learned tensors by dotted name, likewise `allAfter`.
 * @param known what an earlier comparison found, where the caller knows that these bytes are the same still; such tensors
 *   are not read.
 */
export function planLearnedComparisons(
  allBefore: ReadonlyMap<string, Tensor>,
  allAfter: ReadonlyMap<string, Tensor>,
  { folded, onProgress, known }: LearnedOptions,
): PlannedLearned {
  const before = withoutJudged(allBefore, folded.judgedBefore);
  const after = withoutJudged(allAfter, folded.judgedAfter);
  const pairs = pairTensors(before, after, folded.edits);
  const results = new Map<string, LearnedComparison>();
  const comparer = new TensorComparer();
  const total = sum([...pairs.values()].map(({ tensor }) => tensor.range.byteLength));
  let done = 0;
  const compare = async ({ name, afterName, tensor, partner }: TensorPair) => {
    const earlier = known?.byBefore.get(name);
    const equality =
      earlier?.afterName === afterName ? earlier.equality : await comparer.compare(tensor, partner);
    results.set(name, {
      name,
      afterName,
      elementCount: tensor.elementCount,
      equality,
      ...(equality === 'incomparable' ? findRetyped(tensor, partner) : {}),
    });
    done += tensor.range.byteLength;
    onProgress?.({ done, total });
  };
  return {
    works: [...pairs.values()].map((pair) => ({
      range: (pair.tensor.fingerprint === undefined ? pair.tensor : pair.partner).range,
      run: () => compare(pair),
    })),
    conclude: () => {
      const compared = [...[...pairs.keys()].map((name) => take(results, name)), ...folded.learned];
      const paired = new Set([...pairs.values()].map(({ afterName }) => afterName));
      return {
        compared,
        byBefore: new Map(compared.map((comparison) => [comparison.name, comparison])),
        byAfter: new Map(compared.map((comparison) => [comparison.afterName, comparison])),
        onlyBefore: [...before.keys()].filter((name) => !pairs.has(name)),
        onlyAfter: [...after.keys()].filter((name) => !paired.has(name)),
      };
    },
  };
}

/** A tensor of before and the one of after that goes with it. */
interface TensorPair {
  readonly name: string;
  readonly afterName: string;
  readonly tensor: Tensor;
  readonly partner: Tensor;
}

/** Pairs by before's names. */
function pairTensors(
  before: ReadonlyMap<string, Tensor>,
  after: ReadonlyMap<string, Tensor>,
  edits: readonly PrefixEdit[],
): ReadonlyMap<string, TensorPair> {
  const pairs = new Map<string, TensorPair>();
  const taken = new Set<string>();
  for (const [name, tensor] of before) {
    const afterName = translateName(
      name,
      edits,
      (candidate) => after.has(candidate) && !taken.has(candidate),
    );
    const partner = afterName === null ? undefined : after.get(afterName);
    if (afterName === null || partner === undefined) continue;
    pairs.set(name, { name, afterName, tensor, partner });
    taken.add(afterName);
  }
  return pairs;
}

function findRetyped(before: Tensor, after: Tensor): Pick<LearnedComparison, 'retyped'> {
  const isHashed = before.fingerprint !== undefined || after.fingerprint !== undefined;
  return isHashed && before.dtype !== after.dtype
    ? { retyped: { before: before.dtype, after: after.dtype } }
    : {};
}

function take(results: ReadonlyMap<string, LearnedComparison>, name: string): LearnedComparison {
  const result = results.get(name);
  if (result === undefined) throw new Error(`${name} is still to be compared`);
  return result;
}

function withoutJudged(
  tensors: ReadonlyMap<string, Tensor>,
  judged: ReadonlySet<string>,
): ReadonlyMap<string, Tensor> {
  return judged.size === 0 ? tensors : new Map([...tensors].filter(([name]) => !judged.has(name)));
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
