// Walks pickled objects: modules, their parameters and buffers, and what holds them.

import type { ModuleFacts } from '../../checkpoint/checkpoint.js';
import { quote } from '../../errors.js';
import { withoutOriginals } from '../../norm/adapters.js';
import {
  attributesOf,
  type Entries,
  entriesOf,
  isNode,
  itemsOf,
  type ObjectNode,
  type PickleNode,
  type PickleValue,
} from './pickle-values.js';
import { asTensorCall } from './tensors.js';

/** A pickled `nn.Module`, or an object of a TorchScript archive, taken apart. */
export interface ModuleObject {
  readonly kind: 'module' | 'script';
  /** The global that names its class. */
  readonly className: string;
  /** The Python module of its class; TorchScript mangles it (`__torch__.….___torch_mangle_4`). */
  readonly classModule: string;
  readonly facts: ModuleFacts;
  /** Its own tensors under their local names, in state dict order. */
  readonly tensors: readonly ModuleTensor[];
  /** Its children under their local names, in module order. */
  readonly children: readonly (readonly [name: string, module: ObjectNode])[];
}

interface ModuleTensor {
  readonly name: string;
  readonly call: ObjectNode;
  /** Null where the object does not tell parameters from buffers: TorchScript. */
  readonly isBuffer: boolean | null;
}

/**
 * The value as a module: an instance whose attributes include `_modules` and `_parameters` (torch/nn/modules/module.py),
 * or an instance of a TorchScript class. Null for every other value.
 */
export function asModule(value: PickleValue | undefined): ModuleObject | null {
  if (!isNode(value, 'object') || !isNode(value.callee, 'global')) return null;
  const attributes = attributesOf(value);
  if (attributes === null) return null;
  const { module: classModule, name: className } = value.callee;
  const facts = readFacts(className, attributes);
  if (isScriptClass(value.callee))
    return { kind: 'script', className, classModule, facts, ...readScriptMembers(attributes) };
  const modules = entriesOf(attributes.get('_modules'));
  const parameters = entriesOf(attributes.get('_parameters'));
  if (modules === null || parameters === null) return null;
  const tensors = [...readTensors(parameters, false), ...readPersistentBuffers(attributes)];
  const children = readChildren(modules, (child) => isNode(child, 'object'));
  return { kind: 'module', className, classModule, facts, tensors, children };
}

function isScriptClass(callee: PickleValue): boolean {
  return isNode(callee, 'global') && /^__torch__(\.|$)/.test(callee.module);
}

/** Facts of a module that tells nothing. */
export const NO_FACTS: ModuleFacts = {
  className: null,
  epsilon: null,
  momentum: null,
  trackRunningStats: null,
  training: null,
  version: null,
};

function readFacts(className: string, attributes: Entries): ModuleFacts {
  const epsilon = attributes.get('eps');
  const momentum = attributes.get('momentum');
  return {
    ...NO_FACTS,
    className,
    epsilon: typeof epsilon === 'number' ? epsilon : null,
    momentum: typeof momentum === 'number' ? momentum : momentum === null ? 'cumulative' : null,
    trackRunningStats: asBoolean(attributes.get('track_running_stats')),
    training: asBoolean(attributes.get('training')),
  };
}

function asBoolean(value: PickleValue | undefined): boolean | null {
  return typeof value === 'boolean' ? value : null;
}

function readTensors(entries: Entries | null, isBuffer: boolean | null): ModuleTensor[] {
  const tensors: ModuleTensor[] = [];
  for (const [name, value] of entries ?? []) {
    const call = asTensorCall(value);
    if (typeof name === 'string' && call !== null) tensors.push({ name, call, isBuffer });
  }
  return tensors;
}

/** Buffers that a state dict would hold too. */
function readPersistentBuffers(attributes: Entries): ModuleTensor[] {
  const excluded = attributes.get('_non_persistent_buffers_set');
  const names = new Set(isNode(excluded, 'set') ? excluded.items : []);
  return readTensors(entriesOf(attributes.get('_buffers')), true).filter(({ name }) => !names.has(name));
}

function readChildren(
  entries: Entries,
  isChild: (value: PickleValue) => value is ObjectNode,
): ModuleObject['children'] {
  return [...entries].flatMap(([name, value]) =>
    typeof name === 'string' && isChild(value) ? [[name, value] as const] : [],
  );
}

/** A TorchScript object keeps parameters, buffers, submodules and constants side by side as attributes. */
function readScriptMembers(attributes: Entries): Pick<ModuleObject, 'tensors' | 'children'> {
  const isChild = (value: PickleValue): value is ObjectNode =>
    isNode(value, 'object') && isScriptClass(value.callee);
  return { tensors: readTensors(attributes, null), children: readChildren(attributes, isChild) };
}

/** Real checkpoints nest some ten levels; what lies deeper is a bomb and holds nothing that is looked for. */
export const MAX_NESTING = 200;

/** A child of a container under the name that a path calls it by. */
export interface Child {
  readonly name: string;
  readonly value: PickleValue;
}

const LEAVES: ReadonlySet<PickleNode['kind']> = new Set(['global', 'storage', 'set', 'payload']);

/** The value as something with children: a dict, list, tuple, or an instance with attributes. Null for the rest. */
export function asContainer(value: PickleValue | undefined): PickleNode | null {
  if (typeof value !== 'object' || value === null) return null;
  if (asTensorCall(value) !== null) return null;
  return LEAVES.has(value.kind) ? null : value;
}

/** The children of a container by name. Keys that are neither strings nor integers lead nowhere. */
export function childrenOf(node: PickleNode): readonly Child[] {
  if (node.kind === 'list' || node.kind === 'tuple') return numbered(node.items);
  const module = asModule(node);
  if (module !== null)
    return [
      ...module.tensors.map(({ name, call }) => ({ name, value: call })),
      ...module.children.map(([name, value]) => ({ name, value })),
    ];
  if (node.kind === 'dict') return namedEntries(node.entries);
  if (node.kind !== 'object') return [];
  const attributes = attributesOf(node);
  const { entries, keywords, items } = node;
  // Some classes keep their state as a tuple: TorchScript's packed parameters.
  const state = attributes === null ? numbered(itemsOf(node.state)) : namedEntries(attributes);
  return [...namedEntries(entries), ...namedEntries(keywords), ...state, ...numbered(items ?? [])];
}

function numbered(items: readonly PickleValue[]): readonly Child[] {
  return items.map((value, index) => ({ name: String(index), value }));
}

function namedEntries(entries: ReadonlyMap<PickleValue, PickleValue> | null): Child[] {
  return [...(entries ?? [])].flatMap(([key, value]) => {
    const name = typeof key === 'number' ? String(key) : nameOfKey(key);
    return name === null ? [] : { name, value };
  });
}

/** A key as a name. Flax flattens a tree of dicts to one whose keys are paths: `('params', 'conv', 'kernel')`. */
export function nameOfKey(key: PickleValue): string | null {
  if (typeof key === 'string') return key;
  const path = isNode(key, 'tuple') ? key.items : [];
  const isPath = path.length > 0 && path.every((part) => typeof part === 'string');
  return isPath ? path.join('.') : null;
}

/**
 * The two trees that Flax keeps of one model, its learned tensors and its running statistics; null where they do not lie
 * side by side here. What lies beside them is training state.
 */
export function collectionsOf(children: readonly Child[]): readonly Child[] | null {
  const isTree = ({ value }: Child) => asContainer(value)?.kind === 'dict';
  const find = (name: string) => children.find((child) => child.name === name && isTree(child));
  const [params, statistics] = [find('params'), find('batch_stats')];
  return params === undefined || statistics === undefined ? null : [params, statistics];
}

/** What lies below a container, itself included. */
interface Census {
  readonly tensors: number;
  /** Norm layers, known by a running mean beside a running variance, or by Flax's tree of statistics. */
  readonly normLayers: number;
}

const EMPTY: Census = { tensors: 0, normLayers: 0 };

/**
 * Counts what lies below containers, each node once and for all: shared nodes and cycles, which a pickle may hold, cost
 * no more than others.
 */
export class Surveyor {
  readonly #known = new Map<PickleNode, Census>();

  survey(value: PickleValue | undefined, depth = 0): Census {
    const node = asContainer(value);
    if (node === null || depth > MAX_NESTING) return EMPTY;
    const known = this.#known.get(node);
    if (known !== undefined) return known;
    // Whoever comes back to a node from below it finds it empty, which ends the cycle.
    this.#known.set(node, EMPTY);
    const children = childrenOf(node);
    let tensors = 0;
    const statistics = collectionsOf(children)?.[1];
    // Flax keeps a mean and a variance for each.
    let normLayers =
      countNormLayers(children) + Math.ceil(this.survey(statistics?.value, depth + 1).tensors / 2);
    // Of a module that PEFT trains a copy of, the model does not use the original.
    const hasCopy = children.some(({ name }) => name === 'modules_to_save');
    for (const child of children) {
      if (asTensorCall(child.value) !== null) tensors++;
      const below = this.survey(child.value, depth + 1);
      tensors += below.tensors;
      if (!hasCopy || child.name !== 'original_module') normLayers += below.normLayers;
    }
    const census = { tensors, normLayers };
    this.#known.set(node, census);
    return census;
  }
}

/** How many of the children are running means of norm layers. */
export function countNormLayers(children: readonly Child[]): number {
  const tensors = children.filter(({ value }) => asTensorCall(value) !== null);
  const names = withoutOriginals(new Set(tensors.map(({ name }) => name)));
  return [...names].filter((name) => isNormMean(name, names)).length;
}

/**
 * Whether the name is a norm layer's running mean: with a variance beside it, and without the sample `count` that
 * normalisers of observations keep (rl_games' `RunningMeanStd`).
 */
function isNormMean(name: string, names: ReadonlySet<string>): boolean {
  if (name !== 'running_mean' && !name.endsWith('.running_mean')) return false;
  const prefix = name.slice(0, -'running_mean'.length);
  return names.has(`${prefix}running_var`) && !names.has(`${prefix}count`);
}

/** The way out where values stand in plain lists. */
export const SAVE_LISTS = 'Save them as arrays or tensors (torch.tensor, numpy.asarray) to have them audited';

/** Lists within lists that a weight of a convolution or of an attention makes. */
const MAX_LIST_NESTING = 8;

/**
 * What is said where tensors are expected and their values stand in plain Python lists: `plain Python lists of numbers, such
 * as "bn.running_mean"`; null where there are none.
 */
export function describeNumberLists(root: PickleValue): string | null {
  const seen = new Set<PickleNode>();
  const find = (value: PickleValue, path: readonly string[]): string | null => {
    const node = asContainer(value);
    if (node === null || seen.has(node) || path.length > MAX_NESTING) return null;
    seen.add(node);
    if (path.length > 0 && holdsNumbers(node)) return path.join('.');
    for (const child of childrenOf(node)) {
      const found = find(child.value, [...path, child.name]);
      if (found !== null) return found;
    }
    return null;
  };
  const found = find(root, []);
  return found === null ? null : `plain Python lists of numbers, such as ${quote(found)}`;
}

function holdsNumbers(node: PickleNode): boolean {
  let value: PickleValue | undefined = node;
  for (let depth = 0; depth < MAX_LIST_NESTING && !isNumber(value); depth++) [value] = itemsOf(value);
  return isNumber(value);
}

function isNumber(value: PickleValue | undefined): boolean {
  return typeof value === 'number' || typeof value === 'bigint';
}
