import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeFloats } from '../../src/checkpoint/dtype.js';
import { bytesOf, i64 } from '../build/bytes.js';
import { type StoredTensor, safetensorsBytes } from '../build/safetensors.js';
import * as onnx from '../formats/onnx/build-onnx.js';
import {
  dict,
  float,
  global,
  int,
  list,
  newObject,
  no,
  op,
  orderedDict,
  type Piece,
  pickle,
  text,
  tensor as torchTensor,
  tuple,
  u32,
  yes,
} from '../formats/torch/build/pickle-writer.js';
import { tar } from '../formats/torch/build/tar-writer.js';
import { legacyCheckpoint, zipCheckpoint } from '../formats/torch/build/torch-files.js';
import { isFoldedIn, isGraph, type Layer, type Linear, type Model, sizeOf } from './model.js';
import type { Container, FloatType } from './plan.js';

/** A model in a file. */
export interface Written {
  readonly model: Model;
  readonly container: Container;
  /** The file, or the directory of shards. */
  readonly path: string;
}

/** Writes a model into a directory, under a name that gets the container's ending. */
export function writeModel(model: Model, container: Container, directory: string, name: string): Written {
  const path = join(directory, `${name}${endingOf(container)}`);
  const put = (bytes: Uint8Array) => writeFileSync(path, bytes);
  switch (container) {
    case 'safetensors':
      put(safetensorsBytes(Object.fromEntries(listTensors(model, model.isReordered))));
      break;
    case 'shards':
      writeShards(listTensors(model, model.isReordered), path);
      break;
    case 'zip':
    case 'deflated zip':
    case 'nested zip':
      put(writeZip(model, container));
      break;
    case 'tar':
      put(writeTar(listTensors(model, false)));
      break;
    case 'legacy': {
      const { pieces, storages, counts } = toPieces(model);
      put(legacyCheckpoint(orderedDict(Object.fromEntries(pieces)), { storages, counts }));
      break;
    }
    case 'module':
    case 'TorchScript':
      put(writeModule(model, container));
      break;
    default:
      writeOnnx(model, container, { directory, name });
  }
  return { model, container, path };
}

function endingOf(container: Container): string {
  if (container === 'shards') return '';
  if (container === 'safetensors') return '.safetensors';
  return isGraph(container) ? '.onnx' : '.pt';
}

type NamedTensor = readonly [name: string, tensor: StoredTensor];

/** The state dict, in module order, or in another one where order says nothing. */
function listTensors(
  { layers, head, hasBuffers, prefix, type, statisticsType }: Model,
  isReordered: boolean,
): readonly NamedTensor[] {
  const floats = (
    name: string,
    shape: readonly number[],
    values: Float64Array | null,
    dtype = type,
  ): readonly NamedTensor[] =>
    values === null ? [] : [[`${prefix}${name}`, { dtype, shape, data: encodeFloats(values, dtype) }]];
  const linear = ({ path, shape, weight, bias }: Linear) => [
    ...floats(`${path}.weight`, shape, weight),
    ...floats(`${path}.bias`, [shape[0] ?? 0], bias),
  ];
  const norm = ({ path, channels, gamma, beta, mean, variance, count }: Layer): readonly NamedTensor[] => [
    ...floats(`${path}.weight`, [channels], gamma),
    ...floats(`${path}.bias`, [channels], beta),
    ...floats(`${path}.running_mean`, [channels], mean, statisticsType),
    ...floats(`${path}.running_var`, [channels], variance, statisticsType),
    ...(count === null
      ? []
      : [[`${prefix}${path}.num_batches_tracked`, { dtype: 'I64', shape: [], data: i64(count) }] as const]),
  ];
  const isInLists = layers.some(({ path }) => path.startsWith('bns.'));
  const tensors = [
    ...(isInLists
      ? [...layers.flatMap(({ feeder }) => linear(feeder)), ...layers.flatMap(norm)]
      : layers.flatMap((layer) => [...linear(layer.feeder), ...norm(layer)])),
    ...(head === null ? [] : linear(head)),
    ...(hasBuffers
      ? [
          ...floats('anchors.grid', [3], Float64Array.of(1, 2, 4)),
          [`${prefix}anchors.ids`, { dtype: 'I64', shape: [2], data: i64(7, 8) }] as const,
        ]
      : []),
  ];
  // Any order will do that is not the file's, and always the same.
  return isReordered ? [...tensors].sort(([x], [y]) => (mirror(x) < mirror(y) ? -1 : 1)) : tensors;
}

function mirror(text: string): string {
  return [...text].reverse().join('');
}

function writeShards(tensors: readonly NamedTensor[], directory: string): void {
  mkdirSync(directory);
  const half = Math.ceil(tensors.length / 2);
  const shards = [tensors.slice(0, half), tensors.slice(half)];
  const weightMap = shards.flatMap((shard, index) =>
    shard.map(([name]) => [name, `model-${index + 1}.safetensors`] as const),
  );
  for (const [index, shard] of shards.entries())
    writeFileSync(
      join(directory, `model-${index + 1}.safetensors`),
      safetensorsBytes(Object.fromEntries(shard)),
    );
  writeFileSync(
    join(directory, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: {}, weight_map: Object.fromEntries(weightMap) }),
  );
}

const STORAGES: Readonly<Record<string, string>> = {
  F32: 'FloatStorage',
  F16: 'HalfStorage',
  BF16: 'BFloat16Storage',
  F64: 'DoubleStorage',
  I64: 'LongStorage',
};

/** The tensors of a state dict as calls in a pickle, and what they refer to. */
interface Pieces {
  readonly pieces: readonly (readonly [name: string, Piece])[];
  readonly storages: Readonly<Record<string, Uint8Array>>;
  readonly counts: Readonly<Record<string, number>>;
}

function toPieces(model: Model): Pieces {
  const tensors = listTensors(model, false);
  const storages: Record<string, Uint8Array> = {};
  const counts: Record<string, number> = {};
  const pieces = tensors.map(([name, { dtype, shape, data }], index): readonly [string, Piece] => {
    const key = String(index);
    const elementCount = sizeOf(shape);
    storages[key] = data;
    counts[key] = elementCount;
    const stride = stridesOf(shape);
    return [name, torchTensor({ key, storage: STORAGES[dtype] ?? '', elementCount, size: shape, stride })];
  });
  return { pieces, storages, counts };
}

function writeZip(model: Model, container: Container): Uint8Array {
  const { pieces, storages } = toPieces(model);
  const root = orderedDict(Object.fromEntries(pieces));
  const isNested = container === 'nested zip';
  return zipCheckpoint(isNested ? dict({ epoch: int(7), state_dict: root }) : root, {
    storages,
    byteOrder: 'little',
    each: (record) => ({ ...record, deflate: container === 'deflated zip' }),
  });
}

/** A model as torch.save pickles it whole, or as torch.jit.save does. */
function writeModule(model: Model, container: 'module' | 'TorchScript'): Uint8Array {
  const { pieces, storages } = toPieces(model);
  const root = toObject(pieces, container, model.epsilon);
  const extra = container === 'module' ? [] : [{ name: 'archive/constants.pkl', bytes: pickle(tuple()) }];
  return zipCheckpoint(root, { storages, byteOrder: 'little', extra });
}

/** A module with its own tensors and its children; only a module of Python tells its epsilon. */
function toObject(pieces: Pieces['pieces'], container: 'module' | 'TorchScript', epsilon: number): Piece {
  const own: Record<string, Piece> = {};
  const within = new Map<string, (readonly [string, Piece])[]>();
  for (const [name, piece] of pieces) {
    const [child = '', ...rest] = name.split('.');
    if (rest.length === 0) own[child] = piece;
    else within.set(child, [...(within.get(child) ?? []), [rest.join('.'), piece]]);
  }
  const modules = Object.fromEntries(
    [...within].map(([name, inner]) => [name, toObject(inner, container, epsilon)]),
  );
  const isNorm = 'running_mean' in own;
  const type = isNorm ? 'BatchNorm2d' : 'Net';
  if (container === 'TorchScript')
    return newObject(global('__torch__.net', type), dict({ training: no, ...own, ...modules }));
  const isBuffer = ([name]: readonly [string, Piece]) => /^running_|^num_batches/.test(name);
  const state = {
    training: no,
    _parameters: orderedDict(Object.fromEntries(Object.entries(own).filter((entry) => !isBuffer(entry)))),
    _buffers: orderedDict(Object.fromEntries(Object.entries(own).filter(isBuffer))),
    _modules: orderedDict(modules),
    ...(isNorm ? { eps: float(epsilon), momentum: float(0.1), track_running_stats: yes } : {}),
  };
  return newObject(global('net', type), dict(state));
}

/** A state dict as torch 0.1 saved it. */
function writeTar(tensors: readonly NamedTensor[]): Uint8Array {
  const storageOf = ([, { dtype, data, shape }]: NamedTensor, key: number) =>
    bytesOf(
      pickle(tuple(int(key), text('cpu'), global('torch', STORAGES[dtype] ?? ''))),
      i64(sizeOf(shape)),
      data,
    );
  const tensorOf = ([, { dtype, shape }]: NamedTensor, key: number) =>
    bytesOf(
      pickle(
        tuple(int(key), int(key), global('torch', (STORAGES[dtype] ?? '').replace('Storage', 'Tensor'))),
      ),
      u32(shape.length),
      u32(0),
      i64(...shape, ...stridesOf(shape), 0),
    );
  const keys = tensors.map(([name], key): [string, Piece] => [name, op(text(String(key)), 'Q')]);
  return tar({
    sys_info: pickle(dict({ protocol_version: int(1000) })),
    pickle: pickle(orderedDict(Object.fromEntries(keys))),
    tensors: bytesOf(pickle(int(tensors.length)), ...tensors.map(tensorOf)),
    storages: bytesOf(pickle(int(tensors.length)), ...tensors.map(storageOf), pickle(list())),
  });
}

function stridesOf(shape: readonly number[]): readonly number[] {
  return shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
}

const DATA_TYPES: Readonly<Record<FloatType, number>> = {
  F32: onnx.FLOAT,
  F16: onnx.FLOAT16,
  F64: onnx.DOUBLE,
  // TensorProto.BFLOAT16
  BF16: 16,
};

/** A graph as it is put together: nodes, initializers, and the bytes that lie outside. */
class OnnxWriter {
  readonly nodes: Uint8Array[] = [];
  readonly initializers: Uint8Array[] = [];
  readonly sparse: Uint8Array[] = [];
  readonly #external: Uint8Array[] = [];
  #externalByteLength = 0;
  #numbers = 100;

  constructor(
    readonly model: Model,
    readonly container: Container,
    readonly dataName: string,
  ) {}

  get external(): Uint8Array {
    return bytesOf(...this.#external);
  }

  /** Stores values, and returns the name under which a node reads them. */
  add(name: string, shape: readonly number[], values: Float64Array, type = this.model.type): string {
    const { prefix } = this.model;
    const stored = this.#hasLostName(shape) ? `onnx::Conv_${this.#numbers++}` : `${prefix}${name}`;
    const bytes = encodeFloats(values, type);
    const build = (...payload: Uint8Array[]) => onnx.tensor(stored, shape, DATA_TYPES[type], ...payload);
    if (this.container === 'ONNX constants') {
      const value = onnx.attribute.tensor('value', build(onnx.field(9, bytes)));
      this.nodes.push(onnx.node('Constant', [], [stored], { name: `c_${stored}`, attributes: [value] }));
    } else if (this.container === 'ONNX external') this.initializers.push(this.#addExternal(build, bytes));
    else if (this.container === 'typed ONNX' && type === 'F32')
      this.initializers.push(build(onnx.field(4, bytes)));
    else if (this.container === 'typed ONNX' && type === 'F64')
      this.initializers.push(build(onnx.field(10, bytes)));
    else this.initializers.push(build(onnx.field(9, bytes)));
    return stored;
  }

  /** TorchScript's exporter numbers what it folds, and some graph optimizers what belongs to norm layers. */
  #hasLostName(shape: readonly number[]): boolean {
    if (this.container === 'TorchScript folded') return true;
    return this.container === 'scoped ONNX' && shape.length === 1;
  }

  /** Stores what a norm layer has for each channel. */
  #addVector(name: string, values: Float64Array, type = this.model.type): string {
    if (this.container !== 'sparse ONNX') return this.add(name, [values.length], values, type);
    const stored = `${this.model.prefix}${name}`;
    this.sparse.push(toSparse(stored, values, type));
    return stored;
  }

  #addExternal(build: (...payload: Uint8Array[]) => Uint8Array, bytes: Uint8Array): Uint8Array {
    const entries = {
      location: this.dataName,
      offset: String(this.#externalByteLength),
      length: String(bytes.byteLength),
    };
    this.#external.push(bytes);
    this.#externalByteLength += bytes.byteLength;
    return build(
      ...Object.entries(entries).map(([key, value]) =>
        onnx.field(13, onnx.field(1, key), onnx.field(2, value)),
      ),
      onnx.int(14, 1),
    );
  }

  addLinear(
    { path, shape, weight, bias }: Linear,
    {
      kind,
      input,
      output,
      folded,
    }: {
      readonly kind: Layer['feeder']['kind'];
      readonly input: string;
      readonly output: string;
      /** The path of the norm layer that is part of the weight. */
      readonly folded?: string;
    },
  ): void {
    const isDynamo = folded !== undefined && this.container === 'dynamo folded';
    const inputs = [input, this.add(`${path}.weight`, shape, weight)];
    if (bias !== null)
      inputs.push(this.add(isDynamo ? `${path}.weight_bias` : `${path}.bias`, [bias.length], bias));
    const op = kind === 'linear' ? 'Gemm' : 'Conv';
    const attributes =
      kind === 'linear'
        ? [onnx.attribute.int('transB', 1)]
        : kind === 'depthwise'
          ? [onnx.attribute.int('group', shape[0] ?? 1)]
          : [];
    const metadata = isDynamo ? { metadata: this.#describeFolding(folded) } : {};
    this.nodes.push(
      onnx.node(op, inputs, [output], { name: this.#nameNode(path, op), attributes, ...metadata }),
    );
  }

  #describeFolding(norm: string): Readonly<Record<string, string>> {
    const parts = `${this.model.prefix}${norm}`.split('.');
    const scopes = ['', ...parts.map((_, index) => parts.slice(0, index + 1).join('.'))];
    const listed = [...scopes, '_native_batch_norm_legit_no_training']
      .map((scope) => `'${scope}'`)
      .join(', ');
    return {
      'pkg.torch.onnx.name_scopes': `[${listed}]`,
      'pkg.onnxscript.rewriter.rule_name': 'FuseBatchNormIntoConv',
    };
  }

  addNorm(layer: Layer, input: string, output: string): void {
    const { path, channels, gamma, beta, mean, variance } = layer;
    const { statisticsType } = this.model;
    const ones = new Float64Array(channels).fill(1);
    // Exporters write ones and zeros for a layer without affine.
    const inputs = [
      this.#addVector(`${path}.weight`, gamma ?? ones),
      this.#addVector(`${path}.bias`, beta ?? new Float64Array(channels)),
      this.#addVector(`${path}.running_mean`, mean, statisticsType),
      this.#addVector(`${path}.running_var`, variance, statisticsType),
    ];
    this.nodes.push(
      onnx.node('BatchNormalization', [input, ...inputs], [output], {
        name: this.#nameNode(path, 'BatchNormalization'),
        attributes: [
          onnx.attribute.float('epsilon', this.model.epsilon),
          onnx.attribute.float('momentum', 0.9),
        ],
      }),
    );
  }

  /** As TorchScript's exporter names nodes: `features.0` is `/features/features.0/Conv`. */
  #nameNode(path: string, op: string): string {
    const scopes: string[] = [];
    for (const part of `${this.model.prefix}${path}`.split('.')) {
      const last = scopes.at(-1);
      scopes.push(/^\d+$/.test(part) && last !== undefined ? `${last}.${part}` : part);
    }
    return `/${scopes.join('/')}/${op}`;
  }
}

/** A SparseTensorProto of what is not zero, which includes −0. */
function toSparse(name: string, values: Float64Array, type: FloatType): Uint8Array {
  const indices = [...values.keys()].filter((index) => !Object.is(values[index], 0));
  const kept = indices.map((index) => values[index] ?? 0);
  const count = [kept.length];
  return bytesOf(
    onnx.field(1, onnx.tensor(name, count, DATA_TYPES[type], onnx.field(9, encodeFloats(kept, type)))),
    onnx.field(2, onnx.tensor('', count, onnx.INT64, onnx.field(9, i64(...indices)))),
    onnx.int(3, values.length),
  );
}

function writeOnnx(
  model: Model,
  container: Container,
  { directory, name }: { readonly directory: string; readonly name: string },
): void {
  const writer = new OnnxWriter(model, container, `${name}.onnx.data`);
  let input = 'x';
  for (const [index, layer] of model.layers.entries()) {
    const { kind } = layer.feeder;
    const [output, active] = [`y${index}`, `a${index}`];
    if (isFoldedIn(container, kind))
      writer.addLinear(fold(layer, model.epsilon), { kind, input, output, folded: layer.path });
    else {
      writer.addLinear(layer.feeder, { kind, input, output: `h${index}` });
      writer.addNorm(layer, `h${index}`, output);
    }
    writer.nodes.push(onnx.node('Relu', [output], [active], { name: `relu${index}` }));
    input = active;
  }
  if (model.head !== null) writer.addLinear(model.head, { kind: 'linear', input, output: 'logits' });
  if (model.hasBuffers) writer.add('anchors.grid', [3], Float64Array.of(1, 2, 4));
  const { nodes, initializers } = writer;
  const graph = onnx.graph({
    nodes,
    sparse: writer.sparse,
    initializers: model.isReordered ? initializers.toReversed() : initializers,
    inputs: ['x'],
    outputs: [model.head === null ? input : 'logits'],
  });
  writeFileSync(join(directory, `${name}.onnx`), onnx.model(graph, { opset: 18 }));
  if (container === 'ONNX external') writeFileSync(join(directory, writer.dataName), writer.external);
}

/** Folds a norm layer as PyTorch does, each step in float32: W′ = W · (γ / √(v + ε)), b′ = (b − μ) / √(v + ε) · γ + β. */
export function fold({ feeder, channels, gamma, beta, mean, variance }: Layer, epsilon: number): Linear {
  const { fround } = Math;
  const at = (values: Float64Array | null, channel: number, absent: number) => values?.[channel] ?? absent;
  const inverse = Float64Array.from(variance, (value) =>
    fround(1 / fround(Math.sqrt(fround(value + epsilon)))),
  );
  const scales = inverse.map((value, channel) => fround(value * at(gamma, channel, 1)));
  const perChannel = feeder.weight.length / channels;
  return {
    ...feeder,
    weight: feeder.weight.map((value, index) =>
      fround(value * (scales[Math.floor(index / perChannel)] as number)),
    ),
    bias: Float64Array.from(inverse, (value, channel) => {
      const centred = fround(at(feeder.bias, channel, 0) - (mean[channel] as number));
      return fround(fround(fround(centred * value) * at(gamma, channel, 1)) + at(beta, channel, 0));
    }),
  };
}
