import { CheckpointError } from '../../errors.js';
import { type ByteSource, readRange } from '../../io/byte-source.js';
import { Cursor } from '../../io/cursor.js';
import { MAX_PICKLE_BYTES, type PickleOptions, readPickle } from './pickle.js';
import type { PickleValue } from './pickle-values.js';

/** The first read of a pickle of unknown length. One that is longer is read again from its start, twice as far. */
const FIRST_WINDOW_BYTES = 64 * 1024;

/** What a sequence reads, and what its pickles' persistent ids stand for. */
export interface SequenceOptions extends Pick<PickleOptions, 'resolvePersistentId'> {
  readonly file: string;
  readonly start: number;
  /** The first byte after the sequence. */
  readonly end: number;
}

/** Reads pickles, counts and payloads that follow each other in a file, and of the payloads only where they end. */
export class PickleSequence {
  readonly #source: ByteSource;
  readonly #options: SequenceOptions;
  #window: Uint8Array = new Uint8Array(0);
  #windowStart: number;
  #position: number;

  constructor(source: ByteSource, options: SequenceOptions) {
    this.#source = source;
    this.#options = options;
    this.#windowStart = options.start;
    this.#position = options.start;
  }

  /** Where in the file the next pickle, count or payload starts. */
  get position(): number {
    return this.#position;
  }

  get remaining(): number {
    return this.#options.end - this.#position;
  }

  /**
   * Reads the next pickle.
   *
   * @throws CheckpointError as {@link readPickle}, `truncated` only when the sequence itself ends too early.
   */
  async readPickle(subject: string): Promise<PickleValue> {
    for (;;) {
      const start = this.#position - this.#windowStart;
      try {
        const { value, end } = readPickle(this.#window, this.#pickleOptions(subject), start);
        this.#position = this.#windowStart + end;
        return value;
      } catch (error) {
        const isCutOff = error instanceof CheckpointError && error.code === 'truncated';
        const byteLength = this.#window.length - start;
        if (!isCutOff || byteLength === this.remaining) throw error;
        if (byteLength >= MAX_PICKLE_BYTES) throw this.#tooLong(subject);
        await this.#load(Math.max(FIRST_WINDOW_BYTES, 2 * byteLength));
      }
    }
  }

  /** Reads bytes of a known, small length. */
  async readBytes(byteLength: number, subject: string): Promise<Cursor> {
    const offset = this.#position;
    this.skip(byteLength, subject);
    const bytes = await readRange({ source: this.#source, offset, byteLength });
    return new Cursor(bytes, { file: this.#options.file, baseOffset: offset, subject });
  }

  /**
   * Moves behind a payload.
   *
   * @throws CheckpointError `truncated` when it is longer than the rest.
   */
  skip(byteLength: number, subject: string): void {
    if (!(byteLength >= 0 && byteLength <= this.remaining)) {
      throw new CheckpointError(
        `expected ${subject} of ${byteLength} bytes, found the end after ${this.remaining}: it is truncated`,
        {
          code: 'truncated',
          file: this.#options.file,
          offset: this.#position,
        },
      );
    }
    this.#position += byteLength;
    if (this.#position > this.#windowStart + this.#window.length) this.#dropWindow();
  }

  #dropWindow(): void {
    this.#window = new Uint8Array(0);
    this.#windowStart = this.#position;
  }

  async #load(byteLength: number): Promise<void> {
    const offset = this.#position;
    const range = {
      source: this.#source,
      offset,
      byteLength: Math.min(byteLength, this.remaining, MAX_PICKLE_BYTES),
    };
    this.#window = await readRange(range);
    this.#windowStart = offset;
  }

  #pickleOptions(subject: string): PickleOptions {
    const { file, resolvePersistentId } = this.#options;
    return { file, baseOffset: this.#windowStart, subject, resolvePersistentId };
  }

  #tooLong(subject: string): CheckpointError {
    return new CheckpointError(`expected ${subject} to take at most ${MAX_PICKLE_BYTES} bytes, found more`, {
      code: 'limit-exceeded',
      file: this.#options.file,
      offset: this.#position,
    });
  }
}
