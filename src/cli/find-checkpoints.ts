import { type Dirent, lstatSync, readdirSync, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { findShardIndex } from '../checkpoint/shards.js';
import { Glob, type Reached } from '../compare/globs.js';
import { CheckpointError, quote, UsageError } from '../errors.js';
import { compareNaturally } from '../norm/naming.js';

/** Globs that have to look at more files and directories, all of a run together, were not meant: `/**`. */
const MAX_ENTRIES = 200_000;

/** Told of a place that a glob leads to and that could not be looked into, and of the code of the error. */
export type OnSkip = (path: string, code: string) => void;

/** What the globs of one run have in common. */
export interface Search {
  readonly onSkip: OnSkip;
  /** Files and directories that were looked at so far. */
  entries: number;
}

/**
 * The checkpoints that an argument means: the path itself, or, where it is a glob and no such file exists, every file
 * that it matches and every directory of shards, `epoch9` before `epoch10`. Links to directories are not followed.
 *
 * @param directory what relative paths and globs start from; the results do not.
 * @throws UsageError when it is empty, or globs that would look at too many files.
 */
export function findCheckpoints(
  argument: string,
  directory = '.',
  search: Search = { onSkip: () => {}, entries: 0 },
): readonly string[] {
  if (argument === '')
    throw new UsageError('expected a checkpoint, or a glob over files, found an empty text');
  const locate = (path: string) => (isAbsolute(argument) || directory === '.' ? path : join(directory, path));
  const path = locate(argument);
  if (exists(path)) return [path];
  const { base, rest } = splitGlob(argument);
  if (rest === '') return [path];
  const start = locate(base);
  const found: string[] = [];
  for (const { name, isMatch } of walk(start, rest, search.onSkip)) {
    if (++search.entries > MAX_ENTRIES)
      throw new UsageError(
        `${quote(argument)}: more than ${MAX_ENTRIES} files to look at`,
        'Start the glob with a directory: runs/**/*.pt',
      );
    if (isMatch) found.push(name);
  }
  // Opening the glob itself will say that there is no such file: one audit that fails among others that do not.
  if (found.length === 0) return [path];
  return found.sort(compareNaturally).map((name) => join(start, name));
}

/** A glob as the directory that it begins with and what follows, from the first component with a wildcard on. */
function splitGlob(glob: string): { readonly base: string; readonly rest: string } {
  let index = 0;
  while (index < glob.length && !'*?[{'.includes(glob.charAt(index))) index += glob[index] === '\\' ? 2 : 1;
  if (index >= glob.length) return { base: glob, rest: '' };
  const begin = glob.lastIndexOf('/', index) + 1;
  const base = glob.slice(0, begin).replace(/\\(.)/gs, '$1');
  return { base: base === '' ? '.' : base, rest: glob.slice(begin) };
}

/** False also where the file system does not let look: whoever opens the path says why. */
function exists(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return false;
  }
}

/** A directory that may hold matches. */
interface Place {
  readonly directory: string;
  /** What its entries are called from where the walk started, with forward slashes. */
  readonly prefix: string;
  readonly reached: Reached;
}

/** Goes through the directories in which a glob may match, and no others. */
function* walk(
  start: string,
  text: string,
  onSkip: OnSkip,
): Generator<{ readonly name: string; readonly isMatch: boolean }> {
  const glob = new Glob(text, { separators: '/', seesHidden: false });
  const places: Place[] = [{ directory: start, prefix: '', reached: glob.start }];
  for (let place = places.pop(); place !== undefined; place = places.pop()) {
    for (const entry of listDirectory(place.directory, onSkip)) {
      const [name, path] = [place.prefix + entry.name, join(place.directory, entry.name)];
      const reached = glob.readComponent(place.reached, entry.name);
      yield { name, isMatch: glob.isMatch(reached) && isCheckpoint(entry, path, onSkip) };
      const below = entry.isDirectory() ? glob.readSeparator(reached) : [];
      if (below.length > 0) places.push({ directory: path, prefix: `${name}/`, reached: below });
    }
  }
}

function listDirectory(path: string, onSkip: OnSkip): readonly Dirent[] {
  return tryPast(() => readdirSync(path, { withFileTypes: true }), [], { path, onSkip });
}

function isCheckpoint(entry: Dirent, path: string, onSkip: OnSkip): boolean {
  if (entry.isSymbolicLink()) return tryPast(() => statSync(path).isFile(), false, { path, onSkip });
  if (entry.isFile()) return true;
  return entry.isDirectory() && tryPast(() => findShardIndex(path) !== null, false, { path, onSkip });
}

/** What is not there is no match, and a glob without any match is an error in the end; of all else that fails is told. */
function tryPast<Value>(
  look: () => Value,
  otherwise: Value,
  { path, onSkip }: { readonly path: string; readonly onSkip: OnSkip },
): Value {
  try {
    return look();
  } catch (error) {
    const cause = error instanceof CheckpointError ? error.cause : error;
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : null;
    if (code === null && !(error instanceof CheckpointError)) throw error;
    if (code !== null && code !== 'ENOENT' && code !== 'ENOTDIR') onSkip(path, code);
    return otherwise;
  }
}
