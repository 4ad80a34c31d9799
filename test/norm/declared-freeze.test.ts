import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import type { Checkpoint, Declaration, OptimizerGroup } from '../../src/checkpoint/checkpoint.js';
import { openCheckpoint } from '../../src/formats/open.js';
import { type DeclaredFreeze, findDeclaredFreeze } from '../../src/norm/declared-freeze.js';
import { findLayersAndLearned } from '../../src/norm/find-layers.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';

const fixtures = fileURLToPath(new URL('../../fixtures/declared', import.meta.url));

/** What fixtures/README.md says that expected.json holds of a file. */
interface Expected {
  readonly frozen: Readonly<Record<string, readonly string[]>>;
  readonly trained: Readonly<Record<string, readonly string[]>>;
  readonly unclear: boolean;
  readonly training: boolean | null;
  readonly prefix?: string;
}

const { files }: { readonly files: Readonly<Record<string, Expected>> } = JSON.parse(
  readFileSync(join(fixtures, 'expected.json'), 'utf8'),
);

const find = (checkpoint: Checkpoint) => findDeclaredFreeze(checkpoint, findLayersAndLearned(checkpoint));

function sortByWord({ tensors }: DeclaredFreeze, isFrozen: boolean): Readonly<Record<string, string[]>> {
  const words: Record<string, string[]> = {};
  for (const [name, { frozen, by }] of tensors) {
    if (frozen !== isFrozen) continue;
    words[by] ??= [];
    words[by].push(name);
  }
  return words;
}

describe('what real PyTorch saved declares what was done', () => {
  test.each(Object.entries(files))('%s', async (name, { frozen, trained, unclear, prefix = '' }) => {
    const checkpoint = await openCheckpoint(join(fixtures, name));
    const declared = find(checkpoint);
    await checkpoint.close();
    const prefixed = (words: Expected['frozen']) =>
      Object.fromEntries(Object.entries(words).map(([by, names]) => [by, names.map((one) => prefix + one)]));
    expect(sortByWord(declared, true)).toEqual(prefixed(frozen));
    expect(sortByWord(declared, false)).toEqual(prefixed(trained));
    expect(declared.unclear.length > 0).toBe(unclear);
  });
});

/** A backbone of a convolution and a norm layer, and a head. */
const TENSORS = [
  tensorOf('backbone.conv1.weight', [1, 2, 3, 4], { shape: [2, 2] }),
  ...normTensors('backbone.bn1'),
  tensorOf('fc.weight', [1, 2], { shape: [1, 2] }),
  tensorOf('fc.bias', [1]),
];
const BACKBONE = ['backbone.conv1.weight', 'backbone.bn1.weight', 'backbone.bn1.bias'];
const NAMES = [...BACKBONE, 'fc.weight', 'fc.bias'];

const declaring = (declarations: readonly Declaration[], tensors = TENSORS) =>
  find(checkpointOf(tensors, { inModuleOrder: true, declarations }));

const groupOf = (names: readonly string[], overrides: Partial<OptimizerGroup> = {}): OptimizerGroup => ({
  learningRate: 0.1,
  initialLearningRate: null,
  isStateTelling: true,
  parameters: names.map((name) => ({ name, hasState: true, shape: null })),
  ...overrides,
});
const optimizerOf = (...groups: readonly OptimizerGroup[]): Declaration => ({
  kind: 'optimizer',
  where: 'optimizer',
  groups,
});

describe('a learning rate of 0', () => {
  const wordOf = (backbone: Partial<OptimizerGroup>, head: Partial<OptimizerGroup> = {}) =>
    declaring([
      optimizerOf(groupOf(BACKBONE, backbone), groupOf(['fc.weight', 'fc.bias'], head)),
    ]).tensors.get('backbone.bn1.weight');

  test('freezes its group', () => {
    expect(wordOf({ learningRate: 0 })).toEqual({
      frozen: true,
      by: 'lr-0',
      where: 'optimizer.param_groups',
    });
    expect(wordOf({ learningRate: 0, initialLearningRate: 0 })?.by).toBe('lr-0');
  });

  test('at which a schedule ended does not', () => {
    expect(wordOf({ learningRate: 0, initialLearningRate: 0.1 })?.by).toBe('optimizer-state');
  });

  test('of all groups may be the end of a schedule that leaves no word', () => {
    expect(wordOf({ learningRate: 0 }, { learningRate: 0 })).toBeUndefined();
  });
});

describe('several optimizers', () => {
  test('freeze what none of them holds', () => {
    const { tensors } = declaring([
      optimizerOf(groupOf(['fc.weight'])),
      optimizerOf(groupOf(['backbone.conv1.weight'])),
    ]);
    expect([...tensors].filter(([, { frozen }]) => frozen).map(([name]) => name)).toEqual([
      'backbone.bn1.weight',
      'backbone.bn1.bias',
      'fc.bias',
    ]);
  });

  test('leave it open where one was not understood', () => {
    const unread = { kind: 'unread', of: 'optimizer', where: 'other', reason: 'is odd' } as const;
    const { tensors, unclear } = declaring([optimizerOf(groupOf(['fc.weight'])), unread]);
    expect([...tensors.keys()]).toEqual(['fc.weight']);
    expect(unclear).toEqual(['"other" is odd']);
  });

  test('do not freeze what one of them trains', () => {
    const still = groupOf(NAMES, { learningRate: 0, initialLearningRate: 0 });
    const { tensors } = declaring([optimizerOf(groupOf(NAMES)), optimizerOf(still)]);
    expect([...tensors.values()].every(({ frozen }) => !frozen)).toBe(true);
  });
});

describe('several networks in one file', () => {
  const NETWORKS = [
    tensorOf('a.fc.weight', [1, 2], { shape: [1, 2] }),
    tensorOf('a.fc.bias', [1]),
    tensorOf('b.fc.weight', [1, 2], { shape: [1, 2] }),
    tensorOf('b.fc.bias', [1]),
  ];
  const frozenOf = (...optimizers: Declaration[]) => {
    const { tensors } = find({ ...checkpointOf(NETWORKS), parts: ['a', 'b'], declarations: optimizers });
    return [...tensors].filter(([, { frozen }]) => frozen).map(([name]) => name);
  };

  test('an optimizer of one says what it leaves out of that one, and nothing of the other', () => {
    expect(frozenOf(optimizerOf(groupOf(['a.fc.weight'])))).toEqual(['a.fc.bias']);
  });

  test('settings speak of the one that has such modules, by its names', () => {
    const settings = (...paths: string[]): Declaration => ({
      kind: 'paths',
      by: 'frozen-stages',
      where: 'meta.cfg',
      paths,
    });
    const parts = ['student', 'critic'];
    const tensors = [
      tensorOf('student.backbone.conv1.weight', [1, 2, 3, 4], { shape: [2, 2] }),
      ...normTensors('student.backbone.bn1'),
      tensorOf('critic.fc.weight', [1, 2], { shape: [1, 2] }),
    ];
    const read = (declaration: Declaration, all = tensors, of = parts) =>
      find({ ...checkpointOf(all), parts: of, declarations: [declaration] });
    const declared = read(settings('backbone.conv1', 'backbone.bn1', 'backbone.layer1'));
    expect([...declared.tensors.keys()]).toEqual(BACKBONE.map((name) => `student.${name}`));
    expect(declared.layers.get('student.backbone.bn1')?.evalBy).toBe('meta.cfg');
    // Of two that have them, either may be meant.
    const twin = tensorOf('teacher.backbone.conv1.weight', [1, 2, 3, 4], { shape: [2, 2] });
    const both = read(settings('backbone.conv1'), [...tensors, twin], [...parts, 'teacher']);
    expect(both.tensors.size).toBe(0);
    expect([...read(settings('student.backbone.conv1')).tensors.keys()]).toEqual([
      'student.backbone.conv1.weight',
    ]);
  });

  test('an optimizer of both speaks of both', () => {
    const optimizer = optimizerOf(groupOf(['a.fc.weight', 'b.fc.weight']));
    expect(frozenOf(optimizer)).toEqual(['a.fc.bias', 'b.fc.bias']);
  });
});

test('an optimizer without parameters says nothing', () => {
  expect(declaring([optimizerOf(groupOf([]))]).tensors.size).toBe(0);
});

test('tied tensors are one parameter', () => {
  const tied = TENSORS.find(({ name }) => name === 'fc.weight');
  if (tied === undefined) throw new Error('no fc.weight');
  const tensors = [...TENSORS, { ...tied, name: 'tied.weight' }];
  const numbered = groupOf(NAMES, {
    parameters: NAMES.map((_, index) => ({ name: null, hasState: index > 2, shape: null })),
  });
  const declared = declaring([optimizerOf(numbered)], tensors);
  expect(declared.tensors.get('tied.weight')).toEqual(declared.tensors.get('fc.weight'));
  expect(declared.tensors.size).toBe(6);
});

describe('requires_grad', () => {
  const flagged = (isOn: (name: string) => boolean) =>
    TENSORS.map((tensor) =>
      NAMES.includes(tensor.name) ? { ...tensor, requiresGrad: isOn(tensor.name) } : tensor,
    );

  test('off somewhere is a freeze', () => {
    const declared = declaring(
      [],
      flagged((name) => name.startsWith('fc')),
    );
    expect(sortByWord(declared, true)).toEqual({ 'requires-grad': BACKBONE });
  });

  test('off everywhere says nothing: averaged copies have it so', () => {
    const { tensors, mute } = declaring(
      [],
      flagged(() => false),
    );
    expect([tensors.size, mute[0]]).toEqual([0, expect.stringContaining('off everywhere')]);
  });

  test('says less than the optimizer, which tells what was done', () => {
    const declared = declaring(
      [optimizerOf(groupOf(NAMES))],
      flagged((name) => name.startsWith('fc')),
    );
    expect(sortByWord(declared, true)).toEqual({});
  });
});

describe('settings', () => {
  const pathsOf = (by: 'frozen-stages' | 'norm-cfg' | 'norm-eval', ...paths: readonly string[]) =>
    declaring([{ kind: 'paths', by, where: 'meta.cfg', paths }]);

  test('freeze what lies under the modules that they name', () => {
    const declared = pathsOf('frozen-stages', 'backbone.conv1', 'backbone.bn1', 'backbone.layer1');
    expect(sortByWord(declared, true)).toEqual({ 'frozen-stages': BACKBONE });
    expect(declared.layers.get('backbone.bn1')).toMatchObject({
      evalBy: 'meta.cfg',
      affine: { frozen: true },
    });
  });

  test('do not take one name for the beginning of another', () => {
    expect(pathsOf('frozen-stages', 'back', 'backbone.conv').tensors.size).toBe(0);
  });

  test('of norm layers leave the convolutions be', () => {
    expect(sortByWord(pathsOf('norm-cfg', 'backbone'), true)).toEqual({ 'norm-cfg': BACKBONE.slice(1) });
  });

  test('norm_eval is about statistics alone', () => {
    const { tensors, layers } = pathsOf('norm-eval', 'backbone');
    expect([tensors.size, layers.get('backbone.bn1')]).toEqual([0, { affine: null, evalBy: 'meta.cfg' }]);
  });
});

describe('an adapter of PEFT freezes', () => {
  const frozenBy = (
    overrides: Partial<Extract<Declaration, { kind: 'adapter' }>>,
    names: readonly string[],
  ) => {
    const declaration: Declaration = {
      kind: 'adapter',
      where: 'adapter_config.json',
      method: 'LORA',
      base: null,
      targets: ['conv1'],
      saved: ['fc'],
      trainsBiases: false,
      ...overrides,
    };
    const tensors = names.map((name) => tensorOf(name, [1, 2], { shape: [1, 2] }));
    return [...declaring([declaration], tensors).tensors.keys()];
  };

  test('all but what it trains, saves, or may have been merged into', () => {
    expect(frozenBy({}, ['net.conv1.weight', 'net.conv10.weight', 'net.bn.bias', 'net.fc.0.weight'])).toEqual(
      ['net.conv10.weight', 'net.bn.bias'],
    );
  });

  test('the weights beside the adapter as well', () => {
    const names = [
      'net.conv1.base_layer.weight',
      'net.conv1.lora_A.default.weight',
      'net.fc.modules_to_save.x.weight',
    ];
    expect(frozenBy({}, names)).toEqual(['net.conv1.weight']);
  });

  test('biases unless it trains them', () => {
    expect(frozenBy({ trainsBiases: true }, ['net.bn.bias', 'net.bn.weight'])).toEqual(['net.bn.weight']);
  });

  test('no matrix where a pattern names its targets', () => {
    expect(frozenBy({ targets: null }, ['net.conv.weight'])).toEqual([]);
  });
});

describe('a norm layer', () => {
  test('without affine goes by what feeds it', () => {
    const tensors = [
      tensorOf('conv.weight', [1, 2, 3, 4], { shape: [2, 2] }),
      ...normTensors('bn', { weight: null, bias: null }),
      tensorOf('fc.weight', [1, 2], { shape: [1, 2] }),
    ];
    const { layers } = declaring([optimizerOf(groupOf(['fc.weight']))], tensors);
    expect(layers.get('bn')?.affine?.by).toBe('not-in-optimizer');
  });

  test('of which γ and β are treated differently is neither', () => {
    const { layers } = declaring([optimizerOf(groupOf(['backbone.bn1.weight']))]);
    expect(layers.has('backbone.bn1')).toBe(false);
  });
});
