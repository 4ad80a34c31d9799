// What a checkpoint itself says is frozen: requires_grad, optimizer groups, frozen stages.

import type {
  AdapterDeclaration,
  Checkpoint,
  Declaration,
  OptimizerDeclaration,
  OptimizerGroup,
  OptimizerParameter,
  PathsDeclaration,
  Tensor,
} from '../checkpoint/checkpoint.js';
import { failUnreachable, quote } from '../errors.js';
import { getOrMake, isUnder, joinPath, splitPath, standsBesideAdapter, withoutWrappers } from './naming.js';
import { type LayersAndLearned, type NormLayer, storedTensorOf } from './norm-layer.js';

/** A parameter of the model, as far as an optimizer's state can tell it from others. */
export interface ModelParameter {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Which of the model's parameters an optimizer holds under which of its numbers, or why that is not clear. */
type OptimizerMapping<Fact> =
  | { readonly kind: 'mapped'; readonly held: ReadonlyMap<string, Fact> }
  | { readonly kind: 'unclear'; readonly reason: string };

/** Steps of the search for places; real optimizers need some thousand. */
const MAX_STEPS = 20_000_000;

/** Beginnings of names tried; real ones differ by a wrapper or two. */
const MAX_PREFIXES = 1_000;

/** More groups than anyone writes by hand: code made them, going over the parameters. */
const GENERATED_GROUPS = 8;

/** One parameter of the optimizer, and what it says of whichever of the model's it is. */
interface Slot<Fact> {
  readonly name: string | null;
  /** The shape as text; null where it is not known. */
  readonly shape: string | null;
  readonly fact: Fact;
  /** The model's parameter, by its place in module order; null while that is open. */
  place: number | null;
}

/**
 * Finds out which of the model's parameters the numbers of an optimizer stand for: by names where the file has them,
 * else by the order and the shapes. Whoever hands parameters to an optimizer goes over the modules in their order, so
 * that each group is in module order, and what the optimizer keeps has the shape of its parameter.
 *
 * Nothing is guessed: a number is mapped where only one parameter fits, or where all that are open say the same.
 *
 * @param model every parameter of the model in module order, tied ones once.
 * @param factOf what the optimizer says of one of its parameters; equal facts are equal by `===`.
 */
export function mapOptimizer<Fact>(
  { groups }: OptimizerDeclaration,
  model: readonly ModelParameter[],
  factOf: (parameter: OptimizerParameter, group: number) => Fact,
): OptimizerMapping<Fact> {
  const slots = groups.map(({ parameters }, group) =>
    parameters.map(
      (parameter): Slot<Fact> => ({
        name: parameter.name,
        shape: parameter.shape?.join() ?? null,
        fact: factOf(parameter, group),
        place: null,
      }),
    ),
  );
  const all = slots.flat();
  if (all.every(({ name }) => name !== null)) return mapByName(all, model);
  if (all.length > model.length)
    return unclear(`holds ${all.length} parameters, and the model has ${model.length} learned tensors`);
  const shapes = model.map(({ shape }) => shape.join());
  if (standInOrder(slots, shapes) || areAllAlike(all, shapes)) {
    for (const [place, slot] of all.entries()) slot.place = place;
  } else {
    const problem = new PlaceSearch(slots, shapes).run();
    if (problem !== null) return unclear(problem);
  }
  const held = new Map(all.map(({ place, fact }) => [model[place ?? 0]?.name ?? '', fact]));
  return { kind: 'mapped', held };
}

function unclear(reason: string): Extract<OptimizerMapping<never>, { readonly kind: 'unclear' }> {
  return { kind: 'unclear', reason };
}

/** Names of the optimizer's may lack a prefix that the model's have, or the other way round; one must fit them all. */
function mapByName<Fact>(
  slots: readonly Slot<Fact>[],
  model: readonly ModelParameter[],
): OptimizerMapping<Fact> {
  const names = slots.map(({ name }) => withoutWrappers(name ?? ''));
  const known = new Map(model.map(({ name }) => [withoutWrappers(name), name]));
  const [first = ''] = names;
  const prefixes = new Set<string>(['']);
  for (const name of known.keys()) {
    if (name.endsWith(`.${first}`)) prefixes.add(name.slice(0, name.length - first.length));
    if (first.endsWith(`.${name}`)) prefixes.add(`-${first.slice(0, first.length - name.length)}`);
  }
  const fitting = [...prefixes]
    .slice(0, MAX_PREFIXES)
    .filter((prefix) => names.every((name) => known.has(reprefix(name, prefix))));
  const [prefix] = fitting;
  if (prefix === undefined || (fitting.length > 1 && prefix !== ''))
    return unclear('names parameters that the model does not have under these names');
  const nameOf = (index: number) => known.get(reprefix(names[index] ?? '', prefix)) ?? '';
  return { kind: 'mapped', held: new Map(slots.map(({ fact }, index) => [nameOf(index), fact])) };
}

/** With the prefix in front, or without it where it comes after a minus. */
function reprefix(name: string, prefix: string): string {
  if (!prefix.startsWith('-')) return prefix + name;
  return name.startsWith(prefix.slice(1)) ? name.slice(prefix.length - 1) : '';
}

/**
 * Whether the optimizer was handed every parameter, one after the other in module order: as one group, or each as a
 * group of its own, which takes evidence: the shapes of at least half of them.
 */
function standInOrder<Fact>(slots: readonly (readonly Slot<Fact>[])[], shapes: readonly string[]): boolean {
  const all = slots.flat();
  const known = all.filter(({ shape }) => shape !== null).length;
  const areSingle = slots.length >= GENERATED_GROUPS && slots.every(({ length }) => length === 1);
  return (
    all.length === shapes.length &&
    (slots.length === 1 || (areSingle && 2 * known >= all.length)) &&
    all.every(({ shape }, place) => shape === null || shape === shapes[place])
  );
}

/** Whether the optimizer was handed every parameter and says the same of all: then it does not matter which is which. */
function areAllAlike<Fact>(all: readonly Slot<Fact>[], shapes: readonly string[]): boolean {
  const [first] = all;
  if (all.length !== shapes.length || all.some(({ fact, shape }) => fact !== first?.fact || shape === null))
    return false;
  const sorted = all.map(({ shape }) => shape ?? '').sort();
  return [...shapes].sort().every((shape, index) => shape === sorted[index]);
}

/**
 * Gives each slot the only place that it can have: as far to the front as its group's order and the shapes allow is as
 * far to the back as they do. Places that are taken narrow the others down.
 */
class PlaceSearch<Fact> {
  readonly #slots: readonly (readonly Slot<Fact>[])[];
  /** Of the model's parameters. */
  readonly #shapes: readonly string[];
  readonly #taken = new Set<number>();
  #steps = 0;

  constructor(slots: readonly (readonly Slot<Fact>[])[], shapes: readonly string[]) {
    this.#slots = slots;
    this.#shapes = shapes;
  }

  /** @returns why some slots have no place; null where all have one. */
  run(): string | null {
    for (let isNarrowing = true; isNarrowing; ) {
      isNarrowing = false;
      for (const group of this.#slots.filter((slots) => slots.some(({ place }) => place === null))) {
        const [first, last] = [this.#place(group, 1), this.#place(group, -1)];
        if (this.#steps > MAX_STEPS) return 'holds too many parameters alike to tell them apart';
        if (first === null || last === null)
          return 'numbers parameters whose shapes, in module order, are not those of the model';
        group.forEach((slot, index) => {
          const place = first[index];
          if (slot.place !== null || place === undefined || place !== last[index]) return;
          slot.place = place;
          this.#taken.add(place);
          isNarrowing = true;
        });
      }
    }
    return this.#fillAlike();
  }

  /** The places of a group, each the foremost possible (`step` 1) or the hindmost (−1); null where it has none. */
  #place(group: readonly Slot<Fact>[], step: 1 | -1): readonly number[] | null {
    const places: number[] = [];
    this.#steps += group.length;
    let next = step === 1 ? 0 : this.#shapes.length - 1;
    for (let count = 0; count < group.length; count++) {
      const index = step === 1 ? count : group.length - 1 - count;
      const slot = group[index];
      if (slot === undefined) return null;
      while (!this.#mayTake(slot, next)) {
        next += step;
        if (++this.#steps > MAX_STEPS || next < 0 || next >= this.#shapes.length) return null;
      }
      places[index] = next;
      next += step;
    }
    return places;
  }

  #mayTake({ place, shape }: Slot<Fact>, at: number): boolean {
    if (place !== null) return place === at;
    return !this.#taken.has(at) && (shape === null ? at in this.#shapes : shape === this.#shapes[at]);
  }

  /** Slots that are left, as many as places are left: where all say the same, it does not matter which is which. */
  #fillAlike(): string | null {
    const open = this.#slots.flat().filter(({ place }) => place === null);
    if (open.length === 0) return null;
    const free = this.#shapes.map((_, place) => place).filter((place) => !this.#taken.has(place));
    const isAlike = open.every(({ fact }) => fact === open[0]?.fact);
    if (!isAlike || open.length !== free.length)
      return `knows its parameters by number, and ${open.length} of its ${open.length + this.#taken.size} could be several of the model's: what it says of the freeze cannot be told`;
    for (const [index, slot] of open.entries()) slot.place = free[index] ?? null;
    return null;
  }
}

/** What of a file declares that something was frozen or trained. */
export type DeclaredBy =
  | 'lr-0'
  | 'not-in-optimizer'
  | 'no-optimizer-state'
  | 'optimizer-state'
  | 'requires-grad'
  | 'frozen-stages'
  | 'norm-cfg'
  | 'ultralytics-freeze'
  | 'keras-trainable'
  | 'darknet-stopbackward'
  | 'peft-adapter';

/** What a file says of one learned tensor. */
export interface DeclaredTensor {
  readonly frozen: boolean;
  readonly by: DeclaredBy;
  /** Where in the file, or beside it: keys joined by dots, or a file's name. */
  readonly where: string;
}

/** What a file says of one norm layer. */
export interface DeclaredLayer {
  /** What it says of γ and β alike, without affine of what feeds the layer; null where it says nothing or both. */
  readonly affine: DeclaredTensor | null;
  /** Where settings put the layer in eval() for training; null where none do. */
  readonly evalBy: string | null;
}

/** What a checkpoint says itself of how it was trained. */
export interface DeclaredFreeze {
  /** Learned tensors by dotted name; those of which nothing is said are left out. */
  readonly tensors: ReadonlyMap<string, DeclaredTensor>;
  /** Norm layers by name, likewise. */
  readonly layers: ReadonlyMap<string, DeclaredLayer>;
  /** What speaks of a freeze and was not understood, each as a sentence about the file. */
  readonly unclear: readonly string[];
  /** What usually tells and does not here; for whoever asks why. */
  readonly mute: readonly string[];
}

/**
 * What a checkpoint declares of each learned tensor and norm layer. Where its parts disagree, the optimizer's word goes
 * before settings and flags: it tells what was done, they what was meant.
 */
export function findDeclaredFreeze(checkpoint: Checkpoint, found: LayersAndLearned): DeclaredFreeze {
  const { layers, learned } = found;
  const declarations = checkpoint.declarations ?? [];
  const { flags, mute } = readFlags(learned);
  const optimizers = readOptimizers(declarations, learned, checkpoint.parts ?? ['']);
  const settings = new Map<string, DeclaredTensor>();
  const evals = new Map<string, string>();
  const unclear: string[] = [];
  for (const declaration of declarations) {
    switch (declaration.kind) {
      case 'optimizer':
        break;
      case 'paths':
        for (const placed of placePaths(declaration, found, checkpoint.parts ?? [])) {
          for (const [name, fact] of readPaths(placed, found)) settings.set(name, fact);
          for (const name of findEvalLayers(placed, layers)) evals.set(name, placed.where);
        }
        break;
      case 'adapter':
        for (const [name, fact] of readAdapter(declaration, learned)) settings.set(name, fact);
        break;
      case 'unread':
        unclear.push(`${quote(declaration.where)} ${declaration.reason}`);
        break;
      default:
        failUnreachable(declaration);
    }
  }
  const tensors = new Map([...flags, ...settings, ...optimizers.tensors]);
  return {
    tensors,
    layers: describeLayers(found, tensors, evals),
    unclear: [...optimizers.unclear, ...unclear],
    mute,
  };
}

type DeclaredTensors = ReadonlyMap<string, DeclaredTensor>;

/**
 * `requires_grad` as pickled modules and TorchScript keep it. Averaged copies and models for inference have it off
 * everywhere: that says nothing of how they were trained.
 */
function readFlags(learned: ReadonlyMap<string, Tensor>): {
  readonly flags: DeclaredTensors;
  readonly mute: readonly string[];
} {
  const flags = new Map<string, DeclaredTensor>();
  for (const [name, { requiresGrad }] of learned) {
    if (requiresGrad !== undefined)
      flags.set(name, { frozen: !requiresGrad, by: 'requires-grad', where: 'requires_grad' });
  }
  const isOff = flags.size > 0 && [...flags.values()].every(({ frozen }) => frozen);
  if (!isOff) return { flags, mute: [] };
  const reason = 'requires_grad is off everywhere, as in averaged copies and models for inference';
  return { flags: new Map(), mute: [reason] };
}

type Fate = 'lr-0' | 'no-optimizer-state' | 'optimizer-state' | null;

function readOptimizers(
  declarations: readonly Declaration[],
  learned: ReadonlyMap<string, Tensor>,
  parts: readonly string[],
): { readonly tensors: DeclaredTensors; readonly unclear: readonly string[] } {
  const optimizers = declarations.filter((declaration) => declaration.kind === 'optimizer');
  const filled = optimizers.filter(({ groups }) => groups.some(({ parameters }) => parameters.length > 0));
  const [first] = filled;
  if (first === undefined) return { tensors: new Map(), unclear: [] };
  const tensors = new Map<string, DeclaredTensor>();
  const unclear: string[] = [];
  const held = new Set<string>();
  const { parameters, aliases } = listParameters(learned);
  for (const optimizer of filled) {
    const mapping = mapOntoParts(optimizer, parameters, parts);
    if (mapping.kind === 'unclear') {
      unclear.push(`the optimizer at ${quote(optimizer.where)} ${mapping.reason}`);
      continue;
    }
    for (const [name, fate] of mapping.held) {
      held.add(name);
      // Of several optimizers, one that updated the parameter is enough.
      if (fate === null || tensors.get(name)?.frozen === false) continue;
      const where = joinPath(optimizer.where, fate === 'lr-0' ? 'param_groups' : 'state');
      tensors.set(name, { frozen: fate !== 'optimizer-state', by: fate, where });
    }
  }
  // One that was not understood may hold whatever the others do not.
  const isAllRead = declarations.every((one) => one.kind !== 'unread' || one.of !== 'optimizer');
  if (unclear.length === 0 && isAllRead) {
    const where = joinPath(first.where, 'param_groups');
    const fact = { frozen: true, by: 'not-in-optimizer', where } as const;
    // An optimizer says nothing of a network beside the one that it holds parameters of.
    const spokenOf = parts.filter((part) => [...held].some((name) => isUnder(name, part)));
    for (const { name } of parameters)
      if (!held.has(name) && spokenOf.some((part) => isUnder(name, part))) tensors.set(name, fact);
  }
  for (const [alias, name] of aliases) {
    const fact = tensors.get(name);
    if (fact !== undefined) tensors.set(alias, fact);
  }
  return { tensors, unclear: held.size < parameters.length ? unclear : [] };
}

/** What an optimizer holds of all parameters, or of those of the one network of several that fits it. */
function mapOntoParts(
  optimizer: OptimizerDeclaration,
  parameters: readonly ModelParameter[],
  parts: readonly string[],
): OptimizerMapping<Fate> {
  const fates = chooseFates(optimizer);
  const whole = mapOptimizer(optimizer, parameters, fates);
  if (whole.kind === 'mapped' || parts.length === 1) return whole;
  const inside = (part: string) => parameters.filter(({ name }) => isUnder(name, part));
  const [only = whole, ...others] = parts
    .map((part) => mapOptimizer(optimizer, inside(part), fates))
    .filter(({ kind }) => kind === 'mapped');
  return others.length === 0 ? only : whole;
}

/** Tied tensors once, as `named_parameters` does; their other names stand for the first one of the same bytes. */
function listParameters(learned: ReadonlyMap<string, Tensor>): {
  readonly parameters: readonly ModelParameter[];
  readonly aliases: ReadonlyMap<string, string>;
} {
  const owners = new Map<unknown, Map<string, string>>();
  const aliases = new Map<string, string>();
  const parameters: ModelParameter[] = [];
  for (const [name, { range, shape }] of learned) {
    const key = `${range.offset} ${range.byteLength} ${shape.join()}`;
    const known = getOrMake(owners, range.source, () => new Map<string, string>());
    const owner = range.byteLength === 0 ? undefined : known.get(key);
    if (owner !== undefined) aliases.set(name, owner);
    else {
      known.set(key, name);
      parameters.push({ name, shape });
    }
  }
  return { parameters, aliases };
}

/**
 * What an optimizer does with its parameters. A learning rate of 0 freezes a group that started from it: schedules end
 * at 0, and so do all groups at once. Absent state tells once any parameter was stepped.
 */
function chooseFates(
  optimizer: OptimizerDeclaration,
): (parameter: OptimizerParameter, group: number) => Fate {
  const { groups } = optimizer;
  const isAnyLearning = groups.some(({ learningRate }) => learningRate !== 0);
  const hasStepped = groups.some(({ parameters }) => parameters.some(({ hasState }) => hasState));
  const isStill = ({ learningRate, initialLearningRate }: OptimizerGroup) =>
    learningRate === 0 && (initialLearningRate === null ? isAnyLearning : initialLearningRate === 0);
  return ({ hasState }, index) => {
    const group = groups[index];
    if (group === undefined) return null;
    if (isStill(group)) return 'lr-0';
    if (!hasStepped || !group.isStateTelling) return null;
    if (!hasState) return 'no-optimizer-state';
    return group.learningRate === 0 && group.initialLearningRate === null ? null : 'optimizer-state';
  };
}

/** Modules in each other: real paths have up to ten components. */
const MAX_COMPONENTS = 16;

function isBelow(name: string, paths: ReadonlySet<string>): boolean {
  const bare = withoutWrappers(name);
  if (paths.has('') || paths.has(bare)) return true;
  let dot = bare.indexOf('.');
  for (let count = 0; dot >= 0 && count < MAX_COMPONENTS; count++) {
    if (paths.has(bare.slice(0, dot))) return true;
    dot = bare.indexOf('.', dot + 1);
  }
  return false;
}

/**
 * Settings speak of one network by the names that it gives its modules. In a file of several these stand behind a prefix:
 * that of the one part that has such modules. Which one is meant of several that do, such as student and teacher, is not
 * said: of none is anything told.
 */
function placePaths(
  declaration: PathsDeclaration,
  { layers, learned }: LayersAndLearned,
  parts: readonly string[],
): readonly PathsDeclaration[] {
  const names = [...learned.keys(), ...layers.map(({ name }) => name)];
  const placed = ['', ...parts].map((part) => ({
    ...declaration,
    paths: declaration.paths.map((path) => joinPath(part, path)),
  }));
  const [plain, ...others] = placed.filter(({ paths }) => {
    const modules = new Set(paths);
    return names.some((name) => isBelow(name, modules));
  });
  return plain === undefined || (plain !== placed[0] && others.length > 0) ? [] : [plain];
}

function readPaths(
  { by, where, paths }: PathsDeclaration,
  { layers, learned }: LayersAndLearned,
): readonly (readonly [string, DeclaredTensor])[] {
  if (by === 'norm-eval') return [];
  const modules = new Set(paths);
  const norms = by === 'norm-cfg' ? new Set(layers.map(({ name }) => name)) : null;
  return [...learned.keys()]
    .filter((name) => isBelow(name, modules) && (norms === null || norms.has(splitPath(name)[0])))
    .map((name) => [name, { frozen: true, by, where }] as const);
}

/** What else than freezing puts norm layers in eval(): `norm_eval`, `frozen_stages`, Keras's `trainable=False`. */
function findEvalLayers({ by, paths }: PathsDeclaration, layers: readonly NormLayer[]): readonly string[] {
  if (by !== 'norm-eval' && by !== 'frozen-stages' && by !== 'keras-trainable') return [];
  const modules = new Set(paths);
  return layers.map(({ name }) => name).filter((name) => isBelow(name, modules));
}

/** What PEFT adds to a model, and the copies that it trains, by the beginning of a component. */
const ADAPTER_PARTS = ['lora_', 'ia3_', 'vera_', 'oft_', 'hada_', 'modules_to_save', 'adapter', 'prompt_'];

/**
 * Everything is frozen that is no part of the adapter and that the adapter cannot have been merged into: a weight of a
 * target that does not stand beside its adapter as `base_layer`.
 */
function readAdapter(
  { targets, saved, trainsBiases, where }: AdapterDeclaration,
  learned: ReadonlyMap<string, Tensor>,
): readonly (readonly [string, DeclaredTensor])[] {
  const [isTarget, isSaved] = [matchEnds(targets ?? []), matchEnds(saved)];
  return [...learned]
    .filter(([name, { shape, name: nameInFile }]) => {
      const [module, leaf] = splitPath(name);
      const components = module.split('.', MAX_COMPONENTS + 1);
      const isAdapter = nameInFile
        .split('.', MAX_COMPONENTS + 2)
        .some((one) => ADAPTER_PARTS.some((part) => one.startsWith(part)));
      if (isAdapter || isSaved(components) || (trainsBiases && leaf === 'bias')) return false;
      if (standsBesideAdapter(nameInFile)) return true;
      // A pattern is not run: any matrix may be meant by it.
      return targets === null ? shape.length < 2 : !isTarget(components);
    })
    .map(([name]) => [name, { frozen: true, by: 'peft-adapter', where }] as const);
}

/** Whether a module, or one that it lies in, ends in one of these paths; true for one too deep to tell. */
function matchEnds(ends: readonly string[]): (components: readonly string[]) => boolean {
  const known = new Set(ends);
  return (components) => {
    if (known.size === 0) return false;
    if (components.length > MAX_COMPONENTS) return true;
    for (let start = 0; start < components.length; start++) {
      let path = '';
      for (const component of components.slice(start)) {
        path = joinPath(path, component);
        if (known.has(path)) return true;
      }
    }
    return false;
  };
}

function describeLayers(
  { layers, learned }: LayersAndLearned,
  tensors: DeclaredTensors,
  evals: ReadonlyMap<string, string>,
): ReadonlyMap<string, DeclaredLayer> {
  const names = new Map(tensors.size === 0 ? [] : [...learned].map(([name, tensor]) => [tensor, name]));
  const described = new Map<string, DeclaredLayer>();
  // Layers whose feed may be anything share one list, which is as long as the file.
  const words = new Map<readonly string[], DeclaredTensor | null>();
  for (const { name, gamma, beta, neighbours } of layers) {
    const own = [storedTensorOf(gamma), storedTensorOf(beta)].flatMap((tensor) =>
      tensor === null ? [] : (names.get(tensor) ?? ''),
    );
    const telling = own.length === 0 ? neighbours : own;
    const affine = getOrMake(words, telling, () => findOneWord(telling, tensors));
    const layer = { affine, evalBy: evals.get(name) ?? null };
    if (layer.affine !== null || layer.evalBy !== null) described.set(name, layer);
  }
  return described;
}

/** What is said of all these tensors alike; null where nothing or more than one thing is. */
function findOneWord(names: readonly string[], tensors: DeclaredTensors): DeclaredTensor | null {
  const first = tensors.get(names[0] ?? '');
  if (first === undefined) return null;
  return names.every((name) => tensors.get(name)?.frozen === first.frozen) ? first : null;
}
