import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit, auditCheckpoints } from '../../src/audit.js';
import type { Checkpoint, Declaration, Tensor } from '../../src/checkpoint/checkpoint.js';
import { openCheckpoint } from '../../src/formats/open.js';
import { inspectCheckpoint } from '../../src/inspect.js';
import { describeAdapter, leaveOutOriginals, putOnBase } from '../../src/norm/adapters.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';
import { safetensorsBytes } from '../build/safetensors.js';
import { makeTempDirectory } from '../build/sources.js';

const weight = (name: string, value = 1) => tensorOf(name, [value, 2], { shape: [2, 1] });
const MOVED = { mean: [1, 1], count: 12 };

/** conv1, bn1 and norm2 under one model, and a head. */
const base = (prefix = '') =>
  checkpointOf([
    weight(`${prefix}conv1.weight`),
    ...normTensors(`${prefix}bn1`),
    weight(`${prefix}conv2.weight`),
    ...normTensors(`${prefix}norm2`),
    weight(`${prefix}fc.weight`),
  ]);

const config = (overrides: Partial<Extract<Declaration, { kind: 'adapter' }>> = {}): Declaration => ({
  kind: 'adapter',
  where: 'adapter_config.json',
  method: 'LORA',
  base: null,
  targets: ['fc'],
  saved: ['bn1'],
  trainsBiases: false,
  ...overrides,
});

/** What PEFT saves of LoRA on a layer and what it trains as a whole beside. */
const adapterOf = (saved: readonly Tensor[], on = 'fc', declaration: Declaration | null = config()) =>
  checkpointOf(
    [
      ...saved,
      tensorOf(`base_model.model.${on}.lora_A.weight`, [1, 1], { shape: [2, 1] }),
      tensorOf(`base_model.model.${on}.lora_B.weight`, [1, 1], { shape: [2, 1] }),
    ],
    { path: 'adapter', declarations: declaration === null ? [] : [declaration] },
  );

const statusesOf = async (before: Checkpoint, after: Checkpoint) =>
  Object.fromEntries(
    (await auditCheckpoints(before, after)).layers.map(({ name, status }) => [
      name.replace('base_model.model.', ''),
      status,
    ]),
  );

describe('an adapter', () => {
  test('is called by its method and its base', () => {
    const describeIt = (declaration: Declaration | null) => describeAdapter(adapterOf([], 'fc', declaration));
    expect(describeIt(config({ base: 'timm/resnet18\n' }))).toBe('an adapter (LoRA) of "timm/resnet18\\n"');
    expect(describeIt(config({ method: 'OFT' }))).toBe('an adapter (OFT)');
    expect(describeIt(config({ method: '\u001b[31m' }))).toBe('an adapter (LoRA or its like)');
    expect(describeIt(null)).toBe('an adapter (LoRA or its like)');
  });

  test('beside its model is none', () => {
    const names = ['base_model.model.fc.base_layer.weight', 'base_model.model.fc.lora_A.default.weight'];
    expect(describeAdapter(checkpointOf(names.map((name) => weight(name))))).toBeNull();
    expect(describeAdapter(base())).toBeNull();
    // A merged model in a directory with the adapter's configuration.
    expect(describeAdapter({ ...base(), declarations: [config()] })).toBeNull();
  });

  test('without statistics is refused with what it is, in both commands', async () => {
    const adapter = adapterOf([], 'fc', config({ base: 'timm/resnet18' }));
    for (const look of [() => auditCheckpoints(base(), adapter), () => inspectCheckpoint(adapter)]) {
      const { message, hint } = await failureOf(look);
      expect(message).toContain('found no BatchNorm layer');
      expect(hint).toMatch(/an adapter \(LoRA\) of "timm\/resnet18" without the model.*merge_and_unload/);
    }
  });

  test('inspected, says that it is one', async () => {
    const { layers, warnings } = await inspectCheckpoint(adapterOf(normTensors('base_model.model.bn1')));
    expect(layers.map(({ name }) => name)).toEqual(['base_model.model.bn1']);
    expect(warnings).toEqual([expect.stringContaining('it is an adapter (LoRA) without the model')]);
  });
});

describe('statistics that an adapter saves are audited against its base', () => {
  const saved = normTensors('base_model.model.bn1', MOVED);

  test('what it lacks is the base’s, and that is said', async () => {
    const report = await auditCheckpoints(base(), adapterOf(saved));
    expect(report.layers.map(({ name, status, pairedBy }) => [name, status, pairedBy])).toEqual([
      ['base_model.model.bn1', 'drifted', 'name'],
      ['base_model.model.norm2', 'locked', 'name'],
    ]);
    expect(report.findings.map(({ kind }) => kind)).toEqual(['frozen-stats-drift']);
    expect(report.warnings).toEqual(
      expect.arrayContaining([expect.stringMatching(/taken from before.*1 norm layer \("norm2"\)/)]),
    );
  });

  test('whatever wraps the base', async () => {
    for (const prefix of ['module.', 'model.', 'state_dict.net.'])
      expect(await statusesOf(base(prefix), adapterOf(saved))).toEqual({ bn1: 'drifted', norm2: 'locked' });
  });

  test('a layer with an adapter was trained, so that the norm layer that it feeds did not drift', async () => {
    expect(await statusesOf(base(), adapterOf(saved, 'conv1'))).toMatchObject({ bn1: 'affine-frozen' });
  });

  test('one that stood still is clean', async () => {
    const report = await auditCheckpoints(base(), adapterOf(normTensors('base_model.model.bn1')));
    expect([report.verdict, report.summary.byStatus.locked]).toEqual(['clean', 2]);
  });

  test('two adapters are compared with each other', async () => {
    const [before, after] = [adapterOf(normTensors('base_model.model.bn1')), adapterOf(saved)];
    expect(await statusesOf(before, after)).toEqual({ bn1: 'drifted' });
  });

  test('an adapter of another model is left as it is', () => {
    const other = adapterOf(normTensors('base_model.model.encoder.bn9', MOVED));
    expect(putOnBase(other, base())).toBe(other);
  });
});

describe('a model with an adapter', () => {
  const at = (rest: string) => `base_model.model.bn1.${rest}`;
  const live = checkpointOf([
    weight('base_model.model.conv1.weight'),
    ...normTensors(at('original_module')),
    ...normTensors(at('modules_to_save.default'), MOVED),
    weight('base_model.model.fc.base_layer.weight'),
  ]);

  test('is audited by the copies that PEFT trains, not by the originals beside them', async () => {
    const after = leaveOutOriginals(live);
    const report = await auditCheckpoints(base(), after);
    expect(report.layers.map(({ name, status, pairedBy }) => [name, status, pairedBy])).toEqual([
      ['base_model.model.bn1', 'drifted', 'name'],
    ]);
    expect(report.layers[0]?.after.mean).toContain('modules_to_save.default.running_mean');
    expect(after.warnings).toEqual([
      expect.stringContaining('the original left out: "base_model.model.bn1"'),
    ]);
  });

  test('leaves them out of an averaged copy as well', async () => {
    const copy = { path: 'ema', of: 'model', open: async () => live };
    const { copies } = leaveOutOriginals({ ...live, copies: [copy] });
    const opened = await copies?.[0]?.open();
    expect([...(opened?.tensors.keys() ?? [])].filter((name) => name.includes('original'))).toEqual([]);
  });

  test('keeps the copies of two adapters apart', async () => {
    const two = checkpointOf([
      ...normTensors(at('modules_to_save.one')),
      ...normTensors(at('modules_to_save.two'), MOVED),
    ]);
    expect((await inspectCheckpoint(two)).layers.map(({ name }) => name)).toEqual([
      at('modules_to_save.one'),
      at('modules_to_save.two'),
    ]);
  });

  test('without trained copies keeps its originals', () => {
    const own = checkpointOf(normTensors('net.original_module.bn'));
    expect(leaveOutOriginals(own)).toBe(own);
  });
});

test('a directory opens as an adapter, and nothing is written into before', async () => {
  const root = makeTempDirectory();
  const bytesOf = ({ tensors }: Checkpoint) =>
    safetensorsBytes(
      Object.fromEntries(
        [...tensors].map(([name, { dtype, shape, range }]) => {
          const data = new Uint8Array(range.byteLength);
          range.source.readInto(data, range.offset);
          return [name, { dtype, shape, data }];
        }),
      ),
    );
  mkdirSync(join(root, 'adapter'));
  writeFileSync(join(root, 'base.safetensors'), bytesOf(base()));
  const saved = adapterOf(normTensors('base_model.model.bn1', MOVED));
  writeFileSync(join(root, 'adapter', 'adapter_model.safetensors'), bytesOf(saved));
  const settings = { peft_type: 'LORA', base_model_name_or_path: 'm', target_modules: ['fc'] };
  writeFileSync(join(root, 'adapter', 'adapter_config.json'), JSON.stringify(settings));
  const opened = await openCheckpoint(join(root, 'adapter'));
  expect(describeAdapter(opened)).toBe('an adapter (LoRA) of "m"');
  await opened.close();
  const report = await audit(join(root, 'base.safetensors'), join(root, 'adapter'));
  expect(report.summary.byStatus).toMatchObject({ drifted: 1, locked: 1 });
});

test('an adapter that PEFT wrote is audited as the model that PEFT merges it into', async () => {
  const at = (name: string) => fileURLToPath(new URL(`../../fixtures/peft/${name}`, import.meta.url));
  const layersOf = async (after: string) =>
    (await audit(at('base.safetensors'), at(after))).layers.map(
      ({ name, status, batches, meanShift, logStdRatio, outputShift }) => ({
        name: name.replace(/^base_model\.model\./, ''),
        ...{ status, batches, meanShift, logStdRatio, outputShift },
      }),
    );
  const layers = await layersOf('adapter');
  expect(layers).toEqual(await layersOf('merged.safetensors'));
  expect(layers.map(({ name, status }) => [name, status])).toEqual([
    ['bn1', 'drifted'],
    ['norm2', 'locked'],
  ]);
});
