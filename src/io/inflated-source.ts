import { pipeline } from 'node:stream/promises';
import { createInflateRaw } from 'node:zlib';
import { CheckpointError } from '../errors.js';
import { type ByteRange, type ByteSource, checkBounds } from './byte-source.js';

/** What is known of deflated bytes before they are inflated. */
export interface Deflated {
  /** The raw deflate stream (RFC 1951). */
  readonly range: ByteRange;
  /** How long the inflated bytes claim to be; checked against a limit by the caller. */
  readonly byteLength: number;
  /** What messages call them, such as `the zip record "data/0"`. */
  readonly subject: string;
  /** Looks at the inflated bytes as a whole before anyone reads them, and throws where they are wrong. */
  readonly check: (bytes: Uint8Array) => void;
}

/** Compressed bytes are fed in pieces of this size. */
const CHUNK_BYTES = 64 * 1024;

/**
 * Holds the inflated bytes of whichever deflated range was read last. One keeper per file: records are read one after
 * the other, so that memory stays at the largest record instead of the sum of all.
 */
export class InflatedKeeper {
  #key: Deflated | null = null;
  #bytes: Promise<Uint8Array> | null = null;

  /** The inflated bytes; inflates unless they are the ones that are held. */
  inflated(deflated: Deflated): Promise<Uint8Array> {
    if (this.#key !== deflated || this.#bytes === null) {
      this.#key = deflated;
      this.#bytes = inflate(deflated);
    }
    return this.#bytes;
  }
}

/** Inflated bytes as a source, which tells where the deflated ones are. */
export interface InflatedSource extends ByteSource {
  readonly deflated: Deflated;
}

/** Whether a source inflates what it reads. */
export function isInflated(source: ByteSource): source is InflatedSource {
  return 'deflated' in source;
}

/** Deflated bytes as a source of inflated ones. They are inflated as a whole when they are first read. */
export function inflatedSource(deflated: Deflated, keeper: InflatedKeeper): InflatedSource {
  const source: InflatedSource = {
    name: deflated.range.source.name,
    byteLength: deflated.byteLength,
    deflated,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      const bytes = await keeper.inflated(deflated);
      target.set(bytes.subarray(position, position + target.byteLength));
    },
    close: () => deflated.range.source.close(),
  };
  return source;
}

/**
 * Inflates a raw deflate stream to exactly the length that it claims.
 *
 * @throws CheckpointError `malformed` when the stream is broken or its length another; it stops at the claimed length,
 * so that a bomb costs no more than it admits.
 */
export async function inflate(deflated: Deflated): Promise<Uint8Array> {
  const bytes = new Uint8Array(deflated.byteLength);
  let filled = 0;
  const fill = async (chunks: AsyncIterable<Uint8Array>) => {
    for await (const chunk of chunks) {
      if (filled + chunk.length > bytes.length) {
        throw broken(
          deflated,
          `expected ${bytes.length} bytes after inflating ${deflated.subject}, found more`,
        );
      }
      bytes.set(chunk, filled);
      filled += chunk.length;
    }
  };
  try {
    await pipeline(readChunks(deflated.range), createInflateRaw(), fill);
  } catch (error) {
    if (error instanceof CheckpointError) throw error;
    throw broken(
      deflated,
      `expected a deflate stream in ${deflated.subject}, found bytes that do not inflate`,
      error,
    );
  }
  if (filled < bytes.length) {
    throw broken(
      deflated,
      `expected ${bytes.length} bytes after inflating ${deflated.subject}, found ${filled}`,
    );
  }
  deflated.check(bytes);
  return bytes;
}

async function* readChunks(range: ByteRange): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < range.byteLength; at += CHUNK_BYTES) {
    const chunk = new Uint8Array(Math.min(CHUNK_BYTES, range.byteLength - at));
    await range.source.readInto(chunk, range.offset + at);
    yield chunk;
  }
}

function broken({ range }: Deflated, message: string, cause?: unknown): CheckpointError {
  return new CheckpointError(message, {
    code: 'malformed',
    file: range.source.name,
    offset: range.offset,
    cause,
  });
}
