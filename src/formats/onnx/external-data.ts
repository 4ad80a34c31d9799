// Weights in files beside the model, inside its directory only.

import { realpathSync } from 'node:fs';
import { dirname, join, sep } from 'node:path';
import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import type { ByteRange } from '../../io/byte-source.js';
import { explainAs, explainFileError, type FileSource, openFileSource } from '../../io/file-source.js';

/** Every file stays open until the audit ends, two checkpoints at a time, and systems allow some thousands. */
const MAX_EXTERNAL_FILES = 1_000;

/** More digits than any offset or length that a file can have. */
const MAX_DIGITS = 20;

/** How a model is opened. */
export interface OnnxOptions {
  /** The model's path as the user named it; external data lies beside it. */
  readonly path: string;
  /**
   * Whether external data may be symbolic links that lead out of the model's directory, as those of the Hugging Face
   * cache do. Default: no.
   */
  readonly allowExternalSymlinks?: boolean | undefined;
  /** Told of every external data file that is opened, by its path. What it throws ends the opening. */
  readonly onOpenFile?: ((path: string) => void) | undefined;
}

/** The files beside a model that hold tensors; each is opened once, when the first tensor names it. */
export class ExternalData {
  readonly #options: OnnxOptions;
  readonly #files = new Map<string, FileSource>();
  #directories: readonly string[] | null = null;

  constructor(options: OnnxOptions) {
    this.#options = options;
  }

  /** The opened files by location, in the order in which tensors name them. */
  get files(): ReadonlyMap<string, FileSource> {
    return this.#files;
  }

  /**
   * Where an external tensor's bytes are.
   *
   * Keys: `location` is required; `offset` defaults to 0, `length` to the rest of the file; `checksum` is ignored.
   *
   * @param byteLength what the tensor's shape and type need.
   * @throws CheckpointError `refused` for a path that leaves the model's directory, `not-found`, `not-a-file`,
   *   `malformed` or `truncated`, naming the tensor, the file and the key.
   */
  locate(tensorName: string, entries: ReadonlyMap<string, string>, byteLength: number): ByteRange {
    const location = entries.get('location') ?? '';
    const what = `external data ${quote(location)} of tensor ${quote(tensorName)}`;
    const source = this.#open(location, what);
    const offset = this.#readNumber(entries, 'offset', what) ?? 0n;
    const rest = BigInt(source.byteLength) - offset;
    if (rest < 0n) {
      const found = `a file of ${source.byteLength} bytes: its offset lies beyond the end`;
      throw this.#error('truncated', `${what}: expected data from byte ${offset} on, found ${found}`);
    }
    const stated = this.#readNumber(entries, 'length', what);
    const length = stated ?? rest;
    if (length !== BigInt(byteLength)) {
      const wanted = `expected ${byteLength} bytes for its shape and type`;
      const isStated = stated !== undefined;
      const found = isStated
        ? `a length of ${length}`
        : `${length} from byte ${offset} to the end of the file`;
      throw this.#error('malformed', `${what}: ${wanted}, found ${found}`);
    }
    if (length > rest) {
      const found = `found the end of the file at byte ${source.byteLength}`;
      throw this.#error('truncated', `${what}: expected ${length} bytes from byte ${offset} on, ${found}`);
    }
    return { source, offset: Number(offset), byteLength };
  }

  /**
   * The file at a location, opened unless it is already.
   *
   * @throws CheckpointError as {@link locate}.
   */
  open(location: string): FileSource {
    return this.#open(location, `external data ${quote(location)}`);
  }

  async close(): Promise<void> {
    for (const file of this.#files.values()) await file.close();
    this.#files.clear();
  }

  #open(location: string, what: string): FileSource {
    const known = this.#files.get(location);
    if (known !== undefined) return known;
    this.#checkLocation(location, what);
    if (this.#files.size >= MAX_EXTERNAL_FILES) {
      const message = `expected external data in at most ${MAX_EXTERNAL_FILES} files, found more`;
      throw this.#error('limit-exceeded', message);
    }
    const realPath = this.#resolve(location, what);
    this.#options.onOpenFile?.(realPath);
    try {
      const file = openFileSource(join(dirname(this.#options.path), location), realPath);
      this.#files.set(location, file);
      return file;
    } catch (error) {
      throw this.#explain(error, what);
    }
  }

  /** Refuses locations that could mean a file elsewhere on any operating system. */
  #checkLocation(location: string, what: string): void {
    if (location === '')
      throw this.#error('malformed', `${what}: expected the key location to name a file, found none`);
    if (location.startsWith('/') || /^[A-Za-z]:/.test(location)) throw this.#refuse(what, 'an absolute path');
    if (location.includes('\\'))
      throw this.#refuse(what, 'a backslash, which is a path separator on Windows');
    if (location.includes('\0')) throw this.#refuse(what, 'a NUL character');
    if (location.split('/').includes('..')) throw this.#refuse(what, '".." in the path');
  }

  /** Follows symbolic links, and checks that they stay in the directory in which the location was looked up. */
  #resolve(location: string, what: string): string {
    this.#directories ??= modelDirectories(this.#options.path);
    let missing: unknown;
    for (const directory of this.#directories) {
      let realPath: string;
      try {
        realPath = realpathSync(join(directory, location));
      } catch (error) {
        missing ??= error;
        continue;
      }
      const isInside = realPath.startsWith(directory.endsWith(sep) ? directory : directory + sep);
      if (isInside || this.#options.allowExternalSymlinks === true) return realPath;
      throw this.#refuse(
        what,
        'a symbolic link that leads outside it',
        'Trust the files (the Hugging Face cache is laid out so)? Allow it: --allow-external-symlinks',
      );
    }
    throw this.#explain(missing, what);
  }

  #readNumber(entries: ReadonlyMap<string, string>, key: string, what: string): bigint | undefined {
    const text = entries.get(key);
    if (text === undefined) return undefined;
    if (/^[0-9]+$/.test(text) && text.length <= MAX_DIGITS) {
      const value = BigInt(text);
      if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return value;
    }
    throw this.#error(
      'malformed',
      `${what}: expected the key ${key} to be a decimal number below 2^53, found ${quote(text)}`,
    );
  }

  #explain(error: unknown, what: string): CheckpointError {
    const reason = error instanceof CheckpointError ? error : explainFileError(error, this.#options.path);
    const isMissing = reason.code === 'not-found';
    return new CheckpointError(`${what}: ${reason.message}`, {
      code: reason.code,
      file: this.#options.path,
      hint: isMissing ? 'Copy the data files along with the model; they belong beside it.' : reason.hint,
      cause: error,
    });
  }

  #refuse(what: string, found: string, hint?: string): CheckpointError {
    const message = `${what}: expected a path inside the model's directory, found ${found}`;
    return new CheckpointError(message, { code: 'refused', file: this.#options.path, hint });
  }

  #error(code: CheckpointErrorCode, message: string): CheckpointError {
    return new CheckpointError(message, { code, file: this.#options.path });
  }
}

/** The real directory in which the user named the model, then the one in which the model really lies. */
function modelDirectories(path: string): readonly string[] {
  const named = explainAs(path, () => realpathSync(dirname(path)));
  const real = explainAs(path, () => dirname(realpathSync(path)));
  return named === real ? [named] : [named, real];
}
