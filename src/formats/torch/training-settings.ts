// What a checkpoint says of its training: optimizers, learning rates, frozen stages.

import type { Declaration, OptimizerGroup, OptimizerParameter } from '../../checkpoint/checkpoint.js';
import { CheckpointError } from '../../errors.js';
import { asContainer, asModule, childrenOf } from './objects.js';
import {
  asInteger,
  type Entries,
  entriesOf,
  isNode,
  itemsOf,
  type PickleNode,
  type PickleValue,
} from './pickle-values.js';
import { asTensorCall, readLayout } from './tensors.js';

interface ConfiguredModule {
  /** Path from the model's root. */
  readonly path: string;
  /** Its class, without the Python module or the scope before it; null where none is named. */
  readonly type: string | null;
  readonly frozenStages: number | null;
  readonly normEval: boolean | null;
  /** `norm_cfg=dict(requires_grad=…)`. */
  readonly normRequiresGrad: boolean | null;
}

/** Configurations take 20 to 200 kB; beyond this it is something else. */
const MAX_TEXT_LENGTH = 4 * 1024 * 1024;

/** Brackets in each other: real ones nest some ten levels. */
const MAX_NESTING = 100;

/** Modules that say something of a freeze: real models have one or two. */
const MAX_MODULES = 1_000;

/** What is between brackets: an item without a key goes by its number. */
interface Frame {
  readonly key: string;
  readonly values: Map<string, string>;
  items: number;
  normRequiresGrad: string | undefined;
}

const TOKEN =
  /\s+|#.*|(?<long>'''|""")|(?<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|(?<word>[\p{L}_][\p{L}\p{N}_]*|-?\d[\w.]*)|(?<sign>[^'"])/uy;

/**
 * Reads the settings of a freeze from the text of a configuration as mmengine and MMCV save it, which is Python:
 *
 *     model = dict(backbone=dict(type='ResNet', frozen_stages=1, norm_eval=True, …), …)
 *
 * The text is taken apart into brackets, keys and literals; nothing of it is ever run.
 *
 * @returns null where it is no such text, or too long or deep to be one.
 */
export function readConfiguredModules(text: string): readonly ConfiguredModule[] | null {
  return text.length > MAX_TEXT_LENGTH ? null : new ConfigReader().read(text);
}

class ConfigReader {
  readonly #frames: Frame[] = [makeFrame('')];
  readonly #modules: ConfiguredModule[] = [];
  /** The word or string that was read last, and the key that a value is awaited for. */
  #last: string | null = null;
  #key: string | null = null;

  read(text: string): readonly ConfiguredModule[] | null {
    const token = new RegExp(TOKEN);
    while (token.lastIndex < text.length) {
      const groups = token.exec(text)?.groups;
      // A string without an end: looking for one from every quote of it would take forever.
      if (groups === undefined) return null;
      const { long, string, word, sign } = groups;
      if (long !== undefined) {
        const end = text.indexOf(long, token.lastIndex);
        if (end < 0) return null;
        token.lastIndex = end + long.length;
        this.#take(null);
      } else if (string !== undefined) this.#take(string.slice(1, -1));
      else if (word !== undefined) this.#take(word);
      else if (sign !== undefined && !this.#readSign(sign)) return null;
    }
    return this.#frames.length === 1 ? this.#modules : null;
  }

  #take(text: string | null): void {
    this.#last = text;
    if (this.#key !== null && text !== null) this.#top.values.set(this.#key, text);
  }

  get #top(): Frame {
    const top = this.#frames.at(-1);
    if (top === undefined) throw new Error('the outermost frame is never closed');
    return top;
  }

  /** @returns false where the text is none that can be read. */
  #readSign(sign: string): boolean {
    if (sign === '=' || sign === ':') this.#key = this.#last;
    else if (sign === ',') {
      this.#top.items++;
      this.#key = null;
    } else if ('([{)]}'.includes(sign)) {
      const isFine = '([{'.includes(sign) ? this.#open() : this.#close();
      this.#key = null;
      this.#last = null;
      return isFine;
    } else if (this.#key !== null) {
      // What an operator makes of a value is not known here.
      this.#top.values.delete(this.#key);
      this.#key = null;
    }
    return true;
  }

  #open(): boolean {
    return this.#frames.push(makeFrame(this.#key ?? String(this.#top.items))) <= MAX_NESTING;
  }

  #close(): boolean {
    if (this.#frames.length === 1) return false;
    const frame = this.#top;
    this.#describe(frame);
    this.#frames.pop();
    if (frame.key === 'norm_cfg') this.#top.normRequiresGrad = frame.values.get('requires_grad');
    return this.#modules.length <= MAX_MODULES;
  }

  #describe({ values, normRequiresGrad }: Frame): void {
    const [model, ...keys] = this.#frames.slice(1).map(({ key }) => key);
    const frozenStages = parseInteger(values.get('frozen_stages'));
    const normEval = asBoolean(values.get('norm_eval'));
    const norms = asBoolean(normRequiresGrad);
    if (model !== 'model' || (frozenStages === null && normEval === null && norms === null)) return;
    const type = values.get('type')?.split('.').at(-1) ?? null;
    this.#modules.push({ path: keys.join('.'), type, frozenStages, normEval, normRequiresGrad: norms });
  }
}

function makeFrame(key: string): Frame {
  return { key, values: new Map(), items: 0, normRequiresGrad: undefined };
}

function parseInteger(text: string | undefined): number | null {
  return text !== undefined && /^-?\d{1,6}$/.test(text) ? Number(text) : null;
}

function asBoolean(text: string | undefined): boolean | null {
  return text === 'True' ? true : text === 'False' ? false : null;
}

/** Containers looked through. Beside the model and the optimizers a checkpoint has some hundreds; logs have more. */
const MAX_VISITS = 200_000;

/** Containers in each other on the way to an optimizer: real ones lie two or three deep. */
const MAX_DEPTH = 16;

/** Optimizers of one checkpoint: a GAN has two, trainers of many agents some dozens. */
const MAX_OPTIMIZERS = 64;

/** Parameters of one optimizer; the largest models have some ten thousand. */
const MAX_PARAMETERS = 200_000;

/** A longer path of keys is no one's; reports show it. */
const MAX_WHERE_LENGTH = 120;

/**
 * Every optimizer's state dict in a checkpoint, wherever it stands (torch/optim/optimizer.py, `state_dict`):
 *
 *     {state: {0: {exp_avg: tensor, …}, …}, param_groups: [{lr: 0.1, …, params: [0, 1, …], param_names?: […]}]}
 *
 * Parameters are numbered in the order in which they were handed over; FSDP names them instead. One without a gradient
 * gets no state.
 */
export function findOptimizers(root: PickleValue, file: string): readonly Declaration[] {
  const found: Declaration[] = [];
  const seen = new Set<PickleNode>();
  const start = asContainer(root);
  const places: { node: PickleNode; path: readonly string[] }[] =
    start === null ? [] : [{ node: start, path: [] }];
  // The queue grows while it is gone through: what lies nearest the root comes first.
  for (const { node, path } of places) {
    const entries = entriesOf(node);
    const groups = entries?.get('param_groups');
    const state = entriesOf(entries?.get('state'));
    if (isNode(groups, 'list') && state !== null) {
      const where = path.join('.').slice(0, MAX_WHERE_LENGTH);
      found.push(new OptimizerReader(state, file).read(groups.items, where));
      if (found.length === MAX_OPTIMIZERS) return [...found, TOO_MANY];
      continue;
    }
    if (asModule(node) !== null || path.length === MAX_DEPTH) continue;
    for (const child of childrenOf(node)) {
      const below = asContainer(child.value);
      if (below === null || seen.has(below)) continue;
      if (seen.size === MAX_VISITS) return [...found, TOO_MANY];
      seen.add(below);
      places.push({ node: below, path: [...path, child.name] });
    }
  }
  return found;
}

const TOO_MANY: Declaration = {
  kind: 'unread',
  of: 'optimizer',
  where: '',
  reason: 'holds too many parts for all to be looked through for an optimizer',
};

/** Reads one optimizer; whatever is not as PyTorch writes it makes it say nothing, with the reason. */
class OptimizerReader {
  readonly #state: Entries;
  readonly #file: string;
  readonly #keys = new Set<PickleValue>();

  constructor(state: Entries, file: string) {
    this.#state = state;
    this.#file = file;
  }

  read(items: readonly PickleValue[], where: string): Declaration {
    const groups: OptimizerGroup[] = [];
    for (const item of items) {
      const entries = entriesOf(item);
      const group = entries === null ? 'has a group that is no dict' : this.#readGroup(entries);
      if (typeof group === 'string') return { kind: 'unread', of: 'optimizer', where, reason: group };
      groups.push(group);
    }
    return { kind: 'optimizer', where, groups };
  }

  /** The group, or what is wrong with it. */
  #readGroup(entries: Entries): OptimizerGroup | string {
    const keys = entries.get('params');
    if (!isNode(keys, 'list')) return 'has a group without a list of parameters';
    const names = entries.get('param_names');
    const listed = isNode(names, 'list') && names.items.length === keys.items.length ? names.items : [];
    const parameters: OptimizerParameter[] = [];
    for (const [place, key] of keys.items.entries()) {
      const isNumber = asInteger(key) !== null && Number(key) >= 0;
      if (!isNumber && typeof key !== 'string') return 'knows its parameters by neither number nor name';
      if (this.#keys.has(key)) return 'holds a parameter twice';
      if (this.#keys.size === MAX_PARAMETERS) return `holds more than ${MAX_PARAMETERS} parameters`;
      this.#keys.add(key);
      parameters.push(this.#readParameter(key, listed[place]));
    }
    return {
      parameters,
      learningRate: asNumber(entries.get('lr')),
      initialLearningRate: asNumber(entries.get('initial_lr')),
      isStateTelling: isStateTelling(entries, parameters),
    };
  }

  #readParameter(key: PickleValue, listedName: PickleValue | undefined): OptimizerParameter {
    const name = [key, listedName].find((known) => typeof known === 'string') ?? null;
    const kept = this.#state.get(key);
    return { name, hasState: kept !== undefined, shape: this.#readShape(entriesOf(kept)) };
  }

  /** The one shape of all that is kept, counts of steps aside: `exp_avg` and `exp_avg_sq` are as the parameter is. */
  #readShape(kept: Entries | null): readonly number[] | null {
    let shape: readonly number[] | null = null;
    for (const [key, value] of kept ?? []) {
      const call = asTensorCall(value);
      if (call === null || key === 'step') continue;
      const sizes = this.#readSizes(call);
      if (sizes === null || (shape !== null && shape.join() !== sizes.join())) return null;
      shape = sizes;
    }
    return shape;
  }

  /** A damaged tensor of an optimizer is no reason to refuse the checkpoint: nothing reads it. */
  #readSizes(call: NonNullable<ReturnType<typeof asTensorCall>>): readonly number[] | null {
    try {
      const layout = readLayout(call, 'of an optimizer', this.#file);
      return layout.kind === 'layout' ? layout.shape : null;
    } catch (error) {
      if (error instanceof CheckpointError) return null;
      throw error;
    }
  }
}

/**
 * Whether absent state means an absent gradient. L-BFGS keeps its state with the first parameter alone, Adagrad makes
 * it before the first step. SGD keeps some only with momentum; RMSprop (alpha) without it too.
 */
function isStateTelling(group: Entries, parameters: readonly OptimizerParameter[]): boolean {
  if (group.has('history_size') || group.has('initial_accumulator_value')) return false;
  return parameters.some(({ hasState }) => hasState) || group.has('alpha') || group.get('momentum') !== 0;
}

function asNumber(value: PickleValue | undefined): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

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
  const items = itemsOf(freeze);
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
  return modules.flatMap((module) => {
    const found = [...readFrozenStages(where, module)];
    const paths = [module.path];
    if (module.normRequiresGrad === false) found.push({ kind: 'paths', by: 'norm-cfg', where, paths });
    if (module.normEval === true) found.push({ kind: 'paths', by: 'norm-eval', where, paths });
    return found;
  });
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
