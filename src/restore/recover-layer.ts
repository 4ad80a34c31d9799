import { compareChannelScales, takeScales } from '../compare/channel-scales.js';
import type { LayerComparison } from '../compare/compare-layers.js';
import { solveLayer } from '../compare/solve-layer.js';
import { countTrue, type Statistics } from '../compare/statistics.js';
import type { LinearLayer } from '../norm/linear-layers.js';
import { cannotRestore } from './cannot-restore.js';
import type { RestoreSide } from './plan-layers.js';

/** Statistics that were solved for, and what there is to say about them. */
export interface RecoveredLayer {
  readonly statistics: Statistics;
  readonly notes: readonly string[];
}

/**
 * Solves the statistics of a layer that before has folded away from before's factors and after's live layer. Channels
 * that folding hides keep the values of after: their scale is zero or so near it that the layer does not use them.
 *
 * @throws CheckpointError `unsupported` where the two convolutions are no multiples of each other.
 */
export async function recoverLayer(
  { after, epsilon, liveLinear: live, status }: LayerComparison,
  folded: LinearLayer,
  side: RestoreSide,
): Promise<RecoveredLayer> {
  const found = live === undefined ? null : await compareChannelScales(live.weight, folded.weight, live);
  // Of weights too few to tell by themselves, the audit has told by all others whether they were trained.
  const isTrained = found?.kind === 'short' && status === 'trained';
  const compared = found === null || isTrained ? null : takeScales(found);
  if (live === undefined || compared === null)
    throw cannotRestore(
      after,
      side.checkpoint,
      'before has folded it into a convolution, which was trained since',
    );
  const { held, recovered } = await solveLayer({ layer: after, live, folded }, compared, epsilon);
  const { statistics, hidden, contradicted, vanished, varianceTolerances } = recovered;
  if (contradicted.some(Boolean))
    throw cannotRestore(after, side.checkpoint, 'its scale has changed its sign, so it was trained');
  const lost = vanished.indexOf(true);
  if (lost >= 0)
    throw cannotRestore(
      after,
      side.checkpoint,
      `the folded weights of channel ${lost} are zero in before, and its γ is not`,
    );
  const { values: variances } = statistics.variance;
  const impossible = variances.findIndex((variance, channel) => {
    // Rounding is in proportion to what it rounds.
    const spread = (held.variance.values[channel] ?? 0) + epsilon;
    const rounding = ((varianceTolerances[channel] ?? 0) * (variance + epsilon)) / spread;
    return hidden[channel] !== true && variance < -rounding;
  });
  if (impossible >= 0)
    throw cannotRestore(
      after,
      side.checkpoint,
      `only a variance of ${variances[impossible]?.toPrecision(3)} would explain the scale of channel ${impossible} in before: its weight was trained, or epsilon is not ${epsilon}`,
    );
  const merge = (solved: Float64Array, own: Float64Array) =>
    solved.map((value, channel) => (hidden[channel] === true ? (own[channel] ?? value) : value));
  const count = countTrue(hidden);
  return {
    statistics: {
      mean: { ...statistics.mean, values: merge(statistics.mean.values, held.mean.values) },
      variance: {
        ...statistics.variance,
        values: merge(statistics.variance.values, held.variance.values).map((value) => Math.max(value, 0)),
      },
    },
    notes: [
      'folded away in before: the statistics were solved for, to float32 rounding',
      ...(count === 0
        ? []
        : [`${count} of ${hidden.length} channels keep the values of after: folding hides those of before`]),
    ],
  };
}
