import type { ByteRange } from '../io/byte-source.js';
import type { ChannelLayout } from './channel-grid.js';
import type { Declaration } from './declarations.js';
import { bitsOf, type DType } from './dtype.js';
import type { EditOptions, EditPlan, TensorEdit } from './edit-plan.js';
import type { Graph } from './graph.js';

/** The kinds of checkpoint that can be opened, as reports name them. */
export type CheckpointFormat = 'ONNX' | 'safetensors' | 'PyTorch' | 'TorchScript' | 'baseline';

/** What a model was trained with, as far as a file tells: what to do about drift differs. */
export type Framework =
  | 'pytorch'
  | 'lightning'
  | 'ultralytics'
  | 'mmengine'
  | 'transformers'
  | 'timm'
  | 'keras'
  | 'flax'
  | 'paddle'
  | 'mxnet'
  | 'caffe2';

/**
 * A tensor of a checkpoint: a name, a type, a shape and where its bytes are. Nothing is read until asked for.
 *
 * Whoever holds a Tensor may rely on it: the reader that made it has checked that the shape's product, the type's
 * size and the range's length agree, and that the range lies within its source. Data is little-endian and row-major;
 * where the file stores it otherwise (strided, big-endian, compressed, varints), the range's source converts.
 */
export interface Tensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly elementCount: number;
  readonly range: ByteRange;
  /**
   * What stands for the values where a baseline has left them out: reading {@link range} is an error then. Absent
   * where the values can be read.
   */
  readonly fingerprint?: Fingerprint | undefined;
  /** Whether training could change it; only formats that store `requires_grad` know. */
  readonly requiresGrad?: boolean | undefined;
  /** Whether the file itself calls it a buffer; only pickled modules tell. */
  readonly isBuffer?: boolean | undefined;
}

/** Whether two tensors have the same sizes in the same order. */
export function haveSameShape({ shape: one }: Tensor, { shape: other }: Tensor): boolean {
  return one.length === other.length && one.every((size, axis) => size === other[axis]);
}

/** Elements that stand side by side: the index of the first, and how many. */
export interface ElementSpan {
  readonly start: number;
  readonly count: number;
}

/**
 * Reads some of a tensor's elements into the start of a buffer that is reused; types of less than a byte count in
 * bytes.
 *
 * @returns the part of the buffer that holds them.
 * @throws CheckpointError when the range cannot be read.
 */
export async function readElements(
  { dtype, range }: Tensor,
  buffer: Uint8Array,
  { start, count }: ElementSpan,
): Promise<Uint8Array> {
  const elementBytes = Math.max(bitsOf(dtype), 8) / 8;
  const target = buffer.subarray(0, count * elementBytes);
  await range.source.readInto(target, range.offset + start * elementBytes);
  return target;
}

/** What a baseline keeps of a tensor's values. */
export interface Fingerprint {
  /** SHA-256 of the bytes, −0 read as 0; lower-case hexadecimal. */
  readonly sha256: string;
  /** Projections of a weight's output channels; null where the baseline has none. */
  readonly projections: StoredProjections | null;
  /** The elements at `sampledIndices`, in the tensor's type; null where the baseline has none. */
  readonly sample: ByteRange | null;
}

/** Projections of a weight as a baseline holds them. */
export interface StoredProjections {
  readonly layout: ChannelLayout;
  /** For each channel its norm and its projections, float32. */
  readonly table: ByteRange;
  /** The fewest weights other than zero of any channel that has some, up to 256. */
  readonly weightsPerChannel: number;
}

/** What a checkpoint with module objects or versions tells of one module beyond its tensors. */
export interface ModuleFacts {
  /** The class's name without its Python module, such as `BatchNorm2d`; null when only a version is known. */
  readonly className: string | null;
  readonly epsilon: number | null;
  /** PyTorch's momentum; `'cumulative'` for `momentum=None`. */
  readonly momentum: number | 'cumulative' | null;
  readonly trackRunningStats: boolean | null;
  /** The mode that the module was saved in. */
  readonly training: boolean | null;
  /** The `version` of the module in a state dict's `_metadata`; 2 for BatchNorm that counts its batches. */
  readonly version: number | null;
}

/** An opened checkpoint. Opening has read the headers only; {@link close} releases the files. */
export interface Checkpoint {
  /** As the user named it. */
  readonly path: string;
  readonly format: CheckpointFormat;
  /** Every named tensor, in file order. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Whether {@link tensors} are in module order (a state dict's own order), which safetensors loses. */
  readonly inModuleOrder: boolean;
  /** The computation graph, where the format has one. */
  readonly graph: Graph | null;
  /** Whose marks the file bears, beyond the names of its tensors; absent where it bears none. */
  readonly framework?: Framework | undefined;
  /** Facts about modules by module path, where the format has them. */
  readonly modules: ReadonlyMap<string, ModuleFacts>;
  /** What the file says of how it was trained; absent where the format has no place for it. */
  readonly declarations?: readonly Declaration[] | undefined;
  /** What the user should know about the file although it could be read; plain sentences. */
  readonly warnings: readonly string[];
  /** The parts that `select` could have named, where it was given and named none; absent otherwise. */
  readonly unselected?: readonly string[] | undefined;
  /**
   * Plans how the checkpoint's files have to change for tensors to hold other bytes; nothing is written. Absent where
   * there are no files that could be written like that.
   *
   * @throws CheckpointError `unsupported` naming a tensor that cannot be changed without changing another.
   */
  readonly planEdits?: (edits: readonly TensorEdit[], options?: EditOptions) => Promise<EditPlan>;
  close(): Promise<void>;
}
