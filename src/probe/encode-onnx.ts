import { ProtoWriter } from '../checkpoint/onnx/proto-writer.js';
import { WIRE_VARINT } from '../checkpoint/onnx/wire.js';

// Fields of onnx.proto.
const GRAPH_INPUT = 11;
const GRAPH_OUTPUT = 12;
const ATTRIBUTE_TYPE_INT = 2;

/** The types that statistics are fed in, and their TensorProto.DataType. */
const ELEMENT_TYPES = { F32: 1, F16: 10, F64: 11 } as const;

/** A type that statistics can be fed in. */
export type FedType = keyof typeof ELEMENT_TYPES;

/** Whether statistics of a type can be fed to ONNX Runtime; bfloat16 has no array type in JavaScript. */
export function isFedType(dtype: string): dtype is FedType {
  return Object.hasOwn(ELEMENT_TYPES, dtype);
}

/** A further input of a graph, as a field of GraphProto. */
export function encodeGraphInput(name: string, dtype: FedType, shape: readonly number[]): Uint8Array {
  const dims = shape.map((size) => message((dim) => writeInt(dim, 1, size)));
  const tensorShape = message((writer) => {
    for (const dim of dims) writer.writeField(1, dim);
  });
  const tensorType = message((writer) => {
    writeInt(writer, 1, ELEMENT_TYPES[dtype]);
    writer.writeField(2, tensorShape);
  });
  const valueInfo = message((writer) => {
    writer.writeText(1, name);
    writer.writeField(
      2,
      message((type) => type.writeField(1, tensorType)),
    );
  });
  return message((writer) => writer.writeField(GRAPH_INPUT, valueInfo));
}

/** A further output of a graph, as a field of GraphProto; its type is left to be inferred. */
export function encodeGraphOutput(name: string): Uint8Array {
  const valueInfo = message((writer) => writer.writeText(1, name));
  return message((writer) => writer.writeField(GRAPH_OUTPUT, valueInfo));
}

/** A node of the standard operators, as a NodeProto. */
export function encodeNode(node: {
  readonly op: 'Mul' | 'Add' | 'Cast';
  readonly inputs: readonly string[];
  readonly output: string;
  /** The type that a Cast converts to. */
  readonly to?: FedType;
}): Uint8Array {
  return message((writer) => {
    for (const input of node.inputs) writer.writeText(1, input);
    writer.writeText(2, node.output);
    writer.writeText(3, node.output);
    writer.writeText(4, node.op);
    const { to } = node;
    if (to === undefined) return;
    const attribute = message((inner) => {
      inner.writeText(1, 'to');
      writeInt(inner, 3, ELEMENT_TYPES[to]);
      writeInt(inner, 20, ATTRIBUTE_TYPE_INT);
    });
    writer.writeField(5, attribute);
  });
}

function message(write: (writer: ProtoWriter) => void): Uint8Array {
  const writer = new ProtoWriter();
  write(writer);
  return writer.written.slice();
}

function writeInt(writer: ProtoWriter, field: number, value: number): void {
  writer.writeTag(field, WIRE_VARINT);
  writer.writeVarint(value);
}
