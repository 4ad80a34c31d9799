// Where the command line starts, and what becomes of errors and signals.

import { CommanderError } from 'commander';
import { CheckpointError, describeError, escapeControls, UsageError } from '../errors.js';
import { describeFailure, isSystemError } from '../io/file-source.js';
import { removeTemporaries, watchTemporaries } from '../io/write-files.js';
import { defuseCommands } from '../report/text-layout.js';
import { createProgram } from './program.js';
import { ENDING_SIGNALS, endBySignal } from './signals.js';
import { createTerminal, type Terminal } from './terminal.js';
import { announceFailure } from './write-reports.js';

/** The exit code where the work could not be done; 0 means nothing found and 1 a finding, as in diff(1). */
const FAILED = 2;

/**
 * Runs the command line and sets the process's exit code: 0 nothing found, 1 a finding at or above --fail-on, 2 the
 * audit could not be done, on every path.
 *
 * @param args the arguments after the program's name.
 */
export async function main(args: readonly string[]): Promise<void> {
  const terminal = createTerminal(process, (error) => endUnlessPipeClosed(error, terminal));
  removeTemporariesAtEnd();
  // An uncaught error would exit with 1, which here means "drift found".
  const crash = (error: unknown) => {
    reportFailure(error, terminal, args);
    process.exit(FAILED);
  };
  process.once('uncaughtException', crash);
  process.once('unhandledRejection', crash);
  try {
    await run(args, terminal);
  } catch (error) {
    crash(error);
  }
}

async function run(args: readonly string[], terminal: Terminal): Promise<void> {
  const program = await createProgram(args, terminal);
  try {
    await program.parseAsync([...args], { from: 'user' });
  } catch (error) {
    // Commander has printed its help, version or complaint itself.
    if (error instanceof CommanderError && error.exitCode === 0) return;
    process.exitCode = FAILED;
    if (error instanceof CommanderError) return;
    const message = reportFailure(error, terminal, args);
    // The command that ran is the only one that was given options.
    const options = program.commands.map((command) => command.opts());
    const isQuiet = options.some(({ quiet }) => quiet === true);
    if (options.every(({ ci }) => ci !== false)) await announceFailure(message, { isQuiet }, terminal);
  }
}

/** A reader that closes the pipe early, such as `head`, has seen enough; the verdict stands. */
function endUnlessPipeClosed(error: NodeJS.ErrnoException, terminal: Terminal): void {
  if (error.code === 'EPIPE') return;
  terminal.writeError(`bn-audit: standard output could not be written: ${describeFailure(error).writing}`);
  process.exit(FAILED);
}

/**
 * Has no temporary file outlive the process. Only while there are such files are signals waited for: at other times they
 * end the process at once, also out of a loop that never ends.
 */
function removeTemporariesAtEnd(): void {
  process.once('exit', removeTemporaries);
  const end = (signal: NodeJS.Signals) => {
    removeTemporaries();
    for (const one of ENDING_SIGNALS) process.off(one, end);
    endBySignal(signal);
  };
  watchTemporaries((areAny) => {
    for (const one of ENDING_SIGNALS) areAny ? process.on(one, end) : process.off(one, end);
  });
}

function reportFailure(error: unknown, terminal: Terminal, args: readonly string[]): string {
  terminal.finishProgress();
  const message = defuseCommands(describeAny(error));
  terminal.writeError(`bn-audit: ${message}`);
  const hint = findHint(error);
  if (hint !== undefined) terminal.writeError(defuseCommands(`  ${escapeControls(hint)}`));
  if (args.includes('--debug') && error instanceof Error && error.stack !== undefined)
    terminal.writeError(defuseCommands(error.stack.split('\n').map(escapeControls).join('\n')));
  return message;
}

const INTERNAL_HINT = 'This is a defect of bn-audit. Run again with --debug and report what it prints.';

function findHint(error: unknown): string | undefined {
  if (isTold(error)) return error.hint;
  if (isWithoutDirectory(error)) return 'Change to a directory that is there.';
  return isSystemError(error) ? describeFailure(error).hint : INTERNAL_HINT;
}

function isTold(error: unknown): error is CheckpointError | UsageError {
  return error instanceof CheckpointError || error instanceof UsageError;
}

function isWithoutDirectory(error: unknown): boolean {
  return isSystemError(error) && error.syscall === 'uv_cwd';
}

function describeAny(error: unknown): string {
  if (isTold(error)) return escapeControls(describeError(error));
  if (isWithoutDirectory(error)) return 'the working directory is gone: it was deleted or moved';
  // Such as a file of the program itself that cannot be loaded, since too many are open.
  if (isSystemError(error))
    return escapeControls(`${error.path ?? error.syscall}: ${describeFailure(error).reading}`);
  return escapeControls(`unexpected failure: ${error instanceof Error ? error.message : String(error)}`);
}
