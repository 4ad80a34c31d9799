import { readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../../../src/audit.js';
import { openCheckpoint } from '../../../src/formats/open.js';
import { render } from '../../../src/report/render.js';
import { restore } from '../../../src/restore/restore.js';
import { f32 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { makeTempDirectory } from '../../build/sources.js';
import { arrayOf, type Packable, pack } from './build/msgpack-writer.js';

const DIRECTORY = resolve(import.meta.dirname, '../../../fixtures/flax');
const out = makeTempDirectory();

/** The JSON of an audit of two fixtures, but for their names and formats. */
async function auditOf(kind: string, select?: string): Promise<unknown> {
  const [before, after] = [`before${kind}`, `after${kind}`].map((name) => join(DIRECTORY, name));
  const json = render(await audit(before ?? '', after ?? '', { select }), { format: 'json' });
  const report = JSON.parse(json);
  for (const side of [report.before, report.after]) {
    delete side.path;
    delete side.format;
  }
  return report;
}

describe('an audit of Flax’ msgpack', () => {
  test.each(['.msgpack', '-chunked.msgpack'])('before%s says what one of safetensors says', async (kind) => {
    expect(await auditOf(kind)).toEqual(await auditOf('.safetensors'));
  });

  test('measures what NumPy does', async () => {
    const { meanShiftRms } = JSON.parse(readFileSync(join(DIRECTORY, 'expected.json'), 'utf8'));
    const { layers, verdict } = await audit(
      join(DIRECTORY, 'before.msgpack'),
      join(DIRECTORY, 'after.msgpack'),
    );
    expect(verdict).toBe('drifted');
    expect(layers.map(({ name }) => name).sort()).toEqual(Object.keys(meanShiftRms).sort());
    for (const { name, meanShift } of layers) expect(meanShift?.rms).toBeCloseTo(meanShiftRms[name], 9);
  });

  test('leaves the optimizer, the step and averages of a training state out', async () => {
    const { tensors, warnings } = await openCheckpoint(join(DIRECTORY, 'before-state.msgpack'));
    const plain = await openCheckpoint(join(DIRECTORY, 'before.msgpack'));
    expect([...tensors.keys()].sort()).toEqual([...plain.tensors.keys()].sort());
    expect(warnings).toEqual(['"ema_params" holds averaged variables and was left aside']);
  });

  test('reads several models side by side, or one that is selected', async () => {
    const report = await audit(join(DIRECTORY, 'before-two.msgpack'), join(DIRECTORY, 'after-two.msgpack'));
    const statuses = Object.fromEntries(report.layers.map(({ name, status }) => [name, status]));
    expect(statuses).toEqual({
      'generator.backbone.BatchNorm_0': 'drifted',
      'generator.backbone.BatchNorm_1': 'drifted',
      'discriminator.backbone.BatchNorm_0': 'locked',
      'discriminator.backbone.BatchNorm_1': 'locked',
    });
    expect(await auditOf('-two.msgpack', 'generator')).toEqual(await auditOf('.safetensors'));
    const failure = await failureOf(() => auditOf('-two.msgpack', 'elsewhere'));
    expect(failure.hint).toContain('generator, discriminator');
  });

  test('reads bfloat16', async () => {
    const { tensors } = await openCheckpoint(join(DIRECTORY, 'before-bfloat16.msgpack'));
    expect([...tensors.values()].every(({ dtype }) => dtype === 'BF16')).toBe(true);
  });

  test('restores into a file that Flax wrote', async () => {
    const [before, after, fixed] = [
      join(DIRECTORY, 'before.msgpack'),
      join(DIRECTORY, 'after.msgpack'),
      join(out, 'fixed.msgpack'),
    ];
    expect((await restore(before, after, fixed)).outcome).toBe('restored');
    expect((await audit(before, fixed)).verdict).toBe('clean');
  });
});

describe('the variables in', () => {
  const bn = { mean: arrayOf(), var: arrayOf() };
  const scale = { scale: arrayOf() };
  const trees: readonly (readonly [what: string, tree: Packable, names: readonly string[]])[] = [
    [
      'variables that are called params',
      { params: { params: { bn: scale }, batch_stats: { bn } } },
      ['params/bn/scale', 'batch_stats/bn/mean', 'batch_stats/bn/var'],
    ],
    [
      'two places',
      {
        params: { bn: scale },
        model_state: { batch_stats: { bn } },
        opt_state: { 0: { mu: { params: { bn: scale } } } },
      },
      ['params/bn/scale', 'batch_stats/bn/mean', 'batch_stats/bn/var'],
    ],
    [
      'an optimizer of flax.optim',
      {
        optimizer: { target: { bn: scale }, state: { step: arrayOf() } },
        model_state: { batch_stats: { bn } },
      },
      ['params/bn/scale', 'batch_stats/bn/mean', 'batch_stats/bn/var'],
    ],
    [
      'modules of NNX, without collections',
      { bn: { ...bn, ...scale }, loss: { kernel: arrayOf() } },
      ['bn/mean', 'bn/var', 'bn/scale', 'loss/kernel'],
    ],
    [
      'a network that is called a loss',
      { loss: { params: { bn: scale } }, net: { params: { bn: scale } } },
      ['params/loss/bn/scale', 'params/net/bn/scale'],
    ],
    ['an average alone', { ema: { params: { bn: scale } } }, ['params/bn/scale']],
    [
      'an average beside the model',
      { ema: { params: { bn: scale } }, net: { params: { bn: scale } } },
      ['params/bn/scale'],
    ],
    [
      'other collections',
      {
        params: { bn: scale },
        cache: { k: arrayOf() },
        dropout_rng: arrayOf({ type: 'uint32' }),
        step: arrayOf(),
      },
      ['params/bn/scale', 'cache/k'],
    ],
  ];

  test.each(trees)('%s', async (_, tree, names) => {
    const path = join(out, 'tree.msgpack');
    writeFileSync(path, pack(tree));
    const { tensors } = await openCheckpoint(path);
    expect([...tensors.keys()]).toEqual(names);
  });

  test('a directory of transformers', async () => {
    const directory = makeTempDirectory();
    writeFileSync(join(directory, 'flax_model.msgpack'), pack({ params: { bn: scale } }));
    expect([...(await openCheckpoint(directory)).tensors.keys()]).toEqual(['params/bn/scale']);
  });
});

test('arrays that come to one name, no arrays, and names that steer a terminal are refused', async () => {
  const path = join(out, 'hostile.msgpack');
  const messageOf = async (tree: Packable) => {
    writeFileSync(path, pack(tree));
    return (await failureOf(() => openCheckpoint(path))).message;
  };
  expect(await messageOf({ params: { 'a/b': arrayOf(), a: { b: arrayOf() } } })).toContain(
    'one array at "params/a/b", found two',
  );
  expect(await messageOf({ params: 'none' })).toContain('expected arrays of Flax');
  expect(
    await messageOf({
      params: { '\u001b[2J': { a: arrayOf() }, '\u001b[2J/a': arrayOf({ data: f32(1, 2, 3, 4) }) },
    }),
  ).toContain('\\x1b[2J');
});
