// The inputs of probe: from NumPy's .npy and .npz files, or random in the shapes that the model declares.

import type { Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf, type DType, encodeFloats, isDecodable } from '../checkpoint/dtype.js';
import { fail, quote, quoteUnlessPlain, toShellWord, UsageError } from '../errors.js';
import { looksLikeNpy, looksLikeNpz, readNpy, readNpz } from '../formats/numpy/npy.js';
import { readRange, sliceRange, wholeOf } from '../io/byte-source.js';
import { type FileSource, openFileSource } from '../io/file-source.js';
import { countElements } from '../io/row-major.js';
import { openZip } from '../io/zip.js';
import { dtypeOfRuntime, type InputArray, nameType, type RuntimeSession } from './runtime.js';

/** An input that a model asks for. */
export interface ModelInput {
  readonly name: string;
  readonly dtype: DType;
  /** A string is a dimension that is known at run time only; empty where it has no name. */
  readonly shape: readonly (number | string)[];
}

/** The arrays that a probe feeds, run by run: never more than one run's are in memory. */
export interface InputRuns {
  readonly kind: 'files' | 'random';
  /** Samples in all runs together: the first dimension of the first input, 1 where it has none. */
  readonly samples: number;
  readonly runs: number;
  readonly seed: number | null;
  readonly arrays: readonly InputDescription[];
  /** The arrays of one run, by the input's name. */
  readonly read: (run: number) => Promise<ReadonlyMap<string, InputArray>>;
}

interface InputDescription {
  readonly name: string;
  readonly dtype: DType;
  /** All runs together. */
  readonly shape: readonly number[];
  /** Null for random numbers. */
  readonly file: string | null;
}

/** Samples that run at once where nothing else says how many; their activations are what takes memory. */
const SAMPLES_PER_RUN = 4;

/**
 * The inputs of a loaded model.
 *
 * @throws UsageError for one that is no tensor of numbers.
 */
export function listInputs({ inputMetadata }: RuntimeSession): readonly ModelInput[] {
  return inputMetadata.map(({ name, type, shape = [], isTensor }) => {
    const dtype = dtypeOfRuntime(type);
    if (!isTensor || dtype === null)
      throw new UsageError(
        `the model's input ${quote(name)} is ${isTensor ? `of the type ${type}` : 'no tensor'}: a probe cannot feed it`,
      );
    return { name, dtype, shape };
  });
}

/** An input as messages show it: `"x" float32 [batch, 3, 224, 224]`. */
function describeInput({ name, dtype, shape }: ModelInput): string {
  const sizes = shape.map((size) => (size === '' ? '?' : quoteUnlessPlain(String(size))));
  return `${quote(name)} ${nameType(dtype)} [${sizes.join(', ')}]`;
}

/**
 * Whether the model itself says that its inputs and outputs count samples first: every one begins with the same named
 * dimension. Then samples may run a few at a time.
 */
export function countsSamplesFirst(
  inputs: readonly ModelInput[],
  { outputMetadata }: RuntimeSession,
): boolean {
  const firsts = [...inputs.map(({ shape }) => shape[0]), ...outputMetadata.map(({ shape }) => shape?.[0])];
  const [name] = firsts;
  return typeof name === 'string' && name !== '' && firsts.every((first) => first === name);
}

interface SplitRequest {
  /** Samples that run at once, where the user says so. */
  readonly batch: number | undefined;
  /** Whether the model says that every input and output counts samples first. */
  readonly isBatched: boolean;
}

/** One run may not read more of one array. */
const MAX_RUN_BYTES = 2 ** 30;

interface GivenArray {
  readonly input: ModelInput;
  readonly tensor: Tensor;
  readonly file: string;
}

/** The input files of a probe, open while it runs. */
export class InputFiles {
  readonly #sources: FileSource[] = [];

  /**
   * Opens .npy and .npz files and matches them to the model's inputs: the arrays of an .npz by their names, an .npy by
   * `NAME=FILE`, other .npy files in the order of the inputs that are left.
   *
   * @throws UsageError for an input without an array, an array without an input, and types or shapes that do not fit.
   * @throws CheckpointError for a file that cannot be read.
   */
  async open(
    files: readonly string[],
    inputs: readonly ModelInput[],
    split: SplitRequest,
  ): Promise<InputRuns> {
    const given = new Map<string, GivenArray>();
    const unnamed: { readonly tensor: Tensor; readonly file: string }[] = [];
    const findInput = (name: string, file: string): ModelInput => {
      const input = inputs.find((one) => one.name === name);
      if (input !== undefined) return input;
      throw unknownInput(`${file} holds the array ${quote(name)}`, inputs);
    };
    const give = (input: ModelInput, tensor: Tensor, file: string) => {
      const other = given.get(input.name);
      if (other !== undefined)
        throw new UsageError(`the input ${quote(input.name)} is given twice: in ${other.file} and ${file}`);
      given.set(input.name, { input, tensor, file });
    };
    for (const argument of files) {
      const { input, path } = splitArgument(argument, inputs);
      const source = openFileSource(path);
      this.#sources.push(source);
      const range = wholeOf(source);
      const head = await readRange(sliceRange(range, 0, Math.min(6, source.byteLength)));
      if (looksLikeNpy(head)) {
        const tensor = await readNpy(range, path);
        if (input === null) unnamed.push({ tensor, file: path });
        else give(input, tensor, path);
      } else if (!looksLikeNpz(head)) {
        fail(path, 'expected an .npy or .npz file, found neither', 'unrecognised-format', {
          hint: 'Save arrays with numpy.save or numpy.savez.',
        });
      } else if (input !== null) {
        throw new UsageError(
          `--input ${quote(argument)}: the arrays of an .npz file have names of their own`,
        );
      } else {
        // A name that no input has is refused before anything of it is inflated.
        for (const [name, read] of readNpz(await openZip(source)))
          give(findInput(name, path), await read(), path);
      }
    }
    for (const { tensor, file } of unnamed) {
      const input = inputs.find(({ name }) => !given.has(name));
      if (input === undefined) throw unknownInput(`${file} is one array more`, inputs);
      give(input, tensor, file);
    }
    const inOrder = inputs.map((input) => {
      const array = given.get(input.name);
      if (array !== undefined) return array;
      throw new UsageError(
        `the model's input ${describeInput(input)} is given no array`,
        `Add --input ${toShellWord(input.name)}=FILE.npy, or save all of them with numpy.savez.`,
      );
    });
    for (const array of given.values()) checkFit(array);
    return planRuns(inOrder, split);
  }

  async close(): Promise<void> {
    for (const source of this.#sources) await source.close();
    this.#sources.length = 0;
  }
}

/** `NAME=FILE` where NAME is an input; otherwise the whole is a path, which may hold an equals sign itself. */
function splitArgument(
  argument: string,
  inputs: readonly ModelInput[],
): { readonly input: ModelInput | null; readonly path: string } {
  const input = inputs.find(({ name }) => argument.startsWith(`${name}=`));
  if (input !== undefined) return { input, path: argument.slice(input.name.length + 1) };
  const name = /^([^=/\\]+)=.+\.np[yz]$/.exec(argument)?.[1];
  if (name !== undefined) throw unknownInput(`--input names ${quote(name)}`, inputs);
  return { input: null, path: argument };
}

function unknownInput(what: string, inputs: readonly ModelInput[]): UsageError {
  return new UsageError(`${what}, which is no input of the model`, listAll(inputs));
}

function listAll(inputs: readonly ModelInput[]): string {
  return `The model's inputs: ${inputs.map(describeInput).join(', ')}`;
}

function planRuns(arrays: readonly GivenArray[], request: SplitRequest): InputRuns {
  const split = findSplit(arrays, request);
  const parts = arrays.map((array) => ({ ...array, rowsPerRun: findRowsPerRun(array, split) }));
  return {
    kind: 'files',
    samples: arrays[0]?.tensor.shape[0] ?? 1,
    runs: split.runs,
    seed: null,
    arrays: arrays.map(({ input: { name }, tensor: { dtype, shape }, file }) => ({
      name,
      dtype,
      shape,
      file,
    })),
    read: async (run) =>
      new Map(
        await Promise.all(
          parts.map(
            async ({ input, tensor, rowsPerRun }) =>
              [input.name, await readRows(tensor, rowsPerRun, run)] as const,
          ),
        ),
      ),
  };
}

/** The first dimension may be a multiple of what the model takes at once; all else must fit exactly. */
function checkFit({ input, tensor, file }: GivenArray): void {
  const found = `${quote(file)}: expected ${describeInput(input)}, found ${nameType(tensor.dtype)} [${tensor.shape.join(', ')}]`;
  if (tensor.dtype !== input.dtype)
    throw new UsageError(found, `Convert the array, for example: array.astype("${nameType(input.dtype)}")`);
  const fits =
    tensor.shape.length === input.shape.length &&
    input.shape.every((size, axis) => {
      const actual = tensor.shape[axis] ?? 0;
      if (typeof size === 'string') return true;
      return axis === 0 ? actual > 0 && size > 0 && actual % size === 0 : actual === size;
    });
  if (!fits) throw new UsageError(found);
  if (tensor.elementCount === 0)
    throw new UsageError(`${quote(file)}: expected numbers, found an empty array`);
}

/** How many runs there are, and how many samples one takes of the inputs that leave it open; null: their share. */
interface Split {
  readonly runs: number;
  readonly openRows: number | null;
}

/** Runs follow from inputs of a fixed size that are given several times over, else from the samples. */
function findSplit(arrays: readonly GivenArray[], { batch, isBatched }: SplitRequest): Split {
  const multiples = arrays.flatMap(({ input: { shape }, tensor }) =>
    typeof shape[0] === 'number' ? (tensor.shape[0] ?? 0) / shape[0] : [],
  );
  const runs = Math.max(1, ...multiples);
  const open = arrays.filter(({ input }) => typeof input.shape[0] === 'string');
  const [rows] = open.map(({ tensor }) => tensor.shape[0] ?? 0);
  if (runs > 1 || rows === undefined || (batch === undefined && !isBatched)) return { runs, openRows: null };
  if (open.some(({ tensor }) => tensor.shape[0] !== rows)) {
    const found = open.map(({ input, tensor }) => `${tensor.shape[0]} for ${quote(input.name)}`).join(', ');
    throw new UsageError(`expected as many samples for every input, found ${found}`);
  }
  const openRows = batch ?? SAMPLES_PER_RUN;
  return { runs: Math.ceil(rows / openRows), openRows };
}

/** How many rows of an array one run takes; null for an array that every run takes whole. */
function findRowsPerRun({ input, tensor, file }: GivenArray, { runs, openRows }: Split): number | null {
  const [size] = input.shape;
  const rows = tensor.shape[0] ?? 1;
  const isWhole = runs === 1 || size === undefined || size === rows;
  const rowsPerRun = isWhole ? rows : typeof size === 'number' ? size : (openRows ?? rows / runs);
  if (!isWhole && (!Number.isInteger(rowsPerRun) || Math.ceil(rows / rowsPerRun) !== runs))
    throw new UsageError(
      `${quote(file)}: expected samples for ${runs} runs of ${describeInput(input)}, found ${rows}`,
    );
  const byteLength = (tensor.range.byteLength / rows) * rowsPerRun;
  if (byteLength > MAX_RUN_BYTES)
    throw new UsageError(
      `${quote(file)}: one run would read ${byteLength} bytes, more than ${MAX_RUN_BYTES}`,
      'Run fewer samples at a time: --batch 1',
    );
  return isWhole ? null : rowsPerRun;
}

async function readRows(
  { dtype, shape, range }: Tensor,
  rowsPerRun: number | null,
  run: number,
): Promise<InputArray> {
  if (rowsPerRun === null) return { dtype, shape, bytes: await readRange(range) };
  const [rows = 1, ...rest] = shape;
  const [start, end] = [run * rowsPerRun, Math.min((run + 1) * rowsPerRun, rows)];
  const rowBytes = range.byteLength / rows;
  const bytes = await readRange(sliceRange(range, start * rowBytes, end * rowBytes));
  return { dtype, shape: [end - start, ...rest], bytes };
}

/** A shape that the user gives for an input; the name may be left out where there is one input. */
export interface InputShape {
  readonly name: string | null;
  readonly dims: readonly number[];
}

interface RandomRequest {
  readonly samples: number;
  readonly seed: number;
  readonly shapes: readonly InputShape[];
  /** Samples that run at once, where the model leaves it open. */
  readonly batch: number | undefined;
}

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
          const count = countElements(shape);
          const values = drawNormals(count, [request.seed, run, position]);
          return [input.name, { dtype: input.dtype, shape, bytes: encodeFloats(values, input.dtype) }];
        }),
      ),
  };
}

interface ResolvedInput {
  readonly input: ModelInput;
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
      throw new UsageError(`--shape ${what}`, listAll(inputs));
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
  if (!isDecodable(input.dtype))
    throw new UsageError(
      `random samples are floats, and the model's input ${describeInput(input)} takes none`,
      'Give it an array: --input NAME=FILE.npy',
    );
  const fits =
    given === undefined ||
    (given.length === input.shape.length &&
      input.shape.every((size, axis) => typeof size === 'string' || size === given[axis]));
  if (!fits)
    throw new UsageError(`--shape ${given.join(',')} does not fit the model's input ${describeInput(input)}`);
  const isOpen = given === undefined && typeof input.shape[0] === 'string';
  const dims = given ?? input.shape.map((size, axis) => (axis === 0 && isOpen ? rowsPerRun : size));
  if (!dims.every((size): size is number => typeof size === 'number'))
    throw new UsageError(
      `the dimensions of the model's input ${describeInput(input)} are known at run time only`,
      `Say which to use: --shape ${toShellWord(input.name)}=${input.shape.map((size, axis) => (typeof size === 'number' ? size : axis === 0 ? 1 : 'N')).join(',')}`,
    );
  const byteLength = countElements(dims) * (bitsOf(input.dtype) / 8);
  if (byteLength > MAX_RUN_BYTES)
    throw new UsageError(
      `one run of the model's input ${describeInput(input)} would take ${byteLength} bytes, more than ${MAX_RUN_BYTES}`,
      'Take fewer samples at a time: --batch 1, or a smaller --shape',
    );
  return { input, dims, isOpen };
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
  let [a, b, c, d] = fillState(seeds);
  const rotate = (x: number, k: number) => (x << k) | (x >>> (32 - k));
  return () => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotate(d, 11);
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
