import { feedersUnder, gives, kindOf, type Place, pathBelow, takes } from './module-tree.js';
import { LAST_NUMBER } from './naming.js';
import type { NormLayer } from './norm-layer.js';

/** A norm layer's place, and the nearest place above it that feeders lie under. */
export interface ScopedLayer {
  readonly layer: NormLayer;
  readonly place: Place;
  readonly scope: Place;
}

/** What a norm layer's name says of what feeds it. */
export interface NamedFeed {
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
export function findNamedFeeds(layers: readonly ScopedLayer[]): ReadonlyMap<NormLayer, NamedFeed> {
  const index = new FeederIndex();
  const series = [
    ...groupBy(layers.map(nameLayer), ({ kind, depth, stem }) => `${kind} ${depth} ${stem}`),
  ].map(([, members]) => judgeSeries(members, index));
  const isAfterAlways = areAfter(series);
  const feeds = new Map<NormLayer, NamedFeed>();
  for (const fellows of groupBy(series, ({ kind }) => kind).values()) {
    const isAfterHere = isAfterAlways || areAfter(fellows);
    for (const { members, stems, order } of fellows) {
      if (order !== 'after' && order !== 'either') continue;
      for (const member of members) {
        // A name without a number says little where there is more than one feeder.
        const isTelling = member.key !== '' || member.scope.feederCount === 1;
        const isCertain = order === 'after' || (isTelling && isAfterHere);
        const feed = { ...findFeed(member, stems, index), isCertain };
        if (feed.feeders.length > 0) feeds.set(member.layer, feed);
      }
    }
  }
  return feeds;
}

/** A norm layer by its name below its scope. */
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

function nameLayer(scoped: ScopedLayer): NamedLayer {
  const path = pathBelow(scoped.scope, scoped.place);
  return { ...scoped, kind: kindOf(scoped.scope), depth: path.length, ...nameSeries(path) };
}

function areAfter(series: readonly Series[]): boolean {
  return series.some(({ order }) => order === 'after') && series.every(({ order }) => order !== 'before');
}

function judgeSeries(members: readonly NamedLayer[], index: FeederIndex): Series {
  const [first] = members;
  const { kind = '', stem = '', key = '' } = first ?? {};
  const unknown: Series = { members, kind, stems: new Set(), order: 'unknown' };
  if (key === '' && !NORM_WORD.test(stem)) return unknown;
  const pairs = pairByNumber(members, index);
  const listStems = (test: typeof gives) =>
    [...pairs].filter(([, all]) => all.every(({ layer, feeders }) => hasAny(feeders, test, layer.channels)));
  const [giving, taking] = [listStems(gives), new Set(listStems(takes).map(([name]) => name))];
  if (giving.length === 0) return { ...unknown, order: taking.size > 0 ? 'before' : 'unknown' };
  const stems = chooseByName(stem, giving);
  if (key === '' && stems.size > 1) return unknown;
  const mayTake = [...stems].some((name) => taking.has(name)) && !isListWithLast(members, stems, index);
  // `norm` stands beside `proj_in`, which takes what it gives, and `proj_out`, which has as many outputs.
  const isRivalled = key === '' && !stems.has(bareName(stem)) && taking.size > 0;
  if (!mayTake && !isRivalled) return { members, kind, stems, order: 'after' };
  return { members, kind, stems, order: haveLastAlone(members, stems, index) ? 'before' : 'either' };
}

/** Whether a layer is left over at the end: `bn1`, `conv1`, `bn2`, `conv2`, `bn3`. */
function haveLastAlone(
  members: readonly NamedLayer[],
  stems: ReadonlySet<string>,
  index: FeederIndex,
): boolean {
  return members.some(
    (member) =>
      findFeed(member, stems, index).feeders.length === 0 &&
      findFeed(member, stems, index).earlier.length > 0,
  );
}

interface NumberedPair {
  readonly layer: NormLayer;
  readonly feeders: readonly Place[];
}

/** Stems of one number that are told apart; a file of more is held against each layer's own name alone. */
const MAX_STEMS = 256;

/** For each stem of feeders, those that have the same numbers as a layer of the series. */
function pairByNumber(members: readonly NamedLayer[], index: FeederIndex): Map<string, NumberedPair[]> {
  const pairs = new Map<string, NumberedPair[]>();
  for (const { layer, scope, depth, stem: own, key } of members) {
    const byStem = index.find(scope, depth, key);
    const stems = byStem.size > MAX_STEMS ? [bareName(own)] : byStem.keys();
    for (const stem of stems) {
      const feeders = byStem.get(stem);
      if (feeders !== undefined) addTo(pairs, stem, { layer, feeders });
    }
  }
  return pairs;
}

function hasAny(places: readonly Place[], test: typeof gives, channels: number): boolean {
  return places.some(({ feeder }) => feeder !== null && test(feeder, channels));
}

/** Whether these are lists whose last feeder has no norm layer: `bns.0`, `bns.1` beside `convs.0` to `convs.2`. */
function isListWithLast(
  members: readonly NamedLayer[],
  stems: ReadonlySet<string>,
  index: FeederIndex,
): boolean {
  return [...groupBy(members, ({ scope }) => scope)].every(([scope, layers]) => {
    const { depth = 0, stem = '' } = layers[0] ?? {};
    const own = layers.map(({ key }) => lastNumber(key));
    const theirs = index.listKeys(scope, depth, stems).map(lastNumber);
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
  const isConvolution = ({ feeder }: Place) => (feeder?.shape.length ?? 0) > 2;
  for (const test of [isSingle, ({ feeders }: NumberedPair) => feeders.every(isConvolution)]) {
    const better = chosen.filter(([, pairs]) => pairs.every(test));
    if (better.length > 0) chosen = better;
  }
  return new Set(chosen.map(([stem]) => stem));
}

function isSingle({ feeders }: NumberedPair): boolean {
  return feeders.length === 1;
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
  index: FeederIndex,
): Omit<NamedFeed, 'isCertain'> {
  const at = (wanted: string) =>
    [...index.find(scope, depth, wanted)].flatMap(([stem, feeders]) => (stems.has(stem) ? feeders : []));
  const feeders = at(key).filter((place) => hasAny([place], gives, layer.channels));
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

/** The feeders below places, by the numbers and the stems of the beginnings of their names. */
class FeederIndex {
  readonly #known = new Map<Place, Map<number, ReadonlyMap<string, ReadonlyMap<string, readonly Place[]>>>>();

  /** Feeders by stem, whose names, as deep as the layer's, have the same numbers. */
  find(scope: Place, depth: number, key: string): ReadonlyMap<string, readonly Place[]> {
    return this.#at(scope, depth).get(key) ?? new Map();
  }

  /** The numbers of all feeders of some stems. */
  listKeys(scope: Place, depth: number, stems: ReadonlySet<string>): readonly string[] {
    return [...this.#at(scope, depth)].flatMap(([key, byStem]) =>
      [...byStem.keys()].some((stem) => stems.has(stem)) ? [key] : [],
    );
  }

  #at(scope: Place, depth: number): ReadonlyMap<string, ReadonlyMap<string, readonly Place[]>> {
    const byDepth = this.#known.get(scope) ?? new Map();
    this.#known.set(scope, byDepth);
    const known = byDepth.get(depth);
    if (known !== undefined) return known;
    const byKey = new Map<string, Map<string, Place[]>>();
    for (const place of feedersUnder(scope)) {
      const path = pathBelow(scope, place);
      const { stem, key } = nameSeries(path.slice(0, depth));
      // Without a number, a name says nothing of what lies deeper.
      if (path.length === 0 || (key === '' && path.length !== depth)) continue;
      const byStem = byKey.get(key) ?? new Map<string, Place[]>();
      byKey.set(key, byStem);
      addTo(byStem, stem, place);
    }
    byDepth.set(depth, byKey);
    return byKey;
  }
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

function addTo<Key, Item>(groups: Map<Key, Item[]>, key: Key, item: Item): void {
  const group = groups.get(key);
  if (group === undefined) groups.set(key, [item]);
  else group.push(item);
}
