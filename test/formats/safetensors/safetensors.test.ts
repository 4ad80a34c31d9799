import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CheckpointError } from '../../../src/errors.js';
import { looksLikeSafetensors, openSafetensors } from '../../../src/formats/safetensors/safetensors.js';
import { memorySource, readRange } from '../../../src/io/byte-source.js';
import { openFileSource } from '../../../src/io/file-source.js';
import { bytesOf, f32, i64, u64, utf8 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { safetensorsBytes, safetensorsWithHeader } from '../../build/safetensors.js';
import { countingSource, makeTempDirectory } from '../../build/sources.js';

const open = (bytes: Uint8Array) => openSafetensors(memorySource('m.safetensors', bytes), 'm.safetensors');

const DTYPES =
  'BOOL, F4, F6_E2M3, F6_E3M2, U8, I8, F8_E5M2, F8_E4M3, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, I16, U16, F16, BF16, I32, U32, F32, C64, F64, I64, U64';

describe('opening', () => {
  test('gives every tensor its type, shape and place', async () => {
    const bytes = safetensorsBytes({
      weight: { dtype: 'F32', shape: [2, 1], data: f32(1, 2) },
      count: { dtype: 'I64', shape: [], data: i64(7) },
    });
    const checkpoint = await open(bytes);
    const { weight, count } = Object.fromEntries(checkpoint.tensors);
    expect(weight).toMatchObject({ name: 'weight', dtype: 'F32', shape: [2, 1], elementCount: 2 });
    expect(count).toMatchObject({ name: 'count', dtype: 'I64', shape: [], elementCount: 1 });
    expect(weight && (await readRange(weight.range))).toEqual(f32(1, 2));
    expect(count && (await readRange(count.range))).toEqual(i64(7));
  });

  test('keeps the order of the header, whatever the order of the data', async () => {
    const header =
      '{"second":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"first":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}';
    const { tensors } = await open(safetensorsWithHeader(header, Uint8Array.of(10, 20)));
    expect([...tensors.keys()]).toEqual(['second', 'first']);
  });

  test('is a checkpoint without graph, modules or module order', async () => {
    const checkpoint = await open(safetensorsWithHeader('{}'));
    expect(checkpoint).toMatchObject({
      path: 'm.safetensors',
      format: 'safetensors',
      inModuleOrder: false,
      graph: null,
      warnings: [],
    });
    expect([checkpoint.tensors.size, checkpoint.modules.size]).toEqual([0, 0]);
  });

  test('of two files with one header gives each its own tensors, and looks where each ends', async () => {
    const file = (...values: readonly number[]) =>
      safetensorsBytes({ w: { dtype: 'F32', shape: [2], data: f32(...values) } }, { epoch: '1' });
    const [one, other] = [await open(file(1, 2)), await open(file(3, 4))];
    for (const [{ tensors }, values] of [
      [one, f32(1, 2)],
      [other, f32(3, 4)],
    ] as const) {
      const tensor = tensors.get('w');
      expect(tensor && (await readRange(tensor.range))).toEqual(values);
    }
    const short = memorySource('short.safetensors', file(5, 6).subarray(0, -1));
    expect(await failureOf(() => openSafetensors(short, 'short.safetensors'))).toMatchObject({
      code: 'truncated',
      file: 'short.safetensors',
    });
    // As long a header, other shapes.
    const { tensors } = await open(
      safetensorsBytes({ w: { dtype: 'F32', shape: [1], data: f32(7) } }, { epoch: '1' }),
    );
    expect(tensors.get('w')?.shape).toEqual([1]);
  });

  test('takes tensors without elements, also where others begin', async () => {
    const header =
      '{"none":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},"one":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"end":{"dtype":"F32","shape":[0],"data_offsets":[1,1]}}';
    const { tensors } = await open(safetensorsWithHeader(header, 1));
    expect([...tensors.values()].map(({ elementCount }) => elementCount)).toEqual([0, 1, 0]);
  });

  test('takes types of less than a byte where they fill whole bytes', async () => {
    const header =
      '{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},"b":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[2,5]}}';
    const { tensors } = await open(safetensorsWithHeader(header, 5));
    expect([...tensors.values()].map(({ range }) => range.byteLength)).toEqual([2, 3]);
  });

  test('takes spaces around the header, which writers pad with', async () => {
    expect((await open(safetensorsWithHeader('  {}   '))).tensors.size).toBe(0);
  });

  test('ignores further keys of an entry, and __metadata__: null', async () => {
    const header = '{"__metadata__":null,"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":{}}}';
    expect([...(await open(safetensorsWithHeader(header, 1))).tensors.keys()]).toEqual(['a']);
  });

  test('gives names that save_model dropped back their tensor', async () => {
    const kept = { dtype: 'F32', shape: [1], data: f32(3) };
    const { tensors } = await open(
      safetensorsBytes({ kept }, { dropped: 'kept', format: 'pt', kept: 'kept' }),
    );
    expect([...tensors.keys()]).toEqual(['kept', 'dropped']);
    expect(tensors.get('dropped')).toMatchObject({ name: 'dropped', range: tensors.get('kept')?.range });
  });

  test('closes its source', async () => {
    const source = countingSource('m', safetensorsWithHeader('{}'));
    await (await openSafetensors(source, 'm')).close();
    expect(source.isClosed).toBe(true);
  });
});

describe('an entry as the reference writer spells it', () => {
  const number = fc.constantFrom(
    '0',
    '1',
    '2',
    '3',
    '8',
    '007',
    '-1',
    '1.0',
    '4294967296',
    '999999999999999',
    '1e3',
  );
  const entryText = fc
    .record({
      name: fc.constantFrom(
        'a',
        'b',
        'layer1.0.bn.weight',
        '__metadata__',
        'é',
        'x\\u0041',
        'ba\\d',
        'tab\t',
        '',
      ),
      dtype: fc.constantFrom('F32', 'U8', 'F4', 'F6_E2M3', 'C64', 'f32', 'nope', ''),
      shape: fc.oneof(fc.array(number, { maxLength: 4 }), fc.constant(Array<string>(65).fill('1'))),
      offsets: fc.array(number, { minLength: 1, maxLength: 3 }),
    })
    .map(
      ({ name, dtype, shape, offsets }) =>
        `"${name}":{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${offsets}]}`,
    );
  const usual = fc.constantFrom(
    '"c":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}',
    '"d":{"dtype":"I64","shape":[],"data_offsets":[8,16]}',
  );

  test('is read as any other spelling of it is, or refused with the same words', async () => {
    const outcomeOf = async (header: string) => {
      try {
        const { tensors } = await open(safetensorsWithHeader(header, 16));
        return [...tensors.values()].map(({ range, ...tensor }) => ({ ...tensor, bytes: range.byteLength }));
      } catch (error) {
        return error instanceof CheckpointError ? `${error.code}: ${error.message}` : error;
      }
    };
    const accepted = new Set<boolean>();
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(usual, entryText), { minLength: 1, maxLength: 3 }),
        async (entries) => {
          const outcome = await outcomeOf(`{${entries}}`);
          accepted.add(Array.isArray(outcome));
          expect(outcome).toEqual(await outcomeOf(`{${entries.map((text) => text.replace(':{', ': {'))}}`));
        },
      ),
      { numRuns: 2000 },
    );
    expect(accepted).toEqual(new Set([true, false]));
  });

  test('may hold more, which is checked as in any other spelling', async () => {
    const header = (extra: string) =>
      `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":${extra}}}`;
    expect((await open(safetensorsWithHeader(header('{"deep":[[1]]}'), 1))).tensors.size).toBe(1);
    const failure = await failureOf(() =>
      open(safetensorsWithHeader(header(`${'['.repeat(200)}${']'.repeat(200)}`), 1)),
    );
    expect(failure.message).toBe('JSON nested deeper than 64 levels');
  });

  test('may be of any length', async () => {
    const name = 'x'.repeat(10_000);
    const header = `{"${name}":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`;
    expect([...(await open(safetensorsWithHeader(header, 1))).tensors.keys()]).toEqual([name]);
  });
});

describe('opening reads the header only', () => {
  const directory = makeTempDirectory();

  test('of a file of 200 MB', async () => {
    const path = join(directory, 'large.safetensors');
    const dataLength = 200_000_000;
    const head = safetensorsWithHeader(
      `{"w":{"dtype":"F32","shape":[${dataLength / 4}],"data_offsets":[0,${dataLength}]}}`,
    );
    const descriptor = openSync(path, 'w');
    writeSync(descriptor, head);
    ftruncateSync(descriptor, head.length + dataLength);
    closeSync(descriptor);
    const source = openFileSource(path);
    const checkpoint = await openSafetensors(source, path);
    expect(checkpoint.tensors.get('w')?.range.byteLength).toBe(dataLength);
    expect(source.bytesRead).toBe(head.length);
    await checkpoint.close();
  });
});

/** A header with one tensor entry as given. */
const entry = (text: string) => `{"a":${text}}`;

describe('refusing', () => {
  test.each<readonly [message: string, code: string, bytes: Uint8Array]>([
    [
      'expected a safetensors header length of 8 bytes, found a file of 7 bytes: too short',
      'truncated',
      new Uint8Array(7),
    ],
    [
      'expected a safetensors header of at most 100000000 bytes, found a header length of 100000001: too large',
      'limit-exceeded',
      bytesOf(u64(100_000_001), '{}'),
    ],
    [
      'expected a safetensors header of at most 100000000 bytes, found a header length of 18446744073709551615: too large',
      'limit-exceeded',
      bytesOf(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{}'),
    ],
    [
      'expected a safetensors header of 3 bytes, found 2 bytes after its length: the header reaches beyond the file',
      'truncated',
      bytesOf(u64(3), '{}'),
    ],
    ['expected a safetensors header in JSON, found a header length of 0', 'malformed', u64(0)],
    [
      'expected __metadata__ to be an object, found "pt"',
      'malformed',
      safetensorsWithHeader('{"__metadata__":"pt"}'),
    ],
    [
      'expected __metadata__ to be an object, found [1]',
      'malformed',
      safetensorsWithHeader('{"__metadata__":[1]}'),
    ],
    [
      'expected strings in __metadata__, found 1 under "epoch"',
      'malformed',
      safetensorsWithHeader('{"__metadata__":{"epoch":1}}'),
    ],
    [
      'tensor "a": expected a header entry (a JSON object), found 5',
      'malformed',
      safetensorsWithHeader(entry('5')),
    ],
    [
      `tensor "a": expected a dtype (${DTYPES}), found dtype "F128"`,
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F128","shape":[1],"data_offsets":[0,16]}'), 16),
    ],
    [
      `tensor "a": expected a dtype (${DTYPES}), found dtype nothing`,
      'malformed',
      safetensorsWithHeader(entry('{"shape":[1],"data_offsets":[0,4]}'), 4),
    ],
    [
      'tensor "a": expected a shape of non-negative integers, found shape [-1]',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}'), 4),
    ],
    [
      'tensor "a": expected a shape of non-negative integers, found shape [1.0]',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}'), 4),
    ],
    [
      'tensor "a": expected a shape of non-negative integers, found shape nothing',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","data_offsets":[0,4]}'), 4),
    ],
    [
      'tensor "a": expected a shape of at most 64 dimensions, found 65',
      'limit-exceeded',
      safetensorsWithHeader(entry(`{"dtype":"F32","shape":[${Array(65).fill(1)}],"data_offsets":[0,4]}`), 4),
    ],
    [
      'tensor "a": expected data_offsets [begin, end] of two non-negative integers, found data_offsets nothing',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[1]}'), 4),
    ],
    [
      'tensor "a": expected data_offsets [begin, end] of two non-negative integers, found data_offsets [0, 4, 8]',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}'), 4),
    ],
    [
      'tensor "a": expected data_offsets [begin, end] of two non-negative integers, found data_offsets [0, 18446744073709551616]',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}'), 4),
    ],
    [
      'tensor "a": expected data_offsets with begin ≤ end, found an invalid range [4, 0]',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[1],"data_offsets":[4,0]}'), 4),
    ],
    [
      'tensor "a": the size of shape [4294967296, 4294967296] overflows 64 bits',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}'), 4),
    ],
    [
      'tensor "a": expected whole bytes, found 12 bits of F4 in shape [3]',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F4","shape":[3],"data_offsets":[0,1]}'), 1),
    ],
    [
      'tensor "a": expected 8 bytes for F32 of shape [2], found data_offsets of length 4',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[2],"data_offsets":[0,4]}'), 4),
    ],
    [
      'tensor "b": expected data_offsets to begin at 4, found 2: it overlaps tensor "a"',
      'malformed',
      safetensorsWithHeader(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}',
        6,
      ),
    ],
    [
      'tensor "b": expected data_offsets to begin at 4, found 0: it overlaps tensor "a"',
      'malformed',
      safetensorsWithHeader(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        4,
      ),
    ],
    [
      'tensor "b": expected data_offsets to begin at 4, found 6: it leaves a hole after tensor "a"',
      'malformed',
      safetensorsWithHeader(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[6,10]}}',
        10,
      ),
    ],
    [
      'tensor "a": expected data_offsets to begin at 0, found 4: it leaves a hole after the start of the buffer',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[1],"data_offsets":[4,8]}'), 8),
    ],
    [
      'tensor "a": expected data_offsets within the file\'s 3 data bytes, found [0, 4]: the file is truncated or the range is wrong',
      'truncated',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'), 3),
    ],
    [
      'tensor "a": expected data_offsets within the file\'s 0 data bytes, found [0, 4000000000000]: the file is truncated or the range is wrong',
      'truncated',
      safetensorsWithHeader(
        entry('{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}'),
      ),
    ],
    [
      'expected the file to end with its last tensor, found 1 extra trailing bytes beyond it',
      'malformed',
      safetensorsWithHeader(entry('{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'), 5),
    ],
    [
      'expected the file to end with its last tensor, found 4 extra trailing bytes beyond it',
      'malformed',
      safetensorsWithHeader('{}', 4),
    ],
  ])('%s', async (message, code, bytes) => {
    expect(await failureOf(() => open(bytes))).toEqual({ message, code, file: 'm.safetensors' });
  });

  test('more than 200000 tensors in one header', async () => {
    const names = Array.from(
      { length: 200_001 },
      (_, i) => `"${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`,
    );
    expect(await failureOf(() => open(safetensorsWithHeader(`{${names.join(',')}}`)))).toEqual({
      message: 'more than 200000 tensors in one header',
      code: 'limit-exceeded',
      file: 'm.safetensors',
    });
  });

  test('a header that is no JSON, with the byte in the file', async () => {
    expect(await failureOf(() => open(safetensorsWithHeader('{"a":[}')))).toEqual({
      message: 'expected a JSON value, found "}"',
      code: 'malformed',
      file: 'm.safetensors',
      offset: 14,
    });
  });

  test('the same tensor twice', async () => {
    const entryText = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}';
    expect(
      await failureOf(() => open(safetensorsWithHeader(`{"a":${entryText},"a":${entryText}}`))),
    ).toMatchObject({
      message: 'duplicate JSON key "a": it appears twice in one object',
      offset: 61,
    });
  });

  test('a header length that lies costs no memory: it is checked before anything is read', async () => {
    const source = countingSource('m', bytesOf(u64(99_999_999), '{}'));
    await failureOf(() => openSafetensors(source, 'm'));
    expect(source.bytesRead).toBe(8);
  });

  test('a hostile name cannot break the line of the message', async () => {
    const { message } = await failureOf(() => open(safetensorsWithHeader('{"\\u001b[2J\\n\\"":1}')));
    expect(message).toBe('tensor "\\x1b[2J\\n\\"": expected a header entry (a JSON object), found 1');
  });
});

describe('looksLikeSafetensors', () => {
  test.each<readonly [string, Uint8Array]>([
    ['an empty header', safetensorsWithHeader('{}')],
    ['white space before the brace', safetensorsWithHeader('\n {}')],
  ])('sees %s', (_, head) => {
    expect(looksLikeSafetensors(head)).toBe(true);
  });

  test.each<readonly [string, Uint8Array]>([
    ['eight bytes alone', u64(2)],
    ['a header that starts otherwise', safetensorsWithHeader('[]')],
    ['a header length above the limit', bytesOf(u64(100_000_001), '{')],
    ['JSON from the first byte', utf8('{"weight_map":{}}')],
  ])('does not see %s', (_, head) => {
    expect(looksLikeSafetensors(head)).toBe(false);
  });
});
