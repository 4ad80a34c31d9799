// Finds, pairs and compares layers of which one side, or both, was folded into a convolution.

import type { ChannelLayout } from '../checkpoint/channel-grid.js';
import { type Checkpoint, haveSameShape, type Tensor } from '../checkpoint/checkpoint.js';
import { isUnmarked, type LayerComparison, measuresOf } from '../compare/compare-layers.js';
import { type JudgedTensors, type LearnedComparison, layOutLike } from '../compare/compare-learned.js';
import {
  findNamesake,
  type PairedBy,
  type Pairing,
  type PrefixEdit,
  pairInStep,
  pairLayers,
  translateName,
} from '../compare/pair-layers.js';
import type { ProportionalScales, ScaleComparison } from '../compare/projected-scales.js';
import { gatherEvidence, relativeDifferenceIn, settleShort } from '../compare/rounding.js';
import { readOptional } from '../compare/statistics.js';
import { CheckpointError, findDocs, quote } from '../errors.js';
import { haveSameBytes, refuseAmplified } from '../io/byte-source.js';
import { dottedNameOf, dottedTensorsOf, joinPath, splitPath } from '../norm/naming.js';
import {
  chooseNamed,
  type ExaminedCheckpoint,
  findBiasedLinears,
  findFeedingLinear,
  findNamedLinearAt,
  type LinearLayer,
  listFreeLinears,
  type NormLayer,
} from '../norm/norm-layer.js';
import { compareChannelScales, type SettledComparison, widestBlur } from './channel-scales.js';
import { type FoundBlock, findBlocks } from './find-blocks.js';
import { listLayerScales, listRows } from './folded-along.js';
import {
  type FoldedContext,
  isSumOfBranches,
  type Judgement,
  judgeFoldedPair,
  judgeRecoveredPair,
  type Proof,
  toFoldedLayer,
} from './judge-pairs.js';
import { type JudgedBlock, judgeMergedBlock } from './merged-branches.js';
import { type EpsilonEvidence, findCommonOffset } from './recover-statistics.js';

/**
 * What the comparison of folded norm layers found, and what it leaves for the comparison of live ones: norm layers that
 * neither a live nor a folded partner was found for, and learned tensors.
 */
interface FoldedResults extends Omit<Pairing, 'pairs'>, JudgedTensors {
  readonly layers: readonly LayerComparison[];
  /** What the user should know of how these layers were found, as sentences. */
  readonly remarks: readonly string[];
}

/** A linear layer to find a partner for, with the live norm layer behind it, where there is one. */
interface Candidate {
  readonly linear: LinearLayer;
  /** The module path of its norm layer, where one is live or named on this side. */
  readonly normName: string | null;
  readonly layer: NormLayer | null;
  readonly checkpoint: Checkpoint;
  /** The name of the other side's weight that it goes with, where values tell. */
  readonly partner?: string | undefined;
}

/** What feeds a norm layer, and what that goes with on the other side, where values tell. */
interface Located {
  readonly linear: LinearLayer;
  readonly partner?: string;
}

/**
 * Finds and compares norm layers that were folded into the convolution before them, on one side or on both: for each
 * pair of convolutions, whether after's output channels are multiples of before's, and what follows from the factors.
 *
 * @param pairing of the live norm layers; those without a partner are looked for here.
 * @throws CheckpointError `ambiguous` when a wrong epsilon explains what would look like drift, `limit-exceeded` where
 *   weights claim far more bytes than their file stores for them.
 */
export async function compareFolded(
  before: ExaminedCheckpoint,
  after: ExaminedCheckpoint,
  { pairing, maps, ...options }: FoldedContext & { pairing: Pairing; maps: readonly PrefixEdit[] },
): Promise<FoldedResults> {
  const isLikely = mayBeFolded(before, after, pairing);
  if (!isLikely && ![before, after].every((side) => listFreeLinears(side).some(isNamedAndBiased)))
    return { ...pairing, ...NOTHING_FOLDED };
  const layerScales = { before: listLayerScales(before), after: listLayerScales(after) };
  const context = { ...options, layerScales, rows: listRows([before, after]) };
  const found = await findCandidates({ before, after }, { ...options, pairing, maps, isLikely });
  const { blocks, edits, left, right } = found;
  const pairs = await pairCandidates(found, { before, after });
  const comparisons = await compareSuspects(pairs, chooseProofs(before, after));
  const results: Mutable = {
    layers: [],
    learned: [],
    joined: new Set(),
    judgedBefore: new Set(),
    judgedAfter: new Set(),
  };
  const evidence: EpsilonEvidence[] = [];
  const settle = makeSettler(comparisons, context);
  for (const [suspect, unsettled] of comparisons) {
    const compared = settle(unsettled);
    if (compared.kind === 'changed' && mayHaveLostNorm(suspect, { before, after })) continue;
    const judgement = await judge(suspect, compared, context);
    if (judgement === null) continue;
    record(judgement, suspect, unsettled, results);
    if (judgement.epsilonEvidence) evidence.push(judgement.epsilonEvidence);
  }
  for (const block of blocks.filter(isOfSeveral)) {
    const judged = await judgeMergedBlock(block, context);
    recordBlock(judged, block, results);
    if (judged.epsilonEvidence !== null) evidence.push(judged.epsilonEvidence);
  }
  const common = findCommonOffset(evidence);
  if (common?.isCertain === true) {
    const { actual, assumed } = common;
    const judged = await compareFolded(before, after, { ...context, pairing, maps, epsilon: actual });
    const told = `an epsilon of ${actual} in place of ${assumed} explains the folded weights of ${common.layers} layers: it was taken for the model's own, which a file of names alone does not tell`;
    const layers = judged.layers.map((layer) => ({ ...layer, epsilonFrom: 'weights' as const }));
    return { ...judged, layers, remarks: [...judged.remarks, told] };
  }
  if (common !== null) refuseWrongEpsilon(common, before.checkpoint);
  const paired = new Set(pairs.flatMap((pair) => [pair.before, pair.after]));
  // Folded norm layers whose convolution has no partner, too: what was not audited is said.
  const listLeft = (alone: readonly NormLayer[], candidates: readonly Candidate[]) => [
    ...alone.filter((layer) => !results.joined.has(layer)),
    ...candidates
      .filter((one) => one.layer === null && one.linear.looksFolded && !paired.has(one))
      .map(({ linear }) => toFoldedLayer(linear, linear.weightName)),
  ];
  return {
    ...results,
    // Where no convolution stayed, nothing is left that could show a norm layer: the models need never have had one.
    layers: results.layers.every((layer) => isUnmarked(layer) && layer.status === 'trained')
      ? []
      : results.layers,
    remarks: describeUnmarked(results.layers),
    onlyBefore: listLeft(pairing.onlyBefore, left),
    onlyAfter: listLeft(pairing.onlyAfter, right),
    edits,
  };
}

type Sides = Readonly<Record<'before' | 'after', ExaminedCheckpoint>>;

/** What may hide norm layers of either side. */
interface FoundCandidates {
  /** Blocks that the other side has merged; what is part of one is no candidate. */
  readonly blocks: readonly FoundBlock[];
  readonly left: readonly Candidate[];
  readonly right: readonly Candidate[];
  /** How before's names read in after. */
  readonly edits: readonly PrefixEdit[];
}

async function findCandidates(
  sides: Sides,
  {
    pairing,
    maps,
    isLikely,
    ...context
  }: FoldedContext & { pairing: Pairing; maps: readonly PrefixEdit[]; isLikely: boolean },
): Promise<FoundCandidates> {
  const { before, after } = sides;
  // Blocks by the names as they are: what they hold is no sign of a prefix.
  const named = findBlocks(sides, pairing, pairing.edits);
  const guesses = [
    withoutBlocks(listCandidates(before, pairing.onlyBefore), named),
    withoutBlocks(listCandidates(after, pairing.onlyAfter), named),
  ] as const;
  const edits = findEdits(...guesses, { pairing, maps, afterPath: after.checkpoint.path });
  const blocks = named.length > 0 ? named : findBlocks(sides, pairing, edits);
  const inBlocks = new Set(blocks.flatMap(({ branches }) => branches.map(({ layer }) => layer)));
  const onlyBefore = pairing.onlyBefore.filter((layer) => !inBlocks.has(layer));
  const onlyAfter = pairing.onlyAfter.filter((layer) => !inBlocks.has(layer));
  const toBefore = edits.map(({ from, to }) => ({ from: to, to: from }));
  const inBefore = locateFolded(after, before, toBefore);
  const inAfter = locateFolded(before, after, edits);
  await locateByValues(inBefore, { named: before, folded: after }, onlyBefore, {
    ...context,
    edits: toBefore,
    foldedSide: 'after',
  });
  await locateByValues(inAfter, { named: after, folded: before }, onlyAfter, {
    ...context,
    edits,
    foldedSide: 'before',
  });
  const isWorthPairing = ({ linear }: Candidate) => isLikely || isNamedAndBiased(linear);
  return {
    blocks,
    left: withoutBlocks(listCandidates(before, onlyBefore, inBefore), blocks).filter(isWorthPairing),
    right: withoutBlocks(listCandidates(after, onlyAfter, inAfter), blocks).filter(isWorthPairing),
    edits,
  };
}

async function pairCandidates(
  { blocks, left, right, edits }: FoundCandidates,
  { before, after }: Sides,
): Promise<readonly LinearPair[]> {
  const single = blocks.flatMap(toSinglePair);
  const isPossible =
    [left, right].every((side) => side.length > 0) && [...left, ...right].some(({ layer }) => layer === null);
  if (!isPossible) return single;
  for (const side of [left, right]) refuseAmplifiedWeights(side);
  const areGraphs = [before, after].every(({ checkpoint }) => checkpoint.graph !== null);
  const pairs = await pairLinears(left, right, edits, areGraphs);
  return [...single, ...pairs, ...(await pairCalls(pairs, { before: left, after: right }))];
}

/** Exporters fold a layer that is called several times once for each call: what is left of these goes with the layer, too. */
async function pairCalls(
  pairs: readonly LinearPair[],
  candidates: Readonly<Record<'before' | 'after', readonly Candidate[]>>,
): Promise<readonly LinearPair[]> {
  const found: LinearPair[] = [];
  for (const [side, live] of [
    ['before', 'after'],
    ['after', 'before'],
  ] as const) {
    const paired = new Set(pairs.map((pair) => pair[side]));
    for (const call of candidates[side]) {
      if (call.layer !== null || !call.linear.looksFolded || paired.has(call)) continue;
      for (const pair of pairs) {
        if (pair[live].layer === null || !(await holdSame(call.linear, pair[side].linear))) continue;
        found.push({ ...pair, [side]: call });
        break;
      }
    }
  }
  return found;
}

async function holdSame(one: LinearLayer, other: LinearLayer): Promise<boolean> {
  if (one.bias === null || other.bias === null || !haveSameShape(one.weight, other.weight)) return false;
  if ([one.weight, one.bias].some(({ fingerprint }) => fingerprint !== undefined)) return false;
  const areBiases = await haveSameBytes(one.bias.range, other.bias.range);
  return areBiases && (await haveSameBytes(one.weight.range, other.weight.range));
}

async function compareSuspects(
  pairs: readonly LinearPair[],
  findProof: ReturnType<typeof chooseProofs>,
): Promise<readonly (readonly [Suspect, ScaleComparison])[]> {
  const comparisons: (readonly [Suspect, ScaleComparison])[] = [];
  for (const pair of pairs) {
    const proof = findProof(pair);
    if (proof === null) continue;
    if (proof === 'rescaled' && (await haveEqualBiases(pair))) continue;
    const suspect = { ...pair, proof };
    comparisons.push([suspect, await compareSuspect(suspect)]);
  }
  return comparisons;
}

const NOTHING_FOLDED: Omit<FoldedResults, keyof Pairing> = {
  layers: [],
  learned: [],
  remarks: [],
  judgedBefore: new Set(),
  judgedAfter: new Set(),
};

function isNamedAndBiased({ path, bias }: LinearLayer): boolean {
  return path !== null && bias !== null;
}

/** What was compared in place of norm layers, and how it was paired. */
function describeUnmarked(layers: readonly LayerComparison[]): readonly string[] {
  const unmarked = layers.filter(isUnmarked);
  if (unmarked.length === 0) return [];
  const ways = new Set(unmarked.map(({ pairedBy }) => pairedBy));
  const how = [...ways].map((way) => (way === 'order' ? 'by their order' : `by ${way}`)).join(' and ');
  const what =
    unmarked.length === 1
      ? '1 convolution or linear layer'
      : `${unmarked.length} convolutions or linear layers`;
  return [
    `${what} with a bias, paired ${how}, stand for norm layers that may have been folded into them: neither file says whether there were any. More: ${findDocs('docs/folding.md')}`,
  ];
}

/** A block of one branch with a kernel of its own size is an ordinary folded convolution, whose mean can be told too. */
function isOfSeveral({ branches, merged }: FoundBlock): boolean {
  const [{ linear } = { linear: null }, ...others] = branches;
  return others.length > 0 || linear === null || !haveSameShape(linear.weight, merged.weight);
}

/** Candidates that are no part of some blocks. */
function withoutBlocks(
  candidates: readonly Candidate[],
  blocks: readonly FoundBlock[],
): readonly Candidate[] {
  const taken = new Set(
    blocks.flatMap(({ branches, merged }): readonly (Tensor | NormLayer)[] => [
      merged.weight,
      ...branches.map(({ layer }) => layer),
    ]),
  );
  return candidates.filter(({ linear, layer }) => !taken.has(layer ?? linear.weight));
}

function toSinglePair(block: FoundBlock): readonly LinearPair[] {
  const [branch] = block.branches;
  if (isOfSeveral(block) || branch?.linear == null) return [];
  const { layer, linear } = branch;
  const one: Candidate = { linear, normName: layer.name, layer, checkpoint: block.live };
  const other: Candidate = { linear: block.merged, normName: null, layer: null, checkpoint: block.other };
  const [before, after] = block.foldedSide === 'after' ? [one, other] : [other, one];
  return [{ before, after, pairedBy: 'name' }];
}

function recordBlock({ layers, equalities }: JudgedBlock, block: FoundBlock, results: Mutable): void {
  const { branches, merged, foldedSide, live } = block;
  const [judgedLive, judgedMerged] =
    foldedSide === 'after'
      ? [results.judgedBefore, results.judgedAfter]
      : [results.judgedAfter, results.judgedBefore];
  results.layers.push(...layers);
  for (const name of [merged.weightName, merged.biasName]) judgedMerged.add(name);
  for (const [index, { layer, linear }] of branches.entries()) {
    results.joined.add(layer);
    for (const name of listAffine(layer, live)) judgedLive.add(name);
    if (linear === null) continue;
    for (const name of [linear.weightName, linear.biasName]) judgedLive.add(name);
    const names = [linear.weightName, merged.weightName];
    const [beforeName = '', afterName = ''] = foldedSide === 'after' ? names : names.reverse();
    const equality = equalities[index] ?? 'incomparable';
    const { relativeDifference = 0 } = layers[index] ?? {};
    results.learned.push({
      name: linear.weightName,
      beforeName,
      afterName,
      elementCount: linear.weight.elementCount,
      ...(equality === 'exact' && relativeDifference > 0
        ? { equality: 'rounded', rounding: { cause: 'averaged', relativeDifference, narrowing: null } }
        : { equality }),
    });
  }
}

/** The names of a norm layer's own learned tensors. */
function listAffine({ gamma, beta }: NormLayer, checkpoint: Checkpoint): readonly string[] {
  return [gamma, beta].flatMap((vector) =>
    vector?.kind === 'stored' ? [dottedNameOf(vector.tensor.name, checkpoint)] : [],
  );
}

interface Mutable {
  readonly layers: LayerComparison[];
  readonly learned: LearnedComparison[];
  readonly joined: Set<NormLayer>;
  readonly judgedBefore: Set<string>;
  readonly judgedAfter: Set<string>;
}

/** @param located what feeds a layer, by its name, where the other side's graph tells. */
function listCandidates(
  side: ExaminedCheckpoint,
  layers: readonly NormLayer[],
  located: ReadonlyMap<string, Located> = new Map(),
): readonly Candidate[] {
  const { checkpoint, learned } = side;
  const live = layers.flatMap((layer) => {
    const { linear = findFeedingLinear(layer, checkpoint, learned), partner } = {
      ...located.get(layer.name),
    };
    const normName = layer.isNamed ? layer.name : null;
    return linear === null ? [] : [{ linear, normName, layer, checkpoint, partner }];
  });
  const free = { normName: null, layer: null, checkpoint };
  return [...live, ...listFreeLinears(side).map((linear) => ({ linear, ...free }))];
}

/**
 * What feeds the norm layers of a file of names. From names and shapes alone that is a guess; a graph on the other side
 * may know which convolution each layer was folded into, and how that one counts its outputs. Else the one convolution
 * that got a bias beside the layer is it: `up.conv` for `up.bn`.
 *
 * @param edits how names of the graph read in the file of names.
 */
function locateFolded(
  foldedSide: ExaminedCheckpoint,
  namedSide: ExaminedCheckpoint,
  edits: readonly PrefixEdit[],
): Map<string, Located> {
  const located = new Map<string, Located>();
  if (namedSide.checkpoint.graph !== null) return located;
  const { learned } = namedSide;
  const uncertain = namedSide.layers.filter(({ areNeighboursCertain }) => areNeighboursCertain === false);
  const besideNorm = indexByParent(uncertain);
  const linears = listFreeLinears(foldedSide).flatMap((folded) =>
    folded.path === null ? [] : [{ folded, name: folded.path, channels: folded.channels }],
  );
  const isAlone = indexByParent(linears);
  for (const { folded, name: foldedPath } of linears) {
    const linear = findCounterpart(folded, learned, edits);
    const path = linear?.path ?? null;
    if (path === null || linear === null) continue;
    const beside =
      isAlone.get(keyOf(foldedPath, folded.channels)) === foldedPath
        ? besideNorm.get(keyOf(path, folded.channels))
        : null;
    const { foldedNormPath } = folded;
    const names =
      foldedNormPath === null
        ? [beside ?? []].flat()
        : edits.flatMap((edit) => translateName(foldedNormPath, [edit], () => true) ?? []);
    for (const name of names) if (!located.has(name)) located.set(name, { linear });
  }
  return located;
}

/** The linear layer of a file of names that bears the name of another file's; null where there is none, or another shape. */
function findCounterpart(
  folded: LinearLayer,
  learned: ReadonlyMap<string, Tensor>,
  edits: readonly PrefixEdit[],
): LinearLayer | null {
  if (folded.path === null) return null;
  const exists = (name: string) => learned.has(joinPath(name, 'weight'));
  const path =
    translateName(folded.path, edits, exists) ??
    listFirstCalls(folded.path).flatMap((first) => translateName(first, edits, exists) ?? [])[0];
  return path === undefined ? null : findNamedLinearAt(path, learned, folded);
}

/** What a path may be of a later call of: TorchScript's exporter calls `head.conv` so `head_1.conv` or `head.conv_1`. */
function listFirstCalls(path: string): readonly string[] {
  const parts = path.split('.');
  return parts.flatMap((part, index) => {
    const first = part.replace(/_\d+$/, '');
    return first === part || first === '' ? [] : parts.with(index, first).join('.');
  });
}

/** Channels that are solved for to find out which layer goes with which convolution; where there are more, names decide. */
const MAX_TRIED_CHANNELS = 1 << 20;

/**
 * Where names leave open what feeds a norm layer, values tell: of the layers that a convolution may feed it is the one that
 * moved least. Another one's γ and β solve for statistics that lie anywhere.
 *
 * @param located gets what is found.
 */
async function locateByValues(
  located: Map<string, Located>,
  sides: Readonly<Record<'named' | 'folded', ExaminedCheckpoint>>,
  unpaired: readonly NormLayer[],
  {
    edits,
    foldedSide,
    ...context
  }: FoldedContext & { readonly foldedSide: 'before' | 'after'; readonly edits: readonly PrefixEdit[] },
): Promise<void> {
  const { checkpoint, learned, layers } = sides.named;
  if (checkpoint.graph !== null) return;
  const open = unpaired.filter((one) => one.areNeighboursCertain === false && !located.has(one.name));
  const certain = layers.filter((one) => one.areNeighboursCertain !== false);
  const taken = new Set(
    [
      ...[...located.values()].map(({ linear }) => linear),
      ...certain.flatMap((one) => findFeedingLinear(one, checkpoint, learned) ?? []),
    ].map(({ weightName }) => weightName),
  );
  const tries: {
    readonly layer: NormLayer;
    readonly live: LinearLayer;
    readonly partner: string;
    readonly distance: number;
  }[] = [];
  let channelsLeft = MAX_TRIED_CHANNELS;
  for (const folded of open.length === 0 ? [] : listFreeLinears(sides.folded)) {
    const live = findCounterpart(folded, learned, edits);
    if (live === null || taken.has(live.weightName)) continue;
    const possible = open.filter(
      ({ channels, neighbours }) => channels === live.channels && neighbours.includes(live.weightName),
    );
    const compared =
      possible.length === 0 ? null : await compareChannelScales(live.weight, folded.weight, live);
    if (compared?.kind !== 'proportional' && compared?.kind !== 'changed') continue;
    for (const layer of possible) {
      channelsLeft -= layer.channels;
      if (channelsLeft < 0) return;
      const pair = { layer, live, folded, foldedSide, pairedBy: 'values' } as const;
      const judged = (await judgeRecoveredPair(pair, compared, context))?.layer ?? null;
      const measures = judged === null ? null : measuresOf(judged);
      const distance = measures === null ? Number.NaN : measures.meanShift.rms + measures.logStdRatio.rms;
      const isFound = judged?.status !== 'trained' && Number.isFinite(distance);
      // A trained one goes with any layer that is left: what became of that cannot be told.
      if (isFound || compared.kind === 'changed')
        tries.push({
          layer,
          live,
          partner: folded.weightName,
          distance: isFound ? distance : Number.POSITIVE_INFINITY,
        });
    }
  }
  // A convolution that several layers share was folded with each of them.
  const used = new Set<string>();
  for (const { layer, live, partner } of tries.sort((x, y) => x.distance - y.distance)) {
    if (located.has(layer.name) || used.has(partner)) continue;
    located.set(layer.name, { linear: live, partner });
    used.add(partner);
  }
}

/** What has a parent and a width in common with no other, by both; null where several have. */
function indexByParent(
  all: readonly { readonly name: string; readonly channels: number }[],
): ReadonlyMap<string, string | null> {
  const index = new Map<string, string | null>();
  for (const { name, channels } of all) {
    const key = keyOf(name, channels);
    index.set(key, index.has(key) ? null : name);
  }
  return index;
}

function keyOf(path: string, channels: number): string {
  return `${channels} ${splitPath(path)[0]}`;
}

/** Weights that claim far more than their file stores are not read. */
function refuseAmplifiedWeights(candidates: readonly Candidate[]): void {
  const ranges = candidates.flatMap(({ linear: { weight } }) =>
    weight.fingerprint === undefined ? [weight.range] : [],
  );
  refuseAmplified(ranges, candidates[0]?.checkpoint.path ?? '');
}

/**
 * Wrapper prefixes show in the names of convolutions and folded norm layers, when no norm layer has a live partner. Each
 * kind is held against its own: `bns.0` is no new name of `convs.0`.
 */
function findEdits(
  left: readonly Candidate[],
  right: readonly Candidate[],
  { pairing, maps, afterPath }: { pairing: Pairing; maps: readonly PrefixEdit[]; afterPath: string },
): readonly PrefixEdit[] {
  if (pairing.pairs.length > 0) return pairing.edits;
  const nameOf = {
    linear: ({ linear }: Candidate) => linear.path,
    norm: ({ linear, normName }: Candidate) => normName ?? linear.foldedNormPath,
    block: ({ linear, normName }: Candidate) => nameBlock(linear, normName),
  };
  const edits = Object.values(nameOf).flatMap((find) => {
    const toSide = (candidates: readonly Candidate[]) => ({
      path: afterPath,
      isOrdered: false,
      layers: candidates.flatMap((candidate) => {
        const name = find(candidate);
        return name === null ? [] : [{ name, isNamed: true, channels: candidate.linear.channels }];
      }),
    });
    return pairLayers(toSide(left), toSide(right), maps).edits;
  });
  return [...new Map(edits.map((edit) => [`${edit.from}=${edit.to}`, edit])).values()];
}

/** What the branches of a block and their sum lie under: `stage1.0` of `stage1.0.rbr_dense.bn` and `stage1.0.rbr_reparam`. */
function nameBlock(linear: LinearLayer, normName: string | null): string | null {
  if (normName === null) return isSumOfBranches(linear) ? splitPath(linear.path ?? '')[0] : null;
  return splitPath(splitPath(normName)[0])[0];
}

/** Two linear layers that are the same one before and after. */
interface LinearPair {
  readonly before: Candidate;
  readonly after: Candidate;
  readonly pairedBy: PairedBy;
}

interface Suspect extends LinearPair {
  readonly proof: Proof;
}

/** What a pair of convolutions must show to count as a norm layer; null where it is none or hides none. */
function chooseProofs(
  before: ExaminedCheckpoint,
  after: ExaminedCheckpoint,
): (pair: LinearPair) => Proof | null {
  const sides = [before, after];
  // Where some convolutions bear signs, the others had no norm layer.
  const areSigned = sides.flatMap(listFreeLinears).some(({ looksFolded }) => looksFolded);
  const areBare =
    !areSigned && sides.every(({ layers, learned }) => layers.length === 0 && !hasOtherNorms(learned));
  return ({ before: one, after: other }) => {
    const live = [one, other].filter(({ layer }) => layer !== null).length;
    const linears = [one.linear, other.linear];
    if (live === 2) return null;
    if (live === 1 || linears.some(({ looksFolded }) => looksFolded)) return 'nothing';
    const areBiased = linears.every(({ bias }) => bias !== null);
    if (areBare && areBiased) return 'nothing';
    if (!areSigned && mayHideNorm(linears, before, after)) return 'moved';
    return areBiased ? 'rescaled' : null;
  };
}

/** A norm layer that moved shows in the bias that it was folded into; so does training, which the weights tell. */
async function haveEqualBiases({ before, after }: LinearPair): Promise<boolean> {
  const [left, right] = [await readOptional(before.linear.bias), await readOptional(after.linear.bias)];
  return left?.values.every((value, channel) => value === right?.values[channel]) === true;
}

/**
 * Which convolution a norm layer stands behind, the live one, and which it was folded into; after's where neither has one.
 * A live matrix is in the order of the folded one: ONNX Runtime transposes what it folds a layer into.
 */
function sidesOf({ before, after }: Pick<Suspect, 'before' | 'after'>) {
  const isBefore = before.layer === null && after.layer !== null;
  const [{ layer, linear }, { linear: folded }] = isBefore ? [after, before] : [before, after];
  const weight = linear.outputAxis === folded.outputAxis ? null : layOutLike(folded, linear);
  const live = weight === null ? linear : { ...linear, weight, outputAxis: folded.outputAxis };
  return { layer, live, folded, foldedSide: isBefore ? 'before' : 'after' } as const;
}

/**
 * The factors between the channels of two weights, that of the live or named side first. By the first layout in which they
 * are multiples; a trained weight is one in none.
 */
async function compareSuspect({ before, after }: Suspect): Promise<ScaleComparison> {
  const { live: held, folded } = sidesOf({ before, after });
  const compare = (layout: ChannelLayout) => compareChannelScales(held.weight, folded.weight, layout);
  // A graph knows how a weight counts outputs, and names without another layout do.
  if (held.otherLayout === undefined) return compare(held);
  if (folded.otherLayout === undefined) return compare(folded);
  const compared = await compare(held);
  if (compared.kind !== 'changed') return compared;
  const otherwise = await compare(held.otherLayout);
  return otherwise.kind === 'proportional' ? otherwise : compared;
}

/**
 * Whether a norm layer may as well have been taken out as folded: between files of names, where the other side has norm
 * layers left and the convolution had its bias before.
 */
function mayHaveLostNorm(suspect: Suspect, sides: Sides): boolean {
  if (sides.before.checkpoint.graph !== null || sides.after.checkpoint.graph !== null) return false;
  const { layer, live, foldedSide } = sidesOf(suspect);
  return layer !== null && live.bias !== null && sides[foldedSide].layers.length > 0;
}

function judge(
  suspect: Suspect,
  compared: SettledComparison,
  context: FoldedContext,
): Promise<Judgement | null> {
  const { before, after, pairedBy, proof } = suspect;
  const { layer, ...linears } = sidesOf(suspect);
  return layer === null
    ? judgeFoldedPair({ before: before.linear, after: after.linear, pairedBy, proof }, compared, context)
    : judgeRecoveredPair({ ...linears, layer, pairedBy }, compared, context);
}

/** What is left of the differences of short weights, once all weights tell what they went through. */
function makeSettler(
  comparisons: readonly (readonly [Suspect, ScaleComparison])[],
  { exact }: FoldedContext,
): (compared: ScaleComparison) => SettledComparison {
  const evidence = gatherEvidence(comparisons.flatMap(([, compared]) => roundingIn(compared) ?? []));
  return (compared) => {
    const rounding = roundingIn(compared);
    const isUnproven = rounding?.kind === 'short' && settleShort(rounding, evidence) === null;
    if (isUnproven || (rounding !== null && exact === true)) return { kind: 'changed' };
    return compared.kind === 'short' ? compared.fitted : compared;
  };
}

function roundingIn(compared: ScaleComparison): ProportionalScales['rounding'] {
  if (compared.kind === 'short') return compared.fitted.rounding;
  return compared.kind === 'proportional' ? compared.rounding : null;
}

function record(
  { layer, equality }: Judgement,
  { before: one, after: other }: Suspect,
  compared: ScaleComparison,
  results: Mutable,
): void {
  const rounding = roundingIn(compared);
  const blur = compared.kind === 'proportional' ? widestBlur(compared) : 0;
  const cause = blur > 0 ? 'quantised' : 'averaged';
  const relativeDifference = rounding === null ? blur : relativeDifferenceIn(rounding);
  const isRounded = equality === 'exact' && relativeDifference > 0;
  const toSide = ({ linear: { path, weightName }, layer: live }: Candidate) => ({
    // By its module, also where the file calls it `onnx::Conv_100`.
    name: path === null ? weightName : joinPath(path, 'weight'),
    isNamed: path !== null,
    isFolded: live === null,
  });
  const [before, after] = [toSide(one), toSide(other)];
  const names = {
    name: chooseNamed({ before, after }).name,
    beforeName: before.name,
    afterName: after.name,
    elementCount: one.linear.weight.elementCount,
  };
  const rounded = { equality: 'rounded', rounding: { cause, relativeDifference, narrowing: null } } as const;
  results.learned.push({ ...names, ...(isRounded ? rounded : { equality }) });
  results.judgedBefore.add(one.linear.weightName);
  results.judgedAfter.add(other.linear.weightName);
  if (layer === null) return;
  results.layers.push(isRounded ? { ...layer, equality: 'rounded', relativeDifference } : layer);
  for (const [candidate, judged] of [
    [one, results.judgedBefore],
    [other, results.judgedAfter],
  ] as const) {
    if (candidate.layer !== null) results.joined.add(candidate.layer);
    judged.add(candidate.linear.biasName);
    if (candidate.layer !== null)
      for (const name of listAffine(candidate.layer, candidate.checkpoint)) judged.add(name);
  }
}

function refuseWrongEpsilon(
  { assumed, actual, layers }: NonNullable<ReturnType<typeof findCommonOffset>>,
  { path }: Checkpoint,
): never {
  throw new CheckpointError(
    `the variances of ${layers} folded layers are all off by ${(actual - assumed).toPrecision(2)}: the model's epsilon is ${actual}, not ${assumed}, which a file of names alone does not tell`,
    { code: 'ambiguous', file: path, hint: `Run again with --epsilon ${actual}` },
  );
}

/**
 * Whether folded norm layers are looked for among all convolutions: where a norm layer has no live partner, where a
 * convolution bears a sign of one, and where an exporter leaves none. Elsewhere only such convolutions are looked at whose
 * names pair and whose biases differ.
 */
export function mayBeFolded(
  before: ExaminedCheckpoint,
  after: ExaminedCheckpoint,
  pairing: Pairing,
): boolean {
  const { pairs, onlyBefore, onlyAfter } = pairing;
  if (pairs.length === 0 || onlyBefore.length + onlyAfter.length > 0) return true;
  const free = [before, after].flatMap(listFreeLinears);
  return free.length > 0 && mayHideNorm(free, before, after);
}

/**
 * Whether some convolution that no live norm layer follows may hide one. PyTorch's exporters leave signs where they
 * fold, and its state dicts have no exporter: without a sign, theirs is an ordinary one in all likelihood. Of other
 * exporters only the values tell.
 */
function mayHideNorm(
  linears: readonly LinearLayer[],
  before: ExaminedCheckpoint,
  after: ExaminedCheckpoint,
): boolean {
  if (linears.some(({ looksFolded }) => looksFolded)) return true;
  const graphs = [before, after].flatMap(({ checkpoint }) => checkpoint.graph ?? []);
  return graphs.length > 0 && graphs.every(({ producer }) => !producer.startsWith('pytorch'));
}

/**
 * Pairs linear layers of two checkpoints: by the module paths that metadata, node names and weights' names tell, then
 * by values (one's channels are multiples of the other's), then by position where the shapes agree one to one.
 *
 * @param areGraphs whether both come from graphs and in their order, so that positions tell where no name pairs.
 * @throws CheckpointError when a weight cannot be read.
 */
async function pairLinears(
  before: readonly Candidate[],
  after: readonly Candidate[],
  edits: readonly PrefixEdit[],
  areGraphs: boolean,
): Promise<readonly LinearPair[]> {
  const [left, right] = [new Set(before), new Set(after)];
  const pairs: LinearPair[] = [];
  const join = (one: Candidate, other: Candidate, pairedBy: PairedBy) => {
    pairs.push({ before: one, after: other, pairedBy });
    for (const [side, taken] of [
      [left, one],
      [right, other],
    ] as const)
      for (const same of candidatesOf(side, taken)) side.delete(same);
  };
  const isPartner = (one: Candidate, other: Candidate) =>
    one.partner === other.linear.weightName || other.partner === one.linear.weightName;
  if ([...before, ...after].some(({ partner }) => partner !== undefined))
    for (const one of before) {
      const other = after.find((each) => right.has(each) && isPartner(one, each));
      if (left.has(one) && other !== undefined && haveSameLayout(one, other)) join(one, other, 'values');
    }
  for (const namesOf of NAMES) {
    // The first of a name wins, as on the left: what may feed a norm layer stands before the same without one.
    const byName = new Map(
      [...right].reverse().flatMap((other) => namesOf(other).map((name) => [name, other] as const)),
    );
    for (const one of [...left]) {
      const [other] = namesOf(one).flatMap((name) => findNamesake(name, edits, byName) ?? []);
      if (other !== undefined && right.has(other) && haveSameLayout(one, other)) join(one, other, 'name');
    }
  }
  for (const one of [...left]) {
    const other = await findProportional(one, [...right]);
    if (other !== null) join(one, other, 'values');
  }
  const isInOrder = areGraphs && pairs.length === 0;
  const areNamesLost = [left, right].some((side) => [...side].every(({ linear }) => linear.path === null));
  if (areNamesLost || isInOrder)
    for (const [one, other] of pairInStep([...left], [...right], haveSameLayout)) join(one, other, 'order');
  return pairs;
}

/** A candidate, and behind a norm layer the same convolution without one: as whose feed it was found, it is no layer besides. */
function candidatesOf(side: ReadonlySet<Candidate>, taken: Candidate): readonly Candidate[] {
  if (taken.layer === null) return [taken];
  const { weightName } = taken.linear;
  return [
    taken,
    ...[...side].filter(({ layer, linear }) => layer === null && linear.weightName === weightName),
  ];
}

/** Exporters number what they fold (`493`, `onnx::Conv_493`): such a name means another tensor in every file. */
const GENERATED_NAME = /^(?:onnx::\w+_)?\d+$/;

/** What a linear layer is known by, the surest first. */
const NAMES: readonly ((candidate: Candidate) => readonly string[])[] = [
  ({ linear, normName }) => [normName, linear.foldedNormPath].filter((name) => name !== null),
  ({ linear: { path } }) => (path === null ? [] : [path]),
  ({ linear: { weightName } }) => (GENERATED_NAME.test(weightName) ? [] : [weightName]),
  // PyTorch puts a convolution and the activation behind it into one module before it quantises: `conv.0` was `conv`.
  ({ linear: { path } }) => (path === null ? [] : [path, path.replace(/\.0$/, '')]),
];

/** The first candidate whose channels are multiples of the layer's; null where there is none. */
async function findProportional(one: Candidate, candidates: readonly Candidate[]): Promise<Candidate | null> {
  const { linear } = one;
  for (const candidate of candidates) {
    const other = candidate.linear;
    // Values tell what names do not where one side has lost its own, or where folding exporters gave theirs another start.
    const needsValues = [linear, other].some(({ path, looksFolded }) => path === null || looksFolded);
    if (!needsValues || !haveSameLayout(one, candidate)) continue;
    const { live, folded } = sidesOf({ before: one, after: candidate });
    const compared = await compareChannelScales(live.weight, folded.weight, live);
    // One weight per channel is always proportional: no proof.
    if (compared.kind === 'proportional' && compared.weightsPerChannel > 1) return candidate;
  }
  return null;
}

function haveSameLayout(before: Candidate, after: Candidate): boolean {
  const { live: one, folded: other } = sidesOf({ before, after });
  const mayCountAlike =
    one.outputAxis === other.outputAxis || [one, other].some(({ otherLayout }) => otherLayout !== undefined);
  return mayCountAlike && one.channels === other.channels && haveSameShape(one.weight, other.weight);
}

/** How modules are called that normalise without a bias (RMSNorm): `ln_1`, `input_layernorm`. */
const NORM_NAME = /norm|(?:^|[._])ln(?:[._\d]|$)/i;

/**
 * Whether a model without BatchNorm has another normalisation (LayerNorm, GroupNorm), whose scale is a vector: then
 * convolutions and linear layers with a bias are what they look like, and nothing was folded into them.
 */
export function hasOtherNorms(tensors: ReadonlyMap<string, Tensor>): boolean {
  for (const [name, { shape }] of tensors) {
    const [path, leaf] = splitPath(name);
    if (leaf !== 'weight' || shape.length !== 1 || shape[0] === 1) continue;
    if (NORM_NAME.test(path) || tensors.has(path === '' ? 'bias' : `${path}.bias`)) return true;
  }
  return false;
}

/** Whether a file of names may hold convolutions or linear layers into which norm layers were folded, by names alone. */
export function mayBeFused(checkpoint: Checkpoint): boolean {
  const tensors = dottedTensorsOf(checkpoint);
  return checkpoint.graph === null && !hasOtherNorms(tensors) && findBiasedLinears(tensors).length > 0;
}

/**
 * Where one side alone has its blocks' branches added up, and the other does not hold what went into each sum: what to
 * audit instead, as a sentence; null elsewhere.
 */
export function describeMergedBranches(before: ExaminedCheckpoint, after: ExaminedCheckpoint): string | null {
  const [one, other] = [before, after].map((side) => listFreeLinears(side).find(isSumOfBranches));
  const merged = one ?? other;
  if (merged === undefined || (one !== undefined && other !== undefined)) return null;
  const [side, opposite] = one === undefined ? ['after', 'before'] : ['before', 'after'];
  return (
    `${side} is in its deploy form (re-parameterised): ${quote(merged.path ?? '')} is the sum of a block's branches, each with its ` +
    `norm layer folded in. It is told from the branches' own weights and live norm layers, all of them under the name of their block: ${opposite} ` +
    'does not hold them so for every block, or a file has no plain weights (a baseline, int8). Audit the training form of both: the checkpoint from before ' +
    'switch_to_deploy(), repvgg_model_convert() or reparameterize_model()'
  );
}
