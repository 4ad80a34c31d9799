// Where an output may go, and whether two paths are one file.

import * as nodeFs from 'node:fs';
import { readlinkSync, realpathSync, type Stats, statSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { CheckpointError } from '../errors.js';
import { codeOf, explainWriting } from './file-source.js';

/** What tells a file or directory from others, whatever name leads to it. */
interface FileIdentity {
  /** Where all symbolic links lead; nothing need be there. */
  readonly realPath: string;
  /** Device and inode, which hard links share; null where nothing is there. */
  readonly inode: string | null;
}

/** Longer chains of links are circles. */
const MAX_LINKS = 40;

/** What a path leads to; null for what is neither file nor directory: a device, a pipe, a socket. */
export function identifyFile(path: string): FileIdentity | null {
  const facts = lookAt(() => statSync(path, { bigint: true }));
  if (facts !== null && !facts.isFile() && !facts.isDirectory()) return null;
  return { realPath: findRealPath(path), inode: facts === null ? null : `${facts.dev}:${facts.ino}` };
}

/** Whether two paths lead, or would lead, to one file. */
export function areSame(one: FileIdentity, other: FileIdentity): boolean {
  return one.realPath === other.realPath || (one.inode !== null && one.inode === other.inode);
}

/**
 * Whether two paths lead to one file or directory that is there: by symbolic links, hard links, or spelled in two ways.
 */
export function isSameFile(one: string, other: string): boolean {
  const [x, y] = [identifyFile(one), identifyFile(other)];
  return x !== null && y !== null && x.inode !== null && y.inode !== null && areSame(x, y);
}

function findRealPath(path: string, links = 0): string {
  const real = lookAt(() => realpathSync(path));
  if (real !== null) return real;
  if (dirname(path) === path) return resolve(path);
  const parent = findRealPath(dirname(path), links);
  const link = links < MAX_LINKS ? lookAt(() => readlinkSync(path)) : null;
  return link === null ? join(parent, basename(path)) : findRealPath(resolve(parent, link), links + 1);
}

/** Null where the file system does not let look: whoever opens the file says why. */
export function lookAt<Found>(look: () => Found): Found | null {
  try {
    return look();
  } catch {
    return null;
  }
}

/** What of a file system it takes to write; tests hand in one that fails. */
export type WritableFiles = Pick<
  typeof nodeFs,
  | 'accessSync'
  | 'chmodSync'
  | 'closeSync'
  | 'copyFile'
  | 'fchmodSync'
  | 'fchownSync'
  | 'fsync'
  | 'linkSync'
  | 'lstatSync'
  | 'mkdirSync'
  | 'open'
  | 'openSync'
  | 'realpathSync'
  | 'renameSync'
  | 'rmdirSync'
  | 'rmSync'
  | 'statSync'
  | 'writev'
>;

/** What is to be known of a file before it is written. */
export interface TargetRules {
  /** What messages call it: `the report`; `it` unless given. */
  readonly what?: string | undefined;
  /** Whether a file that is there gives way. */
  readonly mayReplace: boolean;
  /** A directory that it must not leave, nor enter the repository's own (`.git`) in it, whatever links are on the way. */
  readonly within?: string | undefined;
  readonly files?: WritableFiles | undefined;
}

interface TargetFacts {
  /** The path itself, or where a symbolic link there leads. */
  readonly path: string;
  readonly found: 'nothing' | 'file' | 'directory' | 'other' | 'dangling link';
}

/**
 * Looks at a path that is to be written, through symbolic links.
 *
 * @throws CheckpointError `unwritable` where it may not even be looked at.
 */
export function examineTarget(path: string): TargetFacts {
  return explainWriting(path, undefined, () => lookAtTarget(path, nodeFs));
}

/**
 * Checks, before any work goes into it, that a file may be written to a path. Directories that are missing will be made.
 *
 * @throws CheckpointError `unwritable` for a directory, or where the file system would not let it be written; `refused`
 *   for a file that must stay and a path that leads out.
 */
export function checkTarget(path: string, rules: TargetRules): TargetFacts {
  const { what, mayReplace, within, files = nodeFs } = rules;
  return explainWriting(path, what, () => {
    const target = within === undefined ? lookAtTarget(path, files) : confineTarget(path, rules);
    if (target.found === 'directory' || (target.found === 'nothing' && path.endsWith('/')))
      throw systemError('EISDIR');
    if (target.found === 'other') return target;
    const hint = 'To replace it: --force';
    if (target.found !== 'nothing' && !mayReplace)
      throw new CheckpointError('there is such a file already', { code: 'refused', file: path, hint });
    // To take its place, no permission to write it is needed; but who took that away wanted to keep it.
    if (target.found === 'file') files.accessSync(target.path, nodeFs.constants.W_OK);
    const folder = findFolder(dirname(target.path), files);
    if (!files.statSync(folder).isDirectory()) throw systemError('ENOTDIR');
    files.accessSync(folder, nodeFs.constants.W_OK);
    return target;
  });
}

/** Files that are open already, such as standard output: to put another in their place would lose what is in them. */
const OPEN_FILE = /^\/(?:dev\/(?:stdout|stderr|fd\/\d+)|proc\/self\/fd\/\d+)$/;

function lookAtTarget(path: string, files: WritableFiles): TargetFacts {
  const itself = statOrNull(() => files.lstatSync(path));
  if (itself === null) return { path, found: 'nothing' };
  const facts = statOrNull(() => files.statSync(path));
  if (facts === null) return { path: identifyFile(path)?.realPath ?? path, found: 'dangling link' };
  const found = OPEN_FILE.test(path) ? 'other' : kindOf(facts);
  // Such as /dev/stdout: a link to a pipe leads to no path.
  const hasRealPath = itself.isSymbolicLink() && found !== 'other';
  return { path: hasRealPath ? files.realpathSync(path) : path, found };
}

function kindOf(facts: Stats): 'file' | 'directory' | 'other' {
  return facts.isDirectory() ? 'directory' : facts.isFile() ? 'file' : 'other';
}

/** Where a file lies that must not leave a directory, whatever links are on the way; what is missing of it is none. */
function confineTarget(path: string, rules: TargetRules): TargetFacts {
  const { within = '.', files = nodeFs } = rules;
  const root = files.realpathSync(within);
  const folder = findFolder(dirname(path), files);
  const realFolder = files.realpathSync(folder);
  const real = join(realFolder, relative(folder, path));
  const way = relative(root, real);
  const itself = statOrNull(() => files.lstatSync(real));
  const isInside = !isAbsolute(way) && !way.split(sep).some((part) => part === '..' || isGitName(part));
  const found = itself === null ? 'nothing' : kindOf(itself);
  // A link counts as other here, and so do pipes and devices: they lead elsewhere too.
  if (!isInside || found === 'other' || isInRepository(realFolder, root, files))
    throw refuseWayOut(path, rules);
  return { path: real, found };
}

/** The error for a file that would leave the directory that it must stay in. */
export function refuseWayOut(file: string, { what }: TargetRules): CheckpointError {
  const message = `${what ?? 'it'} must stay in its directory and out of .git: this one leads elsewhere`;
  const hint = 'To write it there, say so on the command line: --report FORMAT=FILE';
  return new CheckpointError(message, { code: 'refused', file, hint });
}

/** What the file systems of macOS leave out of names. */
const IGNORED_CHARACTERS = /[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]/g;

/** Whether a part of a path is `.git` in a spelling that some file system takes for it, as Git itself forbids them. */
export function isGitName(part: string): boolean {
  return /^(?:\.git|git~\d+)[. ]*(?::.*)?$/is.test(part.replace(IGNORED_CHARACTERS, ''));
}

/** Whether a directory is, or lies in, what Git takes for a repository's own, whatever it is called. */
function isInRepository(directory: string, root: string, files: WritableFiles): boolean {
  if (directory === root || dirname(directory) === directory) return false;
  const holds = (name: string) => isThere(join(directory, name), files);
  if (holds('HEAD') && (holds('objects') || holds('commondir'))) return true;
  return isInRepository(dirname(directory), root, files);
}

/** The nearest directory that is there: a path, or what is above it. */
function findFolder(path: string, files: WritableFiles): string {
  const parent = dirname(path);
  return parent === path || isThere(path, files) ? path : findFolder(parent, files);
}

/** Whether anything stands at a path, be it a link that leads nowhere. */
export function isThere(path: string, files: WritableFiles): boolean {
  return statOrNull(() => files.lstatSync(path)) !== null;
}

function statOrNull(look: () => Stats): Stats | null {
  try {
    return look();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(codeOf(error))) return null;
    throw error;
  }
}

/** Whether a path leads to a directory; false also where it may not be looked at. */
export function isDirectory(path: string): boolean {
  return lookAt(() => statSync(path))?.isDirectory() === true;
}

/** An error as the file system gives it, for what it would refuse if it were asked. */
export function systemError(code: string): Error {
  return Object.assign(new Error(code), { code });
}
