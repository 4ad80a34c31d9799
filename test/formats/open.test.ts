import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../src/audit.js';
import { CheckpointError, findDocs } from '../../src/errors.js';
import { createBaseline } from '../../src/formats/baseline/make-baseline.js';
import type { Format } from '../../src/formats/format.js';
import { SAVE_UNOPTIMISED } from '../../src/formats/onnx/sniff.js';
import { FORMATS, openCheckpoint, openSource } from '../../src/formats/open.js';
import { inspectCheckpoint } from '../../src/inspect.js';
import { readRange } from '../../src/io/byte-source.js';
import { render } from '../../src/report/render.js';
import { bytesOf, f32, utf8 } from '../build/bytes.js';
import { checkpointOf, tensorOf } from '../build/checkpoints.js';
import { failureOf } from '../build/failure.js';
import { safetensorsBytes, safetensorsWithHeader } from '../build/safetensors.js';
import { countingSource, makeTempDirectory } from '../build/sources.js';
import { zip } from './torch/build/zip-writer.js';

const fixtures = fileURLToPath(new URL('../../fixtures', import.meta.url));
const directory = makeTempDirectory();

const openBytes = (bytes: Uint8Array, name = 'file') => openSource(countingSource(name, bytes), name);

describe('the format is told by content', () => {
  test.each([
    ['safetensors', 'pairs/locked/before.safetensors'],
    ['safetensors', 'containers/sharded/model.safetensors.index.json'],
    ['safetensors', 'containers/sharded'],
    ['safetensors', 'containers/huggingface'],
    ['ONNX', 'pairs/locked/before.live.onnx'],
    ['PyTorch', 'pairs/locked/before.pt'],
    ['Keras', 'keras/before.keras'],
    ['Keras', 'keras/before.h5'],
  ])('%s: %s', async (format, path) => {
    const checkpoint = await openCheckpoint(join(fixtures, path));
    expect(checkpoint.format).toBe(format);
    expect(checkpoint.path).toBe(join(fixtures, path));
    expect(checkpoint.tensors.size).toBeGreaterThan(10);
    await checkpoint.close();
  });

  test('not by the name of the file', async () => {
    const bytes = safetensorsBytes({ a: { dtype: 'F32', shape: [1], data: f32(1) } });
    const checkpoint = await openBytes(bytes, 'weights.onnx');
    expect(checkpoint.format).toBe('safetensors');
  });
});

describe('what is plainly something else gets a plain sentence', () => {
  test.each<readonly [found: string, hint: string | undefined, bytes: Uint8Array]>([
    ['an empty file (0 bytes)', 'Was the download or the save interrupted?', new Uint8Array(0)],
    ['only zeros: not a checkpoint', 'Was the download interrupted?', new Uint8Array(2000)],
    [
      'a Git LFS pointer: the file itself was not downloaded',
      'Fetch it with: git lfs pull',
      utf8('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'),
    ],
    [
      'an HTML page: probably a download that ended on a login or error page',
      'Download the file again, from its raw or resolve address.',
      utf8('\n <!DOCTYPE html><html>'),
    ],
    [
      'an HTML page: probably a download that ended on a login or error page',
      'Download the file again, from its raw or resolve address.',
      utf8('<html lang="en">'),
    ],
    ['an XML file, not a checkpoint', undefined, utf8('<?xml version="1.0"?><Error/>')],
    [
      'a gzip-compressed file',
      'Decompress it first: gunzip FILE, or tar -xzf FILE',
      bytesOf(0x1f, 0x8b, 8, 0),
    ],
    ['a zstd-compressed file', 'Decompress it first: unzstd FILE', bytesOf(0x28, 0xb5, 0x2f, 0xfd)],
    ['an xz-compressed file', 'Decompress it first: unxz FILE', bytesOf(0xfd, '7zXZ', 0)],
    ['a bzip2-compressed file', 'Decompress it first: bunzip2 FILE', utf8('BZh9')],
    ['a 7-Zip archive', 'Unpack it first.', bytesOf('7z', 0xbc, 0xaf, 0x27, 0x1c)],
    [
      'a NumPy .npy array, not a checkpoint',
      'Name the folder of .npy files that it belongs to.',
      bytesOf(0x93, 'NUMPY', 1, 0),
    ],
    [
      'a GGUF file, not a format that is read here',
      'Audit the checkpoint or the ONNX model that it was made from.',
      bytesOf('GGUF', 3, 0, 0, 0),
    ],
    [
      'a TensorFlow Lite model, not a format that is read here',
      'Audit the checkpoint or the ONNX model that it was made from.',
      bytesOf(0x1c, 0, 0, 0, 'TFL3'),
    ],
    [
      'a TensorFlow SavedModel without its variables',
      'Name the directory that holds both.',
      bytesOf(0x08, 1, 0x12, 0xb4, 0x9e, 0x02, 0x0a, 0x0f, 0x22, 5, 'serve'),
    ],
    [
      'a PyTorch mobile flatbuffer, not a format that is read here',
      'Audit the checkpoint that it was made from.',
      bytesOf(0x1c, 0, 0, 0, 'PTMF'),
    ],
    [
      'an ONNX Runtime model (.ort, saved with its optimisations), not a format that is read here',
      SAVE_UNOPTIMISED,
      bytesOf(0x1c, 0, 0, 0, 'ORTM'),
    ],
    ['a PDF document', undefined, utf8('%PDF-1.7')],
    ['a PNG image', undefined, bytesOf(0x89, 'PNG\r\n')],
    ['a program (ELF)', undefined, bytesOf(0x7f, 'ELF', 2)],
  ])('%s', async (found, hint, bytes) => {
    expect(await failureOf(() => openBytes(bytes))).toEqual({
      message: `expected a checkpoint of a format that is read, found ${found}`,
      code: 'unrecognised-format',
      file: 'file',
      ...(hint === undefined ? {} : { hint }),
    });
  });

  test('unknown content', async () => {
    expect(await failureOf(() => openBytes(bytesOf(0x11, 0x12, 'words')))).toEqual({
      message: 'expected a checkpoint of a format that is read, found unknown content',
      code: 'unrecognised-format',
      file: 'file',
      hint: expect.stringContaining(findDocs('docs/convert.md')),
    });
  });
});

describe('where no magic number fits, the ending decides who says what is wrong', () => {
  test('.safetensors', async () => {
    expect((await failureOf(() => openBytes(utf8('just some words\n'), 'm.SafeTensors'))).message).toMatch(
      /^expected a safetensors header of at most 100000000 bytes, found a header length of \d+: too large$/,
    );
  });

  test('.onnx', async () => {
    const failure = await failureOf(() => openBytes(utf8('just some words\n'), 'm.onnx'));
    expect(failure.message).not.toContain('safetensors');
    expect(failure.code).not.toBe('unrecognised-format');
  });
});

describe('files and directories', () => {
  test('a missing file', async () => {
    const path = join(directory, 'missing.pt');
    expect(await failureOf(() => openCheckpoint(path))).toEqual({
      message: 'no such file',
      code: 'not-found',
      file: path,
    });
  });

  test('a symbolic link that leads to itself', async () => {
    const path = join(directory, 'loop');
    symlinkSync(path, path);
    expect(await failureOf(() => openCheckpoint(path))).toEqual({
      message: 'its symbolic links lead in a circle',
      code: 'unreadable',
      file: path,
    });
  });

  test('a name that no file system takes', async () => {
    const path = 'x'.repeat(5000);
    expect((await failureOf(() => openCheckpoint(path))).message).toBe('no such file: the name is too long');
  });

  test('a directory without a checkpoint', async () => {
    const path = join(directory, 'empty');
    mkdirSync(path);
    expect(await failureOf(() => openCheckpoint(path))).toEqual({
      message:
        'expected a checkpoint file, found a directory without one that is known by its name (model.safetensors, model.weights.json, model.safetensors.index.json, .metadata, pytorch_model.bin, flax_model.msgpack, tf_model.h5, saved_model.pb, variables/variables.index, model.onnx, *.npy, and their like)',
      code: 'not-a-file',
      file: path,
      hint: 'Name the checkpoint inside it.',
    });
  });

  test('errors name the file inside a directory', async () => {
    const path = join(directory, 'model');
    mkdirSync(path);
    writeFileSync(join(path, 'model.safetensors'), safetensorsWithHeader('{}', 1));
    expect((await failureOf(() => openCheckpoint(path))).file).toBe(join(path, 'model.safetensors'));
  });
});

test('opening reads a header and the first bytes, not the data', async () => {
  const bytes = safetensorsBytes({ a: { dtype: 'U8', shape: [1_000_000], data: new Uint8Array(1_000_000) } });
  const source = countingSource('m', bytes);
  await openSource(source, 'm');
  expect(source.bytesRead).toBe(1024 + bytes.length - 1_000_000);
});

describe('a format of its own takes one row', () => {
  /** A text format: `TOY`, then a line for each tensor, such as `bn.weight 1 1`. */
  const toy: Format = {
    name: 'toy',
    looksLike: (head) => Buffer.from(head).toString('latin1').startsWith('TOY\n'),
    ending: '.toy',
    async open(source, { path }) {
      const text = Buffer.from(await readRange({ source, offset: 0, byteLength: source.byteLength }));
      const [magic, ...lines] = text.toString().trim().split('\n');
      if (magic !== 'TOY')
        throw new CheckpointError('expected a toy', { code: 'malformed', file: source.name });
      const tensors = lines.map((line) => {
        const [name = '', ...numbers] = line.split(' ');
        const shape = name.startsWith('conv') ? [numbers.length, 1, 1, 1] : [numbers.length];
        return tensorOf(name, numbers.map(Number), { shape });
      });
      return checkpointOf(tensors, { path, format: 'toy', inModuleOrder: true, close: () => source.close() });
    },
  };
  const toyBytes = (mean: string) =>
    utf8(`TOY\nconv.weight 3 4\nbn.weight 2 2\nbn.bias 0 1\nbn.running_mean ${mean}\nbn.running_var 1 4\n`);
  const openToy = (bytes: Uint8Array, name: string, options = {}) =>
    openSource(countingSource(name, bytes), name, options, [toy, ...FORMATS]);

  test('and is audited, inspected and kept in a baseline like every other', async () => {
    const [before, after] = [await openToy(toyBytes('0 0'), 'a'), await openToy(toyBytes('1 2'), 'b')];
    const report = await auditCheckpoints(before, after);
    expect(report.before).toMatchObject({ path: 'a', format: 'toy', layers: 1, learned: 3 });
    expect(report.layers).toMatchObject([
      {
        name: 'bn',
        status: 'drifted',
        channels: 2,
        channelsMoved: 2,
        meanShift: { max: expect.closeTo(1, 5) },
      },
    ]);
    expect(report.findings.map(({ kind, layer }) => [kind, layer])).toEqual([['frozen-stats-drift', 'bn']]);
    expect(render(report, { format: 'text' })).toContain('toy, 1 norm layer');
    const inspected = await inspectCheckpoint(after);
    expect(inspected.checkpoint.format).toBe('toy');
    expect(inspected.layers).toMatchObject([{ name: 'bn', status: 'ok', mean: { min: 1, max: 2 } }]);
    const { bytes } = await createBaseline(before);
    const baseline = await openToy(bytes, 'base.safetensors');
    expect(baseline.format).toBe('baseline');
    expect((await auditCheckpoints(baseline, before)).verdict).toBe('clean');
    expect((await auditCheckpoints(baseline, after)).layers).toMatchObject([{ status: 'drifted' }]);
  });

  test('and is told from the others by its first bytes, and by its ending', async () => {
    expect(await failureOf(() => openBytes(toyBytes('0 0')))).toMatchObject({ code: 'unrecognised-format' });
    expect(await failureOf(() => openToy(utf8('words'), 'm.TOY'))).toMatchObject({
      message: 'expected a toy',
    });
    const other = safetensorsBytes({ a: { dtype: 'F32', shape: [1], data: f32(1) } });
    expect((await openToy(other, 'm.toy')).format).toBe('safetensors');
  });

  test('and says whether there are parts to select', async () => {
    expect((await openToy(toyBytes('0 0'), 'a', { select: 'ema' })).unselected).toEqual([]);
  });

  test('and is told by what an archive holds, before the first bytes are asked', async () => {
    const inside: Format = {
      ...toy,
      looksInside: (names) => names.includes('toy.txt'),
      open: async () => toyInside,
    };
    const toyInside = checkpointOf([], { format: 'toy' });
    const openZipped = (name: string) =>
      openSource(countingSource('file', zip([{ name, bytes: utf8('TOY') }])), 'file', {}, [
        ...FORMATS,
        inside,
      ]);
    expect(await openZipped('toy.txt')).toBe(toyInside);
    expect((await failureOf(() => openZipped('other.txt'))).message).toContain(
      'expected a checkpoint of torch.save with a data.pkl, found a zip archive without one',
    );
  });
});
