import { encodeInteger, type Mutator, mutateBytes, mutateText, splice } from './mutate-bytes.js';
import { mutatePickles } from './mutate-pickle.js';
import { BORDER_NUMBERS, type Random } from './random.js';

/** Headers and contents start at multiples of it (POSIX.1, ustar). */
const BLOCK_BYTES = 512;

/** A member of a tar file: its header, and its content without padding. */
export interface TarMember {
  readonly header: Uint8Array;
  readonly content: Uint8Array;
}

/** The members up to the first block that is no header. */
export function readTar(bytes: Uint8Array): readonly TarMember[] {
  const members: TarMember[] = [];
  for (let at = 0; at + BLOCK_BYTES <= bytes.length && bytes[at] !== 0; ) {
    const header = bytes.subarray(at, at + BLOCK_BYTES);
    const size = Number.parseInt(Buffer.from(header.subarray(124, 136)).toString('latin1'), 8) || 0;
    const start = at + BLOCK_BYTES;
    members.push({ header, content: bytes.subarray(start, start + size) });
    at = start + Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES;
  }
  return members;
}

/** A tar file of members, each header with the sum of its bytes. */
export function writeTar(members: readonly TarMember[]): Uint8Array {
  return Buffer.concat([
    ...members.flatMap(({ header, content }) => [
      withSum(header),
      content,
      new Uint8Array((BLOCK_BYTES - (content.length % BLOCK_BYTES)) % BLOCK_BYTES),
    ]),
    new Uint8Array(2 * BLOCK_BYTES),
  ]);
}

/** The sum counts its own eight bytes as spaces. */
function withSum(header: Uint8Array): Uint8Array {
  const blank = splice(header, 148, 8, Buffer.from(' '.repeat(8)));
  const sum = blank.reduce((total, byte) => total + byte, 0);
  return splice(blank, 148, 8, Buffer.from(`${sum.toString(8).padStart(6, '0')}\0 `));
}

function withSize(header: Uint8Array, size: number): Uint8Array {
  return splice(header, 124, 12, Buffer.from(`${size.toString(8).padStart(11, '0')}\0`));
}

/** Changes a tar file: a member's content, whose size is put right, members, or a field of a header. */
export const mutateTar: Mutator = (bytes, random, donor) => {
  const members = [...readTar(bytes)];
  const at = random.below(members.length);
  const [member] = members.slice(at, at + 1);
  if (member === undefined || random.oneIn(12)) return mutateBytes(bytes, random, donor);
  const foreign = readTar(donor);
  switch (random.below(8)) {
    case 0:
      members.splice(at, 1);
      break;
    case 1:
      members.splice(random.below(members.length), 0, random.pick(foreign) ?? member);
      break;
    case 2:
      members[at] = { ...member, header: changeHeader(member.header, random) };
      break;
    default: {
      const content = mutatePickles(member.content, random, foreign[at]?.content ?? member.content);
      members[at] = { header: withSize(member.header, content.length), content };
    }
  }
  return writeTar(members);
};

/** Where the fields of a header stand, and how long they are: name, mode, size, kind, linked name, magic, prefix. */
const FIELDS: readonly [readonly [number, number], ...(readonly [number, number])[]] = [
  [0, 100],
  [100, 8],
  [124, 12],
  [156, 1],
  [157, 100],
  [257, 8],
  [345, 155],
];

function changeHeader(header: Uint8Array, random: Random): Uint8Array {
  const [at, length] = random.pick(FIELDS);
  const old = Buffer.from(header.subarray(at, at + length))
    .toString('latin1')
    .replace(/\0.*$/, '');
  const text = random.pick([
    () => Buffer.from(mutateText(old, random)),
    () => Buffer.from(BigInt.asUintN(32, random.pick(BORDER_NUMBERS)).toString(8)),
    // Sizes in base 256 have the first bit set.
    () => Buffer.concat([Uint8Array.of(0x80), encodeInteger(random.pick(BORDER_NUMBERS), 8, false)]),
    () => Buffer.from(random.pick([...'0123456789LKxgS'] as [string, ...string[]])),
  ])();
  const field = new Uint8Array(length);
  field.set(text.subarray(0, length));
  return splice(header, at, length, field);
}
