// Has V8 compile what audits call, and leaves the bytecode in dist/ for the command line to start with. The commands that
// run here decide what it holds.
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const { writeCodeCache } = createRequire(import.meta.url)('./bin/load-program.js');

const fixtures = join(dirname(fileURLToPath(import.meta.url)), 'fixtures/pairs/requires-grad-leak');

/** A build heeds no policy file of a directory above, and writes nothing to a CI system. */
const DIFF = ['diff', '--no-config', '--no-ci'];

await writeCodeCache(async ({ main }) => {
  for (const ending of ['safetensors', 'live.onnx', 'pt']) {
    const pair = ['before', 'after'].map((side) => join(fixtures, `${side}.${ending}`));
    await run(main, [...DIFF, ...pair], 1);
    await run(main, [...DIFF, ...pair, '--format', 'json'], 1);
    await run(main, ['inspect', pair[1]], 0);
  }
});

async function run(main, args, expectedCode) {
  await main(args);
  const { exitCode } = process;
  process.exitCode = 0;
  if (exitCode !== expectedCode) {
    throw new Error(`bn-audit ${args.join(' ')}: expected exit code ${expectedCode}, found ${exitCode}`);
  }
}
