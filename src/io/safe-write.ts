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
import { CheckpointError, quote } from '../errors.js';
import { type ByteRange, sliceRange } from './byte-source.js';
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
    readonly content: ByteRange;
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

/** What {@link stageFiles} may be told beside the order. */
export interface StageOptions {
  /** Provides the memory that contents are read into; some are computed faster in memory of their own. */
  readonly allocate?: ((byteLength: number) => Uint8Array) | undefined;
}

/** At most so many bytes are written at a time: few calls, and what was just computed is still in the processor's cache. */
const CHUNK_BYTES = 1024 * 1024;

/** Pieces start at multiples of this in a buffer: elements of any type are aligned, and can be computed in place. */
const PIECE_ALIGNMENT = 64;

/** Where a larger share of a file is replaced, copying all of it first would write most of it twice. */
const MAX_REPLACED_SHARE = 0.5;

/** `.NAME.bn-audit-RANDOM.tmp` beside the target. */
const TEMPORARY_PREFIX = '.bn-audit-';
const TEMPORARY_SUFFIX = '.tmp';

/** Random hexadecimal digits in a temporary name. */
const RANDOM_DIGITS = 12;

/** Every file system takes names as long as these: the least limit in use is that of eCryptfs, 143 bytes. */
const SHORT_NAME_BYTES = 100;

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
  /** Removes everything that was not committed, as far as the file system lets it. */
  discard(): Promise<void>;
}

/**
 * Writes files beside where they belong. Copies are clones where the file system can do that.
 *
 * @throws CheckpointError `unwritable` naming the file and why; nothing is left behind then.
 */
export async function stageFiles(order: WriteOrder, options: StageOptions = {}): Promise<StagedFiles> {
  const { files, label, directory, isNewDirectory } = order;
  const parent = isNewDirectory ? dirname(resolve(directory)) : directory;
  const temporary = join(parent, temporaryName(label));
  const isSingle = files.length === 1 && !isNewDirectory;
  const { allocate = (byteLength) => new Uint8Array(byteLength) } = options;
  const both = allocate(2 * CHUNK_BYTES);
  const buffers: Buffers = [both.subarray(0, CHUNK_BYTES), both.subarray(CHUNK_BYTES)];
  const handles: FileHandle[] = [];
  const closeAll = async () => {
    const outcomes = await Promise.allSettled(handles.splice(0).map((handle) => handle.close()));
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  };
  const places = files.map((file) => ({
    file,
    from: isSingle ? temporary : join(temporary, file.name),
    to: join(directory, file.name),
  }));
  const discard = async () => {
    await closeAll();
    // Why it failed says more than why this did; what is left behind, the next run names.
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
  };
  try {
    if (!isSingle) await mkdir(temporary);
    for (const { file, from } of places) {
      if (!isSingle) await mkdir(dirname(from), { recursive: true });
      handles.push(await writeCopy(file, from, buffers));
    }
  } catch (error) {
    // What is there already is not ours.
    if (codeOf(error) !== 'EEXIST') await discard();
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
        else await moveAll(places);
        for (const path of new Set([parent, ...places.map(({ to }) => dirname(to))]))
          await syncDirectory(path);
        await discard();
      }),
    discard,
  };
}

/** Moves files to their places, one after the other; where one fails, those before it are there already. */
async function moveAll(places: readonly { readonly from: string; readonly to: string }[]): Promise<void> {
  const moved: string[] = [];
  for (const { from, to } of places) {
    try {
      await moveInto(from, to);
    } catch (error) {
      const explained = explainWriteError(error, to);
      if (moved.length === 0 || !(explained instanceof CheckpointError)) throw explained;
      const { message, code, file } = explained;
      const hint = `Already in place: ${moved.map(quote).join(', ')}.`;
      throw new CheckpointError(message, { code, file, cause: error, hint });
    }
    moved.push(to);
  }
}

/**
 * A name beside a target that nothing has, most likely; where something has it, creating it fails. It need not be hard to
 * guess. It is no longer than the target's own, unless that is short: a file system that takes the one takes the other.
 */
export function temporaryName(label: string): string {
  const random = Math.floor(Math.random() * 16 ** RANDOM_DIGITS).toString(16);
  return `${temporaryStart(label)}${random.padStart(RANDOM_DIGITS, '0')}${TEMPORARY_SUFFIX}`;
}

/** How every temporary name of a target starts. */
function temporaryStart(label: string): string {
  const rest = `.${TEMPORARY_PREFIX}${TEMPORARY_SUFFIX}`.length + RANDOM_DIGITS;
  const limit = Math.max(Buffer.byteLength(label), SHORT_NAME_BYTES) - rest;
  let kept = label;
  while (Buffer.byteLength(kept) > limit) kept = [...kept].slice(0, -1).join('');
  return `.${kept}${TEMPORARY_PREFIX}`;
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

/** One is filled while the other is written. */
type Buffers = readonly [Uint8Array, Uint8Array];

async function writeCopy(copy: FileCopy, path: string, buffers: Buffers): Promise<FileHandle> {
  const isClone = isMostlyKept(copy);
  const handle = isClone ? await cloneFile(copy.source, path) : await createLike(copy.source, path);
  try {
    const write = (ranges: readonly ByteRange[], position: number) =>
      writeRanges(ranges, { handle, position, buffers });
    if (isClone) for (const { offset, content } of copy.splices) await write([content], offset);
    else await write(listParts(copy), 0);
    return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Whether a copy of a file needs only some of its bytes replaced, each by as many others. */
function isMostlyKept({ source, splices }: FileCopy): boolean {
  const replaced = splices.reduce((sum, { deleted }) => sum + deleted, 0);
  return (
    splices.every(({ deleted, content }) => deleted === content.byteLength) &&
    replaced <= MAX_REPLACED_SHARE * source.byteLength
  );
}

async function cloneFile(source: FileSource, path: string): Promise<FileHandle> {
  await copyFile(source.path, path, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
  const { mode, size } = await stat(path);
  if (size !== source.byteLength) {
    throw new CheckpointError(
      `expected ${source.byteLength} bytes to copy, found ${size}: it changed in the meantime`,
      { code: 'truncated', file: source.name },
    );
  }
  await chmod(path, writable(mode));
  return open(path, 'r+');
}

/** A new file with the mode of another, as a copy has it. */
async function createLike(source: FileSource, path: string): Promise<FileHandle> {
  const { mode } = await stat(source.path);
  const handle = await open(path, 'wx+', constants.S_IRUSR | constants.S_IWUSR);
  try {
    await handle.chmod(writable(mode));
    return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** A copy takes on the mode of its original, which may forbid writing. */
function writable(mode: number): number {
  return mode | constants.S_IRUSR | constants.S_IWUSR;
}

/** Everything that a file consists of once its splices are in it. */
function listParts({ source, splices }: FileCopy): readonly ByteRange[] {
  const whole = { source, offset: 0, byteLength: source.byteLength };
  const parts: ByteRange[] = [];
  let kept = 0;
  for (const { offset, deleted, content } of splices) {
    parts.push(sliceRange(whole, kept, offset), content);
    kept = offset + deleted;
  }
  return [...parts, sliceRange(whole, kept, source.byteLength)];
}

/** Writes ranges one after the other. While one buffer is on its way to the file, the next is read or computed. */
async function writeRanges(
  ranges: readonly ByteRange[],
  to: { readonly handle: FileHandle; readonly position: number; readonly buffers: Buffers },
): Promise<void> {
  let [free, busy] = to.buffers;
  let written = Promise.resolve();
  let end = to.position;
  for (const pieces of layOutBuffers(ranges)) {
    const filled = pieces.map(({ start, range }) => ({
      range,
      bytes: free.subarray(start, start + range.byteLength),
    }));
    const fill = async () => {
      for (const { range, bytes } of filled) await range.source.readInto(bytes, range.offset);
    };
    await Promise.all([fill(), written]);
    const contents = filled.map(({ bytes }) => bytes);
    written = writeFully(to.handle, contents, end);
    [free, busy] = [busy, free];
    end += contents.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }
  await written;
}

/** What is read into a buffer at `start`. */
interface Piece {
  readonly start: number;
  readonly range: ByteRange;
}

/**
 * Cuts ranges into what fits into a buffer and is written by one call: small ones go along with what is beside them. The
 * system's limit of pieces for each call is libuv's to keep.
 */
function* layOutBuffers(ranges: readonly ByteRange[]): Generator<readonly Piece[]> {
  let pieces: Piece[] = [];
  let start = 0;
  for (const range of ranges) {
    for (let done = 0; done < range.byteLength; ) {
      const byteLength = Math.min(range.byteLength - done, CHUNK_BYTES - start);
      pieces.push({ start, range: sliceRange(range, done, done + byteLength) });
      done += byteLength;
      start += Math.ceil(byteLength / PIECE_ALIGNMENT) * PIECE_ALIGNMENT;
      if (start < CHUNK_BYTES) continue;
      yield pieces;
      [pieces, start] = [[], 0];
    }
  }
  if (pieces.length > 0) yield pieces;
}

/** A write may take a part only, as it does before a disk is full. */
async function writeFully(
  handle: FileHandle,
  pieces: readonly Uint8Array[],
  position: number,
): Promise<void> {
  let left = pieces;
  for (let end = position; left.length > 0; ) {
    const { bytesWritten } = await handle.writev(left, end);
    end += bytesWritten;
    left = skipBytes(left, bytesWritten);
  }
}

/** What remains of pieces without their first bytes. */
function skipBytes(pieces: readonly Uint8Array[], count: number): readonly Uint8Array[] {
  let end = 0;
  return pieces.flatMap((piece) => {
    end += piece.byteLength;
    return end <= count ? [] : piece.subarray(Math.max(0, piece.byteLength - (end - count)));
  });
}

/** What stands at a path that is to be written. */
export interface TargetFacts {
  /** The path itself, or where a symbolic link there leads. */
  readonly path: string;
  readonly found: 'nothing' | 'file' | 'directory' | 'other' | 'dangling link';
}

/**
 * Looks at a path that is to be written, through symbolic links.
 *
 * @throws CheckpointError `unwritable` where it may not even be looked at.
 */
export async function examineTarget(path: string): Promise<TargetFacts> {
  const itself = await statOrNull(() => lstat(path), path);
  if (itself === null) return { path, found: 'nothing' };
  const facts = await statOrNull(() => stat(path), path);
  if (facts === null) return { path, found: 'dangling link' };
  const found = facts.isDirectory() ? 'directory' : facts.isFile() ? 'file' : 'other';
  // Such as /dev/stdout: a link to a pipe leads to no path.
  const hasRealPath = itself.isSymbolicLink() && found !== 'other';
  return { path: hasRealPath ? await realpath(path) : path, found };
}

/** Whether a path leads to a directory; false also where it may not be looked at. */
export async function isDirectory(path: string): Promise<boolean> {
  const facts = await stat(path).catch(() => null);
  return facts?.isDirectory() === true;
}

async function statOrNull(look: () => Promise<Stats>, path: string): Promise<Stats | null> {
  try {
    return await look();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(codeOf(error))) return null;
    throw explainWriteError(error, path);
  }
}

/** Temporary files and directories that earlier writes to a target have left behind: they were killed. */
export async function findLeftovers(directory: string, label: string): Promise<readonly string[]> {
  const names = await readdir(directory === '' ? '.' : directory).catch(() => []);
  return names
    .filter((name) => name.startsWith(temporaryStart(label)) && name.endsWith(TEMPORARY_SUFFIX))
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
    EEXIST: 'there is such a file already',
    ELOOP: 'its symbolic links lead in a circle',
    EBUSY: 'something else uses it',
    ETXTBSY: 'it is a program that runs',
    EMFILE: 'too many files are open',
    ENFILE: 'too many files are open',
    EINVAL: 'its name or content is none that the file system takes',
    EIO: 'the disk or the network failed',
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
