// How far a training was when it wrote a checkpoint: the epoch and the step that stand beside the model.

/** How far a training was when its checkpoint was written, in the file's own counting; null what it does not say. */
export interface TrainingProgress {
  readonly epoch: number | null;
  /** Steps of the optimizer, or batches, as whoever wrote the file counts. */
  readonly step: number | null;
}

/** Keys for epochs, of which the first that is there counts: `epoch` of Lightning, timm, Ultralytics and mmengine. */
const EPOCH_KEYS = ['epoch', 'epochs', 'cur_epoch', 'current_epoch', 'epoch_num'];

/**
 * Keys for steps. Lightning: `global_step`; DeepSpeed: `global_steps`; fairseq: `num_updates`; Detectron2: `iteration`;
 * mmengine: `iter`.
 */
const STEP_KEYS = [
  'global_step',
  'global_steps',
  'num_updates',
  'iteration',
  'iter',
  'step',
  'steps',
  'cur_step',
  'current_step',
];

/** What a file holds beside the model, by key. */
interface Place {
  readonly get: (key: string) => unknown;
}

/**
 * The epoch and the step that a checkpoint tells; undefined where it tells neither.
 *
 * @param places where they may stand, the likeliest first.
 */
export function findProgress(places: readonly Place[]): TrainingProgress | undefined {
  const [epoch, step] = [findCount(places, EPOCH_KEYS), findCount(places, STEP_KEYS)];
  return epoch === null && step === null ? undefined : { epoch, step };
}

function findCount(places: readonly Place[], keys: readonly string[]): number | null {
  for (const place of places) {
    for (const key of keys) {
      const value = place.get(key);
      const count =
        typeof value === 'string' && /^\d{1,15}(?:\.\d{1,15})?$/.test(value) ? Number(value) : value;
      // Ultralytics writes epoch -1 into a checkpoint that is finished, Hugging Face an epoch with a fraction.
      if (typeof count === 'number' && Number.isFinite(count) && count >= 0) return count;
    }
  }
  return null;
}
