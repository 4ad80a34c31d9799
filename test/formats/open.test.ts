import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js';
import { openCheckpoint, openSource, refuseIdleSelect } from '../../src/formats/open.js';
import { SAVE_KERAS_WEIGHTS, SAVE_TENSORFLOW_WEIGHTS } from '../../src/formats/torch/sniff.js';
import { inspect } from '../../src/inspect.js';
import { restore } from '../../src/restore/restore.js';
import { bytesOf, f32, utf8 } from '../build/bytes.js';
import { checkpointOf } from '../build/checkpoints.js';
import { failureOf, usageFailureOf } from '../build/failure.js';
import { safetensorsBytes, safetensorsWithHeader } from '../build/safetensors.js';
import { countingSource, makeTempDirectory } from '../build/sources.js';

const fixtures = fileURLToPath(new URL('../../fixtures', import.meta.url));
const directory = makeTempDirectory();

const openBytes = (bytes: Uint8Array, name = 'file') => openSource(countingSource(name, bytes), name);

describe('the format is told by content', () => {
  test.each([
    ['safetensors', 'pairs/locked/before.safetensors'],
    ['safetensors', 'containers/sharded/model.safetensors.index.json'],
    ['safetensors', 'containers/sharded'],
    ['safetensors', 'containers/huggingface'],
    ['ONNX', 'pairs/locked/before.live.onnx'],
    ['PyTorch', 'pairs/locked/before.pt'],
  ])('%s: %s', async (format, path) => {
    const checkpoint = await openCheckpoint(join(fixtures, path));
    expect(checkpoint.format).toBe(format);
    expect(checkpoint.path).toBe(join(fixtures, path));
    expect(checkpoint.tensors.size).toBeGreaterThan(10);
    await checkpoint.close();
  });

  test('not by the name of the file', async () => {
    const bytes = safetensorsBytes({ a: { dtype: 'F32', shape: [1], data: f32(1) } });
    const checkpoint = await openBytes(bytes, 'weights.onnx');
    expect(checkpoint.format).toBe('safetensors');
  });
});

describe('a part to select', () => {
  const whole = { path: 'base.onnx', unselected: [] };
  const nested = { path: 'run.pt', unselected: ['model'] };
  const refuse = (select: string | undefined, ...sides: Pick<Checkpoint, 'path' | 'unselected'>[]) =>
    refuseIdleSelect(
      select,
      sides.map((side) => checkpointOf([], side)),
    );

  test('that no checkpoint has is refused with what there is', async () => {
    expect(await usageFailureOf(() => refuse('ema', whole, nested))).toEqual({
      message: '--select "ema" names no part of "base.onnx" or of "run.pt"',
      hint: 'What holds norm layers: model. Select that, or leave --select out.',
    });
    expect(await usageFailureOf(() => refuse('ema', whole))).toEqual({
      message: '--select "ema" names no part of "base.onnx"',
      hint: 'There are no parts to choose from: leave --select out.',
    });
  });

  test('may be missing from one of two, and nothing is refused where nothing is selected', () => {
    expect(() => refuse('ema', whole, { path: 'run.pt' })).not.toThrow();
    expect(() => refuse('ema', { path: 'run.pt' }, nested)).not.toThrow();
    expect(() => refuse(undefined, whole, nested)).not.toThrow();
  });

  const before = join(fixtures, 'pairs/locked/before.safetensors');
  const after = join(fixtures, 'containers/trainer.pt');
  test.each<[string, () => Promise<unknown>]>([
    ['audit', () => audit(before, after, { select: 'nope' })],
    ['inspect', () => inspect(before, { select: 'nope' })],
    ['restore', () => restore(before, after, null, { select: 'nope', dryRun: true })],
  ])('is looked for by %s', async (_, action) => {
    expect((await usageFailureOf(action)).message).toContain('--select "nope" names no part of ');
  });

  test('of a nested checkpoint is compared with a file that has no parts', async () => {
    const { byStatus } = (await audit(before, after, { select: 'model' })).summary;
    expect(Object.values(byStatus).reduce((sum, count) => sum + count, 0)).toBe(8);
  });
});

describe('what is plainly something else gets a plain sentence', () => {
  test.each<readonly [found: string, hint: string | undefined, bytes: Uint8Array]>([
    ['an empty file (0 bytes)', 'Was the download or the save interrupted?', new Uint8Array(0)],
    ['only zeros: not a checkpoint', 'Was the download interrupted?', new Uint8Array(2000)],
    [
      'a Git LFS pointer: the file itself was not downloaded',
      'Fetch it with: git lfs pull',
      utf8('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'),
    ],
    [
      'an HTML page: probably a download that ended on a login or error page',
      'Download the file again, from its raw or resolve address.',
      utf8('\n <!DOCTYPE html><html>'),
    ],
    [
      'an HTML page: probably a download that ended on a login or error page',
      'Download the file again, from its raw or resolve address.',
      utf8('<html lang="en">'),
    ],
    ['an XML file, not a checkpoint', undefined, utf8('<?xml version="1.0"?><Error/>')],
    [
      'a gzip-compressed file',
      'Decompress it first: gunzip FILE, or tar -xzf FILE',
      bytesOf(0x1f, 0x8b, 8, 0),
    ],
    ['a zstd-compressed file', 'Decompress it first: unzstd FILE', bytesOf(0x28, 0xb5, 0x2f, 0xfd)],
    ['an xz-compressed file', 'Decompress it first: unxz FILE', bytesOf(0xfd, '7zXZ', 0)],
    ['a bzip2-compressed file', 'Decompress it first: bunzip2 FILE', utf8('BZh9')],
    ['a 7-Zip archive', 'Unpack it first.', bytesOf('7z', 0xbc, 0xaf, 0x27, 0x1c)],
    [
      'an HDF5 file (Keras .h5 weights?), not a format that is read here',
      SAVE_KERAS_WEIGHTS,
      bytesOf(0x89, 'HDF\r\n', 0x1a, '\n'),
    ],
    ['a NumPy .npy array, not a checkpoint', undefined, bytesOf(0x93, 'NUMPY', 1, 0)],
    ['a GGUF file, not a format that is read here', undefined, bytesOf('GGUF', 3, 0, 0, 0)],
    ['a TensorFlow Lite model, not a format that is read here', undefined, bytesOf(0x1c, 0, 0, 0, 'TFL3')],
    [
      'a TensorFlow SavedModel, not a format that is read here',
      SAVE_TENSORFLOW_WEIGHTS,
      bytesOf(0x08, 1, 0x12, 0xb4, 0x9e, 0x02, 0x0a, 0x0f, 0x22, 5, 'serve'),
    ],
    [
      'a PyTorch mobile flatbuffer, not a format that is read here',
      'Audit the checkpoint that it was made from.',
      bytesOf(0x1c, 0, 0, 0, 'PTMF'),
    ],
    ['a PDF document', undefined, utf8('%PDF-1.7')],
    ['a PNG image', undefined, bytesOf(0x89, 'PNG\r\n')],
    ['a program (ELF)', undefined, bytesOf(0x7f, 'ELF', 2)],
  ])('%s', async (found, hint, bytes) => {
    expect(await failureOf(() => openBytes(bytes))).toEqual({
      message: `expected an ONNX, safetensors or PyTorch checkpoint, found ${found}`,
      code: 'unrecognised-format',
      file: 'file',
      ...(hint === undefined ? {} : { hint }),
    });
  });

  test('unknown content', async () => {
    expect(await failureOf(() => openBytes(utf8('just some words\n')))).toEqual({
      message: 'expected an ONNX, safetensors or PyTorch checkpoint, found none of them: unknown content',
      code: 'unrecognised-format',
      file: 'file',
    });
  });
});

describe('where no magic number fits, the ending decides who says what is wrong', () => {
  test('.safetensors', async () => {
    expect((await failureOf(() => openBytes(utf8('just some words\n'), 'm.SafeTensors'))).message).toMatch(
      /^expected a safetensors header of at most 100000000 bytes, found a header length of \d+: too large$/,
    );
  });

  test('.onnx', async () => {
    const failure = await failureOf(() => openBytes(utf8('just some words\n'), 'm.onnx'));
    expect(failure.message).not.toContain('safetensors');
    expect(failure.code).not.toBe('unrecognised-format');
  });
});

describe('files and directories', () => {
  test('a missing file', async () => {
    const path = join(directory, 'missing.pt');
    expect(await failureOf(() => openCheckpoint(path))).toEqual({
      message: 'no such file',
      code: 'not-found',
      file: path,
    });
  });

  test('a symbolic link that leads to itself', async () => {
    const path = join(directory, 'loop');
    symlinkSync(path, path);
    expect(await failureOf(() => openCheckpoint(path))).toEqual({
      message: 'its symbolic links lead in a circle',
      code: 'unreadable',
      file: path,
    });
  });

  test('a name that no file system takes', async () => {
    const path = 'x'.repeat(5000);
    expect((await failureOf(() => openCheckpoint(path))).message).toBe('no such file: the name is too long');
  });

  test('a directory without a checkpoint', async () => {
    const path = join(directory, 'empty');
    mkdirSync(path);
    expect(await failureOf(() => openCheckpoint(path))).toEqual({
      message:
        'expected a checkpoint file, found a directory without model.safetensors or model.safetensors.index.json',
      code: 'not-a-file',
      file: path,
      hint: 'Name the checkpoint file inside it.',
    });
  });

  test('errors name the file inside a directory', async () => {
    const path = join(directory, 'model');
    mkdirSync(path);
    writeFileSync(join(path, 'model.safetensors'), safetensorsWithHeader('{}', 1));
    expect((await failureOf(() => openCheckpoint(path))).file).toBe(join(path, 'model.safetensors'));
  });
});

test('opening reads a header and the first bytes, not the data', async () => {
  const bytes = safetensorsBytes({ a: { dtype: 'U8', shape: [1_000_000], data: new Uint8Array(1_000_000) } });
  const source = countingSource('m', bytes);
  await openSource(source, 'm');
  expect(source.bytesRead).toBe(1024 + bytes.length - 1_000_000);
});
