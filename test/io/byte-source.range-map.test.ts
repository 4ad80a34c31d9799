import { expect, test } from 'vitest';
import { memorySource, RangeMap } from '../../src/io/byte-source.js';

const [one, other] = [memorySource('one', new Uint8Array(16)), memorySource('other', new Uint8Array(16))];

test('two ranges of the same bytes are one key; other bytes and other sources are not', () => {
  const map = new RangeMap<string>();
  map.set({ source: one, offset: 4, byteLength: 8 }, 'here');
  expect(map.get({ source: one, offset: 4, byteLength: 8 })).toBe('here');
  expect(map.has({ source: one, offset: 4, byteLength: 4 })).toBe(false);
  expect(map.has({ source: one, offset: 0, byteLength: 8 })).toBe(false);
  expect(map.has({ source: other, offset: 4, byteLength: 8 })).toBe(false);
  map.set({ source: one, offset: 4, byteLength: 8 }, 'there');
  expect(map.inFileOrder()).toEqual(['there']);
});

test('values come source by source, and by offset within each', () => {
  const map = new RangeMap<number>();
  map.set({ source: one, offset: 12, byteLength: 4 }, 3);
  map.set({ source: other, offset: 0, byteLength: 4 }, 4);
  map.set({ source: one, offset: 0, byteLength: 8 }, 1);
  map.set({ source: one, offset: 8, byteLength: 4 }, 2);
  expect(map.inFileOrder()).toEqual([1, 2, 3, 4]);
});

test('one range read as two things is two keys', () => {
  const map = new RangeMap<number>();
  map.set({ source: one, offset: 0, byteLength: 8 }, 1, 'F32[2]');
  map.set({ source: one, offset: 0, byteLength: 8 }, 2, 'I64[]');
  expect(map.get({ source: one, offset: 0, byteLength: 8 }, 'F32[2]')).toBe(1);
  expect(map.has({ source: one, offset: 0, byteLength: 8 }, 'I64[1]')).toBe(false);
});
