// Writes files so that a full disk or Ctrl-C leaves the last good one: beside the target first, then renamed.

import type { Stats } from 'node:fs';
import * as nodeFs from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { CheckpointError, quote } from '../errors.js';
import {
  type ByteRange,
  type ByteSource,
  listSpliced,
  type Splice,
  sliceRange,
  wholeOf,
} from './byte-source.js';
import { codeOf, explainWriteError, explainWriting, explainWritingLater } from './file-source.js';
import {
  checkTarget,
  isThere,
  refuseWayOut,
  systemError,
  type TargetRules,
  type WritableFiles,
} from './write-target.js';

/** A file to be written: another one, with pieces of it replaced. */
export interface FileCopy {
  readonly source: ByteSource;
  /** Where it stands relative to the directory that it is written to, with forward slashes. */
  readonly name: string;
  readonly splices: readonly Splice[];
}

/** Text or bytes in pieces, in order, each asked for when the one before it is written. */
type Pieces = (Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>) & object;

interface NewFile {
  readonly name: string;
  readonly pieces: Pieces;
  /** The file that gives way to it: its permissions and its owner stay. */
  readonly replaced: Stats | null;
}

/** What is written, and where. */
export interface WriteOrder<File = FileCopy> {
  /** The directory that the files belong in; one that does not exist yet appears with them. */
  readonly directory: string;
  readonly isNewDirectory: boolean;
  /** What the temporary file is called after. */
  readonly label: string;
  /** In the order in which they appear; what refers to the others comes last. */
  readonly files: readonly File[];
  /** Whether files give way that are there by the time that these are put in place. */
  readonly mayReplace: boolean;
  /** Whether nobody else may read them while they are not in place: all users of a machine may share the directory. */
  readonly isPrivate?: boolean;
}

/** At most so many bytes are written at a time: few calls, and what was just computed is still in the processor's cache. */
const CHUNK_BYTES = 1024 * 1024;

/** Shorter text is gathered before it is written. */
const TEXT_LENGTH = 64 * 1024;

/** Pieces start at multiples of this in a buffer: elements of any type are aligned, and can be computed in place. */
const PIECE_ALIGNMENT = 64;

/** Where a larger share of a file is replaced, copying all of it first would write most of it twice. */
const MAX_REPLACED_SHARE = 0.5;

/** `.NAME.bn-audit-RANDOM.tmp` beside the target. */
const TEMPORARY_PREFIX = '.bn-audit-';
const TEMPORARY_SUFFIX = '.tmp';

const RANDOM_DIGITS = 12;

/** Every file system takes names as long as these: the least limit in use is that of eCryptfs, 143 bytes. */
const SHORT_NAME_BYTES = 100;

interface WriteOptions extends TargetRules {
  /** Whether it appears only when its bytes are on the disk: it is worth more than the time that takes. */
  readonly isDurable?: boolean | undefined;
}

/**
 * Writes a file as a whole or not at all: to a temporary one beside it, which then takes its place. Directories that are
 * missing are made. A pipe or a device is written to as it is.
 *
 * @throws CheckpointError as {@link checkTarget}; `refused` also where a file that must stay appeared meanwhile.
 */
export async function writeFile(path: string, pieces: Pieces, options: WriteOptions): Promise<void> {
  const { what, mayReplace, within, isDurable, files = nodeFs } = options;
  const { path: real, found } = checkTarget(path, options);
  if (found === 'other') return explainWritingLater(path, what, () => writeDirectly(real, pieces, files));
  const directory = dirname(real);
  const replaced = explainWriting(path, what, () => (found === 'file' ? files.statSync(real) : null));
  const name = basename(real);
  const staged = await stageFiles(
    { directory, isNewDirectory: false, label: name, files: [{ name, pieces, replaced }], mayReplace },
    { what, files },
  );
  try {
    if (isDurable === true) await staged.sync();
    // Since the first look, a directory on the way may have become a link.
    if (within !== undefined && checkTarget(path, options).path !== real) throw refuseWayOut(path, options);
    await staged.commit();
  } finally {
    staged.discard();
  }
}

/** What is no regular file takes bytes, and nothing can be put in its place; the one at the other end may be slow. */
async function writeDirectly(path: string, pieces: Pieces, files: WritableFiles): Promise<void> {
  const { O_WRONLY, O_APPEND, O_NOCTTY } = nodeFs.constants;
  const descriptor = await promisify(files.open)(path, O_WRONLY | O_APPEND | (O_NOCTTY ?? 0));
  try {
    for await (const piece of encodePieces(pieces)) await writeFully([piece], { descriptor, files });
  } finally {
    files.closeSync(descriptor);
  }
}

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
  discard(): void;
}

/**
 * Writes files beside where they belong, in directories that are made where they are missing. Copies are clones where the
 * file system can do that.
 *
 * @throws CheckpointError `unwritable` naming the file and why; nothing is left behind then.
 */
export async function stageFiles(
  order: WriteOrder<FileCopy | NewFile>,
  { what, files = nodeFs }: Pick<TargetRules, 'what' | 'files'> = {},
): Promise<StagedFiles> {
  const { label, directory, isNewDirectory, mayReplace } = order;
  const parent = isNewDirectory ? dirname(resolve(directory)) : directory;
  const temporary = join(parent, temporaryName(label));
  const isSingle = order.files.length === 1 && !isNewDirectory;
  const places = order.files.map((file) => ({
    file,
    from: isSingle ? temporary : join(temporary, file.name),
    to: join(directory, file.name),
  }));
  const mainTarget = places.at(-1)?.to ?? directory;
  let made: string | undefined;
  const discard = () => {
    // Why it failed says more than why this did; what is left behind, the next run names.
    removeQuietly(temporary, files);
    if (made !== undefined) removeEmpty(parent, made, files);
    if (temporaries.delete(temporary) && temporaries.size === 0) onTemporaries(false);
  };
  explainWriting(mainTarget, what, () => {
    // What is there already is not ours to remove.
    if (isThere(temporary, files)) throw systemError('EEXIST');
    if (!isThere(parent, files)) made = files.mkdirSync(parent, { recursive: true });
  });
  // Before the file is made: whatever ends the process then finds it.
  temporaries.add(temporary);
  if (temporaries.size === 1) onTemporaries(true);
  try {
    if (!isSingle) files.mkdirSync(temporary, { mode: order.isPrivate === true ? 0o700 : 0o777 });
    const both = new Uint8Array(2 * CHUNK_BYTES);
    const buffers: Buffers = [both.subarray(0, CHUNK_BYTES), both.subarray(CHUNK_BYTES)];
    for (const { file, from } of places) {
      if (!isSingle) files.mkdirSync(dirname(from), { recursive: true });
      if ('pieces' in file) await writeNew(file, from, files);
      else await writeCopy(file, from, { buffers, files });
    }
  } catch (error) {
    discard();
    throw explainWriteError(error, mainTarget, what);
  }
  let isSynced = false;
  return {
    temporary,
    mainPath: places.at(-1)?.from ?? temporary,
    sync: () =>
      explainWritingLater(mainTarget, what, async () => {
        for (const { from } of places) await syncFile(from, 'r+', files);
        isSynced = true;
      }),
    commit: () =>
      explainWritingLater(mainTarget, what, async () => {
        if (isNewDirectory) putDirectory(temporary, directory, files);
        else putAll(places, { what, mayReplace, files });
        // A new name is on the disk once its directory is.
        const folders = isSynced ? new Set([parent, ...places.map(({ to }) => dirname(to))]) : [];
        // Not every system opens directories, or has them synced; the files are where they belong all the same.
        for (const folder of folders) await syncFile(folder, 'r', files).catch(() => undefined);
        discard();
      }),
    discard,
  };
}

/** One is filled while the other is written. */
type Buffers = readonly [Uint8Array, Uint8Array];

async function writeCopy(
  copy: FileCopy,
  path: string,
  { buffers, files }: { readonly buffers: Buffers; readonly files: WritableFiles },
): Promise<void> {
  const { source, splices } = copy;
  const replaced = splices.reduce((sum, { deleted }) => sum + deleted, 0);
  const { path: original } = source;
  const isClone =
    original !== undefined &&
    splices.every(({ deleted, content }) => deleted === content.byteLength) &&
    replaced <= MAX_REPLACED_SHARE * source.byteLength;
  const descriptor = isClone
    ? await cloneFile({ name: source.name, byteLength: source.byteLength, path: original }, path, files)
    : original === undefined
      ? files.openSync(path, 'wx')
      : createFile(path, files.statSync(original).mode, files);
  try {
    const write = (ranges: readonly ByteRange[], position: number) =>
      writeRanges(ranges, { descriptor, position, buffers, files });
    if (isClone) for (const { offset, content } of splices) await write([content], offset);
    else await write(listSpliced(wholeOf(source), splices), 0);
  } finally {
    files.closeSync(descriptor);
  }
}

async function cloneFile(
  source: Pick<ByteSource, 'name' | 'byteLength'> & { readonly path: string },
  path: string,
  files: WritableFiles,
): Promise<number> {
  const { COPYFILE_FICLONE, COPYFILE_EXCL } = nodeFs.constants;
  await promisify(files.copyFile)(source.path, path, COPYFILE_FICLONE | COPYFILE_EXCL);
  const { mode, size } = files.statSync(path);
  if (size !== source.byteLength) {
    const message = `expected ${source.byteLength} bytes to copy, found ${size}: it changed in the meantime`;
    throw new CheckpointError(message, { code: 'truncated', file: source.name });
  }
  files.chmodSync(path, writable(mode));
  return files.openSync(path, 'r+');
}

/** A new file with the mode of another, as a copy has it. Nobody else may open it before it has. */
function createFile(path: string, mode: number, files: WritableFiles): number {
  const descriptor = files.openSync(path, 'wx', nodeFs.constants.S_IRUSR | nodeFs.constants.S_IWUSR);
  try {
    files.fchmodSync(descriptor, writable(mode));
    return descriptor;
  } catch (error) {
    files.closeSync(descriptor);
    throw error;
  }
}

/** Permissions of an original may forbid writing; its copy is to be written. */
function writable(mode: number): number {
  return (mode & 0o777) | nodeFs.constants.S_IRUSR | nodeFs.constants.S_IWUSR;
}

async function writeNew({ pieces, replaced }: NewFile, path: string, files: WritableFiles): Promise<void> {
  const descriptor = replaced === null ? files.openSync(path, 'wx') : createFile(path, replaced.mode, files);
  try {
    if (replaced !== null) keepOwner(descriptor, replaced, files);
    for await (const piece of encodePieces(pieces)) await writeFully([piece], { descriptor, files });
  } finally {
    files.closeSync(descriptor);
  }
}

/** Only the superuser may give files away; what others replace becomes theirs. */
function keepOwner(descriptor: number, { uid, gid }: Stats, files: WritableFiles): void {
  try {
    files.fchownSync(descriptor, uid, gid);
  } catch {
    // As said.
  }
}

/** Gathers short text, and encodes it. A character of two halves may be split over two pieces. */
async function* encodePieces(pieces: Pieces): AsyncGenerator<Uint8Array> {
  let text = '';
  for await (const piece of pieces) {
    if (typeof piece !== 'string') {
      for (let start = 0; start < piece.byteLength; start += CHUNK_BYTES)
        yield piece.subarray(start, start + CHUNK_BYTES);
      continue;
    }
    text += piece;
    if (text.length < TEXT_LENGTH) continue;
    const end = /[\ud800-\udbff]$/.test(text) ? text.length - 1 : text.length;
    yield Buffer.from(text.slice(0, end));
    text = text.slice(end);
  }
  if (text !== '') yield Buffer.from(text);
}

/** Writes ranges one after the other. While one buffer is on its way to the file, the next is read or computed. */
async function writeRanges(
  ranges: readonly ByteRange[],
  to: { descriptor: number; position: number; buffers: Buffers; files: WritableFiles },
): Promise<void> {
  let [free, busy] = to.buffers;
  let written = Promise.resolve();
  let end = to.position;
  for (const pieces of layOutBuffers(ranges)) {
    const contents = pieces.map(({ start, range }) => free.subarray(start, start + range.byteLength));
    const fill = async () => {
      for (const [i, { range }] of pieces.entries())
        await range.source.readInto(contents[i] as Uint8Array, range.offset);
    };
    const filled = fill();
    // Whoever fails waits for the other: files are closed then, and their numbers are given to the next ones.
    await Promise.allSettled([filled, written]);
    await filled;
    await written;
    written = writeFully(contents, to, end);
    [free, busy] = [busy, free];
    end += contents.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }
  await written;
}

/**
 * Cuts ranges into what fits into a buffer and is written by one call: small ones go along with what is beside them. The
 * system's limit of pieces for each call is libuv's to keep.
 */
function* layOutBuffers(ranges: readonly ByteRange[]) {
  let pieces: { start: number; range: ByteRange }[] = [];
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

/**
 * Writes pieces one after the other. A write may take a part only, as it does before a disk is full.
 *
 * @param position in the file; where its last write ended unless given.
 */
async function writeFully(
  pieces: readonly Uint8Array[],
  { descriptor, files }: { descriptor: number; files: WritableFiles },
  position?: number,
): Promise<void> {
  let left = pieces;
  for (let end = position; left.length > 0; ) {
    const { bytesWritten } = await promisify(files.writev)(descriptor, left, end);
    if (end !== undefined) end += bytesWritten;
    let skipped = -bytesWritten;
    left = left.flatMap((piece) => {
      skipped += piece.byteLength;
      return skipped <= 0 ? [] : piece.subarray(Math.max(0, piece.byteLength - skipped));
    });
  }
}

interface Putting extends Pick<TargetRules, 'what' | 'mayReplace'> {
  readonly files: WritableFiles;
}

/** Puts files in place, one after the other; where one fails, those before it are there already. */
function putAll(places: readonly { from: string; to: string }[], putting: Putting): void {
  const moved: string[] = [];
  for (const { from, to } of places) {
    try {
      putting.files.mkdirSync(dirname(to), { recursive: true });
      putFile(from, to, putting);
    } catch (error) {
      const explained = explainWriteError(error, to, putting.what);
      if (moved.length === 0 || !(explained instanceof CheckpointError)) throw explained;
      const { message, code, file } = explained;
      const hint = `Already in place: ${moved.map(quote).join(', ')}.`;
      throw new CheckpointError(message, { code, file, cause: error, hint });
    }
    moved.push(to);
  }
}

/**
 * Gives a file its name. Only a rename replaces another file at once; only a link fails where there is one. Where the
 * file system knows no hard links (FAT, some of the network), an empty file is made, which fails just so, and replaced:
 * whoever kills the process in between finds it empty.
 */
function putFile(from: string, to: string, { mayReplace, files }: Putting): void {
  if (mayReplace) {
    files.renameSync(from, to);
    return;
  }
  try {
    try {
      files.linkSync(from, to);
    } catch (error) {
      if (codeOf(error) === 'EEXIST') throw error;
      files.closeSync(files.openSync(to, 'wx'));
      try {
        files.renameSync(from, to);
      } catch (reason) {
        removeQuietly(to, files);
        throw reason;
      }
    }
  } catch (error) {
    throw codeOf(error) === 'EEXIST' ? refuseAppeared(to, error) : error;
  }
  removeQuietly(from, files);
}

/** A rename replaces no directory that holds something, and no file. */
function putDirectory(from: string, to: string, files: WritableFiles): void {
  try {
    files.renameSync(from, to);
  } catch (error) {
    throw isThere(to, files) ? refuseAppeared(to, error) : error;
  }
}

function refuseAppeared(file: string, cause: unknown): CheckpointError {
  return new CheckpointError('a file appeared there while this one was made: it was left as it is', {
    code: 'refused',
    file,
    hint: 'Move it away, or name another file.',
    cause,
  });
}

async function syncFile(path: string, flags: 'r' | 'r+', files: WritableFiles): Promise<void> {
  const descriptor = files.openSync(path, flags);
  try {
    await promisify(files.fsync)(descriptor);
  } finally {
    files.closeSync(descriptor);
  }
}

const temporaries = new Set<string>();

let onTemporaries = (_areAny: boolean): void => {};

/** Has a listener told when there are temporary files, and when there are none any more. */
export function watchTemporaries(listener: (areAny: boolean) => void): void {
  onTemporaries = listener;
}

/** Removes every temporary file and directory at once, for a process that is about to end. */
export function removeTemporaries(): void {
  for (const path of temporaries) removeQuietly(path, nodeFs);
}

/** Removes a directory that was made and those above it, up to the first one that was made, as long as nothing is in them. */
function removeEmpty(directory: string, first: string, files: WritableFiles): void {
  try {
    for (let path = resolve(directory); ; path = dirname(path)) {
      files.rmdirSync(path);
      if (path === resolve(first)) return;
    }
  } catch {
    // What holds the file stays.
  }
}

function removeQuietly(path: string, files: Pick<WritableFiles, 'rmSync'>): void {
  try {
    files.rmSync(path, { recursive: true, force: true });
  } catch {
    // What is left behind has a name that tells what it is.
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

/** Temporary files and directories that earlier writes to a target have left behind: they were killed. */
export function findLeftovers(directory: string, label: string): readonly string[] {
  try {
    return nodeFs
      .readdirSync(directory === '' ? '.' : directory)
      .filter((name) => name.startsWith(temporaryStart(label)) && name.endsWith(TEMPORARY_SUFFIX))
      .sort()
      .map((name) => join(directory, name));
  } catch {
    return [];
  }
}
