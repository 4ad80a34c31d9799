// Reads the configurations beside a model: what PEFT says of an adapter, and who wrote the config.json.

import { lstatSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Declaration, Framework, OpenOptions } from '../checkpoint/checkpoint.js';
import { isJsonArray, type JsonValue, readJsonObject } from '../checkpoint/json-reader.js';
import { CheckpointError, fail } from '../errors.js';
import { type ByteSource, readRange, wholeOf } from '../io/byte-source.js';
import { explainAs, openFileSource } from '../io/file-source.js';
import { leadsOutside } from '../io/places.js';

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
    return readJsonObject(await readRange(wholeOf(source)), name);
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
