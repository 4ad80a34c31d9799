import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { WeightPair } from '../../src/compare/compare-all-scales.js';
import { claimPair, type ScalesTask, type SentTensor } from '../../src/compare/scales-task.js';
import { ScalesThread, startScalesThread } from '../../src/compare/scales-thread.js';
import { type FileSource, openFileSource } from '../../src/io/file-source.js';
import { tensorOf } from '../build/checkpoints.js';
import { makeTempDirectory } from '../build/sources.js';
import { watchThreads } from '../build/threads.js';

const open: FileSource[] = [];

const threads = watchThreads();

afterEach(async () => {
  await Promise.all(open.splice(0).map((source) => source.close()));
});

/** One weight of four, to be compared with itself. */
function makeTask({ file = 0 } = {}): ScalesTask {
  const path = join(makeTempDirectory(), 'weights');
  writeFileSync(path, Float32Array.of(1, -2, 3, 4));
  const source = openFileSource(path);
  open.push(source);
  const { openFile, byteLength } = source;
  if (openFile === null) throw new Error('expected an open file');
  const { range, ...weight } = tensorOf('weight', [1, -2, 3, 4], { shape: [1, 4] });
  const sent: SentTensor = { ...weight, file, offset: 0, byteLength };
  return {
    files: [openFile],
    pairs: [{ before: sent, after: sent, layout: { outputAxis: 0, groups: 1 } }],
    claims: new Int32Array(new SharedArrayBuffer(4)),
  };
}

/** A thread with a task. */
function startThread(task: ScalesTask) {
  const thread = new ScalesThread(task);
  return { thread, worker: threads.last };
}

/** Two of the same weight. */
const makeTwo = (): ScalesTask => {
  const task = makeTask();
  return { ...task, pairs: [...task.pairs, ...task.pairs], claims: new Int32Array(new SharedArrayBuffer(8)) };
};

describe('a thread that compares weights', () => {
  test('says what it found of a pair that it has taken up', async () => {
    const { thread } = startThread(makeTask());
    await threads.untilAnswered(1);
    expect(await thread.take(0)).toMatchObject({ kind: 'proportional', scales: Float64Array.of(1) });
    await thread.stop();
  });

  test('leaves a pair alone that was taken up already', async () => {
    const task = makeTwo();
    expect(claimPair(task.claims, 1)).toBe(true);
    const { thread, worker } = startThread(task);
    const [answer] = await once(worker, 'message');
    expect(answer).toMatchObject({ index: 0 });
    await thread.stop();
  });

  test('says nothing of a pair that it failed at', async () => {
    const { thread } = startThread(makeTask({ file: 1 }));
    await threads.untilAnswered(1);
    expect(await thread.take(0)).toBeNull();
    await thread.stop();
  });

  test('takes up nothing that was asked for before', async () => {
    const task = makeTask();
    const { thread } = startThread(task);
    expect(await thread.take(0)).toBeNull();
    expect(claimPair(task.claims, 0)).toBe(false);
    await thread.stop();
  });

  test('owes no answer once it was stopped, or ends by itself', async () => {
    const task = makeTask();
    claimPair(task.claims, 0);
    const stopped = startThread(task);
    const answer = stopped.thread.take(0);
    await stopped.thread.stop();
    expect(await answer).toBeNull();
    const ended = startThread(task);
    const other = ended.thread.take(0);
    await ended.worker.terminate();
    expect(await other).toBeNull();
    await ended.thread.stop();
  });
});

describe('a thread whose task is done', () => {
  test('is given the next one', async () => {
    const first = startThread(makeTask());
    await first.thread.take(0);
    await first.thread.stop();
    const second = startThread(makeTask());
    expect(second.worker).toBe(first.worker);
    await threads.untilAnswered(1);
    expect(await second.thread.take(0)).toMatchObject({ kind: 'proportional' });
    await second.thread.stop();
  });

  test('is not, if it was stopped before or has ended', async () => {
    const first = startThread(makeTwo());
    await first.thread.take(0);
    const exited = once(first.worker, 'exit');
    await first.thread.stop();
    await exited;
    const second = startThread(makeTask());
    expect(second.worker).not.toBe(first.worker);
    await second.thread.take(0);
    await second.thread.stop();
    await second.worker.terminate();
    const third = startThread(makeTask());
    expect(third.worker).not.toBe(second.worker);
    await threads.untilAnswered(1);
    await third.thread.take(0);
    await third.thread.stop();
  });

  test('is listened to no more', async () => {
    const { thread, worker } = startThread(makeTask());
    const count = () => ['message', 'messageerror', 'exit'].map((event) => worker.listenerCount(event));
    const listening = count();
    await thread.take(0);
    await thread.stop();
    expect(count()).toEqual(listening.map((listeners) => listeners - 1));
  });

  test('ends when none comes for a while, counted from the last one', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const first = startThread(makeTask());
    await first.thread.take(0);
    await first.thread.stop();
    vi.advanceTimersByTime(4000);
    const second = startThread(makeTask());
    await second.thread.take(0);
    await second.thread.stop();
    vi.advanceTimersByTime(4000);
    const third = startThread(makeTask());
    expect(third.worker).toBe(first.worker);
    await third.thread.take(0);
    await third.thread.stop();
    const exited = once(third.worker, 'exit');
    vi.advanceTimersByTime(5000);
    vi.useRealTimers();
    await exited;
  });
});

describe('the second thread', () => {
  const { range, ...weight } = tensorOf('weight', [1, -2, 3, 4], { shape: [1, 4] });

  /** Two of the same weight, in a file. */
  function makePairs(): readonly WeightPair[] {
    const path = join(makeTempDirectory(), 'weights');
    writeFileSync(path, Float32Array.of(1, -2, 3, 4));
    const source = openFileSource(path);
    open.push(source);
    const tensor = { ...weight, range: { source, offset: 0, byteLength: range.byteLength } };
    const pair = { before: tensor, after: tensor, layout: { outputAxis: 0, groups: 1 } };
    return [pair, pair];
  }

  test('helps one comparison at a time', async () => {
    const first = startScalesThread(makePairs());
    expect(first).not.toBeNull();
    expect(startScalesThread(makePairs())).toBeNull();
    await first?.stop();
    const next = startScalesThread(makePairs());
    expect(next).not.toBeNull();
    await next?.stop();
  });

  test('may fail without harm', async () => {
    const { thread, worker } = startThread(makeTask());
    worker.emit('error', new Error('out of memory'));
    worker.emit('messageerror', new Error('no memory for an answer'));
    const task = makeTask();
    claimPair(task.claims, 0);
    await thread.stop();
    const { thread: other, worker: failing } = startThread(task);
    const answer = other.take(0);
    failing.emit('messageerror', new Error('no memory for an answer'));
    expect(await answer).toBeNull();
    await other.stop();
  });
});
