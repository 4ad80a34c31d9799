import { cpSync, existsSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Script } from 'node:vm';
import { beforeAll, describe, expect, test } from 'vitest';
import { VERSION } from '../../src/version.js';
import { makeTempDirectory } from '../build/sources.js';
import { type Run, run } from './run.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const pair = join(root, 'fixtures', 'pairs', 'requires-grad-leak');

/** Of the Node that built, which is the one that runs the tests. */
const CODE_CACHE = join(
  'dist',
  'cli',
  'code-cache',
  `${process.platform}-${process.arch}-${process.version}`,
);

/** Commands whose code comes from several files of the program, some of which the build's own runs never load. */
const COMMANDS = [
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

function runIn(directory: string, args: readonly string[], flags: readonly string[] = []): Promise<Run> {
  return run(process.execPath, [...flags, join(directory, 'bin', 'bn-audit.js'), ...args], directory);
}

function listBytecode(directory: string): readonly string[] {
  return readdirSync(join(directory, CODE_CACHE)).map((name) => join(directory, CODE_CACHE, name));
}

describe('the bytecode that a build keeps', () => {
  test('is there for what every audit loads, for the readers and for restorations, and V8 takes it', () => {
    const names = readdirSync(join(root, CODE_CACHE));
    expect(names).toEqual(
      expect.arrayContaining([
        'main.js.bin',
        expect.stringMatching(/^torch-.*\.js\.bin$/),
        expect.stringMatching(/^restore-command-.*\.js\.bin$/),
      ]),
    );
    for (const name of names) {
      const source = name.replace(/\.bin$/, '');
      const path = join(root, 'dist', 'cli', source === 'main.js' ? source : join('chunks', source));
      const code = readFileSync(path, 'utf8');
      const script = new Script(`(function (exports, require, module, __filename, __dirname) {${code}\n})`, {
        cachedData: readFileSync(join(root, CODE_CACHE, name)),
      });
      expect(script.cachedDataRejected, name).toBe(false);
    }
  });

  test('is what runs: of the source, V8 looks at the length', async () => {
    const directory = copyPackage();
    const path = join(directory, 'dist', 'cli', 'main.js');
    const changed = VERSION.replaceAll(/\d/g, '9');
    writeFileSync(path, readFileSync(path, 'utf8').replaceAll(`"${VERSION}"`, `"${changed}"`));
    expect(await runIn(directory, ['--version'])).toMatchObject({ stdout: `${VERSION}\n` });
    rmSync(join(directory, 'dist/cli/code-cache'), { recursive: true });
    expect(await runIn(directory, ['--version'])).toMatchObject({ stdout: `${changed}\n` });
  });

  test('stays out of what npm publishes, and heeds no policy file around the build', async () => {
    const parent = makeTempDirectory();
    const directory = join(parent, 'bn-audit');
    for (const name of readdirSync(root)) {
      if (['.git', 'dist', 'bench', 'test', 'node_modules'].includes(name)) continue;
      cpSync(join(root, name), join(directory, name), { recursive: true });
    }
    symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'));
    const policy = { allow: ['**'], reports: { html: 'report.html' } };
    writeFileSync(join(parent, 'bn-audit.config.json'), JSON.stringify(policy));
    const build = (env: Readonly<Record<string, string>>) =>
      run(process.execPath, ['build.js'], directory, env);
    expect(await build({ npm_command: 'publish' })).toMatchObject({ exitCode: 0 });
    expect(existsSync(join(directory, 'dist', 'cli', 'main.js'))).toBe(true);
    expect(existsSync(join(directory, 'dist', 'cli', 'code-cache'))).toBe(false);
    expect(await build({ npm_command: 'pack' })).toMatchObject({ exitCode: 0 });
    expect(readdirSync(join(directory, CODE_CACHE))).toContain('main.js.bin');
    expect(existsSync(join(parent, 'report.html'))).toBe(false);
  }, 60_000);
});

describe('the program', () => {
  const expected = new Map<string, Run>();

  beforeAll(async () => {
    for (const args of COMMANDS) expected.set(args.join(' '), await runIn(root, args));
  });

  test('is run by commands that end in every way', () => {
    expect([...expected.values()].map(({ exitCode }) => exitCode)).toEqual([1, 1, 1, 0, 0, 2]);
  });

  /** Where the bytecode is not what the build wrote, the sources do. */
  const CHANGES: readonly (readonly [string, (directory: string) => void])[] = [
    [
      'without any bytecode',
      (directory) => rmSync(join(directory, 'dist/cli/code-cache'), { recursive: true }),
    ],
    ['with bytecode for readers alone', (directory) => rmSync(join(directory, CODE_CACHE, 'main.js.bin'))],
    [
      'with empty bytecode',
      (directory) => {
        for (const path of listBytecode(directory)) writeFileSync(path, '');
      },
    ],
    [
      'with bytecode that is cut short',
      (directory) => {
        for (const path of listBytecode(directory)) {
          const bytes = readFileSync(path);
          writeFileSync(path, bytes.subarray(0, bytes.byteLength / 2));
        }
      },
    ],
    [
      'with bytecode of another V8',
      (directory) => {
        for (const path of listBytecode(directory)) {
          const bytes = readFileSync(path);
          // The second word of V8's header is a hash of its version.
          bytes.writeUInt32LE(bytes.readUInt32LE(4) ^ 1, 4);
          writeFileSync(path, bytes);
        }
      },
    ],
  ];

  test.each(CHANGES)('does the same %s', async (_, change) => {
    const directory = copyPackage();
    change(directory);
    for (const args of COMMANDS) expect(await runIn(directory, args)).toEqual(expected.get(args.join(' ')));
  });

  test('does the same under flags that V8 compiles differently with', async () => {
    for (const args of COMMANDS) {
      expect(await runIn(root, args, ['--no-opt', '--stack-size=900'])).toEqual(expected.get(args.join(' ')));
    }
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

  test('says how to build it where it is not built', async () => {
    const directory = copyPackage();
    rmSync(join(directory, 'dist'), { recursive: true });
    expect(await runIn(directory, ['--version'])).toEqual({
      stdout: '',
      stderr: 'bn-audit: it is not built: run "npm run build" first (ENOENT)\n',
      exitCode: 2,
    });
  });
});
