// Has V8 compile what audits call, and leaves the bytecode in dist/ for the command line to start with: of every script,
// what the first of the runs below calls that loads it.
//
// One run only, in a process of its own. V8 also keeps which functions were called often enough to be compiled further,
// and does so at once where it takes the bytecode up: after ten runs those are hundreds, and a start takes 3 ms more.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const self = fileURLToPath(import.meta.url);
const fixtures = join(dirname(self), 'fixtures/pairs/requires-grad-leak');

/** A build writes nothing to a CI system. */
const diff = (before, after) => ['diff', '--no-ci', join(fixtures, before), join(fixtures, after)];
const RUNS = [
  { args: diff('before.safetensors', 'after.safetensors'), exitCode: 1 },
  { args: diff('before.live.onnx', 'after.live.onnx'), exitCode: 1 },
  { args: diff('before.fold.onnx', 'after.fold.onnx'), exitCode: 1 },
  { args: diff('before.pt', 'after.pt'), exitCode: 1 },
  { args: ['inspect', '--no-ci', join(fixtures, 'after.safetensors')], exitCode: 0 },
];

const [, , ...args] = process.argv;
if (args.length === 0) runAll();
else await runOne(args);

function runAll() {
  // A build heeds no policy file of a directory above, but the search for one belongs to every run: it ends at a `.git`.
  const directory = mkdtempSync(join(tmpdir(), 'bn-audit-build-'));
  try {
    mkdirSync(join(directory, '.git'));
    for (const { args, exitCode } of RUNS) {
      execFileSync(process.execPath, [self, String(exitCode), ...args], {
        cwd: directory,
        stdio: ['ignore', 'ignore', 'inherit'],
      });
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function runOne([expectedCode, ...args]) {
  const { loadProgram, scripts } = createRequire(import.meta.url)('./bin/bn-audit.js');
  await loadProgram().main(args);
  for (const [path, script] of scripts) {
    if (existsSync(path)) continue;
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, script.createCachedData());
  }
  const { exitCode } = process;
  process.exitCode = 0;
  if (exitCode !== Number(expectedCode)) {
    throw new Error(`bn-audit ${args.join(' ')}: expected exit code ${expectedCode}, found ${exitCode}`);
  }
}
