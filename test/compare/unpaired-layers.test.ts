import { describe, expect, test } from 'vitest';
import { type AuditOptions, auditCheckpoints } from '../../src/audit.js';
import type { Checkpoint, ModuleFacts } from '../../src/checkpoint/checkpoint.js';
import { decodeFloats } from '../../src/checkpoint/dtype.js';
import { refuseWithoutPairs } from '../../src/compare/unpaired-layers.js';
import { compareCheckpoints } from '../../src/compare-checkpoints.js';
import { readRange } from '../../src/io/byte-source.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';
import { graphOf } from '../build/layers.js';

const kept = ['stem.bn1', 'stem.bn2'].flatMap((path) => normTensors(path));
const before = checkpointOf([...kept, ...normTensors('net.bn')], { path: 'before.pt' });
/** After with the statistics of `net.bn` taken away, and what is left of it. */
const afterWith = (
  left: Parameters<typeof checkpointOf>[0],
  modules: Readonly<Record<string, Partial<ModuleFacts>>> = {},
) => {
  const facts = { className: null, epsilon: null, momentum: null, version: null };
  return checkpointOf([...kept, ...left], {
    path: 'after.pt',
    modules: new Map(
      Object.entries(modules).map(([path, known]) => [
        path,
        { ...facts, trackRunningStats: null, training: null, ...known },
      ]),
    ),
  });
};
const findingsOf = async (one: Checkpoint, other: Checkpoint, options: AuditOptions = {}) =>
  (await auditCheckpoints(one, other, options)).findings.map(
    ({ kind, level, layer }) => `${level} ${kind} ${layer}`,
  );

describe('a layer that after has without statistics', () => {
  const REMOVED = ['error stats-removed net.bn'];
  const scale = tensorOf('net.bn.weight', [1, 2]);
  const shift = tensorOf('net.bn.bias', [1, 2]);
  const counter = tensorOf('net.bn.num_batches_tracked', [3], { dtype: 'I64', shape: [] });

  test.each([
    ['its scale and shift', afterWith([scale, shift])],
    ['its batch count', afterWith([counter])],
    ['the version of its module', afterWith([], { 'net.bn': { version: 2 } })],
    ['its class', afterWith([], { 'net.bn': { className: 'BatchNorm2d', trackRunningStats: false } })],
    ['another class of norm layer', afterWith([scale, shift], { 'net.bn': { className: 'GroupNorm' } })],
  ])('is told by %s', async (_, after) => {
    expect(await findingsOf(before, after)).toEqual(REMOVED);
  });

  test.each([
    ['nothing is left of', afterWith([])],
    ['is an identity by now', afterWith([], { 'net.bn': { className: 'Identity' } })],
    ['has the version of an identity', afterWith([], { 'net.bn': { version: 1 } })],
    [
      'gave its name to a convolution',
      afterWith([tensorOf('net.bn.weight', [1, 2, 3, 4], { shape: [2, 2] }), shift]),
    ],
    ['gave its name to a layer of another width', afterWith([tensorOf('net.bn.weight', [1, 2, 3])])],
  ])('a layer that %s is gone', async (_, after) => {
    expect(await findingsOf(before, after)).toEqual(['warning unpaired-layer net.bn']);
  });

  test('and which the graph computes with itself, as with those of FrozenBatchNorm2d, is not called removed', async () => {
    const stem = checkpointOf([...normTensors('net.bn'), ...normTensors('net.bn2')]);
    const exportOf = (mean: readonly number[]) =>
      checkpointOf([...normTensors('net.bn'), ...normTensors('net.bn2', { mean })], {
        path: 'after.onnx',
        format: 'ONNX',
        graph: graphOf([], []),
      });
    const own = stem.tensors.get('net.bn2.running_mean');
    const values = own === undefined ? [] : [...decodeFloats(await readRange(own.range), own.dtype)];
    expect(await findingsOf(stem, exportOf(values))).toEqual([
      'warning unpaired-layer net.bn',
      'warning unpaired-layer net.bn2',
    ]);
    expect(await findingsOf(stem, exportOf([7, 7]))).toContain('error stats-removed net.bn2');
  });

  test('is found by its name in after, wrappers aside', async () => {
    const wrapped = checkpointOf([
      ...normTensors('module.m.stem.bn1'),
      ...normTensors('module.m.stem.bn2'),
      tensorOf('module.m.net.bn.weight', [1, 2]),
    ]);
    expect(await findingsOf(before, wrapped)).toEqual(['error stats-removed m.net.bn']);
  });

  test('can be allowed by any of its names', async () => {
    const after = afterWith([scale, shift]);
    const { verdict, findings, warnings } = await auditCheckpoints(before, after, { allow: ['net'] });
    expect([verdict, findings[0]?.level, warnings]).toEqual(['clean', 'note', []]);
    expect(findings[0]?.message).toMatch(/^allowed: after has the layer without running statistics/);
  });

  test('is reported also where no other is left to compare', async () => {
    const bare = checkpointOf([scale, shift], { path: 'after.pt' });
    const report = await auditCheckpoints(checkpointOf(normTensors('net.bn')), bare);
    expect([report.verdict, report.layers, report.summary.layers]).toEqual(['drifted', [], 0]);
    expect(report.findings.map(({ kind }) => kind)).toEqual(['stats-removed']);
  });

  test('leaves nothing to restore or to put back then', async () => {
    const bare = checkpointOf([scale, shift], { path: 'after.pt' });
    const { layers } = await compareCheckpoints(checkpointOf(normTensors('net.bn')), bare);
    const failure = await failureOf(() => refuseWithoutPairs(layers, bare));
    expect(failure).toMatchObject({ code: 'no-norm-layers', file: 'after.pt' });
  });
});

describe('a layer of another width', () => {
  const wider = checkpointOf([...kept, ...normTensors('net.bn', { mean: [1, 2, 3] })], { path: 'after.pt' });

  test('is one warning that names both widths', async () => {
    const { findings } = await auditCheckpoints(before, wider);
    expect(findings).toMatchObject([
      {
        kind: 'unpaired-layer',
        level: 'warning',
        layer: 'net.bn',
        message: 'it has 2 channels in before and 3 in after: it was not audited',
      },
    ]);
  });

  test('is found under a prefix, and can be allowed', async () => {
    const prefixed = checkpointOf([
      ...normTensors('m.stem.bn1'),
      ...normTensors('m.stem.bn2'),
      ...normTensors('m.net.bn', { mean: [1, 2, 3] }),
    ]);
    expect(await findingsOf(before, prefixed)).toEqual(['warning unpaired-layer m.net.bn']);
    expect(await findingsOf(before, prefixed, { allow: ['net.bn'] })).toEqual([
      'note unpaired-layer m.net.bn',
    ]);
  });

  test('is examined by itself all the same', async () => {
    const broken = checkpointOf([...kept, ...normTensors('net.bn', { mean: [Number.NaN, 2, 3] })]);
    const { findings } = await auditCheckpoints(before, broken);
    expect(findings[1]).toMatchObject({
      kind: 'invalid-stats',
      message: 'the layer has another width in after: the running mean of channel 0 is NaN (not a number)',
    });
  });

  test('counts its learned tensors as changed, and their shapes are said', async () => {
    const { warnings, summary } = await auditCheckpoints(before, wider);
    expect(summary.learned.changed).toBe(2);
    expect(warnings).toEqual([
      '2 learned tensors have another shape in after, and count as changed: net.bn.weight ([2], now [3]), net.bn.bias ([2], now [3])',
    ]);
  });

  test('is named in the error where nothing else pairs', async () => {
    const failure = await failureOf(() =>
      auditCheckpoints(
        checkpointOf(normTensors('net.bn'), { path: 'before.pt' }),
        checkpointOf(normTensors('net.bn', { mean: [1, 2, 3] }), { path: 'after.pt' }),
      ),
    );
    expect(failure).toMatchObject({
      code: 'nothing-paired',
      message: expect.stringContaining('"net.bn" 2 in before and 3 in after'),
      hint: 'These are models of two widths: compare checkpoints of the same one. Where channels were pruned away, before is the pruned model as it was before its fine-tuning.',
    });
  });
});

test('an adapter without norm layers is called one, with the way out', async () => {
  const adapter = checkpointOf([tensorOf('base_model.model.fc.lora_A.weight', [1, 2])], {
    path: 'adapter_model.safetensors',
  });
  expect(await failureOf(() => auditCheckpoints(before, adapter))).toMatchObject({
    code: 'no-norm-layers',
    file: 'adapter_model.safetensors',
    hint: expect.stringContaining('merge_and_unload'),
  });
});
