import { CheckpointError } from '../../errors.js';
import { BufferedReader } from '../../io/buffered-reader.js';
import { type ByteSource, holdBytes, readRange } from '../../io/byte-source.js';
import type { Splice } from '../edit-plan.js';
import type { OnnxModel } from './model.js';
import { refersToFiles } from './refers-to-files.js';
import { FIELDS, GRAPH, type MessageType, MODEL, TENSOR } from './schema.js';
import {
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
export interface MessageExtent {
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
export async function readText(source: ByteSource, { payloadStart, end }: Field): Promise<string> {
  const byteLength = Math.min(end - payloadStart, MAX_TEXT_BYTES);
  return decoder.decode(await readRange({ source, offset: payloadStart, byteLength }));
}
