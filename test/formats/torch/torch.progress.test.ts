import { expect, test } from 'vitest';
import { dict, int, orderedDict } from './build/pickle-writer.js';
import { normLayer, open, zipCheckpoint } from './build/torch-files.js';

const STATE_DICT = orderedDict(normLayer('bn.'));

test('a checkpoint tells the epoch and the step that stand beside its state dict', async () => {
  const root = dict({ epoch: int(4), global_step: int(500), state_dict: STATE_DICT });
  expect((await open(zipCheckpoint(root))).progress).toEqual({ epoch: 4, step: 500 });
});

test('mmengine keeps both in meta', async () => {
  const meta = dict({ epoch: int(2), iter: int(160) });
  const root = dict({ meta, state_dict: STATE_DICT });
  expect((await open(zipCheckpoint(root))).progress).toEqual({ epoch: 2, step: 160 });
});

test('a state dict by itself tells nothing', async () => {
  expect((await open(zipCheckpoint(STATE_DICT))).progress).toBeUndefined();
});
