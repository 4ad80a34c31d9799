// Builds dist/: the command line and the library, each with its dependencies bundled and minified, and the library's types.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { esbuildBundleText } from './build/bundle-text.js';
import { linkChunks } from './build/link-chunks.js';
import { standIns } from './build/stand-ins.js';

const root = fileURLToPath(new URL('.', import.meta.url));
process.chdir(root);
rmSync('dist', { recursive: true, force: true });

const common = {
  absWorkingDir: root,
  bundle: true,
  // Readers and renderers that a run does not need stay in chunks of their own, unread.
  splitting: true,
  minify: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  legalComments: 'none',
  plugins: [esbuildBundleText, standIns],
  // The optional peer of `probe`: hundreds of megabytes that nothing else needs.
  external: ['onnxruntime-node'],
  logLevel: 'warning',
};

await build({
  ...common,
  entryPoints: ['src/index.ts'],
  outdir: 'dist',
  chunkNames: 'chunks/[name]-[hash]',
  // Bundled CommonJS packages call require for Node's own modules.
  banner: { js: "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);" },
});

// The command line starts anew each time, and Node links CommonJS files in a fraction of the time that it takes for
// as many ES modules. esbuild splits ES modules only, so what it made is linked again.
mkdirSync('dist/cli');
writeFileSync('dist/cli/package.json', '{ "type": "commonjs" }\n');
const cli = await build({ ...common, entryPoints: ['src/cli/main.ts'], outdir: 'dist/cli', metafile: true });
await linkChunks('dist/cli/main.js', cli.metafile.outputs);

// The man page is written by the program itself.
await build({
  ...common,
  splitting: false,
  packages: 'external',
  outfile: 'dist/man-page.js',
  stdin: {
    contents: `
      import { writeManPage } from './src/cli/man-page.ts';
      import { createProgram } from './src/cli/program.ts';
      export const page = createProgram([], {}).then(writeManPage);`,
    resolveDir: root,
  },
});
writeFileSync('dist/bn-audit.1', await (await import('./dist/man-page.js')).page);
rmSync('dist/man-page.js');

const typescript = createRequire(import.meta.url).resolve('typescript/package.json');
const compiler = join(dirname(typescript), 'bin/tsc');
execFileSync(process.execPath, [compiler, '--project', 'tsconfig.types.json'], { stdio: 'inherit' });
keepPublicTypes('dist/index.d.ts');

/** Removes the types of files that those of the library's entry do not lead to: two thirds of what tsc writes. */
function keepPublicTypes(entry) {
  const kept = new Set([entry]);
  for (const path of kept) {
    const imports = readFileSync(path, 'utf8').matchAll(/(?:from |import\()['"](\.[^'"]+)\.js['"]/g);
    for (const [, target] of imports) kept.add(join(dirname(path), `${target}.d.ts`));
  }
  for (const name of readdirSync('dist', { recursive: true })) {
    const path = join('dist', name);
    if (name.endsWith('.d.ts') && !kept.has(path)) rmSync(path);
  }
}
