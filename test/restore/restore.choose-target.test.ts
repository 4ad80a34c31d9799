import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import { type RestoreOptions, restore } from '../../src/restore/restore.js';
import { failureOf } from '../build/failure.js';
import { makeSubdirectory, makeTempDirectory } from '../build/sources.js';

const pair = fileURLToPath(new URL('../../fixtures/pairs/requires-grad-leak', import.meta.url));
const BEFORE = join(pair, 'before.safetensors');
const AFTER = join(pair, 'after.safetensors');
const SHARDED = fileURLToPath(new URL('../../fixtures/containers/sharded', import.meta.url));
const INDEX = 'model.safetensors.index.json';
const directory = makeTempDirectory();

/** What `save_pretrained` writes, with files beside the weights, all of which name themselves. */
function modelDirectory(...names: readonly string[]): string {
  const model = makeSubdirectory(directory);
  copyFileSync(AFTER, join(model, 'model.safetensors'));
  for (const name of names) writeFileSync(join(model, name), name);
  return model;
}

/** Restores into a new directory, and lists what is in it. */
async function restoreInto(after: string, options: RestoreOptions = {}) {
  const fixed = join(makeSubdirectory(directory), 'fixed');
  const report = await restore(BEFORE, after, fixed, options);
  return { fixed, report, names: existsSync(fixed) ? readdirSync(fixed).sort() : [] };
}

describe('a model’s directory', () => {
  const beside = [
    'config.json',
    'generation_config.json',
    'merges.txt',
    'modeling.py',
    'spiece.model',
    'LICENSE',
  ];

  test('is restored as a whole: its configuration and tokenizer go along, as they are', async () => {
    const { fixed, report, names } = await restoreInto(modelDirectory(...beside));
    expect(names).toEqual([...beside, 'model.safetensors'].sort());
    for (const name of beside) expect(readFileSync(join(fixed, name), 'utf8')).toBe(name);
    expect(report.files.at(-1)).toBe(join(fixed, 'model.safetensors'));
    expect(report.warnings).toEqual([]);
    expect((await audit(BEFORE, fixed)).summary.byStatus.drifted).toBe(0);
  });

  test('of shards is as well, also where its index is named', async () => {
    const model = makeSubdirectory(directory);
    for (const name of readdirSync(SHARDED)) copyFileSync(join(SHARDED, name), join(model, name));
    writeFileSync(join(model, 'config.json'), '{}');
    for (const after of [model, join(model, INDEX)])
      expect((await restoreInto(after, { layers: ['*'] })).names).toEqual(readdirSync(model).sort());
  });

  test('keeps other weights and directories to itself, and says so', async () => {
    const others = ['model.onnx', 'optimizer.pt', 'pytorch_model.bin', 'pytorch_model.bin.index.json'];
    const after = modelDirectory('config.json', '.gitattributes', ...others);
    mkdirSync(join(after, 'checkpoint-1'));
    symlinkSync('nowhere', join(after, 'dangling.txt'));
    const { names, report } = await restoreInto(after);
    expect(names).toEqual(['config.json', 'model.safetensors']);
    expect(report.warnings).toEqual([
      'not copied, since other weights and directories may hold the statistics of after: "checkpoint-1", "dangling.txt", "model.onnx", "optimizer.pt", "pytorch_model.bin" and 1 more',
    ]);
  });

  test('without a config.json is a directory of weights', async () => {
    expect((await restoreInto(modelDirectory('notes.txt'))).names).toEqual(['model.safetensors']);
  });

  test('is not asked for where the restored model is one file', async () => {
    const fixed = join(makeSubdirectory(directory), 'fixed.safetensors');
    const report = await restore(BEFORE, modelDirectory('config.json'), fixed);
    expect(report.files).toEqual([fixed]);
  });

  test('is named file by file in a dry run, which writes nothing', async () => {
    const { names, fixed, report } = await restoreInto(modelDirectory('config.json'), { dryRun: true });
    expect(names).toEqual([]);
    expect(report.files).toEqual(['config.json', 'model.safetensors'].map((name) => join(fixed, name)));
  });

  test('replaces no file without force, and then writes none of the others', async () => {
    const fixed = makeSubdirectory(directory);
    writeFileSync(join(fixed, 'config.json'), 'precious');
    const after = modelDirectory('config.json', 'vocab.txt');
    const failure = await failureOf(() => restore(BEFORE, after, fixed));
    expect(failure).toMatchObject({ code: 'refused', file: join(fixed, 'config.json') });
    expect(readdirSync(fixed)).toEqual(['config.json']);
    await restore(BEFORE, after, fixed, { force: true });
    expect(readFileSync(join(fixed, 'config.json'), 'utf8')).toBe('config.json');
  });

  test('with more files than any model has is refused', async () => {
    const after = modelDirectory('config.json', ...Array.from({ length: 250 }, (_, i) => `${i}.txt`));
    const fixed = join(makeSubdirectory(directory), 'fixed');
    expect(await failureOf(() => restore(BEFORE, after, fixed))).toMatchObject({
      code: 'limit-exceeded',
      message: 'expected at most 250 files beside the weights of a model, found 251',
    });
  });
});

describe('symbolic links', () => {
  test('of the Hugging Face cache become files', async () => {
    const cache = makeSubdirectory(directory);
    const snapshot = join(cache, 'snapshots', 'revision');
    for (const path of [snapshot, join(cache, 'blobs')]) mkdirSync(path, { recursive: true });
    writeFileSync(join(cache, 'blobs', 'b1'), '{}');
    copyFileSync(AFTER, join(cache, 'blobs', 'b2'));
    symlinkSync('../../blobs/b1', join(snapshot, 'config.json'));
    symlinkSync('../../blobs/b2', join(snapshot, 'model.safetensors'));
    const { names, fixed } = await restoreInto(snapshot);
    expect(names).toEqual(['config.json', 'model.safetensors']);
    for (const name of names) expect(lstatSync(join(fixed, name)).isFile()).toBe(true);
  });

  test('out of the directory are refused, unless they are allowed', async () => {
    const after = modelDirectory('config.json');
    const secret = join(makeSubdirectory(directory), 'secret');
    writeFileSync(secret, 'secret');
    symlinkSync(secret, join(after, 'tokenizer.json'));
    const fixed = join(makeSubdirectory(directory), 'fixed');
    expect(await failureOf(() => restore(BEFORE, after, fixed))).toEqual({
      message: 'expected a file of the model’s own directory, found a symbolic link out of it',
      code: 'refused',
      file: join(after, 'tokenizer.json'),
      hint: 'If the link is yours, allow it with --allow-external-symlinks.',
    });
    expect(existsSync(fixed)).toBe(false);
    await restore(BEFORE, after, fixed, { allowExternalSymlinks: true });
    expect(readFileSync(join(fixed, 'tokenizer.json'), 'utf8')).toBe('secret');
  });
});
