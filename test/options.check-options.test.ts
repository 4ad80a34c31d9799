import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { type AuditOptions, audit, auditCheckpoints } from '../src/audit.js';
import type { OpenOptions } from '../src/checkpoint/checkpoint.js';
import { type BaselineOptions, createBaseline } from '../src/formats/baseline/make-baseline.js';
import { openCheckpoint } from '../src/formats/open.js';
import { type InspectOptions, inspect, inspectCheckpoint } from '../src/inspect.js';
import { checkOptions, type OptionTaker } from '../src/options.js';
import { type ProbeOptions, probe } from '../src/probe/probe.js';
import type { ProbeReport } from '../src/probe/probe-report.js';
import { type ProbeRenderOptions, renderProbe } from '../src/probe/probe-report.js';
import { type RenderOptions, render } from '../src/report/render.js';
import { type RestoreOptions, restore } from '../src/restore/restore.js';
import { usageFailureOf } from './build/failure.js';

const leak = join(fileURLToPath(new URL('../fixtures', import.meta.url)), 'pairs', 'requires-grad-leak');
const BEFORE = join(leak, 'before.safetensors');
const AFTER = join(leak, 'after.safetensors');

/** Callers without types may pass anything. */
const BAD_OPTIONS: readonly (readonly [options: object, message: string])[] = [
  [{ frozen: 'layer1' }, 'frozen: expected a list of globs, each of 1 to 1024 characters, found "layer1"'],
  [{ allow: [1] }, 'allow: expected a list of globs, each of 1 to 1024 characters, found [1]'],
  [{ allow: ['a', ''] }, 'allow: expected a list of globs, each of 1 to 1024 characters, found ["a",""]'],
  [
    { frozen: ['('.repeat(9000)] },
    `frozen: expected a list of globs, each of 1 to 1024 characters, found ["${'('.repeat(78)}…`,
  ],
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
  [{ frozen: null }, 'frozen: expected a list of globs, each of 1 to 1024 characters, found null'],
];

/** Every option of each function. A new one is missing here until it is checked. */
const ALL_OPEN: Required<OpenOptions> = {
  select: 'a',
  allowExternalSymlinks: true,
  remote: true,
  onOpenFile() {},
};
const ALL_AUDIT: Required<AuditOptions> = {
  ...ALL_OPEN,
  frozen: ['a'],
  allow: [],
  minShift: 0,
  exact: true,
  epsilon: 1,
  map: [{ from: '', to: 'a' }],
  channels: true,
  onProgress() {},
};
const ALL_INSPECT: Required<InspectOptions> = { ...ALL_OPEN, epsilon: 1, channels: false };
const ALL_BASELINE: Required<BaselineOptions> = { onProgress() {} };
const ALL_RESTORE: Required<RestoreOptions> = {
  ...ALL_OPEN,
  layers: ['a'],
  keepBatches: true,
  dataName: 'a',
  force: true,
  dryRun: true,
  map: [],
  epsilon: 1,
  onProgress() {},
};
const ALL_PROBE: Required<ProbeOptions> = {
  ...ALL_OPEN,
  inputs: ['a.npy'],
  samples: 1,
  seed: 0,
  shapes: [{ name: null, dims: [1, 3] }],
  batch: 1,
  layers: ['a'],
  ablations: 0,
  epsilon: 0,
  map: [],
  onProgress() {},
  importRuntime: () => Promise.reject(new Error('none')),
};
const ALL_PROBE_RENDER: Required<ProbeRenderOptions> = {
  format: 'text',
  width: 80,
  wholeNames: true,
  paint: (_tone, text) => text,
  all: true,
};
const ALL_RENDER: Required<RenderOptions> = { ...ALL_PROBE_RENDER, layer: 'a', root: '/' };

describe.each<[OptionTaker, object]>([
  ['openCheckpoint', ALL_OPEN],
  ['audit', ALL_AUDIT],
  ['inspect', ALL_INSPECT],
  ['createBaseline', ALL_BASELINE],
  ['restore', ALL_RESTORE],
  ['probe', ALL_PROBE],
  ['render', ALL_RENDER],
  ['renderProbe', ALL_PROBE_RENDER],
])('%s', (taker, all) => {
  test('takes every option that its type has', () => {
    expect(() => checkOptions(taker, all)).not.toThrow();
  });

  test('takes no other one, and says which it takes', async () => {
    const { message, hint } = await usageFailureOf(() => checkOptions(taker, { 'un\nheard of': 1 }));
    expect(message).toBe('"un\\nheard of": no such option');
    expect(
      hint
        ?.replace(/^Options of \w+: /, '')
        .split(', ')
        .sort(),
    ).toEqual(Object.keys(all).sort());
  });
});

test.each<[OptionTaker, object, string]>([
  ['audit', { epsilom: 1 }, '"epsilom": no such option; did you mean "epsilon"?'],
  ['audit', { min_shift: 1 }, '"min_shift": no such option; did you mean "minShift"?'],
  ['audit', { dryRun: true }, '"dryRun": no such option'],
  ['restore', { layer: ['a'] }, '"layer": no such option; did you mean "layers"?'],
])('a misspelt option of %s is refused: %o', async (taker, options, message) => {
  expect((await usageFailureOf(() => checkOptions(taker, options))).message).toBe(message);
});

test.each<[object, string]>([
  [{ samples: 0 }, 'samples: expected a whole number from 1 to 1000000, found 0'],
  [{ samples: 1e12 }, 'samples: expected a whole number from 1 to 1000000, found 1000000000000'],
  [{ samples: '8' }, 'samples: expected a whole number from 1 to 1000000, found "8"'],
  [{ batch: 1.5 }, 'batch: expected a whole number from 1 to 1000000, found 1.5'],
  [{ seed: -1 }, 'seed: expected a whole number, 0 or larger, found -1'],
  [{ ablations: Number.NaN }, 'ablations: expected a whole number, 0 or larger, found NaN'],
  [{ inputs: 'a.npy' }, 'inputs: expected a list of strings, found "a.npy"'],
  [
    { shapes: [{ name: 'x', dims: [0] }] },
    'shapes: expected a list of {name, dims}, with dims of 1 or more, found [{"name":"x","dims":[0]}]',
  ],
  [{ importRuntime: 'ort' }, 'importRuntime: expected a function, found "ort"'],
])('a probe is told what its options must be, before it opens anything: %o', async (options, message) => {
  expect((await usageFailureOf(() => probe('gone', 'gone', options))).message).toBe(message);
});

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
    const report = await auditCheckpoints(checkpoint, checkpoint);
    const width = { width: 0 };
    const narrow = { name: 'UsageError', message: 'width: expected a whole number, 1 or larger, found 0' };
    expect(() => render(report, width)).toThrow(expect.objectContaining(narrow));
    expect(() => renderProbe({} as ProbeReport, width)).toThrow(expect.objectContaining(narrow));
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
