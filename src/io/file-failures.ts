// Says in a sentence what the operating system means by ENOENT, EACCES, ENOSPC and the others.

import { basename, dirname } from 'node:path';
import { CheckpointError, type CheckpointErrorCode } from '../errors.js';

/** Why the file system refused, in plain words, and what to do about it. */
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
  const unknown = () =>
    unreadable(`the file system refused (${code})`, 'Try again, or use another file system.', {
      reading: `the file system refused to read it (${code})`,
    });
  return FAILURES.get(code) ?? unknown();
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
