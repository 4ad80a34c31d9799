import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../src/audit.js';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { compareCheckpoints } from '../../src/compare-checkpoints.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';

const REMOVE_PARAMETRIZATION = "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')";
const shape = [2, 2, 1, 1];
const gains = (name: string) => tensorOf(name, [1.5, 2], { shape: [2, 1, 1, 1] });
const directions = (name: string) => tensorOf(name, [0.6, 0.8, 1, 0], { shape });
const vector = (name: string) => tensorOf(name, [1, 0]);

/** The tensors of `conv`, as PyTorch names them. */
const CONVOLUTIONS = {
  plain: [directions('conv.weight')],
  weightNorm: [gains('conv.weight_g'), directions('conv.weight_v')],
  newWeightNorm: [
    gains('conv.parametrizations.weight.original0'),
    directions('conv.parametrizations.weight.original1'),
  ],
  spectralNorm: [directions('conv.weight_orig'), vector('conv.weight_u'), vector('conv.weight_v')],
  newSpectralNorm: [
    directions('conv.parametrizations.weight.original'),
    vector('conv.parametrizations.weight.0._u'),
    vector('conv.parametrizations.weight.0._v'),
  ],
  orthogonal: [directions('conv.parametrizations.weight.original')],
};

const netOf = (convolution: readonly Tensor[], mean: readonly number[] = [0.5, -0.25]) =>
  checkpointOf([...convolution, ...normTensors('bn', { mean })]);
const moved = [0.75, -0.25];
const tell = async (before: readonly Tensor[], after: readonly Tensor[], mean = moved) => {
  const { layers, doubts } = await compareCheckpoints(netOf(before), netOf(after, mean));
  return { statuses: layers.map(({ status }) => status), doubts: doubts.join('\n') };
};

const { plain, weightNorm, newWeightNorm, spectralNorm } = CONVOLUTIONS;

describe('a weight that one side alone computes of others', () => {
  test.each([
    ['weightNorm', 'weight_g and weight_v (weight_norm)', 'torch.nn.utils.remove_weight_norm(module)'],
    ['newWeightNorm', 'original1 (weight_norm)', REMOVE_PARAMETRIZATION],
    ['spectralNorm', 'weight_orig (spectral_norm)', 'torch.nn.utils.remove_spectral_norm(module)'],
    ['newSpectralNorm', 'original (spectral_norm)', REMOVE_PARAMETRIZATION],
    ['orthogonal', 'original (a parametrization)', REMOVE_PARAMETRIZATION],
  ] as const)('is told, and how to take it out: %s', async (way, parts, removal) => {
    const { doubts } = await tell(CONVOLUTIONS[way], plain);
    expect(doubts).toContain('in before the weights of "conv" are computed of ');
    expect(doubts).toContain(parts);
    expect(doubts).toContain(removal);
    expect((await tell(plain, CONVOLUTIONS[way])).doubts).toContain('in after the weights of "conv"');
  });

  test('leaves open what statistics that moved behind it mean', async () => {
    expect((await tell(weightNorm, plain)).statuses).toEqual(['unresolved']);
    expect((await tell(plain, spectralNorm)).statuses).toEqual(['unresolved']);
  });

  test('changes nothing where statistics stood still', async () => {
    expect((await tell(weightNorm, plain, [0.5, -0.25])).statuses).toEqual(['locked']);
  });
});

describe('weights that both sides compute', () => {
  test('are compared by their parts, whatever PyTorch’s version calls them', async () => {
    expect(await tell(weightNorm, newWeightNorm)).toEqual({ statuses: ['drifted'], doubts: '' });
    expect(await tell(newWeightNorm, weightNorm)).toEqual({ statuses: ['drifted'], doubts: '' });
    const { regions } = await auditCheckpoints(netOf(weightNorm), netOf(newWeightNorm, moved));
    expect(regions.map(({ learned }) => [learned.tensors, learned.equal])).toEqual([[4, 4]]);
  });

  test('in other ways are not', async () => {
    expect((await tell(weightNorm, spectralNorm)).statuses).toEqual(['unresolved']);
  });
});
