import { deflateRawSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { readRange } from '../../src/io/byte-source.js';
import { crc32, type Deflated, InflatedKeeper, inflatedSource } from '../../src/io/zip.js';
import { failureOf } from '../build/failure.js';
import { type CountingSource, countingSource } from '../build/sources.js';

const PLAIN = Uint8Array.from({ length: 300_000 }, (_, i) => (i * i) % 251);

function deflated(
  changes: Partial<Deflated> = {},
  packed = Uint8Array.from(deflateRawSync(PLAIN)),
): Deflated {
  const source = countingSource('z', packed);
  const range = { source, offset: 0, byteLength: packed.length };
  return { range, byteLength: PLAIN.length, subject: 'the record', check: () => {}, ...changes };
}

describe('an inflated source', () => {
  test('reads any piece, and inflates once', async () => {
    const packed = deflated();
    const source = inflatedSource(packed, new InflatedKeeper());
    expect([...(await readRange({ source, offset: 1000, byteLength: 50 }))]).toEqual([
      ...PLAIN.subarray(1000, 1050),
    ]);
    expect([...(await readRange({ source, offset: 10, byteLength: 5 }))]).toEqual([
      ...PLAIN.subarray(10, 15),
    ]);
    expect(packed.range.source).toMatchObject({ bytesRead: packed.range.byteLength });
  });

  test('lets a small record be checked before it is read', async () => {
    const check = (crc: number) => {
      expect(crc).toBe(crc32(PLAIN));
      throw new Error('wrong checksum');
    };
    const source = inflatedSource(deflated({ check }), new InflatedKeeper());
    await expect(source.readInto(new Uint8Array(1), 0)).rejects.toThrow('wrong checksum');
  });

  test.each([
    ['found more', { byteLength: 100 }, undefined],
    ['expected 400000 bytes after inflating the record, found 300000', { byteLength: 400_000 }, undefined],
    ['found bytes that do not inflate', {}, Uint8Array.of(7, 7, 7, 7)],
    ['found bytes that do not inflate', {}, Uint8Array.from(deflateRawSync(PLAIN)).subarray(0, 500)],
  ])('%s', async (message, changes, packed) => {
    const source = inflatedSource(deflated(changes, packed), new InflatedKeeper());
    const failure = await failureOf(() => source.readInto(new Uint8Array(1), 0));
    expect(failure).toMatchObject({ code: 'malformed', message: expect.stringContaining(message) });
  });
});

describe('a large inflated source', () => {
  const LARGE = 24 * 1024 * 1024;
  const large = Uint8Array.from({ length: LARGE }, (_, i) => (i >>> 10) % 251);
  const packed = Uint8Array.from(deflateRawSync(large, { level: 1 }));
  const open = (changes: Partial<Deflated> = {}, bytes = packed) => {
    const facts = deflated({ byteLength: LARGE, ...changes }, bytes);
    const source = inflatedSource(facts, new InflatedKeeper());
    const read = (offset: number, byteLength = 1) => readRange({ source, offset, byteLength });
    return { read, passes: () => (facts.range.source as CountingSource).bytesRead / bytes.byteLength };
  };

  test('is inflated once for reads from front to back, and for those a little way back', async () => {
    const { read, passes } = open();
    for (let at = 0; at < LARGE; at += 1_000_000) {
      const end = Math.min(LARGE, at + 900_000);
      expect(Buffer.compare(await read(at, end - at), large.subarray(at, end))).toBe(0);
      expect((await read(Math.max(0, at - 1_000_000)))[0]).toBe(large[Math.max(0, at - 1_000_000)]);
    }
    expect(passes()).toBe(1);
  });

  test('is inflated as far as it is read', async () => {
    const { read, passes } = open();
    await read(100);
    expect(passes()).toBeLessThan(0.5);
  });

  test('is inflated again for what lies far back', async () => {
    const { read } = open();
    expect((await read(LARGE - 1))[0]).toBe(large[LARGE - 1]);
    expect((await read(5000))[0]).toBe(large[5000]);
  });

  test('answers reads that are asked for at once', async () => {
    const { read } = open();
    const places = [LARGE - 1, 5000, 12_000_000, 0];
    const found = await Promise.all(places.map((at) => read(at)));
    expect(found.map(([byte]) => byte)).toEqual(places.map((at) => large[at]));
  });

  test('is refused where its end does not hold', async () => {
    const check = () => {
      throw new Error('wrong checksum');
    };
    await expect(open({ check }).read(LARGE - 1)).rejects.toThrow('wrong checksum');
    const failures = [
      await failureOf(() => open({ byteLength: LARGE - 1 }).read(LARGE - 2)),
      await failureOf(() => open({ byteLength: LARGE + 1 }).read(LARGE)),
      await failureOf(() => open({}, packed.subarray(0, -9)).read(LARGE - 1)),
    ];
    expect(failures.map(({ message }) => message)).toEqual([
      expect.stringContaining('found more'),
      `expected ${LARGE + 1} bytes after inflating the record, found ${LARGE}`,
      expect.stringContaining('found bytes that do not inflate'),
    ]);
  });

  test('is not inflated again and again for bytes here and there', async () => {
    const { read, passes } = open();
    const failure = await failureOf(async () => {
      for (let i = 0; i < 100; i++) await read(i % 2 === 0 ? LARGE - 1 : 0);
    });
    expect(failure).toMatchObject({
      code: 'limit-exceeded',
      message: expect.stringContaining('expected to inflate at most 536870912 bytes on the way'),
    });
    expect(passes()).toBeLessThan(30);
  });
});
