import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import { CheckpointError } from '../../src/errors.js';
import { restore } from '../../src/restore/restore.js';
import { makeSubdirectory, makeTempDirectory } from '../build/sources.js';
import { proveRestored } from './byte-proof.js';

const FIXTURES = resolve(import.meta.dirname, '../../fixtures/pairs');
const REFERENCE = resolve(import.meta.dirname, '../../../shared/reference');
const out = makeTempDirectory();

/** Every checkpoint from after, with those from before that it is restored from. */
function listPairs(root: string) {
  const folders = existsSync(root)
    ? readdirSync(root).filter((name) => statSync(join(root, name)).isDirectory())
    : [];
  return folders.flatMap((pair) => {
    const names = readdirSync(join(root, pair));
    const afters = names.filter((name) => /^after\..*(safetensors|pt|ckpt|onnx|sharded)$/.test(name));
    return afters.flatMap((file) => {
      const befores = new Set([file.replace('after', 'before'), 'before.safetensors', 'before.pt']);
      return [...befores].filter((name) => names.includes(name)).map((before) => ({ pair, before, file }));
    });
  });
}

/** The report of an audit; null where there is nothing to audit. */
async function auditOrNull(before: string, after: string) {
  try {
    return await audit(before, after);
  } catch (error) {
    if (error instanceof CheckpointError && error.code === 'no-norm-layers') return null;
    throw error;
  }
}

describe.each([
  ['our fixtures', FIXTURES],
  ['../shared/reference', REFERENCE],
])('%s', (_, root) => {
  const pairs = listPairs(root);

  test.skipIf(!existsSync(root))('has pairs of every format', () => {
    const endings = new Set(pairs.map(({ file }) => file.slice(file.lastIndexOf('.'))));
    expect([...endings]).toEqual(expect.arrayContaining(['.safetensors', '.onnx', '.pt']));
    expect(pairs.length).toBeGreaterThan(100);
  });

  test.each(pairs)('$pair: $before with $file', async ({ pair, before, file }) => {
    const [one, other] = [join(root, pair, before), join(root, pair, file)];
    const first = await auditOrNull(one, other);
    if (first === null) return;
    const place = makeSubdirectory(out);
    const fixed = join(place, file);
    const report = await restore(one, other, fixed);
    const { drifted, locked } = first.summary.byStatus;
    if (drifted === 0) {
      expect(report).toMatchObject({ outcome: 'nothing', files: [], layers: [] });
      expect(readdirSync(place)).toEqual([]);
      return;
    }
    expect(report.outcome).toBe('restored');
    expect(report.layers).toHaveLength(drifted);
    expect(report.files.every((path) => existsSync(path))).toBe(true);
    const { summary } = await audit(one, fixed);
    expect(summary.byStatus).toEqual({ ...first.summary.byStatus, drifted: 0, locked: locked + drifted });
    const changedBytes = await proveRestored(one, other, fixed);
    if (changedBytes !== null) expect(changedBytes).toBeGreaterThan(0);
    rmSync(place, { recursive: true });
  });
});

describe('the proof fails', () => {
  const pair = join(FIXTURES, 'requires-grad-leak');
  const before = join(pair, 'before.safetensors');

  /** Restores a fixture, and changes a byte of the result that is not to change. */
  async function restoreWrongly(file: string, at: (fixed: Buffer) => number) {
    const after = join(pair, file);
    const fixed = join(makeSubdirectory(out), file);
    await restore(before, after, fixed);
    await proveRestored(before, after, fixed);
    const bytes = readFileSync(fixed);
    const place = at(bytes);
    bytes.writeUInt8(255 - bytes.readUInt8(place), place);
    writeFileSync(fixed, bytes);
    return proveRestored(before, after, fixed);
  }

  test.each([
    ['a weight', 'after.safetensors', (bytes: Buffer) => bytes.length - 2],
    ['a checksum', 'after.pt', (bytes: Buffer) => bytes.indexOf('PK\x01\x02', 0, 'latin1') + 16],
    ['the name of the exporter', 'after.live.onnx', (bytes: Buffer) => bytes.indexOf('pytorch')],
  ])('for one other byte of %s', async (_, file, at) => {
    await expect(restoreWrongly(file, at)).rejects.toThrow();
  });
});
