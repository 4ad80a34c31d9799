// The status of a layer: from what differs to locked, drifted or trained.

/** Every status, in the order of reports: what needs attention first. */
export const LAYER_STATUSES = [
  ...(['drifted', 'invalid', 'unresolved', 'ambiguous'] as const),
  ...(['affine-frozen', 'trained', 'held', 'locked'] as const),
] as const;

/** What a comparison says of a norm layer that both checkpoints have; docs/measures.md explains each. */
export type LayerStatus = (typeof LAYER_STATUSES)[number];

/** No layer of any status. */
export function countNone(): Record<LayerStatus, number> {
  return Object.fromEntries(LAYER_STATUSES.map((status) => [status, 0])) as Record<LayerStatus, number>;
}

/** How learned tensors of before relate to those of after; `none` where there are none to compare. */
export type Relation = 'equal' | 'changed' | 'none';

interface StatusEvidence {
  readonly relation: Relation;
  /** Whether the affine is merely γ = 1, β = 0, which says nothing about freezing. */
  readonly isInitial: boolean;
  readonly neighbours: Relation;
  readonly haveStatisticsMoved: boolean;
}

/**
 * The status of a layer with valid statistics. Follows from equality alone: measures rank and explain.
 */
export function decideStatus({
  relation,
  isInitial,
  neighbours,
  haveStatisticsMoved,
}: StatusEvidence): LayerStatus {
  if (!haveStatisticsMoved) return relation === 'changed' || neighbours === 'changed' ? 'held' : 'locked';
  if (relation === 'changed') return 'trained';
  if (neighbours !== 'changed') return 'drifted';
  return relation === 'equal' && !isInitial ? 'affine-frozen' : 'trained';
}
