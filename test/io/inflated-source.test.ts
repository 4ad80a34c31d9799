import { deflateRawSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { readRange } from '../../src/io/byte-source.js';
import { type Deflated, InflatedKeeper, inflatedSource } from '../../src/io/inflated-source.js';
import { failureOf } from '../build/failure.js';
import { countingSource } from '../build/sources.js';

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

  test('lets the bytes be checked before they are read', async () => {
    const check = () => {
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
