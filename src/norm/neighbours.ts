import type { Tensor } from '../checkpoint/checkpoint.js';
import {
  buildModuleTree,
  feedersUnder,
  gives,
  givesTransposed,
  isWithin,
  kindOf,
  type Place,
  pathBelow,
  takes,
} from './module-tree.js';
import { findNamedFeeds, type NamedFeed, type ScopedLayer } from './name-series.js';
import { LAST_NUMBER } from './naming.js';
import type { NormLayer } from './norm-layer.js';

/** What names tell of the learned tensors that feed a norm layer. */
export interface Neighbours {
  /** Names of learned tensors, of the likeliest module first. */
  readonly names: readonly string[];
  /** Whether these feed the layer. Else some of them do, and only what is true of all modules is known of the feed. */
  readonly areCertain: boolean;
}

/** Modules that one norm layer's feed is looked for among; where there are more, it may be any of the file. */
const MAX_CANDIDATES = 256;

/**
 * What feeds each norm layer, told from names, widths and, where the file has kept it, the order of modules. The first
 * that applies:
 *
 * 1. the module that goes with the layer by name, where widths show that it comes before the layer and not after it;
 * 2. the module right before the layer, in module order or by number in a list, that has as many outputs;
 * 3. no module for certain: those around the layer, and what comes before them.
 *
 * Only modules with a weight of two dimensions or more feed; slopes and scales between them and the layer do not count.
 *
 * @param learned the checkpoint's learned tensors by dotted name.
 * @param positions where each module stands in module order; null where the file has lost that order.
 */
export function findNamedNeighbours(
  layers: readonly NormLayer[],
  learned: ReadonlyMap<string, Tensor>,
  positions: ReadonlyMap<string, number> | null,
): ReadonlyMap<NormLayer, Neighbours> {
  const { root, placeOf } = buildModuleTree(layers, learned);
  if (root.feederCount === 0) return new Map();
  const scoped = [...placeOf].map(([layer, place]) => ({ layer, place, scope: findScope(place) }));
  const feeds = findNamedFeeds(scoped);
  const search = positions === null ? new NumberSearch() : new OrderSearch(root, scoped, positions);
  const all = feedersUnder(root);
  const everything = listTensors(all);
  return new Map(
    scoped.map((each): [NormLayer, Neighbours] => {
      const named = feeds.get(each.layer) ?? null;
      const before = search.findBefore(each);
      const certain = chooseCertain(each, { named, before });
      if (certain !== null) return [each.layer, { names: listTensors([certain]), areCertain: true }];
      const candidates = listCandidates(each, { named, before, search, all });
      const names = candidates === null ? everything : listTensors(candidates);
      return [each.layer, { names, areCertain: false }];
    }),
  );
}

/** The nearest place above a norm layer that feeders lie under. */
function findScope(place: Place): Place {
  let scope = place.parent ?? place;
  while (scope.feederCount === 0 && scope.parent !== null) scope = scope.parent;
  return scope;
}

function listTensors(places: readonly Place[]): readonly string[] {
  return [...new Set(places)].flatMap(({ feeder }) => feeder?.tensors ?? []);
}

/** The module right before a norm layer, if it has as many outputs. */
interface Before {
  readonly place: Place;
  /** Whether the order of definition leaves no doubt that it runs right before. */
  readonly isCertain: boolean;
}

/** How what comes before a norm layer is found. */
interface Search {
  findBefore(each: ScopedLayer): Before | null;
  /** What may come before everything in the layer's scope; null where that may be anything. */
  listOutside(each: ScopedLayer): readonly Place[] | null;
  /** Whether a feeder was defined after the layer. */
  isLater(feeder: Place, each: ScopedLayer): boolean;
}

interface Evidence {
  readonly named: NamedFeed | null;
  readonly before: Before | null;
}

function chooseCertain(each: ScopedLayer, { named, before }: Evidence): Place | null {
  if (named?.isCertain === true) return named.feeders.length === 1 ? (named.feeders[0] ?? null) : null;
  if (before?.isCertain !== true) return null;
  // What widths leave open, the order of definition does too: `norm` may come before the `conv` that was defined first.
  if (named?.feeders.includes(before.place) === true) return null;
  return mayFollow(each, before.place) ? null : before.place;
}

/** Whether the part of the scope that stands before a layer may take what the layer gives. */
function mayFollow({ layer, place, scope }: ScopedLayer, before: Place): boolean {
  const [name = ''] = pathBelow(scope, before);
  const [own = ''] = pathBelow(scope, place);
  if (isIndex(name) && isIndex(own)) return false;
  const part = scope.children.get(name);
  if (part === undefined) return false;
  if (part.feederCount > MAX_CANDIDATES) return true;
  return feedersUnder(part).some(({ feeder }) => feeder !== null && takes(feeder, layer.channels));
}

/** What may feed a layer, the likeliest first; null where all that a large file has may. */
function listCandidates(
  each: ScopedLayer,
  { named, before, search, all }: Evidence & { readonly search: Search; readonly all: readonly Place[] },
): readonly Place[] | null {
  if (named?.isCertain === true) return named.feeders;
  const likeliest = [...(before === null ? [] : [before.place]), ...(named?.feeders ?? [])];
  const outside = search.listOutside(each);
  if (outside === null || each.scope.feederCount > MAX_CANDIDATES)
    return all.length > MAX_CANDIDATES ? null : [...likeliest, ...all];
  const inside = feedersUnder(each.scope).filter(
    (one) => fits(one, each.layer) || !search.isLater(one, each),
  );
  const around = [...inside, ...outside];
  return [...likeliest, ...around.filter((place) => fits(place, each.layer)), ...around];
}

function fits({ feeder }: Place, { channels }: NormLayer): boolean {
  return feeder !== null && (gives(feeder, channels) || givesTransposed(feeder, channels));
}

function isIndex(name: string): boolean {
  return /^\d+$/.test(name);
}

function isNumbered({ name }: Place): boolean {
  return /\d$/.test(name);
}

/** Where the order of modules is lost: numbers tell some of it. */
class NumberSearch implements Search {
  readonly #byNumber = new Map<Place, ReadonlyMap<number, readonly Place[]>>();

  /** In a list such as `nn.Sequential`, what has the next lower index. */
  findBefore({ layer, place, scope }: ScopedLayer): Before | null {
    const [name = ''] = pathBelow(scope, place);
    if (!isIndex(name) || !scope.children.has(name)) return null;
    const earlier = findLower(
      scope,
      '',
      Number(name),
      (other) => other.layer !== null || other.feederCount > 0,
    );
    const [only, ...others] = earlier === null || earlier.feederCount > 1 ? [] : feedersUnder(earlier);
    return only === undefined || others.length > 0 || !fits(only, layer)
      ? null
      : { place: only, isCertain: true };
  }

  isLater(): boolean {
    return false;
  }

  /** What lies around a layer, up to where numbers tell what comes before that. */
  listOutside({ layer, scope }: ScopedLayer): readonly Place[] | null {
    for (let place = scope; place.parent !== null; place = place.parent) {
      if (place.feederCount > MAX_CANDIDATES) return null;
      const beside = this.#listBeside(place, place.parent);
      if (beside.length === 0) continue;
      const count = beside.reduce((sum, { feederCount }) => sum + feederCount, place.feederCount);
      if (count > MAX_CANDIDATES) return null;
      const fitting = listBesideList(place.parent).filter((each) => fits(each, layer));
      return [...[place, ...beside].flatMap(feedersUnder), ...fitting];
    }
    return null;
  }

  /** Siblings with the next lower number, `layer1` and `transition1` for `layer2`, and those with the same. */
  #listBeside(place: Place, parent: Place): readonly Place[] {
    const digits = LAST_NUMBER.exec(place.name)?.[0];
    if (digits === undefined) return [];
    const stem = place.name.slice(0, -digits.length);
    const earlier = findLower(parent, stem, Number(digits), ({ feederCount }) => feederCount > 0);
    if (earlier === null) return [];
    const byNumber = this.#byNumber.get(parent) ?? groupByNumber(parent);
    this.#byNumber.set(parent, byNumber);
    const lower = Number(LAST_NUMBER.exec(earlier.name)?.[0]);
    return [...(byNumber.get(lower) ?? []), ...(byNumber.get(Number(digits)) ?? [])].filter(
      (each) => each !== place,
    );
  }
}

/** Modules without weights (activations, pools) that may stand between two in a list. */
const MAX_GAP = 16;

/** The child with the next lower number that passes. */
function findLower(
  parent: Place,
  stem: string,
  number: number,
  test: (place: Place) => boolean,
): Place | null {
  for (let lower = number - 1; lower >= 0 && number - lower <= MAX_GAP; lower--) {
    const child = parent.children.get(`${stem}${lower}`);
    if (child !== undefined && test(child)) return child;
  }
  return null;
}

function groupByNumber(parent: Place): ReadonlyMap<number, readonly Place[]> {
  const groups = new Map<number, Place[]>();
  for (const child of parent.children.values()) {
    const digits = LAST_NUMBER.exec(child.name)?.[0];
    if (digits === undefined || child.feederCount === 0) continue;
    groups.set(Number(digits), [...(groups.get(Number(digits)) ?? []), child]);
  }
  return groups;
}

/** Items of a list may run side by side: what feeds them all lies beside the list. */
function listBesideList(list: Place): readonly Place[] {
  if (list.parent === null || isNumbered(list)) return [];
  if (list.parent.feederCount - list.feederCount > MAX_CANDIDATES) return [];
  return [...list.parent.children.values()].filter((each) => each !== list).flatMap(feedersUnder);
}

/** Feeders and norm layers in the order of the file: that of their definition. */
class OrderSearch implements Search {
  readonly #entries: readonly Place[];
  readonly #indices: ReadonlyMap<Place, number>;
  /** Roles of norm layers of which some come first in their scope: what stands before others need not feed them. */
  readonly #leading: ReadonlySet<string>;

  constructor(root: Place, scoped: readonly ScopedLayer[], positions: ReadonlyMap<string, number>) {
    const positionOf = ({ path }: Place) => positions.get(path) ?? Number.POSITIVE_INFINITY;
    this.#entries = [...feedersUnder(root), ...scoped.map(({ place }) => place)]
      .map((place) => ({ place, position: positionOf(place) }))
      .sort((x, y) => x.position - y.position)
      .map(({ place }) => place);
    this.#indices = new Map(this.#entries.map((place, index) => [place, index]));
    this.#leading = new Set(scoped.filter((each) => this.#isFirst(each)).map(roleOf));
  }

  findBefore({ layer, place, scope }: ScopedLayer): Before | null {
    const index = this.#indices.get(place) ?? 0;
    const [last, first, next] = [-2, -1, 1].map((step) => this.#within(index + step, scope));
    if (first?.feeder == null || !fits(first, layer)) return null;
    // `conv1`, `conv2`, `bn1`, `bn2`: grouped by class, which says nothing of what feeds which.
    const isGrouped = last?.feeder != null && next?.layer != null;
    const isCertain =
      !isGrouped && !isInNormList(place, scope) && !this.#leading.has(roleOf({ place, scope }));
    return { place: first, isCertain };
  }

  /**
   * The nearest feeder before the scope in its parent, and so on outwards, up to one that fits. A numbered place follows
   * on the one before it; another may run beside what stands before it, so that all that fits there counts.
   */
  listOutside({ layer, place, scope }: ScopedLayer): readonly Place[] | null {
    const found: Place[] = [];
    const index = this.#indices.get(place) ?? 0;
    let outer = scope;
    let [isNearest, isSettled] = [true, false];
    for (let back = index - 1; back >= 0 && index - back <= MAX_STEPS_BACK; back--) {
      const entry = this.#entries[back];
      if (entry?.feeder == null || isWithin(entry, outer)) continue;
      while (outer.parent !== null && !isWithin(entry, outer.parent)) {
        outer = outer.parent;
        isNearest = true;
      }
      const doesFit = gives(entry.feeder, layer.channels);
      if (doesFit ? isNearest || !isNumbered(outer) : isNearest && !isSettled) found.push(entry);
      isSettled ||= doesFit && isNearest && isNumbered(outer);
      isNearest = false;
    }
    return found.length > MAX_CANDIDATES ? null : found;
  }

  isLater(feeder: Place, { place }: ScopedLayer): boolean {
    return (this.#indices.get(feeder) ?? 0) > (this.#indices.get(place) ?? 0);
  }

  #isFirst({ place, scope }: ScopedLayer): boolean {
    for (let back = (this.#indices.get(place) ?? 0) - 1; ; back--) {
      const entry = this.#within(back, scope);
      if (entry === null || entry.feeder !== null) return entry === null;
    }
  }

  #within(index: number, scope: Place): Place | null {
    const entry = this.#entries[index];
    return entry !== undefined && isWithin(entry, scope) ? entry : null;
  }
}

/** What a norm layer is in places of one kind: `layer#.#` and `bn1`. */
function roleOf({ place, scope }: Pick<ScopedLayer, 'place' | 'scope'>): string {
  return `${kindOf(scope)} ${pathBelow(scope, place).join('.')}`;
}

/** Modules looked at before one norm layer: more than the largest of real models have in all. */
const MAX_STEPS_BACK = 2_000;

/** Whether a layer lies in a list of norm layers alone, as `bns.0` does. */
function isInNormList(place: Place, scope: Place): boolean {
  let list = place;
  while (list.parent !== null && list.parent !== scope) list = list.parent;
  return list !== place && list.children.size > 1;
}
