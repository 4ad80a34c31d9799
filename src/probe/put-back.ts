// Makes the model that after would be with before's statistics, in memory.

import onnxProto from 'onnx-proto';
import { type DType, encodeFloats } from '../checkpoint/dtype.js';
import type { FoldedComparison, LayerComparison } from '../compare/compare-layers.js';
import { repeatValues } from '../compare/pair-layers.js';
import { readChannelVector, readOptional } from '../compare/statistics.js';
import type { AuditResults } from '../compare-checkpoints.js';
import { editNode, type GraphEdit, type GraphField, newGraphEdit } from '../formats/onnx/edit-graph.js';
import { findTile, walkUpstream } from '../formats/onnx/follow.js';
import type { InputSlot } from '../formats/onnx/linear-nodes.js';
import { MEAN_INPUT, VARIANCE_INPUT } from '../formats/onnx/norm-nodes.js';
import type { OnnxCheckpoint } from '../formats/onnx/onnx.js';
import type { LocatedNodes } from '../formats/onnx/plan-edits.js';
import { FIELDS, type OnnxNode } from '../formats/onnx/schema.js';
import { type Found, findAttribute, opsetOf, type Scope, type Site } from '../formats/onnx/scope.js';
import { dataTypeOf } from '../formats/onnx/stored-tensor.js';
import { holdBytes, readRange } from '../io/byte-source.js';
import { getOrMake } from '../norm/naming.js';
import { type LayerVector, storedTensorOf } from '../norm/norm-layer.js';

const { AttributeProto, NodeProto, ValueInfoProto } = onnxProto.onnx;

/** The types that statistics are fed in; bfloat16 has no array type in JavaScript. */
type FedType = 'F32' | 'F16' | 'F64';

function isFedType(dtype: DType): dtype is FedType {
  return dtype === 'F32' || dtype === 'F16' || dtype === 'F64';
}

function encodeGraphInput({ name, dtype, shape }: FedStatistic): GraphField {
  const dim = shape.map((size) => ({ dimValue: size }));
  const type = { tensorType: { elemType: dataTypeOf(dtype) ?? null, shape: { dim } } };
  const content = holdBytes(ValueInfoProto.encode({ name, type }).finish());
  return { number: FIELDS.graph.input, content };
}

/** A node of the standard operators. @param to the type that a Cast converts to. */
function encodeNode(op: 'Mul' | 'Add' | 'Cast', input: string[], output: string, to?: FedType): GraphField {
  const type = AttributeProto.AttributeType.INT;
  const attribute = to === undefined ? [] : [{ name: 'to', i: dataTypeOf(to) ?? null, type }];
  const node = { input, output: [output], name: output, opType: op, attribute };
  return { number: FIELDS.graph.node, content: holdBytes(NodeProto.encode(node).finish()) };
}

/**
 * The input at which a statistic enters: the norm node's own, or that of the Tile which repeats it for the batch
 * (InstanceNorm), or of the function call that hands it in.
 *
 * @returns null where a local function makes the statistic itself: its body stands for every call.
 */
function findSupply(norm: Site, index: number): InputSlot | null {
  const tile = findTile(norm.scope, norm.node.inputs[index] ?? '');
  let at: InputSlot = tile === null ? { site: norm, index } : { site: tile, index: 0 };
  const start = { scope: at.site.scope, name: at.site.node.inputs[at.index] ?? '' };
  const nextBound = ({ definition }: Found) => (definition.kind === 'bound' ? definition : null);
  for (const { scope, name, definition } of walkUpstream(start, nextBound)) {
    if (isInGraph(at.site.scope)) return at;
    const { caller } = scope;
    if (caller === null || definition.kind !== 'bound') return null;
    at = { site: caller, index: scope.inputs.indexOf(name) };
  }
  return isInGraph(at.site.scope) ? at : null;
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
  const perChannel = layer.kind === 'merged' ? null : layer.drift?.perChannel;
  if (perChannel == null) return null;
  const { before, after, stdRatio } = perChannel;
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

/** From this version on Mul and Add broadcast as NumPy does. */
const FIRST_BROADCASTING_OPSET = 7;

/**
 * Plans a copy of after whose statistics are inputs, so that one session runs it with those of either checkpoint: a live
 * norm node reads its mean and variance from two new inputs, and behind a convolution with a folded norm layer stands
 * the product and sum that {@link findFoldShift} gives. With after's own values both are exactly what after computes.
 */
export async function planProbe(
  after: OnnxCheckpoint,
  compared: AuditResults,
  isPutBack: (comparison: LayerComparison) => boolean,
): Promise<ProbePlan> {
  const planner = new Planner(after, compared, await after.locateNodes());
  const plans: { readonly depth: number; readonly plan: LayerPlan }[] = [];
  for (const [index, comparison] of compared.layers.entries()) {
    const sites = planner.findSites(comparison);
    const put = isPutBack(comparison) ? await planner.putBack(comparison, sites, index) : null;
    plans.push({ depth: planner.depthOf(sites[0]), plan: planner.planLayer(comparison, sites, put) });
  }
  plans.sort((x, y) => x.depth - y.depth || 0);
  return { edit: planner.edit, layers: plans.map(({ plan }) => plan) };
}

class Planner {
  readonly edit: GraphEdit;
  readonly #after: OnnxCheckpoint;
  readonly #compared: AuditResults;
  readonly #nodes: LocatedNodes;
  readonly #depths: ReadonlyMap<OnnxNode, number>;
  /** Outputs that the model has, or that were added. */
  readonly #outputs: Set<string>;
  /** The layer whose statistics enter at an input, or that was folded into a node. */
  readonly #owners = new Map<OnnxNode, Map<number, LayerComparison>>();

  constructor(after: OnnxCheckpoint, compared: AuditResults, nodes: LocatedNodes) {
    this.#after = after;
    this.#compared = compared;
    this.#nodes = nodes;
    this.edit = newGraphEdit(nodes.mainGraph);
    this.#depths = new Map(nodes.mainGraph.nodes.map((node, index) => [node, index]));
    this.#outputs = new Set(nodes.mainGraph.outputs);
  }

  /** Where along the main graph a node stands, or the node there that holds it; behind all others where there is none. */
  depthOf(site: Site | undefined): number {
    if (site === undefined) return Number.POSITIVE_INFINITY;
    const { caller } = site.scope;
    return caller === null ? (this.#depths.get(site.node) ?? 0) : this.depthOf(caller);
  }

  /** The nodes of after whose outputs are the layer's. */
  findSites({ after }: LayerComparison): readonly Site[] {
    const { foldedInto } = after;
    if (foldedInto === undefined) {
      // By name: what a layer repeats may have been taken away from it.
      const index = this.#compared.after.layers.findIndex(({ name }) => name === after.name);
      return this.#nodes.norms[index] ?? [];
    }
    // The layer's output is that of the node which adds the bias.
    return (this.#after.graph?.linears ?? []).flatMap(({ weight }, index) => {
      const isFolded = weight.kind === 'constant' && weight.tensor === foldedInto.weight;
      return isFolded ? (this.#nodes.linears[index]?.bias.site ?? []) : [];
    });
  }

  /** @param put what {@link putBack} gave; null where nothing is put back. */
  planLayer(
    comparison: LayerComparison,
    sites: readonly Site[],
    put: readonly FedStatistic[] | string | null,
  ): LayerPlan {
    const notes: string[] = [];
    if (typeof put === 'string') notes.push(`its statistics are not put back: ${put}`);
    if (comparison.after.mode === 'batch')
      notes.push('its node runs in training mode: it normalises by batch statistics, whatever is put back');
    const taps = sites.flatMap((site) => this.#tap(site) ?? []);
    if (taps.length < sites.length || sites.length === 0)
      notes.push('its output cannot be tapped: it stands inside of a subgraph or a local function');
    return { comparison, taps, fed: typeof put === 'string' ? null : put, notes };
  }

  /** Makes a node's output one of the model's; null where it is none of the main graph. */
  #tap({ node, scope }: Site): string | null {
    const [name = ''] = node.outputs;
    if (!scope.isMain || name === '') return null;
    // Its type is left to be inferred.
    const content = holdBytes(ValueInfoProto.encode({ name }).finish());
    if (!this.#outputs.has(name)) this.edit.added.push({ number: FIELDS.graph.output, content });
    this.#outputs.add(name);
    return name;
  }

  /** @returns what is fed for the layer, or why its statistics are not put back. */
  putBack(comparison: LayerComparison, sites: readonly Site[], index: number) {
    const isFolded = comparison.after.foldedInto !== undefined;
    return isFolded
      ? this.#putBackFolded(comparison, sites, index)
      : this.#putBackLive(comparison, sites, index);
  }

  async #putBackLive(
    comparison: LayerComparison,
    sites: readonly Site[],
    index: number,
  ): Promise<readonly FedStatistic[] | string> {
    const { drift } = comparison;
    const before = drift !== null && 'measures' in drift ? (drift.perChannel?.before ?? null) : null;
    if (before === null) return comparison.problem ?? 'those of before cannot be told';
    if (sites.length === 0) return 'its node was not found';
    if (sites.some((site) => opsetOf(site.scope) < 9 && findAttribute(site, 'spatial')?.int === 0n))
      return 'they differ from position to position (spatial = 0)';
    const name = (role: string) => `bn-audit/${index}/${role}`;
    const mean = await feed(name('mean'), comparison.after.mean, before.mean);
    const variance = await feed(name('variance'), comparison.after.variance, before.variance);
    if (typeof mean === 'string') return mean;
    if (typeof variance === 'string') return variance;
    const supplies = [];
    const wanted = [
      { input: MEAN_INPUT, fed: mean },
      { input: VARIANCE_INPUT, fed: variance },
    ];
    for (const site of sites) {
      for (const { input, fed } of wanted) {
        const supply = findSupply(site, input);
        if (supply === null) return 'a local function holds them';
        if (!this.#claim(comparison, supply.site, supply.index)) return 'another layer shares their input';
        supplies.push({ ...supply, fed });
      }
    }
    for (const { site, index: input, fed } of supplies)
      editNode(this.edit, site.node).inputs.set(input, fed.name);
    this.edit.added.push(...[mean, variance].map(encodeGraphInput));
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
    const fed: readonly FedStatistic[] = [
      { role: 'factor', after: ones, before: shift.factors },
      { role: 'offset', after: ones.map(() => 0), before: shift.offsets },
    ].map(({ role, after, before }) => ({
      name: `bn-audit/${index}/${role}`,
      dtype: type,
      shape,
      after: encodeFloats(after, type),
      before: encodeFloats(before, type),
    }));
    for (const [call, site] of sites.entries())
      this.#shiftOutput(site, `bn-audit/${index}.${call}`, dtype, fed);
    this.edit.added.push(...fed.map(encodeGraphInput));
    return fed;
  }

  /** Puts a product and a sum behind a node, in the type of the factors; its output's name goes to the sum. */
  #shiftOutput(site: Site, stem: string, dtype: FedType, [factor, offset]: readonly FedStatistic[]): void {
    const edit = editNode(this.edit, site.node);
    const [output = ''] = site.node.outputs;
    if (factor === undefined || offset === undefined) return;
    const isCast = dtype !== factor.dtype;
    const raw = `${stem}/raw`;
    const wide = isCast ? `${stem}/wide` : raw;
    const product = `${stem}/product`;
    const sum = isCast ? `${stem}/sum` : output;
    edit.outputs.set(0, raw);
    if (isCast) edit.following.push(encodeNode('Cast', [raw], wide, factor.dtype));
    edit.following.push(encodeNode('Mul', [wide, factor.name], product));
    edit.following.push(encodeNode('Add', [product, offset.name], sum));
    if (isCast) edit.following.push(encodeNode('Cast', [sum], output, dtype));
  }

  /** Whether an input is the layer's alone; from now on it is. */
  #claim(comparison: LayerComparison, { node }: Site, input: number): boolean {
    const owners = getOrMake(this.#owners, node, () => new Map<number, LayerComparison>());
    return getOrMake(owners, input, () => comparison) === comparison;
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
