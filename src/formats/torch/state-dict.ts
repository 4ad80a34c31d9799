// Finds the state dict among the objects of a checkpoint, and names its tensors.

import type { ModuleFacts } from '../../checkpoint/checkpoint.js';
import { CheckpointError, LostSelection, quote, toShellWord } from '../../errors.js';
import { listFirst } from '../../norm/naming.js';
import {
  asContainer,
  asModule,
  type Child,
  childrenOf,
  collectionsOf,
  countNormLayers,
  describeNumberLists,
  MAX_NESTING,
  type ModuleObject,
  NO_FACTS,
  nameOfKey,
  SAVE_LISTS,
  type Surveyor,
} from './objects.js';
import {
  asInteger,
  entriesOf,
  isNode,
  itemsOf,
  type ObjectNode,
  type PickleNode,
  type PickleValue,
} from './pickle-values.js';
import { asCountCall, asTensorCall, readLayout, splitCodes } from './tensors.js';

/** A running average of the model, or an earlier one, kept beside it. */
const COPY_KEY = /(^|[_\-.])(ema|swa|avg|average|averaged|shadow|best)([_\-.]|$)/i;

/** What Lightning's WeightAveraging keeps of the raw weights: `state_dict` holds the average, and is what is loaded. */
const RAW_KEY = 'current_model_state';

/** A network that a checkpoint holds, with its keys from the root. */
type Network = Pick<Candidate, 'path'>;

interface NetworkWithCopies<One extends Network> {
  readonly network: One;
  readonly copies: readonly One[];
}

/** Whether the model under the key is an average or an earlier copy of the one that was trained. */
export function isCopy(key: string): boolean {
  return COPY_KEY.test(key);
}

/**
 * Puts copies to the networks that they are copies of. A copy says so by its key, and has the tensors of another network:
 * the same names and shapes. A student and its teacher, or two generators of one class, are networks of their own.
 *
 * @param signatureOf tells networks of the same names and shapes, as equal texts.
 * @param isCopyLoaded whether the framework loads the copy where there is one, as Ultralytics does.
 */
export function sortCopies<One extends Network>(
  networks: readonly One[],
  signatureOf: (network: One) => string,
  isCopyLoaded: boolean,
): readonly NetworkWithCopies<One>[] {
  const [originals, others] = [networks.filter((one) => !isKeptBeside(one)), networks.filter(isKeptBeside)];
  if (originals.length === 0 || others.length === 0)
    return networks.map((network) => ({ network, copies: [] }));
  const signatures = new Map(networks.map((network) => [network, signatureOf(network)]));
  const owners = new Map<One, One[]>(originals.map((original) => [original, []]));
  const alone: One[] = [];
  for (const other of others) {
    const alike = originals.filter((original) => signatures.get(original) === signatures.get(other));
    // The copy's key may hold the original's: `generator_ema` of `generator`.
    const keys = other.path.join('.');
    const owner = alike.find(({ path }) => path.every((key) => keys.includes(key))) ?? alike[0];
    if (owner === undefined) alone.push(other);
    else owners.get(owner)?.push(other);
  }
  const sorted = [...owners].map(([network, copies]) => {
    const [copy] = copies;
    return isCopyLoaded && copy !== undefined
      ? { network: copy, copies: [network, ...copies.slice(1)] }
      : { network, copies };
  });
  return [...sorted, ...alone.map((network) => ({ network, copies: [] }))];
}

function isKeptBeside({ path }: Network): boolean {
  return path.some(isCopy) || path.at(-1) === RAW_KEY;
}

interface Part {
  /** What its tensors' names begin with: its keys from the root; empty where it is the only one. */
  readonly prefix: string;
  readonly value: PickleValue;
}

/** What of a checkpoint is audited. */
export interface ChosenParts {
  /** One, or several networks side by side. */
  readonly parts: readonly Part[];
  /** Copies of one of them, which were left aside. */
  readonly copies: readonly ChosenCopy[];
  readonly warnings: readonly string[];
  /** Whether `select` led to it. */
  readonly isSelected: boolean;
  /** As {@link Checkpoint.unselected}. */
  readonly unselected?: readonly string[] | undefined;
}

interface ChosenCopy {
  /** Keys from the root to it and to the network that it is a copy of, joined by dots. */
  readonly path: string;
  readonly of: string;
  /** What would be audited if it took that network's place. */
  readonly parts: readonly Part[];
}

interface ChoiceContext {
  readonly select: string | undefined;
  /** Whether the framework loads a running average of the model where there is one. */
  readonly isCopyLoaded: boolean;
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

const SAVE_UNFROZEN =
  'torch.jit.freeze and optimize_for_inference make constants of all weights, without names, and fold norm layers away: audit the module from before, saved by torch.jit.save or as its state_dict().';

/** Optimizers, schedulers and their like, which hold no parameters. */
const TRAINING_KEY = /optim|scheduler|scaler|(^|_)(rng|amp|criterion|loss|history|metrics?)(_|$)/i;

/** Networks in one file: adversarial and distillation setups have two to six, ensembles some ten. */
const MAX_NETWORKS = 32;

/** At most this many candidates are listed in an error. */
const MAX_LISTED = 8;

/**
 * Finds the state dicts or modules to audit in whatever was saved.
 *
 * With `select`, that path. Else every part that holds norm layers, of copies of one network the one that is loaded:
 * {@link sortCopies}. Without any norm layer, the likeliest part that holds tensors.
 *
 * @throws CheckpointError `unsupported` when nothing holds tensors, `not-found` when `select` leads nowhere and there is
 * a choice, `limit-exceeded` on more parts than {@link MAX_NETWORKS} and as {@link nameTensors}.
 */
export function chooseStateDict(root: PickleValue, context: ChoiceContext): ChosenParts {
  const { select, surveyor, file, isCopyLoaded } = context;
  if (asTensorCall(root) === null && surveyor.survey(root).tensors === 0) {
    const lists = describeNumberLists(root);
    const message = `expected tensors in the ${context.format} checkpoint, found ${lists ?? 'none'}`;
    const hint =
      lists !== null ? `${SAVE_LISTS}.` : context.format === 'TorchScript' ? SAVE_UNFROZEN : undefined;
    throw new CheckpointError(message, { code: 'unsupported', file, hint });
  }
  const candidates = findCandidates(root, surveyor);
  if (select !== undefined) return followSelection(root, select, { candidates, surveyor, file });
  if (candidates.length === 0) return choose(findLikeliest(root, surveyor));
  if (candidates.length > MAX_NETWORKS) {
    const found = `found ${candidates.length}: ${listCandidates(candidates)}`;
    const hint = `Name one with --select, such as --select ${wordOf(candidates[0])}.`;
    const message = `expected at most ${MAX_NETWORKS} parts with norm layers, ${found}`;
    throw new CheckpointError(message, { code: 'limit-exceeded', file, hint });
  }
  const signatureOf = ({ node }: Candidate) => describeTensors(choose(node), surveyor, file);
  return chooseNetworks(sortCopies(candidates, signatureOf, isCopyLoaded));
}

function choose(value: PickleValue, warnings: readonly string[] = []): ChosenParts {
  return { parts: [{ prefix: '', value }], copies: [], warnings, isSelected: false };
}

function chooseNetworks(sorted: readonly NetworkWithCopies<Candidate>[]): ChosenParts {
  const toPart = ({ path, node }: Candidate): Part => ({
    prefix: sorted.length === 1 ? '' : path.join('.'),
    value: node,
  });
  const parts = sorted.map(({ network }) => toPart(network));
  const copies = sorted.flatMap(({ network, copies: found }, index) =>
    found.map(({ path, node }) => ({
      path: path.join('.'),
      of: network.path.join('.'),
      parts: parts.map((part, at) => (at === index ? { ...part, value: node } : part)),
    })),
  );
  const warnings = sorted.filter(({ copies: { length } }) => length > 0).map(describeLeftAside);
  return { parts, copies, warnings, isSelected: false };
}

function describeLeftAside({ network, copies }: NetworkWithCopies<Candidate>): string {
  return (
    `${pathOf(network)} was audited; ${listCandidates(copies)} holds norm layers too and was left aside ` +
    `(--select ${wordOf(copies[0])} audits it)`
  );
}

/** The names and shapes of tensors, whatever their order; a wrapper around an averaged copy, and its count, left out. */
function describeTensors(chosen: ChosenParts, surveyor: Surveyor, file: string): string {
  const described = [...nameTensors(chosen, surveyor, file).tensors].map(([name, { call }]) => {
    const layout = readLayout(call, name, file);
    const shape = layout.kind === 'layout' ? layout.shape.join() : layout.why;
    return `${name.replace(/^module\./, '')} ${shape}`;
  });
  return described
    .filter((text) => !/^(?:n_averaged|steps) /.test(text))
    .sort()
    .join('\n');
}

function followSelection(
  root: PickleValue,
  select: string,
  context: { candidates: readonly Candidate[]; surveyor: Surveyor; file: string },
): ChosenParts {
  const { candidates, surveyor, file } = context;
  const segments = select.split(/[./]/).filter((segment) => segment !== '');
  const selected = followPath(root, segments, 0);
  if (selected !== undefined && (asTensorCall(selected) !== null || surveyor.survey(selected).tensors > 0))
    return { ...choose(selected), isSelected: true };
  const [only] = candidates;
  if (candidates.length === 1 && only !== undefined) {
    const isWhole = only.path.length === 0;
    const name = isWhole ? 'the checkpoint as a whole' : pathOf(only);
    const warning = `nothing with tensors is at ${quote(select)}; ${name}, the only part with norm layers, was audited`;
    return { ...choose(only.node, [warning]), unselected: isWhole ? [] : [pathOf(only)] };
  }
  throw new LostSelection(`expected tensors at ${quote(select)}, found none there`, {
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

type Step = Pick<Candidate, 'node' | 'path'>;

function findCandidates(root: PickleValue, surveyor: Surveyor): readonly Candidate[] {
  const found = new Map<string, Candidate>();
  const visited = new Set<PickleNode>();
  const owners = new Set<PickleNode>();
  const visit = (value: PickleValue, path: readonly string[], ancestors: readonly Step[]): void => {
    const node = asContainer(value);
    if (node === null || path.length > MAX_NESTING) return;
    // One object under two keys is one part, unless the keys are two networks': a teacher that starts as the student.
    const key = path.at(-1) ?? '';
    const isOtherNetwork = owners.has(node) && OTHER_MODEL_KEY.test(key) && !isCopy(key);
    if (visited.has(node) && !isOtherNetwork) return;
    visited.add(node);
    const census = surveyor.survey(node);
    if (census.normLayers === 0) return;
    const step = { node, path };
    const children = childrenOf(node);
    const isOwner =
      asModule(node) !== null || countNormLayers(children) > 0 || collectionsOf(children) !== null;
    if (isOwner) {
      owners.add(node);
      // A dict's own keys may be those of one layer: `running_mean` instead of `layer1.bn1.running_mean`.
      const isLayer = asModule(node) === null && children.some(({ name }) => name === 'running_mean');
      const top = isLayer ? climb([...ancestors, step]) : step;
      found.set(JSON.stringify(top.path), { ...top, normLayers: surveyor.survey(top.node).normLayers });
      return;
    }
    for (const child of children) visit(child.value, [...path, child.name], [...ancestors, step]);
  };
  visit(root, [], []);
  return [...found.values()];
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
  const listed = candidates.map((candidate) => `${pathOf(candidate)} (${count(candidate.normLayers)})`);
  return listFirst(listed, MAX_LISTED);
}

function pathOf(candidate: Candidate | undefined): string {
  const path = candidate?.path.join('.') ?? '';
  return /^[\w.\-/]{1,160}$/.test(path) ? path : quote(path);
}

function wordOf(candidate: Candidate | undefined): string {
  return toShellWord(candidate?.path.join('.') ?? '');
}

/** Tensors of a file's models, every path to a shared module counted. The largest models have some ten thousand. */
const MAX_NAMED_TENSORS = 200_000;

/** Containers visited while naming: shared ones are visited once for each path, and a bomb has paths without end. */
const MAX_VISITS = 400_000;

/** A tensor under its full name. */
export interface NamedTensor {
  readonly call: ObjectNode;
  /** As {@link ModuleTensor.isBuffer}; null in a state dict. */
  readonly isBuffer: boolean | null;
  /** Whether a TorchScript object holds it, whose tensors state their own `requires_grad`. */
  readonly isScript: boolean;
  /** Whether its name stands beside it, as PaddlePaddle writes arrays; absent for others. */
  readonly isPaddle?: boolean | undefined;
}

/** The tensors of what was chosen of a checkpoint, in module order, and what it tells of the modules. */
export interface NamedParts {
  readonly tensors: ReadonlyMap<string, NamedTensor>;
  readonly modules: ReadonlyMap<string, ModuleFacts>;
  /** The TorchScript classes of modules by path. */
  readonly scriptClasses: ReadonlyMap<string, string>;
  /** False for Flax: JAX sorts the keys of dicts. */
  readonly inModuleOrder: boolean;
  /** Statistics by their names that are no tensors but Python lists of numbers. */
  readonly lists: readonly string[];
}

/**
 * Gives every tensor below the chosen parts its dotted name, each part's prefix before it: keys of dicts, names of
 * attributes, numbers of list items. Keys that are no strings, and training state, stay out.
 *
 * @throws CheckpointError `limit-exceeded` on more tensors or paths than any model has.
 */
export function nameTensors(chosen: ChosenParts, surveyor: Surveyor, file: string): NamedParts {
  return new Namer(chosen, surveyor, file).name();
}

class Namer {
  readonly #chosen: ChosenParts;
  readonly #surveyor: Surveyor;
  readonly #file: string;
  readonly #tensors = new Map<string, NamedTensor>();
  readonly #modules = new Map<string, ModuleFacts>();
  readonly #scriptClasses = new Map<string, string>();
  readonly #path = new Set<PickleNode>();
  readonly #lists: string[] = [];
  #isFlax = false;
  #visits = 0;

  constructor(chosen: ChosenParts, surveyor: Surveyor, file: string) {
    this.#chosen = chosen;
    this.#surveyor = surveyor;
    this.#file = file;
  }

  name(): NamedParts {
    for (const { prefix, value } of this.#chosen.parts) {
      const call = asTensorCall(value);
      if (call !== null) this.#add(prefix, { call, isBuffer: null, isScript: false });
      this.#visit(value, prefix);
    }
    return {
      tensors: this.#tensors,
      modules: this.#modules,
      scriptClasses: this.#scriptClasses,
      inModuleOrder: !this.#isFlax,
      lists: this.#lists,
    };
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
    for (const { name, call, isBuffer } of module.tensors)
      this.#add(join(prefix, name), { call, isBuffer, isScript: module.kind === 'script' });
    for (const [name, child] of module.children) this.#visit(child, join(prefix, name));
  }

  #visitContainer(node: PickleNode, prefix: string): void {
    this.#readVersions(node, prefix);
    // A state dict's names are made of a dict's strings, and paths of them, alone.
    const children =
      node.kind === 'dict'
        ? [...node.entries].flatMap(([key, value]) => {
            const name = nameOfKey(key);
            return name === null ? [] : { name, value };
          })
        : childrenOf(node);
    const collections = collectionsOf(children);
    if (collections !== null || children.some(({ name }) => name.startsWith('batch_stats.')))
      this.#isFlax = true;
    for (const child of collections ?? children) {
      const name = collections === null ? join(prefix, child.name) : prefix;
      const call = asTensorCall(child.value) ?? asCountCall(name, child.value);
      if (call !== null)
        this.#add(name, { call, isBuffer: null, isScript: false, isPaddle: call !== child.value });
      else if (STATISTIC.test(name) && isNumberList(child.value)) this.#lists.push(name);
      else if (!this.#isTrainingState(child)) this.#visit(child.value, name);
    }
  }

  /**
   * Whether what lies under the key of a part is training state instead of a part of the model. The name alone cannot
   * tell: a loss may be a network. So what holds norm layers belongs to the model; and in a part that the user selected,
   * everything does but an optimizer.
   */
  #isTrainingState({ name, value }: Child): boolean {
    const isNamedSo = this.#chosen.isSelected ? /optim/i.test(name) : TRAINING_KEY.test(name);
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

  #add(path: string, tensor: NamedTensor): void {
    for (const [ending, call] of splitCodes(tensor.call)) this.#addOne(path + ending, { ...tensor, call });
  }

  #addOne(path: string, tensor: NamedTensor): void {
    const name = path.replace(PACKED, (_, dot: string, item: '0' | '1') => `${dot}${PACKED_PARTS[item]}`);
    if (this.#tensors.size === MAX_NAMED_TENSORS) throw this.#exceeded(`${MAX_NAMED_TENSORS} tensors`);
    if (!this.#tensors.has(name)) this.#tensors.set(name, tensor);
  }

  #exceeded(limit: string): CheckpointError {
    const message = `expected a model with at most ${limit}, found more`;
    return new CheckpointError(message, { code: 'limit-exceeded', file: this.#file });
  }
}

/** What a quantised linear layer of torch.ao holds its weight and its bias in: a tuple of both. */
const PACKED = /(^|\.)_packed_params\._packed_params\.([01])$/;

const PACKED_PARTS = { 0: 'weight', 1: 'bias' } as const;

/** How PyTorch and Keras end the names of statistics. */
const STATISTIC = /(?:^|\.)(?:running_mean|running_var|moving_mean|moving_variance)$/;

function isNumberList(value: PickleValue): boolean {
  const items = itemsOf(value);
  return items.length > 0 && items.every((item) => typeof item === 'number' || typeof item === 'bigint');
}

function join(prefix: string, name: string): string {
  if (prefix === '') return name;
  return name === '' ? prefix : `${prefix}.${name}`;
}
