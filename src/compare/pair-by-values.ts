// Pairs layers and learned tensors by what they hold, where their names do not: a frozen backbone under new names.

import type { Tensor } from '../checkpoint/checkpoint.js';
import { quote } from '../errors.js';
import { addTo, compareNaturally, getOrMake, isUnder, listFirst, splitPath } from '../norm/naming.js';
import { type NormLayer, storedTensorOf } from '../norm/norm-layer.js';
import type { TensorPair } from './compare-learned.js';
import {
  findNamesake,
  IDENTITY,
  inOrderOf,
  type LayerPair,
  type Pairing,
  type PairingSide,
  type PrefixEdit,
  pairLayers,
  pairRepeated,
  RivalPrefixes,
  translateName,
} from './pair-layers.js';
import { type Content, haveLikeShapes, isTelling, recogniseTensors } from './tensor-equality.js';

/** One side of a pairing that may look into the tensors. */
interface ValuedSide extends PairingSide {
  /** Every tensor by dotted name, in file order; that of the model where the layers stand in it. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Learned tensors by dotted name. */
  readonly learned: ReadonlyMap<string, Tensor>;
}

/** Who goes with whom, by names and by values. */
export interface ValuedPairing extends Pairing {
  /** Learned tensors that go together whatever their names say. */
  readonly tensors: readonly TensorPair[];
  /** What the user should know about how layers were paired; plain sentences. */
  readonly remarks: readonly string[];
  /** What a layer that was left unpaired is nearest to, and why that is not it; a clause. */
  readonly explain: (layer: NormLayer, candidates: readonly NormLayer[]) => string | null;
}

/**
 * Pairs layers by name, prefix and position ({@link pairLayers}), then by values what that leaves: frozen tensors are
 * equal, so a layer goes with the one that has its γ and β, or is fed by the same weights.
 *
 * Values also decide between prefixes that fit equally well, and where a name leads to a layer that holds something
 * else, while its own values stand elsewhere (a renumbered `nn.Sequential`). Where names alone pair every layer, nothing
 * is looked into.
 *
 * @throws CheckpointError as {@link pairLayers}, or when a range cannot be read.
 */
async function pairWithValues(
  before: ValuedSide,
  after: ValuedSide,
  maps: readonly PrefixEdit[],
): Promise<ValuedPairing> {
  const named = pairByNames(before, after, maps);
  if (!(named instanceof RivalPrefixes)) {
    const pairing = await pairRepeated(named);
    if (arePairedByName(pairing) || before.layers.length === 0 || after.layers.length === 0)
      return { ...pairing, tensors: [], remarks: [], explain: () => null };
    return pairRest(pairing, await Evidence.gather(before, after));
  }
  const evidence = await Evidence.gather(before, after);
  const chosen = chooseRival(named, evidence);
  const pairing =
    chosen === null
      ? { pairs: [], onlyBefore: before.layers, onlyAfter: after.layers, edits: [IDENTITY] }
      : await pairRepeated(pairLayers(before, after, maps, [chosen.edit]));
  const whole = pairRest(pairing, evidence);
  if (whole.pairs.length === 0) throw named;
  const remarks = chosen === null ? [] : [chosen.remark];
  return { ...whole, remarks: [...remarks, ...whole.remarks] };
}

/** Pairs by names alone; what they cannot tell is returned, since values may. */
function pairByNames(
  before: ValuedSide,
  after: ValuedSide,
  maps: readonly PrefixEdit[],
): Pairing | RivalPrefixes {
  try {
    return pairLayers(before, after, maps);
  } catch (error) {
    if (error instanceof RivalPrefixes) return error;
    throw error;
  }
}

/** Whether every layer has its partner by one rule that says nothing of single layers: a wrapper, or none. */
function arePairedByName({ pairs, onlyBefore, onlyAfter, edits }: Pairing): boolean {
  const isLeading = ({ from, to }: PrefixEdit) => from === '' || to === '';
  return (
    onlyBefore.length + onlyAfter.length === 0 &&
    (edits.every(isLeading) || pairs.every(({ pairedBy }) => pairedBy === 'map'))
  );
}

/** What a layer is known by; each is null where it is not known, or says nothing. */
interface Marks {
  /** γ and β. */
  readonly affine: string | null;
  /** The weights that feed it, as a graph or names tell. */
  readonly feed: string | null;
  /** The weight that stands before it in module order, which feeds it more often than not. */
  readonly preceding: string | null;
  /** All weights of the block that it stands in and that both sides have, whichever of them feeds it. */
  readonly block: string | null;
  readonly statistics: string | null;
}

const UNKNOWN: Marks = { affine: null, feed: null, preceding: null, block: null, statistics: null };

/** Weights of a block; where there are more, it is no block but a model, and says little of one layer. */
const MAX_BLOCK = 8;

/** What layers of two checkpoints are known by, whatever they are called. */
class Evidence {
  readonly before: ValuedSide;
  readonly after: ValuedSide;
  readonly contents: ReadonlyMap<Tensor, Content>;
  readonly #marks = new Map<NormLayer, Marks>();
  readonly #feeds = new Map<NormLayer, readonly Tensor[]>();
  /** Layers that stand behind a weight together with others. */
  readonly #inRow = new Set<NormLayer>();

  static async gather(before: ValuedSide, after: ValuedSide): Promise<Evidence> {
    const list = ({ learned, layers }: ValuedSide) => [
      ...learned.values(),
      ...layers.flatMap(({ gamma, beta, mean, variance }) =>
        [gamma, beta, mean, variance].flatMap((part) => storedTensorOf(part) ?? []),
      ),
    ];
    return new Evidence(before, after, await recogniseTensors(list(before), list(after)));
  }

  constructor(before: ValuedSide, after: ValuedSide, contents: ReadonlyMap<Tensor, Content>) {
    this.before = before;
    this.after = after;
    this.contents = contents;
    const idsOf = ({ learned }: ValuedSide) =>
      new Set([...learned.values()].map((tensor) => contents.get(tensor)?.id));
    const [one, other] = [idsOf(before), idsOf(after)];
    for (const [side, ids] of [
      [before, other],
      [after, one],
    ] as const) {
      const preceding = side.isOrdered ? findPreceding(side) : new Map<NormLayer, Tensor>();
      const followers = new Map<Tensor, NormLayer[]>();
      for (const [layer, weight] of preceding) addTo(followers, weight, layer);
      for (const layers of followers.values())
        if (layers.length > 1) for (const layer of layers) this.#inRow.add(layer);
      const isShared = (tensor: Tensor) => ids.has(contents.get(tensor)?.id);
      const blocks = findBlocks(side, isShared);
      for (const layer of side.layers) {
        const known = findFeed(layer, side);
        const last = preceding.get(layer);
        const feed = known ?? (last === undefined ? [] : [last]);
        this.#feeds.set(layer, feed);
        this.#marks.set(layer, {
          affine: this.#identify(storedTensorOf(layer.gamma), storedTensorOf(layer.beta)),
          feed: this.#identify(...(known ?? [])),
          preceding: this.#identify(last ?? null),
          // A layer that a weight of its own side alone seems to feed is none of the block's.
          block: feed.every(isShared) ? this.#identify(...(blocks.get(layer) ?? [])) : null,
          statistics: this.#identify(storedTensorOf(layer.mean), storedTensorOf(layer.variance)),
        });
      }
    }
  }

  /** The weights that feed a layer, as far as names or the order of modules tell. */
  feedOf(layer: NormLayer): readonly Tensor[] {
    return this.#feeds.get(layer) ?? [];
  }

  of(layer: NormLayer): Marks {
    return this.#marks.get(layer) ?? UNKNOWN;
  }

  /**
   * Whether two layers hold the same, or are fed by the same; null where their values tell nothing. Names and graphs
   * know better what feeds a layer than the order of modules.
   */
  areSame(one: NormLayer, other: NormLayer): boolean | null {
    const [x, y] = [this.of(one), this.of(other)];
    const compare = (mark: keyof Marks) =>
      x[mark] === null || y[mark] === null ? null : x[mark] === y[mark];
    const affine = compare('affine');
    if (affine === true) return true;
    const preceding = compare('preceding');
    // Of several norm layers in a row (`bns.0`, `bns.1` behind all `convs`) a weight feeds one at most.
    const isOpen = preceding === false && [one, other].some((layer) => this.#inRow.has(layer));
    return compare('feed') ?? (isOpen ? null : preceding) ?? affine;
  }

  /** What tensors hold together, in whatever order; null where that says nothing. */
  #identify(...parts: readonly (Tensor | null)[]): string | null {
    const tensors = parts.filter((tensor) => tensor !== null);
    const found = tensors.flatMap((tensor) => this.contents.get(tensor) ?? []);
    const bits = found.reduce((sum, content) => sum + content.bits, 0);
    if (found.length < tensors.length || !isTelling({ bits })) return null;
    return found
      .map(({ id }) => id)
      .sort()
      .join();
  }
}

/** Weights that feed one layer; where there are more, their names tell no block. */
const MAX_FEEDS = 16;

/** The weights that feed a layer for certain; null where that is not known. */
function findFeed(
  { neighbours, areNeighboursCertain }: NormLayer,
  { learned }: ValuedSide,
): readonly Tensor[] | null {
  if (areNeighboursCertain === false || neighbours.length > MAX_FEEDS) return null;
  return neighbours.flatMap((name) => learned.get(name) ?? []).filter(isWeight);
}

function isWeight({ shape }: Tensor): boolean {
  return shape.length > 1;
}

/** Deeper modules than any model has are not looked for. */
const MAX_DEPTH = 32;

/** For each layer the weights of its block: those that pass, under the nearest module around it that has weights. */
function findBlocks(
  { layers, learned }: ValuedSide,
  test: (tensor: Tensor) => boolean,
): ReadonlyMap<NormLayer, readonly Tensor[]> {
  const under = new Map<string, { tensors: Tensor[]; count: number }>();
  for (const [name, tensor] of learned) {
    if (!isWeight(tensor)) continue;
    for (const path of listAbove(name)) {
      const block = getOrMake(under, path, () => ({ tensors: [], count: 0 }));
      if (test(tensor) && ++block.count <= MAX_BLOCK) block.tensors.push(tensor);
    }
  }
  return new Map(
    layers.map((layer) => {
      const path = listAbove(layer.name).find((each) => under.has(each));
      const block = path === undefined ? undefined : under.get(path);
      return [layer, block === undefined || block.count > MAX_BLOCK ? [] : block.tensors];
    }),
  );
}

/** The modules above a name, the nearest first: `a.b`, `a` and the root of `a.b.weight`. */
function listAbove(name: string): readonly string[] {
  const paths: string[] = [];
  for (let path = name; path !== '' && paths.length < MAX_DEPTH; ) {
    [path] = splitPath(path);
    paths.push(path);
  }
  return paths;
}

/** For each layer, the last weight before it in module order that has as many outputs. */
function findPreceding({ layers, tensors, learned }: ValuedSide): ReadonlyMap<NormLayer, Tensor> {
  const byMean = new Map(layers.map((layer) => [storedTensorOf(layer.mean), layer]));
  const preceding = new Map<NormLayer, Tensor>();
  let last: Tensor | null = null;
  for (const [name, tensor] of tensors) {
    if (tensor.shape.length > 1 && learned.has(name)) last = tensor;
    const layer = byMean.get(tensor);
    if (layer !== undefined && last?.shape.slice(0, 2).includes(layer.channels) === true)
      preceding.set(layer, last);
  }
  return preceding;
}

/** Of prefixes that fit equally well, the one under which most layers hold the same; null where none stands out. */
function chooseRival(
  { edits }: RivalPrefixes,
  evidence: Evidence,
): { readonly edit: PrefixEdit; readonly remark: string } | null {
  const byName = new Map(evidence.after.layers.map((layer) => [layer.name, layer]));
  const scored = edits.map((edit) => {
    const pairs = evidence.before.layers.flatMap((layer) => {
      const other = findNamesake(layer.name, [edit], byName);
      return other === undefined ? [] : [[layer, other] as const];
    });
    const score = pairs.filter(([one, other]) => evidence.areSame(one, other) === true).length;
    return { edit, score, count: pairs.length };
  });
  const [first, ...others] = scored.sort((x, y) => y.score - x.score);
  if (first === undefined || first.score === (others[0]?.score ?? 0)) return null;
  const areSpread = edits.every(({ to }) => to === first.edit.to);
  const nameOf = ({ edit: { from, to } }: { readonly edit: PrefixEdit }) => quote(areSpread ? from : to);
  const why = `${first.score} of its ${first.count} norm layers hold the weights of ${areSpread ? 'after' : 'before'}, of ${nameOf(others[0] ?? first)} ${others[0]?.score ?? 0}`;
  return {
    edit: first.edit,
    remark: `${[first, ...others].map(nameOf).join(' and ')} fit by name equally well: ${nameOf(first)} was compared, since its weights are equal (${why})`,
  };
}

/** Pairs by values what names have left, and what they have paired with something else. */
function pairRest(pairing: Pairing, evidence: Evidence): ValuedPairing {
  const doubted = pairing.pairs.filter(
    ({ before, after, pairedBy }) => pairedBy !== 'map' && evidence.areSame(before, after) === false,
  );
  const pool = {
    before: [...pairing.onlyBefore, ...doubted.map(({ before }) => before)],
    after: [...pairing.onlyAfter, ...doubted.map(({ after }) => after)],
  };
  const doubts = layersOf(doubted);
  const partners = new Map(doubted.map(({ before, after }) => [before, after]));
  const { pairs: matched, rivals } = matchLayers(pool, evidence, (layer) => doubts.has(layer));
  const found = matched.filter(({ before, after }) => partners.get(before) !== after);
  const placed = layersOf(found);
  // Names that lead to a layer whose values stand elsewhere are those of another numbering.
  const areMisleading = doubted.some(({ after }) => placed.has(after));
  const dropped = new Set(
    doubted.filter((pair) => placed.has(pair.after) || (areMisleading && placed.has(pair.before))),
  );
  const kept = pairing.pairs.filter((pair) => !dropped.has(pair));
  const listLeft = (taken: ReadonlySet<NormLayer>) => ({
    before: pool.before.filter((layer) => !taken.has(layer)),
    after: pool.after.filter((layer) => !taken.has(layer)),
  });
  const { edits } = pairing;
  const fed = pairFed(listLeft(layersOf([...kept, ...found])), edits, evidence);
  const left = listLeft(layersOf([...kept, ...found, ...fed]));
  const domains = pairDomains(left, edits, evidence.after.learned);
  const renamed = [...found, ...fed, ...domains];
  const pairs = inOrderOf(evidence.before.layers, [...kept, ...renamed]);
  const alone = listLeft(layersOf(pairs));
  return {
    pairs,
    onlyBefore: alone.before,
    onlyAfter: alone.after,
    edits,
    tensors: renamed.length === 0 ? [] : pairTensors(renamed, edits, evidence),
    remarks: describeFound(found),
    explain: (layer, candidates) => explainUnpaired(layer, candidates, { rivals, evidence }),
  };
}

function layersOf(pairs: readonly LayerPair[]): ReadonlySet<NormLayer> {
  return new Set(pairs.flatMap(({ before, after }) => [before, after]));
}

/**
 * Pairs norm layers whose own names differ, and which weights of one name feed: quantisation-aware training of PyTorch
 * makes `conv.bn` of the `bn` behind `conv`.
 */
function pairFed(
  { before, after }: Both<NormLayer>,
  edits: readonly PrefixEdit[],
  evidence: Evidence,
): readonly LayerPair[] {
  const ofBefore = new Set(before);
  const nameOf = (layer: NormLayer) => {
    const { learned } = ofBefore.has(layer) ? evidence.before : evidence.after;
    const isFeed = (name: string) => (learned.get(name)?.shape.length ?? 0) > 1;
    const [name = null, ...others] = layer.neighbours.filter(isFeed);
    if (name === null || others.length > 0) return null;
    return ofBefore.has(layer) ? translateName(name, edits, (one) => evidence.after.learned.has(one)) : name;
  };
  return [...groupBoth({ before, after }, nameOf)].flatMap((fed) => {
    const [[one, ...more], [other, ...others]] = [fed.before, fed.after];
    const isPair = more.length + others.length === 0 && one?.channels === other?.channels;
    return isPair && one !== undefined && other !== undefined
      ? [{ before: one, after: other, pairedBy: 'name' as const }]
      : [];
  });
}

/**
 * Pairs a norm layer with those that stand under its name in after, one for each domain: `bn1` with `bn1.bns.0` and
 * `bn1.bns.1`. What stands there must be nothing but norm layers of its width.
 */
function pairDomains(
  { before, after }: Both<NormLayer>,
  edits: readonly PrefixEdit[],
  learned: ReadonlyMap<string, Tensor>,
): readonly LayerPair[] {
  if (before.length === 0 || after.length === 0) return [];
  const inside = new Map<string, NormLayer[]>();
  for (const layer of after) for (const path of listAbove(layer.name).slice(0, 2)) addTo(inside, path, layer);
  inside.delete('');
  const mixed = new Set([...learned].flatMap(([name, tensor]) => (isWeight(tensor) ? listAbove(name) : [])));
  return before.flatMap((layer) => {
    const path = translateName(layer.name, edits, (name) => inside.has(name) && !mixed.has(name));
    const domains = path === null ? [] : (inside.get(path) ?? []);
    return domains.every(({ channels }) => channels === layer.channels)
      ? domains.map((domain) => ({ before: layer, after: domain, pairedBy: 'name' as const }))
      : [];
  });
}

/** What either side has of something, such as layers that hold the same. */
interface Both<Item> {
  readonly before: readonly Item[];
  readonly after: readonly Item[];
}

/** What either side has, by a key; what has none is left out. */
function groupBoth<Item>(
  sides: Readonly<Record<keyof Both<Item>, Iterable<Item>>>,
  keyOf: (item: Item) => string | null,
): Iterable<Both<Item>> {
  const groups = new Map<string, { readonly before: Item[]; readonly after: Item[] }>();
  for (const side of ['before', 'after'] as const) {
    for (const item of sides[side]) {
      const key = keyOf(item);
      if (key !== null) getOrMake(groups, key, () => ({ before: [], after: [] }))[side].push(item);
    }
  }
  return groups.values();
}

/** Pairs that values tell, and for each layer of before that several fit, which ones. */
interface MatchedLayers {
  readonly pairs: readonly LayerPair[];
  readonly rivals: ReadonlyMap<NormLayer, readonly NormLayer[]>;
}

/**
 * What layers are alike by, the surest first; each is asked of what those before it have left. Equal γ and β go before
 * equal feeds alone: names may be wrong about what feeds a layer.
 */
const LIKENESSES: readonly ((marks: Marks) => readonly (string | null)[])[] = [
  ({ feed, affine }) => [feed, affine],
  ({ preceding, affine }) => [preceding, affine],
  ({ affine }) => [affine],
  ({ feed }) => [feed],
  ({ preceding }) => [preceding],
  ({ feed, preceding }) => [feed ?? preceding],
  ({ block }) => [block],
];

/** @param isDoubted whether a layer has a partner by name: then its block alone says too little to give it another. */
function matchLayers(
  pool: Both<NormLayer>,
  evidence: Evidence,
  isDoubted: (layer: NormLayer) => boolean,
): MatchedLayers {
  const left = { before: new Set(pool.before), after: new Set(pool.after) };
  const pairs: LayerPair[] = [];
  const rivals = new Map<NormLayer, readonly NormLayer[]>();
  const marksOf = (layer: NormLayer) =>
    isDoubted(layer) ? { ...evidence.of(layer), block: null } : evidence.of(layer);
  for (const liken of LIKENESSES) {
    const keyOf = (layer: NormLayer) => {
      const marks = liken(marksOf(layer));
      return marks.includes(null) ? null : [layer.channels, ...marks].join(' ');
    };
    for (const alike of groupBoth(left, keyOf)) {
      const matched = matchAlike(alike, evidence);
      for (const [before, after] of matched) {
        pairs.push({ before, after, pairedBy: 'values' });
        left.before.delete(before);
        left.after.delete(after);
      }
      if (matched.length > 0 || alike.after.length === 0) continue;
      for (const layer of alike.before) if (!rivals.has(layer)) rivals.set(layer, alike.after);
    }
  }
  return { pairs: [...pairs, ...findCopies(pairs, left.after, evidence)], rivals };
}

/**
 * Layers beside one that was paired by values that hold the same, or are fed by the same: domain-specific BatchNorm makes
 * `bn.bns.0` and `bn.bns.1` of one `bn`, and each is held against that.
 */
function findCopies(
  pairs: readonly LayerPair[],
  left: Iterable<NormLayer>,
  evidence: Evidence,
): readonly LayerPair[] {
  const placeOf = ({ name, channels }: NormLayer) => `${splitPath(name)[0]} ${channels}`;
  const byPlace = new Map<string, LayerPair>();
  for (const pair of pairs) if (!byPlace.has(placeOf(pair.after))) byPlace.set(placeOf(pair.after), pair);
  return [...left].flatMap((after) => {
    const sibling = byPlace.get(placeOf(after));
    return sibling !== undefined && evidence.areSame(sibling.before, after) === true
      ? [{ before: sibling.before, after, pairedBy: 'values' as const }]
      : [];
  });
}

/**
 * Pairs layers that hold the same: one with one; as many with as many in their order; one of before with each of after,
 * as domain-specific BatchNorm makes several of one, under its name where there are more. Of several in before, only
 * statistics tell which after was made of.
 */
function matchAlike(
  { before, after }: Both<NormLayer>,
  evidence: Evidence,
): readonly (readonly [before: NormLayer, after: NormLayer])[] {
  const areOrdered = evidence.before.isOrdered && evidence.after.isOrdered;
  const sort = (layers: readonly NormLayer[]) =>
    areOrdered ? layers : [...layers].sort((x, y) => compareNaturally(x.name, y.name));
  const pairs = zip({ before: sort(before), after: sort(after) });
  if (pairs.length > 0) return pairs;
  const isFew = before.length <= MAX_BLOCK;
  const nested = (isFew ? after : []).flatMap((other) => {
    const [layer, ...others] = before.filter(({ name }) => isUnder(other.name, name));
    return layer === undefined || others.length > 0 ? [] : [[layer, other] as const];
  });
  if (isFew && nested.length === after.length) return nested;
  const [only] = after;
  if (only === undefined || after.length > 1) return [];
  const { statistics } = evidence.of(only);
  const same = before.filter((layer) => statistics !== null && evidence.of(layer).statistics === statistics);
  return same.slice(0, 1).map((layer) => [layer, only]);
}

/**
 * Pairs learned tensors: those of layers that were paired by values, and all whose names lead nowhere, or to something
 * else, and that hold what a tensor of the other side holds. What stands beside a pair under the same last name goes
 * with it: biases are too short to be known again.
 */
function pairTensors(
  found: readonly LayerPair[],
  edits: readonly PrefixEdit[],
  evidence: Evidence,
): readonly TensorPair[] {
  const { before, after, contents } = evidence;
  const open = findOpenTensors(edits, evidence);
  const [names, afterNames] = [namesOf(before.learned), namesOf(after.learned)];
  const pairs = new Map<string, TensorPair>();
  const join = (tensor: Tensor | undefined | null, partner: Tensor | undefined | null) => {
    if (tensor == null || partner == null || !haveLikeShapes(tensor.shape, partner.shape)) return;
    const [name, afterName] = [names.get(tensor), afterNames.get(partner)];
    if (name === undefined || afterName === undefined || pairs.has(afterName)) return;
    pairs.set(afterName, { name, afterName, tensor, partner });
  };
  for (const pair of found) {
    join(storedTensorOf(pair.before.gamma), storedTensorOf(pair.after.gamma));
    join(storedTensorOf(pair.before.beta), storedTensorOf(pair.after.beta));
  }
  const idOf = (tensor: Tensor) => {
    const content = contents.get(tensor);
    return content !== undefined && isTelling(content) ? content.id : null;
  };
  for (const alike of groupBoth(open, idOf))
    for (const [tensor, partner] of zip(alike)) join(tensor, partner);
  // What feeds a layer and holds something else was trained.
  const joined = new Set([...pairs.values()].flatMap(({ tensor, partner }) => [tensor, partner]));
  const isFree = (tensor: Tensor) =>
    !joined.has(tensor) && (open.before.has(tensor) || open.after.has(tensor));
  for (const pair of found) {
    const [one, ...others] = evidence.feedOf(pair.before).filter(isFree);
    const [partner, ...rest] = evidence.feedOf(pair.after).filter(isFree);
    if (others.length + rest.length === 0) join(one, partner);
  }
  const [modules, afterModules] = [groupByModule(before.learned), groupByModule(after.learned)];
  for (const { name, afterName } of [...pairs.values()]) {
    const others = afterModules.get(splitPath(afterName)[0]);
    for (const [leaf, tensor] of modules.get(splitPath(name)[0]) ?? []) {
      const partner = others?.get(leaf);
      if (partner !== undefined && open.after.has(partner)) join(tensor, partner);
    }
  }
  return [...pairs.values()];
}

/** Tensors of which no name leads to one that holds the same. */
function findOpenTensors(
  edits: readonly PrefixEdit[],
  { before, after, contents }: Evidence,
): { readonly before: ReadonlySet<Tensor>; readonly after: ReadonlySet<Tensor> } {
  const open = { before: new Set(before.learned.values()), after: new Set(after.learned.values()) };
  for (const { tensor, partner } of pairByName(before, after, edits)) {
    const content = contents.get(tensor);
    if (content === undefined || contents.get(partner)?.id !== content.id) continue;
    open.before.delete(tensor);
    open.after.delete(partner);
  }
  return open;
}

function pairByName(
  { learned }: ValuedSide,
  after: ValuedSide,
  edits: readonly PrefixEdit[],
): readonly TensorPair[] {
  return [...learned].flatMap(([name, tensor]) => {
    const afterName = translateName(name, edits, (candidate) => after.learned.has(candidate));
    const partner = afterName === null ? undefined : after.learned.get(afterName);
    return afterName === null || partner === undefined ? [] : [{ name, afterName, tensor, partner }];
  });
}

/** One with each, or as many with as many in their order; nothing where neither fits. */
function zip<Item>({ before, after }: Both<Item>): readonly (readonly [Item, Item])[] {
  if (before.length !== 1 && before.length !== after.length) return [];
  return after.flatMap((other, index) => {
    const one = before[before.length === 1 ? 0 : index];
    return one === undefined ? [] : [[one, other] as const];
  });
}

function namesOf(tensors: ReadonlyMap<string, Tensor>): ReadonlyMap<Tensor, string> {
  return new Map([...tensors].map(([name, tensor]) => [tensor, name]));
}

/** Tensors by the module that they belong to and the last part of their names. */
function groupByModule(
  tensors: ReadonlyMap<string, Tensor>,
): ReadonlyMap<string, ReadonlyMap<string, Tensor>> {
  const modules = new Map<string, Map<string, Tensor>>();
  for (const [name, tensor] of tensors) {
    const [module, leaf] = splitPath(name);
    getOrMake(modules, module, () => new Map<string, Tensor>()).set(leaf, tensor);
  }
  return modules;
}

/** Pairs that are named in a remark. */
const MAX_NAMED = 2;

function describeFound(found: readonly LayerPair[]): readonly string[] {
  if (found.length === 0) return [];
  const named = found.map(({ before, after }) => `${quote(before.name)} with ${quote(after.name)}`);
  return [
    `${found.length === 1 ? '1 norm layer was' : `${found.length} norm layers were`} paired by values, since names do not pair them: their own weights or those that feed them are equal (${listFirst(named, MAX_NAMED)})`,
  ];
}

/** Layers of after that an unpaired one is held against; names alone rank them. */
const MAX_RANKED = 256;

/** What an unpaired layer of before is nearest to, and why that is not it; null where after has none left. */
function explainUnpaired(
  layer: NormLayer,
  candidates: readonly NormLayer[],
  { rivals, evidence }: Pick<MatchedLayers, 'rivals'> & { readonly evidence: Evidence },
): string | null {
  const fitting = rivals.get(layer) ?? [];
  if (fitting.length > 1) {
    const named = fitting.slice(0, MAX_NAMED).map(({ name }) => quote(name));
    return `${fitting.length} layers of after hold its values equally well (${named.join(', ')}${fitting.length > MAX_NAMED ? ', …' : ''}): say which is meant with --map`;
  }
  const isAsWide = ({ channels }: NormLayer) => channels === layer.channels;
  const wide = candidates.filter(isAsWide);
  const [nearest] = (wide.length > 0 ? wide : candidates)
    .slice(0, MAX_RANKED)
    .map((candidate) => ({ candidate, common: countCommonEnd(layer.name, candidate.name) }))
    .sort((x, y) => y.common - x.common);
  if (nearest === undefined) return null;
  const { name, channels } = nearest.candidate;
  const why = !isAsWide(nearest.candidate)
    ? `has ${channels} channels in place of ${layer.channels}`
    : evidence.areSame(layer, nearest.candidate) === false
      ? 'has as many channels and other weights: it was trained, or is another layer'
      : 'has as many channels and another name, and the weights of neither tell whether they are one layer: if they are, say so with --map';
  return `nearest is ${quote(name)}, which ${why}`;
}

function countCommonEnd(one: string, other: string): number {
  let count = 0;
  const most = Math.min(one.length, other.length, MAX_RANKED);
  while (count < most && one[one.length - 1 - count] === other[other.length - 1 - count]) count++;
  return count;
}

/**
 * Pairs as {@link pairWithValues} does; but where after holds several networks and before one, each of them with that one,
 * as if it were alone. Those that are no copy of it stay unpaired.
 *
 * @param parts paths of after's networks, where it holds several and before one; else empty.
 * @throws CheckpointError as {@link pairWithValues}.
 */
export async function pairParts(
  before: ValuedSide,
  after: ValuedSide,
  { maps, parts }: { readonly maps: readonly PrefixEdit[]; readonly parts: readonly string[] },
): Promise<ValuedPairing> {
  const fitting: { readonly side: ValuedSide; readonly pairing: ValuedPairing }[] = [];
  for (const part of parts) {
    const side = narrowTo(after, part);
    // Names tell first, since values take as long to read as the checkpoints are large.
    if (part === '' || !isSameNetwork(before, side, maps)) continue;
    fitting.push({ side, pairing: await pairWithValues(before, side, maps) });
  }
  // One alone needs no care, and whatever else after holds may go with what it leaves.
  if (fitting.length < 2) return pairWithValues(before, after, maps);
  const pairings = fitting.map(({ pairing }) => pairing);
  const pairs = inOrderOf(
    before.layers,
    pairings.flatMap((pairing) => pairing.pairs),
  );
  const paired = layersOf(pairs);
  return {
    pairs,
    onlyBefore: before.layers.filter((layer) => !paired.has(layer)),
    onlyAfter: after.layers.filter((layer) => !paired.has(layer)),
    edits: pairings.flatMap(({ edits }) => edits),
    tensors: fitting.flatMap(({ side, pairing }) => [
      ...pairByName(before, side, pairing.edits).filter(({ tensor, partner }) =>
        haveLikeShapes(tensor.shape, partner.shape),
      ),
      ...pairing.tensors,
    ]),
    remarks: [...new Set(pairings.flatMap(({ remarks }) => remarks))],
    explain: (layer, candidates) =>
      pairings.reduce<string | null>((found, { explain }) => found ?? explain(layer, candidates), null),
  };
}

function narrowTo(side: ValuedSide, part: string): ValuedSide {
  const isInside = ([name]: readonly [string, unknown]) => isUnder(name, part);
  return {
    ...side,
    layers: side.layers.filter(({ name }) => isUnder(name, part)),
    tensors: new Map([...side.tensors].filter(isInside)),
    learned: new Map([...side.learned].filter(isInside)),
  };
}

/** A discriminator may have a `bn1` as well: all layers of after must be before's, or half of those of either side. */
function isSameNetwork(before: ValuedSide, after: ValuedSide, maps: readonly PrefixEdit[]): boolean {
  const [one, other] = [before.layers.length, after.layers.length];
  const named = pairByNames(before, after, maps);
  if (named instanceof RivalPrefixes) return false;
  const { length } = named.pairs;
  return length > 0 && (length === other || length * 2 >= Math.max(one, other));
}
