import type { Tensor } from '../checkpoint.js';
import { type DType, isDecodable } from '../dtype.js';
import type { Constant, Evaluator } from './constant.js';
import { checkComputedSize, MAX_COMPUTED_ELEMENTS } from './constant-sources.js';
import { mapTensor } from './mapped-tensor.js';
import { describeNode } from './model.js';
import { isNumeric, readNumbers } from './numbers.js';
import { computedAtRunTime, type Resolved, replaceTensor } from './operator.js';
import { findAttribute, type Site } from './scope.js';
import { dtypeOf } from './stored-tensor.js';

// Operators that change a constant's values or type (onnx/docs/Operators.md).

/** Cast: the same values in another type. */
export async function applyCast(_evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const dtype = dtypeOf(Number(findAttribute(site, 'to')?.int ?? 0n));
  return dtype ? castTo(input, dtype, site) : computedAtRunTime(site);
}

function castTo(input: Resolved, dtype: DType, site: Site): Constant {
  const { tensor } = input;
  if (tensor.dtype === dtype) return input;
  // What a float becomes that is too large for an 8-bit type depends on the operator set.
  if (!isNumeric(tensor.dtype) || !isNumeric(dtype) || dtype.startsWith('F8')) return computedAtRunTime(site);
  return replaceTensor(input, mapTensor(tensor, { dtype, convert: async () => {} }));
}

/** The type comes from another tensor; where that is known at run time only, 0 and 1 are the same in every type. */
export async function applyCastLike(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const like = await evaluator.evaluate(site.scope, site.node.inputs[1] ?? '');
  if (like.kind !== 'unresolved') return castTo(input, like.tensor.dtype, site);
  const { tensor } = input;
  if (tensor.elementCount > MAX_COMPUTED_ELEMENTS || !isDecodable(tensor.dtype))
    return computedAtRunTime(site);
  if (!evaluator.reserve(tensor.range.byteLength)) return computedAtRunTime(site);
  const values = await readNumbers(tensor);
  return values.every((value) => value === 0 || value === 1) ? input : computedAtRunTime(site);
}

/** y = (x − zero point) · scale, for the whole tensor or along an axis. Blocks (opset 21) are not followed. */
export async function applyDequantize(evaluator: Evaluator, site: Site, input: Resolved): Promise<Constant> {
  const { tensor } = input;
  const [, scaleName = '', zeroName = ''] = site.node.inputs;
  const scale = await evaluator.evaluate(site.scope, scaleName);
  if (scale.kind !== 'constant') return scale.kind === 'unresolved' ? scale : computedAtRunTime(site);
  const zero = zeroName === '' ? null : await evaluator.evaluate(site.scope, zeroName);
  if (zero !== null && zero.kind !== 'constant')
    return zero.kind === 'unresolved' ? zero : computedAtRunTime(site);
  const rank = tensor.shape.length;
  const axisAttribute = Number(findAttribute(site, 'axis')?.int ?? 1n);
  const axis = rank === 1 ? 0 : axisAttribute < 0 ? axisAttribute + rank : axisAttribute;
  const count = scale.tensor.elementCount;
  const isPerTensor = count === 1;
  const isPerAxis = scale.tensor.shape.length === 1 && count === tensor.shape[axis];
  const zeroFits = zero === null || zero.tensor.elementCount === count;
  const areNumbers = isNumeric(tensor.dtype) && isDecodable(scale.tensor.dtype);
  if (
    !areNumbers ||
    !zeroFits ||
    !(isPerTensor || isPerAxis) ||
    (zero !== null && !isNumeric(zero.tensor.dtype))
  ) {
    return computedAtRunTime(site, ' (scale and zero point are neither per tensor nor per axis)');
  }
  checkComputedSize(evaluator, count, describeNode(site.node));
  const inner = isPerTensor ? tensor.elementCount : tensor.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const convert = dequantizer(scale.tensor, zero?.tensor ?? null, inner);
  return replaceTensor(input, mapTensor(tensor, { dtype: scale.tensor.dtype, convert }));
}

/** Reads scale and zero point with the first values, not while the file is opened. */
function dequantizer(scale: Tensor, zero: Tensor | null, inner: number) {
  let parameters: Promise<readonly [Float64Array, Float64Array | null]> | null = null;
  return async (values: Float64Array, first: number): Promise<void> => {
    parameters ??= Promise.all([readNumbers(scale), zero === null ? null : readNumbers(zero)]);
    const [scales, zeros] = await parameters;
    for (let i = 0; i < values.length; i++) {
      const at = Math.floor((first + i) / Math.max(inner, 1)) % scales.length;
      // The reference computes in float32.
      const difference = Math.fround((values[i] ?? 0) - (zeros?.[at] ?? 0));
      const product = difference * (scales[at] ?? Number.NaN);
      values[i] = scale.dtype === 'F64' ? product : Math.fround(product);
    }
  };
}
