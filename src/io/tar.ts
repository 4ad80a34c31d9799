// Lists the files in a tar archive.

import { CheckpointError, quote } from '../errors.js';
import { type ByteRange, type ByteSource, readRange } from './byte-source.js';

/** Headers, and the multiples that contents are padded to. */
const BLOCK_BYTES = 512;

/** torch.save wrote four members, other archives hold a checkpoint, some settings and a tokenizer. */
const MAX_MEMBERS = 10_000;

/** Names in headers of their own have some hundreds of bytes; the records of PAX may tell times and owners, too. */
const MAX_NAME_BYTES = 64_000;

/** What a header of its own tells of the member behind it. */
interface Extended {
  readonly name?: string | undefined;
  readonly byteLength?: number | undefined;
}

/**
 * Lists the members of a tar archive (POSIX.1-1988 ustar):
 *
 *       0  100  name, ended by NUL       124   12  size, octal
 *     156    1  type, '0' or NUL: file   257    6  'ustar'
 *     345  155  what stands before the name and a slash
 *
 * Longer names stand in a member before: of type 'L' as GNU tar writes them, of type 'x' as POSIX.1-2001 (PAX) does.
 *
 * @throws CheckpointError `malformed` where a member reaches beyond the file; `limit-exceeded` where there are too many to
 *   tell whether one is the only checkpoint.
 */
export async function listTar(source: ByteSource): Promise<ReadonlyMap<string, ByteRange>> {
  const members = new Map<string, ByteRange>();
  let [position, count] = [0, 0];
  let extended: Extended = {};
  while (position + BLOCK_BYTES <= source.byteLength) {
    const header = await readRange({ source, offset: position, byteLength: BLOCK_BYTES });
    if (header.every((byte) => byte === 0)) break;
    const text = String.fromCharCode(...header);
    const prefix = text.startsWith('ustar\0', 257) ? untilNul(text.slice(345, 500)) : '';
    const short = `${prefix === '' ? '' : `${prefix}/`}${untilNul(text.slice(0, 100))}`;
    const name = (extended.name ?? short).replace(/^\.\//, '');
    const size = /^\s*([0-7]+)[\s\0]*$/.exec(text.slice(124, 136))?.[1];
    const byteLength = extended.byteLength ?? (size === undefined ? Number.NaN : Number.parseInt(size, 8));
    const offset = position + BLOCK_BYTES;
    if (!(offset + byteLength <= source.byteLength))
      throw new CheckpointError(
        `expected the tar member ${quote(name)} within the file, found another size`,
        { code: 'malformed', file: source.name, offset: position },
      );
    if (++count > MAX_MEMBERS)
      throw new CheckpointError(`expected at most ${MAX_MEMBERS} members of a tar archive, found more`, {
        code: 'limit-exceeded',
        file: source.name,
      });
    const type = text.charAt(156);
    const isExtended = (type === 'L' || type === 'x') && byteLength <= MAX_NAME_BYTES;
    if (/[0\0]/.test(type) && !members.has(name)) members.set(name, { source, offset, byteLength });
    // A name that is about another one, such as that of a link, stays for the member behind it.
    if (isExtended)
      extended = { ...extended, ...readExtended(type, await readRange({ source, offset, byteLength })) };
    else if (!/[KgLx]/.test(type)) extended = {};
    position = offset + Math.ceil(byteLength / BLOCK_BYTES) * BLOCK_BYTES;
  }
  return members;
}

function untilNul(text: string): string {
  return text.split('\0', 1)[0] ?? '';
}

/** @param type `L`: the name itself; `x`: records such as `30 path=weights/model.pt\n`, each with its length. */
function readExtended(type: string, bytes: Uint8Array): Extended {
  const text = new TextDecoder().decode(bytes);
  if (type === 'L') return { name: untilNul(text) };
  const findRecord = (key: string) => new RegExp(`(?:^|\\n)\\d+ ${key}=([^\\n]*)(?=\\n)`).exec(text)?.[1];
  const size = findRecord('size');
  if (size === undefined) return { name: findRecord('path') };
  // What is no number of bytes leads nowhere within the file.
  return { name: findRecord('path'), byteLength: /^\d+$/.test(size) ? Number(size) : Number.NaN };
}
