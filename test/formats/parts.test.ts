import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../src/formats/open.js';
import { failureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';

const sharded = fileURLToPath(new URL('../../fixtures/containers/sharded/', import.meta.url));
const SHARD = 'model-00001-of-00003.safetensors';

describe('a part of a checkpoint, named alone', () => {
  test('a shard is refused where its index lies beside it', async () => {
    expect(await failureOf(() => openCheckpoint(join(sharded, SHARD)))).toMatchObject({
      message: 'expected a whole checkpoint, found one of the 3 shards of a model',
      hint: 'Name the index, model.safetensors.index.json, or the directory that holds it.',
    });
  });

  test('a shard without its index is read as far as it goes, and that is said', async () => {
    const alone = join(makeTempDirectory(), SHARD);
    copyFileSync(join(sharded, SHARD), alone);
    const { tensors, warnings, close } = await openCheckpoint(alone);
    await close();
    expect(tensors.size).toBeGreaterThan(0);
    expect(warnings).toEqual([expect.stringContaining('it is one of the 3 shards of a model')]);
  });

  test('a shard of Keras is refused where its index lies beside it, and else may be a whole checkpoint', async () => {
    const fixture = fileURLToPath(new URL('../../fixtures/keras/sharded/', import.meta.url));
    const name = 'model_00000.weights.h5';
    expect((await failureOf(() => openCheckpoint(join(fixture, name)))).hint).toBe(
      'Name the index, model.weights.json, or the directory that holds it.',
    );
    const alone = join(makeTempDirectory(), name);
    copyFileSync(join(fixture, name), alone);
    const { warnings, close } = await openCheckpoint(alone);
    await close();
    expect(warnings).toEqual([]);
  });

  test.each<[string, string, string]>([
    ['__0_0.distcp', 'a distributed checkpoint', 'Name its directory'],
    ['m.data-00001-of-00003', 'the data of a TensorFlow checkpoint', 'Name its index'],
    ['zero_pp_rank_0_mp_rank_00_optim_states.pt', 'DeepSpeed', 'mp_rank_00_model_states.pt'],
    ['bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt', 'DeepSpeed', 'zero_to_fp32.py'],
    ['model.z01', 'a piece of a file that was split', 'zip -s 0'],
    ['model.pt.001', 'a piece of a file that was split', 'cat FILE.0* > FILE'],
  ])('%s', async (name, what, instead) => {
    const path = join(makeTempDirectory(), name);
    writeFileSync(path, 'PK\x03\x04');
    const { message, hint } = await failureOf(() => openCheckpoint(path));
    expect(message).toMatch(/^expected a whole checkpoint, found /);
    expect(message).toContain(what);
    expect(hint).toContain(instead);
  });

  test('a directory of such a name is a directory', async () => {
    const path = join(makeTempDirectory(), SHARD);
    mkdirSync(path);
    expect((await failureOf(() => openCheckpoint(path))).message).toContain('found a directory');
  });

  test('an unpacked checkpoint of torch.save', async () => {
    const path = makeTempDirectory();
    mkdirSync(join(path, 'data'));
    writeFileSync(join(path, 'data.pkl'), '');
    expect((await failureOf(() => openCheckpoint(path))).hint).toContain('zip -0 -r model.pt DIRECTORY');
  });
});
