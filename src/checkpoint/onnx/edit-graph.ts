import { CheckpointError } from '../../errors.js';
import { type ByteRange, type ByteSource, holdBytes, readRange } from '../../io/byte-source.js';
import { joinRanges } from '../../io/joined-source.js';
import type { Splice } from '../edit-plan.js';
import { type Field, type MessageExtent, readFields, readText, renewLengths } from './fields.js';
import { FIELDS } from './schema.js';
import { encodeFieldHead, WIRE_LENGTH } from './wire.js';

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
