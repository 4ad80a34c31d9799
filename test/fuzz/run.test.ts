import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { writeInput } from './input.js';

const program = fileURLToPath(new URL('run.js', import.meta.url));
const directory = mkdtempSync(join(tmpdir(), 'bn-audit-test-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const run = (...args: readonly string[]) =>
  spawnSync(process.execPath, [program, 'test/fuzz/main.ts', ...args], { encoding: 'utf8' });

test('a run without faults ends with a table of its readers and exit code 0', () => {
  const { status, stdout, stderr } = run(
    '--minutes',
    '0.03',
    '--reader',
    'npy',
    '--reader',
    'policy',
    '--faults',
    directory,
  );
  expect(stderr).toBe('');
  expect(stdout).toMatch(
    /^reader +executions +per second +corpus +functions +code +faults\nnpy +\d+ .* 0\npolicy +\d+ .* 0\nall +\d+ +0$/m,
  );
  expect(status).toBe(0);
});

test('an input that was kept is run again', () => {
  const kept = join(directory, 'kept');
  const files = new Map([['x.npy', new Uint8Array(3)]]);
  writeInput(kept, 'npy', { main: 'x.npy', files, reference: '', draw: 0 });
  const { status, stdout } = run('--replay', kept);
  expect([stdout, status]).toEqual(['no fault\n', 0]);
});

test.each([
  [['--minutes', '0'], '--minutes takes a number larger than 0'],
  [['--seed', 'x'], '--seed a whole number'],
  [['--reader', 'pdf'], 'the readers are safetensors, '],
])('%j is refused', (args, message) => {
  const { status, stderr } = run(...args);
  expect(stderr).toContain(message);
  expect(status).not.toBe(0);
});
