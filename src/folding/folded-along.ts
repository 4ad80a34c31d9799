// Finds what exporters fold in along with a norm layer: a layer scale, another norm layer in a row, a constant of the data.

import type { Tensor } from '../checkpoint/checkpoint.js';
import { encodeFloats, isDecodable } from '../checkpoint/dtype.js';
import { chooseEpsilon, readStoredLayer } from '../compare/compare-layers.js';
import { type ChannelVector, readChannelVector } from '../compare/statistics.js';
import { holdBytes } from '../io/byte-source.js';
import { addTo, splitPath } from '../norm/naming.js';
import {
  type ExaminedCheckpoint,
  type LayerVector,
  type LinearLayer,
  type NormLayer,
  storedTensorOf,
  whyUnresolved,
} from '../norm/norm-layer.js';

/** The learned vectors of a checkpoint that may scale channels, by their length. */
export type LayerScales = ReadonlyMap<number, readonly Tensor[]>;

/** Models have two layer scales a block; the work on a layer grows with those of its width. */
const MAX_SCALES = 64;

/**
 * Lists what may be a layer scale (`layer_scale_1`, `ls1.gamma`), which ONNX Runtime and onnxsim fold into the convolution
 * before it: learned vectors that are no weight or bias of a module.
 */
export function listLayerScales({ checkpoint, learned, layers }: ExaminedCheckpoint): LayerScales {
  const biases = new Set(checkpoint.graph?.linears.map(({ biasName }) => biasName));
  const affine = new Set(layers.flatMap(({ gamma, beta }) => [storedTensorOf(gamma), storedTensorOf(beta)]));
  const found = new Map<number, Tensor[]>();
  for (const [name, tensor] of learned) {
    const { elementCount, shape, dtype, fingerprint } = tensor;
    const isVector = elementCount > 1 && shape.some((size) => size === elementCount);
    const isOfModule =
      ['weight', 'bias'].includes(splitPath(name)[1]) || affine.has(tensor) || biases.has(name);
    if (!isVector || isOfModule || fingerprint !== undefined || !isDecodable(dtype)) continue;
    if ((found.get(elementCount)?.length ?? 0) < MAX_SCALES) addTo(found, elementCount, tensor);
  }
  return found;
}

/** The layer scales of a length that hold finite numbers other than zero. */
export async function readLayerScales(
  scales: LayerScales | undefined,
  channels: number,
): Promise<readonly ChannelVector[]> {
  const found: ChannelVector[] = [];
  for (const tensor of scales?.get(channels) ?? []) {
    const vector = await readChannelVector(tensor);
    if (vector.values.every((value) => Number.isFinite(value) && value !== 0)) found.push(vector);
  }
  return found;
}

/** A norm layer with the layer scale behind it: g · (γ · x̂ + β). Null without an affine part. */
export async function scaleAffine(layer: NormLayer, { values }: ChannelVector): Promise<NormLayer | null> {
  const scale = async (vector: LayerVector | null): Promise<LayerVector | null> => {
    if (vector?.kind !== 'stored') return null;
    const own = await readChannelVector(vector.tensor);
    const scaled = own.values.map((value, channel) => value * (values[channel] ?? Number.NaN));
    const range = holdBytes(encodeFloats(scaled, 'F64'));
    return { ...vector, tensor: { ...vector.tensor, dtype: 'F64', range } };
  };
  const [gamma, beta] = [await scale(layer.gamma), await scale(layer.beta)];
  return gamma === null || beta === null ? null : { ...layer, gamma, beta };
}

/** What the weights of one side are of the other's where a constant was moved into them from the data in front. */
interface MovedFactor {
  readonly value: number;
  /** False where a graph multiplies by a constant that another does not have: each may be the model's own. */
  readonly isCertain: boolean;
}

/** Names alone say nothing of constants: then only what an activation lacks is known to have been moved. */
export function findMovedFactor(before: LinearLayer, after: LinearLayer): MovedFactor {
  const [one, other] = [before.dataFactor, after.dataFactor];
  const factors = [one, other].flatMap((factor) =>
    factor === undefined || factor.value === 1 ? [] : [factor],
  );
  const isKnown = factors.every(({ isGated }) => isGated);
  const value = (one?.value ?? 1) / (other?.value ?? 1);
  const isUnknown = !isKnown && (one === undefined || other === undefined);
  if (isUnknown || !(Number.isFinite(value) && value > 0)) return { value: 1, isCertain: true };
  // Where an activation lacks one constant, an optimiser has moved it, with what stood beside it.
  return { value, isCertain: isKnown || factors.some(({ isGated }) => isGated) };
}

/** The norm layers of one width that stand right before and behind each of a checkpoint, as it lists them. */
export type NormRows = ReadonlyMap<NormLayer, { readonly previous?: NormLayer; readonly next?: NormLayer }>;

/** Lists layers of one width that stand side by side: two in a row are folded into one convolution. */
export function listRows(sides: readonly ExaminedCheckpoint[]): NormRows {
  const rows = new Map<NormLayer, { previous?: NormLayer; next?: NormLayer }>();
  for (const { layers } of sides) {
    for (const [index, layer] of layers.entries()) {
      const [previous, next] = [layers[index - 1], layers[index + 1]];
      rows.set(layer, {
        ...(previous?.channels === layer.channels ? { previous } : {}),
        ...(next?.channels === layer.channels ? { next } : {}),
      });
    }
  }
  return rows;
}

/**
 * Two norm layers in a row as one: with s = γ₂ / √(v₂ + ε), that of the first with γ₁ · s and β₂ + s · (β₁ − μ₂). Null where
 * one cannot be read.
 */
export async function joinRow(
  first: NormLayer,
  second: NormLayer,
  epsilon: number | undefined,
): Promise<NormLayer | null> {
  if ([first, second].some((layer) => whyUnresolved(layer) !== null)) return null;
  const [one, other] = [await readStoredLayer(first), await readStoredLayer(second)];
  const { epsilon: added } = chooseEpsilon(second, second, epsilon);
  const scales = other.variance.values.map(
    (variance, channel) => (other.gamma?.values[channel] ?? 1) / Math.sqrt(variance + added),
  );
  const at = (vector: ChannelVector | null, channel: number, absent: number) =>
    vector?.values[channel] ?? absent;
  const hold = (name: string, values: Float64Array): LayerVector => ({
    kind: 'stored',
    source: 'computed',
    tensor: {
      name,
      dtype: 'F64',
      shape: [values.length],
      elementCount: values.length,
      range: holdBytes(encodeFloats(values, 'F64')),
    },
  });
  const gamma = scales.map((scale, channel) => scale * at(one.gamma, channel, 1));
  const beta = scales.map(
    (scale, channel) =>
      at(other.beta, channel, 0) + scale * (at(one.beta, channel, 0) - at(other.mean, channel, 0)),
  );
  const nameOf = (vector: LayerVector | null) => storedTensorOf(vector)?.name ?? '';
  return { ...first, gamma: hold(nameOf(second.gamma), gamma), beta: hold(nameOf(second.beta), beta) };
}
