// Files on disk as byte sources, and the one window through which they are read.

import * as nodeFs from 'node:fs';
import { CheckpointError } from '../errors.js';
import { type ByteSource, checkBounds } from './byte-source.js';
import { describeFailure } from './file-failures.js';

/** Bytes of a whole window. */
const WINDOW_BYTES = 16 * 1024;

/** How often all windows were closed. */
let closings = 0;

/** Has every open file read again what it is asked for: it may have changed since it was opened, or looked at last. */
export function closeWindows(): void {
  closings++;
}

/** A part of a file that was read for the sake of what it holds near. */
class FileWindow {
  #buffer = new Uint8Array(0);
  #start = 0;
  #end = 0;
  #closings = 0;

  holds(start: number, end: number): boolean {
    return this.#start <= start && end <= this.#end && this.#closings === closings;
  }

  /** Whether a position lies in the window, or so little behind it that the next one would hold it. */
  isNear(position: number): boolean {
    return this.#start <= position && position <= this.#end + WINDOW_BYTES;
  }

  /** Bytes to be filled; until {@link put}, the window holds nothing. */
  empty(byteLength: number): Uint8Array {
    this.#end = this.#start;
    if (this.#buffer.byteLength < byteLength) this.#buffer = new Uint8Array(byteLength);
    return this.#buffer.subarray(0, byteLength);
  }

  /** Says where in the file the bytes are from. */
  put(position: number, byteLength: number): void {
    this.#start = position;
    this.#end = position + byteLength;
    this.#closings = closings;
  }

  copyTo(target: Uint8Array, position: number): void {
    const from = position - this.#start;
    target.set(this.#buffer.subarray(from, from + target.byteLength));
  }
}

/**
 * After so many bytes the event loop gets a turn. Reads are synchronous: on cached bytes a system call is several
 * times quicker than a trip through the thread pool, and a caller's timers and signals must run all the same.
 */
const YIELD_BYTES = 32 * 1024 * 1024;

/**
 * Shorter reads go through windows on the file: small tensors stand together, and a system call takes as long as to copy
 * a whole window. Two, since a layer's tensors may stand at two places: safetensors keeps integers before floats. Where
 * nothing was read near, a window holds no more than is asked for: what is read here and there stays as little.
 */
const SMALL_BYTES = 4 * 1024;

/** What most reads have to say; they are many, and one promise will do for all. */
const DONE = Promise.resolve();

/** What of a file system it takes to read a file; tests hand in one that fails. */
interface ReadableFiles {
  openSync(path: string, flags: number): number;
  fstatSync(descriptor: number): FileFacts;
  readSync(
    descriptor: number,
    target: Uint8Array,
    start: number,
    byteLength: number,
    position: number,
  ): number;
  closeSync(descriptor: number): void;
}

/** What is known of an open file: its size in bytes, and what it is. */
interface FileFacts {
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
  /** The one that was used last, and the other. */
  readonly #windows: [FileWindow, FileWindow] = [new FileWindow(), new FileWindow()];

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
      if (target.byteLength < SMALL_BYTES) this.#copySmall(target, position);
      else this.#fill(target, position);
    } catch (error) {
      return Promise.reject(error);
    }
    return Math.floor(this.#bytesRead / YIELD_BYTES) > turns ? takeTurn() : DONE;
  }

  async close(): Promise<void> {
    const descriptor = this.#descriptor;
    this.#descriptor = null;
    for (const window of this.#windows) window.empty(0);
    if (descriptor !== null) explainAs(this.name, () => this.#files.closeSync(descriptor));
  }

  #copySmall(target: Uint8Array, position: number): void {
    const end = position + target.byteLength;
    const [last, other] = this.#windows;
    if (!last.holds(position, end)) {
      if (!other.holds(position, end) && !this.#move(other, position, target.byteLength)) {
        this.#fill(target, position);
        return;
      }
      this.#windows.reverse();
    }
    this.#windows[0].copyTo(target, position);
  }

  /** False where something in reach cannot be read: it need not be what is asked for. */
  #move(window: FileWindow, position: number, wanted: number): boolean {
    const isNear = this.#windows.some((each) => each.isNear(position));
    const bytes = window.empty(isNear ? Math.min(WINDOW_BYTES, this.byteLength - position) : wanted);
    try {
      this.#fill(bytes, position);
    } catch {
      return false;
    }
    window.put(position, bytes.byteLength);
    return true;
  }

  #fill(target: Uint8Array, position: number): void {
    let filled = 0;
    while (filled < target.byteLength) {
      const count = this.#readOnce(target, filled, position + filled);
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

  #readOnce(target: Uint8Array, filled: number, position: number): number {
    const descriptor = this.#descriptor;
    if (descriptor === null) throw new Error(`${this.name} was read after it was closed`);
    const length = target.byteLength - filled;
    return explainAs(this.name, () => this.#files.readSync(descriptor, target, filled, length, position));
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

function describeFileKind(stat: FileFacts): string {
  if (stat.isDirectory()) return 'a directory';
  if (stat.isFIFO()) return 'a FIFO (named pipe)';
  if (stat.isSocket()) return 'a socket';
  if (stat.isCharacterDevice() || stat.isBlockDevice()) return 'a device';
  return 'something else';
}
