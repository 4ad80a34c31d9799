import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { makeTempDirectory } from '../build/sources.js';
import { makeLargePair } from '../restore/large-pair.js';
import { BIN, makeWorkspace, run, runCli, splitCommand, toTranscript } from './run.js';

const LEAK = 'pairs/requires-grad-leak/before.safetensors pairs/requires-grad-leak/after.safetensors';
const FOLDED = 'pairs/partly-frozen/before.safetensors pairs/partly-frozen/after.fold.onnx';

describe('restore', () => {
  test.each([
    ['restore', `restore ${LEAK} -o fixed.safetensors`],
    ['restore-dry-run', `restore ${LEAK} -o fixed.safetensors --dry-run`],
    ['restore-layer', `restore ${LEAK} -o fixed.safetensors --layer backbone.stem --keep-batches`],
    ['restore-folded', `restore ${FOLDED} -o fixed.onnx`],
    [
      'restore-notes',
      'restore pairs/requires-grad-leak/before.fold.onnx pairs/requires-grad-leak/after.pt -o fixed.pt',
    ],
    ['restore-json', `restore ${LEAK} -o fixed.safetensors --layer backbone.stem --format json`],
    ['restore-nothing', 'restore pairs/locked/before.pt pairs/locked/after.pt -o fixed.pt'],
    ['restore-without-target', `restore ${LEAK}`],
    ['restore-unknown-layer', `restore ${LEAK} -o fixed.safetensors --layer trunk`],
    ['restore-help', 'restore --help'],
  ])('%s', async (name, command) => {
    const workspace = makeWorkspace();
    const result = await runCli(splitCommand(command), workspace);
    await expect(toTranscript(`bn-audit ${command}`, result)).toMatchFileSnapshot(`transcripts/${name}.txt`);
  });

  test('a second run needs --force', async () => {
    const workspace = makeWorkspace();
    const args = ['restore', ...LEAK.split(' '), '-o', 'fixed.safetensors', '-q'];
    expect(await runCli(args, workspace)).toEqual({ stdout: '', stderr: '', exitCode: 0 });
    const again = await runCli(args, workspace);
    expect(again).toMatchObject({ stdout: '', exitCode: 2 });
    expect(again.stderr).toContain('the file exists already\n  Replace it with --force.');
    expect(await runCli([...args, '--force'], workspace)).toMatchObject({ exitCode: 0 });
  });

  test('what it wrote has no drift', async () => {
    const workspace = makeWorkspace();
    await runCli(['restore', ...LEAK.split(' '), '-o', 'fixed.safetensors', '-q'], workspace);
    const [before = ''] = LEAK.split(' ');
    expect(await runCli(['diff', before, 'fixed.safetensors', '-q'], workspace)).toMatchObject({
      exitCode: 0,
    });
  });
});

describe('when something goes wrong while it writes', () => {
  test('a limit on file sizes leaves nothing behind', async () => {
    const directory = makeTempDirectory();
    makeLargePair(directory);
    // Node leaves SIGXFSZ at its default, which kills; a shell that ignores it hands that down.
    const command = `trap '' XFSZ; ulimit -f 1000; exec '${process.execPath}' '${BIN}' restore before.safetensors after.safetensors -o f.safetensors`;
    const result = await run('sh', ['-c', command], directory);
    expect(result).toMatchObject({ stdout: '', exitCode: 2 });
    expect(result.stderr).toContain('larger than the limit');
    expect(readdirSync(directory).sort()).toEqual(['after.safetensors', 'before.safetensors']);
  });

  test('SIGKILL leaves the target as it was and a temporary file, which the next run names', async () => {
    const directory = makeTempDirectory();
    makeLargePair(directory, 96);
    const args = ['restore', 'before.safetensors', 'after.safetensors', '-o', 'f.safetensors'];
    const child = spawn(process.execPath, [BIN, ...args], { cwd: directory, stdio: 'ignore' });
    const closed = new Promise((resolve) => child.once('close', resolve));
    const leftover = await untilAppears(directory, /^\.f\.safetensors\.bn-audit-[0-9a-f]+\.tmp$/);
    child.kill('SIGKILL');
    await closed;
    expect(existsSync(join(directory, 'f.safetensors'))).toBe(false);
    expect(readdirSync(directory)).toContain(leftover);
    const next = await runCli(args, directory);
    expect(next.exitCode).toBe(0);
    expect(next.stdout.replace(/\s+/g, ' ')).toContain(leftover);
    expect(statSync(join(directory, 'f.safetensors')).size).toBe(
      readFileSync(join(directory, 'after.safetensors')).byteLength,
    );
    rmSync(directory, { recursive: true });
  });
});

async function untilAppears(directory: string, pattern: RegExp): Promise<string> {
  const end = performance.now() + 10_000;
  while (performance.now() < end) {
    const found = readdirSync(directory).find((name) => pattern.test(name));
    if (found !== undefined) return found;
    await new Promise((resolve) => setImmediate(resolve));
  }
  throw new Error(`no file like ${pattern} appeared`);
}
