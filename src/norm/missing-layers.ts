// Says why a checkpoint has no norm layer, where its names tell, and the way out.

import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { explainAdapter } from './adapters.js';

/** Why a checkpoint has no norm layer to audit, and what to audit instead; undefined where its names do not tell. */
export function explainMissing(checkpoint: Checkpoint): string | undefined {
  return explainAdapter(checkpoint) ?? (isConverted(checkpoint) ? CONVERTED : undefined);
}

const CONVERTED =
  'It is a quantised model (torch.ao.quantization.convert): BatchNorm is folded into its int8 convolutions, which hides the statistics. Audit the model from before convert(), or ONNX exports of both.';

/** Modules of torch.ao.quantization.convert have the scale and the zero point of what they give; no observer is left. */
function isConverted({ tensors }: Checkpoint): boolean {
  const names = [...tensors.keys()];
  const isScaled = (name: string) =>
    name.endsWith('.zero_point') && tensors.has(name.replace(/zero_point$/, 'scale'));
  return names.some(isScaled) && !names.some((name) => name.endsWith('.fake_quant_enabled'));
}
