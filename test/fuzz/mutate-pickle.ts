import { encodeInteger, type Mutator, mutateBytes, mutateText, splice } from './mutate-bytes.js';
import { BORDER_NUMBERS, type Random } from './random.js';

/** Widths of the length before a text or bytes: CPython's Lib/pickletools.py. */
const LENGTH_WIDTHS: Readonly<Record<string, number>> = {
  U: 1,
  '\x8c': 1,
  C: 1,
  '\x8a': 1,
  X: 4,
  T: 4,
  B: 4,
  '\x8b': 4,
  '\x8d': 8,
  '\x8e': 8,
  '\x96': 8,
};

/** Bytes of an argument of fixed width. */
const FIXED_WIDTHS: Readonly<Record<string, number>> = {
  '\x80': 1,
  K: 1,
  q: 1,
  h: 1,
  '\x82': 1,
  M: 2,
  '\x83': 2,
  J: 4,
  r: 4,
  j: 4,
  '\x84': 4,
  G: 8,
  '\x95': 8,
};

/** Lines of an argument that is text. */
const LINES: Readonly<Record<string, number>> = {
  I: 1,
  L: 1,
  F: 1,
  S: 1,
  V: 1,
  p: 1,
  g: 1,
  P: 1,
  c: 2,
  i: 2,
};

/** The opcodes of one pickle, each with its argument, up to and with STOP. */
export function splitPickle(bytes: Uint8Array): Uint8Array[] {
  const opcodes: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = findEnd(bytes, at);
    opcodes.push(bytes.subarray(at, end));
    if (bytes[at] === 0x2e) break;
    at = end;
  }
  return opcodes;
}

function findEnd(bytes: Uint8Array, at: number): number {
  const name = String.fromCharCode(bytes[at] ?? 0);
  const width = LENGTH_WIDTHS[name];
  if (width !== undefined) {
    const length = Buffer.from(bytes.buffer, bytes.byteOffset).readUIntLE(at + 1, Math.min(width, 6));
    return Math.min(bytes.length, at + 1 + width + length);
  }
  let end = at + 1 + (FIXED_WIDTHS[name] ?? 0);
  for (let lines = LINES[name] ?? 0; lines > 0; lines--) {
    const lineEnd = bytes.indexOf(0x0a, end);
    end = lineEnd < 0 ? bytes.length : lineEnd + 1;
  }
  return Math.min(end, bytes.length);
}

/** Opcodes that stand alone, numbers, and names that readers treat apart. */
const OPCODES: readonly [string, ...string[]] = [
  '(',
  '0',
  '1',
  '2',
  'N',
  '\x88',
  '\x89',
  ']',
  'l',
  'a',
  'e',
  ')',
  't',
  '\x85',
  '\x86',
  '\x87',
  '}',
  'd',
  's',
  'u',
  '\x8f',
  '\x90',
  '\x91',
  '\x93',
  '\x94',
  'R',
  'o',
  '\x81',
  '\x92',
  'b',
  'Q',
  '.',
  'K\x00',
  'K\x01',
  'K\xff',
  'J\xff\xff\xff\xff',
  'h\x00',
  'h\x01',
  'h\x05',
  'q\x00',
  'M\xff\xff',
  'G\x7f\xf8\x00\x00\x00\x00\x00\x00',
  'F1e999\n',
  'L123456789012345678901234567890L\n',
  '\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f',
  'I01\n',
  'Pabc\n',
  'ctorch\nFloatStorage\n',
  'ctorch._utils\n_rebuild_tensor_v2\n',
  'ccollections\nOrderedDict\n',
  'ctorch\nSize\n',
  'ctorch._utils\n_rebuild_parameter\n',
  'c__builtin__\ngetattr\n',
  'cbuiltins\nset\n',
  'cos\nsystem\n',
  'ctorch\ndevice\n',
  'X\x07\x00\x00\x00storage',
  '(lp0\n',
  'S"a"\n',
  'Va\\u0041\n',
  '\x95\x00\x00\x00\x00\x00\x00\x00\x00',
  '\x80\x02',
  '\x80\x05',
];

/** Changes opcodes of one pickle, and leaves what follows it. */
export const mutatePickle: Mutator = (bytes, random, donor) => {
  if (random.oneIn(12)) return mutateBytes(bytes, random, donor);
  const opcodes = splitPickle(bytes);
  const tail = bytes.subarray(opcodes.reduce((sum, { length }) => sum + length, 0));
  const at = random.below(opcodes.length);
  const here = opcodes[at] ?? new Uint8Array(0);
  switch (random.oneIn(25) ? NEST : random.below(8)) {
    case NEST:
      opcodes.splice(at, 0, ...nest(random));
      break;
    case 0:
      opcodes.splice(at, 1 + random.below(3));
      break;
    case 1:
      opcodes.splice(at, 0, ...opcodes.slice(at, at + 1 + random.below(6)));
      break;
    case 2:
      opcodes.splice(at, random.below(2), Buffer.from(random.pick(OPCODES), 'latin1'));
      break;
    case 3: {
      const foreign = splitPickle(donor);
      const from = random.below(foreign.length);
      opcodes.splice(at, random.below(2), ...foreign.slice(from, from + 1 + random.below(8)));
      break;
    }
    case 4: {
      const other = random.below(opcodes.length);
      opcodes[at] = opcodes[other] ?? here;
      opcodes[other] = here;
      break;
    }
    default: {
      // An opcode without an argument offers nothing to change: the next one with one is taken.
      const next = opcodes.findIndex(({ length }, index) => index >= at && length > 1);
      const changed = next < 0 ? at : next;
      opcodes[changed] = mutateArgument(opcodes[changed] ?? here, random, opcodes);
    }
  }
  return Buffer.concat([...opcodes, tail]);
};

/** A change as rare as deep values are: a tuple around a tuple, a mark above a mark. */
const NEST = -1;

/** Pairs of opcodes that nest when each is there as often. */
const NESTING: readonly [readonly [string, string], ...(readonly [string, string])[]] = [
  ['', '\x85'],
  [']', 'a'],
  ['(', 't'],
  ['(', ''],
  ['2', '\x86'],
  ['}N', 's'],
];

function nest(random: Random): readonly Uint8Array[] {
  const [open, close] = random.pick(NESTING);
  const count = random.pick([5, 100, 2_000, 20_000]);
  return [open, close].map((opcode) => Buffer.from(opcode.repeat(count), 'latin1'));
}

function mutateArgument(opcode: Uint8Array, random: Random, opcodes: readonly Uint8Array[]): Uint8Array {
  const name = String.fromCharCode(opcode[0] ?? 0);
  const width = LENGTH_WIDTHS[name];
  if (width !== undefined) {
    const others = opcodes
      .filter((other) => other[0] === opcode[0])
      .map((other) => latin1(other.subarray(1 + width)));
    const text = Buffer.from(mutateText(latin1(opcode.subarray(1 + width)), random, others), 'latin1');
    const length = random.oneIn(20) ? random.pick(BORDER_NUMBERS) : BigInt(text.length);
    return Buffer.concat([opcode.subarray(0, 1), encodeInteger(length, width, true), text]);
  }
  if (LINES[name] !== undefined)
    return Buffer.from(`${name}${mutateText(latin1(opcode.subarray(1)), random)}\n`, 'latin1');
  const fixed = opcode.length - 1;
  const same = random.pick(opcodes.filter((other) => other[0] === opcode[0]));
  if (random.oneIn(2) && same !== undefined) return same;
  const argument = random.oneIn(2)
    ? encodeInteger(random.pick(BORDER_NUMBERS), Math.min(fixed, 8), true)
    : random.bytes(fixed);
  return splice(opcode, 1, fixed, argument);
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1');
}

/** Changes one of the pickles that stand one after the other at the start, or what follows them. */
export const mutatePickles: Mutator = (bytes, random, donor) => {
  if (random.oneIn(8)) return mutateBytes(bytes, random, donor);
  const [starts, foreign] = [bytes, donor].map(findPickles);
  const at = random.pick(starts ?? []) ?? 0;
  const from = random.pick(foreign ?? []) ?? 0;
  return Buffer.concat([
    bytes.subarray(0, at),
    mutatePickle(bytes.subarray(at), random, donor.subarray(from)),
  ]);
};

/** Where pickles start that stand one after the other. PyTorch's legacy files hold five. */
export function findPickles(bytes: Uint8Array): readonly number[] {
  const starts: number[] = [];
  for (let at = 0; bytes[at] === 0x80 && starts.length < 8; ) {
    starts.push(at);
    for (const { length } of splitPickle(bytes.subarray(at))) at += length;
  }
  return starts;
}
