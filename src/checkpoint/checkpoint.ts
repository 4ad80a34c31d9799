// What every format is turned into: named tensors, which are byte ranges, and the graph where there is one.

import type { ByteRange, ByteSource, Splice } from '../io/byte-source.js';
import type { ChannelLayout } from './channel-grid.js';
import { bitsOf, type DType } from './dtype.js';
import type { TrainingProgress } from './training-progress.js';

/** A tensor of a checkpoint and what it shall hold: as many bytes as it has, little-endian and row-major. */
export interface TensorEdit {
  readonly tensor: Tensor;
  /** In memory, in another file, or computed as it is read: whoever writes it reads it in pieces. */
  readonly content: ByteRange;
  /** What to call a tensor of its own, where the one that it shares with others has to be split. */
  readonly preferredName: string;
}

/** How to open a checkpoint. */
export interface OpenOptions {
  /** Which part of a nested PyTorch checkpoint to audit, keys joined by dots: `state_dict`, `model.ema`. */
  readonly select?: string | undefined;
  /** Follow external data and shards that are symbolic links out of the checkpoint's directory. */
  readonly allowExternalSymlinks?: boolean | undefined;
  /** Fetch checkpoints that are named by no path and are in no cache from the network. Without it, nothing is. */
  readonly remote?: boolean | undefined;
  /** Told of every file that is opened for the checkpoint, by its path. What it throws ends the opening. */
  readonly onOpenFile?: ((path: string) => void) | undefined;
}

/** What the reader of a format is told. */
export interface ReadOptions extends OpenOptions {
  /** How reports and messages name the checkpoint. */
  readonly path: string;
}

/** One file of a checkpoint and how it changes; without splices it is copied as it is. */
interface FileEdit {
  readonly source: ByteSource;
  /** Where the file stands relative to the checkpoint's own directory, with forward slashes. */
  readonly name: string;
  /** By offset; none overlaps another. */
  readonly splices: readonly Splice[];
}

/** Every file that makes up a checkpoint, the one that refers to the others last. */
export interface EditPlan {
  readonly files: readonly FileEdit[];
}

/** How {@link EditPlan} names files. */
export interface EditOptions {
  /** The new name of a file that the checkpoint refers to by its name, such as external data. */
  readonly renameData?: ((name: string, count: number) => string) | undefined;
}

/** What a checkpoint is, as its format's reader names it for reports: `ONNX`, `TorchScript`, `baseline`. */
export type CheckpointFormat = string;

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
  | 'caffe2'
  | 'darknet';

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
  /** Bits of each integer in the file, where that is fewer than its type has. */
  readonly packedBits?: 4 | undefined;
  /** How its floats are stored, where that is as integers; absent where the values are what they are. */
  readonly quantised?: Quantisation | undefined;
}

/**
 * How a tensor of floats is stored as integers: value = (code − zero point) · scale.
 *
 * Rounding to a code lost up to half a step, so that a value stands for an interval: code 3 with scale 0.01 is what any
 * weight from 0.025 to 0.035 has become. Whoever asks whether a weight changed asks that of intervals.
 */
export interface Quantisation {
  /** Integers, in the shape of the tensor. */
  readonly codes: Tensor;
  /** One positive float, or one for each index along {@link axis}, or for each block. */
  readonly scale: Tensor;
  /** As many integers; null stands for zeros. */
  readonly zeroPoint: Tensor | null;
  /** The axis along which the scale differs; null where all codes have one. */
  readonly axis: number | null;
  /** So many indices along {@link axis} share a scale, and each index of other axes has one of its own; absent without blocks. */
  readonly blockSize?: number | undefined;
  /** How many steps a value may be from its code, where that is another part than half of one. */
  readonly margin?: number | undefined;
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

/** A copy of a network that is audited, which the file holds beside it: a running average, or the raw weights. */
export interface CheckpointCopy {
  /** What `select` finds the copy by, and the network that it is a copy of. */
  readonly path: string;
  readonly of: string;
  /** Opens the checkpoint with the copy in that network's place; closing the checkpoint closes it too. */
  readonly open: () => Promise<Checkpoint>;
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
  /** How far the training was, as the file says; absent where it says nothing. */
  readonly progress?: TrainingProgress | undefined;
  /** What the file says of how it was trained; absent where the format has no place for it. */
  readonly declarations?: readonly Declaration[] | undefined;
  /** What the user should know about the file although it could be read; plain sentences. */
  readonly warnings: readonly string[];
  /**
   * Where several networks are audited side by side: what `select` finds each by, which its tensors' names begin with.
   * Absent where there is one.
   */
  readonly parts?: readonly string[] | undefined;
  /** Copies of what is audited, which were left aside; absent where there are none. */
  readonly copies?: readonly CheckpointCopy[] | undefined;
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

/**
 * What a checkpoint says itself of how it was trained, as it was read: an optimizer, settings of a framework. Which
 * tensors that freezes is found out where the learned tensors are known. `requires_grad` and the mode of modules stand
 * with the tensors and the modules.
 */
export type Declaration = OptimizerDeclaration | PathsDeclaration | AdapterDeclaration | UnreadDeclaration;

/** The state of an optimizer: which parameters it was handed, and which of them it updated. */
export interface OptimizerDeclaration {
  readonly kind: 'optimizer';
  /** Keys from the root of the file to it, joined by dots. */
  readonly where: string;
  readonly groups: readonly OptimizerGroup[];
}

/** Parameters that an optimizer treats alike, in the order in which they were handed over. */
export interface OptimizerGroup {
  readonly parameters: readonly OptimizerParameter[];
  /** Null where it is no plain number. */
  readonly learningRate: number | null;
  /** What a schedule started from; null without a schedule. */
  readonly initialLearningRate: number | null;
  /** Whether a step leaves state for exactly those parameters that had a gradient. */
  readonly isStateTelling: boolean;
}

/** One parameter of an optimizer. */
export interface OptimizerParameter {
  /** Null where the file knows it by its number alone. */
  readonly name: string | null;
  readonly hasState: boolean;
  /** The shape of what the optimizer keeps for it, which is the parameter's own; null where that is not clear. */
  readonly shape: readonly number[] | null;
}

/** Settings that name modules. */
export interface PathsDeclaration {
  readonly kind: 'paths';
  readonly by:
    | 'ultralytics-freeze'
    | 'frozen-stages'
    | 'norm-cfg'
    | 'norm-eval'
    | 'keras-trainable'
    | 'darknet-stopbackward';
  readonly where: string;
  /** Paths of modules from the model's root; they mean everything below them. */
  readonly paths: readonly string[];
}

/** An `adapter_config.json` of PEFT: everything is frozen but what it names. */
export interface AdapterDeclaration {
  readonly kind: 'adapter';
  readonly where: string;
  /** As `peft_type` has it, such as `LORA`. */
  readonly method: string;
  /** What it was trained on, `base_model_name_or_path`; null where that is not said. */
  readonly base: string | null;
  /** Ends of the paths of modules that the adapter may have been merged into; null where a pattern names them. */
  readonly targets: readonly string[] | null;
  /** Ends of the paths of modules that are trained and saved as a whole. */
  readonly saved: readonly string[];
  readonly trainsBiases: boolean;
}

interface UnreadDeclaration {
  readonly kind: 'unread';
  readonly of: 'optimizer' | 'settings';
  readonly where: string;
  /** Why, as a clause after `where`. */
  readonly reason: string;
}

/** An input of a node that ought to be constant: the tensor it comes to, or why it comes to none. */
export type ConstantInput =
  | {
      readonly kind: 'constant';
      readonly tensor: Tensor;
      /** How the file supplies it: `initializer`, `Constant`, `Identity of …`, `Cast of initializer`. */
      readonly source: string;
      /** Whether it is a graph input as well, whose value a caller may replace at run time. */
      readonly overridable: boolean;
    }
  | { readonly kind: 'unresolved'; readonly reason: string }
  | { readonly kind: 'absent' };

/** Which statistics a norm node normalises by: the running ones, the batch's, or the file does not tell. */
export type NormMode = 'running' | 'batch' | 'unknown';

/** A BatchNormalization node, wherever it stands: main graph, subgraph, or one call of a local function. */
export interface NormNode {
  readonly nodeName: string;
  /** The module path that metadata or the node's name tells, such as `layer1.0.bn1`; null where neither does. */
  readonly path: string | null;
  /** Names of the enclosing subgraphs or function calls, outermost first; empty in the main graph. */
  readonly scope: readonly string[];
  /** The names that the node's scale, bias, mean and variance inputs bear; `''` where absent. */
  readonly inputNames: readonly [gamma: string, beta: string, mean: string, variance: string];
  readonly gamma: ConstantInput;
  readonly beta: ConstantInput;
  readonly mean: ConstantInput;
  readonly variance: ConstantInput;
  readonly epsilon: number;
  /** ONNX's momentum: `new = old · momentum + batch · (1 − momentum)`. */
  readonly momentum: number;
  readonly mode: NormMode;
  readonly opset: number;
  /**
   * Names of the learned tensors that feed the node's data input: those of its producer, or, where the producer has
   * none (an activation, an addition), of the nearest nodes upstream that have some.
   */
  readonly neighbours: readonly string[];
  /** The linear node whose output is the data input directly, as an index into {@link Graph.linears}. */
  readonly feedingLinear: number | null;
  /** What the user should know: statistics a caller may override, the draft six-input operator, spatial = 0. */
  readonly notes: readonly string[];
}

/** A node that multiplies by a weight and may have swallowed a norm layer: Conv, ConvTranspose, Gemm, MatMul. */
export interface LinearNode {
  readonly op: 'Conv' | 'ConvTranspose' | 'Gemm' | 'MatMul';
  readonly nodeName: string;
  /** The module path of the convolution or linear layer itself, such as `layer1.0.conv1`; null where unknown. */
  readonly path: string | null;
  /**
   * The module path of the norm layer that an exporter's metadata says was folded into this node, such as
   * `layer1.0.bn1`; null where no metadata says so.
   */
  readonly foldedNormPath: string | null;
  /** Whether the file itself bears signs that a norm layer was folded in here (metadata, generated names). */
  readonly looksFolded: boolean;
  readonly scope: readonly string[];
  readonly weightName: string;
  readonly biasName: string;
  readonly weight: ConstantInput;
  readonly bias: ConstantInput;
  /** Axis of the weight that counts output channels: Conv 0, ConvTranspose 1 (within a group), Gemm 0 or 1. */
  readonly outputAxis: number;
  readonly groups: number;
  readonly outputChannels: number;
  /** Whether a live norm node consumes the output directly. */
  readonly feedsNorm: boolean;
  /** What the graph multiplies its data by; absent for 1. */
  readonly dataFactor?: DataFactor | undefined;
}

/** A constant that the data of a linear node was multiplied by, which an optimiser may move into the weight instead. */
export interface DataFactor {
  readonly value: number;
  /** Whether an activation lacks it, e.g. 2 for x · (1 + erf(x / √2)), a GELU without its ½; else it may be the model's own. */
  readonly isGated: boolean;
}

/** What an audit needs of a computation graph: its norm nodes and its linear nodes, in topological order. */
export interface Graph {
  /** Such as `pytorch 2.13.0`; empty when the file does not say. */
  readonly producer: string;
  readonly norms: readonly NormNode[];
  readonly linears: readonly LinearNode[];
}

/**
 * A checkpoint with its tensors changed, and those of its copies; the same one where nothing was. A graph says itself what
 * its tensors stand for: none of its are changed.
 */
export function changeTensors<Opened extends Checkpoint>(
  checkpoint: Opened,
  change: (tensors: Checkpoint['tensors']) => Checkpoint['tensors'],
): Opened {
  const tensors = checkpoint.graph === null ? change(checkpoint.tensors) : checkpoint.tensors;
  const copies = checkpoint.copies?.map((copy) => ({
    ...copy,
    open: async () => changeTensors(await copy.open(), change),
  }));
  if (tensors === checkpoint.tensors && copies === undefined) return checkpoint;
  return { ...checkpoint, tensors, ...(copies === undefined ? {} : { copies }) };
}
