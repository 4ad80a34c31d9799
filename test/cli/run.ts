import { execFile } from 'node:child_process';
import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VERSION } from '../../src/errors.js';
import { makeTempDirectory } from '../build/sources.js';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** The built command line. */
export const BIN = join(root, 'bin', 'bn-audit.js');

/** What a run of the command line came to. */
export interface Run {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

/** How a run differs from a plain one. */
export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** A module that is loaded before the command line. */
  readonly preload?: string;
}

/** Directories of the fixtures that every workspace has. */
export const FIXTURE_GROUPS = ['pairs', 'containers', 'declared', 'probe'];

/** A directory to run in, with the groups of fixtures and the given files. */
export function makeWorkspace(files: Readonly<Record<string, string | Uint8Array>> = {}): string {
  const directory = makeTempDirectory();
  for (const name of FIXTURE_GROUPS) symlinkSync(join(root, 'fixtures', name), join(directory, name));
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
  return directory;
}

/** Runs any program; its environment says nothing of colours and CI unless `env` does. */
export async function run(
  file: string,
  args: readonly string[],
  cwd: string,
  env: RunOptions['env'] = {},
): Promise<Run> {
  const { NO_COLOR, FORCE_COLOR, NODE_OPTIONS, ...rest } = process.env;
  const { GITHUB_ACTIONS, GITHUB_STEP_SUMMARY, GITHUB_WORKSPACE, CI_PROJECT_DIR, ...inherited } = rest;
  return new Promise((resolve, reject) => {
    const options = {
      cwd,
      env: { ...inherited, TERM: 'xterm', ...env },
      maxBuffer: 64 * 1024 * 1024,
      timeout: 15_000,
    };
    execFile(file, [...args], options, (error, stdout, stderr) => {
      const exitCode = error === null ? 0 : error.code;
      if (typeof exitCode === 'number') resolve({ stdout, stderr, exitCode });
      else reject(error ?? new Error('no exit code'));
    });
  });
}

/** Runs the built command line in a directory. */
export async function runCli(
  args: readonly string[],
  cwd: string,
  { env, preload }: RunOptions = {},
): Promise<Run> {
  return run(
    process.execPath,
    [...(preload === undefined ? [] : ['--import', preload]), BIN, ...args],
    cwd,
    env,
  );
}

/** A run as people read it: the command, what it printed, its exit code; the version and stack frames left out. */
export function toTranscript(command: string, { stdout, stderr, exitCode }: Run): string {
  const section = (title: string, text: string) =>
    text === '' ? [] : [`--- ${title}`, text.replace(/\n$/, '')];
  return `${[
    `$ ${command}`,
    ...section('stdout', stdout),
    ...section('stderr', stderr),
    `--- exit code ${exitCode}`,
  ].join('\n')}\n`
    .replaceAll(VERSION, 'VERSION')
    .replace(/(?:\n {4}at .*)+/g, '\n    at …');
}

/** Splits a command as a shell does: at spaces, with single quotes around what must stay together. */
export function splitCommand(command: string): readonly string[] {
  return [...command.matchAll(/'([^']*)'|(\S+)/g)].map((match) => match[1] ?? match[2] ?? '');
}
