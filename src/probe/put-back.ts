// Makes the model that after would be with before's statistics, in memory.

import onnxProto from 'onnx-proto';
import { encodeFloats } from '../checkpoint/dtype.js';
import type { FoldedComparison, LayerComparison } from '../compare/compare-layers.js';
import { repeatValues } from '../compare/pair-layers.js';
import { readChannelVector, readOptional } from '../compare/statistics.js';
import { type GraphEdit, type GraphField, NodeEdits } from '../formats/onnx/edit-graph.js';
import { findTile, walkUpstream } from '../formats/onnx/follow.js';
import { FIELDS } from '../formats/onnx/schema.js';
import { type Found, findAttribute, opsetOf, type Scope, type Site } from '../formats/onnx/scope.js';
import type { LocatedNodes } from '../formats/onnx/split-constants.js';
import { holdBytes, readRange } from '../io/byte-source.js';
import { type LayerVector, type NormLayer, storedTensorOf } from '../norm/norm-layer.js';

const { AttributeProto, NodeProto, ValueInfoProto } = onnxProto.onnx;

/** The types that statistics are fed in, and their TensorProto.DataType. */
const ELEMENT_TYPES = { F32: 1, F16: 10, F64: 11 } as const;

/** A type that statistics can be fed in. */
type FedType = keyof typeof ELEMENT_TYPES;

/** Whether statistics of a type can be fed to ONNX Runtime; bfloat16 has no array type in JavaScript. */
function isFedType(dtype: string): dtype is FedType {
  return Object.hasOwn(ELEMENT_TYPES, dtype);
}

/** A further input of a graph. */
function encodeGraphInput(name: string, dtype: FedType, shape: readonly number[]): GraphField {
  const dim = shape.map((size) => ({ dimValue: size }));
  const type = { tensorType: { elemType: ELEMENT_TYPES[dtype], shape: { dim } } };
  const content = holdBytes(ValueInfoProto.encode({ name, type }).finish());
  return { number: FIELDS.graph.input, content };
}

/** A further output of a graph; its type is left to be inferred. */
function encodeGraphOutput(name: string): GraphField {
  return { number: FIELDS.graph.output, content: holdBytes(ValueInfoProto.encode({ name }).finish()) };
}

/** A node of the standard operators. */
function encodeNode(node: {
  readonly op: 'Mul' | 'Add' | 'Cast';
  readonly inputs: readonly string[];
  readonly output: string;
  /** The type that a Cast converts to. */
  readonly to?: FedType;
}): GraphField {
  const { op, inputs, output, to } = node;
  const attribute =
    to === undefined ? [] : [{ name: 'to', i: ELEMENT_TYPES[to], type: AttributeProto.AttributeType.INT }];
  const encoded = NodeProto.encode({
    input: [...inputs],
    output: [output],
    name: output,
    opType: op,
    attribute,
  });
  return { number: FIELDS.graph.node, content: holdBytes(encoded.finish()) };
}

/** An input of a node. */
interface NodeInput {
  readonly site: Site;
  readonly index: number;
}

/**
 * The input at which a statistic enters: the norm node's own, or that of the Tile which repeats it for the batch
 * (InstanceNorm), or of the function call that hands it in.
 *
 * @returns null where a local function makes the statistic itself: its body stands for every call.
 */
function findSupply(norm: Site, index: number): NodeInput | null {
  let at: NodeInput = { site: norm, index };
  const tile = findTile(norm.scope, nameAt(at));
  if (tile !== null) at = { site: tile, index: 0 };
  const start = { scope: at.site.scope, name: nameAt(at) };
  const nextBound = ({ definition }: Found) => (definition.kind === 'bound' ? definition : null);
  for (const { scope, name, definition } of walkUpstream(start, nextBound)) {
    if (isInGraph(at.site.scope)) return at;
    const { caller } = scope;
    if (caller === null || definition.kind !== 'bound') return null;
    at = { site: caller, index: scope.inputs.indexOf(name) };
  }
  return isInGraph(at.site.scope) ? at : null;
}

function nameAt({ site, index }: NodeInput): string {
  return site.node.inputs[index] ?? '';
}

/** Whether a scope is the main graph or lies in it, functions left out: then the main graph's names are seen there. */
function isInGraph(scope: Scope): boolean {
  for (let at: Scope | null = scope; at !== null; at = at.parent) if (at.isMain) return true;
  return false;
}

/** Factors and offsets per channel: y′ = factor · y + offset. */
interface FoldShift {
  readonly factors: Float64Array;
  readonly offsets: Float64Array;
}

/**
 * What putting before's statistics back does to the output of a convolution that a norm layer was folded into.
 *
 * A norm layer gives y = γ·(x − μB)/σB + β with after's statistics and y′ = γ·(x − μA)/σA + β with before's, so
 *
 *     y′ = (σB/σA)·y + β·(1 − σB/σA) + γ/σA·(μB − μA),
 *
 * which is what folding the convolution again from before's statistics comes to. Where before is folded as well and its
 * convolution is k times after's, y′ = k·y + b′ − k·b with the two folded biases.
 *
 * @returns null where nothing tells the statistics.
 */
async function findFoldShift(layer: LayerComparison): Promise<FoldShift | null> {
  if (layer.kind === 'folded') return findShiftOfBoth(layer);
  if (layer.drift?.perChannel == null) return null;
  const { before, after, stdRatio } = layer.drift.perChannel;
  const gamma = await readOptional(storedTensorOf(layer.before.gamma));
  const beta = await readOptional(storedTensorOf(layer.before.beta));
  return shiftChannels(stdRatio, (channel, factor) => {
    const sigma = Math.sqrt((before.variance[channel] ?? Number.NaN) + layer.epsilon);
    const meanShift = (after.mean[channel] ?? Number.NaN) - (before.mean[channel] ?? Number.NaN);
    return (beta?.values[channel] ?? 0) * (1 - factor) + ((gamma?.values[channel] ?? 1) / sigma) * meanShift;
  });
}

async function findShiftOfBoth({
  beforeLinear,
  afterLinear,
  drift,
}: FoldedComparison): Promise<FoldShift | null> {
  if (drift === null || drift.stdRatio === null) return null;
  const biasBefore = await readOptional(beforeLinear.bias);
  const biasAfter = await readOptional(afterLinear.bias);
  return shiftChannels(
    drift.stdRatio,
    (channel, factor) => (biasBefore?.values[channel] ?? 0) - factor * (biasAfter?.values[channel] ?? 0),
  );
}

/** A channel without a factor has weights of zero, or a γ so small that nothing shows of it: only its offset counts. */
function shiftChannels(
  stdRatio: readonly number[],
  offsetOf: (channel: number, factor: number) => number,
): FoldShift {
  const factors = Float64Array.from(stdRatio, (ratio) => (Number.isFinite(ratio) && ratio > 0 ? ratio : 1));
  const offsets = Float64Array.from(factors, (factor, channel) => {
    const offset = offsetOf(channel, factor);
    return Number.isFinite(offset) ? offset : 0;
  });
  return { factors, offsets };
}

/** A tensor that the probe's copy of the model takes as an input: after's value for the one run, before's for the other. */
interface FedStatistic {
  readonly name: string;
  readonly dtype: FedType;
  readonly shape: readonly number[];
  readonly after: Uint8Array;
  readonly before: Uint8Array;
}

/** What the probe does with one layer. */
export interface LayerPlan {
  readonly comparison: LayerComparison;
  /** Outputs of the probe's copy that are the layer's own, one for each call; none where it cannot be tapped. */
  readonly taps: readonly string[];
  /** What is fed for the layer; null where its statistics are not put back. */
  readonly fed: readonly FedStatistic[] | null;
  /** Why the layer cannot be tapped or put back. */
  readonly notes: readonly string[];
}

/** The probe's copy of a model, and what it does with each layer, along the depth. */
export interface ProbePlan {
  readonly edit: GraphEdit;
  readonly layers: readonly LayerPlan[];
}

/** What a plan is made from. */
interface PlanRequest {
  readonly comparisons: readonly LayerComparison[];
  /** After's live norm layers, in the order of its graph. */
  readonly layersOfAfter: readonly NormLayer[];
  /** Weights of after's linear nodes, in the order of its graph. */
  readonly linearWeights: readonly unknown[];
  readonly nodes: LocatedNodes;
  readonly isPutBack: (comparison: LayerComparison) => boolean;
}

/** Inputs of BatchNormalization. */
const MEAN_INPUT = 3;
const VARIANCE_INPUT = 4;

/** From this version on Mul and Add broadcast as NumPy does. */
const FIRST_BROADCASTING_OPSET = 7;

/**
 * Plans a copy of after whose statistics are inputs, so that one session runs it with those of either checkpoint: a live
 * norm node reads its mean and variance from two new inputs, and behind a convolution with a folded norm layer stands
 * the product and sum that {@link findFoldShift} gives. With after's own values both are exactly what after computes.
 */
export async function planProbe(request: PlanRequest): Promise<ProbePlan> {
  const planner = new Planner(request);
  const plans: { readonly depth: number; readonly plan: LayerPlan }[] = [];
  for (const [index, comparison] of request.comparisons.entries()) {
    const sites = planner.findSites(comparison);
    const depth = sites[0] === undefined ? Number.POSITIVE_INFINITY : planner.edits.depthOf(sites[0]);
    plans.push({ depth, plan: await planner.planLayer(comparison, sites, index) });
  }
  plans.sort((x, y) => x.depth - y.depth || 0);
  return { edit: planner.edits.root, layers: plans.map(({ plan }) => plan) };
}

class Planner {
  readonly edits: NodeEdits;
  readonly #request: PlanRequest;
  /** Outputs that the model has, or that were added. */
  readonly #outputs: Set<string>;
  /** The layer whose statistics enter at an input, or that was folded into a node. */
  readonly #owners = new Map<Site['node'], Map<number, LayerComparison>>();

  constructor(request: PlanRequest) {
    this.#request = request;
    this.edits = new NodeEdits(request.nodes.mainGraph);
    this.#outputs = new Set(request.nodes.mainGraph.outputs);
  }

  /** The nodes of after whose outputs are the layer's. */
  findSites({ after }: LayerComparison): readonly Site[] {
    const { nodes, layersOfAfter, linearWeights } = this.#request;
    const { foldedInto } = after;
    if (foldedInto === undefined) {
      // By name: what a layer repeats may have been taken away from it.
      return nodes.norms[layersOfAfter.findIndex(({ name }) => name === after.name)] ?? [];
    }
    // The layer's output is that of the node which adds the bias.
    return nodes.linears.flatMap((site, index) =>
      linearWeights[index] === foldedInto.weight ? [nodes.biases[index]?.site ?? site] : [],
    );
  }

  async planLayer(comparison: LayerComparison, sites: readonly Site[], index: number): Promise<LayerPlan> {
    const notes: string[] = [];
    const isWanted = this.#request.isPutBack(comparison);
    const isFolded = comparison.after.foldedInto !== undefined;
    const put = !isWanted
      ? null
      : isFolded
        ? await this.#putBackFolded(comparison, sites, index)
        : await this.#putBackLive(comparison, sites, index);
    if (typeof put === 'string') notes.push(`its statistics are not put back: ${put}`);
    if (comparison.after.mode === 'batch') {
      notes.push('its node runs in training mode: it normalises by batch statistics, whatever is put back');
    }
    const taps = sites.flatMap((site) => this.#tap(site) ?? []);
    if (taps.length < sites.length || sites.length === 0) {
      notes.push('its output cannot be tapped: it stands inside of a subgraph or a local function');
    }
    return { comparison, taps, fed: typeof put === 'string' ? null : put, notes };
  }

  /** Makes a node's output one of the model's; null where it is none of the main graph. */
  #tap({ node, scope }: Site): string | null {
    const [name = ''] = node.outputs;
    if (!scope.isMain || name === '') return null;
    if (!this.#outputs.has(name)) this.edits.root.added.push(encodeGraphOutput(name));
    this.#outputs.add(name);
    return name;
  }

  async #putBackLive(
    comparison: LayerComparison,
    sites: readonly Site[],
    index: number,
  ): Promise<readonly FedStatistic[] | string> {
    const before = comparison.kind === 'folded' ? null : (comparison.drift?.perChannel?.before ?? null);
    if (before === null) return comparison.problem ?? 'those of before cannot be told';
    if (sites.length === 0) return 'its node was not found';
    if (sites.some(isPositional)) return 'they differ from position to position (spatial = 0)';
    const name = (role: string) => `bn-audit/${index}/${role}`;
    const mean = await feed(name('mean'), comparison.after.mean, before.mean);
    const variance = await feed(name('variance'), comparison.after.variance, before.variance);
    if (typeof mean === 'string') return mean;
    if (typeof variance === 'string') return variance;
    const supplies = [];
    for (const site of sites) {
      for (const [input, fed] of [
        [MEAN_INPUT, mean],
        [VARIANCE_INPUT, variance],
      ] as const) {
        const supply = findSupply(site, input);
        if (supply === null) return 'a local function holds them';
        if (!this.#claim(comparison, supply.site, supply.index)) return 'another layer shares their input';
        supplies.push({ ...supply, fed });
      }
    }
    for (const { site, index: input, fed } of supplies) this.edits.at(site)?.inputs.set(input, fed.name);
    for (const { name: inputName, dtype, shape } of [mean, variance]) {
      this.edits.root.added.push(encodeGraphInput(inputName, dtype, shape));
    }
    return [mean, variance];
  }

  async #putBackFolded(
    comparison: LayerComparison,
    sites: readonly Site[],
    index: number,
  ): Promise<readonly FedStatistic[] | string> {
    const linear = comparison.after.foldedInto;
    const shift = await findFoldShift(comparison);
    if (linear === undefined || shift === null)
      return comparison.problem ?? 'its weights do not tell those of before';
    const obstacle = findFoldObstacle(sites);
    if (obstacle !== null) return obstacle;
    const { dtype } = linear.weight;
    if (!isFedType(dtype)) return `ONNX Runtime takes no ${dtype} from JavaScript`;
    if (sites.some((site) => !this.#claim(comparison, site, -1))) return 'another layer was folded there too';
    // Halves are multiplied in float32, so that after's own factors of 1 change nothing and before's are not rounded.
    const type = dtype === 'F16' ? 'F32' : dtype;
    const [first] = sites;
    const shape =
      first?.node.op === 'Gemm'
        ? [linear.channels]
        : [linear.channels, ...linear.weight.shape.slice(2).map(() => 1)];
    const ones = new Float64Array(linear.channels).fill(1);
    const fed = [
      { role: 'factor', after: ones, before: shift.factors },
      { role: 'offset', after: ones.map(() => 0), before: shift.offsets },
    ].map(({ role, after, before }) => ({
      name: `bn-audit/${index}/${role}`,
      dtype: type,
      shape,
      after: encodeFloats(after, type),
      before: encodeFloats(before, type),
    }));
    const names = fed.map(({ name }) => name);
    for (const [call, site] of sites.entries())
      this.#shiftOutput(site, { names, stem: `bn-audit/${index}.${call}`, dtype, type });
    for (const input of fed)
      this.edits.root.added.push(encodeGraphInput(input.name, input.dtype, input.shape));
    return fed;
  }

  /** Puts a product and a sum behind a node; its output's name goes to the sum. */
  #shiftOutput(
    site: Site,
    { names, stem, dtype, type }: { names: readonly string[]; stem: string; dtype: FedType; type: FedType },
  ): void {
    const edit = this.edits.at(site);
    const [output = ''] = site.node.outputs;
    const [factor = '', offset = ''] = names;
    if (edit === null) return;
    const isCast = dtype !== type;
    const [raw, wide, product, sum] = ['raw', 'wide', 'product', 'sum'].map((part) => `${stem}/${part}`) as [
      string,
      string,
      string,
      string,
    ];
    edit.outputs.set(0, raw);
    if (isCast) edit.following.push(encodeNode({ op: 'Cast', inputs: [raw], output: wide, to: type }));
    edit.following.push(
      encodeNode({ op: 'Mul', inputs: [isCast ? wide : raw, factor], output: product }),
      encodeNode({ op: 'Add', inputs: [product, offset], output: isCast ? sum : output }),
    );
    if (isCast) edit.following.push(encodeNode({ op: 'Cast', inputs: [sum], output, to: dtype }));
  }

  /** Whether an input is the layer's alone; from now on it is. */
  #claim(comparison: LayerComparison, { node }: Site, input: number): boolean {
    const owners = this.#owners.get(node) ?? new Map<number, LayerComparison>();
    this.#owners.set(node, owners);
    const owner = owners.get(input) ?? comparison;
    owners.set(input, owner);
    return owner === comparison;
  }
}

/** A statistic as an input: after's own bytes, and before's values rounded to after's type. */
async function feed(
  name: string,
  statistic: LayerVector,
  before: readonly number[],
): Promise<FedStatistic | string> {
  if (statistic.kind === 'unresolved') return statistic.reason;
  const whole = statistic.whole ?? statistic.tensor;
  const { dtype, elementCount } = whole;
  if (!isFedType(dtype)) return `ONNX Runtime takes no ${dtype} from JavaScript`;
  const own = await readChannelVector(statistic.tensor);
  // A channel that folding hides on before's side has no value there; it keeps after's.
  const values = Float64Array.from(before, (value, channel) =>
    Number.isFinite(value) ? value : (own.values[channel] ?? value),
  );
  return {
    name,
    dtype,
    shape: [elementCount],
    after: await readRange(whole.range),
    before: encodeFloats(repeatValues(values, whole), dtype),
  };
}

function isPositional(site: Site): boolean {
  return opsetOf(site.scope) < 9 && findAttribute(site, 'spatial')?.int === 0n;
}

function findFoldObstacle(sites: readonly Site[]): string | null {
  for (const { node, scope } of sites) {
    if (!isInGraph(scope)) return 'a local function holds the convolution';
    if (node.domain !== '') return 'an activation is fused into the convolution';
    if (node.op === 'MatMul') return 'a MatMul has no bias that it was folded into';
    if (opsetOf(scope) < FIRST_BROADCASTING_OPSET)
      return `the model's operators are of version ${opsetOf(scope)}, too old to add to`;
  }
  return sites.length === 0 ? 'its convolution was not found' : null;
}
