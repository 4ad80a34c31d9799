// What runs in the second thread: a program of its own, which scales-thread.ts has as text.
import { parentPort } from 'node:worker_threads';
import type { Tensor } from '../checkpoint/checkpoint.js';
import type { ByteSource } from '../io/byte-source.js';
import { FileSource } from '../io/file-source.js';
import { compareChannelScales, type ScaleComparison } from './channel-scales.js';
import {
  claimPair,
  type ScalesAnswer,
  type ScalesTask,
  type SentPair,
  type SentTensor,
} from './scales-task.js';

parentPort?.on('message', (task: ScalesTask) => void compareFromTheEnd(task));

/** Takes up pairs from the last one on, until the first thread has all that are left. */
async function compareFromTheEnd({ files, pairs, claims }: ScalesTask): Promise<void> {
  const sources = files.map((file) => new FileSource(file));
  for (let index = pairs.length - 1; index >= 0; index--) {
    const pair = pairs[index] ?? null;
    if (pair === null || !claimPair(claims, index)) continue;
    const found = await compare(pair, sources).catch(() => null);
    parentPort?.postMessage({ index, found } satisfies ScalesAnswer);
  }
}

async function compare(
  { before, after, layout }: SentPair,
  sources: readonly ByteSource[],
): Promise<ScaleComparison> {
  return compareChannelScales(receive(before, sources), receive(after, sources), layout);
}

function receive(
  { file, offset, byteLength, ...tensor }: SentTensor,
  sources: readonly ByteSource[],
): Tensor {
  const source = sources[file];
  if (source === undefined) throw new RangeError(`there is no file ${file}`);
  return { ...tensor, range: { source, offset, byteLength } };
}
