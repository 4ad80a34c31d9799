import type { Framework } from '../checkpoint/checkpoint.js';
import type { Finding } from '../compare/finding.js';
import type { AuditReport } from './audit-report.js';
import { PADDLE, quotePython, writeEvalCalls, writeList } from './fix-code.js';
import { type FreezePlan, planFreeze } from './freeze-plan.js';

/** How to keep the frozen part frozen, in the framework that the model was trained with. */
export interface Advice {
  /** One sentence: why statistics moved although the part was frozen. */
  readonly why: string;
  /** What holds, the shortest first. */
  readonly ways: readonly Way[];
}

/** One way to do it. */
export interface Way {
  /** A clause that ends in a colon: what the code does, and where it goes. */
  readonly where: string;
  /** Lines to paste; names from the files are in it as Python strings and attributes only. */
  readonly code: readonly string[];
}

/** A sentence of {@link Advice} in parts: plain, code such as `lr=0` or `train()`, plain, and so on in turn. */
export function splitCodeWords(sentence: string): readonly string[] {
  return sentence.split(/([\w.]+=(?:True|False|\d)|[\w.]+\(\)|\b[a-zA-Z]+(?:_\w+)+)/);
}

/** Whether a finding is a frozen layer's drift that stands: what tables of drifted layers show, and advice is about. */
export function isFrozenDrift({ kind, level }: Finding): boolean {
  return kind === 'frozen-stats-drift' && level === 'error';
}

/** The modules that a headline blames, `''` for the whole model; empty where nothing drifted or its place is not known. */
export function findModulesToFreeze(report: AuditReport): readonly string[] {
  return planFreeze(report).blamed;
}

/** How to keep still what drifted. Null where nothing drifted on its own. */
export function adviseFreeze(report: AuditReport): Advice | null {
  if (!report.findings.some(isFrozenDrift)) return null;
  const plan = planFreeze(report);
  if (plan.modules.length === 0 && !plan.isPartHidden) return null;
  // The user trained after; before may be someone else's.
  const framework = report.after.framework ?? report.before.framework ?? 'pytorch';
  return REMEDIES[framework]({ plan, report });
}

interface Drift {
  readonly plan: FreezePlan;
  readonly report: AuditReport;
}

const WHY_TORCH =
  'requires_grad=False and lr=0 do not stop BatchNorm: every forward pass in training mode moves its running statistics.';

/** What holds in each framework; docs/recipes trains with it. */
const REMEDIES: Readonly<Record<Framework, (drift: Drift) => Advice>> = {
  pytorch: ({ plan, report }) => ({
    why: WHY_TORCH,
    ways: [
      {
        where: `Put the frozen part back in evaluation mode after every model.train()${isWrapped(report) ? ' (model is the module inside DistributedDataParallel, model.module)' : ''}:`,
        code: isWhole(plan)
          ? ['model.eval()  # in place of model.train(): nothing here is trained']
          : ['model.train()', ...writeEvalCalls(plan, 'model')],
      },
      { where: 'or once and for all, in the model’s class:', code: writeTrainOverride(plan) },
    ],
  }),
  lightning: ({ plan }) => ({
    why: WHY_TORCH,
    ways: [
      {
        where:
          'Put the frozen part in evaluation mode before every batch, in the LightningModule (an override of train() alone does not hold: from 2.2 on, fit() does not call it):',
        code: ['def on_train_batch_start(self, batch, batch_idx):', ...indent(writeEvalCalls(plan, 'self'))],
      },
    ],
  }),
  ultralytics: ({ plan }) => ({
    why: WHY_TORCH,
    ways: [
      {
        where:
          'Put the frozen part in evaluation mode before every batch (the trainer calls train() on the model in every epoch, after the callbacks of its start):',
        code: [
          'def keep_still(trainer):',
          ...indent(writeEvalCalls(plan, 'trainer.model')),
          '',
          'model.add_callback("on_train_batch_start", keep_still)  # before model.train(...)',
        ],
      },
    ],
  }),
  mmengine: ({ plan }) => ({
    why: WHY_TORCH,
    ways: [
      {
        where:
          'Backbones that know norm_eval and frozen_stages do it by norm_eval=True; for any part of any model, a hook puts it in evaluation mode before every iteration:',
        code: [
          'from mmengine.hooks import Hook',
          'from mmengine.model import is_model_wrapper',
          'from mmengine.registry import HOOKS',
          '',
          '@HOOKS.register_module()',
          'class KeepStill(Hook):',
          '    def before_train_iter(self, runner, batch_idx, data_batch=None):',
          '        model = runner.model.module if is_model_wrapper(runner.model) else runner.model',
          ...indent(indent(writeEvalCalls(plan, 'model'))),
          '',
          'custom_hooks = [dict(type="KeepStill")]  # in the configuration',
        ],
      },
    ],
  }),
  transformers: ({ plan }) => ({
    why: WHY_TORCH,
    ways: [
      {
        where:
          'Put the frozen part in evaluation mode where the loss is computed, in a subclass of Trainer (training_step() calls model.train() after the callbacks):',
        code: [
          'def compute_loss(self, *args, **kwargs):',
          ...indent([...writeEvalCalls(plan, 'self.model'), 'return super().compute_loss(*args, **kwargs)']),
        ],
      },
    ],
  }),
  timm: (drift) => {
    const { why, ways } = REMEDIES.pytorch(drift);
    return isWhole(drift.plan) || drift.plan.isPartHidden
      ? { why, ways }
      : {
          why,
          ways: [
            {
              where:
                'Replace the BatchNorm2d layers of the frozen part by frozen ones after create_model(), before the optimizer, the EMA and DistributedDataParallel are made:',
              code: ['from timm.utils import freeze', '', ...writeTimmFreeze(drift.plan.modules)],
            },
            { where: 'or in the model’s class:', code: writeTrainOverride(drift.plan) },
          ],
        };
  },
  keras: ({ plan, report }) => ({
    why: 'A BatchNormalization layer that is called with training=True moves its moving statistics, whether its weights are updated or not.',
    ways: [
      {
        where: 'trainable=False also makes it run in inference mode (Keras 3):',
        code: [
          ...writeKerasFreeze(plan, report.after.format === 'ONNX'),
          '# then compile() again, which is when trainable is looked at',
        ],
      },
    ],
  }),
  flax: (drift) => (isLinen(drift.report) ? adviseLinen(drift) : adviseNnx(drift)),
  paddle: ({ plan }) => ({
    why: 'stop_gradient=True and a learning rate of 0 do not stop BatchNorm: every forward pass in training mode moves its statistics.',
    ways: [
      {
        where: 'Put the frozen part back in evaluation mode after every model.train():',
        code: isWhole(plan)
          ? ['model.eval()  # in place of model.train(): nothing here is trained']
          : ['model.train()', ...writeEvalCalls(plan, 'model', PADDLE)],
      },
      {
        where: 'or once and for all, in the model’s class:',
        code: [
          'def train(self):',
          ...indent(
            isWhole(plan) ? ['self.eval()'] : ['super().train()', ...writeEvalCalls(plan, 'self', PADDLE)],
          ),
        ],
      },
    ],
  }),
  mxnet: () => ({
    why: 'A gradient that is not applied does not stop BatchNorm: every forward pass in training mode moves its running statistics. Make the frozen part’s BatchNorm layers with use_global_stats=True.',
    ways: [],
  }),
  caffe2: () => ({
    why: 'A gradient that is not applied does not stop SpatialBN: every run in training mode moves its statistics. Run the frozen part’s SpatialBN operators with is_test=1.',
    ways: [],
  }),
};

function isWhole({ modules, isPartHidden }: FreezePlan): boolean {
  return modules.includes('') && !isPartHidden;
}

/** Whether names in the file start with the wrapper that the report leaves out. */
function isWrapped({ layers }: AuditReport): boolean {
  return layers.some(({ name, after }) => after.mean?.startsWith('module.') && !name.startsWith('module.'));
}

/** The method that every train() of a PyTorch model goes through. */
function writeTrainOverride(plan: FreezePlan): readonly string[] {
  // eval() calls train(False), so on the model itself it would call this method again.
  const body = isWhole(plan)
    ? ['return super().train(False)']
    : ['super().train(mode)', ...writeEvalCalls(plan, 'self'), 'return self'];
  return ['def train(self, mode=True):', ...indent(body)];
}

function writeTimmFreeze(modules: readonly string[]): readonly string[] {
  const line = `freeze(model, [${modules.map(quotePython).join(', ')}])`;
  return line.length <= 80 ? [line] : ['freeze(model, [', ...writeList(modules), '])'];
}

/** Keras's variable paths are its layers' paths; an ONNX graph has other names. */
function writeKerasFreeze({ layers, rule, isPartHidden }: FreezePlan, isGraph: boolean): readonly string[] {
  const hidden = 'frozen_part.trainable = False  # the layers to freeze, whose names these files do not tell';
  if (isGraph) return [hidden];
  const paths = layers.map(({ name, after }) =>
    after.mean?.includes('/') ? after.mean.slice(0, after.mean.lastIndexOf('/')) : name.replaceAll('.', '/'),
  );
  const isFrozen =
    rule?.leaves === null && rule.under === ''
      ? ['    if isinstance(layer, keras.layers.BatchNormalization):']
      : ['    if layer.path in (', ...writeList(paths).map((line) => `    ${line}`), '    ):'];
  return [
    'for layer in model._flatten_layers():',
    ...isFrozen,
    '        layer.trainable = False',
    ...(isPartHidden ? [hidden] : []),
  ];
}

/** Linen keeps statistics in a collection of their own; NNX in the module. */
function isLinen({ layers }: AuditReport): boolean {
  return layers.some(({ after }) => after.mean?.startsWith('batch_stats'));
}

function adviseLinen({ plan }: Drift): Advice {
  const prefixes = plan.modules.map((path) => (path === '' ? '' : `${path}.`));
  return {
    why: 'Gradients of zero do not stop BatchNorm: every call that updates batch_stats moves its statistics. Call the frozen part with use_running_average=True in its BatchNorm layers, in training too (train=False in most models).',
    ways: [
      {
        where:
          'Where that cannot be, keep its batch_stats of before, in the training step between apply() and what takes its updates (training then normalises by the batch all the same):',
        code: [
          'from flax.traverse_util import flatten_dict, unflatten_dict',
          '',
          'frozen = (',
          ...writeList(prefixes),
          ')',
          'old = flatten_dict(state.batch_stats, sep=".")',
          'new = flatten_dict(updates["batch_stats"], sep=".")',
          'new.update({name: old[name] for name in old if name.startswith(frozen)})',
          'updates = {**updates, "batch_stats": unflatten_dict(new, sep=".")}',
        ],
      },
    ],
  };
}

function adviseNnx({ plan }: Drift): Advice {
  return {
    why: 'Gradients of zero do not stop BatchNorm: every call in training mode moves its statistics.',
    ways: [
      {
        where: 'Put the frozen part back in evaluation mode after every model.train():',
        code: ['model.train()', ...writeEvalCalls(plan, 'model')],
      },
    ],
  };
}

function indent(lines: readonly string[]): readonly string[] {
  return lines.map((line) => (line === '' ? line : `    ${line}`));
}
