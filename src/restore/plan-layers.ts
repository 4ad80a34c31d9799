// What restore writes for each layer: before's statistics, or the folding of before's into after's convolution.

import { type ChannelLayout, forEachRun, layOutChannels } from '../checkpoint/channel-grid.js';
import type { Checkpoint, Tensor, TensorEdit } from '../checkpoint/checkpoint.js';
import {
  bitsOf,
  type DType,
  decodeFloats,
  encodeFloats,
  IS_LITTLE_ENDIAN,
  isFloatingPoint,
} from '../checkpoint/dtype.js';
import {
  type FoldedComparison,
  type LayerComparison,
  type RecoveredComparison,
  readBatchCount,
  readStoredLayer,
} from '../compare/compare-layers.js';
import { repeatValues } from '../compare/pair-layers.js';
import {
  countTrue,
  findInvalidValue,
  readChannelVector,
  readOptional,
  type Statistics,
} from '../compare/statistics.js';
import { CheckpointError, quote } from '../errors.js';
import { compareChannelScales, takeScales } from '../folding/channel-scales.js';
import { solveLayer } from '../folding/recover-statistics.js';
import { multiply } from '../folding/weight-loops.js';
import { type ByteRange, type ByteSource, checkBounds, haveSameBytes, holdBytes } from '../io/byte-source.js';
import { type LinearLayer, type NormLayer, nameInFile, storedTensorOf } from '../norm/norm-layer.js';

/** The error that says why a layer cannot be restored, and which checkpoint is to blame. */
function cannotRestore(
  { name }: Pick<NormLayer, 'name'>,
  { path }: Checkpoint,
  why: string,
): CheckpointError {
  return new CheckpointError(`layer ${quote(name)} cannot be restored: ${why}`, {
    code: 'unsupported',
    file: path,
    hint: 'Nothing was written. To restore other layers without it, name them: --layer GLOB',
  });
}

/** What becomes of a weight. */
interface WeightScaling {
  /** How elements belong to output channels. */
  readonly layout: ChannelLayout;
  /** One per output channel. */
  readonly factors: Float64Array;
  /** The type that the products are rounded to, once. */
  readonly dtype: DType;
  /** The error for a product that is too large for that type. */
  readonly fail: () => Error;
}

/** Bytes multiplied at a time: those that were just read are still in the processor's cache. */
const PIECE_BYTES = 256 * 1024;

/** Elements converted at a time: memory stays flat for any weight, and they stay in the processor's cache. */
const CHUNK_ELEMENTS = 16 * 1024;

/**
 * A weight with each output channel times a factor, as little-endian bytes of another type. The products are computed in
 * float64, whenever they are read, and never held as a whole.
 */
export function scaleWeight(weight: Tensor, scaling: WeightScaling): ByteRange {
  const width = bitsOf(scaling.dtype) / 8;
  const isFloat32 = weight.dtype === 'F32' && scaling.dtype === 'F32' && IS_LITTLE_ENDIAN;
  const fill = isFloat32 ? multiplyInPlace : convert;
  const source: ByteSource = {
    name: weight.range.source.name,
    byteLength: weight.elementCount * width,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      const first = Math.floor(position / width);
      const skipped = position - first * width;
      if (skipped === 0 && target.byteLength % width === 0 && target.byteOffset % width === 0)
        return fill(weight, scaling, { target, first });
      const elements = new Uint8Array(Math.ceil((skipped + target.byteLength) / width) * width);
      await fill(weight, scaling, { target: elements, first });
      target.set(elements.subarray(skipped, skipped + target.byteLength));
    },
    async close() {},
  };
  return { source, offset: 0, byteLength: source.byteLength };
}

/** Whole elements to be filled with products, the first of them by its index in the weight. */
interface ScaledPart {
  /** Aligned to its elements. */
  readonly target: Uint8Array;
  readonly first: number;
}

/** Float32 as it stands in the file, to float32: read to where the products belong, and multiplied there. */
async function multiplyInPlace(
  { range, shape }: Tensor,
  { layout, factors, fail }: WeightScaling,
  { target, first }: ScaledPart,
): Promise<void> {
  const grid = layOutChannels(shape, layout);
  for (let done = 0; done < target.byteLength; done += PIECE_BYTES) {
    const piece = target.subarray(done, done + PIECE_BYTES);
    await range.source.readInto(piece, range.offset + 4 * first + done);
    const values = new Float32Array(piece.buffer, piece.byteOffset, piece.byteLength / 4);
    const elements = { start: first + done / 4, length: values.length };
    const fits = forEachRun(grid, elements, (channel, from, to) => {
      return multiply(values, { from, to }, factors[channel] ?? Number.NaN);
    });
    if (!fits) throw fail();
  }
}

/** From any type to any other. */
async function convert(
  { range, shape, dtype: from }: Tensor,
  { layout, factors, dtype, fail }: WeightScaling,
  { target, first }: ScaledPart,
): Promise<void> {
  const [width, widthBefore] = [bitsOf(dtype) / 8, bitsOf(from) / 8];
  const grid = layOutChannels(shape, layout);
  const count = target.byteLength / width;
  const held = new Uint8Array(Math.min(count, CHUNK_ELEMENTS) * widthBefore);
  for (let done = 0; done < count; done += CHUNK_ELEMENTS) {
    const length = Math.min(CHUNK_ELEMENTS, count - done);
    const bytes = held.subarray(0, length * widthBefore);
    await range.source.readInto(bytes, range.offset + (first + done) * widthBefore);
    const values = decodeFloats(bytes, from);
    forEachRun(grid, { start: first + done, length }, (channel, start, end) => {
      const factor = factors[channel] ?? Number.NaN;
      for (let i = start; i < end; i++) values[i] = factor * (values[i] ?? Number.NaN);
      return true;
    });
    const encoded = encodeFloats(values, dtype);
    if (!decodeFloats(encoded, dtype).every(Number.isFinite)) throw fail();
    target.set(encoded, done * width);
  }
}

/** Statistics that were solved for, and what there is to say about them. */
interface RecoveredLayer {
  readonly statistics: Statistics;
  readonly notes: readonly string[];
}

/**
 * Solves the statistics of a layer that before has folded away from before's factors and after's live layer. Channels
 * that folding hides keep the values of after: their scale is zero or so near it that the layer does not use them.
 *
 * @throws CheckpointError `unsupported` where the two convolutions are no multiples of each other.
 */
async function recoverLayer(
  { after, epsilon, liveLinear: live, foldedLinear: folded, status }: RecoveredComparison,
  side: RestoreSide,
): Promise<RecoveredLayer> {
  const found = await compareChannelScales(live.weight, folded.weight, live);
  // Of weights too few to tell by themselves, the audit has told by all others whether they were trained.
  const isTrained = found.kind === 'short' && status === 'trained';
  const compared = isTrained ? null : takeScales(found);
  if (compared === null)
    throw cannotRestore(
      after,
      side.checkpoint,
      'before has folded it into a convolution, which was trained since',
    );
  const { held, recovered } = await solveLayer({ layer: after, live, folded }, compared, epsilon);
  const { statistics, hidden, contradicted, vanished, varianceTolerances } = recovered;
  if (contradicted.some(Boolean))
    throw cannotRestore(after, side.checkpoint, 'its scale has changed its sign, so it was trained');
  const lost = vanished.indexOf(true);
  if (lost >= 0)
    throw cannotRestore(
      after,
      side.checkpoint,
      `the folded weights of channel ${lost} are zero in before, and its γ is not`,
    );
  const { values: variances } = statistics.variance;
  const impossible = variances.findIndex((variance, channel) => {
    // Rounding is in proportion to what it rounds.
    const spread = (held.variance.values[channel] ?? 0) + epsilon;
    const rounding = ((varianceTolerances[channel] ?? 0) * (variance + epsilon)) / spread;
    return hidden[channel] !== true && variance < -rounding;
  });
  if (impossible >= 0)
    throw cannotRestore(
      after,
      side.checkpoint,
      `only a variance of ${variances[impossible]?.toPrecision(3)} would explain the scale of channel ${impossible} in before: its weight was trained, or epsilon is not ${epsilon}`,
    );
  const merge = (solved: Float64Array, own: Float64Array) =>
    solved.map((value, channel) => (hidden[channel] === true ? (own[channel] ?? value) : value));
  const count = countTrue(hidden);
  return {
    statistics: {
      mean: { ...statistics.mean, values: merge(statistics.mean.values, held.mean.values) },
      variance: {
        ...statistics.variance,
        values: merge(statistics.variance.values, held.variance.values).map((value) => Math.max(value, 0)),
      },
    },
    notes: [
      'folded away in before: the statistics were solved for, to float32 rounding',
      ...(count === 0
        ? []
        : [`${count} of ${hidden.length} channels keep the values of after: folding hides those of before`]),
    ],
  };
}

/**
 * Folds a layer again, from the convolution and the statistics of before: with s = γ / √(v + ε),
 *
 *     W″ = s · W,   b″ = β + s · (b − μ),
 *
 * computed in float64 and rounded once, to after's types.
 *
 * @throws CheckpointError `unsupported` where before's statistics are invalid.
 */
async function refold(
  { before, epsilon, liveLinear: live, foldedLinear: folded }: RecoveredComparison,
  side: RestoreSide,
): Promise<PartPlan> {
  const { mean, variance, gamma, beta } = await readStoredLayer(before);
  const invalid = findInvalidValue({ mean, variance });
  if (invalid !== null) throw cannotRestore(before, side.checkpoint, `before itself is invalid: ${invalid}`);
  const bias = await readOptional(live.bias);
  const scales = new Float64Array(variance.values.length);
  const offsets = new Float64Array(scales.length);
  for (let channel = 0; channel < scales.length; channel++) {
    const spread = (variance.values[channel] ?? Number.NaN) + epsilon;
    const scale = (gamma?.values[channel] ?? 1) / Math.sqrt(spread);
    const center = (bias?.values[channel] ?? 0) - (mean.values[channel] ?? Number.NaN);
    scales[channel] = scale;
    offsets[channel] = (beta?.values[channel] ?? 0) + scale * center;
  }
  const place = { folded, side };
  const weight = hasValues(live.weight)
    ? scaleInto(place, before, { linear: live, factors: scales })
    : await rescale(before, { linear: live, scales }, place);
  return { edits: editFolding(before, { weight, bias: offsets }, place), notes: noteRescaled(live) };
}

/** Where a folded convolution goes. */
interface FoldingPlace {
  /** The convolution of after. */
  readonly folded: LinearLayer;
  readonly side: RestoreSide;
}

/** Copies the convolution of before, which the layer was folded into on both sides. */
async function copyFolding(
  { before, beforeLinear: linear, afterLinear: folded }: FoldedComparison,
  side: RestoreSide,
): Promise<PartPlan> {
  const place = { folded, side };
  const { weight: target } = place.folded;
  const ones = new Float64Array(linear.channels).fill(1);
  const weight = !hasValues(linear.weight)
    ? await rescale(before, { linear, scales: ones }, place)
    : linear.weight.dtype === target.dtype
      ? linear.weight.range
      : scaleInto(place, before, { linear, factors: ones });
  const bias =
    linear.bias === null ? new Float64Array(linear.channels) : (await readChannelVector(linear.bias)).values;
  return { edits: editFolding(before, { weight, bias }, place), notes: noteRescaled(linear) };
}

/** A baseline keeps of a weight what tells whether another is a multiple of it, and not its values. */
function hasValues({ fingerprint }: Tensor): boolean {
  return fingerprint === undefined;
}

function noteRescaled({ weight }: LinearLayer): readonly string[] {
  return hasValues(weight)
    ? []
    : ['before keeps no weights: those of after were rescaled channel by channel, to float32 rounding'];
}

/**
 * Folds again without the weights of before: those of after are s_after · W, so that times scale / s_after they are what
 * the scales of before make of W. A channel of zeros stays one.
 */
async function rescale(
  layer: NormLayer,
  { linear, scales }: { readonly linear: LinearLayer; readonly scales: Float64Array },
  place: FoldingPlace,
): Promise<ByteRange> {
  const { folded, side } = place;
  const compared = takeScales(await compareChannelScales(linear.weight, folded.weight, linear));
  if (compared === null)
    throw cannotRestore(layer, side.checkpoint, 'it is folded into a convolution that was trained');
  const factors = scales.map((scale, channel) => {
    const now = compared.scales[channel] ?? Number.NaN;
    if (Number.isNaN(now) || (now === 0 && scale === 0)) return 1;
    return scale / now;
  });
  return scaleInto(place, layer, { linear: folded, factors });
}

/** A weight times its channels' factors as what after's convolution is to hold. */
function scaleInto(
  { folded, side }: FoldingPlace,
  layer: NormLayer,
  { linear, factors }: { readonly linear: LinearLayer; readonly factors: Float64Array },
): ByteRange {
  const { dtype } = folded.weight;
  const fail = () => doesNotFit(layer, side, 'folded weight', folded.weight);
  return scaleWeight(linear.weight, { layout: linear, factors, dtype, fail });
}

function doesNotFit(layer: NormLayer, side: RestoreSide, part: Part, { dtype }: Tensor): Error {
  return cannotRestore(layer, side.checkpoint, `its ${part} does not fit into ${dtype}`);
}

/** Values as the bytes of a tensor; null where one is too large for its type. */
function encode(values: Float64Array, { dtype }: Tensor): Uint8Array | null {
  const bytes = encodeFloats(values, dtype);
  return decodeFloats(bytes, dtype).every(Number.isFinite) ? bytes : null;
}

function editFolding(
  layer: NormLayer,
  { weight, bias }: { readonly weight: ByteRange; readonly bias: Float64Array },
  { folded, side }: FoldingPlace,
): readonly PartEdit[] {
  if (folded.bias === null && bias.some((value) => value !== 0))
    throw cannotRestore(
      layer,
      side.checkpoint,
      'after has folded it into a convolution without a bias, and it needs one',
    );
  const nameOf = (leaf: string) => `${folded.path ?? layer.name}.${leaf}`;
  const weightEdit: PartEdit = {
    part: 'folded weight',
    tensor: folded.weight,
    content: weight,
    preferredName: nameOf('weight'),
  };
  if (folded.bias === null) return [weightEdit];
  const bytes = encode(bias, folded.bias);
  if (bytes === null) throw doesNotFit(layer, side, 'folded bias', folded.bias);
  const biasEdit: PartEdit = {
    part: 'folded bias',
    tensor: folded.bias,
    content: holdBytes(bytes),
    preferredName: nameOf('bias'),
  };
  return [weightEdit, biasEdit];
}

/** What aliases are looked for among. */
interface AliasContext {
  readonly after: Checkpoint;
  /** After's learned tensors, by dotted name. */
  readonly learned: ReadonlyMap<string, Tensor>;
  /** Every layer of the audit. */
  readonly layers: readonly LayerComparison[];
}

/**
 * Adds the other names of restored tensors: a module that a model holds under two names is stored once, and only one of
 * the names may have a partner in before. Names of layers that have one, and of learned tensors, stay out: they are to be
 * restored by themselves or not at all. A graph's names are not looked at, because its nodes tell who reads what.
 */
export function addAliases(plans: readonly LayerPlan[], context: AliasContext): readonly LayerPlan[] {
  const { after, layers } = context;
  if (after.graph !== null) return plans;
  const taken = new Set(plans.flatMap(({ edits }) => edits.map(({ tensor }) => tensor.name)));
  for (const layer of layers) for (const tensor of listStatistics(layer)) taken.add(tensor.name);
  const learned = new Set(context.learned.values());
  const byPlace = new Map<string, Tensor[]>();
  for (const tensor of after.tensors.values()) {
    if (taken.has(tensor.name) || learned.has(tensor)) continue;
    const key = placeOf(tensor);
    byPlace.set(key, [...(byPlace.get(key) ?? []), tensor]);
  }
  return plans.map((plan) => addTo(plan, byPlace));
}

function addTo(plan: LayerPlan, byPlace: ReadonlyMap<string, readonly Tensor[]>): LayerPlan {
  const added: PartEdit[] = [];
  for (const edit of plan.edits) {
    for (const tensor of byPlace.get(placeOf(edit.tensor)) ?? [])
      if (tensor.range.source === edit.tensor.range.source) added.push({ ...edit, tensor });
  }
  if (added.length === 0) return plan;
  const names = added.map(({ tensor }) => quote(tensor.name)).join(', ');
  const note = `the same tensors bear other names in after, which change with it: ${names}`;
  return { ...plan, edits: [...plan.edits, ...added], notes: [...plan.notes, note] };
}

function listStatistics({ after: { mean, variance, batchCount } }: LayerComparison): readonly Tensor[] {
  return [mean, variance, batchCount].flatMap((vector) => storedTensorOf(vector) ?? []);
}

function placeOf({ range, dtype }: Tensor): string {
  return JSON.stringify([range.source.name, range.offset, range.byteLength, dtype]);
}

/** What a tensor is to its layer. */
export type Part = 'running mean' | 'running variance' | 'batch count' | 'folded weight' | 'folded bias';

/** A tensor of after that is to hold what before says. */
interface PartEdit extends TensorEdit {
  readonly part: Part;
}

/** What restoring one layer changes. */
export interface LayerPlan {
  readonly comparison: LayerComparison;
  /** Empty where after holds the values of before already. */
  readonly edits: readonly PartEdit[];
  /** Null where the count stays, or there is none. */
  readonly batches: { readonly from: bigint; readonly to: bigint } | null;
  /** What could not be put back, and why. */
  readonly notes: readonly string[];
}

/** One checkpoint of an audit. */
interface RestoreSide {
  readonly checkpoint: Checkpoint;
  readonly learned: ReadonlyMap<string, Tensor>;
}

/** What the plans of layers are made from. */
interface LayerPlanContext {
  readonly before: RestoreSide;
  readonly after: RestoreSide;
  readonly keepBatches: boolean;
}

/**
 * Plans what after's tensors must hold for one layer to have the statistics of before.
 *
 * @throws CheckpointError `unsupported` naming the layer, where before does not tell them or after has no place for them.
 */
export async function planLayer(comparison: LayerComparison, context: LayerPlanContext): Promise<LayerPlan> {
  const { before, after } = comparison;
  const found = await planStatistics(comparison, context);
  const counts = await planBatchCount(before, after, context.keepBatches);
  const edits: PartEdit[] = [];
  for (const edit of [...found.edits, ...counts.edits]) {
    if (!(await haveSameBytes(edit.tensor.range, edit.content))) edits.push(edit);
  }
  return { comparison, edits, batches: counts.batches, notes: [...found.notes, ...counts.notes] };
}

/** Edits and what there is to say about them. */
interface PartPlan {
  readonly edits: readonly PartEdit[];
  readonly notes: readonly string[];
}

async function planStatistics(comparison: LayerComparison, context: LayerPlanContext): Promise<PartPlan> {
  const { kind, before, after } = comparison;
  if (after.foldedInto !== undefined) refuseTrainedFolding(comparison, context);
  if (kind === 'folded') return copyFolding(comparison, context.before);
  if (kind === 'recovered' && after.foldedInto !== undefined) return refold(comparison, context.before);
  const { statistics, notes } =
    kind === 'live'
      ? { statistics: await readKnown(before, context.before), notes: [] }
      : await recoverLayer(comparison, context.after);
  return { edits: encodeStatistics(comparison, statistics, context), notes };
}

/** Folding hides statistics in weights: where these were trained as well, nothing tells the two apart. */
function refuseTrainedFolding({ status, before }: LayerComparison, { after }: LayerPlanContext): void {
  if (status === 'drifted' || status === 'ambiguous' || status === 'locked') return;
  throw cannotRestore(
    before,
    after.checkpoint,
    `it is folded into a convolution and ${status}: its statistics cannot be told from what was trained`,
  );
}

async function readKnown(layer: NormLayer, { checkpoint }: RestoreSide): Promise<Statistics> {
  for (const statistic of [layer.mean, layer.variance]) {
    if (statistic.kind === 'unresolved') throw cannotRestore(layer, checkpoint, statistic.reason);
  }
  const statistics = await readStoredLayer(layer);
  const invalid = findInvalidValue(statistics);
  if (invalid !== null) throw cannotRestore(layer, checkpoint, `before itself is invalid: ${invalid}`);
  return statistics;
}

function encodeStatistics(
  comparison: LayerComparison,
  { mean, variance }: Statistics,
  context: LayerPlanContext,
): readonly PartEdit[] {
  const { after, channels } = comparison;
  const { checkpoint } = context.after;
  if (after.mean.kind === 'unresolved') throw cannotRestore(comparison, checkpoint, after.mean.reason);
  if (after.variance.kind === 'unresolved')
    throw cannotRestore(comparison, checkpoint, after.variance.reason);
  if (mean.values.length !== after.mean.tensor.elementCount)
    throw cannotRestore(
      comparison,
      checkpoint,
      `it has ${channels} channels in before and ${after.channels} in after`,
    );
  const [meanTensor, varianceTensor] = [
    after.mean.whole ?? after.mean.tensor,
    after.variance.whole ?? after.variance.tensor,
  ];
  const bytes = {
    mean: encodeFloats(repeatValues(mean.values, meanTensor), meanTensor.dtype),
    variance: encodeFloats(repeatValues(variance.values, varianceTensor), varianceTensor.dtype),
  };
  const decode = (encoded: Uint8Array, { dtype }: Tensor) => ({
    values: decodeFloats(encoded, dtype),
    dtype,
  });
  const overflow = findInvalidValue({
    mean: decode(bytes.mean, meanTensor),
    variance: decode(bytes.variance, varianceTensor),
  });
  if (overflow !== null)
    throw cannotRestore(
      comparison,
      checkpoint,
      `rounded to the types of after (${meanTensor.dtype}, ${varianceTensor.dtype}), ${overflow}`,
    );
  return [
    {
      part: 'running mean',
      tensor: meanTensor,
      content: holdBytes(bytes.mean),
      preferredName: `${nameInFile(after)}.running_mean`,
    },
    {
      part: 'running variance',
      tensor: varianceTensor,
      content: holdBytes(bytes.variance),
      preferredName: `${nameInFile(after)}.running_var`,
    },
  ];
}

async function planBatchCount(
  before: NormLayer,
  after: NormLayer,
  keepBatches: boolean,
): Promise<PartPlan & Pick<LayerPlan, 'batches'>> {
  const from = await readBatchCount(after);
  const tensor = storedTensorOf(after.batchCount);
  if (keepBatches || typeof from !== 'bigint' || tensor === null)
    return { edits: [], notes: [], batches: null };
  const to = await readBatchCount(before);
  if (typeof to !== 'bigint') {
    const reason = to === null ? 'before has none' : `that of before is an average, ${to}`;
    return { edits: [], notes: [`the batch count stays ${from}: ${reason}`], batches: null };
  }
  const bytes = encodeCount(to, tensor);
  if (bytes === null)
    return {
      edits: [],
      notes: [`the batch count stays ${from}: ${tensor.dtype} cannot hold ${to}`],
      batches: null,
    };
  const preferredName = `${nameInFile(after)}.num_batches_tracked`;
  return {
    edits: [{ part: 'batch count', tensor, content: holdBytes(bytes), preferredName }],
    notes: [],
    batches: from === to ? null : { from, to },
  };
}

/** A whole number in a tensor's type; null where it does not fit. */
function encodeCount(count: bigint, { dtype }: Tensor): Uint8Array | null {
  if (isFloatingPoint(dtype)) {
    const bytes = encodeFloats([Number(count)], dtype);
    return decodeFloats(bytes, dtype)[0] === Number(count) ? bytes : null;
  }
  const bits = bitsOf(dtype);
  const fits = dtype.startsWith('I') ? BigInt.asIntN(bits, count) : BigInt.asUintN(bits, count);
  if (fits !== count || dtype === 'BOOL') return null;
  return Uint8Array.from({ length: bits / 8 }, (_, byte) =>
    Number(BigInt.asUintN(8, count >> BigInt(8 * byte))),
  );
}
