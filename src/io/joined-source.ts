import { type ByteRange, type ByteSource, checkBounds } from './byte-source.js';

/** Ranges one after the other as one range, read only when it is. The caller closes what they read from. */
export function joinRanges(name: string, parts: readonly ByteRange[]): ByteRange {
  let byteLength = 0;
  const placed = parts.map((range) => {
    const start = byteLength;
    byteLength += range.byteLength;
    return { range, start, end: byteLength };
  });
  const source: ByteSource = {
    name,
    byteLength,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      const limit = position + target.byteLength;
      for (const { range, start, end } of placed) {
        const [from, to] = [Math.max(start, position), Math.min(end, limit)];
        if (from >= to) continue;
        await range.source.readInto(
          target.subarray(from - position, to - position),
          range.offset + from - start,
        );
      }
    },
    async close() {},
  };
  return { source, offset: 0, byteLength };
}
