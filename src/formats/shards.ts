// Opens a checkpoint in shards by the index that names them.

import { extname } from 'node:path';
import type { Checkpoint, ReadOptions, Tensor } from '../checkpoint/checkpoint.js';
import { planPlainEdits, refuseEdits } from '../checkpoint/edit-plan.js';
import { describeJson, isJsonArray, isJsonObject, readJsonObject } from '../checkpoint/json-reader.js';
import { fail, quote } from '../errors.js';
import { type ByteSource, orClose, readRange, wholeOf } from '../io/byte-source.js';
import { openBeside } from './open-beside.js';
import { isSpace, readSafetensorsHeader } from './safetensors/safetensors.js';

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
  formats: ShardFormats,
): Promise<Checkpoint> {
  const { weightMap, files, close } = await openShardFiles(index, options, Object.keys(formats));
  return orClose<Checkpoint>({ close }, async () => {
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
  });
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
  return orClose({ close }, async () => {
    const weightMap = await readWeightMap(index);
    const names = [...new Set([...weightMap.values()].flat())].sort();
    if (names.length > MAX_SHARDS)
      fail(index.name, `expected at most ${MAX_SHARDS} shards, found ${names.length}`, 'limit-exceeded');
    const naming = { ...options, what: 'weight_map: shard', endings };
    for (const name of names) files.set(name, await openBeside(index, name, naming));
    return { weightMap, files, close };
  });
}

async function readWeightMap(index: ByteSource): Promise<ShardFiles['weightMap']> {
  if (index.byteLength > MAX_INDEX_BYTES) {
    const expected = `expected an index of at most ${MAX_INDEX_BYTES} bytes`;
    fail(index.name, `${expected}, found ${index.byteLength}`, 'limit-exceeded');
  }
  const bytes = await readRange(wholeOf(index));
  const found = readJsonObject(bytes, index.name).get('weight_map');
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
