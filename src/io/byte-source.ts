// A byte source is anything that has a length and gives the bytes of a range: a file, memory, or a view of another.

import { basename, posix } from 'node:path';
import { CheckpointError } from '../errors.js';

/** Told after each tensor: how many bytes of how many in all were dealt with. */
export type OnProgress = (progress: { readonly done: number; readonly total: number }) => void;

/**
 * Bytes that can be read at any position: a file, a piece of memory, or a view that is computed as it is read
 * (a strided tensor, an inflated zip record). Everything above this file reads through it.
 */
export interface ByteSource {
  /** What messages call it: the file as the user named it, or that and the part of it. */
  readonly name: string;
  readonly byteLength: number;
  /** Where it is, for a file of this machine. */
  readonly path?: string | undefined;
  /** Where it is on its server, with forward slashes, for a file that is read over the network. */
  readonly remotePath?: string | undefined;
  /**
   * Fills `target` with the bytes from `position` on.
   *
   * @throws CheckpointError `truncated` when `position + target.length` lies beyond the end; nothing is filled then.
   */
  readInto(target: Uint8Array, position: number): Promise<void>;
  /** Releases what the source holds. Reading afterwards fails. */
  close(): Promise<void>;
  /** Told which ranges will be read, where it is quicker to fetch them together than each when it is asked for. */
  readonly expect?: ((ranges: readonly ByteRange[]) => void) | undefined;
  /** Has the source keep what small reads give from here on, so that none is done twice: it will be compared with several. */
  readonly keepSmallReads?: (() => void) | undefined;
  /** Throws where a file is another one than when it was opened. Over the network every answer is held against the first. */
  readonly refuseChanged?: (() => void) | undefined;
  /** Opens a file beside it by its name, where it is no file of this machine. The name was checked. */
  readonly openBeside?: ((name: string) => Promise<ByteSource>) | undefined;
  /** What the source reads its bytes from, where they can be put back there; absent where it holds them itself. */
  readonly backing?: Backing;
  /** What the source computes its bytes from (inflated, repeated, converted), where they cannot be put back there. */
  readonly computedFrom?: ByteRange;
  /** What the source reads its bytes from, where these are many places. */
  readonly assembledFrom?: readonly ByteRange[];
}

/** What a file is called where it lies, without its directory. */
export function fileNameOf({
  path,
  remotePath,
  name,
}: Pick<ByteSource, 'path' | 'remotePath' | 'name'>): string {
  return remotePath === undefined ? basename(path ?? name) : posix.basename(remotePath);
}

/** What a source shows in another order, e.g. the part of a file that holds a tensor transposed. */
interface Backing {
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
function storedRanges(range: ByteRange): readonly ByteRange[] {
  const { backing, computedFrom, assembledFrom } = range.source;
  const below = backing?.range ?? computedFrom;
  return below === undefined ? (assembledFrom?.flatMap(storedRanges) ?? [range]) : storedRanges(below);
}

/** What some ranges are read from in the end, such as the file that a tensor is stored in transposed. */
export function listSources(ranges: readonly ByteRange[]): ReadonlySet<ByteSource> {
  return new Set(ranges.flatMap(storedRanges).map(({ source }) => source));
}

/** Of a layer's vectors, and the first piece of a weight. */
const SMALL_READ_BYTES = 16 * 1024;

/** What is kept of one source; a ResNet-50 takes 1.5 MB. More is read again. */
const MAX_KEPT_BYTES = 16 * 1024 * 1024;

/** What keeping a read takes beside its bytes. */
const ENTRY_BYTES = 200;

/** Reads such as of a number, which have no room of their own. */
const TINY_BYTES = 64;

/** Room for small reads, which is lent to one source after the other: anew for each, it would pile up as garbage. */
const SLAB_BYTES = 64 * 1024;
const idleSlabs: Uint8Array[] = [];
const MAX_IDLE_SLABS = 64;

/** What small reads of a source gave. */
export class SmallReads {
  readonly #kept = new Map<number, Uint8Array>();
  readonly #slabs: Uint8Array[] = [];
  #room: Uint8Array = new Uint8Array(0);
  #left = MAX_KEPT_BYTES;

  /** @returns false where not all of that was read from there before. */
  fill(target: Uint8Array, position: number): boolean {
    const kept = this.#kept.get(position);
    if (kept === undefined || kept.byteLength < target.byteLength) return false;
    target.set(kept.subarray(0, target.byteLength));
    return true;
  }

  keep(bytes: Uint8Array, position: number): void {
    const { byteLength } = bytes;
    const left = this.#left - byteLength - ENTRY_BYTES;
    if (byteLength > SMALL_READ_BYTES || left < 0) return;
    this.#left = left;
    this.#kept.set(position, byteLength > TINY_BYTES ? this.#place(bytes) : Buffer.from(bytes));
  }

  release(): void {
    idleSlabs.push(...this.#slabs.splice(0, MAX_IDLE_SLABS - idleSlabs.length));
    this.#kept.clear();
  }

  #place(bytes: Uint8Array): Uint8Array {
    if (this.#room.byteLength < bytes.byteLength) {
      this.#room = idleSlabs.pop() ?? new Uint8Array(SLAB_BYTES);
      this.#slabs.push(this.#room);
    }
    const kept = this.#room.subarray(0, bytes.byteLength);
    this.#room = this.#room.subarray(bytes.byteLength);
    kept.set(bytes);
    return kept;
  }
}

/** Tells the sources under some ranges that these will be read. */
export function expectRanges(ranges: readonly ByteRange[]): void {
  const bySource = new Map<ByteSource, ByteRange[]>();
  for (const stored of ranges.flatMap(storedRanges)) {
    if (stored.source.expect === undefined) continue;
    const ofSource = bySource.get(stored.source);
    if (ofSource === undefined) bySource.set(stored.source, [stored]);
    else ofSource.push(stored);
  }
  for (const [source, ofSource] of bySource) source.expect?.(ofSource);
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

/** Everything that a source has, as a range. */
export function wholeOf(source: ByteSource): ByteRange {
  return { source, offset: 0, byteLength: source.byteLength };
}

/** Bytes that are in memory already, as a range. `bytes` is not copied. */
export function holdBytes(bytes: Uint8Array): ByteRange {
  return wholeOf(memorySource('memory', bytes));
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
    const message = `expected ${length} bytes, found the end of the file at byte ${source.byteLength}`;
    throw new CheckpointError(message, { code: 'truncated', file: source.name, offset: position });
  }
}

/** Does some work on what is held, which stays open unless the work fails. */
export async function orClose<Result>(
  held: { close(): Promise<void> },
  work: () => Promise<Result>,
): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    await held.close();
    throw error;
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

/** How many items of a sorted list lie before a point, those that `isBefore` holds for: a binary search. */
export function partitionPoint<Item>(items: readonly Item[], isBefore: (item: Item) => boolean): number {
  let [low, high] = [0, items.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (isBefore(items[middle] as Item)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Ranges one after the other as one range, read only when it is. The caller closes what they read from. What is joined of
 * one range that is computed is so, too.
 */
export function joinRanges(name: string, parts: readonly ByteRange[]): ByteRange {
  const [first] = parts;
  const isComputed = parts.length === 1 && first?.source.computedFrom !== undefined;
  let byteLength = 0;
  const ends = parts.map((range) => {
    byteLength += range.byteLength;
    return byteLength;
  });
  const source: ByteSource = {
    name,
    byteLength,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      let index = partitionPoint(ends, (end) => end <= position);
      for (let done = 0; done < target.byteLength; index++) {
        const [range, end] = [parts[index], ends[index]];
        if (range === undefined || end === undefined)
          throw new Error('joined ranges end before their length');
        const skipped = position + done - (end - range.byteLength);
        const part = target.subarray(done, done + range.byteLength - skipped);
        await range.source.readInto(part, range.offset + skipped);
        done += part.byteLength;
      }
    },
    async close() {},
    ...(isComputed ? { computedFrom: first } : {}),
  };
  return wholeOf(source);
}

/** A piece of a file that other bytes take the place of; as many bytes where the file keeps its size. */
export interface Splice {
  readonly offset: number;
  readonly deleted: number;
  readonly content: ByteRange;
}

/** Everything that a range consists of once splices, by offset in its source and disjoint, are in it. */
export function listSpliced(
  { source, offset, byteLength }: ByteRange,
  splices: readonly Splice[],
): ByteRange[] {
  const parts: ByteRange[] = [];
  let kept = offset;
  for (const splice of splices) {
    parts.push({ source, offset: kept, byteLength: splice.offset - kept }, splice.content);
    kept = splice.offset + splice.deleted;
  }
  return [...parts, { source, offset: kept, byteLength: offset + byteLength - kept }];
}

/**
 * A map by pieces of sources: two ranges of the same bytes of one source are one key, whoever made them, unless they are
 * told to be read as something else. E.g. all empty tensors may lie in one place.
 */
export class RangeMap<Value> {
  readonly #bySource = new Map<ByteSource, Map<string, { range: ByteRange; value: Value }>>();

  get(range: ByteRange, readAs = ''): Value | undefined {
    return this.#bySource.get(range.source)?.get(keyOf(range, readAs))?.value;
  }

  has(range: ByteRange, readAs = ''): boolean {
    return this.#bySource.get(range.source)?.has(keyOf(range, readAs)) === true;
  }

  set(range: ByteRange, value: Value, readAs = ''): void {
    const key = keyOf(range, readAs);
    const inSource = this.#bySource.get(range.source);
    if (inSource === undefined) this.#bySource.set(range.source, new Map([[key, { range, value }]]));
    else inSource.set(key, { range: inSource.get(key)?.range ?? range, value });
  }

  /** Sources in the order in which they turned up; within each, ranges by their offset. */
  inFileOrder(): readonly Value[] {
    return [...this.#bySource.values()].flatMap((inSource) =>
      [...inSource.values()].sort((x, y) => x.range.offset - y.range.offset).map(({ value }) => value),
    );
  }
}

function keyOf({ offset, byteLength }: ByteRange, readAs: string): string {
  return `${offset}+${byteLength} ${readAs}`;
}

/** Something to be done with bytes of a file. */
export interface FileWork {
  /** Where it begins to read; null where it has nothing to read. */
  readonly range: ByteRange | null;
  readonly run: () => Promise<void>;
}

/**
 * Does work after work in the order of where they begin to read, so that a file is read from front to back; one file
 * after the other, in the order in which the works first name them. What reads nothing comes first.
 *
 * @throws what a work throws; those behind it are not done then.
 */
export async function runInFileOrder(works: readonly FileWork[]): Promise<void> {
  const ranks = new Map<unknown, number>();
  for (const { range } of works)
    if (range !== null && !ranks.has(range.source)) ranks.set(range.source, ranks.size);
  const rankOf = ({ range }: FileWork) => (range === null ? -1 : (ranks.get(range.source) ?? 0));
  const offsetOf = ({ range }: FileWork) => range?.offset ?? 0;
  const sorted = [...works].sort((x, y) => rankOf(x) - rankOf(y) || offsetOf(x) - offsetOf(y));
  for (const { run } of sorted) await run();
}

/**
 * How many times the bytes that a file stores may be read as tensors. Layers that are used again are read for each of
 * their names, up to a dozen in models in use; expanded and deflated tensors may claim any size.
 */
const MAX_AMPLIFICATION = 16;

/** What may be read however little is stored: small tensors that are expanded, or deflate to next to nothing. */
const FREE_BYTES = 16 * 1024 * 1024;

/**
 * Checks, before they are read, that ranges do not claim far more bytes than there are under them: the work on a file,
 * and what is written about it, stays in proportion to its size.
 *
 * @param claimed the bytes that are to be read or written for the ranges, where these are not their own.
 * @throws CheckpointError `limit-exceeded`
 */
export function refuseAmplified(
  ranges: readonly ByteRange[],
  file: string,
  claimed = ranges.reduce((sum, { byteLength }) => sum + byteLength, 0),
): void {
  if (claimed <= FREE_BYTES) return;
  const stored = countStored(ranges.flatMap(storedRanges));
  if (claimed <= FREE_BYTES + MAX_AMPLIFICATION * stored) return;
  const limit = `at most ${MAX_AMPLIFICATION} times the ${stored} bytes that are stored for them`;
  const hint =
    'They are expanded, overlap or are compressed: save them with .clone(), in a file without compression.';
  const message = `expected tensors and records of ${limit}, found ${claimed} bytes`;
  throw new CheckpointError(message, { code: 'limit-exceeded', file, hint });
}

/** How many bytes lie in at least one of some ranges. */
function countStored(ranges: readonly ByteRange[]): number {
  const ends = new Map<ByteSource, number>();
  let count = 0;
  for (const { source, offset, byteLength } of [...ranges].sort((x, y) => x.offset - y.offset)) {
    const [end, from] = [offset + byteLength, Math.max(offset, ends.get(source) ?? 0)];
    if (end <= from) continue;
    count += end - from;
    ends.set(source, end);
  }
  return count;
}
