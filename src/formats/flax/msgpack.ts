// Walks msgpack as Flax writes it: reads what says what comes, and steps over the elements of arrays.

import type { Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../../checkpoint/dtype.js';
import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import { type ByteRange, type ByteSource, joinRanges } from '../../io/byte-source.js';
import { BufferedReader } from '../../io/cursor.js';
import { countElements } from '../../io/row-major.js';

/** Values of all kinds. Large models have some thousand arrays of eight to twelve values, their optimizers twice as many. */
const MAX_VALUES = 300_000;

/** Maps within maps; modules nest some ten deep. */
const MAX_NESTING = 100;

/** A key is a module's name, and is kept in memory. */
const MAX_KEY_BYTES = 1_024;

/** Far above any real tensor; a shape is kept in memory. */
const MAX_RANK = 64;

/** The longest head: a byte, a length of four bytes and a type, or an integer of eight. */
const MAX_HEAD_BYTES = 9;

/** The key by which Flax knows an array of more than 1 GiB, which it writes in pieces. */
const CHUNKED = '__msgpack_chunked_array__';

/** What numpy and ml_dtypes call the types. */
const DTYPES: ReadonlyMap<string, DType> = new Map([
  ['bool', 'BOOL'],
  ['uint8', 'U8'],
  ['int8', 'I8'],
  ['uint16', 'U16'],
  ['int16', 'I16'],
  ['uint32', 'U32'],
  ['int32', 'I32'],
  ['uint64', 'U64'],
  ['int64', 'I64'],
  ['float16', 'F16'],
  ['bfloat16', 'BF16'],
  ['float32', 'F32'],
  ['float64', 'F64'],
  ['complex64', 'C64'],
  ['float8_e5m2', 'F8_E5M2'],
  ['float8_e4m3fn', 'F8_E4M3'],
  ['float8_e5m2fnuz', 'F8_E5M2FNUZ'],
  ['float8_e4m3fnuz', 'F8_E4M3FNUZ'],
  ['float8_e8m0fnu', 'F8_E8M0'],
]);

/** An array where it lies in the file. */
export type StoredArray = Pick<Tensor, 'dtype' | 'shape' | 'elementCount' | 'range'>;

/** A map, or a list by its numbers. */
type MsgpackMap = ReadonlyMap<string, MsgpackValue>;

/** Null stands for what is neither map nor array nor a whole number from 0 on. */
export type MsgpackValue = MsgpackMap | StoredArray | number | null;

/** What a msgpack file holds. */
interface MsgpackFile {
  readonly root: MsgpackValue;
  /** Types of arrays that were left out since they are no tensors here, such as `complex128`. */
  readonly unknownTypes: ReadonlySet<string>;
}

/** Whether a value is an array. */
export function isArray(value: MsgpackValue | undefined): value is StoredArray {
  return typeof value === 'object' && value !== null && 'dtype' in value;
}

/** Whether a value is a map or a list. */
export function isMap(value: MsgpackValue | undefined): value is MsgpackMap {
  return value instanceof Map;
}

/**
 * Reads a file of one msgpack value (github.com/msgpack/msgpack, spec.md), with the extensions of flax/serialization.py:
 * 1 is an array, 3 a number of NumPy's, both msgpack of (shape, type, bytes); 2, a complex number, is left out.
 *
 * @throws CheckpointError `truncated`, `malformed` or `limit-exceeded`, with the byte.
 */
export async function readMsgpack(source: ByteSource): Promise<MsgpackFile> {
  const walker = new MsgpackWalker(source);
  return { root: await walker.readAll(), unknownTypes: walker.unknownTypes };
}

type Kind = 'map' | 'list' | 'text' | 'bytes' | 'extension' | 'integer' | 'other';

/** What begins a msgpack value. */
interface Head {
  readonly kind: Kind;
  /** Bytes that follow; of a map or a list, how many it holds. */
  readonly length: number;
  /** Of an integer, what it is; of an extension, its type. */
  readonly value: number;
}

/** First bytes from 0xc0 to 0xdf: what they begin, and its length, or the bytes that tell the length. */
const HEADS: readonly (readonly [kind: Kind, length: number, lengthBytes?: number] | null)[] = [
  ['other', 0], // nil
  null,
  ['other', 0], // false
  ['other', 0], // true
  ...[1, 2, 4].map((bytes) => ['bytes', 0, bytes] as const),
  ...[1, 2, 4].map((bytes) => ['extension', 0, bytes] as const),
  ['other', 4], // float32
  ['other', 8], // float64
  ...[1, 2, 4, 8].map((bytes) => ['integer', bytes] as const),
  ...[1, 2, 4, 8].map((bytes) => ['other', bytes] as const), // below 0
  ...[1, 2, 4, 8, 16].map((length) => ['extension', length] as const),
  ...[1, 2, 4].map((bytes) => ['text', 0, bytes] as const),
  ...[2, 4].map((bytes) => ['list', 0, bytes] as const),
  ...[2, 4].map((bytes) => ['map', 0, bytes] as const),
];

class MsgpackWalker {
  readonly unknownTypes = new Set<string>();
  readonly #source: ByteSource;
  readonly #reader: BufferedReader;
  #values = 0;

  constructor(source: ByteSource) {
    this.#source = source;
    this.#reader = new BufferedReader(source);
  }

  async readAll(): Promise<MsgpackValue> {
    const root = await this.#readValue(0);
    const extra = this.#left();
    if (extra > 0) this.#fail(`expected the end of the file behind its one value, found ${extra} more bytes`);
    return root;
  }

  async #readValue(depth: number): Promise<MsgpackValue> {
    const head = await this.#readHead();
    switch (head.kind) {
      case 'map':
      case 'list':
        return this.#readMap(head, depth);
      case 'integer':
        return head.value;
      case 'extension':
        if (head.value === 1 || head.value === 3) return this.#readArray(this.#reader.position + head.length);
    }
    this.#reader.skip(head.length);
    return null;
  }

  async #readMap({ kind, length }: Head, depth: number): Promise<MsgpackValue> {
    if (depth === MAX_NESTING)
      this.#fail(`expected maps nested at most ${MAX_NESTING} deep, found more`, 'limit-exceeded');
    const members = new Map<string, MsgpackValue>();
    for (let index = 0; index < length; index++) {
      const key = kind === 'map' ? await this.#readKey() : String(index);
      if (members.has(key)) this.#fail(`expected each key of a map once, found ${quote(key)} twice`);
      members.set(key, await this.#readValue(depth + 1));
    }
    return members.has(CHUNKED) ? this.#joinChunks(members) : members;
  }

  async #readKey(): Promise<string> {
    const head = await this.#readHead();
    if (head.kind === 'integer') return String(head.value);
    if (head.kind !== 'text') this.#fail(`expected a name as the key of a map, found ${describe(head)}`);
    return this.#readText(head);
  }

  async #readArray(end: number): Promise<StoredArray | null> {
    const start = this.#reader.position;
    const parts = await this.#expect('list', 'an array as shape, type and bytes');
    if (parts.length !== 3)
      this.#fail(`expected an array as shape, type and bytes, found ${describe(parts)}`);
    const { length: rank } = await this.#expect('list', 'the shape of an array');
    this.#checkRank(rank);
    const shape: number[] = [];
    for (let axis = 0; axis < rank; axis++) shape.push((await this.#expect('integer', 'a dimension')).value);
    const type = await this.#readText(await this.#expect('text', 'the type of an array'));
    const { length: byteLength } = await this.#expect('bytes', 'the bytes of an array');
    const { position: offset } = this.#reader;
    if (offset + byteLength !== end)
      this.#fail(
        `expected an array to end with its extension at byte ${end}, found its end at ${offset + byteLength}`,
      );
    this.#reader.skip(byteLength);
    const dtype = DTYPES.get(type);
    if (dtype !== undefined)
      return this.#toArray(dtype, shape, { source: this.#source, offset, byteLength }, start);
    this.unknownTypes.add(type);
    return null;
  }

  /** `{__msgpack_chunked_array__: true, shape: {0: …}, chunks: {0: array, …}}`: an array in pieces, which are vectors. */
  #joinChunks(members: MsgpackMap): StoredArray {
    const [sizes, chunks] = [itemsOf(members.get('shape')), itemsOf(members.get('chunks'))];
    const shape = sizes.filter((size) => typeof size === 'number');
    const pieces = chunks.filter(isArray);
    const [first] = pieces;
    const isWhole = shape.length === sizes.length && pieces.length === chunks.length;
    if (!isWhole || first === undefined || pieces.some(({ dtype }) => dtype !== first.dtype))
      return this.#fail(
        'expected an array in pieces to have a shape and pieces of one type, found something else',
      );
    this.#checkRank(shape.length);
    const ranges = pieces.map(({ range }) => range);
    return this.#toArray(first.dtype, shape, joinRanges(this.#source.name, ranges), this.#reader.position);
  }

  #toArray(dtype: DType, shape: readonly number[], range: ByteRange, at: number): StoredArray {
    const elementCount = countElements(shape);
    if ((elementCount * bitsOf(dtype)) / 8 !== range.byteLength) {
      const expected = `expected ${dtype} of shape [${shape.join(', ')}]`;
      this.#fail(`${expected}, found ${range.byteLength} bytes for it`, 'malformed', at);
    }
    return { dtype, shape, elementCount, range };
  }

  #checkRank(rank: number): void {
    if (rank > MAX_RANK)
      this.#fail(`expected a shape of at most ${MAX_RANK} dimensions, found ${rank}`, 'limit-exceeded');
  }

  async #expect(kind: Kind, what: string): Promise<Head> {
    const head = await this.#readHead();
    if (head.kind !== kind) this.#fail(`expected ${what}, found ${describe(head)}`);
    return head;
  }

  /** Reads the head of a value, and checks that what it announces can be in the file. */
  async #readHead(): Promise<Head> {
    if (++this.#values > MAX_VALUES)
      this.#fail(`expected at most ${MAX_VALUES} values, found more`, 'limit-exceeded');
    const reader = this.#reader;
    if (!reader.has(MAX_HEAD_BYTES)) await reader.fill(MAX_HEAD_BYTES);
    const at = reader.position;
    const head = this.#parseHead(reader.readByte(), at);
    // What a map or a list holds takes a byte at least.
    const least = head.kind === 'map' ? 2 * head.length : head.length;
    if (least > this.#left()) {
      const message = `expected ${describe(head)}, found ${this.#left()} bytes before the end of the file`;
      this.#fail(message, 'truncated', at);
    }
    return head;
  }

  #parseHead(first: number, at: number): Head {
    if (first < 0x80) return { kind: 'integer', length: 0, value: first };
    if (first < 0x90) return { kind: 'map', length: first & 0x0f, value: 0 };
    if (first < 0xa0) return { kind: 'list', length: first & 0x0f, value: 0 };
    if (first < 0xc0) return { kind: 'text', length: first & 0x1f, value: 0 };
    if (first >= 0xe0) return { kind: 'other', length: 0, value: 0 };
    const head = HEADS[first - 0xc0];
    if (!head)
      return this.#fail(
        `expected a value of msgpack, found the byte 0x${first.toString(16)}`,
        'malformed',
        at,
      );
    const [kind, fixed, lengthBytes = 0] = head;
    if (kind === 'integer') return { kind, length: 0, value: this.#readNumber(fixed) };
    const length = fixed + this.#readNumber(lengthBytes);
    return { kind, length, value: kind === 'extension' ? this.#reader.readByte() : 0 };
  }

  /** Big-endian. Beyond 2^53 it is not exact, and larger than anything that it may be. */
  #readNumber(byteLength: number): number {
    let value = 0;
    for (let index = 0; index < byteLength; index++) value = value * 256 + this.#reader.readByte();
    return value;
  }

  async #readText({ length }: Head): Promise<string> {
    if (length > MAX_KEY_BYTES)
      this.#fail(`expected a name of at most ${MAX_KEY_BYTES} bytes, found ${length}`, 'limit-exceeded');
    await this.#reader.fill(length);
    return new TextDecoder().decode(this.#reader.takeView(length));
  }

  #left(): number {
    return this.#source.byteLength - this.#reader.position;
  }

  #fail(message: string, code: CheckpointErrorCode = 'malformed', offset = this.#reader.position): never {
    throw new CheckpointError(message, { code, file: this.#source.name, offset });
  }
}

function describe({ kind, length }: Head): string {
  return kind === 'integer' || kind === 'other'
    ? `msgpack’s ${kind === 'other' ? 'other value' : kind}`
    : `msgpack’s ${kind} of ${length}`;
}

/** The items of a list, or of a map with the keys 0, 1, …, by their numbers. */
function itemsOf(value: MsgpackValue | undefined): readonly MsgpackValue[] {
  if (!isMap(value)) return [];
  return [...value].sort(([one], [other]) => Number(one) - Number(other)).map(([, item]) => item);
}
