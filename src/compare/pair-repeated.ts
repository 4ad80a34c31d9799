import type { Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf } from '../checkpoint/dtype.js';
import { readRange } from '../io/byte-source.js';
import type { NormLayer, Statistic } from '../norm/norm-layer.js';
import { type Pairing, translateName } from './pair-layers.js';
import { readChannelVector } from './statistics.js';

/**
 * Pairs layers of one name whose channel counts are multiples of each other, where the longer one repeats its values.
 *
 * Exporters write InstanceNorm with running statistics as BatchNormalization over batch × channels, and fold the Tile
 * that repeats its values into the constants: [C] becomes [C, C, …]. The longer layer is compared by its first C.
 *
 * @throws CheckpointError when a range cannot be read.
 */
export async function pairRepeated(pairing: Pairing): Promise<Pairing> {
  const pairs = [...pairing.pairs];
  const left = new Set(pairing.onlyBefore);
  const right = new Map(pairing.onlyAfter.map((layer) => [layer.name, layer]));
  for (const before of pairing.onlyBefore) {
    const name = translateName(before.name, pairing.edits, (candidate) => right.has(candidate));
    const after = name === null ? undefined : right.get(name);
    if (after === undefined || !before.isNamed || !after.isNamed) continue;
    const channels = Math.min(before.channels, after.channels);
    const [one, other] = [await takePeriod(before, channels), await takePeriod(after, channels)];
    if (one === null || other === null) continue;
    pairs.push({ before: one, after: other, pairedBy: 'name' });
    left.delete(before);
    right.delete(after.name);
  }
  return { ...pairing, pairs, onlyBefore: [...left], onlyAfter: [...right.values()] };
}

/** A layer as its first channels, where the others repeat them; null where they do not, or cannot be read. */
async function takePeriod(layer: NormLayer, channels: number): Promise<NormLayer | null> {
  if (layer.channels === channels) return layer;
  // Only exporters repeat; in a file of names another width is another layer, freshly initialised perhaps.
  if (!layer.isFromGraph || channels === 0 || layer.channels % channels !== 0) return null;
  const [mean, variance] = [await shorten(layer.mean, channels), await shorten(layer.variance, channels)];
  const [gamma, beta] = [
    await shortenTensor(layer.gamma, channels),
    await shortenTensor(layer.beta, channels),
  ];
  // What is one value throughout has any period, and proves none.
  const isVaried = (await varies(mean)) || (await varies(variance));
  const isWhole = (part: Tensor | null, full: Tensor | null) => (part === null) === (full === null);
  if (mean === null || variance === null || !isVaried) return null;
  if (!isWhole(gamma, layer.gamma) || !isWhole(beta, layer.beta)) return null;
  const repeats = layer.channels / channels;
  const note = `it repeats its ${channels} channels ${repeats} times, as exporters write InstanceNorm for a batch of ${repeats}`;
  return { ...layer, channels, mean, variance, gamma, beta, notes: [...layer.notes, note] };
}

async function shorten(statistic: Statistic, channels: number): Promise<Statistic | null> {
  if (statistic.kind === 'unresolved') return null;
  const tensor = await shortenTensor(statistic.tensor, channels);
  return tensor === null ? null : { ...statistic, tensor, whole: statistic.tensor };
}

/** Whether a statistic has more than one value. */
async function varies(statistic: Statistic | null): Promise<boolean> {
  if (statistic?.kind !== 'stored') return false;
  const { values } = await readChannelVector(statistic.tensor);
  return values.some((value) => value !== values[0]);
}

/** A vector's first elements, where the rest is copies of them. */
async function shortenTensor(tensor: Tensor | null, channels: number): Promise<Tensor | null> {
  if (tensor === null) return null;
  const period = (channels * bitsOf(tensor.dtype)) / 8;
  const bytes = await readRange(tensor.range);
  const first = bytes.subarray(0, period);
  for (let at = period; at < bytes.byteLength; at += period) {
    if (Buffer.compare(first, bytes.subarray(at, at + period)) !== 0) return null;
  }
  return {
    ...tensor,
    shape: [channels],
    elementCount: channels,
    range: { ...tensor.range, byteLength: period },
  };
}

/** A value per channel as a whole tensor repeats them. */
export function repeatValues(values: Float64Array, { elementCount }: Tensor): Float64Array {
  return Float64Array.from(
    { length: elementCount },
    (_, index) => values[index % values.length] ?? Number.NaN,
  );
}
