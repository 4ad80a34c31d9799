import { CheckpointError, type CheckpointErrorCode } from '../../errors.js';
import { BufferedReader } from '../../io/buffered-reader.js';
import type { ByteSource } from '../../io/byte-source.js';
import { ProtoWriter } from './proto-writer.js';
import {
  type FieldRule,
  FUNCTION,
  METADATA,
  METADATA_NOTES,
  type MessageSchema,
  MODEL,
  NODE,
} from './schema.js';
import { encodeSegment } from './segment.js';
import { SkeletonLimits } from './skeleton-limits.js';
import {
  bigUnsignedOf,
  MAX_VARINT_BYTES,
  parseTag,
  readVarint,
  type Tag,
  unsignedOf,
  type Varint,
  WIRE_FIXED32,
  WIRE_FIXED64,
  WIRE_GROUP_END,
  WIRE_GROUP_START,
  WIRE_LENGTH,
  WIRE_VARINT,
} from './wire.js';

/** Names and metadata that onnx-proto cannot carry; a module path is far shorter. */
const MAX_NOTE_BYTES = 16 * 1024;

/**
 * Fields whose tag and length, or tag and number, take no more are copied as they stand. Longer ones may be padded, and
 * protobufjs takes every 32-bit varint of more than five bytes for one of ten.
 */
const MAX_PLAIN_HEAD_BYTES = 5;

/** Where the functions' attribute defaults go: a node of the function that only its notes tell from others. */
const FUNCTION_NODE_FIELD = 7;
const NODE_ATTRIBUTE_FIELD = 5;

/** Values that stand one by one, still growing. */
interface OpenRun {
  readonly field: number;
  readonly offset: number;
  end: number;
  stride: number;
}

/** A message that is being walked. */
interface Frame {
  schema: MessageSchema;
  /** The field of the enclosing message, and how that keeps it. */
  field: number;
  rule: FieldRule;
  end: number;
  readonly writer: ProtoWriter;
  /** Singular messages so far, to be written merged. */
  merged: Map<number, ProtoWriter> | null;
  notes: Map<string, string> | null;
  defaults: ProtoWriter | null;
  run: OpenRun | null;
}

/**
 * Copies a model without its payloads, in one pass through a small window.
 *
 * The result is a ModelProto that onnx-proto can decode: only known fields of the right wire type, repeated numbers
 * unpacked, and the occurrences of a singular message merged into one, which protobuf's specification asks for but
 * protobufjs does not do. In place of payloads it holds {@link encodeSegment segments}.
 *
 * @throws CheckpointError `truncated`, `malformed` or `limit-exceeded`, with the byte.
 */
export async function readSkeleton(source: ByteSource): Promise<Uint8Array> {
  return await new SkeletonPass(source).run();
}

const decoder = new TextDecoder();

class SkeletonPass {
  readonly #source: ByteSource;
  readonly #reader: BufferedReader;
  readonly #varint: Varint = { low: 0, high: 0 };
  /** Frames are reused: `#frames[#depth]` is the message that is being walked. */
  readonly #frames: Frame[] = [];
  #depth = 0;
  readonly #limits = new SkeletonLimits((message) => this.#error('limit-exceeded', message));
  /** Where the current field's tag stands. */
  #fieldStart = 0;
  /** Where the fields before it begin that the innermost message keeps as they stand, not yet copied; -1 without any. */
  #plainStart = -1;

  constructor(source: ByteSource) {
    this.#source = source;
    this.#reader = new BufferedReader(source);
  }

  async run(): Promise<Uint8Array> {
    const root = openFrame(undefined, MODEL, 0, { keep: 'message', schema: MODEL }, this.#source.byteLength);
    this.#frames.push(root);
    let frame = root;
    while (frame !== root || this.#reader.position < root.end) {
      if (this.#reader.position === frame.end) {
        frame = this.#closeFrame(frame);
        continue;
      }
      // A tag and a length, or a tag and a number.
      if (!this.#reader.has(2 * MAX_VARINT_BYTES)) {
        this.#copyPlain(frame, this.#reader.position);
        await this.#reader.fill(2 * MAX_VARINT_BYTES);
      }
      const tag = this.#readTag(frame);
      const rule = frame.schema.fields.get(tag.field);
      const work = rule === undefined ? this.#skip(frame, tag) : this.#keep(frame, tag, rule);
      if (work !== undefined) await work;
      frame = this.#frames[this.#depth] ?? root;
    }
    this.#copyPlain(root, root.end);
    finishFrame(root);
    return root.writer.written.slice();
  }

  #readTag(frame: Frame): Tag {
    this.#fieldStart = this.#reader.position;
    readVarint(this.#reader, this.#varint);
    this.#checkWithin(frame, 0);
    return parseTag(this.#varint, this.#reader, this.#fieldStart);
  }

  /** Reads a field that has a rule, or skips it where its wire type is another one, as protobuf does. */
  #keep(frame: Frame, tag: Tag, rule: FieldRule): Promise<void> | undefined {
    switch (rule.keep) {
      case 'varint':
        if (tag.wire !== WIRE_VARINT) return this.#skip(frame, tag);
        this.#keepVarint(frame, tag.field);
        return undefined;
      case 'varints':
        if (tag.wire === WIRE_LENGTH) return this.#copyPackedVarints(frame, tag.field);
        if (tag.wire !== WIRE_VARINT) return this.#skip(frame, tag);
        this.#keepVarint(frame, tag.field);
        return undefined;
      case 'fixed32':
        if (tag.wire !== WIRE_FIXED32) return this.#skip(frame, tag);
        return this.#keepBytes(frame, tag, this.#checkWithin(frame, 4));
      case 'bytes':
        if (tag.wire !== WIRE_LENGTH) return this.#skip(frame, tag);
        return this.#keepBytes(frame, tag, this.#readLength(frame));
      case 'note':
        if (tag.wire !== WIRE_LENGTH) return this.#skip(frame, tag);
        return this.#copyNote(frame, rule.note);
      case 'segments':
        return this.#noteSegment(frame, tag, rule.wire);
      case 'message':
      case 'default':
        if (tag.wire !== WIRE_LENGTH) return this.#skip(frame, tag);
        this.#copyPlain(frame, this.#fieldStart);
        this.#openMessage(frame, tag.field, rule);
        return undefined;
      default: {
        const never: never = rule;
        return never;
      }
    }
  }

  #skip(frame: Frame, tag: Tag): Promise<void> | undefined {
    this.#copyPlain(frame, this.#fieldStart);
    switch (tag.wire) {
      case WIRE_VARINT:
        readVarint(this.#reader, this.#varint);
        this.#checkWithin(frame, 0);
        return undefined;
      case WIRE_FIXED64:
        this.#reader.skip(this.#checkWithin(frame, 8));
        return undefined;
      case WIRE_FIXED32:
        this.#reader.skip(this.#checkWithin(frame, 4));
        return undefined;
      case WIRE_LENGTH:
        this.#reader.skip(this.#readLength(frame));
        return undefined;
      case WIRE_GROUP_START:
        return this.#skipGroup(frame, tag.field);
      default:
        throw this.#error(
          'malformed',
          `expected a field, found the end of a group of field ${tag.field} that never started`,
        );
    }
  }

  /** Groups are an old form of unknown fields; they nest, and end with a tag of their own. */
  async #skipGroup(frame: Frame, field: number): Promise<void> {
    const open = [field];
    for (;;) {
      this.#limits.checkDepth(this.#depth + open.length);
      if (this.#reader.position >= frame.end)
        throw this.#error(
          'malformed',
          `expected the end of a group of field ${field}, found the end of its message`,
        );
      if (!this.#reader.has(2 * MAX_VARINT_BYTES)) await this.#reader.fill(2 * MAX_VARINT_BYTES);
      const tag = this.#readTag(frame);
      if (tag.wire === WIRE_GROUP_START) open.push(tag.field);
      else if (tag.wire === WIRE_GROUP_END) {
        const started = open.pop();
        if (started !== tag.field) {
          throw this.#error(
            'malformed',
            `expected the end of a group of field ${started}, found that of field ${tag.field}`,
          );
        }
        if (open.length === 0) return;
      } else await this.#skip(frame, tag);
    }
  }

  /** Copies the fields before `end` that are kept as they stand: at once, and before their bytes leave the window. */
  #copyPlain(frame: Frame, end: number): void {
    if (this.#plainStart === -1) return;
    frame.writer.writeBytes(this.#reader.viewBack(this.#plainStart, end));
    this.#plainStart = -1;
  }

  #keepVarint(frame: Frame, field: number): void {
    this.#readNumber(frame);
    if (this.#reader.position - this.#fieldStart <= MAX_PLAIN_HEAD_BYTES) this.#keepPlain();
    else {
      this.#copyPlain(frame, this.#fieldStart);
      this.#writeNumber(frame, field);
    }
  }

  #keepPlain(): void {
    if (this.#plainStart === -1) this.#plainStart = this.#fieldStart;
  }

  #readNumber(frame: Frame): void {
    readVarint(this.#reader, this.#varint);
    this.#checkWithin(frame, 0);
    this.#limits.countField(MAX_VARINT_BYTES);
  }

  #writeNumber(frame: Frame, field: number): void {
    frame.writer.writeTag(field, WIRE_VARINT);
    frame.writer.writeNumber(this.#varint.low, this.#varint.high);
  }

  async #copyPackedVarints(frame: Frame, field: number): Promise<void> {
    const end = this.#readLength(frame) + this.#reader.position;
    this.#copyPlain(frame, this.#fieldStart);
    while (this.#reader.position < end) {
      if (!this.#reader.has(MAX_VARINT_BYTES)) await this.#reader.fill(MAX_VARINT_BYTES);
      this.#readNumber(frame);
      this.#writeNumber(frame, field);
      if (this.#reader.position > end)
        throw this.#error('malformed', 'a packed number reaches beyond its field');
    }
  }

  #keepBytes(frame: Frame, tag: Tag, byteLength: number): Promise<void> | undefined {
    this.#limits.countField(byteLength);
    if (this.#reader.position - this.#fieldStart <= MAX_PLAIN_HEAD_BYTES && this.#reader.has(byteLength)) {
      this.#reader.skip(byteLength);
      this.#keepPlain();
      return undefined;
    }
    this.#copyPlain(frame, this.#fieldStart);
    frame.writer.writeTag(tag.field, tag.wire);
    if (tag.wire === WIRE_LENGTH) frame.writer.writeVarint(byteLength);
    return this.#reader.readInto(frame.writer.reserve(byteLength));
  }

  async #copyNote(frame: Frame, note: string): Promise<void> {
    const byteLength = this.#readLength(frame);
    this.#copyPlain(frame, this.#fieldStart);
    const isUnwanted = note === 'value' && !METADATA_NOTES.has(frame.notes?.get('key') ?? '');
    if (byteLength > MAX_NOTE_BYTES || isUnwanted) {
      this.#reader.skip(byteLength);
      return;
    }
    this.#limits.countField(byteLength);
    await this.#reader.fill(byteLength);
    frame.notes ??= new Map();
    frame.notes.set(note, decoder.decode(this.#reader.takeView(byteLength)));
  }

  #noteSegment(frame: Frame, tag: Tag, wire: number | 'raw'): Promise<void> | undefined {
    if (tag.wire === WIRE_LENGTH) {
      const byteLength = this.#readLength(frame);
      this.#copyPlain(frame, this.#fieldStart);
      this.#writeRun(frame);
      this.#writeSegment(frame, tag.field, false, this.#reader.position, byteLength, 0);
      this.#reader.skip(byteLength);
      return undefined;
    }
    const work = this.#skip(frame, tag);
    if (tag.wire === wire) this.#growRun(frame, tag);
    return work;
  }

  /** Adds the value just read to the run of values that stand one by one, or begins a new run with it. */
  #growRun(frame: Frame, tag: Tag): void {
    const start = this.#fieldStart;
    const end = this.#reader.position;
    const stride = tag.wire === WIRE_VARINT ? 0 : end - start;
    const run = frame.run;
    if (run !== null && run.field === tag.field && run.end === start && run.stride === stride) {
      run.end = end;
      return;
    }
    this.#writeRun(frame);
    frame.run = { field: tag.field, offset: start, end, stride };
  }

  #writeRun(frame: Frame): void {
    const run = frame.run;
    frame.run = null;
    if (run !== null)
      this.#writeSegment(frame, run.field, true, run.offset, run.end - run.offset, run.stride);
  }

  #writeSegment(
    frame: Frame,
    field: number,
    isTagged: boolean,
    offset: number,
    byteLength: number,
    stride: number,
  ): void {
    const form = isTagged ? 'tagged' : 'packed';
    const bytes = encodeSegment({ field, form, offset, byteLength, stride });
    this.#limits.countField(bytes.byteLength);
    frame.writer.writeField(frame.schema.segmentField ?? 0, bytes);
  }

  #openMessage(frame: Frame, field: number, rule: FieldRule & { readonly schema: MessageSchema }): void {
    const byteLength = this.#readLength(frame);
    this.#limits.countField(2);
    this.#limits.countMessage(rule.schema);
    this.#depth++;
    this.#limits.checkDepth(this.#depth);
    const end = this.#reader.position + byteLength;
    this.#frames[this.#depth] = openFrame(this.#frames[this.#depth], rule.schema, field, rule, end);
  }

  #closeFrame(frame: Frame): Frame {
    this.#copyPlain(frame, frame.end);
    this.#writeRun(frame);
    finishFrame(frame);
    this.#depth--;
    const parent = this.#frames[this.#depth];
    if (parent === undefined) throw new Error('the skeleton pass closed the file twice');
    if (frame.schema === METADATA) keepMetadata(parent, frame.notes);
    else if (frame.rule.keep === 'default') {
      parent.defaults ??= new ProtoWriter();
      parent.defaults.writeField(NODE_ATTRIBUTE_FIELD, frame.writer.written);
    } else if (frame.rule.keep === 'message' && frame.rule.merges === true) {
      parent.merged ??= new Map();
      const merged = parent.merged.get(frame.field) ?? new ProtoWriter();
      merged.writeBytes(frame.writer.written);
      parent.merged.set(frame.field, merged);
    } else parent.writer.writeField(frame.field, frame.writer.written);
    return parent;
  }

  /** Reads a length and checks it against the end of the enclosing message. */
  #readLength(frame: Frame): number {
    readVarint(this.#reader, this.#varint);
    const length = unsignedOf(this.#varint);
    const left = frame.end - this.#reader.position;
    if (length <= left) return length;
    const exact = bigUnsignedOf(this.#varint);
    if (frame.end === this.#source.byteLength) {
      const found = `found the unexpected end of the file after ${Math.max(left, 0)}: it is truncated`;
      throw this.#error('truncated', `expected ${exact} bytes within its ${frame.schema.name}, ${found}`);
    }
    const found = `found the end of its ${frame.schema.name} after ${Math.max(left, 0)}`;
    throw this.#error('malformed', `expected a field of ${exact} bytes, ${found}: malformed length`);
  }

  /** Checks that `byteLength` more bytes belong to the message, and returns that number. */
  #checkWithin(frame: Frame, byteLength: number): number {
    if (this.#reader.position + byteLength <= frame.end) return byteLength;
    if (frame.end === this.#source.byteLength) {
      throw this.#error(
        'truncated',
        `expected ${byteLength} bytes, found the end of the file: it is truncated`,
      );
    }
    throw this.#error(
      'malformed',
      `expected the end of a ${frame.schema.name}, found a field that reaches beyond it`,
    );
  }

  #error(code: CheckpointErrorCode, message: string): CheckpointError {
    return new CheckpointError(message, { code, file: this.#source.name, offset: this.#fieldStart });
  }
}

/** A frame for the next message, over the writer of the frame that was at this depth before. */
function openFrame(
  reused: Frame | undefined,
  schema: MessageSchema,
  field: number,
  rule: FieldRule,
  end: number,
): Frame {
  if (reused === undefined) {
    const writer = new ProtoWriter();
    return { schema, field, rule, end, writer, merged: null, notes: null, defaults: null, run: null };
  }
  reused.schema = schema;
  reused.field = field;
  reused.rule = rule;
  reused.end = end;
  reused.writer.clear();
  reused.merged = null;
  reused.notes = null;
  reused.defaults = null;
  reused.run = null;
  return reused;
}

/** Writes what had to wait for the end of the message: merged messages, attribute defaults and notes. */
function finishFrame(frame: Frame): void {
  for (const [field, merged] of frame.merged ?? []) frame.writer.writeField(field, merged.written);
  if (frame.schema === FUNCTION && frame.defaults !== null) {
    frame.defaults.writeText(NODE.noteField ?? 0, JSON.stringify({ holdsDefaults: 'yes' }));
    frame.writer.writeField(FUNCTION_NODE_FIELD, frame.defaults.written);
  }
  const noteField = frame.schema.noteField;
  if (noteField !== undefined && frame.notes !== null) {
    frame.writer.writeText(noteField, JSON.stringify(Object.fromEntries(frame.notes)));
  }
}

function keepMetadata(node: Frame, entry: ReadonlyMap<string, string> | null): void {
  const note = METADATA_NOTES.get(entry?.get('key') ?? '');
  const value = entry?.get('value');
  if (note === undefined || value === undefined) return;
  node.notes ??= new Map();
  node.notes.set(note, value);
}
