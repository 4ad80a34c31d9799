import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CheckpointError } from '../../src/errors.js';
import {
  findConfiguredFramework,
  hasConfigBeside,
  readAdapterConfig,
} from '../../src/formats/model-config.js';
import { memorySource } from '../../src/io/byte-source.js';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'bn-audit-config-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

const HUGGING_FACE = { architectures: ['ResNetForImageClassification'], transformers_version: '5.0.0' };

const write = (config: unknown) =>
  writeFileSync(join(directory, 'config.json'), typeof config === 'string' ? config : JSON.stringify(config));
const sourceAt = (name: string) => ({
  ...memorySource(name, new Uint8Array()),
  path: join(directory, name),
});
const frameworkOf = (name = 'model.safetensors') => findConfiguredFramework(sourceAt(name));

describe('the config.json beside a checkpoint tells its framework', () => {
  test.each([
    ['transformers', HUGGING_FACE],
    ['transformers', { architectures: ['Net'], model_type: 'resnet' }],
    ['timm', { architecture: 'resnet50', pretrained_cfg: {} }],
    [undefined, { learning_rate: 0.1 }],
    [undefined, [HUGGING_FACE]],
    [undefined, '{"transformers_version": '],
  ])('%s', async (framework, config) => {
    write(config);
    expect(await frameworkOf()).toBe(framework);
  });

  test.each(['model.safetensors.index.json', 'model-00001-of-00002.safetensors', 'pytorch_model.bin'])(
    'of %s',
    async (name) => {
      write(HUGGING_FACE);
      expect(await frameworkOf(name)).toBe('transformers');
    },
  );
});

test('it is told of before it is read', async () => {
  write(HUGGING_FACE);
  const opened: string[] = [];
  await findConfiguredFramework(sourceAt('model.safetensors'), (path) => opened.push(path));
  expect(opened).toEqual([join(directory, 'config.json')]);
});

describe('it is not read', () => {
  test('beside a file of another name', async () => {
    write(HUGGING_FACE);
    expect(await frameworkOf('run.safetensors')).toBeUndefined();
  });

  test('where it is a link, a directory, or absent', async () => {
    expect(await frameworkOf()).toBeUndefined();
    writeFileSync(join(directory, 'elsewhere.json'), JSON.stringify(HUGGING_FACE));
    symlinkSync(join(directory, 'elsewhere.json'), join(directory, 'config.json'));
    expect(await frameworkOf()).toBeUndefined();
    rmSync(join(directory, 'config.json'));
    mkdirSync(join(directory, 'config.json'));
    expect(await frameworkOf()).toBeUndefined();
  });

  test('where it is larger than any configuration', async () => {
    write(JSON.stringify(HUGGING_FACE) + ' '.repeat(4_000_000));
    expect(await frameworkOf()).toBeUndefined();
  });
});

describe('over the network', () => {
  const remote = (files: Readonly<Record<string, string>>, name = 'hf:acme/net:model.safetensors') => ({
    ...memorySource(name, new Uint8Array()),
    openBeside: async (beside: string) => {
      const content = files[beside];
      if (content === undefined) throw new CheckpointError('none', { code: 'not-found', file: beside });
      return memorySource(beside, Buffer.from(content));
    },
  });

  test('the configurations beside a model are read as those on this machine', async () => {
    const adapter = JSON.stringify({ peft_type: 'LORA', base_model_name_or_path: 'acme/base' });
    const files = { 'config.json': JSON.stringify(HUGGING_FACE), 'adapter_config.json': adapter };
    expect(await findConfiguredFramework(remote(files))).toBe('transformers');
    expect(await readAdapterConfig(remote(files), {})).toMatchObject({ kind: 'adapter', base: 'acme/base' });
    expect(await findConfiguredFramework(remote({}))).toBeUndefined();
    expect(await readAdapterConfig(remote({}), {})).toBeNull();
  });

  test('they are asked for beside names that have them', () => {
    const names = [
      'hf:acme/net:model.safetensors',
      'https://host/a/adapter_model.bin',
      'https://host/pytorch_model.bin',
      'https://host/resnet18-f37072fd.pth',
      'https://model.safetensors/other.pt',
    ];
    expect(names.map((name) => hasConfigBeside({ name }))).toEqual([true, true, true, false, false]);
  });
});
