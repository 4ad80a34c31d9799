import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { findInDirectory } from '../../src/formats/open.js';
import { failureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';

/** Writes files into a directory of their own, and returns the path of an index that may be among them. */
function writeModel(files: Readonly<Record<string, string>>): string {
  const directory = makeTempDirectory();
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
  return join(directory, 'model.safetensors.index.json');
}

describe('a directory', () => {
  test('is null for what is no directory', () => {
    const path = writeModel({ 'model.safetensors.index.json': '{}' });
    expect(findInDirectory(path)).toBeNull();
    expect(findInDirectory(`${path}.missing`)).toBeNull();
  });

  test('prefers the single file to an index, as loaders do', () => {
    const path = writeModel({
      'model.safetensors.index.json': '{}',
      'model.safetensors': '',
      'pytorch_model.bin': '',
    });
    expect(findInDirectory(join(path, '..'))).toBe(join(path, '..', 'model.safetensors'));
  });

  test.each([
    'model.safetensors.index.json',
    'diffusion_pytorch_model.safetensors',
    'diffusion_pytorch_model.safetensors.index.json',
    'adapter_model.safetensors',
    'pytorch_model.bin',
    'model.onnx',
  ])('finds %s', (name) => {
    const directory = join(writeModel({ [name]: '' }), '..');
    expect(findInDirectory(directory)).toBe(join(directory, name));
  });

  test('says why it cannot look into a directory', async () => {
    // The directory's own path is short enough for the file system, those of its files are not.
    let deep = makeTempDirectory();
    while (deep.length < 4070) deep = join(deep, 'd'.repeat(Math.max(1, Math.min(200, 4070 - deep.length))));
    mkdirSync(deep, { recursive: true });
    expect(await failureOf(() => findInDirectory(deep))).toMatchObject({
      code: 'not-found',
      message: 'no such file: the name is too long',
    });
  });

  test('finds a link that leads nowhere, so that the message names it', () => {
    const directory = join(writeModel({}), '..');
    symlinkSync('gone', join(directory, 'model.safetensors'));
    expect(findInDirectory(directory)).toBe(join(directory, 'model.safetensors'));
  });

  test('says what it looks for in a directory that holds none of it', async () => {
    const directory = join(writeModel({ 'weights.safetensors': '' }), '..');
    expect(await failureOf(() => findInDirectory(directory))).toEqual({
      message:
        'expected a checkpoint file, found a directory without one that is known by its name (model.safetensors, model.weights.json, model.safetensors.index.json, .metadata, pytorch_model.bin, flax_model.msgpack, tf_model.h5, saved_model.pb, variables/variables.index, model.onnx, *.npy, and their like)',
      code: 'not-a-file',
      file: directory,
      hint: 'Name the checkpoint inside it: "weights.safetensors".',
    });
  });
});
