import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { makeWorkspace, runCli, startCli } from './run.js';

const BEFORE = 'pairs/requires-grad-leak/before.safetensors';
/** The values of before in another file. */
const SAME = 'pairs/requires-grad-leak/before.pt';
const DRIFTED = 'pairs/requires-grad-leak/after.safetensors';

const workspace = makeWorkspace({ 'broken.pt': 'no checkpoint', 'empty-glob.json': '{"frozen": [""]}' });
mkdirSync(join(workspace, 'runs'));
for (const name of ['epoch2.safetensors', 'epoch10.safetensors'])
  copyFileSync(join(workspace, DRIFTED), join(workspace, 'runs', name));
copyFileSync(join(workspace, BEFORE), join(workspace, 'runs', 'epoch1.safetensors'));
mkdirSync(join(workspace, 'loops'));
copyFileSync(join(workspace, DRIFTED), join(workspace, 'loops', 'tuned.safetensors'));
symlinkSync('circle', join(workspace, 'loops', 'circle'));
copyFileSync(join(workspace, BEFORE), join(workspace, 'runs', 'base.safetensors'));

const pathsOf = (stdout: string) =>
  JSON.parse(stdout).reports.map((report: { after: { path: string } }) => report.after.path);

describe('several checkpoints after', () => {
  test('are audited each, and one that is broken stops none: exit code 2', async () => {
    const args = ['diff', BEFORE, 'broken.pt', DRIFTED, SAME];
    const { stdout, stderr, exitCode } = await runCli(args, workspace);
    expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 2 });
    expect(stdout).toContain('1 of 3 checkpoints drifted, 1 failed: it could not be audited.');
    const json = JSON.parse((await runCli([...args, '--format', 'json'], workspace)).stdout);
    expect(json).toMatchObject({ schemaVersion: 1, verdict: 'failed', failures: [{ after: 'broken.pt' }] });
    expect(json.reports.map(({ verdict }: { verdict: string }) => verdict)).toEqual(['drifted', 'clean']);
  });

  test('name what failed on standard error where the report is not read there', async () => {
    for (const options of [['-q'], ['--format', 'json'], ['-o', 'out.txt']]) {
      const { stderr, exitCode } = await runCli(['diff', BEFORE, 'broken.pt', SAME, ...options], workspace);
      expect(exitCode).toBe(2);
      expect(stderr).toMatch(/^bn-audit: broken\.pt: expected a checkpoint of a format/);
    }
  });

  test('give the highest exit code', async () => {
    const exitCodeOf = async (...after: readonly string[]) =>
      (await runCli(['diff', BEFORE, ...after, '-q'], workspace)).exitCode;
    expect(await exitCodeOf(SAME, SAME)).toBe(0);
    expect(await exitCodeOf(SAME, DRIFTED, SAME)).toBe(1);
    expect(await exitCodeOf(DRIFTED, 'gone.pt', SAME)).toBe(2);
  });

  test('may be a glob, in the order of their numbers, without before itself', async () => {
    const args = ['diff', 'runs/base.safetensors', 'runs/*.safetensors', '--format', 'json'];
    const { stdout, exitCode } = await runCli(args, workspace);
    expect(pathsOf(stdout)).toEqual([1, 2, 10].map((epoch) => `runs/epoch${epoch}.safetensors`));
    expect(exitCode).toBe(1);
  });

  test('are audited where a glob leads to something else that cannot be looked at, which is said', async () => {
    const { stderr, exitCode } = await runCli(['diff', BEFORE, 'loops/*', '-q'], workspace);
    expect(stderr).toBe(
      'bn-audit: not audited: what is in 1 place where a glob could not look, such as "loops/circle" (ELOOP)\n',
    );
    expect(exitCode).toBe(1);
  });

  test.each([
    ['an option', ['diff', BEFORE, SAME, '--allow', '']],
    ['restore', ['restore', BEFORE, DRIFTED, '-o', 'fixed.safetensors', '--layer', '']],
    ['after', ['diff', BEFORE, '']],
    ['a policy', ['diff', BEFORE, SAME, '--config', 'empty-glob.json']],
  ])('an empty glob is a usage error: %s', async (_, args) => {
    const { stderr, exitCode } = await runCli(args, workspace);
    expect(stderr).toMatch(/^bn-audit: .*expected .*, found .*\n$/);
    expect(exitCode).toBe(2);
  });

  test('of a glob that matches one are one audit, as if it was named', async () => {
    const { stdout } = await runCli(
      ['diff', BEFORE, 'runs/epoch?0.safetensors', '--format', 'json'],
      workspace,
    );
    const named = await runCli(['diff', BEFORE, 'runs/epoch10.safetensors', '--format', 'json'], workspace);
    expect(stdout).toBe(named.stdout);
  });

  test('of a glob that matches none are an error', async () => {
    const { stderr, exitCode } = await runCli(['diff', BEFORE, 'runs/none*.pt'], workspace);
    expect({ stderr, exitCode }).toEqual({ stderr: 'bn-audit: runs/none*.pt: no such file\n', exitCode: 2 });
  });

  test('report a frozen glob that matches nothing for the checkpoint that it concerns', async () => {
    const args = ['diff', BEFORE, DRIFTED, SAME, '--frozen', 'nope', '--format', 'json'];
    const { stdout, exitCode } = await runCli(args, workspace);
    expect(exitCode).toBe(2);
    expect(JSON.parse(stdout).failures).toMatchObject([{ code: 'usage' }, { code: 'usage' }]);
  });

  test('cannot be shown by layer', async () => {
    const { stderr, exitCode } = await runCli(['diff', BEFORE, DRIFTED, SAME, '--layer', 'x'], workspace);
    expect({ stderr, exitCode }).toEqual({
      stderr: 'bn-audit: --layer shows one layer of one audit, found 2 audits\n',
      exitCode: 2,
    });
  });

  test.each(['text', 'json', 'markdown', 'html', 'junit', 'sarif', 'github', 'gitlab', 'azure', 'summary'])(
    'are one %s report',
    async (format) => {
      const { exitCode } = await runCli(
        ['diff', BEFORE, DRIFTED, SAME, '-q', '--report', `${format}=several.${format}`],
        workspace,
      );
      expect(exitCode).toBe(1);
      expect(readFileSync(join(workspace, `several.${format}`), 'utf8')).not.toBe('');
    },
  );
});

test('memory does not grow with the number of checkpoints', async () => {
  writeFileSync(
    join(workspace, 'peak.mjs'),
    `process.on('exit', () => process.stderr.write(String(process.resourceUsage().maxRSS)));`,
  );
  const peakKilobytes = async (count: number) => {
    const after = Array<string>(count).fill(DRIFTED);
    const preload = join(workspace, 'peak.mjs');
    // What V8 has yet to collect of the young does not count: newer Nodes let it grow to tens of megabytes.
    const env = { NODE_OPTIONS: '--max-semi-space-size=1' };
    const { stderr } = await startCli(['diff', BEFORE, ...after, '-qo', 'many.txt'], workspace, {
      preload,
      env,
    });
    return Number(stderr);
  };
  const [few, many] = [await peakKilobytes(2), await peakKilobytes(200)];
  expect(few).toBeGreaterThan(10_000);
  expect(many - few).toBeLessThan(60_000);
});
