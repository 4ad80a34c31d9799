import { describe, expect, test } from 'vitest';
import { bytesOf, f32, utf8 } from '../build/bytes.js';
import { failureOf } from '../build/failure.js';
import { orderedDict } from '../formats/torch/build/pickle-writer.js';
import {
  normLayer,
  open,
  textRecord,
  valuesOf,
  type ZipCheckpoint,
  zipCheckpoint,
} from '../formats/torch/build/torch-files.js';
import { type ZipRecord, zip } from '../formats/torch/build/zip-writer.js';

const STATE_DICT = orderedDict(normLayer('bn.'));

/** A change of the record with that name. */
function change(name: string, changes: Partial<ZipRecord>): ZipCheckpoint {
  return { each: (record) => (record.name === name ? { ...record, ...changes } : record) };
}

const all = (changes: Partial<ZipRecord>): ZipCheckpoint => ({
  each: (record) => ({ ...record, ...changes }),
});

describe('a zip checkpoint is read', () => {
  test.each<[string, ZipCheckpoint]>([
    ['stored', {}],
    ['deflated', all({ deflate: true })],
    ['with sizes in data descriptors', all({ descriptor: true })],
    ['with zip64 fields and end record', { ...all({ zip64: true }), end: { zip64: true } }],
    ['with a comment behind the directory', { end: { comment: utf8('saved on Monday') } }],
    [
      'with bytes before the first entry that the offsets count',
      { end: { prefix: utf8('PK\x03\x04 prefix') } },
    ],
    ['without checksums, which torch can switch off', all({ crc32: 0 })],
    [
      'without a directory around its records',
      { each: (r) => ({ ...r, name: r.name.replace('archive/', '') }) },
    ],
    ['with a wrong checksum in a record that is not needed', change('archive/version', { crc32: 1 })],
  ])('%s', async (_, options) => {
    const checkpoint = await open(zipCheckpoint(STATE_DICT, options));
    expect(await valuesOf(checkpoint, 'bn.running_mean')).toEqual([-1, 0.5, 0.25, 8]);
    expect(await valuesOf(checkpoint, 'bn.running_var')).toEqual([1, 2, 4, 0.5]);
  });
});

describe('a zip checkpoint is refused', () => {
  const MEAN = 'archive/data/2';
  test.each<[string, ZipCheckpoint, string]>([
    ['corrupt: wrong CRC of data.pkl', change('archive/data.pkl', { crc32: 7 }), 'have the CRC 0x00000007'],
    [
      'corrupt: wrong CRC of a statistic',
      change(MEAN, { crc32: 7 }),
      'the zip record "archive/data/2" to have the CRC',
    ],
    ['encrypted', change('archive/data.pkl', { flags: 1 }), 'the zip record "archive/data.pkl" is encrypted'],
    ['compression method 12', change(MEAN, { method: 12 }), 'found compression method 12'],
    ['two sizes of a stored record', change(MEAN, { byteLength: 17 }), 'to have one size, found 16 and 17'],
    [
      'record reaches into the next one',
      change(MEAN, { compressedByteLength: 4096, byteLength: 4096 }),
      'overlaps',
    ],
    ['two records at one place', change(MEAN, { headerOffset: 0 }), 'overlaps what follows'],
    ['local name differs', change(MEAN, { localName: 'archive/data/7' }), 'contradicts the directory'],
    [
      'deflate stream is garbage',
      change('archive/data.pkl', { method: 8 }),
      'found bytes that do not inflate',
    ],
    [
      'inflates to more than claimed',
      change('archive/data.pkl', { deflate: true, byteLength: 100 }),
      'found more',
    ],
    [
      'inflates to less than claimed',
      change('archive/data.pkl', { deflate: true, byteLength: 4000 }),
      'found 653',
    ],
    [
      'claims more than deflate can hold',
      change('archive/data.pkl', { deflate: true, byteLength: 2 ** 31 }),
      'can inflate to, found 2147483648 claimed by "archive/data.pkl"',
    ],
    [
      'duplicate entry',
      { extra: [textRecord(MEAN, 'other')] },
      'found "archive/data/2" twice (duplicate entry)',
    ],
    ['two data.pkl', { extra: [textRecord('other/data.pkl', '.')] }, 'expected one data.pkl, found 2'],
    [
      'missing record',
      { storages: {} },
      'the tensor "bn.weight": expected its storage in the zip record "data/0"',
    ],
    ['directory elsewhere', { end: { directoryOffset: 3 } }, 'to end where the end record starts'],
    [
      'directory size beyond the file',
      { end: { directoryByteLength: 10 ** 6 } },
      'to end where the end record starts',
    ],
    ['more entries claimed than there are', { end: { entryCount: 60000 } }, 'expected 60000 entries'],
    [
      'fewer entries claimed than there are',
      { end: { entryCount: 2 } },
      'expected 2 entries in the zip directory',
    ],
    ['zip64 claims 2^40 entries', { end: { zip64: true, entryCount: 2 ** 40 } }, 'found 1099511627776'],
  ])('%s', async (_, options, message) => {
    expect((await failureOf(() => open(zipCheckpoint(STATE_DICT, options)))).message).toContain(message);
  });

  test('truncated: the end is cut off', async () => {
    const bytes = zipCheckpoint(STATE_DICT);
    const failure = await failureOf(() => open(bytes.subarray(0, bytes.length - 8)));
    expect(failure).toMatchObject({ code: 'truncated', hint: expect.any(String) });
  });

  test('with a deflated bomb that admits its size', async () => {
    const bomb = {
      name: 'archive/data/2',
      bytes: new Uint8Array(4 * 1024 * 1024),
      deflate: true,
      byteLength: 2 ** 31,
    };
    const bytes = zipCheckpoint(STATE_DICT, change('archive/data/2', bomb));
    expect((await failureOf(() => open(bytes))).message).toMatch(
      /expected a size that \d+ deflated bytes can inflate to/,
    );
  });
});

describe('a zip checkpoint whose records inflate to far more than they are', () => {
  const MIB = 1024 * 1024;

  test('is refused where that is the pickle', async () => {
    const pickle = { bytes: new Uint8Array(20 * MIB), deflate: true };
    const failure = await failureOf(() =>
      open(zipCheckpoint(STATE_DICT, change('archive/data.pkl', pickle))),
    );
    expect(failure).toMatchObject({
      code: 'limit-exceeded',
      message: expect.stringMatching(/times the \d+ bytes that are stored for them, found 20971520 bytes$/),
    });
  });

  test('is read where little of them is asked for', async () => {
    const long = (first: Uint8Array) => {
      const bytes = new Uint8Array(20 * MIB);
      bytes.set(first);
      return { bytes, deflate: true };
    };
    const bytes = zipCheckpoint(STATE_DICT, change('archive/data/2', long(f32(1, 2, 3, 4))));
    expect(await valuesOf(await open(bytes), 'bn.running_mean')).toEqual([1, 2, 3, 4]);
  });
});

describe('a zip file that is something else is refused in plain words', () => {
  test.each([
    ['an empty archive', [], 'an empty zip archive'],
    ['a document', ['[Content_Types].xml', 'word/document.xml'], 'an Office document'],
    [
      'a .pt2 archive',
      ['m/archive_format', 'm/models/model.json', 'm/data/weights/weight_0'],
      'a .pt2 archive',
    ],
    ['an older .pt2 archive', ['serialized_exported_program.json', 'version'], 'a .pt2 archive'],
    ['torch.package', ['p/.data/extern_modules', 'p/.data/version', 'p/net.py'], 'a torch.package archive'],
    ['a zipped safetensors file', ['model.safetensors'], 'a zip file that holds checkpoints'],
    ['any other archive', ['a.txt'], 'a zip archive without one'],
  ])('%s', async (_, names, words) => {
    const bytes = zip(names.map((name) => textRecord(name, 'x')));
    const failure = await failureOf(() => open(bytes));
    expect(failure.code).toBe('unsupported');
    expect(failure.message).toContain(words);
  });
});

test('bytes behind the end record are refused as an incomplete archive', async () => {
  const bytes = bytesOf(zipCheckpoint(STATE_DICT), 'more');
  expect((await failureOf(() => open(bytes))).code).toBe('truncated');
});
