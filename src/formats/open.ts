// The registry of formats, and opening: the first format that a file's first bytes look like reads it.

import { lstatSync } from 'node:fs';
import { extname, join } from 'node:path';
import {
  type Checkpoint,
  haveSameShape,
  type OpenOptions,
  type ReadOptions,
} from '../checkpoint/checkpoint.js';
import { multiplyMasks } from '../checkpoint/pruned-weights.js';
import { CheckpointError, LostSelection, quote, UsageError } from '../errors.js';
import type { ByteSource } from '../io/byte-source.js';
import { explainAs, openFileSource } from '../io/file-source.js';
import { isDirectory } from '../io/write-target.js';
import { checkOptions } from '../options.js';
import { isBaseline, openBaseline } from './baseline/open-baseline.js';
import { looksLikeOnnx, SAVE_UNOPTIMISED } from './onnx/sniff.js';
import {
  findConfiguredFramework,
  looksLikeShardIndex,
  openShards,
  readAdapterConfig,
} from './safetensors/model-directory.js';
import { looksLikeSafetensors, openSafetensors, readSafetensorsHeader } from './safetensors/safetensors.js';
import {
  isMobile,
  isZip,
  looksLikeTorch,
  SAVE_KERAS_WEIGHTS,
  SAVE_TENSORFLOW_WEIGHTS,
} from './torch/sniff.js';

/** Enough for every magic number below, for the first keys of a header, and for an HTML prologue. */
const HEAD_BYTES = 1024;

/**
 * Opens a checkpoint of any format, told by its content: ONNX, safetensors (one file, an index of shards, or the
 * directory that holds either), PyTorch (zip, legacy, TorchScript), a baseline. Reads headers only.
 *
 * @param path a file, or a directory with `model.safetensors` or `*.safetensors.index.json`.
 * @throws CheckpointError with the file's name, what was expected and what was found.
 * @throws UsageError when an option is not what it must be.
 */
export async function openCheckpoint(path: string, options: OpenOptions = {}): Promise<Checkpoint> {
  checkOptions('openCheckpoint', options);
  return openPath(path, options);
}

/** {@link openCheckpoint} for callers who have checked their options, among which may be others. */
export async function openPath(path: string, options: OpenOptions = {}): Promise<Checkpoint> {
  const source = openFileSource(findInDirectory(path) ?? path);
  try {
    options.onOpenFile?.(source.path);
    const adapter = await readAdapterConfig(source.path, options);
    const configured = await findConfiguredFramework(source.path, options.onOpenFile);
    const checkpoint = await openSource(source, path, options);
    const declarations = [...(checkpoint.declarations ?? []), ...(adapter === null ? [] : [adapter])];
    return { ...checkpoint, framework: checkpoint.framework ?? configured, declarations };
  } catch (error) {
    await source.close();
    throw error;
  }
}

/**
 * The file that stands for a directory given as a checkpoint.
 *
 * @returns null when `path` is no directory.
 * @throws CheckpointError when it is one and holds no checkpoint that loaders would find, or cannot be looked into.
 */
export function findInDirectory(path: string): string | null {
  if (!isDirectory(path)) return null;
  const names = FORMATS.flatMap(({ inDirectory }) => inDirectory ?? []);
  const isThere = (file: string) =>
    explainAs(file, () => lstatSync(file, { throwIfNoEntry: false }) !== undefined);
  const found = names.map((name) => join(path, name)).find(isThere);
  if (found !== undefined) return found;
  throw new CheckpointError(
    'expected a checkpoint file, found a directory without model.safetensors or model.safetensors.index.json',
    { code: 'not-a-file', file: path, hint: 'Name the checkpoint file inside it.' },
  );
}

/**
 * Opens a checkpoint, does some work on it, and closes it whatever comes of the work.
 *
 * @throws as {@link openCheckpoint} and {@link refuseIdleSelect}.
 */
export function withCheckpoint<Result>(
  path: string,
  options: OpenOptions,
  work: (checkpoint: Checkpoint) => Promise<Result>,
): Promise<Result> {
  return withOpened(path, options, (checkpoint) => {
    refuseIdleSelect(options.select, [checkpoint]);
    return work(checkpoint);
  });
}

/**
 * The same of two checkpoints. Where one alone has the part that `select` names, and the other several networks, of these
 * the one that has most of its tensors is opened.
 */
export function withCheckpoints<Result>(
  [beforePath, afterPath]: readonly [before: string, after: string],
  options: OpenOptions,
  work: (before: Checkpoint, after: Checkpoint) => Promise<Result>,
): Promise<Result> {
  const workOn = async (before: Checkpoint, after: Checkpoint) => {
    refuseIdleSelect(options.select, [before, after]);
    return work(before, after);
  };
  return withSelected(beforePath, options, (before) =>
    withSelected(afterPath, options, async (after) => {
      if (before instanceof LostSelection) {
        if (after instanceof LostSelection) throw before;
        return withLike(after, { lost: before, path: beforePath, options }, (found) => workOn(found, after));
      }
      return after instanceof LostSelection
        ? withLike(before, { lost: after, path: afterPath, options }, (found) => workOn(before, found))
        : workOn(before, after);
    }),
  );
}

/** @param work is told so where the file has several parts, and not the one that was to be selected. */
async function withSelected<Result>(
  path: string,
  options: OpenOptions,
  work: (selected: Checkpoint | LostSelection) => Promise<Result>,
): Promise<Result> {
  const opened = await openPath(path, options).catch((error: unknown) => {
    if (error instanceof LostSelection) return error;
    throw error;
  });
  if (opened instanceof LostSelection) return work(opened);
  try {
    return await work(opened);
  } finally {
    await opened.close();
  }
}

/** Opens of a file's networks the one that is like a model, or all where several are equally like it. */
function withLike<Result>(
  model: Checkpoint,
  {
    lost,
    path,
    options,
  }: { readonly lost: LostSelection; readonly path: string; readonly options: OpenOptions },
  work: (found: Checkpoint) => Promise<Result>,
): Promise<Result> {
  if (model.unselected !== undefined) throw lost;
  const workOn = (found: Checkpoint, what: string) => {
    const warning = `nothing with tensors is at ${quote(options.select ?? '')} in ${quote(path)}; ${what} was audited`;
    return work({ ...found, warnings: [warning, ...found.warnings] });
  };
  return withOpened(path, { ...options, select: undefined }, async (whole) => {
    const [first, ...others] = findLikest(whole, model);
    if (first === undefined) throw lost;
    if (others.length > 0 || first === '') return workOn(whole, 'what has most of the selected tensors');
    return withOpened(path, { ...options, select: first }, (part) =>
      workOn(part, `${quote(first)}, which has most of the selected tensors,`),
    );
  });
}

async function withOpened<Result>(
  path: string,
  options: OpenOptions,
  work: (checkpoint: Checkpoint) => Promise<Result>,
): Promise<Result> {
  const checkpoint = await openPath(path, options);
  try {
    return await work(checkpoint);
  } finally {
    await checkpoint.close();
  }
}

/**
 * Makes sure that `select` names a part of at least one of the checkpoints that it was given for. Of the others, a
 * format without parts has nothing to name, and a checkpoint with one part that holds norm layers no other to offer.
 *
 * @throws UsageError that lists what could be selected.
 */
export function refuseIdleSelect(select: string | undefined, checkpoints: readonly Checkpoint[]): void {
  if (select === undefined || checkpoints.some(({ unselected }) => unselected === undefined)) return;
  const parts = [...new Set(checkpoints.flatMap(({ unselected }) => unselected ?? []))];
  const files = checkpoints.map(({ path }) => quote(path)).join(' or of ');
  throw new UsageError(
    `--select ${quote(select)} names no part of ${files}`,
    parts.length === 0
      ? 'There are no parts to choose from: leave --select out.'
      : `What holds norm layers: ${parts.join(', ')}. Select that, or leave --select out.`,
  );
}

/** The parts with most of a model's tensors, by name and shape: `''` is all of a file without parts. */
function findLikest({ tensors, parts = [''] }: Checkpoint, model: Checkpoint): readonly string[] {
  const counts = parts.map((part) => {
    const prefix = part === '' ? '' : `${part}.`;
    return [...model.tensors].filter(([name, tensor]) => {
      const twin = tensors.get(prefix + name);
      return twin !== undefined && haveSameShape(twin, tensor);
    }).length;
  });
  const most = Math.max(...counts);
  return most === 0 ? [] : parts.filter((_, index) => counts[index] === most);
}

/** One format of checkpoints: its folder beside this file, and its row in {@link FORMATS}. */
export interface Format {
  /** What it is called among the others, such as `ONNX`; reports take the name from the checkpoint. */
  readonly name: string;
  /** Whether a file belongs to the format by its first bytes: 1 KiB, or all of a shorter one. */
  readonly looksLike: (head: Uint8Array) => boolean;
  /** Whether a ZIP archive belongs to the format by the names of its entries; asked before {@link looksLike} is. */
  readonly looksInside?: (names: readonly string[]) => boolean;
  /** The files by which a directory is opened, in the order in which loaders look. */
  readonly inDirectory?: readonly string[];
  /**
   * Reads a file that looks like it, headers only. The checkpoint owns the source.
   *
   * @throws CheckpointError for a file that only looks like it, or must not be read.
   */
  readonly open: (source: ByteSource, options: ReadOptions, head: Uint8Array) => Promise<Checkpoint>;
  /** The ending, such as `.onnx`, of files that may say what is wrong with them although they look like no format. */
  readonly ending?: string;
  /** Whether a checkpoint may have parts, of which `select` names one; of others it names none. */
  readonly hasParts?: boolean;
}

/** A file that is plainly no checkpoint, in the words for what it is; a string tells it by its first bytes. */
function notRead(found: string, start: string | Format['looksLike'], hint?: string): Format {
  return {
    name: found,
    looksLike: typeof start === 'string' ? (head) => textOf(head).startsWith(start) : start,
    async open({ name }) {
      throw refuseUnrecognised(found, name, hint);
    },
  };
}

/** The bytes as text, one character each: for magic numbers and the prologues of text formats. */
function textOf(head: Uint8Array): string {
  return Buffer.from(head.buffer, head.byteOffset, head.byteLength).toString('latin1');
}

/** The registry: a file is of the first format that it looks like. */
export const FORMATS: readonly Format[] = [
  {
    name: 'safetensors',
    looksLike: looksLikeSafetensors,
    open: openSafetensorsOrBaseline,
    ending: '.safetensors',
    inDirectory: ['model.safetensors', 'diffusion_pytorch_model.safetensors', 'adapter_model.safetensors'],
  },
  notRead(
    'an empty file (0 bytes)',
    ({ length }) => length === 0,
    'Was the download or the save interrupted?',
  ),
  notRead(
    'only zeros: not a checkpoint',
    (head) => head.every((byte) => byte === 0),
    'Was the download interrupted?',
  ),
  notRead(
    'a Git LFS pointer: the file itself was not downloaded',
    'version https://git-lfs.github.com/spec/',
    'Fetch it with: git lfs pull',
  ),
  notRead(
    'an HTML page: probably a download that ended on a login or error page',
    (head) => /^\s*(?:<!doctype html|<html|<head|<body)/i.test(textOf(head)),
    'Download the file again, from its raw or resolve address.',
  ),
  notRead('an XML file, not a checkpoint', (head) => /^\s*<\?xml/i.test(textOf(head))),
  notRead('a gzip-compressed file', '\x1f\x8b', 'Decompress it first: gunzip FILE, or tar -xzf FILE'),
  notRead('a zstd-compressed file', '\x28\xb5\x2f\xfd', 'Decompress it first: unzstd FILE'),
  notRead('an xz-compressed file', '\xfd7zXZ', 'Decompress it first: unxz FILE'),
  notRead('a bzip2-compressed file', 'BZh', 'Decompress it first: bunzip2 FILE'),
  notRead('a 7-Zip archive', '7z\xbc\xaf\x27\x1c', 'Unpack it first.'),
  notRead('an HDF5 file (Keras .h5 weights?), not a format that is read here', '\x89HDF', SAVE_KERAS_WEIGHTS),
  notRead('a NumPy .npy array, not a checkpoint', '\x93NUMPY'),
  notRead('a GGUF file, not a format that is read here', 'GGUF'),
  notRead('a TensorFlow Lite model, not a format that is read here', (head) =>
    textOf(head).startsWith('TFL3', 4),
  ),
  notRead(
    'a TensorFlow SavedModel, not a format that is read here',
    looksLikeSavedModel,
    SAVE_TENSORFLOW_WEIGHTS,
  ),
  notRead(
    'a PyTorch mobile flatbuffer, not a format that is read here',
    isMobile,
    'Audit the checkpoint that it was made from.',
  ),
  notRead(
    'an ONNX Runtime model (.ort, saved with its optimisations), not a format that is read here',
    // A flatbuffer, whose identifier stands behind the offset of its root (onnxruntime/core/flatbuffers/schema/ort.fbs).
    (head) => textOf(head).startsWith('ORTM', 4),
    SAVE_UNOPTIMISED,
  ),
  notRead('a PDF document', '%PDF'),
  notRead('a PNG image', '\x89PNG'),
  notRead('a program (ELF)', '\x7fELF'),
  {
    name: 'safetensors in shards',
    looksLike: looksLikeShardIndex,
    open: openShards,
    inDirectory: ['model.safetensors.index.json', 'diffusion_pytorch_model.safetensors.index.json'],
  },
  // The readers of pickles and graphs are loaded only when such a file turns up: most runs need one of them.
  {
    name: 'PyTorch',
    looksLike: looksLikeTorch,
    open: async (source, options) => (await import('./torch/torch.js')).openTorch(source, options),
    hasParts: true,
    inDirectory: ['pytorch_model.bin'],
  },
  {
    name: 'ONNX',
    looksLike: looksLikeOnnx,
    open: async (source, options) => (await import('./onnx/onnx.js')).openOnnx(source, options),
    ending: '.onnx',
    inDirectory: ['model.onnx'],
  },
];

/**
 * Opens a checkpoint from any source of bytes; `path` is how messages and reports name it.
 *
 * @param formats what it may be, those first that are asked first.
 */
export async function openSource(
  source: ByteSource,
  path: string,
  options: OpenOptions = {},
  formats: readonly Format[] = FORMATS,
): Promise<Checkpoint> {
  const head = new Uint8Array(Math.min(HEAD_BYTES, source.byteLength));
  await source.readInto(head, 0);
  const ending = extname(source.name).toLowerCase();
  const names = isZip(head) ? await listZip(source) : null;
  const format =
    (names !== null && formats.find(({ looksInside }) => looksInside?.(names))) ||
    formats.find(({ looksLike }) => looksLike(head)) ||
    formats.find((known) => known.ending === ending);
  if (format === undefined) throw refuseUnrecognised('none of them: unknown content', source.name);
  const checkpoint = multiplyMasks(await format.open(source, { ...options, path }, head));
  return options.select === undefined || format.hasParts === true
    ? checkpoint
    : { ...checkpoint, unselected: [] };
}

/** The names of a ZIP archive's entries; its reader is loaded only when there is one. */
async function listZip(source: ByteSource): Promise<readonly string[]> {
  const { openZip } = await import('../io/zip.js');
  return [...(await openZip(source)).entries.keys()];
}

function refuseUnrecognised(found: string, file: string, hint?: string): CheckpointError {
  return new CheckpointError(`expected an ONNX, safetensors or PyTorch checkpoint, found ${found}`, {
    code: 'unrecognised-format',
    file,
    hint,
  });
}

async function openSafetensorsOrBaseline(source: ByteSource, { path }: ReadOptions): Promise<Checkpoint> {
  const header = await readSafetensorsHeader(source);
  return isBaseline(header.metadata)
    ? openBaseline(header, source, path)
    : openSafetensors(source, path, header);
}

/**
 * Whether a file is a SavedModel (tensorflow/core/protobuf/saved_model.proto), which is a protobuf message as an ONNX
 * model is and begins with the same tags: saved_model_schema_version = 1, then a MetaGraphDef, which begins with its
 * meta_info_def. In an ONNX model the second field is the producer's name, which does not begin with a line end.
 */
function looksLikeSavedModel(head: Uint8Array): boolean {
  if (!textOf(head).startsWith('\x08\x01\x12')) return false;
  const lengthEnd = head.findIndex((byte, index) => index >= 3 && byte < 0x80);
  return lengthEnd >= 0 && head[lengthEnd + 1] === 0x0a;
}
