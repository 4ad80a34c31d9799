import { writeFileSync } from 'node:fs';
import { CheckpointError } from '../errors.js';

/**
 * Writes a report to a file, replacing what was there.
 *
 * @throws CheckpointError `unreadable` that names the file and why.
 */
export function writeReportFile(path: string, text: string): void {
  try {
    writeFileSync(path, text);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';
    throw new CheckpointError(`the report could not be written (${code})`, {
      code: 'unreadable',
      file: path,
      cause: error,
    });
  }
}
