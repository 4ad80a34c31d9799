// Builds dist/: the CLI with its dependencies bundled and minified, the library entry likewise, and its types.
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, transform } from 'esbuild';
import { esbuildBundleText } from './bundle-text.js';

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, 'dist');

rmSync(dist, { recursive: true, force: true });

const common = {
  absWorkingDir: root,
  bundle: true,
  // Readers and renderers that a run does not need stay in chunks of their own, unread.
  splitting: true,
  chunkNames: 'chunks/[name]-[hash]',
  minify: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  legalComments: 'none',
  plugins: [esbuildBundleText],
  // The optional peer of `probe`: hundreds of megabytes that nothing else needs.
  external: ['onnxruntime-node'],
  logLevel: 'warning',
};

await build({
  ...common,
  entryPoints: ['src/index.ts'],
  outdir: dist,
  // Bundled CommonJS packages call require for Node's own modules.
  banner: { js: "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);" },
});

// The command line starts anew each time, and Node links CommonJS files in a fraction of the time that it takes for
// as many ES modules. esbuild splits ES modules only, so each finished chunk is converted by itself.
const cli = join(dist, 'cli');
const { outputFiles } = await build({
  ...common,
  entryPoints: ['src/cli/main.ts'],
  outdir: cli,
  write: false,
});
for (const { path, text } of outputFiles) {
  const { code } = await transform(text, {
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    minify: true,
    // `import()` becomes a promise of `require()`: a CommonJS file imported as an ES module would lose its names.
    supported: { 'dynamic-import': false },
    define: { 'import.meta.dirname': '__dirname' },
  });
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, code);
}
writeFileSync(join(cli, 'package.json'), '{ "type": "commonjs" }\n');

const typescript = createRequire(import.meta.url).resolve('typescript/package.json');
execFileSync(process.execPath, [join(dirname(typescript), 'bin/tsc'), '--project', 'tsconfig.types.json'], {
  cwd: root,
  stdio: 'inherit',
});
