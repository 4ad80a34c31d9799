// Finds the state dict among the objects of a checkpoint, and names its tensors.

import type { ModuleFacts } from '../../checkpoint/checkpoint.js';
import { CheckpointError, quote, toShellWord } from '../../errors.js';
import {
  asContainer,
  asModule,
  type Child,
  childrenOf,
  countNormLayers,
  MAX_NESTING,
  type ModuleObject,
  NO_FACTS,
  type Surveyor,
} from './objects.js';
import {
  asInteger,
  entriesOf,
  isNode,
  type ObjectNode,
  type PickleNode,
  type PickleValue,
} from './pickle-values.js';
import { asTensorCall } from './tensors.js';

/** The part of a checkpoint that is audited. */
interface ChosenPart {
  readonly value: PickleValue;
  readonly warnings: readonly string[];
  /** Whether `select` led to it. */
  readonly isSelected: boolean;
  /** As {@link Checkpoint.unselected}. */
  readonly unselected?: readonly string[] | undefined;
}

/** What the choice depends on besides the object. */
interface ChoiceContext {
  readonly select: string | undefined;
  readonly surveyor: Surveyor;
  readonly file: string;
  /** What messages call the checkpoint. */
  readonly format: string;
}

/** A part of the checkpoint that holds norm layers: a state dict, a module, or nested dicts of a model. */
interface Candidate {
  /** Keys from the root to it. */
  readonly path: readonly string[];
  readonly node: PickleNode;
  readonly normLayers: number;
}

/** Keys under which training scripts keep the model itself. */
const PLAIN_MODEL_KEY =
  /^(?:state_dict|model_state_dict|model_state|model|module|net|network|params|weights)$/;

/** Keys of one of several models, or of a copy: as below a plain model's, nested dicts of a model end below them. */
const OTHER_MODEL_KEY =
  /^(?:generator|discriminator|teacher|student|ema|model_ema|state_dict_ema|params_ema)$/;

/** A running average of the model, or an earlier one, kept beside it. */
const COPY_KEY = /(^|[_\-.])(ema|swa|avg|average|averaged|shadow|best)([_\-.]|$)/i;

/** Optimizers, schedulers and their like, which hold no parameters. */
const TRAINING_KEY = /optim|scheduler|scaler|(^|_)(rng|amp|criterion|loss|history|metrics?)(_|$)/i;

/** At most this many candidates are listed in an error. */
const MAX_LISTED = 8;

/**
 * Finds the state dict or module to audit in whatever was saved.
 *
 * With `select`, that path. Else the only part that holds norm layers; among several, the model itself beside its
 * averaged copies. Without any norm layer, the likeliest part that holds tensors.
 *
 * @throws CheckpointError `ambiguous` listing the parts when several could be meant, `unsupported` when nothing holds
 * tensors, `not-found` when `select` leads nowhere and there is a choice.
 */
export function chooseStateDict(root: PickleValue, context: ChoiceContext): ChosenPart {
  const { select, surveyor, file } = context;
  if (asTensorCall(root) === null && surveyor.survey(root).tensors === 0) {
    throw new CheckpointError(`expected tensors in the ${context.format} checkpoint, found none`, {
      code: 'unsupported',
      file,
    });
  }
  const candidates = findCandidates(root, surveyor);
  if (select !== undefined) return followSelection(root, select, { candidates, surveyor, file });
  const [only] = candidates;
  if (candidates.length === 1 && only !== undefined) return choose(only.node);
  if (candidates.length === 0) return choose(findLikeliest(root, surveyor));
  const model = findPlainModel(candidates);
  if (model !== null) return choose(model.node, [describeLeftAside(model, candidates)]);
  throw new CheckpointError(
    `expected one part with norm layers, found ${candidates.length}: ${listCandidates(candidates)}`,
    { code: 'ambiguous', file, hint: `Name one with --select, such as --select ${wordOf(only)}.` },
  );
}

function choose(value: PickleValue, warnings: readonly string[] = []): ChosenPart {
  return { value, warnings, isSelected: false };
}

function findPlainModel(candidates: readonly Candidate[]): Candidate | null {
  const originals = candidates.filter(({ path }) => !path.some((key) => COPY_KEY.test(key)));
  const [original] = originals;
  if (originals.length !== 1 || original === undefined) return null;
  return original.path.some((key) => PLAIN_MODEL_KEY.test(key)) ? original : null;
}

function describeLeftAside(model: Candidate, candidates: readonly Candidate[]): string {
  const others = candidates.filter((candidate) => candidate !== model);
  return (
    `${pathOf(model)} was audited; ${listCandidates(others)} holds norm layers too and was left aside ` +
    `(--select ${wordOf(others[0])} audits it)`
  );
}

function followSelection(
  root: PickleValue,
  select: string,
  {
    candidates,
    surveyor,
    file,
  }: Pick<ChoiceContext, 'surveyor' | 'file'> & { candidates: readonly Candidate[] },
): ChosenPart {
  const segments = select.split(/[./]/).filter((segment) => segment !== '');
  const selected = followPath(root, segments, 0);
  if (selected !== undefined && (asTensorCall(selected) !== null || surveyor.survey(selected).tensors > 0)) {
    return { value: selected, warnings: [], isSelected: true };
  }
  const [only] = candidates;
  if (candidates.length === 1 && only !== undefined) {
    const isWhole = only.path.length === 0;
    const name = isWhole ? 'the checkpoint as a whole' : pathOf(only);
    const warning = `nothing with tensors is at ${quote(select)}; ${name}, the only part with norm layers, was audited`;
    return { ...choose(only.node, [warning]), unselected: isWhole ? [] : [pathOf(only)] };
  }
  throw new CheckpointError(`expected tensors at ${quote(select)}, found none there`, {
    code: 'not-found',
    file,
    hint:
      candidates.length === 0 ? undefined : `These parts hold norm layers: ${listCandidates(candidates)}.`,
  });
}

/** Keys may contain the separators themselves, so that the longest key that fits is tried first. */
function followPath(value: PickleValue, segments: readonly string[], depth: number): PickleValue | undefined {
  if (segments.length === 0) return value;
  const node = asContainer(value);
  if (node === null || depth > MAX_NESTING) return undefined;
  const children = new Map(childrenOf(node).map((child) => [child.name, child.value]));
  for (let length = segments.length; length > 0; length--) {
    for (const separator of length === 1 ? ['.'] : ['.', '/']) {
      const child = children.get(segments.slice(0, length).join(separator));
      const found = child === undefined ? undefined : followPath(child, segments.slice(length), depth + 1);
      if (found !== undefined) return found;
    }
  }
  return undefined;
}

/** A container on the way from the root, for climbing back. */
type Step = Pick<Candidate, 'node' | 'path'>;

function findCandidates(root: PickleValue, surveyor: Surveyor): readonly Candidate[] {
  const found = new Map<PickleNode, Candidate>();
  const visited = new Set<PickleNode>();
  const visit = (value: PickleValue, path: readonly string[], ancestors: readonly Step[]): void => {
    const node = asContainer(value);
    if (node === null || visited.has(node) || path.length > MAX_NESTING) return;
    visited.add(node);
    const census = surveyor.survey(node);
    if (census.normLayers === 0) return;
    const step = { node, path };
    const children = childrenOf(node);
    const isOwner = asModule(node) !== null || countNormLayers(children) > 0;
    if (isOwner) {
      const top = asModule(node) === null && isSingleLayer(children) ? climb([...ancestors, step]) : step;
      found.set(top.node, { ...top, normLayers: surveyor.survey(top.node).normLayers });
      return;
    }
    for (const child of children) visit(child.value, [...path, child.name], [...ancestors, step]);
  };
  visit(root, [], []);
  return [...found.values()];
}

/** Whether a dict's own keys are those of one layer: `running_mean` instead of `layer1.bn1.running_mean`. */
function isSingleLayer(children: readonly Child[]): boolean {
  return children.some(({ name }) => name === 'running_mean');
}

/** From the dict of one layer up to the nested dicts of the whole model: `{encoder: {bn1: {running_mean: …}}}`. */
function climb(steps: readonly Step[]): Step {
  let index = steps.length - 1;
  while (index > 0 && isPartOfModel(steps[index - 1], steps[index])) index--;
  const top = steps[index];
  if (top === undefined) throw new Error('climbing needs a step to start from');
  return top;
}

function isPartOfModel(parent: Step | undefined, child: Step | undefined): boolean {
  if (parent === undefined || child === undefined) return false;
  const key = child.path.at(-1) ?? '';
  if (PLAIN_MODEL_KEY.test(key) || OTHER_MODEL_KEY.test(key)) return false;
  return childrenOf(parent.node).every(
    ({ name, value }) =>
      !TRAINING_KEY.test(name) && (asTensorCall(value) !== null || asContainer(value)?.kind === 'dict'),
  );
}

/** Without norm layers: a dict that holds tensors itself, else the part under a model's key, else the largest. */
function findLikeliest(root: PickleValue, surveyor: Surveyor): PickleValue {
  let value = root;
  for (let depth = 0; depth < MAX_NESTING; depth++) {
    const node = asContainer(value);
    if (node === null || asModule(node) !== null) return value;
    const children = childrenOf(node);
    if (children.some((child) => asTensorCall(child.value) !== null)) return value;
    const next = pickChild(children, surveyor);
    if (next === null) return value;
    value = next;
  }
  return value;
}

function pickChild(children: readonly Child[], surveyor: Surveyor): PickleValue | null {
  const parts = children.filter(
    ({ name, value }) => surveyor.survey(value).tensors > 0 && !TRAINING_KEY.test(name),
  );
  const model = parts.find(({ name }) => PLAIN_MODEL_KEY.test(name));
  if (model !== undefined) return model.value;
  const [only] = parts;
  return parts.length === 1 && only !== undefined ? only.value : null;
}

function listCandidates(candidates: readonly Candidate[]): string {
  const count = (layers: number) => `${layers} norm layer${layers === 1 ? '' : 's'}`;
  const listed = candidates
    .slice(0, MAX_LISTED)
    .map((candidate) => `${pathOf(candidate)} (${count(candidate.normLayers)})`);
  const more = candidates.length - listed.length;
  return more > 0 ? `${listed.join(', ')} and ${more} more` : listed.join(', ');
}

function pathOf(candidate: Candidate | undefined): string {
  const path = candidate?.path.join('.') ?? '';
  return /^[\w.\-/]{1,160}$/.test(path) ? path : quote(path);
}

function wordOf(candidate: Candidate | undefined): string {
  return toShellWord(candidate?.path.join('.') ?? '');
}

/** Whether the model under the key is an average or an earlier copy of the one that was trained. */
export function isCopy(key: string): boolean {
  return COPY_KEY.test(key);
}

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
  return new Namer(part, surveyor, file).name();
}

class Namer {
  readonly #part: ChosenPart;
  readonly #surveyor: Surveyor;
  readonly #file: string;
  readonly #tensors = new Map<string, NamedTensor>();
  readonly #modules = new Map<string, ModuleFacts>();
  readonly #scriptClasses = new Map<string, string>();
  readonly #path = new Set<PickleNode>();
  #visits = 0;

  constructor(part: ChosenPart, surveyor: Surveyor, file: string) {
    this.#part = part;
    this.#surveyor = surveyor;
    this.#file = file;
  }

  name(): NamedParts {
    const { value } = this.#part;
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
      else if (!this.#isTrainingState(child)) this.#visit(child.value, name);
    }
  }

  /**
   * Whether what lies under the key of a part is training state instead of a part of the model. The name alone cannot
   * tell: a loss may be a network. So what holds norm layers belongs to the model; and in a part that the user selected,
   * everything does but an optimizer.
   */
  #isTrainingState({ name, value }: Child): boolean {
    const isNamedSo = this.#part.isSelected ? /optim/i.test(name) : TRAINING_KEY.test(name);
    return isNamedSo && this.#surveyor.survey(value).normLayers === 0;
  }

  /** `_metadata` of a state dict: {module path: {version: …}}; only paths that tensors may lie under. */
  #readVersions(node: PickleNode, prefix: string): void {
    const metadata = isNode(node, 'dict') ? entriesOf(entriesOf(node.state)?.get('_metadata')) : null;
    for (const [path, facts] of metadata ?? []) {
      const version = asInteger(entriesOf(facts)?.get('version'));
      if (typeof path !== 'string' || version === null) continue;
      this.#modules.set(join(prefix, path), { ...NO_FACTS, version });
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
function stringChildren(node: PickleNode): readonly Child[] {
  if (node.kind !== 'dict') return childrenOf(node);
  return [...node.entries].flatMap(([name, value]) => (typeof name === 'string' ? { name, value } : []));
}

function join(prefix: string, name: string): string {
  if (prefix === '') return name;
  return name === '' ? prefix : `${prefix}.${name}`;
}
