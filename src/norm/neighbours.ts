import type { Tensor } from '../checkpoint/checkpoint.js';
import { isUnder, splitPath } from './naming.js';
import type { NormLayer } from './norm-layer.js';

/** What the search for neighbours looks at. */
interface Surroundings {
  readonly layers: ReadonlyMap<string, NormLayer>;
  /** Learned tensors by dotted name, in file order. */
  readonly learned: ReadonlyMap<string, Tensor>;
  /** Where each module stands in module order; null when the file has lost that order. */
  readonly positions: ReadonlyMap<string, number> | null;
}

/** A module that is no norm layer, with its own learned tensors (not those of its children). */
interface Module {
  readonly path: string;
  /** Its first path component below the norm layer's parent. */
  readonly sibling: string;
  readonly isDirectSibling: boolean;
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
  const modules = findModules(parent, surroundings);
  const siblings = modules.filter(({ isDirectSibling }) => isDirectSibling);
  const feeds = ({ weightShape }: Module) => weightShape[0] === layer.channels;
  const rules: readonly (() => readonly Module[])[] = [
    () => findNearestBefore(layer, modules.filter(feeds), surroundings.positions),
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

/** The modules under `parent` that own learned tensors and are no norm layers, in file order; `parent` included. */
function findModules(parent: string, { layers, learned }: Surroundings): readonly Module[] {
  const tensorsByModule = new Map<string, string[]>();
  for (const name of learned.keys()) {
    const [path] = splitPath(name);
    if (!isUnder(path, parent) || layers.has(path)) continue;
    const tensors = tensorsByModule.get(path);
    if (tensors === undefined) tensorsByModule.set(path, [name]);
    else tensors.push(name);
  }
  const skipped = parent === '' ? 0 : parent.length + 1;
  return [...tensorsByModule].map(([path, tensors]) => {
    const below = path.slice(skipped);
    const [sibling = ''] = below.split('.');
    const weight = learned.get(path === '' ? 'weight' : `${path}.weight`) ?? learned.get(tensors[0] ?? '');
    return {
      path,
      sibling,
      isDirectSibling: sibling !== '' && sibling === below,
      tensors,
      weightShape: weight?.shape ?? [],
    };
  });
}

/** The one module (or, by trailing number alone, the few) among `candidates` that comes right before the layer. */
function findNearestBefore(
  layer: NormLayer,
  candidates: readonly Module[],
  positions: ReadonlyMap<string, number> | null,
): readonly Module[] {
  if (positions !== null) {
    const position = ({ path }: { path: string }) => positions.get(path) ?? Number.POSITIVE_INFINITY;
    const own = position({ path: layer.name });
    return last(
      candidates.filter((module) => position(module) < own),
      position,
    );
  }
  const siblings = candidates.filter(({ isDirectSibling }) => isDirectSibling);
  const [, leaf] = splitPath(layer.name);
  if (/^\d+$/.test(leaf)) {
    const numbered = siblings.filter(
      ({ sibling }) => /^\d+$/.test(sibling) && Number(sibling) < Number(leaf),
    );
    return last(numbered, ({ sibling }) => Number(sibling));
  }
  const number = trailingNumber(leaf);
  return number === null ? [] : siblings.filter(({ sibling }) => trailingNumber(sibling) === number);
}

function last(modules: readonly Module[], rank: (module: Module) => number): readonly Module[] {
  return [...modules].sort((x, y) => rank(y) - rank(x)).slice(0, 1);
}

function trailingNumber(name: string): string | null {
  return /\d+$/.exec(name)?.[0] ?? null;
}
