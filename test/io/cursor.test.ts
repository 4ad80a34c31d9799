import { describe, expect, test } from 'vitest';
import { Cursor } from '../../src/io/cursor.js';
import { bytesOf, i64, u64 } from '../build/bytes.js';
import { failureOf } from '../build/failure.js';

const cursorOver = (bytes: Uint8Array) =>
  new Cursor(bytes, { file: 'f', baseOffset: 1000, subject: 'the header' });

describe('a cursor', () => {
  test('reads little-endian numbers one after the other', () => {
    const cursor = cursorOver(bytesOf(1, 2, 0, 3, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, u64(2n ** 63n), i64(-9)));
    expect(cursor.readU8()).toBe(1);
    expect(cursor.readU16()).toBe(2);
    expect(cursor.readU32()).toBe(3);
    expect(cursor.readI32()).toBe(-1);
    expect(cursor.readU64()).toBe(2n ** 63n);
    expect(cursor.readI64()).toBe(-9n);
    expect(cursor.remaining).toBe(0);
  });

  test('reads texts of both lengths, and lines with either ending', () => {
    const long = 'é'.repeat(100);
    const cursor = cursorOver(bytesOf('abc', 'é', long, 'one\n', 'two\r\n', '\n'));
    expect(cursor.readText(3)).toBe('abc');
    expect(cursor.readText(2)).toBe('é');
    expect(cursor.readText(200)).toBe(long);
    expect([cursor.readTextLine(), cursor.readTextLine(), cursor.readTextLine()]).toEqual(['one', 'two', '']);
  });

  test('tells where in the file it is', () => {
    const cursor = cursorOver(new Uint8Array(8));
    cursor.skip(3);
    expect(cursor.fileOffset()).toBe(1003);
    expect(
      new Cursor(new Uint8Array(1), { file: 'f', baseOffset: null, subject: 'x' }).fileOffset(),
    ).toBeUndefined();
  });

  test.each<[string, (cursor: Cursor) => unknown, string]>([
    ['a number', (cursor) => cursor.readU32(), 'expected 4 bytes, found only 2 before the end of the header'],
    [
      'bytes beyond any file',
      (cursor) => cursor.readBytes(2n ** 63n),
      'expected 9223372036854775808 bytes, found only 2',
    ],
    ['a negative count', (cursor) => cursor.readBytes(-1), 'expected -1 bytes'],
    ['a line without an end', (cursor) => cursor.readTextLine(), 'expected a line, found only 2'],
  ])('refuses %s', async (_, read, message) => {
    const failure = await failureOf(() => read(cursorOver(Uint8Array.of(1, 2))));
    expect(failure).toMatchObject({
      code: 'truncated',
      offset: 1000,
      message: expect.stringContaining(message),
    });
  });
});
