import { describe, expect, test } from 'vitest';
import type { Framework } from '../../src/checkpoint/checkpoint.js';
import { makeFinding } from '../../src/compare/findings.js';
import type { AuditLayer, AuditReport } from '../../src/report/audit-report.js';
import { adviseFreeze, findModulesToFreeze, splitCodeWords } from '../../src/report/fix-advice.js';
import { makeLayer, makeReport } from './sample-reports.js';

const backbone = {
  path: 'backbone',
  status: 'frozen' as const,
  equality: 'exact' as const,
  relativeDifference: 0,
  layers: 1,
  drifted: 1,
};
const LEARNED = { tensors: 1, equal: 1, elements: 10 };

/** A report of a drifted `backbone`, as a framework's checkpoint of after gives it. */
function reportOf(after: Partial<AuditReport['after']>, layer: Partial<AuditLayer> = {}): AuditReport {
  const report = makeReport({
    layers: [makeLayer('backbone.bn', layer)],
    regions: [{ ...backbone, learned: LEARNED }],
  });
  return { ...report, after: { ...report.after, ...after } };
}

/** The lines of code of the first way. */
const codeOf = (report: AuditReport) => adviseFreeze(report)?.ways[0]?.code;
const allCodeOf = (report: AuditReport) => adviseFreeze(report)?.ways.flatMap(({ code }) => code) ?? [];

describe('advice is given', () => {
  test('where a frozen layer drifted, and names its part', () => {
    expect(findModulesToFreeze(reportOf({}))).toEqual(['backbone']);
    expect(adviseFreeze(reportOf({}))).not.toBeNull();
  });

  test('not where nothing drifted', () => {
    expect(adviseFreeze(makeReport({ layers: [makeLayer('bn', { status: 'locked' })] }))).toBeNull();
  });

  test('not where the drift was accepted', () => {
    expect(adviseFreeze(makeReport({ layers: [makeLayer('bn')], findings: [] }))).toBeNull();
  });

  test('for the framework of after, for that of before where after tells none', () => {
    const report = reportOf({ framework: null });
    const before = { ...report.before, framework: 'lightning' as const };
    expect(codeOf({ ...report, before })?.[0]).toContain('on_train_batch_start');
    expect(codeOf({ ...reportOf({ framework: 'pytorch' }), before })?.[0]).toBe('model.train()');
  });

  test('for PyTorch where neither tells', () => {
    const report = reportOf({ framework: null });
    expect(codeOf({ ...report, before: { ...report.before, framework: null } })?.[0]).toBe('model.train()');
  });
});

describe('drift that folded convolutions show', () => {
  const side = { name: 'backbone.conv', node: null, mean: null, variance: null };
  const foldedReport = (
    kind: 'folded-scale-drift' | 'folded-bias-drift',
    layer: Partial<AuditLayer> = {},
  ) => {
    const told = { via: 'folded', before: side, after: side, cause: null, batches: null } as const;
    return {
      ...reportOf({}, { ...told, ...layer }),
      findings: [makeFinding(kind, 'backbone.bn', 'each channel was rescaled')],
    };
  };

  test.each(['folded-scale-drift', 'folded-bias-drift'] as const)('has the same way out: %s', (kind) => {
    const status = kind === 'folded-bias-drift' ? 'ambiguous' : 'drifted';
    expect(codeOf(foldedReport(kind, { status }))).toEqual(codeOf(reportOf({})));
  });

  test('has none where it is one factor for all channels, as weight decay leaves it', () => {
    const report = foldedReport('folded-scale-drift');
    const [finding] = report.findings;
    if (finding === undefined) throw new Error('no finding');
    expect(adviseFreeze({ ...report, findings: [{ ...finding, level: 'warning' }] })).toBeNull();
  });

  test('has none where a bias alone moved that no file calls folded', () => {
    const layer = { kind: 'convolution with bias', status: 'ambiguous' } as const;
    expect(adviseFreeze(foldedReport('folded-bias-drift', layer))).toBeNull();
    expect(adviseFreeze(foldedReport('folded-scale-drift', { kind: layer.kind }))).not.toBeNull();
  });
});

describe('several networks in one file', () => {
  const ofParts = (parts: readonly string[]) => reportOf({ parts });

  test('are called by their keys, and it is said that code may call them otherwise', () => {
    const layers = [makeLayer('backbone.bn'), makeLayer('aux.bn', { status: 'locked' })];
    const [way] = adviseFreeze({ ...ofParts(['backbone', 'aux']), layers })?.ways ?? [];
    expect(way?.code).toEqual(['backbone.eval()  # in place of backbone.train(): nothing here is trained']);
    expect(way?.where).toContain(
      'backbone stands for the network saved under that key, whatever your code says for it',
    );
  });

  test('have the paths of their own modules', () => {
    const report = makeReport({
      layers: [makeLayer('nets.D.features.bn')],
      regions: [{ ...backbone, path: 'nets.D.features', learned: LEARNED }],
    });
    const parts = ['nets.G', 'nets.D'];
    expect(codeOf({ ...report, after: { ...report.after, parts } })).toEqual([
      'D.train()',
      'D.features.eval()',
    ]);
  });

  test('are looked up where a key is no name', () => {
    const report = makeReport({
      layers: [makeLayer('0.bn')],
      regions: [{ ...backbone, path: '0.bn', learned: LEARNED }],
    });
    expect(codeOf({ ...report, after: { ...report.after, parts: ['0', '1'] } })).toEqual([
      'networks["0"].train()',
      'networks["0"].bn.eval()',
    ]);
  });
});

describe('what holds in each framework', () => {
  test.each<[Framework, readonly string[]]>([
    ['pytorch', ['model.train()', 'model.backbone.eval()']],
    ['lightning', ['def on_train_batch_start(self, batch, batch_idx):', '    self.backbone.eval()']],
    [
      'ultralytics',
      [
        'def keep_still(trainer):',
        '    trainer.model.backbone.eval()',
        '',
        'model.add_callback("on_train_batch_start", keep_still)  # before model.train(...)',
      ],
    ],
    [
      'mmengine',
      [
        'from mmengine.hooks import Hook',
        'from mmengine.model import is_model_wrapper',
        'from mmengine.registry import HOOKS',
        '',
        '@HOOKS.register_module()',
        'class KeepStill(Hook):',
        '    def before_train_iter(self, runner, batch_idx, data_batch=None):',
        '        model = runner.model.module if is_model_wrapper(runner.model) else runner.model',
        '        model.backbone.eval()',
        '',
        'custom_hooks = [dict(type="KeepStill")]  # in the configuration',
      ],
    ],
    [
      'transformers',
      [
        'def compute_loss(self, *args, **kwargs):',
        '    self.model.backbone.eval()',
        '    return super().compute_loss(*args, **kwargs)',
      ],
    ],
    ['timm', ['from timm.utils import freeze', '', 'freeze(model, ["backbone"])']],
    ['paddle', ['model.train()', 'model.backbone.eval()']],
  ])('%s', (framework, code) => {
    expect(codeOf(reportOf({ framework }))).toEqual(code);
  });

  test('PyTorch, once and for all in the model’s class', () => {
    expect(adviseFreeze(reportOf({}))?.ways[1]?.code).toEqual([
      'def train(self, mode=True):',
      '    super().train(mode)',
      '    self.backbone.eval()',
      '    return self',
    ]);
  });

  test('Paddle, whose train() takes no mode', () => {
    expect(adviseFreeze(reportOf({ framework: 'paddle' }))?.ways[1]?.code).toEqual([
      'def train(self):',
      '    super().train()',
      '    self.backbone.eval()',
    ]);
  });

  test('Keras: layers by their paths, which are those of their variables', () => {
    const mean = (name: string) => ({ name, node: null, mean: name, variance: null });
    const report = makeReport({
      layers: [
        makeLayer('blk.bn_a', { after: mean('blk/bn_a/moving_mean') }),
        makeLayer('head.bn', { status: 'trained', affine: 'changed' }),
      ],
    });
    expect(codeOf({ ...report, after: { ...report.after, framework: 'keras' } })).toEqual([
      'for layer in model._flatten_layers():',
      '    if layer.path in (',
      '        "blk/bn_a",',
      '    ):',
      '        layer.trainable = False',
      '# then compile() again, which is when trainable is looked at',
    ]);
  });

  test('Keras: all norm layers where all of them drifted, and no names where an ONNX graph gave them', () => {
    expect(codeOf(reportOf({ framework: 'keras' }, { name: 'bn' }))?.[1]).toBe(
      '    if isinstance(layer, keras.layers.BatchNormalization):',
    );
    expect(codeOf(reportOf({ framework: 'keras', format: 'ONNX' }))?.[0]).toMatch(
      /^frozen_part\.trainable = False {2}#/,
    );
  });

  test('Flax: the batch_stats of before for linen, eval() for NNX', () => {
    const linen = { name: 'backbone.bn', node: null, mean: 'batch_stats.backbone.bn.mean', variance: null };
    expect(codeOf(reportOf({ framework: 'flax' }, { after: linen }))).toContain('    "backbone.",');
    expect(codeOf(reportOf({ framework: 'flax' }))).toEqual(['model.train()', 'model.backbone.eval()']);
  });

  test.each<Framework>(['mxnet', 'caffe2', 'darknet'])('%s: words without code', (framework) => {
    expect(adviseFreeze(reportOf({ framework }))).toMatchObject({ why: expect.any(String), ways: [] });
  });

  test('only PyTorch’s is told of requires_grad', () => {
    for (const framework of ['keras', 'flax', 'paddle', 'mxnet', 'caffe2', 'darknet'] as const) {
      const advice = adviseFreeze(reportOf({ framework }));
      expect(JSON.stringify(advice)).not.toContain('requires_grad');
    }
  });

  test('a wrapper that names leave out is spoken of', () => {
    const after = {
      name: 'backbone.bn',
      node: null,
      mean: 'module.backbone.bn.running_mean',
      variance: null,
    };
    expect(adviseFreeze(reportOf({}, { after }))?.ways[0]?.where).toContain('model.module');
    expect(adviseFreeze(reportOf({}))?.ways[0]?.where).not.toContain('model.module');
  });
});

describe('the whole model', () => {
  const whole = makeReport({
    layers: [makeLayer('a.bn'), makeLayer('b.bn')],
    regions: [{ ...backbone, path: '', learned: LEARNED }],
  });

  test('is not trained at all', () => {
    expect(codeOf(whole)).toEqual(['model.eval()  # in place of model.train(): nothing here is trained']);
  });

  test('has an override of train() that does not call itself', () => {
    expect(adviseFreeze(whole)?.ways[1]?.code).toEqual([
      'def train(self, mode=True):',
      '    return super().train(False)',
    ]);
  });

  test('is the object itself for a trainer', () => {
    const after = { ...whole.after, framework: 'lightning' as const };
    expect(codeOf({ ...whole, after })?.[1]).toBe('    self.eval()');
  });
});

test('layers that only a graph’s node names are left to the user, who is told so', () => {
  const code = allCodeOf(reportOf({ format: 'ONNX' }, { name: 'BatchNormalization_0', named: false }));
  expect(code.join('\n')).not.toContain('BatchNormalization_0');
  expect(code).toContain(
    'frozen_part.eval()  # the frozen part of your model, whose path these files do not tell',
  );
});

test('sentences are split at their code', () => {
  expect(splitCodeWords('Put lr=0 after every model.train(), or use norm_eval=True.')).toEqual([
    'Put ',
    'lr=0',
    ' after every ',
    'model.train()',
    ', or use ',
    'norm_eval=True',
    '.',
  ]);
});
