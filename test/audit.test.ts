import { closeSync, copyFileSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit, auditCheckpoints } from '../src/audit.js';
import { createBaseline } from '../src/formats/baseline/make-baseline.js';
import { openCheckpoint } from '../src/formats/open.js';
import { inspectCheckpoint } from '../src/inspect.js';
import { checkpointOf, normTensors, tensorOf } from './build/checkpoints.js';
import { failureOf, usageFailureOf } from './build/failure.js';
import { graphOf, normNodeOf } from './build/layers.js';
import { makeTempDirectory } from './build/sources.js';

const pair = (name: string) =>
  fileURLToPath(new URL(`../fixtures/pairs/requires-grad-leak/${name}`, import.meta.url));

const conv = tensorOf('net.conv.weight', [1, 2], { shape: [2, 1] });
const fc = (value: number) => tensorOf('head.fc.weight', [value]);
const before = checkpointOf([conv, ...normTensors('net.bn'), fc(1)], { path: 'before.safetensors' });
const after = checkpointOf([conv, ...normTensors('net.bn', { mean: [1, 1], count: 22 }), fc(2)], {
  path: 'after.safetensors',
});

test('layers, learned tensors, regions and findings come together in one report', async () => {
  const report = await auditCheckpoints(before, after);
  expect(report.verdict).toBe('drifted');
  expect(report.layers.map(({ name, status }) => [name, status])).toEqual([['net.bn', 'drifted']]);
  expect(report.regions.map(({ path, status }) => [path, status])).toEqual([
    ['net', 'frozen'],
    ['head', 'trained'],
  ]);
  expect(report.findings.map(({ kind }) => kind)).toEqual(['frozen-stats-drift']);
  expect(report.summary.learned).toMatchObject({ compared: 4, equal: 3, changed: 1 });
});

describe.each([2, 3])('a Linear of %d inputs, which PaddlePaddle stores by inputs', (inputs) => {
  const values = (by: 'inputs' | 'outputs', change = 0) =>
    Array.from({ length: 2 * inputs }, (_, i) => {
      const [input, output] =
        by === 'inputs' ? [Math.floor(i / 2), i % 2] : [i % inputs, Math.floor(i / inputs)];
      return 10 * input + output + (i === 1 ? change : 0);
    });
  const torch = checkpointOf([
    tensorOf('net.fc.weight', values('outputs'), { shape: [2, inputs] }),
    ...normTensors('net.bn'),
  ]);
  const paddle = (change: number) =>
    checkpointOf([
      tensorOf('net.fc.weight', values('inputs', change), { shape: [inputs, 2] }),
      ...normTensors('net.bn', { mean: [1, 1], count: null }).map((tensor) => ({
        ...tensor,
        name: tensor.name.replace('running_mean', '_mean').replace('running_var', '_variance'),
      })),
    ]);

  test.each([
    [0, 'drifted', 'equal'],
    [1, 'affine-frozen', 'changed'],
  ])('changed by %d is %s beside the same one of PyTorch', async (change, status, neighbours) => {
    const pairs = [
      [torch, paddle(change)],
      [paddle(change), torch],
    ] as const;
    for (const [one, other] of pairs) {
      const { layers } = await auditCheckpoints(one, other);
      expect(layers).toMatchObject([{ name: 'net.bn', status, neighbours }]);
    }
  });
});

describe('checkpoints that stay open', () => {
  const open = async () => {
    const path = join(makeTempDirectory(), 'copy.safetensors');
    copyFileSync(pair('before.safetensors'), path);
    const [one, copy] = [await openCheckpoint(pair('before.safetensors')), await openCheckpoint(path)];
    const change = () => writeFileSync(path, readFileSync(pair('after.safetensors')));
    return { one, copy, change };
  };

  test('are audited as they are now, not as they were when they were opened', async () => {
    const { one, copy, change } = await open();
    expect((await auditCheckpoints(one, copy)).verdict).toBe('clean');
    change();
    const { verdict, summary } = await auditCheckpoints(one, copy);
    expect([verdict, summary.byStatus.drifted]).toEqual(['drifted', 8]);
    for (const checkpoint of [one, copy]) await checkpoint.close();
  });

  test('are inspected and kept as baselines as they are now', async () => {
    const { one, copy, change } = await open();
    const look = async () =>
      [await inspectCheckpoint(copy, { channels: true }), await createBaseline(copy)] as const;
    const [, baseline] = await look();
    const [before] = await look();
    change();
    const [after, changed] = await look();
    expect(after.layers[0]?.perChannel).not.toEqual(before.layers[0]?.perChannel);
    expect(Buffer.compare(baseline.bytes, changed.bytes)).not.toBe(0);
    for (const checkpoint of [one, copy]) await checkpoint.close();
  });
});

describe('options', () => {
  test('allow makes the verdict clean, and the layer says that it was allowed', async () => {
    const report = await auditCheckpoints(before, after, { allow: ['net'] });
    expect([report.verdict, report.layers[0]?.allowed, report.findings[0]?.level]).toEqual([
      'clean',
      true,
      'note',
    ]);
  });

  test('frozen insists on learned tensors too', async () => {
    const report = await auditCheckpoints(before, after, { frozen: ['head'] });
    expect(report.findings.map(({ kind, layer }) => `${kind} ${layer}`)).toContain(
      'frozen-weights-changed head.fc',
    );
  });

  test('frozen that means nothing is refused: it would be a silent pass', async () => {
    expect(
      await usageFailureOf(() => auditCheckpoints(before, after, { frozen: ['net', 'nekc\n'] })),
    ).toEqual({
      message: '--frozen "nekc\\n" matches no norm layer and no learned tensor of both checkpoints',
      hint: expect.stringContaining('backbone.layer1'),
    });
  });

  test('allow and map that mean nothing are said', async () => {
    const maps = [
      { from: 'nekc', to: 'net' },
      { from: '', to: '' },
    ];
    const { warnings } = await auditCheckpoints(before, after, { allow: ['net', 'nekc'], map: maps });
    expect(warnings).toEqual([
      '--allow "nekc" matches no norm layer',
      '--map "nekc=net" leads from no name of before to one of after: nothing was paired by it',
    ]);
  });

  test('epsilon is every layer’s', async () => {
    const [layer] = (await auditCheckpoints(before, after, { epsilon: 0.5 })).layers;
    expect([layer?.epsilon, layer?.epsilonFrom]).toEqual([0.5, 'option']);
  });

  test('progress ends at all bytes', async () => {
    const seen: number[] = [];
    await auditCheckpoints(before, after, { onProgress: ({ done, total }) => seen.push(done / total) });
    expect(seen.at(-1)).toBe(1);
  });
});

describe('what the file declares of the freeze', () => {
  const declared = (name: string) => fileURLToPath(new URL(`../fixtures/declared/${name}`, import.meta.url));
  const { files }: { readonly files: Record<string, { changed?: string[]; training: boolean | null }> } =
    JSON.parse(readFileSync(declared('expected.json'), 'utf8'));

  test.each(Object.entries(files))('%s', async (name, { changed = [], training }) => {
    const { layers, findings } = await audit(declared('before.pt'), declared(name));
    expect(layers.map((layer) => layer.declared?.training ?? null)).toEqual([training, training]);
    expect(
      findings.filter(({ kind }) => kind === 'declared-frozen-changed').map(({ layer }) => layer),
    ).toEqual(changed);
  });

  test('stands beside each layer, with where it was read', async () => {
    const { layers, warnings } = await audit(declared('before.pt'), declared('requires-grad.pt'));
    expect(layers[0]?.declared).toEqual({
      side: 'after',
      frozen: true,
      by: 'no-optimizer-state',
      where: 'optimizer.state',
      training: null,
      evalBy: null,
    });
    expect(warnings).toEqual(['declared frozen: 8 of 10 parameters (no optimizer state)']);
  });

  test('is before’s word where after has none', async () => {
    const { layers } = await audit(declared('head-only.pt'), declared('before.pt'));
    expect(layers[0]?.declared).toMatchObject({ side: 'before', by: 'not-in-optimizer' });
  });

  test('is asserted with frozen auto, beside globs', async () => {
    const report = await audit(declared('before.pt'), declared('frozen-yet-changed.pt'), {
      frozen: ['auto', 'head'],
    });
    expect(report.findings.map(({ kind, level, layer }) => `${level} ${kind} ${layer}`)).toEqual([
      'error frozen-stats-drift backbone.1',
      'error frozen-stats-drift backbone.4',
      'error frozen-weights-changed head',
      'error frozen-weights-changed head',
      'error declared-frozen-changed backbone.0',
    ]);
  });

  test('is refused as frozen auto where there is none', async () => {
    expect(
      await usageFailureOf(() =>
        audit(declared('before.pt'), declared('sgd-plain.pt'), { frozen: ['auto'] }),
      ),
    ).toMatchObject({ message: expect.stringContaining('--frozen auto') });
  });

  test('leaves layers without a word as they were', async () => {
    expect('declared' in ((await auditCheckpoints(before, after)).layers[0] ?? {})).toBe(false);
  });
});

describe('one side a graph, the other names', () => {
  const graph = graphOf([normNodeOf('net.bn', { neighbours: ['net.conv.weight'] })]);
  const exported = checkpointOf([conv, fc(1)], { path: 'after.onnx', format: 'ONNX', graph });

  test('pair by name, with the graph’s epsilon', async () => {
    const { layers } = await auditCheckpoints(before, exported);
    expect(layers).toMatchObject([
      {
        name: 'net.bn',
        kind: 'BatchNorm',
        status: 'locked',
        batches: null,
        epsilonFrom: 'graph',
        neighbours: 'equal',
      },
    ]);
  });
});

describe('what cannot be audited', () => {
  test('a checkpoint without norm layers', async () => {
    const without = checkpointOf([fc(1)], { path: 'plain.safetensors' });
    for (const sides of [[before, without] as const, [without, before] as const]) {
      expect(await failureOf(() => auditCheckpoints(...sides))).toEqual({
        message: 'expected norm layers with running statistics, found no BatchNorm layer: nothing to audit',
        code: 'no-norm-layers',
        file: 'plain.safetensors',
      });
    }
  });

  test('checkpoints of which nothing pairs', async () => {
    const other = checkpointOf(normTensors('other.norm', { mean: [1, 2, 3] }), { path: 'other.safetensors' });
    expect(await failureOf(() => auditCheckpoints(before, other))).toEqual({
      message:
        'none of its norm layers ("other.norm") goes with one in "before.safetensors" ("net.bn"): nothing was paired; for "net.bn" of before, nearest is "other.norm", which has 3 channels in place of 2',
      code: 'nothing-paired',
      file: 'other.safetensors',
      hint: 'Are these checkpoints of the same model? If only the names differ, say how: --map FROM=TO',
    });
  });
});

describe('files', () => {
  const directory = makeTempDirectory();

  /** The number that the next opened file gets: the lowest that is free. */
  const nextDescriptor = () => {
    const descriptor = openSync('/dev/null', 'r');
    closeSync(descriptor);
    return descriptor;
  };

  test('are closed after an audit, and after one that failed', async () => {
    const broken = join(directory, 'broken.safetensors');
    writeFileSync(broken, 'broken');
    const first = nextDescriptor();
    await audit(pair('before.safetensors'), pair('after.safetensors'));
    await failureOf(() => audit(pair('before.safetensors'), broken));
    await failureOf(() => audit(broken, pair('before.safetensors')));
    await usageFailureOf(() =>
      audit(pair('before.safetensors'), pair('after.safetensors'), { frozen: ['x'] }),
    );
    expect(nextDescriptor()).toBe(first);
  });
});
