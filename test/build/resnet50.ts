import type { Checkpoint, Tensor } from '../../src/checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../../src/checkpoint/dtype.js';
import type { ByteSource } from '../../src/io/byte-source.js';
import { checkpointOf } from './checkpoints.js';

/** A state dict with the names, shapes and types of torchvision's ResNet-50; its values are made as they are read. */
export function resnet50(): Checkpoint {
  const tensors: Tensor[] = [];
  const add = (name: string, shape: readonly number[], dtype: DType = 'F32') =>
    tensors.push(patternTensor(name, shape, dtype));
  const addConv = (path: string, shape: readonly number[], norm: string) => {
    add(`${path}.weight`, shape);
    for (const leaf of ['weight', 'bias', 'running_mean', 'running_var'])
      add(`${norm}.${leaf}`, [shape[0] ?? 0]);
    add(`${norm}.num_batches_tracked`, [], 'I64');
  };
  addConv('conv1', [64, 3, 7, 7], 'bn1');
  let input = 64;
  for (const [stage, blocks] of [3, 4, 6, 3].entries()) {
    const width = 64 * 2 ** stage;
    for (let block = 0; block < blocks; block++) {
      const path = `layer${stage + 1}.${block}`;
      addConv(`${path}.conv1`, [width, input, 1, 1], `${path}.bn1`);
      addConv(`${path}.conv2`, [width, width, 3, 3], `${path}.bn2`);
      addConv(`${path}.conv3`, [4 * width, width, 1, 1], `${path}.bn3`);
      if (block === 0) addConv(`${path}.downsample.0`, [4 * width, input, 1, 1], `${path}.downsample.1`);
      input = 4 * width;
    }
  }
  add('fc.weight', [1000, 2048]);
  add('fc.bias', [1000]);
  return checkpointOf(tensors, { path: 'resnet50.safetensors' });
}

const PATTERN = new Uint8Array(
  Float32Array.from({ length: 1 << 16 }, (_, i) => Math.sin(i + 1) / 8 + 0.25).buffer,
);

function patternTensor(name: string, shape: readonly number[], dtype: DType): Tensor {
  const elementCount = shape.reduce((product, size) => product * size, 1);
  const byteLength = (elementCount * bitsOf(dtype)) / 8;
  const source: ByteSource = {
    name: 'resnet50.safetensors',
    byteLength,
    async readInto(target, position) {
      for (let filled = 0; filled < target.byteLength; ) {
        const from = (position + filled) % PATTERN.byteLength;
        const piece = PATTERN.subarray(from, from + target.byteLength - filled);
        target.set(piece, filled);
        filled += piece.byteLength;
      }
    },
    async close() {},
  };
  return { name, dtype, shape, elementCount, range: { source, offset: 0, byteLength } };
}
