import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { composeGuard, GUARD_FRAMEWORKS } from '../../src/cli/guard-file.js';
import { makeWorkspace, runCli } from './run.js';

const read = (framework: string) => composeGuard(framework, 'raise').text;
const page = readFileSync(new URL('../../docs/guards.md', import.meta.url), 'utf8');

/** What the file defines or imports at its top level. */
const namesOf = (text: string) =>
  [...text.matchAll(/^(?:def|class) (\w+)|^(?:from \S+ )?import (.+)$|^([A-Z]+)\b/gm)].flatMap(
    ([, defined, imported, constant]) => defined ?? constant ?? imported?.split(', ') ?? [],
  );

test('there are guards for six frameworks, and for tests', () => {
  expect([...GUARD_FRAMEWORKS].sort()).toEqual(
    ['keras', 'lightning', 'mmengine', 'pytest', 'pytorch', 'transformers', 'ultralytics'].sort(),
  );
});

describe.each(GUARD_FRAMEWORKS)('the guard for %s', (framework) => {
  const text = read(framework);

  test('is one file of under 80 lines, none too long to read', () => {
    expect(text.trimEnd().split('\n').length).toBeLessThan(80);
    expect(text.split('\n').filter((line) => line.length > 120 || /\s$|\t/.test(line))).toEqual([]);
  });

  test('imports the standard library and the framework alone', () => {
    const modules = [...text.matchAll(/^\s*(?:from|import) (\w+)/gm)].map(([, module = '']) => module);
    // NumPy comes with Keras, PyTorch with the frameworks that are made for it.
    const own =
      framework === 'keras'
        ? ['keras', 'numpy']
        : ['torch', ...(framework === 'pytorch' || framework === 'pytest' ? [] : [framework])];
    const standard = ['collections', 'contextlib', 'typing', 'warnings'];
    expect(modules.filter((module) => ![...standard, ...own].includes(module))).toEqual([]);
    expect(modules).toEqual(expect.arrayContaining(own));
  });

  test('defines each name once, with what checks and what cures', () => {
    const names = namesOf(text);
    expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
    expect(names).toEqual(expect.arrayContaining(['MODE', 'PARTS', 'find_frozen', 'freeze_norms']));
  });

  test('says first how to use it and how it was written, and holds nothing to fill in', () => {
    expect(text).toMatch(/^"""(?:Raises|Fails) when|^"""Raises in the step/);
    expect(text).toContain(`bn-audit init --guard ${framework}.`);
    expect(text).toMatch(/^The cure.*freeze/m);
    expect(text).not.toMatch(/TODO|FIXME|NotImplemented|\.\.\.$|\bpass$|\$\{|from core/m);
  });

  test('raises, or warns where that is asked for', () => {
    const lines = (whole: string) => whole.split('\n');
    const warning = composeGuard(framework, 'warn').text;
    expect(lines(text)).toContain('MODE = "raise"  # or "warn"');
    expect(lines(warning).filter((line) => !lines(text).includes(line))).toEqual([
      'MODE = "warn"  # or "raise"',
    ]);
  });

  test('is explained on the page of guards, and trained with', () => {
    expect(page).toMatch(new RegExp(`^## ${framework}$`, 'im'));
    const script = {
      pytorch: 'pytorch/guards/loop',
      pytest: 'pytorch/guards/loop',
      lightning: 'lightning/guards/module',
      transformers: 'transformers/guards/trainer',
      mmengine: 'mmengine/guards/runner',
      ultralytics: 'ultralytics/guards/detect',
      keras: 'keras/guards/fit',
    }[framework];
    const recipe = new URL(`../../docs/recipes/${script}.${framework}.py`, import.meta.url);
    expect(existsSync(recipe)).toBe(true);
  });
});

describe('init --guard', () => {
  test.each([
    ['lightning', 'bn_guard.py'],
    ['pytest', 'test_frozen_norms.py'],
  ])('writes the file, and says where its use stands: %s', async (framework, name) => {
    const workspace = makeWorkspace();
    expect(await runCli(['init', '--guard', framework], workspace)).toEqual({
      stdout: '',
      stderr: `bn-audit: wrote "${name}"\n  How to use it stands in its first lines.\n`,
      exitCode: 0,
    });
    expect(readFileSync(join(workspace, name), 'utf8')).toBe(read(framework));
  });

  test('takes a mode and another name', async () => {
    const workspace = makeWorkspace();
    await runCli(['init', '--guard', 'keras', '--mode', 'warn', '-o', 'still.py'], workspace);
    expect(readFileSync(join(workspace, 'still.py'), 'utf8')).toBe(composeGuard('keras', 'warn').text);
    expect(existsSync(join(workspace, 'bn_guard.py'))).toBe(false);
  });

  test('replaces nothing, except with --force', async () => {
    const workspace = makeWorkspace({ 'bn_guard.py': 'mine' });
    expect(await runCli(['init', '--guard', 'pytorch'], workspace)).toEqual({
      stdout: '',
      stderr: 'bn-audit: bn_guard.py: there is such a file already\n  To replace it: --force\n',
      exitCode: 2,
    });
    expect(readFileSync(join(workspace, 'bn_guard.py'), 'utf8')).toBe('mine');
    expect((await runCli(['init', '--guard', 'pytorch', '--force'], workspace)).exitCode).toBe(0);
    expect(readFileSync(join(workspace, 'bn_guard.py'), 'utf8')).toBe(read('pytorch'));
  });

  test.each([
    [
      ['--guard', 'ligthning'],
      '--guard "ligthning": no such framework; did you mean "lightning"?\n  There are guards for pytorch, ',
    ],
    [['--guard', 'jax'], '--guard "jax": no such framework\n'],
    [['--guard', 'keras', 'base.pt'], '--guard reads no checkpoint'],
    [['--guard', 'keras', '--select', 'model'], '--guard reads no checkpoint'],
    [['--mode', 'warn', 'base.pt'], '--mode is for guards'],
    [['--guard', 'keras', '--mode', 'stop'], 'Allowed choices are raise, warn.'],
    [[], 'expected a checkpoint, or --guard FRAMEWORK, found neither'],
  ])('refuses %j, and writes nothing', async (args, message) => {
    const workspace = makeWorkspace();
    const { stdout, stderr, exitCode } = await runCli(['init', ...args], workspace);
    expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 });
    expect(stderr).toContain(message);
    expect(existsSync(join(workspace, 'bn_guard.py'))).toBe(false);
    writeFileSync(join(workspace, 'bn-audit.config.json'), '{}', { flag: 'wx' });
  });
});
