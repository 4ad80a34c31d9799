import type { Checkpoint, Framework } from '../checkpoint/checkpoint.js';
import { dottedNameOf } from './dotted-names.js';
import { NAMING_CONVENTIONS } from './naming.js';
import { type NormLayer, storedTensorOf } from './norm-layer.js';

/** How exporters call themselves in an ONNX model (`producer_name`), by the framework of what they export. */
const PRODUCERS: readonly (readonly [start: string, Framework])[] = [
  ['pytorch', 'pytorch'],
  ['tf2onnx', 'keras'],
  ['keras', 'keras'],
  ['PaddlePaddle', 'paddle'],
  ['paddle2onnx', 'paddle'],
  ['jax2onnx', 'flax'],
  ['caffe2', 'caffe2'],
];

/**
 * What a checkpoint was trained with: by the marks of a framework in the file, by an ONNX model's producer, by how its
 * running means are named. Null where none of these tells.
 */
export function findFramework(checkpoint: Checkpoint, layers: readonly NormLayer[]): Framework | null {
  if (checkpoint.framework !== undefined) return checkpoint.framework;
  const producer = checkpoint.graph?.producer.toLowerCase() ?? '';
  const exporter = PRODUCERS.find(([start]) => producer.startsWith(start.toLowerCase()));
  return exporter?.[1] ?? findByNames(checkpoint, layers);
}

function findByNames(checkpoint: Checkpoint, layers: readonly NormLayer[]): Framework | null {
  for (const { mean } of layers) {
    const tensor = storedTensorOf(mean);
    if (tensor === null) continue;
    // A state dict of a bare norm layer has names without a path.
    const name = `.${dottedNameOf(tensor.name, checkpoint)}`;
    const convention = NAMING_CONVENTIONS.find(({ mean: ending }) => name.endsWith(ending));
    if (convention !== undefined) return convention.framework;
  }
  return null;
}
