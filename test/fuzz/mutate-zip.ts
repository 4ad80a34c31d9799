import { deflateRawSync } from 'node:zlib';
import { crc32 } from '../../src/io/zip.js';
import {
  encodeInteger,
  type Mutator,
  mutateBytes,
  mutateText,
  mutateValues,
  splice,
} from './mutate-bytes.js';
import { mutateNpy } from './mutate-npy.js';
import { mutatePickle } from './mutate-pickle.js';
import { BORDER_NUMBERS, type Random } from './random.js';

/** A member of a zip file as it is stored. */
export interface ZipMember {
  readonly name: string;
  /** 0 is stored, 8 deflated. */
  readonly method: number;
  readonly crc: number;
  readonly size: number;
  readonly stored: Uint8Array;
}

const LOCAL_BYTES = 30;
const CENTRAL_BYTES = 46;
const END_BYTES = 22;

/**
 * The members that the central directory names (APPNOTE.TXT 4.3.12): none where sizes are 64-bit, or the directory is
 * not found.
 */
export function readZip(bytes: Uint8Array): readonly ZipMember[] {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = buffer.lastIndexOf('PK\x05\x06', undefined, 'latin1');
  if (end < 0 || end + END_BYTES > buffer.length) return [];
  const members: ZipMember[] = [];
  let at = buffer.readUInt32LE(end + 16);
  for (let left = buffer.readUInt16LE(end + 10); left > 0 && at + CENTRAL_BYTES <= buffer.length; left--) {
    const [method, crc] = [buffer.readUInt16LE(at + 10), buffer.readUInt32LE(at + 16)];
    const [storedSize, size] = [buffer.readUInt32LE(at + 20), buffer.readUInt32LE(at + 24)];
    const nameLength = buffer.readUInt16LE(at + 28);
    const local = buffer.readUInt32LE(at + 42);
    if (local + LOCAL_BYTES > buffer.length) return [];
    const data = local + LOCAL_BYTES + buffer.readUInt16LE(local + 26) + buffer.readUInt16LE(local + 28);
    const name = buffer.toString('latin1', at + CENTRAL_BYTES, at + CENTRAL_BYTES + nameLength);
    members.push({ name, method, crc, size, stored: bytes.subarray(data, data + storedSize) });
    at += CENTRAL_BYTES + nameLength + buffer.readUInt16LE(at + 30) + buffer.readUInt16LE(at + 32);
  }
  return members;
}

/** A zip file of members, without alignment. */
export function writeZip(members: readonly ZipMember[]): Uint8Array {
  const locals: Uint8Array[] = [];
  const centrals: Uint8Array[] = [];
  let offset = 0;
  for (const { name, method, crc, size, stored } of members) {
    const nameBytes = Buffer.from(name, 'latin1');
    // Versions, flags, method, time and date, sums and sizes: alike in both headers.
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(method, 4);
    common.writeUInt32LE(crc >>> 0, 10);
    common.writeUInt32LE(stored.length, 14);
    common.writeUInt32LE(size, 18);
    common.writeUInt16LE(nameBytes.length, 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04'), common, nameBytes, stored]);
    const places = Buffer.alloc(14);
    places.writeUInt32LE(offset, 10);
    locals.push(local);
    centrals.push(Buffer.concat([Buffer.from('PK\x01\x02\x14\x00'), common, places, nameBytes]));
    offset += local.length;
  }
  const directory = Buffer.concat(centrals);
  const end = Buffer.alloc(END_BYTES);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(members.length, 8);
  end.writeUInt16LE(members.length, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...locals, directory, end]);
}

/** What is in a member changes as its name says; sums are those of the content, but for a few. */
function changeContent(member: ZipMember, random: Random, donor: readonly ZipMember[]): ZipMember {
  const foreign = donor.find(({ name }) => endOf(name) === endOf(member.name))?.stored ?? member.stored;
  const mutate = member.method === 0 ? chooseMutator(member.name, random) : mutateBytes;
  const stored = mutate(member.stored, random, foreign);
  const crc = random.oneIn(20) ? member.crc : crc32(stored);
  return { ...member, stored, crc, size: member.method === 0 ? stored.length : member.size };
}

function endOf(name: string): string {
  return name.slice(name.lastIndexOf('/') + 1);
}

function chooseMutator(name: string, random: Random): Mutator {
  if (name.endsWith('.pkl')) return mutatePickle;
  if (name.endsWith('.npy')) return mutateNpy;
  return name.includes('/data/') && !random.oneIn(4) ? mutateValues : mutateBytes;
}

function changeMember(member: ZipMember, random: Random): ZipMember {
  switch (random.below(4)) {
    case 0:
      return { ...member, name: mutateText(member.name, random) };
    case 1:
      return { ...member, method: member.method === 0 ? 8 : 0 };
    case 2:
      return { ...member, size: Number(BigInt.asUintN(32, random.pick(BORDER_NUMBERS))) };
    default:
      return member.method === 0 ? { ...member, method: 8, stored: deflateRawSync(member.stored) } : member;
  }
}

/** Changes a zip file: mostly the content of a member, then members, then fields of the directory. */
export const mutateZip: Mutator = (bytes, random, donor) => {
  const members = [...readZip(bytes)];
  const at = pickMember(members, random);
  const [member] = members.slice(at, at + 1);
  if (member === undefined || random.oneIn(12)) return mutateBytes(bytes, random, donor);
  const foreign = readZip(donor);
  const other = random.below(members.length);
  switch (random.below(14)) {
    case 0:
      members.splice(at, 1);
      break;
    case 1:
      members.splice(other, 0, member);
      break;
    case 2:
      members.push(random.pick(foreign) ?? member);
      break;
    case 3:
      members[at] = { ...member, name: members[other]?.name ?? '' };
      break;
    case 4:
    case 5:
      members[at] = changeMember(member, random);
      break;
    case 6:
      return changeDirectory(bytes, random);
    default:
      members[at] = changeContent(member, random, foreign);
      return patchMember(bytes, member, members[at] ?? member) ?? writeZip(members);
  }
  return writeZip(members);
};

/** Half of the time a pickle: it is one of many members, and most of what is read. */
function pickMember(members: readonly ZipMember[], random: Random): number {
  const pickles = members.flatMap(({ name }, index) => (/\.(?:pkl|npy)$/.test(name) ? [index] : []));
  const pickle = random.oneIn(2) ? random.pick(pickles) : undefined;
  return pickle ?? random.below(members.length);
}

/** A member of the same length is put in place: all else of the file stays, its alignment and its extra fields. */
function patchMember(bytes: Uint8Array, from: ZipMember, to: ZipMember): Uint8Array | null {
  if (from.stored.length !== to.stored.length) return null;
  const result = Buffer.from(bytes);
  result.set(to.stored, from.stored.byteOffset - bytes.byteOffset);
  const oldSum = encodeInteger(BigInt(from.crc), 4, true);
  for (let at = result.indexOf(oldSum); at >= 0; at = result.indexOf(oldSum, at + 4)) {
    const isSum = ['PK\x03\x04', 'PK\x01\x02'].some(
      (magic, kind) => result.subarray(Math.max(0, at - 14 - 2 * kind)).toString('latin1', 0, 4) === magic,
    );
    if (isSum) result.writeUInt32LE(to.crc, at);
  }
  return result;
}

/** Writes a number into a field of the end record or of an entry of the central directory. */
function changeDirectory(bytes: Uint8Array, random: Random): Uint8Array {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const from = random.below(buffer.length);
  const magic = random.pick(['PK\x05\x06', 'PK\x01\x02', 'PK\x03\x04', 'PK\x06\x06', 'PK\x06\x07']);
  const record = Math.max(
    0,
    buffer.indexOf(magic, from, 'latin1'),
    buffer.lastIndexOf(magic, from, 'latin1'),
  );
  const width = random.pick([2, 4]);
  const field = record + 4 + 2 * random.below(21);
  return splice(
    bytes,
    Math.min(field, bytes.length),
    width,
    encodeInteger(random.pick(BORDER_NUMBERS), width, true),
  );
}
