// Runs models with onnxruntime-node as probe needs it, weights in files beside the model included.

import { dirname, resolve, sep } from 'node:path';
import type { DType } from '../checkpoint/dtype.js';
import { CheckpointError, escapeControls, UsageError } from '../errors.js';
import type { OnnxCheckpoint } from '../formats/onnx/onnx.js';
import { readRange } from '../io/byte-source.js';

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
  run(
    feeds: Readonly<Record<string, RuntimeTensor>>,
    fetches: readonly string[],
  ): Promise<Readonly<Record<string, RuntimeTensor>>>;
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
  'Install it beside bn-audit: npm install onnxruntime-node (with onnxruntime-node-install=skip in .npmrc the install stays offline: the CPU build is in the package), or run: npx -p bn-audit -p onnxruntime-node bn-audit probe …';

/**
 * Loads onnxruntime-node, which is an optional peer: hundreds of megabytes that only a probe needs.
 *
 * @throws UsageError that says how to install it.
 */
export async function loadRuntime(
  importRuntime: ImportRuntime = () => import('onnxruntime-node'),
): Promise<OnnxRuntime> {
  let module: unknown;
  try {
    module = await importRuntime();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ERR_MODULE_NOT_FOUND' || code === 'MODULE_NOT_FOUND') {
      throw new UsageError(
        'a probe runs the model with onnxruntime-node, which is not installed',
        INSTALL_HINT,
      );
    }
    throw new UsageError(`onnxruntime-node could not be loaded: ${firstLine(error)}`, INSTALL_HINT);
  }
  const runtime = isRuntime(module)
    ? module
    : isObject(module) && isRuntime(module['default'])
      ? module['default']
      : null;
  if (runtime === null)
    throw new UsageError('the onnxruntime-node that was found is not what a probe needs', INSTALL_HINT);
  // What goes wrong comes as an error; the rest is about initializers that the copy does not use.
  runtime.env.logLevel = 'fatal';
  return runtime;
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

/** Where a session finds the tensors that the model keeps in other files. */
export type ExternalTensors =
  | { readonly kind: 'folder'; readonly path: string }
  | {
      readonly kind: 'loaded';
      readonly files: readonly { readonly path: string; readonly data: Uint8Array }[];
    };

/** A model to load. */
interface SessionRequest {
  /** The file as the user named it, for messages. */
  readonly file: string;
  readonly model: Uint8Array;
  readonly external: ExternalTensors;
}

/** Severity of ONNX Runtime's log: fatal errors only. */
const LOG_FATAL = 4;

/**
 * Loads a model from memory.
 *
 * @throws CheckpointError `unsupported` with the first line of ONNX Runtime's complaint.
 */
export async function openSession(
  runtime: OnnxRuntime,
  { file, model, external }: SessionRequest,
): Promise<RuntimeSession> {
  const options =
    external.kind === 'folder'
      ? { extra: { session: { model_external_initializers_file_folder_path: external.path } } }
      : { externalData: external.files };
  try {
    return await runtime.InferenceSession.create(model, { logSeverityLevel: LOG_FATAL, ...options });
  } catch (error) {
    throw new CheckpointError(`ONNX Runtime cannot load the model: ${firstLine(error)}`, {
      code: 'unsupported',
      file,
      cause: error,
    });
  }
}

/** What a session fetches, by name. */
export type Fetched = Readonly<Record<string, RuntimeTensor>>;

/**
 * Runs a model once.
 *
 * @throws CheckpointError `unsupported` with the first line of ONNX Runtime's complaint.
 */
export async function runSession(
  session: RuntimeSession,
  run: {
    readonly file: string;
    readonly feeds: Readonly<Record<string, RuntimeTensor>>;
    readonly fetches: readonly string[];
  },
): Promise<Fetched> {
  try {
    return await session.run(run.feeds, run.fetches);
  } catch (error) {
    throw new CheckpointError(`ONNX Runtime cannot run the model on these inputs: ${firstLine(error)}`, {
      code: 'unsupported',
      file: run.file,
      cause: error,
    });
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

/** Element types by the names that ONNX Runtime gives them. */
const RUNTIME_TYPES: Partial<Record<DType, string>> = {
  F16: 'float16',
  F32: 'float32',
  F64: 'float64',
  I8: 'int8',
  I16: 'int16',
  I32: 'int32',
  I64: 'int64',
  U8: 'uint8',
  U16: 'uint16',
  U32: 'uint32',
  U64: 'uint64',
  BOOL: 'bool',
};

const DTYPES = new Map(Object.entries(RUNTIME_TYPES).map(([dtype, type]) => [type, dtype as DType]));

/** The element type that ONNX Runtime calls `type`; null for strings and 4-bit integers. */
export function dtypeOfRuntime(type: string | undefined): DType | null {
  return (type === undefined ? undefined : DTYPES.get(type)) ?? null;
}

/** What messages call an element type: `float32`, as NumPy and ONNX Runtime do. */
export function nameType(dtype: DType): string {
  return RUNTIME_TYPES[dtype] ?? dtype;
}

/** An array as a session takes it: little-endian elements, row-major. */
export interface InputArray {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** An array as a tensor of ONNX Runtime. The tensor may share the array's memory. */
export function toRuntimeTensor(runtime: OnnxRuntime, { dtype, shape, bytes }: InputArray): RuntimeTensor {
  return new runtime.Tensor(RUNTIME_TYPES[dtype] ?? '', viewElements(dtype, bytes), shape);
}

function viewElements(dtype: DType, bytes: Uint8Array): unknown {
  // Typed arrays need aligned memory.
  const { buffer } = bytes.byteOffset === 0 ? bytes : bytes.slice();
  const { byteLength } = bytes;
  switch (dtype) {
    case 'F32':
      return new Float32Array(buffer, 0, byteLength / 4);
    case 'F64':
      return new Float64Array(buffer, 0, byteLength / 8);
    case 'F16':
    case 'U16':
      return new Uint16Array(buffer, 0, byteLength / 2);
    case 'I16':
      return new Int16Array(buffer, 0, byteLength / 2);
    case 'I32':
      return new Int32Array(buffer, 0, byteLength / 4);
    case 'U32':
      return new Uint32Array(buffer, 0, byteLength / 4);
    case 'I64':
      return new BigInt64Array(buffer, 0, byteLength / 8);
    case 'U64':
      return new BigUint64Array(buffer, 0, byteLength / 8);
    case 'I8':
      return new Int8Array(buffer, 0, byteLength);
    default:
      return new Uint8Array(buffer, 0, byteLength);
  }
}

/** Files that must be read whole, because ONNX Runtime would not follow the links to them. */
const MAX_LOADED_BYTES = 2 ** 32 - 1;

/**
 * Says where ONNX Runtime finds a model's external data although the model itself is loaded from memory: in the
 * model's folder, from which it maps the files. Where the files are links to other names or places, which it refuses
 * and the user has allowed, they are read into memory.
 *
 * @throws CheckpointError `limit-exceeded` for linked files that are too large to read.
 */
export async function findExternalTensors({ path, externalFiles }: OnnxCheckpoint): Promise<ExternalTensors> {
  const files = [...externalFiles()];
  const folders = new Set(
    files.map(([location, file]) => {
      const tail = sep + location.split('/').join(sep);
      return file.path.endsWith(tail) ? file.path.slice(0, -tail.length) || sep : null;
    }),
  );
  const [folder = dirname(resolve(path))] = folders;
  if (folders.size <= 1 && folder !== null) return { kind: 'folder', path: folder };
  const loaded = [];
  for (const [location, source] of files) {
    if (source.byteLength > MAX_LOADED_BYTES) {
      throw new CheckpointError(
        `expected linked external data of at most ${MAX_LOADED_BYTES} bytes, found ${source.byteLength}`,
        { code: 'limit-exceeded', file: source.name, hint: 'Put the data file itself beside the model.' },
      );
    }
    loaded.push({
      path: location,
      data: await readRange({ source, offset: 0, byteLength: source.byteLength }),
    });
  }
  return { kind: 'loaded', files: loaded };
}
