import { describe, expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { placeEdits, planPlainEdits } from '../../src/checkpoint/edit-plan.js';
import { holdBytes, memorySource, type PlacedContent, readRange } from '../../src/io/byte-source.js';
import { byteSwapped, stridedSource } from '../../src/io/views.js';
import { failureOf } from '../build/failure.js';

const source = memorySource(
  'm.bin',
  Uint8Array.from({ length: 64 }, (_, at) => at),
);

function bytesAt(name: string, offset: number, byteLength: number): Tensor {
  return {
    name,
    dtype: 'U8',
    shape: [byteLength],
    elementCount: byteLength,
    range: { source, offset, byteLength },
  };
}

const edit = (tensor: Tensor, ...bytes: readonly number[]) => ({
  tensor,
  content: holdBytes(Uint8Array.from(bytes)),
  preferredName: tensor.name,
});

const listed = (pieces: readonly PlacedContent[] = []) =>
  Promise.all(pieces.map(async ({ offset, content }) => [offset, ...(await readRange(content))]));

describe('placeEdits', () => {
  test('puts bytes where the tensors are, by offset', async () => {
    const placed = await placeEdits([edit(bytesAt('b', 8, 2), 1, 2), edit(bytesAt('a', 4, 1), 3)], []);
    expect(await listed(placed.get(source))).toEqual([
      [4, 3],
      [8, 1, 2],
    ]);
  });

  test('takes what two tensors say alike', async () => {
    const placed = await placeEdits(
      [edit(bytesAt('a', 4, 3), 1, 2, 3), edit(bytesAt('b', 5, 3), 2, 3, 4)],
      [],
    );
    expect(await listed(placed.get(source))).toEqual([
      [4, 1, 2, 3],
      [7, 4],
    ]);
  });

  test('refuses two tensors that say different things of one byte', async () => {
    const failure = await failureOf(() =>
      placeEdits([edit(bytesAt('a', 4, 2), 1, 2), edit(bytesAt('b', 5, 2), 3, 4)], []),
    );
    expect(failure.message).toContain('"b" cannot be restored: it shares its bytes with "a"');
  });

  test('refuses to change a tensor that is not edited, unless it would not change', async () => {
    const other = bytesAt('other', 6, 4);
    const failure = await failureOf(() => placeEdits([edit(bytesAt('a', 4, 3), 1, 2, 3)], [other]));
    expect(failure.message).toContain('shares its bytes with "other", which is not to be changed');
    expect(await placeEdits([edit(bytesAt('a', 4, 3), 1, 2, 6)], [other])).toBeDefined();
    expect(await placeEdits([edit(bytesAt('a', 4, 2), 1, 2)], [other])).toBeDefined();
  });

  test('looks at the elements of a strided neighbour, not at what lies between them', async () => {
    const range = { source, offset: 0, byteLength: 16 };
    const view = stridedSource(range, { shape: [4], strides: [4], firstElement: 0, elementByteLength: 1 });
    const other = { ...bytesAt('other', 0, 4), range: { source: view, offset: 0, byteLength: 4 } };
    expect(await placeEdits([edit(bytesAt('a', 5, 3), 1, 2, 3)], [other])).toBeDefined();
    const failure = await failureOf(() => placeEdits([edit(bytesAt('a', 4, 3), 1, 2, 3)], [other]));
    expect(failure.message).toContain('"other"');
  });

  test('sees through views: strided, byte-swapped, one over the other', async () => {
    const range = { source, offset: 8, byteLength: 8 };
    const strided = stridedSource(range, { shape: [2], strides: [2], firstElement: 0, elementByteLength: 2 });
    const swapped = byteSwapped({ source: strided, offset: 0, byteLength: 4 }, 2);
    const tensor = { ...bytesAt('a', 0, 4), range: swapped };
    const placed = await placeEdits([edit(tensor, 1, 2, 3, 4)], []);
    expect(await listed(placed.get(source))).toEqual([
      [8, 2, 1],
      [12, 4, 3],
    ]);
  });

  test('does not write out a neighbour that repeats a few bytes without end', async () => {
    const range = { source, offset: 4, byteLength: 1 };
    const view = { shape: [2 ** 40], strides: [0], firstElement: 0, elementByteLength: 1 };
    const repeated = stridedSource(range, view);
    const other = { ...bytesAt('other', 4, 1), range: { ...range, source: repeated, byteLength: 2 ** 40 } };
    const failure = await failureOf(() => placeEdits([edit(bytesAt('a', 4, 3), 1, 2, 3)], [other]));
    expect(failure).toMatchObject({ code: 'limit-exceeded', file: 'm.bin' });
  });

  test('refuses one element that is repeated and needs two values', async () => {
    const range = { source, offset: 0, byteLength: 1 };
    const view = stridedSource(range, { shape: [2], strides: [0], firstElement: 0, elementByteLength: 1 });
    const tensor = { ...bytesAt('a', 0, 2), range: { source: view, offset: 0, byteLength: 2 } };
    expect(await placeEdits([edit(tensor, 5, 5)], [])).toBeDefined();
    await failureOf(() => placeEdits([edit(tensor, 5, 6)], []));
  });
});

test('a checkpoint that is in no file cannot be copied', async () => {
  const failure = await failureOf(() => planPlainEdits([edit(bytesAt('a', 4, 1), 1)], [], [source]));
  expect(failure).toMatchObject({ code: 'unsupported', file: 'm.bin' });
});
