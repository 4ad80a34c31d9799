import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { isFlatStatistic, toDottedName } from './naming.js';

/** How the names of a checkpoint are read. */
interface Reading {
  /** Whether its names are flat, as those of MXNet and Caffe2 are. */
  readonly isFlat: boolean;
  /** Dotted paths that more than one name comes to. */
  readonly ambiguous: ReadonlySet<string>;
}

/** Each checkpoint's, once found. */
const readings = new WeakMap<Checkpoint['tensors'], Reading>();

/**
 * The dotted name of a tensor of a checkpoint, by {@link toDottedName}. Names that come to the same path (`bn.weight`
 * and `params.bn.weight`, `x:0` and `x:1`) stay as they are: none of them must hide another.
 */
export function dottedNameOf(name: string, { tensors }: Pick<Checkpoint, 'tensors'>): string {
  const reading = readings.get(tensors) ?? findReading(tensors);
  readings.set(tensors, reading);
  const dotted = toDottedName(name, reading.isFlat);
  return reading.ambiguous.has(dotted) && tensors.has(name) ? name : dotted;
}

function findReading(tensors: ReadonlyMap<string, Tensor>): Reading {
  const names = [...tensors.keys()];
  const isFlat = names.some(isFlatStatistic);
  const seen = new Set<string>();
  const ambiguous = new Set<string>();
  for (const name of names) {
    const dotted = toDottedName(name, isFlat);
    if (seen.has(dotted)) ambiguous.add(dotted);
    seen.add(dotted);
  }
  return { isFlat, ambiguous };
}
