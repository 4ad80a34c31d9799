import { expect, test } from 'vitest';
import { crc32, crcByTable } from '../../src/io/zip.js';
import { utf8 } from '../build/bytes.js';

test.each([
  ['', 0],
  ['123456789', 0xcbf43926],
  ['The quick brown fox jumps over the lazy dog', 0x414fa339],
])('the CRC-32 of %j', (text, crc) => {
  expect(crc32(utf8(text))).toBe(crc);
  expect(crcByTable(utf8(text))).toBe(crc);
});

test('bytes may come in pieces', () => {
  for (const of of [crc32, crcByTable]) expect(of(utf8('56789'), of(utf8('1234')))).toBe(0xcbf43926);
});
