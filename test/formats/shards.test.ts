import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { OpenOptions } from '../../src/checkpoint/checkpoint.js';
import {
  looksLikeShardIndex,
  openShards,
  SAFETENSORS_SHARDS,
  type ShardFormats,
} from '../../src/formats/shards.js';
import { readRange } from '../../src/io/byte-source.js';
import { openFileSource } from '../../src/io/file-source.js';
import { f32, utf8 } from '../build/bytes.js';
import { failureOf } from '../build/failure.js';
import { safetensorsBytes, safetensorsWithHeader } from '../build/safetensors.js';
import { makeTempDirectory } from '../build/sources.js';

const root = makeTempDirectory();
let directories = 0;

const shardOf = (...names: readonly string[]) =>
  safetensorsBytes(
    Object.fromEntries(names.map((name, i) => [name, { dtype: 'F32', shape: [1], data: f32(i) }])),
  );

/** Writes files into a directory of their own, and returns the path of the index among them. */
function writeModel(files: Readonly<Record<string, Uint8Array | string>>): string {
  const directory = join(root, String(directories++));
  mkdirSync(directory);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
  return join(directory, 'model.safetensors.index.json');
}

const indexOf = (weightMap: unknown) =>
  JSON.stringify({ metadata: { total_size: 4 }, weight_map: weightMap });

const open = (path: string, options: OpenOptions = {}) =>
  openShards(openFileSource(path), { ...options, path }, SAFETENSORS_SHARDS);

describe('opening an index', () => {
  test('gathers the tensors of all shards in the order of the index', async () => {
    const path = writeModel({
      'model.safetensors.index.json': indexOf({ c: '2.safetensors', a: '1.safetensors', b: '1.safetensors' }),
      '1.safetensors': shardOf('a', 'b'),
      '2.safetensors': shardOf('c'),
    });
    const checkpoint = await open(path);
    expect([...checkpoint.tensors.keys()]).toEqual(['c', 'a', 'b']);
    const b = checkpoint.tensors.get('b');
    expect(b && (await readRange(b.range))).toEqual(f32(1));
    expect(checkpoint).toMatchObject({ path, format: 'safetensors', graph: null, warnings: [] });
    await checkpoint.close();
  });

  test('writes into shards only where all of them are safetensors', async () => {
    const path = writeModel({
      'model.safetensors.index.json': indexOf({ a: '1.bin', b: '2.safetensors' }),
      '1.bin': shardOf('a'),
      '2.safetensors': shardOf('b'),
    });
    const { '.safetensors': read } = SAFETENSORS_SHARDS;
    if (read === undefined) throw new Error('expected a reader of safetensors');
    const formats: ShardFormats = {
      ...SAFETENSORS_SHARDS,
      '.bin': async (source, options) => ({ ...(await read(source, options)), format: 'PyTorch' }),
    };
    const checkpoint = await openShards(openFileSource(path), { path }, formats);
    expect(checkpoint.format).toBe('PyTorch and safetensors');
    expect((await failureOf(async () => checkpoint.planEdits?.([]))).code).toBe('unsupported');
    await checkpoint.close();
  });

  test('warns of tensors that no index names', async () => {
    const path = writeModel({
      'model.safetensors.index.json': indexOf({ a: '1.safetensors' }),
      '1.safetensors': shardOf('a', 'b', 'c', 'd', 'e\n'),
    });
    const checkpoint = await open(path);
    expect([...checkpoint.tensors.keys()]).toEqual(['a']);
    expect(checkpoint.warnings).toEqual([
      '4 tensors in the shards are not in the index and were left out: "b", "c", "d", …',
    ]);
    await checkpoint.close();
  });

  test('names a broken shard in the words of the user, and closes every file', async () => {
    const path = writeModel({
      'model.safetensors.index.json': indexOf({ a: '1.safetensors', b: '2.safetensors' }),
      '1.safetensors': shardOf('a'),
      '2.safetensors': utf8('short'),
    });
    const index = openFileSource(path);
    expect(await failureOf(() => openShards(index, { path }, SAFETENSORS_SHARDS))).toEqual({
      message: 'expected a safetensors header length of 8 bytes, found a file of 5 bytes: too short',
      code: 'truncated',
      file: path.replace('model.safetensors.index.json', '2.safetensors'),
    });
    await expect(index.readInto(new Uint8Array(1), 0)).rejects.toThrow('was read after it was closed');
  });

  test('follows a link within its own directory', async () => {
    const path = writeModel({
      'model.safetensors.index.json': indexOf({ a: 'link.safetensors' }),
      'real.bin': shardOf('a'),
    });
    symlinkSync('real.bin', join(path, '..', 'link.safetensors'));
    const checkpoint = await open(path);
    expect(checkpoint.tensors.size).toBe(1);
    await checkpoint.close();
  });

  test('follows a link out of its directory when that is allowed', async () => {
    const elsewhere = join(root, 'elsewhere.safetensors');
    writeFileSync(elsewhere, shardOf('a'));
    const path = writeModel({ 'model.safetensors.index.json': indexOf({ a: 'link.safetensors' }) });
    symlinkSync(elsewhere, join(path, '..', 'link.safetensors'));
    const checkpoint = await open(path, { allowExternalSymlinks: true });
    expect(checkpoint.tensors.size).toBe(1);
    await checkpoint.close();
  });

  test('follows the links of the Hugging Face cache into the blobs of the same model', async () => {
    const model = join(root, 'models--org--name');
    const snapshot = join(model, 'snapshots', 'abc');
    mkdirSync(snapshot, { recursive: true });
    mkdirSync(join(model, 'blobs'));
    writeFileSync(join(model, 'blobs', '0123'), shardOf('a'));
    symlinkSync('../../blobs/0123', join(snapshot, '1.safetensors'));
    const path = join(snapshot, 'model.safetensors.index.json');
    writeFileSync(path, indexOf({ a: '1.safetensors' }));
    const checkpoint = await open(path);
    expect(checkpoint.tensors.size).toBe(1);
    await checkpoint.close();
  });
});

describe('refusing an index', () => {
  test.each<readonly [message: string, code: string, index: string]>([
    ['expected a JSON object, found "["', 'malformed', '[]'],
    [
      'expected an index of shards with a "weight_map" object, found nothing there: not a checkpoint',
      'malformed',
      '{"hidden_size":768}',
    ],
    [
      'expected an index of shards with a "weight_map" object, found [] there: not a checkpoint',
      'malformed',
      '{"weight_map":[]}',
    ],
    ['weight_map: expected a file name for tensor "a", found 3', 'malformed', indexOf({ a: 3 })],
    ['expected tensors in "weight_map", found none', 'malformed', indexOf({})],
    [
      'expected at most 1000 shards, found 1001',
      'limit-exceeded',
      indexOf(Object.fromEntries(Array.from({ length: 1001 }, (_, i) => [i, `${i}.safetensors`]))),
    ],
    [
      'weight_map: shard "/etc/passwd" has an absolute path: it must lie in the index’s own directory',
      'refused',
      indexOf({ a: '/etc/passwd' }),
    ],
    [
      'weight_map: shard "C:x.safetensors" has an absolute path: it must lie in the index’s own directory',
      'refused',
      indexOf({ a: 'C:x.safetensors' }),
    ],
    [
      'weight_map: shard "\\\\\\\\host\\\\x.safetensors" has an absolute path: it must lie in the index’s own directory',
      'refused',
      indexOf({ a: '\\\\host\\x.safetensors' }),
    ],
    [
      'weight_map: shard "../x.safetensors" leads out of the directory by "..": it must lie in the index’s own directory',
      'refused',
      indexOf({ a: '../x.safetensors' }),
    ],
    [
      'weight_map: shard "x\\\\..\\\\y.safetensors" leads out of the directory by "..": it must lie in the index’s own directory',
      'refused',
      indexOf({ a: 'x\\..\\y.safetensors' }),
    ],
    [
      'weight_map: shard "x\\x00.safetensors" has a NUL byte in its name',
      'refused',
      indexOf({ a: 'x\0.safetensors' }),
    ],
    ['weight_map: shard "x.bin" has another extension than .safetensors', 'refused', indexOf({ a: 'x.bin' })],
    [
      'weight_map: expected tensor "b" in shard "1.safetensors", found no such tensor there',
      'malformed',
      indexOf({ a: '1.safetensors', b: '1.safetensors' }),
    ],
  ])('%s', async (message, code, index) => {
    const path = writeModel({ 'model.safetensors.index.json': index, '1.safetensors': shardOf('a') });
    const { offset, ...failure } = await failureOf(() => open(path));
    expect(failure).toEqual({ message, code, file: path });
  });

  test('one of more than 50 MB, without reading it', async () => {
    const path = writeModel({ 'model.safetensors.index.json': '{' });
    truncateSync(path, 50_000_001);
    const index = openFileSource(path);
    const failure = await failureOf(() => openShards(index, { path }, SAFETENSORS_SHARDS));
    expect(failure.message).toBe('expected an index of at most 50000000 bytes, found 50000001');
    expect(index.bytesRead).toBe(0);
    await index.close();
  });

  test('a shard that is missing, by its own name', async () => {
    const path = writeModel({ 'model.safetensors.index.json': indexOf({ a: 'gone.safetensors' }) });
    expect(await failureOf(() => open(path))).toEqual({
      message: 'no such file',
      code: 'not-found',
      file: path.replace('model.safetensors.index.json', 'gone.safetensors'),
    });
  });

  test('a shard that is a link out of the directory', async () => {
    const path = writeModel({ 'model.safetensors.index.json': indexOf({ a: 'link.safetensors' }) });
    const outside = join(root, 'outside.safetensors');
    writeFileSync(outside, shardOf('a'));
    symlinkSync(outside, join(path, '..', 'link.safetensors'));
    expect(await failureOf(() => open(path))).toEqual({
      message: 'weight_map: shard "link.safetensors" is a symbolic link out of the directory',
      code: 'refused',
      file: path,
      hint: 'If the link is yours, allow it with --allow-external-symlinks.',
    });
  });

  test('a directory beside it whose name only begins alike is outside', async () => {
    const path = writeModel({ 'model.safetensors.index.json': indexOf({ a: 'link.safetensors' }) });
    const directory = join(path, '..');
    mkdirSync(`${directory}-more`);
    writeFileSync(join(`${directory}-more`, 'x.safetensors'), shardOf('a'));
    symlinkSync(join(`${directory}-more`, 'x.safetensors'), join(directory, 'link.safetensors'));
    expect((await failureOf(() => open(path))).code).toBe('refused');
  });
});

describe('looksLikeShardIndex', () => {
  test('sees any JSON object, also behind white space', () => {
    expect(looksLikeShardIndex(utf8('{}'))).toBe(true);
    expect(looksLikeShardIndex(utf8('\n\t {"weight_map":{}}'))).toBe(true);
  });

  test('does not see a safetensors file whose header is 0x7b bytes long', () => {
    const head = safetensorsWithHeader(`{${' '.repeat(0x7b - 2)}}`);
    expect(head[0]).toBe(0x7b);
    expect(looksLikeShardIndex(head)).toBe(false);
  });

  test('does not see other text', () => {
    expect(looksLikeShardIndex(utf8('[{}]'))).toBe(false);
    expect(looksLikeShardIndex(new Uint8Array(0))).toBe(false);
  });
});
