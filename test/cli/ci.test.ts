import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { makeWorkspace, run } from './run.js';
import { runScript } from './shell.js';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

/** A repository as the pages of docs/ci have it: a baseline, fine-tuned checkpoints that drifted, a policy. */
function makeRepository(): string {
  const policy = { pairs: { tuned: { before: 'models/backbone.bn.safetensors', after: 'models/tuned.pt' } } };
  const workspace = makeWorkspace({ 'bn-audit.config.json': JSON.stringify(policy) });
  mkdirSync(join(workspace, 'models'));
  const copy = (from: string, ...names: readonly string[]) => {
    for (const name of names)
      copyFileSync(join(workspace, 'pairs/requires-grad-leak', from), join(workspace, name));
  };
  copy('before.pt', 'before.pt', 'models/backbone.pt');
  copy('after.pt', 'models/tuned.pt', 'models/tuned-a.pt', 'models/tuned-b.pt');
  return workspace;
}

/** Commands that a page's blocks show, on through the lines that a folded YAML string joins. */
function listCommands(page: string): readonly string[] {
  const commands = /^ {4}.*?((?:npx --(?:yes|no-install) )?bn-audit diff [^`\n]*(?:\n +--[^\n]*)*)/gm;
  return [...page.matchAll(commands)].map(([, command = '']) => command.replace(/\s+/g, ' ').trim());
}

/** The command that a page starts with: it makes the baseline that all others compare with. */
function findBaselineCommand(page: string): string {
  return /npx bn-audit baseline .*/.exec(page)?.[0] ?? '';
}

describe.each(['github-actions', 'gitlab', 'azure', 'pre-commit'])('docs/ci/%s.md', (name) => {
  const page = read(`docs/ci/${name}.md`);
  const baselineCommand = findBaselineCommand(page);

  test.each(listCommands(page))('shows a command that runs, and finds the drift: %s', async (command) => {
    const script = [baselineCommand, command].join('\n');
    const { exitCode, stderr, stdout } = await runScript(script, { cwd: makeRepository() });
    expect([exitCode, stderr.includes('could not')], stdout + stderr).toEqual([1, false]);
  });

  test('shows no option that the command line does not have', async () => {
    const { stdout } = await runScript('bn-audit diff --help; bn-audit init --help', {
      cwd: makeRepository(),
    });
    const options = [...page.matchAll(/bn-audit (?:diff|init)[^`]*?(?=`|\n\n)/g)].flatMap(
      ([text]) => text.match(/ --[a-z-]+/g) ?? [],
    );
    for (const option of options) expect(stdout).toContain(option.trim());
  });
});

describe('the workflows that docs/ci/github-actions.md shows', async () => {
  const folder = makeWorkspace();
  const extract = fileURLToPath(new URL('../../.ci/extract-workflows.js', import.meta.url));
  const { exitCode } = await run(process.execPath, [extract, join(folder, 'workflows')], folder);
  const names = exitCode === 0 ? readdirSync(join(folder, 'workflows')).sort() : [];
  const workflows = names.map((name) => readFileSync(join(folder, 'workflows', name), 'utf8'));

  test('are all found', () => {
    const actions = read('docs/ci/github-actions.md').match(/uses: /g) ?? [];
    expect(workflows.length).toBeGreaterThan(5);
    expect(workflows.join('').match(/uses: /g)).toHaveLength(actions.length);
  });

  test.each(workflows.flatMap((workflow) => workflow.match(/uses: .*/g) ?? []))(
    'name an action by its commit, and the version beside it: %s',
    (line) => {
      const isOurs = /^uses: [\w.-]+\/bn-audit@v/.test(line);
      expect(isOurs || /^uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/.test(line)).toBe(true);
    },
  );

  test.each(workflows)('may do no more than they must, and leave no token behind (%#)', (workflow) => {
    expect(workflow).toMatch(/^permissions: \{\}$/m);
    expect(workflow).toMatch(/^ {4}permissions:\n {6}(?:contents|actions): read # /m);
    const checkouts = workflow.match(/uses: actions\/checkout@/g) ?? [];
    expect(workflow.match(/persist-credentials: false/g) ?? []).toHaveLength(checkouts.length);
  });
});

describe('the comment on a pull request', () => {
  const page = read('docs/ci/github-actions.md');
  const [, block = ''] =
    / - run: \|\n((?: {14}.*\n)+?) {12}env:\n {14}GH_TOKEN.*\n {14}GH_REPO/.exec(page) ?? [];
  const script = block.replace(/^ {14}/gm, '');

  /** What `gh` is asked for, where a pull request has the commit `abc` and some comments. */
  async function comment(
    comments: string,
    { sha = 'abc', report = 'drift' } = {},
  ): Promise<readonly string[]> {
    const cwd = makeWorkspace();
    mkdirSync(join(cwd, 'bin'));
    writeFileSync(join(cwd, 'report.txt'), report);
    writeFileSync(
      join(cwd, 'bin', 'gh'),
      `#!/bin/bash
printf '%s\\n' "$*" | head -n 1 >> "$CALLS"
case "$*" in
  'run download'*) mkdir -p "$RUNNER_TEMP/report"; cp report.txt "$RUNNER_TEMP/report/bn-audit.md" ;;
  *pulls*) if [ "$SHA" = abc ]; then echo 7; fi ;;
  *issues/7/comments*) printf '%s' '${comments}' ;;
esac
`,
      { mode: 0o755 },
    );
    const env = {
      PATH: `${join(cwd, 'bin')}:${process.env['PATH'] ?? ''}`,
      CALLS: join(cwd, 'calls.log'),
      RUNNER_TEMP: cwd,
      GH_REPO: 'o/r',
      RUN: '1',
      SHA: sha,
      HEAD: 'o:b',
    };
    const { exitCode, stderr } = await runScript(script, { cwd, env });
    expect(exitCode, stderr).toBe(0);
    if (sha === 'abc')
      expect(readFileSync(join(cwd, 'comment.md'), 'utf8')).toMatch(/^<!-- bn-audit -->\ndrift/);
    return readFileSync(join(cwd, 'calls.log'), 'utf8').trimEnd().split('\n');
  }

  test('is written where there is none', async () => {
    expect((await comment('')).at(-1)).toMatch(/^pr comment 7 --body-file /);
  });

  test('is written anew where there is one', async () => {
    expect((await comment('42\n')).at(-1)).toMatch(
      /^api --silent --method PATCH repos\/o\/r\/issues\/comments\/42 /,
    );
  });

  test('is left to the next run where the pull request has moved on', async () => {
    expect((await comment('', { sha: 'def' })).at(-1)).toContain('pulls');
  });

  test('is no longer than GitHub takes', async () => {
    expect(await comment('', { report: 'drift '.repeat(50_000) })).not.toEqual([]);
  });
});

test('the GitLab job leaves the reports that it names as artifacts', async () => {
  const page = read('docs/ci/gitlab.md');
  const cwd = makeRepository();
  await runScript([findBaselineCommand(page), listCommands(page)[0]].join('\n'), { cwd });
  const artifacts = [
    ...new Set(
      [...page.matchAll(/(?:codequality|junit): (\S+)|- (bn-audit\.html)/g)].map(([, a, b]) => a ?? b ?? ''),
    ),
  ];
  expect(artifacts).toHaveLength(3);
  for (const artifact of artifacts) expect(readFileSync(join(cwd, artifact), 'utf8')).not.toBe('');
  expect(JSON.parse(readFileSync(join(cwd, 'gl-code-quality-report.json'), 'utf8'))).toHaveLength(1);
});

describe('pre-commit/.pre-commit-hooks.yaml', () => {
  const hooks = read('pre-commit/.pre-commit-hooks.yaml');
  const readKey = (key: string) => new RegExp(`^[ -] ${key}: (.*)$`, 'm').exec(hooks)?.[1] ?? '';

  test('defines the hook, without file names and in one process', () => {
    expect([
      readKey('id'),
      readKey('language'),
      readKey('pass_filenames'),
      readKey('require_serial'),
    ]).toEqual(['bn-audit', 'node', 'false', 'true']);
  });

  const makeBaseline = findBaselineCommand(read('docs/ci/pre-commit.md'));
  const hookCommand = (args: string) =>
    [makeBaseline, [readKey('entry'), ...args.replace(/^\[|\]$/g, '').split(', ')].join(' ')].join('\n');

  test('runs every pair of the policy unless it is told otherwise', async () => {
    const { exitCode } = await runScript(hookCommand(readKey('args')), { cwd: makeRepository() });
    expect(exitCode).toBe(1);
  });

  test.each([...read('docs/ci/pre-commit.md').matchAll(/args: (\[.*\])/g)].map(([, args = '']) => args))(
    'runs with the arguments that its page shows: %s',
    async (args) => {
      const { exitCode } = await runScript(hookCommand(args), { cwd: makeRepository() });
      expect(exitCode).toBe(1);
    },
  );

  test.each<readonly [file: string, isChecked: boolean]>([
    ['models/tuned.pt', true],
    ['a.onnx', true],
    ['model.safetensors', true],
    ['models/tuned.pt.dvc', true],
    ['dvc.lock', true],
    ['sub/dvc.lock', true],
    ['bn-audit.config.json', true],
    ['train.py', false],
    ['receipt', false],
    ['my-bn-audit.config.json', false],
  ])('is run for %s: %s', (file, isChecked) => {
    expect(new RegExp(readKey('files')).test(file)).toBe(isChecked);
  });
});

test('test/pull-request.sh: drift fails a pull request, a locked backbone passes, a missing baseline is no pass', async () => {
  const script = fileURLToPath(new URL('../pull-request.sh', import.meta.url));
  const { stdout, stderr, exitCode } = await run('bash', [script], makeWorkspace());
  expect(exitCode, stdout + stderr).toBe(0);
  expect(stdout).toMatch(/ok\n$/);
});
