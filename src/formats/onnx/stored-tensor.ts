// Tensors of an ONNX file: in raw_data, in typed fields, or in a file beside the model and inside its directory.

import { realpathSync } from 'node:fs';
import { dirname, join, sep } from 'node:path';
import type { Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../../checkpoint/dtype.js';
import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import {
  type ByteRange,
  type ByteSource,
  checkBounds,
  joinRanges,
  readRange,
  wholeOf,
} from '../../io/byte-source.js';
import { BufferedReader } from '../../io/cursor.js';
import { explainAs, explainFileError, openFileSource } from '../../io/file-source.js';
import { isPlace, isSharedCache } from '../../io/places.js';
import { countElements } from '../../io/row-major.js';
import { stridedSource, unpackedSource } from '../../io/views.js';
import { FIELDS, isExternal, type OnnxTensor } from './schema.js';
import { MAX_VARINT_BYTES, readVarint, type Segment, type Varint } from './wire.js';

/** Where tensors are stored: in the model file or in others beside it. */
export class TensorStore {
  readonly file: ByteSource;
  readonly external: ExternalData;

  constructor(file: ByteSource, external: ExternalData) {
    this.file = file;
    this.external = external;
  }

  error(message: string, code: CheckpointErrorCode = 'malformed', offset?: number): CheckpointError {
    return new CheckpointError(message, { code, file: this.file.name, offset });
  }
}

/** The bytes of all segments, tags included. */
export function sumBytes(segments: readonly Segment[]): number {
  return segments.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/** How many fixed-width values the segments hold; a fraction where a packed run is ragged. */
export function countFixedUnits(segments: readonly Segment[], unitBytes: number): number {
  return segments.reduce(
    (count, { form, byteLength, stride }) => count + byteLength / (form === 'tagged' ? stride : unitBytes),
    0,
  );
}

/** Fixed-width values without the tags that may stand before each of them. */
function locateUnits(
  { form, offset, byteLength, stride }: Segment,
  unitBytes: number,
  file: ByteSource,
): ByteRange {
  const range = { source: file, offset, byteLength };
  if (form === 'packed') return range;
  const shape = [byteLength / stride, unitBytes];
  const view = { shape, strides: [stride, 1], firstElement: stride - unitBytes, elementByteLength: 1 };
  return wholeOf(stridedSource(range, view));
}

/** Counts the varints of segments by their last bytes; the caller has checked the size. A tag is a varint too. */
export async function countVarints(file: ByteSource, segments: readonly Segment[]): Promise<number> {
  let count = 0;
  for (const segment of segments) {
    const bytes = await readRange({ source: file, offset: segment.offset, byteLength: segment.byteLength });
    const ends = bytes.reduce((sum, byte) => (byte < 0x80 ? sum + 1 : sum), 0);
    count += segment.form === 'tagged' ? ends / 2 : ends;
  }
  return count;
}

/** Varints of a typed field of TensorProto (int32_data, …) or AttributeProto (ints). */
interface VarintData {
  /** What messages call the values: the tensor or attribute. */
  readonly what: string;
  readonly segments: readonly Segment[];
  /** Bytes of one value in the view: the element's own width. */
  readonly unitBytes: number;
  readonly unitCount: number;
}

/**
 * A view that decodes varints to little-endian values of `unitBytes`; higher bits are dropped, so that a negative
 * half or byte may stand sign-extended in ten bytes (onnx.proto: int32_data).
 *
 * Decodes forwards only, because a varint's length is known when it is read; reading backwards starts again.
 * Reads are queued, so that two may be asked for at once.
 */
class VarintUnits implements ByteSource {
  readonly name: string;
  readonly byteLength: number;
  readonly #data: VarintData;
  readonly #store: TensorStore;
  readonly #varint: Varint = { low: 0, high: 0 };
  #queue: Promise<void> = Promise.resolve();
  #reader: BufferedReader;
  #segmentIndex = 0;
  #nextUnit = 0;

  constructor(data: VarintData, store: TensorStore) {
    this.name = store.file.name;
    this.byteLength = data.unitBytes * data.unitCount;
    this.#data = data;
    this.#store = store;
    this.#reader = this.#readerOf(0);
  }

  async readInto(target: Uint8Array, position: number): Promise<void> {
    checkBounds(this, position, target.byteLength);
    const work = this.#queue.then(() => this.#decodeInto(target, position));
    this.#queue = work.catch(() => {});
    await work;
  }

  async close(): Promise<void> {}

  async #decodeInto(target: Uint8Array, position: number): Promise<void> {
    const { unitBytes, unitCount } = this.#data;
    if (Math.floor(position / unitBytes) < this.#nextUnit) this.#restart();
    const endUnit = Math.ceil((position + target.byteLength) / unitBytes);
    const unit = new Uint8Array(8);
    const view = new DataView(unit.buffer);
    while (this.#nextUnit < endUnit) {
      await this.#readUnit();
      view.setUint32(0, this.#varint.low, true);
      view.setUint32(4, this.#varint.high, true);
      const at = this.#nextUnit * unitBytes - position;
      this.#nextUnit++;
      if (at + unitBytes <= 0) continue;
      const from = Math.max(0, -at);
      target.set(unit.subarray(from, Math.min(unitBytes, target.byteLength - at)), at + from);
    }
    if (endUnit === unitCount) {
      if (this.#findSegment() !== undefined) throw this.#countError('more');
      // Gives the window back: a model may have hundreds of such tensors.
      this.#restart();
    }
  }

  async #readUnit(): Promise<void> {
    const segment = this.#findSegment();
    if (segment === undefined) throw this.#countError(`${this.#nextUnit}`);
    if (!this.#reader.has(2 * MAX_VARINT_BYTES)) await this.#reader.fill(2 * MAX_VARINT_BYTES);
    if (segment.form === 'tagged') readVarint(this.#reader, this.#varint);
    readVarint(this.#reader, this.#varint);
    if (this.#reader.position > segment.offset + segment.byteLength)
      throw this.#countError('one that is cut off');
  }

  /** The segment of the next value; undefined behind the last one. */
  #findSegment(): Segment | undefined {
    for (;;) {
      const segment = this.#data.segments[this.#segmentIndex];
      if (segment === undefined || this.#reader.position < segment.offset + segment.byteLength)
        return segment;
      this.#reader = this.#readerOf(++this.#segmentIndex);
    }
  }

  #restart(): void {
    this.#segmentIndex = 0;
    this.#nextUnit = 0;
    this.#reader = this.#readerOf(0);
  }

  #readerOf(segmentIndex: number): BufferedReader {
    const { offset, byteLength } = this.#data.segments[segmentIndex] ?? { offset: 0, byteLength: 0 };
    return new BufferedReader(this.#store.file, offset, offset + byteLength);
  }

  #countError(found: string): CheckpointError {
    const { what, unitCount, segments } = this.#data;
    const message = `${what}: expected ${unitCount} values for its shape, found ${found}`;
    return this.#store.error(message, 'malformed', segments[0]?.offset);
  }
}

/** No operator works on more dimensions than these. */
export const MAX_RANK = 64;

const DATA = FIELDS.tensor;

const FIELD_NAMES: ReadonlyMap<number, string> = new Map([
  [DATA.floatData, 'float_data'],
  [DATA.int32Data, 'int32_data'],
  [DATA.int64Data, 'int64_data'],
  [DATA.doubleData, 'double_data'],
  [DATA.uint64Data, 'uint64_data'],
]);

/**
 * Element types of ONNX by TensorProto.DataType, which counts from 1: the DType of the same bits, and the typed field for it
 * (onnx.proto, TensorProto).
 */
const DATA_TYPES: readonly ({
  readonly name: string;
  readonly dtype: DType | null;
  readonly field: number;
  /** Set where the file has the bits of the DType in part only: two integers to a byte. */
  readonly packedBits?: 4;
} | null)[] = [
  null,
  { name: 'FLOAT', dtype: 'F32', field: DATA.floatData },
  { name: 'UINT8', dtype: 'U8', field: DATA.int32Data },
  { name: 'INT8', dtype: 'I8', field: DATA.int32Data },
  { name: 'UINT16', dtype: 'U16', field: DATA.int32Data },
  { name: 'INT16', dtype: 'I16', field: DATA.int32Data },
  { name: 'INT32', dtype: 'I32', field: DATA.int32Data },
  { name: 'INT64', dtype: 'I64', field: DATA.int64Data },
  { name: 'STRING', dtype: null, field: 0 },
  { name: 'BOOL', dtype: 'BOOL', field: DATA.int32Data },
  { name: 'FLOAT16', dtype: 'F16', field: DATA.int32Data },
  { name: 'DOUBLE', dtype: 'F64', field: DATA.doubleData },
  { name: 'UINT32', dtype: 'U32', field: DATA.uint64Data },
  { name: 'UINT64', dtype: 'U64', field: DATA.uint64Data },
  { name: 'COMPLEX64', dtype: 'C64', field: DATA.floatData },
  { name: 'COMPLEX128', dtype: null, field: 0 },
  { name: 'BFLOAT16', dtype: 'BF16', field: DATA.int32Data },
  { name: 'FLOAT8E4M3FN', dtype: 'F8_E4M3', field: DATA.int32Data },
  { name: 'FLOAT8E4M3FNUZ', dtype: 'F8_E4M3FNUZ', field: DATA.int32Data },
  { name: 'FLOAT8E5M2', dtype: 'F8_E5M2', field: DATA.int32Data },
  { name: 'FLOAT8E5M2FNUZ', dtype: 'F8_E5M2FNUZ', field: DATA.int32Data },
  { name: 'UINT4', dtype: 'U8', field: DATA.int32Data, packedBits: 4 },
  { name: 'INT4', dtype: 'I8', field: DATA.int32Data, packedBits: 4 },
  { name: 'FLOAT4E2M1', dtype: 'F4', field: DATA.int32Data },
  { name: 'FLOAT8E8M0', dtype: 'F8_E8M0', field: DATA.int32Data },
  { name: 'UINT2', dtype: null, field: 0 },
  { name: 'INT2', dtype: null, field: 0 },
];

/** The DType of an ONNX element type, undefined where there is no such type and null where it has no DType. */
export function dtypeOf(dataType: number): DType | null | undefined {
  const type = DATA_TYPES[dataType];
  return type?.packedBits === undefined ? type?.dtype : null;
}

/** The ONNX element type of a DType; undefined where ONNX has none. */
export function dataTypeOf(dtype: DType): number | undefined {
  const found = DATA_TYPES.findIndex((type) => type?.dtype === dtype && type.packedBits === undefined);
  return found < 0 ? undefined : found;
}

/** What messages call an ONNX element type. */
export function nameDataType(dataType: number): string {
  return DATA_TYPES[dataType]?.name ?? `the unknown type ${dataType}`;
}

/**
 * Checks a stored tensor against its data and says where that is.
 *
 * @param name what to call it; messages use it too.
 * @returns null for a type that has no DType (strings, 2-bit integers, complex128); integers of 4 bits as those of 8.
 * @throws CheckpointError `malformed` or `truncated` where shape, type and data disagree, naming the tensor.
 */
export function locateTensor(tensor: OnnxTensor, name: string, store: TensorStore): Tensor | null {
  const what = `tensor ${quote(name)}`;
  const type = DATA_TYPES[tensor.dataType] ?? null;
  if (type === null)
    throw store.error(`${what}: expected a known element type, found type ${tensor.dataType}`);
  const { dtype, field, packedBits } = type;
  if (dtype === null) return null;
  const shape = checkShape(tensor.dims, bitsOf(dtype), what, store);
  const elementCount = countElements(shape);
  const byteLength = Math.ceil((elementCount * (packedBits ?? bitsOf(dtype))) / 8);
  const range = isExternal(tensor)
    ? store.external.locate(name, tensor.externalData ?? new Map(), byteLength)
    : locateData(tensor.segments, { field, dtype, byteLength, what }, store);
  if (packedBits === undefined) return { name, dtype, shape, elementCount, range };
  const unpacked = unpackedSource(range, { count: elementCount, isSigned: dtype === 'I8' });
  return { name, dtype, shape, elementCount, range: wholeOf(unpacked), packedBits };
}

/**
 * Checks a shape from a file.
 *
 * @param bits of one element; the whole tensor must have a byte length that a number holds.
 * @throws CheckpointError `malformed` for a negative dimension, `limit-exceeded` for too many or too large ones.
 */
export function checkShape(
  dims: readonly bigint[],
  bits: number,
  what: string,
  store: TensorStore,
): number[] {
  if (dims.length > MAX_RANK)
    throw store.error(`${what}: expected at most ${MAX_RANK} dims, found ${dims.length}`, 'limit-exceeded');
  let product = BigInt(bits);
  for (const dim of dims) {
    if (dim < 0n) throw store.error(`${what}: expected dims of 0 or more, found the negative dim ${dim}`);
    product *= dim;
    // Each dimension must be safe by itself, because a zero elsewhere would hide it in the product.
    if (product > BigInt(Number.MAX_SAFE_INTEGER) || dim > BigInt(Number.MAX_SAFE_INTEGER)) {
      const found = `found the too large dims [${dims.join(', ')}]`;
      throw store.error(`${what}: expected a shape that fits into a file, ${found}`, 'limit-exceeded');
    }
  }
  return dims.map(Number);
}

/**
 * Finds the bytes: raw_data, which wins even when it is empty, else the typed field.
 *
 * @param wanted what it must amount to; `field` is the typed field for the element type.
 */
export function locateData(
  segments: readonly Segment[],
  wanted: { field: number; dtype: DType; byteLength: number; what: string },
  store: TensorStore,
): ByteRange {
  const { field, dtype, byteLength, what } = wanted;
  const { file } = store;
  const raw = segments.findLast((segment) => segment.field === DATA.rawData);
  if (raw !== undefined) {
    if (raw.byteLength === byteLength) return { source: file, offset: raw.offset, byteLength };
    const found = `found ${raw.byteLength} in raw_data`;
    const message = `${what}: expected ${byteLength} bytes for its shape and type, ${found}`;
    throw store.error(message, 'malformed', raw.offset);
  }
  const typed = segments.filter((segment) => segment.field === field && segment.byteLength > 0);
  const fail = (expected: number, found: number | string) => {
    const other = segments.find((segment) => segment.field !== field && segment.byteLength > 0);
    const beside = other === undefined ? '' : ` beside ${FIELD_NAMES.get(other.field) ?? 'another field'}`;
    const where = `${FIELD_NAMES.get(field) ?? 'data'}${beside}`;
    const message = `${what}: expected ${expected} values for its shape, found ${found} in ${where}`;
    return store.error(message, 'malformed', segments[0]?.offset);
  };
  if (field === DATA.floatData || field === DATA.doubleData) {
    const unitBytes = field === DATA.doubleData ? 8 : 4;
    const ragged = typed.find((segment) => segment.form === 'packed' && segment.byteLength % unitBytes !== 0);
    if (ragged !== undefined) {
      const found = `found ${ragged.byteLength} bytes, which is no multiple of ${unitBytes}`;
      throw store.error(`${what}: expected packed float values, ${found}`, 'malformed', ragged.offset);
    }
    const found = countFixedUnits(typed, unitBytes);
    if (found !== byteLength / unitBytes) throw fail(byteLength / unitBytes, found);
    const parts = typed.map((segment) => locateUnits(segment, unitBytes, file));
    const [part] = parts;
    return part?.source === file && parts.length === 1 ? part : joinRanges(file.name, parts);
  }
  const unitBytes = Math.max(1, bitsOf(dtype) / 8);
  const unitCount = byteLength / unitBytes;
  const encodedBytes = sumBytes(typed);
  // The exact number shows when the values are decoded, which for a large tensor must not happen while opening.
  if (encodedBytes < unitCount) throw fail(unitCount, `at most ${encodedBytes}`);
  if (encodedBytes > unitCount * 2 * MAX_VARINT_BYTES) throw fail(unitCount, 'more');
  return wholeOf(new VarintUnits({ what, segments: typed, unitBytes, unitCount }, store));
}

/** Every file stays open until the audit ends, two checkpoints at a time, and systems allow some thousands. */
const MAX_EXTERNAL_FILES = 1_000;

/** More digits than any offset or length that a file can have. */
const MAX_DIGITS = 20;

/** How a model is opened. */
export interface OnnxOptions {
  /** The model's path as the user named it; external data lies beside it. */
  readonly path: string;
  /**
   * Whether external data may be symbolic links that lead out of the model's directory, as those of the Hugging Face
   * cache do. Default: no.
   */
  readonly allowExternalSymlinks?: boolean | undefined;
  /** Told of every external data file that is opened, by its path. What it throws ends the opening. */
  readonly onOpenFile?: ((path: string) => void) | undefined;
}

/** The files beside a model that hold tensors; each is opened once, when the first tensor names it. */
export class ExternalData {
  readonly #options: OnnxOptions;
  readonly #path: string;
  readonly #model: ByteSource;
  readonly #files = new Map<string, ByteSource>();
  readonly #failures = new Map<string, CheckpointError>();
  #directories: readonly string[] | null = null;

  /** @param model which may lie elsewhere than its name says. */
  constructor(options: OnnxOptions, model: ByteSource) {
    this.#options = options;
    this.#path = model.path ?? options.path;
    this.#model = model;
  }

  /** Those that are open. */
  get files(): ReadonlyMap<string, ByteSource> {
    return this.#files;
  }

  /**
   * Opens the data files of a model that is read over the network, where it takes time; others are opened as they are
   * needed. What fails is said of the first tensor that is in such a file.
   */
  async openAll(locations: Iterable<string>): Promise<void> {
    const { openBeside } = this.#model;
    if (openBeside === undefined) return;
    for (const location of locations) {
      if (this.#files.has(location) || this.#files.size >= MAX_EXTERNAL_FILES) continue;
      try {
        this.#checkLocation(location, `external data ${quote(location)}`);
        this.#files.set(location, await openBeside(location));
      } catch (error) {
        if (!(error instanceof CheckpointError)) throw error;
        this.#failures.set(location, error);
      }
    }
  }

  /**
   * Where an external tensor's bytes are.
   *
   * Keys: `location` is required; `offset` defaults to 0, `length` to the rest of the file; `checksum` is ignored.
   *
   * @param byteLength what the tensor's shape and type need.
   * @throws CheckpointError `refused` for a path that leaves the model's directory, `not-found`, `not-a-file`,
   *   `malformed` or `truncated`, naming the tensor, the file and the key.
   */
  locate(tensorName: string, entries: ReadonlyMap<string, string>, byteLength: number): ByteRange {
    const location = entries.get('location') ?? '';
    const what = `external data ${quote(location)} of tensor ${quote(tensorName)}`;
    const source = this.open(location, what);
    const offset = this.#readNumber(entries, 'offset', what) ?? 0n;
    const rest = BigInt(source.byteLength) - offset;
    if (rest < 0n) {
      const found = `a file of ${source.byteLength} bytes: its offset lies beyond the end`;
      throw this.#error('truncated', `${what}: expected data from byte ${offset} on, found ${found}`);
    }
    const stated = this.#readNumber(entries, 'length', what);
    const length = stated ?? rest;
    if (length !== BigInt(byteLength)) {
      const wanted = `expected ${byteLength} bytes for its shape and type`;
      const toTheEnd = `${length} from byte ${offset} to the end of the file`;
      const found = stated === undefined ? toTheEnd : `a length of ${length}`;
      throw this.#error('malformed', `${what}: ${wanted}, found ${found}`);
    }
    if (length > rest) {
      const found = `found the end of the file at byte ${source.byteLength}`;
      throw this.#error('truncated', `${what}: expected ${length} bytes from byte ${offset} on, ${found}`);
    }
    return { source, offset: Number(offset), byteLength };
  }

  /** The file at a location, opened unless it is already; checked as by {@link locate}. */
  open(location: string, what = `external data ${quote(location)}`): ByteSource {
    const known = this.#files.get(location);
    if (known !== undefined) return known;
    this.#checkLocation(location, what);
    const failure = this.#failures.get(location);
    if (failure !== undefined) throw this.#explain(failure, what);
    if (this.#files.size >= MAX_EXTERNAL_FILES) {
      const message = `expected external data in at most ${MAX_EXTERNAL_FILES} files, found more`;
      throw this.#error('limit-exceeded', message);
    }
    if (isPlace(this.#path)) {
      const message = `${what}: expected a model in one file, since it is read over the network, found data beside it`;
      throw this.#error('unsupported', message, 'Download the model and its data, and name it by its path.');
    }
    const realPath = this.#resolve(location, what);
    this.#options.onOpenFile?.(realPath);
    try {
      const file = openFileSource(join(dirname(this.#options.path), location), realPath);
      this.#files.set(location, file);
      return file;
    } catch (error) {
      throw this.#explain(error, what);
    }
  }

  async close(): Promise<void> {
    for (const file of this.#files.values()) await file.close();
    this.#files.clear();
  }

  /** Refuses locations that could mean a file elsewhere on any operating system. */
  #checkLocation(location: string, what: string): void {
    if (location === '')
      throw this.#error('malformed', `${what}: expected the key location to name a file, found none`);
    if (location.startsWith('/') || /^[A-Za-z]:/.test(location)) throw this.#refuse(what, 'an absolute path');
    if (location.includes('\\'))
      throw this.#refuse(what, 'a backslash, which is a path separator on Windows');
    if (location.includes('\0')) throw this.#refuse(what, 'a NUL character');
    if (location.split('/').includes('..')) throw this.#refuse(what, '".." in the path');
  }

  /** Follows symbolic links, and checks that they stay in the directory in which the location was looked up. */
  #resolve(location: string, what: string): string {
    this.#directories ??= modelDirectories(this.#path);
    let missing: unknown;
    for (const directory of this.#directories) {
      let realPath: string;
      try {
        realPath = realpathSync(join(directory, location));
      } catch (error) {
        missing ??= error;
        continue;
      }
      const isInside = realPath.startsWith(directory.endsWith(sep) ? directory : directory + sep);
      if (isInside || isSharedCache(directory, realPath) || this.#options.allowExternalSymlinks === true)
        return realPath;
      throw this.#refuse(
        what,
        'a symbolic link that leads outside it',
        'Trust the files? Allow it: --allow-external-symlinks',
      );
    }
    throw this.#explain(missing, what);
  }

  #readNumber(entries: ReadonlyMap<string, string>, key: string, what: string): bigint | undefined {
    const text = entries.get(key);
    if (text === undefined) return undefined;
    if (/^[0-9]+$/.test(text) && text.length <= MAX_DIGITS) {
      const value = BigInt(text);
      if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return value;
    }
    throw this.#error(
      'malformed',
      `${what}: expected the key ${key} to be a decimal number below 2^53, found ${quote(text)}`,
    );
  }

  #explain(error: unknown, what: string): CheckpointError {
    const reason = error instanceof CheckpointError ? error : explainFileError(error, this.#options.path);
    const isMissing = reason.code === 'not-found';
    return new CheckpointError(`${what}: ${reason.message}`, {
      code: reason.code,
      file: this.#options.path,
      hint: isMissing ? 'Copy the data files along with the model; they belong beside it.' : reason.hint,
      cause: error,
    });
  }

  #refuse(what: string, found: string, hint?: string): CheckpointError {
    return this.#error(
      'refused',
      `${what}: expected a path inside the model's directory, found ${found}`,
      hint,
    );
  }

  #error(code: CheckpointErrorCode, message: string, hint?: string): CheckpointError {
    return new CheckpointError(message, { code, file: this.#options.path, hint });
  }
}

/** The real directory in which the user named the model, then the one in which the model really lies. */
function modelDirectories(path: string): readonly string[] {
  const named = explainAs(path, () => realpathSync(dirname(path)));
  const real = explainAs(path, () => dirname(realpathSync(path)));
  return named === real ? [named] : [named, real];
}
