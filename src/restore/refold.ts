import type { Tensor } from '../checkpoint/checkpoint.js';
import { decodeFloats, encodeFloats } from '../checkpoint/dtype.js';
import { compareChannelScales, takeScales } from '../compare/channel-scales.js';
import { type LayerComparison, readStoredLayer } from '../compare/compare-layers.js';
import { readOptional } from '../compare/solve-layer.js';
import { findInvalidValue, readChannelVector } from '../compare/statistics.js';
import { type ByteRange, holdBytes } from '../io/byte-source.js';
import type { LinearLayer } from '../norm/linear-layers.js';
import type { NormLayer } from '../norm/norm-layer.js';
import { cannotRestore } from './cannot-restore.js';
import type { Part, PartEdit, PartPlan, RestoreSide } from './plan-layers.js';
import { scaleWeight } from './scaled-weight.js';

/**
 * Folds a layer again, from the convolution and the statistics of before: with s = γ / √(v + ε),
 *
 *     W″ = s · W,   b″ = β + s · (b − μ),
 *
 * computed in float64 and rounded once, to after's types.
 *
 * @param folded the convolution of after.
 * @throws CheckpointError `unsupported` where before does not tell one of them.
 */
export async function refold(
  { before, epsilon, liveLinear: live }: LayerComparison,
  folded: LinearLayer,
  side: RestoreSide,
): Promise<PartPlan> {
  if (live === undefined)
    throw cannotRestore(before, side.checkpoint, 'after has folded it, and before has no convolution for it');
  const { mean, variance, gamma, beta } = await readStoredLayer(before);
  const invalid = findInvalidValue({ mean, variance });
  if (invalid !== null) throw cannotRestore(before, side.checkpoint, `before itself is invalid: ${invalid}`);
  const bias = await readOptional(live.bias);
  const scales = new Float64Array(variance.values.length);
  const offsets = new Float64Array(scales.length);
  for (let channel = 0; channel < scales.length; channel++) {
    const spread = (variance.values[channel] ?? Number.NaN) + epsilon;
    const scale = (gamma?.values[channel] ?? 1) / Math.sqrt(spread);
    const center = (bias?.values[channel] ?? 0) - (mean.values[channel] ?? Number.NaN);
    scales[channel] = scale;
    offsets[channel] = (beta?.values[channel] ?? 0) + scale * center;
  }
  const place = { folded, side };
  const weight = hasValues(live.weight)
    ? scaleInto(place, before, { linear: live, factors: scales })
    : await rescale(before, { linear: live, scales }, place);
  return { edits: editFolding(before, { weight, bias: offsets }, place), notes: noteRescaled(live) };
}

/** Where a folded convolution goes. */
export interface FoldingPlace {
  /** The convolution of after. */
  readonly folded: LinearLayer;
  readonly side: RestoreSide;
}

/** Copies the convolution of before, which the layer was folded into on both sides. */
export async function copyFolding(
  { before }: LayerComparison,
  linear: LinearLayer,
  place: FoldingPlace,
): Promise<PartPlan> {
  const { weight: target } = place.folded;
  const ones = new Float64Array(linear.channels).fill(1);
  const weight = !hasValues(linear.weight)
    ? await rescale(before, { linear, scales: ones }, place)
    : linear.weight.dtype === target.dtype
      ? linear.weight.range
      : scaleInto(place, before, { linear, factors: ones });
  const bias =
    linear.bias === null ? new Float64Array(linear.channels) : (await readChannelVector(linear.bias)).values;
  return { edits: editFolding(before, { weight, bias }, place), notes: noteRescaled(linear) };
}

/** A baseline keeps of a weight what tells whether another is a multiple of it, and not its values. */
function hasValues({ fingerprint }: Tensor): boolean {
  return fingerprint === undefined;
}

function noteRescaled({ weight }: LinearLayer): readonly string[] {
  return hasValues(weight)
    ? []
    : ['before keeps no weights: those of after were rescaled channel by channel, to float32 rounding'];
}

/**
 * Folds again without the weights of before: those of after are s_after · W, so that times scale / s_after they are what
 * the scales of before make of W. A channel of zeros stays one.
 */
async function rescale(
  layer: NormLayer,
  { linear, scales }: { readonly linear: LinearLayer; readonly scales: Float64Array },
  place: FoldingPlace,
): Promise<ByteRange> {
  const { folded, side } = place;
  const compared = takeScales(await compareChannelScales(linear.weight, folded.weight, linear));
  if (compared === null)
    throw cannotRestore(layer, side.checkpoint, 'it is folded into a convolution that was trained');
  const factors = scales.map((scale, channel) => {
    const now = compared.scales[channel] ?? Number.NaN;
    if (Number.isNaN(now) || (now === 0 && scale === 0)) return 1;
    return scale / now;
  });
  return scaleInto(place, layer, { linear: folded, factors });
}

/** A weight times its channels' factors as what after's convolution is to hold. */
function scaleInto(
  { folded, side }: FoldingPlace,
  layer: NormLayer,
  { linear, factors }: { readonly linear: LinearLayer; readonly factors: Float64Array },
): ByteRange {
  const { dtype } = folded.weight;
  const fail = () => doesNotFit(layer, side, 'folded weight', folded.weight);
  return scaleWeight(linear.weight, { layout: linear, factors, dtype, fail });
}

function doesNotFit(layer: NormLayer, side: RestoreSide, part: Part, { dtype }: Tensor): Error {
  return cannotRestore(layer, side.checkpoint, `its ${part} does not fit into ${dtype}`);
}

/** Values as the bytes of a tensor; null where one is too large for its type. */
function encode(values: Float64Array, { dtype }: Tensor): Uint8Array | null {
  const bytes = encodeFloats(values, dtype);
  return decodeFloats(bytes, dtype).every(Number.isFinite) ? bytes : null;
}

function editFolding(
  layer: NormLayer,
  { weight, bias }: { readonly weight: ByteRange; readonly bias: Float64Array },
  { folded, side }: FoldingPlace,
): readonly PartEdit[] {
  if (folded.bias === null && bias.some((value) => value !== 0))
    throw cannotRestore(
      layer,
      side.checkpoint,
      'after has folded it into a convolution without a bias, and it needs one',
    );
  const nameOf = (leaf: string) => `${folded.path ?? layer.name}.${leaf}`;
  const weightEdit: PartEdit = {
    part: 'folded weight',
    tensor: folded.weight,
    content: weight,
    preferredName: nameOf('weight'),
  };
  if (folded.bias === null) return [weightEdit];
  const bytes = encode(bias, folded.bias);
  if (bytes === null) throw doesNotFit(layer, side, 'folded bias', folded.bias);
  const biasEdit: PartEdit = {
    part: 'folded bias',
    tensor: folded.bias,
    content: holdBytes(bytes),
    preferredName: nameOf('bias'),
  };
  return [weightEdit, biasEdit];
}
