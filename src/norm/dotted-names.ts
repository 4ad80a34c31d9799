import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { isFlatStatistic, toDottedName } from './naming.js';

/** How the names of a checkpoint are read. */
interface Reading {
  /** Whether its names are flat, as those of MXNet and Caffe2 are. */
  readonly isFlat: boolean;
  /** The dotted name of each tensor. */
  readonly dotted: ReadonlyMap<string, string>;
}

/** Each checkpoint's, once found. */
const readings = new WeakMap<Checkpoint['tensors'], Reading>();

/**
 * The dotted name of a tensor of a checkpoint, by {@link toDottedName}. Names that come to the same path (`bn.weight`
 * and `params.bn.weight`, `x:0` and `x:1`) stay as they are: none of them must hide another.
 */
export function dottedNameOf(name: string, { tensors }: Pick<Checkpoint, 'tensors'>): string {
  let reading = readings.get(tensors);
  if (reading === undefined) {
    reading = findReading(tensors);
    readings.set(tensors, reading);
  }
  return reading.dotted.get(name) ?? toDottedName(name, reading.isFlat);
}

function findReading(tensors: ReadonlyMap<string, Tensor>): Reading {
  const names = [...tensors.keys()];
  const isFlat = names.some(isFlatStatistic);
  const dotted = new Map<string, string>();
  const firstOf = new Map<string, string>();
  for (const name of names) {
    const path = toDottedName(name, isFlat);
    const first = firstOf.get(path);
    if (first === undefined) firstOf.set(path, name);
    else dotted.set(first, first);
    dotted.set(name, first === undefined ? path : name);
  }
  return { isFlat, dotted };
}
