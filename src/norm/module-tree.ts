// The modules of a model as a tree, made from the dotted names of its tensors.

import type { Tensor } from '../checkpoint/checkpoint.js';
import { addTo, componentsOf, splitPath, WEIGHT_LEAVES } from './naming.js';
import type { NormLayer } from './norm-layer.js';

/** A norm layer, as far as what stands around it is told from names and widths. */
export type NamedNorm = Pick<NormLayer, 'name' | 'channels'>;

/** A module that may feed a norm layer: it has a weight of two dimensions or more, and is none itself. */
interface Feeder {
  /** Its own learned tensors, not those of its children. */
  readonly tensors: readonly string[];
  /** The shape of its weight. */
  readonly shape: readonly number[];
  readonly layout: WeightLayout;
}

/** Where a weight counts its outputs and inputs. A transposed convolution's counts its inputs first. */
type WeightLayout = 'outputs-first' | 'inputs-first' | 'outputs-last' | 'depthwise-last';

/** A place in the module tree: `''`, `layer1`, `layer1.0`, `layer1.0.conv1`. */
export interface Place {
  /** The last component of its path. */
  readonly name: string;
  readonly parent: Place | null;
  readonly children: ReadonlyMap<string, Place>;
  readonly feeder: Feeder | null;
  readonly layer: NamedNorm | null;
  /** How many feeders are here and below. */
  readonly feederCount: number;
  /** The path of the module that is here. */
  readonly path: string;
}

interface GrowingPlace extends Place {
  readonly parent: GrowingPlace | null;
  readonly children: Map<string, GrowingPlace>;
  feeder: Feeder | null;
  layer: NamedNorm | null;
  feederCount: number;
  path: string;
}

/**
 * The tree of a file's norm layers and of what may feed them.
 *
 * @param learned the checkpoint's learned tensors by dotted name.
 */
export function buildModuleTree(
  layers: readonly NamedNorm[],
  learned: ReadonlyMap<string, Tensor>,
): { readonly root: Place; readonly placeOf: ReadonlyMap<NamedNorm, Place> } {
  const root = newPlace('', null);
  const placeOf = new Map<NamedNorm, Place>();
  for (const layer of layers) {
    const place = growTo(root, layer.name);
    place.layer = layer;
    placeOf.set(layer, place);
  }
  for (const [path, feeder] of findFeeders(learned, new Set(layers.map(({ name }) => name)))) {
    const place = growTo(root, path);
    place.feeder = feeder;
    for (let each: GrowingPlace | null = place; each !== null; each = each.parent) each.feederCount++;
  }
  return { root, placeOf };
}

function newPlace(name: string, parent: GrowingPlace | null): GrowingPlace {
  return { name, parent, children: new Map(), feeder: null, layer: null, feederCount: 0, path: '' };
}

function growTo(root: GrowingPlace, path: string): GrowingPlace {
  let place = root;
  for (const name of path === '' ? [] : componentsOf(path)) {
    const child = place.children.get(name) ?? newPlace(name, place);
    place.children.set(name, child);
    place = child;
  }
  place.path = path;
  return place;
}

/** Learned tensors by the module that owns them, where that has a matrix. */
function findFeeders(
  learned: ReadonlyMap<string, Tensor>,
  layers: ReadonlySet<string>,
): ReadonlyMap<string, Feeder> {
  const tensorsByModule = new Map<string, string[]>();
  for (const name of learned.keys()) {
    const [path] = splitPath(name);
    if (!layers.has(path)) addTo(tensorsByModule, path, name);
  }
  const feeders = new Map<string, Feeder>();
  for (const [path, tensors] of tensorsByModule) {
    const matrices = tensors.filter((name) => (learned.get(name)?.shape.length ?? 0) > 1);
    const leaves = matrices.map((name) => splitPath(name)[1]);
    const leaf = WEIGHT_LEAVES.find((each) => leaves.includes(each)) ?? leaves[0];
    if (leaf === undefined) continue;
    const shape = learned.get(matrices[leaves.indexOf(leaf)] ?? '')?.shape ?? [];
    feeders.set(path, { tensors, shape, layout: findLayout(leaf, splitPath(path)[1]) });
  }
  return feeders;
}

/** How transposed convolutions are called. */
const TRANSPOSED = /transpose|deconv|convt|up_?conv|upsampl/i;

function findLayout(leaf: string, module: string): WeightLayout {
  if (leaf === 'depthwise_kernel') return 'depthwise-last';
  if (leaf.endsWith('kernel')) return 'outputs-last';
  return TRANSPOSED.test(module) ? 'inputs-first' : 'outputs-first';
}

/** Whether a module has so many outputs. */
export function gives({ shape, layout }: Feeder, channels: number): boolean {
  const [inputs = 0, last = 0] = shape.slice(-2);
  switch (layout) {
    case 'outputs-first':
      return shape[0] === channels;
    case 'inputs-first':
      return shape.length > 2 ? isGroupedSize(shape, channels) : shape[0] === channels;
    case 'outputs-last':
      // Keras 3 calls a depthwise kernel `kernel` as well: one output for each input.
      return last === channels || (shape.length > 2 && last === 1 && inputs === channels);
    case 'depthwise-last':
      return inputs * last === channels;
  }
}

/** Whether a module may have so many inputs. */
export function takes({ shape, layout }: Feeder, channels: number): boolean {
  switch (layout) {
    case 'outputs-first':
      return shape.length > 2 ? isGroupedSize(shape, channels) : shape[1] === channels;
    case 'inputs-first':
      return shape[0] === channels;
    case 'outputs-last':
    case 'depthwise-last':
      return shape.at(-2) === channels;
  }
}

/** Whether a module has so many outputs if it is a transposed convolution whose name does not say so. */
export function givesTransposed({ shape, layout }: Feeder, channels: number): boolean {
  return layout === 'outputs-first' && shape[1] === channels && shape.slice(2).some((size) => size > 1);
}

/**
 * Whether a convolution's second dimension stands for so many channels: it counts those of one group, and the first is a
 * multiple of the groups. Kernels of one point seldom have groups.
 */
function isGroupedSize([first = 0, second = 0, ...kernel]: readonly number[], channels: number): boolean {
  if (second === channels) return true;
  const mayHaveGroups = second === 1 || kernel.some((size) => size > 1);
  return mayHaveGroups && second > 0 && channels % second === 0 && first % (channels / second) === 0;
}

/** The places of feeders here and below, in the order of the file. */
export function feedersUnder(place: Place): readonly Place[] {
  const found: Place[] = [];
  const stack = [place];
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    if (next.feederCount === 0) continue;
    if (next.feeder !== null) found.push(next);
    stack.push(...[...next.children.values()].reverse());
  }
  return found;
}

/** The components of a place's path below an ancestor. */
export function pathBelow(ancestor: Place, place: Place): readonly string[] {
  const names: string[] = [];
  for (let each: Place | null = place; each !== null && each !== ancestor; each = each.parent) {
    names.push(each.name);
  }
  return names.reverse();
}

/** Whether a place is at an ancestor or below. */
export function isWithin(place: Place, ancestor: Place): boolean {
  for (let each: Place | null = place; each !== null; each = each.parent) if (each === ancestor) return true;
  return false;
}

/** What kind of place this is: `layer#.#` for `layer1.0`. */
export function kindOf(place: Place): string {
  const names: string[] = [];
  for (let each = place; each.parent !== null; each = each.parent) {
    names.push(each.name.replace(/\d+/g, '#'));
  }
  return names.reverse().join('.');
}
