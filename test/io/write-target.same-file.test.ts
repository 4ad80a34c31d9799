import { linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import { isSameFile } from '../../src/io/write-target.js';
import { restore } from '../../src/restore/restore.js';
import { failureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';

const directory = makeTempDirectory();
const at = (name: string) => join(directory, name);
writeFileSync(at('before.pt'), 'x');
writeFileSync(at('copy.pt'), 'x');
mkdirSync(at('model'));
linkSync(at('before.pt'), at('hard.pt'));
symlinkSync('before.pt', at('soft.pt'));
symlinkSync('soft.pt', at('twice.pt'));
symlinkSync('model', at('linked'));
symlinkSync('gone', at('dangling.pt'));

const WAYS = [
  ['the same path', at('before.pt')],
  ['another spelling', relative(process.cwd(), at('model/../before.pt'))],
  ['a hard link', at('hard.pt')],
  ['a symbolic link', at('soft.pt')],
  ['a link to a link', at('twice.pt')],
] as const;

test.each(WAYS)('%s leads to the same file', (_, path) => {
  expect(isSameFile(at('before.pt'), path)).toBe(true);
});

test('so do two ways to a directory', () => {
  expect(isSameFile(at('model'), at('linked'))).toBe(true);
});

test('a copy is another file, and what is not there is none', () => {
  expect(isSameFile(at('before.pt'), at('copy.pt'))).toBe(false);
  expect(isSameFile(at('gone'), at('gone'))).toBe(false);
  expect(isSameFile(at('dangling.pt'), at('dangling.pt'))).toBe(false);
});

test('a device is no file to be the same as', () => {
  expect(isSameFile('/dev/null', '/dev/null')).toBe(false);
});

test.each(WAYS)('an audit of before against itself, by %s, is refused', async (_, path) => {
  expect(await failureOf(() => audit(at('before.pt'), path))).toMatchObject({
    code: 'same-file',
    file: path,
    message: expect.stringContaining('found before itself'),
    hint: expect.stringContaining('bn-audit inspect'),
  });
});

test('so is a restoration', async () => {
  const failure = await failureOf(() => restore(at('before.pt'), at('hard.pt'), at('fixed.pt')));
  expect(failure.code).toBe('same-file');
});
