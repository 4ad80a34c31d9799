import { readFields } from '../checkpoint/onnx/fields.js';
import { ProtoWriter } from '../checkpoint/onnx/proto-writer.js';
import { WIRE_LENGTH } from '../checkpoint/onnx/wire.js';
import { CheckpointError } from '../errors.js';
import { type ByteRange, type ByteSource, readRange } from '../io/byte-source.js';

/** What changes in a graph. Nodes that are not named stay as they are, byte for byte. */
export interface GraphEdit {
  /** By the node's position among the graph's nodes. */
  readonly nodes: ReadonlyMap<number, NodeEdit>;
  /** Encoded fields of GraphProto, behind the graph's own. */
  readonly appended: readonly Uint8Array[];
}

/** What changes in a node. */
export interface NodeEdit {
  /** New names by position. */
  readonly inputs: ReadonlyMap<number, string>;
  readonly outputs: ReadonlyMap<number, string>;
  /** Subgraphs: by the name of their attribute, then by their position in it. */
  readonly graphs: ReadonlyMap<string, ReadonlyMap<number, GraphEdit>>;
  /** Encoded NodeProtos that stand right behind the node. */
  readonly following: readonly Uint8Array[];
}

/** A protobuf message has at most 2 GiB (https://protobuf.dev/programming-guides/proto-limits/). */
const MAX_MODEL_BYTES = 2 ** 31 - 1;

// Fields of onnx.proto.
const MODEL_GRAPH = 7;
const GRAPH_NODE = 1;
const NODE_INPUT = 1;
const NODE_OUTPUT = 2;
const NODE_ATTRIBUTE = 5;
const ATTRIBUTE_NAME = 1;
const ATTRIBUTE_GRAPH = 6;
const ATTRIBUTE_GRAPHS = 11;

/**
 * A model with changes, in memory: everything that the changes do not touch is copied from the file as it stands, also
 * what no reader here knows.
 *
 * @param source a model that was read before, so that its structure is known to be whole.
 * @throws CheckpointError `limit-exceeded` above 2 GiB, where protobuf ends; `unsupported` for groups, an old form of
 *   unknown fields.
 */
export async function editModel(source: ByteSource, edit: GraphEdit): Promise<Uint8Array> {
  const pieces = new Pieces();
  let isAppended = false;
  const counter = { next: 0 };
  for (const field of await listFields({ source, offset: 0, byteLength: source.byteLength })) {
    if (field.number !== MODEL_GRAPH || field.value === null) pieces.keep(field.whole);
    else {
      // A second graph field is merged with the first: its nodes count on, and additions are wanted once.
      const own = isAppended ? { ...edit, appended: [] } : edit;
      pieces.addMessage(MODEL_GRAPH, await editGraph(field.value, own, counter));
      isAppended = true;
    }
  }
  if (pieces.byteLength > MAX_MODEL_BYTES) {
    throw new CheckpointError(
      `expected a model of at most ${MAX_MODEL_BYTES} bytes, found ${pieces.byteLength}`,
      {
        code: 'limit-exceeded',
        file: source.name,
      },
    );
  }
  return pieces.assemble();
}

async function editGraph(range: ByteRange, edit: GraphEdit, counter: { next: number }): Promise<Pieces> {
  const pieces = new Pieces();
  for (const field of await listFields(range)) {
    const isNode = field.number === GRAPH_NODE && field.value !== null;
    const change = isNode ? edit.nodes.get(counter.next++) : undefined;
    if (change === undefined || field.value === null) pieces.keep(field.whole);
    else {
      pieces.addMessage(GRAPH_NODE, await editNode(field.value, change));
      for (const node of change.following) pieces.addField(GRAPH_NODE, node);
    }
  }
  for (const bytes of edit.appended) pieces.add(bytes);
  return pieces;
}

async function editNode(range: ByteRange, edit: NodeEdit): Promise<Pieces> {
  const pieces = new Pieces();
  const seen = { inputs: 0, outputs: 0 };
  for (const field of await listFields(range)) {
    const { number, value, whole } = field;
    const name =
      number === NODE_INPUT
        ? edit.inputs.get(seen.inputs++)
        : number === NODE_OUTPUT
          ? edit.outputs.get(seen.outputs++)
          : undefined;
    if (name !== undefined) pieces.addField(number, new TextEncoder().encode(name));
    else if (number === NODE_ATTRIBUTE && value !== null && edit.graphs.size > 0)
      pieces.addMessage(NODE_ATTRIBUTE, await editAttribute(value, edit.graphs));
    else pieces.keep(whole);
  }
  return pieces;
}

async function editAttribute(range: ByteRange, graphs: NodeEdit['graphs']): Promise<Pieces> {
  const fields = await listFields(range);
  const nameField = fields.findLast(({ number }) => number === ATTRIBUTE_NAME)?.value ?? null;
  const name = nameField === null ? '' : new TextDecoder().decode(await readRange(nameField));
  const edits = graphs.get(name);
  const pieces = new Pieces();
  // The one graph of `g` counts before those of `graphs`; several `g` are merged.
  let position = fields.some(({ number }) => number === ATTRIBUTE_GRAPH) ? 1 : 0;
  const counter = { next: 0 };
  for (const { number, value, whole } of fields) {
    const isSingle = number === ATTRIBUTE_GRAPH;
    const isGraph = value !== null && (isSingle || number === ATTRIBUTE_GRAPHS);
    const change = isGraph ? edits?.get(isSingle ? 0 : position++) : undefined;
    if (change === undefined || value === null) pieces.keep(whole);
    else pieces.addMessage(number, await editGraph(value, change, isSingle ? counter : { next: 0 }));
  }
  return pieces;
}

/** A field where it stands. */
interface WireField {
  readonly number: number;
  /** Tag, length and content. */
  readonly whole: ByteRange;
  /** The content, where the field has a length: a message, a string, bytes. */
  readonly value: ByteRange | null;
}

/** The fields of a message, in file order; what is in them is not looked at. */
async function listFields({ source, offset, byteLength }: ByteRange): Promise<readonly WireField[]> {
  const rangeOf = (start: number, end: number) => ({ source, offset: start, byteLength: end - start });
  const fields: WireField[] = [];
  for await (const { number, wire, start, payloadStart, end } of readFields(source, {
    start: offset,
    end: offset + byteLength,
  })) {
    const value = wire === WIRE_LENGTH ? rangeOf(payloadStart, end) : null;
    fields.push({ number, whole: rangeOf(start, end), value });
  }
  return fields;
}

/** A message in pieces: ranges of the file as they are, and bytes of our own between them. */
class Pieces {
  readonly #pieces: (Uint8Array | ByteRange)[] = [];
  #byteLength = 0;

  get byteLength(): number {
    return this.#byteLength;
  }

  /** Adds a range; one that follows the last is joined with it, so that most of a file is one read. */
  keep(range: ByteRange): void {
    this.#byteLength += range.byteLength;
    const last = this.#pieces.at(-1);
    const isNext =
      last !== undefined &&
      'source' in last &&
      last.source === range.source &&
      last.offset + last.byteLength === range.offset;
    if (isNext)
      this.#pieces[this.#pieces.length - 1] = { ...last, byteLength: last.byteLength + range.byteLength };
    else this.#pieces.push(range);
  }

  add(bytes: Uint8Array): void {
    this.#byteLength += bytes.byteLength;
    this.#pieces.push(bytes);
  }

  addField(field: number, content: Uint8Array): void {
    const writer = new ProtoWriter();
    writer.writeField(field, content);
    this.add(writer.written.slice());
  }

  addMessage(field: number, message: Pieces): void {
    const writer = new ProtoWriter();
    writer.writeTag(field, WIRE_LENGTH);
    writer.writeVarint(message.byteLength);
    this.add(writer.written.slice());
    for (const piece of message.#pieces) {
      if ('source' in piece) this.keep(piece);
      else this.add(piece);
    }
  }

  async assemble(): Promise<Uint8Array> {
    const bytes = new Uint8Array(this.#byteLength);
    let filled = 0;
    for (const piece of this.#pieces) {
      const part = bytes.subarray(filled, filled + piece.byteLength);
      if ('source' in piece) await piece.source.readInto(part, piece.offset);
      else part.set(piece);
      filled += piece.byteLength;
    }
    return bytes;
  }
}
