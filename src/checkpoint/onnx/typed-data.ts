import { CheckpointError } from '../../errors.js';
import { BufferedReader } from '../../io/buffered-reader.js';
import { type ByteSource, checkBounds, readRange } from '../../io/byte-source.js';
import type { Segment } from './model.js';
import { MAX_VARINT_BYTES, readVarint, type Varint } from './wire.js';

/** How many bytes of tagged values are read at a time. */
const CHUNK_BYTES = 64 * 1024;

/** Values in a typed field of TensorProto (float_data, int32_data, …) or AttributeProto (floats, ints). */
export interface TypedData {
  /** What messages call the values: the tensor or attribute. */
  readonly what: string;
  readonly file: ByteSource;
  readonly segments: readonly Segment[];
  /** Bytes of one value in the view: 4 for float_data, the element's own width for varints. */
  readonly unitBytes: number;
  readonly unitCount: number;
}

/** How many fixed-width values the segments hold; a fraction where a packed run is ragged. */
export function countFixedUnits(segments: readonly Segment[], unitBytes: number): number {
  return segments.reduce(
    (count, segment) => count + segment.byteLength / (segment.form === 'tagged' ? segment.stride : unitBytes),
    0,
  );
}

/** A view that reads fixed-width values as if they stood one behind the other. */
export function fixedUnitsSource(data: TypedData): ByteSource {
  const source: ByteSource = {
    name: data.file.name,
    byteLength: data.unitBytes * data.unitCount,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      await readFixedUnits(data, target, position);
    },
    async close() {},
  };
  return source;
}

async function readFixedUnits(data: TypedData, target: Uint8Array, position: number): Promise<void> {
  let segmentStart = 0;
  let filled = 0;
  for (const segment of data.segments) {
    const isTagged = segment.form === 'tagged';
    const byteLength = isTagged ? (segment.byteLength / segment.stride) * data.unitBytes : segment.byteLength;
    const skipped = position + filled - segmentStart;
    if (filled < target.byteLength && skipped < byteLength) {
      const part = target.subarray(filled, Math.min(target.byteLength, filled + byteLength - skipped));
      if (isTagged) await readTaggedUnits(data, segment, part, skipped);
      else await data.file.readInto(part, segment.offset + skipped);
      filled += part.byteLength;
    }
    segmentStart += byteLength;
  }
}

/** Each value stands at the end of its stride, behind its tag. */
async function readTaggedUnits(
  data: TypedData,
  segment: Segment,
  target: Uint8Array,
  skipped: number,
): Promise<void> {
  const { unitBytes } = data;
  const { stride } = segment;
  const chunk = new Uint8Array(
    Math.min(segment.byteLength, Math.max(stride, CHUNK_BYTES - (CHUNK_BYTES % stride))),
  );
  let filled = 0;
  while (filled < target.byteLength) {
    const unit = Math.floor((skipped + filled) / unitBytes);
    const bytes = chunk.subarray(0, Math.min(chunk.byteLength, segment.byteLength - unit * stride));
    await data.file.readInto(bytes, segment.offset + unit * stride);
    for (let at = 0; at < bytes.byteLength && filled < target.byteLength; at += stride) {
      const within = (skipped + filled) % unitBytes;
      const value = bytes.subarray(at + stride - unitBytes + within, at + stride);
      const part = value.subarray(0, target.byteLength - filled);
      target.set(part, filled);
      filled += part.byteLength;
    }
  }
}

/** Counts the varints of segments by their last bytes; the caller has checked the size. A tag is a varint too. */
export async function countVarints(file: ByteSource, segments: readonly Segment[]): Promise<number> {
  let count = 0;
  for (const segment of segments) {
    const bytes = await readRange({ source: file, offset: segment.offset, byteLength: segment.byteLength });
    const ends = bytes.reduce((sum, byte) => (byte < 0x80 ? sum + 1 : sum), 0);
    count += segment.form === 'tagged' ? ends / 2 : ends;
  }
  return count;
}

/**
 * A view that decodes varints to little-endian values of `unitBytes`; higher bits are dropped, so that a negative
 * half or byte may stand sign-extended in ten bytes (onnx.proto: int32_data).
 */
export function varintUnitsSource(data: TypedData): ByteSource {
  return new VarintUnits(data);
}

/**
 * Decodes forwards only, because a varint's length is known when it is read; reading backwards starts again.
 * Reads are queued, so that two may be asked for at once.
 */
class VarintUnits implements ByteSource {
  readonly name: string;
  readonly byteLength: number;
  readonly #data: TypedData;
  readonly #varint: Varint = { low: 0, high: 0 };
  #queue: Promise<void> = Promise.resolve();
  #reader: BufferedReader;
  #segmentIndex = 0;
  #nextUnit = 0;

  constructor(data: TypedData) {
    this.name = data.file.name;
    this.byteLength = data.unitBytes * data.unitCount;
    this.#data = data;
    this.#reader = this.#readerOf(0);
  }

  async readInto(target: Uint8Array, position: number): Promise<void> {
    checkBounds(this, position, target.byteLength);
    const work = this.#queue.then(() => this.#decodeInto(target, position));
    this.#queue = work.catch(() => {});
    await work;
  }

  async close(): Promise<void> {}

  async #decodeInto(target: Uint8Array, position: number): Promise<void> {
    const { unitBytes, unitCount } = this.#data;
    const firstUnit = Math.floor(position / unitBytes);
    if (firstUnit < this.#nextUnit) this.#restart();
    const endUnit = Math.ceil((position + target.byteLength) / unitBytes);
    const unit = new Uint8Array(8);
    const view = new DataView(unit.buffer);
    while (this.#nextUnit < endUnit) {
      await this.#readUnit();
      view.setUint32(0, this.#varint.low, true);
      view.setUint32(4, this.#varint.high, true);
      const at = this.#nextUnit * unitBytes - position;
      this.#nextUnit++;
      if (at + unitBytes <= 0) continue;
      const from = Math.max(0, -at);
      const to = Math.min(unitBytes, target.byteLength - at);
      target.set(unit.subarray(from, to), at + from);
    }
    if (endUnit === unitCount) {
      this.#checkEnd();
      // Gives the window back: a model may have hundreds of such tensors.
      this.#restart();
    }
  }

  async #readUnit(): Promise<void> {
    let segment = this.#data.segments[this.#segmentIndex];
    while (segment !== undefined && this.#reader.position >= segment.offset + segment.byteLength) {
      this.#segmentIndex++;
      segment = this.#data.segments[this.#segmentIndex];
      if (segment !== undefined) this.#reader = this.#readerOf(this.#segmentIndex);
    }
    if (segment === undefined) throw this.#countError(`${this.#nextUnit}`);
    if (!this.#reader.has(2 * MAX_VARINT_BYTES)) await this.#reader.fill(2 * MAX_VARINT_BYTES);
    if (segment.form === 'tagged') readVarint(this.#reader, this.#varint);
    readVarint(this.#reader, this.#varint);
    if (this.#reader.position > segment.offset + segment.byteLength)
      throw this.#countError('one that is cut off');
  }

  #checkEnd(): void {
    const left = this.#data.segments.slice(this.#segmentIndex);
    const hasMore = left.some((segment, i) => {
      const at = i === 0 ? this.#reader.position : segment.offset;
      return at < segment.offset + segment.byteLength;
    });
    if (hasMore) throw this.#countError('more');
  }

  #restart(): void {
    this.#segmentIndex = 0;
    this.#nextUnit = 0;
    this.#reader = this.#readerOf(0);
  }

  #readerOf(segmentIndex: number): BufferedReader {
    const { offset, byteLength } = this.#data.segments[segmentIndex] ?? { offset: 0, byteLength: 0 };
    return new BufferedReader(this.#data.file, offset, offset + byteLength);
  }

  #countError(found: string): CheckpointError {
    const { what, unitCount, segments, file } = this.#data;
    const message = `${what}: expected ${unitCount} values for its shape, found ${found}`;
    return new CheckpointError(message, { code: 'malformed', file: file.name, offset: segments[0]?.offset });
  }
}
