import { readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { OpenOptions } from '../checkpoint/open.js';
import { leadsOutside } from '../checkpoint/shards.js';
import { CheckpointError, quote } from '../errors.js';
import { explainAs, type FileSource, openFileSource } from '../io/file-source.js';
import type { FileCopy } from '../io/write-files.js';
import { isDirectory } from '../io/write-target.js';

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
      if (allowExternalSymlinks !== true && leadsOutside(directory, file)) throw refuseLink(file);
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

function refuseLink(file: string): CheckpointError {
  return new CheckpointError(
    'expected a file of the model’s own directory, found a symbolic link out of it',
    {
      code: 'refused',
      file,
      hint: 'If the link is yours, allow it with --allow-external-symlinks.',
    },
  );
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
