import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { describeFailure, openFileSource } from '../../src/io/file-source.js';
import { stageFiles, writeFile } from '../../src/io/write-files.js';
import { checkTarget } from '../../src/io/write-target.js';
import { failingFiles, systemError } from '../build/failing-files.js';
import { failureOf } from '../build/failure.js';
import { makeSubdirectory, makeTempDirectory } from '../build/sources.js';

const directory = makeTempDirectory();

/** Every code that this system has a number for, one that it has none for, and Node's own for a NUL in a name. */
const CODES = [...Object.keys(constants.errno), 'UNKNOWN', 'ERR_INVALID_ARG_VALUE'];

/** What opening, reading, listing and writing files is known to end with. */
const OF_FILES =
  'EACCES EAGAIN EBADF EBUSY EDQUOT EEXIST EFBIG EINTR EINVAL EIO EISDIR ELOOP EMFILE EMLINK ENAMETOOLONG ENFILE ENODEV ENOENT ENOLCK ENOMEM ENOSPC ENOSYS ENOTDIR ENOTEMPTY ENOTSUP ENXIO EOPNOTSUPP EOVERFLOW EPERM EPIPE EROFS ESTALE ETIMEDOUT ETXTBSY EWOULDBLOCK EXDEV EILSEQ ENOBUFS';

/** Holds every code against a check, and names those that fail it. */
async function checkEach(
  codes: readonly string[],
  check: (code: string) => void | Promise<void>,
): Promise<void> {
  const offences: string[] = [];
  for (const code of codes) {
    try {
      await check(code);
    } catch (error) {
      offences.push(`${code}: ${error}`);
    }
  }
  expect(offences).toEqual([]);
}

describe('every code', () => {
  test('of files has its sentences, and says what to do', () =>
    checkEach(OF_FILES.split(' '), (code) => {
      const { reading, writing, hint, writingHint } = describeFailure(systemError(code));
      expect(`${reading} ${writing}`).not.toContain(code);
      expect(writingHint ?? hint).toMatch(/^[A-Z].*\.$/);
    }));

  test('that nobody has thought of is named', () => {
    const { reading, writing, hint } = describeFailure(systemError('EUNHEARD'));
    expect([reading, writing]).toEqual([
      'the file system refused to read it (EUNHEARD)',
      'the file system refused (EUNHEARD)',
    ]);
    expect(hint).toBe('Try again, or use another file system.');
  });

  test('that is called like something that all objects have is named too', () => {
    expect(describeFailure(systemError('constructor')).reading).toContain('(constructor)');
  });
});

describe.each(['openSync', 'fstatSync', 'readSync', 'closeSync'] as const)(
  'reading where %s fails',
  (name) => {
    const path = join(directory, 'read');
    writeFileSync(path, new Uint8Array(10_000));

    test('says so in plain words, whatever the code', () =>
      checkEach(CODES, async (code) => {
        const failure = await failureOf(async () => {
          const source = openFileSource(path, path, failingFiles(name, code));
          await source.readInto(new Uint8Array(8_000), 0);
          await source.close();
        });
        expect(failure.message).toBe(describeFailure(systemError(code)).reading);
        expect(failure.file).toBe(path);
      }));
  },
);

describe.each([
  ['looking at the target', 'lstatSync'],
  ['looking through links', 'statSync'],
  ['asking for permission', 'accessSync'],
  ['resolving', 'realpathSync'],
  ['making directories', 'mkdirSync'],
  ['opening', 'openSync'],
  ['keeping permissions', 'fchmodSync'],
  ['writing', 'writev'],
  ['syncing', 'fsync'],
  ['closing', 'closeSync'],
  ['renaming', 'renameSync'],
] as const)('writing where %s fails', (_, name) => {
  // A look that finds nothing is an answer.
  const codes = name === 'lstatSync' ? CODES.filter((code) => !/^ENO(?:ENT|TDIR)$/.test(code)) : CODES;
  test('says so in plain words whatever the code, and keeps the last good file', () =>
    checkEach(codes, async (code) => {
      const place = makeSubdirectory(directory);
      const path = join(place, 'report');
      writeFileSync(path, 'the last good one');
      const failure = await failureOf(() =>
        writeFile(path, ['new'], {
          mayReplace: true,
          isDurable: name === 'fsync',
          within: place,
          files: failingFiles(name, code),
        }),
      );
      expect(failure.message).toBe(`it could not be written: ${describeFailure(systemError(code)).writing}`);
      expect(readdirSync(place)).toEqual(['report']);
      expect(readFileSync(path, 'utf8')).toBe('the last good one');
    }));
});

describe.each([
  ['cloning', 'copyFile'],
  ['keeping permissions', 'chmodSync'],
] as const)('copying where %s fails', (_, name) => {
  test('says so in plain words whatever the code, and leaves nothing', () =>
    checkEach(CODES, async (code) => {
      const place = makeSubdirectory(directory);
      writeFileSync(join(place, 'original'), 'bytes');
      const source = openFileSource(join(place, 'original'));
      const files = [{ source, name: 'copy', splices: [] }];
      const order = { directory: place, isNewDirectory: false, label: 'copy', files, mayReplace: true };
      const failure = await failureOf(() => stageFiles(order, { files: failingFiles(name, code) }));
      await source.close();
      expect(failure.message).toBe(`it could not be written: ${describeFailure(systemError(code)).writing}`);
      expect(readdirSync(place)).toEqual(['original']);
    }));
});

test('a link that fails is done without, or there is such a file', () =>
  checkEach(CODES, async (code) => {
    const place = makeSubdirectory(directory);
    const path = join(place, 'new');
    const write = () =>
      writeFile(path, ['new'], { mayReplace: false, files: failingFiles('linkSync', code) });
    if (code === 'EEXIST') {
      expect(await failureOf(write)).toMatchObject({ code: 'refused', file: path });
      expect(readdirSync(place)).toEqual([]);
    } else {
      await write();
      expect(readdirSync(place)).toEqual(['new']);
      expect(readFileSync(path, 'utf8')).toBe('new');
    }
  }));

test('a NUL in a name is said to be there, by whoever reads and whoever writes', async () => {
  const path = join(directory, 'a\0b');
  expect((await failureOf(() => openFileSource(path))).message).toBe(
    'no such file: the name holds a NUL character',
  );
  expect((await failureOf(() => checkTarget(path, { mayReplace: true }))).message).toBe(
    'it could not be written: its name holds a NUL character',
  );
});

test('half a character in a name is no reason to fail otherwise than any name', async () => {
  const place = join(directory, 'halves');
  mkdirSync(place);
  expect((await failureOf(() => openFileSource(join(place, '\ud800')))).message).toBe('no such file');
  await writeFile(join(place, '\udfff'), ['text'], { mayReplace: false });
  expect(readdirSync(place)).toHaveLength(1);
});
