import fs, {
  copyFileSync,
  linkSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import type { TraceReport } from '../../src/report/trace-report.js';
import { type TraceOptions, trace } from '../../src/trace/trace.js';
import { failureOf } from '../build/failure.js';
import { checkpointBytes, type RunState, writeFiles } from '../build/runs.js';
import { makeTempDirectory } from '../build/sources.js';

const leak = fileURLToPath(new URL('../../fixtures/runs/leak', import.meta.url));
const LEAK = Array.from({ length: 12 }, (_, index) =>
  join(leak, `epoch_${String(index + 1).padStart(2, '0')}.pt`),
);

/** The statuses of a layer at each checkpoint. */
function statusesOf({ layers, checkpoints }: TraceReport, name: string): readonly (string | undefined)[] {
  const spans = layers.find((layer) => layer.name === name)?.spans ?? [];
  return checkpoints.map((_, index) => spans.find(({ from, to }) => from <= index && index <= to)?.status);
}

/** Traces states that are written as epochs 1, 2, … of a run. */
async function traceStates(
  states: readonly RunState[],
  options: TraceOptions = {},
  base: RunState = {
    layers: Object.fromEntries(Object.keys(states[0]?.layers ?? {}).map((path) => [path, {}])),
  },
): Promise<TraceReport> {
  const directory = makeTempDirectory();
  const named = states.map((state, index) => {
    const metadata = { epoch: String(index + 1), ...state.metadata };
    return [
      `epoch_${index + 1}.safetensors`,
      checkpointBytes({ head: index + 1, ...state, metadata }),
    ] as const;
  });
  writeFiles(directory, { 'base.safetensors': checkpointBytes(base), ...Object.fromEntries(named) });
  return trace(
    join(directory, 'base.safetensors'),
    named.map(([name]) => join(directory, name)),
    options,
  );
}

const one = (...states: readonly RunState['layers'][string][]) => states.map((net) => ({ layers: { net } }));

describe('a run of PyTorch whose freeze leaks', async () => {
  const expected: {
    readonly layers: Readonly<
      Record<
        string,
        { statuses: readonly string[]; outputShift: readonly number[]; batches: readonly number[] }
      >
    >;
  } = JSON.parse(readFileSync(join(leak, 'expected.json'), 'utf8'));
  const report = await trace(join(leak, 'base.pt'), LEAK.toReversed());

  test('is put in order by its epochs, and tells its steps and batch counts', () => {
    expect(report.order).toEqual(['epoch']);
    expect(report.checkpoints.map(({ path, epoch, step }) => [path, epoch, step])).toEqual(
      LEAK.map((path, index) => [path, index + 1, 6 * (index + 1)]),
    );
    const [first = 0] = report.checkpoints.map(({ batches }) => batches);
    const moved = report.checkpoints.map(({ batches }) => (batches ?? 0) - (first ?? 0));
    expect(moved).toEqual(
      Object.values(expected.layers)[0]?.batches.map((_, index) =>
        Object.values(expected.layers).reduce((sum, { batches }) => sum + (batches[index] ?? 0), 0),
      ),
    );
  });

  test.each(Object.entries(expected.layers))(
    '%s goes where numpy says',
    (name, { statuses, outputShift }) => {
      const layer = report.layers.find((one) => one.name === name);
      expect(statusesOf(report, name)).toEqual(statuses);
      expect(layer?.outputShift).toHaveLength(12);
      outputShift.forEach((shift, index) => {
        expect(layer?.outputShift[index]).toBeCloseTo(shift, 9);
      });
    },
  );

  test('begins to drift at epoch 4, both layers at once', () => {
    expect(report.verdict).toBe('drifted');
    expect(report.summary).toMatchObject({
      layers: 2,
      drifted: 2,
      thawed: 1,
      refrozen: 1,
      onset: { locked: 2, drifted: 3, layers: 2 },
      worst: { layer: 'backbone.stage2.bn', checkpoint: 11 },
    });
    expect(report.layers.map(({ onset, thawed, refrozen }) => ({ onset, thawed, refrozen }))).toEqual([
      { onset: { locked: 2, drifted: 3 }, thawed: null, refrozen: null },
      { onset: { locked: 2, drifted: 3 }, thawed: 8, refrozen: 10 },
    ]);
    const drift = report.findings.filter(({ kind }) => kind === 'frozen-stats-drift');
    expect(
      drift.map(({ layer, first, last, times, checkpoint }) => [layer, first, last, times, checkpoint]),
    ).toEqual([
      ['backbone.stage1.bn', 3, 11, 9, LEAK[3]],
      ['backbone.stage2.bn', 3, 11, 7, LEAK[3]],
    ]);
    // Of the epochs before it was trained, not of a step after that.
    expect(drift[1]?.message).toContain('output by 0.664 of its size');
    expect(drift[0]?.message).toMatch(
      /^not yet at epoch 3, drifted from epoch 4 on, at 9 of 12 checkpoints: the running statistics of 4 of 4/,
    );
    expect(report.checkpoints.map(({ verdict }) => verdict)).toEqual([
      ...Array(3).fill('clean'),
      ...Array(9).fill('drifted'),
    ]);
    expect(report.audit?.after.path).toBe(LEAK[7]);
  });
});

describe('staged unfreezing', () => {
  const staged = (drift: number) => [
    { layers: { a: { mean: drift, count: 10 + drift }, b: {} } },
    { layers: { a: { mean: drift, count: 10 + drift }, b: {} } },
    { layers: { a: { weight: 2, mean: 3, count: 30 }, b: {} } },
    { layers: { a: { weight: 3, mean: 5, count: 40 }, b: {} } },
  ];

  test('of what stood still until it was trained is no finding', async () => {
    const report = await traceStates(staged(0));
    expect(statusesOf(report, 'a.bn')).toEqual(['locked', 'locked', 'trained', 'trained']);
    expect(statusesOf(report, 'b.bn')).toEqual(['locked', 'locked', 'locked', 'locked']);
    expect(report).toMatchObject({ verdict: 'clean', findings: [], audit: null });
    expect(report.layers[0]).toMatchObject({ onset: null, thawed: 2, refrozen: null });
  });

  test('of what drifted before it was trained is one, and says when', async () => {
    const report = await traceStates(staged(1));
    expect(statusesOf(report, 'a.bn')).toEqual(['drifted', 'drifted', 'trained', 'trained']);
    expect(report.verdict).toBe('drifted');
    expect(report.findings).toMatchObject([
      { kind: 'frozen-stats-drift', layer: 'a.bn', first: 0, last: 1, times: 2 },
    ]);
    expect(report.summary.onset).toEqual({ locked: null, drifted: 0, layers: 1 });
  });
});

describe('a layer that was trained and frozen again', () => {
  test('and stands still is no finding', async () => {
    const report = await traceStates(
      one({ weight: 2, mean: 1, count: 20 }, { weight: 2, mean: 1, count: 20 }),
    );
    expect(statusesOf(report, 'net.bn')).toEqual(['trained', 'locked']);
    expect(report.verdict).toBe('clean');
    expect(report.layers[0]).toMatchObject({ thawed: 0, refrozen: 1, onset: null });
  });

  test('and drifts is one, though before alone would call it trained', async () => {
    const states = one(
      { weight: 2, mean: 1, count: 20 },
      { weight: 2, mean: 1, count: 20 },
      { weight: 2, mean: 4, count: 30 },
      { weight: 2, mean: 4, count: 30 },
      { weight: 3, mean: 4, count: 40 },
    );
    const report = await traceStates(states);
    expect(statusesOf(report, 'net.bn')).toEqual(['trained', 'locked', 'drifted', 'drifted', 'held']);
    expect(report.findings).toMatchObject([{ kind: 'frozen-stats-drift', first: 2, last: 2 }]);
    expect(report.layers[0]?.onset).toEqual({ locked: 1, drifted: 2 });
    expect(report.audit?.before.path).toMatch(/epoch_2/);
    expect((await traceStates(states, { allow: ['net'] })).verdict).toBe('clean');
  });

  test('weights that lose what they learned are those of before again', async () => {
    const report = await traceStates(one({ weight: 2, mean: 1, count: 20 }, {}));
    expect(statusesOf(report, 'net.bn')).toEqual(['trained', 'locked']);
  });
});

describe('options', () => {
  const drifting = one({}, { mean: 0.1, count: 20 }, { mean: 3, count: 30 });

  test('minShift leaves drift below it out of the verdict, until it is above', async () => {
    const report = await traceStates(drifting, { minShift: 0.5 });
    expect(report.findings).toMatchObject([{ level: 'error', first: 2 }]);
    expect((await traceStates(drifting, { minShift: 100 })).verdict).toBe('clean');
  });

  test('frozen insists on layers that were trained, and a glob that means nothing is refused', async () => {
    const trained = one({ weight: 2, mean: 1, count: 20 });
    expect((await traceStates(trained, { frozen: ['net'] })).verdict).toBe('drifted');
    const failing = () => traceStates(trained, { frozen: ['backbone'] });
    await expect(failing()).rejects.toThrow('--frozen "backbone" matches');
  });

  test('map says how before’s names read in the run, in every step of it', async () => {
    const states = ['a', 'b', 'c'].map((_, index) => ({
      layers: { 'model.net': { weight: Math.min(index + 2, 3), mean: index + 1, count: 20 + index } },
    }));
    const base = { layers: { net: {} } };
    const report = await traceStates(states, { map: [{ from: 'net', to: 'model.net' }] }, base);
    expect(statusesOf(report, 'model.net.bn')).toEqual(['trained', 'trained', 'drifted']);
  });

  test('one that is unknown is a usage error', async () => {
    const failing = () => trace('a', ['b'], { channels: true } as TraceOptions);
    await expect(failing()).rejects.toThrow('"channels": no such option');
  });
});

describe('what is left out', () => {
  const directory = makeTempDirectory();
  const at = (name: string) => join(directory, name);
  const state = (epoch: number) =>
    checkpointBytes({ layers: { net: { mean: 0 } }, head: epoch, metadata: { epoch: String(epoch) } });
  writeFiles(directory, {
    'base.safetensors': state(0),
    '1.safetensors': state(1),
    '2.safetensors': state(2),
    'broken.safetensors': 'no checkpoint',
  });
  linkSync(at('2.safetensors'), at('linked.safetensors'));
  copyFileSync(at('2.safetensors'), at('best.safetensors'));
  const traceThem = (names: readonly string[], options?: TraceOptions) =>
    trace(at('base.safetensors'), names.map(at), options);
  const GOOD = ['1.safetensors', '2.safetensors'];

  test.each([
    ['a file that is given twice', '1.safetensors', 'duplicate', '1.safetensors" again'],
    ['one file under two names', 'linked.safetensors', 'duplicate', '2.safetensors" again'],
    ['a copy of another checkpoint', 'best.safetensors', 'duplicate', 'found a copy of'],
    ['before itself', 'base.safetensors', 'duplicate', 'found before itself'],
    ['what is no checkpoint', 'broken.safetensors', 'failed', 'broken.safetensors: expected'],
    ['what is not there', 'gone.safetensors', 'failed', 'gone.safetensors'],
  ])('%s is said, or fails where the run is strict', async (_, name, reason, said) => {
    const report = await traceThem([...GOOD, name]);
    expect(report.skipped).toMatchObject([{ reason, message: expect.stringContaining(said) }]);
    expect(report.checkpoints.map(({ epoch }) => epoch)).toEqual([1, 2]);
    const failing = () => traceThem([...GOOD, name], { strict: true });
    expect(await failureOf(failing)).toMatchObject({ file: expect.stringContaining(name) });
  });

  test('where nothing is left, the first failure is that of the run', async () => {
    const failing = () => traceThem(['broken.safetensors', 'gone.safetensors']);
    expect(await failureOf(failing)).toMatchObject({ file: at('broken.safetensors') });
  });
});

test('a file without norm layers does not keep the others from their order', async () => {
  const directory = makeTempDirectory();
  const at = (name: string) => join(directory, name);
  const state = (epoch: number) =>
    checkpointBytes({ layers: { net: {} }, head: epoch, metadata: { epoch: String(epoch) } });
  const other = checkpointBytes({ layers: {} });
  writeFiles(directory, { base: state(0), 'b9.bin': state(1), 'a10.bin': state(2), 'c.bin': other });
  const report = await trace(at('base'), ['c.bin', 'a10.bin', 'b9.bin'].map(at));
  expect(report.order).toEqual(['epoch']);
  expect(report.checkpoints.map(({ epoch }) => epoch)).toEqual([1, 2]);
  expect(report.skipped).toMatchObject([{ reason: 'failed', code: 'no-norm-layers' }]);
});

/** Does some work in a file system that is another one in part. */
async function withFiles<Result>(
  other: Readonly<Record<string, unknown>>,
  work: () => Promise<Result>,
): Promise<Result> {
  const own = Object.fromEntries(Object.entries(fs).filter(([name]) => name in other));
  Object.assign(fs, other);
  syncBuiltinESMExports();
  try {
    return await work();
  } finally {
    Object.assign(fs, own);
    syncBuiltinESMExports();
  }
}

describe('what is read', () => {
  /** Of a weight of 600 kB, which is read in pieces. */
  const inputs = 75_000;

  // Up to epoch 2 both layers are frozen, then one is trained, and from epoch 5 on frozen again; statistics move throughout.
  const stateOf = (epoch: number) => ({
    head: epoch,
    metadata: { epoch: String(epoch) },
    layers: {
      frozen: { mean: epoch, count: 10 + epoch, inputs },
      staged: { weight: Math.min(Math.max(epoch, 2), 5), mean: epoch, count: 10 + epoch, inputs },
    },
  });

  /** The names of the files that are opened while a run is traced, and how often each byte of them is read. */
  async function traceCounting(epochs: number) {
    const directory = makeTempDirectory();
    const names = Array.from({ length: 1 + epochs }, (_, epoch) => `${epoch}.safetensors`);
    writeFiles(
      directory,
      Object.fromEntries(names.map((name, epoch) => [name, checkpointBytes(stateOf(epoch))])),
    );
    const opened: string[] = [];
    const reads = new Map(names.map((name) => [name, new Uint8Array(statSync(join(directory, name)).size)]));
    const { openSync, readSync } = fs;
    const open = new Map<number, string>();
    const counting = {
      openSync: (path: string, flags: number) => {
        const descriptor = openSync(path, flags);
        open.set(descriptor, basename(path));
        opened.push(basename(path));
        return descriptor;
      },
      readSync: (descriptor: number, target: Uint8Array, start: number, length: number, position: number) => {
        const count = readSync(descriptor, target, start, length, position);
        const times = reads.get(open.get(descriptor) ?? '');
        for (let at = position; at < position + count; at++) if (times) times[at] = (times[at] ?? 0) + 1;
        return count;
      },
    };
    const [before = '', ...paths] = names.map((name) => join(directory, name));
    const report = await withFiles(counting, () => trace(before, paths.toReversed()));
    return { names, opened, reads, report };
  }

  test('is every file once, before too, also where layers are trained and frozen again', async () => {
    const { names, opened, reads, report } = await traceCounting(8);
    expect(statusesOf(report, 'frozen.bn')).toEqual(Array(8).fill('drifted'));
    const staged = ['drifted', 'drifted', 'trained', 'trained', 'trained', 'drifted', 'drifted', 'drifted'];
    expect(statusesOf(report, 'staged.bn')).toEqual(staged);
    expect(opened.toSorted()).toEqual(names);
    // The first 1,024 bytes are looked at to see what a file is, and are of its header.
    for (const [name, times] of reads)
      expect([name, times.findIndex((count, at) => at >= 1024 && count > 1)]).toEqual([name, -1]);
  });

  test('of before is no more, however long the run is', async () => {
    const countBefore = async (epochs: number) => {
      const { reads } = await traceCounting(epochs);
      return reads.get('0.safetensors')?.reduce((sum, times) => sum + times, 0);
    };
    expect(await countBefore(9)).toBe(await countBefore(3));
  });
});

test('a checkpoint is opened once more where only a part of it is looked at', async () => {
  const opened: string[] = [];
  const onOpenFile = (path: string) => opened.push(path);
  await trace(join(leak, 'base.pt'), LEAK.slice(0, 2), { onOpenFile, select: 'state_dict' });
  expect(opened.filter((path) => path === LEAK[0])).toHaveLength(2);
});

const pair = fileURLToPath(new URL('../../fixtures/pairs/requires-grad-leak', import.meta.url));

/** Copies of a model whose data lie beside it, of which each has another last weight. */
function copyExternal(): readonly string[] {
  return Array.from({ length: 6 }, (_, index) => {
    const directory = makeTempDirectory();
    const [model, data] = ['after.external.onnx', 'after.external.onnx.data'].map((name) => {
      copyFileSync(join(pair, name), join(directory, name));
      return join(directory, name);
    });
    const bytes = readFileSync(data ?? '');
    writeFileSync(data ?? '', bytes.with(-3, index));
    return model ?? '';
  });
}

test.each([
  ['8', 8, join(leak, 'base.pt'), () => LEAK],
  // Of which each has a file beside it, which is opened later.
  ['7 files of ONNX', 7, join(pair, 'before.external.onnx'), copyExternal],
  ['8 files of ONNX', 8, join(pair, 'before.external.onnx'), copyExternal],
])(
  'where the system lets no more than %s be open, none stays open until it is audited',
  async (_, limit, before, list) => {
    const paths = list();
    const { openSync, closeSync } = fs;
    const open = new Set<number>();
    const limited = {
      openSync: (path: string, flags: number) => {
        if (open.size === limit) throw Object.assign(new Error(), { code: 'EMFILE', syscall: 'open', path });
        const descriptor = openSync(path, flags);
        open.add(descriptor);
        return descriptor;
      },
      closeSync: (descriptor: number) => {
        open.delete(descriptor);
        closeSync(descriptor);
      },
    };
    const follow = () => trace(before, paths);
    expect(await withFiles(limited, follow)).toEqual(await follow());
    expect(open.size).toBe(0);
  },
);

describe('a checkpoint that changes while the run is traced', () => {
  const state = (epoch: number) =>
    checkpointBytes({
      layers: { net: { mean: epoch, count: 10 + epoch } },
      head: epoch,
      metadata: { epoch: String(epoch) },
    });

  /** Traces three epochs, and changes a file once all are in order. */
  async function traceChanging(name: string, change: (path: string) => void) {
    const directory = makeTempDirectory();
    const names = ['0', '1', '2', '3'].map((epoch) => join(directory, epoch));
    for (const [epoch, path] of names.entries()) writeFileSync(path, state(epoch));
    const [before = '', ...paths] = names;
    let isDone = false;
    const onProgress = () => {
      if (!isDone) change(join(directory, name));
      isDone = true;
    };
    return trace(before, paths, { onProgress });
  }

  test.each([
    ['written over', (path: string) => writeFileSync(path, state(1))],
    [
      'written over with something else',
      (path: string) => writeFileSync(path, Buffer.alloc(state(3).length)),
    ],
    ['cut', (path: string) => fs.truncateSync(path, 3_000)],
  ])('is left out, and said, where it is %s', async (_, change) => {
    const { checkpoints, skipped } = await traceChanging('3', change);
    expect(checkpoints.map(({ epoch }) => epoch)).toEqual([1, 2]);
    expect(skipped).toMatchObject([
      { reason: 'failed', message: expect.stringContaining('while it was read') },
    ]);
  });

  test.each([
    ['replaced', (path: string) => renameSync(path.replace(/3$/, '1'), path)],
    ['deleted', (path: string) => rmSync(path)],
  ])('is audited as it was where it is %s', async (_, change) => {
    const { checkpoints, findings, skipped } = await traceChanging('3', change);
    expect(checkpoints.map(({ epoch }) => epoch)).toEqual([1, 2, 3]);
    expect(findings).toMatchObject([{ first: 0, last: 2 }]);
    expect(skipped).toEqual([]);
  });

  test.each([
    ['written over', (path: string) => copyFileSync(LEAK[5] ?? '', path)],
    ['replaced', (path: string) => renameSync(join(path, '../epoch_02.pt'), path)],
    ['deleted', (path: string) => rmSync(path)],
  ])('is left out, and said, where it is %s and did not stay open', async (_, change) => {
    const directory = makeTempDirectory();
    const paths = LEAK.slice(0, 3).map((path) => join(directory, basename(path)));
    for (const [index, path] of paths.entries()) {
      copyFileSync(LEAK[index] ?? '', path);
      utimesSync(path, index, index);
    }
    let isDone = false;
    const onProgress = () => {
      if (!isDone) change(paths[2] ?? '');
      isDone = true;
    };
    const options = { select: 'state_dict', onProgress };
    const { checkpoints, skipped } = await trace(join(leak, 'base.pt'), paths, options);
    expect(checkpoints.at(0)?.epoch).toBe(1);
    expect(checkpoints.map(({ epoch }) => epoch)).not.toContain(3);
    expect(skipped.at(-1)).toMatchObject({
      reason: 'failed',
      message: expect.stringContaining('epoch_03.pt'),
    });
  });

  test('fails the run where it is before', async () => {
    const failing = () => traceChanging('0', (path) => writeFileSync(path, state(3)));
    expect(await failureOf(failing)).toMatchObject({
      code: 'unreadable',
      message: expect.stringContaining('changed while it was read'),
    });
  });
});
