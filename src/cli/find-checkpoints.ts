import { type Dirent, lstatSync, readdirSync, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { findShardIndex } from '../checkpoint/shards.js';
import { CheckpointError, quote, UsageError } from '../errors.js';
import { compareNaturally } from '../norm/naming.js';

/** A glob that has to look at more files and directories was not meant: `/**`. */
const MAX_ENTRIES = 200_000;

/**
 * The checkpoints that an argument means: the path itself, or, where it is a glob and no such file exists, every file
 * that it matches and every directory of shards, `epoch9` before `epoch10`. Links to directories are not followed.
 *
 * @param directory what relative paths and globs start from; the results do not.
 * @throws UsageError when a glob would look at too many files.
 */
export async function findCheckpoints(argument: string, directory = '.'): Promise<readonly string[]> {
  const locate = (path: string) => (isAbsolute(argument) || directory === '.' ? path : join(directory, path));
  const path = locate(argument);
  if (exists(path)) return [path];
  // Loaded when needed: most arguments are paths, and the run starts the quicker for it.
  const { default: picomatch } = await import('picomatch');
  const { base, isGlob, glob } = picomatch.scan(escapeParentheses(argument), GLOB_OPTIONS);
  if (!isGlob) return [path];
  const isMatch = picomatch(glob, GLOB_OPTIONS);
  const depth = glob.includes('**') ? Number.POSITIVE_INFINITY : glob.split('/').length;
  const start = locate(base === '' ? '.' : base.replace(/\\([()])/g, '$1'));
  const found: string[] = [];
  let entryCount = 0;
  for (const { name, entry, parent } of walk(start, depth)) {
    if (++entryCount > MAX_ENTRIES)
      throw new UsageError(
        `${quote(argument)}: more than ${MAX_ENTRIES} files to look at`,
        'Start the glob with a directory: runs/**/*.pt',
      );
    if (isMatch(name) && isCheckpoint(entry, join(parent, entry.name))) found.push(name);
  }
  // Opening the glob itself will say that there is no such file: one audit that fails among others that do not.
  if (found.length === 0) return [path];
  return found.sort(compareNaturally).map((name) => join(start, name));
}

/** Without negation and extended globs: `!(…)` is no way to name a checkpoint. */
const GLOB_OPTIONS = { nonegate: true, noextglob: true } as const;

/** `run (1)` is a name; groups are none of the globs that are meant here. */
function escapeParentheses(glob: string): string {
  return glob.replace(/[()]/g, '\\$&');
}

/** False also where the file system does not let look: whoever opens the path says why. */
function exists(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return false;
  }
}

interface Entry {
  /** From where the walk started, with forward slashes. */
  readonly name: string;
  readonly entry: Dirent;
  readonly parent: string;
}

function* walk(parent: string, depth: number, prefix = ''): Generator<Entry> {
  for (const entry of listDirectory(parent)) {
    const name = prefix + entry.name;
    yield { name, entry, parent };
    if (entry.isDirectory() && depth > 1) yield* walk(join(parent, entry.name), depth - 1, `${name}/`);
  }
}

function listDirectory(path: string): readonly Dirent[] {
  try {
    return readdirSync(path, { withFileTypes: true });
  } catch {
    // A directory that is not there or not ours holds no match; a glob without any match is an error in the end.
    return [];
  }
}

function isCheckpoint(entry: Dirent, path: string): boolean {
  if (entry.isFile()) return true;
  if (entry.isSymbolicLink()) return leadsToFile(path);
  return entry.isDirectory() && holdsCheckpoint(path);
}

/** A link that leads nowhere, or in a circle, is no match. */
function leadsToFile(link: string): boolean {
  try {
    return statSync(link).isFile();
  } catch {
    return false;
  }
}

function holdsCheckpoint(directory: string): boolean {
  try {
    return findShardIndex(directory) !== null;
  } catch (error) {
    if (error instanceof CheckpointError) return false;
    throw error;
  }
}
