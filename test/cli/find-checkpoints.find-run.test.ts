import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { findRun } from '../../src/cli/find-checkpoints.js';
import { makeTempDirectory } from '../build/sources.js';

/** What a directory with these files means as a run, from that directory. */
function findIn(files: readonly string[], argument = 'run'): readonly string[] {
  const root = makeTempDirectory();
  for (const file of files) {
    mkdirSync(join(root, file, '..'), { recursive: true });
    writeFileSync(join(root, file), '');
  }
  const found = findRun(argument, root, { onSkip: () => {}, entries: 0 });
  return found.map((path) => path.slice(root.length + 1));
}

test('a directory means its checkpoints in natural order, and those below it', () => {
  const files = [
    'run/epoch_10.pth',
    'run/epoch_2.pth',
    'run/weights/last.pt',
    'run/events.log',
    'run/a.yaml',
  ];
  expect(findIn(files)).toEqual(['run/epoch_2.pth', 'run/epoch_10.pth', 'run/weights/last.pt']);
});

test('what lies beside a model and is none is left out', () => {
  expect(findIn(['run/model.ckpt', 'run/optimizer.pt', 'run/scheduler.pt', 'run/rng_state.pth'])).toEqual([
    'run/model.ckpt',
  ]);
});

test('a directory that opens as a checkpoint is one, and its files are none', () => {
  const files = [500, 1000].flatMap((step) =>
    ['model.safetensors', 'optimizer.pt', 'training_args.bin', 'other.bin'].map(
      (name) => `run/checkpoint-${step}/${name}`,
    ),
  );
  expect(findIn(files)).toEqual(['run/checkpoint-500', 'run/checkpoint-1000']);
  expect(findIn([...files, 'run/model.safetensors'])).toEqual([
    'run',
    'run/checkpoint-500',
    'run/checkpoint-1000',
  ]);
});

test('a SavedModel is one checkpoint, not its variables too', () => {
  const files = ['run/export/saved_model.pb', 'run/export/variables/variables.index'];
  expect(findIn(files)).toEqual(['run/export']);
});

test('a directory without any is left to whoever opens it', () => {
  expect(findIn(['run/notes.txt'])).toEqual(['run']);
});

test('a glob over directories means what each holds', () => {
  expect(findIn(['run/a/x.pt', 'run/b/model.safetensors', 'run/c/y.pt'], 'run/{a,b}*')).toEqual(['run/b']);
  expect(findIn(['run/a/x.pt', 'run/b/y.pt'], 'run/*/*')).toEqual(['run/a/x.pt', 'run/b/y.pt']);
});
