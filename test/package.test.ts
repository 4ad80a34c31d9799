import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { FINDING_KINDS } from '../src/compare/findings.js';
import { VERSION } from '../src/errors.js';
import { makeTempDirectory } from './build/sources.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const pair = (name: string) => join(root, 'fixtures', 'pairs', 'requires-grad-leak', name);

/** The pictures of the README load with it. */
const MAX_PICTURE_BYTES = 120_000;

/** What a package is made of. */
const PACKED_FROM = [
  ...['bin', 'build', 'docs', 'src', 'build.js', 'package.json', 'tsconfig.json', 'tsconfig.types.json'],
  ...['CHANGELOG.md', 'LICENSE', 'README.md'],
];

/** What may lie in dist/ from before: of another build, and what a run has compiled. */
const LEFT_BEHIND = [
  ...['dist/other.js', 'dist/other.d.ts', 'dist/cli/other.js'],
  `dist/cli/main.js.${VERSION}.v20.0.0-x64.compiled`,
];

/** All that a package may hold. */
const PACKED = [
  /^(?:CHANGELOG\.md|LICENSE|README\.md|package\.json)$/,
  /^bin\/(?:bn-audit\.js|package\.json)$/,
  /^dist\/index\.js$/,
  /^dist\/bn-audit\.1$/,
  /^dist\/chunks\/[\w-]+-[0-9A-Z]{8}\.js$/,
  /^dist\/cli\/(?:package\.json|main\.js|[\w-]+-[0-9A-Z]{8}\.js)$/,
  /^dist\/(?:[\w-]+\/)*[\w-]+\.d\.ts$/,
  /^docs\/(?:[\w-]+\/)*[\w-]+\.md$/,
  /^docs\/images\/[\w-]+\.svg$/,
  /^docs\/[\w.-]+\.schema\.json$/,
];

/** What the tests look at of package.json. */
interface Manifest {
  readonly version: string;
  readonly dependencies?: unknown;
  readonly [key: string]: unknown;
}

function readManifest(directory: string): Manifest {
  const manifest: Manifest = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));
  return manifest;
}

describe('the manifest', () => {
  const manifest = readManifest(root);

  test('has no runtime dependency: what is needed is bundled', () => {
    expect(manifest).not.toHaveProperty('dependencies');
    expect(manifest).not.toHaveProperty('optionalDependencies');
    expect(manifest).toMatchObject({
      peerDependencies: { 'onnxruntime-node': '>=1.30' },
      peerDependenciesMeta: { 'onnxruntime-node': { optional: true } },
    });
  });

  test('has the version that the tool prints', () => {
    expect(manifest.version).toBe(VERSION);
  });

  test('says what is published, imported and run, and on which Node', () => {
    expect(manifest).toMatchObject({
      name: 'bn-audit',
      type: 'module',
      license: 'MIT',
      engines: { node: '>=20' },
      bin: { 'bn-audit': 'bin/bn-audit.js' },
      exports: {
        '.': { types: './dist/index.d.ts', default: './dist/index.js' },
        './package.json': './package.json',
      },
    });
    expect(manifest['files']).toEqual(expect.arrayContaining(['bin', 'dist']));
  });

  test('publishes no sources, tests or fixtures', () => {
    expect(manifest['files']).not.toEqual(
      expect.arrayContaining([expect.stringMatching(/^(?:src|test|fixtures|bench)/)]),
    );
  });

  test('builds when it is installed from git', () => {
    expect(manifest['scripts']).toMatchObject({ prepare: 'npm run build', build: 'node build.js' });
  });
});

test('the pictures of the README are small', () => {
  const images = join(root, 'docs', 'images');
  const sizes = readdirSync(images).map((name) => [name, statSync(join(images, name)).size] as const);
  expect(sizes.map(([name]) => name)).toEqual(['diff.svg', 'report.png']);
  for (const [name, size] of sizes) expect(size, name).toBeLessThan(MAX_PICTURE_BYTES);
});

describe('the packed tarball, installed into an empty folder', () => {
  const directory = makeTempDirectory();
  const consumer = join(directory, 'consumer');
  const installed = join(consumer, 'node_modules', 'bn-audit');
  let tarball = '';

  /** npm without network, update checks or a build: dist/ stands already. */
  const npm = (cwd: string, ...args: readonly string[]) =>
    execFileSync('npm', [...args], {
      cwd,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, npm_config_update_notifier: 'false', npm_config_fund: 'false' },
    });

  beforeAll(() => {
    // As a person does, who may have left anything in dist/: npm builds anew before it packs.
    const sources = join(directory, 'sources');
    for (const name of PACKED_FROM) cpSync(join(root, name), join(sources, name), { recursive: true });
    symlinkSync(join(root, 'node_modules'), join(sources, 'node_modules'));
    mkdirSync(join(sources, 'dist', 'cli'), { recursive: true });
    for (const name of LEFT_BEHIND) writeFileSync(join(sources, name), 'left behind');
    npm(sources, 'pack', '--pack-destination', directory);
    tarball = join(directory, `bn-audit-${VERSION}.tgz`);
    mkdirSync(consumer);
    writeFileSync(join(consumer, 'package.json'), '{"name":"consumer","private":true,"type":"module"}');
    npm(consumer, 'install', '--offline', '--no-audit', '--ignore-scripts', '--omit=peer', tarball);
  }, 180_000);

  test('is under 1 MB', () => {
    expect(statSync(tarball).size).toBeLessThan(1_000_000);
  });

  test('holds what was built for it and the docs, and nothing that lay there', () => {
    const files = readdirSync(installed, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => relative(installed, join(entry.parentPath, entry.name)).split(sep).join('/'));
    const isMeant = (name: string) => PACKED.some((pattern) => pattern.test(name));
    expect(files.filter((name) => !isMeant(name))).toEqual([]);
    for (const name of LEFT_BEHIND) expect(files).not.toContain(name);
    for (const pattern of PACKED)
      expect(
        files.some((name) => pattern.test(name)),
        String(pattern),
      ).toBe(true);
  });

  test('brings nothing else along', () => {
    expect(readdirSync(join(consumer, 'node_modules')).filter((name) => !name.startsWith('.'))).toEqual([
      'bn-audit',
    ]);
  });

  test('explains every kind of finding from its own docs', { timeout: 60_000 }, () => {
    for (const kind of FINDING_KINDS) {
      const page = execFileSync(process.execPath, [join(installed, 'bin/bn-audit.js'), 'explain', kind], {
        cwd: directory,
        encoding: 'utf8',
      });
      expect(page).toMatch(new RegExp(`^${kind}\n`));
    }
  });

  test('holds what its manifest points to', () => {
    for (const path of [
      'bin/bn-audit.js',
      'dist/cli/main.js',
      'dist/index.js',
      'dist/index.d.ts',
      'package.json',
    ]) {
      expect(statSync(join(installed, path)).isFile(), path).toBe(true);
    }
    expect(readManifest(installed).version).toBe(VERSION);
  });

  test('runs as a command', () => {
    const bin = join(consumer, 'node_modules', '.bin', 'bn-audit');
    expect(execFileSync(bin, ['--version'], { encoding: 'utf8' })).toBe(`${VERSION}\n`);
    const inspected = execFileSync(bin, ['inspect', pair('before.live.onnx')], { encoding: 'utf8' });
    expect(inspected).toContain('8 norm layers');
  });

  test('is imported from a module', () => {
    const script = `
      import { audit, inspect, openCheckpoint, render, VERSION } from 'bn-audit';
      const [before, after] = process.argv.slice(2);
      const report = await audit(before, after);
      const checkpoint = await openCheckpoint(before);
      const tensors = checkpoint.tensors.size;
      await checkpoint.close();
      const { layers } = await inspect(after);
      const isText = render(report).startsWith('before');
      const isJson = JSON.parse(render(report, { format: 'json' })).verdict;
      console.log(JSON.stringify({ VERSION, verdict: report.verdict, isJson, isText, tensors, layers: layers.length }));
    `;
    writeFileSync(join(consumer, 'use.mjs'), script);
    const files = [pair('before.safetensors'), pair('after.safetensors')];
    const printed = execFileSync(process.execPath, ['use.mjs', ...files], {
      cwd: consumer,
      encoding: 'utf8',
    });
    expect(JSON.parse(printed)).toEqual({
      VERSION,
      verdict: 'drifted',
      isJson: 'drifted',
      isText: true,
      tensors: 50,
      layers: 8,
    });
  });

  test('holds the types of its API, and no others', () => {
    const types = readdirSync(join(installed, 'dist'), { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.d.ts'),
    );
    const imported = types.flatMap((name) => {
      const text = readFileSync(join(installed, 'dist', name), 'utf8');
      return [...text.matchAll(/from '(\.[^']+)\.js'/g)].map(([, target]) =>
        join(dirname(name), `${target}.d.ts`),
      );
    });
    expect(types.length).toBeGreaterThan(20);
    expect(new Set([...imported, 'index.d.ts'])).toEqual(new Set(types));
  });

  test('shows the types of its API to a strict TypeScript project', () => {
    const source = `
      import {
        type AuditLayer, type AuditReport, audit, CheckpointError, type Finding, inspect, type LayerStatus, openCheckpoint, render,
      } from 'bn-audit';
      const report: AuditReport = await audit('a', 'b', { frozen: ['backbone'], minShift: 0.1, map: [{ from: 'x', to: 'y' }] });
      const drifted: readonly AuditLayer[] = report.layers.filter(({ status }) => status === 'drifted');
      const status: LayerStatus | undefined = drifted[0]?.status;
      const findings: readonly Finding[] = report.findings;
      const text: string = render(report, { format: 'text', width: 100 }) + render(await inspect('a'), { format: 'json' });
      const checkpoint = await openCheckpoint('a');
      const shape: readonly number[] | undefined = checkpoint.tensors.get('w')?.shape;
      const code = (error: unknown) => (error instanceof CheckpointError ? error.code : null);
      // @ts-expect-error an unknown option is no option
      await audit('a', 'b', { forzen: [] });
      // @ts-expect-error a report is read-only
      report.verdict = 'clean';
      export { code, findings, shape, status, text };
    `;
    writeFileSync(join(consumer, 'use.ts'), source);
    const options = {
      strict: true,
      noEmit: true,
      module: 'NodeNext',
      target: 'ES2022',
      types: [],
      exactOptionalPropertyTypes: true,
    };
    writeFileSync(
      join(consumer, 'tsconfig.json'),
      JSON.stringify({ compilerOptions: options, files: ['use.ts'] }),
    );
    const typescript = createRequire(import.meta.url).resolve('typescript/package.json');
    const tsc = join(dirname(typescript), 'bin', 'tsc');
    expect(execTypeCheck(tsc, consumer)).toBe('');
  });
});

/** What tsc prints: nothing when all is well. */
function execTypeCheck(tsc: string, cwd: string): string {
  try {
    return execFileSync(process.execPath, [tsc, '--project', '.'], { cwd, encoding: 'utf8' });
  } catch (error) {
    return error instanceof Error && 'stdout' in error ? String(error.stdout) : String(error);
  }
}
