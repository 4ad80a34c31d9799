import { afterEach } from 'vitest';
import type { Checkpoint, ConstantInput, Graph, NormNode } from '../../../src/checkpoint/checkpoint.js';
import { decodeFloats } from '../../../src/checkpoint/dtype.js';
import { CheckpointError } from '../../../src/errors.js';
import { openOnnx } from '../../../src/formats/onnx/onnx.js';
import { memorySource, readRange } from '../../../src/io/byte-source.js';
import { refuseSteering } from '../../build/failure.js';

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

/**
 * The message of the error that opening a model raises, with the code in front: `malformed: expected …`. The same model
 * with hostile names must not bring their characters into its message.
 */
export async function refusal(bytes: Uint8Array): Promise<string> {
  const isSmall = bytes.byteLength < 2 ** 16;
  for (const kept of isSmall ? [UNDERSTOOD, new Set<string>()] : []) {
    const spoiled = await findRefusal(spoilNames(bytes, kept));
    if (spoiled !== null) refuseSteering(spoiled);
  }
  const message = await findRefusal(bytes);
  if (message === null) throw new Error('the model was opened');
  return message;
}

async function findRefusal(bytes: Uint8Array): Promise<string | null> {
  try {
    await open(bytes);
    return null;
  } catch (error) {
    if (error instanceof CheckpointError) return `${error.code}: ${error.message}`;
    throw error;
  }
}

/** Words that a reader acts on, unlike names: with other ones, most models would fail for another reason. */
const UNDERSTOOD: ReadonlySet<string> = new Set(
  `BatchNormalization Conv Gemm MatMul Add If Loop Scan Identity Constant ConstantOfShape Concat Shape Cast CastLike
  DequantizeLinear Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile value value_float value_floats value_int
  value_ints sparse_value axis axes to perm start end group alpha beta transB location offset length`.split(
    /\s+/,
  ),
);

/** Replaces every string of a message, each by control characters of the same length that no other one is replaced by. */
function spoilNames(bytes: Uint8Array, kept: ReadonlySet<string>): Uint8Array {
  const spoiled = bytes.slice();
  const numbers = new Map<string, number>();
  for (let at = 2; at < bytes.byteLength; at++) {
    // A length-delimited field: tag, length, and as many printable characters.
    const length = bytes[at - 1] ?? 0;
    const text = Buffer.from(bytes.subarray(at, at + length)).toString('latin1');
    if (((bytes[at - 2] ?? 0) & 7) !== 2 || text.length < length || !/^[ -~]+$/.test(text) || kept.has(text))
      continue;
    const number = numbers.get(text) ?? numbers.size;
    numbers.set(text, number);
    for (let digit = 0; digit < length; digit++)
      spoiled[at + digit] = 1 + (Math.floor(number / 31 ** digit) % 31);
  }
  return spoiled;
}
