// The report of `trace`: what JSON holds and every format renders of a training run.

import type { Finding } from '../compare/findings.js';
import type { LayerStatus } from '../compare/status.js';
import type { CheckpointErrorCode } from '../errors.js';
import type { AuditReport, CheckpointSummary } from './audit-report.js';
import { formatCount } from './format-numbers.js';

/** What puts the checkpoints of a run in order; `batches` are the batch counts of all norm layers together. */
export type OrderKey = 'epoch' | 'step' | 'batches' | 'name';

/** One checkpoint of a run. */
export interface TraceCheckpoint {
  readonly path: string;
  readonly format: string;
  /** As the file counts them, else as its name says; null where neither tells. */
  readonly epoch: number | null;
  readonly step: number | null;
  /** The batch counts of all norm layers together; null where none counts. */
  readonly batches: number | null;
  /** Whether an error was found at this checkpoint. */
  readonly verdict: 'clean' | 'drifted';
  /** Layers by their status here; none that is not in {@link TraceReport.layers}. */
  readonly byStatus: Readonly<Record<LayerStatus, number>>;
  /** The drifted layer whose output moves most here. */
  readonly worst: { readonly layer: string; readonly outputShift: number } | null;
}

/** Checkpoints in a row at which a layer has one status: indices into the run's checkpoints, both inclusive. */
export interface TraceSpan {
  readonly status: LayerStatus;
  readonly from: number;
  readonly to: number;
}

/** A norm layer over the run. Its status is that against the state that it was last trained to: before's, until it is. */
export interface TraceLayer {
  readonly name: string;
  readonly kind: string;
  readonly channels: number;
  readonly allowed: boolean;
  /** In order; checkpoints that do not have the layer are in none. */
  readonly spans: readonly TraceSpan[];
  /** Against before, a number for each checkpoint; null where it is not known. */
  readonly outputShift: readonly (number | null)[];
  /** The first checkpoint at which it had drifted, and the last one before: null is the checkpoint from before. */
  readonly onset: { readonly locked: number | null; readonly drifted: number } | null;
  /** The first checkpoint at which it was trained. */
  readonly thawed: number | null;
  /** The first checkpoint after that at which what it had learned stood still again. */
  readonly refrozen: number | null;
}

/** A finding with the first and the last checkpoint at which it stands, by index, and at how many it does. */
export interface TraceFinding extends Finding {
  /** The path of the first. */
  readonly checkpoint: string;
  readonly first: number;
  readonly last: number;
  readonly times: number;
}

/** A checkpoint that was left out. */
export interface SkippedCheckpoint {
  readonly path: string;
  /** Whether it is a checkpoint that was there already, or could not be audited. */
  readonly reason: 'duplicate' | 'failed';
  readonly code: CheckpointErrorCode | null;
  /** One sentence that names the file. */
  readonly message: string;
}

/** The result of a trace: exactly what `trace --format json` prints. */
export interface TraceReport {
  readonly schemaVersion: 1;
  readonly tool: { readonly name: string; readonly version: string };
  /** "drifted" exactly when a finding of level error stands at any checkpoint. */
  readonly verdict: 'clean' | 'drifted';
  readonly before: CheckpointSummary;
  /** What told the order, what goes first first. */
  readonly order: readonly OrderKey[];
  /** In that order. */
  readonly checkpoints: readonly TraceCheckpoint[];
  readonly skipped: readonly SkippedCheckpoint[];
  readonly summary: {
    readonly checkpoints: number;
    readonly layers: number;
    /** Layers that had drifted at any checkpoint, were trained at any, and stood still again after that. */
    readonly drifted: number;
    readonly thawed: number;
    readonly refrozen: number;
    /** The first checkpoint at which a layer's drift is an error, and the last one before; null where none is. */
    readonly onset: {
      readonly locked: number | null;
      readonly drifted: number;
      readonly layers: number;
    } | null;
    /** The drifted layer whose output moves most at any checkpoint. */
    readonly worst: {
      readonly layer: string;
      readonly outputShift: number;
      readonly checkpoint: number;
    } | null;
  };
  /** In the order of the model. */
  readonly layers: readonly TraceLayer[];
  readonly findings: readonly TraceFinding[];
  /** The whole audit of the checkpoint at which most layers drifted, in which they drifted most; null where none did. */
  readonly audit: AuditReport | null;
  readonly warnings: readonly string[];
}

/** Says where in a run a checkpoint is, by its index; null is the checkpoint from before. */
export type NameMoment = (index: number | null) => string;

/**
 * How a run's checkpoints are told apart in a word or two: `epoch 4`, `epoch 4, step 500`, `step 500`, else by their names.
 *
 * @param enclose marks a name, which comes from a file system.
 */
export function makeMoments(
  checkpoints: readonly TraceCheckpoint[],
  enclose: (name: string) => string,
): NameMoment {
  const choices = [['epoch'], ['epoch', 'step'], ['step']] as const;
  const valuesOf = (keys: readonly ('epoch' | 'step')[]) =>
    checkpoints.map((one) => keys.map((key) => one[key]));
  const keys = choices.find((some) => {
    const values = valuesOf(some);
    const areKnown = values.every((list) => !list.includes(null));
    return areKnown && new Set(values.map((list) => list.join())).size === checkpoints.length;
  });
  return (index) => {
    const checkpoint = index === null ? undefined : checkpoints[index];
    if (checkpoint === undefined) return 'before';
    return keys === undefined
      ? enclose(nameFile(checkpoint.path))
      : keys.map((key) => `${key} ${formatMoment(checkpoint[key] ?? 0)}`).join(', ');
  };
}

/** A checkpoint's own name: of `checkpoint-500/model.safetensors` both, for the second says nothing. */
function nameFile(path: string): string {
  const parts = path.split(/[\\/]/).filter((part) => part !== '');
  const isPlain = /^(?:pytorch_model|model|weights|last|best)\b/.test(parts.at(-1) ?? '');
  return parts.slice(isPlain ? -2 : -1).join('/') || path;
}

function formatMoment(value: number): string {
  return Number.isInteger(value) ? formatCount(value) : String(Number(value.toPrecision(6)));
}

/** The status that says most of a layer over the run: drifted where its drift stands at any time, else that at the end. */
export function findLeadingStatus(
  { name, spans }: Pick<TraceLayer, 'name' | 'spans'>,
  drifted: ReadonlySet<string>,
): LayerStatus {
  return drifted.has(name) ? 'drifted' : (spans.at(-1)?.status ?? 'locked');
}

/** The largest output shift of a layer at any checkpoint. */
export function findMost({ outputShift }: Pick<TraceLayer, 'outputShift'>): number | null {
  return outputShift.reduce<number | null>(
    (most, shift) => (shift === null ? most : most === null || !(shift <= most) ? shift : most),
    null,
  );
}
