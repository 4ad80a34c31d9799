import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { isFloatingPoint } from '../checkpoint/dtype.js';
import { dottedNameOf } from './dotted-names.js';
import { splitPath } from './naming.js';
import type { NormLayer } from './norm-layer.js';

/** Buffers that are floats and no parameters, by the last component of their name. */
const BUFFER_NAMES: ReadonlySet<string> = new Set([
  // Running statistics, also those of layers that are no norm layers (observation normalisers).
  ...['running_mean', 'running_var', 'moving_mean', 'moving_variance', 'moving_var', 'num_batches_tracked'],
  ...['_mean', '_variance'],
  // Observers and fake quantization (torch.ao.quantization).
  ...['min_val', 'max_val', 'min_vals', 'max_vals', 'zero_point', 'fake_quant_enabled', 'observer_enabled'],
  // torch.optim.swa_utils.AveragedModel.
  'n_averaged',
  // Power-iteration vectors of torch.nn.utils.parametrizations.spectral_norm.
  ...['_u', '_v'],
]);

/**
 * The learned tensors of a checkpoint, by dotted name: every floating-point tensor that an optimizer could change,
 * which leaves out statistics, batch counts and known buffers.
 */
export function findLearnedTensors(
  checkpoint: Checkpoint,
  layers: readonly NormLayer[],
): ReadonlyMap<string, Tensor> {
  const statistics = listStatistics(checkpoint, layers);
  const learned = new Map<string, Tensor>();
  checkpoint.tensors.forEach((tensor, name) => {
    if (!isFloatingPoint(tensor.dtype) || tensor.isBuffer === true || statistics.has(name)) return;
    const dotted = dottedNameOf(name, checkpoint);
    if (!isKnownBuffer(name, dotted, checkpoint)) learned.set(dotted, tensor);
  });
  return learned;
}

/**
 * The names of tensors that are statistics or batch counts. A tensor that is γ or β of some layer too (exporters store
 * equal ones once) is learned all the same.
 */
function listStatistics({ graph }: Checkpoint, layers: readonly NormLayer[]): ReadonlySet<string> {
  const statistics = new Set<string>();
  for (const { isFromGraph, mean, variance, batchCount } of layers) {
    if (batchCount !== null) statistics.add(batchCount.name);
    if (isFromGraph) continue;
    if (mean.kind === 'stored') statistics.add(mean.tensor.name);
    if (variance.kind === 'stored') statistics.add(variance.tensor.name);
  }
  const inputNames = (graph?.norms ?? []).map((norm) => norm.inputNames);
  for (const [, , mean, variance] of inputNames) statistics.add(mean).add(variance);
  for (const [gamma, beta] of inputNames) for (const name of [gamma, beta]) statistics.delete(name);
  return statistics;
}

/** @param name as the file spells it: its siblings are spelled alike. */
function isKnownBuffer(name: string, dotted: string, checkpoint: Checkpoint): boolean {
  const [, leaf] = splitPath(dotted);
  if (BUFFER_NAMES.has(leaf)) return true;
  const isVector = leaf.length > 2 && (leaf.endsWith('_u') || leaf.endsWith('_v'));
  if (!isVector && leaf !== 'scale') return false;
  const start = name.lastIndexOf(leaf);
  const siblingOf = (sibling: string) =>
    checkpoint.tensors.has(name.slice(0, start) + sibling + name.slice(start + leaf.length));
  // torch.nn.utils.spectral_norm: `weight_u` and `weight_v` beside `weight_orig`. weight_norm's `weight_v` is learned.
  const weight = leaf.slice(0, -2);
  if (isVector) return siblingOf(`${weight}_orig`) || siblingOf(`${weight}_u`);
  // A quantized module's or an observer's scale stands beside its zero point; a learned scale does not.
  return siblingOf('zero_point');
}
