import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Declaration, OpenOptions } from '../../src/checkpoint/checkpoint.js';
import { openCheckpoint } from '../../src/formats/open.js';
import { f32 } from '../build/bytes.js';
import { safetensorsBytes } from '../build/safetensors.js';
import { makeSubdirectory, makeTempDirectory } from '../build/sources.js';

const root = makeTempDirectory();
const MODEL = safetensorsBytes({ 'bn.running_mean': { dtype: 'F32', shape: [1], data: f32(1) } });

/** A directory with a model, and what else is in it. */
function writeModel(config?: string | Uint8Array): string {
  const directory = makeSubdirectory(root);
  writeFileSync(join(directory, 'model.safetensors'), MODEL);
  if (config !== undefined) writeFileSync(join(directory, 'adapter_config.json'), config);
  return directory;
}

async function declarationsOf(
  path: string,
  options: OpenOptions = {},
): Promise<readonly Declaration[] | undefined> {
  const checkpoint = await openCheckpoint(path, options);
  await checkpoint.close();
  return checkpoint.declarations;
}

test('the adapter beside a checkpoint tells what it trains', async () => {
  const config = {
    peft_type: 'LORA',
    base_model_name_or_path: 'timm/resnet18',
    target_modules: ['conv1', 'conv2'],
    modules_to_save: ['head'],
    bias: 'all',
  };
  const directory = writeModel(JSON.stringify(config));
  const expected = [
    {
      kind: 'adapter',
      where: 'adapter_config.json',
      method: 'LORA',
      base: 'timm/resnet18',
      targets: ['conv1', 'conv2'],
      saved: ['head'],
      trainsBiases: true,
    },
  ];
  expect(await declarationsOf(directory)).toEqual(expected);
  const opened: string[] = [];
  const path = join(directory, 'model.safetensors');
  expect(await declarationsOf(path, { onOpenFile: (file) => opened.push(file) })).toEqual(expected);
  expect(opened).toEqual([path, join(directory, 'adapter_config.json')]);
});

test('a pattern is kept as one that no one runs', async () => {
  const config = { peft_type: 'LORA', target_modules: '(a+)+$', modules_to_save: null };
  expect(await declarationsOf(writeModel(JSON.stringify(config)))).toMatchObject([
    { targets: null, saved: [], trainsBiases: false },
  ]);
});

test('without one nothing is declared', async () => {
  expect(await declarationsOf(writeModel())).toEqual([]);
});

describe('one that cannot be read is no reason to refuse the checkpoint', () => {
  test.each<[string, string | Uint8Array, string]>([
    ['no JSON', '{"peft_type"', 'malformed'],
    ['an empty file', '', 'malformed'],
    ['of something else', '{"a": 1}', 'names no peft_type'],
    ['too large', new Uint8Array(4_000_001), 'larger than'],
    ['a bomb of brackets', `{"a": ${'['.repeat(100_000)}`, 'malformed'],
  ])('%s', async (_, config, reason) => {
    expect(await declarationsOf(writeModel(config))).toEqual([
      {
        kind: 'unread',
        of: 'settings',
        where: 'adapter_config.json',
        reason: expect.stringContaining(reason),
      },
    ]);
  });

  test('a directory', async () => {
    const directory = writeModel();
    mkdirSync(join(directory, 'adapter_config.json'));
    expect(await declarationsOf(directory)).toMatchObject([{ kind: 'unread' }]);
  });

  test('a link out of the directory, unless that is allowed', async () => {
    const directory = writeModel();
    const elsewhere = join(root, 'elsewhere.json');
    writeFileSync(elsewhere, '{"peft_type": "LORA"}');
    symlinkSync(elsewhere, join(directory, 'adapter_config.json'));
    expect(await declarationsOf(directory)).toMatchObject([
      { kind: 'unread', reason: 'is a symbolic link out of the directory' },
    ]);
    expect(await declarationsOf(directory, { allowExternalSymlinks: true })).toMatchObject([
      { kind: 'adapter' },
    ]);
  });
});
