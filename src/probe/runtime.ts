// Runs models with onnxruntime-node as probe needs it, weights in files beside the model included.

import { dirname, normalize, resolve, sep } from 'node:path';
import { DTYPE_NAMES, type DType } from '../checkpoint/dtype.js';
import { CheckpointError, escapeControls, UsageError } from '../errors.js';
import type { OnnxCheckpoint } from '../formats/onnx/onnx.js';
import { readRange, wholeOf } from '../io/byte-source.js';

/** A tensor of ONNX Runtime. */
export interface RuntimeTensor {
  readonly type: string;
  readonly dims: readonly number[];
  readonly data: unknown;
}

/** What a session tells of an input or output; a string in `shape` is a dimension that is known at run time only. */
interface RuntimeValue {
  readonly name: string;
  readonly isTensor: boolean;
  readonly type?: string;
  readonly shape?: readonly (number | string)[];
}

/** A loaded model. */
export interface RuntimeSession {
  readonly inputMetadata: readonly RuntimeValue[];
  readonly outputMetadata: readonly RuntimeValue[];
  run(feeds: Fetched, fetches: readonly string[]): Promise<Fetched>;
  release(): Promise<void>;
}

/** The part of onnxruntime-node that a probe uses. */
export interface OnnxRuntime {
  readonly env: { logLevel?: string | undefined; readonly versions: { readonly node?: string } };
  readonly InferenceSession: {
    create(model: string | Uint8Array, options: object): Promise<RuntimeSession>;
  };
  readonly Tensor: new (type: string, data: unknown, dims: readonly number[]) => RuntimeTensor;
}

/** Imports onnxruntime-node. */
export type ImportRuntime = () => Promise<unknown>;

const INSTALL_HINT =
  'Install it beside bn-audit: ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node (290 MB; without the variable its install fetches CUDA besides, which a probe does not use), or run: ONNXRUNTIME_NODE_INSTALL=skip npx -p bn-audit -p onnxruntime-node bn-audit probe …';

/**
 * Loads onnxruntime-node, which is an optional peer: hundreds of megabytes that only a probe needs.
 *
 * @throws UsageError that says how to install it.
 */
export async function loadRuntime(
  importRuntime: ImportRuntime = () => import('onnxruntime-node'),
): Promise<OnnxRuntime> {
  // From 1.30 on it would note this machine and its sessions in files, and send them to Microsoft, unless this is set.
  process.env['ORT_DISABLE_TELEMETRY'] ??= '1';
  let module: unknown;
  try {
    module = await importRuntime();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    const isMissing = code === 'ERR_MODULE_NOT_FOUND' || code === 'MODULE_NOT_FOUND';
    const message = isMissing
      ? 'a probe runs the model with onnxruntime-node, which is not installed'
      : `onnxruntime-node could not be loaded: ${firstLine(error)}`;
    throw new UsageError(message, INSTALL_HINT);
  }
  const runtime = [module, isObject(module) ? module['default'] : null].find(isRuntime);
  if (runtime === undefined)
    throw new UsageError('the onnxruntime-node that was found is not what a probe needs', INSTALL_HINT);
  settleHalves(runtime);
  // What goes wrong comes as an error; the rest is about initializers that the copy does not use.
  runtime.env.logLevel = 'fatal';
  return runtime;
}

/**
 * Has the runtime hold halves as the numbers of their bits, on every Node. When it makes its first tensor it looks for
 * Float16Array, which Node 24 has, and its own native code takes none.
 */
function settleHalves({ Tensor }: OnnxRuntime): void {
  const found = Object.getOwnPropertyDescriptor(globalThis, 'Float16Array');
  if (found === undefined) return;
  Reflect.deleteProperty(globalThis, 'Float16Array');
  try {
    new Tensor('uint8', new Uint8Array(1), [1]);
  } finally {
    Object.defineProperty(globalThis, 'Float16Array', found);
  }
}

function isRuntime(value: unknown): value is OnnxRuntime {
  return (
    isObject(value) &&
    isObject(value['InferenceSession']) &&
    typeof value['Tensor'] === 'function' &&
    isObject(value['env'])
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return (typeof value === 'object' || typeof value === 'function') && value !== null;
}

/** Severity of ONNX Runtime's log: fatal errors only. */
const LOG_FATAL = 4;

/**
 * Loads a model from memory.
 *
 * @param file as the user named it, for messages.
 * @param external what {@link findExternalTensors} gives.
 * @throws CheckpointError `unsupported` with the first line of ONNX Runtime's complaint.
 */
export function openSession(
  { InferenceSession }: OnnxRuntime,
  file: string,
  model: Uint8Array,
  external: object,
): Promise<RuntimeSession> {
  return orComplain('ONNX Runtime cannot load the model', file, () =>
    InferenceSession.create(model, { logSeverityLevel: LOG_FATAL, ...external }),
  );
}

/** What a session is fed and fetches, by name. */
export type Fetched = Readonly<Record<string, RuntimeTensor>>;

/**
 * Runs a model once.
 *
 * @param file as the user named it, for messages.
 * @throws CheckpointError `unsupported` with the first line of ONNX Runtime's complaint.
 */
export function runSession(
  session: RuntimeSession,
  file: string,
  feeds: Fetched,
  fetches: readonly string[],
): Promise<Fetched> {
  const what = 'ONNX Runtime cannot run the model on these inputs';
  return orComplain(what, file, () => session.run(feeds, fetches));
}

async function orComplain<Result>(what: string, file: string, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    const message = `${what}: ${firstLine(error)}`;
    throw new CheckpointError(message, { code: 'unsupported', file, cause: error });
  }
}

/** The most of a complaint that a message repeats. */
const MAX_COMPLAINT_LENGTH = 400;

function firstLine(error: unknown): string {
  const text = (error instanceof Error ? error.message : String(error)).trim();
  const [line = ''] = text.split('\n');
  // It may repeat names from the model.
  return escapeControls(
    line.length <= MAX_COMPLAINT_LENGTH ? line : `${line.slice(0, MAX_COMPLAINT_LENGTH)}…`,
  );
}

/** Element types by the names that ONNX Runtime gives them, and the arrays in which it takes them. */
const RUNTIME_TYPES = {
  F16: { name: 'float16', array: Uint16Array },
  F32: { name: 'float32', array: Float32Array },
  F64: { name: 'float64', array: Float64Array },
  I8: { name: 'int8', array: Int8Array },
  I16: { name: 'int16', array: Int16Array },
  I32: { name: 'int32', array: Int32Array },
  I64: { name: 'int64', array: BigInt64Array },
  U8: { name: 'uint8', array: Uint8Array },
  U16: { name: 'uint16', array: Uint16Array },
  U32: { name: 'uint32', array: Uint32Array },
  U64: { name: 'uint64', array: BigUint64Array },
  BOOL: { name: 'bool', array: Uint8Array },
} as const;

/** An element type that a session takes. */
type FedDType = keyof typeof RUNTIME_TYPES;

function isFedDType(dtype: DType): dtype is FedDType {
  return Object.hasOwn(RUNTIME_TYPES, dtype);
}

/** The element type that ONNX Runtime calls `type`; null for strings and 4-bit integers. */
export function dtypeOfRuntime(type: string | undefined): FedDType | null {
  return DTYPE_NAMES.filter(isFedDType).find((dtype) => RUNTIME_TYPES[dtype].name === type) ?? null;
}

/** What messages call an element type: `float32`, as NumPy and ONNX Runtime do. */
export function nameType(dtype: DType): string {
  return isFedDType(dtype) ? RUNTIME_TYPES[dtype].name : dtype;
}

/** An array as a session takes it: little-endian elements, row-major. */
export interface InputArray {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** Arrays by the inputs' names as tensors of ONNX Runtime, which may share the arrays' memory. */
export function toFeeds(runtime: OnnxRuntime, arrays: Iterable<readonly [string, InputArray]>): Fetched {
  return Object.fromEntries([...arrays].map(([name, array]) => [name, toTensor(runtime, array)]));
}

function toTensor({ Tensor }: OnnxRuntime, { dtype, shape, bytes }: InputArray): RuntimeTensor {
  // Typed arrays need aligned memory.
  const isAligned = bytes.byteOffset === 0 && bytes.buffer instanceof ArrayBuffer;
  const buffer = isAligned ? bytes.buffer : bytes.slice().buffer;
  const { name, array } = isFedDType(dtype) ? RUNTIME_TYPES[dtype] : { name: '', array: Uint8Array };
  return new Tensor(name, new array(buffer, 0, bytes.byteLength / array.BYTES_PER_ELEMENT), shape);
}

/** Files that must be read whole, because ONNX Runtime would not follow the links to them. */
const MAX_LOADED_BYTES = 2 ** 32 - 1;

/**
 * The options of a session that say where ONNX Runtime finds a model's external data although the model itself is loaded from memory: in the
 * model's folder, from which it maps the files. Where the files are links to other names or places, which it refuses
 * and the user has allowed, they are read into memory.
 *
 * @throws CheckpointError `limit-exceeded` for linked files that are too large to read.
 */
export async function findExternalTensors({
  path,
  file: model,
  externalFiles,
}: OnnxCheckpoint): Promise<object> {
  const files = [...externalFiles()];
  const folders = new Set(
    files.map(([location, file]) => {
      const tail = sep + normalize(location);
      return file.path?.endsWith(tail) ? file.path.slice(0, -tail.length) || sep : null;
    }),
  );
  const [folder = dirname(resolve(model.path ?? path))] = folders;
  if (folders.size <= 1 && folder !== null)
    return { extra: { session: { model_external_initializers_file_folder_path: folder } } };
  const loaded = [];
  for (const [location, source] of files) {
    if (source.byteLength > MAX_LOADED_BYTES)
      throw new CheckpointError(
        `expected linked external data of at most ${MAX_LOADED_BYTES} bytes, found ${source.byteLength}`,
        { code: 'limit-exceeded', file: source.name, hint: 'Put the data file itself beside the model.' },
      );
    loaded.push({ path: location, data: await readRange(wholeOf(source)) });
  }
  return { externalData: loaded };
}
