// Which bytes of a file become others when tensors are replaced: what restore writes.

import { basename, dirname, relative, sep } from 'node:path';
import { CheckpointError, fail, quote } from '../errors.js';
import {
  type ByteRange,
  type ByteSource,
  enclosingRange,
  haveSameBytes,
  type PlacedContent,
  partitionPoint,
  placeContent,
  refuseAmplified,
  type Splice,
  sliceRange,
} from '../io/byte-source.js';
import { FileSource } from '../io/file-source.js';
import type { EditPlan, Tensor, TensorEdit } from './checkpoint.js';

interface OwnedPiece extends PlacedContent {
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
): Promise<ReadonlyMap<ByteSource, readonly PlacedContent[]>> {
  const pieces = new Map<ByteSource, OwnedPiece[]>();
  for (const { tensor, content } of edits) {
    const placed = await place(tensor, content);
    if (placed === null)
      throw cannotPlace(tensor, 'is a view of bytes in another order, which cannot be written back');
    for (const piece of placed) {
      const list = pieces.get(piece.source) ?? [];
      list.push({ ...piece, tensor });
      pieces.set(piece.source, list);
    }
  }
  const disjoint = new Map<ByteSource, readonly OwnedPiece[]>();
  for (const [source, list] of pieces) disjoint.set(source, await mergePieces(list));
  const edited = new Set(edits.map(({ tensor }) => tensor.name));
  for (const tensor of tensors) if (!edited.has(tensor.name)) await checkUntouched(tensor, disjoint);
  return disjoint;
}

function place({ range }: Tensor, content: ByteRange): Promise<readonly PlacedContent[] | null> {
  // A view of other bytes is read into memory, unless it claims far more than there is under it.
  refuseAmplified([range], range.source.name);
  return placeContent(range, content);
}

/** Sorts pieces and drops what two of them say alike. */
async function mergePieces(pieces: readonly OwnedPiece[]): Promise<readonly OwnedPiece[]> {
  const merged: OwnedPiece[] = [];
  for (const piece of [...pieces].sort((x, y) => x.offset - y.offset)) {
    const { content } = piece;
    const last = merged.at(-1);
    const overlap = last === undefined ? 0 : endOf(last) - piece.offset;
    if (last === undefined || overlap <= 0) {
      merged.push(piece);
      continue;
    }
    if (await differWhereTheyMeet(last, piece))
      throw cannotPlace(piece.tensor, `shares its bytes with ${quote(last.tensor.name)}, which needs others`);
    if (overlap >= content.byteLength) continue;
    const rest = sliceRange(content, overlap, content.byteLength);
    merged.push({ ...piece, offset: piece.offset + overlap, content: rest });
  }
  return merged;
}

function endOf({ offset, content }: PlacedContent): number {
  return offset + content.byteLength;
}

/** Whether two pieces of one source say different bytes where they meet. */
async function differWhereTheyMeet(one: PlacedContent, other: PlacedContent): Promise<boolean> {
  const start = Math.max(one.offset, other.offset);
  const end = Math.min(endOf(one), endOf(other));
  if (start >= end) return false;
  const cut = ({ offset, content }: PlacedContent) => sliceRange(content, start - offset, end - offset);
  return !(await haveSameBytes(cut(one), cut(other)));
}

async function checkUntouched(
  tensor: Tensor,
  pieces: ReadonlyMap<ByteSource, readonly OwnedPiece[]>,
): Promise<void> {
  const { source, offset, byteLength } = enclosingRange(tensor.range);
  const inSource = pieces.get(source) ?? [];
  const touching = inSource.slice(
    partitionPoint(inSource, (piece) => endOf(piece) <= offset),
    partitionPoint(inSource, (piece) => piece.offset < offset + byteLength),
  );
  if (touching.length === 0) return;
  const held = await place(tensor, tensor.range);
  for (const piece of touching) {
    let isKept = held !== null;
    for (const other of held ?? []) isKept &&= !(await differWhereTheyMeet(other, piece));
    if (!isKept)
      throw cannotPlace(
        piece.tensor,
        `shares its bytes with ${quote(tensor.name)}, which is not to be changed`,
      );
  }
}

/**
 * What a format answers whose tensors are read only.
 *
 * @param what it is.
 * @param hint the way out.
 * @throws CheckpointError `unsupported`, always.
 */
export async function refuseEdits(
  file: string,
  what: string,
  hint = 'Save the state dict in one file with torch.save or safetensors, and restore into that.',
): Promise<never> {
  fail(file, `expected a checkpoint that statistics can be written into, found ${what}`, 'unsupported', {
    hint,
  });
}

/** Pieces of a file as splices that leave its size as it is. */
export function toSplices(pieces: readonly PlacedContent[] = []): readonly Splice[] {
  return pieces.map(({ offset, content }) => ({ offset, deleted: content.byteLength, content }));
}

/**
 * Checks that nothing but the given files would have to change.
 *
 * @throws CheckpointError `unsupported` naming what the tensor's bytes come from otherwise.
 */
export function refuseOtherSources(
  pieces: ReadonlyMap<ByteSource, readonly PlacedContent[]>,
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
  const message = `tensor ${quote(name)} cannot be restored: it ${why}`;
  return new CheckpointError(message, { code: 'unsupported', file: range.source.name });
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
  const files = sources.map((source) => ({ source, place: placeOf(source) }));
  const directory = dirname(files.at(-1)?.place ?? '');
  return {
    files: files.map(({ source, place }) => ({
      source,
      name: relative(directory, place).split(sep).join('/'),
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
  return { files: [{ source, name: basename(placeOf(source)), splices }] };
}

/** Whether a source is a whole file, of this machine or of a server. */
export function isFile(source: ByteSource): boolean {
  return source instanceof FileSource || source.remotePath !== undefined;
}

/**
 * Where the file lies that a source is, here or on its server.
 *
 * @throws CheckpointError `unsupported` for bytes that are no whole file.
 */
export function placeOf(source: ByteSource): string {
  const place = source.remotePath ?? source.path;
  if (isFile(source) && place !== undefined) return place;
  const message = 'expected a file to copy, found a checkpoint that is in none';
  fail(source.name, message, 'unsupported');
}
