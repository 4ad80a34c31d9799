// Opens files that lie beside a checkpoint, and no others.

import { readdirSync } from 'node:fs';
import { dirname, extname, join } from 'node:path';
import type { ReadOptions } from '../checkpoint/checkpoint.js';
import { CheckpointError, fail, quote } from '../errors.js';
import type { ByteSource } from '../io/byte-source.js';
import { isPlace, openWithin } from '../io/places.js';

/** What a file is beside another one that names it. */
interface Naming extends ReadOptions {
  /** How messages call it, such as `weight_map: shard`. */
  readonly what: string;
  /** What its name must end with; anything unless given. */
  readonly endings?: readonly string[];
}

/**
 * Opens a file that another one names, after its name and the place that it resolves to were checked: it must be a
 * regular file below the directory of the other.
 *
 * @throws CheckpointError `refused` for a name or a link that leads out of the directory, or with another ending.
 */
export async function openBeside(index: ByteSource, name: string, options: Naming): Promise<ByteSource> {
  const { what, endings } = options;
  const refuse = (reason: string): never => fail(index.name, `${what} ${quote(name)} ${reason}`, 'refused');
  // Under Windows rules on every system: an index must mean the same everywhere.
  if (/^[\\/]|^[a-z]:/i.test(name)) refuse('has an absolute path: it must lie in the index’s own directory');
  if (name.split(/[\\/]/).includes('..'))
    refuse('leads out of the directory by "..": it must lie in the index’s own directory');
  if (name.includes('\0')) refuse('has a NUL byte in its name');
  if (endings?.includes(extname(name)) === false)
    refuse(`has another extension than ${endings.join(' or ')}`);
  if (index.openBeside !== undefined) return index.openBeside(name);
  if (index.path === undefined && isPlace(options.path))
    refuse('belongs to a file that is not on this machine');
  const directory = dirname(index.path ?? options.path);
  const path = join(directory, name);
  return openWithin(directory, path, {
    ...options,
    name: join(dirname(index.name), name),
    refusal: { file: index.name, message: `${what} ${quote(name)} is a symbolic link out of the directory` },
  });
}

/**
 * Opens the first of some names that lies beside a file, else the only file there with an ending, e.g. the .cfg beside
 * weights of Darknet; null where there is none.
 *
 * @throws CheckpointError as {@link openBeside}.
 */
export async function openFirstBeside(
  file: ByteSource,
  names: readonly string[],
  ending: string,
  options: ReadOptions,
): Promise<ByteSource | null> {
  const naming = { ...options, what: `the ${ending}` };
  if (file.path === undefined && isPlace(options.path)) return tryBeside(file, names, naming);
  const there = listBeside(file.path ?? options.path);
  const alike = there.filter((name) => extname(name) === ending);
  const found = names.find((name) => alike.includes(name)) ?? (alike.length === 1 ? alike[0] : undefined);
  return found === undefined ? null : openBeside(file, found, naming);
}

/** Over the network nothing tells what lies beside a file: each name is asked for. */
async function tryBeside(
  file: ByteSource,
  names: readonly string[],
  naming: Naming,
): Promise<ByteSource | null> {
  for (const name of file.openBeside === undefined ? [] : names) {
    try {
      return await openBeside(file, name, naming);
    } catch (error) {
      if (!(error instanceof CheckpointError) || error.code !== 'not-found') throw error;
    }
  }
  return null;
}

function listBeside(path: string): readonly string[] {
  try {
    return readdirSync(dirname(path));
  } catch {
    // A directory that may not be looked into, or none: then nothing is known to lie there.
    return [];
  }
}
