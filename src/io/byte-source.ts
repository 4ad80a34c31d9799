import { CheckpointError } from '../errors.js';

/**
 * Bytes that can be read at any position: a file, a piece of memory, or a view that is computed as it is read
 * (a strided tensor, an inflated zip record). Everything above this file reads through it.
 */
export interface ByteSource {
  /** What messages call it: the file as the user named it, or that and the part of it. */
  readonly name: string;
  readonly byteLength: number;
  /**
   * Fills `target` with the bytes from `position` on.
   *
   * @throws CheckpointError `truncated` when `position + target.length` lies beyond the end; nothing is filled then.
   */
  readInto(target: Uint8Array, position: number): Promise<void>;
  /** Releases what the source holds. Reading afterwards fails. */
  close(): Promise<void>;
  /** What the source reads its bytes from, where they can be put back there; absent where it holds them itself. */
  readonly backing?: Backing;
  /** What the source computes its bytes from (inflated, repeated, converted), where they cannot be put back there. */
  readonly computedFrom?: ByteRange;
}

/** The bytes under a source that only presents them in another order. */
export interface Backing {
  /** Every byte that the source reads lies in here. */
  readonly range: ByteRange;
  /**
   * Where `bytes`, as many as the source has, must be written so that the source reads them. Pieces that overlap with
   * different bytes say that no such place exists.
   */
  readonly scatter: (bytes: Uint8Array) => readonly PlacedBytes[];
}

/** Bytes and where in a source they belong. */
export interface PlacedBytes {
  readonly source: ByteSource;
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Where in a source the bytes of a range belong, which are read only when they are written. */
export interface PlacedContent {
  readonly source: ByteSource;
  readonly offset: number;
  readonly content: ByteRange;
}

/**
 * Follows a range down to the sources that hold its bytes themselves, and says what has to stand there for the range to
 * read `content`. Read into memory only where a source on the way presents the bytes in another order.
 *
 * @returns null where a source on the way presents more than the range: then the answer would be a part of its own.
 */
export async function placeContent(
  range: ByteRange,
  content: ByteRange,
): Promise<readonly PlacedContent[] | null> {
  const { source, offset } = range;
  if (source.backing === undefined) return [{ source, offset, content }];
  const placed = placeBytes(range, await readRange(content));
  return placed?.map(({ bytes, ...place }) => ({ ...place, content: holdBytes(bytes) })) ?? null;
}

function placeBytes(range: ByteRange, bytes: Uint8Array): readonly PlacedBytes[] | null {
  const { source, offset, byteLength } = range;
  if (source.backing === undefined) return [{ source, offset, bytes }];
  if (offset !== 0 || byteLength !== source.byteLength) return null;
  const placed: PlacedBytes[] = [];
  for (const piece of source.backing.scatter(bytes)) {
    const deeper = placeBytes({ ...piece, byteLength: piece.bytes.byteLength }, piece.bytes);
    if (deeper === null) return null;
    placed.push(...deeper);
  }
  return placed;
}

/** The range of the holding source that encloses every byte of a range. */
export function enclosingRange(range: ByteRange): ByteRange {
  return range.source.backing === undefined ? range : enclosingRange(range.source.backing.range);
}

/** The bytes that everything in a range is made of, such as those of one number that a view repeats. */
export function storedRange(range: ByteRange): ByteRange {
  const below = range.source.backing?.range ?? range.source.computedFrom;
  return below === undefined ? range : storedRange(below);
}

/** A piece of a source: `byteLength` bytes from `offset` on. */
export interface ByteRange {
  readonly source: ByteSource;
  readonly offset: number;
  readonly byteLength: number;
}

/**
 * Reads a range into memory of its own. For small ranges only: the caller has checked `byteLength` against a limit.
 *
 * @throws CheckpointError as {@link ByteSource.readInto}.
 */
export async function readRange(range: ByteRange): Promise<Uint8Array> {
  const bytes = new Uint8Array(range.byteLength);
  await range.source.readInto(bytes, range.offset);
  return bytes;
}

/** Ranges that lie within so many bytes may be read by one read. */
const MAX_SPAN_BYTES = 256 * 1024;

/**
 * Reads ranges into memory, one after the other, as {@link readRange}; null where there is none. What stands together is
 * read together: one read takes them all if they lie within 256 KiB, and no more lies between them than they hold.
 */
export async function readRanges(
  ranges: readonly (ByteRange | null)[],
): Promise<readonly (Uint8Array | null)[]> {
  const span = findSpan(ranges);
  if (span === null) {
    const read: (Uint8Array | null)[] = [];
    for (const range of ranges) read.push(range === null ? null : await readRange(range));
    return read;
  }
  const bytes = await readRange(span);
  return ranges.map((range) =>
    range === null
      ? null
      : bytes.subarray(range.offset - span.offset, range.offset - span.offset + range.byteLength),
  );
}

/** The range that encloses some; null where they do not stand together. */
function findSpan(ranges: readonly (ByteRange | null)[]): ByteRange | null {
  let source: ByteSource | null = null;
  let [start, end, wanted] = [Number.MAX_SAFE_INTEGER, 0, 0];
  for (const range of ranges) {
    if (range === null) continue;
    source ??= range.source;
    if (range.source !== source) return null;
    start = Math.min(start, range.offset);
    end = Math.max(end, range.offset + range.byteLength);
    wanted += range.byteLength;
  }
  const isDense = end - start <= Math.min(MAX_SPAN_BYTES, 2 * wanted);
  return source === null || !isDense ? null : { source, offset: start, byteLength: end - start };
}

/** Bytes that are in memory already, as a range. `bytes` is not copied. */
export function holdBytes(bytes: Uint8Array): ByteRange {
  return { source: memorySource('memory', bytes), offset: 0, byteLength: bytes.byteLength };
}

/** Bytes `start` up to `end` of a range. */
export function sliceRange({ source, offset }: ByteRange, start: number, end: number): ByteRange {
  return { source, offset: offset + start, byteLength: end - start };
}

/** Two ranges are compared in pieces of this size; the first is small, since what differs does so at its start. */
const COMPARED_BYTES = 64 * 1024;
const FIRST_COMPARED_BYTES = 4 * 1024;

/** Whether two ranges hold the same bytes. Reads no further than the first piece that differs. */
export async function haveSameBytes(one: ByteRange, other: ByteRange): Promise<boolean> {
  const { byteLength } = one;
  if (byteLength !== other.byteLength) return false;
  if (one.source === other.source && one.offset === other.offset) return true;
  for (let start = 0, end = 0; start < byteLength; start = end) {
    end = Math.min(byteLength, start + (start === 0 ? FIRST_COMPARED_BYTES : COMPARED_BYTES));
    const left = await readRange(sliceRange(one, start, end));
    const right = await readRange(sliceRange(other, start, end));
    if (Buffer.compare(left, right) !== 0) return false;
  }
  return true;
}

/**
 * Checks a read against the end of its source.
 *
 * @throws CheckpointError `truncated`
 */
export function checkBounds(
  source: Pick<ByteSource, 'name' | 'byteLength'>,
  position: number,
  length: number,
): void {
  if (!Number.isSafeInteger(position) || position < 0 || position + length > source.byteLength) {
    throw new CheckpointError(
      `expected ${length} bytes, found the end of the file at byte ${source.byteLength}`,
      {
        code: 'truncated',
        file: source.name,
        offset: position,
      },
    );
  }
}

/** A source over bytes that are in memory already. `bytes` is not copied. */
export function memorySource(name: string, bytes: Uint8Array): ByteSource {
  const source: ByteSource = {
    name,
    byteLength: bytes.byteLength,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      target.set(bytes.subarray(position, position + target.byteLength));
    },
    async close() {},
  };
  return source;
}
