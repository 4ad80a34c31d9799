import type { Tensor } from '../checkpoint/checkpoint.js';
import { TensorSummarizer } from '../checkpoint/fingerprint.js';
import { provesChange } from './projected-scales.js';
import type { Equality } from './tensor-equality.js';

/** Compares tensors of which at least one is known by its hash alone. */
export class HashComparer {
  readonly #summarizer = new TensorSummarizer();

  /**
   * Compares two tensors of one shape. Where their types differ, a hash tells nothing; projections may still prove a
   * change, but never that there was none.
   *
   * @throws CheckpointError when a range cannot be read.
   */
  async compare(before: Tensor, after: Tensor): Promise<Equality> {
    if (before.dtype !== after.dtype) return (await provesChange(before, after)) ? 'changed' : 'incomparable';
    return (await this.#hashOf(before)) === (await this.#hashOf(after)) ? 'equal' : 'changed';
  }

  async #hashOf(tensor: Tensor): Promise<string> {
    return tensor.fingerprint?.sha256 ?? (await this.#summarizer.summarize(tensor, null)).sha256;
  }
}
