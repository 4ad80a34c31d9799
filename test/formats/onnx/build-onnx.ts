// Builds ONNX models byte by byte: field numbers of onnx.in.proto, wire types of protobuf, and nothing of src/.
import { bytesOf, utf8 } from '../../build/bytes.js';

/** A varint; `width` pads it with zero groups, which is long but legal. */
export function varint(value: number | bigint, width = 0): Uint8Array {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  do {
    bytes.push(Number(rest & 127n));
    rest >>= 7n;
  } while (rest > 0n || bytes.length < width);
  return Uint8Array.from(bytes, (byte, i) => (i < bytes.length - 1 ? byte | 128 : byte));
}

/** A field's tag. */
export function tag(field: number, wire: number): Uint8Array {
  return varint(field * 8 + wire);
}

/** A varint field. */
export function int(field: number, value: number | bigint): Uint8Array {
  return bytesOf(tag(field, 0), varint(value));
}

/** A length-delimited field. */
export function field(number: number, ...content: readonly (Uint8Array | string | number)[]): Uint8Array {
  const bytes = bytesOf(...content);
  return bytesOf(tag(number, 2), varint(bytes.byteLength), bytes);
}

/** A 32-bit field. */
export function fixed32(number: number, bytes: Uint8Array): Uint8Array {
  return bytesOf(tag(number, 5), bytes);
}

/** Little-endian binary32 values. */
export function floats(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}

/** TensorProto.DataType. */
export const FLOAT = 1;
export const INT8 = 3;
export const INT64 = 7;
export const FLOAT16 = 10;
export const DOUBLE = 11;
export const COMPLEX64 = 14;

/** A TensorProto with whatever payload fields. */
export function tensor(
  name: string,
  dims: readonly (number | bigint)[],
  type: number,
  ...payload: Uint8Array[]
) {
  return bytesOf(...dims.map((dim) => int(1, dim)), int(2, type), ...payload, field(8, name));
}

/** A float vector in raw_data. */
export function vector(name: string, ...values: readonly number[]): Uint8Array {
  return tensor(name, [values.length], FLOAT, field(9, floats(...values)));
}

/** An int64 vector in int64_data. */
export function integers(name: string, ...values: readonly number[]): Uint8Array {
  return tensor(name, [values.length], INT64, field(7, ...values.map((value) => varint(value))));
}

/** AttributeProto of each kind. */
export const attribute = {
  float: (name: string, value: number) => bytesOf(field(1, name), fixed32(2, floats(value)), int(20, 1)),
  int: (name: string, value: number) => bytesOf(field(1, name), int(3, value), int(20, 2)),
  tensor: (name: string, value: Uint8Array) => bytesOf(field(1, name), field(5, value), int(20, 4)),
  graph: (name: string, value: Uint8Array) => bytesOf(field(1, name), field(6, value), int(20, 5)),
  floats: (name: string, ...values: number[]) =>
    bytesOf(field(1, name), field(7, floats(...values)), int(20, 6)),
  ints: (name: string, ...values: number[]) =>
    bytesOf(field(1, name), ...values.map((value) => int(8, value)), int(20, 7)),
  reference: (name: string, outer: string) => bytesOf(field(1, name), field(21, outer)),
};

/** What a node may have beside its operator, inputs and outputs. */
export interface NodeParts {
  readonly name?: string;
  readonly domain?: string;
  readonly overload?: string;
  readonly attributes?: readonly Uint8Array[];
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A NodeProto. */
export function node(
  op: string,
  inputs: readonly string[],
  outputs: readonly string[],
  parts: NodeParts = {},
) {
  return bytesOf(
    ...inputs.map((name) => field(1, name)),
    ...outputs.map((name) => field(2, name)),
    field(3, parts.name ?? ''),
    field(4, op),
    ...(parts.attributes ?? []).map((bytes) => field(5, bytes)),
    field(7, parts.domain ?? ''),
    ...(parts.overload === undefined ? [] : [field(8, parts.overload)]),
    ...Object.entries(parts.metadata ?? {}).map(([key, value]) => field(9, field(1, key), field(2, value))),
  );
}

/** What a graph may hold. */
export interface GraphParts {
  readonly nodes?: readonly Uint8Array[];
  readonly initializers?: readonly Uint8Array[];
  readonly sparse?: readonly Uint8Array[];
  readonly inputs?: readonly string[];
  readonly outputs?: readonly string[];
}

/** A GraphProto. */
export function graph(parts: GraphParts): Uint8Array {
  return bytesOf(
    ...(parts.nodes ?? []).map((bytes) => field(1, bytes)),
    field(2, 'main'),
    ...(parts.initializers ?? []).map((bytes) => field(5, bytes)),
    ...(parts.inputs ?? []).map((name) => field(11, field(1, name))),
    ...(parts.outputs ?? []).map((name) => field(12, field(1, name))),
    ...(parts.sparse ?? []).map((bytes) => field(15, bytes)),
  );
}

/** What a model may hold beside its graph. */
export interface ModelParts {
  readonly irVersion?: number;
  /** Version of the standard operators; 0 imports none. */
  readonly opset?: number;
  readonly functions?: readonly Uint8Array[];
  readonly extra?: Uint8Array;
}

/** A ModelProto. */
export function model(mainGraph: Uint8Array, parts: ModelParts = {}): Uint8Array {
  const opset = parts.opset ?? 17;
  return bytesOf(
    int(1, parts.irVersion ?? 8),
    field(2, 'pytorch'),
    field(3, '2.13.0'),
    field(7, mainGraph),
    ...(opset === 0 ? [] : [field(8, field(1, ''), int(2, opset))]),
    ...(parts.functions ?? []).map((bytes) => field(25, bytes)),
    parts.extra ?? new Uint8Array(),
  );
}

/** What a FunctionProto may hold; its domain is `local`. */
export interface FunctionParts {
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly nodes: readonly Uint8Array[];
  readonly attributes?: readonly string[];
  readonly defaults?: readonly Uint8Array[];
  readonly overload?: string;
  readonly opset?: number;
}

/** A FunctionProto. */
export function localFunction(name: string, parts: FunctionParts): Uint8Array {
  return bytesOf(
    field(1, name),
    ...parts.inputs.map((input) => field(4, input)),
    ...parts.outputs.map((output) => field(5, output)),
    ...(parts.attributes ?? []).map((text) => field(6, text)),
    ...parts.nodes.map((bytes) => field(7, bytes)),
    field(9, field(1, ''), int(2, parts.opset ?? 17)),
    field(10, 'local'),
    ...(parts.defaults ?? []).map((bytes) => field(11, bytes)),
    ...(parts.overload === undefined ? [] : [field(13, parts.overload)]),
  );
}

/** A call of a {@link localFunction}. */
export function call(
  name: string,
  inputs: readonly string[],
  outputs: readonly string[],
  parts: NodeParts = {},
) {
  return node(name, inputs, outputs, { ...parts, domain: 'local' });
}

/** The parameters of a norm layer called `bn` of two channels, as initializers. */
export function normTensors(path = 'bn', scale = 1): readonly Uint8Array[] {
  return [
    vector(`${path}.weight`, 1 * scale, 2 * scale),
    vector(`${path}.bias`, 0.5, -0.5),
    vector(`${path}.running_mean`, 3 * scale, -4 * scale),
    vector(`${path}.running_var`, 5 * scale, 6 * scale),
  ];
}

/** The names of {@link normTensors}. */
export function normNames(path = 'bn'): readonly string[] {
  return ['weight', 'bias', 'running_mean', 'running_var'].map((name) => `${path}.${name}`);
}

/** A BatchNormalization node over {@link normNames}. */
export function norm(
  path = 'bn',
  parts: NodeParts & { readonly outputs?: readonly string[] } = {},
): Uint8Array {
  return node('BatchNormalization', ['x', ...normNames(path)], parts.outputs ?? [`${path}.y`], {
    name: path,
    ...parts,
  });
}

/** A model of one norm layer, with some of its parts replaced. */
export function normModel(graphParts: GraphParts = {}, modelParts: ModelParts = {}): Uint8Array {
  const parts = {
    nodes: [norm()],
    initializers: normTensors(),
    inputs: ['x'],
    outputs: ['bn.y'],
    ...graphParts,
  };
  return model(graph(parts), modelParts);
}

/** The name as bytes, for tests that cut a model right behind it. */
export function positionOf(bytes: Uint8Array, text: string): number {
  return Buffer.from(bytes).indexOf(Buffer.from(utf8(text)));
}
