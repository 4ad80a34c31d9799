import { quote, quoteUnlessPlain } from '../../errors.js';

/** A run of the values of a payload field: where they are in the file, not what they are. */
export interface Segment {
  /** The field of TensorProto or AttributeProto that the values belong to. */
  readonly field: number;
  /** `packed`: one behind the other. `tagged`: each behind a tag of its own (repeated scalars that were not packed). */
  readonly form: 'packed' | 'tagged';
  /** First byte; of the first tag where `tagged`. */
  readonly offset: number;
  readonly byteLength: number;
  /** Bytes from one value to the next, tag included, where `tagged` and all are alike; 0 for varints. */
  readonly stride: number;
}

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
const EXTERNAL = 1;

/** Whether a tensor's data lies in another file. */
export function isExternal({ dataLocation }: OnnxTensor): boolean {
  return dataLocation === EXTERNAL;
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

/** What exporters say about a node in metadata_props. */
export interface NodeNotes {
  readonly nameScopes: string;
  readonly classHierarchy: string;
  readonly rewriteRule: string;
}

/** The notes of a node without any. */
export const NO_NOTES: NodeNotes = { nameScopes: '', classHierarchy: '', rewriteRule: '' };

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
