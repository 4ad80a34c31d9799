// What is known of the scales between two weights of which one at least is quantised.

import type { ChannelLayout } from '../checkpoint/channel-grid.js';
import { haveSameShape, type Tensor } from '../checkpoint/checkpoint.js';
import { decodeFloats } from '../checkpoint/dtype.js';
import type { MeasureBounds } from '../compare/compare-layers.js';
import type { ProportionalScales, ScaleBlur, ScaleComparison } from '../compare/projected-scales.js';
import { areBoundable, boundFactors, type FactorBounds } from '../compare/quantised-weights.js';
import { readRange } from '../io/byte-source.js';

/**
 * As `compareChannelScales`, where a weight is quantised: its codes stand for intervals, and so do the scales. Weights that
 * no scale explains when each code is the nearest may be explained if it is the next but one: then either a tool chose the
 * codes otherwise, or training moved weights by a step.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function compareQuantisedScales(
  before: Tensor,
  after: Tensor,
  layout: ChannelLayout,
): Promise<ScaleComparison> {
  if (!areBoundable(before, after) || !haveSameShape(before, after)) return { kind: 'incomparable' };
  for (const margin of [0.5, 1] as const) {
    const bounds = await boundFactors(before, after, layout, margin);
    if (bounds?.kind === 'bounded') return toScales(bounds, margin > 0.5);
    if (bounds !== null) return bounds;
  }
  return { kind: 'changed' };
}

function toScales({ low, high, steps, witnesses }: FactorBounds, isLoose: boolean): ProportionalScales {
  return {
    kind: 'proportional',
    scales: low.map((least, channel) => middle(least, high[channel] as number)),
    weightsPerChannel: 1 + witnesses / low.length,
    uncertainty: 0,
    rounding: null,
    blur: {
      widths: low.map((least, channel) => ((high[channel] as number) - least) / 2),
      steps,
      isLoose,
      witnesses,
    },
  };
}

/** NaN where nothing bounds the scale: as of a channel of zeros, any would do. */
function middle(low: number, high: number): number {
  return Number.isFinite(high - low) ? (low + high) / 2 : Number.NaN;
}

/** Intervals wider than this part of their scale to either side say too little: drift is seldom much larger. */
const MAX_WIDTH = 1 / 16;

/** Fewer weights than this may follow one scale in each channel by chance, though they were trained. */
const MIN_WITNESSES = 8;

/** Whether a channel's interval is too wide for "unmoved" to mean something. */
export function isTooWide({ scales, blur }: ProportionalScales, channel: number): boolean {
  const scale = scales[channel] ?? Number.NaN;
  return blur !== undefined && !((blur.widths[channel] ?? Number.NaN) <= MAX_WIDTH * Math.abs(scale));
}

/** How far a scale may be from 1, from quantisation alone: its interval's half, and half a step, which is no drift yet. */
export function blurOf(
  blur: ScaleBlur | undefined,
  channel: number,
): { readonly width: number; readonly step: number } {
  return { width: blur?.widths[channel] ?? 0, step: (blur?.steps[channel] ?? 0) / 2 };
}

/** Why drift of a layer that seems to have drifted may be training, in few weights or by little; null where it may not. */
export function doubtDrift({ blur }: ProportionalScales): string | null {
  if (blur === undefined || blur.witnesses >= MIN_WITNESSES) return null;
  return 'its quantised convolution has so few weights that training them may look the same as moved statistics';
}

/** What a layer is judged by that does not seem to have drifted. */
interface StillEvidence {
  /** Whether some channel is outside of its interval, by less than half a step. */
  readonly isHinted: boolean;
  /** Channels of which too little is known. */
  readonly hidden: number;
  readonly channels: number;
}

/** Why a layer that does not seem to have drifted may have drifted all the same; null where it did not. */
export function doubtStillness(
  { blur }: ProportionalScales,
  { isHinted, hidden, channels }: StillEvidence,
): string | null {
  if (blur === undefined) return null;
  if (blur.isLoose)
    return 'its quantised weights fit what they were only if codes are off by more than half a step: a tool rounded them otherwise, or training moved them by about a step, which quantisation hides';
  if (isHinted)
    return 'its quantised weights moved, but by less than half a quantisation step: quantisation hides whether its statistics did, or a tool rounded otherwise';
  if (2 * hidden > channels)
    return `quantisation hides its statistics: the weights of ${hidden} of ${channels} channels are a few steps large, so that a drift of ${Math.round(100 * MAX_WIDTH)} % would not show`;
  return null;
}

/** Half a step of a quantised bias by channel; 0 for floats. */
export async function readHalfSteps(bias: Tensor | null): Promise<(channel: number) => number> {
  const quantised = bias?.quantised;
  if (quantised === undefined) return () => 0;
  const { range, dtype } = quantised.scale;
  const scales = decodeFloats(await readRange(range), dtype);
  return (channel) => (scales[scales.length === 1 ? 0 : channel] ?? Number.NaN) / 2;
}

/** How far off the scales are at most, relative to the largest: what equal weights may differ by. */
export function widestBlur(scales: ProportionalScales): number {
  const { blur } = scales;
  if (blur === undefined) return 0;
  const known = [...blur.widths.keys()].filter((channel) => !isTooWide(scales, channel));
  return known.reduce((widest, channel) => Math.max(widest, blur.widths[channel] as number), 0);
}

/** Bounds of what is measured with scales that quantisation leaves open, from the ratios σB / σA in their middle. */
export function boundMeasures(
  stdRatios: readonly number[],
  { scales, blur }: ProportionalScales,
): MeasureBounds | undefined {
  if (blur === undefined) return undefined;
  const widths = stdRatios.map(
    (_, channel) => (blur.widths[channel] ?? 0) / Math.abs(scales[channel] ?? Number.NaN),
  );
  // A ratio is the inverse of a scale, or in proportion to it: the wider of both.
  const low = stdRatios.map((ratio, channel) => ratio * Math.max(0, 1 - (widths[channel] ?? 0)));
  const high = stdRatios.map((ratio, channel) => ratio / Math.max(0, 1 - (widths[channel] ?? 0)));
  const known = [...stdRatios.keys()].filter((channel) => (widths[channel] ?? 1) < 1);
  const logs = known.map((channel) => [Math.log(low[channel] ?? 1), Math.log(high[channel] ?? 1)] as const);
  const least = logs.map(([from, to]) => Math.max(0, from, -to));
  const most = logs.map(([from, to]) => Math.max(-from, to));
  return {
    stdRatio: { low, high },
    logStdRatio: {
      rms: { low: rootMeanSquare(least), high: rootMeanSquare(most) },
      max: { low: Math.max(0, ...least), high: Math.max(0, ...most) },
    },
  };
}

function rootMeanSquare(values: readonly number[]): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / Math.max(1, values.length));
}
