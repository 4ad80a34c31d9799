// Reads JSON from strangers: keys given twice, depth and length are checked, and errors say where.

import { isUtf8 } from 'node:buffer';
import { CheckpointError, type CheckpointErrorCode, quote } from '../errors.js';

/** A JSON number as it was written: integers above 2^53 and `8.0` against `8` stay distinguishable. */
interface JsonNumber {
  readonly digits: string;
}

/** A JSON value with objects as Maps, so that a key such as `__proto__` is a key like any other. */
export type JsonValue = string | boolean | null | JsonNumber | readonly JsonValue[] | JsonObject;

/** A JSON object; keys are unique, in file order. */
export type JsonObject = ReadonlyMap<string, JsonValue>;

/** Deep enough for any header or index; a bomb of brackets must not exhaust the call stack. */
const MAX_DEPTH = 64;

/**
 * Items of lists and members of objects within one member of the top object. The most that is there for a reason is the
 * index of a sharded model: one for each of up to 200,000 tensors.
 */
const MAX_VALUES = 500_000;

/** The longest text that is there for a reason is a baseline's graph; an escaped one stands in memory several times. */
const MAX_STRING_BYTES = 32 * 1024 * 1024;

/** Whole numbers of up to so many digits are exact as float64. */
const MAX_SHORT_DIGITS = 15;

const QUOTE = 0x22;
const COMMA = 0x2c;
const ZERO = 0x30;
const COLON = 0x3a;
const OPENING_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSING_BRACKET = 0x5d;
const OPENING_BRACE = 0x7b;
const CLOSING_BRACE = 0x7d;

const MAX_UINT64 = 2n ** 64n - 1n;

const PLAIN_STRING = /^[ !#-[\]-~]*$/;

const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;

/**
 * A strict JSON reader over UTF-8 bytes (RFC 8259): it rejects what `JSON.parse` lets through or hides, which is
 * duplicate keys, lone surrogates and bytes that are no UTF-8, and keeps numbers as written.
 */
export class JsonReader {
  readonly #bytes: Buffer;
  readonly #file: string;
  /** Where `bytes` starts in the file, for messages. */
  readonly #base: number;
  #position = 0;
  /** How many values were read within the current member of the top object. */
  #values = 0;

  constructor(bytes: Uint8Array, file: string, base = 0) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#file = file;
    this.#base = base;
  }

  /**
   * Reads the whole text as one object and hands over its members one by one, so that a large object never stands
   * in memory as a whole.
   *
   * @throws CheckpointError `malformed` with the byte, on anything but one object with unique keys;
   *   `limit-exceeded` for more values or longer strings than are there for a reason.
   */
  readTopObject(onMember: (key: string, value: JsonValue) => void): void {
    if (this.#next() !== OPENING_BRACE) this.#fail(`expected a JSON object, found ${this.#describeNext()}`);
    const seen = new Set<string>();
    this.#readMembers(0, seen, (key, value) => {
      seen.add(key);
      onMember(key, value);
    });
    if (this.#next() !== undefined)
      this.#fail(`expected the end of the JSON text, found ${this.#describeNext()}`);
  }

  #readMembers(
    depth: number,
    seen: { has(key: string): boolean },
    onMember: (key: string, value: JsonValue) => void,
  ): void {
    this.#readItems(CLOSING_BRACE, () => {
      if (this.#next() !== QUOTE)
        this.#fail(`expected a JSON key in double quotes, found ${this.#describeNext()}`);
      const start = this.#position;
      const key = this.#readString();
      if (seen.has(key)) {
        this.#position = start;
        this.#fail(`duplicate JSON key ${quote(key)}: it appears twice in one object`);
      }
      if (this.#next() !== COLON) this.#fail(`expected ":" in JSON, found ${this.#describeNext()}`);
      this.#position++;
      if (depth === 0) this.#values = 0;
      onMember(key, this.#readValue(depth + 1));
    });
  }

  /** Reads items with commas between them, from the opening bracket on to the closing one. */
  #readItems(closing: number, readItem: () => void): void {
    this.#position++;
    if (this.#next() === closing) {
      this.#position++;
      return;
    }
    for (;;) {
      readItem();
      const next = this.#next();
      if (next !== COMMA && next !== closing)
        this.#fail(
          `expected "," or "${String.fromCharCode(closing)}" in JSON, found ${this.#describeNext()}`,
        );
      this.#position++;
      if (next === closing) return;
    }
  }

  #readValue(depth: number): JsonValue {
    if (depth > MAX_DEPTH) this.#fail(`JSON nested deeper than ${MAX_DEPTH} levels`);
    if (++this.#values > MAX_VALUES)
      this.#exceed(`more than ${MAX_VALUES} values in one member of the JSON text`);
    switch (this.#next()) {
      case OPENING_BRACE: {
        const members = new Map<string, JsonValue>();
        this.#readMembers(depth, members, (key, value) => members.set(key, value));
        return members;
      }
      case OPENING_BRACKET: {
        const items: JsonValue[] = [];
        this.#readItems(CLOSING_BRACKET, () => items.push(this.#readValue(depth + 1)));
        return items;
      }
      case QUOTE:
        return this.#readString();
      default:
        return this.#readLiteral();
    }
  }

  #readLiteral(): JsonValue {
    return this.#readShortInteger() ?? this.#readOtherLiteral();
  }

  /** A size or an offset, as nearly every number is: read digit by digit, without a string in between. */
  #readShortInteger(): JsonNumber | null {
    const start = this.#position;
    let end = start;
    let integer = 0;
    for (; isDigit(this.#bytes[end]); end++) integer = 10 * integer + (this.#bytes[end] as number) - ZERO;
    const length = end - start;
    const isOther = isLiteralByte(this.#bytes[end]) || (length > 1 && this.#bytes[start] === ZERO);
    if (length === 0 || length > MAX_SHORT_DIGITS || isOther) return null;
    this.#position = end;
    return { digits: String(integer) };
  }

  #readOtherLiteral(): JsonValue {
    const start = this.#position;
    while (isLiteralByte(this.#bytes[this.#position])) this.#position++;
    const word = this.#bytes.toString('latin1', start, Math.min(this.#position, start + 400));
    if (word === 'true') return true;
    if (word === 'false') return false;
    if (word === 'null') return null;
    if (word.length === this.#position - start && NUMBER.test(word)) return { digits: word };
    this.#position = start;
    return this.#fail(`expected a JSON value, found ${this.#describeNext()}`);
  }

  #readString(): string {
    const start = this.#position + 1;
    // Nearly every string is a plain name: found and read by native code.
    const plainEnd = this.#bytes.indexOf(QUOTE, start);
    if (plainEnd - start > MAX_STRING_BYTES)
      this.#exceed(`a JSON string of more than ${MAX_STRING_BYTES} bytes`);
    const plain = plainEnd < 0 ? '' : this.#bytes.toString('latin1', start, plainEnd);
    if (plainEnd < 0 || !PLAIN_STRING.test(plain)) return this.#readOtherString(start);
    this.#position = plainEnd + 1;
    return plain;
  }

  /** A string with escapes, characters beyond ASCII, or a fault. */
  #readOtherString(start: number): string {
    let end = start;
    let escaped = false;
    for (; ; end++) {
      const byte = this.#bytes[end];
      if (byte === undefined) this.#fail('expected the end of a JSON string, found the end of the text');
      if (byte === QUOTE) break;
      if (byte < 0x20) {
        this.#position = end;
        this.#fail('found a control character in a JSON string');
      }
      if (byte === BACKSLASH) {
        escaped = true;
        end++;
      }
    }
    if (end - start > MAX_STRING_BYTES) this.#exceed(`a JSON string of more than ${MAX_STRING_BYTES} bytes`);
    const bytes = this.#bytes.subarray(start, end);
    if (!isUtf8(bytes)) return this.#fail('expected UTF-8 in the JSON text, found other bytes');
    this.#position = end + 1;
    const text = bytes.toString();
    return escaped ? this.#unescape(text, start) : text;
  }

  #unescape(text: string, start: number): string {
    try {
      // The text holds no bare control character and no bare quote, so JSON.parse sees exactly one string.
      const value: unknown = JSON.parse(`"${text}"`);
      if (typeof value === 'string' && value.isWellFormed()) return value;
    } catch {
      // Falls through: an escape that JSON does not know.
    }
    this.#position = start;
    return this.#fail('found an escape that JSON does not allow, or half of a surrogate pair');
  }

  /** Skips white space and gives the byte behind it; undefined at the end of the text. */
  #next(): number | undefined {
    for (;;) {
      const byte = this.#bytes[this.#position];
      if (byte !== 0x20 && byte !== 0x09 && byte !== 0x0a && byte !== 0x0d) return byte;
      this.#position++;
    }
  }

  #describeNext(): string {
    const byte = this.#bytes[this.#position];
    if (byte === undefined) return 'the end of the text';
    if (byte > 0x20 && byte < 0x7f) return quote(String.fromCharCode(byte));
    return `byte 0x${byte.toString(16).padStart(2, '0')}`;
  }

  #exceed(message: string): never {
    return this.#fail(message, 'limit-exceeded');
  }

  #fail(message: string, code: CheckpointErrorCode = 'malformed'): never {
    throw new CheckpointError(message, { code, file: this.#file, offset: this.#base + this.#position });
  }
}

/** Whether a value is an object: neither a list, a number, nor a scalar. */
export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return value instanceof Map;
}

/**
 * The object that some bytes are as JSON.
 *
 * @throws CheckpointError as {@link JsonReader.readTopObject}.
 */
export function readJsonObject(bytes: Uint8Array, file: string): JsonObject {
  const members = new Map<string, JsonValue>();
  new JsonReader(bytes, file).readTopObject((key, value) => members.set(key, value));
  return members;
}

/** Whether a value is a list. */
export function isJsonArray(value: JsonValue | undefined): value is readonly JsonValue[] {
  return Array.isArray(value);
}

/** Whether a value is a number. */
export function isJsonNumber(value: JsonValue | undefined): value is JsonNumber {
  return typeof value === 'object' && value !== null && 'digits' in value;
}

/** A value as a whole number that JavaScript holds exactly, 0 or more; null when it is none. */
export function toCount(value: JsonValue | undefined): number | null {
  const integer = toUnsignedInteger(value);
  return integer === null || integer > BigInt(Number.MAX_SAFE_INTEGER) ? null : Number(integer);
}

/**
 * A value as an unsigned 64-bit integer, written with digits alone: no sign, fraction or exponent.
 *
 * @returns null when it is none.
 */
export function toUnsignedInteger(value: JsonValue | undefined): bigint | null {
  if (!isJsonNumber(value)) return null;
  const { digits } = value;
  if (!/^\d{1,20}$/.test(digits)) return null;
  if (digits.length <= MAX_SHORT_DIGITS) return BigInt(Number(digits));
  const integer = BigInt(digits);
  return integer <= MAX_UINT64 ? integer : null;
}

/** A value as it would be written, shortened, for messages. */
export function describeJson(value: JsonValue | undefined): string {
  if (value === undefined) return 'nothing';
  if (value === null || typeof value === 'boolean') return String(value);
  if (typeof value === 'string') return quote(value);
  if ('digits' in value) return value.digits.slice(0, 40);
  if (isJsonArray(value))
    return value.length > 8 ? `a list of ${value.length}` : `[${value.map(describeJson).join(', ')}]`;
  return 'an object';
}

/** Letters, digits, signs and dots: what the words and numbers of JSON are made of. */
function isLiteralByte(byte: number | undefined): boolean {
  if (byte === undefined) return false;
  const isLetter = (byte | 0x20) >= 0x61 && (byte | 0x20) <= 0x7a;
  return isDigit(byte) || isLetter || byte === 0x2b || byte === 0x2d || byte === 0x2e;
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= ZERO && byte < ZERO + 10;
}
