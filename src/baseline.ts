import { encodeBaseline, type KeptRange } from './checkpoint/baseline/encode-baseline.js';
import { type ChannelLayout, fitsShape } from './checkpoint/channel-grid.js';
import type { Checkpoint, Tensor } from './checkpoint/checkpoint.js';
import { isDecodable } from './checkpoint/dtype.js';
import { TensorSummarizer } from './checkpoint/fingerprint.js';
import type { OnProgress } from './compare/compare-learned.js';
import { CheckpointError } from './errors.js';
import { type ByteRange, readRange } from './io/byte-source.js';
import { findNormLayers } from './norm/find-layers.js';
import { findLearnedTensors } from './norm/learned-tensors.js';
import { findFeedingLinear, findFreeLinears, type LinearLayer } from './norm/linear-layers.js';
import type { NormLayer } from './norm/norm-layer.js';

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
 */
export async function createBaseline(source: Checkpoint, options: BaselineOptions = {}): Promise<Baseline> {
  refuseBaseline(source);
  const checkpoint = source.inModuleOrder ? source : sortTensors(source);
  const layers = findNormLayers(checkpoint);
  const learned = findLearnedTensors(checkpoint, layers);
  const linears = listLinears(checkpoint, layers, learned);
  if (layers.length === 0 && linears.length === 0) refuseWithoutLayers(checkpoint);
  const kept = new Map<ByteRange, KeptRange>();
  for (const { name, tensor } of listKeptValues(layers, linears)) {
    if (!kept.has(tensor.range))
      kept.set(tensor.range, { values: { name, bytes: await readRange(tensor.range) } });
  }
  const layouts = findLayouts(linears);
  const summarized = await summarize([...learned.values()], layouts, options.onProgress);
  for (const [range, summary] of summarized) kept.set(range, { ...kept.get(range), ...summary });
  const bytes = encodeBaseline({
    sourceName: nameOf(source.path),
    checkpoint,
    kept,
    modules: new Set(layers.map(({ name }) => name)),
  });
  const projected = [...summarized.values()].filter(({ summary }) => summary?.projections != null);
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

function refuseWithoutLayers({ path }: Checkpoint): never {
  throw new CheckpointError(
    'expected norm layers with running statistics, found no BatchNorm layer: nothing to keep in a baseline',
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
  return [...feeding, ...findFreeLinears(checkpoint)];
}

/** The tensors whose values an audit reads, and PyTorch's names for them: statistics, affine, count, biases. */
function listKeptValues(
  layers: readonly NormLayer[],
  linears: readonly LinearLayer[],
): readonly { readonly name: string; readonly tensor: Tensor }[] {
  const parts = layers.flatMap(({ name, mean, variance, gamma, beta, batchCount }) => {
    const at = (leaf: string) => (name === '' ? leaf : `${name}.${leaf}`);
    return [
      [at('running_mean'), mean.kind === 'stored' ? mean.tensor : null],
      [at('running_var'), variance.kind === 'stored' ? variance.tensor : null],
      [at('weight'), gamma],
      [at('bias'), beta],
      [at('num_batches_tracked'), batchCount?.elementCount === 1 ? batchCount : null],
    ] as const;
  });
  const names = new Set(parts.map(([name]) => name));
  const biases = linears.map(({ path, nodeName, bias }) => {
    const module = path ?? nodeName;
    let name = module === '' ? 'bias' : `${module}.bias`;
    while (bias !== null && names.has(name)) name += '_';
    names.add(name);
    return [name, bias] as const;
  });
  return [...parts, ...biases].flatMap(([name, tensor]) =>
    tensor !== null && tensor.elementCount <= MAX_KEPT_ELEMENTS ? [{ name, tensor }] : [],
  );
}

interface Projected {
  readonly weight: Tensor;
  readonly layout: ChannelLayout;
}

function findLayouts(linears: readonly LinearLayer[]): ReadonlyMap<ByteRange, Projected> {
  const layouts = new Map<ByteRange, Projected>();
  for (const { weight, outputAxis, groups } of linears) {
    const layout = { outputAxis, groups };
    if (isDecodable(weight.dtype) && fitsShape(weight.shape, layout) && !layouts.has(weight.range))
      layouts.set(weight.range, { weight, layout });
  }
  return layouts;
}

/** Hashes tensors, and projects those with a layout, in the order of their files. */
async function summarize(
  learned: readonly Tensor[],
  layouts: ReadonlyMap<ByteRange, Projected>,
  onProgress: OnProgress | undefined,
): Promise<ReadonlyMap<ByteRange, KeptRange>> {
  const weights = [...layouts.values()].map(({ weight }) => weight);
  const tensors = new Map([...learned, ...weights].map((tensor) => [tensor.range, tensor]));
  const total = [...tensors.keys()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  const summarizer = new TensorSummarizer();
  const summaries = new Map<ByteRange, KeptRange>();
  let done = 0;
  for (const [range, tensor] of inFileOrder(tensors)) {
    const layout = layouts.get(range)?.layout;
    summaries.set(range, { summary: await summarizer.summarize(tensor, layout ?? null), layout });
    done += range.byteLength;
    onProgress?.({ done, total });
  }
  return summaries;
}

function inFileOrder(tensors: ReadonlyMap<ByteRange, Tensor>): readonly (readonly [ByteRange, Tensor])[] {
  const files = new Map<unknown, number>();
  for (const { source } of tensors.keys()) if (!files.has(source)) files.set(source, files.size);
  const rank = ({ source }: ByteRange) => files.get(source) ?? 0;
  return [...tensors].sort(([x], [y]) => rank(x) - rank(y) || x.offset - y.offset);
}

/** A path's last component, on any operating system: directories say who made the baseline, and where. */
function nameOf(path: string): string {
  return path.split(/[/\\]/).findLast((component) => component !== '') ?? '';
}
