import type { Tensor } from './checkpoint.js';

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
}

/** What an audit needs of a computation graph: its norm nodes and its linear nodes, in topological order. */
export interface Graph {
  /** Such as `pytorch 2.13.0`; empty when the file does not say. */
  readonly producer: string;
  readonly norms: readonly NormNode[];
  readonly linears: readonly LinearNode[];
}
