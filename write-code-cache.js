// Has V8 compile what audits and restorations call, and leaves the bytecode in dist/ for the command line to start with:
// of every script, what the first of the runs below calls that loads it.
//
// One run only, in a process of its own. V8 also keeps which functions were called often enough to be compiled further,
// and does so at once where it takes the bytecode up: after ten runs those are hundreds, and a start takes 3 ms more.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const self = fileURLToPath(import.meta.url);
const root = dirname(self);
const fixtures = join(root, 'fixtures/pairs/requires-grad-leak');

/** A build heeds no policy file of a directory above, but the search for one belongs to every run: it ends at a `.git`. */
const directory = join(root, 'dist/empty');

/** A build writes nothing to a CI system. */
const diff = (before, after) => ['diff', '--no-ci', join(fixtures, before), join(fixtures, after)];
const restore = (before, after) => ['restore', join(fixtures, before), join(fixtures, after), '-o', after];
const RUNS = [
  { args: diff('before.safetensors', 'after.safetensors'), expected: 1 },
  { args: diff('before.live.onnx', 'after.live.onnx'), expected: 1 },
  { args: diff('before.fold.onnx', 'after.fold.onnx'), expected: 1 },
  { args: diff('before.pt', 'after.pt'), expected: 1 },
  { args: restore('before.live.onnx', 'after.fold.onnx'), expected: 0 },
  { args: ['inspect', '--no-ci', join(fixtures, 'after.safetensors')], expected: 0 },
];

const [, , number] = process.argv;
if (number === undefined) runAll();
else await runOne(RUNS[number]);

function runAll() {
  mkdirSync(join(directory, '.git'), { recursive: true });
  for (const number of RUNS.keys()) {
    execFileSync(process.execPath, [self, String(number)], { stdio: ['ignore', 'ignore', 'inherit'] });
  }
  rmSync(directory, { recursive: true });
}

async function runOne({ args, expected }) {
  process.chdir(directory);
  process.argv.splice(2, 1, ...args);
  const { end, scripts } = createRequire(import.meta.url)('./bin/bn-audit.js');
  await end;
  const { exitCode } = process;
  if (exitCode !== expected)
    throw new Error(`bn-audit ${args.join(' ')}: expected exit code ${expected}, found ${exitCode}`);
  process.exitCode = 0;
  for (const [path, script] of scripts) {
    if (existsSync(path)) continue;
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, script.createCachedData());
  }
}
