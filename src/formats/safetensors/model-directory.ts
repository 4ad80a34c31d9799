// Opens directories: sharded checkpoints by their index, PEFT adapters, and the config.json beside the weights.

import { lstatSync, readdirSync } from 'node:fs';
import { dirname, extname, join } from 'node:path';
import type {
  Checkpoint,
  Declaration,
  Framework,
  OpenOptions,
  ReadOptions,
  Tensor,
} from '../../checkpoint/checkpoint.js';
import { planPlainEdits, refuseEdits } from '../../checkpoint/edit-plan.js';
import {
  describeJson,
  isJsonArray,
  isJsonObject,
  JsonReader,
  type JsonValue,
} from '../../checkpoint/json-reader.js';
import { CheckpointError, quote } from '../../errors.js';
import { type ByteSource, readRange, wholeOf } from '../../io/byte-source.js';
import { explainAs, openFileSource } from '../../io/file-source.js';
import { isPlace, leadsOutside, openWithin } from '../../io/places.js';
import { fail, isSpace, readSafetensorsHeader } from './safetensors.js';

/** An index names each tensor once; 50 MB is some 400,000 of them. */
const MAX_INDEX_BYTES = 50_000_000;

/** Every shard is an open file; large models have some hundreds. */
const MAX_SHARDS = 1_000;

/** Whether a file starts like a `*.safetensors.index.json`: any JSON object, since nothing else read here is one. */
export function looksLikeShardIndex(head: Uint8Array): boolean {
  const first = head.find((byte) => !isSpace(byte));
  // A safetensors file of header length 0x…7b starts with the same byte; its second u64 byte is below a space.
  return first === 0x7b && !head.subarray(0, 8).includes(0);
}

/** Opens one shard by its ending, e.g. `.bin`, and says what the checkpoint is then. */
export type ShardFormats = Readonly<
  Record<
    string,
    (source: ByteSource, options: ReadOptions) => Promise<Pick<Checkpoint, 'format' | 'tensors'>>
  >
>;

/** Shards in safetensors; the readers of others belong to other rooms. */
export const SAFETENSORS_SHARDS: ShardFormats = {
  '.safetensors': async (source) => ({
    format: 'safetensors',
    tensors: (await readSafetensorsHeader(source)).tensors,
  }),
};

/**
 * Opens the shards that an index names, such as `model.safetensors.index.json` or `pytorch_model.bin.index.json`
 * (`{metadata, weight_map: {tensor: file}}`).
 *
 * A shard's name must lead to a regular file in the index's own directory. A tensor that its shard lacks is an
 * error; one that a shard has beyond the index is a warning.
 */
export async function openShards(
  index: ByteSource,
  options: ReadOptions,
  formats: ShardFormats = SAFETENSORS_SHARDS,
): Promise<Checkpoint> {
  const { weightMap, files, close } = await openShardFiles(index, options, Object.keys(formats));
  try {
    const shards = new Map<string, ReadonlyMap<string, Tensor>>();
    const found = new Set<string>();
    for (const [name, source] of files) {
      const open = formats[extname(name)];
      if (open === undefined) throw new Error('a shard without a reader was opened');
      const shard = await open(source, { path: source.name });
      shards.set(name, shard.tensors);
      found.add(shard.format);
    }
    const tensors = collectTensors(weightMap, shards, index.name);
    const format = [...found].join(' and ');
    const unlisted = [...shards].flatMap(([shard, held]) =>
      [...held.keys()].filter((name) => weightMap.get(name)?.[0] !== shard),
    );
    return {
      path: options.path,
      format,
      tensors,
      inModuleOrder: false,
      graph: null,
      modules: new Map(),
      warnings: describeUnlisted(unlisted),
      planEdits:
        format === 'safetensors'
          ? (edits) => planPlainEdits(edits, tensors.values(), [...files.values(), index])
          : () => refuseEdits(index.name, `${format} shards`),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** What an index says, and the shards that it names, open. */
export interface ShardFiles {
  /** The shards of each thing that is stored, which most indexes have one of. */
  readonly weightMap: ReadonlyMap<string, readonly string[]>;
  /** By their names, in the order of these. */
  readonly files: ReadonlyMap<string, ByteSource>;
  /** Closes the index as well. */
  readonly close: () => Promise<void>;
}

/**
 * Opens the files that an index of shards names, and reads nothing of them.
 *
 * @param endings what their names must end with, e.g. `.safetensors`.
 * @throws CheckpointError as {@link openBeside}; `malformed` or `limit-exceeded` for an index that is none.
 */
export async function openShardFiles(
  index: ByteSource,
  options: ReadOptions,
  endings: readonly string[],
): Promise<ShardFiles> {
  const files = new Map<string, ByteSource>();
  const close = async () => {
    for (const source of [index, ...files.values()]) await source.close();
  };
  try {
    const weightMap = await readWeightMap(index);
    const names = [...new Set([...weightMap.values()].flat())].sort();
    if (names.length > MAX_SHARDS)
      fail(index.name, `expected at most ${MAX_SHARDS} shards, found ${names.length}`, 'limit-exceeded');
    const naming = { ...options, what: 'weight_map: shard', endings };
    for (const name of names) files.set(name, await openBeside(index, name, naming));
    return { weightMap, files, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function readWeightMap(index: ByteSource): Promise<ShardFiles['weightMap']> {
  if (index.byteLength > MAX_INDEX_BYTES) {
    const expected = `expected an index of at most ${MAX_INDEX_BYTES} bytes`;
    fail(index.name, `${expected}, found ${index.byteLength}`, 'limit-exceeded');
  }
  const bytes = await readRange(wholeOf(index));
  let found: JsonValue | undefined;
  new JsonReader(bytes, index.name).readTopObject((key, value) => {
    if (key === 'weight_map') found = value;
  });
  if (!isJsonObject(found)) {
    const expected = 'expected an index of shards with a "weight_map" object';
    return fail(index.name, `${expected}, found ${describeJson(found)} there: not a checkpoint`);
  }
  const weightMap = new Map<string, readonly string[]>();
  for (const [tensor, value] of found) {
    const shards = (isJsonArray(value) && value.length > 0 ? value : [value]).map((shard) => {
      if (typeof shard === 'string') return shard;
      const expected = `weight_map: expected a file name for tensor ${quote(tensor)}`;
      return fail(index.name, `${expected}, found ${describeJson(shard)}`);
    });
    weightMap.set(tensor, shards);
  }
  if (weightMap.size === 0) fail(index.name, 'expected tensors in "weight_map", found none');
  return weightMap;
}

/** What a file is beside another one that names it. */
interface Naming extends ReadOptions {
  /** How messages call it, such as `weight_map: shard`. */
  readonly what: string;
  /** What its name must end with; anything unless given. */
  readonly endings?: readonly string[];
}

/**
 * Opens a file that another one names, after its name and the place that it resolves to were checked: it must be a
 * regular file below the directory of the other.
 *
 * @throws CheckpointError `refused` for a name or a link that leads out of the directory, or with another ending.
 */
export async function openBeside(index: ByteSource, name: string, options: Naming): Promise<ByteSource> {
  const { what, endings } = options;
  const refuse = (reason: string): never => fail(index.name, `${what} ${quote(name)} ${reason}`, 'refused');
  // Under Windows rules on every system: an index must mean the same everywhere.
  if (/^[\\/]|^[a-z]:/i.test(name)) refuse('has an absolute path: it must lie in the index’s own directory');
  if (name.split(/[\\/]/).includes('..'))
    refuse('leads out of the directory by "..": it must lie in the index’s own directory');
  if (name.includes('\0')) refuse('has a NUL byte in its name');
  if (endings?.includes(extname(name)) === false)
    refuse(`has another extension than ${endings.join(' or ')}`);
  if (index.openBeside !== undefined) return index.openBeside(name);
  if (index.path === undefined && isPlace(options.path))
    refuse('belongs to a file that is not on this machine');
  const directory = dirname(index.path ?? options.path);
  const path = join(directory, name);
  return openWithin(directory, path, {
    ...options,
    name: join(dirname(index.name), name),
    refusal: {
      file: index.name,
      message: `${what} ${quote(name)} is a symbolic link out of the directory`,
    },
  });
}

/**
 * Opens the first of some names that lies beside a file, else the only file there with an ending, e.g. the .cfg beside
 * weights of Darknet; null where there is none.
 *
 * @throws CheckpointError as {@link openBeside}.
 */
export async function openFirstBeside(
  file: ByteSource,
  names: readonly string[],
  ending: string,
  options: ReadOptions,
): Promise<ByteSource | null> {
  const naming = { ...options, what: `the ${ending}` };
  if (file.path === undefined && isPlace(options.path)) return tryBeside(file, names, naming);
  const there = listBeside(file.path ?? options.path);
  const alike = there.filter((name) => extname(name) === ending);
  const found = names.find((name) => alike.includes(name)) ?? (alike.length === 1 ? alike[0] : undefined);
  return found === undefined ? null : openBeside(file, found, naming);
}

/** Over the network nothing tells what lies beside a file: each name is asked for. */
async function tryBeside(
  file: ByteSource,
  names: readonly string[],
  naming: Naming,
): Promise<ByteSource | null> {
  for (const name of file.openBeside === undefined ? [] : names) {
    try {
      return await openBeside(file, name, naming);
    } catch (error) {
      if (!(error instanceof CheckpointError) || error.code !== 'not-found') throw error;
    }
  }
  return null;
}

function listBeside(path: string): readonly string[] {
  try {
    return readdirSync(dirname(path));
  } catch {
    // A directory that may not be looked into, or none: then nothing is known to lie there.
    return [];
  }
}

function collectTensors(
  weightMap: ShardFiles['weightMap'],
  shards: ReadonlyMap<string, ReadonlyMap<string, Tensor>>,
  indexName: string,
): ReadonlyMap<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  for (const [name, [shard = '', ...others]] of weightMap) {
    const tensor = shards.get(shard)?.get(name);
    if (tensor === undefined || others.length > 0) {
      const expected = `weight_map: expected tensor ${quote(name)} in shard ${quote(shard)}`;
      fail(indexName, `${expected}, found ${tensor === undefined ? 'no such tensor there' : 'more of them'}`);
    }
    tensors.set(name, tensor);
  }
  return tensors;
}

/** The warning for what stands in shards and not in their index, if anything. */
export function describeUnlisted(unlisted: readonly string[]): readonly string[] {
  if (unlisted.length === 0) return [];
  const shown = unlisted.slice(0, 3).map(quote).join(', ');
  return [
    `${unlisted.length} tensors in the shards are not in the index and were left out: ${shown}${unlisted.length > 3 ? ', …' : ''}`,
  ];
}

/** The file that PEFT writes beside an adapter, and beside a model with one. */
const ADAPTER_CONFIG_NAME = 'adapter_config.json';

/**
 * A configuration holds some kilobytes; with the labels of ImageNet-21k, or a list of every module of a large model, one
 * megabyte.
 */
const MAX_CONFIG_BYTES = 4_000_000;

/**
 * What an `adapter_config.json` beside a checkpoint says of the freeze: PEFT freezes everything but the adapter, the
 * modules in `modules_to_save`, and biases where `bias` says so.
 *
 * @returns null where no such file is beside it.
 */
export async function readAdapterConfig(file: ByteSource, options: OpenOptions): Promise<Declaration | null> {
  try {
    const members = await readConfig(file, ADAPTER_CONFIG_NAME, options);
    return typeof members === 'string' ? makeUnread(members) : describeAdapter(members);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    return error.code === 'not-found' ? null : makeUnread(`cannot be read (${error.code})`);
  }
}

function makeUnread(reason: string): Declaration {
  return { kind: 'unread', of: 'settings', where: ADAPTER_CONFIG_NAME, reason };
}

/**
 * The members of the outermost object of a JSON file beside a checkpoint, or why it is not read.
 *
 * @throws CheckpointError `not-found` where there is none; over the network, also where nothing is known to lie beside.
 */
async function readConfig(
  file: ByteSource,
  name: string,
  { allowExternalSymlinks, onOpenFile }: OpenOptions = {},
): Promise<ReadonlyMap<string, JsonValue> | string> {
  const path = file.path === undefined ? null : join(dirname(file.path), name);
  // Most have none, and opening what is not there would look through the whole directory for what was meant.
  if (path !== null && explainAs(path, () => lstatSync(path, { throwIfNoEntry: false })) === undefined)
    fail(file.name, `no ${name} beside it`, 'not-found');
  const source = path === null ? await file.openBeside?.(name) : openFileSource(path);
  if (source === undefined) fail(file.name, `nothing beside it is known`, 'not-found');
  try {
    if (path !== null && allowExternalSymlinks !== true && leadsOutside(dirname(path), path))
      return 'is a symbolic link out of the directory';
    if (source.byteLength > MAX_CONFIG_BYTES) return `is larger than ${MAX_CONFIG_BYTES} bytes`;
    if (path !== null) onOpenFile?.(path);
    const members = new Map<string, JsonValue>();
    const bytes = await readRange(wholeOf(source));
    new JsonReader(bytes, name).readTopObject((key, value) => members.set(key, value));
    return members;
  } finally {
    await source.close();
  }
}

function describeAdapter(members: ReadonlyMap<string, JsonValue>): Declaration {
  const [method, base] = [members.get('peft_type'), members.get('base_model_name_or_path')];
  if (typeof method !== 'string') return makeUnread('names no peft_type');
  return {
    kind: 'adapter',
    where: ADAPTER_CONFIG_NAME,
    method,
    base: typeof base === 'string' ? base : null,
    targets: readNames(members.get('target_modules')),
    saved: readNames(members.get('modules_to_save')) ?? [],
    trainsBiases: (members.get('bias') ?? 'none') !== 'none',
  };
}

/** A list of names; null for a pattern, such as `all-linear`: a stranger's pattern is not run. */
function readNames(value: JsonValue | undefined): readonly string[] | null {
  return isJsonArray(value) ? value.filter((item) => typeof item === 'string') : null;
}

/** What transformers and timm write beside a model. */
const CONFIG_NAME = 'config.json';

/** How `save_pretrained` names what it writes beside its config.json, shards and their index included. */
const PRETRAINED_NAME = /(?:^|[:/\\])(?:pytorch_)?model\b[^:/\\]*\.(?:safetensors|bin)(?:\.index\.json)?$/;

/** The same, and what PEFT writes: over the network, only beside these a configuration is asked for. */
export function hasConfigBeside({ name }: Pick<ByteSource, 'name'>): boolean {
  return PRETRAINED_NAME.test(name) || /(?:^|[:/])adapter_model\.(?:safetensors|bin)$/.test(name);
}

/**
 * The framework that wrote the config.json beside a checkpoint: transformers names its version or the model's classes,
 * timm the architecture with its pretrained configuration.
 *
 * @param onOpenFile told of the config.json before it is read.
 * @returns undefined where there is no such file, and for any that is a link, too large or malformed: it is a hint only.
 */
export async function findConfiguredFramework(
  file: ByteSource,
  onOpenFile?: (path: string) => void,
): Promise<Framework | undefined> {
  if (!PRETRAINED_NAME.test(file.path ?? file.name)) return undefined;
  try {
    if (file.path !== undefined && !lstatSync(join(dirname(file.path), CONFIG_NAME)).isFile())
      return undefined;
  } catch {
    // Also where it may not be looked at.
    return undefined;
  }
  const keys = await readConfig(file, CONFIG_NAME, { onOpenFile }).catch(() => '');
  if (typeof keys === 'string') return undefined;
  if (keys.has('transformers_version') || (keys.has('architectures') && keys.has('model_type')))
    return 'transformers';
  return keys.has('architecture') && keys.has('pretrained_cfg') ? 'timm' : undefined;
}
