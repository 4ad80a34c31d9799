import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { listNextCommands } from '../../src/report/next-commands.js';
import { makeMixedReport } from '../report/sample-reports.js';
import { makeWorkspace, type Run, runCli, splitCommand } from './run.js';

const PAIR = 'pairs/requires-grad-leak';

/** The commands of a report's `next`, as a user copies them. */
function readNext({ stdout }: Run): readonly string[] {
  const [, block = ''] = /^next((?: +bn-audit .*\n)+)/m.exec(stdout) ?? [];
  return block
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}

describe('the commands that a report of drift ends with', () => {
  test.each<
    readonly [before: string, after: string, options: readonly string[], commands: readonly string[]]
  >([
    ['before.safetensors', 'my model.safetensors', [], ['restore']],
    ['before.pt', 'tuned.pt', ['--epsilon', '0.001'], ['restore']],
    ['before.safetensors', 'tuned.onnx', ['--map', 'nothing=none'], ['probe', 'restore']],
  ])('run as they stand: %s %s %j', async (before, after, options, commands) => {
    const cwd = makeWorkspace();
    mkdirSync(join(cwd, 'models'));
    const source = after.endsWith('.onnx')
      ? 'after.live.onnx'
      : `after${after.slice(after.lastIndexOf('.'))}`;
    copyFileSync(join(cwd, PAIR, before), join(cwd, 'models', before));
    copyFileSync(join(cwd, PAIR, source), join(cwd, 'models', after));
    const found = await runCli(['diff', `models/${before}`, `models/${after}`, ...options], cwd);
    expect(found.exitCode).toBe(1);
    const next = readNext(found);
    expect(next.map((command) => command.split(' ')[1])).toEqual(commands);
    for (const command of next) {
      const [program, ...args] = splitCommand(command);
      expect(program).toBe('bn-audit');
      for (const option of options) expect(args).toContain(option);
      const { exitCode, stderr } = await runCli(args, cwd);
      expect(exitCode, `${command}: ${stderr}`).toBe(0);
    }
    const fixed = after.replace(/(?=\.[^.]*$)/, '.restored');
    expect(existsSync(join(cwd, 'models', fixed))).toBe(true);
    const again = await runCli(['diff', `models/${before}`, `models/${fixed}`], cwd);
    expect([again.exitCode, readNext(again)]).toEqual([0, []]);
  });

  const report = makeMixedReport();
  const listFor = (before: string, after: string) =>
    listNextCommands(
      { ...report, before: { ...report.before, path: before }, after: { ...report.after, path: after } },
      [],
    ).map((words) => words.join(' '));

  test.each([
    ['a.pt', 'runs/epoch.3/tuned', ['restore a.pt runs/epoch.3/tuned -o runs/epoch.3/tuned.restored']],
    ['a.pt', 'dir/', ['restore a.pt dir/ -o dir.restored']],
    ['-a.pt', '-b.pt', ['restore ./-a.pt ./-b.pt -o ./-b.restored.pt']],
    ['a.pt', 'model.safetensors.index.json', []],
    ['a.pt', 'hf:someone/model', []],
    ['a.pt', 'https://example.org/tuned.pt', []],
    [
      'hf:a/b',
      'hf:someone/model@v1:runs/t.pt',
      ['restore hf:a/b hf:someone/model@v1:runs/t.pt -o t.restored.pt'],
    ],
    ['a.pt', 'evil\u001b[31m.pt', []],
    ['a.pt', 'x'.repeat(5_000), []],
  ])('are for %s and %s: %j', (before, after, commands) => {
    expect(listFor(before, after)).toEqual(commands);
  });
});
