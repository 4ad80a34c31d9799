// Which weights stand before and after a norm layer, told from the order of names.

import type { Framework, Tensor } from '../checkpoint/checkpoint.js';
import { addTo, componentsOf, getOrMake, LAST_NUMBER, splitPath, WEIGHT_LEAVES } from './naming.js';
import type { NormLayer } from './norm-layer.js';

/** A norm layer's place, and the nearest place above it that feeders lie under. */
interface ScopedLayer {
  readonly layer: NamedNorm;
  readonly place: Place;
  readonly scope: Place;
}

/** What a norm layer's name says of what feeds it. */
interface NamedFeed {
  readonly feeders: readonly Place[];
  /** Whether they come before the layer; else they may as well be what it feeds. */
  readonly isCertain: boolean;
  /** Those numbered one lower: what feeds the layer if it comes before those of its own number. */
  readonly earlier: readonly Place[];
}

/**
 * Pairs norm layers with feeders by name: `bn1` with `conv1`, `conv1_bn` with `conv1`, `bns.3` with what lies under
 * `convs.3`. Names alone are no proof, for in a pre-activation block `bn1` comes before `conv1`. Widths are: in all
 * places of one kind (`layer#.#`) the feeders must have as many outputs as their norm layers have channels. Where they
 * always have as many inputs too, what the other series of the place tell decides, then those of the file.
 */
function findNamedFeeds(layers: readonly ScopedLayer[]): ReadonlyMap<NamedNorm, NamedFeed> {
  const named = layers.map(({ layer, place, scope }): NamedLayer => {
    const path = pathBelow(scope, place);
    const { stem, key } = nameSeries(path);
    return { layer, place, scope, kind: kindOf(scope), depth: path.length, stem, key };
  });
  const series = [...groupBy(named, ({ kind, depth, stem }) => `${kind} ${depth} ${stem}`).values()].map(
    (members) => judgeSeries(members),
  );
  const isAfterAlways = areAfter(series);
  const feeds = new Map<NamedNorm, NamedFeed>();
  for (const fellows of groupBy(series, ({ kind }) => kind).values()) {
    const isAfterHere = isAfterAlways || areAfter(fellows);
    for (const { members, stems, order } of fellows) {
      if (order !== 'after' && order !== 'either') continue;
      for (const member of members) {
        // A name without a number says little where there is more than one feeder.
        const isTelling = member.key !== '' || member.scope.feederCount === 1;
        const isCertain = order === 'after' || (isTelling && isAfterHere);
        const feed = { ...findFeed(member, stems), isCertain };
        if (feed.feeders.length > 0) feeds.set(member.layer, feed);
      }
    }
  }
  return feeds;
}

interface NamedLayer extends ScopedLayer {
  /** The kind of its scope: `layer#.#`. */
  readonly kind: string;
  /** How many components its name has. */
  readonly depth: number;
  /** Its name without numbers: `bn#`. */
  readonly stem: string;
  /** The numbers of its name. */
  readonly key: string;
}

/** Norm layers of one name in places of one kind. */
interface Series {
  readonly members: readonly NamedLayer[];
  readonly kind: string;
  /** The stems of the feeders that go with them. */
  readonly stems: ReadonlySet<string>;
  /** Whether the layers come after the feeders of their number or before; widths may allow either. */
  readonly order: 'after' | 'before' | 'either' | 'unknown';
}

function areAfter(series: readonly Series[]): boolean {
  return series.some(({ order }) => order === 'after') && series.every(({ order }) => order !== 'before');
}

function judgeSeries(members: readonly NamedLayer[]): Series {
  const [first] = members;
  const { kind = '', stem = '', key = '' } = first ?? {};
  const unknown: Series = { members, kind, stems: new Set(), order: 'unknown' };
  if (key === '' && !NORM_WORD.test(stem)) return unknown;
  const pairs = pairByNumber(members);
  const listStems = (test: typeof gives) =>
    [...pairs].filter(([, all]) =>
      all.every(({ layer, feeders }) => feeders.some((one) => passes(one, test, layer.channels))),
    );
  const [giving, taking] = [listStems(gives), new Set(listStems(takes).map(([name]) => name))];
  if (giving.length === 0) return { ...unknown, order: taking.size > 0 ? 'before' : 'unknown' };
  const stems = chooseByName(stem, giving);
  if (key === '' && stems.size > 1) return unknown;
  const mayTake = [...stems].some((name) => taking.has(name)) && !isListWithLast(members, stems);
  // `norm` stands beside `proj_in`, which takes what it gives, and `proj_out`, which has as many outputs.
  const isRivalled = key === '' && !stems.has(bareName(stem)) && taking.size > 0;
  if (!mayTake && !isRivalled) return { members, kind, stems, order: 'after' };
  // A layer is left over at the end: `bn1`, `conv1`, `bn2`, `conv2`, `bn3`.
  const isLastAlone = members.some((member) => {
    const { feeders, earlier } = findFeed(member, stems);
    return feeders.length === 0 && earlier.length > 0;
  });
  return { members, kind, stems, order: isLastAlone ? 'before' : 'either' };
}

interface NumberedPair {
  readonly layer: NamedNorm;
  readonly feeders: readonly Place[];
}

/** Stems of one number that are told apart; a file of more is held against each layer's own name alone. */
const MAX_STEMS = 256;

/** For each stem of feeders, those that have the same numbers as a layer of the series. */
function pairByNumber(members: readonly NamedLayer[]): Map<string, NumberedPair[]> {
  const pairs = new Map<string, NumberedPair[]>();
  for (const { layer, scope, depth, stem: own, key } of members) {
    const byStem = feedersBelow(scope, depth).get(key) ?? new Map<string, readonly Place[]>();
    const stems = byStem.size > MAX_STEMS ? [bareName(own)] : byStem.keys();
    for (const stem of stems) {
      const feeders = byStem.get(stem);
      if (feeders !== undefined) addTo(pairs, stem, { layer, feeders });
    }
  }
  return pairs;
}

function passes({ feeder }: Place, test: typeof gives, channels: number): boolean {
  return feeder !== null && test(feeder, channels);
}

/** Whether these are lists whose last feeder has no norm layer: `bns.0`, `bns.1` beside `convs.0` to `convs.2`. */
function isListWithLast(members: readonly NamedLayer[], stems: ReadonlySet<string>): boolean {
  return [...groupBy(members, ({ scope }) => scope)].every(([scope, layers]) => {
    const { depth = 0, stem = '' } = layers[0] ?? {};
    const own = layers.map(({ key }) => lastNumber(key));
    const theirs = [...feedersBelow(scope, depth)].flatMap(([key, byStem]) =>
      [...byStem.keys()].some((one) => stems.has(one)) ? lastNumber(key) : [],
    );
    return stem.endsWith('.#') && least(own) === least(theirs) && most(own) < most(theirs);
  });
}

/**
 * Of several stems those that have most in common with the layers' own; modules themselves before what lies deeper under
 * a name, convolutions before others.
 */
function chooseByName(
  own: string,
  giving: readonly (readonly [stem: string, pairs: readonly NumberedPair[]])[],
): ReadonlySet<string> {
  const bare = bareName(own);
  const rank = (stem: string) => (stem === bare ? Number.POSITIVE_INFINITY : countCommon(stem, bare));
  const best = most(giving.map(([stem]) => rank(stem)));
  let chosen = giving.filter(([stem]) => rank(stem) === best);
  const areConvolutions = (feeders: readonly Place[]) =>
    feeders.every(({ feeder }) => (feeder?.shape.length ?? 0) > 2);
  for (const test of [({ length }: readonly Place[]) => length === 1, areConvolutions]) {
    const better = chosen.filter(([, pairs]) => pairs.every(({ feeders }) => test(feeders)));
    if (better.length > 0) chosen = better;
  }
  return new Set(chosen.map(([stem]) => stem));
}

/** Longer than the names of real modules. */
const MAX_COMMON = 200;

/** How many characters two names begin with in common, as far as is looked. */
function countCommon(left: string, right: string): number {
  let length = 0;
  while (length < Math.min(left.length, MAX_COMMON) && left[length] === right[length]) length++;
  return length;
}

function findFeed(
  { layer, scope, depth, key }: NamedLayer,
  stems: ReadonlySet<string>,
): Omit<NamedFeed, 'isCertain'> {
  const at = (wanted: string) =>
    [...(feedersBelow(scope, depth).get(wanted) ?? [])].flatMap(([stem, feeders]) =>
      stems.has(stem) ? feeders : [],
    );
  const feeders = at(key).filter((place) => passes(place, gives, layer.channels));
  return {
    feeders: stems.size > 1 ? [...feeders, ...findAlike(layer.name, scope)] : feeders,
    earlier: key === '' ? [] : at(key.replace(LAST_NUMBER, (number) => String(Number(number) - 1))),
  };
}

/** Feeders that are looked through for each norm layer of a file with flat names. */
const MAX_ALIKE = 2_000;

/** Feeders whose flat names begin as a layer's does: `block4a_dwconv2` for `block4a_bn`. */
function findAlike(name: string, scope: Place): readonly Place[] {
  const beginning = name.slice(0, name.lastIndexOf('_') + 1);
  if (beginning === '' || scope.feederCount > MAX_ALIKE) return [];
  return feedersUnder(scope).filter(({ path }) => path.startsWith(beginning));
}

/** What says that a name is a norm layer's. */
const NORM_WORD = /batch_?norm(?:ali[sz]ation)?|bn|norm/;

/** `conv#` for `conv#_bn` or `bn_conv#`. */
function bareName(stem: string): string {
  return stem.replace(NORM_WORD, '').replace(/_{2,}/g, '_').replace(/^_|_$/g, '');
}

/** Feeders by the numbers and then by the stems of the beginnings of their names. */
type NumberedFeeders = ReadonlyMap<string, ReadonlyMap<string, readonly Place[]>>;

function feedersBelow(scope: Place, depth: number): NumberedFeeders {
  scope.numbered ??= new Map();
  return getOrMake(scope.numbered, depth, () => numberFeeders(scope, depth));
}

function numberFeeders(scope: Place, depth: number): NumberedFeeders {
  const byKey = new Map<string, Map<string, Place[]>>();
  for (const place of feedersUnder(scope)) {
    const path = pathBelow(scope, place);
    const { stem, key } = nameSeries(path.slice(0, depth));
    // Without a number, a name says nothing of what lies deeper.
    if (path.length === 0 || (key === '' && path.length !== depth)) continue;
    addTo(
      getOrMake(byKey, key, () => new Map()),
      stem,
      place,
    );
  }
  return byKey;
}

/**
 * A name as what is numbered and the numbers: `bns.#` and `/3` for `bns.3`. Dimensions and sizes (`conv2d`, `1x1`) are
 * no numbers; Keras gives the first of a class none, so that `conv2d` and `conv2d_1` are of one series.
 */
function nameSeries(path: readonly string[]): { readonly stem: string; readonly key: string } {
  const names = path.map((name) =>
    name
      .toLowerCase()
      .replace(/(conv|norm|bn)[123]d/g, '$1')
      .replace(/_?(?:(?<!\d)\d+x\d+|kxk)/g, ''),
  );
  const numbers = names.map((name) => (name.match(/\d+/g) ?? []).map(Number).join('.'));
  return {
    stem: names.join('.').replace(/\d+/g, '#').replace(/_#$/, ''),
    key: numbers.join('/').replace(/\/+$/, ''),
  };
}

function lastNumber(key: string): number {
  return Number(LAST_NUMBER.exec(key)?.[0] ?? Number.NaN);
}

function least(numbers: readonly number[]): number {
  return numbers.reduce((x, y) => Math.min(x, y), Number.POSITIVE_INFINITY);
}

function most(numbers: readonly number[]): number {
  return numbers.reduce((x, y) => Math.max(x, y), Number.NEGATIVE_INFINITY);
}

function groupBy<Key, Item>(items: readonly Item[], keyOf: (item: Item) => Key): Map<Key, Item[]> {
  const groups = new Map<Key, Item[]>();
  for (const item of items) addTo(groups, keyOf(item), item);
  return groups;
}

/** What names tell of the learned tensors that feed a norm layer. */
interface Neighbours {
  /** Names of learned tensors, of the likeliest module first. */
  readonly neighbours: readonly string[];
  /** Whether these feed the layer. Else some of them do, and only what is true of all modules is known of the feed. */
  readonly areNeighboursCertain: boolean;
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
 * @param framework which the model was trained with; null where that is not known.
 */
export function findNamedNeighbours(
  layers: readonly NamedNorm[],
  learned: ReadonlyMap<string, Tensor>,
  positions: ReadonlyMap<string, number> | null,
  framework: Framework | null = null,
): ReadonlyMap<NamedNorm, Neighbours> {
  const { root, placeOf } = buildModuleTree(layers, learned, framework === 'paddle');
  if (root.feederCount === 0) return new Map();
  const scoped = [...placeOf].map(([layer, place]) => ({ layer, place, scope: findScope(place) }));
  const feeds = findNamedFeeds(scoped);
  const search = positions === null ? new NumberSearch() : new OrderSearch(root, scoped, positions);
  const all = feedersUnder(root);
  const everything = listTensors(all);
  return new Map(
    scoped.map((each): [NamedNorm, Neighbours] => {
      const named = feeds.get(each.layer) ?? null;
      const before = search.findBefore(each);
      const certain = chooseCertain(each, { named, before });
      if (certain !== null)
        return [each.layer, { neighbours: listTensors([certain]), areNeighboursCertain: true }];
      const candidates = listCandidates(each, { named, before, search, all });
      const neighbours = candidates === null ? everything : listTensors(candidates);
      return [each.layer, { neighbours, areNeighboursCertain: false }];
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

type Search = NumberSearch | OrderSearch;

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
  return feedersUnder(part).some((one) => passes(one, takes, layer.channels));
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

function fits(place: Place, { channels }: NamedNorm): boolean {
  return passes(place, gives, channels) || passes(place, givesTransposed, channels);
}

function isIndex(name: string): boolean {
  return /^\d+$/.test(name);
}

function isNumbered({ name }: Place): boolean {
  return /\d$/.test(name);
}

/** Where the order of modules is lost: numbers tell some of it. */
class NumberSearch {
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

  /** Whether a feeder was defined after a layer. */
  isLater(_feeder: Place, _each: ScopedLayer): boolean {
    return false;
  }

  /** What lies around a layer, up to where numbers tell what comes before that; null where that may be anything. */
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
    const byNumber = getOrMake(this.#byNumber, parent, () =>
      groupBy(
        [...parent.children.values()].filter(({ feederCount }) => feederCount > 0),
        ({ name }) => lastNumber(name),
      ),
    );
    return [lastNumber(earlier.name), Number(digits)]
      .flatMap((number) => byNumber.get(number) ?? [])
      .filter((each) => each !== place);
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

/** Items of a list may run side by side: what feeds them all lies beside the list. */
function listBesideList(list: Place): readonly Place[] {
  if (list.parent === null || isNumbered(list)) return [];
  if (list.parent.feederCount - list.feederCount > MAX_CANDIDATES) return [];
  return [...list.parent.children.values()].filter((each) => each !== list).flatMap(feedersUnder);
}

/** Feeders and norm layers in the order of the file: that of their definition. */
class OrderSearch {
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

/** A norm layer, as far as what stands around it is told from names and widths. */
type NamedNorm = Pick<NormLayer, 'name' | 'channels'>;

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
interface Place {
  /** The last component of its path. */
  readonly name: string;
  readonly parent: Place | null;
  children: Map<string, Place>;
  feeder: Feeder | null;
  layer: NamedNorm | null;
  /** How many feeders are here and below. */
  feederCount: number;
  /** The path of the module that is here. */
  path: string;
  /** Its feeders by how deep names are looked at, once asked for. */
  numbered: Map<number, NumberedFeeders> | null;
}

/** Most places are leaves, and a Map of its own for each would be the larger half of the tree. */
const NO_CHILDREN: Map<string, Place> = new Map();

/**
 * The tree of a file's norm layers and of what may feed them.
 *
 * @param learned the checkpoint's learned tensors by dotted name.
 */
function buildModuleTree(
  layers: readonly NamedNorm[],
  learned: ReadonlyMap<string, Tensor>,
  isPaddle: boolean,
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
    // The Linear of PaddlePaddle counts its inputs first, its convolutions do not.
    const isTurned = isPaddle && feeder.shape.length === 2;
    place.feeder = isTurned ? { ...feeder, layout: 'outputs-last' } : feeder;
    for (let each: Place | null = place; each !== null; each = each.parent) each.feederCount++;
  }
  return { root, placeOf };
}

function newPlace(name: string, parent: Place | null): Place {
  return {
    name,
    parent,
    children: NO_CHILDREN,
    feeder: null,
    layer: null,
    feederCount: 0,
    path: '',
    numbered: null,
  };
}

function growTo(root: Place, path: string): Place {
  let place = root;
  for (const name of path === '' ? [] : componentsOf(path)) {
    const parent = place;
    if (parent.children === NO_CHILDREN) parent.children = new Map();
    place = getOrMake(parent.children, name, () => newPlace(name, parent));
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

function gives({ shape, layout }: Feeder, channels: number): boolean {
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

function takes({ shape, layout }: Feeder, channels: number): boolean {
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
function givesTransposed({ shape, layout }: Feeder, channels: number): boolean {
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
function feedersUnder(place: Place): readonly Place[] {
  const found: Place[] = [];
  const stack = [place];
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    if (next.feederCount === 0) continue;
    if (next.feeder !== null) found.push(next);
    stack.push(...[...next.children.values()].reverse());
  }
  return found;
}

function pathBelow(ancestor: Place, place: Place): readonly string[] {
  const names: string[] = [];
  for (let each: Place | null = place; each !== null && each !== ancestor; each = each.parent)
    names.push(each.name);
  return names.reverse();
}

function isWithin(place: Place, ancestor: Place): boolean {
  let each: Place | null = place;
  while (each !== null && each !== ancestor) each = each.parent;
  return each !== null;
}

/** What kind of place this is: `layer#.#` for `layer1.0`. */
function kindOf(place: Place): string {
  const names: string[] = [];
  for (let each = place; each.parent !== null; each = each.parent) names.push(each.name.replace(/\d+/g, '#'));
  return names.reverse().join('.');
}
