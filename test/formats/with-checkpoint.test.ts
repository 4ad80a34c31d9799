import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js';
import { refuseIdleSelect } from '../../src/formats/with-checkpoint.js';
import { inspect } from '../../src/inspect.js';
import { restore } from '../../src/restore/restore.js';
import { checkpointOf } from '../build/checkpoints.js';
import { usageFailureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';
import { dict, orderedDict, type Piece } from './torch/build/pickle-writer.js';
import { normLayer, zipCheckpoint } from './torch/build/torch-files.js';

const fixtures = fileURLToPath(new URL('../../fixtures', import.meta.url));

describe('a part to select', () => {
  const whole = { path: 'base.onnx', unselected: [] };
  const nested = { path: 'run.pt', unselected: ['model'] };
  const refuse = (select: string | undefined, ...sides: Pick<Checkpoint, 'path' | 'unselected'>[]) =>
    refuseIdleSelect(
      select,
      sides.map((side) => checkpointOf([], side)),
    );

  test('that no checkpoint has is refused with what there is', async () => {
    expect(await usageFailureOf(() => refuse('ema', whole, nested))).toEqual({
      message: '--select "ema" names no part of "base.onnx" or of "run.pt"',
      hint: 'What holds norm layers: model. Select that, or leave --select out.',
    });
    expect(await usageFailureOf(() => refuse('ema', whole))).toEqual({
      message: '--select "ema" names no part of "base.onnx"',
      hint: 'There are no parts to choose from: leave --select out.',
    });
  });

  test('may be missing from one of two, and nothing is refused where nothing is selected', () => {
    expect(() => refuse('ema', whole, { path: 'run.pt' })).not.toThrow();
    expect(() => refuse('ema', { path: 'run.pt' }, nested)).not.toThrow();
    expect(() => refuse(undefined, whole, nested)).not.toThrow();
  });

  const before = join(fixtures, 'pairs/locked/before.safetensors');
  const after = join(fixtures, 'containers/trainer.pt');
  test.each<[string, () => Promise<unknown>]>([
    ['audit', () => audit(before, after, { select: 'nope' })],
    ['inspect', () => inspect(before, { select: 'nope' })],
    ['restore', () => restore(before, after, null, { select: 'nope', dryRun: true })],
  ])('is looked for by %s', async (_, action) => {
    expect((await usageFailureOf(action)).message).toContain('--select "nope" names no part of ');
  });

  test('of a nested checkpoint is compared with a file that has no parts', async () => {
    const { byStatus } = (await audit(before, after, { select: 'model' })).summary;
    expect(Object.values(byStatus).reduce((sum, count) => sum + count, 0)).toBe(8);
  });
});

describe('a part that one file alone has', () => {
  const write = (name: string, networks: Record<string, Piece>) => {
    const path = join(makeTempDirectory(), name);
    writeFileSync(path, zipCheckpoint(dict(networks)));
    return path;
  };
  const backbone = orderedDict({ ...normLayer('bn1.'), ...normLayer('bn2.') });
  const critic = orderedDict(normLayer('features.1.'));
  const before = write('before.pt', { backbone, critic });
  const auditWith = async (after: string, select = 'backbone') => {
    const { layers, warnings } = await audit(before, after, { select });
    return { names: layers.map(({ name }) => name), warnings: warnings.join('\n') };
  };

  test('is audited against the network of the other that has its tensors', async () => {
    const { names, warnings } = await auditWith(write('after.pt', { G: backbone, D: critic }));
    expect(names).toEqual(['bn1', 'bn2']);
    expect(warnings).toContain('nothing with tensors is at "backbone" in ');
    expect(warnings).toContain('"G", which has most of the selected tensors, was audited');
  });

  test('is audited against all that have as many of them', async () => {
    const { names } = await auditWith(write('after.pt', { G: backbone, H: backbone, D: critic }));
    expect(names).toEqual(['G.bn1', 'H.bn1', 'G.bn2', 'H.bn2']);
  });

  test('is refused as before where no network has any, and where neither file has the part', async () => {
    const other = write('after.pt', { D: critic, E: orderedDict(normLayer('norm.')) });
    await expect(auditWith(other)).rejects.toMatchObject({
      code: 'not-found',
      hint: 'These parts hold norm layers: D (1 norm layer), E (1 norm layer).',
    });
    await expect(auditWith(other, 'nope')).rejects.toMatchObject({ code: 'not-found' });
  });
});
