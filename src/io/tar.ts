// Lists the files in a tar archive.

import { CheckpointError, quote } from '../errors.js';
import { type ByteRange, type ByteSource, readRange } from './byte-source.js';

/** Headers, and the multiples that contents are padded to. */
const BLOCK_BYTES = 512;

/** torch.save wrote four members, other archives hold a checkpoint, some settings and a tokenizer. */
const MAX_MEMBERS = 10_000;

/**
 * Lists the members of a tar archive (POSIX.1-1988 ustar):
 *
 *       0  100  name, ended by NUL       124   12  size, octal
 *     156    1  type, '0' or NUL: file   257    6  'ustar'
 *
 * @throws CheckpointError `malformed` where a member reaches beyond the file; `limit-exceeded` where there are too many to
 *   tell whether one is the only checkpoint.
 */
export async function listTar(source: ByteSource): Promise<ReadonlyMap<string, ByteRange>> {
  const members = new Map<string, ByteRange>();
  let [position, count] = [0, 0];
  while (position + BLOCK_BYTES <= source.byteLength) {
    const header = await readRange({ source, offset: position, byteLength: BLOCK_BYTES });
    if (header.every((byte) => byte === 0)) break;
    const text = String.fromCharCode(...header);
    const name = (text.slice(0, 100).split('\0', 1)[0] ?? '').replace(/^\.\//, '');
    const size = /^\s*([0-7]+)[\s\0]*$/.exec(text.slice(124, 136))?.[1];
    const byteLength = size === undefined ? Number.NaN : Number.parseInt(size, 8);
    const offset = position + BLOCK_BYTES;
    if (!(offset + byteLength <= source.byteLength)) {
      throw new CheckpointError(
        `expected the tar member ${quote(name)} within the file, found another size`,
        { code: 'malformed', file: source.name, offset: position },
      );
    }
    if (++count > MAX_MEMBERS)
      throw new CheckpointError(`expected at most ${MAX_MEMBERS} members of a tar archive, found more`, {
        code: 'limit-exceeded',
        file: source.name,
      });
    if (/[0\0]/.test(text.charAt(156)) && !members.has(name))
      members.set(name, { source, offset, byteLength });
    position = offset + Math.ceil(byteLength / BLOCK_BYTES) * BLOCK_BYTES;
  }
  return members;
}
