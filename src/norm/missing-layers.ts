// Refuses a checkpoint without norm layers, and says why it has none and what to audit instead, where its names tell.

import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { fail } from '../errors.js';
import { explainAdapter } from './adapters.js';

/**
 * Refuses a checkpoint in which no norm layer is.
 *
 * @param found what it has in their place, and what comes of that: `no BatchNorm layer: nothing to audit`.
 * @throws CheckpointError `no-norm-layers`
 */
export function refuseWithoutLayers(checkpoint: Checkpoint, found: string): never {
  const { path, warnings = [] } = checkpoint;
  // What was left out may have been all of them.
  const leftOut = warnings.length > 0 ? `Of the file: ${warnings.join('; ')}.` : undefined;
  fail(path, `expected norm layers with running statistics, found ${found}`, 'no-norm-layers', {
    hint: explainAdapter(checkpoint) ?? (isConverted(checkpoint) ? CONVERTED : leftOut),
  });
}

const CONVERTED =
  'It is a quantised model (torch.ao.quantization.convert): BatchNorm is folded into its int8 convolutions. What moved is told against another checkpoint alone, best the one from before convert(): bn-audit diff BEFORE AFTER';

/** Modules of torch.ao.quantization.convert have the scale and the zero point of what they give; no observer is left. */
function isConverted({ tensors }: Checkpoint): boolean {
  const names = [...tensors.keys()];
  const isScaled = (name: string) =>
    name.endsWith('.zero_point') && tensors.has(name.replace(/zero_point$/, 'scale'));
  return names.some(isScaled) && !names.some((name) => name.endsWith('.fake_quant_enabled'));
}
