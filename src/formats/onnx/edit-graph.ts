// Edits an ONNX file by splices: fields of the model cut out, replaced and added, all else byte for byte.

import type { Splice } from '../../checkpoint/checkpoint.js';
import { CheckpointError } from '../../errors.js';
import { type ByteRange, type ByteSource, holdBytes, joinRanges, readRange } from '../../io/byte-source.js';
import { BufferedReader } from '../../io/cursor.js';
import {
  FIELDS,
  GRAPH,
  isExternal,
  type MessageType,
  MODEL,
  type OnnxAttribute,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxSparseTensor,
  subgraphsOf,
  TENSOR,
} from './schema.js';
import type { Scope, Site } from './scope.js';
import {
  encodeFieldHead,
  encodeVarint,
  MAX_VARINT_BYTES,
  parseTag,
  readVarint,
  unsignedOf,
  type Varint,
  WIRE_FIXED32,
  WIRE_FIXED64,
  WIRE_LENGTH,
  WIRE_VARINT,
} from './wire.js';

/**
 * Whether any tensor of a model, wherever it stands, has its data in another file. Of attributes that a node states twice,
 * which no valid model does, the last one counts, as everywhere in an audit.
 */
function refersToFiles({ graph, functions }: OnnxModel): boolean {
  return (
    (graph !== null && isGraphExternal(graph)) ||
    functions.some(({ nodes, defaults }) => nodes.some(isNodeExternal) || isAnyExternal(defaults))
  );
}

function isGraphExternal({ nodes, initializers, sparseInitializers }: OnnxGraph): boolean {
  return (
    initializers.some(isExternal) || sparseInitializers.some(isSparseExternal) || nodes.some(isNodeExternal)
  );
}

function isNodeExternal({ attributes }: OnnxNode): boolean {
  return isAnyExternal(attributes);
}

function isAnyExternal(attributes: ReadonlyMap<string, OnnxAttribute>): boolean {
  for (const attribute of attributes.values()) {
    const { tensor, sparseTensor } = attribute;
    if (tensor !== null && isExternal(tensor)) return true;
    if (sparseTensor !== null && isSparseExternal(sparseTensor)) return true;
    if (subgraphsOf(attribute).some(isGraphExternal)) return true;
  }
  return false;
}

function isSparseExternal({ values, indices }: OnnxSparseTensor): boolean {
  return isExternal(values) || isExternal(indices);
}

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

/** A message by the positions of its fields. */
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
    if (wire === WIRE_VARINT) readVarint(reader, varint);
    else if (wire === WIRE_FIXED32) reader.skip(4);
    else if (wire === WIRE_FIXED64) reader.skip(8);
    else if (wire === WIRE_LENGTH) {
      readVarint(reader, varint);
      const payloadStart = reader.position;
      reader.skip(unsignedOf(varint));
      yield { number: field, wire, start: fieldStart, lengthStart, payloadStart, end: reader.position };
      continue;
    } else {
      throw new CheckpointError('expected a model without groups, found one: it cannot be rewritten', {
        code: 'unsupported',
        file: source.name,
        offset: fieldStart,
      });
    }
    yield {
      number: field,
      wire,
      start: fieldStart,
      lengthStart,
      payloadStart: lengthStart,
      end: reader.position,
    };
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
    const inner = isWhole
      ? inside
      : await renewLengths(source, { start: field.payloadStart, end: field.end }, inside);
    const growth = inner.reduce((sum, { deleted, content }) => sum + content.byteLength - deleted, 0);
    if (first.offset >= field.payloadStart && growth !== 0) {
      renewed.push({
        offset: field.lengthStart,
        deleted: field.payloadStart - field.lengthStart,
        content: holdBytes(encodeVarint(field.end - field.payloadStart + growth)),
      });
    }
    renewed.push(...inner);
    if (next === splices.length) break;
  }
  return renewed;
}

/** Where a tensor says which file holds its data. */
export interface LocationField {
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
  const isSelfContained = !refersToFiles(model);
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
      if (inner !== null)
        pending.push({ extent: { start: field.payloadStart, end: field.end }, type: inner });
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
    if (field.number === FIELDS.tensor.dataLocation)
      isExternal = (await readByte(source, field.payloadStart)) === 1;
    if (field.number !== FIELDS.tensor.externalData || field.wire !== WIRE_LENGTH) continue;
    let key = '';
    let value: Field | null = null;
    for await (const part of readFields(source, { start: field.payloadStart, end: field.end })) {
      if (part.number === FIELDS.entry.key) key = await readText(source, part);
      if (part.number === FIELDS.entry.value) value = part;
    }
    if (key !== 'location' || value === null) continue;
    const payload = { start: value.payloadStart, end: value.end };
    locations.push({ location: await readText(source, value), payload });
  }
  return isExternal ? locations : [];
}

async function readByte(source: ByteSource, offset: number): Promise<number | undefined> {
  return (await readRange({ source, offset, byteLength: 1 }))[0];
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

/** What changes in a graph. What is not named stays as it is, byte for byte, also what no reader here knows. */
export interface GraphEdit {
  /** By the node's position among the graph's nodes. */
  readonly nodes: ReadonlyMap<number, NodeEdit>;
  /** Encoded TensorProtos in place of initializers, by their position among the graph's. */
  readonly initializers?: ReadonlyMap<number, ByteRange>;
  /** What the graph gets besides, where it has any node. */
  readonly added: readonly GraphField[];
}

/** What changes in a node. */
export interface NodeEdit {
  readonly isRemoved?: boolean;
  /** New names by position. */
  readonly inputs: ReadonlyMap<number, string>;
  readonly outputs: ReadonlyMap<number, string>;
  /** Subgraphs: by the name of their attribute, then by their position in it. */
  readonly graphs: ReadonlyMap<string, ReadonlyMap<number, GraphEdit>>;
  /** Fields of the graph that stand right behind the node, or in its place: nodes and initializers. */
  readonly following: readonly GraphField[];
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
  const edited = spliceRange(source, whole, splices);
  if (edited.byteLength > MAX_MODEL_BYTES) {
    throw new CheckpointError(
      `expected a model of at most ${MAX_MODEL_BYTES} bytes, found ${edited.byteLength}`,
      { code: 'limit-exceeded', file: source.name },
    );
  }
  return await readRange(edited);
}

/** An edit of the main graph as splices by offset, which {@link renewLengths} completes. */
export async function planGraphEdit(source: ByteSource, edit: GraphEdit): Promise<readonly Splice[]> {
  const splices: Splice[] = [];
  const pass = { source, edit, counts: { node: 0, initializer: 0 } };
  // A graph in several fields is merged: its nodes count on.
  for await (const field of readFields(source, { start: 0, end: source.byteLength })) {
    if (field.number === FIELDS.model.graph && field.wire === WIRE_LENGTH)
      splices.push(...(await planGraph(payloadOf(field), pass)));
  }
  return splices;
}

/** The edit of one graph, which may come in several pieces. */
interface GraphPass {
  readonly source: ByteSource;
  readonly edit: GraphEdit;
  readonly counts: { node: number; initializer: number };
}

async function planGraph(extent: MessageExtent, pass: GraphPass): Promise<readonly Splice[]> {
  const { source, edit, counts } = pass;
  const splices: Splice[] = [];
  for await (const field of readFields(source, extent)) {
    if (field.wire !== WIRE_LENGTH) continue;
    if (field.number === FIELDS.graph.initializer) {
      const content = edit.initializers?.get(counts.initializer++);
      if (content !== undefined) splices.push(replace(field, [joinField({ number: field.number, content })]));
    }
    if (field.number !== FIELDS.graph.node) continue;
    const added = counts.node === 0 ? edit.added : [];
    const change = edit.nodes.get(counts.node++);
    if (change !== undefined || added.length > 0)
      splices.push(...(await planNode({ source, field, change, added })));
  }
  return splices;
}

interface NodePass {
  readonly source: ByteSource;
  readonly field: Field;
  readonly change: NodeEdit | undefined;
  /** What stands before the node. */
  readonly added: readonly GraphField[];
}

async function planNode({ source, field, change, added }: NodePass): Promise<readonly Splice[]> {
  const payload = payloadOf(field);
  const within = change === undefined ? [] : await planWithin(source, payload, change);
  const { following = [], isRemoved = false } = change ?? {};
  if (added.length + following.length === 0 && !isRemoved) return within;
  const content = spliceRange(source, payload, await renewLengths(source, payload, within));
  const node = isRemoved ? [] : [{ number: field.number, content }];
  return [replace(field, [...added, ...node, ...following].map(joinField))];
}

/** New names, and what changes in subgraphs. */
async function planWithin(
  source: ByteSource,
  extent: MessageExtent,
  { inputs, outputs, graphs }: NodeEdit,
): Promise<readonly Splice[]> {
  const splices: Splice[] = [];
  const counts = { input: 0, output: 0 };
  for await (const field of readFields(source, extent)) {
    if (field.wire !== WIRE_LENGTH) continue;
    const { number } = field;
    const name =
      number === FIELDS.node.input
        ? inputs.get(counts.input++)
        : number === FIELDS.node.output
          ? outputs.get(counts.output++)
          : undefined;
    if (name !== undefined) {
      const content = holdBytes(new TextEncoder().encode(name));
      splices.push(replace(field, [joinField({ number, content })]));
    } else if (number === FIELDS.node.attribute && graphs.size > 0)
      splices.push(...(await planAttribute(source, payloadOf(field), graphs)));
  }
  return splices;
}

async function planAttribute(
  source: ByteSource,
  extent: MessageExtent,
  graphs: NodeEdit['graphs'],
): Promise<readonly Splice[]> {
  let name = '';
  const bodies: Field[] = [];
  for await (const field of readFields(source, extent)) {
    if (field.wire !== WIRE_LENGTH) continue;
    if (field.number === FIELDS.attribute.name) name = await readText(source, field);
    if (field.number === FIELDS.attribute.graph || field.number === FIELDS.attribute.graphs)
      bodies.push(field);
  }
  const edits = graphs.get(name);
  const splices: Splice[] = [];
  // The one graph of `g` counts before those of `graphs`; several `g` are merged.
  const isSingle = ({ number }: Field) => number === FIELDS.attribute.graph;
  let position = bodies.some(isSingle) ? 1 : 0;
  const counts = { node: 0, initializer: 0 };
  for (const body of bodies) {
    const edit = edits?.get(isSingle(body) ? 0 : position++);
    const own = isSingle(body) ? counts : { node: 0, initializer: 0 };
    if (edit !== undefined)
      splices.push(...(await planGraph(payloadOf(body), { source, edit, counts: own })));
  }
  return splices;
}

function payloadOf({ payloadStart, end }: Field): MessageExtent {
  return { start: payloadStart, end };
}

function replace({ start, end }: Field, parts: readonly ByteRange[]): Splice {
  return { offset: start, deleted: end - start, content: joinRanges('fields', parts) };
}

function joinField({ number, content }: GraphField): ByteRange {
  return joinRanges('field', [holdBytes(encodeFieldHead(number, content.byteLength)), content]);
}

/** A part of a file with splices in it, read only when it is. */
function spliceRange(
  source: ByteSource,
  { start, end }: MessageExtent,
  splices: readonly Splice[],
): ByteRange {
  const parts: ByteRange[] = [];
  let at = start;
  for (const { offset, deleted, content } of splices) {
    parts.push({ source, offset: at, byteLength: offset - at }, content);
    at = offset + deleted;
  }
  parts.push({ source, offset: at, byteLength: end - at });
  return joinRanges(source.name, parts);
}

/** A node edit that is still being put together. */
interface NodeDraft extends NodeEdit {
  isRemoved: boolean;
  readonly inputs: Map<number, string>;
  readonly outputs: Map<number, string>;
  readonly graphs: Map<string, Map<number, GraphDraft>>;
  readonly following: GraphField[];
}

interface GraphDraft extends GraphEdit {
  readonly nodes: Map<number, NodeDraft>;
  readonly initializers: Map<number, ByteRange>;
  readonly added: GraphField[];
}

function newGraphDraft(): GraphDraft {
  return { nodes: new Map(), initializers: new Map(), added: [] };
}

/** A graph and what changes in it. */
interface Place {
  readonly graph: OnnxGraph;
  readonly edit: GraphDraft;
}

/** Collects edits of a model by the nodes that they are for, wherever these stand. */
export class NodeEdits {
  /** The edit of the main graph. */
  readonly root = newGraphDraft();
  readonly #mainGraph: OnnxGraph;
  readonly #positions = new Map<OnnxGraph, Map<OnnxNode, number>>();

  constructor(mainGraph: OnnxGraph) {
    this.#mainGraph = mainGraph;
  }

  /** The edit of a node; null where it stands in a local function, whose body all calls share. */
  at(site: Site): NodeDraft | null {
    const place = this.#find(site.scope);
    return place === null ? null : this.#draft(site.node, place);
  }

  /** The edit of a node of the main graph; null for others. */
  atMain(node: OnnxNode): NodeDraft | null {
    return this.#draft(node, { graph: this.#mainGraph, edit: this.root });
  }

  /** Where along the main graph a node stands, or the node there that holds it. */
  depthOf(site: Site): number {
    let at = site;
    while (at.scope.caller !== null) at = at.scope.caller;
    return this.#positionsIn(this.#mainGraph).get(at.node) ?? 0;
  }

  #draft(node: OnnxNode, { graph, edit }: Place): NodeDraft | null {
    const position = this.#positionsIn(graph).get(node);
    if (position === undefined) return null;
    const draft = edit.nodes.get(position) ?? {
      isRemoved: false,
      inputs: new Map(),
      outputs: new Map(),
      graphs: new Map(),
      following: [],
    };
    edit.nodes.set(position, draft);
    return draft;
  }

  #find(scope: Scope): Place | null {
    if (scope.isMain) return { graph: this.#mainGraph, edit: this.root };
    const { caller } = scope;
    if (scope.parent === null || caller === null) return null;
    const outer = this.at(caller);
    const place = findSubgraph(caller, scope);
    if (outer === null || place === null) return null;
    const inAttribute = outer.graphs.get(place.attribute) ?? new Map<number, GraphDraft>();
    outer.graphs.set(place.attribute, inAttribute);
    const edit = inAttribute.get(place.position) ?? newGraphDraft();
    inAttribute.set(place.position, edit);
    return { graph: place.graph, edit };
  }

  #positionsIn(graph: OnnxGraph): ReadonlyMap<OnnxNode, number> {
    const known = this.#positions.get(graph);
    if (known !== undefined) return known;
    const positions = new Map(graph.nodes.map((node, index) => [node, index]));
    this.#positions.set(graph, positions);
    return positions;
  }
}

/** Bodies of a node are listed as its attributes list their graphs. */
function findSubgraph({ node, scope }: Site, body: Scope) {
  const index = scope.bodies.get(node)?.indexOf(body) ?? -1;
  let position = 0;
  for (const attribute of node.attributes.values()) {
    if (attribute.refName !== '') return null;
    const graphs = subgraphsOf(attribute);
    const graph = graphs[index - position];
    if (graph !== undefined) return { attribute: attribute.name, position: index - position, graph };
    position += graphs.length;
  }
  return null;
}
