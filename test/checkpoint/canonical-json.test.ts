import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  isParsedObject,
  type ParsedJson,
  readCanonicalMembers,
} from '../../src/checkpoint/canonical-json.js';
import { JsonReader } from '../../src/checkpoint/json-reader.js';
import { utf8 } from '../build/bytes.js';

/** The members, or null where the text was not taken. */
function readMembers(text: string): readonly (readonly [string, ParsedJson])[] | null {
  const members: [string, ParsedJson][] = [];
  return readCanonicalMembers(utf8(text), (key, value) => members.push([key, value]) > 0) ? members : null;
}

const entry = (index: number) => ({ dtype: 'F32', shape: [index, 3], data_offsets: [0, index] });

describe('canonical text', () => {
  test.each([
    ['{}', []],
    ['{"a":1}   ', [['a', 1]]],
    [
      '{"b":{"x":[1,2]},"a":null}',
      [
        ['b', { x: [1, 2] }],
        ['a', null],
      ],
    ],
    [
      '{"a b":"~","":true}',
      [
        ['a b', '~'],
        ['', true],
      ],
    ],
    [
      '{"__proto__":{"toString":1},"constructor":2}',
      [
        ['__proto__', { toString: 1 }],
        ['constructor', 2],
      ],
    ],
    ['{"a":9007199254740991}', [['a', 9007199254740991]]],
    ['{"a\\n":"\\"\\u0001"}', [['a\n', '"\u0001']]],
  ])('%s is taken, in its order', (text, members) => {
    const read = readMembers(text);
    expect(read).toEqual(members);
    expect(read?.map(([key]) => key)).toEqual(members.map(([key]) => key));
  });

  test('is what JSON.stringify writes of anything in ASCII', () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.stringMatching(/^[a-z_."\\\n]*$/), fc.jsonValue({ stringUnit: 'binary' })),
        (value) => {
          const text = JSON.stringify(value);
          const isTaken = /^[ -~]*$/.test(text) && !/\\ud[89a-f]/.test(text);
          expect(readMembers(text)).toEqual(isTaken ? Object.entries(JSON.parse(text)) : null);
        },
      ),
    );
  });
});

describe('any other text is not taken', () => {
  test.each([
    ['nothing', ''],
    ['a list', '[1]'],
    ['a scalar', '1'],
    ['a list in braces', '{[1]}'],
    ['an open object', '{"a":1'],
    ['one whose last digit stands where the brace should', '{"a":12'],
    ['an opening brace alone', '{'],
    ['an opening brace and a letter', '{x'],
    ['an object that ends with a bracket', '{"a":1]'],
    ['an object that ends with a letter', '{"a":{}x'],
    ['an object that ends with a quote and spaces', '{"a":{}"   '],
    ['two objects', '{}{}'],
    ['text behind the object', '{"a":1}x'],
    ['a line feed behind it', '{"a":1}\n'],
    ['a space before it', ' {"a":1}'],
    ['a space in it', '{"a": 1}'],
    ['a key that appears twice', '{"a":1,"a":2}'],
    ['the same twice', '{"a":1,"a":1}'],
    ['a key that appears twice further in', '{"a":{"b":[1],"b":[1]}}'],
    ['a key that objects put first', '{"a":1,"0":2}'],
    ['an escape that needs none', '{"a":"\\u0041"}'],
    ['an escape in capitals', '{"a":"\\u001F"}'],
    ['a pair of surrogates', '{"a":"\\ud83d\\ude00"}'],
    ['half of a surrogate pair', '{"a":"\\ud800"}'],
    ['characters beyond ASCII', '{"é":1}'],
    ['a number with a point', '{"a":1.0}'],
    ['a negative zero', '{"a":-0}'],
    ['a number with an exponent', '{"a":1e3}'],
    ['a number that loses digits', '{"a":9007199254740993}'],
    ['a number beyond all', '{"a":1e999}'],
    ['a bomb of brackets', `{"a":${'['.repeat(50_000)}${']'.repeat(50_000)}}`],
  ])('%s', (_, text) => {
    expect(readMembers(text)).toBeNull();
  });

  test('whatever became of canonical text by a change, it is read as by the strict reader or not at all', () => {
    const entries = fc.array(
      fc.constantFrom('"a":1', '"b":{"x":[1,2]}', '"c":"]},"', '"d":{"x":[]}', '"e":null', '"a":{"x":[{}]}'),
    );
    let taken = 0;
    fc.assert(
      fc.property(
        entries,
        fc.nat(),
        fc.nat(),
        fc.constantFrom(...'{}[]",: a1\\-', ''),
        (list, at, length, text) => {
          const whole = `{${list}}`;
          const start = at % (whole.length + 1);
          const changed = whole.slice(0, start) + text + whole.slice(start + (length % 3));
          const members = readMembers(changed);
          if (members === null) return;
          taken++;
          const strict: string[] = [];
          new JsonReader(utf8(changed), 'text').readTopObject((key) => strict.push(key));
          expect(members.map(([key]) => key)).toEqual(strict);
          expect(Object.fromEntries(members)).toEqual(JSON.parse(changed));
        },
      ),
      { numRuns: 5000 },
    );
    expect(taken).toBeGreaterThan(200);
  });

  test('bytes that are no UTF-8', () => {
    const bytes = Uint8Array.from([...utf8('{"a'), 0xff, ...utf8('":1}')]);
    expect(readCanonicalMembers(bytes, () => true)).toBe(false);
  });

  test('and none where a member is refused', () => {
    const keys: string[] = [];
    const isTaken = readCanonicalMembers(utf8('{"a":1,"b":2,"c":3}'), (key) => {
      keys.push(key);
      return key !== 'b';
    });
    expect([isTaken, keys]).toEqual([false, ['a', 'b']]);
  });
});

describe('text of more than a piece', () => {
  const count = 20_000;
  const name = (index: number) => `module.layer.${index}`;
  const all = Object.fromEntries(Array.from({ length: count }, (_, index) => [name(index), entry(index)]));

  test('is taken whole', () => {
    const text = JSON.stringify(all);
    expect(text.length).toBeGreaterThan(1_000_000);
    const members = readMembers(`${text}    `);
    expect(members).toHaveLength(count);
    expect(Object.fromEntries(members ?? [])).toEqual(all);
  });

  test('leaves nothing in memory but what was taken of it', () => {
    const bytes = utf8(JSON.stringify(all));
    setFlagsFromString('--expose-gc');
    const collect: () => void = runInNewContext('gc');
    const keys: string[] = [];
    collect();
    const before = process.memoryUsage().heapUsed;
    expect(readCanonicalMembers(bytes, (key) => keys.push(key) > 0)).toBe(true);
    collect();
    const perKey = (process.memoryUsage().heapUsed - before) / count;
    expect(keys[count - 1]).toBe(name(count - 1));
    // A key takes some 50 bytes; the text of its piece would take 130,000.
    expect(perKey).toBeLessThan(150);
  });

  test.each([0, 10, count - 1])('is not taken where its last key appears as number %i too', (index) => {
    const text = JSON.stringify(all);
    const other = text.replace(`"${name(count - 1)}"`, `"${name(index)}"`);
    expect(readMembers(other) === null).toBe(index !== count - 1);
  });

  test('may have a member that is longer, up to a limit', () => {
    const long = (length: number) => ({
      first: { list: [1] },
      long: { text: 'x'.repeat(length), list: [1] },
      last: { list: [2] },
    });
    expect(readMembers(JSON.stringify(long(200_000)))?.map(([key]) => key)).toEqual([
      'first',
      'long',
      'last',
    ]);
    expect(readMembers(JSON.stringify(long(5_000_000))) === null).toBe(true);
  });

  test.each(['', ']', ',', '",', ']},"', 'x'])(
    'is not taken where it ends with %j instead of a brace',
    (end) => {
      const text = JSON.stringify(all);
      expect(readMembers(text.slice(0, -1) + end) === null).toBe(true);
      expect(readMembers(text + end) === null).toBe(end !== '');
    },
  );

  test('is not taken where a key looks like the end of a member', () => {
    const seams = { first: { list: [1] }, [`${'y'.repeat(100_000)}]},`]: 'z'.repeat(100_000) };
    expect(readMembers(JSON.stringify(seams)) === null).toBe(true);
  });
});

test.each<readonly [ParsedJson, boolean]>([
  [{}, true],
  [{ a: 1 }, true],
  [[], false],
  [null, false],
  ['a', false],
  [1, false],
])('%j is an object: %s', (value, isObject) => {
  expect(isParsedObject(value)).toBe(isObject);
});
