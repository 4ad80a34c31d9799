import * as nodeFs from 'node:fs';
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { CheckpointError } from '../../src/errors.js';
import {
  type ByteRange,
  type ByteSource,
  holdBytes,
  memorySource,
  wholeOf,
} from '../../src/io/byte-source.js';
import { openFileSource } from '../../src/io/file-source.js';
import {
  type FileCopy,
  removeTemporaries,
  stageFiles,
  temporaryName,
  watchTemporaries,
  writeFile,
} from '../../src/io/write-files.js';
import type { WritableFiles } from '../../src/io/write-target.js';
import { failingFiles } from '../build/failing-files.js';
import { failureOf } from '../build/failure.js';
import { makeSubdirectory, makeTempDirectory } from '../build/sources.js';

const directory = makeTempDirectory();

/** Longer than what is written at a time. */
const ORIGINAL = Uint8Array.from({ length: 3_000_000 }, (_, at) => at % 251);

/** Stages a copy of the original in a directory of its own, without putting it in place. */
async function stage(
  splices: FileCopy['splices'],
  {
    mode = 0o644,
    place = makeSubdirectory(directory),
    files = nodeFs,
  }: { mode?: number; place?: string; files?: WritableFiles } = {},
) {
  const path = join(place, 'original');
  writeFileSync(path, ORIGINAL);
  chmodSync(path, mode);
  const source = openFileSource(path);
  const order = {
    directory: place,
    isNewDirectory: false,
    label: 'f',
    files: [{ source, name: 'f', splices }],
    mayReplace: false,
  };
  try {
    return { place, staged: await stageFiles(order, { files }), names: () => readdirSync(place).sort() };
  } finally {
    await source.close();
  }
}

/** A file system that tells of every write, and lets each take only so many bytes, where that is said. */
function watchWrites(
  countTaken: (pieces: readonly Uint8Array[]) => number = () => Number.POSITIVE_INFINITY,
): { readonly sizes: number[]; readonly files: WritableFiles } {
  const sizes: number[] = [];
  const write = async (descriptor: number, pieces: readonly Uint8Array[], position?: number) => {
    sizes.push(pieces.reduce((sum, { byteLength }) => sum + byteLength, 0));
    let left = countTaken(pieces);
    const taken = pieces.flatMap((piece) => {
      const part = piece.subarray(0, Math.min(left, piece.byteLength));
      left -= part.byteLength;
      return part.byteLength === 0 ? [] : part;
    });
    return promisify(nodeFs.writev)(descriptor, taken, position);
  };
  return { sizes, files: { ...nodeFs, writev: Object.assign(fail, { [promisify.custom]: write }) as never } };
}

const fail = () => {
  throw new Error('is called as a promise');
};

const filled = (byteLength: number, value: number) => holdBytes(new Uint8Array(byteLength).fill(value));

/** The original with pieces replaced: the plain way. */
function splice(splices: readonly { offset: number; deleted: number; content: ByteRange; value: number }[]) {
  const parts: Uint8Array[] = [];
  let kept = 0;
  for (const { offset, deleted, content, value } of splices) {
    parts.push(ORIGINAL.subarray(kept, offset), new Uint8Array(content.byteLength).fill(value));
    kept = offset + deleted;
  }
  return Buffer.concat([...parts, ORIGINAL.subarray(kept)]);
}

describe('a copy of a file of a server', () => {
  const order = (source: ByteSource) => {
    const place = makeSubdirectory(directory);
    const splices = [{ offset: 2, deleted: 1, content: wholeOf(memorySource('new', Uint8Array.of(7))) }];
    const files = [{ source, name: 'f', splices }];
    return { directory: place, isNewDirectory: false, label: 'f', files, mayReplace: false };
  };

  test('is what was fetched, with the permissions of a new file', async () => {
    const source = { ...memorySource('hf:a/b', Uint8Array.of(1, 2, 3)), remotePath: 'a.pt' };
    const written = order(source);
    await (await stageFiles(written)).commit();
    const path = join(written.directory, 'f');
    expect([...readFileSync(path)]).toEqual([1, 2, 7]);
    expect(statSync(path).mode & 0o777).toBe(0o666 & ~process.umask());
  });

  const failure = new CheckpointError('the connection failed', { code: 'unreadable', file: 'hf:a/b' });
  /** A source whose server gives no more after so many bytes. */
  const breakingAfter = (byteLength: number) => ({
    ...memorySource('hf:a/b', ORIGINAL),
    remotePath: 'a.pt',
    readInto: async (_: Uint8Array, position: number) => {
      if (position > byteLength) throw failure;
    },
  });

  test('is gone where the connection breaks off', async () => {
    const written = order(breakingAfter(2_000_000));
    await expect(stageFiles(written)).rejects.toBe(failure);
    expect(readdirSync(written.directory)).toEqual([]);
  });

  test('is closed only when no write is on its way: its number may be that of another file then', async () => {
    const events: string[] = [];
    const write = async (_: number, pieces: readonly Uint8Array[]) => {
      await setTimeout(20);
      events.push('written');
      return { bytesWritten: pieces.reduce((sum, { byteLength }) => sum + byteLength, 0), buffers: pieces };
    };
    const closeSync = (descriptor: number) => {
      events.push('closed');
      nodeFs.closeSync(descriptor);
    };
    const writev = Object.assign(fail, { [promisify.custom]: write }) as never;
    const files = { ...nodeFs, writev, closeSync };
    await expect(stageFiles(order(breakingAfter(1_000_000)), { files })).rejects.toBe(failure);
    expect(events).toEqual(['written', 'closed']);
  });
});

describe('a copy', () => {
  test.each([
    ['that stays as it is', []],
    ['with a few bytes replaced', [{ offset: 7, deleted: 5, content: filled(5, 255), value: 255 }]],
    [
      'with most bytes replaced',
      [
        { offset: 1, deleted: 1_500_000, content: filled(1_500_000, 252), value: 252 },
        { offset: 1_500_001, deleted: 1_400_000, content: filled(1_400_000, 253), value: 253 },
      ],
    ],
    [
      'that grows here and shrinks there',
      [
        { offset: 0, deleted: 0, content: filled(2_000_000, 254), value: 254 },
        { offset: 10, deleted: 1_200_000, content: filled(1, 255), value: 255 },
        { offset: 3_000_000, deleted: 0, content: filled(3, 252), value: 252 },
      ],
    ],
  ])('%s holds what was said, and appears at once', async (_, splices) => {
    const { place, staged, names } = await stage(splices);
    expect(names()).toHaveLength(2);
    expect(names()).not.toContain('f');
    await staged.sync();
    await staged.commit();
    expect(names()).toEqual(['f', 'original']);
    expect(readFileSync(join(place, 'f')).equals(splice(splices))).toBe(true);
    expect(readFileSync(join(place, 'original')).equals(ORIGINAL)).toBe(true);
  });

  test.each([
    ['cloned', []],
    ['assembled', [{ offset: 0, deleted: 3_000_000, content: filled(3_000_000, 1) }]],
  ])('%s has the permissions of its original, and can be written', async (_, splices) => {
    const { place, staged } = await stage(splices, { mode: 0o440 });
    await staged.commit();
    expect(statSync(join(place, 'f')).mode & 0o777).toBe(0o640);
  });

  test.each([
    ['cloned', 1000, false],
    ['assembled', 2_500_000, true],
  ])('%s is read into the halves of one buffer', async (_, byteLength, isAlternating) => {
    const place = makeSubdirectory(directory);
    writeFileSync(join(place, 'original'), ORIGINAL);
    const original = openFileSource(join(place, 'original'));
    const filled = new Set<ArrayBufferLike>();
    const places = new Set<number>();
    const source = {
      ...memorySource('computed', new Uint8Array(byteLength)),
      async readInto(target: Uint8Array) {
        filled.add(target.buffer);
        places.add(target.byteOffset);
        target.fill(7);
      },
    };
    const splices = [{ offset: 0, deleted: byteLength, content: { source, offset: 0, byteLength } }];
    const files = [{ source: original, name: 'f', splices }];
    const order = { directory: place, isNewDirectory: false, label: 'f', files, mayReplace: false };
    const staged = await stageFiles(order);
    await staged.commit();
    await original.close();
    expect(filled.size).toBe(1);
    const [buffer] = filled;
    // While one half is written, the other is filled.
    expect([...places]).toEqual(isAlternating ? [0, (buffer?.byteLength ?? 0) / 2] : [0]);
    const written = readFileSync(join(place, 'f'));
    expect(written.subarray(0, byteLength).every((byte) => byte === 7)).toBe(true);
    expect(written.subarray(byteLength).equals(ORIGINAL.subarray(byteLength))).toBe(true);
  });

  test('with thousands of bytes replaced, here and there, takes few writes, and aligned reads', async () => {
    const { sizes, files } = watchWrites();
    const offsets = new Set<number>();
    const splices = Array.from({ length: 5000 }, (_, at) => {
      const content = filled(2, 255);
      const readInto = async (target: Uint8Array, position: number) => {
        offsets.add(target.byteOffset % 64);
        await content.source.readInto(target, position);
      };
      return {
        offset: 500 * at,
        deleted: 1,
        content: { ...content, source: { ...content.source, readInto } },
        value: 255,
      };
    });
    const { place, staged } = await stage(splices, { files });
    await staged.commit();
    const expected = splice(splices);
    expect(readFileSync(join(place, 'f')).equals(expected)).toBe(true);
    expect(sizes.length).toBeLessThanOrEqual(4);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(expected.byteLength);
    expect([...offsets]).toEqual([0]);
  });

  test('goes on where a write took a part only: of a piece, or of several', async () => {
    const takes = [1, 0.5, 0.9, 0.01];
    let calls = 0;
    const { files } = watchWrites((pieces) => {
      const total = pieces.reduce((sum, { byteLength }) => sum + byteLength, 0);
      return Math.ceil(total * (takes[calls++ % takes.length] ?? 1));
    });
    const splices = Array.from({ length: 60 }, (_, at) => {
      const value = 252 + (at % 4);
      return { offset: 50_000 * at, deleted: 1, content: filled(40_000, value), value };
    });
    const { place, staged } = await stage(splices, { files });
    await staged.commit();
    expect(calls).toBeGreaterThan(takes.length);
    expect(readFileSync(join(place, 'f')).equals(splice(splices))).toBe(true);
  });

  test('that cannot be written while more is read leaves nothing', async () => {
    const { files } = watchWrites(() => {
      throw Object.assign(new Error('no space left'), { code: 'ENOSPC' });
    });
    const bytes = filled(2_500_000, 1);
    const readInto = async (target: Uint8Array, position: number) => {
      await setTimeout(20);
      await bytes.source.readInto(target, position);
    };
    const content = { ...bytes, source: { ...bytes.source, readInto } };
    const place = makeSubdirectory(directory);
    const failure = await failureOf(() =>
      stage([{ offset: 0, deleted: 2_500_000, content }], { place, files }),
    );
    expect(failure).toMatchObject({ code: 'unwritable' });
    expect(failure.message).toContain('the disk is full');
    expect(readdirSync(place)).toEqual(['original']);
  });

  test.each([1, 73, 100, 143, 237, 255])('has no longer name for a while than one of %d bytes', (length) => {
    const name = 'n'.repeat(length);
    expect(temporaryName(name).length).toBeLessThanOrEqual(Math.max(length, 100));
    expect(temporaryName('ä'.repeat(length))).toMatch(/^\.ä+\.bn-audit-[0-9a-f]{12}\.tmp$/);
  });

  test('that is discarded leaves nothing', async () => {
    const { staged, names } = await stage([]);
    staged.discard();
    expect(names()).toEqual(['original']);
  });

  test('whose content cannot be read leaves nothing', async () => {
    const bytes = filled(2_500_000, 1);
    const content: ByteRange = {
      ...bytes,
      source: {
        ...bytes.source,
        async readInto(target, position) {
          if (position > 0) throw new CheckpointError('gone', { code: 'unsupported', file: 'm' });
          await bytes.source.readInto(target, position);
        },
      },
    };
    const place = makeSubdirectory(directory);
    const failure = await failureOf(() => stage([{ offset: 0, deleted: 2_500_000, content }], { place }));
    expect(failure.message).toBe('gone');
    expect(readdirSync(place)).toEqual(['original']);
  });
});

test('where a later file cannot be moved, those already in place are named', async () => {
  const place = makeSubdirectory(directory);
  const path = join(place, 'original');
  writeFileSync(path, ORIGINAL);
  const source = openFileSource(path);
  const files = ['one', 'two'].map((name) => ({ source, name, splices: [] }));
  const order = { directory: place, isNewDirectory: false, label: 'set', files, mayReplace: true };
  const staged = await stageFiles(order);
  // Comes into being between the check of the target and the move.
  mkdirSync(join(place, 'two', 'full'), { recursive: true });
  const failure = await failureOf(() => staged.commit());
  staged.discard();
  await source.close();
  expect(failure).toMatchObject({ code: 'unwritable', file: join(place, 'two') });
  expect(failure.hint).toBe(`Already in place: "${join(place, 'one')}".`);
});

describe('a new file', () => {
  const replacing = { mayReplace: true };
  const keeping = { mayReplace: false };

  test('is written from pieces that come one after the other, text and bytes', async () => {
    const place = makeSubdirectory(directory);
    const path = join(place, 'f');
    let made = 0;
    async function* makePieces() {
      for (; made < 5; made++) {
        expect(readdirSync(place).every((name) => name.endsWith('.tmp'))).toBe(true);
        yield made === 3 ? new Uint8Array(1_500_000).fill(51) : `${made}`.repeat(100_000);
      }
    }
    await writeFile(path, makePieces(), keeping);
    const expected = ['0', '1', '2', '3', '4'].map((digit) =>
      digit.repeat(digit === '3' ? 1_500_000 : 100_000),
    );
    expect(readFileSync(path, 'utf8') === expected.join('')).toBe(true);
    expect(readdirSync(place)).toEqual(['f']);
  });

  test('may have a character whose halves come in two pieces', async () => {
    const path = join(makeSubdirectory(directory), 'f');
    const text = `${'a'.repeat(70_000)}😀${'b'.repeat(70_000)}`;
    await writeFile(path, [text.slice(0, 70_001), text.slice(70_001)], keeping);
    expect(readFileSync(path, 'utf8') === text).toBe(true);
  });

  test('is written in few calls where its pieces are short', async () => {
    const { sizes, files } = watchWrites();
    const path = join(makeSubdirectory(directory), 'f');
    await writeFile(
      path,
      Array.from({ length: 200_000 }, () => 'x'),
      { ...keeping, files },
    );
    expect([sizes.length, readFileSync(path).byteLength]).toEqual([4, 200_000]);
  });

  test.each([0o600, 0o640, 0o664, 0o755])('keeps the permissions %o of what it replaces', async (mode) => {
    const path = join(makeSubdirectory(directory), 'f');
    writeFileSync(path, 'old');
    chmodSync(path, mode);
    await writeFile(path, ['new'], replacing);
    expect([statSync(path).mode & 0o777, readFileSync(path, 'utf8')]).toEqual([mode, 'new']);
  });

  test.runIf(process.getuid?.() === 0)('keeps the owner of what it replaces', async () => {
    const path = join(makeSubdirectory(directory), 'f');
    writeFileSync(path, 'old');
    nodeFs.chownSync(path, 65534, 65534);
    await writeFile(path, ['new'], replacing);
    expect([statSync(path).uid, statSync(path).gid]).toEqual([65534, 65534]);
  });

  test('replaces no file that appears while it is made, and says so', async () => {
    const place = makeSubdirectory(directory);
    const path = join(place, 'f');
    function* makePieces() {
      yield 'new';
      writeFileSync(path, 'precious');
    }
    expect(await failureOf(() => writeFile(path, makePieces(), keeping))).toEqual({
      message: 'a file appeared there while this one was made: it was left as it is',
      code: 'refused',
      file: path,
      hint: 'Move it away, or name another file.',
    });
    expect([readdirSync(place), readFileSync(path, 'utf8')]).toEqual([['f'], 'precious']);
    await writeFile(path, ['new'], replacing);
    expect(readFileSync(path, 'utf8')).toBe('new');
  });

  test.each(['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EXDEV', 'EMLINK'])(
    'replaces none either where there are no hard links (%s)',
    async (code) => {
      const place = makeSubdirectory(directory);
      const path = join(place, 'f');
      const files = failingFiles('linkSync', code);
      function* makePieces() {
        yield 'new';
        writeFileSync(path, 'precious');
      }
      expect(await failureOf(() => writeFile(path, makePieces(), { ...keeping, files }))).toMatchObject({
        code: 'refused',
      });
      expect([readdirSync(place), readFileSync(path, 'utf8')]).toEqual([['f'], 'precious']);
    },
  );

  test('leaves no empty file where it can neither be linked nor renamed', async () => {
    const place = makeSubdirectory(directory);
    const files = {
      ...failingFiles('linkSync', 'EPERM'),
      renameSync: failingFiles('renameSync', 'EIO').renameSync,
    };
    const failure = await failureOf(() => writeFile(join(place, 'f'), ['new'], { ...keeping, files }));
    expect(failure.message).toContain('the disk or the network failed');
    expect(readdirSync(place)).toEqual([]);
  });

  test('goes through a symbolic link, which stays, also to where nothing is yet', async () => {
    const place = makeSubdirectory(directory);
    nodeFs.symlinkSync('real', join(place, 'link'));
    for (const text of ['one', 'two']) {
      await writeFile(join(place, 'link'), [text], replacing);
      expect(readFileSync(join(place, 'real'), 'utf8')).toBe(text);
      expect(nodeFs.readlinkSync(join(place, 'link'))).toBe('real');
    }
  });

  test('is not staged beside a device: that takes the bytes', async () => {
    await writeFile('/dev/null', ['text'], replacing);
    expect(statSync('/dev/null').isCharacterDevice()).toBe(true);
    const failure = await failureOf(() => writeFile('/dev/full', ['text'], replacing));
    expect(failure.message).toBe('it could not be written: the disk is full');
  });

  test('appends to a file that is open already, whatever was written there before', async () => {
    const path = join(makeSubdirectory(directory), 'f');
    const descriptor = nodeFs.openSync(path, 'w');
    nodeFs.writeSync(descriptor, 'head ');
    await writeFile(`/proc/self/fd/${descriptor}`, ['body'], replacing);
    nodeFs.closeSync(descriptor);
    expect(readFileSync(path, 'utf8')).toBe('head body');
  });

  test('makes the directories that are missing', async () => {
    const path = join(makeSubdirectory(directory), 'some', 'where', 'f');
    await writeFile(path, ['text'], keeping);
    expect(readFileSync(path, 'utf8')).toBe('text');
  });

  test('takes the directories that it made away again where it fails, and no others', async () => {
    const place = makeSubdirectory(directory);
    function* fail() {
      yield 'text';
      throw new Error('it fails');
    }
    await expect(writeFile(join(place, 'some', 'where', 'f'), fail(), keeping)).rejects.toThrow('it fails');
    expect(readdirSync(place)).toEqual([]);
  });
});

describe('temporary files', () => {
  test('are known from before they are made until they are gone, and can be removed at any time', async () => {
    const place = makeSubdirectory(directory);
    const told: boolean[] = [];
    watchTemporaries((areAny) => told.push(areAny));
    function* makePieces() {
      expect([told, readdirSync(place).length]).toEqual([[true], 1]);
      yield 'text';
      removeTemporaries();
      expect(readdirSync(place)).toEqual([]);
    }
    const failure = await failureOf(() => writeFile(join(place, 'f'), makePieces(), { mayReplace: true }));
    watchTemporaries(() => {});
    expect(failure.code).toBe('unwritable');
    expect(told).toEqual([true, false]);
  });

  test('of several writes are all removed, directories as well', async () => {
    const place = makeSubdirectory(directory);
    const { staged } = await stage([], { place });
    const source = openFileSource(join(place, 'original'));
    const files = ['one', 'deep/two'].map((name) => ({ source, name, splices: [] }));
    const order = { directory: place, isNewDirectory: false, label: 'set', files, mayReplace: false };
    const set = await stageFiles(order);
    expect(readdirSync(place)).toHaveLength(3);
    removeTemporaries();
    expect(readdirSync(place)).toEqual(['original']);
    for (const each of [staged, set]) each.discard();
    await source.close();
  });
});

test('a new directory takes the place of none that appeared with files in it', async () => {
  const place = makeSubdirectory(directory);
  writeFileSync(join(place, 'original'), ORIGINAL);
  const source = openFileSource(join(place, 'original'));
  const target = join(place, 'model');
  const files = [{ source, name: 'weights', splices: [] }];
  const order = { directory: target, isNewDirectory: true, label: 'model', files, mayReplace: false };
  const staged = await stageFiles(order);
  mkdirSync(target);
  writeFileSync(join(target, 'mine'), '');
  const failure = await failureOf(() => staged.commit());
  staged.discard();
  await source.close();
  expect(failure).toMatchObject({ code: 'refused', file: target });
  expect(readdirSync(place).sort()).toEqual(['model', 'original']);
  expect(readdirSync(target)).toEqual(['mine']);
});
