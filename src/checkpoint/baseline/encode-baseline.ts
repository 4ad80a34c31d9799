import { CheckpointError } from '../../errors.js';
import type { RangeMap } from '../../io/range-map.js';
import type { ChannelLayout } from '../channel-grid.js';
import type { Checkpoint, ModuleFacts, Tensor } from '../checkpoint.js';
import { bitsOf, type DType } from '../dtype.js';
import type { TensorSummary } from '../fingerprint.js';
import { type ChannelProjections, PROJECTION_COUNT } from '../projections.js';
import { MAX_HEADER_BYTES } from '../safetensors.js';
import { FORMAT_VERSION, METADATA_KEYS, nameSample, nameTable, TABLE_COLUMNS } from './format.js';
import { graphToJson } from './graph-json.js';
import { toJson } from './json-fields.js';

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
  const tensors = new Map([...checkpoint.tensors].map(([name, tensor]) => [name, writer.describe(tensor)]));
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
  const metadata: Record<string, string> = {
    [METADATA_KEYS.version]: FORMAT_VERSION,
    [METADATA_KEYS.source]: sourceName,
    [METADATA_KEYS.format]: checkpoint.format,
    [METADATA_KEYS.order]: checkpoint.inModuleOrder ? 'module' : 'name',
    [METADATA_KEYS.tensors]: toJson(tensors),
    ...(facts.size === 0 ? {} : { [METADATA_KEYS.modules]: toJson(facts) }),
    ...(graph === null
      ? {}
      : {
          [METADATA_KEYS.graph]: toJson({
            ...graph,
            constants: constants.size === 0 ? undefined : constants,
          }),
        }),
    ...(checkpoint.warnings.length === 0
      ? {}
      : { [METADATA_KEYS.warnings]: toJson({ warnings: checkpoint.warnings }) }),
  };
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

  constructor({ kept }: BaselineContents) {
    this.#kept = kept;
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
    if (!this.fileTensors.has(name)) this.fileTensors.set(name, { dtype, shape: tensor.shape, bytes });
    return name === tensor.name || name;
  }

  /** Keeps a sample; `true` stands for its usual name. */
  #keepSample(summary: TensorSummary, { name, dtype }: Tensor): unknown {
    const usual = nameSample(name);
    const kept = this.#samples.get(summary) ?? this.#freeName(usual);
    const bytes = summary.sample ?? new Uint8Array();
    if (!this.#samples.has(summary))
      this.fileTensors.set(kept, { dtype, shape: [(bytes.byteLength * 8) / bitsOf(dtype)], bytes });
    this.#samples.set(summary, kept);
    return kept === usual || kept;
  }

  #freeName(usual: string): string {
    let name = usual;
    while (this.fileTensors.has(name)) name += '_';
    return name;
  }

  #keepProjections(name: string, projections: ChannelProjections, layout: ChannelLayout): unknown {
    const usual = nameTable(name);
    const table = this.#tables.get(projections) ?? this.#freeName(usual);
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
  metadata: Record<string, string>,
  file: string,
): Uint8Array {
  const sorted = [...tensors].sort(
    ([x, { dtype: one }], [y, { dtype: other }]) =>
      bitsOf(other) - bitsOf(one) || (x < y ? -1 : x > y ? 1 : 0),
  );
  const header = new Map<string, unknown>([['__metadata__', metadata]]);
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of sorted) {
    header.set(name, { dtype, shape, data_offsets: [end, end + bytes.byteLength] });
    end += bytes.byteLength;
  }
  const json = new TextEncoder().encode(toJson(header));
  const headerLength = Math.ceil(json.byteLength / 8) * 8;
  if (headerLength > MAX_HEADER_BYTES) {
    throw new CheckpointError(
      `expected tensors whose names and hashes fit a header of ${MAX_HEADER_BYTES} bytes, found ${headerLength} bytes of them`,
      { code: 'limit-exceeded', file },
    );
  }
  const bytes = new Uint8Array(8 + headerLength + end);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerLength), true);
  bytes.fill(0x20, 8, 8 + headerLength);
  bytes.set(json, 8);
  let position = 8 + headerLength;
  for (const [, tensor] of sorted) {
    bytes.set(tensor.bytes, position);
    position += tensor.bytes.byteLength;
  }
  return bytes;
}
