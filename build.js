// Builds dist/: the CLI with its dependencies bundled and minified, the library entry likewise, and its types.
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { esbuildBundleText } from './bundle-text.js';

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, 'dist');

rmSync(dist, { recursive: true, force: true });

const common = {
  absWorkingDir: root,
  outdir: dist,
  bundle: true,
  // Readers and renderers that a run does not need stay in chunks of their own, unread.
  splitting: true,
  minify: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  legalComments: 'none',
  plugins: [esbuildBundleText],
  // The optional peer of `probe`: hundreds of megabytes that nothing else needs.
  external: ['onnxruntime-node'],
  // Bundled CommonJS packages call require for Node's own modules.
  banner: { js: "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);" },
  logLevel: 'warning',
};

// Two builds, not one with two entries: code that both shared would stand in yet more chunks, and every chunk costs
// the command line a part of a millisecond at each start.
await build({ ...common, entryPoints: { cli: 'src/cli/main.ts' }, chunkNames: 'cli-chunks/[name]-[hash]' });
await build({ ...common, entryPoints: { index: 'src/index.ts' }, chunkNames: 'chunks/[name]-[hash]' });

const typescript = createRequire(import.meta.url).resolve('typescript/package.json');
execFileSync(process.execPath, [join(dirname(typescript), 'bin/tsc'), '--project', 'tsconfig.types.json'], {
  cwd: root,
  stdio: 'inherit',
});
