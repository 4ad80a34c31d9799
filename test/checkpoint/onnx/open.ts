import { afterEach } from 'vitest';
import type { Checkpoint } from '../../../src/checkpoint/checkpoint.js';
import { decodeFloats } from '../../../src/checkpoint/dtype.js';
import type { ConstantInput, Graph, NormNode } from '../../../src/checkpoint/graph.js';
import { openOnnx } from '../../../src/checkpoint/onnx/onnx.js';
import { CheckpointError } from '../../../src/errors.js';
import { memorySource, readRange } from '../../../src/io/byte-source.js';

const opened: Checkpoint[] = [];
afterEach(async () => {
  for (const checkpoint of opened.splice(0)) await checkpoint.close();
});

/** Opens a model from memory; closed after the test. */
export async function open(bytes: Uint8Array): Promise<Checkpoint & { readonly graph: Graph }> {
  const checkpoint = await openOnnx(memorySource('model.onnx', bytes), { path: 'model.onnx' });
  opened.push(checkpoint);
  if (checkpoint.graph === null) throw new Error('an ONNX model has a graph');
  return { ...checkpoint, graph: checkpoint.graph };
}

/** Opens a model and returns its only norm node. */
export async function openNorm(bytes: Uint8Array): Promise<NormNode> {
  const { graph } = await open(bytes);
  const [norm, ...others] = graph.norms;
  if (norm === undefined || others.length > 0)
    throw new Error(`expected one norm node, found ${graph.norms.length}`);
  return norm;
}

/** The values of an input; the reason as a text where there are none. */
export async function valuesOf(input: ConstantInput): Promise<readonly number[] | string> {
  if (input.kind === 'absent') return 'absent';
  if (input.kind === 'unresolved') return input.reason;
  return [...decodeFloats(await readRange(input.tensor.range), input.tensor.dtype)];
}

/** The mean and variance of a norm node. */
export async function statisticsOf(norm: NormNode) {
  return { mean: await valuesOf(norm.mean), variance: await valuesOf(norm.variance) };
}

/** The message of the error that opening a model raises, with the code in front: `malformed: expected …`. */
export async function refusal(bytes: Uint8Array): Promise<string> {
  try {
    await open(bytes);
  } catch (error) {
    if (error instanceof CheckpointError) return `${error.code}: ${error.message}`;
    throw error;
  }
  throw new Error('the model was opened');
}
