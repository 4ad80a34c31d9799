import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  describeJson,
  isJsonArray,
  isJsonObject,
  JsonReader,
  type JsonValue,
  toUnsignedInteger,
} from '../../src/checkpoint/json-reader.js';
import { bytesOf, utf8 } from '../build/bytes.js';
import { failureOf } from '../build/failure.js';

function readMembers(bytes: Uint8Array): Map<string, JsonValue> {
  const members = new Map<string, JsonValue>();
  new JsonReader(bytes, 'header').readTopObject((key, value) => members.set(key, value));
  return members;
}

/** What `JSON.parse` would make of a value, for comparison. */
function toPlain(value: JsonValue): unknown {
  if (isJsonObject(value)) return Object.fromEntries([...value].map(([key, item]) => [key, toPlain(item)]));
  if (isJsonArray(value)) return value.map(toPlain);
  return typeof value === 'object' && value !== null && 'digits' in value ? Number(value.digits) : value;
}

describe('reading', () => {
  test('hands over the members in the order of the text', () => {
    expect([...readMembers(utf8('{"b":true,"a":null,"c":"x"}'))]).toEqual([
      ['b', true],
      ['a', null],
      ['c', 'x'],
    ]);
  });

  test('keeps numbers as written', () => {
    const members = readMembers(utf8('{"a":9007199254740993,"b":8.0,"c":-1e3}'));
    expect([...members.values()]).toEqual([
      { digits: '9007199254740993' },
      { digits: '8.0' },
      { digits: '-1e3' },
    ]);
  });

  test('takes __proto__ for a key like any other', () => {
    const inner = readMembers(utf8('{"__proto__":{"__proto__":{"digits":"1"}}}')).get('__proto__');
    expect(isJsonObject(inner) && [...inner.keys()]).toEqual(['__proto__']);
    expect(Object.prototype).not.toHaveProperty('digits');
  });

  test('allows white space wherever JSON does', () => {
    expect([...readMembers(utf8(' \t\r\n{ "a" : [ 1 , { } , [ ] ] , "b" : false } \n'))]).toEqual([
      ['a', [{ digits: '1' }, new Map(), []]],
      ['b', false],
    ]);
  });

  test('reads escapes, in keys too', () => {
    expect([...readMembers(utf8('{"\\u0061\\n":"\\ud83d\\ude00\\"\\\\\\/"}'))]).toEqual([['a\n', '😀"\\/']]);
  });

  test('reads values nested 64 levels deep', () => {
    expect(readMembers(utf8(`{"a":${'['.repeat(64)}${']'.repeat(64)}}`)).size).toBe(1);
  });

  test('reads what JSON.stringify writes, as JSON.parse does', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 4 })), (object) => {
        const text = JSON.stringify(object);
        expect(toPlain(readMembers(utf8(text)))).toEqual(JSON.parse(text));
      }),
    );
  });
});

describe('refusing', () => {
  test.each<readonly [message: string, offset: number, bytes: Uint8Array]>([
    ['expected a JSON object, found the end of the text', 0, utf8('')],
    ['expected a JSON object, found "["', 0, utf8('[]')],
    ['expected a JSON object, found byte 0x00', 1, utf8(' \0')],
    ['expected a JSON object, found byte 0xef', 0, bytesOf(0xef, 0xbb, 0xbf, '{}')],
    ['expected a JSON key in double quotes, found the end of the text', 1, utf8('{')],
    ['expected a JSON key in double quotes, found "a"', 1, utf8('{a:1}')],
    ['expected a JSON key in double quotes, found "}"', 7, utf8('{"a":1,}')],
    ['expected ":" in JSON, found "1"', 5, utf8('{"a" 1}')],
    ['expected "," or "}" in JSON, found the end of the text', 6, utf8('{"a":1')],
    ['expected "," or "}" in JSON, found "\\""', 6, utf8('{"a":1"b":2}')],
    ['expected "," or "]" in JSON, found "}"', 7, utf8('{"a":[1}')],
    ['expected a JSON value, found "]"', 8, utf8('{"a":[1,]}')],
    ['expected a JSON value, found "n"', 5, utf8('{"a":nul}')],
    ['expected a JSON value, found "N"', 5, utf8('{"a":NaN}')],
    ['expected a JSON value, found "0"', 5, utf8('{"a":01}')],
    ['expected a JSON value, found "+"', 5, utf8('{"a":+1}')],
    ['expected a JSON value, found "1"', 5, utf8('{"a":1.}')],
    ['expected a JSON value, found "."', 5, utf8('{"a":.5}')],
    ['expected a JSON value, found "\'"', 5, utf8('{"a":\'x\'}')],
    ['expected a JSON value, found "9"', 5, utf8(`{"a":${'9'.repeat(401)}}`)],
    ['expected the end of a JSON string, found the end of the text', 5, utf8('{"a":"x')],
    ['expected the end of a JSON string, found the end of the text', 5, utf8('{"a":"x\\"')],
    ['found a control character in a JSON string', 7, utf8('{"a":"x\ny"}')],
    ['expected UTF-8 in the JSON text, found other bytes', 5, bytesOf('{"a":"', 0xff, '"}')],
    ['expected UTF-8 in the JSON text, found other bytes', 5, bytesOf('{"a":"', 0xed, 0xa0, 0x80, '"}')],
    ['expected UTF-8 in the JSON text, found other bytes', 5, bytesOf('{"a":"', 0xc0, 0xaf, '"}')],
    ['found an escape that JSON does not allow, or half of a surrogate pair', 6, utf8('{"a":"\\x41"}')],
    ['found an escape that JSON does not allow, or half of a surrogate pair', 6, utf8('{"a":"\\ud800"}')],
    ['duplicate JSON key "a": it appears twice in one object', 7, utf8('{"a":1,"a":2}')],
    ['duplicate JSON key "a": it appears twice in one object', 7, utf8('{"a":1,"\\u0061":2}')],
    ['duplicate JSON key "b": it appears twice in one object', 12, utf8('{"a":{"b":1,"b":2}}')],
    ['JSON nested deeper than 64 levels', 69, utf8(`{"a":${'['.repeat(65)}${']'.repeat(65)}}`)],
    ['JSON nested deeper than 64 levels', 325, utf8('{"a":'.repeat(100_000))],
    ['expected the end of the JSON text, found "x"', 3, utf8('{} x')],
  ])('%s', async (message, offset, bytes) => {
    expect(await failureOf(() => readMembers(bytes))).toEqual({
      message,
      code: 'malformed',
      file: 'header',
      offset,
    });
  });
  test.each<readonly [string, string]>([
    ['a list of too many items', `{"a":[${'0,'.repeat(500_000)}0]}`],
    ['lists within lists', `{"a":[${'[0],'.repeat(300_000)}0]}`],
    [
      'an object of too many members',
      `{"a":{${Array.from({ length: 500_001 }, (_, i) => `"${i}":0`).join()}}}`,
    ],
  ])('stops at %s', async (_, text) => {
    const failure = await failureOf(() => readMembers(utf8(text)));
    expect(failure).toMatchObject({ code: 'limit-exceeded' });
    expect(failure.message).toContain('more than 500000 values in one member');
  });

  test('counts values anew in each member', () => {
    const list = `[${'0,'.repeat(300_000)}0]`;
    expect(readMembers(utf8(`{"a":${list},"b":${list}}`)).size).toBe(2);
  });

  test.each([
    ['plain', 'x'],
    ['escaped', '\\u0001'],
  ])('stops at a string that is too long: %s', async (_, unit) => {
    const text = `{"a":"${unit.repeat(Math.ceil((33 * 1024 * 1024) / unit.length))}"}`;
    const failure = await failureOf(() => readMembers(utf8(text)));
    expect(failure).toMatchObject({ code: 'limit-exceeded' });
  });

  test('counts bytes from the start of the file, not of the text', async () => {
    const failure = await failureOf(() => new JsonReader(utf8('x'), 'f', 8).readTopObject(() => {}));
    expect(failure.offset).toBe(8);
  });

  test('accepts no text that JSON.parse refuses', async () => {
    const text = fc.string({ unit: fc.constantFrom(...'{}[]",:\\ue+-.01 tfn') });
    await fc.assert(
      fc.asyncProperty(text, async (body) => {
        let isAccepted = true;
        try {
          readMembers(utf8(`{"a":${body}}`));
        } catch {
          isAccepted = false;
        }
        if (isAccepted) expect(() => JSON.parse(`{"a":${body}}`)).not.toThrow();
      }),
      { numRuns: 1000 },
    );
  });
});

describe('toUnsignedInteger', () => {
  test.each([
    ['0', 0n],
    ['18446744073709551615', 2n ** 64n - 1n],
    ['007', 7n],
  ])('%s is an integer', (digits, integer) => {
    expect(toUnsignedInteger({ digits })).toBe(integer);
  });

  test.each(['-1', '1.0', '1e3', '18446744073709551616', '100000000000000000000'])('%s is none', (digits) => {
    expect(toUnsignedInteger({ digits })).toBeNull();
  });

  test.each<JsonValue | undefined>(['1', true, null, undefined, [], new Map()])('%j is none', (value) => {
    expect(toUnsignedInteger(value)).toBeNull();
  });
});

describe('describeJson', () => {
  test.each<readonly [string, JsonValue | undefined]>([
    ['nothing', undefined],
    ['null', null],
    ['true', true],
    ['"a\\n"', 'a\n'],
    ['12.50', { digits: '12.50' }],
    ['1'.repeat(40), { digits: '1'.repeat(300) }],
    ['[1, "x"]', [{ digits: '1' }, 'x']],
    ['a list of 9', Array<null>(9).fill(null)],
    ['an object', new Map()],
  ])('says %s', (description, value) => {
    expect(describeJson(value)).toBe(description);
  });
});
