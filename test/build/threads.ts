import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { type MockInstance, vi } from 'vitest';

/** Sees what threads are told from now on, whether they are new or were waiting. */
export function watchTasks(): MockInstance<Worker['postMessage']> {
  return vi.spyOn(Worker.prototype, 'postMessage');
}

/** The thread that was told something last. */
export function lastThread(tasks: MockInstance<Worker['postMessage']>): Worker {
  const thread = tasks.mock.contexts.at(-1);
  if (!(thread instanceof Worker)) throw new Error('expected a thread');
  return thread;
}

/** Waits until a thread has said so much. */
export async function untilAnswered(thread: Worker, answers: number): Promise<void> {
  for (let count = 0; count < answers; count++) await once(thread, 'message');
}
