import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { checkpointBytes, writeFiles } from '../build/runs.js';
import { makeWorkspace, runCli } from './run.js';

const leak = fileURLToPath(new URL('../../fixtures/runs/leak', import.meta.url));

function makeRun(files: Readonly<Record<string, string | Uint8Array>> = {}): string {
  const workspace = makeWorkspace();
  cpSync(leak, join(workspace, 'runs', 'a'), { recursive: true });
  writeFiles(workspace, files);
  return workspace;
}

const TRACE = ['trace', 'runs/a/base.pt', 'runs/a'];

describe('bn-audit trace', () => {
  test('of a directory finds its checkpoints, says when drift began, and exits with 1, in 80 columns', async () => {
    const { stdout, stderr, exitCode } = await runCli(TRACE, makeRun());
    expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 1 });
    expect(stdout).toContain('12 checkpoints, epoch 1 to 12, by their epochs');
    expect(stdout).toContain('✖ DRIFTED  backbone was frozen, its statistics were not, from epoch 4 on');
    expect(stdout).toContain('backbone.stage2.bn  ···▄▆▇██████  epoch 3    epoch 4     0.705');
    const lines = stdout.split('\n');
    expect(lines.filter((line) => [...line].length > 80)).toEqual([]);
  });

  test('of files and globs in any order is the same trace', async () => {
    const workspace = makeRun();
    const ofDirectory = await runCli(TRACE, workspace);
    const files = ['runs/a/epoch_12.pt', 'runs/a/epoch_0*.pt', 'runs/a/epoch_1{0,1}.pt'];
    const ofFiles = await runCli(['trace', 'runs/a/base.pt', ...files], workspace);
    expect(ofFiles).toEqual(ofDirectory);
  });

  test('with --all lists every layer and checkpoint', async () => {
    const { stdout } = await runCli([...TRACE, '--all'], makeRun());
    expect(stdout).toContain('runs/a/epoch_03.pt  epoch 3   clean');
    expect(stdout).toContain('runs/a/epoch_04.pt  epoch 4   drifted');
  });

  test('without drift exits with 0; warnings count with --fail-on warning', async () => {
    const workspace = makeRun();
    expect((await runCli([...TRACE, '--allow', 'backbone', '-q'], workspace)).exitCode).toBe(0);
    const locked = ['trace', 'runs/a/base.pt', 'runs/a/epoch_0{1..3}.pt', '-q'];
    expect((await runCli(locked, workspace)).exitCode).toBe(0);
    expect(
      (await runCli([...TRACE, '--min-shift', '0.6', '--frozen', 'backbone.stage1', '-q'], workspace))
        .exitCode,
    ).toBe(1);
  });

  test('says what it left out, or with --strict fails', async () => {
    const workspace = makeRun({ 'runs/a/broken.pt': 'no checkpoint' });
    const { stdout, exitCode } = await runCli([...TRACE, 'runs/a/epoch_01.pt'], workspace);
    expect(exitCode).toBe(1);
    const said = stdout.replace(/\s+/g, ' ');
    expect(said).toContain('2 of 14 checkpoints were left out');
    expect(said).toContain('left out: runs/a/broken.pt: expected a checkpoint of a format');
    const strict = await runCli([...TRACE, '--strict'], workspace);
    expect(strict.stderr).toMatch(/^bn-audit: runs\/a\/broken\.pt: expected a checkpoint/);
    expect({ stdout: strict.stdout, exitCode: strict.exitCode }).toEqual({ stdout: '', exitCode: 2 });
  });

  test.each([
    [['trace'], "missing required argument 'before'"],
    [['trace', 'base.pt'], "missing required argument 'run'"],
    [['trace', 'base.pt', 'x.pt', '--run', 'a'], "cannot be given together with '--run'"],
    [['trace', '--run', 'a'], '--run needs a policy file'],
    [['trace', 'runs/a/base.pt', 'runs/a/gone*.pt'], 'no such file'],
    [['trace', 'runs/a/base.pt', 'runs/a', '--layer', 'x'], "unknown option '--layer'"],
  ])('%j cannot be done: exit code 2', async (args, said) => {
    const { stderr, exitCode } = await runCli(args, makeRun());
    expect(stderr).toContain(said);
    expect(exitCode).toBe(2);
  });

  test('never writes over a checkpoint of the run', async () => {
    const { stderr, exitCode } = await runCli([...TRACE, '-o', 'runs/a/epoch_05.pt'], makeRun());
    expect(stderr).toContain('what is audited is never written to');
    expect(exitCode).toBe(2);
  });
});

describe('a policy', () => {
  const policy = (runs: object, rest: object = {}) =>
    makeRun({ 'bn-audit.config.json': JSON.stringify({ runs, ...rest }) });

  test('names a run, with rules and paths of its own', async () => {
    const workspace = policy({
      leak: { before: 'runs/a/base.pt', checkpoints: 'runs/a/epoch_*.pt', allow: ['backbone'] },
    });
    mkdirSync(join(workspace, 'below'));
    const { stdout, exitCode } = await runCli(['trace', '--run', 'leak'], join(workspace, 'below'));
    expect(exitCode).toBe(0);
    expect(stdout).toContain('../runs/a');
  });

  test('writes its reports', async () => {
    const run = { before: 'runs/a/base.pt', checkpoints: ['runs/a'] };
    const workspace = policy({ leak: run }, { reports: { junit: 'out.xml' } });
    expect((await runCli(['trace', '--run', 'leak', '-q'], workspace)).exitCode).toBe(1);
    const again = await runCli(['trace', '--run', 'leak', '-q'], workspace);
    expect(again).toMatchObject({ exitCode: 1, stdout: '' });
  });

  test('that does not know the run says which it knows', async () => {
    const { stderr, exitCode } = await runCli(
      ['trace', '--run', 'laek'],
      policy({ leak: { before: 'a', checkpoints: 'b' } }),
    );
    expect(stderr).toContain(
      '--run "laek": bn-audit.config.json has no such run; did you mean "leak"?\n  Runs there: "leak"',
    );
    expect(exitCode).toBe(2);
  });
});

test('names of checkpoints and layers steer nothing', async () => {
  const workspace = makeWorkspace();
  const evil = 'a\u001b[31m::error::x';
  const state = (mean: number) => checkpointBytes({ layers: { [evil]: { mean, count: 10 + mean } } });
  writeFiles(workspace, { 'base.safetensors': state(0) });
  mkdirSync(join(workspace, 'run'));
  writeFileSync(join(workspace, 'run', '\u001b]0;x\u0007##vso[a]1.safetensors'), state(1));
  for (const format of ['text', 'json', 'markdown', 'html', 'junit', 'sarif', 'github', 'gitlab']) {
    const { stdout } = await runCli(['trace', 'base.safetensors', 'run', '-f', format], workspace);
    expect(stdout, format).not.toMatch(/[\u001b\u0007]|##vso/);
    expect(stdout.length).toBeGreaterThan(100);
  }
});
