import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { CheckpointError } from '../../../src/errors.js';
import { type Hdf5Group, readHdf5 } from '../../../src/formats/keras/hdf5.js';
import { memorySource, wholeOf } from '../../../src/io/byte-source.js';
import { failureOf } from '../../build/failure.js';

const BYTES = readFileSync(
  fileURLToPath(new URL('../../../fixtures/keras/dense-latest.h5', import.meta.url)),
);

const read = async (bytes: Uint8Array): Promise<Hdf5Group> =>
  (await readHdf5(wholeOf(memorySource('dense.h5', bytes)))).root;

/** Where a structure's signature stands, the n-th time. */
const placeOf = (tag: string, nth = 0): number => {
  let at = BYTES.indexOf(tag);
  for (let count = 0; count < nth; count++) at = BYTES.indexOf(tag, at + 1);
  return at;
};

function withBytes(at: number, ...values: readonly number[]): Uint8Array {
  const bytes = Uint8Array.from(BYTES);
  bytes.set(values, at);
  return bytes;
}

describe('a group whose members and attributes are kept in fractal heaps', () => {
  test('has all members, by name', async () => {
    const { members } = await read(BYTES);
    const names = Array.from({ length: 60 }, (_, index) => `kernel${index}`);
    expect([...members.keys()]).toEqual(names.sort());
    expect([...members.values()].every(({ kind }) => kind === 'dataset')).toBe(true);
  });

  test('has all attributes, the one that is too long for a block as well', async () => {
    const { attributes } = await read(BYTES);
    const textOf = (index: number) => `${index} `.repeat(index === 7 ? 2100 : index).trimEnd();
    expect(Object.fromEntries(attributes)).toEqual(
      Object.fromEntries(Array.from({ length: 12 }, (_, index) => [`note${index}`, [textOf(index)]])),
    );
  });
});

describe('a hostile heap', () => {
  test.each<[string, Uint8Array, string]>([
    ['is no heap', withBytes(placeOf('FRHP'), 0), 'malformed: expected a fractal heap, found other bytes'],
    [
      'with filters',
      withBytes(placeOf('FRHP') + 7, 4),
      'unsupported: expected a fractal heap without filters',
    ],
    [
      'without a table',
      withBytes(placeOf('FRHP') + 110, 0, 0),
      'malformed: expected a fractal heap, found sizes',
    ],
    [
      'with an odd block size',
      withBytes(placeOf('FRHP') + 112, 3),
      'malformed: expected a fractal heap, found sizes',
    ],
    [
      'with a tree of another kind',
      withBytes(placeOf('BTHD') + 5, 99),
      'malformed: expected a B-tree of the other kind',
    ],
    [
      'with more records than room',
      withBytes(placeOf('BTHD') + 24, 255, 255),
      'malformed: expected a node of a B-tree, found more',
    ],
  ])('%s', async (_, bytes, message) => {
    const { code, message: said } = await failureOf(() => read(bytes));
    expect(`${code}: ${said}`).toContain(message);
  });

  test('with an inner node that leads to itself ends', async () => {
    const bytes = Uint8Array.from(BYTES);
    const at = placeOf('BTIN');
    // Every address behind the records becomes the node's own; it is no leaf then.
    const own = new Uint8Array(BigUint64Array.of(BigInt(at)).buffer);
    for (let place = at + 6; place + 8 < at + 512; place++) bytes.set(own, place);
    await expect(read(bytes)).rejects.toBeInstanceOf(CheckpointError);
  });

  test('with any byte changed is read or refused', async () => {
    for (let at = 8; at < BYTES.length; at += 211)
      for (const value of [0, 0xff])
        await read(withBytes(at, value)).catch((error: unknown) =>
          expect(error).toBeInstanceOf(CheckpointError),
        );
  });
});
