import { spawn } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { BIN, FIXTURE_GROUPS, makeWorkspace, run, startCli } from './run.js';

const BEFORE = 'pairs/requires-grad-leak/before.safetensors';
const AFTER = 'pairs/requires-grad-leak/after.safetensors';
const SHARDED = 'containers/sharded';

/** Replaces functions of the file system before the program loads it. */
const preload = (code: string) =>
  `import fs from 'node:fs';\nimport { syncBuiltinESMExports } from 'node:module';\n${code}\nsyncBuiltinESMExports();\n`;

/** Every call of a function fails that is not for the program's own files. */
const failing = (name: string, code: string) =>
  preload(`const original = fs.${name};
fs.${name} = Object.assign((...args) => {
  // Node 22 loads modules through it, by descriptor.
  if (/node_modules|dist|bin/.test(String(args[0])) || /defaultLoad/.test(new Error().stack)) return original(...args);
  throw Object.assign(new Error('${code}: raw words'), { code: '${code}', syscall: '${name}', path: String(args[0]) });
}, original);`);

/** What is there besides the fixtures and the modules that are loaded first. */
const listFiles = (workspace: string) =>
  readdirSync(workspace).filter((name) => !FIXTURE_GROUPS.includes(name) && !name.endsWith('.mjs'));

describe('a process that is told to end', () => {
  // Bytes never get to the disk, so the temporary file is there when the signal comes.
  const workspace = makeWorkspace({
    'stall.mjs': preload('fs.fsync = () => setInterval(() => {}, 1000);'),
  });

  const commands = [
    ['baseline', BEFORE],
    ['restore', BEFORE, AFTER],
    ['restore', BEFORE, SHARDED],
  ];

  test.each(
    (['SIGINT', 'SIGTERM', 'SIGHUP'] as const).flatMap((signal) =>
      commands.map((args) => ({ signal, args })),
    ),
  )('by $signal takes its temporary files along, and leaves the target: $args', async ({ signal, args }) => {
    const target = `${signal}-${args.join('-').replaceAll('/', '-')}`;
    const command = [...args, '-o', target];
    const child = spawn(process.execPath, ['--import', join(workspace, 'stall.mjs'), BIN, ...command], {
      cwd: workspace,
    });
    let said = '';
    child.stderr.on('data', (data) => {
      said += data;
    });
    const ended = new Promise((resolve) => {
      child.once('exit', (code, by) => resolve(by ?? code));
    });
    while (!listFiles(workspace).some((name) => name.endsWith('.tmp'))) await setTimeout(5);
    child.kill(signal);
    expect(await ended).toBe(signal);
    expect([said, listFiles(workspace)]).toEqual(['', []]);
  });
});

describe('a file system that fails', () => {
  test.each([
    ['openSync', 'EMFILE', ['diff', BEFORE, AFTER], 'too many files are open'],
    ['openSync', 'EIO', ['inspect', AFTER], 'the disk or the network failed while it was read'],
    ['fstatSync', 'ESTALE', ['inspect', AFTER], 'the disk or the network failed while it was read'],
    ['readSync', 'EOVERFLOW', ['inspect', AFTER], 'the file is larger than this system can handle'],
    ['lstatSync', 'EACCES', ['diff', BEFORE, AFTER], 'looking for a policy: no permission to read it'],
    ['lstatSync', 'EIO', ['inspect', SHARDED], 'the disk or the network failed while it was read'],
    [
      'realpathSync',
      'EIO',
      ['inspect', `${SHARDED}/model.safetensors.index.json`],
      'the disk or the network',
    ],
    ['realpathSync', 'EACCES', ['inspect', 'pairs/requires-grad-leak/after.external.onnx'], 'no permission'],
    [
      'writev',
      'EDQUOT',
      ['diff', BEFORE, AFTER, '-o', 'out'],
      'the report could not be written: the disk quota',
    ],
    ['renameSync', 'EBUSY', ['inspect', AFTER, '--report', 'html=out'], 'something else uses it'],
    [
      'fsync',
      'EIO',
      ['baseline', BEFORE, '-o', 'out'],
      'it could not be written: the disk or the network failed',
    ],
    [
      'copyFile',
      'ENOSPC',
      ['restore', BEFORE, AFTER, '-o', 'out'],
      'it could not be written: the disk is full',
    ],
    ['mkdirSync', 'EROFS', ['restore', BEFORE, SHARDED, '-o', 'out'], 'the file system is read-only'],
    ['openSync', 'EROFS', ['init', BEFORE, '-o', 'out'], 'the file system is read-only'],
  ])('at %s with %s: one message, a way out, nothing left behind', async (name, code, args, why) => {
    const workspace = makeWorkspace({ 'fail.mjs': failing(name, code) });
    const { stdout, stderr, exitCode } = await startCli(args, workspace, {
      preload: join(workspace, 'fail.mjs'),
    });
    expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 });
    expect(stderr).toMatch(/^bn-audit: [^\n]+\n(?: {2}[^\n]+\n)?$/);
    expect(stderr).toContain(why);
    expect(stderr).not.toMatch(/unexpected|raw words/);
    expect(listFiles(workspace)).toEqual([]);
  });

  test('at listing what lies beside a model says so', async () => {
    const workspace = makeWorkspace({ 'fail.mjs': failing('readdirSync', 'EACCES') });
    cpSync(join(workspace, SHARDED), join(workspace, 'model'), { recursive: true });
    writeFileSync(join(workspace, 'model', 'config.json'), '{}');
    const args = ['restore', BEFORE, 'model', '-o', 'out'];
    const { stderr, exitCode } = await startCli(args, workspace, { preload: join(workspace, 'fail.mjs') });
    expect({ stderr, exitCode }).toEqual({
      stderr: 'bn-audit: model: no permission to read it\n',
      exitCode: 2,
    });
    expect(listFiles(workspace)).toEqual(['model']);
  });

  test('of the program itself is no defect of it', async () => {
    const workspace = makeWorkspace({
      'fail.mjs': preload(`const original = fs.existsSync;
fs.existsSync = (path) => String(path).endsWith('.md') ? true : original(path);
fs.readFileSync = new Proxy(fs.readFileSync, { apply(work, self, args) {
  if (!String(args[0]).endsWith('.md')) return Reflect.apply(work, self, args);
  throw Object.assign(new Error('raw words'), { code: 'EMFILE', syscall: 'open', path: args[0] });
} });`),
    });
    const { stderr, exitCode } = await startCli(['explain', 'frozen-stats-drift'], workspace, {
      preload: join(workspace, 'fail.mjs'),
    });
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(/^bn-audit: .*\.md: too many files are open\n {2}Raise the limit \(ulimit -n\)/);
  });
});

describe('surroundings that are gone', () => {
  const inShell = (script: string, workspace: string) =>
    run('sh', ['-c', script.replaceAll('bn-audit', `'${process.execPath}' '${BIN}'`)], workspace);

  test.each(['text', 'json', 'html'])(
    'a full device instead of standard output is said, format %s',
    async (format) => {
      const result = await inShell(
        `bn-audit diff ${BEFORE} ${AFTER} -f ${format} > /dev/full`,
        makeWorkspace(),
      );
      expect(result).toEqual({
        stdout: '',
        stderr: 'bn-audit: standard output could not be written: the disk is full\n',
        exitCode: 2,
      });
    },
  );

  test.each([
    [`bn-audit diff ${BEFORE} ${AFTER} 2> /dev/full`, 1],
    [`bn-audit inspect gone.pt 2> /dev/full`, 2],
    [`bn-audit diff ${BEFORE} ${AFTER} > /dev/full 2> /dev/full`, 2],
    [`bn-audit diff ${BEFORE} ${AFTER} <&-`, 1],
    [`bn-audit diff ${BEFORE} ${AFTER} <&- >&- 2>&-`, 1],
  ])('what else cannot be used changes no exit code: %s', async (script, exitCode) => {
    expect((await inShell(script, makeWorkspace())).exitCode).toBe(exitCode);
  });

  test.each([
    'diff before after',
    'inspect after',
    'init before',
    'diff before after -o out --report json=x',
  ])('a working directory that was deleted is said to be: %s', async (command) => {
    const workspace = makeWorkspace();
    mkdirSync(join(workspace, 'gone'));
    const { stderr, exitCode } = await inShell(`cd gone && rmdir ../gone && bn-audit ${command}`, workspace);
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(/^bn-audit: [^\n]+\n(?: {2}[^\n]+\n)?$/);
    expect(stderr).not.toContain('unexpected');
  });

  test('too many open files are said to be, whatever is open when it happens', async () => {
    const workspace = makeWorkspace();
    cpSync(join(workspace, SHARDED), join(workspace, 'after'), { recursive: true });
    const said = [];
    for (let limit = 20; limit <= 40; limit += 2) {
      const command = `ulimit -n ${limit}; bn-audit diff ${SHARDED} after --no-config`;
      said.push((await inShell(command, workspace)).stderr);
    }
    expect(said.join('')).toContain('safetensors: too many files are open\n  Raise the limit (ulimit -n)');
    expect(said.join('')).not.toContain('unexpected');
  });

  test('a report goes to standard output that is a file, behind what is there', async () => {
    const workspace = makeWorkspace();
    await inShell(`(echo first; bn-audit diff ${BEFORE} ${AFTER} -o /dev/stdout) > log`, workspace);
    expect(readFileSync(join(workspace, 'log'), 'utf8')).toMatch(/^first\nbefore {2}/);
  });
});
