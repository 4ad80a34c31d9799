// Makes a baseline from a checkpoint: what a later audit needs of it, a hundredth of its size.

import {
  type ChannelLayout,
  type ChannelProjections,
  fitsShape,
  layOutChannels,
  PROJECTION_COUNT,
} from '../../checkpoint/channel-grid.js';
import type { Checkpoint, ConstantInput, LinearNode, NormNode, Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType, isDecodable } from '../../checkpoint/dtype.js';
import { TensorSummarizer, type TensorSummary } from '../../checkpoint/fingerprint.js';
import { fail, failUnreachable } from '../../errors.js';
import { type OnProgress, RangeMap, readRange, refuseAmplified } from '../../io/byte-source.js';
import { findLayersAndLearned, mayHoldLayers } from '../../norm/find-layers.js';
import { refuseWithoutLayers } from '../../norm/missing-layers.js';
import {
  findFeedingLinear,
  findFreeLinears,
  type LinearLayer,
  listPossibleLinears,
  type NormLayer,
  nameInFile,
  storedTensorOf,
} from '../../norm/norm-layer.js';
import { checkOptions } from '../../options.js';
import { MAX_HEADER_BYTES } from '../safetensors/safetensors.js';
import {
  FORMAT_VERSION,
  METADATA_KEYS,
  nameSample,
  nameTable,
  TABLE_COLUMNS,
  USUAL_SOURCE,
} from './open-baseline.js';

/** Beyond so many, names of one kind are told apart by a number: names that grow one by one come to much text. */
const MAX_UNDERSCORES = 8;

/** Names in a file, each of which stands for one thing. */
export class FreeNames {
  readonly #taken: Set<string>;
  /** How often each usual name was asked for: from there on one is free. */
  readonly #copies = new Map<string, number>();

  constructor(taken: Iterable<string> = []) {
    this.#taken = new Set(taken);
  }

  add(name: string): void {
    this.#taken.add(name);
  }

  /** Takes the usual name, or one that begins like it. */
  take(usual: string): string {
    let copy = this.#copies.get(usual) ?? 0;
    const nameCopy = () => usual + (copy <= MAX_UNDERSCORES ? '_'.repeat(copy) : `_${copy}`);
    while (this.#taken.has(nameCopy())) copy++;
    const name = nameCopy();
    this.#copies.set(usual, copy + 1);
    this.#taken.add(name);
    return name;
  }
}

/**
 * Writes a value as JSON that {@link parseObject} reads again: Maps become objects in their own order, numbers that
 * JSON cannot hold become strings, undefined members are left out.
 */
function toJson(value: unknown): string {
  if (value instanceof Map) return [...writeMembers(value)].join('');
  if (Array.isArray(value)) return `[${value.map(toJson).join(',')}]`;
  if (typeof value === 'object' && value !== null) return [...writeMembers(Object.entries(value))].join('');
  if (typeof value === 'number' && !Number.isFinite(value)) return JSON.stringify(String(value));
  return JSON.stringify(typeof value === 'string' ? value.toWellFormed() : value);
}

/** An object of these members in pieces, as {@link toJson} writes it: of many, one at a time need be in memory. */
function* writeMembers(members: Iterable<readonly [string, unknown]>): Iterable<string> {
  let opening = '{';
  for (const [key, value] of members) {
    if (value === undefined) continue;
    yield `${opening}${JSON.stringify(key.toWellFormed())}:${toJson(value)}`;
    opening = ',';
  }
  yield opening === '{' ? '{}' : '}';
}

/** How a graph's constants are written and found again: as names of entries. */
interface ConstantNames {
  /** The name of a tensor's entry among the checkpoint's own; null for a constant that only the graph has. */
  readonly nameTensor: (tensor: Tensor) => string | null;
  /** Makes an entry for a constant that only the graph has, and names it. */
  readonly addConstant: (tensor: Tensor) => string;
}

const NORM_INPUTS = ['gamma', 'beta', 'mean', 'variance'] as const;

// A graph's nodes as JSON, constants aside. What is as usual is left out.

function normToJson(norm: NormNode, names: ConstantNames): unknown {
  const inputs = NORM_INPUTS.map((role) => norm[role]);
  const areNamedAlike = inputs.every(
    (input, role) =>
      input.kind === 'constant' && names.nameTensor(input.tensor) === (norm.inputNames[role] ?? ''),
  );
  return {
    node: norm.nodeName,
    path: norm.path ?? undefined,
    scope: unlessEmpty(norm.scope),
    inputs: inputs.map((input) => inputToJson(input, names)),
    inputNames: areNamedAlike ? undefined : norm.inputNames,
    epsilon: norm.epsilon,
    momentum: norm.momentum,
    mode: norm.mode === 'running' ? undefined : norm.mode,
    opset: norm.opset,
    neighbours: unlessEmpty(norm.neighbours),
    linear: norm.feedingLinear ?? undefined,
    notes: unlessEmpty(norm.notes),
  };
}

function linearToJson(linear: LinearNode, names: ConstantNames): unknown {
  const { weight, bias, weightName, biasName } = linear;
  const nameOf = (input: ConstantInput) =>
    input.kind === 'constant' ? names.nameTensor(input.tensor) : null;
  return {
    op: linear.op,
    node: linear.nodeName,
    path: linear.path ?? undefined,
    foldedNorm: linear.foldedNormPath ?? undefined,
    looksFolded: linear.looksFolded || undefined,
    scope: unlessEmpty(linear.scope),
    weight: inputToJson(weight, names),
    weightName: nameOf(weight) === weightName ? undefined : weightName,
    bias: bias.kind === 'absent' ? undefined : inputToJson(bias, names),
    biasName: (nameOf(bias) ?? '') === biasName ? undefined : biasName,
    axis: linear.outputAxis || undefined,
    groups: linear.groups === 1 ? undefined : linear.groups,
    channels: linear.outputChannels,
    feedsNorm: linear.feedsNorm || undefined,
    dataFactor: linear.dataFactor?.value,
    gated: linear.dataFactor?.isGated || undefined,
  };
}

function inputToJson(input: ConstantInput, names: ConstantNames): unknown {
  switch (input.kind) {
    case 'absent':
      return {};
    case 'unresolved':
      return { unresolved: input.reason };
    case 'constant': {
      const tensor = names.nameTensor(input.tensor) ?? undefined;
      return {
        tensor,
        constant: tensor === undefined ? names.addConstant(input.tensor) : undefined,
        source: input.source === USUAL_SOURCE ? undefined : input.source,
        overridable: input.overridable || undefined,
      };
    }
    default:
      return failUnreachable(input);
  }
}

function unlessEmpty<Item>(list: readonly Item[]): readonly Item[] | undefined {
  return list.length === 0 ? undefined : list;
}

interface KeptRange {
  /** Under which name the file holds the values themselves; absent where it does not. */
  readonly values?: { readonly name: string; readonly bytes: Uint8Array } | undefined;
  /** Absent for what no audit compares. */
  readonly summary?: TensorSummary | undefined;
  /** The layout of the summary's projections. */
  readonly layout?: ChannelLayout | undefined;
}

/** What a range is read as: views of one storage may differ in type and shape, and so does what is kept of them. */
function readingOf({ dtype, shape }: Pick<Tensor, 'dtype' | 'shape'>): string {
  return `${dtype}[${shape.join()}]`;
}

interface FileTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/**
 * Puts a baseline in the form of a safetensors file. The bytes depend on the contents alone.
 *
 * @param kept of each tensor, by its range and {@link readingOf} it.
 * @param modules whose facts an audit asks for, by path.
 * @throws CheckpointError `limit-exceeded` when it has more tensors than a safetensors header can name.
 */
function encodeBaseline(
  checkpoint: Checkpoint,
  kept: RangeMap<KeptRange>,
  modules: ReadonlySet<string>,
): Uint8Array {
  const writer = new TensorWriter(kept);
  const tensors = encodePieces(quotePieces(writeMembers(writer.describeAll(checkpoint.tensors))));
  const constants = new Map<string, unknown>();
  const names: ConstantNames = {
    nameTensor: (tensor) => (isEntryOf(tensor, checkpoint) ? tensor.name : null),
    addConstant: (tensor) => {
      const name = String(constants.size);
      constants.set(name, { name: tensor.name, ...writer.describe(tensor) });
      return name;
    },
  };
  const graph = checkpoint.graph && {
    producer: checkpoint.graph.producer,
    norms: checkpoint.graph.norms.map((norm) => normToJson(norm, names)),
    linears: checkpoint.graph.linears.map((linear) => linearToJson(linear, names)),
  };
  const facts = new Map<string, unknown>();
  for (const [path, known] of checkpoint.modules)
    if (modules.has(path))
      facts.set(path, Object.fromEntries(Object.entries(known).filter(([, value]) => value !== null)));
  const metadata = new Map<string, string | readonly Uint8Array[]>([
    [METADATA_KEYS.version, FORMAT_VERSION],
    // A path's last component, on any operating system: directories say who made the baseline, and where.
    [METADATA_KEYS.source, checkpoint.path.split(/[/\\]/).findLast((component) => component !== '') ?? ''],
    [METADATA_KEYS.format, checkpoint.format],
    [METADATA_KEYS.order, checkpoint.inModuleOrder ? 'module' : 'name'],
    [METADATA_KEYS.tensors, tensors],
  ]);
  if (facts.size > 0) metadata.set(METADATA_KEYS.modules, toJson(facts));
  const ownConstants = constants.size === 0 ? undefined : constants;
  if (graph !== null) metadata.set(METADATA_KEYS.graph, toJson({ ...graph, constants: ownConstants }));
  if (checkpoint.warnings.length > 0)
    metadata.set(METADATA_KEYS.warnings, toJson({ warnings: checkpoint.warnings }));
  return encodeSafetensors(writer.fileTensors, metadata, checkpoint.path);
}

/** Whether a constant of the graph is the checkpoint's tensor of its name, rather than a view or another scope's. */
function isEntryOf(tensor: Tensor, { tensors }: Checkpoint): boolean {
  const entry = tensors.get(tensor.name);
  return (
    entry?.range.source === tensor.range.source &&
    entry.range.offset === tensor.range.offset &&
    readingOf(entry) === readingOf(tensor)
  );
}

/** Describes tensors for the metadata, and collects what the file itself must hold for them. */
class TensorWriter {
  readonly fileTensors = new Map<string, FileTensor>();
  readonly #kept: RangeMap<KeptRange>;
  /** Names of tables and samples by what is in them. */
  readonly #shared = new Map<object, string>();
  /** Those of {@link fileTensors}. */
  readonly #names = new FreeNames();

  constructor(kept: RangeMap<KeptRange>) {
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
      sample: (!values && summary?.sample && this.#keepSample(summary.sample, tensor)) || undefined,
      values: values && this.#keepValues(values, tensor),
      projections:
        (layout && summary?.projections && this.#keepProjections(name, summary.projections, layout)) ||
        undefined,
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
  #keepSample(bytes: Uint8Array, { name, dtype }: Tensor): unknown {
    const usual = nameSample(name);
    const kept = this.#keepOnce(bytes, usual, () => ({
      dtype,
      shape: [(bytes.byteLength * 8) / bitsOf(dtype)],
      bytes,
    }));
    return kept === usual || kept;
  }

  /** The name of what one summary tells, however many tensors it is told of. */
  #keepOnce(content: object, usual: string, make: () => FileTensor): string {
    const known = this.#shared.get(content);
    if (known !== undefined) return known;
    const name = this.#names.take(usual);
    this.#shared.set(content, name);
    this.fileTensors.set(name, make());
    return name;
  }

  #keepProjections(name: string, projections: ChannelProjections, layout: ChannelLayout): unknown {
    const usual = nameTable(name);
    const table = this.#keepOnce(projections, usual, () => tabulate(projections));
    return {
      weights: projections.weightsPerChannel,
      table: table === usual ? undefined : table,
      axis: layout.outputAxis || undefined,
      groups: layout.groups === 1 ? undefined : layout.groups,
    };
  }
}

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
    ([x, { dtype: one }], [y, { dtype: other }]) => bitsOf(other) - bitsOf(one) || compareNames(x, y),
  );
  const header = encodePieces(writeHeader(sorted, metadata));
  const headerLength = Math.ceil(sumLengths(header) / 8) * 8;
  if (headerLength > MAX_HEADER_BYTES) {
    const expected = `expected tensors whose names and hashes fit a header of ${MAX_HEADER_BYTES} bytes`;
    const found = `found ${headerLength} bytes of them`;
    fail(file, `${expected}, ${found}`, 'limit-exceeded');
  }
  const padding = Buffer.alloc(headerLength - sumLengths(header), ' ');
  const pieces = [...header, padding, ...sorted.map(([, tensor]) => tensor.bytes)];
  const bytes = new Uint8Array(8 + sumLengths(pieces));
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerLength), true);
  let position = 8;
  for (const piece of pieces) {
    bytes.set(piece, position);
    position += piece.byteLength;
  }
  return bytes;
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

/** What making a baseline is told beside the checkpoint. */
export interface BaselineOptions {
  readonly onProgress?: OnProgress | undefined;
}

/** A baseline's file, and what is in it. */
export interface Baseline {
  /** A safetensors file, as docs/baseline.md specifies it. */
  readonly bytes: Uint8Array;
  /** Norm layers whose statistics it holds. */
  readonly layers: number;
  /** Learned tensors whose hashes it holds. */
  readonly learned: number;
  /** Weights whose output channels it holds projections of. */
  readonly projected: number;
}

/** Values of more elements are no vector of a layer's channels, and not kept. */
const MAX_KEPT_ELEMENTS = 1 << 24;

const NOTHING_TO_KEEP = 'no BatchNorm layer: nothing to keep in a baseline';

/**
 * Makes a baseline: what an audit needs of a checkpoint, in a small safetensors file that takes its place. The
 * checkpoint is read once, from front to back, in flat memory.
 *
 * The same checkpoint under the same name gives the same bytes; where its format has no order of tensors, the order
 * in the file makes no difference.
 *
 * @throws CheckpointError `no-norm-layers` where there is nothing to audit, `refused` for a baseline, `unsupported` for
 *   quantised weights, and where a tensor cannot be read.
 * @throws UsageError when an option is not what it must be.
 */
export async function createBaseline(source: Checkpoint, options: BaselineOptions = {}): Promise<Baseline> {
  checkOptions('createBaseline', options);
  if (source.format === 'baseline')
    fail(source.path, 'expected a checkpoint with its weights, found a baseline already', 'refused', {
      hint: 'Copy the file, or name the checkpoint that it was made from.',
    });
  const checkpoint = source.inModuleOrder ? source : sortTensors(source);
  if (!mayHoldLayers(checkpoint)) refuseWithoutLayers(checkpoint, NOTHING_TO_KEEP);
  const { layers, learned } = findLayersAndLearned(checkpoint);
  refuseQuantised(learned, checkpoint.path);
  const linears = listLinears(checkpoint, layers, learned);
  if (layers.length === 0 && linears.length === 0) refuseWithoutLayers(checkpoint, NOTHING_TO_KEEP);
  // Layers whose tensors are all empty; a graph may just not tell how many channels a layer has.
  const areEmpty = layers.every(({ channels, isFromGraph }) => channels === 0 && !isFromGraph);
  if (layers.length > 0 && areEmpty)
    refuseWithoutLayers(checkpoint, 'none that has a channel: nothing to keep in a baseline');
  const values = listKeptValues(layers, linears);
  refuseAmplified(
    values.map(({ tensor }) => tensor.range),
    checkpoint.path,
  );
  const tasks = planSummaries([...learned.values()], linears, checkpoint.path);
  const kept = await summarize(tasks, options.onProgress);
  for (const { name, tensor } of values) {
    const reading = readingOf(tensor);
    const known = kept.get(tensor.range, reading);
    if (known?.values !== undefined) continue;
    kept.set(
      tensor.range,
      { ...known, values: { name, bytes: Buffer.from(await readRange(tensor.range)) } },
      reading,
    );
  }
  const bytes = encodeBaseline(checkpoint, kept, new Set(layers.map(nameInFile)));
  const projected = kept.inFileOrder().filter(({ summary }) => summary?.projections != null);
  return { bytes, layers: layers.length, learned: learned.size, projected: projected.length };
}

/** Quantised weights are compared code by code: neither a hash nor sums tell a step of quantisation from training. */
function refuseQuantised(learned: ReadonlyMap<string, Tensor>, file: string): void {
  const quantised = [...learned.values()].filter((tensor) => tensor.quantised !== undefined).length;
  if (quantised === 0) return;
  fail(
    file,
    `expected learned tensors that are floats, found ${quantised} of ${learned.size} quantised: a baseline keeps hashes and sums, which do not tell a step of quantisation from training`,
    'unsupported',
    {
      hint: 'Keep the file itself for the audit, or make the baseline of the float model that was quantised.',
    },
  );
}

/** A format that has no order of tensors must not lend its writer's order to the baseline. */
function sortTensors(checkpoint: Checkpoint): Checkpoint {
  const tensors = [...checkpoint.tensors].sort(([x], [y]) => compareNames(x, y));
  return { ...checkpoint, tensors: new Map(tensors) };
}

function compareNames(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0;
}

/** Every linear layer that an audit may look at: those that feed norm layers, and those that may have swallowed one. */
function listLinears(
  checkpoint: Checkpoint,
  layers: readonly NormLayer[],
  learned: ReadonlyMap<string, Tensor>,
): readonly LinearLayer[] {
  const feeding = layers.flatMap((layer) => findFeedingLinear(layer, checkpoint, learned) ?? []);
  const claimed = new Set(feeding.map(({ weightName }) => weightName));
  const possible = listPossibleLinears(layers, learned).filter(({ weightName }) => !claimed.has(weightName));
  const linears = [...feeding, ...possible, ...findFreeLinears(checkpoint)];
  // One layout is kept of each weight. Where names alone told who feeds whom, two layers may claim a weight by
  // different axes; nearly all weights count their outputs first.
  return linears.sort((x, y) => x.outputAxis - y.outputAxis);
}

/** The tensors whose values an audit reads, and PyTorch's names for them: statistics, affine, count, biases. */
function listKeptValues(
  layers: readonly NormLayer[],
  linears: readonly LinearLayer[],
): readonly { readonly name: string; readonly tensor: Tensor }[] {
  const parts = layers.flatMap(({ name, mean, variance, gamma, beta, batchCount }) => {
    const at = (leaf: string) => (name === '' ? leaf : `${name}.${leaf}`);
    return [
      [at('running_mean'), storedTensorOf(mean)],
      [at('running_var'), storedTensorOf(variance)],
      [at('weight'), storedTensorOf(gamma)],
      [at('bias'), storedTensorOf(beta)],
      [at('num_batches_tracked'), storedTensorOf(batchCount)],
    ] as const;
  });
  const names = new FreeNames(parts.map(([name]) => name));
  const biases = linears.map(({ path, nodeName, bias }) => {
    const module = path ?? nodeName;
    const usual = module === '' ? 'bias' : `${module}.bias`;
    if (bias === null) names.add(usual);
    return [bias === null ? usual : names.take(usual), bias] as const;
  });
  return [...parts, ...biases].flatMap(([name, tensor]) =>
    tensor !== null && tensor.elementCount <= MAX_KEPT_ELEMENTS ? [{ name, tensor }] : [],
  );
}

interface Task {
  readonly tensor: Tensor;
  readonly layout: ChannelLayout | undefined;
}

/**
 * The learned tensors, to be hashed, and the weights of linear layers, to be projected, in the order of their files.
 *
 * @throws CheckpointError `limit-exceeded` where that would be far more than the file stores.
 */
function planSummaries(
  learned: readonly Tensor[],
  linears: readonly LinearLayer[],
  file: string,
): readonly Task[] {
  const tasks = new RangeMap<Task>();
  for (const { weight, outputAxis, groups } of linears) {
    const layout = { outputAxis, groups };
    if (
      isDecodable(weight.dtype) &&
      fitsShape(weight.shape, layout) &&
      !tasks.has(weight.range, readingOf(weight))
    )
      tasks.set(weight.range, { tensor: weight, layout }, readingOf(weight));
  }
  for (const tensor of learned) {
    if (!tasks.has(tensor.range, readingOf(tensor)))
      tasks.set(tensor.range, { tensor, layout: undefined }, readingOf(tensor));
  }
  const ordered = tasks.inFileOrder();
  const ranges = ordered.map(({ tensor }) => tensor.range);
  refuseAmplified(ranges, file);
  const tables = ordered.map(({ tensor, layout }) =>
    layout === undefined ? 0 : 4 * TABLE_COLUMNS * layOutChannels(tensor.shape, layout).channels,
  );
  refuseAmplified(ranges, file, sum(tables));
  return ordered;
}

async function summarize(
  tasks: readonly Task[],
  onProgress: OnProgress | undefined,
): Promise<RangeMap<KeptRange>> {
  const total = sum(tasks.map(({ tensor }) => tensor.range.byteLength));
  const summarizer = new TensorSummarizer();
  const kept = new RangeMap<KeptRange>();
  let done = 0;
  for (const { tensor, layout } of tasks) {
    const summary = await summarizer.summarize(tensor, layout ?? null);
    kept.set(tensor.range, { summary, layout }, readingOf(tensor));
    done += tensor.range.byteLength;
    onProgress?.({ done, total });
  }
  return kept;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
