import type { Checkpoint, CheckpointFormat } from '../checkpoint/checkpoint.js';
import type { DType } from '../checkpoint/dtype.js';
import type { LayerStatus } from '../compare/status.js';
import type { LayerChoice } from '../restore/choose-layers.js';
import type { LayerPlan, Part } from '../restore/plan-layers.js';
import { TOOL_NAME, VERSION } from '../version.js';
import type { Count } from './audit-report.js';

/** A tensor of after that holds what before says. */
export interface RestoredPart {
  readonly part: Part;
  readonly tensor: string;
  readonly dtype: DType;
  readonly elements: number;
}

/** One layer of a restoration. */
export interface RestoredLayer {
  readonly name: string;
  /** The status that the audit of before and after gave it. */
  readonly status: LayerStatus;
  readonly via: 'live' | 'folded';
  readonly channels: number;
  readonly channelsMoved: number | null;
  readonly outputShift: number | null;
  /** Batch counts of after and before; null where the count stays. */
  readonly batches: { readonly from: Count; readonly to: Count } | null;
  /** Tensors that change; none where after holds the values of before already. */
  readonly parts: readonly RestoredPart[];
  readonly notes: readonly string[];
}

/** A layer whose statistics are not those of before, and that was not to be restored. */
export interface LeftLayer {
  readonly name: string;
  readonly status: LayerStatus;
}

/** The result of a restoration: exactly what `--format json` prints. */
export interface RestoreReport {
  readonly schemaVersion: 1;
  readonly tool: { readonly name: string; readonly version: string };
  /** `nothing` where no layer needed it: then no file was written. `planned` in a dry run. */
  readonly outcome: 'restored' | 'planned' | 'nothing';
  readonly before: { readonly path: string; readonly format: CheckpointFormat };
  readonly after: { readonly path: string; readonly format: CheckpointFormat };
  /** The files that were written, or would be, the main one last; empty where there are none. */
  readonly files: readonly string[];
  readonly layers: readonly RestoredLayer[];
  readonly left: readonly LeftLayer[];
  readonly warnings: readonly string[];
}

/** Everything that a restoration found out, before it is put in the report's form. */
export interface RestoreResults {
  readonly outcome: RestoreReport['outcome'];
  readonly before: Checkpoint;
  readonly after: Checkpoint;
  readonly files: readonly string[];
  readonly plans: readonly LayerPlan[];
  readonly left: LayerChoice['left'];
  readonly warnings: readonly string[];
}

/** Puts a restoration in the report's form. */
export function buildRestoreReport(results: RestoreResults): RestoreReport {
  const { before, after } = results;
  return {
    schemaVersion: 1,
    tool: { name: TOOL_NAME, version: VERSION },
    outcome: results.outcome,
    before: { path: before.path, format: before.format },
    after: { path: after.path, format: after.format },
    files: results.files,
    layers: results.plans.map(toRestoredLayer),
    left: results.left.map(({ name, status }) => ({ name, status })),
    warnings: [...before.warnings, ...after.warnings, ...results.warnings],
  };
}

function toRestoredLayer({ comparison, edits, batches, notes }: LayerPlan): RestoredLayer {
  const { name, status, via, channels, channelsMoved, measures } = comparison;
  return {
    name,
    status,
    via,
    channels,
    channelsMoved,
    outputShift: measures?.outputShift ?? null,
    batches: batches === null ? null : { from: toCount(batches.from), to: toCount(batches.to) },
    parts: edits.map(({ part, tensor: { name, dtype, elementCount } }) => ({
      part,
      tensor: name,
      dtype,
      elements: elementCount,
    })),
    notes,
  };
}

function toCount(count: bigint): Count {
  const number = Number(count);
  return Number.isSafeInteger(number) ? number : String(count);
}
