import { Worker } from 'node:worker_threads';
import { vi } from 'vitest';

/** The threads that were told something, whether they were new or were waiting. */
export interface WatchedThreads {
  /** How often one was told something. */
  readonly taskCount: number;
  /** The one that was told something last. */
  readonly last: Worker;
  /** Waits until that one has said so much since. */
  untilAnswered(count: number): Promise<void>;
  /** Ends all of them, and the watch. */
  stop(): Promise<void>;
}

/** Sees from now on what threads are told, and what they say. */
export function watchThreads(): WatchedThreads {
  const tasks: Worker[] = [];
  let answers = 0;
  let wake = () => {};
  const listen = () => {
    answers++;
    wake();
  };
  const { postMessage } = Worker.prototype;
  const spy = vi.spyOn(Worker.prototype, 'postMessage').mockImplementation(function (this: Worker, ...args) {
    for (const thread of tasks) thread.off('message', listen);
    tasks.push(this);
    answers = 0;
    this.on('message', listen);
    postMessage.apply(this, args);
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
    async stop() {
      spy.mockRestore();
      await Promise.all(tasks.map((thread) => thread.terminate()));
    },
  };
}
