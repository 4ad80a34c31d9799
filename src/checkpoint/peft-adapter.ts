import { dirname, join } from 'node:path';
import { CheckpointError } from '../errors.js';
import { readRange } from '../io/byte-source.js';
import { openFileSource } from '../io/file-source.js';
import type { Declaration } from './declarations.js';
import { isJsonArray, JsonReader, type JsonValue } from './json-reader.js';
import type { OpenOptions } from './open.js';
import { leadsOutside } from './shards.js';

/** The file that PEFT writes beside an adapter, and beside a model with one. */
const CONFIG_NAME = 'adapter_config.json';

/** Real ones take some kilobytes; a list of every module of a large model some hundred. */
const MAX_CONFIG_BYTES = 4_000_000;

/**
 * What an `adapter_config.json` beside a checkpoint says of the freeze: PEFT freezes everything but the adapter, the
 * modules in `modules_to_save`, and biases where `bias` says so.
 *
 * @param file where the checkpoint is.
 * @returns null where no such file is beside it.
 */
export async function readAdapterConfig(file: string, options: OpenOptions): Promise<Declaration | null> {
  const directory = dirname(file);
  const path = join(directory, CONFIG_NAME);
  try {
    const source = openFileSource(path);
    try {
      if (options.allowExternalSymlinks !== true && leadsOutside(directory, path))
        return makeUnread('is a symbolic link out of the directory');
      if (source.byteLength > MAX_CONFIG_BYTES) return makeUnread(`is larger than ${MAX_CONFIG_BYTES} bytes`);
      options.onOpenFile?.(path);
      return readConfig(await readRange({ source, offset: 0, byteLength: source.byteLength }));
    } finally {
      await source.close();
    }
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    return error.code === 'not-found' ? null : makeUnread(`cannot be read (${error.code})`);
  }
}

function makeUnread(reason: string): Declaration {
  return { kind: 'unread', of: 'settings', where: CONFIG_NAME, reason };
}

function readConfig(bytes: Uint8Array): Declaration {
  const members = new Map<string, JsonValue>();
  new JsonReader(bytes, CONFIG_NAME).readTopObject((key, value) => members.set(key, value));
  if (typeof members.get('peft_type') !== 'string') return makeUnread('names no peft_type');
  const bias = members.get('bias') ?? 'none';
  return {
    kind: 'adapter',
    where: CONFIG_NAME,
    targets: readNames(members.get('target_modules')),
    saved: readNames(members.get('modules_to_save') ?? []) ?? [],
    trainsBiases: bias !== 'none',
  };
}

/** A list of names; null for a pattern, such as `all-linear`: a stranger's pattern is not run. */
function readNames(value: JsonValue | undefined): readonly string[] | null {
  return isJsonArray(value) ? value.filter((item) => typeof item === 'string') : null;
}
