import { failUnreachable } from '../errors.js';
import type { NotFinite, ProportionalScales, SettledComparison } from './channel-scales.js';
import type { FoldedContext, Judgement } from './compare-folded.js';
import { chooseEpsilon, type LayerComparison, listChannels, readStatistics } from './compare-layers.js';
import { type EpsilonEvidence, findOwnEpsilon } from './epsilon-evidence.js';
import { noteHiddenChannels, toFoldedLayer } from './folded-layer.js';
import { judgeNotFinite } from './judge-folded-pair.js';
import type { PairedBy } from './pair-layers.js';
import type { RecoveredStatistics } from './recover-statistics.js';
import { chooseLayerName } from './shown-names.js';
import { type FoldedAway, readOptional, solveLayer } from './solve-layer.js';
import { countTrue, findInvalidValue, measureDrift, type Statistics } from './statistics.js';

/** A norm layer that is live or named on one side and was folded away on the other. */
export interface RecoveredPair extends FoldedAway {
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
    return conclude(pair, context, { status: 'unresolved', problem: unread.reason });
  const bias = await readOptional(folded.bias);
  const invalid = bias?.values.findIndex((value) => !Number.isFinite(value)) ?? -1;
  if (invalid >= 0 && foldedSide === 'after') {
    const problem = `the folded bias of channel ${invalid} is ${bias?.values[invalid]}: not finite`;
    return conclude(pair, context, { status: 'invalid', problem });
  }
  const invalidAfter =
    foldedSide === 'before' && compared.kind !== 'proportional'
      ? findInvalidValue(await readStatistics(layer))
      : null;
  if (invalidAfter !== null)
    return conclude(
      pair,
      context,
      { status: 'invalid', problem: invalidAfter },
      compared.kind === 'changed' ? 'changed' : 'incomparable',
    );
  switch (compared.kind) {
    case 'not-finite':
      return conclude(pair, context, judgeNotFiniteSide(pair, compared), 'changed');
    case 'incomparable': {
      const problem = 'its convolution cannot be compared with the folded one';
      return conclude(pair, context, { status: 'unresolved', problem });
    }
    case 'changed':
      return conclude(pair, context, { status: 'trained', problem: null }, 'changed');
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
  const judgement = conclude(pair, context, verdict, solved.status === 'trained' ? 'changed' : 'exact');
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
    isUniformScale: isUniform(recovered, held, epsilon),
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
function isUniform(
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

function conclude(
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
