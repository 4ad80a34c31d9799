import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CheckpointError } from '../../../src/errors.js';
import { openOnnx } from '../../../src/formats/onnx/onnx.js';
import { type ByteSource, memorySource, readRange } from '../../../src/io/byte-source.js';
import { openFileSource } from '../../../src/io/file-source.js';
import { bytesOf } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { makeTempDirectory } from '../../build/sources.js';
import { FLOAT, field, floats, graph, int, model } from './build-onnx.js';

const root = makeTempDirectory();
let count = 0;

/** An external float vector of two values called `t`. */
function external(entries: Readonly<Record<string, string>>, name = 't'): Uint8Array {
  const pairs = Object.entries(entries).map(([key, value]) => field(13, field(1, key), field(2, value)));
  return bytesOf(int(1, 2), int(2, FLOAT), ...pairs, int(14, 1), field(8, name));
}

/** A new directory with a model of these tensors and these files. */
function makeModel(
  initializers: readonly Uint8Array[],
  files: Readonly<Record<string, Uint8Array>> = {},
): string {
  const directory = join(root, `case${count++}`);
  mkdirSync(join(directory, 'sub'), { recursive: true });
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(directory, name), bytes);
  const path = join(directory, 'model.onnx');
  writeFileSync(path, model(graph({ initializers })));
  return path;
}

async function readTensors(path: string, allowExternalSymlinks = false): Promise<Record<string, number[]>> {
  const checkpoint = await openOnnx(openFileSource(path), { path, allowExternalSymlinks });
  const values: Record<string, number[]> = {};
  for (const [name, tensor] of checkpoint.tensors) {
    values[name] = [...new Float32Array((await readRange(tensor.range)).buffer)];
  }
  await checkpoint.close();
  return values;
}

const data = floats(9, 1, 2, 3);
const toTheEnd = { location: 'v.bin', offset: '8' };

describe('external data is read', () => {
  test.each<[string, Readonly<Record<string, string>>]>([
    ['from an offset for a length', { location: 'v.bin', offset: '4', length: '8' }],
    ['to the end of the file', toTheEnd],
    ['with a checksum, which is ignored', { location: './v.bin', offset: '4', length: '8', checksum: 'no' }],
    ['from a subdirectory', { location: 'sub/v.bin', length: '8' }],
  ])('%s', async (_case, entries) => {
    const path = makeModel([external(entries)], { 'v.bin': data, 'sub/v.bin': floats(1, 2) });
    expect(await readTensors(path)).toEqual({ t: entries === toTheEnd ? [2, 3] : [1, 2] });
  });

  test('from several files, and each is opened once', async () => {
    const tensors = [
      external({ location: 'a.bin' }, 'a'),
      external({ location: 'b.bin' }, 'b'),
      external({ location: 'a.bin' }, 'c'),
    ];
    const path = makeModel(tensors, { 'a.bin': floats(1, 2), 'b.bin': floats(3, 4) });
    expect(await readTensors(path)).toEqual({ a: [1, 2], b: [3, 4], c: [1, 2] });
  });

  test('beside the model that a symbolic link leads to', async () => {
    const path = makeModel([external({ location: 'v.bin' })], { 'v.bin': floats(1, 2) });
    const link = join(root, 'link.onnx');
    symlinkSync(path, link);
    expect(await readTensors(link)).toEqual({ t: [1, 2] });
  });

  test('through a symbolic link that stays in the directory', async () => {
    const path = makeModel([external({ location: 'link.bin' })], { 'v.bin': floats(1, 2) });
    symlinkSync('v.bin', join(path, '..', 'link.bin'));
    expect(await readTensors(path)).toEqual({ t: [1, 2] });
  });

  test('through the links of the Hugging Face cache, when they are allowed', async () => {
    const stored = makeModel([external({ location: 'model.onnx_data' })], { blob: floats(1, 2) });
    const snapshot = join(root, `case${count++}`);
    mkdirSync(snapshot);
    const path = join(snapshot, 'model.onnx');
    symlinkSync(stored, path);
    symlinkSync(join(stored, '..', 'blob'), join(snapshot, 'model.onnx_data'));
    expect(await readTensors(path, true)).toEqual({ t: [1, 2] });
    expect(await failureOf(() => readTensors(path))).toMatchObject({
      code: 'refused',
      file: path,
      message: `external data "model.onnx_data" of tensor "t": expected a path inside the model's directory, found a symbolic link that leads outside it`,
      hint: expect.stringContaining('--allow-external-symlinks'),
    });
  });
});

describe('external data is refused', () => {
  test.each<[string, Readonly<Record<string, string>>, string, string]>([
    ['an absolute path', { location: '/etc/hostname' }, 'refused', 'found an absolute path'],
    ['a drive', { location: 'C:v.bin' }, 'refused', 'found an absolute path'],
    ['a parent directory', { location: '../v.bin' }, 'refused', 'found ".." in the path'],
    ['a parent directory further in', { location: 'sub/../../v.bin' }, 'refused', 'found ".." in the path'],
    ['a backslash', { location: '..\\v.bin' }, 'refused', 'found a backslash'],
    ['a NUL', { location: 'v.bin\0.txt' }, 'refused', 'found a NUL character'],
    ['no location', { offset: '0' }, 'malformed', 'expected the key location to name a file, found none'],
    [
      'a missing file',
      { location: 'gone.bin' },
      'not-found',
      'external data "gone.bin" of tensor "t": no such file',
    ],
    ['a directory', { location: 'sub' }, 'not-a-file', 'found a directory'],
    [
      'a negative offset',
      { location: 'v.bin', offset: '-4' },
      'malformed',
      'expected the key offset to be a decimal number below 2^53, found "-4"',
    ],
    ['an offset as a float', { location: 'v.bin', offset: '1e1' }, 'malformed', 'the key offset'],
    ['an empty offset', { location: 'v.bin', offset: '' }, 'malformed', 'the key offset'],
    [
      'an offset that wraps',
      { location: 'v.bin', offset: '18446744073709551620' },
      'malformed',
      'the key offset',
    ],
    ['a huge length', { location: 'v.bin', length: '1152921504606846976' }, 'malformed', 'the key length'],
    [
      'an offset beyond the end',
      { location: 'v.bin', offset: '4096' },
      'truncated',
      'its offset lies beyond the end',
    ],
    [
      'a range beyond the end',
      { location: 'v.bin', offset: '12', length: '8' },
      'truncated',
      'expected 8 bytes from byte 12 on, found the end of the file at byte 16',
    ],
    [
      'another length',
      { location: 'v.bin', length: '12' },
      'malformed',
      'expected 8 bytes for its shape and type, found a length of 12',
    ],
    [
      'another rest',
      { location: 'v.bin', offset: '4' },
      'malformed',
      'found 12 from byte 4 to the end of the file',
    ],
  ])('%s', async (_case, entries, code, message) => {
    const path = makeModel([external(entries)], { 'v.bin': data });
    const failure = await failureOf(() => readTensors(path));
    expect(failure).toMatchObject({ code, file: path });
    expect(failure.message).toContain(message);
    expect(failure.message).toContain('tensor "t"');
  });

  test('a directory that is a link to outside', async () => {
    const path = makeModel([external({ location: 'd/outside.bin' })]);
    writeFileSync(join(root, 'outside.bin'), floats(1, 2));
    symlinkSync('..', join(path, '..', 'd'));
    expect((await failureOf(() => readTensors(path))).code).toBe('refused');
  });

  test('a link to itself', async () => {
    const path = makeModel([external({ location: 'l.bin' })]);
    symlinkSync('l.bin', join(path, '..', 'l.bin'));
    expect((await failureOf(() => readTensors(path))).message).toContain('"l.bin"');
  });

  test('a missing file says where it belongs', async () => {
    const path = makeModel([external({ location: 'v.bin' })], { 'v.bin': floats(1, 2) });
    rmSync(join(path, '..', 'v.bin'));
    expect((await failureOf(() => readTensors(path))).hint).toContain('beside it');
  });
});

describe('a model that is read over the network', () => {
  /** A server that has some files beside the model, and is told to note which it is asked for. */
  function openRemotely(initializers: readonly Uint8Array[], files: Readonly<Record<string, Uint8Array>>) {
    const asked: string[] = [];
    const closed: string[] = [];
    const beside = async (name: string): Promise<ByteSource> => {
      asked.push(name);
      const bytes = files[name];
      if (bytes === undefined)
        throw new CheckpointError('the server has no such file (404)', { code: 'not-found', file: name });
      const close = async () => {
        closed.push(name);
      };
      return { ...memorySource(name, bytes), close };
    };
    const source = memorySource('model.onnx', model(graph({ initializers })));
    const path = 'https://example.org/model.onnx';
    const opened = openOnnx({ ...source, openBeside: beside }, { path });
    return { opened, asked, closed };
  }

  test('has its data beside it, and each file is asked for once', async () => {
    const tensors = [
      external({ location: 'sub/v.bin', offset: '4', length: '8' }, 'a'),
      external({ location: 'sub/v.bin', offset: '0', length: '8' }, 'b'),
    ];
    const { opened, asked, closed } = openRemotely(tensors, { 'sub/v.bin': floats(1, 2, 3) });
    const checkpoint = await opened;
    const a = checkpoint.tensors.get('a');
    expect(a && [...new Float32Array((await readRange(a.range)).buffer)]).toEqual([2, 3]);
    expect([...checkpoint.externalFiles().keys()]).toEqual(['sub/v.bin']);
    await checkpoint.close();
    expect({ asked, closed }).toEqual({ asked: ['sub/v.bin'], closed: ['sub/v.bin'] });
  });

  test.each<[location: string, code: string, words: string]>([
    ['../v.bin', 'refused', '".." in the path'],
    ['/v.bin', 'refused', 'an absolute path'],
    ['//elsewhere.org/v.bin', 'refused', 'an absolute path'],
    ['https://elsewhere.org/v.bin', 'not-found', 'no such file (404)'],
    ['a\\v.bin', 'refused', 'a backslash'],
    ['', 'malformed', 'expected the key location to name a file'],
    ['gone.bin', 'not-found', 'of tensor "t": the server has no such file (404)'],
  ])('%s: %s', async (location, code, words) => {
    const { opened, asked } = openRemotely([external({ location })], {});
    const failure = await failureOf(() => opened);
    expect(failure).toMatchObject({ code, file: 'https://example.org/model.onnx' });
    expect(failure.message).toContain(words);
    expect(asked).toEqual(code === 'not-found' ? [location] : []);
  });

  test('with more than 1,000 data files is refused', async () => {
    const names = Array.from({ length: 1_001 }, (_, index) => `${index}.bin`);
    const files = Object.fromEntries(names.map((name) => [name, floats(1, 2)]));
    const { opened, asked } = openRemotely(
      names.map((location) => external({ location, length: '8' }, location)),
      files,
    );
    expect((await failureOf(() => opened)).code).toBe('limit-exceeded');
    expect(asked.length).toBe(1_000);
  });
});
