import { copyFileSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../../../src/audit.js';
import { CheckpointError } from '../../../src/errors.js';
import { openCheckpoint, openSource } from '../../../src/formats/open.js';
import { memorySource, readRange } from '../../../src/io/byte-source.js';
import { restore } from '../../../src/restore/restore.js';
import { bytesOf, f32, u64 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { makeTempDirectory } from '../../build/sources.js';

const FIXTURES = resolve(import.meta.dirname, '../../../fixtures/mxnet');
const openBytes = (bytes: Uint8Array) => openSource(memorySource('m.params', bytes), 'm.params');

describe('what MXNet wrote', () => {
  test.each(['gluon', 'module-0000'])('%s.params holds what safetensors of it do', async (name) => {
    const [found, wanted] = await Promise.all(
      ['params', 'safetensors'].map((ending) => openCheckpoint(join(FIXTURES, `${name}.${ending}`))),
    );
    expect([...(found?.tensors.keys() ?? [])].sort()).toEqual([...(wanted?.tensors.keys() ?? [])].sort());
    for (const [key, { dtype, shape, range }] of wanted?.tensors ?? []) {
      const tensor = found?.tensors.get(key);
      expect(tensor).toMatchObject({ dtype, shape });
      expect(tensor && (await readRange(tensor.range))).toEqual(await readRange(range));
    }
    expect(found?.framework).toBe('mxnet');
  });

  test('restore puts statistics back', async () => {
    const directory = makeTempDirectory();
    const before = join(FIXTURES, 'gluon.params');
    const [after, fixed] = [join(directory, 'after.params'), join(directory, 'fixed.params')];
    copyFileSync(before, after);
    const { tensors, close } = await openCheckpoint(before);
    const mean = tensors.get('1.running_mean');
    if (mean === undefined) throw new Error('no mean');
    const bytes = readFileSync(before);
    bytes.set(f32(5, 6, 7), mean.range.offset);
    await close();
    const { writeFileSync } = await import('node:fs');
    writeFileSync(after, bytes);
    expect((await audit(before, after)).summary.byStatus).toMatchObject({ drifted: 1, locked: 1 });
    await restore(before, after, fixed);
    expect(readFileSync(fixed)).toEqual(readFileSync(before));
  });
});

describe('hostile and odd files', () => {
  const number = (value: number) => new Uint8Array(Int32Array.of(value).buffer);
  const V2 = number(0xf993fac9 | 0);
  const V3 = number(0xf993faca | 0);
  const array = (
    shape: readonly (number | bigint)[],
    { version = V2, kind = 0, type = 0, values = f32(1) } = {},
  ) =>
    bytesOf(
      version,
      number(kind),
      number(shape.length),
      ...shape.map(u64),
      number(1),
      number(0),
      number(type),
      values,
    );
  const file = (
    arrays: readonly Uint8Array[],
    names: readonly string[],
    counts = [arrays.length, names.length],
  ) =>
    bytesOf(
      u64(0x112),
      u64(0),
      u64(counts[0] ?? 0),
      ...arrays,
      u64(counts[1] ?? 0),
      ...names.map((name) => bytesOf(u64(name.length), name)),
    );
  const empty = bytesOf(V2, number(0), number(0));

  test('a number, and an array without a value', async () => {
    const { tensors } = await openBytes(
      file([array([], { version: V3 }), empty, array([1])], ['a', 'b', 'c']),
    );
    expect([...tensors].map(([name, { shape }]) => [name, shape])).toEqual([
      ['a', []],
      ['c', [1]],
    ]);
  });

  test.each<readonly [what: string, bytes: Uint8Array, code: string, words: string]>([
    [
      'a billion arrays',
      file([], [], [2 ** 30, 0]),
      'limit-exceeded',
      'at most 100000 arrays, found 1073741824',
    ],
    ['more arrays than there are', file([array([1])], ['a'], [3, 1]), 'unsupported', 'found others'],
    [
      'an array of long ago',
      file([array([1], { version: number(2) })], ['a']),
      'unsupported',
      'MXNet 1.0 or newer',
    ],
    ['a sparse array', file([array([1], { kind: 1 })], ['a']), 'unsupported', 'found a sparse one'],
    ['a shape larger than the file', file([array([2 ** 40, 2 ** 40])], ['a']), 'truncated', 'found 21 bytes'],
    [
      'sizes below zero',
      file([array([-1n, -1n].map((size) => BigInt.asUintN(64, size)))], ['a']),
      'truncated',
      '[-1, -1]',
    ],
    ['an unknown type', file([array([1], { type: 99 })], ['a']), 'unsupported', 'found number 99'],
    [
      '65 dimensions',
      file([array(Array(65).fill(1))], ['a']),
      'limit-exceeded',
      'at most 64 dimensions, found 65',
    ],
    ['arrays without names', file([array([1])], []), 'unsupported', 'found 0 names'],
    ['a name twice', file([array([1]), array([1])], ['a', 'a']), 'malformed', 'found "a" twice'],
    [
      'a name beyond the file',
      bytesOf(file([array([1])], [], [1, 1]), u64(2n ** 62n)),
      'truncated',
      'end of the names',
    ],
  ])('%s', async (_, bytes, code, words) => {
    const failure = await failureOf(() => openBytes(bytes));
    expect(failure.message).toContain(words);
    expect(failure.code).toBe(code);
  });

  test('with any byte changed, or cut anywhere, is read or refused', async () => {
    const whole = Uint8Array.from(readFileSync(join(FIXTURES, 'gluon.params')));
    for (let at = 0; at < whole.length; at++) {
      const changed = whole.slice();
      changed[at] = (changed[at] ?? 0) ^ 0xff;
      for (const bytes of [changed, whole.slice(0, at)])
        await openBytes(bytes).catch((error: unknown) => expect(error).toBeInstanceOf(CheckpointError));
    }
  });
});
