import { readlinkSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { CheckpointError, quote } from '../errors.js';

/** What tells a file or directory from others, whatever name leads to it. */
export interface FileIdentity {
  /** Where all symbolic links lead; nothing need be there. */
  readonly realPath: string;
  /** Device and inode, which hard links share; null where nothing is there. */
  readonly inode: string | null;
}

/** Longer chains of links are circles. */
const MAX_LINKS = 40;

/** What a path leads to; null for what is neither file nor directory: a device, a pipe, a socket. */
export function identifyFile(path: string): FileIdentity | null {
  const facts = lookAt(() => statSync(path, { bigint: true }));
  if (facts !== null && !facts.isFile() && !facts.isDirectory()) return null;
  return { realPath: findRealPath(path), inode: facts === null ? null : `${facts.dev}:${facts.ino}` };
}

/** Whether two paths lead, or would lead, to one file. */
export function areSame(one: FileIdentity, other: FileIdentity): boolean {
  return one.realPath === other.realPath || (one.inode !== null && one.inode === other.inode);
}

/**
 * Whether two paths lead to one file or directory that is there: by symbolic links, hard links, or spelled in two ways.
 */
export function isSameFile(one: string, other: string): boolean {
  const [x, y] = [identifyFile(one), identifyFile(other)];
  return x !== null && y !== null && x.inode !== null && y.inode !== null && areSame(x, y);
}

/**
 * Refuses to compare a checkpoint with itself: whatever was to be found out, the answer would be that nothing moved.
 *
 * @throws CheckpointError `same-file`.
 */
export function refuseSameCheckpoint(beforePath: string, afterPath: string): void {
  if (!isSameFile(beforePath, afterPath)) return;
  throw new CheckpointError(
    `expected the checkpoint from after the training, found before itself (${quote(beforePath)})`,
    {
      code: 'same-file',
      file: afterPath,
      hint: 'Name two checkpoints; to look at one alone: bn-audit inspect FILE',
    },
  );
}

/** Where a path leads, also where nothing is there yet. */
function findRealPath(path: string, links = 0): string {
  const real = lookAt(() => realpathSync(path));
  if (real !== null) return real;
  if (dirname(path) === path) return resolve(path);
  const parent = findRealPath(dirname(path), links);
  const link = links < MAX_LINKS ? lookAt(() => readlinkSync(path)) : null;
  return link === null ? join(parent, basename(path)) : findRealPath(resolve(parent, link), links + 1);
}

/** Null where the file system does not let look: whoever opens the file says why. */
function lookAt<Found>(look: () => Found): Found | null {
  try {
    return look();
  } catch {
    return null;
  }
}
