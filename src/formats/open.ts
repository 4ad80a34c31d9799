// The registry of formats, and opening: the first format that a file's first bytes look like reads it.

import { lstatSync, readdirSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import type { Checkpoint, OpenOptions, ReadOptions } from '../checkpoint/checkpoint.js';
import { refuseEdits } from '../checkpoint/edit-plan.js';
import { multiplyMasks } from '../checkpoint/pruned-weights.js';
import { joinCodes } from '../checkpoint/stored-codes.js';
import { CheckpointError, findDocs, quote } from '../errors.js';
import { type ByteRange, type ByteSource, joinRanges, orClose } from '../io/byte-source.js';
import { explainAs, openFileSource } from '../io/file-source.js';
import { isPlace, nameOf, openPlace } from '../io/places.js';
import { listTar } from '../io/tar.js';
import { isDirectory } from '../io/write-target.js';
import { leaveOutOriginals } from '../norm/adapters.js';
import { listFirst } from '../norm/naming.js';
import { checkOptions } from '../options.js';
import { isBaseline, openBaseline } from './baseline/open-baseline.js';
import { type Format, looksLikeSavedModel, OTHER_FILES, refuseUnrecognised, textOf } from './format.js';
import { findConfiguredFramework, hasConfigBeside, readAdapterConfig } from './model-config.js';
import { looksLikeOnnx } from './onnx/sniff.js';
import { findPart } from './parts.js';
import { looksLikeSafetensors, openSafetensors, readSafetensorsHeader } from './safetensors/safetensors.js';
import { looksLikeShardIndex, openShards, SAFETENSORS_SHARDS, type ShardFormats } from './shards.js';
import { HDF5_SIGNATURE, looksLikeDarknet, looksLikeFlax, NPY_SIGNATURE, startsWith } from './sniff.js';
import { holdsTorch, isZip, looksLikeDistributed, looksLikeTar, looksLikeTorch } from './torch/sniff.js';

/** For a file that looks like none. */
const KNOWN_FORMATS = `Read are safetensors, ONNX, PyTorch, NumPy, Keras, TensorFlow, Flax and Darknet. How to convert others: ${findDocs('docs/convert.md')}`;

/** Enough for every magic number below, for the first keys of a header, and for an HTML prologue. */
const HEAD_BYTES = 1024;

/**
 * Opens a checkpoint of any format of {@link FORMATS}, told by its content, or a baseline. Reads headers only.
 *
 * @param path a file, a directory that holds one of a format's names, such as `model.safetensors`, or `hf:OWNER/NAME` and
 *   web addresses, which are looked up in the caches of this machine.
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
  return orClose(source, async () => {
    const notes = [...(place?.notes ?? []), ...checkWhole(path, source.name)];
    const { adapter, configured } = await lookBeside(source, options);
    const checkpoint = await openSource(source, nameOf(path), options);
    const declarations = [...(checkpoint.declarations ?? []), ...(adapter === null ? [] : [adapter])];
    const warnings = [...notes, ...checkpoint.warnings];
    return { ...checkpoint, framework: checkpoint.framework ?? configured, declarations, warnings };
  });
}

/**
 * Makes sure that a file is not named alone that is a part of a checkpoint only. What is there of one without the rest can
 * be read, as far as it goes.
 *
 * @returns what is to be known of it, sentences.
 * @throws CheckpointError that says what to name.
 */
function checkWhole(path: string, file: string): readonly string[] {
  const part = findPart(nameOf(path));
  if (part === null || isDirectory(path)) return [];
  const { what, instead, isReadable, index } = part;
  if (!isReadable || (index !== null && !isPlace(path) && isThere(index)))
    throw refuseUnrecognised(what, file, instead, 'a whole checkpoint');
  if (!part.isCertain) return [];
  return [`it is ${what}: what the others hold was not looked at. ${instead}`];
}

/** What files beside a checkpoint say of it. */
async function lookBeside(file: ByteSource, options: OpenOptions) {
  if (file.path !== undefined) options.onOpenFile?.(file.path);
  else if (!hasConfigBeside(file)) return { adapter: null, configured: undefined };
  const adapter = await readAdapterConfig(file, options);
  return { adapter, configured: await findConfiguredFramework(file, options.onOpenFile) };
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
  const known = FORMATS.filter((format) => !OTHER_FILES.includes(format)).flatMap(
    ({ inDirectory = [] }) => inDirectory[0] ?? [],
  );
  throw new CheckpointError(
    `expected a checkpoint file, found a directory without one that is known by its name (${known.join(', ')}, and their like)`,
    { code: 'not-a-file', file: path, hint: describeInside(path) },
  );
}

/** Directories of steps that are looked into where nothing else can be named. */
const MAX_LOOKED_INTO = 20;

/** What a directory could be named by that opens as nothing itself. */
function describeInside(path: string): string {
  const names = explainAs(path, () => readdirSync(path)).sort();
  if (names.includes('data.pkl') && names.includes('data'))
    return 'It is an unpacked checkpoint of torch.save. Pack it again: zip -0 -r model.pt DIRECTORY';
  const opens = (name: string) =>
    isDirectory(join(path, name)) && DIRECTORY_NAMES.some((known) => isThere(join(path, name, known)));
  const held = names.filter(isNamedAsModel);
  const found = (held.length > 0 ? held : names.slice(0, MAX_LOOKED_INTO).filter(opens)).map(quote);
  return `Name the checkpoint inside it${found.length === 0 ? '' : `: ${listFirst(found, 3)}`}.`;
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
    name: 'Keras in shards',
    looksLike: (head) => looksLikeShardIndex(head) && textOf(head).includes('.weights.h5"'),
    open: async (source, options) => (await import('./keras/keras.js')).openKerasShards(source, options),
    inDirectory: ['model.weights.json'],
  },
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
      'adapter_model.bin',
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
    looksLike: (head) => startsWith(head, HDF5_SIGNATURE),
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
    looksLike: (head) => startsWith(head, NPY_SIGNATURE),
    async open(source, options, head) {
      if (!isPlace(options.path) && isDirectory(options.path))
        return (await import('./numpy/open-arrays.js')).openNpyFolder(source, options);
      const hint = textOf(head).includes("'descr': '|O'")
        ? "If it is a dict of arrays and you trust the file, save them by their names: np.savez('weights.npz', **np.load('FILE', allow_pickle=True).item())"
        : 'Name the folder of .npy files that it belongs to.';
      throw refuseUnrecognised('a NumPy .npy array, not a checkpoint', source.name, hint);
    },
    inDirectory: ['*.npy'],
  },
];

/** Names of files that a directory opens as, in the order in which they are looked for; `*.npy` is any of that ending. */
export const DIRECTORY_NAMES = FORMATS.flatMap(({ inDirectory }) => inDirectory ?? []);

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
  if (!format) throw refuseUnrecognised(describeUnknown(head, ending), source.name, KNOWN_FORMATS);
  const checkpoint = leaveOutOriginals(
    joinCodes(multiplyMasks(await format.open(source, { ...options, path }, head))),
  );
  return options.select === undefined || format.hasParts === true
    ? checkpoint
    : { ...checkpoint, unselected: [] };
}

/** What is said of a file that looks like none, in a few words. */
function describeUnknown(head: Uint8Array, ending: string): string {
  // Whoever downloads a file that is not there may be told so in a few words.
  if (head.every((byte) => (byte >= 0x20 && byte < 0x7f) || (byte >= 9 && byte <= 13)))
    return `text, which begins with ${quote(textOf(head.subarray(0, MAX_SHOWN_TEXT)).trim())}`;
  return ending === '.bin'
    ? 'unknown content, such as the weights of an OpenVINO or ncnn model'
    : 'unknown content';
}

/** As much of a text as tells what it is. */
const MAX_SHOWN_TEXT = 60;

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
  return { names: [...members.keys()], locate: async (name) => members.get(name) };
}

/** Files of a training run that are no model: `policy.optimizer.pth` of stable-baselines3, `rng_state_0.pth` of trainers. */
const NO_MODEL =
  /^(?:.*[./_-])?(?:optim(?:izer)?s?|schedulers?|scaler|sampler|variables|(?:rng|random)_states?|args|dl_state_dict|custom_checkpoint)(?:[._-]?\d+)?\.\w+(?:\.tar)?$/i;

/** How files end that are a checkpoint by themselves. */
const HELD_ENDINGS = 'safetensors onnx pt pt2 pth ckpt bin pkl pdparams npz keras h5 msgpack'.split(' ');

/** How checkpoints end: besides, where a training run writes them, torch.save of old, Darknet, TensorFlow, archives. */
export const CHECKPOINT_ENDINGS = [...HELD_ENDINGS, ...'tar th hdf5 weights index zip'.split(' ')];

const [HELD_ENDING, CHECKPOINT_ENDING] = [HELD_ENDINGS, CHECKPOINT_ENDINGS].map(
  (endings) => new RegExp(`\\.(?:${endings.join('|')})$`, 'i'),
) as [RegExp, RegExp];

/** Whether a file in the directory of a training run is a model by its name: `epoch_3.pth`, and not `optimizer.pt`. */
export function isNamedAsModel(name: string): boolean {
  return CHECKPOINT_ENDING.test(name) && !NO_MODEL.test(name);
}

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
