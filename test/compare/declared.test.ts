import { describe, expect, test } from 'vitest';
import type { LearnedComparison } from '../../src/compare/compare-learned.js';
import {
  chooseDeclared,
  type Declared,
  describeDeclared,
  findDeclaredChanges,
  refuseIdleAuto,
} from '../../src/compare/declared.js';
import { matchNames } from '../../src/compare/globs.js';
import type { DeclaredBy, DeclaredFreeze, DeclaredTensor } from '../../src/norm/declared-freeze.js';
import { usageFailureOf } from '../build/failure.js';
import { comparisonOf, layerOf, learnedComparisons, learnedOf } from '../build/layers.js';

const frozenBy = (by: DeclaredBy): DeclaredTensor => ({ frozen: true, by, where: 'optimizer' });
const TRAINED: DeclaredTensor = { frozen: false, by: 'optimizer-state', where: 'optimizer.state' };

const freezeOf = (
  tensors: Readonly<Record<string, DeclaredTensor>>,
  overrides: Partial<DeclaredFreeze> = {},
): DeclaredFreeze => ({
  tensors: new Map(Object.entries(tensors)),
  layers: new Map(),
  unclear: [],
  mute: [],
  ...overrides,
});

const declaredOf = (
  tensors: Readonly<Record<string, DeclaredTensor>>,
  overrides: Partial<Declared> = {},
): Declared => ({ ...freezeOf(tensors, overrides), side: 'after', learned: 3, ...overrides });

const sideOf = (declared: DeclaredFreeze) => ({ declared, learned: new Map([['w', 1]]) });

describe('whose word counts', () => {
  const some = freezeOf({ w: TRAINED });
  const none = freezeOf({});

  test.each([
    ['after’s, where both have one', some, some, 'after'],
    ['before’s, where after has none', some, none, 'before'],
    ['no one’s, where neither has one', none, none, 'after'],
    [
      'settings of norm layers are a word',
      some,
      freezeOf({}, { layers: new Map([['bn', { affine: null, evalBy: 'meta.cfg' }]]) }),
      'after',
    ],
  ])('%s', (_, before, after, side) => {
    expect(chooseDeclared(sideOf(before), sideOf(after))).toMatchObject({ side, learned: 1 });
  });
});

describe('what is declared frozen and changed', () => {
  const FROZEN = declaredOf({
    'conv.weight': frozenBy('no-optimizer-state'),
    'conv.bias': frozenBy('no-optimizer-state'),
    'fc.weight': TRAINED,
  });
  const CHANGED = [
    learnedOf('conv.weight', 'changed'),
    learnedOf('conv.bias', 'changed'),
    learnedOf('fc.weight', 'changed'),
  ];
  const findingsOf = (
    declared: Declared,
    learned: readonly LearnedComparison[] = CHANGED,
    {
      allow = [],
      frozen = [],
      isAuto = false,
    }: { allow?: string[]; frozen?: string[]; isAuto?: boolean } = {},
  ) =>
    findDeclaredChanges(learnedComparisons(...learned), declared, {
      isAllowed: matchNames(allow, []),
      isFrozen: matchNames(frozen, []),
      minShift: 0,
      isAuto,
    });

  test('is a warning about each module', () => {
    expect(findingsOf(FROZEN)).toEqual([
      {
        kind: 'declared-frozen-changed',
        level: 'warning',
        layer: 'conv',
        message: 'its "weight", "bias" changed, although after declares it frozen (no optimizer state)',
        docs: 'docs/findings/declared-frozen-changed.md',
      },
    ]);
  });

  test('is an error with --frozen auto', () => {
    expect(findingsOf(FROZEN, CHANGED, { isAuto: true })).toMatchObject([{ level: 'error', layer: 'conv' }]);
  });

  test('is a note where it is allowed', () => {
    expect(findingsOf(FROZEN, CHANGED, { allow: ['conv'] })).toMatchObject([
      { level: 'note', message: expect.stringMatching(/^allowed: /) },
    ]);
  });

  test('is another finding where --frozen names it', () => {
    expect(findingsOf(FROZEN, CHANGED, { frozen: ['conv'] })).toEqual([]);
  });

  test('is none where nothing changed, or no one can tell', () => {
    expect(findingsOf(FROZEN, [learnedOf('conv.weight'), learnedOf('conv.bias', 'incomparable')])).toEqual(
      [],
    );
  });

  test('is looked up under the names of the side whose word it is', () => {
    const renamed = [{ ...learnedOf('model.conv.weight', 'changed'), afterName: 'conv.weight' }];
    expect(findingsOf(FROZEN, renamed)).toMatchObject([{ layer: 'model.conv' }]);
  });

  test('is none where before says so, unless that is insisted on', () => {
    const earlier = { ...FROZEN, side: 'before' } as const;
    expect(findingsOf(earlier)).toEqual([]);
    expect(findingsOf(earlier, CHANGED, { isAuto: true })).toMatchObject([{ level: 'error' }]);
  });
});

describe('--frozen auto', () => {
  test('means something where a tensor or a layer is declared frozen', () => {
    refuseIdleAuto(declaredOf({ w: frozenBy('lr-0') }));
    refuseIdleAuto(declaredOf({}, { layers: new Map([['bn', { affine: null, evalBy: 'meta.cfg' }]]) }));
  });

  test('is refused where nothing is, with the reason and the way out', async () => {
    const idle = declaredOf({ w: TRAINED }, { mute: ['requires_grad is off everywhere'] });
    expect(await usageFailureOf(async () => refuseIdleAuto(idle))).toEqual({
      message:
        '--frozen auto asserts what after declares frozen, and it declares nothing: requires_grad is off everywhere',
      hint: expect.stringContaining('--frozen backbone'),
    });
  });
});

describe('in a sentence', () => {
  const describe = (
    declared: Declared,
    {
      modes = ['unknown'],
      learned = [],
    }: { modes?: readonly ('batch' | 'running' | 'unknown')[]; learned?: readonly LearnedComparison[] } = {},
  ) =>
    describeDeclared(
      declared,
      modes.map((mode, index) => comparisonOf(`bn${index}`, { after: layerOf(`bn${index}`, { mode }) })),
      learnedComparisons(...learned),
    );
  const FROZEN = declaredOf({
    a: frozenBy('no-optimizer-state'),
    b: frozenBy('no-optimizer-state'),
    c: TRAINED,
  });

  test.each([
    ['training mode', ['batch', 'batch'], 'the norm layers were saved in training mode'],
    ['evaluation mode', ['running', 'running'], 'the norm layers were saved in evaluation mode'],
    ['both', ['batch', 'running'], '1 of 2 norm layers were saved in training mode'],
  ] as const)('the freeze beside %s', (_, modes, said) => {
    expect(describe(FROZEN, { modes })).toEqual([
      `declared frozen: 2 of 3 parameters (no optimizer state); ${said}`,
    ]);
  });

  test('training mode is worth a word alone, evaluation mode is not', () => {
    expect(describe(declaredOf({}), { modes: ['batch'] })).toEqual([
      'the norm layers were saved in training mode',
    ]);
    expect(describe(declaredOf({}), { modes: ['running'] })).toEqual([]);
  });

  test('each reason is counted where there are several', () => {
    const declared = declaredOf({ a: frozenBy('lr-0'), b: frozenBy('requires-grad') });
    expect(describe(declared)).toEqual([
      'declared frozen: 2 of 3 parameters (1 learning rate 0, 1 requires_grad=False)',
    ]);
  });

  test('what settings keep in eval() is said', () => {
    const layers = new Map([['bn0', { affine: null, evalBy: 'meta.cfg' }]]);
    expect(describe(declaredOf({}, { layers }), { modes: ['unknown', 'unknown'] })).toEqual([
      'settings keep 1 of 2 norm layers in eval()',
    ]);
  });

  test('what could not be told is said, and whose word it is', () => {
    expect(describe({ ...FROZEN, side: 'before', unclear: ['it is odd'] })).toEqual([
      'declared frozen by before alone: 2 of 3 parameters (no optimizer state)',
      'before: it is odd',
    ]);
  });

  test('a checkpoint that was trained whole, and did change, is no news', () => {
    const declared = declaredOf({ a: TRAINED });
    expect(describe(declared, { learned: [learnedOf('a', 'changed')] })).toEqual([]);
  });

  test('many tensors that were trained, it is said, and did not change are worth a note', () => {
    const names = ['a', 'b', 'c', 'd', 'e'];
    const declared = declaredOf(Object.fromEntries(names.map((name) => [name, TRAINED])));
    const learned = names.map((name) => learnedOf(name, name === 'e' ? 'changed' : 'exact'));
    expect(describe(declared, { learned })).toEqual([
      '4 of 5 tensors that after declares trained (optimizer state) did not change: were they frozen by other means, or not trained since before?',
    ]);
    expect(describe(declared, { learned: learned.slice(2) })).toEqual([]);
  });
});
