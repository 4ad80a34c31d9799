import { CheckpointError } from '../errors.js';
import { type ByteRange, type ByteSource, storedRange } from './byte-source.js';

/**
 * How many times the bytes that a file stores may be read as tensors. Layers that are used again are read for each of
 * their names, up to a dozen in models in use; expanded and deflated tensors may claim any size.
 */
const MAX_AMPLIFICATION = 16;

/** What may be read however little is stored: small tensors that are expanded, or deflate to next to nothing. */
const FREE_BYTES = 16 * 1024 * 1024;

/**
 * Checks, before they are read, that ranges do not claim far more bytes than there are under them: the work on a file,
 * and what is written about it, stays in proportion to its size.
 *
 * @param claimed the bytes that are to be read or written for the ranges, where these are not their own.
 * @throws CheckpointError `limit-exceeded`
 */
export function refuseAmplified(
  ranges: readonly ByteRange[],
  file: string,
  claimed = ranges.reduce((sum, { byteLength }) => sum + byteLength, 0),
): void {
  if (claimed <= FREE_BYTES) return;
  const stored = countStored(ranges.map(storedRange));
  if (claimed <= FREE_BYTES + MAX_AMPLIFICATION * stored) return;
  throw new CheckpointError(
    `expected tensors and records of at most ${MAX_AMPLIFICATION} times the ${stored} bytes that are stored for them, found ${claimed} bytes`,
    {
      code: 'limit-exceeded',
      file,
      hint: 'They are expanded, overlap or are compressed: save them with .clone(), in a file without compression.',
    },
  );
}

/** How many bytes lie in at least one of some ranges. */
function countStored(ranges: readonly ByteRange[]): number {
  const ends = new Map<ByteSource, number>();
  let count = 0;
  for (const { source, offset, byteLength } of [...ranges].sort((x, y) => x.offset - y.offset)) {
    const [end, from] = [offset + byteLength, Math.max(offset, ends.get(source) ?? 0)];
    if (end <= from) continue;
    count += end - from;
    ends.set(source, end);
  }
  return count;
}
