import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { VERSION } from '../../src/version.js';
import { parseWorkflowCommands } from '../report/workflow-commands.js';
import { FIXTURE_GROUPS, makeWorkspace } from './run.js';
import { runScript } from './shell.js';

const action = readFileSync(new URL('../../action.yml', import.meta.url), 'utf8');

/** The script of the action's step, as the runner gets it. */
const script = (/\n( +)run: \|\n([\s\S]*)$/.exec(action)?.[2] ?? '').replace(/^ {8}/gm, '');

/** Which input each variable of the step holds. */
const variables = new Map(
  [...action.matchAll(/^ +(INPUT_\w+): \$\{\{ inputs\.([\w-]+) \}\}$/gm)].map(([, name = '', input = '']) => [
    input,
    name,
  ]),
);

const inputs = [
  ...(/^inputs:\n([\s\S]*?)^outputs:/m.exec(action)?.[1] ?? '').matchAll(
    /^ {2}([\w-]+):\n.*\n {4}default: (.*)$/gm,
  ),
].map(([, name = '', value = '']) => [name, value === '""' ? '' : value] as const);

const LEAK = {
  before: 'pairs/requires-grad-leak/before.safetensors',
  after: 'pairs/requires-grad-leak/after.safetensors',
};

/** Runs the action's step with inputs, and reads what it leaves for the runner. */
async function runAction(
  given: Readonly<Record<string, string>>,
  files: Readonly<Record<string, string>> = {},
) {
  const workspace = makeWorkspace({ 'output.txt': '', 'summary.md': '', ...files });
  mkdirSync(join(workspace, 'temp'));
  const values = { ...Object.fromEntries(inputs), ...given };
  const env = Object.fromEntries(
    Object.entries(values).flatMap(([input, value]) => {
      const name = variables.get(input);
      return name === undefined ? [] : [[name, value]];
    }),
  );
  const result = await runScript(script, {
    cwd: workspace,
    env: {
      ...env,
      GITHUB_ACTIONS: 'true',
      GITHUB_WORKSPACE: workspace,
      GITHUB_STEP_SUMMARY: join(workspace, 'summary.md'),
      GITHUB_OUTPUT: join(workspace, 'output.txt'),
      RUNNER_TEMP: join(workspace, 'temp'),
    },
  });
  const read = (name: string) => readFileSync(join(workspace, name), 'utf8');
  const outputs = Object.fromEntries(
    read('output.txt')
      .trimEnd()
      .split('\n')
      .map((line) => line.split(/=(.*)/s).slice(0, 2)),
  );
  return {
    ...result,
    workspace,
    outputs,
    summary: read('summary.md'),
    calls: read('calls.txt').trimEnd().split('\n'),
  };
}

describe('action.yml', () => {
  test('has a script, and reads every input through a variable', () => {
    expect(script).toContain('npx --yes');
    expect(script).not.toContain('${{');
    expect(inputs.map(([name]) => name).sort()).toEqual([...variables.keys(), 'working-directory'].sort());
  });

  test('runs the version of the package that it is released with', () => {
    expect(Object.fromEntries(inputs)['version']).toBe(VERSION);
  });

  test('on drift: exit code 1, annotations, summary, verdict and report', async () => {
    const { exitCode, outputs, stderr, summary, calls } = await runAction({ ...LEAK, frozen: 'backbone' });
    expect(exitCode).toBe(1);
    expect(outputs['verdict']).toBe('drifted');
    expect(JSON.parse(readFileSync(outputs['report'] ?? '', 'utf8')).verdict).toBe('drifted');
    expect(parseWorkflowCommands(stderr)).toHaveLength(8);
    expect(summary).toMatch(/^### ❌ Drifted/);
    expect(calls.slice(0, 3)).toEqual(['--yes', `bn-audit@${VERSION}`, 'diff']);
  });

  test('on a clean audit: exit code 0', async () => {
    const locked = { before: 'pairs/locked/before.safetensors', after: 'pairs/locked/after.safetensors' };
    const { exitCode, outputs, summary } = await runAction(locked);
    expect([exitCode, outputs['verdict']]).toEqual([0, 'clean']);
    expect(summary).toMatch(/^### ✅/);
  });

  test('when the baseline is missing: exit code 2, verdict failed, no report', async () => {
    const { exitCode, outputs, stderr } = await runAction({ ...LEAK, before: 'gone.bn.safetensors' });
    expect([exitCode, outputs]).toEqual([2, { verdict: 'failed', report: '' }]);
    expect(parseWorkflowCommands(stderr)[0]?.message).toBe('gone.bn.safetensors: no such file');
  });

  test('when one of several cannot be audited: exit code 2, verdict failed, and a report of the others', async () => {
    const { exitCode, outputs } = await runAction({
      ...LEAK,
      after: `${LEAK.after}\n  gone.pt  \n\npairs/requires-grad-leak/before.pt\n`,
    });
    expect([exitCode, outputs['verdict']]).toEqual([2, 'failed']);
    expect(JSON.parse(readFileSync(outputs['report'] ?? '', 'utf8')).reports).toHaveLength(2);
  });

  test('passes every input on', async () => {
    const { calls, exitCode } = await runAction(
      {
        ...LEAK,
        frozen: 'backbone\r\n\nhead\n',
        allow: 'backbone',
        'fail-on': 'warning',
        'min-shift': '0.5',
        epsilon: '0.001',
        map: 'a=b\nc=d',
        config: 'ci.json',
        args: '--report=html=my audit.html\n--all',
        version: '9.9.9',
      },
      { 'ci.json': '{}' },
    );
    expect(calls).toEqual([
      '--yes',
      'bn-audit@9.9.9',
      'diff',
      expect.stringMatching(/^--report=json=.*\.json$/),
      '--frozen=backbone',
      '--frozen=head',
      '--allow=backbone',
      '--fail-on=warning',
      '--min-shift=0.5',
      '--epsilon=0.001',
      '--map=a=b',
      '--map=c=d',
      '--config=ci.json',
      '--report=html=my audit.html',
      '--all',
      '--',
      LEAK.before,
      LEAK.after,
    ]);
    expect(exitCode).toBe(1);
  });

  test('takes pairs of the policy file instead of paths', async () => {
    const policy = JSON.stringify({ pairs: { leak: LEAK } });
    const { exitCode, outputs } = await runAction({ pair: 'leak' }, { 'bn-audit.config.json': policy });
    expect([exitCode, outputs['verdict']]).toEqual([1, 'drifted']);
  });

  test.each([{}, { before: LEAK.before }, { after: `${LEAK.after}\n${LEAK.before}` }])(
    'with %j alone there is no audit, and no pass',
    async (given) => {
      const { exitCode, outputs } = await runAction(given);
      expect([exitCode, outputs['verdict']]).toEqual([2, 'failed']);
    },
  );

  test.each([
    'x"; touch pwned; \'; touch pwned; $(touch pwned) `touch pwned`\ntouch pwned',
    '--output=pwned',
    '*',
  ])('reads no input as shell or as an option: %j', async (hostile) => {
    const isArgument = (input: string) => input !== 'args' && input !== 'working-directory';
    const runs = [...variables.keys()].filter(isArgument).map(async (input) => {
      const { workspace, exitCode } = await runAction({ ...LEAK, [input]: hostile });
      // Everything allowed is no drift; what matters is that no file name took the place of the asterisk.
      if (hostile !== '*') expect(exitCode, input).not.toBe(0);
      expect(readdirSync(workspace).sort(), input).toEqual(
        ['.bin', 'calls.txt', 'output.txt', 'summary.md', 'temp', ...FIXTURE_GROUPS].sort(),
      );
    });
    await Promise.all(runs);
  });
});
