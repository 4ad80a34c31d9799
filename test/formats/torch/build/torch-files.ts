import type { Checkpoint } from '../../../../src/checkpoint/checkpoint.js';
import { decodeFloats } from '../../../../src/checkpoint/dtype.js';
import { openTorch } from '../../../../src/formats/torch/torch.js';
import { type ByteSource, memorySource, readRange } from '../../../../src/io/byte-source.js';
import { bytesOf, f32 as floats, i64, utf8 } from '../../../build/bytes.js';
import { int, list, type Piece, pickle, type TensorPiece, tensor, text } from './pickle-writer.js';
import { type ZipEnd, type ZipRecord, zip } from './zip-writer.js';

/** The storages of the norm layer that most tests read: γ, β, mean, variance. */
export const STORAGES: Readonly<Record<string, Uint8Array>> = {
  '0': floats(1, 2, 3, 4),
  '1': floats(0, 0, 0, 1),
  '2': floats(-1, 0.5, 0.25, 8),
  '3': floats(1, 2, 4, 0.5),
};

/** The four tensors of a norm layer, with keys 0 to 3; `mean` replaces what the running mean says. */
export function normLayer(prefix: string, mean: Partial<TensorPiece> = {}): Record<string, Piece> {
  return {
    [`${prefix}weight`]: tensor({ key: '0' }),
    [`${prefix}bias`]: tensor({ key: '1' }),
    [`${prefix}running_mean`]: tensor({ key: '2', ...mean }),
    [`${prefix}running_var`]: tensor({ key: '3' }),
  };
}

/** What a zip checkpoint holds besides its object; records replace those of the same name. */
export interface ZipCheckpoint {
  readonly storages?: Readonly<Record<string, Uint8Array>>;
  readonly byteOrder?: string;
  readonly records?: readonly ZipRecord[];
  readonly extra?: readonly ZipRecord[];
  readonly end?: ZipEnd;
  readonly each?: (record: ZipRecord) => ZipRecord;
}

/** A checkpoint as torch.save writes it. */
export function zipCheckpoint(root: Piece | Uint8Array, options: ZipCheckpoint = {}): Uint8Array {
  const each = options.each ?? ((record) => record);
  const records: ZipRecord[] = [
    { name: 'archive/data.pkl', bytes: root[0] === 0x80 ? root : pickle(root) },
    ...(options.byteOrder === undefined ? [] : [textRecord('archive/byteorder', options.byteOrder)]),
    ...Object.entries(options.storages ?? STORAGES).map(([key, bytes]) => ({
      name: `archive/data/${key}`,
      bytes,
    })),
    textRecord('archive/version', '3\n'),
    ...(options.extra ?? []),
  ];
  return zip(records.map(each), options.end);
}

export function textRecord(name: string, value: string): ZipRecord {
  return { name, bytes: utf8(value) };
}

/** What a legacy checkpoint may say otherwise. */
export interface LegacyCheckpoint {
  readonly storages?: Readonly<Record<string, Uint8Array>>;
  readonly keys?: readonly string[];
  readonly counts?: Readonly<Record<string, number | bigint>>;
  readonly systemInfo?: Piece;
}

/** A checkpoint as torch.save wrote it before 1.6. */
export function legacyCheckpoint(root: Piece, options: LegacyCheckpoint = {}): Uint8Array {
  const storages = options.storages ?? STORAGES;
  const keys = options.keys ?? Object.keys(storages);
  const magic = Uint8Array.of(0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19);
  return bytesOf(
    pickle(magic),
    pickle(int(1001)),
    pickle(options.systemInfo ?? Uint8Array.of(0x7d)),
    pickle(root),
    pickle(list(...keys.map(text))),
    ...keys.flatMap((key) => {
      const bytes = storages[key] ?? new Uint8Array(0);
      return [i64(options.counts?.[key] ?? bytes.length / 4), bytes];
    }),
  );
}

/** Opens bytes as `file.pt`. */
export function open(bytes: Uint8Array, select?: string): Promise<Checkpoint> {
  return openTorch(asSource(bytes), { path: 'file.pt', select });
}

export function asSource(bytes: Uint8Array): ByteSource {
  return memorySource('file.pt', bytes);
}

/** The values of one tensor; empty where it is missing. */
export async function valuesOf(checkpoint: Checkpoint, name: string): Promise<number[]> {
  const found = checkpoint.tensors.get(name);
  if (found === undefined) throw new Error(`no tensor ${name}: ${[...checkpoint.tensors.keys()].join(', ')}`);
  return [...decodeFloats(await readRange(found.range), found.dtype)];
}
