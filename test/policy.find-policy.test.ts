import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { POLICY_FILE_NAME } from '../src/options.js';
import { findPolicyFile, MAX_POLICY_BYTES, readPolicyFile } from '../src/policy.js';
import { failureOf } from './build/failure.js';
import { makeTempDirectory } from './build/sources.js';

const root = makeTempDirectory();
const makeDirectory = (...names: readonly string[]) => {
  const path = join(root, ...names);
  mkdirSync(path, { recursive: true });
  return path;
};
const writePolicy = (directory: string, text = '{}') => {
  const path = join(directory, POLICY_FILE_NAME);
  writeFileSync(path, text);
  return path;
};

test('a policy holds for its own directory and for those below it', () => {
  const path = writePolicy(makeDirectory('near'));
  expect(findPolicyFile(makeDirectory('near'))).toBe(path);
  expect(findPolicyFile(makeDirectory('near', 'a', 'b'))).toBe(path);
});

test('a directory that cannot be looked into may hold one: it is not passed over', async () => {
  const circle = join(root, 'circle');
  symlinkSync('circle', circle);
  expect(await failureOf(() => findPolicyFile(circle))).toEqual({
    message: 'looking for a policy: its symbolic links lead in a circle',
    code: 'unreadable',
    file: join(circle, POLICY_FILE_NAME),
    hint: 'Name the policy with --config FILE, or go without one: --no-config',
  });
});

test('the nearest policy wins', () => {
  writePolicy(makeDirectory('two'));
  const inner = writePolicy(makeDirectory('two', 'inner'));
  expect(findPolicyFile(makeDirectory('two', 'inner', 'deep'))).toBe(inner);
});

test('the root of a repository is looked at, and nothing above it', () => {
  writePolicy(makeDirectory('outer'));
  const repository = makeDirectory('outer', 'repository');
  makeDirectory('outer', 'repository', '.git');
  expect(findPolicyFile(makeDirectory('outer', 'repository', 'src'))).toBeNull();
  const own = writePolicy(repository);
  expect(findPolicyFile(makeDirectory('outer', 'repository', 'src'))).toBe(own);
});

test('a worktree, whose .git is a file, is a repository too', () => {
  writePolicy(makeDirectory('trees'));
  const worktree = makeDirectory('trees', 'worktree');
  writeFileSync(join(worktree, '.git'), 'gitdir: elsewhere');
  expect(findPolicyFile(worktree)).toBeNull();
});

test('a link that leads nowhere is found, and its reading fails: it is no silent pass', async () => {
  const directory = makeDirectory('broken-link');
  symlinkSync('nowhere.json', join(directory, POLICY_FILE_NAME));
  const path = findPolicyFile(directory) ?? '';
  expect(await failureOf(() => readPolicyFile(path))).toMatchObject({ code: 'not-found' });
});

test('a directory of that name is no policy', async () => {
  const directory = makeDirectory('odd', POLICY_FILE_NAME);
  expect(await failureOf(() => readPolicyFile(directory, 'p.json'))).toMatchObject({
    code: 'not-a-file',
    file: 'p.json',
  });
});

test('a policy beyond the limit is not read', async () => {
  const path = writePolicy(makeDirectory('large'), ' '.repeat(MAX_POLICY_BYTES + 1));
  expect(await failureOf(() => readPolicyFile(path, 'p.json'))).toMatchObject({
    code: 'limit-exceeded',
    message: `expected a policy of at most ${MAX_POLICY_BYTES} bytes, found ${MAX_POLICY_BYTES + 1}`,
  });
});

test('a policy at the limit is read', async () => {
  const path = writePolicy(makeDirectory('at-limit'), '{}'.padEnd(MAX_POLICY_BYTES));
  expect(await readPolicyFile(path)).toEqual({ pairs: new Map(), runs: new Map(), reports: [] });
});
