import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { CheckpointError, failUnreachable, UsageError } from '../errors.js';
import { examineTarget, explainWriteError, temporaryName } from '../io/safe-write.js';
import { isSameFile } from '../io/same-file.js';

/** What must be known of a file before it is written. */
export interface BaselineTarget {
  /** The checkpoint that the baseline is made from: it is never replaced. */
  readonly source: string;
  /** Whether another file that is there already is replaced. */
  readonly mayReplace: boolean;
}

/**
 * Checks that a baseline may be written to a path, before any work goes into it.
 *
 * @returns where to write: the path itself, or where a symbolic link there leads; and whether a regular file goes there.
 * @throws UsageError when there is a file already and it must stay, or it is the checkpoint itself.
 * @throws CheckpointError `unwritable` when a directory stands there.
 */
export async function chooseBaselineTarget(
  path: string,
  { source, mayReplace }: BaselineTarget,
): Promise<{ readonly path: string; readonly isRegular: boolean }> {
  const target = await examineTarget(path);
  switch (target.found) {
    case 'nothing':
      return { path, isRegular: true };
    case 'directory':
      throw new CheckpointError('expected a file to write the baseline to, found a directory', {
        code: 'unwritable',
        file: path,
        hint: 'Name a file in it, such as backbone.bn.safetensors.',
      });
    case 'other':
      // A pipe or a device takes the bytes; nothing can be put in its place.
      return { path, isRegular: false };
    case 'dangling link':
    case 'file':
      if (isSameFile(path, source))
        throw new UsageError(`${path}: this is the checkpoint itself`, 'Name another file with -o.');
      if (!mayReplace)
        throw new UsageError(`${path}: there is such a file already`, 'To replace it: --force');
      return { path: target.path, isRegular: true };
    default:
      return failUnreachable(target.found);
  }
}

/**
 * Writes a file as a whole or not at all: to a temporary one beside it first, which then takes its place.
 *
 * @throws CheckpointError `unwritable` naming the file and why.
 */
export function writeBaselineFile(
  { path, isRegular }: { readonly path: string; readonly isRegular: boolean },
  bytes: Uint8Array,
): void {
  const temporary = join(dirname(path), temporaryName(basename(path)));
  try {
    if (!isRegular) {
      writeFileSync(path, bytes);
      return;
    }
    const descriptor = openSync(temporary, 'wx');
    try {
      writeFileSync(descriptor, bytes);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(temporary, path);
  } catch (error) {
    if (isRegular) discard(temporary);
    throw explainWriteError(error, path);
  }
}

/** Why it failed says more than why this did. */
function discard(temporary: string): void {
  try {
    rmSync(temporary, { force: true });
  } catch {
    // What is left behind has a name that tells what it is.
  }
}
