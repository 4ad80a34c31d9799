import { openSync } from 'node:fs';
import { devNull } from 'node:os';
import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { chooseColorLevel, createTerminal } from '../../src/cli/terminal.js';

describe('chooseColorLevel', () => {
  test.each<readonly [isTTY: boolean, env: Readonly<Record<string, string>>, level: number]>([
    [true, {}, 1],
    [false, {}, 0],
    [true, { TERM: 'dumb' }, 0],
    [true, { NO_COLOR: '1' }, 0],
    [true, { NO_COLOR: '' }, 1],
    [false, { FORCE_COLOR: '' }, 1],
    [false, { FORCE_COLOR: '1' }, 1],
    [false, { FORCE_COLOR: 'true' }, 1],
    [true, { FORCE_COLOR: '0' }, 0],
    [true, { FORCE_COLOR: 'false' }, 0],
    [false, { FORCE_COLOR: '1', TERM: 'dumb' }, 1],
    [true, { FORCE_COLOR: '1', NO_COLOR: '1' }, 0],
  ])('terminal %j, %j: %d', (isTTY, env, level) => {
    expect(chooseColorLevel({ isTTY }, env)).toBe(level);
  });
});

const ignoreErrors = () => undefined;

const fd = openSync(devNull, 'w');

/** Streams that keep what is written to them. */
function fakeProcess({
  isTTY,
  columns = 100,
  env = {},
}: {
  isTTY: boolean;
  columns?: number;
  env?: Record<string, string>;
}) {
  const written = { stdout: '', stderr: '' };
  const stream = (name: 'stdout' | 'stderr') =>
    ({
      isTTY,
      columns,
      on: () => undefined,
      fd,
      write: (text: string, onWritten?: () => void) => {
        written[name] += text;
        onWritten?.();
      },
    }) as unknown as NodeJS.Process['stdout'];
  return { written, process: { stdout: stream('stdout'), stderr: stream('stderr'), env } };
}

describe('width', () => {
  test.each([
    [true, 100, 100],
    [true, 300, 300],
    [true, 0, 80],
    [false, 200, 80],
  ])('terminal %j of %d columns: %d', async (isTTY, columns, width) => {
    const { process } = fakeProcess({ isTTY, columns });
    const looks = createTerminal(process as never, ignoreErrors).readLooks();
    expect(looks).toMatchObject({ width, wholeNames: !isTTY });
  });

  test.each([
    ['60', 60],
    ['200', 200],
    ['', 100],
    ['0', 100],
    ['-5', 100],
    ['wide', 100],
    ['999999999', 1000],
  ])('COLUMNS=%s in a terminal of 100 columns: %d', (COLUMNS, width) => {
    for (const isTTY of [true, false]) {
      const { process } = fakeProcess({ isTTY, columns: 100, env: { COLUMNS } });
      const looks = createTerminal(process as never, ignoreErrors).readLooks();
      expect(looks.width).toBe(isTTY || width !== 100 ? width : 80);
    }
  });
});

describe('paint', () => {
  test.each([
    [true, '\u001b[31m\u001b[1mDRIFTED\u001b[22m\u001b[39m'],
    [false, 'DRIFTED'],
  ])('terminal %j: %j', async (isTTY, painted) => {
    const { process } = fakeProcess({ isTTY });
    const { paint } = createTerminal(process as never, ignoreErrors).readLooks();
    expect(paint('error', 'DRIFTED')).toBe(painted);
  });

  test.each([
    ['always', false, { NO_COLOR: '1' }, true],
    ['always', false, {}, true],
    ['never', true, { FORCE_COLOR: '1' }, false],
    ['auto', true, {}, true],
    ['auto', false, {}, false],
  ] as const)('--color %s, terminal %j, %j: %j', (choice, isTTY, env, isPainted) => {
    const { process } = fakeProcess({ isTTY, env });
    const terminal = createTerminal(process as never, ignoreErrors);
    terminal.chooseColor(choice);
    expect(terminal.readLooks().paint('good', 'x') !== 'x').toBe(isPainted);
  });
});

describe('streams', () => {
  test('none is built until something is written to it', async () => {
    const untouched = {
      env: {},
      get stdout(): never {
        throw new Error('stdout was built');
      },
      get stderr(): never {
        throw new Error('stderr was built');
      },
    };
    const terminal = createTerminal(untouched, ignoreErrors);
    terminal.showProgress({ done: 1, total: 2 });
    terminal.finishProgress();
    await expect(async () => terminal.write('data')).rejects.toThrow('stdout was built');
  });

  test('the errors of each are heard, however often it is written to', async () => {
    const heard: string[] = [];
    const stream = () => Object.assign(new PassThrough(), { isTTY: false, columns: 80, fd });
    const process = { env: {}, stdout: stream(), stderr: stream() };
    const terminal = createTerminal(process as never, (error) => heard.push(error.message));
    await terminal.write('once');
    await terminal.write('twice');
    process.stdout.emit('error', new Error('EPIPE'));
    expect(heard).toEqual(['EPIPE']);
  });
});

test('writing settles when a slow reader has taken the text', async () => {
  const taken: (() => void)[] = [];
  const { process } = fakeProcess({ isTTY: false });
  process.stdout.write = ((_: string, onWritten: () => void) => taken.push(onWritten)) as never;
  let isWritten = false;
  const writing = createTerminal(process as never, ignoreErrors)
    .write('data')
    .then(() => {
      isWritten = true;
    });
  await new Promise(setImmediate);
  expect(isWritten).toBe(false);
  taken[0]?.();
  await writing;
  expect(isWritten).toBe(true);
});

test('data goes to stdout and messages to stderr, with a line end', async () => {
  const { process, written } = fakeProcess({ isTTY: false });
  const terminal = createTerminal(process as never, ignoreErrors);
  await terminal.write('data');
  terminal.writeError('message');
  expect(written).toEqual({ stdout: 'data', stderr: 'message\n' });
});

describe('progress', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['Date'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  const half = { done: 50_000_000, total: 100_000_000 };

  test('is not shown within the first second', () => {
    const { process, written } = fakeProcess({ isTTY: true });
    const terminal = createTerminal(process as never, ignoreErrors);
    vi.advanceTimersByTime(999);
    terminal.showProgress(half);
    terminal.finishProgress();
    expect(written.stderr).toBe('');
  });

  test('is shown after it on a terminal, and taken away at the end', () => {
    const { process, written } = fakeProcess({ isTTY: true });
    const terminal = createTerminal(process as never, ignoreErrors);
    vi.advanceTimersByTime(1000);
    terminal.showProgress(half);
    expect(written.stderr).toBe(`\rcomparing ${'█'.repeat(15)}${'░'.repeat(15)} 50 %  50 of 100 MB\u001b[K`);
    terminal.finishProgress();
    expect(written.stderr.endsWith('\r\u001b[K')).toBe(true);
    expect(written.stdout).toBe('');
  });

  test.each([
    [40, `\rcomparing ${'█'.repeat(5)}${'░'.repeat(5)} 50 %  50 of 100 MB\u001b[K`],
    [25, '\rcomparing 50 %  50 of 10\u001b[K'],
  ])('fits into a line of %d columns', (columns, line) => {
    const { process, written } = fakeProcess({ isTTY: true, columns });
    const terminal = createTerminal(process as never, ignoreErrors);
    vi.advanceTimersByTime(1000);
    terminal.showProgress(half);
    expect(written.stderr).toBe(line);
  });

  test('of a probe counts runs', () => {
    const { process, written } = fakeProcess({ isTTY: true });
    const terminal = createTerminal(process as never, ignoreErrors);
    vi.advanceTimersByTime(1000);
    terminal.showRuns({ done: 3, total: 12 });
    expect(written.stderr).toBe(`\rrunning ${'█'.repeat(8)}${'░'.repeat(22)} 25 %  3 of 12 runs\u001b[K`);
  });

  test('is not drawn more often than every tenth of a second', () => {
    const { process, written } = fakeProcess({ isTTY: true });
    const terminal = createTerminal(process as never, ignoreErrors);
    vi.advanceTimersByTime(1000);
    for (let i = 0; i < 50; i++) {
      terminal.showProgress(half);
      vi.advanceTimersByTime(10);
    }
    expect(written.stderr.match(/comparing/g)).toHaveLength(5);
  });

  test.each([
    ['a pipe', { isTTY: false }],
    ['a dumb terminal', { isTTY: true, env: { TERM: 'dumb' } }],
  ])('is not shown on %s', (_, options) => {
    const { process, written } = fakeProcess(options);
    const terminal = createTerminal(process as never, ignoreErrors);
    vi.advanceTimersByTime(5000);
    terminal.showProgress(half);
    terminal.finishProgress();
    expect(written.stderr).toBe('');
  });
});
