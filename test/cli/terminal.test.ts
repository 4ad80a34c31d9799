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
      write: (text: string) => {
        written[name] += text;
        return true;
      },
    }) as unknown as NodeJS.Process['stdout'];
  return { written, process: { stdout: stream('stdout'), stderr: stream('stderr'), env } };
}

describe('width', () => {
  test.each([
    [true, 100, 100],
    [true, 300, 120],
    [true, 0, 80],
    [false, 200, 80],
  ])('terminal %j of %d columns: %d', (isTTY, columns, width) => {
    expect(createTerminal(fakeProcess({ isTTY, columns }).process as never).width).toBe(width);
  });
});

test('data goes to stdout and messages to stderr, with a line end', () => {
  const { process, written } = fakeProcess({ isTTY: false });
  const terminal = createTerminal(process as never);
  terminal.write('data');
  terminal.writeError('message');
  expect(written).toEqual({ stdout: 'data', stderr: 'message\n' });
});

describe('progress', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  const half = { done: 50_000_000, total: 100_000_000 };

  test('is not shown within the first second', () => {
    const { process, written } = fakeProcess({ isTTY: true });
    const terminal = createTerminal(process as never);
    vi.advanceTimersByTime(999);
    terminal.showProgress(half);
    terminal.finishProgress();
    expect(written.stderr).toBe('');
  });

  test('is shown after it on a terminal, and taken away at the end', () => {
    const { process, written } = fakeProcess({ isTTY: true });
    const terminal = createTerminal(process as never);
    vi.advanceTimersByTime(1000);
    terminal.showProgress(half);
    expect(written.stderr).toBe(`\rcomparing ${'█'.repeat(15)}${'░'.repeat(15)} 50 %  50 of 100 MB\u001b[K`);
    terminal.finishProgress();
    expect(written.stderr.endsWith('\r\u001b[K')).toBe(true);
    expect(written.stdout).toBe('');
  });

  test('is not drawn more often than every tenth of a second', () => {
    const { process, written } = fakeProcess({ isTTY: true });
    const terminal = createTerminal(process as never);
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
    const terminal = createTerminal(process as never);
    vi.advanceTimersByTime(5000);
    terminal.showProgress(half);
    terminal.finishProgress();
    expect(written.stderr).toBe('');
  });
});
