import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { findConfiguredFramework } from '../../../src/formats/safetensors/model-directory.js';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'bn-audit-config-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

const HUGGING_FACE = { architectures: ['ResNetForImageClassification'], transformers_version: '5.0.0' };

const write = (config: unknown) =>
  writeFileSync(join(directory, 'config.json'), typeof config === 'string' ? config : JSON.stringify(config));
const frameworkOf = (name = 'model.safetensors') => findConfiguredFramework(join(directory, name));

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
  await findConfiguredFramework(join(directory, 'model.safetensors'), (path) => opened.push(path));
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
