import type { Tensor } from '../checkpoint/checkpoint.js';
import type { NormMode } from '../checkpoint/graph.js';
import { CheckpointError } from '../errors.js';
import type { LinearLayer } from './linear-layers.js';

/** A running mean or variance: a tensor that can be read, or why there is none. */
export type Statistic =
  | {
      readonly kind: 'stored';
      readonly tensor: Tensor;
      readonly source: string;
      /** The tensor in full, where it repeats the values of `tensor`, its beginning. */
      readonly whole?: Tensor | undefined;
    }
  | { readonly kind: 'unresolved'; readonly reason: string };

/** A layer that carries running statistics, as one checkpoint shows it. */
export interface NormLayer {
  /**
   * The module path without wrappers, such as `backbone.layer1.0.bn1`; a node's name where {@link isNamed} is false.
   */
  readonly name: string;
  /** The module path with the wrappers that the file has in it, `module.backbone.layer1.0.bn1`; absent without any. */
  readonly wrappedName?: string | undefined;
  /** Whether {@link name} is a module path; graphs may have lost it. */
  readonly isNamed: boolean;
  /** The class or operator: `BatchNorm2d`, `BatchNormalization`, `BatchNorm` where only names tell. */
  readonly kind: string;
  readonly channels: number;
  /** Shape `[channels]`. */
  readonly mean: Statistic;
  /** Shape `[channels]`. */
  readonly variance: Statistic;
  /** Learned scale γ, shape `[channels]`; null without affine. */
  readonly gamma: Tensor | null;
  /** Learned shift β, shape `[channels]`; null without affine. */
  readonly beta: Tensor | null;
  /** `num_batches_tracked`; null where the format or the layer has none. */
  readonly batchCount: Tensor | null;
  /** From the graph or the module; null where the file does not tell. */
  readonly epsilon: number | null;
  /** Epsilon to assume where the file does not tell: 1e-5, or 1e-3 for layers with Keras names. */
  readonly defaultEpsilon: number;
  readonly momentum: number | 'cumulative' | null;
  readonly mode: NormMode;
  /** The name of the graph's node; null where names alone told of the layer. */
  readonly nodeName: string | null;
  /** Whether a computation graph told of the layer; else the names of its tensors did. */
  readonly isFromGraph: boolean;
  /** Names of the learned tensors that feed the layer. */
  readonly neighbours: readonly string[];
  /**
   * Whether the {@link neighbours} feed the layer. False where names leave it open: some of them do, and only what is
   * true of all their modules is known of the feed. Absent where a graph tells.
   */
  readonly areNeighboursCertain?: boolean;
  /** The convolution that the layer was folded into; absent where it stands in the file itself. */
  readonly foldedInto?: LinearLayer | undefined;
  /** The linear node that feeds the layer directly, as an index into the graph's; null without a graph. */
  readonly feedingLinear: number | null;
  readonly notes: readonly string[];
}

/** A layer's module path as its file spells it, wrappers included. */
export function nameInFile({ name, wrappedName }: Pick<NormLayer, 'name' | 'wrappedName'>): string {
  return wrappedName ?? name;
}

/** The tensor of a statistic; null where there is none that can be read. */
export function storedTensorOf(statistic: Statistic): Tensor | null {
  return statistic.kind === 'stored' ? statistic.tensor : null;
}

/** The norm layers of a checkpoint, and its learned tensors by dotted name. */
export interface LayersAndLearned {
  readonly layers: readonly NormLayer[];
  readonly learned: ReadonlyMap<string, Tensor>;
}

/** Ten times as many as the deepest networks in use have; each is compared, reported and kept in memory. */
const MAX_LAYERS = 10_000;

/**
 * Refuses more norm layers than can be dealt with, to be asked once they are counted, before any work goes into them.
 *
 * @throws CheckpointError `limit-exceeded`
 */
export function refuseTooManyLayers(count: number, file: string): void {
  if (count <= MAX_LAYERS) return;
  throw new CheckpointError(`expected at most ${MAX_LAYERS} norm layers, found ${count}`, {
    code: 'limit-exceeded',
    file,
  });
}

/** Whether a layer's graph node normalises by batch statistics. A pickled module in training mode is no such graph. */
export function isBatchGraph({ isFromGraph, mode }: NormLayer): boolean {
  return isFromGraph && mode === 'batch';
}
