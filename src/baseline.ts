import { checkOptions } from './check-options.js';
import { encodeBaseline, type KeptRange, readingOf } from './checkpoint/baseline/encode-baseline.js';
import { FreeNames, TABLE_COLUMNS } from './checkpoint/baseline/format.js';
import { type ChannelLayout, fitsShape, layOutChannels } from './checkpoint/channel-grid.js';
import type { Checkpoint, Tensor } from './checkpoint/checkpoint.js';
import { isDecodable } from './checkpoint/dtype.js';
import { TensorSummarizer } from './checkpoint/fingerprint.js';
import type { OnProgress } from './compare/compare-learned.js';
import { CheckpointError } from './errors.js';
import { refuseAmplified } from './io/amplification.js';
import { readRange } from './io/byte-source.js';
import { closeWindows } from './io/file-window.js';
import { RangeMap } from './io/range-map.js';
import { findLayersAndLearned, mayHoldLayers } from './norm/find-layers.js';
import {
  findFeedingLinear,
  findFreeLinears,
  type LinearLayer,
  listPossibleLinears,
} from './norm/linear-layers.js';
import { type NormLayer, nameInFile, storedTensorOf } from './norm/norm-layer.js';

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

/**
 * Makes a baseline: what an audit needs of a checkpoint, in a small safetensors file that takes its place. The
 * checkpoint is read once, from front to back, in flat memory.
 *
 * The same checkpoint under the same name gives the same bytes; where its format has no order of tensors, the order
 * in the file makes no difference.
 *
 * @throws CheckpointError `no-norm-layers` where there is nothing to audit, `refused` for a baseline, and where a
 *   tensor cannot be read.
 * @throws UsageError when an option is not what it must be.
 */
export async function createBaseline(source: Checkpoint, options: BaselineOptions = {}): Promise<Baseline> {
  checkOptions('createBaseline', options);
  refuseBaseline(source);
  closeWindows();
  const checkpoint = source.inModuleOrder ? source : sortTensors(source);
  if (!mayHoldLayers(checkpoint)) refuseWithoutLayers(checkpoint, 'no BatchNorm layer');
  const { layers, learned } = findLayersAndLearned(checkpoint);
  const linears = listLinears(checkpoint, layers, learned);
  if (layers.length === 0 && linears.length === 0) refuseWithoutLayers(checkpoint, 'no BatchNorm layer');
  if (layers.length > 0 && layers.every(isEmpty)) refuseWithoutLayers(checkpoint, 'none that has a channel');
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
  const bytes = encodeBaseline({
    sourceName: nameOf(source.path),
    checkpoint,
    kept,
    modules: new Set(layers.map(nameInFile)),
  });
  const projected = kept.inFileOrder().filter(({ summary }) => summary?.projections != null);
  return { bytes, layers: layers.length, learned: learned.size, projected: projected.length };
}

function refuseBaseline({ format, path }: Checkpoint): void {
  if (format !== 'baseline') return;
  throw new CheckpointError('expected a checkpoint with its weights, found a baseline already', {
    code: 'refused',
    file: path,
    hint: 'Copy the file, or name the checkpoint that it was made from.',
  });
}

/** Whether a layer's tensors are all empty; a graph may just not tell how many channels a layer has. */
function isEmpty({ channels, isFromGraph }: NormLayer): boolean {
  return channels === 0 && !isFromGraph;
}

function refuseWithoutLayers({ path }: Checkpoint, found: string): never {
  throw new CheckpointError(
    `expected norm layers with running statistics, found ${found}: nothing to keep in a baseline`,
    { code: 'no-norm-layers', file: path },
  );
}

/** A format that has no order of tensors must not lend its writer's order to the baseline. */
function sortTensors(checkpoint: Checkpoint): Checkpoint {
  const tensors = [...checkpoint.tensors].sort(([x], [y]) => (x < y ? -1 : x > y ? 1 : 0));
  return { ...checkpoint, tensors: new Map(tensors) };
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
      [at('weight'), gamma],
      [at('bias'), beta],
      [at('num_batches_tracked'), batchCount?.elementCount === 1 ? batchCount : null],
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

/** A tensor to be hashed, and projected where it has a layout. */
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

/** Reads what is to be kept of each tensor. */
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

/** A path's last component, on any operating system: directories say who made the baseline, and where. */
function nameOf(path: string): string {
  return path.split(/[/\\]/).findLast((component) => component !== '') ?? '';
}
