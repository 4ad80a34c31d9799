import { describe, expect, test } from 'vitest';
import { BufferedReader } from '../../src/io/cursor.js';
import { countingSource } from '../build/sources.js';

const KIB = 1024;

function countingBytes(byteLength: number) {
  return countingSource(
    'bytes',
    Uint8Array.from({ length: byteLength }, (_, i) => i % 251),
  );
}

describe('a buffered reader', () => {
  test('reads bytes, views and copies one behind the other', async () => {
    const reader = new BufferedReader(countingBytes(100));
    await reader.fill(10);
    expect(reader.readByte()).toBe(0);
    expect([...reader.takeView(3)]).toEqual([1, 2, 3]);
    const copy = new Uint8Array(4);
    await reader.readInto(copy);
    expect([...copy]).toEqual([4, 5, 6, 7]);
    expect(reader.position).toBe(8);
  });

  test('copies more than its window holds', async () => {
    const reader = new BufferedReader(countingBytes(300 * KIB));
    await reader.fill(1);
    const copy = new Uint8Array(200 * KIB);
    await reader.readInto(copy);
    expect(copy[200 * KIB - 1]).toBe((200 * KIB - 1) % 251);
    expect(reader.position).toBe(200 * KIB);
  });

  test('reads little after every jump', async () => {
    const source = countingBytes(1000 * KIB);
    const reader = new BufferedReader(source);
    for (let i = 0; i < 9; i++) {
      await reader.fill(20);
      reader.skip(100 * KIB);
    }
    expect(source.bytesRead).toBe(9 * 4 * KIB);
  });

  test('reads in ever larger steps while it goes on', async () => {
    let reads = 0;
    const source = countingBytes(1000 * KIB);
    const counted = {
      ...source,
      readInto: (target: Uint8Array, at: number) => {
        reads++;
        return source.readInto(target, at);
      },
    };
    const reader = new BufferedReader(counted);
    for (let i = 0; i < 1000 * KIB; i++) {
      if (!reader.has(1)) await reader.fill(1);
      reader.readByte();
    }
    expect(reads).toBeLessThan(25);
  });

  test('has whatever is left near the end, and says where bytes are missing', async () => {
    const reader = new BufferedReader(countingBytes(2));
    await reader.fill(20);
    expect(reader.has(20)).toBe(true);
    reader.skip(2);
    expect(() => reader.readByte()).toThrow(
      expect.objectContaining({ code: 'truncated', file: 'bytes', offset: 2 }),
    );
  });

  test('never reads beyond the end it was given', async () => {
    const source = countingBytes(1000);
    const reader = new BufferedReader(source, 10, 15);
    await reader.fill(20);
    expect(source.bytesRead).toBe(5);
    expect([...reader.takeView(5)]).toEqual([10, 11, 12, 13, 14]);
    expect(() => reader.readByte()).toThrow('cut short');
  });
});
