// Knows files of Flax, Darknet, NumPy and HDF5 by their first bytes, without loading what reads them.

/** Behind a map's header: a text of up to 31 bytes (its length in the low bits), or of up to 255 or 65,535. */
const isTextHead = (byte: number | undefined) =>
  byte !== undefined && ((byte > 0xa0 && byte <= 0xbf) || byte === 0xd9 || byte === 0xda);

/**
 * Whether a file begins as msgpack of Flax does: a map that is not empty, whose first key is a name in ASCII. Pickles begin
 * with 0x80, which msgpack has for the empty map.
 */
export function looksLikeFlax(head: Uint8Array): boolean {
  const first = head[0] ?? 0;
  const at = first > 0x80 && first <= 0x8f ? 1 : first === 0xde ? 3 : first === 0xdf ? 5 : 0;
  const text = head[at] ?? 0;
  if (at === 0 || !isTextHead(text)) return false;
  const from = at + (text === 0xd9 ? 2 : text === 0xda ? 3 : 1);
  const length =
    text <= 0xbf ? text & 0x1f : (head[from - 1] ?? 0) + (text === 0xda ? 256 * (head[at + 1] ?? 0) : 0);
  const key = head.subarray(from, from + length);
  return key.length > 0 && key.every((byte) => byte >= 0x20 && byte < 0x7f);
}

/** Darknet's header; its weights begin at byte 16 or 20. */
const DARKNET_HEADER_BYTES = 20;

/**
 * Whether a file begins as weights of Darknet do: version 0.1.x or 0.2.x as three int32, and how many images were seen,
 * which float32 values follow.
 */
export function looksLikeDarknet(head: Uint8Array): boolean {
  if (head.byteLength < DARKNET_HEADER_BYTES) return false;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const [major, minor, revision] = [0, 4, 8].map((at) => view.getUint32(at, true));
  return major === 0 && (minor === 1 || minor === 2) && revision !== undefined && revision < 10;
}

/** The bytes that an HDF5 file begins with. */
export const HDF5_SIGNATURE = '\x89HDF\r\n\x1a\n';

/** The bytes that an .npy array begins with. */
export const NPY_SIGNATURE = '\x93NUMPY';

/** Whether the bytes of a signature, one for each character, stand at a place. */
export function startsWith(head: Uint8Array, signature: string, at = 0): boolean {
  return [...signature].every((character, index) => head[at + index] === character.charCodeAt(0));
}
