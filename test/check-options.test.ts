import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit, auditCheckpoints } from '../src/audit.js';
import { createBaseline } from '../src/baseline.js';
import { openCheckpoint } from '../src/checkpoint/open.js';
import { inspect, inspectCheckpoint } from '../src/inspect.js';
import { probe } from '../src/probe.js';
import { restore } from '../src/restore.js';

const leak = join(fileURLToPath(new URL('../fixtures', import.meta.url)), 'pairs', 'requires-grad-leak');
const BEFORE = join(leak, 'before.safetensors');
const AFTER = join(leak, 'after.safetensors');

/** Callers without types may pass anything. */
const BAD_OPTIONS: readonly (readonly [options: object, message: string])[] = [
  [{ frozen: 'layer1' }, 'frozen: expected a list of strings, found "layer1"'],
  [{ allow: [1] }, 'allow: expected a list of strings, found [1]'],
  [{ epsilon: -1 }, 'epsilon: expected a number, zero or larger, found -1'],
  [{ epsilon: '1e-5' }, 'epsilon: expected a number, zero or larger, found "1e-5"'],
  [{ minShift: Number.NaN }, 'minShift: expected a number, zero or larger, found NaN'],
  [{ minShift: Number.POSITIVE_INFINITY }, 'minShift: expected a number, zero or larger, found Infinity'],
  [{ map: { a: 'b' } }, 'map: expected a list of {from, to}, found {"a":"b"}'],
  [{ map: [{ from: 'a' }] }, 'map: expected a list of {from, to}, found [{"from":"a"}]'],
  [{ channels: 'yes' }, 'channels: expected true or false, found "yes"'],
  [{ select: ['state_dict'] }, 'select: expected a string, found ["state_dict"]'],
  [{ allowExternalSymlinks: 1 }, 'allowExternalSymlinks: expected true or false, found 1'],
  [{ onProgress: true }, 'onProgress: expected a function, found true'],
  [{ epsilon: 1n }, 'epsilon: expected a number, zero or larger, found 1'],
  [{ frozen: null }, 'frozen: expected a list of strings, found null'],
];

describe('an option that is none', () => {
  test.each(BAD_OPTIONS)('%o is a usage error, before anything is opened', async (options, message) => {
    const failure = { name: 'UsageError', message };
    await expect(audit('gone', 'gone', options)).rejects.toMatchObject(failure);
  });

  test('is refused by every function that takes it', async () => {
    const failure = { name: 'UsageError', message: 'epsilon: expected a number, zero or larger, found -1' };
    const options = { epsilon: -1 };
    const checkpoint = await openCheckpoint(BEFORE);
    await expect(auditCheckpoints(checkpoint, checkpoint, options)).rejects.toMatchObject(failure);
    await expect(inspect('gone', options)).rejects.toMatchObject(failure);
    await expect(inspectCheckpoint(checkpoint, options)).rejects.toMatchObject(failure);
    await expect(restore('gone', 'gone', 'new', options)).rejects.toMatchObject(failure);
    await expect(probe('gone', 'gone', options)).rejects.toMatchObject(failure);
    const onProgress = 'often' as unknown as () => void;
    await expect(createBaseline(checkpoint, { onProgress })).rejects.toMatchObject({
      message: 'onProgress: expected a function, found "often"',
    });
    await checkpoint.close();
    const select = { select: 3 } as object;
    await expect(openCheckpoint('gone', select)).rejects.toMatchObject({ name: 'UsageError' });
  });

  test('is refused also where the options are no object', async () => {
    for (const options of [null, 'frozen', 3]) {
      await expect(audit('gone', 'gone', options as unknown as object)).rejects.toMatchObject({
        name: 'UsageError',
      });
    }
  });
});

test('options that are undefined count as not given', async () => {
  const options = { frozen: undefined, epsilon: undefined, map: undefined, select: undefined };
  expect(await audit(BEFORE, AFTER, options)).toEqual(await audit(BEFORE, AFTER));
});
