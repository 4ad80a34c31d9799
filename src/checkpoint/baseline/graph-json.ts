import { failUnreachable } from '../../errors.js';
import type { Tensor } from '../checkpoint.js';
import type { ConstantInput, Graph, LinearNode, NormNode } from '../graph.js';
import type { Fields } from './json-fields.js';

/** How a graph's constants are written and found again: as names of entries. */
export interface ConstantNames {
  /** The name of a tensor's entry among the checkpoint's own; null for a constant that only the graph has. */
  readonly nameTensor: (tensor: Tensor) => string | null;
  /** Makes an entry for a constant that only the graph has, and names it. */
  readonly addConstant: (tensor: Tensor) => string;
}

/** How constants are found when a graph is read; both fail on unknown names. */
export interface ConstantFinder {
  readonly findTensor: (name: string, at: Fields) => Tensor;
  readonly findConstant: (name: string, at: Fields) => Tensor;
}

/** What most inputs are; it goes without saying. */
const USUAL_SOURCE = 'initializer';

const NORM_INPUTS = ['gamma', 'beta', 'mean', 'variance'] as const;

/** A graph's nodes as JSON, constants aside. What is as usual is left out. */
export function graphToJson({ producer, norms, linears }: Graph, names: ConstantNames): object {
  return {
    producer,
    norms: norms.map((norm) => normToJson(norm, names)),
    linears: linears.map((linear) => linearToJson(linear, names)),
  };
}

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

/**
 * Reads what {@link graphToJson} wrote.
 *
 * @throws CheckpointError `malformed` where it is anything else.
 */
export function readGraph(fields: Fields, finder: ConstantFinder): Graph {
  const linears = fields.listOfObjects('linears').map((linear) => readLinear(linear, finder));
  return {
    producer: fields.string('producer'),
    norms: fields.listOfObjects('norms').map((norm) => readNorm(norm, finder, linears.length)),
    linears,
  };
}

function readNorm(fields: Fields, finder: ConstantFinder, linears: number): NormNode {
  const inputs = fields.listOfObjects('inputs');
  const [gamma, beta, mean, variance] = inputs;
  if (
    inputs.length !== 4 ||
    gamma === undefined ||
    beta === undefined ||
    mean === undefined ||
    variance === undefined
  )
    return fields.fail('inputs', 'four inputs');
  const feedingLinear = fields.countOr('linear', null);
  if (feedingLinear !== null && feedingLinear >= linears) fields.fail('linear', `less than ${linears}`);
  const names = fields.has('inputNames')
    ? fields.strings('inputNames')
    : inputs.map((input) => input.stringOr('tensor', ''));
  return {
    nodeName: fields.string('node'),
    path: fields.stringOr('path', null),
    scope: fields.strings('scope'),
    inputNames: [names[0] ?? '', names[1] ?? '', names[2] ?? '', names[3] ?? ''],
    gamma: readInput(gamma, finder),
    beta: readInput(beta, finder),
    mean: readInput(mean, finder),
    variance: readInput(variance, finder),
    epsilon: fields.number('epsilon'),
    momentum: fields.number('momentum'),
    mode: fields.has('mode') ? fields.word('mode', ['running', 'batch', 'unknown']) : 'running',
    opset: fields.number('opset'),
    neighbours: fields.strings('neighbours'),
    feedingLinear,
    notes: fields.strings('notes'),
  };
}

function readLinear(fields: Fields, finder: ConstantFinder): LinearNode {
  const weight = fields.object('weight');
  const bias = fields.objectOr('bias', null);
  return {
    op: fields.word('op', ['Conv', 'ConvTranspose', 'Gemm', 'MatMul']),
    nodeName: fields.string('node'),
    path: fields.stringOr('path', null),
    foldedNormPath: fields.stringOr('foldedNorm', null),
    looksFolded: fields.boolean('looksFolded'),
    scope: fields.strings('scope'),
    weightName: fields.stringOr('weightName', weight.stringOr('tensor', '')),
    biasName: fields.stringOr('biasName', bias?.stringOr('tensor', '') ?? ''),
    weight: readInput(weight, finder),
    bias: bias === null ? { kind: 'absent' } : readInput(bias, finder),
    outputAxis: fields.countOr('axis', 0),
    groups: fields.numberOr('groups', 1),
    outputChannels: fields.number('channels'),
    feedsNorm: fields.boolean('feedsNorm'),
  };
}

function readInput(fields: Fields, finder: ConstantFinder): ConstantInput {
  if (fields.has('unresolved')) return { kind: 'unresolved', reason: fields.string('unresolved') };
  const isTensor = fields.has('tensor');
  if (!isTensor && !fields.has('constant')) return { kind: 'absent' };
  return {
    kind: 'constant',
    tensor: isTensor
      ? finder.findTensor(fields.string('tensor'), fields)
      : finder.findConstant(fields.string('constant'), fields),
    source: fields.stringOr('source', USUAL_SOURCE),
    overridable: fields.boolean('overridable'),
  };
}
