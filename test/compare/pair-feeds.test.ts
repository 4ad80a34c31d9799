import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../src/audit.js';
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { constantOf, graphOf, linearNodeOf, normNodeOf } from '../build/layers.js';

const WEIGHT = [1, 2, 3, 4, 5, 6];

/** SimSiam's projector as a state dict: a linear layer without bias, a norm layer without γ and β. */
function stateDict(weight: readonly number[], mean: readonly number[]): Checkpoint {
  const norm = normTensors('projector.1', { mean }).filter(({ name }) => !/weight$|bias$/.test(name));
  return checkpointOf([tensorOf('projector.0.weight', weight, { shape: [2, 3] }), ...norm], {
    inModuleOrder: true,
  });
}

/** The same as an exporter writes it: a nameless constant, transposed, in a matrix product. */
function exported(weight: readonly number[], mean: readonly number[]): Checkpoint {
  const transposed = [0, 3, 1, 4, 2, 5].map((index) => weight[index] ?? 0);
  const name = 'onnx::MatMul_9';
  const constant = { kind: 'constant', tensor: tensorOf(name, transposed, { shape: [3, 2] }) } as const;
  const linear = linearNodeOf(
    '',
    { weight: transposed, shape: [3, 2] },
    {
      op: 'MatMul',
      path: null,
      outputAxis: 1,
      outputChannels: 2,
      feedsNorm: true,
      weightName: name,
      weight: { ...constant, source: 'initializer', overridable: false },
    },
  );
  const node = normNodeOf('projector.1', {
    neighbours: [name],
    feedingLinear: 0,
    gamma: constantOf('projector.1.weight', [1, 1]),
    beta: constantOf('projector.1.bias', [0, 0]),
    mean: constantOf('projector.1.running_mean', mean),
  });
  const norm = normTensors('projector.1', { mean, weight: [1, 1], bias: [0, 0] });
  return checkpointOf([constant.tensor, ...norm], { format: 'ONNX', graph: graphOf([node], [linear]) });
}

async function statusOf(before: Checkpoint, after: Checkpoint) {
  const { layers } = await auditCheckpoints(before, after);
  return layers.map(({ status, neighbours, neighboursFrom }) => [status, neighbours, neighboursFrom]);
}

describe('the weight of a linear layer without bias, which an exporter transposes and leaves nameless', () => {
  const trained = WEIGHT.map((value) => value + 0.5);

  test('is compared value by value: equal under moved statistics is drift', async () => {
    const drifted = [['drifted', 'equal', 'graph']];
    expect(await statusOf(stateDict(WEIGHT, [1, 2]), exported(WEIGHT, [1, 3]))).toEqual(drifted);
    expect(await statusOf(exported(WEIGHT, [1, 2]), stateDict(WEIGHT, [1, 3]))).toEqual(drifted);
  });

  test('is compared value by value: changed is training', async () => {
    const expected = [['trained', 'changed', 'graph']];
    expect(await statusOf(stateDict(WEIGHT, [1, 2]), exported(trained, [1, 3]))).toEqual(expected);
    expect(await statusOf(exported(WEIGHT, [1, 2]), stateDict(trained, [1, 3]))).toEqual(expected);
  });
});
