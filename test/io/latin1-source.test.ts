import { expect, test } from 'vitest';
import { holdBytes, readRange, sliceRange, wholeOf } from '../../src/io/byte-source.js';
import { latin1Source } from '../../src/io/latin1-source.js';
import { failureOf } from '../build/failure.js';

/** Some bytes, and the text that protocol 2 of pickle makes of them. */
function make(length: number): { bytes: Uint8Array; text: Uint8Array } {
  const bytes = Uint8Array.from({ length }, (_, index) => (index * 7919 + (index >> 8)) & 0xff);
  return { bytes, text: Buffer.from(Buffer.from(bytes).toString('latin1'), 'utf8') };
}

const read = (text: Uint8Array, length: number, start = 0, end = length) =>
  readRange(sliceRange(wholeOf(latin1Source(holdBytes(text), length)), start, end));

test('bytes written as text are read as bytes', async () => {
  const { bytes, text } = make(300_001);
  expect(Buffer.compare(await read(text, bytes.length), bytes)).toBe(0);
});

test.each([
  [0, 1],
  [7, 8],
  [65_530, 65_560],
  [100_000, 200_000],
  [299_999, 300_001],
])('bytes %i to %i are those of the text, whatever was read before', async (start, end) => {
  const { bytes, text } = make(300_001);
  const source = latin1Source(holdBytes(text), bytes.length);
  for (const [from, to] of [
    [start, end],
    [0, 10],
    [start, end],
  ] as const) {
    const found = await readRange(sliceRange(wholeOf(source), from, to));
    expect(Buffer.compare(found, bytes.subarray(from, to))).toBe(0);
  }
});

test('pieces end within characters', async () => {
  const bytes = new Uint8Array(200_000).fill(0xe9);
  for (const shift of [0, 1]) {
    const shifted = bytes.slice();
    shifted.fill(0x41, 0, shift);
    const text = Buffer.from(Buffer.from(shifted).toString('latin1'), 'utf8');
    expect(Buffer.compare(await read(text, shifted.length), shifted)).toBe(0);
  }
});

test.each<[string, Uint8Array, string]>([
  ['fewer characters', Buffer.from('éa', 'utf8'), 'expected 3 bytes written as Latin-1 text, found 2'],
  ['more characters', Buffer.from('abcd', 'utf8'), 'found 4'],
  ['a character beyond U+00FF', Buffer.from('abĀ', 'utf8'), 'found other characters'],
  ['half a character', Uint8Array.of(0x61, 0x62, 0xc3), 'found other characters'],
  ['the end of a character alone', Uint8Array.of(0x61, 0x62, 0x80), 'found other characters'],
])('%s', async (_, text, message) => {
  const failure = await failureOf(() => read(text, 3));
  expect(failure).toMatchObject({ code: 'malformed' });
  expect(failure.message).toContain(message);
});
