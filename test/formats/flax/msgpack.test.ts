import { describe, expect, test } from 'vitest';
import { isArray, isMap, type MsgpackValue, readMsgpack } from '../../../src/formats/flax/msgpack.js';
import { memorySource, readRange } from '../../../src/io/byte-source.js';
import { bytesOf, f32 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { countingSource } from '../../build/sources.js';
import { arrayOf, type Packable, pack, withLength } from './build/msgpack-writer.js';

const read = (bytes: Uint8Array) => readMsgpack(memorySource('x.msgpack', bytes));

/** Maps as objects, arrays as their type, shape and bytes. */
async function plain(value: MsgpackValue): Promise<unknown> {
  if (isMap(value)) {
    const entries = [...value].map(async ([key, member]) => [key, await plain(member)] as const);
    return Object.fromEntries(await Promise.all(entries));
  }
  if (!isArray(value)) return value;
  return `${value.dtype} [${value.shape}] ${Buffer.from(await readRange(value.range)).toString('hex')}`;
}

describe('a value of msgpack', () => {
  const HEX = Buffer.from(f32(1, 2, 3, 4)).toString('hex');
  const values: readonly (readonly [what: string, value: Uint8Array | Packable, found: unknown])[] = [
    ['a small number', Uint8Array.of(7), 7],
    [
      'numbers of every width',
      [Uint8Array.of(0xcc, 200), Uint8Array.of(0xcd, 1, 0), 65536],
      { 0: 200, 1: 256, 2: 65536 },
    ],
    ['a number of eight bytes', Uint8Array.of(0xcf, 0, 0, 0, 1, 0, 0, 0, 0), 2 ** 32],
    [
      'numbers below zero',
      [Uint8Array.of(0xff), Uint8Array.of(0xd0, 0x80), Uint8Array.of(0xd3, 255, 0, 0, 0, 0, 0, 0, 0)],
      { 0: null, 1: null, 2: null },
    ],
    [
      'nothing, truth, floats',
      [Uint8Array.of(0xc0), Uint8Array.of(0xc3), bytesOf(0xca, f32(1)), bytesOf(0xcb, new Uint8Array(8))],
      { 0: null, 1: null, 2: null, 3: null },
    ],
    [
      'texts and bytes',
      ['text', Uint8Array.of(0xa1, 0x41), Uint8Array.of(0xc4, 1, 0)],
      { 0: null, 1: null, 2: null },
    ],
    [
      'other extensions',
      [Uint8Array.of(0xd4, 2, 0), Uint8Array.of(0xd8, 9, ...new Uint8Array(16)), Uint8Array.of(0xc7, 0, 2)],
      { 0: null, 1: null, 2: null },
    ],
    [
      'short lists and maps',
      [
        Uint8Array.of(0x92, 1, 2),
        Uint8Array.of(0x81, 0xa1, 0x41, 1),
        Uint8Array.of(0xde, 0, 1, 0xa1, 0x41, 1),
      ],
      { 0: { 0: 1, 1: 2 }, 1: { A: 1 }, 2: { A: 1 } },
    ],
    ['a map by numbers, as NNX has lists', Uint8Array.of(0x81, 3, 1), { 3: 1 }],
    ['an array', { a: arrayOf() }, { a: `F32 [4] ${HEX}` }],
    [
      'a number of NumPy’s',
      { a: arrayOf({ shape: [], extension: 3, data: f32(1) }) },
      { a: `F32 [] ${HEX.slice(0, 8)}` },
    ],
    ['an empty array', { a: arrayOf({ shape: [0, 3], data: f32() }) }, { a: 'F32 [0,3] ' }],
    ['an array of a type that is no tensor here', { a: arrayOf({ type: 'complex128' }) }, { a: null }],
    [
      'an array in pieces, by their numbers',
      {
        __msgpack_chunked_array__: 1,
        shape: { 0: 2, 1: 4 },
        chunks: { 1: arrayOf({ data: f32(5, 6, 7, 8) }), 0: arrayOf() },
      },
      `F32 [2,4] ${Buffer.from(f32(1, 2, 3, 4, 5, 6, 7, 8)).toString('hex')}`,
    ],
  ];

  test.each(values)('%s', async (_, value, found) => {
    expect(await plain((await read(pack(value))).root)).toEqual(found);
  });

  test('types that are left out are named', async () => {
    expect([...(await read(pack({ a: arrayOf({ type: 'int4' }) }))).unknownTypes]).toEqual(['int4']);
  });

  test('the elements of large arrays are stepped over', async () => {
    const large = arrayOf({ shape: [1_000_000], data: new Uint8Array(4_000_000) });
    const source = countingSource('x', pack({ a: large, b: large, c: large }));
    const { root } = await readMsgpack(source);
    expect(isMap(root) && root.size).toBe(3);
    expect(source.bytesRead).toBeLessThan(20_000);
  });
});

describe('a hostile file', () => {
  const nested = (depth: number) =>
    bytesOf(...Array.from({ length: depth }, () => Uint8Array.of(0x81, 0xa1, 0x41)), 1);
  const files: readonly (readonly [what: string, value: Packable, message: RegExp, code?: string])[] = [
    [
      'a map of more than the file holds',
      withLength(0xdf, 0xffff_ffff),
      /expected msgpack’s map of 4294967295, found 0 bytes/,
      'truncated',
    ],
    [
      'a list of more than the file holds',
      withLength(0xdd, 1000),
      /list of 1000, found 0 bytes/,
      'truncated',
    ],
    [
      'an extension beyond the end',
      bytesOf(withLength(0xc9, 50), 1, 0x93),
      /extension of 50, found 1 bytes/,
      'truncated',
    ],
    ['a text beyond the end', bytesOf(0x81, withLength(0xdb, 9)), /text of 9/, 'truncated'],
    ['a head that is cut off', Uint8Array.of(0xdf, 1), /end of the file/, 'truncated'],
    [
      'a map that is cut off',
      Uint8Array.of(0x82, 0xa1, 0x41, 1),
      /map of 2, found 3 bytes|end of the file/,
      'truncated',
    ],
    ['a byte that begins nothing', Uint8Array.of(0x81, 0xa1, 0x41, 0xc1), /found the byte 0xc1/],
    ['bytes behind the value', bytesOf(pack({ a: 1 }), 0), /found 1 more bytes/],
    ['a key twice', Uint8Array.of(0x82, 0xa1, 0x41, 1, 0xa1, 0x41, 1), /found "A" twice/],
    [
      'a key that is a map',
      Uint8Array.of(0x81, 0x80, 1),
      /name as the key of a map, found msgpack’s map of 0/,
    ],
    [
      'a long key',
      bytesOf(0x81, withLength(0xdb, 2000), 'x'.repeat(2000), 1),
      /name of at most 1024 bytes, found 2000/,
      'limit-exceeded',
    ],
    ['maps without end', nested(5000), /nested at most 100 deep/, 'limit-exceeded'],
    [
      'more values than any model has',
      pack([bytesOf(withLength(0xdd, 301_000), new Uint8Array(301_000))]),
      /at most 300000 values/,
      'limit-exceeded',
    ],
    [
      'an array that is no list',
      { a: bytesOf(withLength(0xc9, 1), 1, 7) },
      /array as shape, type and bytes, found msgpack’s integer/,
    ],
    [
      'an array of other parts',
      { a: bytesOf(withLength(0xc9, 2), 1, 0x91, 7) },
      /array as shape, type and bytes, found msgpack’s list of 1/,
    ],
    [
      'a shape that is no list',
      { a: arrayOf({ shape: 4 }) },
      /the shape of an array, found msgpack’s integer/,
    ],
    [
      'a size below zero',
      { a: arrayOf({ shape: [Uint8Array.of(0xff)] }) },
      /a dimension, found msgpack’s other value/,
    ],
    [
      'a shape that overflows',
      { a: arrayOf({ shape: Array.from({ length: 40 }, () => 0xffff_ffff) }) },
      /found 16 bytes for it/,
    ],
    [
      'a shape without end',
      { a: arrayOf({ shape: Array.from({ length: 65 }, () => 1) }) },
      /at most 64 dimensions, found 65/,
      'limit-exceeded',
    ],
    [
      'fewer bytes than the shape',
      { a: arrayOf({ shape: [5] }) },
      /expected F32 of shape \[5\], found 16 bytes/,
    ],
    [
      'an array that ends before its extension',
      { a: arrayOf({ extra: 3 }) },
      /expected an array to end with its extension/,
    ],
    ['pieces of two types', chunked({ 0: arrayOf(), 1: arrayOf({ type: 'int32' }) }), /pieces of one type/],
    ['no pieces', chunked({}), /pieces of one type/],
    ['fewer pieces than the shape', chunked({ 0: arrayOf() }), /expected F32 of shape \[8\], found 16 bytes/],
    ['a piece that is no array', chunked({ 0: arrayOf(), 1: 'x' }), /pieces of one type/],
  ];

  for (const [what, value, message, code = 'malformed'] of files) {
    test(what, async () => {
      const failure = await failureOf(() => read(pack(value)));
      expect(failure.message).toMatch(message);
      expect(failure.code).toBe(code);
    });
  }

  test('every file that was cut off is refused', async () => {
    const whole = pack({ params: { conv: arrayOf(), list: [1, arrayOf()] } });
    for (let end = 1; end < whole.length; end++) await failureOf(() => read(whole.subarray(0, end)));
  });

  function chunked(chunks: Packable): Packable {
    return { __msgpack_chunked_array__: 1, shape: { 0: 8 }, chunks };
  }
});
