// npm run executable: makes one file of the command line, dist-sea/bn-audit, for machines without Node. The Node that runs
// this becomes part of it; it must be 25.5 or newer.
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { esbuildBundleText } from './bundle-text.js';
import { standIns } from './stand-ins.js';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));
const main = 'dist-sea/bn-audit.cjs';
await build({
  stdin: {
    contents: "import { main } from './src/cli/main.js'; main(process.argv.slice(2));",
    resolveDir: '.',
  },
  outfile: main,
  bundle: true,
  minify: true,
  platform: 'node',
  target: 'node26',
  legalComments: 'none',
  plugins: [esbuildBundleText, standIns],
  external: ['onnxruntime-node'],
  // What is not part of the file, docs and the optional peer of `probe`, is looked for beside it.
  define: { 'import.meta.dirname': '__dirname' },
  supported: { 'dynamic-import': false },
  banner: {
    js: "require=require('node:module').createRequire(process.execPath);__dirname=require('node:path').join(__dirname,'x/x');",
  },
});
const config = {
  main,
  output: join('dist-sea', process.platform === 'win32' ? 'bn-audit.exe' : 'bn-audit'),
  disableExperimentalSEAWarning: true,
  // As bin/bn-audit.js sets it.
  execArgv: ['--heap-growing-percent=45'],
};
writeFileSync('dist-sea/config.json', JSON.stringify(config));
execFileSync(process.execPath, ['--build-sea', 'dist-sea/config.json'], { stdio: 'inherit' });
