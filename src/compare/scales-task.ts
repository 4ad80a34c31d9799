import type { ChannelLayout } from '../checkpoint/channel-grid.js';
import type { Tensor } from '../checkpoint/checkpoint.js';
import type { ByteSource } from '../io/byte-source.js';
import { FileSource, type OpenFile } from '../io/file-source.js';
import type { ScaleComparison } from './channel-scales.js';
import type { WeightPair } from './compare-all-scales.js';

// What two threads tell each other that compare weights together: scales-thread.ts and scales-worker.ts.

/** A tensor whose bytes stand in a file: `file` is an index into those of the task. */
export interface SentTensor extends Pick<Tensor, 'name' | 'dtype' | 'shape' | 'elementCount'> {
  readonly file: number;
  readonly offset: number;
  readonly byteLength: number;
}

/** Two weights to be compared. */
export interface SentPair {
  readonly before: SentTensor;
  readonly after: SentTensor;
  readonly layout: ChannelLayout;
}

/** What the second thread is told of a comparison. */
export interface ScalesTask {
  readonly files: readonly OpenFile[];
  /** Null for those that only the first thread can compare. */
  readonly pairs: readonly (SentPair | null)[];
  /** For each pair: 0 until a thread takes it up, then 1. Both threads see the same memory. */
  readonly claims: Int32Array<SharedArrayBuffer>;
}

/** What the second thread says of each pair that it took up: what it found, null where it failed. */
export interface ScalesAnswer {
  readonly index: number;
  readonly found: ScaleComparison | null;
}

/** Takes up a pair. False where the other thread has done so, which is going to say what it found. */
export function claimPair(claims: Int32Array<SharedArrayBuffer>, index: number): boolean {
  return Atomics.compareExchange(claims, index, 0, 1) === 0;
}

/** What the second thread is told of pairs that no one has taken up. */
export function makeTask(pairs: readonly WeightPair[]): ScalesTask {
  const files = findOpenFiles(pairs.flatMap(({ before, after }) => [before, after]));
  const sources = [...files.keys()];
  return {
    files: [...files.values()],
    pairs: pairs.map(({ before, after, layout: { outputAxis, groups } }) => {
      const [left, right] = [toSent(before, sources), toSent(after, sources)];
      return left === null || right === null
        ? null
        : { before: left, after: right, layout: { outputAxis, groups } };
    }),
    claims: new Int32Array(new SharedArrayBuffer(pairs.length * Int32Array.BYTES_PER_ELEMENT)),
  };
}

function findOpenFiles(tensors: readonly Tensor[]): ReadonlyMap<ByteSource, OpenFile> {
  const files = new Map<ByteSource, OpenFile>();
  for (const { range } of tensors) {
    const file = range.source instanceof FileSource ? range.source.openFile : null;
    if (file !== null) files.set(range.source, file);
  }
  return files;
}

/** Null for what is not in a file as it stands: the other thread has neither what is inflated nor what is in memory. */
function toSent(
  { name, dtype, shape, elementCount, range, fingerprint }: Tensor,
  sources: readonly ByteSource[],
): SentTensor | null {
  const file = sources.indexOf(range.source);
  if (file < 0 || fingerprint !== undefined) return null;
  const { offset, byteLength } = range;
  return { name, dtype, shape, elementCount, file, offset, byteLength };
}
