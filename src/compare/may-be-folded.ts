import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { findFreeLinears, type LinearLayer } from '../norm/linear-layers.js';
import type { Pairing } from './pair-layers.js';

/** One side of an audit. */
interface Side {
  readonly checkpoint: Checkpoint;
}

/**
 * Whether folded norm layers have to be looked for at all: not among names alone, and not where every norm layer has a
 * live partner and no convolution bears a sign of another.
 */
export function mayBeFolded(before: Side, after: Side, pairing: Pairing): boolean {
  if (before.checkpoint.graph === null && after.checkpoint.graph === null) return false;
  const { pairs, onlyBefore, onlyAfter } = pairing;
  if (pairs.length === 0 || onlyBefore.length + onlyAfter.length > 0) return true;
  const free = [before, after].flatMap(({ checkpoint }) => findFreeLinears(checkpoint));
  return free.length > 0 && mayHideNorm(free, before, after);
}

/**
 * Whether some convolution that no live norm layer follows may hide one. PyTorch's exporters leave signs where they
 * fold, so without any a convolution of theirs is an ordinary one; of other exporters only the values tell.
 */
export function mayHideNorm(linears: readonly LinearLayer[], before: Side, after: Side): boolean {
  if (linears.some(({ looksFolded }) => looksFolded)) return true;
  return [before, after].every(({ checkpoint }) => checkpoint.graph?.producer.startsWith('pytorch') !== true);
}
