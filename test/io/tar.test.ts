import { expect, test } from 'vitest';
import { memorySource } from '../../src/io/byte-source.js';
import { listTar } from '../../src/io/tar.js';
import { failureOf } from '../build/failure.js';

/** Headers of empty files, by their numbers. */
function tarOf(count: number): Uint8Array {
  const bytes = new Uint8Array(512 * (count + 2));
  for (let index = 0; index < count; index++)
    bytes.set(Buffer.from(`${`f${index}`.padEnd(124, '\0') + '00000000000\0'.padEnd(32)}0`), 512 * index);
  return bytes;
}

test('every member is listed, so that one checkpoint is known to be the only one', async () => {
  expect((await listTar(memorySource('m.tar', tarOf(100)))).has('f99')).toBe(true);
});

test('an archive of more members than any checkpoint has is refused', async () => {
  const { code } = await failureOf(() => listTar(memorySource('m.tar', tarOf(10_001))));
  expect(code).toBe('limit-exceeded');
});
