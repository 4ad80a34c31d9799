import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, vi } from 'vitest';

/** The threads that were told something, whether they were new or were waiting. */
export interface WatchedThreads {
  /** How often one was told something. */
  readonly taskCount: number;
  /** The one that was told something last. */
  readonly last: Worker;
  /** Waits until that one has said so much since. */
  untilAnswered(count: number): Promise<void>;
}

/** Sees in each test of a file what threads are told, and what they say; ends them after it. To be called as it is collected. */
export function watchThreads(): WatchedThreads {
  const tasks: Worker[] = [];
  let answers = 0;
  let wake = () => {};
  const listen = () => {
    answers++;
    wake();
  };
  const { postMessage } = Worker.prototype;
  beforeEach(() => {
    vi.spyOn(Worker.prototype, 'postMessage').mockImplementation(function (this: Worker, ...args) {
      for (const thread of tasks) thread.off('message', listen);
      tasks.push(this);
      answers = 0;
      this.on('message', listen);
      postMessage.apply(this, args);
    });
  });
  afterEach(async () => {
    vi.restoreAllMocks();
    await Promise.all(tasks.splice(0).map((thread) => thread.terminate()));
  });
  return {
    get taskCount() {
      return tasks.length;
    },
    get last() {
      const thread = tasks.at(-1);
      if (thread === undefined) throw new Error('expected a thread');
      return thread;
    },
    async untilAnswered(count) {
      while (answers < count)
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
    },
  };
}
