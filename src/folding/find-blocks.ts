// Finds blocks of parallel branches (RepVGG, MobileOne) that one side has, and the other has merged into a convolution.

import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { isDecodable } from '../checkpoint/dtype.js';
import { type Pairing, type PrefixEdit, translateName } from '../compare/pair-layers.js';
import { addTo, dottedNameOf, joinPath, splitPath } from '../norm/naming.js';
import {
  type ExaminedCheckpoint,
  findFeedingLinear,
  findNamedLinearAt,
  type LinearLayer,
  listFreeLinears,
  type NormLayer,
} from '../norm/norm-layer.js';
import { isSumOfBranches } from './judge-pairs.js';

/** A block of branches, of which one checkpoint has the sum. */
export interface FoundBlock extends MergedBlock {
  readonly foldedSide: 'before' | 'after';
  readonly live: Checkpoint;
  readonly other: Checkpoint;
}

/** The blocks of either side that the other has merged. */
export function findBlocks(
  { before, after }: Readonly<Record<'before' | 'after', ExaminedCheckpoint>>,
  { onlyBefore, onlyAfter }: Pairing,
  edits: readonly PrefixEdit[],
): readonly FoundBlock[] {
  const back = edits.map(({ from, to }) => ({ from: to, to: from }));
  const find = (
    foldedSide: 'before' | 'after',
    [live, other]: readonly [ExaminedCheckpoint, ExaminedCheckpoint],
    search: Omit<MergedSearch, 'free'>,
  ) =>
    findMergedBlocks(live, other, { ...search, free: listFreeLinears(other) }).map((block) => ({
      ...block,
      foldedSide,
      live: live.checkpoint,
      other: other.checkpoint,
    }));
  return [
    ...find('after', [before, after], { alone: onlyBefore, edits: back }),
    ...find('before', [after, before], { alone: onlyAfter, edits }),
  ];
}

/** One of the parallel paths whose outputs a block adds up: a norm layer, and the convolution in front of it. */
export interface Branch {
  readonly layer: NormLayer;
  /** Null where the norm layer takes the block's own input. */
  readonly linear: LinearLayer | null;
  /** What the block multiplies the branch by: a layer scale, taken off where the sign is −1; null elsewhere. */
  readonly gain: { readonly sign: 1 | -1; readonly scale: Tensor | null } | null;
}

/** A block of branches on one side, and the convolution that they were merged into on the other. */
export interface MergedBlock {
  readonly branches: readonly Branch[];
  readonly merged: LinearLayer;
}

/** The deepest names in use have a branch's norm layer three below the block: `rbr_conv.0.bn`. */
const MAX_LEVELS = 4;

/** MobileOne's largest blocks have seven; the work on a block grows with the square. */
const MAX_BRANCHES = 16;

/** A branch's weights of one output channel are held at once; the largest in use are some 23,000. */
const MAX_ROW = 2 ** 20;

/**
 * Finds blocks whose branches one side has and the other has merged: a convolution with a bias, and under its parent
 * (or, where it took the block's own place, under its name) norm layers without a partner. These must be all that the
 * block has: each alone, or behind one convolution that fits into the merged kernel, and nothing learned besides.
 *
 * @param alone norm layers of `live` without a live partner.
 * @param free convolutions of the other side that no live norm layer follows.
 * @param edits how names of the other side read in `live`.
 */
function findMergedBlocks(
  live: ExaminedCheckpoint,
  other: ExaminedCheckpoint,
  { alone, free, edits }: MergedSearch,
): readonly MergedBlock[] {
  const layersUnder = new Map<string, NormLayer[]>();
  for (const layer of alone.filter(({ isNamed }) => isNamed))
    for (const path of listAncestors(layer.name)) addTo(layersUnder, path, layer);
  const exists = (name: string) => live.learned.has(name);
  const isCandidate = ({ path, bias, outputAxis, weight }: LinearLayer) =>
    path !== null &&
    bias !== null &&
    outputAxis === 0 &&
    isReadable(weight) &&
    translateName(joinPath(path, 'weight'), edits, exists) === null;
  const candidates = layersUnder.size === 0 ? [] : free.filter(isCandidate);
  if (candidates.length === 0) return [];
  // A graph may call the weight of `conv1` by a number.
  const named = free.flatMap(({ path }) => (path === null ? [] : [`${path}.weight`, `${path}.bias`]));
  const shared = new Set(
    [...other.learned.keys(), ...named].flatMap((name) => translateName(name, edits, exists) ?? []),
  );
  const namesUnder = new Map<string, string[]>();
  for (const name of live.learned.keys())
    if (!shared.has(name)) for (const path of listAncestors(name)) addTo(namesUnder, path, name);
  const used = new Set<NormLayer | string>();
  const isLeft = (one: NormLayer | string) => !used.has(one);
  const parentOf = ({ path }: LinearLayer) => splitPath(path ?? '')[0];
  const inParent = new Map<string, LinearLayer[]>();
  for (const one of candidates) addTo(inParent, parentOf(one), one);
  // A block has one sum: where several stand side by side, they are no sums of what is there.
  const placesOf = (one: LinearLayer) => [
    one.path ?? '',
    ...(inParent.get(parentOf(one))?.length === 1 ? [parentOf(one)] : []),
  ];
  const read = (path: string) => translateName(path, edits, (to) => layersUnder.has(to));
  const others = new Set(candidates.flatMap(({ path }) => read(path ?? '') ?? []));
  const blocks: MergedBlock[] = [];
  const depthOf = ({ path }: LinearLayer) => path?.split('.').length ?? 0;
  const search = (merged: LinearLayer, place: string, isWhole: boolean) => {
    const at = read(place);
    if (at === null) return false;
    const layers = layersUnder.get(at)?.filter(isLeft) ?? [];
    const names = namesUnder.get(at)?.filter(isLeft) ?? [];
    const own = read(merged.path ?? '');
    const isMergedElsewhere = (root: string) => root !== own && others.has(root);
    const branches = findBranches({ at, isWhole, layers, names, live, merged, isMergedElsewhere });
    if (branches === null) return false;
    for (const one of [...layers, ...names]) used.add(one);
    blocks.push({ branches, merged });
    return true;
  };
  // The deepest first: what they leave is all that a block above them may have.
  const ordered = candidates.sort((x, y) => depthOf(y) - depthOf(x));
  const left = ordered.filter((merged) => !placesOf(merged).some((place) => search(merged, place, false)));
  for (const merged of left) search(merged, merged.path ?? '', true);
  return blocks;
}

interface MergedSearch {
  readonly alone: readonly NormLayer[];
  readonly free: readonly LinearLayer[];
  readonly edits: readonly PrefixEdit[];
}

function isReadable({ shape, elementCount, dtype, fingerprint, quantised }: Tensor): boolean {
  const isPlain = fingerprint === undefined && quantised === undefined && isDecodable(dtype);
  return isPlain && shape.length > 1 && elementCount <= MAX_ROW * (shape[0] ?? 0);
}

/** The nearest paths above one. */
function listAncestors(name: string): readonly string[] {
  const found: string[] = [];
  for (let [path] = splitPath(name); path !== '' && found.length < MAX_LEVELS + 1; [path] = splitPath(path))
    found.push(path);
  return found;
}

interface Place {
  readonly at: string;
  /** Whether one convolution and its norm layer are looked for, in whose place the merged one stands. */
  readonly isWhole: boolean;
  readonly layers: readonly NormLayer[];
  /** Of learned tensors that the other side does not have. */
  readonly names: readonly string[];
  readonly live: ExaminedCheckpoint;
  readonly merged: LinearLayer;
  /** Whether another convolution stands in the place of a module. */
  readonly isMergedElsewhere: (path: string) => boolean;
}

/** The branches of a block, which are all that it has; null where something else is there. */
function findBranches(place: Place): readonly Branch[] | null {
  const { at, isWhole, layers, names, live, merged, isMergedElsewhere } = place;
  if (layers.length === 0 || layers.length > MAX_BRANCHES) return null;
  // `stem.c` and `stem.bn` become `stem`.
  const isSingle = layers.length === 1;
  if (isWhole ? !isSingle : isSingle && !isSumOfBranches(merged)) return null;
  const { learned, checkpoint } = live;
  const left = new Set(names);
  for (const { gamma, beta } of layers)
    for (const vector of [gamma, beta])
      if (vector?.kind === 'stored') left.delete(dottedNameOf(vector.tensor.name, checkpoint));
  const weights = [...left].filter((name) => splitPath(name)[1] === 'weight');
  const mixer = findMixer(layers, { at, names: left, learned, channels: merged.channels });
  if (mixer?.scale != null) left.delete(mixer.scaleName);
  const roots = layers.map(({ name }) =>
    isWhole ? at : rootOf(name, mixer === null ? at : mixer.partOf(name)),
  );
  if (new Set(roots).size < roots.length || roots.some(isMergedElsewhere)) return null;
  const findOwn = (layer: NormLayer, root: string): LinearLayer | null | undefined => {
    if (checkpoint.graph !== null) return findFeedingLinear(layer, checkpoint, learned);
    const inside = weights.filter((name) => name.startsWith(`${root}.`));
    const beside = weights.filter((name) => stemOf(splitPath(name)[0]) === stemOf(layer.name));
    const [name, ...others] = inside.length === 0 && layer.name === root ? beside : inside;
    const weight = name === undefined ? undefined : learned.get(name);
    if (name === undefined || weight === undefined || others.length > 0)
      return others.length > 0 ? undefined : null;
    return findNamedLinearAt(splitPath(name)[0], learned, { ...merged, weight }) ?? undefined;
  };
  const branches: Branch[] = [];
  for (const [index, layer] of layers.entries()) {
    const linear = findOwn(layer, roots[index] ?? '');
    if (linear === undefined || layer.channels !== merged.channels || !fits(linear, merged)) return null;
    left.delete(linear?.weightName ?? '');
    left.delete(linear?.biasName ?? '');
    const gain = mixer === null ? null : { sign: mixer.signOf(layer.name), scale: mixer.scale };
    branches.push({ layer, linear, gain });
  }
  return left.size === 0 && branches.some(({ linear }) => linear !== null) ? branches : null;
}

/**
 * Whether a block is FastViT's mixer, x + scale · (mixer(x) − norm(x)) with branches in both parts, and what scales it; null
 * where it is none.
 */
function findMixer(
  layers: readonly NormLayer[],
  {
    at,
    names,
    learned,
    channels,
  }: Pick<Place, 'at'> &
    Pick<LinearLayer, 'channels'> & {
      readonly names: ReadonlySet<string>;
      readonly learned: ExaminedCheckpoint['learned'];
    },
) {
  const [added, taken] = [joinPath(at, 'mixer'), joinPath(at, 'norm')];
  const partOf = (name: string) => (name.startsWith(`${taken}.`) ? taken : added);
  const signOf = (name: string): 1 | -1 => (partOf(name) === taken ? -1 : 1);
  const isInside = ({ name }: NormLayer) => name.startsWith(`${partOf(name)}.`);
  if (!layers.every(isInside) || !layers.some(({ name }) => signOf(name) < 0)) return null;
  const stem = joinPath(at, 'layer_scale');
  const scaleName = [stem, `${stem}.gamma`].find((name) => names.has(name)) ?? '';
  const scale = learned.get(scaleName) ?? null;
  return scale !== null && scale.elementCount !== channels ? null : { partOf, signOf, scale, scaleName };
}

/** The module of a branch in its block: `rbr_dense` of `rbr_dense.bn`, and each of a list, as `rbr_conv.0`. */
function rootOf(name: string, at: string): string {
  const [first = '', second = '', ...rest] = name.slice(at.length + 1).split('.');
  return joinPath(at, rest.length > 0 && /^\d+$/.test(second) ? `${first}.${second}` : first);
}

/** What `square_conv` and `square_bn` have in common. */
function stemOf(path: string): string {
  return path.replace(/conv|batch_?norm|norm|bn|_/g, '');
}

/** Whether a branch's kernel can stand in the middle of the merged one; null takes the input as it is. */
export function fits(linear: LinearLayer | null, { weight: { shape }, channels }: LinearLayer): boolean {
  const isOdd = shape.slice(2).every((size) => size % 2 === 1);
  if (linear === null) return isOdd && channels % (shape[1] ?? 0) === 0;
  const own = linear.weight.shape;
  return (
    isReadable(linear.weight) &&
    linear.outputAxis === 0 &&
    own.length === shape.length &&
    own.every((size, axis) => {
      const rest = (shape[axis] ?? 0) - size;
      return axis < 2 ? rest === 0 : rest >= 0 && rest % 2 === 0;
    })
  );
}
