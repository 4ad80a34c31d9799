import { lstatSync, realpathSync, writeFileSync } from 'node:fs';
import { dirname, resolve, sep } from 'node:path';
import { CheckpointError, UsageError } from '../errors.js';
import type { ReportTarget } from '../policy/policy.js';

/** A report to write, and the directory that it must not leave. */
export interface ReportFile extends ReportTarget {
  /** Where a policy file asked for the report: that file's directory. */
  readonly within?: string | undefined;
}

/**
 * Writes a report to a file, replacing what was there.
 *
 * @param within the file must lie in this directory or below, and be no symbolic link.
 * @throws CheckpointError `unreadable` that names the file and why; `refused` when it lies elsewhere.
 */
export function writeReportFile(path: string, text: string, within?: string): void {
  try {
    if (within !== undefined) refuseOutside(path, within);
    writeFileSync(path, text);
  } catch (error) {
    throw error instanceof CheckpointError ? error : explainWriteError(error, path, 'the report');
  }
}

/**
 * Writes a policy file.
 *
 * @param mayReplace whether a file that is there already is replaced.
 * @throws UsageError when there is one and it must stay.
 * @throws CheckpointError `unreadable` that names the file and why.
 */
export function writePolicyFile(path: string, text: string, mayReplace: boolean): void {
  try {
    writeFileSync(path, text, { flag: mayReplace ? 'w' : 'wx' });
  } catch (error) {
    if (getErrorCode(error) === 'EEXIST')
      throw new UsageError(`${path}: there is such a file already`, 'To replace it: --force');
    throw explainWriteError(error, path, 'the policy');
  }
}

function explainWriteError(error: unknown, file: string, what: string): CheckpointError {
  const code = getErrorCode(error) ?? 'unknown error';
  return new CheckpointError(`${what} could not be written (${code})`, {
    code: 'unreadable',
    file,
    cause: error,
  });
}

/** The file system's word for what went wrong, such as `ENOENT`. */
export function getErrorCode(error: unknown): string | null {
  return error instanceof Error && 'code' in error ? String(error.code) : null;
}

/** A policy may come with a checkout that nobody has read yet: symbolic links in it lead nowhere. */
function refuseOutside(path: string, within: string): void {
  const root = realpathSync(within);
  const directory = realpathSync(dirname(resolve(path)));
  const isInside = directory === root || directory.startsWith(root.endsWith(sep) ? root : root + sep);
  const isLink = lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true;
  if (isInside && !isLink) return;
  throw new CheckpointError('a report of a policy file must stay in its directory: this one leads out', {
    code: 'refused',
    file: path,
    hint: 'To write it there, say so on the command line: --report FORMAT=FILE',
  });
}
