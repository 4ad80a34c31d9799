import * as nodeFs from 'node:fs';
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { writeFile } from '../../src/io/write-files.js';
import { checkTarget, isGitName } from '../../src/io/write-target.js';
import { failureOf } from '../build/failure.js';
import { makeSubdirectory, makeTempDirectory } from '../build/sources.js';

const directory = makeTempDirectory();

/** A checkout with a repository, another one of another name, a folder, and the ways of links out of and into them. */
function makeCheckout(): { readonly outside: string; readonly root: string } {
  const outside = makeSubdirectory(directory);
  const root = join(outside, 'checkout');
  for (const path of ['.git/hooks', '.git/worktrees/w', 'meta/objects', 'meta/hooks', 'folder'])
    mkdirSync(join(root, path), { recursive: true });
  for (const path of ['.git/config', 'meta/HEAD', 'folder/report']) writeFileSync(join(root, path), '');
  const links = { git: '.git', chain: 'git', hooks: '.git/hooks', up: '..', slash: '../checkout/.git/' };
  for (const [name, target] of Object.entries(links)) symlinkSync(target, join(root, name));
  symlinkSync('.git/config', join(root, 'file'));
  symlinkSync('.git/hooks/pre-push', join(root, 'new-file'));
  symlinkSync('folder/report', join(root, 'report'));
  symlinkSync('folder', join(root, 'inside'));
  return { outside, root };
}

describe('a file that must stay in its directory', () => {
  test.each([
    'git/index.lock',
    'chain/commondir',
    'hooks/post-checkout',
    'slash/refs',
    'up/stolen',
    'file',
    'new-file',
    'report',
    '.git/config',
    '.GIT/config',
    'git~1/config',
    '.git',
    'folder/.git/x',
    'meta/hooks/pre-push',
    'meta/new',
    'git/new/folder/report',
    'up/new/folder/report',
  ])('is refused where it leads out or into a repository: %s', async (path) => {
    const { outside, root } = makeCheckout();
    const list = () => readdirSync(outside, { recursive: true }).sort();
    const before = list();
    const rules = { what: 'the report', mayReplace: true, within: root };
    for (const action of [
      () => checkTarget(join(root, path), rules),
      () => writeFile(join(root, path), ['text'], rules),
    ])
      expect(await failureOf(action)).toMatchObject({
        code: 'refused',
        message: 'the report must stay in its directory and out of .git: this one leads elsewhere',
      });
    expect(list()).toEqual(before);
  });

  test.each([
    'plain',
    'folder/report',
    'folder/new',
    'inside/new',
    'new/er/est',
    '.github/report',
    'gitlike',
  ])('is written where it stays: %s', async (path) => {
    const { root } = makeCheckout();
    await writeFile(join(root, path), ['text'], { mayReplace: true, within: root });
    expect(nodeFs.readFileSync(join(root, path), 'utf8')).toBe('text');
  });

  test('may lie in a directory that a link leads to, as long as it stays there', () => {
    const { outside, root } = makeCheckout();
    const link = join(outside, 'link');
    symlinkSync(root, link);
    const rules = { mayReplace: true, within: link };
    expect(checkTarget(join(link, 'folder', 'report'), rules)).toEqual({
      path: nodeFs.realpathSync(join(root, 'folder', 'report')),
      found: 'file',
    });
  });

  test('does not follow a directory that becomes a link while it is written', async () => {
    const { root } = makeCheckout();
    function* makePieces() {
      yield 'text';
      renameSync(join(root, 'folder'), join(root, 'moved'));
      symlinkSync('.git/hooks', join(root, 'folder'));
    }
    const rules = { mayReplace: true, within: root };
    await failureOf(() => writeFile(join(root, 'folder', 'pre-push'), makePieces(), rules));
    expect(readdirSync(join(root, '.git', 'hooks'))).toEqual([]);
    expect(readdirSync(join(root, 'moved'))).not.toContain('pre-push');
  });

  test('leaves a hard link alone that has its name: only the name goes to it', async () => {
    const { root } = makeCheckout();
    linkSync(join(root, '.git', 'config'), join(root, 'hard'));
    await writeFile(join(root, 'hard'), ['text'], { mayReplace: true, within: root });
    expect(nodeFs.readFileSync(join(root, '.git', 'config'), 'utf8')).toBe('');
  });
});

describe('isGitName', () => {
  test.each([
    '.git',
    '.GIT',
    '.Git',
    '.git ',
    '.git.',
    '.git. .',
    'git~1',
    'GIT~12',
    '.g\u200cit',
    '.git::$INDEX_ALLOCATION',
    '\ufeff.git',
  ])('knows %j', (name) => expect(isGitName(name)).toBe(true));

  test.each(['git', '.github', '.gitignore', 'x.git', 'agit~1', '.git-report', ''])('lets %j be', (name) =>
    expect(isGitName(name)).toBe(false),
  );
});

describe('any file', () => {
  test.each([
    ['a directory', 'folder', 'it is a directory'],
    ['what would be one', 'new/', 'it is a directory'],
    ['a part of its path is a file', '.git/config/x', 'a part of its path is no directory'],
    ['its directory is a link that leads nowhere', 'new-file/x', 'its directory does not exist'],
    ['its name is too long', 'n'.repeat(256), 'its name is too long'],
    ['its links lead in a circle', 'loop', 'its symbolic links lead in a circle'],
    ['its directory’s links do', 'loop/x', 'its symbolic links lead in a circle'],
  ])('is refused before any work: %s', async (_, path, why) => {
    const { root } = makeCheckout();
    symlinkSync('loop', join(root, 'loop'));
    const failure = await failureOf(() => checkTarget(`${root}/${path}`, { mayReplace: true }));
    expect([failure.code, failure.message]).toEqual(['unwritable', `it could not be written: ${why}`]);
  });

  test('that must stay is refused before any work', async () => {
    const { root } = makeCheckout();
    const path = join(root, 'folder', 'report');
    expect(await failureOf(() => checkTarget(path, { mayReplace: false }))).toEqual({
      message: 'there is such a file already',
      code: 'refused',
      file: path,
      hint: 'To replace it: --force',
    });
  });

  test('whose directories would be made needs one that they can be made in', async () => {
    const { root } = makeCheckout();
    const rules = { mayReplace: true };
    checkTarget(join(root, 'a', 'b', 'c'), rules);
    expect(existsSync(join(root, 'a'))).toBe(false);
    const failure = await failureOf(() => checkTarget(join(root, 'folder', 'report', 'b', 'c'), rules));
    expect(failure.message).toBe('it could not be written: a part of its path is no directory');
  });
});
