import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { makeFinding } from '../../src/compare/findings.js';
import { findRegions } from '../../src/compare/regions.js';
import type { AuditLayer, AuditReport } from '../../src/report/audit-report.js';
import { planFreeze, writeEvalCalls } from '../../src/report/fix-advice.js';
import { learnedOf } from '../build/layers.js';
import { interpretFix } from './interpret-fix.js';
import { makeLayer, makeReport } from './sample-reports.js';

const region = (path: string, status: 'frozen' | 'trained' = 'frozen', drifted = 1) => ({
  path,
  status,
  equality: status === 'frozen' ? ('exact' as const) : null,
  relativeDifference: 0,
  layers: drifted,
  drifted,
  learned: { tensors: 1, equal: status === 'frozen' ? 1 : 0, elements: 10 },
});

const TRAINED = { status: 'trained', affine: 'changed' } as const;

/** The note that an audit has for a norm layer that before does not have. */
const freshNote = (name: string) => makeFinding('unpaired-layer', name, 'the layer is new in after', 'note');

const modulesOf = (report: AuditReport) => planFreeze(report).modules;

describe('which modules to keep still', () => {
  test('the frozen regions in which something drifted', () => {
    const report = makeReport({
      layers: [
        makeLayer('backbone.bn'),
        makeLayer('neck.bn', { status: 'locked' }),
        makeLayer('head.bn', TRAINED),
      ],
      regions: [region('backbone'), region('neck', 'frozen', 0), region('head', 'trained', 0)],
    });
    expect(modulesOf(report)).toEqual(['backbone']);
  });

  test('a drifted layer outside of any frozen region by itself', () => {
    const report = makeReport({ layers: [makeLayer('a.bn'), makeLayer('ab.bn')], regions: [region('a')] });
    expect(modulesOf(report)).toEqual(['a', 'ab.bn']);
  });

  test('the whole model where that is one frozen region', () => {
    const report = makeReport({ layers: [makeLayer('a.bn'), makeLayer('b.bn')], regions: [region('')] });
    expect(modulesOf(report)).toEqual(['']);
  });

  test('none where nothing drifted, or the drift was accepted', () => {
    const locked = makeReport({ layers: [makeLayer('a.bn', { status: 'locked' })], regions: [region('')] });
    expect(modulesOf(locked)).toEqual([]);
    expect(modulesOf(makeReport({ layers: [makeLayer('a.bn')], findings: [] }))).toEqual([]);
  });

  test.each<[string, Partial<AuditLayer>]>([
    ['was trained without a weight of its own', { status: 'trained', affine: 'none', neighbours: 'changed' }],
    ['may drift by --allow', { allowed: true }],
  ])('no frozen region with a norm layer that %s', (_, other) => {
    const layers = [makeLayer('body.bn'), makeLayer('body.other', other)];
    const findings = [makeFinding('frozen-stats-drift', 'body.bn', 'moved')];
    expect(modulesOf(makeReport({ layers, findings, regions: [region('body')] }))).toEqual(['body.bn']);
  });

  test('the largest modules of a frozen region beside such a layer', () => {
    const layers = [
      makeLayer('body.a.bn1'),
      makeLayer('body.a.bn2'),
      makeLayer('body.b.bn', { allowed: true }),
    ];
    const findings = layers.slice(0, 2).map(({ name }) => makeFinding('frozen-stats-drift', name, 'moved'));
    const plan = planFreeze(makeReport({ layers, findings, regions: [region('body')] }));
    expect(plan.modules).toEqual(['body.a']);
    // What was frozen is the whole of it, whatever the user accepts.
    expect(plan.blamed).toEqual(['body']);
  });

  test('no frozen region with a norm layer that is new in after', () => {
    const findings = [makeFinding('frozen-stats-drift', 'body.bn', 'moved'), freshNote('body.adapter.bn')];
    const report = makeReport({ layers: [makeLayer('body.bn')], findings, regions: [region('body')] });
    expect(modulesOf(report)).toEqual(['body.bn']);
  });
});

describe('what the files do not tell', () => {
  test('is a layer named by a graph’s node, beside which no region is sure', () => {
    const layers = [makeLayer('body.bn'), makeLayer('BatchNormalization_1', { named: false })];
    expect(planFreeze(makeReport({ layers, regions: [region('body')] }))).toMatchObject({
      modules: ['body.bn'],
      rule: null,
      isPartHidden: true,
    });
  });

  const folded = { name: 'x', node: null, mean: null, variance: null };

  test('is the norm layer beside a convolution that it was folded into, unless all around is frozen', () => {
    const conv = makeLayer('body.conv', { via: 'folded', before: folded, after: folded });
    const plan = (path: string) => planFreeze(makeReport({ layers: [conv], regions: [region(path)] }));
    expect(plan('body')).toMatchObject({ modules: ['body'], isPartHidden: false });
    expect(plan('body.conv')).toMatchObject({ modules: [], isPartHidden: true });
  });

  test('makes no rule of how convolutions end', () => {
    const told = { via: 'folded', before: folded, after: folded } as const;
    const names = ['a', 'b', 'c', 'd'];
    const report = makeReport({
      layers: [...names.map((name) => makeLayer(`${name}.conv`, told)), makeLayer('head.fc', TRAINED)],
      regions: names.map((name) => region(name)),
    });
    expect(planFreeze(report)).toMatchObject({ modules: names, rule: null, isPartHidden: false });
  });

  test('is a path that no module has', () => {
    expect(planFreeze(makeReport({ layers: [makeLayer('a'.repeat(301))] }))).toMatchObject({
      modules: [],
      isPartHidden: true,
    });
  });
});

describe('a rule', () => {
  const ruleOf = (drifted: readonly string[], spared: readonly string[]) =>
    planFreeze(
      makeReport({
        layers: [
          ...drifted.map((name) => makeLayer(name)),
          ...spared.map((name) => makeLayer(name, TRAINED)),
        ],
      }),
    ).rule;

  test('is all norm layers of a module where none of them was trained', () => {
    expect(ruleOf(['net.body.a.bn', 'net.body.b.bn'], ['net.head.bn'])).toEqual({
      under: 'net.body',
      leaves: null,
    });
  });

  test('is their last name where the others have another', () => {
    expect(ruleOf(['u0.bn_a', 'u1.bn_a'], ['u0.bn_b', 'u1.bn_b'])).toEqual({ under: '', leaves: ['bn_a'] });
  });

  test('is none where the names do not tell them from the others', () => {
    expect(ruleOf(['u0.bn', 'u1.bn'], ['u2.bn'])).toBeNull();
    expect(ruleOf(['bn', 'a.bn'], ['other'])).toBeNull();
  });
});

/** What may have become of a norm layer and of the convolution beside it. */
const FATES = [
  { status: 'drifted', affine: 'equal', conv: 'equal' },
  { status: 'drifted', affine: 'none', conv: 'equal' },
  { status: 'locked', affine: 'equal', conv: 'equal' },
  { status: 'trained', affine: 'changed', conv: 'changed' },
  { status: 'trained', affine: 'changed', conv: 'equal' },
  { status: 'trained', affine: 'none', conv: 'changed' },
  { status: 'affine-frozen', affine: 'equal', conv: 'changed' },
  { status: 'held', affine: 'changed', conv: 'equal' },
  { status: 'new', affine: 'equal', conv: 'new' },
  { status: 'new', affine: 'none', conv: 'new' },
] as const;

const component = fc.constantFrom(
  'backbone',
  'layer1',
  'layer2',
  'block',
  '0',
  '1',
  '10',
  'a-b',
  'größe',
  'in',
);

const drawnModel = fc
  .uniqueArray(
    fc.record({
      parent: fc.array(component, { maxLength: 3 }),
      leaf: fc.constantFrom('bn1', 'bn2', 'norm', '7'),
      fate: fc.constantFrom(...FATES),
      isAllowed: fc.integer({ min: 0, max: 9 }).map((draw) => draw === 0),
      hasAdapter: fc.integer({ min: 0, max: 9 }).map((draw) => draw === 0),
    }),
    { minLength: 1, maxLength: 24, selector: ({ parent, leaf }) => [...parent, leaf].join('.') },
  )
  // Some blocks leak as a whole, as they do in life.
  .chain((layers) =>
    fc
      .constantFrom(null, ...FATES)
      .map((one) =>
        layers.map((layer) =>
          one !== null && layer.parent[0] === 'backbone' ? { ...layer, fate: one } : layer,
        ),
      ),
  );

test('the code stops every norm layer that drifted, and nothing that was trained, is new or may drift', () => {
  fc.assert(
    fc.property(drawnModel, (drawn) => {
      const layers = drawn.map(({ parent, leaf, fate, isAllowed, hasAdapter }) => ({
        ...fate,
        // A learned tensor that is new in after, without a norm layer.
        adapterNames: hasAdapter ? [[...parent, `adapter_${leaf}`].join('.')] : [],
        isAllowed: isAllowed && fate.status === 'drifted',
        name: [...parent, leaf].join('.'),
        convName: [...parent, `conv_${leaf}`].join('.'),
      }));
      const owners = layers.flatMap(({ name, convName, adapterNames, conv, affine }) => [
        { name: `${convName}.weight`, fate: conv },
        ...adapterNames.map((adapter) => ({ name: `${adapter}.weight`, fate: 'new' as const })),
        ...(affine === 'none'
          ? []
          : [{ name: `${name}.weight`, fate: conv === 'new' ? ('new' as const) : affine }]),
      ]);
      const learned = owners.flatMap(({ name, fate }) =>
        fate === 'new' ? [] : [learnedOf(name, fate === 'equal' ? 'exact' : fate)],
      );
      const onlyAfter = owners.filter(({ fate }) => fate === 'new').map(({ name }) => name);
      const paired = layers.filter(({ status }) => status !== 'new');
      const drifted = paired.filter(({ status, isAllowed }) => status === 'drifted' && !isAllowed);
      const report = makeReport({
        layers: paired.map(({ name, status, affine, conv, isAllowed }) =>
          makeLayer(name, {
            status: status === 'new' ? 'trained' : status,
            affine,
            neighbours: conv === 'changed' ? 'changed' : 'equal',
            allowed: isAllowed,
          }),
        ),
        findings: [
          ...drifted.map(({ name }) => makeFinding('frozen-stats-drift', name, 'moved')),
          ...layers.filter(({ status }) => status === 'new').map(({ name }) => freshNote(name)),
        ],
        regions: findRegions(learned, [], onlyAfter),
      });

      const modules = new Set<string>();
      for (const { name, convName, adapterNames } of layers) {
        for (const path of [name, convName, ...adapterNames]) {
          const parts = path.split('.');
          for (let length = 1; length <= parts.length; length++)
            modules.add(parts.slice(0, length).join('.'));
        }
      }
      modules.add('');
      const plan = planFreeze(report);
      expect(plan.isPartHidden).toBe(false);
      const norms = new Set(layers.map(({ name }) => name));
      const still = interpretFix(writeEvalCalls(plan, 'model'), { modules, norms });

      expect(drifted.filter(({ name }) => !still.has(name))).toEqual([]);
      const moving = layers.filter(
        ({ status, isAllowed }) => isAllowed || (status !== 'drifted' && status !== 'locked'),
      );
      expect(moving.filter(({ name }) => still.has(name))).toEqual([]);
      const trained = owners
        .filter(({ fate }) => fate !== 'equal')
        .map(({ name }) => name.slice(0, -'.weight'.length));
      expect(trained.filter((module) => still.has(module))).toEqual([]);
    }),
    { numRuns: 500 },
  );
});
