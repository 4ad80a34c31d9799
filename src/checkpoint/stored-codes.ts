// Joins the codes of quantised weights with the scales that stand beside them in files of names.

import { type Checkpoint, changeTensors, type Quantisation, type Tensor } from './checkpoint.js';
import { dequantised } from './computed-elements.js';
import { isDecodable } from './dtype.js';

/** What a quantised weight consists of: compressed-tensors writes `weight` and `weight_scale`, optimum-quanto `weight._data` and `weight._scale`. */
const WAYS = [
  { codes: '', scale: '_scale', zeroPoint: '_zero_point' },
  { codes: '._data', scale: '._scale', zeroPoint: '._zero_point' },
] as const;

/** Scales of data that stand beside it. */
const DATA_SCALES = /(?<=^|\.)(?:input|output)_(?:scale|zero_point)$/;

const WEIGHT = /(?:^|\.)weight$/;

/** Floats among them are those whose scale stands beside them, too. */
const CODES = /^(?:I8|U8|F8_E4M3|F8_E5M2)$/;

/**
 * A checkpoint in which quantised weights are what their codes stand for, where their scales stand beside them; the scales
 * are buffers. Codes whose scales go neither with the tensor, its rows nor blocks of them stay as they are.
 */
export function joinCodes<Opened extends Checkpoint>(checkpoint: Opened): Opened {
  return changeTensors(checkpoint, joinAll);
}

/** The same map where nothing is quantised; weights stand where their codes did. */
function joinAll(tensors: Checkpoint['tensors']): Checkpoint['tensors'] {
  const weights = new Map<string, Tensor>();
  const settings = new Set<string>();
  tensors.forEach((codes, stored) => {
    for (const way of WAYS) {
      const name = stored.slice(0, stored.length - way.codes.length);
      const scale = tensors.get(name + way.scale);
      if (!stored.endsWith(way.codes) || !WEIGHT.test(name) || scale === undefined) continue;
      const how = layOut(codes, scale, tensors.get(name + way.zeroPoint) ?? null);
      if (how === null) continue;
      weights.set(stored, { ...dequantised({ codes, ...how }, 'F32'), name });
      for (const part of [how.scale, how.zeroPoint]) if (part !== null) settings.add(part.name);
    }
  });
  if (weights.size === 0) return tensors;
  return new Map(
    [...tensors].map(([stored, tensor]) => {
      const weight = weights.get(stored);
      if (weight !== undefined) return [weight.name, weight];
      const isBuffer = settings.has(stored) || DATA_SCALES.test(stored);
      return [stored, isBuffer ? { ...tensor, isBuffer } : tensor];
    }),
  );
}

/** One scale, or one for each row ([rows] or [rows, 1, …]), or for each block of a matrix's rows; null where it is none. */
function layOut(
  { shape, dtype, fingerprint }: Tensor,
  scale: Tensor,
  zeroPoint: Tensor | null,
): Omit<Quantisation, 'codes'> | null {
  const { elementCount: count, shape: counts } = scale;
  const isRead = CODES.test(dtype) && isDecodable(scale.dtype) && fingerprint === undefined;
  if (!isRead || shape.length < 2 || (zeroPoint !== null && zeroPoint.elementCount !== count)) return null;
  if (count === 1) return { scale, zeroPoint, axis: null };
  const [rows = 0, columns = 0] = shape;
  const [, blocks = 1] = counts;
  if (counts[0] !== rows || count !== rows * blocks) return null;
  if (blocks === 1) return { scale, zeroPoint, axis: 0 };
  const blockSize = columns / blocks;
  return shape.length === 2 && Number.isInteger(blockSize) ? { scale, zeroPoint, axis: 1, blockSize } : null;
}
