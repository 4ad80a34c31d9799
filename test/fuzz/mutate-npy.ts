import { encodeInteger, type Mutator, mutateBytes, mutateText, mutateValues } from './mutate-bytes.js';
import { BORDER_NUMBERS, type Random } from './random.js';

/** `\x93NUMPY`, two bytes of version, two of length: version 1. */
const PREFIX_BYTES = 10;

const ODD_VALUES: readonly [string, ...string[]] = [
  "'<f4'",
  "'>f4'",
  "'>i8'",
  "'|O'",
  "'<c8'",
  "'|b1'",
  "'<U3'",
  "[('a', '<f4')]",
  'True',
  'False',
  '()',
  '(0,)',
  '(1,)',
  '(2, 2)',
  '(-1,)',
  '(99999999999999999,)',
  '(1, 1, 1, 1)',
  '(65536, 65536)',
  '(4L,)',
  "'=f4'",
  "'<f2'",
  "'|u1'",
];

/** Puts an array together: its header has the length that it says. */
export function joinNpy(header: string, data: Uint8Array): Uint8Array {
  const text = Buffer.from(header, 'latin1');
  return Buffer.concat([
    Buffer.from('\x93NUMPY\x01\x00', 'latin1'),
    encodeInteger(BigInt(text.length), 2, true),
    text,
    data,
  ]);
}

/** Changes an .npy array: its header, whose length is put right, its values, or any bytes. */
export const mutateNpy: Mutator = (bytes, random, donor) => {
  if (bytes.length < PREFIX_BYTES || random.oneIn(6)) return mutateBytes(bytes, random, donor);
  const length = (bytes[8] ?? 0) | ((bytes[9] ?? 0) << 8);
  const header = Buffer.from(bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + length)).toString('latin1');
  const data = bytes.subarray(PREFIX_BYTES + length);
  if (random.oneIn(4)) return joinNpy(header, mutateValues(data, random, donor));
  return joinNpy(changeHeader(header, random), data);
};

function changeHeader(header: string, random: Random): string {
  switch (random.below(4)) {
    case 0:
      return mutateText(header, random);
    case 1: {
      const number = String(random.pick(BORDER_NUMBERS));
      return replaceOne(header, /\d+/g, random, () => number);
    }
    case 2:
      return replaceOne(header, /'[^']*'|True|False|\([^)]*\)/g, random, () => random.pick(ODD_VALUES));
    default:
      return header.replace(/\(([^)]*)\)/, (_, sizes: string) => `(${sizes.split(',').reverse().join(',')})`);
  }
}

function replaceOne(text: string, pattern: RegExp, random: Random, replace: () => string): string {
  const found = random.pick([...text.matchAll(pattern)]);
  if (found === undefined) return text;
  return text.slice(0, found.index) + replace() + text.slice(found.index + found[0].length);
}
