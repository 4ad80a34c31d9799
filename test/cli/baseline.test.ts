import { mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { FIXTURE_GROUPS, makeWorkspace, run, runCli } from './run.js';

const BEFORE = 'pairs/requires-grad-leak/before.safetensors';
const AFTER = 'pairs/requires-grad-leak/after.safetensors';
const OUTPUT = 'backbone.bn.safetensors';

/** What is there besides the fixtures. */
const listFiles = (workspace: string) =>
  readdirSync(workspace).filter((name) => !FIXTURE_GROUPS.includes(name));

test('baseline writes a file, says what is in it, and diff takes it', async () => {
  const workspace = makeWorkspace();
  const { stdout, stderr, exitCode } = await runCli(['baseline', BEFORE, '-o', OUTPUT], workspace);
  expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 0 });
  const size = readFileSync(join(workspace, OUTPUT)).length.toLocaleString('en');
  expect(stderr).toBe(
    `bn-audit: wrote "backbone.bn.safetensors" (${size} bytes)
  8 norm layers, the hashes of 26 learned tensors, projections of 8 weights
  It stands in for "pairs/requires-grad-leak/before.safetensors": bn-audit diff "backbone.bn.safetensors" AFTER
`,
  );
  expect(listFiles(workspace)).toEqual([OUTPUT]);
  expect((await runCli(['diff', OUTPUT, AFTER, '-q'], workspace)).exitCode).toBe(1);
  expect((await runCli(['diff', OUTPUT, BEFORE, '-q'], workspace)).exitCode).toBe(0);
  expect((await runCli(['inspect', OUTPUT, '-q'], workspace)).exitCode).toBe(0);
});

test.each([200, 237, 255])('a name of %d bytes is taken', async (length) => {
  const workspace = makeWorkspace();
  const name = 'n'.repeat(length);
  expect((await runCli(['baseline', BEFORE, '-o', name, '-q'], workspace)).exitCode).toBe(0);
  expect(listFiles(workspace)).toEqual([name]);
});

test('a name that is none is a mistake in the command line', async () => {
  const { stderr, exitCode } = await runCli(['baseline', BEFORE, '-o', ''], makeWorkspace());
  expect([stderr.split('\n')[0], exitCode]).toEqual([
    "bn-audit: option '-o, --output <file>' argument '' is invalid. It must name a file.",
    2,
  ]);
});

test('a name that is too long is said to be', async () => {
  const name = 'n'.repeat(256);
  expect(await runCli(['baseline', BEFORE, '-o', name], makeWorkspace())).toMatchObject({
    stderr: `bn-audit: ${name}: it could not be written: its name is too long\n  Nothing was changed. Give a shorter name.\n`,
    exitCode: 2,
  });
});

test('the same checkpoint gives the same file, from anywhere', async () => {
  const workspace = makeWorkspace();
  mkdirSync(join(workspace, 'elsewhere'));
  await runCli(['baseline', BEFORE, '-o', 'one', '-q'], workspace);
  await runCli(['baseline', join('..', BEFORE), '-o', '../other', '-q'], join(workspace, 'elsewhere'));
  expect(readFileSync(join(workspace, 'one'))).toEqual(readFileSync(join(workspace, 'other')));
});

describe('a file that is there already', () => {
  test('stays, with exit code 2 and the way out', async () => {
    const workspace = makeWorkspace({ [OUTPUT]: 'mine' });
    expect(await runCli(['baseline', BEFORE, '-o', OUTPUT], workspace)).toEqual({
      stdout: '',
      stderr: `bn-audit: ${OUTPUT}: there is such a file already\n  To replace it: --force\n`,
      exitCode: 2,
    });
    expect(readFileSync(join(workspace, OUTPUT), 'utf8')).toBe('mine');
  });

  test('is replaced with --force, where a symbolic link leads to it too', async () => {
    const workspace = makeWorkspace({ real: 'mine' });
    symlinkSync('real', join(workspace, OUTPUT));
    expect((await runCli(['baseline', BEFORE, '-o', OUTPUT, '--force', '-q'], workspace)).exitCode).toBe(0);
    expect(readFileSync(join(workspace, 'real')).length).toBeGreaterThan(1000);
    expect(listFiles(workspace)).toEqual([OUTPUT, 'real']);
  });

  test('is never the checkpoint itself, not even with --force', async () => {
    const bytes = readFileSync(new URL(`../../fixtures/${BEFORE}`, import.meta.url));
    const workspace = makeWorkspace({ 'model.safetensors': bytes });
    symlinkSync('model.safetensors', join(workspace, 'link'));
    for (const output of ['model.safetensors', 'link', './model.safetensors']) {
      const { stderr, exitCode } = await runCli(
        ['baseline', 'model.safetensors', '-o', output, '--force'],
        workspace,
      );
      expect(exitCode).toBe(2);
      expect(stderr).toContain('which is read: what is audited is never written to');
    }
    expect(readFileSync(join(workspace, 'model.safetensors')).equals(bytes)).toBe(true);
  });

  test('is written to where it is a device or a pipe', async () => {
    const workspace = makeWorkspace();
    expect((await runCli(['baseline', BEFORE, '-o', '/dev/null', '-q'], workspace)).exitCode).toBe(0);
    await runCli(['baseline', BEFORE, '-o', OUTPUT, '-q'], workspace);
    const bin = new URL('../../bin/bn-audit.js', import.meta.url).pathname;
    const script = `"${process.execPath}" "${bin}" baseline ${BEFORE} -q -o /dev/stdout | cmp - ${OUTPUT}`;
    expect((await run('sh', ['-c', script], workspace)).exitCode).toBe(0);
  });
});

test.each([
  [
    'a directory',
    ['baseline', BEFORE, '-o', 'pairs'],
    /pairs: it could not be written: it is a directory\n {2}Nothing was changed. Name a file in it\./,
  ],
  [
    'a directory below a file',
    ['baseline', BEFORE, '-o', `${BEFORE}/none/x`],
    /none\/x: it could not be written: a part of its path is no directory/,
  ],
  ['no output', ['baseline', BEFORE], /required option '-o, --output <file>' not specified/],
  ['no checkpoint', ['baseline', 'none', '-o', OUTPUT], /none: no such file/],
  [
    'no norm layer',
    ['baseline', 'pairs/layernorm-only/before.safetensors', '-o', OUTPUT],
    /nothing to keep in a baseline/,
  ],
] as const)('%s is exit code 2, and nothing is written', async (_, args, message) => {
  const workspace = makeWorkspace();
  const { stderr, exitCode } = await runCli(args, workspace);
  expect(exitCode).toBe(2);
  expect(stderr).toMatch(message);
  expect(listFiles(workspace)).toEqual([]);
});
