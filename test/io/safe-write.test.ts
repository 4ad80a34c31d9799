import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { CheckpointError } from '../../src/errors.js';
import { type ByteRange, holdBytes, memorySource } from '../../src/io/byte-source.js';
import { openFileSource } from '../../src/io/file-source.js';
import { type FileCopy, stageFiles, temporaryName } from '../../src/io/safe-write.js';
import { failureOf } from '../build/failure.js';
import { makeSubdirectory, makeTempDirectory } from '../build/sources.js';

const directory = makeTempDirectory();

/** Longer than what is written at a time. */
const ORIGINAL = Uint8Array.from({ length: 3_000_000 }, (_, at) => at % 251);

/** Stages a copy of the original in a directory of its own, without putting it in place. */
async function stage(
  splices: FileCopy['splices'],
  { mode = 0o644, place = makeSubdirectory(directory) } = {},
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
  };
  try {
    return { place, staged: await stageFiles(order), names: () => readdirSync(place).sort() };
  } finally {
    await source.close();
  }
}

/** Watches what is written to files, and lets each write take only so many bytes, where that is said. */
async function spyOnWrites(
  countTaken: (pieces: readonly Uint8Array[]) => number = () => Number.POSITIVE_INFINITY,
) {
  const path = join(makeSubdirectory(directory), 'any');
  const handle = await open(path, 'w');
  const prototype: FileHandle = Object.getPrototypeOf(handle);
  await handle.close();
  const { writev } = prototype;
  const spy = vi.spyOn(prototype, 'writev').mockImplementation(function (this: FileHandle, pieces, position) {
    const bytes = pieces.filter((piece) => piece instanceof Uint8Array);
    let left = countTaken(bytes);
    const taken = bytes.flatMap((piece) => {
      const part = piece.subarray(0, Math.min(left, piece.byteLength));
      left -= part.byteLength;
      return part.byteLength === 0 ? [] : part;
    });
    return writev.call(this, taken, position);
  });
  onTestFinished(() => spy.mockRestore());
  return spy;
}

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
  ])('%s is read into the memory that it is told to use', async (_, byteLength, isAlternating) => {
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
    const memory: ArrayBufferLike[] = [];
    const allocate = (bytes: number) => {
      const allocated = new Uint8Array(bytes);
      memory.push(allocated.buffer);
      return allocated;
    };
    const splices = [{ offset: 0, deleted: byteLength, content: { source, offset: 0, byteLength } }];
    const files = [{ source: original, name: 'f', splices }];
    const staged = await stageFiles(
      { directory: place, isNewDirectory: false, label: 'f', files },
      { allocate },
    );
    await staged.commit();
    await original.close();
    expect([...filled]).toEqual(memory);
    // While one half is written, the other is filled.
    expect([...places]).toEqual(isAlternating ? [0, (memory[0]?.byteLength ?? 0) / 2] : [0]);
    const written = readFileSync(join(place, 'f'));
    expect(written.subarray(0, byteLength).every((byte) => byte === 7)).toBe(true);
    expect(written.subarray(byteLength).equals(ORIGINAL.subarray(byteLength))).toBe(true);
  });

  test('with thousands of bytes replaced, here and there, takes few writes, and aligned reads', async () => {
    const writes = await spyOnWrites();
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
    const { place, staged } = await stage(splices);
    await staged.commit();
    const expected = splice(splices);
    expect(readFileSync(join(place, 'f')).equals(expected)).toBe(true);
    const sizes = writes.mock.calls.map(([pieces]) =>
      pieces.reduce((sum, piece) => sum + piece.byteLength, 0),
    );
    expect(sizes.length).toBeLessThanOrEqual(4);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(expected.byteLength);
    expect([...offsets]).toEqual([0]);
  });

  test('goes on where a write took a part only: of a piece, or of several', async () => {
    const takes = [1, 0.5, 0.9, 0.01];
    let calls = 0;
    await spyOnWrites((pieces) => {
      const total = pieces.reduce((sum, { byteLength }) => sum + byteLength, 0);
      return Math.ceil(total * (takes[calls++ % takes.length] ?? 1));
    });
    const splices = Array.from({ length: 60 }, (_, at) => {
      const value = 252 + (at % 4);
      return { offset: 50_000 * at, deleted: 1, content: filled(40_000, value), value };
    });
    const { place, staged } = await stage(splices);
    await staged.commit();
    expect(calls).toBeGreaterThan(takes.length);
    expect(readFileSync(join(place, 'f')).equals(splice(splices))).toBe(true);
  });

  test('that cannot be written while more is read leaves nothing', async () => {
    await spyOnWrites(() => {
      throw Object.assign(new Error('no space left'), { code: 'ENOSPC' });
    });
    const bytes = filled(2_500_000, 1);
    const readInto = async (target: Uint8Array, position: number) => {
      await setTimeout(20);
      await bytes.source.readInto(target, position);
    };
    const content = { ...bytes, source: { ...bytes.source, readInto } };
    const place = makeSubdirectory(directory);
    const failure = await failureOf(() => stage([{ offset: 0, deleted: 2_500_000, content }], { place }));
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
    await staged.discard();
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
  const staged = await stageFiles({ directory: place, isNewDirectory: false, label: 'set', files });
  // Comes into being between the check of the target and the move.
  mkdirSync(join(place, 'two', 'full'), { recursive: true });
  const failure = await failureOf(() => staged.commit());
  await staged.discard();
  await source.close();
  expect(failure).toMatchObject({ code: 'unwritable', file: join(place, 'two') });
  expect(failure.hint).toBe(`Already in place: "${join(place, 'one')}".`);
});
