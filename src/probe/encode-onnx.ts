import onnxProto from 'onnx-proto';
import type { GraphField } from '../checkpoint/onnx/edit-graph.js';
import { FIELDS } from '../checkpoint/onnx/schema.js';
import { holdBytes } from '../io/byte-source.js';

const { AttributeProto, NodeProto, ValueInfoProto } = onnxProto.onnx;

/** The types that statistics are fed in, and their TensorProto.DataType. */
const ELEMENT_TYPES = { F32: 1, F16: 10, F64: 11 } as const;

/** A type that statistics can be fed in. */
export type FedType = keyof typeof ELEMENT_TYPES;

/** Whether statistics of a type can be fed to ONNX Runtime; bfloat16 has no array type in JavaScript. */
export function isFedType(dtype: string): dtype is FedType {
  return Object.hasOwn(ELEMENT_TYPES, dtype);
}

/** A further input of a graph. */
export function encodeGraphInput(name: string, dtype: FedType, shape: readonly number[]): GraphField {
  const dim = shape.map((size) => ({ dimValue: size }));
  const type = { tensorType: { elemType: ELEMENT_TYPES[dtype], shape: { dim } } };
  const content = holdBytes(ValueInfoProto.encode({ name, type }).finish());
  return { number: FIELDS.graph.input, content };
}

/** A further output of a graph; its type is left to be inferred. */
export function encodeGraphOutput(name: string): GraphField {
  return { number: FIELDS.graph.output, content: holdBytes(ValueInfoProto.encode({ name }).finish()) };
}

/** A node of the standard operators. */
export function encodeNode(node: {
  readonly op: 'Mul' | 'Add' | 'Cast';
  readonly inputs: readonly string[];
  readonly output: string;
  /** The type that a Cast converts to. */
  readonly to?: FedType;
}): GraphField {
  const { op, inputs, output, to } = node;
  const attribute =
    to === undefined ? [] : [{ name: 'to', i: ELEMENT_TYPES[to], type: AttributeProto.AttributeType.INT }];
  const encoded = NodeProto.encode({
    input: [...inputs],
    output: [output],
    name: output,
    opType: op,
    attribute,
  });
  return { number: FIELDS.graph.node, content: holdBytes(encoded.finish()) };
}
