import type { DType } from '../checkpoint/dtype.js';
import { quote, quoteUnlessPlain, UsageError } from '../errors.js';
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

/** What is fed to one input. */
export interface InputDescription {
  readonly name: string;
  readonly dtype: DType;
  /** All runs together. */
  readonly shape: readonly number[];
  /** Null for random numbers. */
  readonly file: string | null;
}

/** Samples that run at once where nothing else says how many; their activations are what takes memory. */
export const SAMPLES_PER_RUN = 4;

/**
 * The inputs of a loaded model.
 *
 * @throws UsageError for one that is no tensor of numbers.
 */
export function listInputs({ inputMetadata }: RuntimeSession): readonly ModelInput[] {
  return inputMetadata.map(({ name, type, shape = [], isTensor }) => {
    const dtype = dtypeOfRuntime(type);
    if (!isTensor || dtype === null) {
      throw new UsageError(
        `the model's input ${quote(name)} is ${isTensor ? `of the type ${type}` : 'no tensor'}: a probe cannot feed it`,
      );
    }
    return { name, dtype, shape };
  });
}

/** An input as messages show it: `"x" float32 [batch, 3, 224, 224]`. */
export function describeInput({ name, dtype, shape }: ModelInput): string {
  return `${quote(name)} ${nameType(dtype)} [${shape.map(describeSize).join(', ')}]`;
}

function describeSize(size: ModelInput['shape'][number]): string {
  return size === '' ? '?' : quoteUnlessPlain(String(size));
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
