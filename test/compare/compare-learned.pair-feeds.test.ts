import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../src/audit.js';
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { toHashed } from '../build/hashed-tensor.js';
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
function exported(weight: readonly number[], mean: readonly number[], name = 'onnx::MatMul_9'): Checkpoint {
  const transposed = [0, 3, 1, 4, 2, 5].map((index) => weight[index] ?? 0);
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

/** A checkpoint of which no more than a hash is known of the weight. */
async function withHash(checkpoint: Checkpoint): Promise<Checkpoint> {
  const tensors = new Map(checkpoint.tensors);
  for (const name of ['projector.0.weight', 'onnx::MatMul_9']) {
    const weight = tensors.get(name);
    if (weight !== undefined) tensors.set(name, await toHashed(weight, null));
  }
  const { graph } = checkpoint;
  const constant = tensors.get('onnx::MatMul_9');
  if (graph === null || constant === undefined) return { ...checkpoint, tensors };
  const linears = graph.linears.map((linear) =>
    linear.weight.kind === 'constant'
      ? { ...linear, weight: { ...linear.weight, tensor: constant } }
      : linear,
  );
  return { ...checkpoint, tensors, graph: { ...graph, linears } };
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

  test('is compared between two exports that number it differently', async () => {
    const [frozen, changed] = [
      exported(WEIGHT, [1, 3], 'onnx::MatMul_12'),
      exported(trained, [1, 3], 'onnx::MatMul_12'),
    ];
    expect(await statusOf(exported(WEIGHT, [1, 2]), frozen)).toEqual([['drifted', 'equal', 'graph']]);
    expect(await statusOf(exported(WEIGHT, [1, 2]), changed)).toEqual([['trained', 'changed', 'graph']]);
  });

  test('is compared with its bias, which may have a number as well', async () => {
    const withBias = (weight: readonly number[], mean: readonly number[], name: string) => {
      const checkpoint = exported(weight, mean);
      const bias = constantOf(name, [7, 8]);
      const linears = checkpoint.graph?.linears.map((linear) => ({ ...linear, bias, biasName: name })) ?? [];
      const norms =
        checkpoint.graph?.norms.map((one) => ({ ...one, neighbours: [...one.neighbours, name] })) ?? [];
      const other = name === 'onnx::Gemm_7' ? 'onnx::Gemm_8' : 'onnx::Gemm_7';
      const tensors = [...(bias.kind === 'constant' ? [bias.tensor] : []), tensorOf(other, [1, 1])];
      return {
        ...checkpoint,
        tensors: new Map([...checkpoint.tensors, ...tensors.map((tensor) => [tensor.name, tensor] as const)]),
        graph: graphOf(norms, linears),
      };
    };
    expect(
      await statusOf(withBias(WEIGHT, [1, 2], 'onnx::Gemm_7'), withBias(WEIGHT, [1, 3], 'onnx::Gemm_8')),
    ).toEqual([['drifted', 'equal', 'graph']]);
  });

  test('is not taken for another tensor that got its number', async () => {
    const after = exported(WEIGHT, [1, 3], 'onnx::MatMul_12');
    const other = tensorOf('onnx::MatMul_9', trained, { shape: [3, 2] });
    const tensors = new Map([...after.tensors, [other.name, other]]);
    expect(await statusOf(exported(WEIGHT, [1, 2]), { ...after, tensors })).toEqual([
      ['drifted', 'equal', 'graph'],
    ]);
  });

  test('is compared where a baseline has its hash, in either order', async () => {
    for (const [weight, expected] of [
      [WEIGHT, [['drifted', 'equal', 'graph']]],
      [trained, [['trained', 'changed', 'graph']]],
    ] as const) {
      expect(await statusOf(await withHash(stateDict(WEIGHT, [1, 2])), exported(weight, [1, 3]))).toEqual(
        expected,
      );
      expect(await statusOf(stateDict(WEIGHT, [1, 2]), await withHash(exported(weight, [1, 3])))).toEqual(
        expected,
      );
      expect(await statusOf(await withHash(exported(WEIGHT, [1, 2])), stateDict(weight, [1, 3]))).toEqual(
        expected,
      );
    }
  });

  test('is left open between two hashes of two orders', async () => {
    const sides = [stateDict(WEIGHT, [1, 2]), exported(WEIGHT, [1, 3])] as const;
    expect(await statusOf(await withHash(sides[0]), await withHash(sides[1]))).toEqual([
      ['drifted', 'none', 'unknown'],
    ]);
  });
});
