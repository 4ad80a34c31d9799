import { describe, expect, test } from 'vitest';
import { decodeFloats } from '../../../src/checkpoint/dtype.js';
import { readNpy, readNpz } from '../../../src/formats/numpy/npy.js';
import { memorySource, readRange } from '../../../src/io/byte-source.js';
import { openZip } from '../../../src/io/zip.js';
import { bytesOf, f32, f64 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { zip } from '../torch/build/zip-writer.js';
import { npy } from './build-npy.js';

function fail(): never {
  throw new Error('there is no array');
}

const open = (bytes: Uint8Array) =>
  readNpy({ source: memorySource('x.npy', bytes), offset: 0, byteLength: bytes.byteLength }, 'x.npy');

async function floatsOf(bytes: Uint8Array): Promise<{ shape: readonly number[]; values: readonly number[] }> {
  const { dtype, shape, range } = await open(bytes);
  return { shape, values: [...decodeFloats(await readRange(range), dtype)] };
}

describe('readNpy', () => {
  test.each([1, 2, 3])('reads version %i', async (version) => {
    expect(await floatsOf(npy('<f4', '(3,)', f32(1, 2, 3), { version }))).toEqual({
      shape: [3],
      values: [1, 2, 3],
    });
  });

  test('reads a scalar, and an empty array', async () => {
    expect(await floatsOf(npy('<f8', '()', f64(7)))).toEqual({ shape: [], values: [7] });
    expect(await floatsOf(npy('<f4', '(0, 3)', new Uint8Array()))).toEqual({ shape: [0, 3], values: [] });
  });

  test('reads big-endian elements as little-endian ones', async () => {
    const swapped = Uint8Array.from(f32(1, -2.5)).reverse();
    expect(await floatsOf(npy('>f4', '(2,)', swapped))).toEqual({ shape: [2], values: [-2.5, 1] });
  });

  test('reads Fortran order as row-major', async () => {
    const columns = f32(1, 4, 2, 5, 3, 6);
    expect(await floatsOf(npy('<f4', '(2, 3)', columns, { isFortran: true }))).toEqual({
      shape: [2, 3],
      values: [1, 2, 3, 4, 5, 6],
    });
  });

  test.each([
    ['|b1', 1, 'BOOL'],
    ['|i1', 1, 'I8'],
    ['|u1', 1, 'U8'],
    ['<f2', 2, 'F16'],
    ['<i2', 2, 'I16'],
    ['<u4', 4, 'U32'],
    ['<i8', 8, 'I64'],
  ])('knows %s', async (descr, width, dtype) => {
    expect((await open(npy(descr, '(2,)', new Uint8Array(2 * width)))).dtype).toBe(dtype);
  });

  test('takes keys in any order, and the long integers of Python 2', async () => {
    const header = "{'shape': (2L, ), 'fortran_order': False, 'descr': '<f4'}";
    expect(await floatsOf(npy('', '', f32(1, 2), { header }))).toEqual({ shape: [2], values: [1, 2] });
  });

  test.each<[string, Uint8Array, RegExp]>([
    ['other bytes', bytesOf('not an array at all'), /expected an \.npy array/],
    ['a version of the future', npy('<f4', '(1,)', f32(1), { version: 9 }), /version 1, 2 or 3, found 9/],
    [
      'a header beyond the end',
      npy('<f4', '(1,)', f32(1)).subarray(0, 30),
      /expected an \.npy header of \d+ bytes/,
    ],
    ['a huge header', bytesOf(0x93, 'NUMPY', 2, 0, 255, 255, 255, 127), /at most 10000 bytes/],
    ['pickled objects', npy('|O', '(1,)', bytesOf('pickle')), /pickled Python objects: refused/],
    [
      'records',
      npy('', '', f32(1), { header: "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}" }),
      /one of records/,
    ],
    ['text', npy('<U5', '(1,)', new Uint8Array(20)), /found the dtype "<U5"/],
    ['complex numbers', npy('<c8', '(1,)', new Uint8Array(8)), /found the dtype/],
    ['no byte order', npy('f4', '(1,)', f32(1)), /found the dtype/],
    ['too few elements', npy('<f4', '(3,)', f32(1, 2)), /expected 12 bytes .* found 8/],
    ['bytes behind the elements', npy('<f4', '(1,)', f32(1, 2)), /expected 4 bytes .* found 8/],
    ['a negative size', npy('<f4', '(-1,)', f32(1)), /descr, fortran_order and shape/],
    ['a size that is no tuple', npy('<f4', '(1)', f32(1)), /descr, fortran_order and shape/],
    [
      'a product beyond all bounds',
      npy('<f4', '(999999999999, 999999999999)', f32()),
      /at most 1099511627776 bytes/,
    ],
    [
      'a key that is missing',
      npy('', '', f32(1), { header: "{'descr': '<f4', 'shape': (1,)}" }),
      /descr, fortran_order/,
    ],
    [
      'a key twice',
      npy('', '', f32(1), {
        header: "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
      }),
      /descr, fortran_order/,
    ],
    [
      'code in place of a literal',
      npy('', '', f32(1), { header: "{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,)}" }),
      /descr, fortran_order/,
    ],
  ])('refuses %s', async (_, bytes, message) => {
    expect((await failureOf(() => open(bytes))).message).toMatch(message);
  });
});

describe('readNpz', () => {
  const openArchive = async (bytes: Uint8Array) => readNpz(await openZip(memorySource('x.npz', bytes)));
  const array = npy('<f4', '(2,)', f32(1, 2));

  test.each([false, true])('reads arrays by their names (deflated: %s)', async (isDeflated) => {
    const arrays = await openArchive(zip([{ name: 'input:0.npy', bytes: array, deflate: isDeflated }]));
    expect([...arrays.keys()]).toEqual(['input:0']);
    const tensor = await arrays.get('input:0')?.();
    expect(tensor?.shape).toEqual([2]);
    expect([...decodeFloats(await readRange(tensor?.range ?? fail()), 'F32')]).toEqual([1, 2]);
  });

  test('refuses an entry that is no array', async () => {
    expect((await failureOf(() => openArchive(zip([{ name: 'evil.pkl', bytes: array }])))).message).toMatch(
      /found the entry "evil\.pkl"/,
    );
  });

  test('refuses an entry that claims to inflate beyond what deflate can', async () => {
    const bomb = zip([{ name: 'x.npy', bytes: array, deflate: true, byteLength: 0x7fffffff }]);
    const read = async () => (await openArchive(bomb)).get('x')?.();
    expect((await failureOf(read)).message).toMatch(/can inflate to|at most \d+ bytes/);
  });

  test('refuses an entry that inflates to more than it claims', async () => {
    const lie = zip([{ name: 'x.npy', bytes: array, deflate: true, byteLength: array.length - 1 }]);
    expect((await failureOf(async () => (await openArchive(lie)).get('x')?.())).message).toMatch(
      /found more/,
    );
  });
});
