import type { Declaration } from '../declarations.js';
import { type ConfiguredModule, readConfiguredModules } from './config-text.js';
import { asInteger, entriesOf, isNode, type PickleValue } from './pickle-values.js';

/** More than any model has; each is a name to look for. */
const MAX_PATHS = 10_000;

/** What frameworks keep of their settings beside the model: Ultralytics, and mmengine with MMCV before it. */
export function readTrainingSettings(root: PickleValue): readonly Declaration[] {
  const entries = entriesOf(root);
  const meta = entriesOf(entries?.get('meta'));
  return [
    ...readUltralyticsFreeze(entriesOf(entries?.get('train_args'))?.get('freeze')),
    ...readConfig('meta.cfg', meta?.get('cfg')),
    ...readConfig('meta.config', meta?.get('config')),
  ];
}

/**
 * `freeze=10` is the first ten modules, `model.0.` to `model.9.`; `freeze=[0, 2]` those two, which may also be paths
 * (ultralytics/engine/trainer.py, `_setup_train`).
 */
function readUltralyticsFreeze(freeze: PickleValue | undefined): readonly Declaration[] {
  const where = 'train_args.freeze';
  const count = asInteger(freeze);
  const items = isNode(freeze, 'list') || isNode(freeze, 'tuple') ? freeze.items : [];
  const listed = items.filter((item) => typeof item === 'string' || asInteger(item) !== null);
  if (Math.max(count ?? 0, items.length) > MAX_PATHS || listed.length < items.length)
    return [makeUnread(where, 'is neither a number of modules nor a list of them')];
  const modules = count === null ? listed : Array.from({ length: Math.max(count, 0) }, (_, index) => index);
  const paths = modules.map((module) => `model.${module}`);
  return paths.length === 0 ? [] : [{ kind: 'paths', by: 'ultralytics-freeze', where, paths }];
}

function readConfig(where: string, text: PickleValue | undefined): readonly Declaration[] {
  if (typeof text !== 'string') return [];
  const modules = readConfiguredModules(text);
  if (modules === null)
    return /frozen_stages|norm_eval/.test(text)
      ? [makeUnread(where, 'speaks of a freeze, and is no configuration that could be read')]
      : [];
  return modules.flatMap((module) => readModule(where, module));
}

function readModule(where: string, module: ConfiguredModule): readonly Declaration[] {
  const { path, normEval, normRequiresGrad } = module;
  return [
    ...readFrozenStages(where, module),
    ...(normRequiresGrad === false ? [{ kind: 'paths', by: 'norm-cfg', where, paths: [path] } as const] : []),
    ...(normEval === true ? [{ kind: 'paths', by: 'norm-eval', where, paths: [path] } as const] : []),
  ];
}

/** Backbones that are built like a ResNet: a stem, then `layer1` and on. */
const RESNET = /^(?:\w+_)?(?:SE|Trident)?(?:ResNet|ResNeXt|ResNeSt|Res2Net|RegNet)(?:V1[cd])?$/;

/** A network has four stages. */
const MAX_STAGES = 16;

/**
 * `frozen_stages=0` freezes a ResNet's stem, N its first N stages besides, each of which is put in eval() too; -1
 * freezes nothing (mmdet/models/backbones/resnet.py, `_freeze_stages`). A deep stem is one module, `stem`.
 */
function readFrozenStages(where: string, module: ConfiguredModule): readonly Declaration[] {
  const { path, type, frozenStages } = module;
  if (frozenStages === null || frozenStages < 0) return [];
  if (type === null || !RESNET.test(type) || frozenStages > MAX_STAGES) {
    const reason = `says frozen_stages=${frozenStages} of a backbone that is no ResNet: which modules that froze is not known here`;
    return [makeUnread(where, reason)];
  }
  const stages = Array.from({ length: frozenStages }, (_, index) => `layer${index + 1}`);
  const paths = ['conv1', 'bn1', 'stem', ...stages].map((name) => (path === '' ? name : `${path}.${name}`));
  return [{ kind: 'paths', by: 'frozen-stages', where, paths }];
}

function makeUnread(where: string, reason: string): Declaration {
  return { kind: 'unread', of: 'settings', where, reason };
}
