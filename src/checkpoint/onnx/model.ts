import onnxProto, { type onnx } from 'onnx-proto';
import { CheckpointError, quote, quoteUnlessPlain } from '../../errors.js';
import { decodeSegment, type Segment } from './segment.js';

/** A tensor as the model describes it; where its values are, not what they are. */
export interface OnnxTensor {
  readonly name: string;
  readonly dims: readonly bigint[];
  /** TensorProto.DataType. */
  readonly dataType: number;
  readonly segments: readonly Segment[];
  /** The keys and values of external_data where the data lies in another file, else null. */
  readonly external: ReadonlyMap<string, string> | null;
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
  /** Subgraphs: of `g`, then of `graphs`. */
  readonly graphs: readonly OnnxGraph[];
  /** The values of `floats` (field 7) and `ints` (field 8). */
  readonly segments: readonly Segment[];
}

/** What exporters say about a node in metadata_props. */
export interface NodeNotes {
  readonly nameScopes: string;
  readonly classHierarchy: string;
  readonly rewriteRule: string;
}

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
  readonly producer: string;
  readonly opsets: OpsetImports;
  readonly graph: OnnxGraph | null;
  readonly functions: readonly OnnxFunction[];
}

/**
 * Decodes a skeleton with onnx-proto.
 *
 * @throws CheckpointError `malformed` when the library refuses; the skeleton pass has left it no reason to.
 */
export function decodeModel(skeleton: Uint8Array, file: string): OnnxModel {
  let model: onnx.ModelProto;
  try {
    // protobufjs reads names out of a Buffer with native code.
    const bytes = Buffer.from(skeleton.buffer, skeleton.byteOffset, skeleton.byteLength);
    model = onnxProto.onnx.ModelProto.decode(bytes);
  } catch (cause) {
    throw new CheckpointError('expected an ONNX model, found malformed protobuf', {
      code: 'malformed',
      file,
      cause,
    });
  }
  return {
    irVersion: Number(toBigInt(model.irVersion)),
    producer: [model.producerName, model.producerVersion].filter(isFilled).join(' '),
    opsets: convertOpsets(model.opsetImport),
    graph: model.graph ? convertGraph(model.graph) : null,
    functions: model.functions.map(convertFunction),
  };
}

/** A domain's one spelling: `ai.onnx` is the standard domain, which is usually left empty. */
export function canonicalDomain(domain: string): string {
  return domain === 'ai.onnx' ? '' : domain;
}

/** What messages call a node: its operator and its name, or what it computes where it has no name. */
export function describeNode(node: OnnxNode): string {
  const name = node.name || node.outputs.find(isFilled) || '';
  const op = describeOperator(node);
  return name === '' ? `a ${op} node without a name` : `${op} ${quote(name)}`;
}

/** What messages call a node's operator. */
export function describeOperator({ op }: OnnxNode): string {
  return quoteUnlessPlain(op);
}

function isFilled(text: string | null | undefined): text is string {
  return text !== null && text !== undefined && text !== '';
}

/** protobufjs gives int64 as its Long class where that is installed, else as a number. */
function toBigInt(value: unknown): bigint {
  if (typeof value === 'number') return Number.isFinite(value) ? BigInt(Math.trunc(value)) : 0n;
  if (typeof value === 'object' && value !== null && 'low' in value && 'high' in value) {
    return (BigInt(Number(value.high)) << 32n) | BigInt(Number(value.low) >>> 0);
  }
  return 0n;
}

function convertOpsets(imports: readonly onnx.IOperatorSetIdProto[] | null | undefined): OpsetImports {
  const opsets = new Map<string, number>();
  for (const item of imports ?? []) {
    opsets.set(canonicalDomain(item.domain ?? ''), Number(toBigInt(item.version)));
  }
  return opsets;
}

function convertTensor(tensor: onnx.ITensorProto): OnnxTensor {
  const isExternal = tensor.dataLocation === 1;
  const entries = (tensor.externalData ?? []).map((entry) => [entry.key ?? '', entry.value ?? ''] as const);
  return {
    name: tensor.name ?? '',
    dims: (tensor.dims ?? []).map(toBigInt),
    dataType: tensor.dataType ?? 0,
    segments: (tensor.stringData ?? []).map(decodeSegment),
    external: isExternal ? new Map(entries) : null,
  };
}

function convertSparseTensor(tensor: onnx.ISparseTensorProto): OnnxSparseTensor {
  return {
    values: convertTensor(tensor.values ?? {}),
    indices: convertTensor(tensor.indices ?? {}),
    dims: (tensor.dims ?? []).map(toBigInt),
  };
}

function convertAttribute(attribute: onnx.IAttributeProto): OnnxAttribute {
  const graphs = attribute.g ? [attribute.g, ...(attribute.graphs ?? [])] : (attribute.graphs ?? []);
  return {
    name: attribute.name ?? '',
    refName: attribute.refAttrName ?? '',
    float: attribute.f ?? 0,
    int: toBigInt(attribute.i),
    tensor: attribute.t ? convertTensor(attribute.t) : null,
    sparseTensor: attribute.sparseTensor ? convertSparseTensor(attribute.sparseTensor) : null,
    graphs: graphs.map(convertGraph),
    segments: (attribute.strings ?? []).map(decodeSegment),
  };
}

function convertAttributes(attributes: readonly onnx.IAttributeProto[] | null | undefined) {
  return new Map((attributes ?? []).map((attribute) => [attribute.name ?? '', convertAttribute(attribute)]));
}

function convertNode(node: onnx.INodeProto): OnnxNode {
  const notes = parseNotes(node.docString);
  return {
    name: node.name ?? '',
    op: node.opType ?? '',
    domain: canonicalDomain(node.domain ?? ''),
    overload: notes.overload ?? '',
    inputs: node.input ?? [],
    outputs: node.output ?? [],
    attributes: convertAttributes(node.attribute),
    notes: {
      nameScopes: notes.nameScopes ?? '',
      classHierarchy: notes.classHierarchy ?? '',
      rewriteRule: notes.rewriteRule ?? '',
    },
  };
}

function convertGraph(graph: onnx.IGraphProto): OnnxGraph {
  return {
    name: graph.name ?? '',
    nodes: (graph.node ?? []).map(convertNode),
    initializers: (graph.initializer ?? []).map(convertTensor),
    sparseInitializers: (graph.sparseInitializer ?? []).map(convertSparseTensor),
    inputs: (graph.input ?? []).map((info) => info.name ?? ''),
    outputs: (graph.output ?? []).map((info) => info.name ?? ''),
  };
}

function convertFunction(body: onnx.IFunctionProto): OnnxFunction {
  const nodes = body.node ?? [];
  const defaults = nodes.find((node) => parseNotes(node.docString).holdsDefaults !== undefined);
  return {
    name: body.name ?? '',
    domain: canonicalDomain(body.domain ?? ''),
    overload: parseNotes(body.docString).overload ?? '',
    inputs: body.input ?? [],
    outputs: body.output ?? [],
    defaults: convertAttributes(defaults?.attribute),
    nodes: nodes.filter((node) => node !== defaults).map(convertNode),
    opsets: convertOpsets(body.opsetImport),
  };
}

/** What the skeleton pass puts in place of doc_strings, as JSON; the file's own doc_strings were dropped there. */
interface SkeletonNotes {
  readonly overload?: string;
  readonly nameScopes?: string;
  readonly classHierarchy?: string;
  readonly rewriteRule?: string;
  readonly holdsDefaults?: string;
}

function parseNotes(docString: string | null | undefined): SkeletonNotes {
  return isFilled(docString) ? JSON.parse(docString) : {};
}
