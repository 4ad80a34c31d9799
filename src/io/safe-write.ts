import { constants, type Stats } from 'node:fs';
import {
  chmod,
  copyFile,
  type FileHandle,
  lstat,
  mkdir,
  open,
  readdir,
  realpath,
  rename,
  rm,
  stat,
} from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { CheckpointError } from '../errors.js';
import type { FileSource } from './file-source.js';

/** A file to be written: another one, with pieces of it replaced. */
export interface FileCopy {
  readonly source: FileSource;
  /** Where it stands relative to the directory that it is written to, with forward slashes. */
  readonly name: string;
  /** By offset, disjoint: so many bytes give way to others. */
  readonly splices: readonly {
    readonly offset: number;
    readonly deleted: number;
    readonly bytes: Uint8Array;
  }[];
}

/** What is written, and where. */
export interface WriteOrder {
  /** The directory that the files belong in; one that does not exist yet appears with them. */
  readonly directory: string;
  readonly isNewDirectory: boolean;
  /** What the temporary file is called after. */
  readonly label: string;
  /** In the order in which they appear; what refers to the others comes last. */
  readonly files: readonly FileCopy[];
}

/** Bytes copied at a time where a file changes its size. */
const CHUNK_BYTES = 4 * 1024 * 1024;

/** `.NAME.bn-audit-RANDOM.tmp` beside the target. */
const TEMPORARY_PREFIX = '.bn-audit-';
const TEMPORARY_SUFFIX = '.tmp';

/** Random bytes in a temporary name. */
const RANDOM_BYTES = 6;

/**
 * Files that are written, but not where they belong: in a temporary file beside the target, or in a temporary directory
 * where they are several. Whatever happens before {@link commit}, the target is as it was.
 */
export interface StagedFiles {
  /** The temporary file or directory. */
  readonly temporary: string;
  /** Where the last file is for now. */
  readonly mainPath: string;
  /** Waits until the bytes are on the disk. */
  sync(): Promise<void>;
  /** Moves the files to their places, in order. */
  commit(): Promise<void>;
  /** Removes everything that was not committed. */
  discard(): Promise<void>;
}

/**
 * Writes files beside where they belong. Copies are clones where the file system can do that.
 *
 * @throws CheckpointError `unwritable` naming the file and why; nothing is left behind then.
 */
export async function stageFiles(order: WriteOrder): Promise<StagedFiles> {
  const { files, label, directory, isNewDirectory } = order;
  const parent = isNewDirectory ? dirname(resolve(directory)) : directory;
  const temporary = join(parent, temporaryName(label));
  const isSingle = files.length === 1 && !isNewDirectory;
  const handles: FileHandle[] = [];
  const closeAll = async () => {
    for (const handle of handles.splice(0)) await handle.close();
  };
  const places = files.map((file) => ({
    file,
    from: isSingle ? temporary : join(temporary, file.name),
    to: join(directory, file.name),
  }));
  const discard = async () => {
    await closeAll();
    await rm(temporary, { recursive: true, force: true });
  };
  try {
    if (!isSingle) await mkdir(temporary);
    for (const { file, from } of places) {
      if (!isSingle) await mkdir(dirname(from), { recursive: true });
      handles.push(await writeCopy(file, from));
    }
  } catch (error) {
    await discard();
    throw explainWriteError(error, join(directory, files.at(-1)?.name ?? ''));
  }
  const guard = async (target: string, work: () => Promise<void>) => {
    try {
      await work();
    } catch (error) {
      throw explainWriteError(error, target);
    }
  };
  return {
    temporary,
    mainPath: places.at(-1)?.from ?? temporary,
    sync: () =>
      guard(directory, async () => {
        await Promise.all(handles.map((handle) => handle.sync()));
        await closeAll();
      }),
    commit: () =>
      guard(directory, async () => {
        await closeAll();
        if (isNewDirectory) await rename(temporary, directory);
        else for (const { from, to } of places) await moveInto(from, to);
        for (const path of new Set([parent, ...places.map(({ to }) => dirname(to))]))
          await syncDirectory(path);
        await discard();
      }),
    discard,
  };
}

function temporaryName(label: string): string {
  const random = crypto.getRandomValues(new Uint8Array(RANDOM_BYTES));
  return `.${label}${TEMPORARY_PREFIX}${Buffer.from(random).toString('hex')}${TEMPORARY_SUFFIX}`;
}

async function moveInto(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true });
  await rename(from, to);
}

/** A rename is on the disk once its directory is. Not every system opens directories. */
async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r').catch(() => null);
  if (handle === null) return;
  try {
    await handle.sync();
  } catch (error) {
    if (!['EINVAL', 'EPERM', 'EISDIR', 'ENOTSUP'].includes(codeOf(error))) throw error;
  } finally {
    await handle.close();
  }
}

async function writeCopy({ source, splices }: FileCopy, path: string): Promise<FileHandle> {
  const keepsSize = splices.every(({ deleted, bytes }) => deleted === bytes.byteLength);
  const handle = keepsSize ? await cloneFile(source, path) : await open(path, 'wx+');
  try {
    if (keepsSize) for (const { offset, bytes } of splices) await writeFully(handle, bytes, offset);
    else await assemble(handle, source, splices);
    return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function cloneFile(source: FileSource, path: string): Promise<FileHandle> {
  await copyFile(source.path, path, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
  // The copy takes on the mode of its original, which may forbid writing.
  const { mode, size } = await stat(path);
  if (size !== source.byteLength) {
    throw new CheckpointError(
      `expected ${source.byteLength} bytes to copy, found ${size}: it changed in the meantime`,
      { code: 'truncated', file: source.name },
    );
  }
  await chmod(path, mode | constants.S_IRUSR | constants.S_IWUSR);
  return open(path, 'r+');
}

async function assemble(handle: FileHandle, source: FileSource, splices: FileCopy['splices']): Promise<void> {
  const buffer = new Uint8Array(CHUNK_BYTES);
  let [from, to] = [0, 0];
  const copyUntil = async (end: number) => {
    while (from < end) {
      const chunk = buffer.subarray(0, Math.min(CHUNK_BYTES, end - from));
      await source.readInto(chunk, from);
      await writeFully(handle, chunk, to);
      from += chunk.byteLength;
      to += chunk.byteLength;
    }
  };
  for (const { offset, deleted, bytes } of splices) {
    await copyUntil(offset);
    await writeFully(handle, bytes, to);
    to += bytes.byteLength;
    from = offset + deleted;
  }
  await copyUntil(source.byteLength);
}

/** A write may take a part only, as it does before a disk is full. */
async function writeFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.byteLength - done, position + done);
    done += bytesWritten;
  }
}

/** What stands at a path that is to be written. */
export interface TargetFacts {
  /** The path itself, or where a symbolic link there leads. */
  readonly path: string;
  readonly found: 'nothing' | 'file' | 'directory' | 'other' | 'dangling link';
}

/** Looks at a path that is to be written, through symbolic links. */
export async function examineTarget(path: string): Promise<TargetFacts> {
  const itself = await statOrNull(() => lstat(path));
  if (itself === null) return { path, found: 'nothing' };
  const facts = await statOrNull(() => stat(path));
  if (facts === null) return { path, found: 'dangling link' };
  const found = facts.isDirectory() ? 'directory' : facts.isFile() ? 'file' : 'other';
  // Such as /dev/stdout: a link to a pipe leads to no path.
  const hasRealPath = itself.isSymbolicLink() && found !== 'other';
  return { path: hasRealPath ? await realpath(path) : path, found };
}

/** Whether two paths lead to one file: by symbolic links, hard links, or spelled in two ways. */
export async function isSameFile(one: string, other: string): Promise<boolean> {
  const [x, y] = [await statOrNull(() => stat(one)), await statOrNull(() => stat(other))];
  return x !== null && y !== null && x.dev === y.dev && x.ino === y.ino;
}

/** Whether two directories are one. */
export async function isSameDirectory(one: string, other: string): Promise<boolean> {
  return isSameFile(one === '' ? '.' : one, other === '' ? '.' : other);
}

async function statOrNull(look: () => Promise<Stats>): Promise<Stats | null> {
  try {
    return await look();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(codeOf(error))) return null;
    throw error;
  }
}

/** Temporary files and directories that earlier writes to a target have left behind: they were killed. */
export async function findLeftovers(directory: string, label: string): Promise<readonly string[]> {
  const names = await readdir(directory === '' ? '.' : directory).catch(() => []);
  return names
    .filter((name) => name.startsWith(`.${label}${TEMPORARY_PREFIX}`) && name.endsWith(TEMPORARY_SUFFIX))
    .sort()
    .map((name) => join(directory, name));
}

/** Why the file system refused to write, in plain words. */
export function describeWriteError(error: unknown): string {
  const failures: Readonly<Record<string, string>> = {
    ENOSPC: 'the disk is full',
    EDQUOT: 'the disk quota is used up',
    EFBIG: 'the file is larger than the limit for files here (ulimit -f)',
    EACCES: 'no permission to write there',
    EPERM: 'no permission to write there',
    EROFS: 'the file system is read-only',
    ENOENT: 'its directory does not exist',
    ENOTDIR: 'a part of its path is no directory',
    EISDIR: 'it is a directory',
    ENOTEMPTY: 'the directory there is not empty',
    ENAMETOOLONG: 'its name is too long',
    EXDEV: 'its directory spans two file systems',
  };
  const code = codeOf(error);
  return failures[code] ?? `the file system refused (${code})`;
}

/** A file system error while nothing was in its place yet, in plain words. */
export function explainWriteError(error: unknown, target: string): unknown {
  if (error instanceof CheckpointError || !(error instanceof Error) || !('code' in error)) return error;
  return new CheckpointError(`it could not be written: ${describeWriteError(error)}`, {
    code: 'unwritable',
    file: basename(target) === '' ? dirname(target) : target,
    hint: 'Nothing was changed.',
    cause: error,
  });
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';
}
