import { expect, test } from 'vitest';
import { type ByteRange, memorySource, refuseAmplified } from '../../src/io/byte-source.js';
import { byteSwapped, stridedSource } from '../../src/io/views.js';
import { InflatedKeeper, inflatedSource } from '../../src/io/zip.js';
import { failureOf } from '../build/failure.js';

const MIB = 1024 * 1024;
const bytes = new Uint8Array(4 * MIB);
const file = memorySource('m.pt', bytes);
const range = (offset: number, byteLength: number): ByteRange => ({ source: file, offset, byteLength });
const wholeOf = (source: ByteRange['source']): ByteRange => ({
  source,
  offset: 0,
  byteLength: source.byteLength,
});
const expanded = (count: number) =>
  wholeOf(
    stridedSource(range(0, 4), { shape: [count], strides: [0], firstElement: 0, elementByteLength: 4 }),
  );
const isRefused = async (...ranges: readonly ByteRange[]) => {
  try {
    refuseAmplified(ranges, 'm.pt');
    return false;
  } catch {
    return true;
  }
};

test('tensors may claim sixteen times what is stored for them, and 16 MiB', async () => {
  expect(await isRefused(...Array(16).fill(range(0, 4 * MIB)))).toBe(false);
  expect(await isRefused(...Array(20).fill(range(0, 4 * MIB)))).toBe(false);
  expect(await isRefused(...Array(21).fill(range(0, 4 * MIB)))).toBe(true);
  expect(await isRefused(expanded(4 * MIB))).toBe(false);
  expect(await isRefused(expanded(4 * MIB + 17))).toBe(true);
});

test('what overlaps is stored once', async () => {
  const overlapping = Array.from({ length: 40 }, (_, i) => range(i * 4, MIB));
  expect(await isRefused(...overlapping.slice(0, 30))).toBe(false);
  expect(await isRefused(...overlapping)).toBe(true);
});

test('views of views are seen through', async () => {
  expect(await isRefused(byteSwapped(expanded(5 * MIB), 4))).toBe(true);
  const packed = { range: range(0, 1000), byteLength: 40 * MIB, subject: 'the record', check: () => {} };
  expect(await isRefused(wholeOf(inflatedSource(packed, new InflatedKeeper())))).toBe(true);
});

test('the error says how much is stored and claimed, and the way out', async () => {
  expect(await failureOf(() => refuseAmplified([expanded(2 ** 28)], 'm.pt'))).toEqual({
    message:
      'expected tensors and records of at most 16 times the 4 bytes that are stored for them, found 1073741824 bytes',
    code: 'limit-exceeded',
    file: 'm.pt',
    hint: expect.stringContaining('.clone()'),
  });
});

test('what is written for tensors is held against what is stored for them too', async () => {
  expect(await failureOf(() => refuseAmplified([range(0, 8)], 'm.pt', 17 * MIB))).toMatchObject({
    code: 'limit-exceeded',
  });
});
