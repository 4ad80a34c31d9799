import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import { createBaseline } from '../../src/formats/baseline/make-baseline.js';
import { openCheckpoint } from '../../src/formats/open.js';
import { type RestoreOptions, restore } from '../../src/restore/restore.js';
import { failureOf, usageFailureOf } from '../build/failure.js';
import { makeSubdirectory, makeTempDirectory } from '../build/sources.js';

const fixtures = fileURLToPath(new URL('../../fixtures', import.meta.url));
const pairs = join(fixtures, 'pairs');
const out = makeTempDirectory();

const BEFORE = join(pairs, 'requires-grad-leak/before.safetensors');
const AFTER = join(pairs, 'requires-grad-leak/after.safetensors');

/** Restores a fixture, and audits the result against before. */
async function restoreInto(before: string, after: string, name: string, options: RestoreOptions = {}) {
  const fixed = join(makeSubdirectory(out), name);
  const report = await restore(before, after, fixed, options);
  const { map, epsilon, select } = options;
  const verdict = report.outcome === 'restored' ? await audit(before, fixed, { map, epsilon, select }) : null;
  return { fixed, report, verdict };
}

describe('convolutions of which no file says that a norm layer was folded in', () => {
  const shipped = join(fixtures, 'shipped');

  test.each([
    ['fused-export-partly', 'before.live.onnx', 'drift.live.onnx'],
    ['fused-export-partly', 'before.safetensors', 'drift.safetensors'],
    ['fused-export-mixed', 'before.onnx', 'drift.onnx'],
    ['fused-export-mixed', 'before.onnx', 'partial.onnx'],
    ['fused-export-mixed', 'before.pt', 'drift.pt'],
  ])(
    '%s: %s with %s, after which they stand still and are no layers any more',
    async (folder, before, after) => {
      const [one, other] = [join(shipped, folder, before), join(shipped, folder, after)];
      const { layers } = await audit(one, other);
      expect(layers.some(({ kind, status }) => kind !== 'BatchNormalization' && status === 'drifted')).toBe(
        true,
      );
      const { report, verdict } = await restoreInto(one, other, after);
      expect(report.outcome).toBe('restored');
      expect(verdict?.summary.byStatus.drifted).toBe(0);
    },
  );
});

describe('every container', () => {
  const containers = join(fixtures, 'containers');
  const expected = JSON.parse(readFileSync(join(containers, 'expected.json'), 'utf8')) as {
    files: Readonly<Record<string, { candidates?: readonly (readonly string[])[]; values?: string }>>;
  };

  test.each(Object.keys(expected.files))('%s', async (file) => {
    const [candidate] = expected.files[file]?.candidates ?? [];
    const options = candidate === undefined ? {} : { select: candidate.join('.') };
    const first = await audit(BEFORE, join(containers, file), options);
    if (first.summary.byStatus.drifted === 0) return;
    const { report, verdict } = await restoreInto(BEFORE, join(containers, file), file, options);
    expect(report.outcome).toBe('restored');
    expect(verdict?.summary.byStatus.drifted).toBe(0);
    expect(verdict?.summary.byStatus.locked).toBe(
      first.summary.byStatus.drifted + first.summary.byStatus.locked,
    );
  });

  test('a deflated record becomes a stored one behind the others; all before it stays', async () => {
    const { fixed } = await restoreInto(BEFORE, join(containers, 'deflated.pt'), 'deflated.pt');
    const [old, written] = [readFileSync(join(containers, 'deflated.pt')), readFileSync(fixed)];
    const directory = old.readUInt32LE(old.lastIndexOf('PK\x05\x06') + 16);
    expect(written.subarray(0, directory).equals(old.subarray(0, directory))).toBe(true);
  });

  test('a shard set becomes a directory with its index and every shard', async () => {
    const { fixed, report } = await restoreInto(BEFORE, join(containers, 'sharded'), 'fixed');
    expect(readdirSync(fixed).sort()).toEqual(readdirSync(join(containers, 'sharded')).sort());
    expect(report.files.at(-1)).toBe(join(fixed, 'model.safetensors.index.json'));
  });

  test('a shard set becomes a directory whose name has a dot', async () => {
    const { fixed } = await restoreInto(BEFORE, join(containers, 'sharded'), 'fixed-v1.2');
    expect(readdirSync(fixed)).toContain('model.safetensors.index.json');
  });

  test('a shard set is not written under the name of a single file', async () => {
    const failure = await failureOf(() =>
      restoreInto(BEFORE, join(containers, 'sharded'), 'fixed.safetensors'),
    );
    expect(failure).toMatchObject({ code: 'refused' });
    expect(failure.message).toContain('after is a set of shards');
  });

  test('a shard set beside the index that is named', async () => {
    const index = 'model.safetensors.index.json';
    const { fixed } = await restoreInto(BEFORE, join(containers, 'sharded', index), `fixed.${index}`);
    expect(readdirSync(join(fixed, '..')).sort()).toEqual(
      [`fixed.${index}`, ...readdirSync(join(containers, 'sharded')).filter((name) => name !== index)].sort(),
    );
  });

  test('the other name of a tied module changes with it, and the report says so', async () => {
    const { report } = await restoreInto(BEFORE, join(containers, 'tied.safetensors'), 'tied.safetensors');
    expect(report.layers.flatMap(({ notes }) => notes).join()).toContain('aaa_norm.running_mean');
  });
});

describe('what is restored', () => {
  test('names choose other layers, and these alone', async () => {
    const { report, verdict } = await restoreInto(BEFORE, AFTER, 'f.safetensors', {
      layers: ['backbone.stem'],
    });
    expect(report.layers.map(({ name }) => name)).toEqual(['backbone.stem.bn']);
    expect(report.left).toHaveLength(7);
    expect(verdict?.summary.byStatus).toMatchObject({ locked: 1, drifted: 7 });
  });

  test('a trained layer that is named gets the statistics and keeps its weights', async () => {
    const pair = join(pairs, 'full-finetune');
    const { verdict, report } = await restoreInto(
      join(pair, 'before.safetensors'),
      join(pair, 'after.live.onnx'),
      'f.onnx',
      { layers: ['**.bn1'] },
    );
    expect(report.layers.every(({ status }) => status === 'trained')).toBe(true);
    const statuses = verdict?.layers.filter(({ name }) => name.endsWith('.bn1')).map(({ status }) => status);
    expect(new Set(statuses)).toEqual(new Set(['held']));
  });

  test('batch counts stay on request', async () => {
    const kept = await restoreInto(BEFORE, AFTER, 'f.safetensors', { keepBatches: true });
    const put = await restoreInto(BEFORE, AFTER, 'f.safetensors');
    expect(kept.verdict?.layers.map(({ batches }) => batches)).toEqual(Array(8).fill(12));
    expect(put.verdict?.layers.map(({ batches }) => batches)).toEqual(Array(8).fill(0));
    expect(put.report.layers[0]?.batches).toEqual({ from: 26, to: 14 });
  });

  test('a dry run says the same and writes nothing', async () => {
    const directory = makeSubdirectory(out);
    const fixed = join(directory, 'f.safetensors');
    const planned = await restore(BEFORE, AFTER, fixed, { dryRun: true });
    const done = await restore(BEFORE, AFTER, join(makeSubdirectory(out), 'f.safetensors'));
    expect(readdirSync(directory)).toEqual([]);
    expect(planned).toMatchObject({ outcome: 'planned', files: [fixed], layers: done.layers });
    expect(await restore(BEFORE, AFTER, null, { dryRun: true })).toMatchObject({
      outcome: 'planned',
      files: [],
    });
  });

  test('an invalid layer is left as it is unless it is named', async () => {
    const pair = join(pairs, 'nan');
    const [before, after] = [join(pair, 'before.safetensors'), join(pair, 'after.safetensors')];
    const { report, verdict } = await restoreInto(before, after, 'f.safetensors');
    expect(report.left.map(({ status }) => status)).toContain('invalid');
    expect(verdict?.summary.byStatus.drifted).toBe(0);
    const named = await restoreInto(before, after, 'f.safetensors', { layers: ['**'] });
    expect(named.verdict?.summary.byStatus.invalid).toBe(0);
  });

  test('a folded layer that was trained cannot be named', async () => {
    const pair = join(pairs, 'full-finetune');
    const failure = await failureOf(() =>
      restoreInto(join(pair, 'before.safetensors'), join(pair, 'after.fold.onnx'), 'f.onnx', {
        layers: ['backbone'],
      }),
    );
    expect(failure).toMatchObject({ code: 'unsupported' });
    expect(failure.message).toContain('folded into a convolution and trained');
  });

  test('a glob that matches nothing is refused', async () => {
    const failure = await usageFailureOf(() => restoreInto(BEFORE, AFTER, 'f', { layers: ['nothing.here'] }));
    expect(failure.message).toContain('matches no norm layer');
  });
});

describe('external data', () => {
  const pair = join(pairs, 'requires-grad-leak');
  const before = join(pair, 'before.safetensors');
  const after = join(pair, 'after.external.onnx');

  test('is copied under its own name, and the model does not change', async () => {
    const { fixed } = await restoreInto(before, after, 'f.onnx');
    expect(readdirSync(join(fixed, '..')).sort()).toEqual(['after.external.onnx.data', 'f.onnx']);
    expect(readFileSync(fixed).equals(readFileSync(after))).toBe(true);
  });

  test('is renamed in the model as well', async () => {
    const { fixed, verdict } = await restoreInto(before, after, 'f.onnx', {
      dataName: 'a-much-longer-name.bin',
    });
    expect(readdirSync(join(fixed, '..')).sort()).toEqual(['a-much-longer-name.bin', 'f.onnx']);
    const text = readFileSync(fixed, 'latin1');
    expect(text).toContain('a-much-longer-name.bin');
    expect(text).not.toContain('after.external.onnx.data');
    expect(verdict?.summary.byStatus.drifted).toBe(0);
  });

  test.each(['../x.data', '/x.data', '', '.', 'f.onnx', 'a\\b'])('is not called %j', async (dataName) => {
    const failure = await usageFailureOf(() => restoreInto(before, after, 'f.onnx', { dataName }));
    expect(failure.message).toContain('--data-name');
  });

  test('has a name only where there is some', async () => {
    const failure = await usageFailureOf(() => restoreInto(BEFORE, AFTER, 'f', { dataName: 'x.data' }));
    expect(failure.message).toContain('no external data');
  });
});

describe('a baseline', () => {
  /** The baseline of a fixture, in a file. */
  async function baselineOf(path: string): Promise<string> {
    const checkpoint = await openCheckpoint(path);
    const { bytes } = await createBaseline(checkpoint);
    await checkpoint.close();
    const target = join(makeSubdirectory(out), 'base.bn');
    writeFileSync(target, bytes);
    return target;
  }

  test.each(['after.safetensors', 'after.pt', 'after.live.onnx', 'after.fold.onnx', 'after.dynamo.onnx'])(
    'stands in for before with %s',
    async (file) => {
      const { report, fixed } = await restoreInto(
        await baselineOf(BEFORE),
        join(pairs, 'requires-grad-leak', file),
        file,
      );
      expect(report.outcome).toBe('restored');
      expect((await audit(BEFORE, fixed)).summary.byStatus).toMatchObject({ locked: 8 });
    },
  );

  test('is no model to be restored', async () => {
    const after = await baselineOf(AFTER);
    const failure = await failureOf(() => restoreInto(BEFORE, after, 'f.bn'));
    expect(failure).toMatchObject({ code: 'unsupported', file: after });
  });
});

test('weights of Darknet are not written where no .cfg says what they are', async () => {
  const directory = makeTempDirectory();
  const darknet = fileURLToPath(new URL('../../fixtures/darknet/', import.meta.url));
  const [before, after] = [join(darknet, 'tiny.weights'), join(darknet, 'tiny_final.weights')];
  const fixed = join(directory, 'fixed.weights');
  const { message, hint } = await failureOf(() => restore(before, after, fixed));
  expect(message).toContain('it lies beside after');
  expect(hint).toContain('Copy the .cfg of after there first');
  expect(existsSync(fixed)).toBe(false);
  copyFileSync(join(darknet, 'tiny.cfg'), join(directory, 'tiny.cfg'));
  expect((await restore(before, after, fixed)).outcome).toBe('restored');
});
