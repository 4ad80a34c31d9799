// Files on disk as byte sources: what is asked for is read from the file then, whatever was read before.

import * as nodeFs from 'node:fs';
import { CheckpointError } from '../errors.js';
import { type ByteSource, checkBounds } from './byte-source.js';
import { describeFailure } from './file-failures.js';

/**
 * After so many bytes the event loop gets a turn. Reads are synchronous: on cached bytes a system call is several
 * times quicker than a trip through the thread pool, and a caller's timers and signals must run all the same.
 */
const YIELD_BYTES = 32 * 1024 * 1024;

/** What most reads have to say; they are many, and one promise will do for all. */
const DONE = Promise.resolve();

/** What of a file system it takes to read a file; tests hand in one that fails. */
interface ReadableFiles {
  openSync(path: string, flags: number): number;
  fstatSync(descriptor: number): FileStat;
  readSync(descriptor: number, target: Uint8Array, offset: number, length: number, position: number): number;
  closeSync(descriptor: number): void;
}

/** What a file is, as `fstat` tells. */
interface FileStat {
  readonly size: number;
  isFile(): boolean;
  isDirectory(): boolean;
  isFIFO(): boolean;
  isSocket(): boolean;
  isCharacterDevice(): boolean;
  isBlockDevice(): boolean;
}

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
      throw new CheckpointError(`expected a regular file, found ${describeFileKind(stat)}`, {
        code: 'not-a-file',
        file: name,
      });
    }
    return new FileSource({ name, path, byteLength: stat.size, descriptor }, files);
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

/** A regular file that the process has open: what a {@link FileSource} is made of. */
interface OpenFile {
  readonly name: string;
  readonly path: string;
  readonly byteLength: number;
  readonly descriptor: number;
}

/** An open regular file as a {@link ByteSource}. Made by {@link openFileSource}. */
export class FileSource implements ByteSource {
  readonly name: string;
  /** Where the file is. */
  readonly path: string;
  readonly byteLength: number;
  readonly #files: ReadableFiles;
  #descriptor: number | null;
  #bytesRead = 0;

  constructor({ name, path, byteLength, descriptor }: OpenFile, files: ReadableFiles = nodeFs) {
    this.#files = files;
    this.name = name;
    this.path = path;
    this.byteLength = byteLength;
    this.#descriptor = descriptor;
  }

  /** How many bytes were read so far. */
  get bytesRead(): number {
    return this.#bytesRead;
  }

  readInto(target: Uint8Array, position: number): Promise<void> {
    const turns = Math.floor(this.#bytesRead / YIELD_BYTES);
    try {
      checkBounds(this, position, target.byteLength);
      this.#fill(target, position);
    } catch (error) {
      return Promise.reject(error);
    }
    return Math.floor(this.#bytesRead / YIELD_BYTES) > turns ? takeTurn() : DONE;
  }

  async close(): Promise<void> {
    const descriptor = this.#descriptor;
    this.#descriptor = null;
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
        throw new CheckpointError(
          `expected ${target.byteLength} bytes, found the end of the file: it shrank while it was read`,
          { code: 'truncated', file: this.name, offset: position + filled },
        );
      }
      filled += count;
    }
    this.#bytesRead += filled;
  }
}

/** Lets the event loop see to what waits. */
function takeTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/** A file system error as a {@link CheckpointError} in plain words. */
export function explainFileError(error: unknown, name: string): CheckpointError {
  const { code, reading, hint } = describeFailure(error);
  return new CheckpointError(reading, { code, file: name, hint, cause: error });
}

function describeFileKind(stat: FileStat): string {
  if (stat.isDirectory()) return 'a directory';
  if (stat.isFIFO()) return 'a FIFO (named pipe)';
  if (stat.isSocket()) return 'a socket';
  if (stat.isCharacterDevice() || stat.isBlockDevice()) return 'a device';
  return 'something else';
}
