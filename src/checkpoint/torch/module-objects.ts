import type { ModuleFacts } from '../checkpoint.js';
import { attributesOf, entriesOf, isNode, type ObjectNode, type PickleValue } from './pickle-values.js';
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

/** A tensor that a module owns. */
export interface ModuleTensor {
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
  if (isScriptClass(value.callee)) {
    return { kind: 'script', className, classModule, facts, ...readScriptMembers(attributes) };
  }
  const modules = entriesOf(attributes.get('_modules'));
  const parameters = entriesOf(attributes.get('_parameters'));
  if (modules === null || parameters === null) return null;
  return {
    kind: 'module',
    className,
    classModule,
    facts,
    tensors: [...readTensors(parameters, false), ...readPersistentBuffers(attributes)],
    children: readChildren(modules),
  };
}

function isScriptClass(callee: PickleValue): boolean {
  return isNode(callee, 'global') && /^__torch__(\.|$)/.test(callee.module);
}

type Entries = ReadonlyMap<PickleValue, PickleValue>;

function readFacts(className: string, attributes: Entries): ModuleFacts {
  const epsilon = attributes.get('eps');
  const momentum = attributes.get('momentum');
  return {
    className,
    epsilon: typeof epsilon === 'number' ? epsilon : null,
    momentum: typeof momentum === 'number' ? momentum : momentum === null ? 'cumulative' : null,
    trackRunningStats: asBoolean(attributes.get('track_running_stats')),
    training: asBoolean(attributes.get('training')),
    version: null,
  };
}

function asBoolean(value: PickleValue | undefined): boolean | null {
  return typeof value === 'boolean' ? value : null;
}

function readTensors(entries: Entries | null, isBuffer: boolean): ModuleTensor[] {
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

function readChildren(modules: Entries): ModuleObject['children'] {
  const children: [string, ObjectNode][] = [];
  for (const [name, value] of modules) {
    if (typeof name === 'string' && isNode(value, 'object')) children.push([name, value]);
  }
  return children;
}

/** A TorchScript object keeps parameters, buffers, submodules and constants side by side as attributes. */
function readScriptMembers(attributes: Entries): Pick<ModuleObject, 'tensors' | 'children'> {
  const tensors: ModuleTensor[] = [];
  const children: [string, ObjectNode][] = [];
  for (const [name, value] of attributes) {
    if (typeof name !== 'string') continue;
    const call = asTensorCall(value);
    if (call !== null) tensors.push({ name, call, isBuffer: null });
    else if (isNode(value, 'object') && isScriptClass(value.callee)) children.push([name, value]);
  }
  return { tensors, children };
}
