// Lists the checkpoints under a directory: which files are one by themselves, which are parts of one, and how they stand.

import { readdirSync, realpathSync, type Stats, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Glob, type Reached } from '../compare/globs.js';
import { fail, quote, UsageError } from '../errors.js';
import { isNamedAsModel } from '../formats/open.js';
import { codeOf, describeFailure, isSystemError } from '../io/file-source.js';
import { lookAt } from '../io/write-target.js';

/** How files stand: whether they change is told from two of these. */
export interface Stamp {
  /**
   * Sizes and times of writing. Inodes are left out: some network file systems number the same file anew whenever they
   * are asked.
   */
  readonly content: string;
  /** What permissions and names are kept by too: a file that could not be read may be readable when this changes. */
  readonly all: string;
  /** The latest time of writing, in milliseconds since 1970. */
  readonly written: number;
}

/** A checkpoint that lies under a directory. */
export interface FoundCheckpoint {
  /** What opens it, a file or a directory, and how it is shown. */
  readonly path: string;
  /** Its files as far as their names tell, that which refers to the others first. */
  readonly files: readonly string[];
  /** Device, inode, size and time of the first file: what a rename keeps. */
  readonly identity: string;
  readonly stamp: Stamp;
}

/** A place that could not be looked into. */
interface Unread {
  readonly path: string;
  readonly message: string;
}

/** What lies under a directory. */
export interface Listing {
  /** Whether the directory is there. */
  readonly isThere: boolean;
  /** In no order. */
  readonly checkpoints: readonly FoundCheckpoint[];
  readonly unread: readonly Unread[];
  /** How many files were passed over, and one of them. */
  readonly passed: { readonly count: number; readonly example: string | null };
}

/** What is a checkpoint, beyond what file names tell. */
export interface ListingOptions {
  /** Globs over paths below the directory: only what they match, and all files that they match themselves. */
  readonly match?: readonly string[] | undefined;
  /** Files that are none, as {@link rememberFiles} knows them. */
  readonly without?: readonly KnownFile[] | undefined;
}

/** Watching more than this was not meant: the root of a disk. */
const MAX_ENTRIES = 200_000;

/** Files that are one checkpoint. */
interface Group {
  /** The ending of the file that refers to the others; what stands before it, the names of all begin with. */
  readonly whole: RegExp;
  readonly part: RegExp;
  /** Whether it is none before one of its parts is there. */
  readonly needsPart?: true;
  /** Whether it is called by its directory, to which everything in it belongs. */
  readonly isDirectory?: true;
}

const GROUPS: readonly Group[] = [
  // torch.distributed.checkpoint: `.metadata` is written when every `__0_0.distcp` is.
  { whole: /^\.metadata$/, part: /\.distcp$/, needsPart: true, isDirectory: true },
  // DeepSpeed: a file for each rank, of which the first tells all that there is of statistics.
  { whole: /^(?:zero_pp_rank_0_)?mp_rank_00_model_states\.pt$/, part: /_states\.pt$/ },
  // `model.safetensors.index.json` and `model-00001-of-00003.safetensors`
  {
    whole: /\.(?:safetensors|bin)\.index\.json$/,
    part: /^-\d+-of-\d+\.(?:safetensors|bin)$/,
    needsPart: true,
  },
  // Keras: `model.weights.json` and `model_00000.weights.h5`. Without the index, that may be the model of an epoch.
  { whole: /\.weights\.json$/, part: /^_\d{5}\.weights\.h5$/, needsPart: true },
  // TensorFlow: `ckpt-1.index` and `ckpt-1.data-00000-of-00001`
  { whole: /\.index$/, part: /^\.data-\d+-of-\d+$/, needsPart: true },
  // `model.onnx` and `model.onnx.data`
  { whole: /\.onnx$/i, part: /^\.onnx[._-]?data/i },
];

/** Parts whose first file has not come, or never will. */
const LONE_PART = /-\d+-of-\d+\.(?:safetensors|bin)$|_states\.pt$/;

/**
 * Looks through a directory and all below it. Links to directories are not followed, nor anything that is hidden, but for
 * the files of a checkpoint. Of several names of one file, one counts.
 *
 * @throws CheckpointError `not-a-file` where it is no directory.
 * @throws UsageError where there is far more in it than a training run leaves; as {@link Glob}.
 */
export function listCheckpoints(directory: string, { match = [], without = [] }: ListingOptions): Listing {
  const globs = match.map((text) => new Glob(text, { separators: '/', seesHidden: false }));
  const listing = { isThere: true, unread: [] as Unread[], passed: new Passed() };
  const found: FoundFile[] = [];
  const places: Place[] = [
    { path: directory, reached: globs.map(({ start }) => start), isMeant: globs.length === 0 },
  ];
  let entryCount = 0;
  for (let place = places.pop(); place !== undefined; place = places.pop()) {
    const isRoot = place.path === directory;
    const entries = readPlace(place.path, isRoot, listing.unread);
    if (entries === null && isRoot) listing.isThere = false;
    const files: NamedFile[] = [];
    for (const entry of entries ?? []) {
      if (++entryCount > MAX_ENTRIES) refuseCrowd(directory);
      const { path, isMeant } = place;
      const reached = globs.map((glob, index) => glob.readComponent(place.reached[index] ?? [], entry.name));
      const isNamed = globs.some((glob, index) => glob.isMatch(reached[index] ?? []));
      const isLink = entry.isSymbolicLink();
      if (isLink || entry.isFile()) files.push({ name: entry.name, isMeant, isNamed, isLink });
      if (!entry.isDirectory() || entry.name.startsWith('.')) continue;
      const below = globs.map((glob, index) => glob.readSeparator(reached[index] ?? []));
      if (isMeant || isNamed || below.some((one) => one.length > 0))
        places.push({ path: join(path, entry.name), reached: below, isMeant: isMeant || isNamed });
    }
    const { checkpoints, passed } = groupFiles(files);
    const prefix = prefixOf(place.path);
    for (const group of checkpoints)
      found.push(...lookAtFiles({ directory: place.path, prefix, group }, listing.unread));
    listing.passed.add(place.path, passed);
  }
  return { ...listing, checkpoints: dropTwins(found, without) };
}

/** What the paths of everything in a directory begin with: `runs/`; nothing for `.`. */
export function prefixOf(directory: string): string {
  return join(directory, 'x').slice(0, -1);
}

function refuseCrowd(directory: string): never {
  throw new UsageError(
    `${quote(directory)}: more than ${MAX_ENTRIES} files to look at`,
    'Watch the directory that the checkpoints are written to.',
  );
}

/** Files that were passed over; few of them are ever named. */
class Passed {
  count = 0;
  example: string | null = null;

  add(directory: string, names: readonly string[]): void {
    const [first] = names;
    this.count += names.length;
    if (first !== undefined) this.example ??= join(directory, first);
  }
}

interface Place {
  readonly path: string;
  /** What each glob has reached. */
  readonly reached: readonly Reached[];
  /** Whether everything below is meant. */
  readonly isMeant: boolean;
}

/** Null where there is no such directory. */
function readPlace(path: string, isRoot: boolean, unread: Unread[]) {
  try {
    return readdirSync(path, { withFileTypes: true });
  } catch (error) {
    if (isRoot && codeOf(error) === 'ENOTDIR')
      fail(path, 'expected a directory to watch, found something else', 'not-a-file', {
        hint: 'Name the directory that the checkpoints are written to.',
      });
    if (isMissing(error)) return null;
    unread.push(explain(path, error));
    return [];
  }
}

function explain(path: string, error: unknown): Unread {
  if (!isSystemError(error)) throw error;
  return { path, message: describeFailure(error).reading };
}

interface NamedFile {
  readonly name: string;
  /** Whether everything in its directory is meant. */
  readonly isMeant: boolean;
  /** Whether a glob matches it itself. */
  readonly isNamed: boolean;
  readonly isLink: boolean;
}

/** The files of a directory by the checkpoints that they make up, and the names of those that are none. */
function groupFiles(files: readonly NamedFile[]) {
  const rest = new Map(files.map((file) => [file.name, file]));
  const checkpoints: (readonly NamedFile[])[] = [];
  const take = (group: readonly NamedFile[]) => {
    for (const { name } of group) rest.delete(name);
    if (group.some(({ isMeant, isNamed }) => isMeant || isNamed)) checkpoints.push(group);
  };
  for (const { whole, part, needsPart, isDirectory } of GROUPS) {
    for (const file of [...rest.values()].filter(({ name }) => whole.test(name))) {
      const stem = file.name.replace(whole, '');
      const others = [...rest.values()].filter((other) => other !== file);
      const parts = others.filter(({ name }) => name.startsWith(stem) && part.test(name.slice(stem.length)));
      if (parts.length > 0 || needsPart !== true) take([file, ...(isDirectory ? others : parts)]);
    }
  }
  for (const file of [...rest.values()])
    if (file.isNamed || (file.isMeant && isModel(file.name))) take([file]);
  return { checkpoints, passed: [...rest.keys()] };
}

function isModel(name: string): boolean {
  return !name.startsWith('.') && isNamedAsModel(name) && !LONE_PART.test(name);
}

interface FoundFile extends FoundCheckpoint {
  readonly isLink: boolean;
  /** Whether it has more than one name. */
  readonly isShared: boolean;
}

interface PlacedGroup {
  readonly directory: string;
  /** What the paths of its files begin with: there may be thousands. */
  readonly prefix: string;
  readonly group: readonly NamedFile[];
}

/** Empty where one of the files is no regular one, or is gone. */
function lookAtFiles({ directory, prefix, group }: PlacedGroup, unread: Unread[]): readonly FoundFile[] {
  const files = group.map(({ name }) => prefix + name);
  const [first = directory] = files;
  try {
    const stats = lookAtAll(files);
    const [head] = stats;
    if (head === undefined) return [];
    const isDirectory = GROUPS.some(({ whole, isDirectory }) => isDirectory && whole.test(basename(first)));
    return [
      {
        path: isDirectory ? directory : first,
        files,
        identity: identify(head),
        stamp: toStamp(files, stats),
        isLink: group[0]?.isLink === true,
        isShared: head.nlink > 1,
      },
    ];
  } catch (error) {
    // A link that leads nowhere, or a file that was deleted since its directory was read.
    if (isMissing(error) && !first.includes('\ufffd')) return [];
    const path = codeOf(error) === 'EACCES' ? directory : first;
    const one = isMissing(error) ? { path, message: 'its name is no Unicode text' } : explain(path, error);
    if (!unread.some((other) => other.path === path)) unread.push(one);
    return [];
  }
}

function isMissing(error: unknown): boolean {
  return ['ENOENT', 'ENOTDIR'].includes(codeOf(error));
}

/** Empty where one is no regular file. */
function lookAtAll(files: readonly string[]): readonly Stats[] {
  const stats = files.map((file) => statSync(file));
  return stats.every((one) => one.isFile()) ? stats : [];
}

function identify({ dev, ino, size, mtimeMs }: Stats): string {
  return `${dev}:${ino}:${size}:${mtimeMs}`;
}

function toStamp(files: readonly string[], stats: readonly Stats[]): Stamp {
  const content = stats.map(
    ({ size, mtimeMs }, index) => `${basename(files[index] ?? '')}:${size}:${mtimeMs}`,
  );
  return {
    content: content.join('/'),
    all: [...content, ...stats.map(({ ctimeMs }) => ctimeMs)].join('/'),
    written: Math.max(...stats.map(({ mtimeMs }) => mtimeMs)),
  };
}

/** How files stand now; null where one of them is gone. What cannot be looked at now will be, or not be opened. */
export function stampFiles(files: readonly string[]): Stamp | null {
  const stats = lookAt(() => lookAtAll(files)) ?? [];
  return stats.length === 0 ? null : toStamp(files, stats);
}

/** A file that is known, whatever name leads to it. */
export interface KnownFile {
  readonly identity: string;
  readonly realPath: string;
}

/** Files as {@link ListingOptions.without} takes them; those that are not there are left out. */
export function rememberFiles(paths: readonly string[]): readonly KnownFile[] {
  return paths.flatMap(
    (path) => lookAt(() => ({ identity: identify(statSync(path)), realPath: realpathSync(path) })) ?? [],
  );
}

/** Leaves out what is known already, and of several names of one file all but the first, links last. */
function dropTwins(found: readonly FoundFile[], without: readonly KnownFile[]): readonly FoundCheckpoint[] {
  const mayBeTwin = ({ isLink, isShared }: FoundFile) => isLink || isShared;
  const kept = found.filter((one) => !mayBeTwin(one));
  const firsts = new Map(kept.map((one) => [one.identity, one]));
  for (const one of found.filter(mayBeTwin).sort(linksLast)) {
    const twin = firsts.get(one.identity);
    // Some file systems give several files one number: only links are believed.
    if (twin !== undefined && (one.isLink || twin.isShared)) continue;
    firsts.set(one.identity, one);
    kept.push(one);
  }
  return kept.filter((one) => !without.some((known) => isKnown(one, known)));
}

function linksLast(one: FoundFile, other: FoundFile): number {
  return Number(one.isLink) - Number(other.isLink) || (one.path < other.path ? -1 : 1);
}

function isKnown({ files: [file = ''], identity, isLink }: FoundFile, known: KnownFile): boolean {
  if (identity === known.identity) return true;
  const mayBe = isLink || file.endsWith(basename(known.realPath));
  return mayBe && lookAt(() => realpathSync(file)) === known.realPath;
}
