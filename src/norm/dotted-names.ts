import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { toDottedName } from './naming.js';

/** Names that dotted paths cannot tell apart, each checkpoint's once found. */
const ambiguous = new WeakMap<Checkpoint['tensors'], ReadonlySet<string>>();

/**
 * The dotted name of a tensor of a checkpoint, by {@link toDottedName}. Names that come to the same path (`bn.weight`
 * and `params.bn.weight`, `x:0` and `x:1`) stay as they are: none of them must hide another.
 */
export function dottedNameOf(name: string, { tensors }: Pick<Checkpoint, 'tensors'>): string {
  const known = ambiguous.get(tensors) ?? findAmbiguous(tensors);
  ambiguous.set(tensors, known);
  const dotted = toDottedName(name);
  return known.has(dotted) && tensors.has(name) ? name : dotted;
}

function findAmbiguous(tensors: ReadonlyMap<string, Tensor>): ReadonlySet<string> {
  const seen = new Set<string>();
  const twice = new Set<string>();
  for (const name of tensors.keys()) {
    const dotted = toDottedName(name);
    if (seen.has(dotted)) twice.add(dotted);
    seen.add(dotted);
  }
  return twice;
}
