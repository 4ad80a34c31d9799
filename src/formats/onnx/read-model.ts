// Reads an ONNX model as a stream: messages into memory, weights as byte ranges.

import { CheckpointError, type CheckpointErrorCode } from '../../errors.js';
import type { ByteSource } from '../../io/byte-source.js';
import { BufferedReader } from '../../io/cursor.js';
import {
  type FieldRule,
  FUNCTION,
  type MessageRule,
  type MessageType,
  MODEL,
  NODE,
  type NumberRule,
  type OnnxModel,
  type SegmentRule,
  TENSOR,
  type TextRule,
} from './schema.js';
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

/** Everything but the payloads. The largest graphs in the wild (language models with external data) stay under 20 MB. */
const MAX_KEPT_BYTES = 64 * 1024 * 1024;

/** Nodes of all graphs and functions; the largest graphs in the wild have some ten thousands. */
const MAX_NODES = 200_000;

/** Tensors of all graphs and attributes; large models have some thousands. */
const MAX_TENSORS = 100_000;

/** Local functions; an exporter makes one for every kind of module. */
const MAX_FUNCTIONS = 20_000;

/** Messages of every kind, most of them attributes; each becomes objects and arrays of some hundred bytes. */
const MAX_MESSAGES = 500_000;

/** All kept messages and scalars; each becomes an object of some hundred bytes or an array element. */
const MAX_FIELDS = 4_000_000;

/** Messages within messages; protobuf's own implementations stop here. */
const MAX_DEPTH = 100;

interface Limit {
  readonly most: number;
  readonly what: string;
}

/** Messages of which there may be fewer. */
const LIMITS: ReadonlyMap<MessageType, Limit> = new Map<MessageType, Limit>([
  [NODE, { most: MAX_NODES, what: 'nodes' }],
  [TENSOR, { most: MAX_TENSORS, what: 'tensors' }],
  [FUNCTION, { most: MAX_FUNCTIONS, what: 'functions' }],
]);

/** What a number, and what a run of values, counts among the bytes that are kept. */
const NUMBER_BYTES = 10;
const SEGMENT_BYTES = 26;

/**
 * Reads a model without its weights, in one pass through a small window: of payloads, only where they lie is kept.
 *
 * Follows https://protobuf.dev/programming-guides/encoding/: of a singular field the last value counts, occurrences of a
 * singular message merge, repeated numbers may be packed or not, a field of another wire type is an unknown one.
 *
 * @throws CheckpointError `truncated`, `malformed` or `limit-exceeded`, with the byte.
 */
export async function readModel(source: ByteSource): Promise<OnnxModel> {
  const model = MODEL.create();
  await new ModelPass(source).run(MODEL, model);
  return model;
}

/** A message that is being read. */
interface Frame {
  readonly type: MessageType;
  readonly rule: MessageRule | null;
  /** What it is read into. */
  readonly message: unknown;
  readonly end: number;
  run: OpenRun | null;
}

/** Values that stand one by one, still growing. */
interface OpenRun {
  readonly rule: SegmentRule;
  readonly field: number;
  readonly offset: number;
  end: number;
  readonly stride: number;
}

// Names may begin with a byte order mark: it is part of the name.
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

class ModelPass {
  readonly #source: ByteSource;
  readonly #reader: BufferedReader;
  readonly #varint: Varint = { low: 0, high: 0 };
  readonly #outer: Frame[] = [];
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

  async run(type: MessageType, message: unknown): Promise<void> {
    let frame: Frame = { type, rule: null, message, end: this.#source.byteLength, run: null };
    for (;;) {
      if (this.#reader.position === frame.end) {
        const outer = this.#close(frame);
        if (outer === null) return;
        frame = outer;
        continue;
      }
      // A tag and a length, or a tag and a number.
      if (!this.#reader.has(2 * MAX_VARINT_BYTES)) await this.#reader.fill(2 * MAX_VARINT_BYTES);
      const tag = this.#readTag(frame);
      const rule = frame.type.fields.get(tag.field);
      if (rule?.kind === 'message' && tag.wire === WIRE_LENGTH) {
        frame = this.#open(frame, rule);
        continue;
      }
      const work = rule === undefined ? this.#skip(frame, tag) : this.#read(frame, tag, rule);
      if (work !== undefined) await work;
    }
  }

  #open(frame: Frame, rule: MessageRule): Frame {
    const byteLength = this.#readLength(frame);
    this.#countField(2);
    this.#countMessage(rule.type);
    this.#outer.push(frame);
    this.#checkDepth(this.#outer.length);
    const end = this.#reader.position + byteLength;
    return { type: rule.type, rule, message: rule.open(frame.message), end, run: null };
  }

  /** @returns the message around it, null behind the last one. */
  #close(frame: Frame): Frame | null {
    this.#endRun(frame);
    const outer = this.#outer.pop();
    if (outer === undefined) return null;
    frame.rule?.close?.(outer.message, frame.message);
    return outer;
  }

  #readTag(frame: Frame): Tag {
    this.#fieldStart = this.#reader.position;
    readVarint(this.#reader, this.#varint);
    this.#checkWithin(frame, 0);
    return parseTag(this.#varint, this.#reader, this.#fieldStart);
  }

  /** Reads a field that has a rule, or skips it where its wire type is another one, as protobuf does. */
  #read(frame: Frame, tag: Tag, rule: FieldRule): Promise<void> | undefined {
    switch (rule.kind) {
      case 'number':
        if (tag.wire === WIRE_LENGTH && rule.repeated) return this.#readPacked(frame, rule);
        if (tag.wire !== rule.wire) return this.#skip(frame, tag);
        this.#readNumber(frame, tag.wire);
        rule.take(frame.message, this.#varint);
        return undefined;
      case 'text':
        if (tag.wire !== WIRE_LENGTH) return this.#skip(frame, tag);
        return this.#readText(frame, rule);
      case 'segments':
        return this.#noteSegment(frame, tag, rule);
      case 'message':
        return this.#skip(frame, tag);
      default: {
        const never: never = rule;
        return never;
      }
    }
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
      this.#checkDepth(this.#outer.length + open.length);
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

  #readNumber(frame: Frame, wire: number): void {
    if (wire === WIRE_VARINT) {
      readVarint(this.#reader, this.#varint);
      this.#checkWithin(frame, 0);
    } else {
      const { buffer, byteOffset } = this.#reader.takeView(this.#checkWithin(frame, 4));
      this.#varint.low = new DataView(buffer, byteOffset, 4).getUint32(0, true);
    }
    this.#countField(NUMBER_BYTES);
  }

  async #readPacked(frame: Frame, rule: NumberRule): Promise<void> {
    const end = this.#readLength(frame) + this.#reader.position;
    while (this.#reader.position < end) {
      if (!this.#reader.has(MAX_VARINT_BYTES)) await this.#reader.fill(MAX_VARINT_BYTES);
      this.#readNumber(frame, rule.wire);
      if (this.#reader.position > end) throw this.#error('a packed number reaches beyond its field');
      rule.take(frame.message, this.#varint);
    }
  }

  #readText(frame: Frame, rule: TextRule): Promise<void> | undefined {
    const byteLength = this.#readLength(frame);
    if (!rule.isWanted(frame.message, byteLength)) {
      this.#reader.skip(byteLength);
      return undefined;
    }
    this.#countField(byteLength);
    if (!this.#reader.has(byteLength)) return this.#readFarText(frame, rule, byteLength);
    rule.take(frame.message, decoder.decode(this.#reader.takeView(byteLength)));
    return undefined;
  }

  /** Reads a text that the window does not hold yet, or that is larger than any window. */
  async #readFarText(frame: Frame, rule: TextRule, byteLength: number) {
    const bytes = new Uint8Array(byteLength);
    await this.#reader.readInto(bytes);
    rule.take(frame.message, decoder.decode(bytes));
  }

  #noteSegment(frame: Frame, tag: Tag, rule: SegmentRule): Promise<void> | undefined {
    if (tag.wire === WIRE_LENGTH) {
      const byteLength = this.#readLength(frame);
      this.#endRun(frame);
      const offset = this.#reader.position;
      this.#reader.skip(byteLength);
      this.#countField(SEGMENT_BYTES);
      rule.take(frame.message, { field: tag.field, form: 'packed', offset, byteLength, stride: 0 });
      return undefined;
    }
    const work = this.#skip(frame, tag);
    if (tag.wire === rule.wire) this.#growRun(frame, tag, rule);
    return work;
  }

  /** Adds the value just read to the run of values that stand one by one, or begins a new run with it. */
  #growRun(frame: Frame, tag: Tag, rule: SegmentRule): void {
    const offset = this.#fieldStart;
    const end = this.#reader.position;
    const stride = tag.wire === WIRE_VARINT ? 0 : end - offset;
    const { run } = frame;
    if (run !== null && run.field === tag.field && run.end === offset && run.stride === stride) {
      run.end = end;
      return;
    }
    this.#endRun(frame);
    frame.run = { rule, field: tag.field, offset, end, stride };
  }

  #endRun(frame: Frame): void {
    if (frame.run === null) return;
    const { rule, field, offset, end, stride } = frame.run;
    frame.run = null;
    this.#countField(SEGMENT_BYTES);
    rule.take(frame.message, { field, form: 'tagged', offset, byteLength: end - offset, stride });
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

  /** Counts a field that is kept, with the bytes of its content. */
  #countField(byteLength: number): void {
    this.#keptBytes += byteLength;
    this.#check(this.#keptBytes, MAX_KEPT_BYTES, 'bytes beside its tensors');
    this.#check(++this.#fields, MAX_FIELDS, 'fields');
  }

  #countMessage(type: MessageType): void {
    this.#check(++this.#messages, MAX_MESSAGES, 'messages');
    const limit = LIMITS.get(type);
    if (limit === undefined) return;
    const count = (this.#counts.get(type) ?? 0) + 1;
    this.#counts.set(type, count);
    this.#check(count, limit.most, limit.what);
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
