// Where restore writes: a file, or a directory of shards.

import { readdirSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { Checkpoint, EditOptions, OpenOptions } from '../checkpoint/checkpoint.js';
import { CheckpointError, quote, UsageError } from '../errors.js';
import { leadsOutside } from '../formats/safetensors/model-directory.js';
import { explainAs, type FileSource, openFileSource } from '../io/file-source.js';
import type { FileCopy, WriteOrder } from '../io/write-files.js';
import { examineTarget, isDirectory, isSameFile } from '../io/write-target.js';
import type { TargetOptions } from './restore-report.js';

/** Where the restored checkpoint goes. */
export interface Target extends Pick<WriteOrder, 'directory' | 'isNewDirectory' | 'label'> {
  /** What the main file is called; null where it keeps its name in a directory. */
  readonly mainName: string | null;
}

/** The two checkpoints, open, and what the restoration is told. */
export interface Sides<Options extends TargetOptions = TargetOptions> {
  readonly before: Checkpoint;
  readonly after: Checkpoint;
  readonly options: Options;
}

/** What an index of shards is called, so that loaders find it. */
const INDEX_NAME = /\.index\.json$/;

/** Names that mean a file even where after is a directory; others may have dots as well. */
const FILE_NAME = /\.(json|safetensors|onnx|bin|pt|pth|ckpt)$/i;

/**
 * Finds out where FIXED is: a file, or a directory where after is a directory or an index of shards.
 *
 * @throws CheckpointError `refused` where something else is in the way.
 */
export function chooseTarget(fixedPath: string, afterPath: string): Target {
  const { path, found } = examineTarget(fixedPath);
  const isSet = isDirectory(afterPath) || INDEX_NAME.test(afterPath);
  if (found === 'other') throw refuse(fixedPath, 'expected a file, found a device, pipe or socket');
  if (found === 'dangling link')
    throw refuse(fixedPath, 'expected a file, found a symbolic link that leads nowhere');
  if ((found === 'directory' || fixedPath.endsWith('/')) && !isSet)
    throw refuse(
      fixedPath,
      'expected a file to write, found a directory',
      'Name the file: -o DIRECTORY/NAME',
    );
  if (isSet && (found === 'directory' || (found === 'nothing' && !FILE_NAME.test(path)))) {
    const label = basename(resolve(path));
    return { directory: path, isNewDirectory: found === 'nothing', label, mainName: null };
  }
  return {
    directory: dirname(path),
    isNewDirectory: false,
    label: basename(path),
    mainName: basename(path),
  };
}

/**
 * Refuses a target that is one of the two checkpoints, before they are read; {@link orderFiles} looks at all files.
 *
 * @throws CheckpointError `refused`.
 */
export function refuseSameFile(fixedPath: string, beforePath: string, afterPath: string): void {
  for (const source of [beforePath, afterPath]) {
    if (isSameFile(fixedPath, source)) throw refuseSource(fixedPath, source);
  }
}

function refuseSource(path: string, source: string): CheckpointError {
  return refuse(
    path,
    `expected a new file, found ${quote(source)} itself: before and after are never written to`,
    'Give another name: -o FIXED',
  );
}

/**
 * How data files are called: as before, or as the user says; beside after, after the new model.
 *
 * @throws UsageError for a name that is none, or one name for several files.
 */
export function chooseDataNames(
  { directory, mainName }: Target,
  { after, options: { dataName } }: Sides,
): Required<EditOptions> {
  if (
    dataName !== undefined &&
    (basename(dataName) !== dataName || /[\\/\0]|^\.{0,2}$|^[A-Za-z]:/.test(dataName))
  )
    throw new UsageError(`--data-name must be a file name without a directory, found ${quote(dataName)}`);
  if (dataName !== undefined && dataName === mainName)
    throw new UsageError(`--data-name ${quote(dataName)} is the name of the model itself`);
  const isBesideAfter = isSameFile(dirname(after.path), directory || '.');
  return {
    renameData(name, count) {
      if (dataName === undefined && !isBesideAfter) return name;
      if (count === 1) return dataName ?? `${mainName ?? name}.data`;
      if (dataName !== undefined)
        throw new UsageError(`--data-name names one file, but the model has ${count} data files`);
      throw new CheckpointError(
        `the model has ${count} data files, whose names are taken in its own directory`,
        { code: 'refused', file: after.path, hint: 'Write the restored model to another directory.' },
      );
    },
  };
}

/**
 * Puts a plan and a target together.
 *
 * @throws CheckpointError `refused` where a file is before's or after's, exists and must not be replaced, or has a name
 *   that an index cannot have.
 */
export async function orderFiles(
  copies: readonly FileCopy[],
  target: Target,
  sides: Sides,
): Promise<WriteOrder> {
  const last = copies.length - 1;
  if (INDEX_NAME.test(copies[last]?.name ?? '') && !INDEX_NAME.test(target.mainName ?? '.index.json'))
    throw refuse(
      join(target.directory, target.mainName ?? ''),
      'expected a directory or the name of an index, since after is a set of shards',
      'Give a name without an ending, or one that ends in .index.json',
    );
  const files = copies.map((file, index) =>
    index === last && target.mainName !== null ? { ...file, name: target.mainName } : file,
  );
  if (new Set(files.map(({ name }) => name.toLowerCase())).size < files.length)
    throw refuse(
      join(target.directory, target.mainName ?? ''),
      'expected a name that no other of its files has',
    );
  const mayReplace = sides.options.force === true;
  for (const { name } of files) {
    const path = join(target.directory, name);
    const { found, path: real } = examineTarget(path);
    if (found === 'nothing') continue;
    const source = (await listSources(copies, sides)).find((file) => isSameFile(real, file));
    if (source !== undefined) throw refuseSource(path, source);
    if (found !== 'file') throw refuse(path, `expected a file to write, found a ${found}`);
    if (!mayReplace) throw refuse(path, 'the file exists already', 'Replace it with --force.');
  }
  return { ...target, files, mayReplace };
}

/** Every file of the two checkpoints. */
async function listSources(
  copies: readonly FileCopy[],
  { before, after }: Sides,
): Promise<readonly string[]> {
  const ofBefore = (await before.planEdits?.([]))?.files ?? [];
  return [before.path, after.path, ...[...copies, ...ofBefore].map(({ source }) => source.path)];
}

function refuse(file: string, message: string, hint?: string): CheckpointError {
  return new CheckpointError(message, { code: 'refused', file, hint });
}

/** What a model's directory holds beside its weights, open until it is closed. */
export interface Companions {
  /** Copied as they are: configuration, tokenizer, code. */
  readonly copies: readonly FileCopy[];
  /** Names of what stays behind, such as weights of another format: they would bring the old statistics along. */
  readonly leftOut: readonly string[];
  close(): Promise<void>;
}

/** Nothing. */
export const NO_COMPANIONS: Companions = { copies: [], leftOut: [], close: async () => {} };

/** What tells a directory that `from_pretrained` loads from others. */
const CONFIG_NAME = 'config.json';

/** A model's directory holds some twenty files; all are open at a time. */
const MAX_COMPANIONS = 250;

/** Files of weights and of a trainer's state by their endings, and indexes of such files. */
const WEIGHTS_NAME =
  /\.(safetensors|bin|pt|pth|ckpt|h5|keras|msgpack|onnx|onnx[._]data|gguf|tflite|npz|ot)$|\.index\.json$/i;

/**
 * Opens what lies beside the weights of a model in the directory that the Hugging Face libraries save and load: a
 * `config.json` is what tells it. Hidden files and directories are no part of it.
 *
 * @param path the directory, or an index of shards in it.
 * @param weights names of the files that are written anyway.
 * @throws CheckpointError `refused` for a symbolic link out of the directory (those of the Hugging Face cache are none),
 *   `limit-exceeded` for too many files, and where one cannot be opened.
 */
export async function openCompanions(
  path: string,
  weights: readonly string[],
  { allowExternalSymlinks, onOpenFile }: OpenOptions,
): Promise<Companions> {
  const directory = isDirectory(path) ? path : dirname(path);
  if (!isRegularFile(join(directory, CONFIG_NAME))) return NO_COMPANIONS;
  const sources: FileSource[] = [];
  const close = async () => {
    for (const source of sources.splice(0)) await source.close();
  };
  const { copied, leftOut } = listCompanions(directory, new Set(weights));
  try {
    for (const name of copied) {
      const file = join(directory, name);
      sources.push(openFileSource(file));
      if (allowExternalSymlinks !== true && leadsOutside(directory, file))
        throw refuse(
          file,
          'expected a file of the model’s own directory, found a symbolic link out of it',
          'If the link is yours, allow it with --allow-external-symlinks.',
        );
      onOpenFile?.(file);
    }
  } catch (error) {
    await close();
    throw error;
  }
  const copies = sources.map((source, at) => ({ source, name: copied[at] ?? '', splices: [] }));
  return { copies, leftOut, close };
}

function listCompanions(
  directory: string,
  weights: ReadonlySet<string>,
): { readonly copied: readonly string[]; readonly leftOut: readonly string[] } {
  const others = explainAs(directory, () => readdirSync(directory))
    .filter((name) => !name.startsWith('.') && !weights.has(name))
    .sort();
  const isCopied = (name: string) => !WEIGHTS_NAME.test(name) && isRegularFile(join(directory, name));
  const copied = others.filter(isCopied);
  if (copied.length > MAX_COMPANIONS) {
    throw new CheckpointError(
      `expected at most ${MAX_COMPANIONS} files beside the weights of a model, found ${copied.length}`,
      { code: 'limit-exceeded', file: directory, hint: 'Name the file of weights in it instead.' },
    );
  }
  return { copied, leftOut: others.filter((name) => !isCopied(name)) };
}

/** Through symbolic links; false also where the path leads nowhere. */
function isRegularFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** So many names make a sentence. */
const SHOWN_NAMES = 5;

/** One sentence about what stays behind; none where nothing does. */
export function describeLeftOut(leftOut: readonly string[]): readonly string[] {
  if (leftOut.length === 0) return [];
  const shown = leftOut.slice(0, SHOWN_NAMES).map(quote).join(', ');
  const more = leftOut.length > SHOWN_NAMES ? ` and ${leftOut.length - SHOWN_NAMES} more` : '';
  return [
    `not copied, since other weights and directories may hold the statistics of after: ${shown}${more}`,
  ];
}
