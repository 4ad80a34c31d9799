import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  findModulesToFreeze,
  writeTrainingLoopFix,
  writeTrainOverride,
} from '../../src/report/fix-advice.js';
import { makeLayer, makeReport } from './sample-reports.js';

const region = (path: string, status: 'frozen' | 'trained', drifted: number) => ({
  path,
  status,
  equality: status === 'frozen' ? ('exact' as const) : null,
  relativeDifference: 0,
  layers: drifted,
  drifted,
  learned: { tensors: 1, equal: status === 'frozen' ? 1 : 0, elements: 10 },
});

describe('which modules to freeze', () => {
  test('the frozen regions in which something drifted', () => {
    const report = makeReport({
      layers: [
        makeLayer('backbone.bn'),
        makeLayer('neck.bn', { status: 'locked' }),
        makeLayer('head.bn', { status: 'trained' }),
      ],
      regions: [region('backbone', 'frozen', 1), region('neck', 'frozen', 0), region('head', 'trained', 0)],
    });
    expect(findModulesToFreeze(report)).toEqual(['backbone']);
  });

  test('a drifted layer outside of any frozen region by itself', () => {
    const report = makeReport({
      layers: [makeLayer('a.bn'), makeLayer('ab.bn')],
      regions: [region('a', 'frozen', 1)],
    });
    expect(findModulesToFreeze(report)).toEqual(['a', 'ab.bn']);
  });

  test('the whole model where that is one frozen region', () => {
    const report = makeReport({
      layers: [makeLayer('a.bn'), makeLayer('b.bn')],
      regions: [region('', 'frozen', 2)],
    });
    expect(findModulesToFreeze(report)).toEqual(['']);
  });

  test('none where nothing drifted', () => {
    const report = makeReport({
      layers: [makeLayer('a.bn', { status: 'locked' })],
      regions: [region('', 'frozen', 0)],
    });
    expect(findModulesToFreeze(report)).toEqual([]);
  });

  test('none where the drift was accepted', () => {
    const report = makeReport({
      layers: [makeLayer('a.bn')],
      regions: [region('', 'frozen', 1)],
      findings: [],
    });
    expect(findModulesToFreeze(report)).toEqual([]);
  });
});

describe('the training loop', () => {
  test('up to three modules are spelled out, as Python reaches them', () => {
    expect(writeTrainingLoopFix(['backbone', 'net.0.bn', 'blocks.10'])).toEqual([
      'model.train()',
      'model.backbone.eval()',
      'model.net[0].bn.eval()',
      'model.blocks[10].eval()',
    ]);
  });

  test('more are looped over', () => {
    expect(writeTrainingLoopFix(['a', 'b', 'c', 'd'])).toEqual([
      'model.train()',
      'for name in (',
      '    "a",',
      '    "b",',
      '    "c",',
      '    "d",',
      '):',
      '    model.get_submodule(name).eval()',
    ]);
  });

  test('beyond six the rest is counted', () => {
    const lines = writeTrainingLoopFix(Array.from({ length: 9 }, (_, i) => `m${i}`));
    expect(lines[1]).toBe('for name in (  # and 3 more');
    expect(lines.filter((line) => line.startsWith('    "'))).toHaveLength(6);
  });

  test('the whole model is not trained at all', () => {
    expect(writeTrainingLoopFix([''])).toEqual([
      'model.eval()  # in place of model.train(): nothing here is trained',
    ]);
  });

  test.each([
    ['stage-1.bn', 'model.get_submodule("stage-1.bn").eval()'],
    ['größe.bn', 'model.get_submodule("gr\\U000000f6\\U000000dfe.bn").eval()'],
    ['a"b', 'model.get_submodule("a\\"b").eval()'],
    ['a\\', 'model.get_submodule("a\\\\").eval()'],
    ['x\ny', 'model.get_submodule("x\\U0000000ay").eval()'],
    ['x; import os', 'model.get_submodule("x; import os").eval()'],
  ])('%j is reached by get_submodule, as a string that nothing gets out of', (path, line) => {
    expect(writeTrainingLoopFix([path])).toEqual(['model.train()', line]);
  });

  test('is ASCII on lines of its own, whatever the names', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: 'binary', minLength: 1 }), { minLength: 1, maxLength: 8 }),
        (modules) => {
          for (const line of [...writeTrainingLoopFix(modules), ...writeTrainOverride(modules)]) {
            expect(line).toMatch(/^[\u0020-\u007e]*$/);
          }
        },
      ),
    );
  });
});

describe('the override of train()', () => {
  test('keeps the modules still and returns the model', () => {
    expect(writeTrainOverride(['backbone'])).toEqual([
      'def train(self, mode=True):',
      '    super().train(mode)',
      '    self.backbone.eval()',
      '    return self',
    ]);
  });

  test('of a whole model does not call itself', () => {
    expect(writeTrainOverride([''])).toEqual([
      'def train(self, mode=True):',
      '    return super().train(False)',
    ]);
  });
});
