import { expect, test } from 'vitest';
import { createProbe } from '../../src/cli/probe-command.js';
import type { Terminal } from '../../src/cli/terminal.js';

const fixture = (path: string) => new URL(`../../fixtures/${path}`, import.meta.url).pathname;

test('a probe shows how many of its runs are done, and takes the bar away before it prints', async () => {
  const seen: string[] = [];
  const terminal: Terminal = {
    readLooks: () => ({ width: 80, wholeNames: true, paint: (_tone, text) => text }),
    chooseColor: () => {},
    write: async () => void seen.push('report'),
    writeError: () => seen.push('message'),
    showProgress: () => seen.push('bytes'),
    showRuns: ({ done, total }) => seen.push(`${done} of ${total} runs`),
    finishProgress: () => seen.push('no bar'),
  };
  const pair = 'pairs/requires-grad-leak';
  const args = [fixture(`${pair}/before.safetensors`), fixture(`${pair}/after.live.onnx`), '--no-ablation'];
  await createProbe(terminal).parseAsync(args, { from: 'user' });
  // 8 samples, 4 at a time: with both statistics, and once more to see whether the model repeats itself.
  expect(seen).toEqual([1, 2, 3, 4, 5].map((done) => `${done} of 5 runs`).concat('no bar', 'report'));
});
