import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { isFloatingPoint } from '../checkpoint/dtype.js';
import { splitPath, toDottedName } from './naming.js';
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
  const statistics = new Set<Tensor['range']>();
  for (const { mean, variance, batchCount } of layers) {
    if (mean.kind === 'stored') statistics.add(mean.tensor.range);
    if (variance.kind === 'stored') statistics.add(variance.tensor.range);
    if (batchCount !== null) statistics.add(batchCount.range);
  }
  const learned = new Map<string, Tensor>();
  for (const [name, tensor] of checkpoint.tensors) {
    if (!isFloatingPoint(tensor.dtype) || tensor.isBuffer === true || statistics.has(tensor.range)) continue;
    const dotted = toDottedName(name);
    if (!isKnownBuffer(dotted, checkpoint)) learned.set(dotted, tensor);
  }
  return learned;
}

function isKnownBuffer(name: string, checkpoint: Checkpoint): boolean {
  const [module, leaf] = splitPath(name);
  if (BUFFER_NAMES.has(leaf)) return true;
  const siblingOf = (sibling: string) =>
    checkpoint.tensors.has(module === '' ? sibling : `${module}.${sibling}`);
  // torch.nn.utils.spectral_norm: `weight_u` and `weight_v` beside `weight_orig`. weight_norm's `weight_v` is learned.
  const vector = /^(.+)_[uv]$/.exec(leaf);
  if (vector !== null) return siblingOf(`${vector[1]}_orig`) || siblingOf(`${vector[1]}_u`);
  // A quantized module's or an observer's scale stands beside its zero point; a learned scale does not.
  return leaf === 'scale' && siblingOf('zero_point');
}
