// The wire format of protobuf: varints, tags, and fields of known length.

import { CheckpointError } from '../../errors.js';
import type { BufferedReader } from '../../io/cursor.js';

// The protobuf wire format: https://protobuf.dev/programming-guides/encoding/

/** How a field's value is written; the low three bits of its tag. */
export const WIRE_VARINT = 0;
export const WIRE_FIXED64 = 1;
export const WIRE_LENGTH = 2;
export const WIRE_GROUP_START = 3;
export const WIRE_GROUP_END = 4;
export const WIRE_FIXED32 = 5;

/** A 64-bit value in groups of seven bits takes ten bytes; the format forbids an eleventh. */
export const MAX_VARINT_BYTES = 10;

/** A varint's 64 bits as two unsigned halves; reused, because one is read for every field of the file. */
export interface Varint {
  low: number;
  high: number;
}

/**
 * Reads a varint; bits beyond the 64th are dropped, as the reference implementation does.
 *
 * @param reader holds {@link MAX_VARINT_BYTES}, or all that are left, in its window.
 * @throws CheckpointError `truncated` at the end of the file, `malformed` after ten bytes without an end.
 */
export function readVarint(reader: BufferedReader, into: Varint): void {
  const first = reader.readByte();
  into.low = first;
  into.high = 0;
  if (first >= 0x80) readLongVarint(reader, into);
}

/** Reads on where a varint's first byte, which `into` holds, is not its last. */
function readLongVarint(reader: BufferedReader, into: Varint): void {
  const start = reader.position - 1;
  into.low &= 0x7f;
  for (let i = 1; i < MAX_VARINT_BYTES; i++) {
    const byte = reader.readByte();
    const bits = byte & 0x7f;
    const shift = 7 * i;
    if (shift < 28) into.low |= bits << shift;
    else if (shift === 28) {
      into.low |= bits << 28;
      into.high |= bits >>> 4;
    } else into.high |= bits << (shift - 32);
    if (byte < 0x80) {
      into.low >>>= 0;
      into.high >>>= 0;
      return;
    }
  }
  throw new CheckpointError('expected a varint of at most 10 bytes, found a longer one: malformed protobuf', {
    code: 'malformed',
    file: reader.source.name,
    offset: start,
  });
}

/** A number as a varint. */
export function encodeVarint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
  return Uint8Array.of(...bytes, rest);
}

/** The tag and the length that stand before the content of a length-delimited field. */
export function encodeFieldHead(field: number, byteLength: number): Uint8Array {
  return Uint8Array.of(...encodeVarint(field * 8 + WIRE_LENGTH), ...encodeVarint(byteLength));
}

/** A varint as an unsigned number: exact below 2^53, rounded above, where every use has a smaller limit. */
export function unsignedOf(varint: Varint): number {
  return varint.high === 0 ? varint.low : varint.high * 2 ** 32 + varint.low;
}

/** A varint as an int64. */
export function signedOf(varint: Varint): bigint {
  return BigInt.asIntN(64, bigUnsignedOf(varint));
}

/** A varint as an int32: higher bits are cut, as the reference implementation does. */
export function signed32Of({ low }: Varint): number {
  return low | 0;
}

/** The low half as the bits of a float32. */
export function float32Of({ low }: Varint): number {
  return new Float32Array(Uint32Array.of(low).buffer)[0] ?? 0;
}

/** A varint as an unsigned bigint, exact. */
export function bigUnsignedOf(varint: Varint): bigint {
  return (BigInt(varint.high) << 32n) | BigInt(varint.low);
}

/** A field's number and wire type. */
export interface Tag {
  readonly field: number;
  readonly wire: number;
}

/**
 * Takes a tag apart: a 32-bit varint whose low three bits are the wire type.
 *
 * @param offset where the tag stands.
 * @throws CheckpointError `malformed` for field number 0, one that is too large, and the wire types 6 and 7.
 */
export function parseTag(varint: Varint, reader: BufferedReader, offset: number): Tag {
  const wire = varint.low & 7;
  const field = varint.low >>> 3;
  if (field === 0 || wire > WIRE_FIXED32 || varint.high !== 0) {
    const found =
      wire > WIRE_FIXED32 ? `wire type ${wire}` : `field number ${(unsignedOf(varint) - wire) / 8}`;
    throw new CheckpointError(`expected a protobuf field, found ${found}, which does not exist`, {
      code: 'malformed',
      file: reader.source.name,
      offset,
    });
  }
  return { field, wire };
}
