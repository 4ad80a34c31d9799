// Puts the checkpoints of a training run in order: by what the files say of themselves, else by their names.

import type { Checkpoint } from '../checkpoint/checkpoint.js';
import type { TrainingProgress } from '../checkpoint/training-progress.js';
import { readBatchCount } from '../compare/compare-layers.js';
import { findLayersAndLearned, mayHoldLayers } from '../norm/find-layers.js';
import { compareNaturally } from '../norm/naming.js';
import type { OrderKey } from '../report/trace-report.js';

/** How far the training was when a checkpoint was written, as far as the file tells. */
export interface Progress extends TrainingProgress {
  /** The batch counts of all norm layers together, which rise while any of them trains; null where no layer counts. */
  readonly batches: number | null;
}

/**
 * Reads how far the training was: what stands beside the model, and the batch counts of its norm layers, where it has any.
 *
 * @throws CheckpointError when a count cannot be read.
 */
export async function readProgress(
  checkpoint: Checkpoint,
): Promise<Progress & { readonly hasLayers: boolean }> {
  const { epoch = null, step = null } = checkpoint.progress ?? {};
  const layers = mayHoldLayers(checkpoint) ? findLayersAndLearned(checkpoint).layers : [];
  let batches: number | null = null;
  for (const layer of layers) {
    const count = await readBatchCount(layer);
    if (count !== null) batches = (batches ?? 0) + Number(count);
  }
  return { epoch, step, batches, hasLayers: layers.length > 0 };
}

/** How names call epochs and steps: `epoch_12.pth`, `RFB-Epoch-100`, `epoch=3-step=400.ckpt`, `checkpoint-500`, `iter_80`. */
const NAMED_EPOCH = /(?:^|[^a-z])ep(?:och)?s?[-_= ]?(\d{1,9})(?!\d)/i;
const NAMED_STEP =
  /(?:^|[^a-z])(?:(?:global_?)?steps?|iter(?:ation)?s?|checkpoint|ckpt)[-_= ]?(\d{1,12})(?!\d)/i;

/** The epoch and the step that a checkpoint's name or that of its directory tells. */
export function readNamedProgress(path: string): TrainingProgress {
  const name = path.split(/[\\/]/).slice(-2).join('/');
  const read = (pattern: RegExp) => {
    const last = [...name.matchAll(new RegExp(pattern, 'gi'))].at(-1)?.[1];
    return last === undefined ? null : Number(last);
  };
  return { epoch: read(NAMED_EPOCH), step: read(NAMED_STEP) };
}

/** A checkpoint to be put in order. */
interface Placed extends Progress {
  readonly path: string;
}

/** Checkpoints in order, and what told it. */
interface Order<One extends Placed> {
  readonly ordered: readonly One[];
  /** What decided, in this order; never empty. */
  readonly by: readonly OrderKey[];
  /** What the user should know of it, as sentences. */
  readonly doubts: readonly string[];
}

type Key = keyof Progress;

/** What orders them by itself, tried in turn: epochs start anew with each training, counts with each reset. */
const CHOICES: readonly (readonly Key[])[] = [['epoch'], ['epoch', 'step'], ['step'], ['batches']];

/**
 * Puts checkpoints in order: by the first of epoch, epoch and step, step, batch counts that every file tells and that tells
 * them all apart; else by all of these that every file tells, and then by the numbers in their names, names without any
 * (`last.pt`) last.
 */
export function orderCheckpoints<One extends Placed>(checkpoints: readonly One[]): Order<One> {
  const told = CHOICES.find(
    (keys) => keys.every((key) => isTold(checkpoints, key)) && areApart(checkpoints, keys),
  );
  const keys =
    told ??
    (['epoch', 'step', 'batches'] as const).filter(
      (key) => isTold(checkpoints, key) && differs(checkpoints, key),
    );
  const compare = (x: One, y: One) => compareBy(keys, x, y) || compareNames(x.path, y.path);
  const ordered = [...checkpoints].sort(compare);
  const by = told === undefined ? [...keys, 'name' as const] : keys;
  return { ordered, by, doubts: by.includes('batches') ? [] : findDoubts(ordered, by) };
}

function isTold(checkpoints: readonly Placed[], key: Key): boolean {
  return checkpoints.every((one) => one[key] !== null);
}

function differs(checkpoints: readonly Placed[], key: Key): boolean {
  return checkpoints.some((one) => one[key] !== checkpoints[0]?.[key]);
}

function areApart(checkpoints: readonly Placed[], keys: readonly Key[]): boolean {
  return new Set(checkpoints.map((one) => keys.map((key) => one[key]).join())).size === checkpoints.length;
}

function compareBy(keys: readonly Key[], one: Placed, other: Placed): number {
  for (const key of keys) {
    const difference = (one[key] ?? 0) - (other[key] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function compareNames(one: string, other: string): number {
  const isNumbered = (path: string) => /\d[^/\\]*$/.test(path);
  return Number(isNumbered(other)) - Number(isNumbered(one)) || compareNaturally(one, other);
}

/** Counts that go back in this order: they were reset, or these are several trainings. */
function findDoubts(ordered: readonly Placed[], by: readonly OrderKey[]): readonly string[] {
  if (!isTold(ordered, 'batches')) return [];
  const index = ordered.findIndex(({ batches }, at) => (batches ?? 0) < (ordered[at - 1]?.batches ?? 0));
  const [before, after] = [ordered[index - 1], ordered[index]];
  if (before === undefined || after === undefined) return [];
  return [
    `in the order of ${by.join(' and ')}, the batch counts go back from ${before.path} to ${after.path}: they were reset there, or these are several trainings`,
  ];
}

/** Whether nothing tells two checkpoints apart but their names. */
export function areAtOnePlace(one: Progress, other: Progress): boolean {
  return one.epoch === other.epoch && one.step === other.step && one.batches === other.batches;
}
