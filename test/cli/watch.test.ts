import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { modelBytes } from '../build/run-directory.js';
import { makeTempDirectory } from '../build/sources.js';
import { BIN, type RunOptions, runCli, startCli } from './run.js';

/** A directory to run in: `base.safetensors`, and the given checkpoints, moved by a shift, or other files by their text. */
function makePlace(files: Readonly<Record<string, number | string>> = {}): string {
  const place = makeTempDirectory();
  mkdirSync(join(place, 'runs'));
  const all = Object.entries<number | string>({ 'base.safetensors': 0, ...files });
  for (const [name, content] of all) {
    mkdirSync(dirname(join(place, name)), { recursive: true });
    writeFileSync(join(place, name), typeof content === 'number' ? modelBytes(content) : content);
  }
  return place;
}

/** Looks again and again, and ends when all that is there was audited. */
const WATCH = ['watch', 'base.safetensors', 'runs', '--interval', '0.01', '--idle', '0'];

const inPlace = (
  files: Readonly<Record<string, number | string>>,
  args: readonly string[] = [],
  options?: RunOptions,
) => runCli([...WATCH, ...args], makePlace(files), options);

const START = 'bn-audit: watching "runs" every 0.01 s, against "base.safetensors"\n';
const DRIFT = 'backbone was frozen, its statistics were not, output shift up to 0.100';

describe('a watch', () => {
  test('ends at the first drift with 1, and says how to see it in full', async () => {
    expect(await inPlace({ 'runs/1.safetensors': 0.1 })).toEqual({
      stdout: `✖ drifted  runs/1.safetensors  ${DRIFT}\n`,
      stderr: `${START}bn-audit: 1 checkpoint audited, 1 drifted\n  In full: bn-audit diff base.safetensors runs/1.safetensors\n`,
      exitCode: 1,
    });
  });

  test('says so with the options that the two were matched by', async () => {
    const { stderr } = await inPlace({ 'runs/1.safetensors': 0.1 }, ['--epsilon', '0.01', '--map', 'a=b']);
    expect(stderr).toContain('diff base.safetensors runs/1.safetensors --epsilon 0.01 --map a=b\n');
  });

  test('that finds nothing ends with 0', async () => {
    expect(await inPlace({ 'runs/version_0/checkpoints/last.ckpt': 0 })).toEqual({
      stdout: '✔ clean    runs/version_0/checkpoints/last.ckpt  every norm layer stood still\n',
      stderr: `${START}bn-audit: 1 checkpoint audited\n`,
      exitCode: 0,
    });
  });

  test('goes on with --keep-going, and tells of drift in the end, also where something could not be audited', async () => {
    const files = { 'runs/1.safetensors': 0.1, 'runs/2.safetensors': 0, 'runs/bad.pt': 'words' };
    const { stdout, stderr, exitCode } = await inPlace(files, ['--keep-going']);
    expect(
      stdout
        .split('\n')
        .map((line) => line.slice(0, 31))
        .sort(),
    ).toEqual(
      [
        '',
        '✔ clean    runs/2.safetensors  ',
        '✖ drifted  runs/1.safetensors  ',
        '✖ failed   runs/bad.pt  expected ',
      ]
        .map((line) => line.slice(0, 31))
        .sort(),
    );
    expect(stderr).toContain('2 checkpoints audited, 1 drifted, 1 could not be read\n');
    expect(exitCode).toBe(1);
  });

  test('that could not audit a checkpoint ends with 2', async () => {
    const { stdout, exitCode } = await inPlace({ 'runs/1.safetensors': 0, 'runs/bad.pt': 'words' });
    expect(stdout).toContain('✖ failed   runs/bad.pt  expected a checkpoint of a format that is read');
    expect(exitCode).toBe(2);
  });

  test('to which nothing came passes in silence never', async () => {
    expect(await inPlace({})).toEqual({
      stdout: '',
      stderr: `${START}bn-audit: 0 checkpoints audited\nbn-audit: runs: expected checkpoints to audit, found none\n  Is it the directory that the run writes to?\n`,
      exitCode: 2,
    });
    const { stderr, exitCode } = await inPlace({ 'runs/checkpoint_100': 0.1, 'runs/log': '' });
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(
      /2 files there bear no name of a checkpoint, such as "runs\/\w+": .*--match GLOB\n$/,
    );
    expect((await inPlace({ 'runs/checkpoint_100': 0.1 }, ['--match', 'checkpoint_*'])).exitCode).toBe(1);
  });

  test('prints nothing with --quiet, and keeps its exit codes', async () => {
    const nothing = { stdout: '', stderr: '' };
    expect(await inPlace({ 'runs/1.pt': 0.1 }, ['-q'])).toEqual({ ...nothing, exitCode: 1 });
    expect(await inPlace({ 'runs/1.pt': 0 }, ['-q'])).toEqual({ ...nothing, exitCode: 0 });
    expect(await inPlace({ 'runs/1.pt': 'x' }, ['-q'])).toEqual({ ...nothing, exitCode: 2 });
  });

  test.each([
    [['watch', 'gone.pt', 'runs'], 'bn-audit: gone.pt: no such file\n'],
    [
      ['watch', 'base.safetensors', 'base.safetensors'],
      'base.safetensors: expected a directory to watch, found something else\n',
    ],
    [[...WATCH, '--interval', '0'], 'It must be a number of seconds from 0.01 to 86400.\n'],
    [[...WATCH, '--idle', '-1'], 'It must be a number, zero or larger.\n'],
    [[...WATCH, '--format', 'html'], 'Allowed choices are text, json.\n'],
    [[...WATCH, '--exec', 'echo "{}"'], 'bn-audit: --exec: {} stands within quotes'],
    [[...WATCH, '--config', 'none.json'], 'bn-audit: none.json: no such file\n'],
    [['watch', 'base.safetensors'], "missing required argument 'directory'"],
  ])('that cannot begin is an error: %j', async (args, message) => {
    const { stdout, stderr, exitCode } = await runCli(args, makePlace());
    expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 });
    expect(stderr).toContain(message);
  });
});

describe('the rules', () => {
  test.each([
    [['--min-shift', '0.5'], 0],
    [['--allow', 'backbone'], 0],
    [['--frozen', 'backbone'], 1],
    [['--frozen', 'neck'], 2],
    [['--map', 'backbone=backbone', '--epsilon', '1e-3', '--exact'], 1],
    [['--select', 'ema'], 2],
  ])('are those of diff: %j', async (args, exitCode) => {
    expect((await inPlace({ 'runs/1.safetensors': 0.1 }, args)).exitCode).toBe(exitCode);
  });

  test('may stand in a policy, over which the command line wins', async () => {
    const files = { 'runs/1.safetensors': 0.1, 'bn-audit.config.json': '{"minShift": 0.5}' };
    const { stderr, exitCode } = await inPlace(files);
    expect([stderr.split('\n')[0], exitCode]).toEqual([
      'bn-audit: using the policy "bn-audit.config.json"',
      0,
    ]);
    expect((await inPlace(files, ['--min-shift', '0.01'])).exitCode).toBe(1);
    expect((await inPlace(files, ['--no-config'])).exitCode).toBe(1);
  });
});

describe('--format json', () => {
  test('prints an object a line: that of diff, or why there is none', async () => {
    const place = makePlace({ 'runs/1.safetensors': 0.1, 'runs/2.safetensors': 0, 'runs/bad.pt': 'words' });
    const { stdout } = await runCli([...WATCH, '--format', 'json', '--keep-going'], place);
    const lines = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    const byPath = new Map(lines.map((line) => [line.after.path, line]));
    expect([...byPath.keys()].sort()).toEqual(['runs/1.safetensors', 'runs/2.safetensors', 'runs/bad.pt']);
    expect(byPath.get('runs/bad.pt')).toMatchObject({ verdict: 'failed', code: 'unrecognised-format' });
    for (const name of ['runs/1.safetensors', 'runs/2.safetensors']) {
      const alone = await runCli(['diff', 'base.safetensors', name, '--format', 'json'], place);
      expect(byPath.get(name)).toEqual(JSON.parse(alone.stdout));
    }
  });
});

describe('--exec', () => {
  const watchAt = (place: string, ...args: readonly string[]) => startCli([...WATCH, ...args], place);

  test('runs the command with the checkpoint as one argument, whatever is in its name, and ends with 1', async () => {
    const name = `runs/it's "$(touch owned)" ; touch owned \`touch owned\`.safetensors`;
    const place = makePlace({ [name]: 0.1 });
    const { stdout, stderr, exitCode } = await watchAt(
      place,
      '--exec',
      `printf '<%s>' one {} $#; ls -- {} > found`,
    );
    expect(stdout).toContain('✖ drifted');
    expect(stderr).toContain(`<one><${name}><1>`);
    expect(existsSync(join(place, 'owned'))).toBe(false);
    expect(readFileSync(join(place, 'found'), 'utf8')).toContain('touch owned');
    expect(exitCode).toBe(1);
  });

  test('runs it as it is where it has no {}, once, and for each checkpoint that drifted with --keep-going', async () => {
    const files = { 'runs/1.safetensors': 0.1, 'runs/2.safetensors': 0.2, 'runs/3.safetensors': 0 };
    const once = makePlace(files);
    expect((await watchAt(once, '--exec', 'echo ran >> log')).exitCode).toBe(1);
    expect(readFileSync(join(once, 'log'), 'utf8')).toBe('ran\n');
    const each = makePlace(files);
    expect((await watchAt(each, '--exec', 'echo {} >> log', '--keep-going')).exitCode).toBe(1);
    expect(readFileSync(join(each, 'log'), 'utf8').split('\n').sort()).toEqual([
      '',
      'runs/1.safetensors',
      'runs/2.safetensors',
    ]);
  });

  test('that fails is said, and changes no exit code', async () => {
    const { stderr, exitCode } = await watchAt(makePlace({ 'runs/1.pt': 0.1 }), '--exec', 'exit 7');
    expect(stderr).toContain('bn-audit: --exec: the command ended with exit code 7\n');
    expect(exitCode).toBe(1);
    const killed = await watchAt(makePlace({ 'runs/1.pt': 0.1 }), '--exec', 'kill -9 $$');
    expect(killed.stderr).toContain('bn-audit: --exec: the command was ended by SIGKILL\n');
  });

  test('gives no path that reads as an option', async () => {
    const place = makePlace({ '-v/1.safetensors': 0.1 });
    const args = [
      'watch',
      '--interval',
      '0.01',
      '--idle',
      '0',
      '--exec',
      'printf "<%s>" {}',
      '--',
      'base.safetensors',
      '-v',
    ];
    expect((await startCli(args, place)).stderr).toContain('<./-v/1.safetensors>');
  });

  test('is not run where nothing drifted', async () => {
    const place = makePlace({ 'runs/1.safetensors': 0 });
    expect((await watchAt(place, '--exec', 'touch ran')).exitCode).toBe(0);
    expect(existsSync(join(place, 'ran'))).toBe(false);
  });
});

test('on GitHub the first drift is annotated, and reported in the summary of the job', async () => {
  const place = makePlace({ 'runs/1.safetensors': 0.1, 'runs/2.safetensors': 0.2 });
  const env = { GITHUB_ACTIONS: 'true', GITHUB_STEP_SUMMARY: join(place, 'summary.md') };
  const { stderr } = await runCli([...WATCH, '--keep-going'], place, { env });
  expect(stderr.match(/^::error .*$/gm)).toHaveLength(1);
  expect(readFileSync(join(place, 'summary.md'), 'utf8').match(/^### ❌ Drifted/gm)).toHaveLength(1);
  expect((await runCli([...WATCH, '--no-ci'], place, { env })).stderr).not.toContain('::error');
});

test('what may not be read is said, and so is what may not be looked into', async () => {
  const place = makePlace({ 'runs/a/locked.pt': 0, 'runs/b/1.pt': 0, 'runs/1.pt': 0 });
  const fail = (name: string, part: string) => `{ const original = fs.${name};
    fs.${name} = (...args) => {
      if (!String(args[0]).includes('${part}')) return original(...args);
      throw Object.assign(new Error('raw'), { code: 'EACCES', syscall: '${name}' });
    }; }`;
  writeFileSync(
    join(place, 'fail.mjs'),
    `import fs from 'node:fs'; import { syncBuiltinESMExports } from 'node:module';
${fail('openSync', 'locked')} ${fail('readdirSync', 'runs/b')} syncBuiltinESMExports();`,
  );
  const { stdout, stderr, exitCode } = await startCli(WATCH, place, { preload: join(place, 'fail.mjs') });
  expect(stdout.split('\n').sort()).toEqual([
    '',
    '✔ clean    runs/1.pt  every norm layer stood still',
    '✖ failed   runs/a/locked.pt  no permission to read it',
  ]);
  expect(
    stderr.match(/"runs\/b": no permission to read it: it is looked at again each time\n/g),
  ).toHaveLength(1);
  expect(exitCode).toBe(2);
});

describe('a watch that runs', () => {
  /** Starts one, and settles when it has printed so many lines. */
  function start(place: string, ...args: readonly string[]) {
    const command = ['watch', 'base.safetensors', 'runs', '--interval', '0.01', ...args];
    const child = spawn(process.execPath, [BIN, ...command], { cwd: place });
    const said = { stdout: '', stderr: '' };
    let onData = () => {};
    for (const name of ['stdout', 'stderr'] as const)
      child[name].setEncoding('utf8').on('data', (text: string) => {
        said[name] += text;
        onData();
      });
    const lines = (name: 'stdout' | 'stderr', count: number) =>
      new Promise<void>((resolve) => {
        onData = () => {
          if (said[name].split('\n').length > count) resolve();
        };
        onData();
      });
    const ended = new Promise((resolve) => child.once('close', (code, by) => resolve(by ?? code)));
    return { child, said, lines, ended };
  }

  test('audits what lands meanwhile, each checkpoint once', async () => {
    const place = makePlace();
    const { child, said, lines, ended } = start(place, '--keep-going');
    await lines('stderr', 1);
    for (let index = 1; index <= 40; index++) {
      const path = join(place, 'runs', `epoch=${index}.safetensors`);
      if (index % 2 === 0) {
        writeFileSync(`${path}.tmp`, modelBytes(index / 100));
        renameSync(`${path}.tmp`, path);
      } else writeFileSync(path, modelBytes(index / 100));
      await lines('stdout', Math.max(0, index - 10));
    }
    await lines('stdout', 40);
    child.kill('SIGTERM');
    expect(await ended).toBe(1);
    const names = [...said.stdout.matchAll(/^✖ drifted {2}runs\/epoch=(\d+)\.safetensors/gm)].map(
      ([, name]) => Number(name),
    );
    expect(names.sort((one, other) => one - other)).toEqual(
      Array.from({ length: 40 }, (_, index) => index + 1),
    );
    expect(said.stderr).toContain('bn-audit: 40 checkpoints audited, 40 drifted\n');
  });

  test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
    'and found nothing ends by %s as other commands do, and says what it did',
    async (signal) => {
      const { child, said, lines, ended } = start(makePlace({ 'runs/1.safetensors': 0 }));
      await lines('stdout', 1);
      child.kill(signal);
      expect(await ended).toBe(signal);
      expect(said.stderr).toBe(`${START}bn-audit: 1 checkpoint audited\n`);
    },
  );

  test('and could not audit something ends with 2 by a signal', async () => {
    const { child, lines, ended } = start(makePlace({ 'runs/1.pt': 'x' }));
    await lines('stdout', 1);
    child.kill('SIGTERM');
    expect(await ended).toBe(2);
  });

  test('and runs a command ends it by a signal too', async () => {
    const place = makePlace({ 'runs/1.safetensors': 0.1 });
    const { child, lines, ended } = start(place, '--exec', 'echo started; exec sleep 1000');
    await lines('stderr', 2);
    child.kill('SIGTERM');
    expect(await ended).toBe(1);
  });

  test('and whose output nobody reads any more ends too', async () => {
    const place = makePlace({ 'runs/1.safetensors': 0 });
    const { child, lines, ended } = start(place);
    await lines('stdout', 1);
    child.stdout.destroy();
    let isOver = false;
    const over = ended.then((by) => {
      isOver = true;
      return by;
    });
    for (let index = 2; !isOver; index++) {
      writeFileSync(join(place, 'runs', `${index}.safetensors`), modelBytes(0));
      await Promise.race([over, setTimeout(20)]);
    }
    expect(await over).toBe('SIGPIPE');
  });
});
