import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** Builds dist/ once, before the tests that run the built command line or the package. */
export default function buildOnce(): void {
  execFileSync(process.execPath, ['build.js'], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    stdio: 'inherit',
  });
}
