import type { Tensor } from '../checkpoint/checkpoint.js';
import { decodeFloats } from '../checkpoint/dtype.js';
import { TensorSummarizer } from '../checkpoint/fingerprint.js';
import { readRange } from '../io/byte-source.js';
import { provesChange } from './projected-scales.js';
import { RoundingJudge } from './rounding.js';
import type { TensorComparison } from './tensor-equality.js';

/** Compares tensors of which at least one is known by its hash and a sample of its values. */
export class HashComparer {
  readonly #summarizer = new TensorSummarizer();
  readonly #isExact: boolean;

  /** @param isExact whether every difference is a change. */
  constructor({ isExact }: { readonly isExact: boolean }) {
    this.#isExact = isExact;
  }

  /**
   * Compares two tensors of one shape. Hashes tell whether they are equal; the samples, whether what differs is rounding.
   * Without samples, projections may prove a change, but never that there was none.
   *
   * @throws CheckpointError when a range cannot be read.
   */
  async compare(before: Tensor, after: Tensor): Promise<TensorComparison> {
    const isRetyped = before.dtype !== after.dtype;
    const [one, other] = [await this.#identify(before), await this.#identify(after)];
    if (!isRetyped && one.sha256 === other.sha256) return { kind: 'exact' };
    if (this.#isExact && !isRetyped) return { kind: 'changed' };
    if (one.sample === null || other.sample === null)
      return { kind: (await provesChange(before, after)) ? 'changed' : 'incomparable' };
    const judge = new RoundingJudge(before.dtype, after.dtype);
    if (!judge.add(decodeFloats(one.sample, before.dtype), decodeFloats(other.sample, after.dtype)))
      return { kind: 'changed' };
    // Something differs, but nothing in the sample does: some few values were changed.
    return judge.isUntouched ? { kind: isRetyped ? 'exact' : 'changed' } : judge.conclude();
  }

  async #identify(tensor: Tensor): Promise<{ sha256: string; sample: Uint8Array | null }> {
    const { fingerprint } = tensor;
    if (fingerprint === undefined) return this.#summarizer.summarize(tensor, null);
    const { sha256, sample } = fingerprint;
    return { sha256, sample: sample === null ? null : await readRange(sample) };
  }
}
