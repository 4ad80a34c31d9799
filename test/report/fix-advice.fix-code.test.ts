import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type NormRule,
  PADDLE,
  quotePython,
  writeEvalCalls,
  writeList,
} from '../../src/report/fix-advice.js';

const planOf = (modules: readonly string[], rule: NormRule | null = null, isPartHidden = false) => ({
  blamed: [],
  layers: [],
  modules,
  rule,
  isPartHidden,
});

test('up to three modules are spelled out, as Python reaches them', () => {
  expect(writeEvalCalls(planOf(['backbone', 'net.0.bn', 'blocks.10']), 'model')).toEqual([
    'model.backbone.eval()',
    'model.net[0].bn.eval()',
    'model.blocks[10].eval()',
  ]);
});

test('more are looped over, every one of them', () => {
  expect(writeEvalCalls(planOf(Array.from({ length: 9 }, (_, i) => `stage${i}.norm`)), 'model')).toEqual([
    'for name in (',
    '    "stage0.norm", "stage1.norm", "stage2.norm", "stage3.norm",',
    '    "stage4.norm", "stage5.norm", "stage6.norm", "stage7.norm",',
    '    "stage8.norm",',
    '):',
    '    model.get_submodule(name).eval()',
  ]);
});

describe('a rule stands for a longer list', () => {
  const modules = ['a.bn', 'b.bn', 'c.bn', 'd.bn'];

  test('all norm layers below a module', () => {
    expect(writeEvalCalls(planOf(modules, { under: 'body.0', leaves: null }), 'self')).toEqual([
      'for module in self.body[0].modules():',
      '    if hasattr(module, "running_mean"):',
      '        module.eval()',
    ]);
  });

  test('those with one name, or with one of some', () => {
    expect(writeEvalCalls(planOf(modules, { under: '', leaves: ['bn'] }), 'model')).toEqual([
      'for name, module in model.named_modules():',
      '    if name.endswith(".bn") and hasattr(module, "running_mean"):',
      '        module.eval()',
    ]);
    expect(writeEvalCalls(planOf(modules, { under: '', leaves: ['bn1', 'bn2'] }), 'model')[1]).toBe(
      '    if name.endswith((".bn1", ".bn2")) and hasattr(module, "running_mean"):',
    );
  });

  test('not where the list is short', () => {
    expect(writeEvalCalls(planOf(['a.bn'], { under: '', leaves: null }), 'model')).toEqual([
      'model.a.bn.eval()',
    ]);
  });
});

describe('Paddle', () => {
  const modules = ['a.bn', 'b.bn', 'c.bn', 'd.bn'];

  test('looks sublayers up by getattr, which is imported', () => {
    expect(writeEvalCalls(planOf(modules), 'model', PADDLE)).toEqual([
      'from functools import reduce',
      '',
      'for name in (',
      '    "a.bn", "b.bn", "c.bn", "d.bn",',
      '):',
      '    reduce(getattr, name.split("."), model).eval()',
    ]);
    expect(writeEvalCalls(planOf(['a.x-y']), 'model', PADDLE)).toEqual([
      'from functools import reduce',
      '',
      'reduce(getattr, "a.x-y".split("."), model).eval()',
    ]);
  });

  test('has words of its own in a rule', () => {
    expect(writeEvalCalls(planOf(modules, { under: '', leaves: null }), 'model', PADDLE)).toEqual([
      'for layer in model.sublayers():',
      '    if hasattr(layer, "_mean"):',
      '        layer.eval()',
    ]);
  });
});

test('what has no known path is left to the user by a name that is not defined', () => {
  expect(writeEvalCalls(planOf(['a'], null, true), 'model').at(-1)).toMatch(/^frozen_part\.eval\(\) {2}# /);
});

test.each([
  ['stage-1.bn', 'model.get_submodule("stage-1.bn").eval()'],
  ['größe.bn', 'model.get_submodule("gr\\U000000f6\\U000000dfe.bn").eval()'],
  ['a"b', 'model.get_submodule("a\\"b").eval()'],
  ['a\\', 'model.get_submodule("a\\\\").eval()'],
  ['x\ny', 'model.get_submodule("x\\U0000000ay").eval()'],
  ['x; import os', 'model.get_submodule("x; import os").eval()'],
  ['net.01', 'model.get_submodule("net.01").eval()'],
  ['blocks.in', 'model.get_submodule("blocks.in").eval()'],
])('%j is looked up, as a string that nothing gets out of', (path, line) => {
  expect(writeEvalCalls(planOf([path]), 'model')).toEqual([line]);
});

test('code is ASCII on lines of its own, whatever the names', () => {
  const name = fc.string({ unit: 'binary', minLength: 1 });
  const rule = fc.option(fc.record({ under: name, leaves: fc.option(fc.array(name, { minLength: 1 })) }));
  fc.assert(
    fc.property(fc.array(name, { minLength: 1, maxLength: 8 }), rule, (modules, chosen) => {
      const plan = planOf(modules, chosen);
      const lines = [...writeEvalCalls(plan, 'model'), ...writeEvalCalls(plan, 'model', PADDLE)];
      for (const line of [...lines, ...writeList(modules), ...modules.map(quotePython)]) {
        expect(line).toMatch(/^[\u0020-\u007e]*$/);
      }
    }),
  );
});
