// Opens .params of MXNet, which mx.nd.save and Gluon's save_parameters write: arrays one after the other, then their names.

import { countElements } from '../../checkpoint/channel-grid.js';
import type { Checkpoint, ReadOptions, Tensor } from '../../checkpoint/checkpoint.js';
import { bitsOf, type DType } from '../../checkpoint/dtype.js';
import { planPlainEdits } from '../../checkpoint/edit-plan.js';
import { CheckpointError, type CheckpointErrorCode, quote } from '../../errors.js';
import { type ByteSource, readRange } from '../../io/byte-source.js';
import { Cursor } from '../../io/cursor.js';

/** The largest models have some thousands. */
const MAX_ARRAYS = 100_000;

const MAX_RANK = 64;

/** All names of a file. */
const MAX_NAME_BYTES = 16 * 1024 * 1024;

/** An array is told by its version: with shapes of numbers, and with NumPy's, in which an array may have no dimensions. */
const VERSIONS: ReadonlySet<number> = new Set([0xf993fac9, 0xf993faca]);
const NUMPY_VERSION = 0xf993faca;

/** Types by their numbers (3rdparty/mshadow/mshadow/base.h). */
const DTYPES: readonly DType[] = [
  ...(['F32', 'F64', 'F16', 'U8', 'I32', 'I8', 'I64', 'BOOL', 'I16', 'U16', 'U32', 'U64', 'BF16'] as const),
];

/** What stands before the values of an array of so many dimensions, and in front of these. */
const headBytes = (rank: number) => SHAPE_AT + 8 * rank + 12;
const SHAPE_AT = 12;

/**
 * Opens a list of arrays (src/ndarray/ndarray.cc, NDArray::Save). Headers are read, values are ranges of the file.
 *
 *      0  8  0x112, 8  8  zero, 16  8  number of arrays; arrays; 8 number of names; names, each with 8 for its length
 *
 * An array: 0 4 version, 4 4 kind (0: dense), 8 4 rank, dimensions of 8 bytes, 4 4 device and its number, 4 type, values.
 *
 * @throws CheckpointError `unsupported` for arrays of before 1.0, sparse ones, and those without names; `malformed`,
 *   `truncated` or `limit-exceeded` for a broken or hostile file.
 */
export async function openMxnet(source: ByteSource, { path }: ReadOptions): Promise<Checkpoint> {
  const fail = (message: string, code: CheckpointErrorCode = 'malformed', offset?: number): never => {
    throw new CheckpointError(message, { code, file: source.name, offset });
  };
  let position = 16;
  const read = async (byteLength: number, subject: string): Promise<Cursor> => {
    const bytes = await readWithin(source, position, byteLength);
    const cursor = new Cursor(bytes, { file: source.name, baseOffset: position, subject });
    return cursor;
  };
  const readCount = async (subject: string): Promise<number> => {
    const count = (await read(8, subject)).readU64();
    if (count > MAX_ARRAYS)
      fail(`expected at most ${MAX_ARRAYS} ${subject}, found ${count}`, 'limit-exceeded', position);
    position += 8;
    return Number(count);
  };

  const arrays: (Omit<Tensor, 'name'> | null)[] = [];
  const count = await readCount('arrays');
  for (let index = 0; index < count; index++) {
    const head = await read(headBytes(MAX_RANK), 'the arrays');
    const version = head.readU32();
    if (!VERSIONS.has(version))
      fail('expected arrays of MXNet 1.0 or newer, found others', 'unsupported', position);
    if (head.readI32() !== 0) fail('expected dense arrays, found a sparse one', 'unsupported', position);
    const rank = head.readI32();
    if (rank > MAX_RANK)
      fail(`expected at most ${MAX_RANK} dimensions, found ${rank}`, 'limit-exceeded', position);
    // An array that was never given a value ends here.
    if (rank < 0 || (rank === 0 && version !== NUMPY_VERSION)) {
      position += SHAPE_AT;
      arrays.push(null);
      continue;
    }
    const shape = Array.from({ length: rank }, () => Number(head.readI64()));
    head.skip(8);
    const type = head.readI32();
    const dtype = DTYPES[type];
    if (dtype === undefined)
      return fail(`expected a known element type, found number ${type}`, 'unsupported', position);
    const elementCount = countElements(shape);
    const byteLength = (elementCount * bitsOf(dtype)) / 8;
    const offset = position + headBytes(rank);
    if (shape.some((size) => size < 0) || !(byteLength <= source.byteLength - offset))
      fail(
        `expected values of the shape [${shape.join(', ')}], found ${source.byteLength - offset} bytes`,
        'truncated',
        offset,
      );
    arrays.push({ dtype, shape, elementCount, range: { source, offset, byteLength } });
    position = offset + byteLength;
  }
  const named = await readCount('names');
  if (named !== count)
    fail(`expected a name for each of ${count} arrays, found ${named} names`, 'unsupported', position);
  const tensors = new Map<string, Tensor>();
  if (source.byteLength - position > MAX_NAME_BYTES)
    fail(`expected names of at most ${MAX_NAME_BYTES} bytes, found more`, 'limit-exceeded', position);
  const names = await read(source.byteLength - position, 'the names');
  for (const array of arrays) {
    const name = names.readText(names.readU64());
    if (tensors.has(name)) fail(`expected unique names, found ${quote(name)} twice`);
    if (array !== null) tensors.set(name, { ...array, name });
  }
  return {
    path,
    format: 'MXNet',
    framework: 'mxnet',
    tensors,
    inModuleOrder: true,
    graph: null,
    modules: new Map(),
    warnings: [],
    planEdits: (edits) => planPlainEdits(edits, tensors.values(), [source]),
    close: () => source.close(),
  };
}

/** So many bytes, or all that are left. */
function readWithin(source: ByteSource, offset: number, byteLength: number): Promise<Uint8Array> {
  return readRange({
    source,
    offset,
    byteLength: Math.max(0, Math.min(byteLength, source.byteLength - offset)),
  });
}
