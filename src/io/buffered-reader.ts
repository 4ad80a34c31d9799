import { CheckpointError } from '../errors.js';
import type { ByteSource } from './byte-source.js';

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

  /**
   * Reads one byte of the window.
   *
   * @throws CheckpointError `truncated` where the window, and so the source, ends.
   */
  readByte(): number {
    const byte =
      this.#position < this.#windowEnd ? this.#buffer[this.#position - this.#windowStart] : undefined;
    if (byte === undefined) {
      throw new CheckpointError(
        'expected more bytes, found the unexpected end of the file: it is cut short (truncated)',
        {
          code: 'truncated',
          file: this.source.name,
          offset: this.#position,
        },
      );
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
    if (inWindow < target.byteLength) {
      await this.source.readInto(target.subarray(inWindow), this.#position + inWindow);
    }
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
