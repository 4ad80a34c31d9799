import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { BIN, makeWorkspace, run, runCli, startCli } from './run.js';

const workspace = makeWorkspace({
  // Breaks what the report is made with, so that something fails that no one expected.
  'break-json.mjs': `JSON.stringify = () => { throw new TypeError('broken on purpose'); };`,
  'throw-late.mjs': `process.on('newListener', (event) => {
    if (event === 'uncaughtException') setImmediate(() => { throw new Error('thrown late'); });
  });`,
  'reject-late.mjs': `process.on('newListener', (event) => {
    if (event === 'unhandledRejection') setImmediate(() => Promise.reject(new Error('rejected late')));
  });`,
});

const LEAK = [
  'diff',
  'pairs/requires-grad-leak/before.safetensors',
  'pairs/requires-grad-leak/after.safetensors',
];
const LOCKED = ['diff', 'pairs/locked/before.safetensors', 'pairs/locked/after.safetensors'];
const preload = (name: string) => ({ preload: join(workspace, name) });

describe('--output', () => {
  test('writes the report to the file, says so, prints nothing else, and keeps the exit code', async () => {
    const printed = await runCli(LEAK, workspace);
    const written = await runCli([...LEAK, '--output', 'report.txt'], workspace);
    expect(written).toEqual({ stdout: '', stderr: 'bn-audit: wrote "report.txt" (text)\n', exitCode: 1 });
    expect(readFileSync(join(workspace, 'report.txt'), 'utf8')).toBe(printed.stdout);
  });

  test('writes it with --quiet too, and without colours', async () => {
    const env = { FORCE_COLOR: '1' };
    await runCli([...LEAK, '--quiet', '--output', 'quiet.txt'], workspace, { env });
    expect(readFileSync(join(workspace, 'quiet.txt'), 'utf8')).not.toContain('\u001b');
  });

  test('leaves no file behind when the audit cannot be done', async () => {
    const { exitCode } = await runCli(['inspect', 'gone.pt', '--output', 'never.txt'], workspace);
    expect([exitCode, existsSync(join(workspace, 'never.txt'))]).toEqual([2, false]);
  });
});

test.each([
  ['--output', 'reject-late.mjs/report.txt'],
  ['--report', 'json=reject-late.mjs/report.txt'],
])('%s into what is no directory fails before the audit', async (...option) => {
  const { stderr, exitCode } = await runCli(['diff', 'a.pt', 'b.pt', ...option], workspace);
  expect({ stderr, exitCode }).toEqual({
    stderr: `bn-audit: reject-late.mjs/report.txt: the report could not be written: a part of its path is no directory
  Nothing was changed. Give another path.
`,
    exitCode: 2,
  });
});

test.each([
  ['--output', 'made/for/it.txt'],
  ['--report', 'json=made/for/another.txt'],
])('%s makes the directories that are missing', async (option, value) => {
  const { exitCode } = await runCli([...LOCKED, option, value], workspace);
  expect([exitCode, existsSync(join(workspace, value.replace('json=', '')))]).toEqual([0, true]);
});

describe('a complaint about arguments', () => {
  test.each([
    [['diff', 'a', 'b', '--zz\u001b[31m'], "bn-audit: unknown option '--zz\\x1b[31m'"],
    [['diff', 'a', 'b', '--zz\n::error::x'], "bn-audit: unknown option '--zz\\n::error::x'"],
    [['no\nsuch'], "bn-audit: unknown command 'no\\nsuch'"],
    [['help', 'no\u009bsuch'], "bn-audit: unknown command 'no\\x9bsuch'"],
    [['help', 'dif'], "bn-audit: unknown command 'dif' (Did you mean diff?)"],
    [['diff', 'a', 'b', '--frosen', 'x'], "bn-audit: unknown option '--frosen' (Did you mean --frozen?)"],
    [
      ['diff', 'a', 'b', '--epsilon', '1\r\n2'],
      "bn-audit: option '--epsilon <e>' argument '1\\r\\n2' is invalid. It must be a number, zero or larger.",
    ],
    [
      ['inspect', 'a', '-o', '-'],
      "bn-audit: option '-o, --output <file>' argument '-' is invalid. It must name a file: one that is called - is ./-",
    ],
  ])('is one line without control characters, and a way out: %j', async (args, message) => {
    const { stdout, stderr, exitCode } = await runCli(args, workspace);
    expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 });
    expect(stderr.split('\n')).toEqual([message, expect.stringMatching(/^ {2}Run bn-audit /), '']);
  });

  test.each([
    ['baseline', 'a.pt', '-o', '-'],
    ['init', 'a.pt', '-o', '-'],
    ['restore', 'a.pt', 'b.pt', '-o', '-'],
    ['probe', 'a.pt', 'b.onnx', '-o', '-'],
    ['diff', 'a.pt', 'b.pt', '--report', 'json=-'],
  ])('%s: - is no file', async (...args) => {
    const { stderr, exitCode } = await runCli(args, workspace);
    expect([exitCode, existsSync(join(workspace, '-'))]).toEqual([2, false]);
    expect(stderr).toContain('It must name a file: one that is called - is ./-');
  });

  test.each([
    ['restore', 'a.pt', 'b.pt', '-o', 'https://localhost/fixed.pt'],
    ['diff', 'a.pt', 'b.pt', '--report', 'json=hf:a/b'],
  ])('%s: what stands for a model of the network is no file to write', async (...args) => {
    const { stderr, exitCode } = await runCli(args, workspace);
    expect(exitCode).toBe(2);
    expect(stderr).toContain('It must name a file of this machine.');
  });
});

test('help is as wide as COLUMNS says', async () => {
  const { stdout: narrow } = await runCli(['watch', '--help'], workspace, { env: { COLUMNS: '60' } });
  const { stdout: wide } = await runCli(['watch', '--help'], workspace, { env: { COLUMNS: '200' } });
  const options = (text: string) => text.split('\n').filter((line) => /^ {2}-| {20}/.test(line));
  expect(options(narrow).filter((line) => line.length > 60)).toEqual([]);
  expect(options(wide).length).toBeLessThan(options(narrow).length / 1.5);
});

test('help shows the help of a command', async () => {
  const [one, other] = [
    await runCli(['help', 'diff'], workspace),
    await runCli(['diff', '--help'], workspace),
  ];
  expect(one).toEqual(other);
  const { stdout } = await runCli(['--help'], workspace);
  expect((await runCli(['help'], workspace)).stdout).toBe(stdout);
  expect((await runCli(['--help', 'diff'], workspace)).stdout).toBe(stdout);
});

describe('colours', () => {
  const stdoutWith = async (env: Readonly<Record<string, string>>) =>
    (await runCli(LEAK, workspace, { env })).stdout;

  test('are off in a pipe', async () => {
    expect(await stdoutWith({})).not.toContain('\u001b');
  });

  test('FORCE_COLOR turns them on, and the words stay the same', async () => {
    const colored = await stdoutWith({ FORCE_COLOR: '1' });
    expect(colored).toContain('\u001b[');
    expect(colored.replaceAll(/\u001b\[[\d;]*m/g, '')).toBe(await stdoutWith({}));
  });

  test.each([{ FORCE_COLOR: '1', NO_COLOR: '1' }, { FORCE_COLOR: '0' }, { TERM: 'dumb' }])(
    '%j leaves them off',
    async (env) => {
      expect(await stdoutWith(env as unknown as Record<string, string>)).not.toContain('\u001b');
    },
  );
});

describe('standard output', () => {
  const args = [...LOCKED, '--format', 'html'];
  const command = `'${process.execPath}' '${BIN}' ${args.join(' ')}`;

  test('that a slow program reads gets the whole report', async () => {
    const direct = await runCli(args, workspace);
    const { stdout } = await run('bash', ['-c', `${command} | (sleep 0.5; cat)`], workspace);
    expect(stdout).toBe(direct.stdout);
    expect(stdout.length).toBeGreaterThan(64 * 1024);
  });

  test('that is a file which cannot hold the whole report is exit code 2', async () => {
    const script = `trap '' XFSZ; ulimit -f 1; exec ${command} > '${join(makeWorkspace(), 'out.json')}'`;
    expect(await run('bash', ['-c', script], workspace)).toEqual({
      stdout: '',
      stderr: expect.stringMatching(
        /^bn-audit: standard output could not be written: [^\n]+\(ulimit -f\)\n$/,
      ),
      exitCode: 2,
    });
  });
});

describe('a closed pipe', () => {
  // The verdict stands: the reader has seen enough, and scripts still get the exit code.
  const statusOf = async (command: string) => {
    const { stdout, stderr } = await run(
      'bash',
      ['-c', `${command}; echo "status \${PIPESTATUS[0]}"`],
      workspace,
    );
    return { stderr, lines: stdout.trimEnd().split('\n') };
  };

  test('after one line', async () => {
    const { lines, stderr } = await statusOf(`'${process.execPath}' '${BIN}' ${LEAK.join(' ')} | head -1`);
    expect(lines).toEqual(['before  pairs/requires-grad-leak/before.safetensors', 'status 1']);
    expect(stderr).toBe('');
  });

  test('before the first', async () => {
    const { lines, stderr } = await statusOf(
      `'${process.execPath}' '${BIN}' ${LOCKED.join(' ')} --format json --channels | true`,
    );
    expect(lines).toEqual(['status 0']);
    expect(stderr).toBe('');
  });
});

describe('what no one expected', () => {
  test('an internal failure exits with 2 and asks for a report, not with 1, which would mean drift', async () => {
    expect(await startCli([...LOCKED, '--format', 'json'], workspace, preload('break-json.mjs'))).toEqual({
      stdout: '',
      stderr:
        'bn-audit: unexpected failure: broken on purpose\n  This is a defect of bn-audit. Run again with --debug and report what it prints.\n',
      exitCode: 2,
    });
  });

  test.each([
    ['throw-late.mjs', 'thrown late'],
    ['reject-late.mjs', 'rejected late'],
  ])('%s: an error outside of any await exits with 2', async (module, message) => {
    const { stderr, exitCode } = await startCli(LEAK, workspace, preload(module));
    expect(stderr).toContain(`bn-audit: unexpected failure: ${message}\n`);
    expect(exitCode).toBe(2);
  });

  test('--debug adds the stack, on stderr', async () => {
    const { stdout, stderr } = await startCli(
      [...LOCKED, '--format', 'json', '--debug'],
      workspace,
      preload('break-json.mjs'),
    );
    expect(stdout).toBe('');
    expect(stderr).toMatch(/TypeError: broken on purpose\n {4}at /);
  });

  test('without --debug no error has a stack', async () => {
    const { stderr } = await runCli(['inspect', 'gone.pt'], workspace);
    expect(stderr).toBe('bn-audit: gone.pt: no such file\n');
  });
});

test('--quiet prints nothing at all and keeps every exit code', async () => {
  expect(await runCli([...LEAK, '-q'], workspace)).toEqual({ stdout: '', stderr: '', exitCode: 1 });
  expect(await runCli([...LOCKED, '-q'], workspace)).toEqual({ stdout: '', stderr: '', exitCode: 0 });
});

test('a file given twice is refused: exit code 2', async () => {
  const file = 'pairs/requires-grad-leak/after.safetensors';
  const { stdout, stderr, exitCode } = await runCli(['diff', file, file], workspace);
  expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 });
  expect(stderr).toBe(
    `bn-audit: ${file}: expected the checkpoint from after the training, found before itself ("${file}")\n  Name two checkpoints; to look at one alone: bn-audit inspect FILE\n`,
  );
});

test('the same command prints the same bytes', async () => {
  const [first, second] = [await runCli(LEAK, workspace), await runCli(LEAK, workspace)];
  expect(first).toEqual(second);
});

test('without WebAssembly folded layers are judged as with it', async () => {
  const folded = [
    'diff',
    'pairs/requires-grad-leak/before.fold.onnx',
    'pairs/requires-grad-leak/after.fold.onnx',
  ];
  const usual = await runCli(folded, workspace);
  const { stdout, exitCode } = await run(process.execPath, ['--jitless', BIN, ...folded], workspace);
  expect(stdout).toContain('8 folded norm layers');
  expect({ stdout, exitCode }).toEqual({ stdout: usual.stdout, exitCode: 1 });
});
