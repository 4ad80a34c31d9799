// Protobuf: varints and tags, and a message read as a stream, its payloads as byte ranges.

import { CheckpointError, type CheckpointErrorCode } from '../../errors.js';
import type { ByteSource } from '../../io/byte-source.js';
import { BufferedReader } from '../../io/cursor.js';

/** How a field's value is written; the low three bits of its tag (https://protobuf.dev/programming-guides/encoding/). */
export const WIRE_VARINT = 0;
export const WIRE_FIXED64 = 1;
export const WIRE_LENGTH = 2;
export const WIRE_FIXED32 = 5;
const WIRE_GROUP_START = 3;
const WIRE_GROUP_END = 4;

/** A 64-bit value in groups of seven bits takes ten bytes; the format forbids an eleventh. */
export const MAX_VARINT_BYTES = 10;

/** A varint's 64 bits as two unsigned halves; reused, because one is read for every field of the file. */
export interface Varint {
  low: number;
  high: number;
}

/**
 * Reads a varint; bits beyond the 64th are dropped, as the reference implementation does.
 *
 * @param reader holds {@link MAX_VARINT_BYTES}, or all that are left, in its window.
 * @throws CheckpointError `truncated` at the end of the file, `malformed` after ten bytes without an end.
 */
export function readVarint(reader: BufferedReader, into: Varint): void {
  const first = reader.readByte();
  into.low = first;
  into.high = 0;
  if (first >= 0x80) readLongVarint(reader, into);
}

/** Reads on where a varint's first byte, which `into` holds, is not its last. */
function readLongVarint(reader: BufferedReader, into: Varint): void {
  const start = reader.position - 1;
  into.low &= 0x7f;
  for (let i = 1; i < MAX_VARINT_BYTES; i++) {
    const byte = reader.readByte();
    const bits = byte & 0x7f;
    const shift = 7 * i;
    if (shift < 28) into.low |= bits << shift;
    else if (shift === 28) {
      into.low |= bits << 28;
      into.high |= bits >>> 4;
    } else into.high |= bits << (shift - 32);
    if (byte < 0x80) {
      into.low >>>= 0;
      into.high >>>= 0;
      return;
    }
  }
  const message = 'expected a varint of at most 10 bytes, found a longer one: malformed protobuf';
  throw new CheckpointError(message, { code: 'malformed', file: reader.source.name, offset: start });
}

/** A number as a varint. */
export function encodeVarint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
  return Uint8Array.of(...bytes, rest);
}

/** The tag and the length that stand before the content of a length-delimited field. */
export function encodeFieldHead(field: number, byteLength: number): Uint8Array {
  return Uint8Array.of(...encodeVarint(field * 8 + WIRE_LENGTH), ...encodeVarint(byteLength));
}

/** A varint as an unsigned number: exact below 2^53, rounded above, where every use has a smaller limit. */
export function unsignedOf(varint: Varint): number {
  return varint.high === 0 ? varint.low : varint.high * 2 ** 32 + varint.low;
}

/** A varint as an int64. */
export function signedOf(varint: Varint): bigint {
  return BigInt.asIntN(64, bigUnsignedOf(varint));
}

/** A varint as an int32: higher bits are cut, as the reference implementation does. */
export function signed32Of({ low }: Varint): number {
  return low | 0;
}

/** The low half as the bits of a float32. */
export function float32Of({ low }: Varint): number {
  return new Float32Array(Uint32Array.of(low).buffer)[0] ?? 0;
}

/** A varint as an unsigned bigint, exact. */
function bigUnsignedOf(varint: Varint): bigint {
  return (BigInt(varint.high) << 32n) | BigInt(varint.low);
}

/** A field's number and wire type. */
interface Tag {
  readonly field: number;
  readonly wire: number;
}

/**
 * Takes a tag apart: a 32-bit varint whose low three bits are the wire type.
 *
 * @param offset where the tag stands.
 * @throws CheckpointError `malformed` for field number 0, one that is too large, and the wire types 6 and 7.
 */
export function parseTag(varint: Varint, reader: BufferedReader, offset: number): Tag {
  const wire = varint.low & 7;
  const field = varint.low >>> 3;
  if (field === 0 || wire > WIRE_FIXED32 || varint.high !== 0) {
    const found =
      wire > WIRE_FIXED32 ? `wire type ${wire}` : `field number ${(unsignedOf(varint) - wire) / 8}`;
    const message = `expected a protobuf field, found ${found}, which does not exist`;
    throw new CheckpointError(message, { code: 'malformed', file: reader.source.name, offset });
  }
  return { field, wire };
}

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

/** What reading does with a field of a message: `take` puts a value where the message keeps it. */
export type FieldRule<Message = unknown> =
  | NumberRule<Message>
  | TextRule<Message>
  | SegmentRule<Message>
  | MessageRule<Message>;

/** A varint, or the bits of a float32. `repeated` ones may be packed. */
export interface NumberRule<Message = unknown> {
  readonly kind: 'number';
  readonly wire: number;
  readonly repeated: boolean;
  take(message: Message, value: Varint): void;
}

/** A name. One that the message, as far as it is read, has no use for is skipped. */
export interface TextRule<Message = unknown> {
  readonly kind: 'text';
  isWanted(message: Message, byteLength: number): boolean;
  take(message: Message, text: string): void;
}

/** Values that stay in the file: repeated scalars of this wire type, or `raw_data`. */
export interface SegmentRule<Message = unknown> {
  readonly kind: 'segments';
  readonly wire: number | 'raw';
  take(message: Message, segment: Segment): void;
}

/**
 * A message within. `open` gives what it is read into: a new object for each one of a repeated field, the same again for a
 * singular field, whose occurrences protobuf merges.
 */
export interface MessageRule<Message = unknown> {
  readonly kind: 'message';
  readonly type: MessageType;
  open(message: Message): unknown;
  close?(message: Message, inner: unknown): void;
}

/** A message and the fields of it that are read, by number; others are skipped, as unknown ones are. */
export interface MessageType<Message = unknown> {
  readonly name: string;
  create(): Message;
  readonly fields: ReadonlyMap<number, FieldRule<Message>>;
  /** How many there may be in a model, where that is fewer than of others, and what messages call them. */
  readonly limit?: { readonly most: number; readonly what: string };
}

/** Everything but the payloads. The largest graphs in the wild (language models with external data) stay under 20 MB. */
const MAX_KEPT_BYTES = 64 * 1024 * 1024;

/** Messages of every kind, most of them attributes; each becomes objects and arrays of some hundred bytes. */
const MAX_MESSAGES = 500_000;

/** All kept messages and scalars; each becomes an object of some hundred bytes or an array element. */
const MAX_FIELDS = 4_000_000;

/** Messages within messages; protobuf's own implementations stop here. */
const MAX_DEPTH = 100;

/** What a number, and what a run of values, counts among the bytes that are kept. */
const NUMBER_BYTES = 10;
const SEGMENT_BYTES = 26;

/**
 * Reads the message that a file is, without payloads, in one pass through a small window: of those, only where they lie is
 * kept.
 *
 * Follows https://protobuf.dev/programming-guides/encoding/: of a singular field the last value counts, occurrences of a
 * singular message merge, repeated numbers may be packed or not, a field of another wire type is an unknown one.
 *
 * @throws CheckpointError `truncated`, `malformed` or `limit-exceeded`, with the byte.
 */
export async function readMessage<Message>(source: ByteSource, type: MessageType<Message>): Promise<Message> {
  const message = type.create();
  await new MessagePass(source).read({ type, message, end: source.byteLength, depth: 0, run: null });
  return message;
}

interface Frame {
  readonly type: MessageType;
  /** What it is read into. */
  readonly message: unknown;
  readonly end: number;
  readonly depth: number;
  /** Values that stand one by one, still growing. */
  run: { -readonly [Key in keyof Segment]: Segment[Key] } | null;
}

// Names may begin with a byte order mark: it is part of the name.
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

class MessagePass {
  readonly #source: ByteSource;
  readonly #reader: BufferedReader;
  readonly #varint: Varint = { low: 0, high: 0 };
  /** Where the current field's tag stands. */
  #fieldStart = 0;
  #keptBytes = 0;
  #fields = 0;
  #messages = 0;
  readonly #counts = new Map<MessageType, number>();

  constructor(source: ByteSource) {
    this.#source = source;
    this.#reader = new BufferedReader(source);
  }

  async read(frame: Frame): Promise<void> {
    while (this.#reader.position < frame.end) {
      // A tag and a length, or a tag and a number.
      if (!this.#reader.has(2 * MAX_VARINT_BYTES)) await this.#reader.fill(2 * MAX_VARINT_BYTES);
      const tag = this.#readTag(frame);
      const rule = frame.type.fields.get(tag.field);
      const work = rule === undefined ? this.#skip(frame, tag) : this.#readField(frame, tag, rule);
      if (work !== undefined) await work;
    }
  }

  #readTag(frame: Frame): Tag {
    this.#fieldStart = this.#reader.position;
    readVarint(this.#reader, this.#varint);
    this.#checkWithin(frame, 0);
    return parseTag(this.#varint, this.#reader, this.#fieldStart);
  }

  /** Reads a field that has a rule, or skips it where its wire type is another one, as protobuf does. */
  #readField(frame: Frame, tag: Tag, rule: FieldRule): Promise<void> | undefined {
    if (rule.kind === 'segments') return this.#noteSegment(frame, tag, rule);
    if (tag.wire === WIRE_LENGTH) {
      if (rule.kind === 'message') return this.#readInner(frame, rule);
      if (rule.kind === 'text') return this.#readText(frame, rule);
      if (rule.repeated) return this.#readPacked(frame, rule);
    }
    if (rule.kind !== 'number' || tag.wire !== rule.wire) return this.#skip(frame, tag);
    this.#readNumber(frame, rule);
    return undefined;
  }

  async #readInner(frame: Frame, rule: MessageRule): Promise<void> {
    const byteLength = this.#readLength(frame);
    this.#countField(2);
    this.#countMessage(rule.type);
    this.#checkDepth(frame.depth + 1);
    const message = rule.open(frame.message);
    const end = this.#reader.position + byteLength;
    await this.read({ type: rule.type, message, end, depth: frame.depth + 1, run: null });
    rule.close?.(frame.message, message);
  }

  #skip(frame: Frame, tag: Tag): Promise<void> | undefined {
    switch (tag.wire) {
      case WIRE_VARINT:
        readVarint(this.#reader, this.#varint);
        this.#checkWithin(frame, 0);
        return undefined;
      case WIRE_FIXED64:
      case WIRE_FIXED32:
        this.#reader.skip(this.#checkWithin(frame, tag.wire === WIRE_FIXED64 ? 8 : 4));
        return undefined;
      case WIRE_LENGTH:
        this.#reader.skip(this.#readLength(frame));
        return undefined;
      case WIRE_GROUP_START:
        return this.#skipGroup(frame, tag.field);
      default:
        throw this.#error(
          `expected a field, found the end of a group of field ${tag.field} that never started`,
        );
    }
  }

  /** Groups are an old form of unknown fields; they nest, and end with a tag of their own. */
  async #skipGroup(frame: Frame, field: number): Promise<void> {
    const open = [field];
    for (;;) {
      this.#checkDepth(frame.depth + open.length);
      if (this.#reader.position >= frame.end)
        throw this.#error(`expected the end of a group of field ${field}, found the end of its message`);
      if (!this.#reader.has(2 * MAX_VARINT_BYTES)) await this.#reader.fill(2 * MAX_VARINT_BYTES);
      const tag = this.#readTag(frame);
      if (tag.wire === WIRE_GROUP_START) open.push(tag.field);
      else if (tag.wire === WIRE_GROUP_END) {
        const started = open.pop();
        if (started !== tag.field) {
          const found = `found that of field ${tag.field}`;
          throw this.#error(`expected the end of a group of field ${started}, ${found}`);
        }
        if (open.length === 0) return;
      } else await this.#skip(frame, tag);
    }
  }

  #readNumber(frame: Frame, rule: NumberRule): void {
    if (rule.wire === WIRE_VARINT) {
      readVarint(this.#reader, this.#varint);
      this.#checkWithin(frame, 0);
    } else {
      const { buffer, byteOffset } = this.#reader.takeView(this.#checkWithin(frame, 4));
      this.#varint.low = new DataView(buffer, byteOffset, 4).getUint32(0, true);
    }
    this.#countField(NUMBER_BYTES);
    rule.take(frame.message, this.#varint);
  }

  async #readPacked(frame: Frame, rule: NumberRule): Promise<void> {
    const end = this.#readLength(frame) + this.#reader.position;
    while (this.#reader.position < end) {
      if (!this.#reader.has(MAX_VARINT_BYTES)) await this.#reader.fill(MAX_VARINT_BYTES);
      this.#readNumber(frame, rule);
      if (this.#reader.position > end) throw this.#error('a packed number reaches beyond its field');
    }
  }

  #readText(frame: Frame, rule: TextRule): Promise<void> | undefined {
    const byteLength = this.#readLength(frame);
    if (!rule.isWanted(frame.message, byteLength)) {
      this.#reader.skip(byteLength);
      return undefined;
    }
    this.#countField(byteLength);
    const take = (bytes: Uint8Array) => rule.take(frame.message, decoder.decode(bytes));
    if (!this.#reader.has(byteLength)) {
      const bytes = new Uint8Array(byteLength);
      return this.#reader.readInto(bytes).then(() => take(bytes));
    }
    take(this.#reader.takeView(byteLength));
    return undefined;
  }

  /** Notes where values lie; one that stands behind the one before it grows the run of both. */
  #noteSegment(frame: Frame, tag: Tag, rule: SegmentRule): Promise<void> | undefined {
    const { field, wire } = tag;
    if (wire === WIRE_LENGTH) {
      const byteLength = this.#readLength(frame);
      const offset = this.#reader.position;
      this.#reader.skip(byteLength);
      this.#countField(SEGMENT_BYTES);
      rule.take(frame.message, { field, form: 'packed', offset, byteLength, stride: 0 });
      return undefined;
    }
    const work = this.#skip(frame, tag);
    if (wire !== rule.wire) return work;
    const offset = this.#fieldStart;
    const byteLength = this.#reader.position - offset;
    const stride = wire === WIRE_VARINT ? 0 : byteLength;
    const { run } = frame;
    if (run?.field === field && run.offset + run.byteLength === offset && run.stride === stride) {
      run.byteLength += byteLength;
      return undefined;
    }
    this.#countField(SEGMENT_BYTES);
    frame.run = { field, form: 'tagged', offset, byteLength, stride };
    rule.take(frame.message, frame.run);
    return undefined;
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
      throw this.#error(`expected ${exact} bytes within its ${frame.type.name}, ${found}`, 'truncated');
    }
    const found = `found the end of its ${frame.type.name} after ${Math.max(left, 0)}`;
    throw this.#error(`expected a field of ${exact} bytes, ${found}: malformed length`);
  }

  /** Checks that `byteLength` more bytes belong to the message, and returns that number. */
  #checkWithin(frame: Frame, byteLength: number): number {
    if (this.#reader.position + byteLength <= frame.end) return byteLength;
    if (frame.end === this.#source.byteLength)
      throw this.#error(
        `expected ${byteLength} bytes, found the end of the file: it is truncated`,
        'truncated',
      );
    throw this.#error(`expected the end of a ${frame.type.name}, found a field that reaches beyond it`);
  }

  #error(message: string, code: CheckpointErrorCode = 'malformed'): CheckpointError {
    return new CheckpointError(message, { code, file: this.#source.name, offset: this.#fieldStart });
  }

  #countField(byteLength: number): void {
    this.#keptBytes += byteLength;
    this.#check(this.#keptBytes, MAX_KEPT_BYTES, 'bytes beside its tensors');
    this.#check(++this.#fields, MAX_FIELDS, 'fields');
  }

  #countMessage(type: MessageType): void {
    this.#check(++this.#messages, MAX_MESSAGES, 'messages');
    const count = (this.#counts.get(type) ?? 0) + 1;
    this.#counts.set(type, count);
    if (type.limit !== undefined) this.#check(count, type.limit.most, type.limit.what);
  }

  #check(count: number, most: number, what: string): void {
    if (count > most)
      throw this.#error(
        `expected a model of at most ${most} ${what}, found more: too large`,
        'limit-exceeded',
      );
  }

  /** Checks how many messages or groups are open at once. */
  #checkDepth(depth: number): void {
    if (depth <= MAX_DEPTH) return;
    const limit = `at most ${MAX_DEPTH} deep, which is protobuf's own limit`;
    throw this.#error(`expected messages nested ${limit}, found deeper nesting`, 'limit-exceeded');
  }
}
