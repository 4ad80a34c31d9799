// Judges a folded pair: from scales and biases to a status and the statistics behind it.

import {
  chooseEpsilon,
  type LayerComparison,
  listChannels,
  readStatistics,
} from '../compare/compare-layers.js';
import type { LearnedComparison } from '../compare/compare-learned.js';
import type { PairedBy } from '../compare/pair-layers.js';
import type { NotFinite, ProportionalScales } from '../compare/projected-scales.js';
import { relativeDifferenceIn, roundoffOf } from '../compare/rounding.js';
import {
  type ChannelVector,
  countTrue,
  findInvalidValue,
  type Measures,
  measureDrift,
  type RmsAndMax,
  readChannelVector,
  type Statistics,
} from '../compare/statistics.js';
import { failUnreachable } from '../errors.js';
import { chooseLayerName, type LinearLayer, type NormLayer } from '../norm/norm-layer.js';
import type { SettledComparison } from './channel-scales.js';
import {
  type EpsilonEvidence,
  type FoldedAway,
  findOwnEpsilon,
  type RecoveredStatistics,
  readOptional,
  solveLayer,
} from './recover-statistics.js';

/** What the judges of single pairs are told. */
export interface FoldedContext {
  /** Overrides every layer's own epsilon. */
  readonly epsilon?: number | undefined;
  readonly keepChannels: boolean;
  /** Whether weights that were averaged count as changed. */
  readonly exact?: boolean | undefined;
}

/** A judged pair of convolutions: the layer's comparison, unless it proves to be no norm layer's. */
export interface Judgement {
  readonly layer: LayerComparison | null;
  readonly equality: LearnedComparison['equality'];
  /** What a named side's unknown epsilon must explain; null where epsilon is known. */
  readonly epsilonEvidence: EpsilonEvidence | null;
}

/** A norm layer that was folded into a convolution, as a layer whose statistics cannot be read from the file. */
export function toFoldedLayer(linear: LinearLayer, fallbackName: string): NormLayer {
  const { foldedNormPath, path, nodeName, weightName, channels } = linear;
  const reason = `it was folded into ${path ?? (nodeName === '' ? weightName : nodeName)}`;
  return {
    name: foldedNormPath ?? path ?? (fallbackName === '' ? nodeName : fallbackName),
    isNamed: foldedNormPath !== null || path !== null,
    kind: 'BatchNormalization',
    channels,
    mean: { kind: 'unresolved', reason },
    variance: { kind: 'unresolved', reason },
    gamma: null,
    beta: null,
    batchCount: null,
    epsilon: null,
    defaultEpsilon: 1e-5,
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

/**
 * A comparison that says which channels folding hides: where a scale γ is zero, so are the folded weights, whatever the
 * statistics are.
 */
function noteHiddenChannels(layer: LayerComparison, hidden: number): LayerComparison {
  const { channels, after, status } = layer;
  if (hidden === 0 || status === 'unresolved') return layer;
  const note = `folding hides the statistics of channels whose scale is zero or too near it: ${hidden} of ${channels} were not audited`;
  return { ...layer, channelsHidden: hidden, after: { ...after, notes: [...after.notes, note] } };
}

/** Two convolutions that may each have swallowed the same norm layer. */
interface FoldedPair {
  readonly before: LinearLayer;
  readonly after: LinearLayer;
  readonly pairedBy: PairedBy;
  /** What reports give as the layer's epsilon: factors between folded weights tell without one. */
  readonly epsilon: number | undefined;
}

/** A factor this many times further from 1, or from another, than rounding explains is another factor. */
const SAFETY = 16;

/** float32 roundings that two exporters may be apart in a folded bias. */
const BIAS_ROUNDINGS = 4 * 2 ** -24;

/** float32 roundings on the way to two folded scales. */
const FOLDING_ROUNDINGS = 8 * 2 ** -24;

/**
 * Judges two folded convolutions by the factors k between their output channels. A frozen convolution whose norm
 * layer drifted has k = √((v + ε) before / (v + ε) after), a factor of its own for each channel; its weights equal
 * and its bias moved, the mean drifted or a bias was trained; anything else was trained.
 *
 * @returns a judgement without a layer where nothing shows that a norm layer was folded in.
 * @throws CheckpointError when a tensor cannot be read.
 */
export async function judgeFoldedPair(
  pair: FoldedPair,
  compared: SettledComparison,
  context: FoldedContext,
): Promise<Judgement> {
  const { before, after } = pair;
  const looksFolded = before.looksFolded || after.looksFolded;
  if (compared.kind === 'incomparable') return conclude(null, 'incomparable');
  const biases = { before: await readBias(before), after: await readBias(after) };
  const invalid = biases.after?.values.findIndex((value) => !Number.isFinite(value)) ?? -1;
  if (invalid >= 0 && looksFolded) {
    const problem = `the folded bias of channel ${invalid} is ${biases.after?.values[invalid]}: not finite`;
    return conclude(describe(pair, { status: 'invalid', problem }), 'changed');
  }
  if (compared.kind === 'not-finite') {
    const equality = compared.isSame ? 'exact' : 'changed';
    return conclude(looksFolded ? describe(pair, judgeNotFinite(compared)) : null, equality);
  }
  return compared.kind === 'changed'
    ? conclude(looksFolded ? describe(pair, { status: 'trained' }) : null, 'changed')
    : judgeFactors(pair, context, { ...compared, biases, looksFolded });
}

/** A layer whose folded weights hold NaN or infinity; what before's were folded from cannot be told. */
function judgeNotFinite({
  side,
  channel,
  value,
}: NotFinite): Pick<LayerComparison, 'status'> & { readonly problem: string } {
  const problem = `the folded weight of channel ${channel} is ${value}: not finite`;
  return side === 'after'
    ? { status: 'invalid', problem }
    : { status: 'unresolved', problem: `in before, ${problem}` };
}

/** Factors between output channels, and what goes with them. */
type Factors = Extract<SettledComparison, { readonly kind: 'proportional' }> & {
  readonly biases: Biases;
  readonly looksFolded: boolean;
};

interface Biases {
  readonly before: ChannelVector | null;
  readonly after: ChannelVector | null;
}

function judgeFactors(
  pair: FoldedPair,
  { keepChannels }: FoldedContext,
  { scales: factors, uncertainty, rounding, weightsPerChannel, biases, looksFolded }: Factors,
): Judgement {
  const tolerance = SAFETY * (FOLDING_ROUNDINGS + uncertainty);
  const isRescaled = [...factors].map((factor) => Math.abs(factor - 1) > tolerance);
  const isBiasMoved = findMovedBiases(pair, biases, rounding === null ? 0 : relativeDifferenceIn(rounding));
  const channelsMoved = isRescaled.filter((is, channel) => is || isBiasMoved(channel)).length;
  const describeAs = (verdict: Pick<LayerComparison, 'status'> & Partial<LayerComparison>) =>
    noteHiddenChannels(describe(pair, verdict), factors.filter(Number.isNaN).length);
  const moved = {
    neighbours: 'equal' as const,
    channelsMoved,
    measures: measureFactors(factors, isRescaled),
    perChannel: keepChannels
      ? { before: null, after: null, stdRatio: [...factors].map((factor) => 1 / factor) }
      : null,
  };
  if (!isRescaled.some(Boolean)) {
    if (channelsMoved > 0) return conclude(describeAs({ ...moved, status: 'ambiguous' }), 'exact');
    return conclude(looksFolded ? describeAs({ ...moved, status: 'locked' }) : null, 'exact');
  }
  if (factors.some((factor) => factor <= 0))
    return conclude(looksFolded ? describeAs({ status: 'trained' }) : null, 'changed');
  if (weightsPerChannel === 1) {
    const problem =
      'its convolution has one weight per channel, so that training it looks the same as moved statistics';
    return conclude(looksFolded ? describeAs({ status: 'unresolved', problem }) : null, 'incomparable');
  }
  const isUniformScale = isUniform(factors, tolerance);
  return conclude(describeAs({ ...moved, status: 'drifted', isUniformScale }), 'exact');
}

function conclude(layer: LayerComparison | null, equality: Judgement['equality']): Judgement {
  return { layer, equality, epsilonEvidence: null };
}

async function readBias({ bias }: LinearLayer): Promise<ChannelVector | null> {
  return bias === null ? null : readChannelVector(bias);
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
    const [x, y] = [biases.before?.values[channel] ?? 0, biases.after?.values[channel] ?? 0];
    // NaN and infinities have no distance, and yet are the same on both sides.
    if (Object.is(x, y)) return false;
    return !(
      Math.abs(y - x) <=
      2 * roundoff * Math.abs(x) + (BIAS_ROUNDINGS + 2 * relativeDifference) * largest
    );
  };
}

/** What factors tell of a drift: σB / σA = 1 / k. Channels that were not rescaled count as exactly unmoved. */
function measureFactors(factors: Float64Array, isRescaled: readonly boolean[]): FactorMeasures {
  let [known, squares, max] = [0, 0, 0];
  for (const [channel, factor] of factors.entries()) {
    // A channel of zeros on both sides has no factor, and counts in no measure.
    if (Number.isNaN(factor)) continue;
    const log = isRescaled[channel] === true ? Math.abs(Math.log(factor)) : 0;
    known++;
    squares += log * log;
    max = Math.max(max, log);
  }
  return {
    meanShift: null,
    logStdRatio: { rms: Math.sqrt(squares / known), max },
    divergence: null,
    outputShift: null,
  };
}

type FactorMeasures = { readonly [Name in keyof Measures]: Name extends 'logStdRatio' ? RmsAndMax : null };

function isUniform(factors: Float64Array, tolerance: number): boolean {
  const known = factors.filter((factor) => !Number.isNaN(factor));
  const [first = Number.NaN] = known;
  return known.length > 1 && known.every((factor) => Math.abs(factor / first - 1) <= 2 * tolerance);
}

function describe(
  { before, after, pairedBy, epsilon }: FoldedPair,
  verdict: Pick<LayerComparison, 'status'> & Partial<LayerComparison>,
): LayerComparison {
  const name = before.foldedNormPath ?? after.foldedNormPath ?? before.path ?? after.path ?? '';
  const [one, other] = [toFoldedLayer(before, name), toFoldedLayer(after, name)];
  const sides = { before: { ...one, ...(name === '' ? {} : { name }) }, after: other };
  return {
    name: chooseLayerName(sides),
    ...sides,
    pairedBy,
    via: 'folded',
    affine: 'none',
    neighbours: verdict.status === 'trained' ? 'changed' : 'none',
    channels: before.channels,
    equality: verdict.status === 'trained' ? null : 'exact',
    relativeDifference: 0,
    channelsMoved: null,
    ...chooseEpsilon(one, other, epsilon),
    batches: null,
    cause: null,
    measures: null,
    isReset: false,
    isUniformScale: false,
    problem: null,
    perChannel: null,
    ...verdict,
  };
}

/** A norm layer that is live or named on one side and was folded away on the other. */
interface RecoveredPair extends FoldedAway {
  readonly foldedSide: 'before' | 'after';
  readonly pairedBy: PairedBy;
}

type Evidence = Omit<EpsilonEvidence, 'isExplained'>;

type Verdict = Pick<LayerComparison, 'status' | 'problem'>;

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
  const { layer, folded, foldedSide } = pair;
  const isSame = compared.kind === 'proportional' && compared.scales.every((scale) => scale === 1);
  if (isSame && !folded.looksFolded) return null;
  const unread = [layer.mean, layer.variance].find((statistic) => statistic.kind === 'unresolved');
  if (unread?.kind === 'unresolved')
    return concludeRecovered(pair, context, { status: 'unresolved', problem: unread.reason });
  const bias = await readOptional(folded.bias);
  const invalid = bias?.values.findIndex((value) => !Number.isFinite(value)) ?? -1;
  if (invalid >= 0 && foldedSide === 'after') {
    const problem = `the folded bias of channel ${invalid} is ${bias?.values[invalid]}: not finite`;
    return concludeRecovered(pair, context, { status: 'invalid', problem });
  }
  const invalidAfter =
    foldedSide === 'before' && compared.kind !== 'proportional'
      ? findInvalidValue(await readStatistics(layer))
      : null;
  if (invalidAfter !== null)
    return concludeRecovered(
      pair,
      context,
      { status: 'invalid', problem: invalidAfter },
      compared.kind === 'changed' ? 'changed' : 'incomparable',
    );
  switch (compared.kind) {
    case 'not-finite':
      return concludeRecovered(pair, context, judgeNotFiniteSide(pair, compared), 'changed');
    case 'incomparable': {
      const problem = 'its convolution cannot be compared with the folded one';
      return concludeRecovered(pair, context, { status: 'unresolved', problem });
    }
    case 'changed':
      return concludeRecovered(pair, context, { status: 'trained', problem: null }, 'changed');
    case 'proportional':
      return judgeScales(pair, context, compared);
    default:
      return failUnreachable(compared);
  }
}

/** @param notFinite `before` is the unfolded side, whichever checkpoint that is. */
function judgeNotFiniteSide({ foldedSide }: RecoveredPair, notFinite: NotFinite): Verdict {
  if (notFinite.side === 'after') return judgeNotFinite({ ...notFinite, side: foldedSide });
  const { channel, value } = notFinite;
  const liveSide = foldedSide === 'after' ? 'before' : 'after';
  const problem = `in ${liveSide}, the weight of channel ${channel} of its convolution is ${value}: not finite`;
  return { status: 'unresolved', problem };
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
  const { status, channelsMoved } = judgement.layer;
  const toEvidence = (isExplained: boolean) =>
    context.epsilon === undefined ? { ...evidence, isExplained } : null;
  const seemsMoved = (status === 'drifted' || status === 'unresolved') && (channelsMoved ?? 0) > 0;
  const own = seemsMoved ? findOwnEpsilon(evidence) : null;
  if (own === null) return { ...judgement, epsilonEvidence: toEvidence(status === 'locked') };
  const { layer } = await judgeWith(pair, { context, scales, epsilon: own.epsilon, epsilonFrom: 'weights' });
  const isExplained = layer.status === 'locked';
  const explained = isExplained ? takeForUnmoved(layer, judgement.layer, own.isCertain) : judgement.layer;
  return { ...judgement, layer: explained, epsilonEvidence: toEvidence(isExplained) };
}

/** A layer that its own epsilon leaves unmoved; unresolved where drift would look much the same. */
function takeForUnmoved(
  unmoved: LayerComparison,
  moved: LayerComparison,
  isCertain: boolean,
): LayerComparison {
  const told = `an epsilon of ${unmoved.epsilon} in place of ${moved.epsilon} explains its folded weights with unmoved statistics`;
  if (!isCertain) {
    const problem = `${told}, and so does drift: too few channels, or too coarsely rounded ones, tell the two apart`;
    return { ...moved, status: 'unresolved', problem };
  }
  const note = `${told}: it was taken for the layer's own, which a file of names alone does not tell`;
  return { ...unmoved, after: { ...unmoved.after, notes: [...unmoved.after.notes, note] } };
}

interface SolvingOptions extends Pick<LayerComparison, 'epsilon' | 'epsilonFrom'> {
  readonly context: FoldedContext;
  readonly scales: ProportionalScales;
}

async function judgeWith(
  pair: RecoveredPair,
  { context, scales, epsilon, epsilonFrom }: SolvingOptions,
): Promise<Judgement & { readonly layer: LayerComparison; readonly evidence: Evidence }> {
  const { foldedSide } = pair;
  const { held, gamma, recovered } = await solveLayer(pair, scales, epsilon);
  const [before, after] =
    foldedSide === 'after' ? [held, recovered.statistics] : [recovered.statistics, held];
  const invalid = foldedSide === 'before' ? findInvalidValue(after) : null;
  const solved = decide(recovered, scales.weightsPerChannel);
  const verdict = invalid === null ? solved : { status: 'invalid' as const, problem: invalid };
  const judgement = concludeRecovered(
    pair,
    context,
    verdict,
    solved.status === 'trained' ? 'changed' : 'exact',
  );
  const compared: LayerComparison = {
    ...judgement.layer,
    epsilon,
    epsilonFrom,
    affine: solved.status === 'locked' && gamma !== null ? 'equal' : 'none',
    neighbours: 'equal',
    channelsMoved: countTrue(recovered.moved),
    measures: measureDrift(before, after, {
      moved: recovered.moved,
      hidden: recovered.hidden,
      gamma: gamma?.values ?? null,
      epsilon,
    }),
    isUniformScale: isUniformSpread(recovered, held, epsilon),
    perChannel: context.keepChannels ? listChannels(before, after, epsilon) : null,
  };
  return {
    ...judgement,
    layer: noteHiddenChannels(compared, countTrue(recovered.hidden)),
    evidence: collectEvidence(recovered, epsilon),
  };
}

function decide(
  { moved, hidden, contradicted, vanished }: RecoveredStatistics,
  weightsPerChannel: number,
): Verdict {
  const lost = vanished.indexOf(true);
  if (lost >= 0 && !contradicted.some(Boolean) && !moved.some(Boolean)) {
    return {
      status: 'unresolved',
      problem: `the folded weights of channel ${lost} are zero, and its γ is not: its variance became infinite, or its γ was trained to zero`,
    };
  }
  if (hidden.every(Boolean)) {
    return {
      status: 'unresolved',
      problem: 'its scale is zero or too near it in every channel: the folded weights hide the statistics',
    };
  }
  // No variance turns the sign of a channel; training the scale does.
  if (contradicted.some(Boolean)) return { status: 'trained', problem: null };
  if (!moved.some(Boolean)) return { status: 'locked', problem: null };
  if (weightsPerChannel === 1) {
    return {
      status: 'unresolved',
      problem:
        'its convolution has one weight per channel, so that training it looks the same as moved statistics',
    };
  }
  return { status: 'drifted', problem: null };
}

/** Whether one factor explains every channel's spread, as weight decay on the convolution would. */
function isUniformSpread(
  { varianceOffsets, varianceTolerances, hidden }: RecoveredStatistics,
  { variance }: Statistics,
  epsilon: number,
): boolean {
  let visible = 0;
  let ratio = Number.NaN;
  for (let channel = 0; channel < hidden.length; channel++) {
    if (hidden[channel] === true) continue;
    const spread = (variance.values[channel] ?? Number.NaN) + epsilon;
    const own = 1 + (varianceOffsets[channel] ?? Number.NaN) / spread;
    const tolerance = (varianceTolerances[channel] ?? 0) / spread;
    if (visible++ === 0) {
      ratio = own;
      if (Math.abs(ratio - 1) <= tolerance) return false;
    }
    // Without epsilon the factor of a variance of 0 is infinite, and not even its own.
    if (!(Math.abs(own - ratio) <= 2 * tolerance * ratio)) return false;
  }
  return visible >= 2;
}

function collectEvidence(
  { varianceOffsets, varianceTolerances, hidden }: RecoveredStatistics,
  assumed: number,
): Evidence {
  const visible = [...hidden.keys()].filter((channel) => hidden[channel] !== true);
  return {
    assumed,
    offsets: visible.map((channel) => varianceOffsets[channel] ?? Number.NaN),
    tolerances: visible.map((channel) => varianceTolerances[channel] ?? 0),
  };
}

function concludeRecovered(
  { layer, live, folded, foldedSide, pairedBy }: RecoveredPair,
  context: FoldedContext,
  verdict: Verdict,
  equality: Judgement['equality'] = 'incomparable',
): Judgement & { readonly layer: LayerComparison } {
  const other = toFoldedLayer(folded, layer.name);
  const [before, after] = foldedSide === 'after' ? [layer, other] : [{ ...other, name: layer.name }, layer];
  return {
    layer: {
      name: chooseLayerName({ before, after }),
      before,
      after,
      pairedBy,
      via: 'folded',
      liveLinear: live,
      ...verdict,
      affine: 'none',
      neighbours: equality === 'incomparable' ? 'none' : equality === 'changed' ? 'changed' : 'equal',
      equality: equality === 'changed' ? null : 'exact',
      relativeDifference: 0,
      channels: layer.channels,
      channelsMoved: null,
      ...chooseEpsilon(layer, layer, context.epsilon),
      batches: null,
      cause: null,
      measures: null,
      isReset: false,
      isUniformScale: false,
      perChannel: null,
    },
    equality,
    epsilonEvidence: null,
  };
}
