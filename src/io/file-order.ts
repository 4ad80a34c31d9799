import type { ByteRange } from './byte-source.js';

/** Something to be done with bytes of a file. */
export interface FileWork {
  /** Where it begins to read; null where it has nothing to read. */
  readonly range: ByteRange | null;
  readonly run: () => Promise<void>;
}

/**
 * Does work after work in the order of where they begin to read, so that a file is read from front to back; one file
 * after the other, in the order in which the works first name them. What reads nothing comes first.
 *
 * @throws what a work throws; those behind it are not done then.
 */
export async function runInFileOrder(works: readonly FileWork[]): Promise<void> {
  const ranks = new Map<unknown, number>();
  for (const { range } of works)
    if (range !== null && !ranks.has(range.source)) ranks.set(range.source, ranks.size);
  const rankOf = ({ range }: FileWork) => (range === null ? -1 : (ranks.get(range.source) ?? 0));
  const offsetOf = ({ range }: FileWork) => range?.offset ?? 0;
  const sorted = [...works].sort((x, y) => rankOf(x) - rankOf(y) || offsetOf(x) - offsetOf(y));
  for (const { run } of sorted) await run();
}
