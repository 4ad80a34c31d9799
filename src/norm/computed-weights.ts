// Finds weights that a model computes of other tensors, which it trains in their place: weight_norm, spectral_norm.

import type { Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { dottedTensorsOf, joinPath } from './naming.js';

/** A weight that PyTorch computes before every forward pass: `conv.weight` of `conv.weight_g` and `conv.weight_v`. */
export interface ComputedWeight {
  /** The module path. */
  readonly path: string;
  readonly way: 'weight_norm' | 'spectral_norm' | 'a parametrization';
  /** Dotted names of the learned tensors that it is computed of, in the order in which every spelling has them. */
  readonly parts: readonly string[];
  /** The call that puts the product in their place. */
  readonly removal: string;
}

/** How PyTorch names the parts of a computed weight. */
interface Spelling extends Pick<ComputedWeight, 'way' | 'removal'> {
  /** Learned tensors, the first of which no other spelling begins with; all must be there. */
  readonly parts: readonly [string, ...string[]];
  /** A buffer that must be there, too. */
  readonly buffer?: string;
}

const REMOVE_PARAMETRIZATION = "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')";

/** The names in state dicts (torch/nn/utils/weight_norm.py, spectral_norm.py, parametrizations.py); the first that fits. */
const SPELLINGS: readonly Spelling[] = [
  {
    way: 'weight_norm',
    parts: ['weight_g', 'weight_v'],
    removal: 'torch.nn.utils.remove_weight_norm(module)',
  },
  {
    way: 'spectral_norm',
    parts: ['weight_orig'],
    buffer: 'weight_u',
    removal: 'torch.nn.utils.remove_spectral_norm(module)',
  },
  {
    way: 'weight_norm',
    parts: ['parametrizations.weight.original0', 'parametrizations.weight.original1'],
    removal: REMOVE_PARAMETRIZATION,
  },
  {
    way: 'spectral_norm',
    parts: ['parametrizations.weight.original'],
    buffer: 'parametrizations.weight.0._u',
    removal: REMOVE_PARAMETRIZATION,
  },
  {
    way: 'a parametrization',
    parts: ['parametrizations.weight.original'],
    removal: REMOVE_PARAMETRIZATION,
  },
];

/** The computed weights of a checkpoint, by module path, in the order of the file. */
export function findComputedWeights(
  checkpoint: Checkpoint,
  learned: ReadonlyMap<string, Tensor>,
): ReadonlyMap<string, ComputedWeight> {
  const found = new Map<string, ComputedWeight>();
  const tensors = dottedTensorsOf(checkpoint);
  for (const name of learned.keys()) {
    for (const { parts, buffer, ...spelling } of SPELLINGS) {
      if (!`.${name}`.endsWith(`.${parts[0]}`)) continue;
      const path = name.slice(0, -parts[0].length - 1);
      const names = parts.map((part) => joinPath(path, part));
      const isWhole =
        names.every((part) => learned.has(part)) &&
        (buffer === undefined || tensors.has(joinPath(path, buffer)));
      if (!isWhole || found.has(path)) continue;
      found.set(path, { ...spelling, path, parts: names });
    }
  }
  return found;
}
