import { execFile } from 'node:child_process';
import { openSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { devNull } from 'node:os';
import { dirname, join } from 'node:path';
import { Writable } from 'node:stream';
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
  return new Promise((resolve, reject) => {
    const options = { cwd, env: makeEnv(env), maxBuffer: 64 * 1024 * 1024, timeout: 15_000 };
    execFile(file, [...args], options, (error, stdout, stderr) => {
      const exitCode = error === null ? 0 : error.code;
      if (typeof exitCode === 'number') resolve({ stdout, stderr, exitCode });
      else reject(error ?? new Error('no exit code'));
    });
  });
}

function makeEnv(env: RunOptions['env']): NodeJS.ProcessEnv {
  const { NO_COLOR, FORCE_COLOR, NODE_OPTIONS, ...rest } = process.env;
  const { GITHUB_ACTIONS, GITHUB_STEP_SUMMARY, GITHUB_WORKSPACE, CI_PROJECT_DIR, ...inherited } = rest;
  return { ...inherited, TERM: 'xterm', ...env };
}

/** Runs the built command line in a directory, in a process of its own. */
export async function startCli(
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

let lastRun: Promise<unknown> = Promise.resolve();

/** {@link startCli} in this process, one run after the other, which takes a fifth of the time. */
export function runCli(
  args: readonly string[],
  cwd: string,
  { env }: Pick<RunOptions, 'env'> = {},
): Promise<Run> {
  const next = lastRun.then(() => runHere(args, cwd, makeEnv(env)));
  lastRun = next.catch(() => undefined);
  return next;
}

const nodeRequire = createRequire(import.meta.url);
const MAIN = join(root, 'dist', 'cli', 'main.js');
const nowhere = openSync(devNull, 'w');

/** What listens to the process for as long as the command line runs. */
const EVENTS = ['exit', 'uncaughtException', 'unhandledRejection', 'SIGINT', 'SIGTERM', 'SIGHUP'];

/** Lends the command line this process: its streams, directory, environment, events and exit code. */
async function runHere(args: readonly string[], cwd: string, env: NodeJS.ProcessEnv): Promise<Run> {
  const [stdout, stderr] = [new Sink(), new Sink()];
  const lent = { env, stdout, stderr, exit: endRun };
  const own = Object.entries(Object.getOwnPropertyDescriptors(process)).filter(([name]) => name in lent);
  const listeners = EVENTS.map((event) => process.listeners(event as 'exit'));
  const home = process.cwd();
  for (const [name, value] of Object.entries(lent))
    Object.defineProperty(process, name, { value, configurable: true, writable: true });
  process.chdir(cwd);
  try {
    // What the command line has loaded remembers one thing of a run: whether the summary is one of its inputs.
    if (env['GITHUB_STEP_SUMMARY'] !== undefined)
      for (const path of Object.keys(nodeRequire.cache))
        if (path.startsWith(dirname(MAIN))) delete nodeRequire.cache[path];
    await nodeRequire(MAIN).main(args);
    return { stdout: stdout.text, stderr: stderr.text, exitCode: Number(process.exitCode ?? 0) };
  } catch (error) {
    if (!(error instanceof EndOfRun)) throw error;
    return { stdout: stdout.text, stderr: stderr.text, exitCode: error.exitCode };
  } finally {
    process.exitCode = undefined;
    process.chdir(home);
    for (const [name, descriptor] of own) Object.defineProperty(process, name, descriptor);
    EVENTS.forEach((event, index) => {
      for (const listener of process.listeners(event as 'exit'))
        if (!listeners[index]?.includes(listener)) process.off(event, listener);
    });
  }
}

/** A stream that keeps what is written to it, and is a pipe to whoever asks. */
class Sink extends Writable {
  readonly fd = nowhere;
  text = '';

  override _write(chunk: Buffer, _encoding: string, onWritten: () => void): void {
    this.text += chunk.toString();
    onWritten();
  }
}

class EndOfRun extends Error {
  constructor(readonly exitCode: number) {
    super(`the command line ended with exit code ${exitCode}`);
  }
}

function endRun(exitCode: number): never {
  throw new EndOfRun(exitCode);
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
