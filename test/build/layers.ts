import type { ConstantInput, Graph, LinearNode, NormNode, Tensor } from '../../src/checkpoint/checkpoint.js';
import type { Drift, LiveComparison } from '../../src/compare/compare-layers.js';
import type { Equality, LearnedComparison, LearnedComparisons } from '../../src/compare/compare-learned.js';
import type { LayerVector, NormLayer } from '../../src/norm/norm-layer.js';
import { tensorOf } from './checkpoints.js';

/** A tensor as a vector of a layer. */
export function vectorOf(tensor: Tensor): LayerVector {
  return { kind: 'stored', tensor, source: 'tensor' };
}

/** A norm layer as names tell of it, with two channels, or as many as are asked for. */
export function layerOf(name: string, overrides: Partial<NormLayer> = {}): NormLayer {
  const channels = overrides.channels ?? 2;
  const fill = (leaf: string, value: number) =>
    tensorOf(`${name}.${leaf}`, Array<number>(channels).fill(value));
  return {
    name,
    isNamed: true,
    kind: 'BatchNorm',
    channels,
    mean: vectorOf(fill('running_mean', 0.5)),
    variance: vectorOf(fill('running_var', 2)),
    gamma: vectorOf(fill('weight', 1.5)),
    beta: vectorOf(fill('bias', 0.125)),
    batchCount: null,
    epsilon: null,
    defaultEpsilon: 1e-5,
    momentum: null,
    mode: 'unknown',
    nodeName: null,
    isFromGraph: false,
    neighbours: [],
    feedingLinear: null,
    notes: [],
    ...overrides,
  };
}

/** A layer whose statistics are the given values. */
export function layerWith(
  name: string,
  { mean, variance }: { mean: readonly number[]; variance: readonly number[] },
  overrides: Partial<NormLayer> = {},
): NormLayer {
  return layerOf(name, {
    channels: mean.length,
    mean: vectorOf(tensorOf(`${name}.running_mean`, mean)),
    variance: vectorOf(tensorOf(`${name}.running_var`, variance)),
    ...overrides,
  });
}

/** How far {@link comparisonOf}'s layer moved. */
export const DRIFT: Drift = {
  channelsMoved: 2,
  measures: {
    meanShift: { rms: 0.25, max: 0.5 },
    logStdRatio: { rms: 0.125, max: 0.25 },
    divergence: 0.0625,
    outputShift: 0.375,
  },
  perChannel: null,
};

/** A compared layer: drifted in both channels, unless told otherwise. */
export function comparisonOf(name: string, overrides: Partial<LiveComparison> = {}): LiveComparison {
  return {
    kind: 'live',
    name,
    before: layerOf(name),
    after: layerOf(name),
    pairedBy: 'name',
    status: 'drifted',
    affine: 'equal',
    neighbours: 'equal',
    equality: 'exact',
    relativeDifference: 0,
    channels: 2,
    drift: DRIFT,
    epsilon: 1e-5,
    epsilonFrom: 'default',
    batches: 12n,
    cause: { kind: 'training-mode', old: { share: 0.9 ** 12, momentum: 0.1, momentumFrom: 'default' } },
    isReset: false,
    neighboursFrom: 'names',
    problem: null,
    ...overrides,
  };
}

/** A compared learned tensor with 10 elements. */
export function learnedOf(name: string, equality: Equality = 'exact', elementCount = 10): LearnedComparison {
  return { name, beforeName: name, afterName: name, elementCount, equality };
}

/** Compared learned tensors by both names. */
export function learnedComparisons(...compared: readonly LearnedComparison[]): LearnedComparisons {
  return {
    compared,
    rounding: { averaged: 0, merged: false, narrowed: new Set() },
    byBefore: new Map(compared.map((one) => [one.beforeName, one])),
    byAfter: new Map(compared.map((one) => [one.afterName, one])),
    onlyBefore: [],
    onlyAfter: [],
    extended: new Set(),
  };
}

/** A node's input that the file stores. */
export function constantOf(name: string, values: readonly number[], source = 'initializer'): ConstantInput {
  return { kind: 'constant', tensor: tensorOf(name, values), source, overridable: false };
}

/** A BatchNormalization node whose inputs bear the state dict's names under `path`. */
export function normNodeOf(path: string, overrides: Partial<NormNode> = {}): NormNode {
  return {
    nodeName: `/${path}/BatchNormalization`,
    path: null,
    scope: [],
    inputNames: [`${path}.weight`, `${path}.bias`, `${path}.running_mean`, `${path}.running_var`],
    gamma: constantOf(`${path}.weight`, [1.5, 1.5]),
    beta: constantOf(`${path}.bias`, [0.125, 0.125]),
    mean: constantOf(`${path}.running_mean`, [0.5, -0.25]),
    variance: constantOf(`${path}.running_var`, [2, 2]),
    epsilon: 1e-5,
    momentum: 0.9,
    mode: 'running',
    opset: 17,
    neighbours: [],
    feedingLinear: null,
    notes: [],
    ...overrides,
  };
}

/** A convolution whose weight and bias bear the state dict's names under `path`. */
export function linearNodeOf(
  path: string,
  { weight, shape, bias }: { weight: readonly number[]; shape: readonly number[]; bias?: readonly number[] },
  overrides: Partial<LinearNode> = {},
): LinearNode {
  const constant = (name: string, values: readonly number[], sizes: readonly number[]): ConstantInput => ({
    kind: 'constant',
    tensor: tensorOf(name, values, { shape: sizes }),
    source: 'initializer',
    overridable: false,
  });
  return {
    op: 'Conv',
    nodeName: `/${path}/Conv`,
    path,
    foldedNormPath: null,
    looksFolded: false,
    scope: [],
    weightName: `${path}.weight`,
    biasName: bias === undefined ? '' : `${path}.bias`,
    weight: constant(`${path}.weight`, weight, shape),
    bias: bias === undefined ? { kind: 'absent' } : constant(`${path}.bias`, bias, [bias.length]),
    outputAxis: 0,
    groups: 1,
    outputChannels: shape[0] ?? 0,
    feedsNorm: false,
    ...overrides,
  };
}

/** A computation graph. */
export function graphOf(norms: readonly NormNode[], linears: readonly LinearNode[] = []): Graph {
  return { producer: 'pytorch 2.13.0', norms, linears };
}
