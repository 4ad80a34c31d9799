import { describe, expect, test } from 'vitest';
import { type AuditOptions, auditCheckpoints } from '../../src/audit.js';
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js';
import { toFoldedLayer } from '../../src/folding/judge-pairs.js';
import { chooseLayerName, findFreeLinears, listLayerNames } from '../../src/norm/norm-layer.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { usageFailureOf } from '../build/failure.js';
import { comparisonOf, graphOf, layerOf, linearNodeOf, normNodeOf } from '../build/layers.js';

/** A convolution with its norm layer, under a prefix. */
const body = (prefix: string, mean: readonly number[] = [0.5, -0.25]) => [
  tensorOf(`${prefix}conv.weight`, [1, 2], { shape: [2, 1] }),
  ...normTensors(`${prefix}bn`, { mean }),
];
const before = checkpointOf(body(''), { path: 'before.pt' });
const drifted = (prefix: string, ...others: Parameters<typeof checkpointOf>[0]) =>
  checkpointOf([...body(prefix, [1, 1]), ...others], { path: 'after.pt' });

const namesOf = async (one: Checkpoint, other: Checkpoint, options: AuditOptions = {}) => {
  const { layers, findings, regions } = await auditCheckpoints(one, other, options);
  return {
    layers: layers.map(({ name }) => name),
    findings: findings.map(({ layer }) => layer),
    regions: regions.map(({ path }) => path),
  };
};

describe('names', () => {
  test('are after’s, in layers, findings and regions', async () => {
    expect(await namesOf(before, drifted('backbone.', tensorOf('head.weight', [1])))).toEqual({
      layers: ['backbone.bn'],
      findings: ['backbone.bn'],
      regions: ['backbone'],
    });
  });

  test('are those of after’s changed tensors too', async () => {
    const wrapped = checkpointOf([
      tensorOf('backbone.conv.weight', [3, 4], { shape: [2, 1] }),
      ...normTensors('backbone.bn'),
    ]);
    const { findings } = await auditCheckpoints(before, wrapped, { frozen: ['backbone.conv'] });
    expect(findings).toMatchObject([{ kind: 'frozen-weights-changed', layer: 'backbone.conv' }]);
  });

  test('of layers that only before has are before’s', async () => {
    const more = checkpointOf([...body(''), ...normTensors('module.aux.bn', { mean: [1, 2, 3] })]);
    expect((await namesOf(more, drifted('backbone.'))).findings).toEqual(['backbone.bn', 'aux.bn']);
  });

  test('of a file that has lost them give way to before’s', async () => {
    const nameless = normNodeOf('x', { nodeName: 'n1', inputNames: ['1', '2', '3', '4'] });
    const exported = checkpointOf([], { format: 'ONNX', graph: graphOf([nameless]), inModuleOrder: true });
    const { layers } = await auditCheckpoints(checkpointOf(normTensors('net.bn')), exported);
    expect(layers).toMatchObject([
      { name: 'net.bn', pairedBy: 'order', before: { name: 'net.bn' }, after: { name: 'n1' } },
    ]);
  });

  test('of a folded layer are before’s, unless before has lost them', () => {
    const node = linearNodeOf('features.0', { weight: [1, 2], bias: [0, 0], shape: [2, 1] });
    const linears = findFreeLinears(checkpointOf([], { graph: graphOf([], [node]) }));
    const live = layerOf('stem.bn');
    const nameless = layerOf('n1', { isNamed: false });
    const folded = linears.map((linear) => toFoldedLayer(linear, ''));
    expect(folded.map((after) => chooseLayerName({ before: live, after }))).toEqual(['stem.bn']);
    expect(folded.map((after) => chooseLayerName({ before: nameless, after }))).toEqual(['features.0']);
    expect(folded.map((one) => chooseLayerName({ before: one, after: live }))).toEqual(['stem.bn']);
  });
});

describe('wrappers', () => {
  const wrapped = drifted('module.backbone._orig_mod.');

  test('are left out of names; each side keeps its own spelling', async () => {
    const { layers, regions } = await auditCheckpoints(before, wrapped);
    expect(regions).toMatchObject([{ path: '' }]);
    expect(layers).toMatchObject([
      {
        name: 'backbone.bn',
        before: { name: 'bn' },
        after: { name: 'module.backbone._orig_mod.bn', mean: 'module.backbone._orig_mod.bn.running_mean' },
      },
    ]);
  });

  test('inside a path keep no two layers apart', async () => {
    const blocks = (wrapper: string) =>
      checkpointOf(Array.from({ length: 9 }, (_, index) => body(`layer${index}.${wrapper}`)).flat());
    const { layers, findings } = await auditCheckpoints(blocks(''), blocks('_checkpoint_wrapped_module.'));
    expect(layers.map(({ name, status }) => `${name} ${status}`)).toEqual(
      Array.from({ length: 9 }, (_, index) => `layer${index}.bn locked`),
    );
    expect(findings).toEqual([]);
  });

  test('stay where names would be the same without them', async () => {
    const both = (mean: readonly number[]) =>
      checkpointOf([...normTensors('module.bn', { mean }), ...normTensors('bn')]);
    const { layers } = await auditCheckpoints(both([1, 2]), both([3, 4]));
    expect(layers.map(({ name, status }) => `${name} ${status}`)).toEqual(['module.bn drifted', 'bn locked']);
  });

  test('may be in the edits of names or not', async () => {
    for (const map of [
      { from: '', to: 'module.backbone' },
      { from: '', to: 'backbone' },
      { from: '', to: 'module.backbone._orig_mod' },
    ]) {
      const { layers, warnings } = await auditCheckpoints(before, wrapped, { map: [map] });
      expect([layers.map(({ pairedBy }) => pairedBy), warnings]).toEqual([['map'], []]);
    }
  });
});

describe('globs', () => {
  const after = drifted('module.backbone.', tensorOf('module.head.weight', [1]));

  test.each(['backbone', 'module.backbone', 'bn', '_orig_mod.backbone.bn', '**.bn'])(
    '%s means the layer, by a name of either side, with wrappers or without',
    async (glob) => {
      const { verdict, layers, warnings } = await auditCheckpoints(before, after, { allow: [glob] });
      expect([verdict, layers.map(({ allowed }) => allowed), warnings]).toEqual(['clean', [true], []]);
      expect((await auditCheckpoints(before, after, { frozen: [glob] })).verdict).toBe('drifted');
    },
  );

  test('that mean nothing on either side are still refused', async () => {
    const failure = await usageFailureOf(() => auditCheckpoints(before, after, { frozen: ['encoder'] }));
    expect(failure.message).toContain('--frozen "encoder" matches no norm layer');
  });

  test('may use any name of a layer', () => {
    const layer = comparisonOf('net.bn', {
      before: layerOf('bn'),
      after: layerOf('net.bn', { wrappedName: 'module.net.bn' }),
    });
    expect(new Set(listLayerNames(layer))).toEqual(new Set(['net.bn', 'bn', 'module.net.bn']));
  });
});
