import { execFileSync } from 'node:child_process';
import {
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { openFileSource } from '../../src/io/file-source.js';
import { stageFiles } from '../../src/io/safe-write.js';
import { restore } from '../../src/restore.js';
import { failureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';
import { makeLargePair } from './large-pair.js';

const pair = fileURLToPath(new URL('../../fixtures/pairs/requires-grad-leak', import.meta.url));
const BEFORE = join(pair, 'before.safetensors');
const AFTER = join(pair, 'after.safetensors');
const EXTERNAL = join(pair, 'after.external.onnx');
const directory = makeTempDirectory();
let runs = 0;

/** An empty directory with some files in it. */
function workspace(files: Readonly<Record<string, string>> = {}): string {
  const path = join(directory, String(runs++));
  mkdirSync(path);
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

  test('is a file, not a directory, where after is one', async () => {
    const place = workspace();
    const failure = await failureOf(() => restore(BEFORE, AFTER, place));
    expect(failure).toMatchObject({ code: 'refused' });
    expect(failure.message).toContain('found a directory');
  });

  test('is written through a symbolic link, which stays', async () => {
    const place = workspace({ 'real.safetensors': 'old' });
    symlinkSync('real.safetensors', join(place, 'link.safetensors'));
    await restore(BEFORE, AFTER, join(place, 'link.safetensors'), { force: true });
    expect(statSync(join(place, 'real.safetensors')).size).toBe(statSync(AFTER).size);
    expect(readdirSync(place).sort()).toEqual(['link.safetensors', 'real.safetensors']);
  });

  test('needs a directory that exists', async () => {
    const failure = await failureOf(() => restore(BEFORE, AFTER, join(workspace(), 'none', 'f.safetensors')));
    expect(failure).toMatchObject({ code: 'unwritable' });
    expect(failure.message).toContain('its directory does not exist');
  });

  test.skipIf(process.getuid?.() === 0)('needs permission to write', async () => {
    const place = workspace();
    await chmod(place, 0o500);
    const failure = await failureOf(() => restore(BEFORE, AFTER, join(place, 'f.safetensors')));
    await chmod(place, 0o700);
    expect(failure).toMatchObject({ code: 'unwritable' });
    expect(failure.message).toContain('no permission');
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

  test('when the original shrinks while it is copied', async () => {
    const place = workspace({ original: 'some bytes' });
    const source = openFileSource(join(place, 'original'));
    writeFileSync(join(place, 'original'), 'some');
    const order = {
      directory: place,
      isNewDirectory: false,
      label: 'f',
      files: [{ source, name: 'f', splices: [] }],
    };
    const failure = await failureOf(() => stageFiles(order));
    expect(failure).toMatchObject({ code: 'truncated' });
    expect(readdirSync(place)).toEqual(['original']);
    await source.close();
  });

  const disk = mountSmallDisk();
  test.skipIf(disk === null)('when the disk is full', async () => {
    const target = join(disk ?? '', 'f.safetensors');
    const large = makeLargePair(workspace());
    const failure = await failureOf(() => restore(large.before, large.after, target));
    expect(failure).toMatchObject({ code: 'unwritable' });
    expect(failure.message).toContain('the disk is full');
    expect(readdirSync(disk ?? '')).toEqual([]);
  });
});

/** A tmpfs of two megabytes; null where mounting is not allowed. */
function mountSmallDisk(): string | null {
  const path = workspace();
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', path], { stdio: 'ignore' });
  } catch {
    return null;
  }
  afterAll(() => execFileSync('umount', [path]));
  return path;
}
