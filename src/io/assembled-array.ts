// Arrays whose pieces lie apart, such as those of a checkpoint that several ranks have saved.

import {
  type ByteRange,
  type ByteSource,
  checkBounds,
  memorySource,
  partitionPoint,
  wholeOf,
} from './byte-source.js';
import { countElements, indexAt, placeOf } from './row-major.js';

/** A piece of an array: where its first element belongs, how far it reaches along each axis, and its elements, row-major. */
export interface ArrayPiece {
  readonly offsets: readonly number[];
  readonly sizes: readonly number[];
  readonly range: ByteRange;
}

/** For each piece, so many blocks that all pieces' edges cut an array into; equal shares of ranks are one each. */
const MAX_BLOCKS_PER_PIECE = 64;

/**
 * The elements of an array whose pieces lie apart, row-major, e.g. the rows that each of several ranks has saved. Runs are
 * looked up as they are read: the columns that 16 ranks share of an embedding are millions of them.
 *
 * @param shape of the array; the pieces have as many axes.
 * @returns null where the pieces do not cover the array, or lie in shreds, beyond {@link MAX_BLOCKS_PER_PIECE}.
 */
export function assembleArray(
  name: string,
  shape: readonly number[],
  elementByteLength: number,
  pieces: readonly ArrayPiece[],
): ByteRange | null {
  // Bytes are the innermost axis: what follows is about bytes alone.
  const extents = [...shape, elementByteLength];
  const boxes = pieces.map(({ offsets, sizes, range }) => {
    const reach = [...sizes, elementByteLength];
    // Along the last axis that the piece covers in part, its elements follow each other until it ends.
    const axis = Math.max(
      0,
      reach.findLastIndex((size, at) => size !== extents[at]),
    );
    return { offsets: [...offsets, 0], sizes: reach, range, runBytes: countElements(reach.slice(axis)) };
  });
  const byteLength = countElements(extents);
  if (byteLength === 0) return wholeOf(memorySource(name, new Uint8Array(0)));
  const [first] = boxes;
  const isWhole = first?.sizes.every((size, axis) => size === extents[axis] && first.offsets[axis] === 0);
  if (first !== undefined && boxes.length === 1 && isWhole) return first.range;
  const grid = ownersOf(extents, boxes);
  if (grid === null) return null;
  const source: ByteSource = {
    name,
    byteLength,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      for (let done = 0; done < target.byteLength; ) {
        const index = indexAt(position + done, extents);
        const box = boxes[grid.ownerAt(index)];
        if (box === undefined) throw new Error('an array has a hole');
        const { offsets, sizes, range, runBytes } = box;
        const within = index.reduce((at, i, axis) => at * (sizes[axis] ?? 0) + i - (offsets[axis] ?? 0), 0);
        const part = target.subarray(done, done + runBytes - (within % runBytes));
        await range.source.readInto(part, range.offset + within);
        done += part.byteLength;
      }
    },
    async close() {},
    assembledFrom: boxes.map(({ range }) => range),
  };
  return wholeOf(source);
}

type Box = Pick<ArrayPiece, 'offsets' | 'sizes'>;

/**
 * Cuts an array along the edges of boxes within it, and notes which box each block lies in.
 *
 * @returns null where one lies in none, or the boxes beyond the array or in shreds.
 */
function ownersOf(
  extents: readonly number[],
  boxes: readonly Box[],
): { readonly ownerAt: (index: readonly number[]) => number } | null {
  const fits = ({ offsets, sizes }: Box) =>
    extents.every((extent, axis) => {
      const [offset = 0, size = 0] = [offsets[axis], sizes[axis]];
      return offset >= 0 && size >= 0 && offset + size <= extent;
    });
  if (!boxes.every(fits)) return null;
  const edges = extents.map((_, axis) =>
    [...new Set([0, ...boxes.flatMap(({ offsets, sizes }) => edgesOf(offsets[axis], sizes[axis]))])]
      .filter((edge) => edge < (extents[axis] ?? 0))
      .sort((x, y) => x - y),
  );
  const counts = edges.map(({ length }) => length);
  const most = MAX_BLOCKS_PER_PIECE * boxes.length;
  if (countElements(counts) > most) return null;
  const owners = new Int32Array(countElements(counts)).fill(-1);
  const blockOf = (axis: number, at: number) => partitionPoint(edges[axis] ?? [], (edge) => edge <= at) - 1;
  let visited = 0;
  for (const [number, { offsets, sizes }] of boxes.entries()) {
    if (countElements(sizes) === 0) continue;
    const starts = offsets.map((offset, axis) => blockOf(axis, offset));
    const spans = sizes.map(
      (size, axis) => blockOf(axis, (offsets[axis] ?? 0) + size - 1) + 1 - (starts[axis] ?? 0),
    );
    visited += countElements(spans);
    if (visited > most) return null;
    for (let block = 0; block < countElements(spans); block++) {
      const within = indexAt(block, spans);
      owners[
        placeOf(
          within.map((at, axis) => at + (starts[axis] ?? 0)),
          counts,
        )
      ] = number;
    }
  }
  if (owners.includes(-1)) return null;
  return {
    ownerAt: (index) =>
      owners[
        placeOf(
          index.map((at, axis) => blockOf(axis, at)),
          counts,
        )
      ] ?? -1,
  };
}

function edgesOf(offset = 0, size = 0): readonly number[] {
  return size === 0 ? [] : [offset, offset + size];
}
