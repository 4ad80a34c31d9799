// Looks at one checkpoint alone: its norm layers and what is odd about them.

import type { Checkpoint, OpenOptions } from './checkpoint/checkpoint.js';
import { examineLayer } from './compare/unpaired-layers.js';
import type { AuditOptions } from './compare-checkpoints.js';
import { withCheckpoint } from './formats/with-checkpoint.js';
import { describeAdapter } from './norm/adapters.js';
import { findLayersAndLearned, mayHoldLayers } from './norm/find-layers.js';
import { refuseWithoutLayers } from './norm/missing-layers.js';
import { checkOptions } from './options.js';
import { buildInspectReport, type InspectReport } from './report/inspect-report.js';

/** What an inspection is told beside the checkpoint. */
export interface InspectOptions extends OpenOptions, Pick<AuditOptions, 'epsilon'> {
  /** Keep each layer's statistics and affine per channel in the report. */
  readonly channels?: boolean | undefined;
}

/**
 * Inspects one checkpoint file: every norm layer, its statistics and their health.
 *
 * @throws CheckpointError when it cannot be read or has no norm layer.
 * @throws UsageError when an option is not what it must be.
 */
export async function inspect(path: string, options: InspectOptions = {}): Promise<InspectReport> {
  checkOptions('inspect', options);
  return withCheckpoint(path, options, (checkpoint) => inspectCheckpoint(checkpoint, options));
}

/**
 * Inspects an open checkpoint, which stays open.
 *
 * @throws as {@link inspect}.
 */
export async function inspectCheckpoint(
  checkpoint: Checkpoint,
  options: InspectOptions = {},
): Promise<InspectReport> {
  checkOptions('inspect', options);
  if (!mayHoldLayers(checkpoint)) refuseWithoutLayers(checkpoint, NOTHING_TO_INSPECT);
  const { layers, learned } = findLayersAndLearned(checkpoint);
  const folded = checkpoint.graph?.linears.filter(({ looksFolded }) => looksFolded).length ?? 0;
  if (layers.length === 0 && folded === 0) refuseWithoutLayers(checkpoint, NOTHING_TO_INSPECT);
  const examined = [];
  for (const layer of layers)
    examined.push(
      await examineLayer(layer, { epsilon: options.epsilon, keepChannels: options.channels === true }),
    );
  const adapter = describeAdapter(checkpoint);
  const warnings =
    adapter === null ? [] : [`it is ${adapter} without the model: what PEFT saved is all that is in it`];
  return buildInspectReport({ ...checkpoint, warnings: [...checkpoint.warnings, ...warnings] }, examined, {
    learned: learned.size,
    folded,
  });
}

const NOTHING_TO_INSPECT = 'no BatchNorm layer: nothing to inspect';
