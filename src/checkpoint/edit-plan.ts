import { basename, dirname, relative, sep } from 'node:path';
import { CheckpointError, quote } from '../errors.js';
import {
  type ByteRange,
  type ByteSource,
  enclosingRange,
  type PlacedBytes,
  placeBytes,
  readRange,
} from '../io/byte-source.js';
import { FileSource } from '../io/file-source.js';
import type { Tensor } from './checkpoint.js';

/** A tensor of a checkpoint and the bytes that it shall hold: as many as it has, little-endian and row-major. */
export interface TensorEdit {
  readonly tensor: Tensor;
  readonly bytes: Uint8Array;
  /** What to call a tensor of its own, where the one that it shares with others has to be split. */
  readonly preferredName: string;
}

/** A piece of a file that other bytes take the place of; as many bytes where the file keeps its size. */
export interface Splice {
  readonly offset: number;
  readonly deleted: number;
  readonly bytes: Uint8Array;
}

/** One file of a checkpoint and how it changes; without splices it is copied as it is. */
export interface FileEdit {
  readonly source: FileSource;
  /** Where the file stands relative to the checkpoint's own directory, with forward slashes. */
  readonly name: string;
  /** By offset; none overlaps another. */
  readonly splices: readonly Splice[];
}

/** Every file that makes up a checkpoint, the one that refers to the others last. */
export interface EditPlan {
  readonly files: readonly FileEdit[];
}

/** How {@link EditPlan} names files. */
export interface EditOptions {
  /** The new name of a file that the checkpoint refers to by its name, such as external data. */
  readonly renameData?: ((name: string, count: number) => string) | undefined;
}

/** A piece with the tensor that wants it. */
interface OwnedPiece extends PlacedBytes {
  readonly tensor: Tensor;
}

/**
 * Finds where the bytes of edits belong in the sources that hold them.
 *
 * @param tensors all of the checkpoint's: one that shares bytes with an edit and is not edited itself must keep its value.
 * @returns pieces by source and offset, none of which overlap.
 * @throws CheckpointError `unsupported` naming the tensors, where no such place exists.
 */
export async function placeEdits(
  edits: readonly TensorEdit[],
  tensors: Iterable<Tensor>,
): Promise<ReadonlyMap<ByteSource, readonly PlacedBytes[]>> {
  const pieces = new Map<ByteSource, OwnedPiece[]>();
  for (const { tensor, bytes } of edits) {
    const placed = placeBytes(tensor.range, bytes);
    if (placed === null)
      throw cannotPlace(tensor, 'is a view of bytes in another order, which cannot be written back');
    for (const piece of placed) {
      const list = pieces.get(piece.source) ?? [];
      list.push({ ...piece, tensor });
      pieces.set(piece.source, list);
    }
  }
  const disjoint = new Map([...pieces].map(([source, list]) => [source, mergePieces(list)]));
  const edited = new Set(edits.map(({ tensor }) => tensor.name));
  for (const tensor of tensors) {
    if (!edited.has(tensor.name)) await checkUntouched(tensor, disjoint);
  }
  return disjoint;
}

/** Sorts pieces and drops what two of them say alike. */
function mergePieces(pieces: readonly OwnedPiece[]): readonly OwnedPiece[] {
  const merged: OwnedPiece[] = [];
  for (const piece of [...pieces].sort((x, y) => x.offset - y.offset)) {
    const last = merged.at(-1);
    const overlap = last === undefined ? 0 : last.offset + last.bytes.byteLength - piece.offset;
    if (last === undefined || overlap <= 0) {
      merged.push(piece);
      continue;
    }
    if (findDifference(last, piece))
      throw cannotPlace(piece.tensor, `shares its bytes with ${quote(last.tensor.name)}, which needs others`);
    if (overlap >= piece.bytes.byteLength) continue;
    merged.push({ ...piece, offset: piece.offset + overlap, bytes: piece.bytes.subarray(overlap) });
  }
  return merged;
}

/** Whether two pieces of one source overlap and say different bytes there. */
function findDifference(one: PlacedBytes, other: PlacedBytes): boolean {
  const start = Math.max(one.offset, other.offset);
  const end = Math.min(one.offset + one.bytes.byteLength, other.offset + other.bytes.byteLength);
  if (start >= end) return false;
  const cut = ({ offset, bytes }: PlacedBytes) => bytes.subarray(start - offset, end - offset);
  return Buffer.compare(cut(one), cut(other)) !== 0;
}

async function checkUntouched(
  tensor: Tensor,
  pieces: ReadonlyMap<ByteSource, readonly OwnedPiece[]>,
): Promise<void> {
  const enclosing = enclosingRange(tensor.range);
  const touching = findOverlaps(pieces.get(enclosing.source) ?? [], enclosing);
  if (touching.length === 0) return;
  const current =
    tensor.range.source.backing === undefined
      ? await readOverlaps(touching, enclosing)
      : placeBytes(tensor.range, await readRange(tensor.range));
  for (const piece of touching) {
    if (current === null || current.some((held) => findDifference(held, piece))) {
      throw cannotPlace(
        piece.tensor,
        `shares its bytes with ${quote(tensor.name)}, which is not to be changed`,
      );
    }
  }
}

/** The pieces that reach into a range: a binary search, since pieces are sorted and disjoint. */
function findOverlaps(pieces: readonly OwnedPiece[], range: ByteRange): readonly OwnedPiece[] {
  let [low, high] = [0, pieces.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    const piece = pieces[middle];
    if (piece !== undefined && piece.offset + piece.bytes.byteLength <= range.offset) low = middle + 1;
    else high = middle;
  }
  const found: OwnedPiece[] = [];
  for (let index = low; index < pieces.length; index++) {
    const piece = pieces[index];
    if (piece === undefined || piece.offset >= range.offset + range.byteLength) break;
    found.push(piece);
  }
  return found;
}

async function readOverlaps(pieces: readonly OwnedPiece[], range: ByteRange): Promise<PlacedBytes[]> {
  const read: PlacedBytes[] = [];
  for (const { source, offset, bytes } of pieces) {
    const start = Math.max(offset, range.offset);
    const end = Math.min(offset + bytes.byteLength, range.offset + range.byteLength);
    const held = await readRange({ source, offset: start, byteLength: end - start });
    read.push({ source, offset: start, bytes: held });
  }
  return read;
}

/** Pieces of a file as splices that leave its size as it is. */
export function toSplices(pieces: readonly PlacedBytes[] = []): readonly Splice[] {
  return pieces.map(({ offset, bytes }) => ({ offset, deleted: bytes.byteLength, bytes }));
}

/**
 * Checks that nothing but the given files would have to change.
 *
 * @throws CheckpointError `unsupported` naming what the tensor's bytes come from otherwise.
 */
export function refuseOtherSources(
  pieces: ReadonlyMap<ByteSource, readonly PlacedBytes[]>,
  files: ReadonlySet<ByteSource>,
  edits: readonly TensorEdit[],
): void {
  for (const source of pieces.keys()) {
    if (files.has(source)) continue;
    const edit = edits.find(({ tensor }) => enclosingRange(tensor.range).source === source);
    if (edit !== undefined) throw cannotPlace(edit.tensor, 'is computed and stands in no file as such');
  }
}

/** The error that says why a tensor cannot be given other bytes. */
export function cannotPlace({ name, range }: Tensor, why: string): CheckpointError {
  return new CheckpointError(`tensor ${quote(name)} cannot be restored: it ${why}`, {
    code: 'unsupported',
    file: range.source.name,
  });
}

/**
 * Plans edits of a checkpoint whose files hold the tensors' bytes and nothing that depends on them.
 *
 * @param sources every file, the one that refers to the others last.
 * @throws CheckpointError `unsupported` as {@link placeEdits}, and where a source is no file.
 */
export async function planPlainEdits(
  edits: readonly TensorEdit[],
  tensors: Iterable<Tensor>,
  sources: readonly ByteSource[],
): Promise<EditPlan> {
  const pieces = await placeEdits(edits, tensors);
  refuseOtherSources(pieces, new Set(sources), edits);
  const files = sources.map((source) => asFile(source));
  const directory = dirname(files.at(-1)?.path ?? '');
  return {
    files: files.map((source) => ({
      source,
      name: relative(directory, source.path).split(sep).join('/'),
      splices: toSplices(pieces.get(source)),
    })),
  };
}

/**
 * The plan of a checkpoint that is one file.
 *
 * @throws CheckpointError `unsupported` where it is in none.
 */
export function planOneFile(source: ByteSource, splices: readonly Splice[]): EditPlan {
  const file = asFile(source);
  return { files: [{ source: file, name: basename(file.path), splices }] };
}

/**
 * A source as the file that it is.
 *
 * @throws CheckpointError `unsupported` for bytes that are in no file of this machine.
 */
export function asFile(source: ByteSource): FileSource {
  if (source instanceof FileSource) return source;
  throw new CheckpointError('expected a file to copy, found a checkpoint that is in none', {
    code: 'unsupported',
    file: source.name,
  });
}
