import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { CheckpointError } from '../../../src/errors.js';
import { openCheckpoint, openSource } from '../../../src/formats/open.js';
import { memorySource, readRange, sliceRange } from '../../../src/io/byte-source.js';
import { bytesOf, f32 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { floats, hdf5Bytes, link } from '../../build/hdf5.js';

const fixtures = fileURLToPath(new URL('../../../fixtures/keras/', import.meta.url));
const open = (name: string) => openCheckpoint(`${fixtures}${name}`);
const openBytes = (bytes: Uint8Array) => openSource(memorySource('m.h5', bytes), 'm.h5');

interface Expected {
  readonly files: readonly string[];
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

const expected: readonly Expected[] = JSON.parse(readFileSync(`${fixtures}storage/expected.json`, 'utf8'));

const DECODERS: Readonly<Record<string, (view: DataView, index: number) => number>> = {
  F16: (view, index) => halfOf(view.getUint16(2 * index, true)),
  F32: (view, index) => view.getFloat32(4 * index, true),
  F64: (view, index) => view.getFloat64(8 * index, true),
  I64: (view, index) => Number(view.getBigInt64(8 * index, true)),
  U8: (view, index) => view.getUint8(index),
};

function halfOf(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  return bits & 0x8000 ? -size : size;
}

describe('values are what h5py wrote', () => {
  const files = expected.flatMap((row) => row.files.map((name) => [name, row] as const));

  test('every file has its values', () => {
    const all = readdirSync(`${fixtures}storage`).filter((name) => name.endsWith('.h5'));
    expect(files.map(([name]) => `${name}.h5`).sort()).toEqual(all.sort());
  });

  test.each(files)('%s', async (name, { shape, values }) => {
    const { tensors } = await open(`storage/${name}.h5`);
    const tensor = tensors.get('layer/kernel');
    if (tensor === undefined) throw new Error(`no kernel among ${[...tensors.keys()]}`);
    expect(tensor.shape).toEqual(shape);
    const bytes = await readRange(tensor.range);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    expect(values.map((_, index) => DECODERS[tensor.dtype]?.(view, index))).toEqual(values);
    // The same in small pieces, from the back, as whoever asks for a few elements reads them.
    const size = 28;
    for (let start = bytes.length - size; start > 0; start -= Math.max(size, Math.floor(bytes.length / 12)))
      expect(await readRange(sliceRange(tensor.range, start, start + size))).toEqual(
        bytes.slice(start, start + size),
      );
  });
});

describe('what reaches outside of the file, or is not read, is refused by name', () => {
  test.each([
    ['external-link', 'refused', 'group "layer": "kernel" is a link to another file (external link)'],
    ['external-link-latest', 'refused', 'is a link to another file (external link), which is not followed'],
    ['external-storage', 'refused', 'dataset "kernel": its values lie in another file (external storage)'],
    ['virtual', 'refused', 'dataset "kernel": is virtual: its values lie in other files'],
    ['lzf', 'unsupported', 'dataset "kernel": is filtered by lzf (32000)'],
    ['not-stored', 'unsupported', 'dataset "kernel": expected values, found none stored'],
  ])('%s', async (name, code, words) => {
    const failure = await failureOf(() => open(`refused/${name}.h5`));
    expect(failure.message).toContain(words);
    expect(failure.code).toBe(code);
  });
});

describe('indexes of chunks that lie', () => {
  /** A file of storage/ with bytes changed behind a structure's signature. */
  const withBytes = (name: string, tag: string, at: number, ...values: readonly number[]) => {
    const bytes = readFileSync(`${fixtures}storage/${name}.h5`);
    bytes.set(values, bytes.indexOf(tag) + at);
    return openBytes(bytes);
  };

  test.each<readonly [what: string, file: string, tag: string, at: number, values: number[], words: string]>([
    ['pages that were never written', 'paged-latest', 'FADB', 14, [0x40], 'expected 1100 chunks, found 76'],
    ['a fixed array of others', 'roomy-latest', 'FAHD', 8, [1], 'a fixed array of 27 chunks, found 1'],
    ['entries without room', 'roomy-latest', 'FAHD', 6, [4], 'found entries of 4 bytes'],
    ['no extensible array', 'growing-latest', 'EAHD', 0, [0], 'expected an extensible array of chunks'],
    ['data blocks of no size', 'growing-latest', 'EAHD', 9, [0], 'found sizes that none has'],
    ['super blocks of three', 'growing-latest', 'EAHD', 10, [3], 'found sizes that none has'],
    ['more entries than the file', 'growing-latest', 'EAHD', 8, [255], 'expected a block EADB'],
    ['pages of an entry', 'growing-long-latest', 'EAHD', 11, [0], 'found one in pages'],
    ['an index block elsewhere', 'growing-latest', 'EAHD', 60, [9, 9, 9, 9], 'found the end of the file'],
    ['another block', 'growing-long-latest', 'EASB', 0, [0], 'expected a block EASB'],
    ['chunks beyond the dataset', 'growing-twice-latest', 'BTLF', 14, [9], 'begins in its dataset'],
    ['chunks beyond the file', 'growing-twice-latest', 'BTLF', 10, [9], 'found the end of the file'],
    ['filters in a tree without', 'growing-twice-latest', 'BTHD', 5, [11], 'a B-tree of the other kind'],
  ])('%s', async (_, file, tag, at, values, words) => {
    expect((await failureOf(() => withBytes(file, tag, at, ...values))).message).toContain(words);
  });

  test('blocks that are all the same one', async () => {
    const bytes = readFileSync(`${fixtures}storage/growing-long-latest.h5`);
    const [index, first] = [bytes.indexOf('EAIB'), bytes.indexOf('EADB')];
    const [direct, dataBlocks] = [14 + 4 * 14, 6];
    for (let block = 0; block < dataBlocks; block++)
      bytes.writeBigUInt64LE(BigInt(first), index + direct + 8 * block);
    await openBytes(bytes).catch((error: unknown) => expect(error).toBeInstanceOf(CheckpointError));
    // A level beyond the dataset: as many blocks as it has room for, at one place.
    const superBlock = bytes.indexOf('EASB');
    for (let level = 0; level < 24; level++)
      bytes.writeBigUInt64LE(BigInt(superBlock), index + direct + 8 * (dataBlocks + level));
    expect((await failureOf(() => openBytes(bytes))).code).toMatch(/truncated|malformed|limit-exceeded/);
  });
});

describe('hostile datasets', () => {
  const datasetWith = (messages: Parameters<typeof hdf5Bytes>[0][string]) =>
    openBytes(hdf5Bytes({ root: [link('kernel', 'kernel')], kernel: messages }));
  const [space, type] = floats([4], f32(1, 2, 3, 4));
  const header = (
    shape: readonly number[],
    layout: Uint8Array,
    ...more: Parameters<typeof hdf5Bytes>[0][string]
  ) => {
    const [dataspace] = floats(shape, f32(0));
    if (dataspace === undefined || type === undefined || space === undefined) throw new Error('no message');
    return datasetWith([dataspace, type, [0x08, layout], ...more]);
  };
  const u64 = (value: number | bigint) => new Uint8Array(BigUint64Array.of(BigInt(value)).buffer);
  const u32 = (value: number) => new Uint8Array(Uint32Array.of(value).buffer);
  const chunkedBy = (...sizes: readonly number[]) =>
    Uint8Array.of(3, 2, sizes.length + 1, ...u64(48), ...[...sizes, 4].flatMap((size) => [...u32(size)]));

  test('in the header', async () => {
    const { tensors } = await datasetWith(floats([2], f32(1, 2)));
    const tensor = tensors.get('kernel');
    expect(tensor && (await readRange(tensor.range))).toEqual(f32(1, 2));
  });

  test.each<readonly [name: string, shape: readonly number[], layout: Uint8Array, words: string]>([
    [
      'values beyond the file',
      [4],
      Uint8Array.of(3, 1, ...u64(2 ** 40), ...u64(16)),
      'expected 16 bytes at 1099511627776',
    ],
    ['fewer values than the shape has', [4], Uint8Array.of(3, 1, ...u64(8), ...u64(4)), 'found 4 in a file'],
    [
      'a header that is too short',
      [4],
      Uint8Array.of(3, 0, 4, 0, 0, 0, 0, 0),
      'expected 16 bytes in its header',
    ],
    ['a layout of long ago', [4], Uint8Array.of(1, 1, 1, 0), 'a data layout of version 3 to 5'],
    ['chunks of nothing', [4], chunkedBy(0), 'expected chunks of elements of 4 bytes'],
    ['chunks of another rank', [4], chunkedBy(2, 2), 'expected chunks of 1 dimensions, found 2'],
    ['a billion chunks', [2 ** 30], chunkedBy(1), 'at most 100000 chunks, found 1073741824'],
    [
      'chunks of more than any number of rows',
      [4, 10],
      Uint8Array.of(
        4,
        2,
        0,
        3,
        200,
        1,
        ...new Uint8Array(199),
        ...Array(200).fill(255),
        4,
        ...new Uint8Array(199),
        1,
      ),
      'expected chunks of elements of 4 bytes',
    ],
    ['chunks that are wide as a terabyte', [4, 2 ** 30], chunkedBy(4, 2 ** 28), 'make up whole rows'],
    ['a tree that is none', [4], chunkedBy(4), 'expected a B-tree'],
    ['an index of a seventh kind', [4], bytesOf(4, 2, 0, 2, 1, 4, 4, 6, u64(0)), 'of chunks, found number 6'],
  ])('%s', async (_, shape, layout, words) => {
    expect((await failureOf(() => header(shape, layout))).message).toContain(words);
  });

  test('a filter by a number that no one knows', async () => {
    const pipeline = Uint8Array.of(2, 1, 0x39, 0x30, 0, 0, 0, 0, 0, 0);
    expect((await failureOf(() => header([4], chunkedBy(4), [0x0b, pipeline]))).message).toContain(
      'an unknown filter (12345)',
    );
  });

  test('more filters than HDF5 itself has one behind the other', async () => {
    const pipeline = Uint8Array.of(2, 33, ...Array(33).fill([2, 0, 0, 0, 1, 0, 4, 0, 0, 0]).flat());
    expect((await failureOf(() => header([4], chunkedBy(4), [0x0b, pipeline]))).message).toContain(
      'at most 32 filters, found 33',
    );
  });

  test.each([
    'gzip',
    'gzip-latest',
    'gzip-shuffle-checksum',
    'paged-latest',
    'growing-long-latest',
    'growing-twice-gzip-latest',
  ])('%s with any byte changed is read or refused', async (name) => {
    const bytes = Uint8Array.from(readFileSync(`${fixtures}storage/${name}.h5`));
    for (let at = 8; at < bytes.length; at += 1 + Math.floor(bytes.length / 150)) {
      const changed = bytes.slice();
      changed[at] = (changed[at] ?? 0) ^ 0xff;
      try {
        const { tensors } = await openBytes(changed);
        for (const { range } of tensors.values()) await readRange(range);
      } catch (error) {
        expect(error).toBeInstanceOf(CheckpointError);
      }
    }
  });
});
