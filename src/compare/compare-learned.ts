import type { Tensor } from '../checkpoint/checkpoint.js';
import { type PrefixEdit, translateName } from './pair-layers.js';
import { type Equality, TensorComparer } from './tensor-equality.js';

/** A learned tensor that both checkpoints have, under before's dotted name. */
export interface LearnedComparison {
  readonly name: string;
  readonly afterName: string;
  readonly elementCount: number;
  readonly equality: Equality;
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

/**
 * Compares every learned tensor that both sides have and that was not judged already, in the order of before's file,
 * so that it is read once from front to back.
 *
 * @param allBefore learned tensors by dotted name, likewise `allAfter`.
 */
export async function compareLearnedTensors(
  allBefore: ReadonlyMap<string, Tensor>,
  allAfter: ReadonlyMap<string, Tensor>,
  { folded, onProgress }: { folded: JudgedTensors; onProgress?: OnProgress | undefined },
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
  for (const [name, tensor] of inFileOrder(before)) {
    const afterName = partners.get(name);
    const partner = afterName === undefined ? undefined : after.get(afterName);
    if (afterName === undefined || partner === undefined) continue;
    const equality = await comparer.compare(tensor, partner);
    results.set(name, { name, afterName, elementCount: tensor.elementCount, equality });
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

function inFileOrder(tensors: ReadonlyMap<string, Tensor>): readonly (readonly [string, Tensor])[] {
  const rank = new Map<unknown, number>();
  for (const { range } of tensors.values()) if (!rank.has(range.source)) rank.set(range.source, rank.size);
  return [...tensors].sort(
    ([, x], [, y]) =>
      (rank.get(x.range.source) ?? 0) - (rank.get(y.range.source) ?? 0) || x.range.offset - y.range.offset,
  );
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
