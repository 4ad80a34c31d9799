// Compares the learned tensors, and judges whether a region was frozen.

import { haveSameShape, type Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf } from '../checkpoint/dtype.js';
import type { PieceDigests } from '../checkpoint/fingerprint.js';
import {
  type ByteSource,
  type FileWork,
  type OnProgress,
  refuseAmplified,
  wholeOf,
} from '../io/byte-source.js';
import { inStoredOrder, stridedSource } from '../io/views.js';
import {
  addTo,
  componentsOf,
  hasWrappers,
  isGeneratedName,
  splitPath,
  standsBesideAdapter,
} from '../norm/naming.js';
import { findFeedingLinear, type LinearLayer, type NormLayer } from '../norm/norm-layer.js';
import { type LayerPair, type PrefixEdit, translateName } from './pair-layers.js';
import {
  gatherEvidence,
  type RoundedDifferences,
  type RoundingEvidence,
  relativeDifferenceIn,
  settleShort,
} from './rounding.js';
import { haveLikeShapes, TensorComparer, type TensorComparison } from './tensor-equality.js';

/** Whether a learned tensor stayed: to the last bit, up to rounding, not, or not to be told. */
export type Equality = 'exact' | 'rounded' | 'changed' | 'incomparable';

/** A learned tensor that both checkpoints have. */
export interface LearnedComparison {
  /** The dotted name that reports show: after's, unless after has lost it. */
  readonly name: string;
  readonly beforeName: string;
  readonly afterName: string;
  /** How the files themselves spell the name where they have wrappers in it; absent where they have none. */
  readonly wrappedNames?: readonly string[] | undefined;
  readonly elementCount: number;
  readonly equality: Equality;
  /** Absent unless it is `rounded`. */
  readonly rounding?: Omit<RoundedDifferences, 'kind'> | undefined;
  /** The sizes on both sides, where they differ by more than dimensions of 1. */
  readonly reshaped?: Readonly<Record<'before' | 'after', readonly number[]>> | undefined;
}

/** Whether a learned tensor stayed, to the last bit or up to rounding. */
export function isUnchanged({ equality }: Pick<LearnedComparison, 'equality'>): boolean {
  return equality === 'exact' || equality === 'rounded';
}

/** Every learned tensor, compared or said to be on one side only. */
export interface LearnedComparisons {
  readonly compared: readonly LearnedComparison[];
  /** What the tensors together say of the rounding that the checkpoint went through; null where all differences count. */
  readonly rounding: RoundingEvidence | null;
  /** Without those that were compared with several of after: what became of them, their names in after tell. */
  readonly byBefore: ReadonlyMap<string, LearnedComparison>;
  readonly byAfter: ReadonlyMap<string, LearnedComparison>;
  readonly onlyBefore: readonly string[];
  readonly onlyAfter: readonly string[];
  /** Paths of modules of after with learned tensors further below that before does not have. */
  readonly extended: ReadonlySet<string>;
}

/** What was judged already, per channel, when folded norm layers were looked for. */
export interface JudgedTensors {
  readonly learned: readonly LearnedComparison[];
  readonly judgedBefore: ReadonlySet<string>;
  readonly judgedAfter: ReadonlySet<string>;
  /** How before's names read in after. */
  readonly edits: readonly PrefixEdit[];
}

/** What a comparison of learned tensors is told beside them. */
export interface LearnedOptions {
  readonly folded: JudgedTensors;
  /** Tensors that go together though their names do not. */
  readonly feeds?: readonly TensorPair[] | undefined;
  /** Tensors that go together by what they hold, whatever names say. */
  readonly byValue?: readonly TensorPair[] | undefined;
  readonly onProgress?: OnProgress | undefined;
  readonly known?: Pick<LearnedComparisons, 'byAfter'> | undefined;
  readonly digests?: PieceDigests | undefined;
  /** Whether every difference counts as a change. */
  readonly exact?: boolean | undefined;
  /** Whether matrices count inputs first on one side alone, as PaddlePaddle's do. */
  readonly areTurned?: boolean | undefined;
}

/**
 * Plans to compare every learned tensor that both sides have and that was not judged already: a work for each, by its
 * place in before's file, or after's where before is a baseline. Once all are done, `conclude` says what they found.
 *
 * @param allBefore learned tensors by dotted name, likewise `allAfter`.
 * @param known what an earlier comparison found, where the caller knows that these bytes are the same still; such tensors
 *   are not read.
 * @param digests of what other comparisons have read.
 */
export function planLearnedComparisons(
  allBefore: Tensors,
  allAfter: Tensors,
  { folded, feeds = [], byValue = [], onProgress, known, digests, exact, areTurned }: LearnedOptions,
): { readonly works: readonly FileWork[]; readonly conclude: () => LearnedComparisons } {
  const before = without(allBefore, folded.judgedBefore);
  const after = without(allAfter, folded.judgedAfter);
  const byName = pairTensors(before, after, folded.edits);
  if (areTurned === true) for (const [name, pair] of byName) byName.set(name, turn(pair));
  const named = withFeeds(byName, feeds, { before, after });
  const pairs = new Map(named);
  // What values tell goes before what the names of after's tensors led to. One of before may have gone into several.
  for (const pair of byValue)
    if (before.has(pair.name) && after.has(pair.afterName)) pairs.set(pair.afterName, pair);
  const readings = planReadings([...pairs.values()]);
  const results = new Map<string, ComparedTensor>();
  const comparer = new TensorComparer({ isExact: exact === true, digests });
  const total = [...readings.values()].reduce((sum, { before }) => sum + before.range.byteLength, 0);
  let done = 0;
  const compare = async ({ name, afterName, tensor, partner }: TensorPair, reading: Reading) => {
    const earlier = known?.byAfter.get(afterName);
    const isKnown = earlier?.beforeName === name;
    if (!isKnown) reading.result ??= await comparer.compare(reading.before, reading.after);
    const wrappedNames = [tensor.name, partner.name].filter(hasWrappers);
    results.set(afterName, {
      name: isGeneratedName(afterName) ? name : afterName,
      beforeName: name,
      afterName,
      wrappedNames: wrappedNames.length === 0 ? undefined : wrappedNames,
      elementCount: tensor.elementCount,
      reshaped: haveLikeShapes(tensor.shape, partner.shape)
        ? undefined
        : { before: tensor.shape, after: partner.shape },
      result: isKnown ? earlier : take(reading.result, name),
    });
    done += reading.before.range.byteLength;
    onProgress?.({ done, total });
  };
  return {
    works: [...readings].map(([pair, reading]) => ({
      range: (pair.tensor.fingerprint === undefined ? reading.before : reading.after).range,
      run: () => compare(pair, reading),
    })),
    conclude: () => {
      const own = [...pairs.keys()].map((afterName) => take(results.get(afterName), afterName));
      const evidence = gatherEvidence(
        own.flatMap(({ result }) => {
          if ('equality' in result) return result.rounding ?? [];
          return result.kind === 'rounded' || result.kind === 'short' ? result : [];
        }),
      );
      const compared = [...own.map((tensor) => settle(tensor, evidence)), ...folded.learned];
      const paired = new Set([...pairs.values()].map(({ name }) => name));
      const onlyAfter = [...after.keys()].filter((name) => !pairs.has(name));
      return {
        compared,
        rounding: exact === true ? null : evidence,
        byBefore: indexSingles(compared),
        byAfter: new Map(compared.map((comparison) => [comparison.afterName, comparison])),
        onlyBefore: [...before.keys()].filter((name) => !paired.has(name)),
        onlyAfter,
        extended: new Set(onlyAfter.flatMap(listModulesAbove)),
      };
    },
  };
}

function indexSingles(compared: readonly LearnedComparison[]): ReadonlyMap<string, LearnedComparison> {
  const byName = new Map<string, LearnedComparison[]>();
  for (const comparison of compared) addTo(byName, comparison.beforeName, comparison);
  return new Map(
    [...byName].flatMap(([name, all]) => (all.length === 1 ? all.map((one) => [name, one] as const) : [])),
  );
}

/** The modules above the one that owns a tensor, without the root: `a` and `a.b` of `a.b.lora_A.weight`. */
function listModulesAbove(name: string): readonly string[] {
  const components = componentsOf(name).slice(0, -2);
  return components.map((_, index) => components.slice(0, index + 1).join('.'));
}

/** A tensor of before and the one of after that goes with it, by dotted names. */
export interface TensorPair {
  readonly name: string;
  readonly afterName: string;
  readonly tensor: Tensor;
  readonly partner: Tensor;
}

/** What is read to compare pairs of tensors: tied ones are compared once. */
interface Reading {
  readonly before: Tensor;
  readonly after: Tensor;
  result?: TensorComparison;
}

/** @throws CheckpointError `limit-exceeded` where tensors claim far more bytes than their files store for them. */
function planReadings(pairs: readonly TensorPair[]): ReadonlyMap<TensorPair, Reading> {
  const ids = new Map<ByteSource, number>();
  const keyOf = ({ range: { source, offset }, dtype, shape }: Tensor) => {
    if (!ids.has(source)) ids.set(source, ids.size);
    return `${ids.get(source)}+${offset} ${dtype} ${shape}`;
  };
  const byKey = new Map<string, Reading>();
  const readings = new Map<TensorPair, Reading>();
  for (const pair of pairs) {
    const reading = readAlike(pair);
    const key = `${keyOf(reading.before)}, ${keyOf(reading.after)}`;
    readings.set(pair, byKey.get(key) ?? reading);
    if (!byKey.has(key)) byKey.set(key, reading);
  }
  for (const side of ['before', 'after'] as const) {
    const ranges = [...byKey.values()].flatMap(({ [side]: { fingerprint, range } }) =>
      fingerprint === undefined ? [range] : [],
    );
    refuseAmplified(ranges, ranges[0]?.source.name ?? '');
  }
  return readings;
}

/** Tensors of one strided layout are compared by what is stored, in the order of the file. */
function readAlike({ tensor: before, partner: after }: TensorPair): Reading {
  const areRead = before.fingerprint === undefined && after.fingerprint === undefined;
  const stored =
    areRead && haveLikeShapes(before.shape, after.shape) ? inStoredOrder(before.range, after.range) : null;
  if (stored === null) return { before, after };
  const [one, other] = stored;
  const elementCount = (one.byteLength * 8) / bitsOf(before.dtype);
  const facts = { shape: [elementCount], elementCount };
  return { before: { ...before, ...facts, range: one }, after: { ...after, ...facts, range: other } };
}

function pairTensors(before: Tensors, after: Tensors, edits: readonly PrefixEdit[]): Map<string, TensorPair> {
  const pairs = new Map<string, TensorPair>();
  for (const [name, tensor] of before) {
    const isFree = (candidate: string) => after.has(candidate) && !pairs.has(candidate);
    const afterName = translateName(name, edits, isFree);
    const partner = afterName === null ? undefined : after.get(afterName);
    if (afterName === null || partner === undefined) continue;
    if (isGeneratedName(name) && !haveLikeShapes(tensor.shape, partner.shape)) continue;
    pairs.set(afterName, { name, afterName, tensor, partner });
  }
  return pairs;
}

/** Two matrices in the order of one of them, where that is the other's transposed; else the pair as it is. */
function turn(pair: TensorPair): TensorPair {
  const { tensor, partner } = pair;
  const [one, other] = [
    { weight: tensor, outputAxis: 0 },
    { weight: partner, outputAxis: 1 },
  ];
  const turned = layOutLike(one, other);
  if (turned !== null) return { ...pair, partner: turned };
  return { ...pair, tensor: layOutLike(other, one) ?? tensor };
}

/**
 * Adds pairs that a graph tells of, which names leave alone on both sides, or where an exporter has numbered them: such a
 * name means another tensor in every file.
 */
function withFeeds(
  pairs: ReadonlyMap<string, TensorPair>,
  feeds: readonly TensorPair[],
  { before, after }: { before: Tensors; after: Tensors },
): ReadonlyMap<string, TensorPair> {
  const all = new Map(pairs);
  const byBefore = new Map([...pairs.values()].map((pair) => [pair.name, pair]));
  const kept = new Set<TensorPair>();
  for (const feed of feeds) {
    if (!before.has(feed.name) || !after.has(feed.afterName)) continue;
    const rivals = [byBefore.get(feed.name), all.get(feed.afterName)].filter((pair) => pair !== undefined);
    if (rivals.some((pair) => kept.has(pair) || !isGeneratedName(pair.name))) continue;
    for (const { name, afterName } of rivals) {
      byBefore.delete(name);
      all.delete(afterName);
    }
    byBefore.set(feed.name, feed);
    all.set(feed.afterName, feed);
    kept.add(feed);
  }
  return all;
}

/**
 * Whether PEFT has put an adapter around the tensor's layer that is new in after: `conv.lora_A.default.weight` beside
 * `conv.base_layer.weight`. What the layer computes was trained then, although its own weight stands still.
 */
export function isAdapted(
  { afterName, wrappedNames = [] }: LearnedComparison,
  { extended }: LearnedComparisons,
): boolean {
  return wrappedNames.some(standsBesideAdapter) && extended.has(splitPath(afterName)[0]);
}

/** Every name of a compared tensor, the shown one first: globs may use any. */
export function listTensorNames(tensor: LearnedComparison): readonly string[] {
  return [tensor.name, tensor.beforeName, tensor.afterName, ...(tensor.wrappedNames ?? [])];
}

/** With what their values say, or what an earlier comparison found. */
interface ComparedTensor extends Omit<LearnedComparison, 'equality' | 'rounding'> {
  readonly result: TensorComparison | LearnedComparison;
}

function settle({ result, ...tensor }: ComparedTensor, evidence: RoundingEvidence): LearnedComparison {
  if ('equality' in result) return result;
  if (result.kind === 'rounded') return { ...tensor, equality: 'rounded', rounding: result };
  if (result.kind !== 'short') return { ...tensor, equality: result.kind };
  const cause = settleShort(result, evidence);
  if (cause === null) return { ...tensor, equality: 'changed' };
  const relativeDifference = relativeDifferenceIn(result);
  return { ...tensor, equality: 'rounded', rounding: { cause, relativeDifference, narrowing: null } };
}

function take<Result>(result: Result | undefined, name: string): Result {
  if (result === undefined) throw new Error(`${name} is still to be compared`);
  return result;
}

type Tensors = ReadonlyMap<string, Tensor>;

function without(tensors: Tensors, judged: ReadonlySet<string>): Tensors {
  return judged.size === 0 ? tensors : new Map([...tensors].filter(([name]) => !judged.has(name)));
}

type FedSide = Parameters<typeof findFeedingLinear>[1];

/**
 * Pairs the weights and biases that feed norm layers of both checkpoints, where a graph has lost their names: exporters
 * transpose the weight of `nn.Linear(bias=False)` into a constant of a MatMul that they number.
 */
export function pairFeeds(
  pairs: readonly LayerPair[],
  before: { readonly checkpoint: FedSide; readonly learned: Tensors },
  after: typeof before,
): readonly TensorPair[] {
  const find = (layer: NormLayer, { checkpoint, learned }: typeof before) =>
    layer.areNeighboursCertain === false ? null : findFeedingLinear(layer, checkpoint, learned);
  return pairs.flatMap((pair) => {
    if (!pair.before.isFromGraph && !pair.after.isFromGraph) return [];
    const [left, right] = [find(pair.before, before), find(pair.after, after)];
    return left === null || right === null ? [] : pairParts(left, right);
  });
}

/** The weights of two linear layers that are the same one, and their biases. */
function pairParts(left: LinearLayer, right: LinearLayer): readonly TensorPair[] {
  const partner = layOutLike(left, right);
  const tensor = partner === null ? layOutLike(right, left) : left.weight;
  if (tensor === null) return [];
  const weights = {
    name: left.weightName,
    afterName: right.weightName,
    tensor,
    partner: partner ?? right.weight,
  };
  if (left.bias === null || right.bias === null) return [weights];
  const biases = { name: left.biasName, afterName: right.biasName, tensor: left.bias, partner: right.bias };
  return [weights, biases];
}

type LaidOut = Pick<LinearLayer, 'weight' | 'outputAxis'>;

/** A weight with its axes in another's order; null where it cannot be the same one. */
export function layOutLike(other: LaidOut, { weight, outputAxis }: LaidOut): Tensor | null {
  const [rows = 0, columns = 0] = weight.shape;
  if (outputAxis === other.outputAxis) return haveSameShape(weight, other.weight) ? weight : null;
  const shape = [columns, rows];
  const isMatrix = weight.shape.length === 2 && other.weight.shape.length === 2;
  if (!isMatrix || !shape.every((size, axis) => size === other.weight.shape[axis])) return null;
  // A baseline's hash and a quantiser's codes are those of one order.
  const isFixed = weight.fingerprint !== undefined || weight.quantised !== undefined;
  if (isFixed || bitsOf(weight.dtype) < 8) return null;
  const view = { shape, strides: [1, columns], firstElement: 0, elementByteLength: bitsOf(weight.dtype) / 8 };
  return { ...weight, shape, range: wholeOf(stridedSource(weight.range, view)) };
}
