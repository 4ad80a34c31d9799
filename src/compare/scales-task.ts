import type { ChannelLayout } from '../checkpoint/channel-grid.js';
import type { Tensor } from '../checkpoint/checkpoint.js';
import type { OpenFile } from '../io/file-source.js';
import type { ScaleComparison } from './channel-scales.js';

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
