import type { LayerComparison } from '../compare/compare-layers.js';
import { readChannelVector } from '../compare/statistics.js';

/** Factors and offsets per channel: y′ = factor · y + offset. */
export interface FoldShift {
  readonly factors: Float64Array;
  readonly offsets: Float64Array;
}

/**
 * What putting before's statistics back does to the output of a convolution that a norm layer was folded into.
 *
 * A norm layer gives y = γ·(x − μB)/σB + β with after's statistics and y′ = γ·(x − μA)/σA + β with before's, so
 *
 *     y′ = (σB/σA)·y + β·(1 − σB/σA) + γ/σA·(μB − μA),
 *
 * which is what folding the convolution again from before's statistics comes to. Where before is folded as well and its
 * convolution is k times after's, y′ = k·y + b′ − k·b with the two folded biases.
 *
 * @returns null where nothing tells the statistics.
 */
export async function findFoldShift(layer: LayerComparison): Promise<FoldShift | null> {
  const { perChannel } = layer;
  if (perChannel === null) return null;
  const { before, after, stdRatio } = perChannel;
  if (before === null || after === null) return findShiftOfBoth(layer, stdRatio);
  const gamma = await readOrNull(layer.before.gamma);
  const beta = await readOrNull(layer.before.beta);
  return shiftChannels(stdRatio, (channel, factor) => {
    const sigma = Math.sqrt((before.variance[channel] ?? Number.NaN) + layer.epsilon);
    const meanShift = (after.mean[channel] ?? Number.NaN) - (before.mean[channel] ?? Number.NaN);
    return (beta?.[channel] ?? 0) * (1 - factor) + ((gamma?.[channel] ?? 1) / sigma) * meanShift;
  });
}

async function findShiftOfBoth(
  { before, after }: LayerComparison,
  stdRatio: readonly number[],
): Promise<FoldShift | null> {
  if (before.foldedInto === undefined || after.foldedInto === undefined) return null;
  const biasBefore = await readOrNull(before.foldedInto.bias);
  const biasAfter = await readOrNull(after.foldedInto.bias);
  return shiftChannels(
    stdRatio,
    (channel, factor) => (biasBefore?.[channel] ?? 0) - factor * (biasAfter?.[channel] ?? 0),
  );
}

/** A channel without a factor has weights of zero, or a γ so small that nothing shows of it: only its offset counts. */
function shiftChannels(
  stdRatio: readonly number[],
  offsetOf: (channel: number, factor: number) => number,
): FoldShift {
  const factors = Float64Array.from(stdRatio, (ratio) => (Number.isFinite(ratio) && ratio > 0 ? ratio : 1));
  const offsets = Float64Array.from(factors, (factor, channel) => {
    const offset = offsetOf(channel, factor);
    return Number.isFinite(offset) ? offset : 0;
  });
  return { factors, offsets };
}

type TensorOrNull = LayerComparison['before']['gamma'];

async function readOrNull(tensor: TensorOrNull): Promise<Float64Array | null> {
  return tensor === null ? null : (await readChannelVector(tensor)).values;
}
