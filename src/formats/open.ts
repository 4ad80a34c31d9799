// The registry of formats, and opening: the first format that a file's first bytes look like reads it.

import { lstatSync, readdirSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import {
  type Checkpoint,
  haveSameShape,
  type OpenOptions,
  type ReadOptions,
} from '../checkpoint/checkpoint.js';
import { refuseEdits } from '../checkpoint/edit-plan.js';
import { multiplyMasks } from '../checkpoint/pruned-weights.js';
import { CheckpointError, LostSelection, quote, UsageError } from '../errors.js';
import { type ByteRange, type ByteSource, joinRanges } from '../io/byte-source.js';
import { explainAs, openFileSource } from '../io/file-source.js';
import { findOnMachine, isPlace, nameOf, openPlace } from '../io/places.js';
import { listTar } from '../io/tar.js';
import { isDirectory, isSameFile } from '../io/write-target.js';
import { checkOptions } from '../options.js';
import { isBaseline, openBaseline } from './baseline/open-baseline.js';
import { type Format, looksLikeSavedModel, OTHER_FILES, refuseUnrecognised, textOf } from './format.js';
import { looksLikeOnnx } from './onnx/sniff.js';
import {
  findConfiguredFramework,
  looksLikeShardIndex,
  openShards,
  readAdapterConfig,
  SAFETENSORS_SHARDS,
  type ShardFormats,
} from './safetensors/model-directory.js';
import { looksLikeSafetensors, openSafetensors, readSafetensorsHeader } from './safetensors/safetensors.js';
import { looksLikeDarknet, looksLikeFlax } from './sniff.js';
import { holdsTorch, isZip, looksLikeDistributed, looksLikeTar, looksLikeTorch } from './torch/sniff.js';

/** For a file that looks like none. */
const KNOWN_FORMATS =
  'Read are safetensors, ONNX, PyTorch, NumPy, Keras, TensorFlow, Flax and Darknet; docs/convert.md has the lines that convert others.';

/** Enough for every magic number below, for the first keys of a header, and for an HTML prologue. */
const HEAD_BYTES = 1024;

/**
 * Opens a checkpoint of any format, told by its content: ONNX, safetensors (one file, an index of shards, or the
 * directory that holds either), PyTorch (zip, legacy, TorchScript), Keras, a baseline. Reads headers only.
 *
 * @param path a file, a directory with `model.safetensors` or `*.safetensors.index.json`, or `hf:OWNER/NAME` and web
 *   addresses, which are looked up in the caches of this machine.
 * @throws CheckpointError with the file's name, what was expected and what was found.
 * @throws UsageError when an option is not what it must be.
 */
export async function openCheckpoint(path: string, options: OpenOptions = {}): Promise<Checkpoint> {
  checkOptions('openCheckpoint', options);
  return openPath(path, options);
}

/** {@link openCheckpoint} for callers who have checked their options, among which may be others. */
export async function openPath(path: string, options: OpenOptions = {}): Promise<Checkpoint> {
  const place = await openPlace(path, {
    ...options,
    defaults: DIRECTORY_NAMES.filter((name) => !name.startsWith('*')),
  });
  const source = place?.source ?? openFileSource(findInDirectory(path) ?? path);
  try {
    const { path: file } = source;
    if (file !== undefined) options.onOpenFile?.(file);
    const adapter = file === undefined ? null : await readAdapterConfig(file, options);
    const configured =
      file === undefined ? undefined : await findConfiguredFramework(file, options.onOpenFile);
    const checkpoint = await openSource(source, nameOf(path), options);
    const declarations = [...(checkpoint.declarations ?? []), ...(adapter === null ? [] : [adapter])];
    const warnings = [...(place?.notes ?? []), ...checkpoint.warnings];
    return { ...checkpoint, framework: checkpoint.framework ?? configured, declarations, warnings };
  } catch (error) {
    await source.close();
    throw error;
  }
}

/**
 * The file that stands for a directory given as a checkpoint, or for a prefix as TensorFlow names its own.
 *
 * @returns null when `path` is neither.
 * @throws CheckpointError when it is one and holds no checkpoint that loaders would find, or cannot be looked into.
 */
export function findInDirectory(path: string): string | null {
  if (!isDirectory(path)) return isPrefix(path) ? `${path}.index` : null;
  for (const name of DIRECTORY_NAMES) {
    const file = name.startsWith('*') ? findAlike(path, name.slice(1)) : join(path, name);
    if (file !== null && isThere(file)) return file;
  }
  throw new CheckpointError(
    'expected a checkpoint file, found a directory without model.safetensors or model.safetensors.index.json',
    { code: 'not-a-file', file: path, hint: 'Name the checkpoint file inside it.' },
  );
}

/** Files that lie beside weights and are none. */
const SIDE_FILE = /^\.|\.(?:json|txt|md|ya?ml|log)$/i;

/** The first of the files of a directory where all have the ending, those aside that lie beside weights. */
function findAlike(path: string, ending: string): string | null {
  const entries = explainAs(path, () => readdirSync(path, { withFileTypes: true }));
  const names = entries
    .filter((entry) => !entry.isDirectory() && !SIDE_FILE.test(entry.name))
    .map(({ name }) => name);
  const [first] = names.sort();
  return first !== undefined && names.every((name) => name.endsWith(ending)) ? join(path, first) : null;
}

function isThere(path: string): boolean {
  return explainAs(path, () => lstatSync(path, { throwIfNoEntry: false }) !== undefined);
}

/** Whether a path is how TensorFlow calls a checkpoint: no file, but what the names of its files begin with. */
function isPrefix(path: string): boolean {
  return !isThere(path) && isThere(`${path}.index`);
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
 *
 * @throws as {@link withCheckpoint}; CheckpointError `same-file` where both are one file.
 */
export async function withCheckpoints<Result>(
  [beforePath, afterPath]: readonly [before: string, after: string],
  options: OpenOptions,
  work: (before: Checkpoint, after: Checkpoint) => Promise<Result>,
): Promise<Result> {
  refuseSameCheckpoint(beforePath, afterPath);
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

/**
 * Refuses to compare a checkpoint with itself: whatever was to be found out, the answer would be that nothing moved.
 *
 * @throws CheckpointError `same-file`.
 */
function refuseSameCheckpoint(before: string, after: string): void {
  const isOnePlace = isPlace(before) && before === after;
  const areSame = () =>
    isSameFile(findOnMachine(before, DIRECTORY_NAMES), findOnMachine(after, DIRECTORY_NAMES));
  if (!isOnePlace && !areSame()) return;
  const hint = 'Name two checkpoints; to look at one alone: bn-audit inspect FILE';
  const found = `found before itself (${quote(nameOf(before))})`;
  const message = `expected the checkpoint from after the training, ${found}`;
  throw new CheckpointError(message, { code: 'same-file', file: nameOf(after), hint });
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
    const warning = `nothing with tensors is at ${quote(options.select ?? '')} in ${quote(nameOf(path))}; ${what} was audited`;
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

const openTorchLazily = async (source: ByteSource, options: ReadOptions): Promise<Checkpoint> =>
  (await import('./torch/torch.js')).openTorch(source, options);

/** Shards by their endings. */
const SHARDS: ShardFormats = { ...SAFETENSORS_SHARDS, '.bin': openTorchLazily };

/** The registry: a file is of the first format that it looks like. */
export const FORMATS: readonly Format[] = [
  {
    name: 'safetensors',
    looksLike: looksLikeSafetensors,
    open: openSafetensorsOrBaseline,
    ending: '.safetensors',
    inDirectory: ['model.safetensors', 'diffusion_pytorch_model.safetensors', 'adapter_model.safetensors'],
  },
  ...OTHER_FILES,
  {
    name: 'safetensors in shards',
    looksLike: looksLikeShardIndex,
    open: (source, options) => openShards(source, options, SHARDS),
    inDirectory: ['model.safetensors.index.json', 'diffusion_pytorch_model.safetensors.index.json'],
  },
  // The readers of pickles and graphs are loaded only when such a file turns up: most runs need one of them.
  {
    name: 'PyTorch, distributed',
    looksLike: looksLikeDistributed,
    open: async (source, options) =>
      (await import('./torch/distributed.js')).openDistributed(source, options),
    hasParts: true,
    inDirectory: ['.metadata'],
  },
  {
    name: 'PyTorch',
    looksLike: looksLikeTorch,
    looksInside: holdsTorch,
    open: openTorchLazily,
    hasParts: true,
    inDirectory: [
      'pytorch_model.bin',
      'pytorch_model.bin.index.json',
      // What DeepSpeed writes for each step, with ZeRO-3 in parts.
      'mp_rank_00_model_states.pt',
      'zero_pp_rank_0_mp_rank_00_model_states.pt',
    ],
  },
  {
    name: 'Flax',
    looksLike: looksLikeFlax,
    open: async (source, options) => (await import('./flax/flax.js')).openFlax(source, options),
    hasParts: true,
    inDirectory: ['flax_model.msgpack'],
  },
  {
    name: 'Keras',
    looksLike: (head) => textOf(head).startsWith('\x89HDF\r\n\x1a\n'),
    looksInside: (names) => names.includes('model.weights.h5'),
    inDirectory: ['tf_model.h5', 'model.weights.h5'],
    async open(source, options, head) {
      const { openKerasArchive, openKerasHdf5 } = await import('./keras/keras.js');
      return isZip(head) ? openKerasArchive(source, options) : openKerasHdf5(source, options);
    },
  },
  {
    name: 'TensorFlow SavedModel',
    looksLike: looksLikeSavedModel,
    async open(source, options) {
      const variables = await (await import('./tensorflow/tensorflow.js')).openSavedModel(source, options);
      if (variables !== null) return variables;
      const found = 'a TensorFlow SavedModel without its variables';
      throw refuseUnrecognised(found, source.name, 'Name the directory that holds both.');
    },
    inDirectory: ['saved_model.pb'],
  },
  {
    name: 'TensorFlow',
    // An index begins with the entry without a key, which says how many data files there are.
    looksLike: (head) => /^\0\0[\x02-\x20]\x08/.test(textOf(head)),
    open: async (source, options) =>
      (await import('./tensorflow/tensorflow.js')).openTensorFlow(source, options),
    ending: '.index',
    inDirectory: [join('variables', 'variables.index')],
  },
  {
    name: 'Darknet',
    looksLike: looksLikeDarknet,
    open: async (source, options, head) =>
      (await import('./darknet/darknet.js')).openDarknet(source, options, head),
  },
  {
    name: 'ONNX',
    looksLike: looksLikeOnnx,
    open: async (source, options) => (await import('./onnx/onnx.js')).openOnnx(source, options),
    ending: '.onnx',
    inDirectory: ['model.onnx'],
  },
  {
    name: 'an archive that holds one',
    looksLike: () => false,
    looksInside: (names) => findHeld(names) !== undefined,
    open: openHeld,
    hasParts: true,
  },
  {
    name: 'NumPy .npz',
    looksLike: () => false,
    looksInside: (names) => names.length > 0 && names.every((name) => /(?:\.npy|\/)$/.test(name)),
    open: async (source, options) => (await import('./numpy/open-arrays.js')).openNpz(source, options),
  },
  {
    name: 'NumPy .npy files',
    looksLike: (head) => Buffer.from(head.subarray(0, 6)).toString('latin1') === '\x93NUMPY',
    async open(source, options, head) {
      if (!isPlace(options.path) && isDirectory(options.path))
        return (await import('./numpy/open-arrays.js')).openNpyFolder(source, options);
      const hint = Buffer.from(head).toString('latin1').includes("'descr': '|O'")
        ? "If it is a dict of arrays and you trust the file, save them by their names: np.savez('weights.npz', **np.load('FILE', allow_pickle=True).item())"
        : 'Name the folder of .npy files that it belongs to.';
      throw refuseUnrecognised('a NumPy .npy array, not a checkpoint', source.name, hint);
    },
    inDirectory: ['*.npy'],
  },
];

/** What a directory opens as. */
const DIRECTORY_NAMES = FORMATS.flatMap(({ inDirectory }) => inDirectory ?? []);

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
  const names = (await openArchive(source, head))?.names;
  const format =
    (names !== undefined && formats.find(({ looksInside }) => looksInside?.(names))) ||
    formats.find(({ looksLike }) => looksLike(head)) ||
    formats.find((known) => known.ending === ending) ||
    (source.name !== path &&
      formats.find(({ inDirectory }) => inDirectory?.includes(basename(source.path ?? source.name))));
  if (!format) throw refuseUnrecognised('unknown content', source.name, KNOWN_FORMATS);
  const checkpoint = multiplyMasks(await format.open(source, { ...options, path }, head));
  return options.select === undefined || format.hasParts === true
    ? checkpoint
    : { ...checkpoint, unselected: [] };
}

/** The files in an archive. */
interface Archive {
  readonly names: readonly string[];
  readonly locate: (name: string) => Promise<ByteRange | undefined>;
}

/** Null for a file that is no archive. The reader of ZIP archives is loaded only when there is one. */
async function openArchive(source: ByteSource, head: Uint8Array): Promise<Archive | null> {
  if (isZip(head)) {
    const { locateRecord, openZip } = await import('../io/zip.js');
    const archive = await openZip(source);
    return {
      names: [...archive.entries.keys()],
      locate: async (name) => {
        const entry = archive.entries.get(name);
        return entry && locateRecord(archive, entry);
      },
    };
  }
  if (!looksLikeTar(head)) return null;
  const members = await listTar(source);
  return {
    names: [...members.keys()],
    locate: async (name) => members.get(name),
  };
}

/** Files of a training run that are no model: `policy.optimizer.pth` of stable-baselines3, `rng_state.pth` of trainers. */
const NO_MODEL = /optim|sched|scaler|variables|rng|random|training_args/i;

/** How files end that are a checkpoint by themselves. */
const HELD_ENDING = /\.(?:safetensors|onnx|pt2?|pth|ckpt|bin|pkl|pdparams|npz|keras|h5|msgpack)$/i;

/** The one checkpoint in an archive, such as `policy.pth` or `model_weights.ckpt`; undefined where there are several. */
function findHeld(names: readonly string[]): string | undefined {
  const held = names.filter((name) => HELD_ENDING.test(name) && !NO_MODEL.test(name));
  return held.length === 1 ? held[0] : undefined;
}

/** Opens the one checkpoint in an archive. Nothing is written into it: its checksum stands in the archive too. */
async function openHeld(source: ByteSource, options: ReadOptions, head: Uint8Array): Promise<Checkpoint> {
  const archive = await openArchive(source, head);
  const name = findHeld(archive?.names ?? []);
  const range = name === undefined ? undefined : await archive?.locate(name);
  if (name === undefined || range === undefined) throw new Error('the checkpoint in the archive is gone');
  const inner = { ...joinRanges(`${source.name}/${name}`, [range]).source, path: source.path };
  const checkpoint = await openSource(
    inner,
    options.path,
    options,
    FORMATS.filter(({ open }) => open !== openHeld),
  );
  return {
    ...checkpoint,
    planEdits: () => refuseEdits(source.name, 'one within an archive'),
    close: () => source.close(),
  };
}

async function openSafetensorsOrBaseline(source: ByteSource, { path }: ReadOptions): Promise<Checkpoint> {
  const header = await readSafetensorsHeader(source);
  return isBaseline(header.metadata)
    ? openBaseline(header, source, path)
    : openSafetensors(source, path, header);
}
