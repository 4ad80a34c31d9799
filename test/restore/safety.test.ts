import { execFileSync } from 'node:child_process';
import { linkSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { openFileSource } from '../../src/io/file-source.js';
import { stageFiles } from '../../src/io/write-files.js';
import { restore } from '../../src/restore/restore.js';
import { f32 } from '../build/bytes.js';
import { failureOf } from '../build/failure.js';
import { makeSubdirectory, makeTempDirectory } from '../build/sources.js';
import { writeBefore, writeFolded } from './folded-pair.js';
import { makeLargePair } from './large-pair.js';

const pair = fileURLToPath(new URL('../../fixtures/pairs/requires-grad-leak', import.meta.url));
const BEFORE = join(pair, 'before.safetensors');
const AFTER = join(pair, 'after.safetensors');
const EXTERNAL = join(pair, 'after.external.onnx');
const SHARDED = fileURLToPath(new URL('../../fixtures/containers/sharded', import.meta.url));
const INDEX = 'model.safetensors.index.json';
const SHARD = readdirSync(SHARDED).find((name) => name !== INDEX) ?? '';
const directory = makeTempDirectory();

/** An empty directory with some files in it. */
function workspace(files: Readonly<Record<string, string>> = {}): string {
  const path = makeSubdirectory(directory);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(path, name), content);
  return path;
}

describe('the target', () => {
  test('is not replaced without force, and is with it', async () => {
    const target = join(workspace({ 'f.safetensors': 'precious' }), 'f.safetensors');
    const failure = await failureOf(() => restore(BEFORE, AFTER, target));
    expect(failure).toMatchObject({ code: 'refused', file: target, hint: 'Replace it with --force.' });
    expect(readFileSync(target, 'utf8')).toBe('precious');
    await restore(BEFORE, AFTER, target, { force: true });
    expect(statSync(target).size).toBe(statSync(AFTER).size);
  });

  test.each([
    ['before', BEFORE],
    ['after', AFTER],
  ])('is not %s, by whatever path', async (_, file) => {
    const place = workspace();
    const own = readFileSync(file);
    symlinkSync(file, join(place, 'symbolic'));
    const copy = join(place, 'copy.safetensors');
    writeFileSync(copy, own);
    linkSync(copy, join(place, 'hard'));
    const [before, after] = file === BEFORE ? [copy, AFTER] : [BEFORE, copy];
    for (const [x, y, target] of [
      [BEFORE, AFTER, file],
      [BEFORE, AFTER, join(place, 'symbolic')],
      [before, after, join(place, 'hard')],
      [before, after, join(place, '.', 'copy.safetensors')],
    ] as const) {
      const failure = await failureOf(() => restore(x, y, target, { force: true }));
      expect(failure).toMatchObject({ code: 'refused' });
    }
    expect(readFileSync(file).equals(own)).toBe(true);
    expect(readFileSync(copy).equals(own)).toBe(true);
  });

  test('is not the data file of after either', async () => {
    const place = workspace();
    for (const name of ['after.external.onnx', 'after.external.onnx.data'])
      writeFileSync(join(place, name), readFileSync(join(pair, name)));
    const failure = await failureOf(() =>
      restore(BEFORE, join(place, 'after.external.onnx'), join(place, 'f.onnx'), {
        dataName: 'after.external.onnx.data',
        force: true,
      }),
    );
    expect(failure).toMatchObject({ code: 'refused' });
    expect(readdirSync(place)).toHaveLength(2);
  });

  test('is not one of the files of after by way of a link', async () => {
    const place = workspace();
    linkSync(`${EXTERNAL}.data`, join(place, 'after.external.onnx.data'));
    symlinkSync(SHARDED, join(place, 'shards'));
    const own = readFileSync(`${EXTERNAL}.data`);
    for (const [after, target] of [
      [EXTERNAL, join(place, 'f.onnx')],
      [SHARDED, join(place, 'shards')],
      [SHARDED, SHARDED],
      [join(SHARDED, INDEX), join(place, 'shards', INDEX)],
      [join(SHARDED, INDEX), join(place, 'shards', `other.${INDEX}`)],
    ] as const) {
      const failure = await failureOf(() => restore(BEFORE, after, target, { force: true }));
      expect(failure).toMatchObject({ code: 'refused' });
      expect(failure.message).toContain('before and after are never written to');
    }
    expect(readFileSync(`${EXTERNAL}.data`).equals(own)).toBe(true);
    expect(readdirSync(place).sort()).toEqual(['after.external.onnx.data', 'shards']);
  });

  test('is not replaced where one of several files is there', async () => {
    const place = workspace({ [SHARD]: 'precious' });
    const failure = await failureOf(() => restore(BEFORE, SHARDED, place));
    expect(failure).toMatchObject({ code: 'refused', file: join(place, SHARD) });
    expect(readdirSync(place)).toEqual([SHARD]);
    expect(readFileSync(join(place, SHARD), 'utf8')).toBe('precious');
    await restore(BEFORE, SHARDED, place, { force: true });
    expect(readdirSync(place).sort()).toEqual(readdirSync(SHARDED).sort());
  });

  test('is a file, not a directory, where after is one', async () => {
    const place = workspace();
    const failure = await failureOf(() => restore(BEFORE, AFTER, place));
    expect(failure).toMatchObject({ code: 'refused' });
    expect(failure.message).toContain('found a directory');
    const named = await failureOf(() => restore(BEFORE, AFTER, join(place, 'none/')));
    expect(named.message).toBe(failure.message);
    expect(readdirSync(place)).toEqual([]);
  });

  test('is written through a symbolic link, which stays', async () => {
    const place = workspace({ 'real.safetensors': 'old' });
    symlinkSync('real.safetensors', join(place, 'link.safetensors'));
    await restore(BEFORE, AFTER, join(place, 'link.safetensors'), { force: true });
    expect(statSync(join(place, 'real.safetensors')).size).toBe(statSync(AFTER).size);
    expect(readdirSync(place).sort()).toEqual(['link.safetensors', 'real.safetensors']);
  });

  test('has its directories made', async () => {
    const place = workspace();
    const file = join(place, 'new', 'er', 'f.safetensors');
    await restore(BEFORE, AFTER, file, { dryRun: true });
    expect(readdirSync(place)).toEqual([]);
    await restore(BEFORE, AFTER, file);
    expect(statSync(file).size).toBe(statSync(AFTER).size);
    await restore(BEFORE, SHARDED, join(place, 'newer', 'set'));
    expect(readdirSync(join(place, 'newer', 'set')).sort()).toEqual(readdirSync(SHARDED).sort());
  });

  test.each([
    ['to write', 0o555],
    ['to look into the directory', 0o600],
  ])('needs permission %s', async (_, mode) => {
    const place = workspace();
    await chmod(directory, 0o755);
    await chmod(place, mode);
    const failure = await failureOf(() =>
      asOrdinaryUser(() => restore(BEFORE, AFTER, join(place, 'f.safetensors'))),
    );
    await chmod(place, 0o700);
    expect(failure).toMatchObject({ code: 'unwritable' });
    expect(failure.message).toContain('no permission');
    expect(readdirSync(place)).toEqual([]);
  });

  test.each([
    ['a part of its path is no directory', () => join(AFTER, 'f.safetensors')],
    ['its name is too long', () => join(workspace(), 'n'.repeat(256))],
    ['found a device, pipe or socket', () => '/dev/null'],
  ])('is refused where %s', async (why, target) => {
    const failure = await failureOf(() => restore(BEFORE, AFTER, target(), { force: true }));
    expect(failure.message).toContain(why);
  });

  test('is not a symbolic link that leads nowhere', async () => {
    const place = workspace();
    symlinkSync('nowhere', join(place, 'link'));
    const failure = await failureOf(() => restore(BEFORE, AFTER, join(place, 'link'), { force: true }));
    expect(failure).toMatchObject({ code: 'refused' });
    expect(readdirSync(place)).toEqual(['link']);
  });

  test('may have the longest name that the file system takes', async () => {
    const place = workspace();
    const name = `${'ä'.repeat(120)}.st`;
    await restore(BEFORE, AFTER, join(place, name));
    expect(readdirSync(place)).toEqual([name]);
  });

  test('may be copied from a file that is read-only', async () => {
    const place = workspace();
    const after = join(place, 'after.safetensors');
    writeFileSync(after, readFileSync(AFTER));
    await chmod(after, 0o444);
    await restore(BEFORE, after, join(place, 'f.safetensors'));
    expect(readdirSync(place).sort()).toEqual(['after.safetensors', 'f.safetensors']);
  });
});

describe('a run that fails leaves nothing behind', () => {
  test('when a file set is half in the way', async () => {
    const place = workspace({ 'after.external.onnx.data': 'precious' });
    const failure = await failureOf(() => restore(BEFORE, EXTERNAL, join(place, 'f.onnx')));
    expect(failure).toMatchObject({ code: 'refused', file: join(place, 'after.external.onnx.data') });
    expect(readdirSync(place)).toEqual(['after.external.onnx.data']);
  });

  test('nor takes away what has the name that it would take for a while', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
    const name = '.f.safetensors.bn-audit-800000000000.tmp';
    const place = workspace({ [name]: 'precious' });
    const failure = await failureOf(() => restore(BEFORE, AFTER, join(place, 'f.safetensors')));
    vi.restoreAllMocks();
    expect(failure).toMatchObject({ code: 'unwritable' });
    expect(readdirSync(place)).toEqual([name]);
    expect(readFileSync(join(place, name), 'utf8')).toBe('precious');
  });

  test('when the original shrinks while it is copied', async () => {
    const place = workspace({ original: 'some bytes' });
    const source = openFileSource(join(place, 'original'));
    writeFileSync(join(place, 'original'), 'some');
    const order = {
      directory: place,
      isNewDirectory: false,
      label: 'f',
      files: [{ source, name: 'f', splices: [] }],
      mayReplace: false,
    };
    const failure = await failureOf(() => stageFiles(order));
    expect(failure).toMatchObject({ code: 'truncated' });
    expect(readdirSync(place)).toEqual(['original']);
    await source.close();
  });

  const disk = mountSmallDisk();
  test.skipIf(disk === null).each([
    ['a copy', (place: string) => makeLargePair(place), 'f.safetensors'],
    [
      'a model that is folded again',
      (place: string) => ({ before: writeBefore(place, [0.3, 7]), after: writeFolded(place, 'F32') }),
      'f.onnx',
    ],
    ['a set of shards', () => ({ before: BEFORE, after: SHARDED }), 'f'],
  ])('when the disk is full: %s', async (_, make, name) => {
    const { before, after } = make(workspace());
    const failure = await failureOf(() => restore(before, after, join(disk ?? '', name)));
    expect(failure).toMatchObject({ code: 'unwritable' });
    expect(failure.message).toContain('the disk is full');
    expect(readdirSync(disk ?? '')).toEqual([]);
  });

  test('when before changes meanwhile: the audit of what was written finds it', async () => {
    const place = workspace();
    const { before, after } = makeLargePair(place, 64);
    const meanwhile = whenTemporary(place, () => {
      const bytes = readFileSync(before);
      // The value 1 of every statistic becomes 2.
      for (let at = bytes.indexOf(ONE); at >= 0; at = bytes.indexOf(ONE, at)) TWO.copy(bytes, at);
      writeFileSync(before, bytes);
    });
    const failure = await failureOf(() => restore(before, after, join(place, 'f.safetensors')));
    expect(await meanwhile).toBe(true);
    expect(failure.message).toContain('expected the layer "bn" to be locked, found drifted');
    expect(readdirSync(place).sort()).toEqual(['after.safetensors', 'before.safetensors']);
  });
});

const [ONE, TWO] = [Buffer.from(f32(1)), Buffer.from(f32(2))];

/** Acts as soon as a temporary file appears in a directory; false where none does. */
async function whenTemporary(place: string, act: () => void): Promise<boolean> {
  const end = performance.now() + 10_000;
  while (performance.now() < end) {
    if (readdirSync(place).some((name) => name.endsWith('.tmp'))) {
      act();
      return true;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  return false;
}

/** Runs something without the powers of root, which may write anywhere. */
async function asOrdinaryUser<Result>(action: () => Promise<Result>): Promise<Result> {
  if (process.geteuid?.() !== 0) return action();
  process.seteuid?.(65534);
  try {
    return await action();
  } finally {
    process.seteuid?.(0);
  }
}

/** A tmpfs of a few pages; null where mounting is not allowed. */
function mountSmallDisk(): string | null {
  const path = workspace();
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16k', 'tmpfs', path], { stdio: 'ignore' });
  } catch {
    return null;
  }
  afterAll(() => execFileSync('umount', [path]));
  return path;
}

test('an after that is written over once it was compared is not copied', async () => {
  const path = workspace();
  const after = join(path, 'after.safetensors');
  const bytes = readFileSync(AFTER);
  writeFileSync(after, bytes);
  const onProgress = () => writeFileSync(after, bytes.with(bytes.length - 1, 1));
  const failure = await failureOf(() => restore(BEFORE, after, join(path, 'fixed'), { onProgress }));
  expect(failure).toMatchObject({ code: 'unreadable', file: after });
  expect(readdirSync(path)).toEqual(['after.safetensors']);
});
