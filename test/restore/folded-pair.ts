import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeFloats } from '../../src/checkpoint/dtype.js';
import { f32 } from '../build/bytes.js';
import { safetensorsBytes } from '../build/safetensors.js';
import {
  attribute,
  DOUBLE,
  FLOAT,
  FLOAT16,
  field,
  graph,
  model,
  node,
  tensor,
} from '../formats/onnx/build-onnx.js';

/** So many weights that the last ones are not among those that planning looks at. */
export const INPUTS = 5000;
export const WEIGHTS = Float64Array.from({ length: 2 * INPUTS }, (_, i) => Math.fround(Math.sin(i + 1)));
const EPSILON = 1e-5;

/** The scale of a channel whose γ is 1. */
export const scaleOf = (variance: number) => 1 / Math.sqrt(variance + EPSILON);

/** A convolution of two channels and its norm layer, with variances of its own; with a bias it has no affine. */
export function writeBefore(
  place: string,
  variances: readonly [number, number],
  bias?: readonly [number, number],
): string {
  const path = join(place, 'before.safetensors');
  const pair = (x: number, y: number) => ({ dtype: 'F32', shape: [2], data: f32(x, y) });
  const bytes = safetensorsBytes({
    'conv.weight': { dtype: 'F32', shape: [2, INPUTS, 1, 1], data: f32(...WEIGHTS) },
    ...(bias === undefined
      ? { 'bn.weight': pair(1, 1), 'bn.bias': pair(0, 0) }
      : { 'conv.bias': pair(...bias) }),
    'bn.running_mean': pair(0.5, 1),
    'bn.running_var': pair(...variances),
  });
  writeFileSync(path, bytes);
  return path;
}

const DATA_TYPES = { F16: FLOAT16, F32: FLOAT, F64: DOUBLE } as const;

/** The same layers after training, folded: means of 0, variances of 1 and 2. */
export function writeFolded(
  place: string,
  dtype: keyof typeof DATA_TYPES,
  {
    isCast = false,
    isSecondZero = false,
    front = [] as readonly Uint8Array[],
    factor = 1,
    variances = [1, 2],
  } = {},
): string {
  const path = join(place, 'after.onnx');
  const [first = 1, second = 1] = variances;
  const scales = [factor * scaleOf(first), isSecondZero ? 0 : factor * scaleOf(second)];
  const weights = WEIGHTS.map((value, i) => value * (scales[Math.floor(i / INPUTS)] ?? 0));
  const name = isCast ? 'stored' : 'conv.weight';
  const bytes = model(
    graph({
      inputs: ['x'],
      outputs: ['y'],
      nodes: [
        ...front,
        ...(isCast
          ? [node('Cast', [name], ['conv.weight'], { attributes: [attribute.int('to', FLOAT)] })]
          : []),
        node('Conv', [front.length > 0 ? 'data' : 'x', 'conv.weight', 'conv.bias'], ['y'], { name: 'conv' }),
      ],
      initializers: [
        tensor(name, [2, INPUTS, 1, 1], DATA_TYPES[dtype], field(9, encodeFloats(weights, dtype))),
        tensor('conv.bias', [2], FLOAT, field(9, f32(0, 0))),
        tensor('one', [], FLOAT, field(9, f32(1))),
        tensor('constant', [], FLOAT, field(9, f32(0.37))),
      ],
    }),
  );
  writeFileSync(path, bytes);
  return path;
}
