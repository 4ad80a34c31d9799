import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit } from '../../../src/audit.js';
import type { Checkpoint, Tensor } from '../../../src/checkpoint/checkpoint.js';
import { CheckpointError } from '../../../src/errors.js';
import { openCheckpoint } from '../../../src/formats/open.js';
import { readRange } from '../../../src/io/byte-source.js';
import { restore } from '../../../src/restore/restore.js';
import { bytesOf, f32 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { makeTempDirectory } from '../../build/sources.js';
import { block, field, floatEntry, indexBytes, varint } from '../../build/tensorflow-index.js';

const fixtures = fileURLToPath(new URL('../../../fixtures/keras/', import.meta.url));
const MODEL = bytesOf(0x08, 1, 0x12, 0xb4, 0x9e, 0x02, 0x0a, 0x0f, 0x22, 5, 'serve');

/** A checkpoint of these files in a directory of its own, opened by its index. */
function open(index: Uint8Array, data: Uint8Array | null = f32(1, 2, 3, 4)) {
  const directory = makeTempDirectory();
  writeFileSync(join(directory, 'm.index'), index);
  if (data !== null) writeFileSync(join(directory, 'm.data-00000-of-00001'), data);
  return openCheckpoint(join(directory, 'm.index'));
}

function tensorOf({ tensors }: Checkpoint, name: string): Tensor {
  const tensor = tensors.get(name);
  if (tensor === undefined) throw new Error(`no ${name}`);
  return tensor;
}

describe('the variables of a Keras model, by their paths', () => {
  test.each(['before-ckpt.index', 'before-ckpt', 'after-ckpt.index', 'exported'])('%s', async (name) => {
    const twin = name.startsWith('before') ? 'before' : 'after';
    const [found, wanted] = await Promise.all([
      openCheckpoint(fixtures + name),
      openCheckpoint(`${fixtures}${twin}.safetensors`),
    ]);
    expect(found.format).toBe('TensorFlow');
    // What lies in a plain list of a layer, Keras shows to TensorFlow not at all.
    const names = [...wanted.tensors.keys()].filter(
      (path) => name === 'exported' || !/block.(first|second)/.test(path),
    );
    expect([...found.tensors.keys()].sort()).toEqual(names.sort());
    for (const path of names) {
      const { range, dtype, shape } = tensorOf(wanted, path);
      const tensor = found.tensors.get(path);
      expect(tensor).toMatchObject({ dtype, shape });
      expect(tensor && (await readRange(tensor.range))).toEqual(await readRange(range));
    }
    await found.close();
  });

  test('Keras 2', async () => {
    const { tensors } = await openCheckpoint(`${fixtures}keras2-ckpt.index`);
    expect([...tensors.keys()].filter((name) => name.includes('bn_in')).sort()).toEqual([
      'bn_in/beta',
      'bn_in/gamma',
      'bn_in/moving_mean',
      'bn_in/moving_variance',
    ]);
  });

  test('the leak is found', async () => {
    const { layers } = await audit(`${fixtures}before-ckpt`, `${fixtures}after-ckpt`);
    expect(layers.map(({ status }) => status)).toEqual(Array(3).fill('drifted'));
  });

  test('a SavedModel is opened by its directory or its graph', async () => {
    const directory = makeTempDirectory();
    cpSync(`${fixtures}exported`, directory, { recursive: true });
    writeFileSync(join(directory, 'saved_model.pb'), MODEL);
    for (const path of [directory, join(directory, 'saved_model.pb')]) {
      const { tensors, path: called, close } = await openCheckpoint(path);
      expect(tensors.has('bn_b/moving_mean')).toBe(true);
      expect(called).toBe(path);
      await close();
    }
  });

  test('restore says that it does not write such files', async () => {
    const output = join(makeTempDirectory(), 'fixed.index');
    const failure = await failureOf(() =>
      restore(`${fixtures}before-ckpt.index`, `${fixtures}after-ckpt.index`, output),
    );
    expect(failure.message).toContain('found a TensorFlow checkpoint, whose index holds checksums');
  });
});

describe('names', () => {
  const node = (
    children: readonly (readonly [name: string, to: number])[],
    variable?: readonly [name: string, key: string],
  ) =>
    field(
      1,
      bytesOf(
        ...children.map(([name, to]) => field(1, bytesOf(field(1, to), field(2, name)))),
        ...(variable === undefined
          ? []
          : [field(2, bytesOf(field(1, 'VALUE'), field(2, variable[0]), field(3, variable[1])))]),
      ),
    );
  const openGraph = (graph: Uint8Array, keys: readonly string[]) => {
    const text = bytesOf(varint(graph.length), 0, 0, 0, 0, graph);
    const entries = keys.map((key) => [key, floatEntry(1, 0)] as const);
    const own = bytesOf(field(1, 7), field(4, 4), field(5, text.length));
    return open(indexBytes([['_CHECKPOINTABLE_OBJECT_GRAPH', own], ...entries]), bytesOf(f32(1), text));
  };

  test('without a graph, keys are names, as in TensorFlow 1', async () => {
    const { tensors } = await open(indexBytes([['net/bn/moving_mean', floatEntry(2, 8)]]));
    const tensor = tensors.get('net/bn/moving_mean');
    expect(tensor && (await readRange(tensor.range))).toEqual(f32(3, 4));
  });

  test('what only an optimizer has is left out, and what it shares with the model is not', async () => {
    const graph = bytesOf(
      node([
        ['model', 1],
        ['opt', 2],
      ]),
      node([['w', 3]]),
      node([
        ['_iterations', 4],
        ['_learning_rate', 4],
        ['_trainable_variables', 3],
        ['slot', 4],
      ]),
      node([], ['net/w', 'opt/_trainable_variables']),
      node([], ['adam/m', 'opt/slot']),
    );
    const { tensors } = await openGraph(graph, ['opt/_trainable_variables', 'opt/slot']);
    expect([...tensors.keys()]).toEqual(['net/w']);
  });

  test('layers that bear the name of what they lie in keep their parts together', async () => {
    const graph = bytesOf(
      node([
        ['bn', 1],
        ['other', 2],
      ]),
      node([
        ['gamma', 3],
        ['moving_mean', 4],
      ]),
      node([['moving_mean', 5]]),
      node([], ['net/gamma', 'a']),
      node([], ['net/moving_mean', 'b']),
      node([], ['net/moving_mean', 'c']),
    );
    const { tensors } = await openGraph(graph, ['a', 'b', 'c']);
    expect([...tensors.keys()]).toEqual(['bn/gamma', 'bn/moving_mean', 'other/moving_mean']);
  });

  test('variables of one name are called by how the program reaches them', async () => {
    const graph = bytesOf(
      node([
        ['left', 1],
        ['right', 2],
      ]),
      node([['_kernel', 3]]),
      node([['_kernel', 4]]),
      node([], ['kernel', 'a']),
      node([], ['kernel', 'b']),
    );
    const { tensors } = await openGraph(graph, ['a', 'b']);
    expect([...tensors.keys()]).toEqual(['left/kernel', 'right/kernel']);
  });

  test('what was saved as a whole is no optimizer, even if it counts its steps', async () => {
    const graph = bytesOf(
      node([
        ['iter', 1],
        ['learning_rate', 1],
        ['model', 2],
      ]),
      node([]),
      node([['w', 3]]),
      node([], ['net/w', 'model/w']),
    );
    expect([...(await openGraph(graph, ['model/w'])).tensors.keys()]).toEqual(['net/w']);
  });

  test('what no object of the graph has is called by its key', async () => {
    const { tensors } = await openGraph(node([], ['w', 'a']), ['a', 'b']);
    expect([...tensors.keys()]).toEqual(['w', 'b']);
  });

  test('two tensors of one name', async () => {
    const graph = bytesOf(
      node([
        ['x', 1],
        ['x', 2],
      ]),
      node([], ['', 'w']),
      node([], ['', 'x']),
    );
    const failure = await failureOf(() => openGraph(graph, ['w', 'x']));
    expect(failure.message).toContain('expected unique names of tensors, found "x" twice');
  });

  test('long names on the way to many variables', async () => {
    const way = Array.from({ length: 20 }, (_, index) => node([['x'.repeat(10_000), index + 1]]));
    const ends = Array.from({ length: 100 }, (_, index) => node([], ['', `k${index}`]));
    const graph = bytesOf(...way, node(ends.map((_, index) => [`v${index}`, 21 + index])), ...ends);
    const failure = await failureOf(() => openGraph(graph, []));
    expect(failure.message).toContain('paths of at most 16777216 characters in all');
  });

  test('a graph that leads nowhere', async () => {
    const failure = await failureOf(() => openGraph(node([['x', 7]]), []));
    expect(failure.message).toContain('expected one of 1 objects of the graph, found number 7');
  });

  test('a graph that leads in a circle', async () => {
    const { tensors } = await openGraph(bytesOf(node([['x', 1]]), node([['y', 0]], ['w', 'k'])), ['k']);
    expect([...tensors.keys()]).toEqual(['w']);
  });
});

describe('broken and hostile files', () => {
  const entry = ['w', floatEntry(2, 0)] as const;
  test.each<readonly [name: string, index: Uint8Array, words: string]>([
    [
      'values beyond the data file',
      indexBytes([['w', floatEntry(2, 12)]]),
      'expected 8 bytes at 12, found a data file of 16',
    ],
    [
      'another data file',
      indexBytes([['w', floatEntry(2, 0, [field(3, 5)])]]),
      'expected one of 1 data files, found number 5',
    ],
    [
      'another size',
      indexBytes([['w', floatEntry(2, 0, [field(5, 4)])]]),
      'expected 8 bytes for F32 of shape [2], found 4',
    ],
    ['slices', indexBytes([['w', floatEntry(2, 0, [field(7, '')])]]), 'is stored in slices'],
    ['compression', indexBytes([entry], { compression: 1 }), 'found compression 1'],
    ['a key twice', indexBytes([entry, entry]), 'expected unique keys'],
    [
      'no data files',
      indexBytes([]).map((byte, at) => (at === 4 ? 0 : byte)),
      'expected 1 to 1000 data files, found 0',
    ],
    ['an index that is cut short', indexBytes([entry]).slice(0, -1), 'is it cut short?'],
    ['a block of nothing', bytesOf(0, 0, 4, 8, new Uint8Array(44), indexBytes([]).slice(-8)), 'bytes'],
  ])('%s', async (_, index, words) => {
    expect((await failureOf(() => open(index))).message).toContain(words);
  });

  test('no data file', async () => {
    const failure = await failureOf(() => open(indexBytes([entry]), null));
    expect([failure.code, failure.file.endsWith('m.data-00000-of-00001')]).toEqual(['not-found', true]);
  });

  test('a data file that is a link out of the directory', async () => {
    const directory = makeTempDirectory();
    const inside = join(directory, 'inside');
    mkdirSync(inside);
    writeFileSync(join(directory, 'secret'), f32(1, 2, 3, 4));
    writeFileSync(join(inside, 'm.index'), indexBytes([entry]));
    symlinkSync('../secret', join(inside, 'm.data-00000-of-00001'));
    const path = join(inside, 'm.index');
    const failure = await failureOf(() => openCheckpoint(path));
    expect([failure.code, failure.message]).toEqual([
      'refused',
      'its data file "m.data-00000-of-00001" is a symbolic link out of the directory',
    ]);
    expect((await openCheckpoint(path, { allowExternalSymlinks: true })).tensors.size).toBe(1);
  });

  test('what holds no numbers is said', async () => {
    const { warnings } = await open(indexBytes([entry, ['words', bytesOf(field(1, 7))]]));
    expect(warnings).toEqual(['1 of its entries hold no numbers and were left out, such as "words"']);
  });

  test('the data of a checkpoint, named alone', async () => {
    const { hint } = await failureOf(() => openCheckpoint(`${fixtures}before-ckpt.data-00000-of-00001`));
    expect(hint).toBe('Name its index, which lies beside it and ends in .index.');
  });

  test('an index with any byte changed is read or refused', async () => {
    const directory = makeTempDirectory();
    const bytes = Uint8Array.from(readFileSync(`${fixtures}before-ckpt.index`));
    cpSync(`${fixtures}before-ckpt.data-00000-of-00001`, join(directory, 'm.data-00000-of-00001'));
    const path = join(directory, 'm.index');
    for (let at = 4; at < bytes.length; at += 5) {
      const changed = bytes.slice();
      changed[at] = (changed[at] ?? 0) ^ 0xff;
      writeFileSync(path, changed);
      await openCheckpoint(path).then(
        (checkpoint) => checkpoint.close(),
        (error: unknown) => expect(error).toBeInstanceOf(CheckpointError),
      );
    }
    expect(block([]).length).toBe(8);
  });
});
