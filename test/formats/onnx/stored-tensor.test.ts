import { describe, expect, test } from 'vitest';
import type { Tensor } from '../../../src/checkpoint/checkpoint.js';
import { decodeFloats } from '../../../src/checkpoint/dtype.js';
import { readRange } from '../../../src/io/byte-source.js';
import { bytesOf } from '../../build/bytes.js';
import {
  DOUBLE,
  FLOAT,
  FLOAT16,
  field,
  fixed32,
  floats,
  graph,
  INT8,
  INT64,
  int,
  model,
  node,
  tensor,
  varint,
} from './build-onnx.js';
import { open, refusal } from './open.js';

/** Opens a model that holds only this tensor, called `t`. */
async function read(...bytes: readonly Uint8Array[]): Promise<Tensor> {
  const { tensors } = await open(model(graph({ initializers: bytes })));
  const found = tensors.get('t');
  if (found === undefined) throw new Error('the tensor was left out');
  return found;
}

async function valuesOf(found: Tensor): Promise<number[]> {
  return [...decodeFloats(await readRange(found.range), found.dtype)];
}

const refuse = (...bytes: readonly Uint8Array[]) => refusal(model(graph({ initializers: bytes })));

describe('a tensor is found wherever its values stand', () => {
  const single = (value: number) => fixed32(4, floats(value));

  test.each<[string, readonly Uint8Array[]]>([
    ['raw_data', [field(9, floats(1, 2, 3, 4))]],
    ['packed float_data', [field(4, floats(1, 2, 3, 4))]],
    ['several packed runs', [field(4, floats(1, 2)), field(4), field(4, floats(3, 4))]],
    ['single values', [single(1), single(2), single(3), single(4)]],
    ['packed and single values', [single(1), field(4, floats(2, 3)), single(4)]],
    [
      'single values with other fields between',
      [single(1), int(1000, 7), single(2), single(3), field(12, 'doc'), single(4)],
    ],
    [
      'single values behind padded tags',
      [single(1), bytesOf(varint(4 * 8 + 5, 3), floats(2)), single(3), single(4)],
    ],
    ['raw_data beside float_data', [field(4, floats(9)), field(9, floats(1, 2, 3, 4))]],
    ['the last of two raw_data', [field(9, floats(9)), field(9, floats(1, 2, 3, 4))]],
  ])('%s', async (_where, payload) => {
    const found = await read(tensor('t', [4], FLOAT, ...payload));
    expect(found).toMatchObject({ dtype: 'F32', shape: [4], elementCount: 4 });
    expect(await valuesOf(found)).toEqual([1, 2, 3, 4]);
  });

  test('doubles in double_data', async () => {
    const found = await read(
      tensor('t', [2], DOUBLE, field(10, new Uint8Array(Float64Array.of(1 / 3, -2).buffer))),
    );
    expect(await valuesOf(found)).toEqual([1 / 3, -2]);
  });

  test('dims may be packed', async () => {
    const found = await read(bytesOf(field(1, 2, 2), tensor('t', [], FLOAT, field(9, floats(1, 2, 3, 4)))));
    expect(found.shape).toEqual([2, 2]);
  });

  test('halves stand as integers in int32_data, negative ones possibly sign-extended', async () => {
    const minusTwo = 0xc000;
    const one = 0x3c00;
    for (const written of [minusTwo, minusTwo - 0x10000]) {
      const packed = await read(tensor('t', [2], FLOAT16, field(5, varint(written), varint(one))));
      expect(await valuesOf(packed)).toEqual([-2, 1]);
      const unpacked = await read(tensor('t', [2], FLOAT16, int(5, written), int(5, one)));
      expect(await valuesOf(unpacked)).toEqual([-2, 1]);
    }
  });

  test('converted values can be read from any position, backwards and at once', async () => {
    const values = Array.from({ length: 3000 }, (_, i) => i);
    const payload = values.map((value) => int(7, value));
    const found = await read(
      tensor(
        't',
        [3000],
        INT64,
        ...payload.slice(0, 1000),
        field(7, ...values.slice(1000).map((v) => varint(v))),
      ),
    );
    const { source } = found.range;
    const readAt = async (index: number) => {
      const bytes = new Uint8Array(8);
      await source.readInto(bytes, 8 * index);
      return Number(new DataView(bytes.buffer).getBigInt64(0, true));
    };
    expect(await readAt(2999)).toBe(2999);
    expect(await readAt(5)).toBe(5);
    expect(await Promise.all([1500, 3, 2000].map(readAt))).toEqual([1500, 3, 2000]);
    const halfOfOne = new Uint8Array(4);
    await source.readInto(halfOfOne, 8 * 1234 + 1);
    expect([...halfOfOne]).toEqual([1234 >> 8, 0, 0, 0]);
    await expect(source.readInto(new Uint8Array(1), 24_000)).rejects.toMatchObject({ code: 'truncated' });
  });

  test('int8 values and scalars', async () => {
    expect(await read(tensor('t', [], INT8, field(5, varint(-3))))).toMatchObject({
      dtype: 'I8',
      shape: [],
      elementCount: 1,
    });
  });

  test('an empty tensor needs no data', async () => {
    expect(await read(tensor('t', [0, 5], FLOAT))).toMatchObject({
      elementCount: 0,
      range: { byteLength: 0 },
    });
  });
});

describe('a tensor whose parts disagree is refused by name', () => {
  const good = floats(1, 2, 3, 4);
  test.each<[string, Uint8Array, string]>([
    [
      'raw_data too short',
      tensor('t', [4], FLOAT, field(9, good.subarray(0, 12))),
      'malformed: tensor "t": expected 16 bytes for its shape and type, found 12 in raw_data',
    ],
    [
      'raw_data too long',
      tensor('t', [3], FLOAT, field(9, good)),
      'malformed: tensor "t": expected 12 bytes',
    ],
    [
      'raw_data empty beside float_data',
      tensor('t', [4], FLOAT, field(4, good), field(9)),
      'found 0 in raw_data',
    ],
    [
      'no data',
      tensor('t', [4], FLOAT),
      'malformed: tensor "t": expected 4 values for its shape, found 0 in float_data',
    ],
    [
      'too few values',
      tensor('t', [4], FLOAT, field(4, floats(1, 2, 3))),
      'expected 4 values for its shape, found 3 in float_data',
    ],
    [
      'a ragged packed run',
      tensor('t', [1], FLOAT, field(4, 1, 2, 3, 4, 5)),
      'malformed: tensor "t": expected packed float values, found 5 bytes',
    ],
    [
      'values in another field',
      tensor('t', [1], FLOAT, field(5, 1)),
      'found 0 in float_data beside int32_data',
    ],
    [
      'too few varints',
      tensor('t', [4], INT64, field(7, 1, 2)),
      'expected 4 values for its shape, found at most 2 in int64_data',
    ],
    [
      'a negative dim',
      tensor('t', [-4], FLOAT, field(9, good)),
      'malformed: tensor "t": expected dims of 0 or more, found the negative dim -4',
    ],
    [
      'dims whose product wraps to zero',
      tensor('t', [2n ** 32n, 2n ** 32n], FLOAT),
      'limit-exceeded: tensor "t": expected a shape that fits',
    ],
    ['dims hidden behind a zero', tensor('t', [0, 2n ** 60n], FLOAT), 'limit-exceeded: tensor "t"'],
    ['a dim that no number holds', tensor('t', [2n ** 53n + 1n], FLOAT), 'limit-exceeded: tensor "t"'],
    [
      'an undefined type',
      tensor('t', [4], 0, field(9, good)),
      'malformed: tensor "t": expected a known element type, found type 0',
    ],
    ['an unknown type', tensor('t', [4], 99, field(9, good)), 'found type 99'],
    [
      'too many dims',
      tensor('t', Array<number>(65).fill(1), FLOAT, field(9, floats(1))),
      'limit-exceeded: tensor "t": expected at most 64 dims, found 65',
    ],
  ])('%s', async (_case, bytes, message) => {
    expect(await refuse(bytes)).toContain(message);
  });

  test('two initializers of one name', async () => {
    const bytes = tensor('t', [1], FLOAT, field(9, floats(1)));
    expect(await refuse(bytes, bytes)).toContain(
      'malformed: tensor "t": expected one initializer of that name, found it twice',
    );
  });

  test('a number of varints that only decoding tells', async () => {
    for (const [count, found] of [
      [3, 'more'],
      [5, '4'],
    ] as const) {
      const { range } = await read(
        tensor('t', [count], FLOAT16, field(5, ...[40000, 1, 1, 1].map((v) => varint(v)))),
      );
      await expect(readRange(range)).rejects.toMatchObject({
        code: 'malformed',
        message: `tensor "t": expected ${count} values for its shape, found ${found}`,
      });
    }
  });

  test('a name of any length is cut', async () => {
    const name = 'L'.repeat(10_000);
    expect((await refuse(tensor(name, [4], FLOAT))).length).toBeLessThan(400);
  });
});

describe('the tensors of a checkpoint', () => {
  test('are all initializers of types that have a DType, in file order', async () => {
    const { tensors, inModuleOrder } = await open(
      model(
        graph({
          initializers: [
            tensor('b', [1], FLOAT, field(9, floats(1))),
            tensor('words', [1], 8, field(6, 'word')),
            tensor('nibbles', [2], 22, field(9, 1)),
            tensor('crumbs', [4], 26, field(9, 1)),
            tensor('a', [1], INT64, int(7, 5)),
          ],
        }),
      ),
    );
    expect([...tensors.keys()]).toEqual(['b', 'nibbles', 'a']);
    expect(inModuleOrder).toBe(true);
  });

  test('have the names that Identity nodes give back to shared ones as well', async () => {
    const { tensors } = await open(
      model(
        graph({
          initializers: [tensor('bn1.bias', [1], FLOAT, field(9, floats(1)))],
          nodes: [node('Identity', ['bn1.bias'], ['bn2.bias']), node('Identity', ['bn2.bias'], ['bn3.bias'])],
        }),
      ),
    );
    expect([...tensors.keys()]).toEqual(['bn1.bias', 'bn2.bias', 'bn3.bias']);
    expect(tensors.get('bn3.bias')?.range).toEqual(tensors.get('bn1.bias')?.range);
    expect(tensors.get('bn3.bias')?.name).toBe('bn3.bias');
  });
});
