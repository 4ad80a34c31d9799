import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { listCheckpoints, stampFiles } from '../../src/watch/list-checkpoints.js';
import {
  type OnEvent,
  type Surroundings,
  type WatchEvent,
  type WatchOptions,
  watch,
} from '../../src/watch/watch.js';
import { failureOf } from '../build/failure.js';
import { MODEL_TENSORS, modelBytes, RunDirectory } from '../build/run-directory.js';

/** What happens between one look at the directory and the next. */
type Step = () => void;

interface Play extends Partial<Omit<WatchOptions, 'surroundings' | 'signal'>> {
  /** Told of each event besides; goes on unless it says otherwise. */
  readonly onEvent?: OnEvent;
  readonly signal?: AbortController;
  readonly before?: string;
  readonly list?: Surroundings['list'];
}

/** Looks that follow the last step. */
const LAST_LOOKS = 4;

/** Watches a directory in which one step happens between two looks, a second apart on a clock of its own. */
async function play(run: RunDirectory, steps: readonly Step[], options: Play = {}) {
  const {
    onEvent = async () => true,
    signal: controller = new AbortController(),
    audit,
    list = listCheckpoints,
    ...others
  } = options;
  const before = options.before ?? join(run.outside, 'before.safetensors');
  if (options.before === undefined) writeFileSync(before, modelBytes(0));
  const events: WatchEvent[] = [];
  const opened: string[] = [];
  let seconds = 0;
  const surroundings = {
    now: () => seconds * 1000,
    sleep: async () => {
      steps[seconds++]?.();
      if (seconds === steps.length + LAST_LOOKS) controller.abort();
    },
    list,
    stamp: stampFiles,
  };
  const onOpenFile = (path: string) => {
    opened.push(path);
    audit?.onOpenFile?.(path);
  };
  const end = await watch(
    { before, directory: run.path },
    { interval: 1, ...others, audit: { ...audit, onOpenFile }, signal: controller.signal, surroundings },
    async (event) => {
      events.push(event);
      return onEvent(event);
    },
  );
  return { events, end, opened, seconds, lines: events.map((event) => describeEvent(run, event)) };
}

function describeEvent(run: RunDirectory, event: WatchEvent): string {
  const shorten = (path: string) => path.replaceAll(`${run.path}/`, '').replaceAll(run.path, 'run');
  switch (event.kind) {
    case 'note':
      return `note: ${shorten(event.message)}`;
    case 'audited':
      return `${shorten(event.path)}: ${event.report.verdict}, ${shiftOf(event)}`;
    case 'failed':
      return `${shorten(event.path)}: ${event.failure.code}`;
    default:
      return `${shorten(event.path)}: ${event.kind}`;
  }
}

/** By how much the mean of the model moved, as {@link modelBytes} was told. */
function shiftOf(event: WatchEvent & { kind: 'audited' }): number {
  const shift = Number(event.report.layers[0]?.meanShift?.max ?? 0);
  return Math.round(shift * Math.sqrt(1 + 1e-5) * 1e4) / 1e4;
}

test('200 checkpoints, 20 half-written for a while and 20 deleted at once: none missed, none misread', {
  timeout: 120_000,
}, async () => {
  const run = new RunDirectory();
  const nameOf = (index: number) => `version_${index % 3}/epoch=${index}.safetensors`;
  const steps: Step[] = [];
  const at = (time: number, step: Step) => {
    const others = steps[time];
    steps[time] = () => {
      others?.();
      step();
    };
  };
  const isHalf = (index: number) => index % 10 === 3;
  const isDeleted = (index: number) => index >= 100 && index < 140 && index % 2 === 0;
  for (let index = 1; index <= 200; index++) {
    const [name, bytes, time] = [nameOf(index), modelBytes(index / 100), Math.floor(index / 5)];
    if (isHalf(index)) {
      // It grows by a piece, and stands still in between for as long as one look to three.
      const pause = 1 + (Math.floor(index / 10) % 4);
      for (let piece = 1; piece <= 4; piece++)
        at(time + (piece - 1) * pause, () => run.write(name, bytes.subarray(0, (bytes.length * piece) / 4)));
    } else if (isDeleted(index)) {
      // All at once, when none has stood still long enough to be read.
      at(30, () => run.write(name, bytes));
      at(31, () => run.remove(name));
    } else if (index % 4 === 0) {
      at(time, () => run.write(`${name}.tmp`, bytes));
      at(time + 1, () => run.rename(`${name}.tmp`, name));
    } else {
      at(time, () => run.write(name, bytes));
    }
  }
  const { events, end, opened } = await play(run, steps);
  const audited = events.filter((event) => event.kind === 'audited');
  const all = Array.from({ length: 200 }, (_, index) => index + 1);
  const [deleted, others] = [all.filter(isDeleted), all.filter((index) => !isDeleted(index))];
  expect([deleted.length, all.filter(isHalf).length]).toEqual([20, 20]);
  expect(audited.map(({ path }) => path).sort()).toEqual(others.map((index) => run.at(nameOf(index))).sort());
  for (const event of audited) {
    const index = Number(/epoch=(\d+)/.exec(event.path)?.[1]);
    expect([event.path, event.report.verdict, shiftOf(event)]).toEqual([event.path, 'drifted', index / 100]);
  }
  const gone = events
    .filter(({ kind }) => kind === 'gone')
    .map((event) => ('path' in event ? event.path : ''));
  expect(gone.sort()).toEqual(deleted.map((index) => run.at(nameOf(index))).sort());
  const failed = events
    .filter(({ kind }) => kind === 'failed')
    .map((event) => ('path' in event ? event.path : ''));
  expect(failed.every((path) => isHalf(Number(/epoch=(\d+)/.exec(path)?.[1])))).toBe(true);
  expect(new Set(failed).size).toBe(failed.length);
  expect(failed).not.toEqual([]);
  expect(end).toMatchObject({ failed: 0, changing: [] });
  // Each is opened once, but for those that looked complete before they were.
  for (const index of others.filter((one) => !isHalf(one)))
    expect(opened.filter((path) => path === run.at(nameOf(index)))).toHaveLength(1);
  expect(opened.filter((path) => path.endsWith('before.safetensors'))).toHaveLength(1);
});

describe('a checkpoint', () => {
  test('that is there at the start is audited too, in the order in which they were written', async () => {
    const run = new RunDirectory();
    run.write('epoch10.safetensors', modelBytes(0.1));
    run.write('epoch9.safetensors', modelBytes(0.09));
    run.write('checkpoint-500/model.safetensors', modelBytes(0));
    expect((await play(run, [])).lines).toEqual([
      'epoch10.safetensors: drifted, 0.1',
      'epoch9.safetensors: drifted, 0.09',
      'checkpoint-500/model.safetensors: clean, 0',
    ]);
  });

  test('that is renamed into place is audited there, and one that was audited not again', async () => {
    const run = new RunDirectory();
    const { lines } = await play(run, [
      () => run.write('tmp-checkpoint-5/model.safetensors', modelBytes(0.1)),
      () => run.rename('tmp-checkpoint-5', 'checkpoint-5'),
      () => {},
      () => run.rename('checkpoint-5', 'checkpoint-best'),
      () => run.write('a.safetensors.tmp', modelBytes(0.2)),
      () => run.rename('a.safetensors.tmp', 'a.safetensors'),
    ]);
    expect(lines).toEqual(['checkpoint-5/model.safetensors: drifted, 0.1', 'a.safetensors: drifted, 0.2']);
  });

  test('that is written anew is audited each time it settles', async () => {
    const run = new RunDirectory();
    const { lines } = await play(run, [
      () => run.write('last.ckpt', modelBytes(0.1)),
      () => {},
      () => run.write('last.ckpt', modelBytes(0.2)),
      () => run.write('last.ckpt', modelBytes(0.3)),
      () => {},
      () => {},
      () => run.write('last.ckpt', modelBytes(0)),
    ]);
    expect(lines).toEqual(['last.ckpt: drifted, 0.1', 'last.ckpt: drifted, 0.3', 'last.ckpt: clean, 0']);
  });

  test('that is written anew while it is audited is audited as it is then', async () => {
    const run = new RunDirectory();
    run.write('last.ckpt', modelBytes(0.1));
    let isFirst = true;
    const onOpenFile = (path: string) => {
      if (isFirst && path.endsWith('last.ckpt')) {
        isFirst = false;
        run.write('last.ckpt', modelBytes(0.2));
      }
    };
    expect((await play(run, [], { audit: { onOpenFile } })).lines).toEqual(['last.ckpt: drifted, 0.2']);
  });

  test('that is deleted while it is audited was read in time', async () => {
    const run = new RunDirectory();
    run.write('a.ckpt', modelBytes(0.1));
    const onOpenFile = (path: string) => {
      if (path.endsWith('a.ckpt')) run.remove('a.ckpt');
    };
    const { lines, end } = await play(run, [], { audit: { onOpenFile } });
    expect(lines).toEqual(['a.ckpt: drifted, 0.1']);
    expect(end).toMatchObject({ failed: 0, changing: [] });
  });

  test('that never stands still is not read, and said to be left', async () => {
    const run = new RunDirectory();
    const grow = () => run.write('log.bin', 'x');
    const { lines, end, opened } = await play(run, [...Array(10).fill(grow), grow, grow, grow], {
      timeout: 10,
    });
    expect(lines).toEqual([]);
    expect(end).toMatchObject({ by: 'timeout', changing: [run.at('log.bin')] });
    expect(opened.some((path) => path.endsWith('log.bin'))).toBe(false);
  });

  test('that cannot be read is said once, tried again when it changes, and then no failure', async () => {
    const run = new RunDirectory();
    const bytes = modelBytes(0.1);
    const { lines, end } = await play(run, [
      () => run.write('a.safetensors', bytes.subarray(0, 100)),
      ...Array(4).fill(() => {}),
      () => run.write('a.safetensors', bytes.subarray(0, 300)),
      ...Array(4).fill(() => {}),
      () => run.write('a.safetensors', bytes),
    ]);
    expect(lines).toEqual(['a.safetensors: truncated', 'a.safetensors: drifted, 0.1']);
    expect(end.failed).toBe(0);
  });

  test('that cannot be read and is deleted is no failure', async () => {
    const run = new RunDirectory();
    run.write('a.safetensors', '');
    const { lines, end } = await play(run, [...Array(4).fill(() => {}), () => run.remove('a.safetensors')]);
    expect(lines).toEqual([
      expect.stringMatching(/^a.safetensors: (truncated|unrecognised-format)$/),
      'a.safetensors: gone',
    ]);
    expect(end.failed).toBe(0);
  });

  test('that the end comes before is told of', async () => {
    const run = new RunDirectory();
    run.write('bad.pt', 'no checkpoint');
    const { lines, end } = await play(run, [() => run.write('late.safetensors', modelBytes(0))], {
      timeout: 1,
    });
    expect(lines).toEqual(['bad.pt: unrecognised-format']);
    expect(end).toMatchObject({ by: 'timeout', failed: 1, changing: [run.at('late.safetensors')] });
  });

  test('of several files is one, and lands with the last of them', async () => {
    const run = new RunDirectory();
    const index = (name: string) =>
      JSON.stringify({
        metadata: {},
        weight_map: Object.fromEntries(MODEL_TENSORS.map((tensor) => [tensor, name])),
      });
    const shard = 'model-00001-of-00001.safetensors';
    const { lines } = await play(run, [
      () => run.write(`checkpoint-5/${shard}`, modelBytes(0.1).subarray(0, 200)),
      () => {},
      () => run.write('checkpoint-5/model.safetensors.index.json', index(shard)),
      () => run.write(`checkpoint-5/${shard}`, modelBytes(0.1)),
      () => {},
      () => {},
      () => run.write(`checkpoint-5/${shard}`, modelBytes(0.2)),
    ]);
    expect(lines).toEqual([
      'checkpoint-5/model.safetensors.index.json: drifted, 0.1',
      'checkpoint-5/model.safetensors.index.json: drifted, 0.2',
    ]);
  });
});

describe('the checkpoint from before', () => {
  test('in the watched directory is not audited against itself', async () => {
    const run = new RunDirectory();
    const before = run.write('before.safetensors', modelBytes(0));
    const { lines, opened } = await play(run, [() => run.write('a.safetensors', modelBytes(0.1))], {
      before,
    });
    expect(lines).toEqual(['a.safetensors: drifted, 0.1']);
    expect(opened).toEqual([before, run.at('a.safetensors')]);
  });

  test.each([
    [
      'replaced',
      (before: string) => {
        writeFileSync(`${before}.new`, modelBytes(1));
        return `${before}.new`;
      },
    ],
    ['written anew', () => null],
  ])('that is %s ends the watch, before anything is compared with it', async (_, prepare) => {
    const run = new RunDirectory();
    const before = run.write('before.safetensors', modelBytes(0));
    const replace = () => {
      const other = prepare(before);
      if (other === null) run.write('before.safetensors', modelBytes(1));
      else run.rename('before.safetensors.new', 'before.safetensors');
      run.touch('before.safetensors');
    };
    const events: WatchEvent[] = [];
    const steps = [() => run.write('a.safetensors', modelBytes(0)), replace];
    const onEvent = async (event: WatchEvent) => events.push(event) > 0;
    expect(await failureOf(() => play(run, steps, { before, onEvent }))).toMatchObject({
      code: 'refused',
      file: before,
      message: expect.stringContaining('expected the checkpoint from before as it was opened'),
      hint: expect.stringContaining('bn-audit baseline'),
    });
    expect(events).toEqual([]);
  });

  test('that is deleted or renamed can still be read, which is said once', async () => {
    const run = new RunDirectory();
    const before = run.write('before.safetensors', modelBytes(0));
    const { lines } = await play(
      run,
      [
        () => run.rename('before.safetensors', 'old.safetensors'),
        () => run.write('a.safetensors', modelBytes(0.1)),
        () => {},
        () => run.write('b.safetensors', modelBytes(0.2)),
      ],
      { before },
    );
    expect(lines).toEqual([
      'note: the checkpoint from before is gone from its place: it is compared with as it was opened',
      'a.safetensors: drifted, 0.1',
      'b.safetensors: drifted, 0.2',
    ]);
  });

  test('that cannot be opened is an error at once', async () => {
    const run = new RunDirectory();
    const before = join(run.outside, 'gone.pt');
    expect(await failureOf(() => play(run, [], { before }))).toMatchObject({
      code: 'not-found',
      file: before,
    });
  });
});

describe('the directory', () => {
  test('may come later, go and come back: each is said', async () => {
    const run = new RunDirectory();
    run.rename('', '../elsewhere');
    const back = () => run.rename('../elsewhere', '');
    const { lines } = await play(run, [
      () => {},
      () => back(),
      () => run.write('a.safetensors', modelBytes(0.1)),
      () => {},
      () => run.write('b.safetensors', modelBytes(0.2)),
      () => run.rename('', '../elsewhere'),
      () => {},
      () => back(),
    ]);
    expect(lines).toEqual([
      'note: "run": there is no such directory yet: it is waited for',
      'a.safetensors: drifted, 0.1',
      'note: "run": the directory is gone: it is waited for',
      'b.safetensors: gone',
      'a.safetensors: drifted, 0.1',
      'b.safetensors: drifted, 0.2',
    ]);
  });

  test('of which a part cannot be looked into is said once, and looked into when it can be', async () => {
    const run = new RunDirectory();
    run.write('closed/a.safetensors', modelBytes(0.1));
    let isClosed = true;
    const list = (...args: Parameters<typeof listCheckpoints>) => {
      const listing = listCheckpoints(...args);
      if (!isClosed) return listing;
      return {
        ...listing,
        checkpoints: [],
        unread: [{ path: run.at('closed'), message: 'no permission to read it' }],
      };
    };
    const { lines } = await play(
      run,
      [
        () => {},
        () => {
          isClosed = false;
        },
      ],
      { list },
    );
    expect(lines).toEqual([
      'note: "closed": no permission to read it: it is looked at again each time',
      'closed/a.safetensors: drifted, 0.1',
    ]);
  });
});

describe('the watch ends', () => {
  test('when whoever is told wants no more, before anything else is opened', async () => {
    const run = new RunDirectory();
    for (const index of [1, 2, 3]) run.write(`epoch${index}.safetensors`, modelBytes(index - 1));
    const onEvent = async (event: WatchEvent) => event.kind !== 'audited' || event.report.verdict === 'clean';
    const { lines, end, opened } = await play(run, [], { onEvent });
    expect(lines).toEqual(['epoch1.safetensors: clean, 0', 'epoch2.safetensors: drifted, 1']);
    expect(end).toMatchObject({ by: 'told', changing: [run.at('epoch3.safetensors')] });
    expect(opened).toHaveLength(3);
  });

  test('after its time', async () => {
    const { end, seconds } = await play(
      new RunDirectory(),
      Array(20).fill(() => {}),
      { timeout: 7 },
    );
    expect([end.by, seconds]).toEqual(['timeout', 7]);
  });

  test('when nothing has landed or changed for a while, and not while anything does', async () => {
    const run = new RunDirectory();
    const write = (index: number) => run.write('last.ckpt', modelBytes(index));
    const steps = [0, 1, 2, 3, 4, 5].flatMap((index) => [() => write(index), () => {}, () => {}]);
    const { end, seconds, lines } = await play(run, [...steps, ...Array(20).fill(() => {})], { idle: 3 });
    expect([end.by, lines.length]).toEqual(['idle', 6]);
    expect(seconds).toBe(20);
  });

  test('at once by a signal, also in the middle of an audit, which is not told of', async () => {
    const run = new RunDirectory();
    run.write('a.safetensors', modelBytes(0.1));
    const signal = new AbortController();
    const onOpenFile = (path: string) => {
      if (path.endsWith('a.safetensors')) signal.abort();
    };
    const { lines, end } = await play(run, [], { signal, audit: { onOpenFile } });
    expect(lines).toEqual([]);
    expect(end).toMatchObject({ by: 'signal', changing: [run.at('a.safetensors')] });
  });
});
