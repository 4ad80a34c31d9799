import {
  copyFileSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { POLICY_FILE_NAME } from '../../src/options.js';
import { REPORT_FORMATS } from '../../src/report/formats.js';
import { makeTempDirectory } from '../build/sources.js';
import { runCli } from './run.js';

const fixtures = fileURLToPath(new URL('../../fixtures', import.meta.url));

/** Copies, so that what must not happen harms no fixture: checkpoints of every kind, links to them, and a policy. */
function makeWorkspace(policy: object = {}): string {
  const directory = makeTempDirectory();
  const leak = join(fixtures, 'pairs', 'requires-grad-leak');
  for (const name of [
    'before.pt',
    'after.pt',
    'after.external.onnx',
    'after.external.onnx.data',
    'after.live.onnx',
  ])
    copyFileSync(join(leak, name), join(directory, name));
  for (const name of ['sharded', 'shards'])
    cpSync(join(fixtures, 'containers', 'sharded'), join(directory, name), { recursive: true });
  cpSync(join(fixtures, 'probe', 'input.npy'), join(directory, 'input.npy'));
  copyFileSync(join(leak, 'before.pt'), join(directory, 'copy.pt'));
  linkSync(join(directory, 'after.pt'), join(directory, 'hard.txt'));
  symlinkSync('after.pt', join(directory, 'soft.txt'));
  symlinkSync('new.txt', join(directory, 'dangling.txt'));
  mkdirSync(join(directory, 'sub'));
  writeFileSync(join(directory, POLICY_FILE_NAME), JSON.stringify(policy));
  return directory;
}

/** Every file with its bytes. */
function readAll(directory: string): ReadonlyMap<string, string> {
  return new Map(
    readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
      .map((path) => [path, readFileSync(path, 'latin1')]),
  );
}

/** Runs a command that must be refused in one line, and must leave every file as it was. */
async function refuse(args: readonly string[], workspace = makeWorkspace()): Promise<string> {
  const files = readAll(workspace);
  const { stdout, stderr, exitCode } = await runCli(args, workspace);
  expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 });
  expect(stderr).toMatch(/^bn-audit: [^\n]*\n$/);
  expect(readAll(workspace)).toEqual(files);
  return stderr;
}

describe('what is read is never written to', () => {
  const DIFF = ['diff', 'before.pt', 'after.pt', '--no-config'];
  const SHARDS = readdirSync(join(fixtures, 'containers', 'sharded'));
  const shard = SHARDS.find((name) => name.endsWith('.safetensors')) ?? '';
  const index = SHARDS.find((name) => name.endsWith('.index.json')) ?? '';

  test.each([
    [...DIFF, '-o', 'after.pt'],
    [...DIFF, '-o', 'before.pt'],
    [...DIFF, '-o', './sub/../after.pt'],
    [...DIFF, '-o', 'hard.txt'],
    [...DIFF, '-o', 'soft.txt'],
    [...DIFF, '--report', 'json=before.pt'],
    [...DIFF, '--report', 'json=fine.json', '--report', 'html=hard.txt'],
    ['diff', 'before.pt', 'after.external.onnx', '-q', '--no-config', '-o', 'after.external.onnx.data'],
    ['diff', 'before.pt', 'after.pt', 'after.live.onnx', '--no-config', '-o', 'after.live.onnx'],
    ['diff', 'before.pt', '*.onnx', '-q', '--no-config', '-o', 'after.external.onnx.data'],
    ['diff', 'gone.pt', 'after.pt', '--no-config', '-o', 'gone.pt'],
    ['diff', 'sharded', 'shards', '--no-config', '-o', `sharded/${shard}`],
    ['diff', 'sharded', 'shards', '--no-config', '-o', `sharded/${index}`],
    ['diff', 'sharded', 'shards', '--no-config', '-o', 'sharded'],
    ['diff', 'before.pt', 'after.pt', '--config', POLICY_FILE_NAME, '-o', POLICY_FILE_NAME],
    ['inspect', 'before.pt', '-o', 'before.pt'],
    ['inspect', 'after.external.onnx', '-o', 'after.external.onnx.data'],
    ['inspect', `sharded/${index}`, '--report', `text=sharded/${shard}`],
    ['probe', 'before.pt', 'after.live.onnx', '-i', 'input.npy', '-o', 'before.pt'],
    ['probe', 'before.pt', 'after.live.onnx', '-i', 'input.npy', '-o', 'after.live.onnx'],
    ['probe', 'before.pt', 'after.live.onnx', '-i', 'x=input.npy', '-o', 'input.npy'],
    ['probe', 'before.pt', 'after.external.onnx', '--samples', '1', '-o', 'after.external.onnx.data'],
    ['init', 'before.pt', '-o', 'before.pt', '--force'],
    ['init', 'before.pt', 'after.pt', '-o', 'hard.txt', '--force'],
    ['init', 'before.pt', 'after.external.onnx', '-o', 'after.external.onnx.data', '--force'],
    ['baseline', 'after.external.onnx', '-o', 'after.external.onnx.data', '--force'],
    ['baseline', 'sharded', '-o', `sharded/${shard}`, '--force'],
  ])('%s %s %s %s %s %s %s %s', async (...args) => {
    expect(await refuse(args)).toMatch(
      /: expected a file to write, found ".*", which is read: what is audited is/,
    );
  });

  test('a new file beside it is written', async () => {
    const workspace = makeWorkspace();
    const { exitCode } = await runCli(
      [...DIFF, '-o', 'dangling.txt', '--report', 'json=sub/a.json'],
      workspace,
    );
    expect([
      exitCode,
      existsSync(join(workspace, 'new.txt')),
      existsSync(join(workspace, 'sub/a.json')),
    ]).toEqual([1, true, true]);
  });

  test('what was there and is not read gives way, as the user says', async () => {
    const workspace = makeWorkspace();
    writeFileSync(join(workspace, 'notes.txt'), 'old');
    expect((await runCli([...DIFF, '-o', 'notes.txt'], workspace)).exitCode).toBe(1);
    expect(readFileSync(join(workspace, 'notes.txt'), 'utf8')).toMatch(/^before {2}/);
  });

  test.each([
    ['-o', 'a.json', '--report', 'json=./a.json'],
    ['--report', 'json=sub/../b', '--report', 'html=b'],
    ['--report', 'json=dangling.txt', '-o', 'new.txt'],
  ])('two reports are not one file: %s %s %s %s', async (...args) => {
    expect(await refuse([...DIFF, ...args])).toMatch(/" and ".*" are one file: it cannot be written twice/);
  });

  test('devices take any number of reports', async () => {
    const args = [...DIFF, '-o', '/dev/null', '--report', 'json=/dev/null'];
    expect(await runCli(args, makeWorkspace())).toEqual({
      stdout: '',
      stderr: 'bn-audit: wrote "/dev/null" (json)\nbn-audit: wrote "/dev/null" (text)\n',
      exitCode: 1,
    });
  });
});

describe('a report of a policy', () => {
  const run = (workspace: string) => runCli(['diff', 'before.pt', 'after.pt', '-q'], workspace);

  test.each(['before.pt', 'input.npy', POLICY_FILE_NAME, 'hard.txt', 'soft.txt', 'sub'])(
    'replaces no other file: %s',
    async (file) => {
      const workspace = makeWorkspace({ reports: { html: file } });
      const files = readAll(workspace);
      expect((await run(workspace)).exitCode).toBe(2);
      expect(readAll(workspace)).toEqual(files);
    },
  );

  test('says what it may replace, and how to write there all the same', async () => {
    const { stderr } = await run(makeWorkspace({ reports: { html: 'input.npy' } }));
    expect(stderr).toBe(
      `bn-audit: input.npy: expected an earlier html report or no file, found something else: a report of a policy file replaces nothing else
  Move it away, or say so on the command line: --report html=FILE
`,
    );
  });

  test('writes nothing at all where one of several must not be written', async () => {
    const workspace = makeWorkspace({ reports: { json: 'fine.json', html: 'input.npy' } });
    await run(workspace);
    expect(existsSync(join(workspace, 'fine.json'))).toBe(false);
  });

  test.each(REPORT_FORMATS)(
    'replaces an earlier %s report: of one audit, of several, of one that failed',
    async (format) => {
      const workspace = makeWorkspace({
        reports: { [format]: 'out' },
        pairs: {
          one: { before: 'before.pt', after: 'after.pt' },
          clean: { before: 'before.pt', after: 'copy.pt' },
          gone: { before: 'gone.pt', after: 'after.pt' },
        },
      });
      writeFileSync(join(workspace, 'out'), '');
      const pairs = [
        ['one'],
        ['clean'],
        ['one', 'clean'],
        ['one', 'gone'],
        ['clean', 'clean'],
        ['gone', 'gone'],
        ['one'],
      ];
      for (const names of pairs) {
        const { stderr } = await runCli(
          ['diff', '-q', ...names.flatMap((name) => ['--pair', name])],
          workspace,
        );
        expect(stderr, names.join(' ')).not.toContain('earlier');
      }
    },
  );

  test.each([
    ['text', '✔ buy milk\n'],
    ['text', 'before  lunch: notes\n'],
    ['text', 'before  lunch\n✔ done  early\n'],
    ['markdown', '### ✅ Done: all of it\n'],
    ['github', '::error title=mine::message\n'],
    ['gitlab', '[{"type": "issue", "mine": 1}]'],
  ] as const)('of format %s replaces no file that only begins alike: %j', async (format, content) => {
    const workspace = makeWorkspace({ reports: { [format]: 'out' } });
    writeFileSync(join(workspace, 'out'), content);
    expect((await run(workspace)).exitCode).toBe(2);
    expect(readFileSync(join(workspace, 'out'), 'utf8')).toBe(content);
  });

  test.each(REPORT_FORMATS)('of format %s replaces no report of another format', async (format) => {
    const other = format === 'json' ? 'sarif' : 'json';
    const workspace = makeWorkspace({ reports: { [format]: 'out' } });
    await runCli(['diff', 'before.pt', 'after.pt', '--no-config', '-f', other, '-o', 'out'], workspace);
    expect((await run(workspace)).exitCode).toBe(2);
  });
});
