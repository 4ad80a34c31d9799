// Work on one checkpoint or two: opens them, chooses what of them `select` means, and closes them whatever comes of it.

import { type Checkpoint, haveSameShape, type OpenOptions } from '../checkpoint/checkpoint.js';
import { CheckpointError, LostSelection, quote, UsageError } from '../errors.js';
import { findOnMachine, isPlace, nameOf } from '../io/places.js';
import { isSameFile } from '../io/write-target.js';
import { DIRECTORY_NAMES, openPath } from './open.js';

/**
 * Opens a checkpoint, does some work on it, and closes it whatever comes of the work.
 *
 * @throws as {@link openCheckpoint} and {@link refuseIdleSelect}.
 */
export function withCheckpoint<Result>(
  path: string,
  options: OpenOptions,
  work: (checkpoint: Checkpoint) => Promise<Result>,
): Promise<Result> {
  return withOpened(path, options, (checkpoint) => {
    refuseIdleSelect(options.select, [checkpoint]);
    return work(checkpoint);
  });
}

/**
 * The same of two checkpoints. Where one alone has the part that `select` names, and the other several networks, of these
 * the one that has most of its tensors is opened.
 *
 * @throws as {@link withCheckpoint}; CheckpointError `same-file` where both are one file.
 */
export async function withCheckpoints<Result>(
  [beforePath, afterPath]: readonly [before: string, after: string],
  options: OpenOptions,
  work: (before: Checkpoint, after: Checkpoint) => Promise<Result>,
): Promise<Result> {
  refuseSameCheckpoint(beforePath, afterPath);
  return withBefore(beforePath, options, (withAfter) => withAfter(afterPath, options, work));
}

/** Opens a checkpoint beside the one from before, does some work on both, and closes it. */
export type WithAfter = <Result>(
  path: string,
  options: OpenOptions,
  work: (before: Checkpoint, after: Checkpoint) => Promise<Result>,
) => Promise<Result>;

/**
 * The same of one checkpoint from before and any number that it is compared with, one after the other: it is opened once.
 *
 * @throws as {@link withCheckpoint}; {@link WithAfter} likewise, and where `select` names a part of neither.
 */
export function withBefore<Result>(
  beforePath: string,
  options: OpenOptions,
  work: (withAfter: WithAfter) => Promise<Result>,
): Promise<Result> {
  return withSelected(beforePath, options, (before) =>
    work((afterPath, opening, workOn) =>
      withSelected(afterPath, opening, (after) => {
        const workOnBoth = async (one: Checkpoint, other: Checkpoint) => {
          refuseIdleSelect(opening.select, [one, other]);
          return workOn(one, other);
        };
        if (before instanceof LostSelection) {
          if (after instanceof LostSelection) throw before;
          const like = { lost: before, path: beforePath, options };
          return withLike(after, like, (found) => workOnBoth(found, after));
        }
        const like = { path: afterPath, options: opening };
        return after instanceof LostSelection
          ? withLike(before, { ...like, lost: after }, (found) => workOnBoth(before, found))
          : workOnBoth(before, after);
      }),
    ),
  );
}

/**
 * Refuses to compare a checkpoint with itself: whatever was to be found out, the answer would be that nothing moved.
 *
 * @throws CheckpointError `same-file`.
 */
function refuseSameCheckpoint(before: string, after: string): void {
  const isOnePlace = isPlace(before) && before === after;
  const areSame = () =>
    isSameFile(findOnMachine(before, DIRECTORY_NAMES), findOnMachine(after, DIRECTORY_NAMES));
  if (!isOnePlace && !areSame()) return;
  const hint = 'Name two checkpoints; to look at one alone: bn-audit inspect FILE';
  const found = `found before itself (${quote(nameOf(before))})`;
  const message = `expected the checkpoint from after the training, ${found}`;
  throw new CheckpointError(message, { code: 'same-file', file: nameOf(after), hint });
}

/** @param work is told so where the file has several parts, and not the one that was to be selected. */
async function withSelected<Result>(
  path: string,
  options: OpenOptions,
  work: (selected: Checkpoint | LostSelection) => Promise<Result>,
): Promise<Result> {
  const opened = await openPath(path, options).catch((error: unknown) => {
    if (error instanceof LostSelection) return error;
    throw error;
  });
  if (opened instanceof LostSelection) return work(opened);
  try {
    return await work(opened);
  } finally {
    await opened.close();
  }
}

/** Opens of a file's networks the one that is like a model, or all where several are equally like it. */
function withLike<Result>(
  model: Checkpoint,
  {
    lost,
    path,
    options,
  }: { readonly lost: LostSelection; readonly path: string; readonly options: OpenOptions },
  work: (found: Checkpoint) => Promise<Result>,
): Promise<Result> {
  if (model.unselected !== undefined) throw lost;
  const workOn = (found: Checkpoint, what: string) => {
    const warning = `nothing with tensors is at ${quote(options.select ?? '')} in ${quote(nameOf(path))}; ${what} was audited`;
    return work({ ...found, warnings: [warning, ...found.warnings] });
  };
  return withOpened(path, { ...options, select: undefined }, async (whole) => {
    const [first, ...others] = findLikest(whole, model);
    if (first === undefined) throw lost;
    if (others.length > 0 || first === '') return workOn(whole, 'what has most of the selected tensors');
    return withOpened(path, { ...options, select: first }, (part) =>
      workOn(part, `${quote(first)}, which has most of the selected tensors,`),
    );
  });
}

async function withOpened<Result>(
  path: string,
  options: OpenOptions,
  work: (checkpoint: Checkpoint) => Promise<Result>,
): Promise<Result> {
  const checkpoint = await openPath(path, options);
  try {
    return await work(checkpoint);
  } finally {
    await checkpoint.close();
  }
}

/**
 * Makes sure that `select` names a part of at least one of the checkpoints that it was given for. Of the others, a
 * format without parts has nothing to name, and a checkpoint with one part that holds norm layers no other to offer.
 *
 * @throws UsageError that lists what could be selected.
 */
export function refuseIdleSelect(select: string | undefined, checkpoints: readonly Checkpoint[]): void {
  if (select === undefined || checkpoints.some(({ unselected }) => unselected === undefined)) return;
  const parts = [...new Set(checkpoints.flatMap(({ unselected }) => unselected ?? []))];
  const files = checkpoints.map(({ path }) => quote(path)).join(' or of ');
  throw new UsageError(
    `--select ${quote(select)} names no part of ${files}`,
    parts.length === 0
      ? 'There are no parts to choose from: leave --select out.'
      : `What holds norm layers: ${parts.join(', ')}. Select that, or leave --select out.`,
  );
}

/** The parts with most of a model's tensors, by name and shape: `''` is all of a file without parts. */
function findLikest({ tensors, parts = [''] }: Checkpoint, model: Checkpoint): readonly string[] {
  const counts = parts.map((part) => {
    const prefix = part === '' ? '' : `${part}.`;
    return [...model.tensors].filter(([name, tensor]) => {
      const twin = tensors.get(prefix + name);
      return twin !== undefined && haveSameShape(twin, tensor);
    }).length;
  });
  const most = Math.max(...counts);
  return most === 0 ? [] : parts.filter((_, index) => counts[index] === most);
}
