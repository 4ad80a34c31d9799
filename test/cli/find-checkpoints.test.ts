import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { findCheckpoints } from '../../src/cli/find-checkpoints.js';
import { makeTempDirectory } from '../build/sources.js';

const root = makeTempDirectory();
const FILES = [
  'epoch9.pt',
  'epoch10.pt',
  'epoch1.onnx',
  '.hidden.pt',
  'runs/a/last.pt',
  'runs/b/last.pt',
  'runs/b/deep/last.pt',
  'run (1)/x.pt',
  'shards/model.safetensors',
  'odd[1].pt',
  '!not.pt',
];
for (const file of FILES) {
  mkdirSync(join(root, file, '..'), { recursive: true });
  writeFileSync(join(root, file), '');
}
mkdirSync(join(root, 'empty'));
symlinkSync('epoch9.pt', join(root, 'linked.pt'));
symlinkSync('nowhere', join(root, 'broken.pt'));
symlinkSync('runs', join(root, 'loop'));
symlinkSync('circle.pt', join(root, 'circle.pt'));

test('a name that is too long is left to whoever opens it', async () => {
  const name = 'n'.repeat(300);
  expect(await findCheckpoints(name, root)).toEqual([join(root, name)]);
});

test.each<readonly [glob: string, found: readonly string[]]>([
  ['epoch*.pt', ['epoch9.pt', 'epoch10.pt']],
  ['epoch?.*', ['epoch1.onnx', 'epoch9.pt']],
  ['epoch{9,10}.pt', ['epoch9.pt', 'epoch10.pt']],
  ['epoch[0-9].pt', ['epoch9.pt']],
  ['runs/*/last.pt', ['runs/a/last.pt', 'runs/b/last.pt']],
  ['runs/**/last.pt', ['runs/a/last.pt', 'runs/b/deep/last.pt', 'runs/b/last.pt']],
  ['run (1)/*.pt', ['run (1)/x.pt']],
  ['l*.pt', ['linked.pt']],
  ['{c,l}*.pt', ['linked.pt']],
  ['s*', ['shards']],
  ['loop/**', ['loop/a/last.pt', 'loop/b/deep/last.pt', 'loop/b/last.pt']],
  ['**/*last.pt', ['runs/a/last.pt', 'runs/b/deep/last.pt', 'runs/b/last.pt']],
])('%s means %j', async (glob, found) => {
  expect(await findCheckpoints(glob, root)).toEqual(found.map((path) => join(root, path)));
  expect(await findCheckpoints(join(root, glob))).toEqual(found.map((path) => join(root, path)));
});

test.each(['epoch9.pt', 'odd[1].pt', '!not.pt', 'gone.pt', 'gone*.pt', 'gone/**', 'empty', '.hidden.pt'])(
  '%s means itself: a file of that name, or one that opening will not find',
  async (path) => {
    expect(await findCheckpoints(path, root)).toEqual([join(root, path)]);
  },
);
