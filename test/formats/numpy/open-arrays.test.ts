import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { findInDirectory, openPath } from '../../../src/formats/open.js';
import { readRange } from '../../../src/io/byte-source.js';
import { f32, utf8 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { type ZipRecord, zip } from '../torch/build/zip-writer.js';
import { npy } from './build-npy.js';

const ARRAY = npy('<f4', '(2,)', f32(1, 2));
const OBJECTS = npy('|O', '()', utf8('\x80\x04N.'));

/** A folder of files; a name may lie in a folder within. */
function makeFolder(files: Readonly<Record<string, Uint8Array>>): string {
  const folder = mkdtempSync(join(tmpdir(), 'arrays-'));
  for (const [name, bytes] of Object.entries(files)) {
    mkdirSync(join(folder, name, '..'), { recursive: true });
    writeFileSync(join(folder, name), bytes);
  }
  return folder;
}

const npz = (records: readonly ZipRecord[]) => join(makeFolder({ 'x.npz': zip(records) }), 'x.npz');

async function valuesOf(path: string): Promise<Record<string, string>> {
  const { tensors, close } = await openPath(path);
  const found: Record<string, string> = {};
  for (const [name, { range }] of tensors) found[name] = Buffer.from(await readRange(range)).toString('hex');
  await close();
  return found;
}

const HEX = Buffer.from(f32(1, 2)).toString('hex');

describe('an .npz archive', () => {
  test.each([false, true])('names arrays by their entries (deflated: %s)', async (deflate) => {
    const names = ['arr_0', 'layer/bn/moving_mean', 'bn.running_mean'];
    const path = npz(names.map((name) => ({ name: `${name}.npy`, bytes: ARRAY, deflate })));
    expect(await valuesOf(path)).toEqual(Object.fromEntries(names.map((name) => [name, HEX])));
    expect(await openPath(path)).toMatchObject({ format: 'NumPy arrays', warnings: [] });
  });

  test('may be a folder of arrays that was zipped', async () => {
    const entries = [
      { name: 'weights/', bytes: f32() },
      { name: 'weights/a.npy', bytes: ARRAY },
    ];
    expect(await valuesOf(npz(entries))).toEqual({ 'weights/a': HEX });
  });

  test('leaves out what holds no numbers, and says so', async () => {
    const { tensors, warnings } = await openPath(
      npz([
        { name: 'a.npy', bytes: ARRAY },
        { name: 'labels.npy', bytes: npy('<U5', '(1,)', new Uint8Array(20)) },
        { name: 'args.npy', bytes: OBJECTS },
      ]),
    );
    expect([...tensors.keys()]).toEqual(['a']);
    expect(warnings).toEqual(['"labels", "args" are no arrays of numbers: not compared']);
  });

  test('of one dict is refused with the way out', async () => {
    const failure = await failureOf(() => openPath(npz([{ name: 'arr_0.npy', bytes: OBJECTS }])));
    expect(failure).toMatchObject({
      code: 'refused',
      message: 'array "arr_0": expected an array of numbers, found pickled Python objects: refused',
    });
    expect(failure.hint).toContain(
      "np.savez('weights.npz', **np.load('FILE', allow_pickle=True)['arr_0'].item())",
    );
  });

  test.each<[string, ZipRecord, string]>([
    ['whose sum is wrong', { name: 'a.npy', bytes: ARRAY, crc32: 5 }, 'to have the CRC 0x00000005'],
    [
      'that is cut short',
      { name: 'a.npy', bytes: ARRAY.subarray(0, -4) },
      'expected 8 bytes for its shape and dtype, found 4',
    ],
    [
      'that is none',
      { name: 'a.npy', bytes: utf8('hello, world!') },
      'expected an .npy array, found other bytes',
    ],
    [
      'of more than memory holds',
      { name: 'a.npy', bytes: npy('<f8', '(1099511627776, 8)', f32()) },
      'expected an array of at most',
    ],
  ])('with an array %s is refused', async (_, record, message) => {
    expect((await failureOf(() => openPath(npz([record])))).message).toContain(message);
  });
});

describe('a folder of .npy files', () => {
  test('names arrays by their files; what lies beside weights does not matter', async () => {
    const folder = makeFolder({
      'b.w.npy': ARRAY,
      'a.npy': ARRAY,
      'config.json': utf8('{}'),
      '.DS_Store': f32(),
    });
    expect(findInDirectory(folder)).toBe(join(folder, 'a.npy'));
    expect(await valuesOf(folder)).toEqual({ a: HEX, 'b.w': HEX });
  });

  test('is none where other files lie among them', async () => {
    const folder = makeFolder({ 'losses.npy': ARRAY, 'epoch-1.pt': ARRAY });
    expect((await failureOf(() => findInDirectory(folder))).message).toContain('found a directory without');
  });

  test('says that folders within were not looked into', async () => {
    const folder = makeFolder({ 'a.npy': ARRAY, 'deep/b.npy': ARRAY });
    const { warnings } = await openPath(folder);
    expect(warnings).toEqual(['"deep": .npy files in folders within are not compared']);
  });

  test('has no links out of it, unless they are allowed', async () => {
    const folder = makeFolder({ 'a.npy': ARRAY });
    symlinkSync(join(makeFolder({ 'b.npy': ARRAY }), 'b.npy'), join(folder, 'b.npy'));
    expect(await failureOf(() => openPath(folder))).toMatchObject({ code: 'refused' });
    const { tensors } = await openPath(folder, { allowExternalSymlinks: true });
    expect([...tensors.keys()]).toEqual(['a', 'b']);
  });

  test('is told apart from one array alone', async () => {
    const failure = await failureOf(() => openPath(join(makeFolder({ 'a.npy': ARRAY }), 'a.npy')));
    expect(failure).toMatchObject({ code: 'unrecognised-format' });
    expect(failure.hint).toBe('Name the folder of .npy files that it belongs to.');
    const ofObjects = await failureOf(() => openPath(join(makeFolder({ 'a.npy': OBJECTS }), 'a.npy')));
    expect(ofObjects.hint).toContain("np.savez('weights.npz', **np.load('FILE', allow_pickle=True).item())");
  });
});
