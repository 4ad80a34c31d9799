import type { Checkpoint, Tensor } from '../../src/checkpoint/checkpoint.js';
import { bitsOf, type DType, encodeFloats, isDecodable } from '../../src/checkpoint/dtype.js';
import { memorySource } from '../../src/io/byte-source.js';
import { i64 } from './bytes.js';

/** A tensor in memory; its elements are encoded as the type demands. */
export function tensorOf(
  name: string,
  values: readonly number[],
  { dtype = 'F32', shape = [values.length] }: { dtype?: DType; shape?: readonly number[] } = {},
): Tensor {
  return tensorOfBytes(name, encode(values, dtype), { dtype, shape });
}

function encode(values: readonly number[], dtype: DType): Uint8Array {
  if (dtype === 'I64' || dtype === 'U64') return i64(...values);
  if (isDecodable(dtype)) return encodeFloats(values, dtype);
  if (bitsOf(dtype) === 32) return new Uint8Array(Int32Array.from(values).buffer);
  return Uint8Array.from(values);
}

/** A tensor in memory from its bytes as they are. */
export function tensorOfBytes(
  name: string,
  bytes: Uint8Array,
  { dtype, shape }: { dtype: DType; shape: readonly number[] },
): Tensor {
  return {
    name,
    dtype,
    shape,
    elementCount: shape.reduce((product, size) => product * size, 1),
    range: { source: memorySource('memory', bytes), offset: 0, byteLength: bytes.byteLength },
  };
}

/** An open checkpoint in memory. */
export function checkpointOf(tensors: readonly Tensor[], overrides: Partial<Checkpoint> = {}): Checkpoint {
  return {
    path: 'memory.safetensors',
    format: 'safetensors',
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
    inModuleOrder: false,
    graph: null,
    modules: new Map(),
    warnings: [],
    async close() {},
    ...overrides,
  };
}

/** The tensors of a PyTorch norm layer with two channels, or as many as `mean` has. */
export function normTensors(
  path: string,
  {
    mean = [0.5, -0.25],
    variance = mean.map(() => 2),
    weight = mean.map(() => 1.5),
    bias = mean.map(() => 0.125),
    count = 10,
  }: {
    mean?: readonly number[];
    variance?: readonly number[];
    weight?: readonly number[] | null;
    bias?: readonly number[] | null;
    count?: number | null;
  } = {},
): readonly Tensor[] {
  const at = (leaf: string) => (path === '' ? leaf : `${path}.${leaf}`);
  return [
    ...(weight === null ? [] : [tensorOf(at('weight'), weight)]),
    ...(bias === null ? [] : [tensorOf(at('bias'), bias)]),
    tensorOf(at('running_mean'), mean),
    tensorOf(at('running_var'), variance),
    ...(count === null ? [] : [tensorOf(at('num_batches_tracked'), [count], { dtype: 'I64', shape: [] })]),
  ];
}
