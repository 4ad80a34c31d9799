import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { bitsOf, decodeFloats, encodeFloats, isDecodable, isFloatingPoint } from '../checkpoint/dtype.js';
import type { TensorEdit } from '../checkpoint/edit-plan.js';
import { type LayerComparison, readBatchCount, readStatistics } from '../compare/compare-layers.js';
import { repeatValues } from '../compare/pair-repeated.js';
import { findInvalidValue, type Statistics } from '../compare/statistics.js';
import { haveSameBytes, holdBytes } from '../io/byte-source.js';
import { type NormLayer, nameInFile } from '../norm/norm-layer.js';
import { cannotRestore } from './cannot-restore.js';
import { recoverLayer } from './recover-layer.js';
import { copyFolding, refold } from './refold.js';

/** What a tensor is to its layer. */
export type Part = 'running mean' | 'running variance' | 'batch count' | 'folded weight' | 'folded bias';

/** A tensor of after that is to hold what before says. */
export interface PartEdit extends TensorEdit {
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
export interface RestoreSide {
  readonly checkpoint: Checkpoint;
  readonly learned: ReadonlyMap<string, Tensor>;
}

/** What the plans of layers are made from. */
export interface LayerPlanContext {
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
export interface PartPlan {
  readonly edits: readonly PartEdit[];
  readonly notes: readonly string[];
}

async function planStatistics(comparison: LayerComparison, context: LayerPlanContext): Promise<PartPlan> {
  const { before, after } = comparison;
  if (after.foldedInto !== undefined) {
    refuseTrainedFolding(comparison, context);
    return before.foldedInto === undefined
      ? refold(comparison, after.foldedInto, context.before)
      : copyFolding(comparison, before.foldedInto, { folded: after.foldedInto, side: context.before });
  }
  const recovered =
    before.foldedInto === undefined
      ? { statistics: await readKnown(before, context.before), notes: [] }
      : await recoverLayer(comparison, before.foldedInto, context.after);
  return { edits: encodeStatistics(comparison, recovered.statistics, context), notes: recovered.notes };
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
  const statistics = await readStatistics(layer);
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
  const tensor = after.batchCount;
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
    if (!isDecodable(dtype)) return null;
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
