import { CheckpointError } from '../../errors.js';
import type { ModuleFacts } from '../checkpoint.js';
import { asModule, type ModuleObject } from './module-objects.js';
import { asContainer, childrenOf, MAX_NESTING, type Surveyor } from './object-tree.js';
import {
  asInteger,
  entriesOf,
  isNode,
  type ObjectNode,
  type PickleNode,
  type PickleValue,
} from './pickle-values.js';
import { type ChosenPart, isTrainingState } from './state-dict.js';
import { asTensorCall } from './tensors.js';

/** Tensors of one model, every path to a shared module counted. The largest models have some ten thousand. */
const MAX_NAMED_TENSORS = 1_000_000;

/** Containers visited while naming: shared ones are visited once for each path, and a bomb has paths without end. */
const MAX_VISITS = 2_000_000;

/** A tensor under its full name. */
export interface NamedTensor {
  readonly call: ObjectNode;
  /** As {@link ModuleTensor.isBuffer}; null in a state dict. */
  readonly isBuffer: boolean | null;
  /** Whether a TorchScript object holds it, whose tensors state their own `requires_grad`. */
  readonly isScript: boolean;
}

/** The tensors of a part of a checkpoint, in module order, and what it tells of the modules. */
export interface NamedParts {
  readonly tensors: ReadonlyMap<string, NamedTensor>;
  readonly modules: ReadonlyMap<string, ModuleFacts>;
  /** The TorchScript classes of modules by path. */
  readonly scriptClasses: ReadonlyMap<string, string>;
}

/**
 * Gives every tensor below the chosen part its dotted name relative to it: keys of dicts, names of attributes, numbers
 * of list items. Keys that are no strings, and training state, stay out.
 *
 * @throws CheckpointError `limit-exceeded` on more tensors or paths than any model has.
 */
export function nameTensors(part: ChosenPart, surveyor: Surveyor, file: string): NamedParts {
  return new Namer({ isSelected: part.isSelected, surveyor, file }).name(part.value);
}

class Namer {
  readonly #isSelected: boolean;
  readonly #surveyor: Surveyor;
  readonly #file: string;
  readonly #tensors = new Map<string, NamedTensor>();
  readonly #modules = new Map<string, ModuleFacts>();
  readonly #scriptClasses = new Map<string, string>();
  readonly #path = new Set<PickleNode>();
  #visits = 0;

  constructor({ isSelected, surveyor, file }: { isSelected: boolean; surveyor: Surveyor; file: string }) {
    this.#isSelected = isSelected;
    this.#surveyor = surveyor;
    this.#file = file;
  }

  name(value: PickleValue): NamedParts {
    const call = asTensorCall(value);
    if (call !== null) this.#add('', { call, isBuffer: null, isScript: false });
    this.#visit(value, '');
    return { tensors: this.#tensors, modules: this.#modules, scriptClasses: this.#scriptClasses };
  }

  #visit(value: PickleValue, prefix: string): void {
    const node = asContainer(value);
    if (node === null || this.#path.has(node) || this.#path.size > MAX_NESTING) return;
    if (this.#surveyor.survey(node).tensors === 0) return;
    if (++this.#visits > MAX_VISITS) throw this.#exceeded(`${MAX_VISITS} containers`);
    this.#path.add(node);
    const module = asModule(node);
    if (module !== null) this.#visitModule(module, prefix);
    else this.#visitContainer(node, prefix);
    this.#path.delete(node);
  }

  #visitModule(module: ModuleObject, prefix: string): void {
    this.#modules.set(prefix, module.facts);
    if (module.kind === 'script') this.#scriptClasses.set(prefix, module.classModule);
    for (const { name, call, isBuffer } of module.tensors) {
      this.#add(join(prefix, name), { call, isBuffer, isScript: module.kind === 'script' });
    }
    for (const [name, child] of module.children) this.#visit(child, join(prefix, name));
  }

  #visitContainer(node: PickleNode, prefix: string): void {
    this.#readVersions(node, prefix);
    for (const child of stringChildren(node)) {
      const name = join(prefix, child.name);
      const call = asTensorCall(child.value);
      if (call !== null) this.#add(name, { call, isBuffer: null, isScript: false });
      else if (!isTrainingState(child, this.#surveyor, this.#isSelected)) this.#visit(child.value, name);
    }
  }

  /** `_metadata` of a state dict: {module path: {version: …}}; only paths that tensors may lie under. */
  #readVersions(node: PickleNode, prefix: string): void {
    const metadata = isNode(node, 'dict') ? entriesOf(entriesOf(node.state)?.get('_metadata')) : null;
    for (const [path, facts] of metadata ?? []) {
      const version = asInteger(entriesOf(facts)?.get('version'));
      if (typeof path !== 'string' || version === null) continue;
      this.#modules.set(join(prefix, path), {
        className: null,
        epsilon: null,
        momentum: null,
        trackRunningStats: null,
        training: null,
        version,
      });
    }
  }

  #add(name: string, tensor: NamedTensor): void {
    if (this.#tensors.size === MAX_NAMED_TENSORS) throw this.#exceeded(`${MAX_NAMED_TENSORS} tensors`);
    if (!this.#tensors.has(name)) this.#tensors.set(name, tensor);
  }

  #exceeded(limit: string): CheckpointError {
    return new CheckpointError(`expected a model with at most ${limit}, found more`, {
      code: 'limit-exceeded',
      file: this.#file,
    });
  }
}

/** Children that a state dict's names can be made of: of a dict, only those under strings. */
function stringChildren(node: PickleNode): ReturnType<typeof childrenOf> {
  if (node.kind !== 'dict') return childrenOf(node);
  const children: { name: string; value: PickleValue }[] = [];
  for (const [name, value] of node.entries) if (typeof name === 'string') children.push({ name, value });
  return children;
}

function join(prefix: string, name: string): string {
  if (prefix === '') return name;
  return name === '' ? prefix : `${prefix}.${name}`;
}
