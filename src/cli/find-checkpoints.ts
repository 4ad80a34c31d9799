// The checkpoints that an argument of a command means: a path, a glob, and for a run its directory.

import { type Dirent, lstatSync, readdirSync, statSync } from 'node:fs';
import { basename, dirname, isAbsolute, join } from 'node:path';
import { Glob, type Reached } from '../compare/globs.js';
import { CheckpointError, quote, UsageError } from '../errors.js';
import { findInDirectory, isNamedAsModel } from '../formats/open.js';
import { findOnMachine, isPlace } from '../io/places.js';
import { isDirectory, isSameFile } from '../io/write-target.js';
import { compareNaturally } from '../norm/naming.js';
import { formatPlural } from '../report/format-numbers.js';

/** Globs that have to look at more files and directories, all of a run together, were not meant: `/**`. */
const MAX_ENTRIES = 200_000;

/** Told of a place that a glob leads to and that could not be looked into, and of the code of the error. */
type OnSkip = (path: string, code: string) => void;

/** What finding checkpoints tells, and how much it has looked at. */
export interface Search {
  readonly onSkip: OnSkip;
  entries: number;
}

/** A search that keeps where it could not look. */
export function startSearch(): { readonly search: Search; readonly unseen: ReadonlyMap<string, string> } {
  const unseen = new Map<string, string>();
  return { search: { onSkip: (path, code) => unseen.set(path, code), entries: 0 }, unseen };
}

/** Says where globs could not look, in a sentence; nothing where they could look everywhere. */
export function describeUnseen(
  unseen: ReadonlyMap<string, string>,
  missed: 'audited' | 'traced',
): readonly string[] {
  return [...unseen]
    .slice(0, 1)
    .map(
      ([path, code]) =>
        `bn-audit: not ${missed}: what is in ${formatPlural(unseen.size, 'place')} where a glob could not look, such as ${quote(path)} (${code})`,
    );
}

/**
 * The checkpoints that an argument means: the place or path itself, or, where it is a glob and no such file exists, every file
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
  if (isPlace(argument)) return [argument];
  const locate = (path: string) => (isAbsolute(argument) || directory === '.' ? path : join(directory, path));
  const path = locate(argument);
  if (exists(path)) return [path];
  const { base, rest } = splitGlob(argument);
  if (rest === '') return [path];
  const start = locate(base);
  const found = listMatches(start, rest, argument, search);
  // Opening the glob itself will say that there is no such file: one audit that fails among others that do not.
  if (found.length === 0) return [path];
  return found.map((name) => join(start, name));
}

/**
 * The same for the checkpoints of a training run, where a directory means all that it and those below it hold: files that
 * are named as models, and directories that open as one, such as `checkpoint-500`. What belongs to these is left out.
 *
 * @throws as {@link findCheckpoints}.
 */
export function findRun(argument: string, directory: string, search: Search): readonly string[] {
  return findCheckpoints(argument, directory, search).flatMap((path) =>
    isPlace(path) || !isDirectory(path) ? [path] : listRun(path, argument, search),
  );
}

/** Every checkpoint that arguments mean. One that catches before among others does not mean it. */
export function expandAfter(
  before: string,
  after: readonly string[],
  find: (argument: string) => readonly string[],
): readonly string[] {
  return after.flatMap((argument) => {
    const found = find(argument);
    const others =
      found.length === 1 ? found : found.filter((path) => !isSameFile(path, findOnMachine(before)));
    return others.length === 0 ? found : others;
  });
}

function listRun(start: string, argument: string, search: Search): readonly string[] {
  const found = listMatches(start, '**', argument, search);
  const holders = new Set([
    ...(opens(start) ? ['.'] : []),
    ...found.filter((name) => isDirectory(join(start, name))),
  ]);
  const own = found.filter((name) => {
    const isHeld = holders.has(dirname(name));
    // What a SavedModel is made of opens as a checkpoint too.
    return holders.has(name)
      ? !(isHeld && basename(name) === 'variables')
      : !isHeld && isNamedAsModel(basename(name));
  });
  const listed = [...(holders.has('.') ? [start] : []), ...own.map((name) => join(start, name))];
  // Opening the directory will say that there is no checkpoint.
  return listed.length === 0 ? [start] : listed;
}

/** Whether a directory is a checkpoint itself. */
function opens(directory: string): boolean {
  try {
    return findInDirectory(directory) !== null;
  } catch (error) {
    if (error instanceof CheckpointError) return false;
    throw error;
  }
}

/** Names from `start` that a glob matches, `epoch9` before `epoch10`. */
function listMatches(start: string, glob: string, argument: string, search: Search): readonly string[] {
  const found: string[] = [];
  for (const { name, isMatch } of walk(start, glob, search.onSkip)) {
    if (++search.entries > MAX_ENTRIES)
      throw new UsageError(
        `${quote(argument)}: more than ${MAX_ENTRIES} files to look at`,
        'Start the glob with a directory: runs/**/*.pt',
      );
    if (isMatch) found.push(name);
  }
  return found.sort(compareNaturally);
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
  // What is not there is no match, and a glob without any is an error in the end; of all else that fails is told.
  const tryAt = <Value>(path: string, look: () => Value, otherwise: Value): Value => {
    try {
      return look();
    } catch (error) {
      const cause = error instanceof CheckpointError ? error.cause : error;
      const code = cause instanceof Error && 'code' in cause ? String(cause.code) : null;
      if (code === null && !(error instanceof CheckpointError)) throw error;
      if (code !== null && code !== 'ENOENT' && code !== 'ENOTDIR') onSkip(path, code);
      return otherwise;
    }
  };
  const isCheckpoint = (entry: Dirent, path: string): boolean => {
    if (entry.isSymbolicLink()) return tryAt(path, () => statSync(path).isFile(), false);
    return (
      entry.isFile() || (entry.isDirectory() && tryAt(path, () => findInDirectory(path) !== null, false))
    );
  };
  const places: Place[] = [{ directory: start, prefix: '', reached: glob.start }];
  for (let place = places.pop(); place !== undefined; place = places.pop()) {
    const { directory } = place;
    const entries = tryAt(directory, () => readdirSync(directory, { withFileTypes: true }), []);
    for (const entry of entries) {
      const [name, path] = [place.prefix + entry.name, join(directory, entry.name)];
      const reached = glob.readComponent(place.reached, entry.name);
      yield { name, isMatch: glob.isMatch(reached) && isCheckpoint(entry, path) };
      const below = entry.isDirectory() ? glob.readSeparator(reached) : [];
      if (below.length > 0) places.push({ directory: path, prefix: `${name}/`, reached: below });
    }
  }
}
