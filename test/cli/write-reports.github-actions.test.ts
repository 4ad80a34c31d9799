import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { MAX_SUMMARY_BYTES } from '../../src/cli/write-reports.js';
import { parseWorkflowCommands } from '../report/workflow-commands.js';
import { makeWorkspace, runCli } from './run.js';

const BEFORE = 'pairs/requires-grad-leak/before.safetensors';
/** The values of before in another file. */
const SAME = 'pairs/requires-grad-leak/before.pt';
const LEAK = ['diff', BEFORE, 'pairs/requires-grad-leak/after.safetensors'];
const LOCKED = ['diff', 'pairs/locked/before.safetensors', 'pairs/locked/after.safetensors'];

/** Runs as in a step of a job, whose summary is a file that may hold something already. */
async function runInJob(args: readonly string[], { written = '', env = {}, cwd = '.' } = {}) {
  const workspace = makeWorkspace({ 'summary.md': written });
  mkdirSync(join(workspace, 'models'));
  const summary = join(workspace, 'summary.md');
  const job = { GITHUB_ACTIONS: 'true', GITHUB_STEP_SUMMARY: summary, GITHUB_WORKSPACE: workspace, ...env };
  const result = await runCli(args, join(workspace, cwd), { env: job });
  return {
    ...result,
    annotations: parseWorkflowCommands(result.stderr),
    summary: readFileSync(summary, 'utf8'),
  };
}

describe('under GitHub Actions', () => {
  test('findings are annotated and the summary holds the report, by themselves', async () => {
    const { stdout, annotations, summary, exitCode } = await runInJob(LEAK);
    expect(exitCode).toBe(1);
    expect(stdout).toContain('✖ DRIFTED');
    expect(annotations).toHaveLength(1);
    expect(annotations[0]).toMatchObject({
      name: 'error',
      properties: { file: 'pairs/requires-grad-leak/after.safetensors' },
    });
    expect(summary).toMatch(/^### ❌ Drifted: /);
  });

  test('a clean audit has a summary and no annotation', async () => {
    const { annotations, summary, exitCode } = await runInJob(LOCKED);
    expect([annotations, exitCode]).toEqual([[], 0]);
    expect(summary).toMatch(/^### ✅ /);
  });

  test.each(['json', 'sarif', 'gitlab'])('standard output stays %s', async (format) => {
    const { stdout, annotations } = await runInJob([...LEAK, '--format', format]);
    expect(() => JSON.parse(stdout)).not.toThrow();
    expect(annotations).toHaveLength(1);
  });

  test('annotations appear once where they are the report itself', async () => {
    const { stdout, annotations } = await runInJob([...LEAK, '--format', 'github']);
    expect([parseWorkflowCommands(stdout).length, annotations.length]).toEqual([1, 0]);
  });

  test('--quiet prints nothing, annotations included, and the summary is written all the same', async () => {
    const { stdout, stderr, summary, exitCode } = await runInJob([...LEAK, '-q']);
    expect({ stdout, stderr, exitCode }).toEqual({ stdout: '', stderr: '', exitCode: 1 });
    expect(summary).toMatch(/^### ❌ Drifted: /);
  });

  test('--quiet says what could not be audited in one line, without an annotation', async () => {
    const { stdout, stderr, summary } = await runInJob(['diff', 'gone.pt', BEFORE, '-qf', 'json']);
    expect({ stdout, stderr }).toEqual({ stdout: '', stderr: 'bn-audit: gone.pt: no such file\n' });
    expect(summary).toMatch(/^### ❌ Failed/);
  });

  test('--no-ci switches both off', async () => {
    const { stderr, summary, exitCode } = await runInJob([...LEAK, '--no-ci']);
    expect({ stderr, summary, exitCode }).toEqual({ stderr: '', summary: '', exitCode: 1 });
  });

  test('what could not be audited is an annotation and a summary too', async () => {
    const { annotations, summary, exitCode } = await runInJob(['diff', 'gone.pt', BEFORE]);
    expect(exitCode).toBe(2);
    expect(annotations).toEqual([
      {
        name: 'error',
        properties: { title: 'bn-audit could not do its work' },
        message: 'gone.pt: no such file',
      },
    ]);
    expect(summary).toBe('### ❌ Failed\n\n`gone.pt: no such file`\n');
    const silent = await runInJob(['diff', 'gone.pt', BEFORE, '--no-ci']);
    expect([silent.annotations, silent.summary]).toEqual([[], '']);
  });

  test('several checkpoints share one set of annotations and one summary', async () => {
    const { annotations, summary } = await runInJob([...LEAK, 'gone.pt', SAME]);
    expect(annotations).toHaveLength(2);
    expect(annotations[0]?.properties['file']).toBe('gone.pt');
    expect(summary).toMatch(/^### ❌ 1 of 3 checkpoints drifted, 1 failed: it could not be audited\./);
  });

  test('files are named from the root of the checkout', async () => {
    const { annotations } = await runInJob(
      ['diff', `../${BEFORE}`, '../pairs/requires-grad-leak/after.safetensors'],
      { cwd: 'models' },
    );
    expect(annotations[0]?.properties['file']).toBe('pairs/requires-grad-leak/after.safetensors');
    const several = await runInJob(['diff', `../${BEFORE}`, 'gone.pt', `../${SAME}`], { cwd: 'models' });
    expect(several.annotations.map(({ properties }) => properties['file'])).toEqual(['models/gone.pt']);
  });

  test('inspect is announced as well', async () => {
    const { annotations, summary } = await runInJob(['inspect', 'pairs/nan/after.safetensors']);
    expect(annotations.length).toBeGreaterThan(0);
    expect(summary).toMatch(/^### ❌ /);
  });

  test('the summary is added to what the step wrote before', async () => {
    const { summary } = await runInJob(LOCKED, { written: '# Mine\n' });
    expect(summary).toMatch(/^# Mine\n\n### ✅ /);
  });

  test('the summary stays within 1 MiB: what does not fit is left out, and the exit code stands', async () => {
    const { stderr, summary, exitCode } = await runInJob(LEAK, {
      written: 'x'.repeat(MAX_SUMMARY_BYTES - 100),
    });
    expect(summary.length).toBe(MAX_SUMMARY_BYTES - 100);
    expect(stderr).toContain('bn-audit: the job summary is full: no report was added');
    expect(exitCode).toBe(1);
  });

  test('a summary that cannot be written is said and fails nothing', async () => {
    const { stderr, exitCode } = await runInJob(LOCKED, { env: { GITHUB_STEP_SUMMARY: '/nowhere/at/all' } });
    expect(stderr).toBe('bn-audit: the job summary could not be written: its directory does not exist\n');
    expect(exitCode).toBe(0);
  });

  describe('a summary that names a file which the run reads leaves it as it is', () => {
    const POLICY = '{"frozen": ["gone"]}';
    const FILES = ['before.safetensors', 'after.safetensors', 'bn-audit.config.json', 'broken.json'];
    const READ = 'bn-audit: the job summary could not be written: it is a file that this run reads';

    /** Files to read, and links to one of them. */
    function prepare(linked: string) {
      const workspace = makeWorkspace({ 'bn-audit.config.json': POLICY, 'broken.json': '{' });
      for (const name of FILES.slice(0, 2))
        copyFileSync(join(workspace, 'pairs', 'requires-grad-leak', name), join(workspace, name));
      symlinkSync(linked, join(workspace, 'symbolic'));
      linkSync(join(workspace, linked), join(workspace, 'hard'));
      return workspace;
    }

    const PAIR = ['before.safetensors', 'after.safetensors'];
    test.each([
      ['after', 'after.safetensors', ['diff', ...PAIR]],
      ['one of several', 'after.safetensors', ['diff', ...PAIR, 'gone.pt']],
      ['the policy', 'bn-audit.config.json', ['diff', ...PAIR]],
      ['a policy that is none', 'broken.json', ['diff', ...PAIR, '--config', 'broken.json']],
      ['before, where there is no after', 'before.safetensors', ['diff', 'before.safetensors', 'no*.pt']],
      [
        'before, of two reports in one file',
        'before.safetensors',
        ['diff', ...PAIR, '-o', 'x', '--report', 'json=x'],
      ],
      ['what is inspected', 'after.safetensors', ['inspect', 'after.safetensors']],
      ['what is restored in vain', 'after.safetensors', ['restore', ...PAIR, '-o', 'before.safetensors/x']],
      [
        'what no baseline is made of',
        'before.safetensors',
        ['baseline', 'before.safetensors', '-o', 'after.safetensors/x'],
      ],
    ])('%s', async (_, name, args) => {
      const workspace = prepare(name);
      const read = () => FILES.map((file) => readFileSync(join(workspace, file)).toString('base64'));
      const files = read();
      for (const summary of [name, 'symbolic', 'hard']) {
        const env = { GITHUB_ACTIONS: 'true', GITHUB_STEP_SUMMARY: join(workspace, summary) };
        const { stderr } = await runCli(args, workspace, { env });
        expect(stderr.split('\n').filter((line) => line === READ)).toHaveLength(1);
        expect(read()).toEqual(files);
      }
    });

    test('and makes none that was missing', async () => {
      const workspace = makeWorkspace();
      const env = { GITHUB_ACTIONS: 'true', GITHUB_STEP_SUMMARY: 'gone.pt' };
      const { stderr } = await runCli(['diff', BEFORE, 'gone.pt'], workspace, { env });
      expect(stderr).toContain(READ);
      expect(existsSync(join(workspace, 'gone.pt'))).toBe(false);
    });
  });

  test('a summary that is no regular file is said and waited for by nothing', async () => {
    const pipe = join(makeWorkspace(), 'pipe');
    execFileSync('mkfifo', [pipe]);
    for (const [path, why] of [
      [pipe, 'it is a socket, or a pipe or device with nothing at its other end'],
      ['/dev/null', 'it is no regular file'],
      ['pairs', 'it is a directory'],
    ] as const) {
      const { stderr, exitCode } = await runInJob(LOCKED, { env: { GITHUB_STEP_SUMMARY: path } });
      expect(stderr).toBe(`bn-audit: the job summary could not be written: ${why}\n`);
      expect(exitCode).toBe(0);
    }
  });

  test.each(['', 'false', '1', 'TRUE'])('GITHUB_ACTIONS=%s is no runner', async (value) => {
    const { stderr, summary } = await runInJob(LEAK, { env: { GITHUB_ACTIONS: value } });
    expect([stderr, summary]).toEqual(['', '']);
  });

  test('a hostile file name is no command', async () => {
    const name = '##[error]x ::error::y.pt';
    const workspace = makeWorkspace();
    writeFileSync(join(workspace, name), 'junk');
    for (const args of [
      ['diff', name, name],
      ['diff', BEFORE, name, SAME],
    ]) {
      const { stdout, stderr } = await runCli(args, workspace, { env: { GITHUB_ACTIONS: 'true' } });
      const commands = parseWorkflowCommands(`${stdout}\n${stderr}`);
      expect(commands.map(({ properties }) => properties['title'])).toHaveLength(1);
    }
  });
});
