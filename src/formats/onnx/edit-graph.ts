// Edits an ONNX file by splices: fields of the model cut out, replaced and added, all else byte for byte.

import { CheckpointError } from '../../errors.js';
import {
  type ByteRange,
  type ByteSource,
  holdBytes,
  joinRanges,
  listSpliced,
  readRange,
  type Splice,
  wholeOf,
} from '../../io/byte-source.js';
import { BufferedReader } from '../../io/cursor.js';
import {
  EXTERNAL,
  FIELDS,
  GRAPH,
  listLocations,
  MODEL,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
  subgraphsOf,
  TENSOR,
} from './schema.js';
import {
  encodeFieldHead,
  encodeVarint,
  MAX_VARINT_BYTES,
  type MessageType,
  parseTag,
  readVarint,
  unsignedOf,
  type Varint,
  WIRE_FIXED32,
  WIRE_FIXED64,
  WIRE_LENGTH,
  WIRE_VARINT,
} from './wire.js';

/** A field of a message, by positions in the file. */
export interface Field {
  readonly number: number;
  readonly wire: number;
  /** Where the tag stands. */
  readonly start: number;
  /** Where the length stands; the payload's start for fields without one. */
  readonly lengthStart: number;
  readonly payloadStart: number;
  readonly end: number;
}

interface MessageExtent {
  readonly start: number;
  readonly end: number;
}

/** Names of files are short; a longer value is no location. */
const MAX_TEXT_BYTES = 64 * 1024;

/**
 * Reads the fields of one message, in file order, jumping over what they hold. The file was read as a model before, which checked it.
 *
 * @throws CheckpointError `unsupported` for groups, an old form of unknown fields.
 */
export async function* readFields(source: ByteSource, { start, end }: MessageExtent): AsyncGenerator<Field> {
  const reader = new BufferedReader(source, start, end);
  const varint: Varint = { low: 0, high: 0 };
  while (reader.position < end) {
    const fieldStart = reader.position;
    await reader.fill(2 * MAX_VARINT_BYTES);
    readVarint(reader, varint);
    const { field, wire } = parseTag(varint, reader, fieldStart);
    const lengthStart = reader.position;
    let payloadStart = lengthStart;
    if (wire === WIRE_VARINT) readVarint(reader, varint);
    else if (wire === WIRE_FIXED32) reader.skip(4);
    else if (wire === WIRE_FIXED64) reader.skip(8);
    else if (wire === WIRE_LENGTH) {
      readVarint(reader, varint);
      payloadStart = reader.position;
      reader.skip(unsignedOf(varint));
    } else {
      const message = 'expected a model without groups, found one: it cannot be rewritten';
      throw new CheckpointError(message, { code: 'unsupported', file: source.name, offset: fieldStart });
    }
    yield { number: field, wire, start: fieldStart, lengthStart, payloadStart, end: reader.position };
  }
}

/**
 * Adds to splices the new lengths of every message around them.
 *
 * @param splices by offset, disjoint; each replaces whole fields, or the payload of one.
 */
export async function renewLengths(
  source: ByteSource,
  extent: MessageExtent,
  splices: readonly Splice[],
): Promise<readonly Splice[]> {
  const renewed: Splice[] = [];
  let next = 0;
  if (splices.length === 0) return renewed;
  for await (const field of readFields(source, extent)) {
    const inside: Splice[] = [];
    for (let splice = splices[next]; splice !== undefined && splice.offset < field.end; ) {
      inside.push(splice);
      splice = splices[++next];
    }
    const [first] = inside;
    if (first === undefined) continue;
    const isWholePayload =
      first.offset === field.payloadStart && first.deleted === field.end - field.payloadStart;
    const isWhole = first.offset < field.payloadStart || isWholePayload;
    const inner = isWhole ? inside : await renewLengths(source, payloadOf(field), inside);
    const growth = inner.reduce((sum, { deleted, content }) => sum + content.byteLength - deleted, 0);
    if (first.offset >= field.payloadStart && growth !== 0)
      renewed.push({
        offset: field.lengthStart,
        deleted: field.payloadStart - field.lengthStart,
        content: holdBytes(encodeVarint(field.end - field.payloadStart + growth)),
      });
    renewed.push(...inner);
    if (next === splices.length) break;
  }
  return renewed;
}

/** Where a tensor says which file holds its data. */
interface LocationField {
  readonly location: string;
  readonly payload: MessageExtent;
}

/**
 * Every `location` of external data in a model, wherever the tensor stands.
 *
 * @param model what was decoded of it. Where that refers to no file, only training_info is looked through, which an audit
 *   leaves out.
 */
export async function findLocations(source: ByteSource, model: OnnxModel): Promise<readonly LocationField[]> {
  const isSelfContained = listLocations(model).size === 0;
  const found: LocationField[] = [];
  const pending: { extent: MessageExtent; type: MessageType }[] = [
    { extent: { start: 0, end: source.byteLength }, type: MODEL },
  ];
  for (let message = pending.pop(); message !== undefined; message = pending.pop()) {
    const { extent, type } = message;
    if (type === TENSOR) {
      found.push(...(await readLocation(source, extent)));
      continue;
    }
    for await (const field of readFields(source, extent)) {
      if (field.wire !== WIRE_LENGTH) continue;
      const inner = innerType(type, field.number);
      if (type === MODEL && inner !== TRAINING_INFO && isSelfContained) continue;
      if (inner !== null) pending.push({ extent: payloadOf(field), type: inner });
    }
  }
  return found;
}

/** ModelProto.training_info holds graphs as well; an audit skips them, but their external data moves along. */
const TRAINING_INFO: MessageType = { name: 'TrainingInfoProto', create: () => ({}), fields: new Map() };

function innerType(type: MessageType, field: number): MessageType | null {
  if (type === MODEL && field === FIELDS.model.trainingInfo) return TRAINING_INFO;
  const { initialization, algorithm } = FIELDS.trainingInfo;
  if (type === TRAINING_INFO) return field === initialization || field === algorithm ? GRAPH : null;
  const rule = type.fields.get(field);
  return rule?.kind === 'message' ? rule.type : null;
}

async function readLocation(source: ByteSource, extent: MessageExtent): Promise<readonly LocationField[]> {
  const locations: LocationField[] = [];
  let isExternal = false;
  for await (const field of readFields(source, extent)) {
    if (field.number === FIELDS.tensor.dataLocation) {
      const [location] = await readRange({ source, offset: field.payloadStart, byteLength: 1 });
      isExternal = location === EXTERNAL;
    }
    if (field.number !== FIELDS.tensor.externalData || field.wire !== WIRE_LENGTH) continue;
    let key = '';
    let value: Field | null = null;
    for await (const part of readFields(source, payloadOf(field))) {
      if (part.number === FIELDS.entry.key) key = await readText(source, part);
      if (part.number === FIELDS.entry.value) value = part;
    }
    if (key === 'location' && value !== null)
      locations.push({ location: await readText(source, value), payload: payloadOf(value) });
  }
  return isExternal ? locations : [];
}

// As the reader of models has it: a byte order mark is part of a name.
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** The text of a field, its first 64 KiB where it is longer. */
async function readText(source: ByteSource, { payloadStart, end }: Field): Promise<string> {
  const byteLength = Math.min(end - payloadStart, MAX_TEXT_BYTES);
  return decoder.decode(await readRange({ source, offset: payloadStart, byteLength }));
}

/** A message that a graph is given: its field of GraphProto, and itself, encoded. */
export interface GraphField {
  readonly number: number;
  readonly content: ByteRange;
}

/** What changes in a model. What is not named stays as it is, byte for byte, also what no reader here knows. */
export interface GraphEdit {
  /** The model's graph, as it was read. */
  readonly graph: OnnxGraph;
  /** Nodes of the graph, and of subgraphs in it. */
  readonly nodes: Map<OnnxNode, NodeEdit>;
  /** Encoded TensorProtos in place of initializers. */
  readonly initializers: Map<OnnxTensor, ByteRange>;
  /** What the graph gets besides, where it has any node. */
  readonly added: GraphField[];
}

/** What changes in a node. */
export interface NodeEdit {
  isRemoved: boolean;
  /** New names by position. */
  readonly inputs: Map<number, string>;
  readonly outputs: Map<number, string>;
  /** Fields of the graph that stand right behind the node, or in its place: nodes and initializers. */
  readonly following: GraphField[];
}

/** An edit that changes nothing yet. */
export function newGraphEdit(graph: OnnxGraph): GraphEdit {
  return { graph, nodes: new Map(), initializers: new Map(), added: [] };
}

/** The edit of a node, which changes nothing at first. */
export function editNode({ nodes }: GraphEdit, node: OnnxNode): NodeEdit {
  const edit = nodes.get(node) ?? { isRemoved: false, inputs: new Map(), outputs: new Map(), following: [] };
  nodes.set(node, edit);
  return edit;
}

/** A protobuf message has at most 2 GiB (https://protobuf.dev/programming-guides/proto-limits/). */
const MAX_MODEL_BYTES = 2 ** 31 - 1;

/**
 * A model with changes, in memory.
 *
 * @param source a model that was read before, so that its structure is known to be whole.
 * @throws CheckpointError `limit-exceeded` above 2 GiB, where protobuf ends; `unsupported` for groups, an old form of
 *   unknown fields.
 */
export async function editModel(source: ByteSource, edit: GraphEdit): Promise<Uint8Array> {
  const whole = { start: 0, end: source.byteLength };
  const splices = await renewLengths(source, whole, await planGraphEdit(source, edit));
  const edited = joinRanges(source.name, listSpliced(wholeOf(source), splices));
  if (edited.byteLength > MAX_MODEL_BYTES) {
    const message = `expected a model of at most ${MAX_MODEL_BYTES} bytes, found ${edited.byteLength}`;
    throw new CheckpointError(message, { code: 'limit-exceeded', file: source.name });
  }
  return await readRange(edited);
}

/** An edit of the main graph as splices by offset, which {@link renewLengths} completes. */
export async function planGraphEdit(source: ByteSource, edit: GraphEdit): Promise<readonly Splice[]> {
  const splices: Splice[] = [];
  const counts = { node: 0, initializer: 0 };
  // A graph in several fields is merged: its nodes count on.
  for await (const field of readFields(source, { start: 0, end: source.byteLength })) {
    if (field.number === FIELDS.model.graph && field.wire === WIRE_LENGTH)
      splices.push(...(await planGraph({ source, edit, graph: edit.graph, counts }, payloadOf(field))));
  }
  return splices;
}

/** A graph of the model that is passed for its edits. */
interface GraphPass {
  readonly source: ByteSource;
  readonly edit: GraphEdit;
  readonly graph: OnnxGraph;
  /** What stands before in the graph, which may come in several pieces. */
  readonly counts: { node: number; initializer: number };
}

async function planGraph(pass: GraphPass, extent: MessageExtent): Promise<readonly Splice[]> {
  const { source, edit, graph, counts } = pass;
  const splices: Splice[] = [];
  for await (const field of readFields(source, extent)) {
    if (field.wire !== WIRE_LENGTH) continue;
    if (field.number === FIELDS.graph.initializer) {
      const initializer = graph.initializers[counts.initializer++];
      const content = initializer && edit.initializers.get(initializer);
      if (content !== undefined) splices.push(replace(field, [{ number: field.number, content }]));
    }
    if (field.number !== FIELDS.graph.node) continue;
    const added = graph === edit.graph && counts.node === 0 ? edit.added : [];
    const node = graph.nodes[counts.node++];
    if (node === undefined) continue;
    const payload = payloadOf(field);
    const within = await planNode(pass, node, payload);
    const { following = [], isRemoved = false } = edit.nodes.get(node) ?? {};
    if (added.length + following.length === 0 && !isRemoved) splices.push(...within);
    else {
      const inner = { source, offset: payload.start, byteLength: payload.end - payload.start };
      const parts = listSpliced(inner, await renewLengths(source, payload, within));
      const content = joinRanges(source.name, parts);
      const kept = isRemoved ? [] : [{ number: field.number, content }];
      splices.push(replace(field, [...added, ...kept, ...following]));
    }
  }
  return splices;
}

async function planNode(pass: GraphPass, node: OnnxNode, extent: MessageExtent): Promise<readonly Splice[]> {
  const { inputs, outputs } = pass.edit.nodes.get(node) ?? {};
  const hasBodies = [...node.attributes.values()].some((attribute) => subgraphsOf(attribute).length > 0);
  const splices: Splice[] = [];
  if (inputs === undefined && !hasBodies) return splices;
  const counts = { input: 0, output: 0 };
  for await (const field of readFields(pass.source, extent)) {
    if (field.wire !== WIRE_LENGTH) continue;
    const { number } = field;
    const name =
      number === FIELDS.node.input
        ? inputs?.get(counts.input++)
        : number === FIELDS.node.output
          ? outputs?.get(counts.output++)
          : undefined;
    if (name !== undefined)
      splices.push(replace(field, [{ number, content: holdBytes(new TextEncoder().encode(name)) }]));
    else if (number === FIELDS.node.attribute && hasBodies)
      splices.push(...(await planAttribute(pass, node, payloadOf(field))));
  }
  return splices;
}

async function planAttribute(
  { source, edit }: GraphPass,
  node: OnnxNode,
  extent: MessageExtent,
): Promise<readonly Splice[]> {
  let name = '';
  const bodies: Field[] = [];
  for await (const field of readFields(source, extent)) {
    if (field.wire !== WIRE_LENGTH) continue;
    if (field.number === FIELDS.attribute.name) name = await readText(source, field);
    if (field.number === FIELDS.attribute.graph || field.number === FIELDS.attribute.graphs)
      bodies.push(field);
  }
  const attribute = node.attributes.get(name);
  const splices: Splice[] = [];
  const merged = { node: 0, initializer: 0 };
  let position = 0;
  for (const body of bodies) {
    // Several `g` are merged into one graph; each of `graphs` is one.
    const isMerged = body.number === FIELDS.attribute.graph;
    const graph = isMerged ? attribute?.graph : attribute?.graphs[position++];
    const counts = isMerged ? merged : { node: 0, initializer: 0 };
    if (graph) splices.push(...(await planGraph({ source, edit, graph, counts }, payloadOf(body))));
  }
  return splices;
}

function payloadOf({ payloadStart, end }: Field): MessageExtent {
  return { start: payloadStart, end };
}

function replace({ start, end }: Field, fields: readonly GraphField[]): Splice {
  const parts = fields.flatMap(({ number, content }) => [
    holdBytes(encodeFieldHead(number, content.byteLength)),
    content,
  ]);
  return { offset: start, deleted: end - start, content: joinRanges('fields', parts) };
}
