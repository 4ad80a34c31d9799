import { type ChannelLayout, forEachRun, layOutChannels } from '../checkpoint/channel-grid.js';
import type { Tensor } from '../checkpoint/checkpoint.js';
import { type DType, decodeFloats, encodeFloats } from '../checkpoint/dtype.js';
import { compareChannelScales } from '../compare/channel-scales.js';
import { type LayerComparison, readStatistics } from '../compare/compare-layers.js';
import { type ChannelVector, findInvalidValue, readChannelVector } from '../compare/statistics.js';
import { readRange } from '../io/byte-source.js';
import { findFeedingLinear, type LinearLayer } from '../norm/linear-layers.js';
import type { NormLayer } from '../norm/norm-layer.js';
import { cannotRestore } from './cannot-restore.js';
import type { PartEdit, PartPlan, RestoreSide } from './plan-layers.js';

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
  { before, epsilon }: LayerComparison,
  folded: LinearLayer,
  side: RestoreSide,
): Promise<PartPlan> {
  const live = findFeedingLinear(before, side.checkpoint, side.learned);
  if (live === null)
    throw cannotRestore(before, side.checkpoint, 'after has folded it, and before has no convolution for it');
  const { mean, variance } = await readStatistics(before);
  const invalid = findInvalidValue({ mean, variance });
  if (invalid !== null) throw cannotRestore(before, side.checkpoint, `before itself is invalid: ${invalid}`);
  const read = (tensor: Tensor | null) => (tensor === null ? null : readChannelVector(tensor));
  const [gamma, beta, bias] = [await read(before.gamma), await read(before.beta), await read(live.bias)];
  const at = (vector: ChannelVector | null, channel: number, absent: number) =>
    vector?.values[channel] ?? absent;
  const scales = variance.values.map((value, channel) => at(gamma, channel, 1) / Math.sqrt(value + epsilon));
  const offsets = scales.map(
    (scale, channel) => at(beta, channel, 0) + scale * (at(bias, channel, 0) - at(mean, channel, Number.NaN)),
  );
  const target = folded.weight.dtype;
  const weight = hasValues(live.weight)
    ? encode(await scaleChannels(live.weight, live, { factors: scales, target }), folded.weight)
    : await rescale(before, { linear: live, scales }, { folded, side });
  return {
    edits: editFolding(before, { weight, bias: offsets }, { folded, side }),
    notes: noteRescaled(live),
  };
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
      ? await readRange(linear.weight.range)
      : encode(await readValues(linear.weight), target);
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
  { folded, side }: FoldingPlace,
): Promise<Uint8Array | null> {
  const compared = await compareChannelScales(linear.weight, folded.weight, linear);
  if (compared.kind !== 'proportional')
    throw cannotRestore(layer, side.checkpoint, 'it is folded into a convolution that was trained');
  const factors = scales.map((scale, channel) => {
    const now = compared.scales[channel] ?? Number.NaN;
    if (Number.isNaN(now) || (now === 0 && scale === 0)) return 1;
    return scale / now;
  });
  return encode(
    await scaleChannels(folded.weight, folded, { factors, target: folded.weight.dtype }),
    folded.weight,
  );
}

/** A weight with each output channel times a factor, rounded once where the target is float32, else not yet. */
async function scaleChannels(
  weight: Tensor,
  layout: ChannelLayout,
  { factors, target }: { readonly factors: Float64Array; readonly target: DType },
): Promise<Values> {
  const values = await readValues(weight);
  const scaled = target === 'F32' ? new Float32Array(values.length) : new Float64Array(values.length);
  forEachRun(
    layOutChannels(weight.shape, layout),
    { start: 0, length: values.length },
    (channel, from, to) => {
      const factor = factors[channel] ?? Number.NaN;
      for (let i = from; i < to; i++) scaled[i] = factor * (values[i] ?? Number.NaN);
      return true;
    },
  );
  return scaled;
}

type Values = Float32Array | Float64Array;

const IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

async function readValues({ range, dtype }: Tensor): Promise<Values> {
  const bytes = await readRange(range);
  return dtype === 'F32' && IS_LITTLE_ENDIAN ? new Float32Array(bytes.buffer) : decodeFloats(bytes, dtype);
}

/** Values as the bytes of a tensor; null where one is too large for its type. */
function encode(values: Values, { dtype }: Tensor): Uint8Array | null {
  if (!values.every(Number.isFinite)) return null;
  if (dtype === 'F32' && values instanceof Float32Array && IS_LITTLE_ENDIAN)
    return new Uint8Array(values.buffer);
  const bytes = encodeFloats(values, dtype);
  return dtype === 'F64' || decodeFloats(bytes, dtype).every(Number.isFinite) ? bytes : null;
}

function editFolding(
  layer: NormLayer,
  { weight, bias }: { readonly weight: Uint8Array | null; readonly bias: Float64Array },
  { folded, side }: FoldingPlace,
): readonly PartEdit[] {
  if (folded.bias === null && bias.some((value) => value !== 0))
    throw cannotRestore(
      layer,
      side.checkpoint,
      'after has folded it into a convolution without a bias, and it needs one',
    );
  const edit = (part: PartEdit['part'], tensor: Tensor, bytes: Uint8Array | null, name: string): PartEdit => {
    if (bytes === null)
      throw cannotRestore(layer, side.checkpoint, `its ${part} does not fit into ${tensor.dtype}`);
    return { part, tensor, bytes, preferredName: `${folded.path ?? layer.name}.${name}` };
  };
  const edits = [edit('folded weight', folded.weight, weight, 'weight')];
  return folded.bias === null
    ? edits
    : [...edits, edit('folded bias', folded.bias, encode(bias, folded.bias), 'bias')];
}
