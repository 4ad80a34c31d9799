import type { LinearLayer } from '../norm/linear-layers.js';
import { compareChannelScales } from './channel-scales.js';
import type { FoldedContext, Judgement } from './compare-folded.js';
import type { LayerComparison } from './compare-layers.js';
import { noteHiddenChannels, toFoldedLayer } from './folded-layer.js';
import type { PairedBy } from './pair-layers.js';
import { type ChannelVector, type Measures, type RmsAndMax, readChannelVector } from './statistics.js';
import { roundoffOf } from './weight-rounding.js';

/** Two convolutions that may each have swallowed the same norm layer. */
export interface FoldedPair {
  readonly before: LinearLayer;
  readonly after: LinearLayer;
  readonly pairedBy: PairedBy;
}

/** A factor this many times further from 1, or from another, than rounding explains is another factor. */
const SAFETY = 16;

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
export async function judgeFoldedPair(pair: FoldedPair, context: FoldedContext): Promise<Judgement> {
  const { before, after } = pair;
  const looksFolded = before.looksFolded || after.looksFolded;
  const compared = await compareChannelScales(before.weight, after.weight, before);
  if (compared.kind === 'incomparable')
    return { layer: null, equality: 'incomparable', epsilonEvidence: null };
  const [biasBefore, biasAfter] = [await readBias(before), await readBias(after)];
  const invalid = biasAfter?.values.findIndex((value) => !Number.isFinite(value)) ?? -1;
  if (invalid >= 0 && looksFolded) {
    const problem = `the folded bias of channel ${invalid} is ${biasAfter?.values[invalid]}: not finite`;
    return {
      layer: describe(pair, { status: 'invalid', problem }),
      equality: 'changed',
      epsilonEvidence: null,
    };
  }
  if (compared.kind === 'changed') {
    return {
      layer: looksFolded ? describe(pair, { status: 'trained' }) : null,
      equality: 'changed',
      epsilonEvidence: null,
    };
  }
  const tolerance = SAFETY * (FOLDING_ROUNDINGS + compared.uncertainty);
  const factors = compared.scales;
  const isRescaled = [...factors].map((factor) => Math.abs(factor - 1) > tolerance);
  const isBiasMoved = findMovedBiases(biasBefore, biasAfter, before, after);
  const movedChannels = [...factors.keys()].filter(
    (channel) => isRescaled[channel] === true || isBiasMoved(channel),
  ).length;
  const moved = {
    neighbours: 'equal' as const,
    channelsMoved: movedChannels,
    measures: measureFactors(factors, isRescaled),
    perChannel: context.keepChannels
      ? { before: null, after: null, stdRatio: [...factors].map((factor) => 1 / factor) }
      : null,
  };
  const hidden = factors.filter(Number.isNaN).length;
  const conclude = (layer: LayerComparison | null, equality: Judgement['equality'] = 'equal'): Judgement => ({
    layer: layer === null ? null : { ...layer, after: noteHiddenChannels(layer.after, hidden) },
    equality,
    epsilonEvidence: null,
  });
  if (!isRescaled.some(Boolean)) {
    if (movedChannels > 0) return conclude(describe(pair, { ...moved, status: 'ambiguous' }));
    return conclude(looksFolded ? describe(pair, { ...moved, status: 'locked' }) : null);
  }
  if (factors.some((factor) => factor <= 0)) {
    return conclude(looksFolded ? describe(pair, { status: 'trained' }) : null, 'changed');
  }
  if (compared.weightsPerChannel === 1) {
    const problem =
      'its convolution has one weight per channel, so that training it looks the same as moved statistics';
    return conclude(looksFolded ? describe(pair, { status: 'unresolved', problem }) : null, 'incomparable');
  }
  return conclude(
    describe(pair, { ...moved, status: 'drifted', isUniformScale: isUniform(factors, tolerance) }),
  );
}

async function readBias({ bias }: LinearLayer): Promise<ChannelVector | null> {
  return bias === null ? null : readChannelVector(bias);
}

/** Whether a channel's bias differs by more than its type's rounding. Absent biases are zeros. */
function findMovedBiases(
  biasBefore: ChannelVector | null,
  biasAfter: ChannelVector | null,
  before: LinearLayer,
  after: LinearLayer,
): (channel: number) => boolean {
  const isSameType = before.bias?.dtype === after.bias?.dtype;
  const roundoff = isSameType
    ? 0
    : Math.max(...[before.bias, after.bias].map((bias) => (bias === null ? 0 : roundoffOf(bias))));
  return (channel) => {
    const [x, y] = [biasBefore?.values[channel] ?? 0, biasAfter?.values[channel] ?? 0];
    return !(Math.abs(y - x) <= 2 * roundoff * Math.abs(x));
  };
}

/** What factors tell of a drift: σB / σA = 1 / k. Channels that were not rescaled count as exactly unmoved. */
function measureFactors(factors: Float64Array, isRescaled: readonly boolean[]): FactorMeasures {
  const logs = [...factors].map((factor, channel) =>
    isRescaled[channel] === true ? Math.abs(Math.log(factor)) : 0,
  );
  const squares = logs.reduce((sum, log) => sum + log * log, 0);
  return {
    meanShift: null,
    logStdRatio: {
      rms: Math.sqrt(squares / logs.length),
      max: logs.reduce((most, log) => Math.max(most, log), 0),
    },
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
  { before, after, pairedBy }: FoldedPair,
  verdict: Pick<LayerComparison, 'status'> & Partial<LayerComparison>,
): LayerComparison {
  const name = before.foldedNormPath ?? after.foldedNormPath ?? before.path ?? after.path ?? '';
  return {
    before: { ...toFoldedLayer(before, name), ...(name === '' ? {} : { name }) },
    after: toFoldedLayer(after, name),
    pairedBy,
    via: 'folded',
    affine: 'none',
    neighbours: verdict.status === 'trained' ? 'changed' : 'none',
    channels: before.channels,
    channelsMoved: null,
    epsilon: 1e-5,
    epsilonFrom: 'default',
    batches: null,
    measures: null,
    isReset: false,
    isUniformScale: false,
    problem: null,
    perChannel: null,
    ...verdict,
  };
}
