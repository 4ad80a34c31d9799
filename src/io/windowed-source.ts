import { type ByteSource, checkBounds } from './byte-source.js';

/**
 * A source that serves small reads which lie close together from one window of the source below: headers and small
 * records between large payloads cost one system call instead of several. Reads longer than the window pass through.
 */
export function windowedSource(source: ByteSource, windowByteLength: number): ByteSource {
  const window = new Uint8Array(windowByteLength);
  let windowStart = 0;
  let windowEnd = 0;
  return {
    name: source.name,
    byteLength: source.byteLength,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      if (target.byteLength > windowByteLength) return source.readInto(target, position);
      if (position < windowStart || position + target.byteLength > windowEnd) {
        const byteLength = Math.min(windowByteLength, source.byteLength - position);
        windowEnd = windowStart;
        await source.readInto(window.subarray(0, byteLength), position);
        windowStart = position;
        windowEnd = position + byteLength;
      }
      const at = position - windowStart;
      target.set(window.subarray(at, at + target.byteLength));
    },
    close: () => source.close(),
  };
}
