import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../../src/audit.js';
import type { DType } from '../../../src/checkpoint/dtype.js';
import { inspectCheckpoint } from '../../../src/inspect.js';
import { readRange, refuseAmplified } from '../../../src/io/byte-source.js';
import { bytesOf, f32, u64, utf8 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import {
  dict,
  emptyTuple,
  global,
  int,
  list,
  no,
  none,
  op,
  type Piece,
  pickle,
  reduce,
  text,
  tuple,
  u32,
  yes,
} from './build/pickle-writer.js';
import { open, zipCheckpoint } from './build/torch-files.js';

/** `numpy.dtype('f4', False, True)` with its state; `kind` may be another package's class. */
function dtype(kind: string | Piece, order = '<', names: Piece = none): Piece {
  const called = reduce(
    global('numpy', 'dtype'),
    tuple(typeof kind === 'string' ? text(kind) : kind, no, yes),
  );
  const state = tuple(int(3), text(order), none, names, none, int(-1), int(-1), int(0));
  return op(called, state, 'b');
}

const bytes = (content: Uint8Array): Piece => op('B', u32(content.length), content);

/** What protocol 2 of Python 3 makes of bytes. */
const asText = (content: Uint8Array): Piece =>
  reduce(global('_codecs', 'encode'), tuple(text(Buffer.from(content).toString('latin1')), text('latin1')));

interface ArrayPiece {
  readonly core?: string;
  readonly type?: Piece;
  readonly shape?: Piece;
  readonly isFortran?: boolean;
  readonly data?: Piece;
  readonly state?: Piece;
}

const VALUES = f32(1, 2, 3, 4, 5, 6);
const shapeOf = (...sizes: (number | bigint)[]) => tuple(...sizes.map(int));

/** `_reconstruct` and its state. */
function array({ core = 'numpy.core', isFortran = false, ...piece }: ArrayPiece = {}): Piece {
  const made = reduce(
    global(`${core}.multiarray`, '_reconstruct'),
    tuple(global('numpy', 'ndarray'), tuple(int(0)), bytes(utf8('b'))),
  );
  const { type = dtype('f4'), shape = shapeOf(6), data = bytes(VALUES) } = piece;
  return op(made, piece.state ?? tuple(int(1), shape, type, isFortran ? yes : no, data), 'b');
}

const buffer = (...args: Piece[]): Piece =>
  reduce(global('numpy._core.numeric', '_frombuffer'), tuple(...args));
const scalar = (type: Piece, data: Uint8Array): Piece =>
  reduce(global('numpy._core.multiarray', 'scalar'), tuple(type, bytes(data)));

const file = (piece: Piece) => pickle(dict({ x: piece }), 5);

async function readX(piece: Piece): Promise<{ dtype: DType; shape: readonly number[]; bytes: Uint8Array }> {
  const { tensors } = await open(file(piece));
  const x = tensors.get('x');
  if (x === undefined) throw new Error('the array was not found');
  return { dtype: x.dtype, shape: x.shape, bytes: await readRange(x.range) };
}

const swapped = (content: Uint8Array) => new Uint8Array(Buffer.from(content).swap32());
const bytearray = (content: Uint8Array): Piece => op(0x96, u64(content.length), content);

test('statistics with a mask are no tensors, and not passed over', async () => {
  const made = reduce(global('numpy.ma.core', '_mareconstruct'), tuple(none, none, tuple(int(0)), text('b')));
  const masked = op(
    made,
    tuple(int(1), shapeOf(6), dtype('f4'), no, bytes(VALUES), bytes(VALUES), none),
    'b',
  );
  const all = dict({ 'bn.running_mean': masked, 'bn.running_var': masked });
  expect((await failureOf(() => open(pickle(all, 5)))).message).toContain('an array with a mask');
});

test('bfloat16 of PaddlePaddle is the uint16 beside its name, and of nobody else', async () => {
  const bits = bytesOf(Uint8Array.of(0x80, 0x3f, 0, 0x40));
  const halves = array({ shape: shapeOf(2), type: dtype('u2'), data: bytes(bits) });
  expect(await readX(tuple(text('conv2d_0.w_0'), halves))).toEqual({
    dtype: 'BF16',
    shape: [2],
    bytes: bits,
  });
  expect((await readX(halves)).dtype).toBe('U16');
});

test('statistics as lists of numbers are not passed over', async () => {
  const numbers = tuple(int(1), int(2));
  const { tensors, warnings } = await open(
    pickle(
      dict({ 'bn.weight': array(), 'bn.running_mean': numbers, 'bn.running_var': numbers, sizes: numbers }),
      5,
    ),
  );
  expect([...tensors.keys()]).toEqual(['bn.weight']);
  expect(warnings).toEqual([
    expect.stringMatching(
      /^"bn\.running_mean", "bn\.running_var" are plain Python lists of numbers: not compared/,
    ),
  ]);
});

describe('where nothing but lists of numbers is left, the error says so', () => {
  const numbers = list(int(1), int(2));
  const lists = dict({
    epoch: int(3),
    model: dict({ 'bn.weight': list(numbers, numbers), 'bn.bias': numbers }),
  });
  const found = 'plain Python lists of numbers, such as "model.bn.weight"';

  test.each<[string, Uint8Array]>([
    ['in a bare pickle', pickle(lists, 5)],
    ['in a checkpoint of torch.save', zipCheckpoint(lists)],
  ])('%s', async (_, file) => {
    const failure = await failureOf(() => open(file));
    expect(failure.message).toContain(found);
    expect(failure.hint).toBe(
      'Save them as arrays or tensors (torch.tensor, numpy.asarray) to have them audited.',
    );
  });

  test('and where only statistics are such lists, inspect and diff', async () => {
    const state = pickle(
      dict({ 'bn.weight': array(), 'bn.running_mean': numbers, 'bn.running_var': numbers }),
      5,
    );
    const failures = [
      await failureOf(async () => inspectCheckpoint(await open(state))),
      await failureOf(async () => auditCheckpoints(await open(state), await open(state))),
    ];
    for (const { code, hint } of failures) {
      expect(code).toBe('no-norm-layers');
      expect(hint).toMatch(
        /^Of the file: "bn\.running_mean", "bn\.running_var" are plain Python lists of numbers/,
      );
    }
  });

  test('a list in itself, and lists without end, hold no numbers', async () => {
    // A list is remembered before it has items, one of which is itself.
    const circle = op(']', 'q', 0, 'h', 0, 'a');
    const deep = Array.from({ length: 300 }).reduce<Piece>((inner) => list(inner), list(int(1)));
    for (const value of [circle, deep, list(text('a'))]) {
      const failure = await failureOf(() => open(pickle(dict({ x: value }), 2)));
      expect(failure.message).toMatch(/a bare pickle of a dict, without tensors$/);
    }
  });
});

describe('arrays', () => {
  const inFortran = f32(1, 4, 2, 5, 3, 6);
  test.each<[string, Piece, readonly number[], DType?, Uint8Array?]>([
    ['of NumPy 1', array(), [6]],
    ['of NumPy 2', array({ core: 'numpy._core' }), [6]],
    [
      'without a version in their state',
      array({ state: tuple(shapeOf(6), dtype('f4'), no, bytes(VALUES)) }),
      [6],
    ],
    ['with dimensions', array({ shape: shapeOf(2, 3) }), [2, 3]],
    ['without dimensions', array({ shape: emptyTuple, data: bytes(f32(7)) }), [], 'F32', f32(7)],
    ['without elements', array({ shape: shapeOf(0, 3), data: bytes(f32()) }), [0, 3], 'F32', f32()],
    [
      'without elements, as protocol 2 writes them',
      array({ shape: shapeOf(0), data: reduce(global('__builtin__', 'bytes'), emptyTuple) }),
      [0],
      'F32',
      f32(),
    ],
    [
      'in the order of Fortran',
      array({ shape: shapeOf(2, 3), isFortran: true, data: bytes(inFortran) }),
      [2, 3],
    ],
    ['big-endian', array({ type: dtype('f4', '>'), data: bytes(swapped(VALUES)) }), [6]],
    ['written as text', array({ data: asText(VALUES) }), [6]],
    [
      'of Python 2, no UTF-8',
      array({ shape: shapeOf(1), data: op('U', 4, 0, 0, 0x80, 0x3f) }),
      [1],
      'F32',
      f32(1),
    ],
    [
      'of Python 2, by chance UTF-8',
      array({ shape: shapeOf(1), data: op('U', 4, 0, 0, 0, 0x40) }),
      [1],
      'F32',
      f32(2),
    ],
    [
      'of Python 2, UTF-8 beyond ASCII',
      array({ type: dtype('i2'), shape: shapeOf(1), data: op('U', 2, 0xc3, 0xa9) }),
      [1],
      'I16',
      bytesOf(0xc3, 0xa9),
    ],
    [
      'of bfloat16',
      array({
        type: dtype(global('ml_dtypes', 'bfloat16')),
        shape: shapeOf(2),
        data: bytes(bytesOf(0x80, 0x3f, 0, 0x40)),
      }),
      [2],
      'BF16',
      bytesOf(0x80, 0x3f, 0, 0x40),
    ],
    ['in a buffer', buffer(bytearray(VALUES), dtype('f4'), shapeOf(2, 3), text('C')), [2, 3]],
    [
      'in a buffer, in the order of Fortran',
      buffer(bytearray(inFortran), dtype('f4'), shapeOf(2, 3), text('F')),
      [2, 3],
    ],
    [
      'in a buffer, transposed',
      buffer(bytes(inFortran), dtype('f4'), shapeOf(3, 2), text('K'), shapeOf(1, 0)),
      [2, 3],
    ],
    ['with the name that PaddlePaddle gives them', tuple(text('linear_0.w_0'), array()), [6]],
    [
      'with that name, as it is written',
      reduce(global('__builtin__', 'tuple'), tuple(tuple(text('linear_0.w_0'), array()))),
      [6],
    ],
    [
      'of JAX',
      reduce(
        global('jax._src.array', '_reconstruct_array'),
        tuple(
          global('numpy._core.multiarray', '_reconstruct'),
          tuple(global('numpy', 'ndarray'), tuple(int(0)), bytes(utf8('b'))),
          tuple(int(1), shapeOf(6), dtype('f4'), no, bytes(VALUES)),
          dict({ weak_type: no }),
        ),
      ),
      [6],
    ],
  ])('%s', async (_, piece, shape, type = 'F32', content = VALUES) => {
    expect(await readX(piece)).toEqual({ dtype: type, shape, bytes: content });
  });

  test('a transposed buffer of three axes is read as numpy does', async () => {
    // numpy.arange(6).reshape(1, 2, 3).transpose(2, 0, 1)
    const piece = buffer(bytes(VALUES), dtype('f4'), shapeOf(1, 2, 3), text('K'), shapeOf(2, 0, 1));
    expect(await readX(piece)).toMatchObject({ shape: [3, 1, 2], bytes: f32(1, 4, 2, 5, 3, 6) });
  });

  test('those of a file may be edited where they lie', async () => {
    const found = await open(file(array()));
    expect(found).toMatchObject({ format: 'NumPy pickle', inModuleOrder: true });
    expect(found.tensors.get('x')?.range.source.byteLength).toBe(file(array()).length);
  });

  test('numbers of NumPy are no tensors, but for counts of batches', async () => {
    const count = scalar(dtype('i8'), bytesOf(u64(5)));
    const root = dict({
      x: array(),
      epoch: count,
      best: scalar(dtype('f4'), f32(1)),
      'bn.num_batches_tracked': count,
    });
    const { tensors } = await open(pickle(root));
    expect([...tensors.keys()]).toEqual(['x', 'bn.num_batches_tracked']);
    expect(tensors.get('bn.num_batches_tracked')).toMatchObject({ dtype: 'I64', shape: [] });
  });

  test('long texts are read as they are asked for', async () => {
    const long = Uint8Array.from({ length: 400_000 }, (_, index) => index * 31);
    const root = dict({ x: array({ shape: shapeOf(100_000), data: asText(long) }) });
    for (const bytes of [pickle(root), zipCheckpoint(root, { storages: {} })]) {
      const x = (await open(bytes)).tensors.get('x');
      expect(x && Buffer.compare(await readRange(x.range), long)).toBe(0);
    }
  });
});

describe('what cannot be read', () => {
  test.each<[string, Piece, string]>([
    ['objects', dtype('O8', '|'), 'an array of Python objects'],
    ['records', dtype('V8', '|', tuple(text('a'))), 'an array of records'],
    ['texts', dtype('U5'), 'an array of texts'],
    ['dates', dtype('M8'), 'an array of dates'],
    ['complex numbers', dtype('c16'), 'an array of complex numbers'],
    [
      'another package’s numbers',
      dtype(global('ml_dtypes', 'int4')),
      'an array of the type "ml_dtypes.int4"',
    ],
  ])('%s beside readable arrays are named and left out', async (_, type, what) => {
    const { tensors, warnings } = await open(
      pickle(dict({ x: array(), labels: array({ type, data: op(']') }) })),
    );
    expect([...tensors.keys()]).toEqual(['x']);
    expect(warnings).toEqual([`"labels" is ${what}: not compared`]);
  });

  test('where nothing else is in the file, it is refused', async () => {
    const failure = await failureOf(() => readX(array({ type: dtype('O8', '|'), data: op(']') })));
    expect(failure.message).toBe(
      'expected a plain tensor at "x", found one that is an array of Python objects',
    );
  });

  test.each<[string, Piece]>([
    ['a dict', dict({ a: int(1) })],
    ['a number', int(5)],
    ['a metric', dict({ best: scalar(dtype('f4'), f32(1)) })],
  ])('a pickle of %s alone holds no arrays', async (_, piece) => {
    const failure = await failureOf(() => open(pickle(piece)));
    expect(failure.message).toMatch(
      /^expected a checkpoint of torch.save, found a bare pickle of .*, without/,
    );
  });
});

describe('hostile arrays', () => {
  const self = op(
    ...[']', 'q', 9],
    ...[array({ state: tuple(int(1), shapeOf(6), dtype('f4'), no, op('h', 9)) }), 'a'],
  );
  test.each<[string, Piece, string]>([
    ['bytes too short', array({ data: bytes(f32(1)) }), 'expected 24 bytes for its shape and dtype, found 4'],
    ['bytes too long', array({ shape: shapeOf(1) }), 'expected 4 bytes for its shape and dtype, found 24'],
    ['text too short', array({ data: asText(f32(1)) }), 'expected 24 bytes for its shape and dtype, found 4'],
    [
      'text beyond Latin-1',
      array({
        shape: shapeOf(1),
        data: reduce(global('_codecs', 'encode'), tuple(text('abcĀ'), text('latin1'))),
      }),
      'expected its bytes as Latin-1 text, found other characters',
    ],
    [
      'another codec',
      array({ data: reduce(global('_codecs', 'encode'), tuple(text('a'), text('hex'))) }),
      'expected the bytes of its elements',
    ],
    [
      'long text for another shape',
      array({ data: asText(new Uint8Array(100_000)) }),
      'found 100000 bytes of text',
    ],
    [
      'a shape beyond memory',
      array({ shape: shapeOf(2n ** 50n, 2n ** 50n) }),
      'expected a shape that fits into memory',
    ],
    [
      'a shape of zero and infinity',
      array({ shape: tuple(int(0), ...Array.from({ length: 40 }, () => int(2n ** 50n))) }),
      'expected 0 bytes for its shape and dtype, found 24',
    ],
    ['negative sizes', array({ shape: shapeOf(-2, -3) }), 'expected a shape of up to 64 sizes of 0 or more'],
    ['sizes that are none', array({ shape: tuple(text('6')) }), 'expected a shape of up to 64 sizes'],
    [
      'more axes than NumPy has',
      array({ shape: tuple(...Array.from({ length: 65 }, () => int(1))) }),
      'expected a shape of up to 64 sizes',
    ],
    [
      'no state',
      op(reduce(global('numpy.core.multiarray', '_reconstruct'), emptyTuple)),
      'expected a state of shape, dtype, order and data',
    ],
    [
      'a state of three',
      array({ state: tuple(int(1), shapeOf(6), dtype('f4')) }),
      'expected a state of shape, dtype, order and data',
    ],
    ['a dtype that is none', array({ type: text('f4') }), 'expected a dtype, found a string'],
    ['a byte order that is none', array({ type: dtype('f4', '!') }), 'expected a byte order in its dtype'],
    ['data that is none', array({ data: int(5) }), 'expected the bytes of its elements, found 5'],
    ['an array as its data', array({ data: array() }), 'expected the bytes of its elements'],
    [
      'an order of axes that is none',
      buffer(bytes(VALUES), dtype('f4'), shapeOf(2, 3), text('K'), shapeOf(0, 0)),
      'expected the order of its axes',
    ],
    [
      'an order that is none',
      buffer(bytes(VALUES), dtype('f4'), shapeOf(6), text('A')),
      'expected the order C, F or K',
    ],
  ])('%s', async (_, piece, message) => {
    const failure = await failureOf(() => readX(piece));
    expect(failure.code).toBe('malformed');
    expect(failure.message).toContain('the tensor "x": ');
    expect(failure.message).toContain(message);
  });

  test('an array in itself', async () => {
    const failure = await failureOf(() => open(pickle(self)));
    expect(failure.message).toContain('expected the bytes of its elements, found a list');
  });

  test('bytes that reach beyond the file', async () => {
    const failure = await failureOf(() => open(pickle(array({ data: op('B', u32(2 ** 31), 1) }))));
    expect(failure).toMatchObject({ code: 'truncated' });
    expect(failure.message).toContain('expected 2147483648 bytes, found only');
  });

  test('bytes as a key of a dict', async () => {
    const { tensors } = await open(pickle(op('}(', bytes(utf8('k')), array(), text('x'), array(), 'u')));
    expect([...tensors.keys()]).toEqual(['x']);
  });

  test('arrays without end stop at the limit of nodes', async () => {
    const one = op('h', 1, tuple(global('numpy', 'ndarray'), tuple(int(0)), bytes(utf8('b'))), 'R');
    const many = Buffer.concat(Array.from({ length: 300_000 }, () => one));
    const failure = await failureOf(() =>
      open(pickle(op(global('numpy.core.multiarray', '_reconstruct'), 'q', 1, '(', many, 'l'))),
    );
    expect(failure.message).toContain('1048576 containers and objects');
  });

  test('arrays that share their bytes may not claim more than a file can hold honestly', async () => {
    const data = op('B', u32(1_000_000), new Uint8Array(1_000_000), 'q', 1);
    const first = array({ shape: shapeOf(250_000), data });
    const again = array({ shape: shapeOf(250_000), data: op('h', 1) });
    const names = Array.from({ length: 200 }, (_, index) => `x${index}`);
    const found = await open(
      pickle(dict(Object.fromEntries(names.map((name, i) => [name, i ? again : first])))),
    );
    const ranges = [...found.tensors.values()].map(({ range }) => range);
    expect(ranges).toHaveLength(200);
    expect((await failureOf(() => refuseAmplified(ranges, 'file.pt'))).code).toBe('limit-exceeded');
  });

  test('dicts made of one large dict again and again stop there too', async () => {
    const large = dict(Object.fromEntries(Array.from({ length: 5000 }, (_, index) => [`k${index}`, none])));
    const again = Array.from({ length: 1000 }, () => op('h', 2, 'h', 1, 0x85, 'R0'));
    const failure = await failureOf(() =>
      open(pickle(op(large, 'q', 1, global('collections', 'OrderedDict'), 'q', 2, ...again))),
    );
    expect(failure.message).toContain('1048576 containers and objects');
  });
});
