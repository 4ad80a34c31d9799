// Finds the convolutions that no norm layer of their own file follows: one may have been folded into each.

import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { dottedTensorsOf, splitPath } from '../norm/naming.js';
import {
  findBiasedLinears,
  findFeedingLinear,
  findFreeLinears,
  type LinearLayer,
  type NormLayer,
} from '../norm/norm-layer.js';

/** One side of an audit, as folding looks at it. */
export interface FoldingSide {
  readonly checkpoint: Checkpoint;
  readonly layers: readonly NormLayer[];
  /** Learned tensors by dotted name. */
  readonly learned: ReadonlyMap<string, Tensor>;
}

/**
 * The linear layers of one side that no live norm layer of it follows. Of a file of names those with a bias: folding leaves
 * one, and a convolution in front of a live norm layer has none as a rule.
 */
export function listFreeLinears({ checkpoint, layers, learned }: FoldingSide): readonly LinearLayer[] {
  if (checkpoint.graph !== null) return findFreeLinears(checkpoint);
  const fed = new Set(
    layers.flatMap((layer) => findFeedingLinear(layer, checkpoint, learned)?.weightName ?? []),
  );
  return findBiasedLinears(learned).filter(({ weightName }) => !fed.has(weightName));
}

/** How modules are called that normalise without a bias (RMSNorm): `ln_1`, `input_layernorm`. */
const NORM_NAME = /norm|(?:^|[._])ln(?:[._\d]|$)/i;

/**
 * Whether a model without BatchNorm has another normalisation (LayerNorm, GroupNorm), whose scale is a vector: then
 * convolutions and linear layers with a bias are what they look like, and nothing was folded into them.
 */
export function hasOtherNorms(tensors: ReadonlyMap<string, Tensor>): boolean {
  for (const [name, { shape }] of tensors) {
    const [path, leaf] = splitPath(name);
    if (leaf !== 'weight' || shape.length !== 1 || shape[0] === 1) continue;
    if (NORM_NAME.test(path) || tensors.has(path === '' ? 'bias' : `${path}.bias`)) return true;
  }
  return false;
}

/** Whether a file of names may hold convolutions or linear layers into which norm layers were folded, by names alone. */
export function mayBeFused(checkpoint: Checkpoint): boolean {
  const tensors = dottedTensorsOf(checkpoint);
  return checkpoint.graph === null && !hasOtherNorms(tensors) && findBiasedLinears(tensors).length > 0;
}
