import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { OptimizerGroup, OptimizerParameter } from '../../src/checkpoint/checkpoint.js';
import { type ModelParameter, mapOptimizer } from '../../src/norm/declared-freeze.js';

/** A backbone of two convolutions with norm layers, and a head. */
const MODEL: readonly ModelParameter[] = [
  { name: 'conv1.weight', shape: [4, 3] },
  { name: 'bn1.weight', shape: [4] },
  { name: 'bn1.bias', shape: [4] },
  { name: 'conv2.weight', shape: [4, 4] },
  { name: 'bn2.weight', shape: [4] },
  { name: 'bn2.bias', shape: [4] },
  { name: 'fc.weight', shape: [2, 4] },
  { name: 'fc.bias', shape: [2] },
];
const NAMES = MODEL.map(({ name }) => name);
const HEAD = ['fc.weight', 'fc.bias'];
const BACKBONE = NAMES.slice(0, 6);
const MATRICES = ['conv1.weight', 'conv2.weight', 'fc.weight'];
const VECTORS = NAMES.filter((name) => !MATRICES.includes(name));

const shapeOf = (name: string) => MODEL.find((one) => one.name === name)?.shape ?? null;
const parameterOf = (overrides: Partial<OptimizerParameter>): OptimizerParameter => ({
  name: null,
  hasState: false,
  shape: null,
  ...overrides,
});

/** A group of these parameters in this order; those that were trained have state, and so a shape. */
function groupOf(names: readonly string[], trained: readonly string[] = names): OptimizerGroup {
  return {
    learningRate: 0.1,
    initialLearningRate: null,
    isStateTelling: true,
    parameters: names.map((name) =>
      parameterOf(trained.includes(name) ? { hasState: true, shape: shapeOf(name) } : {}),
    ),
  };
}

function map(groups: readonly OptimizerGroup[], model = MODEL) {
  const declaration = { kind: 'optimizer', where: 'optimizer', groups } as const;
  const mapping = mapOptimizer(declaration, model, ({ hasState }, group) => `${hasState} ${group}`);
  return mapping.kind === 'mapped' ? Object.fromEntries(mapping.held) : mapping.reason;
}

const factsOf = (entries: Readonly<Record<string, readonly string[]>>) =>
  Object.fromEntries(Object.entries(entries).flatMap(([fact, names]) => names.map((name) => [name, fact])));

describe('numbers are mapped', () => {
  test.each<[string, readonly OptimizerGroup[], Readonly<Record<string, readonly string[]>>]>([
    ['in module order, where every parameter was handed over', [groupOf(NAMES, [])], { 'false 0': NAMES }],
    ['some with state', [groupOf(NAMES, HEAD)], { 'false 0': BACKBONE, 'true 0': HEAD }],
    ['by shapes, where only the head was handed over', [groupOf(HEAD)], { 'true 0': HEAD }],
    [
      'by order and shapes, where no shape alone would do',
      [groupOf(['conv2.weight', 'bn2.weight', 'bn2.bias', ...HEAD])],
      { 'true 0': ['conv2.weight', 'bn2.weight', 'bn2.bias', ...HEAD] },
    ],
    [
      'where the head’s group comes first',
      [groupOf(HEAD), groupOf(BACKBONE)],
      { 'true 0': HEAD, 'true 1': BACKBONE },
    ],
    [
      'where matrices and vectors are apart',
      [groupOf(MATRICES), groupOf(VECTORS)],
      { 'true 0': MATRICES, 'true 1': VECTORS },
    ],
    [
      'where each parameter is a group of its own',
      NAMES.map((name) => groupOf([name])),
      Object.fromEntries(NAMES.map((name, index) => [`true ${index}`, [name]])),
    ],
  ])('%s', (_, groups, expected) => {
    expect(map(groups)).toEqual(factsOf(expected));
  });

  test('where what is left over all says the same, though no one knows which is which', () => {
    const declaration = {
      kind: 'optimizer',
      where: 'optimizer',
      groups: [groupOf(MATRICES, HEAD), groupOf(VECTORS, HEAD)],
    } as const;
    const mapping = mapOptimizer(declaration, MODEL, ({ hasState }) => hasState);
    const held = mapping.kind === 'mapped' ? Object.fromEntries(mapping.held) : mapping.reason;
    expect(held).toEqual(Object.fromEntries(NAMES.map((name) => [name, HEAD.includes(name)])));
  });
});

describe('names are mapped', () => {
  const named = (...names: readonly string[]) => [
    { ...groupOf([]), parameters: names.map((name) => parameterOf({ name })) },
  ];
  const under = (prefix: string) => MODEL.map(({ name, shape }) => ({ name: `${prefix}${name}`, shape }));

  test.each<[string, readonly string[], readonly ModelParameter[], readonly string[]]>([
    ['as they are', HEAD, MODEL, HEAD],
    ['in any order', [...HEAD].reverse(), MODEL, HEAD],
    ['without wrappers', ['module.fc.weight', '_orig_mod.fc.bias'], MODEL, HEAD],
    ['under a prefix', HEAD, under('model.'), HEAD.map((name) => `model.${name}`)],
    ['from under a prefix', HEAD.map((name) => `model.${name}`), MODEL, HEAD],
  ])('%s', (_, names, model, expected) => {
    expect(Object.keys(map(named(...names), model)).sort()).toEqual([...expected].sort());
  });

  test.each<[string, readonly string[]]>([
    ['names of another model', ['decoder.weight']],
    ['names under several modules', ['weight']],
    ['one name too many', [...HEAD, 'criterion.margin']],
  ])('but not %s', (_, names) => {
    expect(map(named(...names))).toBe('names parameters that the model does not have under these names');
  });
});

describe('nothing is guessed', () => {
  test.each<[string, readonly OptimizerGroup[], string]>([
    ['of a part without state', [groupOf(HEAD, [])], '2 of its 2 could be several'],
    ['of groups without state', [groupOf(BACKBONE, []), groupOf(HEAD, [])], '8 of its 8 could be several'],
    ['of a layer that is like another', [groupOf(['bn1.weight', 'bn1.bias'])], '2 of its 2 could be several'],
    [
      'out of module order',
      [groupOf([...NAMES].reverse(), HEAD)],
      'in module order, are not those of the model',
    ],
    ['of a larger model', [groupOf([...NAMES, 'x'])], 'holds 9 parameters, and the model has 8'],
  ])('%s', (_, groups, reason) => {
    expect(map(groups)).toContain(reason);
  });

  test('where groups are many and alike, the search ends', () => {
    const model = Array.from({ length: 30_000 }, (_, index) => ({ name: `p${index}`, shape: [4] }));
    const one = { ...groupOf([]), parameters: [parameterOf({ shape: [4] })] };
    const start = Date.now();
    expect(
      map(
        Array.from({ length: 20_000 }, () => one),
        model,
      ),
    ).toMatch(/could be several|tell them apart/);
    expect(Date.now() - start).toBeLessThan(5_000);
  });
});

describe('whatever is handed over in module order', () => {
  /** Few shapes, so that many parameters are alike; a group of its own for each kind, none for what is left out. */
  const parameter = fc.record({
    shape: fc.constantFrom([4], [4, 4], [2, 4], [2]),
    group: fc.integer({ min: -1, max: 2 }),
    isTrained: fc.boolean(),
  });

  test('is either mapped as it was, or said to be unclear', () => {
    let mapped = 0;
    fc.assert(
      fc.property(fc.array(parameter, { minLength: 1, maxLength: 12 }), fc.boolean(), (drawn, areSingle) => {
        const model = drawn.map(({ shape }, index) => ({ name: `p${index}`, shape }));
        const facts = drawn.map(({ group, isTrained }) => `${group} ${isTrained}`);
        const slotOf = (index: number) => ({
          name: null,
          hasState: drawn[index]?.isTrained === true,
          shape: drawn[index]?.isTrained === true ? (drawn[index]?.shape ?? null) : null,
        });
        const places = drawn.map((_, index) => index);
        const groups = areSingle
          ? places.map((place) => [place])
          : [0, 1, 2].map((group) => places.filter((place) => drawn[place]?.group === group));
        const declaration = {
          kind: 'optimizer',
          where: '',
          groups: groups.map((members) => ({ ...groupOf([]), parameters: members.map(slotOf) })),
        } as const;
        const handed = groups.flat();
        if (handed.length === 0) return;
        const queue = groups.map((members) => [...members]);
        const mapping = mapOptimizer(declaration, model, (_, group) => facts[queue[group]?.shift() ?? -1]);
        if (mapping.kind === 'unclear') return;
        mapped++;
        expect(mapping.held).toEqual(new Map(handed.map((place) => [`p${place}`, facts[place]])));
      }),
      { numRuns: 2_000 },
    );
    expect(mapped).toBeGreaterThan(100);
  });
});
