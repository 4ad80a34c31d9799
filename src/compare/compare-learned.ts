import type { Tensor } from '../checkpoint/checkpoint.js';
import type { DType } from '../checkpoint/dtype.js';
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

/**
 * Compares every learned tensor that both sides have and that was not judged already, in the order of before's file,
 * so that it is read once from front to back; in the order of after's where before is a baseline.
 *
 * @param allBefore learned tensors by dotted name, likewise `allAfter`.
 * @param known what an earlier comparison found, where the caller knows that these bytes are the same still; such tensors
 *   are not read.
 */
export async function compareLearnedTensors(
  allBefore: ReadonlyMap<string, Tensor>,
  allAfter: ReadonlyMap<string, Tensor>,
  { folded, onProgress, known }: LearnedOptions,
): Promise<LearnedComparisons> {
  const { edits } = folded;
  const before = withoutJudged(allBefore, folded.judgedBefore);
  const after = withoutJudged(allAfter, folded.judgedAfter);
  const partners = new Map<string, string>();
  const taken = new Set<string>();
  for (const name of before.keys()) {
    const partner = translateName(name, edits, (candidate) => after.has(candidate) && !taken.has(candidate));
    if (partner === null) continue;
    partners.set(name, partner);
    taken.add(partner);
  }
  const results = new Map<string, LearnedComparison>();
  const comparer = new TensorComparer();
  const total = sum([...partners.keys()].map((name) => before.get(name)?.range.byteLength ?? 0));
  let done = 0;
  const paired = [...before].flatMap(([name, tensor]) => {
    const afterName = partners.get(name);
    const partner = afterName === undefined ? undefined : after.get(afterName);
    return afterName === undefined || partner === undefined ? [] : [{ name, afterName, tensor, partner }];
  });
  for (const { name, afterName, tensor, partner } of inFileOrder(paired)) {
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
  }
  const compared = [...inOrderOf(before, results), ...folded.learned];
  const byBefore = new Map(compared.map((comparison) => [comparison.name, comparison]));
  return {
    compared,
    byBefore,
    byAfter: new Map(compared.map((comparison) => [comparison.afterName, comparison])),
    onlyBefore: [...before.keys()].filter((name) => !partners.has(name)),
    onlyAfter: [...after.keys()].filter((name) => !taken.has(name)),
  };
}

function findRetyped(before: Tensor, after: Tensor): Pick<LearnedComparison, 'retyped'> {
  const isHashed = before.fingerprint !== undefined || after.fingerprint !== undefined;
  return isHashed && before.dtype !== after.dtype
    ? { retyped: { before: before.dtype, after: after.dtype } }
    : {};
}

/** In the order of before's file, or of after's where before is a baseline. */
function inFileOrder<Pair extends { readonly tensor: Tensor; readonly partner: Tensor }>(
  pairs: readonly Pair[],
): readonly Pair[] {
  const rangeOf = ({ tensor, partner }: Pair) => (tensor.fingerprint === undefined ? tensor : partner).range;
  const rank = new Map<unknown, number>();
  for (const { source } of pairs.map(rangeOf)) if (!rank.has(source)) rank.set(source, rank.size);
  const rankOf = (pair: Pair) => rank.get(rangeOf(pair).source) ?? 0;
  return [...pairs].sort((x, y) => rankOf(x) - rankOf(y) || rangeOf(x).offset - rangeOf(y).offset);
}

function inOrderOf(
  order: ReadonlyMap<string, unknown>,
  results: ReadonlyMap<string, LearnedComparison>,
): readonly LearnedComparison[] {
  return [...order.keys()].flatMap((name) => results.get(name) ?? []);
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
