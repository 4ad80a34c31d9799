// Opens a checkpoint of any format: looks at its first bytes and asks the format's reader.

import { extname } from 'node:path';
import type { Checkpoint, OpenOptions } from '../checkpoint/checkpoint.js';
import { CheckpointError, quote, UsageError } from '../errors.js';
import type { ByteSource } from '../io/byte-source.js';
import { openFileSource } from '../io/file-source.js';
import { checkOptions } from '../options.js';
import { isBaseline } from './baseline/baseline-json.js';
import { openBaseline } from './baseline/open-baseline.js';
import { looksLikeOnnx } from './onnx/sniff.js';
import {
  findConfiguredFramework,
  findShardIndex,
  looksLikeShardIndex,
  openShards,
  readAdapterConfig,
} from './safetensors/model-directory.js';
import { looksLikeSafetensors, openSafetensors, readSafetensorsHeader } from './safetensors/safetensors.js';
import { looksLikeTorch, SAVE_KERAS_WEIGHTS, SAVE_TENSORFLOW_WEIGHTS } from './torch/sniff.js';

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
  const inDirectory = findShardIndex(path);
  const source = openFileSource(inDirectory ?? path);
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

/** Opens a checkpoint from any source of bytes; `path` is how messages and reports name it. */
export async function openSource(
  source: ByteSource,
  path: string,
  options: OpenOptions = {},
): Promise<Checkpoint> {
  const checkpoint = await openAnyFormat(source, path, options);
  const mayHaveParts = checkpoint.format === 'PyTorch' || checkpoint.format === 'TorchScript';
  return options.select === undefined || mayHaveParts ? checkpoint : { ...checkpoint, unselected: [] };
}

async function openAnyFormat(source: ByteSource, path: string, options: OpenOptions): Promise<Checkpoint> {
  const head = new Uint8Array(Math.min(HEAD_BYTES, source.byteLength));
  await source.readInto(head, 0);
  // First, since it is told in no time, and nothing else that is told here starts like it.
  if (looksLikeSafetensors(head)) return openSafetensorsOrBaseline(source, path);
  refuseForeignContent(head, source);
  if (looksLikeShardIndex(head)) return openShards(source, path, options);
  // The readers of pickles and graphs are loaded only when such a file turns up: most runs need one of them.
  if (looksLikeTorch(head)) {
    const { openTorch } = await import('./torch/torch.js');
    return openTorch(source, { path, select: options.select });
  }
  if (looksLikeOnnx(head)) return openAsOnnx(source, path, options);
  // No magic number fits. The ending decides which reader may say what is wrong with the content.
  const ending = extname(source.name).toLowerCase();
  if (ending === '.safetensors') return openSafetensorsOrBaseline(source, path);
  if (ending === '.onnx') return openAsOnnx(source, path, options);
  throw new CheckpointError(
    'expected an ONNX, safetensors or PyTorch checkpoint, found none of them: unknown content',
    {
      code: 'unrecognised-format',
      file: source.name,
    },
  );
}

async function openAsOnnx(
  source: ByteSource,
  path: string,
  { allowExternalSymlinks, onOpenFile }: OpenOptions,
): Promise<Checkpoint> {
  const { openOnnx } = await import('./onnx/onnx.js');
  return openOnnx(source, { path, allowExternalSymlinks, onOpenFile });
}

async function openSafetensorsOrBaseline(source: ByteSource, path: string): Promise<Checkpoint> {
  const header = await readSafetensorsHeader(source);
  if (!isBaseline(header.metadata)) return openSafetensors(source, path, header);
  return openBaseline(header, source, path);
}

/** A file that is plainly something else: how it starts, what it is, and the way out. */
interface ForeignKind {
  readonly starts: (head: Uint8Array, text: string) => boolean;
  readonly found: string;
  readonly hint?: string;
}

const EXPECTED = 'expected an ONNX, safetensors or PyTorch checkpoint';

const FOREIGN_KINDS: readonly ForeignKind[] = [
  {
    starts: (_, text) => text.startsWith('version https://git-lfs.github.com/spec/'),
    found: 'a Git LFS pointer: the file itself was not downloaded',
    hint: 'Fetch it with: git lfs pull',
  },
  {
    starts: (_, text) => /^\s*(?:<!doctype html|<html|<head|<body)/i.test(text),
    found: 'an HTML page: probably a download that ended on a login or error page',
    hint: 'Download the file again, from its raw or resolve address.',
  },
  { starts: (_, text) => /^\s*<\?xml/i.test(text), found: 'an XML file, not a checkpoint' },
  {
    starts: (head) => startsWith(head, [0x1f, 0x8b]),
    found: 'a gzip-compressed file',
    hint: 'Decompress it first: gunzip FILE, or tar -xzf FILE',
  },
  {
    starts: (head) => startsWith(head, [0x28, 0xb5, 0x2f, 0xfd]),
    found: 'a zstd-compressed file',
    hint: 'Decompress it first: unzstd FILE',
  },
  {
    starts: (head) => startsWith(head, [0xfd, 0x37, 0x7a, 0x58, 0x5a]),
    found: 'an xz-compressed file',
    hint: 'Decompress it first: unxz FILE',
  },
  {
    starts: (head) => startsWith(head, [0x42, 0x5a, 0x68]),
    found: 'a bzip2-compressed file',
    hint: 'Decompress it first: bunzip2 FILE',
  },
  {
    starts: (head) => startsWith(head, [0x37, 0x7a, 0xbc, 0xaf, 0x27, 0x1c]),
    found: 'a 7-Zip archive',
    hint: 'Unpack it first.',
  },
  {
    starts: (head) => startsWith(head, [0x89, 0x48, 0x44, 0x46]),
    found: 'an HDF5 file (Keras .h5 weights?), not a format that is read here',
    hint: SAVE_KERAS_WEIGHTS,
  },
  {
    starts: (head) => startsWith(head, [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]),
    found: 'a NumPy .npy array, not a checkpoint',
  },
  { starts: (_, text) => text.startsWith('GGUF'), found: 'a GGUF file, not a format that is read here' },
  {
    starts: (_, text) => text.slice(4, 8) === 'TFL3',
    found: 'a TensorFlow Lite model, not a format that is read here',
  },
  {
    starts: looksLikeSavedModel,
    found: 'a TensorFlow SavedModel, not a format that is read here',
    hint: SAVE_TENSORFLOW_WEIGHTS,
  },
  {
    starts: (_, text) => text.slice(4, 8) === 'PTMF',
    found: 'a PyTorch mobile flatbuffer, not a format that is read here',
    hint: 'Audit the checkpoint that it was made from.',
  },
  { starts: (_, text) => text.startsWith('%PDF'), found: 'a PDF document' },
  { starts: (head) => startsWith(head, [0x89, 0x50, 0x4e, 0x47]), found: 'a PNG image' },
  { starts: (head) => startsWith(head, [0x7f, 0x45, 0x4c, 0x46]), found: 'a program (ELF)' },
];

function refuseForeignContent(head: Uint8Array, source: ByteSource): void {
  const refuse = (found: string, hint?: string): never => {
    throw new CheckpointError(`${EXPECTED}, found ${found}`, {
      code: 'unrecognised-format',
      file: source.name,
      hint,
    });
  };
  if (head.length === 0) refuse('an empty file (0 bytes)', 'Was the download or the save interrupted?');
  if (head.every((byte) => byte === 0))
    refuse('only zeros: not a checkpoint', 'Was the download interrupted?');
  const text = Buffer.from(head.buffer, head.byteOffset, head.byteLength).toString('latin1');
  const kind = FOREIGN_KINDS.find(({ starts }) => starts(head, text));
  if (kind !== undefined) refuse(kind.found, kind.hint);
}

/**
 * Whether a file is a SavedModel (tensorflow/core/protobuf/saved_model.proto), which is a protobuf message as an ONNX
 * model is and begins with the same tags: saved_model_schema_version = 1, then a MetaGraphDef, which begins with its
 * meta_info_def. In an ONNX model the second field is the producer's name, which does not begin with a line end.
 */
function looksLikeSavedModel(head: Uint8Array): boolean {
  if (!startsWith(head, [0x08, 0x01, 0x12])) return false;
  const lengthEnd = head.findIndex((byte, index) => index >= 3 && byte < 0x80);
  return lengthEnd >= 0 && head[lengthEnd + 1] === 0x0a;
}

function startsWith(head: Uint8Array, magic: readonly number[]): boolean {
  return magic.every((byte, index) => head[index] === byte);
}
