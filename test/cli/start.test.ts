import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { VERSION } from '../../src/errors.js';
import { makeTempDirectory } from '../build/sources.js';
import { type Run, run } from './run.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const pair = join(root, 'fixtures', 'pairs', 'requires-grad-leak');

/** Commands whose code comes from several files of the program, each loaded when it is needed. */
const COMMANDS: [string[], ...string[][]] = [
  ['diff', join(pair, 'before.safetensors'), join(pair, 'after.safetensors')],
  ['diff', join(pair, 'before.live.onnx'), join(pair, 'after.fold.onnx'), '--format', 'json'],
  ['diff', join(pair, 'before.pt'), join(pair, 'after.pt'), '--format', 'markdown'],
  ['inspect', join(pair, 'after.live.onnx')],
  ['explain', 'frozen-stats-drift'],
  ['diff', join(pair, 'before.safetensors'), join(pair, 'expected.json')],
];

/** A copy of the package that a test may change. */
function copyPackage(): string {
  const directory = makeTempDirectory();
  for (const name of ['bin', 'dist', 'docs', 'package.json'])
    cpSync(join(root, name), join(directory, name), { recursive: true });
  return directory;
}

function runIn(directory: string, args: readonly string[]): Promise<Run> {
  return run(process.execPath, [join(directory, 'bin', 'bn-audit.js'), ...args], directory);
}

describe('the program', () => {
  test('is run by commands that end in every way', async () => {
    const runs = await Promise.all(COMMANDS.map((args) => runIn(root, args)));
    expect(runs.map(({ exitCode }) => exitCode)).toEqual([1, 1, 1, 0, 0, 2]);
  });

  test('runs as well where another program loads it', async () => {
    const bin = JSON.stringify(join(root, 'bin', 'bn-audit.js'));
    const wrapper = join(makeTempDirectory(), 'wrapper.cjs');
    for (const code of [`require(${bin})`, `import(${bin})`]) {
      writeFileSync(wrapper, code);
      expect(await run(process.execPath, [wrapper, '--version'], root)).toMatchObject({
        stdout: `${VERSION}\n`,
        exitCode: 0,
      });
    }
  });

  test('loads nothing of networks, terminals, packing and hashes for a quiet audit', async () => {
    const list = join(makeTempDirectory(), 'list.cjs');
    writeFileSync(
      list,
      "process.on('exit', () => require('fs').writeSync(1, process.moduleLoadList.join('\\n')));",
    );
    const bin = join(root, 'bin', 'bn-audit.js');
    const { stdout } = await run(process.execPath, ['--require', list, bin, ...COMMANDS[0], '-q'], root);
    const loaded = stdout.split('\n');
    expect(loaded).toContain('NativeModule vm');
    expect(
      loaded.filter((name) => /^NativeModule (?:net|tty|zlib|crypto|child_process)$/.test(name)),
    ).toEqual([]);
  });

  test('needs Node 20, and says so in a line where it finds an older one', async () => {
    const older = join(makeTempDirectory(), 'older.cjs');
    writeFileSync(older, "Object.defineProperty(process.versions, 'node', { value: '18.20.8' });");
    const bin = join(root, 'bin', 'bn-audit.js');
    expect(await run(process.execPath, ['--require', older, bin, ...COMMANDS[0]], root)).toEqual({
      stdout: '',
      stderr: 'bn-audit: expected Node 20 or newer, found Node 18.20.8\n',
      exitCode: 2,
    });
  });

  test('says how to build it where it is not built', async () => {
    const directory = copyPackage();
    rmSync(join(directory, 'dist'), { recursive: true });
    expect(await runIn(directory, ['--version'])).toEqual({
      stdout: '',
      stderr: 'bn-audit: it is not built: run "npm run build" first (ENOENT)\n',
      exitCode: 2,
    });
  });

  describe('keeps its compiled code', () => {
    const [diff] = COMMANDS;
    const keptName = `main.js.${VERSION}.${process.version}-${process.arch}.compiled`;

    test('beside itself, from one diff to the next', async () => {
      const directory = copyPackage();
      const kept = join(directory, 'dist', 'cli', keptName);
      rmSync(kept, { force: true });
      const first = await runIn(directory, diff);
      const { mtimeMs, size } = statSync(kept);
      expect(size).toBeGreaterThan(100_000);
      expect(await runIn(directory, diff)).toEqual(first);
      expect(statSync(kept).mtimeMs).toBe(mtimeMs);
    });

    test('of no diff that could not be done: it has compiled half, and what is kept stays', async () => {
      const directory = copyPackage();
      const kept = join(directory, 'dist', 'cli', keptName);
      rmSync(kept, { force: true });
      expect(await runIn(directory, ['diff', diff[1] ?? '', 'gone.pt'])).toMatchObject({ exitCode: 2 });
      expect(existsSync(kept)).toBe(false);
    });

    test('anew where V8 refuses what is there', async () => {
      const directory = copyPackage();
      const kept = join(directory, 'dist', 'cli', keptName);
      writeFileSync(kept, 'not code');
      expect(await runIn(directory, diff)).toMatchObject({ exitCode: 1, stderr: '' });
      expect(readFileSync(kept).length).toBeGreaterThan(100_000);
    });

    test('nowhere where it cannot be written, and runs all the same', async () => {
      const directory = copyPackage();
      const kept = join(directory, 'dist', 'cli', keptName);
      rmSync(kept, { force: true });
      mkdirSync(join(kept, 'in-the-way'), { recursive: true });
      expect(await runIn(directory, diff)).toMatchObject({ exitCode: 1, stderr: '' });
      expect(readdirSync(dirname(kept)).filter((name) => name.startsWith(`${keptName}.`))).toEqual([]);
    });
  });
});
