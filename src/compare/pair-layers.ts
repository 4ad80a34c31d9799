// Pairs the layers of before with those of after: by name, by prefix or glob, e.g. `**.bn*=**.norm*`, or by position.

import type { Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf } from '../checkpoint/dtype.js';
import { CheckpointError, quote, UsageError } from '../errors.js';
import { readRange } from '../io/byte-source.js';
import { addTo, compareNaturally, getOrMake, splitPath } from '../norm/naming.js';
import { addNote, type LayerVector, type NormLayer } from '../norm/norm-layer.js';
import { readChannelVector } from './statistics.js';

/** How a pair of layers was found. */
export type PairedBy = 'name' | 'map' | 'order' | 'values';

/** What pairing looks at: a name and a number of channels. */
type Pairable = Pick<NormLayer, 'name' | 'isNamed' | 'channels'>;

/** A layer of before and the one of after that it is compared with. */
export interface LayerPair<Layer extends Pairable = NormLayer> {
  readonly before: Layer;
  readonly after: Layer;
  readonly pairedBy: PairedBy;
}

/**
 * A rewriting of names from before to after: a leading path `from` becomes `to`. Both may be empty, or globs of the same
 * wildcards: see `renameByGlob`.
 */
export interface PrefixEdit {
  readonly from: string;
  readonly to: string;
}

/** One side of a pairing. */
export interface PairingSide<Layer extends Pairable = NormLayer> {
  readonly path: string;
  readonly layers: readonly Layer[];
  /** Whether the layers stand in the order of the model. */
  readonly isOrdered: boolean;
}

/** Who goes with whom, and how names of before read in after. */
export interface Pairing<Layer extends Pairable = NormLayer> {
  readonly pairs: readonly LayerPair<Layer>[];
  readonly onlyBefore: readonly Layer[];
  readonly onlyAfter: readonly Layer[];
  /** The edits that found the pairs, the most fruitful first; the identity is `{from: '', to: ''}`. */
  readonly edits: readonly PrefixEdit[];
}

/** The search for wrapper prefixes looks at so many layers of before; all layers are counted for the best edits. */
const MAX_SAMPLED_LAYERS = 64;

/** So many of the edits with the most votes are counted exactly. */
const MAX_COUNTED_EDITS = 24;

/** So many different wrappers in one pair of checkpoints are looked for. */
const MAX_EDITS = 6;

/** Edits that are counted at a time, far more than two models of hundreds of layers propose. */
const MAX_VOTES = 32_768;

/** Longer names than those of real modules show no wrapper: every pair of two that end alike would have to be compared. */
const MAX_WRAPPED_LENGTH = 1000;

/** Names of before read in after as they are. */
export const IDENTITY: PrefixEdit = { from: '', to: '' };

/**
 * Pairs the norm layers of two checkpoints: by hand-given edits first, then by name, with wrapper prefixes (`module.`,
 * `_orig_mod.`, `backbone.`, …) on either side found by themselves, then by order where a graph has lost its names.
 *
 * The order of either side's layers makes no difference to pairs found by name.
 *
 * @param preferred edits that win where others fit equally well, since values speak for them.
 * @throws RivalPrefixes when two prefixes fit equally well.
 */
export function pairLayers<Layer extends Pairable>(
  before: PairingSide<Layer>,
  after: PairingSide<Layer>,
  maps: readonly PrefixEdit[],
  preferred: readonly PrefixEdit[] = [],
): Pairing<Layer> {
  const pairs: LayerPair<Layer>[] = [];
  const left = new Map(before.layers.map((layer) => [layer.name, layer]));
  const right = new Map(after.layers.map((layer) => [layer.name, layer]));
  const join = (one: Layer, other: Layer, pairedBy: PairedBy) => {
    pairs.push({ before: one, after: other, pairedBy });
    left.delete(one.name);
    right.delete(other.name);
  };
  const edits: PrefixEdit[] = [];
  const isPreferred = (edit: PrefixEdit) => preferred.some((one) => isSameEdit(one, edit));
  for (const edit of maps) {
    for (const [one, other] of applyEdit(edit, left, right)) join(one, other, 'map');
    edits.push(edit);
  }
  while (edits.length < maps.length + MAX_EDITS) {
    const edit = findBestEdit(left, right, {
      afterPath: after.path,
      isFirst: pairs.length === 0,
      isPreferred,
    });
    if (edit === null) break;
    const pairedBy = isPreferred(edit) ? 'values' : 'name';
    for (const [one, other] of applyEdit(edit, left, right)) join(one, other, pairedBy);
    edits.push(edit);
  }
  for (const [one, other] of pairByOrder(
    [...left.values()],
    [...right.values()],
    before.isOrdered && after.isOrdered,
  )) {
    join(one, other, 'order');
  }
  if (!edits.some(isIdentity)) edits.push(IDENTITY);
  return {
    pairs: inOrderOf<Layer, LayerPair<Layer>>(before.layers, pairs),
    onlyBefore: [...left.values()],
    onlyAfter: [...right.values()],
    edits,
  };
}

/** What each concerns a layer of before, in the order of those layers; what concerns none of them comes last. */
export function inOrderOf<Layer, Item extends { readonly before: Layer }>(
  layers: readonly Layer[],
  items: readonly Item[],
): readonly Item[] {
  const order = new Map(layers.map((layer, index) => [layer, index]));
  const placeOf = ({ before }: Item) => order.get(before) ?? layers.length;
  return [...items].sort((x, y) => placeOf(x) - placeOf(y));
}

/**
 * A name of before as after spells it, by the first edit whose result exists there.
 *
 * @returns null when no edit leads to an existing name.
 */
export function translateName(
  name: string,
  edits: readonly PrefixEdit[],
  exists: (name: string) => boolean,
): string | null {
  for (const edit of edits) {
    const translated = rewrite(name, edit).find(exists);
    if (translated !== undefined) return translated;
  }
  return null;
}

/** What goes by the name that one of before has in after; undefined where no edit leads to any. */
export function findNamesake<Item>(
  name: string,
  edits: readonly PrefixEdit[],
  items: ReadonlyMap<string, Item>,
): Item | undefined {
  const translated = translateName(name, edits, (candidate) => items.has(candidate));
  return translated === null ? undefined : items.get(translated);
}

/** The error for prefixes of which names alone do not tell which is meant. */
export class RivalPrefixes extends CheckpointError {
  /** Those that fit equally well, two or more. */
  readonly edits: readonly PrefixEdit[];

  constructor(count: number, edits: readonly [PrefixEdit, PrefixEdit, ...PrefixEdit[]], file: string) {
    const [one, other] = edits;
    super(
      `${count} of its norm layers fit under ${describeEdit(one)} as well as under ${describeEdit(other)}`,
      {
        code: 'ambiguous',
        file,
        hint: `Say which is meant: --map ${one.from}=${one.to}, or --map ${other.from}=${other.to}`,
      },
    );
    this.edits = edits;
  }
}

/** Rewrites a name's leading path, or its parts by globs; empty when the name does not lie under the edit's `from`. */
function rewrite(name: string, edit: PrefixEdit): readonly string[] {
  const { from, to } = edit;
  if (isRenameGlob(from)) return renameByGlob(name, edit);
  const join = (rest: string) => (to === '' ? rest : rest === '' ? to : `${to}.${rest}`);
  if (from === '') return [join(name)];
  if (name === from) return [join('')];
  return name.startsWith(`${from}.`) ? [join(name.slice(from.length + 1))] : [];
}

type ByName<Layer> = ReadonlyMap<string, Layer>;

function applyEdit<Layer extends Pairable>(
  edit: PrefixEdit,
  left: ByName<Layer>,
  right: ByName<Layer>,
): readonly (readonly [Layer, Layer])[] {
  return [...left.values()].flatMap((one) => {
    const other = findNamesake(one.name, [edit], right);
    return other !== undefined && one.isNamed === other.isNamed && canPair(one, other)
      ? [[one, other] as const]
      : [];
  });
}

/** A layer whose statistics cannot be read may not know its channels. */
function canPair(one: Pairable, other: Pairable): boolean {
  return one.channels === other.channels || one.channels === 0 || other.channels === 0;
}

function findBestEdit(
  left: ByName<Pairable>,
  right: ByName<Pairable>,
  context: { afterPath: string; isFirst: boolean; isPreferred: (edit: PrefixEdit) => boolean },
): PrefixEdit | null {
  const { isFirst, isPreferred } = context;
  if (left.size === 0 || right.size === 0) return null;
  const byOwnName = { edit: IDENTITY, pairs: applyEdit(IDENTITY, left, right) };
  // The usual case, and nothing can do better: every layer of the smaller side has its namesake.
  if (byOwnName.pairs.length === Math.min(left.size, right.size)) return IDENTITY;
  const proposed = proposeEdits(left, right).map((edit) => ({ edit, pairs: applyEdit(edit, left, right) }));
  const counted = [byOwnName, ...proposed];
  // A stable sort: of those with as many pairs a preferred edit is first, then the identity, then the edit with more votes.
  const [best, second] = counted.sort(
    (x, y) => y.pairs.length - x.pairs.length || Number(isPreferred(y.edit)) - Number(isPreferred(x.edit)),
  );
  if (best === undefined || best.pairs.length === 0) return null;
  if (isIdentity(best.edit)) return best.edit;
  // A wrapper holds a whole model. A few layers whose names happen to end alike are no wrapper.
  const smaller = Math.min(left.size, right.size);
  const isWrapper = best.edit.from === '' || best.edit.to === '';
  if (best.pairs.length * 2 < smaller || (!isFirst && best.pairs.length < 2 && !isWrapper)) return null;
  if (
    second !== undefined &&
    second.pairs.length === best.pairs.length &&
    !isPreferred(best.edit) &&
    conflicts(best.pairs, second.pairs)
  ) {
    // What is left over once the models are paired may just be new or gone; no reason to refuse the audit.
    if (!isFirst) return null;
    const rivals = counted.filter(({ pairs }) => pairs.length === best.pairs.length).map(({ edit }) => edit);
    throw new RivalPrefixes(
      best.pairs.length,
      [best.edit, second.edit, ...rivals.slice(2)],
      context.afterPath,
    );
  }
  return best.edit;
}

/** Whether two ways to pair give a layer of either side different partners. */
function conflicts(some: ReturnType<typeof applyEdit>, others: typeof some): boolean {
  const partners = new Map(some);
  const owners = new Map(some.map(([one, other]) => [other, one]));
  return others.some(
    ([one, other]) => (partners.get(one) ?? other) !== other || (owners.get(other) ?? one) !== one,
  );
}

/** Edits under which some sampled layer of before gets the name of one of after, those with the most votes first. */
function proposeEdits(left: ByName<Pairable>, right: ByName<Pairable>): readonly PrefixEdit[] {
  const byLeaf = new Map<string, Pairable[]>();
  for (const layer of right.values()) {
    if (layer.name.length > MAX_WRAPPED_LENGTH) continue;
    addTo(byLeaf, splitPath(layer.name)[1], layer);
  }
  const votes: Votes = new Map();
  const isShown = ({ isNamed, name }: Pairable) => isNamed && name.length <= MAX_WRAPPED_LENGTH;
  const shown = [...left.values()].filter(isShown);
  const step = Math.max(1, Math.ceil(shown.length / MAX_SAMPLED_LAYERS));
  for (const one of shown.filter((_, index) => index % step === 0)) {
    for (const other of byLeaf.get(splitPath(one.name)[1]) ?? []) {
      if (!other.isNamed || !canPair(one, other)) continue;
      const edit = findEdit(one.name, other.name);
      getOrMake(votes, `${edit.from}=${edit.to}`, () => ({ edit, count: 0 })).count++;
    }
    // An edit for many layers is proposed again.
    if (votes.size > MAX_VOTES) for (const [key, { count }] of votes) if (count === 1) votes.delete(key);
  }
  return chooseMostVoted(votes).filter((edit) => !isIdentity(edit));
}

type Votes = Map<string, { readonly edit: PrefixEdit; count: number }>;

function chooseMostVoted(votes: Votes): readonly PrefixEdit[] {
  type Vote = readonly [key: string, vote: { readonly count: number }];
  const compareRoughly = ([x, { count: m }]: Vote, [y, { count: n }]: Vote) => n - m || x.length - y.length;
  const ranked = [...votes].sort(compareRoughly);
  const last = ranked[MAX_COUNTED_EDITS - 1];
  // Names need be compared only of those that may be among the first.
  const first = last === undefined ? ranked : ranked.filter((vote) => compareRoughly(vote, last) <= 0);
  return first
    .sort((x, y) => compareRoughly(x, y) || compareNaturally(x[0], y[0]))
    .slice(0, MAX_COUNTED_EDITS)
    .map(([, { edit }]) => edit);
}

/** The edit that turns one name into another: what stands before their longest common tail of components. */
function findEdit(before: string, after: string): PrefixEdit {
  // Where the common tail begins, in either name; a part of a component is no part of it.
  let [x, y] = [before.length, after.length];
  for (let [i, j] = [x, y]; ; i--, j--) {
    if (isBoundary(before, i) && isBoundary(after, j)) [x, y] = [i, j];
    if (i === 0 || j === 0 || before[i - 1] !== after[j - 1]) break;
  }
  return { from: headOf(before, x), to: headOf(after, y) };
}

/** What stands before the component that begins at an index, without the dot between them. */
function headOf(name: string, index: number): string {
  return index === name.length ? name : name.slice(0, Math.max(0, index - 1));
}

/** Whether a component begins here, or the name ends. */
function isBoundary(name: string, index: number): boolean {
  return index === 0 || index === name.length || name[index - 1] === '.';
}

/**
 * Pairs by order what a graph without names leaves: only when the channel counts agree one to one, and either both
 * sides stand in the model's order or every channel count occurs once.
 */
function pairByOrder<Layer extends Pairable>(
  left: readonly Layer[],
  right: readonly Layer[],
  areOrdered: boolean,
): readonly (readonly [Layer, Layer])[] {
  const areNamesLost = left.every(({ isNamed }) => !isNamed) || right.every(({ isNamed }) => !isNamed);
  if (left.length === 0 || left.length !== right.length || !areNamesLost) return [];
  const byChannels = (layers: readonly Layer[]) => [...layers].sort((x, y) => x.channels - y.channels);
  const isDistinct = new Set(left.map(({ channels }) => channels)).size === left.length;
  if (!areOrdered && !isDistinct) return [];
  const [one, other] = areOrdered ? [left, right] : [byChannels(left), byChannels(right)];
  return pairInStep(one, other, (layer, partner) => partner.channels === layer.channels);
}

/** Each item with the one at its place; nothing where a pair does not fit. */
export function pairInStep<Item>(
  left: readonly Item[],
  right: readonly Item[],
  fits: (one: Item, other: Item) => boolean,
): readonly (readonly [Item, Item])[] {
  const pairs = left.flatMap((one, place) => {
    const other = right[place];
    return other !== undefined && fits(one, other) ? [[one, other] as const] : [];
  });
  return pairs.length === left.length ? pairs : [];
}

function isIdentity(edit: PrefixEdit): boolean {
  return isSameEdit(edit, IDENTITY);
}

function isSameEdit(one: PrefixEdit, other: PrefixEdit): boolean {
  return one.from === other.from && one.to === other.to;
}

function describeEdit({ from, to }: PrefixEdit): string {
  if (from === '') return `the prefix ${quote(to)}`;
  return to === '' ? `the names without ${quote(from)}` : `${quote(to)} in place of ${quote(from)}`;
}

/**
 * Pairs layers of one name whose channel counts are multiples of each other, where the longer one repeats its values.
 *
 * Exporters write InstanceNorm with running statistics as BatchNormalization over batch × channels, and fold the Tile
 * that repeats its values into the constants: [C] becomes [C, C, …]. The longer layer is compared by its first C.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function pairRepeated(pairing: Pairing): Promise<Pairing> {
  const pairs = [...pairing.pairs];
  const left = new Set(pairing.onlyBefore);
  const right = new Map(pairing.onlyAfter.map((layer) => [layer.name, layer]));
  for (const before of pairing.onlyBefore) {
    const after = findNamesake(before.name, pairing.edits, right);
    if (after === undefined || !before.isNamed || !after.isNamed) continue;
    const channels = Math.min(before.channels, after.channels);
    const [one, other] = [await takePeriod(before, channels), await takePeriod(after, channels)];
    if (one === null || other === null) continue;
    pairs.push({ before: one, after: other, pairedBy: 'name' });
    left.delete(before);
    right.delete(after.name);
  }
  return { ...pairing, pairs, onlyBefore: [...left], onlyAfter: [...right.values()] };
}

/** A layer as its first channels, where the others repeat them; null where they do not, or cannot be read. */
async function takePeriod(layer: NormLayer, channels: number): Promise<NormLayer | null> {
  if (layer.channels === channels) return layer;
  // Only exporters repeat; in a file of names another width is another layer, freshly initialised perhaps.
  if (!layer.isFromGraph || channels === 0 || layer.channels % channels !== 0) return null;
  const [mean, variance] = [await shorten(layer.mean, channels), await shorten(layer.variance, channels)];
  const [gamma, beta] = [await shorten(layer.gamma, channels), await shorten(layer.beta, channels)];
  if (mean === null || variance === null) return null;
  if ((gamma === null && layer.gamma !== null) || (beta === null && layer.beta !== null)) return null;
  // What is one value throughout has any period, and proves none.
  if (!(await varies(mean)) && !(await varies(variance))) return null;
  const repeats = layer.channels / channels;
  const note = `it repeats its ${channels} channels ${repeats} times, as exporters write InstanceNorm for a batch of ${repeats}`;
  return addNote({ ...layer, channels, mean, variance, gamma, beta }, note);
}

/** A vector that is stored and more than copies of one value. */
async function varies({ tensor }: StoredVector): Promise<boolean> {
  const { values } = await readChannelVector(tensor);
  return values.some((value) => value !== values[0]);
}

type StoredVector = Extract<LayerVector, { readonly kind: 'stored' }>;

/** A vector's first elements, where the rest is copies of them; null where it is not, or cannot be read. */
async function shorten(vector: LayerVector | null, channels: number): Promise<StoredVector | null> {
  if (vector?.kind !== 'stored') return null;
  const { tensor } = vector;
  const period = (channels * bitsOf(tensor.dtype)) / 8;
  const bytes = await readRange(tensor.range);
  const first = bytes.subarray(0, period);
  for (let at = period; at < bytes.byteLength; at += period)
    if (Buffer.compare(first, bytes.subarray(at, at + period)) !== 0) return null;
  const beginning = {
    ...tensor,
    shape: [channels],
    elementCount: channels,
    range: { ...tensor.range, byteLength: period },
  };
  return { ...vector, tensor: beginning, whole: tensor };
}

/** A value per channel as a whole tensor repeats them. */
export function repeatValues(values: Float64Array, { elementCount }: Tensor): Float64Array {
  return Float64Array.from(
    { length: elementCount },
    (_, index) => values[index % values.length] ?? Number.NaN,
  );
}

/** Names and globs of more components than any model's have are not renamed. */
const MAX_COMPONENTS = 64;

/** Names that one glob may turn a name into, where it fits several parts of it. */
const MAX_READINGS = 4;

/** Whether this side of a rename is a glob; else it is a leading path. */
export function isRenameGlob(path: string): boolean {
  return path.includes('*');
}

/**
 * Makes sure that what the wildcards of FROM match has a place in TO: `*` is any part of one component, `**` any number
 * of whole ones, and the first wildcard of TO stands for what the first of FROM matched, and so on.
 *
 * @throws UsageError naming what is wrong.
 */
export function checkRename({ from, to }: { readonly from: string; readonly to: string }): void {
  if (!isRenameGlob(from) && !isRenameGlob(to)) return;
  const rename = quote(`${from}=${to}`);
  for (const component of [...from.split('.'), ...to.split('.')]) {
    if (component.includes('**') && component !== '**')
      throw new UsageError(
        `--map ${rename}: expected "**" in place of whole components, found ${quote(component)}`,
        'Within a component, "*" stands for any part of it: **.bn*=**.norm*',
      );
  }
  const [one, other] = [listWildcards(from), listWildcards(to)];
  if (one.join() !== other.join())
    throw new UsageError(
      `--map ${rename}: expected the same wildcards in the same order on both sides, found ${describe(one)} before "=" and ${describe(other)} behind it`,
      'What each wildcard matches is put in place of the same one on the right: **.bn*=**.norm*',
    );
  if (from.split('.').length > MAX_COMPONENTS)
    throw new UsageError(`--map ${rename}: expected at most ${MAX_COMPONENTS} components`);
}

function listWildcards(glob: string): readonly string[] {
  return glob.match(/\*+/g) ?? [];
}

function describe(wildcards: readonly string[]): string {
  return wildcards.length === 0 ? 'none' : wildcards.map((one) => `"${one}"`).join(' ');
}

/**
 * What a checked rename turns a name into, the readings by most of its components first; what stands behind those
 * stays: `**.bn*=**.norm*` turns `a.bn1.weight` into `a.norm1.weight`. Empty where it fits no leading part.
 */
export function renameByGlob(
  name: string,
  { from, to }: { readonly from: string; readonly to: string },
): readonly string[] {
  const [components, glob] = [name.split('.'), from.split('.')];
  if (components.length > MAX_COMPONENTS) return [];
  const capture = makeCapture(glob, components);
  const names: string[] = [];
  for (let end = components.length; end > 0 && names.length < MAX_READINGS; end--) {
    const captured = capture(glob.length, end);
    if (captured !== null) names.push([...fill(to, captured), ...components.slice(end)].join('.'));
  }
  return names;
}

type Captured = readonly (readonly string[])[];

/**
 * What the wildcards of a glob's first parts match where these read so many components of a name, no more and no fewer;
 * null where they cannot. Of several `**` the last takes the least. Each question is answered once.
 */
function makeCapture(
  glob: readonly string[],
  components: readonly string[],
): (parts: number, end: number) => Captured | null {
  const known = new Map<number, Captured | null>();
  const find = (parts: number, end: number): Captured | null => {
    const part = glob[parts - 1];
    if (part === undefined) return end === 0 ? [] : null;
    if (part === '**') {
      for (let start = end; start >= 0; start--) {
        const captured = capture(parts - 1, start);
        if (captured !== null) return [...captured, components.slice(start, end)];
      }
      return null;
    }
    const component = components[end - 1];
    const fitted = component === undefined ? null : fitComponent(part, component);
    const captured = fitted === null ? null : capture(parts - 1, end - 1);
    return captured && [...captured, ...(fitted ?? []).map((one) => [one])];
  };
  const capture = (parts: number, end: number): Captured | null =>
    getOrMake(known, parts * (components.length + 1) + end, () => find(parts, end));
  return capture;
}

/** What each `*` of a component matches, the first ones the least; null where it does not fit. */
function fitComponent(part: string, component: string): readonly string[] | null {
  const [head = '', ...tails] = part.split('*');
  const last = tails.at(-1);
  if (last === undefined) return part === component ? [] : null;
  if (!component.startsWith(head)) return null;
  const captured: string[] = [];
  let start = head.length;
  for (const [index, literal] of tails.entries()) {
    const isLast = index === tails.length - 1;
    const found = isLast ? component.length - literal.length : component.indexOf(literal, start);
    if (found < start || !component.startsWith(literal, found)) return null;
    captured.push(component.slice(start, found));
    start = found + literal.length;
  }
  return captured;
}

/** The components of a glob with what was captured in place of its wildcards. */
function fill(glob: string, captured: Captured): readonly string[] {
  const rest = captured[Symbol.iterator]();
  const take = (): readonly string[] => rest.next().value ?? [];
  return glob
    .split('.')
    .flatMap((part) => (part === '**' ? take() : [part.replace(/\*/g, () => take().join(''))]));
}
