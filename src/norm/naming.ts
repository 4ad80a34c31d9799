// How frameworks name norm layers and their tensors, and what the dots in a name mean.

import type { Checkpoint, Framework, Graph, Tensor } from '../checkpoint/checkpoint.js';

/**
 * Whether an exporter or converter made the name up, so that it says nothing about the model: `onnx::Conv_100`,
 * `/stem/Tile_output_0`, `val_9`, `_v_9`, `123`.
 */
export function isGeneratedName(name: string): boolean {
  return /^(\/|onnx::|_*val_\d|_v_\d+$|\d+$)|_output_\d+$/.test(name);
}

/**
 * How a framework names the tensors of a norm layer. Suffixes follow the module path directly, separator included.
 */
export interface NamingConvention {
  /** Whose names they are. Others write the same: MLX those of PyTorch, `tf.layers` its own in place of Keras's. */
  readonly framework: Framework;
  readonly mean: string;
  readonly variance: string;
  readonly gamma: readonly string[];
  readonly beta: readonly string[];
  readonly count: string | null;
  /** The framework's default epsilon. */
  readonly epsilon: number;
  /**
   * Whether a lone mean or variance is a norm layer that lost its other half. False where the names are too common
   * to mean anything alone.
   */
  readonly isDistinctive: boolean;
}

/** The epsilon to assume where no name tells a framework: PyTorch's, `torch.nn.BatchNorm2d(eps=1e-05)`. */
export const DEFAULT_EPSILON = 1e-5;

/** `keras.layers.BatchNormalization(epsilon=0.001)`. */
const KERAS_EPSILON = 1e-3;

/** What most conventions have in common. */
const USUAL = { count: null, epsilon: DEFAULT_EPSILON, isDistinctive: false } as const;

/** In order of preference: the first convention whose suffix fits decides. */
export const NAMING_CONVENTIONS: readonly NamingConvention[] = [
  {
    framework: 'pytorch',
    mean: '.running_mean',
    variance: '.running_var',
    gamma: ['.weight'],
    beta: ['.bias'],
    count: '.num_batches_tracked',
    epsilon: DEFAULT_EPSILON,
    isDistinctive: true,
  },
  {
    framework: 'keras',
    mean: '.moving_mean',
    variance: '.moving_variance',
    gamma: ['.gamma'],
    beta: ['.beta'],
    count: null,
    epsilon: KERAS_EPSILON,
    isDistinctive: true,
  },
  {
    ...USUAL,
    framework: 'keras',
    mean: '.moving_mean',
    variance: '.moving_var',
    gamma: ['.gamma', '.weight'],
    beta: ['.beta', '.bias'],
    epsilon: KERAS_EPSILON,
  },
  { ...USUAL, framework: 'flax', mean: '.mean', variance: '.var', gamma: ['.scale'], beta: ['.bias'] },
  {
    ...USUAL,
    framework: 'paddle',
    mean: '._mean',
    variance: '._variance',
    gamma: ['.weight', '..w_0'],
    beta: ['.bias', '..b_0'],
  },
  {
    ...USUAL,
    framework: 'mxnet',
    mean: '_moving_mean',
    variance: '_moving_var',
    gamma: ['.gamma'],
    beta: ['.beta'],
    epsilon: KERAS_EPSILON,
  },
  {
    ...USUAL,
    framework: 'mxnet',
    mean: '_running_mean',
    variance: '_running_var',
    gamma: ['.gamma'],
    beta: ['.beta'],
  },
  // `riv` reads "running inverse variance", but what Caffe2's SpatialBN keeps there is the variance itself.
  { ...USUAL, framework: 'caffe2', mean: '_rm', variance: '_riv', gamma: ['.s'], beta: ['.b'] },
];

/** How MXNet and Caffe2 end the names of running statistics: a file with such names has flat ones. */
const FLAT_STATISTIC = /_(?:running_mean|running_var|moving_mean|moving_var|rm|riv)(?::\d+)?$/;

/** How MXNet (`conv0_weight`) and Caffe2 (`conv1_w`) join what a layer has learned to its flat name. */
const FLAT_LEAF = /_(weight|bias|gamma|beta|[wbs])$/;

/** What Flax puts in front of a name. */
const COLLECTIONS = ['params.', 'batch_stats.'];

/**
 * A tensor's name as a dotted module path: TensorFlow's `:0` and the collection that Flax or MXNet put in front
 * (`params/`, `batch_stats/`, `arg:`, `aux:`) go, and the slashes of names that have no dots become dots. A name with
 * dots has its separators already; a slash in it belongs to a component.
 *
 * @param isFlat whether the file names running statistics as frameworks with flat names do: then `conv0_weight` is `conv0.weight`.
 */
export function toDottedName(name: string, isFlat = false): string {
  const bare = name.includes(':') ? name.replace(/^(?:arg|aux):/, '').replace(/:\d+$/, '') : name;
  const dotted = bare.includes('.') ? bare : bare.replaceAll('/', '.');
  const collection = COLLECTIONS.find((prefix) => dotted.startsWith(prefix)) ?? '';
  const path = dotted.slice(collection.length);
  return isFlat && !path.includes('.') ? path.replace(FLAT_LEAF, '.$1') : path;
}

/**
 * What wraps a model, or a part of it, without being one: DataParallel's and AveragedModel's `module`, torch.compile's,
 * FSDP's, activation checkpointing's and PEFT's attributes, around a layer with an adapter and around the copy of a module
 * that it trains, each with the dot behind it. A `base_layer` of numbered modules is none: DLA's stem is called so.
 */
const WRAPPERS =
  /(?<=^|\.)(?:module|base_layer(?!\.\d)|modules_to_save\.[^.]+|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\./g;

/** Wrappers that are told from modules in one name, several at each level of a deep model; each costs a look at it. */
const MAX_WRAPPERS = 64;

/**
 * A dotted name without the wrappers in it: `module.layer1._fsdp_wrapped_module.bn1.weight` is `layer1.bn1.weight`.
 *
 * @param kept paths of wrappers that stay, such as `module` and `module.layer1._fsdp_wrapped_module`.
 */
export function withoutWrappers(name: string, kept: ReadonlySet<string> = new Set()): string {
  if (!hasWrappers(name)) return name;
  let count = 0;
  return name.replace(WRAPPERS, (wrapper, start: number) => {
    const isKept = ++count > MAX_WRAPPERS || (kept.size > 0 && kept.has(pathOf(name, start, wrapper)));
    return isKept ? wrapper : '';
  });
}

function pathOf(name: string, start: number, wrapper: string): string {
  return name.slice(0, start + wrapper.length - 1);
}

/** Whether there are wrappers in a dotted name. Most names are told apart at a glance, in a fraction of the time. */
export function hasWrappers(name: string): boolean {
  return (name.includes('mod') || name.includes('base_layer.')) && name.search(WRAPPERS) >= 0;
}

function listWrappers(name: string): readonly string[] {
  const wrappers = [...name.matchAll(WRAPPERS)].slice(0, MAX_WRAPPERS);
  return wrappers.map(({ 0: wrapper, index }) => pathOf(name, index, wrapper));
}

/** The wrappers that no one calls a part of a model, and `module` where it holds all of it. */
const SURE_WRAPPERS =
  /(?<=^|\.)(?:base_layer|modules_to_save\.[^.]+|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\./g;
const LEADING_MODULES = /^(?:module\.)+/;

/**
 * A path, or a glob over paths, without what can be nothing but a wrapper. An inner `encoder.module` stays: it may be a
 * part of the encoder, and must not come to mean all of it.
 */
export function withoutSureWrappers(glob: string): string {
  const bare = `${glob}.`.replace(SURE_WRAPPERS, '').replace(LEADING_MODULES, '').slice(0, -1);
  return bare === '' ? glob : bare;
}

/** What frameworks call a module's weight; of a separable convolution, the one that gives its outputs goes first. */
export const WEIGHT_LEAVES = ['weight', 'pointwise_kernel', 'kernel', 'depthwise_kernel', 'w'] as const;

/** Whether a leaf is that of a weight which counts its outputs first, as PyTorch does; Keras and Flax count them last. */
export function isOutputsFirst(leaf: string): boolean {
  return leaf === 'weight' || leaf === 'w';
}

/** A name under a module path; the root's is `''`. */
export function joinPath(path: string, name: string): string {
  return path === '' ? name : `${path}.${name}`;
}

/** Splits a module path off its last component; the parent of a top-level module is `''`. */
export function splitPath(path: string): readonly [parent: string, leaf: string] {
  const dot = path.lastIndexOf('.');
  return dot < 0 ? ['', path] : [path.slice(0, dot), path.slice(dot + 1)];
}

/** Components of a path that are told apart; real models have some twenty, and each costs memory. */
const MAX_DEPTH = 64;

/** The components of a path; those of one too deep for a model are one at its end. */
export function componentsOf(path: string): readonly string[] {
  const components = path.split('.');
  if (components.length <= MAX_DEPTH) return components;
  return [...components.slice(0, MAX_DEPTH - 1), components.slice(MAX_DEPTH - 1).join('.')];
}

/** Whether a module path lies under another one or is it. The root, `''`, holds everything. */
export function isUnder(path: string, ancestor: string): boolean {
  const { length } = ancestor;
  return length === 0 || (path.startsWith(ancestor) && (path.length === length || path[length] === '.'));
}

/** The first of some names, and how many more there are: `"a", "b" and 3 more`. */
export function listFirst(names: readonly string[], most: number): string {
  const more = names.length > most ? ` and ${names.length - most} more` : '';
  return `${names.slice(0, most).join(', ')}${more}`;
}

/** The value of a key, made where there is none yet. */
export function getOrMake<Key, Value>(
  known: { get(key: Key): Value | undefined; set(key: Key, value: Value): unknown },
  key: Key,
  make: () => Value,
): Value {
  const found = known.get(key);
  if (found !== undefined) return found;
  const made = make();
  known.set(key, made);
  return made;
}

/** Adds to the group of a key. */
export function addTo<Key, Item>(groups: Map<Key, Item[]>, key: Key, item: Item): void {
  getOrMake(groups, key, () => []).push(item);
}

/** The number at the end of a name. A run of digits is looked at once, from its first one. */
export const LAST_NUMBER = /(?<!\d)\d+$/;

/**
 * Compares names as people order them: runs of digits by their value, so that `layer2` comes before `layer10`.
 */
export function compareNaturally(left: string, right: string): number {
  const pattern = /(\d+)|(\D+)/g;
  const leftParts = left.match(pattern) ?? [];
  const rightParts = right.match(pattern) ?? [];
  for (let i = 0; i < Math.min(leftParts.length, rightParts.length); i++) {
    const x = leftParts[i] ?? '';
    const y = rightParts[i] ?? '';
    if (x === y) continue;
    const difference = Number(x) - Number(y);
    if (!Number.isNaN(difference) && difference !== 0) return difference;
    return x < y ? -1 : 1;
  }
  return leftParts.length - rightParts.length || (left < right ? -1 : left > right ? 1 : 0);
}

/** Whether a file names a tensor as the original of a layer that PEFT has wrapped: `conv.base_layer.weight`. */
export function standsBesideAdapter(nameInFile: string): boolean {
  const components = nameInFile.split('.');
  return components.at(-2) === 'base_layer';
}

/** What the names of a checkpoint are read from. */
export type NameSource = Pick<Checkpoint, 'tensors' | 'graph'>;

interface Reading {
  /** Whether its names are flat, as those of MXNet and Caffe2 are. */
  readonly isFlat: boolean;
  /** Names that stay as they are: as dotted names, two of them would be the same. */
  readonly alike: ReadonlySet<string>;
  /** Paths of wrappers that are no mere wrappers: without them, two names would be the same. */
  readonly kept: ReadonlySet<string>;
  /** Whether every tensor is called by its own name: then none has to be kept a second time. */
  readonly isPlain: boolean;
}

/** Each checkpoint's, once found. */
const readings = new WeakMap<Checkpoint['tensors'], Reading>();
const dottedTensors = new WeakMap<Checkpoint['tensors'], ReadonlyMap<string, Tensor>>();

/**
 * The dotted name of a tensor of a checkpoint, by {@link toDottedName} and without wrappers. Names that come to the
 * same path (`bn.weight` and `params.bn.weight`, `x:0` and `x:1`, `bn.weight` and `module.bn.weight`) stay as they
 * are: none of them must hide another.
 */
export function dottedNameOf(name: string, checkpoint: NameSource): string {
  return withoutWrappers(wrappedNameOf(name, checkpoint), readingOf(checkpoint).kept);
}

/** The same with its wrappers, such as `module.layer1.bn1.weight`: as the file spells it, but for the separators. */
export function wrappedNameOf(name: string, checkpoint: NameSource): string {
  const { alike, isFlat } = readingOf(checkpoint);
  return alike.has(name) ? name : toDottedName(name, isFlat);
}

/** A module path, or a leading part of one, as the checkpoint's dotted names have it: without wrappers. */
export function modulePathOf(path: string, checkpoint: NameSource): string {
  return path === '' ? '' : withoutWrappers(`${path}.`, readingOf(checkpoint).kept).slice(0, -1);
}

/** The tensors of a checkpoint by their dotted names, in file order. */
export function dottedTensorsOf(checkpoint: NameSource): ReadonlyMap<string, Tensor> {
  const { tensors } = checkpoint;
  if (readingOf(checkpoint).isPlain) return tensors;
  const list = () => [...tensors].map(([name, tensor]) => [dottedNameOf(name, checkpoint), tensor] as const);
  return getOrMake(dottedTensors, tensors, () => new Map(list()));
}

function readingOf({ tensors, graph }: NameSource): Reading {
  return getOrMake(readings, tensors, () => findReading(tensors, graph));
}

function findReading(tensors: ReadonlyMap<string, Tensor>, graph: Graph | null): Reading {
  const names = [...tensors.keys()];
  const isFlat = names.some((name) => FLAT_STATISTIC.test(name) && !toDottedName(name).includes('.'));
  const areDotted = names.every((name) => toDottedName(name, isFlat) === name);
  const alike = areDotted ? NONE : findAlike(names, isFlat);
  const dotted = areDotted
    ? names
    : names.map((name) => (alike.has(name) ? name : toDottedName(name, isFlat)));
  const paths = [...dotted, ...listModulePaths(graph)];
  // Without wrappers, different names stay different.
  const areBare = !paths.some(hasWrappers);
  return { isFlat, alike, kept: areBare ? NONE : findKeptWrappers(paths), isPlain: areDotted && areBare };
}

const NONE: ReadonlySet<string> = new Set();

function findAlike(names: readonly string[], isFlat: boolean): ReadonlySet<string> {
  const byPath = new Map<string, string[]>();
  for (const name of names) addTo(byPath, toDottedName(name, isFlat), name);
  return new Set([...byPath.values()].filter(({ length }) => length > 1).flat());
}

/** Paths that a graph's nodes tell, each with a dot behind it: modules, so that no tensor is called the same. */
function listModulePaths(graph: Graph | null): readonly string[] {
  const { norms, linears } = graph ?? { norms: [], linears: [] };
  const paths = [
    ...norms.map(({ path }) => path),
    ...linears.flatMap(({ path, foldedNormPath }) => [path, foldedNormPath]),
  ];
  return paths.flatMap((path) => (path === null ? [] : `${path}.`));
}

function findKeptWrappers(names: readonly string[]): ReadonlySet<string> {
  const kept = new Set<string>();
  const owners = new Map<string, string>();
  for (const name of names) {
    const bare = withoutWrappers(name);
    const owner = owners.get(bare);
    if (owner === undefined) owners.set(bare, name);
    else if (owner !== name) for (const path of [owner, name].flatMap(listWrappers)) kept.add(path);
  }
  return kept;
}
