import { cpSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../../src/formats/open.js';
import { readRange } from '../../../src/io/byte-source.js';
import { f32 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { makeTempDirectory } from '../../build/sources.js';
import {
  dict,
  emptyTuple,
  global,
  int,
  list,
  none,
  op,
  type Piece,
  pickle,
  reduce,
  tensor,
  text,
  tuple,
} from './build/pickle-writer.js';
import { zipCheckpoint } from './build/torch-files.js';

const FIXTURE = resolve(import.meta.dirname, '../../../fixtures/archives/sharded');

/** A copy of the fixture that two ranks wrote. */
function copyFixture(): string {
  const directory = join(makeTempDirectory(), 'checkpoint');
  cpSync(FIXTURE, directory, { recursive: true });
  return directory;
}

/** An instance of a class of the metadata. */
const made = (module: string, name: string, state: Piece) =>
  op(reduceNothing(global(`torch.distributed.checkpoint.${module}`, name)), state, 'b');
const reduceNothing = (type: Piece) => op(type, emptyTuple, 0x81);
const sizeOf = (sizes: readonly number[]) => reduce(global('torch', 'Size'), tuple(tuple(...sizes.map(int))));

/** What one piece of the only tensor, `w`, says otherwise. */
interface PieceOptions {
  readonly file?: string;
  readonly offsets?: readonly number[] | null;
  readonly length?: number;
  /** In its file; behind the piece before unless given. */
  readonly offset?: number;
  readonly transforms?: Piece;
  /** The saved tensor; a vector of four floats unless given. */
  readonly saved?: Uint8Array;
}

/** Writes a checkpoint of one tensor in pieces that follow each other in one file. */
function writePieces(shape: readonly number[], pieces: readonly PieceOptions[], dtype = 'float32'): string {
  const directory = makeTempDirectory();
  const contents = pieces.map(({ saved }) => saved ?? zipCheckpoint(tensor({ key: '0' })));
  let offset = 0;
  const stored = pieces.flatMap(
    ({ file = 'a.distcp', offsets = [0], length, transforms, offset: given }, index) => {
      const byteLength = contents[index]?.length ?? 0;
      const at = given ?? offset;
      offset += byteLength;
      return [
        made(
          'metadata',
          'MetadataIndex',
          dict({ fqn: text('w'), offset: offsets === null ? none : sizeOf(offsets) }),
        ),
        made(
          'filesystem',
          '_StorageInfo',
          dict({
            relative_path: text(file),
            offset: int(at),
            length: int(length ?? byteLength),
            ...(transforms === undefined ? {} : { transform_descriptors: transforms }),
          }),
        ),
      ];
    },
  );
  const properties = made('metadata', 'TensorProperties', tuple(global('torch', dtype), none));
  const described = made('metadata', 'TensorStorageMetadata', dict({ properties, size: sizeOf(shape) }));
  const metadata = op(
    reduceNothing(global('torch.distributed.checkpoint.metadata', 'Metadata')),
    dict({ state_dict_metadata: dict({ w: described }), storage_data: op('}', '(', ...stored, 'u') }),
    'b',
  );
  writeFileSync(join(directory, '.metadata'), pickle(metadata));
  writeFileSync(join(directory, 'a.distcp'), Buffer.concat(contents));
  return directory;
}

async function read(directory: string): Promise<Uint8Array> {
  const checkpoint = await openCheckpoint(directory);
  const range = checkpoint.tensors.get('w')?.range;
  if (range === undefined) throw new Error('expected the tensor w, found none');
  const bytes = await readRange(range);
  await checkpoint.close();
  return bytes;
}

describe('a tensor in pieces', () => {
  test('is one piece, also where it was saved as a whole', async () => {
    expect(await read(writePieces([4], [{}]))).toEqual(f32(1, 2, 3, 4));
    expect(await read(writePieces([4], [{ offsets: null }]))).toEqual(f32(1, 2, 3, 4));
  });

  test('follows the offsets, not the order in the file', async () => {
    const other = zipCheckpoint(tensor({ key: '2' }));
    const directory = writePieces([8], [{ offsets: [4] }, { offsets: [0], saved: other }]);
    expect(await read(directory)).toEqual(f32(-1, 0.5, 0.25, 8, 1, 2, 3, 4));
  });

  test('may be cut along any axis', async () => {
    const column = (key: string) => zipCheckpoint(tensor({ key, size: [4, 1], stride: [1, 1] }));
    const directory = writePieces(
      [4, 2],
      [
        { offsets: [0, 0], saved: column('0') },
        { offsets: [0, 1], saved: column('2') },
      ],
    );
    expect(await read(directory)).toEqual(f32(1, -1, 2, 0.5, 3, 0.25, 4, 8));
  });

  test('is the first of two copies that lie at one offset', async () => {
    expect(await read(writePieces([4], [{}, {}]))).toEqual(f32(1, 2, 3, 4));
  });
});

describe('a checkpoint of pieces is refused', () => {
  test.each<[string, code: string, said: string, directory: () => string]>([
    [
      'a piece is missing',
      'malformed',
      'expected pieces that cover "w", [8], found 1 that do not',
      () => writePieces([8], [{}]),
    ],
    ['pieces lie elsewhere', 'malformed', 'that do not', () => writePieces([4], [{ offsets: [1] }])],
    [
      'a piece has another number of axes',
      'malformed',
      'expected pieces of 2 axes',
      () => writePieces([2, 2], [{}]),
    ],
    [
      'a piece has another type',
      'malformed',
      'expected a piece of "w" in F64, found F32',
      () => writePieces([4], [{}], 'float64'),
    ],
    [
      'a piece is compressed',
      'unsupported',
      'were compressed or transformed',
      () => writePieces([4], [{ transforms: list(text('zstd')) }]),
    ],
    [
      'a piece reaches beyond its file',
      'truncated',
      'it is truncated',
      () => writePieces([4], [{ length: 1_000_000 }]),
    ],
    [
      'pieces share their bytes',
      'limit-exceeded',
      'expected pieces in places of their own in "a.distcp"',
      () =>
        writePieces(
          [12],
          [{}, { offsets: [4], offset: 0, length: 1_500 }, { offsets: [8], offset: 0, length: 1_500 }],
        ),
    ],
    [
      'a piece is no tensor',
      'malformed',
      'expected a tensor for "w", found 3',
      () => writePieces([4], [{ saved: zipCheckpoint(int(3)) }]),
    ],
    [
      'its file leads out by ".."',
      'refused',
      'leads out of the directory by ".."',
      () => writePieces([4], [{ file: '../a.distcp' }]),
    ],
    [
      'its file has an absolute path',
      'refused',
      'has an absolute path',
      () => writePieces([4], [{ file: '/etc/passwd' }]),
    ],
    ['its file is not there', 'not-found', 'no such file', () => writePieces([4], [{ file: 'b.distcp' }])],
    [
      'the shape is beyond any memory',
      'limit-exceeded',
      'a shape that fits into memory',
      () => writePieces([2 ** 31, 2 ** 31, 2 ** 31], [{}]),
    ],
  ])('where %s', async (_, code, said, directory) => {
    expect(await failureOf(() => openCheckpoint(directory()))).toMatchObject({
      code,
      message: expect.stringContaining(said),
    });
  });

  test('where the file of a rank is a link out of the directory', async () => {
    const directory = copyFixture();
    renameSync(join(directory, '__1_0.distcp'), `${directory}-elsewhere`);
    symlinkSync(`${directory}-elsewhere`, join(directory, '__1_0.distcp'));
    expect((await failureOf(() => openCheckpoint(directory))).code).toBe('refused');
    const checkpoint = await openCheckpoint(directory, { allowExternalSymlinks: true });
    expect(checkpoint.tensors.size).toBe(16);
    await checkpoint.close();
  });

  test('where the file of a rank is gone or cut off', async () => {
    const directory = copyFixture();
    truncateSync(join(directory, '__1_0.distcp'), 9_000);
    expect((await failureOf(() => openCheckpoint(directory))).code).toBe('truncated');
    rmSync(join(directory, '__1_0.distcp'));
    expect((await failureOf(() => openCheckpoint(directory))).code).toBe('not-found');
  });

  test('where the metadata names a callable that would run', async () => {
    const directory = copyFixture();
    const evil = made(
      'metadata',
      'Metadata',
      dict({ x: reduce(global('os', 'system'), tuple(text('true'))) }),
    );
    writeFileSync(join(directory, '.metadata'), pickle(evil));
    expect((await failureOf(() => openCheckpoint(directory))).code).toBe('refused');
  });
});
