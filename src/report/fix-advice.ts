// The lines of code that keep a backbone frozen, for the framework that the checkpoint comes from.

import type { Framework } from '../checkpoint/checkpoint.js';
import { type Finding, isLeadingDrift } from '../compare/findings.js';
import { LOG_COMMAND } from '../errors.js';
import { isUnder, splitPath, withoutWrappers } from '../norm/naming.js';
import { findReportFramework } from './any-report.js';
import type { AuditLayer, AuditReport } from './audit-report.js';
import { isUnmarked } from './layer-nouns.js';

/** Which parts of the model must be kept still, for code that does it. */
interface FreezePlan {
  /**
   * What was frozen and drifted all the same, as module paths: `''` for the whole model, of which nothing was trained and
   * nothing is new. Empty where the files do not tell all of it.
   */
  readonly blamed: readonly string[];
  /** Norm layers that drifted, and whose path is known. */
  readonly layers: readonly AuditLayer[];
  /** Module paths that hold all of these, and nothing that was trained or may drift. */
  readonly modules: readonly string[];
  /** A rule that picks the same layers among all norm layers; null where none fits. */
  readonly rule: NormRule | null;
  /** Whether layers drifted whose place in the model the files do not tell. */
  readonly isPartHidden: boolean;
}

/** All norm layers below a module, or those of them whose paths end in certain names. */
export interface NormRule {
  readonly under: string;
  readonly leaves: readonly string[] | null;
}

/** Longer paths are no module's: code is not written with them. */
const MAX_PATH_LENGTH = 300;

/** So many names at the ends of paths make a rule; with more it would be no shorter than a list. */
const MAX_LEAVES = 3;

/** Deeper modules are looked up by their whole path alone; regions end there too. */
const MAX_DEPTH = 64;

/** Plans what to keep still. Without modules and with nothing hidden, nothing drifted on its own. */
export function planFreeze({ regions, layers, findings }: AuditReport): FreezePlan {
  const blamed = new Set(findings.filter(isLeadingDrift).map(({ layer }) => layer));
  const drifted = layers.filter(({ name, status }) => blamed.has(name) && isDriftStatus(status));
  // A layer that is new in after has a note of its own.
  const fresh = findings.filter(({ kind, level }) => kind === 'unpaired-layer' && level === 'note');
  const trained = [...layers.filter(isTrained).map(({ name }) => name), ...fresh.map(({ layer }) => layer)];
  const spared = [...trained, ...layers.filter(({ allowed }) => allowed).map(({ name }) => name)];
  // Where names were lost, what bears none may lie anywhere: no module is known to be frozen as a whole.
  const isLost = layers.some(({ named }) => !named);
  const frozen = new Set(
    isLost ? [] : regions.filter(({ status }) => status === 'frozen').map(({ path }) => path),
  );
  const blamedParts = coverLayers(drifted, frozen, trained);
  const still = coverLayers(drifted, frozen, spared);
  const modules = still.modules.filter(({ length }) => length <= MAX_PATH_LENGTH);
  const isPartHidden = still.isPartHidden || modules.length < still.modules.length;
  const names = drifted.map(({ name }) => name);
  return {
    blamed: blamedParts.isPartHidden ? [] : blamedParts.modules,
    layers: drifted.filter((layer) => isPath(layer) && layer.name.length <= MAX_PATH_LENGTH),
    modules,
    rule: isPartHidden ? null : findRule(names, spared, drifted.every(isPath)),
    isPartHidden,
  };
}

/** The largest frozen modules that hold drifted layers and none to spare, and the drifted layers outside of them. */
function coverLayers(
  drifted: readonly AuditLayer[],
  frozen: ReadonlySet<string>,
  spared: readonly string[],
): Pick<FreezePlan, 'modules' | 'isPartHidden'> {
  const mixed = new Set(spared.flatMap(modulesAround));
  const modules = new Set<string>();
  let isPartHidden = false;
  for (const layer of drifted) {
    const around = modulesAround(layer.name);
    const top = around.findIndex((path) => frozen.has(path));
    const inside = top < 0 ? [layer.name] : around.slice(top).filter((path) => !mixed.has(path));
    const [module] = inside.filter((path) => path !== layer.name || isPath(layer));
    if (module === undefined) isPartHidden = true;
    else modules.add(module);
  }
  return { modules: [...modules], isPartHidden };
}

/** Whether code can reach the layer by its name: not a graph's node, nor the convolution that it was folded into. */
function isPath({ named, via, before, after }: AuditLayer): boolean {
  const isConvolution = via === 'folded' && before.mean === null && after.mean === null;
  return named && !isConvolution;
}

function isDriftStatus(status: AuditLayer['status']): boolean {
  return status === 'drifted' || status === 'ambiguous';
}

function isTrained({ status, affine, neighbours }: AuditLayer): boolean {
  if (status === 'locked' || isDriftStatus(status)) return false;
  return affine === 'changed' || neighbours === 'changed';
}

/** The root, every module down to a path, and the path itself. */
function modulesAround(path: string): readonly string[] {
  const around = [''];
  for (let dot = path.indexOf('.'); dot >= 0 && around.length < MAX_DEPTH; dot = path.indexOf('.', dot + 1))
    around.push(path.slice(0, dot));
  return path === '' ? around : [...around, path];
}

/** @param arePaths whether the names are those of norm layers: convolutions end otherwise. */
function findRule(drifted: readonly string[], spared: readonly string[], arePaths: boolean): NormRule | null {
  const under = commonParent(drifted);
  const others = spared.filter((name) => isUnder(name, under));
  if (others.length === 0) return { under, leaves: null };
  const leaves = [...new Set(drifted.map(leafOf))];
  const isExact =
    arePaths &&
    !others.some((name) => leaves.includes(leafOf(name))) &&
    drifted.every((name) => splitPath(name)[0] !== under);
  return isExact && leaves.length <= MAX_LEAVES ? { under, leaves } : null;
}

function leafOf(path: string): string {
  return splitPath(path)[1];
}

function commonParent(paths: readonly string[]): string {
  const [first = '', ...others] = paths;
  let [parent] = splitPath(first);
  for (const path of others) {
    while (parent !== '' && (!isUnder(path, parent) || path === parent)) [parent] = splitPath(parent);
  }
  return parent;
}

/** How a framework of modules spells what the code below needs. */
interface Dialect {
  /** Whom the code calls a module. */
  readonly noun: string;
  /** The method that iterates over all submodules; `named_` before it, with their paths. */
  readonly all: string;
  /** The attribute that only norm layers have. */
  readonly mean: string;
  /** A submodule by an expression for its path. */
  readonly lookUp: (root: string, path: string) => string;
  /** What that needs imported. */
  readonly lookUpImport?: string;
}

/** PyTorch, and MLX after it. */
const TORCH: Dialect = {
  noun: 'module',
  all: 'modules',
  mean: 'running_mean',
  lookUp: (root, path) => `${root}.get_submodule(${path})`,
};

/** Paddle, which has no way to look up a sublayer by its path. */
export const PADDLE: Dialect = {
  noun: 'layer',
  all: 'sublayers',
  mean: '_mean',
  lookUp: (root, path) => `reduce(getattr, ${path}.split("."), ${root})`,
  lookUpImport: 'from functools import reduce',
};

/** So many modules are spelled out; a longer list is for a rule or a loop. */
const MAX_SPELLED_MODULES = 3;

/** A list of names is broken into lines of about so many columns. */
const LIST_WIDTH = 68;

/**
 * Python that puts what a plan says in evaluation mode.
 *
 * @param root the expression for the model that the paths start from.
 */
export function writeEvalCalls(plan: FreezePlan, root: string, dialect: Dialect = TORCH): readonly string[] {
  const hidden = plan.isPartHidden
    ? ['frozen_part.eval()  # the frozen part of your model, whose path these files do not tell']
    : [];
  const code = [...writeKnownCalls(plan, root, dialect), ...hidden];
  const isLookedUp = code.some((line) => line.includes(dialect.lookUp(root, '').split('(')[0] ?? ''));
  return dialect.lookUpImport !== undefined && isLookedUp ? [dialect.lookUpImport, '', ...code] : code;
}

function writeKnownCalls({ modules, rule }: FreezePlan, root: string, dialect: Dialect): readonly string[] {
  if (modules.length <= MAX_SPELLED_MODULES)
    return modules.map((path) => `${accessModule(root, path, dialect)}.eval()`);
  if (rule === null)
    return ['for name in (', ...writeList(modules), '):', `    ${dialect.lookUp(root, 'name')}.eval()`];
  const { noun, mean, all } = dialect;
  const parent = accessModule(root, rule.under, dialect);
  const isNorm = `hasattr(${noun}, ${quotePython(mean)})`;
  const endings = (rule.leaves ?? []).map((leaf) => quotePython(`.${leaf}`));
  return rule.leaves === null
    ? [`for ${noun} in ${parent}.${all}():`, `    if ${isNorm}:`, `        ${noun}.eval()`]
    : [
        `for name, ${noun} in ${parent}.named_${all}():`,
        `    if name.endswith(${endings.length === 1 ? endings.join('') : `(${endings.join(', ')})`}) and ${isNorm}:`,
        `        ${noun}.eval()`,
      ];
}

/** The items of a Python tuple or set, some on a line. */
export function writeList(names: readonly string[]): readonly string[] {
  const lines: string[] = [];
  for (const name of names) {
    const item = `${quotePython(name)},`;
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + item.length <= LIST_WIDTH)
      lines[lines.length - 1] = `${last} ${item}`;
    else lines.push(`    ${item}`);
  }
  return lines;
}

/** A module as Python reaches it: attributes and indices where the path is made of them, else looked up by its path. */
function accessModule(root: string, path: string, dialect: Dialect): string {
  if (path === '') return root;
  const components = path.split('.');
  const isPlain = (component: string) =>
    /^(?:[A-Za-z_]\w*|0|[1-9]\d*)$/.test(component) && !KEYWORDS.has(component);
  if (!components.every(isPlain)) return dialect.lookUp(root, quotePython(path));
  return (
    root +
    components.map((component) => (/^\d/.test(component) ? `[${component}]` : `.${component}`)).join('')
  );
}

/** Words that stand for no attribute (Python 3.14's `keyword.kwlist`). */
const KEYWORDS: ReadonlySet<string> = new Set(
  (
    'False None True and as assert async await break class continue def del elif else except finally for from global ' +
    'if import in is lambda nonlocal not or pass raise return try while with yield'
  ).split(' '),
);

/** A Python string literal in ASCII: nothing from a file's names gets out of it. */
export function quotePython(text: string): string {
  const quotable = text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replace(LOG_COMMAND, '\\x23');
  const escaped = [...quotable].map((character) => {
    const codePoint = character.codePointAt(0) ?? 0;
    return codePoint >= 0x20 && codePoint < 0x7f
      ? character
      : `\\U${codePoint.toString(16).padStart(8, '0')}`;
  });
  return `"${escaped.join('')}"`;
}

/** How to keep the frozen part frozen, in the framework that the model was trained with. */
export interface Advice {
  /** One sentence: why statistics moved although the part was frozen. */
  readonly why: string;
  /** What holds, the shortest first. */
  readonly ways: readonly Way[];
}

/** One way to do it. */
interface Way {
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

/**
 * Whether a finding is drift that evaluation mode would have prevented, live or folded. Where a bias alone moved and no
 * file says that a norm layer was folded in, it may just as well have been trained.
 */
function isPreventable(finding: Finding, unmarked: ReadonlySet<string>): boolean {
  const { kind, layer } = finding;
  return isLeadingDrift(finding) && !(kind === 'folded-bias-drift' && unmarked.has(layer));
}

/** How to keep still what drifted. Null where nothing drifted on its own. */
export function adviseFreeze(report: AuditReport): Advice | null {
  const unmarked = new Set(report.layers.filter(isUnmarked).map(({ name }) => name));
  if (!report.findings.some((finding) => isPreventable(finding, unmarked))) return null;
  const plan = planFreeze(report);
  if (plan.modules.length === 0 && !plan.isPartHidden) return null;
  const { parts } = report.after;
  // The user trained after; before may be someone else's.
  const framework = findReportFramework(report) ?? 'pytorch';
  if (parts !== undefined && !plan.isPartHidden && !OTHER_FRAMEWORKS.has(framework))
    return adviseNetworks(report, parts);
  return REMEDIES[framework]({ plan, report });
}

/** Those whose networks are no modules of PyTorch; what they need holds for each network alike. */
const OTHER_FRAMEWORKS: ReadonlySet<Framework> = new Set(['keras', 'flax', 'mxnet', 'caffe2', 'darknet']);

interface Drift {
  readonly plan: FreezePlan;
  readonly report: AuditReport;
}

const WHY_TORCH =
  'requires_grad=False and lr=0 do not stop BatchNorm: every forward pass in training mode moves its running statistics.';

/** Advice for PyTorch that is one way. */
function adviseTorch(where: string, code: readonly string[]): Advice {
  return { why: WHY_TORCH, ways: [{ where, code }] };
}

/** What holds in each framework; docs/recipes trains with it. */
const REMEDIES: Readonly<Record<Framework, (drift: Drift) => Advice>> = {
  pytorch: ({ plan, report }) => ({
    why: WHY_TORCH,
    ways: [
      {
        where: `Put the frozen part back in evaluation mode after every model.train()${isWrapped(report) ? ' (model is the module inside DistributedDataParallel, model.module)' : ''}:`,
        code: writeTrainCalls(plan, 'model'),
      },
      overrideTrain(plan),
    ],
  }),
  lightning: ({ plan }) =>
    adviseTorch(
      'Put the frozen part in evaluation mode before every batch, in the LightningModule (an override of train() alone does not hold: from 2.2 on, fit() does not call it):',
      ['def on_train_batch_start(self, batch, batch_idx):', ...indent(writeEvalCalls(plan, 'self'))],
    ),
  ultralytics: ({ plan }) =>
    adviseTorch(
      'Put the frozen part in evaluation mode before every batch (the trainer calls train() on the model in every epoch, after the callbacks of its start):',
      [
        'def keep_still(trainer):',
        ...indent(writeEvalCalls(plan, 'trainer.model')),
        '',
        'model.add_callback("on_train_batch_start", keep_still)  # before model.train(...)',
      ],
    ),
  mmengine: ({ plan }) =>
    adviseTorch(
      'Backbones that know norm_eval and frozen_stages do it by norm_eval=True; for any part of any model, a hook puts it in evaluation mode before every iteration:',
      [
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
    ),
  transformers: ({ plan }) =>
    adviseTorch(
      'Put the frozen part in evaluation mode where the loss is computed, in a subclass of Trainer (training_step() calls model.train() after the callbacks):',
      [
        'def compute_loss(self, *args, **kwargs):',
        ...indent([...writeEvalCalls(plan, 'self.model'), 'return super().compute_loss(*args, **kwargs)']),
      ],
    ),
  timm: (drift) => {
    const { plan } = drift;
    if (isWhole(plan) || plan.isPartHidden) return REMEDIES.pytorch(drift);
    const where =
      'Replace the BatchNorm2d layers of the frozen part by frozen ones after create_model(), before the optimizer, the EMA and DistributedDataParallel are made:';
    const code = ['from timm.utils import freeze', '', ...writeTimmFreeze(plan.modules)];
    return {
      why: WHY_TORCH,
      ways: [
        { where, code },
        { ...overrideTrain(plan), where: 'or in the model’s class:' },
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
  flax: (drift) =>
    // Linen keeps statistics in a collection of their own; NNX in the module.
    drift.report.layers.some(({ after }) => after.mean?.startsWith('batch_stats'))
      ? adviseLinen(drift)
      : {
          why: 'Gradients of zero do not stop BatchNorm: every call in training mode moves its statistics.',
          ways: [{ where: AFTER_TRAIN, code: ['model.train()', ...writeEvalCalls(drift.plan, 'model')] }],
        },
  paddle: ({ plan }) => ({
    why: 'stop_gradient=True and a learning rate of 0 do not stop BatchNorm: every forward pass in training mode moves its statistics.',
    ways: [
      { where: AFTER_TRAIN, code: writeTrainCalls(plan, 'model', PADDLE) },
      {
        where: IN_CLASS,
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
  darknet: () => ({
    why: 'stopbackward=1 does not stop batch_normalize: every forward pass in training moves its rolling statistics (its own source, state.train), and no option of the .cfg prevents it. Put back those of before: bn-audit restore.',
    ways: [],
  }),
};

const AFTER_TRAIN = 'Put the frozen part back in evaluation mode after every model.train():';

const IN_CLASS = 'or once and for all, in the model’s class:';

/** Networks of their own, each under its key: what the user's code calls them, no file tells. */
function adviseNetworks(report: AuditReport, parts: readonly string[]): Advice {
  const drifting = parts.flatMap((part) => {
    const plan = planFreeze(narrowTo(report, withoutWrappers(part)));
    return plan.modules.length === 0 ? [] : [{ name: nameNetwork(part), plan }];
  });
  const names = drifting.map(({ name }) => name).join(', ');
  const stands =
    drifting.length === 1
      ? 'stands for the network saved under that key'
      : 'stand for the networks saved under those keys';
  return adviseTorch(
    `Put the frozen part back in evaluation mode after every train() (${names} ${stands}, whatever your code says for it):`,
    drifting.flatMap(({ name, plan }) => writeTrainCalls(plan, name)),
  );
}

/** What takes the place of the call that puts a model in training mode. */
function writeTrainCalls(plan: FreezePlan, root: string, dialect: Dialect = TORCH): readonly string[] {
  return isWhole(plan)
    ? [`${root}.eval()  # in place of ${root}.train(): nothing here is trained`]
    : [`${root}.train()`, ...writeEvalCalls(plan, root, dialect)];
}

/** An expression for the network under a path of keys. */
function nameNetwork(path: string): string {
  const key = leafOf(path);
  return /^[A-Za-z_]\w*$/.test(key) && !KEYWORDS.has(key) ? key : `networks[${quotePython(path)}]`;
}

/** What a report says of one network, paths starting from it. */
function narrowTo(report: AuditReport, part: string): AuditReport {
  const strip = (path: string) => (part === '' ? path : path.slice(part.length + 1));
  return {
    ...report,
    layers: report.layers
      .filter(({ name }) => isUnder(name, part))
      .map((layer) => ({ ...layer, name: strip(layer.name) })),
    findings: report.findings
      .filter(({ layer }) => isUnder(layer, part))
      .map((finding) => ({ ...finding, layer: strip(finding.layer) })),
    regions: report.regions
      .filter(({ path }) => isUnder(path, part) || isUnder(part, path))
      .map((region) => ({ ...region, path: isUnder(region.path, part) ? strip(region.path) : '' })),
  };
}

function isWhole({ modules, isPartHidden }: FreezePlan): boolean {
  return modules.includes('') && !isPartHidden;
}

/** Whether names in the file start with the wrapper that the report leaves out. */
function isWrapped({ layers }: AuditReport): boolean {
  return layers.some(({ name, after }) => after.mean?.startsWith('module.') && !name.startsWith('module.'));
}

/** The method that every train() of a PyTorch model goes through. */
function overrideTrain(plan: FreezePlan): Way {
  // eval() calls train(False), so on the model itself it would call this method again.
  const body = isWhole(plan)
    ? ['return super().train(False)']
    : ['super().train(mode)', ...writeEvalCalls(plan, 'self'), 'return self'];
  return { where: IN_CLASS, code: ['def train(self, mode=True):', ...indent(body)] };
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

function indent(lines: readonly string[]): readonly string[] {
  return lines.map((line) => (line === '' ? line : `    ${line}`));
}
