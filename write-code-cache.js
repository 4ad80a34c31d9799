// Has V8 compile what audits call, and leaves the bytecode in dist/ for the command line to start with. The commands that
// run here decide what it holds.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const { loadProgram, scripts } = createRequire(import.meta.url)('./bin/bn-audit.js');

const fixtures = join(dirname(fileURLToPath(import.meta.url)), 'fixtures/pairs/requires-grad-leak');

// Each run listens for what nobody caught.
process.setMaxListeners(0);
// A build heeds no policy file of a directory above, but the search for one belongs to every run: it ends at a `.git`.
const directory = mkdtempSync(join(tmpdir(), 'bn-audit-build-'));
try {
  mkdirSync(join(directory, '.git'));
  process.chdir(directory);
  for (const ending of ['safetensors', 'live.onnx', 'pt']) {
    const pair = ['before', 'after'].map((side) => join(fixtures, `${side}.${ending}`));
    // It writes nothing to a CI system either.
    const diff = ['diff', '--no-ci', ...pair];
    await run(diff, 1);
    await run([...diff, '--quiet'], 1);
    await run([...diff, '--format', 'json'], 1);
    await run(['inspect', pair[1]], 0);
  }
} finally {
  process.chdir(fixtures);
  rmSync(directory, { recursive: true });
}
for (const [path, script] of scripts) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, script.createCachedData());
}

async function run(args, expectedCode) {
  await loadProgram().main(args);
  const { exitCode } = process;
  process.exitCode = 0;
  if (exitCode !== expectedCode) {
    throw new Error(`bn-audit ${args.join(' ')}: expected exit code ${expectedCode}, found ${exitCode}`);
  }
}
