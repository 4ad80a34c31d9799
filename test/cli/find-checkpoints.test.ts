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

test('a name that is too long is left to whoever opens it', () => {
  const name = 'n'.repeat(300);
  expect(findCheckpoints(name, root)).toEqual([join(root, name)]);
});

test.each<readonly [glob: string, found: readonly string[]]>([
  ['epoch*.pt', ['epoch9.pt', 'epoch10.pt']],
  ['epoch?.*', ['epoch1.onnx', 'epoch9.pt']],
  ['epoch{9,10}.pt', ['epoch9.pt', 'epoch10.pt']],
  ['epoch[0-9].pt', ['epoch9.pt']],
  ['runs/*/last.pt', ['runs/a/last.pt', 'runs/b/last.pt']],
  ['./epoch{8..10}.pt', ['epoch9.pt', 'epoch10.pt']],
  ['runs/[!b]/*', ['runs/a/last.pt']],
  ['run \\(1\\)/*', ['run (1)/x.pt']],
  ['.h*', ['.hidden.pt']],
  ['runs/**/last.pt', ['runs/a/last.pt', 'runs/b/deep/last.pt', 'runs/b/last.pt']],
  ['run (1)/*.pt', ['run (1)/x.pt']],
  ['l*.pt', ['linked.pt']],
  ['{c,l}*.pt', ['linked.pt']],
  ['s*', ['shards']],
  ['loop/**', ['loop/a/last.pt', 'loop/b/deep/last.pt', 'loop/b/last.pt']],
  ['**/*last.pt', ['runs/a/last.pt', 'runs/b/deep/last.pt', 'runs/b/last.pt']],
])('%s means %j', (glob, found) => {
  expect(findCheckpoints(glob, root)).toEqual(found.map((path) => join(root, path)));
  expect(findCheckpoints(join(root, glob))).toEqual(found.map((path) => join(root, path)));
});

test('goes past what cannot be looked into, and tells of it, but not of a link that leads nowhere', () => {
  const skipped: string[][] = [];
  findCheckpoints('{b,c,l}*.pt', root, {
    onSkip: (path, code) => skipped.push([path, code]),
    entries: 0,
  });
  expect(skipped).toEqual([[join(root, 'circle.pt'), 'ELOOP']]);
});

test.skipIf(process.getuid?.() === 0)('looks into no directory in which nothing can match', () => {
  mkdirSync(join(root, 'sealed'), { mode: 0 });
  const listSkipped = (glob: string) => {
    const skipped: string[] = [];
    findCheckpoints(glob, root, { onSkip: (path) => skipped.push(path), entries: 0 });
    return skipped;
  };
  expect(listSkipped('r*/**/last.pt')).toEqual([]);
  expect(listSkipped('*/**/last.pt')).toEqual([join(root, 'sealed')]);
});

test('finds what lies a thousand directories down', () => {
  const path = join('far', ...Array.from({ length: 1000 }, () => 'd'), 'last.pt');
  mkdirSync(join(root, path, '..'), { recursive: true });
  writeFileSync(join(root, path), '');
  expect(findCheckpoints('far/**/*.pt', root)).toEqual([join(root, path)]);
});

test('counts what the globs of a run look at, all together', () => {
  const search = { onSkip: () => {}, entries: 0 };
  findCheckpoints('runs/*', root, search);
  const ofOne = search.entries;
  findCheckpoints('runs/*', root, search);
  expect(ofOne).toBeGreaterThan(0);
  expect(search.entries).toBe(2 * ofOne);
  search.entries = 200_000;
  expect(() => findCheckpoints('runs/*', root, search)).toThrow('more than 200000 files to look at');
});

test.each([
  ['', 'an empty text'],
  [`*${'a'.repeat(1024)}`, 'expected a glob of at most 1024 characters'],
])('%.9s is a usage error', (argument, message) => {
  expect(() => findCheckpoints(argument, root)).toThrow(message);
});

test.each([
  'epoch9.pt',
  'odd[1].pt',
  '!not.pt',
  'gone.pt',
  'gone*.pt',
  'gone/**',
  'empty',
  '.hidden.pt',
  '*hidden.pt',
  'epoch9.pt/*',
])('%s means itself: a file of that name, or one that opening will not find', (path) => {
  expect(findCheckpoints(path, root)).toEqual([join(root, path)]);
});
