import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import type { LayerComparison } from '../compare/compare-layers.js';
import { quote } from '../errors.js';
import type { LayerPlan, PartEdit } from './plan-layers.js';

/** What aliases are looked for among. */
export interface AliasContext {
  readonly after: Checkpoint;
  /** After's learned tensors, by dotted name. */
  readonly learned: ReadonlyMap<string, Tensor>;
  /** Every layer of the audit. */
  readonly layers: readonly LayerComparison[];
}

/**
 * Adds the other names of restored tensors: a module that a model holds under two names is stored once, and only one of
 * the names may have a partner in before. Names of layers that have one, and of learned tensors, stay out: they are to be
 * restored by themselves or not at all. A graph's names are not looked at, because its nodes tell who reads what.
 */
export function addAliases(plans: readonly LayerPlan[], context: AliasContext): readonly LayerPlan[] {
  const { after, layers } = context;
  if (after.graph !== null) return plans;
  const taken = new Set(plans.flatMap(({ edits }) => edits.map(({ tensor }) => tensor.name)));
  for (const layer of layers) for (const tensor of listStatistics(layer)) taken.add(tensor.name);
  const learned = new Set(context.learned.values());
  const byPlace = new Map<string, Tensor[]>();
  for (const tensor of after.tensors.values()) {
    if (taken.has(tensor.name) || learned.has(tensor)) continue;
    const key = placeOf(tensor);
    byPlace.set(key, [...(byPlace.get(key) ?? []), tensor]);
  }
  return plans.map((plan) => addTo(plan, byPlace));
}

function addTo(plan: LayerPlan, byPlace: ReadonlyMap<string, readonly Tensor[]>): LayerPlan {
  const added: PartEdit[] = [];
  for (const edit of plan.edits) {
    for (const tensor of byPlace.get(placeOf(edit.tensor)) ?? [])
      if (tensor.range.source === edit.tensor.range.source) added.push({ ...edit, tensor });
  }
  if (added.length === 0) return plan;
  const names = added.map(({ tensor }) => quote(tensor.name)).join(', ');
  const note = `the same tensors bear other names in after, which change with it: ${names}`;
  return { ...plan, edits: [...plan.edits, ...added], notes: [...plan.notes, note] };
}

function listStatistics({ after: { mean, variance, batchCount } }: LayerComparison): readonly Tensor[] {
  const stored = [mean, variance].flatMap((statistic) =>
    statistic.kind === 'stored' ? [statistic.tensor] : [],
  );
  return batchCount === null ? stored : [...stored, batchCount];
}

function placeOf({ range, dtype }: Tensor): string {
  return JSON.stringify([range.source.name, range.offset, range.byteLength, dtype]);
}
