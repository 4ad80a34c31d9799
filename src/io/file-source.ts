// Files on disk as byte sources, and what the operating system means by ENOENT, EACCES, ENOSPC and the others.

import * as nodeFs from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { CheckpointError, type CheckpointErrorCode, fail, quote } from '../errors.js';
import { findNearest } from '../options.js';
import { type ByteSource, checkBounds, SmallReads } from './byte-source.js';

/**
 * After so many bytes the event loop gets a turn. Reads are synchronous: on cached bytes a system call is several
 * times quicker than a trip through the thread pool, and a caller's timers and signals must run all the same.
 */
const YIELD_BYTES = 32 * 1024 * 1024;

/** What most reads have to say; they are many, and one promise will do for all. */
const DONE = Promise.resolve();

/** What of a file system it takes to read a file; tests hand in one that fails. */
type ReadableFiles = Pick<typeof nodeFs, 'openSync' | 'fstatSync' | 'readSync' | 'closeSync'>;

/**
 * A regular file, opened for reading. `name` is how the user called it; `path` where it is, when that differs.
 *
 * Opening never blocks: a FIFO is opened without waiting for its writer and then refused.
 *
 * @throws CheckpointError `not-found`, `not-a-file` (directory, FIFO, device, socket) or `unreadable`.
 */
export function openFileSource(name: string, path: string = name, files: ReadableFiles = nodeFs): FileSource {
  const { O_RDONLY, O_NONBLOCK } = nodeFs.constants;
  const descriptor = explainAs(name, () => files.openSync(path, O_RDONLY | (O_NONBLOCK ?? 0)));
  try {
    const stat = explainAs(name, () => files.fstatSync(descriptor));
    if (!stat.isFile()) {
      const message = `expected a regular file, found ${describeFileKind(stat)}`;
      fail(name, message, 'not-a-file');
    }
    return new FileSource({ name, path, byteLength: stat.size, modifiedMs: stat.mtimeMs }, descriptor, files);
  } catch (error) {
    files.closeSync(descriptor);
    throw error;
  }
}

/** Does what asks the file system for something, and says in plain words what it refuses. */
export function explainAs<Result>(name: string, work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    throw explainFileError(error, name);
  }
}

/** An open regular file as a {@link ByteSource}. Made by {@link openFileSource}. */
export class FileSource implements ByteSource {
  readonly name: string;
  /** Where the file is. */
  readonly path: string;
  readonly byteLength: number;
  /** When it was last written to, as it was opened. */
  readonly modifiedMs: number;
  readonly #files: ReadableFiles;
  #descriptor: number | null;
  #bytesRead = 0;
  #small: SmallReads | null = null;

  /** @param descriptor of a regular file that the process has open. */
  constructor(
    { name, path, byteLength, modifiedMs }: Pick<FileSource, 'name' | 'path' | 'byteLength' | 'modifiedMs'>,
    descriptor: number,
    files: ReadableFiles,
  ) {
    this.#files = files;
    this.name = name;
    this.path = path;
    this.byteLength = byteLength;
    this.modifiedMs = modifiedMs;
    this.#descriptor = descriptor;
  }

  get bytesRead(): number {
    return this.#bytesRead;
  }

  readInto(target: Uint8Array, position: number): Promise<void> {
    const turns = Math.floor(this.#bytesRead / YIELD_BYTES);
    try {
      checkBounds(this, position, target.byteLength);
      if (this.#small?.fill(target, position) === true) return DONE;
      this.#fill(target, position);
      this.#small?.keep(target, position);
    } catch (error) {
      return Promise.reject(error);
    }
    return Math.floor(this.#bytesRead / YIELD_BYTES) > turns ? setImmediate() : DONE;
  }

  keepSmallReads(): void {
    this.#small ??= new SmallReads();
  }

  refuseChanged(): void {
    const descriptor = this.#descriptor;
    // Of a file that is closed, the one counts that stands in its place now: it would be opened next.
    const look = () => (descriptor === null ? nodeFs.statSync(this.path) : this.#files.fstatSync(descriptor));
    const { size, mtimeMs } = explainAs(this.name, look);
    if (size === this.byteLength && mtimeMs === this.modifiedMs) return;
    fail(this.name, 'the file changed while it was read', 'unreadable', {
      hint: 'Run again when nothing writes to it any more.',
    });
  }

  async close(): Promise<void> {
    const descriptor = this.#descriptor;
    this.#descriptor = null;
    this.#small?.release();
    this.#small = null;
    if (descriptor !== null) explainAs(this.name, () => this.#files.closeSync(descriptor));
  }

  #fill(target: Uint8Array, position: number): void {
    const descriptor = this.#descriptor;
    if (descriptor === null) throw new Error(`${this.name} was read after it was closed`);
    let filled = 0;
    while (filled < target.byteLength) {
      const [start, left] = [filled, target.byteLength - filled];
      const count = explainAs(this.name, () =>
        this.#files.readSync(descriptor, target, start, left, position + start),
      );
      if (count === 0) {
        const found = 'found the end of the file: it shrank while it was read';
        const details = { code: 'truncated', file: this.name, offset: position + filled } as const;
        throw new CheckpointError(`expected ${target.byteLength} bytes, ${found}`, details);
      }
      filled += count;
    }
    this.#bytesRead += filled;
  }
}

/** A file system error as a {@link CheckpointError} in plain words. */
export function explainFileError(error: unknown, name: string): CheckpointError {
  const { code, reading, hint = suggestNeighbour(error, name) } = describeFailure(error);
  return new CheckpointError(reading, { code, file: name, hint, cause: error });
}

/** So many names of a directory are looked at for one that was meant. */
const MAX_NEIGHBOURS = 10_000;

/** A file that is there, where one is not whose name is nearly the same. */
function suggestNeighbour(error: unknown, name: string): string | undefined {
  if (!isSystemError(error) || error.code !== 'ENOENT' || error.path === undefined) return undefined;
  try {
    const neighbours = nodeFs.readdirSync(dirname(error.path)).slice(0, MAX_NEIGHBOURS);
    const nearest = basename(name).length > 200 ? null : findNearest(basename(name), neighbours);
    return nearest === null ? undefined : `Did you mean ${quote(join(dirname(name), nearest))}?`;
  } catch {
    // A directory that is not there, or may not be looked into, has nothing to suggest.
    return undefined;
  }
}

function describeFileKind(stat: nodeFs.Stats): string {
  if (stat.isDirectory()) return 'a directory';
  if (stat.isFIFO()) return 'a FIFO (named pipe)';
  if (stat.isSocket()) return 'a socket';
  if (stat.isCharacterDevice() || stat.isBlockDevice()) return 'a device';
  return 'something else';
}

interface FileFailure {
  /** What kind of error it is to whoever reads. */
  readonly code: CheckpointErrorCode;
  /** Why a file cannot be read; a message by itself. */
  readonly reading: string;
  /** Why a file cannot be written: what follows "it could not be written: ". */
  readonly writing: string;
  /** The way out of either, in one sentence. */
  readonly hint?: string;
  /** The way out for whoever writes, where that is another. */
  readonly writingHint?: string;
}

function unreadable(both: string, hint: string, more: Partial<FileFailure> = {}): FileFailure {
  return { code: 'unreadable', reading: both, writing: both, hint, ...more };
}

function noFile(reading: string, writing: string, writingHint: string): FileFailure {
  return { code: 'not-found', reading, writing, writingHint };
}

function noRegularFile(found: string, writing: string, writingHint = 'Name a regular file.'): FileFailure {
  return { code: 'not-a-file', reading: `expected a ${found}`, writing, writingHint };
}

/** The error codes that opening, reading, listing and writing files may end with (`errno.h`, and Node's own). */
const FAILURES: ReadonlyMap<string, FileFailure> = mapCodes({
  ENOENT: noFile('no such file', 'its directory does not exist', 'Make the directory first.'),
  ENOTDIR: noFile(
    'no such file: a part of its path is no directory',
    'a part of its path is no directory',
    'Give another path.',
  ),
  ENAMETOOLONG: noFile('no such file: the name is too long', 'its name is too long', 'Give a shorter name.'),
  ERR_INVALID_ARG_VALUE: noFile(
    'no such file: the name holds a NUL character',
    'its name holds a NUL character',
    'Give another name.',
  ),
  EISDIR: noRegularFile('file, found a directory', 'it is a directory', 'Name a file in it.'),
  ENXIO: noRegularFile(
    'regular file, found a socket or a pipe',
    'it is a socket, or a pipe or device with nothing at its other end',
  ),
  ENODEV: noRegularFile('regular file, found a device that is not there', 'it is a device that is not there'),
  'EACCES EPERM': {
    code: 'unreadable',
    reading: 'no permission to read it',
    writing: 'no permission to write there',
    writingHint: 'Write elsewhere, or as a user who may.',
  },
  ELOOP: {
    code: 'unreadable',
    reading: 'its symbolic links lead in a circle',
    writing: 'its symbolic links lead in a circle',
    writingHint: 'Remove the link, or give another path.',
  },
  EROFS: unreadable(
    'the file system is read-only',
    'Write elsewhere, or mount it so that it can be written.',
  ),
  ENOSPC: unreadable('the disk is full', 'Make room there, or write elsewhere.'),
  EDQUOT: unreadable('the disk quota is used up', 'Make room there, or write elsewhere.'),
  EFBIG: unreadable('the file is larger than the limit for files here (ulimit -f)', 'Raise the limit.'),
  EOVERFLOW: unreadable('the file is larger than this system can handle', 'Use a 64-bit system.'),
  EMFILE: unreadable('too many files are open', 'Raise the limit (ulimit -n), or name fewer files at once.'),
  ENFILE: unreadable('too many files are open', 'End other programs, or raise the limit of the system.'),
  'ENOMEM ENOBUFS': unreadable(
    'the system is out of memory',
    'End other programs, or use a machine with more memory.',
  ),
  'EIO ESTALE ETIMEDOUT ENOLINK ENOTCONN ECONNABORTED ECONNREFUSED ECONNRESET EHOSTUNREACH ENETDOWN ENETUNREACH':
    unreadable(
      'the disk or the network failed',
      'Try again, and look at the disk or the connection if it stays so.',
      { reading: 'the disk or the network failed while it was read' },
    ),
  EBUSY: unreadable('something else uses it', 'Wait until it is free, or name another file.'),
  ETXTBSY: unreadable('it is a program that runs', 'End the program, or name another file.'),
  'EAGAIN EWOULDBLOCK EDEADLK ENOLCK': unreadable(
    'another program has locked it',
    'Wait for that program, or end it.',
  ),
  EINTR: unreadable('a signal interrupted it', 'Try again.'),
  EBADF: unreadable('it was closed meanwhile', 'Try again.'),
  EPIPE: unreadable('whoever reads from it has stopped', 'Start both again.'),
  EEXIST: unreadable('there is such a file already', 'Move it away, or give another name.'),
  ENOTEMPTY: unreadable('the directory there is not empty', 'Move it away, or give another name.'),
  EXDEV: unreadable('its directory spans two file systems', 'Write to a directory of one file system.'),
  EMLINK: unreadable('it has more links than a file may have', 'Give another path.'),
  EINVAL: unreadable(
    'its name or content is none that the file system takes',
    'Give another name, or use another file system.',
  ),
  EILSEQ: unreadable('its name is none that the file system takes', 'Give another name.'),
  'ENOSYS ENOTSUP EOPNOTSUPP': unreadable(
    'the file system cannot do that',
    'Copy the file to another file system, and try again there.',
    { writingHint: 'Write to another file system.' },
  ),
});

/** A failure of several codes stands under all of them. */
function mapCodes(failures: Readonly<Record<string, FileFailure>>): ReadonlyMap<string, FileFailure> {
  const rows = Object.entries(failures);
  return new Map(rows.flatMap(([codes, failure]) => codes.split(' ').map((code) => [code, failure])));
}

/** What an error of the file system means; one that is not known is named by its code. */
export function describeFailure(error: unknown): FileFailure {
  const code = codeOf(error);
  const reading = `the file system refused to read it (${code})`;
  const hint = 'Try again, or use another file system.';
  return FAILURES.get(code) ?? unreadable(`the file system refused (${code})`, hint, { reading });
}

/** The file system's word for what went wrong, such as `ENOENT`. */
export function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';
}

/** Whether an error comes from a call of the operating system. */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error && 'code' in error;
}

/** A file system error while nothing was in its place yet, in plain words. */
export function explainWriteError(error: unknown, target: string, what = 'it'): unknown {
  if (error instanceof CheckpointError || !(error instanceof Error) || !('code' in error)) return error;
  const { writing, hint, writingHint = hint } = describeFailure(error);
  return new CheckpointError(`${what} could not be written: ${writing}`, {
    code: 'unwritable',
    file: basename(target) === '' ? dirname(target) : target,
    hint: `Nothing was changed. ${writingHint ?? ''}`.trimEnd(),
    cause: error,
  });
}

/** Does what writes, and says in plain words what the file system refuses; `what` is as in messages, `it` unless given. */
export function explainWriting<Result>(target: string, what: string | undefined, work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    throw explainWriteError(error, target, what);
  }
}

/** The same of what takes its time. */
export async function explainWritingLater<Result>(
  target: string,
  what: string | undefined,
  work: () => Promise<Result>,
): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    throw explainWriteError(error, target, what);
  }
}
