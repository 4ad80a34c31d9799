import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { memorySource } from '../../src/io/byte-source.js';
import { type StridedView, stridedSource } from '../../src/io/strided-source.js';
import { failureOf } from '../build/failure.js';
import { countingSource } from '../build/sources.js';

const whole = (bytes: Uint8Array) => ({
  source: memorySource('m', bytes),
  offset: 0,
  byteLength: bytes.length,
});

/** The view's bytes, gathered the plain way. */
function gatherPlainly(
  bytes: Uint8Array,
  { shape, strides, firstElement, elementByteLength }: StridedView,
): number[] {
  let offsets = [firstElement];
  shape.forEach((size, axis) => {
    offsets = offsets.flatMap((at) => Array.from({ length: size }, (_, i) => at + i * (strides[axis] ?? 0)));
  });
  return offsets.flatMap((at) => [...bytes.subarray(at * elementByteLength, (at + 1) * elementByteLength)]);
}

describe('a strided source', () => {
  test('gathers any view, read in any pieces', async () => {
    const axis = fc.record({ size: fc.integer({ min: 1, max: 5 }), stride: fc.integer({ min: 0, max: 7 }) });
    await fc.assert(
      fc.asyncProperty(
        fc.array(axis, { maxLength: 4 }),
        fc.constantFrom(1, 2, 4, 8),
        fc.nat(5),
        fc.nat(1000),
        fc.nat(1000),
        async (axes, elementByteLength, firstElement, from, length) => {
          const bytes = Uint8Array.from({ length: 1200 }, (_, i) => i % 253);
          const view = {
            shape: axes.map((a) => a.size),
            strides: axes.map((a) => a.stride),
            firstElement,
            elementByteLength,
          };
          const source = stridedSource(whole(bytes), view);
          const expected = gatherPlainly(bytes, view);
          expect(source.byteLength).toBe(expected.length);
          const start = from % expected.length;
          const target = new Uint8Array(length % (expected.length - start + 1));
          await source.readInto(target, start);
          expect([...target]).toEqual(expected.slice(start, start + target.length));
        },
      ),
    );
  });

  test('gathers a wide transposed matrix in few reads', async () => {
    const [rows, columns] = [700, 900];
    const matrix = Float32Array.from({ length: rows * columns }, (_, i) => i);
    const source = countingSource('m', new Uint8Array(matrix.buffer));
    const view = { shape: [columns, rows], strides: [1, columns], firstElement: 0, elementByteLength: 4 };
    const target = new Uint8Array(source.byteLength);
    await stridedSource({ source, offset: 0, byteLength: source.byteLength }, view).readInto(target, 0);
    const values = new Float32Array(target.buffer);
    expect([values[0], values[1], values[rows]]).toEqual([0, columns, 1]);
    expect(source.bytesRead).toBeLessThan(12 * source.byteLength);
  });

  test('refuses to read beyond its end', async () => {
    const view = { shape: [2], strides: [3], firstElement: 0, elementByteLength: 1 };
    const source = stridedSource(whole(new Uint8Array(4)), view);
    expect((await failureOf(() => source.readInto(new Uint8Array(3), 0))).code).toBe('truncated');
  });
});
