import { BORDER_NUMBERS, type Random } from './random.js';

/** Changes bytes at random; `donor` is another input of the same kind, to take parts from. The input stays as it is. */
export type Mutator = (bytes: Uint8Array, random: Random, donor: Uint8Array) => Uint8Array;

/** Blocks that are moved, removed or repeated are mostly short: structures are. */
function pickLength(random: Random, most: number): number {
  return Math.min(most, 1 + random.below(random.pick([2, 8, 32, 512])));
}

/** Sizes, magic numbers and names stand at the ends of files. */
function pickPlace(random: Random, length: number): number {
  const near = Math.min(length, 400);
  return random.pick([random.below(length), random.below(near), length - near + random.below(near)]);
}

/** Puts `inserted` in the place of `deleted` bytes. */
export function splice(bytes: Uint8Array, at: number, deleted: number, inserted: Uint8Array): Uint8Array {
  const tail = bytes.subarray(Math.min(bytes.length, at + deleted));
  const result = new Uint8Array(at + inserted.length + tail.length);
  result.set(bytes.subarray(0, at));
  result.set(inserted, at);
  result.set(tail, at + inserted.length);
  return result;
}

/** A number of 1, 2, 4 or 8 bytes, of either order. */
export function encodeInteger(value: bigint, width: number, isLittleEndian: boolean): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, value), true);
  const used = bytes.slice(0, width);
  return isLittleEndian ? used : used.reverse();
}

const CHANGES: readonly [Mutator, ...Mutator[]] = [
  function flipBit(bytes, random) {
    const at = pickPlace(random, bytes.length);
    return splice(bytes, at, 1, Uint8Array.of((bytes[at] ?? 0) ^ (1 << random.below(8))));
  },
  function setByte(bytes, random) {
    return splice(bytes, pickPlace(random, bytes.length), 1, random.bytes(1));
  },
  function writeBorderNumber(bytes, random) {
    const number = encodeInteger(random.pick(BORDER_NUMBERS), random.pick([1, 2, 4, 8]), !random.oneIn(4));
    return splice(bytes, pickPlace(random, bytes.length), number.length, number);
  },
  function nudgeByte(bytes, random) {
    const at = pickPlace(random, bytes.length);
    return splice(bytes, at, 1, Uint8Array.of((bytes[at] ?? 0) + random.pick([1, -1, 2, -2, 16, -16])));
  },
  function deleteBlock(bytes, random) {
    return splice(
      bytes,
      pickPlace(random, bytes.length),
      pickLength(random, bytes.length),
      new Uint8Array(0),
    );
  },
  function repeatBlock(bytes, random) {
    const from = pickPlace(random, bytes.length);
    const block = bytes.slice(from, from + pickLength(random, bytes.length));
    return splice(bytes, pickPlace(random, bytes.length), random.pick([0, block.length]), block);
  },
  function insertBytes(bytes, random) {
    return splice(bytes, pickPlace(random, bytes.length), 0, random.bytes(pickLength(random, 16)));
  },
  function fillBlock(bytes, random) {
    const block = new Uint8Array(pickLength(random, 64)).fill(random.pick([0, 0xff, 0x7f, 0x80, 0x20]));
    return splice(bytes, pickPlace(random, bytes.length), block.length, block);
  },
  function truncate(bytes, random) {
    return bytes.slice(0, pickPlace(random, bytes.length));
  },
  function crossOver(bytes, random, donor) {
    const at = pickPlace(random, Math.min(bytes.length, donor.length));
    return splice(bytes, at, bytes.length, donor.subarray(at));
  },
  function takeBlock(bytes, random, donor) {
    const from = pickPlace(random, donor.length);
    const block = donor.slice(from, from + pickLength(random, donor.length));
    return splice(bytes, pickPlace(random, bytes.length), random.pick([0, block.length]), block);
  },
];

/** Any change of any bytes. */
export const mutateBytes: Mutator = (bytes, random, donor) => random.pick(CHANGES)(bytes, random, donor);

/** Numbers that arithmetic stumbles over, as little-endian binary32. */
const ODD_FLOATS: readonly [number, ...number[]] = [
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  0,
  -0,
  1e-45,
  3.4e38,
  -1,
  1e-20,
];

/** Changes the values of a tensor, and no length. */
export const mutateValues: Mutator = (bytes, random) => {
  const result = bytes.slice();
  const floats = new DataView(result.buffer);
  const value = random.pick(ODD_FLOATS);
  const count = random.pick([1, 1, 2, result.length]);
  let at = random.below(result.length) & ~3;
  for (let done = 0; done < count && at + 4 <= result.length; done++, at += 4)
    floats.setFloat32(at, value, true);
  return result;
};

/** Texts that parsers, shells, terminals and file systems stumble over. */
export const ODD_TEXTS: readonly [string, ...string[]] = [
  '',
  '.',
  '..',
  '...',
  '/',
  '../x',
  '/etc/passwd',
  'a'.repeat(300),
  '.'.repeat(300),
  '__proto__',
  'constructor',
  'toString',
  'hasOwnProperty',
  '\u0000',
  '\u001b[31m',
  '\n',
  '\r\n::error::x',
  '\u202e',
  '\ud800',
  '\ufeff',
  '::error::x',
  '##vso[task.complete]',
  '<script>',
  '$'.concat('{{ x }}'),
  '`x`',
  '|',
  '*',
  '**',
  '%0A',
  'NaN',
  '-1',
  '1e999',
  'running_mean',
  'bn.running_var',
];

/** Names of many components, and of one long one. */
const LONG_TEXTS: readonly [() => string, ...(() => string)[]] = [
  () => 'a.'.repeat(5_000),
  () => '.'.repeat(30_000),
  () => 'a'.repeat(30_000),
  () => '*a'.repeat(200),
  () => '/'.repeat(5_000),
];

/** Changes a text: a part of it, or the whole for another. */
export function mutateText(text: string, random: Random, others: readonly string[] = []): string {
  if (random.oneIn(60)) return random.pick(LONG_TEXTS)();
  switch (random.below(6)) {
    case 0:
      return random.pick(ODD_TEXTS);
    case 1:
      return random.pick(others) ?? text;
    case 2:
      return text + random.pick(ODD_TEXTS);
    case 3:
      return text.slice(0, random.below(text.length));
    case 4:
      return text.slice(random.below(text.length)) + text;
    default: {
      const at = random.below(text.length);
      return (
        text.slice(0, at) +
        random.pick([...'._-0a1/"\\*\u00e9'] as [string, ...string[]]) +
        text.slice(at + 1)
      );
    }
  }
}
