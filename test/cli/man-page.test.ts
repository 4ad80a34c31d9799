import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { writeManPage } from '../../src/cli/man-page.js';
import { createProgram } from '../../src/cli/program.js';
import type { Terminal } from '../../src/cli/terminal.js';
import { VERSION } from '../../src/errors.js';
import { listCommandOptions } from '../../src/options.js';

const built = fileURLToPath(new URL('../../dist/bn-audit.1', import.meta.url));
const page = writeManPage(await createProgram([], {} as Terminal));

test('the build wrote the page that the sources give', () => {
  expect(readFileSync(built, 'utf8')).toBe(page);
});

test('the manifest names it, in a list: npm links nothing else where it is installed for all', () => {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const { man } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  expect(man).toEqual(['./dist/bn-audit.1']);
  expect(join(root, man[0])).toBe(built);
});

test('it has the program, every command, each option in its place, examples and exit codes', () => {
  expect(page).toMatch(/^\.TH BN-AUDIT 1 /);
  expect(page).toContain(`"bn-audit ${VERSION}"`);
  for (const command of ['diff', 'watch', 'restore', 'completion'] as const) {
    const [, section = ''] = page.split(`\n.SS ${command}\n`);
    const [own = ''] = section.split('\n.SS ');
    for (const { flags = '' } of listCommandOptions(command))
      expect(own).toContain(`\n.TP\n.B ${flags.replaceAll('-', '\\-')}\n`);
    expect(own).toMatch(/\nExamples:\n {2}bn\\-audit .*\n[\s\S]*\nExit codes:\n {2}0 {2}/);
  }
});

test('no text in it is a request', () => {
  const requests = page.match(/^[.'].{0,2}/gm) ?? [];
  expect(new Set(requests.map((one) => one.trim()))).toEqual(
    new Set(['.TH', '.SH', '.SS', '.TP', '.B', '.I', '.br', '.PP', '.nf', '.fi']),
  );
});

test('man shows it without a warning', ({ skip }) => {
  const { error, status, stdout, stderr } = spawnSync('man', ['--warnings', '-l', built], {
    encoding: 'utf8',
    env: { ...process.env, MANWIDTH: '80', LC_ALL: 'C.UTF-8' },
  });
  if (error !== undefined || /No such|invalid option|unrecognized/.test(stderr) || status !== 0)
    skip('no man that checks pages is installed');
  expect(stderr).toBe('');
  expect(stdout).toMatch(/--fail-on <level>/);
});

test('mandoc finds nothing wrong with it', ({ skip }) => {
  const { error, stdout } = spawnSync('mandoc', ['-T', 'lint', '-W', 'warning', built], { encoding: 'utf8' });
  if (error !== undefined) skip('mandoc is not installed');
  expect(stdout.replace(/.*missing date.*\n/, '')).toBe('');
});
