// Hashes of tensors, by which a baseline knows them again, and of their pieces, by which a trace does.

import { createCipheriv, createHash, randomBytes } from 'node:crypto';
import type { ByteSource } from '../io/byte-source.js';
import { type ChannelLayout, type ChannelProjections, layOutChannels, Projector } from './channel-grid.js';
import type { ElementSpan, Tensor } from './checkpoint.js';
import { bitsOf, type DType, hasSignedZero, isDecodable, isFloatingPoint, toValues } from './dtype.js';

/** What one reading of a tensor tells, in place of its values. */
export interface TensorSummary {
  /** SHA-256 of the tensor's bytes, −0 read as 0; lower-case hexadecimal. */
  readonly sha256: string;
  /** Null where no layout was given, or the type holds no readable floats. */
  readonly projections: ChannelProjections | null;
  /** The elements at {@link sampledIndices}; null where the type holds no readable floats. */
  readonly sample: Uint8Array | null;
}

/**
 * So many elements of a tensor are kept. Any step of an optimizer changes nearly all, so that these tell rounding from
 * training as well as all would (256 values of 4 bytes: 55 kB for a ResNet-50).
 */
const SAMPLE_SIZE = 256;

/** Which elements of a tensor are its sample: evenly spread, all of a small one. */
export function sampledIndices(elementCount: number): readonly number[] {
  const size = Math.min(elementCount, SAMPLE_SIZE);
  return Array.from({ length: size }, (_, i) => Math.floor(((i + 0.5) * elementCount) / size));
}

const CHUNK_BYTES = 256 * 1024;

/** Reads tensors once, from front to back, through a buffer that is made once and reused. */
export class TensorSummarizer {
  readonly #buffer = new Uint8Array(CHUNK_BYTES);

  /**
   * Hashes a tensor and, where a layout is given, projects its output channels.
   *
   * The hash is over the little-endian, row-major bytes with every −0 of a floating-point type as +0: tensors of one
   * type and shape have one hash exactly when they are equal.
   *
   * @throws CheckpointError when the range cannot be read.
   */
  async summarize(tensor: Tensor, layout: ChannelLayout | null): Promise<TensorSummary> {
    const { dtype } = tensor;
    const hash = createHash('sha256');
    const projector = layout === null ? null : makeProjector(tensor, layout);
    const sampler = isDecodable(dtype) ? new Sampler(tensor) : null;
    await this.#forEachChunk(tensor, (bytes, start) => {
      if (isFloatingPoint(dtype) && hasSignedZero(dtype)) foldZeros(bytes, dtype);
      hash.update(bytes);
      sampler?.add(bytes, start);
      projector?.add(toValues(bytes, dtype), start);
    });
    return {
      sha256: hash.digest('hex'),
      projections: projector?.conclude() ?? null,
      sample: sampler?.bytes ?? null,
    };
  }

  /** Projects a tensor's output channels; null where its type holds no readable floats. */
  async project(tensor: Tensor, layout: ChannelLayout): Promise<ChannelProjections | null> {
    const projector = makeProjector(tensor, layout);
    if (projector === null) return null;
    await this.#forEachChunk(tensor, (bytes, start) => projector.add(toValues(bytes, tensor.dtype), start));
    return projector.conclude();
  }

  /** Reads a tensor piece by piece; `start` counts elements. */
  async #forEachChunk(
    { dtype, range }: Tensor,
    visit: (bytes: Uint8Array, start: number) => void,
  ): Promise<void> {
    for (let offset = 0; offset < range.byteLength; offset += CHUNK_BYTES) {
      const bytes = this.#buffer.subarray(0, Math.min(CHUNK_BYTES, range.byteLength - offset));
      await range.source.readInto(bytes, range.offset + offset);
      visit(bytes, (offset * 8) / bitsOf(dtype));
    }
  }
}

class Sampler {
  readonly bytes: Uint8Array;
  readonly #indices: readonly number[];
  readonly #elementBytes: number;
  #next = 0;

  constructor({ dtype, elementCount }: Tensor) {
    this.#indices = sampledIndices(elementCount);
    this.#elementBytes = bitsOf(dtype) / 8;
    // From Node's pool: tens of thousands of samples, most of them small, need no memory block each.
    this.bytes = Buffer.allocUnsafe(this.#indices.length * this.#elementBytes);
  }

  add(piece: Uint8Array, start: number): void {
    const size = this.#elementBytes;
    const end = start + piece.byteLength / size;
    for (let index = this.#indices[this.#next]; index !== undefined && index < end; ) {
      const from = (index - start) * size;
      for (let i = 0; i < size; i++) this.bytes[this.#next * size + i] = piece[from + i] as number;
      index = this.#indices[++this.#next];
    }
  }
}

function makeProjector({ dtype, shape }: Tensor, layout: ChannelLayout): Projector | null {
  return isDecodable(dtype) ? new Projector(layOutChannels(shape, layout)) : null;
}

/** Turns negative zeros, in place, into positive ones. */
function foldZeros(bytes: Uint8Array, dtype: DType): void {
  const { buffer, byteOffset, byteLength } = bytes;
  const elementBytes = dtype === 'C64' ? 4 : bitsOf(dtype) / 8;
  if (elementBytes === 8) {
    // float64: a zero word and then the sign alone.
    const words = new Int32Array(buffer, byteOffset, byteLength / 4);
    for (let i = 1; i < words.length; i += 2)
      if (words[i] === SIGN_OF_32_BITS && words[i - 1] === 0) words[i] = 0;
  } else if (elementBytes === 4)
    foldUnits(new Int32Array(buffer, byteOffset, byteLength / 4), SIGN_OF_32_BITS);
  else if (elementBytes === 2)
    foldUnits(new Uint16Array(buffer, byteOffset, byteLength / 2), SIGN_OF_16_BITS);
  else if (elementBytes === 1) foldUnits(bytes, 0x80);
}

/** Little-endian −0 as this machine reads it, whatever its own byte order is. */
const SIGN_OF_32_BITS = new Int32Array(Uint8Array.of(0, 0, 0, 0x80).buffer)[0] ?? 0;
const SIGN_OF_16_BITS = new Uint16Array(Uint8Array.of(0, 0x80, 0, 0).buffer)[0] ?? 0;

/** Negative zeros are rare: native code looks for each, which is several times quicker than a loop. */
function foldUnits(units: Int32Array | Uint16Array | Uint8Array, negativeZero: number): void {
  for (let i = units.indexOf(negativeZero); i >= 0; i = units.indexOf(negativeZero, i + 1)) units[i] = 0;
}

/**
 * Digests of pieces of tensors that were read, by which they are told to be equal without being read again: tags of
 * AES-GCM, several times quicker than SHA-256. Their key is made anew for each run and leaves it never, so that no file can
 * be made for it: that two pieces which differ have one tag has a chance of less than 2⁻¹⁰⁰, whatever they hold.
 */
export class PieceDigests {
  readonly #bySource = new WeakMap<ByteSource, Map<string, string>>();
  #key: Uint8Array | null = null;

  /** The digest of some elements of a tensor; `read` is asked for them where it is not known yet. */
  async find(
    { range: { source, offset }, dtype }: Tensor,
    { start, count }: ElementSpan,
    read: () => Promise<Uint8Array>,
  ): Promise<string> {
    const digests = this.#bySource.get(source) ?? new Map<string, string>();
    this.#bySource.set(source, digests);
    const place = `${offset} ${dtype} ${start} ${count}`;
    const digest = digests.get(place) ?? this.#digest(await read());
    digests.set(place, digest);
    return digest;
  }

  #digest(bytes: Uint8Array): string {
    this.#key ??= randomBytes(16);
    // Nobody sees the tags: one nonce will do for all.
    const cipher = createCipheriv('aes-128-gcm', this.#key, NONCE);
    cipher.setAAD(bytes).final();
    return cipher.getAuthTag().toString('latin1');
  }
}

const NONCE = new Uint8Array(12);
