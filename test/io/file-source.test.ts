import { execFileSync } from 'node:child_process';
import { chmodSync, closeSync, mkdirSync, openSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { explainFileError, type FileSource, openFileSource } from '../../src/io/file-source.js';
import { failureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';

const directory = makeTempDirectory();

function writeFile(name: string, bytes: Uint8Array): string {
  const path = join(directory, name);
  writeFileSync(path, bytes);
  return path;
}

describe('reading a file', () => {
  test('fills the target from the position on, and counts the bytes', async () => {
    const source = openFileSource(writeFile('six', Uint8Array.from([1, 2, 3, 4, 5, 6])));
    const target = new Uint8Array(4);
    await source.readInto(target, 1);
    expect([...target]).toEqual([2, 3, 4, 5]);
    expect(source.byteLength).toBe(6);
    expect(source.bytesRead).toBe(4);
    await source.close();
  });

  describe('in small pieces', () => {
    const KIB = 1024;
    const bytes = Uint8Array.from({ length: 100 * KIB }, (_, i) => (i * 7) % 251);
    const readAt = async (source: FileSource, position: number, length = 8) => {
      const target = new Uint8Array(length);
      await source.readInto(target, position);
      expect(Buffer.compare(target, bytes.subarray(position, position + length))).toBe(0);
    };

    test('reads what it is asked for, and no more', async () => {
      const source = openFileSource(writeFile('pieces', bytes));
      for (let i = 0; i < 100; i++)
        for (const place of [60, 90, 30]) await readAt(source, place * KIB + 8 * i);
      expect(source.bytesRead).toBe(3 * 100 * 8);
      await source.close();
    });

    test('reads every piece right, wherever it lies', async () => {
      const source = openFileSource(writeFile('pieces', bytes));
      await fc.assert(
        fc.asyncProperty(
          fc.nat({ max: bytes.length }),
          fc.nat({ max: 6 * KIB }),
          async (position, length) => {
            await readAt(source, position, Math.min(length, bytes.length - position));
          },
        ),
      );
      await source.close();
    });

    test('reads a piece although the file ends sooner behind it than it did', async () => {
      const path = writeFile('shrinking', bytes);
      const source = openFileSource(path);
      truncateSync(path, 10 * KIB);
      await readAt(source, 8 * KIB, 2 * KIB);
      await expect(readAt(source, 9 * KIB, 2 * KIB)).rejects.toThrow('it shrank while it was read');
      await source.close();
    });

    test('reads again what has changed since', async () => {
      const path = writeFile('changing', bytes);
      const source = openFileSource(path);
      await readAt(source, 0);
      writeFileSync(
        path,
        bytes.map((byte) => 255 - byte),
      );
      const target = new Uint8Array(1);
      await source.readInto(target, 1);
      expect(target[0]).toBe(255 - 7);
      await source.close();
    });

    test('keeps what small ones give where it is told to, and no more than there is room for', async () => {
      const source = openFileSource(writeFile('kept', bytes));
      source.keepSmallReads();
      for (const length of [8, 16, 12, 16]) await readAt(source, 5 * KIB, length);
      expect(source.bytesRead).toBe(8 + 16);
      for (let i = 0; i < 2; i++) await readAt(source, 0, 17 * KIB);
      expect(source.bytesRead).toBe(8 + 16 + 2 * 17 * KIB);
      for (let position = 6 * KIB; position < 90 * KIB; position++)
        await source.readInto(new Uint8Array(8), position);
      const before = source.bytesRead;
      await readAt(source, 89 * KIB);
      expect(source.bytesRead).toBe(before + 8);
      await source.close();
    });

    test('reads none after it was closed', async () => {
      const source = openFileSource(writeFile('pieces', bytes));
      await readAt(source, 0);
      await source.close();
      await expect(readAt(source, 0)).rejects.toThrow('was read after it was closed');
    });
  });

  test('reads pieces that go through the thread pool like small ones', async () => {
    const bytes = Uint8Array.from({ length: 200_000 }, (_, i) => (i * 7) % 251);
    const source = openFileSource(writeFile('large', bytes));
    const target = new Uint8Array(150_000);
    await source.readInto(target, 50_000);
    expect(Buffer.compare(target, bytes.subarray(50_000))).toBe(0);
    await source.close();
  });

  test('refuses a read over the end, and counts nothing', async () => {
    const path = writeFile('short', new Uint8Array(6));
    const source = openFileSource(path);
    expect(await failureOf(() => source.readInto(new Uint8Array(4), 3))).toEqual({
      message: 'expected 4 bytes, found the end of the file at byte 6',
      code: 'truncated',
      file: path,
      offset: 3,
    });
    expect(source.bytesRead).toBe(0);
    await source.close();
  });

  test.each([
    ['small', 100],
    ['large', 200_000],
  ])('says that the file shrank when its end is gone in a %s read', async (name, byteLength) => {
    const path = writeFile(`shrinking-${name}`, new Uint8Array(byteLength));
    const source = openFileSource(path);
    truncateSync(path, 40);
    expect(await failureOf(() => source.readInto(new Uint8Array(byteLength), 0))).toEqual({
      message: `expected ${byteLength} bytes, found the end of the file: it shrank while it was read`,
      code: 'truncated',
      file: path,
      offset: 40,
    });
    await source.close();
  });

  test('keeps the name that the user gave apart from the path', () => {
    const path = writeFile('real', new Uint8Array(1));
    const source = openFileSource('model/shard-1', path);
    expect([source.name, source.path]).toEqual(['model/shard-1', path]);
    return source.close();
  });

  test('fails after the source was closed, and may be closed twice', async () => {
    const path = writeFile('closed', new Uint8Array(8));
    const source = openFileSource(path);
    await source.close();
    await source.close();
    await expect(source.readInto(new Uint8Array(1), 0)).rejects.toThrow(
      `${path} was read after it was closed`,
    );
  });
});

describe('opening what is no regular file', () => {
  test('a missing file', async () => {
    const path = join(directory, 'missing');
    expect(await failureOf(() => openFileSource(path))).toEqual({
      message: 'no such file',
      code: 'not-found',
      file: path,
    });
  });

  test('a path that leads through a file', async () => {
    const path = join(writeFile('plain', new Uint8Array(1)), 'inside');
    expect(await failureOf(() => openFileSource(path))).toEqual({
      message: 'no such file: a part of its path is no directory',
      code: 'not-found',
      file: path,
    });
  });

  test('a directory', async () => {
    const path = join(directory, 'folder');
    mkdirSync(path);
    expect(await failureOf(() => openFileSource(path))).toEqual({
      message: 'expected a regular file, found a directory',
      code: 'not-a-file',
      file: path,
    });
  });

  test('a FIFO that nobody writes to, without waiting for a writer', async () => {
    const path = join(directory, 'fifo');
    execFileSync('mkfifo', [path]);
    expect(await failureOf(() => openFileSource(path))).toEqual({
      message: 'expected a regular file, found a FIFO (named pipe)',
      code: 'not-a-file',
      file: path,
    });
  });

  test('a device', async () => {
    expect(await failureOf(() => openFileSource('/dev/null'))).toEqual({
      message: 'expected a regular file, found a device',
      code: 'not-a-file',
      file: '/dev/null',
    });
  });

  test('a socket', async () => {
    const path = join(directory, 'socket');
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const failure = await failureOf(() => openFileSource(path));
    await new Promise((resolve) => server.close(resolve));
    expect(failure).toEqual({
      message: 'expected a regular file, found a socket or a pipe',
      code: 'not-a-file',
      file: path,
    });
  });

  test('a symbolic link that leads to itself', async () => {
    const path = join(directory, 'loop');
    symlinkSync(path, path);
    expect(await failureOf(() => openFileSource(path))).toEqual({
      message: 'its symbolic links lead in a circle',
      code: 'unreadable',
      file: path,
    });
  });

  test('a name that no file system takes', async () => {
    const path = join(directory, 'x'.repeat(5000));
    expect(await failureOf(() => openFileSource(path))).toEqual({
      message: 'no such file: the name is too long',
      code: 'not-found',
      file: path,
    });
  });

  // The superuser may read everything, so only others can see this one happen.
  test.runIf(process.getuid?.() !== 0)('a file without permission', async () => {
    const path = writeFile('secret', new Uint8Array(1));
    chmodSync(path, 0);
    expect(await failureOf(() => openFileSource(path))).toEqual({
      message: 'no permission to read it',
      code: 'unreadable',
      file: path,
    });
  });

  test('leaves no descriptor open behind a refusal', async () => {
    const first = nextDescriptor();
    for (let i = 0; i < 5; i++) await failureOf(() => openFileSource(directory));
    expect(nextDescriptor()).toBe(first);
  });
});

/** The number that the next opened file gets: the lowest that is free. */
function nextDescriptor(): number {
  const descriptor = openSync('/dev/null', 'r');
  closeSync(descriptor);
  return descriptor;
}

describe('explainFileError', () => {
  test.each([
    ['EACCES', 'no permission to read it', 'unreadable'],
    ['EMFILE', 'too many files are open', 'unreadable'],
    ['EIO', 'the disk or the network failed while it was read', 'unreadable'],
    ['EPERM', 'no permission to read it', 'unreadable'],
    ['EISDIR', 'expected a file, found a directory', 'not-a-file'],
    ['EBADMSG', 'the file system refused to read it (EBADMSG)', 'unreadable'],
  ])('puts %s in plain words', (code, message, expectedCode) => {
    const cause = Object.assign(new Error('raw'), { code });
    const error = explainFileError(cause, 'model.pt');
    expect([error.message, error.code, error.file, error.cause]).toEqual([
      message,
      expectedCode,
      'model.pt',
      cause,
    ]);
  });

  test('has words for what is no system error', () => {
    expect(explainFileError('odd', 'f').message).toBe('the file system refused to read it (unknown error)');
  });
});
