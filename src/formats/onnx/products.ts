// Linear nodes whose weights an ONNX graph computes: their products stand for what they are computed of, or are undone.

import type { ConstantInput, Tensor } from '../../checkpoint/checkpoint.js';
import { mapElements } from '../../checkpoint/computed-elements.js';
import { isDecodable } from '../../checkpoint/dtype.js';
import { countElements } from '../../io/row-major.js';
import { isGeneratedName } from '../../norm/naming.js';
import { biasInputOf, type InputSlot, type LinearDraft } from './linear-nodes.js';
import type { Rescaling } from './norm-nodes.js';
import type { Site } from './scope.js';

/** A linear node, where it stands, and where it reads its bias: at an input of its own, or of the Add behind it. */
export interface FoundLinear {
  readonly linear: LinearDraft;
  readonly site: Site;
  readonly bias: InputSlot;
}

/** What a norm layer takes out of a linear node's output again, and the node's index. */
export interface Rescaled extends Rescaling {
  readonly index: number;
}

/**
 * Linear nodes with the weights that they had before they were multiplied by what is divided by in front of a norm layer:
 * what the statistics move is nobody's training. Where the graph computes the product, the weights are stored; where an
 * exporter has computed it, weight and bias get the names that their numbers stand for, which `names` tells by the old.
 */
export function undoRescaling(
  found: readonly FoundLinear[],
  rescaled: readonly Rescaled[],
  tensors: Map<string, Tensor>,
) {
  const linears = [...found];
  const names = new Map<string, string>();
  const put = (stored: string, tensor: Tensor, path: string | null, leaf: string) => {
    const full = `${path}.${leaf}`;
    const name = path === null || tensors.has(full) || !isGeneratedName(stored) ? stored : full;
    if (name !== stored) tensors.delete(stored);
    tensors.set(name, { ...tensor, name });
    names.set(stored, name);
  };
  for (const { index, divisorName, gammaName, biasName, scales } of rescaled) {
    const one = linears[index];
    if (one?.linear.weight.kind !== 'constant' || !isDecodable(one.linear.weight.tensor.dtype)) continue;
    const { weight, weightName, factors, path } = one.linear;
    const tensor = divideChannels(weight.tensor, scales, one.linear);
    if (factors.length === 0 && tensors.has(weightName)) put(weightName, tensor, path, 'weight');
    const bias = tensors.get(biasName);
    if (bias?.elementCount === scales.length)
      put(biasName, { ...bias, shape: [scales.length] }, path, 'bias');
    for (const name of [divisorName, ...factors]) if (name !== gammaName) dismiss(name, tensors);
    linears[index] = {
      ...one,
      linear: {
        ...one.linear,
        weightName: names.get(weightName) ?? weightName,
        weight: { ...weight, tensor },
        factors: [],
        looksFolded: false,
      },
    };
  }
  return { linears, names };
}

/** A weight, each output channel of it divided by a number of its own; what 0 multiplied stays 0. */
function divideChannels(
  weight: Tensor,
  scales: Float64Array,
  { outputAxis, groups }: Pick<LinearDraft, 'outputAxis' | 'groups'>,
): Tensor {
  const { dtype, shape, elementCount } = weight;
  const size = shape[outputAxis] ?? 0;
  const inner = countElements(shape.slice(outputAxis + 1));
  // The groups of a transposed convolution stand one behind the other along its input axis.
  const inGroup = scales.length > size ? elementCount / groups : elementCount;
  return mapElements(weight, dtype, async (values, first) => {
    for (let i = 0; i < values.length; i++) {
      const at = first + i;
      const channel = Math.floor(at / inGroup) * size + (Math.floor(at / inner) % size);
      const scale = scales[channel] ?? Number.NaN;
      if (scale !== 0) values[i] = (values[i] ?? Number.NaN) / scale;
    }
  });
}

/** Has a tensor count as no learned one. */
export function dismiss(name: string, tensors: Map<string, Tensor>): void {
  const tensor = tensors.get(name);
  if (tensor !== undefined) tensors.set(name, { ...tensor, isBuffer: true });
}

/**
 * Puts weights and biases that the graph computes in the place of what it computes them of, which is nobody's training. Of one
 * tensor of which several are computed, as of a convolution that norm layers share, each bears the name of its own result.
 */
export function takeProducts(
  found: readonly FoundLinear[],
  tensors: Map<string, Tensor>,
): readonly FoundLinear[] {
  const counts = new Map<string, number>();
  for (const { linear } of found)
    for (const name of linear.factors.length === 0 ? [] : [linear.weightName, linear.biasName])
      counts.set(name, (counts.get(name) ?? 0) + 1);
  const products = new Map<string, Tensor>();
  const taken = found.map((one) => {
    const { linear, site } = one;
    if (linear.factors.length === 0) return one;
    for (const name of linear.factors) dismiss(name, tensors);
    const take = (input: ConstantInput, name: string, index: number) => {
      const isShared = (counts.get(name) ?? 0) > 1;
      if (isShared) dismiss(name, tensors);
      const own = isShared ? (site.node.inputs[index] ?? '') : name;
      if (input.kind === 'constant') products.set(own, { ...input.tensor, name: own });
      return own;
    };
    const weightName = take(linear.weight, linear.weightName, 1);
    const biasName = take(linear.bias, linear.biasName, biasInputOf(site.node) ?? Number.NaN);
    return { ...one, linear: { ...linear, weightName, biasName } };
  });
  for (const [name, product] of products) tensors.set(name, product);
  return taken;
}
