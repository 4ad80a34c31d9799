// Where checkpoints are that are named by no path: `hf:OWNER/NAME` and web addresses, looked up in the caches of this machine.

import { lstatSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, dirname, join, posix, sep } from 'node:path';
import { CheckpointError, fail, quote, toShellWord } from '../errors.js';
import type { ByteSource } from './byte-source.js';
import { explainAs, type FileSource, openFileSource } from './file-source.js';
import type { RemoteFile, RemoteSource } from './remote-source.js';
import { isDirectory, lookAt } from './write-target.js';

/** A repository of the Hugging Face Hub, and what of it: `hf:OWNER/NAME[@REVISION][:FILE]`. */
interface HubPlace {
  readonly kind: 'hub';
  /** As messages and reports name it. */
  readonly name: string;
  /** `OWNER/NAME`. */
  readonly repository: string;
  /** A branch, a tag, a commit, or the first digits of one. */
  readonly revision: string;
  /** With forward slashes, from the root of the repository; null for what a directory of that kind opens as. */
  readonly file: string | null;
}

/** A file at a web address. */
interface WebPlace {
  readonly kind: 'web';
  /** The address as messages and reports name it: what follows a `?` may be a signature, and is left out. */
  readonly name: string;
  readonly url: URL;
}

/** A checkpoint that is named by no path. */
type Place = HubPlace | WebPlace;

/** How to open a place. */
interface PlaceOptions {
  /** Names of files that a directory opens as, those first that are preferred. */
  readonly defaults: readonly string[];
  readonly allowExternalSymlinks?: boolean | undefined;
  /** Whether the network may be asked. */
  readonly remote?: boolean | undefined;
}

/** What a place leads to. */
interface OpenedPlace {
  readonly source: ByteSource;
  /** What of it the place does not tell itself; a plain sentence. */
  readonly notes: readonly string[];
}

/** Longer names are none that a file system or the Hub takes. */
const MAX_NAME_LENGTH = 255;

/** As huggingface_hub has it (utils/_validators.py): two dashes together stand for the slash in names of the cache. */
const REPOSITORY_PART = /^(?!.*(?:--|\.\.))\w(?:[\w.-]*\w)?$/;

/** A part of the name of a branch or a tag. */
const REVISION_PART = /^(?!.*\.\.)[\w.+-]+$/;

const COMMIT = /^[0-9a-f]{40}$/;

/** The first digits of a commit, as Git takes them for its name. */
const COMMIT_START = /^[0-9a-f]{4,40}$/;

/** Whether an argument names a checkpoint by other means than a path. A file of such a name is `./hf:NAME`. */
export function isPlace(argument: string): boolean {
  return /^(?:hf:|https?:\/\/)/i.test(argument);
}

/** How messages and reports name a checkpoint: as the user did, without what may be a secret in a web address. */
export function nameOf(argument: string): string {
  return /^https?:/i.test(argument)
    ? argument.replace(/[?#].*$/s, '').replace(/^([^/]*\/\/)[^/]*@/, '$1')
    : argument;
}

/**
 * A checkpoint as a file may name it that others read: a signature in a web address is a secret, and soon leads nowhere.
 *
 * @throws CheckpointError `refused` for an address that has to be asked for with what follows its `?`; as {@link openPlace}.
 */
export function toLastingName(argument: string): string {
  const name = nameOf(argument);
  if (!isPlace(argument) || name === argument) return argument;
  const place = parsePlace(argument);
  if (place.kind === 'hub' || place.url.search === '') return name;
  return fail(
    name,
    'expected an address without a ?, found one: what follows it may be a signature, which others would read and which runs out',
    'refused',
    {
      hint: 'Leave it out where the address is enough; else download the checkpoint, and name it by its path.',
    },
  );
}

/** The Hub's own pages and downloads of a file. */
const HUB_FILE = /^https:\/\/huggingface\.co\/([^/]+\/[^/]+)\/(?:resolve|blob)\/([^/]+)\/(.+)$/;

/** @throws CheckpointError `refused` for what is no such name. */
function parsePlace(argument: string): Place {
  const name = nameOf(argument);
  if (/^hf:/i.test(argument)) return parseHub(argument, name);
  if (/^http:/i.test(argument)) {
    const found = 'found http://: anyone on the way could change the file';
    fail(name, `expected an address that begins with https://, ${found}`, 'refused');
  }
  const url = URL.canParse(argument) ? new URL(argument) : null;
  if (url === null || url.hostname === '')
    return fail(name, 'expected a web address, found something else', 'refused');
  if (url.username !== '' || url.password !== '') {
    const hint = 'The process list and logs would show them.';
    fail(name, 'expected a web address without a name and a password', 'refused', { hint });
  }
  const [, repository, revision, file] = HUB_FILE.exec(`${url.origin}${url.pathname}`) ?? [];
  if (repository === undefined || revision === undefined || file === undefined)
    return { kind: 'web', name, url };
  return checkHub({ kind: 'hub', name, repository, revision: decode(revision), file: decode(file) });
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function parseHub(argument: string, name: string): HubPlace {
  const [, repository = '', revision = 'main', file = null] =
    /^hf:([^@:]*)(?:@([^:]*))?(?::(.*))?$/is.exec(argument) ?? [];
  return checkHub({ kind: 'hub', name, repository, revision, file });
}

function checkHub(place: HubPlace): HubPlace {
  const { name, repository, revision, file } = place;
  const hint = 'Such as hf:timm/resnet18.a1_in1k, hf:OWNER/NAME@REVISION:FILE';
  const refuse = (expected: string, found: string): never =>
    fail(name, `expected ${expected}, found ${quote(found)}`, 'refused', { hint });
  const isName = (text: string, part: RegExp) =>
    text.length <= MAX_NAME_LENGTH && text.split('/').every((one) => part.test(one));
  if (repository.split('/').length !== 2 || !isName(repository, REPOSITORY_PART))
    refuse('OWNER/NAME of a model on the Hugging Face Hub', repository);
  if (!isName(revision, REVISION_PART)) refuse('a branch, a tag or a commit', revision);
  const isFile = (part: string) =>
    part !== '' && part !== '.' && part !== '..' && part.length <= MAX_NAME_LENGTH;
  if (file !== null && (/[\\\p{Cc}]/u.test(file) || !file.split('/').every(isFile)))
    refuse("a file's path from the root of the model, with forward slashes", file);
  return place;
}

/** The Hub, and how its servers are asked; tests hand in one of this machine. */
interface Hub {
  readonly origin: string;
  readonly test?: RemoteFile['test'];
}

const HUB: Hub = { origin: 'https://huggingface.co' };

/**
 * Opens a checkpoint that is named by no path: from the caches that other programs fill, that of the Hugging Face Hub and
 * that of torch.hub; where it is in none and the network is allowed, from there.
 *
 * @returns null for a path.
 * @throws CheckpointError `refused` for a name that is none, or a link in a cache that leads out of it; `not-found`
 *   where it is in no cache, with what would be fetched; as openRemoteSource.
 */
export async function openPlace(
  argument: string,
  options: PlaceOptions,
  hub: Hub = HUB,
): Promise<OpenedPlace | null> {
  if (!isPlace(argument)) return null;
  const place = parsePlace(argument);
  try {
    return openCached(place, options);
  } catch (error) {
    const isMissing = error instanceof CheckpointError && error.code === 'not-found';
    if (!isMissing || options.remote !== true) throw error;
  }
  return place.kind === 'hub' ? openOfHub(place, options, hub) : openOfWeb(place, hub);
}

function openCached(place: Place, options: PlaceOptions): OpenedPlace {
  const { path, root, note } = findInCaches(place);
  const file = findDefault(place, path, options);
  const named = file === path ? place.name : `${place.name}:${basename(file)}`;
  const source = openWithin(root, file, {
    name: named,
    allowExternalSymlinks: options.allowExternalSymlinks,
    refusal: { file: named, message: 'expected a file of the cache, found a symbolic link out of it' },
  });
  return { source, notes: note === null ? [] : [note] };
}

async function openOfWeb({ name, url }: WebPlace, { test }: Hub): Promise<OpenedPlace> {
  const { openRemoteSource } = await import('./remote-source.js');
  const open = (at: URL): Promise<ByteSource> =>
    openRemoteSource({
      url: at,
      name: nameOf(at.href),
      ...(test && { test }),
      openBeside: (file) => open(new URL(encodePath(file), at)),
    });
  return { source: await open(url), notes: [`${quote(name)} was read over the network`] };
}

function encodePath(path: string): string {
  return path.split('/').map(encodeURIComponent).join('/');
}

async function openOfHub(
  place: HubPlace,
  { defaults }: PlaceOptions,
  { origin, test }: Hub,
): Promise<OpenedPlace> {
  const { fetchJson, openRemoteSource } = await import('./remote-source.js');
  const token = readToken();
  const { name, repository } = place;
  const remote = (path: string) => ({ url: new URL(path, origin), token, ...(test && { test }) });
  const revision = encodeURIComponent(place.revision);
  const listing = { name, ...remote(`/api/models/${repository}/revision/${revision}`) };
  const listed = place.file === null ? readListing(place, await fetchJson(listing), defaults) : null;
  const open = async (file: string, commit: string, called: string): Promise<RemoteSource> => {
    const at = remote(`/${repository}/resolve/${encodeURIComponent(commit)}/${encodePath(file)}`);
    // Of the same commit: a branch may move on meanwhile.
    const openBeside = (name: string) => {
      const beside = posix.join(posix.dirname(file), name);
      return open(beside, source.commit ?? commit, `hf:${repository}:${beside}`);
    };
    const source: RemoteSource = await openRemoteSource({
      name: called,
      remotePath: file,
      ...at,
      openBeside,
    });
    return source;
  };
  const source = await (listed === null
    ? open(place.file ?? '', place.revision, name)
    : open(listed.file, listed.commit, `${name}:${listed.file}`));
  const commit = listed?.commit ?? source.commit;
  const of = commit !== null && COMMIT.test(commit) ? `, of the commit ${commit.slice(0, 12)}` : '';
  return { source, notes: [`${quote(name)} was read over the network${of}`] };
}

/** What the Hub's API says of a model: its commit, and its files, of which one is what it opens as. */
function readListing(place: HubPlace, listing: unknown, defaults: readonly string[]) {
  const { sha, siblings } = isRecord(listing) ? listing : {};
  if (typeof sha !== 'string' || !COMMIT.test(sha) || !Array.isArray(siblings))
    return fail(place.name, "expected the Hub's list of the model's files, found something else");
  const names = siblings.flatMap((one: unknown) =>
    isRecord(one) && typeof one['rfilename'] === 'string' ? [one['rfilename']] : [],
  );
  const file = defaults.find((name) => names.includes(name));
  if (file === undefined) return refuseWithoutDefault(place, names);
  return { commit: sha, file };
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

/** Real tokens have some 40 characters; what holds others than these would be more than a token. */
const TOKEN = /^[\w.-]{1,500}$/;

/** The user's token of the Hub, as huggingface_hub finds it; undefined without one. */
function readToken(): string | undefined {
  const path = readVariable('HF_TOKEN_PATH') ?? join(findHubHome(), 'token');
  const fromFile = () => (isThere(path) ? readSmallFile(path, MAX_TOKEN_BYTES) : '');
  const token = (readVariable('HF_TOKEN') ?? fromFile()).trim();
  return TOKEN.test(token) ? token : undefined;
}

const MAX_TOKEN_BYTES = 1_000;

/**
 * The path that a checkpoint has on this machine, for asking whether it is another one: a path is itself, and so is the
 * name of what is in no cache.
 *
 * @param defaults names of files that a directory opens as; without any, a directory is itself.
 */
export function findOnMachine(argument: string, defaults: readonly string[] = []): string {
  const path = isPlace(argument) ? (findCached(argument) ?? argument) : argument;
  return isDirectory(path) ? (chooseFile(path, defaults) ?? path) : path;
}

function findCached(argument: string): string | null {
  try {
    return findInCaches(parsePlace(argument)).path;
  } catch (error) {
    if (error instanceof CheckpointError) return null;
    throw error;
  }
}

function chooseFile(directory: string, names: readonly string[]): string | undefined {
  return names.map((name) => join(directory, name)).find(isThere);
}

/** What a cache holds of a place. */
interface Cached {
  readonly path: string;
  /** What no link may lead out of. */
  readonly root: string;
  /** What of it the place does not tell itself; a plain sentence. */
  readonly note: string | null;
}

function findInCaches(place: Place): Cached {
  return place.kind === 'hub' ? findInHubCache(place) : findInTorchCache(place);
}

/** An environment variable that names a directory; empty is not set. */
function readVariable(name: string): string | undefined {
  const value = process.env[name] ?? '';
  return value === '' ? undefined : value.replace(/^~(?=$|[\\/])/, homedir());
}

function findCacheHome(): string {
  return readVariable('XDG_CACHE_HOME') ?? join(homedir(), '.cache');
}

/** Where huggingface_hub keeps what it has downloaded (huggingface_hub/constants.py). */
function findHubCache(): string {
  return readVariable('HF_HUB_CACHE') ?? readVariable('HUGGINGFACE_HUB_CACHE') ?? join(findHubHome(), 'hub');
}

function findHubHome(): string {
  return readVariable('HF_HOME') ?? join(findCacheHome(), 'huggingface');
}

/**
 * Looks a model up in the cache of the Hub, whose layout huggingface_hub documents:
 *
 *     models--OWNER--NAME/refs/REVISION        the commit that it is
 *     models--OWNER--NAME/snapshots/COMMIT/…   links into blobs/ beside it
 */
function findInHubCache(place: HubPlace): Cached {
  const { repository, revision, file } = place;
  const cache = findHubCache();
  const model = join(cache, `models--${repository.replace('/', '--')}`);
  if (!isThere(model))
    return refuseMissing(place, `nothing of that model in the cache of the Hub (${cache})`);
  const commit = findCommit(model, revision);
  if (commit === null)
    return refuseMissing(
      place,
      `no revision ${quote(revision)} of that model in the cache of the Hub (${cache})`,
    );
  const snapshot = join(model, 'snapshots', commit);
  const path = file === null ? snapshot : join(snapshot, file);
  if (!isThere(path))
    return refuseMissing(
      place,
      `no such file of the commit ${commit.slice(0, 12)} in the cache of the Hub (${cache})`,
    );
  const isNamed = commit.startsWith(revision);
  return {
    path,
    root: model,
    note: isNamed
      ? null
      : `${quote(place.name)} is the commit ${commit.slice(0, 12)}, which the cache of the Hub has for ${quote(revision)}`,
  };
}

/** A commit is 40 digits and a line end; what is larger is none. */
const MAX_REF_BYTES = 100;

/** The commit that a revision is; null where the cache has none, or several that begin so. */
function findCommit(model: string, revision: string): string | null {
  const ref = join(model, 'refs', revision);
  const commit = readSmallFile(ref, MAX_REF_BYTES).trim();
  if (COMMIT.test(commit)) return commit;
  if (!COMMIT_START.test(revision)) return null;
  const commits = lookAt(() => readdirSync(join(model, 'snapshots'))) ?? [];
  const [found = null, another] = commits.filter((name) => COMMIT.test(name) && name.startsWith(revision));
  return another === undefined ? found : null;
}

/** Empty where there is no such file, or a larger one. */
function readSmallFile(path: string, maxBytes: number): string {
  const facts = lookAt(() => statSync(path));
  const isSmall = facts?.isFile() === true && facts.size <= maxBytes;
  return isSmall ? (lookAt(() => readFileSync(path, 'latin1')) ?? '') : '';
}

/** The file that stands for a directory of the cache. */
function findDefault(place: Place, path: string, { defaults }: PlaceOptions): string {
  if (!isDirectory(path)) return path;
  const found = chooseFile(path, defaults);
  if (found !== undefined) return found;
  return refuseWithoutDefault(place, lookAt(() => readdirSync(path)) ?? []);
}

function refuseWithoutDefault(place: Place, names: readonly string[]): never {
  const shown = [...names].sort().slice(0, MAX_SHOWN_FILES).map(quote).join(', ');
  const found = `found none of the files that a model is loaded from by itself, but ${shown || 'nothing'}`;
  const hint = `Name the file: ${place.name}:FILE`;
  return fail(place.name, `expected a file to open, ${found}`, 'not-found', { hint });
}

/** So many names make a sentence. */
const MAX_SHOWN_FILES = 10;

function isThere(path: string): boolean {
  return lookAt(() => lstatSync(path)) !== null;
}

/**
 * Looks a file up in the cache of torch.hub (torch/hub.py, load_state_dict_from_url), which knows files by the last part of
 * their addresses alone.
 */
function findInTorchCache(place: WebPlace): Cached {
  const home = readVariable('TORCH_HOME') ?? join(findCacheHome(), 'torch');
  const directory = join(home, 'hub', 'checkpoints');
  const name = place.url.pathname.slice(place.url.pathname.lastIndexOf('/') + 1);
  const path = join(directory, name);
  if (name === '' || name === '.' || name === '..' || !isThere(path))
    return refuseMissing(place, `no such file in the cache of torch.hub (${directory})`);
  return {
    path,
    root: directory,
    note: `${quote(place.name)} was read from the cache of torch.hub, which knows files by their names alone`,
  };
}

function refuseMissing(place: Place, found: string): never {
  const download =
    place.kind === 'hub' ? describeDownload(place) : 'download the file and name it by its path';
  const hint = `Allow the network with --remote, or ${download}`;
  return fail(place.name, `expected it on this machine, found ${found}`, 'not-found', { hint });
}

function describeDownload({ repository, revision, file }: HubPlace): string {
  const named = file === null ? '' : ` ${toShellWord(file)}`;
  return `fetch it first: hf download ${repository}${named}${revision === 'main' ? '' : ` --revision ${revision}`}`;
}

/** The way out where a symbolic link is refused. */
const ALLOW_LINKS = 'If the link is yours, allow it with --allow-external-symlinks.';

/** How a file within a directory is opened. */
interface WithinOptions {
  /** How messages name it; its path unless given. */
  readonly name?: string;
  readonly allowExternalSymlinks?: boolean | undefined;
  readonly onOpenFile?: ((path: string) => void) | undefined;
  /** What is said, and of which file, where it is a link that leads out. */
  readonly refusal: { readonly file: string; readonly message: string };
}

/**
 * Opens a file that must lie in a directory, be it by a link, unless others are allowed.
 *
 * @throws CheckpointError `refused` for a link that leads out of the directory, and as openFileSource.
 */
export function openWithin(directory: string, path: string, options: WithinOptions): FileSource {
  const { name = path, allowExternalSymlinks, onOpenFile, refusal } = options;
  const source = openFileSource(name, path);
  if (allowExternalSymlinks !== true && leadsOutside(directory, path)) {
    void source.close();
    fail(refusal.file, refusal.message, 'refused', { hint: ALLOW_LINKS });
  }
  onOpenFile?.(path);
  return source;
}

/** Whether a file that exists is a symbolic link out of its directory; the cache of the Hub is no way out. */
export function leadsOutside(directory: string, path: string): boolean {
  const [real, root] = explainAs(path, () => [realpathSync(path), realpathSync(directory)]);
  return !real.startsWith(join(root, sep)) && !isSharedCache(root, real);
}

/** The Hub's cache stores `snapshots/REVISION/NAME` as links into `blobs/` of the same model. */
export function isSharedCache(root: string, real: string): boolean {
  const parts = root.split(sep);
  const snapshots = parts.lastIndexOf('snapshots');
  return snapshots > 0 && dirname(real) === [...parts.slice(0, snapshots), 'blobs'].join(sep);
}
