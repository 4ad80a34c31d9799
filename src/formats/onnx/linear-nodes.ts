// Finds the convolutions and matrix products of a graph, quantised ones too, with a bias that a later Add brings.

import type { ConstantInput, LinearNode, Tensor } from '../../checkpoint/checkpoint.js';
import { readNumbers } from '../../checkpoint/computed-elements.js';
import { isDecodable } from '../../checkpoint/dtype.js';
import { quote } from '../../errors.js';
import { getOrMake, isGeneratedName } from '../../norm/naming.js';
import {
  type Constant,
  dequantise,
  type Evaluator,
  isArithmetic,
  multiplyConstants,
  readInts,
  unresolved,
} from './constants.js';
import { findDataFactor } from './data-factor.js';
import {
  findProducer,
  findTrueName,
  isQuantiser,
  isStandard,
  nextName,
  type ScopedName,
  walkUpstream,
} from './follow.js';
import { toInput } from './norm-nodes.js';
import type { OnnxNode } from './schema.js';
import {
  type Definition,
  findAttribute,
  nameBeforeFusion,
  operationFromNameScopes,
  pathFromNameScopes,
  pathFromNodeName,
  pathFromWeightName,
  type Scope,
  type Site,
} from './scope.js';

type LinearOp = LinearNode['op'];

/** A linear node without what only its consumers tell. */
export interface LinearDraft extends Omit<LinearNode, 'feedsNorm'> {
  /** Tensors of which the graph computes weight and bias, besides those that these are called after. */
  readonly factors: readonly string[];
}

const LINEAR_OPERATORS: readonly LinearOp[] = ['Conv', 'ConvTranspose', 'Gemm', 'MatMul'];

/** ONNX Runtime's fusions of a linear operator with the activation behind it (domain com.microsoft). */
const FUSED_OPERATORS: ReadonlyMap<string, LinearOp> = new Map([
  ['FusedConv', 'Conv'],
  ['FusedGemm', 'Gemm'],
  ['FusedMatMul', 'MatMul'],
]);

/** As many as the channels that a norm layer may have. */
const MAX_GROUPS = 1 << 24;

/** The input that is a linear node's bias; null for operators without one. */
export function biasInputOf(node: OnnxNode): number | null {
  const quantised = quantisedOperatorOf(node);
  if (quantised !== null) return quantised.bias;
  return node.op.endsWith('MatMul') ? null : 2;
}

/** The linear operator that a node is; null for any other node. */
export function linearOpOf(node: OnnxNode): LinearOp | null {
  const quantised = quantisedOperatorOf(node);
  if (quantised !== null) return quantised.op;
  if (node.domain === 'com.microsoft') return FUSED_OPERATORS.get(node.op) ?? null;
  return node.domain === '' ? (LINEAR_OPERATORS.find((linear) => linear === node.op) ?? null) : null;
}

/** Whether an activation stands between a linear operator's product and its output, which nothing is folded across. */
export function endsInActivation({ domain, op }: OnnxNode): boolean {
  return domain === 'com.microsoft' && (op === 'FusedConv' || op === 'FusedGemm');
}

interface Weight {
  readonly constant: Constant;
  readonly name: string;
  readonly outputAxis: number;
  /** Other tensors that the graph computes it of. */
  readonly factors?: readonly string[];
}

/**
 * Reads a linear node. Its weight and bias never raise an error: what cannot be read is unresolved.
 *
 * @param behind the nodes that {@link LinearReaders.follow} finds.
 * @returns null for any other node, and for a matrix product of two computed matrices, which is no layer.
 */
export async function buildLinear(
  evaluator: Evaluator,
  site: Site,
  behind: readonly Site[] = [],
): Promise<LinearDraft | null> {
  const { node, scope } = site;
  const op = linearOpOf(node);
  if (op === null) return null;
  const { groups, problem } = readGroups(site, op);
  const weight = await readWeight(evaluator, site, { op, behind });
  const constant = problem === null ? weight.constant : unresolved(problem);
  const shape = constant.kind === 'constant' ? constant.tensor.shape : [];
  if (op === 'MatMul' && shape.length !== 2) return null;
  const outputChannels = (shape[weight.outputAxis] ?? 0) * (op === 'ConvTranspose' ? groups : 1);
  const biasInput = node.inputs[biasInputOf(node) ?? Number.POSITIVE_INFINITY] ?? '';
  const stored = biasInput === '' ? null : await readBias(evaluator, site, biasInput);
  const bias = stored !== null && (await isWrongZeros(stored, outputChannels)) ? null : stored;
  const [biasName = '', ...terms] =
    biasInput === '' ? [] : await listOperands(evaluator, { scope, name: biasInput });
  const factors = [...(weight.factors ?? []), ...terms];
  const paths = readPaths(node, op, { weightName: weight.name, biasName });
  return {
    op,
    nodeName: node.name,
    ...paths,
    looksFolded: paths.looksFolded || factors.length > 0,
    factors,
    scope: scope.path,
    weightName: weight.name,
    biasName,
    // Weights keep their shape; only biases are vectors.
    weight: constant.kind === 'uniform' ? unresolved('its shape is known at run time only') : constant,
    bias: refuseUnreadable(toInput(bias, outputChannels), outputChannels),
    outputAxis: weight.outputAxis,
    groups,
    outputChannels,
    dataFactor: await readDataFactor(evaluator, site, [weight.name, node.inputs[1] ?? '']),
  };
}

/** Absent for 1. A product's weight may stand on its left. */
async function readDataFactor(
  evaluator: Evaluator,
  { node, scope }: Site,
  [weightName, right]: readonly [string, string],
): Promise<LinearDraft['dataFactor']> {
  const [left = ''] = node.inputs;
  const isLeft = linearOpOf(node) === 'MatMul' && findTrueName(scope, left) === weightName;
  const found = await findDataFactor(evaluator, { scope, name: isLeft ? right : left });
  return found.value === 1 ? undefined : found;
}

/** The groups of a convolution, and what keeps the weight from being read. There is an output channel for each at least. */
function readGroups(site: Site, op: LinearOp): { readonly groups: number; readonly problem: string | null } {
  const groups = op === 'Conv' || op === 'ConvTranspose' ? (findAttribute(site, 'group')?.int ?? 1n) : 1n;
  if (groups < 1n || groups > BigInt(MAX_GROUPS))
    return { groups: 1, problem: `its group is ${groups}, expected 1 to ${MAX_GROUPS}` };
  // Gemm may scale its product: then the weight alone is not what the layer multiplies by.
  const isScaled =
    op === 'Gemm' && ['alpha', 'beta'].some((name) => (findAttribute(site, name)?.float ?? 1) !== 1);
  return { groups: Number(groups), problem: isScaled ? 'its Gemm scales it by alpha or beta' : null };
}

/** Whether an exporter expands zeros to a wrong shape: torch.onnx does so, to [channels, 2], where a Conv3d has no bias. */
async function isWrongZeros(bias: Constant, channels: number): Promise<boolean> {
  if (bias.kind !== 'constant' || !bias.source.startsWith('Expand')) return false;
  const { elementCount, dtype } = bias.tensor;
  if (elementCount === channels || elementCount > 64 * channels || !isDecodable(dtype)) return false;
  return (await readNumbers(bias.tensor)).every((value) => value === 0);
}

/** A bias is one float for each output channel. */
function refuseUnreadable(bias: ConstantInput, channels: number): ConstantInput {
  if (bias.kind !== 'constant' || channels === 0) return bias;
  const { name, dtype, elementCount } = bias.tensor;
  if (!isDecodable(dtype))
    return unresolved(`tensor ${quote(name)} is stored as ${dtype}, which holds no readable floats`);
  if (elementCount === channels) return bias;
  return unresolved(`tensor ${quote(name)} has ${elementCount} values for ${channels} channels`);
}

async function readWeight(
  evaluator: Evaluator,
  site: Site,
  { op, behind }: { readonly op: LinearOp; readonly behind: readonly Site[] },
): Promise<Weight> {
  const { node, scope } = site;
  const [left = '', right = ''] = node.inputs;
  const operator = quantisedOperatorOf(node);
  if (operator !== null) {
    const isRow = op === 'Conv' || (findAttribute(site, 'transB')?.int ?? 0n) !== 0n;
    const outputAxis = isRow ? 0 : 1;
    const scaling = behind.find((one) => isStandard(one.node, 'Mul')) ?? null;
    const constant = await readQuantisedWeight(evaluator, site, { operator, outputAxis, scaling });
    return { constant, name: findTrueName(scope, node.inputs[operator.weight] ?? ''), outputAxis };
  }
  if (op === 'Conv' || op === 'ConvTranspose') {
    const constant = await evaluator.evaluateQuietly({ scope, name: right });
    const [name, ...factors] = await listOperands(evaluator, { scope, name: right });
    return { constant, name: name ?? '', factors, outputAxis: op === 'Conv' ? 0 : 1 };
  }
  const isStatedTransposed = (findAttribute(site, 'transB')?.int ?? 0n) !== 0n;
  const weight = await readMatrix(evaluator, { scope, name: right }, isStatedTransposed);
  if (op === 'Gemm' || weight.constant.kind === 'constant') return weight;
  // W · x: the weight stands on the left, and its rows are the outputs.
  return await readMatrix(evaluator, { scope, name: left }, true);
}

/**
 * The tensors that a graph computes a constant of by arithmetic: first the largest, the last of several as large, which the
 * constant is called after. E.g. of W · (γ / √(v + ε)) it is W, of (b − μ) · s + β it is β.
 */
async function listOperands(
  evaluator: Evaluator,
  at: ScopedName,
  seen = new Set<Definition>(),
): Promise<readonly string[]> {
  const found = [...walkUpstream(at, nextName)].at(-1);
  const node = found?.definition.kind === 'node-output' ? found.definition.node : null;
  if (found === undefined || node === null || !isArithmetic(node)) {
    const isWithin = seen.size > 0 && findProducer(at.scope, at.name) !== null;
    return [
      isWithin && found?.definition.kind === 'initializer' ? found.name : findTrueName(at.scope, at.name),
    ];
  }
  if (seen.has(found.definition)) return [];
  seen.add(found.definition);
  const operands: { readonly names: readonly string[]; readonly size: number }[] = [];
  for (const name of node.inputs) {
    const operand = { scope: found.scope, name };
    const constant = await evaluator.evaluateQuietly(operand);
    if (constant.kind === 'unresolved') return [findTrueName(at.scope, at.name)];
    operands.unshift({
      names: await listOperands(evaluator, operand, seen),
      size: constant.tensor.elementCount,
    });
  }
  return operands.sort((one, other) => other.size - one.size).flatMap(({ names }) => names);
}

/** What stands in front of the Transpose before a name; null where there is none. */
function findTransposed({ scope, name }: ScopedName) {
  const producer = findProducer(scope, name);
  if (producer === null || !isStandard(producer.node, 'Transpose')) return null;
  return { producer, input: { scope: producer.scope, name: producer.node.inputs[0] ?? '' } };
}

/** A matrix, in front of a Transpose where one stands before the node, so that large ones are never copied. */
async function readMatrix(evaluator: Evaluator, at: ScopedName, isTransposed: boolean): Promise<Weight> {
  const transposed = findTransposed(at);
  if (transposed !== null) {
    const { producer, input } = transposed;
    const constant = await evaluator.evaluateQuietly(input);
    const perm = await readInts(evaluator, producer, 'perm');
    const swaps = perm === null || (perm.length === 2 && perm[0] === 1 && perm[1] === 0);
    if (constant.kind === 'constant' && constant.tensor.shape.length === 2 && swaps)
      return { constant, name: findTrueName(input.scope, input.name), outputAxis: isTransposed ? 1 : 0 };
  }
  const constant = await evaluator.evaluateQuietly(at);
  return { constant, name: findTrueName(at.scope, at.name), outputAxis: isTransposed ? 0 : 1 };
}

/** Whether a linear node is a matrix product whose first factor is its weight, in front of a Transpose or not. */
export function isWeightLeft({ node, scope }: Site, { op, weightName }: LinearDraft): boolean {
  const at = { scope, name: node.inputs[0] ?? '' };
  const read = findTransposed(at)?.input ?? at;
  return op === 'MatMul' && findTrueName(read.scope, read.name) === weightName;
}

/**
 * The paths of the layer and of a norm layer that was folded into it.
 *
 * When dynamo's optimizer folds, the new node keeps the norm layer's scopes and names the rule that made it, while
 * the weight keeps its name; a bias that there was none of is called after the weight. When TorchScript's exporter
 * folds, the node keeps its name, and the new weight and bias get numbers. ONNX Runtime's optimizer says what it fused
 * before the names of the convolution's weight and of the norm layer's bias.
 */
function readPaths(
  node: OnnxNode,
  op: LinearOp,
  { weightName, biasName }: Pick<LinearDraft, 'weightName' | 'biasName'>,
): Pick<LinearDraft, 'path' | 'foldedNormPath' | 'looksFolded'> {
  const { nameScopes, rewriteRule } = node.notes;
  const scopePath = pathFromNameScopes(nameScopes);
  const isFolded =
    /batch_?norm/i.test(rewriteRule) ||
    /batch_?norm|instance_norm/i.test(operationFromNameScopes(nameScopes));
  const [fusedWeight, fusedBias] = [weightName, biasName].map(nameBeforeFusion);
  // What a node computed, such as a Transpose, is called after the node.
  const weightPath = pathFromWeightName(fusedWeight ?? weightName) ?? pathFromNodeName(fusedWeight ?? '');
  const path = (isFolded ? null : scopePath) ?? weightPath ?? pathFromNodeName(node.name);
  const isNumbered = isNumberedPair(op, { weightName, biasName });
  const isBiasOfNorm = fusedBias != null && isFusedBias(biasName);
  const isNamedAfterWeight = biasName !== '' && biasName === `${weightName}_bias`;
  return {
    path,
    foldedNormPath: isFolded
      ? scopePath
      : isBiasOfNorm
        ? (/^(.+)\.bias$/.exec(fusedBias)?.[1] ?? null)
        : null,
    looksFolded: isFolded || isNumbered || isNamedAfterWeight || weightName.includes('BnFusion_'),
  };
}

/** Whether ONNX Runtime's optimizer called a bias after β of the norm layer that it fused. */
export function isFusedBias(biasName: string): boolean {
  return biasName.includes('BnFusion_BN_B_');
}

/** Whether an exporter numbered both the weight and the bias of a convolution, as TorchScript's does where it folds. */
function isNumberedPair(
  op: LinearOp,
  { weightName, biasName }: Pick<LinearDraft, 'weightName' | 'biasName'>,
): boolean {
  return op.startsWith('Conv') && isGeneratedName(weightName) && isGeneratedName(biasName);
}

/** The weight and bias of a linear node that Constant nodes of the main graph hold, by name: parameters as well. */
export function constantParameters(linear: LinearDraft): readonly Tensor[] {
  if (linear.scope.length > 0) return [];
  return [linear.weight, linear.bias].flatMap((input) =>
    input.kind === 'constant' && input.source === 'Constant' ? [input.tensor] : [],
  );
}

/** An input of a node. */
export interface InputSlot {
  readonly site: Site;
  readonly index: number;
}

/** What stands between a product of integers and the bias that is added to it, and between a product of floats and that. */
const NODES_BEHIND = { integers: ['Cast', 'Mul'], floats: ['QuantizeLinear', 'DequantizeLinear'] };

/** Who reads the outputs of the linear nodes that have no bias of their own, noted as a model is walked. */
export class LinearReaders {
  readonly #readers = new Map<Scope, Map<string, Site[]>>();

  /** From now on the readers of a node's output are noted. */
  watch({ node, scope }: Site): void {
    const [output = ''] = node.outputs;
    if (output === '' || scope.outputs.includes(output)) return;
    getOrMake(this.#readers, scope, () => new Map()).set(output, []);
  }

  /** Notes what a node reads. Nodes come in topological order. */
  note(site: Site): void {
    const inScope = this.#readers.get(site.scope);
    if (inScope === undefined) return;
    const { node } = site;
    for (const input of node.inputs) inScope.get(input)?.push(site);
    const isBetween = Object.values(NODES_BEHIND)
      .flat()
      .some((op) => isStandard(node, op));
    if (isBetween && node.inputs.some((input) => inScope.has(input))) this.watch(site);
  }

  /**
   * The nodes behind a watched one that only scale or quantise its output, each the only reader of the one before: Cast
   * and Mul of a product of integers, else QuantizeLinear and DequantizeLinear.
   */
  follow(site: Site): readonly Site[] {
    const isInteger = quantisedOperatorOf(site.node)?.scale === null;
    const found: Site[] = [];
    for (const op of isInteger ? NODES_BEHIND.integers : NODES_BEHIND.floats) {
      const reader = this.#onlyReader(found.at(-1) ?? site);
      if (reader !== null && isStandard(reader.node, op)) found.push(reader);
    }
    return found;
  }

  /** The Add that alone of its scope's nodes reads a watched node's output, and which of its inputs is the other one. */
  findAdd(site: Site): InputSlot | null {
    const reader = this.#onlyReader(site);
    if (reader === null || !isStandard(reader.node, 'Add')) return null;
    return { site: reader, index: reader.node.inputs[0] === site.node.outputs[0] ? 1 : 0 };
  }

  #onlyReader({ node, scope }: Site): Site | null {
    const [reader = null, ...others] = this.#readers.get(scope)?.get(node.outputs[0] ?? '') ?? [];
    return others.length > 0 ? null : reader;
  }
}

/**
 * A linear node with the bias that an Add behind it adds: MatMul has no input for one, and some exporters write one
 * behind Conv as well.
 *
 * @param isLeft whether the linear node is a product whose first factor is the weight: then its rows are the outputs.
 * @returns null where the Add adds something else: a value that is computed, or no single one for each channel.
 */
export async function takeAddedBias(
  evaluator: Evaluator,
  linear: LinearDraft,
  { site: { node, scope }, index }: InputSlot,
  isLeft: boolean,
): Promise<LinearDraft | null> {
  const name = node.inputs[index] ?? '';
  const constant = await evaluator.evaluateQuietly({ scope, name });
  if (constant.kind !== 'constant' || !isPerChannel(constant.tensor.shape, linear, isLeft)) return null;
  if (!isDecodable(constant.tensor.dtype)) return null;
  const biasName = findTrueName(scope, name);
  const { looksFolded, op, weightName } = linear;
  // Dynamic quantisation makes an Add of every bias.
  const isQuantised = linear.weight.kind === 'constant' && linear.weight.tensor.quantised !== undefined;
  return {
    ...linear,
    looksFolded: looksFolded || (isQuantised && isNumberedPair(op, { weightName, biasName })),
    biasName,
    bias: toInput(constant, null),
  };
}

/**
 * Whether a shape broadcasts to one value for each output channel: axis 1 of a convolution, the last axis of a matrix
 * product, and the one before that where the weight is its first factor.
 */
function isPerChannel(
  shape: Tensor['shape'],
  { op, weight, outputChannels }: LinearDraft,
  isLeft: boolean,
): boolean {
  const rank = weight.kind === 'constant' ? weight.tensor.shape.length : 0;
  const behind = op === 'Conv' || op === 'ConvTranspose' ? rank - 2 : isLeft ? 1 : 0;
  const axis = shape.length - 1 - behind;
  return (
    outputChannels > 1 &&
    shape.every((size, each) => size === (each === axis ? outputChannels : 1)) &&
    axis >= 0
  );
}

/** Inputs of an operator that multiplies codes by a quantised weight, by their places. */
interface QuantisedOperator {
  readonly op: 'Conv' | 'Gemm' | 'MatMul';
  readonly weight: number;
  readonly zeroPoint: number;
  /** The weight's scale; null where a Mul behind the node multiplies by it. */
  readonly scale: number | null;
  /** Null where an Add behind the node adds it. */
  readonly bias: number | null;
  /** The data's scale, where the bias is stored in steps of it times the weight's; null where it is stored as floats. */
  readonly dataScale: number | null;
}

const QLINEAR = { weight: 3, scale: 4, zeroPoint: 5, dataScale: 1 } as const;
const INTEGER = { weight: 1, scale: null, zeroPoint: 3, bias: null, dataScale: null } as const;

/** By domain and name: ONNX's own, and ONNX Runtime's (docs/ContribOperators.md). */
const OPERATORS = new Map<string, QuantisedOperator>([
  ['QLinearConv', { op: 'Conv', ...QLINEAR, bias: 8 }],
  ['QLinearMatMul', { op: 'MatMul', ...QLINEAR, bias: null }],
  ['ConvInteger', { op: 'Conv', ...INTEGER }],
  ['MatMulInteger', { op: 'MatMul', ...INTEGER }],
  ['com.microsoft QGemm', { op: 'Gemm', ...QLINEAR, bias: 6 }],
  [
    'com.microsoft DynamicQuantizeMatMul',
    { op: 'MatMul', weight: 1, scale: 2, zeroPoint: 3, bias: 4, dataScale: null },
  ],
  [
    'com.microsoft MatMulIntegerToFloat',
    { op: 'MatMul', weight: 1, scale: 3, zeroPoint: 5, bias: 6, dataScale: null },
  ],
]);

function quantisedOperatorOf({ domain, op }: OnnxNode): QuantisedOperator | null {
  return OPERATORS.get(domain === '' ? op : `${domain} ${op}`) ?? null;
}

async function readQuantisedWeight(
  evaluator: Evaluator,
  { node, scope }: Site,
  {
    operator,
    outputAxis,
    scaling,
  }: { operator: QuantisedOperator; outputAxis: number; scaling: Site | null },
): Promise<Constant> {
  const at = async (index: number) => evaluator.evaluateQuietly({ scope, name: node.inputs[index] ?? '' });
  const codes = await at(operator.weight);
  if (codes.kind === 'unresolved') return codes;
  const zero = (node.inputs[operator.zeroPoint] ?? '') === '' ? null : await at(operator.zeroPoint);
  const scale = operator.scale === null ? await readScaling(evaluator, scaling) : await at(operator.scale);
  return dequantise(evaluator, { node, scope }, codes, { scale, zero, axis: outputAxis });
}

/** The floats of a bias: its own, or those that its codes stand for, in steps of the data's scale times the weight's. */
async function readBias(evaluator: Evaluator, site: Site, name: string): Promise<Constant> {
  const { node, scope } = site;
  const stored = await evaluator.evaluateQuietly({ scope, name });
  const { scale, dataScale } = quantisedOperatorOf(node) ?? { scale: null, dataScale: null };
  if (scale === null || dataScale === null || stored.kind === 'unresolved') return stored;
  const at = async (index: number) => evaluator.evaluateQuietly({ scope, name: node.inputs[index] ?? '' });
  const step = multiplyConstants(evaluator, await at(scale), await at(dataScale));
  return dequantise(evaluator, site, stored, { scale: step, zero: null, axis: 0 });
}

/**
 * The weight's scale, of those that the Mul behind a product of integers multiplies by. Dynamic quantisation writes
 * Mul(product, Mul(scale of the data, scale of the weight)), and only the last is constant.
 */
async function readScaling(evaluator: Evaluator, scaling: Site | null): Promise<Constant> {
  for (let at = scaling, depth = 0; at !== null && depth < 2; depth++) {
    const { scope, node } = at;
    for (const name of node.inputs) {
      const constant = await evaluator.evaluateQuietly({ scope, name });
      if (constant.kind !== 'unresolved') return constant;
    }
    const producers = node.inputs.map((name) => findProducer(scope, name));
    at = producers.find((one) => one !== null && isStandard(one.node, 'Mul')) ?? null;
  }
  return unresolved('the scale of its weight is known at run time only');
}

/** Names of the scales and zero points that a node reads: settings of a quantiser, which nobody trains. */
export function listQuantiserInputs(node: OnnxNode): readonly string[] {
  if (isQuantiser(node)) return node.inputs.slice(1);
  const operator = quantisedOperatorOf(node);
  if (operator !== null)
    return node.inputs.filter((_, index) => index !== operator.weight && index !== operator.bias);
  // QLinearAdd, QLinearGlobalAveragePool and their like.
  return /^QLinear|^QMoE/.test(node.op) ? node.inputs : [];
}
