// The bytes of a deflated ZIP entry, inflated as they are read, and the CRC-32 that ZIP checks them with.

import { pipeline } from 'node:stream';
import * as zlib from 'node:zlib';
import { createInflateRaw } from 'node:zlib';
import { CheckpointError } from '../errors.js';
import { type ByteRange, type ByteSource, checkBounds } from './byte-source.js';
import { Keeper } from './views.js';

/** CRC-32 of ISO 3309 with the reflected polynomial 0xEDB88320, as zip and gzip use it (APPNOTE.TXT 4.4.7). */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** Several times as quick as the table; absent before Node 20.15. */
const native = 'crc32' in zlib ? zlib.crc32 : null;

/**
 * The CRC-32 of `bytes` as an unsigned 32-bit number.
 *
 * @param previous the CRC of the bytes before these, where they come in pieces.
 */
export function crc32(bytes: Uint8Array, previous = 0): number {
  return native === null ? crcByTable(bytes, previous) : native(bytes, previous);
}

/** {@link crc32} where node:zlib has none. */
export function crcByTable(bytes: Uint8Array, previous = 0): number {
  let crc = ~previous;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ (TABLE[(crc ^ (bytes[i] ?? 0)) & 0xff] ?? 0);
  return (crc ^ 0xffffffff) >>> 0;
}

/** What is known of deflated bytes before they are inflated. */
export interface Deflated {
  /** The raw deflate stream (RFC 1951). */
  readonly range: ByteRange;
  /** How long the inflated bytes claim to be; checked against a limit by the caller. */
  readonly byteLength: number;
  /** What messages call them, such as `the zip record "data/0"`. */
  readonly subject: string;
  /** Looks at the CRC-32 of the inflated bytes once they were read to their end, and throws where it is wrong. */
  readonly check: (crc: number) => void;
}

/** Compressed bytes are fed in pieces of this size. */
const CHUNK_BYTES = 64 * 1024;

/** Inflated bytes come in pieces of this size. */
const INFLATED_CHUNK_BYTES = 256 * 1024;

/** So much of what was inflated last is held: a little way back costs nothing. What is smaller is inflated as a whole. */
const HELD_BYTES = 4 * 1024 * 1024;

/**
 * Inflated bytes that nobody asked for: those before and between the tensors of a record. To read one of 256 MB at
 * random costs all of it each time; a file whose tensors are that badly placed is refused after a second.
 */
const MAX_UNASKED_BYTES = 512 * 1024 * 1024;

/** One per file: of its deflated ranges, the one that was read last holds a window of what it inflated. */
export class InflatedKeeper extends Keeper {
  #unaskedBytes = 0;

  /**
   * Counts inflated bytes, less those that were asked for.
   *
   * @throws CheckpointError `limit-exceeded`
   */
  count(unaskedBytes: number, { range, subject }: Deflated): void {
    this.#unaskedBytes += unaskedBytes;
    if (this.#unaskedBytes <= MAX_UNASKED_BYTES) return;
    const expected = `expected to inflate at most ${MAX_UNASKED_BYTES} bytes on the way to what is read`;
    const hint = 'Zip the checkpoint again without compression: zip -0 -r';
    const details = { file: range.source.name, hint };
    throw new CheckpointError(`${expected}, found more with ${subject}`, {
      code: 'limit-exceeded',
      ...details,
    });
  }
}

/** Inflated bytes as a source, which tells where the deflated ones are. */
interface InflatedSource extends ByteSource {
  readonly deflated: Deflated;
}

/** Whether a source inflates what it reads. */
export function isInflated(source: ByteSource): source is InflatedSource {
  return 'deflated' in source;
}

/**
 * Deflated bytes as a source of inflated ones. They are inflated as they are read, from front to back; further back than
 * a window reaches, from the start again. Reading fails with `malformed` where the stream is broken, its length another
 * than it claims, or its check throws: it stops there, so that a bomb costs no more than it admits.
 */
export function inflatedSource(deflated: Deflated, keeper: InflatedKeeper): InflatedSource {
  return new Inflater(deflated, keeper);
}

class Inflater implements InflatedSource {
  readonly name: string;
  readonly byteLength: number;
  readonly deflated: Deflated;
  readonly computedFrom: ByteRange;
  readonly #keeper: InflatedKeeper;
  /** Reads are queued: there is one stream. */
  #queue: Promise<void> = Promise.resolve();
  #stream: AsyncIterator<Uint8Array> | null = null;
  /** The last inflated pieces; they begin at `#start` and end at `#end`, where the stream goes on. */
  #pieces: Uint8Array[] = [];
  #start = 0;
  #end = 0;
  #crc = 0;

  constructor(deflated: Deflated, keeper: InflatedKeeper) {
    this.name = deflated.range.source.name;
    this.byteLength = deflated.byteLength;
    this.deflated = deflated;
    this.computedFrom = deflated.range;
    this.#keeper = keeper;
  }

  async readInto(target: Uint8Array, position: number): Promise<void> {
    checkBounds(this, position, target.byteLength);
    const work = this.#queue.then(() => this.#fill(target, position));
    this.#queue = work.catch(this.#release);
    await work;
  }

  close(): Promise<void> {
    this.#release();
    return this.deflated.range.source.close();
  }

  readonly #release = (): void => {
    void this.#stream?.return?.();
    this.#stream = null;
    this.#pieces = [];
    this.#start = 0;
    this.#end = 0;
    this.#crc = 0;
  };

  async #fill(target: Uint8Array, position: number): Promise<void> {
    this.#keeper.take(this.#release);
    if (position < this.#start) this.#release();
    let at = this.#start;
    for (const piece of this.#pieces) {
      copyOverlap(piece, at, target, position);
      at += piece.byteLength;
    }
    const until = this.byteLength <= HELD_BYTES ? this.byteLength : position + target.byteLength;
    while (this.#end < until) {
      const start = this.#end;
      const piece = await this.#inflate();
      const asked = copyOverlap(piece, start, target, position);
      this.#keeper.count(piece.byteLength - asked, this.deflated);
    }
  }

  /** The next piece. The last one comes once nothing is found behind it, and the check of all has passed. */
  async #inflate(): Promise<Uint8Array> {
    const { byteLength, check, subject } = this.deflated;
    const piece = await this.#next();
    if (piece === null)
      throw this.#broken(`expected ${byteLength} bytes after inflating ${subject}, found ${this.#end}`);
    this.#crc = crc32(piece, this.#crc);
    this.#pieces.push(piece);
    this.#end += piece.byteLength;
    for (let held = this.#end - this.#start; held > HELD_BYTES; held = this.#end - this.#start)
      this.#start += this.#pieces.shift()?.byteLength ?? held;
    if (this.#end > byteLength || (this.#end === byteLength && (await this.#next()) !== null))
      throw this.#broken(`expected ${byteLength} bytes after inflating ${subject}, found more`);
    if (this.#end === byteLength) check(this.#crc);
    return piece;
  }

  /** What the stream yields; null at its end. */
  async #next(): Promise<Uint8Array | null> {
    this.#stream ??= openStream(this.deflated.range);
    try {
      const { done, value } = await this.#stream.next();
      return done === true ? null : value;
    } catch (error) {
      if (error instanceof CheckpointError) throw error;
      const { subject } = this.deflated;
      throw this.#broken(`expected a deflate stream in ${subject}, found bytes that do not inflate`, error);
    }
  }

  #broken(message: string, cause?: unknown): CheckpointError {
    const { source, offset } = this.deflated.range;
    return new CheckpointError(message, { code: 'malformed', file: source.name, offset, cause });
  }
}

/** @returns how many bytes of a piece that starts at `start` belong into the target, which is read from `position` on. */
function copyOverlap(piece: Uint8Array, start: number, target: Uint8Array, position: number): number {
  const from = Math.max(0, position - start);
  const to = Math.min(piece.byteLength, position + target.byteLength - start);
  if (from >= to) return 0;
  target.set(piece.subarray(from, to), start + from - position);
  return to - from;
}

function openStream(range: ByteRange): AsyncIterator<Uint8Array> {
  const inflater = createInflateRaw({ chunkSize: INFLATED_CHUNK_BYTES });
  // Whoever reads the inflater is told of errors by it.
  pipeline(readChunks(range), inflater, () => {});
  return inflater[Symbol.asyncIterator]();
}

async function* readChunks(range: ByteRange): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < range.byteLength; at += CHUNK_BYTES) {
    const chunk = new Uint8Array(Math.min(CHUNK_BYTES, range.byteLength - at));
    await range.source.readInto(chunk, range.offset + at);
    yield chunk;
  }
}
