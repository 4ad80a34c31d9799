import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { CheckpointError } from '../../../src/errors.js';
import { type Hdf5Object, readHdf5 } from '../../../src/formats/keras/hdf5.js';
import { memorySource, wholeOf } from '../../../src/io/byte-source.js';
import { bytesOf, f32, u64 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { floats, hdf5Bytes, link, textAttribute } from '../../build/hdf5.js';
import { countingSource } from '../../build/sources.js';

const fixture = (name: string) =>
  Uint8Array.from(readFileSync(fileURLToPath(new URL(`../../../fixtures/keras/${name}`, import.meta.url))));

const open = (bytes: Uint8Array) => readHdf5(wholeOf(memorySource('m.h5', bytes)));

function listPaths(object: Hdf5Object, path = ''): readonly string[] {
  if (object.kind === 'dataset') return [path];
  return [...object.members].flatMap(([name, member]) =>
    listPaths(member, path === '' ? name : `${path}/${name}`),
  );
}

describe('the tree of a file', () => {
  test('old groups: names in heaps, members in symbol tables', async () => {
    const { root } = await open(fixture('keras2.h5'));
    expect(listPaths(root)).toContain('model_weights/inner/bn_in/moving_mean:0');
    const weights = root.members.get('model_weights');
    expect(weights?.attributes.get('layer_names')).toEqual(['input_2', 'inner', 'out']);
  });

  test('new groups: links in the header', async () => {
    const bytes = hdf5Bytes({
      root: [link('layer', 'layer'), textAttribute('names', ['kernel', 'ü'])],
      layer: [link('kernel', 'kernel')],
      kernel: floats([2], f32(1, 2)),
    });
    const { root } = await open(bytes);
    expect(listPaths(root)).toEqual(['layer/kernel']);
    expect(root.attributes.get('names')).toEqual(['kernel', 'ü']);
  });

  test('texts of variable length, as Keras writes its configuration', async () => {
    const { root } = await open(fixture('before.h5'));
    const [config = ''] = root.attributes.get('model_config') ?? [];
    expect(JSON.parse(config)).toMatchObject({ class_name: 'Functional' });
  });

  test('is read in pieces, the values of a large file not at all', async () => {
    const values = new Uint8Array(8_000_000);
    const head = hdf5Bytes({ root: [link('kernel', 'kernel')], kernel: floats([2], f32(1, 2)) });
    const source = countingSource('m.h5', bytesOf(head, values));
    await readHdf5(wholeOf(source));
    expect(source.bytesRead).toBeLessThan(20_000);
  });
});

describe('broken and hostile files', () => {
  const root = [link('a', 'a')];
  test.each([
    ['a group in itself', { root: [link('self', 'root')] }, 'links in a circle'],
    ['two groups in each other', { root, a: [link('b', 'b')], b: [link('a', 'a')] }, 'links in a circle'],
    ['a name twice', { root: [link('a', 'a'), link('a', 'a')], a: floats([1], f32(1)) }, 'found "a" twice'],
    [
      'a header that goes on in itself',
      { root: [[0x10, bytesOf(u64(58), u64(20))] as const] },
      'its blocks lead in a circle',
    ],
    [
      'an address beyond the file',
      { root: [[0x06, bytesOf(1, 0, 1, 'x', u64(2n ** 63n))] as const] },
      'end of the file',
    ],
    [
      'an external link',
      { root: [[0x06, bytesOf(1, 8, 64, 1, 'x', 5, 0, 0, 'a', 0, 'b', 0)] as const] },
      'a link to another file',
    ],
    ['a soft link', { root: [[0x06, bytesOf(1, 8, 1, 1, 'x', 1, 0, '/')] as const] }, 'a soft link'],
    [
      'a name that is longer than its message',
      { root: [[0x06, bytesOf(1, 0, 200, 'x')] as const] },
      'only 1 before the end',
    ],
    [
      'a shape that no file can hold',
      { root, a: floats([2 ** 52, 2 ** 52], f32(1)) },
      'a shape that a file can hold',
    ],
    [
      'a list of texts that is not there',
      {
        root: [
          [
            0x0c,
            bytesOf(3, 0, 2, 0, 8, 0, 12, 0, 0, 'n', 0, 0x13, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 1, u64(2 ** 40)),
          ] as const,
        ],
      },
      'found too few bytes',
    ],
    [
      'a text in a heap that is none',
      {
        root: [
          [
            0x0c,
            bytesOf(
              3,
              0,
              2,
              0,
              8,
              0,
              4,
              0,
              0,
              'n',
              0,
              0x19,
              1,
              0,
              0,
              16,
              0,
              0,
              0,
              2,
              0,
              0,
              0,
              5,
              0,
              0,
              0,
              u64(8),
              1,
              0,
              0,
              0,
            ),
          ] as const,
        ],
      },
      'expected a global heap',
    ],
  ])('%s', async (_, objects, words) => {
    const failure = await failureOf(() => open(hdf5Bytes(objects)));
    expect(failure.message).toContain(words);
  });

  test('texts of many spaces take no time', async () => {
    const text = `${' '.repeat(60_000)}x  `;
    const attributes = Array.from({ length: 8 }, (__, index) => textAttribute(`text${index}`, [text]));
    const { root: found } = await open(
      hdf5Bytes({ root: [link('a', 'a'), ...attributes], a: floats([1], f32(1)) }),
    );
    expect(found.attributes.get('text7')).toEqual([text.trimEnd()]);
  }, 2_000);

  test('long names of groups above many datasets', async () => {
    const names = Array.from({ length: 1200 }, (__, index) => link(`d${index}`, 'd'));
    const groups = Array.from({ length: 60 }, (__, index) => [
      index === 0 ? 'root' : `g${index}`,
      [link('x'.repeat(250), index === 59 ? 'last' : `g${index + 1}`)],
    ]);
    const objects = { ...Object.fromEntries(groups), last: names, d: floats([1], f32(1)) };
    expect((await failureOf(() => open(hdf5Bytes(objects)))).message).toMatch(
      /paths of at most 16777216 characters in all/,
    );
  });

  test('names that overlap in their heap', async () => {
    const heap = bytesOf('x'.repeat(60_000), 0);
    const entries = Array.from({ length: 600 }, (__, index) =>
      bytesOf(u64(index), u64(48), new Uint8Array(24)),
    );
    const at = 48 + 10 + 20 + 4;
    const table = bytesOf('SNOD', 1, 0, 600 & 255, 600 >> 8, ...entries);
    const tree = bytesOf('TREE', 0, 0, 1, 0, u64(0), u64(0), u64(0), u64(at), u64(0));
    const names = bytesOf(
      'HEAP',
      0,
      0,
      0,
      0,
      u64(heap.length),
      u64(0),
      u64(at + table.length + tree.length + 32),
    );
    const root = [[0x11, bytesOf(u64(at + table.length), u64(at + table.length + tree.length))] as const];
    // The end of the file stands in the superblock, and may be before its end.
    const bytes = bytesOf(hdf5Bytes({ root }), table, tree, names, heap);
    expect((await failureOf(() => open(bytes))).message).toMatch(/paths of at most 16777216 characters/);
  });

  test('a thousand groups in each other', async () => {
    const objects = Object.fromEntries(
      Array.from({ length: 1000 }, (__, index) => [
        index === 0 ? 'root' : `g${index}`,
        [link('g', `g${index + 1}`)],
      ]),
    );
    expect((await failureOf(() => open(hdf5Bytes(objects)))).message).toMatch(
      /at most 64 groups in each other/,
    );
  });

  test('one header under a million names costs no more than the file', async () => {
    const links = Array.from({ length: 30_000 }, (__, index) => link(`d${index}`, 'd'));
    const big = [...floats([2], f32(1, 2)), textAttribute('text', ['x'.repeat(60_000)])];
    const objects = hdf5Bytes({ root: [link('a', 'a')], a: links.slice(0, 3000), d: big });
    expect((await failureOf(() => open(objects))).code).toBe('limit-exceeded');
  });

  test.each(['before.h5', 'after.weights.h5', 'storage/gzip-latest.h5'])(
    '%s cut short anywhere',
    async (name) => {
      const bytes = fixture(name);
      for (let end = 8; end < bytes.length; end += 1 + Math.floor(bytes.length / 150)) {
        const failure = await failureOf(() => open(bytes.slice(0, end)));
        expect(['truncated', 'malformed']).toContain(failure.code);
      }
    },
  );

  test.each(['before.h5', 'storage/gzip-latest.h5'])(
    '%s with any byte changed is read or refused',
    async (name) => {
      const bytes = fixture(name);
      const step = 1 + Math.floor(bytes.length / 150);
      for (let at = 8; at < bytes.length; at += step) {
        for (const value of [0, 0xff]) {
          const changed = bytes.slice();
          changed[at] = value;
          await open(changed).catch((error: unknown) => expect(error).toBeInstanceOf(CheckpointError));
        }
      }
    },
  );
});
