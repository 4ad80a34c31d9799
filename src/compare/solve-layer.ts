import type { Tensor } from '../checkpoint/checkpoint.js';
import type { LinearLayer } from '../norm/linear-layers.js';
import type { NormLayer } from '../norm/norm-layer.js';
import type { ProportionalScales } from './channel-scales.js';
import { readStoredLayer } from './compare-layers.js';
import { type RecoveredStatistics, recoverStatistics } from './recover-statistics.js';
import { type ChannelVector, readChannelVector, type Statistics } from './statistics.js';
import { roundingUncertainty, roundoffOf } from './weight-rounding.js';

/** A norm layer that is live or named on one side and was folded away on the other. */
export interface FoldedAway {
  readonly layer: NormLayer;
  /** The convolution that feeds it, unfolded. */
  readonly live: LinearLayer;
  /** The convolution that it was folded into. */
  readonly folded: LinearLayer;
}

/** What folding shows of the folded side, beside what the other side holds. */
export interface SolvedLayer {
  readonly held: Statistics;
  /** Of the side that holds the statistics; null without affine. */
  readonly gamma: ChannelVector | null;
  readonly recovered: RecoveredStatistics;
}

/**
 * Reads what folding is solved with and solves it for the folded side's statistics.
 *
 * @param scales of the folded weight over the live one.
 * @throws CheckpointError when a tensor cannot be read.
 */
export async function solveLayer(
  { layer, live, folded }: FoldedAway,
  { scales, uncertainty, rounding }: ProportionalScales,
  epsilon: number,
): Promise<SolvedLayer> {
  const { gamma, beta, ...held } = await readStoredLayer(layer);
  const recovered = recoverStatistics(
    { statistics: held, gamma, beta, bias: await readOptional(live.bias), epsilon },
    {
      scales,
      uncertainty,
      bias: await readOptional(folded.bias),
      biasRoundoff:
        folded.bias === null ? 0 : Math.max(roundoffOf(folded.bias), roundingUncertainty(rounding)),
    },
  );
  return { held, gamma, recovered };
}

/** A vector where there is one. */
export async function readOptional(tensor: Tensor | null): Promise<ChannelVector | null> {
  return tensor === null ? null : readChannelVector(tensor);
}
