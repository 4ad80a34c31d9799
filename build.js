// Builds dist/: the CLI with its dependencies bundled and minified, the library entry likewise, and its types.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { esbuildBundleText } from './bundle-text.js';
import { linkChunks } from './link-chunks.js';

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, 'dist');

rmSync(dist, { recursive: true, force: true });

/** What packages load by tricks or for nothing, and what they get instead. */
const STAND_INS = [
  {
    // For subcommands that are programs of their own. There are none here, and with Node's child processes comes the
    // whole of its networking, which takes longer to load than all of commander: loaded when asked for.
    owner: 'commander',
    wanted: 'node:child_process',
    contents: "exports.spawn = (...args) => require('node:child_process').spawn(...args);",
  },
  {
    // protobufjs looks for optional packages behind the bundler's back, and would find others wherever the file lies.
    owner: 'protobufjs',
    wanted: '@protobufjs/inquire',
    contents:
      "const known = { buffer: require('node:buffer') }; module.exports = (name) => known[name] ?? null;",
  },
];

const standIns = {
  name: 'stand-ins',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(node:child_process|@protobufjs\/inquire)$/ }, ({ path, importer }) => {
      const directory = importer.replaceAll('\\', '/');
      const standIn = STAND_INS.find(
        ({ owner, wanted }) => wanted === path && directory.includes(`node_modules/${owner}/`),
      );
      return standIn && { path, namespace: 'stand-in', pluginData: standIn.contents };
    });
    onLoad({ filter: /.*/, namespace: 'stand-in' }, ({ pluginData }) => ({ contents: pluginData }));
  },
};

// esbuild remembers where it was loaded; link-chunks.js reads its outputs, whose names are relative, from where it runs.
process.chdir(root);

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
  plugins: [esbuildBundleText, standIns],
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
// as many ES modules. esbuild splits ES modules only, so what it made is linked again.
const parts = join(dist, 'parts');
const { metafile } = await build({
  ...common,
  entryPoints: ['src/cli/main.ts'],
  outdir: parts,
  metafile: true,
});
// Not the package's "type": esbuild would take what a lazy chunk exports by default for the whole of that chunk.
writeFileSync(join(parts, 'package.json'), '{}\n');
const cli = join(dist, 'cli');
await linkChunks({ entry: 'dist/parts/main.js', outputs: metafile.outputs, outdir: cli });
rmSync(parts, { recursive: true });
writeFileSync(join(cli, 'package.json'), '{ "type": "commonjs" }\n');
const typescript = createRequire(import.meta.url).resolve('typescript/package.json');
execFileSync(process.execPath, [join(dirname(typescript), 'bin/tsc'), '--project', 'tsconfig.types.json'], {
  cwd: root,
  stdio: 'inherit',
});
keepPublicTypes(join(dist, 'index.d.ts'));

/** Removes the types of files that those of the library's entry do not lead to: two thirds of what tsc writes. */
function keepPublicTypes(entry) {
  const kept = new Set([entry]);
  for (const path of kept) {
    const imports = readFileSync(path, 'utf8').matchAll(/(?:from |import\()['"](\.[^'"]+)\.js['"]/g);
    for (const [, target] of imports) kept.add(join(dirname(path), `${target}.d.ts`));
  }
  for (const name of readdirSync(dist, { recursive: true })) {
    const path = join(dist, name);
    if (name.endsWith('.d.ts') && !kept.has(path)) rmSync(path);
  }
}
