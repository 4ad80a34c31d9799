import type { Tensor } from '../checkpoint/checkpoint.js';
import { isUnder, splitPath } from './naming.js';
import type { NormLayer } from './norm-layer.js';

/** What the search for neighbours looks at. */
interface Surroundings {
  /** Every module with learned tensors that is no norm layer, in file order. */
  readonly modules: readonly Module[];
  /** Where each module stands in module order; null when the file has lost that order. */
  readonly positions: ReadonlyMap<string, number> | null;
}

/** A module that is no norm layer, with its own learned tensors (not those of its children). */
export interface Module {
  readonly path: string;
  readonly tensors: readonly string[];
  readonly weightShape: readonly number[];
}

/**
 * Names of the learned tensors that feed a norm layer, told from names alone. The first of these that yields any:
 *
 * 1. the nearest module before it, in module order, whose weight's first dimension is the channel count; where the
 *    file has lost the order, numbered siblings give it by their numbers, and `bn1` goes with `conv1`;
 * 2. every sibling whose weight's first dimension is the channel count;
 * 3. every sibling whose weight has any such dimension;
 * 4. every learned tensor under the parent.
 */
export function findNamedNeighbours(layer: NormLayer, surroundings: Surroundings): readonly string[] {
  const [parent] = splitPath(layer.name);
  const modules = surroundings.modules.filter(({ path }) => isUnder(path, parent));
  const siblings = modules.filter(({ path }) => path !== parent && splitPath(path)[0] === parent);
  const feeds = ({ weightShape }: Module) => weightShape[0] === layer.channels;
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

/** Groups learned tensors by the module that owns them, norm layers left out. */
export function groupModules(
  learned: ReadonlyMap<string, Tensor>,
  isNormLayer: (path: string) => boolean,
): readonly Module[] {
  const tensorsByModule = new Map<string, string[]>();
  for (const name of learned.keys()) {
    const [path] = splitPath(name);
    const tensors = tensorsByModule.get(path);
    if (tensors !== undefined) tensors.push(name);
    else if (!isNormLayer(path)) tensorsByModule.set(path, [name]);
  }
  return [...tensorsByModule].map(([path, tensors]) => {
    const weight = learned.get(path === '' ? 'weight' : `${path}.weight`) ?? learned.get(tensors[0] ?? '');
    return { path, tensors, weightShape: weight?.shape ?? [] };
  });
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
    return last(
      modules.filter((module) => feeds(module) && position(module) < own),
      position,
    );
  }
  const [, leaf] = splitPath(layer.name);
  const leafOf = ({ path }: Module) => splitPath(path)[1];
  if (/^\d+$/.test(leaf)) {
    const isBefore = (module: Module) =>
      /^\d+$/.test(leafOf(module)) && Number(leafOf(module)) < Number(leaf);
    return last(
      siblings.filter((module) => feeds(module) && isBefore(module)),
      (module) => Number(leafOf(module)),
    );
  }
  const number = trailingNumber(leaf);
  if (number === null) return [];
  return siblings.filter((module) => feeds(module) && trailingNumber(leafOf(module)) === number);
}

function last(modules: readonly Module[], rank: (module: Module) => number): readonly Module[] {
  return [...modules].sort((x, y) => rank(y) - rank(x)).slice(0, 1);
}

function trailingNumber(name: string): string | null {
  return /\d+$/.exec(name)?.[0] ?? null;
}
