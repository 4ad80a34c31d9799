import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { BIN, type Run, run } from './run.js';

/** How a script of a CI system is run. */
export interface ScriptOptions {
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>>;
}

/**
 * Runs a script as GitHub runs a step with `shell: bash`, in a shell where `npx --yes bn-audit@VERSION` and `bn-audit`
 * are the built command line; what `npx` was called with is appended to `calls.txt` in the working directory.
 */
export async function runScript(script: string, { cwd, env = {} }: ScriptOptions): Promise<Run> {
  const bin = join(cwd, '.bin');
  mkdirSync(bin, { recursive: true });
  const start = `exec '${process.execPath}' '${BIN}' "$@"`;
  writeCommand(bin, 'bn-audit', start);
  writeCommand(
    bin,
    'npx',
    `printf '%s\\n' "$@" >> calls.txt
while case "$1" in --*) true ;; *) false ;; esac; do shift; done
case "$1" in bn-audit | bn-audit@*) shift ;; *) echo "npx: $1?" >&2; exit 97 ;; esac
${start}`,
  );
  writeFileSync(join(bin, 'script.sh'), script);
  return run('bash', ['--noprofile', '--norc', '-eo', 'pipefail', join(bin, 'script.sh')], cwd, {
    PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`,
    ...env,
  });
}

function writeCommand(directory: string, name: string, body: string): void {
  const path = join(directory, name);
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
}
