import { WIRE_FIXED32, WIRE_FIXED64, WIRE_VARINT } from './wire.js';

/** What the skeleton pass does with a field; fields without a rule are skipped, as unknown ones are. */
export type FieldRule =
  /** Copied. `varints` are repeated and may be packed. */
  | { readonly keep: 'varint' | 'varints' | 'fixed32' | 'bytes' }
  /** Walked. A message that `merges` is singular: protobuf merges its occurrences, so they become one. */
  | { readonly keep: 'message'; readonly schema: MessageSchema; readonly merges?: boolean }
  /** Walked; becomes an attribute of the node that carries a function's attribute defaults. */
  | { readonly keep: 'default'; readonly schema: MessageSchema }
  /** Values that stay in the file: repeated scalars of this wire type, or `raw_data`. Only segments are kept. */
  | { readonly keep: 'segments'; readonly wire: number | 'raw' }
  /** Text that onnx-proto's schema has no field for; travels in the doc_string of the node or function. */
  | { readonly keep: 'note'; readonly note: string };

/** The fields of a message that an audit needs. */
export interface MessageSchema {
  readonly name: string;
  readonly fields: ReadonlyMap<number, FieldRule>;
  /** The unused repeated bytes field that carries the segments of the payload fields. */
  readonly segmentField?: number;
  /** The doc_string field, whose text is dropped and replaced by the message's notes as JSON. */
  readonly noteField?: number;
}

/*
 * Field numbers of onnx/onnx.in.proto, up to IR version 14. What an audit has no use for is left out and so skipped:
 * doc_string, value_info, training_info, quantization_annotation, device configurations, string payloads.
 * onnx-proto 8.0.1 knows ONNX 1.10. It lacks NodeProto.overload and metadata_props, FunctionProto.attribute_proto
 * and overload; `note` and `default` carry these through fields that it knows.
 */

const VARINT: FieldRule = { keep: 'varint' };
const VARINTS: FieldRule = { keep: 'varints' };
const FIXED32: FieldRule = { keep: 'fixed32' };
const BYTES: FieldRule = { keep: 'bytes' };

const ENTRY: MessageSchema = {
  name: 'StringStringEntryProto',
  fields: new Map([
    [1, BYTES], // key
    [2, BYTES], // value
  ]),
};

/** An entry of a node's metadata_props; the pass keeps those of {@link METADATA_NOTES}. */
export const METADATA: MessageSchema = {
  name: 'StringStringEntryProto',
  fields: new Map<number, FieldRule>([
    [1, { keep: 'note', note: 'key' }],
    [2, { keep: 'note', note: 'value' }],
  ]),
};

/** The metadata keys that are kept, and what the notes call them. stack_trace holds local paths: never kept. */
export const METADATA_NOTES: ReadonlyMap<string, string> = new Map([
  ['pkg.torch.onnx.name_scopes', 'nameScopes'],
  ['pkg.torch.onnx.class_hierarchy', 'classHierarchy'],
  ['pkg.onnxscript.rewriter.rule_name', 'rewriteRule'],
]);

const OPERATOR_SET: MessageSchema = {
  name: 'OperatorSetIdProto',
  fields: new Map([
    [1, BYTES], // domain
    [2, VARINT], // version
  ]),
};

const VALUE_INFO: MessageSchema = {
  name: 'ValueInfoProto',
  fields: new Map([[1, BYTES]]), // name
};

/** A tensor: its description is kept, its payload noted. */
export const TENSOR: MessageSchema = {
  name: 'TensorProto',
  segmentField: 6, // string_data
  fields: new Map<number, FieldRule>([
    [1, VARINTS], // dims
    [2, VARINT], // data_type
    [4, { keep: 'segments', wire: WIRE_FIXED32 }], // float_data
    [5, { keep: 'segments', wire: WIRE_VARINT }], // int32_data
    [7, { keep: 'segments', wire: WIRE_VARINT }], // int64_data
    [8, BYTES], // name
    [9, { keep: 'segments', wire: 'raw' }], // raw_data
    [10, { keep: 'segments', wire: WIRE_FIXED64 }], // double_data
    [11, { keep: 'segments', wire: WIRE_VARINT }], // uint64_data
    [13, { keep: 'message', schema: ENTRY }], // external_data
    [14, VARINT], // data_location
  ]),
};

const SPARSE_TENSOR: MessageSchema = {
  name: 'SparseTensorProto',
  fields: new Map<number, FieldRule>([
    [1, { keep: 'message', schema: TENSOR, merges: true }], // values
    [2, { keep: 'message', schema: TENSOR, merges: true }], // indices
    [3, VARINTS], // dims
  ]),
};

// Graphs hold nodes, nodes hold attributes, attributes hold graphs: the maps are filled once all three exist.
const graphFields = new Map<number, FieldRule>();
const GRAPH: MessageSchema = { name: 'GraphProto', fields: graphFields };

const ATTRIBUTE: MessageSchema = {
  name: 'AttributeProto',
  segmentField: 9, // strings
  fields: new Map<number, FieldRule>([
    [1, BYTES], // name
    [2, FIXED32], // f
    [3, VARINT], // i
    [5, { keep: 'message', schema: TENSOR, merges: true }], // t
    [6, { keep: 'message', schema: GRAPH, merges: true }], // g
    [7, { keep: 'segments', wire: WIRE_FIXED32 }], // floats
    [8, { keep: 'segments', wire: WIRE_VARINT }], // ints
    [11, { keep: 'message', schema: GRAPH }], // graphs
    [20, VARINT], // type
    [21, BYTES], // ref_attr_name
    [22, { keep: 'message', schema: SPARSE_TENSOR, merges: true }], // sparse_tensor
  ]),
};

/** A node. */
export const NODE: MessageSchema = {
  name: 'NodeProto',
  noteField: 6, // doc_string
  fields: new Map<number, FieldRule>([
    [1, BYTES], // input
    [2, BYTES], // output
    [3, BYTES], // name
    [4, BYTES], // op_type
    [5, { keep: 'message', schema: ATTRIBUTE }], // attribute
    [7, BYTES], // domain
    [8, { keep: 'note', note: 'overload' }],
    [9, { keep: 'message', schema: METADATA }], // metadata_props
  ]),
};

graphFields
  .set(1, { keep: 'message', schema: NODE }) // node
  .set(2, BYTES) // name
  .set(5, { keep: 'message', schema: TENSOR }) // initializer
  .set(11, { keep: 'message', schema: VALUE_INFO }) // input
  .set(12, { keep: 'message', schema: VALUE_INFO }) // output
  .set(15, { keep: 'message', schema: SPARSE_TENSOR }); // sparse_initializer

/** A model-local function. */
export const FUNCTION: MessageSchema = {
  name: 'FunctionProto',
  noteField: 8, // doc_string
  fields: new Map<number, FieldRule>([
    [1, BYTES], // name
    [4, BYTES], // input
    [5, BYTES], // output
    [6, BYTES], // attribute
    [7, { keep: 'message', schema: NODE }], // node
    [9, { keep: 'message', schema: OPERATOR_SET }], // opset_import
    [10, BYTES], // domain
    [11, { keep: 'default', schema: ATTRIBUTE }], // attribute_proto
    [13, { keep: 'note', note: 'overload' }],
  ]),
};

/** The file. */
export const MODEL: MessageSchema = {
  name: 'ModelProto',
  fields: new Map<number, FieldRule>([
    [1, VARINT], // ir_version
    [2, BYTES], // producer_name
    [3, BYTES], // producer_version
    [7, { keep: 'message', schema: GRAPH, merges: true }], // graph
    [8, { keep: 'message', schema: OPERATOR_SET }], // opset_import
    [25, { keep: 'message', schema: FUNCTION }], // functions
  ]),
};
