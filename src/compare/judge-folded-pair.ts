import type { LinearLayer } from '../norm/linear-layers.js';
import type { NotFinite, SettledComparison } from './channel-scales.js';
import type { FoldedContext, Judgement } from './compare-folded.js';
import { chooseEpsilon, type LayerComparison } from './compare-layers.js';
import { noteHiddenChannels, toFoldedLayer } from './folded-layer.js';
import type { PairedBy } from './pair-layers.js';
import { relativeDifferenceIn } from './rounding.js';
import { chooseLayerName } from './shown-names.js';
import { type ChannelVector, type Measures, type RmsAndMax, readChannelVector } from './statistics.js';
import { roundoffOf } from './weight-rounding.js';

/** Two convolutions that may each have swallowed the same norm layer. */
export interface FoldedPair {
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
export function judgeNotFinite({
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
