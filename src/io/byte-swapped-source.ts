import { type ByteRange, type ByteSource, checkBounds } from './byte-source.js';

/**
 * A range of big-endian units as a source of little-endian ones.
 *
 * @param unitByteLength 2, 4 or 8: the width that is reversed. Complex elements are two units.
 */
export function byteSwappedSource(range: ByteRange, unitByteLength: 2 | 4 | 8): ByteSource {
  const source: ByteSource = {
    name: range.source.name,
    byteLength: range.byteLength,
    async readInto(target, position) {
      checkBounds(source, position, target.byteLength);
      const start = position - (position % unitByteLength);
      const end = roundUp(position + target.byteLength, unitByteLength);
      if (start === position && end === position + target.byteLength) {
        await range.source.readInto(target, range.offset + position);
        reverseUnits(target, unitByteLength);
        return;
      }
      const units = new Uint8Array(end - start);
      await range.source.readInto(units, range.offset + start);
      reverseUnits(units, unitByteLength);
      target.set(units.subarray(position - start, position - start + target.byteLength));
    },
    close: () => range.source.close(),
    backing: {
      range,
      scatter(bytes) {
        const swapped = bytes.slice();
        reverseUnits(swapped, unitByteLength);
        return [{ source: range.source, offset: range.offset, bytes: swapped }];
      },
    },
  };
  return source;
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

function reverseUnits(bytes: Uint8Array, unitByteLength: 2 | 4 | 8): void {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (unitByteLength === 2) buffer.swap16();
  else if (unitByteLength === 4) buffer.swap32();
  else buffer.swap64();
}
