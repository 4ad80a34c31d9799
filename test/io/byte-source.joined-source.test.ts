import { expect, test } from 'vitest';
import { holdBytes, joinRanges, readRange, sliceRange } from '../../src/io/byte-source.js';
import { failureOf } from '../build/failure.js';

const whole = holdBytes(Uint8Array.of(0, 1, 2, 3, 4, 5, 6, 7));
const joined = joinRanges('j', [
  sliceRange(whole, 6, 8),
  sliceRange(whole, 3, 3),
  sliceRange(whole, 0, 3),
  holdBytes(Uint8Array.of(9)),
]);
const EXPECTED = [6, 7, 0, 1, 2, 9];

test('ranges read one after the other, whatever piece is read', async () => {
  expect(joined.byteLength).toBe(EXPECTED.length);
  for (let from = 0; from < EXPECTED.length; from++) {
    for (let to = from; to <= EXPECTED.length; to++)
      expect([...(await readRange(sliceRange(joined, from, to)))]).toEqual(EXPECTED.slice(from, to));
  }
});

test('reading beyond the end is refused', async () => {
  const failure = await failureOf(() => joined.source.readInto(new Uint8Array(2), 5));
  expect(failure).toMatchObject({ code: 'truncated', file: 'j' });
});
