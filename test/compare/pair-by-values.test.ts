import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../src/audit.js';
import type { Checkpoint, Tensor } from '../../src/checkpoint/checkpoint.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';

const CHANNELS = 8;

/** Values that belong to a seed alone. */
function valuesOf(seed: number, count: number, size = 0.3): readonly number[] {
  return Array.from({ length: count }, (_, i) => Math.sin(seed * 977.3 + i * 12.9898) * size);
}

/** What a model keeps of one convolution and the norm layer behind it. */
interface Block {
  readonly conv: string;
  readonly norm: string;
  /** Blocks of one seed have the same weights. */
  readonly seed: number;
  /** Of γ and β, where they are others than the block's. */
  readonly affine?: number | 'initial' | 'none';
  /** Of the convolution, where it is another one. */
  readonly weight?: number;
  /** Of the statistics. */
  readonly statistics?: number;
}

function tensorsOf({
  conv,
  norm,
  seed,
  affine = seed,
  weight = seed,
  statistics = 0,
}: Block): readonly Tensor[] {
  const isInitial = affine === 'initial';
  return [
    tensorOf(`${conv}.weight`, valuesOf(weight, CHANNELS * 9), { shape: [CHANNELS, 1, 3, 3] }),
    ...normTensors(norm, {
      mean: valuesOf(1000 + statistics, CHANNELS),
      weight:
        affine === 'none'
          ? null
          : isInitial
            ? ones()
            : valuesOf(seedOf(affine) + 0.5, CHANNELS, 0.01).map((x) => 1 + x),
      bias:
        affine === 'none'
          ? null
          : isInitial
            ? ones().map(() => 0)
            : valuesOf(seedOf(affine) + 0.7, CHANNELS, 0.01),
    }),
  ];
}

function ones(): readonly number[] {
  return Array<number>(CHANNELS).fill(1);
}

function seedOf(affine: number | string): number {
  return typeof affine === 'number' ? affine : 0;
}

function modelOf(blocks: readonly Block[], overrides: Partial<Checkpoint> = {}): Checkpoint {
  return checkpointOf(blocks.flatMap(tensorsOf), { inModuleOrder: true, ...overrides });
}

/** `conv1`, `bn1`, `conv2`, …, in one module. */
function namesOf(prefix: string, conv: string, norm: string, count: number): readonly Block[] {
  return Array.from({ length: count }, (_, i) => ({
    conv: `${prefix}.${i}.${conv}`,
    norm: `${prefix}.${i}.${norm}`,
    seed: i + 1,
  }));
}

const BEFORE = namesOf('layer', 'conv', 'bn', 4);
const AFTER = namesOf('stages', 'convolution', 'normalization', 4);

function moved(blocks: readonly Block[], changes: Partial<Block> = {}): readonly Block[] {
  return blocks.map((block) => ({ ...block, statistics: 1, ...changes }));
}

/** Each layer as `before = after (how), status`; then what is left on either side, and the regions. */
async function outcomeOf(before: Checkpoint, after: Checkpoint) {
  const { layers, findings, regions, warnings } = await auditCheckpoints(before, after);
  return {
    layers: layers.map(
      (layer) => `${layer.before?.name} = ${layer.after?.name} (${layer.pairedBy}), ${layer.status}`,
    ),
    unpaired: findings.flatMap(({ kind, layer, message }) =>
      kind === 'unpaired-layer' ? [`${layer}: ${message}`] : [],
    ),
    regions: regions.map(
      ({ path, status, learned }) => `${path} ${status} ${learned.equal}/${learned.tensors}`,
    ),
    warnings,
  };
}

describe('a frozen backbone under new names', () => {
  test.each([
    ['with γ and β', {}],
    ['with γ = 1 and β = 0 everywhere', { affine: 'initial' }],
    ['without γ and β', { affine: 'none' }],
  ] as const)('is paired by values, %s, and reported as frozen', async (_, changes) => {
    const before = BEFORE.map((block) => ({ ...block, ...changes }));
    const { layers, unpaired, regions } = await outcomeOf(modelOf(before), modelOf(moved(AFTER, changes)));
    expect(layers).toEqual(
      [0, 1, 2, 3].map((i) => `layer.${i}.bn = stages.${i}.normalization (values), drifted`),
    );
    expect(unpaired).toEqual([]);
    expect(regions).toEqual([expect.stringMatching(/^ frozen/)]);
  });

  test('is locked where its statistics stood still', async () => {
    const { layers } = await outcomeOf(modelOf(BEFORE), modelOf(AFTER));
    expect(layers).toEqual(
      [0, 1, 2, 3].map((i) => `layer.${i}.bn = stages.${i}.normalization (values), locked`),
    );
  });

  test('is said to be paired by values', async () => {
    const { warnings } = await outcomeOf(modelOf(BEFORE), modelOf(moved(AFTER)));
    expect(warnings.join()).toContain(
      '4 norm layers were paired by values, since names do not pair them: their own weights or those that feed them are equal ("layer.0.bn" with "stages.0.normalization", "layer.1.bn" with "stages.1.normalization" and 2 more)',
    );
  });

  test('is found in files that have lost the order of modules', async () => {
    const sort = (blocks: readonly Block[]) =>
      checkpointOf(blocks.flatMap(tensorsOf).toSorted((x, y) => (x.name < y.name ? -1 : 1)));
    const { layers } = await outcomeOf(sort(BEFORE), sort(moved(AFTER)));
    expect(layers).toHaveLength(4);
  });
});

describe('parts that were trained', () => {
  test('leave the rest paired, and are unpaired with the reason', async () => {
    const after = moved(AFTER).map((block) =>
      block.seed === 3 ? { ...block, affine: 90, weight: 91 } : block,
    );
    const { layers, unpaired } = await outcomeOf(modelOf(BEFORE), modelOf(after));
    expect(layers).toHaveLength(3);
    expect(unpaired).toEqual([
      'layer.2.bn: after has no such layer: it was not audited; nearest is "stages.2.normalization", which has as many channels and other weights: it was trained, or is another layer',
      'stages.2.normalization: the layer is new in after',
    ]);
  });

  test('all of them: nothing is paired', async () => {
    const after = moved(AFTER).map((block) => ({
      ...block,
      affine: 50 + block.seed,
      weight: 60 + block.seed,
    }));
    expect(await failureOf(() => outcomeOf(modelOf(BEFORE), modelOf(after)))).toMatchObject({
      code: 'nothing-paired',
    });
  });

  test('norm layers alone: what feeds them pairs them', async () => {
    const after = moved(AFTER).map((block) => ({ ...block, affine: 50 + block.seed }));
    const { layers } = await outcomeOf(modelOf(BEFORE), modelOf(after));
    expect(layers[0]).toBe('layer.0.bn = stages.0.normalization (values), trained');
  });

  test('convolutions alone: γ and β pair the layers, and what feeds them counts as trained', async () => {
    const after = moved(AFTER).map((block) => ({ ...block, weight: 60 + block.seed }));
    const { layers } = await outcomeOf(modelOf(BEFORE), modelOf(after));
    expect(layers[0]).toBe('layer.0.bn = stages.0.normalization (values), affine-frozen');
  });
});

test('a block that was trained in part keeps the pairs that its names make', async () => {
  const block = (i: number): Block => ({ conv: `a.conv${i}`, norm: `a.bn${i}`, seed: i });
  const head = (prefix: string): Block => ({ conv: `${prefix}.0`, norm: `${prefix}.1`, seed: 9 });
  const trained = { ...block(2), affine: 70, weight: 71, statistics: 1 };
  const { layers } = await outcomeOf(
    modelOf([block(1), block(2), head('old')]),
    modelOf([block(1), trained, { ...head('new'), affine: 80, weight: 81 }]),
  );
  expect(layers).toEqual(['a.bn1 = a.bn1 (name), locked', 'a.bn2 = a.bn2 (name), trained']);
});

describe('names that mislead', () => {
  const list = (start: number, seeds: readonly number[]) =>
    seeds.map((seed, i) => ({ conv: `net.${start + 3 * i}`, norm: `net.${start + 3 * i + 1}`, seed }));

  test('a list with a new beginning: layers go where their values are', async () => {
    const { layers, unpaired } = await outcomeOf(
      modelOf(list(0, [1, 2, 3])),
      modelOf(moved(list(0, [9, 1, 2, 3]))),
    );
    expect(layers).toEqual([
      'net.1 = net.4 (values), drifted',
      'net.4 = net.7 (values), drifted',
      'net.7 = net.10 (values), drifted',
    ]);
    expect(unpaired).toEqual(['net.1: the layer is new in after']);
  });

  test('a list without its beginning', async () => {
    const { layers } = await outcomeOf(modelOf(list(0, [1, 2, 3])), modelOf(moved(list(0, [2, 3]))));
    expect(layers).toEqual(['net.4 = net.1 (values), drifted', 'net.7 = net.4 (values), drifted']);
  });

  test('names that were kept by a trained copy: both it and the frozen one are audited', async () => {
    const student = BEFORE.map((block) => ({ ...block, affine: 50 + block.seed, weight: 60 + block.seed }));
    const teacher = BEFORE.map((block) => ({
      ...block,
      conv: `teacher.${block.conv}`,
      norm: `teacher.${block.norm}`,
    }));
    const { layers } = await outcomeOf(modelOf(BEFORE), modelOf(moved([...student, ...teacher])));
    expect(layers.slice(0, 2)).toEqual([
      'layer.0.bn = layer.0.bn (name), trained',
      'layer.0.bn = teacher.layer.0.bn (values), drifted',
    ]);
    expect(layers).toHaveLength(8);
  });
});

describe('several that fit', () => {
  const under = (prefix: string, blocks: readonly Block[]) =>
    blocks.map((block) => ({ ...block, conv: `${prefix}.${block.conv}`, norm: `${prefix}.${block.norm}` }));
  const others = BEFORE.map((block) => ({ ...block, affine: 50 + block.seed, weight: 60 + block.seed }));

  test('of two prefixes the one whose weights are equal wins, and the report says so', async () => {
    const after = [...under('encoder_q', moved(BEFORE)), ...under('encoder_k', others)];
    const { layers, warnings } = await outcomeOf(modelOf(BEFORE), modelOf(after));
    expect(layers[0]).toBe('layer.0.bn = encoder_q.layer.0.bn (values), drifted');
    expect(layers).toHaveLength(4);
    expect(warnings.join()).toContain(
      '"encoder_q" and "encoder_k" fit by name equally well: "encoder_q" was compared, since its weights are equal (4 of its 4 norm layers hold the weights of before, of "encoder_k" 0)',
    );
  });

  test('likewise of two in before', async () => {
    const before = [...under('encoder_k', others), ...under('encoder_q', BEFORE)];
    const { layers } = await outcomeOf(modelOf(before), modelOf(moved(BEFORE)));
    expect(layers[0]).toBe('encoder_q.layer.0.bn = layer.0.bn (values), drifted');
    expect(layers).toHaveLength(4);
  });

  test('two prefixes of which neither has equal weights are refused as before', async () => {
    const after = [...under('one', others), ...under('two', moved(others))];
    expect(await failureOf(() => outcomeOf(modelOf(BEFORE), modelOf(after)))).toMatchObject({
      code: 'ambiguous',
    });
  });

  test('domain-specific BatchNorm: each of the layers that one became is audited', async () => {
    const one = (domain: number): readonly Tensor[] =>
      tensorsOf({ conv: 'conv', norm: `bn.bns.${domain}`, seed: 1, statistics: domain });
    const [conv] = one(0);
    const after = [...(conv === undefined ? [] : [conv]), ...one(0).slice(1), ...one(1).slice(1)];
    const before = modelOf([{ conv: 'conv', norm: 'bn', seed: 1 }]);
    const { layers, regions } = await outcomeOf(before, checkpointOf(after, { inModuleOrder: true }));
    expect(layers).toEqual(['bn = bn.bns.0 (values), locked', 'bn = bn.bns.1 (values), drifted']);
    expect(regions).toEqual([' frozen 5/5']);
  });

  test('likewise in a block of several, without γ, β and the order of modules', async () => {
    const blocks = [1, 2].map(
      (i): Block => ({ conv: `a.conv${i}`, norm: `a.bn${i}`, seed: i, affine: 'none' }),
    );
    const sort = (tensors: readonly Tensor[]) =>
      checkpointOf([...new Map(tensors.map((tensor) => [tensor.name, tensor])).values()]);
    const after = blocks.flatMap((block) =>
      [0, 1].flatMap((domain) =>
        tensorsOf({ ...block, norm: `${block.norm}.bns.${domain}`, statistics: domain }),
      ),
    );
    const { layers } = await outcomeOf(sort(blocks.flatMap(tensorsOf)), sort(after));
    expect(layers).toEqual([
      'a.bn1 = a.bn1.bns.0 (values), locked',
      'a.bn1 = a.bn1.bns.1 (values), drifted',
      'a.bn2 = a.bn2.bns.0 (values), locked',
      'a.bn2 = a.bn2.bns.1 (values), drifted',
    ]);
  });

  describe('where values say nothing', () => {
    const spread = (norm: string, others: readonly Tensor[] = []) => {
      const block: Block = { conv: 'conv', norm: 'bn', seed: 1, affine: 'initial' };
      const domains = [0, 1].flatMap((domain) =>
        tensorsOf({ ...block, weight: 9, norm: `${norm}.${domain}`, statistics: domain }),
      );
      const all = [...domains, ...others].map((tensor) => [tensor.name, tensor] as const);
      return outcomeOf(checkpointOf(tensorsOf(block)), checkpointOf([...new Map(all).values()]));
    };

    test('norm layers that alone stand under the name of one are its domains', async () => {
      const paired = (path: string) => [`bn = ${path}.0 (name), held`, `bn = ${path}.1 (name), trained`];
      expect((await spread('bn')).layers).toEqual(paired('bn'));
      expect((await spread('bn.bns')).layers).toEqual(paired('bn.bns'));
    });

    test('not those beside a weight, of another width, or further below', async () => {
      const beside = tensorOf('bn.proj.weight', valuesOf(3, 4), { shape: [2, 2] });
      await expect(spread('bn', [beside])).rejects.toMatchObject({ code: 'nothing-paired' });
      await expect(spread('bn', normTensors('bn.2'))).rejects.toMatchObject({ code: 'nothing-paired' });
      await expect(spread('bn.a.bns')).rejects.toMatchObject({ code: 'nothing-paired' });
    });
  });

  test('fused names of quantisation-aware training: conv1.bn for bn1', async () => {
    const fused = (i: number): Block => ({ conv: `conv${i}`, norm: `conv${i}.bn`, seed: i });
    const plain = (i: number): Block => ({ conv: `conv${i}`, norm: `bn${i}`, seed: i });
    const { layers } = await outcomeOf(modelOf([1, 2].map(plain)), modelOf(moved([1, 2].map(fused))));
    expect(layers).toEqual(['bn1 = conv1.bn (values), drifted', 'bn2 = conv2.bn (values), drifted']);
  });
});

describe('norm layers in a row behind all convolutions, of which one more was added', () => {
  const norm = (index: number, channels = CHANNELS) =>
    normTensors(`bns.${index}`, { mean: valuesOf(50 + index, channels) });
  const conv = (index: number, outputs = CHANNELS) =>
    tensorOf(`convs.${index}.weight`, valuesOf(index, outputs * CHANNELS * 9), {
      shape: [outputs, CHANNELS, 3, 3],
    });
  const row = (...tensors: readonly (readonly Tensor[])[]) =>
    checkpointOf(tensors.flat(), { inModuleOrder: true });
  const short = row([conv(0), conv(1)], norm(0), norm(1));
  // What stands before all norm layers now is another weight, which takes as many channels as they have.
  const long = row([conv(0), conv(1), conv(2, 5)], norm(0), norm(1), norm(2, 5));

  test.each([
    ['in after', short, long],
    ['in before', long, short],
  ])('%s: the others keep their partners', async (_, before, after) => {
    const { layers } = await auditCheckpoints(before, after);
    const found = layers.map(({ name, status, pairedBy }) => [name, status, pairedBy]);
    expect(found).toEqual(['bns.0', 'bns.1'].map((name) => [name, 'locked', 'name']));
  });
});
