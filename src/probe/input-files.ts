import type { Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf } from '../checkpoint/dtype.js';
import { CheckpointError, quote, toShellWord, UsageError } from '../errors.js';
import { readRange } from '../io/byte-source.js';
import { type FileSource, openFileSource } from '../io/file-source.js';
import { describeInput, type InputRuns, type ModelInput, SAMPLES_PER_RUN } from './model-inputs.js';
import { looksLikeNpy, looksLikeNpz, readNpy, readNpz } from './npy.js';
import { type InputArray, nameType } from './runtime.js';

/** How input files are cut into runs. */
export interface SplitRequest {
  /** Samples that run at once, where the user says so. */
  readonly batch: number | undefined;
  /** Whether the model says that every input and output counts samples first. */
  readonly isBatched: boolean;
}

/** One run may not read more of one array. */
const MAX_RUN_BYTES = 2 ** 30;

/** An array for an input, and the file that it is from. */
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
    const give = (name: string, tensor: Tensor, file: string) => {
      const input = inputs.find((one) => one.name === name);
      if (input === undefined) throw unknownInput(`${file} holds the array ${quote(name)}`, inputs);
      if (given.has(name))
        throw new UsageError(
          `the input ${quote(name)} is given twice: in ${given.get(name)?.file} and ${file}`,
        );
      given.set(name, { input, tensor, file });
    };
    for (const argument of files) {
      const { name, path } = splitArgument(argument, inputs);
      const source = openFileSource(path);
      this.#sources.push(source);
      const range = { source, offset: 0, byteLength: source.byteLength };
      const head = await readRange({ source, offset: 0, byteLength: Math.min(6, source.byteLength) });
      if (looksLikeNpy(head)) {
        const tensor = await readNpy(range, path);
        if (name === null) unnamed.push({ tensor, file: path });
        else give(name, tensor, path);
      } else if (looksLikeNpz(head)) {
        if (name !== null)
          throw new UsageError(
            `--input ${quote(argument)}: the arrays of an .npz file have names of their own`,
          );
        for (const [entry, read] of await readNpz(range)) {
          // A name that no input has is refused before anything of it is inflated.
          if (!inputs.some((one) => one.name === entry))
            throw unknownInput(`${path} holds the array ${quote(entry)}`, inputs);
          give(entry, await read(), path);
        }
      } else {
        throw new CheckpointError('expected an .npy or .npz file, found neither', {
          code: 'unrecognised-format',
          file: path,
          hint: 'Save arrays with numpy.save or numpy.savez.',
        });
      }
    }
    for (const { tensor, file } of unnamed) {
      const input = inputs.find((one) => !given.has(one.name));
      if (input === undefined) throw unknownInput(`${file} is one array more`, inputs);
      give(input.name, tensor, file);
    }
    const missing = inputs.find(({ name }) => !given.has(name));
    if (missing !== undefined) {
      throw new UsageError(
        `the model's input ${describeInput(missing)} is given no array`,
        `Add --input ${toShellWord(missing.name)}=FILE.npy, or save all of them with numpy.savez.`,
      );
    }
    return planRuns([...given.values()], inputs, split);
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
): { readonly name: string | null; readonly path: string } {
  const named = inputs.find(({ name }) => argument.startsWith(`${name}=`));
  if (named !== undefined) return { name: named.name, path: argument.slice(named.name.length + 1) };
  const [, name, file] = /^([^=/\\]+)=(.+\.np[yz])$/.exec(argument) ?? [];
  if (name !== undefined && file !== undefined) throw unknownInput(`--input names ${quote(name)}`, inputs);
  return { name: null, path: argument };
}

function unknownInput(what: string, inputs: readonly ModelInput[]): UsageError {
  return new UsageError(
    `${what}, which is no input of the model`,
    `The model's inputs: ${inputs.map(describeInput).join(', ')}`,
  );
}

/** How many rows of an array one run takes; null for an array that every run takes whole. */
interface SplitArray extends GivenArray {
  readonly rowsPerRun: number | null;
}

function planRuns(
  arrays: readonly GivenArray[],
  inputs: readonly ModelInput[],
  split: SplitRequest,
): InputRuns {
  for (const array of arrays) checkFit(array);
  const inOrder = inputs.flatMap(({ name }) => arrays.find(({ input }) => input.name === name) ?? []);
  const found = findSplit(inOrder, split);
  const { runs } = found;
  const parts = inOrder.map((array) => checkRunSize(splitArray(array, found)));
  const [first] = inOrder;
  return {
    kind: 'files',
    samples: first?.tensor.shape[0] ?? 1,
    runs,
    seed: null,
    arrays: inOrder.map(({ input, tensor, file }) => ({
      name: input.name,
      dtype: tensor.dtype,
      shape: tensor.shape,
      file,
    })),
    read: async (run) => {
      const read = await Promise.all(
        parts.map(async (part) => [part.input.name, await readRows(part, run)] as const),
      );
      return new Map(read);
    },
  };
}

/** The first dimension may be a multiple of what the model takes at once; all else must fit exactly. */
function checkFit({ input, tensor, file }: GivenArray): void {
  const found = `${quote(file)}: expected ${describeInput(input)}, found ${nameType(tensor.dtype)} [${tensor.shape.join(', ')}]`;
  if (tensor.dtype !== input.dtype) {
    throw new UsageError(found, `Convert the array, for example: array.astype("${nameType(input.dtype)}")`);
  }
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

function splitArray(array: GivenArray, { runs, openRows }: Split): SplitArray {
  const { input, tensor, file } = array;
  const [size] = input.shape;
  const rows = tensor.shape[0] ?? 1;
  if (runs === 1 || size === undefined || size === rows) return { ...array, rowsPerRun: null };
  const rowsPerRun = typeof size === 'number' ? size : (openRows ?? rows / runs);
  if (!Number.isInteger(rowsPerRun) || Math.ceil(rows / rowsPerRun) !== runs) {
    throw new UsageError(
      `${quote(file)}: expected samples for ${runs} runs of ${describeInput(input)}, found ${rows}`,
    );
  }
  return { ...array, rowsPerRun };
}

function checkRunSize(array: SplitArray): SplitArray {
  const { tensor, rowsPerRun, file } = array;
  const rows = tensor.shape[0] ?? 1;
  const byteLength = (tensor.range.byteLength / rows) * (rowsPerRun ?? rows);
  if (byteLength <= MAX_RUN_BYTES) return array;
  throw new UsageError(
    `${quote(file)}: one run would read ${byteLength} bytes, more than ${MAX_RUN_BYTES}`,
    'Run fewer samples at a time: --batch 1',
  );
}

async function readRows({ tensor, rowsPerRun }: SplitArray, run: number): Promise<InputArray> {
  const { dtype, shape, range } = tensor;
  if (rowsPerRun === null) return { dtype, shape, bytes: await readRange(range) };
  const [rows = 1, ...rest] = shape;
  const start = run * rowsPerRun;
  const count = Math.min(rowsPerRun, rows - start);
  const rowBytes = rest.reduce((product, size) => product * size, bitsOf(dtype) / 8);
  const bytes = await readRange({
    source: range.source,
    offset: range.offset + start * rowBytes,
    byteLength: count * rowBytes,
  });
  return { dtype, shape: [count, ...rest], bytes };
}
