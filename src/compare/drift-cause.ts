/**
 * A layer's `num_batches_tracked`: forward passes in training mode so far. Whole counts are exact; a number with a
 * fraction is an average of counts, as a mean of checkpoints holds it.
 */
export type BatchCount = bigint | number;

/** How much of before's statistics is left in after's, which every training-mode forward pass replaces in part. */
export interface OldShare {
  /** (1 − momentum)ⁿ after n passes; the share of before's passes in all where momentum is cumulative. 0 to 1. */
  readonly share: number;
  readonly momentum: number | 'cumulative';
  readonly momentumFrom: 'module' | 'default';
}

/** What statistics and batch counts together tell of how a layer came to its statistics. */
export type DriftCause =
  /** The count rose with the statistics: forward passes in training mode. */
  | { readonly kind: 'training-mode'; readonly old: OldShare | null }
  /** The statistics moved, and no pass was counted: they were copied, averaged or computed without the count. */
  | { readonly kind: 'uncounted' }
  /** The same in a file whose learned tensors are averages: of a model over time, without its count. */
  | { readonly kind: 'ema' }
  /** The statistics moved and the count went back: reset, and estimated again. */
  | { readonly kind: 're-estimated' }
  /** The statistics are mean 0 and variance 1 again: reset, and never estimated again. */
  | { readonly kind: 'reset' }
  /** The statistics moved, and the count on a side is an average; `rose` where after's is above before's. */
  | {
      readonly kind: 'averaged';
      readonly side: 'before' | 'after';
      readonly count: number;
      readonly rose: boolean;
    }
  /** The count rose while the statistics stood still: the layer normalised by batch statistics. */
  | { readonly kind: 'batch-statistics' }
  /** The statistics stood still under a count that went back or was averaged: nothing ran in training mode. */
  | { readonly kind: 'recounted' };

/** What a layer's cause follows from. */
export interface CauseEvidence {
  readonly haveStatisticsMoved: boolean;
  /** Whether the learned tensors that stayed show the rounding of an average: then statistics are averages too. */
  readonly isAveraged: boolean;
  /** Whether after holds mean 0 and variance 1 in every channel. */
  readonly isInitial: boolean;
  /** Null where the layer has no count, or none that can be relied on. */
  readonly before: BatchCount | null;
  readonly after: BatchCount | null;
  /** PyTorch's momentum; null where the file does not tell. */
  readonly momentum: number | 'cumulative' | null;
}

/** What statistics and counts tell; null where they tell nothing. */
export function decideCause(evidence: CauseEvidence): DriftCause | null {
  return evidence.haveStatisticsMoved ? explainMove(evidence) : explainStandstill(evidence);
}

function explainMove(evidence: CauseEvidence): DriftCause | null {
  const { isInitial, isAveraged, before, after, momentum } = evidence;
  if (isInitial) return { kind: 'reset' };
  if (before === null || after === null) return null;
  const rose = after > before;
  if (isAverage(after)) return { kind: 'averaged', side: 'after', count: after, rose };
  if (isAverage(before)) return { kind: 'averaged', side: 'before', count: before, rose };
  if (rose) return { kind: 'training-mode', old: isAveraged ? null : findOldShare(before, after, momentum) };
  // A layer that was made anew around copied statistics starts to count at 0.
  if (after !== before && after !== 0n) return { kind: 're-estimated' };
  return { kind: isAveraged ? 'ema' : 'uncounted' };
}

function explainStandstill({ before, after }: CauseEvidence): DriftCause | null {
  if (before === null || after === null || before === after) return null;
  const isCounted = after > before && !isAverage(before) && !isAverage(after);
  return { kind: isCounted ? 'batch-statistics' : 'recounted' };
}

function isAverage(count: BatchCount): count is number {
  return typeof count === 'number';
}

/** torch.nn.modules.batchnorm._NormBase: a state dict does not hold the momentum, and few models change it. */
const DEFAULT_MOMENTUM = 0.1;

function findOldShare(before: bigint, after: bigint, known: CauseEvidence['momentum']): OldShare | null {
  const momentum = known ?? DEFAULT_MOMENTUM;
  const momentumFrom = known === null ? 'default' : 'module';
  if (momentum === 'cumulative') return { share: Number(before) / Number(after), momentum, momentumFrom };
  // With momentum 0 nothing would have moved: it is not the one of the training.
  if (!(momentum > 0 && momentum <= 1)) return null;
  return { share: (1 - momentum) ** Number(after - before), momentum, momentumFrom };
}
