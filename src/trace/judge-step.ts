// Judges a layer at a checkpoint of a run against the one before it, where the checkpoint from before alone cannot tell.

import { isUnchanged, type LearnedComparison, type LearnedComparisons } from '../compare/compare-learned.js';
import type { LayerStatus } from '../compare/status.js';
import type { AuditLayer, AuditReport } from '../report/audit-report.js';

/**
 * What is known of the learned tensors between two checkpoints of a run from what each has of the one from before: what both
 * have unchanged stayed, and what one alone has unchanged did not. These need not be read again.
 *
 * @param previous before against the earlier one, `current` against the later.
 * @returns comparisons of the earlier with the later, by the later's names.
 */
export function deduceStep(
  previous: LearnedComparisons,
  current: LearnedComparisons,
): Pick<LearnedComparisons, 'byAfter'> {
  const byAfter = new Map<string, LearnedComparison>();
  for (const later of current.compared) {
    const earlier = previous.byBefore.get(later.beforeName);
    const found = earlier === undefined ? null : relate(earlier, later);
    if (earlier !== undefined && found !== null)
      byAfter.set(later.afterName, { ...found, beforeName: earlier.afterName, afterName: later.afterName });
  }
  return { byAfter };
}

function relate(earlier: LearnedComparison, later: LearnedComparison): LearnedComparison | null {
  if (isUnchanged(earlier) && isUnchanged(later)) return later.equality === 'rounded' ? later : earlier;
  if (earlier.equality === 'exact' && later.equality === 'changed') return later;
  return earlier.equality === 'changed' && later.equality === 'exact' ? earlier : null;
}

/** Whether a layer's learned tensors are not those of before: what it did since, before cannot tell. */
export function isChanged({ affine, neighbours }: Pick<AuditLayer, 'affine' | 'neighbours'>): boolean {
  return affine === 'changed' || neighbours === 'changed';
}

/** Whether the two checkpoints of an audit hold the same, so that one of them is a copy. */
export function areCopies({ layers, summary: { learned, notAudited } }: AuditReport): boolean {
  const { compared, equal, rounded, onlyBefore, onlyAfter } = learned;
  return (
    equal - rounded === compared &&
    onlyBefore + onlyAfter + notAudited === 0 &&
    layers.every(
      ({ status, equality, batches }) =>
        status === 'locked' && equality !== 'rounded' && !Number(batches ?? 0),
    )
  );
}

/**
 * A layer's status against the state that it was last trained to, which is before's until it is trained:
 *
 *     epoch     1       2        3        4        5       6
 *     against   before  before   epoch 3  epoch 4  epoch 4 epoch 4
 *     status    locked  drifted  trained  trained  locked  drifted
 *
 * @param last its status at the checkpoint before, and whether its learned tensors were changed there already; null at
 *   the first.
 * @param step the layer between that checkpoint and this one; undefined where the two were not compared.
 */
export function judgeStep(
  now: Pick<AuditLayer, 'status' | 'affine' | 'neighbours'>,
  last: { readonly status: LayerStatus; readonly isChanged: boolean } | null,
  step: Pick<AuditLayer, 'status'> | undefined,
): LayerStatus {
  if (last === null || step === undefined || !isChanged(now) || !last.isChanged) return now.status;
  // What moved while it stood still has moved until it is trained again.
  return step.status === 'locked' && last.status === 'drifted' ? 'drifted' : step.status;
}
