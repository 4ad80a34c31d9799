import { CheckpointError } from '../../errors.js';
import type { RangeMap } from '../../io/range-map.js';
import type { ChannelLayout } from '../channel-grid.js';
import type { Checkpoint, ModuleFacts, Tensor } from '../checkpoint.js';
import { bitsOf, type DType } from '../dtype.js';
import type { TensorSummary } from '../fingerprint.js';
import { type ChannelProjections, PROJECTION_COUNT } from '../projections.js';
import { MAX_HEADER_BYTES } from '../safetensors.js';
import { FORMAT_VERSION, FreeNames, METADATA_KEYS, nameSample, nameTable, TABLE_COLUMNS } from './format.js';
import { graphToJson } from './graph-json.js';
import { toJson, writeMembers } from './json-fields.js';

/** What a baseline keeps of the bytes in one range. */
export interface KeptRange {
  /** Under which name the file holds the values themselves; absent where it does not. */
  readonly values?: { readonly name: string; readonly bytes: Uint8Array } | undefined;
  /** Absent for what no audit compares. */
  readonly summary?: TensorSummary | undefined;
  /** The layout of the summary's projections. */
  readonly layout?: ChannelLayout | undefined;
}

/** What goes into a baseline. */
export interface BaselineContents {
  /** The source's file name, without directories. */
  readonly sourceName: string;
  readonly checkpoint: Checkpoint;
  /** What is kept of each tensor, by its range and {@link readingOf} it. */
  readonly kept: RangeMap<KeptRange>;
  /** Module paths whose facts an audit asks for. */
  readonly modules: ReadonlySet<string>;
}

/** What a range is read as: views of one storage may differ in type and shape, and so does what is kept of them. */
export function readingOf({ dtype, shape }: Pick<Tensor, 'dtype' | 'shape'>): string {
  return `${dtype}[${shape.join()}]`;
}

/** A tensor of the file. */
interface FileTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/**
 * Puts a baseline in the form of a safetensors file. The bytes depend on the contents alone.
 *
 * @throws CheckpointError `limit-exceeded` when it has more tensors than a safetensors header can name.
 */
export function encodeBaseline(contents: BaselineContents): Uint8Array {
  const { checkpoint, sourceName, modules } = contents;
  const writer = new TensorWriter(contents);
  const tensors = encodePieces(quotePieces(writeMembers(writer.describeAll(checkpoint.tensors))));
  const constants = new Map<string, unknown>();
  const graph =
    checkpoint.graph === null
      ? null
      : graphToJson(checkpoint.graph, {
          nameTensor: (tensor) => (isEntryOf(tensor, checkpoint) ? tensor.name : null),
          addConstant: (tensor) => {
            const name = String(constants.size);
            constants.set(name, { name: tensor.name, ...writer.describe(tensor) });
            return name;
          },
        });
  const facts = new Map(
    [...checkpoint.modules].flatMap(([path, known]) =>
      modules.has(path) ? [[path, factsToJson(known)] as const] : [],
    ),
  );
  const metadata = new Map<string, string | readonly Uint8Array[]>([
    [METADATA_KEYS.version, FORMAT_VERSION],
    [METADATA_KEYS.source, sourceName],
    [METADATA_KEYS.format, checkpoint.format],
    [METADATA_KEYS.order, checkpoint.inModuleOrder ? 'module' : 'name'],
    [METADATA_KEYS.tensors, tensors],
  ]);
  if (facts.size > 0) metadata.set(METADATA_KEYS.modules, toJson(facts));
  if (graph !== null) {
    metadata.set(
      METADATA_KEYS.graph,
      toJson({ ...graph, constants: constants.size === 0 ? undefined : constants }),
    );
  }
  if (checkpoint.warnings.length > 0)
    metadata.set(METADATA_KEYS.warnings, toJson({ warnings: checkpoint.warnings }));
  return encodeSafetensors(writer.fileTensors, metadata, checkpoint.path);
}

/** Whether a constant of the graph is the checkpoint's tensor of its name, rather than a view or another scope's. */
function isEntryOf(tensor: Tensor, { tensors }: Checkpoint): boolean {
  const entry = tensors.get(tensor.name);
  return (
    entry !== undefined &&
    entry.range.source === tensor.range.source &&
    entry.range.offset === tensor.range.offset &&
    entry.dtype === tensor.dtype &&
    entry.shape.join() === tensor.shape.join()
  );
}

function factsToJson(facts: ModuleFacts): unknown {
  return Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== null));
}

/** Describes tensors for the metadata, and collects what the file itself must hold for them. */
class TensorWriter {
  readonly fileTensors = new Map<string, FileTensor>();
  readonly #kept: BaselineContents['kept'];
  /** Names of tables by the projections in them. */
  readonly #tables = new Map<ChannelProjections, string>();
  readonly #samples = new Map<TensorSummary, string>();
  /** Those of {@link fileTensors}. */
  readonly #names = new FreeNames();

  constructor({ kept }: BaselineContents) {
    this.#kept = kept;
  }

  *describeAll(tensors: Checkpoint['tensors']): Iterable<readonly [string, object]> {
    for (const [name, tensor] of tensors) yield [name, this.describe(tensor)];
  }

  describe(tensor: Tensor): object {
    const { name, dtype, shape } = tensor;
    const { values, summary, layout } = this.#kept.get(tensor.range, readingOf(tensor)) ?? {};
    return {
      dtype,
      shape,
      sha256: summary?.sha256,
      sample: summary?.sample == null || values !== undefined ? undefined : this.#keepSample(summary, tensor),
      values: values === undefined ? undefined : this.#keepValues(values, tensor),
      projections:
        summary?.projections == null || layout === undefined
          ? undefined
          : this.#keepProjections(name, summary.projections, layout),
      isBuffer: tensor.isBuffer,
      requiresGrad: tensor.requiresGrad,
    };
  }

  /** Keeps values under their name; `true` stands for the tensor's own. */
  #keepValues({ name, bytes }: { name: string; bytes: Uint8Array }, { dtype, ...tensor }: Tensor): unknown {
    this.#names.add(name);
    if (!this.fileTensors.has(name)) this.fileTensors.set(name, { dtype, shape: tensor.shape, bytes });
    return name === tensor.name || name;
  }

  /** Keeps a sample; `true` stands for its usual name. */
  #keepSample(summary: TensorSummary, { name, dtype }: Tensor): unknown {
    const usual = nameSample(name);
    const kept = this.#samples.get(summary) ?? this.#names.take(usual);
    const bytes = summary.sample ?? new Uint8Array();
    if (!this.#samples.has(summary))
      this.fileTensors.set(kept, { dtype, shape: [(bytes.byteLength * 8) / bitsOf(dtype)], bytes });
    this.#samples.set(summary, kept);
    return kept === usual || kept;
  }

  #keepProjections(name: string, projections: ChannelProjections, layout: ChannelLayout): unknown {
    const usual = nameTable(name);
    const table = this.#tables.get(projections) ?? this.#names.take(usual);
    if (!this.#tables.has(projections)) {
      this.#tables.set(projections, table);
      this.fileTensors.set(table, tabulate(projections));
    }
    return {
      weights: projections.weightsPerChannel,
      table: table === usual ? undefined : table,
      axis: layout.outputAxis || undefined,
      groups: layout.groups === 1 ? undefined : layout.groups,
    };
  }
}

/** Norms and projections as rows of float32, little-endian. */
function tabulate({ norms, sums }: ChannelProjections): FileTensor {
  const bytes = new Uint8Array(4 * TABLE_COLUMNS * norms.length);
  const view = new DataView(bytes.buffer);
  norms.forEach((norm, channel) => {
    const row = 4 * TABLE_COLUMNS * channel;
    view.setFloat32(row, norm, true);
    for (let j = 0; j < PROJECTION_COUNT; j++)
      view.setFloat32(row + 4 * (1 + j), sums[channel * PROJECTION_COUNT + j] ?? Number.NaN, true);
  });
  return { dtype: 'F32', shape: [norms.length, TABLE_COLUMNS], bytes };
}

/**
 * A safetensors file as its reference writer lays it out: tensors by the size of their elements, the largest first,
 * then by name, and a header padded with spaces to a multiple of 8 bytes.
 */
function encodeSafetensors(
  tensors: ReadonlyMap<string, FileTensor>,
  metadata: Metadata,
  file: string,
): Uint8Array {
  const sorted = [...tensors].sort(
    ([x, { dtype: one }], [y, { dtype: other }]) =>
      bitsOf(other) - bitsOf(one) || (x < y ? -1 : x > y ? 1 : 0),
  );
  const header = encodePieces(writeHeader(sorted, metadata));
  const headerLength = Math.ceil(sumLengths(header) / 8) * 8;
  if (headerLength > MAX_HEADER_BYTES) {
    throw new CheckpointError(
      `expected tensors whose names and hashes fit a header of ${MAX_HEADER_BYTES} bytes, found ${headerLength} bytes of them`,
      { code: 'limit-exceeded', file },
    );
  }
  const data = sorted.map(([, tensor]) => tensor.bytes);
  const bytes = new Uint8Array(8 + headerLength + sumLengths(data));
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerLength), true);
  bytes.fill(0x20, 8, 8 + headerLength);
  copyAll(header, bytes, 8);
  copyAll(data, bytes, 8 + headerLength);
  return bytes;
}

function copyAll(pieces: readonly Uint8Array[], target: Uint8Array, start: number): void {
  let position = start;
  for (const piece of pieces) {
    target.set(piece, position);
    position += piece.byteLength;
  }
}

function sumLengths(pieces: readonly Uint8Array[]): number {
  return pieces.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/** What stands under `__metadata__`: text, or text that was made JSON and encoded already. */
type Metadata = ReadonlyMap<string, string | readonly Uint8Array[]>;

/** A header's JSON, member by member: of a large model's, no other form is ever in memory. */
function* writeHeader(
  tensors: readonly (readonly [string, FileTensor])[],
  metadata: Metadata,
): Iterable<string | Uint8Array> {
  yield '{"__metadata__":{';
  let separator = '';
  for (const [key, value] of metadata) {
    yield `${separator}${toJson(key)}:`;
    if (typeof value === 'string') yield toJson(value);
    else yield* value;
    separator = ',';
  }
  yield '}';
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of tensors) {
    const begin = end;
    end += bytes.byteLength;
    yield `,${toJson(name)}:${toJson({ dtype, shape, data_offsets: [begin, end] })}`;
  }
  yield '}';
}

/** Text as the content of a JSON string; no piece may end within a character. */
function* quotePieces(pieces: Iterable<string>): Iterable<string> {
  yield '"';
  for (const piece of pieces) yield JSON.stringify(piece).slice(1, -1);
  yield '"';
}

/** Pieces of text are joined to so many characters before they are encoded. */
const ENCODED_LENGTH = 64 * 1024;

/** Encodes text as UTF-8; what is encoded already stays as it is. */
function encodePieces(pieces: Iterable<string | Uint8Array>): readonly Uint8Array[] {
  const encoded: Uint8Array[] = [];
  let text = '';
  const encode = () => {
    if (text !== '') encoded.push(Buffer.from(text));
    text = '';
  };
  for (const piece of pieces) {
    if (typeof piece === 'string') text += piece;
    if (typeof piece !== 'string' || text.length >= ENCODED_LENGTH) encode();
    if (typeof piece !== 'string') encoded.push(piece);
  }
  encode();
  return encoded;
}
