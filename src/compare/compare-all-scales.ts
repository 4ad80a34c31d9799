import { availableParallelism } from 'node:os';
import type { ChannelLayout } from '../checkpoint/channel-grid.js';
import type { Tensor } from '../checkpoint/checkpoint.js';
import { compareChannelScales, type ScaleComparison } from './channel-scales.js';

/** The arguments of {@link compareChannelScales}. */
export interface WeightPair {
  readonly before: Tensor;
  readonly after: Tensor;
  readonly layout: ChannelLayout;
}

/** How pairs are compared. */
export interface AllScalesOptions {
  /** From how many bytes of weights on, both sides together, a second thread helps. */
  readonly threadBytes?: number | undefined;
}

/** With fewer bytes, the start of a thread costs more than it wins. */
const THREAD_BYTES = 640 * 1024 * 1024;

/** Each pair with what was found of it. */
type Comparisons<Pair> = AsyncGenerator<readonly [Pair, ScaleComparison], void>;

/**
 * Compares weights pair by pair, as {@link compareChannelScales} does, and yields each with what was found, in their order.
 *
 * Where there is much to read, a second thread helps. Whatever goes wrong there is done again here: errors come as they
 * would without it. No file is read any more once the generator has ended or was returned from.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function* compareAllScales<Pair extends WeightPair>(
  pairs: readonly Pair[],
  {
    threadBytes = availableParallelism() > 1 ? THREAD_BYTES : Number.POSITIVE_INFINITY,
  }: AllScalesOptions = {},
): Comparisons<Pair> {
  let bytesLeft = pairs.reduce((sum, pair) => sum + countBytes(pair), 0);
  let isFrozen = false;
  for (const [index, pair] of pairs.entries()) {
    // Of weights that were trained, little more than the beginning is read: not much to help with.
    if (isFrozen && bytesLeft >= threadBytes) {
      yield* compareTogether(pairs.slice(index));
      return;
    }
    const compared = await compareChannelScales(pair.before, pair.after, pair.layout);
    yield [pair, compared];
    isFrozen = compared.kind === 'proportional';
    bytesLeft -= countBytes(pair);
  }
}

/** Bytes that may have to be read of a pair: none where a baseline has left its values out. */
function countBytes({ before, after }: WeightPair): number {
  if (before.fingerprint !== undefined || after.fingerprint !== undefined) return 0;
  return before.range.byteLength + after.range.byteLength;
}

/** Compares with the help of a second thread, where there can be one. */
async function* compareTogether<Pair extends WeightPair>(pairs: readonly Pair[]): Comparisons<Pair> {
  // All about threads is loaded where one helps.
  const { startScalesThread } = await import('./scales-thread.js');
  const thread = startScalesThread(pairs);
  try {
    for (const [index, pair] of pairs.entries()) {
      const found = (await thread?.take(index)) ?? null;
      yield [pair, found ?? (await compareChannelScales(pair.before, pair.after, pair.layout))];
    }
  } finally {
    await thread?.stop();
  }
}
