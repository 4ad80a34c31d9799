import { CheckpointError } from '../errors.js';

const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;

/** Texts up to this length are decoded without the decoder, whose overhead would dominate. */
const MAX_SHORT_TEXT = 64;

const textDecoder = new TextDecoder('utf-8');

/** Where a cursor's bytes come from, for messages. */
export interface CursorOrigin {
  readonly file: string;
  /** Where the bytes start in the file; null where they are no part of it as they stand (inflated records). */
  readonly baseOffset: number | null;
  /** What the bytes are, such as `the pickle`. */
  readonly subject: string;
}

/** Reads little-endian values one after the other from bytes in memory; every read is checked against their end. */
export class Cursor {
  readonly bytes: Uint8Array;
  readonly origin: CursorOrigin;
  readonly #view: DataView;
  #position: number;

  constructor(bytes: Uint8Array, origin: CursorOrigin, position = 0) {
    this.bytes = bytes;
    this.origin = origin;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#position = position;
  }

  get position(): number {
    return this.#position;
  }

  get remaining(): number {
    return this.bytes.byteLength - this.#position;
  }

  /** The byte of the file at `position`; undefined where the file does not hold the bytes as they stand. */
  fileOffset(position: number = this.#position): number | undefined {
    return this.origin.baseOffset === null ? undefined : this.origin.baseOffset + position;
  }

  readU8(): number {
    return this.#view.getUint8(this.#advance(1));
  }

  readU16(): number {
    return this.#view.getUint16(this.#advance(2), true);
  }

  readU32(): number {
    return this.#view.getUint32(this.#advance(4), true);
  }

  readI32(): number {
    return this.#view.getInt32(this.#advance(4), true);
  }

  readU64(): bigint {
    return this.#view.getBigUint64(this.#advance(8), true);
  }

  readI64(): bigint {
    return this.#view.getBigInt64(this.#advance(8), true);
  }

  readBigEndianF64(): number {
    return this.#view.getFloat64(this.#advance(8), false);
  }

  /** A view of the next `count` bytes; a bigint count may be beyond any file. */
  readBytes(count: number | bigint): Uint8Array {
    const start = this.#advance(count);
    return this.bytes.subarray(start, this.#position);
  }

  /** The next `count` bytes as UTF-8 text; what is no UTF-8 becomes U+FFFD. */
  readText(count: number | bigint): string {
    const start = this.#advance(count);
    return decodeText(this.bytes, start, this.#position);
  }

  skip(count: number): void {
    this.#advance(count);
  }

  /** The text up to the next newline, which is read too and left out, as is a carriage return before it. */
  readTextLine(): string {
    const start = this.#position;
    const end = this.bytes.indexOf(NEWLINE, start);
    if (end < 0) throw this.#truncated('a line');
    this.#position = end + 1;
    return decodeText(
      this.bytes,
      start,
      end > start && this.bytes[end - 1] === CARRIAGE_RETURN ? end - 1 : end,
    );
  }

  #advance(count: number | bigint): number {
    if (count < 0 || count > this.remaining) throw this.#truncated(`${count} byte${count === 1 ? '' : 's'}`);
    const start = this.#position;
    this.#position = start + Number(count);
    return start;
  }

  #truncated(expected: string): CheckpointError {
    const found =
      this.remaining === 0
        ? `found the end of ${this.origin.subject}`
        : `found only ${this.remaining} before the end of ${this.origin.subject}`;
    return new CheckpointError(`expected ${expected}, ${found}`, {
      code: 'truncated',
      file: this.origin.file,
      offset: this.fileOffset(),
    });
  }
}

function decodeText(bytes: Uint8Array, start: number, end: number): string {
  if (end - start > MAX_SHORT_TEXT) return textDecoder.decode(bytes.subarray(start, end));
  let text = '';
  for (let at = start; at < end; at++) {
    const byte = bytes[at] ?? 0;
    if (byte >= 0x80) return textDecoder.decode(bytes.subarray(start, end));
    text += String.fromCharCode(byte);
  }
  return text;
}
