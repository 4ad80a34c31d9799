import type { Tensor } from '../checkpoint.js';
import { isDecodable } from '../dtype.js';
import type { Evaluator } from './constant.js';
import { findTrueName, isStandard } from './follow.js';
import { evaluateQuietly, type LinearDraft } from './linear-nodes.js';
import type { Scope, Site } from './scope.js';

/** An input of a node. */
export interface InputSlot {
  readonly site: Site;
  readonly index: number;
}

/** What an Add adds to a linear node's output. */
export interface AddedInput extends InputSlot {
  /** Whether the linear node is a product whose first factor is the weight: then its rows are the outputs. */
  readonly isLeft: boolean;
}

/** Who reads the outputs of the linear nodes that have no bias of their own, noted as a model is walked. */
export class LinearReaders {
  readonly #readers = new Map<Scope, Map<string, Site[]>>();

  /** From now on the readers of a node's output are noted. */
  watch({ node, scope }: Site): void {
    const [output = ''] = node.outputs;
    if (output === '' || scope.outputs.includes(output)) return;
    const inScope = this.#readers.get(scope) ?? new Map<string, Site[]>();
    this.#readers.set(scope, inScope.set(output, []));
  }

  /** Notes what a node reads. Nodes come in topological order. */
  note(site: Site): void {
    const inScope = this.#readers.get(site.scope);
    if (inScope === undefined) return;
    for (const input of site.node.inputs) inScope.get(input)?.push(site);
  }

  /** The Add that alone of its scope's nodes reads a watched node's output, and which of its inputs is the other one. */
  findAdd({ node, scope }: Site, isLeft: boolean): AddedInput | null {
    const [reader, ...others] = this.#readers.get(scope)?.get(node.outputs[0] ?? '') ?? [];
    if (reader === undefined || others.length > 0 || !isStandard(reader.node, 'Add')) return null;
    return { site: reader, index: reader.node.inputs[0] === node.outputs[0] ? 1 : 0, isLeft };
  }
}

/**
 * A linear node with the bias that an Add behind it adds: MatMul has no input for one, and some exporters write one
 * behind Conv as well.
 *
 * @returns null where the Add adds something else: a value that is computed, or no single one for each channel.
 */
export async function takeAddedBias(
  evaluator: Evaluator,
  linear: LinearDraft,
  { site: { node, scope }, index, isLeft }: AddedInput,
): Promise<LinearDraft | null> {
  const name = node.inputs[index] ?? '';
  const constant = await evaluateQuietly(evaluator, { scope, name });
  if (constant.kind !== 'constant' || !isPerChannel(constant.tensor.shape, linear, isLeft)) return null;
  const { tensor } = constant;
  if (!isDecodable(tensor.dtype)) return null;
  return {
    ...linear,
    biasName: findTrueName(scope, name),
    bias: { ...constant, tensor: { ...tensor, shape: [tensor.elementCount] } },
  };
}

/**
 * Whether a shape broadcasts to one value for each output channel: axis 1 of a convolution, the last axis of a matrix
 * product, and the one before that where the weight is its first factor.
 */
function isPerChannel(
  shape: Tensor['shape'],
  { op, weight, outputChannels }: LinearDraft,
  isLeft: boolean,
): boolean {
  const rank = weight.kind === 'constant' ? weight.tensor.shape.length : 0;
  const behind = op === 'Conv' || op === 'ConvTranspose' ? rank - 2 : isLeft ? 1 : 0;
  const axis = shape.length - 1 - behind;
  return (
    outputChannels > 1 &&
    shape.every((size, each) => size === (each === axis ? outputChannels : 1)) &&
    axis >= 0
  );
}
