// Runs a command of the user's about a checkpoint, whose path it gets as one argument, whatever is in it.

import { spawn } from 'node:child_process';
import { UsageError } from '../errors.js';
import { describeFailure } from '../io/file-source.js';

/**
 * A command as `sh` runs it: `{}` becomes `"$1"`, the path. The path itself never stands in what the shell reads as code.
 *
 * @throws UsageError where the command is empty, or `{}` stands within quotes.
 */
export function readCommand(text: string): string {
  if (text.trim() === '') throw new UsageError('--exec: expected a command, found an empty text');
  let quotes = '';
  return text.replace(/\\.|['"]|\{\}/gs, (found) => {
    if (found === '{}') {
      if (quotes === '') return '"$1"';
      throw new UsageError(
        '--exec: {} stands within quotes, where it would not be one argument',
        'Leave it bare: it is one argument whatever is in it. Within double quotes, write $1.',
      );
    }
    if (quotes === '' && found.length === 1) quotes = found;
    else if (found === quotes) quotes = '';
    return found;
  });
}

/**
 * Runs a command of {@link readCommand}, and waits for it. What it prints goes to standard error; it reads nothing.
 *
 * @param signal ends the command too.
 * @returns what went wrong, as words after "the command"; null where it ended with exit code 0.
 */
export function runCommand(command: string, path: string, signal: AbortSignal): Promise<string | null> {
  // No program takes it for an option.
  const argument = path.startsWith('-') ? `./${path}` : path;
  return new Promise((resolve) => {
    const child = spawn('sh', ['-c', command, 'bn-audit', argument], { stdio: ['ignore', 2, 2], signal });
    child.once('error', (error) => {
      resolve(signal.aborted ? null : `could not be started: ${describeFailure(error).reading}`);
    });
    child.once('close', (code, by) => {
      if (code === 0 || signal.aborted) resolve(null);
      else resolve(code === null ? `was ended by ${by}` : `ended with exit code ${code}`);
    });
  });
}
