import { lstatSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { CheckpointError, quote, UsageError } from '../errors.js';
import type { InputGuard } from './write-reports.js';

/** What tells a file from others, whatever name leads to it. */
interface Identity {
  /** Where all symbolic links lead; the file need not be there. */
  readonly realPath: string;
  /** Device and inode, which hard links share; null where there is no such file. */
  readonly inode: string | null;
}

/** Longer chains of links are circles. */
const MAX_LINKS = 40;

/**
 * Compares what a run writes with what it reads, before it does either: by real path, and by device and inode. Devices
 * and pipes may be written to any number of times.
 *
 * @param outputs as the user named them.
 * @param inputs those that are known already; the others are told to the guard as they are opened.
 * @throws UsageError when two outputs are one file.
 * @throws CheckpointError `refused` when an output is an input.
 */
export function guardInputs(outputs: readonly string[], inputs: readonly string[]): InputGuard {
  const guarded = outputs.flatMap((name) => {
    const identity = identify(name);
    return identity === null ? [] : [{ name, identity }];
  });
  guarded.forEach(({ name, identity }, index) => {
    const twin = guarded.slice(0, index).find((other) => isSame(other.identity, identity));
    if (twin !== undefined)
      throw new UsageError(`${quote(twin.name)} and ${quote(name)} are one file: it cannot be written twice`);
  });
  let harm: CheckpointError | null = null;
  const refuseHarm = () => {
    if (harm !== null) throw harm;
  };
  const onOpenFile = (path: string) => {
    const identity = identify(path);
    const output = identity === null ? undefined : guarded.find((one) => isSame(one.identity, identity));
    if (output === undefined) return;
    harm ??= new CheckpointError(
      `expected a file to write, found ${quote(path)}, which is read: what is audited is never written to`,
      { code: 'refused', file: output.name },
    );
    refuseHarm();
  };
  inputs.forEach(onOpenFile);
  return { onOpenFile, refuseHarm };
}

function isSame(one: Identity, other: Identity): boolean {
  return one.realPath === other.realPath || (one.inode !== null && one.inode === other.inode);
}

/** Null for what is no file: a device, a pipe, a socket. */
function identify(path: string): Identity | null {
  const facts = lookAt(() => statSync(path, { bigint: true }));
  if (facts !== null && !facts.isFile() && !facts.isDirectory()) return null;
  return { realPath: findRealPath(path), inode: facts === null ? null : `${facts.dev}:${facts.ino}` };
}

/** Where a path leads, also where nothing is there yet. */
function findRealPath(path: string, links = 0): string {
  const real = lookAt(() => realpathSync(path));
  if (real !== null) return real;
  const parent = lookAt(() => realpathSync(dirname(path))) ?? resolve(dirname(path));
  const isLink = lookAt(() => lstatSync(path).isSymbolicLink()) === true;
  if (!isLink || links >= MAX_LINKS) return join(parent, basename(path));
  return findRealPath(resolve(parent, readlinkSync(path)), links + 1);
}

/** Null where the file system does not let look: whoever opens the file says why. */
function lookAt<Found>(look: () => Found): Found | null {
  try {
    return look();
  } catch {
    return null;
  }
}
