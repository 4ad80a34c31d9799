// Judges a folded pair: from scales and biases to a status and the statistics behind it.

import { quantumOf } from '../checkpoint/dtype.js';
import {
  chooseEpsilon,
  type FoldedComparison,
  type LayerComparison,
  listChannels,
  type MeasureBounds,
  type MergedComparison,
  measuresOf,
  type RecoveredComparison,
  readStoredLayer,
  UNMARKED_KIND,
} from '../compare/compare-layers.js';
import type { LearnedComparison } from '../compare/compare-learned.js';
import type { PairedBy } from '../compare/pair-layers.js';
import type { NotFinite, ProportionalScales } from '../compare/projected-scales.js';
import { holdsFloatCodes } from '../compare/quantised-weights.js';
import { relativeDifferenceIn, roundoffOf } from '../compare/rounding.js';
import {
  type ChannelVector,
  countTrue,
  findInvalidValue,
  findStdRatios,
  measureDrift,
  type RmsAndMax,
  readChannelVector,
  readOptional,
  type Statistics,
} from '../compare/statistics.js';
import { failUnreachable } from '../errors.js';
import { DEFAULT_EPSILON } from '../norm/naming.js';
import {
  addNote,
  chooseLayerName,
  type LinearLayer,
  type NormLayer,
  whyUnresolved,
} from '../norm/norm-layer.js';
import type { SettledComparison } from './channel-scales.js';
import {
  boundMeasures,
  doubtDrift,
  doubtMeans,
  doubtStillness,
  halfWidthOf,
  isTooWide,
  leastDriftOf,
  readBiasSteps,
  widestBlur,
} from './channel-scales.js';
import {
  findMovedFactor,
  joinRow,
  type LayerScales,
  type NormRows,
  readLayerScales,
  scaleAffine,
} from './folded-along.js';
import {
  type EpsilonEvidence,
  type FoldedAway,
  findOwnEpsilon,
  type SolvedChannel,
  solveLayer,
} from './recover-statistics.js';

/** What the judges of single pairs are told. */
export interface FoldedContext {
  /** Overrides every layer's own epsilon. */
  readonly epsilon?: number | undefined;
  readonly keepChannels: boolean;
  /** Whether weights that were averaged count as changed. */
  readonly exact?: boolean | undefined;
  /** What either side may multiply its convolutions' channels by; absent where nothing is looked for. */
  readonly layerScales?: Readonly<Record<'before' | 'after', LayerScales>>;
  /** The norm layers of one width before and behind each of a checkpoint; absent where nothing is looked for. */
  readonly rows?: NormRows;
}

/** A judged pair of convolutions: the layer's comparison, unless it proves to be no norm layer's. */
export interface Judgement<Layer extends LayerComparison | null = LayerComparison | null> {
  readonly layer: Layer;
  readonly equality: LearnedComparison['equality'];
  /** What a named side's unknown epsilon must explain; null or absent where epsilon is known. */
  readonly epsilonEvidence?: EpsilonEvidence | null;
}

/** A norm layer that was folded into a convolution, as a layer whose statistics cannot be read from the file. */
export function toFoldedLayer(linear: LinearLayer, fallbackName: string): NormLayer {
  const { foldedNormPath, path, nodeName, weightName, channels } = linear;
  const folded = {
    kind: 'unresolved',
    reason: `it was folded into ${path ?? (nodeName === '' ? weightName : nodeName)}`,
  } as const;
  return {
    name: foldedNormPath ?? path ?? (fallbackName === '' ? nodeName : fallbackName),
    isNamed: foldedNormPath !== null || path !== null,
    kind: 'BatchNormalization',
    channels,
    mean: folded,
    variance: folded,
    gamma: null,
    beta: null,
    batchCount: null,
    epsilon: null,
    defaultEpsilon: DEFAULT_EPSILON,
    momentum: null,
    mode: 'running',
    nodeName,
    isFromGraph: true,
    neighbours: [],
    foldedInto: linear,
    feedingLinear: null,
    notes: [],
  };
}

/** What a layer is found to be. */
export type Verdict = Pick<LayerComparison, 'status' | 'problem'>;

const LOCKED: Verdict = { status: 'locked', problem: null };
const DRIFTED: Verdict = { status: 'drifted', problem: null };
const TRAINED: Verdict = { status: 'trained', problem: null };
/** A verdict that nothing can be told, and why. */
export const unresolved = (problem: string): Verdict => ({ status: 'unresolved', problem });
const invalid = (problem: string): Verdict => ({ status: 'invalid', problem });

const ONE_WEIGHT = unresolved(
  'its convolution has one weight per channel, so that training it looks the same as moved statistics',
);

const FLOAT_CODES = unresolved(
  'the weights of its convolution are float8 with scales, whose steps grow with the weight, and are not compared: audit the model from before it was quantised, or quantise that to int8',
);

/** How RepVGG and MobileOne call the convolution that a block of several branches was merged into. */
const MERGED_NAME = /(?:^|[._])reparam(?:[._]|$)/;

/** Whether a convolution is the sum of several branches, each scaled by a norm layer of its own. */
export function isSumOfBranches({ path }: LinearLayer): boolean {
  return path !== null && MERGED_NAME.test(path);
}

const SEVERAL_BRANCHES = unresolved(
  'its convolution is the sum of several branches, each scaled by a norm layer of its own, so that moved statistics look the same as training: compare the checkpoints from before the branches were merged',
);

/**
 * A comparison that says which channels folding hides: where a scale γ is zero, so are the folded weights, whatever the
 * statistics are.
 */
function noteHiddenChannels<Layer extends RecoveredComparison | FoldedComparison>(
  layer: Layer,
  hidden: number,
  { blur }: ProportionalScales,
): Layer {
  const { channels, after, status } = layer;
  if (hidden === 0 || status === 'unresolved') return layer;
  const note =
    blur === undefined
      ? `folding hides the statistics of channels whose scale is zero or too near it: ${hidden} of ${channels} were not audited`
      : `quantisation hides the statistics of channels whose weights are but a few steps large: ${hidden} of ${channels} were not audited`;
  return { ...layer, channelsHidden: hidden, after: addNote(after, note) };
}

/** What a folded bias holds that is no number; null where all are. */
export function findInvalidBias(bias: ChannelVector | null): string | null {
  const channel = bias?.values.findIndex((value) => !Number.isFinite(value)) ?? -1;
  return channel < 0 ? null : `the folded bias of channel ${channel} is ${bias?.values[channel]}: not finite`;
}

/** A layer whose folded weights hold NaN or infinity; what before's were folded from cannot be told. */
function judgeNotFinite({ channel, value }: NotFinite, side: 'before' | 'after'): Verdict {
  const problem = `the folded weight of channel ${channel} is ${value}: not finite`;
  return side === 'after' ? invalid(problem) : unresolved(`in before, ${problem}`);
}

/**
 * What two convolutions must show to count as a folded norm layer:
 *
 * - `nothing`: the file says that one was folded, or no norm layer is left in either model and the convolutions have biases;
 * - `moved`: factors or biases that moved behind equal weights, where an exporter may fold without leaving a sign;
 * - `rescaled`: a factor of its own for each channel, where convolutions without norm layers are the likelier reading.
 */
export type Proof = 'nothing' | 'moved' | 'rescaled';

interface FoldedPair {
  readonly before: LinearLayer;
  readonly after: LinearLayer;
  readonly pairedBy: PairedBy;
  readonly proof: Proof;
}

/** Whether neither file says that a norm layer was folded in: both have a convolution with a bias, and no more. */
function isUnmarked({ before, after, proof }: FoldedPair): boolean {
  return proof !== 'moved' && !before.looksFolded && !after.looksFolded;
}

/** A factor this many times further from 1, or from another, than rounding explains is another factor. */
const SAFETY = 16;

/** float32 roundings that two exporters may be apart in a folded bias. */
const BIAS_ROUNDINGS = 4 * 2 ** -24;

/**
 * Where factors alone tell that a norm layer was folded in, they must be known better than this, relative to 1: 16-bit
 * values are rounded by as much as a gently trained head moves, and a few of them fit a factor by accident.
 */
const MAX_TELLING_UNCERTAINTY = 2 ** -14;

/** Codes are rounded by half a step: they tell of factors that are further from 1 than training by a step makes them. */
const MIN_TELLING_STEPS = 2;

/** float32 roundings on the way to two folded scales. */
const FOLDING_ROUNDINGS = 8 * 2 ** -24;

/**
 * Judges two folded convolutions by the factors k between their output channels. A frozen convolution whose norm
 * layer drifted has k = √((v + ε) before / (v + ε) after), a factor of its own for each channel; its weights equal
 * and its bias moved, the mean drifted or a bias was trained; anything else was trained.
 *
 * @returns a judgement without a layer where nothing shows that a norm layer was folded in; null where its weights are
 *   to be compared like any others.
 * @throws CheckpointError when a tensor cannot be read.
 */
export async function judgeFoldedPair(
  pair: FoldedPair,
  compared: SettledComparison,
  context: FoldedContext,
): Promise<Judgement | null> {
  const { before, after, proof } = pair;
  if (proof === 'rescaled' && compared.kind !== 'proportional') return null;
  const isListed = proof === 'nothing';
  const conclude = (verdict: Verdict | null, equality: Judgement['equality']) => ({
    layer: isListed && verdict !== null ? describe(pair, context, { verdict }) : null,
    equality,
  });
  if (compared.kind === 'incomparable') {
    const isOpen =
      isListed && !isUnmarked(pair) && [before, after].some(({ weight }) => holdsFloatCodes(weight));
    return conclude(isOpen ? FLOAT_CODES : null, 'incomparable');
  }
  const biases = await readBiases(before, after);
  const invalidBias = findInvalidBias(biases.after);
  if (invalidBias !== null && isListed) return conclude(invalid(invalidBias), 'changed');
  switch (compared.kind) {
    case 'not-finite':
      return conclude(judgeNotFinite(compared, compared.side), compared.isSame ? 'exact' : 'changed');
    case 'changed':
      return [before, after].some(isSumOfBranches)
        ? conclude(SEVERAL_BRANCHES, 'incomparable')
        : conclude(TRAINED, 'changed');
    case 'proportional': {
      const scaled = await divideMoved(pair, { biases, compared, context });
      const { verdict, isCertain, ...told } = scaled.judged;
      const isFine = isCertain && compared.uncertainty <= MAX_TELLING_UNCERTAINTY;
      const isTelling = isFine && verdict.status === 'drifted' && told.isUniformScale === false;
      // A layer scale that explains all of it is no sign of a norm layer.
      if (scaled.isDivided && verdict.status === 'locked' && !(before.looksFolded && after.looksFolded))
        return { layer: null, equality: 'exact' };
      if (proof === 'rescaled' && !isTelling) return null;
      if (verdict === ONE_WEIGHT && isUnmarked(pair)) return null;
      const layer = isListed || isCertain ? describe(pair, context, { verdict, ...told, ...scaled }) : null;
      const isTold = told.drift !== undefined;
      const isEqual = isTold && verdict.status !== 'unresolved';
      const equality = isEqual ? 'exact' : verdict.status === 'trained' ? 'changed' : 'incomparable';
      return {
        layer: layer && noteHiddenChannels(layer, countHidden(compared, isTold), compared),
        equality,
      };
    }
    default:
      return failUnreachable(compared);
  }
}

/** Channels of which nothing is known: all zeros, or intervals too wide for it where nothing moved. */
function countHidden(compared: ProportionalScales, isTold: boolean): number {
  const isHidden = (scale: number, channel: number) =>
    Number.isNaN(scale) || (isTold && isTooWide(compared, channel));
  return compared.scales.filter(isHidden).length;
}

interface FactorJudgement {
  readonly verdict: Verdict;
  /** Whether they show by themselves that a norm layer was folded in. */
  readonly isCertain: boolean;
  readonly drift?: Omit<NonNullable<FoldedComparison['drift']>, 'stdRatio'>;
  readonly isUniformScale?: boolean;
  readonly factors?: Float64Array;
  readonly bounds?: MeasureBounds | undefined;
}

function judgeFactors(pair: FoldedPair, biases: Biases, compared: ProportionalScales): FactorJudgement {
  const { scales: factors, uncertainty, rounding, weightsPerChannel, blur } = compared;
  const tolerance = SAFETY * (FOLDING_ROUNDINGS + uncertainty);
  const excess = factors.map(
    (factor, channel) => Math.abs(factor - 1) - tolerance - halfWidthOf(blur, channel),
  );
  const isRescaled = (channel: number) => (excess[channel] as number) > leastDriftOf(blur, channel);
  const relativeDifference = rounding === null ? widestBlur(compared) : relativeDifferenceIn(rounding);
  const isBiasMoved = findMovedBiases(pair, biases, relativeDifference);
  const channelsMoved = factors.filter((_, channel) => isRescaled(channel) || isBiasMoved(channel)).length;
  const drift = { channelsMoved, logStdRatio: measureFactors(factors, isRescaled) };
  const bounds = boundMeasures(
    factors.map((factor) => 1 / factor),
    compared,
  );
  if (!factors.some((_, channel) => isRescaled(channel))) {
    const isCertain = channelsMoved > 0;
    const isHintedBias = findMovedBiases(pair, biases, 0);
    const isBiasHinted = blur !== undefined && factors.some((_, channel) => isHintedBias(channel));
    const hidden = factors.filter((_, channel) => isTooWide(compared, channel)).length;
    const isHinted = excess.some((beyond) => beyond > 0) || (isBiasHinted && !isCertain);
    const doubt = doubtStillness(compared, { isHinted, hidden, channels: factors.length });
    if (doubt !== null) return { verdict: unresolved(doubt), isCertain: false, drift, factors, bounds };
    const verdict: Verdict = isCertain ? { status: 'ambiguous', problem: null } : LOCKED;
    return { verdict, isCertain, drift, factors, bounds };
  }
  if (factors.some((factor) => factor <= 0)) return { verdict: TRAINED, isCertain: false };
  if (weightsPerChannel === 1) return { verdict: ONE_WEIGHT, isCertain: false };
  const doubt = doubtDrift(compared);
  if (doubt !== null) return { verdict: unresolved(doubt), isCertain: false };
  // One factor may lie in all the intervals that drift left: that is no sign of a uniform one.
  // One channel that was rescaled is no sign of its own where nothing else says that a norm layer was there.
  const isLone = factors.length === 1 && isUnmarked(pair);
  const isUniformScale = isLone || (blur === undefined && isUniform(factors, tolerance));
  const isCertain =
    blur === undefined ||
    excess.some((beyond, channel) => beyond > MIN_TELLING_STEPS * (blur.steps[channel] as number));
  return { verdict: DRIFTED, isCertain, drift, factors, bounds, isUniformScale };
}

interface Biases {
  readonly before: ChannelVector | null;
  readonly after: ChannelVector | null;
  /** What quantisation leaves open of both together. */
  readonly blur: (channel: number) => number;
}

async function readBiases(before: LinearLayer, after: LinearLayer): Promise<Biases> {
  const [one, other] = [await readBiasSteps(before.bias), await readBiasSteps(after.bias)];
  return {
    before: await readOptional(before.bias),
    after: await readOptional(after.bias),
    blur: (channel) => one(channel) + other(channel),
  };
}

/**
 * Whether a channel's bias differs by more than rounding: that of its type, and that of folding, whose sums are as large
 * as the layer's biases; two exporters round them in another order. Averages are off in proportion to the terms as well.
 * Absent biases are zeros.
 */
function findMovedBiases(
  { before, after }: FoldedPair,
  biases: Biases,
  relativeDifference: number,
): (channel: number) => boolean {
  const roundoff = Math.max(
    ...[before.bias, after.bias].map((bias) => (bias === null ? 0 : roundoffOf(bias))),
  );
  const largest = [biases.before, biases.after].reduce(
    (most, bias) => bias?.values.reduce((max, value) => Math.max(max, Math.abs(value)), most) ?? most,
    0,
  );
  return (channel) => {
    const x = biases.before?.values[channel] ?? 0;
    const y = biases.after?.values[channel] ?? 0;
    // NaN and infinities have no distance, and yet are the same on both sides.
    if (Object.is(x, y)) return false;
    return !(
      Math.abs(y - x) <=
      biases.blur(channel) + 2 * roundoff * Math.abs(x) + (BIAS_ROUNDINGS + 2 * relativeDifference) * largest
    );
  };
}

/** abs(ln(σB / σA)), where σB / σA = 1 / k. Channels that were not rescaled count as exactly unmoved. */
function measureFactors(factors: Float64Array, isRescaled: (channel: number) => boolean): RmsAndMax {
  let [known, squares, max] = [0, 0, 0];
  for (let channel = 0; channel < factors.length; channel++) {
    const factor = factors[channel] as number;
    // A channel of zeros on both sides has no factor, and counts in no measure.
    if (Number.isNaN(factor)) continue;
    const log = isRescaled(channel) ? Math.abs(Math.log(factor)) : 0;
    known++;
    squares += log * log;
    max = Math.max(max, log);
  }
  return { rms: Math.sqrt(squares / known), max };
}

/** Whether one factor explains all channels that have any, as weight decay on a convolution would. */
export function isUniform(factors: Float64Array, tolerance: number): boolean {
  const known = factors.filter((factor) => !Number.isNaN(factor));
  const [first = Number.NaN] = known;
  return known.length > 1 && known.every((factor) => Math.abs(factor / first - 1) <= 2 * tolerance);
}

type Described = Omit<FactorJudgement, 'isCertain'> &
  Partial<Pick<FoldedComparison, 'gain' | 'weightFactor'>>;

function describe(
  pair: FoldedPair,
  { epsilon, keepChannels }: FoldedContext,
  { verdict, drift, isUniformScale = false, factors, bounds, gain = null, weightFactor = 1 }: Described,
): FoldedComparison {
  const { before, after, pairedBy } = pair;
  const name = before.foldedNormPath ?? after.foldedNormPath ?? before.path ?? after.path ?? '';
  const toLayer = (linear: LinearLayer): NormLayer => ({
    ...toFoldedLayer(linear, name),
    ...(isUnmarked(pair) ? { kind: UNMARKED_KIND } : {}),
  });
  const [one, other] = [toLayer(before), toLayer(after)];
  const sides = { before: { ...one, ...(name === '' ? {} : { name }) }, after: other };
  const isTrained = verdict.status === 'trained';
  const stdRatio = keepChannels && factors !== undefined ? [...factors].map((factor) => 1 / factor) : null;
  return {
    kind: 'folded',
    isUnmarked: isUnmarked(pair),
    name: chooseLayerName(sides),
    ...sides,
    pairedBy,
    ...verdict,
    drift: drift === undefined ? null : { ...drift, stdRatio },
    affine: 'none',
    neighbours: isTrained ? 'changed' : drift === undefined ? 'none' : 'equal',
    channels: before.channels,
    channelsHidden: 0,
    bounds,
    equality: isTrained ? null : 'exact',
    relativeDifference: 0,
    ...chooseEpsilon(one, other, epsilon),
    isUniformScale,
    beforeLinear: before,
    afterLinear: after,
    gain,
    weightFactor,
  };
}

/** A norm layer that is live or named on one side and was folded away on the other. */
interface RecoveredPair extends FoldedAway {
  readonly foldedSide: 'before' | 'after';
  readonly pairedBy: PairedBy;
}

/**
 * Judges a norm layer against a convolution that it was folded into: if every output channel was merely rescaled, the
 * factors give the folded side's statistics, and the layer is compared like a live one.
 *
 * @returns null when the convolution bears no trace of folding: the norm layer was removed, not folded.
 * @throws CheckpointError when a tensor cannot be read.
 */
export async function judgeRecoveredPair(
  pair: RecoveredPair,
  compared: SettledComparison,
  context: FoldedContext,
): Promise<Judgement | null> {
  const { layer, live, folded, foldedSide } = pair;
  if (!folded.looksFolded && (await isUnfolded(pair, compared))) return null;
  const conclude = (verdict: Verdict, equality: Judgement['equality'] = 'incomparable') =>
    concludeRecovered(pair, context, verdict, equality);
  const unread = whyUnresolved(layer);
  if (unread !== null) return conclude(unresolved(unread));
  const invalidBias = foldedSide === 'after' ? findInvalidBias(await readOptional(folded.bias)) : null;
  if (invalidBias !== null) return conclude(invalid(invalidBias));
  if (foldedSide === 'before' && compared.kind !== 'proportional') {
    const invalidAfter = findInvalidValue(await readStoredLayer(layer));
    if (invalidAfter !== null)
      return conclude(invalid(invalidAfter), compared.kind === 'changed' ? 'changed' : 'incomparable');
  }
  switch (compared.kind) {
    case 'not-finite': {
      // Its `before` is the unfolded side, whichever checkpoint that is.
      const { side, channel, value } = compared;
      const problem = `in ${foldedSide === 'after' ? 'before' : 'after'}, the weight of channel ${channel} of its convolution is ${value}: not finite`;
      return conclude(
        side === 'after' ? judgeNotFinite(compared, foldedSide) : unresolved(problem),
        'changed',
      );
    }
    case 'incomparable':
      if ([live, folded].some(({ weight }) => holdsFloatCodes(weight))) return conclude(FLOAT_CODES);
      return conclude(
        unresolved(
          folded.weight.quantised === undefined
            ? 'its convolution cannot be compared with the folded one'
            : 'its convolution cannot be compared with the folded one, which is quantised: a baseline keeps too little for that, so name the checkpoint that it was made from',
        ),
      );
    case 'changed':
      return conclude(TRAINED, 'changed');
    case 'proportional':
      return judgeMoved(pair, context, compared);
    default:
      return failUnreachable(compared);
  }
}

/**
 * Whether a convolution is what it was, but for another float type: its weights, and where rounding leaves these open the bias
 * that it has on both sides.
 */
async function isUnfolded({ live, folded }: FoldedAway, compared: SettledComparison): Promise<boolean> {
  if (compared.kind !== 'proportional') return false;
  if (compared.scales.every((scale) => scale === 1)) return true;
  const [own, other] = [live.bias, folded.bias];
  if (own === null || other === null || compared.blur !== undefined) return false;
  const roundoff = Math.max(...[live.weight, folded.weight, own, other].map(roundoffOf));
  const quantum = Math.max(quantumOf(own.dtype), quantumOf(other.dtype));
  const isNear = (x: number, y: number) => Math.abs(y - x) <= 2 * roundoff * Math.abs(x) + quantum;
  if (!compared.scales.every((scale) => Number.isNaN(scale) || isNear(1, scale))) return false;
  const [before, after] = [await readChannelVector(own), await readChannelVector(other)];
  return before.values.every((value, channel) => isNear(value, after.values[channel] ?? Number.NaN));
}

/** A layer scale is divided out where statistics are solved for that moved so many times less. */
const MIN_GAIN = 4;

/** Judges a layer with what graphs tell of a constant that was moved into its weights; without, where weights belie them. */
async function judgeMoved(
  pair: RecoveredPair,
  context: FoldedContext,
  scales: ProportionalScales,
): Promise<Judgement> {
  const plain = await judgeScaled(pair, context, scales);
  const { value, isCertain } = findMovedFactor(pair.live, pair.folded);
  if (value === 1 || plain.layer?.status === 'locked') return plain;
  // Intervals are as wide as they are found: what was moved into them stays open.
  const isExact = scales.blur === undefined;
  const divided = isExact ? await judgeScaled(pair, context, divideScales(scales, value)) : plain;
  const isNearer = distanceOf(divided) < distanceOf(plain);
  const { layer, ...judged } = isCertain || isNearer ? divided : plain;
  if (layer?.kind !== 'recovered') return { layer, ...judged };
  const isTold = isExact && (isCertain || layer.status === 'locked');
  return {
    ...judged,
    layer: { ...layer, weightFactor: isTold ? layer.weightFactor && layer.weightFactor * value : null },
  };
}

function divideScales(compared: ProportionalScales, factor: number): ProportionalScales {
  return { ...compared, scales: compared.scales.map((scale) => scale / factor) };
}

function distanceOf({ layer }: Judgement): number {
  const measures = layer?.status === 'trained' || layer === null ? null : measuresOf(layer);
  return measures === null ? Number.POSITIVE_INFINITY : measures.meanShift.rms + measures.logStdRatio.rms;
}

/**
 * Judges a layer that seems to have moved or to be trained with what else may have been folded in: a layer scale of the
 * live side, and a factor of the data in front.
 */
async function judgeScaled(
  pair: RecoveredPair,
  context: FoldedContext,
  scales: ProportionalScales,
): Promise<Judgement> {
  const judgeAs = async (layer: NormLayer) => {
    const judged = await judgeScales({ ...pair, layer }, context, scales);
    const isHalved = judged.layer?.kind === 'recovered' && pair.folded.looksFolded;
    const factor = isHalved ? findHalving(judged.layer) : null;
    for (const each of factor === null ? [] : [factor, 1 / factor]) {
      const halved = await judgeScales({ ...pair, layer }, context, divideScales(scales, each));
      if (halved.layer?.status === 'locked') return noteHalved(halved, each);
    }
    return judged;
  };
  let best = await judgeAs(pair.layer);
  const isOpen = ['drifted', 'trained'].includes(best.layer?.status ?? '') && scales.blur === undefined;
  for (const layer of isOpen ? await listVariants(pair, context) : []) {
    const judged = await judgeAs(layer);
    if (judged.layer?.status === 'locked') return judged;
    if (distanceOf(judged) * MIN_GAIN < distanceOf(best)) best = judged;
  }
  return best;
}

/** A norm layer with what else may have been folded in beside it: a layer scale, or a norm layer right before or behind it. */
async function listVariants(
  { layer, foldedSide }: RecoveredPair,
  { layerScales, rows, epsilon }: FoldedContext,
): Promise<readonly NormLayer[]> {
  const found: (NormLayer | null)[] = [];
  const live = foldedSide === 'after' ? 'before' : 'after';
  for (const vector of await readLayerScales(layerScales?.[live], layer.channels))
    found.push(await scaleAffine(layer, vector));
  const { previous = null, next = null } = rows?.get(layer) ?? {};
  for (const other of [previous, next]) {
    if (other === null) continue;
    const [first, second] = other === previous ? [other, layer] : [layer, other];
    const joined = await joinRow(first, second, epsilon);
    const { name, wrappedName, isNamed } = layer;
    const note = `judged with ${other.name}, which stands right beside it: both were folded into one convolution`;
    if (joined !== null) found.push(addNote({ ...joined, name, wrappedName, isNamed }, note));
  }
  return found.filter((variant) => variant !== null);
}

function noteHalved(judgement: Judgement, weightFactor: number): Judgement {
  const { layer } = judgement;
  if (layer?.kind !== 'recovered') return judgement;
  const note =
    'its folded weights are off by a power of two, and its bias is not: a factor in front of it was moved into them';
  return { ...judgement, layer: { ...layer, weightFactor, after: addNote(layer.after, note) } };
}

/**
 * The power of two that all spreads of a layer moved by; null where they did not so. E.g. 2, where onnxsim has moved the ½ of
 * a GELU into the weights of the convolution behind it, whose bias it leaves.
 */
function findHalving({ isUniformScale, drift }: RecoveredComparison): number | null {
  const power = (drift?.measures.logStdRatio.rms ?? 0) / Math.LN2;
  const isWhole = Math.round(power) > 0 && Math.abs(power - Math.round(power)) < 2 ** -14;
  return isUniformScale && isWhole ? 2 ** Math.round(power) : null;
}

/** Factors between two convolutions with a layer scale divided out, and what after's channels are of before's by it. */
interface ScaledFactors {
  readonly judged: FactorJudgement;
  /** Null without a layer scale. */
  readonly gain: Float64Array | null;
  /** As {@link FoldedComparison.weightFactor}. */
  readonly weightFactor: number | null;
  readonly isDivided: boolean;
}

interface FactorContext {
  readonly biases: Biases;
  readonly compared: ProportionalScales;
  readonly context: FoldedContext;
}

/** As {@link judgeMoved}, where both sides have folded the layer away. */
async function divideMoved(pair: FoldedPair, given: FactorContext): Promise<ScaledFactors> {
  const { compared } = given;
  const plain = await divideLayerScale(pair, given);
  const { value, isCertain } = findMovedFactor(pair.before, pair.after);
  if (value === 1 || plain.judged.verdict.status === 'locked') return plain;
  const isExact = compared.blur === undefined;
  const divided = isExact
    ? await divideLayerScale(pair, { ...given, compared: divideScales(compared, value) })
    : plain;
  const isNearer = distanceOfFactors(divided.judged) < distanceOfFactors(plain.judged);
  const best = isCertain || isNearer ? divided : plain;
  const isTold = isExact && (isCertain || best.judged.verdict.status === 'locked');
  return {
    ...best,
    isDivided: true,
    weightFactor: isTold ? best.weightFactor && best.weightFactor * value : null,
  };
}

function distanceOfFactors({ verdict, drift }: FactorJudgement): number {
  const { status } = verdict;
  if (status === 'locked') return 0;
  return status === 'drifted' || status === 'ambiguous'
    ? (drift?.logStdRatio.rms ?? 0)
    : Number.POSITIVE_INFINITY;
}

/**
 * What explains the factors between two convolutions better than a norm layer alone: a layer scale that one side has and the
 * other has folded in, and a power of two that an optimiser has moved there from the data in front, which leaves the bias.
 */
async function divideLayerScale(
  pair: FoldedPair,
  { biases, compared, context }: FactorContext,
): Promise<ScaledFactors> {
  const { scales: factors, weightsPerChannel } = compared;
  const judged = judgeFactors(pair, biases, compared);
  let best: ScaledFactors = { judged, gain: null, weightFactor: 1, isDivided: false };
  const isOpen = judged.verdict.status === 'drifted' || judged.verdict.status === 'trained';
  if (!isOpen || weightsPerChannel < 2 || compared.blur !== undefined) return best;
  const first = factors.findIndex((factor) => !Number.isNaN(factor));
  const judgeBy = (gain: Float64Array, power = 1) => {
    const scales = factors.map((factor, channel) => factor / (power * (gain[channel] ?? Number.NaN)));
    const values = biases.before?.values.map((bias, channel) => bias * (gain[channel] ?? Number.NaN));
    const before = biases.before === null || values === undefined ? null : { ...biases.before, values };
    return judgeFactors(pair, { ...biases, before }, { ...compared, scales });
  };
  const gains: Float64Array[] = [new Float64Array(factors.length).fill(1)];
  for (const side of ['before', 'after'] as const)
    for (const { values } of await readLayerScales(context.layerScales?.[side], factors.length))
      gains.push(side === 'before' ? values : values.map((value) => 1 / value));
  for (const gain of gains) {
    const power = 2 ** Math.round(Math.log2((factors[first] ?? 1) / (gain[first] ?? 1)));
    const isMarked = pair.before.looksFolded || pair.after.looksFolded;
    for (const each of power === 1 || !isMarked ? [1] : [1, power]) {
      const divided = { judged: judgeBy(gain, each), gain, weightFactor: each, isDivided: true };
      if (divided.judged.verdict.status === 'locked') return divided;
      if (each === 1 && distanceOfFactors(divided.judged) * MIN_GAIN < distanceOfFactors(best.judged))
        best = divided;
    }
  }
  return best;
}

/**
 * Solves for the folded side's statistics and compares them with the live side's. Where the file does not tell epsilon and
 * the variances seem to have moved, another usual one may explain them.
 */
async function judgeScales(
  pair: RecoveredPair,
  context: FoldedContext,
  scales: ProportionalScales,
): Promise<Judgement> {
  const assumed = chooseEpsilon(pair.layer, pair.layer, context.epsilon);
  const { evidence, ...judgement } = await judgeWith(pair, { context, scales, ...assumed });
  if (pair.layer.epsilon !== null) return judgement;
  const { status, drift } = judgement.layer;
  const toEvidence = (isExplained: boolean, isUncertain = false) =>
    context.epsilon === undefined ? { ...evidence, isExplained, isUncertain } : null;
  const seemsMoved = (status === 'drifted' || status === 'unresolved') && (drift?.channelsMoved ?? 0) > 0;
  const own = seemsMoved ? findOwnEpsilon(evidence) : null;
  if (own === null) return { ...judgement, epsilonEvidence: toEvidence(status === 'locked') };
  const { layer } = await judgeWith(pair, { context, scales, epsilon: own.epsilon, epsilonFrom: 'weights' });
  const isExplained = layer.status === 'locked';
  const explained = isExplained ? takeForUnmoved(layer, judgement.layer, own.isCertain) : judgement.layer;
  return { ...judgement, layer: explained, epsilonEvidence: toEvidence(isExplained, !own.isCertain) };
}

/** A layer that its own epsilon leaves unmoved; unresolved where drift would look much the same. */
export function takeForUnmoved<Layer extends RecoveredComparison | MergedComparison>(
  unmoved: Layer,
  moved: Layer,
  isCertain: boolean,
): Layer {
  const told = `an epsilon of ${unmoved.epsilon} in place of ${moved.epsilon} explains its folded weights with unmoved statistics`;
  if (!isCertain) {
    const problem = `${told}, and so does drift: too few channels, or too coarsely rounded ones, tell the two apart`;
    return { ...moved, ...unresolved(problem) };
  }
  const note = `${told}: it was taken for the layer's own, which a file of names alone does not tell`;
  return { ...unmoved, after: addNote(unmoved.after, note) };
}

interface SolvingOptions extends Pick<LayerComparison, 'epsilon' | 'epsilonFrom'> {
  readonly context: FoldedContext;
  readonly scales: ProportionalScales;
}

async function judgeWith(
  pair: RecoveredPair,
  { context, scales, epsilon, epsilonFrom }: SolvingOptions,
): Promise<Judgement<RecoveredComparison> & { readonly evidence: Omit<EpsilonEvidence, 'isExplained'> }> {
  const { foldedSide } = pair;
  const { held, gamma, solved, statistics } = await solveLayer(pair, scales, epsilon);
  const moved = solved.map(({ isMoved }) => isMoved);
  const hidden = solved.map(({ isHidden }) => isHidden);
  const [before, after] = foldedSide === 'after' ? [held, statistics] : [statistics, held];
  const invalidAfter = foldedSide === 'before' ? findInvalidValue(after) : null;
  const verdict = decide(solved, scales);
  const judgement = concludeRecovered(
    pair,
    context,
    invalidAfter === null ? verdict : invalid(invalidAfter),
    verdict.status === 'trained' ? 'changed' : 'exact',
  );
  const compared: RecoveredComparison = {
    ...judgement.layer,
    epsilon,
    epsilonFrom,
    affine: verdict.status === 'locked' && gamma !== null ? 'equal' : 'none',
    neighbours: 'equal',
    drift: {
      channelsMoved: countTrue(moved),
      measures: measureDrift(before, after, { moved, hidden, gamma: gamma?.values ?? null, epsilon }),
      perChannel: context.keepChannels ? listChannels(before, after, epsilon) : null,
    },
    bounds: boundMeasures(Float64Array.from(findStdRatios(before, after, epsilon)), scales),
    isUniformScale: scales.blur === undefined && isUniformSpread(solved, held, epsilon),
  };
  const visible = solved.filter(({ isHidden }) => !isHidden);
  return {
    ...judgement,
    layer: noteHiddenChannels(compared, countTrue(hidden), scales),
    evidence: {
      assumed: epsilon,
      offsets: visible.map(({ varianceOffset }) => varianceOffset),
      tolerances: visible.map(({ varianceTolerance }) => varianceTolerance),
    },
  };
}

function decide(solved: readonly SolvedChannel[], scales: ProportionalScales): Verdict {
  const isContradicted = solved.some((channel) => channel.isContradicted);
  const isMoved = solved.some((channel) => channel.isMoved);
  const lost = solved.findIndex(({ hasVanished }) => hasVanished);
  if (lost >= 0 && !isContradicted && !isMoved)
    return unresolved(
      `the folded weights of channel ${lost} are zero, and its γ is not: its variance became infinite, or its γ was trained to zero`,
    );
  if (solved.every(({ isHidden }) => isHidden))
    return unresolved(
      'its scale is zero or too near it in every channel: the folded weights hide the statistics',
    );
  // No variance turns the sign of a channel; training the scale does.
  if (isContradicted) return TRAINED;
  const doubt = isMoved
    ? (doubtDrift(scales) ??
      doubtMeans(
        scales,
        solved.some((channel) => channel.isSpreadMoved),
      ))
    : doubtStillness(scales, {
        isHinted: solved.some((channel) => channel.isHinted),
        hidden: solved.filter(({ isHidden }) => isHidden).length,
        channels: solved.length,
      });
  if (doubt !== null) return unresolved(doubt);
  if (!isMoved) return LOCKED;
  return scales.weightsPerChannel === 1 ? ONE_WEIGHT : DRIFTED;
}

/** Whether one factor explains every channel's spread, as weight decay on the convolution would. */
function isUniformSpread(
  solved: readonly SolvedChannel[],
  { variance }: Statistics,
  epsilon: number,
): boolean {
  const visible = solved.flatMap(({ isHidden, varianceOffset, varianceTolerance }, channel) => {
    const spread = (variance.values[channel] ?? Number.NaN) + epsilon;
    return isHidden ? [] : [{ ratio: 1 + varianceOffset / spread, tolerance: varianceTolerance / spread }];
  });
  const [first] = visible;
  if (first === undefined || visible.length < 2 || Math.abs(first.ratio - 1) <= first.tolerance) return false;
  // Without epsilon the factor of a variance of 0 is infinite, and not even its own.
  return visible.every(
    ({ ratio, tolerance }) => Math.abs(ratio - first.ratio) <= 2 * tolerance * first.ratio,
  );
}

function concludeRecovered(
  { layer, live, folded, foldedSide, pairedBy }: RecoveredPair,
  context: FoldedContext,
  verdict: Verdict,
  equality: Judgement['equality'],
): Judgement<RecoveredComparison> {
  const other = toFoldedLayer(folded, layer.name);
  const [before, after] = foldedSide === 'after' ? [layer, other] : [{ ...other, name: layer.name }, layer];
  return {
    layer: {
      kind: 'recovered',
      name: chooseLayerName({ before, after }),
      before,
      after,
      pairedBy,
      ...verdict,
      drift: null,
      affine: 'none',
      neighbours: equality === 'incomparable' ? 'none' : equality === 'changed' ? 'changed' : 'equal',
      equality: equality === 'changed' ? null : 'exact',
      relativeDifference: 0,
      channels: layer.channels,
      channelsHidden: 0,
      ...chooseEpsilon(layer, layer, context.epsilon),
      isUniformScale: false,
      liveLinear: live,
      foldedLinear: folded,
      weightFactor: 1,
    },
    equality,
  };
}
