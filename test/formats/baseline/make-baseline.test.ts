import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../../src/audit.js';
import type { Checkpoint, Tensor } from '../../../src/checkpoint/checkpoint.js';
import type { DType } from '../../../src/checkpoint/dtype.js';
import { CheckpointError } from '../../../src/errors.js';
import { createBaseline } from '../../../src/formats/baseline/make-baseline.js';
import { openCheckpoint, openSource } from '../../../src/formats/open.js';
import { readSafetensorsHeader } from '../../../src/formats/safetensors/safetensors.js';
import { inspectCheckpoint } from '../../../src/inspect.js';
import { memorySource } from '../../../src/io/byte-source.js';
import { stridedSource } from '../../../src/io/views.js';
import { findLayersAndLearned } from '../../../src/norm/find-layers.js';
import type { AuditLayer, AuditReport } from '../../../src/report/audit-report.js';
import { checkpointOf, normTensors, tensorOf } from '../../build/checkpoints.js';
import { failureOf } from '../../build/failure.js';
import { graphOf, linearNodeOf } from '../../build/layers.js';
import { resnet50 } from '../../build/resnet50.js';

const pairs = fileURLToPath(new URL('../../../fixtures/pairs', import.meta.url));
const containers = fileURLToPath(new URL('../../../fixtures/containers', import.meta.url));

/** What no two formats share: folded files are audited by arithmetic. */
const BEFORE_ENDINGS = [
  'safetensors',
  'pt',
  'live.onnx',
  'fold.onnx',
  'dynamo-live.onnx',
  'dynamo.onnx',
  'external.onnx',
];

const scenarios = readdirSync(pairs).sort();

async function open(path: string): Promise<Checkpoint> {
  return openCheckpoint(path);
}

async function openBytes(bytes: Uint8Array, path = 'backbone.bn.safetensors'): Promise<Checkpoint> {
  return openSource(memorySource(path, bytes), path);
}

async function baselineOf(checkpoint: Checkpoint): Promise<Checkpoint> {
  return openBytes((await createBaseline(checkpoint)).bytes);
}

const MEASURES = ['meanShift', 'logStdRatio', 'divergence', 'outputShift', 'perChannel'] as const;

/** What an audit says, in an order that does not depend on that of the tensors in before. */
function factsOf(report: AuditReport) {
  const byName = <Item extends { name: string }>(items: readonly Item[]) =>
    [...items].sort((x, y) => (x.name < y.name ? -1 : 1));
  const withoutMeasures = (layer: AuditLayer) =>
    Object.fromEntries(Object.entries(layer).filter(([key]) => !MEASURES.some((measure) => measure === key)));
  return {
    verdict: report.verdict,
    layers: byName(report.layers).map(withoutMeasures),
    learned: report.summary.learned,
    regions: [...report.regions].sort((x, y) => (x.path < y.path ? -1 : 1)),
    findings: report.findings.map(({ kind, level, layer }) => `${level} ${kind} ${layer}`).sort(),
  };
}

/** Largest differences of the folded side's statistics and of σ, in σ of before. */
function recoveryErrors(one: AuditLayer, other: AuditLayer, side: 'before' | 'after'): readonly number[] {
  const [x, y] = [one.perChannel?.[side], other.perChannel?.[side]];
  if (x == null || y == null) return [];
  return x.mean.flatMap((mean, channel) => {
    const varianceOf = (values: typeof x) => (values.variance[channel] ?? Number.NaN) + one.epsilon;
    const sigma = Math.sqrt(varianceOf(y));
    return [
      Math.abs(mean - (y.mean[channel] ?? Number.NaN)) / sigma,
      Math.abs(Math.sqrt(varianceOf(x)) - sigma) / sigma,
    ];
  });
}

function expectSameMeasures(one: AuditLayer, other: AuditLayer): void {
  if (other.via === 'live') {
    for (const measure of MEASURES) expect(one[measure], `${one.name} ${measure}`).toEqual(other[measure]);
    return;
  }
  for (const side of ['before', 'after'] as const) {
    const errors = recoveryErrors(one, other, side).filter((error) => !Number.isNaN(error));
    expect(Math.max(0, ...errors), `${one.name}: ${side}, in σ`).toBeLessThan(1e-6);
  }
  const rmsOf = (layer: AuditLayer) => [layer.meanShift?.rms ?? -1, layer.logStdRatio?.rms ?? -1];
  for (const [index, rms] of rmsOf(one).entries()) {
    const expected = rmsOf(other)[index] ?? Number.NaN;
    expect(
      Number.isNaN(rms) ? Number.isNaN(expected) : Math.abs(rms - expected) < 1e-6,
      `${one.name}: ${rms}, ${expected}`,
    ).toBe(true);
  }
}

async function auditOrCode(before: Checkpoint, after: Checkpoint): Promise<AuditReport | string> {
  try {
    return await auditCheckpoints(before, after, { channels: true });
  } catch (error) {
    if (error instanceof CheckpointError) return error.code;
    throw error;
  }
}

describe.each(scenarios)(
  '%s: an audit against a baseline says what one against its source says',
  (scenario) => {
    const directory = join(pairs, scenario);
    const cases = BEFORE_ENDINGS.filter((ending) => existsSync(join(directory, `before.${ending}`))).flatMap(
      (ending) =>
        readdirSync(directory)
          .filter((name) => name.startsWith('after.') && !name.endsWith('.data'))
          .map((after) => [`before.${ending}`, after] as const),
    );

    /** The bytes of the baseline of each before, which is the same against every after. */
    const baselines = new Map<string, Uint8Array>();
    const baselineOfFile = async (name: string, source: Checkpoint) => {
      const bytes = baselines.get(name) ?? (await createBaseline(source)).bytes;
      baselines.set(name, bytes);
      return openBytes(bytes);
    };

    test.each(cases)('%s → %s', async (beforeName, afterName) => {
      const source = await open(join(directory, beforeName));
      const after = await open(join(directory, afterName));
      if (findLayersAndLearned(source).layers.length === 0 && source.graph === null) {
        expect(await failureOf(() => createBaseline(source))).toMatchObject({ code: 'no-norm-layers' });
        return;
      }
      const expected = await auditOrCode(source, after);
      const found = await auditOrCode(await baselineOfFile(beforeName, source), after);
      if (typeof expected === 'string' || typeof found === 'string') {
        expect(found).toBe(expected);
        return;
      }
      expect(found.before.format).toBe('baseline');
      expect(factsOf(found)).toEqual(factsOf(expected));
      for (const layer of found.layers) {
        const other = expected.layers.find(({ name }) => name === layer.name);
        if (other !== undefined) expectSameMeasures(layer, other);
      }
      await source.close();
      await after.close();
    });
  },
);

test('a baseline stands as after too, and between two baselines', async () => {
  const directory = join(pairs, 'requires-grad-leak');
  const [before, after] = [
    await open(join(directory, 'before.safetensors')),
    await open(join(directory, 'after.safetensors')),
  ];
  const expected = factsOf(await auditCheckpoints(before, after));
  expect(factsOf(await auditCheckpoints(before, await baselineOf(after)))).toEqual(expected);
  expect(factsOf(await auditCheckpoints(await baselineOf(before), await baselineOf(after)))).toEqual(
    expected,
  );
});

test('a folded baseline stands as after of a live checkpoint, and of another folded baseline', async () => {
  const directory = join(pairs, 'requires-grad-leak');
  const live = await open(join(directory, 'before.live.onnx'));
  const [before, after] = [
    await open(join(directory, 'before.fold.onnx')),
    await open(join(directory, 'after.fold.onnx')),
  ];
  expect(factsOf(await auditCheckpoints(live, await baselineOf(after)))).toEqual(
    factsOf(await auditCheckpoints(live, after)),
  );
  expect(factsOf(await auditCheckpoints(await baselineOf(before), await baselineOf(after)))).toEqual(
    factsOf(await auditCheckpoints(before, after)),
  );
});

test('inspecting a baseline says what inspecting its source says', async () => {
  for (const name of ['before.safetensors', 'before.live.onnx']) {
    const source = await open(join(pairs, 'requires-grad-leak', name));
    const [expected, found] = [
      await inspectCheckpoint(source),
      await inspectCheckpoint(await baselineOf(source)),
    ];
    expect(found.layers.length).toBeGreaterThan(0);
    for (const layer of expected.layers)
      expect(found.layers.find((other) => other.name === layer.name)).toEqual(layer);
  }
});

describe('containers of PyTorch and others', () => {
  const files = readdirSync(containers).filter((name) => /\.(?:pt|ckpt|tar|safetensors)$/.test(name));
  const quantised = 'with-quantized.pt';

  test(`${quantised}: has none`, async () => {
    const source = await open(join(containers, quantised));
    expect((await failureOf(() => createBaseline(source))).code).toBe('unsupported');
  });

  test.each(files.filter((name) => name !== quantised))(
    '%s: its baseline has the same layers and learned tensors, and finds it unchanged',
    async (name) => {
      const source = await open(join(containers, name)).catch(() => null);
      if (source === null || findLayersAndLearned(source).layers.length === 0) return;
      const baseline = await baselineOf(source);
      const report = await auditCheckpoints(baseline, source);
      expect(report.before).toMatchObject({ layers: report.after.layers, learned: report.after.learned });
      expect(report.summary.learned).toMatchObject({
        changed: 0,
        onlyBefore: 0,
        onlyAfter: 0,
        incomparable: 0,
      });
      const self = await auditCheckpoints(source, source);
      expect(factsOf(report)).toEqual(factsOf(self));
    },
  );
});

describe('the same checkpoint gives the same bytes', () => {
  const tensors = [
    tensorOf(
      'conv1.weight',
      Array.from({ length: 36 }, (_, i) => Math.sin(i)),
      { shape: [2, 2, 3, 3] },
    ),
    ...normTensors('bn1'),
    tensorOf('head.weight', [1, 2, 3, 4], { shape: [2, 2] }),
  ];

  test('again and again', async () => {
    const source = await open(join(pairs, 'requires-grad-leak', 'before.pt'));
    expect((await createBaseline(source)).bytes).toEqual((await createBaseline(source)).bytes);
  });

  test('wherever the file lies: the name is kept, the directories are not', async () => {
    const here = await createBaseline(checkpointOf(tensors, { path: 'base.safetensors' }));
    for (const path of [
      '/home/somebody/secret/base.safetensors',
      'C:\\models\\base.safetensors',
      'x/base.safetensors/',
    ])
      expect((await createBaseline(checkpointOf(tensors, { path }))).bytes).toEqual(here.bytes);
    const { metadata } = await readSafetensorsHeader(memorySource('b', here.bytes));
    expect(metadata.get('bn-audit.source')).toBe('base.safetensors');
  });

  test('in whatever order a safetensors file has its tensors', async () => {
    const one = await createBaseline(checkpointOf(tensors));
    expect((await createBaseline(checkpointOf(tensors.toReversed()))).bytes).toEqual(one.bytes);
  });

  test('but module order, where the format has one, is kept', async () => {
    const ordered = checkpointOf(tensors, { inModuleOrder: true });
    const reopened = await baselineOf(ordered);
    expect(reopened.inModuleOrder).toBe(true);
    expect([...reopened.tensors.keys()]).toEqual(tensors.map(({ name }) => name));
  });

  test('whatever the sign of its zeros', async () => {
    const withZeros = (zero: number) => [...normTensors('bn1'), tensorOf('fc.weight', [zero, 1])];
    const one = await createBaseline(checkpointOf(withZeros(0)));
    expect((await createBaseline(checkpointOf(withZeros(-0)))).bytes).toEqual(one.bytes);
  });
});

test('the file is plain safetensors with PyTorch’s names, little data and documented metadata', async () => {
  const { bytes } = await createBaseline(await open(join(pairs, 'requires-grad-leak', 'before.safetensors')));
  const { tensors, metadata } = await readSafetensorsHeader(memorySource('b', bytes));
  expect(tensors.get('backbone.stem.bn.running_mean')).toMatchObject({ dtype: 'F32', shape: [4] });
  expect(tensors.get('backbone.stem.bn.num_batches_tracked')).toMatchObject({ dtype: 'I64', shape: [] });
  expect(tensors.get('backbone.stem.conv.weight.projections')).toMatchObject({ dtype: 'F32', shape: [4, 4] });
  expect([...tensors.keys()].filter((name) => name.endsWith('conv.weight'))).toEqual([]);
  expect([...metadata.keys()]).toEqual([
    'bn-audit.baseline',
    'bn-audit.source',
    'bn-audit.format',
    'bn-audit.order',
    'bn-audit.tensors',
  ]);
  const entries = JSON.parse(metadata.get('bn-audit.tensors') ?? '');
  expect(entries['backbone.stem.bn.running_var']).toEqual({ dtype: 'F32', shape: [4], values: true });
  expect(entries['backbone.stem.conv.weight']).toEqual({
    dtype: 'F32',
    shape: [4, 3, 3, 3],
    sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
    projections: { weights: 27 },
    sample: true,
  });
  // 8-byte elements first, so that every tensor is aligned, and the header padded.
  const headerLength = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  expect(headerLength % 8).toBe(0);
  for (const { range, dtype } of tensors.values()) expect(range.offset % (dtype === 'I64' ? 8 : 4)).toBe(0);
});

test('names of Keras and Flax layers become PyTorch’s in the file, and stay their own in the checkpoint', async () => {
  const source = checkpointOf([
    tensorOf('block/bn/gamma', [1, 2]),
    tensorOf('block/bn/beta', [3, 4]),
    tensorOf('block/bn/moving_mean', [5, 6]),
    tensorOf('block/bn/moving_variance', [7, 8]),
  ]);
  const { bytes } = await createBaseline(source);
  const { tensors } = await readSafetensorsHeader(memorySource('b', bytes));
  expect([...tensors.keys()]).toEqual([
    'block.bn.bias',
    'block.bn.running_mean',
    'block.bn.running_var',
    'block.bn.weight',
  ]);
  const reopened = await openBytes(bytes);
  expect(new Set(reopened.tensors.keys())).toEqual(new Set(source.tensors.keys()));
  expect((await auditCheckpoints(reopened, source)).summary.byStatus.locked).toBe(1);
});

test('a ResNet-50’s baseline is under a megabyte', async () => {
  const { bytes, layers, learned, projected } = await createBaseline(resnet50());
  expect({ layers, learned, projected }).toEqual({ layers: 53, learned: 161, projected: 53 });
  expect(bytes.byteLength).toBeLessThan(1_000_000);
});

test('a weight that two layers claim is projected on its first dimension', async () => {
  // Pre-activation: `norm1` stands before the convolution, whose second dimension fits it, and `norm2` behind.
  const weights = Array.from({ length: 24 }, (_, i) => Math.sin(i + 1));
  const source = checkpointOf([
    tensorOf('conv1.weight', weights, { shape: [2, 3, 2, 2] }),
    ...normTensors('norm1', { mean: [1, 2, 3] }),
    ...normTensors('norm2'),
  ]);
  const weight = (await baselineOf(source)).tensors.get('conv1.weight');
  expect(weight?.fingerprint?.projections?.layout).toEqual({ outputAxis: 0, groups: 1 });
});

test('every weight is projected that may feed a layer of which names leave open what does', async () => {
  const weight = (name: string) => tensorOf(`${name}.weight`, [1, 2, 3, 5], { shape: [2, 2, 1, 1] });
  // As many inputs as outputs everywhere: `bn2` may come before `conv2` as well.
  const source = checkpointOf([
    weight('conv1'),
    weight('conv2'),
    ...normTensors('bn1'),
    ...normTensors('bn2'),
  ]);
  expect((await createBaseline(source)).projected).toBe(2);
});

describe('a learned tensor whose type changed since', () => {
  const weights = Array.from({ length: 72 }, (_, i) => Math.sin(i + 1) / 3);
  const model = (dtype: 'F32' | 'F16', change: (weight: number) => number = (weight) => weight) => [
    tensorOf('conv1.weight', weights.map(change), { dtype, shape: [2, 4, 3, 3] }),
    ...normTensors('bn1', { weight: [1.5, 0.5], mean: dtype === 'F32' ? [0, 0] : [1, 1] }),
    tensorOf('fc.weight', [1, 2, 3, 4].map(change), { dtype, shape: [2, 2] }),
  ];
  const audit = async (after: readonly Tensor[]) =>
    auditCheckpoints(await baselineOf(checkpointOf(model('F32'))), checkpointOf(after));

  test('is compared by its sample', async () => {
    const report = await audit(model('F16'));
    expect(report.summary.learned).toMatchObject({ equal: 4, incomparable: 0, changed: 0 });
    expect(report.layers[0]).toMatchObject({ status: 'drifted', affine: 'equal', neighbours: 'equal' });
  });

  test('is changed where that moved by more than rounding', async () => {
    const report = await audit(model('F16', (weight) => weight * 1.01 + 0.01));
    expect(report.summary.learned).toMatchObject({ changed: 2 });
    expect(report.layers[0]).toMatchObject({ status: 'affine-frozen', neighbours: 'changed' });
  });
});

test('values that a baseline has left out cannot be read', async () => {
  const baseline = await baselineOf(checkpointOf([...normTensors('bn1'), tensorOf('fc.weight', [1, 2])]));
  const weight = baseline.tensors.get('fc.weight');
  expect(await failureOf(() => weight?.range.source.readInto(new Uint8Array(4), 0))).toEqual({
    message: 'tensor "fc.weight": its values were asked for, but the baseline keeps no more than their hash',
    code: 'unsupported',
    file: 'backbone.bn.safetensors',
    hint: 'Audit the checkpoint that the baseline was made from, or make the baseline again.',
  });
});

test('nothing to audit makes no baseline, nor does a baseline', async () => {
  expect(await failureOf(() => createBaseline(checkpointOf([tensorOf('fc.weight', [1])])))).toMatchObject({
    code: 'no-norm-layers',
  });
  const baseline = await baselineOf(checkpointOf(normTensors('bn1')));
  expect(await failureOf(() => createBaseline(baseline))).toMatchObject({ code: 'refused' });
});

describe('what claims far more than is stored makes no baseline', () => {
  const expanded = (name: string, count: number): Tensor => {
    const view = { shape: [count], strides: [0], firstElement: 0, elementByteLength: 4 };
    const source = stridedSource(tensorOf(name, [1]).range, view);
    const range = { source, offset: 0, byteLength: source.byteLength };
    return { ...tensorOf(name, [1]), shape: [count], elementCount: count, range };
  };

  test.each<[string, readonly Tensor[]]>([
    ['weights', [expanded('fc.w', 2 ** 23)]],
    [
      'biases of linear layers',
      [tensorOf('fc.weight', [1], { shape: [1, 1] }), expanded('fc.bias', 2 ** 23)],
    ],
  ])('%s', async (_, tensors) => {
    const checkpoint = checkpointOf([...normTensors('bn'), ...tensors]);
    expect(await failureOf(() => createBaseline(checkpoint))).toMatchObject({
      code: 'limit-exceeded',
      message: expect.stringMatching(/^expected tensors and records of at most 16 times the \d+ bytes/),
    });
  });

  test('channels to be projected', async () => {
    const weight = { ...expanded('fc.weight', 2 ** 21), shape: [2 ** 21, 1] };
    const input = { kind: 'constant', tensor: weight, source: 'initializer', overridable: false } as const;
    const linear = linearNodeOf('fc', { weight: [1], shape: [1, 1] }, { weight: input });
    const checkpoint = checkpointOf([weight], { graph: graphOf([], [linear]) });
    expect(await failureOf(() => createBaseline(checkpoint))).toMatchObject({
      code: 'limit-exceeded',
      message: expect.stringContaining('found 33554432 bytes'),
    });
  });
});

test('progress counts the bytes of learned tensors', async () => {
  const steps: { done: number; total: number }[] = [];
  await createBaseline(checkpointOf([...normTensors('bn1'), tensorOf('fc.weight', [1, 2])]), {
    onProgress: (step) => steps.push(step),
  });
  expect(steps.at(-1)).toEqual({ done: 24, total: 24 });
  expect(steps).toHaveLength(3);
});

test('tensor names that JSON and JavaScript trip over survive', async () => {
  const names = ['__proto__', 'constructor', '', 'with "quotes" \\ and\nlines', '::error::', 'ü\u{1f600}'];
  const source = checkpointOf([...normTensors('bn1'), ...names.map((name) => tensorOf(name, [1, 2]))]);
  const report = await auditCheckpoints(await baselineOf(source), source);
  expect(report.summary.learned).toMatchObject({ equal: names.length + 2, onlyBefore: 0, onlyAfter: 0 });
});

describe('tensors in one place of the file are kept each as what they are', () => {
  test('all empty ones, whatever their types', async () => {
    const empty = (name: string, dtype: DType, shape: readonly number[] = [0]) => ({
      ...tensorOf(name, [], { dtype, shape }),
      range: { source, offset: 0, byteLength: 0 },
    });
    const source = memorySource('memory', new Uint8Array());
    const pruned = [
      empty('pruned.conv.weight', 'F16', [0, 2, 1, 1]),
      empty('pruned.bn.weight', 'F32'),
      empty('pruned.bn.running_mean', 'F64'),
      empty('pruned.bn.running_var', 'BF16'),
      empty('pruned.proj.weight', 'F8_E5M2', [2, 0]),
    ];
    const checkpoint = checkpointOf([...normTensors('bn'), ...pruned]);
    const itself = await auditCheckpoints(checkpoint, checkpoint);
    expect(factsOf(await auditCheckpoints(await baselineOf(checkpoint), checkpoint))).toEqual(
      factsOf(itself),
    );
  });

  test('views of one storage by other shapes and types', async () => {
    const bn = normTensors('bn');
    const weight = tensorOf('up.weight', [1, 2, 3, 4, 5, 6, 7, 8], { shape: [2, 2, 2, 1] });
    const views = [
      { ...weight, name: 'flat', shape: [8] },
      { ...weight, name: 'halves', dtype: 'BF16' as const, shape: [16], elementCount: 16 },
    ];
    const checkpoint = checkpointOf([weight, ...views, ...bn]);
    const itself = await auditCheckpoints(checkpoint, checkpoint);
    expect(factsOf(await auditCheckpoints(await baselineOf(checkpoint), checkpoint))).toEqual(
      factsOf(itself),
    );
  });
});

test('a checkpoint whose norm layers have no channels leaves nothing to keep', async () => {
  const checkpoint = checkpointOf([
    tensorOf('conv.weight', [], { shape: [0, 0, 1, 1] }),
    ...normTensors('bn', { mean: [], count: null }),
  ]);
  const error = await failureOf(() => createBaseline(checkpoint));
  expect(error).toMatchObject({ code: 'no-norm-layers' });
  expect(error.message).toContain('found none that has a channel');
});
