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
  type MergedComparison,
  type RecoveredComparison,
  readBatchCount,
  readStoredLayer,
} from '../compare/compare-layers.js';
import { repeatValues } from '../compare/pair-layers.js';
import {
  type ChannelVector,
  findInvalidValue,
  readOptional,
  type Statistics,
} from '../compare/statistics.js';
import { multiply } from '../compare/weight-loops.js';
import type { AuditResults } from '../compare-checkpoints.js';
import { CheckpointError, quote } from '../errors.js';
import { compareChannelScales, takeScales } from '../folding/channel-scales.js';
import { solveLayer } from '../folding/recover-statistics.js';
import {
  type ByteRange,
  type ByteSource,
  checkBounds,
  haveSameBytes,
  holdBytes,
  wholeOf,
} from '../io/byte-source.js';
import { addTo } from '../norm/naming.js';
import {
  type LinearLayer,
  type NormLayer,
  nameInFile,
  storedTensorOf,
  whyUnresolved,
} from '../norm/norm-layer.js';

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

interface WeightScaling {
  /** How elements belong to output channels. */
  readonly layout: ChannelLayout;
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
  return wholeOf(source);
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

/**
 * Solves the statistics of a layer that before has folded away from before's factors and after's live layer. Channels
 * that folding hides keep the values of after: their scale is zero or so near it that the layer does not use them.
 *
 * @throws CheckpointError `unsupported` where the two convolutions are no multiples of each other.
 */
async function recoverLayer(
  { after, epsilon, liveLinear: live, foldedLinear: folded, status, weightFactor }: RecoveredComparison,
  side: Checkpoint,
) {
  const refuse = (why: string) => cannotRestore(after, side, why);
  const unread = whyUnresolved(after);
  if (unread !== null) throw refuse(unread);
  const found = await compareChannelScales(live.weight, folded.weight, live);
  // Of weights too few to tell by themselves, the audit has told by all others whether they were trained.
  const isTrained = found.kind === 'short' && status === 'trained';
  const compared = isTrained ? null : takeScales(found);
  if (compared === null) throw refuse('before has folded it into a convolution, which was trained since');
  const scales = compared.scales.map((scale) => scale / (weightFactor ?? Number.NaN));
  const undone = { ...compared, scales };
  const { held, solved, statistics } = await solveLayer({ layer: after, live, folded }, undone, epsilon);
  if (solved.some(({ isContradicted }) => isContradicted))
    throw refuse('its scale has changed its sign, so it was trained');
  const lost = solved.findIndex(({ hasVanished }) => hasVanished);
  if (lost >= 0) throw refuse(`the folded weights of channel ${lost} are zero in before, and its γ is not`);
  const { values: variances } = statistics.variance;
  const impossible = solved.findIndex(({ variance, varianceTolerance, isHidden }, channel) => {
    // Rounding is in proportion to what it rounds.
    const spread = (held.variance.values[channel] ?? 0) + epsilon;
    const rounding = (varianceTolerance * (variance + epsilon)) / spread;
    return !isHidden && variance < -rounding;
  });
  if (impossible >= 0)
    throw refuse(
      `only a variance of ${variances[impossible]?.toPrecision(3)} would explain the scale of channel ${impossible} in before: its weight was trained, or epsilon is not ${epsilon}`,
    );
  const merge = (vector: ChannelVector, own: ChannelVector, least: number): ChannelVector => ({
    ...vector,
    values: vector.values.map((value, channel) =>
      Math.max(least, solved[channel]?.isHidden === true ? (own.values[channel] ?? value) : value),
    ),
  });
  const count = solved.filter(({ isHidden }) => isHidden).length;
  return {
    statistics: {
      mean: merge(statistics.mean, held.mean, Number.NEGATIVE_INFINITY),
      variance: merge(statistics.variance, held.variance, 0),
    },
    notes: [
      'folded away in before: the statistics were solved for, to float32 rounding',
      ...(count === 0
        ? []
        : [`${count} of ${solved.length} channels keep the values of after: folding hides those of before`]),
    ],
  };
}

/**
 * Folds a layer again, from the convolution and the statistics of before: with s = γ / √(v + ε),
 *
 *     W″ = s · W,   b″ = β + s · (b − μ),
 *
 * with W″ times a constant that an optimiser has moved there from the data in front, and all
 * computed in float64 and rounded once, to after's types.
 *
 * @throws CheckpointError `unsupported` where before's statistics are invalid.
 */
async function refold(
  { before, epsilon, liveLinear: live, foldedLinear: folded, weightFactor }: RecoveredComparison,
  side: Checkpoint,
): Promise<PartPlan> {
  const { mean, variance, gamma, beta } = await readStoredLayer(before);
  refuseInvalid(before, { mean, variance }, side);
  const bias = await readOptional(live.bias);
  const scales = new Float64Array(variance.values.length);
  const offsets = new Float64Array(scales.length);
  for (let channel = 0; channel < scales.length; channel++) {
    const spread = (variance.values[channel] ?? Number.NaN) + epsilon;
    const scale = (gamma?.values[channel] ?? 1) / Math.sqrt(spread);
    const center = (bias?.values[channel] ?? 0) - (mean.values[channel] ?? Number.NaN);
    scales[channel] = scale * (weightFactor ?? Number.NaN);
    offsets[channel] = (beta?.values[channel] ?? 0) + scale * center;
  }
  return planFolding({ layer: before, folded, side, linear: live, scales, bias: offsets });
}

/** A convolution of before, what its channels are to be multiplied by, and the bias that goes with them. */
interface Folding {
  readonly layer: NormLayer;
  /** The convolution of after. */
  readonly folded: LinearLayer;
  readonly side: Checkpoint;
  readonly linear: LinearLayer;
  readonly scales: Float64Array;
  readonly bias: Float64Array;
}

/** Copies the convolution of before, which the layer was folded into on both sides. */
async function copyFolding(
  { before, beforeLinear: linear, afterLinear: folded, gain, weightFactor }: FoldedComparison,
  side: Checkpoint,
): Promise<PartPlan> {
  const gains = gain ?? new Float64Array(linear.channels).fill(1);
  const scales = gains.map((value) => value * (weightFactor ?? Number.NaN));
  const own = (await readOptional(linear.bias))?.values ?? new Float64Array(linear.channels);
  const bias = own.map((value, channel) => value * (gains[channel] ?? Number.NaN));
  const isCopied = gain === null && weightFactor === 1 && linear.weight.dtype === folded.weight.dtype;
  const copy = isCopied ? linear.weight.range : undefined;
  return planFolding({ layer: before, folded, side, linear, scales, bias }, copy);
}

/** @param copy the weight, where it is to be as before holds it. */
async function planFolding(folding: Folding, copy?: ByteRange): Promise<PartPlan> {
  const { linear, scales } = folding;
  // A baseline keeps of a weight what tells whether another is a multiple of it, and not its values.
  if (linear.weight.fingerprint !== undefined) {
    const note =
      'before keeps no weights: those of after were rescaled channel by channel, to float32 rounding';
    return { edits: editFolding(await rescale(folding), folding), notes: [note] };
  }
  return { edits: editFolding(copy ?? scaleInto(folding, linear, scales), folding), notes: [] };
}

/**
 * Folds again without the weights of before: those of after are s_after · W, so that times scale / s_after they are what
 * the scales of before make of W. A channel of zeros stays one.
 */
async function rescale(folding: Folding): Promise<ByteRange> {
  const { layer, folded, side, linear, scales } = folding;
  const compared = takeScales(await compareChannelScales(linear.weight, folded.weight, linear));
  if (compared === null) throw cannotRestore(layer, side, 'it is folded into a convolution that was trained');
  const factors = scales.map((scale, channel) => {
    const now = compared.scales[channel] ?? Number.NaN;
    return Number.isNaN(now) || (now === 0 && scale === 0) ? 1 : scale / now;
  });
  return scaleInto(folding, folded, factors);
}

/** A weight times its channels' factors as what after's convolution is to hold. */
function scaleInto(folding: Folding, linear: LinearLayer, factors: Float64Array): ByteRange {
  const { weight } = folding.folded;
  const fail = () => doesNotFit(folding, 'folded weight', weight);
  return scaleWeight(linear.weight, { layout: linear, factors, dtype: weight.dtype, fail });
}

function doesNotFit({ layer, side }: Folding, part: Part, { dtype }: Tensor): Error {
  return cannotRestore(layer, side, `its ${part} does not fit into ${dtype}`);
}

function editFolding(weight: ByteRange, folding: Folding): readonly PartEdit[] {
  const { layer, folded, side, bias } = folding;
  const edit = (part: Part, tensor: Tensor, content: ByteRange, leaf: string): PartEdit => {
    return { part, tensor, content, preferredName: `${folded.path ?? layer.name}.${leaf}` };
  };
  const weightEdit = edit('folded weight', folded.weight, weight, 'weight');
  if (folded.bias === null) {
    if (bias.every((value) => value === 0)) return [weightEdit];
    const why = 'after has folded it into a convolution without a bias, and it needs one';
    throw cannotRestore(layer, side, why);
  }
  const bytes = encodeFloats(bias, folded.bias.dtype);
  if (!decodeFloats(bytes, folded.bias.dtype).every(Number.isFinite))
    throw doesNotFit(folding, 'folded bias', folded.bias);
  return [weightEdit, edit('folded bias', folded.bias, holdBytes(bytes), 'bias')];
}

/**
 * Adds the other names of restored tensors: a module that a model holds under two names is stored once, and only one of
 * the names may have a partner in before. Names of layers that have one, and of learned tensors, stay out: they are to be
 * restored by themselves or not at all. A graph's names are not looked at, because its nodes tell who reads what.
 */
export function addAliases(
  plans: readonly LayerPlan[],
  { after, layers }: AuditResults,
): readonly LayerPlan[] {
  if (after.checkpoint.graph !== null) return plans;
  const statistics = layers.flatMap(({ after: { mean, variance, batchCount } }) =>
    [mean, variance, batchCount].flatMap((vector) => storedTensorOf(vector) ?? []),
  );
  const edited = plans.flatMap(({ edits }) => edits.map(({ tensor }) => tensor));
  const taken = new Set([...edited, ...statistics].map(({ name }) => name));
  const learned = new Set(after.learned.values());
  const byPlace = new Map<string, Tensor[]>();
  for (const tensor of after.checkpoint.tensors.values()) {
    if (taken.has(tensor.name) || learned.has(tensor)) continue;
    addTo(byPlace, placeOf(tensor), tensor);
  }
  return plans.map((plan) => addOtherNames(plan, byPlace));
}

function addOtherNames(plan: LayerPlan, byPlace: ReadonlyMap<string, readonly Tensor[]>): LayerPlan {
  const added = plan.edits.flatMap((edit) =>
    (byPlace.get(placeOf(edit.tensor)) ?? [])
      .filter(({ range }) => range.source === edit.tensor.range.source)
      .map((tensor) => ({ ...edit, tensor })),
  );
  if (added.length === 0) return plan;
  const names = added.map(({ tensor }) => quote(tensor.name)).join(', ');
  const note = `the same tensors bear other names in after, which change with it: ${names}`;
  return { ...plan, edits: [...plan.edits, ...added], notes: [...plan.notes, note] };
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

interface LayerPlanContext {
  readonly before: Checkpoint;
  readonly after: Checkpoint;
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
  for (const edit of [...found.edits, ...counts.edits])
    if (!(await haveSameBytes(edit.tensor.range, edit.content))) edits.push(edit);
  return { comparison, edits, batches: counts.batches, notes: [...found.notes, ...counts.notes] };
}

interface PartPlan {
  readonly edits: readonly PartEdit[];
  readonly notes: readonly string[];
}

async function planStatistics(comparison: LayerComparison, context: LayerPlanContext): Promise<PartPlan> {
  const { kind, before, after } = comparison;
  refuseQuantised(comparison, context);
  if (kind === 'merged') throw refuseMerged(comparison, context);
  const open = kind === 'live' ? null : findOpenConstant(comparison);
  if (open !== null) throw cannotRestore(before, context.after, `${open}, ${EXPORT_AGAIN}`);
  if (after.foldedInto !== undefined) refuseTrainedFolding(comparison, context);
  if (kind === 'folded') return copyFolding(comparison, context.before);
  if (kind === 'recovered' && after.foldedInto !== undefined) return refold(comparison, context.before);
  const { statistics, notes } =
    kind === 'live'
      ? { statistics: await readKnown(before, context.before), notes: [] }
      : await recoverLayer(comparison, context.after);
  return { edits: encodeStatistics(comparison, statistics, context), notes };
}

const EXPORT_AGAIN =
  'which an optimiser may have moved into the weights: put the statistics back into the checkpoint that was exported, and export that again';

/** Why no file tells whether a constant was moved into folded weights from the data in front; null where that is told. */
function findOpenConstant(layer: RecoveredComparison | FoldedComparison): string | null {
  if (layer.weightFactor === null)
    return 'the data in front of its convolution is multiplied by a constant in one file that the other does not have';
  const linears =
    layer.kind === 'folded'
      ? [layer.beforeLinear, layer.afterLinear]
      : [layer.liveLinear, layer.foldedLinear];
  const areByNames = linears.some(({ dataFactor }) => dataFactor === undefined);
  const isOpen = layer.isUniformScale && areByNames && layer.after.foldedInto?.dataFactor !== undefined;
  return isOpen ? 'all channels of its convolution were multiplied by the same constant' : null;
}

/** A sum of branches has no place for the statistics of one, and does not tell them. */
function refuseMerged({ before, after, block }: MergedComparison, context: LayerPlanContext): Error {
  const name = quote(block.name);
  const why =
    after.foldedInto === undefined
      ? `before has merged its block into ${name}, whose sum does not tell the means of single branches: name the checkpoint of its training form`
      : `after has merged its block into ${name}: put the statistics back into its training form, and merge that again`;
  return cannotRestore(before, context.after, why);
}

/** Codes stand for intervals: what was folded into them is not known exactly, and what is folded again is no code. */
function refuseQuantised({ before, after }: LayerComparison, context: LayerPlanContext): void {
  for (const layer of [before, after]) {
    const { weight, bias } = layer.foldedInto ?? { weight: undefined, bias: null };
    if (weight?.quantised === undefined && bias?.quantised === undefined) continue;
    const side = layer === before ? 'before' : 'after';
    throw cannotRestore(
      before,
      context.after,
      `it is folded into a quantised convolution in ${side}: put the statistics back into the float model, and quantise that again`,
    );
  }
}

/** Folding hides statistics in weights: where these were trained as well, nothing tells the two apart. */
function refuseTrainedFolding({ status, before }: LayerComparison, { after }: LayerPlanContext): void {
  if (status === 'drifted' || status === 'ambiguous' || status === 'locked') return;
  throw cannotRestore(
    before,
    after,
    `it is folded into a convolution and ${status}: its statistics cannot be told from what was trained`,
  );
}

async function readKnown(layer: NormLayer, side: Checkpoint): Promise<Statistics> {
  const unread = whyUnresolved(layer);
  if (unread !== null) throw cannotRestore(layer, side, unread);
  const statistics = await readStoredLayer(layer);
  refuseInvalid(layer, statistics, side);
  return statistics;
}

function refuseInvalid(layer: NormLayer, statistics: Statistics, side: Checkpoint): void {
  const invalid = findInvalidValue(statistics);
  if (invalid !== null) throw cannotRestore(layer, side, `before itself is invalid: ${invalid}`);
}

function encodeStatistics(
  comparison: LayerComparison,
  { mean, variance }: Statistics,
  context: LayerPlanContext,
): readonly PartEdit[] {
  const { after, channels } = comparison;
  const refuse = (why: string) => cannotRestore(comparison, context.after, why);
  if (after.mean.kind === 'unresolved') throw refuse(after.mean.reason);
  if (after.variance.kind === 'unresolved') throw refuse(after.variance.reason);
  if (mean.values.length !== after.mean.tensor.elementCount)
    throw refuse(`it has ${channels} channels in before and ${after.channels} in after`);
  const [meanTensor, varianceTensor] = [
    after.mean.whole ?? after.mean.tensor,
    after.variance.whole ?? after.variance.tensor,
  ];
  const meanBytes = encodeFloats(repeatValues(mean.values, meanTensor), meanTensor.dtype);
  const varianceBytes = encodeFloats(repeatValues(variance.values, varianceTensor), varianceTensor.dtype);
  const decode = (bytes: Uint8Array, { dtype }: Tensor) => ({ values: decodeFloats(bytes, dtype), dtype });
  const overflow = findInvalidValue({
    mean: decode(meanBytes, meanTensor),
    variance: decode(varianceBytes, varianceTensor),
  });
  if (overflow !== null)
    throw refuse(`rounded to the types of after (${meanTensor.dtype}, ${varianceTensor.dtype}), ${overflow}`);
  const edit = (part: Part, tensor: Tensor, bytes: Uint8Array, leaf: string): PartEdit => {
    return { part, tensor, content: holdBytes(bytes), preferredName: `${nameInFile(after)}.${leaf}` };
  };
  return [
    edit('running mean', meanTensor, meanBytes, 'running_mean'),
    edit('running variance', varianceTensor, varianceBytes, 'running_var'),
  ];
}

async function planBatchCount(
  before: NormLayer,
  after: NormLayer,
  keepBatches: boolean,
): Promise<PartPlan & Pick<LayerPlan, 'batches'>> {
  const from = await readBatchCount(after);
  const tensor = storedTensorOf(after.batchCount);
  const nothing = { edits: [], notes: [], batches: null };
  if (keepBatches || typeof from !== 'bigint' || tensor === null) return nothing;
  const stays = (reason: string) => ({ ...nothing, notes: [`the batch count stays ${from}: ${reason}`] });
  const to = await readBatchCount(before);
  if (to === null) return stays('before has none');
  if (typeof to !== 'bigint') return stays(`that of before is an average, ${to}`);
  const bytes = encodeCount(to, tensor);
  if (bytes === null) return stays(`${tensor.dtype} cannot hold ${to}`);
  const preferredName = `${nameInFile(after)}.num_batches_tracked`;
  const edit: PartEdit = { part: 'batch count', tensor, content: holdBytes(bytes), preferredName };
  return { ...nothing, edits: [edit], batches: from === to ? null : { from, to } };
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
