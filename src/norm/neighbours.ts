import type { Tensor } from '../checkpoint/checkpoint.js';
import { isUnder, splitPath } from './naming.js';
import type { NormLayer } from './norm-layer.js';

/** What the search for neighbours looks at. */
interface Surroundings {
  readonly modules: ModuleTree;
  /** Where each module stands in module order; null when the file has lost that order. */
  readonly positions: ReadonlyMap<string, number> | null;
}

/** A module that is no norm layer, with its own learned tensors (not those of its children). */
export interface Module {
  readonly path: string;
  readonly tensors: readonly string[];
  readonly weightShape: readonly number[];
  /** How many output channels the weight has, if it is no transposed convolution's. */
  readonly outputs: number;
}

/**
 * Names of the learned tensors that feed a norm layer, told from names alone. The first of these that yields any:
 *
 * 1. the nearest module before it, in module order, whose weight's first dimension is the channel count; where there
 *    is none, the nearest before it that can be a transposed convolution with so many outputs; where the file has lost
 *    the order, numbered siblings give it by their numbers, and `bn1` goes with `conv1`, `conv1_bn` with `conv1`;
 * 2. every sibling whose weight's first dimension is the channel count;
 * 3. every sibling whose weight has any such dimension;
 * 4. every learned tensor under the parent.
 *
 * Keras and Flax keep a kernel's outputs in its last dimension; for theirs, that is the first one meant here.
 */
export function findNamedNeighbours(layer: NormLayer, surroundings: Surroundings): readonly string[] {
  const { modules, siblings } = surroundings.modules.under(splitPath(layer.name)[0]);
  const feeds = ({ outputs }: Module) => outputs === layer.channels;
  const rules: readonly (() => readonly Module[])[] = [
    () => findNearestBefore(layer, { modules, siblings }, { feeds, positions: surroundings.positions }),
    () => siblings.filter(feeds),
    () => siblings.filter(({ weightShape }) => weightShape.includes(layer.channels)),
    () => modules,
  ];
  for (const rule of rules) {
    const tensors = rule().flatMap((module) => module.tensors);
    if (tensors.length > 0) return tensors;
  }
  return [];
}

/** Modules with learned tensors that are no norm layers, in file order, by what they lie under. */
export class ModuleTree {
  readonly #modules: readonly Module[];
  readonly #byParent = new Map<string, { modules: readonly Module[]; siblings: readonly Module[] }>();

  constructor(modules: readonly Module[]) {
    this.#modules = modules;
  }

  /** All modules under a path, and those right under it. Layers that share their parent share the answer. */
  under(parent: string): { readonly modules: readonly Module[]; readonly siblings: readonly Module[] } {
    const known = this.#byParent.get(parent);
    if (known !== undefined) return known;
    const modules = this.#modules.filter(({ path }) => isUnder(path, parent));
    const siblings = modules.filter(({ path }) => path !== parent && splitPath(path)[0] === parent);
    this.#byParent.set(parent, { modules, siblings });
    return { modules, siblings };
  }
}

/** Groups learned tensors by the module that owns them, norm layers left out. */
export function groupModules(
  learned: ReadonlyMap<string, Tensor>,
  isNormLayer: (path: string) => boolean,
): ModuleTree {
  const tensorsByModule = new Map<string, string[]>();
  for (const name of learned.keys()) {
    const [path] = splitPath(name);
    const tensors = tensorsByModule.get(path);
    if (tensors !== undefined) tensors.push(name);
    else if (!isNormLayer(path)) tensorsByModule.set(path, [name]);
  }
  const modules = [...tensorsByModule].map(([path, tensors]) => {
    const name = WEIGHT_LEAVES.map((leaf) => (path === '' ? leaf : `${path}.${leaf}`)).find((each) =>
      learned.has(each),
    );
    const weightShape = learned.get(name ?? tensors[0] ?? '')?.shape ?? [];
    return { path, tensors, weightShape, outputs: countOutputs(name ?? '', weightShape) };
  });
  return new ModuleTree(modules);
}

/** What frameworks call a module's weight; of a separable convolution, the one that gives its outputs goes first. */
const WEIGHT_LEAVES = ['weight', 'pointwise_kernel', 'kernel', 'depthwise_kernel', 'w'] as const;

/** PyTorch and Caffe2 count outputs first. Keras and Flax count them last, and depthwise ones per input channel. */
function countOutputs(name: string, shape: readonly number[]): number {
  const [, leaf] = splitPath(name);
  const [inputs = 0, last = 0] = shape.slice(-2);
  if (leaf === 'depthwise_kernel') return inputs * last;
  return (leaf.endsWith('kernel') ? shape.at(-1) : shape[0]) ?? 0;
}

/** The one module (or, by trailing number alone, the few) that comes right before the layer and can feed it. */
function findNearestBefore(
  layer: NormLayer,
  { modules, siblings }: { modules: readonly Module[]; siblings: readonly Module[] },
  { feeds, positions }: { feeds: (module: Module) => boolean; positions: Surroundings['positions'] },
): readonly Module[] {
  if (positions !== null) {
    const position = ({ path }: { path: string }) => positions.get(path) ?? Number.POSITIVE_INFINITY;
    const own = position({ path: layer.name });
    const earlier = modules.filter((module) => position(module) < own);
    const nearest = last(earlier.filter(feeds), position);
    return nearest.length > 0
      ? nearest
      : last(
          earlier.filter(({ weightShape }) => isTransposed(weightShape, layer.channels)),
          position,
        );
  }
  const [, leaf] = splitPath(layer.name);
  const leafOf = ({ path }: Module) => splitPath(path)[1];
  if (isIndex(leaf)) {
    const isBefore = (module: Module) => isIndex(leafOf(module)) && Number(leafOf(module)) < Number(leaf);
    return last(
      siblings.filter((module) => feeds(module) && isBefore(module)),
      (module) => Number(leafOf(module)),
    );
  }
  const feeding = siblings.filter(feeds);
  const feeder = leaf.includes('_') ? leaf.replace(NORM_TAIL, '') : null;
  const namesake = feeder === null ? [] : feeding.filter((module) => `${leafOf(module)}_` === feeder);
  return namesake.length > 0 ? namesake : findByNumber(leaf, feeding, leafOf);
}

/** A transposed convolution counts its outputs second. */
function isTransposed(shape: readonly number[], channels: number): boolean {
  return shape.length > 2 && shape[1] === channels;
}

/** What `conv1_bn` has more than `conv1`, the underscore aside. */
const NORM_TAIL = /(?:bn|batchnorm|batch_norm|norm)$/i;

/** `bn1` goes with `conv1`; where names are flat, `stage2_unit1_bn1` with the `conv1` of its own unit. */
function findByNumber(
  leaf: string,
  modules: readonly Module[],
  leafOf: (module: Module) => string,
): readonly Module[] {
  const number = trailingNumber(leaf);
  // Keras gives the first layer of a class no number.
  if (number === null && leaf !== 'batch_normalization') return [];
  const stemOf = (name: string) => name.replace(/[a-z]*\d+$/i, '');
  const numbered = modules.filter((module) => trailingNumber(leafOf(module)) === number);
  if (numbered.length < 2) return numbered;
  const own = numbered.filter((module) => stemOf(leafOf(module)) === stemOf(leaf));
  const named = own.length > 0 ? own : numbered;
  // Frameworks number each class by itself: `dense0` stands beside `conv0`, and batchnorm0 goes with the convolution.
  const convolutions = named.filter(({ weightShape }) => weightShape.length > 2);
  return convolutions.length > 0 ? convolutions : named;
}

function last(modules: readonly Module[], rank: (module: Module) => number): readonly Module[] {
  return [...modules].sort((x, y) => rank(y) - rank(x)).slice(0, 1);
}

function isIndex(name: string): boolean {
  return name !== '' && trailingNumber(name) === name;
}

/** The digits that a name ends with; null where it ends with none. */
function trailingNumber(name: string): string | null {
  let start = name.length;
  while (start > 0 && isDigit(name.charCodeAt(start - 1))) start--;
  return start === name.length ? null : name.slice(start);
}

function isDigit(code: number): boolean {
  return code >= 0x30 && code <= 0x39;
}
