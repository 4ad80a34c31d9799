import { expect, test } from 'vitest';
import { memorySource } from '../../src/io/byte-source.js';
import { byteSwapped } from '../../src/io/views.js';
import { failureOf } from '../build/failure.js';

const EIGHT = {
  source: memorySource('m', Uint8Array.of(9, 1, 2, 3, 4, 5, 6, 7, 8)),
  offset: 1,
  byteLength: 8,
};

test.each([
  [2, [2, 1, 4, 3, 6, 5, 8, 7]],
  [4, [4, 3, 2, 1, 8, 7, 6, 5]],
  [8, [8, 7, 6, 5, 4, 3, 2, 1]],
] as const)('units of %i bytes are reversed, whatever piece is read', async (unit, expected) => {
  const { source } = byteSwapped(EIGHT, unit);
  for (let from = 0; from < 8; from++) {
    for (let to = from; to <= 8; to++) {
      const target = new Uint8Array(to - from);
      await source.readInto(target, from);
      expect([...target]).toEqual(expected.slice(from, to));
    }
  }
});

test('reading beyond the end is refused', async () => {
  expect((await failureOf(() => byteSwapped(EIGHT, 2).source.readInto(new Uint8Array(2), 7))).code).toBe(
    'truncated',
  );
});

test('units of other widths are as they were', () => {
  expect(byteSwapped(EIGHT, 1)).toBe(EIGHT);
});
