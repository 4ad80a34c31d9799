import { Worker } from 'node:worker_threads';
import { isMemoryUnlimited } from '../io/memory-limits.js';
import type { ScaleComparison } from './channel-scales.js';
import type { WeightPair } from './compare-all-scales.js';
import { claimPair, makeTask, type ScalesAnswer, type ScalesTask } from './scales-task.js';
import program from './scales-worker.ts?thread';

/** How long a thread waits for another task before it ends: an audit of what was just written comes soon. */
const IDLE_MS = 5000;

/** The thread that waits for a task. */
let idle: { readonly worker: Worker; readonly timeout: NodeJS.Timeout } | null = null;

/** Whether a comparison has the second thread: of several at once, one is helped. */
let isLent = false;

/**
 * A second thread that compares weights from the last pair on, while the first one does so from the first: each takes up
 * what the other has not. It reads the files that are open, by their descriptors. Made by {@link startScalesThread}.
 */
export class ScalesThread {
  readonly #worker: Worker;
  readonly #claims: ScalesTask['claims'];
  readonly #answers = new Map<number, ScaleComparison | null>();
  /** Pairs that were not asked for. */
  #left: number;
  #hasEnded = false;
  #wake = () => {};

  /** @throws where the process may not have another thread. */
  constructor(task: ScalesTask) {
    this.#claims = task.claims;
    this.#left = task.pairs.length;
    this.#worker = takeIdle() ?? startWorker();
    this.#worker.on('message', this.#keepAnswer);
    this.#worker.on('messageerror', this.#end);
    this.#worker.on('exit', this.#end);
    isLent = true;
    try {
      this.#worker.postMessage(task);
    } catch (error) {
      void this.stop();
      throw error;
    }
  }

  /**
   * What the thread finds out about a pair; null where it has not taken it up, and now never does, or has failed. To be
   * asked once for each.
   */
  async take(index: number): Promise<ScaleComparison | null> {
    this.#left--;
    if (claimPair(this.#claims, index)) return null;
    while (!this.#answers.has(index) && !this.#hasEnded) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const answer = this.#answers.get(index) ?? null;
    this.#answers.delete(index);
    return answer;
  }

  /** Leaves the thread to the next task if all pairs were asked for, else ends it. It reads no file any more then. */
  async stop(): Promise<void> {
    this.#worker.off('message', this.#keepAnswer);
    this.#worker.off('messageerror', this.#end);
    this.#worker.off('exit', this.#end);
    const isAtRest = this.#left === 0 && !this.#hasEnded;
    this.#end();
    isLent = false;
    if (isAtRest) keepIdle(this.#worker);
    else await this.#worker.terminate();
  }

  readonly #keepAnswer = ({ index, found }: ScalesAnswer) => {
    this.#answers.set(index, found);
    this.#wake();
  };

  readonly #end = () => {
    this.#hasEnded = true;
    this.#wake();
  };
}

function startWorker(): Worker {
  // Neither what this process was started with nor its environment is of use there.
  const worker = new Worker(program, { eval: true, execArgv: [], env: {} });
  // What it leaves undone is done by the first thread.
  worker.on('error', () => {});
  worker.on('exit', () => {
    if (idle?.worker === worker) takeIdle();
  });
  return worker;
}

/** Keeps a thread that has nothing to do for a while; the process may end meanwhile. */
function keepIdle(worker: Worker): void {
  const timeout = setTimeout(() => void takeIdle()?.terminate(), IDLE_MS);
  idle = { worker, timeout };
  timeout.unref();
  worker.unref();
}

/** The thread that waits, if there is one, for a task. */
function takeIdle(): Worker | null {
  if (idle === null) return null;
  const { worker, timeout } = idle;
  idle = null;
  clearTimeout(timeout);
  worker.ref();
  return worker;
}

/**
 * Starts a second thread, or gives one that waits another task; null where there can be none, another comparison has it,
 * or it could do nothing: the first pair is the first thread's at once.
 */
export function startScalesThread(pairs: readonly WeightPair[]): ScalesThread | null {
  if (isLent || !isMemoryUnlimited()) return null;
  const task = makeTask(pairs);
  if (task.pairs.every((pair, index) => pair === null || index === 0)) return null;
  try {
    return new ScalesThread(task);
  } catch {
    // Such as Node's permission model: nothing that a comparison could not do without.
    return null;
  }
}
