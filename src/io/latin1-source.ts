// Bytes that are stored as text: protocol 2 of pickle writes each as the Latin-1 character of its number, in UTF-8.

import { CheckpointError } from '../errors.js';
import { type ByteRange, type ByteSource, checkBounds, readRange, sliceRange } from './byte-source.js';

/** Text is read in pieces of this size; of each, it is remembered how many characters come before it. */
const PIECE_BYTES = 64 * 1024;

/**
 * A text of the characters U+0000 to U+00FF in UTF-8 as a source of the bytes that it stands for, e.g. `é`, stored as
 * C3 A9, as the byte E9. Read on and on it is decoded once; a jump ahead decodes what it passes over, a piece at a time.
 *
 * Reading fails with `malformed` where the text is another, or has not as many characters as it should.
 *
 * @param byteLength how many characters the text has.
 */
export function latin1Source(text: ByteRange, byteLength: number): ByteSource {
  const { name } = text.source;
  const fail = (found: string) =>
    new CheckpointError(`expected ${byteLength} bytes written as Latin-1 text, found ${found}`, {
      code: 'malformed',
      file: name,
      offset: text.offset,
    });
  /** How many characters begin before each piece. */
  const starts = [0];
  const decodePiece = async (piece: number): Promise<Uint8Array> => {
    const from = piece * PIECE_BYTES;
    // The last character may reach one byte into the next piece.
    const end = Math.min(from + PIECE_BYTES + 1, text.byteLength);
    const coded = await readRange(sliceRange(text, from, end));
    const decoded = decode(coded, Math.min(PIECE_BYTES, coded.byteLength), piece > 0);
    if (decoded === null) throw fail('other characters');
    const next = (starts[piece] ?? 0) + decoded.byteLength;
    starts[piece + 1] ??= next;
    const isLast = from + PIECE_BYTES >= text.byteLength;
    if (next > byteLength || (isLast && next !== byteLength)) throw fail(isLast ? String(next) : 'more');
    return decoded;
  };
  const source: ByteSource = {
    name,
    byteLength,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      let piece = Math.min(starts.length - 1, Math.floor(position / (PIECE_BYTES / 2)));
      while (piece > 0 && (starts[piece] ?? 0) > position) piece--;
      for (let done = 0; done < target.byteLength; piece++) {
        const at = starts[piece] ?? 0;
        const decoded = await decodePiece(piece);
        const part = decoded.subarray(position + done - at).subarray(0, target.byteLength - done);
        target.set(part, done);
        done += part.byteLength;
      }
    },
    close: () => text.source.close(),
    computedFrom: text,
  };
  return source;
}

/**
 * The characters that begin in the first `byteLength` bytes.
 *
 * @param isInside whether the first byte may be the end of a character that begins before.
 * @returns null where there are other characters, or bytes that are no UTF-8.
 */
function decode(coded: Uint8Array, byteLength: number, isInside: boolean): Uint8Array | null {
  const decoded = new Uint8Array(byteLength);
  let count = 0;
  let at = isInside && isContinuation(coded[0]) ? 1 : 0;
  for (; at < byteLength; at++) {
    const byte = coded[at] as number;
    if (byte < 0x80) decoded[count++] = byte;
    else {
      // C2 80 to C3 BF are U+0080 to U+00FF.
      const next = coded[++at];
      if ((byte !== 0xc2 && byte !== 0xc3) || next === undefined || !isContinuation(next)) return null;
      decoded[count++] = ((byte & 3) << 6) | (next & 0x3f);
    }
  }
  return decoded.subarray(0, count);
}

function isContinuation(byte: number | undefined): boolean {
  return byte !== undefined && (byte & 0xc0) === 0x80;
}
