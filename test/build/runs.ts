import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { f32, i64 } from './bytes.js';
import { type StoredTensor, safetensorsBytes } from './safetensors.js';

/** What one layer of a checkpoint to be written holds: its convolution's weight, its running mean and its count. */
export interface LayerState {
  /** What every weight of the convolution is; another number is another weight. */
  readonly weight?: number;
  readonly mean?: number;
  readonly count?: number;
  /** Input channels of the convolution, 64 unless given. */
  readonly inputs?: number;
}

/** A checkpoint to be written. */
export interface RunState {
  readonly layers: Readonly<Record<string, LayerState>>;
  /** The weight of the head, which trains. */
  readonly head?: number;
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A safetensors file with a convolution and a norm layer of two channels for each layer, and a head. */
export function checkpointBytes({ layers, head = 0, metadata }: RunState): Uint8Array {
  const tensors: Record<string, StoredTensor> = {};
  const put = (name: string, ...values: readonly number[]) => {
    tensors[name] = { dtype: 'F32', shape: [values.length], data: f32(...values) };
  };
  for (const [path, { weight = 1, mean = 0, count = 10, inputs = 64 }] of Object.entries(layers)) {
    const values = Float32Array.from({ length: 2 * inputs }, (_, index) => weight + Math.sin(index));
    const data = new Uint8Array(values.buffer);
    tensors[`${path}.conv.weight`] = { dtype: 'F32', shape: [2, inputs, 1, 1], data };
    put(`${path}.bn.weight`, weight + 0.5, weight);
    put(`${path}.bn.bias`, 0.25, 0.125);
    put(`${path}.bn.running_mean`, mean, mean + 1);
    put(`${path}.bn.running_var`, 2, 3);
    tensors[`${path}.bn.num_batches_tracked`] = { dtype: 'I64', shape: [], data: i64(count) };
  }
  const values = Array.from({ length: 128 }, (_, index) => head + Math.cos(index));
  tensors['head.weight'] = { dtype: 'F32', shape: [2, 64], data: f32(...values) };
  return safetensorsBytes(tensors, metadata);
}

/** Writes files into a directory, and the directories that they lie in. */
export function writeFiles(directory: string, files: Readonly<Record<string, string | Uint8Array>>): void {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, name)), { recursive: true });
    writeFileSync(join(directory, name), content);
  }
}
