import { closeSync, lstatSync, openSync, realpathSync, writeFileSync } from 'node:fs';
import { dirname, resolve, sep } from 'node:path';
import { CheckpointError, UsageError } from '../errors.js';
import type { ReportTarget } from '../policy/policy.js';
import type { Pieces, ReportFormat } from '../report/formats.js';

/** A report to write. */
export interface ReportFile extends ReportTarget {
  /**
   * Where a policy file asked for the report: that file's directory. The report must lie there or below, be no symbolic
   * link, and replace nothing but an earlier report.
   */
  readonly within?: string | undefined;
}

/**
 * Writes a report to a file, replacing what was there.
 *
 * @throws CheckpointError `unwritable` that names the file and why; `refused` as {@link checkReportFile}.
 */
export async function writeReportFile(report: ReportFile, text: Pieces): Promise<void> {
  await checkReportFile(report);
  try {
    writePieces(report.file, text);
  } catch (error) {
    throw await toWriteError(error, report.file, 'the report');
  }
}

function writePieces(file: string, text: Pieces): void {
  const descriptor = openSync(file, 'w');
  try {
    for (const piece of text) writeFileSync(descriptor, piece);
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Checks that a report has a directory to lie in.
 *
 * @throws CheckpointError `unwritable` when it has none.
 */
export async function checkDirectory(file: string): Promise<void> {
  try {
    realpathSync(dirname(resolve(file)));
  } catch (error) {
    throw await toWriteError(error, file, 'the report');
  }
}

/**
 * Checks whether a report that a policy file asks for may be written: the policy may come with a checkout that nobody
 * has read yet.
 *
 * @throws CheckpointError `refused` when the file lies elsewhere, or is there and no earlier report; `unwritable` when
 *   it cannot be looked at.
 */
export async function checkReportFile({ file, format, within }: ReportFile): Promise<void> {
  if (within === undefined) return;
  try {
    refuseOutside(file, within);
    await refuseForeign(file, format);
  } catch (error) {
    throw error instanceof CheckpointError ? error : await toWriteError(error, file, 'the report');
  }
}

/**
 * Writes a policy file.
 *
 * @param mayReplace whether a file that is there already is replaced.
 * @throws UsageError when there is one and it must stay.
 * @throws CheckpointError `unwritable` that names the file and why.
 */
export async function writePolicyFile(path: string, text: string, mayReplace: boolean): Promise<void> {
  try {
    writeFileSync(path, text, { flag: mayReplace ? 'w' : 'wx' });
  } catch (error) {
    if (getErrorCode(error) === 'EEXIST')
      throw new UsageError(`${path}: there is such a file already`, 'To replace it: --force');
    throw await toWriteError(error, path, 'the policy');
  }
}

async function toWriteError(error: unknown, file: string, what: string): Promise<CheckpointError> {
  // Loaded when needed: a run that writes its reports starts the quicker for it.
  const { describeWriteError } = await import('../io/safe-write.js');
  return new CheckpointError(`${what} could not be written: ${describeWriteError(error)}`, {
    code: 'unwritable',
    file,
    cause: error,
  });
}

/** The file system's word for what went wrong, such as `ENOENT`. */
export function getErrorCode(error: unknown): string | null {
  return error instanceof Error && 'code' in error ? String(error.code) : null;
}

/** Symbolic links lead nowhere. */
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

/** What is there already is somebody's work, unless it is an earlier report. */
async function refuseForeign(path: string, format: ReportFormat): Promise<void> {
  const facts = lstatSync(path, { throwIfNoEntry: false });
  if (facts === undefined) return;
  const { isEarlierReport } = await import('./earlier-report.js');
  if (facts.isFile() && isEarlierReport(path, format)) return;
  throw new CheckpointError(
    `expected an earlier ${format} report or no file, found something else: a report of a policy file replaces nothing else`,
    {
      code: 'refused',
      file: path,
      hint: `Move it away, or say so on the command line: --report ${format}=FILE`,
    },
  );
}
