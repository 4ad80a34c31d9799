import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { CheckpointError, quote } from '../errors.js';
import type { NormLayer } from '../norm/norm-layer.js';

/** The error that says why a layer cannot be restored, and which checkpoint is to blame. */
export function cannotRestore(
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
