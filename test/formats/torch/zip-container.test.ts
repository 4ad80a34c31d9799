import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../../src/formats/open.js';
import { openZipContainer } from '../../../src/formats/torch/zip-container.js';
import { restore } from '../../../src/restore/restore.js';
import { f32 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { countingSource, makeTempDirectory } from '../../build/sources.js';
import { dict, orderedDict, tensor } from './build/pickle-writer.js';
import { normLayer, STORAGES, valuesOf, type ZipCheckpoint, zipCheckpoint } from './build/torch-files.js';
import { type ZipRecord, zip } from './build/zip-writer.js';

const directory = makeTempDirectory();
let runs = 0;

const BEFORE = zipCheckpoint(orderedDict(normLayer('bn.')), {
  storages: { ...STORAGES, '2': f32(9, 8, 7, 6) },
});

/** Restores a checkpoint of one norm layer whose running mean was -1, 0.5, 0.25, 8, and reads the mean again. */
async function restoreZip(options: ZipCheckpoint, root = orderedDict(normLayer('bn.'))) {
  const place = join(directory, String(runs++));
  const [before, after, fixed] = [`${place}-before.pt`, `${place}-after.pt`, `${place}-fixed.pt`];
  writeFileSync(before, BEFORE);
  writeFileSync(after, zipCheckpoint(root, options));
  await restore(before, after, fixed);
  const checkpoint = await openCheckpoint(fixed);
  const mean = await valuesOf(checkpoint, 'bn.running_mean');
  await checkpoint.close();
  return { mean, fixed, old: readFileSync(after), written: readFileSync(fixed) };
}

/** Changes the record of the running mean. */
const meanRecord = (change: Partial<ZipRecord>) => ({
  each: (record: ZipRecord) => (record.name === 'archive/data/2' ? { ...record, ...change } : record),
});

const hasUnzip = (() => {
  try {
    execFileSync('unzip', ['-v'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

describe('a record of the statistics', () => {
  test.each<readonly [string, ZipCheckpoint]>([
    ['stored', {}],
    ['stored, with a data descriptor', meanRecord({ descriptor: true })],
    ['stored, with zip64 sizes', meanRecord({ zip64: true })],
    ['stored, in a directory that names the last record first', { end: { isReversed: true } }],
    ['deflated', meanRecord({ deflate: true })],
    [
      'deflated, in a directory that names the last record first',
      { ...meanRecord({ deflate: true }), end: { isReversed: true } },
    ],
    ['deflated, with zip64 sizes', meanRecord({ deflate: true, zip64: true })],
    [
      'deflated, in an archive with zip64 end records',
      { ...meanRecord({ deflate: true }), end: { zip64: true } },
    ],
    ['deflated, before a comment', { ...meanRecord({ deflate: true }), end: { comment: f32(1, 2) } }],
  ])('%s', async (_, options) => {
    const { mean, fixed, old, written } = await restoreZip(options);
    expect(mean).toEqual([9, 8, 7, 6]);
    if (!_.startsWith('deflated')) expect(written.byteLength).toBe(old.byteLength);
    // unzip checks every checksum; 0 is a clean archive, 1 one with warnings.
    if (hasUnzip) expect(() => execFileSync('unzip', ['-tq', fixed], { stdio: 'ignore' })).not.toThrow();
  });

  test('keeps a checksum of 0, which means that there is none', async () => {
    const { mean, old, written } = await restoreZip(meanRecord({ crc32: 0 }));
    expect(mean).toEqual([9, 8, 7, 6]);
    const changed = [...old.keys()].filter((at) => old[at] !== written[at]);
    expect(Math.max(...changed) - Math.min(...changed)).toBeLessThan(f32(9, 8, 7, 6).byteLength);
  });

  test('that another tensor reads as well is refused, naming both', async () => {
    const root = orderedDict({ ...normLayer('bn.'), head: tensor({ key: '2' }) });
    const failure = await failureOf(() => restoreZip({}, root));
    expect(failure).toMatchObject({ code: 'unsupported' });
    expect(failure.message).toContain(
      '"bn.running_mean" cannot be restored: it shares its bytes with "head"',
    );
  });

  test('that holds a strided view is written element by element', async () => {
    const storages = { ...STORAGES, '2': f32(-1, 100, 0.5, 200, 0.25, 300, 8, 400) };
    const root = orderedDict(normLayer('bn.', { elementCount: 8, stride: [2] }));
    const { mean, written } = await restoreZip({ storages }, root);
    expect(mean).toEqual([9, 8, 7, 6]);
    expect(written.includes(Buffer.from(f32(9, 100, 8, 200, 7, 300, 6, 400)))).toBe(true);
  });
});

test('a state dict within an archive is no archive of a further one', async () => {
  const inner = zip([{ name: 'serialized_state_dict.pt', bytes: zipCheckpoint(dict({})) }]);
  const source = countingSource('m.pt2', zip([{ name: 'serialized_state_dict.pt', bytes: inner }]));
  expect(await failureOf(() => openZipContainer(source))).toMatchObject({ code: 'unsupported' });
});
