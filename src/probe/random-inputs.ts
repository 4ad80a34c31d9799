import { bitsOf, encodeFloats, isDecodable } from '../checkpoint/dtype.js';
import { quote, toShellWord, UsageError } from '../errors.js';
import {
  describeInput,
  type InputDescription,
  type InputRuns,
  type ModelInput,
  SAMPLES_PER_RUN,
} from './model-inputs.js';
import type { InputArray } from './runtime.js';

/** A shape that the user gives for an input; the name may be left out where there is one input. */
export interface InputShape {
  readonly name: string | null;
  readonly dims: readonly number[];
}

/** Which random inputs to draw. */
export interface RandomRequest {
  readonly samples: number;
  readonly seed: number;
  readonly shapes: readonly InputShape[];
  /** Samples that run at once, where the model leaves it open. */
  readonly batch: number | undefined;
}

/** One run's array may not be larger. */
const MAX_ARRAY_BYTES = 2 ** 30;

/**
 * Inputs of standard normal numbers, the same for the same seed and shapes on every machine.
 *
 * Each array of each run has a stream of its own: xoshiro128** (Blackman and Vigna, https://prng.di.unimi.it), its state
 * filled by splitmix32 from the seed, the run and the input's position; pairs of 53-bit uniforms become pairs of normals
 * by Box and Muller's transform in float64, which are rounded to the input's type.
 *
 * @throws UsageError for inputs that are no floats, and for dimensions that nothing tells.
 */
export function drawInputs(inputs: readonly ModelInput[], request: RandomRequest): InputRuns {
  const shapes = matchShapes(inputs, request.shapes);
  const rowsPerRun = Math.min(request.samples, request.batch ?? SAMPLES_PER_RUN);
  const resolved = inputs.map((input) => resolveShape(input, shapes.get(input.name), rowsPerRun));
  const [first] = resolved;
  const perRun = first?.dims[0] ?? 1;
  const runs = Math.max(1, Math.ceil(request.samples / Math.max(1, perRun)));
  // An open first dimension gives exactly the samples that were asked for; a fixed one whole runs of them.
  const samples = resolved.some(({ isOpen }) => isOpen) ? request.samples : runs * perRun;
  const rowsOf = (run: number) => Math.min(perRun, samples - run * perRun);
  return {
    kind: 'random',
    samples,
    runs,
    seed: request.seed,
    arrays: resolved.map(({ input, dims }): InputDescription => {
      const shape =
        dims.length === 0 ? [] : [dims[0] === perRun ? samples : (dims[0] ?? 0), ...dims.slice(1)];
      return { name: input.name, dtype: input.dtype, shape, file: null };
    }),
    read: async (run) =>
      new Map(
        resolved.map(({ input, dims, isOpen }, position) => {
          const shape = isOpen ? [rowsOf(run), ...dims.slice(1)] : dims;
          return [input.name, drawArray(input, shape, [request.seed, run, position])];
        }),
      ),
  };
}

interface ResolvedInput {
  readonly input: ModelInput;
  /** Of a full run. */
  readonly dims: readonly number[];
  /** Whether the first dimension is as many samples as are left. */
  readonly isOpen: boolean;
}

function matchShapes(
  inputs: readonly ModelInput[],
  shapes: readonly InputShape[],
): ReadonlyMap<string, readonly number[]> {
  const matched = new Map<string, readonly number[]>();
  for (const { name, dims } of shapes) {
    const input = name === null && inputs.length === 1 ? inputs[0] : inputs.find((one) => one.name === name);
    if (input === undefined) {
      const what = name === null ? 'names no input' : `names ${quote(name)}, which is no input`;
      throw new UsageError(`--shape ${what}`, `The model's inputs: ${inputs.map(describeInput).join(', ')}`);
    }
    matched.set(input.name, dims);
  }
  return matched;
}

function resolveShape(
  input: ModelInput,
  given: readonly number[] | undefined,
  rowsPerRun: number,
): ResolvedInput {
  if (!isDecodable(input.dtype)) {
    throw new UsageError(
      `random samples are floats, and the model's input ${describeInput(input)} takes none`,
      'Give it an array: --input NAME=FILE.npy',
    );
  }
  if (given !== undefined) {
    const fits =
      given.length === input.shape.length &&
      input.shape.every((size, axis) => typeof size === 'string' || size === given[axis]);
    if (!fits)
      throw new UsageError(
        `--shape ${given.join(',')} does not fit the model's input ${describeInput(input)}`,
      );
  }
  const isOpen = given === undefined && typeof input.shape[0] === 'string';
  const dims = given ?? input.shape.map((size, axis) => (axis === 0 && isOpen ? rowsPerRun : size));
  if (!dims.every((size): size is number => typeof size === 'number')) {
    throw new UsageError(
      `the dimensions of the model's input ${describeInput(input)} are known at run time only`,
      `Say which to use: --shape ${toShellWord(input.name)}=${input.shape.map((size, axis) => (typeof size === 'number' ? size : axis === 0 ? 1 : 'N')).join(',')}`,
    );
  }
  const byteLength = dims.reduce((product, size) => product * size, bitsOf(input.dtype) / 8);
  if (byteLength > MAX_ARRAY_BYTES) {
    throw new UsageError(
      `one run of the model's input ${describeInput(input)} would take ${byteLength} bytes, more than ${MAX_ARRAY_BYTES}`,
      'Take fewer samples at a time: --batch 1, or a smaller --shape',
    );
  }
  return { input, dims, isOpen };
}

function drawArray({ dtype }: ModelInput, shape: readonly number[], seeds: readonly number[]): InputArray {
  const count = shape.reduce((product, size) => product * size, 1);
  return { dtype, shape, bytes: encodeFloats(drawNormals(count, seeds), dtype) };
}

/** Standard normal numbers from a stream that the seeds determine. */
export function drawNormals(count: number, seeds: readonly number[]): Float64Array {
  const nextUint32 = xoshiro128(seeds);
  const uniform = () => ((nextUint32() >>> 5) * 2 ** 26 + (nextUint32() >>> 6)) * 2 ** -53;
  const values = new Float64Array(count);
  for (let i = 0; i < count; i += 2) {
    // 1 − u lies in (0, 1], where the logarithm is finite.
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    values[i] = radius * Math.cos(angle);
    if (i + 1 < count) values[i + 1] = radius * Math.sin(angle);
  }
  return values;
}

/** xoshiro128** 1.1. */
function xoshiro128(seeds: readonly number[]): () => number {
  const state = fillState(seeds);
  const rotate = (x: number, k: number) => (x << k) | (x >>> (32 - k));
  return () => {
    let [a, b, c, d] = state;
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotate(d, 11);
    state[0] = a;
    state[1] = b;
    state[2] = c;
    state[3] = d;
    return result;
  };
}

/** Four words by splitmix32, each seed stirred in with both of its halves. */
function fillState(seeds: readonly number[]): [number, number, number, number] {
  let position = 0;
  const next = () => {
    position = (position + 0x9e3779b9) | 0;
    let z = position;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return z ^ (z >>> 16);
  };
  for (const seed of seeds) {
    position = (next() ^ (seed >>> 0)) | 0;
    position = (next() ^ Math.floor(seed / 2 ** 32)) | 0;
  }
  return [next(), next(), next(), next()];
}
