import { CheckpointError, quote } from '../../errors.js';
import { isDecodable, isFloatingPoint } from '../dtype.js';
import type { ConstantInput, NormNode } from '../graph.js';
import type { Constant, Evaluator } from './constant.js';
import { repeatTensor } from './constant-sources.js';
import { findProducer, findTile, findTrueName, followAliases } from './follow.js';
import type { BuiltNorm } from './merge-calls.js';
import { describeNode } from './model.js';
import { pathFromNameScopes, pathFromNodeName } from './module-path.js';
import type { NeighbourSearch } from './neighbours.js';
import { findMode, INPUT_COUNT } from './norm-mode.js';
import { describeSite, findAttribute, opsetOf, type Site } from './scope.js';

/** Values of one statistic; with spatial = 0 channels × height × width. The widest layers have some thousands. */
const MAX_STATISTIC_ELEMENTS = 1 << 22;

/** ONNX's defaults (docs/Operators.md, BatchNormalization). */
const DEFAULT_EPSILON = 1e-5;
const DEFAULT_MOMENTUM = 0.9;

/** What building norm nodes needs beside the node. */
export interface NormContext {
  readonly evaluator: Evaluator;
  readonly neighbours: NeighbourSearch;
  /** The index of a linear node in the graph; null for other nodes. */
  readonly linearIndex: (site: Site) => number | null;
}

/**
 * Reads a BatchNormalization node.
 *
 * @throws CheckpointError naming the node, where its inputs are missing, broken or do not fit each other.
 */
export async function buildNorm(context: NormContext, site: Site): Promise<BuiltNorm> {
  const { node, scope } = site;
  checkInputs(context, site);
  const opset = opsetOf(scope);
  const isSpatial = opset >= 9 || (findAttribute(site, 'spatial')?.int ?? 1n) !== 0n;
  const names: Untiled[] = [];
  for (const index of [1, 2, 3, 4]) names.push(await untile(context, site, node.inputs[index] ?? ''));
  const isTiled = names.some(({ isTiled }) => isTiled);
  const inputs = await readInputs(
    context,
    site,
    names.map(({ name }) => name),
    isSpatial,
  );
  const producer = findProducer(scope, node.inputs[0] ?? '');
  const [gamma = '', beta = '', mean = '', variance = ''] = names.map(({ name }) =>
    findTrueName(scope, name),
  );
  const norm: NormNode = {
    nodeName: node.name,
    path: pathFromNameScopes(node.notes.nameScopes) ?? pathFromNodeName(node.name),
    scope: scope.path,
    inputNames: [gamma, beta, mean, variance],
    ...inputs,
    epsilon: findAttribute(site, 'epsilon')?.float ?? DEFAULT_EPSILON,
    momentum: findAttribute(site, 'momentum')?.float ?? DEFAULT_MOMENTUM,
    mode: await findMode(context.evaluator, site),
    opset,
    neighbours: context.neighbours.find(scope, node.inputs[0] ?? ''),
    feedingLinear: producer === null ? null : context.linearIndex(producer),
    notes: describeOddities(site, { isSpatial, isTiled, inputs }),
  };
  return { norm, definitions: names.map(({ name }) => followAliases(scope, name)?.definition ?? null) };
}

function checkInputs({ evaluator }: NormContext, site: Site): void {
  const { inputs } = site.node;
  const missing = ['mean', 'var'].filter((_, i) => (inputs[i + 3] ?? '') === '');
  if (missing.length === 0) return;
  const found =
    inputs.length < INPUT_COUNT ? `${inputs.length}` : `an empty name for ${missing.join(' and ')}`;
  throw evaluator.error(
    `${describeSite(site)}: expected the five inputs X, scale, B, mean and var, found ${found}`,
  );
}

interface NormInputs {
  readonly gamma: ConstantInput;
  readonly beta: ConstantInput;
  readonly mean: ConstantInput;
  readonly variance: ConstantInput;
}

async function readInputs(
  context: NormContext,
  site: Site,
  names: readonly string[],
  isSpatial: boolean,
): Promise<NormInputs> {
  const labels = ['scale', 'bias', 'mean', 'variance'];
  const constants: (Constant | null)[] = [];
  for (const [i, name] of names.entries()) {
    const label = `the ${labels[i]} of ${describeSite(site)}`;
    const constant = await evaluateInput(context, site, name, label);
    if (constant !== null) checkVector(context, constant, isSpatial, label);
    constants.push(constant);
  }
  const [gamma = null, beta = null, mean = null, variance = null] = constants;
  const channels = commonLength(context, site, [mean, variance, gamma, beta]);
  return {
    gamma: await toInput(gamma, channels),
    beta: await toInput(beta, channels),
    mean: await toInput(mean, channels),
    variance: await toInput(variance, channels),
  };
}

/** Evaluates an input; errors say whose input it is. */
async function evaluateInput(
  { evaluator }: NormContext,
  site: Site,
  name: string,
  label: string,
): Promise<Constant | null> {
  if (name === '') return null;
  try {
    return await evaluator.evaluate(site.scope, name);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    const { code, file, offset, hint, cause } = error;
    throw new CheckpointError(`${label}: ${error.message}`, { code, file, offset, hint, cause });
  }
}

/** Scale, bias and statistics are one float for every channel; `[1, C, 1, 1]` says the same. */
function checkVector(
  { evaluator }: NormContext,
  constant: Constant,
  isSpatial: boolean,
  label: string,
): void {
  if (constant.kind === 'unresolved') {
    // A stored tensor without a DType (strings, 4-bit integers) can be no statistic at all.
    if (constant.isUndecodable === true) {
      throw evaluator.error(`${label}: expected a tensor of floats: ${constant.reason}`);
    }
    return;
  }
  const { tensor } = constant;
  if (!isFloatingPoint(tensor.dtype) || !isDecodable(tensor.dtype)) {
    throw evaluator.error(
      `${label}: expected floats, found tensor ${quote(tensor.name)} of type ${tensor.dtype}`,
    );
  }
  if (constant.kind === 'uniform') return;
  // Where the vector has more dimensions, channels are the second, as in a batch.
  const isVector = tensor.shape.length === 1 || tensor.shape.every((dim, axis) => dim === 1 || axis === 1);
  if (tensor.elementCount === 0 || (isSpatial && !isVector)) {
    const found = `found tensor ${quote(tensor.name)} of shape [${tensor.shape.join(', ')}]`;
    throw evaluator.error(`${label}: expected one value per channel, ${found}`);
  }
  if (tensor.elementCount > MAX_STATISTIC_ELEMENTS) {
    const message = `${label}: expected at most ${MAX_STATISTIC_ELEMENTS} values, found ${tensor.elementCount}`;
    throw evaluator.error(message, 'limit-exceeded');
  }
}

/** The number of channels that all constant inputs agree on; null where none of them tells. */
function commonLength(
  { evaluator }: NormContext,
  site: Site,
  constants: readonly (Constant | null)[],
): number | null {
  const lengths = constants.flatMap((item) => (item?.kind === 'constant' ? [item.tensor.elementCount] : []));
  const [first] = lengths;
  if (new Set(lengths).size <= 1) return first ?? null;
  const found = `found ${lengths.join(', ')} channels`;
  throw evaluator.error(
    `${describeSite(site)}: expected mean, variance, scale and bias of one length, ${found}`,
  );
}

/** An evaluated input as the graph shows it: a vector, and a value repeated at run time written out. */
export async function toInput(constant: Constant | null, channels: number | null): Promise<ConstantInput> {
  if (constant === null) return { kind: 'absent' };
  switch (constant.kind) {
    case 'unresolved':
      return constant;
    case 'constant':
      return { ...constant, tensor: { ...constant.tensor, shape: [constant.tensor.elementCount] } };
    case 'uniform': {
      if (channels === null) return { kind: 'unresolved', reason: 'its length is known at run time only' };
      const tensor = await repeatTensor(constant.tensor, [channels]);
      return { kind: 'constant', tensor, source: constant.source, overridable: constant.overridable };
    }
    default: {
      const never: never = constant;
      return never;
    }
  }
}

/** A parameter's name in front of the Tile that repeats it, if there is one. */
interface Untiled {
  readonly name: string;
  readonly isTiled: boolean;
}

/** The layer's own parameters are those in front of the Tile that repeats them. */
async function untile({ evaluator }: NormContext, site: Site, name: string): Promise<Untiled> {
  const tile = findTile(site.scope, name);
  if (tile === null) return { name, isTiled: false };
  const input = tile.node.inputs[0] ?? '';
  const constant = input === '' ? null : await evaluator.evaluate(site.scope, input);
  const isVector = constant?.kind === 'constant' && constant.tensor.shape.length === 1;
  return isVector ? { name: input, isTiled: true } : { name, isTiled: false };
}

function describeOddities(
  site: Site,
  facts: { readonly isSpatial: boolean; readonly isTiled: boolean; readonly inputs: NormInputs },
): readonly string[] {
  const { inputs } = facts;
  const overridable = Object.values(inputs).some((input) => input.kind === 'constant' && input.overridable);
  const notes: string[] = [];
  if (overridable)
    notes.push('its parameters are graph inputs as well: a caller may replace them at run time');
  if (!facts.isSpatial)
    notes.push('spatial = 0: one mean and one variance for every position of every channel');
  if (facts.isTiled) notes.push('its parameters are tiled over the batch, as InstanceNorm is exported');
  if (site.node.inputs.length > INPUT_COUNT)
    notes.push('a draft of the operator with training_mode as sixth input');
  if (opsetOf(site.scope) === 0) notes.push('the model imports no version of the standard operators');
  return notes;
}

/** What a warning calls norm-like operators of other domains; null for any other node. */
export function describeForeignNorm(site: Site): string | null {
  const { node } = site;
  const isForeign = node.domain !== '' && /batch_?norm/i.test(node.op);
  return isForeign ? `${describeNode(node)} of the domain ${quote(node.domain)}` : null;
}
