// The messages of ONNX that are read, with the numbers of their fields.

import { quote, quoteUnlessPlain } from '../../errors.js';
import type { ByteSource } from '../../io/byte-source.js';
import {
  type FieldRule,
  float32Of,
  type MessageRule,
  type MessageType,
  type NumberRule,
  readMessage,
  type Segment,
  type SegmentRule,
  signed32Of,
  signedOf,
  type TextRule,
  type Varint,
  WIRE_FIXED32,
  WIRE_FIXED64,
  WIRE_VARINT,
} from './wire.js';

/** A tensor as the model describes it; where its values are, not what they are. */
export interface OnnxTensor {
  readonly name: string;
  readonly dims: readonly bigint[];
  /** TensorProto.DataType. */
  readonly dataType: number;
  readonly segments: readonly Segment[];
  /** TensorProto.DataLocation: {@link EXTERNAL} where the data lies in another file. */
  readonly dataLocation: number;
  /** The keys and values that say where in which file. */
  readonly externalData: ReadonlyMap<string, string> | null;
}

/** The data location of a tensor whose data lies in another file. */
export const EXTERNAL = 1;

/** Whether a tensor's data lies in another file. */
export function isExternal({ dataLocation }: OnnxTensor): boolean {
  return dataLocation === EXTERNAL;
}

/** The files that tensors of a model, or of a part of it, name for their data, each once; `''` where one names none. */
export function listLocations(part: unknown, found: Set<string> = new Set()): ReadonlySet<string> {
  if (typeof part !== 'object' || part === null) return found;
  if ('dataLocation' in part && part.dataLocation === EXTERNAL && 'externalData' in part)
    found.add(part.externalData instanceof Map ? (part.externalData.get('location') ?? '') : '');
  const inner = part instanceof Map ? part.values() : Object.values(part);
  for (const each of inner) listLocations(each, found);
  return found;
}

/** A sparse tensor: `values` at the positions `indices` of a tensor of shape `dims`. */
export interface OnnxSparseTensor {
  readonly values: OnnxTensor;
  readonly indices: OnnxTensor;
  readonly dims: readonly bigint[];
}

/** An attribute of a node. Which field is meant follows from the attribute's name. */
export interface OnnxAttribute {
  readonly name: string;
  /** The attribute of the enclosing function that supplies the value; empty where it stands here. */
  readonly refName: string;
  readonly float: number;
  readonly int: bigint;
  readonly tensor: OnnxTensor | null;
  readonly sparseTensor: OnnxSparseTensor | null;
  readonly graph: OnnxGraph | null;
  readonly graphs: readonly OnnxGraph[];
  /** The values of `floats` (field 7) and `ints` (field 8). */
  readonly segments: readonly Segment[];
}

/** The graphs in an attribute: of `g`, then of `graphs`. */
export function subgraphsOf({ graph, graphs }: OnnxAttribute): readonly OnnxGraph[] {
  return graph === null ? graphs : [graph, ...graphs];
}

interface NodeNotes {
  readonly nameScopes: string;
  readonly classHierarchy: string;
  readonly rewriteRule: string;
}

const NO_NOTES: NodeNotes = { nameScopes: '', classHierarchy: '', rewriteRule: '' };

/** A node: one operation, or one call of a local function. */
export interface OnnxNode {
  readonly name: string;
  readonly op: string;
  /** `''` for the standard operators, which may also be written `ai.onnx`. */
  readonly domain: string;
  readonly overload: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, OnnxAttribute>;
  readonly notes: NodeNotes;
}

/** A graph: the model's own, or the body of an If, Loop or Scan. */
export interface OnnxGraph {
  readonly name: string;
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly OnnxTensor[];
  readonly sparseInitializers: readonly OnnxSparseTensor[];
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

/** A model-local function: a body that every call expands with its own inputs and attributes. */
export interface OnnxFunction {
  readonly name: string;
  readonly domain: string;
  readonly overload: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly defaults: ReadonlyMap<string, OnnxAttribute>;
  readonly nodes: readonly OnnxNode[];
  readonly opsets: OpsetImports;
}

/** Operator set versions by domain. */
export type OpsetImports = ReadonlyMap<string, number>;

/** A model without its payloads. */
export interface OnnxModel {
  readonly irVersion: number;
  readonly producerName: string;
  readonly producerVersion: string;
  readonly opsets: OpsetImports;
  readonly graph: OnnxGraph | null;
  readonly functions: readonly OnnxFunction[];
}

/** A domain's one spelling: `ai.onnx` is the standard domain, which is usually left empty. */
export function canonicalDomain(domain: string): string {
  return domain === 'ai.onnx' ? '' : domain;
}

/** What messages call a node: its operator and its name, or what it computes where it has no name. */
export function describeNode(node: OnnxNode): string {
  const name = node.name || node.outputs.find((output) => output !== '') || '';
  const op = describeOperator(node);
  return name === '' ? `a ${op} node without a name` : `${op} ${quote(name)}`;
}

/** What messages call a node's operator. */
export function describeOperator({ op }: OnnxNode): string {
  return quoteUnlessPlain(op);
}

/*
 * Field numbers of onnx/onnx.in.proto, up to IR version 14. What an audit has no use for is left out: doc_string,
 * value_info, training_info, quantization_annotation, device configurations, string payloads.
 */

/** The numbers of the fields that are looked at besides reading: by editors, by whoever reads values in place or knows files. */
export const FIELDS = {
  model: {
    irVersion: 1,
    producerName: 2,
    producerVersion: 3,
    domain: 4,
    modelVersion: 5,
    docString: 6,
    graph: 7,
    opsets: 8,
    metadata: 14,
    trainingInfo: 20,
    functions: 25,
  },
  trainingInfo: { initialization: 1, algorithm: 2 },
  graph: {
    node: 1,
    name: 2,
    initializer: 5,
    docString: 10,
    input: 11,
    output: 12,
    valueInfo: 13,
    sparseInitializer: 15,
  },
  node: { input: 1, output: 2, attribute: 5 },
  attribute: { name: 1, graph: 6, floats: 7, ints: 8, graphs: 11 },
  tensor: {
    floatData: 4,
    int32Data: 5,
    int64Data: 7,
    rawData: 9,
    doubleData: 10,
    uint64Data: 11,
    externalData: 13,
    dataLocation: 14,
  },
  entry: { key: 1, value: 2 },
} as const;

/** A message while it is read: what is readonly once it was. */
type Draft<T> =
  T extends ReadonlyMap<infer K, infer V>
    ? Map<K, Draft<V>>
    : T extends readonly (infer E)[]
      ? Draft<E>[]
      : T extends object
        ? { -readonly [K in keyof T]: Draft<T[K]> }
        : T;

/** Names of modules, scopes and rules; a longer one is none. */
const MAX_NOTE_BYTES = 16 * 1024;

/** The metadata of nodes that is kept, and what the notes call it. stack_trace holds local paths: never kept. */
const METADATA_NOTES: ReadonlyMap<string, keyof NodeNotes> = new Map([
  ['pkg.torch.onnx.name_scopes', 'nameScopes'],
  ['pkg.torch.onnx.class_hierarchy', 'classHierarchy'],
  ['pkg.onnxscript.rewriter.rule_name', 'rewriteRule'],
]);

/** Nodes of all graphs and functions; the largest graphs in the wild have some ten thousands. */
const MAX_NODES = 200_000;

/** Tensors of all graphs and attributes; large models have some thousands. */
const MAX_TENSORS = 100_000;

/** Local functions; an exporter makes one for every kind of module. */
const MAX_FUNCTIONS = 20_000;

const ENTRY = message('StringStringEntryProto', () => ({ key: '', value: '' }), [
  [FIELDS.entry.key, text('key')],
  [FIELDS.entry.value, text('value')],
]);

const METADATA = message('StringStringEntryProto', ENTRY.create, [
  [FIELDS.entry.key, note('key')],
  [
    FIELDS.entry.value,
    {
      ...note('value'),
      isWanted: ({ key }, byteLength) => METADATA_NOTES.has(key) && byteLength <= MAX_NOTE_BYTES,
    },
  ],
]);

const OPERATOR_SET = message('OperatorSetIdProto', () => ({ domain: '', version: 0 }), [
  [1, text('domain', canonicalDomain)],
  [2, number('version', (version) => Number(signedOf(version)))],
]);

const OPSETS = each(OPERATOR_SET, ({ opsets }: { opsets: Map<string, number> }, { domain, version }) =>
  opsets.set(domain, version),
);

const VALUE_INFO = message('ValueInfoProto', () => ({ name: '' }), [[1, text('name')]]);

/** A tensor: its description is read, its values stay where they are. */
export const TENSOR = message<Draft<OnnxTensor>>(
  'TensorProto',
  () => ({ name: '', dims: [], dataType: 0, segments: [], dataLocation: 0, externalData: null }),
  [
    [1, numbers('dims')],
    [2, number('dataType', signed32Of)],
    [FIELDS.tensor.floatData, segments(WIRE_FIXED32)],
    [FIELDS.tensor.int32Data, segments(WIRE_VARINT)],
    [FIELDS.tensor.int64Data, segments(WIRE_VARINT)],
    [8, text('name')],
    [FIELDS.tensor.rawData, segments('raw')],
    [FIELDS.tensor.doubleData, segments(WIRE_FIXED64)],
    [FIELDS.tensor.uint64Data, segments(WIRE_VARINT)],
    [
      FIELDS.tensor.externalData,
      each(ENTRY, (tensor, { key, value }) => {
        tensor.externalData ??= new Map();
        tensor.externalData.set(key, value);
      }),
    ],
    [FIELDS.tensor.dataLocation, number('dataLocation', signed32Of)],
  ],
  { most: MAX_TENSORS, what: 'tensors' },
);

const SPARSE_TENSOR = message<Draft<OnnxSparseTensor>>(
  'SparseTensorProto',
  () => ({ values: TENSOR.create(), indices: TENSOR.create(), dims: [] }),
  [
    [1, one('values', TENSOR)],
    [2, one('indices', TENSOR)],
    [3, numbers('dims')],
  ],
);

// Graphs hold nodes, nodes hold attributes, attributes hold graphs: the fields are filled in once all three exist.
const graphFields = new Map<number, FieldRule<Draft<OnnxGraph>>>();

/** A graph: the model's own, or one in an attribute. */
export const GRAPH: MessageType<Draft<OnnxGraph>> = {
  name: 'GraphProto',
  create: () => ({ name: '', nodes: [], initializers: [], sparseInitializers: [], inputs: [], outputs: [] }),
  fields: graphFields,
};

const ATTRIBUTE = message<Draft<OnnxAttribute>>(
  'AttributeProto',
  () => ({
    name: '',
    refName: '',
    float: 0,
    int: 0n,
    tensor: null,
    sparseTensor: null,
    graph: null,
    graphs: [],
    segments: [],
  }),
  [
    [FIELDS.attribute.name, text('name')],
    [2, number('float', float32Of, WIRE_FIXED32)],
    [3, number('int', signedOf)],
    [5, one('tensor', TENSOR)],
    [FIELDS.attribute.graph, one('graph', GRAPH)],
    [FIELDS.attribute.floats, segments(WIRE_FIXED32)],
    [FIELDS.attribute.ints, segments(WIRE_VARINT)],
    [FIELDS.attribute.graphs, many('graphs', GRAPH)],
    [21, text('refName')],
    [22, one('sparseTensor', SPARSE_TENSOR)],
  ],
);

const NODE = message<Draft<OnnxNode>>(
  'NodeProto',
  () => ({
    name: '',
    op: '',
    domain: '',
    overload: '',
    inputs: [],
    outputs: [],
    attributes: new Map(),
    notes: NO_NOTES,
  }),
  [
    [FIELDS.node.input, texts('inputs')],
    [FIELDS.node.output, texts('outputs')],
    [3, text('name')],
    [4, text('op')],
    [
      FIELDS.node.attribute,
      each(ATTRIBUTE, (node, attribute) => node.attributes.set(attribute.name, attribute)),
    ],
    [7, text('domain', canonicalDomain)],
    [8, note('overload')],
    [
      9,
      each(METADATA, (node, { key, value }) => {
        const name = METADATA_NOTES.get(key);
        if (name !== undefined) node.notes = { ...node.notes, [name]: value };
      }),
    ],
  ],
  { most: MAX_NODES, what: 'nodes' },
);

graphFields
  .set(FIELDS.graph.node, many('nodes', NODE))
  .set(FIELDS.graph.name, text('name'))
  .set(FIELDS.graph.initializer, many('initializers', TENSOR))
  .set(
    FIELDS.graph.input,
    each(VALUE_INFO, ({ inputs }, { name }) => inputs.push(name)),
  )
  .set(
    FIELDS.graph.output,
    each(VALUE_INFO, ({ outputs }, { name }) => outputs.push(name)),
  )
  .set(FIELDS.graph.sparseInitializer, many('sparseInitializers', SPARSE_TENSOR));

const FUNCTION = message<Draft<OnnxFunction>>(
  'FunctionProto',
  () => ({
    name: '',
    domain: '',
    overload: '',
    inputs: [],
    outputs: [],
    defaults: new Map(),
    nodes: [],
    opsets: new Map(),
  }),
  [
    [1, text('name')],
    [4, texts('inputs')],
    [5, texts('outputs')],
    [7, many('nodes', NODE)],
    [9, OPSETS],
    [10, text('domain', canonicalDomain)],
    [11, each(ATTRIBUTE, ({ defaults }, attribute) => defaults.set(attribute.name, attribute))], // attribute_proto
    [13, note('overload')],
  ],
  { most: MAX_FUNCTIONS, what: 'functions' },
);

/** The file. */
export const MODEL = message<Draft<OnnxModel>>(
  'ModelProto',
  () => ({
    irVersion: 0,
    producerName: '',
    producerVersion: '',
    opsets: new Map(),
    graph: null,
    functions: [],
  }),
  [
    [FIELDS.model.irVersion, number('irVersion', (version) => Number(signedOf(version)))],
    [FIELDS.model.producerName, text('producerName')],
    [FIELDS.model.producerVersion, text('producerVersion')],
    [FIELDS.model.graph, one('graph', GRAPH)],
    [FIELDS.model.opsets, OPSETS],
    [FIELDS.model.functions, many('functions', FUNCTION)],
  ],
);

/**
 * Reads a model without its weights: of payloads, only where they lie is kept.
 *
 * @throws CheckpointError as {@link readMessage}.
 */
export function readModel(source: ByteSource): Promise<OnnxModel> {
  return readMessage(source, MODEL);
}

function message<M>(
  name: string,
  create: () => M,
  fields: readonly (readonly [number, FieldRule<NoInfer<M>>])[],
  limit?: MessageType['limit'],
): MessageType<M> {
  return { name, create, fields: new Map(fields), ...(limit && { limit }) };
}

function number<K extends string, V>(
  key: K,
  convert: (value: Varint) => V,
  wire = WIRE_VARINT,
): NumberRule<Record<K, V>> {
  const take = (owner: Record<K, V>, value: Varint) => {
    owner[key] = convert(value);
  };
  return { kind: 'number', wire, repeated: false, take };
}

function numbers<K extends string>(key: K): NumberRule<Record<K, bigint[]>> {
  const take = (owner: Record<K, bigint[]>, value: Varint) => owner[key].push(signedOf(value));
  return { kind: 'number', wire: WIRE_VARINT, repeated: true, take };
}

function text<K extends string>(key: K, convert = (text: string) => text): TextRule<Record<K, string>> {
  const take = (owner: Record<K, string>, value: string) => {
    owner[key] = convert(value);
  };
  return { kind: 'text', isWanted: () => true, take };
}

function texts<K extends string>(key: K): TextRule<Record<K, string[]>> {
  return { kind: 'text', isWanted: () => true, take: (owner, value) => owner[key].push(value) };
}

/** A text that may hold anything. */
function note<K extends string>(key: K): TextRule<Record<K, string>> {
  return { ...text(key), isWanted: (_owner, byteLength) => byteLength <= MAX_NOTE_BYTES };
}

function segments(wire: number | 'raw'): SegmentRule<{ segments: Segment[] }> {
  return { kind: 'segments', wire, take: (owner, segment) => owner.segments.push(segment) };
}

function one<K extends string, Inner>(
  key: K,
  type: MessageType<Inner>,
): MessageRule<Record<K, Inner | null>> {
  const open = (owner: Record<K, Inner | null>) => {
    owner[key] ??= type.create();
    return owner[key];
  };
  return { kind: 'message', type, open };
}

function many<K extends string, Inner>(key: K, type: MessageType<Inner>): MessageRule<Record<K, Inner[]>> {
  const open = (owner: Record<K, Inner[]>) => {
    const inner = type.create();
    owner[key].push(inner);
    return inner;
  };
  return { kind: 'message', type, open };
}

/** A repeated message that is put where it belongs when it has ended: its key may be the last of its fields. */
function each<M, Inner>(
  type: MessageType<Inner>,
  close: (owner: M, inner: Inner) => void,
): MessageRule<M> & { close(owner: M, inner: Inner): void } {
  return { kind: 'message', type, open: () => type.create(), close };
}
