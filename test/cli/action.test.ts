import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { makeTempDirectory } from '../build/sources.js';
import { parseWorkflowCommands } from '../report/workflow-commands.js';
import { BIN, FIXTURE_GROUPS, makeWorkspace, type Run } from './run.js';
import { runScript } from './shell.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const action = readFileSync(join(root, 'action.yml'), 'utf8');

/** The script of the action's step, as the runner gets it. */
const script = /\n {6}run: (.*)\n$/.exec(action)?.[1] ?? '';

/** Variables that the step sets itself, whatever inputs it is given. */
const OWN_VARIABLES = Object.fromEntries(
  [...action.matchAll(/^ {8}(\w+): ""$/gm)].map(([, name = '']) => [name, '']),
);

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

/**
 * A folder of the action whose bn-audit writes to `calls.txt` of the working directory what it was called with, and then
 * does it, or only ends with exit code 2.
 */
function makeActionFolder({ isBuilt, isStub = false }: { isBuilt: boolean; isStub?: boolean }): string {
  const folder = makeTempDirectory();
  for (const name of ['bin', ...(isBuilt ? ['dist'] : [])]) mkdirSync(join(folder, name));
  copyFileSync(join(root, 'action.sh'), join(folder, 'action.sh'));
  writeFileSync(
    join(folder, 'bin', 'bn-audit.js'),
    `require('node:fs').appendFileSync('calls.txt', process.argv.slice(2).join('\\n') + '\\n');
${isStub ? 'process.exitCode = 2' : `require(${JSON.stringify(BIN)})`};`,
  );
  return folder;
}

/** Puts a program into a folder: a line of shell. */
function writeProgram(folder: string, name: string, line: string): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, name), `#!/bin/sh\n${line}\n`);
  chmodSync(join(folder, name), 0o755);
}

/** What the action's step leaves for the runner. */
interface ActionRun extends Run {
  readonly workspace: string;
  readonly outputs: Readonly<Record<string, string>>;
  readonly summary: string;
  /** What bn-audit was called with. */
  readonly calls: readonly string[];
}

/** Where the step runs, and what surrounds it. */
interface Surroundings {
  readonly workspace?: string;
  readonly folder?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs the action's step with inputs. */
async function runAction(
  given: Readonly<Record<string, string>>,
  files: Readonly<Record<string, string>> = {},
  {
    workspace = makeWorkspace(),
    folder = makeActionFolder({ isBuilt: true }),
    env: around = {},
  }: Surroundings = {},
): Promise<ActionRun> {
  for (const [name, content] of Object.entries({ 'output.txt': '', 'summary.md': '', ...files }))
    writeFileSync(join(workspace, name), content);
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
      ...around,
      ...OWN_VARIABLES,
      ...env,
      GITHUB_ACTIONS: 'true',
      GITHUB_ACTION_PATH: folder,
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
    calls: existsSync(join(workspace, 'calls.txt')) ? read('calls.txt').trimEnd().split('\n') : [],
  };
}

describe('action.yml', () => {
  test('reads every input through a variable', () => {
    expect(script).toBe('POSIXLY_CORRECT=y; source "$GITHUB_ACTION_PATH/action.sh"');
    for (const name of variables.values())
      expect(readFileSync(join(root, 'action.sh'), 'utf8')).toContain(`$${name}`);
    expect(inputs.map(([name]) => name).sort()).toEqual([...variables.keys(), 'working-directory'].sort());
  });

  test('on drift: exit code 1, annotations, summary, verdict and report', async () => {
    const { exitCode, outputs, stderr, summary, calls } = await runAction({ ...LEAK, frozen: 'backbone' });
    expect(exitCode).toBe(1);
    expect(outputs['verdict']).toBe('drifted');
    expect(JSON.parse(readFileSync(outputs['report'] ?? '', 'utf8')).verdict).toBe('drifted');
    expect(parseWorkflowCommands(stderr)).toHaveLength(1);
    expect(summary).toMatch(/^### ❌ Drifted/);
    expect(calls[0]).toBe('diff');
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

  test('traces a run that the policy names, or after as the checkpoints of one', async () => {
    const workspace = makeWorkspace({
      'bn-audit.config.json': JSON.stringify({
        runs: { leak: { before: LEAK.before, checkpoints: LEAK.after } },
      }),
    });
    const named = await runAction({ run: 'leak' }, {}, { workspace });
    expect(named.calls).toEqual(['trace', expect.stringMatching(/^--report=json=/), '--run=leak']);
    expect([named.exitCode, named.outputs['verdict']]).toEqual([1, 'drifted']);
    const given = await runAction({ ...LEAK, command: 'trace' });
    expect(given.calls.slice(0, 1)).toEqual(['trace']);
    expect(JSON.parse(readFileSync(given.outputs['report'] ?? '', 'utf8')).checkpoints).toHaveLength(1);
  });

  test('runs no other command', async () => {
    const { calls, exitCode, outputs, stderr } = await runAction({ ...LEAK, command: 'restore' });
    expect([calls, exitCode, outputs['verdict']]).toEqual([[], 2, 'failed']);
    expect(stderr).toContain('bn-audit: command: expected diff or trace');
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
      },
      { 'ci.json': '{}' },
    );
    expect(calls).toEqual([
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
    const folder = makeActionFolder({ isBuilt: true, isStub: true });
    const runs = [...variables.keys()].filter(isArgument).map(async (input) => {
      const { workspace, exitCode, calls } = await runAction({ ...LEAK, [input]: hostile }, {}, { folder });
      expect(exitCode, input).toBe(2);
      // No file name took the place of the asterisk.
      if (hostile === '*' && input !== 'command') expect(calls.join(' '), input).toContain('*');
      expect(readdirSync(workspace).sort(), input).toEqual(
        [
          '.bin',
          // No other command is ever called.
          ...(input === 'command' ? [] : ['calls.txt']),
          ...['output.txt', 'summary.md', 'temp', ...FIXTURE_GROUPS],
        ].sort(),
      );
    });
    await Promise.all(runs);
  });

  test.each(['--help', '--version'])('with args: %s there is no audit, and no pass', async (args) => {
    const { exitCode, outputs, stderr } = await runAction({ ...LEAK, args });
    expect([exitCode, outputs]).toEqual([2, { verdict: 'failed', report: '' }]);
    expect(stderr).toMatch(/^bn-audit: expected an audit and its report, found none: [^\n]*\n$/);
  });

  describe('runs nothing of the checkout', () => {
    const PWNED = 'echo pwned > pwned.txt';
    const runIn = (workspace: string, env: Readonly<Record<string, string>> = {}) =>
      runAction(LEAK, {}, { workspace, env: { PATH: process.env['PATH'] ?? '', ...env } });

    test.each(['node', 'npm', 'npx', 'mktemp', 'bn-audit'])('no %s that PATH leads to', async (name) => {
      const workspace = makeWorkspace();
      writeProgram(join(workspace, 'node_modules', '.bin'), name, PWNED);
      const leading = [join(workspace, 'node_modules', '.bin'), 'node_modules/.bin', '', process.env['PATH']];
      const { exitCode } = await runIn(workspace, { PATH: leading.join(delimiter) });
      expect([exitCode, existsSync(join(workspace, 'pwned.txt'))]).toEqual([1, false]);
    });

    test.each([
      ['is a link into it', (target: string, link: string) => symlinkSync(target, link)],
      [
        'is a link to a link into it',
        (target: string, link: string) => {
          symlinkSync(target, `${link}-1`);
          symlinkSync('node-1', link);
        },
      ],
    ])('no node that %s', async (_, makeLink) => {
      const workspace = makeWorkspace();
      const tools = makeTempDirectory();
      writeProgram(workspace, 'tool', PWNED);
      makeLink(join(workspace, 'tool'), join(tools, 'node'));
      const { exitCode } = await runIn(workspace, { PATH: [tools, process.env['PATH']].join(delimiter) });
      expect([exitCode, existsSync(join(workspace, 'pwned.txt'))]).toEqual([1, false]);
    });

    test('no node that a program outside chooses in it', async () => {
      const workspace = makeWorkspace();
      const tools = makeTempDirectory();
      writeProgram(workspace, 'tool', PWNED);
      writeProgram(tools, 'node', `echo '${join(workspace, 'tool')}'`);
      const PATH = [tools, process.env['PATH']].join(delimiter);
      const { exitCode, stderr } = await runIn(workspace, { PATH });
      expect([exitCode, existsSync(join(workspace, 'pwned.txt'))]).toEqual([2, false]);
      expect(stderr).toMatch(
        /^bn-audit: expected Node 20 or newer on PATH, outside the checkout, found none/,
      );
    });

    test('and says what it needs where PATH leads nowhere else', async () => {
      const workspace = makeWorkspace();
      writeProgram(workspace, 'node', PWNED);
      // What starts the step finds bash here, and nothing that the step could use.
      const tools = makeTempDirectory();
      symlinkSync('/bin/bash', join(tools, 'bash'));
      symlinkSync(join(workspace, 'node'), join(tools, 'node'));
      const { outputs, exitCode, stderr } = await runIn(workspace, { PATH: tools });
      expect([exitCode, outputs]).toEqual([2, { verdict: 'failed', report: '' }]);
      expect(stderr).toMatch(/^bn-audit: expected Node 20 or newer on PATH, outside the checkout, [^\n]*\n$/);
      expect(existsSync(join(workspace, 'pwned.txt'))).toBe(false);
    });

    test('no function that a step before exported', async () => {
      const names = ['source', 'set', 'unset', 'compgen', 'builtin', 'command', 'cd', 'pwd', 'read', 'local'];
      names.push('echo', 'printf', 'exit', 'return', 'continue', '[', 'type', 'node', 'mktemp', 'rm');
      const functions = names.map((name) => [`BASH_FUNC_${name}%%`, `() { ${PWNED}; }`]);
      const workspace = makeWorkspace();
      const { exitCode } = await runIn(workspace, Object.fromEntries(functions));
      expect([exitCode, existsSync(join(workspace, 'pwned.txt'))]).toEqual([1, false]);
    });

    test('and has node write no coverage', async () => {
      const workspace = makeWorkspace();
      const coverage = join(workspace, 'coverage');
      const { exitCode } = await runIn(workspace, { NODE_V8_COVERAGE: coverage });
      expect([exitCode, existsSync(coverage)]).toEqual([1, false]);
    });

    test.each(['BASH_ENV', 'NODE_OPTIONS'])('no file that %s names', async (variable) => {
      const workspace = makeWorkspace();
      writeFileSync(join(workspace, 'x.sh'), PWNED);
      writeFileSync(join(workspace, 'x.cjs'), "require('node:fs').writeFileSync('pwned.txt', '');");
      const value = variable === 'BASH_ENV' ? './x.sh' : '--require ./x.cjs';
      const { exitCode } = await runIn(workspace, { [variable]: value });
      expect([exitCode, existsSync(join(workspace, 'pwned.txt'))]).toEqual([1, false]);
    });

    test('no package of its name', async () => {
      const workspace = makeWorkspace();
      const place = join(workspace, 'node_modules', 'bn-audit');
      mkdirSync(place, { recursive: true });
      for (const folder of [workspace, place]) {
        writeFileSync(join(folder, 'package.json'), '{"name": "bn-audit", "bin": "x.js"}');
        writeFileSync(join(folder, 'x.js'), "require('node:fs').writeFileSync('pwned.txt', '');");
      }
      const { exitCode } = await runIn(workspace);
      expect([exitCode, existsSync(join(workspace, 'pwned.txt'))]).toEqual([1, false]);
    });
  });

  describe('builds itself where it comes as sources', () => {
    const build = async (npm: string) => {
      const folder = makeActionFolder({ isBuilt: false });
      writeFileSync(
        join(folder, 'build.js'),
        "require('node:fs').mkdirSync(require('node:path').join(__dirname, 'dist'));",
      );
      const tools = makeTempDirectory();
      writeProgram(tools, 'npm', npm);
      writeFileSync(join(folder, '.npmrc'), '');
      const PATH = [tools, dirname(process.execPath), process.env['PATH']].join(delimiter);
      const options = { workspace: makeWorkspace({ '.npmrc': 'registry=nowhere' }), folder, env: { PATH } };
      return { folder, options, result: await runAction(LEAK, {}, options) };
    };

    test('in its own folder, from its lockfile, without scripts of packages, once', async () => {
      const { folder, options, result } = await build('pwd >> npm.txt; echo "$@" >> npm.txt');
      expect([result.exitCode, result.outputs['verdict']]).toEqual([1, 'drifted']);
      const npm = readFileSync(join(folder, 'npm.txt'), 'utf8');
      expect(npm).toBe(
        `${folder}\nci --ignore-scripts --no-workspaces --no-audit --no-fund --loglevel=error\n`,
      );
      const again = await runAction(LEAK, {}, { ...options, workspace: makeWorkspace() });
      expect(again.exitCode).toBe(1);
      expect(readFileSync(join(folder, 'npm.txt'), 'utf8')).toBe(npm);
    });

    test('and fails where it cannot', async () => {
      const { folder, result } = await build('mkdir dist; exit 1');
      expect([result.exitCode, result.outputs]).toEqual([2, { verdict: 'failed', report: '' }]);
      expect(result.stderr).toContain('the action could not be built');
      expect(existsSync(join(folder, 'dist'))).toBe(false);
    });
  });
});
