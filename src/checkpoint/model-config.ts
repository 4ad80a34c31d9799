import { lstatSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { readRange } from '../io/byte-source.js';
import { openFileSource } from '../io/file-source.js';
import type { Framework } from './checkpoint.js';
import { JsonReader } from './json-reader.js';

/** A configuration holds some kilobytes; with the labels of ImageNet-21k, one megabyte. */
const MAX_CONFIG_BYTES = 4_000_000;

/** How `save_pretrained` names what it writes beside its config.json, shards and their index included. */
const PRETRAINED_NAME = /^(?:pytorch_)?model\b.*\.(?:safetensors|bin)(?:\.index\.json)?$/;

/**
 * The framework that wrote the config.json beside a checkpoint: transformers names its version or the model's classes,
 * timm the architecture with its pretrained configuration.
 *
 * @param path the checkpoint's file.
 * @param onOpenFile told of the config.json before it is read.
 * @returns undefined where there is no such file, and for any that is a link, too large or malformed: it is a hint only.
 */
export async function findConfiguredFramework(
  path: string,
  onOpenFile?: (path: string) => void,
): Promise<Framework | undefined> {
  if (!PRETRAINED_NAME.test(basename(path))) return undefined;
  const config = join(dirname(path), 'config.json');
  if (!isPlainFile(config)) return undefined;
  onOpenFile?.(config);
  const keys = await readKeys(config);
  if (keys.has('transformers_version') || (keys.has('architectures') && keys.has('model_type')))
    return 'transformers';
  return keys.has('architecture') && keys.has('pretrained_cfg') ? 'timm' : undefined;
}

/** False also where it may not be looked at. */
function isPlainFile(path: string): boolean {
  try {
    return lstatSync(path).isFile();
  } catch {
    return false;
  }
}

/** The keys of the outermost object; none where the file is no such thing. */
async function readKeys(path: string): Promise<ReadonlySet<string>> {
  const keys = new Set<string>();
  try {
    const source = openFileSource(path);
    try {
      if (source.byteLength > MAX_CONFIG_BYTES) return keys;
      const bytes = await readRange({ source, offset: 0, byteLength: source.byteLength });
      new JsonReader(bytes, path).readTopObject((key) => keys.add(key));
    } finally {
      await source.close();
    }
  } catch {
    return new Set();
  }
  return keys;
}
