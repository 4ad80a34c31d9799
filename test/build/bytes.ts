/** The UTF-8 bytes of a text. */
export function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Pieces one after the other: bytes as they are, texts as UTF-8, numbers as single bytes. */
export function bytesOf(...pieces: readonly (Uint8Array | string | number)[]): Uint8Array {
  const toBytes = (piece: Uint8Array | string | number) =>
    typeof piece === 'number' ? Uint8Array.of(piece) : typeof piece === 'string' ? utf8(piece) : piece;
  return Uint8Array.from(Buffer.concat(pieces.map(toBytes)));
}

/** A little-endian unsigned 64-bit integer. */
export function u64(value: number | bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

/** Little-endian signed 64-bit integers. */
export function i64(...values: readonly (number | bigint)[]): Uint8Array {
  return new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
}

/** Little-endian binary32 values. */
export function f32(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}

/** Little-endian binary64 values. */
export function f64(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Float64Array.from(values).buffer);
}
