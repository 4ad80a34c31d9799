import { describe, expect, test } from 'vitest';
import { readPickle } from '../../../src/formats/torch/pickle.js';
import { attributesOf, isNode, type PickleValue } from '../../../src/formats/torch/pickle-values.js';
import { type ByteSource, memorySource, sliceRange, wholeOf } from '../../../src/io/byte-source.js';
import { u64 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { dict, float, global, int, none, op, pickle, text, tuple, u32 } from './build/pickle-writer.js';

const OPTIONS = { subject: 'the pickle', resolvePersistentId: (id: PickleValue) => id };

/** The bytes, 100 bytes into a file. */
const inFile = (bytes: Uint8Array) =>
  sliceRange(wholeOf(memorySource('file.pt', op(new Uint8Array(100), bytes))), 100, 100 + bytes.length);

const read = async (bytes: Uint8Array) => (await readPickle(inFile(bytes), OPTIONS)).value;

describe('values', () => {
  test.each<[string, Uint8Array, PickleValue]>([
    ['None', op(none, '.'), null],
    ['True', op(0x88, '.'), true],
    ['True of protocol 0', op('I01\n.'), true],
    ['INT', op('I-42\n.'), -42],
    ['LONG', op('L123456789012345678901L\n.'), 123456789012345678901n],
    ['BININT', op('J', u32(-5), '.'), -5],
    ['BININT2', op('M', 0xe9, 3, '.'), 1001],
    ['LONG1 that is safe', op(0x8a, 2, 0xff, 0x7f, '.'), 32767],
    ['LONG1 that is negative', op(0x8a, 1, 0x80, '.'), -128],
    ['LONG1 without bytes', op(0x8a, 0, '.'), 0],
    ['LONG4', op(0x8b, u32(9), u64(0), 1, '.'), 2n ** 64n],
    ['FLOAT', op('F1e-05\n.'), 1e-5],
    ['FLOAT that is infinite', op('F-inf\n.'), Number.NEGATIVE_INFINITY],
    ['BINFLOAT', op(float(0.1), '.'), 0.1],
    ['STRING with escapes', op("S'a\\n\\x41\\\\'\n.", ''), 'a\nA\\'],
    ['UNICODE with escapes', op('Va\\u00e9\n.'), 'aé'],
    ['UNICODE in Latin-1', op('Va', 0xe9, 0x80, '\n.'), 'aé\x80'],
    ['SHORT_BINUNICODE', op(0x8c, 2, 'é', '.'), 'é'],
    ['BINUNICODE8', op(0x8d, u64(3), 'abc', '.'), 'abc'],
    ['SHORT_BINSTRING', op('U', 2, 'ab', '.'), 'ab'],
    ['DUP, POP and POP_MARK', op('K', 1, '2', '0', '(', 'K', 2, '1', '.'), 1],
  ])('%s', async (_, bytes, value) => {
    expect(await read(bytes)).toEqual(value);
  });

  test('containers of every protocol', async () => {
    expect(await read(op('(K', 1, 'K', 2, 'l.'))).toEqual({ kind: 'list', items: [1, 2] });
    expect(await read(op('](K', 1, 'e.'))).toEqual({ kind: 'list', items: [1] });
    expect(await read(op('K', 1, 'K', 2, 0x86, '.'))).toEqual({ kind: 'tuple', items: [1, 2] });
    expect(await read(op(0x8f, '(K', 1, 0x90, '.'))).toEqual({ kind: 'set', items: [1] });
    expect(await read(op('(K', 1, 0x91, '.'))).toEqual({ kind: 'set', items: [1] });
    const made = await read(op('(', text('a'), 'K', 1, 'd.'));
    expect(isNode(made, 'dict') && [...made.entries]).toEqual([['a', 1]]);
  });

  test('the memo of every protocol', async () => {
    expect(await read(op('K', 7, 'p5\n0g5\n.'))).toBe(7);
    expect(await read(op('K', 7, 'q', 5, '0h', 5, '.'))).toBe(7);
    expect(await read(op('K', 7, 'r', u32(70000), '0j', u32(70000), '.'))).toBe(7);
    expect(await read(op(0x80, 4, 'K', 7, 0x94, '0h', 0, '.'))).toBe(7);
  });

  test('a call is noted with its callee and arguments', async () => {
    const made = await read(op('c__main__\nNet\n', tuple(int(3)), 'R.'));
    expect(made).toMatchObject({
      kind: 'object',
      callee: { module: '__main__', name: 'Net' },
      args: [3],
      offset: 121,
    });
  });

  test('NEWOBJ, NEWOBJ_EX, OBJ, INST and copyreg make instances, and BUILD gives them their state', async () => {
    const state = dict({ lr: int(1) });
    const ways = [
      op('c__main__\nNet\n', ')', 0x81),
      op('c__main__\nNet\n', ')', '}', 0x92),
      op('(', 'c__main__\nNet\n', 'o'),
      op('(i__main__\nNet\n'),
      op(
        'ccopy_reg\n_reconstructor\n',
        tuple(global('__main__', 'Net'), global('__builtin__', 'object'), none),
        'R',
      ),
    ];
    for (const way of ways) {
      const made = await read(op(way, state, 'b.'));
      expect(made).toMatchObject({ kind: 'object', callee: { qualifiedName: '__main__.Net' } });
      expect(isNode(made, 'object') && isNode(made.state, 'dict') && [...made.state.entries]).toEqual([
        ['lr', 1],
      ]);
    }
  });

  test('a second BUILD adds its attributes to those of the first, as Python does', async () => {
    const first = dict({ lr: int(1), steps: int(2) });
    const made = await read(
      op('c__main__\nNet\n', ')', 0x81, first, 'b', dict({ lr: int(3) }), 'b', none, 'b.'),
    );
    expect(isNode(made, 'object') && [...(attributesOf(made) ?? [])]).toEqual([
      ['lr', 3],
      ['steps', 2],
    ]);
  });

  test.each([
    ['attributes and slots', tuple(dict({ lr: int(1) }), dict({ steps: int(2) })), ['lr', 'steps']],
    ['slots alone', tuple(none, dict({ steps: int(2) })), ['steps']],
    ['attributes and no slots', tuple(dict({ lr: int(1) }), none), ['lr']],
  ])('a state of %s', async (_, state, names) => {
    const made = await read(op('c__main__\nNet\n', ')', 0x81, state, 'b.'));
    expect(isNode(made, 'object') && [...(attributesOf(made)?.keys() ?? [])]).toEqual(names);
  });

  test('a state without attributes takes the place of the one before', async () => {
    const made = await read(
      op('c__main__\nNet\n', ')', 0x81, dict({ lr: int(1) }), 'b', tuple(int(1)), 'b.'),
    );
    expect(made).toMatchObject({ state: { kind: 'tuple', items: [1] } });
  });

  test('states without end stop at the limit of nodes', async () => {
    const entries = Object.fromEntries(Array.from({ length: 2000 }, (_, index) => [`a${index}`, none]));
    const again = Array.from({ length: 600 }, () => op('h', 1, 'b'));
    await expect(
      read(op('c__main__\nNet\n', ')', 0x81, dict(entries), 'q', 1, 'b', ...again, '.')),
    ).rejects.toThrow('at most 1048576 containers and objects');
  });

  test('NEWOBJ_EX keeps arguments by name', async () => {
    const made = await read(op('c__main__\nNet\n', tuple(int(1)), dict({ depth: int(50) }), 0x92, '.'));
    expect(made).toMatchObject({ kind: 'object', args: [1], keywords: new Map([['depth', 50]]) });
  });

  test('an OrderedDict of Python 2 is made of pairs', async () => {
    const made = await read(
      op('ccollections\nOrderedDict\n', '(', '](', '](', text('a'), 'K', 1, 'ee', 't', 'R.'),
    );
    expect(isNode(made, 'dict') && [...made.entries]).toEqual([['a', 1]]);
  });

  test('two pickles in a row end where they end', async () => {
    const bytes = op(pickle(int(1)), pickle(int(2)));
    const { end } = await readPickle(inFile(bytes), OPTIONS);
    expect(await read(bytes.subarray(end))).toBe(2);
  });
});

describe('errors', () => {
  test.each<[string, string, Uint8Array]>([
    ['truncated', 'expected 1 byte, found the end of the pickle', op('N')],
    ['truncated', 'expected a line, found only 3 before the end of the pickle', op('cos.')],
    ['truncated', 'expected 5 bytes, found only 1 before the end of the pickle', op('X', u32(5), 'a')],
    ['truncated', 'expected a frame of 1099511627776 bytes, found only 2', op(0x95, u64(2 ** 40), 'N.')],
    ['malformed', 'expected an opcode, found the byte 0xff', op(0xff)],
    ['malformed', 'expected a protocol up to 5, found 200', op(0x80, 200, 'N.')],
    ['malformed', 'REDUCE needs a value, but the stack is empty', op('R.')],
    ['malformed', 'SETITEMS needs a MARK, but there is none on the stack', op('}u.')],
    ['malformed', 'APPEND needs a value, but the stack is empty', op(']a.')],
    ['malformed', 'BINGET asks for memo entry 200, which was never stored', op('h', 200, '.')],
    ['malformed', 'found a key without a value', op('}(', text('a'), 'u.')],
    ['malformed', 'and of a callable, found a "a\\x1b.b"', op('ca\x1b\nb\n)R', '2', 0x93, '.')],
    ['malformed', 'expected a list to append to, found a dict', op('}K', 1, 'a.')],
    ['malformed', 'LONG4 has a negative length, -5', op(0x8b, u32(-5), '.')],
    ['malformed', 'it asks for an out-of-band buffer', op(0x97, '.')],
    [
      'malformed',
      'STACK_GLOBAL expects the names of a module and of a callable, found 1 and 2',
      op('K', 1, 'K', 2, 0x93, '.'),
    ],
    ['malformed', 'STOP leaves 1 values too many', op('NN.')],
    ['malformed', 'STOP comes before a MARK was closed', op('(N.')],
    ['malformed', 'REDUCE expects a callable, found 1', op('K', 1, ')R.')],
    [
      'truncated',
      'expected 1152921504606846976 bytes, found only 0 before the end of the pickle',
      op(0x8d, u64(2n ** 60n)),
    ],
    [
      'truncated',
      'expected 9223372036854775808 bytes, found only 1 before the end of the pickle',
      op(0x8e, u64(2n ** 63n), 'N'),
    ],
    ['truncated', 'found only 2 before the end', op('T', u32(-1), 'N.')],
    [
      'limit-exceeded',
      'at most 1024 bytes in one integer, found a length of 2147483647',
      op(0x8b, u32(2 ** 31 - 1)),
    ],
    ['limit-exceeded', 'at most 1024 digits in one integer', op(`I${'9'.repeat(5000)}\n.`)],
    ['limit-exceeded', 'at most 10000 open MARKs', op('('.repeat(20_000))],
  ])('%s: %s', async (code, message, bytes) => {
    const failure = await failureOf(() => read(bytes));
    expect(failure.code).toBe(code);
    expect(failure.message).toContain(message);
    expect(failure.offset).toBeGreaterThanOrEqual(100);
  });

  test('a bomb of empty dicts ends at the limit of nodes', async () => {
    const failure = await failureOf(() => read(new Uint8Array(3_000_000).fill('}'.charCodeAt(0))));
    expect(failure.message).toContain('1048576 containers and objects');
  });
});

describe('what is left in the file', () => {
  const payload = (offset: number, byteLength: number, isText = false) => ({
    kind: 'payload',
    range: { offset, byteLength },
    isText,
  });

  test.each<[string, Uint8Array, object]>([
    ['SHORT_BINBYTES', op('C', 2, 1, 2, '.'), payload(102, 2)],
    ['BINBYTES', op('B', u32(2), 1, 2, '.'), payload(105, 2)],
    ['BINBYTES8', op(0x8e, u64(2), 1, 2, '.'), payload(109, 2)],
    ['BYTEARRAY8', op(0x96, u64(1), 9, '.'), payload(109, 1)],
    ['a string of Python 2 that is no UTF-8', op('U', 2, 0xe9, 0x41, '.'), payload(102, 2)],
    ['a long string of Python 2', op('T', u32(70_000), new Uint8Array(70_000), '.'), payload(105, 70_000)],
    ['a long text', op('X', u32(70_000), new Uint8Array(70_000), '.'), payload(105, 70_000, true)],
    [
      'a long text, BINUNICODE8',
      op(0x8d, u64(70_000), new Uint8Array(70_000), '.'),
      payload(109, 70_000, true),
    ],
  ])('%s', async (_, bytes, value) => {
    expect(await read(bytes)).toMatchObject(value);
  });

  test('a key of Python 2 that is no UTF-8 stays a name', async () => {
    const made = await read(op('}', 'U', 2, 0xe9, 0x41, 'K', 1, 's.'));
    expect(isNode(made, 'dict') && [...made.entries]).toEqual([['\uFFFDA', 1]]);
  });

  test('what is read stays small whatever the bytes are', async () => {
    const array = op('B', u32(1_000_000), new Uint8Array(1_000_000));
    const range = inFile(op('(', ...Array.from({ length: 20 }, () => array), 'l.'));
    let bytesRead = 0;
    const source: ByteSource = {
      ...range.source,
      readInto(target, position) {
        bytesRead += target.byteLength;
        return range.source.readInto(target, position);
      },
    };
    const { value } = await readPickle({ ...range, source }, OPTIONS);
    expect(value).toMatchObject({ kind: 'list', items: { length: 20 } });
    expect(bytesRead).toBeLessThan(200_000);
  });

  test('opcodes of every kind go on where a window cuts them off', async () => {
    const names = Array.from({ length: 300 }, (_, index) => `layer${index}${'x'.repeat(index)}`);
    const entries = Object.fromEntries(
      names.map((name, index) => [name, index % 3 === 0 ? float(index) : int(index)]),
    );
    const calls = names.map((name) => op(`c__main__\n${name}\n`, ')R', '0', 'V', name, '\n', '0'));
    const made = await read(op(...calls, dict(entries), '.'));
    expect(isNode(made, 'dict') && [...made.entries]).toEqual(names.map((name, index) => [name, index]));
  });

  test('a frame may be longer than a window, and not longer than the file', async () => {
    const bytes = new Uint8Array(100_000).fill('N'.charCodeAt(0));
    expect(await read(op(0x95, u64(200_000), bytes, '0'.repeat(99_999), '.'))).toBe(null);
    const failure = await failureOf(() => read(op(0x95, u64(100_003), bytes, 'N.')));
    expect(failure.message).toContain('expected a frame of 100003 bytes, found only 100002 before the end');
  });

  test('what is read of a pickle has a limit, and a line that never ends is read that far', async () => {
    const range = { offset: 0, byteLength: 2 ** 40 };
    const source: ByteSource = {
      ...memorySource('endless.pkl', new Uint8Array(0)),
      byteLength: 2 ** 40,
      async readInto(target) {
        target.fill('V'.charCodeAt(0));
      },
    };
    const failure = await failureOf(() => readPickle({ ...range, source }, OPTIONS));
    expect(failure).toMatchObject({ code: 'limit-exceeded' });
    expect(failure.message).toContain('at most 134217728 bytes apart from those of arrays, found more');
  });

  test('arrays of joblib, which stand between the opcodes, are named with the way out', async () => {
    const failure = await failureOf(() =>
      read(op('cjoblib.numpy_pickle\nNumpyArrayWrapper\n', ')', 0x81, '.')),
    );
    expect(failure.code).toBe('unsupported');
    expect(failure.message).toContain('joblib writes them between the opcodes');
    expect(failure.hint).toContain("pickle.dump(joblib.load('FILE'), open('weights.pkl', 'wb'))");
  });
});
