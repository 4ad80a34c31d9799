// Reads binary values one after another: `Cursor` from bytes in memory, `BufferedReader` from a source of any length.

import { CheckpointError, fail } from '../errors.js';
import type { ByteSource } from './byte-source.js';

const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;

/** Texts up to this length are decoded without the decoder, whose overhead would dominate. */
const MAX_SHORT_TEXT = 64;

const textDecoder = new TextDecoder('utf-8');

/** Where a cursor's bytes come from, for messages. */
interface CursorOrigin {
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

  /** The byte of the file that is next; undefined where the file does not hold the bytes as they stand. */
  fileOffset(): number | undefined {
    return this.origin.baseOffset === null ? undefined : this.origin.baseOffset + this.#position;
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

  /** The next `count` bytes as a cursor of their own. */
  readPart(count: number | bigint, subject = this.origin.subject): Cursor {
    const baseOffset = this.fileOffset() ?? null;
    return new Cursor(this.readBytes(count), { ...this.origin, baseOffset, subject });
  }

  /** The next `count` bytes as UTF-8 text; what is no UTF-8 becomes U+FFFD. */
  readText(count: number | bigint): string {
    const start = this.#advance(count);
    return decodeText(this.bytes, start, this.#position);
  }

  skip(count: number): void {
    this.#advance(count);
  }

  /**
   * The text up to the next newline, which is read too and left out, as is a carriage return before it.
   *
   * @param isLatin1 whether each byte is a character, instead of UTF-8.
   */
  readTextLine(isLatin1 = false): string {
    const start = this.#position;
    const end = this.bytes.indexOf(NEWLINE, start);
    if (end < 0) throw this.#truncated('a line');
    this.#position = end + 1;
    const last = end > start && this.bytes[end - 1] === CARRIAGE_RETURN ? end - 1 : end;
    return isLatin1
      ? Buffer.from(this.bytes.subarray(start, last)).toString('latin1')
      : decodeText(this.bytes, start, last);
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

/** Window after a jump: one page. Headers between payloads are small, so more would mostly be payload. */
const MIN_WINDOW_BYTES = 4 * 1024;

/** Window while reading on and on; also the largest read that a file source does on the calling thread. */
const MAX_WINDOW_BYTES = 64 * 1024;

/**
 * Reads a source from its start to its end through a small window, and can jump ahead.
 *
 * Parsers ask {@link has} and await {@link fill} once for every structure, then read its bytes without awaiting. The
 * window starts small after each jump and doubles while reading goes on, so that a file which is mostly skipped costs
 * little, and one which is read through costs few system calls.
 */
export class BufferedReader {
  readonly source: ByteSource;
  readonly #end: number;
  #buffer = new Uint8Array(0);
  #windowStart = 0;
  #windowEnd = 0;
  #position = 0;
  #nextWindowBytes = MIN_WINDOW_BYTES / 2;

  /**
   * @param start where in the source reading begins.
   * @param end where it ends; the window never reaches beyond.
   */
  constructor(source: ByteSource, start = 0, end = source.byteLength) {
    this.source = source;
    this.#end = end;
    this.#position = start;
    this.#windowStart = start;
    this.#windowEnd = start;
  }

  /** The next byte to be read, counted from the start of the source. */
  get position(): number {
    return this.#position;
  }

  /** Whether `count` bytes, or all that are left when there are fewer, can be read without {@link fill}. */
  has(count: number): boolean {
    return this.#windowEnd - this.#position >= Math.min(count, this.#end - this.#position);
  }

  /** Brings `count` bytes, or all that are left when there are fewer, into the window; at most 64 KiB. */
  async fill(count: number): Promise<void> {
    if (this.has(count)) return;
    const readsOn = this.#position <= this.#windowEnd;
    this.#nextWindowBytes = readsOn
      ? Math.min(2 * this.#nextWindowBytes, MAX_WINDOW_BYTES)
      : MIN_WINDOW_BYTES;
    const byteLength = Math.min(
      Math.max(count, this.#nextWindowBytes),
      this.#end - this.#position,
      MAX_WINDOW_BYTES,
    );
    if (byteLength > this.#buffer.byteLength) this.#buffer = new Uint8Array(byteLength);
    await this.source.readInto(this.#buffer.subarray(0, byteLength), this.#position);
    this.#windowStart = this.#position;
    this.#windowEnd = this.#position + byteLength;
  }

  /** Reads one byte of the window; where that ends, the source does, which is an error. */
  readByte(): number {
    const byte =
      this.#position < this.#windowEnd ? this.#buffer[this.#position - this.#windowStart] : undefined;
    if (byte === undefined) {
      const message =
        'expected more bytes, found the unexpected end of the file: it is cut short (truncated)';
      fail(this.source.name, message, 'truncated', { offset: this.#position });
    }
    this.#position++;
    return byte;
  }

  /** Fills `target` with the next bytes, through the window where they are few. */
  async readInto(target: Uint8Array): Promise<void> {
    if (target.byteLength <= MIN_WINDOW_BYTES) await this.fill(target.byteLength);
    const inWindow = Math.max(0, Math.min(target.byteLength, this.#windowEnd - this.#position));
    const from = this.#position - this.#windowStart;
    target.set(this.#buffer.subarray(from, from + inWindow));
    if (inWindow < target.byteLength)
      await this.source.readInto(target.subarray(inWindow), this.#position + inWindow);
    this.#position += target.byteLength;
  }

  /** The next `count` bytes of the window, valid until the next {@link fill}; moves on behind them. */
  takeView(count: number): Uint8Array {
    const from = this.#position - this.#windowStart;
    this.#position += count;
    return this.#buffer.subarray(from, from + count);
  }

  /** Moves on without reading. The caller has checked `count` against the end. */
  skip(count: number): void {
    this.#position += count;
  }
}
